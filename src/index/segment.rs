//! One segment: ordered entries in a rope of slab blocks.

use std::cmp::Ordering;

use dma_alloc::{BlockId, Slab};

use super::Full;
use super::entry::{ENTRY_SIZE, Hash, RawEntry, leading, stored_hash};

/// Entries in a block.
pub(super) const ENTRIES_PER_BLOCK: usize = 16;
/// Bytes of a block.
pub(super) const BLOCK_SIZE: usize = ENTRIES_PER_BLOCK * ENTRY_SIZE;

/// Where a hash is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// It is the entry with this index.
    At(usize),
    /// It belongs before the entry with this index.
    Before(usize),
}

#[derive(Debug)]
pub(super) struct Segment {
    blocks: Vec<BlockId>,
    entry_count: u32,
    depth: u32,
}

type BlockSlab = Slab<BLOCK_SIZE>;

fn range(index: usize) -> std::ops::Range<usize> {
    let start = index % ENTRIES_PER_BLOCK * ENTRY_SIZE;
    start..start + ENTRY_SIZE
}

impl Segment {
    pub(super) fn new(depth: u32) -> Self {
        Self { blocks: Vec::new(), entry_count: 0, depth }
    }

    pub(super) fn len(&self) -> usize {
        self.entry_count as usize
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    pub(super) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes beside the blocks.
    pub(super) fn head_size(&self) -> usize {
        size_of::<Self>() + self.blocks.capacity() * size_of::<BlockId>()
    }

    /// Finds `hash`, walking from where it is to be expected.
    pub(super) fn find(&self, slab: &BlockSlab, hash: Hash) -> Position {
        let count = self.len();
        let mut index = hash.guess(self.depth, count);
        while index < count {
            match self.compare(slab, index, hash) {
                Ordering::Equal => return Position::At(index),
                Ordering::Less => index += 1,
                Ordering::Greater if index == 0 => return Position::Before(0),
                Ordering::Greater if self.compare(slab, index - 1, hash).is_lt() => return Position::Before(index),
                Ordering::Greater => index -= 1,
            }
        }
        Position::Before(count)
    }

    pub(super) fn entry(&self, slab: &BlockSlab, index: usize) -> RawEntry {
        let block = slab.block(self.blocks[index / ENTRIES_PER_BLOCK]);
        RawEntry(*block[range(index)].first_chunk().expect("cut to the length of an entry"))
    }

    pub(super) fn overwrite(&mut self, slab: &mut BlockSlab, index: usize, entry: RawEntry) {
        slab.block_mut(self.blocks[index / ENTRIES_PER_BLOCK])[range(index)].copy_from_slice(&entry.0);
    }

    /// Inserts before the entry with index `index`; everything behind moves by one.
    pub(super) fn insert(&mut self, slab: &mut BlockSlab, index: usize, entry: RawEntry) -> Result<(), Full> {
        if self.len() == self.blocks.len() * ENTRIES_PER_BLOCK {
            let block = slab.take().ok_or(Full)?;
            self.blocks.push(block);
        }
        let mut carry = entry;
        let mut start = index % ENTRIES_PER_BLOCK;
        for number in index / ENTRIES_PER_BLOCK..self.blocks.len() {
            let filled = (self.len() - number * ENTRIES_PER_BLOCK).min(ENTRIES_PER_BLOCK);
            let block = slab.block_mut(self.blocks[number]);
            let last = *block[range(ENTRIES_PER_BLOCK - 1)].first_chunk().expect("cut to the length of an entry");
            let moved_end = filled.min(ENTRIES_PER_BLOCK - 1) * ENTRY_SIZE;
            block.copy_within(start * ENTRY_SIZE..moved_end, (start + 1) * ENTRY_SIZE);
            block[range(start)].copy_from_slice(&carry.0);
            if filled < ENTRIES_PER_BLOCK {
                break;
            }
            carry = RawEntry(last);
            start = 0;
        }
        self.entry_count += 1;
        Ok(())
    }

    /// Removes the entry with index `index`; everything behind moves by one.
    pub(super) fn remove(&mut self, slab: &mut BlockSlab, index: usize) -> RawEntry {
        let removed = self.entry(slab, index);
        let mut start = index % ENTRIES_PER_BLOCK;
        for number in index / ENTRIES_PER_BLOCK..self.blocks.len() {
            let first_of_next =
                (number + 1 < self.blocks.len()).then(|| self.entry(slab, (number + 1) * ENTRIES_PER_BLOCK));
            let block = slab.block_mut(self.blocks[number]);
            block.copy_within((start + 1) * ENTRY_SIZE.., start * ENTRY_SIZE);
            if let Some(next) = first_of_next {
                block[range(ENTRIES_PER_BLOCK - 1)].copy_from_slice(&next.0);
            }
            start = 0;
        }
        self.shorten(slab, self.len() - 1);
        removed
    }

    /// Removes the entries that `keep` says no to; returns their number.
    pub(super) fn retain(&mut self, slab: &mut BlockSlab, mut keep: impl FnMut(RawEntry) -> bool) -> usize {
        let before = self.len();
        let mut kept = 0;
        for index in 0..before {
            let entry = self.entry(slab, index);
            if keep(entry) {
                if kept < index {
                    self.overwrite(slab, kept, entry);
                }
                kept += 1;
            }
        }
        self.shorten(slab, kept);
        before - kept
    }

    /// Moves the entries whose next bit is set to a segment of their own; `None` (and no change) when the slab has no
    /// block for it.
    pub(super) fn split(&mut self, slab: &mut BlockSlab) -> Option<Self> {
        // The halves take at most one block more than the whole: one that is in hand before anything moves.
        let spare = slab.take()?;
        slab.give(spare);
        let entries: Vec<RawEntry> = (0..self.len()).map(|index| self.entry(slab, index)).collect();
        let boundary = entries.partition_point(|entry| !entry.hash_bit(self.depth));
        self.depth += 1;
        self.shorten(slab, boundary);
        let mut upper = Self::new(self.depth);
        upper.blocks.reserve_exact((entries.len() - boundary).div_ceil(ENTRIES_PER_BLOCK));
        for entry in &entries[boundary..] {
            upper.insert(slab, upper.len(), *entry).expect("one block was spare and the others were just given back");
        }
        Some(upper)
    }

    /// Drops the entries from `count` on and gives back the blocks that are empty then.
    fn shorten(&mut self, slab: &mut BlockSlab, count: usize) {
        self.entry_count = u32::try_from(count).expect("shorter than before");
        for block in self.blocks.drain(count.div_ceil(ENTRIES_PER_BLOCK)..) {
            slab.give(block);
        }
    }

    /// Compares the stored hash of an entry with `hash`: nearly always the first eight bytes decide.
    fn compare(&self, slab: &BlockSlab, index: usize, hash: Hash) -> Ordering {
        let (stored, wanted) = (self.stored(slab, index), hash.stored());
        leading(stored).cmp(&leading(wanted)).then_with(|| stored.cmp(wanted))
    }

    fn stored<'a>(&self, slab: &'a BlockSlab, index: usize) -> &'a [u8; 19] {
        stored_hash(&slab.block(self.blocks[index / ENTRIES_PER_BLOCK])[range(index)])
    }

    pub(super) fn invariants(&self, slab: &BlockSlab, prefix: usize) {
        assert_eq!(self.blocks.len(), self.len().div_ceil(ENTRIES_PER_BLOCK));
        for index in 0..self.len() {
            let entry = self.entry(slab, index);
            for bit in 8..self.depth {
                assert_eq!(
                    entry.hash_bit(bit),
                    prefix >> (self.depth - 1 - bit) & 1 == 1,
                    "bit {bit} of entry {index}"
                );
            }
            if index > 0 {
                assert!(self.stored(slab, index - 1) < self.stored(slab, index), "order at entry {index}");
            }
        }
    }
}
