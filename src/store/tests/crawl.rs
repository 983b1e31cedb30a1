//! Expired records that nobody asks for.

use std::cell::Cell;

use super::*;
use crate::limits::{CRAWL_LOOK_INTERVAL, CRAWL_TIME};

/// Long enough for the crawler to look, and to walk through the index once.
const LONG: Duration = CRAWL_TIME.saturating_mul(2).saturating_add(CRAWL_LOOK_INTERVAL);

async fn must_set(store: &Store<Sim>, numbers: std::ops::Range<u32>, expiry: Seconds) {
    for number in numbers {
        let stored = store.set(&key(number), &value(number, 0, 900), expiring(expiry)).await;
        assert!(matches!(stored, Stored::Stored(_)), "key {number}: {stored:?}");
    }
}

#[test]
fn what_has_expired_leaves_unasked_and_stays_away() {
    let sim = world();
    sim.run(async {
        let mut store = open(&sim, options()).await;
        let now = store.now();
        must_set(&store, 0..1000, 0).await;
        must_set(&store, 1000..4000, now + 300).await;
        must_set(&store, 4000..5000, now + 600).await;
        sim.sleep(LONG).await;
        assert_eq!((store.gauges().index_entries, store.counters().crawls), (5000, 0), "nothing can have expired yet");
        for left in [2000, 1000] {
            sim.sleep(Duration::from_secs(300)).await;
            assert_eq!(store.gauges().index_entries, left);
            store.recount().expect("the books are right");
        }
        let counters = store.counters();
        assert_eq!((counters.expired_crawled, counters.expired, counters.crawls), (4000, 0, 2));
        assert_eq!(counters.crawl_records, 5000 + 2000);
        store.close().await.expect("closes");
        store = open(&sim, options()).await;
        assert_eq!(store.gauges().index_entries, 1000);
        for number in 0..5000 {
            assert_eq!(bytes(&store, &key(number)).await.is_some(), number < 1000, "key {number}");
        }
    });
}

#[test]
fn where_nothing_expires_nothing_is_looked_at() {
    let sim = world();
    sim.run(async {
        let mut store = open(&sim, options()).await;
        must_set(&store, 0..2000, 0).await;
        must_set(&store, 2000..2100, store.now() + 1_000_000).await;
        sim.sleep(LONG).await;
        assert_eq!((store.counters().crawls, store.counters().crawl_records), (0, 0));
        store.close().await.expect("closes");
        store = open(&sim, options()).await;
        sim.sleep(10 * LONG).await;
        assert_eq!((store.counters().crawls, store.counters().crawl_records), (1, 2100), "once, to find out");
        store.touch(&key(0), store.now() + 10).await;
        sim.sleep(LONG).await;
        assert_eq!((store.counters().crawls, store.counters().expired_crawled), (2, 1), "a touch counts");
    });
}

#[test]
fn tables_of_expired_records_are_taken_back_unread() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        must_set(&store, 0..8000, store.now() + 120).await;
        store.flush().await;
        sim.sleep(Duration::from_secs(120) + LONG).await;
        assert_eq!(store.gauges().live_bytes, 0);
        must_set(&store, 10_000..20_000, 0).await;
        let counters = store.counters();
        assert!(counters.tables_reclaimed_unread >= 3, "{counters:?}");
        assert_eq!((counters.evictions, counters.reclaim_reads, counters.reclaim_records), (0, 0, 0), "{counters:?}");
        for number in 10_000..20_000 {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
    });
}

/// The walk has found a record expired, and then it is written again before it is dropped.
#[test]
fn what_is_written_while_the_crawler_is_at_work_stays() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        must_set(&store, 0..8000, store.now() + 10).await;
        store.enable_crawler(false);
        sim.sleep(LONG).await;
        assert_eq!(store.gauges().index_entries, 8000, "it is off");
        store.enable_crawler(true);
        store.crawl();
        for number in 0..8000 {
            must_set(&store, number..number + 1, 0).await;
            sim.yield_now().await;
        }
        sim.sleep(LONG).await;
        let counters = store.counters();
        assert!(counters.expired_crawled > 0, "they have met: {counters:?}");
        for number in 0..8000 {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
        store.recount().expect("the books are right");
    });
}

#[test]
fn a_walk_that_is_asked_for_begins_at_once_and_waits_between_records() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        must_set(&store, 0..3000, store.now() + 2).await;
        sim.sleep(Duration::from_secs(2)).await;
        store.set_crawl_pause(Duration::from_millis(10));
        store.crawl();
        sim.sleep(Duration::from_secs(20)).await;
        let half = store.counters().expired_crawled;
        assert!(half > 500 && half < 2900, "3000 records take 30 seconds: {half}");
        // It begins once more when it is done.
        store.crawl();
        store.crawl();
        sim.sleep(Duration::from_secs(30)).await;
        assert_eq!((store.counters().expired_crawled, store.counters().crawls), (3000, 2));
        store.set_crawl_pause(Duration::from_secs(1));
        must_set(&store, 0..3000, 0).await;
        store.crawl();
        store.close().await.expect("a long pause holds nobody up");
    });
}

/// A full store that may not evict looks for what has expired before it refuses, and others have their turn meanwhile.
#[test]
fn what_has_expired_makes_room_where_nothing_may_be_evicted() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { evict: false, ..options() }).await;
        store.enable_crawler(false);
        let expiry = store.now() + 100_000;
        let mut count = 0;
        loop {
            // In each table, some that stay.
            let meta = expiring(if count % 10 == 0 { 0 } else { expiry });
            if !matches!(store.set(&key(count), &value(count, 0, 900), meta).await, Stored::Stored(_)) {
                break;
            }
            count += 1;
        }
        assert_eq!(store.counters().expired_swept, 0);
        sim.sleep(Duration::from_secs(100_000)).await;
        let (turns, is_done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (other, shared_turns, shared_done) = (sim.clone(), Rc::clone(&turns), Rc::clone(&is_done));
        sim.spawn(async move {
            while !shared_done.get() {
                shared_turns.set(shared_turns.get() + 1);
                other.yield_now().await;
            }
        });
        assert!(matches!(store.set(b"new", &[1; 900], Meta::default()).await, Stored::Stored(_)));
        is_done.set(true);
        let counters = store.counters();
        assert!(counters.expired_swept > 10_000 && counters.evictions == 0, "{counters:?}");
        assert!(turns.get() > 100, "in steps: {}", turns.get());
        for number in (0..count).step_by(10) {
            assert!(bytes(&store, &key(number)).await.is_some(), "key {number}");
        }
        store.recount().expect("the books are right");
    });
}
