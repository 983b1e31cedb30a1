//! Checkpoints beside tables that are moved, recycled and written to while its pieces are written: each rule of FORMAT.md.

use super::*;

/// What of a table a piece knows when it is begun.
fn complete(slot: u32, sequence: u64) -> TableInPiece {
    let known = Known { is_complete: true, end: PAGE_SIZE as u32 * 2 };
    TableInPiece {
        slot,
        sequence,
        known,
        guarded_until: 0,
        older_until: 0,
        is_dropped: false,
        is_doubled: false,
        is_touched: false,
    }
}

/// With so many records.
fn open(slot: u32, sequence: u64, count: usize) -> TableInPiece {
    TableInPiece { known: Known { is_complete: false, end: offset(count) }, ..complete(slot, sequence) }
}

/// An entry that points at the record with this number.
fn entry(key: u16, slot: u32, number: usize, expiry: Seconds) -> (u16, Entry) {
    let class = SizeClass::of(record::record_size(2, 8));
    (key, Entry::new(Pointer { slot, offset: offset(number) }, class, expiry))
}

/// What a piece says beside its entries.
#[derive(Clone, Copy)]
struct Begun {
    piece: Piece,
    from_version: u64,
    /// The table that was written to.
    sequence: u64,
    flush_due: Option<Seconds>,
}

fn begun(from_version: u64) -> Begun {
    Begun { piece: Piece { number: 0, count: 1 }, from_version, sequence: 5, flush_due: None }
}

impl World {
    /// Writes a piece.
    fn piece(&self, begun: Begun, tables: &[TableInPiece], entries: &[(u16, Entry)]) {
        let Begun { piece, from_version, sequence, flush_due } = begun;
        let position = Position { sequence, offset: 0 };
        let header = PieceHeader {
            identity: IDENTITY,
            piece,
            generation: GENERATION,
            stamp: 77,
            from: position,
            from_version,
            until: position,
            version: from_version,
            next_sequence: 50,
            flush_due,
            table_count: 0,
            entry_count: 0,
            file_size: 0,
            written: 0,
        };
        let mut entries: Vec<_> = entries.iter().map(|(key, entry)| (digest(*key), *entry)).collect();
        entries.retain(|(digest, _)| piece.holds(Index::prefix(digest)));
        entries.sort_by_key(|(digest, _)| Index::order(digest));
        let sim = self.sim.clone();
        self.sim.run(async {
            let directory = Path::new(DIRECTORY);
            let mut writer = PieceWriter::create(&sim, directory, header, tables.to_vec(), 10).await.expect("made");
            entries.iter().for_each(|(digest, entry)| writer.push(digest, *entry));
            writer.write().await.expect("written");
            let tables = tables.to_vec();
            let end = PieceEnd { until: position, version: from_version, next_sequence: 50, written: 0, tables };
            writer.finish(end).await.expect("finished");
        });
    }

    /// A piece that knows of two tables, and that the first record of the second one has expired.
    pub(super) fn piece_of_expired(&self, slot: u32) {
        self.piece(begun(15), &[complete(0, 3), complete(slot, 4)], &[entry(1, slot, 0, 5)]);
    }

    fn recover_from_piece(&self) -> State {
        let state = self.recover();
        assert!(state.recovered.checkpoint.is_some(), "the checkpoint is used");
        state
    }
}

