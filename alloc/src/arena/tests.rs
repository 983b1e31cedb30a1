use super::*;

const MIB: usize = 1024 * 1024;

impl Arena {
    /// Pages that are in memory, as mincore(2) says.
    pub(crate) fn resident_page_count(&self) -> usize {
        let mut pages = vec![0_u8; self.size / PAGE.get()];
        // SAFETY: 1. The range is the arena's mapping, page aligned. 2. `pages` has a byte for each of its pages.
        let result = unsafe { libc::mincore(self.start().as_ptr().cast(), self.size, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 == 1).count()
    }
}

#[test]
fn an_arena_is_zeroed_aligned_and_writable_to_its_ends() {
    for (size, pages, expected) in [
        (1, PageKind::Plain, PAGE.get()),
        (3 * MIB + 1, PageKind::Plain, 3 * MIB + PAGE.get()),
        (PAGE.get() + 1, PageKind::Huge, 2 * PAGE.get()),
        (3 * MIB + 1, PageKind::Huge, if cfg!(miri) { 3 * MIB + PAGE.get() } else { 4 * MIB }),
    ] {
        let mut arena = Arena::map(size, pages).expect("memory for a test");
        assert_eq!(arena.size(), expected);
        assert!(PAGE.is_aligned(arena.bytes().as_ptr().addr() as u64));
        let step = if cfg!(miri) { 509 } else { 1 };
        assert!(arena.bytes().iter().step_by(step).all(|byte| *byte == 0));
        let last = arena.size() - 1;
        arena.bytes_mut()[0] = 1;
        arena.bytes_mut()[last] = 2;
        assert_eq!((arena.bytes()[0], arena.bytes()[last]), (1, 2));
    }
}

#[test]
#[cfg_attr(miri, ignore)] // Plain pages are all it has.
fn a_huge_arena_starts_where_huge_pages_start_and_says_what_it_got() {
    // Several at a time: one alone may be aligned by accident.
    let arenas: Vec<_> = (1..5).map(|count| Arena::map(count * HUGE_PAGE_SIZE, PageKind::Huge)).collect();
    for arena in arenas {
        let arena = arena.expect("memory for a test");
        assert_eq!(arena.bytes().as_ptr().addr() % HUGE_PAGE_SIZE, 0);
        if arena.got() == Got::Plain {
            assert!(!transparent_pages_enabled(), "plain pages though the kernel has better ones");
        }
    }
    assert_eq!(Arena::map(HUGE_PAGE_SIZE - 1, PageKind::Huge).expect("memory for a test").got(), Got::Plain);
    assert_eq!(Arena::map(HUGE_PAGE_SIZE, PageKind::Plain).expect("memory for a test").got(), Got::Plain);
}

/// Bytes of address space that the process has.
fn address_space_size() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let page_count: usize = statm.split(' ').next().and_then(|word| word.parse().ok()).expect("a number of pages");
    page_count * PAGE.get()
}

#[test]
#[cfg_attr(miri, ignore)] // No munmap of a part.
fn the_room_around_huge_arenas_is_given_back() {
    const COUNT: usize = 256;
    let before = address_space_size();
    let arenas: Vec<_> = (0..COUNT).map(|_| map_at_huge_boundary(HUGE_PAGE_SIZE).expect("memory for a test")).collect();
    let size = address_space_size().saturating_sub(before);
    arenas.into_iter().for_each(|start| unmap_rest(start, HUGE_PAGE_SIZE));
    // Twice as much with the room. Other tests map something at the same time, but far from half as much.
    assert!(size < COUNT * HUGE_PAGE_SIZE / 2 * 3, "{size} bytes");
}

