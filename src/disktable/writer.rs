//! Writing a disktable: what is known of it while it is open, and the pages around its records.

use std::io::Result;
use std::ops::Range;
use std::rc::Rc;

use dma_alloc::Buffer;

use super::format::{Identity, Mark, MarkKind, RECORDS_START, Summary, footer_page_count};
use super::summaries::SummaryLog;
use crate::clock::Seconds;
use crate::io::File;
use crate::limits::{MIB, PAGE_SIZE};
use crate::memtable::TableUse;
use crate::mutants::{Mutant, has};
use crate::record;

/// The table that records are appended to.
#[derive(Debug)]
pub struct TableWriter {
    /// Which table, and which use of it.
    pub table: TableUse,
    /// Where the next write block starts.
    pub next_start: u32,
    /// What the footer will say.
    pub summaries: SummaryLog,
    table_size: usize,
    summary_count_max: usize,
    is_full: bool,
}

impl TableWriter {
    /// An empty table of `table_size` bytes that takes at most `summary_count_max` records.
    #[must_use]
    pub fn new(table: TableUse, table_size: usize, summary_count_max: usize) -> Self {
        Self::resume(table, table_size, summary_count_max, RECORDS_START as u32, SummaryLog::default())
    }

    /// A table that has records already, up to `next_start`.
    #[must_use]
    pub fn resume(
        table: TableUse,
        table_size: usize,
        summary_count_max: usize,
        next_start: u32,
        summaries: SummaryLog,
    ) -> Self {
        Self { table, next_start, summaries, table_size, summary_count_max, is_full: false }
    }

    /// Whether a record of `size` bytes at `offset` leaves room for the footer and the trailer, and for `reserve`
    /// bytes more, which may come in another block, and make the footer a page longer.
    #[must_use]
    pub fn fits(&self, offset: u32, size: usize, reserve: usize) -> bool {
        let end = (offset as usize + size).next_multiple_of(PAGE_SIZE);
        let records_end = end + reserve.next_multiple_of(PAGE_SIZE);
        let footer = (footer_page_count(self.summaries.len() + 1) + 1 + usize::from(reserve > 0)) * PAGE_SIZE;
        records_end + footer <= self.table_size && self.summaries.len() < self.summary_count_max
    }

    /// Whether a record of `size` bytes fits into any table at all.
    #[must_use]
    pub fn fits_empty(table_size: usize, size: usize) -> bool {
        RECORDS_START + size.next_multiple_of(PAGE_SIZE) + 2 * PAGE_SIZE <= table_size
    }

    /// A record has not fitted. What is left is in use as well as what is: the same records would leave it in any other table,
    /// too.
    pub fn note_full(&mut self) {
        self.is_full = true;
    }

    /// Bytes of the table that are in use when it is sealed now, or the same part of them as of the records that it may have,
    /// if that is more.
    #[must_use]
    pub fn used_size(&self) -> u64 {
        if self.is_full {
            return self.table_size as u64;
        }
        let bytes = u64::from(self.next_start) + ((footer_page_count(self.summaries.len()) + 1) * PAGE_SIZE) as u64;
        let by_count = self.table_size as u64 * self.summaries.len() as u64 / self.summary_count_max as u64;
        bytes.max(by_count)
    }

    /// Notes a record that was appended.
    pub fn note(&mut self, summary: &Summary) {
        self.summaries.push(summary);
    }
}

/// Writes the header that begins a use of the table; it is on stable media when this returns, so that no record is there
/// before it and its sequence is never given out again.
///
/// # Errors
/// What the write or sync says; no records must be written to the table then.
pub async fn write_header<F: File>(file: &F, identity: Identity, sequence: u64, now: Seconds) -> Result<()> {
    let mark = Mark { identity, sequence, records_end: 0, summary_count: 0, written: now.into() };
    write_mark(file, MarkKind::Header, mark, 0).await?;
    if has(Mutant::HeaderUnsynced) {
        return Ok(());
    }
    file.sync().await
}

async fn write_mark<F: File>(file: &F, kind: MarkKind, mark: Mark, offset: u64) -> Result<()> {
    let mut page = Buffer::zeroed(PAGE_SIZE);
    mark.encode(kind, &mut page);
    file.write_at(offset, PAGE_SIZE, Rc::new(page)).await
}

