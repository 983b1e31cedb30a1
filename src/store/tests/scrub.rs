//! The scrub finds what is damaged, and nothing else, in its time.

use std::path::Path;

use super::*;
use crate::io::sim::Faults;
use crate::recovery::tables::table_path;
use crate::stats::StoreCounters;

const COUNT: u32 = 3000;
const MINUTE: Duration = Duration::from_secs(60);

/// A store of several tables that are complete, on disk only, with records of one page and of many reads.
async fn filled(sim: &Sim) -> Store<Sim> {
    let options = StoreOptions { item_size_max: 600 * 1024, memory: 16 * MIB, ..options() };
    let store = open(sim, options).await;
    for number in 0..COUNT {
        store.set(&key(number), &value(number, 1, size_of(number)), Meta::default()).await;
    }
    store.forget_memory().await;
    store
}

fn size_of(number: u32) -> usize {
    if number % 1000 == 500 { 590 * 1024 } else { 900 }
}

fn table(slot: u32) -> PathBuf {
    table_path(&Path::new(DIRECTORY).join("shard-0000"), slot)
}

/// Where the record of a key lies.
fn place(store: &Store<Sim>, number: u32) -> (u32, usize) {
    let entry = store.shared.state.borrow().index.get(&store.digest(&key(number))).expect("it is there");
    (entry.pointer.slot, entry.pointer.offset as usize)
}

/// What the scrub has found, once it has gone through everything.
async fn after_passes(sim: &Sim, store: &Store<Sim>, count: u64) -> StoreCounters {
    while store.counters().scrub_passes < count {
        // Between the last read of a pass and the first of the next there is more time than that.
        sim.sleep(Duration::from_millis(50)).await;
    }
    store.counters()
}

/// Bad records, bad dead records, bad pages, failed reads.
fn findings(counters: &StoreCounters) -> (u64, u64, u64, u64) {
    let StoreCounters { scrub_bad_records, scrub_bad_dead_records, scrub_bad_pages, scrub_read_errors, .. } = *counters;
    (scrub_bad_records, scrub_bad_dead_records, scrub_bad_pages, scrub_read_errors)
}

#[test]
fn nothing_is_read_unless_somebody_wants_it() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let before = sim.read_count();
        sim.sleep(100 * MINUTE).await;
        assert_eq!((sim.read_count(), store.scrub_interval()), (before, None));
    });
}

#[test]
fn a_sound_store_is_read_whole_and_evenly_and_is_sound() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let complete = store.tables().iter().filter(|table| table.live_bytes > 0).count() as u64 - 1;
        store.scrub(100 * MINUTE);
        store.scrub(MINUTE);
        assert_eq!(store.scrub_interval(), Some(100 * MINUTE), "the first call counts");
        let mut read = Vec::new();
        for _ in 0..10 {
            let before = sim.read_count();
            sim.sleep(10 * MINUTE).await;
            read.push(sim.read_count() - before);
        }
        let all = after_passes(&sim, &store, 1).await;
        assert_eq!((findings(&all), all.scrub_tables), ((0, 0, 0, 0), complete));
        assert!(all.scrub_bytes >= store.gauges().live_bytes * 8 / 10, "{} bytes", all.scrub_bytes);
        let (first, whole) = (read[..5].iter().sum::<u64>(), read.iter().sum::<u64>());
        assert!(whole > 20 && (3 * whole / 10..7 * whole / 10).contains(&first), "unevenly: {read:?}");
        assert!(read.iter().all(|count| *count < whole / 4), "in one go: {read:?}");
        assert_eq!(all.disk_reads, 0, "who counts the reads of gets is not misled");
        assert_eq!(bytes(&store, &key(500)).await, Some(value(500, 1, size_of(500))));
    });
}

#[test]
fn damage_is_found_before_somebody_asks() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        // One is dead when it is damaged; of one the last bytes are, far behind the first read.
        let places = [1, 200, 500, 600].map(|number| (number, place(&store, number)));
        store.delete(&key(200)).await;
        for (number, (slot, offset)) in places {
            let position = if number == 500 { offset + 580 * 1024 } else { offset + 300 };
            sim.tamper(&table(slot), |bytes| bytes[position] ^= 4);
        }
        store.scrub(MINUTE);
        let first = after_passes(&sim, &store, 1).await;
        assert_eq!(findings(&first), (3, 1, 0, 0));
        let second = after_passes(&sim, &store, 2).await;
        assert_eq!(findings(&second), (3, 5, 0, 0), "they are dead now, and still damaged");
        assert_eq!(second.damaged_records, 0, "no client has met them");
        let reads = sim.read_count();
        for number in [1, 500, 600] {
            assert!(matches!(store.seek(&store.digest(&key(number)), &key(number), |_| ()), Sought::Absent));
        }
        assert_eq!(sim.read_count(), reads);
        assert_eq!(bytes(&store, &key(2)).await, Some(value(2, 1, 900)));
        check_sizes(&store);
        store.close().await.expect("closes");
        let store = open(&sim, StoreOptions { item_size_max: 600 * 1024, memory: 16 * MIB, ..options() }).await;
        for number in [1, 200, 500, 600] {
            assert_eq!(bytes(&store, &key(number)).await, None, "key {number}");
        }
    });
}

