//! `dmabench day`: a day of a cache's life in minutes, and what memory the server takes in each hour of it.
//!
//! Traffic rises and falls with the hour. In each hour new keys are written that stay, others that live for an hour, ten hours
//! or longer, and gets ask, by Zipf's law, for keys of this hour, of the one before and of an older one. So the index grows
//! all day, what is popular changes, and the hot cache has to give way. What is resident is looked at all the time.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::arguments::DayArguments;
use super::sampler::{Peak, Sampler};
use super::snapshot::{Asker, Stats};
use super::{base_plan, mib, ratio};
use crate::args::seed;
use crate::ledger::{Ledger, Lifetimes};
use crate::load::{Length, Plan, Session};
use crate::tally::Tally;
use crate::workload::{KeyOrder, Keys};

/// Traffic in each hour in percent of that in the busiest: a quiet night, a rise in the morning, the most in the evening.
const ACTIVITY: [u64; 24] = [
    40, 30, 24, 20, 20, 24, 32, 45, 58, 66, 70, 74, 78, 76, 74, 74, 78, 84, 92, 98, 100, 92, 76, 56, //
];

/// Sum of [`ACTIVITY`].
const ACTIVITY_SUM: u64 = {
    let (mut sum, mut hour) = (0, 0);
    while hour < ACTIVITY.len() {
        sum += ACTIVITY[hour];
        hour += 1;
    }
    sum
};

/// The most that a server may take of what it was given, and of what it accounts for.
const GOAL: f64 = 1.1;

