//! Everything that a store knows, and the changes that happen at once, without waiting.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::checkpoint::CheckpointState;
use super::commit::{Gone, Groups};
use super::mover::{MOVER_COUNT, Mover};
use super::obstacle::DiskRead;
use super::reclaim::Reclaimer;
use super::times::WriteTimes;
use super::worth_logging;
use crate::cache::{CachedIndex, Found};
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Distance, Summary};
use crate::disktable::reader::{ReadPlan, distance_of};
use crate::disktable::writer::TableWriter;
use crate::index::{Entry, Full, Pointer};
use crate::limits::{MOVED_TABLE_AGE_MAX, OPEN_TABLE_AGE_MIN, OPEN_TABLE_AGE_PARTS};
use crate::memtable::{Block, Memtable, TableUse};
use crate::mutants::{Mutant, has};
use crate::reclaim::throttle::Throttle;
use crate::reclaim::victim::{Separation, Stream};
use crate::record::{Damage, Header, Kind, SizeClass, granules_up, record_size};
use crate::recovery::checkpoint::Position;
use crate::stats::{StoreCounters, StoreGauges};

/// What the flusher does, one after the other.
#[derive(Debug)]
pub(super) enum Job {
    /// Write the header of a table that is begun.
    Begin(TableUse),
    /// Write a frozen block.
    Write(Rc<Block>),
    /// Write the footer and trailer of a table that is full.
    Seal(TableWriter),
    /// Make everything written to the table stable; who waits for that knows it by the number.
    Sync(TableUse, u64),
    /// Write everything that is there when this begins.
    Commit,
    /// Have a table ready for when the one being written is full.
    Prepare,
}

/// Why something cannot be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The flusher will make room.
    Wait,
    /// There is no room, and none is going to be made.
    NoSpace,
}

/// A table that new records go to. There are two, for records that will probably live for long and for others; whatever is said
/// of the writer and the active block is said of the lane whose turn it is.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) writer: TableWriter,
    pub(super) spoiled: bool,
}

impl Lane {
    /// One that nothing was written to yet: its table is a stand-in.
    pub(super) fn unused(table_size: usize, summary_count_max: usize) -> Self {
        let stand_in = TableUse { slot: u32::MAX, sequence: 0 };
        Self { writer: TableWriter::new(stand_in, table_size, summary_count_max), spoiled: true }
    }
}

