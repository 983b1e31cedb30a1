//! Random histories against a map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KEY_COUNT: u64 = 600;

#[derive(Clone, Debug)]
enum Operation {
    /// Reads the key so many times.
    Read(u64, u8),
    Write(u64, u16),
    Touch(u64, u32),
    Remove(u64),
    /// Of a place that is the key's or another.
    RemoveAt(u64, bool),
    Repoint(u64, bool),
    Pin(u64),
    Unpin,
    Retain(u64),
    CacheMax(usize),
    Budget(usize),
    Shrink,
    Walk,
    Clear,
    /// Many new keys, so that the index grows, and the end of them.
    Flood(u16),
    Ebb,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let key = || 0..KEY_COUNT;
    let one = prop_oneof![
        60 => (key(), 1u8..6).prop_map(|(key, count)| Operation::Read(key, count)),
        20 => (key(), prop_oneof![0u16..500, 0u16..40_000]).prop_map(|(key, size)| Operation::Write(key, size)),
        5 => (key(), any::<u32>()).prop_map(|(key, expiry)| Operation::Touch(key, expiry)),
        5 => key().prop_map(Operation::Remove),
        5 => (key(), any::<bool>()).prop_map(|(key, is_its_own)| Operation::RemoveAt(key, is_its_own)),
        5 => (key(), any::<bool>()).prop_map(|(key, is_its_own)| Operation::Repoint(key, is_its_own)),
        4 => key().prop_map(Operation::Pin),
        4 => Just(Operation::Unpin),
        1 => (2u64..9).prop_map(Operation::Retain),
        2 => prop_oneof![Just(0), 0..BUDGET].prop_map(Operation::CacheMax),
        1 => (BUDGET / 2..BUDGET).prop_map(Operation::Budget),
        2 => Just(Operation::Shrink),
        2 => Just(Operation::Walk),
        1 => Just(Operation::Clear),
        1 => (1u16..30_000).prop_map(Operation::Flood),
        1 => Just(Operation::Ebb),
    ];
    proptest::collection::vec(one, 1..400)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Expected {
    place: u64,
    seed: u64,
    size: usize,
    expiry: u32,
}

struct Checked {
    cached: CachedIndex,
    model: HashMap<u64, Expected>,
    pinned: Vec<(dma_alloc::PinnedCell, Vec<u8>)>,
    next: u64,
    flood: u64,
}

impl Checked {
    fn pointer_of(&self, key: u64, is_its_own: bool) -> Pointer {
        let place = self.model.get(&key).filter(|_| is_its_own).map_or(1 << 30, |expected| expected.place);
        pointer(place)
    }

    fn write(&mut self, key: u64, size: usize) {
        self.next += 1;
        let expected = Expected { place: self.next, seed: self.next, size, expiry: 0 };
        let new = Entry::new(pointer(self.next), SizeClass(9), 0);
        let old = self.cached.upsert(&digest(key), new).expect("there is room");
        let old_place = self.model.insert(key, expected).map(|old| pointer(old.place));
        assert_eq!(old.map(|old| old.pointer), old_place);
    }

