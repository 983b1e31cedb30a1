//! Checkpoints of the index while the store is used, and when it is closed. See [`crate::recovery::checkpoint`].
//!
//! While the store is used, one piece after the other is written, round and round, each time that some multiple of its
//! size was written to tables: so what a crash makes the next start replay is bounded, and so is what that costs. A piece
//! copies the index in steps that take microseconds; what changes in between is replayed. It gets its name when the log up to its
//! last entry is on stable media.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use super::mover::Mover;
use super::state::State;
use super::{Shared, worth_logging};
use crate::disktable::catalog::{Table, TableState};
use crate::index::Cursor;
use crate::io::Io;
use crate::limits::{CHECKPOINT_LOG_RATIO, CHECKPOINT_TABLE_PARTS};
use crate::memtable::TableUse;
use crate::recovery::checkpoint::format::{Header, Known, TableInPiece};
use crate::recovery::checkpoint::{Piece, PieceEnd, PieceWriter, Position, remove_others};

/// Least time between two looks at whether a piece is due.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How far a store's checkpoints are.
#[derive(Debug, Default)]
pub(super) struct CheckpointState {
    /// Pieces of the set that is written, 0 before the first, and the number of the next one.
    count: u32,
    next: u32,
    /// Pieces of it that are on disk, by number.
    done: u64,
    /// Bytes that had been written when the last piece was begun, and the size of that.
    written_before: u64,
    last_size: u64,
    /// The version of the last write when the last piece was begun.
    from_version: u64,
    /// A piece is being written.
    pub(super) busy: bool,
    /// One is about to be begun, for which no copy of a record may be on its way.
    pub(super) is_beginning: bool,
    /// None is written: the start could not read all tables. A piece would say of these that what was not read is not there, and
    /// a later start would believe that. What earlier pieces say stays right.
    is_off: bool,
    failures: u64,
}

impl CheckpointState {
    /// After a start that has used a whole set of `count` pieces, of which `next` is the one to be written next. `is_partial`: it
    /// could not read all tables.
    pub(super) fn after(used: Option<(u32, u32)>, is_partial: bool) -> Self {
        let (count, next) = used.unwrap_or_default();
        Self { count, next, done: all_of(count), is_off: is_partial, ..Self::default() }
    }
}

/// The bits of so many pieces.
fn all_of(count: u32) -> u64 {
    if count == 0 { 0 } else { u64::MAX >> (u64::BITS - count) }
}

impl<I: Io> Shared<I> {
    /// The task that writes pieces while the store is used.
    pub(super) async fn write_checkpoints(&self) {
        let interval = self.options.flush_interval.max(LOOK_INTERVAL_MIN);
        loop {
            self.io.sleep(interval).await;
            let piece = {
                let mut state = self.state.borrow_mut();
                if state.closing {
                    return;
                }
                let Some(piece) = state.piece_due() else { continue };
                state.checkpoint.busy = true;
                piece
            };
            self.no_copy_on_its_way().await;
            let result = self.write_piece(piece).await;
            self.state.borrow_mut().checkpoint.busy = false;
            self.note_piece(piece, result);
            self.progress.notify();
        }
    }

    /// Returns when no copy of a record is on its way, until the caller waits. So whatever is copied after the piece is begun was
    /// alive then, and what ends it later has a higher version than the piece knows of.
    pub(super) async fn no_copy_on_its_way(&self) {
        self.state.borrow_mut().checkpoint.is_beginning = true;
        let is_done = |state: &State<I::File>| state.movers.iter().all(Mover::is_idle) || state.closing;
        self.progress.until(|| is_done(&self.state.borrow())).await;
        self.state.borrow_mut().checkpoint.is_beginning = false;
        self.progress.notify();
    }

    /// Returns when no piece is being written any more.
    pub(super) async fn checkpoint_idle(&self) {
        self.progress.until(|| !self.state.borrow().checkpoint.busy).await;
    }

    /// Writes all pieces: nothing changes any more, and everything is on disk. What fails makes the next start take longer.
    pub(super) async fn write_last_checkpoint(&self) {
        let count = {
            let mut state = self.state.borrow_mut();
            state.closed_at = Some(state.ends_at);
            if state.checkpoint.is_off { 0 } else { Piece::count_for(state.index.len()) }
        };
        for number in 0..count {
            let piece = Piece { number, count };
            self.state.borrow_mut().checkpoint.begin(piece, 0);
            let result = self.write_piece(piece).await;
            let is_written = result.is_ok();
            self.note_piece(piece, result);
            if !is_written {
                return;
            }
        }
    }

