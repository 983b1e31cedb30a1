//! The background tasks of a store: the flusher, which writes what is new to tables, and the ticker.

use std::cell::RefMut;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::commit::Gone;
use super::state::{Job, Lane, State};
use super::{Durability, Shared, Store, worth_logging};
use crate::clock::is_expired;
use crate::digest::Digest;
use crate::disktable::catalog::TableState;
use crate::disktable::format::{Summary, footer_page_count};
use crate::disktable::summaries::SummaryLog;
use crate::disktable::writer::{self, TableWriter};
use crate::index::Pointer;
use crate::io::{File, Io};
use crate::limits::PAGE_SIZE;
use crate::memtable::{Block, TableUse};
use crate::mutants::{Mutant, has};
use crate::record::Kind;
use crate::recovery::checkpoint::Position;

/// Records that the cache evicts before others have their turn.
const CACHE_SHRINK_STEPS: usize = 256;

/// What is in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// What clients have written.
    News,
    /// What reclaim has moved.
    Copies,
}

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
                ticker.state.borrow_mut().bury_if_due();
                let _ = ticker.flush_active(false);
                ticker.shrink_cache().await;
            }
        });
        let checkpoints = Rc::clone(&self.shared);
        self.shared.io.spawn(async move { checkpoints.write_checkpoints().await });
        self.start_reclaimer();
        self.start_crawler();
    }
}

impl<I: Io> Shared<I> {
    /// Wakes the flusher and the reclaimer when they have something to do.
    pub(super) fn notify_work(&self, state: &State<I::File>) {
        if !state.jobs.is_empty() {
            self.work.notify();
        }
        if state.reclaimer.is_asked && !state.reclaimer.busy {
            self.reclaim_asked.notify();
        }
    }

