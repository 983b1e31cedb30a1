//! The tables of a shard: which slots there are, what state each is in, and what of it is alive.

use std::rc::Rc;

use crate::clock::Seconds;
use crate::memtable::TableUse;
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
    /// Records that the index points at.
    pub live_count: u64,
    /// What they take, by size class, in bytes.
    pub live_size: u64,
    /// Records that keep older versions dead: tombstones, touches, flushes, expired values.
    pub guard_count: u64,
    /// The second in which its use began; for one that is older than this process, the one in which the store was opened.
    pub begun: Seconds,
}

/// All tables of a shard, by slot.
#[derive(Debug)]
pub struct Catalog<F> {
    tables: Vec<Option<Table<F>>>,
    /// Tables that there may be.
    pub table_count_max: usize,
    next_sequence: u64,
    /// Live records by size class.
    class_counts: Box<[u64; SizeClass::COUNT]>,
}

impl<F> Catalog<F> {
    /// No tables yet, and at most `table_count_max` ever.
    #[must_use]
    pub fn new(table_count_max: usize) -> Self {
        let class_counts = Box::new([0; SizeClass::COUNT]);
        Self { tables: Vec::new(), table_count_max, next_sequence: 1, class_counts }
    }

    /// Adds a table in a slot that has none.
    pub fn insert(&mut self, slot: u32, file: Option<Rc<F>>, state: TableState, sequence: u64) {
        let index = slot as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        debug_assert!(self.tables[index].is_none(), "a slot has one table");
        let table = Table { file, state, sequence, live_count: 0, live_size: 0, guard_count: 0, begun: 0 };
        self.tables[index] = Some(table);
        self.next_sequence = self.next_sequence.max(sequence + 1);
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

    /// Begins a use of a free table with the next sequence, in the second `now`.
    ///
    /// # Panics
    /// When the table is not free.
    pub fn begin(&mut self, slot: u32, now: Seconds) -> TableUse {
        let sequence = self.next_sequence;
        let table = self.get_mut(slot).expect("the caller found the slot");
        assert_eq!(table.state, TableState::Free, "only free tables are begun");
        (table.state, table.sequence, table.begun) = (TableState::Writing, sequence, now);
        self.next_sequence += 1;
        TableUse { slot, sequence }
    }

    /// Sets a table's state.
    pub fn set_state(&mut self, slot: u32, state: TableState) {
        if let Some(table) = self.get_mut(slot) {
            table.state = state;
        }
    }

    /// Makes a table free that has been emptied.
    pub fn finish_freeing(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            debug_assert_eq!(table.live_count, 0, "nothing points into a free table");
            table.state = TableState::Free;
            (table.live_count, table.live_size, table.guard_count) = (0, 0, 0);
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

    /// The table holds one more record that keeps older versions dead.
    pub fn add_guard(&mut self, slot: u32) {
        if let Some(table) = self.get_mut(slot) {
            table.guard_count += 1;
        }
    }

    /// No record is pointed at any more.
    pub fn clear_live(&mut self) {
        for table in self.tables.iter_mut().flatten() {
            (table.live_count, table.live_size) = (0, 0);
        }
        self.class_counts.fill(0);
    }

    /// The store is opened: its tables count as begun in the second `now`, as nobody knows better.
    pub fn opened(&mut self, now: Seconds) {
        for table in self.tables.iter_mut().flatten() {
            table.begun = now;
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
