//! Semantic traps that a transcript does not show: commands on records that are on disk, time, CAS, counters,
//! concurrency.

use crate::support::{Client, Server, Store, eventually, value_of};

/// A server whose records of `fill` are on disk and not in RAM.
fn with_records_on_disk(fill: impl FnOnce(&mut Client)) -> (Store, Server) {
    let store = Store::new(&["--flush-interval", "50ms"]);
    let server = store.start();
    fill(&mut server.client());
    server.client().wait_until_flushed();
    server.terminate();
    let server = store.start();
    (store, server)
}

#[test]
fn incr_and_decr_work_on_a_record_on_disk() {
    let (_store, server) = with_records_on_disk(|client| {
        client.set_with("n", b"41", 9, 0);
        client.set("text", b"text");
        client.set("edge", b"18446744073709551615");
    });
    let mut client = server.client();
    assert_eq!(client.ask("incr n 1"), "42");
    assert_eq!(client.ask("decr n 40"), "2");
    let item = client.gets("n").expect("n is there");
    assert_eq!((item.flags, item.value.as_slice()), (9, &b"2 "[..]), "the value keeps its length, padded with a blank");
    assert_eq!(client.ask("incr text 1"), "CLIENT_ERROR cannot increment or decrement non-numeric value");
    assert_eq!(client.ask("incr edge 1"), "0", "incr wraps at 2^64");
    assert_eq!(client.ask("decr edge 1"), "0", "decr stops at 0");
}

#[test]
fn append_and_prepend_work_on_a_record_on_disk() {
    let (_store, server) = with_records_on_disk(|client| client.set_with("k", &value_of("k", 10_000), 3, 0));
    let mut client = server.client();
    assert_eq!(client.store("append", "k", b"tail", 8, 1), "STORED");
    assert_eq!(client.store("prepend", "k", b"head", 8, 1), "STORED");
    let item = client.gets("k").expect("k is there");
    assert_eq!(item.flags, 3, "append and prepend keep the flags");
    assert_eq!(item.value, [&b"head"[..], &value_of("k", 10_000), b"tail"].concat());
}

#[test]
fn append_keeps_the_time_to_live() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set_with("k", b"a", 0, 2);
    assert_eq!(client.store("append", "k", b"b", 0, 1000), "STORED");
    eventually("two seconds pass", || client.get("k").is_none().then_some(()));
}

#[test]
fn incr_keeps_the_time_to_live() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set_with("n", b"9", 0, 2);
    assert_eq!(client.ask("incr n 1"), "10");
    eventually("two seconds pass", || client.get("n").is_none().then_some(()));
}

#[test]
fn add_and_replace_see_records_on_disk() {
    let (_store, server) = with_records_on_disk(|client| client.set("k", b"old"));
    let mut client = server.client();
    assert_eq!(client.store("add", "k", b"new", 0, 0), "NOT_STORED");
    assert_eq!(client.get("k").as_deref(), Some(&b"old"[..]));
    assert_eq!(client.store("replace", "k", b"new", 0, 0), "STORED");
    assert_eq!(client.get("k").as_deref(), Some(&b"new"[..]));
    assert_eq!(client.ask("delete k"), "DELETED");
    assert_eq!(client.store("replace", "k", b"x", 0, 0), "NOT_STORED");
    assert_eq!(client.store("add", "k", b"again", 0, 0), "STORED");
    assert_eq!(client.get("k").as_deref(), Some(&b"again"[..]));
}

#[test]
fn add_succeeds_where_the_old_value_expired() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set_with("k", b"old", 0, 1);
    eventually("a second passes", || (client.store("add", "k", b"new", 0, 0) == "STORED").then_some(()));
    assert_eq!(client.get("k").as_deref(), Some(&b"new"[..]));
}

#[test]
fn cas_works_on_a_record_on_disk_and_changes_with_every_write() {
    let (_store, server) = with_records_on_disk(|client| client.set("k", b"1"));
    let mut client = server.client();
    let mut last = client.gets("k").expect("k is there").cas;
    for request in
        ["set k 0 0 1\r\n2", "append k 0 0 1\r\n3", "incr k 1", "replace k 0 0 1\r\n5", "prepend k 0 0 1\r\n1"]
    {
        client.ask(request);
        let unique = client.gets("k").expect("k is there").cas;
        assert_ne!(unique, last, "after {request}");
        assert_eq!(client.ask(&format!("cas k 0 0 1 {last}\r\n9")), "EXISTS", "after {request}");
        last = unique;
    }
    assert_eq!(client.ask("touch k 0"), "TOUCHED");
    assert_eq!(client.ask(&format!("cas k 0 0 1 {last}\r\n9")), "STORED", "a touch leaves the unique as it is");
    assert_eq!(client.ask("delete k"), "DELETED");
    assert_eq!(client.ask(&format!("cas k 0 0 1 {last}\r\n9")), "NOT_FOUND");
}

