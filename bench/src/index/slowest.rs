//! The slowest of many, by number: what is slow each time is the contender's doing, what is slow once the machine's.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The slowest that are kept.
const COUNT_MAX: usize = 4096;

/// The slowest operations of one pass. Takes no memory after it was made.
#[derive(Debug, Clone)]
pub(super) struct Slowest(BinaryHeap<Reverse<(u64, u64)>>);

impl Slowest {
    /// Of no operations so far.
    pub(super) fn new() -> Self {
        // Filled with operations that took nothing, so that all of its memory is resident.
        Self(std::iter::repeat_n(Reverse((0, 0)), COUNT_MAX).collect())
    }

    /// Counts the operation with the number `number`, which took so many nanoseconds.
    #[inline]
    pub(super) fn record(&mut self, number: u64, time_ns: u64) {
        let mut quickest = self.0.peek_mut().expect("it is never empty");
        if time_ns > quickest.0.0 {
            *quickest = Reverse((time_ns, number));
        }
    }

    /// Number and nanoseconds of each that is kept.
    pub(super) fn operations(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().filter(|kept| kept.0.0 > 0).map(|kept| (kept.0.1, kept.0.0))
    }
}

/// The longest time in nanoseconds that the same operation took in every pass at least; 0 when none was slow in all.
pub(super) fn longest_of_all_passes(passes: &[HashMap<u64, u64>]) -> u64 {
    let Some((first, others)) = passes.split_first() else { return 0 };
    let least = |(number, time): (&u64, &u64)| {
        others.iter().try_fold(*time, |least, pass| pass.get(number).map(|time| least.min(*time)))
    };
    first.iter().filter_map(least).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_kept() {
        let mut slowest = Slowest::new();
        assert_eq!(slowest.operations().count(), 0);
        (0..10_000).for_each(|number| slowest.record(number, number * 7 % 10_000 + 1));
        let mut times: Vec<u64> = slowest.operations().map(|(_, time)| time).collect();
        times.sort_unstable();
        assert!(times.iter().copied().eq(10_000 - COUNT_MAX as u64 + 1..=10_000), "{times:?}");
        assert!(slowest.operations().all(|(number, time)| number * 7 % 10_000 + 1 == time));
    }

    #[test]
    fn what_was_slow_once_does_not_count() {
        let pass = |times: &[(u64, u64)]| times.iter().copied().collect::<HashMap<_, _>>();
        let (first, second) = (pass(&[(1, 900), (2, 50), (3, 60)]), pass(&[(2, 70), (3, 40), (9, 800)]));
        assert_eq!(longest_of_all_passes(&[first.clone(), second]), 50);
        assert_eq!(longest_of_all_passes(&[first.clone(), pass(&[(9, 800)])]), 0);
        assert_eq!(longest_of_all_passes(&[first]), 900);
        assert_eq!(longest_of_all_passes(&[]), 0);
    }
}
