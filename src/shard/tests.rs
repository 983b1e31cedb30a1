//! Requests executed step by step against a store in a simulated world.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use dma_alloc::Buffer;

use super::*;
use crate::io::File;
use crate::io::sim::{Faults, Sim, SimFile};
use crate::limits::MIB;
use crate::protocol::{ParseLimits, Parsed, Request, parse};
use crate::store::{DiskRead, Held, Meta, StoreOptions};

/// Keys that the store has; the first of them are on disk only, `key-1999` is in memory.
const COUNT: u32 = 2000;
const IN_MEMORY: &str = "key-1999";

/// What was appended, in order: bytes, and gets whose answer belongs there.
#[derive(Default)]
struct Collected {
    parts: VecDeque<Part>,
    /// Reads that are taken.
    reads_max: usize,
    /// How often it is asked whether it is full before it is.
    keys_until_full: Option<usize>,
}

enum Part {
    Bytes(Vec<u8>),
    Get(Box<PendingGet<SimFile>>),
}

impl Collected {
    fn new(reads_max: usize) -> Self {
        Self { reads_max, ..Self::default() }
    }

    fn reads(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::Get(_))).count()
    }
}

impl Answers<SimFile> for Collected {
    fn buffer(&mut self) -> &mut Vec<u8> {
        if !matches!(self.parts.back(), Some(Part::Bytes(_))) {
            self.parts.push_back(Part::Bytes(Vec::new()));
        }
        match self.parts.back_mut() {
            Some(Part::Bytes(bytes)) => bytes,
            _ => unreachable!("just pushed"),
        }
    }

    fn read_later(&mut self, get: PendingGet<SimFile>) -> bool {
        if self.reads() >= self.reads_max {
            return false;
        }
        self.parts.push_back(Part::Get(Box::new(get)));
        true
    }

    fn has_room_to_read(&mut self) -> bool {
        self.reads() < self.reads_max
    }

    fn is_idle(&mut self) -> bool {
        self.parts.is_empty()
    }

    fn is_full(&mut self) -> bool {
        match &mut self.keys_until_full {
            None => false,
            Some(0) => true,
            Some(count) => {
                *count -= 1;
                false
            }
        }
    }
}

/// Sends values without copying them: they are marked, to tell them from what was appended.
#[derive(Default)]
struct Marking(Vec<u8>);

impl ValueSink for Marking {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn value(&mut self, value: &[u8]) {
        self.0.extend(value.iter().map(u8::to_ascii_uppercase));
    }
}

/// Copies, as the trait does by itself.
#[derive(Default)]
struct Copying(Vec<u8>);

impl ValueSink for Copying {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

fn facts() -> Facts {
    Facts {
        connection_count_max: 1,
        item_size_max: 64 * 1024,
        memory: 8 * MIB,
        port: 1,
        debug_commands: true,
        ..Facts::default()
    }
}

async fn shard(sim: &Sim) -> Shard<Sim> {
    let options = StoreOptions {
        directory: PathBuf::from("/data"),
        capacity: 16 * MIB as u64,
        table_size: Some(MIB as u64),
        memory: 8 * MIB,
        item_size_max: 64 * 1024,
        evict: true,
        flush_interval: Duration::from_secs(1),
        durability: crate::store::Durability::Memory,
    };
    let store = Store::open(sim.clone(), options, |_| {}).await.expect("the store opens");
    for number in 0..COUNT {
        store.set(name(number).as_bytes(), &value(number), Meta { client_flags: number, ..Meta::default() }).await;
    }
    store.flush().await;
    Shard::new(store, Rc::default(), facts())
}

fn name(number: u32) -> String {
    format!("key-{number}")
}

/// 1000 bytes that are a number to `incr`.
fn value(number: u32) -> Vec<u8> {
    let mut bytes = format!("{number} abc").into_bytes();
    bytes.resize(1000, b'x');
    bytes
}

/// The answer of a get of `number`.
fn hit(number: u32) -> Vec<u8> {
    [format!("VALUE key-{number} {number} 1000\r\n").as_bytes(), &value(number), b"\r\n"].concat()
}

fn request(text: &str) -> Request<'_> {
    match parse(text.as_bytes(), &ParseLimits { item_size_max: 64 * 1024 }) {
        Parsed::Request { request, .. } => request,
        other => panic!("{text}: {other:?}"),
    }
}

