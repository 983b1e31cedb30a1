//! Builds the index from a checkpoint and from what the tables say.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::checkpoint::format::Damage;
use super::checkpoint::{self, Checkpoint, Entries, InUse, Position};
use super::left_out;
use super::merge::{Failed, Merge};
use super::settle::settle_all;
use super::tables::{Contents, Found, What, find_tables, read_contents, table_path};
use super::words::{Word, Words};
use crate::clock::{Seconds, is_expired};
use crate::digest::Salt;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Distance, Identity, Summary};
use crate::disktable::reader;
use crate::disktable::writer::TableWriter;
use crate::error::OpenError;
use crate::index::Index;
use crate::io::Io;
use crate::limits::OPEN_TABLE_COUNT_MAX;
use crate::mutants::{Mutant, has};
use crate::record::Kind;

/// How far a recovery is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Tables and pieces of the checkpoint that are read; each counts as often as it is read.
    pub table_count_done: usize,
    /// Those in all, as far as is known by now.
    pub table_count: usize,
    /// Records met, and entries of the checkpoint.
    pub record_count: u64,
    /// Time since it began.
    pub elapsed: Duration,
}

/// What recovery needs to know of the shard.
#[derive(Clone, Copy, Debug)]
pub struct Shard<'a> {
    /// Where its tables are.
    pub directory: &'a Path,
    /// What its tables are, but for the slot.
    pub identity: Identity,
    /// Salt of the digests.
    pub salt: &'a Salt,
    /// Generation of the superblock.
    pub generation: u64,
    /// Most records of a table.
    pub summary_count_max: usize,
    /// Whether tables may be evicted when the index does not fit.
    pub may_evict: bool,
    /// Whether the last stop was a clean one.
    pub was_clean: bool,
    /// Bytes of memory for what is read and not yet in the index.
    pub memory_size: usize,
}

/// What recovery found beside index and catalog.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The highest version of any record.
    pub version: u64,
    /// When a delayed flush is due.
    pub flush_due: Option<Seconds>,
    /// The table to go on with.
    pub writer: Option<TableWriter>,
    /// Tables for what reclaim copies to go on with.
    pub copies: Vec<TableWriter>,
    /// Records met in tables that say more than the checkpoint.
    pub record_count: u64,
    /// Records evicted because the index did not fit.
    pub evicted_count: u64,
    /// There are touches among them.
    pub has_touches: bool,
    /// The number of pieces of the checkpoint that was used, and the one that is to be written next.
    pub checkpoint: Option<(u32, u32)>,
    /// A part of a table could not be read: nobody knows all that there is.
    pub is_partial: bool,
}

/// A table that holds records.
pub(super) struct Surveyed<F> {
    pub(super) found: Found<F>,
    pub(super) sequence: u64,
    /// What is in it, if its footer does not say so.
    pub(super) contents: Option<Contents>,
}

impl<F> Surveyed<F> {
    fn records_end(&self) -> u32 {
        let sealed = || self.found.trailer().map(|trailer| u32::try_from(trailer.records_end).unwrap_or(0));
        self.contents.as_ref().map(|contents| contents.records_end).or_else(sealed).unwrap_or(0)
    }

    /// Whether all that is needed of it could be read.
    fn is_readable(&self) -> bool {
        self.contents.as_ref().is_none_or(|contents| contents.readable)
    }

    fn summary_count(&self) -> usize {
        self.contents.as_ref().map_or_else(|| self.found.summary_count(), |contents| contents.summaries.len())
    }
}

/// Finds what is in all tables of the shard, and fills `index` and `catalog`, which are empty.
///
/// # Errors
/// [`OpenError`], when a file cannot be opened, or the index does not fit and nothing may be evicted.
pub async fn recover<I: Io>(
    io: &I,
    shard: Shard<'_>,
    index: &mut Index,
    catalog: &mut Catalog<I::File>,
    progress: impl FnMut(Progress),
) -> Result<Recovered, OpenError> {
    let started = io.monotonic();
    let tables = survey(io, shard, catalog).await?;
    let (mut checkpoint, is_of_another_time) = usable_checkpoint(io, shard, catalog, &tables).await?;
    if is_of_another_time {
        let discarded = checkpoint::discard(io, shard.directory);
        discarded.map_err(OpenError::io("remove a checkpoint in", shard.directory))?;
    }
    let report = Report { progress, started, done: 0, expected: 0, record_count: 0 };
    let mut recovery = Recovery { io, shard, index, catalog, tables, recovered: Recovered::default(), report };
    loop {
        match recovery.build(checkpoint.as_ref()).await {
            Ok(()) => break,
            Err(Failed::Full(fraction)) => recovery.leave_out_more(fraction)?,
            Err(Failed::Checkpoint(path, error)) => {
                warn_of_checkpoint(&path, &error);
                recovery.forget_index();
                checkpoint = None;
            }
        }
    }
    let Recovery { tables, mut recovered, catalog, .. } = recovery;
    recovered.is_partial = !tables.iter().all(Surveyed::is_readable);
    if recovered.is_partial {
        tracing::warn!(
            "no checkpoint is written until all tables can be read again: it would leave out what they hold"
        );
    }
    recovered.checkpoint = checkpoint.map(|used| (used.piece_count(), used.stalest()));
    if recovered.has_touches {
        catalog.note_all_touched();
    }
    settle_all(io, shard, catalog, tables, &mut recovered).await?;
    Ok(recovered)
}

