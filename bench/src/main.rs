//! `dmabench`: a load generator for servers that speak memcached's text protocol, side-by-side comparisons of them, and
//! benchmarks of dmacached's index.
//!
//! Start reading at [`load`], which runs one load against one server. Below it, [`worker`] drives connections with
//! epoll, [`connection`] moves bytes, [`window`] matches answers with the requests in flight, [`reply`] parses, and
//! [`workload`] says which keys and values there are. [`compare`] repeats loads and [`report`] prints them.
//!
//! [`space`] runs such loads against servers whose disk is full, and asks server and kernel what that cost.
//!
//! [`index`] stands beside all that: no server, no socket, one process per contender. So do [`recovery`] and [`cache`].
//! [`amplification`] has no device either.

mod amplification;
mod args;
mod cache;
mod chart;
mod compare;
mod connection;
#[cfg(test)]
mod fake_server;
mod index;
mod ledger;
mod load;
mod parse;
mod phase;
mod procstat;
mod random;
mod recovery;
mod reply;
mod report;
mod space;
mod tally;
mod window;
mod worker;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command, LoadArguments};

/// Exit status 0: the run is complete and nothing was wrong. 1: a wrong value, a failed fill or a broken run. 2: usage.
fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Load(arguments) => load_once(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Amplification(arguments) => amplification::run(&arguments),
        Command::Index(arguments) => index::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Recovery(arguments) => recovery::run(&arguments),
        Command::Churn(arguments) => space::churn::run(&arguments),
        Command::Fill(arguments) => space::fill::run(&arguments),
        Command::Tail(arguments) => space::tail::run(&arguments),
        Command::Day(arguments) => space::day::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("dmabench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn load_once(arguments: &LoadArguments) -> Result<(), String> {
    let plan = arguments.plan();
    let outcome = load::run(&plan)?;
    if arguments.json() {
        println!("{}", report::json(&plan, &outcome, &[]));
    } else {
        print!("{}", report::text(&plan, &outcome));
    }
    outcome.tally.verdict()
}
