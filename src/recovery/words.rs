//! What tables say about keys, gathered until it can be built into the index at once.
//!
//! Building an index from entries in its own order takes a fraction of the time of putting them into it one by one, as
//! each of its segments is written once, from front to back. So recovery gathers the *words* of all tables about a range
//! of hashes, the range that there is memory for, sorts them, and only the last word about each key counts; and then the
//! next range.

use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::format::Summary;
use crate::index::{Entry, Index, Pointer};
use crate::mutants::{Mutant, has};
use crate::record::{Kind, SizeClass};

/// Bytes that a gathered word takes, with the room that its bucket has left.
const WORD_MEMORY: usize = size_of::<Word>() + size_of::<Word>() / 8;
/// Bits of the number of buckets.
const BUCKET_BITS: u32 = 8;
const BUCKET_COUNT: usize = 1 << BUCKET_BITS;
/// Part of the words that there is memory for that a range is expected to have: no two ranges have equally many.
const FILL: f64 = 0.95;
/// Bits that a pass of the radix sort sorts by.
const DIGIT_BITS: u32 = 11;
/// Passes: together they sort by the 32 bits behind those of the bucket.
const PASS_COUNT: u32 = 3;

/// What a record says about its key. Packed, as the sorting of words is as fast as they are small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub(super) struct Word {
    pub(super) digest: Digest,
    pub(super) version: u64,
    pub(super) expiry: Seconds,
    /// Of a touch, this and the offset are the sequence that [`Word::until`] puts together.
    pub(super) slot: u32,
    pub(super) offset: u32,
    pub(super) kind: Kind,
    pub(super) class: SizeClass,
    /// The checkpoint knew what the word says when its piece was begun, but not that it lies here: it is a copy of a record that
    /// was moved since. It counts only if what the checkpoint points at is gone.
    pub(super) is_moved: bool,
}

const _: () = assert!(size_of::<Word>() == 44);

/// A word in the order of its bucket: the bits of its hash behind those of the bucket, and its number there.
type Place = (u32, u32);

impl Word {
    /// What a record says that lies in the table with the sequence `sequence` in `slot`.
    pub(super) fn new(slot: u32, sequence: u64, summary: &Summary, is_moved: bool) -> Self {
        let Summary { digest, version, expiry, offset, kind, class, .. } = *summary;
        let word = Self { digest, version, expiry, slot, offset, kind, class, is_moved };
        if kind != Kind::Touch {
            return word;
        }
        let until = summary.distance.until(sequence);
        let [slot, offset] = [until >> u32::BITS, until & u64::from(u32::MAX)].map(|half| half as u32);
        Self { slot, offset, ..word }
    }

    /// Of a touch: the sequence of the last table that the value may have lain in of which it was said.
    pub(super) const fn until(&self) -> u64 {
        (self.slot as u64) << u32::BITS | self.offset as u64
    }

    /// The index entry of a value.
    pub(super) const fn entry(&self) -> Entry {
        Entry::new(Pointer { slot: self.slot, offset: self.offset }, self.class, self.expiry)
    }
}

/// The truth about a key, as far as it is known by now.
#[derive(Clone, Copy, Default)]
struct Truth {
    /// The value or tombstone with the highest version.
    word: Option<Word>,
    /// The touch with the highest version.
    touch: Option<Word>,
}

impl Truth {
    /// Of words with equal versions, which say the same, the last one counts: it lies in the table with the higher sequence.
    /// Gives
    /// the slot of the other one, if that is a value: the record was on its way from there.
    fn hear(&mut self, word: Word) -> Option<u32> {
        let known = if word.kind == Kind::Touch { &mut self.touch } else { &mut self.word };
        if known.is_some_and(|known| word.version < known.version) && !has(Mutant::VersionsIgnored) {
            return None;
        }
        let replaced = known.replace(word);
        let is_original = |known: &Word| known.kind == Kind::Value && known.version == word.version;
        replaced.filter(is_original).map(|original| original.slot)
    }

