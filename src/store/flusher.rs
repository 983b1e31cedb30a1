//! The background tasks of a store: the flusher, which alone writes to tables, and the ticker.

use std::cell::RefMut;
use std::rc::Rc;

use super::state::{Draft, Job, State};
use super::{Shared, Store, worth_logging};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::catalog::TableState;
use crate::disktable::format::{Identity, Summary, footer_page_count};
use crate::disktable::summaries::SummaryLog;
use crate::disktable::writer::{self, TableWriter};
use crate::index::{Entry, Pointer};
use crate::io::{File, Io};
use crate::limits::PAGE_SIZE;
use crate::memtable::{Block, TableUse};
use crate::reclaim::{choose_victim, empty_table};
use crate::record::{Kind, record_size};
use crate::recovery::tables::table_path;

impl<I: Io> Store<I> {
    /// Starts the background tasks.
    pub(super) fn start(&self) {
        let flusher = Rc::clone(&self.shared);
        self.shared.io.spawn(async move { flusher.run_jobs().await });
        let ticker = Rc::clone(&self.shared);
        self.shared.io.spawn(async move {
            let interval = ticker.options.flush_interval;
            while !ticker.state.borrow().closing {
                ticker.io.sleep(interval).await;
                let _ = ticker.flush_active(false);
            }
        });
    }
}

impl<I: Io> Shared<I> {
    /// Wakes the flusher when it has something to do.
    pub(super) fn notify_work(&self, state: &State<I::File>) {
        if !state.jobs.is_empty() {
            self.work.notify();
        }
    }

    /// Sends the records of the active block on their way, and has everything made stable: when the sync with the number
    /// that is returned is done. Without `always`, only if there is something.
    pub(super) fn flush_active(&self, always: bool) -> u64 {
        let mut state = self.state.borrow_mut();
        let is_stable = !state.memtable.has_active_records() && !state.unsynced;
        if state.closing || (is_stable && !always) {
            return state.sync_done;
        }
        state.freeze();
        state.sync_asked += 1;
        let (table, number) = (state.writer.table, state.sync_asked);
        state.jobs.push_back(Job::Sync(table, number));
        self.notify_work(&state);
        number
    }

    /// Returns when the sync with this number is done.
    pub(super) async fn synced(&self, number: u64) {
        loop {
            let wait = self.progress.wait();
            if self.state.borrow().sync_done >= number {
                return;
            }
            wait.await;
        }
    }

    /// Queues everything that is to be done before the end.
    pub(super) fn begin_closing(&self) {
        let mut state = self.state.borrow_mut();
        if state.closing {
            return;
        }
        state.freeze();
        state.closing = true;
        let (table, size, count) = (state.writer.table, state.table_size, state.summary_count_max);
        let empty = TableWriter::new(table, size, count);
        let last = std::mem::replace(&mut state.writer, empty);
        state.jobs.push_back(Job::Seal(last));
        self.notify_work(&state);
    }

    /// Returns when the flusher has done all jobs.
    pub(super) async fn drained(&self) {
        loop {
            let wait = self.progress.wait();
            {
                let state = self.state.borrow();
                if state.jobs.is_empty() && !state.busy {
                    return;
                }
            }
            wait.await;
        }
    }

    async fn run_jobs(&self) {
        loop {
            let wait = self.work.wait();
            let job = {
                let mut state = self.state.borrow_mut();
                let job = state.jobs.pop_front();
                state.busy = job.is_some();
                if job.is_none() && state.closing {
                    break;
                }
                job
            };
            match job {
                Some(job) => {
                    self.run_job(job).await;
                    self.state.borrow_mut().busy = false;
                    self.progress.notify();
                }
                None => wait.await,
            }
        }
        self.progress.notify();
    }

