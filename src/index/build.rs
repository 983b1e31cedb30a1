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

/// An index that is being filled, by [`SlabIndex::begin_build`].
#[derive(Debug)]
pub struct Build {
    segment: Segment,
    last: Option<Hash>,
    filling: Filling,
    /// More have come than were expected.
    is_too_dense: bool,
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
        let mut build = self.begin_build(len_expected);
        let result = sorted
            .into_iter()
            .try_for_each(|(digest, entry)| self.build_on(&mut build, &digest, entry))
            .and_then(|()| self.finish_build(build).map_err(BuildError::from));
        if result.is_err() {
            self.clear();
        }
        result
    }

    /// Begins what [`Self::build`] does at once. Until [`Self::finish_build`], nothing else may be done with the index but
    /// [`Self::clear`], which ends it too.
    ///
    /// # Panics
    /// When the index is not empty.
    #[must_use]
    pub fn begin_build(&mut self, len_expected: usize) -> Build {
        assert!(self.is_empty(), "only an empty index is built");
        self.make_segments(len_expected.div_ceil(Self::LEN_MEAN));
        Build { segment: self.segment_of(0), last: None, filling: Filling::default(), is_too_dense: false }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// [`BuildError`]; the index is of no use then until it is cleared.
    ///
    /// # Panics
    /// As [`Self::upsert`].
    pub fn build_on(&mut self, build: &mut Build, digest: &Digest, entry: Entry) -> Result<(), BuildError> {
        let hash = Hash::of(digest);
        if build.last.is_some_and(|last| Self::overflow_key(&last) >= Self::overflow_key(&hash)) {
            return Err(BuildError::Unsorted);
        }
        build.last = Some(hash);
        if build.is_too_dense {
            self.upsert(digest, entry)?;
            return Ok(());
        }
        let prefix = hash.prefix();
        if prefix >> (64 - build.segment.depth) != build.segment.prefix() >> (64 - build.segment.depth) {
            self.fill(build.segment, &mut build.filling)?;
            build.segment = self.segment_of(prefix);
        }
        if build.filling.buckets.len() == Self::LEN_MAX {
            // More come than were expected. How many it will be, those so far tell; the rest finds segments that are short
            // enough, and some of them begun.
            self.fill(build.segment, &mut build.filling)?;
            let part = prefix as f64 / u64::MAX as f64;
            self.grow_for((self.entry_count as f64 / part) as usize);
            build.is_too_dense = true;
            self.upsert(digest, entry)?;
            return Ok(());
        }
        let packed: [u8; WIDTH] = pack(&hash, entry, self.addressing);
        let bucket = build.segment.bucket(prefix) as u16;
        if build.filling.buckets.iter().rev().nth(BUCKET_LEN_MAX - 1) == Some(&bucket) {
            self.insert_overflowing(build.segment, &hash, &packed)?;
            self.entry_count += 1;
        } else {
            build.filling.entries.extend_from_slice(&packed);
            build.filling.buckets.push(bucket);
        }
        Ok(())
    }

    /// The last entry was added.
    ///
    /// # Errors
    /// [`Full`]; the index is of no use then until it is cleared.
    pub fn finish_build(&mut self, mut build: Build) -> Result<(), Full> {
        if !build.is_too_dense {
            self.fill(build.segment, &mut build.filling)?;
        }
        // Fewer may have come than were expected.
        while self.shrink_if_due() {}
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
