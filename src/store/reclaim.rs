//! The reclaimer: one task that gets tables back.
//!
//! It begins when fewer tables are free than it takes to go on, as late as can be: the longer a table waits, the more of it is
//! dead. A table of which nothing is needed is emptied unread. Of another, what is live is copied first ([`super::mover`]),
//! and what keeps older versions dead that are still on disk. When the store is full of live records, the
//! coldest table is evicted, if that is allowed: what clients have read again and again is kept, the rest is dropped.
//!
//! One free table is kept for the copies, so that emptying a table never waits for one that is empty, and another for deletions
//! where nothing may be evicted.

use std::rc::Rc;
use std::time::Duration;

use super::crawl::Haste;
use super::mover::Stop;
use super::state::{Job, State};
use super::{Shared, Store};
use crate::clock::{Seconds, is_expired};
use crate::disktable::catalog::{Table, TableState};
use crate::disktable::format::{Identity, Summary};
use crate::index::{Entry, Pointer};
use crate::io::Io;
use crate::limits::{
    DELETION_RESERVE, MOVING_TABLE_COUNT_MIN, RECLAIM_PAUSE_DOUBLED_MAX, RECLAIM_PAUSE_SECONDS, RECLAIM_RESERVE,
};
use crate::memtable::TableUse;
use crate::mutants::{Mutant, has};
use crate::reclaim::empty_table;
use crate::reclaim::throttle::Pressure;
use crate::reclaim::victim::{self, Candidate, Moment, Stream};
use crate::record::Kind;

/// Of 32 parts of a table, how many may be live for it to be worth emptying by moving them; more are only moved where
/// nothing may be evicted.
const LIVE_PARTS_MAX: u64 = 27;
/// The same where nothing may be evicted: below that, writing would be refused.
const LIVE_PARTS_MAX_KEEPING: u64 = 31;
const PARTS: u64 = 32;
/// Of so many parts of a store, one at most may be taken by records that keep older versions dead.
const GUARD_PARTS: u64 = 16;
/// Of the room for copies, one part in so many may be lost to footers and pages that are not filled.
const COPY_PARTS: u64 = 16;
/// Without a read for so long, nobody is waited for.
const QUIET: Duration = Duration::from_millis(100);

/// What becomes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Nothing in it is needed any more.
    Dead,
    /// What is needed is copied.
    Move,
    /// Live records are dropped, but for those that are read again and again.
    Evict,
}

/// A table that is emptied.
pub(super) struct Victim<F> {
    pub(super) file: Rc<F>,
    pub(super) table: TableUse,
    pub(super) identity: Identity,
    pub(super) method: Method,
    /// The lowest sequence of another table that holds records: guards of what lies before that are not needed.
    pub(super) oldest: u64,
}

/// What the reclaimer is asked for.
#[derive(Debug, Default)]
pub(super) struct Reclaimer {
    /// It runs, and so does the flusher.
    pub(super) is_started: bool,
    /// A table is being emptied, or copies are sealed.
    pub(super) busy: bool,
    /// Room is wanted, or may be soon.
    pub(super) is_asked: bool,
    /// The index is full.
    pub(super) is_index_full: bool,
    /// The table of whose evicted records whoever listens was told last, maybe before an attempt that has failed.
    told: Option<TableUse>,
}

impl<I: Io> Store<I> {
    /// Starts the reclaimer.
    pub(super) fn start_reclaimer(&self) {
        self.shared.state.borrow_mut().reclaimer.is_started = true;
        let reclaimer = Rc::clone(&self.shared);
        self.shared.io.spawn(async move { reclaimer.reclaim_tables().await });
    }
}

impl<I: Io> Shared<I> {
    async fn reclaim_tables(&self) {
        loop {
            let asked = self.reclaim_asked.wait();
            let (is_closing, is_to_seal) = {
                let mut state = self.state.borrow_mut();
                state.reclaimer.busy = true;
                (state.closing, state.movers.iter().any(|mover| mover.is_to_seal))
            };
            if is_closing {
                break;
            }
            let did = if is_to_seal {
                let _ = self.seal_copies(false).await;
                true
            } else {
                self.reclaim_if_due().await
            };
            let is_asked = {
                let mut state = self.state.borrow_mut();
                state.reclaimer.busy = false;
                state.reclaimer.is_asked
            };
            self.progress.notify();
            if !did && !is_asked {
                asked.await;
            }
        }
        let _ = self.seal_copies(true).await;
        self.state.borrow_mut().reclaimer.busy = false;
        self.progress.notify();
    }

