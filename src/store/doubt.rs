//! Tables of which nobody knows what is on stable media, as a sync of them has failed.
//!
//! The system tells of such a failure once: a sync that succeeds later says nothing of what the failed one was for. What is in
//! a **doubtful** table can be read as long as the device has power, so what is needed of it is moved to another table, before
//! any other is emptied. Until then nothing is freed, as the originals of what was moved there, or what its records have
//! replaced, may be all that a power cut leaves; and no piece of a checkpoint gets its name, as it would vouch for
//! what may not be there.
//!
//! A store of so few tables that nothing is moved goes on as it is: what is in its doubtful tables is nowhere else.

use std::io;

use super::Shared;
use super::reclaim::Method;
use super::state::State;
use super::worth_logging;
use crate::clock::Seconds;
use crate::disktable::catalog::{Table, TableState};
use crate::io::{File, Io};
use crate::memtable::TableUse;

impl<I: Io> Shared<I> {
    /// Makes everything that was written to a table stable, and says whether it could.
    pub(super) async fn make_stable(&self, table: TableUse) -> bool {
        let Err(error) = self.file(table).sync().await else { return true };
        let mut state = self.state.borrow_mut();
        state.counters.disk_write_errors += 1;
        // It may have been used anew meanwhile: then that is what was to be made stable.
        let table = state.catalog.usage(table.slot).map_or(table, |(_, now)| now);
        state.doubt(table, &error);
        self.notify_work(&state);
        false
    }
}

impl<F> State<F> {
    /// A sync of the table has failed with `error`, which is counted already: nothing more goes to it, and it gets no footer,
    /// which would vouch for records that may not be there.
    pub(super) fn doubt(&mut self, table: TableUse, error: &io::Error) {
        if self.is_doubtful(table) {
            return;
        }
        if worth_logging(self.counters.disk_write_errors) {
            tracing::error!(
                "making table {} stable failed: {error}. Nothing more is written to it, and what is needed of it is moved",
                table.slot
            );
        }
        self.doubtful.push(table);
        self.leave_table(table);
        for mover in &mut self.movers {
            mover.is_to_seal |= mover.table() == Some(table);
        }
        self.ask_reclaimer();
    }

    /// Whether nobody knows what of a table is on stable media.
    pub(super) fn is_doubtful(&self, table: TableUse) -> bool {
        self.doubtful.contains(&table)
    }

    /// Whether there is any such table.
    pub(super) fn has_doubtful(&self) -> bool {
        self.doubtful().next().is_some()
    }

    /// What is needed of a table is on stable media elsewhere, or cannot be had.
    pub(super) fn is_settled(&mut self, table: TableUse) {
        self.doubtful.retain(|doubtful| *doubtful != table);
    }

    /// Whether nothing may be freed before doubtful tables have been emptied. One that is still written to does not count: it
    /// may take a free table to end it.
    pub(super) fn is_held_up_by_doubt(&self) -> bool {
        let is_complete = |table: &Table<F>| matches!(table.state, TableState::Sealing | TableState::Sealed);
        self.moves() && self.doubtful().any(|(_, table)| is_complete(table))
    }

    /// The doubtful table that is emptied next, and how.
    pub(super) fn first_doubtful(&self, now: Seconds) -> Option<(u32, Method)> {
        if !self.moves() {
            return None;
        }
        let may_be = |table: &Table<F>| table.state == TableState::Sealed && !table.is_kept(now);
        let first = self.doubtful().filter(|(_, table)| may_be(table)).min_by_key(|(_, table)| table.sequence);
        let (slot, table) = first?;
        // A table can be made for it as long as there are fewer than there may be.
        let fits = self.catalog.vacant_slot().is_some() || table.live_size + table.guard_size <= self.room_for_copies();
        let method =
            if fits { Some(Method::Move) } else { (self.evict && self.is_short_of_tables()).then_some(Method::Evict) };
        method.map(|method| (slot, method))
    }

    fn doubtful(&self) -> impl Iterator<Item = (u32, &Table<F>)> {
        let of = |doubtful: &TableUse| {
            let table = self.catalog.get(doubtful.slot).filter(|table| table.sequence == doubtful.sequence);
            table.map(|table| (doubtful.slot, table))
        };
        self.doubtful.iter().filter_map(of)
    }
}
