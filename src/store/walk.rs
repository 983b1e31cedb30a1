//! Every record of a store, wherever it lies.
//!
//! A walk goes through the tables in the order in which they were begun, and ends when it has caught up with what is
//! being written. A record that is replaced while the walk runs lies further on then, and so does one that is moved, as the
//! tables that are written beside the first one are left for the end; so whatever is there all the time is met, maybe more
//! than once. In a table it first finds out from the summaries which records are live, and then reads the front of those, in
//! long reads over the pages that have some; no value is looked at.
//!
//! The walk is done in steps, none of which takes more than about a millisecond of the thread. What it keeps between two
//! is a buffer and the places of the live records of one table.

use std::io::{ErrorKind, Result};
use std::ops::Range;
use std::rc::Rc;

use dma_alloc::Buffer;

use super::{Shared, Store};
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::catalog::{Table, TableState};
use crate::disktable::format::{Identity, MarkKind, Summary};
use crate::disktable::reader::{self, footer_pages};
use crate::index::{Entry, Pointer};
use crate::io::{File, Io};
use crate::limits::{KIB, PAGE_SIZE, WALK_RECORD_COUNT, WALK_RECORD_COUNT_MAX};
use crate::memtable::TableUse;
use crate::record::{self, Front, Header, Kind};

/// Bytes that are read at once.
const STREAM_SIZE: usize = 256 * KIB;
/// Live records with less than this between them are read together.
const GAP_SIZE_MAX: u32 = 32 * KIB as u32;
/// Pages of a footer that are looked through in one step.
const FOOTER_PAGES_PER_STEP: usize = 16;

/// A live record that a walk has met.
#[derive(Clone, Copy, Debug)]
pub struct Walked<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// What is stored beside its value, with the expiry that it has now.
    pub header: Header,
    /// Bytes of its value.
    pub value_size: usize,
    /// When it was written, as far as is known: see [`Store::written_at`].
    pub written: Seconds,
    /// Whether clients have fetched it.
    pub was_fetched: bool,
    /// Slot of the table and offset in it, if it is not in memory.
    pub on_disk: Option<(u32, u32)>,
}

/// A walk over a store.
pub struct Walker<I: Io> {
    store: Store<I>,
    /// Tables of lower sequences are done, and so is what lies before `offset` in the table of this one.
    sequence: u64,
    offset: u32,
    part: Option<Part<I::File>>,
    window: Window,
    /// Records of a step in the table that is being written.
    step_count: usize,
    /// Tables that were written beside the first one when the walk met them: they are visited when there are no others.
    late: Vec<TableUse>,
}

/// What was read last of the table under way.
#[derive(Default)]
struct Window {
    buffer: Option<Buffer>,
    range: Range<u64>,
    /// Records from this offset on were in memory when it was read, and maybe not on disk.
    end: u32,
}

/// Records of one table that are to be visited.
struct Part<F> {
    file: Rc<F>,
    table: TableUse,
    /// Offsets of records that were live, ascending.
    live: Vec<u32>,
    next: usize,
    /// The table is full, and these are all of its.
    is_whole: bool,
    /// Summaries before this one are looked through, of the table that is being written.
    summary_index: usize,
    /// It is one of those that were left for the end.
    is_late: bool,
}

/// Where a walk goes on.
enum Next<F> {
    /// In this table, which is full.
    Sealed(Rc<F>, TableUse),
    /// In the table that is being written.
    Open(Rc<F>, TableUse),
    /// Behind this table, which moved records go to, or those new ones that live for long.
    Late(TableUse),
    /// The flusher has a table in hand.
    Wait,
    End,
}

impl<I: Io> Store<I> {
    /// Begins a walk over all records.
    #[must_use]
    pub fn walk(&self) -> Walker<I> {
        Walker {
            store: self.clone(),
            sequence: 0,
            offset: 0,
            part: None,
            window: Window::default(),
            step_count: WALK_RECORD_COUNT,
            late: self.shared.state.borrow().tables_beside(),
        }
    }
}

/// Who is told of the records that are evicted: see [`Store::tell_of_evictions`].
pub trait EvictionListener {
    /// Whether it listens. While it does not, tables are evicted unread.
    fn is_listening(&self) -> bool;

