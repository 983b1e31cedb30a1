//! `dmabench recovery`: how long a store takes to open, next to reading the same bytes from front to back.
//!
//! A store is filled, closed, and opened several times: from its checkpoint, and without it, from the footers of its
//! tables. Each time the same files are read from front to back through the same O_DIRECT files. No server takes part.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dma_alloc::Buffer;
use dmacached::io::dma::DmaIo;
use dmacached::io::{File, Io};
use dmacached::store::{Durability, Meta, Store, StoreOptions, Stored};
use glommio::LocalExecutorBuilder;

use crate::args::RecoveryArguments;
use crate::procstat;

const MIB: usize = 1 << 20;
/// Bytes that an index takes for a key at most, and what a store's buffers take of its budget, generously.
const MEMORY_PER_KEY: usize = 36;
const MEMORY_BASE: usize = 128 * MIB;

/// What a start reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Checkpoint,
    Footers,
}

/// Runs the benchmark.
///
/// # Errors
/// What could not be done, as a sentence.
pub(crate) fn run(arguments: &RecoveryArguments) -> Result<(), String> {
    let executor = LocalExecutorBuilder::default().make().map_err(|error| error.to_string())?;
    executor.run(measure(arguments))
}

async fn measure(arguments: &RecoveryArguments) -> Result<(), String> {
    let directory = arguments.directory.join("dmabench-recovery");
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let io = DmaIo::new(&directory).await.map_err(|error| error.to_string())?;
    let options = options(arguments, &directory);
    let written = fill(&io, &options, arguments).await?;
    println!(
        "{} keys, values of {} bytes, {} records in tables, {} MiB of memory{}",
        arguments.keys,
        arguments.value_size,
        written,
        options.memory / MIB,
        if io.is_direct() { "" } else { "; no O_DIRECT here" }
    );
    for from in [From::Checkpoint, From::Footers] {
        let mut rounds = Vec::new();
        for _ in 0..arguments.rounds {
            rounds.push(round(&io, &options, arguments, from).await?);
        }
        report(from, arguments.keys.into(), written, rounds);
    }
    let removed = std::fs::remove_dir_all(&directory);
    removed.map_err(|error| format!("{}: {error}", directory.display()))
}

fn options(arguments: &RecoveryArguments, directory: &Path) -> StoreOptions {
    let keys = arguments.keys as usize;
    let record_size = (28 + 16 + arguments.value_size).next_multiple_of(16) + 41;
    let rewritten = keys * arguments.versions as usize;
    StoreOptions {
        directory: directory.to_path_buf(),
        capacity: (rewritten * record_size * 5 / 4 + 1024 * MIB) as u64,
        table_size: Some(64 * MIB as u64),
        memory: (keys * MEMORY_PER_KEY * 4 / 3 + MEMORY_BASE).next_multiple_of(MIB),
        item_size_max: MIB,
        evict: true,
        flush_interval: Duration::from_secs(1),
        durability: Durability::Memory,
    }
}

async fn open(io: &DmaIo, options: &StoreOptions) -> Result<Store<DmaIo>, String> {
    Store::open(io.clone(), options.clone(), |_| {}).await.map_err(|error| error.to_string())
}

/// Fills the store and returns the number of its records on disk, dead ones included.
async fn fill(io: &DmaIo, options: &StoreOptions, arguments: &RecoveryArguments) -> Result<u64, String> {
    let store = open(io, options).await?;
    let value = vec![b'v'; arguments.value_size];
    for _ in 0..arguments.versions {
        for number in 0..arguments.keys {
            let key = format!("key:{number:010}");
            if !matches!(store.set(key.as_bytes(), &value, Meta::default()).await, Stored::Stored(_)) {
                return Err("a set was refused".to_owned());
            }
        }
    }
    let written = store.counters().records_written;
    store.close().await.map_err(|error| error.to_string())?;
    Ok(written)
}

/// One start.
struct Round {
    wall: Duration,
    cpu: Duration,
    read_wall: Duration,
    read_size: u64,
}

