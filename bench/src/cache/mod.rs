//! `dmabench cache`: the hot cache next to LRU, FIFO and Belady's MIN, on the same requests with room for as many records.
//!
//! The cache is the server's own, with its index, its memory and its records; what is missing is the disk, from which a
//! record comes at once. The others are simulated. All records have the same size, so that their number is what is
//! compared. All keys are in the index from the start, as those of a store that has been filled. What is counted are the
//! requests of the second half.

mod policies;
mod trace;

use std::time::Instant;

use dmacached::cache::{CacheCounters, CacheGauges, CachedIndex};
use dmacached::digest::Digest;
use dmacached::index::{Entry, Index, Pointer};
use dmacached::record::{Header, Kind, Place, SizeClass, encode, record_size};

use crate::args::CacheArguments;
use crate::procstat;
use policies::{Policy, miss_count};
use trace::{Shape, Trace};

const SALT: [u8; 16] = *b"dmabench's cache";
const TABLE_SIZE: usize = 64 << 20;
const MIB: usize = 1 << 20;
/// Bytes of the index for a key, at most.
const INDEX_ENTRY_SIZE: usize = 32;

/// What became of the requests.
struct Outcome {
    misses: u64,
    /// Most records that were cached at once.
    capacity: usize,
    gauges: CacheGauges,
    counters: CacheCounters,
    /// Nanoseconds a request, index and digest included.
    nanoseconds: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// When the index does not take all keys.
pub(crate) fn run(arguments: &CacheArguments) -> Result<(), String> {
    println!("{}", procstat::host_line());
    println!(
        "{} keys, {} requests of which the second half counts, values of {} bytes, seed {}",
        arguments.keys, arguments.requests, arguments.value_size, arguments.seed
    );
    println!(
        "\n{:<21} {:>5} {:>8} | {:>6} {:>6} {:>6} {:>6} | {:>9} {:>9} {:>9} {:>8} {:>8}",
        "misses, % of gets",
        "room",
        "records",
        "cache",
        "LRU",
        "FIFO",
        "MIN",
        "noted",
        "rounded",
        "resident",
        "inserts",
        "ns/get"
    );
    for shape in Shape::ALL {
        let trace = Trace::new(shape, arguments.keys, arguments.requests as usize, arguments.seed);
        let next_uses = trace.next_uses();
        for percent in [1usize, 5, 10, 20] {
            report(arguments, shape, &trace, &next_uses, percent)?;
        }
    }
    println!(
        "\nroom: records that the memory is for, in % of the keys. noted, rounded, resident: bytes a cached record for what is\n\
         noted about it; lost by the size of its cell; of all memory beside the record. MIN may leave a record outside.\n\
         inserts: per 100 gets."
    );
    Ok(())
}

fn report(
    arguments: &CacheArguments,
    shape: Shape,
    trace: &Trace,
    next_uses: &[u32],
    percent: usize,
) -> Result<(), String> {
    let first = trace.requests.len() / 2;
    let counted = (trace.requests.len() - first) as f64;
    let room = arguments.keys as usize * percent / 100;
    let outcome = measure(arguments, trace, room, first)?;
    let others = [Policy::Lru, Policy::Fifo, Policy::Belady]
        .map(|policy| miss_count(policy, trace, next_uses, outcome.capacity, first));
    let percent_of = |count: u64| 100.0 * count as f64 / counted;
    let CacheGauges { records, record_bytes, cell_bytes, noted_bytes, memory_bytes } = outcome.gauges;
    let each = |size: usize| size as f64 / records.max(1) as f64;
    let head_bytes = noted_bytes.min(cell_bytes - record_bytes);
    println!(
        "{:<21} {:>4}% {:>8} | {:>6.2} {:>6.2} {:>6.2} {:>6.2} | {:>9.2} {:>9.2} {:>9.2} {:>8.2} {:>8.0}",
        shape.name(),
        percent,
        outcome.capacity,
        percent_of(outcome.misses),
        percent_of(others[0]),
        percent_of(others[1]),
        percent_of(others[2]),
        each(noted_bytes),
        each(cell_bytes - record_bytes - head_bytes),
        each(memory_bytes - record_bytes),
        100.0 * outcome.counters.inserts as f64 / trace.requests.len() as f64,
        outcome.nanoseconds
    );
    Ok(())
}

/// Asks the cache for all keys of the trace.
fn measure(arguments: &CacheArguments, trace: &Trace, room: usize, first: usize) -> Result<Outcome, String> {
    let mut record = vec![0; record_size(size_of::<u32>(), arguments.value_size)];
    // What a record takes of a page, about.
    let cache_size = room * (record.len() + 16).next_multiple_of(16);
    let budget = trace.key_count as usize * INDEX_ENTRY_SIZE + cache_size + 32 * MIB;
    let mut cached = CachedIndex::new(Index::new(budget, TABLE_SIZE), TABLE_SIZE, SALT, budget, cache_size);
    for key in 0..trace.key_count {
        let digest = Digest::of(&SALT, &key.to_le_bytes());
        cached.upsert(&digest, entry(key)).map_err(|error| error.to_string())?;
    }
    let header = Header { kind: Kind::Value, version: 1, expiry: 0, client_flags: 0, bits: 0, own_cas: None };
    let place = Place { slot: 0, sequence: 0, offset: 0 };
    let value = vec![7; arguments.value_size];
    let (mut misses, mut capacity) = (0, 0);
    let begun = Instant::now();
    for (number, key) in trace.requests.iter().enumerate() {
        let digest = Digest::of(&SALT, &key.to_le_bytes());
        let found = cached.find(&digest).ok_or("a key is lost")?;
        match found.cell {
            Some(cell) => {
                std::hint::black_box(cached.hit(cell));
            }
            None => {
                misses += u64::from(number >= first);
                encode(&mut record, place, header, &key.to_le_bytes(), &value);
                if CachedIndex::is_to_note(found.entry) {
                    cached.note_fetched(&digest);
                }
                cached.insert(&digest, found.entry, &record);
                capacity = capacity.max(cached.cache_gauges().records);
            }
        }
    }
    let nanoseconds = begun.elapsed().as_nanos() as f64 / trace.requests.len() as f64;
    Ok(Outcome { misses, capacity, gauges: cached.cache_gauges(), counters: cached.counters(), nanoseconds })
}

/// The entry of a key whose record lies somewhere on disk.
fn entry(key: u32) -> Entry {
    let granules = key % (TABLE_SIZE as u32 / 16);
    Entry::new(Pointer { slot: key / (TABLE_SIZE as u32 / 16), offset: granules * 16 }, SizeClass(10), 0)
}
