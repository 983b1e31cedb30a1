//! The slab-packed index: where the newest record of each key lies.
//!
//! A hash table of *segments*, which are chosen by the first bits of the hash. There are as many segments as the entries
//! need, by linear hashing (Litwin 1980): when the mean length of a segment goes beyond a bound, the segment whose turn
//! it is is split by the next bit of the hash, and when it falls far below, the last two halves are merged. So no
//! directory is needed, nothing ever doubles, and the bytes per key are the same at every moment of the growth.
//!
//! The entries of a segment are packed into equal slab blocks, in the order of their hashes ([`rope`]). Its head, a row
//! of 512 bytes, holds the number of entries in each of its 512 *buckets* ([`row`]), which are chosen by the next bits of the
//! hash: so the place of a hash is computed from the head, its own bits up to there are implied, and what is compared are
//! the few entries of its bucket. A lookup waits for memory twice: for the head, of which three lines are asked for at
//! once, and for the entry.
//!
//! Chance gives a bucket more than the fifteen entries that can be counted, about once in some million inserts (in the
//! dense layout, whose buckets are longer, in some ten thousand), and a test may want to. Such entries *overflow* into a small
//! ordered map, so that nothing depends on how hashes are spread but time.
//!
//! **Invariants** (checked by [`SlabIndex::invariants`]):
//! - Each entry's identity is the whole 160-bit digest (96 bits in the dense layout): what is not stored is implied. So
//!   a match *is* the key, and no write ever has to read the disk to know what it replaces.
//! - The order of entries within a segment is strict: no digest is there twice.
//! - All blocks of a segment but one are full.
//! - Memory is the slabs', bounded by the budget; an insert that does not fit is [`Full`], and changes nothing.
//!
//! # Why this one
//!
//! Candidates, and what was here before, next to hashbrown (entries of 30 bytes) on the same keys, on one virtual core of an
//! EPYC. *Leaves*: blocks of 22 unsorted entries with a line of tags, fences in the segment's head, and leaves that give
//! to their neighbours before they are split, as in B*-trees. *Walk*, which was here before: sorted entries in plain blocks
//! of 16, found from where interpolation puts a hash, behind a directory that doubles. Times are ratios to hashbrown's of the
//! same run, in a loop that lets the processor overlap operations; "dependent" is without that.
//!
//! | | this, 2 M keys | walk, 2 M keys | leaves, 20 M keys |
//! |---|---:|---:|---:|
//! | bytes per key, most while growing | 29.7 | 30.7 | 31.3 |
//! | dependent lookup | 0.74 | 1.06 | 1.4 |
//! | lookup in a batch of 16 | 0.91 | 4.4 | 1.24 |
//! | insert | 1.1 | 7.8 | 5.4 |
//! | removal | 4.1 | 15 | 2.3 |
//!
//! The leaves have less to compute, but as each has room left they do not get below 31 bytes, and making room costs more
//! than it does here. (Their hashbrown was on huge pages, which makes it a quarter faster.) With the digests
//! made by SHA-1, as a store does, little overlaps: at 50 million keys a lookup takes 0.78 to 0.80 of hashbrown's time, of an
//! absent key 1.9, as there is no tag that would spare the look at its bucket's entries; in batches 0.25 of a single one of
//! hashbrown's; an insert 1.1, a removal 1.3. `dmabench index` measures all of it.
//!
//! What the steps brought, about, at 20 million keys: huge pages a fifth of a lookup; asking for the lines of the head at
//! once another fifth; counts of four bits instead of a bit vector with select a sixth of a batch; rings of 64 instead
//! of 16 entries a sixth of an insert. The bits that buckets imply pay for the head.

mod batch;
mod build;
mod entry;
mod grow;
mod rope;
mod row;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;

use dma_alloc::{PageKind, Rows, Slab, SlabOptions};

pub use build::{Build, BuildError};
use entry::{Addressing, Format, Hash, pack, unpack};
pub use entry::{Entry, Pointer};
use rope::Rope;
use rope::View;
use row::{BUCKET_BITS, BUCKET_LEN_MAX, Run};
pub use walk::Cursor;

use crate::clock::Seconds;
use crate::digest::Digest;
use crate::limits::TABLE_COUNT_MAX;
use crate::record::SizeClass;

