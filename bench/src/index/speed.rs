//! The mean cost of each operation, in CPU time of the thread.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;

use dmacached::digest::Digest;
use dmacached::index::Entry;
use dmacached_bench::contender::Contender;
use dmacached_bench::keys::{self, Shuffle, entry, sorted_numbers};

use super::child::{self, Progress, Task, unexpected};
use super::timing::{process_cpu, thread_cpu, timed};
use super::{Kind, Part, host_line};
use crate::args::SpeedArguments;
use crate::compare::median;

/// Keys of a batch.
const BATCH_LEN: usize = 16;
/// One key of so many is removed.
const KEYS_PER_REMOVAL: usize = 50;
/// The part of the inserts that is also measured by itself, at the end: one of so many.
const KEYS_PER_LATE_INSERT: u64 = 10;
/// Most keys that are looked up without being measured, where all have been looked up before.
const CHECKS_MAX: usize = 1_000_000;

/// What a round finds out.
struct Figure {
    /// What a child calls it.
    name: &'static str,
    title: &'static str,
    decimals: usize,
}

const FIGURES: [Figure; 11] = [
    Figure { name: "insert", title: "insert, ns", decimals: 1 },
    Figure { name: "late-insert", title: "insert, the last 10 %, ns", decimals: 1 },
    Figure { name: "insert-all-threads", title: "insert, CPU of all threads, ns", decimals: 1 },
    Figure { name: "get", title: "get, present, ns", decimals: 1 },
    Figure { name: "dependent", title: "get, present, each after the answer before, ns", decimals: 1 },
    Figure { name: "absent", title: "get, absent, ns", decimals: 1 },
    Figure { name: "batch", title: "get, present, batches of 16, ns per key", decimals: 1 },
    Figure { name: "absent-batch", title: "get, absent, batches of 16, ns per key", decimals: 1 },
    Figure { name: "remove", title: "remove 2 %, ns", decimals: 1 },
    Figure { name: "bulk", title: "build from sorted keys, million keys/s", decimals: 2 },
    Figure { name: "making", title: "(a key and its entry alone, subtracted above, ns)", decimals: 1 },
];

/// How keys become digests.
type DigestOf = fn(u64) -> Digest;

/// What making keys alone costs, per key in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Making {
    /// Key and entry, by number.
    in_turn: f64,
    /// Key and entry, in random order.
    in_random_order: f64,
    /// The key only, in random order.
    absent: f64,
}

/// One contender, its keys, and what was found.
struct Bench<C> {
    contender: C,
    key_count: u64,
    /// All numbers, shuffled: read from first to last, which costs next to nothing.
    order: Vec<u32>,
    digest: DigestOf,
    making: Making,
    figures: Vec<(&'static str, f64)>,
}

/// The child: measures all operations of a contender with `key_count` keys.
///
/// # Errors
///
/// A sentence when the contender refuses, loses or mixes up a key, or nobody reads.
pub(super) fn measure<C: Contender>(key_count: u32, seed: u64, digest: DigestOf) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    let say = |(name, value): (&str, f64)| writeln!(output, "{name} {value}").map_err(|error| error.to_string());
    figures::<C>(key_count, seed, digest)?.into_iter().try_for_each(say)
}

/// What is found about all operations, by the names of [`FIGURES`].
fn figures<C: Contender>(key_count: u32, seed: u64, digest: DigestOf) -> Result<Vec<(&'static str, f64)>, String> {
    let order: Vec<u32> = Shuffle::new(u64::from(key_count), seed).numbers().collect();
    let making = making(&order, digest);
    let contender = C::new(key_count as usize);
    let mut bench = Bench { contender, key_count: u64::from(key_count), order, digest, making, figures: Vec::new() };
    bench.insert()?;
    bench.get()?;
    bench.get_dependent()?;
    bench.get_absent()?;
    bench.get_batches("batch", true)?;
    bench.get_batches("absent-batch", false)?;
    bench.remove()?;
    let Bench { contender, order, mut figures, .. } = bench;
    drop(contender);
    if let Some(rate) = build::<C>(&order)? {
        figures.push(("bulk", rate));
    }
    figures.push(("making", making.in_random_order));
    Ok(figures)
}

