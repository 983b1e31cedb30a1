//! Records that are read again and again: answered from memory, as they are now, within `-m`.

use crate::support::{Client, Server, Store, eventually, value_of};

const COUNT: usize = 400;

fn key(number: usize) -> String {
    format!("key-{number:05}")
}

/// From nothing to several pages, some beyond what is copied.
fn size(number: usize) -> usize {
    number * 7919 % 9000
}

fn stamped(number: usize, stamp: u32, size: usize) -> Vec<u8> {
    value_of(&format!("{}/{stamp}", key(number)), size)
}

/// A server with so many records of such sizes on disk, none of which was fetched.
fn server_with(flags: &[&str], count: usize, size: impl Fn(usize) -> usize) -> (Store, Server) {
    let store = Store::new(&[&["--debug-commands", "--capacity", "256m"], flags].concat());
    let server = store.start();
    let mut client = server.client();
    (0..count).for_each(|number| client.set(&key(number), &stamped(number, 0, size(number))));
    assert_eq!(client.ask("debugflush"), "OK");
    (store, server)
}

fn read_all(client: &mut Client, count: usize, size: impl Fn(usize) -> usize) {
    for number in 0..count {
        assert!(client.get(&key(number)) == Some(stamped(number, 0, size(number))), "{} is wrong", key(number));
    }
}

/// What `work` adds to the device reads, and to the hits in the cache.
fn counted(client: &mut Client, work: impl FnOnce(&mut Client)) -> (u64, u64) {
    let before = (client.stat("disk_reads"), client.stat("cache_hits"));
    work(client);
    (client.stat("disk_reads") - before.0, client.stat("cache_hits") - before.1)
}

#[test]
fn the_third_read_of_a_record_is_no_read() {
    let (_store, server) = server_with(&[], COUNT, size);
    let mut client = server.client();
    let all = COUNT as u64;
    for (round, expected) in [(1, (all, 0)), (2, (all, 0)), (3, (0, all)), (4, (0, all))] {
        assert_eq!(counted(&mut client, |client| read_all(client, COUNT, size)), expected, "round {round}");
        assert_eq!(client.stat("cache_items"), if round > 1 { all } else { 0 });
    }
    let everything: String = (0..COUNT).map(|number| format!(" {}", key(number))).collect();
    let reads = counted(&mut client, |client| {
        client.send(format!("get{everything}\r\n").as_bytes());
        for number in 0..COUNT {
            assert_eq!(client.line(), format!("VALUE {} 0 {}", key(number), size(number)));
            assert!(client.exactly(size(number)) == stamped(number, 0, size(number)));
            client.exactly(2);
        }
        assert_eq!(client.line(), "END");
        for number in 0..COUNT {
            client.send(format!("mg {} v\r\n", key(number)).as_bytes());
            assert_eq!(client.line(), format!("VA {}", size(number)));
            assert!(client.exactly(size(number)) == stamped(number, 0, size(number)));
            client.exactly(2);
        }
    });
    assert_eq!(reads, (0, 2 * all));
}

#[test]
fn what_was_changed_is_never_answered_as_it_was() {
    let (_store, server) = server_with(&[], COUNT, size);
    let mut client = server.client();
    (0..3).for_each(|_| read_all(&mut client, COUNT, size));
    assert_eq!(client.stat("cache_items"), COUNT as u64);
    for number in 0..COUNT {
        let (key, old) = (key(number), stamped(number, 0, size(number)));
        let expected = match number % 7 {
            0 => {
                client.set(&key, &stamped(number, 1, 3000));
                Some(stamped(number, 1, 3000))
            }
            1 => {
                assert_eq!(client.ask(&format!("delete {key}")), "DELETED");
                None
            }
            2 => {
                assert_eq!(client.store("append", &key, b"more", 0, 0), "STORED");
                Some([&old[..], b"more"].concat())
            }
            3 => {
                assert_eq!(client.ask(&format!("touch {key} -1")), "TOUCHED");
                None
            }
            4 => {
                client.set(&key, b"41");
                assert_eq!(client.ask(&format!("incr {key} 1")), "42");
                Some(b"42".to_vec())
            }
            5 => {
                assert_eq!(client.ask(&format!("touch {key} 1000")), "TOUCHED");
                Some(old)
            }
            _ => {
                let cas = client.gets(&key).expect("there").cas;
                assert_eq!(client.ask(&format!("cas {key} 0 0 1 {cas}\r\nx")), "STORED");
                Some(b"x".to_vec())
            }
        };
        (0..3).for_each(|_| assert!(client.get(&key) == expected, "{key} after change {}", number % 7));
    }
    assert_eq!(client.ask("flush_all"), "OK");
    assert!((0..COUNT).all(|number| client.get(&key(number)).is_none()));
    assert_eq!(client.stat("cache_items"), 0);
}

