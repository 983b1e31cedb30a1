//! The slab-packed index: where the newest record of each key lies.
//!
//! A directory, indexed by the top bits of the hash, names segments. A segment holds up to
//! [`SEGMENT_ENTRY_COUNT_MAX`] entries, ordered by hash and packed into a rope of equal slab blocks of 16 entries;
//! all blocks but a segment's last are full. When a segment is full it is split in two by the next bit of the hash;
//! nothing else moves, and nothing ever doubles but the directory of 4-byte numbers.
//!
//! Hashes are uniform, so the place of an entry in its segment is guessed from the hash and is off by a few entries
//! only.
//!
//! **Invariants** (checked by [`Index::invariants`]):
//! - Each entry's identity is the whole 160-bit digest: 19 bytes are stored, the first byte of the hash is implied by
//!   the directory, which is never coarser than 8 bits. So a match *is* the key, and no write ever has to read the
//!   disk to know what it replaces.
//! - The order of entries within a segment is strict: no digest is there twice.
//! - Memory is the slab's, bounded by its budget; an insert that does not fit is [`Full`], and changes nothing.

mod entry;
mod segment;
#[cfg(test)]
mod tests;

use dma_alloc::{PageKind, Slab};

pub use entry::{Entry, Pointer};
use entry::{Hash, Layout, RawEntry};
use segment::{BLOCK_SIZE, Position, Segment};

use crate::clock::Seconds;
use crate::digest::Digest;
use crate::limits::TABLE_COUNT_MAX;

pub use entry::ENTRY_SIZE;

/// Entries at which a segment is split.
pub const SEGMENT_ENTRY_COUNT_MAX: usize = 512;
/// Bits of the hash that the directory always resolves: they are not stored.
const DEPTH_MIN: u32 = 8;
/// The directory is never finer than this; segments beyond it grow instead of being split.
const DEPTH_MAX: u32 = 28;

/// Part of the budget that goes to blocks; the heads of segments and the directory take the rest.
const BLOCKS_PERCENT: usize = 97;

/// The memory budget has no room for one more entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index has used its memory budget")]
pub struct Full;

/// Digest to place on disk, for one shard.
#[derive(Debug)]
pub struct Index {
    slab: Slab<BLOCK_SIZE>,
    segments: Vec<Segment>,
    directory: Vec<u32>,
    /// The directory has `1 << depth` places.
    depth: u32,
    entry_count: usize,
    layout: Layout,
}

impl Index {
    /// An empty index that uses at most `budget_size` bytes for its entries; pointers are into tables of `table_size`
    /// bytes.
    ///
    /// # Panics
    /// When `table_size` is not a power of two.
    #[must_use]
    pub fn new(budget_size: usize, table_size: usize) -> Self {
        let mut index = Self {
            slab: Slab::new(budget_size / 100 * BLOCKS_PERCENT, PageKind::Plain),
            segments: Vec::new(),
            directory: Vec::new(),
            depth: DEPTH_MIN,
            entry_count: 0,
            layout: Layout::new(table_size),
        };
        index.clear();
        index
    }

    /// Slots that pointers can name with tables of `table_size` bytes.
    #[must_use]
    pub fn slot_count_max(table_size: usize) -> usize {
        Layout::new(table_size).slot_count_max().min(TABLE_COUNT_MAX)
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

    /// Bytes of memory in use, exact to the slab block, plus the directory and the segments' heads.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let heads: usize = self.segments.iter().map(Segment::head_size).sum();
        self.slab.touched_size() + heads + self.directory.capacity() * size_of::<u32>()
    }

    /// Entries that fit the budget, about: with blocks as full as they are on the average.
    #[must_use]
    pub fn entry_count_max(&self) -> usize {
        self.slab.block_count_max() * segment::ENTRIES_PER_BLOCK / 100 * 95
    }