    fn note_piece(&self, piece: Piece, result: Result<u64>) {
        let mut state = self.state.borrow_mut();
        match result {
            Ok(size) => {
                state.counters.checkpoint_pieces += 1;
                state.counters.checkpoint_bytes += size;
                state.checkpoint.last_size = size;
                if state.checkpoint.ended(piece) {
                    drop(state);
                    remove_others(&self.io, &self.shard_directory, piece.count);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                state.checkpoint.failures += 1;
                if worth_logging(state.checkpoint.failures) {
                    let path = piece.path(&self.shard_directory);
                    tracing::warn!(
                        "writing {} failed: {error}. Nothing is lost; the next start may take longer",
                        path.display()
                    );
                }
            }
        }
    }

    /// Writes a piece and returns its size in bytes. [`ErrorKind::Interrupted`]: the store is being closed, or something
    /// that the piece may know of could not be written.
    async fn write_piece(&self, piece: Piece) -> Result<u64> {
        let (header, tables, len_expected, errors) = {
            let mut state = self.state.borrow_mut();
            state.checkpoint.from_version = state.version;
            let len_expected = state.index.len() / piece.count as usize;
            (self.header(&state, piece)?, state.tables_in_piece(), len_expected, state.counters.disk_write_errors)
        };
        let mut writer = PieceWriter::create(&self.io, &self.shard_directory, header, tables, len_expected).await?;
        if let Err(error) = self.copy_entries(piece, &mut writer).await {
            writer.abandon();
            return Err(error);
        }
        let (until, was_closing) = {
            let state = self.state.borrow();
            (state.checkpoint_position(true), state.is_closed())
        };
        if !was_closing {
            // What the piece knows of may be in memory only.
            let number = self.flush_active(true);
            self.synced(number).await;
            if !self.sync_open_tables().await {
                writer.abandon();
                return Err(ErrorKind::Interrupted.into());
            }
        }
        let end = {
            let state = self.state.borrow();
            if state.counters.disk_write_errors != errors || (state.closing && !was_closing) {
                drop(state);
                writer.abandon();
                return Err(ErrorKind::Interrupted.into());
            }
            PieceEnd {
                until,
                version: state.version,
                next_sequence: state.catalog.next_sequence(),
                written: self.io.now().into(),
                tables: state.tables_in_piece(),
            }
        };
        writer.finish(end).await
    }

    /// Makes stable what was written to all tables that are not complete: an entry may point at a record that was moved, and its
    /// original may be gone when it is looked for. Says whether all of them could.
    async fn sync_open_tables(&self) -> bool {
        let is_open = |table: &Table<I::File>| matches!(table.state, TableState::Writing | TableState::Sealing);
        let open: Vec<TableUse> = {
            let state = self.state.borrow();
            let slots = state.catalog.iter().filter(|(_, table)| is_open(table)).map(|(slot, _)| slot);
            slots.filter_map(|slot| state.catalog.usage(slot)).map(|(_, table)| table).collect()
        };
        for table in open {
            if !self.make_stable(table).await {
                return false;
            }
        }
        // What was said to be stable may not be.
        !self.state.borrow().has_doubtful()
    }

    fn header(&self, state: &State<I::File>, piece: Piece) -> Result<Header> {
        let stamp = self.io.random()?;
        Ok(Header {
            identity: crate::disktable::format::Identity { slot: 0, ..self.identity },
            piece,
            generation: self.generation,
            stamp: u64::from_le_bytes(*stamp.first_chunk().ok_or_else(|| Error::from(ErrorKind::InvalidData))?),
            from: state.checkpoint_position(false),
            from_version: state.version,
            until: Position::default(),
            version: 0,
            next_sequence: 0,
            flush_due: state.flush_due,
            table_count: 0,
            entry_count: 0,
            file_size: 0,
            written: 0,
        })
    }

    /// Copies the entries of a piece, some hundreds at a time.
    async fn copy_entries(&self, piece: Piece, writer: &mut PieceWriter<I>) -> Result<()> {
        let mut cursor = Some(Cursor::at(piece.low()));
        while let Some(from) = cursor.filter(|cursor| piece.holds(cursor.prefix())) {
            {
                let state = self.state.borrow();
                if state.closing && !state.is_closed() {
                    return Err(ErrorKind::Interrupted.into());
                }
                cursor = state.index.walk(from, |digest, entry| {
                    if piece.holds(crate::index::Index::prefix(&digest)) {
                        writer.push(&digest, entry);
                    }
                });
            }
            writer.write().await?;
        }
        Ok(())
    }
}

impl CheckpointState {
    /// Whether a record with this version may be in a piece as it was: a start takes what was written since by its version, so
    /// whatever changes needs a higher one.
    pub(super) fn may_know(&self, version: u64) -> bool {
        version <= self.from_version
    }

