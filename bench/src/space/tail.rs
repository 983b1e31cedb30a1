//! `dmabench tail`: what gets from disk feel of reclaim.
//!
//! Gets come at even times and a fixed rate, whatever the server does: alone; beside sets for which room has to be taken
//! back; and, on a server with room to spare, beside the same sets without that. Latency counts from when a get was due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::arguments::TailArguments;
use super::snapshot::{Asker, Stats};
use super::{base_plan, mean_user_size, ratio, wait_until_flushed};
use crate::compare::median;
use crate::ledger::{Ledger, Lifetimes};
use crate::load::{Length, Outcome, Plan, Session};
use crate::parse::Target;
use crate::procstat;
use crate::report;
use crate::tally::Tally;
use crate::workload::{KeyOrder, Keys};

const PERCENTS: [f64; 3] = [50.0, 99.0, 99.9];
/// How long the sets run between two looks at whether the gets are over.
const SET_SLICE: Duration = Duration::from_millis(250);
/// Gets before those that count, so that what the sets have begun shows.
const WARM_UP: Duration = Duration::from_secs(1);
/// Sets in capacities before anything is measured, so that all tables have been used.
const OVERWRITES: f64 = 1.5;

/// One kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alone,
    WithSets,
    WithRoom,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "gets alone",
            Self::WithSets => "with sets and reclaim",
            Self::WithRoom => "with the same sets, no reclaim",
        }
    }
}

/// A server, what was written to it, and who does that.
struct Side {
    writes: Plan,
    gets: Plan,
    asker: Asker,
}

/// A run's gets, the sets per second beside them, and what the server said of itself before and after.
struct Measured {
    gets: Outcome,
    set_rate: f64,
    before: Stats,
    after: Stats,
}

/// What one run found.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    percentiles_us: [f64; 3],
    /// Device reads per get that hit; below 1, some came from memory.
    reads_per_get: f64,
    /// Bytes written to the device per second.
    written_per_second: f64,
    /// Tables that became free: taken back, or evicted.
    tables: u64,
    /// Sets that were stored per second.
    set_rate: f64,
    unsent: u64,
    is_client_limited: bool,
}

/// Runs everything and prints the table.
///
/// # Errors
///
/// A sentence when a server is not empty or breaks off, or when a value was wrong, stale or lost.
pub(crate) fn run(arguments: &TailArguments) -> Result<(), String> {
    let mut first = Asker::connect(&arguments.target.address)?;
    let capacity = super::empty_capacity(&mut first)?;
    let common = &arguments.common;
    let count =
        super::key_count(capacity, common.fill, &common.key_prefix, common.value_size, u64::from(common.writers))?;
    let keys = Keys { prefix: common.key_prefix.clone(), count };
    let overwrites = (capacity as f64 * OVERWRITES / mean_user_size(&keys, common.value_size)) as u64;
    let seed = common.seed();
    println!(
        "{count} keys in {:.1} MiB, values of {} to {} bytes, seed {seed}",
        super::mib(capacity),
        common.value_size.size_min,
        common.value_size.size_max
    );
    let mut full = Side::prepare(arguments, &arguments.target, first, &keys, seed, overwrites)?;
    let mut roomy = match &arguments.roomy {
        Some(target) => {
            let mut asker = Asker::connect(&target.address)?;
            super::empty_capacity(&mut asker)?;
            Some(Side::prepare(arguments, target, asker, &keys, seed, 0)?)
        }
        None => None,
    };
    let rate = full.set_rate(arguments)?;
    if let Some(side) = &mut roomy {
        side.gets.rate = Some(rate);
    }
    let mut kinds = vec![Kind::Alone, Kind::WithSets];
    kinds.extend(roomy.is_some().then_some(Kind::WithRoom));
    let mut samples = vec![Vec::new(); kinds.len()];
    for round in 0..arguments.rounds as usize {
        for turn in 0..kinds.len() {
            let place = (turn + round) % kinds.len();
            let side = match kinds[place] {
                Kind::WithRoom => roomy.as_mut().expect("there is such a server"),
                Kind::Alone | Kind::WithSets => &mut full,
            };
            let sample = side.measure(kinds[place], arguments.seconds)?;
            eprintln!("round {}, {}: {sample:?}", round + 1, kinds[place].name());
            samples[place].push(sample);
        }
    }
    print_table(&kinds, &samples);
    Ok(())
}

