//! Writing records: values, tombstones, touches, flushes.

use super::obstacle::Obstacle;
use super::reclaim::written;
use super::state::{Blocked, Draft, NO_DIGEST, State};
use super::{Changed, Meta, Shared, Store, Stored};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::catalog::{Table, TableState};
use crate::disktable::format::Distance;
use crate::index::{Entry, Full, Pointer};
use crate::io::Io;
use crate::limits::KEY_SIZE_MAX;
use crate::mutants::{Mutant, has};
use crate::reclaim::victim::{Moment, Stream};
use crate::record::{Kind, SizeClass, record_size};

/// In the last table of a store that is full and may not evict, this part is kept for tombstones, so that deleting
/// goes on when storing does not.
const TOMBSTONE_PARTS: usize = 8;

/// What must hold for a value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// There is no record of the key.
    Absent,
    /// There is one.
    Present,
}

impl<I: Io> Store<I> {
    /// Stores `value` under `key` if `condition` holds. Never reads the disk.
    ///
    /// # Errors
    /// [`Obstacle::Room`], when writing outruns the device.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub fn try_put(
        &self,
        key: &[u8],
        value: &[u8],
        meta: Meta,
        condition: Condition,
    ) -> Result<Stored, Obstacle<I::File>> {
        self.shared.put(&self.digest(key), key, value, meta, condition).or_no_space(Stored::NoSpace)
    }

    /// As [`Self::try_put`], but waits for room and, with [`Durability::Sync`](super::Durability::Sync), for the device.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn put(&self, key: &[u8], value: &[u8], meta: Meta, condition: Condition) -> Stored {
        let digest = self.digest(key);
        let put = || self.shared.put(&digest, key, value, meta, condition);
        let stored = self.shared.when_room(put).await.unwrap_or(Stored::NoSpace);
        let is_lost = !self.shared.traced().await && matches!(stored, Stored::Stored(_));
        if is_lost { Stored::Failed } else { stored }
    }

    /// Deletes the record of `key`. Never reads the disk.
    ///
    /// # Errors
    /// [`Obstacle::Room`], when writing outruns the device.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub fn try_delete(&self, key: &[u8]) -> Result<Changed, Obstacle<I::File>> {
        self.shared.delete(&self.digest(key), key).or_no_space(Changed::NoSpace)
    }

    /// As [`Self::try_delete`], but waits as [`Self::put`] does.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn delete(&self, key: &[u8]) -> Changed {
        let digest = self.digest(key);
        self.shared.changed(|| self.shared.delete(&digest, key)).await
    }

    /// Gives the record of `key` another expiry; its version stays. Never reads the disk.
    ///
    /// # Errors
    /// [`Obstacle::Room`], when writing outruns the device.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub fn try_touch(&self, key: &[u8], expiry: Seconds) -> Result<Changed, Obstacle<I::File>> {
        self.shared.touch(&self.digest(key), key, expiry).or_no_space(Changed::NoSpace)
    }

    /// As [`Self::try_touch`], but waits as [`Self::put`] does.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn touch(&self, key: &[u8], expiry: Seconds) -> Changed {
        let digest = self.digest(key);
        self.shared.changed(|| self.shared.touch(&digest, key, expiry)).await
    }

    /// Makes all records that are there now disappear: at once, or, with `due`, when that second comes.
    ///
    /// # Errors
    /// [`Obstacle::Room`], when writing outruns the device.
    pub fn try_flush_all(&self, due: Option<Seconds>) -> Result<Changed, Obstacle<I::File>> {
        self.shared.flush_all(due).or_no_space(Changed::NoSpace)
    }

    /// As [`Self::try_flush_all`], but waits as [`Self::put`] does.
    pub async fn flush_all(&self, due: Option<Seconds>) -> Changed {
        self.shared.changed(|| self.shared.flush_all(due)).await
    }

    /// Grows whenever there may be room again for what got [`Obstacle::Room`].
    #[must_use]
    pub fn progress_count(&self) -> u64 {
        self.shared.progress.generation()
    }

    /// Ends when [`Self::progress_count`] grows.
    pub async fn progressed(&self) {
        self.shared.progress.wait().await;
    }
}

