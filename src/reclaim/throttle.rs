//! How fast tables are emptied and blocks are written, so that gets keep their tail.
//!
//! A token bucket of bytes. Its rate falls by a quarter while too many device reads of gets take longer than a goal, and rises
//! by a sixteenth while they do not and the bucket is what holds work up. The goal is a part above what all but one of 128
//! reads took while none of that work was done, *quiet* reads. So nobody has to know the device.
//!
//! Work that never ends would leave no quiet reads: now and then it pauses for some of them ([`THROTTLE_PROBE_INTERVAL`]).
//!
//! **Invariants:** the rate stays between [`THROTTLE_RATE_MIN`] and [`THROTTLE_RATE_MAX`], and nothing waits longer than
//! [`THROTTLE_WAIT_MAX`]: work is slowed down and never starved, whatever the clock and the reads say.

use std::time::Duration;

use crate::limits::{
    THROTTLE_BURST_SIZE, THROTTLE_GOAL_PERCENT, THROTTLE_PERIOD, THROTTLE_PERIOD_MAX, THROTTLE_PERIOD_READ_COUNT,
    THROTTLE_PROBE_INTERVAL, THROTTLE_PROBE_TIME, THROTTLE_QUIET_READ_COUNT_MAX, THROTTLE_QUIET_READ_COUNT_MIN,
    THROTTLE_RATE_MAX, THROTTLE_RATE_MIN, THROTTLE_RATE_START, THROTTLE_RATE_URGENT, THROTTLE_WAIT_MAX,
};

/// One of so many quiet reads takes longer than what the goal is made of.
const QUIET_TAIL: u64 = 128;
/// Of so many reads, one may take longer than the goal before the rate falls; and one more in any case.
const SLOW_SHARE: u64 = 64;

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Nobody has asked for anything lately: full speed.
    Idle,
    /// Gets are served: the rate holds.
    Normal,
    /// Writers wait for room: never slower than [`THROTTLE_RATE_URGENT`].
    Urgent,
}

/// Paces the chunks of reclaim and flush of one shard. Knows no clock: every `now` is a time since some fixed moment.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// Bytes per second.
    rate: u64,
    /// Bytes that may be moved at once; below zero, what has been promised and not yet waited for.
    level: i64,
    /// Bytes per second at which the level rises until the next chunk: the rate that the last wait was made for.
    pace: u64,
    refilled_at: Duration,
    quiet: Latencies,
    /// A read that begins in this time is a quiet one. Without an end while nothing is done.
    quiet_from: Duration,
    quiet_until: Duration,
    /// When work went on after the last quiet time; `None` while nothing is done.
    busy_since: Option<Duration>,
    period: Period,
}

