//! What is there after a clean stop, and after a kill.

use super::*;

#[test]
fn a_clean_stop_keeps_everything_as_it_was() {
    let sim = world();
    let versions: Vec<u64> = sim.run(async {
        let store = open(&sim, options()).await;
        let mut versions = Vec::new();
        for number in 0..3000 {
            let Stored::Stored(version) = store.set(&key(number), &value(number, 1, 700), flags(number)).await else {
                panic!("stored")
            };
            versions.push(version);
        }
        store.delete(&key(0)).await;
        store.touch(&key(1), store.now() + 1000).await;
        store.touch(&key(2), 1).await;
        store.set(&key(3), b"expires", expiring(store.now() + 50)).await;
        store.close().await.expect("closes");
        assert_eq!(store.set(b"late", b"v", Meta::default()).await, Stored::NoSpace, "after the end");
        versions
    });
    sim.advance(Duration::from_secs(100));
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in [0, 2, 3] {
            assert_eq!(bytes(&store, &key(number)).await, None, "key {number}");
        }
        for number in (4..3000).chain([1]) {
            let got = store.get(&key(number)).await.expect("the disk works").expect("it was there");
            let expected = (value(number, 1, 700), number, versions[number as usize]);
            assert_eq!((got.bytes, got.client_flags, got.version), expected);
        }
        let Stored::Stored(next) = store.set(b"new", b"v", Meta::default()).await else { panic!("stored") };
        assert!(versions.iter().all(|version| next > *version));
        sim.advance(Duration::from_secs(1000));
        assert_eq!(bytes(&store, &key(1)).await, None, "the touch was remembered");
    });
}

#[test]
fn a_kill_loses_nothing_that_was_flushed() {
    for seed in 1..40 {
        let sim = Sim::new(seed * 77, 1 << 30);
        let (killed, flushed) = sim.run(async {
            let store = open(&sim, options()).await;
            let count = 200 + seed as u32 * 90;
            for number in 0..count {
                store
                    .set(
                        &key(number % 1500),
                        &value(number % 1500, number, 400 + number as usize % 900),
                        Meta::default(),
                    )
                    .await;
            }
            store.delete(&key(5)).await;
            store.flush().await;
            for number in 0..50 {
                store.set(&key(10_000 + number), &value(number, 1, 500), Meta::default()).await;
            }
            (sim.after_kill(), count)
        });
        killed.run(async {
            let store = open(&killed, options()).await;
            for number in 0..flushed.min(1500) {
                let last = (0..flushed).rev().find(|stamp| stamp % 1500 == number).expect("written");
                let expected = (number != 5).then(|| value(number, last, 400 + last as usize % 900));
                assert_eq!(bytes(&store, &key(number)).await, expected, "key {number}, seed {seed}");
            }
            store.set(b"after", b"v", Meta::default()).await;
            store.close().await.expect("closes");
            let again = open(&killed, options()).await;
            assert!(bytes(&again, b"after").await.is_some());
        });
    }
}

#[test]
fn versions_of_lost_writes_never_come_again() {
    let sim = world();
    let (killed, lost) = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"a", b"v", Meta::default()).await;
        store.flush().await;
        let Stored::Stored(lost) = store.set(b"b", b"v", Meta::default()).await else { panic!("stored") };
        (sim.after_kill(), lost)
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, b"b").await, None);
        let Stored::Stored(next) = store.set(b"b", b"v", Meta::default()).await else { panic!("stored") };
        assert!(next > lost);
    });
}

#[test]
fn a_record_waits_in_memory_for_the_flush_interval_at_most() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"k", b"v", Meta::default()).await;
        assert!(store.gauges().dirty_bytes > 0);
        sim.sleep(Duration::from_millis(1100)).await;
        assert_eq!(store.gauges().dirty_bytes, 0);
        let writes = store.counters().disk_writes;
        sim.sleep(Duration::from_secs(100)).await;
        assert_eq!(store.counters().disk_writes, writes, "an idle store writes nothing");
        sim.after_kill()
    });
    killed.run(async {
        assert!(bytes(&open(&killed, options()).await, b"k").await.is_some());
    });
}

/// Each stop leaves the table that was being written partly filled: it is gone on with, so a hundred stops do not use
/// up the disk.
#[test]
fn restarts_do_not_use_up_tables() {
    for clean in [true, false] {
        let mut sim = world();
        for round in 0..100u32 {
            sim = sim.run(async {
                let store = open(&sim, options()).await;
                assert!(store.gauges().tables <= 3, "{} tables in round {round}", store.gauges().tables);
                for earlier in 0..round {
                    assert!(
                        bytes(&store, &key(earlier)).await.is_some(),
                        "key {earlier} in round {round}, clean {clean}"
                    );
                }
                store.set(&key(round), &value(round, 1, 3000), Meta::default()).await;
                store.flush().await;
                if clean {
                    store.close().await.expect("closes");
                }
                sim.after_kill()
            });
        }
    }
}

