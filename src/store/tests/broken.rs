//! Damaged files and failing devices cost what they must and nothing else.

use std::path::Path;

use super::*;
use crate::io::sim::{Fault, FaultKind, Faults};
use crate::recovery::tables::table_path;

const COUNT: u32 = 3000;

/// A closed store of several tables.
fn filled() -> Sim {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..COUNT {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    sim
}

fn first_table() -> PathBuf {
    table_path(&Path::new(DIRECTORY).join("shard-0000"), 0)
}

/// Opens the store, reads every key, and returns how many are missing. None may be wrong.
fn missing(sim: &Sim) -> u32 {
    sim.run(async {
        let store = open(sim, options()).await;
        let mut missing = 0;
        for number in 0..COUNT {
            match bytes(&store, &key(number)).await {
                Some(bytes) => assert_eq!(bytes, value(number, 1, 900), "key {number}"),
                None => missing += 1,
            }
        }
        assert!(matches!(store.set(b"new", b"v", Meta::default()).await, Stored::Stored(_)));
        store.close().await.expect("closes");
        missing
    })
}

#[test]
fn nothing_is_missing_from_a_whole_store() {
    assert_eq!(missing(&filled()), 0);
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_counted() {
    let sim = filled();
    sim.tamper(&first_table(), |bytes| bytes[4096 + 300] ^= 4);
    sim.run(async {
        let store = open(&sim, options()).await;
        assert_eq!(bytes(&store, &key(0)).await, None);
        assert_eq!(store.counters().damaged_records, 1);
        assert!(matches!(store.put(&key(0), b"v", Meta::default(), Condition::Absent).await, Stored::Stored(_)));
        store.close().await.expect("closes");
    });
    assert_eq!(missing_but(&sim, 0), 0);
}

fn missing_but(sim: &Sim, except: u32) -> u32 {
    sim.run(async {
        let store = open(sim, options()).await;
        let mut missing = 0;
        for number in (0..COUNT).filter(|number| *number != except) {
            missing += u32::from(bytes(&store, &key(number)).await.is_none());
        }
        missing
    })
}

#[test]
fn header_trailer_and_footer_can_each_be_lost() {
    for offset in [0, 40, MIB - 4096, MIB - 4096 + 40, MIB - 2 * 4096 + 100] {
        let sim = filled();
        sim.tamper(&first_table(), |bytes| bytes[offset] ^= 1);
        assert_eq!(missing(&sim), 0, "byte {offset}");
    }
}

#[test]
fn a_table_cut_short_loses_what_was_behind_the_cut() {
    for size in [0, 5000, MIB / 2, MIB - 4096, MIB - 1] {
        let sim = filled();
        sim.tamper(&first_table(), |bytes| bytes.truncate(size));
        let lost = missing(&sim);
        let in_table = (MIB / 960) as u32;
        let expected = in_table * (MIB - size) as u32 / MIB as u32;
        assert!(lost <= expected + 5, "{lost} lost of {in_table} when cut at {size}");
        assert_eq!(missing(&sim), lost, "and no more at the next start");
    }
}

#[test]
fn a_foreign_or_missing_table_costs_its_own_records_only() {
    let sim = filled();
    let other = table_path(&Path::new(DIRECTORY).join("shard-0000"), 1);
    let contents = sim.read_small(&other).expect("readable").expect("there");
    sim.tamper(&first_table(), |bytes| *bytes = contents);
    let lost = missing(&sim);
    assert!(lost > 0 && lost < COUNT / 2, "{lost}");
    let sim = filled();
    sim.remove(&first_table()).expect("there");
    assert_eq!(missing(&sim), lost);
}

#[test]
fn start_is_refused_with_a_reason() {
    let refused = |sim: &Sim, options: StoreOptions| {
        sim.run(async { Store::open(sim.clone(), options, |_| {}).await.err().expect("refused") })
    };
    let sim = filled();
    let wrong_size = StoreOptions { table_size: Some(2 * MIB as u64), ..options() };
    assert!(matches!(refused(&sim, wrong_size), OpenError::TableSize { .. }));
    assert!(matches!(
        refused(&sim, StoreOptions { capacity: 3 * MIB as u64, ..options() }),
        OpenError::Capacity { .. }
    ));
    assert!(matches!(refused(&sim, StoreOptions { item_size_max: 2 * MIB, ..options() }), OpenError::ItemSize { .. }));
    sim.run(async {
        let _store = open(&sim, options()).await;
        let second = Store::open(sim.clone(), options(), |_| {}).await;
        assert!(matches!(second, Err(OpenError::InUse(_))));
    });
    let superblock = Path::new(DIRECTORY).join("superblock");
    let copy = Path::new(DIRECTORY).join("superblock.copy");
    let newer = filled();
    newer.tamper(&superblock, |bytes| {
        bytes[12] = 5;
        bytes[8..12].fill(0);
        let checksum = crc32c::crc32c(bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    });
    assert!(matches!(refused(&newer, options()), OpenError::FormatVersion { found: 5, .. }));
    let damaged = filled();
    damaged.tamper(&superblock, |bytes| bytes[50] ^= 1);
    damaged.tamper(&copy, |bytes| bytes[51] ^= 1);
    assert!(matches!(refused(&damaged, options()), OpenError::Superblock { .. }));
    let foreign = world();
    foreign.replace_small(&Path::new(DIRECTORY).join("thesis.tex"), b"x").expect("written");
    assert!(matches!(refused(&foreign, options()), OpenError::NotOurs { .. }));
}

/// Found by `dmacached-crash --mode flips --start 1000000`: the file ended between a record and the place of the next one.
#[test]
fn a_table_cut_short_anywhere_costs_what_was_behind() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..40 {
            store.set(&key(number), &value(number, 1, 300 + number as usize), Meta::default()).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    for size in 8192..8192 + 700 {
        let cut = killed.after_kill();
        cut.tamper(&first_table(), |bytes| bytes.truncate(size));
        cut.run(async {
            let store = open(&cut, options()).await;
            let found = async |number| bytes(&store, &key(number)).await;
            assert_eq!(found(0).await, Some(value(0, 1, 300)), "cut at {size}");
            assert_eq!(found(39).await, None, "cut at {size}");
        });
    }
}

#[test]
fn one_of_two_superblocks_is_enough_and_the_other_is_made_again() {
    for (damaged, other) in [("superblock", "superblock.copy"), ("superblock.copy", "superblock")] {
        let path = |name| Path::new(DIRECTORY).join(name);
        for is_removed in [false, true] {
            let sim = filled();
            if is_removed {
                sim.remove(&path(damaged)).expect("there");
            } else {
                sim.tamper(&path(damaged), |bytes| bytes[50] ^= 1);
            }
            assert_eq!(missing(&sim), 0);
            sim.tamper(&path(other), |bytes| bytes[50] ^= 1);
            assert_eq!(missing(&sim), 0, "{damaged} is whole again");
        }
    }
    // Of two whole ones the newer counts: one that was restored does not bring an earlier time back.
    let sim = filled();
    let superblock = Path::new(DIRECTORY).join("superblock");
    let old = sim.read_small(&superblock).expect("readable").expect("there");
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(&key(1), b"new", Meta::default()).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.tamper(&superblock, |bytes| *bytes = old);
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, &key(1)).await.as_deref(), Some(&b"new"[..]));
        let Stored::Stored(version) = store.set(&key(2), b"", Meta::default()).await else { panic!("stored") };
        assert!(version > crate::limits::VERSION_GAP, "the stop is known not to have been clean");
    });
}

