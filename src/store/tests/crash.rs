//! A stop at any moment: in the middle of writing, of emptying a table, of a recovery, of the recovery after that.
//!
//! What was flushed must be there, or something that was written later under the same key; nothing that was replaced or
//! deleted before the last flush may come back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Keys of the history; few, so that each has many versions in many tables.
const KEYS: u32 = 60;
/// Further keys that are written rarely: they keep old tables alive, and with them old versions of the others on disk.
const COLD_KEYS: u32 = 10;
/// One in so many writes is to a cold key.
const COLD_PERIOD: u32 = 40;

/// What may be found under each key: `None` is absence.
#[derive(Default)]
struct Allowed {
    values: BTreeMap<u32, BTreeSet<Option<u32>>>,
}

impl Allowed {
    /// The key has this stamp now, or had one of those before it when the stop comes before the next flush.
    fn add(&mut self, key: u32, stamp: Option<u32>) {
        self.values.entry(key).or_insert_with(|| BTreeSet::from([None])).insert(stamp);
    }

    fn settle(&mut self, current: &BTreeMap<u32, Option<u32>>) {
        for (key, stamp) in current {
            self.values.insert(*key, BTreeSet::from([*stamp]));
        }
    }

    /// What was found is all that can be found from now on.
    fn check(&mut self, key: u32, found: Option<u32>) -> bool {
        let allowed = self.values.entry(key).or_insert_with(|| BTreeSet::from([None]));
        let fits = allowed.contains(&found);
        *allowed = BTreeSet::from([found]);
        fits
    }
}

fn small() -> StoreOptions {
    // So few tables that each is used again and again; the keys are written so often that none is ever evicted.
    StoreOptions { capacity: 10 * MIB as u64, ..options() }
}

/// Sizes differ, so that some records are overwritten in place and others move.
fn sized(number: u32, stamp: u32) -> Vec<u8> {
    value(number, stamp, 200 + (stamp as usize * 7919) % 9000)
}

fn stamp_of(bytes: &[u8]) -> u32 {
    let text: String = bytes.iter().take_while(|byte| **byte != b'>').map(|byte| char::from(*byte)).collect();
    text.split(':').nth(1).and_then(|stamp| stamp.parse().ok()).expect("a value of this test")
}

async fn look(store: &Store<Sim>, allowed: &mut Allowed, when: &str) {
    for number in 0..KEYS + COLD_KEYS {
        let found = bytes(store, &key(number)).await;
        let stamp = found.as_ref().map(|bytes| stamp_of(bytes));
        if let (Some(found), Some(stamp)) = (found, stamp) {
            assert_eq!(found, sized(number, stamp), "key {number} {when}: not what was written with stamp {stamp}");
        }
        let expected = allowed.values.get(&number).cloned();
        assert!(allowed.check(number, stamp), "key {number} {when}: found {stamp:?}, allowed {expected:?}");
    }
}

/// Writes until the world stops or `count` operations are done.
async fn churn(store: &Store<Sim>, allowed: &RefCell<Allowed>, stamp: &Cell<u32>, count: u32, choice: u64) {
    let mut random = choice | 1;
    let mut current = BTreeMap::new();
    for _ in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        stamp.set(stamp.get() + 1);
        let (turn, is_cold) = (stamp.get() / COLD_PERIOD, stamp.get().is_multiple_of(COLD_PERIOD));
        let number = if is_cold { KEYS + turn % COLD_KEYS } else { random as u32 % KEYS };
        // In half of the lives nothing is deleted: tables without guards are freed out of order.
        let deletes = !is_cold && choice.is_multiple_of(2) && (random >> 40).is_multiple_of(8);
        let written = if deletes { None } else { Some(stamp.get()) };
        // Before the store hears of it: a stop may come while it works.
        allowed.borrow_mut().add(number, written);
        match written {
            Some(stamp) => drop(store.set(&key(number), &sized(number, stamp), Meta::default()).await),
            None => drop(store.delete(&key(number)).await),
        }
        current.insert(number, written);
        if (random >> 50).is_multiple_of(23) {
            store.flush().await;
            allowed.borrow_mut().settle(&current);
        }
    }
}

/// Transfers until the stop: often few, so that the stop comes soon after a recovery.
fn transfers() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..150, 1u64..900]
}

