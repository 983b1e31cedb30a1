//! Which keys are asked for, what their values are, and how an answer is checked. Knows no socket.
//!
//! **Invariant:** a value is a function of its key's index and of a stamp that the value itself carries, so that any
//! answer can be checked byte by byte without remembering what was written.

use std::fmt;
use std::sync::Arc;

use crate::ledger::Ledger;
use crate::random::{Random, Zipf, mix};

/// Digits of a key's number; also the length that every key has beyond its prefix.
pub(crate) const KEY_DIGITS: usize = 10;

/// Values of this size and above begin with their stamp; shorter ones depend on the key alone.
pub(crate) const STAMPED_SIZE_MIN: usize = 16;

/// The stamp's bytes at the beginning of a value, little-endian.
const STAMP_SIZE: usize = 8;

/// The keys `<prefix>0000000000` and up, all of one length.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// What every key begins with.
    pub(crate) prefix: String,
    /// How many keys there are.
    pub(crate) count: u64,
}

impl Keys {
    /// Bytes of every key.
    pub(crate) fn size(&self) -> usize {
        self.prefix.len() + KEY_DIGITS
    }

    /// Appends the key number `index`.
    pub(crate) fn append(&self, index: u64, output: &mut Vec<u8>) {
        output.extend_from_slice(self.prefix.as_bytes());
        let mut digits = [b'0'; KEY_DIGITS];
        let mut rest = index;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        output.extend_from_slice(&digits);
    }

    /// Whether `key` is the key number `index`.
    pub(crate) fn matches(&self, index: u64, key: &[u8]) -> bool {
        let Some(digits) = key.strip_prefix(self.prefix.as_bytes()) else {
            return false;
        };
        let number = digits.iter().fold(0u64, |sum, &digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit ^ b'0')));
        digits.len() == KEY_DIGITS && digits.iter().all(u8::is_ascii_digit) && number == index
    }
}

/// How one value differs from the one that its key and stamp require.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The length is wrong; both are in bytes.
    Size {
        /// The length that the key requires.
        expected: usize,
        /// The length that came.
        found: usize,
    },
    /// The first wrong byte.
    Byte {
        /// Its distance from the beginning of the value.
        offset: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected, found } => write!(formatter, "{found} bytes instead of {expected}"),
            Self::Byte { offset } => write!(formatter, "the byte at offset {offset} is wrong"),
        }
    }
}

/// The values: their sizes in bytes (both ends included) and their contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    /// The smallest size.
    pub(crate) size_min: usize,
    /// The largest size.
    pub(crate) size_max: usize,
}

impl Values {
    /// The size of the value of key `index`: always the same for one key.
    pub(crate) fn size(&self, index: u64) -> usize {
        let span = (self.size_max - self.size_min) as u64 + 1;
        self.size_min + (mix(index) % span) as usize
    }

    /// Appends the value of key `index` with `stamp`.
    pub(crate) fn append(&self, index: u64, stamp: u64, output: &mut Vec<u8>) {
        let end = output.len() + self.size(index);
        let mut words = Words::new(index, 0);
        if self.size(index) >= STAMPED_SIZE_MIN {
            output.extend_from_slice(&stamp.to_le_bytes());
            words = Words::new(index, stamp);
        }
        while output.len() + 8 <= end {
            output.extend_from_slice(&words.next().to_le_bytes());
        }
        output.extend_from_slice(&words.next().to_le_bytes()[..end - output.len()]);
    }

    /// The stamp of a value of key `index`, if values of its size have one.
    pub(crate) fn stamp(&self, index: u64, value: &[u8]) -> Option<u64> {
        let stamp = value.first_chunk::<STAMP_SIZE>().filter(|_| self.size(index) >= STAMPED_SIZE_MIN)?;
        Some(u64::from_le_bytes(*stamp))
    }

    /// Looks for the first difference between `value` and what key `index` and the stamp within `value` require.
    pub(crate) fn difference(&self, index: u64, value: &[u8]) -> Option<Difference> {
        let expected = self.size(index);
        if value.len() != expected {
            return Some(Difference::Size { expected, found: value.len() });
        }
        let (words, body) = match value.split_first_chunk::<STAMP_SIZE>() {
            Some((stamp, body)) if expected >= STAMPED_SIZE_MIN => {
                (Words::new(index, u64::from_le_bytes(*stamp)), body)
            }
            _ => (Words::new(index, 0), value),
        };
        let offset = first_wrong(words, body)? + (value.len() - body.len());
        Some(Difference::Byte { offset })
    }
}

