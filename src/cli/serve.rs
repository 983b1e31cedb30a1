//! `dmacached serve`: from flags to a running server and back.

use std::io::IsTerminal;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dma_alloc::{Pool, PoolClass, PoolOptions};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::arguments::{BadFlag, ServeArguments};
use super::progress::ProgressLine;
use super::sizes::show_size;
use crate::clock::wall_seconds;
use crate::error::OpenError;
use crate::io::Io;
use crate::io::dma::DmaIo;
use crate::io::probe::{Unfit, check_host, free_space, raise_open_files};
use crate::io::ring::sleep::Bell;
use crate::io::ring::{Ring, RingIo};
use crate::limits::{
    CAPACITY_DEFAULT_MAX, KIB, MIB, PAGE_SIZE, SPIN_CPU_COUNT_MIN, SPIN_US_DEFAULT, TABLE_COUNT_MIN,
    TABLE_SIZE_DEFAULT, TABLE_SIZE_MIN,
};
use crate::server::signals::StopSignals;
use crate::server::{Address, BindError, Listeners, Server, ServerOptions};
use crate::shard::{Facts, Shard};
use crate::stats::ConnectionCounters;
use crate::store::{MemoryPlan, Store, StoreOptions};

/// Entries of glommio's rings, which carry the long streams only.
const RING_DEPTH: usize = 256;
/// glommio registers its I/O memory with three rings, and three times this counts against RLIMIT_MEMLOCK, which the
/// shard's own ring needs.
const IO_MEMORY_SIZE: usize = 256 * KIB;
/// Places for descriptors beyond the tables that the capacity pays for: a store may have more from before.
const SPARE_TABLES: usize = 16;
/// Descriptors that are neither connections nor tables.
const SPARE_FILES: u64 = 64;

/// Why the server does not start, or has ended in disorder.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Flag(#[from] BadFlag),
    #[error(transparent)]
    Host(#[from] Unfit),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(
        "-c {connections} and {tables} tables need {wanted} open files, the limit is {limit}: raise it with \
            `ulimit -n`, lower -c, or raise --table-size"
    )]
    OpenFiles { connections: usize, tables: u64, wanted: u64, limit: u64 },
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot make the shard's ring: {0}")]
    Ring(std::io::Error),
    #[error("cannot start the shard: {0}")]
    Executor(String),
}

/// Serves until a signal comes.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), ServeError> {
    arguments.check()?;
    let addresses = arguments.addresses()?;
    log_to_stderr(arguments.verbosity);
    check_host()?;
    let signals = StopSignals::catch().map_err(ServeError::Signals)?;
    // One shard so far, and its thread may run anywhere; placing shards on cores comes with more of them.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("shard-0")
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY_SIZE)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
        .make()
        .map_err(|error| ServeError::Executor(error.to_string()))?;
    executor.run(serve(arguments, &addresses, signals))
}

fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => tracing::Level::INFO,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn serve(arguments: &ServeArguments, addresses: &[Address], signals: StopSignals) -> Result<(), ServeError> {
    let dma = open_directory(&arguments.data_dir).await?;
    let options = store_options(arguments)?;
    check_open_files(arguments, &options)?;
    // Before the recovery, which may take long: a port that is taken is known at once, and clients that come early
    // wait in the backlog.
    let listeners = Listeners::bind(addresses, arguments.backlog)?;
    let io = with_ring(dma, arguments, &options)?;
    let stop = watch_signals(signals, io.bell());
    let mut progress = ProgressLine::new();
    let opened = Store::open(io.clone(), options, |state| progress.show(state)).await;
    progress.finish();
    let store = opened?;
    announce(&store, arguments);
    announce_ring(io.ring());
    let connections = Rc::new(ConnectionCounters::default());
    let shard = Shard::new(store, Rc::clone(&connections), facts(arguments, &listeners));
    stop.serving.store(true, Ordering::Release);
    for address in listeners.addresses() {
        tracing::info!("listening on {address}");
    }
    let server = Server::new(io, shard, connections, listeners, server_options(arguments)?);
    server.run(|| stop.requested.load(Ordering::Acquire)).await?;
    tracing::info!("stopped, everything is on disk");
    Ok(())
}

