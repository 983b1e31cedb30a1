//! Progress: one line that changes on a terminal; of a recovery, a line every second in a log.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::sizes::show_size;
use crate::recovery::Progress;

/// Time between two lines.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(100);
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Shows how far a recovery is.
pub(super) struct ProgressLine {
    terminal: bool,
    last: Option<Duration>,
    shown: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: None, shown: false }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        let interval = if self.terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        if progress.elapsed < self.last.unwrap_or_default() + interval {
            return;
        }
        self.last = Some(progress.elapsed);
        let line = describe(&progress);
        if self.terminal {
            self.shown = true;
            // The terminal may be gone; recovery goes on.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        } else {
            tracing::info!("{line}");
        }
    }

    /// Takes the changing line away.
    pub(super) fn finish(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Shows on a terminal how far a long piece of work is.
pub(super) struct Meter {
    verb: &'static str,
    terminal: bool,
    last: Option<Duration>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measure {
    /// Bytes done.
    pub(super) size_done: u64,
    /// Bytes in all, if that is known.
    pub(super) size: Option<u64>,
    /// Records done, if they are counted.
    pub(super) record_count: Option<u64>,
    /// Time since it began.
    pub(super) elapsed: Duration,
}

impl Meter {
    /// For work that is called `verb`. A `quiet` one shows nothing, nor does one without a terminal.
    pub(super) fn new(verb: &'static str, quiet: bool) -> Self {
        Self { verb, terminal: !quiet && std::io::stderr().is_terminal(), last: None }
    }

    pub(super) fn show(&mut self, measure: Measure) {
        if !self.terminal || measure.elapsed < self.last.unwrap_or_default() + TERMINAL_INTERVAL {
            return;
        }
        self.last = Some(measure.elapsed);
        // The terminal may be gone; the work goes on.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", measure.describe(self.verb));
    }

    /// Takes the changing line away.
    pub(super) fn finish(&mut self) {
        if self.last.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Measure {
    fn describe(&self, verb: &str) -> String {
        let Self { size_done, size, record_count, elapsed } = *self;
        let rate = size_done as f64 / elapsed.as_secs_f64().max(0.001);
        let mut line = format!("{verb}: {}", show_size(size_done));
        if let Some(size) = size {
            let percent = size_done.min(size) * 100 / size.max(1);
            line += &format!(" of {} ({percent} %)", show_size(size));
        }
        if let Some(count) = record_count {
            line += &format!(", {count} records");
        }
        line += &format!(", {}/s", show_size(rate as u64));
        if let Some(size) = size.filter(|_| size_done > 0) {
            line += &format!(", {:.0} s left", size.saturating_sub(size_done) as f64 / rate.max(1.0));
        }
        line
    }
}

fn describe(progress: &Progress) -> String {
    let Progress { table_count_done, table_count, record_count, elapsed } = *progress;
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = record_count as f64 / seconds;
    let left = seconds / table_count_done.max(1) as f64 * (table_count - table_count_done) as f64;
    format!(
        "recovering: part {table_count_done} of {table_count}, {record_count} records, {rate:.0}/s, {left:.0} s left"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rate_and_remaining_time() {
        let progress =
            Progress { table_count_done: 10, table_count: 40, record_count: 5000, elapsed: Duration::from_secs(2) };
        assert_eq!(describe(&progress), "recovering: part 10 of 40, 5000 records, 2500/s, 6 s left");
    }

    #[test]
    fn a_measure_tells_what_it_knows() {
        let measure = Measure { size_done: 1 << 20, elapsed: Duration::from_secs(2), ..Measure::default() };
        assert_eq!(measure.describe("loading"), "loading: 1 MiB, 512 KiB/s");
        let measure = Measure { size: Some(4 << 20), record_count: Some(7), ..measure };
        assert_eq!(measure.describe("loading"), "loading: 1 MiB of 4 MiB (25 %), 7 records, 512 KiB/s, 6 s left");
        assert_eq!(Measure { size: Some(0), ..Measure::default() }.describe("x"), "x: 0 B of 0 B (0 %), 0 B/s");
    }
}
