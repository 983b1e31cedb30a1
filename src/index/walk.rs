//! A walk through all entries that others may change in between.

use super::SlabIndex;
use super::entry::{Entry, Hash, cool, unpack};
use super::row;
use crate::digest::Digest;

/// How far a walk is: a place in the order of hashes, which no split or merge moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    next_prefix: u64,
}

impl Cursor {
    /// Before all entries.
    pub const START: Self = Self { next_prefix: 0 };

    /// Before the first hash that begins with these 64 bits.
    #[must_use]
    pub const fn at(prefix: u64) -> Self {
        Self { next_prefix: prefix }
    }

    /// The first 64 bits that a hash behind the cursor can have.
    #[must_use]
    pub const fn prefix(self) -> u64 {
        self.next_prefix
    }

    /// The part of the index that lies before the cursor, 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        self.next_prefix as f64 / u64::MAX as f64
    }
}

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> SlabIndex<WIDTH, BLOCK, ROW> {
    /// Visits the entries from `cursor` on to the end of a segment, some hundreds to two thousand, in the order of
    /// [`Self::order`], and returns where to go on; `None` at the end of the index.
    ///
    /// The index may change between two steps. An entry that is there all the time is visited exactly once, one that comes
    /// or goes at most once. Digests are whole in the full layout; in the dense one the bytes that it does not hold are 0.
    pub fn walk(&self, cursor: Cursor, mut visit: impl FnMut(Digest, Entry)) -> Option<Cursor> {
        let segment = self.segment_of(cursor.next_prefix);
        let row = self.rows.row(segment.row);
        let mut overflowed = self.overflowed(segment).peekable();
        let mut visit = |hash: &Hash, packed: &[u8; WIDTH]| {
            // A segment that was merged since the last step has entries that were visited.
            if hash.prefix() >= cursor.next_prefix {
                visit(hash.digest(), unpack(packed, self.addressing));
            }
        };
        let mut buckets = Vec::with_capacity(row::len(row));
        row::buckets(row, &mut buckets);
        for (position, bucket) in buckets.into_iter().enumerate() {
            let packed = self.packed(segment, position);
            let hash = Hash::restored(segment.prefix_of(usize::from(bucket)), packed);
            while let Some((before, packed)) = overflowed.next_if(|(other, _)| **other < hash) {
                visit(before, packed);
            }
            visit(&hash, packed);
        }
        overflowed.for_each(|(hash, packed)| visit(hash, packed));
        let next_prefix = (segment.prefix() | u64::MAX >> segment.depth).checked_add(1)?;
        Some(Cursor { next_prefix })
    }

    /// Lowers the hotness of all entries from `cursor` on to the end of a segment that is 2 or 3 by one, but of those that
    /// are cached, and returns how many it has looked at and where to go on; `None` at the end of the index. The few
    /// entries that have overflowed stay as they are. In the dense layout there is nothing to lower.
    pub fn cool(&mut self, cursor: Cursor) -> (usize, Option<Cursor>) {
        let segment = self.segment_of(cursor.next_prefix);
        let len = row::len(self.rows.row(segment.row));
        self.rope(segment).visit_mut(cool);
        let next_prefix = (segment.prefix() | u64::MAX >> segment.depth).checked_add(1);
        (len, next_prefix.map(Cursor::at))
    }

    /// The first 64 bits that entries are ordered by, as a number.
    #[must_use]
    #[inline]
    pub fn prefix(digest: &Digest) -> u64 {
        Hash::of(digest).prefix()
    }

    /// The bytes that entries are ordered by: those of the digest, but those that choose the shard come last.
    #[must_use]
    pub fn order(digest: &Digest) -> [u8; 20] {
        let mut bytes = digest.0;
        bytes.rotate_left(2);
        bytes
    }
}
