use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;

#[test]
fn the_budget_holds_and_given_blocks_come_again() {
    let mut slab = Slab::<64>::new(64 * 3 + 63, PageKind::Plain);
    let blocks: Vec<_> = std::iter::from_fn(|| slab.take()).collect();
    assert_eq!(blocks.len(), 3);
    slab.give(blocks[1]);
    assert_eq!(slab.take().map(BlockId::get), Some(blocks[1].get()));
    assert_eq!(slab.take(), None);
    assert_eq!(slab.touched_size(), 192);
    slab.clear();
    assert_eq!((slab.taken_count(), slab.touched_size()), (0, 0));
    assert!(slab.take().is_some());
}

#[test]
#[cfg_attr(miri, ignore)] // Too many blocks for it.
fn blocks_of_all_chunks_are_apart() {
    // One chunk at a time with plain pages, eight with huge ones, and a last arena that is not full (nor huge).
    for pages in [PageKind::Plain, PageKind::Huge] {
        let count = 9 * BLOCKS_PER_CHUNK + 17;
        let mut slab = Slab::<448>::new(448 * count, pages);
        let blocks: Vec<_> = std::iter::from_fn(|| slab.take()).collect();
        assert_eq!(blocks.len(), count);
        for id in &blocks {
            slab.block_mut(*id)[..4].copy_from_slice(&id.get().to_le_bytes());
            slab.block_mut(*id)[444..].copy_from_slice(&id.get().to_le_bytes());
        }
        for id in &blocks {
            assert_eq!(slab.block(*id)[..4], id.get().to_le_bytes());
            assert_eq!(slab.block(*id)[444..], id.get().to_le_bytes());
        }
        let sizes: Vec<_> = slab.arenas().iter().map(Arena::size).collect();
        if pages == PageKind::Huge {
            assert_eq!(sizes, [8 * BLOCKS_PER_CHUNK * 448; 2]);
        } else {
            assert_eq!((sizes.len(), sizes[0], sizes[9]), (10, BLOCKS_PER_CHUNK * 448, BLOCKS_PER_CHUNK * 448));
        }
    }
}

#[test]
fn a_slab_without_room_for_a_block_has_none() {
    let mut slab = Slab::<64>::new(63, PageKind::Plain);
    assert_eq!((slab.take(), slab.prepare(5).ok(), slab.block_count_max()), (None, Some(0), 0));
}

#[test]
#[cfg_attr(miri, ignore)] // Its mmap ends the program where the kernel's returns an error.
fn a_system_without_memory_limits_the_slab() {
    const BLOCK_SIZE: usize = 1 << 50;
    let mut slab = Slab::<BLOCK_SIZE>::new(usize::MAX / 4, PageKind::Plain);
    assert!(matches!(slab.prepare(1), Err(ArenaError::Map(_))));
    assert_eq!((slab.take(), slab.block_count_max()), (None, 0));
}

#[test]
fn prepared_blocks_are_mapped_and_resident_before_they_are_taken() {
    let mut slab = Slab::<1024>::new(1024 * 5000, PageKind::Plain);
    assert_eq!(slab.prepare(8).expect("memory for a test"), 8);
    assert_eq!((slab.taken_count(), slab.touched_size()), (0, 8 * 1024));
    let blocks: Vec<_> = std::iter::from_fn(|| slab.take()).take(8).collect();
    assert_eq!(slab.touched_size(), 8 * 1024);
    slab.give(blocks[0]);
    assert_eq!(slab.prepare(3).expect("memory for a test"), 3);
    assert_eq!(slab.touched_size(), 10 * 1024, "one of the three had been given back");
    if !cfg!(miri) {
        assert_eq!(slab.prepare(6000).expect("memory for a test"), 5000 - 7, "as many as the budget pays for");
        assert_eq!(slab.touched_size(), 5000 * 1024);
    }
}

#[test]
#[cfg_attr(miri, ignore)] // No mincore.
fn prepared_blocks_have_their_pages_and_others_have_not() {
    let mut slab = Slab::<4096>::new(4096 * 2 * BLOCKS_PER_CHUNK, PageKind::Plain);
    let resident = |slab: &Slab<4096>| slab.arenas().iter().map(Arena::resident_page_count).collect::<Vec<_>>();
    assert_eq!(slab.prepare(1000).expect("memory for a test"), 1000);
    assert_eq!(resident(&slab), [1000]);
    for _ in 0..1001 {
        let id = slab.take().expect("a slab that is large enough");
        slab.block_mut(id)[2000] = 1;
    }
    assert_eq!(resident(&slab), [1001], "the last was not prepared and cost a fault");
    assert_eq!(slab.prepare(BLOCKS_PER_CHUNK).expect("memory for a test"), BLOCKS_PER_CHUNK);
    assert_eq!(resident(&slab), [BLOCKS_PER_CHUNK, 1001], "across the border of arenas");
}

