//! `dmabench amplification`: how much a full store writes for each byte it is given, by the policy of the store, next
//! to what the best possible one would write.
//!
//! [`simulation`] is the store, [`load`] what is written to it, [`variant`] what it could do instead, [`theory`] the
//! bound.

pub(crate) mod load;
mod simulation;
mod theory;
mod variant;

use std::fmt::Write;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use self::load::Load;
use self::simulation::{Outcome, Setup};
use self::variant::Variant;
use crate::args::AmplificationArguments;
use crate::chart::{self, Frame, Series};

/// Loads that are drawn.
const DRAWN: [Load; 4] = [Load::Uniform, Load::Skewed { updates: 90, keys: 10 }, Load::Zipf, Load::Expiring];

/// Around them; the axis begins at the lowest utilisation.
const FRAME: Frame = Frame {
    title: "Write amplification of a full store",
    x_label: "live bytes, percent of all",
    y_label: "bytes written by bytes given",
    x_min: 0.0,
    y_highest: 12.0,
    note: "Thin lines: the lowest that there can be.",
};

/// One simulation.
#[derive(Debug, Clone, Copy)]
struct Row {
    load: Load,
    setup: Setup,
    percent: u32,
    variant: Variant,
}

impl Row {
    fn optimum(&self) -> f64 {
        self.load.optimum(self.setup.utilisation, self.setup.key_count())
    }
}

/// Simulates, prints two tables, and writes the files that were asked for.
///
/// # Errors
///
/// A sentence when a simulation gets stuck or a file cannot be written.
pub(crate) fn run(arguments: &AmplificationArguments) -> Result<(), String> {
    let rows = rows(arguments);
    let outcomes = simulate(&rows);
    let results: Vec<(Row, Option<Outcome>)> = rows.into_iter().zip(outcomes).collect();
    print!("{}", text(arguments, &results));
    if let Some(path) = &arguments.csv {
        fs::write(path, csv(&results)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        let percent_min = results.iter().map(|(row, _)| row.percent).min().unwrap_or(0);
        let frame = Frame { x_min: f64::from(percent_min), ..FRAME };
        fs::write(path, chart::svg(&frame, &series(&results)))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// The store's way at every utilisation, then the others at one.
fn rows(arguments: &AmplificationArguments) -> Vec<Row> {
    let setup = |percent: u32| Setup {
        table_count: arguments.tables,
        record_count: arguments.records,
        reserve: arguments.reserve as usize,
        utilisation: f64::from(percent) / 100.0,
        seed: arguments.seed,
    };
    let row = |load, percent, variant| Row { load, setup: setup(percent), percent, variant };
    let mut percents = arguments.utilisation.clone();
    if !percents.contains(&arguments.compare_at) {
        percents.push(arguments.compare_at);
    }
    let store = Load::ALL
        .into_iter()
        .flat_map(|load| percents.iter().map(move |percent| (load, *percent)))
        .map(|(load, percent)| row(load, percent, Variant::STORE));
    let others = Variant::others()
        .into_iter()
        .flat_map(|variant| Load::ALL.map(|load| row(load, arguments.compare_at, variant)));
    store.chain(others).collect()
}

/// Simulates all rows, several at once.
fn simulate(rows: &[Row]) -> Vec<Option<Outcome>> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; rows.len()]);
    let work = || {
        while let Some((index, row)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, rows.get(i)?)))
        {
            let outcome = simulation::run(row.setup, row.variant, row.load);
            outcomes.lock().expect("nobody panics with it")[index] = outcome;
        }
    };
    thread::scope(|scope| {
        let thread_count = thread::available_parallelism().map_or(1, usize::from).min(rows.len());
        (0..thread_count).for_each(|_| drop(scope.spawn(work)));
    });
    outcomes.into_inner().expect("nobody panicked with it")
}