#[test]
fn flushes_survive_at_once_or_delayed() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"gone", b"v", Meta::default()).await;
        store.flush().await;
        store.flush_all(None).await;
        store.set(b"kept", b"v", Meta::default()).await;
        store.flush_all(Some(store.now() + 500)).await;
        store.flush().await;
        sim.after_kill()
    });
    let killed = killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, b"gone").await, None);
        assert!(bytes(&store, b"kept").await.is_some());
        killed.after_kill()
    });
    killed.advance(Duration::from_secs(1000));
    let killed = killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, b"kept").await, None, "the flush fell due while nobody served");
        store.set(b"new", b"v", Meta::default()).await;
        store.flush().await;
        killed.after_kill()
    });
    killed.run(async {
        assert!(bytes(&open(&killed, options()).await, b"new").await.is_some(), "the flush happens once");
    });
}

#[test]
fn a_smaller_capacity_drops_the_oldest_tables_and_their_files() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..10_000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
        let smaller = StoreOptions { capacity: 4 * MIB as u64, ..options() };
        let store = open(&sim, smaller).await;
        assert!(bytes(&store, &key(9_999)).await.is_some());
        assert_eq!(bytes(&store, &key(0)).await, None);
        check_sizes(&store);
        assert_eq!(sim.paths().iter().filter(|path| path.extension().is_some_and(|end| end == "dmt")).count(), 4);
    });
}

/// What is evicted from a table whose values were touched leaves tombstones, which need a table.
#[test]
fn a_smaller_capacity_drops_tables_with_touched_records_too() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..8_000 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        for number in 0..8_000 {
            store.touch(&key(number), 0).await;
        }
        assert!(store.gauges().tables_free <= 7, "not enough to be done with these");
        store.close().await.expect("closes");
        let store = open(&sim, StoreOptions { capacity: 8 * MIB as u64, ..options() }).await;
        assert_eq!(store.gauges().tables, 8);
        assert!(bytes(&store, &key(7_999)).await.is_some());
        assert_eq!(bytes(&store, &key(0)).await, None);
        check_sizes(&store);
    });
}

#[test]
fn a_smaller_memory_budget_drops_the_oldest_records() {
    let sim = world();
    let wide = StoreOptions { memory: 64 * MIB, capacity: 64 * MIB as u64, ..options() };
    sim.run(async {
        let store = open(&sim, wide.clone()).await;
        for number in 0..300_000 {
            store.set(&key(number), b"small", Meta::default()).await;
        }
        store.close().await.expect("closes");
        let refused =
            Store::open(sim.clone(), StoreOptions { memory: 8 * MIB, evict: false, ..wide.clone() }, |_| {}).await;
        assert!(matches!(refused, Err(OpenError::IndexDoesNotFit(_))));
        let store = open(&sim, StoreOptions { memory: 8 * MIB, ..wide }).await;
        assert!(store.counters().evictions > 0);
        check_sizes(&store);
        assert!(bytes(&store, &key(299_999)).await.is_some());
        assert_eq!(bytes(&store, &key(0)).await, None);
        for number in 0..1000 {
            assert!(matches!(store.set(&key(number), b"again", Meta::default()).await, Stored::Stored(_)));
        }
    });
}

/// A touch of a record in memory, which keeps its version, after a piece has copied what it was before.
#[test]
fn a_touch_of_what_a_piece_knows_is_not_lost() {
    const COUNT: u32 = 3000;
    const TOUCHED: u32 = 40;
    let sim = world();
    let expiry = sim.now() + 100_000;
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        let mut stamp = 1;
        while !store.shared.state.borrow().checkpoint.busy {
            // They are in the active block when a piece is begun.
            for number in 0..COUNT {
                store.set(&key(number), &value(number, stamp, 300), Meta::default()).await;
            }
            for number in 0..TOUCHED {
                store.set(&key(number), &value(number, stamp, 300), expiring(expiry - 1)).await;
            }
            for _ in 0..300 {
                if store.shared.state.borrow().checkpoint.busy {
                    break;
                }
                sim.sleep(Duration::from_millis(1)).await;
            }
            stamp += 1;
        }
        for number in 0..TOUCHED {
            store.touch(&key(number), expiry + 50_000).await;
            sim.sleep(Duration::from_micros(20)).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        killed.advance(Duration::from_secs(100_000));
        assert!(killed.now() >= expiry);
        for number in 0..TOUCHED {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
    });
}
