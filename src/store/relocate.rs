//! What becomes of each record of a table that is emptied.
//!
//! The footer says what there is; a part of it is looked through, then the records in question are read, in long reads over
//! the places that have some, verified, and copied. What the index points at is moved. A tombstone, a touch or a flush goes
//! along as long as a table is left that may hold what it keeps dead; so does the news that a value has expired, as a
//! tombstone.

use std::fmt::Display;
use std::io::Error;

use dma_alloc::Buffer;

use super::Shared;
use super::mover::{Copied, Copying, Stop};
use super::reclaim::{Method, Victim};
use super::state::{NO_DIGEST, State};
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::catalog::{Table, TableState};
use crate::disktable::format::{Mark, MarkKind, Summary};
use crate::disktable::reader::{self, footer_pages};
use crate::index::Pointer;
use crate::io::{File, Io};
use crate::limits::{HOT, KIB, PAGE_SIZE, RECLAIM_READ_SIZE};
use crate::memtable::TableUse;
use crate::mutants::{Mutant, has};
use crate::record::{self, Header, Kind, Record};

/// Pages of a footer that are looked through before what they name is copied.
const FOOTER_PAGES_PER_STEP: usize = 4;
/// Records with less than this between them are read together.
const GAP_SIZE_MAX: u64 = 32 * KIB as u64;
/// Records that are copied before other tasks have their turn.
const RECORDS_PER_TURN: usize = 64;
/// Of this many parts of a table that is evicted, one at most is kept because it was read again and again.
const KEPT_PARTS: usize = 2;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is copied, and the index follows.
    Move,
    /// It is copied: it keeps older versions dead.
    Carry,
    /// It becomes a tombstone: it is the last word about its key, and there is nothing.
    Bury,
}

/// A record that is to be copied.
struct Wanted {
    summary: Summary,
    fate: Fate,
}

impl Wanted {
    fn start(&self) -> u64 {
        u64::from(self.summary.offset) / PAGE_SIZE as u64 * PAGE_SIZE as u64
    }

    fn end(&self) -> u64 {
        (u64::from(self.summary.offset) + self.summary.class.size() as u64).next_multiple_of(PAGE_SIZE as u64)
    }
}

/// The records of a table on their way out of it.
struct Relocation<'a, I: Io> {
    shared: &'a Shared<I>,
    victim: &'a Victim<I::File>,
    buffer: Option<Buffer>,
    /// Bytes that may be kept still though their table is evicted.
    may_keep: usize,
    /// Something could not be copied: the table must stay.
    is_damaged: bool,
}

impl<I: Io> Shared<I> {
    /// Copies what is needed of a table; on return it is in the block of copies or on disk.
    pub(super) async fn move_out(&self, victim: &Victim<I::File>) -> Result<(), Stop> {
        let may_keep = self.state.borrow().may_keep(victim.method);
        let mut relocation = Relocation { shared: self, victim, buffer: None, may_keep, is_damaged: false };
        let file = &*victim.file;
        self.pace_reclaim(PAGE_SIZE).await?;
        let trailer = reader::read_mark(file, MarkKind::Trailer, victim.identity).await;
        let trailer = trailer.map_err(|error| self.unreadable(victim.table.slot, "the trailer", &error))?;
        let trailer = trailer.ok().filter(|trailer| trailer.sequence == victim.table.sequence);
        let is_whole = match &trailer {
            Some(trailer) => relocation.by_footer(trailer).await?,
            None => false,
        };
        if !is_whole {
            relocation.by_scan().await?;
        }
        if relocation.is_damaged {
            self.state.borrow_mut().catalog.keep(victim.table.slot);
            return Err(Stop::Failed);
        }
        Ok(())
    }

    /// The device does not deliver what is needed of the table in `slot`: that is counted, and told now and then.
    fn unreadable(&self, slot: u32, what: impl Display, error: &Error) -> Stop {
        let mut state = self.state.borrow_mut();
        state.counters.disk_read_errors += 1;
        if super::worth_logging(state.counters.disk_read_errors) {
            tracing::error!("a table cannot be emptied now: reading {what} of table {slot} failed: {error}");
        }
        Stop::Failed
    }
}

