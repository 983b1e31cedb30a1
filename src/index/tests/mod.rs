//! The index against maps that are simple.

mod model;

use super::*;
use crate::limits::{MIB, TABLE_SIZE_DEFAULT};
use crate::record::SizeClass;

fn digest(number: u64) -> Digest {
    Digest::of(&[3; 16], &number.to_le_bytes())
}

/// An entry that both layouts can hold.
fn entry(number: u32) -> Entry {
    let pointer = Pointer { slot: number % 2000, offset: 4096 + (number % 1000) * 16 };
    let class = SizeClass((number % 128) as u8);
    Entry { hotness: (number % 2) as u8, is_cached: number.is_multiple_of(3), ..Entry::new(pointer, class, number) }
}

/// Digests that agree in their first 32 bits.
fn meeting(number: u32) -> Digest {
    let mut bytes = [0xaa; 20];
    bytes[6..10].copy_from_slice(&number.to_le_bytes());
    Digest(bytes)
}

fn grows_and_shrinks<const WIDTH: usize, const BLOCK: usize, const ROW: usize>(
    mut index: SlabIndex<WIDTH, BLOCK, ROW>,
    bytes_max: f64,
) {
    const COUNT: u32 = 1_000_000;
    for number in 0..COUNT {
        assert_eq!(index.upsert(&digest(number.into()), entry(number)), Ok(None));
    }
    index.invariants();
    assert!(index.rows.len() > 1 << LEVEL_MIN, "it has split segments");
    let per_key = index.memory_size() as f64 / index.len() as f64;
    assert!(per_key < bytes_max, "{per_key} bytes per key");
    for number in 0..COUNT {
        assert_eq!(index.get(&digest(number.into())), Some(entry(number)));
    }
    assert_eq!(index.get(&digest(COUNT.into())), None);
    let digests: Vec<Digest> = (COUNT - 50..COUNT + 50).map(|number| digest(number.into())).collect();
    let mut found = vec![None; 100];
    index.get_batch(&digests, &mut found);
    assert!(found.iter().zip(COUNT - 50..).all(|(found, number)| *found == (number < COUNT).then(|| entry(number))));
    index.retain(|entry| entry.pointer.slot % 2 == 0);
    index.invariants();
    assert_eq!(index.len(), COUNT as usize / 2);
    for number in (0..COUNT).step_by(2) {
        assert_eq!(index.remove(&digest(number.into())), Some(entry(number)));
    }
    index.invariants();
    assert_eq!((index.len(), index.rows.len()), (0, 1 << LEVEL_MIN), "it has merged segments");
    index.clear();
    index.invariants();
    assert_eq!(index.get(&digest(2)), None);
}

#[test]
fn a_full_index_grows_and_shrinks_and_costs_less_than_thirty_bytes_a_key() {
    grows_and_shrinks(Index::new(64 * MIB, TABLE_SIZE_DEFAULT), 30.0);
}

#[test]
fn a_dense_index_grows_and_shrinks_and_costs_about_twenty_bytes_a_key() {
    // The heads of its first segments are longer than those entries need.
    grows_and_shrinks(DenseIndex::new(64 * MIB, TABLE_SIZE_DEFAULT), 20.8);
}

#[test]
fn nothing_and_one() {
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    index.invariants();
    assert_eq!((index.get(&digest(1)), index.remove(&digest(1)), index.is_empty()), (None, None, true));
    assert_eq!(index.set_expiry(&digest(1), 7), None);
    assert_eq!(index.upsert(&digest(1), entry(1)), Ok(None));
    index.invariants();
    assert_eq!((index.get(&digest(1)), index.get(&digest(2)), index.len()), (Some(entry(1)), None, 1));
    assert_eq!(index.remove(&digest(1)), Some(entry(1)));
    index.invariants();
    assert!(index.is_empty());
}

#[test]
fn a_spent_budget_is_a_value_and_changes_nothing() {
    let mut index = Index::new(700_000, TABLE_SIZE_DEFAULT);
    let mut number = 0;
    while index.upsert(&digest(number), entry(number as u32)).is_ok() {
        number += 1;
    }
    index.invariants();
    assert!(number > 256, "{number}");
    assert!(!index.has_room());
    assert_eq!(index.len(), number as usize);
    assert_eq!(index.upsert(&digest(number), entry(1)), Err(Full));
    assert_eq!(index.upsert(&digest(0), entry(9)), Ok(Some(entry(0))), "replacing needs no memory");
    assert!(index.remove(&digest(1)).is_some());
    (0..number).filter(|number| *number > 1).for_each(|number| assert!(index.get(&digest(number)).is_some()));
    index.invariants();
}

