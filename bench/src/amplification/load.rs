//! What is written: which key, and for how long it is to live.

use dmacached::clock::Seconds;

use super::theory::{self, Class};
use crate::random::{Random, Zipf};

/// TTLs of [`Load::Expiring`]: share of the writes, and how many times the shortest.
const TTLS: [(f64, f64); 3] = [(0.9, 1.0), (0.09, 10.0), (0.01, 100.0)];
/// The longest TTL of [`Load::ExpiringSpread`] by the shortest.
const TTL_SPREAD: f64 = 100.0;
/// Classes that the keys of a Zipf distribution are divided into for the optimum; with more of them it hardly gets
/// lower.
const ZIPF_CLASS_COUNT: u32 = 48;
/// Exponent of [`Load::Zipf`].
const ZIPF_EXPONENT: f64 = 0.99;

/// A kind of load. Of `Skewed`, so many percent of the updates are of so many percent of the keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// Updates of any key alike.
    Uniform,
    /// Updates, most of them of few keys.
    Skewed { updates: u32, keys: u32 },
    /// Updates by Zipf's law.
    Zipf,
    /// Fresh keys that are never updated and expire; three TTLs, most have the shortest.
    Expiring,
    /// The same, with TTLs spread evenly over their logarithm.
    ExpiringSpread,
}

impl Load {
    /// All that are simulated.
    pub(crate) const ALL: [Self; 6] = [
        Self::Uniform,
        Self::Skewed { updates: 90, keys: 10 },
        Self::Skewed { updates: 80, keys: 20 },
        Self::Zipf,
        Self::Expiring,
        Self::ExpiringSpread,
    ];

    /// What it is called.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Uniform => "uniform".to_owned(),
            Self::Skewed { updates, keys } => format!("{updates}/{keys}"),
            Self::Zipf => format!("zipf {ZIPF_EXPONENT}"),
            Self::Expiring => "ttl 1:10:100".to_owned(),
            Self::ExpiringSpread => "ttl spread".to_owned(),
        }
    }

    /// Whether keys expire, and are never updated.
    pub(crate) fn expires(self) -> bool {
        matches!(self, Self::Expiring | Self::ExpiringSpread)
    }

    /// The lowest write amplification that there can be, see [`theory::optimum`].
    pub(crate) fn optimum(self, utilisation: f64, keys: u32) -> f64 {
        let one = |data, updates| Class { data, updates };
        match self {
            Self::Uniform => theory::optimum(&[one(1.0, 1.0)], utilisation),
            Self::Skewed { updates, keys } => {
                let (updates, data) = (f64::from(updates) / 100.0, f64::from(keys) / 100.0);
                theory::optimum(&[one(data, updates), one(1.0 - data, 1.0 - updates)], utilisation)
            }
            Self::Zipf => theory::optimum(&zipf_classes(keys), utilisation),
            // Who knew all TTLs could put together what expires together.
            Self::Expiring | Self::ExpiringSpread => 1.0,
        }
    }
}

/// Ranks in classes, each so many times the one before.
fn zipf_classes(keys: u32) -> Vec<Class> {
    let last_of = |class: u32| f64::from(keys).powf(f64::from(class) / f64::from(ZIPF_CLASS_COUNT)).round() as u32;
    let mut classes = Vec::new();
    let mut first = 0;
    for last in (0..=ZIPF_CLASS_COUNT).map(last_of) {
        if last > first {
            let updates = (first..last).map(|rank| f64::from(rank + 1).powf(-ZIPF_EXPONENT)).sum();
            classes.push(Class { data: f64::from(last - first), updates });
            first = last;
        }
    }
    classes
}

/// One of three values, each with its share of the numbers from 0 to 1.
fn pick(unit: f64, choices: [(f64, f64); 3]) -> f64 {
    let mut rest = unit;
    let is_it = |(share, _): &(f64, f64)| {
        rest -= share;
        rest < 0.0
    };
    choices.into_iter().find(is_it).map_or(choices[0].1, |(_, value)| value)
}

/// Draws what a load writes.
#[derive(Debug)]
pub(crate) struct Writes {
    load: Load,
    random: Random,
    keys: u32,
    zipf: Zipf,
    /// The shortest TTL in seconds.
    ttl_min: f64,
}

impl Writes {
    /// Writes of `load` to `keys` keys, or with a TTL of `ttl_mean` seconds on average.
    pub(crate) fn new(load: Load, keys: u32, ttl_mean: f64, seed: u64) -> Self {
        let mean_of_min = match load {
            Load::ExpiringSpread => (TTL_SPREAD - 1.0) / TTL_SPREAD.ln(),
            _ => TTLS.iter().map(|(share, ttl)| share * ttl).sum(),
        };
        let zipf = Zipf::new(u64::from(keys), ZIPF_EXPONENT);
        Self { load, random: Random::new(seed, 0), keys, zipf, ttl_min: ttl_mean / mean_of_min }
    }

    /// The next key to be updated.
    pub(crate) fn key(&mut self) -> u32 {
        let keys = u64::from(self.keys);
        let key = match self.load {
            Load::Skewed { updates, keys: percent } => {
                let hot = keys * u64::from(percent) / 100;
                if self.random.below(100) < u64::from(updates) {
                    self.random.below(hot)
                } else {
                    hot + self.random.below(keys - hot)
                }
            }
            Load::Zipf => self.zipf.rank(&mut self.random),
            _ => self.random.below(keys),
        };
        u32::try_from(key).expect("keys are counted in 32 bits")
    }

    /// The next TTL in seconds, at least one.
    pub(crate) fn ttl(&mut self) -> Seconds {
        let unit = self.random.unit();
        let ratio = if self.load == Load::ExpiringSpread { TTL_SPREAD.powf(unit) } else { pick(unit, TTLS) };
        ((self.ttl_min * ratio) as Seconds).max(1)
    }

    /// For how many seconds more one of the live records lives, when this load has gone on for ever. Of those with a
    /// long TTL there are more than are written.
    pub(crate) fn remaining_ttl(&mut self) -> Seconds {
        let unit = self.random.unit();
        let ratio = if self.load == Load::ExpiringSpread {
            1.0 + (TTL_SPREAD - 1.0) * unit
        } else {
            let total: f64 = TTLS.iter().map(|(share, ttl)| share * ttl).sum();
            pick(unit, TTLS.map(|(share, ttl)| (share * ttl / total, ttl)))
        };
        (self.ttl_min * ratio * self.random.unit()) as Seconds + 1
    }
}