    /// Returns when the reclaimer has ended, after [`State::closing`] was set.
    pub(super) async fn reclaimer_ended(&self) {
        self.reclaim_asked.notify();
        let has_ended =
            |state: &State<I::File>| !state.reclaimer.busy && state.movers.iter().all(|mover| mover.writer.is_none());
        self.progress.until(|| has_ended(&self.state.borrow())).await;
    }

    /// Empties a table, if there is a reason to. Says whether it tried.
    pub(super) async fn reclaim_if_due(&self) -> bool {
        let (is_index_full, is_short, doubtful) = {
            let mut state = self.state.borrow_mut();
            state.reclaimer.is_asked = false;
            let is_index_full = state.reclaimer.is_index_full && !state.index.has_room();
            (is_index_full, state.is_short_of_tables(), state.first_doubtful(self.io.now()))
        };
        if !is_index_full && !is_short && doubtful.is_none() {
            self.state.borrow_mut().reclaimer.is_index_full = false;
            return false;
        }
        let chosen = if doubtful.is_some() { doubtful } else { self.choose(is_index_full).await };
        let Some((slot, method)) = self.note_chosen(chosen) else { return false };
        let emptied = self.reclaim(slot, method).await;
        let now = self.io.monotonic();
        self.state.borrow_mut().throttle.rest(now);
        let mut state = self.state.borrow_mut();
        if emptied.is_err() {
            state.pause_reclaim_of(slot, self.io.now());
        } else {
            state.reclaimer.is_index_full &= !state.index.has_room();
        }
        if state.ready.is_none() {
            state.request(Job::Prepare);
        }
        self.notify_work(&state);
        true
    }

    /// Whoever waits is told whether there is something to wait for.
    fn note_chosen(&self, chosen: Option<(u32, Method)>) -> Option<(u32, Method)> {
        let mut state = self.state.borrow_mut();
        state.exhausted = chosen.is_none() && state.ready.is_none();
        state.reclaimer.is_index_full &= chosen.is_some();
        chosen
    }

    /// The next table to be emptied, and how.
    async fn choose(&self, is_index_full: bool) -> Option<(u32, Method)> {
        let now = self.io.now();
        {
            let state = self.state.borrow();
            if state.is_held_up_by_doubt() {
                return None;
            }
            if is_index_full && state.evict {
                let first = state.first_doubled(now).map(|(slot, _)| slot);
                return first.or_else(|| state.coldest(now)).map(|slot| (slot, Method::Evict));
            }
            // A table that is emptied by moving what is in it gives the index no room.
            let victim = if is_index_full { None } else { state.next_victim(now) };
            if victim.is_some() || !state.may_sweep(now) {
                return victim;
            }
        }
        // Nothing may be evicted; what has expired may give its room away.
        let started = self.io.monotonic();
        self.crawl(Haste::Urgent).await;
        // A fiftieth of the time at most goes into this.
        let pause = self.io.monotonic().saturating_sub(started).as_secs_f64() * 50.0 + 1.0;
        let (now, mut state) = (self.io.now(), self.state.borrow_mut());
        state.sweep_after = now.saturating_add(pause as Seconds);
        if is_index_full { None } else { state.next_victim(now) }
    }

