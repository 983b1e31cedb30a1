//! `dmabench index` as a user runs it, with few keys: what it prints, what it draws, and whether that can be true.

use std::process::Command;

fn dmabench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dmabench")).arg("index").args(arguments).output();
    let output = output.expect("dmabench was built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{errors}", output.status);
    assert_eq!(errors, "", "progress is for terminals");
    String::from_utf8(output.stdout).expect("ASCII")
}

/// The cells of the first row that begins with `name`, behind a line that begins with `heading`.
fn row<'a>(report: &'a str, heading: &str, name: &str) -> Vec<&'a str> {
    let behind = report.lines().skip_while(|line| !line.starts_with(heading));
    let rows = behind.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let found = rows.find(|cells| cells[0] == name);
    found.map_or_else(|| panic!("no row {name} below {heading} in:\n{report}"), |cells| cells[1..].to_vec())
}

fn number(cell: &str) -> f64 {
    let number = cell.split(' ').next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("\"{cell}\" does not begin with a number"))
}

#[test]
fn memory_per_key_and_single_inserts_are_plausible() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let (svg, csv) = (directory.path().join("memory.svg"), directory.path().join("memory.csv"));
    let files = [svg.to_str().expect("ASCII"), csv.to_str().expect("ASCII")];
    let report = dmabench(&["grow", "--keys", "400k", "--svg", files[0], "--csv", files[1]]);

    for (name, least, most) in
        [("full", 20.0, 60.0), ("dense", 15.0, 50.0), ("hashbrown", 31.0, 130.0), ("btree", 30.0, 130.0)]
    {
        let memory = row(&report, "### Bytes per key", name);
        let (mean, max, last, peak) = (number(memory[0]), number(memory[1]), number(memory[2]), number(memory[3]));
        // What is prepared ahead is much per key at the first sizes: the mean is not bounded from above.
        assert!((least..most).contains(&last) && mean >= least, "{name}: {report}");
        assert!(mean <= max && last <= max && max <= peak, "{name}: {report}");
        let times = row(&report, "### A single insert", name);
        let (p50, late, longest, every_time) = (number(times[0]), number(times[2]), number(times[3]), number(times[4]));
        assert!(0.0 < p50 && p50 <= late && late <= longest && longest < 1e6, "{name}: {report}");
        assert!(every_time <= longest * 1.01, "{name}: {report}");
    }
    let accounted = number(row(&report, "### Bytes per key", "full")[4]);
    assert!((20.0..60.0).contains(&accounted), "{report}");
    assert!(number(row(&report, "### A single insert", "(the clock alone)")[0]) > 0.0, "{report}");

    let samples = std::fs::read_to_string(csv).expect("it was asked for");
    assert_eq!(samples.lines().count(), 1 + 4 * 50, "{samples}");
    assert!(samples.starts_with("contender,keys,") && samples.contains("\nbtree,400000,"), "{samples}");
    let chart = std::fs::read_to_string(svg).expect("it was asked for");
    assert_eq!((chart.matches("<polyline").count(), chart.matches("</svg>").count()), (4, 1), "{chart}");
}

#[test]
fn every_operation_of_every_contender_is_timed_and_compared() {
    let report = dmabench(&["speed", "--keys", "30k", "--rounds", "2"]);
    for operation in [
        "insert, ns",
        "insert, the last 10 %, ns",
        "insert, CPU of all threads, ns",
        "get, present, ns",
        "get, present, each after the answer before, ns",
        "get, absent, ns",
        "get, present, batches of 16, ns per key",
        "get, absent, batches of 16, ns per key",
        "remove 2 %, ns",
    ] {
        let cells = row(&report, "| operation | full | dense | hashbrown | btree |", operation);
        assert_eq!(cells.len(), 4, "{report}");
        assert!(cells.iter().all(|cell| number(cell) < 100_000.0 && cell.contains('(')), "{operation}: {report}");
        assert!(number(cells[2]) == 0.0 || cells[2].ends_with(" x1.00"), "{operation}: {report}");
    }
    let rates = row(&report, "| operation", "build from sorted keys, million keys/s");
    assert!(number(rates[1]) > 0.01, "{report}");
}

#[test]
fn one_contender_is_enough() {
    let report = dmabench(&["speed", "--keys", "10k", "--rounds", "1", "--contender", "full"]);
    assert_eq!(row(&report, "| operation | full |", "get, present, ns").len(), 1, "{report}");
    assert!(!report.contains("hashbrown"), "{report}");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_dmabench"))
        .args(["index", "grow", "--keys", "1k", "--contender", "btree", "--svg", "/nowhere/memory.svg"])
        .output()
        .expect("dmabench was built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("dmabench: /nowhere/memory.svg: "), "{errors}");
}
