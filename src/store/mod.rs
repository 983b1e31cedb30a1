//! One shard's engine: what `lib.rs` exposes.
//!
//! A [`Store`] is used by one thread. What it does is done by ordinary functions: a write that finds room and a read of
//! a record that is in memory finish at once; any other says what it waits for, with nothing done yet, and is called
//! again ([`Obstacle`]). [`Store::seek`], [`Store::examine`] and the `try_` functions are these. The asynchronous
//! functions beside them are loops around them that do the waiting. Tasks in the background belong to each store: the
//! flusher, which writes new records to tables; the ticker, which sees to it that none waits in memory for longer than the
//! flush interval; the reclaimer, which moves older ones; and those that write checkpoints and look for what has expired.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir_in(".")?;
//! # let directory = directory.path().to_path_buf();
//! use dmacached::io::dma::DmaIo;
//! use dmacached::store::{Meta, Store, StoreOptions};
//!
//! glommio::LocalExecutorBuilder::default().make()?.run(async move {
//!     let io = DmaIo::new(&directory).await?;
//!     let options = StoreOptions {
//!         directory: directory.join("store"),
//!         capacity: 64 << 20,
//!         table_size: None,
//!         memory: 16 << 20,
//!         item_size_max: 1 << 20,
//!         evict: true,
//!         flush_interval: std::time::Duration::from_secs(1),
//!         durability: dmacached::store::Durability::Memory,
//!     };
//!     let store = Store::open(io, options, |_progress| {}).await?;
//!     store.set(b"key", b"value", Meta::default()).await;
//!     let value = store.get(b"key").await?.expect("it was just set");
//!     assert_eq!(value.bytes, b"value");
//!     store.close().await?;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! **Invariants:** no borrow of the state lives across an `await`. The check of a condition and the write that depends on
//! it happen in one call, so operations on a key are serial. Misses, refusals and full disks are
//! values; an `Err` means that the world failed.

mod ahead;
mod budget;
mod checkpoint;
mod commit;
mod crawl;
mod doubt;
mod flusher;
mod forget;
mod mover;
mod obstacle;
mod open;
mod read;
mod reclaim;
mod recount;
mod relocate;
mod scrub;
mod state;
#[cfg(test)]
mod tests;
mod times;
mod update;
mod walk;
mod write;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use dma_alloc::Buffer;

pub use ahead::AHEAD_COUNT;
pub use budget::MemoryPlan;
pub use commit::{CommitOutcome, Durability, Trace};
pub use obstacle::{DiskRead, Held, Obstacle, Sought};
pub use recount::Miscount;
pub use walk::{EvictionListener, Walked, Walker};
pub use write::Condition;

use crate::cache::CacheCounters;
use crate::clock::{ClockChange, Seconds};
use crate::disktable::catalog::{Table, TableState};
use crate::disktable::format::Identity;
use crate::error::OpenError;
use crate::index::Index;
use crate::io::{Event, Io};
use crate::limits::{SHARD_BITS, TABLE_COUNT_MIN};
use crate::record::{Header, Record};
use crate::recovery::DataDirectory;
use crate::stats::{StoreCounters, StoreGauges, TableGauges};
use state::State;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where it lives.
    pub directory: PathBuf,
    /// Bytes of disk that its tables may take.
    pub capacity: u64,
    /// Size of a table in bytes, a power of two; `None`: the store's own, or for a new one the default that fits the
    /// capacity.
    pub table_size: Option<u64>,
    /// Bytes of memory for index and buffers.
    pub memory: usize,
    /// Largest sum of key and value in bytes.
    pub item_size_max: usize,
    /// Whether the oldest records make room when disk or index are full; otherwise writes are refused then.
    pub evict: bool,
    /// How long a record may be in memory only.
    pub flush_interval: Duration,
    /// When a write counts as done.
    pub durability: Durability,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The value is stored, with this version.
    Stored(u64),
    /// Its condition did not hold.
    NotStored,
    /// The disk or the index is full, and nothing may be evicted.
    NoSpace,
    /// Key and value are larger than the store takes.
    TooLarge,
    /// The device has refused it, and the key has no value any more. Only with [`Durability::Sync`], and only from
    /// functions that wait.
    Failed,
}

/// What a delete or a touch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is done.
    Done,
    /// There is no such record.
    NotFound,
    /// The disk is so full that it cannot even be noted that a record is gone.
    NoSpace,
    /// It is done in memory, but the device has refused it: the next start may not know of it. Only with
    /// [`Durability::Sync`], and only from functions that wait.
    Failed,
}