#[test]
fn a_failing_read_is_an_error_and_the_record_is_there_again_afterwards() {
    let sim = filled();
    sim.run(async {
        let store = open(&sim, options()).await;
        sim.set_faults(Faults { reads: true, ..Faults::default() });
        assert!(store.get(&key(7)).await.is_err());
        assert_eq!(store.counters().disk_read_errors, 1);
        sim.set_faults(Faults::default());
        assert_eq!(bytes(&store, &key(7)).await, Some(value(7, 1, 900)));
    });
}

#[test]
fn records_whose_write_failed_are_misses_and_the_others_stay() {
    let sim = filled();
    sim.run(async {
        let store = open(&sim, options()).await;
        sim.set_faults(Faults { writes: true, ..Faults::default() });
        for number in 0..100 {
            store.set(&key(number), b"never on disk", Meta::default()).await;
        }
        store.flush().await;
        assert!(store.counters().disk_write_errors > 0);
        sim.set_faults(Faults::default());
        for number in 0..100 {
            assert_eq!(bytes(&store, &key(number)).await, None, "neither the new value nor the one before");
        }
        for number in 100..200 {
            store.set(&key(number), b"on disk", Meta::default()).await;
        }
        store.close().await.expect("closes");
        let store = open(&sim, options()).await;
        for number in 100..200 {
            assert_eq!(bytes(&store, &key(number)).await.as_deref(), Some(&b"on disk"[..]));
        }
        assert_eq!(bytes(&store, &key(300)).await, Some(value(300, 1, 900)));
    });
}