impl<I: Io> Relocation<'_, I> {
    /// Says whether the whole footer could be read.
    async fn by_footer(&mut self, trailer: &Mark) -> Result<bool, Stop> {
        let page_count = footer_pages(trailer);
        let mut first = 0;
        while first < page_count {
            let pages = first..page_count.min(first + FOOTER_PAGES_PER_STEP);
            first = pages.end;
            self.shared.pace_reclaim(pages.len() * PAGE_SIZE).await?;
            let mut summaries = Vec::new();
            let file = &*self.victim.file;
            let bad_count = reader::read_footer_part(file, trailer, pages, |summary| summaries.push(summary)).await;
            let slot = self.victim.table.slot;
            if bad_count.map_err(|error| self.shared.unreadable(slot, "the footer", &error))? > 0 {
                return Ok(false);
            }
            self.copy_needed(&summaries).await?;
        }
        Ok(true)
    }

    /// As [`Self::by_footer`], of a table that has no footer that can be read. What was copied before is needed no more.
    async fn by_scan(&mut self) -> Result<(), Stop> {
        let (shared, victim) = (self.shared, self.victim);
        let mut summaries = Vec::new();
        let table_size = victim.identity.table_size;
        let take = |summary| summaries.push(summary);
        let scanned = reader::scan(&shared.io, &*victim.file, victim.table, table_size, &shared.salt, take).await;
        if let Some(error) = scanned.failure {
            return Err(shared.unreadable(victim.table.slot, "the records", &error));
        }
        if shared.state.borrow().has_records_behind(victim.table, scanned.records_end) {
            // They are not found behind a damaged one, and nobody knows what they keep dead.
            let (slot, end) = (victim.table.slot, scanned.exact_end);
            tracing::error!("what lies behind offset {end} of table {slot} is not found: the table cannot be emptied");
            shared.state.borrow_mut().counters.reclaim_bad_records += 1;
            self.is_damaged = true;
        }
        for part in summaries.chunks(1024) {
            self.copy_needed(part).await?;
        }
        Ok(())
    }

    async fn copy_needed(&mut self, summaries: &[Summary]) -> Result<(), Stop> {
        let mut wanted = Vec::new();
        for part in summaries.chunks(RECORDS_PER_TURN) {
            {
                let now = self.shared.io.now();
                let mut state = self.shared.state.borrow_mut();
                let is_buried = state.buried_until(self.victim.table.slot).is_some();
                for summary in part {
                    let fate = state.fate(self.victim, summary, now, (self.may_keep > 0, is_buried));
                    if let Some(fate) = fate {
                        if self.victim.method == Method::Evict && fate == Fate::Move {
                            self.may_keep = self.may_keep.saturating_sub(summary.class.size());
                        }
                        wanted.push(Wanted { summary: *summary, fate });
                    }
                }
            }
            self.shared.io.yield_now().await;
        }
        let mut rest = &wanted[..];
        while let Some(first) = rest.first() {
            let (start, mut end, mut count) = (first.start(), first.end(), 1);
            for next in &rest[1..] {
                if next.end() > (start + RECLAIM_READ_SIZE as u64).max(end) || next.start() > end + GAP_SIZE_MAX {
                    break;
                }
                end = end.max(next.end());
                count += 1;
            }
            let (group, others) = rest.split_at(count);
            rest = others;
            self.copy_group(group, start, end.min(self.victim.identity.table_size)).await?;
        }
        Ok(())
    }

    /// Reads records that lie close together, and copies them.
    async fn copy_group(&mut self, group: &[Wanted], start: u64, end: u64) -> Result<(), Stop> {
        let size = usize::try_from(end - start).expect("a table is below 4 GiB");
        self.shared.pace_reclaim(size).await?;
        let kept = self.buffer.take().filter(|buffer| buffer.len() >= size);
        let buffer = kept.unwrap_or_else(|| Buffer::zeroed(size.max(RECLAIM_READ_SIZE)));
        let read = self.victim.file.read_at(start, size, buffer).await;
        let (buffer, count) = match read {
            Ok(read) => read,
            Err(error) => {
                let what = format_args!("{size} bytes at {start}");
                return Err(self.shared.unreadable(self.victim.table.slot, what, &error));
            }
        };
        {
            let mut state = self.shared.state.borrow_mut();
            state.counters.reclaim_reads += 1;
            state.counters.reclaim_read_bytes += count as u64;
        }
        for (number, wanted) in group.iter().enumerate() {
            let position = usize::try_from(u64::from(wanted.summary.offset) - start).expect("it lies in what was read");
            let bytes = buffer[..count].get(position..).unwrap_or_default();
            self.copy_one(wanted, bytes).await?;
            if number % RECORDS_PER_TURN == RECORDS_PER_TURN - 1 {
                self.shared.io.yield_now().await;
            }
        }
        if buffer.len() == RECLAIM_READ_SIZE {
            self.buffer = Some(buffer);
        }
        Ok(())
    }

    async fn copy_one(&mut self, wanted: &Wanted, bytes: &[u8]) -> Result<(), Stop> {
        let Wanted { summary, fate } = wanted;
        let table = self.victim.table;
        let record = match record::decode(bytes, table.place(summary.offset)) {
            Ok(record) if self.is_named(&record, summary) => record,
            _ => {
                // What is damaged is a miss. What it kept dead must stay so: its table stays.
                self.shared.state.borrow_mut().note_damage_met(summary, table.slot);
                self.is_damaged = true;
                return Ok(());
            }
        };
        let older_until = summary.distance.until(table.sequence);
        let from = Pointer { slot: table.slot, offset: summary.offset };
        let Record { header, key, value, .. } = record;
        let copied = match *fate {
            Fate::Move => {
                let copied = Copied { digest: summary.digest, header, key, value, from: Some(from), older_until };
                let is_overtaken = self.shared.copy(&copied).await? == Copying::Overtaken;
                if !is_overtaken || !self.shared.state.borrow().is_last_word(self.victim, summary) {
                    return Ok(());
                }
                // It has expired while it was read. What is older must not come back.
                self.tombstone(summary, &record)
            }
            Fate::Carry => Copied { digest: summary.digest, header, key, value, from: None, older_until },
            Fate::Bury => {
                if self.version_elsewhere(summary, key).await? == Some(header.version) {
                    // It was moved when the table was looked through before. The copy keeps older words dead.
                    return Ok(());
                }
                self.tombstone(summary, &record)
            }
        };
        self.shared.copy(&copied).await.map(|_| ())
    }

    /// What says instead of a value here, which goes with its table, that there is none.
    fn tombstone<'a>(&self, summary: &Summary, record: &Record<'a>) -> Copied<'a> {
        let Header { version, .. } = record.header;
        let header = Header { kind: Kind::Tombstone, version, expiry: 0, client_flags: 0, bits: 0, own_cas: None };
        let table = self.victim.table;
        let buried_until = self.shared.state.borrow().buried_until(table.slot);
        let older_until = summary.distance.until(table.sequence).max(buried_until.unwrap_or(0));
        Copied { digest: summary.digest, header, key: record.key, value: b"", from: None, older_until }
    }

    /// The version of the record that the index has for the key of a record here, if it is another one.
    async fn version_elsewhere(&self, summary: &Summary, key: &[u8]) -> Result<Option<u64>, Stop> {
        let read = {
            let mut state = self.shared.state.borrow_mut();
            let here = Pointer { slot: self.victim.table.slot, offset: summary.offset };
            let entry = state.index.get(&summary.digest);
            let Some(entry) = entry.filter(|entry| entry.pointer != here) else { return Ok(None) };
            if let Some(bytes) = state.memtable.find(entry.pointer) {
                let record = record::decode_trusted(bytes).expect("blocks hold whole records");
                return Ok(Some(record.header.version));
            }
            state.counters.reclaim_reads += 1;
            state.counters.reclaim_read_bytes += state.disk_read(entry).size() as u64;
            state.disk_read(entry)
        };
        let buffer = read.file().read_at(read.start(), read.size(), Buffer::zeroed(read.size())).await;
        let slot = read.place().slot;
        let (buffer, count) =
            buffer.map_err(|error| self.shared.unreadable(slot, "another record of a key", &error))?;
        // A damaged one is a miss as soon as somebody asks for it, and its table is kept.
        Ok(read.record(&buffer[..count], key).ok().map(|record| record.header.version))
    }

    fn is_named(&self, record: &Record<'_>, summary: &Summary) -> bool {
        let is_flush = record.header.kind == Kind::Flush;
        let digest = if is_flush { NO_DIGEST } else { Digest::of(&self.shared.salt, record.key) };
        (record.header.kind, record.header.version, digest) == (summary.kind, summary.version, summary.digest)
    }
}

