//! The same loads against several running servers, in turn, many times; medians side by side.

use std::fmt::Write;

use crate::args::CompareArguments;
use crate::connection::Stream;
use crate::load::{self, Length, Outcome, Plan};
use crate::parse::{Shape, Target};
use crate::procstat;
use crate::report;
use crate::tally::Tally;

/// The request mixes that are compared, and their shares of gets.
const MIXES: [(&str, f64); 3] = [("get", 1.0), ("set", 0.0), ("10:1", 10.0 / 11.0)];

/// A shape and a connection count for filling, which is not measured.
const FILL_SHAPE: Shape = Shape { connection_count: 8, pipeline: 32 };

/// What one run found.
#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu_us: Option<f64>,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    is_client_limited: bool,
}

/// All runs of one target with one shape and mix.
type Cell = Vec<Sample>;

/// A figure that is tabled.
struct Metric {
    title: &'static str,
    decimals: usize,
    of: fn(&Sample) -> Option<f64>,
    /// Whether the client's own speed spoils it.
    is_spoilt_by_client: bool,
}

const METRICS: [Metric; 4] = [
    Metric { title: "Server CPU, us per request", decimals: 2, of: |sample| sample.cpu_us, is_spoilt_by_client: false },
    Metric { title: "Requests per second", decimals: 0, of: |sample| Some(sample.rate), is_spoilt_by_client: true },
    Metric { title: "Latency p50, us", decimals: 1, of: |sample| Some(sample.p50_us), is_spoilt_by_client: true },
    Metric { title: "Latency p99, us", decimals: 1, of: |sample| Some(sample.p99_us), is_spoilt_by_client: true },
];

/// What went wrong with a target over all its runs.
#[derive(Debug, Clone, Copy, Default)]
struct Doubts {
    hits: u64,
    misses: u64,
    errors: u64,
    wrong: u64,
    unsent: u64,
}

impl Doubts {
    fn add(&mut self, tally: &Tally) {
        self.hits += tally.hits;
        self.misses += tally.misses;
        self.errors += tally.errors;
        self.wrong += tally.wrong;
        self.unsent += tally.unsent;
    }
}

/// Runs a whole comparison and prints it.
///
/// # Errors
///
/// A sentence when there is one target only, a server breaks off, or a value is wrong.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(), String> {
    if arguments.targets.len() < 2 {
        return Err("a comparison needs two targets at least".to_owned());
    }
    let seed = arguments.common.seed();
    let versions = arguments.targets.iter().map(server_version).collect::<Result<Vec<_>, _>>()?;
    announce(arguments);
    for target in &arguments.targets {
        let plan = plan(arguments, target, FILL_SHAPE, seed);
        let (count, time) = load::fill(&plan).map_err(|error| format!("{}: {error}", target.name))?;
        eprintln!("{}: filled {count} keys in {:.1} s", target.name, time.as_secs_f64());
    }
    let mut doubts = vec![Doubts::default(); arguments.targets.len()];
    let mut rows = Vec::new();
    for &shape in &arguments.loads {
        for (mix, get_share) in MIXES {
            let cells = run_row(arguments, shape, (mix, get_share), seed, &mut doubts)?;
            rows.push((format!("{}x{}", shape.connection_count, shape.pipeline), mix, cells));
        }
    }
    if !arguments.common.json {
        print!("{}", head(arguments, &versions, seed));
        print!("{}", tables(arguments, &rows));
        print!("{}", doubts_table(arguments, &doubts));
    }
    match doubts.iter().map(|doubts| doubts.wrong).sum() {
        0u64 => Ok(()),
        wrong => Err(format!("{wrong} wrong values")),
    }
}

fn plan(arguments: &CompareArguments, target: &Target, shape: Shape, seed: u64) -> Plan {
    let mut plan = arguments.common.plan(target.address.clone(), shape, Length::Time(arguments.seconds), seed);
    plan.server_pid = target.pid;
    plan
}

