//! Operations that are called again by hand when they could not finish: what a loop that serves many clients does.

use super::super::reclaim::Method;
use super::*;
use crate::io::File;
use crate::io::sim::{Faults, SimFile};

const COUNT: u32 = 2000;

/// A store whose first records are on disk only.
async fn filled(sim: &Sim) -> Store<Sim> {
    let store = open(sim, options()).await;
    for number in 0..COUNT {
        store.set(&key(number), &value(number, 1, 1000), flags(number)).await;
    }
    store.flush().await;
    store
}

/// What must be read for a key whose record is on disk.
fn sought(store: &Store<Sim>, key: &[u8]) -> DiskRead<SimFile> {
    match store.seek(&store.digest(key), key, |_| ()) {
        Sought::Disk(read) => read,
        other => panic!("on disk only, not {other:?}"),
    }
}

/// The device read, as a driver does it.
async fn read(store: &Store<Sim>, read: &DiskRead<SimFile>) -> Option<Vec<u8>> {
    let in_flight = store.gauges().reads_in_flight;
    store.read_begins();
    assert_eq!(store.gauges().reads_in_flight, in_flight + 1);
    let result = read.file().read_at(read.start(), read.size(), Buffer::zeroed(read.size())).await;
    store.read_ended(read, result.as_ref().map(|(_, count)| *count));
    assert_eq!(store.gauges().reads_in_flight, in_flight);
    result.ok().map(|(buffer, count)| buffer[..count].to_vec())
}

/// Appends `!`, and says what it saw.
fn exclaim(record: Option<Record<'_>>, scratch: &mut Vec<u8>) -> (Update, Option<(Vec<u8>, Seconds)>) {
    assert!(scratch.is_empty());
    let seen = record.map(|record| (record.value.to_vec(), record.header.expiry));
    scratch.extend(seen.iter().flat_map(|(value, _)| value));
    scratch.push(b'!');
    (Update::Replace(Meta::default()), seen)
}

type Updated = Result<(Option<Stored>, Option<(Vec<u8>, Seconds)>), Obstacle<SimFile>>;

fn update(store: &Store<Sim>, key: &[u8], held: Option<(&DiskRead<SimFile>, Option<&[u8]>)>) -> Updated {
    store.try_update(key, held.map(|(read, bytes)| Held { read, bytes }).as_ref(), exclaim)
}

fn disk<T: std::fmt::Debug>(result: Result<T, Obstacle<SimFile>>) -> DiskRead<SimFile> {
    match result {
        Err(Obstacle::Disk(read)) => read,
        other => panic!("it has to be read, not {other:?}"),
    }
}

/// Puts until there is no room; returns the number of the first key that found none.
fn fill_up(store: &Store<Sim>, first: u32) -> u32 {
    for number in first.. {
        match store.try_put(&key(number), &value(number, 1, 9000), Meta::default(), Condition::Always) {
            Ok(Stored::Stored(_)) => {}
            Err(Obstacle::Room) => return number,
            other => panic!("{other:?}"),
        }
    }
    unreachable!("memory ends")
}

/// Calls `attempt` again after each progress, until it finds room.
async fn when_room<T>(sim: &Sim, store: &Store<Sim>, attempt: impl Fn() -> Result<T, Obstacle<SimFile>>) -> T {
    for _ in 0..100 {
        let progress = store.progress_count();
        match attempt() {
            Ok(output) => return output,
            Err(Obstacle::Room) => {}
            Err(other) => panic!("{other:?}"),
        }
        for _ in 0..1_000_000 {
            if store.progress_count() > progress {
                break;
            }
            sim.sleep(Duration::from_micros(1)).await;
        }
        assert!(store.progress_count() > progress, "the flusher makes room");
    }
    panic!("there is never room")
}