    fn read(&mut self, key: u64) {
        let found = self.cached.find(&digest(key));
        let expected = self.model.get(&key).copied();
        assert_eq!(
            found.map(|found| (found.entry.pointer, found.entry.expiry, found.entry.is_cached)),
            expected.map(|expected| (pointer(expected.place), expected.expiry, false))
        );
        let (Some(found), Some(expected)) = (found, expected) else { return };
        let record = record(key, expected.seed, expected.size);
        match found.cell {
            Some(cell) => assert_eq!(self.cached.hit(cell).bytes(), record),
            None => {
                self.cached.insert(&digest(key), found.entry, &record);
                self.cached.note_fetched(&digest(key));
            }
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Read(key, count) => (0..count).for_each(|_| self.read(key)),
            Operation::Write(key, size) => self.write(key, usize::from(size)),
            Operation::Touch(key, expiry) => {
                let touched = self.cached.set_expiry(&digest(key), expiry);
                let expected = self.model.get_mut(&key);
                assert_eq!(touched.map(|old| old.expiry), expected.as_ref().map(|expected| expected.expiry));
                expected.into_iter().for_each(|expected| expected.expiry = expiry);
            }
            Operation::Remove(key) => {
                let removed = self.cached.remove(&digest(key)).map(|old| old.pointer);
                assert_eq!(removed, self.model.remove(&key).map(|old| pointer(old.place)));
            }
            Operation::RemoveAt(key, is_its_own) => {
                let removed = self.cached.remove_at(&digest(key), self.pointer_of(key, is_its_own));
                assert_eq!(removed.is_some(), is_its_own && self.model.remove(&key).is_some());
            }
            Operation::Repoint(key, is_its_own) => {
                self.next += 1;
                let from = self.pointer_of(key, is_its_own);
                let is_done = self.cached.repoint(&digest(key), from, pointer(self.next)).is_some();
                assert_eq!(is_done, is_its_own && self.model.contains_key(&key));
                if let (true, Some(expected)) = (is_done, self.model.get_mut(&key)) {
                    expected.place = self.next;
                }
            }
            Operation::Pin(key) => {
                let Some(cell) = self.cached.find(&digest(key)).and_then(|found| found.cell) else { return };
                let Expected { seed, size, .. } = self.model[&key];
                if let Some(pin) = self.cached.hit(cell).pin() {
                    self.pinned.push((pin, record(key, seed, size)));
                }
            }
            Operation::Unpin => drop(self.pinned.pop()),
            Operation::Retain(parts) => {
                let keep = |place: u64| !place.is_multiple_of(parts);
                self.cached.retain(|entry| keep(u64::from(entry.pointer.offset / 16)));
                self.model.retain(|_, expected| keep(expected.place & 0x3f_ffff));
            }
            Operation::CacheMax(size) => self.cached.set_cache_max(size),
            Operation::Budget(size) => {
                let before = self.cached.budget;
                let is_changed = self.cached.set_budget(size);
                assert_eq!(self.cached.budget, if is_changed { size } else { before });
            }
            Operation::Shrink => while self.pinned.is_empty() && self.cached.shrink(1000) {},
            Operation::Walk => {
                self.walk();
                self.cached.invariants();
            }
            Operation::Clear => {
                self.cached.clear();
                self.model.clear();
            }
            Operation::Flood(count) => {
                for _ in 0..count {
                    if self.cached.has_room() {
                        self.flood += 1;
                        self.write(1_000_000 + self.flood, 10);
                    }
                }
            }
            Operation::Ebb => {
                for key in 0..std::mem::take(&mut self.flood) {
                    self.apply(Operation::Remove(1_000_000 + key + 1));
                }
            }
        }
    }

    fn walk(&self) {
        let mut visited = HashMap::new();
        let mut cursor = Some(Cursor::START);
        while let Some(from) = cursor {
            cursor = self.cached.walk(from, |digest, entry| {
                assert!(!entry.is_cached);
                assert_eq!(visited.insert(digest, (entry.pointer, entry.expiry)), None);
            });
        }
        let expected = |(key, expected): (&u64, &Expected)| (digest(*key), (pointer(expected.place), expected.expiry));
        assert_eq!(visited, self.model.iter().map(expected).collect());
    }

    fn check(&self) {
        assert_eq!(self.cached.len(), self.model.len());
        for (pin, bytes) in &self.pinned {
            assert_eq!(&**pin, bytes);
        }
        let is_over = self.cached.fifo.cells.is_over_budget();
        let sum = self.cached.memory_size() + self.cached.cache_gauges().memory_bytes;
        assert!(is_over || sum <= self.cached.budget + 2 * KIB, "{sum} of {}", self.cached.budget);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_cached_index_is_an_index_whose_records_are_right(operations in operations()) {
        let mut checked = Checked { cached: cached(MIB), model: HashMap::new(), pinned: Vec::new(), next: 0, flood: 0 };
        for operation in operations {
            checked.apply(operation);
            checked.check();
        }
        (0..KEY_COUNT).for_each(|key| checked.read(key));
        checked.walk();
        checked.cached.invariants();
    }
}
