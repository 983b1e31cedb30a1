//! An export of a store that nobody serves, held against what clients get.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::recovery::export::{Export, ExportError, export};
use crate::recovery::survey::{Survey, SurveyError};

/// Key, and value, client flags, expiry and CAS unique.
type Records = BTreeMap<Vec<u8>, (Vec<u8>, u32, Seconds, u64)>;

fn exported(sim: &Sim) -> (Export, Records) {
    sim.run(async {
        let survey = Survey::open(sim, Path::new(DIRECTORY)).expect("a store");
        let mut records = Records::new();
        let visit = |exported: &crate::recovery::export::Exported<'_>| {
            let header = exported.record.header;
            let record = (exported.record.value.to_vec(), header.client_flags, header.expiry, exported.cas);
            assert!(records.insert(exported.record.key.to_vec(), record).is_none(), "each once");
            Ok(())
        };
        let mut last = 0.0;
        let progress = |step: crate::recovery::export::Exporting| {
            let part = step.size_done as f64 / step.size as f64;
            assert!((last..=1.0).contains(&part), "{step:?}");
            last = part;
        };
        let export = export(&survey, false, visit, progress).await.expect("it can be read");
        assert_eq!(export.record_count, records.len() as u64);
        (export, records)
    })
}

/// What clients get of each of the keys.
async fn got(store: &Store<Sim>, key_count: u32) -> Records {
    let mut records = Records::new();
    for number in 0..key_count {
        let copy = |record: Record<'_>| {
            let cas = store.cas_of(&record.header);
            (record.value.to_vec(), record.header.client_flags, record.header.expiry, cas)
        };
        records.extend(store.read(&key(number), copy).await.expect("works").map(|record| (key(number), record)));
    }
    records
}

/// Writes, touches and deletes of 400 keys in a random order, with values of up to 60,000 bytes.
async fn churn(store: &Store<Sim>, state: &mut u64) {
    for stamp in 0..1500 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (*state >> 33) as u32 % 400;
        match (*state >> 20) % 16 {
            0 => drop(store.delete(&key(number)).await),
            1 => drop(store.touch(&key(number), store.now() + 5 + number).await),
            2 => drop(store.set(&key(number), &value(number, stamp, 60_000), Meta::default()).await),
            3 => {
                let meta = Meta { own_cas: Some(stamp.into()), expiry: store.now() + 20, ..flags(stamp) };
                store.set(&key(number), &value(number, stamp, 20), meta).await;
            }
            _ => drop(store.set(&key(number), &value(number, stamp, 2000), flags(stamp)).await),
        }
    }
}

#[test]
fn every_live_record_is_exported_once_after_any_end() {
    let mut state = 3;
    for round in 0..6 {
        let sim = world();
        let (killed, after_kill) = sim.run(async {
            let store = open(&sim, options()).await;
            churn(&store, &mut state).await;
            if round % 2 == 0 {
                store.flush_all(None).await;
                churn(&store, &mut state).await;
            }
            sim.advance(Duration::from_secs(10));
            store.flush().await;
            let got = got(&store, 400).await;
            let killed = sim.after_kill();
            store.close().await.expect("closes");
            (killed, got)
        });
        assert!(after_kill.len() > 200);
        for (sim, end) in [(&killed, "kill"), (&sim, "stop")] {
            let (export, records) = exported(sim);
            assert!(export.damaged_count == 0 && export.unread.is_empty(), "{export:?}");
            // A second may have passed.
            let now = sim.now();
            let expected: Records = after_kill
                .iter()
                .filter(|(_, record)| record.2 == 0 || record.2 > now)
                .map(|(key, record)| (key.clone(), record.clone()))
                .collect();
            assert_eq!(records.len(), expected.len(), "round {round}, {end}");
            assert!(records == expected, "round {round}, {end}");
        }
    }
}

#[test]
fn what_a_delayed_flush_will_drop_expires_then() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        store.set(&key(1), b"1", Meta::default()).await;
        store.set(&key(2), b"2", expiring(store.now() + 5)).await;
        store.flush_all(Some(store.now() + 10)).await;
        store.set(&key(3), b"3", expiring(store.now() + 50)).await;
        store.close().await.expect("closes");
    });
    let due = sim.now() + 10;
    let expiries: Vec<Seconds> = exported(&sim).1.values().map(|record| record.2).collect();
    assert!(
        expiries[0].abs_diff(due) <= 1 && expiries[1] < due - 3 && expiries[2] == expiries[0],
        "{expiries:?} {due}"
    );
    sim.advance(Duration::from_secs(11));
    assert!(exported(&sim).1.is_empty());
}

#[test]
fn what_is_damaged_is_left_out_and_counted() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        churn(&store, &mut 5).await;
        store.close().await.expect("closes");
    });
    let whole = exported(&sim).1;
    let shard = Path::new(DIRECTORY).join("shard-0000");
    let tables = sim.list(&shard).expect("listed").into_iter().filter(|name| name.ends_with(".dmt"));
    let tables: Vec<PathBuf> = tables.map(|name| shard.join(name)).collect();
    for table in &tables {
        sim.tamper(table, |bytes| bytes[100_000..300_000].fill(7));
    }
    let (export, records) = exported(&sim);
    assert!(export.damaged_count > 0 && export.damaged_count == (whole.len() - records.len()) as u64, "{export:?}");
    assert!(records.iter().all(|(key, record)| whole.get(key) == Some(record)));
    sim.tamper(&tables[0], |bytes| bytes.fill(7));
    let (export, _) = exported(&sim);
    assert_eq!(export.unread.len(), 1, "{export:?}");
}

/// Without a table, what it says is deleted or replaced would be in the stream: only who wants that gets it.
#[test]
fn a_table_that_cannot_be_read_ends_an_export_unless_that_is_forced() {
    let sim = world();
    sim.run(async {
        let store = open(&sim, options()).await;
        churn(&store, &mut 5).await;
        store.close().await.expect("closes");
    });
    sim.set_faults(crate::io::sim::Faults { reads: true, ..Default::default() });
    sim.run(async {
        let survey = Survey::open(&sim, Path::new(DIRECTORY)).expect("a store");
        let refused = export(&survey, false, |_| Ok(()), |_| {}).await;
        assert!(
            matches!(&refused, Err(ExportError::Survey(SurveyError::Table { path, .. })) if path.ends_with("table-000000.dmt")),
            "{refused:?}"
        );
        let forced = export(&survey, true, |_| Ok(()), |_| {}).await.expect("it is forced");
        assert!(forced.is_doubtful && !forced.unread.is_empty() && forced.record_count == 0, "{forced:?}");
    });
}
