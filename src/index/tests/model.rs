//! Random histories against a `HashMap`.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Upsert(u16, u32),
    Remove(u16),
    RemoveAt(u16, u32),
    ReplaceAt(u16, u32, u32),
    Expiry(u16, u32),
    Batch(u16),
    Walk,
    /// Inserts or removes so many keys at once, for splits and merges.
    Many(bool, u16),
    Retain(u32),
    Rebuild(u32),
    Clear,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        40 => (any::<u16>(), any::<u32>()).prop_map(|(key, value)| Operation::Upsert(key, value)),
        30 => any::<u16>().prop_map(Operation::Remove),
        5 => (any::<u16>(), any::<u32>()).prop_map(|(key, value)| Operation::RemoveAt(key, value)),
        5 => (any::<u16>(), any::<u32>(), any::<u32>()).prop_map(|(key, old, new)| Operation::ReplaceAt(key, old, new)),
        10 => (any::<u16>(), any::<u32>()).prop_map(|(key, value)| Operation::Expiry(key, value)),
        5 => any::<u16>().prop_map(Operation::Batch),
        20 => Just(Operation::Walk),
        5 => (any::<bool>(), any::<u16>()).prop_map(|(adds, start)| Operation::Many(adds, start)),
        1 => (1u32..9).prop_map(Operation::Retain),
        1 => (0u32..20_000).prop_map(Operation::Rebuild),
        1 => Just(Operation::Clear),
    ];
    proptest::collection::vec(one, 1..150)
}

/// How the digests of keys are spread.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Even,
    /// Over four segments.
    Crowded,
    /// In one bucket.
    Meeting,
}

/// An index with as few first segments as `LEVEL_MIN` allows is too large to be split and merged by small histories:
/// the mean length of a segment is what this one changes, by its geometry. Entries as in `Index`, blocks of two.
type Small = SlabIndex<28, 56, 384>;

