//! Opening a store.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::ahead::SharedAnnounced;
use super::budget::MemoryPlan;
use super::checkpoint::CheckpointState;
use super::commit::Groups;
use super::mover::{MOVER_COUNT, Mover};
use super::reclaim::Reclaimer;
use super::state::{Lane, State};
use super::times::WriteTimes;
use super::{Shared, Store, StoreOptions, table_count};
use crate::cache::CachedIndex;
use crate::clock::Seconds;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::Identity;
use crate::disktable::writer::{self, TableWriter};
use crate::error::OpenError;
use crate::index::Index;
use crate::io::{Event, Io};
use crate::limits::{
    RECOVERY_MEMORY_PARTS, RECOVERY_MEMORY_SIZE_MIN, TABLE_COUNT_MIN, TABLE_SIZE_DEFAULT, TABLE_SIZE_MIN, VERSION_GAP,
};
use crate::memtable::{Memtable, TableUse};
use crate::mutants::{Mutant, has};
use crate::reclaim::throttle::Throttle;
use crate::reclaim::victim::{Separation, Stream};
use crate::record::{OWN_CAS_SIZE, record_size};
use crate::recovery::checkpoint::Position;
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
        mut directory: DataDirectory<I>,
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
            generation: superblock.generation,
            memory_size: (plan.total / RECOVERY_MEMORY_PARTS).max(RECOVERY_MEMORY_SIZE_MIN),
            was_clean: directory.was_clean(),
        };
        let started = io.monotonic();
        let mut recovered = recover(&io, shard, &mut index, &mut catalog, progress).await?;
        let resumed = recovered.writer.is_some();
        recovered.version = recovered.version.max(superblock.version);
        if !directory.was_clean() && !has(Mutant::VersionGapForgotten) {
            // Noted before it is used: if nothing of this use reaches the tables, the next one must not begin here again.
            recovered.version += VERSION_GAP;
            directory.note_version(recovered.version)?;
        }
        let mut blocks = io.block_buffers(plan.block_count, plan.block_size);
        let mut copies = std::mem::take(&mut recovered.copies).into_iter();
        let movers = [(); MOVER_COUNT].map(|()| {
            let blocks = Memtable::new(blocks.split_off(blocks.len() - 1), 0);
            Mover::new(blocks, copies.next())
        });
        let memtable = Memtable::new(blocks, plan.large);
        let index = CachedIndex::new(index, size, superblock.salt, plan.index, usize::MAX);
        let mut state = new_state(&plan, &options, (index, memtable, movers, catalog), recovered, io.now());
        state.catalog.opened(state.now, state.version);
        let took = io.monotonic().saturating_sub(started);
        state.counters.recovery_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let shared = new_shared(io, options, plan, (directory, shard_directory, identity), state);
        let store = Self { shared: Rc::new(shared) };
        store.shared.shrink().await?;
        store.shared.first_tables(resumed).await?;
        store.start();
        Ok(store)
    }
}

/// What the tasks of a store share, before any is started.
fn new_shared<I: Io>(
    io: I,
    options: StoreOptions,
    plan: MemoryPlan,
    (directory, shard_directory, identity): (DataDirectory<I>, PathBuf, Identity),
    state: State<I::File>,
) -> Shared<I> {
    let superblock = directory.superblock();
    Shared {
        write_times: Rc::clone(&state.write_times),
        memory_total: Cell::new(plan.total),
        evictions: RefCell::default(),
        io,
        identity,
        generation: superblock.generation,
        shard_directory,
        options,
        plan,
        salt: superblock.salt,
        state: RefCell::new(state),
        directory: Cell::new(Some(directory)),
        work: Event::default(),
        reclaim_asked: Event::default(),
        progress: Event::default(),
        read_done: Event::default(),
        read_buffers: RefCell::default(),
        scratch: Cell::default(),
        announced: SharedAnnounced::default(),
        scrub: Default::default(),
        crawler: Default::default(),
    }
}

