use proptest::prelude::*;

use super::*;
use crate::lease::SharedLease;

const CLASSES: [PoolClass; 3] =
    [PoolClass { size: 4096, count: 4 }, PoolClass { size: 16384, count: 2 }, PoolClass { size: 65536, count: 2 }];

fn pool() -> Pool {
    Pool::new(&CLASSES, PoolOptions::default()).expect("memory for a test")
}

#[test]
fn the_smallest_class_with_a_free_buffer_serves_and_the_largest_keeps_to_itself() {
    let pool = pool();
    let small: Vec<_> = std::iter::from_fn(|| pool.take(100)).collect();
    let capacities: Vec<_> = small.iter().map(Lease::capacity).collect();
    assert_eq!(capacities, [4096, 4096, 4096, 4096, 16384, 16384]);
    assert!(pool.take(4097).is_none(), "the middle class is taken and the largest not for this");
    let large = [pool.take(16385), pool.take(65536)].map(|lease| lease.expect("kept for large requests").capacity());
    assert_eq!(large, [65536, 65536]);
    assert_eq!(pool.taken_size(), small.iter().map(Lease::capacity).sum::<usize>());
    drop(small);
    assert_eq!((pool.taken_size(), pool.free_size()), (0, pool.size()));
    assert_eq!(pool.take(0).expect("a free pool").capacity(), 4096);
}

#[test]
fn a_pool_of_one_class_serves_everything_with_it() {
    let pool = Pool::new(&[PoolClass { size: 8192, count: 1 }], PoolOptions::default()).expect("memory for a test");
    let lease = pool.take(1).expect("a free buffer");
    assert_eq!((lease.capacity(), pool.size(), pool.size_max()), (8192, 8192, 8192));
    assert!(pool.take(1).is_none());
}

#[test]
fn all_buffers_lie_apart_in_the_region_and_aligned() {
    let pool = pool();
    let (start, region_size) = pool.region();
    let mut leases: Vec<Lease> = Vec::new();
    for size in [65536, 16384, 4096] {
        leases.extend(std::iter::from_fn(|| pool.take(size)).take(2));
    }
    leases.extend(std::iter::from_fn(|| pool.take(1)));
    assert_eq!((leases.len(), pool.free_size()), (8, 0));
    let mut ranges: Vec<_> = Vec::new();
    for lease in &mut leases {
        let (address, offset, capacity) = (lease.as_mut_ptr(), lease.offset(), lease.capacity());
        assert_eq!(address.addr() - start.addr(), offset);
        assert_eq!(offset % capacity, 0, "the largest come first, so that each is a multiple of its size away");
        assert!(PAGE.is_aligned(address.addr() as u64));
        assert!(pool.contains(address) && pool.contains(address.wrapping_add(capacity - 1)));
        ranges.push(offset..offset + capacity);
    }
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    assert_eq!((ranges[0].start, ranges[7].end), (0, pool.size()));
    assert!(region_size >= pool.size());
    assert!(!pool.contains(start.wrapping_sub(1)) && !pool.contains(start.wrapping_add(region_size)));
    assert!(!pool.contains(std::ptr::null()));
}

#[test]
fn nobody_sees_what_an_earlier_user_left() {
    let pool = pool();
    let mut lease = pool.take(4096).expect("a free pool");
    assert!(lease.is_empty());
    lease.fill_from(&[0xa5; 4096]);
    let offset = lease.offset();
    drop(lease);
    let mut lease = pool.take(4096).expect("a free pool");
    assert_eq!((lease.offset(), lease.len()), (offset, 0), "the same buffer again, and nothing of it to be seen");
    lease.fill_from(b"abc");
    lease[0] = b'A';
    assert_eq!((&*lease, lease.filled()), (&b"Abc"[..], 3));
    drop(lease);
    let mut buffer = pool.take_zeroed(1).expect("a free pool");
    assert_eq!(buffer.len(), 4096);
    assert!(buffer.iter().all(|byte| *byte == 0));
    buffer.fill(0xa5);
    assert_eq!(pool.taken_size(), 4096);
    drop(buffer);
    assert_eq!(pool.taken_size(), 0);
}