/// What has happened since the rate was last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    begun_at: Duration,
    read_count: u64,
    slow_count: u64,
    /// Whether a chunk had to wait for tokens.
    is_held_up: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    /// One that has seen nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            rate: THROTTLE_RATE_START,
            level: THROTTLE_BURST_SIZE as i64,
            pace: THROTTLE_RATE_START,
            refilled_at: Duration::ZERO,
            quiet: Latencies::new(),
            quiet_from: Duration::ZERO,
            quiet_until: Duration::MAX,
            busy_since: None,
            period: Period { begun_at: Duration::ZERO, read_count: 0, slow_count: 0, is_held_up: false },
        }
    }

    /// Notes a device read that a get has waited for, and that ended at `now`, always: also while no work is done.
    pub fn note_read(&mut self, latency: Duration, now: Duration) {
        let begun = now.saturating_sub(latency);
        if begun >= self.quiet_from && now <= self.quiet_until {
            self.quiet.note(latency);
        } else if let Some(goal) = self.goal() {
            self.period.read_count += 1;
            self.period.slow_count += u64::from(latency > goal);
        }
    }

    /// How long to sleep before a chunk of `size` bytes is read or written. The chunk is counted then: whoever has slept asks
    /// no second time.
    pub fn wait(&mut self, size: u64, pressure: Pressure, now: Duration) -> Duration {
        self.end_quiet(pressure, now);
        self.adapt(pressure, now);
        self.refill(now);
        if pressure == Pressure::Idle {
            return Duration::ZERO;
        }
        self.pace = if pressure == Pressure::Urgent { self.rate.max(THROTTLE_RATE_URGENT) } else { self.rate };
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        // What is more than can be waited for is forgiven.
        self.level = self.level.saturating_sub(size).max(-(bytes_in(THROTTLE_WAIT_MAX, self.pace) as i64));
        let missing = u64::try_from(-self.level).unwrap_or(0);
        self.period.is_held_up |= missing > 0;
        let probe = if now < self.quiet_until { self.quiet_until.saturating_sub(now) } else { Duration::ZERO };
        // At least 1 ns for what is missing: rounded down, it would never be waited for.
        let pause = Duration::from_nanos(missing.saturating_mul(1_000_000_000).div_ceil(self.pace));
        pause.max(probe).min(THROTTLE_WAIT_MAX)
    }

    /// Says that there is nothing to do any more, and nothing in flight: reads that begin from `now` on are quiet ones.
    pub fn rest(&mut self, now: Duration) {
        if self.busy_since.take().is_some() {
            (self.quiet_from, self.quiet_until) = (now, Duration::MAX);
        }
    }

    /// Bytes per second, as they are allowed at the moment while gets are served.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// What reads should take at most; `None` as long as too few quiet reads were seen.
    #[must_use]
    pub fn goal(&self) -> Option<Duration> {
        let is_known = self.quiet.count >= THROTTLE_QUIET_READ_COUNT_MIN;
        is_known.then(|| self.quiet.tail().saturating_mul(THROTTLE_GOAL_PERCENT) / 100)
    }

    /// Work goes on. A quiet time ends, unless it is a pause that is not over; after long work, such a pause begins.
    fn end_quiet(&mut self, pressure: Pressure, now: Duration) {
        let Some(busy_since) = self.busy_since else {
            (self.busy_since, self.quiet_until) = (Some(now), now);
            self.period = Period { begun_at: now, ..Period::default() };
            return;
        };
        // Without a goal nothing slows work down: it is found out soon.
        let interval = THROTTLE_PROBE_INTERVAL / if self.goal().is_some() { 1 } else { 8 };
        match pressure {
            Pressure::Normal if now.saturating_sub(busy_since) >= interval => {
                (self.quiet_from, self.quiet_until) = (now, now + THROTTLE_PROBE_TIME);
                self.busy_since = Some(self.quiet_until);
            }
            Pressure::Normal => {}
            Pressure::Idle | Pressure::Urgent => self.quiet_until = self.quiet_until.min(now),
        }
    }

    /// Looks at the reads of the last period, if that is over.
    fn adapt(&mut self, pressure: Pressure, now: Duration) {
        let Period { begun_at, read_count, slow_count, is_held_up } = self.period;
        let elapsed = now.saturating_sub(begun_at);
        if elapsed < THROTTLE_PERIOD || (read_count < THROTTLE_PERIOD_READ_COUNT && elapsed < THROTTLE_PERIOD_MAX) {
            return;
        }
        if slow_count > read_count / SLOW_SHARE + 1 {
            self.rate = (self.rate - self.rate / 4).max(THROTTLE_RATE_MIN);
        } else if is_held_up || pressure == Pressure::Idle {
            // A rate that holds nobody up says nothing about a higher one.
            self.rate = (self.rate + self.rate / 16).min(THROTTLE_RATE_MAX);
        }
        self.period = Period { begun_at: now, ..Period::default() };
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled_at);
        self.refilled_at = self.refilled_at.max(now);
        let level = self.level.saturating_add(bytes_in(elapsed, self.pace) as i64);
        self.level = level.min(THROTTLE_BURST_SIZE as i64);
    }
}

/// Bytes that `rate` allows in a time, of which more than a second counts as one.
fn bytes_in(time: Duration, rate: u64) -> u64 {
    rate * time.min(Duration::from_secs(1)).as_nanos() as u64 / 1_000_000_000
}

/// Buckets of one doubling of the latency.
const BUCKETS_PER_DOUBLING: usize = 1 << PART_BITS;
/// The bits of a latency, behind its highest one, that name its bucket.
const PART_BITS: u32 = 4;
/// The first bucket ends at 2^10 ns and a sixteenth, the last one has all from 2^34 ns on, 17 s.
const FIRST_DOUBLING: u32 = 10;
const BUCKET_COUNT: usize = 24 * BUCKETS_PER_DOUBLING;

/// A histogram of latencies, in which old ones fade: when it is full, all counts are halved.
#[derive(Clone, Debug)]
struct Latencies {
    counts: [u32; BUCKET_COUNT],
    count: u64,
}

impl Latencies {
    const fn new() -> Self {
        Self { counts: [0; BUCKET_COUNT], count: 0 }
    }

    fn note(&mut self, latency: Duration) {
        if self.count >= THROTTLE_QUIET_READ_COUNT_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.count = self.counts.iter().map(|count| u64::from(*count)).sum();
        }
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1 << FIRST_DOUBLING);
        let doubling = ns.ilog2();
        let part = (ns >> (doubling - PART_BITS)) as usize % BUCKETS_PER_DOUBLING;
        let bucket = (doubling - FIRST_DOUBLING) as usize * BUCKETS_PER_DOUBLING + part;
        self.counts[bucket.min(BUCKET_COUNT - 1)] += 1;
        self.count += 1;
    }

    /// What all but one of [`QUIET_TAIL`] took, rounded up to the end of a bucket: a sixteenth more at most.
    fn tail(&self) -> Duration {
        let mut above = 0;
        let mut is_in_tail = |count: &u32| {
            above += u64::from(*count);
            above <= self.count / QUIET_TAIL
        };
        let skipped = self.counts.iter().rev().take_while(|count| is_in_tail(count)).count();
        let bucket = BUCKET_COUNT.saturating_sub(skipped + 1);
        let (doubling, part) = (bucket / BUCKETS_PER_DOUBLING, bucket % BUCKETS_PER_DOUBLING);
        Duration::from_nanos(
            ((BUCKETS_PER_DOUBLING + part + 1) as u64) << (doubling as u32 + FIRST_DOUBLING - PART_BITS),
        )
    }
}

const _: () = assert!(PART_BITS <= FIRST_DOUBLING);

#[cfg(test)]
mod tests;
