//! A look at a store that changes nothing of it: what `verify` and `dump` are built on.
//!
//! The store is locked as long as the look lasts, so that no server writes to it meanwhile. A store that was not stopped
//! cleanly is read as the next start would read it, and is left as it is.

use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dma_alloc::Buffer;

use super::replay::{Shard, look};
use super::superblock::{LOCK_NAME, check_geometry, read_superblock, shard_path};
use super::tables::{Found, What};
use super::{Geometry, Superblock};
use crate::clock::{Seconds, is_expired};
use crate::disktable::format::Identity;
use crate::error::OpenError;
use crate::index::Index;
use crate::io::{File, Io};
use crate::limits::{MIB, PAGE_SIZE, RECORD_GRANULE};

/// Bytes that are read at once.
pub(super) const STREAM_SIZE: usize = MIB;
/// Bytes that the index may take for a record, with what is not filled.
const INDEX_ENTRY_SIZE: usize = 48;
/// Bytes for what is read of the tables and not yet in the index.
const WORDS_SIZE: usize = 64 * MIB;

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// There is no such directory.
    #[error("there is no directory {}: name the data directory with --data-dir", .0.display())]
    NoDirectory(PathBuf),
    /// It is no data directory.
    #[error("{} is not a dmacached data directory: there is no superblock in it. Name the data directory with \
        --data-dir", .0.display())]
    NoStore(PathBuf),
    /// It is one, and what says which is gone.
    #[error("the superblock of the store in {} is missing: without it the tables cannot be read, and no server \
        starts there. Restore it from a copy", .0.display())]
    NoSuperblock(PathBuf),
    /// A server uses it, or another look lasts.
    #[error("the data directory {} is in use: stop the dmacached that uses it first", .0.display())]
    InUse(PathBuf),
    /// A table cannot be read where it says what it is.
    #[error("{} cannot be read where it says what it is ({source}): without its records, older values and deleted records would \
        take their place, and no server starts either. Make it readable, or remove the file to give up its records; --force \
        dumps what there is", path.display())]
    Table {
        /// The table's file.
        path: PathBuf,
        /// What the system says.
        source: Error,
    },
    /// There is more in the tables than their footers say.
    #[error("the index of the records in {} does not fit the memory that goes by what its tables say: start `dmacached` there, \
        stop it, and try again, as it writes down anew what they hold", .0.display())]
    Index(PathBuf),
    /// A server would not open it either, or the system refuses.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A store that is looked at.
pub struct Survey<I: Io> {
    pub(super) io: I,
    pub(super) superblock: Superblock,
    pub(super) shard_directory: PathBuf,
    /// Copies of the superblock that cannot be used, and what is wrong with them.
    pub(super) damaged: Vec<(PathBuf, String)>,
    _lock: I::Lock,
}

