//! The command line: `dmacached` with memcached's flags serves, and so does `dmacached serve`.

mod arguments;
mod background;
mod check;
mod dump;
mod extended;
mod listen;
mod load;
mod privileges;
mod progress;
mod serve;
mod sizes;
#[cfg(test)]
mod tests;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::limits::MEMCACHED_VERSION;
use arguments::ServeArguments;
use dump::DumpArguments;
use load::LoadArguments;
use verify::VerifyArguments;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A persistent memcached: values live on NVMe, read with O_DIRECT, one device read per get.
#[derive(Debug, Parser)]
#[command(
    name = "dmacached",
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    disable_version_flag = true,
    after_help = "Data lives in --data-dir and is there again after the next start, whatever ended the last one. \
        SIGTERM, SIGINT and SIGUSR1 stop the server in order; a second one stops it at once. SIGHUP has the file of -Y \
        read again. MEMCACHED_PORT_FILENAME in the environment names a file that the ports are written to. Exit status: 0 \
        after an orderly stop, 1 when the server cannot start or fails, 2 for a bad command line."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,

    /// Print the version that clients are told, and that of the program
    #[arg(short = 'V', help_heading = "Process")]
    brief_version: bool,

    /// Print the version of the program
    #[arg(long, help_heading = "Process")]
    version: bool,

    /// Print the license
    #[arg(short = 'i', long, help_heading = "Process")]
    license: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve memcached clients (what dmacached does without a subcommand)
    #[command(args_override_self = true)]
    Serve(Box<ServeArguments>),
    /// Check everything that a store has on disk, and say what is damaged and what that costs
    Verify(VerifyArguments),
    /// Write all live records of a store to a stream that load and memcached read
    Dump(DumpArguments),
    /// Store the records of a stream, from dump or written by hand
    Load(LoadArguments),
}

/// The grammar of the command line. The help begins with the line that memcached's begins with, as clients' test harnesses
/// take the version from there.
fn grammar() -> clap::Command {
    let template = format!(
        "memcached {MEMCACHED_VERSION}\n\
            dmacached {VERSION}: {{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{{all-args}}{{after-help}}"
    );
    Cli::command().help_template(template.clone()).mut_subcommand("serve", |serve| serve.help_template(template))
}

/// Runs what the command line asks for. Exit status: 0 after an orderly stop, 1 when the server cannot start or
/// fails, 2 for a bad command line.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::from_arg_matches(&grammar().get_matches()).unwrap_or_else(|error| error.exit());
    if cli.brief_version {
        println!("memcached {MEMCACHED_VERSION}\ndmacached {VERSION}");
        return ExitCode::SUCCESS;
    }
    if cli.version {
        println!("dmacached {VERSION} (speaks memcached {MEMCACHED_VERSION})");
        return ExitCode::SUCCESS;
    }
    if cli.license {
        println!("memcached {MEMCACHED_VERSION}\ndmacached {VERSION}\n\n{}", include_str!("../../LICENSE"));
        return ExitCode::SUCCESS;
    }
    let arguments = match cli.command {
        Some(Command::Serve(arguments)) => *arguments,
        Some(Command::Dump(arguments)) => return dump::run(&arguments),
        Some(Command::Load(arguments)) => return load::run(&arguments),
        Some(Command::Verify(arguments)) => return verify::run(&arguments),
        None => cli.serve,
    };
    serve::run(arguments).unwrap_or_else(|error| {
        eprintln!("dmacached: {error}");
        error.exit_code()
    })
}