#[derive(Debug)]
pub(super) struct State<F> {
    pub(super) index: CachedIndex,
    pub(super) memtable: Memtable,
    pub(super) catalog: Catalog<F>,
    pub(super) writer: TableWriter,
    /// The lane whose turn it is not: between two writes, that of records that will live for long.
    pub(super) parked: Lane,
    pub(super) lane: Stream,
    /// A free table, header not written, for when the writer's is full.
    pub(super) ready: Option<u32>,
    /// Nothing more can be made ready: the disk is full and nothing can be got back.
    pub(super) exhausted: bool,
    /// The table that is being written is the one that was kept for deletions.
    pub(super) is_on_reserve: bool,
    /// A table's file is being made.
    pub(super) is_creating: bool,
    pub(super) jobs: VecDeque<Job>,
    /// The flusher has a job in hand.
    pub(super) busy: bool,
    pub(super) closing: bool,
    /// All that is to be done before the end is among the jobs.
    pub(super) is_last_job_queued: bool,
    pub(super) movers: [Mover; MOVER_COUNT],
    pub(super) separation: Separation,
    pub(super) reclaimer: Reclaimer,
    /// Something was written since the last sync.
    pub(super) unsynced: bool,
    /// Number of the last sync that was asked for.
    pub(super) sync_asked: u64,
    /// Number of the last sync that is done.
    pub(super) sync_done: u64,
    /// Something could not be written to the writer's table: the next record goes to another one.
    pub(super) spoiled: bool,
    /// A delayed flush is pending that the writer's table does not know of yet.
    pub(super) repeat_flush: bool,
    /// The second of the last write.
    pub(super) now: Seconds,
    /// The second before which the index is not searched for expired records again.
    pub(super) sweep_after: Seconds,
    /// Walks in search of expired records that are under way.
    pub(super) crawl_count: u32,
    pub(super) version: u64,
    pub(super) flush_due: Option<Seconds>,
    /// Parts of tables whose write has failed; their records are left out of the footer.
    pub(super) failed: Vec<(TableUse, Range<u32>)>,
    /// Tables of which a sync has failed: nobody knows what of them is on stable media.
    pub(super) doubtful: Vec<TableUse>,
    pub(super) groups: Groups,
    /// What there was no room to note yet.
    pub(super) unburied: Vec<Gone>,
    /// Flush intervals between two attempts to do so; 0 while the device works.
    pub(super) burial_pause: u32,
    /// How many of them are left.
    pub(super) burial_wait: u32,
    pub(super) counters: StoreCounters,
    pub(super) table_size: usize,
    pub(super) summary_count_max: usize,
    pub(super) evict: bool,
    /// Bytes of read buffers that the store's own reads use.
    pub(super) read_size: usize,
    pub(super) reads_in_flight: u64,
    /// When the last one of a get ended.
    pub(super) last_read: Duration,
    pub(super) throttle: Throttle,
    /// Shared with the store, which is asked while the rest is in use.
    pub(super) write_times: Rc<RefCell<WriteTimes>>,
    pub(super) checkpoint: CheckpointState,
    /// Where the log ends, once nothing is written any more.
    pub(super) ends_at: Position,
    /// The same, when all of it is on disk.
    pub(super) closed_at: Option<Position>,
}

/// A record to be appended.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) digest: &'a Digest,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) expiry: Seconds,
    pub(super) client_flags: u32,
    pub(super) bits: u16,
    pub(super) own_cas: Option<u64>,
    /// Of a value: where older words about its key may be.
    pub(super) older: Distance,
}

/// A digest that no key has: of records without a key.
pub(super) const NO_DIGEST: Digest = Digest([0; 20]);

impl<'a> Draft<'a> {
    /// A record without a value.
    pub(super) fn guard(kind: Kind, digest: &'a Digest, key: &'a [u8], expiry: Seconds) -> Self {
        let older = Distance::NONE;
        Self { kind, digest, key, value: b"", expiry, client_flags: 0, bits: 0, own_cas: None, older }
    }

    pub(super) fn size(&self) -> usize {
        self.header(0).record_size(self.key.len(), self.value.len())
    }

    fn header(&self, version: u64) -> Header {
        let Self { kind, expiry, client_flags, bits, own_cas, .. } = *self;
        Header { kind, version, expiry, client_flags, bits, own_cas }
    }

    fn summary(&self, version: u64, offset: u32) -> Summary {
        let Self { kind, expiry, .. } = *self;
        let class = SizeClass::of(self.size());
        let distance = if kind == Kind::Value { self.older } else { distance_of(&self.header(version)) };
        Summary { digest: *self.digest, version, expiry, offset, kind, class, distance }
    }
}

impl<F> State<F> {
    /// The entry of a record that is not expired. An expired one leaves the index here.
    pub(super) fn live_entry(&mut self, digest: &Digest, now: Seconds) -> Option<Entry> {
        self.live(digest, now).map(|found| found.entry)
    }

    /// The same, and where its record is in the cache.
    #[inline]
    pub(super) fn live(&mut self, digest: &Digest, now: Seconds) -> Option<Found> {
        let found = self.index.find(digest);
        self.note_shown(found.map(|found| found.entry));
        let found = found?;
        let entry = found.entry;
        if !is_expired(entry.expiry, now) {
            return Some(found);
        }
        self.remove(digest);
        // It stays on disk and keeps older versions of its key dead.
        self.catalog.note_dropped(entry.pointer.slot);
        self.counters.expired += 1;
        None
    }

