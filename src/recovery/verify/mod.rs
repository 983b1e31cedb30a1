//! Whether everything that a store has on disk is what was written, and if not, what that costs.
//!
//! Every page and every record of every table is read and compared with its checksum, and each footer with the records
//! that it names. What a start would find is asked of the code that does it; a record that is there and would not be
//! found, or that would be found and is not there, is lost, unless a later word about its key makes it worthless. Nothing
//! is changed: see [`Survey`].
//!
//! In memory are one table at a time, the index of what is live, and the keys of what is lost.

mod cost;
mod finding;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub use cost::Cost;
use cost::Costs;
pub use finding::{Finding, Found, Severity};
use table::{Examined, Examiner};

use super::checkpoint::{self, Piece, PieceError, is_checkpoint_name, verify_piece};
use super::superblock::shard_path;
use super::survey::{Image, STREAM_SIZE, Survey, SurveyError};
use super::tables::{self, What, identify, read_contents, slot_of, table_path};
use crate::disktable::format::{Identity, Mark, MarkDamage, MarkKind, Summary, claimed_identity};
use crate::error::OpenError;
use crate::io::{File, Io};
use crate::limits::{OPEN_TABLE_COUNT_MAX, PAGE_SIZE};
use crate::memtable::TableUse;

/// How far a verification is.
#[derive(Clone, Copy, Debug)]
pub struct Verifying {
    /// Bytes read.
    pub size_done: u64,
    /// Bytes to be read in all.
    pub size: u64,
    /// Time since it began.
    pub elapsed: Duration,
}

/// What there is, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Table files, free and foreign ones included.
    pub tables: u64,
    /// Those without records.
    pub free_tables: u64,
    /// Bytes read.
    pub size: u64,
    /// Records that were written and not given up since, dead ones included.
    pub records: u64,
    /// Records that clients get.
    pub live_records: u64,
    /// Records whose bytes are not what was written.
    pub damaged_records: u64,
}

/// What a verification has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Whether the last stop was clean; not known without a superblock.
    pub was_clean: Option<bool>,
    /// All that was found, in the order of the files.
    pub findings: Vec<Finding>,
    /// What was found costs, by the table's slot.
    pub costs: BTreeMap<u32, Cost>,
    /// What there is.
    pub counts: Counts,
}

impl Report {
    /// How bad the worst finding is; `None` when there is none.
    #[must_use]
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }

    /// Whether everything is what was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.severity().is_none_or(|severity| severity == Severity::Note)
    }
}