    /// A record is evicted. The listener must not use the store.
    fn evicted(&self, record: &Walked<'_>);
}

impl<I: Io> Store<I> {
    /// Has `listener` told of each record that is evicted from now on. Keys are on disk only, so a table that is evicted
    /// is read for it. A record that is replaced in that moment may be told of, too.
    pub fn tell_of_evictions(&self, listener: Rc<dyn EvictionListener>) {
        *self.shared.evictions.borrow_mut() = Some(listener);
    }
}

impl<I: Io> Walker<I> {
    /// Goes on for a step: calls `visit` with some records, maybe with none. Says whether there is more. `visit` must
    /// not use the store.
    pub async fn step(&mut self, visit: &mut impl FnMut(&Walked<'_>)) -> bool {
        if self.store.shared.state.borrow().closing {
            return false;
        }
        let Some(part) = self.part.as_mut().filter(|part| part.next < part.live.len()) else {
            return self.next_part().await;
        };
        let missing = self.store.shared.visit_live(part, &self.window, self.step_count, visit);
        if part.is_late {
        } else if part.next == part.live.len() && part.is_whole {
            (self.sequence, self.offset) = (part.table.sequence + 1, 0);
        } else if let Some(done) = part.next.checked_sub(1) {
            self.offset = part.live[done] + 1;
        }
        if let Some((range, end)) = missing {
            part.read(&mut self.window, range, end).await;
        }
        true
    }

    /// Finds the live records of the next table, or more of the one that is being written. Says whether there may be
    /// some.
    async fn next_part(&mut self) -> bool {
        let progressed = self.store.shared.progress.wait();
        match self.store.shared.next_table(self.sequence) {
            Next::End => return self.next_late().await,
            Next::Wait => progressed.await,
            Next::Late(table) => {
                self.late.push(table);
                (self.sequence, self.offset) = (table.sequence + 1, 0);
            }
            Next::Sealed(file, table) => {
                if table.sequence != self.sequence {
                    self.offset = 0;
                }
                self.sequence = table.sequence;
                self.step_count = WALK_RECORD_COUNT;
                let part = self.store.shared.live_of_sealed(file, table, self.offset).await;
                if part.live.is_empty() {
                    (self.sequence, self.offset) = (table.sequence + 1, 0);
                }
                self.begin(part);
            }
            Next::Open(file, table) => {
                if table.sequence != self.sequence {
                    (self.sequence, self.offset) = (table.sequence, 0);
                }
                return self.more_of_open(file, table);
            }
        }
        true
    }

    /// Goes on with a table that was left for the end. Says whether there was one.
    async fn next_late(&mut self) -> bool {
        let Some(table) = self.late.pop() else { return false };
        let shared = Rc::clone(&self.store.shared);
        let known = shared.state.borrow().catalog.usage(table.slot).filter(|(_, now)| *now == table);
        // If it was emptied, what was in it was moved to another one.
        let Some((file, _)) = known else { return true };
        let mut part = match shared.live_of_copies(&file, table) {
            Some(part) => part,
            None => shared.live_of_sealed(file, table, 0).await,
        };
        part.is_late = true;
        self.begin(part);
        true
    }

    fn begin(&mut self, part: Part<I::File>) {
        // It is of another table, or not all of what it holds was on disk when it was read.
        self.window.range = 0..0;
        self.part = Some(part);
    }

    /// The walk has caught up when there are no more summaries. Each step takes more than the last, so that it does even
    /// while others write as fast as they can.
    fn more_of_open(&mut self, file: Rc<I::File>, table: TableUse) -> bool {
        let known = self.part.as_ref().filter(|part| part.table == table);
        let is_same = known.is_some();
        let index = known.map_or(0, |part| part.summary_index);
        self.step_count = if is_same { (2 * self.step_count).min(WALK_RECORD_COUNT_MAX) } else { WALK_RECORD_COUNT };
        let Some((live, summary_index)) = self.store.shared.live_of_open(table, index, self.offset, self.step_count)
        else {
            // It was full in the meantime: next time it is found sealed.
            return true;
        };
        if is_same && summary_index == index {
            // Of the tables that were begun since there are only those of moved records.
            (self.sequence, self.offset) = (table.sequence + 1, 0);
            return true;
        }
        let part = Part { file, table, live, next: 0, is_whole: false, summary_index, is_late: false };
        self.begin(part);
        true
    }
}

impl<I: Io> Shared<I> {
    /// Tells whoever listens of the records of a table that is about to be evicted; everything of it is on disk.
    pub(super) async fn tell_of_evicted(&self, file: &Rc<I::File>, table: TableUse) {
        let listener = self.evictions.borrow().clone().filter(|listener| listener.is_listening());
        let Some(listener) = listener else { return };
        let mut part = self.live_of_sealed(Rc::clone(file), table, 0).await;
        let mut window = Window::default();
        while part.next < part.live.len() {
            let mut visit = |record: &Walked<'_>| listener.evicted(record);
            if let Some((range, end)) = self.visit_live(&mut part, &window, WALK_RECORD_COUNT, &mut visit) {
                part.read(&mut window, range, end).await;
            }
            self.io.yield_now().await;
        }
    }

