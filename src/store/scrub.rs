//! Reading everything on disk now and then, so that damage is found before somebody asks for it.
//!
//! A scrub goes through the tables that are complete, one after the other, beginning with any of them: a server that is
//! started often comes to all of them all the same. Of each table it reads trailer and footer, and every record that the footer
//! names, and compares checksum and key with what the footer says. It is one task with at most one read in flight, spreads its
//! reads evenly over its interval, and waits as long as the shard reads or writes for others, up to a bound for each read.
//!
//! What does not match is read a second time. A damaged record that the index points at then becomes what a get would make of
//! it: a miss, whose table keeps older versions of its key dead. What nobody would ask for, because it is dead or a guard, is
//! counted apart, at each pass again: if the footer of its table is lost too, the next start will not find what lies behind it. A
//! read that fails changes nothing, as the device may recover. What a table held that was emptied in the meantime says nothing.
//!
//! Not seen are records that are named on a damaged page of a footer, what a read that failed was to bring, and tables whose
//! footer could not be written.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use dma_alloc::Buffer;

use super::state::{NO_DIGEST, State};
use super::{Shared, Store, worth_logging};
use crate::digest::Digest;
use crate::disktable::catalog::TableState;
use crate::disktable::format::{Identity, Mark, MarkKind, Summary};
use crate::disktable::reader::{self, footer_pages};
use crate::index::Pointer;
use crate::io::{Event, File, Io};
use crate::limits::{PAGE_SIZE, SCRUB_READ_SIZE};
use crate::memtable::TableUse;
use crate::record::{self, Front, Kind, PartialChecksum, SizeClass};

/// Pages of a footer whose records are read before the next ones.
const FOOTER_PAGES_PER_STEP: usize = 16;
/// How long a read is put off at once while others read or write.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// How often at most, so that a shard that is never idle is scrubbed, too.
const BUSY_PAUSE_COUNT_MAX: u32 = 100;
/// How long to wait for the first table to be complete, at most.
const EMPTY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What others know of the scrub.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    interval: Cell<Option<Duration>>,
    is_reading: Cell<bool>,
    read_ended: Event,
}

impl Scrub {
    /// Returns when no read is in flight.
    pub(super) async fn has_no_read(&self) {
        self.read_ended.until(|| !self.is_reading.get()).await;
    }
}

impl<I: Io> Store<I> {
    /// Has everything on disk read again and again from now on, each time in `interval` at least. Takes 256 KiB of memory and
    /// a little more beside the budget. Only the first call counts.
    pub fn scrub(&self, interval: Duration) {
        if self.scrub_interval().is_none() {
            self.shared.scrub.interval.set(Some(interval));
            let shared = Rc::clone(&self.shared);
            self.shared.io.spawn(async move { shared.scrub_again_and_again(interval).await });
        }
    }

    /// The interval of the scrub, if there is one.
    #[must_use]
    pub fn scrub_interval(&self) -> Option<Duration> {
        self.shared.scrub.interval.get()
    }
}

/// Why a table is left.
enum Left {
    /// It was emptied, or the store is closed.
    Gone,
    /// The device failed.
    ReadFailed,
}

/// When the bytes of a pass are to be read.
struct Pace {
    started: Duration,
    interval: Duration,
    size: u64,
    done: u64,
}

impl Pace {
    fn due(&self) -> Duration {
        self.started + self.interval.mul_f64((self.done as f64 / self.size.max(1) as f64).min(1.0))
    }
}

impl<I: Io> Shared<I> {
    async fn scrub_again_and_again(&self, interval: Duration) {
        while !self.is_closing() {
            let tables = self.tables_to_scrub();
            if tables.is_empty() {
                self.io.sleep(interval.min(EMPTY_PAUSE_MAX)).await;
                continue;
            }
            let size = tables.len() as u64 * self.identity.table_size;
            let mut pace = Pace { started: self.io.monotonic(), interval, size, done: 0 };
            for (number, (file, table)) in (0..).zip(tables) {
                pace.done = number * self.identity.table_size;
                let identity = Identity { slot: table.slot, ..self.identity };
                let mut reading =
                    TableScrub { shared: self, file, table, identity, pace: &mut pace, window: None, skip_to: 0 };
                let left = reading.run().await;
                if self.is_closing() {
                    return;
                }
                if left.is_ok() {
                    self.state.borrow_mut().counters.scrub_tables += 1;
                }
            }
            self.state.borrow_mut().counters.scrub_passes += 1;
            pace.done = pace.size;
            self.wait_until(pace.due()).await;
        }
    }

    fn is_closing(&self) -> bool {
        self.state.borrow().closing
    }

