//! What is there after a restart, clean or not: values, deletes, expiry times, flush_all, CAS uniques.

use crate::support::{Client, Server, Store, eventually, value_of};
use nix::sys::signal::Signal;

/// Every way to end a server after which flushed records have to be there.
const ENDS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL];

/// A quick flush, so that tests need not wait.
const FLUSH: [&str; 2] = ["--flush-interval", "50ms"];

/// Ends `server` by `signal` once nothing waits in RAM, and starts the next one.
fn restarted(store: &Store, server: Server, signal: Signal) -> Server {
    server.client().wait_until_flushed();
    if signal == Signal::SIGKILL {
        server.kill();
    } else {
        server.stop(signal);
    }
    store.start()
}

/// Runs `before` on a new store, and `after` on what each way to end leaves.
fn over_every_end(before: impl Fn(&mut Client), after: impl Fn(&mut Client, Signal)) {
    for signal in ENDS {
        let store = Store::new(&FLUSH);
        let server = store.start();
        before(&mut server.client());
        let server = restarted(&store, server, signal);
        after(&mut server.client(), signal);
        server.terminate();
    }
}

/// Sizes around every boundary of pages and blocks.
fn sizes() -> impl Iterator<Item = usize> {
    let edges = [
        0, 1, 15, 16, 17, 100, 4000, 4056, 4068, 4069, 4095, 4096, 4097, 8191, 8192, 65_535, 65_536, 262_144, 1_000_000,
    ];
    edges.into_iter()
}

#[test]
fn values_of_every_size_and_their_flags_are_there() {
    over_every_end(
        |client| {
            for size in sizes() {
                client.set_with(&format!("size-{size}"), &value_of(&format!("{size}"), size), size as u32, 0);
            }
        },
        |client, signal| {
            for size in sizes() {
                let item =
                    client.gets(&format!("size-{size}")).unwrap_or_else(|| panic!("{size} bytes after {signal}"));
                assert!(item.value == value_of(&format!("{size}"), size), "{size} bytes are others after {signal}");
                assert_eq!(item.flags as usize, size);
            }
            assert_eq!(client.stat("curr_items"), sizes().count() as u64, "after {signal}");
        },
    );
}

#[test]
fn keys_of_every_length_are_there() {
    let key = |length: usize| "k".repeat(length);
    over_every_end(
        |client| (1..=250).for_each(|length| client.set(&key(length), &value_of(&key(length), length))),
        |client, signal| {
            for length in 1..=250 {
                assert_eq!(
                    client.get(&key(length)),
                    Some(value_of(&key(length), length)),
                    "length {length} after {signal}"
                );
            }
        },
    );
}

#[test]
fn the_last_of_many_versions_is_there() {
    over_every_end(
        |client| {
            for round in 0..20 {
                (0..100).for_each(|number| {
                    client.set(&format!("k{number}"), &value_of(&format!("{number} {round}"), 3000));
                });
            }
        },
        |client, signal| {
            for number in 0..100 {
                let value = client.get(&format!("k{number}"));
                assert_eq!(value, Some(value_of(&format!("{number} 19"), 3000)), "k{number} after {signal}");
            }
        },
    );
}

#[test]
fn what_was_deleted_stays_deleted() {
    over_every_end(
        |client| {
            (0..200).for_each(|number| client.set(&format!("k{number}"), &value_of("x", 5000)));
            client.wait_until_flushed();
            for number in (0..200).step_by(2) {
                assert_eq!(client.ask(&format!("delete k{number}")), "DELETED");
            }
        },
        |client, signal| {
            for number in 0..200 {
                assert_eq!(client.get(&format!("k{number}")).is_some(), number % 2 == 1, "k{number} after {signal}");
            }
            assert_eq!(client.stat("curr_items"), 100, "after {signal}");
        },
    );
}

#[test]
fn what_was_deleted_and_set_again_is_the_new_one() {
    over_every_end(
        |client| {
            client.set("k", b"old");
            client.wait_until_flushed();
            client.ask("delete k");
            client.wait_until_flushed();
            client.set("k", b"new");
        },
        |client, signal| assert_eq!(client.get("k").as_deref(), Some(&b"new"[..]), "after {signal}"),
    );
}

