//! Keys of benchmarks: digest and entry as functions of a number, and a random order of the numbers.
//!
//! Nothing is stored, so that nothing but the contender takes memory and misses the caches.

use dmacached::digest::{DIGEST_SIZE, Digest};
use dmacached::index::{Entry, Index, Pointer};
use dmacached::limits::{RECORD_GRANULE, TABLE_SIZE_DEFAULT};
use dmacached::record::SizeClass;

/// Size of the tables that entries point into.
pub const TABLE_SIZE: usize = TABLE_SIZE_DEFAULT;

/// Tables that entries point into: every layout of the index has room for as many.
const SLOT_BITS: u32 = 11;
/// Classes that every layout has room for.
const CLASS_MASK: u8 = 0x7f;
const OFFSET_BITS: u32 = (TABLE_SIZE / RECORD_GRANULE).trailing_zeros();

/// Spreads every bit of `value` over the whole word (the finalizer of splitmix64). A bijection.
#[inline]
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut word = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A digest that looks as random as SHA-1's, for a small part of its cost. No two numbers share one.
#[inline]
#[must_use]
pub fn digest(number: u64) -> Digest {
    let first = mix(number);
    let second = (first ^ number.rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let second = second ^ (second >> 32);
    let mut bytes = [0; DIGEST_SIZE];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..16].copy_from_slice(&second.to_le_bytes());
    bytes[16..].copy_from_slice(&((first ^ second) as u32).to_le_bytes());
    Digest(bytes)
}

/// A digest as the store makes it: SHA-1 of the salt and a key. No operation of a store is without one.
#[inline]
#[must_use]
pub fn hashed(number: u64) -> Digest {
    Digest::of(b"0123456789abcdef", &number.to_le_bytes())
}

/// What is stored under the digest of `number`: all fields vary, so that an entry of another key is noticed.
#[inline]
#[must_use]
pub const fn entry(number: u64) -> Entry {
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let granule = (word >> 20) & ((1 << OFFSET_BITS) - 1);
    let pointer =
        Pointer { slot: (word >> (u64::BITS - SLOT_BITS)) as u32, offset: granule as u32 * RECORD_GRANULE as u32 };
    Entry::new(pointer, SizeClass((word >> 8) as u8 & CLASS_MASK), number as u32)
}

/// Every number in `0..count` once, in an order that looks random.
#[derive(Debug, Clone, Copy)]
pub struct Shuffle {
    count: u64,
    bits: u32,
    seed: u64,
}

impl Shuffle {
    /// The order that `seed` names.
    ///
    /// # Panics
    /// When `count` is beyond 2^32.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Self {
        assert!(count <= 1 << 32, "numbers have 32 bits");
        let bits = count.next_power_of_two().trailing_zeros().max(2);
        Self { count, bits, seed: mix(seed) }
    }

    /// The numbers in their order.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        let places = 0..1u64 << self.bits;
        // A bijection of the next power of two: what is too large is left out, less than half of it.
        places
            .map(move |place| self.moved(place))
            .filter(move |number| *number < self.count)
            .map(|number| number as u32)
    }

    /// Each step is a bijection of numbers of so many bits: an odd factor, a constant, a shift folded in.
    fn moved(self, place: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        let mut word = (place ^ self.seed) & mask;
        for factor in [0xbf58_476d_1ce4_e5b9u64, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93] {
            word = word.wrapping_mul(factor).wrapping_add(self.seed >> 32) & mask;
            word ^= word >> (self.bits / 2);
        }
        word
    }
}

/// The numbers in `0..count` in the order of their digests, as a bulk build wants them.
#[must_use]
pub fn sorted_numbers(count: u32) -> Vec<u32> {
    // The first bytes of the order decide nearly always: compared as one number, next to the number they stand for.
    let leading = |number: u32| {
        let key = Index::order(&digest(u64::from(number)));
        let first = key.first_chunk::<8>().expect("20 bytes");
        u64::from_le_bytes(*first).swap_bytes()
    };
    let mut pairs: Vec<(u64, u32)> = (0..count).map(|number| (leading(number), number)).collect();
    let key = |number: u32| Index::order(&digest(u64::from(number)));
    pairs.sort_unstable_by(|left, right| left.0.cmp(&right.0).then_with(|| key(left.1).cmp(&key(right.1))));
    pairs.into_iter().map(|(_, number)| number).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn digests_differ_also_where_a_short_identity_looks() {
        let identity = |number: u64| Index::order(&digest(number)).first_chunk::<12>().copied().expect("20 bytes");
        let identities: HashSet<_> = (0..100_000).map(identity).collect();
        assert_eq!(identities.len(), 100_000);
    }

    #[test]
    fn digests_are_even_in_every_byte() {
        for byte in 0..DIGEST_SIZE {
            let mut counts = [0u32; 256];
            (0..256_000).for_each(|number| counts[usize::from(digest(number).0[byte])] += 1);
            // Six standard deviations of a binomial count around 1000.
            assert!(counts.iter().all(|count| (810..1_190).contains(count)), "byte {byte}: {counts:?}");
        }
    }

    #[test]
    fn entries_differ_and_fit_the_tables() {
        let entries: HashSet<_> = (0..10_000).map(|number| entry(number).pointer).collect();
        assert!(entries.len() > 9_990, "{}", entries.len());
        for number in [0, 1, u64::from(u32::MAX)] {
            let Pointer { slot, offset } = entry(number).pointer;
            assert!(slot < 1 << SLOT_BITS && (offset as usize) < TABLE_SIZE && offset % 16 == 0, "{slot} {offset}");
        }
    }

    #[test]
    fn a_shuffle_has_every_number_once() {
        for count in [1, 2, 3, 100, 1_000, 4_096, 5_000] {
            let mut numbers: Vec<u32> = Shuffle::new(count, 7).numbers().collect();
            let is_moved = numbers.iter().enumerate().filter(|(place, number)| *place == **number as usize).count();
            assert!(count < 100 || is_moved < 20, "{count}: {is_moved} are where they were");
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..count as u32), "{count}");
        }
    }

    #[test]
    fn a_shuffle_leaves_no_stride() {
        let numbers: Vec<u32> = Shuffle::new(10_000, 3).numbers().collect();
        let strides: HashSet<u32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert!(strides.len() > 5_000, "{}", strides.len());
    }

    #[test]
    fn sorted_numbers_are_sorted_by_digest() {
        let numbers = sorted_numbers(5_000);
        assert!(numbers.is_sorted_by_key(|number| Index::order(&digest(u64::from(*number)))));
        let distinct: HashSet<_> = numbers.iter().collect();
        assert_eq!(distinct.len(), 5_000);
    }
}