    /// How the record of `entry`, which is not in memory, is read.
    pub(super) fn disk_read(&self, entry: Entry) -> DiskRead<F> {
        let (file, table) = self.catalog.usage(entry.pointer.slot).expect("the index points into usable tables only");
        DiskRead { begun: Duration::ZERO, entry, plan: ReadPlan::new(file, table, entry, self.table_size) }
    }

    /// What was read is not the record: because the table was used again while it was read (then the entry has
    /// changed and the caller looks again), or because the bytes on disk are damaged.
    pub(super) fn note_damage(&mut self, digest: &Digest, read: &DiskRead<F>, damage: Damage) {
        let (pointer, place) = (read.entry.pointer, read.plan.place);
        let still_there = self.index.get(digest).is_some_and(|now| now.pointer == pointer);
        let same_use = self.catalog.get(pointer.slot).is_some_and(|table| table.sequence == place.sequence);
        if !still_there || !same_use || self.memtable.find(pointer).is_some() {
            return;
        }
        self.remove(digest);
        // What is left of it still says at every start that older versions are dead.
        self.catalog.note_dropped(pointer.slot);
        self.forget_values_of(pointer.slot);
        self.counters.damaged_records += 1;
        self.counters.disk_read_errors += 1;
        self.counters.records_unreadable += 1;
        if worth_logging(self.counters.damaged_records) {
            let (slot, offset) = (pointer.slot, pointer.offset);
            tracing::error!(
                "the record at offset {offset} of table {slot} is damaged: {damage}. It is a miss from now on"
            );
        }
    }

