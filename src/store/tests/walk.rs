//! Walks over all records, in a store at rest and while others write.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::disktable::format::footer_page_count;
use crate::io::sim::Faults;
use crate::limits::PAGE_SIZE;
use crate::record::Header;
use crate::recovery::tables::table_path;

/// How often each key was met, and the size of its value when it was met last.
type Met = BTreeMap<Vec<u8>, (u32, usize)>;

async fn walk(store: &Store<Sim>) -> Met {
    walk_beside(store, |_| {}).await
}

/// A walk, with `work` after each of its steps, which hears of their number.
async fn walk_beside(store: &Store<Sim>, mut work: impl FnMut(u32)) -> Met {
    let mut met = Met::new();
    let mut walker = store.walk();
    let mut step_count = 0;
    while walker
        .step(&mut |record| {
            let (count, size) = met.entry(record.key.to_vec()).or_insert((0, 0));
            (*count, *size) = (*count + 1, record.value_size);
        })
        .await
    {
        step_count += 1;
        work(step_count);
        store.shared.io.yield_now().await;
    }
    met
}

fn once(met: &Met) -> bool {
    met.values().all(|(count, _)| *count == 1)
}

#[test]
fn a_store_at_rest_is_met_once_and_as_it_is() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        assert!(walk(&store).await.is_empty());
        // Many tables of small records and of some that take many pages.
        for number in 0..6000 {
            let size = if number % 50 == 0 { 50_000 } else { number as usize % 900 };
            store.set(&key(number), &value(number, 1, size), flags(number)).await;
        }
        for number in (0..6000).step_by(3) {
            store.delete(&key(number)).await;
        }
        for number in (1..6000).step_by(3) {
            store.touch(&key(number), store.now() + 1000).await;
        }
        store.set(b"gone", b"v", expiring(store.now() + 1)).await;
        sim.advance(Duration::from_secs(2));
        assert_eq!(store.counters().evictions, 0, "all of it fits");
        assert!(store.gauges().tables > 4);
        for _ in 0..2 {
            let met = walk(&store).await;
            assert!(once(&met));
            assert_eq!(met.len(), 4000);
            for (key, (_, size)) in met {
                assert_eq!(bytes(&store, &key).await.map(|bytes| bytes.len()), Some(size));
            }
            // The second time all of it is on disk.
            store.forget_memory().await;
        }
    });
}

#[test]
fn what_is_known_of_a_record_is_told() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let expiry = store.now() + 100;
        let Stored::Stored(version) = store.set(b"key", b"value", flags(7)).await else { panic!("stored") };
        store.touch(b"key", expiry).await;
        for is_on_disk in [false, true] {
            let mut walker = store.walk();
            let mut count = 0;
            let mut check = |record: &Walked<'_>| {
                count += 1;
                let Header { version: found, expiry: expires, client_flags, .. } = record.header;
                assert_eq!((record.key, record.value_size, found), (&b"key"[..], 5, version));
                assert_eq!((expires, client_flags, record.on_disk.is_some()), (expiry, 7, is_on_disk));
                assert_eq!(record.written, store.written_at(version));
            };
            while walker.step(&mut check).await {}
            assert_eq!(count, 1);
            store.forget_memory().await;
        }
    });
}

#[test]
fn what_is_there_all_the_time_is_met_while_others_write() {
    for seed in 0..8 {
        let sim = Sim::new(seed, 1 << 30);
        sim.run(async {
            let store = open(&sim, options()).await;
            for number in 0..3000 {
                store.set(&key(number), &value(number, 0, 700), Meta::default()).await;
            }
            // Each step, records are moved from before the walk to behind it, deleted and made.
            let mut moved = 0;
            let met = walk_beside(&store, |step| {
                for _ in 0..40 {
                    moved += 1;
                    let number = (moved * 7919 + seed as u32) % 2000;
                    let _ = store.try_put(&key(number), &value(number, step, 700), Meta::default(), Condition::Always);
                    let _ = store.try_delete(&key(2500 + moved % 500));
                }
            })
            .await;
            assert!(moved > 500, "the walk took some steps: {moved}");
            assert_eq!(store.counters().evictions, 0);
            for number in 0..2500 {
                assert!(met.contains_key(&key(number)), "key {number} was there all the time, seed {seed}");
            }
        });
    }
}

