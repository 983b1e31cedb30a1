//! Read-modify-write: what becomes of a record is decided with the record at hand.

use super::obstacle::{DiskRead, Held, Obstacle};
use super::read::{Transferred, Whereabouts};
use super::state::{Blocked, State};
use super::write::draft_value;
use super::{ReadFailed, Shared, Store, Stored, Update};
use crate::digest::Digest;
use crate::index::Entry;
use crate::io::Io;
use crate::limits::KIB;
use crate::record::Record;

/// The scratch buffer is given back down to this size when a large value was made in it.
const KEPT_SCRATCH_SIZE_MAX: usize = 64 * KIB;

/// What `change` has decided.
struct Decision<T> {
    /// The entry of the record that it saw.
    entry: Option<Entry>,
    /// The record came from the disk.
    was_read: bool,
    update: Update,
    output: T,
}

impl<I: Io> Store<I> {
    /// Decides what becomes of the record of `key`, if it is at hand: `change` gets the record, or `None`, and an empty
    /// buffer for the new value. It must not use the store, and it is called again when the whole is called again,
    /// as the record may have changed until then; so the outcome is as if nothing had come in between. What the
    /// store has made of the decision comes back with what `change` said beside it; `None` if there was nothing to be done.
    ///
    /// A record that is on disk is at hand when `held` has brought it. What is held counts only if it is still the
    /// record of `key`.
    ///
    /// # Errors
    /// [`Obstacle`].
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`](crate::limits::KEY_SIZE_MAX).
    pub fn try_update<T>(
        &self,
        key: &[u8],
        held: Option<&Held<'_, I::File>>,
        mut change: impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, T),
    ) -> Result<(Option<Stored>, T), Obstacle<I::File>> {
        self.shared.update(&self.digest(key), key, held, &mut change)
    }

    /// As [`Self::try_update`], but reads the record and waits as [`Self::put`] does.
    ///
    /// # Errors
    /// [`ReadFailed`], when the device does not deliver the record.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`](crate::limits::KEY_SIZE_MAX).
    pub async fn update<T>(
        &self,
        key: &[u8],
        mut change: impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, T),
    ) -> Result<(Option<Stored>, T), ReadFailed> {
        let digest = self.digest(key);
        let mut brought: Option<(DiskRead<I::File>, Transferred)> = None;
        let result = loop {
            let held = brought.as_ref().map(|(read, buffer)| Held {
                read,
                bytes: buffer.as_ref().ok().map(|(buffer, count)| &buffer[..*count]),
            });
            self.shared.begin_trace();
            match self.shared.update(&digest, key, held.as_ref(), &mut change) {
                Ok(output) => break Ok(output),
                Err(Obstacle::Room) => self.shared.progress.wait().await,
                Err(Obstacle::Disk(read)) => {
                    let buffer = self.transfer(&read).await;
                    brought = Some((read, buffer));
                }
                Err(Obstacle::ReadFailed) => break Err(ReadFailed),
            }
        };
        if let Some((_, Ok((buffer, _)))) = brought {
            self.shared.keep_buffer(buffer);
        }
        let is_kept = self.shared.traced().await;
        result.map(|(stored, output)| match stored {
            Some(Stored::Stored(_)) if !is_kept => (Some(Stored::Failed), output),
            stored => (stored, output),
        })
    }
}

impl<I: Io> Shared<I> {
    fn update<T>(
        &self,
        digest: &Digest,
        key: &[u8],
        held: Option<&Held<'_, I::File>>,
        change: &mut impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, T),
    ) -> Result<(Option<Stored>, T), Obstacle<I::File>> {
        let now = self.io.now();
        let mut scratch = self.scratch.take();
        let mut state = self.state.borrow_mut();
        // A delayed flush that is due and cannot be noted on disk yet: nothing may be written, but there may be nothing
        // to write.
        let arrived = state.arrive(now);
        let decided = state.decide(digest, key, held, &mut |record| {
            scratch.clear();
            change(record, &mut scratch)
        });
        let result = decided.and_then(|decision| {
            let Decision { entry, was_read, update, output } = decision;
            let stored = match update {
                Update::Keep => None,
                Update::Touch(expiry) => {
                    let Some(entry) = entry else { return Ok((None, output)) };
                    let touched = arrived.and_then(|()| state.touch_entry(digest, key, entry, expiry));
                    Some(state.settle(touched)?)
                }
                Update::Delete => {
                    let Some(_) = entry else { return Ok((None, output)) };
                    let deleted = arrived.and_then(|()| state.delete_entry(digest, key));
                    Some(state.settle(deleted)?)
                }
                Update::Replace(_) if !self.fits(key, scratch.len()) => Some(Stored::TooLarge),
                Update::Replace(meta) => {
                    let draft = draft_value(digest, key, &scratch, meta);
                    let written = arrived.and_then(|()| state.write_value(&draft, entry));
                    Some(state.settle(written)?)
                }
            };
            state.counters.records_read += u64::from(was_read);
            state.counters.cache_misses += u64::from(was_read);
            Ok((stored, output))
        });
        self.notify_work(&state);
        scratch.clear();
        scratch.shrink_to(KEPT_SCRATCH_SIZE_MAX);
        self.scratch.set(scratch);
        result
    }
}

impl<F> State<F> {
    /// Calls `change` with the record of a key, or with `None` when there is none; nothing may change between that and
    /// the write that comes of it.
    fn decide<T>(
        &mut self,
        digest: &Digest,
        key: &[u8],
        held: Option<&Held<'_, F>>,
        change: &mut impl FnMut(Option<Record<'_>>) -> (Update, T),
    ) -> Result<Decision<T>, Obstacle<F>> {
        loop {
            let (entry, was_read, (update, output)) = match self.find(digest, key, self.now) {
                Whereabouts::Nowhere => (None, false, change(None)),
                Whereabouts::Memory(entry, record, _) => (Some(entry), false, change(record)),
                Whereabouts::Disk(read) => {
                    let Some(held) = held.filter(|held| held.read.place() == read.place()) else {
                        return Err(Obstacle::Disk(read));
                    };
                    let bytes = held.bytes.ok_or(Obstacle::ReadFailed)?;
                    match read.record(bytes, key) {
                        Ok(record) => (Some(read.entry), true, change(Some(record))),
                        Err(damage) => {
                            // It leaves the index, so that this ends.
                            self.note_damage(digest, &read, damage);
                            continue;
                        }
                    }
                }
            };
            return Ok(Decision { entry, was_read, update, output });
        }
    }

    /// What a write has come to, when it is not to be done again.
    fn settle(&mut self, written: Result<u64, Blocked>) -> Result<Stored, Obstacle<F>> {
        match written {
            Ok(version) => Ok(Stored::Stored(version)),
            Err(Blocked::Wait) => Err(Obstacle::Room),
            Err(Blocked::NoSpace) => {
                self.counters.refused_writes += 1;
                Ok(Stored::NoSpace)
            }
        }
    }
}