    /// Has the cache give back what it has too much, while others are served.
    async fn shrink_cache(&self) {
        while self.state.borrow_mut().index.shrink(CACHE_SHRINK_STEPS) {
            self.io.yield_now().await;
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
        state.freeze_all();
        let done = state.sync_asked;
        state.sync_asked += 1;
        let (table, number) = (state.writer.table, state.sync_asked);
        if state.has_second_lane() {
            let table = state.parked.writer.table;
            state.jobs.push_back(Job::Sync(table, done));
        }
        state.jobs.push_back(Job::Sync(table, number));
        self.notify_work(&state);
        number
    }

    /// Returns when the sync with this number is done.
    pub(super) async fn synced(&self, number: u64) {
        self.progress.until(|| self.state.borrow().sync_done >= number).await;
    }

    /// From now on nothing is written.
    pub(super) fn begin_closing(&self) {
        let mut state = self.state.borrow_mut();
        state.freeze_all();
        state.closing = true;
        drop(state);
        self.progress.notify();
    }

    /// Queues what is to be done before the end. Nobody else writes any more.
    pub(super) fn queue_last_job(&self) {
        let mut state = self.state.borrow_mut();
        if std::mem::replace(&mut state.is_last_job_queued, true) {
            return;
        }
        let (table, size, count) = (state.writer.table, state.table_size, state.summary_count_max);
        let empty = TableWriter::new(table, size, count);
        let last = std::mem::replace(&mut state.writer, empty);
        state.ends_at = Position { sequence: last.table.sequence, offset: last.next_start };
        if state.has_second_lane() {
            let second = std::mem::replace(&mut state.parked, Lane::unused(size, count)).writer;
            state.jobs.push_back(Job::Seal(second));
        }
        state.jobs.push_back(Job::Seal(last));
        self.notify_work(&state);
    }

    /// Returns when the flusher has done all jobs.
    pub(super) async fn drained(&self) {
        let is_idle = |state: &State<I::File>| state.jobs.is_empty() && !state.busy;
        self.progress.until(|| is_idle(&self.state.borrow())).await;
    }

    async fn run_jobs(&self) {
        loop {
            let wait = self.work.wait();
            let job = {
                let mut state = self.state.borrow_mut();
                let job = state.jobs.pop_front();
                state.busy = job.is_some();
                if job.is_none() && state.is_last_job_queued {
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
            Job::Seal(writer) => self.seal(writer, Holds::News).await,
            Job::Sync(table, number) => {
                self.sync(table).await;
                self.state.borrow_mut().sync_done = number;
            }
            Job::Commit => self.write_queued().await,
            Job::Prepare => self.prepare().await,
        }
    }

    pub(super) fn file(&self, table: TableUse) -> Rc<I::File> {
        let (file, _) = self.state.borrow().catalog.usage(table.slot).expect("tables being written are usable");
        file
    }

    async fn begin(&self, table: TableUse) {
        let file = self.file(table);
        let result = writer::write_header(&*file, self.identity(table.slot), table.sequence, self.io.now()).await;
        let is_written = result.is_ok();
        let mut state = self.note_write(table.slot, "header", PAGE_SIZE, result);
        if !is_written {
            // Until it is sealed nobody would find its records again. And none may reach it: were the header lost, the next
            // use would have the same sequence, and what is there now would count as its own.
            state.failed.push((table, 0..u32::MAX));
            state.leave_table(table);
        }
    }

    async fn write(&self, block: Rc<Block>) {
        let (file, commits) = (self.file(block.table), self.commits());
        let (offset, data) = (block.start.into(), Rc::clone(&block.buffer));
        // Behind a failure in the same table no scan would find what is acknowledged, until a footer names it.
        let has_no_header = |(table, part): &(TableUse, Range<u32>)| *table == block.table && part.start == 0;
        let is_left = {
            let state = self.state.borrow();
            if commits { state.has_failed(block.table) } else { state.failed.iter().any(has_no_header) }
        };
        let (is_written, mut state) = if is_left {
            drop(data);
            (false, self.state.borrow_mut())
        } else {
            let result = if commits {
                file.write_stable_at(offset, block.size, data).await
            } else {
                file.write_at(offset, block.size, data).await
            };
            (result.is_ok(), self.note_write(block.table.slot, "block", block.size, result))
        };
        // Headers and footers are made stable by who writes them, and so are copies, also before there is a flusher.
        state.unsynced |= is_written && !commits;
        state.counters.commits += u64::from(commits && is_written);
        state.counters.commit_failures += u64::from(commits && !is_written);
        let gone = if is_written { Vec::new() } else { self.drop_unwritten(&mut state, &block) };
        drop(block);
        state.memtable.retire_oldest(is_written);
        state.block_ended(is_written, gone);
    }

    /// The records of a block that could not be written are gone: they leave the index, and the footer will not name
    /// them. Returns what must be noted again, as older versions are on disk still.
    fn drop_unwritten(&self, state: &mut State<I::File>, block: &Block) -> Vec<Gone> {
        let (mut gone, now) = (Vec::new(), self.io.now());
        for (offset, record) in block.records() {
            let digest = Digest::of(&self.salt, record.key);
            let pointer = Pointer { slot: block.table.slot, offset };
            let kind = record.header.kind;
            let is_missed = match kind {
                Kind::Value => {
                    // It may have left the index because it has expired.
                    let has_expired = is_expired(record.header.expiry, now) && state.index.get(&digest).is_none();
                    state.remove_if_at(&digest, pointer).is_some() || has_expired
                }
                Kind::Tombstone => state.index.get(&digest).is_none(),
                // Without one that has ended a record's time, the record is there again.
                Kind::Touch => is_expired(record.header.expiry, now) || state.index.get(&digest).is_some(),
                // A delayed one is repeated in the next table anyway.
                Kind::Flush => record.header.expiry == 0,
                Kind::Padding => false,
            };
            if is_missed {
                let is_absent = kind == Kind::Touch && state.index.get(&digest).is_none();
                let kind = if is_absent { Kind::Tombstone } else { kind };
                gone.push(Gone { kind, digest, key: record.key.to_vec() });
            }
        }
        let end = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
        state.failed.push((block.table, block.start..end));
        state.leave_table(block.table);
        gone
    }

    pub(super) async fn seal(&self, writer: TableWriter, holds: Holds) {
        let TableWriter { table, next_start, summaries, .. } = writer;
        let failed: Vec<_> = self
            .state
            .borrow()
            .failed
            .iter()
            .filter(|(failed, _)| *failed == table)
            .map(|(_, part)| part.clone())
            .collect();
        let summaries = if failed.is_empty() { summaries } else { without_failed(&summaries, &failed, holds) };
        if self.state.borrow().is_doubtful(table) {
            // Its footer would vouch for records that may not be there. The next start looks at each.
            return self.state.borrow_mut().catalog.set_state(table.slot, TableState::Sealed);
        }
        let size = (footer_page_count(summaries.len()) + 1) * PAGE_SIZE;
        let (file, identity) = (self.file(table), self.identity(table.slot));
        let result = writer::seal(&*file, identity, table, next_start, summaries, self.io.now()).await;
        let failure = result.as_ref().err().map(|error| error.kind());
        let mut state = self.note_write(table.slot, "footer", size, result);
        if let Some(failure) = failure {
            // What was to be made stable before the footer may not be, and the next sync would not tell.
            state.doubt(table, &failure.into());
            state.catalog.set_state(table.slot, TableState::Sealed);
            self.notify_work(&state);
        } else {
            state.catalog.complete(table.slot, next_start);
        }
    }

    /// Whether writes are acknowledged when they are stable: then all that the flusher has done is.
    fn commits(&self) -> bool {
        self.options.durability == Durability::Sync
    }

    async fn sync(&self, table: TableUse) {
        if self.commits() {
            return;
        }
        // Before the sync: what is written while it runs is not covered by it.
        self.state.borrow_mut().unsynced = false;
        if has(Mutant::SyncForgotten) {
            return;
        }
        let _ = self.make_stable(table).await;
    }

    pub(super) fn note_write(
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

    /// Gets a table ready: a free one, or a new one. If there is none, the reclaimer knows whether there will be.
    pub(super) async fn prepare(&self) {
        if self.state.borrow().ready.is_some() {
            return;
        }
        // The first new one may have to be the reserve.
        while self.state.borrow().free_for_writes().is_none() {
            if self.create_table().await.is_none() {
                break;
            }
        }
        let mut state = self.state.borrow_mut();
        state.ready = state.free_for_writes();
        state.end_stale_tables();
        state.ask_reclaimer();
        self.notify_work(&state);
    }

    /// Writes all blocks that have records. Other jobs in the queue keep their order.
    async fn write_queued(&self) {
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
    }
}

impl<F> State<F> {
    /// A write to `table` has failed: it is sealed as soon as another one is ready, so that what is in it is found by its
    /// footer, and nothing more goes to it.
    pub(super) fn leave_table(&mut self, table: TableUse) {
        let Some(lane) = self.lane_of(table.slot).filter(|_| !self.closing) else { return };
        self.in_lane(lane, |state| {
            if state.writer.table == table {
                state.spoiled = true;
                // When no table is ready, the next record that comes asks again.
                let _ = state.roll_table();
            }
        });
    }

    fn has_failed(&self, table: TableUse) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == table)
    }
}

/// What is there of a table of which these parts could not be written. A touch of a value that is not would count for an older
/// one; what was said of such a value goes with it, unless its original is there.
fn without_failed(summaries: &SummaryLog, failed: &[Range<u32>], holds: Holds) -> SummaryLog {
    let is_failed = |summary: &Summary| failed.iter().any(|part| part.contains(&summary.offset));
    let mut lost: HashMap<Digest, Vec<(u64, bool)>> = HashMap::new();
    for summary in summaries.iter().filter(|summary| summary.kind == Kind::Value && is_failed(summary)) {
        lost.entry(summary.digest).or_default().push((summary.version, true));
    }
    for summary in summaries.iter().filter(|summary| summary.kind == Kind::Value && !is_failed(summary)) {
        lost.entry(summary.digest).and_modify(|values| values.push((summary.version, false)));
    }
    let is_of_lost = |summary: &Summary| {
        let values = lost.get(&summary.digest).into_iter().flatten();
        let before = values.filter(|(version, _)| *version < summary.version);
        holds == Holds::News && summary.kind == Kind::Touch && before.max().is_some_and(|(_, is_lost)| *is_lost)
    };
    let mut whole = SummaryLog::default();
    let stays = |summary: &Summary| !is_failed(summary) && !is_of_lost(summary);
    summaries.iter().filter(stays).for_each(|summary| whole.push(&summary));
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disktable::format::Distance;
    use crate::record::SizeClass;

    #[test]
    fn a_touch_goes_with_the_value_that_could_not_be_written() {
        let said = |key: u8, kind, version: u64, offset| Summary {
            digest: Digest::of(&[1; 16], &[key]),
            version,
            expiry: 0,
            offset,
            kind,
            class: SizeClass(2),
            distance: Distance::NONE,
        };
        let (value, touch) = (Kind::Value, Kind::Touch);
        // The second of the first key is lost, and so is what is said of it; what is said before and of others is not.
        let all = [(1, value, 1), (1, touch, 2), (1, value, 3), (1, touch, 4), (2, value, 5), (2, touch, 6)];
        let mut summaries = SummaryLog::default();
        for ((key, kind, version), offset) in
            all.into_iter().chain([(1, value, 7), (1, touch, 8)]).zip((4096..).step_by(16))
        {
            summaries.push(&said(key, kind, version, offset));
        }
        let whole = without_failed(&summaries, &[4128..4144, 8192..12288], Holds::News);
        let versions: Vec<u64> = whole.iter().map(|summary| summary.version).collect();
        assert_eq!(versions, [1, 2, 5, 6, 7, 8]);
        let whole = without_failed(&summaries, &[4128..4144, 8192..12288], Holds::Copies);
        assert_eq!(whole.len(), 7, "of a copy that could not be written the original counts, and so does the touch");
    }
}