    /// Empties a table.
    pub(super) async fn reclaim(&self, slot: u32, method: Method) -> Result<(), Stop> {
        let victim = {
            let mut state = self.state.borrow_mut();
            let (file, table) = state.catalog.usage(slot).ok_or(Stop::Failed)?;
            state.catalog.set_state(slot, TableState::Freeing);
            let (first, second) = state.catalog.two_oldest_sequences();
            let oldest = if first == table.sequence { second } else { first };
            Victim { file, table, identity: self.identity(slot), method, oldest }
        };
        let result = self.empty(&victim).await;
        if result.is_err() {
            // What was copied stays so, and the index follows.
            let _ = self.write_copies().await;
            let mut state = self.state.borrow_mut();
            if state.catalog.get(slot).is_some_and(|table| table.state == TableState::Freeing) {
                state.catalog.set_state(slot, TableState::Sealed);
                // What was said of its records meanwhile reaches as far; so must what is said of them later.
                let last = state.catalog.next_sequence() - 1;
                state.catalog.reach_to(slot, last);
                if method != Method::Dead {
                    state.catalog.note_doubled(slot);
                    state.leave_copies_before(victim.table.sequence);
                }
                if state.catalog.get(slot).is_some_and(|table| table.is_kept(Seconds::MAX - 1)) {
                    // What is left of it is damaged: there is nothing to wait for.
                    state.is_settled(victim.table);
                }
            }
        }
        result
    }

    async fn empty(&self, victim: &Victim<I::File>) -> Result<(), Stop> {
        let errors = self.state.borrow().counters.disk_write_errors;
        loop {
            let was_touched = self.is_touched(victim);
            if victim.method != Method::Dead {
                self.move_out(victim).await?;
            }
            if self.note_pending_flush().await? || victim.method != Method::Dead {
                self.write_copies().await?;
                self.sync_copies().await?;
            }
            // What superseded the records of this table must be on disk before it goes: what is in memory now, and what
            // was written since the last sync.
            if !has(Mutant::FreedTooEarly) {
                self.superseders_on_disk().await?;
            }
            // What goes unburied must not be touched first: once more, then, and what has been moved is moved.
            if victim.method != Method::Evict || was_touched || !self.is_touched(victim) {
                break;
            }
        }
        {
            let mut state = self.state.borrow_mut();
            if state.counters.disk_write_errors != errors {
                // Not all of it is. What is missing is in memory again, or gone for good; the next attempt knows.
                return Err(Stop::Failed);
            }
            let live_count = state.catalog.get(victim.table.slot).map_or(0, |table| table.live_count);
            if victim.method != Method::Evict && live_count > 0 {
                // A record came to life again, which cannot be, or was not named anywhere.
                tracing::error!("{live_count} records of table {} were not found in it", victim.table.slot);
                state.catalog.keep(victim.table.slot);
                return Err(Stop::Failed);
            }
            state.is_settled(victim.table);
            if state.is_held_up_by_doubt() {
                // What is needed of those tables may replace what is in this one.
                return Err(Stop::Failed);
            }
        }
        if victim.method == Method::Evict {
            // What is kept lies elsewhere by now, so these are those that go.
            let is_told = self.state.borrow_mut().reclaimer.told.replace(victim.table) == Some(victim.table);
            if !is_told {
                self.tell_of_evicted(&victim.file, victim.table).await;
            }
        }
        self.free(victim).await
    }

    fn is_touched(&self, victim: &Victim<I::File>) -> bool {
        self.state.borrow().catalog.get(victim.table.slot).is_some_and(|table| table.touched)
    }

    /// Everything that was written so far is made stable. Before the flusher is started there is nothing.
    async fn superseders_on_disk(&self) -> Result<(), Stop> {
        let is_stable = {
            let state = self.state.borrow();
            let is_idle = !state.busy && state.jobs.iter().all(|job| matches!(job, Job::Prepare));
            state.memtable.dirty_size() == 0 && !state.unsynced && is_idle
        };
        if !is_stable {
            let number = self.flush_active(true);
            self.synced(number).await;
        }
        if self.state.borrow().closing { Err(Stop::Closing) } else { Ok(()) }
    }

