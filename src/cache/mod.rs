//! The hot cache: whole records in RAM, found through the index.
//!
//! The index entry of a cached record points at its cell, and the cell knows the record's place on disk: there is no
//! second table, and a hit costs one access to memory more than the lookup. [`CachedIndex`] stands in front of the
//! [`Index`]: what it returns points at the disk, so that nobody else has to know. A record is cached as it lies on disk;
//! the key in it leads back to its entry.
//!
//! What comes in is a record that is read from disk for the second time; when the cache is full, only if the first time was
//! lately: hotness 1 says that clients have fetched it, 2 that they have lately. Who goes is [`fifo`]'s; what leaves the
//! small queue is remembered by its entry, with hotness 3 (S3-FIFO's ghosts). A hand that goes around the index lowers 3 to
//! 2 and 2 to 1, so that *lately* is within about as many reads from disk as the cache has records.
//!
//! Memory is what the index leaves of a budget for both. It is taken and given back in pages, a little with each change,
//! as no caller should wait for all of it.

mod fifo;
#[cfg(test)]
mod tests;

use dma_alloc::{CellId, PinnedCell};

use crate::clock::Seconds;
use crate::digest::{Digest, Salt};
use crate::index::{Cursor, Entry, Full, Index, Pointer};
use crate::limits::{KIB, MIB, RECORD_GRANULE};
use crate::record::decode_trusted;
use fifo::{Fifo, From};

/// Hotness of a record that was fetched.
const FETCHED: u8 = 1;
/// Hotness of a record that was fetched lately; the hand makes it [`FETCHED`].
const RECENT: u8 = 2;
/// Hotness of a record that has left the small queue lately; the hand makes it [`RECENT`].
const GHOST: u8 = 3;

/// Pages of the cache if it had all that it may have, about.
const PAGE_COUNT: usize = 512;
const PAGE_SIZE_MIN: usize = 64 * KIB;
const PAGE_SIZE_MAX: usize = 4 * MIB;
/// What is evicted or moved for one record that comes in, at most: it stays outside if that is not enough.
const INSERT_STEPS: usize = 32;
/// What is evicted or moved with each change of the index, as long as the cache has too much memory.
const SHRINK_STEPS: usize = 8;
/// The cache has so many times the bytes that are kept for answers on their way.
const PINNED_PARTS: usize = 4;
/// The hand looks at no more than so many entries in a step.
const HAND_ENTRY_COUNT_MAX: u64 = 256;

/// What the cache has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Records that were answered from it.
    pub hits: u64,
    /// Records that came in.
    pub inserts: u64,
    /// Records that went because others needed the memory.
    pub evictions: u64,
    /// Records that were moved to make a page free.
    pub moves: u64,
}

/// How things stand in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheGauges {
    /// Cached records.
    pub records: usize,
    /// Bytes of those, as they lie on disk.
    pub record_bytes: usize,
    /// Bytes of their cells: of some sizes only, and with what is noted about a record.
    pub cell_bytes: usize,
    /// Bytes that are noted about records and about pages.
    pub noted_bytes: usize,
    /// Bytes of memory in use: pages with cells, some of them free, and the table of pages.
    pub memory_bytes: usize,
}

/// What the index knows of a key, and where its record is in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The entry; it points at the disk.
    pub entry: Entry,
    /// The cell of the record, if it is cached.
    pub cell: Option<CellId>,
}

/// A record in the cache.
#[derive(Clone, Copy, Debug)]
pub struct CachedRecord<'a> {
    fifo: &'a Fifo,
    cell: CellId,
}

impl<'a> CachedRecord<'a> {
    /// The record as it lies on disk.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        self.fifo.record(self.cell)
    }

    /// Keeps these bytes where and as they are, whatever becomes of the key; `None` if so much is kept already that the
    /// cache could not give way.
    #[must_use]
    pub fn pin(self) -> Option<PinnedCell> {
        let cells = &self.fifo.cells;
        (cells.pinned_size() < cells.budget() / PINNED_PARTS).then(|| self.fifo.pin(self.cell))
    }
}

