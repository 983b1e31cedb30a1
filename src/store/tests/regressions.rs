//! Defects that were found once, each with its story; none of them may come back.

use std::path::Path;

use super::*;
use crate::io::sim::Faults;
use crate::recovery::tables::table_path;

fn table(slot: u32) -> PathBuf {
    table_path(&Path::new(DIRECTORY).join("shard-0000"), slot)
}

/// A delayed flush falls due while no buffer is free.
#[test]
fn a_delayed_flush_that_finds_no_room_takes_nothing_written_later() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.flush_all(Some(store.now() + 10)).await;
        sim.advance(Duration::from_secs(9));
        // Until no buffer is left: polled once, a put that has to wait is pending.
        let mut number = 0;
        loop {
            let bytes = value(number, 1, 9000);
            let name = key(number);
            let mut put = Box::pin(store.set(&name, &bytes, Meta::default()));
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            if put.as_mut().poll(&mut context).is_pending() {
                break;
            }
            number += 1;
        }
        sim.advance(Duration::from_secs(3));
        assert_eq!(bytes(&store, &key(0)).await, None, "flushed");
        assert!(matches!(store.set(b"after", b"v", Meta::default()).await, Stored::Stored(_)));
        assert!(bytes(&store, b"after").await.is_some());
        store.close().await.expect("closes");
    });
    sim.run(async {
        let store = open(&sim, options()).await;
        assert!(bytes(&store, b"after").await.is_some(), "written after the flush");
    });
}

/// Header of the last table damaged, resumed, killed.
#[test]
fn a_table_with_a_damaged_header_is_resumed_and_survives_a_kill() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..100 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    sim.tamper(&table(0), |bytes| bytes[40] ^= 1);
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        assert!(bytes(&store, &key(5)).await.is_some());
        store.set(b"more", b"v", Meta::default()).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert!(bytes(&store, &key(5)).await.is_some(), "old record");
        assert!(bytes(&store, b"more").await.is_some(), "new record");
    });
}

/// Replay evicts a table that keeps an older one dead.
#[test]
fn eviction_during_recovery_brings_nothing_back() {
    let sim = world();
    let wide = StoreOptions { memory: 64 * MIB, capacity: 64 * MIB as u64, ..options() };
    let narrow = StoreOptions { memory: 8 * MIB, ..wide.clone() };
    sim.run(async {
        let store = open(&sim, wide.clone()).await;
        // One table of keys that are all written again in the next.
        let mut stamp = 0;
        for _ in 0..2 {
            stamp += 1;
            let first = store.counters().tables_begun;
            let mut number = 0;
            while store.counters().tables_begun == first {
                store.set(&key(number % 1100), &value(number % 1100, stamp, 900), Meta::default()).await;
                number += 1;
            }
        }
        for number in 0..1100 {
            store.set(&key(number), &value(number, 3, 900), Meta::default()).await;
        }
        for number in 10_000..300_000 {
            store.set(&key(number), b"small", Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    let mut gone = Vec::new();
    sim.run(async {
        let store = open(&sim, narrow.clone()).await;
        for number in 0..1100 {
            match bytes(&store, &key(number)).await {
                None => gone.push(number),
                Some(found) => assert_eq!(found, value(number, 3, 900)),
            }
        }
        store.close().await.expect("closes");
    });
    sim.run(async {
        let store = open(&sim, wide.clone()).await;
        let back: Vec<_> = {
            let mut back = Vec::new();
            for number in 0..1100 {
                let found = bytes(&store, &key(number)).await;
                if found.is_some() && found != Some(value(number, 3, 900)) {
                    back.push((number, brief(found)));
                }
            }
            back
        };
        assert!(back.is_empty(), "{} gone before; stale now: {} e.g. {:?}", gone.len(), back.len(), back.first());
    });
}

/// A damaged record leaves no guard.
#[test]
fn a_damaged_record_keeps_older_versions_dead() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let fill = async |base: u32, count: u32| {
            for number in 0..count {
                store.set(&key(base + number), &value(number, 1, 900), Meta::default()).await;
            }
        };
        store.set(b"k", b"old", Meta::default()).await;
        fill(1000, 1200).await; // table 0 full and live
        let before = store.counters().tables_begun;
        store.set(b"k", b"new", Meta::default()).await;
        store.flush().await;
        let slot = store.shared.state.borrow().writer.table.slot;
        fill(5000, 2200).await; // the table of "new" is sealed
        store.flush().await;
        assert!(store.counters().tables_begun > before + 1);
        sim.tamper(&table(slot), |bytes| {
            let at = bytes.windows(4).position(|part| part == b"knew").expect("the record");
            bytes[at + 2] ^= 1;
        });
        assert_eq!(bytes(&store, b"k").await, None, "damaged");
        // Everything else in that table dies.
        fill(5000, 2200).await;
        fill(1900, 300).await;
        // and the disk is filled over and over by a few keys
        for round in 0..30_000u32 {
            store.set(&key(50_000 + round % 1000), &value(1, round, 900), Meta::default()).await;
        }
        assert_eq!(store.counters().evictions, 0);
        assert_eq!(bytes(&store, b"k").await, None, "damaged");
        store.close().await.expect("closes");
    });
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(bytes(&store, b"k").await, None, "an older version");
    });
}