fn warn_of_checkpoint(path: &Path, error: &checkpoint::PieceError) {
    tracing::warn!(
        "{}: {error}. The checkpoint is ignored, and the index is built from the tables, which takes longer",
        path.display()
    );
}

fn sequence(what: &What) -> u64 {
    match what {
        What::Sealed(trailer) => trailer.sequence,
        What::Free { sequence } | What::Unsealed { sequence } => *sequence,
        What::Foreign(_) => 0,
    }
}

/// Puts all tables of the shard into the catalog. Returns those that hold records, in the order of their sequences; what is
/// in a table that is not sealed is found by reading it.
async fn survey<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
) -> Result<Vec<Surveyed<I::File>>, OpenError> {
    let found = find_tables(io, shard.directory, shard.identity).await?;
    Ok(take_in(io, shard, catalog, found).await)
}

/// As [`survey`], of tables that are known.
async fn take_in<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
    mut found: Vec<Found<I::File>>,
) -> Vec<Surveyed<I::File>> {
    found.retain(|table| holds_records(catalog, table, shard.directory));
    found.sort_by_key(|table| if has(Mutant::VersionsIgnored) { table.slot.into() } else { sequence(&table.what) });
    let mut tables = Vec::new();
    let mut unsealed_count = found.iter().filter(|table| table.trailer().is_none()).count();
    for found in found {
        let sequence = sequence(&found.what);
        catalog.insert(found.slot, Some(Rc::clone(&found.file)), TableState::Sealed, sequence);
        let contents = if found.trailer().is_some() {
            None
        } else {
            let is_stopped = shard.was_clean || unsealed_count > OPEN_TABLE_COUNT_MAX;
            unsealed_count -= 1;
            Some(read_contents(io, &found, shard.identity.table_size, shard.salt, is_stopped).await)
        };
        let table = Surveyed { found, sequence, contents };
        catalog.complete(table.found.slot, table.records_end());
        tables.push(table);
    }
    tables
}

/// Fills `index`, which is empty, as a start would that finds these tables, free ones included, and changes nothing on disk.
/// Returns when a delayed flush is due.
///
/// # Errors
/// [`OpenError`], when the directory cannot be listed, or the index does not fit.
pub(super) async fn look<I: Io>(
    io: &I,
    shard: Shard<'_>,
    index: &mut Index,
    found: Vec<Found<I::File>>,
) -> Result<Option<Seconds>, OpenError> {
    let started = io.monotonic();
    let mut catalog = Catalog::new(0);
    let tables = take_in(io, shard, &mut catalog, found).await;
    let (mut checkpoint, _) = usable_checkpoint(io, shard, &mut catalog, &tables).await?;
    let report = Report { progress: |_| {}, started, done: 0, expected: 0, record_count: 0 };
    let (catalog, recovered) = (&mut catalog, Recovered::default());
    let mut recovery = Recovery { io, shard, index, catalog, tables, recovered, report };
    loop {
        match recovery.build(checkpoint.as_ref()).await {
            Ok(()) => return Ok(recovery.recovered.flush_due),
            Err(Failed::Full(_)) => return Err(OpenError::IndexDoesNotFit(shard.directory.to_path_buf())),
            Err(Failed::Checkpoint(..)) => {
                recovery.forget_index();
                checkpoint = None;
            }
        }
    }
}