    fn next_table(&self, sequence: u64) -> Next<I::File> {
        let state = self.state.borrow();
        let is_left = |table: &Table<I::File>| match table.state {
            TableState::Free => false,
            TableState::Unusable => table.live_count > 0,
            _ => true,
        };
        let left = state.catalog.iter().filter(|(_, table)| table.sequence >= sequence && is_left(table));
        let Some((slot, table)) = left.min_by_key(|(_, table)| table.sequence) else { return Next::End };
        let Some((file, table_use)) = state.catalog.usage(slot) else { return Next::End };
        match table.state {
            TableState::Sealing | TableState::Freeing => Next::Wait,
            TableState::Writing if state.writer.table == table_use => Next::Open(file, table_use),
            TableState::Writing => Next::Late(table_use),
            TableState::Sealed | TableState::Unusable | TableState::Free => Next::Sealed(file, table_use),
        }
    }

    fn is_live(&self, table: TableUse, digest: &Digest, offset: u32) -> Option<Entry> {
        let state = self.state.borrow();
        let entry = state.index.get(digest)?;
        let is_it = entry.pointer == Pointer { slot: table.slot, offset } && !is_expired(entry.expiry, self.io.now());
        is_it.then_some(entry)
    }

    /// What `summaries` name that is live now, from `offset` on.
    fn note_live(&self, table: TableUse, offset: u32, summary: &Summary, live: &mut Vec<u32>) {
        if summary.kind == Kind::Value
            && summary.offset >= offset
            && self.is_live(table, &summary.digest, summary.offset).is_some()
        {
            live.push(summary.offset);
        }
    }

    /// The live records of a sealed table, from its footer; if that cannot be read, from the records themselves.
    async fn live_of_sealed(&self, file: Rc<I::File>, table: TableUse, offset: u32) -> Part<I::File> {
        let mut live = Vec::new();
        let identity = Identity { slot: table.slot, ..self.identity };
        let trailer = reader::read_mark(&*file, MarkKind::Trailer, identity).await;
        let trailer =
            trailer.ok().and_then(std::result::Result::ok).filter(|trailer| trailer.sequence == table.sequence);
        let mut is_whole = trailer.is_some();
        if let Some(trailer) = &trailer {
            let page_count = footer_pages(trailer);
            let mut first = 0;
            while is_whole && first < page_count {
                let pages = first..page_count.min(first + FOOTER_PAGES_PER_STEP);
                first = pages.end;
                let visit = |summary: Summary| self.note_live(table, offset, &summary, &mut live);
                is_whole = matches!(reader::read_footer_part(&*file, trailer, pages, visit).await, Ok(0));
                self.io.yield_now().await;
            }
        }
        if !is_whole {
            let visit = |summary: Summary| self.note_live(table, offset, &summary, &mut live);
            reader::scan(&self.io, &*file, table, identity.table_size, &self.salt, visit).await;
            live.sort_unstable();
            live.dedup();
        }
        Part { file, table, live, next: 0, is_whole: true, summary_index: 0, is_late: false }
    }

    /// Live records of a table that is written beside the first one; `None` when it is not any more. What the index does not
    /// point at yet is met where it was.
    fn live_of_copies(&self, file: &Rc<I::File>, table: TableUse) -> Option<Part<I::File>> {
        let state = self.state.borrow();
        let movers = state.movers.iter().filter_map(|mover| mover.writer.as_ref());
        let writer = movers.chain([&state.parked.writer]).find(|writer| writer.table == table)?;
        let mut live = Vec::new();
        writer.summaries.iter().for_each(|summary| self.note_live(table, 0, &summary, &mut live));
        Some(Part { file: Rc::clone(file), table, live, next: 0, is_whole: true, summary_index: 0, is_late: false })
    }

    /// Live records of the table that is being written, from `count` summaries from number `index` on, and the number
    /// of the next summary; `None` when the table is not being written any more.
    fn live_of_open(&self, table: TableUse, index: usize, offset: u32, count: usize) -> Option<(Vec<u32>, usize)> {
        let state = self.state.borrow();
        if state.writer.table != table {
            return None;
        }
        let mut live = Vec::new();
        let end = state.writer.summaries.len().min(index + count);
        for summary in state.writer.summaries.range(index..end) {
            self.note_live(table, offset, &summary, &mut live);
        }
        Some((live, end))
    }

