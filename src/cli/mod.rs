//! The command line: `dmacached` with memcached's flags serves, and so does `dmacached serve`.

mod arguments;
mod extended;
mod progress;
mod serve;
mod sizes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use arguments::ServeArguments;

/// A persistent memcached: values live on NVMe, read with O_DIRECT, one device read per get.
#[derive(Debug, Parser)]
#[command(
    name = "dmacached",
    version = concat!(env!("CARGO_PKG_VERSION"), " (speaks memcached 1.6.45)"),
    args_conflicts_with_subcommands = true,
    after_help = "Data lives in --data-dir and is there again after the next start, whatever ended the last one. \
        SIGTERM and SIGINT stop the server in order; a second one stops it at once."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve memcached clients (what dmacached does without a subcommand)
    Serve(Box<ServeArguments>),
}

/// Runs what the command line asks for. Exit status: 0 after an orderly stop, 1 when the server cannot start or
/// fails, 2 for a bad command line.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let arguments = match cli.command {
        Some(Command::Serve(arguments)) => *arguments,
        None => cli.serve,
    };
    match serve::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmacached: {error}");
            ExitCode::FAILURE
        }
    }
}