async fn read(shard: &Shard<Sim>, read: &DiskRead<SimFile>) -> Option<Vec<u8>> {
    shard.store.read_begins();
    let result = read.file().read_at(read.start(), read.size(), Buffer::zeroed(read.size())).await;
    shard.store.read_ended(read, result.as_ref().map(|(_, count)| *count));
    result.ok().map(|(buffer, count)| buffer[..count].to_vec())
}

/// What is sent, once the gets are read.
async fn send(shard: &Shard<Sim>, collected: Collected) -> Vec<u8> {
    let mut sent = Copying::default();
    for part in collected.parts {
        let mut get = match part {
            Part::Bytes(bytes) => {
                sent.0.extend(bytes);
                continue;
            }
            Part::Get(get) => get,
        };
        loop {
            let bytes = read(shard, get.read()).await;
            match shard.settle(&mut get, bytes.as_deref(), &mut sent.0) {
                Settled::Hit => shard.encode_hit(&get, &bytes.expect("it was read"), &mut sent),
                Settled::Again => continue,
                Settled::Encoded | Settled::Miss => {}
            }
            break;
        }
    }
    sent.0
}

/// Executes a request that needs no more than a call.
async fn ask(shard: &Shard<Sim>, text: &str) -> Vec<u8> {
    let mut collected = Collected::new(usize::MAX);
    match shard.execute(&request(text), None, &mut collected) {
        Executed::Done(After::Continue) => send(shard, collected).await,
        other => panic!("{text}: {other:?}"),
    }
}

/// Executes a request that reads a record on disk before it is done; says what it answers after the read.
async fn ask_disk(shard: &Shard<Sim>, text: &str) -> Vec<u8> {
    let before = counters(shard);
    let mut collected = Collected::default();
    let plan = match shard.execute(&request(text), None, &mut collected) {
        Executed::Blocked(Obstacle::Disk(plan)) => plan,
        other => panic!("{text}: {other:?}"),
    };
    let is_nothing = |part: &Part| matches!(part, Part::Bytes(bytes) if bytes.is_empty());
    assert!(collected.parts.iter().all(is_nothing) && counters(shard) == before, "{text}: nothing is done yet");
    let bytes = read(shard, &plan).await;
    let held = Held { read: &plan, bytes: bytes.as_deref() };
    match shard.execute(&request(text), Some(&held), &mut collected) {
        Executed::Done(After::Continue) => send(shard, collected).await,
        other => panic!("{text}: {other:?}"),
    }
}

fn counters(shard: &Shard<Sim>) -> CommandCounters {
    *shard.counters.borrow()
}

fn gets(hits: u64, misses: u64) -> CommandCounters {
    CommandCounters { cmd_get: hits + misses, get_hits: hits, get_misses: misses, ..CommandCounters::default() }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Panics with something that can be read.
fn assert_answer(found: &[u8], expected: &[&[u8]]) {
    assert_eq!(text(found), text(&expected.concat()));
}

fn world() -> Sim {
    Sim::new(0x5eed, 1 << 30)
}

#[test]
fn a_get_from_memory_is_done_at_once() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        assert_answer(&ask(&shard, "get key-1999 none\r\n").await, &[&hit(1999), b"END\r\n"]);
        assert_eq!(counters(&shard), gets(1, 1));
        let answer = ask(&shard, "gets key-1999\r\n").await;
        let version = shard.store.get(IN_MEMORY.as_bytes()).await.expect("in memory").expect("there").version;
        let line = format!("VALUE key-1999 1999 1000 {}\r\n", shard.store.cas_unique(version));
        assert_answer(&answer[..line.len()], &[line.as_bytes()]);
        assert_eq!(shard.store.counters().disk_reads, 0);
    });
}

