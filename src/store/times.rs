//! When versions were reached: so that records need not say when they were written.

use std::collections::VecDeque;

use crate::clock::Seconds;

/// Most seconds that are remembered one by one.
const RECENT_COUNT_MAX: usize = 1024;
/// Most points in time that are remembered before those. When there are as many, every other one goes.
const OLD_COUNT_MAX: usize = 3072;

/// The first version of each second in which something was written; of those that are long ago, of every second one, of
/// every fourth and so on.
#[derive(Debug)]
pub(super) struct WriteTimes {
    recent: VecDeque<(u64, Seconds)>,
    old: Vec<(u64, Seconds)>,
    /// Seconds between two points of the old ones.
    step: Seconds,
}

impl WriteTimes {
    /// Nothing is known of what was written before `now`, and is taken for written then.
    pub(super) fn new(now: Seconds) -> Self {
        Self { recent: VecDeque::new(), old: vec![(0, now)], step: 1 }
    }

    /// `version` is written at `now`.
    #[inline]
    pub(super) fn note(&mut self, version: u64, now: Seconds) {
        if self.recent.back().is_none_or(|(_, second)| *second != now) {
            self.begin(version, now);
        }
    }

    fn begin(&mut self, version: u64, now: Seconds) {
        if self.recent.len() == RECENT_COUNT_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            let is_due = self.old.last().is_none_or(|(_, last)| oldest.1.abs_diff(*last) >= self.step);
            if is_due {
                self.old.push(oldest);
            }
        }
        if self.old.len() == OLD_COUNT_MAX {
            self.step = self.step.saturating_mul(2);
            let mut number = 0;
            self.old.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.recent.push_back((version, now));
    }

    /// The second in which `version` was written, or the one remembered before it.
    pub(super) fn of(&self, version: u64) -> Seconds {
        let behind = self.recent.partition_point(|(first, _)| *first <= version);
        if let Some((_, second)) = behind.checked_sub(1).and_then(|last| self.recent.get(last)) {
            return *second;
        }
        let behind = self.old.partition_point(|(first, _)| *first <= version);
        self.old.get(behind.saturating_sub(1)).map_or(0, |(_, second)| *second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_as_old_as_its_second() {
        let mut times = WriteTimes::new(100);
        for (version, now) in [(8, 101), (9, 101), (10, 105), (20, 105), (21, 110)] {
            times.note(version, now);
        }
        for (version, second) in [(0, 100), (7, 100), (8, 101), (9, 101), (10, 105), (20, 105), (21, 110), (99, 110)] {
            assert_eq!(times.of(version), second, "version {version}");
        }
    }

    #[test]
    fn what_is_long_ago_is_known_less_exactly_and_what_was_just_now_exactly() {
        let mut times = WriteTimes::new(0);
        for second in 1..100_000u32 {
            times.note(u64::from(second) * 10, second);
        }
        assert!(times.recent.len() <= RECENT_COUNT_MAX && times.old.len() < OLD_COUNT_MAX);
        assert_eq!(times.of(999_990), 99_999);
        assert_eq!(times.of(999_985), 99_998);
        for second in (1..100_000u32).step_by(77) {
            let told = times.of(u64::from(second) * 10);
            assert!(told <= second && second - told <= 64, "{second}: {told}");
        }
    }
}