#[test]
fn a_buffer_made_of_a_lease_keeps_what_was_filled_and_zeroes_the_rest() {
    let pool = pool();
    pool.take(1).expect("a free pool").fill_from(&[0xa5; 4096]);
    let mut lease = pool.take(1).expect("a free pool");
    lease.fill_from(b"abc");
    let buffer = crate::Buffer::from(lease);
    assert_eq!((&buffer[..3], buffer.len()), (&b"abc"[..], 4096));
    assert!(buffer[3..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_the_kernel_wrote_is_declared_filled() {
    let pool = pool();
    let mut lease = pool.take(4096).expect("a free pool");
    let start = lease.as_mut_ptr();
    // SAFETY: 1. The first 100 bytes of a buffer of 4096, which is ours alone.
    unsafe { start.write_bytes(7, 100) };
    // SAFETY: 1. The first 100 bytes were just written.
    unsafe { lease.set_filled(100) };
    assert_eq!(&*lease, &[7; 100]);
    let shared = lease.share();
    assert_eq!((&*shared, shared.capacity()), (&[7; 100][..], 4096));
    assert_eq!(shared.offset(), start.addr() - pool.region().0.addr());
}

#[test]
fn a_shared_buffer_goes_back_with_its_last_user() {
    let pool = pool();
    let mut lease = pool.take(1).expect("a free pool");
    lease.fill_from(b"shared");
    let first = SharedLease::from(lease);
    let second = first.clone();
    let third = second.clone();
    drop(first);
    drop(third);
    assert_eq!((&*second, pool.taken_size()), (&b"shared"[..], 4096));
    drop(second);
    assert_eq!(pool.taken_size(), 0);
}

#[test]
fn leases_keep_the_arena_of_a_pool_that_is_gone() {
    let budget = Budget::new(1 << 20);
    let options = PoolOptions { budget: Some(budget.clone()), ..PoolOptions::default() };
    let pool = Pool::new(&CLASSES, options).expect("memory for a test");
    let size = pool.size();
    let mut lease = pool.take(1).expect("a free pool");
    lease.fill_from(b"alive");
    let shared = lease.share();
    let handle = pool.clone();
    drop(pool);
    assert_eq!(handle.taken_size(), 4096);
    drop(handle);
    assert_eq!((&*shared, budget.used()), (&b"alive"[..], size));
    drop(shared);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_pool_over_budget_is_an_error() {
    let options = PoolOptions { budget: Some(Budget::new(4096)), ..PoolOptions::default() };
    assert!(matches!(Pool::new(&CLASSES, options), Err(ArenaError::OverBudget { left: 4096, .. })));
}

#[test]
fn large_pools_have_huge_pages_where_the_kernel_has_any() {
    let classes = [PoolClass { size: 1 << 20, count: 3 }];
    let pool = Pool::new(&classes, PoolOptions::default()).expect("memory for a test");
    assert_eq!(pool.size(), 3 << 20);
    if !cfg!(miri) {
        assert_eq!((pool.region().0.addr() % HUGE_PAGE_SIZE, pool.region().1), (0, 4 << 20));
    }
    let options = PoolOptions { pages: PageKind::Plain, ..PoolOptions::default() };
    let plain = Pool::new(&classes, options).expect("memory for a test");
    assert_eq!((plain.got(), plain.region().1, plain.binding()), (Got::Plain, 3 << 20, Binding::None));
}

#[test]
fn impossible_classes_and_requests_panic() {
    let class = |size, count| PoolClass { size, count };
    let wrong: [&[PoolClass]; 7] = [
        &[],
        &[class(4095, 1)],
        &[class(0, 1)],
        &[class(4096, 0)],
        &[class(8192, 1), class(4096, 1)],
        &[class(4096, 1), class(4096, 1)],
        &[class(usize::MAX - 4095, 2)],
    ];
    for classes in wrong {
        let result = std::panic::catch_unwind(|| Pool::new(classes, PoolOptions::default()).is_ok());
        assert!(result.is_err(), "{classes:?}");
    }
    let pool = pool();
    let take = || pool.take(65537).is_none();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(take));
    assert_eq!(result.ok(), if cfg!(debug_assertions) { None } else { Some(true) });
    let mut lease = pool.take(1).expect("a free pool");
    let fill = || lease.fill_from(&[0; 4097]);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fill)).is_err());
    assert_eq!(pool.taken_size(), 4096);
}

/// What a test knows of a buffer: its bytes are `stamp`, this many of them.
struct Owned<T> {
    buffer: T,
    bytes: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Random takes, fills, shares, clones and drops against owned vectors: what was written is found again in each
    /// buffer, so that no two overlap, and the pool's sums are those of the leases.
    #[test]
    fn behaves_like_owned_vectors(operations in proptest::collection::vec((0_u8..8, any::<u16>(), any::<u8>()), 1..200)) {
        let pool = pool();
        let mut leases: Vec<Owned<Lease>> = Vec::new();
        let mut shares: Vec<Owned<SharedLease>> = Vec::new();
        for (operation, choice, stamp) in operations {
            let choice = usize::from(choice);
            match operation {
                0..=2 => {
                    let size = [1, 4096, 4097, 16384, 16385, 65535][choice % 6];
                    let Some(mut buffer) = pool.take(size) else { continue };
                    prop_assert!(buffer.capacity() >= size && buffer.is_empty());
                    // Miri writes slowly: ends and all would take minutes there.
                    let size = if cfg!(miri) { buffer.capacity().min(300) } else { buffer.capacity() };
                    buffer.fill_from(&vec![stamp; size]);
                    leases.push(Owned { buffer, bytes: vec![stamp; size] });
                }
                3 if !leases.is_empty() => drop(leases.swap_remove(choice % leases.len())),
                4 if !leases.is_empty() => {
                    let Owned { buffer, bytes } = leases.swap_remove(choice % leases.len());
                    shares.push(Owned { buffer: buffer.share(), bytes });
                }
                5 if !shares.is_empty() => {
                    let Owned { buffer, bytes } = &shares[choice % shares.len()];
                    let clone = Owned { buffer: buffer.clone(), bytes: bytes.clone() };
                    shares.push(clone);
                }
                6 if !shares.is_empty() => drop(shares.swap_remove(choice % shares.len())),
                7 => {
                    if let Some(buffer) = pool.take_zeroed(choice % 4096) {
                        prop_assert!(buffer.iter().all(|byte| *byte == 0));
                    }
                }
                _ => {}
            }
            let mut held: Vec<(usize, usize)> = leases.iter().map(|lease| (lease.buffer.offset(), lease.buffer.capacity()))
                .chain(shares.iter().map(|share| (share.buffer.offset(), share.buffer.capacity()))).collect();
            held.sort_unstable();
            held.dedup();
            prop_assert_eq!(pool.taken_size(), held.iter().map(|(_, capacity)| capacity).sum::<usize>());
            prop_assert_eq!(pool.taken_size() + pool.free_size(), pool.size());
        }
        prop_assert!(leases.iter().all(|lease| *lease.buffer == *lease.bytes));
        prop_assert!(shares.iter().all(|share| *share.buffer == *share.bytes));
        drop((leases, shares));
        prop_assert_eq!(pool.taken_size(), 0);
    }
}