/// An index, and a cache of the records that it points at.
#[derive(Debug)]
pub struct CachedIndex {
    index: Index,
    fifo: Fifo,
    salt: Salt,
    table_bits: u32,
    /// Bytes for the index and the cache.
    budget: usize,
    /// Bytes that the cache may take of them.
    cache_max: usize,
    is_enabled: bool,
    /// Bytes of the index when the cache was last told what is left for it.
    index_size: usize,
    /// The page that is being emptied, and the number of its next cell.
    vacating: Option<(usize, usize)>,
    hand: Cursor,
    /// Entries that the hand should have looked at and has not; it looks at a segment at once, and so may be ahead.
    hand_debt: i64,
    counters: CacheCounters,
}

impl CachedIndex {
    /// A cache in front of `index`, which points into tables of `table_size` bytes and is part of a budget of `budget`
    /// bytes; keys are those of the store of `salt`. The cache takes at most `cache_max` bytes; 0: none.
    #[must_use]
    pub fn new(index: Index, table_size: usize, salt: Salt, budget: usize, cache_max: usize) -> Self {
        let page_size = (budget.min(cache_max) / PAGE_COUNT).next_power_of_two().clamp(PAGE_SIZE_MIN, PAGE_SIZE_MAX);
        let mut cached = Self {
            index,
            fifo: Fifo::new(page_size),
            salt,
            table_bits: (table_size / RECORD_GRANULE).trailing_zeros(),
            budget,
            cache_max,
            is_enabled: true,
            index_size: 0,
            vacating: None,
            hand: Cursor::START,
            hand_debt: 0,
            counters: CacheCounters::default(),
        };
        cached.share();
        cached
    }

    fn pointer(&self, number: u64) -> Pointer {
        pointer_of(self.table_bits, number)
    }

    /// The entry with the place on disk, and its cell.
    #[inline]
    fn resolve(&self, entry: Entry) -> Found {
        resolve(&self.fifo, self.table_bits, entry)
    }

