//! Copies of records that reclaim moves, on their way into a table of their own.
//!
//! New writes and copies never share a table: what was moved has outlived the rest of its table and will live on, so that
//! tables are either left alone or die quickly. There are two tables of copies, for records that will probably live for long,
//! and for others ([`Separation::of_move`](crate::reclaim::victim::Separation::of_move)). The copies gather in a write block
//! that nobody reads. When it is on disk, the index is pointed at each of them whose original it still points at, at exactly
//! that place in that table: what was replaced or deleted in the meantime stays so. Until then gets read the original, so a
//! copy that is lost costs nothing.
//!
//! **Invariants:** a copy has the version of its original. The table of copies has one writer, the reclaimer, which is one task.

use std::rc::Rc;

use super::Shared;
use super::flusher::Holds;
use super::state::{Blocked, NO_DIGEST, State};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::catalog::TableState;
use crate::disktable::format::{Distance, Summary};
use crate::disktable::writer::{self, TableWriter};
use crate::index::Pointer;
use crate::io::{File, Io};
use crate::limits::{MOVED_TABLE_AGE_MAX, PAGE_SIZE};
use crate::memtable::{Memtable, TableUse};
use crate::mutants::{Mutant, has};
use crate::reclaim::victim::{Moment, Stream};
use crate::record::{Header, Kind, SizeClass, record_size};
use crate::recovery::tables::table_path;

/// Why a table is not emptied now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The device has failed, or what it brought is damaged.
    Failed,
    /// There is no table that copies can go to.
    NoTable,
    /// The store is being closed.
    Closing,
}

/// What has become of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    /// It is on its way.
    Done,
    /// Its original was not what the index has any more.
    Overtaken,
}

/// A record to be copied.
pub(super) struct Copied<'a> {
    pub(super) digest: Digest,
    /// Its version is that of the original, and its expiry the one that it was written with.
    pub(super) header: Header,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Of a live value: where the original lies. The index follows when the copy is on disk.
    pub(super) from: Option<Pointer>,
    /// The sequence of the last table that may hold older words about the key; 0: there are none.
    pub(super) older_until: u64,
}

impl Copied<'_> {
    fn size(&self) -> usize {
        self.header.record_size(self.key.len(), self.value.len())
    }

    /// Where older words about the key may be, as seen from the table with the sequence `sequence`.
    fn distance_from(&self, sequence: u64) -> Distance {
        if self.older_until == 0 { Distance::NONE } else { Distance::to(sequence, self.older_until) }
    }
}

/// A copy on its way, and its original.
#[derive(Debug)]
struct Move {
    digest: Digest,
    from: Pointer,
    to: Pointer,
}

/// Tables that copies go to at the same time.
pub(super) const MOVER_COUNT: usize = 2;
/// The one of records that will live for long.
const LONG: usize = 1;

/// Where copies go.
#[derive(Debug)]
pub(super) struct Mover {
    blocks: Memtable,
    pub(super) writer: Option<TableWriter>,
    moves: Vec<Move>,
    /// Something was written to the table since the last sync.
    unsynced: bool,
    /// Somebody wants the table to be complete, whatever is in it.
    pub(super) is_to_seal: bool,
}

/// What a copy waits for.
enum Need {
    /// The block to be written.
    Write,
    /// Another table.
    Table,
    /// The piece to be begun.
    Piece,
}

impl Mover {
    /// Goes on with a table, if there is one.
    pub(super) fn new(blocks: Memtable, writer: Option<TableWriter>) -> Self {
        Self { blocks, writer, moves: Vec::new(), unsynced: false, is_to_seal: false }
    }

    pub(super) fn memory_size(&self) -> usize {
        let summaries = self.writer.as_ref().map_or(0, |writer| writer.summaries.memory_size());
        self.blocks.memory_size() + summaries + self.moves.capacity() * size_of::<Move>()
    }

    /// Bytes of the table that copies go to that are not in use.
    pub(super) fn room(&self, table_size: usize) -> u64 {
        let used_size = |writer: &TableWriter| {
            let start = self.blocks.active_end().unwrap_or(writer.next_start);
            writer.used_size() + u64::from(start - writer.next_start)
        };
        self.writer.as_ref().map_or(0, |writer| (table_size as u64).saturating_sub(used_size(writer)))
    }

