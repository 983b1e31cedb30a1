//! Reclaim: records are moved, nothing is lost, nothing comes back, and it never stops.

use std::collections::BTreeMap;

use super::*;
use crate::index::Pointer;

/// Of records of `SIZE` bytes, those that a store of 16 tables holds at 75 %.
const COUNT: u32 = 12_000;
const SIZE: usize = 900;

fn keeping() -> StoreOptions {
    StoreOptions { evict: false, ..options() }
}

/// A sequence of numbers that has no order to speak of.
fn scattered(seed: u32) -> impl Iterator<Item = u32> {
    let mut state = u64::from(seed) * 2 + 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((state >> 33) as u32)
    })
}

async fn must_set(store: &Store<Sim>, number: u32, stamp: u32) {
    let stored = store.set(&key(number), &value(number, stamp, SIZE), Meta::default()).await;
    assert!(matches!(stored, Stored::Stored(_)), "key {number}, {stamp}: {stored:?}");
}

async fn fill(store: &Store<Sim>) -> BTreeMap<u32, u32> {
    for number in 0..COUNT {
        must_set(store, number, 0).await;
    }
    (0..COUNT).map(|number| (number, 0)).collect()
}

async fn check(store: &Store<Sim>, expected: &BTreeMap<u32, u32>) {
    for number in 0..COUNT {
        let known = expected.get(&number).map(|stamp| value(number, *stamp, SIZE));
        assert_eq!(brief(bytes(store, &key(number)).await), brief(known), "key {number}");
    }
    store.recount().expect("the books are right");
}

/// What was written to the device for each byte of records that was written to the store.
fn amplification(before: &crate::stats::StoreCounters, after: &crate::stats::StoreCounters) -> f64 {
    let records = (after.values_stored - before.values_stored) * 960;
    (after.disk_write_bytes - before.disk_write_bytes) as f64 / records as f64
}

#[test]
fn a_store_is_overwritten_for_ever() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        let mut expected = fill(&store).await;
        let mut numbers = scattered(1);
        let mut before = store.counters();
        for round in 1..=4 {
            before = store.counters();
            for _ in 0..3 * COUNT {
                let number = numbers.next().expect("endless") % COUNT;
                must_set(&store, number, round).await;
                expected.insert(number, round);
            }
            check(&store, &expected).await;
        }
        let after = store.counters();
        assert_eq!((after.evictions, after.refused_writes), (0, 0));
        assert!(after.reclaim_records > u64::from(COUNT), "{after:?}");
        // In theory 2.2 with a great many tables; of these sixteen two are being written to, and two are reserves.
        let amplification = amplification(&before, &after);
        assert!(amplification > 1.5 && amplification < 8.0, "{amplification}");
    });
}

#[test]
fn deleted_keys_stay_deleted_however_often_their_tables_are_emptied() {
    let sim = world();
    sim.run(async {
        let mut store = open(&sim, keeping()).await;
        let mut expected = fill(&store).await;
        let (mut numbers, mut moved_count) = (scattered(2), 0);
        for round in 1..=6 {
            for _ in 0..COUNT {
                let number = numbers.next().expect("endless") % COUNT;
                if number.is_multiple_of(5) {
                    let known = if expected.remove(&number).is_some() { Changed::Done } else { Changed::NotFound };
                    assert_eq!(store.delete(&key(number)).await, known);
                } else {
                    must_set(&store, number, round).await;
                    expected.insert(number, round);
                }
            }
            check(&store, &expected).await;
            if round % 2 == 0 {
                moved_count += store.counters().reclaim_records;
                store.close().await.expect("closes");
                store = open(&sim, keeping()).await;
                check(&store, &expected).await;
            }
        }
        assert!(moved_count > 0);
    });
}

#[test]
fn a_kill_while_records_are_moved_loses_nothing() {
    for kill in 0..12 {
        let sim = world();
        let (killed, expected) = sim.run(async {
            let store = open(&sim, keeping()).await;
            let mut expected = fill(&store).await;
            let mut numbers = scattered(kill);
            for _ in 0..COUNT + kill * 977 {
                let number = numbers.next().expect("endless") % COUNT;
                must_set(&store, number, 1 + kill).await;
                expected.insert(number, 1 + kill);
            }
            store.flush().await;
            (sim.after_kill(), expected)
        });
        killed.run(async {
            let store = open(&killed, keeping()).await;
            check(&store, &expected).await;
        });
    }
}

/// memcached #1047: a record was rescued although only the page and not the offset was the one that the index pointed at.
#[test]
fn an_older_version_in_the_same_table_is_not_rescued() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        let mut expected = BTreeMap::new();
        // Several versions of each key in one table, on disk.
        for stamp in 0..3 {
            for number in 0..200 {
                must_set(&store, number, stamp).await;
                expected.insert(number, stamp);
            }
            store.forget_memory().await;
        }
        for number in 200..1200 {
            must_set(&store, number, 0).await;
        }
        store.forget_memory().await;
        let first = store.shared.state.borrow().index.get(&store.digest(&key(0))).expect("there").pointer;
        let before = store.counters();
        store.shared.reclaim(first.slot, super::super::reclaim::Method::Move).await.expect("emptied");
        let after = store.counters();
        assert!(after.reclaim_records - before.reclaim_records < 1000, "{after:?}");
        for (number, stamp) in &expected {
            assert_eq!(brief(bytes(&store, &key(*number)).await), brief(Some(value(*number, *stamp, SIZE))));
            let now = store.shared.state.borrow().index.get(&store.digest(&key(*number))).expect("there").pointer;
            assert_ne!(now.slot, first.slot);
        }
        store.recount().expect("the books are right");
    });
}

