//! Growth from nothing: resident memory per key, and each single insert.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use dmacached_bench::contender::Contender;
use dmacached_bench::keys::{digest, entry};

use super::child::{self, Progress, Task, unexpected};
use super::memory::Memory;
use super::slowest::{Slowest, longest_of_all_passes};
use super::timing::{clock_cost, thread_cpu};
use super::{Kind, Part, host_line};
use crate::args::GrowArguments;
use crate::chart::{self, Frame, Peak, Series};
use crate::tally::Latencies;

/// Around the chart. What is higher is cut off: the start of a growth, where a page is a lot per key.
const FRAME: Frame = Frame {
    title: "Resident memory per key while an index grows",
    x_label: "keys, millions",
    y_label: "bytes per key",
    x_min: 0.0,
    y_highest: 120.0,
    note: "Thin strokes: the highest moment between two samples.",
};

/// Samples of the memory, at even distances.
const SAMPLE_COUNT: u64 = 50;
/// One key of so many is looked up at the end.
const KEYS_PER_CHECK: usize = 16;

/// Memory at one size.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    key_count: u64,
    /// Resident beyond what was before the contender was made, in bytes.
    resident_size: u64,
    /// The most of it since the sample before.
    peak_size: u64,
    /// By the contender's own account.
    accounted_size: Option<u64>,
}

impl Sample {
    fn per_key(&self, size: u64) -> f64 {
        size as f64 / self.key_count as f64
    }

    fn line(&self) -> String {
        let Self { key_count, resident_size, peak_size, accounted_size } = self;
        let accounted = accounted_size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        format!("sample {key_count} {resident_size} {peak_size} {accounted}")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("sample ")?.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (key_count, resident_size, peak_size) = (number()?, number()?, number()?);
        Some(Self { key_count, resident_size, peak_size, accounted_size: number() })
    }
}

/// How long something takes, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Times {
    mean: f64,
    p50: f64,
    p99_99: f64,
    max: f64,
}

impl Times {
    fn of(latencies: &Latencies) -> Self {
        Self {
            mean: latencies.mean_us(),
            p50: latencies.percentile_us(50.0),
            p99_99: latencies.percentile_us(99.99),
            max: latencies.max_us(),
        }
    }

    fn line(&self, name: &str) -> String {
        let Self { mean, p50, p99_99, max } = self;
        format!("times {name} {mean} {p50} {p99_99} {max}")
    }

    fn parse(line: &str) -> Option<(&str, Self)> {
        let (name, numbers) = line.strip_prefix("times ")?.split_once(' ')?;
        let numbers: Vec<f64> = numbers.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [mean, p50, p99_99, max] = numbers[..] else { return None };
        Some((name, Self { mean, p50, p99_99, max }))
    }
}

/// What one child found about time.
#[derive(Debug, Clone, Default)]
struct Pass {
    inserts: Times,
    /// The longest inserts: their numbers, and nanoseconds.
    slow: HashMap<u64, u64>,
}

/// What all children of a contender found.
#[derive(Debug, Clone)]
struct Growth {
    kind: Kind,
    /// Of the first pass; the others are about time alone.
    samples: Vec<Sample>,
    passes: Vec<Pass>,
}

impl Growth {
    fn new(kind: Kind) -> Self {
        Self { kind, samples: Vec::new(), passes: Vec::new() }
    }

    /// Takes a line of the child that runs the newest pass.
    fn take(&mut self, line: &str) -> Result<(), String> {
        let is_first = self.passes.len() == 1;
        let pass = self.passes.last_mut().expect("a child runs in a pass");
        if let Some(sample) = Sample::parse(line) {
            self.samples.extend(is_first.then_some(sample));
            return Ok(());
        }
        if let Some((number, time)) = line.strip_prefix("slow ").and_then(|words| words.split_once(' ')) {
            let slow: Option<(u64, u64)> = number.parse().ok().zip(time.parse().ok());
            pass.slow.extend([slow.ok_or_else(|| unexpected(line))?]);
            return Ok(());
        }
        match Times::parse(line) {
            Some(("insert", times)) => pass.inserts = times,
            _ => return Err(unexpected(line)),
        }
        Ok(())
    }

    fn resident(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.per_key(sample.resident_size))
    }

    /// The lowest over all passes: what disturbs a pass only adds to it.
    fn lowest(&self, figure: impl Fn(&Pass) -> f64) -> f64 {
        self.passes.iter().map(figure).fold(f64::INFINITY, f64::min)
    }

    fn times(&self) -> Times {
        Times {
            mean: self.lowest(|pass| pass.inserts.mean),
            p50: self.lowest(|pass| pass.inserts.p50),
            p99_99: self.lowest(|pass| pass.inserts.p99_99),
            max: self.lowest(|pass| pass.inserts.max),
        }
    }

    /// The longest insert that was as long in every pass, in microseconds.
    fn longest(&self) -> f64 {
        let passes: Vec<_> = self.passes.iter().map(|pass| pass.slow.clone()).collect();
        longest_of_all_passes(&passes) as f64 / 1e3
    }
}