/// Rule 1, and that complete tables are not replayed.
#[test]
fn what_was_written_since_counts_by_its_version() {
    let mut world = World::new();
    let olds = [1, 2, 3, 4, 5].map(|key| value(key, 10 + u64::from(key)));
    world.table(4, true, &olds);
    world.table(
        5,
        false,
        &[value(6, 20), value(1, 31), tombstone(2, 33), touch(3, 34, 2_000_000_500), value(4, 35), tombstone(4, 36)],
    );
    // Another stream: a value that came before the one above, and a touch of it that came after both.
    world.table(6, false, &[value(1, 30), touch(1, 37, 2_000_000_600), value(4, 37), value(7, 38)]);
    let entries = [1, 2, 3, 4, 5].map(|key: u16| entry(key, 0, usize::from(key) - 1, 0));
    let entries = [&entries[..], &[entry(6, 1, 0, 0)]].concat();
    world.piece(begun(20), &[complete(0, 4), open(1, 5, 1)], &entries);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((1, 1, 2_000_000_600)));
    assert_eq!(state.get(2), None);
    assert_eq!(state.get(3), Some((0, 2, 2_000_000_500)));
    assert_eq!(state.get(4), Some((2, 2, 0)));
    assert_eq!(state.get(5), Some((0, 4, 0)));
    assert_eq!(state.get(6), Some((1, 0, 0)));
    assert_eq!(state.get(7), Some((2, 3, 0)));
    assert_eq!(state.recovered.record_count, 9, "the first table is not replayed, nor is what was known of the second");
}

/// Rule 2: what the piece knew is what it says, or older.
#[test]
fn what_was_written_before_a_piece_does_not_count_beside_it() {
    let mut world = World::new();
    world.table(4, true, &[value(1, 10), value(2, 11), tombstone(3, 19), touch(2, 18, 2_000_000_500)]);
    // Dead when the piece was begun, and what killed them is in a table that is not replayed.
    world.table(5, false, &[value(1, 9), value(3, 12), touch(2, 15, 2_000_000_400), value(4, 16), tombstone(1, 8)]);
    // Moved while it was written: one before its entry was copied, one after; and a third that was deleted in between.
    world.table(6, false, &[value(1, 10), expiring(value(2, 11), 2_000_000_500), value(5, 13), tombstone(5, 30)]);
    let entries = [entry(1, 0, 0, 0), entry(2, 2, 1, 2_000_000_500)];
    world.piece(begun(20), &[complete(0, 4), open(1, 5, 5)], &entries);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((2, 0, 0)));
    assert_eq!(state.get(2), Some((2, 1, 2_000_000_500)));
    assert_eq!([3, 4, 5].map(|key| state.get(key)), [None; 3]);
}

/// Rule 3: what a piece points at is gone, as its table was recycled.
#[test]
fn what_was_moved_since_is_found_where_it_lies_now() {
    let mut world = World::new();
    // The slot was used again: the entries mean the use before.
    world.table(7, true, &[value(1, 40), value(9, 41)]);
    // Open when the piece was begun: the first three records were there, and are dead copies of what the others replaced.
    world.table(
        5,
        false,
        &[value(2, 9), value(3, 8), value(4, 7), value(2, 12), expiring(value(3, 13), 2_000_000_500), value(5, 15)],
    );
    world.table(6, true, &[touch(3, 30, 2_000_000_600), value(5, 31), touch(4, 32, 2_000_000_600), tombstone(8, 33)]);
    // Not there when it was begun.
    world.table(8, true, &[value(6, 14), value(8, 14), touch(7, 16, 2_000_000_600)]);
    let entries = [1, 2, 3, 4, 5, 6, 7, 8].map(|key: u16| entry(key, 0, usize::from(key) - 1, 0));
    world.piece(begun(20), &[complete(0, 3), open(1, 5, 3), complete(3, 2)], &entries);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((0, 0, 0)), "superseded");
    assert_eq!(state.get(2), Some((1, 3, 0)), "moved");
    assert_eq!(state.get(3), Some((1, 4, 2_000_000_600)), "moved, and touched then");
    assert_eq!(state.get(4), None, "dropped; what lay there before was dead");
    assert_eq!(state.get(5), Some((2, 1, 0)), "moved, and superseded then");
    assert_eq!(state.get(6), Some((3, 0, 0)), "moved to a table that was begun later");
    assert_eq!(state.get(7), None, "dropped, with a touch that was carried on");
    assert_eq!(state.get(8), None, "moved and deleted");
}

