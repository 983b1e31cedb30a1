//! Recovery of tables that were made by hand: what several streams, reclaim and stops leave behind.

mod pieces;
mod settled;

use std::path::Path;
use std::rc::Rc;

use dma_alloc::Buffer;
use proptest::prelude::*;

use super::checkpoint::format::{Header as PieceHeader, Known, TableInPiece};
use super::checkpoint::{Piece, PieceEnd, PieceWriter, Position};
use super::replay::Shard;
use super::tables::table_path;
use super::{Recovered, recover};
use crate::clock::Seconds;
use crate::digest::{Digest, Salt};
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Distance, Identity, RECORDS_START, Summary};
use crate::disktable::reader::summary_of;
use crate::disktable::summaries::SummaryLog;
use crate::disktable::writer;
use crate::error::OpenError;
use crate::index::{Entry, Index, Pointer};
use crate::io::sim::{Sim, SimFile};
use crate::io::{File, Io};
use crate::limits::{MIB, PAGE_SIZE};
use crate::memtable::TableUse;
use crate::record::{self, Header, Kind, SizeClass, granules_up};

const DIRECTORY: &str = "/data/shard-0000";
const SALT: Salt = [3; 16];
const IDENTITY: Identity = Identity { store_id: [7; 16], shard: 0, slot: 0, table_size: MIB as u64 };
const GENERATION: u64 = 5;

/// A record to be written.
#[derive(Clone, Copy, Debug)]
struct Say {
    kind: Kind,
    key: u16,
    version: u64,
    expiry: Seconds,
    distance: Distance,
}

fn value(key: u16, version: u64) -> Say {
    Say { kind: Kind::Value, key, version, expiry: 0, distance: Distance::NONE }
}

fn tombstone(key: u16, version: u64) -> Say {
    Say { kind: Kind::Tombstone, distance: Distance::to(0, 0), ..value(key, version) }
}

fn touch(key: u16, version: u64, expiry: Seconds) -> Say {
    // Wherever the value lies.
    Say { kind: Kind::Touch, expiry, distance: Distance::to(0, 50), ..value(key, version) }
}

fn flush(version: u64, expiry: Seconds) -> Say {
    Say { kind: Kind::Flush, expiry, ..tombstone(0, version) }
}

fn expiring(say: Say, expiry: Seconds) -> Say {
    Say { expiry, ..say }
}

fn digest(key: u16) -> Digest {
    Digest::of(&SALT, &key.to_le_bytes())
}

/// Where the record with this number lies in each table here.
fn offset(number: usize) -> u32 {
    (RECORDS_START + number * granules_up(record::record_size(2, 8))) as u32
}

fn summary(table: TableUse, number: usize, say: &Say, target: &mut [u8]) -> Summary {
    let Say { kind, key, version, expiry, distance } = *say;
    let client_flags = if kind == Kind::Value { 0 } else { distance.to_flags() };
    let header = Header { kind, version, expiry, client_flags, bits: 0, own_cas: None };
    let (name, place) = (key.to_le_bytes(), table.place(offset(number)));
    let name = if kind == Kind::Flush { &[][..] } else { &name };
    let bytes = if kind == Kind::Value { &[key as u8; 8][..] } else { b"" };
    let size = record::encode(target, place, header, name, bytes);
    let record = record::decode(&target[..size], place).expect("just written");
    Summary { distance, ..summary_of(&record, offset(number), &SALT) }
}

struct World {
    sim: Sim,
    /// What was written to each slot.
    tables: Vec<(TableUse, Vec<Say>)>,
    table_count_max: usize,
}

impl World {
    fn new() -> Self {
        Self { sim: Sim::new(9, 1 << 30), tables: Vec::new(), table_count_max: 100 }
    }