struct Checked<const WIDTH: usize, const BLOCK: usize, const ROW: usize> {
    index: SlabIndex<WIDTH, BLOCK, ROW>,
    model: HashMap<Digest, Entry>,
    spread: Spread,
    /// A walk under way, what was there when it began and is untouched, and what it has visited.
    walk: Option<(Cursor, HashSet<Digest>, HashSet<Digest>)>,
}

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> Checked<WIDTH, BLOCK, ROW> {
    fn new(spread: Spread) -> Self {
        Self { index: SlabIndex::new(256 * MIB, TABLE_SIZE_DEFAULT), model: HashMap::new(), spread, walk: None }
    }

    fn key(&self, key: u16) -> Digest {
        let mut digest = digest(u64::from(key) % 30_000);
        match self.spread {
            Spread::Even => {}
            Spread::Crowded => {
                digest.0[2] &= 0xc0;
                digest.0[3] &= 0x7f;
            }
            Spread::Meeting => {
                digest = meeting(u32::from(key) % 3000);
            }
        }
        if WIDTH == DenseIndex::ENTRY_SIZE {
            // What a dense index does not hold a walk cannot tell.
            digest.0[14..].fill(0);
            digest.0[..2].fill(0);
        }
        digest
    }

    /// What the key points at, or something else.
    fn pointer_of(&self, digest: &Digest, choice: u32) -> Pointer {
        let present = self.model.get(digest).filter(|_| choice.is_multiple_of(2));
        present.map_or_else(|| entry(choice).pointer, |entry| entry.pointer)
    }

    /// The key is not what it was when the walk began.
    fn touched(&mut self, digest: &Digest) {
        if let Some((_, untouched, _)) = &mut self.walk {
            untouched.remove(digest);
        }
    }

    fn upsert(&mut self, key: u16, value: u32) {
        let digest = self.key(key);
        self.touched(&digest);
        assert_eq!(self.index.upsert(&digest, entry(value)), Ok(self.model.insert(digest, entry(value))));
    }

    fn remove(&mut self, key: u16) {
        let digest = self.key(key);
        self.touched(&digest);
        assert_eq!(self.index.remove(&digest), self.model.remove(&digest));
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Upsert(key, value) => self.upsert(key, value),
            Operation::Remove(key) => self.remove(key),
            Operation::RemoveAt(key, value) => {
                let digest = self.key(key);
                let pointer = self.pointer_of(&digest, value);
                let is_there = self.model.get(&digest).is_some_and(|entry| entry.pointer == pointer);
                let expected = if is_there { self.model.remove(&digest) } else { None };
                self.touched(&digest);
                assert_eq!(self.index.remove_at(&digest, pointer), expected);
            }
            Operation::ReplaceAt(key, old, new) => {
                let digest = self.key(key);
                let pointer = self.pointer_of(&digest, old);
                let present = self.model.get_mut(&digest).filter(|entry| entry.pointer == pointer);
                let is_there = present.is_some();
                if let Some(present) = present {
                    *present = entry(new);
                }
                assert_eq!(self.index.replace_at(&digest, pointer, entry(new)), is_there);
            }
            Operation::Expiry(key, expiry) => {
                let digest = self.key(key);
                let old = self.model.get(&digest).copied();
                self.model.entry(digest).and_modify(|entry| entry.expiry = expiry);
                assert_eq!(self.index.set_expiry(&digest, expiry), old);
            }
            Operation::Batch(start) => {
                let digests: Vec<Digest> = (0..40).map(|number| self.key(start.wrapping_add(number))).collect();
                let mut entries = vec![None; 40];
                self.index.get_batch(&digests, &mut entries);
                let expected: Vec<_> = digests.iter().map(|digest| self.model.get(digest).copied()).collect();
                assert_eq!(entries, expected);
            }
            Operation::Walk => self.walk_on(),
            Operation::Many(adds, start) => (0..4000).for_each(|number| {
                let key = start.wrapping_add(number);
                if adds { self.upsert(key, u32::from(number)) } else { self.remove(key) }
            }),
            Operation::Retain(divisor) => {
                self.index.retain(|entry| entry.pointer.slot % divisor != 0);
                self.model.retain(|_, entry| entry.pointer.slot % divisor != 0);
                let model = &self.model;
                if let Some((_, untouched, _)) = &mut self.walk {
                    untouched.retain(|digest| model.contains_key(digest));
                }
            }
            Operation::Rebuild(len_expected) => {
                let mut sorted: Vec<_> = self.model.iter().map(|(digest, entry)| (*digest, *entry)).collect();
                sorted.sort_by_key(|(digest, _)| Index::order(digest));
                self.index.clear();
                assert_eq!(self.index.build(len_expected as usize, sorted), Ok(()));
            }
            Operation::Clear => {
                self.index.clear();
                self.model.clear();
                self.walk = None;
            }
        }
    }

    /// One step of a walk, or a new one.
    fn walk_on(&mut self) {
        let begin = || (Cursor::START, self.model.keys().copied().collect(), HashSet::new());
        let (mut cursor, untouched, mut visited) = self.walk.take().unwrap_or_else(begin);
        for _ in 0..50 {
            let next = self.index.walk(cursor, |digest, entry| {
                assert!(visited.insert(digest), "visited twice");
                assert_eq!(self.model.get(&digest), Some(&entry));
            });
            let Some(next) = next else {
                assert!(untouched.is_subset(&visited), "an entry that was there all the time was not visited");
                return;
            };
            cursor = next;
        }
        self.walk = Some((cursor, untouched, visited));
    }

    fn check(&self) {
        assert_eq!(self.index.len(), self.model.len());
        self.index.invariants();
    }

    fn run(mut self, start: u16, operations: Vec<Operation>) {
        (0..start).for_each(|key| self.upsert(key, u32::from(key)));
        self.check();
        for operation in operations {
            self.apply(operation);
            self.check();
        }
        for (digest, entry) in &self.model {
            assert_eq!(self.index.get(digest), Some(*entry));
        }
    }
}

fn spreads() -> impl Strategy<Value = Spread> {
    prop_oneof![Just(Spread::Even), Just(Spread::Crowded), Just(Spread::Meeting)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(spread in spreads(), start in 0u16..4000, operations in operations()) {
        Checked::<28, 1792, 512>::new(spread).run(start, operations);
    }

    #[test]
    fn a_dense_one_behaves_like_a_map(spread in spreads(), start in 0u16..4000, operations in operations()) {
        Checked::<19, 1216, 576>::new(spread).run(start, operations);
    }

    #[test]
    fn one_of_short_segments_behaves_like_a_map(spread in spreads(), start in 0u16..20_000, operations in operations()) {
        let checked = Checked { index: Small::new(1024 * MIB, TABLE_SIZE_DEFAULT), ..Checked::new(spread) };
        checked.run(start, operations);
    }
}

#[test]
fn short_segments_split_and_merge_in_such_histories() {
    let mut checked: Checked<28, 56, 384> = Checked::new(Spread::Even);
    checked.apply(Operation::Many(true, 0));
    let small = checked.index.rows.len();
    (1..6).for_each(|part| checked.apply(Operation::Many(true, part * 4000)));
    let large = checked.index.rows.len();
    assert!(small < large && large > 600, "{small} {large} {}", Small::LEN_MEAN);
    (0..6).for_each(|part| checked.apply(Operation::Many(false, part * 4000)));
    assert_eq!((checked.index.rows.len(), checked.index.len()), (512, 0));
}