/// A figure, marked when it may still change.
fn figure(outcome: &Option<Outcome>) -> String {
    let Some(outcome) = outcome else { return "stuck ".to_owned() };
    format!("{:.3}{}", outcome.amplification, if outcome.is_steady { " " } else { "*" })
}

fn text(arguments: &AmplificationArguments, results: &[(Row, Option<Outcome>)]) -> String {
    let AmplificationArguments { tables, records, reserve, seed, compare_at, .. } = arguments;
    let mut text = format!(
        "{tables} tables of {records} records, {reserve} of them in reserve, seed {seed}. Records written by records given;\n\
         * is not steady yet; stuck: there was nothing left to be emptied.\n\n\
         {:<14}{:>6}{:>10}{:>10}{:>8}\n",
        "load", "full", "written", "optimum", "ratio"
    );
    let is_store = |row: &Row| row.variant == Variant::STORE;
    for (row, outcome) in results.iter().filter(|(row, _)| is_store(row)) {
        let optimum = row.optimum();
        let ratio = outcome.map_or(f64::NAN, |outcome| outcome.amplification / optimum);
        let (name, percent, figure) = (row.load.name(), row.percent, figure(outcome));
        push(&mut text, &format!("{name:<14}{percent:>4} %{figure:>11}{optimum:>9.3}{ratio:>8.3}"));
    }
    push(&mut text, &format!("\nAt {compare_at} %, written with:"));
    let heads: String = Load::ALL.iter().map(|load| format!("{:>14}", load.name())).collect();
    push(&mut text, &format!("{:<17}{:<32}{heads}", "victims", "streams"));
    let mut variants = vec![Variant::STORE];
    variants.extend(Variant::others());
    for variant in variants {
        let of = |load: &Load| {
            let is_it = |row: &Row| row.load == *load && row.variant == variant && row.percent == *compare_at;
            results.iter().find(|(row, _)| is_it(row)).map_or_else(String::new, |(_, outcome)| figure(outcome))
        };
        let figures: String = Load::ALL.iter().map(|load| format!("{:>14}", of(load))).collect();
        push(&mut text, &format!("{:<17}{:<32}{figures}", variant.policy.name(), variant.streams.name()));
    }
    text
}

fn csv(results: &[(Row, Option<Outcome>)]) -> String {
    let mut text = String::new();
    push(&mut text, "load,percent_full,tables,records,victims,streams,written,optimum,ratio,steady");
    for (row, outcome) in results {
        let Row { load, setup, percent, variant } = row;
        let optimum = row.optimum();
        let (written, is_steady) =
            outcome.map_or((f64::NAN, false), |outcome| (outcome.amplification, outcome.is_steady));
        push(
            &mut text,
            &format!(
                "{},{percent},{},{},{},\"{}\",{written:.4},{optimum:.4},{:.4},{}",
                load.name(),
                setup.table_count,
                setup.record_count,
                variant.policy.name(),
                variant.streams.name(),
                written / optimum,
                is_steady
            ),
        );
    }
    text
}

/// What the store does over utilisation, next to the optimum, which is 1 where records expire.
fn series(results: &[(Row, Option<Outcome>)]) -> Vec<Series> {
    let line = |load: Load, is_reference: bool| {
        let rows = results.iter().filter(|(row, _)| row.load == load && row.variant == Variant::STORE);
        let point = |(row, outcome): &(Row, Option<Outcome>)| {
            let height = if is_reference { row.optimum() } else { (*outcome)?.amplification };
            Some((f64::from(row.percent), height))
        };
        let mut points: Vec<(f64, f64)> = rows.filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let name = if is_reference { "optimum".to_owned() } else { load.name() };
        Series { name, points, peaks: Vec::new(), is_reference }
    };
    let lines = DRAWN.map(|load| line(load, false)).into_iter();
    lines.chain(DRAWN.into_iter().filter(|load| !load.expires()).map(|load| line(load, true))).collect()
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes every write");
}
