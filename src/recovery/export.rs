//! Every live record of a store that nobody serves, without changing anything of it.
//!
//! The index is built as a start would build it. Then the tables are read from front to back, in long reads over the
//! parts with live records, one table in memory at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::survey::{Image, Present, Survey, SurveyError};
use super::tables::{Found, What, identify, slot_of, table_path};
use crate::digest::Digest;
use crate::index::Pointer;
use crate::io::{File, Io};
use crate::limits::{KIB, PAGE_SIZE, SHARD_BITS};
use crate::memtable::TableUse;
use crate::record::{self, Kind, Record, SizeClass};

/// Live records with less than this between them are read together.
const GAP_SIZE_MAX: usize = 256 * KIB;

/// A live record.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The record, with the expiry that it has now.
    pub record: Record<'a>,
    /// Its CAS unique.
    pub cas: u64,
}

/// How far an export is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exporting {
    /// Bytes of live records done.
    pub size_done: u64,
    /// Bytes of live records in all.
    pub size: u64,
    /// Records done.
    pub record_count: u64,
    /// Time since it began.
    pub elapsed: Duration,
}

/// What came of an export.
#[derive(Debug, Default)]
pub struct Export {
    /// Live records that were visited.
    pub record_count: u64,
    /// Live records that could not be read or are damaged, and were left out.
    pub damaged_count: u64,
    /// Tables of which a part could not be read, or that are none that a start would read: files, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// One of them cannot be read where it says what it is: older values than those in it, and records that it says are
    /// deleted, may have been visited.
    pub is_doubtful: bool,
}

/// Why an export ends early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be looked at.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// Who was told of the records wants no more of them.
    #[error("cannot write the records: {0}")]
    Visit(std::io::Error),
}

/// A record that is to be visited.
#[derive(Clone, Copy)]
struct Live {
    offset: u32,
    class: SizeClass,
}

impl Live {
    /// Where it ends at the latest.
    fn end(self) -> usize {
        self.offset as usize + self.class.size()
    }
}

/// Calls `visit` with every live record of the store, in the order of the tables; `progress` hears of each part. With
/// `is_forced`, a table that cannot be read is passed over.
///
/// # Errors
/// [`ExportError`]. Damaged records are none: they are counted.
pub async fn export<I: Io>(
    survey: &Survey<I>,
    is_forced: bool,
    mut visit: impl FnMut(&Exported<'_>) -> std::io::Result<()>,
    mut progress: impl FnMut(Exporting),
) -> Result<Export, ExportError> {
    let started = survey.io.monotonic();
    let mut export = Export::default();
    let tables = find(survey, is_forced, &mut export).await?;
    // All that holds records, in the order in which it was written.
    let written: Vec<Found<I::File>> = tables.iter().filter(|table| sequence(&table.what).is_some()).cloned().collect();
    let mut present = survey.present(tables).await?;
    let mut done = Exporting::default();
    let ranks: BTreeMap<u32, usize> = written.iter().enumerate().map(|(rank, table)| (table.slot, rank)).collect();
    let mut live: Vec<Vec<Live>> = written.iter().map(|_| Vec::new()).collect();
    present.index.retain(|entry| {
        done.size += entry.class.size() as u64;
        if let Some(rank) = ranks.get(&entry.pointer.slot) {
            live[*rank].push(Live { offset: entry.pointer.offset, class: entry.class });
        }
        true
    });
    for (table, live) in written.iter().zip(&mut live) {
        let mut live = std::mem::take(live);
        live.sort_unstable_by_key(|live| live.offset);
        let mut exporter = Exporter { survey, table, export: &mut export, present: &present };
        let mut step = |size: usize, record_count: u64| {
            done.size_done = (done.size_done + size as u64).min(done.size);
            done.record_count = record_count;
            done.elapsed = survey.io.monotonic().saturating_sub(started);
            progress(done);
        };
        exporter.table(&live, &mut visit, &mut step).await?;
    }
    Ok(export)
}

impl Export {
    fn note<I: Io>(&mut self, survey: &Survey<I>, slot: u32, why: &str) {
        self.unread.push((table_path(&survey.shard_directory, slot), why.to_owned()));
    }
}

/// The tables that a start would find, in the order in which they were written.
async fn find<I: Io>(
    survey: &Survey<I>,
    is_forced: bool,
    export: &mut Export,
) -> Result<Vec<Found<I::File>>, SurveyError> {
    let mut tables = Vec::new();
    // Without the directory there are no records: the superblock is made first.
    for slot in survey.io.list(&survey.shard_directory).unwrap_or_default().iter().filter_map(|name| slot_of(name)) {
        let opened = async {
            let file = survey.io.open(&table_path(&survey.shard_directory, slot)).await?;
            let what = identify(&file, survey.identity(slot)).await?;
            Ok::<_, std::io::Error>(Found { slot, file: Rc::new(file), what })
        };
        match opened.await {
            Ok(found) => {
                if let What::Foreign(why) = &found.what {
                    export.note(survey, slot, why);
                }
                tables.push(found);
            }
            Err(error) if is_forced => {
                export.note(survey, slot, &error.to_string());
                export.is_doubtful = true;
            }
            Err(source) => return Err(SurveyError::Table { path: table_path(&survey.shard_directory, slot), source }),
        }
    }
    tables.sort_by_key(|table| sequence(&table.what));
    Ok(tables)
}

/// The sequence of a table that holds records.
fn sequence(what: &What) -> Option<u64> {
    match what {
        What::Sealed(trailer) => Some(trailer.sequence),
        What::Unsealed { sequence } => Some(*sequence),
        What::Free { .. } | What::Foreign(_) => None,
    }
}

struct Exporter<'a, I: Io> {
    survey: &'a Survey<I>,
    table: &'a Found<I::File>,
    export: &'a mut Export,
    present: &'a Present,
}

