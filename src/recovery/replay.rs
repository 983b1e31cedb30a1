//! Builds the index from the tables' contents.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::tables::{Contents, Found, What, find_tables, read_contents, table_path};
use crate::clock::Seconds;
use crate::digest::Salt;
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Identity, Summary};
use crate::disktable::summaries::SummaryLog;
use crate::disktable::writer::{self, TableWriter};
use crate::error::OpenError;
use crate::index::{Full, Index};
use crate::io::{File, Io};
use crate::memtable::TableUse;
use crate::reclaim::drop_expired;
use crate::record::Kind;

/// Records whose index entries are fetched at once.
const AHEAD_COUNT: usize = 16;

/// How far a recovery is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Tables replayed.
    pub table_count_done: usize,
    /// Tables in all.
    pub table_count: usize,
    /// Records met.
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
    /// Most records of a table.
    pub summary_count_max: usize,
    /// Whether tables may be evicted when the index does not fit.
    pub may_evict: bool,
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
    /// Records met.
    pub record_count: u64,
    /// Records evicted because the index did not fit.
    pub evicted_count: u64,
}

/// Replays all tables of the shard into `index` and `catalog`, which are empty.
///
/// # Errors
/// [`OpenError`], when a file cannot be opened, or the index does not fit and nothing may be evicted.
pub async fn recover<I: Io>(
    io: &I,
    shard: Shard<'_>,
    index: &mut Index,
    catalog: &mut Catalog<I::File>,
    mut progress: impl FnMut(Progress),
) -> Result<Recovered, OpenError> {
    let started = io.monotonic();
    let mut found = find_tables(io, shard.directory, shard.identity).await?;
    found.retain(|table| keep_for_replay(catalog, table, shard.directory));
    found.sort_by_key(|table| sequence(&table.what));
    let mut replay =
        Replay { index, catalog, now: io.now(), recovered: Recovered::default(), shard, evicted: Vec::new() };
    let table_count = found.len();
    for (number, table) in found.iter().enumerate() {
        let contents = read_contents(io, table, shard.identity.table_size, shard.salt).await;
        replay.table(table, &contents)?;
        settle(io, &mut replay, table, contents, number + 1 == table_count).await?;
        let (record_count, elapsed) = (replay.recovered.record_count, io.monotonic().saturating_sub(started));
        progress(Progress { table_count_done: number + 1, table_count, record_count, elapsed });
    }
    replay.finish_flush();
    let Replay { mut recovered, evicted, now, .. } = replay;
    // Not before all is replayed: a later touch may have given a record more time.
    drop_expired(index, catalog, now);
    for slot in evicted {
        free_evicted(io, shard, catalog, slot, &mut recovered).await;
    }
    Ok(recovered)
}

fn sequence(what: &What) -> u64 {
    match what {
        What::Sealed(trailer) => trailer.sequence,
        What::Free { sequence } | What::Unsealed { sequence } => *sequence,
        What::Foreign(_) => 0,
    }
}

/// Puts tables without records into the catalog at once; says whether there is something to replay.
fn keep_for_replay<F>(catalog: &mut Catalog<F>, table: &Found<F>, directory: &Path) -> bool {
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

/// Brings the table on disk into the state that it has in the catalog: sealed, or open as the one to go on with.
async fn settle<I: Io>(
    io: &I,
    replay: &mut Replay<'_, I::File>,
    table: &Found<I::File>,
    contents: Contents,
    is_last: bool,
) -> Result<(), OpenError> {
    let shard = replay.shard;
    let identity = Identity { slot: table.slot, ..shard.identity };
    let usage = TableUse { slot: table.slot, sequence: sequence(&table.what) };
    let (file, path) = (&*table.file, table_path(shard.directory, table.slot));
    let size = file.size().await.map_err(OpenError::io("ask for the size of", &path))?;
    if size < identity.table_size {
        let wanted = identity.table_size;
        tracing::warn!("{}: {size} bytes long instead of {wanted}: what was behind is lost", path.display());
        file.allocate(wanted).await.map_err(OpenError::io("allocate", &path))?;
    }
    let room = identity.table_size - u64::from(contents.records_end);
    let roomy = room >= identity.table_size / 8 && contents.summaries.len() < shard.summary_count_max / 8 * 7;
    // A table whose scan does not reach its end, as something in the middle is damaged, must not go on without its footer:
    // the next scan would not reach it either.
    let is_whole = contents.intact || contents.exact_end.is_some();
    let goes_on = is_last && is_whole && (roomy || !shard.may_evict) && !replay.evicted.contains(&table.slot);
    if (!goes_on && contents.intact) || !contents.readable {
        return Ok(());
    }
    let mut summaries = SummaryLog::default();
    contents.summaries.iter().for_each(|summary| summaries.push(summary));
    if !goes_on {
        let sealed = writer::seal(file, identity, usage, contents.records_end, summaries, io.now()).await;
        return sealed.map_err(OpenError::io("write", &path));
    }
    // The trailer may have stood in for a damaged header; it goes now.
    let header = writer::write_header(file, identity, usage.sequence, io.now()).await;
    header.map_err(OpenError::io("write", &path))?;
    let reopened = match contents.exact_end {
        None => writer::unseal(file, identity).await,
        Some(end) => writer::wipe(file, end.into(), identity.table_size).await,
    };
    reopened.map_err(OpenError::io("write", &path))?;
    replay.catalog.set_state(table.slot, TableState::Writing);
    let size = usize::try_from(identity.table_size).expect("tables are below 4 GiB");
    let next_start = contents.records_end;
    replay.recovered.writer = Some(TableWriter::resume(usage, size, shard.summary_count_max, next_start, summaries));
    Ok(())
}

/// A table whose records were dropped during the replay, because the index was full, becomes free on disk too.
async fn free_evicted<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
    slot: u32,
    recovered: &mut Recovered,
) {
    let Some((file, usage)) = catalog.usage(slot) else { return };
    let identity = Identity { slot, ..shard.identity };
    match writer::free(&*file, identity, usage.sequence, io.now()).await {
        Ok(()) => catalog.finish_freeing(slot),
        Err(error) => {
            tracing::error!("{}: cannot be marked as free: {error}", table_path(shard.directory, slot).display());
            catalog.set_state(slot, TableState::Unusable);
        }
    }
    tracing::warn!("table {slot} was evicted: the index is full ({} records so far)", recovered.evicted_count);
}