/// A value leaves the index because it has expired, and then its write fails: what it had replaced must not come back.
#[test]
fn what_an_expired_record_had_replaced_stays_away_though_its_write_failed() {
    for is_asked_for in [true, false] {
        let sim = filled();
        sim.run(async {
            let slow = StoreOptions { flush_interval: Duration::from_secs(10_000), ..options() };
            let store = open(&sim, slow).await;
            for number in 0..100 {
                store.set(&key(number), b"for a second", expiring(store.now() + 1)).await;
            }
            sim.sleep(Duration::from_secs(300)).await;
            if is_asked_for {
                for number in 0..100 {
                    assert_eq!(bytes(&store, &key(number)).await, None);
                }
            }
            assert_eq!(store.gauges().index_entries, u64::from(COUNT) - 100);
            sim.set_faults(Faults { writes: true, ..Faults::default() });
            store.flush().await;
            assert!(store.counters().disk_write_errors > 0);
            sim.set_faults(Faults::default());
            store.close().await.expect("closes");
            let store = open(&sim, options()).await;
            for number in 0..100 {
                assert_eq!(bytes(&store, &key(number)).await, None, "key {number}");
            }
            assert_eq!(bytes(&store, &key(300)).await, Some(value(300, 1, 900)));
        });
    }
}

/// A block could not be written when the store was closed, and the footer leaves it out. A store that may not evict would go on
/// with that table; but a scan would end at the hole, and what is acknowledged behind it would be wiped.
#[test]
fn nothing_is_written_behind_a_hole_that_no_scan_gets_over() {
    let keeping = || StoreOptions { evict: false, ..options() };
    let sim = world();
    sim.run(async {
        let store = open(&sim, keeping()).await;
        store.set(&key(0), &value(0, 1, 900), Meta::default()).await;
        store.flush().await;
        store.set(&key(1), &value(1, 1, 60_000), Meta::default()).await;
        sim.schedule(vec![Fault { after: 0, kind: FaultKind::WriteError }]);
        store.close().await.expect("closes");
        assert!(store.counters().disk_write_errors > 0);
    });
    // Nothing of the write is there: it began behind the first page with a record.
    sim.tamper(&first_table(), |bytes| bytes[2 * 4096..2 * 4096 + 60_000].fill(0));
    let killed = sim.run(async {
        let store = open(&sim, keeping()).await;
        store.set(&key(2), &value(2, 1, 900), Meta::default()).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.run(async {
        let store = open(&killed, keeping()).await;
        for number in [0, 2] {
            assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 1, 900)), "key {number}");
        }
    });
}

