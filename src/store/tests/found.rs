//! What `tests/crash` has found, in its smallest form.

use super::*;
use crate::io::sim::{Fault, FaultKind, Faults, Sector, SimOptions};

/// A store that crashes twice with nothing on disk: the second time it must not begin with the same versions again, which
/// clients have seen as CAS uniques. Found by `dmacached-crash --mode power --seed 19`.
#[test]
fn versions_that_only_lost_writes_had_never_come_again() {
    let mut sim = world();
    let mut largest = 0;
    for _ in 0..4 {
        let stored = sim.run(async {
            let store = open(&sim, options()).await;
            store.set(b"key", b"value", Meta::default()).await
        });
        let Stored::Stored(version) = stored else { panic!("{stored:?}") };
        assert!(version > largest, "{version} comes after {largest}");
        largest = version;
        sim = sim.power_cut();
    }
}

/// A block whose write has failed may be on disk all the same. The footer leaves it out, so it is a miss after the next
/// start; that start must not go on with the table without its footer, or the one after it finds the record. Found by
/// `dmacached-crash --mode faults --seed 1210`.
#[test]
fn a_record_whose_write_has_failed_does_not_come_and_go() {
    let found = |sim: &Sim| sim.run(async { bytes(&open(sim, options()).await, b"key").await });
    for seed in 1..40 {
        let sim = Sim::new(seed, 1 << 30);
        sim.run(async {
            let store = open(&sim, options()).await;
            store.set(b"other", b"value", Meta::default()).await;
            store.flush().await;
            sim.schedule(vec![Fault { after: 0, kind: FaultKind::WriteError }]);
            store.set(b"key", b"value", Meta::default()).await;
            store.close().await.expect("the superblock can be written");
        });
        let stopped = sim.after_kill();
        let first = found(&stopped);
        assert_eq!(first, found(&stopped.after_kill()), "seed {seed}");
    }
}

/// The header of a table could not be made stable, and a power cut took it: the next use of the table has the same sequence,
/// and what was written behind the lost header must not be taken for its own. Found by `dmacached-crash --mode faults
/// --seed 681`.
#[test]
fn records_without_a_stable_header_never_belong_to_the_next_use() {
    for seed in 1..60 {
        let sim =
            Sim::with(seed, SimOptions { capacity: 1 << 30, sector: Sector::Page, is_shuffled: true, slow_period: 0 });
        let fill = async |store: &Store<Sim>, stamp| {
            for number in 0..300 {
                store.set(&key(number), &value(number, stamp, 4000), Meta::default()).await;
            }
        };
        let _ = sim.run_for(4000, async {
            let store = open(&sim, options()).await;
            fill(&store, 1).await;
            // The second table is being written now, and the third is begun with a sync that fails.
            store.flush().await;
            store.set(b"key", b"old", Meta::default()).await;
            store.flush().await;
            sim.set_faults(Faults { syncs: true, ..Faults::default() });
            fill(&store, 2).await;
            store.set(b"key", b"new", Meta::default()).await;
            sim.sleep(Duration::from_millis(50)).await;
        });
        let cut = sim.power_cut();
        let first = cut.run(async {
            let store = open(&cut, options()).await;
            fill(&store, 3).await;
            bytes(&store, b"key").await
        });
        let again = cut.after_kill();
        let second = again.run(async { bytes(&open(&again, options()).await, b"key").await });
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A checkpoint knows of a delayed flush; the record that has ended it was in a table that is gone by now. Found by
/// `dmacached-crash --mode power --seed 1000571`.
#[test]
fn a_delayed_flush_that_was_replaced_does_not_come_back_with_a_checkpoint() {
    let sim = world();
    let due = sim.monotonic().as_secs() as Seconds + 10_000;
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"key", b"value", Meta::default()).await;
        store.flush_all(Some(due)).await;
        store.close().await.expect("closes");
    });
    let stopped = sim.after_kill();
    let killed = stopped.run(async {
        let store = open(&stopped, options()).await;
        assert_eq!(store.flush_due(), Some(due));
        store.flush_all(None).await;
        // So much that the first tables are used again.
        for number in 0..6000 {
            store.set(&key(number), &value(number, 1, 4000), Meta::default()).await;
        }
        store.flush().await;
        stopped.power_cut()
    });
    assert_eq!(killed.run(async { open(&killed, options()).await.flush_due() }), None);
}