/// Makes the shard's ring, with memory for reads and write blocks as the budget has it.
fn with_ring(dma: DmaIo, arguments: &ServeArguments, options: &StoreOptions) -> Result<RingIo, ServeError> {
    // A store that does not open needs none: what is wrong is told when it is opened.
    let smallest = PoolClass { size: PAGE_SIZE, count: 1 };
    let plan = MemoryPlan::for_store(&dma, options);
    let reads = plan.map_or_else(|| vec![smallest], |plan| plan.read_classes());
    let blocks = plan.map_or(smallest, |plan| plan.block_class());
    let pool = |classes: &[PoolClass]| Pool::new(classes, PoolOptions::default()).map_err(std::io::Error::from);
    let (reads, blocks) = (pool(&reads).map_err(ServeError::Ring)?, pool(&[blocks]).map_err(ServeError::Ring)?);
    let table_size = plan.map_or(TABLE_SIZE_DEFAULT, |plan| plan.table_size) as u64;
    let tables = usize::try_from(options.capacity / table_size).unwrap_or(usize::MAX);
    let ring = Ring::new(reads, blocks, arguments.connections, tables + SPARE_TABLES).map_err(ServeError::Ring)?;
    RingIo::new(dma, ring).map_err(ServeError::Ring)
}

/// Says what could not be registered, and how to have it.
fn announce_ring(ring: &Ring) {
    let (registered, whole) = ring.registered_size();
    if registered < whole {
        tracing::warn!(
            "the memlock limit lets {} of {} of I/O buffers be registered: transfers to the rest cost about a \
                microsecond more each. `ulimit -l unlimited`, LimitMEMLOCK=infinity in the systemd unit, or CAP_IPC_LOCK \
                lifts it",
            show_size(registered as u64),
            show_size(whole as u64)
        );
    }
}

fn server_options(arguments: &ServeArguments) -> Result<ServerOptions, BadFlag> {
    let cpu_count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let spin_default = if cpu_count > SPIN_CPU_COUNT_MIN { SPIN_US_DEFAULT } else { 0 };
    Ok(ServerOptions {
        requests_per_turn: arguments.requests_per_turn,
        idle_timeout: arguments.extended()?.idle_timeout,
        spin: Duration::from_micros(arguments.spin_us.unwrap_or(spin_default)),
    })
}

/// Makes sure of the data directory and finds out how its files are to be opened.
async fn open_directory(path: &Path) -> Result<DmaIo, OpenError> {
    let not_writable = |source| OpenError::NotWritable { path: path.to_path_buf(), source };
    std::fs::create_dir_all(path).map_err(not_writable)?;
    let io = DmaIo::new(path).await.map_err(not_writable)?;
    if !io.is_direct() {
        tracing::warn!(
            "{} is on a file system without O_DIRECT (a tmpfs?): its pages are kept in memory beside the budget \
                of -m, and nothing there may survive a reboot",
            path.display()
        );
    }
    Ok(io)
}

fn store_options(arguments: &ServeArguments) -> Result<StoreOptions, OpenError> {
    let capacity = match arguments.capacity {
        Some(capacity) => capacity,
        None => default_capacity(&arguments.data_dir, arguments.table_size)?,
    };
    Ok(StoreOptions {
        directory: arguments.data_dir.clone(),
        capacity,
        table_size: arguments.table_size,
        memory: arguments.memory_mib * MIB,
        item_size_max: usize::try_from(arguments.item_size).unwrap_or(usize::MAX),
        evict: !arguments.disable_evictions,
        flush_interval: arguments.flush_interval,
    })
}

/// An eighth of what is free or ours, at most 8 GiB, at least four tables, and never less than there is, so that a
/// start without `--capacity` evicts nothing.
fn default_capacity(directory: &Path, table_size: Option<u64>) -> Result<u64, OpenError> {
    let free = free_space(directory).map_err(OpenError::io("ask for the free space of", directory))?;
    let used = used_space(directory);
    let least = TABLE_COUNT_MIN as u64 * table_size.unwrap_or(TABLE_SIZE_MIN as u64);
    Ok(((free + used) / 8).min(CAPACITY_DEFAULT_MAX).max(used).max(least))
}

