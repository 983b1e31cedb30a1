//! Records that are not on disk yet, in the form they will have there.
//!
//! Records are appended to the **active** write block of their lane. When it is full, or old enough, it is **frozen**: it never
//! changes again and is on its way to the device. Once it is there it is **written**; its records stay readable here
//! until the buffer is needed for another block. All three are found by where their records lie on disk, so a pointer
//! never changes.
//!
//! **Invariants:** what is frozen is immutable. Blocks of a lane are frozen, and written, in the order of their records.
//! Space between records, and up to the page's end, is zero. At most one block of each of the two lanes is active; memory is
//! bounded by the number of blocks, plus the budget for records that are larger than a block.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

use dma_alloc::{Buffer, PAGE};

use crate::clock::Seconds;
use crate::index::Pointer;
use crate::limits::PAGE_SIZE;
use crate::record::{self, Header, Kind, Place, Record, granules_up};

/// Space before a page boundary that may be skipped so that a record does not cross it.
const SKIP_SIZE_MAX: usize = PAGE_SIZE / 8;

/// One use of a table's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// The slot.
    pub slot: u32,
    /// The sequence of this use.
    pub sequence: u64,
}

impl TableUse {
    /// The place of a record, or the number of a footer page, in this table.
    #[must_use]
    pub const fn place(self, offset: u32) -> Place {
        Place { slot: self.slot, sequence: self.sequence, offset }
    }
}

/// A frozen block.
#[derive(Debug)]
pub struct Block {
    /// The table it belongs to.
    pub table: TableUse,
    /// Where it starts in the table, in bytes; a multiple of the page.
    pub start: u32,
    /// Bytes to write, a multiple of the page.
    pub size: usize,
    /// The bytes.
    pub buffer: Rc<Buffer>,
}

impl Block {
    /// Its buffer, if nobody else holds the block any more.
    fn into_buffer(self: Rc<Self>) -> Option<Buffer> {
        Rc::into_inner(self).and_then(|block| Rc::into_inner(block.buffer))
    }

    /// The bytes from the record at `pointer` on, if the block holds it.
    fn find(&self, pointer: Pointer) -> Option<&[u8]> {
        let position = usize::try_from(pointer.offset.checked_sub(self.start)?).ok()?;
        (self.table.slot == pointer.slot && position < self.size).then(|| &self.buffer[position..self.size])
    }

    /// The records of the block with their offsets in the table.
    pub fn records(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut position = 0;
        std::iter::from_fn(move || {
            while position < self.size {
                let rest = &self.buffer[position..self.size];
                let offset = self.start + u32::try_from(position).ok()?;
                match record::decode_trusted(rest) {
                    Ok(record) => {
                        position += granules_up(record.size());
                        if record.header.kind != Kind::Padding {
                            return Some((offset, record));
                        }
                    }
                    Err(_) => position += crate::limits::RECORD_GRANULE,
                }
            }
            None
        })
    }
}

#[derive(Debug)]
struct Active {
    table: TableUse,
    start: u32,
    /// End of the last record in the buffer.
    position: usize,
    buffer: Buffer,
}

impl Active {
    fn end(&self) -> u32 {
        self.start + self.position.next_multiple_of(PAGE_SIZE) as u32
    }
}

/// The write blocks of a shard.
#[derive(Debug)]
pub struct Memtable {
    block_size: usize,
    /// Buffers of `block_size` for the next blocks.
    free: Vec<Buffer>,
    large_budget: usize,
    large_size: usize,
    active: Option<Active>,
    /// The active block of the other lane.
    parked: Option<Active>,
    frozen: VecDeque<Rc<Block>>,
    written: VecDeque<Rc<Block>>,
}

impl Memtable {
    /// A memtable that fills `blocks`, and up to `large_budget` bytes more for records that do not fit one of them.
    ///
    /// # Panics
    /// When there is no block, or not all have the same size.
    #[must_use]
    pub fn new(blocks: Vec<Buffer>, large_budget: usize) -> Self {
        let block_size = blocks.first().expect("something to write records to").len();
        assert!(blocks.iter().all(|block| block.len() == block_size), "a block is known by its size");
        Self {
            block_size,
            free: blocks,
            large_budget,
            large_size: 0,
            active: None,
            parked: None,
            frozen: VecDeque::new(),
            written: VecDeque::new(),
        }
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let blocks = self.frozen.iter().chain(&self.written).map(|block| block.buffer.len());
        let active = self.actives().map(|active| active.buffer.len()).sum::<usize>();
        blocks.sum::<usize>() + active + self.free.iter().map(|buffer| buffer.len()).sum::<usize>()
    }

