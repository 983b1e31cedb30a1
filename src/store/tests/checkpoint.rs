//! Checkpoints: what a start finds in one, what it replays behind it, and when it does not believe it.

use std::path::Path;

use super::*;

const COUNT: u32 = 3000;

fn pieces(sim: &Sim) -> Vec<PathBuf> {
    let is_piece = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "dmc");
    sim.paths().into_iter().filter(is_piece).collect()
}

/// Writes so much that pieces are written on the way; gives time a chance to pass.
async fn churn(sim: &Sim, store: &Store<Sim>, stamps: std::ops::Range<u32>) {
    for stamp in stamps {
        for number in 0..COUNT {
            if !number.is_multiple_of(7) || stamp == 1 {
                store.set(&key(number), &value(number, stamp, 300), Meta::default()).await;
            }
        }
        sim.sleep(Duration::from_secs(3)).await;
    }
}

async fn check(store: &Store<Sim>, stamp: u32) {
    for number in 0..COUNT {
        let expected = if number.is_multiple_of(7) { 1 } else { stamp };
        assert_eq!(brief(bytes(store, &key(number)).await), brief(Some(value(number, expected, 300))), "key {number}");
    }
    check_sizes(store);
}

#[test]
fn a_clean_stop_leaves_a_checkpoint_and_the_next_start_reads_nothing_else() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..3).await;
        store.delete(&key(7)).await;
        store.touch(&key(14), sim.now() + 100).await;
        store.set(&key(21), b"soon gone", expiring(sim.now() + 50)).await;
        let version = store.counters().records_written;
        store.close().await.expect("closes");
        assert!(!pieces(&sim).is_empty());
        sim.advance(Duration::from_secs(60));
        let store = open(&sim, options()).await;
        assert_eq!(store.counters().recovered_records, 0, "nothing is replayed");
        assert_eq!(bytes(&store, &key(7)).await, None);
        assert_eq!(bytes(&store, &key(21)).await, None);
        assert_eq!(u64::from(COUNT) - 2, store.gauges().index_entries);
        store.set(&key(7), &value(7, 1, 300), Meta::default()).await;
        store.set(&key(21), &value(21, 1, 300), Meta::default()).await;
        check(&store, 2).await;
        let Stored::Stored(next) = store.set(b"x", b"", Meta::default()).await else { panic!("stored") };
        assert!(next > version, "versions go on");
        sim.advance(Duration::from_secs(60));
        assert_eq!(bytes(&store, &key(14)).await, None, "the touch was known");
    });
}

/// What is written after a clean stop to the table that goes on must not be missed by a start that reads the checkpoint of
/// that stop.
#[test]
fn what_follows_a_checkpoint_in_the_same_table_is_replayed() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(&key(1), b"old", Meta::default()).await;
        store.set(&key(2), b"deleted later", Meta::default()).await;
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        store.set(&key(1), b"new", Meta::default()).await;
        store.delete(&key(2)).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(store.counters().recovered_records, 2);
        assert_eq!(bytes(&store, &key(1)).await.as_deref(), Some(&b"new"[..]));
        assert_eq!(bytes(&store, &key(2)).await, None);
    });
}

#[test]
fn after_a_crash_only_what_was_written_since_is_replayed() {
    let sim = world();
    let (killed, written) = sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..9).await;
        store.set(&key(7), &value(7, 1, 300), Meta::default()).await;
        store.flush().await;
        assert!(store.counters().checkpoint_pieces > 2);
        (sim.after_kill(), store.counters().records_written)
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        let replayed = store.counters().recovered_records;
        assert!(replayed > 0 && replayed < written / 2, "{replayed} of {written}");
        check(&store, 8).await;
    });
}