    /// The tables that are complete, in the order in which they were begun, from any of them on.
    fn tables_to_scrub(&self) -> Vec<(Rc<I::File>, TableUse)> {
        let state = self.state.borrow();
        let complete = state.catalog.iter().filter(|(_, table)| is_complete(table.state));
        let mut tables: Vec<_> = complete.filter_map(|(slot, _)| state.catalog.usage(slot)).collect();
        tables.sort_unstable_by_key(|(_, table)| table.sequence);
        if !tables.is_empty() {
            let random = self.io.random().map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
            let first = random % tables.len();
            tables.rotate_left(first);
        }
        tables
    }

    async fn wait_until(&self, due: Duration) {
        let now = self.io.monotonic();
        if due > now {
            self.io.sleep(due - now).await;
        }
    }

    /// Returns when nobody else reads or writes, or when that has lasted too long.
    async fn wait_for_quiet(&self) {
        for _ in 0..BUSY_PAUSE_COUNT_MAX {
            {
                let state = self.state.borrow();
                if state.reads_in_flight == 0 && state.jobs.is_empty() && !state.busy {
                    return;
                }
            }
            self.io.sleep(BUSY_PAUSE).await;
        }
    }
}

/// Whether nothing is written to a table in this state. (An unusable one that has a file is one that could not be emptied.)
const fn is_complete(state: TableState) -> bool {
    matches!(state, TableState::Sealed | TableState::Unusable)
}

/// Bytes of a table that were read.
struct Window {
    buffer: Buffer,
    start: u64,
    count: usize,
}

impl Window {
    /// What is here from `position` on.
    fn from(&self, position: u64) -> &[u8] {
        let skipped = position.checked_sub(self.start).and_then(|skipped| usize::try_from(skipped).ok());
        skipped.and_then(|skipped| self.buffer[..self.count].get(skipped..)).unwrap_or_default()
    }
}

/// One table on its way through the scrub.
struct TableScrub<'a, I: Io> {
    shared: &'a Shared<I>,
    file: Rc<I::File>,
    table: TableUse,
    identity: Identity,
    pace: &'a mut Pace,
    window: Option<Window>,
    /// What begins before this place is left out: the device has failed to read it.
    skip_to: u64,
}

