//! A disk that is nearly full of what is alive, and is overwritten over and over: nothing is refused, nothing is lost, and
//! nothing comes back. `CHURN_ROUNDS` sets how many times half a capacity is written, and `CHURN_MIB` how large one is.

use crate::support::{Client, Store, damage, shown, value_of};
use std::fmt::Write as _;

const ROUNDS_DEFAULT: usize = 2;
const MIB_DEFAULT: usize = 64;

/// Tables, of a MiB each, that are open or free at any time, or nearly so: of few tables that is a large part.
const SPARE_TABLE_COUNT: usize = 8;
/// Of the bytes of all others, so many are of live records and their summaries: 90 % of all bytes, of 256 tables.
const UTILISATION_PERCENT: usize = 93;
const HEADER_SIZE: usize = 28;
const GRANULE: usize = 16;
const SUMMARY_SIZE: usize = 40;

const BATCH_COUNT: usize = 128;
/// One of so many writes is a deletion, and the key is set again with the next write that meets it.
const DELETION_SHARE: u64 = 16;

/// The same numbers for each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

fn key(number: usize) -> String {
    format!("churn-{number:06}")
}

/// Each key has values of one size, so that what is alive is known.
fn size(number: usize) -> usize {
    let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    if number.is_multiple_of(500) { 20_000 } else { 100 + spread as usize % 1800 }
}

fn value(number: usize, version: u32) -> Vec<u8> {
    value_of(&format!("{number} in version {version}"), size(number))
}

/// How many keys fill a disk of so many tables so far.
fn key_count(table_count: usize) -> usize {
    let mut left = ((table_count - SPARE_TABLE_COUNT) << 20) * UTILISATION_PERCENT / 100;
    (0..)
        .take_while(|&number| {
            let record = HEADER_SIZE + key(number).len() + size(number);
            let footprint = record.next_multiple_of(GRANULE) + SUMMARY_SIZE;
            let fits = footprint <= left;
            left = left.saturating_sub(footprint);
            fits
        })
        .count()
}

/// What is there: the version of each key, and whether it is deleted.
struct Model {
    versions: Vec<u32>,
    is_deleted: Vec<bool>,
    random: Random,
}

impl Model {
    fn expected(&self, number: usize) -> Option<Vec<u8>> {
        (!self.is_deleted[number]).then(|| value(number, self.versions[number]))
    }

    fn check(&self, client: &mut Client, number: usize, when: &str) {
        let (found, expected) = (client.get(&key(number)), self.expected(number));
        let of = |value: &Option<Vec<u8>>| value.as_ref().map_or_else(|| "nothing".to_owned(), |value| shown(value));
        assert!(
            found == expected,
            "{when}: {} is {} instead of version {} ({})",
            key(number),
            of(&found),
            self.versions[number],
            of(&expected)
        );
    }

    fn check_all(&self, client: &mut Client, when: &str) {
        (0..self.versions.len()).for_each(|number| self.check(client, number, when));
        let live_count = self.is_deleted.iter().filter(|is_deleted| !**is_deleted).count();
        assert_eq!(client.stat("curr_items"), live_count as u64, "{when}");
    }

    /// Sends a set or a deletion for each of `numbers` at once, and then reads all answers. Returns the bytes of what was set.
    fn write(&mut self, client: &mut Client, numbers: &[usize], may_delete: bool) -> usize {
        let (mut requests, mut answers, mut written) = (Vec::new(), Vec::new(), 0);
        for &number in numbers {
            let key = key(number);
            if may_delete && self.random.below(DELETION_SHARE) == 0 {
                requests.extend_from_slice(format!("delete {key}\r\n").as_bytes());
                answers.push(if self.is_deleted[number] { "NOT_FOUND" } else { "DELETED" });
                self.is_deleted[number] = true;
                continue;
            }
            self.versions[number] += 1;
            self.is_deleted[number] = false;
            let value = value(number, self.versions[number]);
            written += key.len() + value.len();
            let mut line = String::new();
            write!(line, "set {key} 0 0 {}\r\n", value.len()).expect("a String takes every write");
            requests.extend_from_slice(line.as_bytes());
            requests.extend_from_slice(&value);
            requests.extend_from_slice(b"\r\n");
            answers.push("STORED");
        }
        client.send(&requests);
        for (number, answer) in numbers.iter().zip(answers) {
            assert_eq!(client.line(), answer, "{}: writers wait, and are not refused", key(*number));
        }
        written
    }

    /// Overwrites random keys until half a capacity of keys and values was written, and looks at some others meanwhile.
    fn churn(&mut self, client: &mut Client, capacity: usize, round: usize) {
        let count = self.versions.len() as u64;
        let mut written = 0;
        while written < capacity / 2 {
            let numbers: Vec<usize> = (0..BATCH_COUNT).map(|_| self.random.below(count) as usize).collect();
            written += self.write(client, &numbers, true);
            for _ in 0..BATCH_COUNT / 8 {
                let number = self.random.below(count) as usize;
                self.check(client, number, &format!("in round {round}"));
            }
        }
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_overwritten_for_ever() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|count| count.parse::<usize>().ok());
    let (rounds, mib) = (asked("CHURN_ROUNDS").unwrap_or(ROUNDS_DEFAULT), asked("CHURN_MIB").unwrap_or(MIB_DEFAULT));
    let (count, capacity) = (key_count(mib), mib << 20);
    let mut model = Model { versions: vec![0; count], is_deleted: vec![true; count], random: Random(0x5eed_0fc5) };
    let size = format!("{mib}m");
    let store = Store::new(&["--table-size", "1m", "--capacity", &size, "-I", "256k", "-M"]);
    let mut server = store.start();
    let mut client = server.client();
    let all: Vec<usize> = (0..count).collect();
    all.chunks(BATCH_COUNT).for_each(|numbers| _ = model.write(&mut client, numbers, false));
    for round in 1..=rounds {
        model.churn(&mut client, capacity, round);
        let stats = client.stats();
        let number = |name: &str| stats[name].parse::<u64>().expect("a counter is a number");
        assert_eq!((number("evictions"), number("store_no_memory")), (0, 0), "round {round}");
        let tables: u64 = damage::tables(store.directory())
            .iter()
            .map(|path| path.metadata().expect("a table has metadata").len())
            .sum();
        assert!(tables <= capacity as u64, "round {round}: the tables take {tables} bytes");
        // Every other start has a checkpoint; the others find what was moved in the tables.
        client.wait_until_flushed();
        drop(client);
        if round.is_multiple_of(2) {
            server.terminate();
        } else {
            server.kill();
        }
        server = store.start();
        client = server.client();
        model.check_all(&mut client, &format!("after round {round} and another start"));
    }
}
