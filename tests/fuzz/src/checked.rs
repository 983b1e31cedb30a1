//! An index and the map that it has to be like.

use std::collections::{BTreeMap, BTreeSet};

use dmacached::digest::Digest;
use dmacached::index::{BuildError, Cursor, Entry, Full, Pointer, SlabIndex};
use dmacached::record::SizeClass;

use crate::input::{Action, Budget, Input, Layout, Spread, Step, digest};

/// What an input may cost, in operations on one entry or so.
const WORK_MAX: usize = 16_000;
/// Most keys of a step that is about many.
const MANY_MAX: u16 = 3000;
/// Steps from one check of all invariants to the next.
const CHECK_INTERVAL: usize = 24;
/// Rows that there are at least, in all layouts.
const ROW_COUNT_MIN: usize = 512;

/// A hash as far as the layout holds it; the rest is 0.
type Key = [u8; 20];

/// A walk under way.
#[derive(Default)]
struct Walk {
    cursor: Option<Cursor>,
    /// What was there when it began, has been there since, and was not visited yet.
    expected: BTreeSet<Key>,
    last: Option<Key>,
}

/// The index, the map, and what is needed to make keys and entries.
pub struct Checked<const WIDTH: usize, const BLOCK: usize, const ROW: usize> {
    index: SlabIndex<WIDTH, BLOCK, ROW>,
    model: BTreeMap<Key, Entry>,
    walk: Walk,
    spread: Spread,
    budget_size: usize,
    /// Whether no input can spend the budget.
    is_ample: bool,
    /// Whether an entry is sure to have room in its segment: then blocks are all that can be missing.
    never_overflows: bool,
    table_size: usize,
    work: usize,
}

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> Checked<WIDTH, BLOCK, ROW> {
    /// Bytes of a hash that the layout holds.
    const HASH_SIZE: usize = if WIDTH == 28 { 20 } else { 12 };

    /// An empty index as the input wants it.
    #[must_use]
    pub fn new(input: &Input) -> Self {
        let budget_size = match input.budget {
            // Entries that overflow have a small part of it, which has to be more than any input needs as well.
            Budget::Ample => 1 << 30,
            Budget::Blocks(count) => ROW_COUNT_MIN * ROW + usize::from(count) * BLOCK,
            Budget::Pages(count) => usize::from(count) * 8192,
        };
        let is_large = matches!(input.layout, Layout::Full | Layout::Dense);
        Self {
            index: SlabIndex::new(budget_size, input.table_size),
            model: BTreeMap::new(),
            walk: Walk::default(),
            spread: input.spread,
            budget_size,
            is_ample: input.budget == Budget::Ample,
            never_overflows: is_large && input.spread == Spread::Even,
            table_size: input.table_size,
            work: 0,
        }
    }

    /// Does all steps, or as many as may be paid for.
    ///
    /// # Panics
    /// When the index is not like the map.
    pub fn run(mut self, input: &Input) {
        for (number, step) in input.steps.iter().enumerate() {
            self.apply(*step);
            assert_eq!(self.index.len(), self.model.len());
            assert_eq!(self.index.is_empty(), self.model.is_empty());
            if number % CHECK_INTERVAL == CHECK_INTERVAL - 1 {
                self.check();
            }
            if self.work > WORK_MAX {
                break;
            }
        }
        self.check();
        self.finish();
    }

    fn apply(&mut self, step: Step) {
        self.work += 1;
        let Step { key, count, value, .. } = step;
        match step.action {
            Action::Upsert => self.upsert(key, self.entry(count, value)),
            Action::Remove => self.remove(key),
            Action::RemoveAt => self.remove_at(step),
            Action::ReplaceAt => self.replace_at(step),
            Action::SetExpiry => {
                let expiry = u32::from(count) << 16 | u32::from(value);
                let old = self.model.get(&self.key(key)).copied();
                self.model.entry(self.key(key)).and_modify(|entry| entry.expiry = expiry);
                assert_eq!(self.index.set_expiry(&self.digest(key), expiry), old);
            }
            Action::Modify => self.modify(step),
            Action::Get => {
                let digest = self.digest(key);
                self.index.prefetch([digest].iter());
                assert_eq!(self.index.get(&digest), self.model.get(&self.key(key)).copied());
            }
            Action::GetBatch => self.get_batch(step),
            Action::Walk => self.walk_on(1 + usize::from(count % 600)),
            Action::UpsertMany => self.each_of_many(step, |checked, number, key| {
                checked.upsert(key, checked.entry(number, value));
            }),
            Action::RemoveMany => self.each_of_many(step, |checked, _, key| checked.remove(key)),
            Action::Retain => self.retain(step),
            Action::Clear => {
                self.index.clear();
                self.forget_all();
                self.check();
            }
            Action::Rebuild => self.rebuild(step),
            Action::BuildUnsorted => self.build_unsorted(step),
            Action::Invariants => self.check(),
        }
    }

    /// The key as the map knows it.
    fn key(&self, key: u16) -> Key {
        let mut hash = self.spread.hash(key);
        hash[Self::HASH_SIZE..].fill(0);
        hash
    }

    /// The digest of a key. What the layout does not hold differs from one use to the next, and must not matter.
    fn digest(&self, key: u16) -> Digest {
        let mut hash = self.spread.hash(key);
        hash[Self::HASH_SIZE..].fill(self.work as u8);
        digest(hash)
    }

    /// An entry that the layout can hold. The largest of everything is among them.
    fn entry(&self, number: u16, value: u8) -> Entry {
        let slot_count = SlabIndex::<WIDTH, BLOCK, ROW>::slot_count_max(self.table_size) as u32;
        let class_max = SlabIndex::<WIDTH, BLOCK, ROW>::CLASS_MAX;
        let slot = if value == 255 { slot_count - 1 } else { u32::from(number) % 7 };
        let offset = if value == 254 { self.table_size as u32 - 16 } else { u32::from(value % 32) * 16 };
        Entry {
            hotness: number as u8 % if WIDTH == 28 { 4 } else { 2 },
            is_cached: value.is_multiple_of(3),
            ..Entry::new(
                Pointer { slot, offset },
                SizeClass(value.min(class_max.0)),
                u32::from(number) << 16 | u32::from(value),
            )
        }
    }

    fn upsert(&mut self, number: u16, entry: Entry) {
        let key = self.key(number);
        let has_room = self.index.has_room();
        match self.index.upsert(&self.digest(number), entry) {
            Ok(old) => assert_eq!(old, self.model.insert(key, entry)),
            Err(Full) => {
                assert!(!self.is_ample, "the budget is not spent");
                assert!(!(has_room && self.never_overflows), "there was room");
                assert!(!self.model.contains_key(&key), "replacing needs no memory");
                assert_eq!(self.index.get(&self.digest(number)), None);
            }
        }
    }

    fn remove(&mut self, number: u16) {
        let key = self.key(number);
        self.walk.expected.remove(&key);
        assert_eq!(self.index.remove(&self.digest(number)), self.model.remove(&key));
    }

    /// The pointer of the key's entry, or, as the step wants, one that is not.
    fn pointer(&self, step: Step) -> Pointer {
        let present = self.model.get(&self.key(step.key)).map_or(Pointer { slot: 1, offset: 0 }, |entry| entry.pointer);
        if step.value.is_multiple_of(4) { Pointer { slot: present.slot ^ 1, ..present } } else { present }
    }

    fn remove_at(&mut self, step: Step) {
        let (key, pointer) = (self.key(step.key), self.pointer(step));
        let is_there = self.model.get(&key).is_some_and(|entry| entry.pointer == pointer);
        let expected = if is_there { self.model.remove(&key) } else { None };
        if is_there {
            self.walk.expected.remove(&key);
        }
        assert_eq!(self.index.remove_at(&self.digest(step.key), pointer), expected);
    }

    fn replace_at(&mut self, step: Step) {
        let (key, pointer, new) = (self.key(step.key), self.pointer(step), self.entry(step.count, step.value));
        let present = self.model.get_mut(&key).filter(|entry| entry.pointer == pointer);
        let is_there = present.is_some();
        if let Some(present) = present {
            *present = new;
        }
        assert_eq!(self.index.replace_at(&self.digest(step.key), pointer, new), is_there);
    }

    fn modify(&mut self, step: Step) {
        let (key, new) = (self.key(step.key), self.entry(step.count, step.value));
        let old = self.model.get(&key).copied();
        let mut seen = None;
        let returned = self.index.modify(&self.digest(step.key), |entry| {
            seen = Some(*entry);
            *entry = new;
        });
        assert_eq!((returned, seen), (old, old));
        self.model.entry(key).and_modify(|entry| *entry = new);
    }

    fn get_batch(&mut self, step: Step) {
        let count = step.count % 70;
        let keys: Vec<u16> = (0..count).map(|number| nth(step, number)).collect();
        let digests: Vec<Digest> = keys.iter().map(|key| self.digest(*key)).collect();
        let mut entries = vec![None; keys.len()];
        self.index.get_batch(&digests, &mut entries);
        let expected: Vec<_> = keys.iter().map(|key| self.model.get(&self.key(*key)).copied()).collect();
        assert_eq!(entries, expected);
        self.work += keys.len();
    }

    fn each_of_many(&mut self, step: Step, mut each: impl FnMut(&mut Self, u16, u16)) {
        let count = step.count % MANY_MAX;
        for number in 0..count {
            if self.work > WORK_MAX {
                break;
            }
            self.work += 1;
            each(self, number, nth(step, number));
        }
        self.check();
    }

    fn retain(&mut self, step: Step) {
        let divisor = u32::from(step.value % 8) + 1;
        let keeps = |entry: &Entry| !(entry.pointer.slot + entry.pointer.offset / 16).is_multiple_of(divisor);
        let mut asked = 0;
        self.index.retain(|entry| {
            asked += 1;
            keeps(&entry)
        });
        assert_eq!(asked, self.model.len(), "each entry is asked about once");
        self.model.retain(|_, entry| keeps(entry));
        let model = &self.model;
        self.walk.expected.retain(|key| model.contains_key(key));
        self.work += asked / 4;
        self.check();
    }

    fn forget_all(&mut self) {
        self.model.clear();
        self.walk.expected.clear();
    }

    /// Builds the index from what it holds, perhaps with far more segments, which the next removals merge.
    fn rebuild(&mut self, step: Step) {
        // Many segments of the large layouts are for more entries than any input has.
        let scale = if WIDTH * 8 > BLOCK { 1 } else { 128 };
        let sorted: Vec<_> = self.model.iter().map(|(key, entry)| (digest(*key), *entry)).collect();
        self.index.clear();
        let result = self.index.build(usize::from(step.count) / 8 * scale, sorted);
        self.work += self.model.len() / 4 + usize::from(step.count) / 64;
        if result.is_err() {
            assert_eq!(result, Err(BuildError::Full(Full)));
            assert!(!self.is_ample, "the budget is not spent");
            self.forget_all();
        }
        self.check();
    }

    /// Offers what the index holds with two neighbours swapped, or one twice: it is empty then.
    fn build_unsorted(&mut self, step: Step) {
        let mut sorted: Vec<_> = self.model.iter().map(|(key, entry)| (digest(*key), *entry)).collect();
        if sorted.len() < 2 {
            return;
        }
        let at = usize::from(step.key) % (sorted.len() - 1);
        if step.value.is_multiple_of(2) {
            sorted.swap(at, at + 1);
        } else {
            sorted[at] = sorted[at + 1];
        }
        self.index.clear();
        let error = self.index.build(usize::from(step.count), sorted).expect_err("it is not sorted");
        assert!(error == BuildError::Unsorted || !self.is_ample, "the budget is not spent");
        self.work += self.model.len() / 4;
        self.forget_all();
        self.check();
    }

    /// Goes on with the walk, or begins one. What is visited comes in order, is what the map has, and leaves out nothing
    /// that was there all the time.
    fn walk_on(&mut self, step_count: usize) {
        let mut cursor = self.walk.cursor.take().unwrap_or_else(|| {
            self.walk = Walk { expected: self.model.keys().copied().collect(), ..Walk::default() };
            self.work += self.model.len() / 8;
            Cursor::START
        });
        for _ in 0..step_count {
            let Walk { expected, last, .. } = &mut self.walk;
            let next = self.index.walk(cursor, |digest, entry| {
                let key = SlabIndex::<WIDTH, BLOCK, ROW>::order(&digest);
                assert!(last.is_none_or(|last| last < key), "visited twice, or out of order");
                assert_eq!(self.model.get(&key), Some(&entry));
                assert!(expected.first().is_none_or(|first| *first >= key), "one before it was not visited");
                expected.remove(&key);
                *last = Some(key);
            });
            let Some(next) = next else {
                assert!(expected.is_empty(), "{} that were there all the time were not visited", expected.len());
                return;
            };
            assert!(next.fraction() >= cursor.fraction());
            cursor = next;
        }
        self.work += step_count / 16;
        self.walk.cursor = Some(cursor);
    }

    /// Checks what holds at any moment.
    fn check(&mut self) {
        self.index.invariants();
        assert_eq!(self.index.len(), self.model.len());
        // Entries that overflow have a small part of the budget beside it.
        let size_max = self.budget_size.max(ROW_COUNT_MIN * ROW);
        assert!(self.index.memory_size() <= size_max + size_max / 50, "the budget is overspent");
        self.work += 10 + self.model.len() / 16;
    }

    /// Compares everything.
    fn finish(&mut self) {
        if self.walk.cursor.is_some() {
            self.walk_on(usize::MAX);
        }
        let digests: Vec<Digest> = self.model.keys().map(|key| digest(*key)).collect();
        let mut entries = vec![None; digests.len()];
        self.index.get_batch(&digests, &mut entries);
        for ((digest, found), expected) in digests.iter().zip(entries).zip(self.model.values()) {
            assert_eq!(found, Some(*expected));
            assert_eq!(self.index.get(digest), found);
        }
        self.walk_on(usize::MAX);
        assert!(self.walk.cursor.is_none());
    }
}

/// The key with this number of those that a step is about: neighbours, or some distance apart, often a power of two, which
/// makes it one key of each segment, say.
fn nth(step: Step, number: u16) -> u16 {
    let distance = if step.value.is_multiple_of(2) { 1 << (step.value / 2 % 16) } else { u16::from(step.value) };
    step.key.wrapping_add(number.wrapping_mul(distance))
}