fn announce(arguments: &CompareArguments) {
    let runs = arguments.targets.len() * arguments.rounds as usize * arguments.loads.len() * MIXES.len();
    let seconds = (arguments.seconds + arguments.common.warmup).as_secs_f64() * runs as f64;
    eprintln!("{runs} runs, about {:.1} min", seconds / 60.0);
}

/// All rounds of one shape and mix. Each round begins with another target, so that none always comes first.
fn run_row(
    arguments: &CompareArguments,
    shape: Shape,
    (mix, get_share): (&str, f64),
    seed: u64,
    doubts: &mut [Doubts],
) -> Result<Vec<Cell>, String> {
    let count = arguments.targets.len();
    let mut cells = vec![Cell::new(); count];
    for round in 0..arguments.rounds {
        for turn in 0..count {
            let index = (turn + round as usize) % count;
            let target = &arguments.targets[index];
            // All targets of a round are asked the same things.
            let mut plan = plan(arguments, target, shape, seed.wrapping_add(u64::from(round)));
            plan.workload.get_share = get_share;
            let outcome = load::run(&plan).map_err(|error| format!("{}: {error}", target.name))?;
            let sample = sample(&plan, &outcome);
            doubts[index].add(&outcome.tally);
            if arguments.common.json {
                let round = round.to_string();
                let extra = [("target", target.name.as_str()), ("mix", mix), ("round", round.as_str())];
                println!("{}", report::json(&plan, &outcome, &extra));
            }
            print_progress(target, shape, mix, &sample);
            cells[index].push(sample);
        }
    }
    Ok(cells)
}

fn sample(plan: &Plan, outcome: &Outcome) -> Sample {
    let latencies = outcome.tally.latencies();
    Sample {
        cpu_us: outcome.server_cpu_us(),
        rate: outcome.rate(),
        p50_us: latencies.percentile_us(50.0),
        p99_us: latencies.percentile_us(99.0),
        is_client_limited: report::is_client_limited(plan, outcome),
    }
}

fn print_progress(target: &Target, shape: Shape, mix: &str, sample: &Sample) {
    let cpu = sample.cpu_us.map_or_else(|| "-".to_owned(), |cpu_us| format!("{cpu_us:.2}"));
    eprintln!(
        "{}x{} {mix} {}: {cpu} us CPU/request, {:.0}/s, p50 {:.1} us, p99 {:.1} us",
        shape.connection_count, shape.pipeline, target.name, sample.rate, sample.p50_us, sample.p99_us
    );
}

/// What the server calls itself.
fn server_version(target: &Target) -> Result<String, String> {
    let failed = |error| format!("{}: {error}", target.name);
    let mut stream = Stream::connect(&target.address).map_err(failed)?;
    let mut answer = [0; 256];
    let size = stream.write(b"version\r\n").and_then(|_| stream.read(&mut answer));
    let size = size.map_err(|error| failed(error.to_string()))?;
    let line = answer[..size].trim_ascii();
    Ok(line.strip_prefix(b"VERSION ").unwrap_or(line).escape_ascii().to_string())
}

fn head(arguments: &CompareArguments, versions: &[String], seed: u64) -> String {
    let targets = arguments.targets.iter().zip(versions);
    let names: Vec<_> = targets.map(|(target, version)| format!("{} ({version})", target.name)).collect();
    let common = &arguments.common;
    let plan = plan(arguments, &arguments.targets[0], FILL_SHAPE, seed);
    format!(
        "{}; {}; {}. {} thread(s), {} key(s) per get. Medians of {} interleaved rounds of {} s after {} s warm-up \
         (lowest-highest), and the ratio to {}.\nHost: {}.\n",
        names.join(", "),
        report::describe_keys(&plan),
        report::describe_pace(&plan),
        common.threads,
        common.multiget,
        arguments.rounds,
        arguments.seconds.as_secs_f64(),
        common.warmup.as_secs_f64(),
        arguments.targets[0].name,
        procstat::host_line()
    )
}

