//! Looking for records where none is known to begin: behind bytes that should be a record and are none.

use crate::limits::{BLOCK_SIZE_DEFAULT, MIB, PAGE_SIZE, RECORD_GRANULE};
use crate::memtable::TableUse;
use crate::record::{self, Kind};

/// It may take as many checksums as so many tables have bytes: what only looks like records costs no more.
const TABLES_MAX: u64 = 16;
/// Larger records are not looked for: bytes that look like the front of one would have as many read at once.
const RECORD_SIZE_MAX: usize = 16 * MIB;
/// Bits of a record that nothing sets.
const RESERVED_BITS: u16 = 0x7ff8;

/// A search through one use of a table.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    table: TableUse,
    table_size: u64,
    /// Bytes that may still be summed up.
    left: u64,
    /// Where the last bytes end that are not zeros, as far as was looked.
    dirty_end: u64,
}

/// A part of a table.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// What is in it.
    pub bytes: &'a [u8],
    /// Where in the table it begins.
    pub start: u64,
    /// Nothing follows it.
    pub is_last: bool,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole record begins at this place of the part.
    Record(usize),
    /// None begins before this place; more bytes from there on say whether one does there.
    NeedMore(usize),
    /// There is none, as far as can be told.
    None,
}

enum Look {
    Whole,
    Nothing,
    NeedMore,
    GiveUp,
}

impl Search {
    /// A search through `table`, of `table_size` bytes.
    #[must_use]
    pub const fn new(table: TableUse, table_size: u64) -> Self {
        Self { table, table_size, left: TABLES_MAX.saturating_mul(table_size), dirty_end: 0 }
    }

    /// Where the last granule ends that is not zeros, an offset in the table, once nothing is left to be looked through.
    #[must_use]
    pub const fn dirty_end(&self) -> u64 {
        self.dirty_end
    }

    /// Where the next record begins, from the place `at` of `part` on and before `end`.
    pub fn next(&mut self, part: Part<'_>, mut at: usize, end: usize) -> Next {
        while at + RECORD_GRANULE <= end {
            let bytes = &part.bytes[at..];
            if bytes[..RECORD_GRANULE].iter().any(|byte| *byte != 0) {
                self.dirty_end = part.start + (at + RECORD_GRANULE) as u64;
                match self.look(bytes, part.start + at as u64, part.is_last) {
                    Look::Whole => return Next::Record(at),
                    Look::NeedMore => return Next::NeedMore(at),
                    Look::GiveUp => {
                        self.dirty_end = self.table_size;
                        return Next::None;
                    }
                    Look::Nothing => {}
                }
            }
            at += RECORD_GRANULE;
        }
        if part.is_last { Next::None } else { Next::NeedMore(at) }
    }

    /// Whether `bytes`, from `offset` of the table on, begin with a record. Most are none at the first glance.
    fn look(&mut self, bytes: &[u8], offset: u64, is_last: bool) -> Look {
        let too_few = if is_last { Look::Nothing } else { Look::NeedMore };
        let Some(front) = bytes.first_chunk::<{ record::HEADER_SIZE }>() else { return too_few };
        let has_sense =
            Kind::from_byte(front[4]).is_some() && u16::from_le_bytes([front[6], front[7]]) & RESERVED_BITS == 0;
        let size = record::claimed_size(front).filter(|_| has_sense);
        let fits = |size: &usize| *size <= RECORD_SIZE_MAX && offset + *size as u64 <= self.table_size;
        let Some(size) = size.filter(fits) else { return Look::Nothing };
        if size > bytes.len() {
            return too_few;
        }
        let Some(left) = self.left.checked_sub(size as u64) else { return Look::GiveUp };
        self.left = left;
        let place = u32::try_from(offset).map(|offset| self.table.place(offset));
        if place.is_ok_and(|place| record::decode(bytes, place).is_ok()) { Look::Whole } else { Look::Nothing }
    }
}

/// Whether a record that ends at `last` at the latest lies further behind the end of the others, `end`, than the one write
/// reaches that a stop may tear: blocks are written one after the other, and none is larger than a quarter of its table.
#[must_use]
pub fn is_beyond_one_write(end: u64, last: u64, table_size: u64) -> bool {
    last > end.next_multiple_of(PAGE_SIZE as u64) + (BLOCK_SIZE_DEFAULT as u64).min(table_size / 4)
}