    /// Up to where the index has followed the copies in the table that they go to, an offset in it: those behind it may still
    /// be read where the originals lie.
    pub(super) fn followed_end(&self, slot: u32) -> Option<u32> {
        let writer = self.writer.as_ref().filter(|writer| writer.table.slot == slot)?;
        Some(self.blocks.frozen_start().unwrap_or(writer.next_start))
    }

    /// Whether no copy is on its way: the index has followed all, or never will.
    pub(super) fn is_idle(&self) -> bool {
        self.blocks.dirty_size() == 0
    }

    /// Sees to it that there is room for a copy of `size` bytes in a block; the next table to be begun has the sequence
    /// `next_sequence`.
    fn make_room(&mut self, size: usize, next_sequence: u64) -> Result<(), Need> {
        let Some(writer) = &mut self.writer else { return Err(Need::Table) };
        // What its guards keep dead is told by distances, which are bounded.
        let is_old = next_sequence - writer.table.sequence >= MOVED_TABLE_AGE_MAX;
        let in_block = self.blocks.next_offset(size);
        let start = in_block.unwrap_or_else(|| self.blocks.active_end().unwrap_or(writer.next_start));
        let fits = writer.fits(start, size, 0);
        if self.is_to_seal || is_old || !fits {
            if !fits {
                writer.note_full();
            }
            return Err(if self.blocks.has_active_records() { Need::Write } else { Need::Table });
        }
        if in_block.is_none() {
            if self.blocks.has_active_records() {
                return Err(Need::Write);
            }
            self.blocks.drop_empty_active();
            let is_begun = self.blocks.start_block(writer.table, writer.next_start, size);
            assert!(is_begun, "the block comes back when it is written");
        }
        Ok(())
    }

    /// The table that copies go to.
    pub(super) fn table(&self) -> Option<TableUse> {
        self.writer.as_ref().map(|writer| writer.table)
    }
}

impl<F> State<F> {
    /// Which of the movers takes a copy.
    fn mover_of(&self, copied: &Copied<'_>, now: Seconds) -> usize {
        let Header { version, expiry, .. } = copied.header;
        let ttl = (expiry > 0).then(|| expiry.saturating_sub(now));
        let moment = Moment { version: self.version, second: now };
        let is_long = copied.from.is_none() || self.separation.of_move(version, ttl, moment) == Stream::MovedLong;
        if is_long && self.separation.is_fine() { LONG } else { 0 }
    }

    fn try_copy(&mut self, number: usize, copied: &Copied<'_>) -> Result<Copying, Need> {
        let Some(mut header) = self.header_now(copied) else {
            // It was replaced or deleted, or has expired, while it was read. A start may take a copy that is newer than a
            // checkpoint for what the checkpoint points at, so it must not be made.
            self.counters.reclaim_overtaken += 1;
            return Ok(Copying::Overtaken);
        };
        if self.checkpoint.is_beginning {
            return Err(Need::Piece);
        }
        let size = copied.size();
        let mover = &mut self.movers[number];
        mover.make_room(size, self.catalog.next_sequence())?;
        let Some(writer) = &mut mover.writer else { return Err(Need::Table) };
        if has(Mutant::CopyIsNews) {
            self.version += 1;
            header.version = self.version;
        }
        let own = writer.table.sequence;
        let distance = copied.distance_from(own);
        if header.kind != Kind::Value {
            // From here, which may lie before the table that it comes from; a scan finds only this.
            header.client_flags = distance.to_flags();
        }
        let offset = mover.blocks.append(size, header, copied.key, copied.value);
        let Header { kind, version, expiry, .. } = header;
        let class = SizeClass::of(size);
        writer.note(&Summary { digest: copied.digest, version, expiry, offset, kind, class, distance });
        let slot = writer.table.slot;
        self.catalog.add_written(slot, class.size() as u64);
        match copied.from {
            Some(from) => {
                mover.moves.push(Move { digest: copied.digest, from, to: Pointer { slot, offset } });
                self.catalog.add_older(slot, distance.until(own));
                self.catalog.add_expiry(slot, expiry);
                // A copy that the index does not follow is an older word about its key, too.
                self.catalog.reach_to(from.slot, own);
                if self.catalog.get(from.slot).is_some_and(|table| table.touched) {
                    self.catalog.note_touched(slot);
                }
            }
            None => {
                self.catalog.add_guard(slot, distance.until(own), class.size() as u64);
                self.counters.reclaim_guards += 1;
            }
        }
        self.counters.reclaim_records += 1;
        self.counters.reclaim_bytes += size as u64;
        Ok(Copying::Done)
    }

