//! `dmacached load`: the records of a stream, from `dump` or written by hand, into a store that nobody serves.

mod input;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use input::{Input, Unusable};

use super::arguments::DATA_DIR_DEFAULT;
use super::check::{BadFlag, check_sizes};
use super::progress::{Measure, Meter, ProgressLine};
use super::serve::{SPARE_FILES, default_capacity, log_to_stderr, open_directory};
use super::sizes::{parse_megabytes, parse_size, show_size};
use crate::error::OpenError;
use crate::io::Io;
use crate::io::dma::{self, DmaIo};
use crate::io::probe::{Unfit, check_host, raise_open_files};
use crate::limits::{
    FLUSH_INTERVAL_MS_DEFAULT, ITEM_SIZE_DEFAULT, KEY_SIZE_MAX, MEMORY_MIB_DEFAULT, MIB, TABLE_SIZE_MIN,
};
use crate::record::Record;
use crate::server::signals::{Signals, Wish};
use crate::shard::stream::{StreamItem, StreamLine, parse_stream_line};
use crate::shard::{Expiry, KEY_BINARY, STALE, absolute_expiry};
use crate::store::{Changed, Condition, Durability, Meta, Store, StoreOptions, Stored, Update};

/// Exit status when not all of the stream is stored.
const INCOMPLETE: u8 = 1;
/// Exit status for a bad command line.
const BAD_USAGE: u8 = 2;
/// Exit status when the store cannot be opened.
const NOT_OPENED: u8 = 3;
/// Records between two looks at the clock.
const RECORDS_PER_LOOK: u64 = 256;

/// What to load, and where to.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The stream is one that `dmacached dump` has written, or `ms` commands by hand with `mn` at the end \
        (src/protocol/STREAM.md). Records keep their flags, expiry and CAS unique, and replace those of the same keys; one that \
        has expired is not stored, and is counted. When the program ends, everything is on stable media and the store is \
        stopped cleanly.\n\n\
        What cannot be stored is told with its place in the stream. A record that is too large is left out; a full store and \
        a line that is none of a stream end the load, and so do SIGINT and SIGTERM. What came before is kept.\n\n\
        Exit status: 0 when all is loaded, 1 when something is not, 2 for a bad command line, 3 when the store cannot be \
        opened."
)]
pub(super) struct LoadArguments {
    /// Where the data lives; made if it is not there
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    data_dir: PathBuf,