impl<F> State<F> {
    /// Whether a value in `slot` must leave a tombstone when it leaves the index, whatever is known of older words about its
    /// key, and up to which table there may be what that keeps dead: its original, if emptying another table came to no end;
    /// or, if it was touched, a value before it that has expired and that the touch would revive.
    fn buried_until(&self, slot: u32) -> Option<u64> {
        let reach = self.catalog.reach(slot);
        let is_original = |other: u32, table: &Table<F>| other != slot && table.doubled && table.sequence <= reach;
        let touched = self.catalog.get(slot).is_some_and(|table| table.touched);
        let others = self.catalog.iter().filter(|(_, table)| table.state != TableState::Free);
        let kept_dead = others.filter(|(other, table)| is_original(*other, table) || (touched && table.dropped));
        let until = kept_dead.map(|(_, table)| table.sequence).max();
        until.or_else(|| touched.then_some(0))
    }

    /// Whether a value of `victim` that was to be moved has left the index without a newer word about its key, and older ones
    /// may be left.
    fn is_last_word(&self, victim: &Victim<F>, summary: &Summary) -> bool {
        let is_needed = summary.distance.until(victim.table.sequence) >= victim.oldest;
        self.index.get(&summary.digest).is_none() && (is_needed || self.buried_until(victim.table.slot).is_some())
    }