/// Nothing at all, no block, whole arenas to the block: the last block is like any other.
#[test]
fn budgets_of_all_shapes_are_kept() {
    let rows_size = 512 << LEVEL_MIN;
    for (budget, most) in [(0, 0), (rows_size, 0), (rows_size + 1792, 64), (rows_size + 8192 * 1792, 8192 * 64)] {
        let mut index = Index::new(budget, TABLE_SIZE_DEFAULT);
        let mut number = 0;
        while index.upsert(&digest(number), entry(number as u32)).is_ok() {
            number += 1;
        }
        assert!(number <= most && number >= most / 16 * 15 / 64, "{number} of {most}");
        assert!(!index.has_room());
        index.invariants();
        index.clear();
        assert_eq!(index.upsert(&digest(1), entry(1)).is_ok(), most > 0);
        index.invariants();
    }
}

/// A budget that is spent by many segments: the last blocks, the last rows, and the splits that they do not suffice for.
#[test]
fn a_spent_budget_holds_many_segments_too() {
    let budget = 20 * MIB;
    let mut index = Index::new(budget, TABLE_SIZE_DEFAULT);
    let count = (0..).find(|number| index.upsert(&digest(*number), entry(*number as u32)).is_err()).expect("it ends");
    index.invariants();
    assert!(index.memory_size() <= budget, "{}", index.memory_size());
    let exact = index.len();
    assert!(budget as f64 / (exact as f64) < 30.5, "{exact} fit into {budget} bytes");
    // Removing one and inserting another works all the time.
    for number in 0..20_000 {
        assert!(index.remove(&digest(number)).is_some());
        let _ = index.upsert(&digest(count + number), entry(1));
    }
    index.invariants();
}

/// Salted digests cannot be aimed at a segment. If they were, it would be slow and not wrong.
#[test]
fn keys_that_meet_in_one_segment_are_kept_apart() {
    const COUNT: u32 = 9000;
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    (0..COUNT).for_each(|number| assert_eq!(index.upsert(&meeting(number), entry(number)), Ok(None)));
    index.invariants();
    assert!(!index.overflow.is_empty());
    (0..COUNT).for_each(|number| assert_eq!(index.get(&meeting(number)), Some(entry(number))));
    (0..COUNT).step_by(7).for_each(|number| {
        assert_eq!(index.set_expiry(&meeting(number), 77), Some(entry(number)));
        assert_eq!(index.get(&meeting(number)).map(|entry| entry.expiry), Some(77));
    });
    let mut visited = 0;
    let mut cursor = Some(Cursor::START);
    while let Some(from) = cursor {
        cursor = index.walk(from, |digest, entry| {
            visited += 1;
            assert_eq!(index.get(&digest), Some(entry));
        });
    }
    assert_eq!(visited, COUNT);
    (0..COUNT).step_by(3).for_each(|number| assert!(index.remove(&meeting(number)).is_some()));
    index.invariants();
    assert_eq!(index.len(), COUNT as usize / 3 * 2);
    index.retain(|entry| entry.pointer.slot % 2 == 0);
    index.invariants();
    (0..COUNT).for_each(|number| {
        let expected = number % 3 != 0 && number % 2000 % 2 == 0;
        assert_eq!(index.get(&meeting(number)).is_some(), expected, "{number}");
    });
}

/// What overflowed goes back where it belongs when its segment is split.
#[test]
fn a_split_takes_back_what_has_overflowed() {
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    // All in segment 0, apart in the first bit behind its own.
    let crowded = |number: u32| {
        let mut digest = digest(number.into());
        digest.0[2] = 0;
        digest.0[3] &= 0x7f;
        digest
    };
    let count = Index::LEN_MAX as u32 + 200;
    (0..count).for_each(|number| assert_eq!(index.upsert(&crowded(number), entry(number)), Ok(None)));
    index.invariants();
    assert!(!index.overflow.is_empty());
    let mut others = 0;
    while index.level == LEVEL_MIN && index.split_count == 0 {
        let other = digest(1_000_000 + others);
        if other.0[2] != 0 {
            assert_eq!(index.upsert(&other, entry(0)), Ok(None));
        }
        others += 1;
    }
    index.invariants();
    assert!(index.overflow.is_empty(), "both halves have room");
    (0..count).for_each(|number| assert_eq!(index.get(&crowded(number)), Some(entry(number))));
}