    /// Marks the table as free on disk, and then drops what was still live in it.
    async fn free(&self, victim: &Victim<I::File>) -> Result<(), Stop> {
        let (table, slot) = (victim.table, victim.table.slot);
        let mut evicted = Evicted::default();
        let mut visit = |summary: Summary| {
            let pointer = Pointer { slot, offset: summary.offset };
            if summary.kind == Kind::Value
                && let Some(entry) = self.state.borrow_mut().remove_if_at(&summary.digest, pointer)
            {
                evicted.note(entry);
            }
        };
        let is_evicted = victim.method == Method::Evict;
        let emptied =
            empty_table(&self.io, &victim.file, victim.identity, table.sequence, is_evicted, &mut visit).await;
        let mut state = self.state.borrow_mut();
        let visited_all = match emptied {
            Ok(visited_all) => visited_all,
            Err(error) => {
                // It may be marked or not. Nobody needs it any more, or nobody will mind; until it is marked for certain it
                // counts as one that holds records, so that what keeps these dead stays.
                state.counters.disk_write_errors += 1;
                if super::worth_logging(state.counters.disk_write_errors) {
                    tracing::error!("table {slot} cannot be marked as free: {error}. It is tried again");
                }
                return Err(Stop::Failed);
            }
        };
        let left = state.catalog.get(slot).map_or(0, |left| left.live_count);
        if (is_evicted && !visited_all) || left > 0 {
            state.drop_pointers_into(slot, &mut evicted);
        }
        state.note_emptied(slot, victim.method, &evicted, self.io.now());
        state.catalog.finish_freeing(slot);
        Ok(())
    }

    /// Waits until a chunk of `size` bytes may be read or written to empty a table.
    pub(super) async fn pace_reclaim(&self, size: usize) -> Result<(), Stop> {
        let wait = {
            let now = self.io.monotonic();
            let mut state = self.state.borrow_mut();
            let is_read = state.reads_in_flight > 0 || now.saturating_sub(state.last_read) < QUIET;
            let is_waited_for = state.ready.is_none() || state.reclaimer.is_index_full;
            let pressure = match (is_waited_for, is_read) {
                (true, _) => Pressure::Urgent,
                (false, true) => Pressure::Normal,
                (false, false) => Pressure::Idle,
            };
            state.throttle.wait(size as u64, pressure, now)
        };
        if wait.is_zero() {
            self.io.yield_now().await;
        } else {
            self.io.sleep(wait).await;
        }
        if self.state.borrow().closing { Err(Stop::Closing) } else { Ok(()) }
    }

    pub(super) fn identity(&self, slot: u32) -> Identity {
        Identity { slot, ..self.identity }
    }
}

/// When a table was written: half way between its first and its last record.
pub(super) fn written<F>(table: &Table<F>) -> Moment {
    let (versions, seconds) = (table.versions, table.seconds);
    let begun = Moment { version: versions.0, second: seconds.0 };
    begun.middle(Moment { version: versions.1, second: seconds.1 })
}

/// What leaves the index with a table.
#[derive(Default)]
pub(super) struct Evicted {
    count: u64,
    /// Bytes, by size class.
    size: u64,
    /// Those that would have expired some day.
    expiring_count: u64,
}

impl Evicted {
    pub(super) fn note(&mut self, entry: Entry) {
        self.count += 1;
        self.size += entry.class.size() as u64;
        self.expiring_count += u64::from(entry.expiry != 0);
    }
}

impl<F> State<F> {
    /// Has the reclaimer look whether there is something to do.
    pub(super) fn ask_reclaimer(&mut self) {
        self.reclaimer.is_asked = true;
    }

    /// Whether copies go to a table of their own: in a store of few tables that one would be a good part of it.
    pub(super) fn moves(&self) -> bool {
        self.catalog.table_count_max >= MOVING_TABLE_COUNT_MIN
    }

    /// Free tables that values may not go to: one is for the copies, and, where nothing may be evicted, one more for
    /// the news that records are gone, so that deleting goes on when storing does not.
    pub(super) fn reserve(&self) -> usize {
        if !self.moves() {
            return 0;
        }
        RECLAIM_RESERVE + if self.evict { 0 } else { DELETION_RESERVE }
    }

    /// A free table for the news that records are gone, when there is none for values.
    pub(super) fn free_for_deletions(&self) -> Option<u32> {
        let is_there = self.moves() && self.catalog.count(TableState::Free) > RECLAIM_RESERVE;
        if is_there { self.catalog.free_slot() } else { None }
    }