/// A bit of the table that is written to changes, and the process is killed: no footer leads past the damaged record, but what
/// lies behind it was acknowledged long before, and must not be wiped when the store goes on.
#[test]
fn a_flipped_bit_in_a_table_without_a_footer_costs_one_record() {
    const KEYS: u32 = 800;
    let sim = world();
    let mut killed = sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..KEYS {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    killed.tamper(&first_table(), |bytes| bytes[100_000] ^= 4);
    for life in 0..3 {
        let next = killed.run(async {
            let store = open(&killed, options()).await;
            let mut missing = 0;
            for number in 0..KEYS + life {
                missing += u32::from(bytes(&store, &key(number)).await.is_none());
            }
            assert_eq!(missing, 1, "life {life}");
            store.set(&key(KEYS + life), b"new", Meta::default()).await;
            store.flush().await;
            killed.after_kill()
        });
        killed = next;
    }
}

/// Without its first page, a table that was being written to says nowhere what it is. It is not blank, and is left alone.
#[test]
fn a_table_without_its_header_is_not_used_again() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(&key(0), &value(0, 1, 900), Meta::default()).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.tamper(&first_table(), |bytes| bytes[..4096].fill(0));
    let before = killed.read_small(&first_table()).expect("readable");
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, &key(0)).await, None);
        for number in 1..COUNT {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    assert!(before == killed.read_small(&first_table()).expect("readable"), "someone may still save what is in it");
}

/// Removes what would say what is in the tables.
fn without_checkpoint(sim: &Sim) {
    let shard = Path::new(DIRECTORY).join("shard-0000");
    let names = sim.list(&shard).expect("listed").into_iter().filter(|name| name.ends_with(".dmc"));
    names.for_each(|name| sim.remove(&shard.join(name)).expect("it was listed"));
}

/// Two bits: one page of the footer is damaged, and so is a record. The one costs nothing, and the other costs itself.
#[test]
fn a_damaged_footer_page_and_a_damaged_record_cost_one_record() {
    let sim = filled();
    without_checkpoint(&sim);
    sim.tamper(&first_table(), |bytes| {
        // The first page of the footer names the first records; the scan ends at the second bit.
        let trailer = &bytes[MIB - 4096..];
        let count = u64::from_le_bytes(*trailer[64..].first_chunk().expect("eight bytes")) as usize;
        let footer = MIB - 4096 - 4096 * count.div_ceil(102);
        bytes[footer + 100] ^= 1;
        bytes[4096 + 500_000] ^= 1;
    });
    assert_eq!(missing(&sim), 1);
    assert_eq!(missing(&sim), 1, "and no more at the next start");
}