    /// Drops a key from the index.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.index.remove(digest)?;
        self.catalog.remove_live(entry.pointer.slot, entry.class);
        Some(entry)
    }

    /// Drops a key from the index if it still points at exactly `pointer`.
    pub(super) fn remove_if_at(&mut self, digest: &Digest, pointer: Pointer) -> Option<Entry> {
        if has(Mutant::PointerUncompared) {
            return self.remove(digest);
        }
        let entry = self.index.remove_at(digest, pointer)?;
        self.catalog.remove_live(entry.pointer.slot, entry.class);
        Some(entry)
    }

    /// Makes sure that [`Self::append`] has room for a record of `size` bytes. `reserve` bytes more must be left in
    /// the last table of a full store.
    pub(super) fn make_room(&mut self, size: usize, reserve: usize) -> Result<(), Blocked> {
        if self.closing {
            return Err(Blocked::NoSpace);
        }
        let is_deletion = reserve == 0;
        if !is_deletion && self.is_on_reserve {
            if self.ready.is_none() {
                return Err(self.ask_for_table());
            }
            self.is_on_reserve = false;
        }
        // Whether another table follows may not be known yet. Where records are evicted, that may take tombstones, for which
        // there may be no other place.
        let reserve = if self.ready.is_none() { reserve } else { 0 };
        // At most: begin another block, repeat a flush there, which may take the table's last room; begin another table,
        // a block in it, repeat the flush there; and see that there is room.
        for _ in 0..6 {
            let in_active = self.memtable.next_offset(size);
            if self.spoiled || !self.writer.fits(in_active.unwrap_or_else(|| self.next_block_start()), size, reserve) {
                if !self.spoiled {
                    self.writer.note_full();
                }
                if is_deletion && self.ready.is_none() && self.exhausted {
                    self.ready = self.free_for_deletions();
                    self.is_on_reserve = self.ready.is_some();
                }
                self.roll_table()?;
            } else if in_active.is_some() {
                if !self.repeat_pending_flush(size) {
                    return Ok(());
                }
            } else {
                self.freeze();
                self.memtable.drop_empty_active();
                if !self.memtable.start_block(self.writer.table, self.writer.next_start, size) {
                    return Err(Blocked::Wait);
                }
            }
        }
        unreachable!("a record that fits an empty table fits a new block of a new table")
    }

    /// Notes a pending delayed flush in this table too, when there is room beside a record of `size` bytes: the table that
    /// it was noted in first may be gone before it is due. Says whether it did.
    fn repeat_pending_flush(&mut self, size: usize) -> bool {
        let is_its_lane = self.lane == Stream::NewShort;
        let Some(due) = self.flush_due.filter(|_| self.repeat_flush && is_its_lane) else { return false };
        if self.memtable.next_offset(2 * granules_up(record_size(0, 0)) + size).is_none() {
            return false;
        }
        self.repeat_flush = false;
        self.append_guard(Draft::guard(Kind::Flush, &NO_DIGEST, b"", due), None);
        true
    }

    fn next_block_start(&self) -> u32 {
        // The active block, if there is one, is frozen first; it ends at a page.
        self.memtable.active_end().unwrap_or(self.writer.next_start)
    }

    /// Does `write` when it is the turn of `lane`.
    pub(super) fn in_lane<T>(&mut self, lane: Stream, write: impl FnOnce(&mut Self) -> T) -> T {
        if lane == self.lane {
            return write(self);
        }
        self.turn();
        let result = write(self);
        self.turn();
        result
    }

    fn turn(&mut self) {
        std::mem::swap(&mut self.writer, &mut self.parked.writer);
        std::mem::swap(&mut self.spoiled, &mut self.parked.spoiled);
        self.memtable.turn();
        self.lane = self.lane.sibling();
    }

    /// The lane of the table in `slot`, if that is written to.
    pub(super) fn lane_of(&self, slot: u32) -> Option<Stream> {
        if slot == self.writer.table.slot {
            return Some(self.lane);
        }
        (slot == self.parked.writer.table.slot).then(|| self.lane.sibling())
    }

    /// Whether both lanes have a table.
    pub(super) fn has_second_lane(&self) -> bool {
        self.parked.writer.table.slot != u32::MAX
    }

    /// The tables that are written beside the first one.
    pub(super) fn tables_beside(&self) -> Vec<TableUse> {
        let second = self.has_second_lane().then_some(self.parked.writer.table);
        self.movers.iter().filter_map(Mover::table).chain(second).collect()
    }

    /// Hands the active blocks to the flusher.
    pub(super) fn freeze_all(&mut self) {
        self.freeze();
        self.in_lane(self.lane.sibling(), Self::freeze);
    }

    /// Hands the active block to the flusher.
    pub(super) fn freeze(&mut self) {
        if let Some(block) = self.memtable.freeze() {
            self.groups.freeze();
            self.writer.next_start = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
            self.jobs.push_back(Job::Write(block));
        }
    }

    /// Seals the table that is being written and begins the one that is ready.
    pub(super) fn roll_table(&mut self) -> Result<(), Blocked> {
        let Some(slot) = self.ready.take() else { return Err(self.ask_for_table()) };
        self.end_records();
        let table = self.begin_table(slot, self.lane);
        let writer = TableWriter::new(table, self.table_size, self.summary_count_max);
        let full = std::mem::replace(&mut self.writer, writer);
        self.spoiled = false;
        if self.lane == Stream::NewShort {
            self.repeat_flush = self.flush_due.is_some() && !has(Mutant::FlushNotRepeated);
        }
        if full.table.slot != u32::MAX {
            self.jobs.push_back(Job::Seal(full));
        }
        self.jobs.push_back(Job::Begin(table));
        self.jobs.push_back(Job::Prepare);
        Ok(())
    }

    /// Ends tables that have stayed open while a good part of all were begun: what was written since to others is needed for as
    /// long as they may hold older words, and how far such a table lies back is told by distances, which are bounded.
    pub(super) fn end_stale_tables(&mut self) {
        let most = (self.catalog.len() as u64 / OPEN_TABLE_AGE_PARTS).clamp(OPEN_TABLE_AGE_MIN, MOVED_TABLE_AGE_MAX);
        let next = self.catalog.next_sequence();
        let is_stale = move |table: TableUse| table.slot != u32::MAX && next - table.sequence > most;
        for mover in &mut self.movers {
            mover.is_to_seal |= mover.table().is_some_and(is_stale);
        }
        self.in_lane(Stream::NewLong, |state| {
            if is_stale(state.writer.table) {
                state.end_table();
            }
        });
        self.in_lane(Stream::NewShort, |state| {
            if is_stale(state.writer.table) && state.ready.is_some() {
                state.spoiled = true;
                let _ = state.roll_table();
            }
        });
    }

    /// Nothing more is appended to the table that is being written.
    fn end_records(&mut self) {
        self.freeze();
        self.memtable.drop_empty_active();
        let ends_at = (self.writer.next_start, self.writer.used_size());
        self.catalog.end(self.writer.table.slot, ends_at, self.now, self.version);
    }

    /// Ends the table of the second lane, though none follows yet: the next record that comes begins one.
    fn end_table(&mut self) {
        self.end_records();
        let Lane { writer, spoiled } = Lane::unused(self.table_size, self.summary_count_max);
        self.spoiled = spoiled;
        let ended = std::mem::replace(&mut self.writer, writer);
        self.jobs.push_back(Job::Seal(ended));
    }

    /// No table is ready: has the flusher and the reclaimer get one if they can.
    fn ask_for_table(&mut self) -> Blocked {
        if !self.exhausted {
            return Blocked::Wait;
        }
        // As the reclaimer sees it: otherwise both would ask each other for ever.
        if !self.may_sweep(self.now) && self.free_for_writes().is_none() && self.next_victim(self.now).is_none() {
            return Blocked::NoSpace;
        }
        // Something has died since the reclaimer last looked, or time has passed.
        self.exhausted = false;
        self.request(Job::Prepare);
        Blocked::Wait
    }

    pub(super) fn begin_table(&mut self, slot: u32, stream: Stream) -> TableUse {
        self.memtable.forget(slot);
        self.failed.retain(|(table, _)| table.slot != slot);
        self.doubtful.retain(|table| table.slot != slot);
        self.counters.tables_begun += 1;
        let table = self.catalog.begin(slot, self.now, self.version);
        if let Some(begun) = self.catalog.get_mut(slot) {
            begun.stream = stream as u8;
        }
        table
    }

    /// Appends a record for which [`Self::make_room`] has just made room, and returns where it lies and its version.
    pub(super) fn append(&mut self, draft: Draft<'_>) -> (Pointer, u64) {
        self.version += 1;
        self.write_times.borrow_mut().note(self.version, self.now);
        let offset = self.memtable.append(draft.size(), draft.header(self.version), draft.key, draft.value);
        let summary = draft.summary(self.version, offset);
        self.writer.note(&summary);
        self.catalog.add_written(self.writer.table.slot, summary.class.size() as u64);
        self.counters.records_written += 1;
        self.groups.note_written(draft.kind, &mut self.counters);
        (Pointer { slot: self.writer.table.slot, offset }, self.version)
    }

    /// Appends a record that keeps older versions of its key, or of all, dead. The newest of them is at `place`, if that is
    /// known.
    pub(super) fn append_guard(&mut self, draft: Draft<'_>, place: Option<Pointer>) {
        let TableUse { slot, sequence } = self.writer.table;
        let until = match place {
            Some(place) => self.catalog.reach(place.slot),
            None => self.catalog.next_sequence() - 1,
        };
        let distance = Distance::to(sequence, until);
        self.append(Draft { client_flags: distance.to_flags(), ..draft });
        let size = SizeClass::of(draft.size()).size() as u64;
        self.catalog.add_guard(slot, distance.until(sequence), size);
    }

    /// Overwrites the value at `entry` where it is, if it is in the active block and the new one fits. Returns the
    /// version, and the size class that the record has now.
    pub(super) fn overwrite(&mut self, entry: Entry, draft: Draft<'_>) -> Option<(u64, SizeClass)> {
        let lane = self.lane_of(entry.pointer.slot)?;
        self.in_lane(lane, |state| state.overwrite_here(entry, draft))
    }

    fn overwrite_here(&mut self, entry: Entry, draft: Draft<'_>) -> Option<(u64, SizeClass)> {
        let version = self.version + 1;
        if !self.memtable.overwrite(entry.pointer, draft.header(version), draft.key, draft.value) {
            return None;
        }
        self.version = version;
        self.write_times.borrow_mut().note(version, self.now);
        let (index, old) = self.writer.summaries.find(entry.pointer.offset).expect("noted when it was appended");
        let summary = Draft { older: old.distance, ..draft }.summary(version, entry.pointer.offset);
        self.writer.summaries.replace(index, &summary);
        self.counters.records_overwritten_in_memory += 1;
        self.groups.note_written(draft.kind, &mut self.counters);
        Some((version, summary.class))
    }

    /// Changes the expiry of the record at `entry` where it is, if it is in the active block, and no piece of a checkpoint may
    /// have its old one.
    pub(super) fn overwrite_expiry(&mut self, entry: Entry, expiry: Seconds) -> bool {
        let Some(lane) = self.lane_of(entry.pointer.slot) else { return false };
        self.in_lane(lane, |state| state.overwrite_expiry_here(entry, expiry))
    }

    fn overwrite_expiry_here(&mut self, entry: Entry, expiry: Seconds) -> bool {
        let Some((index, summary)) = self.writer.summaries.find(entry.pointer.offset) else { return false };
        if self.checkpoint.may_know(summary.version) || !self.memtable.overwrite_expiry(entry.pointer, expiry) {
            return false;
        }
        if !has(Mutant::ExpiryNotInFooter) {
            self.writer.summaries.replace(index, &Summary { expiry, ..summary });
        }
        self.groups.note_written(summary.kind, &mut self.counters);
        true
    }

    /// Points `digest` at a record that is about to be written, or has just been.
    pub(super) fn point(&mut self, digest: &Digest, entry: Entry) -> Result<(), Full> {
        if let Some(old) = self.index.upsert(digest, entry)? {
            self.catalog.remove_live(old.pointer.slot, old.class);
        }
        self.catalog.add_live(entry.pointer.slot, entry.class);
        Ok(())
    }

    /// Where [`Self::append`] will put a record of `size` bytes.
    pub(super) fn next_pointer(&self, size: usize) -> Pointer {
        let offset = self.memtable.next_offset(size).expect("make_room has made room");
        Pointer { slot: self.writer.table.slot, offset }
    }

    /// Puts `job` in the queue unless one like it is there.
    pub(super) fn request(&mut self, job: Job) {
        let same = |queued: &Job| std::mem::discriminant(queued) == std::mem::discriminant(&job);
        if !self.jobs.iter().any(same) {
            self.jobs.push_back(job);
        }
    }

    pub(super) fn gauges(&self, memory_limit: usize) -> StoreGauges {
        let cache = self.index.cache_gauges();
        StoreGauges {
            index_entries: self.index.len() as u64,
            index_bytes: self.index.memory_size() as u64,
            memtable_bytes: (self.memtable.memory_size()
                + self.writer.summaries.memory_size()
                + self.parked.writer.summaries.memory_size()
                + self.movers.iter().map(Mover::memory_size).sum::<usize>()) as u64,
            dirty_bytes: self.memtable.dirty_size() as u64,
            live_bytes: self.catalog.live_size(),
            tables: self.catalog.len() as u64,
            tables_free: self.catalog.count(TableState::Free) as u64,
            tables_max: self.catalog.table_count_max as u64,
            table_size: self.table_size as u64,
            memory_limit_bytes: memory_limit as u64,
            reads_in_flight: self.reads_in_flight,
            oldest_begun: self.catalog.oldest_begun(),
            deletions_not_noted: self.unburied.len() as u64 + self.counters.deletions_lost,
            cache_items: cache.records as u64,
            cache_bytes: cache.record_bytes as u64,
            cache_memory_bytes: cache.memory_bytes as u64,
            ..StoreGauges::default()
        }
    }
}