    /// The entry of `digest`, expired or not.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Entry> {
        self.find(digest).map(|found| found.entry)
    }

    /// The entry of `digest`, expired or not, and the cell of its record if that is cached.
    #[must_use]
    #[inline]
    pub fn find(&self, digest: &Digest) -> Option<Found> {
        self.index.get(digest).map(|entry| self.resolve(entry))
    }

    /// The record of a cell that [`Self::find`] has just found, because a client asks for it.
    #[inline]
    pub fn hit(&mut self, cell: CellId) -> CachedRecord<'_> {
        self.counters.hits += 1;
        self.fifo.hit(cell);
        CachedRecord { fifo: &self.fifo, cell }
    }

    /// Notes that a client fetches the record of `digest`, and not from the cache.
    pub fn note_fetched(&mut self, digest: &Digest) {
        self.modify(digest, |entry| entry.hotness = entry.hotness.max(RECENT));
        self.move_hand();
    }

    /// Whether that has to be noted of a record with this entry.
    #[must_use]
    pub const fn is_to_note(entry: Entry) -> bool {
        entry.hotness < RECENT
    }

    /// Caches a record that was read from disk, if the entry of `digest` still points at the same place as `entry`, which
    /// was found before the read; if clients had fetched the record before, lately if the cache is full; and if there is
    /// room, which takes a few others' place. Says whether it did. The place may have been written anew during the read:
    /// whoever calls this knows that it was not.
    pub fn insert(&mut self, digest: &Digest, entry: Entry, record: &[u8]) -> bool {
        let cells = &self.fifo.cells;
        let least = if cells.is_full() { RECENT } else { FETCHED };
        if entry.hotness < least || cells.budget() == 0 || record.len() + fifo::HEAD_SIZE > cells.size_max() {
            return false;
        }
        let now = self.index.get(digest);
        if now.is_none_or(|now| now.is_cached || now.pointer != entry.pointer) {
            return false;
        }
        let Some(cell) = self.make_cell(record.len()) else { return false };
        self.fifo.insert(cell, record, self.number_of(entry.pointer), entry.hotness == GHOST);
        self.point_at(digest, cell);
        self.counters.inserts += 1;
        true
    }

    /// Puts `entry`, which points at the disk, in the place of what `digest` had, and returns that.
    ///
    /// # Errors
    /// [`Full`], when the entry is new and the budget is spent; nothing has changed then.
    pub fn upsert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
        debug_assert!(!entry.is_cached, "only the cache points into the cache");
        self.tend();
        let old = self.index.upsert(digest, entry)?;
        Ok(old.map(|old| self.forget(old)))
    }

    /// Changes the entry of `digest`, and returns it as it was; `None` when there is none. If it points elsewhere then,
    /// its record is not cached any more.
    pub fn modify(&mut self, digest: &Digest, change: impl FnOnce(&mut Entry)) -> Option<Entry> {
        let (fifo, table_bits) = (&self.fifo, self.table_bits);
        let mut dropped = None;
        let old = self.index.modify(digest, |entry| {
            let Found { entry: resolved, cell } = resolve(fifo, table_bits, *entry);
            let mut changed = Entry { hotness: entry.hotness, ..resolved };
            change(&mut changed);
            match cell {
                Some(_) if changed.pointer == resolved.pointer => {
                    *entry = Entry { pointer: entry.pointer, is_cached: true, ..changed };
                }
                _ => (*entry, dropped) = (changed, cell),
            }
        })?;
        let old = self.resolve(old).entry;
        if let Some(cell) = dropped {
            self.fifo.remove(cell);
        }
        Some(old)
    }

    /// Changes the expiry of an entry; returns the entry as it was.
    pub fn set_expiry(&mut self, digest: &Digest, expiry: Seconds) -> Option<Entry> {
        self.modify(digest, |entry| entry.expiry = expiry)
    }

    /// Points `digest` at a copy of its record if it points at exactly `from`; returns the entry as it was then. A record
    /// that is cached stays so.
    pub fn repoint(&mut self, digest: &Digest, from: Pointer, to: Pointer) -> Option<Entry> {
        let entry = self.index.get(digest)?;
        let Found { entry: resolved, cell } = self.resolve(entry);
        if resolved.pointer != from {
            return None;
        }
        match cell {
            Some(cell) => self.fifo.set_place(cell, self.number_of(to)),
            None => _ = self.index.modify(digest, |entry| entry.pointer = to),
        }
        Some(resolved)
    }

    /// Removes and returns the entry of `digest`.
    pub fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        self.tend();
        let old = self.index.remove(digest)?;
        Some(self.forget(old))
    }

    /// Removes and returns the entry of `digest` if it still points at exactly `pointer`.
    pub fn remove_at(&mut self, digest: &Digest, pointer: Pointer) -> Option<Entry> {
        self.get(digest).filter(|entry| entry.pointer == pointer)?;
        self.remove(digest)
    }

    /// Removes every entry that `keep` says no to. Walks the whole index.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry) -> bool) {
        let (fifo, table_bits) = (&mut self.fifo, self.table_bits);
        self.index.retain(|entry| {
            let Found { entry, cell } = resolve(fifo, table_bits, entry);
            let is_kept = keep(entry);
            if let (false, Some(cell)) = (is_kept, cell) {
                fifo.remove(cell);
            }
            is_kept
        });
    }

    /// Removes all entries and gives their memory back to the system.
    pub fn clear(&mut self) {
        self.index.clear();
        self.fifo.clear();
        self.vacating = None;
        self.share();
    }

    /// Visits entries as [`Index::walk`] does.
    pub fn walk(&self, cursor: Cursor, mut visit: impl FnMut(Digest, Entry)) -> Option<Cursor> {
        self.index.walk(cursor, |digest, entry| visit(digest, self.resolve(entry).entry))
    }

    /// Asks for memory as [`Index::prefetch`] does.
    pub fn prefetch<'d>(&self, digests: impl Iterator<Item = &'d Digest> + Clone) {
        self.index.prefetch(digests);
    }

    /// Number of entries, expired ones that nobody has met yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether a good number of new entries is sure to fit.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.index.has_room()
    }

    /// Bytes of memory that the index has in use.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.index.memory_size()
    }

    /// How things stand in the cache.
    #[must_use]
    pub fn cache_gauges(&self) -> CacheGauges {
        CacheGauges {
            records: self.fifo.len(),
            record_bytes: self.fifo.record_size(),
            cell_bytes: self.fifo.cell_size(),
            noted_bytes: self.fifo.len() * fifo::HEAD_SIZE + self.fifo.cells.table_size(),
            memory_bytes: self.fifo.cells.memory_size(),
        }
    }

    /// What the cache has done.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        self.counters
    }

    /// Changes the budget for index and cache, and says whether it could: see [`Index::set_budget`].
    #[must_use]
    pub fn set_budget(&mut self, budget: usize) -> bool {
        let is_changed = self.index.set_budget(budget);
        if is_changed {
            self.budget = budget;
            self.share();
        }
        is_changed
    }

    /// Whether records are cached.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.is_enabled && self.cache_max > 0
    }

    /// Turns the cache on or off. It empties itself as with [`Self::set_cache_max`].
    pub fn enable(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
        self.share();
    }

    /// Changes how many bytes the cache may take, if the index leaves so many. What there is too much is given back with
    /// what happens next, and by [`Self::shrink`].
    pub fn set_cache_max(&mut self, size: usize) {
        self.cache_max = size;
        self.share();
    }

    /// Evicts or moves up to `steps` records if the cache has more memory than is left for it; says whether there is more
    /// to do.
    pub fn shrink(&mut self, steps: usize) -> bool {
        for _ in 0..steps {
            if !self.fifo.cells.is_over_budget() {
                break;
            }
            self.make_room();
        }
        let is_over_budget = self.fifo.cells.is_over_budget();
        if !is_over_budget && self.fifo.cells.budget() == 0 {
            // The table of pages goes too, with the page that was being emptied.
            self.fifo.clear();
            self.vacating = None;
        }
        is_over_budget && self.fifo.len() > 0
    }

    /// Evicts all records.
    pub fn evict_all(&mut self) {
        while self.fifo.len() > 0 {
            if let Some((cell, from)) = self.fifo.victim() {
                self.evict(cell, from);
            }
        }
    }
}

