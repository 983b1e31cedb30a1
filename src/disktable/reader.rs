//! Reading disktables: one record, a header or trailer, a footer, or all records of a table that has none.

use std::io::Result;
use std::ops::Range;
use std::rc::Rc;

use dma_alloc::Buffer;

use super::format::{
    Identity, Mark, MarkDamage, MarkKind, RECORDS_START, Summary, footer_page_count, footer_summaries,
};
use crate::digest::{Digest, Salt};
use crate::index::{Entry, Pointer};
use crate::io::{File, Io};
use crate::limits::{MIB, PAGE_SIZE, RECORD_GRANULE};
use crate::memtable::TableUse;
use crate::record::{self, Damage, Kind, Place, Record, SizeClass, granules_up};

/// Bytes that footers and scans read at once.
const STREAM_SIZE: usize = MIB;
/// Zeros in a row after which there are no more records: writers leave at least 16 bytes less.
const ZEROS_MAX: usize = PAGE_SIZE;

/// How one record is read: one transfer of whole pages.
#[derive(Debug)]
pub struct ReadPlan<F> {
    /// The table's file.
    pub file: Rc<F>,
    /// What the record's checksum is seeded with.
    pub place: Place,
    /// Where the transfer starts in the file.
    pub start: u64,
    /// Bytes to transfer.
    pub size: usize,
}

impl<F> ReadPlan<F> {
    /// The plan for the record of `entry` in a table of `table_size` bytes.
    #[must_use]
    pub fn new(file: Rc<F>, table: TableUse, entry: Entry, table_size: usize) -> Self {
        let offset = entry.pointer.offset as usize;
        let start = offset / PAGE_SIZE * PAGE_SIZE;
        let end = (offset + entry.class.size()).next_multiple_of(PAGE_SIZE).min(table_size);
        Self { file, place: table.place(entry.pointer.offset), start: start as u64, size: end - start }
    }

    /// The record in what was read.
    ///
    /// # Errors
    /// [`Damage`], when it is not the one that the plan was made for, or not `key`'s.
    pub fn record<'a>(&self, bytes: &'a [u8], key: &[u8]) -> std::result::Result<Record<'a>, Damage> {
        let position = self.place.offset as usize % PAGE_SIZE;
        let record = record::decode(bytes.get(position..).ok_or(Damage::Sizes)?, self.place)?;
        if record.header.kind != Kind::Value || record.key != key {
            return Err(Damage::Kind);
        }
        Ok(record)
    }
}

/// Reads the header or the trailer of a table.
///
/// # Errors
/// What the read says. What is wrong with the page is a value.
pub async fn read_mark<F: File>(
    file: &F,
    kind: MarkKind,
    identity: Identity,
) -> Result<std::result::Result<Mark, MarkDamage>> {
    let offset = match kind {
        MarkKind::Header | MarkKind::Free => 0,
        MarkKind::Trailer => identity.table_size - PAGE_SIZE as u64,
    };
    let (page, count) = file.read_at(offset, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await?;
    Ok(Mark::decode(kind, &page[..count], identity))
}

/// Visits the summaries of a sealed table, in order; returns the number of footer pages that are damaged, whose
/// summaries are left out.
///
/// # Errors
/// What a read says.
pub async fn read_footer<F: File, I: Io>(
    io: &I,
    file: &F,
    trailer: &Mark,
    mut visit: impl FnMut(Summary),
) -> Result<usize> {
    const PAGES_PER_STREAM: usize = STREAM_SIZE / PAGE_SIZE;
    let page_count = footer_pages(trailer);
    let (mut first, mut damaged_count) = (0, 0);
    while first < page_count {
        let pages = first..page_count.min(first + PAGES_PER_STREAM);
        first = pages.end;
        damaged_count += read_footer_part(file, trailer, pages, &mut visit).await?;
        io.yield_now().await;
    }
    Ok(damaged_count)
}

/// Number of pages of the footer that `trailer` speaks of.
#[must_use]
pub fn footer_pages(trailer: &Mark) -> usize {
    usize::try_from(trailer.summary_count).map_or(usize::MAX / PAGE_SIZE, footer_page_count)
}

/// Visits the summaries on some pages of the footer, in order; returns the number of those pages that are damaged, whose
/// summaries are left out.
///
/// # Errors
/// What a read says.
pub async fn read_footer_part<F: File>(
    file: &F,
    trailer: &Mark,
    pages: Range<usize>,
    mut visit: impl FnMut(Summary),
) -> Result<usize> {
    let table_size = trailer.identity.table_size;
    let table = TableUse { slot: trailer.identity.slot, sequence: trailer.sequence };
    let Some(start) = table_size.checked_sub((footer_pages(trailer) as u64 + 1) * PAGE_SIZE as u64) else {
        return Ok(pages.len());
    };
    let size = pages.len() * PAGE_SIZE;
    let offset = start + (pages.start * PAGE_SIZE) as u64;
    let (mut buffer, count) = file.read_at(offset, size, Buffer::zeroed(size)).await?;
    buffer[count..].fill(0);
    let mut damaged_count = 0;
    for (page_number, page) in pages.zip(buffer.chunks(PAGE_SIZE)) {
        let place = table.place(u32::try_from(page_number).unwrap_or(u32::MAX));
        match footer_summaries(page, place, table_size) {
            Ok(summaries) => summaries.for_each(&mut visit),
            Err(_) => damaged_count += 1,
        }
    }
    Ok(damaged_count)
}

/// What a scan found.
#[derive(Debug)]
pub struct Scanned {
    /// End of the last valid record, rounded up to the granule.
    pub exact_end: u32,
    /// The same, rounded up to the page.
    pub records_end: u32,
    /// The read that failed, if the scan ended there: more records may follow.
    pub failure: Option<std::io::Error>,
}

/// Finds the records of a table without a footer by reading it from the front; see FORMAT.md, "Torn tail".
pub async fn scan<F: File, I: Io>(
    io: &I,
    file: &F,
    table: TableUse,
    table_size: u64,
    salt: &Salt,
    mut visit: impl FnMut(Summary),
) -> Scanned {
    let start = RECORDS_START as u64;
    let mut scanner = Scanner { table, table_size, position: start, records_end: start, zeros: 0 };
    let mut window = Window { start, bytes: Vec::new() };
    let mut read_to = start;
    loop {
        match scanner.step(&window, salt) {
            Step::Record(summary) => visit(summary),
            Step::Skipped => {}
            Step::NeedMore if read_to < table_size => {
                let size = usize::try_from(table_size - read_to).unwrap_or(STREAM_SIZE).min(STREAM_SIZE);
                let (buffer, count) = match file.read_at(read_to, size, Buffer::zeroed(size)).await {
                    Ok(read) => read,
                    Err(error) => return scanner.result(Some(error)),
                };
                window.drop_before(scanner.position);
                window.bytes.extend_from_slice(&buffer[..count]);
                // A file that is cut short ends here.
                read_to = if count < size { table_size } else { read_to + size as u64 };
                io.yield_now().await;
            }
            Step::NeedMore | Step::End => return scanner.result(None),
        }
    }
}

/// The part of a table that was read and not scanned yet.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn from(&self, position: u64) -> &[u8] {
        &self.bytes[(position - self.start) as usize..]
    }

    fn drop_before(&mut self, position: u64) {
        self.bytes.drain(..(position - self.start) as usize);
        self.start = position;
    }
}

