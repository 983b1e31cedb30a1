//! Full disks and full indexes.

use super::*;

#[test]
fn the_oldest_records_make_room_for_new_ones() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let count = 60_000;
        for number in 0..count {
            assert!(matches!(
                store.set(&key(number), &value(number, 1, 900), Meta::default()).await,
                Stored::Stored(_)
            ));
        }
        assert!(store.gauges().tables <= 16);
        let counters = store.counters();
        assert!(counters.evictions > 30_000, "{counters:?}");
        assert_eq!(counters.evictions + store.gauges().index_entries, u64::from(count));
        check_sizes(&store);
        for number in count - 9_000..count {
            assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 1, 900)), "key {number}");
        }
        assert_eq!(bytes(&store, &key(0)).await, None);
    });
}

#[test]
fn without_eviction_writes_are_refused_and_nothing_is_lost() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { evict: false, ..options() }).await;
        let mut count = 0;
        while matches!(store.set(&key(count), &value(count, 1, 900), Meta::default()).await, Stored::Stored(_)) {
            count += 1;
        }
        // One of the 16 tables is kept for copies, and one for deletions.
        assert!(count > 13_000, "the capacity is used: {count}");
        for number in 0..count {
            assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 1, 900)), "key {number}");
        }
        for number in 0..count {
            assert_eq!(store.delete(&key(number)).await, Changed::Done, "deleting goes on: key {number}");
            if number > 2000 {
                break;
            }
        }
        assert!(
            matches!(store.set(b"new", &[1; 900], Meta::default()).await, Stored::Stored(_)),
            "the first table is dead"
        );
        store.close().await.expect("closes");
        let store = open(&sim, StoreOptions { evict: false, ..options() }).await;
        for number in [0, 1000, 2000] {
            assert_eq!(bytes(&store, &key(number)).await, None, "it was deleted");
        }
        assert!(bytes(&store, &key(count - 1)).await.is_some());
    });
}

#[test]
fn a_full_index_evicts_or_refuses() {
    let sim = world();
    sim.run(async {
        let roomy = StoreOptions { capacity: 256 * MIB as u64, ..options() };
        let store = open(&sim, roomy.clone()).await;
        for number in 0..400_000 {
            assert!(matches!(store.set(&key(number), b"tiny", Meta::default()).await, Stored::Stored(_)));
        }
        assert!(store.counters().evictions > 0);
        assert!(store.gauges().index_bytes < 8 * MIB as u64);
        assert!(bytes(&store, &key(399_999)).await.is_some());
    });
    let sim = world();
    sim.run(async {
        let roomy = StoreOptions { capacity: 256 * MIB as u64, evict: false, ..options() };
        let store = open(&sim, roomy).await;
        let mut count = 0;
        while matches!(store.set(&key(count), b"tiny", Meta::default()).await, Stored::Stored(_)) {
            count += 1;
        }
        assert_eq!(store.set(&key(count), b"tiny", Meta::default()).await, Stored::NoSpace);
        assert!(
            matches!(store.set(&key(0), b"other", Meta::default()).await, Stored::Stored(_)),
            "no new entry is needed"
        );
        assert!(bytes(&store, &key(count - 1)).await.is_some());
    });
}

#[test]
fn a_disk_that_is_smaller_than_the_capacity_is_used_as_far_as_it_goes() {
    let sim = Sim::new(9, 6 * MIB as u64 + 10_000);
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..20_000 {
            assert!(matches!(
                store.set(&key(number), &value(number, 1, 900), Meta::default()).await,
                Stored::Stored(_)
            ));
        }
        assert_eq!(store.gauges().tables, 6);
        assert!(bytes(&store, &key(19_999)).await.is_some());
    });
    let tiny = Sim::new(9, MIB as u64 / 2);
    tiny.run(async {
        let refused = Store::open(tiny.clone(), options(), |_| {}).await;
        assert!(matches!(refused, Err(OpenError::NoRoom { .. })));
    });
}

/// A table all of whose records are dead is used again before anything alive is evicted.
#[test]
fn overwriting_a_few_keys_for_ever_evicts_nothing() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..2000 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        for round in 0..50_000u32 {
            store.set(&key(5000 + round % 100), &value(round % 100, round, 4000), Meta::default()).await;
        }
        assert_eq!(store.counters().evictions, 0);
        for number in 0..2000 {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
        assert!(store.counters().tables_reclaimed > 100);
    });
}

/// Where nothing may be evicted, what has expired makes room in a full index before anything is refused.
#[test]
fn a_full_index_drops_what_has_expired_before_it_refuses() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { capacity: 64 * MIB as u64, evict: false, ..options() }).await;
        // No crawler goes round by itself.
        store.enable_crawler(false);
        let expiry = store.now() + 1000;
        let mut count = 0;
        while let Stored::Stored(_) = store.set(&key(count), b"v", expiring(expiry)).await {
            count += 1;
            assert!(count < 1_000_000, "the index is never full");
        }
        assert_eq!(store.gauges().index_entries, u64::from(count));
        sim.advance(Duration::from_secs(2000));
        for number in 0..count {
            let stored = store.set(&key(10_000_000 + number), b"v", Meta::default()).await;
            assert!(matches!(stored, Stored::Stored(_)), "{number} of {count}: {stored:?}");
        }
        assert_eq!(store.counters().evictions, 0);
    });
}