/// Runs the day and prints its hours.
///
/// # Errors
///
/// A sentence when the server is not empty or breaks off, when a value was wrong, or more memory was taken than
/// `-m` and a tenth.
pub(crate) fn run(arguments: &DayArguments) -> Result<(), String> {
    let mut asker = Asker::connect(&arguments.target.address)?;
    let capacity = super::empty_capacity(&mut asker)?;
    let seed = seed(arguments.seed);
    println!(
        "{}: capacity {:.0} MiB, {} keys that stay and as many that expire, values of {} to {} bytes, {} gets/s at most, an \
         hour is {} s; seed {seed}\n",
        arguments.target.name,
        mib(capacity),
        arguments.keys,
        arguments.value_size.size_min,
        arguments.value_size.size_max,
        arguments.peak,
        arguments.hour_seconds
    );
    println!(
        "| hour | gets/s | hits | items | evicted | index MiB | cache MiB | accounted MiB | resident MiB | of -m | of accounted |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let (mut most, mut last) = (Peak::default(), asker.ask()?);
    for hour in 0..ACTIVITY.len() {
        // A sampler for each hour, so that each has a peak of its own.
        let sampler = Sampler::start(&arguments.target.address, arguments.target.pid)?;
        let got = live_through(arguments, hour, seed)?;
        got.verdict()?;
        let peak = sampler.peak();
        drop(sampler);
        let stats = asker.ask()?;
        println!("{}", row(hour, &got, &peak, &stats, stats.grown(&last, "evictions"), arguments.hour_seconds));
        most = most.max(peak);
        last = stats;
    }
    conclude(&most)
}

/// How many of `whole` fall to an hour.
fn part(whole: u64, hour: usize) -> u64 {
    (whole * ACTIVITY[hour] / ACTIVITY_SUM).max(1)
}

/// Keys that are written in an hour: those that stay, and those that expire.
fn keys_of(arguments: &DayArguments, hour: usize, expires: bool) -> Keys {
    let kind = if expires { "session" } else { "object" };
    Keys { prefix: format!("{kind}:{hour:02}:"), count: part(arguments.keys.into(), hour) }
}

/// Writes and gets of one hour, all at the same time.
fn live_through(arguments: &DayArguments, hour: usize, seed: u64) -> Result<Tally, String> {
    let ledger = Arc::new(Ledger::new(part(arguments.keys.into(), hour), Lifetimes::Mixed(arguments.hour_seconds)));
    let write = |expires: bool| {
        let keys = keys_of(arguments, hour, expires);
        let rate = keys.count as f64 / arguments.hour_seconds as f64;
        let mut plan = plan(arguments, 1, keys, seed, rate);
        (plan.workload.get_share, plan.workload.order) = (0.0, KeyOrder::Sequential);
        plan.workload.ledger = expires.then(|| Arc::clone(&ledger));
        plan
    };
    let older = (seed.wrapping_mul(31) as usize + hour * 7) % (hour + 1);
    let rate = f64::from(arguments.peak) * ACTIVITY[hour] as f64 / 100.0;
    let read = |from: usize, expires: bool, share: f64| {
        let mut plan = plan(arguments, 8, keys_of(arguments, from, expires), seed ^ from as u64, rate * share);
        plan.workload.order = KeyOrder::Zipf;
        plan
    };
    let plans = [
        write(false),
        write(true),
        read(hour, false, 0.4),
        read(hour.saturating_sub(1), false, 0.2),
        read(older, false, 0.2),
        read(hour, true, 0.2),
    ];
    let length = Length::Time(Duration::from_secs(arguments.hour_seconds));
    let tallies: Vec<Result<Tally, String>> = thread::scope(|scope| {
        let threads: Vec<_> =
            plans.iter().map(|plan| scope.spawn(move || Ok(Session::connect(plan)?.mix(length)?.0))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let mut sum = Tally::new();
    for tally in tallies {
        sum.add(&tally?);
    }
    Ok(sum)
}

fn plan(arguments: &DayArguments, connections: u64, keys: Keys, seed: u64, rate: f64) -> Plan {
    let mut plan = base_plan(&arguments.target, connections, 64, keys, arguments.value_size, seed);
    plan.rate = Some(rate.max(1.0));
    plan.cpus = arguments.cpu.clone().unwrap_or_default().0;
    plan
}

fn row(hour: usize, got: &Tally, peak: &Peak, stats: &Stats, evictions: u64, seconds: u64) -> String {
    let size = |name: &str| mib(stats.number(name).unwrap_or(0));
    format!(
        "| {hour} | {} | {:.1} % | {} | {evictions} | {:.1} | {:.1} | {:.1} | {:.1} | {:.3} | {:.3} |",
        got.gets / seconds,
        ratio(got.hits, got.hits + got.misses) * 100.0,
        stats.number("curr_items").unwrap_or(0),
        size("index_bytes"),
        size("cache_memory_bytes"),
        mib(peak.accounted),
        mib(peak.resident.all),
        ratio(peak.resident.all, peak.limit),
        ratio(peak.resident.all, peak.accounted)
    )
}

fn conclude(most: &Peak) -> Result<(), String> {
    if most.sample_count == 0 {
        println!("\nWithout the server's process it is not known what is resident.");
        return Ok(());
    }
    let of_limit = ratio(most.resident.all, most.limit);
    println!(
        "\nresident {:.1} MiB at most ({:.1} MiB of no file), {of_limit:.3} of -m ({:.1} MiB), {} samples",
        mib(most.resident.all),
        mib(most.resident.anonymous),
        mib(most.limit),
        most.sample_count
    );
    if of_limit > GOAL { Err(format!("more than {GOAL} times -m was resident")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procstat::Resident;

    #[test]
    fn the_hours_make_up_the_day() {
        let sum: u64 = (0..ACTIVITY.len()).map(|hour| part(1_000_000, hour)).sum();
        assert!((999_900..=1_000_000).contains(&sum), "{sum}");
        assert_eq!(part(1, 3), 1, "each hour has a key");
    }

    #[test]
    fn too_much_memory_is_an_error() {
        let peak =
            |all: u64| Peak { sample_count: 1, resident: Resident { all, anonymous: 1 }, accounted: 90, limit: 100 };
        assert_eq!(conclude(&peak(110)), Ok(()));
        assert!(conclude(&peak(111)).is_err_and(|error| error.contains("-m")));
        assert_eq!(conclude(&Peak::default()), Ok(()), "nothing is known");
    }
}
