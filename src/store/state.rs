//! Everything that a store knows, and the changes that happen at once, without waiting.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::obstacle::DiskRead;
use super::times::WriteTimes;
use super::worth_logging;
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::Summary;
use crate::disktable::reader::ReadPlan;
use crate::disktable::writer::TableWriter;
use crate::index::{Entry, Full, Index, Pointer};
use crate::memtable::{Block, Memtable, TableUse};
use crate::reclaim::{choose_victim, drop_expired};
use crate::record::{Damage, Header, Kind, SizeClass, granules_up, record_size};
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
    /// Have a table ready for when the one being written is full.
    Prepare,
    /// The index is full: empty a table.
    Evict,
}

/// Why something cannot be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The flusher will make room.
    Wait,
    /// There is no room, and none is going to be made.
    NoSpace,
}

#[derive(Debug)]
pub(super) struct State<F> {
    pub(super) index: Index,
    pub(super) memtable: Memtable,
    pub(super) catalog: Catalog<F>,
    pub(super) writer: TableWriter,
    /// A free table, header not written, for when the writer's is full.
    pub(super) ready: Option<u32>,
    /// Nothing more can be made ready: the disk is full and nothing may be evicted.
    pub(super) exhausted: bool,
    pub(super) jobs: VecDeque<Job>,
    /// The flusher has a job in hand.
    pub(super) busy: bool,
    pub(super) closing: bool,
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
    pub(super) version: u64,
    pub(super) flush_due: Option<Seconds>,
    /// Parts of tables whose write has failed; their records are left out of the footer.
    pub(super) failed: Vec<(TableUse, Range<u32>)>,
    pub(super) counters: StoreCounters,
    pub(super) table_size: usize,
    pub(super) summary_count_max: usize,
    pub(super) evict: bool,
    /// Bytes of read buffers that the store's own reads use.
    pub(super) read_size: usize,
    pub(super) reads_in_flight: u64,
    /// Shared with the store, which is asked while the rest is in use.
    pub(super) write_times: Rc<RefCell<WriteTimes>>,
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
}

/// A digest that no key has: of records without a key.
pub(super) const NO_DIGEST: Digest = Digest([0; 20]);

impl<'a> Draft<'a> {
    /// A record without a value.
    pub(super) fn guard(kind: Kind, digest: &'a Digest, key: &'a [u8], expiry: Seconds) -> Self {
        Self { kind, digest, key, value: b"", expiry, client_flags: 0, bits: 0, own_cas: None }
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
        Summary { digest: *self.digest, version, expiry, offset, kind, class: SizeClass::of(self.size()) }
    }
}

impl<F> State<F> {
    /// The entry of a record that is not expired. An expired one leaves the index here.
    pub(super) fn live_entry(&mut self, digest: &Digest, now: Seconds) -> Option<Entry> {
        let entry = self.index.get(digest)?;
        if !is_expired(entry.expiry, now) {
            return Some(entry);
        }
        self.remove(digest);
        // It stays on disk and keeps older versions of its key dead.
        self.catalog.add_guard(entry.pointer.slot);
        self.counters.expired += 1;
        None
    }