impl CachedIndex {
    fn number_of(&self, pointer: Pointer) -> u64 {
        u64::from(pointer.slot) << self.table_bits | u64::from(pointer.offset / RECORD_GRANULE as u32)
    }

    /// Drops the record of an entry that has left the index from the cache, and returns the entry as it points at the disk.
    fn forget(&mut self, entry: Entry) -> Entry {
        let Found { entry, cell } = self.resolve(entry);
        if let Some(cell) = cell {
            self.fifo.remove(cell);
        }
        entry
    }

    /// Makes the entry of `digest` point at a cell.
    fn point_at(&mut self, digest: &Digest, cell: CellId) {
        let pointer = self.pointer(u64::from(cell.get()));
        let changed = self.index.modify(digest, |entry| {
            *entry = Entry { pointer, is_cached: true, hotness: FETCHED, ..*entry };
        });
        debug_assert!(changed.is_some(), "cached records are in the index");
    }

    /// The key of the record in a cell, as the index knows it.
    fn digest_of(&self, cell: CellId) -> Digest {
        let record = decode_trusted(self.fifo.record(cell)).expect("whole records are cached");
        Digest::of(&self.salt, record.key)
    }

    /// Tells the cache what the index leaves for it, if that has changed, and lets it give back a little of what it has too
    /// much.
    #[inline]
    fn tend(&mut self) {
        if self.index.memory_size() != self.index_size {
            self.share();
        }
        if self.fifo.cells.is_over_budget() || (self.fifo.len() == 0 && self.fifo.cells.budget() == 0) {
            self.shrink(SHRINK_STEPS);
        }
    }