    /// Bytes of records that are not on disk yet.
    #[must_use]
    pub fn dirty_size(&self) -> usize {
        let active = self.actives().map(|active| active.position).sum::<usize>();
        self.frozen.iter().map(|block| block.size).sum::<usize>() + active
    }

    /// Whether an active block has records.
    #[must_use]
    pub fn has_active_records(&self) -> bool {
        self.actives().any(|active| active.position > 0)
    }

    fn actives(&self) -> impl Iterator<Item = &Active> {
        self.active.iter().chain(&self.parked)
    }

    /// There are two lanes, each with an active block. What is said of the active block is said of the one whose turn it is;
    /// records are found, and overwritten, in both. Now it is the other one's turn.
    pub const fn turn(&mut self) {
        std::mem::swap(&mut self.active, &mut self.parked);
    }

    /// As [`Self::active_end`], of the lane whose turn it is not.
    #[must_use]
    pub fn parked_end(&self) -> Option<u32> {
        self.parked.as_ref().map(Active::end)
    }

    /// The offset in its table at which a record of `size` bytes would lie in the active block; `None` when it does
    /// not fit.
    #[must_use]
    pub fn next_offset(&self, size: usize) -> Option<u32> {
        let active = self.active.as_ref()?;
        let position = place_record(granules_up(active.position), size);
        (position + size <= active.buffer.len()).then(|| active.start + position as u32)
    }

    /// The offset in its table, a multiple of the page, at which the active block would end if it were frozen now.
    #[must_use]
    pub fn active_end(&self) -> Option<u32> {
        self.active.as_ref().map(Active::end)
    }

    /// Where the first block begins, an offset in its table, that is frozen and on its way to the device.
    #[must_use]
    pub fn frozen_start(&self) -> Option<u32> {
        self.frozen.front().map(|block| block.start)
    }

    /// Starts a new active block at `start` of `table`, with room for a record of `record_size` bytes; false when all
    /// buffers are on their way to the device.
    ///
    /// # Panics
    /// When there is an active block: it is frozen first.
    pub fn start_block(&mut self, table: TableUse, start: u32, record_size: usize) -> bool {
        assert!(self.active.is_none(), "the last block is frozen before the next one starts");
        let Some(buffer) = self.take_buffer(record_size) else { return false };
        self.active = Some(Active { table, start, position: 0, buffer });
        true
    }

    /// Appends a record of `size` bytes to the active block and returns its offset in the table.
    ///
    /// # Panics
    /// Unless [`Self::next_offset`] has just said where it goes.
    pub fn append(&mut self, size: usize, header: Header, key: &[u8], value: &[u8]) -> u32 {
        let offset = self.next_offset(size).expect("the caller has asked whether it fits");
        let active = self.active.as_mut().expect("next_offset found it");
        let position = (offset - active.start) as usize;
        active.buffer[active.position..position].fill(0);
        let place = active.table.place(offset);
        let written = record::encode(&mut active.buffer[position..], place, header, key, value);
        assert_eq!(written, size, "the caller computed the size of the same record");
        active.position = position + size;
        offset
    }

    /// Overwrites the record at `pointer` with another of the same key, if it is in the active block and the new one
    /// fits into its place. Says whether it was.
    pub fn overwrite(&mut self, pointer: Pointer, header: Header, key: &[u8], value: &[u8]) -> bool {
        if self.parked.as_ref().is_some_and(|parked| parked.table.slot == pointer.slot) {
            self.turn();
            let is_done = self.overwrite(pointer, header, key, value);
            self.turn();
            return is_done;
        }
        let Some((bytes, place)) = self.active_record(pointer) else { return false };
        let size = header.record_size(key.len(), value.len());
        if granules_up(size) > granules_up(bytes.len()) {
            return false;
        }
        let (next, old_end) = (granules_up(size), granules_up(bytes.len()));
        let active = self.active.as_mut().expect("active_record found it");
        let position = (place.offset - active.start) as usize;
        let was_last = position + old_end >= active.position;
        let bytes = &mut active.buffer[position..position + old_end];
        record::encode(bytes, place, header, key, value);
        bytes[size..next].fill(0);
        if was_last {
            active.position = position + size;
        } else {
            let place = Place { offset: place.offset + next as u32, ..place };
            record::encode_padding(&mut bytes[next..], place);
        }
        true
    }

    /// Changes the expiry of the record at `pointer`, if it is in the active block. Says whether it was.
    pub fn overwrite_expiry(&mut self, pointer: Pointer, expiry: Seconds) -> bool {
        let Some((bytes, place)) = self.active_record(pointer) else { return false };
        record::rewrite_expiry(bytes, place, expiry).is_ok()
    }