impl<I: Io> Survey<I> {
    /// Locks the store in `path`, and finds out which it is.
    ///
    /// # Errors
    /// [`SurveyError`].
    pub fn open(io: &I, path: &Path) -> Result<Self, SurveyError> {
        let names = match io.list(path) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SurveyError::NoDirectory(path.to_path_buf()));
            }
            Err(error) => return Err(OpenError::io("list", path)(error).into()),
        };
        let missing = if names.iter().any(|name| name.starts_with("shard-")) {
            SurveyError::NoSuperblock(path.to_path_buf())
        } else {
            SurveyError::NoStore(path.to_path_buf())
        };
        if !names.iter().any(|name| name.starts_with("superblock")) {
            return Err(missing);
        }
        let lock_path = path.join(LOCK_NAME);
        let lock = io.lock(&lock_path).map_err(OpenError::io("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| SurveyError::InUse(path.to_path_buf()))?;
        let mut damaged = Vec::new();
        let note = |path: &Path, what: &str| damaged.push((path.to_path_buf(), what.to_owned()));
        let superblock = read_superblock(io, path, note)?.ok_or(missing)?;
        check_geometry(path, &superblock, Geometry { table_size: None, table_size_default: 0, shard_count: 1 })?;
        Ok(Self { io: io.clone(), superblock, shard_directory: shard_path(path, 0), damaged, _lock: lock })
    }

    /// What store it is.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What the table in `slot` is.
    pub(super) fn identity(&self, slot: u32) -> Identity {
        let Superblock { store_id, table_size, .. } = self.superblock;
        Identity { store_id, shard: 0, slot, table_size }
    }

    /// The index as a start would build it that finds `tables`, free ones included.
    ///
    /// # Errors
    /// [`SurveyError::Index`] and [`SurveyError::Open`].
    pub(super) async fn present(&self, tables: Vec<Found<I::File>>) -> Result<Present, SurveyError> {
        let table_size = usize::try_from(self.superblock.table_size).unwrap_or(usize::MAX);
        let most = table_size / (2 * RECORD_GRANULE);
        let count = |table: &Found<I::File>| match &table.what {
            What::Sealed(_) => table.summary_count().min(most),
            What::Unsealed { .. } => most,
            What::Free { .. } | What::Foreign(_) => 0,
        };
        let size = 4 * Index::BASE_SIZE + tables.iter().map(count).sum::<usize>() * INDEX_ENTRY_SIZE;
        let mut index = Index::new(size, table_size);
        let shard = Shard {
            directory: &self.shard_directory,
            identity: self.identity(0),
            salt: &self.superblock.salt,
            generation: self.superblock.generation,
            summary_count_max: most,
            may_evict: false,
            was_clean: self.superblock.clean,
            memory_size: WORDS_SIZE,
        };
        let flush_due = look(&self.io, shard, &mut index, tables).await.map_err(|error| match error {
            // There is no -m here that could be raised.
            OpenError::IndexDoesNotFit(path) => SurveyError::Index(path),
            error => error.into(),
        })?;
        let now = self.io.now();
        index.retain(|entry| !is_expired(entry.expiry, now));
        Ok(Present { index, flush_due })
    }
}

/// What a start finds: the last word about each key.
pub(super) struct Present {
    /// What is live.
    pub(super) index: Index,
    /// When a delayed flush is due.
    pub(super) flush_due: Option<Seconds>,
}

/// A table's bytes, or a part of them.
pub(super) struct Image {
    /// As many as the file has, and no more than a table.
    pub(super) bytes: Vec<u8>,
    /// Parts that could not be read, which are zeros.
    pub(super) failures: Vec<(Range<usize>, Error)>,
}

impl Image {
    /// An image of `size` zeros.
    pub(super) fn blank(size: usize) -> Self {
        Self { bytes: vec![0; size], failures: Vec::new() }
    }

    /// Reads `range`, whole pages, telling `progress` how many bytes that were.
    pub(super) async fn read<F: File>(&mut self, file: &F, range: Range<usize>, progress: &mut impl FnMut(usize)) {
        let mut buffer = Some(Buffer::zeroed(STREAM_SIZE));
        let mut start = range.start;
        while start < range.end {
            let size = (range.end - start).min(STREAM_SIZE);
            let memory = buffer.take().unwrap_or_else(|| Buffer::zeroed(STREAM_SIZE));
            match file.read_at(start as u64, size, memory).await {
                Ok((memory, count)) => {
                    self.bytes[start..start + count].copy_from_slice(&memory[..count]);
                    buffer = Some(memory);
                }
                Err(_) => self.read_pages(file, start..start + size).await,
            }
            progress(size);
            start += size;
        }
    }

    /// Page by page, so that one that cannot be read costs no more than itself.
    async fn read_pages<F: File>(&mut self, file: &F, range: Range<usize>) {
        for start in range.step_by(PAGE_SIZE) {
            match file.read_at(start as u64, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await {
                Ok((memory, count)) => self.bytes[start..start + count].copy_from_slice(&memory[..count]),
                Err(error) => match self.failures.last_mut().filter(|(failed, _)| failed.end == start) {
                    Some((failed, _)) => failed.end = start + PAGE_SIZE,
                    None => self.failures.push((start..start + PAGE_SIZE, error)),
                },
            }
        }
    }
}