#[test]
fn impossible_sizes_are_errors() {
    for pages in [PageKind::Plain, PageKind::Huge] {
        assert!(Arena::map(0, pages).is_err());
        assert!(Arena::map(usize::MAX, pages).is_err());
        if !cfg!(miri) {
            assert!(Arena::map(usize::MAX / 2, pages).is_err(), "more than the address space");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore)] // No mincore.
fn memory_is_resident_where_touched_or_at_once_on_demand() {
    let size = 64 * PAGE.get();
    let mut lazy = Arena::map(size, PageKind::Plain).expect("memory for a test");
    assert_eq!(lazy.resident_page_count(), 0);
    lazy.bytes_mut()[5 * PAGE.get()] = 1;
    assert_eq!(lazy.resident_page_count(), 1);
    lazy.prefault(7 * PAGE.get() - 1, 2).expect("memory for a test");
    assert_eq!(lazy.resident_page_count(), 3);

    let options = ArenaOptions { prefault: true, ..ArenaOptions::new(size, PageKind::Plain) };
    let eager = Arena::with(options).expect("memory for a test");
    assert_eq!(eager.resident_page_count(), 64);
    assert!(eager.bytes().iter().all(|byte| *byte == 0));
}

#[test]
#[cfg_attr(miri, ignore)] // No mincore.
fn touching_makes_resident_and_keeps_the_contents() {
    let mut arena = Arena::map(4 * PAGE.get(), PageKind::Plain).expect("memory for a test");
    arena.bytes_mut()[0] = 7;
    let end = arena.size();
    arena.touch(0, end);
    assert_eq!(arena.resident_page_count(), 4);
    assert_eq!(arena.bytes().iter().map(|byte| u64::from(*byte)).sum::<u64>(), 7);
}

#[test]
#[cfg_attr(miri, ignore)] // No mbind.
fn a_node_is_bound_or_refused_with_a_reason() {
    let on = |node| {
        let options = ArenaOptions { node, prefault: true, ..ArenaOptions::new(PAGE.get(), PageKind::Plain) };
        Arena::with(options).expect("a refused node is no error").binding()
    };
    assert_eq!(on(None), Binding::None);
    let first = on(Some(0));
    assert!(matches!(first, Binding::Bound(0) | Binding::Refused(libc::ENOSYS | libc::EPERM)), "{first:?}");
    // There is a limit in the kernel and one in the mask: neither a high node nor an absurd one may slip through.
    for node in [NODE_COUNT_MAX as u32 - 1, NODE_COUNT_MAX as u32, u32::MAX] {
        assert!(matches!(on(Some(node)), Binding::Refused(_)), "node {node}");
    }
}

#[test]
fn a_budget_pays_for_whole_arenas_and_gets_them_back() {
    let budget = Budget::new(3 * PAGE.get());
    let options = |size| ArenaOptions { budget: Some(budget.clone()), ..ArenaOptions::new(size, PageKind::Plain) };
    let arena = Arena::with(options(PAGE.get() + 1)).expect("two of three pages");
    assert_eq!(budget.used(), 2 * PAGE.get());
    let error = Arena::with(options(2 * PAGE.get())).expect_err("two pages, one is left");
    assert_eq!(error.to_string(), "8192 bytes of memory are wanted, the budget has 4096 left");
    assert!(matches!(error, ArenaError::OverBudget { wanted: 8192, left: 4096 }));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::OutOfMemory);
    drop(arena);
    assert_eq!(budget.used(), 0);
}

#[test]
#[cfg_attr(miri, ignore)] // Its mmap ends the program where the kernel's returns an error.
fn a_mapping_that_fails_costs_the_budget_nothing() {
    let budget = Budget::new(usize::MAX);
    let options = ArenaOptions { budget: Some(budget.clone()), ..ArenaOptions::new(usize::MAX / 2, PageKind::Plain) };
    let error = Arena::with(options).expect_err("more than the address space");
    assert!(error.to_string().starts_with("cannot map memory: "), "{error}");
    assert!(error.source().is_some());
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_setting_for_transparent_pages_is_read_by_its_brackets() {
    assert!(allows_asking("[always] madvise never\n"));
    assert!(allows_asking("always [madvise] never\n"));
    assert!(!allows_asking("always madvise [never]\n"));
}