/// Bytes of table files below the data directory. What cannot be read counts nothing here; opening the store says
/// what is wrong with it.
fn used_space(directory: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let shards = entries(directory).filter(|entry| entry.file_name().to_string_lossy().starts_with("shard-"));
    let files = shards.flat_map(|shard| entries(&shard.path()));
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn check_open_files(arguments: &ServeArguments, options: &StoreOptions) -> Result<(), ServeError> {
    // A table is one open file. The size of the store's tables is not known before it is open: `announce`
    // looks again.
    let tables = options.capacity / options.table_size.unwrap_or(TABLE_SIZE_DEFAULT as u64);
    let wanted = arguments.connections as u64 + tables + SPARE_FILES;
    let limit = raise_open_files(wanted);
    if limit < wanted {
        return Err(ServeError::OpenFiles { connections: arguments.connections, tables, wanted, limit });
    }
    Ok(())
}

fn facts(arguments: &ServeArguments, listeners: &Listeners) -> Facts {
    let port = listeners.addresses().find_map(|address| match address {
        Address::Tcp(address) => Some(address.port()),
        Address::Unix(..) => None,
    });
    Facts {
        connection_count_max: arguments.connections,
        item_size_max: usize::try_from(arguments.item_size).unwrap_or(usize::MAX),
        memory: arguments.memory_mib * MIB,
        evict: !arguments.disable_evictions,
        flush_enabled: true,
        cas_enabled: true,
        port: port.unwrap_or(0),
        verbosity: arguments.verbosity,
        started: wall_seconds(),
        shutdown_enabled: arguments.enable_shutdown,
        dump_enabled: !arguments.disable_dumping,
        watch_enabled: !arguments.disable_watch,
        debug_commands: arguments.debug_commands,
    }
}

/// Says what was found and how the memory is divided.
fn announce<I: Io>(store: &Store<I>, arguments: &ServeArguments) {
    let (counters, gauges) = (store.counters(), store.gauges());
    // The table size of a store that was there is known only now.
    let wanted = arguments.connections as u64 + gauges.tables_max + SPARE_FILES;
    let limit = raise_open_files(wanted);
    if limit < wanted {
        tracing::warn!(
            "{} connections and {} tables need {wanted} open files, the limit is {limit}: the last of them will fail",
            arguments.connections,
            gauges.tables_max
        );
    }
    tracing::info!(
        "{}: {} records in {} tables of {}, {} tables at most; recovery took {} ms",
        arguments.data_dir.display(),
        gauges.index_entries,
        gauges.tables,
        show_size(gauges.table_size),
        gauges.tables_max,
        counters.recovery_ms
    );
    let MemoryPlan { total, index, block_size, block_count, large, reads, summaries, .. } = store.memory_plan();
    let show = |size: usize| show_size(size as u64);
    tracing::info!(
        "memory {}: index {} (about {} million records), write blocks {}, large writes {}, reads {}, footers {}",
        show(total),
        show(index),
        (index / 31).div_ceil(100_000) as f64 / 10.0,
        show(block_size * block_count),
        show(large),
        show(reads),
        show(summaries)
    );
}

/// Whether somebody wants the server to end.
#[derive(Default)]
struct Stop {
    /// Before this, there is nothing to finish: a signal ends the process.
    serving: AtomicBool,
    requested: AtomicBool,
}

/// Waits for the first signal in a thread of its own, which wakes the shard.
fn watch_signals(signals: StopSignals, bell: Bell) -> Arc<Stop> {
    let stop = Arc::new(Stop::default());
    let watched = Arc::clone(&stop);
    std::thread::spawn(move || {
        signals.wait();
        if !watched.serving.load(Ordering::Acquire) {
            // Recovery changes nothing that the next one does not find again.
            eprintln!("dmacached: stopped before the recovery was complete; nothing is lost");
            std::process::exit(0);
        }
        watched.requested.store(true, Ordering::Release);
        bell.ring();
    });
    stop
}