    /// Memory budget in megabytes, for index and buffers together
    #[arg(short = 'm', long = "memory-limit", value_name = "MB", value_parser = parse_megabytes, default_value_t
        = MEMORY_MIB_DEFAULT)]
    mib: usize,

    /// Largest item, e.g. 1m or 512k
    #[arg(short = 'I', long = "max-item-size", value_name = "SIZE", value_parser = parse_size, default_value_t
        = ITEM_SIZE_DEFAULT as u64)]
    item_size: u64,

    /// Disk space for the data [default: as when serving]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    capacity: Option<u64>,

    /// Size of one table of a store that is made [default: as when serving]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    table_size: Option<u64>,

    /// Say only what is wrong
    #[arg(short = 'q', long)]
    quiet: bool,

    /// The file to read; -: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// Why nothing is loaded.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    #[error(transparent)]
    Flag(#[from] BadFlag),
    #[error(transparent)]
    Host(#[from] Unfit),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start the shard: {0}")]
    Executor(std::io::Error),
}

/// Why a load ends before the end of the stream.
#[derive(Debug, thiserror::Error)]
enum EndsEarly {
    #[error(transparent)]
    Stream(#[from] Unusable),
    #[error("the store is full: raise --capacity, or -m if it is the index that is")]
    Full,
    #[error("the record that is stale could not be read again")]
    ReadFailed,
}

/// What came of a load.
#[derive(Debug, Default)]
struct Loaded {
    record_count: u64,
    expired_count: u64,
    too_large_count: u64,
    /// Where the first one stood that is too large.
    too_large_at: Option<(u64, u64)>,
    size: u64,
    ended_early: Option<EndsEarly>,
    write_error_count: u64,
}

/// Loads, and says what that came to.
pub(super) fn run(arguments: &LoadArguments) -> ExitCode {
    let started = Instant::now();
    match load(arguments) {
        Ok(loaded) => {
            let is_complete = report(arguments, &loaded, started.elapsed());
            if is_complete { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) }
        }
        Err(error) => {
            eprintln!("dmacached: {error}");
            match error {
                NotLoaded::Flag(_) => ExitCode::from(BAD_USAGE),
                NotLoaded::File { .. } => ExitCode::from(INCOMPLETE),
                _ => ExitCode::from(NOT_OPENED),
            }
        }
    }
}

/// Says what is wrong and, unless it is to be quiet, what is done. Whether all is stored.
fn report(arguments: &LoadArguments, loaded: &Loaded, elapsed: Duration) -> bool {
    let Loaded { record_count, expired_count, too_large_count, size, write_error_count, .. } = *loaded;
    let file = arguments.file.display();
    if let Some((offset, number)) = loaded.too_large_at {
        eprintln!(
            "dmacached: {file}: {too_large_count} records are larger than -I {} and are left out, the first is record \
                {number}, at byte {offset}",
            arguments.item_size
        );
    }
    if let Some(error) = &loaded.ended_early {
        eprintln!("dmacached: {file}: at byte {size}, behind {} records: {error}", loaded.seen());
    }
    if write_error_count > 0 {
        eprintln!("dmacached: {write_error_count} writes failed: not all that is loaded is on disk");
    }
    if !arguments.quiet {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = show_size((size as f64 / seconds) as u64);
        eprintln!(
            "loaded {record_count} records, {} in {seconds:.1} s, {rate}/s; {expired_count} had expired",
            show_size(size)
        );
    }
    loaded.ended_early.is_none() && too_large_count == 0 && write_error_count == 0
}

impl Loaded {
    /// Records that were met.
    fn seen(&self) -> u64 {
        self.record_count + self.expired_count + self.too_large_count
    }
}

fn load(arguments: &LoadArguments) -> Result<Loaded, NotLoaded> {
    check_sizes(arguments.mib, arguments.item_size, arguments.table_size)?;
    log_to_stderr(0);
    check_host()?;
    let unreadable = |source| NotLoaded::File { path: arguments.file.clone(), source };
    let (source, size): (Box<dyn std::io::Read + Send>, _) = if arguments.file == Path::new("-") {
        (Box::new(std::io::stdin()), None)
    } else {
        let file = File::open(&arguments.file).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let options = store_options(arguments)?;
    // Where that is not enough, the store says so.
    let _ = raise_open_files(options.capacity / options.table_size.unwrap_or(TABLE_SIZE_MIN as u64) + SPARE_FILES);
    let stop = watch_signals(Signals::catch().map_err(NotLoaded::Signals)?);
    let work = async {
        let io = open_directory(&options.directory).await?;
        let mut progress = ProgressLine::new();
        let opened = Store::open(io.clone(), options.clone(), |state| progress.show(state)).await;
        progress.finish();
        let store = opened?;
        let mut meter = Meter::new("loading", arguments.quiet);
        let input = Input::new(source, stop);
        let (left_out, loaded) = (Vec::new(), Loaded::default());
        let mut loader = Loader { io, store: store.clone(), input, meter: &mut meter, size, left_out, loaded };
        let ended = loader.run(arguments.item_size).await;
        let mut loaded = loader.finish(ended.err());
        meter.finish();
        store.close().await?;
        loaded.write_error_count = store.counters().disk_write_errors;
        Ok(loaded)
    };
    dma::run("load", work).map_err(NotLoaded::Executor)?
}

fn store_options(arguments: &LoadArguments) -> Result<StoreOptions, OpenError> {
    let directory = arguments.data_dir.clone();
    let not_writable = |source| OpenError::NotWritable { path: directory.clone(), source };
    dma::create_directory(&directory).map_err(not_writable)?;
    let capacity = match arguments.capacity {
        Some(capacity) => capacity,
        None => default_capacity(&directory, arguments.table_size)?,
    };
    Ok(StoreOptions {
        capacity,
        table_size: arguments.table_size,
        memory: arguments.mib * MIB,
        item_size_max: usize::try_from(arguments.item_size).unwrap_or(usize::MAX),
        // What is there is not given up for what comes.
        evict: false,
        flush_interval: Duration::from_millis(FLUSH_INTERVAL_MS_DEFAULT),
        durability: Durability::Memory,
        directory,
    })
}

/// Waits for signals in a thread of its own: one that wants an end is noted.
fn watch_signals(mut signals: Signals) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&stop);
    std::thread::spawn(move || {
        loop {
            // A second signal that wants an end ends the process.
            if signals.wait() == Wish::Stop {
                watched.store(true, Ordering::Relaxed);
            }
        }
    });
    stop
}