#[test]
fn who_finds_no_room_has_done_nothing_and_finds_it_after_some_progress() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let refused = fill_up(&store, 0);
        assert!(refused > 50, "there were some buffers");
        let (name, other) = (key(refused), key(1));
        let before = (store.counters(), store.gauges());
        assert!(matches!(store.try_put(&name, b"v", Meta::default(), Condition::Absent), Err(Obstacle::Room)));
        assert!(matches!(store.try_delete(&other), Err(Obstacle::Room)));
        assert!(matches!(store.try_touch(&other, store.now() + 9), Err(Obstacle::Room)));
        assert!(matches!(store.try_flush_all(None), Err(Obstacle::Room)));
        assert!(matches!(update(&store, &other, None), Err(Obstacle::Room)));
        assert_eq!((store.counters(), store.gauges()), before, "nothing has happened");
        assert_eq!(bytes(&store, &name).await, None);
        assert_eq!(bytes(&store, &other).await, Some(value(1, 1, 9000)));

        let put = when_room(&sim, &store, || store.try_put(&name, b"v", Meta::default(), Condition::Absent)).await;
        assert!(matches!(put, Stored::Stored(_)));
        assert_eq!(bytes(&store, &name).await.as_deref(), Some(&b"v"[..]));
        assert_eq!(when_room(&sim, &store, || store.try_delete(&other)).await, Changed::Done);
        assert_eq!(when_room(&sim, &store, || store.try_delete(&other)).await, Changed::NotFound);
        let touched = when_room(&sim, &store, || store.try_touch(&key(2), store.now() + 9)).await;
        assert_eq!(touched, Changed::Done);
        assert_eq!(when_room(&sim, &store, || store.try_flush_all(None)).await, Changed::Done);
        assert_eq!(bytes(&store, &name).await, None);
        assert_eq!(store.counters().values_stored, before.0.values_stored + 1);
        assert_eq!(store.counters().refused_writes, 0);
    });
}

#[test]
fn a_record_on_disk_is_visited_after_one_read() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let (name, digest) = (key(3), store.digest(&key(3)));
        let before = store.counters();
        let plan = sought(&store, &name);
        assert_eq!(plan.place(), sought(&store, &name).place());
        assert_ne!(plan.place(), sought(&store, &key(4)).place());
        assert!(plan.start().is_multiple_of(4096) && plan.size().is_multiple_of(4096));
        let bytes = read(&store, &plan).await.expect("the disk works");
        let record = store.examine(&digest, &name, &plan, &bytes).expect("it is there");
        assert_eq!((record.value, record.header.client_flags), (&value(3, 1, 1000)[..], 3));
        assert_eq!(plan.verified_record(&bytes).value, record.value);
        let counters = store.counters();
        assert_eq!((counters.disk_reads, counters.records_read), (before.disk_reads + 1, before.records_read + 1));
        assert_eq!(counters.disk_read_bytes, before.disk_read_bytes + plan.size() as u64);
        let in_memory = key(COUNT - 1);
        let size = store.seek(&store.digest(&in_memory), &in_memory, |record| record.value.len());
        assert!(matches!(size, Sought::Found(1000)), "{size:?}");
        assert!(matches!(store.seek(&store.digest(b"none"), b"none", |_| ()), Sought::Absent));
    });
}

#[test]
fn a_record_on_disk_is_updated_with_what_was_read() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let before = store.counters();
        let plan = disk(update(&store, &key(3), None));
        assert_eq!(store.counters(), before, "nothing has happened");
        let bytes_read = read(&store, &plan).await;
        let (stored, seen) = update(&store, &key(3), Some((&plan, bytes_read.as_deref()))).expect("it is at hand");
        assert!(matches!(stored, Some(Stored::Stored(_))));
        assert_eq!(seen, Some((value(3, 1, 1000), 0)));
        let counters = store.counters();
        assert_eq!((counters.disk_reads, counters.records_read), (before.disk_reads + 1, before.records_read + 1));
        assert_eq!(counters.values_stored, before.values_stored + 1);
        assert_eq!(bytes(&store, &key(3)).await, Some([&value(3, 1, 1000)[..], b"!"].concat()));
    });
}

