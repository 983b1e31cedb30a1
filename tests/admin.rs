//! Commands about the server rather than about a record.

use crate::support::{Client, Reference, Store, value_of};
use std::time::Duration;

#[test]
fn after_debugflush_every_get_reads_the_disk() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    for _ in 0..3 {
        let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
        keys.iter().for_each(|key| client.set(key, &value_of(key, 500)));
        assert_eq!(client.ask("debugflush"), "OK");
        let before = client.stat("disk_reads");
        assert!(keys.iter().all(|key| client.has_intact(key, 500)));
        assert_eq!(client.stat("disk_reads") - before, 200, "one read each");
    }
}

#[test]
fn debugflush_in_a_pipeline_has_its_place() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    let answers =
        client.exchange(b"set a 0 0 1\r\nx\r\ndebugflush\r\nget a\r\nset a 0 0 1\r\ny\r\ndebugflush\r\nget a\r\n");
    let wanted = "STORED\r\nOK\r\nVALUE a 0 1\r\nx\r\nEND\r\nSTORED\r\nOK\r\nVALUE a 0 1\r\ny\r\nEND\r\n";
    assert_eq!(String::from_utf8_lossy(&answers), wanted);
    assert_eq!(client.stat("get_extstore"), 2);
}

#[test]
fn debugtime_moves_what_records_expire_by() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    assert_eq!(client.ask("debugtime p"), "OK");
    client.set_with("short", b"v", 0, 100);
    client.set_with("long", b"v", 0, 1000);
    client.set_with("ever", b"v", 0, 0);
    let there = |client: &mut Client| ["short", "long", "ever"].map(|key| client.get(key).is_some());
    let time = client.stat("time");
    for (command, seconds, is_there) in [
        ("debugtime 99", 99, [true, true, true]),
        ("debugtime +1", 100, [false, true, true]),
        ("debugtime 899", 999, [false, true, true]),
        ("debugtime 1", 1000, [false, false, true]),
    ] {
        assert_eq!(client.ask(command), "OK");
        assert_eq!(there(&mut client), is_there, "{seconds} seconds later");
        assert_eq!(client.stat("time") - time, seconds);
    }
    assert_eq!(client.ask("debugtime -1000"), "OK");
    assert_eq!(client.stat("time"), time);
    assert_eq!(client.ask("debugtime r"), "OK");
    assert_eq!(client.ask("debugtime"), "ERROR");
    assert_eq!(client.ask("debugtime soon"), "ERROR");
}

#[test]
fn without_their_flag_debugging_commands_are_none() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    for command in ["debugtime p", "debugtime 1", "debugflush", "misbehave"] {
        assert_eq!(client.ask(command), "ERROR", "{command}");
    }
}

#[test]
fn shutdown_ends_the_server_in_order() {
    let store = Store::new(&["-A"]);
    for request in ["shutdown\r\n", "get other\r\nshutdown graceful\r\nversion\r\n"] {
        let server = store.start();
        let mut client = server.client();
        assert_eq!(client.ask("shutdown noreply"), "CLIENT_ERROR invalid shutdown mode");
        assert_eq!(client.ask("shutdown graceful now"), "CLIENT_ERROR invalid shutdown mode");
        client.set("key", request.as_bytes());
        client.send(request.as_bytes());
        let rest = client.until_closed();
        assert!(!rest.windows(7).any(|window| window == b"VERSION"), "nothing is answered after it");
        server.wait_for_success();
        // Nothing was lost: what a second before was only in memory is there.
        let server = store.start();
        assert_eq!(server.client().get("key").as_deref(), Some(request.as_bytes()));
        server.terminate();
    }
}

#[test]
fn shutdown_has_to_be_allowed() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    for request in ["shutdown", "shutdown graceful", "shutdown now"] {
        assert_eq!(client.ask(request), "ERROR: shutdown not enabled");
    }
}