#[test]
fn the_widest_entry_fits() {
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    let slot = Index::slot_count_max(TABLE_SIZE_DEFAULT) as u32 - 1;
    assert!(u64::from(slot + 1) * TABLE_SIZE_DEFAULT as u64 >= 8 << 40, "8 TiB");
    let pointer = Pointer { slot, offset: (TABLE_SIZE_DEFAULT - 16) as u32 };
    let widest = Entry { pointer, class: Index::CLASS_MAX, expiry: u32::MAX, hotness: 3, is_cached: true };
    assert_eq!(index.upsert(&digest(1), widest), Ok(None));
    assert_eq!(index.get(&digest(1)), Some(widest));

    let mut dense = DenseIndex::new(MIB, TABLE_SIZE_DEFAULT);
    let slot = DenseIndex::slot_count_max(TABLE_SIZE_DEFAULT) as u32 - 1;
    let pointer = Pointer { slot, offset: (TABLE_SIZE_DEFAULT - 16) as u32 };
    let widest = Entry { pointer, class: DenseIndex::CLASS_MAX, expiry: u32::MAX, hotness: 1, is_cached: true };
    assert_eq!(dense.upsert(&digest(1), widest), Ok(None));
    assert_eq!(dense.get(&digest(1)), Some(widest));
    assert!(DenseIndex::CLASS_MAX.size() >= 3 * MIB + 3 * MIB / 4);
}

/// 32 bits of seconds end in 2106: the last of them is an expiry like any other, and the record is gone then.
#[test]
fn expiry_holds_until_2106() {
    use crate::clock::is_expired;
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    for expiry in [0, 1, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX - 1, u32::MAX] {
        assert!(index.upsert(&digest(1), Entry { expiry, ..entry(1) }).is_ok());
        assert_eq!(index.get(&digest(1)).map(|entry| entry.expiry), Some(expiry));
        assert_eq!(is_expired(expiry, u32::MAX), expiry != 0);
        assert!(!is_expired(expiry, 0));
    }
}

#[test]
fn what_points_elsewhere_by_now_stays() {
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    index.upsert(&digest(1), entry(1)).expect("there is room");
    assert!(!index.replace_at(&digest(1), entry(2).pointer, entry(3)));
    assert_eq!(index.remove_at(&digest(1), entry(2).pointer), None);
    assert_eq!(index.get(&digest(1)), Some(entry(1)));
    assert!(index.replace_at(&digest(1), entry(1).pointer, entry(3)));
    assert_eq!(index.get(&digest(1)), Some(entry(3)));
    assert_eq!(index.remove_at(&digest(1), entry(3).pointer), Some(entry(3)));
    assert!(!index.replace_at(&digest(1), entry(3).pointer, entry(1)));
    assert!(index.is_empty());
}

#[test]
fn an_index_is_built_from_sorted_entries() {
    for (count, len_expected) in
        [(0u32, 0), (1, 1), (500_000, 500_000), (500_000, 1000), (1_500_000, 1000), (100_000, 900_000)]
    {
        let mut sorted: Vec<_> = (0..count).map(|number| (digest(number.into()), entry(number))).collect();
        sorted.sort_by_key(|(digest, _)| Index::order(digest));
        let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
        assert_eq!(index.build(len_expected, sorted.iter().copied()), Ok(()));
        index.invariants();
        assert_eq!(index.len(), count as usize);
        (0..count).for_each(|number| assert_eq!(index.get(&digest(number.into())), Some(entry(number))));
        let mut walked = Vec::new();
        let mut cursor = Some(Cursor::START);
        while let Some(from) = cursor {
            cursor = index.walk(from, |digest, entry| walked.push((digest, entry)));
        }
        assert!(walked == sorted, "a walk finds what it was built from, in the same order");
        for number in 0..count.min(1000) {
            assert!(index.remove(&digest(number.into())).is_some());
            assert!(index.upsert(&digest(1_000_000 + u64::from(number)), entry(number)).is_ok());
        }
        index.invariants();
    }
}

