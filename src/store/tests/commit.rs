//! Writes that are acknowledged when they are on stable media.

use std::rc::Rc;

use super::*;
use crate::io::sim::{EPOCH, Faults};

const FAILING_WRITES: Faults = Faults { reads: false, writes: true, syncs: false };
const FAILING_SYNCS: Faults = Faults { reads: false, writes: false, syncs: true };

fn sync_options() -> StoreOptions {
    StoreOptions { durability: Durability::Sync, ..options() }
}

/// Opens what a kill at this moment would leave.
fn reopened<T>(sim: &Sim, look: impl AsyncFnOnce(Store<Sim>) -> T) -> T {
    let after = sim.after_kill();
    after.clone().run(async { look(open(&after, options()).await).await })
}

#[test]
fn what_is_acknowledged_is_there_after_a_kill() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        for number in 0..50 {
            assert!(matches!(
                store.set(&key(number), &value(number, 1, 100), Meta::default()).await,
                Stored::Stored(_)
            ));
            let found = reopened(&sim, async |store| bytes(&store, &key(number)).await);
            assert_eq!(found, Some(value(number, 1, 100)), "key {number}");
        }
        assert_eq!(store.delete(&key(1)).await, Changed::Done);
        assert_eq!(store.touch(&key(2), EPOCH + 5).await, Changed::Done);
        let third = key(3);
        let appended = store.update(&third, |record, scratch| {
            scratch.extend_from_slice(record.expect("it is there").value);
            scratch.push(b'!');
            (Update::Replace(Meta::default()), ())
        });
        assert!(matches!(appended.await.expect("the disk works").0, Some(Stored::Stored(_))));
        reopened(&sim, async |store| {
            assert_eq!(bytes(&store, &key(1)).await, None);
            assert_eq!(bytes(&store, &key(3)).await, Some([&value(3, 1, 100)[..], b"!"].concat()));
            assert!(bytes(&store, &key(2)).await.is_some());
            store.shared.io.advance(Duration::from_secs(10));
            assert_eq!(bytes(&store, &key(2)).await, None);
        });
        assert_eq!(store.flush_all(None).await, Changed::Done);
        reopened(&sim, async |store| assert_eq!(bytes(&store, &key(4)).await, None));
        let counters = store.counters();
        assert_eq!((counters.commits, counters.commit_records, counters.commit_failures), (54, 54, 0));
        store.close().await.expect("closes");
    });
}

#[test]
fn in_memory_nothing_is_waited_for() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let before = sim.transfer_count();
        store.set(b"k", b"v", Meta::default()).await;
        assert_eq!(sim.transfer_count(), before);
        assert_eq!((store.commit(), store.take_trace()), (None, Trace::default()));
    });
}

#[test]
fn many_writers_share_a_commit_and_what_comes_meanwhile_is_the_next() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        let done = Rc::new(Cell::new(0));
        for number in 0..64 {
            let (store, done) = (store.clone(), Rc::clone(&done));
            sim.spawn(async move {
                for round in 0..10 {
                    let stored = store.set(&key(number), &value(number, round, 100), Meta::default()).await;
                    assert!(matches!(stored, Stored::Stored(_)));
                }
                done.set(done.get() + 1);
            });
        }
        while done.get() < 64 {
            sim.sleep(Duration::from_millis(1)).await;
        }
        let counters = store.counters();
        assert_eq!(counters.commit_records, 640);
        assert!(counters.commits <= 21, "{} commits", counters.commits);
        reopened(&sim, async |store| {
            for number in 0..64 {
                assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 9, 100)));
            }
        });
    });
}

#[test]
fn groups_end_in_order_and_are_shared_until_they_begin() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        assert_eq!(store.commit(), None);
        let put = |key: &[u8]| {
            assert!(matches!(store.try_put(key, b"v", Meta::default(), Condition::Always), Ok(Stored::Stored(_))));
        };
        put(b"1");
        let first = store.commit().expect("something is to be written");
        put(b"2");
        assert_eq!(store.commit(), Some(first), "it has not begun");
        assert_eq!(store.take_trace(), Trace { written: first, shown: 0 });
        // The flusher takes it.
        sim.yield_now().await;
        assert_eq!(store.commit(), Some(first), "it is under way, and covers everything");
        put(b"3");
        let second = store.commit().expect("something is to be written");
        assert_eq!(second, first + 1);
        assert_eq!(store.commit_outcome(first), CommitOutcome::Pending);
        while store.commit_outcome(second) == CommitOutcome::Pending {
            store.progressed().await;
            assert!(store.commit_outcome(first) == CommitOutcome::Stable);
        }
        assert_eq!(store.commit_outcome(second), CommitOutcome::Stable);
        assert_eq!((store.commit(), store.ended_group()), (None, second));
    });
}

