//! What a start leaves on disk of tables that it does not go on with.

use super::*;
use crate::disktable::format::{Mark, MarkKind};

/// A start may go on with a sealed table by its footer. The next scan must reach what is written then, and must not find behind
/// it what a stop has torn.
#[test]
fn nothing_torn_is_left_in_a_table_that_is_sealed() {
    let mut world = World::new();
    world.table(5, false, &[value(1, 10), value(2, 11)]);
    world.table(6, false, &[value(3, 12)]);
    let path = table_path(Path::new(DIRECTORY), 0);
    let end = offset(2) as usize;
    // A record of which a part was written, and another one a page behind it.
    let mut stray = [0; PAGE_SIZE];
    let place = TableUse { slot: 0, sequence: 5 }.place((RECORDS_START + 2 * PAGE_SIZE) as u32);
    let header = Header { kind: Kind::Value, version: 13, expiry: 0, client_flags: 0, bits: 0, own_cas: None };
    let size = record::encode(&mut stray, place, header, b"ke", b"whole");
    world.sim.tamper(&path, |bytes| {
        bytes[end..end + 100].fill(0xa5);
        bytes[RECORDS_START + 2 * PAGE_SIZE..][..size].copy_from_slice(&stray[..size]);
    });
    let state = world.recover();
    assert_eq!(state.catalog.get(0).map(|table| table.state), Some(TableState::Sealed));
    assert_eq!((state.get(1), state.get(2)), (Some((0, 0, 0)), Some((0, 1, 0))));
    let bytes = world.sim.read_small(&path).expect("readable").expect("it is there");
    let (front, footer) = (&bytes[end..], bytes.len() - 2 * PAGE_SIZE);
    assert!(front[..footer - end].iter().all(|byte| *byte == 0), "up to the footer there is nothing");
    assert_eq!(world.recover().get(2), Some((0, 1, 0)));
}

/// Whoever would go on with a table that has a hole learns of it from the trailer, however small the hole is.
#[test]
fn a_table_that_is_sealed_with_a_hole_says_so() {
    const COUNT: u16 = 7000;
    let mut world = World::new();
    let said: Vec<Say> = (0..COUNT).map(|key| value(key, 10 + u64::from(key))).collect();
    world.table(5, false, &said);
    world.table(6, false, &[value(1, 1)]);
    let path = table_path(Path::new(DIRECTORY), 0);
    world.sim.tamper(&path, |bytes| bytes[offset(70) as usize + 30] ^= 1);
    assert_eq!(world.recover().get(70), None);
    let bytes = world.sim.read_small(&path).expect("readable").expect("it is there");
    let trailer = &bytes[bytes.len() - PAGE_SIZE..];
    let trailer = Mark::decode(MarkKind::Trailer, trailer, IDENTITY).expect("it is sealed");
    let end = (offset(COUNT.into()) as usize).next_multiple_of(PAGE_SIZE);
    assert_eq!(trailer.records_end, (end + PAGE_SIZE) as u64);
}

/// A process that was killed had marked a table as free, and nobody had made that stable: a power cut must not bring back what
/// was in it, once a store has begun to serve without.
#[test]
fn a_table_that_was_marked_as_free_stays_so() {
    for seed in 0..20 {
        let mut world = World { sim: Sim::new(seed, 1 << 30), ..World::new() };
        world.table(5, true, &[value(1, 10)]);
        world.table(6, true, &[value(2, 11)]);
        let sim = world.sim.clone();
        sim.run(async {
            let file = sim.open(&table_path(Path::new(DIRECTORY), 0)).await.expect("it is there");
            let mark = Mark { identity: IDENTITY, sequence: 5, records_end: 0, summary_count: 0, written: 0 };
            let mut page = Buffer::zeroed(PAGE_SIZE);
            mark.encode(MarkKind::Free, &mut page);
            file.write_at(0, PAGE_SIZE, Rc::new(page)).await.expect("written");
        });
        assert_eq!(world.recover().get(1), None);
        let after = World { sim: world.sim.power_cut(), ..World::new() };
        let state = after.recover();
        assert_eq!((state.get(1), state.get(2).is_some()), (None, true), "seed {seed}");
    }
}