    /// Bytes of copies for which there is room for certain.
    pub(super) fn room_for_copies(&self) -> u64 {
        let free =
            self.catalog.iter().filter(|(slot, table)| table.state == TableState::Free && Some(*slot) != self.ready);
        let rooms = self.movers.iter().map(|mover| mover.room(self.table_size));
        let room = rooms.sum::<u64>() + free.count() as u64 * self.table_size as u64;
        room / COPY_PARTS * (COPY_PARTS - 1)
    }

    /// A free table for new writes, if there are more than the reserve.
    pub(super) fn free_for_writes(&self) -> Option<u32> {
        if self.catalog.count(TableState::Free) <= self.reserve() {
            return None;
        }
        self.catalog.free_slot()
    }

    /// A free table for copies; not the one that is ready for new writes.
    pub(super) fn free_for_copies(&self) -> Option<u32> {
        let mut free = self.catalog.iter().filter(|(_, table)| table.state == TableState::Free);
        free.find(|(slot, _)| Some(*slot) != self.ready).map(|(slot, _)| slot)
    }

    /// Whether a walk in search of what has expired is what there is to be done before anything is refused.
    pub(super) fn may_sweep(&self, now: Seconds) -> bool {
        !self.evict && !self.is_held_up_by_doubt() && self.sweep_after <= now && self.may_have_expired(now)
    }

    pub(super) fn is_short_of_tables(&self) -> bool {
        let goal = self.reserve() + 1;
        self.catalog.count(TableState::Free) < goal && self.catalog.vacant_slot().is_none()
    }

    /// The table that is emptied next, and how; `None` when there is none that may be.
    pub(super) fn next_victim(&self, now: Seconds) -> Option<(u32, Method)> {
        if let Some(doubtful) = self.first_doubtful(now) {
            return Some(doubtful);
        }
        if self.is_held_up_by_doubt() {
            return None;
        }
        let oldest = self.catalog.two_oldest_sequences();
        if let Some(slot) = self.dead_table(oldest, now) {
            return Some((slot, Method::Dead));
        }
        if let Some(doubled) = self.first_doubled(now) {
            return Some(doubled);
        }
        if let Some(slot) = self.oldest_that_holds_guards(oldest, now) {
            return Some((slot, Method::Move));
        }
        if self.moves() {
            let may_be = |table: &Table<F>| table.state == TableState::Sealed && !table.is_kept(now);
            let sealed = self.catalog.iter().filter(|(_, table)| may_be(table));
            let candidates = sealed.map(|(slot, table)| self.candidate(slot, table, oldest));
            let most = if self.evict { LIVE_PARTS_MAX } else { LIVE_PARTS_MAX_KEEPING };
            let room = self.room_for_copies();
            let is_worth = |candidate: &Candidate| {
                // What has expired as a whole counts as live until somebody has met it; it is not moved.
                let is_moved = candidate.live_size * PARTS <= candidate.size * most && candidate.live_size <= room;
                is_moved || is_expired(candidate.last_expiry, now)
            };
            let worth = candidates.filter(is_worth);
            if let Some(chosen) = victim::choose(worth, Moment { version: self.version, second: now }) {
                return Some((chosen.slot, Method::Move));
            }
        }
        if self.evict { self.coldest(now).map(|slot| (slot, Method::Evict)) } else { None }
    }

    /// The table whose emptying came to no end, if there is one, and what is to become of it now. It goes before others, so that
    /// the copies of what is in it do not leave the index first.
    fn first_doubled(&self, now: Seconds) -> Option<(u32, Method)> {
        let (slot, _) = self.catalog.first_doubled()?;
        let table = self.catalog.get(slot).filter(|table| table.state == TableState::Sealed && !table.is_kept(now))?;
        let fits = self.moves() && table.live_size + table.guard_size <= self.room_for_copies();
        let method = if fits { Some(Method::Move) } else { self.evict.then_some(Method::Evict) };
        method.map(|method| (slot, method))
    }

    /// The table that is emptied next when there is nowhere to move anything to, and how.
    pub(super) fn next_to_drop(&self, now: Seconds) -> Option<(u32, Method)> {
        if let Some(slot) = self.dead_table(self.catalog.two_oldest_sequences(), now) {
            return Some((slot, Method::Dead));
        }
        if self.evict { self.coldest(now).map(|slot| (slot, Method::Evict)) } else { None }
    }

