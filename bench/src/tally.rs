//! What is counted while a load runs: one tally per thread, added up at the end.

use hdrhistogram::Histogram;

/// The longest latency told apart from longer ones, in nanoseconds: two minutes.
const LATENCY_MAX: u64 = 120_000_000_000;

/// Significant decimal digits of every latency.
const LATENCY_DIGITS: u8 = 3;

/// Latencies in nanoseconds, each kept with three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty histogram.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS).expect("the bounds are valid");
        Self(histogram)
    }

    /// Counts one latency in nanoseconds; one above two minutes counts as two minutes.
    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds all latencies of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// How many latencies were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Forgets all latencies, and writes to all memory that counting needs.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// The mean in microseconds; 0 when none was counted.
    pub(crate) fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The latency in microseconds that `percent` of all do not exceed; 0 when none was counted.
    pub(crate) fn percentile_us(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    /// The longest latency in microseconds, rounded up to three significant digits; 0 when none was counted.
    pub(crate) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

/// Counts of requests and their outcomes.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Answered gets, refused ones included.
    pub(crate) gets: u64,
    /// Answered sets, refused ones included.
    pub(crate) sets: u64,
    /// Keys that came back with a value.
    pub(crate) hits: u64,
    /// Keys that were asked for and did not come back, those of refused gets not counted.
    pub(crate) misses: u64,
    /// Misses of keys that a ledger knows to be there.
    pub(crate) lost: u64,
    /// Requests answered with an error line, or a set not answered with STORED.
    pub(crate) errors: u64,
    /// Values with wrong bytes, a wrong length or wrong flags.
    pub(crate) wrong: u64,
    /// Requests of an open loop that were due but never sent, because the ones before them were not answered in time.
    pub(crate) unsent: u64,
    /// Bytes read from the server.
    pub(crate) received_size: u64,
    /// Bytes written to the server.
    pub(crate) sent_size: u64,
    /// What the first error line said.
    pub(crate) first_error: Option<String>,
    /// What was wrong with the first wrong value.
    pub(crate) first_wrong: Option<String>,
    /// The first key that was lost.
    pub(crate) first_lost: Option<String>,
    /// Latencies of gets.
    pub(crate) get_latencies: Latencies,
    /// Latencies of sets.
    pub(crate) set_latencies: Latencies,
}

impl Tally {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self {
            gets: 0,
            sets: 0,
            hits: 0,
            misses: 0,
            lost: 0,
            errors: 0,
            wrong: 0,
            unsent: 0,
            received_size: 0,
            sent_size: 0,
            first_error: None,
            first_wrong: None,
            first_lost: None,
            get_latencies: Latencies::new(),
            set_latencies: Latencies::new(),
        }
    }

    /// Answered requests of both kinds.
    pub(crate) fn requests(&self) -> u64 {
        self.gets + self.sets
    }

    /// The latencies of both kinds together.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut sum = self.get_latencies.clone();
        sum.add(&self.set_latencies);
        sum
    }

    /// Adds the counts of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.gets += other.gets;
        self.sets += other.sets;
        self.hits += other.hits;
        self.misses += other.misses;
        self.lost += other.lost;
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.unsent += other.unsent;
        self.received_size += other.received_size;
        self.sent_size += other.sent_size;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        self.first_wrong = self.first_wrong.take().or_else(|| other.first_wrong.clone());
        self.first_lost = self.first_lost.take().or_else(|| other.first_lost.clone());
        self.get_latencies.add(&other.get_latencies);
        self.set_latencies.add(&other.set_latencies);
    }

    /// Counts a request that was refused with `line`.
    pub(crate) fn refuse(&mut self, line: &[u8]) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| line.escape_ascii().to_string());
    }

    /// Counts a wrong value.
    pub(crate) fn reject(&mut self, index: u64, reason: &str) {
        self.wrong += 1;
        self.first_wrong.get_or_insert_with(|| format!("key number {index}: {reason}"));
    }

    /// Counts a miss of a key of which `version` was stored.
    pub(crate) fn lose(&mut self, index: u64, version: u32) {
        self.lost += 1;
        self.first_lost.get_or_insert_with(|| format!("key number {index}, stored in version {version}"));
    }

    /// An error when any value was wrong.
    ///
    /// # Errors
    ///
    /// A sentence with the number of wrong values and the first of them.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        match &self.first_wrong {
            Some(first) => Err(format!("{} wrong values; the first: {first}", self.wrong)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= expected * 1e-3
    }

    #[test]
    fn percentiles_of_a_known_distribution_are_within_a_thousandth() {
        let mut latencies = Latencies::new();
        for microseconds in 1..=10_000u64 {
            latencies.record(microseconds * 1_000);
        }
        for (percent, expected) in [(50.0, 5_000.0), (99.0, 9_900.0), (99.9, 9_990.0)] {
            let found = latencies.percentile_us(percent);
            assert!(close(found, expected), "p{percent}: {found}");
        }
        assert!(close(latencies.max_us(), 10_000.0));
        assert_eq!(latencies.count(), 10_000);
    }

    #[test]
    fn one_slow_answer_shows_in_the_maximum_only() {
        let mut latencies = Latencies::new();
        (0..9_999).for_each(|_| latencies.record(50_000));
        latencies.record(2_000_000_000);
        assert!(close(latencies.percentile_us(99.9), 50.0));
        assert!(close(latencies.max_us(), 2_000_000.0));
    }

    #[test]
    fn an_empty_histogram_and_an_endless_latency_do_no_harm() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentile_us(99.0), 0.0);
        assert_eq!(latencies.max_us(), 0.0);
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.max_us() >= 120e6, "{}", latencies.max_us());
    }

    #[test]
    fn adding_tallies_keeps_every_count_and_the_first_messages() {
        let mut sum = Tally::new();
        let mut part = Tally::new();
        part.gets = 2;
        part.sets = 1;
        part.hits = 3;
        part.misses = 4;
        part.get_latencies.record(1_000);
        part.set_latencies.record(9_000);
        part.refuse(b"ERROR");
        part.reject(5, "torn");
        sum.add(&part);
        part.refuse(b"SERVER_ERROR");
        sum.add(&part);
        assert_eq!((sum.requests(), sum.hits, sum.misses, sum.errors, sum.wrong), (6, 6, 8, 3, 2));
        assert_eq!(sum.first_error.as_deref(), Some("ERROR"));
        assert_eq!(sum.latencies().count(), 4);
        assert!(close(sum.latencies().max_us(), 9.0));
        assert!(sum.verdict().is_err() && Tally::new().verdict().is_ok());
    }
}
