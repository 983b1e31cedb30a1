//! The tables of a shard: which slots there are, what state each is in, and what of it is alive.

use std::rc::Rc;

use crate::clock::Seconds;
use crate::memtable::TableUse;
use crate::mutants::{Mutant, has};
use crate::record::SizeClass;

/// What may be done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableState {
    /// Nothing in it; ready to be written.
    Free,
    /// Records are appended to it.
    Writing,
    /// Full; its last blocks, footer and trailer are on their way.
    Sealing,
    /// Complete.
    Sealed,
    /// Being emptied.
    Freeing,
    /// Not ours, or damaged beyond use: left as it is.
    Unusable,
}

/// One table.
#[derive(Debug)]
pub struct Table<F> {
    /// Its file; `None` when unusable.
    pub file: Option<Rc<F>>,
    /// Its state.
    pub state: TableState,
    /// The sequence of its use, the last one when free.
    pub sequence: u64,
    /// Where its records end, in bytes, once nothing is written to it any more, and if that is known.
    pub records_end: Option<u32>,
    /// The same as soon as nothing more is appended to it, though its last blocks and its footer may not be written yet.
    pub ends_at: Option<u32>,
    /// Records that the index points at.
    pub live_count: u64,
    /// What they take, by size class, in bytes.
    pub live_size: u64,
    /// Its tombstones, touches, flushes and expired values keep older versions dead, which lie in tables of up to this
    /// sequence; 0 when there are none.
    pub guarded_until: u64,
    /// Tables of up to this sequence may hold older words about the keys of its values; 0 when none do.
    pub older_until: u64,
    /// Its records were left out of the index because that was full. They are on disk, and what is in the tables before it
    /// may be older.
    pub forgotten: bool,
    /// Its values have left the index with a flush that is not noted anywhere yet, as the store is full.
    pub flushed: bool,
    /// Some of its values left the index although nothing has replaced them: they have expired, or are damaged.
    pub dropped: bool,
    /// Some of its values lie in other tables as well, begun later or earlier: emptying it was begun, and came to no end. If one
    /// of the copies leaves the index, its original must not come back.
    pub doubled: bool,
    /// Touches of its values may be on disk. If such a value leaves the index, they must not count for an older one.
    pub touched: bool,
    /// Bytes of its guards, by size class, as far as is known.
    pub guard_size: u64,
    /// Bytes that all its records take together, by size class, dead ones too; 0 when that is not known.
    pub written_size: u64,
    /// Bytes that are in use of the file, as far as is known.
    pub used_size: u64,
    /// Once nothing is written to it any more: tables of up to this sequence may hold older words about the keys of its
    /// records, or copies of these.
    pub bound: u64,
    /// Which stream it is written by, a number of whoever chooses; nobody knows after a start.
    pub stream: u8,
    /// The versions of the shard's last writes when the first and when the last record came to it.
    pub versions: (u64, u64),
    /// The seconds of the same.
    pub seconds: (Seconds, Seconds),
    /// The second in which the last of its values expires; 0 when one never does, or when that is not known.
    pub last_expiry: Seconds,
    /// It has values.
    pub has_values: bool,
    /// Until this second it is not emptied, as that has failed.
    pub kept_until: Seconds,
    /// How often it has.
    pub failure_count: u32,
    /// The second in which its use began; for one that is older than this process, the one in which the store was opened.
    pub begun: Seconds,
}

impl<F> Table<F> {
    const fn new(file: Option<Rc<F>>, state: TableState, sequence: u64) -> Self {
        Self {
            file,
            state,
            sequence,
            records_end: None,
            ends_at: None,
            live_count: 0,
            live_size: 0,
            guarded_until: 0,
            older_until: 0,
            forgotten: false,
            flushed: false,
            dropped: false,
            doubled: false,
            touched: false,
            guard_size: 0,
            written_size: 0,
            used_size: 0,
            bound: sequence,
            stream: u8::MAX,
            versions: (0, 0),
            seconds: (0, 0),
            last_expiry: 0,
            has_values: false,
            kept_until: 0,
            failure_count: 0,
            begun: 0,
        }
    }

    /// Whether its values may have left the index although no later word about their keys is on disk.
    #[must_use]
    pub const fn lacks_successors(&self) -> bool {
        self.forgotten || self.flushed
    }