    /// What a copy says; `None`: it must not be made any more.
    fn header_now(&self, copied: &Copied<'_>) -> Option<Header> {
        let Some(from) = copied.from else { return Some(copied.header) };
        let entry = self.index.get(&copied.digest).filter(|entry| entry.pointer == from)?;
        if has(Mutant::TouchNotMoved) {
            return Some(copied.header);
        }
        // The expiry is that of the last touch, also of one that came while it was read: the touch does not outlive what it
        // was said of.
        Some(Header { expiry: entry.expiry, ..copied.header })
    }

    /// As [`Self::try_copy`] of a word that is not a live value, but among the new records. It is no news: it keeps its version.
    fn append_carried(&mut self, copied: &Copied<'_>) -> Result<(), Blocked> {
        let size = copied.size();
        self.in_lane(Stream::NewShort, |state| {
            state.make_room(size, 0)?;
            let TableUse { slot, sequence } = state.writer.table;
            let distance = copied.distance_from(sequence);
            let header = Header { client_flags: distance.to_flags(), ..copied.header };
            let offset = state.memtable.append(size, header, copied.key, copied.value);
            let (class, Header { kind, version, expiry, .. }) = (SizeClass::of(size), header);
            state.writer.note(&Summary { digest: copied.digest, version, expiry, offset, kind, class, distance });
            state.catalog.add_written(slot, class.size() as u64);
            state.catalog.add_guard(slot, distance.until(sequence), class.size() as u64);
            state.counters.reclaim_records += 1;
            state.counters.reclaim_guards += 1;
            state.counters.reclaim_bytes += size as u64;
            Ok(())
        })
    }

    /// The copies of a block are on disk: the index follows, where it still points at the originals.
    fn follow(&mut self, moves: &[Move]) {
        for Move { digest, from, to } in moves {
            let known = self.index.get(digest).filter(|_| has(Mutant::RepointUncompared));
            let from = known.map_or(*from, |known| known.pointer);
            if let Some(entry) = self.index.repoint(digest, from, *to) {
                self.catalog.remove_live(from.slot, entry.class);
                self.catalog.add_live(to.slot, entry.class);
                // What was said of the original while the copy was on its way.
                self.catalog.add_expiry(to.slot, entry.expiry);
                if self.catalog.get(from.slot).is_some_and(|table| table.touched) {
                    self.catalog.note_touched(to.slot);
                }
            } else {
                self.counters.reclaim_overtaken += 1;
                if self.index.get(digest).is_none() {
                    // It may have expired: then the copy is the last word about its key.
                    self.catalog.note_dropped(to.slot);
                }
            }
        }
    }
}

impl<I: Io> Shared<I> {
    /// Copies a record into the table of copies, as soon as there is room.
    pub(super) async fn copy(&self, copied: &Copied<'_>) -> Result<Copying, Stop> {
        let preferred = self.state.borrow().mover_of(copied, self.io.now());
        // Better beside others than nowhere.
        let result = match self.copy_to(preferred, copied).await {
            Err(Stop::NoTable) => self.copy_to(MOVER_COUNT - 1 - preferred, copied).await,
            result => result,
        };
        match result {
            Err(Stop::NoTable) if copied.from.is_none() => self.carry(copied).await.map(|()| Copying::Done),
            result => result,
        }
    }

