//! A sync has failed: what was on stable media before must be there after a power cut, whatever later syncs say.

use super::super::reclaim::Method;
use super::*;
use crate::disktable::catalog::TableState;
use crate::io::sim::{Fault, FaultKind};

const COUNT: u32 = 2000;
const SIZE: usize = 900;

fn sync_error(after: u64) -> Vec<Fault> {
    vec![Fault { after, kind: FaultKind::SyncError }]
}

/// Two tables of records that are stable, and a third that is begun.
async fn filled(sim: &Sim) -> Store<Sim> {
    let store = open(sim, options()).await;
    for number in 0..COUNT {
        store.set(&key(number), &value(number, 0, SIZE), Meta::default()).await;
    }
    store.flush().await;
    store
}

fn first_slot(store: &Store<Sim>) -> u32 {
    let state = store.shared.state.borrow();
    state.index.get(&store.digest(&key(0))).expect("there").pointer.slot
}

fn state_of(store: &Store<Sim>, slot: u32) -> TableState {
    store.shared.state.borrow().catalog.get(slot).expect("there").state
}

/// After many power cuts, each of which takes another part of what is not stable.
fn check_after_power_cuts(sim: &Sim, count: u32, expected: impl Fn(u32) -> u32) {
    for cut in 0..count {
        let after = sim.power_cut();
        after.run(async {
            let store = open(&after, options()).await;
            for number in 0..COUNT {
                let known = Some(value(number, expected(number), SIZE));
                assert_eq!(brief(bytes(&store, &key(number)).await), brief(known), "cut {cut}, key {number}");
            }
        });
    }
}

/// Records that nobody writes any more are moved again and again as others are overwritten. Whichever sync fails meanwhile, of
/// copies, of what has replaced others, of a footer: what was stable is there after a power cut.
#[test]
fn what_was_stable_is_moved_behind_failing_syncs_and_not_lost() {
    let mut failed = 0;
    for seed in 0..12 {
        let sim = Sim::new(seed, 1 << 30);
        sim.run(async {
            let store = filled(&sim).await;
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for number in 0..36_000u32 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let other = COUNT + (random >> 33) as u32 % 8000;
                store.set(&key(other), &value(other, number, SIZE), Meta::default()).await;
                if number % 1500 == 700 {
                    sim.schedule(sync_error((random >> 40) % 12));
                }
                if number % 6000 == 5999 {
                    check_after_power_cuts(&sim, 2, |_| 0);
                }
            }
            store.recount().expect("the books are right");
            failed += sim.happened().len();
            let counters = store.counters();
            assert!(counters.reclaim_records > 0 && counters.evictions == 0, "{counters:?}");
        });
    }
    assert!(failed > 50, "{failed}");
}

/// A piece of a checkpoint has open tables made stable: it is not the only one who needs to know that this has failed.
#[test]
fn what_a_checkpoint_could_not_make_stable_is_doubtful() {
    for after in 0..5 {
        let sim = world();
        sim.run(async {
            let store = filled(&sim).await;
            sim.sleep(Duration::from_secs(5)).await;
            let slot = first_slot(&store);
            // Copies are written, and not synced yet; enough for a piece to be due.
            let open = super::moved::victim(&store, slot);
            store.shared.move_out(&open).await.expect("moved");
            store.shared.write_copies().await.expect("written");
            let before = store.counters();
            sim.schedule(sync_error(after));
            sim.sleep(Duration::from_secs(2)).await;
            assert_eq!(sim.happened().len(), 1, "{after}");
            let is_table =
                sim.happened()[0].path.as_ref().is_some_and(|path| path.extension().is_some_and(|it| it == "dmt"));
            assert_eq!(store.counters().disk_write_errors > before.disk_write_errors, is_table);
        });
        check_after_power_cuts(&sim, 20, |_| 0);
    }
}

/// What is written after the failure is as safe as ever, and the table that it concerned is emptied and used again.
#[test]
fn a_store_goes_on_behind_a_failed_sync() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        for round in 1..=6 {
            sim.schedule(sync_error(u64::from(round) * 3));
            for number in 0..COUNT {
                let stored = store.set(&key(number), &value(number, round, SIZE), Meta::default()).await;
                assert!(matches!(stored, Stored::Stored(_)), "{number}, {round}: {stored:?}");
            }
            store.flush().await;
            sim.sleep(Duration::from_secs(3)).await;
        }
        assert_eq!(sim.happened().len(), 6);
        sim.sleep(Duration::from_secs(100)).await;
        // Whatever was doubtful was moved, and is stable again.
        store.flush().await;
        let state = store.shared.state.borrow();
        let complete = state.catalog.iter().filter(|(_, table)| table.state == TableState::Sealed);
        assert!(complete.count() > 0 && !state.is_held_up_by_doubt());
    });
    check_after_power_cuts(&sim, 20, |_| 6);
}

#[test]
fn a_table_that_is_freed_is_not_doubtful_any_more() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let slot = first_slot(&store);
        {
            let mut state = store.shared.state.borrow_mut();
            let (_, table) = state.catalog.usage(slot).expect("there");
            state.doubt(table, &std::io::ErrorKind::Other.into());
            assert!(state.is_held_up_by_doubt());
            assert_eq!(state.first_doubtful(store.now()), Some((slot, Method::Move)));
        }
        store.shared.reclaim(slot, Method::Move).await.expect("emptied");
        assert_eq!(state_of(&store, slot), TableState::Free);
        assert!(!store.shared.state.borrow().has_doubtful());
    });
    check_after_power_cuts(&sim, 20, |_| 0);
}