/// Requests that tune memcached, with what both servers have to say.
const TUNING: &str = "slabs|slabs reassign|slabs reassign 1|slabs reassign 1 2|slabs reassign 1 1|slabs reassign 0 1|\
    slabs reassign -1 1|slabs reassign 1 99|slabs reassign 99 99|slabs reassign a b|slabs reassign 1 2 3|slabs automove|\
    slabs reassign 1 2 noreply|slabs automove 0|slabs automove 2|slabs automove 3|slabs automove x|slabs automove -1|\
    slabs automove ratio 0.5|slabs automove ratio|slabs automove ratio x|slabs automove 0 1 2|slabs foo bar|lru|lru tune|\
    lru tune 10 25 0.1 2.0|lru tune 50 50 0.1 2.0|lru tune 10 25 0 2.0|lru tune 10 25 a b|lru tune a b 0.1 2|\
    lru tune 10 25 0.1|lru mode|lru mode flat|lru mode segmented|lru mode foo|lru mode flat a b|lru temp_ttl|\
    lru temp_ttl 60|lru temp_ttl -1|lru temp_ttl a|lru foo|lru foo 1|lru_crawler|lru_crawler enable|lru_crawler enable x|\
    lru_crawler disable|lru_crawler disable|lru_crawler crawl all|lru_crawler metadump all|lru_crawler enable noreply|\
    lru_crawler enable|lru_crawler enable|lru_crawler sleep|lru_crawler sleep 100|lru_crawler sleep 1000000|\
    lru_crawler sleep 1000001|lru_crawler sleep x|lru_crawler sleep -1|lru_crawler tocrawl|lru_crawler tocrawl 10|\
    lru_crawler tocrawl x|lru_crawler crawl|lru_crawler crawl x|lru_crawler crawl 0|lru_crawler crawl 64|\
    lru_crawler crawl ,|lru_crawler crawl 1 2|lru_crawler foo|lru_crawler foo bar|lru_crawler metadump|\
    lru_crawler metadump x|lru_crawler metadump 99|lru_crawler metadump 1 2|lru_crawler metadump all noreply|\
    stats cachedump|stats cachedump 1|stats cachedump 1 x|stats cachedump x 1|stats cachedump 64 1|stats cachedump 5 0|\
    stats cachedump -1 10|watch foo|watch fetchers foo|misbehave|misbehave x|refresh_certs|refresh_certs x|debugtime|\
    debugtime p|debugflush|extstore|extstore x|cache_memlimit|cache_memlimit 4|cache_memlimit 0|cache_memlimit abc|\
    cache_memlimit -1|cache_memlimit 64 a b|cache_memlimit 2000000000|verbosity|verbosity 1|verbosity x|verbosity 1 2 3|\
    shutdown|shutdown x";

#[test]
fn tuning_is_answered_as_memcached_does() {
    let Some(reference) = Reference::start(&[]) else { return };
    let server = Store::new(&[]).start();
    let (mut ours, mut theirs) = (server.client(), reference.client());
    for request in TUNING.split('|') {
        let request = format!("{request}\r\n");
        let mut ask = || {
            [&mut ours, &mut theirs].map(|client| {
                let answer = client.exchange(request.as_bytes());
                String::from_utf8_lossy(&answer).into_owned()
            })
        };
        let mut answers = ask();
        // As long as memcached's crawler has not taken notice that it is to stop.
        for _ in 0..50 {
            if !answers[1].contains("unknown error") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            answers = ask();
        }
        assert_eq!(answers[0], answers[1], "{request}");
    }
    // Without an answer where memcached gives none.
    for request in
        ["slabs automove 0", "slabs automove x", "lru mode flat", "lru foo 1", "cache_memlimit abc", "verbosity 1"]
    {
        let request = format!("{request} noreply\r\n");
        assert!(ours.exchange(request.as_bytes()).is_empty(), "{request}");
        assert!(theirs.exchange(request.as_bytes()).is_empty(), "{request}");
    }
}