#[test]
fn what_is_not_sorted_or_does_not_fit_leaves_the_index_empty() {
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    let mut sorted: Vec<_> = (0..100_000).map(|number| (digest(number), entry(1))).collect();
    sorted.sort_by_key(|(digest, _)| Index::order(digest));
    assert_eq!(index.build(sorted.len(), sorted.iter().copied()), Err(BuildError::Full(Full)));
    assert!(index.is_empty());
    assert_eq!(index.build(2, [sorted[1], sorted[0]]), Err(BuildError::Unsorted));
    assert_eq!(index.build(2, [sorted[1], sorted[1]]), Err(BuildError::Unsorted));
    index.invariants();
    assert!(index.is_empty());
    let meeting: Vec<_> = (0..3000).map(|number: u32| (meeting(number.swap_bytes()), entry(number))).collect();
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    assert_eq!(index.build(3000, meeting), Ok(()), "even when they are all in one segment");
    index.invariants();
}

/// What has overflowed neither keeps segments from being merged, nor stays out when there is room again.
#[test]
fn overflowed_entries_do_not_stand_in_the_way() {
    // Apart in the last bits that entries store, and thirty times in one bucket.
    let crowd = |number: u64| {
        let mut digest = digest(number / 30);
        digest.0[12..].copy_from_slice(&number.to_le_bytes());
        digest
    };
    const COUNT: u64 = 900_000;
    let mut index = Index::new(8192 * MIB, TABLE_SIZE_DEFAULT);
    (0..COUNT).for_each(|number| assert_eq!(index.upsert(&crowd(number), entry(number as u32)), Ok(None)));
    index.invariants();
    assert!(index.overflow.len() >= COUNT as usize / 2 && index.rows.len() > 800);
    for number in (0..COUNT).filter(|number| number % 30 >= 10) {
        assert!(index.remove(&crowd(number)).is_some());
    }
    index.invariants();
    assert_eq!(index.len(), COUNT as usize / 3);
    // Where two such crowds meet in a bucket there still are twenty.
    assert!(index.overflow.len() < 15_000, "{} of {}", index.overflow.len(), index.len());
    assert!(index.rows.len() < 600, "{} segments", index.rows.len());
    for number in 0..COUNT {
        assert_eq!(index.get(&crowd(number)).is_some(), number % 30 < 10, "{number}");
    }
}

#[test]
fn the_budget_changes_while_there_is_room_for_it() {
    let mut index = Index::new(8 * MIB, TABLE_SIZE_DEFAULT);
    let digest = |number: u64| Digest::of(&[7; 16], &number.to_le_bytes());
    let fill = |index: &mut Index, first: u64| {
        (first..).find(|number| index.upsert(&digest(*number), entry(*number as u32)).is_err()).expect("it fills up")
    };
    assert!(index.set_budget(24 * MIB));
    let in_24 = fill(&mut index, 0);
    assert!(index.memory_size() > 16 * MIB && index.memory_size() <= 24 * MIB, "{}", index.memory_size());
    assert!(!index.set_budget(8 * MIB), "it is in use");
    let mut small = Index::new(8 * MIB, TABLE_SIZE_DEFAULT);
    let in_8 = fill(&mut small, 0);
    assert!(in_8 * 2 < in_24, "{in_8} {in_24}");
    assert!((0..in_24).all(|number| index.get(&digest(number)).is_some()));
}

#[test]
fn cooling_lowers_what_is_hot_and_not_cached_and_nothing_else() {
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    let entry_of =
        |number: u32| Entry { hotness: (number % 4) as u8, is_cached: number.is_multiple_of(5), ..entry(number) };
    const LEN: u32 = 30_000;
    for number in 0..LEN {
        index.upsert(&digest(number.into()), entry_of(number)).expect("there is room");
    }
    for lap in 1..4u8 {
        let (mut count, mut cursor) = (0, Some(Cursor::START));
        while let Some(from) = cursor {
            let (visited, next) = index.cool(from);
            (count, cursor) = (count + visited, next);
        }
        assert_eq!(count, LEN as usize);
        for number in 0..LEN {
            let mut expected = entry_of(number);
            if !expected.is_cached && expected.hotness > 1 {
                expected.hotness = expected.hotness.saturating_sub(lap).max(1);
            }
            assert_eq!(index.get(&digest(number.into())), Some(expected), "lap {lap}");
        }
    }
    index.invariants();
}
