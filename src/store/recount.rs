//! Whether the books are right: everything that is counted as it changes is counted once more from the index.

use std::collections::BTreeMap;

use super::Store;
use crate::disktable::catalog::TableState;
use crate::index::Cursor;
use crate::io::Io;
use crate::record::SizeClass;

/// A number that is not what counting gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miscount {
    /// Of a table's live records or their bytes.
    #[error("table {slot} ({state:?}): {kept:?} live records and bytes are noted, and {counted:?} counted")]
    Table {
        /// The table.
        slot: u32,
        /// Its state.
        state: TableState,
        /// Records and bytes that its catalog entry says.
        kept: (u64, u64),
        /// Records and bytes that the index points at there.
        counted: (u64, u64),
    },
    /// The index points into a table that holds nothing, or is not there.
    #[error("{count} entries of the index point into table {slot}, which is {state:?}")]
    Astray {
        /// The table.
        slot: u32,
        /// Its state; `None`: there is none.
        state: Option<TableState>,
        /// Entries that point there.
        count: u64,
    },
    /// Of the records of a size.
    #[error("{kept} records of size class {} are noted, and {counted} counted", class.0)]
    Class {
        /// The class.
        class: SizeClass,
        /// Its records as noted.
        kept: u64,
        /// Its records as counted.
        counted: u64,
    },
    /// Of all records.
    #[error("the index says that it has {kept} entries, and {counted} were counted")]
    Index {
        /// What it says.
        kept: u64,
        /// What a walk through it has met.
        counted: u64,
    },
}

impl<I: Io> Store<I> {
    /// Counts the records that the index points at, by table and by size, compares that with what the store has noted as
    /// they came and went, and returns their number. Walks the whole index; for tests and for whoever doubts.
    ///
    /// # Errors
    /// The first [`Miscount`].
    pub fn recount(&self) -> Result<u64, Miscount> {
        let state = self.shared.state.borrow();
        let (mut tables, mut classes) = (BTreeMap::<u32, (u64, u64)>::new(), BTreeMap::<u8, u64>::new());
        let mut cursor = Some(Cursor::START);
        while let Some(from) = cursor {
            cursor = state.index.walk(from, |_, entry| {
                let table = tables.entry(entry.pointer.slot).or_default();
                *table = (table.0 + 1, table.1 + entry.class.size() as u64);
                *classes.entry(entry.class.0).or_default() += 1;
            });
        }
        let counted = tables.values().map(|(count, _)| count).sum();
        for (slot, table) in state.catalog.iter() {
            let (kept, counted) = ((table.live_count, table.live_size), tables.remove(&slot).unwrap_or_default());
            if counted.0 > 0 && matches!(table.state, TableState::Free) {
                return Err(Miscount::Astray { slot, state: Some(table.state), count: counted.0 });
            }
            if kept != counted {
                return Err(Miscount::Table { slot, state: table.state, kept, counted });
            }
        }
        if let Some((slot, (count, _))) = tables.pop_first() {
            return Err(Miscount::Astray { slot, state: None, count });
        }
        let kept: BTreeMap<u8, u64> = state.catalog.class_counts().map(|(class, count)| (class.0, count)).collect();
        for class in 0..=u8::MAX {
            let of = |counts: &BTreeMap<u8, u64>| counts.get(&class).copied().unwrap_or(0);
            if of(&kept) != of(&classes) {
                return Err(Miscount::Class { class: SizeClass(class), kept: of(&kept), counted: of(&classes) });
            }
        }
        let kept = state.index.len() as u64;
        if kept != counted { Err(Miscount::Index { kept, counted }) } else { Ok(counted) }
    }

    /// The second in which all records are going to be flushed, if a delayed flush is pending.
    #[must_use]
    pub fn flush_due(&self) -> Option<crate::clock::Seconds> {
        self.shared.state.borrow().flush_due
    }
}