    async fn run_job(&self, job: Job) {
        match job {
            Job::Begin(table) => self.begin(table).await,
            Job::Write(block) => self.write(block).await,
            Job::Seal(writer) => self.seal(writer).await,
            Job::Sync(table, number) => {
                self.sync(table).await;
                self.state.borrow_mut().sync_done = number;
            }
            Job::Prepare => self.prepare().await,
            Job::Evict => self.evict_for_index().await,
        }
    }

    pub(super) fn file(&self, table: TableUse) -> Rc<I::File> {
        let (file, _) = self.state.borrow().catalog.usage(table.slot).expect("tables being written are usable");
        file
    }

    fn identity(&self, slot: u32) -> Identity {
        Identity { slot, ..self.identity }
    }

    async fn begin(&self, table: TableUse) {
        let file = self.file(table);
        let result = writer::write_header(&*file, self.identity(table.slot), table.sequence, self.io.now()).await;
        let is_written = result.is_ok();
        let mut state = self.note_write(table.slot, "header", PAGE_SIZE, result);
        if !is_written {
            // Until it is sealed nobody would find its records again.
            state.leave_table(table);
        }
    }

    async fn write(&self, block: Rc<Block>) {
        let file = self.file(block.table);
        let result = file.write_at(block.start.into(), block.size, Rc::clone(&block.buffer)).await;
        let is_written = result.is_ok();
        let mut state = self.note_write(block.table.slot, "block", block.size, result);
        let gone = if is_written { Vec::new() } else { self.drop_unwritten(&mut state, &block) };
        drop(block);
        state.memtable.retire_oldest(is_written);
        state.bury(&gone);
    }

    /// The records of a block that could not be written are gone: they leave the index, and the footer will not name
    /// them. Returns their keys, whose older versions are on disk still.
    fn drop_unwritten(&self, state: &mut State<I::File>, block: &Block) -> Vec<(Digest, Vec<u8>)> {
        let mut gone = Vec::new();
        for (offset, record) in block.records() {
            let digest = Digest::of(&self.salt, record.key);
            let pointer = Pointer { slot: block.table.slot, offset };
            let was_newest = match record.header.kind {
                Kind::Value => state.remove_if_at(&digest, pointer).is_some(),
                Kind::Tombstone => state.index.get(&digest).is_none(),
                Kind::Touch | Kind::Flush | Kind::Padding => false,
            };
            if was_newest {
                gone.push((digest, record.key.to_vec()));
            }
        }
        let end = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
        state.failed.push((block.table, block.start..end));
        state.leave_table(block.table);
        gone
    }

    async fn seal(&self, writer: TableWriter) {
        let TableWriter { table, next_start, summaries, .. } = writer;
        let failed: Vec<_> = self
            .state
            .borrow()
            .failed
            .iter()
            .filter(|(failed, _)| *failed == table)
            .map(|(_, part)| part.clone())
            .collect();
        let summaries = if failed.is_empty() {
            summaries
        } else {
            let mut whole = SummaryLog::default();
            let is_written = |summary: &Summary| !failed.iter().any(|part| part.contains(&summary.offset));
            summaries.iter().filter(is_written).for_each(|summary| whole.push(&summary));
            whole
        };
        let size = (footer_page_count(summaries.len()) + 1) * PAGE_SIZE;
        let (file, identity) = (self.file(table), self.identity(table.slot));
        let result = writer::seal(&*file, identity, table, next_start, summaries, self.io.now()).await;
        let mut state = self.note_write(table.slot, "footer", size, result);
        state.catalog.set_state(table.slot, TableState::Sealed);
    }

    async fn sync(&self, table: TableUse) {
        // Before the sync: what is written while it runs is not covered by it.
        self.state.borrow_mut().unsynced = false;
        if let Err(error) = self.file(table).sync().await {
            self.state.borrow_mut().counters.disk_write_errors += 1;
            tracing::error!("making table {} stable failed: {error}", table.slot);
        }
    }

