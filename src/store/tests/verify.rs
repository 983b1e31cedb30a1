//! What a verification says of a store, held against what the next start makes of it.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::limits::PAGE_SIZE;
use crate::recovery::survey::SurveyError;
use crate::recovery::tables::table_path;
use crate::recovery::verify::{Cost, Found, Report, Severity, verify};

const KEYS: u32 = 700;

type Contents = BTreeMap<u32, Vec<u8>>;

fn table(slot: u32) -> PathBuf {
    table_path(&Path::new(DIRECTORY).join("shard-0000"), slot)
}

/// A store of several tables with everything in it that records can say, and the number of its live records.
async fn fill(sim: &Sim) -> (Store<Sim>, u64) {
    let store = open(sim, options()).await;
    for stamp in 0..4 {
        for number in 0..KEYS {
            let size = if number % 100 == 7 { 40_000 } else { 300 + number as usize };
            store.set(&key(number), &value(number, stamp, size), flags(number)).await;
        }
        for number in (0..KEYS).skip(stamp as usize).step_by(11) {
            store.delete(&key(number)).await;
        }
        store.flush().await;
        for number in (0..KEYS).step_by(13) {
            store.touch(&key(number), store.now() + 100_000).await;
        }
        if stamp == 1 {
            store.flush_all(None).await;
        }
        // In memory still: it is written over in place.
        store.set(b"again", &[1; 500], Meta::default()).await;
        store.set(b"again", &[2; 100], Meta::default()).await;
    }
    let live_count = store.gauges().index_entries;
    (store, live_count)
}

fn filled() -> (Sim, u64) {
    let sim = world();
    let live_count = sim.run(async {
        let (store, live_count) = fill(&sim).await;
        store.close().await.expect("closes");
        live_count
    });
    (sim, live_count)
}

fn report(sim: &Sim) -> Report {
    sim.run(async { verify(sim, Path::new(DIRECTORY), |_| {}).await.expect("it can be verified") })
}

/// What clients get after the next start; `None` when there is none.
fn contents(sim: &Sim) -> Option<Contents> {
    sim.run(async {
        let store = Store::open(sim.clone(), options(), |_| {}).await.ok()?;
        let mut contents = Contents::new();
        for number in 0..KEYS {
            contents.extend(bytes(&store, &key(number)).await.map(|bytes| (number, bytes)));
        }
        Some(contents)
    })
}

/// All costs together.
fn cost(report: &Report) -> Cost {
    report.costs.values().fold(Cost::default(), |sum, cost| Cost {
        lost: sum.lost + cost.lost,
        older: sum.older + cost.older,
        forgotten: sum.forgotten + cost.forgotten,
    })
}

fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn a_whole_store_is_sound_and_its_records_are_counted() {
    let (sim, live_count) = filled();
    let report = report(&sim);
    assert_eq!(report.findings, []);
    assert!(report.is_sound() && report.was_clean == Some(true));
    assert_eq!((report.counts.live_records, report.counts.damaged_records), (live_count, 0));
    assert!(report.counts.tables >= 3 && report.counts.records > 4 * u64::from(KEYS));
    // It has changed nothing, and has let the lock go.
    assert_eq!(contents(&sim), contents(&filled().0));
}

#[test]
fn a_store_after_a_kill_is_sound() {
    let sim = world();
    let (killed, live_count) = sim.run(async {
        let (store, live_count) = fill(&sim).await;
        store.flush().await;
        let in_use = verify(&sim, Path::new(DIRECTORY), |_| {}).await;
        assert!(matches!(in_use, Err(SurveyError::InUse(_))));
        (sim.after_kill(), live_count)
    });
    let report = report(&killed);
    assert!(report.is_sound(), "{:?}", report.findings);
    assert!(report.findings.iter().any(|finding| matches!(finding.what, Found::Open { .. })), "{:?}", report.findings);
    assert_eq!((report.was_clean, report.counts.live_records), (Some(false), live_count));
}

