//! Child processes: this program again, with one contender, which says on lines what it finds.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};

use super::{Kind, Part};

/// What a child is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// What it does.
    pub(super) part: Part,
    /// With which contender.
    pub(super) kind: Kind,
    /// With how many keys.
    pub(super) key_count: u32,
    /// In which random order.
    pub(super) seed: u64,
}

/// Runs a child and gives each of its lines to `take`.
///
/// # Errors
///
/// A sentence when the child does not start or fails (it has said why itself), or `take` refuses a line.
pub(super) fn run(task: Task, mut take: impl FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let Task { part, kind, key_count, seed } = task;
    let name = kind.name();
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let part = match part {
        Part::Grow => "grow",
        Part::Speed => "speed",
        Part::Overlapping => "overlapping",
    };
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["index", "child", part, name, &key_count.to_string(), &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().expect("a pipe was asked for");
    let mut outcome = Ok(());
    for line in BufReader::new(output).lines() {
        outcome = line.map_err(failed).and_then(|line| take(&line));
        if outcome.is_err() {
            // Without a reader it may go on for minutes. An error means that it has ended by itself.
            let _ = child.kill();
            break;
        }
    }
    let status = child.wait().map_err(failed)?;
    outcome?;
    if status.success() { Ok(()) } else { Err(format!("{name}: the process that measures it ended with {status}")) }
}

/// What is wrong with a line of a child.
pub(super) fn unexpected(line: &str) -> String {
    format!("a child said \"{line}\"")
}

/// One line at the bottom of a terminal that says how far things are.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
}

impl Progress {
    /// Shows nothing when standard error is not a terminal.
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    /// Shows `text` in the place of what was there.
    pub(super) fn show(&self, text: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
