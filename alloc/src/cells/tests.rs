use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const PAGE_SIZE: usize = 64 * 1024;

fn cells(page_count: usize) -> Cells<14> {
    let mut cells = Cells::new(PAGE_SIZE, 48);
    cells.set_budget(page_count * PAGE_SIZE);
    cells
}

fn filling(seed: u32, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u32).wrapping_mul(seed | 1) as u8).collect()
}

#[test]
fn classes_are_close_and_waste_little_of_a_page() {
    for page_size in [64 << 10, 1 << 20, 4 << 20] {
        let sizes: Vec<usize> = class_sizes(page_size, 48).collect();
        assert_eq!((sizes[0], sizes.last().copied()), (48, Some(page_size / 2)));
        for pair in sizes.windows(2) {
            let step = pair[1] - pair[0];
            // Where a page has few cells, each number of them is a class.
            let few = page_size / pair[1] < 9 && page_size / pair[0] == page_size / pair[1] + 1;
            assert!(step == GRANULE || step * 7 <= pair[0] || few, "{pair:?} of {page_size}");
        }
        for size in sizes {
            assert!(page_size % size < page_size / 16, "{size} of {page_size}");
        }
    }
}

#[test]
fn the_budget_holds_and_empty_pages_become_any_class() {
    let mut cells = cells(2);
    let small: Vec<CellId> = std::iter::from_fn(|| cells.take(48 - 14)).collect();
    assert_eq!(small.len(), 2 * (PAGE_SIZE / 48));
    assert_eq!(cells.take(1000), None);
    small.iter().for_each(|id| cells.give(*id));
    assert_eq!(cells.memory_size() - cells.table_size(), 2 * PAGE_SIZE, "they stay for what comes next");
    let large: Vec<CellId> = std::iter::from_fn(|| cells.take(PAGE_SIZE / 2 - 14)).collect();
    assert_eq!((large.len(), cells.take(PAGE_SIZE / 2 - 13)), (4, None));
    cells.set_budget(PAGE_SIZE);
    assert!(cells.is_over_budget());
    cells.give(large[0]);
    cells.give(large[1]);
    assert!(!cells.is_over_budget());
    assert_eq!(cells.memory_size() - cells.table_size(), PAGE_SIZE);
    assert_eq!(cells.take(48), None);
}

#[test]
fn a_pinned_body_stays_until_the_last_pin_is_gone() {
    let mut cells = cells(1);
    let id = cells.take(100).expect("the first");
    cells.fill(id, b"pinned");
    let pin = cells.pin(id, 6);
    let other = pin.clone();
    assert_eq!(cells.pinned_size(), 6);
    cells.give(id);
    drop(pin);
    let others: Vec<CellId> = std::iter::from_fn(|| cells.take(100)).collect();
    assert!(!others.contains(&id));
    others.iter().for_each(|id| {
        cells.fill(*id, b"other!");
        cells.give(*id);
    });
    cells.set_budget(0);
    assert_eq!((&*other, cells.memory_size() - cells.table_size()), (&b"pinned"[..], PAGE_SIZE));
    drop(other);
    assert_eq!(cells.pinned_size(), 0);
    assert_eq!(cells.take(100), None, "which sees that the pin is gone");
    assert_eq!(cells.memory_size(), cells.table_size());
}

#[test]
fn a_page_whose_cells_are_all_given_back_and_unpinned_is_not_chosen() {
    let mut cells = cells(2);
    let ids: Vec<CellId> = std::iter::from_fn(|| cells.take(100)).collect();
    let (here, there) = ids.split_at(ids.len() / 2);
    there.iter().skip(1).for_each(|id| cells.give(*id));
    let pins: Vec<PinnedCell> = here.iter().map(|id| cells.pin(*id, 6)).collect();
    here.iter().for_each(|id| cells.give(*id));
    drop(pins);
    assert_eq!(cells.page_to_vacate(), None, "the first page is nobody's any more, and the other has nowhere to go");
    cells.set_budget(PAGE_SIZE);
    assert_eq!(cells.memory_size() - cells.table_size(), PAGE_SIZE);
}

#[test]
fn a_pin_outlives_the_cells() {
    let mut cells = cells(1);
    let id = cells.take(100).expect("the first");
    cells.fill(id, b"pinned");
    let pin = cells.pin(id, 6);
    cells.clear();
    let again = cells.take(100).expect("all are free");
    cells.fill(again, b"others");
    let copy = pin.clone();
    drop(cells);
    drop(pin);
    assert_eq!(&*copy, b"pinned");
}

