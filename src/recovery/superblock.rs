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
use crate::limits::{FORMAT_VERSION, FORMAT_VERSIONS_READ, PAGE_SIZE};

const NAME: &str = "superblock";
const LOCK_NAME: &str = "lock";
const MAGIC: [u8; 8] = *b"DMASTORE";

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
}

const _: () = assert!(size_of::<RawSuperblock>() == 82);

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
        Ok(Self {
            store_id: raw.store_id,
            salt: raw.salt,
            shard_count: raw.shard_count.get(),
            table_size: raw.table_size.get(),
            generation: raw.generation.get(),
            created: raw.created.get(),
            clean: raw.clean == 1,
            index_layout: Layout::from_byte(raw.index_layout)
                .ok_or_else(|| damaged("it names an index layout that this version does not know"))?,
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
    let path = path.join(NAME);
    let page = io.read_small(&path).ok()??;
    Superblock::decode(&path, &page).ok().map(|superblock| superblock.table_size)
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
        let superblock_path = path.join(NAME);
        let early = [LOCK_NAME.to_owned(), format!("{NAME}.new")];
        let is_early = |name: &String| early.contains(name) || name.starts_with(PROBE_PREFIX);
        if let Some(name) = names.iter().find(|name| !is_early(name)).filter(|_| !names.iter().any(|name| name == NAME))
        {
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
        let found = io.read_small(&superblock_path).map_err(OpenError::io("read", &superblock_path))?;
        let superblock = match found {
            Some(page) => Superblock::decode(&superblock_path, &page)?,
            None => Self::create(io, path, geometry)?,
        };
        check_geometry(path, &superblock, geometry)?;
        let was_clean = superblock.clean;
        let mut directory = Self { io: io.clone(), path: path.to_path_buf(), superblock, was_clean, _lock: lock };
        directory.replace(false)?;
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
        })
    }

    fn replace(&mut self, clean: bool) -> Result<(), OpenError> {
        let superblock = Superblock { clean, generation: self.superblock.generation + 1, ..self.superblock };
        let path = self.path.join(NAME);
        match self.io.replace_small(&path, &superblock.encode()) {
            Ok(()) => self.superblock = superblock,
            Err(source) if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                return Err(OpenError::NotWritable { path: self.path.clone(), source });
            }
            Err(source) => return Err(OpenError::Io { action: "write", path, source }),
        }
        Ok(())
    }

    /// Marks the store as cleanly stopped. Everything else is on disk already.
    ///
    /// # Errors
    /// When the superblock cannot be written; the next start treats the stop as a crash.
    pub fn close(mut self) -> Result<(), OpenError> {
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
        self.path.join(format!("shard-{shard:04}"))
    }
}

fn check_geometry(path: &Path, superblock: &Superblock, geometry: Geometry) -> Result<(), OpenError> {
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
