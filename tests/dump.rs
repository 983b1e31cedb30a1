//! Lists of all keys, of records that lie on disk and while others change them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Server, Store, eventually, value_of};

/// Records of the large store: most of them are in tables that were sealed long ago.
const COUNT: usize = 120_000;
const VALUE_SIZE: usize = 100;

fn key(number: usize) -> String {
    format!("key-{number:06}")
}

/// Stores records without waiting for each answer.
fn fill(client: &mut Client, numbers: impl Iterator<Item = usize>) {
    let mut batch = Vec::new();
    for number in numbers {
        let key = key(number);
        batch.extend_from_slice(format!("set {key} 0 0 {VALUE_SIZE} noreply\r\n").as_bytes());
        batch.extend_from_slice(&value_of(&key, VALUE_SIZE));
        batch.extend_from_slice(b"\r\n");
        if batch.len() > 32 * 1024 {
            client.send(&batch);
            batch.clear();
        }
    }
    client.send(&batch);
    assert_eq!(client.ask("mn"), "MN");
}

fn large_server() -> Server {
    large_server_with(&[])
}

fn large_server_with(flags: &[&str]) -> Server {
    let server = Store::new(&[&["-m", "64", "--debug-commands"], flags].concat()).start();
    fill(&mut server.client(), 0..COUNT);
    assert_eq!(server.client().ask("debugflush"), "OK");
    server
}

/// Asks for a list and gives its lines, without the one that ends it.
fn dump(client: &mut Client, command: &str, end: &str) -> Vec<String> {
    client.send(format!("{command}\r\n").as_bytes());
    let mut lines = Vec::new();
    loop {
        let line = client.any_line();
        if line == end {
            return lines;
        }
        lines.push(line);
    }
}

/// The words of a `metadump` line.
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').map(|word| word.split_once('=').unwrap_or_else(|| panic!("{word} in {line}"))).collect()
}

/// How often each key is listed.
fn keys(lines: &[String]) -> BTreeMap<&str, u32> {
    let mut keys = BTreeMap::new();
    for line in lines {
        *keys.entry(fields(line)["key"]).or_insert(0) += 1;
    }
    keys
}

#[test]
fn every_record_is_listed_once_with_what_is_known_of_it() {
    let server = large_server();
    let mut client = server.client();
    client.set_with("k%y+/", b"in memory", 5, 100);
    let lines = dump(&mut client, "lru_crawler metadump all", "END");
    let found = keys(&lines);
    assert_eq!(found.len(), COUNT + 1);
    assert!(found.values().all(|count| *count == 1), "nothing was changed meanwhile");
    assert!((0..COUNT).all(|number| found.contains_key(key(number).as_str())));
    let line = lines.iter().find(|line| line.starts_with("key=k%25y%2B%2F ")).expect("it is listed");
    let line = fields(line);
    let time = client.stat("time");
    let number = |name: &str| line[name].parse::<u64>().unwrap_or_else(|_| panic!("{name} in {line:?}"));
    assert!((time + 95..=time + 100).contains(&number("exp")), "{line:?}");
    assert!((time - 5..=time).contains(&number("la")), "{line:?}");
    assert_eq!((line["fetch"], line["cls"], line["size"], line["flags"]), ("no", "1", "77", "5"));
    assert_eq!(client.gets("k%y+/").map(|item| item.cas), Some(number("cas")));
    assert!(!line.contains_key("ext_page"));
    let line = fields(&lines[0]);
    assert_eq!((line["exp"], line["size"]), ("-1", "169"));
    assert!(line.contains_key("ext_page") && line.contains_key("ext_offset"), "{line:?}");
}