#[test]
#[should_panic(expected = "pinned")]
fn a_pinned_body_cannot_be_written() {
    let mut cells = cells(1);
    let id = cells.take(100).expect("the first");
    let _pin = cells.pin(id, 6);
    cells.fill(id, b"other");
}

#[test]
#[should_panic(expected = "no cell")]
fn a_number_within_a_cell_is_no_cell() {
    let mut cells = cells(1);
    let id = cells.take(100).expect("the first");
    let _ = cells.head(CellId::from_number(id.get() + 1));
}

#[derive(Clone, Debug)]
enum Operation {
    Take(usize),
    Give(usize),
    Pin(usize),
    Unpin(usize),
    Budget(usize),
    Vacate,
    Clear,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        30 => prop_oneof![1usize..200, 1usize..PAGE_SIZE].prop_map(Operation::Take),
        20 => any::<usize>().prop_map(Operation::Give),
        5 => any::<usize>().prop_map(Operation::Pin),
        5 => any::<usize>().prop_map(Operation::Unpin),
        1 => (0usize..40).prop_map(Operation::Budget),
        5 => Just(Operation::Vacate),
        1 => Just(Operation::Clear),
    ];
    proptest::collection::vec(one, 1..400)
}

#[derive(Default)]
struct Model {
    held: Vec<(CellId, u32, usize)>,
    pinned: Vec<(PinnedCell, Vec<u8>)>,
}

fn vacate(cells: &mut Cells<14>, model: &mut Model) {
    let Some(page) = cells.page_to_vacate() else { return };
    let all: Vec<CellId> = cells.cells_of(page, 0).collect();
    for from in all {
        if cells.is_vacated(page) {
            break;
        }
        let Some((id, seed, _)) = model.held.iter_mut().find(|(id, ..)| *id == from) else {
            assert_eq!(cells.head(from)[4..], [0; 10], "a free one");
            continue;
        };
        let to = cells.take_like(from).expect("its class has as many free cells");
        assert_ne!(cells.page_of(to), page);
        cells.copy(from, to);
        cells.give(from);
        assert_eq!(cells.head(to)[4..8], seed.to_le_bytes());
        *id = to;
    }
    assert!(cells.is_vacated(page) || !model.pinned.is_empty());
}

proptest! {
    // Writing failures to a file asks for the working directory, which Miri does not tell.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn cells_are_apart_whatever_happens(operations in operations()) {
        let mut cells = cells(20);
        let mut model = Model::default();
        let mut seeds = 1..;
        for operation in operations {
            match operation {
                Operation::Take(size) => {
                    let Some(id) = cells.take(size) else { continue };
                    let seed = seeds.next().expect("endless");
                    prop_assert_eq!(cells.head(id), &[0; 14]);
                    cells.head_mut(id)[4..8].copy_from_slice(&u32::to_le_bytes(seed));
                    cells.fill(id, &filling(seed, size));
                    model.held.push((id, seed, size));
                }
                Operation::Give(number) if !model.held.is_empty() => {
                    let (id, ..) = model.held.swap_remove(number % model.held.len());
                    cells.give(id);
                }
                Operation::Pin(number) if !model.held.is_empty() => {
                    let (id, seed, size) = model.held[number % model.held.len()];
                    model.pinned.push((cells.pin(id, size), filling(seed, size)));
                }
                Operation::Unpin(number) if !model.pinned.is_empty() => {
                    drop(model.pinned.swap_remove(number % model.pinned.len()));
                }
                Operation::Budget(count) => cells.set_budget(count * PAGE_SIZE),
                Operation::Vacate => vacate(&mut cells, &mut model),
                Operation::Clear => {
                    cells.clear();
                    model.held.clear();
                }
                _ => {}
            }
            for (id, seed, size) in &model.held {
                prop_assert_eq!(&cells.head(*id)[4..8], &seed.to_le_bytes()[..]);
                prop_assert_eq!(&cells.body(*id)[..*size], &filling(*seed, *size)[..]);
            }
            for (pin, bytes) in &model.pinned {
                prop_assert_eq!(&**pin, &bytes[..]);
            }
            prop_assert!(cells.is_over_budget() || cells.memory_size() - cells.table_size() <= cells.budget());
        }
        model.held.iter().for_each(|(id, ..)| cells.give(*id));
        model.pinned.clear();
        cells.set_budget(0);
        prop_assert_eq!(cells.take(1), None);
        prop_assert_eq!(cells.memory_size(), cells.table_size());
        let unique: HashMap<CellId, u32> = model.held.iter().map(|(id, seed, _)| (*id, *seed)).collect();
        prop_assert_eq!(unique.len(), model.held.len());
    }
}
