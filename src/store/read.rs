//! Reading a record: from memory, or with one device read.

use std::io::Error;

use dma_alloc::Buffer;

use super::obstacle::{DiskRead, Sought, as_indexed};
use super::state::State;
use super::{ReadFailed, Shared, Store, worth_logging};
use crate::cache::{CachedIndex, CachedRecord, Found};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::index::Entry;
use crate::io::{File, Io};
use crate::limits::PAGE_SIZE;
use crate::record::{self, Kind, Record};

/// Read buffers of up to this size are kept for the next read.
const KEPT_BUFFER_SIZE_MAX: usize = 4 * PAGE_SIZE;
/// Most read buffers that are kept.
const KEPT_BUFFER_COUNT_MAX: usize = 64;

/// What a device read brought: the buffer, and how many bytes of it were read.
pub(super) type Transferred = Result<(Buffer, usize), ReadFailed>;

impl<I: Io> Store<I> {
    /// Calls `visit` with the record of `key`, where it lies, if that is in memory; otherwise says what is to be read.
    /// Never waits: an absent, deleted or expired record costs no read. `visit` must not use the store.
    pub fn seek<T>(&self, digest: &Digest, key: &[u8], visit: impl FnOnce(Record<'_>) -> T) -> Sought<T, I::File> {
        self.seek_cached(digest, key, |record, _| visit(record))
    }

    /// As [`Self::seek`]; `visit` also gets the place of the record in the cache if that is where it is, so that it can be
    /// sent from there.
    #[inline]
    pub fn seek_cached<T>(
        &self,
        digest: &Digest,
        key: &[u8],
        visit: impl FnOnce(Record<'_>, Option<CachedRecord<'_>>) -> T,
    ) -> Sought<T, I::File> {
        let shared = &*self.shared;
        let now = shared.io.now();
        let mut state = shared.state.borrow_mut();
        if state.is_flush_due(now) {
            // Whether it can be noted on disk at this moment makes no difference to who reads.
            let _ = state.arrive(now);
            shared.notify_work(&state);
        }
        match state.find(digest, key, now) {
            Whereabouts::Nowhere => Sought::Absent,
            Whereabouts::Memory(_, None, _) => Sought::Absent,
            Whereabouts::Memory(_, Some(record), cached) => Sought::Found(visit(record, cached)),
            Whereabouts::Disk(read) => {
                state.counters.cache_misses += 1;
                if read.was_fetched() && CachedIndex::is_to_note(read.entry) {
                    // Who fetches it for the first time says so.
                    state.index.note_fetched(digest);
                }
                Sought::Disk(DiskRead { begun: shared.io.monotonic(), ..read })
            }
        }
    }

    /// The record in what was read, after its checksum and its key have been verified. `None`: what was read is not the
    /// record, because its table was used again in the meantime, or because it is damaged, which is counted, and then
    /// it has left the index. In both cases another [`Self::seek`] knows more.
    ///
    /// The entry of the key may have changed while the disk was read: what was read is the state before the change.
    #[must_use]
    pub fn examine<'b>(
        &self,
        digest: &Digest,
        key: &[u8],
        read: &DiskRead<I::File>,
        bytes: &'b [u8],
    ) -> Option<Record<'b>> {
        let result = read.record(bytes, key);
        let mut state = self.shared.state.borrow_mut();
        match result {
            Ok(record) => {
                state.counters.records_read += 1;
                let (place, slot) = (read.place(), read.place().slot);
                // If its table was used again meanwhile, the key may have been written to the very same place.
                if state.catalog.get(slot).is_some_and(|table| table.sequence == place.sequence) {
                    let start = place.offset as usize % PAGE_SIZE;
                    state.index.insert(digest, read.entry, &bytes[start..start + record.size()]);
                }
                Some(record)
            }
            Err(damage) => {
                state.note_damage(digest, read, damage);
                None
            }
        }
    }

    /// Notes that a client has fetched the record that a read said was not fetched before.
    pub fn note_fetched(&self, digest: &Digest) {
        self.shared.state.borrow_mut().index.note_fetched(digest);
    }

    /// Counts a device read as under way.
    pub fn read_begins(&self) {
        self.shared.state.borrow_mut().reads_in_flight += 1;
    }

    /// Counts a device read that [`Self::read_begins`] has counted, with the number of bytes that it brought, and tells
    /// the log of failures.
    pub fn read_ended(&self, read: &DiskRead<I::File>, result: Result<usize, &Error>) {
        let now = self.shared.io.monotonic();
        let mut state = self.shared.state.borrow_mut();
        state.reads_in_flight -= 1;
        if !read.begun.is_zero() {
            state.last_read = now;
            state.throttle.note_read(now.saturating_sub(read.begun), now);
        }
        state.counters.disk_reads += 1;
        match result {
            Ok(count) => state.counters.disk_read_bytes += count as u64,
            Err(error) => {
                state.counters.disk_read_errors += 1;
                state.counters.records_unreadable += 1;
                if worth_logging(state.counters.disk_read_errors) {
                    let (size, start, slot) = (read.size(), read.start(), read.place().slot);
                    tracing::error!("reading {size} bytes at {start} of table {slot} failed: {error}");
                }
            }
        }
    }

    /// Calls `visit` with the record of `key`, where it lies; `None` when there is none. A record on disk costs
    /// exactly one device read, an absent, deleted or expired one none. A record that is damaged on disk is a miss,
    /// is counted, and leaves the index. `visit` must not use the store.
    ///
    /// # Errors
    /// [`ReadFailed`], when the device does not deliver.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`](crate::limits::KEY_SIZE_MAX).
    pub async fn read<T>(&self, key: &[u8], visit: impl FnOnce(Record<'_>) -> T) -> Result<Option<T>, ReadFailed> {
        let digest = self.digest(key);
        let mut visit = Some(visit);
        loop {
            let once = |record: Record<'_>| (visit.take().expect("called once"))(record);
            self.shared.begin_trace();
            let sought = self.seek(&digest, key, once);
            // A value that may still be lost is not shown, and neither is a deletion.
            let _ = self.shared.traced().await;
            let read = match sought {
                Sought::Absent => return Ok(None),
                Sought::Found(output) => {
                    self.note_fetched(&digest);
                    return Ok(Some(output));
                }
                Sought::Disk(read) => read,
            };
            let (buffer, count) = self.transfer(&read).await?;
            let once = |record: Record<'_>| (visit.take().expect("called once"))(record);
            let output = self.examine(&digest, key, &read, &buffer[..count]).map(once);
            self.shared.keep_buffer(buffer);
            if output.is_some() {
                self.note_fetched(&digest);
                return Ok(output);
            }
        }
    }

    /// The device read of a record.
    pub(super) async fn transfer(&self, read: &DiskRead<I::File>) -> Transferred {
        let shared = &*self.shared;
        // As much as the buffer takes.
        let reserved = read.size().max(KEPT_BUFFER_SIZE_MAX);
        while !shared.reserve_read(reserved) {
            shared.read_done.wait().await;
        }
        self.read_begins();
        let result = read.file().read_at(read.start(), read.size(), shared.take_buffer(read.size())).await;
        shared.state.borrow_mut().read_size -= reserved;
        shared.read_done.notify();
        self.read_ended(read, result.as_ref().map(|(_, count)| *count));
        result.map_err(|_| ReadFailed)
    }
}

