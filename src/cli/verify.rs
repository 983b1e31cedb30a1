//! `dmacached verify`: what is damaged in a store that nobody serves, and what that costs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::arguments::DATA_DIR_DEFAULT;
use super::progress::{Measure, Meter};
use super::sizes::show_size;
use crate::io::Io;
use crate::io::readonly::{self, ReadOnly};
use crate::recovery::verify::{Cost, Finding, Report, Severity, Verifying, verify};

/// Exit status when something is damaged.
const DAMAGED: u8 = 1;
/// Exit status when the store cannot be verified at all.
const NOT_VERIFIED: u8 = 3;

/// What to verify.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Every page and every record of every table is read and compared with its checksum, and every footer with \
        its records. Nothing is changed, the superblock included; no server may use the directory meanwhile, and none can \
        be started there. Memory: one table, and about 30 bytes per record.\n\n\
        Each finding is a line; a line that begins with \"note\" is worth knowing and nothing is wrong. A store that was \
        not stopped cleanly is none that is damaged.\n\n\
        Exit status: 0 when nothing is wrong, 1 when something is damaged, 2 for a bad command line, 3 when the store \
        cannot be verified (it is in use, cannot be read, or there is none)."
)]
pub(super) struct VerifyArguments {
    /// Where the data lives
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    data_dir: PathBuf,

    /// Say only what is wrong
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Verifies, and says what was found.
pub(super) fn run(arguments: &VerifyArguments) -> ExitCode {
    let io = ReadOnly::new();
    let mut meter = Meter::new("verifying", arguments.quiet);
    let progress = |Verifying { size_done, size, elapsed }| {
        meter.show(Measure { size_done, size: Some(size), record_count: None, elapsed });
    };
    let verified = readonly::run(verify(&io, &arguments.data_dir, progress));
    meter.finish();
    match verified {
        Ok(report) => {
            // Who does not listen any more can still learn the status.
            let _ = std::io::stdout().write_all(describe(&report, arguments, io.monotonic()).as_bytes());
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
        }
        Err(error) => {
            eprintln!("dmacached: {error}");
            ExitCode::from(NOT_VERIFIED)
        }
    }
}

fn describe(report: &Report, arguments: &VerifyArguments, elapsed: Duration) -> String {
    let mut text = String::new();
    let mut findings = report.findings.iter().peekable();
    let mut hides_records = false;
    while let Some(finding) = findings.next() {
        text += &describe_finding(finding, arguments.quiet);
        hides_records |= finding.hides_records();
        let is_last = findings.peek().is_none_or(|next| next.slot != finding.slot);
        let cost = finding.slot.filter(|_| is_last).and_then(|slot| report.costs.get(&slot));
        let is_damage = finding.severity() > Severity::Note;
        if cost.is_some() || (is_last && is_damage && finding.slot.is_some()) {
            text += &describe_cost(cost.copied().unwrap_or_default(), hides_records);
        }
        hides_records &= !is_last;
    }
    if arguments.quiet {
        return text;
    }
    let counts = &report.counts;
    let seconds = elapsed.as_secs_f64().max(0.001);
    text += &format!(
        "{}: {} tables ({} free), {} records, {} live, {} damaged; read {} in {seconds:.1} s, {}/s\n",
        arguments.data_dir.display(),
        counts.tables,
        counts.free_tables,
        counts.records,
        counts.live_records,
        counts.damaged_records,
        show_size(counts.size),
        show_size((counts.size as f64 / seconds) as u64)
    );
    text + describe_end(report)
}

fn describe_finding(finding: &Finding, quiet: bool) -> String {
    match finding.severity() {
        Severity::Note if quiet => String::new(),
        Severity::Note => format!("note: {finding}\n"),
        Severity::Damage => format!("damage: {finding}\n"),
        Severity::RefusesStart => format!("damage, no start: {finding}\n"),
    }
}

/// `hides_records`: there may be more that are lost.
fn describe_cost(cost: Cost, hides_records: bool) -> String {
    let Cost { lost, older, forgotten } = cost;
    if cost == Cost::default() {
        let text = if hides_records { "how many live records are lost is not known" } else { "no live record is lost" };
        return format!("  cost: {text}\n");
    }
    let mut text = format!("  cost: {lost} live {} lost", if lost == 1 { "record is" } else { "records are" });
    if older > 0 {
        text += &format!(", {older} of them for an older value of the same key");
    }
    if forgotten > 0 {
        text += &format!("; {forgotten} deletions, touches or flushes are forgotten");
    }
    if hides_records {
        text += "; how many more is not known";
    }
    text + "\n"
}

fn describe_end(report: &Report) -> &'static str {
    match (report.severity(), report.was_clean) {
        (Some(Severity::RefusesStart), _) => "no server starts here until that is repaired\n",
        (Some(Severity::Damage), _) => "a server starts here, without what is lost\n",
        (_, Some(false)) => "sound; it was not stopped cleanly, and the next start recovers it\n",
        _ => "sound\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_says_what_is_lost() {
        assert_eq!(describe_cost(Cost::default(), false), "  cost: no live record is lost\n");
        let unknown = "  cost: how many live records are lost is not known\n";
        assert_eq!(describe_cost(Cost::default(), true), unknown);
        assert_eq!(describe_cost(Cost { lost: 1, ..Cost::default() }, false), "  cost: 1 live record is lost\n");
        let all = Cost { lost: 3, older: 2, forgotten: 1 };
        let text = "  cost: 3 live records are lost, 2 of them for an older value of the same key; 1 deletions, touches or \
            flushes are forgotten; how many more is not known\n";
        assert_eq!(describe_cost(all, true), text);
    }
}