#[test]
fn arenas_can_be_resident_at_once() {
    let options = SlabOptions { prefault: true, ..SlabOptions::new(64 * 100, PageKind::Plain) };
    let mut slab = Slab::<64>::with(options);
    assert!(slab.take().is_some());
    assert_eq!(slab.touched_size(), 6400);
}

#[test]
fn arenas_are_paid_out_of_a_shared_budget_and_paid_back() {
    let budget = Budget::new(3 * BLOCKS_PER_CHUNK * 8);
    let options = |count| SlabOptions { budget: Some(budget.clone()), ..SlabOptions::new(count * 8, PageKind::Plain) };
    let mut slab = Slab::<8>::with(options(2 * BLOCKS_PER_CHUNK));
    let mut other = Slab::<8>::with(options(4 * BLOCKS_PER_CHUNK));
    assert_eq!(budget.used(), 0, "nothing is mapped before it is needed");
    assert_eq!(slab.prepare(BLOCKS_PER_CHUNK).expect("a third of the budget"), BLOCKS_PER_CHUNK);
    assert_eq!(budget.left(), 2 * BLOCKS_PER_CHUNK * 8);
    assert!(matches!(other.prepare(4 * BLOCKS_PER_CHUNK), Err(ArenaError::OverBudget { left: 0, .. })));
    assert_eq!(slab.prepare(BLOCKS_PER_CHUNK).expect("is there already"), BLOCKS_PER_CHUNK);
    assert!(slab.prepare(BLOCKS_PER_CHUNK + 1).is_err());
    // The budget may have room again later: the slab may still grow to what it was made for.
    drop(other);
    assert_eq!(slab.block_count_max(), 2 * BLOCKS_PER_CHUNK);
    assert_eq!(slab.prepare(BLOCKS_PER_CHUNK + 1).expect("room again"), BLOCKS_PER_CHUNK + 1);
    slab.clear();
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_block_of_another_slab_is_caught_where_this_one_has_fewer() {
    let mut large = Slab::<64>::new(64 * 10, PageKind::Plain);
    let last = std::iter::from_fn(|| large.take()).last().expect("ten blocks");
    let mut small = Slab::<64>::new(64 * 10, PageKind::Plain);
    assert!(catch_unwind(AssertUnwindSafe(|| small.block(last)[0])).is_err());
    let first = small.take().expect("ten blocks");
    assert_eq!(small.block(first)[0], 0);
    assert!(catch_unwind(AssertUnwindSafe(|| small.block(last)[0])).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| small.give(last))).is_err());
    assert_eq!(small.taken_count(), 1);
}