impl<I: Io> Shared<I> {
    /// Takes `size` bytes of the read budget. A single read may exceed it, so that one always goes on.
    fn reserve_read(&self, size: usize) -> bool {
        let mut state = self.state.borrow_mut();
        if state.read_size > 0 && state.read_size + size > self.plan.reads {
            return false;
        }
        state.read_size += size;
        true
    }

    fn take_buffer(&self, size: usize) -> Buffer {
        let kept = if size <= KEPT_BUFFER_SIZE_MAX { self.read_buffers.borrow_mut().pop() } else { None };
        kept.unwrap_or_else(|| Buffer::zeroed(size.max(KEPT_BUFFER_SIZE_MAX)))
    }

    pub(super) fn keep_buffer(&self, buffer: Buffer) {
        let mut kept = self.read_buffers.borrow_mut();
        if buffer.len() == KEPT_BUFFER_SIZE_MAX && kept.len() < KEPT_BUFFER_COUNT_MAX {
            kept.push(buffer);
        }
    }
}

/// Where a key's record is to be had.
pub(super) enum Whereabouts<'a, F> {
    Nowhere,
    /// In memory; `None` when what is there is another key's, whose digest is the same. With its place in the cache, if that
    /// is where it is.
    Memory(Entry, Option<Record<'a>>, Option<CachedRecord<'a>>),
    Disk(DiskRead<F>),
}

impl<F> State<F> {
    /// Finds the record of a key. An expired one leaves the index here.
    pub(super) fn find(&mut self, digest: &Digest, key: &[u8], now: Seconds) -> Whereabouts<'_, F> {
        let Some(Found { entry, cell }) = self.live(digest, now) else { return Whereabouts::Nowhere };
        let (bytes, cached) = match cell {
            Some(cell) => {
                let cached = self.index.hit(cell);
                (cached.bytes(), Some(cached))
            }
            None => match self.memtable.find(entry.pointer) {
                Some(bytes) => (bytes, None),
                None => return Whereabouts::Disk(self.disk_read(entry)),
            },
        };
        let record = record::decode_trusted(bytes).expect("blocks and the cache hold whole records");
        let is_its_own = record.key == key && record.header.kind == Kind::Value;
        Whereabouts::Memory(entry, is_its_own.then(|| as_indexed(record, entry)), cached)
    }
}
