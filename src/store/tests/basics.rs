//! Reading and writing without a restart.

use super::*;

#[test]
fn what_is_set_is_got_from_memory_and_from_disk() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..2000 {
            let stored = store.set(&key(number), &value(number, 1, 1000), flags(number)).await;
            assert!(matches!(stored, Stored::Stored(_)));
        }
        store.flush().await;
        let before = store.counters();
        let mut on_disk = 0;
        for number in 0..2000 {
            let reads = store.counters().disk_reads;
            let got = store.get(&key(number)).await.expect("the disk works").expect("it was set");
            assert_eq!((got.bytes, got.client_flags), (value(number, 1, 1000), number));
            on_disk += store.counters().disk_reads - reads;
            assert!(store.counters().disk_reads - reads <= 1, "one read at most");
        }
        assert!(on_disk > 500, "most records are on disk only: {on_disk}");
        assert_eq!(store.counters().records_read - before.records_read, on_disk);
        let reads = store.counters().disk_reads;
        assert_eq!(bytes(&store, b"absent").await, None);
        store.delete(&key(3)).await;
        assert_eq!(bytes(&store, &key(3)).await, None);
        store.touch(&key(4), 1).await;
        assert_eq!(bytes(&store, &key(4)).await, None, "it has expired");
        assert_eq!(store.counters().disk_reads, reads, "what is not there costs no read");
    });
}

#[test]
fn conditions_hold_or_nothing_is_stored() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(store.put(b"k", b"v", Meta::default(), Condition::Present).await, Stored::NotStored);
        assert!(matches!(store.put(b"k", b"v", Meta::default(), Condition::Absent).await, Stored::Stored(_)));
        assert_eq!(store.put(b"k", b"w", Meta::default(), Condition::Absent).await, Stored::NotStored);
        assert!(matches!(store.put(b"k", b"w", Meta::default(), Condition::Present).await, Stored::Stored(_)));
        assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"w"[..]));
        assert_eq!(store.set(b"k", &vec![0; 64 * 1024], Meta::default()).await, Stored::TooLarge);
        assert_eq!(store.delete(b"k").await, Changed::Done);
        assert_eq!(store.delete(b"k").await, Changed::NotFound);
        assert_eq!(store.touch(b"k", 0).await, Changed::NotFound);
    });
}

#[test]
fn records_expire_in_their_second() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"k", b"v", expiring(store.now() + 10)).await;
        sim.advance(Duration::from_secs(9));
        assert!(bytes(&store, b"k").await.is_some());
        sim.advance(Duration::from_secs(1));
        assert_eq!(bytes(&store, b"k").await, None);
        assert_eq!(store.counters().expired, 1);
        assert!(matches!(store.put(b"k", b"v", Meta::default(), Condition::Absent).await, Stored::Stored(_)));
    });
}

#[test]
fn versions_grow_with_each_write_and_survive_a_touch() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let Stored::Stored(first) = store.set(b"k", b"1", Meta::default()).await else { panic!("stored") };
        let Stored::Stored(second) = store.set(b"k", b"2", Meta::default()).await else { panic!("stored") };
        assert!(second > first);
        store.flush().await;
        store.touch(b"k", store.now() + 100).await;
        assert_eq!(store.get(b"k").await.expect("the disk works").expect("there").version, second);
        assert_eq!(store.cas_unique(second) & 1023, 0, "the shard's number is in the low bits");
    });
}

/// Many tasks add one to the same counters, on disk and in memory, while others overwrite the blocks that they lie
/// in: no addition is lost.
#[test]
fn updates_of_one_key_are_serial() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let counters = 5;
        for number in 0..counters {
            store.set(&key(number), &0u64.to_le_bytes(), Meta::default()).await;
        }
        let done = Rc::new(Cell::new(0));
        for task in 0..20 {
            let (store, done) = (store.clone(), Rc::clone(&done));
            sim.spawn(async move {
                for round in 0..50 {
                    let counter = key((task + round) % counters);
                    let add = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
                        let old =
                            record.and_then(|record| record.value.first_chunk().copied()).map_or(0, u64::from_le_bytes);
                        scratch.extend_from_slice(&(old + 1).to_le_bytes());
                        (Update::Replace(Meta::default()), ())
                    };
                    let (stored, ()) = store.update(&counter, add).await.expect("the disk works");
                    assert!(matches!(stored, Some(Stored::Stored(_))));
                    store.set(&key(1000 + task), &[7; 30_000], Meta::default()).await;
                    if round % 7 == 0 {
                        store.flush().await;
                    }
                }
                done.set(done.get() + 1);
            });
        }
        while done.get() < 20 {
            sim.sleep(Duration::from_millis(10)).await;
        }
        let mut sum = 0;
        for number in 0..counters {
            let bytes = bytes(&store, &key(number)).await.expect("there");
            sum += u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
        }
        assert_eq!(sum, 20 * 50);
        assert!(store.counters().records_read > 0, "some of the counters were read from disk");
    });
}

#[test]
fn records_of_every_size_are_stored_beside_each_other() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { item_size_max: 600 * 1024, ..options() }).await;
        let sizes = [0, 1, 100, 4000, 4068, 4096, 5000, 65_536, 100_000, 262_144, 300_000, 550_000];
        for (number, size) in (0..).zip(sizes) {
            assert!(matches!(
                store.set(&key(number), &vec![number as u8; size], Meta::default()).await,
                Stored::Stored(_)
            ));
        }
        store.flush().await;
        for round in 0..2 {
            for (number, size) in (0..).zip(sizes) {
                let reads = store.counters().disk_reads;
                assert_eq!(
                    bytes(&store, &key(number)).await,
                    Some(vec![number as u8; size]),
                    "size {size} in round {round}"
                );
                assert!(store.counters().disk_reads - reads <= 1);
            }
        }
    });
}

#[test]
fn a_delayed_flush_happens_when_its_second_comes() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"before", b"v", Meta::default()).await;
        store.flush_all(Some(store.now() + 10)).await;
        store.set(b"between", b"v", Meta::default()).await;
        assert!(bytes(&store, b"before").await.is_some());
        sim.advance(Duration::from_secs(10));
        assert_eq!(bytes(&store, b"before").await, None);
        assert_eq!(bytes(&store, b"between").await, None, "written before the flush was due");
        store.set(b"after", b"v", Meta::default()).await;
        assert!(bytes(&store, b"after").await.is_some());
    });
}
