//! Why a store does not open. Misses, full disks and the like are values, not errors; see `store`.

use std::path::PathBuf;

use crate::limits::{FORMAT_VERSION, MIB, TABLE_COUNT_MIN};

/// Why a store does not open. Each says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the lock.
    #[error("the data directory {} is in use by another dmacached: stop that one, or give this one a directory of \
        its own with --data-dir", .0.display())]
    InUse(PathBuf),
    /// Something failed that is not one of the below.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory cannot be made or written to.
    #[error("the data directory {} is not writable: {source}. Change its owner or mode, or give another with \
        --data-dir", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There are files, and no superblock.
    #[error("{} is not a dmacached data directory: it has {found:?} but no superblock. Give an empty or a new \
        directory with --data-dir", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// The superblock's bytes are not what was written.
    #[error("{} is damaged ({what}): without it the tables cannot be read. Restore it from a copy, or give an \
        empty directory with --data-dir", path.display())]
    Superblock {
        /// The superblock.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Made by a newer program.
    #[error("{} has format version {found}, this dmacached reads versions up to {}: use the newer dmacached that wrote \
        it", path.display(), FORMAT_VERSION)]
    FormatVersion {
        /// The superblock.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// `--table-size` is not the store's.
    #[error("the store in {} has a table size of {found} bytes, --table-size asks for {wanted}: leave \
        --table-size out, or move the records to a new directory with `dmacached dump` and `dmacached load`", path.display())]
    TableSize {
        /// The directory.
        path: PathBuf,
        /// The store's.
        found: u64,
        /// The one that was asked for.
        wanted: u64,
    },
    /// The store was made with another number of shards.
    #[error("the store in {} has {found} shards, this dmacached opens {wanted}: start it with the number that it \
        was made with, or move the records to a new directory with that version's `dump` and this one's `load`", path.display())]
    Shards {
        /// The directory.
        path: PathBuf,
        /// The store's.
        found: u32,
        /// The one that was asked for.
        wanted: u32,
    },
    /// The store was made by a version whose index knows less of each key.
    #[error("the store in {} was made with the dense index layout, which this dmacached cannot serve: open it with the \
        version that made it", path.display())]
    IndexLayout {
        /// The directory.
        path: PathBuf,
    },
    /// Too few tables.
    #[error(
        "a capacity of {capacity} bytes is less than {TABLE_COUNT_MIN} tables of {table_size} bytes: raise \
            --capacity or lower --table-size"
    )]
    Capacity {
        /// `--capacity`.
        capacity: u64,
        /// The table size.
        table_size: u64,
    },
    /// More than pointers can name.
    #[error(
        "a capacity of {capacity} bytes is more than {most} tables of {table_size} bytes: lower --capacity or \
            raise --table-size"
    )]
    CapacityTooLarge {
        /// `--capacity`.
        capacity: u64,
        /// The table size.
        table_size: u64,
        /// Tables that there may be.
        most: usize,
    },
    /// Largest item and table do not go together.
    #[error("items of {item_size} bytes (-I) do not fit tables of {table_size} bytes: raise --table-size or lower -I")]
    ItemSize {
        /// `-I`.
        item_size: usize,
        /// The table size.
        table_size: u64,
    },
    /// The budget leaves nothing for the index.
    #[error("a memory budget of {} MiB (-m) leaves no room for an index beside {} MiB of write and read buffers: \
        raise -m or lower -I", .budget / MIB, .buffers.div_ceil(MIB))]
    Memory {
        /// `-m` in bytes.
        budget: usize,
        /// What the buffers take.
        buffers: usize,
    },
    /// The index of what is there does not fit, and nothing may be evicted.
    #[error("the index of the records in {} does not fit the memory budget, and nothing more may be evicted: \
        raise -m, or start without -M if that was given", .0.display())]
    IndexDoesNotFit(PathBuf),
    /// No table could be made.
    #[error("no room in {} for the first tables of {table_size} bytes: {source}. Free space there, or lower \
        --capacity and --table-size", path.display())]
    NoRoom {
        /// The shard's directory.
        path: PathBuf,
        /// The table size.
        table_size: u64,
        /// What the system said.
        source: std::io::Error,
    },
}

impl OpenError {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
