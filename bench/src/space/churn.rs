//! `dmabench churn`: keys are overwritten, several times the capacity, while others are got; every value is checked.
//!
//! A round is a capacity's worth of keys and values. Around each, server and kernel are asked what was written and read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::arguments::{ChurnArguments, Updates};
use super::sampler::{Peak, Sampler};
use super::snapshot::{Asker, Snapshot};
use super::{base_plan, mean, mean_user_size, mib, ratio, wait_until_flushed};
use crate::amplification::load::Load;
use crate::ledger::{Ledger, Lifetimes};
use crate::load::{Length, Plan, Session};
use crate::tally::Tally;
use crate::workload::{KeyOrder, Keys};

/// How long the gets run between two looks at whether the writes are over.
const GET_SLICE: Duration = Duration::from_millis(500);

/// Who writes what, and who reads.
struct Run {
    capacity: u64,
    keys: Keys,
    ledger: Arc<Ledger>,
    writes: Plan,
    gets: Option<Plan>,
    sets_per_round: u64,
    /// Bytes of a key and a value, on average.
    user_size: f64,
    /// Bytes of their record with its summary, on average.
    record_size: f64,
}

/// What one round did.
#[derive(Debug, Clone, Default)]
struct Round {
    /// Keys and values that were stored, in bytes.
    user_size: u64,
    device_size: u64,
    process_size: Option<u64>,
    /// Everybody's writes to the device.
    whole_device_size: Option<u64>,
    records_read: u64,
    /// Device reads; reclaim's own are counted apart.
    reads: u64,
    refused: u64,
    evictions: u64,
    elapsed: Duration,
}

/// Runs the churn and prints what it found.
///
/// # Errors
///
/// A sentence when the server is not empty or breaks off, or when any value was wrong, stale, or lost without an eviction.
pub(crate) fn run(arguments: &ChurnArguments) -> Result<(), String> {
    let mut asker = Asker::connect(&arguments.target.address)?;
    let run = Run::prepare(arguments, super::empty_capacity(&mut asker)?)?;
    print_head(arguments, &run);
    let sampler = Sampler::start(&arguments.target.address, arguments.target.pid)?;
    let mut writer = Session::connect(&run.writes)?;
    if arguments.updates != Updates::Ttl {
        let (count, time) = writer.fill()?;
        println!("filled with {count} keys in {:.1} s\n", time.as_secs_f64());
    }
    let (rounds, written, got) = churn(arguments, &run, &mut writer, &mut asker)?;
    drop(writer);
    let peak = sampler.peak();
    drop(sampler);
    let swept = sweep(&run)?;
    let settle = arguments.settle.min(arguments.rounds - 1);
    let sum = rounds.iter().skip(settle as usize).fold(Round::default(), Round::plus);
    println!("| {} to {} | {} |\n", settle + 1, rounds.len(), cells(&sum));
    print_sum(arguments, &run, &sum);
    print_gets(&written, &got, &swept);
    print_memory(&peak);
    let evictions = asker.ask()?.number("evictions").unwrap_or(0);
    verdict(&got, &swept, evictions)
}

impl Run {
    fn prepare(arguments: &ChurnArguments, capacity: u64) -> Result<Self, String> {
        let common = &arguments.common;
        let (values, writers) = (common.value_size, u64::from(common.writers));
        let live_count = super::key_count(capacity, common.fill, &common.key_prefix, values, writers)?;
        let mut keys = Keys { prefix: common.key_prefix.clone(), count: live_count };
        let user_size = mean_user_size(&keys, values);
        let record_size = mean(keys.count, |index| super::footprint(&keys, values, index));
        let sets_per_round = (capacity as f64 / user_size) as u64;
        let lifetimes = match arguments.updates {
            Updates::Ttl => Lifetimes::Mixed(arguments.ttl_seconds),
            Updates::Uniform | Updates::Hot => Lifetimes::Endless,
        };
        // As many are written in a mean life as are to be alive.
        let steady_rate = lifetimes.mean().map(|seconds| live_count as f64 / seconds);
        if steady_rate.is_some() {
            keys.count = (sets_per_round * u64::from(arguments.rounds)).next_multiple_of(writers);
        }
        let ledger = Arc::new(Ledger::new(keys.count, lifetimes));
        let seed = common.seed();
        let plan = |connections: u32, pipeline, seed| {
            let mut plan = base_plan(&arguments.target, connections.into(), pipeline, keys.clone(), values, seed);
            plan.cpus = common.cpu.clone().unwrap_or_default().0;
            plan.workload.ledger = Some(Arc::clone(&ledger));
            plan
        };
        let mut writes = plan(common.writers, common.write_pipeline as usize, seed);
        writes.workload.get_share = 0.0;
        let asked_rate = (arguments.write_rate > 0).then_some(f64::from(arguments.write_rate));
        writes.rate = steady_rate.or(asked_rate);
        writes.workload.order = match arguments.updates {
            Updates::Uniform => KeyOrder::Uniform,
            Updates::Hot => KeyOrder::Hot,
            Updates::Ttl => KeyOrder::Sequential,
        };
        let mut gets = plan(common.readers, 64, seed.wrapping_add(1));
        gets.rate = Some(f64::from(arguments.get_rate));
        if arguments.updates == Updates::Ttl {
            gets.workload.order = KeyOrder::Recent(live_count);
        }
        let gets = (arguments.get_rate > 0).then_some(gets);
        Ok(Self { capacity, keys, ledger, writes, gets, sets_per_round, user_size, record_size })
    }
}