    /// The oldest table, when a good part of the store is taken by records that keep older versions dead: they are needed as
    /// long as there are older tables, so these are moved on, from the oldest, however much of them is alive.
    fn oldest_that_holds_guards(&self, oldest: (u64, u64), now: Seconds) -> Option<u32> {
        let needed = self.catalog.iter().filter(|(_, table)| !table.is_unguarded(oldest));
        let guard_size: u64 = needed.map(|(_, table)| table.guard_size).sum();
        if !self.moves() || guard_size * GUARD_PARTS <= (self.catalog.len() * self.table_size) as u64 {
            return None;
        }
        let (slot, table) = self.catalog.iter().find(|(_, table)| table.sequence == oldest.0)?;
        let may_be = table.state == TableState::Sealed && !table.is_kept(now);
        (may_be && table.live_size + table.guard_size <= self.room_for_copies()).then_some(slot)
    }

    /// A table of which nothing is needed.
    fn dead_table(&self, oldest: (u64, u64), now: Seconds) -> Option<u32> {
        let is_empty = |table: &Table<F>| table.live_count == 0 && table.is_unguarded(oldest);
        let is_dead = |table: &Table<F>| table.state == TableState::Sealed && !table.is_kept(now) && is_empty(table);
        let dead = self.catalog.iter().filter(|(_, table)| is_dead(table));
        dead.min_by_key(|(_, table)| table.sequence).map(|(slot, _)| slot)
    }

    fn candidate(&self, slot: u32, table: &Table<F>, oldest: (u64, u64)) -> Candidate {
        let guards = if table.is_unguarded(oldest) { 0 } else { table.guard_size };
        let written = written(table);
        let live_size = table.live_size + guards;
        let size = table.room(self.table_size as u64);
        Candidate { slot, live_size, size, written, last_expiry: table.last_expiry }
    }

    /// The table with the oldest records.
    fn coldest(&self, now: Seconds) -> Option<u32> {
        let sealed = self.catalog.iter().filter(|(_, table)| table.state == TableState::Sealed && !table.is_kept(now));
        sealed.min_by_key(|(_, table)| (table.versions, table.sequence)).map(|(slot, _)| slot)
    }

    /// Nothing more goes to tables of copies that were begun before the table with the sequence `sequence`: a tombstone for
    /// what is in that one has the same version, and counts if its table is the later one.
    fn leave_copies_before(&mut self, sequence: u64) {
        for mover in &mut self.movers {
            mover.is_to_seal |= mover.table().is_some_and(|table| table.sequence < sequence);
        }
    }

    /// It could not be emptied: others are tried first.
    fn pause_reclaim_of(&mut self, slot: u32, now: Seconds) {
        if let Some(table) = self.catalog.get_mut(slot) {
            // Longer each time: as long as one is tried, whoever writes waits.
            let pause = RECLAIM_PAUSE_SECONDS << table.failure_count.min(RECLAIM_PAUSE_DOUBLED_MAX);
            table.failure_count += 1;
            table.kept_until = table.kept_until.max(now.saturating_add(pause));
        }
    }

    fn note_emptied(&mut self, slot: u32, method: Method, evicted: &Evicted, now: Seconds) {
        if let Some(table) = self.catalog.get(slot) {
            let (stream, begun) =
                (Stream::of_index(table.stream), Moment { version: table.versions.0, second: table.seconds.0 });
            self.separation.emptied(stream, begun, Moment { version: self.version, second: now });
        }
        let counters = &mut self.counters;
        counters.evictions += evicted.count;
        counters.evicted_bytes += evicted.size;
        counters.evicted_expiring += evicted.expiring_count;
        if evicted.count > 0 {
            let begun = self.catalog.get(slot).map_or(0, |emptied| emptied.begun);
            counters.evicted_age = now.saturating_sub(begun);
            counters.tables_evicted += 1;
        } else {
            counters.tables_reclaimed += 1;
        }
        counters.tables_reclaimed_unread += u64::from(method == Method::Dead);
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
