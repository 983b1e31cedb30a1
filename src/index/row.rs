//! The head of a segment: a row of bytes that says where in its blocks an entry is, without a look at them.
//!
//! ```text
//! 0     2         4          6    8                                            328
//! | len | partial | overflow | 0  | groups: (entries before u16, 16 counts u4) | places: (block id u32, first slot u8)
//! ```
//!
//! The next [`BUCKET_BITS`] bits of the hash behind the segment's choose a *bucket*, and entries lie in the order of
//! their buckets. So the entries of a bucket are those from the sum of all counts before it on. The counts of 16 buckets
//! are one word, whose parts are added up in a few instructions without a branch, and stand beside the sum of what
//! comes before: one cache line tells.
//!
//! A row of zeros is an empty segment.

use dma_alloc::BlockId;

/// Bits of the hash that choose a bucket of a segment.
pub(super) const BUCKET_BITS: u32 = 9;
pub(super) const BUCKET_COUNT: usize = 1 << BUCKET_BITS;
/// Most entries of a bucket. There are 4 at most on the average, in segments that are split next (5.5 in the dense layout).
pub(super) const BUCKET_LEN_MAX: usize = 15;
const GROUP_BITS: u32 = 4;
const GROUP_COUNT: usize = BUCKET_COUNT >> GROUP_BITS;
const GROUP_SIZE: usize = 2 + 8;
const PARTIAL_AT: usize = 2;
const OVERFLOW_AT: usize = 4;
const GROUPS_AT: usize = 8;
const PLACES_AT: usize = GROUPS_AT + GROUP_COUNT * GROUP_SIZE;
const PLACE_SIZE: usize = 5;

/// Most blocks of a segment whose row has `row_size` bytes.
pub(super) const fn block_count_max(row_size: usize) -> usize {
    (row_size - PLACES_AT) / PLACE_SIZE
}

/// Where a block is, and which of its slots holds its first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: BlockId,
    pub(super) first: usize,
}

/// The entries of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first in its segment.
    pub(super) start: usize,
    /// How many there are.
    pub(super) len: usize,
    /// The bucket.
    pub(super) bucket: usize,
}

#[inline]
fn half(row: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(*row[at..].first_chunk().expect("inside the row")))
}

#[inline]
fn set_half(row: &mut [u8], at: usize, value: usize) {
    row[at..at + 2].copy_from_slice(&u16::try_from(value).expect("bounded by those who count").to_le_bytes());
}

/// Number of entries, without those that overflowed.
#[inline]
pub(super) fn len<const ROW: usize>(row: &[u8; ROW]) -> usize {
    half(row, 0)
}

/// Number of the one block that may be less than full.
#[inline]
pub(super) fn partial<const ROW: usize>(row: &[u8; ROW]) -> usize {
    half(row, PARTIAL_AT)
}

#[inline]
pub(super) fn set_partial<const ROW: usize>(row: &mut [u8; ROW], number: usize) {
    set_half(row, PARTIAL_AT, number);
}

/// Number of entries that had no room here.
#[inline]
pub(super) fn overflow<const ROW: usize>(row: &[u8; ROW]) -> usize {
    half(row, OVERFLOW_AT)
}

pub(super) fn set_overflow<const ROW: usize>(row: &mut [u8; ROW], count: usize) {
    set_half(row, OVERFLOW_AT, count);
}

#[inline]
pub(super) fn place<const ROW: usize>(row: &[u8; ROW], number: usize) -> Place {
    let bytes: &[u8; PLACE_SIZE] = row[PLACES_AT + number * PLACE_SIZE..].first_chunk().expect("inside the row");
    let block = BlockId::from_bits(u32::from_le_bytes(*bytes.first_chunk().expect("five bytes")));
    Place { block, first: usize::from(bytes[4]) }
}

#[inline]
pub(super) fn set_place<const ROW: usize>(row: &mut [u8; ROW], number: usize, place: Place) {
    let bytes = &mut row[PLACES_AT + number * PLACE_SIZE..][..PLACE_SIZE];
    bytes[..4].copy_from_slice(&place.block.to_bits().to_le_bytes());
    bytes[4] = place.first as u8;
}

/// Makes another slot of a block its first.
#[inline]
pub(super) fn set_first<const ROW: usize>(row: &mut [u8; ROW], number: usize, first: usize) {
    row[PLACES_AT + number * PLACE_SIZE + 4] = first as u8;
}

/// Puts a place before the one with this number, of `count`.
pub(super) fn insert_place<const ROW: usize>(row: &mut [u8; ROW], number: usize, count: usize, place: Place) {
    let start = PLACES_AT + number * PLACE_SIZE;
    row.copy_within(start..PLACES_AT + count * PLACE_SIZE, start + PLACE_SIZE);
    set_place(row, number, place);
}

/// Takes the place with this number away, of `count`.
pub(super) fn remove_place<const ROW: usize>(row: &mut [u8; ROW], number: usize, count: usize) {
    let start = PLACES_AT + number * PLACE_SIZE;
    row.copy_within(start + PLACE_SIZE..PLACES_AT + count * PLACE_SIZE, start);
}

/// Where the counts of a group are, behind the number of entries before it.
#[inline]
const fn counts_at(group: usize) -> usize {
    GROUPS_AT + group * GROUP_SIZE + 2
}

#[inline]
fn counts(row: &[u8], group: usize) -> u64 {
    u64::from_le_bytes(*row[counts_at(group)..].first_chunk().expect("inside the row"))
}

/// The sum of sixteen counts.
#[inline]
const fn sum(counts: u64) -> usize {
    const EVEN: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    // Bytes of at most 30 each, added up in the highest one.
    ((counts & EVEN) + (counts >> 4 & EVEN)).wrapping_mul(0x0101_0101_0101_0101) as usize >> 56
}

