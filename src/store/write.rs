//! Writing records: values, tombstones, touches, flushes.

use super::read::Fetched;
use super::state::{Blocked, Draft, Job, NO_DIGEST, State};
use super::{Changed, Meta, ReadFailed, Shared, Store, Stored, Update};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::catalog::TableState;
use crate::index::{Entry, Full};
use crate::io::Io;
use crate::limits::KEY_SIZE_MAX;
use crate::record::{Kind, Record, SizeClass, record_size};

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
    /// Stores `value` under `key` if `condition` holds. Never reads the disk. Waits when writing outruns the device.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn put(&self, key: &[u8], value: &[u8], meta: Meta, condition: Condition) -> Stored {
        let shared = &self.shared;
        if !shared.fits(key, value.len()) {
            return Stored::TooLarge;
        }
        let digest = Digest::of(&shared.salt, key);
        let stored = shared.when_room(|state, now| {
            let entry = state.live_entry(&digest, now);
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => entry.is_none(),
                Condition::Present => entry.is_some(),
            };
            if !holds {
                return Ok(Stored::NotStored);
            }
            state.write_value(&draft_value(&digest, key, value, meta), entry).map(Stored::Stored)
        });
        stored.await.unwrap_or(Stored::NoSpace)
    }

    /// Reads the record of `key` and decides what becomes of it: `change` gets the record, or `None`, and an empty
    /// buffer for the new value. It is called again when the record has changed while the disk was read or room was
    /// made, so that the outcome is as if nothing had come in between.
    ///
    /// # Errors
    /// [`ReadFailed`], when the device does not deliver the record.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn update<T>(
        &self,
        key: &[u8],
        mut change: impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, T),
    ) -> Result<(Option<Stored>, T), ReadFailed> {
        let shared = &self.shared;
        let digest = Digest::of(&shared.salt, key);
        let mut scratch = Vec::new();
        loop {
            let wait = shared.progress.wait();
            scratch.clear();
            let fetched = shared.fetch(&digest, key, |_, record| change(Some(record), &mut scratch)).await?;
            let (entry, (update, output)) = match fetched {
                Fetched::Absent => (None, change(None, &mut scratch)),
                Fetched::Found(entry, output) => (Some(entry), output),
            };
            let Update::Replace(meta) = update else { return Ok((None, output)) };
            if !shared.fits(key, scratch.len()) {
                return Ok((Some(Stored::TooLarge), output));
            }
            let attempt = shared.attempt(&mut |state, now| {
                // Nothing has come between since `fetch` looked, unless it had to read the disk: a record there cannot
                // be overwritten in place, so the same place is the same record.
                if state.live_entry(&digest, now) != entry {
                    return Ok(None);
                }
                state.write_value(&draft_value(&digest, key, &scratch, meta), entry).map(Some)
            });
            match attempt {
                Ok(Some(version)) => return Ok((Some(Stored::Stored(version)), output)),
                Ok(None) => {}
                Err(Blocked::NoSpace) => return Ok((Some(Stored::NoSpace), output)),
                Err(Blocked::Wait) => wait.await,
            }
        }
    }

    /// Deletes the record of `key`. Never reads the disk.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn delete(&self, key: &[u8]) -> Changed {
        let digest = Digest::of(&self.shared.salt, key);
        let changed = self.shared.when_room(|state, now| {
            if state.live_entry(&digest, now).is_none() {
                return Ok(Changed::NotFound);
            }
            state.make_room(record_size(key.len(), 0), 0)?;
            state.remove(&digest);
            state.append_guard(Draft::guard(Kind::Tombstone, &digest, key, 0));
            Ok(Changed::Done)
        });
        changed.await.unwrap_or(Changed::NoSpace)
    }

    /// Gives the record of `key` another expiry; its version stays. Never reads the disk.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`].
    pub async fn touch(&self, key: &[u8], expiry: Seconds) -> Changed {
        let digest = Digest::of(&self.shared.salt, key);
        let changed = self.shared.when_room(|state, now| {
            let Some(entry) = state.live_entry(&digest, now) else { return Ok(Changed::NotFound) };
            if !state.overwrite_expiry(entry, expiry) {
                state.make_room(record_size(key.len(), 0), state.table_size / TOMBSTONE_PARTS)?;
                state.append_guard(Draft::guard(Kind::Touch, &digest, key, expiry));
            }
            state.index.set_expiry(&digest, expiry);
            Ok(Changed::Done)
        });
        changed.await.unwrap_or(Changed::NoSpace)
    }

    /// Makes all records that are there now disappear: at once, or, with `due`, when that second comes.
    pub async fn flush_all(&self, due: Option<Seconds>) -> Changed {
        let flushed = self.shared.when_room(|state, now| state.flush(due.filter(|due| *due > now)));
        flushed.await.map_or(Changed::NoSpace, |()| Changed::Done)
    }
}