    /// The words that still matter, whether or not others follow: the touch after what it may be about.
    fn words(self) -> impl Iterator<Item = Word> {
        let Self { word, touch } = self;
        let is_later = |touch: &Word| word.is_none_or(|word| touch.version > word.version);
        word.into_iter().chain(touch.filter(is_later))
    }
}

/// The words about a range of hashes. They lie in buckets by the first bits of their hashes in the range, in each in the
/// order in which they were found; a bucket is small enough to be sorted in a core's caches.
pub(super) struct Words {
    buckets: Vec<Vec<Word>>,
    count: usize,
    count_max: usize,
    /// Words about hashes before this one are not wanted.
    low: u64,
    /// Neither are those from this one on: there is no memory for them.
    high: Option<u64>,
    /// A flush has this version: words with a lower one are void, wherever they were found.
    void_below: u64,
    /// What a hash is shifted by to be the number of its bucket.
    shift: u32,
    order: Vec<Place>,
    spare: Vec<Place>,
    /// Slots of tables with values that lie in later ones as well.
    doubled: Vec<u32>,
}

impl Words {
    /// Gathers words that take about `memory_size` bytes at a time.
    pub(super) fn new(memory_size: usize) -> Self {
        Self {
            buckets: (0..BUCKET_COUNT).map(|_| Vec::new()).collect(),
            count: 0,
            count_max: (memory_size / WORD_MEMORY).max(2),
            low: 0,
            high: None,
            void_below: 0,
            shift: u64::BITS - BUCKET_BITS,
            order: Vec::new(),
            spare: Vec::new(),
            doubled: Vec::new(),
        }
    }

    /// The first hash of those for which there was no memory; `None` when all are here.
    pub(super) const fn high(&self) -> Option<u64> {
        self.high
    }

    /// The part of all hashes that the range is.
    pub(super) fn fraction(&self) -> f64 {
        (self.high.unwrap_or(u64::MAX) - self.low) as f64 / u64::MAX as f64
    }

    /// The number of ranges that so many words about all hashes take.
    pub(super) fn range_count(&self, word_count: usize) -> usize {
        (word_count as f64 / (self.count_max as f64 * FILL)).ceil().max(1.0) as usize
    }

    /// Begins the range from `low` on, where there are `word_count` words about all hashes together.
    pub(super) fn begin(&mut self, low: u64, word_count: usize) {
        let width = u64::MAX / self.range_count(word_count) as u64;
        // What is left over at the end belongs to the last range.
        let high = low.checked_add(width).filter(|high| u64::MAX - high > width / 2);
        (self.low, self.high) = (low, high);
        let width_bits = u64::BITS - (high.unwrap_or(u64::MAX) - low).leading_zeros();
        self.shift = width_bits.saturating_sub(BUCKET_BITS);
        self.buckets.iter_mut().for_each(Vec::clear);
        self.count = 0;
        let expected = (word_count as f64 * self.fraction()) as usize / BUCKET_COUNT;
        // What chance gives a bucket more than others, so that few have to grow.
        let room = expected + 4 * expected.isqrt();
        self.buckets.iter_mut().for_each(|bucket| bucket.reserve_exact(room));
    }

    /// What was said with a version below `version` is void, in this range and in those that follow.
    pub(super) fn forget_below(&mut self, version: u64) {
        self.void_below = self.void_below.max(version);
    }

    /// The highest version that [`Self::forget_below`] was told.
    pub(super) const fn void_below(&self) -> u64 {
        self.void_below
    }

    /// Takes a word, if it is about a hash of the range. Tables are read in the order of their sequences.
    #[inline]
    pub(super) fn push(&mut self, word: Word) {
        let prefix = Index::prefix(&word.digest);
        if prefix < self.low || self.is_beyond(prefix) || word.version < self.void_below {
            return;
        }
        if self.count == self.count_max {
            self.make_room();
            if self.is_beyond(prefix) {
                return;
            }
        }
        self.buckets[((prefix - self.low) >> self.shift) as usize].push(word);
        self.count += 1;
    }