    /// Whether a good number of new entries is sure to fit.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let free_count = self.slab.block_count_max() - self.slab.taken_count();
        free_count > self.slab.block_count_max() / 64
    }

    /// The entry of `digest`, expired or not.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Entry> {
        let hash = Hash::of(digest);
        let segment = &self.segments[self.segment_of(hash)];
        match segment.find(&self.slab, hash) {
            Position::At(place) => Some(segment.entry(&self.slab, place).unpack(self.layout)),
            Position::Before(_) => None,
        }
    }

    /// Puts `entry` in the place of what `digest` had, and returns that.
    ///
    /// # Errors
    /// [`Full`], when the entry is new and the budget is spent; nothing has changed then.
    pub fn upsert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
        let hash = Hash::of(digest);
        let raw = RawEntry::pack(hash, entry, self.layout);
        let number = self.segment_of(hash);
        let segment = &mut self.segments[number];
        match segment.find(&self.slab, hash) {
            Position::At(place) => {
                let old = segment.entry(&self.slab, place).unpack(self.layout);
                segment.overwrite(&mut self.slab, place, raw);
                Ok(Some(old))
            }
            Position::Before(place) => {
                segment.insert(&mut self.slab, place, raw)?;
                self.entry_count += 1;
                if self.segments[number].len() > SEGMENT_ENTRY_COUNT_MAX {
                    self.split(hash);
                }
                Ok(None)
            }
        }
    }

    /// Changes the expiry of an entry; returns the entry as it was.
    pub fn set_expiry(&mut self, digest: &Digest, expiry: Seconds) -> Option<Entry> {
        let old = self.get(digest)?;
        self.upsert(digest, Entry { expiry, ..old }).ok().flatten()
    }

    /// Removes and returns the entry of `digest`.
    pub fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let hash = Hash::of(digest);
        let number = self.segment_of(hash);
        let segment = &mut self.segments[number];
        match segment.find(&self.slab, hash) {
            Position::At(place) => {
                let old = segment.remove(&mut self.slab, place).unpack(self.layout);
                self.entry_count -= 1;
                Some(old)
            }
            Position::Before(_) => None,
        }
    }

    /// Removes every entry that `keep` says no to. Walks the whole index.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry) -> bool) {
        let layout = self.layout;
        for segment in &mut self.segments {
            self.entry_count -= segment.retain(&mut self.slab, |raw| keep(raw.unpack(layout)));
        }
    }

    /// Removes all entries and gives their memory back to the system.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.depth = DEPTH_MIN;
        self.entry_count = 0;
        self.segments = (0..1u32 << DEPTH_MIN).map(|_| Segment::new(DEPTH_MIN)).collect();
        self.directory = (0..1u32 << DEPTH_MIN).collect();
    }

    fn segment_of(&self, hash: Hash) -> usize {
        self.directory[hash.prefix(self.depth)] as usize
    }

    /// Splits the segment of `hash` by the next bit. Leaves it longer than usual when there is no block to spare or
    /// no bit left.
    fn split(&mut self, hash: Hash) {
        let number = self.segment_of(hash);
        let depth = self.segments[number].depth();
        if depth == DEPTH_MAX {
            return;
        }
        let Some(upper) = self.segments[number].split(&mut self.slab) else { return };
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|segment| [*segment, *segment]).collect();
            self.depth += 1;
        }
        let span = 1usize << (self.depth - depth);
        let start = hash.prefix(self.depth) & !(span - 1);
        let upper_number = u32::try_from(self.segments.len()).expect("fewer segments than directory places");
        self.segments.push(upper);
        self.directory[start + span / 2..start + span].fill(upper_number);
    }

    /// Checks every invariant of the module; for tests.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn invariants(&self) {
        assert_eq!(self.directory.len(), 1 << self.depth);
        let mut seen = vec![0usize; self.segments.len()];
        for (place, number) in self.directory.iter().enumerate() {
            let segment = &self.segments[*number as usize];
            seen[*number as usize] += 1;
            segment.invariants(&self.slab, place >> (self.depth - segment.depth()));
        }
        for (segment, places) in self.segments.iter().zip(&seen) {
            assert_eq!(*places, 1 << (self.depth - segment.depth()), "a segment of depth {}", segment.depth());
        }
        assert_eq!(self.segments.iter().map(Segment::len).sum::<usize>(), self.entry_count);
        assert_eq!(self.segments.iter().map(Segment::block_count).sum::<usize>(), self.slab.taken_count());
    }
}
