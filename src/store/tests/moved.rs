//! What happens to a record between the moment at which it is found worth moving and the one at which its table is gone.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::super::mover::{Copied, Mover};
use super::super::reclaim::{Method, Victim};
use super::*;
use crate::disktable::catalog::TableState;
use crate::disktable::format::Summary;
use crate::index::Entry;
use crate::io::sim::{Faults, SimFile};
use crate::record::{Header, Kind};
use crate::recovery::tables::table_path;

const COUNT: u32 = 300;

/// Two versions of some keys, in tables of their own, and others that keep the first table alive.
async fn two_versions(store: &Store<Sim>, second: Meta) {
    for number in 0..1150 {
        store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
    }
    for number in 0..COUNT {
        store.set(&key(number), &value(number, 1, 900), second).await;
    }
    for number in 2000..3200 {
        store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
    }
    store.forget_memory().await;
}

fn entry(store: &Store<Sim>, key: &[u8]) -> Entry {
    store.shared.state.borrow().index.get(&store.digest(key)).expect("there")
}

pub(super) fn victim(store: &Store<Sim>, slot: u32) -> Victim<SimFile> {
    let state = store.shared.state.borrow();
    let (file, table) = state.catalog.usage(slot).expect("there");
    let (first, second) = state.catalog.two_oldest_sequences();
    let oldest = if first == table.sequence { second } else { first };
    Victim { file, table, identity: store.shared.identity(slot), method: Method::Move, oldest }
}

fn is_full_of_copies(store: &Store<Sim>) -> bool {
    !store.shared.state.borrow().movers.iter().all(Mover::is_idle)
}

/// What was found out about a record may have changed when it is copied.
#[test]
fn a_copy_has_the_expiry_of_a_touch_that_came_while_it_was_read() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, Meta::default()).await;
        let (name, digest) = (key(7), store.digest(&key(7)));
        let from = entry(&store, &name).pointer;
        let expiry = store.now() + 1000;
        assert_eq!(store.touch(&name, expiry).await, Changed::Done);
        let bytes = value(7, 1, 900);
        let header = Header { kind: Kind::Value, version: 9, expiry: 0, client_flags: 0, bits: 0, own_cas: None };
        let copied = Copied { digest, header, key: &name, value: &bytes, from: Some(from), older_until: 0 };
        store.shared.copy(&copied).await.expect("there is room");
        let state = store.shared.state.borrow();
        let writers = state.movers.iter().filter_map(|mover| mover.writer.as_ref());
        let summaries = writers.flat_map(|writer| writer.summaries.iter());
        let found: Vec<Summary> = summaries.filter(|summary| summary.digest == digest).collect();
        assert_eq!(found.iter().map(|summary| summary.expiry).collect::<Vec<_>>(), [expiry]);
    });
}

/// A table that could not be emptied is looked through once more. What was moved then, with an expiry that is not that of the
/// original, must not be taken for dead.
#[test]
fn an_expired_original_is_not_buried_above_its_copy() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, expiring(store.now() + 50)).await;
        for number in 0..COUNT {
            store.touch(&key(number), 0).await;
        }
        let slot = entry(&store, &key(0)).pointer.slot;
        store.shared.move_out(&victim(&store, slot)).await.expect("moved");
        store.shared.write_copies().await.expect("written");
        assert_ne!(entry(&store, &key(0)).pointer.slot, slot);
        sim.advance(Duration::from_secs(100));
        let before = store.counters();
        store.shared.reclaim(slot, Method::Move).await.expect("emptied");
        assert!(store.counters().reclaim_reads > before.reclaim_reads + 100, "each was looked at");
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        for number in 0..COUNT {
            assert_eq!(brief(bytes(&store, &key(number)).await), brief(Some(value(number, 1, 900))), "{number}");
        }
    });
}

/// What has expired leaves the index when its table is looked through; when that is all that comes of it, the table still keeps
/// older versions dead.
#[test]
fn a_table_that_could_not_be_emptied_keeps_older_versions_dead() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, expiring(store.now() + 50)).await;
        let slot = entry(&store, &key(COUNT - 1)).pointer.slot;
        sim.advance(Duration::from_secs(100));
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        assert!(store.shared.reclaim(slot, Method::Move).await.is_err());
        sim.set_faults(Faults::default());
        let state = store.shared.state.borrow();
        let gone = (0..COUNT).filter(|number| state.index.get(&store.digest(&key(*number))).is_none()).count();
        assert!(gone > 0, "the footer was looked through");
        let table = state.catalog.get(slot).expect("there");
        assert!(table.state == TableState::Sealed && table.dropped);
        assert!(!table.is_unguarded(state.catalog.two_oldest_sequences()));
    });
}