#[test]
fn gets_from_disk_are_answered_in_their_places() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut collected = Collected::new(10);
        let text = "gets key-1 key-1999 none key-2 key-1\r\n";
        let done = shard.execute(&request(text), None, &mut collected);
        assert!(matches!(done, Executed::Done(After::Continue)), "{done:?}");
        assert_eq!(collected.reads(), 3);
        assert_eq!(counters(&shard), gets(1, 1), "the others are counted when they are known");
        let places: Vec<_> = collected
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Get(get) => Some(get.read().place()),
                Part::Bytes(_) => None,
            })
            .collect();
        assert!(places[0] == places[2] && places[0] != places[1], "the same record is read at the same place");
        let answer = send(&shard, collected).await;
        let mut expected = Vec::new();
        for number in [1, 1999, 2, 1] {
            let version = shard.store.get(name(number).as_bytes()).await.expect("works").expect("there").version;
            let cas = shard.store.cas_unique(version);
            expected.extend(format!("VALUE key-{number} {number} 1000 {cas}\r\n").into_bytes());
            expected.extend(value(number));
            expected.extend(b"\r\n");
        }
        assert_answer(&answer, &[&expected, b"END\r\n"]);
        assert_eq!(counters(&shard), gets(4, 1));
    });
}

#[test]
fn a_value_may_be_sent_from_where_it_lies() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut collected = Collected::new(1);
        shard.execute(&request("get key-1\r\n"), None, &mut collected);
        let Some(Part::Get(mut get)) = collected.parts.pop_front() else { panic!("it is read later") };
        let bytes = read(&shard, get.read()).await.expect("the disk works");
        let mut encoded = Vec::new();
        assert_eq!(shard.settle(&mut get, Some(&bytes), &mut encoded), Settled::Hit);
        assert!(encoded.is_empty());
        let mut sink = Marking::default();
        shard.encode_hit(&get, &bytes, &mut sink);
        assert_answer(&sink.0, &[b"VALUE key-1 1 1000\r\n", &value(1).to_ascii_uppercase(), b"\r\n"]);
    });
}

#[test]
fn a_get_whose_reads_are_refused_pauses_and_goes_on() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut keys = request("get key-1 key-1999 key-2 key-3 none\r\n");
        let mut answer = Vec::new();
        let mut rests = Vec::new();
        loop {
            let mut collected = Collected::new(1);
            let executed = shard.execute(&keys, None, &mut collected);
            answer.extend(send(&shard, collected).await);
            match executed {
                Executed::Paused { rest, until } => {
                    assert_eq!(until, Pause::Reads);
                    rests.push(text(rest.rest()));
                    keys = Request::Get { keys: rest, with_cas: false, touch: None };
                }
                Executed::Done(After::Continue) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(rests, ["key-2 key-3 none", "key-3 none"]);
        assert_answer(&answer, &[&hit(1), &hit(1999), &hit(2), &hit(3), b"END\r\n"]);
        assert_eq!(counters(&shard), gets(4, 1));
    });
}

#[test]
fn a_get_of_many_keys_pauses_when_the_output_is_full() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut collected = Collected { keys_until_full: Some(1), ..Collected::default() };
        let executed = shard.execute(&request("get key-1999 none key-1998 none\r\n"), None, &mut collected);
        let Executed::Paused { rest, until: Pause::Output } = executed else { panic!("{executed:?}") };
        assert_eq!(text(rest.rest()), "key-1998 none");
        assert_answer(&send(&shard, collected).await, &[&hit(1999)]);
        assert_eq!(counters(&shard), gets(1, 1));
        // Behind the last key there is no pause, however full it is.
        let mut collected = Collected { keys_until_full: Some(1), ..Collected::default() };
        let executed = shard.execute(&Request::Get { keys: rest, with_cas: false, touch: None }, None, &mut collected);
        assert!(matches!(executed, Executed::Done(After::Continue)), "{executed:?}");
        assert_answer(&send(&shard, collected).await, &[&hit(1998), b"END\r\n"]);
        assert_eq!(counters(&shard), gets(2, 2));
        let mut collected = Collected { keys_until_full: Some(0), ..Collected::default() };
        let executed = shard.execute(&request("get key-1999\r\n"), None, &mut collected);
        assert!(matches!(executed, Executed::Done(After::Continue)), "one key is no pause worth: {executed:?}");
    });
}