    /// What was in it is there no more.
    fn forget(&mut self) {
        let Self { file, state, sequence, begun, .. } = self;
        *self = Self { begun: *begun, ..Self::new(file.take(), *state, *sequence) };
    }

    /// Bytes, by size class, that emptying the table makes room for, live ones included: those of all records that were ever
    /// written to it, and of the space that nobody has written to.
    #[must_use]
    pub fn room(&self, table_size: u64) -> u64 {
        if self.written_size == 0 || self.used_size == 0 {
            return table_size;
        }
        let room = u128::from(self.written_size) * u128::from(table_size) / u128::from(self.used_size);
        u64::try_from(room).unwrap_or(u64::MAX)
    }

    /// Whether it is left alone for now.
    #[must_use]
    pub const fn is_kept(&self, now: Seconds) -> bool {
        self.kept_until > now
    }

    /// Whether no other table is left that holds what its records keep dead; `oldest` are the two lowest sequences of tables
    /// that may hold records.
    #[must_use]
    pub fn is_unguarded(&self, oldest: (u64, u64)) -> bool {
        let others = if oldest.0 == self.sequence { oldest.1 } else { oldest.0 };
        let by_values = if self.dropped || self.lacks_successors() { self.older_until } else { 0 };
        self.guarded_until.max(by_values) < others || has(Mutant::GuardsIgnored)
    }
}

/// All tables of a shard, by slot.
#[derive(Debug)]
pub struct Catalog<F> {
    tables: Vec<Option<Table<F>>>,
    /// Tables that there may be.
    pub table_count_max: usize,
    next_sequence: u64,
    /// No live record expires before this second; 0 when that is not known.
    pub first_expiry: Seconds,
    /// Live records by size class.
    class_counts: Box<[u64; SizeClass::COUNT]>,
}

impl<F> Catalog<F> {
    /// No tables yet, and at most `table_count_max` ever.
    #[must_use]
    pub fn new(table_count_max: usize) -> Self {
        let class_counts = Box::new([0; SizeClass::COUNT]);
        Self { tables: Vec::new(), table_count_max, next_sequence: 1, first_expiry: Seconds::MAX, class_counts }
    }

    /// Adds a table in a slot that has none.
    pub fn insert(&mut self, slot: u32, file: Option<Rc<F>>, state: TableState, sequence: u64) {
        let index = slot as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        debug_assert!(self.tables[index].is_none(), "a slot has one table");
        self.tables[index] = Some(Table::new(file, state, sequence));
        self.next_sequence = self.next_sequence.max(sequence + 1);
    }