pub(super) fn draft_value<'a>(digest: &'a Digest, key: &'a [u8], value: &'a [u8], meta: Meta) -> Draft<'a> {
    let Meta { client_flags, expiry, bits, own_cas } = meta;
    Draft { kind: Kind::Value, digest, key, value, expiry, client_flags, bits, own_cas, older: Distance::NONE }
}

/// What a write that may be blocked is to its caller.
trait OrNoSpace<T> {
    /// That there is no space is an answer, `no_space`; that there will be some is an obstacle.
    fn or_no_space<F>(self, no_space: T) -> Result<T, Obstacle<F>>;
}

impl<T> OrNoSpace<T> for Result<T, Blocked> {
    fn or_no_space<F>(self, no_space: T) -> Result<T, Obstacle<F>> {
        match self {
            Ok(output) => Ok(output),
            Err(Blocked::NoSpace) => Ok(no_space),
            Err(Blocked::Wait) => Err(Obstacle::Room),
        }
    }
}

impl<I: Io> Shared<I> {
    pub(super) fn fits(&self, key: &[u8], value_size: usize) -> bool {
        assert!(key.len() <= KEY_SIZE_MAX, "keys are checked where they come in");
        key.len() + value_size <= self.options.item_size_max
    }

    fn put(
        &self,
        digest: &Digest,
        key: &[u8],
        value: &[u8],
        meta: Meta,
        condition: Condition,
    ) -> Result<Stored, Blocked> {
        if !self.fits(key, value.len()) {
            return Ok(Stored::TooLarge);
        }
        self.attempt(|state| {
            let entry = state.live_entry(digest, state.now);
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => entry.is_none(),
                Condition::Present => entry.is_some(),
            };
            if !holds {
                return Ok(Stored::NotStored);
            }
            state.write_value(&draft_value(digest, key, value, meta), entry).map(Stored::Stored)
        })
    }

    fn delete(&self, digest: &Digest, key: &[u8]) -> Result<Changed, Blocked> {
        self.attempt(|state| {
            if state.live_entry(digest, state.now).is_none() {
                return Ok(Changed::NotFound);
            }
            state.delete_entry(digest, key).map(|_| Changed::Done)
        })
    }

    fn touch(&self, digest: &Digest, key: &[u8], expiry: Seconds) -> Result<Changed, Blocked> {
        self.attempt(|state| {
            let Some(entry) = state.live_entry(digest, state.now) else { return Ok(Changed::NotFound) };
            state.touch_entry(digest, key, entry, expiry).map(|_| Changed::Done)
        })
    }

    fn flush_all(&self, due: Option<Seconds>) -> Result<Changed, Blocked> {
        self.attempt(|state| state.flush(due.filter(|due| *due > state.now)).map(|()| Changed::Done))
    }

    /// Does `attempt` when there is room, and waits until it cannot be lost any more if it must not be.
    async fn changed(&self, attempt: impl Fn() -> Result<Changed, Blocked>) -> Changed {
        let changed = self.when_room(attempt).await.unwrap_or(Changed::NoSpace);
        let is_lost = !self.traced().await && changed == Changed::Done;
        if is_lost { Changed::Failed } else { changed }
    }

    /// Does `attempt`, again after each wait for room; `None` when there is none to be had.
    async fn when_room<T>(&self, attempt: impl Fn() -> Result<T, Blocked>) -> Option<T> {
        loop {
            self.begin_trace();
            match attempt() {
                Ok(output) => return Some(output),
                Err(Blocked::NoSpace) => return None,
                // Nothing can have come between the attempt and this.
                Err(Blocked::Wait) => self.progress.wait().await,
            }
        }
    }

    /// Does `attempt` at the present second. All that it may do before it says [`Blocked::Wait`] is make room.
    fn attempt<T>(&self, attempt: impl FnOnce(&mut State<I::File>) -> Result<T, Blocked>) -> Result<T, Blocked> {
        let now = self.io.now();
        let mut state = self.state.borrow_mut();
        let result = state.arrive(now).and_then(|()| attempt(&mut state));
        if matches!(result, Err(Blocked::NoSpace)) {
            state.counters.refused_writes += 1;
        }
        self.notify_work(&state);
        result
    }
}