/// The record is read, and by then it is not the record any more.
#[test]
fn a_get_is_settled_by_what_the_index_says_when_its_read_was_in_vain() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut collected = Collected::new(9);
        shard.execute(&request("get key-1 key-2 key-3 key-4\r\n"), None, &mut collected);
        let mut pending: Vec<_> = collected
            .parts
            .into_iter()
            .filter_map(|part| match part {
                Part::Get(get) => Some(get),
                Part::Bytes(_) => None,
            })
            .collect();
        let before = counters(&shard);
        let vain = vec![0xee; 4096];
        let mut encoded = Vec::new();
        // Bytes that are not the record stand for those of a table that was used again.
        ask(&shard, "set key-1 7 0 5\r\nother\r\n").await;
        assert_eq!(shard.settle(&mut pending[0], Some(&vain), &mut encoded), Settled::Encoded);
        assert_answer(&encoded, &[b"VALUE key-1 7 5\r\nother\r\n"]);
        ask(&shard, "delete key-2\r\n").await;
        assert_eq!(shard.settle(&mut pending[1], Some(&vain), &mut encoded), Settled::Miss);
        assert_eq!(shard.settle(&mut pending[2], None, &mut encoded), Settled::Miss, "the device failed");
        ask(&shard, "set key-4 8 0 5\r\nfinal\r\n").await;
        for number in 5000..7000 {
            shard.store.set(name(number).as_bytes(), &value(number), Meta::default()).await;
        }
        let place = pending[3].read().place();
        assert_eq!(shard.settle(&mut pending[3], Some(&vain), &mut encoded), Settled::Again);
        assert_ne!(pending[3].read().place(), place);
        assert_answer(&encoded, &[b"VALUE key-1 7 5\r\nother\r\n"]);
        let bytes = read(&shard, pending[3].read()).await.expect("the disk works");
        assert_eq!(shard.settle(&mut pending[3], Some(&bytes), &mut encoded), Settled::Hit);
        let mut sink = Copying::default();
        shard.encode_hit(&pending[3], &bytes, &mut sink);
        assert_answer(&sink.0, &[b"VALUE key-4 8 5\r\nfinal\r\n"]);
        let (after, expected) = (counters(&shard), gets(2, 2));
        assert_eq!(after.cmd_get - before.cmd_get, expected.cmd_get);
        assert_eq!((after.get_hits, after.get_misses), (expected.get_hits, expected.get_misses));
        assert_eq!(shard.store.counters().damaged_records, 0);
    });
}

/// Executes a `get` or `mg` of a record on disk; its read is still to come.
fn begin(shard: &Shard<Sim>, text: &str) -> Collected {
    let mut collected = Collected::new(1);
    assert!(matches!(shard.execute(&request(text), None, &mut collected), Executed::Done(After::Continue)));
    assert_eq!(collected.reads(), 1, "{text}");
    collected
}

/// Who takes the token of a stale item notes in it that it was fetched, and in no other item that has come in the meantime.
#[test]
fn what_replaces_a_stale_item_while_it_is_read_was_not_fetched() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        assert_answer(&ask_disk(&shard, "md key-1 I T90\r\n").await, &[b"HD\r\n"]);
        assert_answer(&ask_disk(&shard, "md key-2 I T90\r\n").await, &[b"HD\r\n"]);
        shard.store.forget_memory().await;
        let (replaced, kept) = (begin(&shard, "mg key-1 f\r\n"), begin(&shard, "mg key-2 f\r\n"));
        let fetched_later = begin(&shard, "get key-2\r\n");
        assert_answer(&ask(&shard, "ms key-1 3 T0\r\nnew\r\n").await, &[b"HD\r\n"]);
        assert_answer(&send(&shard, replaced).await, &[b"HD f1 X W\r\n"]);
        assert_answer(&ask(&shard, "mg key-1 h\r\n").await, &[b"HD h0\r\n"]);
        assert_answer(&ask(&shard, "mg key-1 h\r\n").await, &[b"HD h1\r\n"]);
        assert_answer(&send(&shard, kept).await, &[b"HD f2 X W\r\n"]);
        assert_answer(&ask(&shard, "mg key-2 h\r\n").await, &[b"HD h1 Z X\r\n"]);
        send(&shard, fetched_later).await;
    });
}