    /// Writes a table to the next slot.
    fn table(&mut self, sequence: u64, is_sealed: bool, said: &[Say]) -> u32 {
        let slot = self.tables.len() as u32;
        let (sim, table) = (self.sim.clone(), TableUse { slot, sequence });
        self.tables.push((table, said.to_vec()));
        let size = (offset(said.len()) as usize - RECORDS_START).next_multiple_of(PAGE_SIZE);
        let mut buffer = Buffer::zeroed(size.max(PAGE_SIZE));
        let mut summaries = SummaryLog::default();
        for (number, say) in said.iter().enumerate() {
            let target = &mut buffer[offset(number) as usize - RECORDS_START..];
            summaries.push(&summary(table, number, say, target));
        }
        self.sim.run(async {
            let (identity, now) = (Identity { slot, ..IDENTITY }, sim.now());
            let file = sim.create(&table_path(Path::new(DIRECTORY), slot), IDENTITY.table_size).await.expect("made");
            writer::write_header(&file, identity, sequence, now).await.expect("written");
            file.write_at(RECORDS_START as u64, size.max(PAGE_SIZE), Rc::new(buffer)).await.expect("written");
            if is_sealed {
                let end = (RECORDS_START + size) as u32;
                writer::seal(&file, identity, table, end, summaries, now).await.expect("written");
            }
        });
        slot
    }

    fn recover(&self) -> State {
        self.recover_with(Index::new(4 * MIB, MIB), true)
    }

    fn recover_with(&self, index: Index, may_evict: bool) -> State {
        self.try_recover(index, may_evict).expect("recovers")
    }

    fn try_recover(&self, mut index: Index, may_evict: bool) -> Result<State, OpenError> {
        let mut catalog = Catalog::new(self.table_count_max);
        let shard = Shard {
            directory: Path::new(DIRECTORY),
            identity: IDENTITY,
            salt: &SALT,
            generation: GENERATION,
            summary_count_max: 10_000,
            may_evict,
            was_clean: false,
            memory_size: MIB,
        };
        let recover = recover(&self.sim, shard, &mut index, &mut catalog, |_| {});
        let recovered = self.sim.run(recover)?;
        Ok(State { index, catalog, recovered })
    }

    /// The state that a start finds, and the same again by a start that comes right after it.
    fn recover_twice(&self) -> State {
        let first = self.recover();
        let second = self.recover();
        assert!((0..256).all(|key| first.get(key) == second.get(key)), "the next start finds the same");
        first
    }
}

/// What a start has found.
struct State {
    index: Index,
    catalog: Catalog<SimFile>,
    recovered: Recovered,
}

impl State {
    /// Slot, number of the record, expiry.
    fn get(&self, key: u16) -> Option<(u32, usize, Seconds)> {
        let Entry { pointer, expiry, .. } = self.index.get(&digest(key))?;
        let number = (pointer.offset - offset(0)) / (offset(1) - offset(0));
        Some((pointer.slot, number as usize, expiry))
    }
}

/// Of the touches of a value, any may be gone when it was moved after all of them: the copy has the expiry that the last
/// one said.
#[test]
fn a_touch_does_not_count_for_a_copy_that_was_made_after_it() {
    let mut world = World::new();
    let said_of = |sequence: u64, until: u64, say: Say| Say { distance: Distance::to(sequence, until), ..say };
    world.table(3, true, &[value(1, 10), value(2, 11)]);
    world.table(
        4,
        true,
        &[said_of(4, 3, touch(1, 20, 2_000_000_400)), said_of(4, 3, touch(2, 21, 2_000_000_400)), value(3, 22)],
    );
    world.table(5, true, &[expiring(value(1, 10), 2_000_000_500), said_of(5, 5, touch(3, 30, 2_000_000_600))]);
    let state = world.recover_twice();
    assert_eq!(state.get(1), Some((2, 0, 2_000_000_500)));
    assert_eq!(state.get(2), Some((0, 1, 2_000_000_400)));
    assert_eq!(state.get(3), Some((1, 2, 2_000_000_600)));
}