/// Behind a torn page lie whole records of the time before the crash. Later writes end right before them: they must not be
/// taken for the continuation.
#[test]
fn what_lies_behind_a_torn_tail_never_comes_back() {
    let sim = world();
    let page = |stamp| value(7, stamp, 4000);
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..10 {
            store.set(&key(number), &page(1), Meta::default()).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    let table = crate::recovery::tables::table_path(&options().directory.join("shard-0000"), 0);
    // Page 0 is the header, each record has a page of its own.
    killed.tamper(&table, |bytes| bytes[4 * 4096 + 100] ^= 1);
    let killed = killed.run(async {
        let store = open(&killed, options()).await;
        assert!(bytes(&store, &key(2)).await.is_some());
        assert_eq!(bytes(&store, &key(5)).await, None, "behind the tear");
        store.set(b"new", &page(2), Meta::default()).await;
        store.flush().await;
        killed.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert!(bytes(&store, b"new").await.is_some());
        for number in 3..10 {
            assert_eq!(bytes(&store, &key(number)).await, None, "key {number} was a miss before");
        }
    });
}

/// A table whose last live record was just replaced is freed while the replacement is in memory only: it must be on disk
/// first, or a crash brings back the version before.
#[test]
fn a_table_is_not_freed_before_what_replaced_its_records_is_on_disk() {
    let four = || StoreOptions { capacity: 4 * MIB as u64, ..options() };
    let two_is_flushed = Cell::new(0);
    let history = async |sim: &Sim| {
        let store = open(sim, four()).await;
        let fill = async |stamp, count| {
            for number in 0..count {
                store.set(&key(number), &value(number, stamp, 4000), Meta::default()).await;
            }
        };
        store.set(b"cold", b"keeps the first table", Meta::default()).await;
        for (stamp, contested) in [(1, b"one"), (2, b"two")] {
            store.set(b"contested", contested, Meta::default()).await;
            // A little more than a table holds.
            fill(stamp, 260).await;
            store.flush().await;
            two_is_flushed.set(sim.transfer_count());
        }
        // The fourth table has just been begun, and another one is looked for: the second one dies at this moment.
        fill(3, 260).await;
        store.set(b"contested", b"new", Meta::default()).await;
    };
    let whole = world();
    whole.run(history(&whole));
    let end = whole.transfer_count();
    for transfer_count in two_is_flushed.get()..end + 40 {
        let sim = world();
        let _ = sim.run_for(transfer_count, async {
            history(&sim).await;
            sim.sleep(Duration::from_secs(60)).await;
        });
        let killed = sim.after_kill();
        let found = killed.run(async { bytes(&open(&killed, four()).await, b"contested").await });
        assert_ne!(found.as_deref(), Some(&b"one"[..]), "killed after {transfer_count} of {end} transfers");
    }
}

/// Lives of one store, each killed after so many transfers, also inside its recovery: what was flushed is there after each.
fn live_and_be_killed(seed: u64, lives: Vec<(u32, u64, u64, u64)>) {
    let mut sim = Sim::new(seed, 1 << 30);
    let allowed = RefCell::new(Allowed::default());
    let stamp = Cell::new(0);
    for (count, transfers, recovery_transfers, choice) in lives {
        // A recovery that is cut off, then another one that may be cut off later.
        let _ = sim.run_for(recovery_transfers, async { open(&sim, small()).await });
        sim = sim.after_kill();
        let _ = sim.run_for(transfers, async {
            let store = open(&sim, small()).await;
            churn(&store, &allowed, &stamp, count, choice).await;
            if choice % 3 == 0 {
                store.close().await.expect("closes");
            }
        });
        sim = sim.after_kill();
        let mut found = allowed.take();
        sim.run(async {
            let store = open(&sim, small()).await;
            look(&store, &mut found, "after the stop").await;
        });
        allowed.replace(found);
        sim = sim.after_kill();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn a_stop_at_any_moment_loses_nothing_flushed(
        seed: u64,
        lives in proptest::collection::vec((0u32..4000, transfers(), 0u64..60, any::<u64>()), 1..16),
    ) {
        live_and_be_killed(seed, lives);
    }
}

/// What a scan stops at in the page of the last whole record has to go before the table is written to again: otherwise the
/// next scan stops there too. A history that `a_stop_at_any_moment_loses_nothing_flushed` has found.
#[test]
fn a_torn_record_behind_the_last_whole_one_hides_nothing_written_later() {
    let lives: Vec<(u32, u64, u64, u64)> = vec![
        (3319, 75, 15, 18164102439864314670),
        (612, 73, 49, 6437317452752380258),
        (1125, 772, 3, 6141150726395574411),
        (2213, 130, 2, 10288904680672122545),
        (1121, 426, 16, 9446958112558504580),
        (2681, 153, 21, 2884657905320675883),
        (2981, 618, 51, 13155222244087518012),
        (1811, 39, 14, 2614546863544980123),
        (141, 38, 52, 1131500878237797347),
        (661, 276, 44, 5592170797558558462),
        (730, 59, 47, 18097478516247044206),
        (2557, 895, 24, 13190636824499413656),
        (2024, 103, 42, 7825533282228903855),
        (689, 38, 29, 5786816024795423321),
    ];
    live_and_be_killed(2959906497187411978, lives);
}