/// One who leaves no trace takes the token; another has fetched the item before the record is written again.
#[test]
fn a_token_that_is_taken_without_a_trace_leaves_those_of_others() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        for (number, others, expected) in [(1, false, "h0"), (2, true, "h1")] {
            assert_answer(&ask_disk(&shard, &format!("md key-{number} I T90\r\n")).await, &[b"HD\r\n"]);
            shard.store.forget_memory().await;
            let traceless = begin(&shard, &format!("mg key-{number} u f\r\n"));
            let other = others.then(|| begin(&shard, &format!("get key-{number}\r\n")));
            assert_answer(&send(&shard, traceless).await, &[format!("HD f{number} X W\r\n").as_bytes()]);
            if let Some(other) = other {
                send(&shard, other).await;
            }
            let answer = ask(&shard, &format!("mg key-{number} u h\r\n")).await;
            assert_answer(&answer, &[format!("HD {expected} Z X\r\n").as_bytes()]);
        }
    });
}

#[test]
fn commands_that_change_a_record_on_disk_ask_for_it_first() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        assert_answer(&ask_disk(&shard, "incr key-1 5\r\n").await, &[b"6\r\n"]);
        assert_answer(&ask_disk(&shard, "decr key-7 5\r\n").await, &[b"2\r\n"]);
        assert_answer(&ask_disk(&shard, "append key-2 0 0 3\r\nend\r\n").await, &[b"STORED\r\n"]);
        assert_answer(&ask_disk(&shard, "prepend key-3 0 0 3 noreply\r\npre\r\n").await, &[]);
        let version = shard.store.get(b"key-4").await.expect("the disk works").expect("there").version;
        let unique = shard.store.cas_unique(version);
        let wrong = ask_disk(&shard, &format!("cas key-4 1 0 3 {}\r\nnew\r\n", unique + 1)).await;
        assert_answer(&wrong, &[b"EXISTS\r\n"]);
        let right = ask_disk(&shard, &format!("cas key-4 1 0 3 {unique}\r\nnew\r\n")).await;
        assert_answer(&right, &[b"STORED\r\n"]);
        assert_answer(&ask(&shard, "cas none 1 0 3 1\r\nnew\r\n").await, &[b"NOT_FOUND\r\n"]);
        let expected = CommandCounters {
            cmd_set: 5,
            incr_hits: 1,
            decr_hits: 1,
            cas_badval: 1,
            cas_hits: 1,
            cas_misses: 1,
            ..CommandCounters::default()
        };
        assert_eq!(counters(&shard), expected);
        assert_answer(&ask(&shard, "get key-4\r\n").await, &[b"VALUE key-4 1 3\r\nnew\r\nEND\r\n"]);
        let appended = [b"VALUE key-2 2 1003\r\n", &value(2)[..], b"end\r\nEND\r\n"].concat();
        assert_answer(&ask(&shard, "get key-2\r\n").await, &[&appended]);
        let prepended = [b"VALUE key-3 3 1003\r\npre", &value(3)[..], b"\r\nEND\r\n"].concat();
        assert_answer(&ask(&shard, "get key-3\r\n").await, &[&prepended]);
    });
}

#[test]
fn a_failed_read_is_answered_and_counted_once() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        let failed: &[u8] = b"SERVER_ERROR disk read failed\r\n";
        assert_answer(&ask_disk(&shard, "incr key-1 5\r\n").await, &[failed]);
        assert_answer(&ask_disk(&shard, "append key-2 0 0 3\r\nend\r\n").await, &[failed]);
        assert_answer(&ask_disk(&shard, "cas key-3 0 0 3 1\r\nnew\r\n").await, &[failed]);
        assert_answer(&ask_disk(&shard, "decr key-1 5 noreply\r\n").await, &[]);
        assert_answer(&ask(&shard, "get key-4\r\n").await, &[b"END\r\n"]);
        let expected = CommandCounters { cmd_set: 2, ..gets(0, 1) };
        assert_eq!(counters(&shard), expected);
        assert_eq!(shard.store.counters().disk_read_errors, 5);
    });
}

