//! Recovery's progress: one line that changes on a terminal, a line every second in a log.

use std::io::{IsTerminal, Write};
use std::time::Duration;

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

fn describe(progress: &Progress) -> String {
    let Progress { table_count_done, table_count, record_count, elapsed } = *progress;
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = record_count as f64 / seconds;
    let left = seconds / table_count_done.max(1) as f64 * (table_count - table_count_done) as f64;
    format!(
        "recovering: table {table_count_done} of {table_count}, {record_count} records, {rate:.0}/s, {left:.0} s left"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rate_and_remaining_time() {
        let progress =
            Progress { table_count_done: 10, table_count: 40, record_count: 5000, elapsed: Duration::from_secs(2) };
        assert_eq!(describe(&progress), "recovering: table 10 of 40, 5000 records, 2500/s, 6 s left");
    }
}