/// A flush behind the checkpoint voids it, one before it does not.
#[test]
fn flushes_and_checkpoints_keep_their_order() {
    for (is_delayed, is_closed) in [(false, false), (false, true), (true, false), (true, true)] {
        let sim = world();
        let killed = sim.run(async {
            let store = open(&sim, options()).await;
            churn(&sim, &store, 1..3).await;
            store.close().await.expect("closes");
            let store = open(&sim, options()).await;
            store.flush_all(is_delayed.then(|| sim.now() + 10)).await;
            if is_closed {
                store.close().await.expect("closes");
            } else {
                store.flush().await;
            }
            sim.after_kill()
        });
        killed.run(async {
            if is_delayed {
                let store = open(&killed, options()).await;
                check(&store, 2).await;
                killed.sleep(Duration::from_secs(11)).await;
                assert_eq!(bytes(&store, &key(7)).await, None);
                return;
            }
            let store = open(&killed, options()).await;
            assert_eq!(store.gauges().index_entries, 0);
        });
    }
}

/// A store with a checkpoint, after a crash that came some time later.
fn crashed() -> Sim {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..5).await;
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        churn(&sim, &store, 5..6).await;
        store.flush().await;
        sim.after_kill()
    })
}

fn check_crashed(sim: &Sim) {
    sim.run(async {
        let store = open(sim, options()).await;
        check(&store, 5).await;
        store.close().await.expect("closes");
        let store = open(sim, options()).await;
        check(&store, 5).await;
    });
}

#[test]
fn a_damaged_piece_is_not_believed() {
    let sim = crashed();
    let [piece] = pieces(&sim).try_into().expect("a small index has one piece");
    let size = sim.read_small(&piece).expect("readable").expect("there").len();
    for at in [0, 9, 50, 100, 4096 + 3, 4096 + 40, 8192 + 2, 8192 + 16 + 5, size / 2, size - 1] {
        let damaged = sim.after_kill();
        damaged.tamper(&piece, |bytes| bytes[at] ^= 4);
        check_crashed(&damaged);
    }
    for size in [0, 100, 4096, size / 2, size - 1, size + 4096] {
        let damaged = sim.after_kill();
        damaged.tamper(&piece, |bytes| bytes.resize(size, 0));
        check_crashed(&damaged);
    }
    let removed = sim.after_kill();
    removed.remove(&piece).expect("there");
    check_crashed(&removed);
}

/// Somebody restores tables, or a checkpoint, from another time.
#[test]
fn a_checkpoint_of_another_time_than_the_tables_is_not_believed() {
    let sim = world();
    let (early, late) = sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..2).await;
        store.close().await.expect("closes");
        let early = sim.after_kill();
        let store = open(&sim, options()).await;
        churn(&sim, &store, 2..6).await;
        store.close().await.expect("closes");
        (early, sim.after_kill())
    });
    let name = Path::new(DIRECTORY).join("shard-0000").join("checkpoint-001-000.dmc");
    let read = |sim: &Sim, path: &Path| sim.read_small(path).expect("readable").expect("there");
    // The later checkpoint beside the earlier tables, with either superblock.
    for with_superblocks in [false, true] {
        let mixed = early.after_kill();
        mixed.replace_small(&name, &read(&late, &name)).expect("written");
        if with_superblocks {
            for copy in ["superblock", "superblock.copy"] {
                let path = Path::new(DIRECTORY).join(copy);
                mixed.replace_small(&path, &read(&late, &path)).expect("written");
            }
        }
        mixed.run(async {
            let store = open(&mixed, options()).await;
            check(&store, 1).await;
        });
    }
    // The earlier one beside the later tables: what it knows may be gone, what follows is replayed.
    let mixed = late.after_kill();
    mixed.replace_small(&name, &read(&early, &name)).expect("written");
    mixed.run(async {
        let store = open(&mixed, options()).await;
        check(&store, 5).await;
    });
}

/// A failing disk: no piece is published that knows of what could not be written.
#[test]
fn failed_writes_leave_no_checkpoint_that_knows_of_them() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..3).await;
        sim.set_faults(crate::io::sim::Faults { writes: true, ..Default::default() });
        churn(&sim, &store, 3..4).await;
        sim.set_faults(crate::io::sim::Faults::default());
        churn(&sim, &store, 4..8).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        for number in (0..COUNT).filter(|number| !number.is_multiple_of(7)) {
            let found = brief(bytes(&store, &key(number)).await);
            assert_eq!(found, brief(Some(value(number, 7, 300))), "key {number}");
        }
        assert_eq!(store.counters().damaged_records, 0);
    });
}

