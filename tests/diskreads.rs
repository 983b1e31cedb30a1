//! The promise: one device read per GET of a record that is not in RAM, none for what is absent, deleted or expired,
//! none for a SET.

use crate::support::{Client, Server, Store, eventually, value_of};

/// What the server counted between two moments.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Reads {
    /// Device reads on behalf of requests and of everything else.
    disk_reads: u64,
    /// GET hits answered by a device read.
    hits_from_disk: u64,
    /// All GET hits.
    hits: u64,
}

fn counters(client: &mut Client) -> Reads {
    let stats = client.stats();
    let number = |name: &str| stats[name].parse::<u64>().unwrap_or_else(|_| panic!("{name} is {}", stats[name]));
    Reads { disk_reads: number("disk_reads"), hits_from_disk: number("get_extstore"), hits: number("get_hits") }
}

/// What `work` adds to the counters.
fn reads_of(client: &mut Client, work: impl FnOnce(&mut Client)) -> Reads {
    let before = counters(client);
    work(client);
    let after = counters(client);
    Reads {
        disk_reads: after.disk_reads - before.disk_reads,
        hits_from_disk: after.hits_from_disk - before.hits_from_disk,
        hits: after.hits - before.hits,
    }
}

const COUNT: usize = 3000;

fn key(number: usize) -> String {
    format!("key-{number:06}")
}

/// Sizes from nothing to several pages, no two neighbours alike.
fn size(number: usize) -> usize {
    number * 7919 % 9000
}

/// A server that was just started on [`COUNT`] records, so that none is in RAM.
fn cold_server() -> (Store, Server) {
    let store = Store::new(&["--capacity", "96m"]);
    let server = store.start();
    let mut client = server.client();
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), size(number))));
    drop(client);
    server.terminate();
    let server = store.start();
    (store, server)
}

#[test]
fn every_get_of_a_record_on_disk_is_exactly_one_read() {
    let (_store, server) = cold_server();
    let reads = reads_of(&mut server.client(), |client| {
        for number in 0..COUNT {
            let number = number * 1009 % COUNT;
            assert!(client.get(&key(number)) == Some(value_of(&key(number), size(number))), "{} is wrong", key(number));
        }
    });
    let count = COUNT as u64;
    assert_eq!(reads, Reads { disk_reads: count, hits_from_disk: count, hits: count });
}

#[test]
fn a_large_record_is_one_read_too() {
    let store = Store::new(&["-I", "2m"]);
    let server = store.start();
    let sizes = [10_000, 65_536, 300_000, 1_048_576, 2_000_000];
    sizes.iter().for_each(|size| server.client().set(&format!("size-{size}"), &value_of("large", *size)));
    server.terminate();
    let server = store.start();
    for size in sizes {
        let reads = reads_of(&mut server.client(), |client| {
            assert!(client.get(&format!("size-{size}")) == Some(value_of("large", size)), "{size} bytes are wrong");
        });
        assert_eq!(reads, Reads { disk_reads: 1, hits_from_disk: 1, hits: 1 }, "{size} bytes");
    }
}

#[test]
fn a_multiget_reads_once_per_hit_on_disk() {
    let (_store, server) = cold_server();
    let reads = reads_of(&mut server.client(), |client| {
        let keys: Vec<String> =
            (0..1000).map(|number| if number % 2 == 0 { key(number) } else { format!("absent-{number}") }).collect();
        client.send(format!("get {}\r\n", keys.join(" ")).as_bytes());
        for number in (0..1000).step_by(2) {
            assert_eq!(client.line(), format!("VALUE {} 0 {}", key(number), size(number)));
            assert!(client.exactly(size(number)) == value_of(&key(number), size(number)));
            client.exactly(2);
        }
        assert_eq!(client.line(), "END");
    });
    assert_eq!(reads, Reads { disk_reads: 500, hits_from_disk: 500, hits: 500 });
}

#[test]
fn many_clients_at_once_read_once_per_hit_on_disk() {
    let (_store, server) = cold_server();
    let port = server.port();
    let reads = reads_of(&mut server.client(), |_| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(port);
                    let numbers: Vec<usize> = (0..COUNT).filter(|number| number % 8 == worker).collect();
                    for batch in numbers.chunks(25) {
                        let requests: String = batch.iter().map(|number| format!("get {}\r\n", key(*number))).collect();
                        client.send(requests.as_bytes());
                        for number in batch {
                            assert_eq!(client.line(), format!("VALUE {} 0 {}", key(*number), size(*number)));
                            assert!(client.exactly(size(*number)) == value_of(&key(*number), size(*number)));
                            assert_eq!(client.exactly(7), b"\r\nEND\r\n");
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("a worker does not panic"));
    });
    let count = COUNT as u64;
    assert_eq!(reads, Reads { disk_reads: count, hits_from_disk: count, hits: count });
}