/// The child: lets a contender grow to `key_count` keys and says what it sees.
///
/// # Errors
///
/// A sentence when the contender refuses, loses or mixes up a key, or nobody reads.
pub(super) fn grow<C: Contender>(key_count: u32) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    let mut say = |line: &str| writeln!(output, "{line}").map_err(|error| error.to_string());
    let mut inserts = Latencies::new();
    // Its memory is resident before the contender's is counted.
    inserts.clear();
    let mut slowest = Slowest::new();
    let has_peaks = Memory::forget_peak();
    let begun = Memory::now()?;
    let mut contender = C::new(key_count as usize);
    let mut samples = 1..=SAMPLE_COUNT;
    let mut next_sample = samples.next().map(|number| number * u64::from(key_count) / SAMPLE_COUNT);
    for number in 0..u64::from(key_count) {
        let (digest, entry) = (digest(number), entry(number));
        let before = thread_cpu();
        let outcome = contender.insert(&digest, entry);
        let time = thread_cpu() - before;
        inserts.record(time);
        slowest.record(number, time);
        if outcome != Ok(None) {
            return Err(format!("the insert of key {number} gave {outcome:?}"));
        }
        if next_sample == Some(number + 1) {
            say(&sample(&contender, begun, has_peaks)?.line())?;
            Memory::forget_peak();
            next_sample = samples.next().map(|number| number * u64::from(key_count) / SAMPLE_COUNT);
        }
    }
    check(&contender, key_count)?;
    slowest.operations().try_for_each(|(number, time)| say(&format!("slow {number} {time}")))?;
    say(&Times::of(&inserts).line("insert"))
}

fn sample<C: Contender>(contender: &C, begun: Memory, has_peaks: bool) -> Result<Sample, String> {
    let memory = Memory::now()?;
    let resident_size = memory.anonymous.saturating_sub(begun.anonymous);
    let peak_size = memory.anonymous_peak().saturating_sub(begun.anonymous);
    Ok(Sample {
        key_count: contender.len() as u64,
        resident_size,
        peak_size: if has_peaks { peak_size } else { resident_size },
        accounted_size: contender.bytes().map(|size| size as u64),
    })
}

fn check<C: Contender>(contender: &C, key_count: u32) -> Result<(), String> {
    let wrong = (0..u64::from(key_count))
        .step_by(KEYS_PER_CHECK)
        .find(|number| contender.get(&digest(*number)) != Some(entry(*number)));
    match wrong {
        Some(number) => Err(format!("key {number} is lost or has the entry of another")),
        None if contender.len() != key_count as usize => Err(format!("{} keys, not {key_count}", contender.len())),
        None => Ok(()),
    }
}