/// A record that was moved, and whose original is there still: the copy counts, with the expiry of that moment or of a later
/// touch. Of the table of the original it is known.
#[test]
fn a_moved_copy_counts_beside_a_valid_entry() {
    let mut world = World::new();
    world.table(4, true, &[value(1, 10), value(2, 11), value(3, 12)]);
    world.table(
        5,
        false,
        &[expiring(value(1, 10), 2_000_000_500), expiring(value(2, 11), 2_000_000_400), touch(2, 30, 2_000_000_600)],
    );
    let entries = [(1, 2_000_000_500), (2, 2_000_000_400), (3, 0)];
    let entries = entries.map(|(key, expiry)| entry(key, 0, usize::from(key) - 1, expiry));
    world.piece(begun(20), &[complete(0, 4), open(1, 5, 0)], &entries);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((1, 0, 2_000_000_500)));
    assert_eq!(state.get(2), Some((1, 1, 2_000_000_600)));
    assert_eq!(state.get(3), Some((0, 2, 0)));
    assert_eq!(state.catalog.first_doubled(), Some((0, 4)));
}

/// What was moved since has the expiry of that moment. Touches that the piece knows do not count: an earlier one may have been
/// carried on, and the last one not be replayed.
#[test]
fn a_moved_copy_has_the_expiry_that_it_was_copied_with() {
    let mut world = World::new();
    world.table(7, true, &[value(9, 41)]);
    world.table(
        5,
        false,
        &[
            expiring(value(1, 10), 2_000_000_500),
            touch(2, 12, 2_000_000_400),
            expiring(value(2, 11), 2_000_000_600),
            value(3, 10),
            touch(3, 30, 2_000_000_700),
            value(4, 50),
        ],
    );
    let expiries = [(1, 2_000_000_300), (2, 2_000_000_600), (3, 2_000_000_600), (4, 2_000_000_600)];
    let entries = expiries.map(|(key, expiry)| entry(key, 0, usize::from(key) - 1, expiry));
    world.piece(begun(20), &[complete(0, 3), open(1, 5, 0)], &entries);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((1, 0, 2_000_000_500)), "touched and then moved");
    assert_eq!(state.get(2), Some((1, 2, 2_000_000_600)));
    assert_eq!(state.get(3), Some((1, 3, 2_000_000_700)), "touched later");
    assert_eq!(state.get(4), Some((1, 5, 0)), "written later");
}

/// An entry beyond the end of the records of its table points at nothing.
#[test]
fn an_entry_that_points_behind_the_end_is_not_valid() {
    let mut world = World::new();
    world.table(4, true, &[value(1, 10)]);
    world.table(5, false, &[value(2, 30)]);
    world.piece(
        begun(20),
        &[complete(0, 4), open(1, 5, 0)],
        &[entry(1, 0, 0, 0), entry(2, 0, 500, 0), entry(3, 0, 400, 0)],
    );
    let state = world.recover_from_piece();
    assert_eq!((state.get(1), state.get(2), state.get(3)), (Some((0, 0, 0)), Some((1, 0, 0)), None));
}

/// Rule 4.
#[test]
fn a_flush_voids_a_piece_that_does_not_know_it() {
    for (version, is_known) in [(20, true), (21, false)] {
        let mut world = World::new();
        world.table(4, true, &[value(1, 10)]);
        world.table(5, false, &[flush(version, 0), value(2, 19), value(3, 30)]);
        world.piece(begun(20), &[complete(0, 4), open(1, 5, 1)], &[entry(1, 0, 0, 0), entry(4, 1, 1, 0)]);
        let state = world.recover_from_piece();
        assert_eq!(state.get(1), is_known.then_some((0, 0, 0)));
        assert_eq!(state.get(2), None);
        assert_eq!(state.get(3), Some((1, 2, 0)));
        assert_eq!(state.get(4).is_some(), is_known);
    }
}