/// What becomes of a record in [`Store::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Nothing.
    Keep,
    /// It gets the value in the scratch buffer.
    Replace(Meta),
    /// It gets this expiry; its version stays. Nothing, when there is no record.
    Touch(Seconds),
    /// It is deleted. Nothing, when there is no record.
    Delete,
}

/// What is stored beside a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The client's 32 bits.
    pub client_flags: u32,
    /// Unix second at which the record is gone; 0 = never.
    pub expiry: Seconds,
    /// Bits of the protocols, of which there are 15.
    pub bits: u16,
    /// The CAS unique, if it is not to be a new one: see [`Store::cas_of`].
    pub own_cas: Option<u64>,
}

/// A device read failed. The record may be readable later.
#[derive(Debug, thiserror::Error)]
#[error("a record could not be read from disk")]
pub struct ReadFailed;

/// A value with what belongs to it, copied out of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The client's 32 bits.
    pub client_flags: u32,
    /// Version of the record.
    pub version: u64,
}

/// A store of one shard. Clones are handles to the same one.
pub struct Store<I: Io> {
    shared: Rc<Shared<I>>,
}

impl<I: Io> Clone for Store<I> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

struct Shared<I: Io> {
    io: I,
    identity: Identity,
    /// Of the superblock, as long as the store is used.
    generation: u64,
    shard_directory: PathBuf,
    options: StoreOptions,
    plan: MemoryPlan,
    salt: crate::digest::Salt,
    state: RefCell<State<I::File>>,
    write_times: Rc<RefCell<times::WriteTimes>>,
    evictions: RefCell<Option<Rc<dyn EvictionListener>>>,
    /// The memory budget; the plan's until it is changed.
    memory_total: Cell<usize>,
    directory: Cell<Option<DataDirectory<I>>>,
    /// There are jobs for the flusher.
    work: Event,
    /// There may be something to reclaim.
    reclaim_asked: Event,
    /// A job is done: there may be room.
    progress: Event,
    /// A read has ended: there may be room in the read budget.
    read_done: Event,
    read_buffers: RefCell<Vec<Buffer>>,
    /// Where the new value of an update is made.
    scratch: Cell<Vec<u8>>,
    announced: ahead::SharedAnnounced,
    scrub: scrub::Scrub,
    crawler: crawl::Crawler,
}