struct Replay<'a, F> {
    index: &'a mut Index,
    catalog: &'a mut Catalog<F>,
    now: Seconds,
    recovered: Recovered,
    shard: Shard<'a>,
    evicted: Vec<u32>,
}

impl<F> Replay<'_, F> {
    fn table(&mut self, table: &Found<F>, contents: &Contents) -> Result<(), OpenError> {
        let file = Some(Rc::clone(&table.file));
        self.catalog.insert(table.slot, file, TableState::Sealed, sequence(&table.what));
        for (number, summary) in contents.summaries.iter().enumerate() {
            if number % AHEAD_COUNT == 0 {
                let end = contents.summaries.len().min(number + AHEAD_COUNT);
                self.index.prefetch(contents.summaries[number..end].iter().map(|summary| &summary.digest));
            }
            while self.record(table.slot, summary).is_err() {
                if !self.shard.may_evict || !self.evict_oldest(table.slot) {
                    return Err(OpenError::IndexDoesNotFit(self.shard.directory.to_path_buf()));
                }
            }
            self.recovered.record_count += 1;
        }
        Ok(())
    }

    fn record(&mut self, slot: u32, summary: &Summary) -> Result<(), Full> {
        self.recovered.version = self.recovered.version.max(summary.version);
        match summary.kind {
            Kind::Value => {
                let old = self.index.upsert(&summary.digest, summary.entry(slot))?;
                if let Some(old) = old {
                    self.catalog.remove_live(old.pointer.slot, old.class);
                }
                self.catalog.add_live(slot, summary.class);
            }
            Kind::Tombstone => {
                self.forget(summary);
                self.catalog.add_guard(slot);
            }
            Kind::Touch => {
                self.index.set_expiry(&summary.digest, summary.expiry);
                self.catalog.add_guard(slot);
            }
            Kind::Flush => {
                self.recovered.flush_due = (summary.expiry > 0).then_some(summary.expiry);
                if summary.expiry == 0 {
                    self.clear();
                }
                self.catalog.add_guard(slot);
            }
            Kind::Padding => {}
        }
        Ok(())
    }

    fn forget(&mut self, summary: &Summary) {
        if let Some(old) = self.index.remove(&summary.digest) {
            self.catalog.remove_live(old.pointer.slot, old.class);
        }
    }

    fn clear(&mut self) {
        self.index.clear();
        self.catalog.clear_live();
    }

    /// A delayed flush that fell due while nobody served: everything here was written before it.
    fn finish_flush(&mut self) {
        if self.recovered.flush_due.is_some_and(|due| due <= self.now) {
            self.clear();
        }
    }

    /// Drops the records of the oldest table that has some, other than `current`. Says whether there was one.
    fn evict_oldest(&mut self, current: u32) -> bool {
        // Those without live records as well: what keeps them dead may be in the next.
        let full = self.catalog.iter().filter(|(slot, table)| table.state == TableState::Sealed && *slot != current);
        let Some(slot) = full.min_by_key(|(_, table)| table.sequence).map(|(slot, _)| slot) else { return false };
        let before = self.index.len();
        self.index.retain(|entry| {
            let keep = entry.pointer.slot != slot;
            if !keep {
                self.catalog.remove_live(slot, entry.class);
            }
            keep
        });
        self.recovered.evicted_count += (before - self.index.len()) as u64;
        self.catalog.set_state(slot, TableState::Freeing);
        self.evicted.push(slot);
        true
    }
}