#[test]
fn nobody_is_shown_what_may_still_be_lost() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        for number in 0..3 {
            store.set(&key(number), b"old", expiring(EPOCH + 1000)).await;
        }
        let seek = |number: u32| {
            let (name, digest) = (key(number), store.digest(&key(number)));
            let _: Trace = store.take_trace();
            let _ = store.seek(&digest, &name, |_| ());
            store.take_trace()
        };
        assert_eq!(seek(0), Trace::default(), "it is stable");
        assert_eq!(seek(9), Trace::default(), "it has never been there");
        let current = store.ended_group() + 1;
        let shows = Trace { written: 0, shown: current };
        assert!(store.try_put(&key(1), b"new", Meta::default(), Condition::Always).is_ok());
        assert_eq!((seek(0), seek(1), seek(9)), (Trace::default(), shows, Trace::default()));
        assert!(store.try_delete(&key(2)).is_ok());
        assert_eq!((seek(0), seek(2), seek(9)), (Trace::default(), shows, shows), "who may have been deleted, too");
        assert!(store.try_touch(&key(0), EPOCH + 2000).is_ok());
        assert_eq!(seek(0), shows);
        let _ = store.commit();
        sim.yield_now().await;
        assert_eq!((seek(0), seek(1)), (shows, shows), "on its way is not there");
        while store.commit_outcome(current) == CommitOutcome::Pending {
            store.progressed().await;
        }
        assert_eq!((seek(0), seek(1), seek(2)), Default::default());
    });
}

#[test]
fn a_get_waits_for_the_write_that_it_shows() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        assert!(store.try_put(b"k", b"v", Meta::default(), Condition::Always).is_ok());
        assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"v"[..]));
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"v"[..])));
        assert!(store.try_delete(b"k").is_ok());
        assert_eq!(bytes(&store, b"k").await, None);
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await, None));
    });
}

/// What a failing device makes of writes, and that the store goes on elsewhere when it works again.
fn fails_and_goes_on(faults: Faults) {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        for number in 0..20 {
            assert!(matches!(store.set(&key(number), b"old", Meta::default()).await, Stored::Stored(_)));
        }
        let table = store.shared.state.borrow().writer.table;
        sim.set_faults(faults);
        assert_eq!(store.set(&key(1), b"new", Meta::default()).await, Stored::Failed);
        sim.set_faults(Faults::default());
        assert_ne!(store.shared.state.borrow().writer.table, table, "the table is left");
        assert_eq!(bytes(&store, &key(1)).await, None, "neither the new value nor the old one");
        assert_eq!(bytes(&store, &key(2)).await.as_deref(), Some(&b"old"[..]));
        let counters = store.counters();
        assert!(counters.commit_failures >= 1);
        assert_eq!(store.gauges().deletions_not_noted, 0);
        assert!(matches!(store.set(&key(3), b"new", Meta::default()).await, Stored::Stored(_)));
        assert_eq!(store.delete(&key(4)).await, Changed::Done);
        let check = async |store: Store<Sim>| {
            assert_eq!(bytes(&store, &key(1)).await, None, "what was shown to be gone stays so");
            assert_eq!(bytes(&store, &key(2)).await.as_deref(), Some(&b"old"[..]));
            assert_eq!(bytes(&store, &key(3)).await.as_deref(), Some(&b"new"[..]));
            assert_eq!(bytes(&store, &key(4)).await, None);
        };
        reopened(&sim, check);
        store.close().await.expect("closes");
        reopened(&sim, check);
    });
}

#[test]
fn a_failed_write_is_told_and_never_tried_again() {
    fails_and_goes_on(FAILING_WRITES);
}

#[test]
fn a_failed_sync_is_a_failed_write() {
    fails_and_goes_on(FAILING_SYNCS);
}