    /// Notes a delayed flush among the copies, if the table of new records has nothing of it yet: it is in the tables before that
    /// only, and may be in none but the one that is emptied. Says whether it did.
    pub(super) async fn note_pending_flush(&self) -> Result<bool, Stop> {
        let (due, version, last) = {
            let mut state = self.state.borrow_mut();
            let Some(due) = state.flush_due.filter(|_| state.repeat_flush) else { return Ok(false) };
            if !state.moves() {
                if state.reclaimer.is_started {
                    // Having room for a record repeats the flush in front of it.
                    let _ = state.in_lane(Stream::NewShort, |state| state.make_room(record_size(0, 0), 0));
                }
                return Ok(false);
            }
            state.version += 1;
            (due, state.version, state.catalog.next_sequence() - 1)
        };
        let header = Header { kind: Kind::Flush, version, expiry: due, client_flags: 0, bits: 0, own_cas: None };
        let copied = Copied { digest: NO_DIGEST, header, key: b"", value: b"", from: None, older_until: last };
        self.copy(&copied).await.map(|_| true)
    }

    /// Puts a word that keeps older ones dead among the new records.
    async fn carry(&self, copied: &Copied<'_>) -> Result<(), Stop> {
        if !self.state.borrow().reclaimer.is_started {
            // Nobody would write it.
            return Err(Stop::NoTable);
        }
        let is_done = self.state.borrow_mut().append_carried(copied).is_ok();
        if is_done {
            return Ok(());
        }
        // There may be no memory for a block until others are written.
        let number = self.flush_active(true);
        self.synced(number).await;
        self.state.borrow_mut().append_carried(copied).map_err(|_| Stop::NoTable)
    }

    async fn copy_to(&self, number: usize, copied: &Copied<'_>) -> Result<Copying, Stop> {
        loop {
            // Not while the state is borrowed.
            let result = self.state.borrow_mut().try_copy(number, copied);
            match result {
                Ok(copying) => return Ok(copying),
                Err(Need::Write) => self.write_block(number).await?,
                Err(Need::Table) => self.next_table_of_copies(number).await?,
                Err(Need::Piece) => self.let_piece_begin().await?,
            }
        }
    }

    /// Sees to it that no copy is on its way, and waits until the piece that wants it so is begun.
    async fn let_piece_begin(&self) -> Result<(), Stop> {
        self.write_copies().await?;
        let progressed = self.progress.wait();
        if self.state.borrow().checkpoint.is_beginning {
            progressed.await;
        }
        Ok(())
    }

    /// Writes the copies that have gathered, and has the index follow.
    pub(super) async fn write_copies(&self) -> Result<(), Stop> {
        for number in 0..MOVER_COUNT {
            self.write_block(number).await?;
        }
        Ok(())
    }

    async fn write_block(&self, number: usize) -> Result<(), Stop> {
        let (block, moves) = {
            let mut state = self.state.borrow_mut();
            let mover = &mut state.movers[number];
            let Some(block) = mover.blocks.freeze() else { return Ok(()) };
            let writer = mover.writer.as_mut().expect("a block belongs to a table");
            writer.next_start = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
            mover.unsynced = true;
            (block, std::mem::take(&mut mover.moves))
        };
        let file = self.file(block.table);
        let result = file.write_at(block.start.into(), block.size, Rc::clone(&block.buffer)).await;
        let is_written = result.is_ok();
        let mut state = self.note_write(block.table.slot, "block of moved records", block.size, result);
        let end = block.start + u32::try_from(block.size).expect("tables are below 4 GiB");
        let (table, start) = (block.table, block.start);
        drop(block);
        state.movers[number].blocks.retire_oldest(false);
        self.progress.notify();
        if is_written {
            state.follow(&moves);
            // The buffer of a list that was long once is not needed for ever, but for the next block.
            state.movers[number].moves = moves;
            state.movers[number].moves.clear();
            return Ok(());
        }
        // Its footer leaves them out, and nothing more goes to it.
        state.failed.push((table, start..end));
        state.movers[number].is_to_seal = true;
        Err(Stop::Failed)
    }

