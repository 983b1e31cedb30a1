//! `dmacached serve`: from flags to a running server and back.

use std::cell::Cell;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::arguments::{BadFlag, ServeArguments};
use super::progress::ProgressLine;
use super::sizes::show_size;
use crate::clock::wall_seconds;
use crate::error::OpenError;
use crate::io::dma::DmaIo;
use crate::io::probe::{Unfit, check_host, free_space, raise_open_files};
use crate::io::{Event, Io};
use crate::limits::{CAPACITY_DEFAULT_MAX, MIB, TABLE_COUNT_MIN, TABLE_SIZE_DEFAULT, TABLE_SIZE_MIN};
use crate::server::signals::StopSignals;
use crate::server::{BindError, Listeners, Server};
use crate::shard::{Facts, Shard};
use crate::stats::ConnectionCounters;
use crate::store::{MemoryPlan, Store, StoreOptions};

/// Entries of glommio's rings: one poll for each connection fits without flushing in between, for the usual number of
/// connections.
const RING_DEPTH: usize = 1024;
/// glommio registers its I/O memory with three rings, so three times this must fit the usual RLIMIT_MEMLOCK of 8 MiB.
const IO_MEMORY_SIZE: usize = 2 * MIB;
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

async fn serve(arguments: &ServeArguments, addresses: &[SocketAddr], signals: StopSignals) -> Result<(), ServeError> {
    let io = open_directory(&arguments.data_dir).await?;
    let options = store_options(arguments)?;
    check_open_files(arguments, &options)?;
    // Before the recovery, which may take long: a port that is taken is known at once, and clients that come early
    // wait in the backlog.
    let listeners = Listeners::bind(addresses)?;
    let stop = watch_signals(signals);
    let mut progress = ProgressLine::new();
    let opened = Store::open(io, options, |state| progress.show(state)).await;
    progress.finish();
    let store = opened?;
    announce(&store, arguments);
    let connections = Rc::new(ConnectionCounters::default());
    let shard = Shard::new(store.clone(), Rc::clone(&connections), facts(arguments, addresses));
    let server = Server::new(shard, connections);
    stop.serving.set(true);
    for address in listeners.serve(&server) {
        tracing::info!("listening on {address}");
    }
    stop.wait().await;
    tracing::info!("stopping: no new connections, finishing what was asked");
    server.stop().await;
    store.close().await?;
    tracing::info!("stopped, everything is on disk");
    Ok(())
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

fn facts(arguments: &ServeArguments, addresses: &[SocketAddr]) -> Facts {
    Facts {
        connection_count_max: arguments.connections,
        item_size_max: usize::try_from(arguments.item_size).unwrap_or(usize::MAX),
        memory: arguments.memory_mib * MIB,
        evict: !arguments.disable_evictions,
        port: addresses.first().map_or(arguments.port, SocketAddr::port),
        verbosity: arguments.verbosity,
        started: wall_seconds(),
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
    serving: Cell<bool>,
    requested: Cell<bool>,
    event: Event,
}

impl Stop {
    async fn wait(&self) {
        while !self.requested.get() {
            self.event.wait().await;
        }
    }
}

fn watch_signals(signals: StopSignals) -> Rc<Stop> {
    let stop = Rc::new(Stop::default());
    let watched = Rc::clone(&stop);
    glommio::spawn_local(async move {
        glommio::executor().spawn_blocking(move || signals.wait()).await;
        if !watched.serving.get() {
            // Recovery changes nothing that the next one does not find again.
            eprintln!("dmacached: stopped before the recovery was complete; nothing is lost");
            std::process::exit(0);
        }
        watched.requested.set(true);
        watched.event.notify();
    })
    .detach();
    stop
}
