//! Damaged files and failing devices cost what they must and nothing else.

use std::path::Path;

use super::*;
use crate::io::sim::Faults;
use crate::recovery::tables::table_path;

const COUNT: u32 = 3000;

/// A closed store of several tables.
fn filled() -> Sim {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..COUNT {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    sim
}

fn first_table() -> PathBuf {
    table_path(&Path::new(DIRECTORY).join("shard-0000"), 0)
}

/// Opens the store, reads every key, and returns how many are missing. None may be wrong.
fn missing(sim: &Sim) -> u32 {
    sim.run(async {
        let store = open(sim, options()).await;
        let mut missing = 0;
        for number in 0..COUNT {
            match bytes(&store, &key(number)).await {
                Some(bytes) => assert_eq!(bytes, value(number, 1, 900), "key {number}"),
                None => missing += 1,
            }
        }
        assert!(matches!(store.set(b"new", b"v", Meta::default()).await, Stored::Stored(_)));
        store.close().await.expect("closes");
        missing
    })
}

#[test]
fn nothing_is_missing_from_a_whole_store() {
    assert_eq!(missing(&filled()), 0);
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_counted() {
    let sim = filled();
    sim.tamper(&first_table(), |bytes| bytes[4096 + 300] ^= 4);
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(bytes(&store, &key(0)).await, None);
        assert_eq!(store.counters().damaged_records, 1);
        assert!(matches!(store.put(&key(0), b"v", Meta::default(), Condition::Absent).await, Stored::Stored(_)));
        store.close().await.expect("closes");
    });
    assert_eq!(missing_but(&sim, 0), 0);
}

fn missing_but(sim: &Sim, except: u32) -> u32 {
    sim.run(async {
        let store = open(sim, options()).await;
        let mut missing = 0;
        for number in (0..COUNT).filter(|number| *number != except) {
            missing += u32::from(bytes(&store, &key(number)).await.is_none());
        }
        missing
    })
}

#[test]
fn header_trailer_and_footer_can_each_be_lost() {
    for offset in [0, 40, MIB - 4096, MIB - 4096 + 40, MIB - 2 * 4096 + 100] {
        let sim = filled();
        sim.tamper(&first_table(), |bytes| bytes[offset] ^= 1);
        assert_eq!(missing(&sim), 0, "byte {offset}");
    }
}

#[test]
fn a_table_cut_short_loses_what_was_behind_the_cut() {
    for size in [0, 5000, MIB / 2, MIB - 4096, MIB - 1] {
        let sim = filled();
        sim.tamper(&first_table(), |bytes| bytes.truncate(size));
        let lost = missing(&sim);
        let in_table = (MIB / 960) as u32;
        let expected = in_table * (MIB - size) as u32 / MIB as u32;
        assert!(lost <= expected + 5, "{lost} lost of {in_table} when cut at {size}");
        assert_eq!(missing(&sim), lost, "and no more at the next start");
    }
}

#[test]
fn a_foreign_or_missing_table_costs_its_own_records_only() {
    let sim = filled();
    let other = table_path(&Path::new(DIRECTORY).join("shard-0000"), 1);
    let contents = sim.read_small(&other).expect("readable").expect("there");
    sim.tamper(&first_table(), |bytes| *bytes = contents);
    let lost = missing(&sim);
    assert!(lost > 0 && lost < COUNT / 2, "{lost}");
    let sim = filled();
    sim.remove(&first_table()).expect("there");
    assert_eq!(missing(&sim), lost);
}

#[test]
fn start_is_refused_with_a_reason() {
    let refused = |sim: &Sim, options: StoreOptions| {
        sim.run(async { Store::open(sim.clone(), options, |_| {}).await.err().expect("refused") })
    };
    let sim = filled();
    let wrong_size = StoreOptions { table_size: Some(2 * MIB as u64), ..options() };
    assert!(matches!(refused(&sim, wrong_size), OpenError::TableSize { .. }));
    assert!(matches!(
        refused(&sim, StoreOptions { capacity: 3 * MIB as u64, ..options() }),
        OpenError::Capacity { .. }
    ));
    assert!(matches!(refused(&sim, StoreOptions { item_size_max: 2 * MIB, ..options() }), OpenError::ItemSize { .. }));
    sim.run(async {
        let _store = open(&sim, options()).await;
        let second = Store::open(sim.clone(), options(), |_| {}).await;
        assert!(matches!(second, Err(OpenError::InUse(_))));
    });
    let superblock = Path::new(DIRECTORY).join("superblock");
    let newer = filled();
    newer.tamper(&superblock, |bytes| {
        bytes[12] = 3;
        bytes[8..12].fill(0);
        let checksum = crc32c::crc32c(bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    });
    assert!(matches!(refused(&newer, options()), OpenError::FormatVersion { found: 3, .. }));
    let damaged = filled();
    damaged.tamper(&superblock, |bytes| bytes[50] ^= 1);
    assert!(matches!(refused(&damaged, options()), OpenError::Superblock { .. }));
    let foreign = world();
    foreign.replace_small(&Path::new(DIRECTORY).join("thesis.tex"), b"x").expect("written");
    assert!(matches!(refused(&foreign, options()), OpenError::NotOurs { .. }));
}

#[test]
fn a_failing_read_is_an_error_and_the_record_is_there_again_afterwards() {
    let sim = filled();
    sim.run(async {
        let store = open(&sim, options()).await;
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        assert!(store.get(&key(7)).await.is_err());
        assert_eq!(store.counters().disk_read_errors, 1);
        sim.set_faults(Faults::default());
        assert_eq!(bytes(&store, &key(7)).await, Some(value(7, 1, 900)));
    });
}

#[test]
fn records_whose_write_failed_are_misses_and_the_others_stay() {
    let sim = filled();
    sim.run(async {
        let store = open(&sim, options()).await;
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        for number in 0..100 {
            store.set(&key(number), b"never on disk", Meta::default()).await;
        }
        store.flush().await;
        assert!(store.counters().disk_write_errors > 0);
        sim.set_faults(Faults::default());
        for number in 0..100 {
            assert_eq!(bytes(&store, &key(number)).await, None, "neither the new value nor the one before");
        }
        for number in 100..200 {
            store.set(&key(number), b"on disk", Meta::default()).await;
        }
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        for number in 100..200 {
            assert_eq!(bytes(&store, &key(number)).await.as_deref(), Some(&b"on disk"[..]));
        }
        assert_eq!(bytes(&store, &key(300)).await, Some(value(300, 1, 900)));
    });
}
