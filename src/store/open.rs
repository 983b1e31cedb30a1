//! Opening a store.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::ahead::SharedAnnounced;
use super::budget::MemoryPlan;
use super::state::State;
use super::times::WriteTimes;
use super::{Shared, Store, StoreOptions, table_count};
use crate::clock::Seconds;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::Identity;
use crate::disktable::writer::{self, TableWriter};
use crate::error::OpenError;
use crate::index::Index;
use crate::io::{Event, Io};
use crate::limits::{TABLE_COUNT_MIN, TABLE_SIZE_DEFAULT, TABLE_SIZE_MIN, VERSION_GAP};
use crate::memtable::{Memtable, TableUse};
use crate::record::{OWN_CAS_SIZE, record_size};
use crate::recovery::tables::table_path;
use crate::recovery::{DataDirectory, Geometry, Progress, Recovered, recover, replay};
use crate::stats::StoreCounters;

/// The table size of a new store: the default, or less when the capacity is small, so that there are at least eight
/// tables.
pub(super) fn table_size_for(capacity: u64) -> u64 {
    let eighth = (capacity / 8).max(1);
    (1 << eighth.ilog2()).clamp(TABLE_SIZE_MIN as u64, TABLE_SIZE_DEFAULT as u64)
}

impl<I: Io> Store<I> {
    /// Opens the store in `options.directory`, making it if the directory is empty, and builds its index; `progress`
    /// hears of each table.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(io: I, options: StoreOptions, progress: impl FnMut(Progress)) -> Result<Self, OpenError> {
        let table_size_default = table_size_for(options.capacity);
        let geometry = Geometry { table_size: options.table_size, table_size_default, shard_count: 1 };
        // Before anything is made on disk; once more below, with the size that the store has.
        table_count(options.capacity, options.table_size.unwrap_or(table_size_default))?;
        let directory = DataDirectory::open(&io, &options.directory, geometry)?;
        Self::open_shard(io, directory, options, progress).await
    }

    async fn open_shard(
        io: I,
        directory: DataDirectory<I>,
        options: StoreOptions,
        progress: impl FnMut(Progress),
    ) -> Result<Self, OpenError> {
        let superblock = *directory.superblock();
        let (capacity, table_size) = (options.capacity, superblock.table_size);
        let size = usize::try_from(table_size).map_err(|_| OpenError::Capacity { capacity, table_size })?;
        let table_count_max = table_count(capacity, table_size)?;
        if !TableWriter::fits_empty(size, record_size(0, options.item_size_max) + OWN_CAS_SIZE) {
            return Err(OpenError::ItemSize { item_size: options.item_size_max, table_size });
        }
        let plan = MemoryPlan::new(options.memory, options.item_size_max, size)?;
        let shard_directory = directory.shard_path(0);
        io.create_directory(&shard_directory).map_err(OpenError::io("make", &shard_directory))?;
        let identity = Identity { store_id: superblock.store_id, shard: 0, slot: 0, table_size };
        let mut index = Index::new(plan.index, size);
        let mut catalog = Catalog::new(table_count_max);
        let shard = replay::Shard {
            directory: &shard_directory,
            identity,
            salt: &superblock.salt,
            summary_count_max: plan.summary_count_max,
            may_evict: options.evict,
        };
        let started = io.monotonic();
        let recovered = recover(&io, shard, &mut index, &mut catalog, progress).await?;
        let resumed = recovered.writer.is_some();
        let gap = if directory.was_clean() { 0 } else { VERSION_GAP };
        let memtable = Memtable::new(io.block_buffers(plan.block_count, plan.block_size), plan.large);
        let mut state = new_state(&plan, &options, (index, memtable, catalog), recovered, gap, io.now());
        state.catalog.opened(state.now);
        let took = io.monotonic().saturating_sub(started);
        state.counters.recovery_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let write_times = Rc::clone(&state.write_times);
        let shared = Shared {
            write_times,
            memory_total: Cell::new(plan.total),
            evictions: RefCell::default(),
            io,
            identity,
            shard_directory,
            options,
            plan,
            salt: superblock.salt,
            state: RefCell::new(state),
            directory: Cell::new(Some(directory)),
            work: Event::default(),
            progress: Event::default(),
            read_done: Event::default(),
            read_buffers: RefCell::default(),
            scratch: Cell::default(),
            announced: SharedAnnounced::default(),
        };
        let store = Self { shared: Rc::new(shared) };
        store.shared.shrink().await?;
        store.shared.first_tables(resumed).await?;
        store.start();
        Ok(store)
    }
}

