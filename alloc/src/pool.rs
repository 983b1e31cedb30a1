//! I/O buffers in size classes, all in one arena, so that one registration with a ring covers them.
//!
//! A pool is built once. After that, taking a buffer, sharing it and giving it back move numbers in tables that
//! exist: no heap allocation, no system call, no walk longer than the list of classes.
//!
//! **Invariant:** a buffer has one [`Lease`], or any number of [`SharedLease`](crate::SharedLease)s, or is free.
//!
//! The free lists are beside the buffers and not in them: a buffer that nobody uses is not touched.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::arena::{Arena, ArenaError, ArenaOptions, Binding, Got, HUGE_PAGE_SIZE, PageKind};
use crate::budget::Budget;
use crate::buffer::Buffer;
use crate::layout::PAGE;
use crate::lease::Lease;

/// End of a free list.
const NONE: u32 = u32::MAX;

/// One size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolClass {
    /// Bytes of a buffer, a multiple of [`PAGE`].
    pub size: usize,
    /// Number of buffers.
    pub count: usize,
}

/// How a pool's memory is to be had.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The pages to ask for. Huge by default: fewer translations for the device and the CPU, and a large buffer is
    /// few pieces of physical memory. A pool of less than 2 MiB has plain ones.
    pub pages: PageKind,
    /// The NUMA node to take the memory from; by default wherever the first toucher runs.
    pub node: Option<u32>,
    /// Whether all buffers are resident from the start. By default each becomes so at its first use.
    pub prefault: bool,
    /// Where the pool's arena is accounted; by default nowhere.
    pub budget: Option<Budget>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { pages: PageKind::Huge, node: None, prefault: false, budget: None }
    }
}

/// Buffers for I/O, at home on one thread. A handle: clones are the same pool.
///
/// The arena lives until the pool's handles and all leases are gone.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
}

impl Pool {
    /// A pool with these classes, ascending by size.
    ///
    /// # Errors
    /// As [`Arena::with`] for the sum of all buffers.
    ///
    /// # Panics
    /// When there is no class, a size is not a multiple of the page above 0, sizes do not ascend, a count is 0, or
    /// there are more buffers than 32 bits can number.
    pub fn new(classes: &[PoolClass], options: PoolOptions) -> Result<Self, ArenaError> {
        Ok(Self { shared: Rc::new(Shared::new(classes, options)?) })
    }

    /// Start and size in bytes of the whole arena, for registration with a ring. The start is page aligned, at a
    /// multiple of 2 MiB for a pool of huge pages; the size may be above that of the buffers, by rounding.
    #[must_use]
    pub fn region(&self) -> (*mut u8, usize) {
        (self.shared.arena.start().as_ptr(), self.shared.arena.size())
    }

    /// Takes a buffer for `size` bytes: of the smallest class that fits and has one free. The largest class serves
    /// only what no smaller class ever could, so that many small requests never starve a large one. `None` when those
    /// buffers are all taken.
    ///
    /// # Panics
    /// In debug builds when `size` is above [`Pool::size_max`]; it is `None` otherwise.
    #[must_use]
    #[inline]
    pub fn take(&self, size: usize) -> Option<Lease> {
        debug_assert!(size <= self.size_max(), "{size} bytes, the largest buffer has {}", self.size_max());
        let classes = &self.shared.classes;
        let first = classes.iter().position(|class| class.size >= size)?;
        let end = classes.len().saturating_sub(1).max(first + 1);
        let class = (first..end).find(|class| classes[*class].free_head.get() != NONE)?;
        let slot = self.shared.take(class);
        Some(Lease::new(Hold { shared: Rc::clone(&self.shared), slot, class: class as u32 }))
    }

    /// Takes a buffer for `size` bytes as [`Pool::take`] does and zeroes it: the whole buffer, which may be longer.
    ///
    /// # Panics
    /// As [`Pool::take`].
    #[must_use]
    pub fn take_zeroed(&self, size: usize) -> Option<Buffer> {
        self.take(size).map(Buffer::from)
    }

    /// Bytes of the largest buffer.
    #[must_use]
    pub fn size_max(&self) -> usize {
        self.shared.classes.last().map_or(0, |class| class.size)
    }

    /// Bytes of the buffers that are taken.
    #[must_use]
    pub fn taken_size(&self) -> usize {
        self.shared.taken_size.get()
    }

    /// Bytes of the buffers that are free.
    #[must_use]
    pub fn free_size(&self) -> usize {
        self.shared.size - self.taken_size()
    }

    /// Bytes of all buffers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Whether `address` lies in the pool's region.
    #[must_use]
    pub fn contains(&self, address: *const u8) -> bool {
        let (start, size) = self.region();
        address.addr().checked_sub(start.addr()).is_some_and(|offset| offset < size)
    }

    /// Which pages the pool got.
    #[must_use]
    pub fn got(&self) -> Got {
        self.shared.arena.got()
    }