#[test]
fn a_pending_flush_is_known_unless_a_later_one_is_found_or_its_table_is_gone() {
    let due = Sim::new(9, 1 << 30).now() + 1000;
    let found = |sequence, said: &[Say]| {
        let mut world = World::new();
        world.table(4, true, &[value(1, 10)]);
        world.table(5, false, said);
        world.piece(Begun { flush_due: Some(due), sequence, ..begun(20) }, &[complete(0, 4), open(1, 5, 0)], &[]);
        world.recover_from_piece().recovered.flush_due
    };
    assert_eq!(found(5, &[]), Some(due));
    assert_eq!(found(5, &[flush(19, 0)]), Some(due), "the piece knew it");
    assert_eq!(found(5, &[flush(21, 0)]), None);
    assert_eq!(found(5, &[flush(21, due + 7)]), Some(due + 7));
    assert_eq!(found(3, &[]), None, "what ended it may be gone with its table");
    assert_eq!(found(3, &[flush(21, due)]), Some(due), "it was repeated since");
}

/// Each key has the *from version* of its own piece, and a table is replayed unless all pieces have it as complete.
#[test]
fn pieces_of_a_set_are_begun_at_different_times() {
    let mut world = World::new();
    let keys: Vec<u16> = (1..60).collect();
    let half = |key: &u16| Index::prefix(&digest(*key)) >> 63 == 1;
    let olds: Vec<Say> = keys.iter().map(|key| value(*key, 10)).collect();
    let news: Vec<Say> = keys.iter().map(|key| value(*key, 30)).collect();
    world.table(4, true, &olds);
    // Open when the first piece was begun, complete when the second one was.
    world.table(5, true, &news);
    let entries = |slot| keys.iter().map(|key| entry(*key, slot, usize::from(*key) - 1, 0)).collect::<Vec<_>>();
    let (piece, next) = (Piece { number: 0, count: 2 }, Piece { number: 1, count: 2 });
    world.piece(Begun { piece, ..begun(20) }, &[complete(0, 4), open(1, 5, 0)], &entries(0));
    // What it has differs from what the tables say, to be told apart.
    let touched: Vec<_> =
        entries(1).into_iter().map(|(key, entry)| (key, Entry { expiry: 2_000_000_500, ..entry })).collect();
    world.piece(Begun { piece: next, ..begun(40) }, &[complete(0, 4), complete(1, 5)], &touched);
    let state = world.recover_from_piece();
    for key in keys {
        let expiry = if half(&key) { 2_000_000_500 } else { 0 };
        assert_eq!(state.get(key), Some((1, usize::from(key) - 1, expiry)), "key {key}");
    }
    assert_eq!(state.recovered.checkpoint, Some((2, 0)), "the one that was begun first is the next");
}

/// A start goes on with the last table, although a piece has it as complete.
#[test]
fn a_complete_table_that_a_start_went_on_with_is_replayed() {
    let mut world = World::new();
    let many: Vec<Say> = (0..200).map(|number| value(1 + number as u16 % 9, 30 + number)).collect();
    world.table(4, true, &[&[value(1, 10)][..], &many].concat());
    world.piece(Begun { sequence: 4, ..begun(20) }, &[complete(0, 4)], &[entry(1, 0, 0, 0)]);
    let state = world.recover_from_piece();
    assert_eq!(state.get(1), Some((0, 199, 0)));
    assert_eq!(state.recovered.record_count, 200);
}

#[test]
fn a_piece_of_an_older_format_is_removed() {
    let mut world = World::new();
    world.table(4, true, &[value(1, 10)]);
    world.piece(begun(20), &[complete(0, 4)], &[entry(2, 0, 0, 0)]);
    let path = begun(0).piece.path(Path::new(DIRECTORY));
    world.sim.tamper(&path, |bytes| {
        bytes[12] = 3;
        bytes[8..12].fill(0);
        let checksum = crc32c::crc32c(&bytes[..PAGE_SIZE]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    });
    let state = world.recover();
    assert_eq!((state.get(1), state.get(2)), (Some((0, 0, 0)), None));
    assert!(!world.sim.paths().contains(&path));
}
