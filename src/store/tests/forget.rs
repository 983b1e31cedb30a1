//! Nothing in memory: the next get of anything reads the disk.

use super::*;

#[test]
fn what_was_written_is_read_from_disk_and_nowhere_else() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for round in 1..=3 {
            for number in 0..300 {
                store.set(&key(number), &value(number, round, 1000), Meta::default()).await;
            }
            store.forget_memory().await;
            assert_eq!(store.gauges().dirty_bytes, 0);
            let reads = store.counters().disk_reads;
            for number in 0..300 {
                assert_eq!(bytes(&store, &key(number)).await, Some(value(number, round, 1000)));
            }
            assert_eq!(store.counters().disk_reads - reads, 300, "one read each");
        }
        // A second time there is nothing to be done.
        assert!(store.try_forget_memory().is_ok());
    });
}

#[test]
fn what_is_on_disk_then_survives_a_crash() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(b"k", b"v", Meta::default()).await;
        assert!(matches!(store.try_forget_memory(), Err(Obstacle::Room)), "it is on its way");
        store.forget_memory().await;
    });
    let sim = sim.after_kill();
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(bytes(&store, b"k").await.as_deref(), Some(&b"v"[..]));
    });
}