#[test]
fn only_one_of_many_clients_wins_each_cas() {
    let server = Store::new(&[]).start();
    server.client().set("counter", b"0");
    let port = server.port();
    let (threads, rounds) = (8, 50);
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                for _ in 0..rounds {
                    loop {
                        let item = client.gets("counter").expect("the counter is there");
                        let number: u32 = String::from_utf8_lossy(&item.value).parse().expect("a number");
                        let next = (number + 1).to_string();
                        let request = format!("cas counter 0 0 {} {}\r\n{next}", next.len(), item.cas);
                        if client.ask(&request) == "STORED" {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker does not panic"));
    assert_eq!(server.client().get("counter"), Some((threads * rounds).to_string().into_bytes()));
}

#[test]
fn concurrent_increments_of_a_record_on_disk_lose_nothing() {
    let (_store, server) =
        with_records_on_disk(|client| (0..20).for_each(|number| client.set(&format!("n{number}"), b"0")));
    let port = server.port();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                let requests: String = (0..20).map(|number| format!("incr n{number} 1\r\n")).collect();
                for _ in 0..25 {
                    client.send(requests.as_bytes());
                    (0..20).for_each(|_| assert!(client.line().parse::<u32>().is_ok()));
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker does not panic"));
    (0..20).for_each(|number| assert_eq!(server.client().get(&format!("n{number}")).as_deref(), Some(&b"200"[..])));
}

#[test]
fn a_pipeline_sees_its_own_writes_also_while_a_read_is_under_way() {
    let (_store, server) = with_records_on_disk(|client| client.set("k", b"old"));
    let mut client = server.client();
    client.send(b"get k\r\nset k 0 0 3\r\nnew\r\nget k\r\ndelete k\r\nget k\r\nadd k 0 0 4\r\nlast\r\nget k\r\n");
    let expected = "VALUE k 0 3\r\nold\r\nEND\r\nSTORED\r\n\
        VALUE k 0 3\r\nnew\r\nEND\r\nDELETED\r\nEND\r\nSTORED\r\nVALUE k 0 4\r\nlast\r\nEND\r\n";
    let answer = client.exactly(expected.len());
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

#[test]
fn a_value_being_sent_is_not_disturbed_by_its_replacement() {
    let (_store, server) = with_records_on_disk(|client| client.set("k", &value_of("old", 900_000)));
    let mut reader = server.client();
    (0..20).for_each(|_| reader.send(b"get k\r\n"));
    let mut writer = server.client();
    for round in 0..20 {
        writer.set("k", &value_of(&format!("new {round}"), 900_000));
    }
    let known: Vec<Vec<u8>> = std::iter::once("old".to_owned())
        .chain((0..20).map(|round| format!("new {round}")))
        .map(|key| value_of(&key, 900_000))
        .collect();
    for _ in 0..20 {
        assert_eq!(reader.line(), "VALUE k 0 900000");
        let value = reader.exactly(900_000);
        assert!(known.contains(&value), "a mixture of versions was sent");
        reader.exactly(7);
    }
}

#[test]
fn an_expired_item_is_gone_for_every_command() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    let answers = [
        ("get k", "END"),
        ("delete k", "NOT_FOUND"),
        ("touch k 0", "NOT_FOUND"),
        ("incr k 1", "NOT_FOUND"),
        ("replace k 0 0 1\r\nx", "NOT_STORED"),
        ("append k 0 0 1\r\nx", "NOT_STORED"),
        ("cas k 0 0 1 1\r\nx", "NOT_FOUND"),
    ];
    for (request, answer) in answers {
        client.set_with("k", b"1", 0, -1);
        assert_eq!(client.ask(request), answer, "{request}");
    }
}

#[test]
fn a_time_to_live_beyond_thirty_days_is_a_date() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    client.set_with("tomorrow", b"x", 0, now + 86_400);
    client.set_with("yesterday", b"x", 0, now - 86_400);
    client.set_with("in-a-month", b"x", 0, 2_592_000);
    client.set_with("in-1970", b"x", 0, 2_592_001);
    assert!(client.get("tomorrow").is_some());
    assert!(client.get("in-a-month").is_some());
    assert_eq!(client.get("yesterday"), None);
    assert_eq!(client.get("in-1970"), None);
}

#[test]
fn flush_all_ends_what_was_before_it_and_nothing_after() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    for round in 0..20 {
        client.set("before", b"x");
        client.send(format!("flush_all\r\nset after 0 0 2\r\n{round:02}\r\nget before after\r\n").as_bytes());
        assert_eq!((client.line(), client.line()), ("OK".to_owned(), "STORED".to_owned()));
        assert_eq!(client.line(), "VALUE after 0 2", "round {round}");
        assert_eq!(client.line(), format!("{round:02}"));
        assert_eq!(client.line(), "END");
    }
}

#[test]
fn a_set_between_a_delayed_flush_all_and_its_time_dies_with_the_rest() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    assert_eq!(client.ask("flush_all 2"), "OK");
    client.set("k", b"x");
    assert_eq!(client.get("k").as_deref(), Some(&b"x"[..]));
    eventually("two seconds pass", || client.get("k").is_none().then_some(()));
    // memcached lets what is set in the very second of the flush die as well.
    eventually("a set after that second stays", || {
        client.set("later", b"x");
        client.get("later")
    });
}

#[test]
fn counters_count() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set("a", b"1");
    for request in [
        "get a",
        "get b",
        "incr a 1",
        "incr b 1",
        "decr a 1",
        "decr b 1",
        "touch a 0",
        "touch b 0",
        "cas a 0 0 1 1\r\nx",
        "cas b 0 0 1 1\r\nx",
        "delete a",
        "delete b",
        "flush_all",
    ] {
        client.exchange(format!("{request}\r\n").as_bytes());
    }
    let stats = client.stats();
    for (name, value) in [
        ("get_hits", 1),
        ("get_misses", 1),
        ("incr_hits", 1),
        ("incr_misses", 1),
        ("decr_hits", 1),
        ("decr_misses", 1),
        ("touch_hits", 1),
        ("touch_misses", 1),
        ("cas_badval", 1),
        ("cas_misses", 1),
        ("delete_hits", 1),
        ("delete_misses", 1),
        ("cmd_touch", 2),
        ("cmd_flush", 1),
        ("curr_items", 0),
    ] {
        assert_eq!(stats[name], value.to_string(), "{name}");
    }
}
