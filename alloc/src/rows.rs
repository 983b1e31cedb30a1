//! A growing array of equal rows that never move: what grows at its end without a pause, unlike a `Vec`.
//!
//! **Invariant:** row `number` is block `number` of the slab below. Rows are added and removed at the end only, and a
//! slab hands out first the block that was given back last.

use crate::arena::Arena;
use crate::slab::{BlockId, Slab, SlabOptions};

/// Rows of `ROW_SIZE` bytes.
#[derive(Debug)]
pub struct Rows<const ROW_SIZE: usize> {
    slab: Slab<ROW_SIZE>,
}

impl<const ROW_SIZE: usize> Rows<ROW_SIZE> {
    /// No rows yet, in memory as `options` say.
    #[must_use]
    pub fn with(options: SlabOptions) -> Self {
        Self { slab: Slab::with(options) }
    }

    /// Number of rows.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.slab.taken_count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most rows that the budget pays for.
    #[must_use]
    pub fn len_max(&self) -> usize {
        self.slab.block_count_max()
    }

    /// Changes what the rows may grow to; says whether it could: see [`Slab::set_budget`].
    #[must_use]
    pub fn set_budget(&mut self, budget_size: usize) -> bool {
        self.slab.set_budget(budget_size)
    }

    /// Adds a row of zeros at the end; says whether there was memory for it.
    #[must_use]
    pub fn push(&mut self) -> bool {
        let (number, is_fresh) = (self.len(), self.slab.fresh_count() == self.len());
        let Some(id) = self.slab.take() else { return false };
        assert_eq!(id.get() as usize, number, "rows are blocks in order");
        if !is_fresh {
            self.slab.block_mut(id).fill(0);
        }
        true
    }

    /// Removes the last row; its memory stays for the next.
    ///
    /// # Panics
    /// When there is none.
    pub fn pop(&mut self) {
        let id = self.id(self.len().checked_sub(1).expect("a row to remove"));
        self.slab.give(id);
    }

    /// Removes all rows and returns their memory to the system.
    pub fn clear(&mut self) {
        self.slab.clear();
    }

    /// A row's bytes.
    ///
    /// # Panics
    /// When there is no such row, as far as the slab below can tell.
    #[must_use]
    #[inline]
    pub fn row(&self, number: usize) -> &[u8; ROW_SIZE] {
        self.slab.block(self.id(number))
    }

    /// A row's bytes, to be written.
    ///
    /// # Panics
    /// As [`Rows::row`].
    #[must_use]
    #[inline]
    pub fn row_mut(&mut self, number: usize) -> &mut [u8; ROW_SIZE] {
        self.slab.block_mut(self.id(number))
    }

    /// Has the cache line with byte `offset` of a row brought near. A row that is not there does no harm.
    #[inline]
    pub fn prefetch(&self, number: usize, offset: usize) {
        if let Some(id) = self.slab.id_of(number) {
            self.slab.prefetch(id, offset);
        }
    }

    /// As [`Slab::prepare_ahead`].
    pub fn prepare_ahead(&mut self) {
        self.slab.prepare_ahead();
    }

    /// As [`Slab::touched_size`].
    #[must_use]
    pub fn touched_size(&self) -> usize {
        self.slab.touched_size()
    }

    /// As [`Slab::arenas`].
    #[must_use]
    pub fn arenas(&self) -> &[Arena] {
        self.slab.arenas()
    }

    #[inline]
    fn id(&self, number: usize) -> BlockId {
        self.slab.id_of(number).expect("a row that is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::PageKind;

    #[test]
    fn rows_are_zeros_in_order_and_stay_where_they_are() {
        let mut rows = Rows::<64>::with(SlabOptions::new(64 * 6000, PageKind::Plain));
        let count = if cfg!(miri) { 50 } else { 6000 };
        assert_eq!((rows.is_empty(), rows.len_max()), (true, 6000));
        for number in 0..count {
            assert!(rows.push());
            assert_eq!(rows.row(number), &[0; 64]);
            rows.row_mut(number).fill(number as u8);
        }
        assert_eq!(rows.len(), count);
        rows.prefetch(3, 63);
        rows.prefetch(usize::MAX, 0);
        (0..count).for_each(|number| assert_eq!(rows.row(number)[63], number as u8));
        (0..20).for_each(|_| rows.pop());
        for number in count - 20..count {
            assert!(rows.push());
            assert_eq!(rows.row(number), &[0; 64], "of an earlier row nothing is left");
        }
        if !cfg!(miri) {
            assert!(!rows.push(), "the budget is spent");
        }
        assert_eq!(rows.touched_size(), count * 64);
        rows.clear();
        assert!(rows.is_empty() && rows.push());
    }
}
