//! One stretch of a run: what is sent, how fast, and when it ends.

use std::time::Instant;

/// Nanoseconds since the run began, from the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time in nanoseconds.
    pub(crate) fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What a phase sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every key is set once; connection `c` sets the keys `c`, `c + connection count` and so on.
    Fill,
    /// Gets and sets in the shares that the workload asks for.
    Mix,
}

/// The times at which an open loop's requests are due: evenly spaced, given to the connections in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// When the first request is due.
    pub(crate) start_ns: u64,
    /// The time between two requests of the whole run; a fraction, so that it does not drift.
    pub(crate) interval_ns: f64,
    /// Connections of the whole run.
    pub(crate) connection_count: u64,
}

impl Schedule {
    /// When the request number `number` (from 0) of connection `connection` is due.
    pub(crate) fn due_ns(&self, connection: u64, number: u64) -> u64 {
        let slot = number * self.connection_count + connection;
        self.start_ns + (slot as f64 * self.interval_ns) as u64
    }

    /// How many requests of connection `connection` are due before `deadline_ns`.
    pub(crate) fn due_count(&self, connection: u64, deadline_ns: u64) -> u64 {
        let (mut low, mut high) = (0, deadline_ns.saturating_sub(self.start_ns) / self.interval_ns.max(1.0) as u64 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.due_ns(connection, middle) < deadline_ns {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// One stretch of a run. Every request sent in a phase is answered before the phase ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    /// What is sent.
    pub(crate) content: Content,
    /// When requests stop being sent, if not by their number.
    pub(crate) deadline_ns: Option<u64>,
    /// How many requests a connection may have in flight.
    pub(crate) pipeline: usize,
    /// Whether a connection waits for all its answers before it sends again.
    pub(crate) burst: bool,
    /// When requests are due; `None` in a closed loop.
    pub(crate) schedule: Option<Schedule>,
}

impl Phase {
    /// Whether nothing more may be sent at `now_ns`.
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        self.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_of_all_connections_are_evenly_spaced() {
        let schedule = Schedule { start_ns: 1_000, interval_ns: 2_500.0, connection_count: 3 };
        let due: Vec<_> = (0..7).map(|slot| schedule.due_ns(slot % 3, slot / 3)).collect();
        assert_eq!(due, [1_000, 3_500, 6_000, 8_500, 11_000, 13_500, 16_000]);
    }

    #[test]
    fn due_counts_agree_with_due_times() {
        let schedule = Schedule { start_ns: 500, interval_ns: 333.333, connection_count: 4 };
        for deadline_ns in [0, 500, 501, 833, 834, 10_000, 1_000_000] {
            let total: u64 = (0..4).map(|connection| schedule.due_count(connection, deadline_ns)).sum();
            let expected = (0..10_000u64).filter(|slot| schedule.due_ns(slot % 4, slot / 4) < deadline_ns).count();
            assert_eq!(total, expected as u64, "{deadline_ns}");
        }
    }
}
