//! The entries of a segment in their blocks: a row of circular blocks, all full but one.
//!
//! Entry `number` of a segment is found by a division, since all blocks are full but the *partial* one, which is put
//! in the middle whenever a new one is needed. Each block is a ring (its first slot is in its [`Place`]), so an insert
//! moves entries within one block, and then one entry from each block to the next up to the partial one: a quarter of
//! the blocks on the average, two cache lines each. (Tiered vectors: Goodrich and Kloss 1999; Bille et al., "Fast
//! Dynamic Arrays", 2017.)

use dma_alloc::{BlockId, Slab};

use super::Full;
use super::row::{self, Place};

/// The blocks of one segment.
pub(super) struct Rope<'a, const WIDTH: usize, const BLOCK: usize, const ROW: usize> {
    pub(super) slab: &'a mut Slab<BLOCK>,
    pub(super) row: &'a mut [u8; ROW],
}

/// The same, to be looked at only.
#[derive(Clone, Copy)]
pub(super) struct View<'a, const WIDTH: usize, const BLOCK: usize, const ROW: usize> {
    pub(super) slab: &'a Slab<BLOCK>,
    pub(super) row: &'a [u8; ROW],
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    /// Number of the block in the segment.
    number: usize,
    /// Which of its entries.
    slot: usize,
}

/// Entries in a block of `block_size` bytes.
pub(super) const fn per_block(width: usize, block_size: usize) -> usize {
    let per_block = block_size / width;
    assert!(per_block.is_power_of_two() && per_block * width == block_size, "blocks are full of entries");
    per_block
}

impl<'a, const WIDTH: usize, const BLOCK: usize, const ROW: usize> View<'a, WIDTH, BLOCK, ROW> {
    const PER_BLOCK: usize = per_block(WIDTH, BLOCK);

    /// Entries in the partial block; 0 if there is none.
    #[inline]
    fn partial_len(self) -> usize {
        let len = row::len(self.row);
        len - Self::PER_BLOCK * len.div_ceil(Self::PER_BLOCK).saturating_sub(1)
    }

    #[inline]
    fn spot(self, position: usize) -> Spot {
        let count = self.partial_len();
        let is_behind = position >= row::partial(self.row) * Self::PER_BLOCK + count;
        let position = position + if is_behind { Self::PER_BLOCK - count } else { 0 };
        Spot { number: position / Self::PER_BLOCK, slot: position % Self::PER_BLOCK }
    }

    /// The block of entry `position` and the offset of the entry there.
    #[inline]
    pub(super) fn locate(self, position: usize) -> (BlockId, usize) {
        let Spot { number, slot } = self.spot(position);
        let place = row::place(self.row, number);
        (place.block, offset::<WIDTH, BLOCK>(place.first, slot))
    }

    /// The bytes of entry `position`.
    #[inline]
    pub(super) fn entry(self, position: usize) -> &'a [u8; WIDTH] {
        let (block, at) = self.locate(position);
        entry_at(self.slab.block(block), at)
    }

    /// Asks for what an insert or a removal at `position` moves from block to block: the ends of rings.
    #[inline]
    pub(super) fn prefetch_moves(self, position: usize) {
        let (number, partial) = (position / Self::PER_BLOCK, row::partial(self.row));
        let block_count = row::len(self.row).div_ceil(Self::PER_BLOCK);
        // Below the partial block the last of each ring moves up to the next, above it the first moves down.
        let moved_slot = if number < partial { Self::PER_BLOCK - 1 } else { 0 };
        for number in number.min(partial)..(number.max(partial) + 1).min(block_count) {
            let place = row::place(self.row, number);
            let at = offset::<WIDTH, BLOCK>(place.first, moved_slot);
            self.slab.prefetch(place.block, at);
            self.slab.prefetch(place.block, at + WIDTH - 1);
        }
    }

    /// Appends all entries, in order, to `entries`.
    pub(super) fn read(self, entries: &mut Vec<u8>) {
        let partial = row::partial(self.row);
        for number in 0..row::len(self.row).div_ceil(Self::PER_BLOCK) {
            let count = if number == partial { self.partial_len() } else { Self::PER_BLOCK };
            let place = row::place(self.row, number);
            let block = self.slab.block(place.block);
            let behind = (Self::PER_BLOCK - place.first).min(count);
            entries.extend_from_slice(&block[place.first * WIDTH..(place.first + behind) * WIDTH]);
            entries.extend_from_slice(&block[..(count - behind) * WIDTH]);
        }
    }
}