/// Puts tables without records into the catalog at once; says whether there is something to replay.
fn holds_records<F>(catalog: &mut Catalog<F>, table: &Found<F>, directory: &Path) -> bool {
    match &table.what {
        What::Free { sequence } => {
            catalog.insert(table.slot, Some(Rc::clone(&table.file)), TableState::Free, *sequence);
            false
        }
        What::Foreign(why) => {
            let path = table_path(directory, table.slot);
            tracing::warn!(
                "{}: its header is not usable: {why}. The file is left alone; remove it to get its space back",
                path.display()
            );
            catalog.insert(table.slot, None, TableState::Unusable, 0);
            false
        }
        What::Sealed(_) | What::Unsealed { .. } => true,
    }
}

/// The checkpoint, if there is one that the tables agree with; otherwise, whether pieces are there of another time than the
/// tables, which have to go before a table is written to.
async fn usable_checkpoint<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
    tables: &[Surveyed<I::File>],
) -> Result<(Option<Checkpoint>, bool), OpenError> {
    let directory = shard.directory;
    let mut is_of_another_time = false;
    let damaged = |path: &Path, error: &checkpoint::PieceError| {
        let checkpoint::PieceError::Damage(damage) = error else { return warn_of_checkpoint(path, error) };
        is_of_another_time |= matches!(damage, Damage::Generation | Damage::Outdated);
        warn_of_checkpoint(path, error);
    };
    let found = checkpoint::find(io, directory, shard.identity, shard.generation, damaged).await;
    let found = found.map_err(OpenError::io("list", directory))?;
    let Some(found) = found.filter(|_| !is_of_another_time) else { return Ok((None, is_of_another_time)) };
    let Position { sequence, offset } = found.until();
    let last = catalog.iter().map(|(_, table)| table.sequence).max().unwrap_or(0);
    // One that was recycled since was complete.
    let same = tables.iter().find(|table| table.sequence == sequence);
    if same.is_some_and(|table| offset > table.records_end() && !table.is_readable()) {
        // What it knows of is there, and may be read by the next start.
        return Ok((None, false));
    }
    if sequence > last || same.is_some_and(|table| offset > table.records_end()) {
        warn_of_checkpoint(directory, &Damage::Log.into());
        return Ok((None, true));
    }
    catalog.begin_after(found.next_sequence());
    for table in tables {
        let slot = table.found.slot;
        let known = found.guarded(slot, table.sequence);
        catalog.add_guard(slot, known.guarded_until, 0);
        catalog.add_older(slot, known.older_until);
        if known.is_dropped {
            catalog.note_dropped(slot);
        }
        if known.is_doubled {
            catalog.note_doubled(slot);
        }
        if known.is_touched {
            catalog.note_touched(slot);
        }
    }
    Ok((Some(found), false))
}

/// Tells how far it is.
struct Report<P> {
    progress: P,
    started: Duration,
    done: usize,
    expected: usize,
    record_count: u64,
}

impl<P: FnMut(Progress)> Report<P> {
    fn tell(&mut self, io: &impl Io) {
        let elapsed = io.monotonic().saturating_sub(self.started);
        let Self { done, expected, record_count, .. } = *self;
        (self.progress)(Progress { table_count_done: done, table_count: expected.max(done), record_count, elapsed });
    }
}

struct Recovery<'a, I: Io, P> {
    io: &'a I,
    shard: Shard<'a>,
    index: &'a mut Index,
    catalog: &'a mut Catalog<I::File>,
    tables: Vec<Surveyed<I::File>>,
    recovered: Recovered,
    report: Report<P>,
}

/// What the tables say, as it is read.
struct Gathered<'a, F> {
    words: &'a mut Words,
    catalog: &'a mut Catalog<F>,
    /// Records and guards were not counted before.
    counted: Option<&'a mut Recovered>,
    /// The versions of the last writes when the pieces of the checkpoint were begun, by piece; empty without a checkpoint.
    from_versions: &'a [u64],
    /// The sequence of the last table: there are no words about anything in later ones.
    last_sequence: u64,
    now: Seconds,
    flush: Flush,
}

/// The flush that was asked for last.
#[derive(Clone, Copy, Default)]
struct Flush {
    version: u64,
    /// When it is to happen, if it has not.
    due: Option<Seconds>,
}

/// A table that is replayed.
struct Replayed {
    slot: u32,
    sequence: u64,
    /// By piece of the checkpoint: the offset up to which its records were there when that was begun.
    known_ends: Vec<u32>,
}

