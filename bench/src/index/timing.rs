//! CPU time of this thread and of the process, in nanoseconds.
//!
//! CPU time and not time on the clock: what other programs do on the machine is not in it. Page faults are, in the
//! thread that has them. So are interrupts, in whomever they meet.

use std::hint::black_box;

use nix::time::{ClockId, clock_gettime};

use crate::tally::Latencies;

/// Most readings of the clock that its own cost is taken from.
const CLOCK_READINGS_MAX: u32 = 10_000_000;

/// CPU time of the calling thread.
#[inline]
pub(super) fn thread_cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of all threads of this process.
pub(super) fn process_cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

#[inline]
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has the clocks of CPU time");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// What measuring nothing takes, as often as `count` says and at most ten million times.
pub(super) fn clock_cost(count: u32) -> Latencies {
    let mut latencies = Latencies::new();
    latencies.clear();
    for _ in 0..count.min(CLOCK_READINGS_MAX) {
        let begun = thread_cpu();
        black_box(());
        latencies.record(thread_cpu() - begun);
    }
    latencies
}

/// CPU time of the thread that `work` takes, in nanoseconds.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = thread_cpu();
    let outcome = work();
    ((thread_cpu() - begun) as f64, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    #[test]
    fn work_takes_time_and_sleep_does_not() {
        let (nothing, ()) = timed(|| std::thread::sleep(std::time::Duration::from_millis(30)));
        let (work, sum) = timed(|| (0..2_000_000).fold(0, |sum, number| mix(sum ^ number)));
        assert!(nothing < 20e6 && work > 1e6 && process_cpu() >= thread_cpu(), "{nothing} {work} {sum}");
    }

    #[test]
    fn the_clock_costs_less_than_a_page_fault() {
        let latencies = clock_cost(10_000);
        assert_eq!(latencies.count(), 10_000);
        assert!(latencies.percentile_us(50.0) < 20.0, "{} us", latencies.percentile_us(50.0));
    }
}