/// What is copied after a piece of a checkpoint is begun was alive then: so whatever ends it is newer than what the piece knows.
#[test]
fn a_piece_is_begun_when_no_copy_is_on_its_way() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, Meta::default()).await;
        let slot = entry(&store, &key(0)).pointer.slot;
        let moving = store.clone();
        sim.spawn(async move {
            moving.shared.reclaim(slot, Method::Move).await.expect("emptied");
        });
        for _ in 0..20 {
            while !is_full_of_copies(&store) {
                let state = store.shared.state.borrow().catalog.get(slot).expect("there").state;
                if state == TableState::Free {
                    return;
                }
                sim.yield_now().await;
            }
            store.shared.no_copy_on_its_way().await;
            assert!(!is_full_of_copies(&store));
        }
    });
}

/// What expires between the moment at which it was found alive and the one at which its copy counts keeps older versions dead.
#[test]
fn what_expires_on_its_way_keeps_older_versions_dead() {
    for step in 0..60u64 {
        let sim = world();
        let killed = sim.run(async {
            let store = open(&sim, options()).await;
            two_versions(&store, expiring(store.now() + 50)).await;
            let slot = entry(&store, &key(0)).pointer.slot;
            let other = store.clone();
            let world = sim.clone();
            sim.spawn(async move {
                world.sleep(Duration::from_micros(step * 50)).await;
                world.advance(Duration::from_secs(100));
                for number in 0..COUNT {
                    assert!(bytes(&other, &key(number)).await.is_none());
                }
            });
            let _ = store.shared.reclaim(slot, Method::Move).await;
            sim.advance(Duration::from_secs(100));
            for number in 0..COUNT {
                assert!(bytes(&store, &key(number)).await.is_none());
            }
            store.flush().await;
            // The tables that have died go, and with them what they keep dead.
            let mut emptied = 0;
            while let Some((slot, Method::Dead)) = { store.shared.state.borrow().next_victim(store.now()) } {
                store.shared.reclaim(slot, Method::Dead).await.expect("emptied");
                emptied += 1;
            }
            assert!(emptied < 16);
            sim.after_kill()
        });
        // Without a checkpoint, which would know that they are gone.
        for path in killed.paths().iter().filter(|path| path.extension().is_some_and(|it| it == "dmc")) {
            killed.tamper(path, Vec::clear);
        }
        killed.run(async {
            let store = open(&killed, options()).await;
            for number in 0..COUNT {
                assert_eq!(brief(bytes(&store, &key(number)).await), None, "{number}, step {step}");
            }
        });
    }
}

/// Who was told of which keys.
struct Told(RefCell<Vec<Vec<u8>>>);

impl EvictionListener for Told {
    fn is_listening(&self) -> bool {
        true
    }

    fn evicted(&self, record: &Walked<'_>) {
        self.0.borrow_mut().push(record.key.to_vec());
    }
}

/// What is read again and again is kept when its table is evicted, and an attempt that fails evicts nothing.
#[test]
fn only_what_goes_is_told_of_and_once() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, Meta::default()).await;
        let told = Rc::new(Told(RefCell::default()));
        store.tell_of_evictions(Rc::<Told>::clone(&told));
        let slot = entry(&store, &key(1000)).pointer.slot;
        for number in [700, 800, 900] {
            let _ = (bytes(&store, &key(number)).await, bytes(&store, &key(number)).await);
        }
        // First the copies cannot be written; then there are none any more, and the table cannot be marked.
        for _ in 0..3 {
            sim.set_faults(Faults { writes: true, ..Faults::default() });
            assert!(store.shared.reclaim(slot, Method::Evict).await.is_err());
            sim.set_faults(Faults::default());
            store.forget_memory().await;
        }
        let live_count = store.shared.state.borrow().catalog.get(slot).expect("there").live_count;
        store.shared.reclaim(slot, Method::Evict).await.expect("emptied");
        let mut keys = told.0.borrow().clone();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count, "each once");
        assert!(live_count > 500 && (count as u64) < live_count + 3, "{count} of {live_count}");
        for number in [700, 800, 900] {
            assert!(bytes(&store, &key(number)).await.is_some() && !keys.contains(&key(number)), "{number} is kept");
        }
        assert_eq!(bytes(&store, &keys[0]).await, None);
    });
}