#[test]
fn what_a_flip_costs_is_said() {
    let (sim, _) = filled();
    let whole = contents(&sim.after_kill()).expect("it starts");
    let (mut state, mut change_count) = (7, 0);
    for round in 0..150 {
        let flipped = sim.after_kill();
        let slot = random(&mut state) as u32 % 3;
        let (place, bit) = (random(&mut state), random(&mut state) % 8);
        flipped.tamper(&table(slot), |bytes| {
            // Every third in the footer and the trailer.
            let start = if round % 3 == 0 { bytes.len() - 5 * PAGE_SIZE } else { 0 };
            let place = start + place % (bytes.len() - start);
            bytes[place] ^= 1 << bit;
        });
        let report = report(&flipped);
        let found = contents(&flipped).expect("it starts");
        let gone = whole.keys().filter(|number| !found.contains_key(number)).count() as u64;
        let older = whole.iter().filter(|(number, bytes)| found.get(number).is_some_and(|found| found != *bytes));
        let cost = cost(&report);
        let why = format!("round {round}: table {slot}, bit {bit}: {:?}", report.findings);
        assert_eq!((cost.lost - cost.older, cost.older), (gone, older.count() as u64), "{why}");
        assert!(found == whole || !report.is_sound(), "{why}");
        change_count += u32::from(found != whole);
        assert_ne!(report.severity(), Some(Severity::RefusesStart), "{why}");
    }
    assert!(change_count > 10, "{change_count}");
}

#[test]
fn what_a_flip_after_a_kill_changes_is_said() {
    let sim = world();
    let killed = sim.run(async {
        let (store, _) = fill(&sim).await;
        store.flush().await;
        sim.after_kill()
    });
    let (whole, before) = (contents(&killed.after_kill()).expect("it starts"), report(&killed));
    let mut state = 9;
    for round in 0..80 {
        let flipped = killed.after_kill();
        let slot = random(&mut state) as u32 % 3;
        flipped.tamper(&table(slot), |bytes| {
            let place = random(&mut state) % bytes.len();
            bytes[place] ^= 1 << (round % 8);
        });
        let report = report(&flipped);
        let found = contents(&flipped).expect("it starts");
        assert!(found == whole || report.findings != before.findings, "round {round}: {:?}", report.findings);
    }
}

/// Does `harm` to a store that was stopped cleanly, and says what is found, and how many keys are gone then.
fn harmed(harm: impl FnOnce(&Sim)) -> (Report, Option<usize>) {
    let (sim, _) = filled();
    let whole = contents(&sim.after_kill()).expect("it starts");
    let sim = sim.after_kill();
    harm(&sim);
    let report = report(&sim);
    let found = contents(&sim);
    (report, found.map(|found| whole.keys().filter(|number| found.get(number) != whole.get(number)).count()))
}

fn has(report: &Report, wanted: impl Fn(&Found) -> bool) {
    assert!(report.findings.iter().any(|finding| wanted(&finding.what)), "{:?}", report.findings);
    assert!(!report.is_sound());
}

#[test]
fn a_header_or_a_trailer_alone_costs_nothing() {
    let (report, gone) = harmed(|sim| sim.tamper(&table(0), |bytes| bytes[50] ^= 1));
    has(&report, |found| matches!(found, Found::Header(_)));
    assert_eq!((cost(&report), gone), (Cost::default(), Some(0)));
    let (report, gone) = harmed(|sim| {
        sim.tamper(&table(0), |bytes| {
            let trailer = bytes.len() - PAGE_SIZE;
            bytes[trailer + 9] ^= 1;
        });
    });
    has(&report, |found| matches!(found, Found::Trailer(_)));
    assert_eq!((cost(&report), gone), (Cost::default(), Some(0)));
}

#[test]
fn a_table_without_either_is_lost_and_its_records_are_counted() {
    let (report, gone) = harmed(|sim| {
        sim.tamper(&table(2), |bytes| {
            let trailer = bytes.len() - PAGE_SIZE;
            bytes[60] ^= 1;
            bytes[trailer + 60] ^= 1;
        });
    });
    has(&report, |found| matches!(found, Found::NoMark { record_count, .. } if *record_count > 100));
    assert!(gone > Some(0));
}