    /// Visits up to `count` of the records that are next, as far as they are in memory or in `window`. Returns what is
    /// to be read for the next one, if it is in neither.
    fn visit_live(
        &self,
        part: &mut Part<I::File>,
        window: &Window,
        count: usize,
        visit: &mut impl FnMut(&Walked<'_>),
    ) -> Option<(Range<u64>, u32)> {
        let state = self.state.borrow();
        if state.catalog.get(part.table.slot).is_none_or(|table| table.sequence != part.table.sequence) {
            // It was emptied, and is in use again.
            part.next = part.live.len();
            return None;
        }
        let times = self.write_times.borrow();
        for _ in 0..count {
            let offset = *part.live.get(part.next)?;
            let pointer = Pointer { slot: part.table.slot, offset };
            let in_memory = state.memtable.find(pointer);
            let bytes = match in_memory {
                Some(bytes) => bytes,
                None => match window.front(offset) {
                    Some(bytes) => bytes,
                    None => {
                        let is_in_memory = |offset| state.memtable.find(Pointer { offset, ..pointer }).is_some();
                        return Some(part.range_to_read(self.identity.table_size, is_in_memory));
                    }
                },
            };
            part.next += 1;
            let Ok(Front { mut header, key, value_size }) = record::decode_front(bytes) else { continue };
            let digest = Digest::of(&self.salt, key);
            // It may have gone since it was found.
            let Some(entry) = self.is_live(part.table, &digest, offset) else { continue };
            header.expiry = entry.expiry;
            let (written, was_fetched) = (times.of(header.version), entry.hotness > 0);
            let on_disk = in_memory.is_none().then_some((pointer.slot, offset));
            visit(&Walked { key, header, value_size, written, was_fetched, on_disk });
        }
        None
    }
}

impl<F: File> Part<F> {
    /// Reads what the next record needs. Leaves out the records in what the device does not deliver.
    async fn read(&mut self, window: &mut Window, range: Range<u64>, end: u32) {
        if let Err(error) = window.read(&*self.file, range.clone(), end).await {
            let (slot, Range { start, end }) = (self.table.slot, range);
            let size = end - start;
            tracing::error!("a walk over records leaves out {size} bytes at {start} of table {slot}: {error}");
            self.next += self.live[self.next..].iter().take_while(|offset| u64::from(**offset) < end).count();
        }
    }

    /// The pages with the fronts of the records that are next, as many as one read may bring, and the offset before which
    /// records are on disk.
    fn range_to_read(&self, table_size: u64, is_in_memory: impl Fn(u32) -> bool) -> (Range<u64>, u32) {
        let first = self.live[self.next];
        let start = page_start(first);
        let limit = (start + STREAM_SIZE as u64).min(table_size);
        let mut last = first;
        for offset in &self.live[self.next + 1..] {
            if offset - last > GAP_SIZE_MAX || front_end(*offset) > limit || is_in_memory(*offset) {
                break;
            }
            last = *offset;
        }
        (start..front_end(last).next_multiple_of(PAGE_SIZE as u64).min(limit), last + 1)
    }
}

impl Window {
    /// Reads `range`. That there is nothing, as the file was cut short, is an error: whoever waits for it would ask for ever.
    async fn read<F: File>(&mut self, file: &F, range: Range<u64>, end: u32) -> Result<()> {
        let Range { start, .. } = range;
        let size = usize::try_from(range.end - start).unwrap_or(STREAM_SIZE);
        let buffer = self.buffer.take().unwrap_or_else(|| Buffer::zeroed(STREAM_SIZE));
        let (buffer, count) = file.read_at(start, size, buffer).await?;
        *self = Self { buffer: Some(buffer), range: start..start + count as u64, end };
        if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The bytes of the record at `offset`, if the front of it is here, or as much of that as there is.
    fn front(&self, offset: u32) -> Option<&[u8]> {
        let was_read_for_it = self.range.start == page_start(offset) && !self.range.is_empty();
        if offset >= self.end || u64::from(offset) < self.range.start {
            return None;
        }
        if front_end(offset) > self.range.end && !was_read_for_it {
            return None;
        }
        let position = usize::try_from(u64::from(offset) - self.range.start).ok()?;
        let size = usize::try_from(self.range.end - self.range.start).ok()?;
        Some(self.buffer.as_ref()?.get(position..size).unwrap_or_default())
    }
}

fn page_start(offset: u32) -> u64 {
    u64::from(offset) / PAGE_SIZE as u64 * PAGE_SIZE as u64
}

/// Where the front of a record ends at the latest.
fn front_end(offset: u32) -> u64 {
    u64::from(offset) + record::FRONT_SIZE_MAX as u64
}
