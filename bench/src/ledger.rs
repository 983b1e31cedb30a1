//! What was written under each key, shared by all connections of a run, so that a value that is not the newest one is found.
//!
//! Each key is written by one connection, so its versions come in their order. A value carries its version as its stamp.
//!
//! **Invariant:** a get is right when its version lies between the newest that was stored when the get was sent and the newest
//! that was sent when its answer came. Times are unix seconds, as servers count them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::random::mix;

/// Seconds by which a server's idea of a second may lag, and in which a set waits for its answer at most.
const EXPIRY_SLACK: u64 = 3;

/// Shares of sets in percent, and their times to live in units: the mean is 2.8 units.
const LIFETIMES: [(u64, u64); 3] = [(90, 1), (9, 10), (1, 100)];

/// How long values live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetimes {
    /// Until they are overwritten.
    Endless,
    /// 90 of 100 for this many seconds, 9 for ten times and one for a hundred times as long.
    Mixed(u64),
}

impl Lifetimes {
    /// Seconds that the value of key `index` is to live; 0 for ever.
    pub(crate) fn of(self, index: u64) -> u64 {
        let Self::Mixed(unit) = self else { return 0 };
        let mut left = mix(!index) % 100;
        for (share, units) in LIFETIMES {
            if left < share {
                return units * unit;
            }
            left -= share;
        }
        unit
    }

    /// The mean of [`Self::of`] over many keys, in seconds; `None` for ever.
    pub(crate) fn mean(self) -> Option<f64> {
        let Self::Mixed(unit) = self else { return None };
        let units: u64 = LIFETIMES.iter().map(|(share, units)| share * units).sum();
        Some(units as f64 / 100.0 * unit as f64)
    }
}

/// The versions of all keys.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The newest version sent in the upper half, the newest one stored in the lower; 0 is none.
    versions: Vec<AtomicU64>,
    /// The first second in which the value of a key may be gone; 0 is never.
    expiries: Vec<AtomicU32>,
    lifetimes: Lifetimes,
    /// Keys written for the first time.
    fresh_count: AtomicU64,
    /// Sets that were stored.
    stored_count: AtomicU64,
}

impl Ledger {
    /// One in which none of `key_count` keys was written.
    pub(crate) fn new(key_count: u64, lifetimes: Lifetimes) -> Self {
        let expiry_count = if lifetimes == Lifetimes::Endless { 0 } else { key_count };
        Self {
            versions: (0..key_count).map(|_| AtomicU64::new(0)).collect(),
            expiries: (0..expiry_count).map(|_| AtomicU32::new(0)).collect(),
            lifetimes,
            fresh_count: AtomicU64::new(0),
            stored_count: AtomicU64::new(0),
        }
    }

    /// A set of key `index` is sent: its version, and the seconds that it is to live.
    pub(crate) fn begin_set(&self, index: u64) -> (u32, u64) {
        let before = self.versions[index as usize].fetch_add(1 << 32, Ordering::Relaxed) >> 32;
        self.fresh_count.fetch_add(u64::from(before == 0), Ordering::Relaxed);
        let lifetime = self.lifetimes.of(index);
        if let Some(expiry) = self.expiries.get(index as usize) {
            expiry.store((now_seconds() + lifetime) as u32, Ordering::Relaxed);
        }
        (before as u32 + 1, lifetime)
    }

    /// The set of `version` was stored.
    pub(crate) fn end_set(&self, index: u64, version: u32) {
        let raise = |word: u64| Some(word & !u64::from(u32::MAX) | u64::from((word as u32).max(version)));
        _ = self.versions[index as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise);
        self.stored_count.fetch_add(1, Ordering::Relaxed);
    }

    /// The newest version of key `index` that was stored; 0 if none was.
    pub(crate) fn stored(&self, index: u64) -> u32 {
        self.versions[index as usize].load(Ordering::Relaxed) as u32
    }

    /// Sets that were stored since the beginning.
    pub(crate) fn stored_count(&self) -> u64 {
        self.stored_count.load(Ordering::Relaxed)
    }