/// Verifies the store in `path`, which nobody may use meanwhile; `progress` hears of each part that is read.
///
/// # Errors
/// [`SurveyError`], when it cannot be verified: it is in use, or no store that this program knows.
pub async fn verify<I: Io>(io: &I, path: &Path, progress: impl FnMut(Verifying)) -> Result<Report, SurveyError> {
    let mut report = Report::default();
    let survey = match Survey::open(io, path) {
        Ok(survey) => survey,
        Err(error @ (SurveyError::NoSuperblock(_) | SurveyError::Open(OpenError::Superblock { .. }))) => {
            let what = Found::Superblock(error.to_string());
            report.findings.push(Finding { path: path.join("superblock"), slot: None, what });
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.was_clean = Some(survey.superblock.clean);
    for (path, why) in &survey.damaged {
        let what = Found::SuperblockCopy(why.clone());
        report.findings.push(Finding { path: path.clone(), slot: None, what });
    }
    let known = Vec::new();
    let mut verifier = Verifier { survey, report, progress, size: 0, last_sequences: Vec::new(), known };
    verifier.shard(path).await?;
    Ok(verifier.report)
}

struct Verifier<I: Io, P> {
    survey: Survey<I>,
    report: Report,
    progress: P,
    /// Bytes that are to be read.
    size: u64,
    /// Those of the last tables without a trailer: what may have been open at a stop.
    last_sequences: Vec<u64>,
    /// Tables that a start would find, free ones included.
    known: Vec<tables::Found<I::File>>,
}

/// A table whose records count.
struct Opened<F> {
    found: tables::Found<F>,
    sequence: u64,
    size: u64,
}

impl<I: Io, P: FnMut(Verifying)> Verifier<I, P> {
    fn note(&mut self, path: PathBuf, slot: Option<u32>, what: Found) {
        self.report.findings.push(Finding { path, slot, what });
    }

    fn note_table(&mut self, slot: u32, what: Found) {
        self.note(table_path(&self.survey.shard_directory, slot), Some(slot), what);
    }

    async fn shard(&mut self, path: &Path) -> Result<(), SurveyError> {
        let io = self.survey.io.clone();
        let directory = shard_path(path, 0);
        let names = match io.list(&directory) {
            Ok(names) => names,
            // The directory is made right after the superblock.
            Err(_) if self.survey.superblock.generation <= 1 => return Ok(()),
            Err(source) => {
                let error = OpenError::Io { action: "list", path: directory.clone(), source };
                self.note(directory, None, Found::NoShard(format!("{error}: all records in it are lost")));
                return Ok(());
            }
        };
        let mut slots: Vec<u32> = names.iter().filter_map(|name| slot_of(name)).collect();
        slots.sort_unstable();
        for name in names.iter().filter(|name| slot_of(name).is_none() && !is_checkpoint_name(name)) {
            self.stray(&directory, name).await;
        }
        let mut opened = Vec::new();
        for slot in &slots {
            self.report.counts.tables += 1;
            opened.extend(self.open(*slot).await);
        }
        let named = self.checkpoints(&directory, &names).await;
        self.missing(&slots, named);
        opened.sort_by_key(|table: &Opened<I::File>| table.sequence);
        self.size = opened.iter().map(|table| table.size).sum();
        let unsealed = opened.iter().rev().filter(|table| matches!(table.found.what, What::Unsealed { .. }));
        self.last_sequences = unsealed.take(OPEN_TABLE_COUNT_MAX).map(|table| table.sequence).collect();
        self.tables(opened).await?;
        self.report.findings.sort_by(|one, other| (one.slot, &one.path).cmp(&(other.slot, &other.path)));
        Ok(())
    }

    /// Reads all pieces of checkpoints. Returns the slots of tables that they have records in; `None` when there is no
    /// piece, or one is damaged.
    async fn checkpoints(&mut self, directory: &Path, names: &[String]) -> Option<BTreeSet<u32>> {
        let identity = self.survey.identity(0);
        let mut named: Option<BTreeSet<u32>> = None;
        let mut is_damaged = false;
        for piece in names.iter().filter_map(|name| Piece::of_name(name)) {
            match verify_piece(&self.survey.io, directory, identity, piece).await {
                Ok((header, _)) if header.generation > self.survey.superblock.generation => {
                    is_damaged = true;
                    let why = checkpoint::format::Damage::Generation.to_string();
                    self.note(piece.path(directory), None, Found::Checkpoint(why));
                }
                Ok((header, tables)) => {
                    self.report.counts.size += header.file_size;
                    named.get_or_insert_default().extend(tables.iter().map(|table| table.slot));
                }
                // The next start removes it.
                Err(PieceError::Damage(checkpoint::format::Damage::Outdated)) => is_damaged = true,
                Err(error) => {
                    is_damaged = true;
                    self.note(piece.path(directory), None, Found::Checkpoint(error.to_string()));
                }
            }
        }
        named.filter(|_| !is_damaged)
    }

    /// Tables that should be there. Without a checkpoint of a clean stop, a gap in the numbers says so.
    fn missing(&mut self, slots: &[u32], named: Option<BTreeSet<u32>>) {
        let is_there = |slot: &u32| slots.binary_search(slot).is_ok();
        match named {
            Some(named) if self.survey.superblock.clean => {
                for slot in named.iter().filter(|slot| !is_there(slot)) {
                    self.note_table(*slot, Found::Missing { is_named: true });
                }
            }
            _ => {
                for slot in (0..slots.last().copied().unwrap_or(0)).filter(|slot| !is_there(slot)) {
                    self.note_table(slot, Found::Missing { is_named: false });
                }
            }
        }
    }

    /// A file whose name is no table's.
    async fn stray(&mut self, directory: &Path, name: &str) {
        let path = directory.join(name);
        let mut pages = Image::blank(PAGE_SIZE);
        if let Ok(file) = self.survey.io.open(&path).await {
            pages.read(&file, 0..PAGE_SIZE, &mut |_| {}).await;
        }
        let what = match claimed_identity(&pages.bytes) {
            Some((identity, _)) if identity.store_id == self.survey.superblock.store_id => {
                let own = table_path(directory, identity.slot);
                Found::Misnamed { name: own.file_name().unwrap_or_default().to_string_lossy().into_owned() }
            }
            _ => Found::Stray,
        };
        self.note(path, None, what);
    }

    /// Opens a table, and finds out what it is. `None` when there are no records in it that count.
    async fn open(&mut self, slot: u32) -> Option<Opened<I::File>> {
        let path = table_path(&self.survey.shard_directory, slot);
        let identity = self.survey.identity(slot);
        let opened = async {
            let file = self.survey.io.open(&path).await?;
            let (size, what) = (file.size().await?, identify(&file, identity).await?);
            Ok::<_, std::io::Error>((file, size, what))
        };
        let (file, size, what) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                self.note_table(slot, Found::Unreadable(error.to_string()));
                return None;
            }
        };
        let wanted = identity.table_size;
        let found = tables::Found { slot, file: Rc::new(file), what };
        let file = &*found.file;
        if !matches!(found.what, What::Free { .. }) || size == wanted {
            self.known.push(found.clone());
        }
        let sequence = match &found.what {
            What::Free { .. } => {
                self.report.counts.free_tables += 1;
                if size != wanted {
                    let is_half_made = self.report.was_clean == Some(false) && size == 0;
                    self.note_table(slot, if is_half_made { Found::HalfMade } else { Found::Short { size, wanted } });
                }
                return None;
            }
            What::Foreign(_) => {
                self.foreign(slot, file, size.min(wanted)).await;
                return None;
            }
            What::Sealed(trailer) => trailer.sequence,
            What::Unsealed { sequence } => *sequence,
        };
        if size < wanted {
            self.note_table(slot, Found::Short { size, wanted });
        } else if size > wanted {
            self.note_table(slot, Found::Long { size, wanted });
        }
        Some(Opened { found, sequence, size: size.min(wanted) })
    }

    /// A table that no start would read: what it is, and what might be in it.
    async fn foreign(&mut self, slot: u32, file: &I::File, size: u64) {
        let identity = self.survey.identity(slot);
        let mut image = Image::blank(usize::try_from(size).unwrap_or(0));
        let end = image.bytes.len();
        image.read(file, 0..end, &mut |_| {}).await;
        let last = end.checked_sub(PAGE_SIZE).filter(|last| last.is_multiple_of(PAGE_SIZE)).unwrap_or(0);
        let pages = [image.bytes.get(..PAGE_SIZE), image.bytes.get(last..)];
        let mut claimed = pages.into_iter().flatten().filter_map(claimed_identity);
        let what = match claimed.next() {
            Some((other, _)) => {
                let is_ours = Identity { slot, ..other } == identity;
                Found::Foreign { slot: is_ours.then_some(other.slot) }
            }
            None => {
                let page = image.bytes.get(..PAGE_SIZE).unwrap_or_default();
                let why = Mark::decode(MarkKind::Header, page, identity).err().unwrap_or(MarkDamage::Magic);
                let record_count = self.records_without_marks(slot, &image.bytes);
                Found::NoMark { why, record_count }
            }
        };
        self.note_table(slot, what);
    }

    /// Records of a table whose sequence is not known: what the damaged pages say of it may be right.
    fn records_without_marks(&self, slot: u32, bytes: &[u8]) -> u64 {
        let table_size = usize::try_from(self.survey.superblock.table_size).unwrap_or(usize::MAX);
        let sequence_at = |start: usize| {
            let bytes = bytes.get(start + 40..start + 48)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let guesses = [Some(0), bytes.len().checked_sub(PAGE_SIZE)];
        let guesses = guesses.into_iter().flatten().filter_map(sequence_at);
        let count = |sequence| {
            let table = TableUse { slot, sequence };
            Examiner::new(bytes, table, table_size, &self.survey.superblock.salt).any().len() as u64
        };
        guesses.map(count).max().unwrap_or(0)
    }

    /// Reads all tables, in the order in which they were written.
    async fn tables(&mut self, opened: Vec<Opened<I::File>>) -> Result<(), SurveyError> {
        let started = self.survey.io.monotonic();
        let mut costs = Costs::default();
        for table in &opened {
            let slot = table.found.slot;
            let mut image = Image::blank(usize::try_from(table.size).unwrap_or(0));
            let end = image.bytes.len();
            let (io, size) = (self.survey.io.clone(), self.size);
            let mut read = |count: usize| {
                self.report.counts.size += count as u64;
                let elapsed = io.monotonic().saturating_sub(started);
                (self.progress)(Verifying { size_done: self.report.counts.size, size, elapsed });
            };
            image.read(&*table.found.file, 0..end, &mut read).await;
            for (range, error) in std::mem::take(&mut image.failures) {
                let (offset, size) = (range.start as u64, range.len() as u64);
                self.note_table(slot, Found::UnreadablePart { offset, size, why: error.to_string() });
            }
            let examined = self.examine(table, &image.bytes);
            drop(image);
            let (salt, table_size) = (self.survey.superblock.salt, self.survey.superblock.table_size);
            let is_stopped = self.is_stopped(table.sequence);
            let mut seen = read_contents(&self.survey.io, &table.found, table_size, &salt, is_stopped).await.summaries;
            seen.sort_by_key(|summary: &Summary| summary.offset);
            self.report.counts.records += examined.words.len() as u64;
            self.report.counts.damaged_records += examined.damaged_count;
            costs.table(slot, &seen, &examined.words);
            for what in examined.found {
                self.note_table(slot, what);
            }
            self.survey.io.yield_now().await;
        }
        if costs.has_lost() {
            for table in &opened {
                let (salt, table_size) = (self.survey.superblock.salt, self.survey.superblock.table_size);
                let is_stopped = self.is_stopped(table.sequence);
                let contents = read_contents(&self.survey.io, &table.found, table_size, &salt, is_stopped).await;
                contents.summaries.iter().for_each(|summary| costs.other(table.found.slot, summary));
            }
        }
        let present = self.survey.present(std::mem::take(&mut self.known)).await?;
        (self.report.costs, self.report.counts.live_records) = costs.finish(&present.index, self.survey.io.now());
        Ok(())
    }

    /// Whether nothing was being written to the table with this sequence at the last stop.
    fn is_stopped(&self, sequence: u64) -> bool {
        self.survey.superblock.clean || !self.last_sequences.contains(&sequence)
    }

    fn examine(&mut self, table: &Opened<I::File>, bytes: &[u8]) -> Examined {
        let slot = table.found.slot;
        let identity = self.survey.identity(slot);
        let table_size = usize::try_from(identity.table_size).unwrap_or(usize::MAX);
        let usage = TableUse { slot, sequence: table.sequence };
        let salt = self.survey.superblock.salt;
        let examiner = Examiner::new(bytes, usage, table_size, &salt);
        match &table.found.what {
            What::Sealed(trailer) => {
                let header = Mark::decode(MarkKind::Header, bytes.get(..PAGE_SIZE).unwrap_or_default(), identity);
                if let Some(why) = header.err() {
                    self.note_table(slot, Found::Header(why));
                }
                examiner.sealed(trailer)
            }
            _ => {
                let is_stopped = self.is_stopped(table.sequence);
                // One of an earlier use is none of this one.
                let trailer = bytes.get(table_size - PAGE_SIZE..).filter(|_| is_stopped);
                let trailer = trailer.map(|page| Mark::decode(MarkKind::Trailer, page, identity));
                if let Some(Err(why)) = trailer {
                    self.note_table(slot, Found::Trailer(why));
                }
                examiner.unsealed(Examined::default(), is_stopped)
            }
        }
    }
}

const _: () = assert!(STREAM_SIZE.is_multiple_of(PAGE_SIZE));
