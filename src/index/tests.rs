//! The index against a `HashMap`.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::limits::{MIB, TABLE_SIZE_DEFAULT};
use crate::record::SizeClass;

fn digest(number: u64) -> Digest {
    Digest::of(&[3; 16], &number.to_le_bytes())
}

fn entry(number: u32) -> Entry {
    let pointer = Pointer { slot: number % 100_000, offset: 4096 + (number % 1000) * 16 };
    Entry { pointer, class: SizeClass(number as u8), expiry: number }
}

#[test]
fn a_hundred_thousand_keys_are_found_and_cost_about_thirty_bytes_each() {
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    for number in 0..100_000u32 {
        assert_eq!(index.upsert(&digest(number.into()), entry(number)), Ok(None));
    }
    index.invariants();
    for number in 0..100_000u32 {
        assert_eq!(index.get(&digest(number.into())), Some(entry(number)));
    }
    assert_eq!(index.get(&digest(100_000)), None);
    let per_key = index.memory_size() as f64 / index.len() as f64;
    assert!(per_key < 31.5, "{per_key} bytes per key");
    index.retain(|entry| entry.pointer.slot % 2 == 0);
    index.invariants();
    assert_eq!(index.len(), 50_000);
    index.clear();
    index.invariants();
    assert_eq!(index.get(&digest(2)), None);
}

#[test]
fn a_spent_budget_is_a_value_and_changes_nothing() {
    let mut index = Index::new(300 * BLOCK_SIZE, TABLE_SIZE_DEFAULT);
    let mut number = 0;
    while index.upsert(&digest(number), entry(number as u32)).is_ok() {
        number += 1;
    }
    index.invariants();
    assert!(number > 256, "{number}");
    assert_eq!(index.len(), number as usize);
    assert_eq!(index.upsert(&digest(0), entry(9)), Ok(Some(entry(0))), "replacing needs no memory");
    assert!(index.remove(&digest(1)).is_some());
    (0..number).filter(|number| *number > 1).for_each(|number| assert!(index.get(&digest(number)).is_some()));
}

/// Digests that agree in their first 32 bits cannot be told apart by the directory: the segment grows instead.
#[test]
fn keys_that_meet_in_one_segment_are_kept_apart() {
    let mut index = Index::new(64 * MIB, TABLE_SIZE_DEFAULT);
    let meeting = |number: u32| {
        let mut bytes = [0xaa; 20];
        bytes[10..14].copy_from_slice(&number.to_le_bytes());
        Digest(bytes)
    };
    (0..3000).for_each(|number| assert_eq!(index.upsert(&meeting(number), entry(number)), Ok(None)));
    (0..3000).for_each(|number| assert_eq!(index.get(&meeting(number)), Some(entry(number))));
    (0..3000).step_by(3).for_each(|number| assert_eq!(index.remove(&meeting(number)), Some(entry(number))));
    index.invariants();
    assert_eq!(index.len(), 2000);
}

#[test]
fn the_widest_pointer_fits() {
    let mut index = Index::new(MIB, TABLE_SIZE_DEFAULT);
    let slot = Index::slot_count_max(TABLE_SIZE_DEFAULT) as u32 - 1;
    let pointer = Pointer { slot, offset: (TABLE_SIZE_DEFAULT - 16) as u32 };
    let widest = Entry { pointer, class: SizeClass(255), expiry: u32::MAX };
    assert_eq!(index.upsert(&digest(1), widest), Ok(None));
    assert_eq!(index.get(&digest(1)), Some(widest));
}

#[derive(Clone, Debug)]
enum Operation {
    Upsert(u16, u32),
    Remove(u16),
    Expiry(u16, u32),
    Retain(u32),
    Clear,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        60 => (any::<u16>(), any::<u32>()).prop_map(|(key, value)| Operation::Upsert(key, value)),
        30 => any::<u16>().prop_map(Operation::Remove),
        10 => (any::<u16>(), any::<u32>()).prop_map(|(key, value)| Operation::Expiry(key, value)),
        1 => (1u32..9).prop_map(Operation::Retain),
        1 => Just(Operation::Clear),
    ];
    proptest::collection::vec(one, 1..400)
}

/// All keys fall into four segments of the directory, so that segments are split often.
fn crowded(key: u16) -> Digest {
    let mut digest = digest(u64::from(key) % 2000);
    digest.0[2] &= 0xc0;
    digest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(start in 0u16..2000, operations in operations()) {
        let mut index = Index::new(4 * MIB, TABLE_SIZE_DEFAULT);
        let mut model: HashMap<Digest, Entry> = HashMap::new();
        for key in 0..start {
            index.upsert(&crowded(key), entry(u32::from(key))).expect("fits");
            model.insert(crowded(key), entry(u32::from(key)));
        }
        for operation in operations {
            match operation {
                Operation::Upsert(key, value) => {
                    prop_assert_eq!(index.upsert(&crowded(key), entry(value)), Ok(model.insert(crowded(key), entry(value))));
                }
                Operation::Remove(key) => prop_assert_eq!(index.remove(&crowded(key)), model.remove(&crowded(key))),
                Operation::Expiry(key, expiry) => {
                    let old = model.get(&crowded(key)).copied();
                    model.entry(crowded(key)).and_modify(|entry| entry.expiry = expiry);
                    prop_assert_eq!(index.set_expiry(&crowded(key), expiry), old);
                }
                Operation::Retain(divisor) => {
                    index.retain(|entry| entry.pointer.slot % divisor != 0);
                    model.retain(|_, entry| entry.pointer.slot % divisor != 0);
                }
                Operation::Clear => {
                    index.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
        index.invariants();
        for (digest, entry) in &model {
            prop_assert_eq!(index.get(digest), Some(*entry));
        }
    }
}