/// A value that had expired when its key was written anew keeps older ones dead: whoever wrote it anew may not have known
/// of any.
#[test]
fn a_table_with_an_expired_value_is_known_to_keep_older_ones_dead() {
    let mut world = World::new();
    world.table(3, true, &[value(1, 10)]);
    let second = world.table(4, true, &[Say { distance: Distance::to(4, 3), ..expiring(value(1, 11), 5) }]);
    let third = world.table(5, true, &[expiring(value(2, 12), 5), value(1, 20)]);
    let state = world.recover();
    assert_eq!(state.get(1), Some((third, 1, 0)));
    let is_dropped = |slot| state.catalog.get(slot).expect("there").dropped;
    assert!(is_dropped(second));
    // The same where the table is not replayed.
    world.piece_of_expired(second);
    let state = world.recover();
    assert!(state.recovered.checkpoint.is_some() && state.catalog.get(second).expect("there").dropped);
}

#[test]
fn versions_count_and_not_where_words_lie() {
    for first_is_later in [false, true] {
        let mut world = World::new();
        let (one, other) = if first_is_later { (9, 8) } else { (8, 9) };
        world.table(one, true, &[value(1, 10), value(2, 40), tombstone(3, 30), value(4, 31)]);
        world.table(other, true, &[value(1, 20), value(2, 5), value(3, 6), tombstone(4, 32)]);
        let state = world.recover_twice();
        assert_eq!(state.get(1), Some((1, 0, 0)));
        assert_eq!(state.get(2), Some((0, 1, 0)));
        assert_eq!((state.get(3), state.get(4)), (None, None));
        assert_eq!(state.recovered.version, 40);
        assert_eq!(state.recovered.record_count, 8);
        assert_eq!(state.catalog.get(0).map(|table| table.live_count), Some(1));
    }
}

#[test]
fn a_moved_copy_says_what_the_original_said() {
    let mut world = World::new();
    world.table(5, true, &[value(1, 10), touch(1, 11, 2_000_000_500), value(2, 12)]);
    // The touch of the first is baked in; that of the second comes after the move, in an older table.
    world.table(7, true, &[expiring(value(1, 10), 2_000_000_500), value(2, 12)]);
    world.table(6, true, &[touch(2, 13, 2_000_000_600)]);
    let state = world.recover_twice();
    assert_eq!(state.get(1), Some((1, 0, 2_000_000_500)), "of equal ones the one in the later table");
    assert_eq!(state.get(2), Some((1, 1, 2_000_000_600)));
}

#[test]
fn a_touch_is_about_the_values_before_it_only() {
    let mut world = World::new();
    world.table(5, true, &[touch(1, 20, 2_000_000_500), touch(2, 20, 2_000_000_500), touch(1, 19, 2_000_000_400)]);
    world.table(6, true, &[value(1, 18), value(2, 21), touch(3, 22, 2_000_000_500)]);
    let state = world.recover_twice();
    assert_eq!(state.get(1), Some((1, 0, 2_000_000_500)));
    assert_eq!(state.get(2), Some((1, 1, 0)));
    assert_eq!(state.get(3), None);
}

#[test]
fn a_flush_voids_what_was_written_before_it_wherever_it_lies() {
    let mut world = World::new();
    world.table(5, true, &[value(1, 10), flush(20, 0), value(2, 30)]);
    world.table(6, true, &[value(1, 10), value(3, 19), value(4, 21)]);
    world.table(7, false, &[value(3, 19), tombstone(4, 18)]);
    let state = world.recover_twice();
    assert_eq!((state.get(1), state.get(3)), (None, None));
    assert_eq!(state.get(2), Some((0, 2, 0)));
    assert_eq!(state.get(4), Some((1, 2, 0)));
}

#[test]
fn the_delayed_flush_that_is_pending_is_the_last_one_by_version() {
    let later = Sim::new(9, 1 << 30).now() + 1000;
    for (versions, due) in [([20, 30, 40], None), ([40, 30, 20], Some(later)), ([20, 40, 30], Some(later + 9))] {
        let mut world = World::new();
        world.table(5, true, &[flush(versions[0], later), value(1, 50)]);
        world.table(6, true, &[flush(versions[1], later + 9)]);
        world.table(7, true, &[flush(versions[2], 0)]);
        let state = world.recover_twice();
        assert_eq!(state.recovered.flush_due, due, "{versions:?}");
        assert_eq!(state.get(1), Some((0, 1, 0)));
    }
    let mut world = World::new();
    world.table(5, true, &[flush(60, Sim::new(9, 1 << 30).now() - 1), value(1, 50)]);
    assert_eq!(world.recover().get(1), None, "it fell due while nobody served");
}