#[test]
fn behind_a_failure_nothing_is_acknowledged_in_the_same_table() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        store.set(b"first", b"v", Meta::default()).await;
        let put = |key: &[u8]| {
            assert!(matches!(store.try_put(key, b"v", Meta::default(), Condition::Always), Ok(Stored::Stored(_))));
            store.take_trace().written
        };
        let failing = put(b"failing");
        let _ = store.commit();
        sim.yield_now().await;
        // In the next block of the same table, as the device has not said anything yet.
        let behind = put(b"behind");
        assert_eq!(behind, failing + 1);
        sim.set_faults(FAILING_WRITES);
        while store.commit_outcome(failing) == CommitOutcome::Pending {
            store.progressed().await;
        }
        sim.set_faults(Faults::default());
        let _ = store.commit();
        while store.commit_outcome(behind) == CommitOutcome::Pending {
            store.progressed().await;
        }
        assert_eq!(store.commit_outcome(failing), CommitOutcome::Failed);
        assert_eq!(store.commit_outcome(behind), CommitOutcome::Failed);
        assert!(matches!(store.set(b"elsewhere", b"v", Meta::default()).await, Stored::Stored(_)));
        reopened(&sim, async |store| {
            for (key, is_there) in [(b"first".as_slice(), true), (b"behind", false), (b"elsewhere", true)] {
                assert_eq!(bytes(&store, key).await.is_some(), is_there, "{}", key.escape_ascii());
            }
        });
    });
}

#[test]
fn a_failed_flush_or_touch_is_told_and_noted_again() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        store.set(b"k", b"v", Meta::default()).await;
        store.set(b"l", b"v", Meta::default()).await;
        sim.set_faults(FAILING_WRITES);
        assert_eq!(store.touch(b"l", EPOCH + 2).await, Changed::Failed);
        sim.set_faults(Faults::default());
        store.set(b"m", b"v", Meta::default()).await;
        reopened(&sim, async |store| {
            store.shared.io.advance(Duration::from_secs(5));
            assert_eq!(bytes(&store, b"l").await, None, "its expiry counts");
            assert!(bytes(&store, b"k").await.is_some());
        });
        sim.set_faults(FAILING_WRITES);
        assert_eq!(store.flush_all(None).await, Changed::Failed);
        sim.set_faults(Faults::default());
        assert_eq!(bytes(&store, b"k").await, None);
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await, None, "as it was shown to be"));
        assert_eq!(store.gauges().deletions_not_noted, 0);
    });
}

#[test]
fn deletions_that_cannot_be_noted_are_counted_and_noted_later() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        store.set(b"k", b"old", Meta::default()).await;
        sim.set_faults(FAILING_WRITES);
        for _ in 0..3 {
            assert_eq!(store.set(b"k", b"new", Meta::default()).await, Stored::Failed);
        }
        // The tables that would be next cannot be begun either.
        sim.sleep(Duration::from_secs(60)).await;
        assert!(store.gauges().deletions_not_noted > 0);
        sim.set_faults(Faults::default());
        sim.sleep(Duration::from_secs(70)).await;
        assert_eq!(store.gauges().deletions_not_noted, 0);
        assert_eq!(bytes(&store, b"k").await, None);
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await, None));
        assert!(matches!(store.set(b"k", b"newer", Meta::default()).await, Stored::Stored(_)));
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"newer"[..])));
    });
}

#[test]
fn without_commits_the_flush_interval_holds() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        assert!(store.try_put(b"k", b"v", Meta::default(), Condition::Always).is_ok());
        sim.sleep(Duration::from_millis(1100)).await;
        reopened(&sim, async |store| assert!(bytes(&store, b"k").await.is_some()));
        let before = sim.transfer_count();
        sim.sleep(Duration::from_secs(10)).await;
        assert_eq!(sim.transfer_count(), before, "nothing is to be done");
    });
}

#[test]
fn tables_fill_and_are_recycled_with_a_commit_per_write() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, sync_options()).await;
        for number in 0..6000 {
            let stored = store.set(&key(number), &value(number, 1, 3000), Meta::default()).await;
            assert!(matches!(stored, Stored::Stored(_)), "key {number}: {stored:?}");
        }
        assert!(store.counters().tables_begun > 20);
        reopened(&sim, async |store| {
            for number in 5500..6000 {
                assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 1, 3000)), "key {number}");
            }
        });
        store.close().await.expect("closes");
    });
}

#[test]
fn in_memory_a_failed_sync_leaves_the_table_without_a_footer() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"k", b"v", Meta::default()).await;
        let table = store.shared.state.borrow().writer.table;
        sim.set_faults(FAILING_SYNCS);
        store.flush().await;
        sim.set_faults(Faults::default());
        store.flush().await;
        sim.sleep(Duration::from_secs(5)).await;
        assert!(store.counters().disk_write_errors > 0);
        assert_ne!(store.shared.state.borrow().writer.table, table);
        assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"v"[..]), "it is readable");
        let path = crate::recovery::tables::table_path(&PathBuf::from(DIRECTORY).join("shard-0000"), table.slot);
        sim.tamper(&path, |bytes| assert!(bytes[MIB - 4096..].iter().all(|byte| *byte == 0), "no trailer"));
        store.close().await.expect("closes");
        reopened(&sim, async |store| assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"v"[..])));
    });
}
