use super::*;
use crate::index::Pointer;
use crate::limits::{KIB, MIB, TABLE_SIZE_DEFAULT};
use crate::record::{Header, Kind, Place, SizeClass, encode, record_size};

mod model;

const SALT: Salt = [7; 16];
const BUDGET: usize = 8 * MIB;

fn cached(cache_max: usize) -> CachedIndex {
    CachedIndex::new(Index::new(BUDGET, TABLE_SIZE_DEFAULT), TABLE_SIZE_DEFAULT, SALT, BUDGET, cache_max)
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn digest(number: u64) -> Digest {
    Digest::of(&SALT, &key(number))
}

/// The record of a key with `size` bytes of value, which `seed` tells from others.
fn record(number: u64, seed: u64, size: usize) -> Vec<u8> {
    let key = key(number);
    let value: Vec<u8> = (0..size as u64).map(|at| (at + seed) as u8).collect();
    let header = Header { kind: Kind::Value, version: seed, expiry: 0, client_flags: 0, bits: 0, own_cas: None };
    let mut bytes = vec![0; record_size(key.len(), size)];
    encode(&mut bytes, Place { slot: 0, sequence: 0, offset: 0 }, header, &key, &value);
    bytes
}

fn pointer(number: u64) -> Pointer {
    Pointer { slot: (number >> 22) as u32, offset: (number as u32 & 0x3f_ffff) * 16 }
}

fn entry(number: u64) -> Entry {
    Entry { hotness: FETCHED, ..Entry::new(pointer(number), SizeClass(9), 0) }
}

/// Reads a key as a store does: from the cache, or from disk, and then it is cached the second time. Says whether it was a hit.
fn read(cached: &mut CachedIndex, number: u64, size: usize) -> bool {
    let digest = digest(number);
    let found = match cached.find(&digest) {
        Some(found) => found,
        None => {
            cached.upsert(&digest, Entry { hotness: 0, ..entry(number) }).expect("there is room");
            cached.find(&digest).expect("just inserted")
        }
    };
    if let Some(cell) = found.cell {
        assert_eq!(cached.hit(cell).bytes(), record(number, number, size));
        return true;
    }
    if CachedIndex::is_to_note(found.entry) {
        cached.note_fetched(&digest);
    }
    cached.insert(&digest, found.entry, &record(number, number, size));
    false
}

#[test]
fn the_second_read_caches_and_the_third_hits() {
    let mut cached = cached(BUDGET);
    assert_eq!([(); 4].map(|()| read(&mut cached, 1, 100)), [false, false, true, true]);
    assert_eq!((cached.cache_gauges().records, cached.cache_gauges().record_bytes), (1, record(1, 1, 100).len()));
    assert_eq!(cached.counters().hits, 2);
    assert_eq!(cached.get(&digest(1)).map(|entry| (entry.pointer, entry.is_cached)), Some((pointer(1), false)));
}

#[test]
fn what_changes_or_goes_is_not_cached_any_more() {
    let change: [fn(&mut CachedIndex); 6] = [
        |cached| assert!(cached.upsert(&digest(1), entry(2)).is_ok()),
        |cached| assert!(cached.remove(&digest(1)).is_some()),
        |cached| assert!(cached.remove_at(&digest(1), pointer(1)).is_some()),
        |cached| assert!(cached.modify(&digest(1), |found| found.pointer = pointer(2)).is_some()),
        |cached| cached.retain(|_| false),
        CachedIndex::clear,
    ];
    for change in change {
        let mut cached = cached(BUDGET);
        while !read(&mut cached, 1, 100) {}
        change(&mut cached);
        let gauges = cached.cache_gauges();
        assert_eq!((gauges.records, gauges.record_bytes, gauges.cell_bytes), (0, 0, 0));
        assert!(cached.find(&digest(1)).is_none_or(|found| found.cell.is_none()));
    }
}

#[test]
fn what_only_moves_on_disk_or_is_touched_stays_cached() {
    let mut cached = cached(BUDGET);
    while !read(&mut cached, 1, 100) {}
    assert_eq!(cached.set_expiry(&digest(1), 77).map(|old| old.expiry), Some(0));
    assert_eq!(cached.repoint(&digest(1), pointer(2), pointer(3)), None, "another place");
    assert_eq!(cached.remove_at(&digest(1), pointer(2)), None);
    assert!(cached.repoint(&digest(1), pointer(1), pointer(3)).is_some());
    cached.retain(|entry| entry.pointer == pointer(3));
    let found = cached.find(&digest(1)).expect("still there");
    assert_eq!((found.entry.pointer, found.entry.expiry), (pointer(3), 77));
    assert_eq!(cached.hit(found.cell.expect("still cached")).bytes(), record(1, 1, 100));
}

#[test]
fn a_record_that_is_not_the_newest_any_more_is_not_cached() {
    let mut cached = cached(BUDGET);
    cached.upsert(&digest(1), entry(1)).expect("there is room");
    assert!(!cached.insert(&digest(1), entry(2), &record(1, 2, 100)));
    assert!(!cached.insert(&digest(2), entry(2), &record(2, 2, 100)));
    assert!(cached.insert(&digest(1), entry(1), &record(1, 1, 100)));
    assert!(!cached.insert(&digest(1), entry(1), &record(1, 1, 100)), "it is there");
}

#[test]
fn records_of_more_than_half_a_page_are_not_cached() {
    let mut cached = cached(BUDGET);
    let fits = PAGE_SIZE_MIN / 2 - fifo::HEAD_SIZE;
    for (number, size, is_cached) in [(1, fits, true), (2, fits + 1, false)] {
        cached.upsert(&digest(number), entry(number)).expect("there is room");
        let value_size = size - record_size(key(number).len(), 0);
        assert_eq!(cached.insert(&digest(number), entry(number), &record(number, 1, value_size)), is_cached);
    }
}

/// A scan of keys that are read twice each, twenty times what the cache holds, between reads of a hot set.
#[test]
fn a_scan_does_not_drive_out_what_is_hot() {
    let mut cached = cached(MIB);
    for _ in 0..4 {
        for number in 0..1000 {
            read(&mut cached, number, 400);
        }
    }
    assert!((0..1000).all(|number| read(&mut cached, number, 400)), "they fit");
    let mut hits = 0;
    for number in 10_000..50_000u64 {
        read(&mut cached, number, 400);
        read(&mut cached, number, 400);
        hits += usize::from(read(&mut cached, number % 1000, 400));
    }
    assert!(hits > 39_000, "{hits} of 40000 reads of what is hot were hits");
}

#[test]
fn the_cache_gives_way_as_the_index_grows_and_takes_what_is_left_again() {
    let mut cached = cached(BUDGET);
    for number in 0..12_000 {
        while !read(&mut cached, number, 400) {}
    }
    let before = cached.cache_gauges().memory_bytes;
    assert!(before > 5 * MIB, "{before}");
    let mut number = 100_000u64;
    while cached.has_room() {
        let inserted = cached.upsert(&digest(number), entry(number));
        assert_eq!(inserted, Ok(None));
        number += 1;
        let sum = cached.memory_size() + cached.cache_gauges().memory_bytes;
        // The list of size classes is always there.
        assert!(sum <= BUDGET + 2 * KIB, "{sum} with {number}");
    }
    assert!(
        cached.cache_gauges().memory_bytes < MIB,
        "{} of {}",
        cached.cache_gauges().memory_bytes,
        cached.memory_size()
    );
    (100_000..number).for_each(|number| assert!(cached.remove(&digest(number)).is_some()));
    cached.clear();
    for number in 0..12_000 {
        while !read(&mut cached, number, 400) {}
    }
    assert!(cached.cache_gauges().memory_bytes > 5 * MIB);
}

#[test]
fn a_cache_that_is_turned_off_empties_itself() {
    let mut cached = cached(BUDGET);
    for number in 0..10_000 {
        while !read(&mut cached, number, 400) {}
    }
    cached.set_cache_max(0);
    assert!(!cached.insert(&digest(77), entry(77), &record(77, 77, 10)));
    while cached.shrink(100) {}
    assert_eq!(cached.cache_gauges().records, 0);
    assert!(cached.cache_gauges().memory_bytes < 16 * KIB, "{}", cached.cache_gauges().memory_bytes);
    assert!(
        (0..10_000).all(|number| cached.get(&digest(number)).is_some_and(|entry| entry.pointer == pointer(number)))
    );
    assert!(![(); 5].iter().any(|()| read(&mut cached, 5, 400)));
    cached.set_cache_max(BUDGET);
    assert!(!read(&mut cached, 5, 400));
    assert!(read(&mut cached, 5, 400));
}

/// What it was doing when the last record went is not gone on with in a smaller cache.
#[test]
fn a_cache_that_was_turned_off_while_it_emptied_a_page_may_come_back_smaller() {
    let mut cached = cached(BUDGET);
    for number in 0..30_000 {
        while !read(&mut cached, number, 400) {}
    }
    // Half of the cells of each page are free: records of another size have pages emptied for them.
    (0..30_000).filter(|number| number % 2 == 0).for_each(|number| _ = cached.remove(&digest(number)));
    for number in 100_000.. {
        if cached.vacating.is_some_and(|(page, _)| page > 40) {
            break;
        }
        assert!(number < 120_000, "no page was emptied");
        while !read(&mut cached, number, 1000) {}
    }
    cached.retain(|_| false);
    cached.set_cache_max(0);
    while cached.shrink(100) {}
    cached.set_cache_max(MIB);
    for number in 0..10_000 {
        while !read(&mut cached, number, 400) {}
    }
    assert!(cached.cache_gauges().records > 1000);
}

/// Where records become another size, pages become another class.
#[test]
fn memory_follows_the_sizes_of_records() {
    let mut cached = cached(4 * MIB);
    for (round, size) in [100usize, 1000, 60, 5000, 300].into_iter().enumerate() {
        let first = 100_000 * round as u64;
        let count = 3 * MIB / (size + 80);
        for number in first..first + 3 * count as u64 {
            // Twice to be cached, twice more to stay.
            for _ in 0..4 {
                read(&mut cached, number, size);
            }
        }
        let ours = (first..first + 3 * count as u64)
            .filter(|number| cached.find(&digest(*number)).is_some_and(|found| found.cell.is_some()));
        let size_of_ours: usize = ours.map(|number| record(number, 0, size).len()).sum();
        assert!(size_of_ours > 2 * MIB, "{size_of_ours} bytes of records of {size}");
        assert!(cached.cache_gauges().memory_bytes <= 4 * MIB + 64 * KIB);
    }
}

#[test]
fn what_is_noted_about_a_record_takes_at_most_16_bytes() {
    let mut cached = cached(BUDGET);
    for number in 0..20_000 {
        while !read(&mut cached, number, 100) {}
    }
    let CacheGauges { records, noted_bytes, .. } = cached.cache_gauges();
    assert!(noted_bytes <= 16 * records, "{noted_bytes} for {records}");
}

impl CachedIndex {
    /// Checks what always holds: each cached entry leads to a record whose key leads back, and there are no others.
    pub(crate) fn invariants(&self) {
        self.index.invariants();
        let mut cells = std::collections::HashSet::new();
        let mut cursor = Some(Cursor::START);
        while let Some(from) = cursor {
            cursor = self.index.walk(from, |digest, entry| {
                let Some(cell) = self.resolve(entry).cell else { return };
                assert!(self.fifo.is_live(cell) && self.digest_of(cell) == digest);
                assert!(cells.insert(cell), "two entries have a cell");
            });
        }
        assert_eq!(cells.len(), self.fifo.len());
        self.fifo.invariants();
    }
}