/// At a crash several tables may be open. One of them goes on; what the others hold is found again, by their footers.
#[test]
fn of_several_open_tables_the_last_one_goes_on_and_the_others_are_sealed() {
    let mut world = World::new();
    world.table(6, false, &[value(1, 10), value(2, 14)]);
    world.table(8, false, &[value(2, 13), value(3, 15)]);
    world.table(7, false, &[value(3, 16), touch(1, 17, 2_000_000_500)]);
    let state = world.recover();
    assert_eq!(state.get(1), Some((0, 0, 2_000_000_500)));
    assert_eq!(state.get(2), Some((0, 1, 0)));
    assert_eq!(state.get(3), Some((2, 0, 0)));
    assert_eq!(state.recovered.writer.as_ref().map(|writer| writer.table.slot), Some(1));
    let states: Vec<_> = state.catalog.iter().map(|(_, table)| table.state).collect();
    assert_eq!(states, [TableState::Sealed, TableState::Writing, TableState::Sealed]);
    // What only a scan has found: older words may lie in any table that there is, and in none that is yet to come.
    assert_eq!(state.catalog.get(0).map(|table| table.older_until), Some(8));
    let again = world.recover();
    assert!((1..4).all(|key| state.get(key) == again.get(key)));
    assert_eq!(again.catalog.get(0).map(|table| table.older_until), Some(8), "as the footer says now");
}

#[test]
fn the_catalog_learns_how_far_back_words_matter() {
    let far = |say: Say, distance| Say { distance, ..say };
    let mut world = World::new();
    world.table(
        9,
        true,
        &[value(1, 1), far(value(2, 2), Distance::to(9, 4)), far(tombstone(3, 3), Distance::to(9, 11))],
    );
    world.table(
        10,
        true,
        &[value(4, 4), far(value(5, 5), Distance::to(10, 8)), far(flush(1, 0), Distance::to(10, 12))],
    );
    world.table(12, true, &[value(6, 6)]);
    let state = world.recover();
    let until = |slot| state.catalog.get(slot).map(|table| (table.guarded_until, table.older_until));
    assert_eq!([until(0), until(1), until(2)], [Some((11, 4)), Some((12, 8)), Some((0, 0))]);
}