    fn note_write(
        &self,
        slot: u32,
        what: &str,
        size: usize,
        result: std::io::Result<()>,
    ) -> RefMut<'_, State<I::File>> {
        let mut state = self.state.borrow_mut();
        match result {
            Ok(()) => {
                state.counters.disk_writes += 1;
                state.counters.disk_write_bytes += size as u64;
                state.unsynced = true;
            }
            Err(error) => {
                state.counters.disk_write_errors += 1;
                if worth_logging(state.counters.disk_write_errors) {
                    tracing::error!("writing a {what} of {size} bytes to table {slot} failed: {error}");
                }
            }
        }
        state
    }

    /// Gets a table ready: a free one, a new one, or one that is emptied.
    pub(super) async fn prepare(&self) {
        if self.state.borrow().ready.is_some() {
            return;
        }
        let slot = match self.free_or_new_table().await {
            Some(slot) => Some(slot),
            None => self.reclaim_table().await,
        };
        let mut state = self.state.borrow_mut();
        state.ready = slot;
        state.exhausted = slot.is_none();
    }

    async fn free_or_new_table(&self) -> Option<u32> {
        let vacant = {
            let state = self.state.borrow();
            if let Some(slot) = state.catalog.free_slot() {
                return Some(slot);
            }
            state.catalog.vacant_slot()?
        };
        let path = table_path(&self.shard_directory, vacant);
        match self.io.create(&path, self.identity.table_size).await {
            Ok(file) => {
                self.state.borrow_mut().catalog.insert(vacant, Some(Rc::new(file)), TableState::Free, 0);
                Some(vacant)
            }
            Err(error) => {
                let mut state = self.state.borrow_mut();
                state.catalog.table_count_max = state.catalog.len();
                let count = state.catalog.len();
                tracing::warn!(
                    "no room for another table of {} bytes at {}: {error}. The store goes on with the {count} \
                        tables that it has, less than --capacity",
                    self.identity.table_size,
                    path.display()
                );
                None
            }
        }
    }

    /// Empties a table that may be, and returns its slot.
    pub(super) async fn reclaim_table(&self) -> Option<u32> {
        let (file, table) = {
            let mut state = self.state.borrow_mut();
            let mut victim = choose_victim(&state.catalog, state.evict);
            if victim.is_none() && !state.evict {
                // Nothing may be evicted; what has expired may give its room away.
                let started = self.io.monotonic();
                state.sweep_expired(self.io.now());
                // A fiftieth of the time at most goes into this.
                let pause = self.io.monotonic().saturating_sub(started).as_secs_f64() * 50.0 + 1.0;
                state.sweep_after = self.io.now() + pause as Seconds;
                victim = choose_victim(&state.catalog, false);
            }
            let slot = victim?;
            let usage = state.catalog.usage(slot)?;
            state.catalog.set_state(slot, TableState::Freeing);
            usage
        };
        // What superseded the records of this table must be on disk before it goes: what is in memory now, and what
        // was written since the last sync.
        self.write_everything().await;
        self.tell_of_evicted(&file, table).await;
        let mut evicted = Evicted::default();
        let mut visit = |summary: Summary| {
            let entry = summary.entry(table.slot);
            if summary.kind == Kind::Value
                && let Some(entry) = self.state.borrow_mut().remove_if_at(&summary.digest, entry.pointer)
            {
                evicted.note(entry);
            }
        };
        let identity = self.identity(table.slot);
        let emptied = empty_table(&self.io, &file, identity, table.sequence, &mut visit).await;
        let mut state = self.state.borrow_mut();
        let visited_all = match emptied {
            Ok(visited_all) => visited_all,
            Err(error) => {
                state.counters.disk_write_errors += 1;
                tracing::error!("table {} cannot be marked as free: {error}. It is only read from now on", table.slot);
                state.catalog.set_state(table.slot, TableState::Unusable);
                return None;
            }
        };
        let left = state.catalog.get(table.slot).map_or(0, |left| left.live_count);
        if !visited_all || left > 0 {
            state.drop_pointers_into(table.slot, &mut evicted);
        }
        state.counters.evictions += evicted.count;
        state.counters.evicted_bytes += evicted.size;
        state.counters.evicted_expiring += evicted.expiring_count;
        if evicted.count > 0 {
            let begun = state.catalog.get(table.slot).map_or(0, |emptied| emptied.begun);
            state.counters.evicted_age = self.io.now().saturating_sub(begun);
            state.counters.tables_evicted += 1;
        } else {
            state.counters.tables_reclaimed += 1;
        }
        state.catalog.finish_freeing(table.slot);
        Some(table.slot)
    }

    async fn evict_for_index(&self) {
        // Somebody may have asked again while the last table was emptied.
        if !self.state.borrow().index.has_room() {
            // The table becomes free; the next Prepare finds it.
            let _ = self.reclaim_table().await;
        }
    }

    /// Writes all blocks that have records, and makes the tables that they are in stable. Other jobs in the queue
    /// keep their order.
    async fn write_everything(&self) {
        let is_write = |job: &Job| matches!(job, Job::Write(_) | Job::Begin(_));
        let count = {
            let mut state = self.state.borrow_mut();
            state.freeze();
            state.jobs.iter().filter(|job| is_write(job)).count()
        };
        // Not those that come in the meantime: under load there would always be another.
        for _ in 0..count {
            let next = {
                let mut state = self.state.borrow_mut();
                let place = state.jobs.iter().position(is_write);
                place.and_then(|place| state.jobs.remove(place))
            };
            match next {
                Some(Job::Write(block)) => self.write(block).await,
                Some(Job::Begin(table)) => self.begin(table).await,
                _ => break,
            }
            self.progress.notify();
        }
        let is_open = |state| matches!(state, TableState::Writing | TableState::Sealing);
        let open: Vec<TableUse> = {
            let state = self.state.borrow();
            let tables = state.catalog.iter().filter(|(_, table)| is_open(table.state));
            tables.map(|(slot, table)| TableUse { slot, sequence: table.sequence }).collect()
        };
        for table in open {
            self.sync(table).await;
        }
    }
}

