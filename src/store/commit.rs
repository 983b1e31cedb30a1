//! Group commit: when what was written is on stable media, and what depends on it.
//!
//! All records that gather in one write block are a **group**: they reach the device together. Groups have numbers, in the
//! order in which they end. With [`Durability::Sync`] nobody is told of a write before its group has ended well, nor of
//! what a get has found in a group that has not ended. The asynchronous functions of [`Store`] see to that
//! themselves. Whoever calls the functions that never wait does it: [`Store::take_trace`] says which groups a request
//! depends on, [`Store::commit`] has them written, and [`Store::commit_outcome`] says what became of them.
//!
//! **Invariants:** groups end in the order of their numbers. A group that has failed is never written again: its records
//! leave the index, and nothing more goes to its table. So what lies in a table up to the first failure is whole.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::state::{Draft, Job, NO_DIGEST, State};
use super::{Shared, Store, worth_logging};
use crate::digest::Digest;
use crate::index::Entry;
use crate::io::{Io, SyncMethod};
use crate::limits::{BURIAL_PAUSE_MAX, FAILED_GROUPS_KEPT, UNBURIED_COUNT_MAX};
use crate::record::{Kind, record_size};
use crate::stats::StoreCounters;

/// When a write counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is in memory; it is on stable media after the flush interval at most.
    #[default]
    Memory,
    /// When it is on stable media.
    Sync,
}

impl Durability {
    /// As users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sync => "sync",
        }
    }
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is in memory, or on its way to the device.
    Pending,
    /// It is on stable media.
    Stable,
    /// The device has refused it: its values are gone. It is unknown which of them are on disk after all, but no start finds
    /// them once it is noted there that they are gone.
    Failed,
}

/// Which groups something depends on that has not ended. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The group that it has written to.
    pub written: u64,
    /// The last group whose records, or whose deletions, it has shown.
    pub shown: u64,
}

impl Trace {
    /// The group that must have ended before anybody is told of it.
    #[must_use]
    pub fn last(self) -> u64 {
        self.written.max(self.shown)
    }
}

/// Where the groups of a store stand.
#[derive(Debug)]
pub(super) struct Groups {
    /// Somebody may wait for them: what is shown and written is traced.
    is_traced: bool,
    /// The number of the group that records go to.
    current: u64,
    /// The number of the last one that has ended.
    ended: u64,
    /// Those that have failed, from old to new.
    failed: VecDeque<RangeInclusive<u64>>,
    /// The last group with a tombstone or a flush.
    removed: u64,
    /// The last group with a touch.
    touched: u64,
    trace: Trace,
}

impl Groups {
    pub(super) fn new(durability: Durability) -> Self {
        Self {
            is_traced: durability == Durability::Sync,
            current: 1,
            ended: 0,
            failed: VecDeque::new(),
            removed: 0,
            touched: 0,
            trace: Trace::default(),
        }
    }

    /// Whether somebody may wait for groups.
    pub(super) const fn is_traced(&self) -> bool {
        self.is_traced
    }

    /// The current group is frozen.
    pub(super) fn freeze(&mut self) {
        self.current += 1;
    }

    /// The oldest group has ended.
    pub(super) fn end(&mut self, is_written: bool) {
        self.ended += 1;
        debug_assert!(self.ended < self.current, "groups are frozen before they end");
        if is_written {
            return;
        }
        match self.failed.back_mut() {
            Some(last) if *last.end() + 1 == self.ended => *last = *last.start()..=self.ended,
            _ => self.failed.push_back(self.ended..=self.ended),
        }
        if self.failed.len() > FAILED_GROUPS_KEPT {
            self.failed.pop_front();
        }
    }

    /// A record of this kind was written to the current group, or changed in it.
    #[inline]
    pub(super) fn note_written(&mut self, kind: Kind, counters: &mut StoreCounters) {
        if !self.is_traced {
            return;
        }
        counters.commit_records += 1;
        self.trace.written = self.current;
        match kind {
            Kind::Tombstone | Kind::Flush => self.removed = self.current,
            Kind::Touch => self.touched = self.current,
            Kind::Value | Kind::Padding => {}
        }
    }