/// Where entry `slot` of a ring is, in bytes.
#[inline]
const fn offset<const WIDTH: usize, const BLOCK: usize>(first: usize, slot: usize) -> usize {
    ((first + slot) & (per_block(WIDTH, BLOCK) - 1)) * WIDTH
}

#[inline]
fn entry_at<const WIDTH: usize, const BLOCK: usize>(block: &[u8; BLOCK], at: usize) -> &[u8; WIDTH] {
    block[at..].first_chunk().expect("blocks end where entries do")
}

#[inline]
fn entry_at_mut<const WIDTH: usize, const BLOCK: usize>(block: &mut [u8; BLOCK], at: usize) -> &mut [u8; WIDTH] {
    block[at..].first_chunk_mut().expect("blocks end where entries do")
}

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> Rope<'_, WIDTH, BLOCK, ROW> {
    const PER_BLOCK: usize = per_block(WIDTH, BLOCK);
    const LAST: usize = Self::PER_BLOCK - 1;

    fn view(&self) -> View<'_, WIDTH, BLOCK, ROW> {
        View { slab: self.slab, row: self.row }
    }

    /// Visits all entries, in no order, to be changed in a way that keeps their order.
    pub(super) fn visit_mut(&mut self, mut visit: impl FnMut(&mut [u8; WIDTH])) {
        let (partial, partial_len) = (row::partial(self.row), self.view().partial_len());
        for number in 0..row::len(self.row).div_ceil(Self::PER_BLOCK) {
            let count = if number == partial { partial_len } else { Self::PER_BLOCK };
            let place = row::place(self.row, number);
            let block = self.slab.block_mut(place.block);
            let behind = (Self::PER_BLOCK - place.first).min(count);
            let (front, back) = block.split_at_mut(place.first * WIDTH);
            let entries = back[..behind * WIDTH].chunks_exact_mut(WIDTH);
            for entry in entries.chain(front[..(count - behind) * WIDTH].chunks_exact_mut(WIDTH)) {
                visit(entry.try_into().expect("a whole entry"));
            }
        }
    }

    /// Overwrites entry `position`.
    pub(super) fn overwrite(&mut self, position: usize, entry: &[u8; WIDTH]) {
        let (block, at) = self.view().locate(position);
        *entry_at_mut(self.slab.block_mut(block), at) = *entry;
    }

    /// Puts an entry before the one at `position`. The caller counts it, in the row, afterwards.
    ///
    /// # Errors
    /// [`Full`] when the slab has no block for it; nothing has changed then.
    pub(super) fn insert(&mut self, position: usize, entry: &[u8; WIDTH]) -> Result<(), Full> {
        let len = row::len(self.row);
        let mut count = self.view().partial_len();
        if len.is_multiple_of(Self::PER_BLOCK) {
            self.add_partial(len)?;
            count = 0;
        }
        let partial = row::partial(self.row);
        let partial_start = partial * Self::PER_BLOCK;
        if position < partial_start {
            let spot = Spot { number: position / Self::PER_BLOCK, slot: position % Self::PER_BLOCK };
            self.push_up(spot, partial, entry);
        } else if position <= partial_start + count {
            self.insert_within(partial, position - partial_start, count, entry);
        } else {
            // The slot that the entry goes before may be the first of its block: then it goes behind the last before.
            let before = position + Self::PER_BLOCK - count - 1;
            let spot = Spot { number: before / Self::PER_BLOCK, slot: before % Self::PER_BLOCK + 1 };
            self.push_down(spot, partial, count, entry);
        }
        Ok(())
    }

    /// Takes the entry at `position` out. The caller counts it, in the row, afterwards.
    pub(super) fn remove(&mut self, position: usize) {
        let count = self.view().partial_len();
        let Spot { number, slot } = self.view().spot(position);
        let partial = row::partial(self.row);
        if number <= partial {
            // Down from the partial block: each block takes the first of the next as its last.
            self.close_from_above(number, slot, if number == partial { count } else { Self::PER_BLOCK });
            for next in number + 1..=partial {
                let first = row::place(self.row, next).first;
                let moved = self.get(next, 0);
                self.set(next - 1, Self::LAST, &moved);
                row::set_first(self.row, next, (first + 1) & Self::LAST);
            }
        } else {
            self.close_from_below(number, slot);
            for next in (partial..number).rev() {
                let its_last = if next == partial { count - 1 } else { Self::LAST };
                let moved = self.get(next, its_last);
                self.set(next + 1, 0, &moved);
                if next > partial {
                    self.turn(next, -1);
                }
            }
        }
        if count == 1 {
            self.slab.give(row::place(self.row, partial).block);
            let block_count = row::len(self.row).div_ceil(Self::PER_BLOCK);
            row::remove_place(self.row, partial, block_count);
            // All are full now: any is as good, and the middle is best for what comes.
            row::set_partial(self.row, (block_count - 1) / 2);
        }
    }

    /// Makes these the entries of the segment, whose row still says which there were. Gives blocks back or takes more.
    /// The caller counts them, in the row, afterwards.
    ///
    /// # Errors
    /// [`Full`] when the slab has too few blocks. The segment is of no use then, and what it has taken is lost.
    pub(super) fn replace(&mut self, entries: &[u8]) -> Result<(), Full> {
        let (old, new) = (row::len(self.row).div_ceil(Self::PER_BLOCK), entries.len().div_ceil(BLOCK));
        for number in new..old {
            self.slab.give(row::place(self.row, number).block);
        }
        for (number, chunk) in entries.chunks(BLOCK).enumerate() {
            let block = if number < old { row::place(self.row, number).block } else { self.slab.take().ok_or(Full)? };
            self.slab.block_mut(block)[..chunk.len()].copy_from_slice(chunk);
            row::set_place(self.row, number, Place { block, first: 0 });
        }
        row::set_partial(self.row, new.saturating_sub(1));
        Ok(())
    }

    /// Keeps the first `len` of its entries, which are `entries`, and gives back the blocks that are empty then. The
    /// caller counts them, in the row, afterwards.
    pub(super) fn truncate(&mut self, len: usize, entries: &[u8]) {
        let is_full_below = row::partial(self.row) * Self::PER_BLOCK + self.view().partial_len() >= len;
        if !is_full_below {
            // The last block that is left would be a second one that is not full.
            self.replace(&entries[..len * WIDTH]).expect("fewer blocks than there were");
            return;
        }
        let count = len.div_ceil(Self::PER_BLOCK);
        for number in count..row::len(self.row).div_ceil(Self::PER_BLOCK) {
            self.slab.give(row::place(self.row, number).block);
        }
        row::set_partial(self.row, count.saturating_sub(1));
    }

    /// All blocks are full: takes one more and puts it in the middle.
    fn add_partial(&mut self, len: usize) -> Result<(), Full> {
        let block = self.slab.take().ok_or(Full)?;
        self.slab.prepare_ahead();
        let count = len / Self::PER_BLOCK;
        row::insert_place(self.row, count / 2, count, Place { block, first: 0 });
        row::set_partial(self.row, count / 2);
        Ok(())
    }

    /// Inserts into a full block below the partial one; the last of each block moves up to the next.
    fn push_up(&mut self, spot: Spot, partial: usize, entry: &[u8; WIDTH]) {
        let mut carry = self.get(spot.number, Self::LAST);
        if spot.slot > Self::LAST / 2 {
            self.move_up(spot.number, spot.slot, Self::LAST);
        } else {
            self.turn(spot.number, -1);
            self.move_down(spot.number, 0, spot.slot);
        }
        self.set(spot.number, spot.slot, entry);
        for number in spot.number + 1..=partial {
            // The slot before the first is that of the last, which moves on; in the partial block it is free.
            let place = row::place(self.row, number);
            let first = place.first.wrapping_sub(1) & Self::LAST;
            std::mem::swap(&mut carry, entry_at_mut(self.slab.block_mut(place.block), first * WIDTH));
            row::set_first(self.row, number, first);
        }
    }

    /// Inserts into a full block above the partial one, before `slot` (which is not the first); the first of each block
    /// moves down to the one before.
    fn push_down(&mut self, spot: Spot, partial: usize, count: usize, entry: &[u8; WIDTH]) {
        let mut carry = self.get(spot.number, 0);
        if spot.slot <= Self::LAST / 2 {
            self.move_down(spot.number, 0, spot.slot - 1);
        } else {
            self.turn(spot.number, 1);
            self.move_up(spot.number, spot.slot - 1, Self::LAST);
        }
        self.set(spot.number, spot.slot - 1, entry);
        for number in (partial + 1..spot.number).rev() {
            let place = row::place(self.row, number);
            std::mem::swap(&mut carry, entry_at_mut(self.slab.block_mut(place.block), place.first * WIDTH));
            row::set_first(self.row, number, (place.first + 1) & Self::LAST);
        }
        self.set(partial, count, &carry);
    }

    /// Inserts into the partial block, which has `count` entries.
    fn insert_within(&mut self, number: usize, slot: usize, count: usize, entry: &[u8; WIDTH]) {
        if slot > count / 2 {
            self.move_up(number, slot, count);
        } else {
            self.turn(number, -1);
            self.move_down(number, 0, slot);
        }
        self.set(number, slot, entry);
    }

    /// Closes the gap at `slot` of a block of `count` entries: its last slot is free then.
    fn close_from_above(&mut self, number: usize, slot: usize, count: usize) {
        if slot >= count / 2 {
            self.move_down(number, slot, count - 1);
        } else {
            self.move_up(number, 0, slot);
            self.turn(number, 1);
        }
    }

    /// Closes the gap at `slot` of a full block: its first slot is free then.
    fn close_from_below(&mut self, number: usize, slot: usize) {
        if slot <= Self::LAST / 2 {
            self.move_up(number, 0, slot);
        } else {
            self.move_down(number, slot, Self::LAST);
            self.turn(number, -1);
        }
    }

    /// Moves the entries of slots `from..to` of a block up by one.
    fn move_up(&mut self, number: usize, from: usize, to: usize) {
        let place = row::place(self.row, number);
        let block = self.slab.block_mut(place.block);
        for slot in (from..to).rev() {
            let moved: [u8; WIDTH] = *entry_at(block, offset::<WIDTH, BLOCK>(place.first, slot));
            *entry_at_mut(block, offset::<WIDTH, BLOCK>(place.first, slot + 1)) = moved;
        }
    }

    /// Moves the entries of slots `from + 1..=to` of a block down by one.
    fn move_down(&mut self, number: usize, from: usize, to: usize) {
        let place = row::place(self.row, number);
        let block = self.slab.block_mut(place.block);
        for slot in from..to {
            let moved: [u8; WIDTH] = *entry_at(block, offset::<WIDTH, BLOCK>(place.first, slot + 1));
            *entry_at_mut(block, offset::<WIDTH, BLOCK>(place.first, slot)) = moved;
        }
    }

    fn turn(&mut self, number: usize, by: isize) {
        let first = row::place(self.row, number).first.wrapping_add_signed(by) & Self::LAST;
        row::set_first(self.row, number, first);
    }

    #[inline]
    fn get(&self, number: usize, slot: usize) -> [u8; WIDTH] {
        let place = row::place(self.row, number);
        *entry_at(self.slab.block(place.block), offset::<WIDTH, BLOCK>(place.first, slot))
    }

    #[inline]
    fn set(&mut self, number: usize, slot: usize, entry: &[u8; WIDTH]) {
        let place = row::place(self.row, number);
        *entry_at_mut(self.slab.block_mut(place.block), offset::<WIDTH, BLOCK>(place.first, slot)) = *entry;
    }
}
