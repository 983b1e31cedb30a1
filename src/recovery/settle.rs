//! What is changed on disk when all is read: tables are sealed, freed, or opened to be written to.

use std::ops::Range;
use std::path::Path;

use super::replay::{Recovered, Shard, Surveyed};
use super::tables::{Contents, Found, Tail, table_path};
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Distance, Identity, RECORDS_START, Summary, footer_page_count};
use crate::disktable::reader;
use crate::disktable::summaries::SummaryLog;
use crate::disktable::writer::{self, TableWriter};
use crate::error::OpenError;
use crate::io::{File, Io};
use crate::limits::{COPIES_RESUMED_MAX, MOVING_TABLE_COUNT_MIN, PAGE_SIZE, RECLAIM_RESERVE};
use crate::memtable::TableUse;

/// Whether a table may be written to again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MayGoOn {
    No,
    /// If it has room for more than a few records.
    WithRoom,
    /// The same; and where nothing may be evicted, in any case.
    Anyway,
}

/// After a stop that was not clean, so many of the last tables are made stable: the trailer of one that was being sealed may be
/// there, and not be stable yet.
const RECENT_TABLE_COUNT: u64 = 64;

/// Of several tables that were written to at a stop, the last one is gone on with. In a full store, what reclaim copies goes on
/// in others: sealed, each stop would take the room that they have left from the store, until there is none for a single copy.
pub(super) async fn settle_all<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
    tables: Vec<Surveyed<I::File>>,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    if !shard.was_clean {
        make_free_stable(shard.directory, catalog).await;
    }
    let is_full = catalog.vacant_slot().is_none() && catalog.count(TableState::Free) <= COPIES_RESUMED_MAX;
    let copies_max = if is_full && catalog.table_count_max >= MOVING_TABLE_COUNT_MIN { COPIES_RESUMED_MAX } else { 0 };
    let mut is_last = true;
    for table in tables.into_iter().rev() {
        let may_go_on = match () {
            () if std::mem::take(&mut is_last) => MayGoOn::Anyway,
            () if recovered.copies.len() < copies_max => MayGoOn::WithRoom,
            () => MayGoOn::No,
        };
        let writer = settle(io, shard, catalog, table, may_go_on).await?;
        if may_go_on == MayGoOn::Anyway {
            recovered.writer = writer;
        } else {
            recovered.copies.extend(writer);
        }
    }
    Ok(())
}

/// Brings a table on disk into the state that it has in the catalog: sealed, or open as the one to go on with, which is
/// returned then.
async fn settle<I: Io>(
    io: &I,
    shard: Shard<'_>,
    catalog: &mut Catalog<I::File>,
    table: Surveyed<I::File>,
    may_go_on: MayGoOn,
) -> Result<Option<TableWriter>, OpenError> {
    let Surveyed { found, sequence, contents } = table;
    let identity = Identity { slot: found.slot, ..shard.identity };
    let usage = TableUse { slot: found.slot, sequence };
    let (file, path) = (&*found.file, table_path(shard.directory, found.slot));
    lengthen(file, &path, identity.table_size).await?;
    let (records_end, summary_count) = match (&contents, found.trailer()) {
        (Some(contents), _) => (contents.records_end, contents.summaries.len()),
        (None, Some(trailer)) => (u32::try_from(trailer.records_end).unwrap_or(u32::MAX), found.summary_count()),
        (None, None) => return Ok(None),
    };
    let room = identity.table_size.saturating_sub(records_end.into());
    let is_roomy = room >= identity.table_size / 8 && summary_count < shard.summary_count_max / 8 * 7;
    // A table whose scan does not reach its end, as something in the middle is damaged, must not go on without its footer:
    // the next scan would not reach it either. After a stop that was not clean, only a store goes on with a sealed one that
    // has hardly anywhere else to go: as nothing may be evicted, or as no table is free and what is evicted may leave tombstones.
    let is_stuck = is_stuck(shard, catalog);
    let may_unseal = shard.was_clean || !shard.may_evict || is_stuck;
    let is_whole = match &contents {
        None => may_unseal,
        Some(contents) => (contents.intact && may_unseal) || contents.tail.is_some() || is_stuck,
    };
    let goes_on = is_whole
        && match may_go_on {
            MayGoOn::No => false,
            MayGoOn::WithRoom => is_roomy,
            MayGoOn::Anyway => is_roomy || !shard.may_evict || is_stuck,
        };
    let (is_intact, is_readable) = contents.as_ref().map_or((true, true), |read| (read.intact, read.readable));
    if (!goes_on && is_intact) || !is_readable {
        if !shard.was_clean && sequence + RECENT_TABLE_COUNT >= catalog.next_sequence() {
            make_stable(file, &path).await;
        }
        return Ok(None);
    }
    let tail = contents.as_ref().and_then(|contents| contents.tail);
    let known = match contents {
        Some(contents) => Some(known_now(&contents, sequence, catalog.next_sequence() - 1)),
        None => from_footer(io, &found).await,
    };
    // A footer was whole a moment ago. Such a table stays sealed, and another one is begun.
    let Some(summaries) = known else { return Ok(None) };
    let table = (file, usage);
    let has_hole = goes_on && tail.is_none() && !is_found_by_scan(io, shard, table, records_end, &summaries).await;
    if has_hole && !is_stuck {
        return Ok(None);
    }
    if !goes_on {
        let sealed = seal(io, file, (identity, usage), (records_end, tail), summaries).await;
        return sealed.map(|()| None).map_err(OpenError::io("write", &path));
    }
    let exact_end = if has_hole {
        let bridged = bridge(io, shard, table, records_end, &summaries).await;
        Some(bridged.map_err(OpenError::io("write", &path))?)
    } else {
        tail.map(|tail| tail.start)
    };
    let reopened = reopen(io, file, (identity, usage), exact_end).await;
    reopened.map_err(OpenError::io("write", &path))?;
    catalog.set_state(found.slot, TableState::Writing);
    let size = usize::try_from(identity.table_size).expect("tables are below 4 GiB");
    Ok(Some(TableWriter::resume(usage, size, shard.summary_count_max, records_end, summaries)))
}