#[test]
fn a_walk_ends_while_others_write_as_fast_as_it_walks() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let mut number = 0;
        let met = walk_beside(&store, |_| {
            for _ in 0..600 {
                number += 1;
                let _ = store.try_put(&key(number % 3000), b"v", Meta::default(), Condition::Always);
            }
        })
        .await;
        assert!(!met.is_empty());
    });
}

#[test]
fn tables_that_are_emptied_during_a_walk_are_left_out() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { capacity: 6 * MIB as u64, ..options() }).await;
        for number in 0..9000 {
            store.set(&key(number), &value(number, 1, 700), Meta::default()).await;
        }
        let evicted = store.counters().evictions;
        let mut number = 9000;
        let met = walk_beside(&store, |_| {
            for _ in 0..300 {
                number += 1;
                let _ = store.try_put(&key(number), &value(number, 1, 700), Meta::default(), Condition::Always);
            }
        })
        .await;
        assert!(store.counters().evictions > evicted, "the walk was overtaken");
        assert!(once(&met), "nothing is replaced here, so nothing is met twice");
        for number in 0..number {
            if bytes(&store, &key(number)).await.is_some() && number < 9000 {
                assert!(met.contains_key(&key(number)), "{number} is still there");
            }
        }
    });
}

#[test]
fn a_table_without_a_readable_footer_is_walked_all_the_same() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..3000 {
            store.set(&key(number), &value(number, 1, 1000), Meta::default()).await;
        }
        store.forget_memory().await;
        let tables: Vec<_> = sim
            .paths()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "dmt"))
            .collect();
        assert!(tables.len() > 3);
        for path in tables {
            sim.tamper(&path, |contents| {
                let end = contents.len() - PAGE_SIZE;
                contents[end - footer_page_count(1) * PAGE_SIZE..end].fill(0xa5);
            });
        }
        let met = walk(&store).await;
        assert!(once(&met));
        assert_eq!(met.len(), 3000);
    });
}

#[test]
fn a_device_that_does_not_read_ends_no_walk_early() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..3000 {
            store.set(&key(number), &value(number, 1, 1000), Meta::default()).await;
        }
        store.forget_memory().await;
        store.set(b"in memory", b"v", Meta::default()).await;
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        let met = walk(&store).await;
        assert_eq!(met.keys().collect::<Vec<_>>(), [b"in memory"]);
        sim.set_faults(Faults::default());
        assert_eq!(walk(&store).await.len(), 3001);
    });
}

/// The table is cut short behind the store's back, after what is live in it was looked up.
#[test]
fn a_file_that_ends_too_early_ends_no_walk_too_late() {
    let sim = world();
    let ended = sim.run_for(100_000, async {
        let store = open(&sim, options()).await;
        for number in 0..3000 {
            store.set(&key(number), &value(number, 1, 1000), Meta::default()).await;
        }
        store.forget_memory().await;
        let first = store.shared.state.borrow().index.get(&store.digest(&key(0))).expect("there").pointer.slot;
        let mut walker = store.walk();
        let mut met_count = 0;
        let mut steps = 0;
        while walker.step(&mut |_| met_count += 1).await {
            steps += 1;
            if met_count > 0 && steps < 1000 {
                steps = 1000;
                let path = table_path(&Path::new(DIRECTORY).join("shard-0000"), first);
                sim.tamper(&path, |contents| contents.truncate(100 * PAGE_SIZE));
            }
            store.shared.io.yield_now().await;
        }
        assert!((1900..2700).contains(&met_count), "{met_count}");
    });
    assert!(ended.is_some(), "it asks for the same read for ever");
}