impl Side {
    /// Fills a server, and then overwrites keys until room has to be taken back.
    fn prepare(
        arguments: &TailArguments,
        target: &Target,
        mut asker: Asker,
        keys: &Keys,
        seed: u64,
        overwrites: u64,
    ) -> Result<Self, String> {
        let common = &arguments.common;
        let ledger = Arc::new(Ledger::new(keys.count, Lifetimes::Endless));
        let plan = |connections: u32, pipeline: u32| {
            let (seed, values) = (seed.wrapping_add(u64::from(connections)), common.value_size);
            let mut plan = base_plan(target, connections.into(), pipeline as usize, keys.clone(), values, seed);
            plan.cpus = common.cpu.clone().unwrap_or_default().0;
            plan.workload.ledger = Some(Arc::clone(&ledger));
            plan
        };
        let mut writes = plan(common.writers, common.write_pipeline);
        (writes.workload.get_share, writes.workload.order) = (0.0, KeyOrder::Uniform);
        {
            let mut session = Session::connect(&writes)?;
            session.fill()?;
            let (tally, _) = session.mix(Length::Requests(overwrites))?;
            if let Some(error) = tally.first_error {
                return Err(format!("{}: a set was refused: {error}", target.name));
            }
        }
        writes.rate = Some(f64::from(arguments.write_rate));
        wait_until_flushed(&mut asker)?;
        Ok(Self { writes, gets: plan(common.readers, arguments.get_pipeline), asker })
    }

    /// Measures how many gets the server answers, alone and beside the sets, and takes a share of the latter.
    fn set_rate(&mut self, arguments: &TailArguments) -> Result<f64, String> {
        let mut plan = self.gets.clone();
        plan.pipeline = arguments.max_pipeline as usize;
        let alone = self.run_gets(&plan, arguments.seconds, false)?.gets.rate();
        let beside = self.run_gets(&plan, arguments.seconds, true)?.gets.rate();
        let rate = (beside.min(alone) * arguments.load).max(1.0);
        println!(
            "closed loop of {} connections x {}: {alone:.0} gets/s alone, {beside:.0}/s beside {} sets/s; \
             {:.0} % of it are {rate:.0}/s",
            plan.connection_count,
            plan.pipeline,
            arguments.write_rate,
            arguments.load * 100.0
        );
        self.gets.rate = Some(rate);
        Ok(rate)
    }

    /// Runs `gets` for some time, beside the sets if they are wanted.
    fn run_gets(&mut self, gets: &Plan, length: Duration, with_sets: bool) -> Result<Measured, String> {
        wait_until_flushed(&mut self.asker)?;
        // The same keys in each round would leave tables behind of which nothing is live.
        self.writes.workload.seed = self.writes.workload.seed.wrapping_add(1 << 32);
        let (writes, asker, is_done) = (&self.writes, &mut self.asker, AtomicBool::new(false));
        thread::scope(|scope| {
            let writer = with_sets.then(|| scope.spawn(|| set_until(writes, &is_done)));
            let outcome = measured_gets(gets, asker, length);
            is_done.store(true, Ordering::Relaxed);
            let written = writer.map(|writer| writer.join().expect("it does not panic")).transpose()?;
            let mut measured = outcome?;
            if let Some((sets, time)) = written {
                if let Some(error) = sets.first_error {
                    return Err(format!("a set was refused: {error}"));
                }
                measured.set_rate = sets.sets as f64 / time.as_secs_f64().max(1e-9);
            }
            Ok(measured)
        })
    }

    fn measure(&mut self, kind: Kind, length: Duration) -> Result<Sample, String> {
        let gets = self.gets.clone();
        let measured = self.run_gets(&gets, length, kind != Kind::Alone)?;
        let tally = &measured.gets.tally;
        tally.verdict()?;
        if let (Some(first), 0) = (&tally.first_lost, measured.after.number("evictions").unwrap_or(0)) {
            return Err(format!("{} values were lost; the first: {first}", tally.lost));
        }
        Ok(Sample::new(&measured, report::is_client_limited(&gets, &measured.gets)))
    }
}