    /// Keys that were written at all: with fresh keys only, all below this number.
    pub(crate) fn fresh_count(&self) -> u64 {
        self.fresh_count.load(Ordering::Relaxed)
    }

    /// What is wrong with a value that carries `version`, where `least` was stored when the get was sent, `age_seconds` ago.
    pub(crate) fn fault(&self, index: u64, least: u32, version: u64, age_seconds: u64) -> Option<String> {
        let newest = self.versions[index as usize].load(Ordering::Relaxed) >> 32;
        if version < u64::from(least) {
            return Some(format!("version {version} is stale: version {least} was stored before"));
        }
        if version > newest {
            return Some(format!("version {version} was never sent, {newest} is the newest"));
        }
        let expiry = self.expiry(index)?;
        let is_late = expiry + EXPIRY_SLACK + age_seconds < now_seconds();
        is_late.then(|| format!("it has expired {} s ago", now_seconds() - expiry))
    }

    /// Whether a miss of key `index` means that its value was lost, `least` having been stored when the get was sent.
    pub(crate) fn is_lost(&self, index: u64, least: u32) -> bool {
        least > 0 && self.expiry(index).is_none_or(|expiry| now_seconds() < expiry)
    }

    fn expiry(&self, index: u64) -> Option<u64> {
        let expiry = self.expiries.get(index as usize)?.load(Ordering::Relaxed);
        (expiry > 0).then_some(u64::from(expiry))
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_right_between_the_stored_and_the_sent_one() {
        let ledger = Ledger::new(3, Lifetimes::Endless);
        assert!(!ledger.is_lost(1, ledger.stored(1)), "it was never written");
        assert_eq!((ledger.begin_set(1), ledger.begin_set(1), ledger.begin_set(1)), ((1, 0), (2, 0), (3, 0)));
        assert_eq!(ledger.stored(1), 0);
        ledger.end_set(1, 2);
        ledger.end_set(1, 1);
        assert_eq!((ledger.stored(1), ledger.stored_count(), ledger.fresh_count()), (2, 2, 1));
        for (version, is_right) in [(0, false), (1, false), (2, true), (3, true), (4, false), (u64::MAX, false)] {
            assert_eq!(ledger.fault(1, 2, version, 0).is_none(), is_right, "{version}");
        }
        assert!(ledger.is_lost(1, 2) && !ledger.is_lost(1, 0));
    }

    #[test]
    fn expired_values_may_miss_and_must_after_a_while() {
        let ledger = Ledger::new(1, Lifetimes::Mixed(1));
        let (version, lifetime) = ledger.begin_set(0);
        ledger.end_set(0, version);
        let written_at = |seconds_ago: u64| {
            ledger.expiries[0].store((now_seconds() + lifetime - seconds_ago) as u32, Ordering::Relaxed);
        };
        written_at(0);
        assert!(ledger.is_lost(0, version) && ledger.fault(0, version, 1, 0).is_none());
        written_at(lifetime + 1);
        assert!(!ledger.is_lost(0, version) && ledger.fault(0, version, 1, 0).is_none());
        written_at(lifetime + EXPIRY_SLACK + 2);
        assert!(ledger.fault(0, version, 1, 0).is_some_and(|fault| fault.contains("expired")));
        assert!(ledger.fault(0, version, 1, 10).is_none(), "it was asked for before");
    }

    #[test]
    fn lifetimes_have_their_shares_and_mean() {
        let lifetimes = Lifetimes::Mixed(2);
        let count = 100_000;
        let sum: u64 = (0..count).map(|index| lifetimes.of(index)).sum();
        let mean = lifetimes.mean().expect("they end");
        assert!((sum as f64 / count as f64 / mean - 1.0).abs() < 0.05, "{sum} {mean}");
        let longest = (0..count).filter(|&index| lifetimes.of(index) == 200).count();
        assert!((800..1200).contains(&longest), "{longest}");
        assert_eq!((Lifetimes::Endless.of(5), Lifetimes::Endless.mean()), (0, None));
    }
}