impl<F> State<F> {
    /// Whether a delayed flush has to happen at `now`.
    pub(super) fn is_flush_due(&self, now: Seconds) -> bool {
        self.flush_due.is_some_and(|due| due <= now)
    }

    /// It is `now`: a delayed flush that is due happens first. When there is no room for its note at the moment, nobody
    /// finds the records any more; the flush stays due until it is noted on disk, and nothing may be written before
    /// that.
    pub(super) fn arrive(&mut self, now: Seconds) -> Result<(), Blocked> {
        self.now = now;
        if !self.is_flush_due(now) {
            return Ok(());
        }
        let flushed = self.flush(None);
        if flushed.is_err() {
            self.forget_all();
        }
        flushed
    }

    /// Drops a record and notes that on disk. Returns the version.
    pub(super) fn delete_entry(&mut self, digest: &Digest, key: &[u8]) -> Result<u64, Blocked> {
        self.make_room(record_size(key.len(), 0), 0)?;
        let place = self.remove(digest).map(|entry| entry.pointer);
        self.append_guard(Draft::guard(Kind::Tombstone, digest, key, 0), place);
        Ok(self.version)
    }

    /// Gives the record of `entry` another expiry, and returns the version.
    pub(super) fn touch_entry(
        &mut self,
        digest: &Digest,
        key: &[u8],
        entry: Entry,
        expiry: Seconds,
    ) -> Result<u64, Blocked> {
        if !self.overwrite_expiry(entry, expiry) {
            self.make_room(record_size(key.len(), 0), self.table_size / TOMBSTONE_PARTS)?;
            self.append_guard(Draft::guard(Kind::Touch, digest, key, expiry), Some(entry.pointer));
            self.catalog.note_touched(entry.pointer.slot);
        }
        self.index.set_expiry(digest, expiry);
        self.catalog.add_expiry(entry.pointer.slot, expiry);
        Ok(self.version)
    }

    /// Writes a value whose key has `entry` now, and returns its version.
    pub(super) fn write_value(&mut self, draft: &Draft<'_>, entry: Option<Entry>) -> Result<u64, Blocked> {
        let version = self.place_value(draft, entry)?;
        self.counters.values_stored += 1;
        self.counters.user_bytes_written += (draft.key.len() + draft.value.len()) as u64;
        Ok(version)
    }

    fn place_value(&mut self, draft: &Draft<'_>, entry: Option<Entry>) -> Result<u64, Blocked> {
        if let Some(entry) = entry
            && let Some((version, class)) = self.overwrite(entry, *draft)
        {
            self.catalog.add_expiry(entry.pointer.slot, draft.expiry);
            let replaced = self.point(draft.digest, Entry::new(entry.pointer, class, draft.expiry));
            assert_eq!(replaced, Ok(()), "an entry that is there needs no room");
            return Ok(version);
        }
        let lane = self.lane_for(draft, entry);
        self.in_lane(lane, |state| state.append_value(draft, entry))
    }