#[test]
fn without_room_for_a_checkpoint_the_store_goes_on() {
    let sim = Sim::new(0x5eed, 8 * MIB as u64);
    let filler = Path::new("/elsewhere");
    sim.run(async {
        let store = open(&sim, options()).await;
        // What is left has no room for a table or a piece.
        sim.replace_small(filler, &vec![0; 5 * MIB - 20 * 1024]).expect("written");
        for stamp in 0..100 {
            for number in 0..100 {
                store.set(&key(number), &value(number, stamp, 300), Meta::default()).await;
            }
            sim.sleep(Duration::from_secs(1)).await;
        }
        store.close().await.expect("closes");
        assert_eq!((store.counters().checkpoint_pieces, pieces(&sim).len()), (0, 0));
        let store = open(&sim, options()).await;
        assert!(store.counters().recovered_records > 0);
        for number in 0..100 {
            assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 99, 300)), "key {number}");
        }
        sim.remove(filler).expect("there");
        store.close().await.expect("closes");
        assert_eq!(store.counters().checkpoint_pieces, 1);
    });
}

/// Two lives of one store, and what is in its directory when the log has become shorter than the checkpoint knows: a table
/// has lost its end, or was restored from an earlier copy.
fn with_a_shorter_log(is_restored: bool) -> Sim {
    let sim = world();
    let table = crate::recovery::tables::table_path(&Path::new(DIRECTORY).join("shard-0000"), 0);
    let fill = async |stamp| {
        let store = open(&sim, options()).await;
        for number in 0..50 {
            store.set(&key(number), &value(number, stamp, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    };
    sim.run(fill(1));
    if is_restored {
        let before = sim.read_small(&table).expect("readable").expect("there");
        sim.run(fill(2));
        sim.tamper(&table, |bytes| *bytes = before);
    } else {
        sim.tamper(&table, |bytes| bytes[6 * 4096 + 100..].fill(0));
    }
    sim
}

/// The log grows again, beyond what the checkpoint knows: it is still not what the checkpoint was made of.
#[test]
fn a_checkpoint_that_was_not_believed_once_is_never_believed() {
    for is_restored in [false, true] {
        let sim = with_a_shorter_log(is_restored);
        let killed = sim.run(async {
            let store = open(&sim, options()).await;
            assert!(store.counters().recovered_records > 0, "the checkpoint is not believed");
            for number in 100..200 {
                store.set(&key(number), &value(number, 3, 900), Meta::default()).await;
            }
            store.flush().await;
            sim.after_kill()
        });
        killed.run(async {
            let store = open(&killed, options()).await;
            let mut lost = Vec::new();
            for number in 100..200 {
                if bytes(&store, &key(number)).await != Some(value(number, 3, 900)) {
                    lost.push(number);
                }
            }
            assert_eq!(lost, Vec::<u32>::new(), "written and flushed, restored: {is_restored}");
        });
    }
}

/// A flush that comes too late is refused, and then it must not be in the last checkpoint either.
#[test]
fn a_flush_that_is_refused_at_the_end_flushes_nothing() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..100 {
            store.set(&key(number), &value(number, 1, 300), Meta::default()).await;
        }
        let mut close = Box::pin(store.close());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(close.as_mut().poll(&mut context).is_pending());
        assert!(matches!(store.try_flush_all(None), Ok(Changed::NoSpace)), "it is too late");
        close.await.expect("closes");
        let store = open(&sim, options()).await;
        assert_eq!(store.gauges().index_entries, 100);
    });
}

/// What a stop in the middle of a piece has left, although the index has another number of pieces by now.
#[test]
fn unfinished_pieces_of_other_sets_are_removed() {
    let sim = world();
    let name = Path::new(DIRECTORY).join("shard-0000").join("checkpoint-004-002.dmc.new");
    sim.run(async {
        let store = open(&sim, options()).await;
        sim.replace_small(&name, &[1; 4096]).expect("written");
        churn(&sim, &store, 1..3).await;
        store.close().await.expect("closes");
    });
    assert!(!sim.paths().contains(&name));
}

