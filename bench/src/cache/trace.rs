//! Traces: which key is asked for, one after the other.

use clap::ValueEnum;

use crate::random::{Random, Zipf};

/// Requests of a scan that come in one go.
const SCAN_LEN: u64 = 1_000;

/// What a trace is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// Zipf with exponent 0.99
    Zipf099,
    /// Zipf with exponent 1.1
    Zipf110,
    /// Zipf with exponent 0.99, and as many requests again of scans: runs of a thousand keys, each asked for once
    Scans,
}

impl Shape {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Zipf099, Self::Zipf110, Self::Scans];

    /// What tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zipf099 => "Zipf 0.99",
            Self::Zipf110 => "Zipf 1.1",
            Self::Scans => "Zipf 0.99 with scans",
        }
    }
}

/// A trace over keys that are numbered.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The keys, in the order of the requests.
    pub(crate) requests: Vec<u32>,
    /// Number of all keys; some may never be asked for.
    pub(crate) key_count: u32,
}

impl Trace {
    /// So many requests to keys below `key_count`, and to others in scans.
    pub(crate) fn new(shape: Shape, key_count: u32, request_count: usize, seed: u64) -> Self {
        let exponent = if shape == Shape::Zipf110 { 1.1 } else { 0.99 };
        let zipf = Zipf::new(key_count.into(), exponent);
        let mut random = Random::new(seed, 0);
        let mut next_scanned = key_count;
        let mut requests = Vec::with_capacity(request_count);
        while requests.len() < request_count {
            if shape == Shape::Scans && random.below(2 * SCAN_LEN) == 0 {
                // As many as the requests before it, in the mean.
                let end = next_scanned + 2 * SCAN_LEN as u32;
                requests.extend(next_scanned..end);
                next_scanned = end;
            }
            requests.push(zipf.rank(&mut random) as u32);
        }
        requests.truncate(request_count);
        Self { requests, key_count: next_scanned }
    }

    /// For each request the number of the next one of the same key; `u32::MAX` if there is none.
    pub(crate) fn next_uses(&self) -> Vec<u32> {
        let mut next_of = vec![u32::MAX; self.key_count as usize];
        let mut next_uses = vec![u32::MAX; self.requests.len()];
        for (number, key) in self.requests.iter().enumerate().rev() {
            next_uses[number] = next_of[*key as usize];
            next_of[*key as usize] = number as u32;
        }
        next_uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_ask_once_and_for_half_of_all() {
        let trace = Trace::new(Shape::Scans, 1_000, 400_000, 7);
        let scanned: Vec<u32> = trace.requests.iter().copied().filter(|key| *key >= 1_000).collect();
        assert!(scanned.is_sorted_by(|one, next| one < next));
        assert!((150_000..250_000).contains(&scanned.len()), "{}", scanned.len());
    }

    #[test]
    fn next_uses_are_those_of_the_same_key() {
        let trace = Trace { requests: vec![1, 2, 1, 1, 0], key_count: 3 };
        assert_eq!(trace.next_uses(), [2, u32::MAX, 3, u32::MAX, u32::MAX]);
    }
}
