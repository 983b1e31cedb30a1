//! Which store a data directory is: its lock and its superblock. See FORMAT.md.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Salt;
use crate::disktable::format::page_checksum_matches;
use crate::error::OpenError;
use crate::index::Layout;
use crate::io::{Io, PROBE_PREFIX};
use crate::limits::{FORMAT_VERSION, FORMAT_VERSIONS_READ, NUMBER_MAX, PAGE_SIZE, TABLE_SIZE_MAX};
use crate::mutants::{Mutant, has};

/// The two copies. Both are written at each change, one after the other; the one with the higher generation counts.
const NAMES: [&str; 2] = ["superblock", "superblock.copy"];
pub(super) const LOCK_NAME: &str = "lock";
const MAGIC: [u8; 8] = *b"DMASTORE";
/// Bytes of the smallest table that can hold anything: a page for each of its parts. Only tests make any that are so small.
const TABLE_SIZE_LEAST: u64 = 4 * PAGE_SIZE as u64;

/// What is fixed when a store is created, and whether it was stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Random; in every table too, so that a foreign one is known.
    pub store_id: [u8; 16],
    /// Salt of the digests.
    pub salt: Salt,
    /// Number of shards.
    pub shard_count: u32,
    /// Size of every table in bytes.
    pub table_size: u64,
    /// Grows by one with each replacement.
    pub generation: u64,
    /// Unix second of the creation.
    pub created: u64,
    /// Whether nobody has used the store since its last clean stop.
    pub clean: bool,
    /// How much of each key its index knows.
    pub index_layout: Layout,
    /// No write of an earlier use of the store has a larger version: after a clean stop, or a start that was not the first
    /// after one.
    pub version: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    checksum: U32,
    format_version: U32,
    store_id: [u8; 16],
    salt: [u8; 16],
    shard_count: U32,
    page_size: U32,
    table_size: U64,
    generation: U64,
    created: U64,
    clean: u8,
    index_layout: u8,
    reserved: [u8; 6],
    version: U64,
}

const _: () = assert!(size_of::<RawSuperblock>() == 96);

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let raw = RawSuperblock {
            magic: MAGIC,
            checksum: U32::ZERO,
            format_version: U32::new(FORMAT_VERSION),
            store_id: self.store_id,
            salt: self.salt,
            shard_count: U32::new(self.shard_count),
            page_size: U32::new(PAGE_SIZE as u32),
            table_size: U64::new(self.table_size),
            generation: U64::new(self.generation),
            created: U64::new(self.created),
            clean: u8::from(self.clean),
            index_layout: self.index_layout as u8,
            reserved: [0; 6],
            version: U64::new(self.version),
        };
        let mut page = raw.as_bytes().to_vec();
        page.resize(PAGE_SIZE, 0);
        let checksum = crc32c::crc32c(&page);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    fn decode(path: &Path, page: &[u8]) -> Result<Self, OpenError> {
        let damaged = |what| OpenError::Superblock { path: path.to_path_buf(), what };
        let (raw, _) = RawSuperblock::ref_from_prefix(page).map_err(|_| damaged("it is too short"))?;
        if page.len() != PAGE_SIZE {
            return Err(damaged("it is not 4096 bytes long"));
        }
        if raw.magic != MAGIC {
            return Err(damaged("it does not begin as a superblock does"));
        }
        if !page_checksum_matches(page) {
            return Err(damaged("its checksum does not match"));
        }
        if !FORMAT_VERSIONS_READ.contains(&raw.format_version.get()) {
            return Err(OpenError::FormatVersion { path: path.to_path_buf(), found: raw.format_version.get() });
        }
        if raw.page_size.get() as usize != PAGE_SIZE {
            return Err(damaged("its page size is not 4096"));
        }
        let table_size = raw.table_size.get();
        if !table_size.is_power_of_two() || !(TABLE_SIZE_LEAST..=TABLE_SIZE_MAX as u64).contains(&table_size) {
            return Err(damaged("it names a table size that no store has"));
        }
        if raw.generation.get().max(raw.version.get()) > NUMBER_MAX {
            return Err(damaged("it names a generation or a version that no store comes to"));
        }
        Ok(Self {
            store_id: raw.store_id,
            salt: raw.salt,
            shard_count: raw.shard_count.get(),
            table_size,
            generation: raw.generation.get(),
            created: raw.created.get(),
            clean: raw.clean == 1,
            index_layout: Layout::from_byte(raw.index_layout)
                .ok_or_else(|| damaged("it names an index layout that this version does not know"))?,
            version: raw.version.get(),
        })
    }
}

/// What a store that does not exist yet is made with, and one that does is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Size of a table in bytes, if the user has named one.
    pub table_size: Option<u64>,
    /// Size of a table in a new store when the user has named none.
    pub table_size_default: u64,
    /// Number of shards.
    pub shard_count: u32,
}

/// The table size of the store in a directory, if there is one. What is wrong with it, [`DataDirectory::open`] tells.
#[must_use]
pub fn existing_table_size<I: Io>(io: &I, path: &Path) -> Option<u64> {
    read_superblock(io, path, |_, _| {}).ok()?.map(|superblock| superblock.table_size)
}

