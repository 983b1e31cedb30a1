//! Long pipelines of everything at once, with the records on disk: gets whose reads are in flight together, and what
//! stands between them, are answered in the order in which they were asked, with bounded memory.

#[path = "pipelines/stream.rs"]
mod stream;

use crate::support::{Client, Server, Store, shown, value_of};
use stream::{Random, Recipe, World, fresh_seed};

/// Worlds on disk: a server that was started after they had been written.
fn cold_server(flags: &[&str], worlds: &mut [World]) -> (Store, Server) {
    let store = Store::new(flags);
    let server = store.start();
    for world in &mut *worlds {
        let mut filling = world.filling();
        filling.extend_from_slice(b"quit\r\n");
        assert_eq!(shown(&server.client().converse(&filling, usize::MAX)), "", "noreply is silent");
    }
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    for world in worlds {
        for key in world.keys_for_cas() {
            let item = client.gets(&key).unwrap_or_else(|| panic!("{key} is not there after the restart"));
            world.know_cas(&key, item.cas);
        }
    }
    (store, server)
}

fn assert_same(answer: &[u8], expected: &[u8], what: &str) {
    let differs = answer.iter().zip(expected).position(|(got, wanted)| got != wanted);
    let differs = differs.or_else(|| (answer.len() != expected.len()).then_some(answer.len().min(expected.len())));
    if let Some(place) = differs {
        let start = place.saturating_sub(60);
        panic!(
            "{what}: {} bytes came, {} were expected; from byte {start} on, near the first difference at {place}:\n  \
             got  {}\n  not  {}",
            answer.len(),
            expected.len(),
            shown(&answer[start..]),
            shown(&expected[start..])
        );
    }
}