    fn begin(&mut self, piece: Piece, written: u64) {
        if piece.count != self.count {
            (self.count, self.done) = (piece.count, 0);
        }
        self.written_before = written;
    }

    /// A piece is on disk. Says whether its set is whole now.
    fn ended(&mut self, piece: Piece) -> bool {
        self.next = (piece.number + 1) % piece.count;
        self.done |= 1 << piece.number;
        self.done == all_of(self.count)
    }
}

impl<F> State<F> {
    /// The piece that is to be written now, if one is.
    fn piece_due(&mut self) -> Option<Piece> {
        let written = self.counters.disk_write_bytes;
        let least = self.table_size as u64 / CHECKPOINT_TABLE_PARTS;
        let due = (self.checkpoint.last_size * CHECKPOINT_LOG_RATIO).max(least);
        if self.checkpoint.is_off || written - self.checkpoint.written_before < due {
            return None;
        }
        let count = Piece::count_for(self.index.len());
        // A set that is not whole is of no use, so one that is begun is completed unless it is far from what it should be.
        let is_apt = self.checkpoint.count > 0 && self.checkpoint.count <= count && count <= 2 * self.checkpoint.count;
        let piece = if is_apt {
            Piece { number: self.checkpoint.next, count: self.checkpoint.count }
        } else {
            Piece { number: 0, count }
        };
        self.checkpoint.begin(piece, written);
        Some(piece)
    }

    /// Whether everything is on disk and nothing changes any more.
    fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// Where the log is: at its end, or at the beginning of the table that is being written.
    fn checkpoint_position(&self, is_end: bool) -> Position {
        if let Some(position) = self.closed_at {
            return position;
        }
        let end = self.memtable.active_end().unwrap_or(self.writer.next_start);
        Position { sequence: self.writer.table.sequence, offset: if is_end { end } else { 0 } }
    }

    /// The tables that entries may point into, by slot.
    pub(super) fn tables_in_piece(&self) -> Vec<TableInPiece> {
        let holds = self.catalog.iter().filter(|(_, table)| table.state != TableState::Free && table.file.is_some());
        holds
            .map(|(slot, table)| TableInPiece {
                slot,
                sequence: table.sequence,
                known: self.known(slot, table),
                guarded_until: table.guarded_until,
                older_until: table.older_until,
                is_dropped: table.dropped || table.lacks_successors(),
                is_doubled: table.doubled || table.state == TableState::Freeing,
                is_touched: table.touched,
            })
            .collect()
    }

    /// What of a table there is now. Copies that the index follows from now on lie behind that; for new records, which have
    /// higher versions, it does not matter.
    fn known(&self, slot: u32, table: &Table<F>) -> Known {
        let is_written = table.state == TableState::Writing && !self.is_closed();
        let end = if is_written && slot == self.writer.table.slot {
            self.checkpoint_position(true).offset
        } else if is_written && slot == self.parked.writer.table.slot {
            self.memtable.parked_end().unwrap_or(self.parked.writer.next_start)
        } else {
            let followed = self.movers.iter().find_map(|mover| mover.followed_end(slot));
            // One whose header is being written has no writer yet, and no records.
            // And one that is being sealed ends where it will: a start may go on with it, and put copies behind that.
            followed.or(table.records_end).or(table.ends_at).unwrap_or(if is_written { 0 } else { u32::MAX })
        };
        let is_complete = !matches!(table.state, TableState::Writing | TableState::Sealing);
        Known { is_complete: is_complete && table.records_end.is_some(), end }
    }
}