    fn is_beyond(&self, prefix: u64) -> bool {
        self.high.is_some_and(|high| prefix >= high)
    }

    /// About how many of the words are values that no later word is about: an estimate from the first buckets.
    pub(super) fn value_count(&mut self) -> usize {
        let (mut looked_at, mut count, all) = (0, 0, self.count);
        for number in 0..BUCKET_COUNT / 16 {
            looked_at += self.buckets[number].len();
            let folded = self.folded(number);
            count += folded.iter().filter(|word| word.kind == Kind::Value).count();
            self.count -= self.buckets[number].len() - folded.len();
            self.buckets[number] = folded;
        }
        (count as f64 / looked_at.max(1) as f64 * all as f64) as usize
    }

    /// The slots of the tables of which some values lie in later ones as well, as far as all words of the range were looked at.
    pub(super) fn doubled(&self) -> &[u32] {
        &self.doubled
    }

    /// Drops words that others have followed. If that is not enough, the range gets shorter.
    fn make_room(&mut self) {
        self.fold_all();
        if self.count <= self.count_max / 4 * 3 {
            return;
        }
        let (mut kept, mut number) = (0, 0);
        while kept < self.count.div_ceil(2) {
            kept += self.buckets[number].len();
            number += 1;
        }
        let high = (number as u64).checked_shl(self.shift).and_then(|offset| self.low.checked_add(offset));
        match high.filter(|high| number < BUCKET_COUNT && kept < self.count && !self.is_beyond(*high)) {
            Some(high) => {
                self.high = Some(high);
                self.buckets[number..].iter_mut().for_each(Vec::clear);
                self.count = kept;
            }
            // Nearly all are in one bucket: somebody has made them so.
            None => self.count_max *= 2,
        }
    }

    fn fold_all(&mut self) {
        for number in 0..BUCKET_COUNT {
            self.buckets[number] = self.folded(number);
        }
        self.count = self.buckets.iter().map(Vec::len).sum();
    }

    /// The words about each key in a bucket that still matter, in the order of the index.
    fn folded(&mut self, number: usize) -> Vec<Word> {
        self.sort(number);
        let mut folded = Vec::with_capacity(self.buckets[number].len());
        let (bucket, mut next) = (&self.buckets[number], Next::default());
        while let Some(word) = next.in_bucket(bucket, &self.order, self.void_below) {
            folded.push(word);
        }
        self.doubled.append(&mut next.doubled);
        self.doubled.sort_unstable();
        self.doubled.dedup();
        folded
    }

    /// Makes the order of a bucket's words.
    fn sort(&mut self, number: usize) {
        let (low, shift) = (self.low, self.shift.saturating_sub(u32::BITS));
        let place = |(number, word): (u32, &Word)| (((Index::prefix(&word.digest) - low) >> shift) as u32, number);
        self.order.clear();
        self.order.extend((0..).zip(&self.buckets[number]).map(place));
        sort(&mut self.order, &mut self.spare);
    }

    /// The words about each key that count, in the order of the index: a value or a tombstone, and then a touch that is later.
    pub(super) fn sorted(&mut self) -> Sorted<'_> {
        self.sort(0);
        Sorted { words: self, bucket: 0, next: Next::default() }
    }
}

/// Sorts by the first number, by radix; what is equal keeps its order.
fn sort(places: &mut Vec<Place>, spare: &mut Vec<Place>) {
    spare.clear();
    spare.resize(places.len(), (0, 0));
    for pass in 0..PASS_COUNT {
        let digit = |place: &Place| (place.0 >> (pass * DIGIT_BITS)) as usize & ((1 << DIGIT_BITS) - 1);
        let mut starts = [0usize; 1 << DIGIT_BITS];
        places.iter().for_each(|place| starts[digit(place)] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for place in places.iter() {
            let start = &mut starts[digit(place)];
            spare[*start] = *place;
            *start += 1;
        }
        std::mem::swap(places, spare);
    }
}

/// The words about each key that count, in the order of the index.
pub(super) struct Sorted<'a> {
    words: &'a mut Words,
    bucket: usize,
    next: Next,
}