#[test]
fn an_item_that_expired_does_not_come_back() {
    over_every_end(
        |client| {
            client.set_with("dead", b"x", 0, -1);
            client.set_with("dying", b"x", 0, 2);
            client.set_with("alive", b"x", 0, 1000);
            client.set("dying-again", b"older value without an end");
            client.wait_until_flushed();
            client.set_with("dying-again", b"x", 0, 2);
        },
        |client, signal| {
            assert_eq!(client.get("dead"), None, "after {signal}");
            eventually("two seconds pass", || client.get("dying").is_none().then_some(()));
            eventually("two seconds pass", || client.get("dying-again").is_none().then_some(()));
            assert_eq!(client.get("alive").as_deref(), Some(&b"x"[..]), "after {signal}");
        },
    );
}

#[test]
fn what_expired_while_the_server_was_down_is_gone() {
    let store = Store::new(&FLUSH);
    let server = store.start();
    server.client().set_with("k", b"x", 0, 1);
    server.terminate();
    let begun = std::time::SystemTime::now();
    eventually("three seconds pass", || (begun.elapsed().ok()?.as_secs() >= 3).then_some(()));
    let server = store.start();
    assert_eq!(server.client().get("k"), None);
}

#[test]
fn a_touch_is_remembered() {
    over_every_end(
        |client| {
            for key in ["short", "longer", "shorter"] {
                client.set_with(key, key.as_bytes(), 7, if key == "shorter" { 0 } else { 3 });
            }
            client.wait_until_flushed();
            assert_eq!(client.ask("touch longer 1000"), "TOUCHED");
            assert_eq!(client.ask("touch shorter 3"), "TOUCHED");
        },
        |client, signal| {
            eventually("three seconds pass", || client.get("short").is_none().then_some(()));
            eventually("three seconds pass", || client.get("shorter").is_none().then_some(()));
            assert_eq!(client.get("longer").as_deref(), Some(&b"longer"[..]), "after {signal}");
        },
    );
}

#[test]
fn flush_all_holds() {
    over_every_end(
        |client| {
            (0..100).for_each(|number| client.set(&format!("k{number}"), &value_of("x", 5000)));
            client.wait_until_flushed();
            assert_eq!(client.ask("flush_all"), "OK");
            client.set("after", b"x");
        },
        |client, signal| {
            (0..100).for_each(|number| assert_eq!(client.get(&format!("k{number}")), None, "k{number} after {signal}"));
            assert_eq!(client.get("after").as_deref(), Some(&b"x"[..]), "after {signal}");
        },
    );
}

#[test]
fn a_delayed_flush_all_comes_even_after_a_restart() {
    over_every_end(
        |client| {
            client.set("k", b"x");
            assert_eq!(client.ask("flush_all 2"), "OK");
        },
        |client, _| {
            eventually("two seconds pass", || client.get("k").is_none().then_some(()));
            eventually("a set after that second stays", || {
                client.set("after", b"x");
                client.get("after")
            });
        },
    );
}

#[test]
fn append_prepend_and_incr_on_flushed_records_are_remembered() {
    over_every_end(
        |client| {
            client.set_with("text", b"middle", 5, 0);
            client.set("number", b"99");
            client.wait_until_flushed();
            assert_eq!(client.store("append", "text", b" end", 0, 0), "STORED");
            assert_eq!(client.store("prepend", "text", b"begin ", 0, 0), "STORED");
            assert_eq!(client.ask("incr number 1"), "100");
        },
        |client, signal| {
            let text = client.gets("text").expect("the text is there");
            assert_eq!((text.flags, text.value.as_slice()), (5, &b"begin middle end"[..]), "after {signal}");
            assert_eq!(client.ask("incr number 1"), "101", "after {signal}");
        },
    );
}

