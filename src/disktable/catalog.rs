//! The tables of a shard: which slots there are, what state each is in, and what of it is alive.

use std::rc::Rc;

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
}

/// All tables of a shard, by slot.
#[derive(Debug)]
pub struct Catalog<F> {
    tables: Vec<Option<Table<F>>>,
    /// Tables that there may be.
    pub table_count_max: usize,
    next_sequence: u64,
}

impl<F> Catalog<F> {
    /// No tables yet, and at most `table_count_max` ever.
    #[must_use]
    pub fn new(table_count_max: usize) -> Self {
        Self { tables: Vec::new(), table_count_max, next_sequence: 1 }
    }

    /// Adds a table in a slot that has none.
    pub fn insert(&mut self, slot: u32, file: Option<Rc<F>>, state: TableState, sequence: u64) {
        let index = slot as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        debug_assert!(self.tables[index].is_none(), "a slot has one table");
        self.tables[index] = Some(Table { file, state, sequence, live_count: 0, live_size: 0, guard_count: 0 });
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

    /// Begins a use of a free table with the next sequence.
    ///
    /// # Panics
    /// When the table is not free.
    pub fn begin(&mut self, slot: u32) -> TableUse {
        let sequence = self.next_sequence;
        let table = self.get_mut(slot).expect("the caller found the slot");
        assert_eq!(table.state, TableState::Free, "only free tables are begun");
        (table.state, table.sequence) = (TableState::Writing, sequence);
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
        }
    }

    /// A record of the table is not pointed at any more.
    pub fn remove_live(&mut self, slot: u32, class: SizeClass) {
        if let Some(table) = self.get_mut(slot) {
            debug_assert!(table.live_count > 0 && table.live_size >= class.size() as u64, "counted when it came");
            table.live_count = table.live_count.saturating_sub(1);
            table.live_size = table.live_size.saturating_sub(class.size() as u64);
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
    }

    /// Bytes of live records, by size class.
    #[must_use]
    pub fn live_size(&self) -> u64 {
        self.iter().map(|(_, table)| table.live_size).sum()
    }
}