impl Round {
    fn plus(mut self, other: &Self) -> Self {
        let sum = |left: Option<u64>, right: Option<u64>| Some(left.unwrap_or(0) + right?);
        self.user_size += other.user_size;
        self.device_size += other.device_size;
        self.process_size = sum(self.process_size, other.process_size);
        self.whole_device_size = sum(self.whole_device_size, other.whole_device_size);
        self.records_read += other.records_read;
        self.reads += other.reads;
        self.refused += other.refused;
        self.evictions += other.evictions;
        self.elapsed += other.elapsed;
        self
    }

    fn between(before: &Snapshot, after: &Snapshot, user_size: u64, elapsed: Duration, refused: u64) -> Self {
        let (device_size, process_size, whole_device_size) = after.written_since(before);
        let grown = |name| after.stats.grown(&before.stats, name);
        Self {
            user_size,
            device_size,
            process_size,
            whole_device_size,
            records_read: grown("get_extstore"),
            reads: grown("disk_reads"),
            refused,
            evictions: grown("evictions"),
            elapsed,
        }
    }
}

/// Runs all rounds, with gets beside them. Returns the rounds, and what was counted of writes and of gets.
fn churn(
    arguments: &ChurnArguments,
    run: &Run,
    writer: &mut Session<'_>,
    asker: &mut Asker,
) -> Result<(Vec<Round>, Tally, Tally), String> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = run.gets.as_ref().map(|plan| scope.spawn(|| get_until(plan, &is_done)));
        let outcome = write_rounds(arguments, run, writer, asker);
        is_done.store(true, Ordering::Relaxed);
        let got = reader.map_or_else(|| Ok(Tally::new()), |reader| reader.join().expect("it does not panic"))?;
        let (rounds, written) = outcome?;
        Ok((rounds, written, got))
    })
}

fn get_until(plan: &Plan, is_done: &AtomicBool) -> Result<Tally, String> {
    let mut session = Session::connect(plan)?;
    let mut sum = Tally::new();
    while !is_done.load(Ordering::Relaxed) {
        sum.add(&session.mix(Length::Time(GET_SLICE))?.0);
    }
    Ok(sum)
}

fn write_rounds(
    arguments: &ChurnArguments,
    run: &Run,
    writer: &mut Session<'_>,
    asker: &mut Asker,
) -> Result<(Vec<Round>, Tally), String> {
    let (pid, directory) = (arguments.target.pid, arguments.directory.as_deref());
    let (mut rounds, mut written) = (Vec::new(), Tally::new());
    println!("| round | s | amplification: stats | process | device | reads per get from disk | refused | evicted |");
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut before = Snapshot::take(wait_until_flushed(asker)?, pid, directory);
    for number in 1..=arguments.rounds {
        let (stored, begun) = (run.ledger.stored_count(), Instant::now());
        let (tally, _) = writer.mix(Length::Requests(run.sets_per_round))?;
        let after = Snapshot::take(wait_until_flushed(asker)?, pid, directory);
        let user_size = ((run.ledger.stored_count() - stored) as f64 * run.user_size) as u64;
        let round = Round::between(&before, &after, user_size, begun.elapsed(), tally.errors);
        println!("| {number} | {} |", cells(&round));
        written.add(&tally);
        rounds.push(round);
        before = after;
    }
    Ok((rounds, written))
}

/// Every key once: what is there has to be the newest, and what is not was evicted or has expired.
fn sweep(run: &Run) -> Result<Tally, String> {
    let mut plan = run.writes.clone();
    (plan.rate, plan.pipeline) = (None, 64);
    (plan.workload.get_share, plan.workload.order) = (1.0, KeyOrder::Sequential);
    Ok(Session::connect(&plan)?.mix(Length::Requests(run.keys.count))?.0)
}

fn cells(round: &Round) -> String {
    let per_user =
        |size: Option<u64>| size.map_or_else(|| "-".to_owned(), |size| format!("{:.3}", ratio(size, round.user_size)));
    format!(
        "{:.1} | {} | {} | {} | {} | {} | {}",
        round.elapsed.as_secs_f64(),
        per_user(Some(round.device_size)),
        per_user(round.process_size),
        per_user(round.whole_device_size),
        if round.records_read == 0 { "-".to_owned() } else { format!("{:.4}", ratio(round.reads, round.records_read)) },
        round.refused,
        round.evictions
    )
}