/// Whether there is no other table to write to. Where nothing may be evicted, the last free one is that which copies go to:
/// without it nothing is freed any more.
fn is_stuck<F>(shard: Shard<'_>, catalog: &Catalog<F>) -> bool {
    let is_moving = catalog.table_count_max >= MOVING_TABLE_COUNT_MIN;
    let kept_count = if is_moving && !shard.may_evict { RECLAIM_RESERVE } else { 0 };
    catalog.vacant_slot().is_none() && catalog.count(TableState::Free) <= kept_count
}

/// Seals a table. What a stop has torn goes first: a later start may go on with the table, by its footer, and what it writes then
/// would be out of a scan's reach, or be followed by records that do not count.
async fn seal<I: Io>(
    io: &I,
    file: &I::File,
    (identity, usage): (Identity, TableUse),
    (records_end, tail): (u32, Option<Tail>),
    summaries: SummaryLog,
) -> std::io::Result<()> {
    let footer_size = (footer_page_count(summaries.len()) + 1) * PAGE_SIZE;
    let may_grow = u64::from(records_end) + (PAGE_SIZE + footer_size) as u64 <= identity.table_size;
    let records_end = match tail {
        Some(Tail { start, dirty_end }) if u64::from(start) < dirty_end => {
            writer::wipe(file, start.into(), dirty_end.next_multiple_of(PAGE_SIZE as u64)).await?;
            records_end
        }
        // Something in the middle is damaged. That there is more space than records take says so to whoever would go on.
        None if may_grow => records_end + PAGE_SIZE as u32,
        _ => records_end,
    };
    writer::seal(file, identity, usage, records_end, summaries, io.now()).await
}

/// What was being written to a table at the last stop can be read, and may not be stable yet.
async fn make_stable<F: File>(file: &F, path: &Path) {
    if let Err(error) = file.sync().await {
        tracing::warn!("{}: making it stable failed: {error}", path.display());
    }
}

/// A table may have been marked as free right before the stop: what was in it must not come back with a power cut, as nobody
/// knows any more that there is something to be kept dead.
async fn make_free_stable<F: File>(directory: &Path, catalog: &Catalog<F>) {
    for (slot, table) in catalog.iter() {
        if let Some(file) = table.file.as_ref().filter(|_| table.state == TableState::Free && table.sequence > 0) {
            make_stable(&**file, &table_path(directory, slot)).await;
        }
    }
}

/// A file that was cut short gets its size back.
async fn lengthen<F: File>(file: &F, path: &Path, wanted: u64) -> Result<(), OpenError> {
    let size = file.size().await.map_err(OpenError::io("ask for the size of", path))?;
    if size < wanted {
        tracing::warn!("{}: {size} bytes long instead of {wanted}: what was behind is lost", path.display());
        file.allocate(wanted).await.map_err(OpenError::io("allocate", path))?;
    }
    Ok(())
}