/// memcached #1270: a key that was read all the time was taken for deleted while it was moved.
#[test]
fn a_key_that_is_read_all_the_time_is_there_all_the_time() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        store.enable_cache(false);
        fill(&store).await;
        let (hot, mut moves, mut at) = (4321, 0, None::<Pointer>);
        let mut numbers = scattered(3);
        let before = store.counters();
        let mut gets = 0;
        for _ in 0..4 * COUNT {
            let number = numbers.next().expect("endless") % COUNT;
            if number != hot {
                must_set(&store, number, 1).await;
            }
            assert_eq!(brief(bytes(&store, &key(hot)).await), brief(Some(value(hot, 0, SIZE))));
            gets += 1;
            let now = store.shared.state.borrow().index.get(&store.digest(&key(hot))).expect("there").pointer;
            moves += u32::from(at.replace(now).is_some_and(|before| before != now));
        }
        assert!(moves > 0, "it was never moved");
        let after = store.counters();
        assert_eq!(after.disk_reads - before.disk_reads, gets, "one read for each");
    });
}

/// What is written while its table is emptied wins, and so does a deletion or a touch.
#[test]
fn what_changes_while_it_is_moved_stays_changed() {
    let sim = world();
    let (killed, expected) = sim.run(async {
        let store = open(&sim, keeping()).await;
        let mut expected = BTreeMap::new();
        for number in 0..1500 {
            must_set(&store, number, 0).await;
            expected.insert(number, 0);
        }
        store.forget_memory().await;
        let slot = store.shared.state.borrow().index.get(&store.digest(&key(0))).expect("there").pointer.slot;
        let moving = store.clone();
        sim.spawn(async move {
            moving.shared.reclaim(slot, super::super::reclaim::Method::Move).await.expect("emptied");
        });
        for number in 0..700 {
            sim.yield_now().await;
            match number % 3 {
                0 => {
                    must_set(&store, number, 1).await;
                    expected.insert(number, 1);
                }
                1 => {
                    assert_eq!(store.delete(&key(number)).await, Changed::Done);
                    expected.remove(&number);
                }
                _ => assert_eq!(store.touch(&key(number), sim.now() + 1000).await, Changed::Done),
            }
        }
        while store.shared.state.borrow().catalog.get(slot).expect("there").live_count > 0 {
            sim.sleep(Duration::from_millis(10)).await;
        }
        store.flush().await;
        (sim.after_kill(), expected)
    });
    killed.run(async {
        let store = open(&killed, keeping()).await;
        for number in 0..1500 {
            let known = expected.get(&number).map(|stamp| value(number, *stamp, SIZE));
            assert_eq!(brief(bytes(&store, &key(number)).await), brief(known), "key {number}");
        }
        killed.sleep(Duration::from_secs(2000)).await;
        for number in 0..700 {
            let is_there = number % 3 == 0;
            assert_eq!(bytes(&store, &key(number)).await.is_some(), is_there, "key {number} was touched, or not");
        }
    });
}

/// Dragonfly #8024: work that gains nothing, for ever. A full store that may not evict refuses at once, and goes on when there is
/// something to be had.
#[test]
fn a_full_store_neither_spins_nor_stops() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        let mut count = 0;
        while matches!(store.set(&key(count), &value(count, 0, SIZE), Meta::default()).await, Stored::Stored(_)) {
            count += 1;
        }
        let full = store.counters();
        sim.sleep(Duration::from_secs(60)).await;
        let later = store.counters();
        assert_eq!(full.reclaim_records, later.reclaim_records, "there is nothing to be won");
        let overwritten = (0..count).filter(|number| number % 16 == 7).collect::<Vec<u32>>();
        let mut refused = 0;
        for round in 1..20 {
            for number in &overwritten {
                let stored = store.set(&key(*number), &value(*number, round, SIZE), Meta::default()).await;
                refused += u32::from(!matches!(stored, Stored::Stored(_)));
            }
            for number in 0..count / 20 {
                store.delete(&key((round - 1) * (count / 20) + number)).await;
            }
        }
        assert!(refused < overwritten.len() as u32 * 3, "{refused} of {} refused", overwritten.len() * 19);
        store.recount().expect("the books are right");
    });
}

/// A table that holds nothing but records that have expired is not read any more.
#[test]
fn tables_of_expired_records_are_taken_back_unread() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        for round in 0..12 {
            let expiry = sim.now() + 100;
            for number in 0..COUNT / 2 {
                let number = round * COUNT + number;
                let stored = store.set(&key(number), &value(number, 1, SIZE), expiring(expiry)).await;
                assert!(matches!(stored, Stored::Stored(_)), "{stored:?}");
            }
            sim.sleep(Duration::from_secs(150)).await;
        }
        let counters = store.counters();
        assert_eq!(counters.reclaim_records, 0, "{counters:?}");
        assert!(counters.tables_reclaimed_unread > 20, "{counters:?}");
    });
}

