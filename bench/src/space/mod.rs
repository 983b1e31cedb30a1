//! A server whose disk is full: what writes cost the device (`churn`), how much fits (`fill`), what gets feel of it
//! (`tail`), and what memory a day takes (`day`).
//!
//! All of it runs against servers that are there already; what they say in `stats` is held against what the kernel counts.

pub(crate) mod arguments;
pub(crate) mod churn;
pub(crate) mod day;
pub(crate) mod fill;
mod sampler;
mod snapshot;
pub(crate) mod tail;

use std::time::{Duration, Instant};

use dmacached::disktable::format::SUMMARY_SIZE;
use dmacached::record;

use self::snapshot::{Asker, Stats};
use crate::load::{Length, Plan};
use crate::parse::Target;
use crate::workload::{KeyOrder, Keys, Values, Workload};

/// How long a server may take to have on disk what it was sent.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that a record of key `index` takes in a table: itself, rounded to where the next one may begin, and its summary.
fn footprint(keys: &Keys, values: Values, index: u64) -> u64 {
    let size = record::record_size(keys.size(), values.size(index));
    (record::granules_up(size) + SUMMARY_SIZE) as u64
}

/// The mean of `of` over some keys.
fn mean(key_count: u64, of: impl Fn(u64) -> u64) -> f64 {
    let sample = key_count.clamp(1, 10_000);
    (0..sample).map(of).sum::<u64>() as f64 / sample as f64
}

/// Bytes of key and value, on average.
fn mean_user_size(keys: &Keys, values: Values) -> f64 {
    mean(keys.count, |index| (keys.size() + values.size(index)) as u64)
}

/// How many keys fill `share` of `capacity`, a multiple of `multiple`.
fn key_count(capacity: u64, share: f64, prefix: &str, values: Values, multiple: u64) -> Result<u64, String> {
    let keys = Keys { prefix: prefix.to_owned(), count: u64::from(u32::MAX) };
    let count = (capacity as f64 * share / mean(keys.count, |index| footprint(&keys, values, index))) as u64;
    match count - count % multiple {
        0 => Err("the capacity is too small for any key".to_owned()),
        count if count > u64::from(u32::MAX) => Err("the capacity is too large for so small values".to_owned()),
        count => Ok(count),
    }
}

/// A closed loop of gets for all keys, values checked: what the other loads change.
fn base_plan(target: &Target, connection_count: u64, pipeline: usize, keys: Keys, values: Values, seed: u64) -> Plan {
    Plan {
        address: target.address.clone(),
        server_pid: target.pid,
        connection_count,
        pipeline,
        burst: false,
        length: Length::Requests(0),
        warmup: Duration::ZERO,
        rate: None,
        thread_count: 1,
        cpus: Vec::new(),
        timeout: Duration::from_secs(30),
        fill: false,
        workload: Workload {
            keys,
            values,
            get_share: 1.0,
            multiget_count: 1,
            order: KeyOrder::Uniform,
            zipf_exponent: 0.99,
            seed,
            verify: true,
            ledger: None,
        },
    }
}

/// The capacity that a server says it has, which must be empty.
fn empty_capacity(asker: &mut Asker) -> Result<u64, String> {
    let stats = asker.ask()?;
    match stats.number("curr_items") {
        Some(0) => stats.need("extstore_limit_maxbytes"),
        Some(count) => Err(format!("the server holds {count} items already: this load needs an empty one")),
        None => Err("the server does not say how many items it has".to_owned()),
    }
}

/// Waits until no record is in memory alone.
fn wait_until_flushed(asker: &mut Asker) -> Result<Stats, String> {
    let begun = Instant::now();
    loop {
        let stats = asker.ask()?;
        if stats.number("memtable_bytes").unwrap_or(0) == 0 {
            return Ok(stats);
        }
        if begun.elapsed() > FLUSH_PATIENCE {
            return Err(format!("records are in memory alone for more than {FLUSH_PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mib(size: u64) -> f64 {
    size as f64 / (1 << 20) as f64
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fill_the_share_that_was_asked_for() {
        let values = Values { size_min: 1_000, size_max: 1_000 };
        let count = key_count(64 << 20, 0.9, "key:", values, 8).expect("it is large enough");
        let keys = Keys { prefix: "key:".to_owned(), count };
        let filled = (count * footprint(&keys, values, 0)) as f64 / (64u64 << 20) as f64;
        assert!(count.is_multiple_of(8) && (0.899..=0.9).contains(&filled), "{count} {filled}");
        assert_eq!(mean_user_size(&keys, values), 1_014.0);
        assert!(key_count(1_000, 0.9, "key:", values, 8).is_err());
    }
}