    /// What becomes of a record of `victim`; `None`: nobody needs it, or it leaves the index when its table is free. What has
    /// expired leaves the index here.
    fn fate(
        &mut self,
        victim: &Victim<F>,
        summary: &Summary,
        now: Seconds,
        (may_keep, is_buried): (bool, bool),
    ) -> Option<Fate> {
        let slot = victim.table.slot;
        // Older words about its key may be on disk, elsewhere.
        let is_needed = summary.distance.until(victim.table.sequence) >= victim.oldest;
        let is_buried = is_needed || is_buried;
        match summary.kind {
            Kind::Value => {
                let pointer = Pointer { slot, offset: summary.offset };
                let Some(entry) = self.index.get(&summary.digest).filter(|entry| entry.pointer == pointer) else {
                    // If a newer word is what has replaced it, that one keeps the older ones dead.
                    let has_no_successor =
                        self.catalog.get(slot).is_some_and(Table::lacks_successors) || is_expired(summary.expiry, now);
                    return (has_no_successor && is_needed).then_some(Fate::Bury);
                };
                if is_expired(entry.expiry, now) {
                    self.remove_if_at(&summary.digest, pointer);
                    // In case that the table is not emptied now: later it must not go unread.
                    self.catalog.note_dropped(slot);
                    self.counters.expired_swept += 1;
                    return is_buried.then_some(Fate::Bury);
                }
                if victim.method == Method::Evict && !(may_keep && entry.hotness >= HOT) {
                    return (is_buried && !has(Mutant::EvictedUnburied)).then_some(Fate::Bury);
                }
                Some(Fate::Move)
            }
            Kind::Touch if has(Mutant::TouchNotMoved) => None,
            _ if has(Mutant::GuardsNotCarried) => None,
            Kind::Tombstone => is_needed.then_some(Fate::Carry),
            Kind::Touch => (is_needed && self.is_last_touch(summary, now)).then_some(Fate::Carry),
            // A delayed one is noted in each new table until it is due.
            Kind::Flush => (is_needed && summary.expiry == 0).then_some(Fate::Carry),
            Kind::Padding => None,
        }
    }

    /// Whether a touch still says what nothing newer does: that a record has this expiry, or why it is gone.
    fn is_last_touch(&self, summary: &Summary, now: Seconds) -> bool {
        match self.index.get(&summary.digest) {
            // One that has expired may be why an older value is gone than the one that there is.
            Some(entry) => entry.expiry == summary.expiry || is_expired(summary.expiry, now),
            // Without the touch, the record might be there for longer. What was deleted is dead because of that.
            None => is_expired(summary.expiry, now),
        }
    }

    /// Whether there are records behind `end`, where a scan of the table came to its end.
    fn has_records_behind(&self, table: TableUse, end: u32) -> bool {
        // Nobody misses what could not be written.
        let own = self.failed.iter().filter(|(failed, _)| *failed == table);
        let end = own.fold(end, |end, (_, part)| if part.contains(&end) { part.end } else { end });
        self.catalog.get(table.slot).and_then(|table| table.records_end).is_some_and(|last| last > end)
    }

    /// Bytes of live records that are kept though their table is evicted: a second chance for what was read again and again.
    fn may_keep(&self, method: Method) -> usize {
        if method != Method::Evict || !self.moves() {
            return 0;
        }
        (self.table_size / KEPT_PARTS).min(usize::try_from(self.room_for_copies()).unwrap_or(usize::MAX))
    }

    /// A value of the table in `slot` has left the index as it is damaged: that is known of none of those that are no more
    /// when the table is emptied, so that each of them counts as the last word about its key.
    pub(super) fn forget_values_of(&mut self, slot: u32) {
        if let Some(table) = self.catalog.get_mut(slot) {
            table.forgotten = true;
        }
    }

    /// A record that was to be copied is damaged.
    fn note_damage_met(&mut self, summary: &Summary, slot: u32) {
        self.counters.reclaim_bad_records += 1;
        if super::worth_logging(self.counters.reclaim_bad_records) {
            let offset = summary.offset;
            tracing::error!("the record at offset {offset} of table {slot} is damaged: the table cannot be emptied");
        }
        self.lose_damaged(summary, slot);
    }
}
