//! Proof that the steady state allocates nothing on the heap.

use std::sync::{Mutex, PoisonError};

use dma_alloc::counting::{self, CountingAllocator};
use dma_alloc::{PageKind, Pool, PoolClass, PoolOptions, Slab, Table};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Held while counting: there is one count for all threads.
static COUNT: Mutex<()> = Mutex::new(());

/// Allocations that `work` makes.
fn allocations_of(work: impl FnOnce()) -> u64 {
    let _turn = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    counting::watch_this_thread();
    let before = counting::allocation_count();
    work();
    let after = counting::allocation_count();
    counting::unwatch_this_thread();
    after - before
}

#[test]
fn the_counter_counts_every_kind_of_allocation_and_no_free() {
    let mut bytes = Vec::new();
    assert_eq!(allocations_of(|| bytes = Vec::with_capacity(10)), 1);
    assert_eq!(allocations_of(|| bytes.extend([1_u8; 100])), 1, "realloc");
    assert_eq!(allocations_of(|| drop(std::mem::take(&mut bytes))), 0, "a free");
    assert_eq!(allocations_of(|| bytes = std::hint::black_box(vec![0_u8; 100])), 1, "alloc_zeroed");
    drop(bytes);
}

#[test]
fn threads_that_are_not_watched_do_not_count() {
    let count = allocations_of(|| {
        counting::unwatch_this_thread();
        drop(std::hint::black_box(Box::new(1)));
        let other = std::thread::spawn(|| drop(std::hint::black_box(Box::new(2))));
        assert!(other.join().is_ok());
        counting::watch_this_thread();
    });
    assert_eq!(count, 0);
}

#[test]
fn a_pool_allocates_nothing_after_its_construction() {
    let classes = [PoolClass { size: 4096, count: 64 }, PoolClass { size: 65536, count: 4 }];
    let pool = Pool::new(&classes, PoolOptions::default()).expect("memory for a test");
    let mut leases = Vec::with_capacity(64);
    let mut shares = Vec::with_capacity(256);
    let count = allocations_of(|| {
        for _ in 0..3 {
            while let Some(mut lease) = pool.take(100) {
                lease.fill_from(b"filled");
                leases.push(lease);
            }
            assert!(pool.take_zeroed(100).is_none());
            drop(pool.take_zeroed(5000));
            for lease in leases.drain(..) {
                let share = lease.share();
                shares.extend([share.clone(), share.clone(), share]);
            }
            shares.clear();
        }
    });
    assert_eq!(count, 0);
    assert_eq!(pool.taken_size(), 0);
}

#[test]
fn a_table_allocates_nothing_after_its_construction() {
    let mut table = Table::with_capacity(100);
    let mut keys = Vec::with_capacity(100);
    let count = allocations_of(|| {
        for round in 0..3_u64 {
            while let Ok(key) = table.insert(round) {
                keys.push(key);
            }
            assert_eq!(table.iter().filter(|(_, value)| **value == round).count(), 100);
            for key in keys.drain(..) {
                assert_eq!(table.remove(key), Some(round));
            }
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn a_slab_allocates_nothing_where_it_is_mapped() {
    let mut slab = Slab::<448>::new(448 * 100, PageKind::Plain);
    let first = slab.take().expect("memory for a test");
    slab.give(first);
    let mut blocks = Vec::with_capacity(100);
    let count = allocations_of(|| {
        for _ in 0..3 {
            while let Some(block) = slab.take() {
                blocks.push(block);
            }
            for block in blocks.drain(..) {
                slab.give(block);
            }
        }
    });
    assert_eq!(count, 0);
}