/// The index decides which record is the right one, at the moment of the second call.
#[test]
fn what_was_read_counts_only_while_it_is_the_record() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let plan = disk(update(&store, &key(3), None));
        let old = read(&store, &plan).await;
        let held = Some((&plan, old.as_deref()));
        store.set(&key(3), b"new", Meta::default()).await;
        let (_, seen) = update(&store, &key(3), held).expect("the new one is in memory");
        assert_eq!(seen, Some((b"new".to_vec(), 0)));
        // Until it is on disk only as well.
        for number in 5000..7000 {
            store.set(&key(number), &value(number, 1, 1000), Meta::default()).await;
        }
        let other = disk(update(&store, &key(3), held));
        assert_ne!(other.place(), plan.place());
        let new = read(&store, &other).await;
        let (_, seen) = update(&store, &key(3), Some((&other, new.as_deref()))).expect("it is at hand");
        assert_eq!(seen, Some((b"new!".to_vec(), 0)));

        store.delete(&key(3)).await;
        let (_, seen) = update(&store, &key(3), held).expect("there is nothing to be read");
        assert_eq!(seen, None);

        let plan = disk(update(&store, &key(4), None));
        let bytes = read(&store, &plan).await;
        let expiry = store.now() + 100;
        store.touch(&key(4), expiry).await;
        let (_, seen) = update(&store, &key(4), Some((&plan, bytes.as_deref()))).expect("the same record");
        assert_eq!(seen, Some((value(4, 1, 1000), expiry)), "with the expiry that it has now");
    });
}

#[test]
fn a_read_that_failed_fails_the_update_unless_the_record_is_another() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let plan = disk(update(&store, &key(3), None));
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        assert_eq!(read(&store, &plan).await, None);
        sim.set_faults(Faults::default());
        let before = store.counters();
        assert_eq!((before.disk_read_errors, before.records_unreadable), (1, 1));
        assert!(matches!(update(&store, &key(3), Some((&plan, None))), Err(Obstacle::ReadFailed)));
        assert_eq!(store.counters(), before);
        let again = disk(update(&store, &key(3), None));
        assert_eq!(again.place(), plan.place(), "it may be readable later");
        store.set(&key(3), b"new", Meta::default()).await;
        let (_, seen) = update(&store, &key(3), Some((&plan, None))).expect("what failed does not matter any more");
        assert_eq!(seen, Some((b"new".to_vec(), 0)));
    });
}

#[test]
fn a_damaged_record_is_counted_and_gone() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let entries = store.gauges().index_entries;
        for number in [3, 4] {
            let name = key(number);
            let plan = sought(&store, &name);
            let mut bytes = read(&store, &plan).await.expect("the disk works");
            bytes[plan.place().offset as usize % 4096 + 40] ^= 1;
            if number == 3 {
                let digest = store.digest(&name);
                assert!(store.examine(&digest, &name, &plan, &bytes).is_none());
                assert!(matches!(store.seek(&digest, &name, |_| ()), Sought::Absent));
                assert!(store.examine(&digest, &name, &plan, &bytes).is_none(), "who shares the read is told as well");
            } else {
                let (stored, seen) = update(&store, &name, Some((&plan, Some(&bytes)))).expect("there is nothing");
                assert!(matches!((stored, seen), (Some(Stored::Stored(_)), None)));
            }
            assert_eq!(store.counters().damaged_records, u64::from(number) - 2, "counted once");
        }
        assert_eq!(store.gauges().index_entries, entries - 1, "one is gone, the other written again");
        assert_eq!(store.counters().records_read, 0);
    });
}

/// What is read from a table that was used again in the meantime is not the record, and no damage either.
#[test]
fn a_read_from_a_table_that_was_used_again_is_no_damage() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let plan = sought(&store, &key(3));
        let begun = store.counters().tables_begun;
        for number in 0.. {
            if store.counters().tables_begun > begun + 20 {
                break;
            }
            store.set(&key(10_000 + number), &value(number, 1, 1000), Meta::default()).await;
        }
        let bytes = read(&store, &plan).await.expect("the disk works");
        let digest = store.digest(&key(3));
        assert!(store.examine(&digest, &key(3), &plan, &bytes).is_none());
        assert_eq!((store.counters().damaged_records, store.counters().records_read), (0, 0));
        assert!(matches!(store.seek(&digest, &key(3), |_| ()), Sought::Absent), "it was evicted");
    });
}