#[test]
fn what_is_not_there_is_not_looked_for_on_disk() {
    let (_store, server) = cold_server();
    let mut client = server.client();
    (0..100).for_each(|number| assert_eq!(client.ask(&format!("delete {}", key(number))), "DELETED"));
    (100..200).for_each(|number| assert_eq!(client.ask(&format!("touch {} 1", key(number))), "TOUCHED"));
    eventually("the touched ones expire", || client.get(&key(199)).is_none().then_some(()));
    let reads = reads_of(&mut client, |client| {
        (0..200).for_each(|number| assert_eq!(client.get(&key(number)), None));
        (0..1000).for_each(|number| assert_eq!(client.get(&format!("absent-{number}")), None));
    });
    assert_eq!(reads, Reads { disk_reads: 0, hits_from_disk: 0, hits: 0 });
}

#[test]
fn items_that_expired_with_their_own_time_to_live_are_not_read() {
    let store = Store::new(&[]);
    let server = store.start();
    (0..200).for_each(|number| server.client().set_with(&key(number), &value_of(&key(number), 2000), 0, 2));
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    // Not polled with gets, which are reads while the items live: the clock of `stats` tells.
    let begun: u64 = client.stat("time");
    eventually("four seconds pass", || (client.stat("time") >= begun + 4).then_some(()));
    let reads = reads_of(&mut client, |client| (0..200).for_each(|number| assert_eq!(client.get(&key(number)), None)));
    assert_eq!(reads, Reads { disk_reads: 0, hits_from_disk: 0, hits: 0 });
}

#[test]
fn flushed_items_are_not_read() {
    let (_store, server) = cold_server();
    let mut client = server.client();
    assert_eq!(client.ask("flush_all"), "OK");
    let reads = reads_of(&mut client, |client| (0..500).for_each(|number| assert_eq!(client.get(&key(number)), None)));
    assert_eq!(reads, Reads { disk_reads: 0, hits_from_disk: 0, hits: 0 });
}

#[test]
fn set_delete_touch_and_misses_of_every_command_read_nothing() {
    let (_store, server) = cold_server();
    let reads = reads_of(&mut server.client(), |client| {
        (0..200).for_each(|number| client.set(&key(number), b"new"));
        (200..400).for_each(|number| assert_eq!(client.ask(&format!("delete {}", key(number))), "DELETED"));
        (400..600).for_each(|number| assert_eq!(client.ask(&format!("touch {} 1000", key(number))), "TOUCHED"));
        for request in ["incr absent 1", "decr absent 1", "touch absent 0", "delete absent", "cas absent 0 0 1 1\r\nx"]
        {
            assert_eq!(client.ask(request), "NOT_FOUND", "{request}");
        }
        for request in ["append absent 0 0 1\r\nx", "prepend absent 0 0 1\r\nx", "replace absent 0 0 1\r\nx"] {
            assert_eq!(client.ask(request), "NOT_STORED", "{request}");
        }
        assert_eq!(client.store("add", "absent", b"x", 0, 0), "STORED");
    });
    assert_eq!(reads, Reads { disk_reads: 0, hits_from_disk: 0, hits: 0 });
}

#[test]
fn touching_a_record_on_disk_reads_nothing_and_leaves_its_value() {
    let (_store, server) = cold_server();
    let mut client = server.client();
    let touched = reads_of(&mut client, |client| assert_eq!(client.ask(&format!("touch {} 1000", key(7))), "TOUCHED"));
    assert_eq!(touched.disk_reads, 0);
    let read = reads_of(&mut client, |client| assert_eq!(client.get(&key(7)), Some(value_of(&key(7), size(7)))));
    assert_eq!(read, Reads { disk_reads: 1, hits_from_disk: 1, hits: 1 });
}

#[test]
fn what_was_just_set_is_answered_from_ram() {
    let (_store, server) = cold_server();
    let reads = reads_of(&mut server.client(), |client| {
        for number in 0..100 {
            client.set(&key(number), &value_of("new", 1000));
            assert_eq!(client.get(&key(number)), Some(value_of("new", 1000)));
        }
    });
    assert_eq!(reads.hits, 100);
    assert_eq!(reads.disk_reads, reads.hits_from_disk, "reads that answered no GET");
    assert!(reads.disk_reads < 10, "{reads:?}: a record is in RAM at least until it is flushed");
}

#[test]
fn the_bytes_read_are_the_records_rounded_to_pages() {
    let (_store, server) = cold_server();
    let mut client = server.client();
    let before = client.stat("disk_read_bytes");
    let mut expected = 0;
    for number in 0..500 {
        client.get(&key(number));
        // A record may lie across one page boundary more than its size alone asks for; the index knows sizes to an
        // eighth.
        let record = size(number) + key(number).len() + 28;
        expected += (record + record / 8).div_ceil(4096) + 1;
    }
    let read = client.stat("disk_read_bytes") - before;
    assert!(read % 4096 == 0, "O_DIRECT reads whole pages: {read}");
    assert!(read >= 500 * 4096 && read <= expected as u64 * 4096, "{read} bytes for at most {expected} pages");
}