/// The superblock of a directory, if there is one: the whole copy with the higher generation. What is wrong with the other
/// goes to `damaged`.
///
/// # Errors
/// [`OpenError`], when no copy can be used, or one was written by a newer program.
pub fn read_superblock<I: Io>(
    io: &I,
    path: &Path,
    mut damaged: impl FnMut(&Path, &str),
) -> Result<Option<Superblock>, OpenError> {
    let mut best: Option<Superblock> = None;
    let mut first_error = None;
    let mut missing = Vec::new();
    for name in NAMES {
        let path = path.join(name);
        let read = io.read_small(&path).map_err(OpenError::io("read", &path));
        let read = read.and_then(|page| page.map(|page| Superblock::decode(&path, &page)).transpose());
        match read {
            Ok(Some(found)) if best.is_none_or(|best| best.generation < found.generation) => best = Some(found),
            Ok(Some(_)) => {}
            Ok(None) => missing.push(path),
            Err(error @ OpenError::FormatVersion { .. }) => return Err(error),
            Err(error) => {
                damaged(&path, &error.to_string());
                first_error.get_or_insert(error);
            }
        }
    }
    // Stores of format versions 1 and 2 have no copy.
    if let Some(path) = missing.first().filter(|path| best.is_some() && path.ends_with(NAMES[0])) {
        damaged(path, "it is missing");
    }
    match (best, first_error) {
        (Some(best), _) => Ok(Some(best)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}

/// A data directory that this process has locked.
pub struct DataDirectory<I: Io> {
    io: I,
    path: PathBuf,
    superblock: Superblock,
    was_clean: bool,
    _lock: I::Lock,
}

impl<I: Io> DataDirectory<I> {
    /// Locks the directory, makes it a store if it is empty, and marks the store as in use.
    ///
    /// # Errors
    /// [`OpenError`]; nothing in the directory has changed then, but the lock file may be new.
    pub fn open(io: &I, path: &Path, geometry: Geometry) -> Result<Self, OpenError> {
        let not_writable = |source| OpenError::NotWritable { path: path.to_path_buf(), source };
        io.create_directory(path).map_err(not_writable)?;
        let names = io.list(path).map_err(OpenError::io("list", path))?;
        let is_early = |name: &&String| {
            *name == LOCK_NAME
                || NAMES.iter().any(|early| **name == format!("{early}.new"))
                || name.starts_with(PROBE_PREFIX)
        };
        let has_superblock = names.iter().any(|name| NAMES.contains(&name.as_str()));
        if let Some(name) = names.iter().find(|name| !is_early(name)).filter(|_| !has_superblock) {
            return Err(OpenError::NotOurs { path: path.to_path_buf(), found: name.clone() });
        }
        let lock = match io.lock(&path.join(LOCK_NAME)) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(OpenError::InUse(path.to_path_buf())),
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                return Err(not_writable(error));
            }
            Err(source) => return Err(OpenError::Io { action: "lock", path: path.join(LOCK_NAME), source }),
        };
        // Not before: another server may be making the store.
        let warn = |path: &Path, what: &str| tracing::warn!("{}: {what}. Its copy is used", path.display());
        let superblock = match read_superblock(io, path, warn)? {
            Some(superblock) => superblock,
            None => Self::create(io, path, geometry)?,
        };
        check_geometry(path, &superblock, geometry)?;
        let was_clean = superblock.clean;
        let mut directory = Self { io: io.clone(), path: path.to_path_buf(), superblock, was_clean, _lock: lock };
        directory.replace(has(Mutant::CleanFlagKept) && was_clean)?;
        Ok(directory)
    }

    fn create(io: &I, path: &Path, geometry: Geometry) -> Result<Superblock, OpenError> {
        let random = || io.random().map_err(OpenError::io("draw random bytes for", path));
        Ok(Superblock {
            store_id: random()?,
            salt: random()?,
            shard_count: geometry.shard_count,
            table_size: geometry.table_size.unwrap_or(geometry.table_size_default),
            generation: 0,
            created: io.now().into(),
            clean: true,
            index_layout: Layout::Full,
            version: 0,
        })
    }

    fn replace(&mut self, clean: bool) -> Result<(), OpenError> {
        let superblock = Superblock { clean, generation: self.superblock.generation + 1, ..self.superblock };
        for name in NAMES {
            let path = self.path.join(name);
            match self.io.replace_small(&path, &superblock.encode()) {
                Ok(()) => self.superblock = superblock,
                Err(source) if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                    return Err(OpenError::NotWritable { path: self.path.clone(), source });
                }
                Err(source) => return Err(OpenError::Io { action: "write", path, source }),
            }
        }
        Ok(())
    }

    /// Notes that versions up to `version` may have been handed out, on stable media.
    ///
    /// # Errors
    /// When the superblock cannot be written.
    pub fn note_version(&mut self, version: u64) -> Result<(), OpenError> {
        self.superblock.version = version;
        self.replace(false)
    }

    /// Marks the store as cleanly stopped, its last write having this version. Everything else is on disk already.
    ///
    /// # Errors
    /// When the superblock cannot be written; the next start treats the stop as a crash.
    pub fn close(mut self, version: u64) -> Result<(), OpenError> {
        self.superblock.version = version;
        self.replace(true)
    }

    /// What store it is.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Whether the stop before this start was clean.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// The directory of a shard.
    #[must_use]
    pub fn shard_path(&self, shard: u32) -> PathBuf {
        shard_path(&self.path, shard)
    }
}

/// The directory of a shard of the store in `path`.
pub(super) fn shard_path(path: &Path, shard: u32) -> PathBuf {
    path.join(format!("shard-{shard:04}"))
}

pub(super) fn check_geometry(path: &Path, superblock: &Superblock, geometry: Geometry) -> Result<(), OpenError> {
    let path = || path.to_path_buf();
    if let Some(wanted) = geometry.table_size.filter(|wanted| *wanted != superblock.table_size) {
        return Err(OpenError::TableSize { path: path(), found: superblock.table_size, wanted });
    }
    if superblock.index_layout != Layout::Full {
        return Err(OpenError::IndexLayout { path: path() });
    }
    if superblock.shard_count != geometry.shard_count {
        let (found, wanted) = (superblock.shard_count, geometry.shard_count);
        return Err(OpenError::Shards { path: path(), found, wanted });
    }
    Ok(())
}