    fn share(&mut self) {
        self.index_size = self.index.memory_size();
        // What the index may map before the cache has made room for it: a huge page each for blocks and rows, or small
        // pieces.
        let growth = (self.budget / 32).clamp(512 * KIB, 8 * MIB);
        let left = self.budget.saturating_sub(self.index_size + growth);
        let cache_max = if self.is_enabled { self.cache_max } else { 0 };
        self.fifo.cells.set_budget(left.min(cache_max));
    }

    /// A cell for a record, which others may have to make room for.
    fn make_cell(&mut self, size: usize) -> Option<CellId> {
        for _ in 0..INSERT_STEPS {
            if let Some(cell) = self.fifo.cells.take(size) {
                return Some(cell);
            }
            self.make_room();
        }
        None
    }

    /// Evicts a record, or moves one out of a page that can be emptied.
    fn make_room(&mut self) {
        if self.vacating.is_none() && self.fifo.cells.budget() > 0 {
            self.vacating = self.fifo.cells.page_to_vacate().map(|page| (page, 0));
        }
        if let Some((page, next)) = self.vacating
            && self.vacate(page, next)
        {
            return;
        }
        if let Some((cell, from)) = self.fifo.victim() {
            self.evict(cell, from);
        }
    }

    /// Moves the next record of a page that is being emptied to another one. Says whether there was one.
    fn vacate(&mut self, page: usize, first: usize) -> bool {
        self.vacating = None;
        if self.fifo.cells.is_vacated(page) {
            return false;
        }
        let mut cells = (first..).zip(self.fifo.cells.cells_of(page, first));
        let Some((number, from)) = cells.find(|(_, cell)| self.fifo.is_live(*cell)) else { return false };
        self.vacating = Some((page, number + 1));
        let Some(to) = self.fifo.cells.take_like(from) else {
            self.evict(from, From::Main);
            return true;
        };
        let digest = self.digest_of(from);
        self.fifo.relocate(from, to);
        self.point_at(&digest, to);
        self.counters.moves += 1;
        true
    }

    fn evict(&mut self, cell: CellId, from: From) {
        let digest = self.digest_of(cell);
        let pointer = self.pointer(self.fifo.place(cell));
        let hotness = if from == From::Small { GHOST } else { FETCHED };
        let changed = self.index.modify(&digest, |entry| {
            *entry = Entry { pointer, is_cached: false, hotness, ..*entry };
        });
        debug_assert!(changed.is_some_and(|entry| entry.is_cached), "cached records are in the index");
        self.fifo.remove(cell);
        self.counters.evictions += 1;
    }

    /// Lets the hand go on, so that it goes around in two thirds as many steps as there is room for records.
    fn move_hand(&mut self) {
        let (len, cell_size) = (self.fifo.len() as u64, self.fifo.cell_size() as u64);
        let room = (self.fifo.cells.budget() as u64 * len).checked_div(cell_size).unwrap_or(0);
        let step = self.index.len() as u64 * 3 / (2 * room.max(1));
        self.hand_debt += step.min(HAND_ENTRY_COUNT_MAX) as i64;
        if self.hand_debt > 0 {
            let (count, next) = self.index.cool(self.hand);
            self.hand = next.unwrap_or(Cursor::START);
            self.hand_debt -= count as i64;
        }
    }
}

fn pointer_of(table_bits: u32, number: u64) -> Pointer {
    let granules = number & ((1 << table_bits) - 1);
    Pointer { slot: (number >> table_bits) as u32, offset: granules as u32 * RECORD_GRANULE as u32 }
}

#[inline]
fn resolve(fifo: &Fifo, table_bits: u32, entry: Entry) -> Found {
    if !entry.is_cached {
        return Found { entry, cell: None };
    }
    let number = u64::from(entry.pointer.slot) << table_bits | u64::from(entry.pointer.offset / RECORD_GRANULE as u32);
    let cell = CellId::from_number(number as u32);
    let pointer = pointer_of(table_bits, fifo.place(cell));
    let hotness = if fifo.is_hot(cell) { entry.hotness.max(RECENT) } else { entry.hotness };
    Found { entry: Entry { pointer, is_cached: false, hotness, ..entry }, cell: Some(cell) }
}