fn first_wrong(mut words: Words, body: &[u8]) -> Option<usize> {
    let differs = |found: &[u8], word: u64| found.iter().zip(word.to_le_bytes()).position(|(&one, two)| one != two);
    let (chunks, rest) = body.as_chunks::<8>();
    for (chunk_index, chunk) in chunks.iter().enumerate() {
        let word = words.next();
        if u64::from_le_bytes(*chunk) != word {
            return differs(chunk, word).map(|within| chunk_index * 8 + within);
        }
    }
    differs(rest, words.next()).map(|within| body.len() - rest.len() + within)
}

/// The stream of words that fills a value.
struct Words(u64);

impl Words {
    fn new(index: u64, stamp: u64) -> Self {
        Self(mix(mix(index) ^ stamp).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// In which order keys are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyOrder {
    /// Every key is equally likely.
    Uniform,
    /// One after the other; each connection begins at its own place.
    Sequential,
    /// A few keys are asked for most of the time; the popular ones are scattered over the key space.
    Zipf,
    /// Nine of ten requests ask for a tenth of the keys; these are scattered over the key space.
    Hot,
    /// Every key among so many that were written last is equally likely: of a run whose ledger knows which those are.
    #[value(skip)]
    Recent(u64),
}

/// One connection's source of key indexes.
#[derive(Debug, Clone)]
pub(crate) enum KeyChooser {
    /// See [`KeyOrder::Uniform`].
    Uniform,
    /// See [`KeyOrder::Sequential`]: the next index.
    Sequential(u64),
    /// See [`KeyOrder::Zipf`]: the distribution of ranks, and what a rank is multiplied with to become an index.
    Zipf(Zipf, u64),
    /// See [`KeyOrder::Hot`]: what a number is multiplied with to become an index.
    Hot(u64),
    /// See [`KeyOrder::Recent`].
    Recent(u64),
}

/// Everything that says which requests are made. Shared by all connections, never changed.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// The keys.
    pub(crate) keys: Keys,
    /// The values.
    pub(crate) values: Values,
    /// The share of requests that are gets, 0 to 1.
    pub(crate) get_share: f64,
    /// Keys in one get, at least 1.
    pub(crate) multiget_count: u32,
    /// The order of keys.
    pub(crate) order: KeyOrder,
    /// The exponent of [`KeyOrder::Zipf`].
    pub(crate) zipf_exponent: f64,
    /// Where all random streams begin.
    pub(crate) seed: u64,
    /// Whether the bytes of each value that comes back are checked.
    pub(crate) verify: bool,
    /// What was written, if values are to be the newest. Each connection then sets keys of its own only, those whose numbers
    /// leave its number when divided by the number of connections.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

impl Workload {
    /// The key chooser of the connection number `connection` out of `connection_count`.
    pub(crate) fn chooser(&self, connection: u64, connection_count: u64) -> KeyChooser {
        let count = self.key_count(connection_count);
        match self.order {
            KeyOrder::Uniform => KeyChooser::Uniform,
            // The own keys of each connection begin with its first.
            KeyOrder::Sequential if self.sets_own_keys() => KeyChooser::Sequential(0),
            KeyOrder::Sequential => {
                let first = u128::from(count) * u128::from(connection) / u128::from(connection_count);
                KeyChooser::Sequential(first as u64)
            }
            KeyOrder::Zipf => KeyChooser::Zipf(Zipf::new(count, self.zipf_exponent), coprime(count)),
            KeyOrder::Hot => KeyChooser::Hot(coprime(count)),
            KeyOrder::Recent(span) => KeyChooser::Recent(span),
        }
    }

    /// Whether sets are of keys that nobody else sets.
    fn sets_own_keys(&self) -> bool {
        self.ledger.is_some() && self.get_share < 1.0
    }

    /// How many keys one connection asks for.
    fn key_count(&self, connection_count: u64) -> u64 {
        if self.sets_own_keys() { (self.keys.count / connection_count).max(1) } else { self.keys.count }
    }

    /// The next key index that the chooser of connection number `connection` yields, below the number of keys.
    pub(crate) fn next_index(
        &self,
        (connection, connection_count): (u64, u64),
        chooser: &mut KeyChooser,
        random: &mut Random,
    ) -> u64 {
        let count = self.key_count(connection_count);
        let scattered =
            |rank: u64, multiplier: u64| (u128::from(rank) * u128::from(multiplier) % u128::from(count)) as u64;
        let number = match chooser {
            KeyChooser::Uniform => random.below(count),
            KeyChooser::Sequential(next) => {
                let index = *next;
                *next = (index + 1) % count;
                index
            }
            KeyChooser::Zipf(zipf, multiplier) => scattered(zipf.rank(random), *multiplier),
            KeyChooser::Hot(multiplier) => {
                let hot_count = (count / 10).max(1);
                let is_hot = random.below(10) > 0 || hot_count == count;
                let rank = if is_hot { random.below(hot_count) } else { hot_count + random.below(count - hot_count) };
                scattered(rank, *multiplier)
            }
            KeyChooser::Recent(span) => {
                let written = self.ledger.as_ref().map_or(count, |ledger| ledger.fresh_count()).clamp(1, count);
                written - 1 - random.below((*span).clamp(1, written))
            }
        };
        if self.sets_own_keys() { number * connection_count + connection } else { number }
    }
}

/// A number without a common divisor with `count`, near its golden section: multiplying by it scatters neighbours and
/// maps no two ranks to one key.
fn coprime(count: u64) -> u64 {
    let divisor = |mut left: u64, mut right: u64| {
        while right != 0 {
            (left, right) = (right, left % right);
        }
        left
    };
    let first = (count as f64 * 0.618_033_988_749_895) as u64;
    (first.max(1)..).find(|&candidate| divisor(candidate, count) == 1).expect("some prime does not divide the count")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(values: Values, index: u64, stamp: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.append(index, stamp, &mut bytes);
        bytes
    }

    #[test]
    fn keys_have_one_length_and_match_only_themselves() {
        let keys = Keys { prefix: "key:".to_owned(), count: 1_000_000 };
        let mut bytes = Vec::new();
        keys.append(1_234_567, &mut bytes);
        assert_eq!(bytes, b"key:0001234567");
        assert!(keys.matches(1_234_567, &bytes));
        assert!(!keys.matches(1_234_568, &bytes));
        assert!(!keys.matches(1_234_567, b"key:1234567"));
        assert!(!keys.matches(1_234_567, b"kex:0001234567"));
        assert!(!keys.matches(1_234_567, b"key:000123456\x07"));
    }

    #[test]
    fn values_of_every_size_pass_their_own_check() {
        for size in 0..200 {
            let values = Values { size_min: size, size_max: size };
            for index in 0..5 {
                let bytes = value(values, index, 0xfeed_0000 + index);
                assert_eq!(bytes.len(), size);
                assert_eq!(values.difference(index, &bytes), None, "size {size}");
            }
        }
    }

    #[test]
    fn any_changed_byte_is_found() {
        for size in [1, 7, 8, 15, 16, 17, 100] {
            let values = Values { size_min: size, size_max: size };
            let good = value(values, 42, 99);
            for offset in 0..size {
                let mut bad = good.clone();
                bad[offset] ^= 0x10;
                let found = values.difference(42, &bad);
                assert!(found.is_some(), "size {size} offset {offset}");
                if size < STAMPED_SIZE_MIN || offset >= STAMP_SIZE {
                    assert_eq!(found, Some(Difference::Byte { offset }));
                }
            }
        }
    }

    #[test]
    fn another_key_another_length_and_a_mix_of_two_versions_are_found() {
        let values = Values { size_min: 64, size_max: 64 };
        let old = value(values, 1, 10);
        let new = value(values, 1, 11);
        assert_ne!(old, new);
        assert!(values.difference(2, &old).is_some());
        let found = values.difference(1, &old[..63]);
        assert_eq!(found, Some(Difference::Size { expected: 64, found: 63 }));
        for cut in STAMP_SIZE..64 {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert!(values.difference(1, &torn).is_some(), "torn at {cut}");
        }
    }

    #[test]
    fn sizes_stay_within_their_range_and_reach_both_ends() {
        let values = Values { size_min: 10, size_max: 14 };
        let sizes: std::collections::BTreeSet<_> = (0..1_000).map(|index| values.size(index)).collect();
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        assert_eq!(values.size(77), values.size(77));
    }

    fn workload(order: KeyOrder, count: u64) -> Workload {
        Workload {
            keys: Keys { prefix: String::new(), count },
            values: Values { size_min: 1, size_max: 1 },
            get_share: 1.0,
            multiget_count: 1,
            order,
            zipf_exponent: 0.99,
            seed: 1,
            verify: false,
            ledger: None,
        }
    }

    #[test]
    fn sequential_connections_begin_apart_and_wrap_around() {
        let workload = workload(KeyOrder::Sequential, 10);
        let mut random = Random::new(1, 0);
        let mut chooser = workload.chooser(1, 2);
        let found: Vec<_> = (0..7).map(|_| workload.next_index((1, 2), &mut chooser, &mut random)).collect();
        assert_eq!(found, [5, 6, 7, 8, 9, 0, 1]);
    }

    #[test]
    fn zipf_ranks_map_to_distinct_keys() {
        for count in [1u64, 2, 6, 10, 97, 1_000, 1 << 20] {
            let multiplier = coprime(count);
            let scatter = |rank: u64| (u128::from(rank) * u128::from(multiplier) % u128::from(count)) as u64;
            let distinct: std::collections::BTreeSet<_> = (0..count.min(1_000)).map(scatter).collect();
            assert_eq!(distinct.len() as u64, count.min(1_000), "{count}");
        }
        let workload = workload(KeyOrder::Zipf, 1_000);
        let mut random = Random::new(1, 0);
        let mut chooser = workload.chooser(0, 1);
        assert!((0..10_000).all(|_| workload.next_index((0, 1), &mut chooser, &mut random) < 1_000));
    }

    #[test]
    fn nine_of_ten_are_a_tenth_of_the_keys() {
        let workload = workload(KeyOrder::Hot, 1_000);
        let (mut random, mut chooser) = (Random::new(1, 0), workload.chooser(0, 1));
        let mut counts = vec![0u32; 1_000];
        (0..100_000).for_each(|_| counts[workload.next_index((0, 1), &mut chooser, &mut random) as usize] += 1);
        assert!(counts.iter().all(|&count| count > 0), "every key is asked for");
        let first: u32 = counts[..100].iter().sum();
        assert!((5_000..20_000).contains(&first), "{first}: the popular ones are scattered");
        counts.sort_unstable();
        let hot: u32 = counts[900..].iter().sum();
        assert!((89_000..91_000).contains(&hot), "{hot}");
    }

    #[test]
    fn with_a_ledger_each_connection_sets_keys_of_its_own() {
        for order in [KeyOrder::Uniform, KeyOrder::Sequential, KeyOrder::Hot, KeyOrder::Zipf] {
            let mut workload = workload(order, 1_003);
            workload.ledger = Some(Arc::new(Ledger::new(1_003, crate::ledger::Lifetimes::Endless)));
            workload.get_share = 0.0;
            for connection in 0..4 {
                let (mut random, mut chooser) = (Random::new(1, connection), workload.chooser(connection, 4));
                let mut next = || workload.next_index((connection, 4), &mut chooser, &mut random);
                assert!((0..2_000).map(|_| next()).all(|index| index % 4 == connection && index < 1_003), "{order:?}");
            }
        }
    }

    #[test]
    fn recent_keys_are_those_written_last() {
        let ledger = Arc::new(Ledger::new(100, crate::ledger::Lifetimes::Endless));
        let mut workload = workload(KeyOrder::Recent(10), 100);
        workload.ledger = Some(Arc::clone(&ledger));
        let (mut random, mut chooser) = (Random::new(1, 0), workload.chooser(0, 1));
        let mut range = || {
            let mut found = |_| workload.next_index((0, 1), &mut chooser, &mut random);
            let found: Vec<_> = (0..1_000).map(&mut found).collect();
            (found.iter().min().copied(), found.iter().max().copied())
        };
        assert_eq!(range(), (Some(0), Some(0)));
        (0..50).for_each(|index| _ = ledger.begin_set(index));
        assert_eq!(range(), (Some(40), Some(49)));
    }
}