/// The index of a store: 28 bytes an entry, the whole identity.
pub type Index = SlabIndex<28, 1792, 512>;
/// The same in 19 bytes an entry, with 96 bits of identity, for stores of many small records.
pub type DenseIndex = SlabIndex<19, 1216, 576>;

/// Which of the two a store's index is. Its superblock says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// [`Index`].
    Full = 0,
    /// [`DenseIndex`].
    Dense = 1,
}

impl Layout {
    /// The layout that a byte of a superblock names.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Full),
            1 => Some(Self::Dense),
            _ => None,
        }
    }
}

/// Bits of the number of segments that there are at least: with those of a bucket the hash bits that no entry stores.
const LEVEL_MIN: u32 = entry::IMPLIED_BITS - BUCKET_BITS;
/// Bits of the largest number of segments.
const LEVEL_MAX: u32 = 36;

/// The memory budget has no room for one more entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index has used its memory budget")]
pub struct Full;

/// Digest to place on disk, for one shard: entries of `WIDTH` bytes in blocks of `BLOCK` bytes, heads of `ROW` bytes.
#[derive(Debug)]
pub struct SlabIndex<const WIDTH: usize, const BLOCK: usize, const ROW: usize> {
    blocks: Slab<BLOCK>,
    rows: Rows<ROW>,
    /// There are `1 << level` segments, and `split_count` of them are split in two.
    level: u32,
    split_count: usize,
    entry_count: usize,
    addressing: Addressing,
    overflow: BTreeMap<Hash, [u8; WIDTH]>,
    scratch: Scratch,
}

/// Memory of a split, kept so that none has to be allocated.
#[derive(Debug, Default)]
struct Scratch {
    entries: Vec<u8>,
    buckets: Vec<u16>,
}

impl Scratch {
    fn clear(&mut self) {
        self.entries.clear();
        self.buckets.clear();
    }
}

/// A segment: its row, and how many bits of the hash choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    row: usize,
    depth: u32,
}

impl Segment {
    #[inline]
    fn bucket(self, prefix: u64) -> usize {
        (prefix << self.depth >> (64 - BUCKET_BITS)) as usize
    }

    /// The first bits of all its hashes.
    fn prefix(self) -> u64 {
        (self.row as u64).reverse_bits() >> (64 - self.depth) << (64 - self.depth)
    }

    /// The first bits of all hashes of one of its buckets.
    fn prefix_of(self, bucket: usize) -> u64 {
        self.prefix() | (bucket as u64) << (64 - BUCKET_BITS) >> self.depth
    }
}

/// Where a hash is, or would be.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// It is the entry with this number.
    At(usize, Run),
    /// It belongs before the entry with this number.
    Before(usize, Run),
}

/// The mean length of segments whose greatest is `len_max`: before a segment is split it has twice as many, give or take
/// what chance does. Six standard deviations are left for that.
const fn len_mean(len_max: usize) -> usize {
    let mut double = 0usize;
    while double + 1 + 6 * (double + 1).isqrt() <= len_max {
        double += 1;
    }
    double / 2
}