/// Read errors while opening.
#[test]
fn a_table_that_cannot_be_read_does_not_come_back_over_newer_writes() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..3000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    let opened = sim.run(async {
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        let store = Store::open(sim.clone(), options(), |_| {}).await;
        sim.set_faults(Faults::default());
        let Ok(store) = store else { return false };
        store.set(&key(2900), b"new", Meta::default()).await;
        store.close().await.expect("closes");
        true
    });
    if opened {
        sim.run(async {
            let store = open(&sim, options()).await;
            assert_eq!(brief(bytes(&store, &key(2900)).await), brief(Some(b"new".to_vec())), "the last value written");
        });
    }
}

/// R6: -M, full of small records, stopped cleanly, does not start again.
#[test]
fn a_full_store_without_eviction_starts_again() {
    let sim = world();
    let strict =
        StoreOptions { evict: false, capacity: 16 * MIB as u64, table_size: Some(2 * MIB as u64), ..options() };
    sim.run(async {
        let store = open(&sim, strict.clone()).await;
        let mut count = 0;
        while matches!(store.set(&key(count), b"tiny", Meta::default()).await, Stored::Stored(_)) {
            count += 1;
        }
        store.close().await.expect("closes");
    });
    sim.run(async {
        let store = Store::open(sim.clone(), strict.clone(), |_| {}).await;
        if let Err(error) = &store {
            panic!("{error}");
        }
    });
}

/// R7: -M, full: touches use up what is kept for deletes.
#[test]
fn touches_leave_room_for_deletes() {
    let sim = world();
    let strict = StoreOptions { evict: false, capacity: 8 * MIB as u64, ..options() };
    sim.run(async {
        let store = open(&sim, strict.clone()).await;
        let mut count = 0;
        while matches!(store.set(&key(count), &value(count, 1, 900), Meta::default()).await, Stored::Stored(_)) {
            count += 1;
        }
        store.flush().await;
        let mut touched = 0;
        while store.touch(&key(touched % 100), store.now() + 100_000).await == Changed::Done {
            touched += 1;
        }
        let deleted = store.delete(&key(1)).await;
        let flushed = store.flush_all(None).await;
        store.close().await.expect("closes");
        let again =
            Store::open(sim.clone(), strict.clone(), |_| {}).await.map(|_| ()).map_err(|error| error.to_string());
        assert_eq!((deleted, flushed, again), (Changed::Done, Changed::Done, Ok(())));
    });
}

/// A write fails, later ones succeed, kill.
#[test]
fn flushed_records_behind_a_failed_block_survive_a_kill() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"a", b"before", Meta::default()).await;
        store.flush().await;
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        store.set(b"b", &[7; 9000], Meta::default()).await;
        store.flush().await;
        sim.set_faults(Faults::default());
        store.set(b"c", b"after", Meta::default()).await;
        store.flush().await;
        assert!(bytes(&store, b"c").await.is_some());
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert!(bytes(&store, b"a").await.is_some());
        assert!(bytes(&store, b"c").await.is_some(), "flushed after the failure");
    });
}