    fn outcome(&self, group: u64) -> CommitOutcome {
        if group > self.ended {
            CommitOutcome::Pending
        } else if self.failed.iter().any(|failed| failed.contains(&group)) {
            CommitOutcome::Failed
        } else {
            CommitOutcome::Stable
        }
    }
}

/// Something that could not be written and must be noted again: without that, the next start finds what was there before.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) kind: Kind,
    pub(super) digest: Digest,
    pub(super) key: Vec<u8>,
}

impl<I: Io> Store<I> {
    /// When a write counts as done.
    #[must_use]
    #[inline]
    pub fn durability(&self) -> Durability {
        self.shared.options.durability
    }

    /// How long a record may be in memory only, if nobody commits it.
    #[must_use]
    pub fn flush_interval(&self) -> Duration {
        self.shared.options.flush_interval
    }

    /// How the store's files are made stable.
    #[must_use]
    pub fn sync_method(&self) -> SyncMethod {
        match self.durability() {
            Durability::Memory => SyncMethod::Fdatasync,
            Durability::Sync => self.shared.io.sync_method(),
        }
    }

    /// Has everything written so far made stable, as soon as the device has ended what it is at. Returns the number of the
    /// last group that this concerns; `None` when everything has ended, and always with [`Durability::Memory`].
    pub fn commit(&self) -> Option<u64> {
        self.shared.commit()
    }

    /// What became of a group. Who waits for it looks again when [`Self::progress_count`] has grown.
    #[must_use]
    pub fn commit_outcome(&self, group: u64) -> CommitOutcome {
        self.shared.state.borrow().groups.outcome(group)
    }

    /// Whether any group has failed.
    #[must_use]
    pub fn has_failed_groups(&self) -> bool {
        !self.shared.state.borrow().groups.failed.is_empty()
    }

    /// The number of the last group that has ended.
    #[must_use]
    pub fn ended_group(&self) -> u64 {
        self.shared.state.borrow().groups.ended
    }

    /// What the calls since the last one of this have written and shown. Nothing with [`Durability::Memory`].
    pub fn take_trace(&self) -> Trace {
        self.shared.take_trace()
    }
}

impl<I: Io> Shared<I> {
    fn commit(&self) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        let Groups { is_traced, current, ended, .. } = state.groups;
        if !is_traced {
            return None;
        }
        let last = if state.memtable.has_active_records() { current } else { current - 1 };
        if last <= ended {
            return None;
        }
        // One that has not begun takes all that is there when it begins.
        if state.memtable.has_active_records() || state.jobs.iter().any(|job| matches!(job, Job::Write(_))) {
            state.request(Job::Commit);
            self.notify_work(&state);
        }
        Some(last)
    }

    fn take_trace(&self) -> Trace {
        if self.options.durability == Durability::Memory {
            return Trace::default();
        }
        std::mem::take(&mut self.state.borrow_mut().groups.trace)
    }

    /// Forgets what others have left in the trace.
    pub(super) fn begin_trace(&self) {
        let _: Trace = self.take_trace();
    }

    /// Returns when nothing of what was done since [`Self::begin_trace`] can be lost any more; false if what was written
    /// is lost already.
    pub(super) async fn traced(&self) -> bool {
        let trace = self.take_trace();
        if trace.last() == 0 {
            return true;
        }
        // None if it has just ended.
        let _ = self.commit();
        self.progress.until(|| self.state.borrow().groups.ended >= trace.last()).await;
        trace.written == 0 || self.state.borrow().groups.outcome(trace.written) == CommitOutcome::Stable
    }
}

impl<F> State<F> {
    /// Somebody is told of the record at `entry`, or that there is none.
    #[inline]
    pub(super) fn note_shown(&mut self, entry: Option<Entry>) {
        if self.groups.is_traced {
            self.trace_shown(entry);
        }
    }

