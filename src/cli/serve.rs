//! `dmacached serve`: from flags to a running server and back.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dma_alloc::{Pool, PoolClass, PoolOptions};

use super::arguments::ServeArguments;
use super::background::{NotTold, PidFile, Starter, port_file, start_in_background, write_ports};
use super::check::BadFlag;
use super::extended::Extended;
use super::privileges::{NotPermitted, allow_coredumps, become_user, find_user, hand_over, is_root, lock_memory};
use super::progress::ProgressLine;
use super::sizes::show_size;
use crate::clock::wall_seconds;
use crate::error::OpenError;
use crate::io::Io;
use crate::io::dma::{self, DmaIo};
use crate::io::probe::{SyncTimes, Unfit, check_host, free_space, raise_open_files};
use crate::io::ring::sleep::Bell;
use crate::io::ring::{Ring, RingIo};
use crate::limits::{
    CAPACITY_DEFAULT_MAX, MIB, PAGE_SIZE, SPIN_CPU_COUNT_MIN, SPIN_US_DEFAULT, TABLE_COUNT_MIN, TABLE_SIZE_DEFAULT,
    TABLE_SIZE_MIN,
};
use crate::server::auth::{Auth, AuthError};
use crate::server::signals::{Signals, Wish};
use crate::server::{Address, BindError, Endpoint, Listeners, Server, ServerOptions};
use crate::shard::{Facts, Shard};
use crate::stats::ConnectionCounters;
use crate::store::{Durability, MemoryPlan, Store, StoreOptions};

/// Places for descriptors beyond the tables that the capacity pays for: a store may have more from before.
const SPARE_TABLES: usize = 16;
/// Descriptors that are neither connections nor tables.
pub(super) const SPARE_FILES: u64 = 64;

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
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    #[error(transparent)]
    NotTold(#[from] NotTold),
    #[error(
        "-o ext_path={}: this is a file, and data lives in a directory here: name another path, or remove the file, \
            which memcached would have emptied",
        .0.display()
    )]
    ExternalFile(PathBuf),
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
    Executor(std::io::Error),
}