/// The checksum of a page is right, and a number in it is not.
fn set_number(page: &mut [u8], at: usize, word: u32) {
    page[at..at + 4].copy_from_slice(&word.to_le_bytes());
    page[8..12].fill(0);
    let checksum = crc32c::crc32c(page);
    page[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// Whatever the pages say that tell what tables and stores are: no panic, no end, and what is written afterwards is found.
#[test]
fn no_number_in_a_mark_or_a_superblock_does_harm() {
    let sim = filled();
    without_checkpoint(&sim);
    let any_size = || StoreOptions { table_size: None, ..options() };
    let shard = Path::new(DIRECTORY).join("shard-0000");
    let table_count = sim.list(&shard).expect("listed").iter().filter(|name| name.ends_with(".dmt")).count() as u32;
    let is_sound = |damaged: &Sim, why: &str| {
        let killed = damaged.run(async {
            let store = match Store::open(damaged.clone(), any_size(), |_| {}).await {
                Ok(store) => store,
                Err(OpenError::Capacity { .. } | OpenError::ItemSize { .. }) => return None,
                Err(error) => {
                    assert!(error.to_string().contains(DIRECTORY), "{why}: {error}");
                    return None;
                }
            };
            store.set(b"new", b"value", Meta::default()).await;
            store.flush().await;
            Some(damaged.after_kill())
        });
        if let Some(killed) = killed {
            killed.run(async {
                let store = open(&killed, options()).await;
                assert_eq!(bytes(&store, b"new").await.as_deref(), Some(&b"value"[..]), "{why}");
            });
        }
    };
    for word in [0u32, 1, 0x1000, 0x7fff_ffff, u32::MAX] {
        for at in (40..72).step_by(4) {
            for (slot, start) in [(0, 0), (0, MIB - 4096), (table_count - 2, MIB - 4096)] {
                let damaged = sim.after_kill();
                damaged
                    .tamper(&table_path(&shard, slot), |bytes| set_number(&mut bytes[start..start + 4096], at, word));
                is_sound(&damaged, &format!("{word:x} at {at} of the page at {start} of table {slot}"));
            }
        }
        for at in (48..96).step_by(4) {
            let damaged = sim.after_kill();
            for name in ["superblock", "superblock.copy"] {
                damaged.tamper(&Path::new(DIRECTORY).join(name), |page| set_number(page, at, word));
            }
            is_sound(&damaged, &format!("{word:x} at {at} of the superblocks"));
        }
    }
}

/// A version that no store comes to is none, whatever the record's checksum says.
#[test]
fn a_version_that_cannot_be_is_no_record() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        store.set(&key(0), b"value", Meta::default()).await;
        store.flush().await;
        sim.after_kill()
    });
    killed.tamper(&first_table(), |bytes| {
        let sequence = u64::from_le_bytes(*bytes[40..].first_chunk().expect("eight bytes"));
        let record = &mut bytes[4096..];
        record[8..16].fill(0xff);
        let place = crate::record::Place { slot: 0, sequence, offset: 4096 };
        let size = crate::record::claimed_size(record).expect("a record");
        let checksum = crc32c::crc32c_append(place.seed(), &record[4..size]);
        record[..4].copy_from_slice(&checksum.to_le_bytes());
    });
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(bytes(&store, &key(0)).await, None);
        store.set(&key(0), b"new", Meta::default()).await;
        assert_eq!(bytes(&store, &key(0)).await.as_deref(), Some(&b"new"[..]));
    });
}

/// The number of a page among those of all files, as [`FaultKind::BadPage`] has it.
fn number_of(sim: &Sim, path: &Path, page: u64) -> u64 {
    let paths = sim.paths();
    let before = paths.iter().take_while(|other| *other != path);
    let size = |path: &PathBuf| sim.read_small(path).expect("readable").expect("there").len() as u64;
    before.map(|path| size(path).div_ceil(4096)).sum::<u64>() + page
}

/// A start that could not read a part of a table leaves it as it is, for the next one. A checkpoint of the life in between would
/// say that there is nothing more in it.
#[test]
fn what_could_not_be_read_once_is_there_again() {
    let sim = world();
    let killed = sim.run(async {
        let store = open(&sim, options()).await;
        for number in 0..300 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.flush().await;
        sim.after_kill()
    });
    // Behind the two copies of the superblock.
    killed.schedule(vec![Fault { after: 3, kind: FaultKind::BadPage(number_of(&killed, &first_table(), 40)) }]);
    killed.run(async {
        let store = open(&killed, options()).await;
        assert_eq!(killed.happened()[0].path, Some(first_table()));
        assert_eq!(bytes(&store, &key(299)).await, None);
        for number in 300..600 {
            store.set(&key(number), &value(number, 1, 900), Meta::default()).await;
        }
        store.close().await.expect("closes");
    });
    // The device has found the page again.
    killed.tamper(&first_table(), |_| {});
    killed.run(async {
        let store = open(&killed, options()).await;
        for number in 0..600 {
            assert_eq!(bytes(&store, &key(number)).await, Some(value(number, 1, 900)), "key {number}");
        }
    });
}
