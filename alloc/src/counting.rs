//! Counts heap allocations, for tests that prove there are none.
//!
//! A test program installs [`CountingAllocator`] as its global allocator, has the threads of interest call
//! [`watch_this_thread`], and compares [`allocation_count`] before and after. A program that does not install it pays
//! nothing.
//!
//! ```
//! use dma_alloc::counting::{self, CountingAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//!
//! counting::watch_this_thread();
//! let before = counting::allocation_count();
//! let boxed = std::hint::black_box(Box::new([0_u8; 64]));
//! assert_eq!(counting::allocation_count() - before, 1);
//! drop(boxed);
//! assert_eq!(counting::allocation_count() - before, 1, "frees do not count");
//! counting::unwatch_this_thread();
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, with a count of the allocations of watched threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

static ALLOCATION_COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Initialised at compile time and without a destructor: using it neither allocates nor registers anything, and it
    // can still be read while the thread ends.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Counts this thread's allocations from now on.
pub fn watch_this_thread() {
    WATCHED.set(true);
}

/// Counts this thread's allocations no more.
pub fn unwatch_this_thread() {
    WATCHED.set(false);
}

/// Allocations and reallocations so far of all threads while they were watched; failed ones too. Always 0 where
/// [`CountingAllocator`] is not the global allocator.
#[must_use]
pub fn allocation_count() -> u64 {
    ALLOCATION_COUNT.load(Ordering::SeqCst)
}

fn count() {
    if WATCHED.get() {
        ALLOCATION_COUNT.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: Every method hands its arguments to `System` unchanged and returns what `System` returned, so that the
//         contract is kept as `System` keeps it. `count` neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: 1. The caller's promise (a size above 0) is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: 1. As in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size_new: usize) -> *mut u8 {
        count();
        // SAFETY: 1. `pointer` came from this allocator, hence from `System`, with this layout.
        //         2. The caller promises that `size_new` is above 0 and fits with the alignment.
        unsafe { System.realloc(pointer, layout, size_new) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: 1. `pointer` came from this allocator, hence from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