/// Lets every contender grow, one after the other, and prints what came of it.
///
/// # Errors
///
/// A sentence when a child fails or a file cannot be written.
pub(super) fn run(arguments: &GrowArguments) -> Result<(), String> {
    let (key_count, kinds) = (arguments.common.keys, arguments.common.kinds());
    let clock = Times::of(&clock_cost(key_count));
    let progress = Progress::new();
    let mut growths = Vec::new();
    for &kind in &kinds {
        let mut growth = Growth::new(kind);
        for pass in 1..=arguments.passes {
            growth.passes.push(Pass::default());
            let mut percent = 0;
            child::run(Task { part: Part::Grow, kind, key_count, seed: 0 }, |line| {
                percent += if line.starts_with("sample") { 100 / SAMPLE_COUNT } else { 0 };
                progress.show(&format!("{}, pass {pass} of {}: {percent} %", kind.name(), arguments.passes));
                growth.take(line)
            })?;
        }
        growths.push(growth);
    }
    drop(progress);
    if let Some(path) = &arguments.csv {
        write(path, &csv(&growths))?;
    }
    if let Some(path) = &arguments.svg {
        write(path, &chart::svg(&FRAME, &series(&growths)))?;
    }
    print!("{}", report(key_count, clock, &growths));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn report(key_count: u32, clock: Times, growths: &[Growth]) -> String {
    let mut text = format!(
        "{key_count} keys, one by one into an empty contender, each contender in a process of its own. Host: {}.\n\n\
         ### Bytes per key\n\nResident memory (RssAnon) beyond what was resident before the contender was made, at \
         {SAMPLE_COUNT} sizes from {} keys on; the highest moment between them; and the contender's own account.\n\n\
         | contender | mean | max | at the end | highest moment | own account |\n|---|---:|---:|---:|---:|---:|\n",
        host_line(),
        u64::from(key_count) / SAMPLE_COUNT
    );
    for growth in growths {
        let mean = growth.resident().sum::<f64>() / growth.samples.len().max(1) as f64;
        let max = growth.resident().fold(0.0, f64::max);
        let peak = growth.samples.iter().map(|sample| sample.per_key(sample.peak_size)).fold(0.0, f64::max);
        let last = growth.resident().last().unwrap_or(0.0);
        let accounted = growth.samples.last().and_then(|sample| Some(sample.per_key(sample.accounted_size?)));
        let accounted = accounted.map_or_else(|| "-".to_owned(), |size| format!("{size:.1}"));
        let name = growth.kind.name();
        writeln!(text, "| {name} | {mean:.1} | {max:.1} | {last:.1} | {peak:.1} | {accounted} |")
            .expect("a String takes every write");
    }
    text.push_str(
        "\n### A single insert, us\n\nCPU time of the thread, each insert by itself, the lowest figure of all passes. \
         The clock's own cost is part of every figure: its row says how much. In the column before the last, the \
         longest insert that was as long in every pass: what came once is the machine's.\n\n\
         | contender | p50 | mean | p99.99 | max | max, every pass |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    let mut row = |name: &str, times: Times, rest: &str| {
        let Times { mean, p50, p99_99, max } = times;
        writeln!(text, "| {name} | {p50:.2} | {mean:.2} | {p99_99:.2} | {max:.1} | {rest} |")
            .expect("a String takes every write");
    };
    for growth in growths {
        let rest = format!("{:.1}", growth.longest());
        row(growth.kind.name(), growth.times(), &rest);
    }
    row("(the clock alone)", clock, "-");
    text
}

fn csv(growths: &[Growth]) -> String {
    let mut text = "contender,keys,resident_bytes,peak_bytes,accounted_bytes\n".to_owned();
    for growth in growths {
        for Sample { key_count, resident_size, peak_size, accounted_size } in &growth.samples {
            let accounted = accounted_size.map_or_else(String::new, |size| size.to_string());
            writeln!(text, "{},{key_count},{resident_size},{peak_size},{accounted}", growth.kind.name())
                .expect("a String takes every write");
        }
    }
    text
}

fn series(growths: &[Growth]) -> Vec<Series> {
    let one = |growth: &Growth| {
        let millions = |sample: &Sample| sample.key_count as f64 / 1e6;
        let point = |sample: &Sample| (millions(sample), sample.per_key(sample.resident_size));
        let peak = |sample: &Sample| Peak {
            x: millions(sample),
            from: sample.per_key(sample.resident_size),
            to: sample.per_key(sample.peak_size),
        };
        Series {
            name: growth.kind.name().to_owned(),
            points: growth.samples.iter().map(point).collect(),
            peaks: growth.samples.iter().map(peak).collect(),
            is_reference: false,
        }
    };
    growths.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> Growth {
        let first = Sample { key_count: 100, resident_size: 4_000, peak_size: 9_000, accounted_size: Some(3_500) };
        let second = Sample { key_count: 200, resident_size: 6_000, peak_size: 6_000, accounted_size: None };
        let mut growth = Growth::new(Kind::Full);
        for max in [44.5, 77.0] {
            growth.passes.push(Pass::default());
            let times = Times { mean: 0.25, p50: 0.2, p99_99: 3.0, max };
            let slow = format!("slow 7 {}", max * 1e3);
            for line in [first.line(), second.line(), slow, times.line("insert")] {
                growth.take(&line).expect("a line of a child");
            }
        }
        assert_eq!(growth.samples, [first, second]);
        growth
    }

    #[test]
    fn lines_of_a_child_are_understood_and_others_refused() {
        let mut growth = growth();
        for bad in [
            "",
            "sample 1 2",
            "sample x 2 3 4",
            "times insert 1 2 3",
            "times other 1 2 3 4",
            "slow 1",
            "slow 1 x",
            "panic",
        ] {
            assert!(growth.take(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_report_has_a_row_for_each_contender_and_the_clock() {
        let report = report(200, Times { mean: 0.1, p50: 0.1, p99_99: 0.2, max: 9.0 }, &[growth()]);
        assert!(report.contains("| full | 35.0 | 40.0 | 30.0 | 90.0 | - |"), "{report}");
        assert!(report.contains("| full | 0.20 | 0.25 | 3.00 | 44.5 | 44.5 |"), "{report}");
        assert!(report.contains("| (the clock alone) | 0.10 | 0.10 | 0.20 | 9.0 | - |"), "{report}");
    }

    #[test]
    fn samples_are_written_as_they_came() {
        let expected = "contender,keys,resident_bytes,peak_bytes,accounted_bytes\n\
            full,100,4000,9000,3500\nfull,200,6000,6000,\n";
        assert_eq!(csv(&[growth()]), expected);
        let series = series(&[growth()]);
        assert_eq!(series[0].points, [(0.0001, 40.0), (0.0002, 30.0)]);
    }
}