enum Step {
    Record(Summary),
    Skipped,
    NeedMore,
    End,
}

struct Scanner {
    table: TableUse,
    table_size: u64,
    position: u64,
    records_end: u64,
    zeros: usize,
}

impl Scanner {
    fn step(&mut self, window: &Window, salt: &Salt) -> Step {
        let bytes = window.from(self.position);
        let Some(granule) = bytes.first_chunk::<RECORD_GRANULE>() else { return Step::NeedMore };
        if granule.iter().all(|byte| *byte == 0) {
            self.position += RECORD_GRANULE as u64;
            self.zeros += RECORD_GRANULE;
            return if self.zeros >= ZEROS_MAX { Step::End } else { Step::Skipped };
        }
        let offset = u32::try_from(self.position).expect("tables are below 4 GiB");
        match record::decode(bytes, self.table.place(offset)) {
            Ok(record) => {
                self.zeros = 0;
                self.position += granules_up(record.size()) as u64;
                self.records_end = self.position;
                match record.header.kind {
                    Kind::Padding => Step::Skipped,
                    _ => Step::Record(summary_of(&record, offset, salt)),
                }
            }
            // The record may go on beyond what was read, if it ends in the table.
            Err(Damage::Sizes) => match record::claimed_size(bytes) {
                Some(size) if self.position + size as u64 <= self.table_size => Step::NeedMore,
                Some(_) => Step::End,
                None if bytes.len() < record::HEADER_SIZE => Step::NeedMore,
                None => Step::End,
            },
            Err(Damage::Kind | Damage::Checksum) => Step::End,
        }
    }

    fn result(&self, failure: Option<std::io::Error>) -> Scanned {
        let offset = |end: u64| u32::try_from(end).expect("tables are below 4 GiB");
        let records_end = offset(self.records_end.next_multiple_of(PAGE_SIZE as u64));
        Scanned { exact_end: offset(self.records_end), records_end, failure }
    }
}

/// What a footer says about `record`.
#[must_use]
pub fn summary_of(record: &Record<'_>, offset: u32, salt: &Salt) -> Summary {
    let digest = if record.header.kind == Kind::Flush { Digest([0; 20]) } else { Digest::of(salt, record.key) };
    Summary {
        digest,
        version: record.header.version,
        expiry: record.header.expiry,
        offset,
        kind: record.header.kind,
        class: SizeClass::of(record.size()),
    }
}

impl Summary {
    /// The index entry of a value record in the table of `slot`.
    #[must_use]
    pub const fn entry(&self, slot: u32) -> Entry {
        Entry::new(Pointer { slot, offset: self.offset }, self.class, self.expiry)
    }
}