/// The state of a store that was just recovered. `version_gap` is what lies between its last version and the next one.
fn new_state<F>(
    plan: &MemoryPlan,
    options: &StoreOptions,
    (index, memtable, catalog): (Index, Memtable, Catalog<F>),
    recovered: Recovered,
    version_gap: u64,
    now: Seconds,
) -> State<F> {
    let table_size = plan.table_size;
    // A store without a table to go on with gets one before anybody sees the stand-in.
    let stand_in = TableUse { slot: u32::MAX, sequence: 0 };
    let counters = StoreCounters {
        recovered_records: recovered.record_count,
        evictions: recovered.evicted_count,
        ..StoreCounters::default()
    };
    State {
        index,
        memtable,
        catalog,
        writer: recovered.writer.unwrap_or_else(|| TableWriter::new(stand_in, table_size, plan.summary_count_max)),
        ready: None,
        exhausted: false,
        jobs: VecDeque::new(),
        busy: false,
        closing: false,
        unsynced: false,
        sync_asked: 0,
        sync_done: 0,
        spoiled: false,
        repeat_flush: false,
        now,
        sweep_after: 0,
        version: recovered.version + version_gap,
        flush_due: recovered.flush_due,
        failed: Vec::new(),
        counters,
        table_size,
        summary_count_max: plan.summary_count_max,
        evict: options.evict,
        read_size: 0,
        reads_in_flight: 0,
        write_times: Rc::new(RefCell::new(WriteTimes::new(now))),
    }
}

impl<I: Io> Shared<I> {
    /// Removes tables beyond the capacity, when that is smaller than it was: free ones first, then the oldest.
    async fn shrink(&self) -> Result<(), OpenError> {
        loop {
            let free = {
                let state = self.state.borrow();
                if state.catalog.len() <= state.catalog.table_count_max {
                    return Ok(());
                }
                state.catalog.free_slot()
            };
            let slot = match free {
                Some(slot) => Some(slot),
                None => self.reclaim_table().await,
            };
            let Some(slot) = slot else {
                tracing::warn!(
                    "the store has more tables than --capacity allows, and nothing may be evicted from them"
                );
                return Ok(());
            };
            self.state.borrow_mut().catalog.take(slot);
            let path = table_path(&self.shard_directory, slot);
            self.io.remove(&path).map_err(OpenError::io("remove", &path))?;
        }
    }

    fn no_room(&self) -> OpenError {
        let (path, source) = (self.shard_directory.clone(), std::io::ErrorKind::StorageFull.into());
        OpenError::NoRoom { path, table_size: self.identity.table_size, source }
    }

    /// Makes sure that there is a table to write to and, if the disk has room, one for when that is full.
    async fn first_tables(&self, resumed: bool) -> Result<(), OpenError> {
        if !resumed {
            self.prepare().await;
            let Some(slot) = self.state.borrow_mut().ready.take() else {
                return Err(self.no_room());
            };
            let table = self.state.borrow_mut().begin_table(slot);
            let (file, identity) = (self.file(table), Identity { slot, ..self.identity });
            let path = table_path(&self.shard_directory, slot);
            let written = writer::write_header(&*file, identity, table.sequence, self.io.now()).await;
            written.map_err(OpenError::io("write", &path))?;
            let mut state = self.state.borrow_mut();
            state.writer = TableWriter::new(table, state.table_size, self.plan.summary_count_max);
        }
        self.prepare().await;
        let state = self.state.borrow();
        let usable = state.catalog.len() - state.catalog.count(TableState::Unusable);
        if usable < 2 {
            // The table being written can never be emptied: the store would be full once and for all.
            return Err(self.no_room());
        }
        if usable < TABLE_COUNT_MIN && state.exhausted {
            tracing::warn!("there is room for {usable} tables only");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{GIB, MIB};

    #[test]
    fn small_stores_have_small_tables() {
        assert_eq!(table_size_for(8 * GIB as u64), TABLE_SIZE_DEFAULT as u64);
        assert_eq!(table_size_for(100 * MIB as u64), 8 * MIB as u64);
        assert_eq!(table_size_for(4 * MIB as u64), TABLE_SIZE_MIN as u64);
    }
}