#[test]
fn files_that_are_not_what_they_should_be_are_found() {
    let (report, gone) = harmed(|sim| sim.remove(&table(1)).expect("it is there"));
    has(&report, |found| matches!(found, Found::Missing { .. }));
    assert!(gone.is_some());

    let (report, gone) = harmed(|sim| {
        let bytes = sim.read_small(&table(0)).expect("readable").expect("there");
        sim.replace_small(&table(40), &bytes).expect("written");
    });
    has(&report, |found| matches!(found, Found::Foreign { slot: Some(0) }));
    assert_eq!(gone, Some(0));

    let misnamed = Path::new(DIRECTORY).join("shard-0000/table-1.dmt");
    let (report, gone) = harmed(|sim| sim.rename(&table(1), &misnamed).expect("it is there"));
    has(&report, |found| matches!(found, Found::Misnamed { name } if name == "table-000001.dmt"));
    assert!(gone.is_some());

    let (report, gone) = harmed(|sim| sim.tamper(&table(0), |bytes| bytes.truncate(300 * 1000)));
    has(&report, |found| matches!(found, Found::Short { size: 300_000, .. }));
    assert!(gone.is_some());

    let (report, gone) = harmed(|sim| sim.tamper(&table(0), |bytes| bytes.truncate(0)));
    has(&report, |found| matches!(found, Found::Short { size: 0, .. }));
    assert!(gone.is_some());

    let stray = Path::new(DIRECTORY).join("shard-0000/holiday.jpg");
    let (report, gone) = harmed(|sim| sim.replace_small(&stray, b"sun").expect("written"));
    assert!(report.is_sound() && report.findings[0].what == Found::Stray);
    assert_eq!(gone, Some(0));
}

#[test]
fn one_superblock_is_enough_and_without_any_no_server_starts() {
    let copies = ["superblock", "superblock.copy"].map(|name| Path::new(DIRECTORY).join(name));
    for copy in &copies {
        let (report, gone) = harmed(|sim| sim.tamper(copy, |bytes| bytes[20] ^= 1));
        has(&report, |found| matches!(found, Found::SuperblockCopy(_)));
        assert_eq!((report.severity(), gone), (Some(Severity::Damage), Some(0)));
    }
    let (report, gone) = harmed(|sim| copies.iter().for_each(|copy| sim.tamper(copy, |bytes| bytes[20] ^= 1)));
    assert_eq!((report.severity(), gone), (Some(Severity::RefusesStart), None));
    let (report, gone) = harmed(|sim| copies.iter().for_each(|copy| sim.remove(copy).expect("it is there")));
    assert_eq!((report.severity(), gone), (Some(Severity::RefusesStart), None));
}

#[test]
fn a_checkpoint_that_is_damaged_costs_nothing() {
    let shard = Path::new(DIRECTORY).join("shard-0000");
    for place in [100, 5000, 20_000] {
        let (report, gone) = harmed(|sim| {
            let names = sim.list(&shard).expect("listed");
            let piece = names.iter().find(|name| name.ends_with(".dmc")).expect("a clean stop has written one");
            sim.tamper(&shard.join(piece), |bytes| bytes[place] ^= 1);
        });
        has(&report, |found| matches!(found, Found::Checkpoint(_)));
        assert_eq!((cost(&report), gone), (Cost::default(), Some(0)));
    }
}

#[test]
fn what_is_no_store_is_not_verified() {
    let sim = world();
    let verified = sim.run(async { verify(&sim, Path::new(DIRECTORY), |_| {}).await });
    assert!(matches!(verified, Err(SurveyError::NoStore(_))));
}

#[test]
fn a_device_that_does_not_deliver_is_why_no_server_starts() {
    let (sim, _) = filled();
    sim.set_faults(crate::io::sim::Faults { reads: true, ..Default::default() });
    let report = report(&sim);
    assert_eq!(report.severity(), Some(Severity::RefusesStart));
    assert!(contents(&sim).is_none());
}