    /// Makes everything that was copied stable.
    pub(super) async fn sync_copies(&self) -> Result<(), Stop> {
        for number in 0..MOVER_COUNT {
            self.sync_table_of_copies(number).await?;
        }
        Ok(())
    }

    async fn sync_table_of_copies(&self, number: usize) -> Result<(), Stop> {
        let table = {
            let mut state = self.state.borrow_mut();
            let mover = &mut state.movers[number];
            let Some(table) = mover.table().filter(|_| mover.unsynced) else { return Ok(()) };
            // Before the sync: what is written while it runs is not covered by it.
            mover.unsynced = false;
            table
        };
        if has(Mutant::CopiesUnsynced) || self.make_stable(table).await { Ok(()) } else { Err(Stop::Failed) }
    }

    /// Completes the tables of copies, or those that are to be. Nobody is copying.
    pub(super) async fn seal_copies(&self, all: bool) -> Result<(), Stop> {
        let mut result = Ok(());
        for number in 0..MOVER_COUNT {
            if all || self.state.borrow().movers[number].is_to_seal {
                result = result.and(self.seal_table_of_copies(number).await);
            }
        }
        result
    }

    async fn seal_table_of_copies(&self, number: usize) -> Result<(), Stop> {
        let written = self.write_block(number).await;
        let writer = {
            let mut state = self.state.borrow_mut();
            let mover = &mut state.movers[number];
            mover.blocks.drop_empty_active();
            mover.moves.clear();
            (mover.is_to_seal, mover.unsynced) = (false, false);
            let Some(writer) = mover.writer.take() else { return written };
            let (now, version) = (state.now, state.version);
            state.catalog.end(writer.table.slot, (writer.next_start, writer.used_size()), now, version);
            writer
        };
        self.seal(writer, Holds::Copies).await;
        self.progress.notify();
        written
    }

    async fn next_table_of_copies(&self, number: usize) -> Result<(), Stop> {
        self.seal_table_of_copies(number).await?;
        let free = self.state.borrow().free_for_copies();
        let slot = match free {
            Some(slot) => slot,
            None => self.create_table().await.ok_or(Stop::NoTable)?,
        };
        let now = self.io.now();
        let stream = if number == LONG { Stream::MovedLong } else { Stream::MovedShort };
        let table = self.state.borrow_mut().begin_table(slot, stream);
        let written = {
            let (file, identity) = (self.file(table), self.identity(slot));
            writer::write_header(&*file, identity, table.sequence, now).await
        };
        let is_written = written.is_ok();
        {
            let mut state = self.note_write(slot, "header", PAGE_SIZE, written);
            let writer = TableWriter::new(table, state.table_size, state.summary_count_max);
            state.movers[number].writer = Some(writer);
            if is_written {
                return Ok(());
            }
            // See `Shared::begin`: it gets a footer that names nothing.
            state.failed.push((table, 0..u32::MAX));
        }
        let _ = self.seal_table_of_copies(number).await;
        Err(Stop::Failed)
    }

    /// Makes another table, if there may be one and the disk has room.
    pub(super) async fn create_table(&self) -> Option<u32> {
        // The flusher and the reclaimer must not make the same one.
        let vacant = loop {
            let progressed = self.progress.wait();
            {
                let mut state = self.state.borrow_mut();
                if !state.is_creating {
                    let vacant = state.catalog.vacant_slot()?;
                    state.is_creating = true;
                    break vacant;
                }
            }
            progressed.await;
        };
        let path = table_path(&self.shard_directory, vacant);
        let created = self.io.create(&path, self.identity.table_size).await;
        let mut state = self.state.borrow_mut();
        state.is_creating = false;
        self.progress.notify();
        match created {
            Ok(file) => {
                state.catalog.insert(vacant, Some(Rc::new(file)), TableState::Free, 0);
                Some(vacant)
            }
            Err(error) => {
                state.catalog.table_count_max = state.catalog.len();
                let count = state.catalog.len();
                tracing::warn!(
                    "no room for another table of {} bytes at {}: {error}. The store goes on with the {count} \
                        tables that it has, less than --capacity",
                    self.identity.table_size,
                    path.display()
                );
                None
            }
        }
    }
}