#[test]
#[cfg(debug_assertions)]
fn debug_builds_catch_stale_ids_and_double_gives() {
    let mut slab = Slab::<64>::new(64 * 10, PageKind::Plain);
    let stale = slab.take().expect("ten blocks");
    slab.give(stale);
    assert!(catch_unwind(AssertUnwindSafe(|| slab.give(stale))).is_err(), "given twice");
    assert!(catch_unwind(AssertUnwindSafe(|| slab.block(stale)[0])).is_err(), "read after it was given back");
    let again = slab.take().expect("ten blocks");
    assert_eq!(again.get(), stale.get());
    let result = catch_unwind(AssertUnwindSafe(|| slab.block_mut(stale)[0] = 1));
    let message = result.expect_err("written after somebody else took it");
    let message = message.downcast_ref::<String>().map(String::as_str);
    assert_eq!(message, Some("block 0 is used after it was given back, or is of another slab"));
    slab.block_mut(again)[0] = 1;
    slab.clear();
    let first = slab.take().expect("ten blocks");
    assert_eq!(first.get(), again.get());
    assert!(catch_unwind(AssertUnwindSafe(|| slab.block(again)[0])).is_err(), "read after all was forgotten");
    assert_eq!(slab.block(first)[0], 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Random takes, gives, prepares and clears against a reference: no block is handed out twice, and each keeps what
    /// its owner wrote.
    #[test]
    fn behaves_like_a_map_of_owned_blocks(
        huge in any::<bool>(),
        operations in proptest::collection::vec((0_u16..200, any::<u16>()), 1..if cfg!(miri) { 30 } else { 600 }),
    ) {
        let mut slab = Slab::<448>::new(448 * 5000, if huge { PageKind::Huge } else { PageKind::Plain });
        let mut owned: HashMap<BlockId, u8> = HashMap::new();
        // Miri is slow: fewer blocks, and a look at some of their bytes.
        let (takes_max, stride) = if cfg!(miri) { (4, 149) } else { (40, 1) };
        for (operation, choice) in operations {
            match operation {
                0..100 => for _ in 0..=choice % takes_max {
                    let Some(id) = slab.take() else { break };
                    let stamp = (id.get() as u8).wrapping_add(choice as u8);
                    slab.block_mut(id).fill(stamp);
                    prop_assert!(owned.insert(id, stamp).is_none(), "block {id:?} handed out twice");
                },
                100..190 => if let Some(id) = owned.keys().nth(choice as usize % owned.len().max(1)).copied() {
                    let stamp = owned.remove(&id).expect("just found");
                    prop_assert!(slab.block(id).iter().step_by(stride).all(|byte| *byte == stamp));
                    slab.give(id);
                },
                190..199 => {
                    let count = usize::from(choice % 100);
                    prop_assert_eq!(slab.prepare(count).ok(), Some(count.min(5000 - owned.len())));
                }
                _ => {
                    slab.clear();
                    owned.clear();
                }
            }
            prop_assert_eq!(slab.taken_count(), owned.len());
        }
        for (id, stamp) in owned {
            prop_assert!(slab.block(id).iter().step_by(stride).all(|byte| *byte == stamp));
        }
    }
}

#[test]
fn memory_is_prepared_ahead_up_to_the_last_block_of_the_budget() {
    // None at all, a part of an arena, whole arenas, and some more.
    let counts = if cfg!(miri) { vec![0, 10] } else { vec![0, 10, 2 * BLOCKS_PER_CHUNK, 9 * BLOCKS_PER_CHUNK + 3] };
    for (pages, count) in
        [PageKind::Plain, PageKind::Huge].into_iter().flat_map(|pages| counts.iter().map(move |count| (pages, *count)))
    {
        let options = SlabOptions { plain_size: 448 * 3000, ..SlabOptions::new(448 * count, pages) };
        let mut slab = Slab::<448>::with(options);
        slab.prepare_ahead();
        for taken_count in 1..=count {
            let id = slab.take().expect("the budget pays for it");
            slab.block_mut(id).fill(7);
            slab.prepare_ahead();
            let touched_count = slab.touched_size() / 448;
            assert!((taken_count..=count).contains(&touched_count), "{touched_count} of {count}");
            assert!((touched_count - taken_count) * 448 < 2 * HUGE_PAGE_SIZE);
        }
        assert_eq!(slab.take(), None);
        slab.prepare_ahead();
        // While the other thread may still be at it.
        slab.clear();
        slab.prepare_ahead();
        assert_eq!(slab.take().is_some(), count > 0);
    }
}

/// What was asked for becomes resident without a touch.
#[test]
#[cfg_attr(miri, ignore)] // It has no such thread.
fn what_is_prepared_ahead_becomes_resident() {
    let mut slab = Slab::<4096>::new(4096 * 1000, PageKind::Plain);
    slab.prepare_ahead();
    let prepared_count = slab.touched_size() / 4096;
    assert_eq!(prepared_count, AHEAD_SIZE / 4096);
    let begun = std::time::Instant::now();
    while slab.ahead.is_busy() && begun.elapsed().as_secs() < 60 {
        std::thread::yield_now();
    }
    // The kernel's word on each page, before anybody touches it: faults would count those of others as well.
    let pagemap = std::fs::File::open("/proc/self/pagemap").expect("Linux");
    let is_resident = |address: usize| {
        let mut word = [0; 8];
        pagemap.read_exact_at(&mut word, (address / 4096 * 8) as u64).expect("it is mapped");
        u64::from_le_bytes(word) >> 63 == 1
    };
    for number in 0..prepared_count {
        let id = slab.take().expect("prepared");
        assert!(is_resident(slab.block(id).as_ptr().addr()), "page {number} of {prepared_count}");
    }
}

#[test]
fn the_budget_changes_unless_what_was_touched_stands_in_the_way() {
    let mut slab = Slab::<448>::new(100 * 448, PageKind::Plain);
    assert_eq!(std::iter::from_fn(|| slab.take()).count(), 100);
    assert!(slab.set_budget((BLOCKS_PER_CHUNK + 7) * 448));
    assert_eq!(std::iter::from_fn(|| slab.take()).count(), BLOCKS_PER_CHUNK + 7 - 100);
    assert!(!slab.set_budget(BLOCKS_PER_CHUNK * 448), "blocks above it were taken");
    assert!(slab.set_budget((BLOCKS_PER_CHUNK + 7) * 448));
    assert!(slab.take().is_none());
    let counted = SlabOptions { budget: Some(Budget::new(1 << 30)), ..SlabOptions::new(100 * 448, PageKind::Plain) };
    let mut counted = Slab::<448>::with(counted);
    assert!(counted.take().is_some());
    assert!(!counted.set_budget(200 * 448), "its arena was cut at the budget");
    assert!(counted.set_budget(50 * 448));
}