/// Whatever a header says that is whole: no panic, and what is written afterwards is found.
#[test]
fn no_number_in_a_header_does_harm() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        churn(&sim, &store, 1..2).await;
        store.close().await.expect("closes");
    });
    let [piece] = pieces(&sim).try_into().expect("a small index has one piece");
    for at in (44..140).step_by(4) {
        for word in [0u32, 1, 0x1000, 0x7fff_ffff, u32::MAX] {
            let damaged = sim.after_kill();
            damaged.tamper(&piece, |bytes| {
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
                bytes[8..12].fill(0);
                let checksum = crc32c::crc32c(&bytes[..4096]);
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            });
            let killed = damaged.run(async {
                let store = open(&damaged, options()).await;
                store.set(b"new", b"value", Meta::default()).await;
                store.flush().await;
                damaged.after_kill()
            });
            killed.run(async {
                let store = open(&killed, options()).await;
                assert_eq!(bytes(&store, b"new").await.as_deref(), Some(&b"value"[..]), "{word:x} at {at}");
            });
        }
    }
}

/// The index grows and shrinks, and its checkpoint gets more pieces and fewer, while the store is killed again and again.
#[test]
fn sets_of_pieces_come_and_go_and_nothing_with_them() {
    let wide = || StoreOptions { capacity: 64 * MIB as u64, memory: 48 * MIB, ..options() };
    let mut sim = world();
    let mut model = std::collections::BTreeMap::<u32, u32>::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut counts = std::collections::BTreeSet::new();
    for (life, key_count) in
        [2000, 6000, 20_000, 3000, 9000, 1000, 40_000, 40_000, 5000, 20_000].into_iter().enumerate()
    {
        let is_closed = life % 3 == 1;
        sim.run(async {
            let store = open(&sim, wide()).await;
            store.recount().expect("the books are right");
            assert_eq!(store.gauges().index_entries, model.len() as u64, "life {life}");
            for step in 0..30_000u32 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let stamp = life as u32 * 100_000 + step;
                let number = random as u32 % 40_000;
                if number >= key_count || (random >> 33).is_multiple_of(9) {
                    store.delete(&key(number)).await;
                    model.remove(&number);
                } else {
                    store.set(&key(number), &value(number, stamp, 20), Meta::default()).await;
                    model.insert(number, stamp);
                }
                if step % 1000 == 0 {
                    sim.sleep(Duration::from_millis(random >> 54)).await;
                }
            }
            counts.insert(pieces(&sim).len());
            assert_eq!(store.counters().evictions, 0);
            if is_closed {
                store.close().await.expect("closes");
            } else {
                store.flush().await;
            }
        });
        sim = sim.after_kill();
    }
    assert!(counts.len() > 2, "{counts:?}");
    sim.run(async {
        let store = open(&sim, wide()).await;
        for number in 0..40_000 {
            let expected = model.get(&number).map(|stamp| value(number, *stamp, 20));
            assert_eq!(brief(bytes(&store, &key(number)).await), brief(expected), "key {number}");
        }
    });
}

/// What each key may be after a stop: what it was at the last flush, or anything that was written since.
#[derive(Default)]
struct Possible {
    now: std::collections::BTreeMap<u32, u32>,
    values: std::collections::BTreeMap<u32, Vec<Option<u32>>>,
}

impl Possible {
    fn write(&mut self, number: u32, stamp: Option<u32>) {
        let before = self.now.get(&number).copied();
        self.values.entry(number).or_insert_with(|| vec![before]).push(stamp);
        self.becomes(number, stamp);
    }

    fn becomes(&mut self, number: u32, stamp: Option<u32>) {
        self.now.remove(&number);
        self.now.extend(stamp.map(|stamp| (number, stamp)));
    }

    fn flush_all(&mut self) {
        let numbers: Vec<u32> = self.now.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.write(number, None));
    }

    async fn check(&mut self, store: &Store<Sim>, count: u32, when: &str) {
        for number in 0..count {
            let found = bytes(store, &key(number)).await;
            let allowed = self.values.remove(&number).unwrap_or_else(|| vec![self.now.get(&number).copied()]);
            let value_of = |stamp: &Option<u32>| stamp.map(|stamp| value(number, stamp, 20));
            let Some(stamp) = allowed.iter().rfind(|stamp| value_of(stamp) == found) else {
                panic!("key {number} {when}: {:?}, allowed {allowed:?}", found.map(String::from_utf8));
            };
            self.becomes(number, *stamp);
        }
    }
}