fn making(order: &[u32], digest: DigestOf) -> Making {
    let per_key = |time: f64| time / order.len() as f64;
    let both = |number: u64| {
        black_box(digest(number));
        black_box(entry(number));
    };
    // Once without looking, so that the pages of the order are in memory and the processor is awake.
    order.iter().for_each(|number| both(u64::from(*number)));
    Making {
        in_turn: per_key(timed(|| (0..order.len() as u64).for_each(both)).0),
        in_random_order: per_key(timed(|| order.iter().for_each(|number| both(u64::from(*number)))).0),
        absent: per_key(timed(|| order.iter().for_each(|number| _ = black_box(digest(u64::from(*number))))).0),
    }
}

/// `Ok` when nothing is wrong.
fn verdict(what: &str, wrong: u64) -> Result<(), String> {
    if wrong == 0 { Ok(()) } else { Err(format!("{what}: {wrong} answers were wrong")) }
}

impl<C: Contender> Bench<C> {
    /// Notes what one of `count` operations took, without the making of keys.
    fn note(&mut self, name: &'static str, time: f64, count: u64, making: f64) {
        self.figures.push((name, (time / count as f64 - making).max(0.0)));
    }

    fn insert(&mut self) -> Result<(), String> {
        let late_count = self.key_count / KEYS_PER_LATE_INSERT;
        let boundary = self.key_count - late_count;
        let (all_threads, own) = (process_cpu(), thread_cpu());
        let mut wrong = self.insert_range(0..boundary);
        let middle = thread_cpu();
        wrong += self.insert_range(boundary..self.key_count);
        let (own_end, all_threads_end) = (thread_cpu(), process_cpu());
        verdict("insert", wrong)?;
        let making = self.making.in_turn;
        self.note("insert", (own_end - own) as f64, self.key_count, making);
        self.note("late-insert", (own_end - middle) as f64, late_count, making);
        self.note("insert-all-threads", (all_threads_end - all_threads) as f64, self.key_count, making);
        Ok(())
    }

    fn insert_range(&mut self, numbers: std::ops::Range<u64>) -> u64 {
        let mut wrong = 0;
        for number in numbers {
            wrong += u64::from(self.contender.insert(&(self.digest)(number), entry(number)) != Ok(None));
        }
        wrong
    }

    fn get(&mut self) -> Result<(), String> {
        let is_wrong = |number: u64| u64::from(self.contender.get(&(self.digest)(number)) != Some(entry(number)));
        let (time, wrong) = timed(|| self.order.iter().map(|number| is_wrong(u64::from(*number))).sum());
        verdict("get", wrong)?;
        self.note("get", time, self.key_count, self.making.in_random_order);
        Ok(())
    }

    /// No lookup can begin before the one before has ended, as its key depends on what that found.
    fn get_dependent(&mut self) -> Result<(), String> {
        // Zero, which the compiler does not know.
        let mask = black_box(0);
        let (time, (wrong, _)) = timed(|| {
            self.order.iter().fold((0, 0), |(wrong, found), number| {
                let number = u64::from(*number) + u64::from(found & mask);
                let answer = self.contender.get(&(self.digest)(number));
                (wrong + u64::from(answer != Some(entry(number))), answer.map_or(0, |entry| entry.expiry))
            })
        });
        verdict("get, one after the other", wrong)?;
        self.note("dependent", time, self.key_count, self.making.in_random_order);
        Ok(())
    }

    /// Keys with the numbers that follow those of the ones that are there.
    fn get_absent(&mut self) -> Result<(), String> {
        let is_wrong = |number: u64| u64::from(self.contender.get(&(self.digest)(number + self.key_count)).is_some());
        let (time, wrong) = timed(|| self.order.iter().map(|number| is_wrong(u64::from(*number))).sum());
        verdict("get of absent keys", wrong)?;
        self.note("absent", time, self.key_count, self.making.absent);
        Ok(())
    }

    /// Batches of keys that are there, or of those whose numbers follow.
    fn get_batches(&mut self, name: &'static str, are_there: bool) -> Result<(), String> {
        let beyond = if are_there { 0 } else { self.key_count };
        let expected = |number: u32| are_there.then(|| entry(u64::from(number)));
        let mut digests = [Digest([0; _]); BATCH_LEN];
        let mut entries: [Option<Entry>; BATCH_LEN] = [None; BATCH_LEN];
        let (time, wrong) = timed(|| {
            let mut wrong = 0;
            for numbers in self.order.chunks(BATCH_LEN) {
                let count = numbers.len();
                for (place, number) in digests.iter_mut().zip(numbers) {
                    *place = (self.digest)(u64::from(*number) + beyond);
                }
                self.contender.get_batch(&digests[..count], &mut entries[..count]);
                for (found, number) in entries.iter().zip(numbers) {
                    wrong += u64::from(*found != expected(*number));
                }
            }
            wrong
        });
        verdict("get in batches", wrong)?;
        let making = if are_there { self.making.in_random_order } else { self.making.absent };
        self.note(name, time, self.key_count, making);
        Ok(())
    }