/// Writes and frees fail for good in a full store: does a set ever end?
#[test]
fn a_set_ends_on_a_dead_device() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..30_000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        let ended = Rc::new(Cell::new(0));
        let (mine, writer) = (Rc::clone(&ended), store.clone());
        sim.spawn(async move {
            for number in 0..5000 {
                writer.set(&key(100_000 + number), &value(number, 1, 900), Meta::default()).await;
                mine.set(number);
            }
        });
        let mut last = (0, 0);
        for _ in 0..6 {
            sim.sleep(Duration::from_secs(10)).await;
            last = (ended.get(), store.counters().disk_write_errors);
        }
        assert_eq!(last.0, 4999);
    });
}

/// Header write of a table fails once.
#[test]
fn a_new_table_whose_header_failed_survives_a_kill() {
    failed_header(0, false);
}
#[test]
fn a_used_table_whose_header_failed_survives_a_stop() {
    failed_header(40_000, true);
}
fn failed_header(before: u32, clean: bool) {
    let sim = world();
    let ended = sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..before {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        let mut number = before;
        let begun = store.counters().tables_begun;
        // Fill until the table rolls, then let the writes fail until the header has failed.
        while store.counters().tables_begun == begun {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
            number += 1;
        }
        // The queue: blocks, seal, begin.
        while !matches!(store.shared.state.borrow().jobs.front(), Some(super::super::state::Job::Begin(_))) {
            sim.sleep(Duration::from_micros(1)).await;
        }
        while matches!(store.shared.state.borrow().jobs.front(), Some(super::super::state::Job::Begin(_))) {
            sim.sleep(Duration::from_micros(1)).await;
        }
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        while store.counters().disk_write_errors == 0 {
            sim.sleep(Duration::from_micros(1)).await;
        }
        sim.set_faults(Faults::default());
        assert_eq!(store.counters().disk_write_errors, 1, "one");
        let first = number;
        for number in first..first + 500 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        let killed = sim.after_kill();
        if clean {
            store.close().await.expect("closes");
        }
        let world = if clean { sim.clone() } else { killed };
        (world, first)
    });
    let (world, first) = ended;
    world.run(async {
        let store = open(&world, options()).await;
        let mut missing = 0;
        for number in first..first + 500 {
            missing += u32::from(bytes(&store, &key(number)).await.is_none());
        }
        assert_eq!(missing, 0, "of 500 records that were written well");
    });
}

/// A delayed flush in a table that is evicted before it is due, restart.
#[test]
fn a_delayed_flush_survives_the_eviction_of_its_table() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.flush_all(Some(store.now() + 10_000)).await;
        for number in 0..30_000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        sim.advance(Duration::from_secs(20_000));
        assert_eq!(brief(bytes(&store, &key(29_999)).await), None, "flushed");
    });
}

/// A write that failed: the old value after the restart.
#[test]
fn a_failed_write_does_not_bring_the_old_value_back_at_the_next_start() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"k", b"old", Meta::default()).await;
        store.set(b"d", b"old", Meta::default()).await;
        store.flush().await;
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        store.set(b"k", b"new", Meta::default()).await;
        store.delete(b"d").await;
        store.flush().await;
        sim.set_faults(Faults::default());
        assert_eq!(bytes(&store, b"k").await, None);
        assert_eq!(bytes(&store, b"d").await, None);
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        assert_eq!((brief(bytes(&store, b"k").await), brief(bytes(&store, b"d").await)), (None, None));
    });
}

/// A read error in the scan of the unsealed table.
#[test]
fn a_read_error_in_a_scan_destroys_nothing() {
    let sim = world();
    let wide = StoreOptions { table_size: Some(4 * MIB as u64), capacity: 64 * MIB as u64, ..options() };
    let killed = sim.run(async {
        let store = open(&sim, wide.clone()).await;
        for number in 0..3000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let (watch, from) = (killed.clone(), killed.read_count());
        let stop = Rc::new(Cell::new(false));
        let stopped = Rc::clone(&stop);
        killed.spawn(async move {
            while !stopped.get() {
                let bad = (from + 8..from + 9).contains(&watch.read_count());
                watch.set_faults(Faults { reads: bad, ..Faults::default() });
                watch.sleep(Duration::from_micros(5)).await;
            }
            watch.set_faults(Faults::default());
        });
        drop(Store::open(killed.clone(), wide.clone(), |_| {}).await);
        stop.set(true);
    });
    let again = killed.after_kill();
    again.run(async {
        let store = open(&again, wide.clone()).await;
        let mut missing = 0;
        for number in 0..3000 {
            missing += u32::from(bytes(&store, &key(number)).await.is_none());
        }
        assert_eq!(missing, 0, "of 3000 flushed records");
    });
}

