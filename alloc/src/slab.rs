//! Fixed-size blocks in arenas: O(1) take and give, no fragmentation, a budget that holds.
//!
//! Blocks are numbered. The number of a block says its chunk of 4096 blocks and its place there by shift and mask.
//! Free blocks form a list through their own first four bytes; blocks never taken are not in the list and, unless
//! they were prepared, not resident.
//!
//! **Invariant:** all blocks with numbers below `mapped_count` are mapped, zeroed or with what an owner wrote.
//!
//! In debug builds an id also says which of the block's successive owners it was made for: using it after the block
//! was given back, or giving it back twice, panics. Release builds check only that the block is one of the slab's.

use std::ptr::NonNull;

use crate::ahead::Ahead;
use crate::arena::{Arena, ArenaError, ArenaOptions, Got, HUGE_PAGE_SIZE, PageKind};
use crate::budget::Budget;

/// Bits of an id that are the number of the block; the others, if any, are the generation.
const NUMBER_BITS: u32 = if cfg!(debug_assertions) { 24 } else { 32 };
const NUMBER_MASK: u32 = u32::MAX >> (u32::BITS - NUMBER_BITS);

/// The name of a block of one slab. Four bytes in all builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(u32);

impl BlockId {
    /// The number of the block, below [`Slab::block_count_max`].
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 & NUMBER_MASK
    }

    /// All of the id, to be kept where only bytes can be: [`BlockId::from_bits`] makes it an id again.
    #[must_use]
    #[inline]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The id that [`BlockId::to_bits`] was asked of. Other bits make an id of no block or of another's: a slab checks
    /// it as any other.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    #[inline]
    const fn number(self) -> usize {
        self.get() as usize
    }
}

const _: () = assert!(size_of::<BlockId>() == 4, "whoever keeps many ids counts on it");

/// Blocks per chunk: a power of two, so that a block is found without a division.
const BLOCKS_PER_CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 12;
/// Most chunks of an arena of huge pages.
const CHUNKS_PER_ARENA_MAX: usize = 16;
/// End of the free list, and the first number that no block has.
const NONE: u32 = NUMBER_MASK;

/// How a slab's memory is to be had.
#[derive(Clone, Debug)]
pub struct SlabOptions {
    /// Bytes of blocks that the slab may grow to.
    pub budget_size: usize,
    /// The pages to ask for.
    pub pages: PageKind,
    /// The first so many bytes have plain pages whatever `pages` says: as long as a slab is small, the rest of a huge
    /// page would be a good part of it.
    pub plain_size: usize,
    /// The NUMA node to take the memory from, where the caller cares; a node that cannot be had is no error.
    pub node: Option<u32>,
    /// Whether an arena is resident as soon as it is mapped. [`Slab::prepare`] is the finer way.
    pub prefault: bool,
    /// Where arenas are accounted as they are mapped: whole ones, some 4096 blocks each.
    pub budget: Option<Budget>,
}

impl SlabOptions {
    /// At most `budget_size` bytes of blocks, in such pages, on any node, resident where touched, in nobody's account.
    #[must_use]
    pub const fn new(budget_size: usize, pages: PageKind) -> Self {
        Self { budget_size, pages, plain_size: 0, node: None, prefault: false, budget: None }
    }
}

/// Bytes that [`Slab::prepare_ahead`] asks for at once, of plain pages.
const AHEAD_SIZE: usize = 128 * 1024;

/// Blocks of `BLOCK_SIZE` bytes, at most as many as the budget pays for.
#[derive(Debug)]
pub struct Slab<const BLOCK_SIZE: usize> {
    /// The first byte of each chunk: what a lookup reads, eight bytes for 4096 blocks.
    chunks: Vec<NonNull<u8>>,
    /// Blocks handed out at least once; the ones above were never touched.
    fresh_count: usize,
    free_head: u32,
    taken_count: usize,
    mapped_count: usize,
    /// Blocks that are resident whether they were handed out or not.
    prepared_count: usize,
    block_count_max: usize,
    arenas: Vec<Arena>,
    options: SlabOptions,
    owners: Owners,
    ahead: Ahead,
    /// Bytes of the piece that was made resident ahead last.
    ahead_size: usize,
}

impl<const BLOCK_SIZE: usize> Slab<BLOCK_SIZE> {
    /// An empty slab that may grow to `budget_size` bytes of blocks.
    #[must_use]
    pub fn new(budget_size: usize, pages: PageKind) -> Self {
        Self::with(SlabOptions::new(budget_size, pages))
    }