impl Sorted<'_> {
    /// See [`Words::doubled`].
    pub(super) fn doubled(&self) -> &[u32] {
        self.words.doubled()
    }

    /// The next one.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Word> {
        loop {
            let Words { buckets, order, void_below, .. } = &*self.words;
            if let Some(word) = self.next.in_bucket(&buckets[self.bucket], order, *void_below) {
                return Some(word);
            }
            if self.bucket + 1 == BUCKET_COUNT {
                self.words.doubled.append(&mut self.next.doubled);
                return None;
            }
            self.bucket += 1;
            self.next.place = 0;
            self.words.sort(self.bucket);
        }
    }
}

/// How far the words of a bucket are read.
#[derive(Default)]
struct Next {
    /// In the bucket's order.
    place: usize,
    /// The rest of what the words come to that agree in what they were sorted by, in reverse.
    group: Vec<Word>,
    /// Slots of tables with values that lie in later ones as well.
    doubled: Vec<u32>,
}

impl Next {
    /// The next word of a bucket in its order.
    #[inline]
    fn in_bucket(&mut self, words: &[Word], order: &[Place], void_below: u64) -> Option<Word> {
        loop {
            if let Some(word) = self.group.pop() {
                return Some(word);
            }
            let (key, number) = *order.get(self.place)?;
            self.place += 1;
            let word = words[number as usize];
            if order.get(self.place).is_none_or(|(other, _)| *other != key) {
                if word.version >= void_below {
                    return Some(word);
                }
                continue;
            }
            let length = order[self.place..].iter().take_while(|(other, _)| *other == key).count();
            let same = &order[self.place - 1..self.place + length];
            self.place += length;
            self.group.extend(same.iter().map(|(_, number)| words[*number as usize]));
            fold(&mut self.group, void_below, &mut self.doubled);
        }
    }
}