impl<F> Gathered<'_, F> {
    fn take(&mut self, table: &Replayed, summary: &Summary) {
        if let Some(recovered) = &mut self.counted {
            recovered.version = recovered.version.max(summary.version);
            let until = summary.distance.until(table.sequence).min(self.last_sequence);
            match summary.kind {
                Kind::Tombstone | Kind::Touch | Kind::Flush => {
                    self.catalog.add_guard(table.slot, until, summary.class.size() as u64);
                    recovered.has_touches |= summary.kind == Kind::Touch;
                }
                Kind::Value => {
                    self.catalog.add_older(table.slot, until);
                    if is_expired(summary.expiry, self.now) && summary.distance != Distance::NONE {
                        // It may have left the index before its key was written anew, by who did not know of it.
                        self.catalog.note_dropped(table.slot);
                    }
                }
                Kind::Padding => {}
            }
        }
        match summary.kind {
            Kind::Value | Kind::Tombstone | Kind::Touch => {
                if let Some(is_moved) = self.is_moved(table, summary) {
                    self.words.push(Word::new(table.slot, table.sequence, summary, is_moved));
                    self.count();
                }
            }
            Kind::Flush => {
                if self.from_versions.iter().all(|from| summary.version > *from) {
                    self.count();
                }
                if summary.version > self.flush.version {
                    self.flush = Flush { version: summary.version, due: Some(summary.expiry).filter(|due| *due > 0) };
                }
                if summary.expiry == 0 {
                    self.words.forget_below(summary.version);
                }
            }
            Kind::Padding => {}
        }
    }

    fn count(&mut self) {
        if let Some(recovered) = &mut self.counted {
            recovered.record_count += 1;
        }
    }

    /// Whether a word says what the checkpoint knew when its piece was begun, and lies where it did not lie then. `None`: it says
    /// nothing that may count.
    #[inline]
    fn is_moved(&self, table: &Replayed, summary: &Summary) -> Option<bool> {
        if self.from_versions.is_empty() {
            return Some(false);
        }
        let bits = self.from_versions.len().trailing_zeros();
        let prefix = Index::prefix(&summary.digest);
        let piece = prefix.checked_shr(u64::BITS - bits).unwrap_or(0) as usize;
        if summary.version > self.from_versions[piece] {
            return Some(false);
        }
        (summary.offset >= table.known_ends[piece]).then_some(true)
    }
}