impl ServeError {
    /// 2 for a bad command line, as clap has it; 1 for the rest.
    pub(super) fn exit_code(&self) -> ExitCode {
        if matches!(self, Self::Flag(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
    }
}

/// What the flags come to.
struct Start {
    arguments: ServeArguments,
    extended: Extended,
    endpoints: Vec<Endpoint>,
    options: StoreOptions,
    auth: Option<Arc<Auth>>,
    port_file: Option<PathBuf>,
}

/// Serves until a signal comes, or has it done in the background.
pub(super) fn run(mut arguments: ServeArguments) -> Result<ExitCode, ServeError> {
    arguments.check()?;
    let mut port_file = port_file();
    if arguments.process.daemon {
        if let Some(status) = start_in_background()? {
            return Ok(status);
        }
        leave_directory(&mut arguments, &mut port_file)?;
    }
    log_to_stderr(arguments.process.verbosity);
    let endpoints = arguments.endpoints()?;
    let extended = arguments.extended()?;
    note_unused(&arguments, &extended);
    let options = take_up_work(&arguments, &extended)?;
    check_host()?;
    let auth = arguments.commands.auth_file.as_deref().map(Auth::load).transpose()?.map(Arc::new);
    let signals = Signals::catch().map_err(ServeError::Signals)?;
    let start = Start { arguments, extended, endpoints, options, auth, port_file };
    // One shard so far, and its thread may run anywhere; placing shards on cores comes with more of them.
    let served = dma::run("shard-0", serve(start, signals)).map_err(ServeError::Executor)?;
    served.map(|()| ExitCode::SUCCESS)
}

/// A server in the background keeps no file system from being unmounted, unless its core is wanted there.
fn leave_directory(arguments: &mut ServeArguments, port_file: &mut Option<PathBuf>) -> Result<(), BadFlag> {
    arguments.make_absolute()?;
    if let Some(path) = port_file {
        let absolute = std::path::absolute(&*path);
        *path = absolute.map_err(|source| BadFlag::NoWorkingDirectory { path: path.clone(), source })?;
    }
    if !arguments.process.coredumps {
        // Where that is not possible, the server runs where it is.
        let _ = std::env::set_current_dir("/");
    }
    Ok(())
}

/// Says which flags have no effect.
fn note_unused(arguments: &ServeArguments, extended: &Extended) {
    for option in &extended.unused {
        tracing::info!("-o {option}: not used here");
    }
    if let Some(count) = arguments.network.threads.filter(|count| *count > 1) {
        tracing::info!("-t {count}: one thread serves until more cores are supported");
    }
    let other = &arguments.other;
    for (flag, is_given) in [
        ("-f", other.growth_factor.is_some()),
        ("-n", other.slab_min_size.is_some()),
        ("-L", other.large_pages),
        ("-N", other.napi_ids.is_some()),
    ] {
        if is_given {
            tracing::debug!("{flag}: not used here");
        }
    }
}

/// Makes the data directory, and becomes the user that is to work in it. What only root may do is done before, and what
/// a change of the user would undo is done behind it.
fn take_up_work(arguments: &ServeArguments, extended: &Extended) -> Result<StoreOptions, ServeError> {
    let user = find_user(arguments.process.user.as_deref())?;
    let directory = arguments.data_dir()?;
    if extended.external.as_ref().is_some_and(|external| external.directory == directory) && directory.is_file() {
        return Err(ServeError::ExternalFile(directory));
    }
    let not_writable = |source| OpenError::NotWritable { path: directory.clone(), source };
    dma::create_directory(&directory).map_err(not_writable)?;
    if let Some(user) = &user {
        hand_over(&directory, user)?;
    }
    let options = store_options(arguments, directory)?;
    check_open_files(arguments, &options)?;
    match &user {
        Some(user) => become_user(user)?,
        None if is_root() => tracing::warn!("running as root: -u USER makes the server become somebody else"),
        None => {}
    }
    if arguments.process.coredumps {
        allow_coredumps()?;
    }
    if arguments.memory.lock {
        lock_memory()?;
    }
    Ok(options)
}

pub(super) fn log_to_stderr(verbosity: u8) {
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

async fn serve(start: Start, signals: Signals) -> Result<(), ServeError> {
    let arguments = &start.arguments;
    let mut starter = Starter::new(arguments.process.daemon, arguments.process.verbosity > 0);
    let dma = open_directory(&start.options.directory).await?;
    // Before the recovery, which may take long: a port that is taken is known at once, and clients that come early
    // wait in the backlog.
    let listeners = Listeners::bind(&start.endpoints, arguments.network.backlog)?;
    if let Some(path) = &start.port_file {
        write_ports(path, &listeners)?;
    }
    // It is removed when the server has ended, however.
    let _pid_file = arguments.process.pid_file.as_deref().map(PidFile::write).transpose()?;
    let sync_times = measure_sync(&dma, &start.options)?;
    let io = with_ring(dma, arguments, &start.options)?;
    if let Some(times) = sync_times {
        io.set_sync_method(times.method());
    }
    let stop = watch_signals(signals, io.bell(), &start);
    let mut progress = ProgressLine::new();
    let opened = Store::open(io.clone(), start.options.clone(), |state| {
        // The directory holds a store that is ours: what comes now may take minutes, and ends well.
        starter.is_ready();
        progress.show(state);
    });
    let opened = opened.await;
    progress.finish();
    let store = opened?;
    if let Some(interval) = arguments.storage.scrub_interval {
        store.scrub(interval);
    }
    if let Some(size) = arguments.memory.hot_cache {
        store.set_cache_max(usize::try_from(size).unwrap_or(usize::MAX));
    }
    store.enable_cache(!start.extended.no_recache);
    store.enable_crawler(!start.extended.no_crawler);
    store.set_crawl_pause(start.extended.crawl_pause);
    announce(&store, arguments, &start.options.directory);
    announce_ring(io.ring());
    let connections = Rc::new(ConnectionCounters::default());
    let shard = Shard::new(store, Rc::clone(&connections), facts(&start, &listeners));
    stop.serving.store(true, Ordering::Release);
    for address in listeners.addresses() {
        tracing::info!("listening on {address}");
    }
    starter.is_ready();
    let store = shard.store().clone();
    let server = Server::new(io, shard, connections, listeners, server_options(&start));
    server.run(|| stop.requested.load(Ordering::Acquire)).await?;
    match store.counters().disk_write_errors {
        0 => tracing::info!("stopped, everything is on disk"),
        count => tracing::error!("stopped; {count} writes to the disk have failed, and what they carried is lost"),
    }
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
    let ring =
        Ring::new(reads, blocks, arguments.network.connections, tables + SPARE_TABLES).map_err(ServeError::Ring)?;
    RingIo::new(dma, ring).map_err(ServeError::Ring)
}

/// Finds out how writes are made stable, if they are answered then only.
fn measure_sync(dma: &DmaIo, options: &StoreOptions) -> Result<Option<SyncTimes>, OpenError> {
    if options.durability == Durability::Memory {
        return Ok(None);
    }
    let times = dma.measure_sync(&options.directory).map_err(OpenError::io("write to", &options.directory))?;
    let SyncTimes { dsync, fdatasync } = times;
    let name = times.method().name();
    tracing::info!(
        "durability sync: a page is stable after {dsync:.1?} with RWF_DSYNC, {fdatasync:.1?} with fdatasync; {name} is used"
    );
    Ok(Some(times))
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

fn server_options(start: &Start) -> ServerOptions {
    let network = &start.arguments.network;
    let cpu_count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let spin_default = if cpu_count > SPIN_CPU_COUNT_MIN { SPIN_US_DEFAULT } else { 0 };
    ServerOptions {
        requests_per_turn: network.requests_per_turn,
        idle_timeout: start.extended.idle_timeout,
        spin: Duration::from_micros(network.spin_us.unwrap_or(spin_default)),
        auth: start.auth.clone(),
    }
}

/// Finds out how the files of the data directory are to be opened.
pub(super) async fn open_directory(path: &Path) -> Result<DmaIo, OpenError> {
    let not_writable = |source| OpenError::NotWritable { path: path.to_path_buf(), source };
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

fn store_options(arguments: &ServeArguments, directory: PathBuf) -> Result<StoreOptions, ServeError> {
    let table_size = arguments.storage.table_size;
    let capacity = match arguments.capacity()? {
        Some(capacity) => capacity,
        None => default_capacity(&directory, table_size)?,
    };
    Ok(StoreOptions {
        directory,
        capacity,
        table_size,
        memory: arguments.memory.mib * MIB,
        item_size_max: usize::try_from(arguments.memory.item_size).unwrap_or(usize::MAX),
        evict: !arguments.memory.disable_evictions,
        flush_interval: arguments.storage.flush_interval,
        durability: arguments.storage.durability,
    })
}

/// An eighth of what is free or ours, at most 8 GiB, at least four tables, and never less than there is, so that a
/// start without `--capacity` evicts nothing.
pub(super) fn default_capacity(directory: &Path, table_size: Option<u64>) -> Result<u64, OpenError> {
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
    let connections = arguments.network.connections;
    let tables = options.capacity / options.table_size.unwrap_or(TABLE_SIZE_DEFAULT as u64);
    let wanted = connections as u64 + tables + SPARE_FILES;
    let limit = raise_open_files(wanted);
    if limit < wanted {
        return Err(ServeError::OpenFiles { connections, tables, wanted, limit });
    }
    Ok(())
}

fn facts(start: &Start, listeners: &Listeners) -> Facts {
    let port = listeners.addresses().find_map(|address| match address {
        Address::Tcp(address) => Some(address.port()),
        Address::Unix(..) => None,
    });
    let ServeArguments { network, memory, commands, process, .. } = &start.arguments;
    let idle_timeout = start.extended.idle_timeout.unwrap_or_default().as_secs();
    Facts {
        connection_count_max: network.connections,
        item_size_max: usize::try_from(memory.item_size).unwrap_or(usize::MAX),
        memory: memory.mib * MIB,
        evict: !memory.disable_evictions,
        port: port.unwrap_or(0),
        verbosity: process.verbosity,
        started: wall_seconds(),
        threads: 1,
        shutdown_enabled: commands.enable_shutdown,
        flush_enabled: !commands.disable_flush_all,
        dump_enabled: !commands.disable_dumping,
        watch_enabled: !commands.disable_watch,
        cas_enabled: !commands.disable_cas,
        detail_enabled: commands.delimiter.is_some(),
        prefix_delimiter: commands.delimiter.unwrap_or(b':'),
        track_sizes: start.extended.track_sizes,
        debug_commands: commands.debug_commands,
        binding: start.arguments.binding(),
        auth_enabled: start.auth.is_some(),
        requests_per_turn: network.requests_per_turn,
        backlog: network.backlog,
        idle_timeout: u32::try_from(idle_timeout).unwrap_or(u32::MAX),
        inter: network.unix_socket.is_none().then(|| network.listen.join(",")),
        unix_socket: network.unix_socket.clone(),
        unix_permissions: network.unix_permissions,
    }
}

/// Says what was found and how the memory is divided.
fn announce<I: Io>(store: &Store<I>, arguments: &ServeArguments, directory: &Path) {
    let (counters, gauges) = (store.counters(), store.gauges());
    // The table size of a store that was there is known only now.
    let wanted = arguments.network.connections as u64 + gauges.tables_max + SPARE_FILES;
    let limit = raise_open_files(wanted);
    if limit < wanted {
        tracing::warn!(
            "{} connections and {} tables need {wanted} open files, the limit is {limit}: the last of them will fail",
            arguments.network.connections,
            gauges.tables_max
        );
    }
    tracing::info!(
        "{}: {} records in {} tables of {}, {} tables at most; recovery took {} ms",
        directory.display(),
        gauges.index_entries,
        gauges.tables,
        show_size(gauges.table_size),
        gauges.tables_max,
        counters.recovery_ms
    );
    announce_memory(store);
}

/// The table of the memory budget: its parts are the whole.
fn announce_memory<I: Io>(store: &Store<I>) {
    let MemoryPlan { total, index, block_size, block_count, large, reads, moving, summaries, .. } = store.memory_plan();
    let million = (index / 31).div_ceil(100_000) as f64 / 10.0;
    let cache = if store.is_cache_enabled() { "what is left of it is the hot cache" } else { "the hot cache is off" };
    let blocks = block_size * block_count;
    let parts = [
        (index, format!("index, for about {million} million records; {cache}")),
        (blocks, format!("{block_count} write blocks")),
        (large, "records larger than a block".to_owned()),
        (reads, "reads".to_owned()),
        (moving, "emptying tables".to_owned()),
        (summaries, "footers of tables that are being written".to_owned()),
        (total.saturating_sub(index + blocks + large + reads + moving + summaries), "spare".to_owned()),
    ];
    tracing::info!("memory {}:", show_size(total as u64));
    for (size, what) in parts.iter().filter(|(size, _)| *size > 0) {
        tracing::info!("  {:>9}  {what}", show_size(*size as u64));
    }
}

/// Whether somebody wants the server to end.
#[derive(Default)]
struct Stop {
    /// Before this, there is nothing to finish: a signal ends the process.
    serving: AtomicBool,
    requested: AtomicBool,
}

/// Waits for signals in a thread of its own: one that wants an end wakes the shard.
fn watch_signals(mut signals: Signals, bell: Bell, start: &Start) -> Arc<Stop> {
    let stop = Arc::new(Stop::default());
    let watched = Arc::clone(&stop);
    let auth = start.auth.clone();
    let sockets = start.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
        Address::Unix(path, _) => Some(path.clone()),
        Address::Tcp(_) => None,
    });
    let left_behind: Vec<PathBuf> = sockets.chain(start.arguments.process.pid_file.clone()).collect();
    std::thread::spawn(move || {
        while signals.wait() == Wish::Reload {
            reload(auth.as_deref());
        }
        if !watched.serving.load(Ordering::Acquire) {
            for path in left_behind {
                // As at any other end.
                let _ = std::fs::remove_file(path);
            }
            // Recovery changes nothing that the next one does not find again.
            eprintln!("dmacached: stopped before the recovery was complete; nothing is lost");
            std::process::exit(0);
        }
        watched.requested.store(true, Ordering::Release);
        bell.ring();
        loop {
            // A second signal that wants an end does not come here.
            if signals.wait() == Wish::Reload {
                reload(auth.as_deref());
            }
        }
    });
    stop
}

/// SIGHUP: reads the file of `-Y` again.
fn reload(auth: Option<&Auth>) {
    let Some(auth) = auth else {
        tracing::debug!("SIGHUP: there is no file to be read again");
        return;
    };
    match auth.reload() {
        Ok(()) => tracing::info!("SIGHUP: read {} again", auth.path().display()),
        Err(error) => tracing::error!("SIGHUP: the users are as before: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::shard::Binding;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArguments,
    }

    /// What commands and `stats` are told of a server with these flags.
    fn facts_of(line: &str) -> Facts {
        let words = std::iter::once("dmacached").chain(line.split_whitespace());
        let arguments = Line::try_parse_from(words).expect("a good line").serve;
        let extended = arguments.extended().expect("a good list");
        let endpoints = arguments.endpoints().expect("good addresses");
        let listeners = Listeners::bind(&endpoints, arguments.network.backlog).expect("some port is always free");
        let users = tempfile::NamedTempFile::new().expect("a file for a test");
        let auth = Auth::load(users.path()).map(Arc::new).expect("an empty file is a good one");
        let auth = arguments.commands.auth_file.is_some().then_some(auth);
        let options = StoreOptions {
            directory: PathBuf::new(),
            capacity: 0,
            table_size: None,
            memory: 0,
            item_size_max: 0,
            evict: true,
            flush_interval: Duration::ZERO,
            durability: Durability::Memory,
        };
        let start = Start { arguments, extended, endpoints, options, auth, port_file: None };
        facts(&start, &listeners)
    }

    #[test]
    fn without_flags_facts_are_the_defaults() {
        let facts = facts_of("-p -1");
        assert!(facts.port > 0 && facts.started > 0);
        let changed = Facts { port: 0, started: 0, inter: None, ..facts };
        assert_eq!(format!("{changed:?}"), format!("{:?}", Facts::default()));
        assert_eq!(facts.inter.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn every_flag_is_a_fact() {
        let facts = facts_of(
            "-p -1 -l 127.0.0.1:0 -l 127.0.0.2 -c 9 -I 2m -m 128 -M -v -A -F -X -W -C -D | -o track_sizes,idle_timeout=7 \
                --debug-commands -B binary -R 5 -b 6",
        );
        let expected = Facts {
            connection_count_max: 9,
            item_size_max: 2 * MIB,
            memory: 128 * MIB,
            evict: false,
            port: facts.port,
            verbosity: 1,
            started: facts.started,
            threads: 1,
            shutdown_enabled: true,
            flush_enabled: false,
            dump_enabled: false,
            watch_enabled: false,
            cas_enabled: false,
            detail_enabled: true,
            prefix_delimiter: b'|',
            track_sizes: true,
            debug_commands: true,
            binding: Binding::Binary,
            auth_enabled: false,
            requests_per_turn: 5,
            backlog: 6,
            idle_timeout: 7,
            inter: Some("127.0.0.1:0,127.0.0.2".to_owned()),
            unix_socket: None,
            unix_permissions: 0o700,
        };
        assert_eq!(format!("{facts:?}"), format!("{expected:?}"));
        let facts = facts_of("-p -1 -Y users");
        assert!(facts.auth_enabled && facts.binding == Binding::Ascii);
        let directory = tempfile::tempdir().expect("a directory for a test");
        let path = directory.path().join("socket");
        let facts = facts_of(&format!("-s {} -a 770", path.display()));
        assert_eq!((facts.unix_socket, facts.unix_permissions, facts.inter, facts.port), (Some(path), 0o770, None, 0));
    }
}
