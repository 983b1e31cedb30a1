//! Crashes simulated stores, seed by seed, and checks what is left of them: see README.md beside this crate.

mod client;
mod flips;
mod model;
#[cfg(mutants)]
mod mutants;
mod plan;
mod random;
mod run;
mod shrink;
mod value;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use plan::{Mode, Plan};
use run::{Reclaim, Tally};

/// Crashes simulated stores, seed by seed, and checks what is left of them.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Runs this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Tells what happens.
    #[arg(long)]
    verbose: bool,
    /// What happens to the stores.
    #[arg(long, value_enum, default_value_t = Mode::All)]
    mode: Mode,
    /// How many times stores are damaged in mode flips.
    #[arg(long, default_value_t = 20_000)]
    flips: u64,
    /// Goes on after a failed seed, and shrinks none.
    #[arg(long)]
    keep_going: bool,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Plants bugs in the engine, one at a time, and runs seeds until each is found (RUSTFLAGS="--cfg mutants").
    Mutants {
        /// Only this one.
        name: Option<String>,
    },
}

/// Whether all planted bugs are found.
#[cfg(mutants)]
fn find_mutants(arguments: &Arguments, name: Option<&str>) -> bool {
    mutants::all_are_found(arguments.mode, arguments.start, arguments.seeds, name)
}

/// In this build there are none.
#[cfg(not(mutants))]
fn find_mutants(_arguments: &Arguments, _name: Option<&str>) -> bool {
    println!(
        "this build has no mutants: RUSTFLAGS='--cfg mutants' cargo run --profile crash -p dmacached-crash -- mutants"
    );
    false
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A seed always takes the same course.
    dma_alloc::leave_touching_to_owners();
    if let Some(Task::Mutants { name }) = &arguments.task {
        return if find_mutants(&arguments, name.as_deref()) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if arguments.mode == Mode::Flips {
        let is_sound = flips::run_flips(arguments.seed.unwrap_or(arguments.start), arguments.flips);
        return if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let seeds = arguments.seed.map_or(arguments.start..arguments.start + arguments.seeds, |seed| seed..seed + 1);
    let begun = Instant::now();
    let (mut tally, mut wrongs, mut count) = (Tally::default(), BTreeMap::new(), 0u64);
    for seed in seeds {
        let plan = Plan::new(seed, arguments.mode);
        if arguments.verbose {
            print!("{plan}");
        }
        let (done, result) = shrink::try_plan(&plan, arguments.verbose);
        tally += done;
        count += 1;
        let Err(fault) = result else { continue };
        *wrongs.entry(fault.wrong).or_insert(0u64) += 1;
        println!("seed {seed}: {fault}");
        if !arguments.keep_going {
            let mode = format!("{:?}", arguments.mode).to_lowercase();
            println!("again: cargo run --release -p dmacached-crash -- --mode {mode} --seed {seed} --verbose");
            shrink::shrink_and_print(&plan, &fault);
            break;
        }
    }
    report(count, tally, &wrongs, begun.elapsed().as_secs_f64());
    if wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(count: u64, tally: Tally, wrongs: &BTreeMap<model::Wrong, u64>, seconds: f64) {
    use model::Wrong;
    let of = |wrong| wrongs.get(&wrong).copied().unwrap_or(0);
    let (lost, value, resurrected) = (of(Wrong::Lost), of(Wrong::Value), of(Wrong::Resurrected));
    let other: u64 = wrongs.values().sum::<u64>() - lost - value - resurrected;
    println!(
        "{count} seeds, {} operations, {} cuts, {} recoveries, {} transfers, {} faults of the disk, {} writes refused",
        tally.operations, tally.cuts, tally.recoveries, tally.transfers, tally.faults, tally.refused
    );
    let Reclaim { full, moving, moved, guards, overtaken, evicted, emptied, unread, pieces } = tally.reclaim;
    println!(
        "{full} full stores, records moved in {moving}: {moved} moved, {guards} guards carried, {overtaken} copies overtaken, \
         {emptied} tables emptied, {evicted} evicted, {unread} freed unread, {pieces} pieces of checkpoints"
    );
    if tally.unopened > 0 {
        println!("{} stores did not open again after the disk had lied, and said why", tally.unopened);
    }
    println!("lost/wrong/resurrected: {lost}/{value}/{resurrected}, other faults: {other} {wrongs:?}");
    println!("{:.0} seeds per second ({seconds:.1} s)", count as f64 / seconds.max(1e-9));
}