    fn trace_shown(&mut self, entry: Option<Entry>) {
        let place = match entry {
            // A record that is not on its way to the device is on stable media.
            Some(entry) => self.memtable.blocks_since(entry.pointer).map_or(0, |count| self.groups.current - count),
            None => self.groups.removed,
        };
        // A touch may be why there still is a record, or why there is none.
        let group = place.max(self.groups.touched);
        if group > self.groups.ended {
            self.groups.trace.shown = self.groups.trace.shown.max(group);
        }
    }

    /// A block has reached the device, or has not: then `gone` is to be noted on disk. Once, that is tried at once; a device that
    /// goes on failing is asked less and less often, as each time costs a table.
    pub(super) fn block_ended(&mut self, is_written: bool, gone: Vec<Gone>) {
        self.groups.end(is_written);
        if is_written {
            self.burial_pause = 0;
            if !self.unburied.is_empty() {
                self.bury_the_rest();
                self.commit_burials();
            }
            return;
        }
        let is_first = self.burial_pause == 0;
        self.burial_pause = (2 * self.burial_pause).clamp(1, BURIAL_PAUSE_MAX);
        self.burial_wait = self.burial_pause;
        for gone in gone {
            if !is_first || !self.try_bury(&gone) {
                self.bury_later(gone);
            }
        }
        if is_first {
            self.commit_burials();
        }
    }

    /// Who is told that a write has failed may be shown at once what that has left: it should be so after a start, too.
    fn commit_burials(&mut self) {
        if self.groups.is_traced && !self.closing && self.memtable.has_active_records() {
            self.request(Job::Commit);
        }
    }

    fn bury_later(&mut self, gone: Gone) {
        if self.unburied.len() < UNBURIED_COUNT_MAX {
            self.unburied.push(gone);
        } else {
            self.counters.deletions_lost += 1;
        }
        let count = self.unburied.len() as u64 + self.counters.deletions_lost;
        if worth_logging(count) {
            tracing::error!(
                "older versions of {count} keys would come back at a start: that they are gone is not on disk"
            );
        }
    }

    /// Another flush interval has passed.
    pub(super) fn bury_if_due(&mut self) {
        self.burial_wait = self.burial_wait.saturating_sub(1);
        if self.burial_wait == 0 && !self.unburied.is_empty() {
            self.bury_the_rest();
        }
    }

    /// Notes what could not be noted yet, as far as there is room.
    fn bury_the_rest(&mut self) {
        for gone in std::mem::take(&mut self.unburied) {
            if !self.try_bury(&gone) {
                self.unburied.push(gone);
            }
        }
    }

    /// Says whether nothing is left to be done.
    fn try_bury(&mut self, gone: &Gone) -> bool {
        let Gone { kind, digest, key } = gone;
        let entry = self.index.get(digest);
        let draft = match (kind, entry) {
            // Written anew since then.
            (Kind::Value | Kind::Tombstone, Some(_)) | (Kind::Touch, None) => return true,
            (Kind::Value | Kind::Tombstone, None) => Draft::guard(Kind::Tombstone, digest, key, 0),
            (Kind::Touch, Some(entry)) => Draft::guard(Kind::Touch, digest, key, entry.expiry),
            (Kind::Flush, _) if self.index.is_empty() => Draft::guard(Kind::Flush, &NO_DIGEST, b"", 0),
            (Kind::Flush, _) => {
                // Noted now, it would drop what was written after it.
                self.counters.deletions_lost += 1;
                tracing::error!("a flush_all could not be written: what it dropped may come back at the next start");
                return true;
            }
            (Kind::Padding, _) => return true,
        };
        if self.make_room(record_size(draft.key.len(), 0), 0).is_err() {
            return false;
        }
        // Nobody has asked for it, so nobody waits for it.
        let trace = self.groups.trace;
        self.append_guard(draft, None);
        self.groups.trace = trace;
        true
    }
}
