//! Fixed-size blocks in arenas: O(1) take and give, no fragmentation, a budget that holds.
//!
//! Blocks are numbered. The number of a block says its arena and its place there by shift and mask. Free blocks form
//! a list through their own first four bytes; blocks never taken are not in the list and not resident.

use crate::arena::{Arena, PageKind};

/// The number of a block of one slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(u32);

impl BlockId {
    /// The bare number, for packing.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Blocks per arena: a power of two, so that a block is found without a division.
const BLOCKS_PER_ARENA: usize = 1 << ARENA_BITS;
const ARENA_BITS: u32 = 12;
/// End of the free list.
const NONE: u32 = u32::MAX;

/// Blocks of `BLOCK_SIZE` bytes, at most as many as the budget pays for.
#[derive(Debug)]
pub struct Slab<const BLOCK_SIZE: usize> {
    arenas: Vec<Arena>,
    block_count_max: usize,
    /// Blocks handed out at least once; the ones above were never touched.
    fresh_count: usize,
    free_head: u32,
    taken_count: usize,
    pages: PageKind,
}

impl<const BLOCK_SIZE: usize> Slab<BLOCK_SIZE> {
    /// An empty slab that may grow to `budget_size` bytes of blocks.
    #[must_use]
    pub fn new(budget_size: usize, pages: PageKind) -> Self {
        const { assert!(BLOCK_SIZE >= 4, "a free block holds the number of the next") };
        let block_count_max = (budget_size / BLOCK_SIZE).min(NONE as usize);
        Self { arenas: Vec::new(), block_count_max, fresh_count: 0, free_head: NONE, taken_count: 0, pages }
    }

    /// Takes a block, zeroed or with what its last owner left; `None` when the budget is spent or the system has no
    /// memory.
    #[must_use]
    pub fn take(&mut self) -> Option<BlockId> {
        if self.free_head != NONE {
            let id = BlockId(self.free_head);
            let next = self.block(id).first_chunk::<4>().copied().expect("a block has at least four bytes");
            self.free_head = u32::from_le_bytes(next);
            self.taken_count += 1;
            return Some(id);
        }
        if self.fresh_count == self.block_count_max {
            return None;
        }
        if self.fresh_count == self.arenas.len() * BLOCKS_PER_ARENA {
            let Ok(arena) = Arena::map(BLOCKS_PER_ARENA * BLOCK_SIZE, self.pages) else {
                // The system has less than the budget: what there is, is the budget from now on.
                self.block_count_max = self.fresh_count;
                return None;
            };
            self.arenas.push(arena);
        }
        let id = BlockId(u32::try_from(self.fresh_count).expect("bounded by block_count_max"));
        self.fresh_count += 1;
        self.taken_count += 1;
        Some(id)
    }

    /// Gives a block back. The caller must not use `id` again.
    pub fn give(&mut self, id: BlockId) {
        debug_assert!((id.0 as usize) < self.fresh_count, "a block of this slab");
        let next = self.free_head.to_le_bytes();
        self.block_mut(id)[..4].copy_from_slice(&next);
        self.free_head = id.0;
        self.taken_count -= 1;
    }

    /// Forgets all blocks and returns their memory to the system.
    pub fn clear(&mut self) {
        self.arenas.clear();
        self.fresh_count = 0;
        self.free_head = NONE;
        self.taken_count = 0;
    }

    /// The block's bytes.
    #[must_use]
    #[inline]
    pub fn block(&self, id: BlockId) -> &[u8; BLOCK_SIZE] {
        let start = (id.0 as usize & (BLOCKS_PER_ARENA - 1)) * BLOCK_SIZE;
        let bytes = &self.arenas[(id.0 >> ARENA_BITS) as usize].bytes()[start..start + BLOCK_SIZE];
        bytes.first_chunk().expect("cut to the length of a block")
    }

    /// The block's bytes, to be written.
    #[must_use]
    #[inline]
    pub fn block_mut(&mut self, id: BlockId) -> &mut [u8; BLOCK_SIZE] {
        let start = (id.0 as usize & (BLOCKS_PER_ARENA - 1)) * BLOCK_SIZE;
        let bytes = &mut self.arenas[(id.0 >> ARENA_BITS) as usize].bytes_mut()[start..start + BLOCK_SIZE];
        bytes.first_chunk_mut().expect("cut to the length of a block")
    }

    /// Blocks in use.
    #[must_use]
    pub fn taken_count(&self) -> usize {
        self.taken_count
    }

    /// Bytes of blocks that were ever touched and are still mapped: what the slab costs in resident memory.
    #[must_use]
    pub fn touched_size(&self) -> usize {
        self.fresh_count * BLOCK_SIZE
    }

    /// Most blocks that the budget pays for.
    #[must_use]
    pub fn block_count_max(&self) -> usize {
        self.block_count_max
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_budget_holds_and_given_blocks_come_again() {
        let mut slab = Slab::<64>::new(64 * 3 + 63, PageKind::Plain);
        let blocks: Vec<_> = std::iter::from_fn(|| slab.take()).collect();
        assert_eq!(blocks.len(), 3);
        slab.give(blocks[1]);
        assert_eq!(slab.take(), Some(blocks[1]));
        assert_eq!(slab.take(), None);
        assert_eq!(slab.touched_size(), 192);
        slab.clear();
        assert_eq!((slab.taken_count(), slab.touched_size()), (0, 0));
        assert!(slab.take().is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 64 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Random takes and gives against a reference: no block is handed out twice, and each keeps what its owner
        /// wrote.
        #[test]
        fn behaves_like_a_map_of_owned_blocks(operations in proptest::collection::vec((any::<bool>(), any::<u16>()), 1..600)) {
            let mut slab = Slab::<448>::new(448 * 5000, PageKind::Plain);
            let mut owned: HashMap<BlockId, u8> = HashMap::new();
            for (take, choice) in operations {
                if take {
                    for _ in 0..=choice % 40 {
                        let Some(id) = slab.take() else { break };
                        let stamp = (id.get() as u8).wrapping_add(choice as u8);
                        slab.block_mut(id).fill(stamp);
                        prop_assert!(owned.insert(id, stamp).is_none(), "block {id:?} handed out twice");
                    }
                } else if let Some(id) = owned.keys().nth(choice as usize % owned.len().max(1)).copied() {
                    let stamp = owned.remove(&id).expect("just found");
                    prop_assert!(slab.block(id).iter().all(|byte| *byte == stamp));
                    slab.give(id);
                }
                prop_assert_eq!(slab.taken_count(), owned.len());
            }
            for (id, stamp) in owned {
                prop_assert!(slab.block(id).iter().all(|byte| *byte == stamp));
            }
        }
    }
}