    /// What became of the wish for a NUMA node.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.shared.arena.binding()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pool({} of {} bytes taken)", self.taken_size(), self.size())
    }
}

/// What the handles and the leases of a pool have in common.
struct Shared {
    arena: Arena,
    classes: Box<[Class]>,
    slots: Box<[Slot]>,
    size: usize,
    taken_size: Cell<usize>,
}

struct Class {
    size: usize,
    /// Bytes from the start of the region to its first buffer.
    offset: usize,
    /// The slot of its first buffer.
    slot: u32,
    /// The slot of a free buffer, the one given back last: it is still in the cache.
    free_head: Cell<u32>,
}

/// One buffer's line in the table.
struct Slot {
    /// While it is free: the next free one of its class.
    next: Cell<u32>,
    /// Leases that hold it; 0 while it is free.
    user_count: Cell<u32>,
}

impl Shared {
    fn new(classes: &[PoolClass], options: PoolOptions) -> Result<Self, ArenaError> {
        assert!(!classes.is_empty(), "a pool has at least one class");
        assert!(classes.is_sorted_by(|one, next| one.size < next.size), "classes ascend by size");
        let mut places = Vec::with_capacity(classes.len());
        let (mut size, mut slot_count) = (0_usize, 0_u32);
        // The largest first: where sizes are powers of two, each buffer then starts at a multiple of its size.
        for class in classes.iter().rev() {
            assert!(class.size > 0 && PAGE.is_aligned(class.size as u64), "{class:?}: whole pages");
            assert!(class.count > 0, "{class:?}: at least one buffer");
            let (offset, slot) = (size, slot_count);
            places.push(Class { size: class.size, offset, slot, free_head: Cell::new(slot) });
            let class_size = class.size.checked_mul(class.count);
            size = class_size.and_then(|class_size| size.checked_add(class_size)).expect("a pool fits into memory");
            let count = u32::try_from(class.count).ok();
            slot_count =
                count.and_then(|count| slot_count.checked_add(count)).expect("buffers are numbered in 32 bits");
        }
        assert!(slot_count < NONE, "the last number is no slot");
        let pages = if size >= HUGE_PAGE_SIZE { options.pages } else { PageKind::Plain };
        let PoolOptions { node, prefault, budget, .. } = options;
        let arena = Arena::with(ArenaOptions { size, pages, node, prefault, budget })?;
        let slots: Box<[Slot]> =
            (1..=slot_count).map(|next| Slot { next: Cell::new(next), user_count: Cell::new(0) }).collect();
        for end in places.iter().skip(1).map(|class| class.slot).chain([slot_count]) {
            slots[end as usize - 1].next.set(NONE);
        }
        places.reverse();
        Ok(Self { arena, classes: places.into(), slots, size, taken_size: Cell::new(0) })
    }

    /// Takes the first free buffer of `class`, which has one.
    #[inline]
    fn take(&self, class: usize) -> u32 {
        let class = &self.classes[class];
        let slot = class.free_head.get();
        let place = &self.slots[slot as usize];
        debug_assert_eq!(place.user_count.get(), 0, "slot {slot} is in the free list");
        class.free_head.set(place.next.get());
        place.user_count.set(1);
        self.taken_size.set(self.taken_size.get() + class.size);
        slot
    }

    #[inline]
    fn give(&self, class: u32, slot: u32) {
        let class = &self.classes[class as usize];
        self.slots[slot as usize].next.set(class.free_head.get());
        class.free_head.set(slot);
        self.taken_size.set(self.taken_size.get() - class.size);
    }
}

/// One of the users of a taken buffer. The buffer is free again when the last is dropped.
pub(crate) struct Hold {
    shared: Rc<Shared>,
    slot: u32,
    class: u32,
}

impl Hold {
    /// Bytes of the buffer.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.shared.classes[self.class as usize].size
    }

    /// Bytes from the start of the pool's region to the buffer.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        let class = &self.shared.classes[self.class as usize];
        class.offset + (self.slot - class.slot) as usize * class.size
    }

    /// The buffer's first byte. All `capacity` bytes from there on are in the arena, which this keeps alive, and
    /// initialised, as the kernel maps zeroes.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: 1. Classes and slots were laid out one after the other with their sizes' sum as the arena's size,
        //         so that offset plus capacity is at most that.
        unsafe { self.shared.arena.start().add(self.offset()) }
    }

    /// One more user of the same buffer.
    pub(crate) fn another(&self) -> Self {
        let user_count = &self.shared.slots[self.slot as usize].user_count;
        user_count.set(user_count.get().checked_add(1).expect("users are counted in 32 bits"));
        Self { shared: Rc::clone(&self.shared), slot: self.slot, class: self.class }
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let user_count = &self.shared.slots[self.slot as usize].user_count;
        user_count.set(user_count.get() - 1);
        if user_count.get() == 0 {
            self.shared.give(self.class, self.slot);
        }
    }
}

#[cfg(test)]
mod tests;