impl<I: Io> Exporter<'_, I> {
    /// Reads and visits the live records of the table.
    async fn table(
        &mut self,
        mut live: &[Live],
        visit: &mut impl FnMut(&Exported<'_>) -> std::io::Result<()>,
        step: &mut impl FnMut(usize, u64),
    ) -> Result<(), ExportError> {
        let size = self.table.file.size().await.unwrap_or(0).min(self.survey.superblock.table_size);
        let size = usize::try_from(size).unwrap_or(0);
        let mut image = Image::blank(size);
        while !live.is_empty() {
            let (count, range) = next_range(live, size);
            let (here, behind) = live.split_at(count);
            image.read(&*self.table.file, range, &mut |_| {}).await;
            for live in here {
                self.record(&image.bytes, live, visit)?;
            }
            step(here.iter().map(|live| live.class.size()).sum(), self.export.record_count);
            live = behind;
        }
        if !image.failures.is_empty() {
            let why = image.failures[0].1.to_string();
            self.export.note(self.survey, self.table.slot, &why);
        }
        Ok(())
    }

    fn record(
        &mut self,
        bytes: &[u8],
        live: &Live,
        visit: &mut impl FnMut(&Exported<'_>) -> std::io::Result<()>,
    ) -> Result<(), ExportError> {
        let table = TableUse { slot: self.table.slot, sequence: sequence(&self.table.what).unwrap_or(0) };
        let place = table.place(live.offset);
        let record = bytes.get(live.offset as usize..).and_then(|bytes| record::decode(bytes, place).ok());
        let here = Pointer { slot: table.slot, offset: live.offset };
        // What the index says of its key is about this record.
        let known = record.filter(|record| record.header.kind == Kind::Value).and_then(|record| {
            let entry = self.present.index.get(&Digest::of(&self.survey.superblock.salt, record.key))?;
            (entry.pointer == here).then_some((record, entry.expiry))
        });
        let Some((mut record, expiry)) = known else {
            self.export.damaged_count += 1;
            return Ok(());
        };
        record.header.expiry = match (expiry, self.present.flush_due) {
            (0, Some(due)) => due,
            (expiry, Some(due)) => expiry.min(due),
            (expiry, None) => expiry,
        };
        // There is one shard, and its number is 0.
        let cas = record.header.own_cas.unwrap_or(record.header.version << SHARD_BITS);
        self.export.record_count += 1;
        visit(&Exported { record, cas }).map_err(ExportError::Visit)
    }
}

/// How many of the next records are read together, and the pages that they are in.
fn next_range(live: &[Live], size: usize) -> (usize, Range<usize>) {
    let start = live[0].offset as usize / PAGE_SIZE * PAGE_SIZE;
    let (mut count, mut end) = (0, live[0].end());
    for next in live {
        let offset = next.offset as usize;
        // Not too many at once, so that progress is told.
        if offset > end + GAP_SIZE_MAX || offset > start + 16 * GAP_SIZE_MAX {
            break;
        }
        end = end.max(next.end());
        count += 1;
    }
    (count, start.min(size)..end.next_multiple_of(PAGE_SIZE).min(size))
}
