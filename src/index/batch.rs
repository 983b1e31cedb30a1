//! Lookups of many keys at once: all memory that they will need is asked for before any of it is waited for.

use super::entry::{Entry, Hash, unpack};
use super::row::{self, Run};
use super::{Segment, SlabIndex};
use crate::digest::Digest;

/// Lookups that are under way at once: as many lines as a core of today can wait for, and some.
const BATCH_COUNT: usize = 16;

impl<const WIDTH: usize, const BLOCK: usize, const ROW: usize> SlabIndex<WIDTH, BLOCK, ROW> {
    /// The entries of `digests`, in their order, expired or not.
    ///
    /// # Panics
    /// When `entries` has not as many places.
    pub fn get_batch(&self, digests: &[Digest], entries: &mut [Option<Entry>]) {
        assert_eq!(digests.len(), entries.len(), "a place for each digest");
        for (digests, entries) in digests.chunks(BATCH_COUNT).zip(entries.chunks_mut(BATCH_COUNT)) {
            digests.iter().for_each(|digest| self.prefetch_row(digest));
            let mut sought = [const { None }; BATCH_COUNT];
            for (digest, sought) in digests.iter().zip(&mut sought) {
                *sought = Some(self.prefetch_run(&Hash::of(digest)));
            }
            for ((digest, entry), sought) in digests.iter().zip(entries).zip(sought) {
                let (segment, run) = sought.expect("one for each digest");
                let packed = self.lookup_in(segment, run, &Hash::of(digest));
                *entry = packed.map(|packed| unpack(&packed, self.addressing));
            }
        }
    }

    /// Asks for the memory that lookups and changes of these digests will need, so that they need not wait for it one after
    /// the other. Meant for some sixteen: of many, the first may be gone from the cache again when they are used.
    pub fn prefetch<'d>(&self, digests: impl Iterator<Item = &'d Digest> + Clone) {
        digests.clone().for_each(|digest| self.prefetch_row(digest));
        for digest in digests {
            self.prefetch_run(&Hash::of(digest));
        }
    }

    #[inline]
    fn prefetch_row(&self, digest: &Digest) {
        let prefix = Hash::of(digest).prefix();
        self.prefetch_lines(self.segment_of(prefix), prefix);
    }

    /// Asks for the parts of a row that a lookup is likely to need, so that they come at the same time.
    #[inline]
    pub(super) fn prefetch_lines(&self, segment: Segment, prefix: u64) {
        // Segments that are not split yet are twice as long as the others.
        let segment_count = 1usize << segment.depth;
        let len_expected = self.entry_count / segment_count;
        for offset in row::likely_lines(segment.bucket(prefix), len_expected, Self::PER_BLOCK) {
            self.rows.prefetch(segment.row, offset.min(ROW - 1));
        }
    }

    #[inline]
    fn prefetch_run(&self, hash: &Hash) -> (Segment, Run) {
        let segment = self.segment_of(hash.prefix());
        let view = self.view(segment);
        let run = row::run(view.row, segment.bucket(hash.prefix()));
        if run.len > 0 {
            let (block, at) = view.locate(run.start);
            self.blocks.prefetch(block, at);
            self.blocks.prefetch(block, at + (run.len.min(3) * WIDTH) - 1);
        }
        (segment, run)
    }
}