/// A record that was damaged is a miss: what its key had before does not come back.
#[test]
fn older_versions_of_a_damaged_record_stay_dead() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        for number in 0..COUNT {
            store.set(&key(number), &value(number, 2, 500), Meta::default()).await;
        }
        store.forget_memory().await;
        let (slot, offset) = place(&store, 7);
        sim.tamper(&table(slot), |bytes| bytes[offset + 200] ^= 1);
        store.scrub(MINUTE);
        assert_eq!(findings(&after_passes(&sim, &store, 1).await).0, 1);
        store.close().await.expect("closes");
        let store = open(&sim, StoreOptions { item_size_max: 600 * 1024, memory: 16 * MIB, ..options() }).await;
        assert_eq!(bytes(&store, &key(7)).await, None);
        assert_eq!(bytes(&store, &key(8)).await, Some(value(8, 2, 500)));
    });
}

#[test]
fn damaged_footers_are_found_and_cost_nothing() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        sim.tamper(&table(0), |bytes| bytes[MIB - 2 * 4096 + 100] ^= 1);
        sim.tamper(&table(1), |bytes| bytes[MIB - 4096 + 40] ^= 1);
        store.scrub(MINUTE);
        assert_eq!(findings(&after_passes(&sim, &store, 1).await), (0, 0, 2, 0));
        assert_eq!(store.gauges().index_entries, u64::from(COUNT));
    });
}

#[test]
fn reads_that_fail_are_counted_and_change_nothing() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        store.scrub(MINUTE);
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        let counters = after_passes(&sim, &store, 1).await;
        assert!(counters.scrub_read_errors >= 3 && counters.scrub_tables == 0, "{counters:?}");
        // The device fails in the middle of a table: not every record of it is tried.
        sim.set_faults(Faults::default());
        let before = store.counters().scrub_read_errors;
        for round in 0..200u64 {
            sim.set_faults(Faults { reads: round % 3 > 0, ..Faults::default() });
            sim.sleep(Duration::from_millis(500)).await;
        }
        let errors = store.counters().scrub_read_errors - before;
        assert!(errors > 0 && errors < 200, "{errors} failed reads in less than two passes");
        sim.set_faults(Faults::default());
        assert_eq!(store.gauges().index_entries, u64::from(COUNT));
        let after = after_passes(&sim, &store, 3).await;
        let (bad, dead, pages, _) = findings(&after);
        assert!((bad, dead, pages) == (0, 0, 0) && after.scrub_tables > 0, "{after:?}");
    });
}

/// Tables are emptied and written again under a scrub that is as fast as it can be, and the store is closed in the middle.
#[test]
fn a_busy_store_gives_no_false_alarm() {
    let mut table_count = 0;
    for seed in 0..16 {
        let sim = Sim::new(seed, 1 << 30);
        sim.run(async {
            let store = open(&sim, StoreOptions { capacity: 6 * MIB as u64, ..options() }).await;
            store.scrub(Duration::from_millis(1));
            for number in 0..20_000u32 {
                let name = key(number * 7919 % 3000);
                match number % 10 {
                    0 => drop(store.delete(&name).await),
                    1 => drop(store.touch(&name, store.now() + 1000).await),
                    _ => drop(store.set(&name, &value(number, 1, 100 + number as usize % 2000), Meta::default()).await),
                }
                if number % 500 == 0 {
                    sim.sleep(Duration::from_millis(5)).await;
                }
            }
            let counters = store.counters();
            assert_eq!(findings(&counters), (0, 0, 0, 0), "seed {seed}");
            assert!(counters.tables_evicted + counters.tables_reclaimed > 5, "tables were used again: {counters:?}");
            table_count += counters.scrub_tables;
            store.close().await.expect("closes");
            let read = sim.read_count();
            sim.sleep(MINUTE).await;
            assert_eq!(sim.read_count(), read, "nothing is read after the end");
        });
    }
    assert!(table_count > 100, "{table_count} tables were looked at");
}