impl<I: Io> Store<I> {
    /// The value of `key`, copied.
    ///
    /// # Errors
    /// [`ReadFailed`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadFailed> {
        let copy = |record: Record<'_>| Value {
            bytes: record.value.to_vec(),
            client_flags: record.header.client_flags,
            version: record.header.version,
        };
        self.read(key, copy).await
    }

    /// Stores `value` under `key`, whatever was there.
    pub async fn set(&self, key: &[u8], value: &[u8], meta: Meta) -> Stored {
        self.put(key, value, meta, Condition::Always).await
    }

    /// The version as clients see it: unique in the whole store, as the shard's number is in its low bits.
    #[must_use]
    pub fn cas_unique(&self, version: u64) -> u64 {
        version << SHARD_BITS | u64::from(self.shared.identity.shard)
    }

    /// The CAS unique of a record: its own, or the one that its version makes.
    #[must_use]
    pub fn cas_of(&self, header: &Header) -> u64 {
        header.own_cas.unwrap_or_else(|| self.cas_unique(header.version))
    }

    /// Makes all CAS uniques that are given out from now on larger than `cas`, so that a client that knows it cannot take
    /// a later record for the one that has it now. Those in the last quarter of all are passed over: no store comes near.
    pub fn pass_cas(&self, cas: u64) {
        let version = cas >> SHARD_BITS;
        if cas < u64::MAX / 4 * 3 {
            let mut state = self.shared.state.borrow_mut();
            state.version = state.version.max(version);
        }
    }

    /// When the write with this version happened, as far as is known: the second of the write, or one remembered before
    /// it. Of writes before the store was opened, the second in which it was.
    #[must_use]
    pub fn written_at(&self, version: u64) -> Seconds {
        self.shared.write_times.borrow().of(version)
    }

    /// What the store has done.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        let state = self.shared.state.borrow();
        let CacheCounters { hits, inserts, evictions, .. } = state.index.counters();
        let counters = StoreCounters { cache_hits: hits, cache_inserts: inserts, ..state.counters };
        StoreCounters { cache_evictions: evictions, ..counters }
    }

    /// How things stand.
    #[must_use]
    pub fn gauges(&self) -> StoreGauges {
        let state = self.shared.state.borrow();
        let gauges = state.gauges(self.shared.memory_total.get());
        let MemoryPlan { reads, moving, .. } = self.shared.plan;
        StoreGauges {
            tables_reserved: state.reserve() as u64,
            read_buffer_bytes: reads as u64,
            reclaim_buffer_bytes: moving as u64,
            reclaim_rate: state.throttle.rate(),
            reclaim_read_goal: state.throttle.goal(),
            ..gauges
        }
    }

    /// How things stand in each table, by slot.
    #[must_use]
    pub fn tables(&self) -> Vec<TableGauges> {
        let (state, table_size) = (self.shared.state.borrow(), self.shared.identity.table_size);
        let gauges = |(slot, table): (u32, &Table<I::File>)| TableGauges {
            slot,
            sequence: table.sequence,
            live_bytes: table.live_size,
            room_bytes: if table.state == TableState::Free { 0 } else { table.room(table_size) },
        };
        state.catalog.iter().map(gauges).collect()
    }

    /// How many records there are of each size in bytes, from small to large. Only the size class of a record is known,
    /// so its size is up to an eighth less than this says.
    #[must_use]
    pub fn sizes(&self) -> Vec<(usize, u64)> {
        let state = self.shared.state.borrow();
        state.catalog.class_counts().map(|(class, count)| (class.size(), count)).collect()
    }

    /// How the memory budget is divided.
    #[must_use]
    pub fn memory_plan(&self) -> MemoryPlan {
        self.shared.plan
    }

    /// Changes the memory budget to `total` bytes, which gives to the index or takes from it, and says whether it could:
    /// buffers stay as they are, and what the index has in use, too.
    #[must_use]
    pub fn set_memory(&self, total: usize) -> bool {
        let MemoryPlan { total: planned, index, .. } = self.shared.plan;
        let Some(index_size) = total.checked_sub(planned - index) else { return false };
        let is_changed =
            index_size >= 2 * Index::BASE_SIZE && self.shared.state.borrow_mut().index.set_budget(index_size);
        if is_changed {
            self.shared.memory_total.set(total);
            // There may be room where there was none.
            self.shared.progress.notify();
        }
        is_changed
    }

    /// Whether records that are read again and again are cached in memory.
    #[must_use]
    pub fn is_cache_enabled(&self) -> bool {
        self.shared.state.borrow().index.is_enabled()
    }

    /// Turns the hot cache on or off; at first it is on. It gives its memory back little by little.
    pub fn enable_cache(&self, is_enabled: bool) {
        self.shared.state.borrow_mut().index.enable(is_enabled);
    }

    /// Changes how many bytes the hot cache may take of what the index leaves, at first all; 0: there is none.
    pub fn set_cache_max(&self, size: usize) {
        self.shared.state.borrow_mut().index.set_cache_max(size);
    }

    /// The wall clock of the store's world.
    #[must_use]
    pub fn now(&self) -> Seconds {
        self.shared.io.now()
    }

    /// Changes that clock, so that a test need not wait.
    pub fn change_clock(&self, change: ClockChange) {
        self.shared.io.change_clock(change);
    }

    /// Returns when everything written so far is on stable media.
    pub async fn flush(&self) {
        let number = self.shared.flush_active(true);
        self.shared.synced(number).await;
    }

    /// Flushes everything, seals the table that is being written and marks the store as cleanly stopped. Nothing may
    /// be written afterwards.
    ///
    /// # Errors
    /// When the superblock cannot be written; the next start treats the stop as a crash.
    pub async fn close(&self) -> Result<(), OpenError> {
        self.shared.begin_closing();
        self.shared.reclaimer_ended().await;
        self.shared.queue_last_job();
        self.shared.drained().await;
        self.shared.checkpoint_idle().await;
        self.shared.scrub.has_no_read().await;
        let is_sound = self.shared.state.borrow().counters.disk_write_errors == 0;
        if is_sound {
            self.shared.write_last_checkpoint().await;
        }
        let version = self.shared.state.borrow().version;
        match self.shared.directory.take() {
            Some(directory) if is_sound => directory.close(version),
            Some(_) => {
                tracing::warn!("the device has failed since the store was opened: the next start looks at all of it");
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// A broken device fails at every request: the first failures are told one by one, then only each time their number has
/// doubled.
fn worth_logging(count: u64) -> bool {
    count <= 10 || count.is_power_of_two()
}

/// Tables that `capacity` pays for.
fn table_count(capacity: u64, table_size: u64) -> Result<usize, OpenError> {
    let count = usize::try_from(capacity / table_size).unwrap_or(usize::MAX);
    if count < TABLE_COUNT_MIN {
        return Err(OpenError::Capacity { capacity, table_size });
    }
    let most = crate::index::Index::slot_count_max(usize::try_from(table_size).unwrap_or(usize::MAX));
    if count > most {
        return Err(OpenError::CapacityTooLarge { capacity, table_size, most });
    }
    Ok(count)
}
