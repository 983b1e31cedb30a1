//! Filling an empty index at once from entries in its own order.

use super::entry::{Entry, Hash, pack};
use super::row::{BUCKET_BITS, BUCKET_LEN_MAX};
use super::{Full, LEVEL_MIN, Segment, SlabIndex};
use crate::digest::Digest;

/// Why an index could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The memory budget does not pay for all entries.
    #[error(transparent)]
    Full(#[from] Full),
    /// An entry does not come after the one before it.
    #[error("the entries are not in order")]
    Unsorted,
}

/// The segment that is being filled.
#[derive(Debug, Default)]
struct Filling {
    entries: Vec<u8>,
    buckets: Vec<u16>,
}

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> SlabIndex<WIDTH, BLOCK, ROW> {
    /// Fills this index, which is empty, with entries that come in the order of [`Self::order`], each digest once. With
    /// `len_expected` entries, or about as many, each segment is written once; many more take longer.
    ///
    /// # Errors
    /// [`BuildError`]; the index is empty then.
    ///
    /// # Panics
    /// When the index is not empty, and as [`Self::upsert`].
    pub fn build(
        &mut self,
        len_expected: usize,
        sorted: impl IntoIterator<Item = (Digest, Entry)>,
    ) -> Result<(), BuildError> {
        assert!(self.is_empty(), "only an empty index is built");
        let result = self.try_build(len_expected, sorted.into_iter());
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn try_build(
        &mut self,
        len_expected: usize,
        sorted: impl Iterator<Item = (Digest, Entry)>,
    ) -> Result<(), BuildError> {
        self.make_segments(len_expected.div_ceil(Self::LEN_MEAN));
        let mut filling = Filling::default();
        let mut segment = self.segment_of(0);
        let mut last: Option<Hash> = None;
        let mut is_too_dense = false;
        for (digest, entry) in sorted {
            let hash = Hash::of(&digest);
            if last.is_some_and(|last| Self::overflow_key(&last) >= Self::overflow_key(&hash)) {
                return Err(BuildError::Unsorted);
            }
            last = Some(hash);
            let prefix = hash.prefix();
            if !is_too_dense && prefix >> (64 - segment.depth) != segment.prefix() >> (64 - segment.depth) {
                self.fill(segment, &mut filling)?;
                segment = self.segment_of(prefix);
            }
            if !is_too_dense && filling.buckets.len() == Self::LEN_MAX {
                // More come than were expected. How many it will be, those so far tell; the rest finds segments that
                // are short enough, and some of them begun.
                self.fill(segment, &mut filling)?;
                let part = prefix as f64 / u64::MAX as f64;
                self.grow_for((self.entry_count as f64 / part) as usize);
                is_too_dense = true;
            }
            if is_too_dense {
                self.upsert(&digest, entry)?;
                continue;
            }
            let packed: [u8; WIDTH] = pack(&hash, entry, self.addressing);
            let bucket = segment.bucket(prefix) as u16;
            if filling.buckets.iter().rev().nth(BUCKET_LEN_MAX - 1) == Some(&bucket) {
                self.insert_overflowing(segment, &hash, &packed)?;
                self.entry_count += 1;
            } else {
                filling.entries.extend_from_slice(&packed);
                filling.buckets.push(bucket);
            }
        }
        if !is_too_dense {
            self.fill(segment, &mut filling)?;
        }
        self.grow_for(self.entry_count);
        Ok(())
    }

    /// Makes about so many empty segments, as far as there is memory for them.
    fn make_segments(&mut self, count: usize) {
        while self.rows.len() < count && self.level < super::LEVEL_MAX && self.rows.push() {}
        let count = self.rows.len();
        self.level = count.ilog2().max(LEVEL_MIN);
        self.split_count = count - (1 << self.level);
    }

    /// Gives a segment what was gathered for it.
    fn fill(&mut self, segment: Segment, filling: &mut Filling) -> Result<(), Full> {
        self.blocks.prepare_ahead();
        self.rope(segment).replace(&filling.entries)?;
        self.set_buckets(segment, &filling.buckets);
        self.entry_count += filling.buckets.len();
        filling.entries.clear();
        filling.buckets.clear();
        Ok(())
    }
}

const _: () = assert!(BUCKET_BITS < 16, "buckets are kept in 16 bits");
