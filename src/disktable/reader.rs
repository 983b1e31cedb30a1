//! Reading disktables: one record, a header or trailer, a footer, or all records of a table that has none.

use std::io::Result;
use std::ops::Range;
use std::rc::Rc;

use dma_alloc::Buffer;

use super::format::{
    Distance, Identity, Mark, MarkDamage, MarkKind, RECORDS_START, Summary, footer_page_count, footer_summaries,
};
use super::search::{Next, Part, Search};
use crate::digest::{Digest, Salt};
use crate::index::{Entry, Pointer};
use crate::io::{File, Io};
use crate::limits::{MIB, PAGE_SIZE, RECORD_GRANULE};
use crate::memtable::TableUse;
use crate::mutants::{Mutant, has};
use crate::record::{self, Damage, Header, Kind, Place, Record, SizeClass, granules_up};

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

/// Number of pages of the footer that `trailer` speaks of; it is bounded by the size of the table.
#[must_use]
pub fn footer_pages(trailer: &Mark) -> usize {
    usize::try_from(trailer.summary_count).map_or(0, footer_page_count)
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
    /// Where what follows begins: at what is no record, or right behind the last one when zeros follow.
    pub stop: u32,
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
    visit: impl FnMut(Summary),
) -> Scanned {
    scan_from(io, file, (table, table_size), RECORDS_START as u32, salt, visit).await
}

/// The same from `start` on, where a record begins.
pub async fn scan_from<F: File, I: Io>(
    io: &I,
    file: &F,
    (table, table_size): (TableUse, u64),
    start: u32,
    salt: &Salt,
    mut visit: impl FnMut(Summary),
) -> Scanned {
    let start = u64::from(start);
    let mut scanner = Scanner { table, table_size, position: start, records_end: start, stop: start, zeros: 0 };
    let mut window = Window::new(start / PAGE_SIZE as u64 * PAGE_SIZE as u64, table_size);
    loop {
        match scanner.step(&window, salt) {
            Step::Record(summary) => visit(summary),
            Step::Skipped => {}
            Step::NeedMore if !window.is_last() => {
                if let Err(error) = window.read_on(file, scanner.position).await {
                    return scanner.result(Some(error));
                }
                io.yield_now().await;
            }
            Step::NeedMore | Step::End => return scanner.result(None),
        }
    }
}

/// What a search has found, as offsets in the table.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// Where the last whole record ends, or where the search began when there is none.
    pub last: u32,
    /// Behind it all is zeros.
    pub dirty_end: u64,
}

/// Visits the whole records that lie from `start` on, a multiple of the granule, wherever they begin.
///
/// # Errors
/// What a read says.
pub async fn search<F: File, I: Io>(
    io: &I,
    file: &F,
    (table, table_size): (TableUse, u64),
    start: u32,
    salt: &Salt,
    mut visit: impl FnMut(Summary),
) -> Result<Searched> {
    let mut search = Search::new(table, table_size);
    let mut window = Window::new(u64::from(start) / PAGE_SIZE as u64 * PAGE_SIZE as u64, table_size);
    let (mut position, mut last) = (u64::from(start), start);
    loop {
        let part = Part { bytes: &window.bytes, start: window.start, is_last: window.is_last() };
        match search.next(part, window.place(position), window.bytes.len()) {
            Next::Record(at) => {
                let offset = u32::try_from(window.start + at as u64).expect("tables are below 4 GiB");
                let Ok(record) = record::decode(&window.bytes[at..], table.place(offset)) else {
                    return Ok(Searched { last, dirty_end: table_size });
                };
                last = offset + granules_up(record.size()) as u32;
                position = last.into();
                if record.header.kind != Kind::Padding {
                    visit(summary_of(&record, offset, salt));
                }
            }
            Next::NeedMore(at) => {
                position = position.max(window.start + at as u64);
                window.read_on(file, position).await?;
                io.yield_now().await;
            }
            Next::None => return Ok(Searched { last, dirty_end: search.dirty_end().max(last.into()) }),
        }
    }
}

/// The part of a table that was read and not scanned yet.
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Where in the table the next read begins.
    read_to: u64,
    table_size: u64,
}

impl Window {
    const fn new(start: u64, table_size: u64) -> Self {
        Self { start, bytes: Vec::new(), read_to: start, table_size }
    }

    /// Whether nothing is left to be read.
    const fn is_last(&self) -> bool {
        self.read_to >= self.table_size
    }

    /// Reads on, and gives up what lies in front of `position`.
    async fn read_on<F: File>(&mut self, file: &F, position: u64) -> Result<()> {
        let size = usize::try_from(self.table_size - self.read_to).unwrap_or(STREAM_SIZE).min(STREAM_SIZE);
        let (buffer, count) = file.read_at(self.read_to, size, Buffer::zeroed(size)).await?;
        self.drop_before(position);
        self.bytes.extend_from_slice(&buffer[..count]);
        // A file that is cut short ends here.
        self.read_to = if count < size { self.table_size } else { self.read_to + size as u64 };
        Ok(())
    }

    /// In a file that is cut short, what aligns the next record may be missing.
    fn place(&self, position: u64) -> usize {
        (position.saturating_sub(self.start) as usize).min(self.bytes.len())
    }

    fn from(&self, position: u64) -> &[u8] {
        &self.bytes[self.place(position)..]
    }

    fn drop_before(&mut self, position: u64) {
        let place = self.place(position);
        self.bytes.drain(..place);
        self.start += place as u64;
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
    stop: u64,
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
                (self.records_end, self.stop) = (self.position, self.position);
                match record.header.kind {
                    Kind::Padding => Step::Skipped,
                    _ => Step::Record(summary_of(&record, offset, salt)),
                }
            }
            // The record may go on beyond what was read, if it ends in the table.
            Err(Damage::Sizes) => match record::claimed_size(bytes) {
                Some(size) if self.position + size as u64 <= self.table_size => Step::NeedMore,
                Some(_) => self.end(),
                None if bytes.len() < record::HEADER_SIZE => Step::NeedMore,
                None => self.end(),
            },
            Err(Damage::Kind | Damage::Checksum | Damage::Version) => self.end(),
        }
    }

    /// Here is neither a record nor space.
    const fn end(&mut self) -> Step {
        self.stop = self.position;
        Step::End
    }

    fn result(&self, failure: Option<std::io::Error>) -> Scanned {
        let offset = |end: u64| u32::try_from(end).expect("tables are below 4 GiB");
        let records_end = if has(Mutant::TailOffByOne) && self.records_end > self.table_size / 4 {
            offset(self.records_end / PAGE_SIZE as u64 * PAGE_SIZE as u64)
        } else {
            offset(self.records_end.next_multiple_of(PAGE_SIZE as u64))
        };
        Scanned { exact_end: offset(self.records_end), records_end, stop: offset(self.stop), failure }
    }
}

/// See [`Summary::distance`]: a guard's record has it where values have the client's flags. The record of a value does not
/// say it, only its summary does.
#[must_use]
pub fn distance_of(header: &Header) -> Distance {
    match header.kind {
        Kind::Tombstone | Kind::Touch | Kind::Flush => Distance::from_flags(header.client_flags),
        Kind::Value | Kind::Padding => Distance::UNKNOWN,
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
        distance: distance_of(&record.header),
    }
}

impl Summary {
    /// The index entry of a value record in the table of `slot`.
    #[must_use]
    pub const fn entry(&self, slot: u32) -> Entry {
        Entry::new(Pointer { slot, offset: self.offset }, self.class, self.expiry)
    }
}
