//! `dmacached dump` and `load`: what is dumped is what was stored, a load gives it back, and memcached understands it.

use crate::support::damage::{files, find, flip};
use crate::support::{Client, PROGRAM, Reference, Server, Store, eventually, scratch_directory, skip, value_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(subcommand: &str, directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg(subcommand).arg("--data-dir").arg(directory).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("it was piped");
    let input = input.to_vec();
    // What is not read to its end is no error here: the status tells.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer ends");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The stream of a store; the program must succeed.
fn dump(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let Output { status, stdout, stderr } = run("dump", directory, arguments, b"");
    assert_eq!(status.code(), Some(0), "{}", text(&stderr));
    stdout
}

/// Loads `stream` to `directory`, expects the exit status, and gives what was said.
fn load(directory: &Path, status: i32, arguments: &[&str], stream: &[u8]) -> String {
    let output = run("load", directory, arguments, stream);
    assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// The records of a stream, each with all its lines, in the order of their bytes; and that it ends.
fn records(stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut records, mut rest): (Vec<Vec<u8>>, _) = (Vec::new(), stream);
    loop {
        let line_size = rest.iter().position(|byte| *byte == b'\n').expect("a line ends") + 1;
        let line = text(&rest[..line_size]);
        let words: Vec<&str> = line.split_whitespace().collect();
        let value_size = match words[0] {
            "mn" => break,
            "ms" => words[2].parse::<usize>().expect("a size") + 2,
            _ => 0,
        };
        let (record, behind) = rest.split_at(line_size + value_size);
        match words[0] {
            "ms" => records.push(record.to_vec()),
            _ => records.last_mut().expect("a record before").extend_from_slice(record),
        }
        rest = behind;
    }
    assert_eq!(text(rest), "mn\r\n", "nothing follows");
    records.sort();
    records
}

const FLAGS: [&str; 6] = ["-m", "64", "-I", "8m", "--table-size", "16m"];

/// Fills a server with all that a record can be, and gives the number of live records.
fn fill(server: &Server) -> usize {
    let mut client = server.client();
    let long_key = "k".repeat(250);
    client.set_with(&long_key, b"a long key", u32::MAX, 0);
    client.set_with("expires", b"in a week", 7, 7 * 86400);
    client.set_with("expired", b"at once", 0, -1);
    client.set("deleted", b"x");
    assert_eq!(client.ask("delete deleted"), "DELETED");
    client.set("empty", b"");
    client.set("binary", &(0..=255).collect::<Vec<u8>>());
    client.set("lines", b"mn\r\nms a 1\r\nEND\r\n");
    client.set("large", &value_of("large", 5 << 20));
    assert_eq!(client.ask("ms YSBi 1 b F3\r\n1"), "HD");
    assert_eq!(client.ask("ms own 1 E123456789\r\n2"), "HD");
    assert_eq!(client.ask("ms stale 1 T1000000\r\n3"), "HD");
    assert_eq!(client.ask("md stale I E55"), "HD");
    client.set("touched", b"t");
    assert_eq!(client.ask("touch touched 500000"), "TOUCHED");
    for number in 0..2000 {
        let key = format!("key-{number}");
        client.set_with(&key, &value_of(&key, 100 + number), number as u32, 0);
    }
    10 + 2000
}

#[test]
fn what_is_dumped_and_loaded_is_the_same() {
    let store = Store::new(&["-I", "8m", "--table-size", "16m", "--capacity", "128m"]);
    let server = store.start();
    let count = fill(&server);
    server.terminate();
    let before = files(store.directory());
    let stream = dump(store.directory(), &["-q"]);
    assert!(files(store.directory()) == before, "the dump has changed something");
    assert_eq!(records(&stream).len(), count);

    let scratch = scratch_directory();
    let copy = scratch.path().join("copy");
    let said = load(&copy, 0, &[&FLAGS[..], &["--capacity", "128m"]].concat(), &stream);
    assert!(said.contains(&format!("loaded {count} records")), "{said}");
    assert_eq!(records(&dump(&copy, &[])), records(&stream));
    // In files, too, and to a store that has other values.
    let file = scratch.path().join("file");
    let path = file.to_str().expect("scratch paths are UTF-8");
    assert_eq!(dump(store.directory(), &[path]), b"");
    assert!(std::fs::read(&file).expect("written") == stream && !scratch.path().join("file.part").exists());
    load(&copy, 0, &["-I", "8m"], b"ms key-7 3\r\nold\r\nms expires 3\r\nold\r\nmn\r\n");
    load(&copy, 0, &["-I", "8m", path], b"");
    assert_eq!(records(&dump(&copy, &[])), records(&stream));

    let server = Store::at(&copy, &["-I", "8m", "--table-size", "16m", "--capacity", "128m"]).start();
    let mut client = server.client();
    assert_eq!(client.gets("own").map(|item| item.cas), Some(123_456_789));
    assert_eq!(client.gets(&"k".repeat(250)).map(|item| item.flags), Some(u32::MAX));
    assert_eq!(client.get("large"), Some(value_of("large", 5 << 20)));
    assert_eq!(client.ask("mg YSBi b k f"), "HD kYSBi b f3");
    assert_eq!(client.ask("mg stale c"), "HD c55 X W");
    assert_eq!((client.get("expired"), client.get("deleted")), (None, None));
    assert!(client.ask("me expires").contains("exp="));
    // What is written now has a CAS unique that none of the loaded records had.
    client.set("new", b"v");
    let loaded = client.gets("key-1999").map(|item| item.cas);
    assert!(client.gets("new").map(|item| item.cas) > loaded);
}

#[test]
fn a_killed_store_is_dumped_as_it_would_start() {
    let store = Store::new(&["--flush-interval", "10ms"]);
    let server = store.start();
    let mut client = server.client();
    (0..100).for_each(|number| client.set(&format!("key-{number}"), b"v"));
    assert_eq!(client.ask("flush_all 1000"), "OK");
    client.wait_until_flushed();
    server.kill();
    let before = files(store.directory());
    let stream = dump(store.directory(), &[]);
    assert!(files(store.directory()) == before, "the dump has changed something");
    let records = records(&stream);
    // The delayed flush is in the expiry of each.
    assert!(records.len() == 100 && records.iter().all(|record| text(record).contains(" T")), "{}", text(&stream));
}

/// Sends a stream to a server, which must answer nothing but the end of it.
fn send(client: &mut Client, stream: &[u8]) {
    client.send(stream);
    assert_eq!(client.line(), "MN");
}

#[test]
fn memcached_understands_a_dump() {
    let Some(reference) = Reference::start(&["-I", "8m", "-m", "256"]) else {
        return skip("memcached_understands_a_dump", "memcached is not installed");
    };
    let store = Store::new(&["-I", "8m", "--table-size", "16m", "--capacity", "128m"]);
    let server = store.start();
    fill(&server);
    server.terminate();
    let mut theirs = reference.client();
    send(&mut theirs, &dump(store.directory(), &["--no-cas"]));
    let server = store.start();
    let mut ours = server.client();
    let mut keys: Vec<String> = (0..2000).step_by(7).map(|number| format!("key-{number}")).collect();
    keys.extend(["expires", "empty", "binary", "lines", "large", "touched", "stale", "own"].map(str::to_owned));
    keys.push("k".repeat(250));
    for key in keys {
        let ask = |client: &mut Client| {
            client.send(format!("mg {key} t f s v\r\n").as_bytes());
            let line = client.line();
            let size = line.split(' ').nth(1).expect("a size").parse::<usize>().expect("a number");
            (line, client.exactly(size + 2))
        };
        let ((our_line, our_value), (their_line, their_value)) = (ask(&mut ours), ask(&mut theirs));
        assert!(our_value == their_value, "{key}");
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
        for (our_word, their_word) in words(&our_line).iter().zip(&words(&their_line)) {
            // A second may have passed between the two.
            let left = |word: &str| word.strip_prefix('t').and_then(|left| left.parse::<i64>().ok());
            match (left(our_word), left(their_word)) {
                (Some(our), Some(their)) => assert!((our - their).abs() < 100, "{our_line} {their_line}"),
                _ => assert_eq!(our_word, their_word, "{our_line} {their_line}"),
            }
        }
    }
    assert_eq!(theirs.ask("mg YSBi b k f"), "HD kYSBi b f3");
    assert_eq!((theirs.get("expired"), theirs.get("deleted")), (None, None));
    // The same stream, with its CAS uniques, to a server of ours.
    let (other, source) = (Store::new(&["-I", "8m", "--table-size", "16m", "--capacity", "128m"]), store);
    server.terminate();
    let other_server = other.start();
    send(&mut other_server.client(), &dump(source.directory(), &[]));
    other_server.terminate();
    assert_eq!(records(&dump(other.directory(), &[])), records(&dump(source.directory(), &[])));
}

#[test]
fn damaged_records_are_left_out_and_told() {
    let store = Store::new(&[]);
    let server = store.start();
    let mut client = server.client();
    (0..500).for_each(|number| client.set(&format!("key-{number}"), &value_of(&format!("key-{number}"), 2000)));
    server.terminate();
    let (path, offset) = find(store.directory(), &value_of("key-77", 2000)[..64]);
    flip(&path, offset + 500);
    let Output { status, stdout, stderr } = run("dump", store.directory(), &[], b"");
    assert_eq!(status.code(), Some(1));
    assert!(text(&stderr).contains("1 damaged records are left out"), "{}", text(&stderr));
    let records = records(&stdout);
    assert!(records.len() == 499 && !records.iter().any(|record| record.starts_with(b"ms key-77 ")));
}

#[test]
fn what_cannot_be_loaded_is_told_with_its_place() {
    let scratch = scratch_directory();
    let path = |name: &str| scratch.path().join(name);
    let sizes = ["--table-size", "1m", "--capacity", "4m", "-I", "64k", "-m", "16"];
    let a = b"ms a 1 F5\r\n1\r\n";

    let cut = load(&path("cut"), 1, &sizes, a);
    assert!(
        cut.contains("at byte 14, behind 1 records: the stream was cut short") && cut.contains("loaded 1"),
        "{cut}"
    );
    assert_eq!(text(&records(&dump(&path("cut"), &["--no-cas"])).concat()), "ms a 1 q F5\r\n1\r\n");

    let bad = load(&path("bad"), 1, &sizes, &[a, &b"set b 0 0 1\r\n1\r\nmn\r\n"[..]].concat());
    assert!(bad.contains("at byte 14, behind 1 records: \"set\" is no command"), "{bad}");

    let value = load(&path("value"), 1, &sizes, &[a, &b"ms b 1\r\n22\r\nmn\r\n"[..]].concat());
    assert!(value.contains("at byte 14") && value.contains("not followed by a line's end"), "{value}");

    let large = [&b"ms large 100000\r\n"[..], &[b'x'; 100_000], b"\r\n", a, b"ms gone 1 T-1\r\n1\r\nmn\r\n"].concat();
    let large = load(&path("large"), 1, &sizes, &large);
    assert!(large.contains("1 records are larger than -I 65536") && large.contains("record 1, at byte 0"), "{large}");
    assert!(large.contains("loaded 1 records") && large.contains("1 had expired"), "{large}");

    // That it is stale is said of the record that is left out, and not of the one that was there before.
    load(&path("stale"), 0, &sizes, b"ms large 1 E7\r\n1\r\nmn\r\n");
    let stale = [&b"ms large 100000 E8\r\n"[..], &[b'x'; 100_000], b"\r\nmd large q I E8\r\nmn\r\n"].concat();
    load(&path("stale"), 1, &sizes, &stale);
    assert_eq!(text(&records(&dump(&path("stale"), &[])).concat()), "ms large 1 q E7\r\n1\r\n");

    let many: Vec<u8> = (0..200)
        .flat_map(|number| [format!("ms key-{number} 60000\r\n").as_bytes(), &[b'v'; 60_000], b"\r\n"].concat())
        .collect();
    let full = load(&path("full"), 1, &sizes, &many);
    assert!(full.contains("the store is full: raise --capacity"), "{full}");
    let kept = records(&dump(&path("full"), &[])).len();
    assert!(kept > 20 && full.contains(&format!("loaded {kept} records")), "{kept}: {full}");

    let missing = load(&path("none"), 1, &["/nonexistent/stream"], b"");
    assert!(missing.contains("cannot read /nonexistent/stream") && !path("none").exists(), "{missing}");
    load(&path("flags"), 2, &["--table-size", "3m"], b"");
    load(&path("flags"), 2, &["--no-such-flag"], b"");
}

#[test]
fn a_store_in_use_or_none_at_all_is_refused() {
    let store = Store::new(&[]);
    let server = store.start();
    let dumped = run("dump", store.directory(), &[], b"");
    assert_eq!((dumped.status.code(), dumped.stdout), (Some(3), Vec::new()));
    assert!(text(&dumped.stderr).contains("is in use"), "{}", text(&dumped.stderr));
    assert!(load(store.directory(), 3, &[], b"mn\r\n").contains("is in use"));
    server.terminate();
    let empty = scratch_directory();
    let dumped = run("dump", empty.path(), &[], b"");
    assert!(dumped.status.code() == Some(3) && text(&dumped.stderr).contains("not a dmacached data directory"));
    // A dump that cannot be written is no dump.
    let dumped = run("dump", store.directory(), &["/nonexistent/file"], b"");
    assert_eq!(dumped.status.code(), Some(1));
}

#[test]
fn a_signal_ends_a_load_in_order() {
    let scratch = scratch_directory();
    let directory = scratch.path().join("data");
    let mut command = Command::new(PROGRAM);
    command.args(["load", "--capacity", "64m", "--data-dir"]).arg(&directory).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("it was piped");
    pipe.write_all(b"ms a 9\r\nloaded-a-\r\nms b 1\r\n").expect("it reads");
    let first = directory.join("shard-0000/table-000000.dmt");
    let is_there = |bytes: Vec<u8>| bytes.windows(9).take(3 * 4096).any(|window| window == b"loaded-a-");
    eventually("the record is on disk", || std::fs::read(&first).is_ok_and(is_there).then_some(()));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("small")), Signal::SIGINT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    drop(pipe);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("stopped by a signal") && said.contains("loaded 1 records"), "{said}");
    assert_eq!(text(&records(&dump(&directory, &["--no-cas"])).concat()), "ms a 9 q\r\nloaded-a-\r\n");
}