    /// The lane of a new value: by how long it will probably live.
    fn lane_for(&self, draft: &Draft<'_>, entry: Option<Entry>) -> Stream {
        // A commit writes one block. In a store of few tables, each that is open is a good part of it.
        if !self.separation.is_fine() || self.groups.is_traced() {
            return Stream::NewShort;
        }
        let now = Moment { version: self.version, second: self.now };
        let overwritten = entry.and_then(|entry| self.catalog.get(entry.pointer.slot)).map(|table| {
            let is_open = table.state == TableState::Writing;
            let written = written(table);
            (Stream::of_index(table.stream), if is_open { written.middle(now) } else { written })
        });
        let ttl = (draft.expiry > 0).then(|| draft.expiry.saturating_sub(self.now));
        self.separation.of_write(overwritten, ttl, now)
    }

    fn append_value(&mut self, draft: &Draft<'_>, entry: Option<Entry>) -> Result<u64, Blocked> {
        let size = draft.size();
        self.make_room(size, self.table_size / TOMBSTONE_PARTS)?;
        let pointer = self.next_pointer(size);
        let older = self.older(entry.map(|entry| entry.pointer));
        let entry = Entry::new(pointer, SizeClass::of(size), draft.expiry);
        if self.point(draft.digest, entry) == Err(Full) {
            return Err(self.index_is_full());
        }
        let (appended, version) = self.append(Draft { older, ..*draft });
        self.catalog.add_older(pointer.slot, older.until(self.writer.table.sequence));
        self.catalog.add_expiry(pointer.slot, draft.expiry);
        assert_eq!(appended, pointer, "nothing has come between");
        Ok(version)
    }

    /// Where older words may be about the key of a value that replaces what lies at `place`.
    fn older(&self, place: Option<Pointer>) -> Distance {
        let place = place.filter(|_| !has(Mutant::OlderForgotten));
        place.map_or(Distance::NONE, |place| Distance::to(self.writer.table.sequence, self.catalog.reach(place.slot)))
    }

    /// Asks for a table to be emptied, so that the index has room; there must be one that may be.
    fn index_is_full(&mut self) -> Blocked {
        let waiting =
            self.catalog.iter().any(|(_, table)| matches!(table.state, TableState::Sealing | TableState::Freeing));
        let may_go = |table: &Table<F>| table.state == TableState::Sealed && !table.is_kept(self.now);
        let is_worth_asking = if self.is_held_up_by_doubt() {
            self.first_doubtful(self.now).is_some()
        } else if self.evict {
            self.catalog.iter().any(|(_, table)| may_go(table))
        } else {
            // Nothing may be evicted, but what has expired may leave.
            self.may_sweep(self.now)
        };
        if is_worth_asking {
            self.reclaimer.is_index_full = true;
            self.ask_reclaimer();
        } else if !self.evict || (!waiting && self.catalog.count(TableState::Sealed) > 0) || self.is_held_up_by_doubt()
        {
            return Blocked::NoSpace;
        } else if !waiting {
            // Everything is in the table that is being written: it becomes the one to be emptied.
            if let Err(blocked) = self.roll_table() {
                return blocked;
            }
        }
        Blocked::Wait
    }

    /// Appends a flush record and, unless it is for later, drops everything.
    fn flush(&mut self, due: Option<Seconds>) -> Result<(), Blocked> {
        let size = record_size(0, 0);
        let mut room = self.make_room(size, 0);
        if room == Err(Blocked::NoSpace) && due.is_none() && !self.closing {
            // A full store: what is dropped here is what makes room for the note that it was dropped.
            self.forget_all();
            // A table that is emptied before there is a note must not leave older words about its keys behind.
            self.catalog.note_flushed(false);
            room = self.make_room(size, 0);
        }
        room?;
        self.append_guard(Draft::guard(Kind::Flush, &NO_DIGEST, b"", due.unwrap_or(0)), None);
        if due.is_none() {
            self.forget_all();
            self.catalog.note_flushed(true);
        }
        self.flush_due = due;
        Ok(())
    }

    fn forget_all(&mut self) {
        if !self.index.is_empty() {
            self.index.clear();
            self.catalog.clear_live();
        }
    }
}