/// The entries of a bucket.
#[inline]
pub(super) fn run<const ROW: usize>(row: &[u8; ROW], bucket: usize) -> Run {
    let (group, shift) = (bucket >> GROUP_BITS, bucket % (1 << GROUP_BITS) * 4);
    let counts = counts(row, group);
    let before = counts & ((1 << shift) - 1);
    let start = half(row, counts_at(group) - 2) + sum(before);
    Run { start, len: (counts >> shift & 0xf) as usize, bucket }
}

/// Notes one entry more in a bucket, which has fewer than [`BUCKET_LEN_MAX`].
pub(super) fn add<const ROW: usize>(row: &mut [u8; ROW], bucket: usize) {
    change(row, bucket, 1, 1);
}

/// Notes one entry fewer in a bucket.
pub(super) fn subtract<const ROW: usize>(row: &mut [u8; ROW], bucket: usize) {
    change(row, bucket, u64::MAX, u16::MAX);
}

#[inline]
fn change<const ROW: usize>(row: &mut [u8; ROW], bucket: usize, by: u64, by_half: u16) {
    let (group, shift) = (bucket >> GROUP_BITS, bucket % (1 << GROUP_BITS) * 4);
    let changed = counts(row, group).wrapping_add(by << shift);
    row[counts_at(group)..][..8].copy_from_slice(&changed.to_le_bytes());
    for at in (group + 1..GROUP_COUNT).map(|later| counts_at(later) - 2).chain([0]) {
        let before = u16::from_le_bytes(*row[at..].first_chunk().expect("inside the row"));
        row[at..at + 2].copy_from_slice(&before.wrapping_add(by_half).to_le_bytes());
    }
}

/// Makes the counts those of entries in these buckets, in order. Says no, and leaves the row as it is, when a bucket has
/// too many. Places stay.
#[must_use]
pub(super) fn set_buckets<const ROW: usize>(row: &mut [u8; ROW], buckets: &[u16]) -> bool {
    let mut lens = [0u8; BUCKET_COUNT];
    for bucket in buckets {
        lens[usize::from(*bucket)] += 1;
        if usize::from(lens[usize::from(*bucket)]) > BUCKET_LEN_MAX {
            return false;
        }
    }
    let mut before = 0;
    for (group, lens) in lens.chunks_exact(1 << GROUP_BITS).enumerate() {
        let counts = lens.iter().rev().fold(0, |counts, len| counts << 4 | u64::from(*len));
        set_half(row, counts_at(group) - 2, before);
        row[counts_at(group)..][..8].copy_from_slice(&counts.to_le_bytes());
        before += sum(counts);
    }
    set_half(row, 0, before);
    true
}

/// Appends the bucket of each entry, in order, to `buckets`.
pub(super) fn buckets<const ROW: usize>(row: &[u8; ROW], buckets: &mut Vec<u16>) {
    for group in 0..GROUP_COUNT {
        let mut counts = counts(row, group);
        let mut bucket = (group << GROUP_BITS) as u16;
        while counts != 0 {
            buckets.extend(std::iter::repeat_n(bucket, (counts & 0xf) as usize));
            counts >>= 4;
            bucket += 1;
        }
    }
}

/// The offsets in a row that a lookup of `bucket` is likely to need, if the segment has about `len_expected` entries
/// in blocks of `per_block`: the head, the counts, and the place of the block.
#[inline]
pub(super) fn likely_lines(bucket: usize, len_expected: usize, per_block: usize) -> [usize; 3] {
    let number = len_expected * bucket / BUCKET_COUNT / per_block;
    [0, counts_at(bucket >> GROUP_BITS) - 2, PLACES_AT + number * PLACE_SIZE]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_those_of_the_buckets(
            mut expected in proptest::collection::vec(0u16..512, 0..1500),
            changes in proptest::collection::vec((any::<bool>(), 0u16..512), 0..50),
        ) {
            expected.sort_unstable();
            let mut row = [0u8; 896];
            prop_assume!(set_buckets(&mut row, &expected));
            for (adds, bucket) in changes {
                let run = run(&row, usize::from(bucket));
                if adds && run.len < BUCKET_LEN_MAX {
                    add(&mut row, run.bucket);
                    expected.insert(run.start, bucket);
                } else if !adds && run.len > 0 {
                    subtract(&mut row, run.bucket);
                    expected.remove(run.start);
                }
            }
            prop_assert_eq!(len(&row), expected.len());
            let mut found = Vec::new();
            buckets(&row, &mut found);
            prop_assert_eq!(&found, &expected);
            for bucket in 0..512 {
                let start = expected.partition_point(|other| usize::from(*other) < bucket);
                let len = expected.iter().filter(|other| usize::from(**other) == bucket).count();
                prop_assert_eq!(run(&row, bucket), Run { start, len, bucket });
            }
        }
    }

    #[test]
    fn a_bucket_holds_fifteen_and_no_more() {
        for bucket in [0, 15, 16, 300, 511] {
            let mut row = [0u8; 896];
            for count in 0..BUCKET_LEN_MAX {
                assert_eq!(run(&row, bucket), Run { start: 0, len: count, bucket });
                add(&mut row, bucket);
            }
            assert_eq!(run(&row, 511).start, if bucket < 511 { BUCKET_LEN_MAX } else { 0 });
            assert!(!set_buckets(&mut row.clone(), &[bucket as u16; BUCKET_LEN_MAX + 1]));
            for _ in 0..BUCKET_LEN_MAX {
                subtract(&mut row, bucket);
            }
            assert_eq!(row, [0u8; 896], "nothing is left");
        }
    }
}