/// With 64 tables, new records that will live for long have a table of their own, and so have moved ones. What is where makes
/// no difference to anybody who asks.
#[test]
fn what_is_written_side_by_side_is_found_whatever_happens() {
    let many = StoreOptions { capacity: 64 * MIB as u64, memory: 16 * MIB, ..keeping() };
    let sim = world();
    let (killed, expected) = sim.run(async {
        let mut store = open(&sim, many.clone()).await;
        let mut expected = BTreeMap::new();
        let mut numbers = scattered(7);
        let count = 4 * COUNT;
        for round in 0..4 {
            for _ in 0..count {
                let number = numbers.next().expect("endless");
                // Nine of ten writes are about a tenth of the keys.
                let number = if number % 10 < 9 { (number / 10) % (count / 10) } else { (number / 10) % count };
                if number % 11 == 10 {
                    let expiry = sim.now() + if number % 2 == 0 { 50 } else { 1_000_000 };
                    store.set(&key(number), &value(number, round, SIZE), expiring(expiry)).await;
                    expected.insert(number, if number % 2 == 0 { None } else { Some(round) });
                } else {
                    must_set(&store, number, round).await;
                    expected.insert(number, Some(round));
                }
            }
            sim.sleep(Duration::from_secs(100)).await;
            store.recount().expect("the books are right");
            if round == 1 {
                store.close().await.expect("closes");
                store = open(&sim, many.clone()).await;
            }
        }
        let streams: Vec<u8> = {
            let state = store.shared.state.borrow();
            assert!(state.has_second_lane());
            state.catalog.iter().map(|(_, table)| table.stream).collect()
        };
        for stream in 0..4 {
            assert!(streams.contains(&stream), "{stream} of {streams:?}");
        }
        store.flush().await;
        (sim.after_kill(), expected)
    });
    killed.run(async {
        let store = open(&killed, many.clone()).await;
        for (number, stamp) in expected {
            let known = stamp.map(|stamp| value(number, stamp, SIZE));
            assert_eq!(brief(bytes(&store, &key(number)).await), brief(known), "key {number}");
        }
        store.recount().expect("the books are right");
    });
}

/// Tombstones are needed as long as a table is left that is older: records that never change would have them pile up.
#[test]
fn tombstones_do_not_pile_up_beside_records_that_never_change() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        for number in 0..COUNT / 2 {
            must_set(&store, number, 0).await;
        }
        // Each is small beside its tombstone.
        let count = 400_000;
        for number in 0..count {
            let name = key(1_000_000 + number);
            let stored = store.set(&name, b"brief", Meta::default()).await;
            assert!(matches!(stored, Stored::Stored(_)), "{number}: {stored:?}");
            if number % 1000 == 999 {
                store.flush().await;
            }
            if let Some(earlier) = number.checked_sub(3000) {
                assert_eq!(store.delete(&key(1_000_000 + earlier)).await, Changed::Done);
            }
        }
        for number in 0..COUNT / 2 {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
        let state = store.shared.state.borrow();
        let guards: u64 = state.catalog.iter().map(|(_, table)| table.guard_size).sum();
        assert!(guards < 12 * MIB as u64, "{guards} bytes of tombstones");
    });
}

/// A table in which hardly anything is written stays open; what is said later must not be kept because of it.
#[test]
fn tombstones_do_not_pile_up_behind_a_table_that_never_fills() {
    let many = StoreOptions { capacity: 64 * MIB as u64, memory: 16 * MIB, ..keeping() };
    let sim = world();
    sim.run(async {
        let store = open(&sim, many).await;
        for number in 1..1_300_000 {
            let meta = expiring(sim.now() + 300);
            let stored = store.set(&key(number), &value(number, 0, 60), meta).await;
            assert!(matches!(stored, Stored::Stored(_)), "{number}: {stored:?}");
            if let Some(earlier) = number.checked_sub(3000).filter(|earlier| *earlier > 0) {
                assert_eq!(store.delete(&key(earlier)).await, Changed::Done);
            }
            // When it is known how long records live, one comes that lives longer.
            if number == 600_000 {
                must_set(&store, 0, 0).await;
            }
            if number % 20 == 0 {
                sim.advance(Duration::from_secs(1));
            }
            if number % 1000 == 0 {
                store.flush().await;
            }
        }
        assert!(bytes(&store, &key(0)).await.is_some());
        let state = store.shared.state.borrow();
        let guards: u64 = state.catalog.iter().map(|(_, table)| table.guard_size).sum();
        let next = state.catalog.next_sequence();
        let oldest = state.catalog.two_oldest_sequences().0;
        assert!(guards < 16 * MIB as u64, "{guards} bytes of tombstones");
        assert!(next > 150 && next - oldest < 64, "{oldest} of {next}");
    });
}