struct Loader<'a> {
    io: DmaIo,
    store: Store<DmaIo>,
    input: Input,
    meter: &'a mut Meter,
    /// Bytes of the stream, if that is known.
    size: Option<u64>,
    /// The key of the record before, if that was left out: what follows about it is not about the one in the store.
    left_out: Vec<u8>,
    loaded: Loaded,
}

impl Loader<'_> {
    /// Loads up to the end of the stream.
    async fn run(&mut self, item_size_max: u64) -> Result<(), EndsEarly> {
        let mut buffer = [0; KEY_SIZE_MAX];
        let mut line = Vec::new();
        loop {
            self.input.line(&self.io, &mut line).await?;
            match parse_stream_line(&line, &mut buffer).map_err(Unusable::Line)? {
                StreamLine::End => {
                    self.input.done();
                    return Ok(());
                }
                StreamLine::Stale(key, _) if key == self.left_out => {}
                StreamLine::Stale(key, cas) => self.stale(key, cas).await?,
                StreamLine::Item(item, size) => self.item(&item, size, item_size_max).await?,
            }
            self.input.done();
            if self.loaded.seen().is_multiple_of(RECORDS_PER_LOOK) {
                let (size_done, record_count) = (self.input.offset(), Some(self.loaded.seen()));
                self.meter.show(Measure { size_done, size: self.size, record_count, elapsed: self.io.monotonic() });
            }
        }
    }

    fn finish(self, ended_early: Option<EndsEarly>) -> Loaded {
        Loaded { size: self.input.offset(), ended_early, ..self.loaded }
    }

    async fn item(&mut self, item: &StreamItem<'_>, size: u64, item_size_max: u64) -> Result<(), EndsEarly> {
        self.left_out.clear();
        if size.saturating_add(item.key.len() as u64) > item_size_max {
            let place = (self.input.offset(), self.loaded.seen() + 1);
            self.loaded.too_large_at.get_or_insert(place);
            self.input.skip(&self.io, size).await?;
            self.left_out.extend_from_slice(item.key);
            self.loaded.too_large_count += 1;
            return Ok(());
        }
        let value = self.input.value(&self.io, usize::try_from(size).unwrap_or(usize::MAX)).await?;
        let expiry = match absolute_expiry(item.exptime, self.io.now()) {
            Expiry::Never => 0,
            Expiry::At(second) => second,
            Expiry::Immediately => {
                // It would have replaced what is there.
                if self.store.delete(item.key).await == Changed::NoSpace {
                    return Err(EndsEarly::Full);
                }
                self.loaded.expired_count += 1;
                return Ok(());
            }
        };
        if let Some(cas) = item.cas {
            self.store.pass_cas(cas);
        }
        let bits = if item.is_key_binary { KEY_BINARY } else { 0 };
        let meta = Meta { client_flags: item.client_flags, expiry, bits, own_cas: item.cas };
        match self.store.put(item.key, value, meta, Condition::Always).await {
            Stored::Stored(_) => self.loaded.record_count += 1,
            // The size was looked at, there is no condition, and writes are not waited for.
            Stored::NoSpace | Stored::TooLarge | Stored::NotStored | Stored::Failed => return Err(EndsEarly::Full),
        }
        Ok(())
    }

    /// The record of `key` is stale.
    async fn stale(&mut self, key: &[u8], cas: Option<u64>) -> Result<(), EndsEarly> {
        let store = self.store.clone();
        let mark = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(Record { header, value, .. }) = record else { return (Update::Keep, ()) };
            scratch.extend_from_slice(value);
            let own_cas = cas.or_else(|| Some(store.cas_of(&header)));
            let (client_flags, expiry, bits) = (header.client_flags, header.expiry, header.bits | STALE);
            (Update::Replace(Meta { client_flags, expiry, bits, own_cas }), ())
        };
        match self.store.update(key, mark).await {
            Ok((None | Some(Stored::Stored(_)), ())) => Ok(()),
            Ok(_) => Err(EndsEarly::Full),
            Err(_) => Err(EndsEarly::ReadFailed),
        }
    }
}