    fn remove(&mut self) -> Result<(), String> {
        let count = (self.order.len() / KEYS_PER_REMOVAL).max(1);
        let (removed, kept) = self.order.split_at(count);
        let (contender, digest) = (&mut self.contender, self.digest);
        let mut is_wrong = |number: u64| u64::from(contender.remove(&digest(number)) != Some(entry(number)));
        let (time, wrong) = timed(|| removed.iter().map(|number| is_wrong(u64::from(*number))).sum());
        verdict("remove", wrong)?;
        let found = |number: &u32| self.contender.get(&(self.digest)(u64::from(*number)));
        let mut wrong = removed.iter().filter(|number| found(number).is_some()).count();
        let checked = kept.iter().take(CHECKS_MAX);
        wrong += checked.filter(|number| found(number) != Some(entry(u64::from(**number)))).count();
        wrong += self.contender.len().abs_diff(kept.len());
        verdict("get after remove", wrong as u64)?;
        self.note("remove", time, count as u64, self.making.in_random_order);
        Ok(())
    }
}

/// Million keys per second of a bulk build; `None` when the contender has none.
fn build<C: Contender>(order: &[u32]) -> Result<Option<f64>, String> {
    if C::build_sorted(0, std::iter::empty()).is_none() {
        return Ok(None);
    }
    let count = order.len();
    let sorted = sorted_numbers(count as u32);
    let pairs = sorted.iter().map(|number| (keys::digest(u64::from(*number)), entry(u64::from(*number))));
    let (time, built) = timed(|| C::build_sorted(count, pairs));
    let Some(built) = built else { return Ok(None) };
    let built = built.map_err(|error| format!("build from sorted keys: {error}"))?;
    let is_wrong = |number: &&u32| built.get(&keys::digest(u64::from(**number))) != Some(entry(u64::from(**number)));
    let wrong = order.iter().take(CHECKS_MAX).filter(is_wrong).count() + built.len().abs_diff(count);
    verdict("get after a build from sorted keys", wrong as u64)?;
    let per_key = time / count as f64 - making(order, keys::digest).in_random_order;
    Ok(Some(1e3 / per_key.max(1e-3)))
}

/// All rounds of one contender.
#[derive(Debug, Clone)]
struct Column {
    kind: Kind,
    values: [Vec<f64>; FIGURES.len()],
}

impl Column {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (name, value) = line.split_once(' ').ok_or_else(|| unexpected(line))?;
        let figure = FIGURES.iter().position(|figure| figure.name == name).ok_or_else(|| unexpected(line))?;
        self.values[figure].push(value.parse().map_err(|_| unexpected(line))?);
        Ok(())
    }
}

/// Measures all contenders in turn, in as many rounds as are asked for, and prints the medians.
///
/// # Errors
///
/// A sentence when a child fails.
pub(super) fn run(arguments: &SpeedArguments) -> Result<(), String> {
    let (key_count, kinds) = (arguments.common.keys, arguments.common.kinds());
    let part = if arguments.overlapping { Part::Overlapping } else { Part::Speed };
    let new = |kind: &Kind| Column { kind: *kind, values: Default::default() };
    let mut columns: Vec<Column> = kinds.iter().map(new).collect();
    let progress = Progress::new();
    for round in 0..arguments.rounds {
        for turn in 0..columns.len() {
            // Each round begins with another one, so that none always comes first.
            let index = (turn + round as usize) % columns.len();
            let column = &mut columns[index];
            let kind = column.kind;
            progress.show(&format!("round {} of {}: {}", round + 1, arguments.rounds, kind.name()));
            let task = Task { part, kind, key_count, seed: u64::from(round) };
            child::run(task, |line| column.take(line))?;
        }
    }
    drop(progress);
    print!("{}", report(part, key_count, arguments.rounds, &columns));
    Ok(())
}