fn print_head(arguments: &ChurnArguments, run: &Run) {
    println!(
        "{}: {:?} updates, capacity {:.1} MiB, {} keys, records of {:.0} bytes with summaries, of which {:.0} are key and value",
        arguments.target.name,
        arguments.updates,
        mib(run.capacity),
        run.keys.count,
        run.record_size,
        run.user_size
    );
    let pace =
        run.writes.rate.map_or_else(|| "as fast as they are stored".to_owned(), |rate| format!("{rate:.0} sets/s"));
    println!(
        "{} rounds of {} sets, {pace}, {} gets/s beside them; the first {} rounds settle it; seed {}\n",
        arguments.rounds, run.sets_per_round, arguments.get_rate, arguments.settle, run.writes.workload.seed
    );
}

fn print_sum(arguments: &ChurnArguments, run: &Run, sum: &Round) {
    let fill = arguments.common.fill;
    let load = match arguments.updates {
        Updates::Uniform => Load::Uniform,
        Updates::Hot => Load::Skewed { updates: 90, keys: 10 },
        Updates::Ttl => Load::Expiring,
    };
    let by_records = ratio(sum.device_size, sum.user_size) * run.user_size / run.record_size;
    let optimum = load.optimum(fill, 1);
    println!(
        "amplification of records {by_records:.3}, the optimum at {:.0} % is {optimum:.3}: {:.2} times that",
        fill * 100.0,
        by_records / optimum
    );
    println!(
        "user bytes               {:.1} MiB in the rounds that count, {:.2} capacities; device bytes {:.1} MiB (stats)",
        mib(sum.user_size),
        ratio(sum.user_size, run.capacity),
        mib(sum.device_size)
    );
    println!(
        "sets                     {:.0}/s in these rounds",
        sum.user_size as f64 / run.user_size / sum.elapsed.as_secs_f64().max(1e-9)
    );
}

fn print_gets(written: &Tally, got: &Tally, swept: &Tally) {
    let at = |percent| got.get_latencies.percentile_us(percent);
    println!("sets answered            {}, {} refused", written.sets, written.errors);
    println!(
        "gets beside              {} ({} hits, {} misses, {} never sent), p50 {:.0} p99 {:.0} p99.9 {:.0} us",
        got.gets,
        got.hits,
        got.misses,
        got.unsent,
        at(50.0),
        at(99.0),
        at(99.9)
    );
    println!("sweep of all keys        {} hits, {} misses", swept.hits, swept.misses);
    println!(
        "verified                 {} values: {} wrong or stale, {} lost",
        got.hits + swept.hits,
        got.wrong + swept.wrong,
        got.lost + swept.lost
    );
}

fn print_memory(peak: &Peak) {
    if peak.sample_count == 0 {
        return println!("memory                   not known without the server's process");
    }
    let (resident, limit) = (peak.resident, peak.limit);
    println!(
        "resident memory          {:.1} MiB at most ({:.1} MiB of no file), {} samples",
        mib(resident.all),
        mib(resident.anonymous),
        peak.sample_count
    );
    println!(
        "                         {:.3} of -m ({:.1} MiB), {:.3} of what stats account for ({:.1} MiB at most)",
        ratio(resident.all, limit),
        mib(limit),
        ratio(resident.all, peak.accounted),
        mib(peak.accounted)
    );
}

/// Wrong and stale values are errors, and lost ones unless something was evicted.
fn verdict(got: &Tally, swept: &Tally, evictions: u64) -> Result<(), String> {
    got.verdict()?;
    swept.verdict()?;
    let first = got.first_lost.as_ref().or(swept.first_lost.as_ref());
    match first {
        Some(first) if evictions == 0 => Err(format!("{} values were lost; the first: {first}", got.lost + swept.lost)),
        _ if swept.lost > evictions => Err(format!("{} values are gone, {evictions} were evicted", swept.lost)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_without_an_eviction_is_an_error() {
        let (mut got, mut swept) = (Tally::new(), Tally::new());
        assert_eq!(verdict(&got, &swept, 0), Ok(()));
        got.lose(5, 1);
        assert!(verdict(&got, &swept, 0).is_err_and(|error| error.contains("key number 5")));
        assert_eq!(verdict(&got, &swept, 1), Ok(()), "the same key may have been asked for twice");
        swept.lose(5, 1);
        swept.lose(6, 1);
        assert!(verdict(&got, &swept, 1).is_err() && verdict(&got, &swept, 2).is_ok());
        swept.reject(7, "stale");
        assert!(verdict(&got, &swept, 2).is_err());
    }

    #[test]
    fn rounds_add_up_and_unknown_stays_unknown() {
        let round = Round { user_size: 100, device_size: 250, process_size: Some(260), reads: 3, ..Round::default() };
        let sum = [round.clone(), Round { records_read: 4, ..round }].iter().fold(Round::default(), Round::plus);
        assert_eq!((sum.user_size, sum.device_size, sum.process_size), (200, 500, Some(520)));
        assert_eq!((sum.reads, sum.records_read, sum.whole_device_size), (6, 4, None));
        assert_eq!(cells(&sum), "0.0 | 2.500 | 2.600 | - | 1.5000 | 0 | 0");
    }
}