/// Stores values until there is no room for more, and notes that they were counted.
fn fill_up(shard: &Shard<Sim>, expected: &mut CommandCounters) {
    let large = "v".repeat(60_000);
    loop {
        let text = format!("set filler-{} 0 0 60000\r\n{large}\r\n", expected.cmd_set);
        match shard.execute(&request(&text), None, &mut Collected::default()) {
            Executed::Done(_) => expected.cmd_set += 1,
            Executed::Blocked(Obstacle::Room) => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Every command that writes meets full buffers, and is counted only when it is done.
#[test]
fn what_waits_for_room_is_counted_when_it_is_done() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        let mut expected = CommandCounters::default();
        for (line, answer, count) in [
            ("set k 0 0 1\r\nv\r\n", "STORED\r\n", (|c| c.cmd_set += 1) as fn(&mut CommandCounters)),
            ("append k 0 0 1\r\nw\r\n", "STORED\r\n", |c| c.cmd_set += 1),
            ("touch key-1 0\r\n", "TOUCHED\r\n", |c| (c.cmd_touch, c.touch_hits) = (c.cmd_touch + 1, c.touch_hits + 1)),
            ("delete key-1998\r\n", "DELETED\r\n", |c| c.delete_hits += 1),
            ("incr key-1999 1\r\n", "2000\r\n", |c| c.incr_hits += 1),
            ("set key-1997 0 0 70000\r\n", "SERVER_ERROR object too large for cache\r\n", |c| c.store_too_large += 1),
            ("flush_all\r\n", "OK\r\n", |c| c.cmd_flush += 1),
        ] {
            fill_up(&shard, &mut expected);
            let mut wait_count = 0;
            let mut brought = None;
            loop {
                let (progress, mut collected) = (shard.store.progress_count(), Collected::default());
                let held =
                    brought.as_ref().map(|(read, bytes): &(_, Option<Vec<u8>>)| Held { read, bytes: bytes.as_deref() });
                match shard.execute(&request(line), held.as_ref(), &mut collected) {
                    Executed::Done(After::Continue) => {
                        assert_answer(&send(&shard, collected).await, &[answer.as_bytes()]);
                        break;
                    }
                    Executed::Blocked(Obstacle::Disk(plan)) => {
                        let bytes = read(&shard, &plan).await;
                        brought = Some((plan, bytes));
                        fill_up(&shard, &mut expected);
                        continue;
                    }
                    Executed::Blocked(Obstacle::Room) => wait_count += 1,
                    other => panic!("{line}: {other:?}"),
                }
                assert!(collected.parts.is_empty() && counters(&shard) == expected, "{line}: nothing is done yet");
                while shard.store.progress_count() == progress {
                    sim.sleep(Duration::from_micros(1)).await;
                }
            }
            assert!(wait_count > 0, "{line}: it has waited");
            count(&mut expected);
            assert_eq!(counters(&shard), expected, "{line}");
        }
    });
}

#[test]
fn requests_without_a_record_are_done_at_once() {
    let sim = world();
    sim.run(async {
        let shard = shard(&sim).await;
        assert_answer(&ask(&shard, "verbosity 1\r\n").await, &[b"OK\r\n"]);
        assert_answer(&ask(&shard, "delete none noreply\r\n").await, &[]);
        assert_answer(&ask(&shard, "touch none 0\r\n").await, &[b"NOT_FOUND\r\n"]);
        assert_answer(&ask(&shard, "incr none 1\r\n").await, &[b"NOT_FOUND\r\n"]);
        assert_answer(&ask(&shard, "append none 0 0 1\r\nv\r\n").await, &[b"NOT_STORED\r\n"]);
        assert!(ask(&shard, "version\r\n").await.starts_with(b"VERSION "));
        assert!(ask(&shard, "stats\r\n").await.ends_with(b"END\r\n"));
        let closed = shard.execute(&request("quit\r\n"), None, &mut Collected::default());
        assert!(matches!(closed, Executed::Done(After::Close)), "{closed:?}");
        let expected = CommandCounters {
            delete_misses: 1,
            cmd_touch: 1,
            touch_misses: 1,
            incr_misses: 1,
            cmd_set: 1,
            ..CommandCounters::default()
        };
        assert_eq!(counters(&shard), expected);
    });
}