fn report(part: Part, key_count: u32, rounds: u32, columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.kind.name()).collect();
    let base = columns.iter().find(|column| column.kind == Kind::Hashbrown);
    let ratio = if base.is_some() { ", and the ratio to hashbrown" } else { "" };
    let digests = match part {
        Part::Overlapping => "Digests cost next to nothing, so operations that do not depend on each other overlap",
        _ => "Each digest is the SHA-1 of a key, as in a store",
    };
    let mut text = format!(
        "{key_count} keys. {digests}. CPU time of the thread that asks, per operation. Medians of {rounds} interleaved rounds \
         (lowest-highest){ratio}; each contender and round in a process of its own. Every answer was checked. \
         Host: {}.\n\n| operation | {} |\n|---{}|\n",
        host_line(),
        names.join(" | "),
        "|---:".repeat(names.len())
    );
    for (index, figure) in FIGURES.iter().enumerate() {
        let base = base.map(|column| column.values[index].as_slice());
        let cells: Vec<_> = columns.iter().map(|column| cell(&column.values[index], base, figure.decimals)).collect();
        writeln!(text, "| {} | {} |", figure.title, cells.join(" | ")).expect("a String takes every write");
    }
    text
}

/// Median, spread, and ratio to the median of `base`.
fn cell(values: &[f64], base: Option<&[f64]>, decimals: usize) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    let middle = median(values);
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    let mut text = format!("{middle:.decimals$} ({lowest:.decimals$}-{highest:.decimals$})");
    if let Some(base) = base.map(median).filter(|base| *base > 0.0) {
        write!(text, " x{:.2}", middle / base).expect("a String takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use dmacached::index::Full;
    use dmacached_bench::contender::HashMap;

    use super::*;

    #[test]
    fn cells_have_median_spread_and_ratio() {
        assert_eq!(cell(&[3.0, 1.0, 2.0], Some(&[4.0]), 1), "2.0 (1.0-3.0) x0.50");
        assert_eq!(cell(&[3.0], None, 0), "3 (3-3)");
        assert_eq!(cell(&[3.0], Some(&[]), 0), "3 (3-3)");
        assert_eq!(cell(&[], Some(&[4.0]), 1), "-");
    }

    #[test]
    fn lines_of_a_child_are_understood_and_others_refused() {
        let mut column = Column { kind: Kind::Full, values: Default::default() };
        column.take("get 41.5").expect("a line of a child");
        assert_eq!(column.values[3], [41.5], "{:?}", FIGURES[3].title);
        for bad in ["", "get", "get x", "other 1"] {
            assert!(column.take(bad).is_err(), "{bad}");
        }
        let report = report(Part::Speed, 1_000, 1, &[column]);
        assert!(report.contains("| get, present, ns | 41.5 (41.5-41.5) |"), "{report}");
    }

    /// A map that forgets or mixes up keys in one way or another.
    struct Broken<const FAULT: u8>(HashMap);

    impl<const FAULT: u8> Contender for Broken<FAULT> {
        fn new(key_count: usize) -> Self {
            Self(Contender::new(key_count))
        }

        fn insert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
            let entry = if FAULT == 1 && entry.expiry == 5 { Entry { expiry: 6, ..entry } } else { entry };
            if FAULT == 2 && entry.expiry == 5 { Ok(None) } else { Contender::insert(&mut self.0, digest, entry) }
        }

        fn get(&self, digest: &Digest) -> Option<Entry> {
            if FAULT == 3 { self.0.values().next().map(|_| entry(1)) } else { Contender::get(&self.0, digest) }
        }

        fn remove(&mut self, digest: &Digest) -> Option<Entry> {
            if FAULT == 4 { Contender::get(&self.0, digest) } else { Contender::remove(&mut self.0, digest) }
        }

        fn len(&self) -> usize {
            Contender::len(&self.0)
        }
    }

    #[test]
    fn whoever_loses_or_mixes_up_keys_is_not_measured() {
        let names: Vec<_> = FIGURES.iter().map(|figure| figure.name).filter(|name| *name != "bulk").collect();
        let found = figures::<Broken<0>>(1_000, 1, keys::hashed).expect("nothing is wrong with it");
        assert!(found.iter().map(|(name, _)| *name).eq(names), "{found:?}");
        let outcomes = [
            figures::<Broken<1>>(1_000, 1, keys::hashed),
            figures::<Broken<2>>(1_000, 1, keys::hashed),
            figures::<Broken<3>>(1_000, 1, keys::hashed),
            figures::<Broken<4>>(1_000, 1, keys::hashed),
        ];
        for outcome in outcomes {
            assert!(outcome.as_ref().is_err_and(|error| error.contains("answers were wrong")), "{outcome:?}");
        }
    }
}