/// Bytes of an entry that has overflowed: about what a `BTreeMap` takes for it.
const OVERFLOW_ENTRY_SIZE: usize = 96;
impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> SlabIndex<WIDTH, BLOCK, ROW> {
    const PER_BLOCK: usize = rope::per_block(WIDTH, BLOCK);
    /// Most entries of a segment.
    const LEN_MAX: usize = row::block_count_max(ROW) * Self::PER_BLOCK;
    /// Mean number of entries of a segment, once there are enough of them.
    const LEN_MEAN: usize = len_mean(Self::LEN_MAX);
    const GEOMETRY_IS_SOUND: () = {
        assert!(Self::PER_BLOCK <= 256, "the first slot of a ring is a byte");
        assert!(Self::LEN_MEAN > 0 && Self::LEN_MAX <= u16::MAX as usize, "counts of a row are of 16 bits");
    };
    const FORMAT: Format = Format::of(WIDTH);
    /// Bytes of blocks that lie in plain pages. Beyond that the rest of a huge page is a small part of the whole, which
    /// leaves a key within the bytes that it may cost; and lookups take a quarter less time where the TLB reaches.
    const PLAIN_BLOCKS_SIZE: usize = if Self::FORMAT.is_dense() { 320 << 20 } else { 160 << 20 };
    /// The same of rows, which are fewer.
    const PLAIN_ROWS_SIZE: usize = Self::PLAIN_BLOCKS_SIZE / 32;

    /// Bytes that an entry takes itself.
    pub const ENTRY_SIZE: usize = WIDTH;
    /// The largest size class of an entry.
    pub const CLASS_MAX: SizeClass = Self::FORMAT.class_max();

    /// An empty index that uses at most `budget_size` bytes; pointers are into tables of `table_size` bytes.
    ///
    /// # Panics
    /// When `table_size` is not a power of two.
    #[must_use]
    pub fn new(budget_size: usize, table_size: usize) -> Self {
        const { Self::GEOMETRY_IS_SOUND }
        let row_count = Self::row_count_max(budget_size);
        let blocks = SlabOptions {
            plain_size: Self::PLAIN_BLOCKS_SIZE,
            ..SlabOptions::new(budget_size.saturating_sub(row_count * ROW), PageKind::Huge)
        };
        let rows =
            SlabOptions { plain_size: Self::PLAIN_ROWS_SIZE, ..SlabOptions::new(row_count * ROW, PageKind::Huge) };
        let mut index = Self {
            blocks: Slab::with(blocks),
            rows: Rows::with(rows),
            level: LEVEL_MIN,
            split_count: 0,
            entry_count: 0,
            addressing: Addressing::new(table_size),
            overflow: BTreeMap::new(),
            scratch: Scratch::default(),
        };
        index.clear();
        index
    }

    fn row_count_max(budget_size: usize) -> usize {
        // What a segment takes: its row, its entries, and half a block that is free.
        let segment_size = ROW + Self::LEN_MEAN * WIDTH + BLOCK / 2;
        (budget_size / segment_size).max(1 << LEVEL_MIN)
    }

    /// Changes the budget, and says whether it could. What is in use cannot be taken away, and an index that has come to
    /// the end of its old budget cannot grow any more.
    #[must_use]
    pub fn set_budget(&mut self, budget_size: usize) -> bool {
        let (old_rows, row_size) = (self.rows.len_max() * ROW, Self::row_count_max(budget_size) * ROW);
        let is_changed = budget_size > row_size && self.rows.set_budget(row_size);
        if is_changed && !self.blocks.set_budget(budget_size - row_size) {
            // It was the budget a moment ago.
            let is_restored = self.rows.set_budget(old_rows);
            debug_assert!(is_restored);
            return false;
        }
        is_changed
    }

    /// Slots that pointers can name with tables of `table_size` bytes.
    #[must_use]
    pub fn slot_count_max(table_size: usize) -> usize {
        Addressing::new(table_size).slot_count_max(Self::FORMAT).min(TABLE_COUNT_MAX)
    }

    /// Number of entries, expired ones that nobody has met yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entry_count
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Bytes of memory in use: blocks and rows that were touched or made resident ahead, exact to one of them, and what
    /// little has overflowed.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.blocks.touched_size() + self.rows.touched_size() + self.overflow.len() * OVERFLOW_ENTRY_SIZE
    }

    /// Fewest segments that there ever are.
    pub const SEGMENT_COUNT_MIN: usize = 1 << LEVEL_MIN;
    /// Bytes that an index takes for its first segments, beside the entries in them: their heads, and half a block each.
    pub const BASE_SIZE: usize = (ROW + BLOCK / 2) << LEVEL_MIN;

    /// Whether a good number of new entries is sure to fit.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let free_count = self.blocks.block_count_max() - self.blocks.taken_count();
        free_count > self.blocks.block_count_max() / 64 && self.overflow.len() < self.overflow_len_max()
    }

    /// The entry of `digest`, expired or not.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Entry> {
        let hash = Hash::of(digest);
        let segment = self.segment_of(hash.prefix());
        self.prefetch_lines(segment, hash.prefix());
        let run = row::run(self.rows.row(segment.row), segment.bucket(hash.prefix()));
        self.lookup_in(segment, run, &hash).map(|packed| unpack(&packed, self.addressing))
    }

    /// Puts `entry` in the place of what `digest` had, and returns that.
    ///
    /// # Errors
    /// [`Full`], when the entry is new and the budget is spent; nothing has changed then.
    ///
    /// # Panics
    /// When the entry's slot or class is beyond [`Self::slot_count_max`] or [`Self::CLASS_MAX`].
    pub fn upsert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
        let hash = Hash::of(digest);
        let packed = pack(&hash, entry, self.addressing);
        let segment = self.segment_of(hash.prefix());
        match self.find_to_change(segment, &hash) {
            Position::At(position, _) => {
                let old = unpack(self.packed(segment, position), self.addressing);
                self.rope(segment).overwrite(position, &packed);
                Ok(Some(old))
            }
            Position::Before(position, run) => {
                if let Some(old) = self.overflowed_mut(segment, &hash) {
                    let old = std::mem::replace(old, packed);
                    return Ok(Some(unpack(&old, self.addressing)));
                }
                self.insert(segment, &hash, position, run, &packed)?;
                self.grow_if_due();
                Ok(None)
            }
        }
    }

    /// Changes the entry of `digest` where it lies, and returns it as it was; `None` when there is none.
    ///
    /// # Panics
    /// As [`Self::upsert`].
    pub fn modify(&mut self, digest: &Digest, change: impl FnOnce(&mut Entry)) -> Option<Entry> {
        let hash = Hash::of(digest);
        let addressing = self.addressing;
        let segment = self.segment_of(hash.prefix());
        let changed = |old: &[u8; WIDTH]| {
            let old = unpack(old, addressing);
            let mut entry = old;
            change(&mut entry);
            (old, pack(&hash, entry, addressing))
        };
        if let Position::At(position, _) = self.find(segment, &hash) {
            let (old, packed) = changed(self.packed(segment, position));
            self.rope(segment).overwrite(position, &packed);
            return Some(old);
        }
        let place = self.overflowed_mut(segment, &hash)?;
        let (old, packed) = changed(place);
        *place = packed;
        Some(old)
    }

    /// Has the entry of a digest point at `to` if it points at exactly `from`; returns it as it was then.
    pub fn repoint(&mut self, digest: &Digest, from: Pointer, to: Pointer) -> Option<Entry> {
        let follow = |entry: &mut Entry| {
            if entry.pointer == from {
                entry.pointer = to;
            }
        };
        self.modify(digest, follow).filter(|old| old.pointer == from)
    }

    /// Changes the expiry of an entry; returns the entry as it was.
    pub fn set_expiry(&mut self, digest: &Digest, expiry: Seconds) -> Option<Entry> {
        self.modify(digest, |entry| entry.expiry = expiry)
    }

    /// Points `digest` elsewhere if it still points at exactly `pointer`; says whether it did.
    pub fn replace_at(&mut self, digest: &Digest, pointer: Pointer, entry: Entry) -> bool {
        let old = self.modify(digest, |present| {
            if present.pointer == pointer {
                *present = entry;
            }
        });
        old.is_some_and(|old| old.pointer == pointer)
    }

    /// Removes and returns the entry of `digest`.
    pub fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        self.remove_if(digest, |_| true)
    }

    /// Removes and returns the entry of `digest` if it still points at exactly `pointer`.
    pub fn remove_at(&mut self, digest: &Digest, pointer: Pointer) -> Option<Entry> {
        self.remove_if(digest, |entry| entry.pointer == pointer)
    }

    fn remove_if(&mut self, digest: &Digest, may: impl FnOnce(Entry) -> bool) -> Option<Entry> {
        let hash = Hash::of(digest);
        let segment = self.segment_of(hash.prefix());
        let found = self.find_to_change(segment, &hash);
        let old = match found {
            Position::At(position, _) => *self.packed(segment, position),
            Position::Before(..) => *self.overflowed_mut(segment, &hash)?,
        };
        let old = unpack(&old, self.addressing);
        if !may(old) {
            return None;
        }
        if let Position::At(position, run) = found {
            self.rope(segment).remove(position);
            row::subtract(self.rows.row_mut(segment.row), run.bucket);
            if row::overflow(self.rows.row(segment.row)) > 0 {
                self.return_one(segment, run.bucket);
            }
        } else {
            self.remove_overflowed(segment, &hash);
        }
        self.entry_count -= 1;
        self.shrink_if_due();
        Some(old)
    }

    /// Removes every entry that `keep` says no to. Walks the whole index.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry) -> bool) {
        let addressing = self.addressing;
        for row in 0..self.rows.len() {
            self.retain_in(row, |packed| keep(unpack(packed, addressing)));
        }
        self.retain_overflowed(|packed| keep(unpack(packed, addressing)));
        while self.shrink_if_due() {}
    }

    /// Removes all entries and gives the memory of their blocks back to the system.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.overflow.clear();
        // Rows stay mapped: the first of them are needed at once, when the system may have no memory left.
        while !self.rows.is_empty() {
            self.rows.pop();
        }
        (self.level, self.split_count, self.entry_count) = (LEVEL_MIN, 0, 0);
        for _ in 0..1 << LEVEL_MIN {
            assert!(self.rows.push(), "the first rows are always paid for, and the system has memory for them");
        }
        self.blocks.prepare_ahead();
    }

    /// The segment of hashes that begin like `prefix`. Linear hashing (Litwin 1980) by the first bits: segments are
    /// numbered by their bits in reverse, so that the upper half of a segment becomes one at the end.
    #[inline]
    fn segment_of(&self, prefix: u64) -> Segment {
        let bits = prefix.reverse_bits();
        let row = (bits & ((1 << self.level) - 1)) as usize;
        if row >= self.split_count {
            return Segment { row, depth: self.level };
        }
        Segment { row: (bits & ((2 << self.level) - 1)) as usize, depth: self.level + 1 }
    }

    /// Finds a hash among the entries of its segment that have not overflowed.
    #[inline]
    fn find(&self, segment: Segment, hash: &Hash) -> Position {
        self.find_in(segment, row::run(self.rows.row(segment.row), segment.bucket(hash.prefix())), hash)
    }

    /// As [`Self::find`], and asks for all that an insert or a removal there will need while it waits for the entries.
    #[inline]
    fn find_to_change(&self, segment: Segment, hash: &Hash) -> Position {
        self.prefetch_lines(segment, hash.prefix());
        let view = self.view(segment);
        let run = row::run(view.row, segment.bucket(hash.prefix()));
        if run.len > 0 {
            let (block, at) = view.locate(run.start);
            self.blocks.prefetch(block, at);
        }
        view.prefetch_moves(run.start);
        self.find_in(segment, run, hash)
    }

    /// Finds a hash in its bucket.
    #[inline]
    fn find_in(&self, segment: Segment, run: Run, hash: &Hash) -> Position {
        let view = self.view(segment);
        for position in run.start..run.start + run.len {
            match hash.compare(view.entry(position)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Position::At(position, run),
                std::cmp::Ordering::Greater => return Position::Before(position, run),
            }
        }
        Position::Before(run.start + run.len, run)
    }

    #[inline]
    fn lookup_in(&self, segment: Segment, run: Run, hash: &Hash) -> Option<[u8; WIDTH]> {
        if let Position::At(position, _) = self.find_in(segment, run, hash) {
            return Some(*self.packed(segment, position));
        }
        if row::overflow(self.rows.row(segment.row)) == 0 {
            return None;
        }
        self.overflow.get(&Self::overflow_key(hash)).copied()
    }

    #[inline]
    fn packed(&self, segment: Segment, position: usize) -> &[u8; WIDTH] {
        self.view(segment).entry(position)
    }

    #[inline]
    fn view(&self, segment: Segment) -> View<'_, WIDTH, BLOCK, ROW> {
        View { slab: &self.blocks, row: self.rows.row(segment.row) }
    }

    #[inline]
    fn rope(&mut self, segment: Segment) -> Rope<'_, WIDTH, BLOCK, ROW> {
        Rope { slab: &mut self.blocks, row: self.rows.row_mut(segment.row) }
    }

    fn insert(
        &mut self,
        segment: Segment,
        hash: &Hash,
        position: usize,
        run: Run,
        packed: &[u8; WIDTH],
    ) -> Result<(), Full> {
        if row::len(self.rows.row(segment.row)) == Self::LEN_MAX || run.len == BUCKET_LEN_MAX {
            self.insert_overflowing(segment, hash, packed)?;
        } else {
            self.rope(segment).insert(position, packed)?;
            row::add(self.rows.row_mut(segment.row), run.bucket);
        }
        self.entry_count += 1;
        Ok(())
    }
}