/// What leaves the index with a table.
#[derive(Default)]
struct Evicted {
    count: u64,
    /// Bytes, by size class.
    size: u64,
    /// Those that would have expired some day.
    expiring_count: u64,
}

impl Evicted {
    fn note(&mut self, entry: Entry) {
        self.count += 1;
        self.size += entry.class.size() as u64;
        self.expiring_count += u64::from(entry.expiry != 0);
    }
}

impl<F> State<F> {
    /// A write to `table` has failed: it is sealed as soon as another one is ready, so that what is in it is found by its
    /// footer, and nothing more goes to it.
    fn leave_table(&mut self, table: TableUse) {
        if self.writer.table == table && !self.closing {
            self.spoiled = true;
            // When no table is ready, the next record that comes asks again.
            let _ = self.roll_table();
        }
    }

    /// Notes that keys are gone, as far as there is room at this moment: the next start would find what they had before.
    fn bury(&mut self, gone: &[(Digest, Vec<u8>)]) {
        for (digest, key) in gone {
            if self.make_room(record_size(key.len(), 0), 0).is_err() {
                tracing::error!("older versions of up to {} keys may come back at the next start", gone.len());
                return;
            }
            self.append_guard(Draft::guard(Kind::Tombstone, digest, key, 0));
        }
    }

    /// Drops every entry that points into `slot`.
    fn drop_pointers_into(&mut self, slot: u32, evicted: &mut Evicted) {
        self.index.retain(|entry| {
            let keep = entry.pointer.slot != slot;
            if !keep {
                self.catalog.remove_live(slot, entry.class);
                evicted.note(entry);
            }
            keep
        });
    }
}