/// Leaves the words about each key that count, in the reverse order of the index. Notes the slots of tables with values that lie
/// in later ones as well.
fn fold(group: &mut Vec<Word>, void_below: u64, doubled: &mut Vec<u32>) {
    group.retain(|word| word.version >= void_below);
    // A stable sort: the words about a key stay in their order.
    group.sort_by_key(|word| Index::order(&word.digest));
    let (mut read, mut written) = (0, 0);
    while let Some(first) = group.get(read).copied() {
        let mut truth = Truth::default();
        while let Some(word) = group.get(read).filter(|word| word.digest == first.digest) {
            let original = truth.hear(*word);
            doubled.extend(original.filter(|slot| doubled.last() != Some(slot)));
            read += 1;
        }
        for word in truth.words() {
            group[written] = word;
            written += 1;
        }
    }
    group.truncate(written);
    group.reverse();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn word(key: u16, kind: Kind, version: u64) -> Word {
        let digest = Digest::of(&[1; 16], &key.to_le_bytes());
        let (expiry, offset) = (version as u32, version as u32 * 16);
        Word { digest, version, expiry, slot: 1, offset, kind, class: SizeClass(4), is_moved: false }
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![4 => Just(Kind::Value), 1 => Just(Kind::Tombstone), 1 => Just(Kind::Touch)]
    }

    /// What words come to by the definition: by version, and flushed below one.
    fn expected(said: &[Word], void_below: u64) -> Vec<Word> {
        let mut by_key: BTreeMap<[u8; 20], BTreeMap<u64, Word>> = BTreeMap::new();
        for word in said.iter().filter(|word| word.version >= void_below) {
            by_key.entry(Index::order(&word.digest)).or_default().insert(word.version, *word);
        }
        let truth = |words: BTreeMap<u64, Word>| {
            let mut words = words.into_values().rev();
            let last = words.next();
            let touch = last.filter(|last| last.kind == Kind::Touch);
            let word = if touch.is_some() { words.find(|word| word.kind != Kind::Touch) } else { last };
            word.into_iter().chain(touch)
        };
        by_key.into_values().flat_map(truth).collect()
    }

    proptest! {
        /// However little memory there is, and in whatever order they are found, all ranges together say what a map says.
        #[test]
        fn the_word_with_the_highest_version_counts(
            said in proptest::collection::vec((0u16..300, kinds(), any::<bool>()), 0..2000),
            order in any::<u64>(),
            count_max in 2usize..2500,
            word_count in 0usize..10_000,
            void_below in prop_oneof![3 => Just(0u64), 1 => 0u64..2000],
        ) {
            let mut said: Vec<Word> = (1..)
                .zip(&said)
                .map(|(version, (key, kind, is_moved))| Word { is_moved: *is_moved, ..word(*key, *kind, version) })
                .collect();
            let expected = expected(&said, void_below);
            said.sort_by_key(|word| (word.version ^ order).wrapping_mul(order | 1));
            let mut words = Words::new(count_max * WORD_MEMORY);
            let mut found = Vec::new();
            let (mut low, mut part) = (0, 0.0);
            loop {
                words.begin(low, word_count);
                said.iter().for_each(|word| words.push(*word));
                words.forget_below(void_below);
                part += words.fraction();
                let mut sorted = words.sorted();
                while let Some(word) = sorted.next() {
                    found.push(word);
                }
                match words.high() {
                    Some(high) => low = high,
                    None => break,
                }
            }
            prop_assert_eq!(found, expected);
            prop_assert!((part - 1.0).abs() < 1e-9);
        }
    }

    fn all(words: &mut Words) -> Vec<Word> {
        let mut sorted = words.sorted();
        std::iter::from_fn(|| sorted.next()).collect()
    }

    #[test]
    fn of_copies_the_one_that_was_found_last_counts() {
        let mut words = Words::new(1 << 20);
        let copy = Word { slot: 2, expiry: 77, ..word(1, Kind::Value, 5) };
        [word(1, Kind::Value, 5), word(1, Kind::Value, 4), copy].into_iter().for_each(|word| words.push(word));
        assert_eq!(all(&mut words), [copy]);
    }

    /// A touch must not be lost, nor become part of the wrong value, when there was no memory for all words at once.
    #[test]
    fn a_touch_waits_for_the_value_that_it_is_about() {
        let mut words = Words::new(1 << 20);
        words.push(word(1, Kind::Value, 3));
        words.push(word(1, Kind::Touch, 9));
        words.fold_all();
        words.push(word(1, Kind::Value, 5));
        words.fold_all();
        assert_eq!(all(&mut words), [word(1, Kind::Value, 5), word(1, Kind::Touch, 9)]);
        words.push(word(1, Kind::Value, 10));
        assert_eq!(all(&mut words), [word(1, Kind::Value, 10)]);
    }

    /// A range without a hash in it would be followed by itself.
    #[test]
    fn a_range_is_never_empty() {
        for count_max in [2, 3, 4, 5] {
            let mut words = Words::new(count_max * WORD_MEMORY);
            words.begin(0, 0);
            for number in 0..100 {
                words.push(word(7, Kind::Value, number));
                words.push(word(number as u16 / 9, Kind::Value, number));
                assert_ne!(words.high(), Some(0), "{count_max} words");
            }
        }
    }

    #[test]
    fn words_that_all_look_alike_are_kept() {
        let mut words = Words::new(4 * WORD_MEMORY);
        let alike = |number: u8| {
            let mut word = word(1, Kind::Value, number.into());
            word.digest.0[12] = number;
            word
        };
        (0..100).for_each(|number| words.push(alike(number)));
        assert_eq!(all(&mut words), (0..100).map(alike).collect::<Vec<_>>());
        assert_eq!(words.high(), None);
    }
}