fn draft_value<'a>(digest: &'a Digest, key: &'a [u8], value: &'a [u8], meta: Meta) -> Draft<'a> {
    let Meta { client_flags, expiry, bits } = meta;
    Draft { kind: Kind::Value, digest, key, value, expiry, client_flags, bits }
}

impl<I: Io> Shared<I> {
    fn fits(&self, key: &[u8], value_size: usize) -> bool {
        assert!(key.len() <= KEY_SIZE_MAX, "keys are checked where they come in");
        key.len() + value_size <= self.options.item_size_max
    }

    /// Does `attempt`, again after each wait for room; `None` when there is none to be had.
    async fn when_room<T>(
        &self,
        mut attempt: impl FnMut(&mut State<I::File>, Seconds) -> Result<T, Blocked>,
    ) -> Option<T> {
        loop {
            let wait = self.progress.wait();
            match self.attempt(&mut attempt) {
                Ok(output) => return Some(output),
                Err(Blocked::NoSpace) => return None,
                Err(Blocked::Wait) => wait.await,
            }
        }
    }

    fn attempt<T>(
        &self,
        attempt: &mut impl FnMut(&mut State<I::File>, Seconds) -> Result<T, Blocked>,
    ) -> Result<T, Blocked> {
        let now = self.time();
        let mut state = self.state.borrow_mut();
        let is_due = state.flush_due.is_some_and(|due| due <= now);
        let result = if is_due { state.flush(None) } else { Ok(()) }.and_then(|()| attempt(&mut state, now));
        if matches!(result, Err(Blocked::NoSpace)) {
            state.counters.refused_writes += 1;
        }
        self.notify_work(&state);
        result
    }

    /// Now; a delayed flush that is due happens first.
    pub(super) fn time(&self) -> Seconds {
        let now = self.io.now();
        let mut state = self.state.borrow_mut();
        state.now = now;
        if state.flush_due.is_some_and(|due| due <= now) {
            // When there is no room at the moment, nobody finds the records any more; the flush stays due until it is
            // noted on disk, and nothing is written before that.
            if state.flush(None).is_err() {
                state.forget_all();
            }
            self.notify_work(&state);
        }
        now
    }
}

impl<F> State<F> {
    /// Writes a value whose key has `entry` now, and returns its version.
    fn write_value(&mut self, draft: &Draft<'_>, entry: Option<Entry>) -> Result<u64, Blocked> {
        let version = self.place_value(draft, entry)?;
        self.counters.values_stored += 1;
        self.counters.user_bytes_written += (draft.key.len() + draft.value.len()) as u64;
        Ok(version)
    }

    fn place_value(&mut self, draft: &Draft<'_>, entry: Option<Entry>) -> Result<u64, Blocked> {
        if let Some(entry) = entry
            && let Some((version, class)) = self.overwrite(entry, *draft)
        {
            let replaced = self.point(draft.digest, Entry { class, expiry: draft.expiry, ..entry });
            assert_eq!(replaced, Ok(()), "an entry that is there needs no room");
            return Ok(version);
        }
        let size = draft.size();
        self.make_room(size, self.table_size / TOMBSTONE_PARTS)?;
        let pointer = self.next_pointer(size);
        let entry = Entry { pointer, class: SizeClass::of(size), expiry: draft.expiry };
        if self.point(draft.digest, entry) == Err(Full) {
            return Err(self.index_is_full());
        }
        let (appended, version) = self.append(*draft);
        assert_eq!(appended, pointer, "nothing has come between");
        Ok(version)
    }

    /// Asks for a table to be emptied, so that the index has room; there must be one that may be.
    fn index_is_full(&mut self) -> Blocked {
        if !self.evict {
            return Blocked::NoSpace;
        }
        let waiting =
            self.catalog.iter().any(|(_, table)| matches!(table.state, TableState::Sealing | TableState::Freeing));
        if self.catalog.count(TableState::Sealed) > 0 {
            self.request(Job::Evict);
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
        if room == Err(Blocked::NoSpace) && due.is_none() {
            // A full store: what is dropped here is what makes room for the note that it was dropped.
            self.forget_all();
            room = self.make_room(size, 0);
        }
        room?;
        self.append_guard(Draft::guard(Kind::Flush, &NO_DIGEST, b"", due.unwrap_or(0)));
        if due.is_none() {
            self.forget_all();
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