    /// Freezes the active block. `None` when there are no records in it; it stays active then.
    pub fn freeze(&mut self) -> Option<Rc<Block>> {
        let mut active = self.active.take_if(|active| active.position > 0)?;
        let size = active.position.next_multiple_of(PAGE_SIZE);
        active.buffer[active.position..size].fill(0);
        let block = Block { table: active.table, start: active.start, size, buffer: Rc::new(active.buffer) };
        let block = Rc::new(block);
        self.frozen.push_back(Rc::clone(&block));
        Some(block)
    }

    /// Drops the active block if it is empty, so that the next one can start elsewhere.
    pub fn drop_empty_active(&mut self) {
        if let Some(active) = self.active.take_if(|active| active.position == 0) {
            self.give_buffer(active.buffer);
        }
    }

    /// The oldest frozen block has reached the device, or has failed to (`readable` is false then): its buffer may be
    /// used again.
    ///
    /// # Panics
    /// When no block is frozen.
    pub fn retire_oldest(&mut self, readable: bool) {
        let block = self.frozen.pop_front().expect("blocks are retired once, in order");
        if readable && block.buffer.len() == self.block_size {
            self.written.push_back(block);
        } else if let Some(buffer) = block.into_buffer() {
            self.give_buffer(buffer);
        }
    }

    /// Forgets the written blocks of a slot that is to be used again.
    pub fn forget(&mut self, slot: u32) {
        self.forget_those(|block| block.table.slot == slot);
    }

    /// Forgets all written blocks.
    pub fn forget_written(&mut self) {
        self.forget_those(|_| true);
    }

    fn forget_those(&mut self, is_forgotten: impl Fn(&Block) -> bool) {
        let (forgotten, kept) = self.written.drain(..).partition(|block| is_forgotten(block));
        self.written = kept;
        Vec::from(forgotten).into_iter().filter_map(Block::into_buffer).for_each(|buffer| self.give_buffer(buffer));
    }

    /// The bytes from the record at `pointer` on, if it is in memory.
    #[must_use]
    pub fn find(&self, pointer: Pointer) -> Option<&[u8]> {
        if let Some(active) = self.actives().find(|active| active.table.slot == pointer.slot) {
            let position = pointer.offset.checked_sub(active.start).map(|position| position as usize);
            if let Some(position) = position.filter(|position| *position < active.position) {
                return Some(&active.buffer[position..active.position]);
            }
        }
        self.frozen.iter().chain(&self.written).find_map(|block| block.find(pointer))
    }

    /// How many blocks were frozen since the record at `pointer` was appended, if it is not on disk yet.
    #[must_use]
    pub fn blocks_since(&self, pointer: Pointer) -> Option<u64> {
        let is_active = self.active.as_ref().is_some_and(|active| {
            active.table.slot == pointer.slot
                && (active.start..active.start + active.position as u32).contains(&pointer.offset)
        });
        if is_active {
            return Some(0);
        }
        let place = self.frozen.iter().rev().position(|block| block.find(pointer).is_some())?;
        Some(place as u64 + 1)
    }

    fn active_record(&mut self, pointer: Pointer) -> Option<(&mut [u8], Place)> {
        let active = self.active.iter_mut().chain(&mut self.parked).find(|active| active.table.slot == pointer.slot)?;
        let position = pointer.offset.checked_sub(active.start)? as usize;
        let bytes = active.buffer.get_mut(position..active.position).filter(|bytes| !bytes.is_empty())?;
        let size = record::decode_trusted(bytes).ok()?.size();
        Some((&mut bytes[..size], active.table.place(pointer.offset)))
    }

    fn take_buffer(&mut self, record_size: usize) -> Option<Buffer> {
        if record_size > self.block_size {
            let size = usize::try_from(PAGE.round_up(record_size as u64)).ok()?;
            if self.large_size > 0 && self.large_size + size > self.large_budget {
                return None;
            }
            self.large_size += size;
            return Some(Buffer::zeroed(size));
        }
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        self.written.pop_front()?.into_buffer()
    }

    fn give_buffer(&mut self, buffer: Buffer) {
        if buffer.len() == self.block_size {
            self.free.push(buffer);
        } else {
            self.large_size -= buffer.len();
        }
    }
}

/// Where a record of `size` bytes goes when `position` is free: there, or at the next page when that saves the
/// crossing of a boundary cheaply.
fn place_record(position: usize, size: usize) -> usize {
    let touched = (position + size).div_ceil(PAGE_SIZE) - position / PAGE_SIZE;
    let skip = position.next_multiple_of(PAGE_SIZE) - position;
    if touched > size.div_ceil(PAGE_SIZE) && skip < SKIP_SIZE_MAX { position + skip } else { position }
}