#[test]
fn the_list_of_requests_fetches_everything() {
    let server = Store::new(&["--debug-commands"]).start();
    let mut client = server.client();
    (0..500).for_each(|number| client.set(&key(number), b"v"));
    assert_eq!(client.ask("debugflush"), "OK");
    // A key of bytes that no text key has, in base64.
    client.send(b"ms AAEC/w== 2 b\r\nab\r\n");
    assert_eq!(client.line(), "HD");
    let lines = dump(&mut client, "lru_crawler mgdump all", "EN");
    assert_eq!(lines.len(), 501);
    assert!(lines.contains(&"mg AAEC/w== b".to_owned()));
    for line in lines {
        assert_eq!(client.ask(&line), "HD", "{line}");
    }
}

#[test]
fn what_is_there_all_the_time_is_listed_while_others_write() {
    // Nothing must be evicted, however fast the writer is.
    let server = large_server_with(&["--capacity", "1g"]);
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (mut client, is_done) = (server.client(), Arc::clone(&is_done));
        std::thread::spawn(move || {
            let mut round = 0;
            while !is_done.load(Ordering::Acquire) {
                round += 1;
                fill(&mut client, (0..200).map(|number| (number * 37 + round * 101) % 60_000));
                let number = 100_000 + round * 7 % 20_000;
                let answer = client.ask(&format!("delete {}", key(number)));
                assert!(answer == "DELETED" || answer == "NOT_FOUND", "{answer}");
            }
            round
        })
    };
    for _ in 0..3 {
        let lines = dump(&mut server.client(), "lru_crawler metadump all", "END");
        let found = keys(&lines);
        assert_eq!(server.client().stat("evictions"), 0, "all of it has room");
        for number in 0..100_000 {
            assert!(found.contains_key(key(number).as_str()), "{} was there all the time", key(number));
        }
    }
    is_done.store(true, Ordering::Release);
    assert!(writer.join().expect("the writer goes on") > 0);
}

#[test]
fn a_client_that_stops_reading_stops_only_its_own_list() {
    let mut server = large_server();
    let mut slow = server.client();
    slow.send(b"lru_crawler metadump all\r\n");
    // About ten megabytes are to come, of which sockets take some.
    let mut other = server.client();
    eventually("a second list is refused", || {
        (other.ask("lru_crawler mgdump all") == "BUSY currently processing crawler request").then_some(())
    });
    let memory = server.process().resident_size();
    for number in 0..2000 {
        assert!(other.has_intact(&key(number), VALUE_SIZE));
    }
    assert!(server.process().resident_size() < memory + 8 * 1024 * 1024, "the list waits for its client");
    assert_eq!(other.ask("lru_crawler crawl all"), "BUSY currently processing crawler request");
    // It goes on where it was.
    let mut lines = Vec::new();
    loop {
        let line = slow.any_line();
        if line == "END" {
            break;
        }
        lines.push(line);
    }
    assert_eq!(keys(&lines).len(), COUNT);
    assert!(slow.ask("version").starts_with("VERSION"));
    assert_eq!(dump(&mut other, "lru_crawler mgdump all", "EN").len(), COUNT);
}

#[test]
fn a_client_that_goes_takes_its_list_with_it() {
    let server = large_server();
    for _ in 0..3 {
        let mut client = server.client();
        client.send(b"lru_crawler metadump all\r\n");
        assert!(client.any_line().starts_with("key="));
        drop(client);
        let mut other = server.client();
        eventually("the list is given up", || {
            let answer = other.ask("lru_crawler crawl all");
            (answer == "OK").then_some(())
        });
    }
}

#[test]
fn a_server_stops_in_the_middle_of_a_list() {
    let server = large_server();
    let mut client = server.client();
    client.send(b"lru_crawler metadump all\r\n");
    assert!(client.any_line().starts_with("key="));
    server.terminate();
    let rest = client.until_closed();
    assert!(!rest.ends_with(b"END\r\n"), "it was not whole");
}