    /// An empty slab as `options` say. It can have 4294967295 blocks at most, in debug builds 16777215, as ids have
    /// other uses for eight of their bits there.
    #[must_use]
    pub fn with(options: SlabOptions) -> Self {
        const { assert!(BLOCK_SIZE >= 4, "a free block holds the number of the next") };
        Self {
            chunks: Vec::new(),
            fresh_count: 0,
            free_head: NONE,
            taken_count: 0,
            mapped_count: 0,
            prepared_count: 0,
            block_count_max: (options.budget_size / BLOCK_SIZE).min(NONE as usize),
            arenas: Vec::new(),
            options,
            owners: Owners::default(),
            ahead: Ahead::default(),
            ahead_size: AHEAD_SIZE,
        }
    }

    /// Takes a block, zeroed or with what its last owner left; `None` when the budget is spent or the system has no
    /// memory. Maps an arena when all blocks there are have been taken once.
    #[must_use]
    pub fn take(&mut self) -> Option<BlockId> {
        if self.free_head != NONE {
            let number = self.free_head;
            let next = self.bytes(number as usize).first_chunk().expect("a block has at least four bytes");
            self.free_head = u32::from_le_bytes(*next);
            self.taken_count += 1;
            return Some(self.owners.id(number));
        }
        if self.fresh_count == self.mapped_count {
            self.map_more().ok()?;
        }
        if self.fresh_count == self.block_count_max {
            return None;
        }
        let number = u32::try_from(self.fresh_count).expect("bounded by block_count_max");
        self.fresh_count += 1;
        self.taken_count += 1;
        Some(self.owners.id(number))
    }

    /// Gives a block back. The caller must not use `id` again.
    ///
    /// # Panics
    /// When the slab has no such block; in debug builds also when it was given back before.
    pub fn give(&mut self, id: BlockId) {
        self.owners.check(id);
        let next = self.free_head.to_le_bytes();
        *self.bytes_mut(id.number()).first_chunk_mut().expect("a block has at least four bytes") = next;
        self.owners.leave(id);
        self.free_head = id.get();
        self.taken_count -= 1;
    }

    /// Makes sure that the next `count` blocks can be taken without mapping anything and that new ones among them are
    /// resident, so that neither the take nor the first write faults. Returns how many can: fewer than `count` when
    /// the slab's own budget ends before. Blocks that were given back are as resident as their owners left them, and what
    /// [`Slab::prepare_ahead`] has asked for counts as resident.
    ///
    /// # Errors
    /// As [`Arena::with`]. What was prepared before stays so.
    pub fn prepare(&mut self, count: usize) -> Result<usize, ArenaError> {
        let free_count = self.fresh_count - self.taken_count;
        let wanted = self.fresh_count.saturating_add(count.saturating_sub(free_count));
        while self.mapped_count < wanted.min(self.block_count_max) {
            self.map_more()?;
        }
        let wanted = wanted.min(self.block_count_max);
        while self.prepared_count.max(self.fresh_count) < wanted {
            let first = self.prepared_count.max(self.fresh_count);
            let (arena, first_of_arena, end_of_arena) = self.arena_of(first);
            let end = wanted.min(end_of_arena);
            let offset = (first - first_of_arena) * BLOCK_SIZE;
            self.arenas[arena].prefault(offset, (end - first) * BLOCK_SIZE)?;
            self.prepared_count = end;
        }
        Ok(count.min(free_count + wanted - self.fresh_count))
    }

    /// Has the memory of the next new blocks made resident by another thread, a piece at a time: 128 KiB of plain pages,
    /// or a huge page. Returns at once, and is meant to be called often, with every few takes: between a quarter of a
    /// piece and one and a quarter are ahead then, and neither a take nor the first write faults. Nothing happens where
    /// the budget or the system has no more.
    pub fn prepare_ahead(&mut self) {
        let first = self.prepared_count.max(self.fresh_count);
        let is_enough = (first - self.fresh_count) * BLOCK_SIZE >= self.ahead_size / 4;
        if is_enough || first >= self.block_count_max || self.ahead.is_busy() {
            return;
        }
        if first == self.mapped_count && self.map_more().is_err() {
            return;
        }
        let (number, first_of_arena, end_of_arena) = self.arena_of(first);
        let arena = &self.arenas[number];
        let offset = (first - first_of_arena) * BLOCK_SIZE;
        let size_max = (end_of_arena.min(self.block_count_max) - first_of_arena) * BLOCK_SIZE;
        self.ahead_size = if arena.got() == Got::Plain { AHEAD_SIZE } else { HUGE_PAGE_SIZE };
        let end = (offset + BLOCK_SIZE).next_multiple_of(self.ahead_size).min(size_max);
        self.ahead.ask(&arena.mapping(), offset, end - offset);
        // The blocks that are whole in what was asked for.
        self.prepared_count = first_of_arena + end / BLOCK_SIZE;
    }