/// The truth about a key lies in a table that there is no room for: it is absent, and nothing older comes back.
#[test]
fn what_is_left_out_is_not_replaced_by_something_older() {
    const COUNT: u16 = 8000;
    let mut world = World::new();
    let all = |version: u64| (0..COUNT).map(move |key| value(key, version + u64::from(key))).collect::<Vec<Say>>();
    // The table with the lower sequence has what is newer.
    world.table(9, true, &all(1));
    world.table(5, true, &all(20_000));
    world.table(10, true, &[value(COUNT + 1, 40_000), tombstone(7, 40_001), value(COUNT + 2, 40_002)]);
    let small = || Index::new(Index::BASE_SIZE + 64 * 1024, MIB);
    let state = world.recover_with(small(), true);
    assert_eq!(state.recovered.evicted_count, u64::from(COUNT) - 1);
    assert_eq!((0..COUNT).filter_map(|key| state.get(key)).count(), 0);
    assert!(state.catalog.get(1).is_some_and(|table| table.forgotten));
    assert_eq!(state.catalog.forgotten(), [false, true, false]);
    assert_eq!((state.get(COUNT + 1), state.get(COUNT + 2)), (Some((2, 0, 0)), Some((2, 2, 0))));
    assert!(matches!(world.try_recover(small(), false), Err(OpenError::IndexDoesNotFit(_))));
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![6 => Just(Kind::Value), 2 => Just(Kind::Tombstone), 2 => Just(Kind::Touch), 1 => Just(Kind::Flush)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Words and copies of them in any tables come to what a map comes to that hears them by version.
    #[test]
    fn tables_in_any_order_say_what_a_map_says(
        said in proptest::collection::vec((1u16..12, kinds(), 0usize..4, proptest::option::of(0usize..4)), 0..80),
    ) {
        let mut tables = vec![Vec::new(); 4];
        let mut known: std::collections::BTreeMap<u16, (u64, Seconds)> = std::collections::BTreeMap::new();
        for (version, (key, kind, at, copied_to)) in (1u64..).zip(&said) {
            let expiry = 2_000_000_500 + version as u32;
            let say = match kind {
                Kind::Value => value(*key, version),
                Kind::Tombstone => tombstone(*key, version),
                Kind::Touch => touch(*key, version, expiry),
                Kind::Flush | Kind::Padding => flush(version, 0),
            };
            tables[*at].push(say);
            tables[copied_to.unwrap_or(*at)].extend(copied_to.map(|_| say));
            match kind {
                Kind::Value => drop(known.insert(*key, (version, 0))),
                Kind::Tombstone => drop(known.remove(key)),
                Kind::Touch => known.get_mut(key).into_iter().for_each(|known| known.1 = expiry),
                Kind::Flush | Kind::Padding => known.clear(),
            }
        }
        let mut world = World::new();
        for (number, said) in tables.iter().enumerate() {
            world.table([12, 10, 13, 11][number], number % 2 == 0, said);
        }
        let state = world.recover();
        for key in 0..13 {
            let found = state.get(key).map(|(slot, number, expiry)| {
                (world.tables[slot as usize].1[number].version, expiry)
            });
            prop_assert_eq!(found, known.get(&key).copied(), "key {}", key);
        }
    }
}

/// A crash while a table is emptied leaves two records with one version: the copy counts, and of the other table it is known.
#[test]
fn a_table_with_originals_of_copies_is_known() {
    let mut world = World::new();
    world.table(4, true, &[value(1, 10), value(2, 11)]);
    world.table(5, true, &[value(3, 12), tombstone(4, 13)]);
    world.table(6, false, &[value(1, 10), tombstone(4, 13)]);
    let state = world.recover();
    assert_eq!(state.get(1), Some((2, 0, 0)));
    assert_eq!(state.get(2), Some((0, 1, 0)));
    assert_eq!(state.catalog.first_doubled(), Some((0, 4)));
}

/// Damaged records in the table that was written to last: one in the middle, and one in the page of the last record. The table
/// is sealed with what lies behind them; only if there is no other to go to, it goes on, and the next scan passes over what is
/// damaged.
#[test]
fn a_table_goes_on_over_what_is_damaged_only_if_there_is_no_other() {
    const COUNT: u16 = 7000;
    for is_sealed in [false, true] {
        for table_count_max in [1, 2] {
            let mut world = World { table_count_max, ..World::new() };
            let said: Vec<Say> = (0..COUNT).map(|key| value(key, 10 + u64::from(key))).collect();
            world.table(5, is_sealed, &said);
            let path = table_path(Path::new(DIRECTORY), 0);
            let damaged = [70, COUNT - 2];
            assert_eq!(offset(COUNT.into()) as usize / PAGE_SIZE, offset(damaged[1].into()) as usize / PAGE_SIZE);
            for number in damaged {
                world.sim.tamper(&path, |bytes| bytes[offset(number.into()) as usize + 30] ^= 1);
            }
            for start in 0..2 {
                let state = world.recover();
                let why = format!("sealed: {is_sealed}, of {table_count_max} tables, start {start}");
                assert_eq!(state.recovered.writer.is_some(), table_count_max == 1, "{why}");
                // As long as there is a footer, it names the damaged records.
                let is_named = is_sealed && (start == 0 || table_count_max == 2);
                let missing: Vec<u16> = (0..COUNT).filter(|key| state.get(*key).is_none()).collect();
                assert_eq!(missing, if is_named { vec![] } else { damaged.to_vec() }, "{why}");
            }
        }
    }
}