/// Answers that a client does not take are sent from the cache, and stay what they were when they were made.
#[test]
fn values_on_their_way_stay_what_they_are_while_their_records_go() {
    const LARGE: usize = 60_000;
    const MANY: usize = 100;
    let (_store, server) = server_with(&[], MANY, |_| LARGE);
    let mut client = server.client();
    (0..3).for_each(|_| read_all(&mut client, MANY, |_| LARGE));
    assert_eq!(client.stat("cache_items"), MANY as u64);
    let mut slow: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut slow {
        for round in 0..4 * MANY {
            client.send(format!("get {}\r\n", key(round % MANY)).as_bytes());
        }
    }
    for number in 0..MANY {
        client.set(&key(number), &stamped(number, 1, LARGE));
    }
    assert_eq!(client.ask("debugflush"), "OK");
    // Others take their place in the cache.
    (0..4).for_each(|_| {
        (0..MANY).for_each(|number| assert!(client.get(&key(number)) == Some(stamped(number, 1, LARGE))));
    });
    for client in &mut slow {
        for round in 0..4 * MANY {
            let number = round % MANY;
            assert_eq!(client.line(), format!("VALUE {} 0 {LARGE}", key(number)));
            let value = client.exactly(LARGE);
            assert!((0..2).any(|stamp| value == stamped(number, stamp, LARGE)), "answer {round} is torn");
            assert_eq!(client.exactly(7), b"\r\nEND\r\n");
        }
    }
}

#[test]
fn it_is_turned_off_and_on_while_the_server_runs() {
    let (_store, server) = server_with(&["--flush-interval", "50ms"], COUNT, size);
    let mut client = server.client();
    (0..3).for_each(|_| read_all(&mut client, COUNT, size));
    assert_eq!(client.stats_of("stats settings")["ext_recache_rate"], "1");
    assert_eq!(client.ask("extstore recache_rate 0"), "OK");
    assert_eq!(client.stats_of("stats settings")["ext_recache_rate"], "0");
    eventually("the cache gives its memory back", || (client.stat("cache_items") == 0).then_some(()));
    assert!(client.stat("cache_memory_bytes") < 8192);
    for _ in 0..3 {
        assert_eq!(counted(&mut client, |client| read_all(client, COUNT, size)), (COUNT as u64, 0));
    }
    assert_eq!(client.ask("extstore recache_rate 1"), "OK");
    read_all(&mut client, COUNT, size);
    assert_eq!(counted(&mut client, |client| read_all(client, COUNT, size)), (0, COUNT as u64));
}

#[test]
fn it_keeps_to_what_it_may_take() {
    for (flags, most) in
        [(&["--hot-cache", "0"][..], 8192), (&["-o", "ext_recache_rate=0"], 8192), (&["--hot-cache", "4m"], 4 << 20)]
    {
        let (_store, server) = server_with(flags, 4000, |_| 3000);
        let mut client = server.client();
        (0..3).for_each(|_| read_all(&mut client, 4000, |_| 3000));
        let (memory, inserts) = (client.stat("cache_memory_bytes"), client.stat("cache_inserts"));
        assert!(memory <= most + 8192, "{memory} with {flags:?}");
        assert_eq!(inserts > 0, most > 8192, "{flags:?}");
    }
}

#[test]
fn with_all_that_the_index_leaves_it_stays_within_the_limit() {
    let (_store, server) = server_with(&["-m", "32"], 10_000, |_| 3000);
    let mut client = server.client();
    (0..3).for_each(|_| read_all(&mut client, 10_000, |_| 3000));
    let taken = |client: &mut Client| {
        ["index_bytes", "cache_memory_bytes", "write_buffer_bytes"].map(|name| client.stat(name)).iter().sum::<u64>()
    };
    let size = client.stat("cache_memory_bytes");
    assert!((4 << 20..30 << 20).contains(&size), "{size} bytes of 30,000,000 that are read in turn");
    assert!(taken(&mut client) <= 32 << 20);
    let before = client.stat("cache_memory_bytes");
    for number in 0..150_000 {
        client.send(format!("set index-{number} 0 0 1 noreply\r\nx\r\n").as_bytes());
        if number % 5000 == 0 {
            assert!(taken(&mut client) <= 32 << 20, "{number} keys more");
        }
    }
    let after = client.stat("cache_memory_bytes");
    assert!(after + (2 << 20) < before, "{before} bytes became {after} as the index grew");
    assert!(client.stat("cache_evictions") > 0);
    read_all(&mut client, 100, |_| 3000);
}