/// Has every world talk over a connection of its own, all at once, in pieces of the size that stands beside it.
fn talk(server: &Server, worlds: &[World], piece_sizes: &[usize], what: &str) {
    let port = server.port();
    std::thread::scope(|scope| {
        let talks: Vec<_> = worlds
            .iter()
            .zip(piece_sizes)
            .map(|(world, piece_size)| {
                scope.spawn(move || {
                    let answer = Client::connect(port).converse(&world.requests, *piece_size);
                    assert_same(&answer, &world.answers, &format!("{what}, in pieces of {piece_size}"));
                })
            })
            .collect();
        for talk in talks {
            talk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[test]
fn a_pipeline_of_everything_is_answered_in_order_wherever_its_records_lie() {
    for seed in [1, 2, 3, fresh_seed()] {
        let mut worlds = vec![World::new("one", seed), World::new("two", seed + 1)];
        let (_store, server) = cold_server(&[], &mut worlds);
        worlds.iter_mut().for_each(|world| world.make(Recipe { request_count: 800, with_huge_sets: false }));
        let before = server.client().stat("get_extstore");
        talk(&server, &worlds, &[usize::MAX, usize::MAX], &format!("seed {seed}"));
        let from_disk = server.client().stat("get_extstore") - before;
        assert!(from_disk > 500, "seed {seed}: only {from_disk} answers came from disk, which proves little");
        server.terminate();
    }
}

#[test]
fn a_pipeline_on_disk_cut_anywhere_is_answered_the_same() {
    let piece_sizes = [1, 7, 61, 1460, 8192, 65_536];
    let seed = fresh_seed();
    let mut worlds: Vec<World> =
        piece_sizes.iter().map(|piece_size| World::new(&format!("cut{piece_size:05}"), seed)).collect();
    let (_store, server) = cold_server(&[], &mut worlds);
    worlds.iter_mut().for_each(|world| world.make(Recipe { request_count: 300, with_huge_sets: false }));
    talk(&server, &worlds, &piece_sizes, &format!("seed {seed}"));
}

#[test]
fn connections_with_huge_and_interrupted_values_do_not_disturb_each_other() {
    let seed = fresh_seed();
    let mut worlds: Vec<World> = (0..6).map(|number| World::new(&format!("many{number}"), seed + number)).collect();
    let (_store, server) = cold_server(&[], &mut worlds);
    worlds.iter_mut().for_each(|world| world.make(Recipe { request_count: 400, with_huge_sets: true }));
    // Values that stop half way, on connections that say nothing more until the others are done.
    let mut halves: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for (number, half) in halves.iter_mut().enumerate() {
        half.send(format!("set half-{number} 0 0 {}\r\n", number * 20_000).as_bytes());
        half.send(&value_of("half", number * 10_000));
    }
    talk(&server, &worlds, &[usize::MAX, 333, 4096, 10_000, 100_000, 1_000_000], &format!("seed {seed}"));
    for (number, half) in halves.iter_mut().enumerate() {
        half.send(&value_of("other half", number * 10_000));
        assert_eq!(half.ask(""), "STORED", "the value of connection {number} is complete now");
        let expected = [value_of("half", number * 10_000), value_of("other half", number * 10_000)].concat();
        assert!(half.get(&format!("half-{number}")) == Some(expected), "the value of connection {number}");
    }
}

#[test]
fn records_that_are_asked_for_at_once_share_reads_and_are_all_answered() {
    let store = Store::new(&["-o", "ext_recache_rate=0"]);
    let server = store.start();
    server.client().set("same", &value_of("same", 3000));
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    let before = client.stats();
    client.send(&b"get same\r\n".repeat(100));
    for round in 0..100 {
        assert_eq!(client.line(), "VALUE same 0 3000", "round {round}");
        assert!(client.exactly(3000) == value_of("same", 3000), "round {round}");
        assert_eq!(client.exactly(7), b"\r\nEND\r\n");
    }
    let after = client.stats();
    let grown = |name: &str| after[name].parse::<u64>().unwrap() - before[name].parse::<u64>().unwrap();
    assert_eq!(grown("get_extstore"), 100, "every get is a hit of a record on disk");
    assert_eq!(grown("get_hits"), 100);
    let read_count = grown("disk_reads");
    assert!((1..100).contains(&read_count), "{read_count} reads for a hundred gets of one record at once");
}

const MANY: usize = 10_000;

fn many_key(number: usize) -> String {
    format!("many-{number:05}")
}

/// A server with ten thousand records of 1 KiB on disk.
fn server_of_many() -> (Store, Server) {
    let store = Store::new(&[]);
    let server = store.start();
    let mut requests = Vec::new();
    for number in 0..MANY {
        let key = many_key(number);
        requests.extend_from_slice(format!("set {key} 0 0 1024 noreply\r\n").as_bytes());
        requests.extend_from_slice(&value_of(&key, 1024));
        requests.extend_from_slice(b"\r\n");
    }
    requests.extend_from_slice(b"quit\r\n");
    server.client().converse(&requests, usize::MAX);
    server.terminate();
    let server = store.start();
    (store, server)
}

/// The keys in an order that is not theirs on disk.
fn shuffled() -> Vec<String> {
    (0..MANY).map(|number| many_key(number * 7919 % MANY)).collect()
}

fn multiget(keys: &[String]) -> Vec<u8> {
    format!("get {}\r\n", keys.join(" ")).into_bytes()
}

fn multiget_answer(keys: &[String]) -> Vec<u8> {
    let mut answer = Vec::new();
    for key in keys {
        answer.extend_from_slice(format!("VALUE {key} 0 1024\r\n").as_bytes());
        answer.extend_from_slice(&value_of(key, 1024));
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"END\r\n");
    answer
}

const MULTIGET_MEMORY_MAX: u64 = 16 << 20;

#[test]
fn a_multiget_of_ten_thousand_records_on_disk_needs_little_memory() {
    let (_store, mut server) = server_of_many();
    let keys = shuffled();
    let mut client = server.client();
    server.process().forget_peak();
    let before = server.process().peak_size();
    client.send(&multiget(&keys));
    let expected = multiget_answer(&keys);
    let answer = client.exactly(expected.len());
    let grown = server.process().peak_size().saturating_sub(before);
    assert_same(&answer, &expected, "a multiget of ten thousand");
    assert!(grown < MULTIGET_MEMORY_MAX, "a multiget of 10 MiB took {grown} bytes of memory");
    assert_eq!(client.stat("get_extstore"), MANY as u64);
}

#[test]
fn a_multiget_of_ten_thousand_waits_for_a_slow_client_in_little_memory() {
    let (_store, mut server) = server_of_many();
    let keys = shuffled();
    let mut other = server.client();
    let mut slow = server.client();
    slow.receive_little();
    server.process().forget_peak();
    let before = server.process().peak_size();
    slow.send(&multiget(&keys));
    // Others are served while it does not read, and between any two of its pieces.
    for key in keys.iter().take(300) {
        assert!(other.has_intact(key, 1024), "{key}");
    }
    let expected = multiget_answer(&keys);
    let mut answer = Vec::new();
    while answer.len() < expected.len() {
        let piece = slow.some(4096);
        assert!(!piece.is_empty(), "the connection was closed after {} bytes", answer.len());
        answer.extend_from_slice(&piece);
        if answer.len() % 16 < 4 {
            assert!(other.has_intact(&keys[answer.len() % MANY], 1024));
        }
    }
    let grown = server.process().peak_size().saturating_sub(before);
    assert_same(&answer, &expected, "a multiget that is read slowly");
    assert!(grown < MULTIGET_MEMORY_MAX, "a multiget of 10 MiB took {grown} bytes of memory");
}

/// A server with large records on disk, a pipeline of gets of them, and its answer.
fn large_records(seed: u64) -> (Store, Server, Vec<u8>, Vec<u8>) {
    let sizes: Vec<usize> = (0..32).map(|number| if number % 4 == 0 { 1 << 20 } else { 100 << 10 }).collect();
    let store = Store::new(&["-I", "2m"]);
    let server = store.start();
    for (number, size) in sizes.iter().enumerate() {
        let key = format!("large-{number:02}");
        server.client().set(&key, &value_of(&key, *size));
    }
    server.client().set("small", b"s");
    server.terminate();
    let server = store.start();
    let mut random = Random::new(seed);
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let number = random.below(sizes.len());
        let key = format!("large-{number:02}");
        // A small one between two large ones now and then: copied, not gathered.
        let small = if random.once_in(3) { "small " } else { "" };
        requests.extend_from_slice(format!("get {small}{key}\r\n").as_bytes());
        if !small.is_empty() {
            answers.extend_from_slice(b"VALUE small 0 1\r\ns\r\n");
        }
        answers.extend_from_slice(format!("VALUE {key} 0 {}\r\n", sizes[number]).as_bytes());
        answers.extend_from_slice(&value_of(&key, sizes[number]));
        answers.extend_from_slice(b"\r\nEND\r\n");
    }
    (store, server, requests, answers)
}

#[test]
fn large_records_are_sent_whole_from_where_they_were_read() {
    let seed = fresh_seed();
    let (_store, server, requests, expected) = large_records(seed);
    let mut client = server.client();
    client.send(&requests);
    assert_same(&client.exactly(expected.len()), &expected, &format!("seed {seed}"));
    // Two at once, who want the same buffers.
    let mut clients = [server.client(), server.client()];
    clients.iter_mut().for_each(|client| client.send(&requests));
    for client in &mut clients {
        assert_same(&client.exactly(expected.len()), &expected, &format!("two at once, seed {seed}"));
    }
}

#[test]
fn large_records_reach_a_client_that_reads_little_at_a_time() {
    let seed = fresh_seed();
    let (_store, server, requests, expected) = large_records(seed);
    let mut client = server.client();
    client.receive_little();
    client.send(&requests);
    let mut answer = Vec::new();
    while answer.len() < expected.len() {
        let piece = client.some(4096);
        assert!(!piece.is_empty(), "the connection was closed after {} bytes; seed {seed}", answer.len());
        answer.extend_from_slice(&piece);
    }
    assert_same(&answer, &expected, &format!("seed {seed}"));
}

#[test]
fn pipelines_that_are_never_answered_are_received_to_their_end() {
    // Nothing is sent to such a client, so that nothing but its requests drives its connection on.
    let store = Store::new(&[]);
    let server = store.start();
    let silent = b"touch nobody 0 noreply\r\ndelete nobody noreply\r\n".repeat(100_000);
    let flood: Vec<u8> = (0..20_000)
        .flat_map(|number| {
            let key = format!("flood-{number:05}");
            let head = format!("set {key} 0 0 1000 noreply\r\n");
            [head.into_bytes(), value_of(&key, 1000), b"\r\n".to_vec()].concat()
        })
        .collect();
    for requests in [silent, flood] {
        let requests = [&requests[..], b"version\r\nquit\r\n"].concat();
        let answer = server.client().converse(&requests, usize::MAX);
        assert!(answer.starts_with(b"VERSION "), "the last request of {}: {}", requests.len(), shown(&answer));
    }
    assert!(server.client().has_intact("flood-19999", 1000));
}