/// Values that were replaced since, and behind them tombstones for older versions that are alive on disk.
#[test]
fn a_table_whose_end_is_not_found_is_not_emptied() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..1500 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        store.forget_memory().await;
        let slot = entry(&store, &key(1499)).pointer.slot;
        let from = entry(&store, &key(1499)).pointer.offset as usize;
        for number in 0..200 {
            assert_eq!(store.delete(&key(number)).await, Changed::Done);
        }
        // The rest of the table, and all that is alive in it is replaced.
        for number in 2000..3200 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        for number in (200..1500).chain(2000..3200).filter(|number| entry(&store, &key(*number)).pointer.slot == slot) {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.forget_memory().await;
        assert_eq!(store.shared.state.borrow().catalog.get(slot).expect("there").live_count, 0);
        let path = table_path(&Path::new(DIRECTORY).join("shard-0000"), slot);
        sim.tamper(&path, |contents| {
            contents[from + 100] ^= 1;
            let end = contents.len();
            contents[end - 3 * 4096..end - 4096].fill(0xa5);
        });
        assert!(store.shared.reclaim(slot, Method::Move).await.is_err(), "the tombstones are not found");
    });
}

#[test]
fn what_cannot_be_read_of_a_table_is_counted() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, Meta::default()).await;
        let slot = entry(&store, &key(1000)).pointer.slot;
        let before = store.counters().disk_read_errors;
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        assert!(store.shared.reclaim(slot, Method::Move).await.is_err());
        assert!(store.counters().disk_read_errors > before);
    });
}

/// Copies may lie in a table that was begun before that of their originals, which stays as one of its records is damaged.
#[test]
fn what_is_evicted_from_an_earlier_table_than_its_original_does_not_come_back() {
    let sim = world();
    let (killed, gone) = sim.run(async {
        let store = open(&sim, options()).await;
        let slot_of = |number| entry(&store, &key(number)).pointer.slot;
        for number in (0..2000).chain(100..2000) {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        store.forget_memory().await;
        store.shared.reclaim(slot_of(50), Method::Move).await.expect("emptied");
        let copies = slot_of(50);
        for number in 3000..5500 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        // Of a table that was begun since a few records are left, of which the last is damaged.
        let doubled = slot_of(4200);
        let numbers: Vec<u32> = (3000..5500).filter(|number| slot_of(*number) == doubled).collect();
        let (replaced, left) = numbers.split_at(numbers.len() - 100);
        for number in replaced {
            store.set(&key(*number), &value(*number, 1, 900), Meta::default()).await;
        }
        store.forget_memory().await;
        let damaged = entry(&store, &key(left[99])).pointer;
        let path = table_path(&Path::new(DIRECTORY).join("shard-0000"), doubled);
        sim.tamper(&path, |contents| contents[damaged.offset as usize + 100] ^= 1);
        assert!(store.shared.reclaim(doubled, Method::Move).await.is_err(), "one is damaged");
        let gone = left[..99].to_vec();
        assert!(gone.iter().all(|number| slot_of(*number) == copies));
        store.shared.seal_copies(true).await.expect("sealed");
        store.shared.reclaim(copies, Method::Evict).await.expect("evicted");
        for number in &gone {
            assert_eq!(bytes(&store, &key(*number)).await, None);
        }
        store.flush().await;
        (sim.after_kill(), gone)
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        for number in gone {
            assert_eq!(brief(bytes(&store, &key(number)).await), None, "key {number} was evicted");
        }
    });
}

/// A delayed flush is repeated in each table of new records, with the first record there. Until then it is in older tables only,
/// and must outlive them. (Seed 316846 of the crash program.)
#[test]
fn a_delayed_flush_outlives_the_tables_that_it_was_noted_in() {
    let sim = world();
    let options = || StoreOptions { evict: false, ..options() };
    let due = sim.run(async {
        let store = open(&sim, options()).await;
        two_versions(&store, Meta::default()).await;
        let due = store.now() + 1000;
        assert_eq!(store.flush_all(Some(due)).await, Changed::Done);
        for number in 4000..8000 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
        due
    });
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(store.flush_due(), Some(due));
        sim.sleep(Duration::from_secs(1)).await;
        store.shared.state.borrow_mut().roll_table().expect("a table is ready");
        store.flush().await;
        sim.sleep(Duration::from_secs(1)).await;
        let slots: Vec<u32> = {
            let state = store.shared.state.borrow();
            let sealed = state.catalog.iter().filter(|(_, table)| table.state == TableState::Sealed);
            sealed.map(|(slot, _)| slot).collect()
        };
        for slot in slots {
            store.shared.reclaim(slot, Method::Move).await.expect("emptied");
        }
    });
    for _ in 0..10 {
        let after = sim.power_cut();
        after.run(async { assert_eq!(open(&after, options()).await.flush_due(), Some(due)) });
    }
}