fn tables(arguments: &CompareArguments, rows: &[(String, &str, Vec<Cell>)]) -> String {
    let mut text = String::new();
    let mut is_starred = false;
    for metric in &METRICS {
        let names: Vec<_> = arguments.targets.iter().map(|target| target.name.as_str()).collect();
        let rule = "|---:".repeat(names.len());
        write!(text, "\n### {}\n\n| load | mix | {} |\n|---|---{rule}|\n", metric.title, names.join(" | "))
            .expect("a String takes every write");
        for (shape, mix, cells) in rows {
            let columns: Vec<_> = cells.iter().map(|cell| column(metric, cell, &cells[0])).collect();
            is_starred |= columns.iter().any(|column| column.ends_with('*'));
            writeln!(text, "| {shape} | {mix} | {} |", columns.join(" | ")).expect("a String takes every write");
        }
    }
    if is_starred {
        text.push_str("\n`*` The client was the bottleneck in some round: the figure is its own, not the server's.\n");
    }
    text
}

/// The median of `cell`, its spread, and its ratio to that of `first`.
fn column(metric: &Metric, cell: &[Sample], first: &[Sample]) -> String {
    let values: Option<Vec<f64>> = cell.iter().map(metric.of).collect();
    let Some(values) = values.filter(|values| !values.is_empty()) else {
        return "-".to_owned();
    };
    let decimals = metric.decimals;
    let middle = median(&values);
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    let mut text = format!("{middle:.decimals$} ({lowest:.decimals$}-{highest:.decimals$})");
    let first: Option<Vec<f64>> = first.iter().map(metric.of).collect();
    if let Some(base) = first.map(|first| median(&first)).filter(|&base| base > 0.0) {
        write!(text, " x{:.2}", middle / base).expect("a String takes every write");
    }
    if metric.is_spoilt_by_client && cell.iter().any(|sample| sample.is_client_limited) {
        text.push_str(" *");
    }
    text
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

fn doubts_table(arguments: &CompareArguments, doubts: &[Doubts]) -> String {
    let mut text = "\n### Answers over all runs\n\n| target | hits | misses | errors | wrong values | never sent |\n\
        |---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (target, doubts) in arguments.targets.iter().zip(doubts) {
        let wrong = if arguments.common.verify { doubts.wrong.to_string() } else { "not checked".to_owned() };
        let Doubts { hits, misses, errors, unsent, .. } = doubts;
        writeln!(text, "| {} | {hits} | {misses} | {errors} | {wrong} | {unsent} |", target.name)
            .expect("a String takes every write");
    }
    if doubts.iter().any(|doubts| doubts.misses + doubts.errors > 0) {
        text.push_str("\nMisses and errors cost a server less than hits: do not compare these figures.\n");
    }
    if doubts.iter().any(|doubts| doubts.unsent > 0) {
        text.push_str("\nRequests that came due and were never sent are in no percentile: the rate is too high.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cpus: &[f64], is_client_limited: bool) -> Cell {
        let sample = |&cpu_us: &f64| Sample {
            cpu_us: Some(cpu_us),
            rate: 1e6 / cpu_us,
            p50_us: cpu_us * 10.0,
            p99_us: cpu_us * 20.0,
            is_client_limited,
        };
        cpus.iter().map(sample).collect()
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_column_has_median_spread_and_ratio() {
        let (first, second) = (cell(&[8.0, 9.0, 10.0], false), cell(&[6.0, 4.5, 5.0], true));
        assert_eq!(column(&METRICS[0], &first, &first), "9.00 (8.00-10.00) x1.00");
        assert_eq!(column(&METRICS[0], &second, &first), "5.00 (4.50-6.00) x0.56");
        assert_eq!(column(&METRICS[2], &second, &first), "50.0 (45.0-60.0) x0.56 *");
    }

    #[test]
    fn a_target_without_a_process_has_no_cpu_figures() {
        let mut unknown = cell(&[8.0], false);
        unknown[0].cpu_us = None;
        assert_eq!(column(&METRICS[0], &unknown, &unknown), "-");
        assert_eq!(column(&METRICS[0], &cell(&[8.0], false), &unknown), "8.00 (8.00-8.00)");
    }
}