/// The state of a store that was just recovered.
fn new_state<F>(
    plan: &MemoryPlan,
    options: &StoreOptions,
    (index, memtable, movers, catalog): (CachedIndex, Memtable, [Mover; MOVER_COUNT], Catalog<F>),
    recovered: Recovered,
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
    let separation = Separation::new(catalog.table_count_max);
    State {
        index,
        memtable,
        catalog,
        parked: Lane::unused(table_size, plan.summary_count_max),
        lane: Stream::NewShort,
        writer: recovered.writer.unwrap_or_else(|| TableWriter::new(stand_in, table_size, plan.summary_count_max)),
        ready: None,
        exhausted: false,
        is_on_reserve: false,
        is_creating: false,
        jobs: VecDeque::new(),
        busy: false,
        closing: false,
        is_last_job_queued: false,
        movers,
        separation,
        reclaimer: Reclaimer::default(),
        unsynced: false,
        sync_asked: 0,
        sync_done: 0,
        spoiled: false,
        // The table that it is noted in may go before it is due.
        repeat_flush: recovered.flush_due.is_some(),
        now,
        sweep_after: 0,
        crawl_count: 0,
        version: recovered.version,
        flush_due: recovered.flush_due,
        failed: Vec::new(),
        doubtful: Vec::new(),
        groups: Groups::new(options.durability),
        unburied: Vec::new(),
        burial_pause: 0,
        burial_wait: 0,
        counters,
        table_size,
        summary_count_max: plan.summary_count_max,
        evict: options.evict,
        read_size: 0,
        reads_in_flight: 0,
        last_read: Duration::ZERO,
        throttle: Throttle::new(),
        write_times: Rc::new(RefCell::new(WriteTimes::new(now))),
        checkpoint: CheckpointState::after(recovered.checkpoint, recovered.is_partial),
        ends_at: Position::default(),
        closed_at: None,
    }
}

impl<I: Io> Shared<I> {
    /// Removes tables beyond the capacity, when that is smaller than it was: free ones first, then the oldest. As long as others
    /// can be emptied, some free ones stay: what goes may have to leave a tombstone behind.
    async fn shrink(&self) -> Result<(), OpenError> {
        loop {
            let (free, is_spare) = {
                let state = self.state.borrow();
                if state.catalog.len() <= state.catalog.table_count_max {
                    return Ok(());
                }
                let is_spare = state.catalog.count(TableState::Free) > state.reserve().max(1);
                (state.catalog.free_slot(), is_spare)
            };
            if !is_spare && self.drop_table().await.is_some() {
                continue;
            }
            let Some(slot) = free else {
                let (count, most) = (self.state.borrow().catalog.len(), self.state.borrow().catalog.table_count_max);
                tracing::warn!(
                    "the store has {count} tables, --capacity allows {most}, and no other table can be emptied"
                );
                return Ok(());
            };
            self.state.borrow_mut().catalog.take(slot);
            let path = table_path(&self.shard_directory, slot);
            self.io.remove(&path).map_err(OpenError::io("remove", &path))?;
        }
    }

    /// Empties a table without moving anything, and returns its slot.
    pub(super) async fn drop_table(&self) -> Option<u32> {
        let (slot, method) = self.state.borrow().next_to_drop(self.io.now())?;
        self.reclaim(slot, method).await.ok().map(|()| slot)
    }

    fn no_room(&self) -> OpenError {
        let (path, source) = (self.shard_directory.clone(), std::io::ErrorKind::StorageFull.into());
        OpenError::NoRoom { path, table_size: self.identity.table_size, source }
    }

    /// Makes sure that there is a table to write to and, if the disk has room, one for when that is full.
    async fn first_tables(&self, resumed: bool) -> Result<(), OpenError> {
        if !resumed {
            self.prepare().await;
            while self.state.borrow().ready.is_none() && self.reclaim_if_due().await {
                self.prepare().await;
            }
            let ready = self.state.borrow_mut().ready.take();
            let slot = ready.or_else(|| self.state.borrow().catalog.free_slot()).ok_or_else(|| self.no_room())?;
            let table = self.state.borrow_mut().begin_table(slot, Stream::NewShort);
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
        if usable < TABLE_COUNT_MIN && state.catalog.table_count_max < TABLE_COUNT_MIN {
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