#[test]
fn cas_uniques_stay_and_are_never_given_twice() {
    for signal in ENDS {
        let store = Store::new(&FLUSH);
        let mut server = store.start();
        let mut seen = std::collections::HashSet::new();
        for round in 0..4 {
            let mut client = server.client();
            for number in 0..50 {
                client.set(&format!("k{number}"), format!("{round}").as_bytes());
                let unique = client.gets(&format!("k{number}")).expect("it was just stored").cas;
                assert!(seen.insert(unique), "unique {unique} was given twice, round {round}, {signal}");
            }
            let before: Vec<u64> =
                (0..50).map(|number| client.gets(&format!("k{number}")).expect("stored").cas).collect();
            // These never reach the disk when the server is killed; their uniques are burnt all the same.
            drop(client);
            server = restarted(&store, server, signal);
            let mut client = server.client();
            for (number, unique) in before.iter().enumerate() {
                assert_eq!(
                    client.gets(&format!("k{number}")).expect("it was flushed").cas,
                    *unique,
                    "k{number} after {signal}"
                );
            }
            let stale = client.ask(&format!("cas k0 0 0 1 {}\r\nx", before[1]));
            assert_eq!(stale, "EXISTS");
            assert_eq!(client.ask(&format!("cas k0 0 0 1 {}\r\nx", before[0])), "STORED");
            seen.insert(client.gets("k0").expect("just stored").cas);
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_a_value_that_was_set_and_nothing_else() {
    let store = Store::new(&FLUSH);
    for round in 0..8_usize {
        let server = store.start();
        let mut client = server.client();
        for number in 0..50 {
            let key = format!("k{number}");
            let found = client.get(&key);
            let known = (0..round).any(|old| found.as_ref() == Some(&value_of(&format!("{number} {old}"), 2000)));
            assert!(
                known || (found.is_none() && round == 0),
                "round {round}: {key} is {:?}",
                found.map(|value| value.len())
            );
        }
        if round == 0 {
            (0..50).for_each(|number| client.set(&format!("k{number}"), &value_of(&format!("{number} 0"), 2000)));
            client.wait_until_flushed();
        }
        let requests: Vec<u8> = (0..50)
            .flat_map(|number| {
                let mut request = format!("set k{number} 0 0 2000 noreply\r\n").into_bytes();
                request.extend(value_of(&format!("{number} {round}"), 2000));
                request.extend(b"\r\n");
                request
            })
            .collect();
        client.send(&requests);
        drop(client);
        server.kill();
    }
}

#[test]
fn a_store_restarted_many_times_neither_grows_nor_forgets() {
    let store = Store::new(&FLUSH);
    for round in 0..12 {
        let server = store.start();
        let mut client = server.client();
        for earlier in 0..round {
            assert_eq!(
                client.get(&format!("round-{earlier}")),
                Some(value_of(&format!("{earlier}"), 10_000)),
                "in round {round}"
            );
        }
        client.set(&format!("round-{round}"), &value_of(&format!("{round}"), 10_000));
        drop(client);
        if round % 3 == 2 {
            server.client().wait_until_flushed();
            server.kill();
        } else {
            server.terminate();
        }
        let count = crate::support::damage::tables(store.directory()).len();
        assert!(count <= 16, "64 MiB hold 16 tables of 4 MiB, not {count}");
    }
}

#[test]
fn everything_answered_before_a_sigterm_is_there_afterwards() {
    let store = Store::new(&["--flush-interval", "1h"]);
    let server = store.start();
    let mut client = server.client();
    let count = 2000;
    let mut requests = Vec::new();
    for number in 0..count {
        requests.extend_from_slice(format!("set k{number} 0 0 1000\r\n").as_bytes());
        requests.extend_from_slice(&value_of(&format!("{number}"), 1000));
        requests.extend_from_slice(b"\r\n");
    }
    client.send(&requests);
    assert_eq!(client.line(), "STORED");
    server.process_signal(Signal::SIGTERM);
    let answers = client.until_closed();
    let stored = 1 + answers.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"STORED")).count();
    server.wait_for_success();
    let server = store.start();
    let mut client = server.client();
    for number in 0..stored {
        let value = client.get(&format!("k{number}"));
        assert_eq!(value, Some(value_of(&format!("{number}"), 1000)), "k{number} of {stored} answered");
    }
}

#[test]
fn a_second_signal_ends_a_server_that_is_stopping() {
    let store = Store::new(&["-m", "128"]);
    let server = store.start();
    server.client().set("large", &value_of("large", 500_000));
    let mut deaf = server.client();
    for _ in 0..200 {
        deaf.send(b"get large\r\n");
    }
    server.process_signal(Signal::SIGTERM);
    server.process_signal(Signal::SIGINT);
    server.wait_for_end();
    let server = store.start();
    assert_eq!(server.client().stat("curr_connections"), 1, "the store opens again");
}

#[test]
fn no_new_connection_is_served_after_the_signal() {
    let store = Store::new(&[]);
    let server = store.start();
    let port = server.port();
    server.terminate();
    assert!(Client::try_connect(port).is_err(), "nothing listens after the exit");
}

#[test]
fn a_smaller_memory_budget_and_larger_capacity_still_find_everything() {
    let store = Store::new(&["-m", "64"]);
    let server = store.start();
    let mut client = server.client();
    (0..500).for_each(|number| client.set(&format!("k{number}"), &value_of(&format!("{number}"), 2000)));
    drop(client);
    server.terminate();
    let store = store.with_flags(&["-m", "32", "--capacity", "96m"]);
    let server = store.start();
    let mut client = server.client();
    for number in 0..500 {
        assert_eq!(client.get(&format!("k{number}")), Some(value_of(&format!("{number}"), 2000)));
    }
}