impl<I: Io, P: FnMut(Progress)> Recovery<'_, I, P> {
    /// Begins once more.
    fn forget_index(&mut self) {
        self.index.clear();
        self.catalog.clear_live();
    }

    /// The index is full with a part of all hashes: begins once more, with fewer tables. What they hold stays on disk.
    ///
    /// # Errors
    /// [`OpenError::IndexDoesNotFit`], when nothing may be evicted, or nothing is left that could be.
    fn leave_out_more(&mut self, fraction: f64) -> Result<(), OpenError> {
        let does_not_fit = || OpenError::IndexDoesNotFit(self.shard.directory.to_path_buf());
        if !self.shard.may_evict {
            return Err(does_not_fit());
        }
        let tables = self.tables.iter().map(|table| table.found.slot);
        let slots = left_out::choose(self.catalog, tables, fraction);
        if slots.is_empty() {
            return Err(does_not_fit());
        }
        tracing::warn!("the index is full: the records of the oldest {} tables are evicted", slots.len());
        for slot in slots {
            self.catalog.forget(slot);
        }
        self.forget_index();
        Ok(())
    }

    /// Fills the index from what `checkpoint` says and what was written since.
    async fn build(&mut self, checkpoint: Option<&Checkpoint>) -> Result<(), Failed> {
        let in_use = self.tables_in_use();
        let (io, identity) = (self.io, self.shard.identity);
        let mut entries = checkpoint.map(|checkpoint| Entries::new(io, checkpoint, identity, &in_use));
        let replayed = self.replayed(checkpoint);
        let of = |tables: &[Surveyed<I::File>]| replayed.iter().map(|(at, _)| tables[*at].summary_count()).sum();
        let total = of(&self.tables);
        let mut words = Words::new(self.shard.memory_size);
        self.recovered = Recovered { version: checkpoint.map_or(0, Checkpoint::version), ..Recovered::default() };
        let mut merge = None;
        let mut low = 0;
        loop {
            words.begin(low, total);
            if low == 0 {
                let piece_count = checkpoint.map_or(0, |checkpoint| checkpoint.piece_count() as usize);
                self.report.expected = self.report.done + replayed.len() * words.range_count(total) + piece_count;
            }
            self.gather(&mut words, checkpoint, &replayed, merge.is_none()).await;
            if let Some(entries) = &mut entries {
                entries.forget_below(words.void_below());
            }
            let merge = merge.get_or_insert_with(|| {
                let known = checkpoint.map_or(0, |checkpoint| checkpoint.entry_count(words.void_below()));
                let len = words.value_count() as f64 / words.fraction() + known as f64;
                Merge::new(self.index, len as usize, io.now(), self.catalog.forgotten())
            });
            let report = &mut self.report;
            let (done, record_count) = (report.done, report.record_count);
            let mut read_on = |piece: usize, entry_count: u64| {
                (report.done, report.record_count) = (done + piece, record_count + entry_count);
                report.tell(io);
            };
            merge.range(self.index, self.catalog, &mut words, entries.as_mut(), &mut read_on).await?;
            (self.report.done, self.report.record_count) = (done, record_count);
            match words.high() {
                Some(high) => low = high,
                None => break,
            }
        }
        if let Some(merge) = merge {
            self.recovered.evicted_count = merge.finish(self.index)?;
        }
        Ok(())
    }

    /// The tables in which there is something that `checkpoint` does not know, by their place among all.
    fn replayed(&self, checkpoint: Option<&Checkpoint>) -> Vec<(usize, Replayed)> {
        let mut replayed = Vec::new();
        for (at, table) in self.tables.iter().enumerate() {
            let (slot, sequence, end) = (table.found.slot, table.sequence, table.records_end());
            let end = if has(Mutant::CheckpointTailForgotten) { 0 } else { end };
            if !checkpoint.is_some_and(|checkpoint| checkpoint.knows_all_of(slot, sequence, end)) {
                let known_ends = checkpoint.map_or_else(Vec::new, |known| known.known_ends(slot, sequence));
                replayed.push((at, Replayed { slot, sequence, known_ends }));
            }
        }
        replayed
    }

    /// By slot.
    fn tables_in_use(&self) -> Vec<InUse> {
        let count = self.tables.iter().map(|table| table.found.slot as usize + 1).max().unwrap_or(0);
        let mut in_use = vec![InUse::default(); count];
        for table in &self.tables {
            in_use[table.found.slot as usize] = InUse { sequence: table.sequence, end: table.records_end() };
        }
        in_use
    }

    /// Reads what the tables say that `replayed` names.
    async fn gather(
        &mut self,
        words: &mut Words,
        checkpoint: Option<&Checkpoint>,
        replayed: &[(usize, Replayed)],
        is_first: bool,
    ) {
        let from_versions: Vec<u64> = checkpoint.into_iter().flat_map(Checkpoint::from_versions).collect();
        let flush = checkpoint.map_or_else(Flush::default, |checkpoint| self.known_flush(checkpoint));
        let mut gathered = Gathered {
            words,
            last_sequence: self.catalog.next_sequence() - 1,
            now: self.io.now(),
            catalog: self.catalog,
            counted: is_first.then_some(&mut self.recovered),
            from_versions: &from_versions,
            flush,
        };
        for (at, replayed) in replayed {
            let table = &mut self.tables[*at];
            if table.contents.is_none()
                && let Some(trailer) = table.found.trailer()
            {
                let take = |summary| gathered.take(replayed, &summary);
                let read = reader::read_footer(self.io, &*table.found.file, trailer, take).await;
                if !matches!(read, Ok(0)) {
                    // What was said is said again.
                    let table_size = self.shard.identity.table_size;
                    table.contents =
                        Some(read_contents(self.io, &table.found, table_size, self.shard.salt, true).await);
                }
            }
            if let Some(contents) = &table.contents {
                contents.summaries.iter().for_each(|summary| gathered.take(replayed, summary));
            }
            if is_first {
                self.report.record_count += table.summary_count() as u64;
            }
            self.report.done += 1;
            self.report.tell(self.io);
        }
        let due = gathered.flush.due;
        self.recovered.flush_due = due;
        // One that fell due while nobody served: everything here was written before it.
        if due.is_some_and(|due| due <= self.io.now()) {
            words.forget_below(u64::MAX);
        }
    }

    /// The flush that a checkpoint knows of. If the table that was written to then is gone, what ended a delayed one may have
    /// gone with it; one that is pending still was repeated in every table since.
    fn known_flush(&self, checkpoint: &Checkpoint) -> Flush {
        let (due, version, sequence) = checkpoint.flush();
        let is_there = self.tables.iter().any(|table| table.sequence == sequence);
        Flush { version, due: due.filter(|_| is_there) }
    }
}