    /// Forgets all blocks and returns their memory to the system.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.arenas.clear();
        self.owners.leave_all();
        self.ahead.forget();
        self.free_head = NONE;
        (self.fresh_count, self.taken_count, self.mapped_count, self.prepared_count) = (0, 0, 0, 0);
    }

    /// The block's bytes.
    ///
    /// # Panics
    /// When the slab has no such block; in debug builds also when it was given back.
    #[must_use]
    #[inline]
    pub fn block(&self, id: BlockId) -> &[u8; BLOCK_SIZE] {
        self.owners.check(id);
        self.bytes(id.number())
    }

    /// The block's bytes, to be written.
    ///
    /// # Panics
    /// As [`Slab::block`].
    #[must_use]
    #[inline]
    pub fn block_mut(&mut self, id: BlockId) -> &mut [u8; BLOCK_SIZE] {
        self.owners.check(id);
        self.bytes_mut(id.number())
    }

    /// Has the cache line with byte `offset` of a block brought near; what `offset` is beyond the block does no harm.
    ///
    /// # Panics
    /// As [`Slab::block`].
    #[inline]
    pub fn prefetch(&self, id: BlockId, offset: usize) {
        self.owners.check(id);
        let line = self.start(id.number()).as_ptr().wrapping_add(offset);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: 1. A prefetch reads nothing that the program sees and never faults, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        // SAFETY: 1. As above. 2. The instruction changes neither registers, flags, stack nor memory.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) line, options(nostack, readonly, preserves_flags));
        }
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        let _ = line;
    }

    /// The present id of the block with this number, for owners that count their blocks themselves; `None` when there
    /// never was one.
    #[must_use]
    #[inline]
    pub(crate) fn id_of(&self, number: usize) -> Option<BlockId> {
        (number < self.fresh_count).then(|| self.owners.id(number as u32))
    }

    /// Blocks that were handed out at least once.
    #[must_use]
    #[inline]
    pub(crate) fn fresh_count(&self) -> usize {
        self.fresh_count
    }

    /// Blocks in use.
    #[must_use]
    pub fn taken_count(&self) -> usize {
        self.taken_count
    }

    /// Bytes of blocks that were ever touched or prepared and are still mapped: what the slab costs in resident
    /// memory, exact to a page.
    #[must_use]
    pub fn touched_size(&self) -> usize {
        self.fresh_count.max(self.prepared_count) * BLOCK_SIZE
    }

    /// Most blocks that the budget pays for.
    #[must_use]
    pub fn block_count_max(&self) -> usize {
        self.block_count_max
    }

    /// Changes what the slab may grow to, and says whether it could: what was touched stays, and a slab whose last arena
    /// was cut where the budget ended cannot grow.
    #[must_use]
    pub fn set_budget(&mut self, budget_size: usize) -> bool {
        let count = (budget_size / BLOCK_SIZE).min(NONE as usize);
        let is_cut = !self.mapped_count.is_multiple_of(self.blocks_per_arena());
        if count < self.fresh_count.max(self.prepared_count) || (is_cut && count > self.mapped_count) {
            return false;
        }
        self.block_count_max = count;
        true
    }

    /// The slab's arenas, in the order of their mapping: to ask what pages and node they got.
    #[must_use]
    pub fn arenas(&self) -> &[Arena] {
        &self.arenas
    }

    #[inline]
    fn bytes(&self, number: usize) -> &[u8; BLOCK_SIZE] {
        let start = self.start(number);
        // SAFETY: 1. `start` gives a block inside an arena of `self`, readable, initialised by the kernel, live as
        //         long as `self` is borrowed: `clear` takes `&mut self`. 2. An array of bytes needs no alignment.
        //         3. Slices of it that can be written come from `&mut self` only.
        unsafe { start.cast().as_ref() }
    }

    #[inline]
    fn bytes_mut(&mut self, number: usize) -> &mut [u8; BLOCK_SIZE] {
        let start = self.start(number);
        // SAFETY: 1.-2. as in `bytes`, and writable. 3. `&mut self` rules out any other slice of any block.
        unsafe { start.cast().as_mut() }
    }

    /// The first byte of a block that was handed out at least once.
    #[inline]
    fn start(&self, number: usize) -> NonNull<u8> {
        assert!(number < self.fresh_count, "block {number} of a slab of {}", self.fresh_count);
        // SAFETY: 1. `fresh_count` is at most `mapped_count`, and every mapped block has its chunk in the list. The
        //         check above is the one check of a lookup.
        let chunk = *unsafe { self.chunks.get_unchecked(number >> CHUNK_BITS) };
        // SAFETY: 1. A chunk is mapped up to its last block, or to `mapped_count` blocks, which `number` is below.
        unsafe { chunk.add((number & (BLOCKS_PER_CHUNK - 1)) * BLOCK_SIZE) }
    }

    /// Blocks of a full arena: a chunk, or as many as fill whole huge pages.
    const fn blocks_per_arena(&self) -> usize {
        let mut chunk_count = 1;
        if matches!(self.options.pages, PageKind::Huge) {
            while chunk_count < CHUNKS_PER_ARENA_MAX
                && !(chunk_count * BLOCKS_PER_CHUNK * BLOCK_SIZE).is_multiple_of(HUGE_PAGE_SIZE)
            {
                chunk_count *= 2;
            }
        }
        chunk_count * BLOCKS_PER_CHUNK
    }

    /// Maps the next arena; nothing when all blocks are mapped. All arenas are full ones, unless what is mapped is counted
    /// or made resident at once: then the one with the last of `block_count_max` ends with it.
    fn map_more(&mut self) -> Result<(), ArenaError> {
        let left = self.block_count_max.saturating_sub(self.mapped_count);
        if left == 0 {
            return Ok(());
        }
        let SlabOptions { pages, plain_size, node, prefault, budget, .. } = self.options.clone();
        let is_cut = prefault || budget.is_some();
        let count = if is_cut { self.blocks_per_arena().min(left) } else { self.blocks_per_arena() };
        let pages = if self.mapped_count * BLOCK_SIZE < plain_size { PageKind::Plain } else { pages };
        let arena = Arena::with(ArenaOptions { size: count * BLOCK_SIZE, pages, node, prefault, budget });
        if let Err(ArenaError::Map(_)) = arena {
            // The system has less than the budget: what there is, is the budget from now on.
            self.block_count_max = self.mapped_count;
        }
        let arena = arena?;
        for first in (0..count).step_by(BLOCKS_PER_CHUNK) {
            // SAFETY: 1. `first` is below `count`, and the arena has `count` blocks.
            self.chunks.push(unsafe { arena.start().add(first * BLOCK_SIZE) });
        }
        self.arenas.push(arena);
        self.mapped_count += count;
        self.owners.grow(self.mapped_count);
        if prefault {
            self.prepared_count = self.mapped_count;
        }
        Ok(())
    }

    /// The index of the arena with block `number`, the number of its first block, and of the first behind it.
    fn arena_of(&self, number: usize) -> (usize, usize, usize) {
        let count = self.blocks_per_arena();
        let first = number / count * count;
        (number / count, first, (first + count).min(self.mapped_count))
    }
}