    /// How the record of `entry`, which is not in memory, is read.
    pub(super) fn disk_read(&self, entry: Entry) -> DiskRead<F> {
        let (file, table) = self.catalog.usage(entry.pointer.slot).expect("the index points into usable tables only");
        DiskRead { entry, plan: ReadPlan::new(file, table, entry, self.table_size) }
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
        self.catalog.add_guard(pointer.slot);
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
        // Whether another table follows may not be known yet.
        let reserve = if self.ready.is_none() && !self.evict { reserve } else { 0 };
        // At most: begin another block, repeat a flush there, which may take the table's last room; begin another table,
        // a block in it, repeat the flush there; and see that there is room.
        for _ in 0..6 {
            let in_active = self.memtable.next_offset(size);
            if self.spoiled || !self.writer.fits(in_active.unwrap_or_else(|| self.next_block_start()), size, reserve) {
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
        let Some(due) = self.flush_due.filter(|_| self.repeat_flush) else { return false };
        if self.memtable.next_offset(2 * granules_up(record_size(0, 0)) + size).is_none() {
            return false;
        }
        self.repeat_flush = false;
        self.append_guard(Draft::guard(Kind::Flush, &NO_DIGEST, b"", due));
        true
    }

    fn next_block_start(&self) -> u32 {
        // The active block, if there is one, is frozen first; it ends at a page.
        self.memtable.active_end().unwrap_or(self.writer.next_start)
    }

    /// Hands the active block to the flusher.
    pub(super) fn freeze(&mut self) {
        if let Some(block) = self.memtable.freeze() {
            self.writer.next_start = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
            self.jobs.push_back(Job::Write(block));
        }
    }

    /// Seals the table that is being written and begins the one that is ready.
    pub(super) fn roll_table(&mut self) -> Result<(), Blocked> {
        let Some(slot) = self.ready.take() else { return Err(self.ask_for_table()) };
        self.freeze();
        self.memtable.drop_empty_active();
        let table = self.begin_table(slot);
        let writer = TableWriter::new(table, self.table_size, self.summary_count_max);
        let full = std::mem::replace(&mut self.writer, writer);
        self.catalog.set_state(full.table.slot, TableState::Sealing);
        self.spoiled = false;
        self.repeat_flush = self.flush_due.is_some();
        self.jobs.push_back(Job::Seal(full));
        self.jobs.push_back(Job::Begin(table));
        self.jobs.push_back(Job::Prepare);
        Ok(())
    }

    /// No table is ready: has the flusher get one if it can.
    fn ask_for_table(&mut self) -> Blocked {
        if !self.exhausted {
            return Blocked::Wait;
        }
        let may_have_expired = !self.evict && self.sweep_after <= self.now;
        if !may_have_expired && choose_victim(&self.catalog, self.evict).is_none() {
            return Blocked::NoSpace;
        }
        // Something has died since the flusher last looked, or time has passed.
        self.exhausted = false;
        self.request(Job::Prepare);
        Blocked::Wait
    }

    pub(super) fn begin_table(&mut self, slot: u32) -> TableUse {
        self.memtable.forget(slot);
        self.failed.retain(|(table, _)| table.slot != slot);
        self.counters.tables_begun += 1;
        self.catalog.begin(slot, self.now)
    }

    /// Appends a record for which [`Self::make_room`] has just made room, and returns where it lies and its version.
    pub(super) fn append(&mut self, draft: Draft<'_>) -> (Pointer, u64) {
        self.version += 1;
        self.write_times.borrow_mut().note(self.version, self.now);
        let offset = self.memtable.append(draft.size(), draft.header(self.version), draft.key, draft.value);
        self.writer.note(&draft.summary(self.version, offset));
        self.counters.records_written += 1;
        (Pointer { slot: self.writer.table.slot, offset }, self.version)
    }

    /// Appends a record that keeps older versions of its key, or of all, dead.
    pub(super) fn append_guard(&mut self, draft: Draft<'_>) {
        self.append(draft);
        self.catalog.add_guard(self.writer.table.slot);
    }

    /// Overwrites the value at `entry` where it is, if it is in the active block and the new one fits. Returns the
    /// version, and the size class that the record has now.
    pub(super) fn overwrite(&mut self, entry: Entry, draft: Draft<'_>) -> Option<(u64, SizeClass)> {
        let version = self.version + 1;
        if !self.memtable.overwrite(entry.pointer, draft.header(version), draft.key, draft.value) {
            return None;
        }
        self.version = version;
        self.write_times.borrow_mut().note(version, self.now);
        let summary = draft.summary(version, entry.pointer.offset);
        let (index, _) = self.writer.summaries.find(entry.pointer.offset).expect("noted when it was appended");
        self.writer.summaries.replace(index, &summary);
        self.counters.records_overwritten_in_memory += 1;
        Some((version, summary.class))
    }

    /// Changes the expiry of the record at `entry` where it is, if it is in the active block.
    pub(super) fn overwrite_expiry(&mut self, entry: Entry, expiry: Seconds) -> bool {
        if !self.memtable.overwrite_expiry(entry.pointer, expiry) {
            return false;
        }
        let (index, summary) = self.writer.summaries.find(entry.pointer.offset).expect("noted when it was appended");
        self.writer.summaries.replace(index, &Summary { expiry, ..summary });
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

    /// Drops every expired record from the index. Walks the whole index.
    pub(super) fn sweep_expired(&mut self, now: Seconds) {
        self.counters.expired_swept += drop_expired(&mut self.index, &mut self.catalog, now);
    }

    /// Puts `job` in the queue unless one like it is there.
    pub(super) fn request(&mut self, job: Job) {
        let same = |queued: &Job| std::mem::discriminant(queued) == std::mem::discriminant(&job);
        if !self.jobs.iter().any(same) {
            self.jobs.push_back(job);
        }
    }

    pub(super) fn gauges(&self, memory_limit: usize) -> StoreGauges {
        StoreGauges {
            index_entries: self.index.len() as u64,
            index_bytes: self.index.memory_size() as u64,
            memtable_bytes: (self.memtable.memory_size() + self.writer.summaries.memory_size()) as u64,
            dirty_bytes: self.memtable.dirty_size() as u64,
            live_bytes: self.catalog.live_size(),
            tables: self.catalog.len() as u64,
            tables_free: self.catalog.count(TableState::Free) as u64,
            tables_max: self.catalog.table_count_max as u64,
            table_size: self.table_size as u64,
            memory_limit_bytes: memory_limit as u64,
            reads_in_flight: self.reads_in_flight,
            oldest_begun: self.catalog.oldest_begun(),
        }
    }
}