/// R14: `flush` under steady writes.
#[test]
fn a_flush_ends_while_others_write() {
    let sim = world();
    let ended = sim.run_for(20_000, async {
        let store = open(&sim, options()).await;
        for task in 0..4u32 {
            let writer = store.clone();
            sim.spawn(async move {
                for round in 0.. {
                    writer.set(&key(task * 1000 + round % 300), &value(task, round, 9000), Meta::default()).await;
                }
            });
        }
        store.set(b"mine", b"v", Meta::default()).await;
        store.flush().await;
    });
    assert!(ended.is_some(), "20,000 transfers later it has not");
}

/// What the probe leaves when it is killed.
#[test]
fn a_leftover_probe_does_not_make_a_directory_foreign() {
    let sim = world();
    sim.replace_small(&Path::new(DIRECTORY).join(".probe-77"), b"").expect("written");
    sim.run(async {
        if let Err(error) = Store::open(sim.clone(), options(), |_| {}).await {
            panic!("{error}");
        }
    });
}

/// The index and its budget.
#[test]
fn the_index_keeps_its_budget() {
    for mib in [4, 32, 128] {
        let mut index = crate::index::Index::new(mib * MIB, MIB);
        let mut count = 0u32;
        loop {
            let digest = crate::digest::Digest::of(&[1; 16], &count.to_le_bytes());
            let pointer = crate::index::Pointer { slot: 1, offset: 4096 };
            let entry = crate::index::Entry::new(pointer, crate::record::SizeClass(3), 0);
            if index.upsert(&digest, entry).is_err() {
                break;
            }
            count += 1;
        }
        assert!(index.memory_size() <= mib * MIB, "{} bytes in a budget of {mib} MiB", index.memory_size());
        assert!(index.memory_size() >= mib * MIB / 100 * 97, "and it uses what it has");
    }
}

/// Room for one table only.
#[test]
fn room_for_one_table_only_is_refused() {
    let sim = Sim::new(3, MIB as u64 + MIB as u64 / 2);
    sim.run(async {
        let refused = Store::open(sim.clone(), options(), |_| {}).await;
        assert!(matches!(refused, Err(OpenError::NoRoom { .. })), "it could never be emptied");
    });
}

/// A delayed flush that is still to be repeated takes the last room of a table that the record was to have: another
/// table is begun, where it is repeated again.
#[test]
fn a_flush_repeated_at_the_end_of_a_table_moves_the_record_to_the_next() {
    // With 3 blocks of large records before it, a record of this size ends where the footer begins.
    let rest = MIB - 3 * 4096 - 3 * MIB / 4;
    for size in (rest - 128..=rest).step_by(16) {
        let sim = world();
        sim.run(async {
            let store = open(&sim, StoreOptions { item_size_max: MIB / 2, ..options() }).await;
            store.flush_all(Some(store.now() + 100_000)).await;
            let mut number = 0;
            let first = store.shared.state.borrow().writer.table;
            while store.shared.state.borrow().writer.table == first {
                number += 1;
                let full_block = vec![1; MIB / 4 - 28 - key(number).len()];
                store.set(&key(number), &full_block, Meta::default()).await;
            }
            for _ in 0..2 {
                number += 1;
                let full_block = vec![1; MIB / 4 - 28 - key(number).len()];
                store.set(&key(number), &full_block, Meta::default()).await;
            }
            // A table is ready and the buffers are free: nothing has to be waited for.
            sim.sleep(Duration::from_secs(5)).await;
            let stored = store.set(b"last", &vec![2; size - 28 - 4], Meta::default()).await;
            assert!(matches!(stored, Stored::Stored(_)), "size {size}");
            assert_eq!(bytes(&store, b"last").await.map(|bytes| bytes.len()), Some(size - 32));
        });
    }
}