/// Which owner each block has, the first, the second...: modulo 256, so that one stale id in 256 may pass.
#[cfg(debug_assertions)]
#[derive(Debug, Default)]
struct Owners {
    generations: Vec<u8>,
}

#[cfg(debug_assertions)]
impl Owners {
    /// Makes room for blocks up to `count`.
    fn grow(&mut self, count: usize) {
        // After `clear` there may be more already; they must not start over, or old ids would be good again.
        self.generations.resize(count.max(self.generations.len()), 0);
    }

    fn id(&self, number: u32) -> BlockId {
        BlockId(u32::from(self.generations[number as usize]) << NUMBER_BITS | number)
    }

    fn check(&self, id: BlockId) {
        let generation = self.generations.get(id.number());
        assert!(
            generation.is_some_and(|generation| u32::from(*generation) == id.0 >> NUMBER_BITS),
            "block {} is used after it was given back, or is of another slab",
            id.get()
        );
    }

    fn leave(&mut self, id: BlockId) {
        let generation = &mut self.generations[id.number()];
        *generation = generation.wrapping_add(1);
    }

    fn leave_all(&mut self) {
        for generation in &mut self.generations {
            *generation = generation.wrapping_add(1);
        }
    }
}

/// Nothing, at no cost.
#[cfg(not(debug_assertions))]
#[derive(Debug, Default)]
struct Owners {}

#[cfg(not(debug_assertions))]
impl Owners {
    fn grow(&mut self, _: usize) {}

    #[inline]
    fn id(&self, number: u32) -> BlockId {
        BlockId(number)
    }

    #[inline]
    fn check(&self, _: BlockId) {}

    #[inline]
    fn leave(&mut self, _: BlockId) {}

    fn leave_all(&mut self) {}
}

#[cfg(test)]
mod tests;