/// Makes a table one that is written to: takes its seal off, or wipes what lies behind its last record.
async fn reopen<I: Io>(
    io: &I,
    file: &I::File,
    (identity, usage): (Identity, TableUse),
    exact_end: Option<u32>,
) -> std::io::Result<()> {
    // The trailer may have stood in for a damaged header; it goes now.
    writer::write_header(file, identity, usage.sequence, io.now()).await?;
    match exact_end {
        None => writer::unseal(file, identity).await,
        Some(end) => writer::wipe(file, end.into(), identity.table_size).await,
    }
}

/// Whether a scan of a sealed table would find what its footer names, up to where its records end, and nothing else. It would
/// not where a write has failed: what the footer leaves out may be there, and what is written behind the hole would be out of
/// reach.
async fn is_found_by_scan<I: Io>(
    io: &I,
    shard: Shard<'_>,
    (file, usage): (&I::File, TableUse),
    records_end: u32,
    summaries: &SummaryLog,
) -> bool {
    if shard.was_clean && !may_have_hole(summaries, records_end) {
        return true;
    }
    let (mut named, mut is_same) = (summaries.iter(), true);
    let compare = |found: Summary| {
        is_same &= named.next().is_some_and(|named| (named.offset, named.version) == (found.offset, found.version));
    };
    let scanned = reader::scan(io, file, usage, shard.identity.table_size, shard.salt, compare).await;
    is_same && named.next().is_none() && scanned.failure.is_none() && scanned.records_end == records_end
}

/// Puts padding in a table wherever a scan would end, or find what does not count, in front of where its records end, as the
/// store has no other table to write to. Returns where the last record ends.
async fn bridge<I: Io>(
    io: &I,
    shard: Shard<'_>,
    (file, usage): (&I::File, TableUse),
    records_end: u32,
    summaries: &SummaryLog,
) -> std::io::Result<u32> {
    let named: Vec<u32> = summaries.iter().map(|summary| summary.offset).collect();
    let next_named =
        |from: u32| named.get(named.partition_point(|offset| *offset < from)).map_or(records_end, |next| *next);
    let mut holes: Vec<Range<u32>> = Vec::new();
    let mut add = |start: u32| {
        if start < records_end && holes.last().is_none_or(|last| last.end <= start) {
            holes.push(start..next_named(start + 1));
        }
    };
    let mut from = RECORDS_START as u32;
    let end = loop {
        let visit = |found: Summary| {
            if named.binary_search(&found.offset).is_err() {
                add(found.offset);
            }
        };
        let scanned = reader::scan_from(io, file, (usage, shard.identity.table_size), from, shard.salt, visit).await;
        if let Some(error) = scanned.failure {
            return Err(error);
        }
        // A record behind a hole may lie in the page in which the scan ends.
        if scanned.records_end >= records_end && next_named(scanned.stop) == records_end {
            break scanned.exact_end.min(records_end);
        }
        add(scanned.stop);
        from = next_named(scanned.stop + 1);
        if from == records_end {
            break records_end;
        }
    };
    for hole in holes {
        tracing::warn!(
            "table {}: {} bytes at offset {} are passed over from now on",
            usage.slot,
            hole.len(),
            hole.start
        );
        writer::pad(file, usage, hole).await?;
    }
    Ok(end)
}

/// Whether there may be more space between the records of a table than writers leave. What was overwritten by something shorter
/// looks the same.
fn may_have_hole(summaries: &SummaryLog, records_end: u32) -> bool {
    let mut end = RECORDS_START;
    let has_gap = summaries.iter().any(|summary| {
        let offset = summary.offset as usize;
        let gap = offset.saturating_sub(std::mem::replace(&mut end, offset + summary.class.size_min()));
        gap >= PAGE_SIZE
    });
    has_gap || records_end as usize > end.next_multiple_of(PAGE_SIZE)
}

/// What the footer of a table says that has been scanned. What a scan does not know is known now: nothing older lies in
/// tables that are yet to come after the one with the sequence `last`.
fn known_now(contents: &Contents, sequence: u64, last: u64) -> SummaryLog {
    let mut summaries = SummaryLog::default();
    for summary in &contents.summaries {
        let until = summary.distance.until(sequence).min(last);
        let is_unknown = summary.distance == Distance::UNKNOWN;
        let distance = if is_unknown { Distance::to(sequence, until) } else { summary.distance };
        summaries.push(&Summary { distance, ..*summary });
    }
    summaries
}

/// What the footer of a sealed table says; `None` when it cannot be read.
async fn from_footer<I: Io>(io: &I, found: &Found<I::File>) -> Option<SummaryLog> {
    let mut summaries = SummaryLog::default();
    let Some(trailer) = found.trailer() else { return Some(summaries) };
    let read = reader::read_footer(io, &*found.file, trailer, |summary| summaries.push(&summary)).await;
    matches!(read, Ok(0)).then_some(summaries)
}
