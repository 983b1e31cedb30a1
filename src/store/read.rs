//! Reading a record: from memory, or with one device read.

use dma_alloc::Buffer;

use super::state::Lookup;
use super::{ReadFailed, Shared, Store, worth_logging};
use crate::digest::Digest;
use crate::disktable::reader::ReadPlan;
use crate::index::Entry;
use crate::io::{File, Io};
use crate::limits::{KEY_SIZE_MAX, PAGE_SIZE};
use crate::record::{self, Damage, Kind, Record};

/// Read buffers of up to this size are kept for the next read.
const KEPT_BUFFER_SIZE_MAX: usize = 4 * PAGE_SIZE;
/// Most read buffers that are kept.
const KEPT_BUFFER_COUNT_MAX: usize = 64;

/// What came of looking a key up.
pub(super) enum Fetched<T> {
    Absent,
    Found(Entry, T),
}

impl<I: Io> Store<I> {
    /// Calls `visit` with the record of `key`, where it lies; `None` when there is none. A record on disk costs
    /// exactly one device read, an absent, deleted or expired one none. A record that is damaged on disk is a miss,
    /// is counted, and leaves the index.
    ///
    /// # Errors
    /// [`ReadFailed`], when the device does not deliver.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn read<T>(&self, key: &[u8], visit: impl FnOnce(Record<'_>) -> T) -> Result<Option<T>, ReadFailed> {
        assert!(key.len() <= KEY_SIZE_MAX, "keys are checked where they come in");
        let digest = Digest::of(&self.shared.salt, key);
        let mut visit = Some(visit);
        let once = |_: Entry, record: Record<'_>| (visit.take().expect("called once"))(record);
        match self.shared.fetch(&digest, key, once).await? {
            Fetched::Absent => Ok(None),
            Fetched::Found(_, output) => Ok(Some(output)),
        }
    }
}

impl<I: Io> Shared<I> {
    /// Finds the record and calls `visit` with it, once, without an `await` between that and the return. The record
    /// is the one that the index points at at that moment, but the entry may have changed while the disk was read:
    /// then what was read is the state before the change, which is right for a read and must be checked by a
    /// read-modify-write.
    pub(super) async fn fetch<T>(
        &self,
        digest: &Digest,
        key: &[u8],
        mut visit: impl FnMut(Entry, Record<'_>) -> T,
    ) -> Result<Fetched<T>, ReadFailed> {
        loop {
            let now = self.time();
            let (entry, plan) = {
                let mut state = self.state.borrow_mut();
                match state.lookup(digest, now) {
                    Lookup::Absent => return Ok(Fetched::Absent),
                    Lookup::Disk(entry, plan) => (entry, plan),
                    Lookup::Memory(entry) => {
                        let bytes = state.memtable.find(entry.pointer).expect("lookup has just found it");
                        let record = record::decode_trusted(bytes).expect("blocks hold what append has written");
                        if record.key != key || record.header.kind != Kind::Value {
                            return Ok(Fetched::Absent);
                        }
                        return Ok(Fetched::Found(entry, visit(entry, with_expiry(record, entry))));
                    }
                }
            };
            let (buffer, count) = self.transfer(&plan).await?;
            let output = plan.record(&buffer[..count], key).map(|record| visit(entry, with_expiry(record, entry)));
            self.keep_buffer(buffer);
            match output {
                Ok(output) => {
                    self.state.borrow_mut().counters.records_read += 1;
                    return Ok(Fetched::Found(entry, output));
                }
                Err(damage) => self.note_damage(digest, entry, &plan, damage),
            }
        }
    }

    /// The one device read of a plan.
    async fn transfer(&self, plan: &ReadPlan<I::File>) -> Result<(Buffer, usize), ReadFailed> {
        // As much as the buffer takes.
        let reserved = plan.size.max(KEPT_BUFFER_SIZE_MAX);
        loop {
            let wait = self.read_done.wait();
            if self.reserve_read(reserved) {
                break;
            }
            wait.await;
        }
        let result = plan.file.read_at(plan.start, plan.size, self.take_buffer(plan.size)).await;
        let mut state = self.state.borrow_mut();
        state.read_size -= reserved;
        state.reads_in_flight -= 1;
        state.counters.disk_reads += 1;
        self.read_done.notify();
        match result {
            Ok((buffer, count)) => {
                state.counters.disk_read_bytes += count as u64;
                Ok((buffer, count))
            }
            Err(error) => {
                state.counters.disk_read_errors += 1;
                state.counters.records_unreadable += 1;
                if worth_logging(state.counters.disk_read_errors) {
                    let slot = plan.place.slot;
                    tracing::error!("reading {} bytes at {} of table {slot} failed: {error}", plan.size, plan.start);
                }
                Err(ReadFailed)
            }
        }
    }

    /// Takes `size` bytes of the read budget. A single read may exceed it, so that one always goes on.
    fn reserve_read(&self, size: usize) -> bool {
        let mut state = self.state.borrow_mut();
        if state.reads_in_flight > 0 && state.read_size + size > self.plan.reads {
            return false;
        }
        state.read_size += size;
        state.reads_in_flight += 1;
        true
    }

    /// What was read is not the record: because the table was used again while it was read (then the entry has
    /// changed and the caller looks again), or because the bytes on disk are damaged.
    fn note_damage(&self, digest: &Digest, entry: Entry, plan: &ReadPlan<I::File>, damage: Damage) {
        let mut state = self.state.borrow_mut();
        let still_there = state.index.get(digest).is_some_and(|now| now.pointer == entry.pointer);
        let same_use =
            state.catalog.usage(entry.pointer.slot).is_some_and(|(_, table)| table.sequence == plan.place.sequence);
        if !still_there || !same_use || state.memtable.find(entry.pointer).is_some() {
            return;
        }
        state.remove(digest);
        // What is left of it still says at every start that older versions are dead.
        state.catalog.add_guard(entry.pointer.slot);
        state.counters.damaged_records += 1;
        state.counters.disk_read_errors += 1;
        state.counters.records_unreadable += 1;
        let (slot, offset) = (entry.pointer.slot, entry.pointer.offset);
        if !worth_logging(state.counters.damaged_records) {
            return;
        }
        tracing::error!("the record at offset {offset} of table {slot} is damaged: {damage}. It is a miss from now on");
    }

    fn take_buffer(&self, size: usize) -> Buffer {
        let kept = if size <= KEPT_BUFFER_SIZE_MAX { self.read_buffers.borrow_mut().pop() } else { None };
        kept.unwrap_or_else(|| Buffer::zeroed(size.max(KEPT_BUFFER_SIZE_MAX)))
    }

    fn keep_buffer(&self, buffer: Buffer) {
        let mut kept = self.read_buffers.borrow_mut();
        if buffer.len() == KEPT_BUFFER_SIZE_MAX && kept.len() < KEPT_BUFFER_COUNT_MAX {
            kept.push(buffer);
        }
    }
}

/// The record with the expiry that it has now: a touch changes the index and not the record.
const fn with_expiry<'a>(mut record: Record<'a>, entry: Entry) -> Record<'a> {
    record.header.expiry = entry.expiry;
    record
}