/// Waiting for room after a read: the read counts once, and is not needed again.
#[test]
fn what_was_read_is_still_good_after_a_wait_for_room() {
    let sim = world();
    sim.run(async {
        let store = filled(&sim).await;
        let plan = disk(update(&store, &key(3), None));
        let bytes_read = read(&store, &plan).await;
        let held = Some((&plan, bytes_read.as_deref()));
        fill_up(&store, 100_000);
        let before = store.counters();
        assert!(matches!(update(&store, &key(3), held), Err(Obstacle::Room)));
        assert_eq!(store.counters(), before, "nothing has happened");
        let (stored, seen) = when_room(&sim, &store, || update(&store, &key(3), held)).await;
        assert!(matches!(stored, Some(Stored::Stored(_))));
        assert_eq!(seen, Some((value(3, 1, 1000), 0)));
        assert_eq!(store.counters().records_read, before.records_read + 1);
    });
}

/// No delayed flush that cannot be noted keeps an update from seeing that there is nothing.
#[test]
fn an_update_that_writes_nothing_needs_no_room() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.flush_all(Some(store.now() + 10)).await;
        fill_up(&store, 0);
        sim.advance(Duration::from_secs(11));
        let (stored, was_there) =
            store.try_update(&key(1), None, |record, _| (Update::Keep, record.is_some())).expect("nothing is written");
        assert_eq!((stored, was_there), (None, false), "the flush is due");
        assert!(matches!(update(&store, &key(1), None), Err(Obstacle::Room)));
        assert_eq!(
            store.try_put(&key(1), &[0; 65 * 1024], Meta::default(), Condition::Always).ok(),
            Some(Stored::TooLarge)
        );
    });
}

#[test]
fn the_buffer_of_updates_is_kept_but_not_at_any_size() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, StoreOptions { item_size_max: 200 * 1024, ..options() }).await;
        for size in [100, 150 * 1024, 100] {
            store.set(b"k", &vec![7; size], Meta::default()).await;
            update(&store, b"k", None).expect("it is in memory");
            let scratch = store.shared.scratch.take();
            assert!((size.min(64 * 1024)..=64 * 1024).contains(&scratch.capacity()), "{}", scratch.capacity());
            store.shared.scratch.set(scratch);
        }
        let before = store.shared.scratch.take();
        let (place, capacity) = (before.as_ptr(), before.capacity());
        store.shared.scratch.set(before);
        update(&store, b"k", None).expect("it is in memory");
        let after = store.shared.scratch.take();
        assert_eq!((after.as_ptr(), after.capacity()), (place, capacity), "nothing was allocated");
    });
}

/// The table of a record that is being read is emptied, and the key is written again to the same place.
#[test]
fn what_was_read_of_an_earlier_use_of_the_place_is_not_cached() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        let (name, digest) = (key(7), store.digest(&key(7)));
        store.set(&name, &value(7, 1, 1000), Meta::default()).await;
        for number in 0..1200 {
            store.set(b"other", &value(number, 1, 1000), Meta::default()).await;
            store.forget_memory().await;
        }
        bytes(&store, &name).await.expect("it is there, and fetched from now on");
        let plan = sought(&store, &name);
        let slot = plan.place().slot;
        let brought = read(&store, &plan).await.expect("the disk works");
        assert_eq!(store.delete(&name).await, Changed::Done);
        store.forget_memory().await;
        store.shared.reclaim(slot, Method::Move).await.expect("emptied");
        {
            let mut state = store.shared.state.borrow_mut();
            state.ready = Some(slot);
            state.roll_table().expect("one is ready");
            store.shared.notify_work(&state);
        }
        store.set(&name, &value(7, 2, 1000), Meta::default()).await;
        let again = store.shared.state.borrow().index.get(&digest).expect("there").pointer;
        assert_eq!((again.slot, again.offset), (slot, plan.place().offset), "the very same place");
        assert!(store.examine(&digest, &name, &plan, &brought).is_some(), "as it was when it was read");
        assert_eq!(brief(bytes(&store, &name).await), brief(Some(value(7, 2, 1000))));
    });
}
