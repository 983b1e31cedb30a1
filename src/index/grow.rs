//! The number of segments follows the number of entries, one segment at a time; and what happens when chance, or a test,
//! gives one segment more than it has room for.

use std::ops::Bound;

use super::entry::{Hash, hash_bit, pack, unpack};
use super::row::{self, BUCKET_BITS, BUCKET_COUNT, BUCKET_LEN_MAX};
use super::{Full, LEVEL_MAX, LEVEL_MIN, Position, Scratch, Segment, SlabIndex};

/// Hundredth parts of the memory that entries may take that have overflowed.
const OVERFLOW_PERCENT: usize = 2;

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> SlabIndex<WIDTH, BLOCK, ROW> {
    /// Splits the segment whose turn it is when there are more than the mean number of entries in each. Without memory
    /// for it segments just get longer.
    pub(super) fn grow_if_due(&mut self) {
        if self.entry_count > self.rows.len() * Self::LEN_MEAN && self.level < LEVEL_MAX {
            self.split();
        }
    }

    /// Merges the two halves that were split last when there are far fewer entries than segments are for; says whether it
    /// did. There is some room between the two, so that no segment is split and merged again and again.
    pub(super) fn shrink_if_due(&mut self) -> bool {
        let is_minimal = self.level == LEVEL_MIN && self.split_count == 0;
        !is_minimal && self.entry_count < self.rows.len() * Self::LEN_MEAN * 5 / 8 && self.merge()
    }

    /// Splits segments until there are enough for so many entries, or there is no memory for more.
    pub(super) fn grow_for(&mut self, len: usize) {
        let mut row_count = 0;
        while self.rows.len() > row_count && len > self.rows.len() * Self::LEN_MEAN && self.level < LEVEL_MAX {
            row_count = self.rows.len();
            self.split();
        }
    }

    /// Splits a segment by the next bit of the hash.
    fn split(&mut self) {
        // The halves take at most one block more than the whole: one that is in hand before anything moves.
        let Some(spare) = self.blocks.take() else { return };
        self.blocks.give(spare);
        let lower = Segment { row: self.split_count, depth: self.level };
        let upper = Segment { row: self.rows.len(), depth: self.level + 1 };
        if !self.rows.push() {
            return;
        }
        self.rows.prepare_ahead();
        let mut scratch = std::mem::take(&mut self.scratch);
        let row = self.rows.row(lower.row);
        let (boundary, bit) = (row::run(row, BUCKET_COUNT / 2).start, lower.depth + BUCKET_BITS);
        scratch.clear();
        row::buckets(row, &mut scratch.buckets);
        self.view(lower).read(&mut scratch.entries);
        for (bucket, packed) in scratch.buckets.iter_mut().zip(scratch.entries.chunks_exact(WIDTH)) {
            *bucket = (*bucket << 1 | u16::from(hash_bit(packed, bit))) % BUCKET_COUNT as u16;
        }
        self.rope(lower).truncate(boundary, &scratch.entries);
        self.set_buckets(lower, &scratch.buckets[..boundary]);
        let replaced = self.rope(upper).replace(&scratch.entries[boundary * WIDTH..]);
        replaced.expect("one block was spare, and the others were just given back");
        self.set_buckets(upper, &scratch.buckets[boundary..]);
        self.scratch = scratch;
        self.split_count += 1;
        if self.split_count == 1 << self.level {
            (self.level, self.split_count) = (self.level + 1, 0);
        }
        let overflowed = row::overflow(self.rows.row(lower.row));
        if overflowed > 0 {
            row::set_overflow(self.rows.row_mut(lower.row), 0);
            self.return_overflowed(lower);
        }
    }

    /// Merges the last segment into the one that it came from. Says no when they would not fit.
    fn merge(&mut self) -> bool {
        let (level, split_count) = if self.split_count == 0 {
            (self.level - 1, 1 << (self.level - 1))
        } else {
            (self.level, self.split_count)
        };
        let lower = Segment { row: split_count - 1, depth: level };
        let upper = Segment { row: self.rows.len() - 1, depth: level + 1 };
        let (lower_row, upper_row) = (self.rows.row(lower.row), self.rows.row(upper.row));
        let len = row::len(lower_row) + row::len(upper_row);
        let overflowed = row::overflow(lower_row) + row::overflow(upper_row);
        if len > Self::LEN_MAX || overflowed + len > usize::from(u16::MAX) {
            return false;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        row::buckets(lower_row, &mut scratch.buckets);
        let boundary = scratch.buckets.len();
        row::buckets(upper_row, &mut scratch.buckets);
        for (position, bucket) in scratch.buckets.iter_mut().enumerate() {
            *bucket = (*bucket + if position < boundary { 0 } else { BUCKET_COUNT as u16 }) / 2;
        }
        self.view(lower).read(&mut scratch.entries);
        self.view(upper).read(&mut scratch.entries);
        let overflowed = overflowed + self.overflow_surplus(lower, &mut scratch);
        let emptied = self.rope(upper).replace(&[]);
        let filled = self.rope(lower).replace(&scratch.entries);
        emptied.and(filled).expect("no more blocks than the two had");
        self.set_buckets(lower, &scratch.buckets);
        row::set_overflow(self.rows.row_mut(lower.row), overflowed);
        self.scratch = scratch;
        self.rows.pop();
        (self.level, self.split_count) = (level, split_count - 1);
        true
    }

    /// Takes what a bucket has no room for out of the entries that are about to become a segment's; returns their number.
    fn overflow_surplus(&mut self, segment: Segment, scratch: &mut Scratch) -> usize {
        let is_surplus = |buckets: &[u16], number: usize| {
            number.checked_sub(BUCKET_LEN_MAX).is_some_and(|earlier| buckets[earlier] == buckets[number])
        };
        let mut surplus = 0;
        for number in (0..scratch.buckets.len()).rev() {
            if is_surplus(&scratch.buckets, number) {
                let bucket = scratch.buckets.remove(number);
                let packed = scratch.entries.drain(number * WIDTH..(number + 1) * WIDTH);
                let packed: [u8; WIDTH] = packed.as_slice().try_into().expect("a whole entry");
                self.overflow.insert(Hash::restored(segment.prefix_of(bucket.into()), &packed), packed);
                surplus += 1;
            }
        }
        surplus
    }

    /// Counts the entries of a segment, which have just been put there.
    pub(super) fn set_buckets(&mut self, segment: Segment, buckets: &[u16]) {
        let fits = row::set_buckets(self.rows.row_mut(segment.row), buckets);
        assert!(fits, "no bucket has more entries than it had");
    }

    /// Removes the entries of a segment that `keep` says no to.
    pub(super) fn retain_in(&mut self, row: usize, mut keep: impl FnMut(&[u8; WIDTH]) -> bool) {
        // How many bits choose it makes no difference to its entries.
        let segment = Segment { row, depth: self.level };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        row::buckets(self.rows.row(segment.row), &mut scratch.buckets);
        self.view(segment).read(&mut scratch.entries);
        let before = scratch.buckets.len();
        let mut kept = 0;
        for number in 0..before {
            let at = number * WIDTH;
            if keep(scratch.entries[at..].first_chunk().expect("whole entries")) {
                scratch.entries.copy_within(at..at + WIDTH, kept * WIDTH);
                scratch.buckets[kept] = scratch.buckets[number];
                kept += 1;
            }
        }
        if kept < before {
            let replaced = self.rope(segment).replace(&scratch.entries[..kept * WIDTH]);
            replaced.expect("no more blocks than there were");
            self.set_buckets(segment, &scratch.buckets[..kept]);
            self.entry_count -= before - kept;
        }
        self.scratch = scratch;
    }

    /// Removes the entries that have overflowed and that `keep` says no to.
    pub(super) fn retain_overflowed(&mut self, mut keep: impl FnMut(&[u8; WIDTH]) -> bool) {
        if self.overflow.is_empty() {
            return;
        }
        let gone: Vec<Hash> = self.overflow.iter().filter(|(_, packed)| !keep(packed)).map(|(hash, _)| *hash).collect();
        for hash in gone {
            self.remove_overflowed(self.segment_of(hash.prefix()), &hash);
            self.entry_count -= 1;
        }
    }

    /// The part of a hash that tells keys apart in this layout.
    pub(super) fn overflow_key(hash: &Hash) -> Hash {
        hash.cut(Self::FORMAT)
    }

    /// The packed entry of `hash`, if it is among those that have overflowed.
    pub(super) fn overflowed_mut(&mut self, segment: Segment, hash: &Hash) -> Option<&mut [u8; WIDTH]> {
        if row::overflow(self.rows.row(segment.row)) == 0 {
            return None;
        }
        self.overflow.get_mut(&Self::overflow_key(hash))
    }

    /// Most entries that may overflow.
    pub(super) fn overflow_len_max(&self) -> usize {
        self.blocks.block_count_max() * BLOCK / 100 * OVERFLOW_PERCENT / super::OVERFLOW_ENTRY_SIZE
    }

    /// Notes a new entry of a segment that has no room.
    pub(super) fn insert_overflowing(
        &mut self,
        segment: Segment,
        hash: &Hash,
        packed: &[u8; WIDTH],
    ) -> Result<(), Full> {
        let count = row::overflow(self.rows.row(segment.row));
        if self.overflow.len() >= self.overflow_len_max() || count == usize::from(u16::MAX) {
            return Err(Full);
        }
        self.overflow.insert(Self::overflow_key(hash), *packed);
        row::set_overflow(self.rows.row_mut(segment.row), count + 1);
        Ok(())
    }

    /// Removes an entry that has overflowed.
    pub(super) fn remove_overflowed(&mut self, segment: Segment, hash: &Hash) {
        self.overflow.remove(&Self::overflow_key(hash)).expect("the caller has found it");
        let row = self.rows.row_mut(segment.row);
        let count = row::overflow(row) - 1;
        row::set_overflow(row, count);
    }

    /// The entries that have overflowed from a segment, in order.
    pub(super) fn overflowed(&self, segment: Segment) -> impl Iterator<Item = (&Hash, &[u8; WIDTH])> {
        let first = segment.prefix();
        let last = first | u64::MAX >> segment.depth;
        let range = (Bound::Included(Hash::lowest(first)), Bound::Included(Hash::highest(last)));
        self.overflow.range(range)
    }

    /// An entry of this bucket was removed: if one has overflowed that can take its place, it does.
    pub(super) fn return_one(&mut self, segment: Segment, bucket: usize) {
        let first = segment.prefix_of(bucket);
        let last = first | u64::MAX >> BUCKET_BITS >> segment.depth;
        let of_bucket = self.overflow.range(Hash::lowest(first)..=Hash::highest(last)).next();
        let candidate = of_bucket.or_else(|| self.overflowed(segment).next());
        let Some((hash, packed)) = candidate.map(|(hash, packed)| (*hash, *packed)) else { return };
        let Position::Before(position, run) = self.find(segment, &hash) else { unreachable!("it is in one place") };
        if run.len < BUCKET_LEN_MAX && self.insert(segment, &hash, position, run, &packed).is_ok() {
            self.remove_overflowed(segment, &hash);
            self.entry_count -= 1;
        }
    }

    /// Gives the entries that overflowed from a segment before it was split to the halves.
    fn return_overflowed(&mut self, whole: Segment) {
        let entries: Vec<_> = self.overflowed(whole).map(|(hash, packed)| (*hash, *packed)).collect();
        for (hash, _) in &entries {
            self.overflow.remove(hash);
        }
        for (hash, packed) in entries {
            self.entry_count -= 1;
            let segment = self.segment_of(hash.prefix());
            let Position::Before(position, run) = self.find(segment, &hash) else { unreachable!("it is in one place") };
            let returned = self.insert(segment, &hash, position, run, &packed);
            if returned.is_err() {
                // No block for it, though its half has room: it overflows again, as it has just made room for itself.
                let row = self.rows.row_mut(segment.row);
                let count = row::overflow(row) + 1;
                row::set_overflow(row, count);
                self.overflow.insert(hash, packed);
                self.entry_count += 1;
            }
        }
    }

    /// Checks every invariant of the module; for tests.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn invariants(&self) {
        assert_eq!(self.rows.len(), (1 << self.level) + self.split_count);
        assert!(self.split_count < 1 << self.level);
        let (mut entry_count, mut block_count) = (0, 0);
        for row in 0..self.rows.len() {
            let is_split = row % (1 << self.level) < self.split_count;
            let segment = Segment { row, depth: self.level + u32::from(is_split) };
            self.check(segment);
            let len = row::len(self.rows.row(row));
            entry_count += len;
            block_count += len.div_ceil(Self::PER_BLOCK);
        }
        assert_eq!(entry_count + self.overflow.len(), self.entry_count);
        assert_eq!(block_count, self.blocks.taken_count());
    }

    /// Checks a segment: counts, order, and that each entry is where its hash says.
    fn check(&self, segment: Segment) {
        let row = self.rows.row(segment.row);
        let mut buckets = Vec::new();
        row::buckets(row, &mut buckets);
        assert!(buckets.len() <= Self::LEN_MAX && buckets.is_sorted());
        let block_count = buckets.len().div_ceil(Self::PER_BLOCK);
        assert!(row::partial(row) < block_count.max(1), "the partial block is one of the segment's");
        let mut last: Option<(u16, Hash)> = None;
        for (position, bucket) in buckets.iter().enumerate() {
            let packed = self.packed(segment, position);
            let hash = Hash::restored(segment.prefix_of(usize::from(*bucket)), packed);
            assert_eq!(self.segment_of(hash.prefix()), segment, "entry {position}");
            assert_eq!(segment.bucket(hash.prefix()), usize::from(*bucket), "entry {position}");
            assert!(last.is_none_or(|last| last < (*bucket, hash)), "order at entry {position}");
            assert_eq!(pack(&hash, unpack(packed, self.addressing), self.addressing), *packed);
            last = Some((*bucket, hash));
        }
        assert_eq!(self.overflowed(segment).count(), row::overflow(row));
        for (hash, packed) in self.overflowed(segment) {
            assert!(hash.compare(packed).is_eq() && self.segment_of(hash.prefix()) == segment);
        }
    }
}