/// As above, but the stop comes at any moment, also while a piece is written, a set is replaced, or the store is closed or
/// opened.
#[test]
fn a_stop_in_the_middle_of_a_set_of_pieces_does_no_harm() {
    const KEY_COUNT: u32 = 20_000;
    let wide = || StoreOptions { capacity: 64 * MIB as u64, memory: 48 * MIB, ..options() };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 8
    };
    let mut sim = world();
    let possible = RefCell::new(Possible::default());
    let (mut stamp, mut piece_counts) = (0, std::collections::BTreeSet::new());
    for life in 0..24 {
        let (transfers, key_count) = (next() % 900 + 20, [3000, 7000, KEY_COUNT][next() as usize % 3]);
        let _ = sim.run_for(transfers, async {
            let store = open(&sim, wide()).await;
            for step in 0..30_000u32 {
                let (choice, number) = (next(), next() as u32 % KEY_COUNT);
                stamp += 1;
                if choice % 20_000 == 7 {
                    possible.borrow_mut().flush_all();
                    store.flush_all(None).await;
                } else if number >= key_count || choice.is_multiple_of(9) {
                    possible.borrow_mut().write(number, None);
                    store.delete(&key(number)).await;
                } else {
                    possible.borrow_mut().write(number, Some(stamp));
                    store.set(&key(number), &value(number, stamp, 20), Meta::default()).await;
                }
                if step % 1000 == 0 {
                    sim.sleep(Duration::from_millis(choice % 1024)).await;
                }
                if choice % 5000 == 1 {
                    store.flush().await;
                    possible.borrow_mut().values.clear();
                }
            }
            store.close().await.expect("closes");
        });
        sim = if life % 2 == 0 { sim.after_kill() } else { sim.power_cut() };
        piece_counts.insert(pieces(&sim).len());
        // An opening that is cut off, too.
        let _ = sim.run_for(next() % 40, async { open(&sim, wide()).await });
        sim = sim.after_kill();
        let mut found = possible.take();
        sim.run(async {
            let store = open(&sim, wide()).await;
            store.recount().expect("the books are right");
            assert_eq!(store.counters().evictions, 0);
            found.check(&store, KEY_COUNT, &format!("after life {life}")).await;
            assert_eq!(store.gauges().index_entries, found.now.len() as u64);
        });
        possible.replace(found);
        sim = sim.after_kill();
    }
    assert!(piece_counts.len() > 2, "{piece_counts:?}");
}

/// The table in which a delayed flush was noted is emptied while the first table after a start is written.
#[test]
fn a_delayed_flush_is_noted_again_in_the_first_table_after_a_start() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.flush_all(Some(sim.now() + 1000)).await;
        for number in 0..920 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        assert_eq!(store.counters().tables_begun, 1);
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        assert_eq!(store.counters().tables_begun, 1, "too little room was left");
        store.set(b"later", b"value", Meta::default()).await;
        store.flush().await;
        // As when the index is full.
        assert_eq!(store.shared.drop_table().await, Some(0));
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert!(bytes(&store, b"later").await.is_some());
        killed.advance(Duration::from_secs(1001));
        assert_eq!(bytes(&store, b"later").await, None, "flushed");
    });
}

/// A start may go on with a table that was being sealed when a piece was begun, and put copies behind its records: they must not
/// count as known. (Seed 314556 of the crash program.)
#[test]
fn a_table_that_is_being_sealed_ends_where_it_will() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..1000 {
            store.set(&key(number), &value(number, 0, 900), Meta::default()).await;
        }
        store.flush().await;
        sim.sleep(Duration::from_secs(1)).await;
        let mut state = store.shared.state.borrow_mut();
        let slot = state.writer.table.slot;
        state.roll_table().expect("a table is ready");
        assert_eq!(state.catalog.get(slot).expect("there").state, TableState::Sealing);
        let pieces = state.tables_in_piece();
        let known = pieces.iter().find(|table| table.slot == slot).expect("it holds records").known;
        assert!(!known.is_complete && known.end > 4096 && known.end < MIB as u32, "{known:?}");
    });
}