    /// The sequence of the next table.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// No table gets a sequence below this one.
    pub fn begin_after(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence);
    }

    /// Takes a table out; its file may be removed then.
    pub fn take(&mut self, slot: u32) -> Option<Table<F>> {
        self.tables.get_mut(slot as usize)?.take()
    }

    /// The table in `slot`.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&Table<F>> {
        self.tables.get(slot as usize)?.as_ref()
    }

    /// The table in `slot`, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Table<F>> {
        self.tables.get_mut(slot as usize)?.as_mut()
    }

    /// All tables with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Table<F>)> {
        (0u32..).zip(&self.tables).filter_map(|(slot, table)| Some((slot, table.as_ref()?)))
    }

    /// Number of tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().flatten().count()
    }

    /// Whether there is no table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tables in `state`.
    #[must_use]
    pub fn count(&self, state: TableState) -> usize {
        self.iter().filter(|(_, table)| table.state == state).count()
    }

    /// The file and the use of the table in `slot`, unless it is unusable.
    #[must_use]
    pub fn usage(&self, slot: u32) -> Option<(Rc<F>, TableUse)> {
        let table = self.get(slot)?;
        Some((Rc::clone(table.file.as_ref()?), TableUse { slot, sequence: table.sequence }))
    }

    /// A free table.
    #[must_use]
    pub fn free_slot(&self) -> Option<u32> {
        self.iter().find(|(_, table)| table.state == TableState::Free).map(|(slot, _)| slot)
    }

    /// The lowest slot without a table, if another table may be made.
    #[must_use]
    pub fn vacant_slot(&self) -> Option<u32> {
        if self.len() >= self.table_count_max {
            return None;
        }
        let vacant = self.tables.iter().position(Option::is_none).unwrap_or(self.tables.len());
        u32::try_from(vacant).ok()
    }

    /// Begins a use of a free table with the next sequence, in the second `now`, when `version` is that of the last write.
    ///
    /// # Panics
    /// When the table is not free.
    pub fn begin(&mut self, slot: u32, now: Seconds, version: u64) -> TableUse {
        let sequence = self.next_sequence;
        let table = self.get_mut(slot).expect("the caller found the slot");
        assert_eq!(table.state, TableState::Free, "only free tables are begun");
        let used = Table::new(table.file.take(), TableState::Writing, sequence);
        *table = Table { begun: now, versions: (version, version), seconds: (now, now), ..used };
        self.next_sequence += 1;
        TableUse { slot, sequence }
    }

    /// Sets a table's state.
    pub fn set_state(&mut self, slot: u32, state: TableState) {
        if let Some(table) = self.get_mut(slot) {
            table.state = state;
        }
    }

    /// Nothing more is appended to a table from now on: its records end at `ends_at`, and with what follows them, `used_size`
    /// bytes of the file are in use.
    pub fn end(&mut self, slot: u32, (ends_at, used_size): (u32, u64), now: Seconds, version: u64) {
        let last = self.next_sequence - 1;
        if let Some(table) = self.get_mut(slot) {
            (table.state, table.ends_at) = (TableState::Sealing, Some(ends_at));
            // What its records replace was written by now.
            (table.bound, table.used_size) = (last, used_size);
            (table.versions.1, table.seconds.1) = (version, now);
        }
    }

    /// Nothing is written to a table any more, whose records end at `records_end`.
    pub fn complete(&mut self, slot: u32, records_end: u32) {
        if let Some(table) = self.get_mut(slot) {
            (table.state, table.records_end) = (TableState::Sealed, Some(records_end));
        }
    }

    /// The last table that may hold older words about the key of a record in `slot`, or copies of the record.
    #[must_use]
    pub fn reach(&self, slot: u32) -> u64 {
        let last = self.next_sequence - 1;
        self.get(slot).map_or(last, |table| match table.state {
            TableState::Sealing | TableState::Sealed | TableState::Unusable => table.bound,
            // One may be made at any time.
            TableState::Writing | TableState::Freeing | TableState::Free => last,
        })
    }

    /// A record of the table in `slot` was copied to the table with the sequence `sequence`.
    pub fn reach_to(&mut self, slot: u32, sequence: u64) {
        if let Some(table) = self.get_mut(slot) {
            table.bound = table.bound.max(sequence);
        }
    }

    /// The table cannot be emptied, unless it is the oldest and nothing in it is needed.
    pub fn keep(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.kept_until = Seconds::MAX;
        }
    }

    /// Makes a table free that has been emptied.
    pub fn finish_freeing(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            debug_assert_eq!(table.live_count, 0, "nothing points into a free table");
            table.state = TableState::Free;
            table.forget();
        }
    }

    /// A record of the table is pointed at now.
    pub fn add_live(&mut self, slot: u32, class: SizeClass) {
        if let Some(table) = self.get_mut(slot) {
            table.live_count += 1;
            table.live_size += class.size() as u64;
            self.class_counts[usize::from(class.0)] += 1;
        }
    }

    /// A record of the table is not pointed at any more.
    pub fn remove_live(&mut self, slot: u32, class: SizeClass) {
        if let Some(table) = self.get_mut(slot) {
            debug_assert!(table.live_count > 0 && table.live_size >= class.size() as u64, "counted when it came");
            table.live_count = table.live_count.saturating_sub(1);
            table.live_size = table.live_size.saturating_sub(class.size() as u64);
            let count = &mut self.class_counts[usize::from(class.0)];
            debug_assert!(*count > 0, "counted when it came");
            *count = count.saturating_sub(1);
        }
    }

    /// The table holds a record of `size` bytes that keeps older versions dead, which lie in tables of up to the sequence
    /// `until`.
    pub fn add_guard(&mut self, slot: u32, until: u64, size: u64) {
        if let Some(table) = self.get_mut(slot) {
            table.guarded_until = table.guarded_until.max(until);
            table.guard_size += size;
        }
    }

    /// The table holds a value about whose key there may be older words in tables of up to the sequence `until`.
    pub fn add_older(&mut self, slot: u32, until: u64) {
        if let Some(table) = self.get_mut(slot) {
            table.older_until = table.older_until.max(until);
        }
    }

    /// A record of `size` bytes was written to the table.
    pub fn add_written(&mut self, slot: u32, size: u64) {
        if let Some(table) = self.get_mut(slot) {
            table.written_size += size;
        }
    }

    /// A value was written to the table that expires in this second; 0 = never.
    pub fn add_expiry(&mut self, slot: u32, expiry: Seconds) {
        if expiry != 0 {
            self.first_expiry = self.first_expiry.min(expiry);
        }
        if let Some(table) = self.get_mut(slot) {
            let is_never = expiry == 0 || (table.has_values && table.last_expiry == 0);
            table.last_expiry = if is_never { 0 } else { table.last_expiry.max(expiry) };
            table.has_values = true;
        }
    }

    /// The table holds a value that is the last word about its key and says that there is nothing: it is expired, or damaged.
    pub fn note_dropped(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.dropped = true;
        }
    }

    /// Some values of the table in `slot` lie in others as well.
    pub fn note_doubled(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.doubled = true;
        }
    }

    /// A touch of a value in `slot` is written.
    pub fn note_touched(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.touched = true;
        }
    }

    /// Touches were found, and nobody knows of what.
    pub fn note_all_touched(&mut self) {
        self.tables.iter_mut().flatten().for_each(|table| table.touched = true);
    }

    /// The first table of which values lie in others as well, as slot and sequence.
    #[must_use]
    pub fn first_doubled(&self) -> Option<(u32, u64)> {
        let doubled = self.iter().filter(|(_, table)| table.doubled && table.state != TableState::Free);
        doubled.map(|(slot, table)| (slot, table.sequence)).min_by_key(|(_, sequence)| *sequence)
    }

    /// The two lowest sequences of tables that may hold records; the highest number for those that are not there.
    #[must_use]
    pub fn two_oldest_sequences(&self) -> (u64, u64) {
        let holds = |table: &&Table<F>| table.state != TableState::Free && table.file.is_some();
        let tables = self.tables.iter().flatten().filter(holds);
        tables.fold((u64::MAX, u64::MAX), |(first, second), table| match table.sequence {
            lower if lower < first => (lower, first),
            sequence => (first, second.min(sequence)),
        })
    }

    /// The table's records are left out of the index, as that is full.
    pub fn forget(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.forgotten = true;
        }
    }

    /// Everything has left the index, and what says so `is_noted`.
    pub fn note_flushed(&mut self, is_noted: bool) {
        self.tables.iter_mut().flatten().for_each(|table| table.flushed = !is_noted);
    }

    /// Whether each table is forgotten, by slot; nothing when none is.
    #[must_use]
    pub fn forgotten(&self) -> Vec<bool> {
        let is_forgotten = |table: &Option<Table<F>>| table.as_ref().is_some_and(|table| table.forgotten);
        if self.tables.iter().any(is_forgotten) { self.tables.iter().map(is_forgotten).collect() } else { Vec::new() }
    }

    /// No record is pointed at any more.
    pub fn clear_live(&mut self) {
        self.first_expiry = Seconds::MAX;
        for table in self.tables.iter_mut().flatten() {
            (table.live_count, table.live_size) = (0, 0);
        }
        self.class_counts.fill(0);
    }

    /// The store is opened: when its records expire is not known; its tables count as begun in the second `now`, as nobody
    /// knows better, and as written evenly up to the last version.
    pub fn opened(&mut self, now: Seconds, version: u64) {
        let last = self.next_sequence - 1;
        self.first_expiry = if self.live_size() == 0 { Seconds::MAX } else { 0 };
        for table in self.tables.iter_mut().flatten() {
            (table.begun, table.bound, table.seconds) = (now, last, (now, now));
            let part = table.sequence as f64 / self.next_sequence as f64;
            let written = (version as f64 * part) as u64;
            table.versions = (written, written);
        }
    }

    /// The second in which the oldest table with live records was begun.
    #[must_use]
    pub fn oldest_begun(&self) -> Option<Seconds> {
        self.iter().filter(|(_, table)| table.live_count > 0).map(|(_, table)| table.begun).min()
    }

    /// How many live records there are of each size class that has some, from small to large.
    pub fn class_counts(&self) -> impl Iterator<Item = (SizeClass, u64)> {
        let counts = (0..=u8::MAX).map(SizeClass).zip(self.class_counts.iter().copied());
        counts.filter(|(_, count)| *count > 0)
    }

    /// Bytes of live records, by size class.
    #[must_use]
    pub fn live_size(&self) -> u64 {
        self.iter().map(|(_, table)| table.live_size).sum()
    }
}