/// Runs `gets` for a moment that does not count, and then for `length`.
fn measured_gets(gets: &Plan, asker: &mut Asker, length: Duration) -> Result<Measured, String> {
    let mut session = Session::connect(gets)?;
    session.mix(Length::Time(WARM_UP))?;
    let (before, client_before) = (asker.ask()?, procstat::own_cpu()?);
    let (tally, elapsed) = session.mix(Length::Time(length))?;
    let client_cpu = procstat::own_cpu()?.saturating_sub(client_before);
    let gets = Outcome { tally, elapsed, client_cpu, server: None, fill: None };
    Ok(Measured { gets, set_rate: 0.0, before, after: asker.ask()? })
}

impl Sample {
    fn new(measured: &Measured, is_client_limited: bool) -> Self {
        let Measured { gets: Outcome { tally, elapsed, .. }, set_rate, before, after } = measured;
        let reads = after.grown(before, "disk_reads");
        let tables = after.grown(before, "extstore_page_reclaims") + after.grown(before, "extstore_page_evictions");
        Self {
            percentiles_us: PERCENTS.map(|percent| tally.get_latencies.percentile_us(percent)),
            reads_per_get: ratio(reads, tally.hits),
            written_per_second: after.grown(before, "disk_write_bytes") as f64 / elapsed.as_secs_f64().max(1e-9),
            tables,
            set_rate: *set_rate,
            unsent: tally.unsent,
            is_client_limited,
        }
    }
}

/// What was set, and the time it took.
fn set_until(plan: &Plan, is_done: &AtomicBool) -> Result<(Tally, Duration), String> {
    let mut session = Session::connect(plan)?;
    let (mut sum, mut time) = (Tally::new(), Duration::ZERO);
    while !is_done.load(Ordering::Relaxed) {
        let (tally, elapsed) = session.mix(Length::Time(SET_SLICE))?;
        sum.add(&tally);
        time += elapsed;
    }
    Ok((sum, time))
}

fn print_table(kinds: &[Kind], samples: &[Vec<Sample>]) {
    println!(
        "\n| medians | p50 us | p99 us | p99.9 us | reads per get | sets/s | written MiB/s | tables freed | never sent |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let middle = |cell: &[Sample], of: &dyn Fn(&Sample) -> f64| median(&cell.iter().map(of).collect::<Vec<_>>());
    let percentile = |cell: &[Sample], place: usize| middle(cell, &|sample| sample.percentiles_us[place]);
    for (kind, cell) in kinds.iter().zip(samples) {
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.4} | {:.0} | {:.1} | {:.0} | {:.0} |",
            kind.name(),
            percentile(cell, 0),
            percentile(cell, 1),
            percentile(cell, 2),
            middle(cell, &|sample| sample.reads_per_get),
            middle(cell, &|sample| sample.set_rate),
            middle(cell, &|sample| sample.written_per_second) / (1 << 20) as f64,
            middle(cell, &|sample| sample.tables as f64),
            middle(cell, &|sample| sample.unsent as f64)
        );
    }
    for (place, kind) in kinds.iter().enumerate().filter(|(place, _)| *place != 1) {
        let ratios: Vec<_> = (0..PERCENTS.len())
            .map(|percent| format!("{:.2}", percentile(&samples[1], percent) / percentile(&samples[place], percent)))
            .collect();
        println!("ratio of {} to {}: {}", kinds[1].name(), kind.name(), ratios.join(" "));
    }
    if samples.iter().flatten().any(|sample| sample.is_client_limited) {
        println!("The client was busy nearly all the time in some run: latencies are its own.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_what_grew() {
        let stats = |reads: u64, pages: u64| {
            Stats::parse(&format!("STAT disk_reads {reads}\r\nSTAT extstore_page_reclaims {pages}\r\n"))
        };
        let (before, after) = (stats(10, 1), stats(50, 4));
        let mut tally = Tally::new();
        tally.hits = 40;
        tally.get_latencies.record(100_000);
        let elapsed = Duration::from_secs(2);
        let gets = Outcome { tally, elapsed, client_cpu: elapsed, server: None, fill: None };
        let sample = Sample::new(&Measured { gets, set_rate: 7.0, before, after }, false);
        assert_eq!((sample.reads_per_get, sample.tables, sample.set_rate), (1.0, 3, 7.0));
        assert!((sample.percentiles_us[2] - 100.0).abs() < 0.1);
    }
}
