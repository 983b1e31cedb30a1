//! Random numbers that can be replayed: one stream per connection, each a function of the seed and the stream's number.

pub(crate) use dmacached_bench::keys::mix;

/// A xorshift64* generator: fast, and good enough to choose keys. Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The stream number `stream` of the family that `seed` names.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // A zero state would stay zero forever.
        let state = mix(mix(seed) ^ mix(!stream)).max(1);
        Self { state }
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `0..bound`, by multiplication; the bias is below `bound / 2^64`. `bound` is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)`, a multiple of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks `0..count` drawn with probability proportional to `1 / (rank + 1)^exponent`.
///
/// Hoermann and Derflinger's rejection-inversion: no table, so that the number of keys costs neither memory nor time.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    count: f64,
    exponent: f64,
    integral_first: f64,
    integral_last: f64,
    shortcut: f64,
}

impl Zipf {
    /// A distribution over `count` ranks (at least 1) with a positive exponent.
    pub(crate) fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0, "a distribution needs one rank at least");
        assert!(exponent > 0.0, "the exponent is positive");
        let mut zipf = Self { count: count as f64, exponent, integral_first: 0.0, integral_last: 0.0, shortcut: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.count + 0.5);
        zipf.shortcut = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// Draws a rank; 0 is the most likely.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let point = self.integral_inverse(area);
            let rank = (point + 0.5).floor().clamp(1.0, self.count);
            if rank - point <= self.shortcut || area >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, point: f64) -> f64 {
        (-self.exponent * point.ln()).exp()
    }

    /// The integral of the density up to `point`, continuous also where the exponent is 1.
    fn integral(&self, point: f64) -> f64 {
        let log = point.ln();
        let scaled = (1.0 - self.exponent) * log;
        let factor = if scaled.abs() > 1e-8 { scaled.exp_m1() / scaled } else { 1.0 + scaled / 2.0 };
        factor * log
    }

    fn integral_inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.exponent)).max(-1.0);
        let factor = if scaled.abs() > 1e-8 { scaled.ln_1p() / scaled } else { 1.0 - scaled / 2.0 };
        (factor * area).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_can_be_replayed() {
        let draw = |seed, stream| {
            let mut random = Random::new(seed, stream);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 0), draw(7, 0));
        assert_ne!(draw(7, 0), draw(7, 1));
        assert_ne!(draw(7, 0), draw(8, 0));
    }

    #[test]
    fn below_reaches_every_number_and_no_other() {
        let mut random = Random::new(1, 1);
        let mut counts = [0u32; 5];
        for _ in 0..5_000 {
            counts[random.below(5) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_frequencies_follow_the_power_law() {
        for exponent in [0.5, 0.99, 1.0, 1.3] {
            let (count, draws) = (100u64, 200_000u32);
            let zipf = Zipf::new(count, exponent);
            let mut random = Random::new(3, 0);
            let mut counts = vec![0u32; count as usize];
            for _ in 0..draws {
                counts[zipf.rank(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=count).map(|rank| (rank as f64).powf(-exponent)).sum();
            for rank in [1u64, 2, 10] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / total;
                let found = f64::from(counts[rank as usize - 1]);
                // Five standard deviations of a binomial count.
                let tolerance = 5.0 * expected.sqrt();
                assert!((found - expected).abs() < tolerance, "{exponent} rank {rank}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn zipf_over_one_rank_always_draws_it() {
        let zipf = Zipf::new(1, 0.99);
        let mut random = Random::new(5, 0);
        assert!((0..100).all(|_| zipf.rank(&mut random) == 0));
    }
}