impl<I: Io> TableScrub<'_, I> {
    async fn run(&mut self) -> Result<(), Left> {
        let file = Rc::clone(&self.file);
        let read = reader::read_mark(&*file, MarkKind::Trailer, self.identity);
        let trailer = self.paced(read, PAGE_SIZE).await?;
        let Some(trailer) = trailer.ok().filter(|trailer| trailer.sequence == self.table.sequence) else {
            self.note_bad_pages(1);
            return Ok(());
        };
        let page_count = footer_pages(&trailer);
        let mut first = 0;
        while first < page_count {
            let pages = first..page_count.min(first + FOOTER_PAGES_PER_STEP);
            first = pages.end;
            let (size, mut summaries) = (pages.len() * PAGE_SIZE, Vec::new());
            let read = reader::read_footer_part(&*file, &trailer, pages, |summary| summaries.push(summary));
            let bad_count = self.paced(read, size).await?;
            self.note_bad_pages(bad_count as u64);
            for summary in summaries {
                self.look_at(&trailer, &summary).await?;
            }
        }
        Ok(())
    }

    /// Waits until it is time for a read of `size` bytes, and then for the read.
    async fn paced<T>(&mut self, read: impl Future<Output = std::io::Result<T>>, size: usize) -> Result<T, Left> {
        let (shared, table) = (self.shared, self.table);
        shared.wait_until(self.pace.due()).await;
        shared.wait_for_quiet().await;
        shared.io.yield_now().await;
        if !self.is_there() {
            return Err(Left::Gone);
        }
        shared.scrub.is_reading.set(true);
        let result = read.await;
        shared.scrub.is_reading.set(false);
        shared.scrub.read_ended.notify();
        // What was read while the table was emptied says nothing.
        if !self.is_there() {
            return Err(Left::Gone);
        }
        // A device that fails is not asked more often for that.
        self.pace.done += size as u64;
        let mut state = shared.state.borrow_mut();
        match result {
            Ok(output) => {
                state.counters.scrub_bytes += size as u64;
                Ok(output)
            }
            Err(error) => {
                state.counters.scrub_read_errors += 1;
                if worth_logging(state.counters.scrub_read_errors) {
                    tracing::error!("scrub: reading {size} bytes of table {} failed: {error}", table.slot);
                }
                Err(Left::ReadFailed)
            }
        }
    }

    /// Whether the table still is what it was when the pass began.
    fn is_there(&self) -> bool {
        let state = self.shared.state.borrow();
        let table = state.catalog.get(self.table.slot);
        !state.closing && table.is_some_and(|table| table.sequence == self.table.sequence && is_complete(table.state))
    }

    /// Reads the record that `summary` names, if it is not here yet, and notes it when it is damaged.
    async fn look_at(&mut self, trailer: &Mark, summary: &Summary) -> Result<(), Left> {
        if u64::from(summary.offset) < self.skip_to {
            return Ok(());
        }
        for is_last_look in [false, true] {
            match self.is_sound(trailer, summary).await {
                Ok(true) => return Ok(()),
                Ok(false) if is_last_look => self.note_bad_record(summary),
                // What comes behind may be readable.
                Err(Left::ReadFailed) => return Ok(()),
                Ok(false) => {}
                Err(Left::Gone) => return Err(Left::Gone),
            }
            // It is read again, and so is what comes behind it: these bytes are not trusted.
            self.window = None;
        }
        Ok(())
    }

    async fn is_sound(&mut self, trailer: &Mark, summary: &Summary) -> Result<bool, Left> {
        let start = u64::from(summary.offset);
        let front_end = (start + record::FRONT_SIZE_MAX as u64).min(trailer.records_end);
        if start + (self.bytes(start).len() as u64) < front_end {
            self.fill(trailer, start).await?;
        }
        let Some(mut checksum) = self.begin(trailer, summary) else { return Ok(false) };
        let mut position = start;
        loop {
            let taken = checksum.push(self.bytes(position));
            position += taken as u64;
            if checksum.is_whole() {
                return Ok(checksum.matches());
            }
            if taken == 0 {
                // The file is cut short.
                return Ok(false);
            }
            self.fill(trailer, position).await?;
        }
    }

    fn bytes(&self, position: u64) -> &[u8] {
        self.window.as_ref().map_or(&[], |window| window.from(position))
    }

    /// Reads the pages from that of `position` on.
    async fn fill(&mut self, trailer: &Mark, position: u64) -> Result<(), Left> {
        let start = position / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let left = trailer.records_end.saturating_sub(start);
        let size = usize::try_from(left).map_or(SCRUB_READ_SIZE, |left| left.min(SCRUB_READ_SIZE));
        let buffer = self.window.take().map_or_else(|| Buffer::zeroed(SCRUB_READ_SIZE), |window| window.buffer);
        let file = Rc::clone(&self.file);
        let read = self.paced(file.read_at(start, size, buffer), size).await;
        let (buffer, count) = read.inspect_err(|_| self.skip_to = start + size as u64)?;
        self.window = Some(Window { buffer, start, count });
        Ok(())
    }

    /// Compares the front of the record with its summary; `None` when it is another.
    fn begin(&self, trailer: &Mark, summary: &Summary) -> Option<PartialChecksum> {
        let start = u64::from(summary.offset);
        let bytes = self.bytes(start);
        let Front { header, key, value_size } = record::decode_front(bytes).ok()?;
        let size = header.record_size(key.len(), value_size);
        let digest = if header.kind == Kind::Flush { NO_DIGEST } else { Digest::of(&self.shared.salt, key) };
        let found = (header.kind, header.version, SizeClass::of(size), digest);
        let is_it = found == (summary.kind, summary.version, summary.class, summary.digest);
        let ends_in_time = start + size as u64 <= trailer.records_end;
        (is_it && ends_in_time).then(|| PartialChecksum::new(self.table.place(summary.offset), size))
    }

    fn note_bad_pages(&self, count: u64) {
        if count == 0 {
            return;
        }
        let mut state = self.shared.state.borrow_mut();
        state.counters.scrub_bad_pages += count;
        if worth_logging(state.counters.scrub_bad_pages) {
            tracing::error!("scrub: {count} pages of the footer or trailer of table {} are damaged", self.table.slot);
        }
    }

    fn note_bad_record(&self, summary: &Summary) {
        let mut state = self.shared.state.borrow_mut();
        let (slot, offset) = (self.table.slot, summary.offset);
        if state.memtable.find(Pointer { slot, offset }).is_some() {
            // Gets do not read it yet. The next pass does.
            return;
        }
        if state.lose_damaged(summary, slot) {
            state.counters.scrub_bad_records += 1;
            if worth_logging(state.counters.scrub_bad_records) {
                tracing::error!(
                    "scrub: the record at offset {offset} of table {slot} is damaged. It is a miss from now on"
                );
            }
        } else {
            state.counters.scrub_bad_dead_records += 1;
            if worth_logging(state.counters.scrub_bad_dead_records) {
                tracing::warn!(
                    "scrub: the record at offset {offset} of table {slot} is damaged; nobody would ask for it"
                );
            }
        }
    }
}

impl<F> State<F> {
    /// A record of the table in `slot`, whose use is the one that `summary` is of, is damaged. Says whether it leaves the index.
    pub(super) fn lose_damaged(&mut self, summary: &Summary, slot: u32) -> bool {
        let pointer = Pointer { slot, offset: summary.offset };
        if summary.kind != Kind::Value || self.remove_if_at(&summary.digest, pointer).is_none() {
            return false;
        }
        // What is left of it still says at every start that older versions are dead.
        self.catalog.note_dropped(slot);
        self.forget_values_of(slot);
        true
    }
}