#[test]
fn lists_have_their_place_among_requests() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set("a", b"1");
    let answers = |client: &mut Client, request: &[u8]| String::from_utf8_lossy(&client.exchange(request)).into_owned();
    let refused = answers(&mut client, b"version\r\nlru_crawler metadump all\r\nlru_crawler mgdump all\r\n");
    let refusals = "ERROR cannot pipeline other commands before metadump\r\n\
        ERROR cannot pipeline other commands before mgdump\r\n";
    assert!(refused.ends_with(refusals), "{refused}");
    assert_eq!(
        answers(&mut client, b"lru_crawler mgdump all\r\nget a\r\n"),
        "mg a\r\nEN\r\nVALUE a 0 1\r\n1\r\nEND\r\n"
    );
    assert_eq!(answers(&mut client, b"lru_crawler mgdump 1,2\r\n"), "mg a\r\nEN\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler mgdump hash\r\n"), "mg a\r\nEN\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler mgdump 2\r\n"), "EN\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler metadump 2\r\n"), "END\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler metadump 0\r\n"), "BADCLASS invalid class id\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler metadump ,\r\n"), "NOTSTARTED no items to crawl\r\n");
    assert_eq!(answers(&mut client, b"lru_crawler metadump all x\r\n"), "ERROR\r\n");
    assert_eq!(client.ask("lru_crawler disable"), "OK");
    assert_eq!(client.ask("lru_crawler metadump all"), "CLIENT_ERROR lru crawler disabled");
    assert_eq!(client.ask("lru_crawler enable"), "OK");
    assert_eq!(answers(&mut client, b"lru_crawler mgdump all\r\n"), "mg a\r\nEN\r\n");
}

#[test]
fn cachedump_lists_as_many_as_it_is_asked_for() {
    let server = Store::new(&["--debug-commands"]).start();
    let mut client = server.client();
    (0..100).for_each(|number| client.set(&key(number), b"value"));
    assert_eq!(client.ask("debugflush"), "OK");
    client.set_with("last", b"v", 0, 100);
    let lines = dump(&mut client, "stats cachedump 1 0", "END");
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[0], "ITEM key-000000 [5 b; 0 s]");
    assert!(lines[100].starts_with("ITEM last [1 b; 1"), "{}", lines[100]);
    assert_eq!(dump(&mut client, "stats cachedump 1 7", "END").len(), 7);
    assert_eq!(dump(&mut client, "stats cachedump 2 7", "END").len(), 0);
    for (request, answer) in [
        ("stats cachedump", "CLIENT_ERROR bad command line"),
        ("stats cachedump 1", "CLIENT_ERROR bad command line"),
        ("stats cachedump 1 x", "CLIENT_ERROR bad command line format"),
        ("stats cachedump -1 1", "CLIENT_ERROR bad command line format"),
        ("stats cachedump 64 1", "CLIENT_ERROR Illegal slab id"),
    ] {
        assert_eq!(client.ask(request), answer, "{request}");
    }
    // It has its place in a pipeline.
    let answers = client.exchange(b"get last\r\nstats cachedump 1 1\r\nget last\r\n");
    let value = "VALUE last 0 1\r\nv\r\nEND\r\n";
    assert_eq!(String::from_utf8_lossy(&answers), format!("{value}ITEM key-000000 [5 b; 0 s]\r\nEND\r\n{value}"));
}

#[test]
fn where_dumping_is_disabled_no_key_is_listed() {
    let server = Store::new(&["-X"]).start();
    let mut client = server.client();
    client.set("secret", b"v");
    for (request, answer) in [
        ("lru_crawler metadump all", "ERROR metadump not allowed"),
        ("lru_crawler metadump x", "ERROR metadump not allowed"),
        ("lru_crawler mgdump all", "ERROR key dump not allowed"),
        ("stats cachedump 1 0", "CLIENT_ERROR stats cachedump not allowed"),
        ("stats cachedump", "CLIENT_ERROR stats cachedump not allowed"),
    ] {
        assert_eq!(client.ask(request), answer, "{request}");
    }
}