/// Seals a table: writes the footer and then the trailer, and returns when all of the table is on stable media.
///
/// # Errors
/// What a write or sync says; the table counts as unsealed at the next start then.
pub async fn seal<F: File>(
    file: &F,
    identity: Identity,
    table: TableUse,
    records_end: u32,
    summaries: SummaryLog,
    now: Seconds,
) -> Result<()> {
    let summary_count = summaries.len() as u64;
    let (buffers, page_count) = summaries.into_footer(table.place(0));
    let mut offset = identity.table_size - ((page_count + 1) * PAGE_SIZE) as u64;
    assert!(offset >= u64::from(records_end), "fits() left room for the footer");
    let mut left = page_count * PAGE_SIZE;
    for buffer in buffers {
        let size = buffer.len().min(left);
        file.write_at(offset, size, Rc::new(buffer)).await?;
        offset += size as u64;
        left -= size;
    }
    // The trailer vouches for the footer and the records, so they are on stable media before it.
    if !has(Mutant::TrailerBeforeData) {
        file.sync().await?;
    }
    let records_end = u64::from(records_end);
    let mark = Mark { identity, sequence: table.sequence, records_end, summary_count, written: now.into() };
    write_mark(file, MarkKind::Trailer, mark, identity.table_size - PAGE_SIZE as u64).await?;
    file.sync().await
}

/// Takes the seal off a table that is to be appended to.
///
/// # Errors
/// What the write says.
pub async fn unseal<F: File>(file: &F, identity: Identity) -> Result<()> {
    let trailer = identity.table_size - PAGE_SIZE as u64;
    file.write_at(trailer, PAGE_SIZE, Rc::new(Buffer::zeroed(PAGE_SIZE))).await?;
    file.sync().await
}

/// Marks a table as free, on stable media: no recovery finds its records any more.
///
/// # Errors
/// What a write or sync says; the table must not be used again then.
pub async fn free<F: File>(file: &F, identity: Identity, sequence: u64, now: Seconds) -> Result<()> {
    let mark = Mark { identity, sequence, records_end: 0, summary_count: 0, written: now.into() };
    write_mark(file, MarkKind::Free, mark, 0).await?;
    if has(Mutant::FreeUnsynced) {
        return Ok(());
    }
    unseal(file, identity).await
}

/// Overwrites a table from `start`, where its last record ends, with zeros, and makes that stable. The page that the
/// record ends in is written again with the same bytes up to there, so that a write that is torn changes none of them.
///
/// # Errors
/// What a read or write says.
pub async fn wipe<F: File>(file: &F, start: u64, table_size: u64) -> Result<()> {
    if has(Mutant::TailNotWiped) {
        return Ok(());
    }
    let mut offset = start.next_multiple_of(PAGE_SIZE as u64);
    if start < offset {
        let page_start = offset - PAGE_SIZE as u64;
        let (mut page, _) = file.read_at(page_start, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await?;
        page[usize::try_from(start - page_start).unwrap_or(PAGE_SIZE)..].fill(0);
        file.write_at(page_start, PAGE_SIZE, Rc::new(page)).await?;
    }
    let zeros = Rc::new(Buffer::zeroed(MIB));
    while offset < table_size {
        let size = usize::try_from(table_size - offset).unwrap_or(MIB).min(MIB);
        file.write_at(offset, size, Rc::clone(&zeros)).await?;
        offset += size as u64;
    }
    file.sync().await
}

/// Overwrites a part of a table, from and to multiples of the granule, so that a scan passes over it, and makes that stable. The
/// pages around it are written again with the same bytes, so that a write that is torn changes none of them.
///
/// # Errors
/// What a read or write says.
pub async fn pad<F: File>(file: &F, table: TableUse, part: Range<u32>) -> Result<()> {
    let mut start = part.start as usize;
    while start < part.end as usize {
        let page_start = start / PAGE_SIZE * PAGE_SIZE;
        let end = (page_start + MIB).min(part.end as usize);
        let size = (end - page_start).next_multiple_of(PAGE_SIZE);
        let (mut bytes, _) = file.read_at(page_start as u64, size, Buffer::zeroed(size)).await?;
        let place = table.place(u32::try_from(start).expect("tables are below 4 GiB"));
        record::encode_padding(&mut bytes[start - page_start..end - page_start], place);
        file.write_at(page_start as u64, size, Rc::new(bytes)).await?;
        start = end;
    }
    file.sync().await
}
