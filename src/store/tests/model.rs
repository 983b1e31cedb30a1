//! Random operations, restarts and kills against a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Set { key: u8, size: u16, ttl: u8 },
    Add { key: u8, size: u16 },
    Append { key: u8, size: u8 },
    Delete(u8),
    Touch(u8, u8),
    FlushAll,
    Advance(u8),
    Flush,
    Filler(u8),
    Restart,
    Kill,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        30 => (any::<u8>(), 0u16..6000, any::<u8>()).prop_map(|(key, size, ttl)| Operation::Set { key, size, ttl }),
        6 => (any::<u8>(), 0u16..3000).prop_map(|(key, size)| Operation::Add { key, size }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(key, size)| Operation::Append { key, size }),
        12 => any::<u8>().prop_map(Operation::Delete),
        8 => (any::<u8>(), any::<u8>()).prop_map(|(key, ttl)| Operation::Touch(key, ttl)),
        1 => Just(Operation::FlushAll),
        4 => any::<u8>().prop_map(Operation::Advance),
        4 => Just(Operation::Flush),
        5 => any::<u8>().prop_map(Operation::Filler),
        2 => Just(Operation::Restart),
        2 => Just(Operation::Kill),
    ]
}

#[derive(Default)]
struct Model {
    records: BTreeMap<u8, (Vec<u8>, Seconds)>,
    stamp: u32,
}

impl Model {
    fn live(&self, key: u8, now: Seconds) -> Option<&(Vec<u8>, Seconds)> {
        self.records.get(&key).filter(|(_, expiry)| *expiry == 0 || *expiry > now)
    }
}

fn expiry(ttl: u8, now: Seconds) -> Seconds {
    if ttl < 128 { 0 } else { now + Seconds::from(ttl - 127) }
}

/// Moves on to where no second begins for a while: the model and the store must agree on which one it is.
fn settle_clock(sim: &Sim) {
    let into = u64::from(sim.monotonic().subsec_millis());
    if into > 500 {
        sim.advance(Duration::from_millis(1001 - into));
    }
}

async fn apply(sim: &Sim, store: &Store<Sim>, model: &mut Model, operation: &Operation) {
    model.stamp += 1;
    settle_clock(sim);
    let now = store.now();
    match *operation {
        Operation::Set { key: number, size, ttl } => {
            let bytes = value(number.into(), model.stamp, size.into());
            let meta = expiring(expiry(ttl, now));
            assert!(matches!(store.set(&key(number.into()), &bytes, meta).await, Stored::Stored(_)));
            model.records.insert(number, (bytes, meta.expiry));
        }
        Operation::Add { key: number, size } => {
            let bytes = value(number.into(), model.stamp, size.into());
            let stored = store.put(&key(number.into()), &bytes, Meta::default(), Condition::Absent).await;
            assert_eq!(stored == Stored::NotStored, model.live(number, now).is_some());
            if stored != Stored::NotStored {
                model.records.insert(number, (bytes, 0));
            }
        }
        Operation::Append { key: number, size } => {
            let tail = vec![b'+'; size.into()];
            let append = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
                let Some(record) = record else { return (Update::Keep, ()) };
                scratch.extend_from_slice(record.value);
                scratch.extend_from_slice(&tail);
                (Update::Replace(Meta::default()), ())
            };
            let (stored, ()) = store.update(&key(number.into()), append).await.expect("the disk works");
            assert_eq!(stored.is_some(), model.live(number, now).is_some());
            if let (Some(_), Some((bytes, expiry))) = (stored, model.records.get_mut(&number)) {
                bytes.extend_from_slice(&tail);
                *expiry = 0;
            }
        }
        Operation::Delete(number) => {
            let found = store.delete(&key(number.into())).await == Changed::Done;
            assert_eq!(found, model.live(number, now).is_some());
            model.records.remove(&number);
        }
        Operation::Touch(number, ttl) => {
            let expiry = expiry(ttl, now);
            let found = store.touch(&key(number.into()), expiry).await == Changed::Done;
            assert_eq!(found, model.live(number, now).is_some());
            if found {
                model.records.entry(number).and_modify(|record| record.1 = expiry);
            }
        }
        Operation::FlushAll => {
            store.flush_all(None).await;
            model.records.clear();
        }
        Operation::Advance(seconds) => sim.advance(Duration::from_secs(u64::from(seconds) / 8)),
        Operation::Filler(number) => {
            // Grinds through the tables, so that they are sealed, die and are used again; the keys of the model are
            // written too rarely to be evicted.
            for part in 0..8 {
                store.set(&key(1000 + u32::from(number) % 40 + part), &vec![number; 9000], Meta::default()).await;
            }
        }
        Operation::Flush | Operation::Restart | Operation::Kill => store.flush().await,
    }
}

async fn check(sim: &Sim, store: &Store<Sim>, model: &Model) {
    settle_clock(sim);
    let now = store.now();
    for number in 0..=u8::MAX {
        let expected = model.live(number, now).map(|(bytes, _)| bytes.clone());
        let found = bytes(store, &key(number.into())).await;
        if found != expected {
            panic!("key {number}: found {:?}, expected {:?}", brief(found), brief(expected));
        }
    }
    store.shared.state.borrow().index.invariants();
    let state = store.shared.state.borrow();
    let live: u64 = state.catalog.iter().map(|(_, table)| table.live_count).sum();
    assert_eq!(live, state.index.len() as u64, "live records as counted by the tables and by the index");
    drop(state);
    check_sizes(store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_that_survives(seed: u64, operations in proptest::collection::vec(operation(), 1..400)) {
        let mut sim = Sim::new(seed, 1 << 30);
        let mut model = Model::default();
        let is_end = |operation: &Operation| matches!(operation, Operation::Restart | Operation::Kill);
        for chunk in operations.split_inclusive(is_end) {
            sim = sim.run(async {
                let store = open(&sim, StoreOptions { capacity: 48 * MIB as u64, ..options() }).await;
                check(&sim, &store, &model).await;
                for operation in chunk {
                    apply(&sim, &store, &mut model, operation).await;
                }
                check(&sim, &store, &model).await;
                if matches!(chunk.last(), Some(Operation::Restart)) {
                    store.close().await.expect("closes");
                }
                sim.after_kill()
            });
        }
    }
}