async fn round(io: &DmaIo, options: &StoreOptions, arguments: &RecoveryArguments, from: From) -> Result<Round, String> {
    let shard = options.directory.join("shard-0000");
    let files = files(&shard)?;
    let pieces: Vec<PathBuf> = files.iter().filter(|path| has_suffix(path, "dmc")).cloned().collect();
    let tables: Vec<PathBuf> = files.iter().filter(|path| has_suffix(path, "dmt")).cloned().collect();
    let (read_wall, read_size) = match from {
        From::Checkpoint => read_through(io, &pieces, 0).await?,
        // A footer lies at the end of its table.
        From::Footers => {
            let per_table = footer_size(options, arguments);
            read_through(io, &tables, per_table).await?
        }
    };
    if from == From::Footers {
        for piece in &pieces {
            std::fs::remove_file(piece).map_err(|error| error.to_string())?;
        }
    }
    let (begun, cpu_begun) = (Instant::now(), procstat::own_cpu()?);
    let store = open(io, options).await?;
    let (wall, cpu) = (begun.elapsed(), procstat::own_cpu()?.saturating_sub(cpu_begun));
    let (gauges, counters) = (store.gauges(), store.counters());
    if gauges.index_entries != u64::from(arguments.keys) {
        return Err(format!("{} of {} keys are there", gauges.index_entries, arguments.keys));
    }
    if (counters.recovered_records > 0) != (from == From::Footers) {
        return Err(format!("{} records were replayed", counters.recovered_records));
    }
    store.close().await.map_err(|error| error.to_string())?;
    Ok(Round { wall, cpu, read_wall, read_size })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(listed.flatten().map(|entry| entry.path()).collect())
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.extension().is_some_and(|extension| extension == suffix)
}

/// Bytes of the footer of a full table: 102 summaries a page.
fn footer_size(options: &StoreOptions, arguments: &RecoveryArguments) -> u64 {
    let record_size = (28 + 14 + arguments.value_size).next_multiple_of(16) + 41;
    let count = options.table_size.unwrap_or(0) / record_size as u64;
    (count.div_ceil(102) + 1) * 4096
}

/// Reads the last `size` bytes of each file, or all of it when that is 0, a MiB at a time.
async fn read_through(io: &DmaIo, paths: &[PathBuf], size: u64) -> Result<(Duration, u64), String> {
    let begun = Instant::now();
    let mut total = 0;
    let mut buffer = Buffer::zeroed(MIB);
    for path in paths {
        let file = io.open(path).await.map_err(|error| error.to_string())?;
        let end = file.size().await.map_err(|error| error.to_string())?;
        let mut offset = if size == 0 { 0 } else { end - size.min(end) };
        while offset < end {
            let part = usize::try_from(end - offset).unwrap_or(MIB).min(MIB);
            let (read, count) = file.read_at(offset, part, buffer).await.map_err(|error| error.to_string())?;
            buffer = read;
            offset += count.max(1) as u64;
            total += count as u64;
        }
    }
    Ok((begun.elapsed(), total))
}

fn report(from: From, keys: u64, written: u64, mut rounds: Vec<Round>) {
    rounds.sort_by_key(|round| round.wall);
    let Some(median) = rounds.get(rounds.len() / 2) else { return };
    let (name, count) = match from {
        From::Checkpoint => ("from the checkpoint", keys),
        From::Footers => ("from the footers", written),
    };
    let seconds = |duration: Duration| duration.as_secs_f64();
    println!(
        "{name}: {:.3} s (CPU {:.3} s), {:.2} M records/s, {:.2} M keys/s; its {:.0} MiB read in {:.3} s: {:.1} times that",
        seconds(median.wall),
        seconds(median.cpu),
        count as f64 / seconds(median.wall) / 1e6,
        keys as f64 / seconds(median.wall) / 1e6,
        median.read_size as f64 / MIB as f64,
        seconds(median.read_wall),
        seconds(median.wall) / seconds(median.read_wall)
    );
}
