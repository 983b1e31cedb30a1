//! Finding a checkpoint, and reading its entries in the order of the index.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use dma_alloc::Buffer;

use super::format::{
    CHUNK_SIZE, Damage, Header, Known, TABLES_PER_PAGE, TableInPiece, chunk_entry, decode_chunk, decode_tables,
};
use super::{Piece, Position};
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::disktable::format::Identity;
use crate::index::{Entry, Index};
use crate::io::{File, Io};
use crate::limits::{MIB, PAGE_SIZE};
use crate::mutants::{Mutant, has};

/// Chunks that are read at once.
const CHUNKS_PER_READ: u64 = (MIB / CHUNK_SIZE) as u64;

/// Why a piece cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// It is not what it should be.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A whole set of pieces whose headers and lists of tables are sound.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    /// By the number of the piece.
    headers: Vec<Header>,
    /// By slot and sequence.
    tables: BTreeMap<(u32, u64), KnownTable>,
}

/// What the pieces know of a use of a table.
#[derive(Clone, Debug, Default)]
struct KnownTable {
    /// Numbers of pieces, with what of it there was when they were begun, for those that name it.
    known_in: Vec<(u32, Known)>,
    guarded: Guarded,
}

/// What a table keeps dead, as far as the pieces know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded {
    /// See [`Table::guarded_until`](crate::disktable::catalog::Table::guarded_until).
    pub guarded_until: u64,
    /// See [`Table::older_until`](crate::disktable::catalog::Table::older_until).
    pub older_until: u64,
    /// See [`Table::dropped`](crate::disktable::catalog::Table::dropped).
    pub is_dropped: bool,
    /// See [`Table::doubled`](crate::disktable::catalog::Table::doubled).
    pub is_doubled: bool,
    /// See [`Table::touched`](crate::disktable::catalog::Table::touched).
    pub is_touched: bool,
}

impl Checkpoint {
    /// By the number of the piece: the version of the last write when it was begun.
    pub fn from_versions(&self) -> impl Iterator<Item = u64> {
        self.headers.iter().map(|header| header.from_version)
    }

    /// Whether all pieces were begun after the last record was written to a use of a table, which ends at `records_end` now:
    /// nothing in it is news.
    #[must_use]
    pub fn knows_all_of(&self, slot: u32, sequence: u64, records_end: u32) -> bool {
        let knows_all = |known: &Known| known.is_complete && records_end <= known.end;
        self.tables.get(&(slot, sequence)).is_some_and(|table| {
            table.known_in.len() == self.headers.len() && table.known_in.iter().all(|(_, known)| knows_all(known))
        })
    }

    /// By the number of the piece: the offset up to which the records in a use of a table were there when it was begun.
    #[must_use]
    pub fn known_ends(&self, slot: u32, sequence: u64) -> Vec<u32> {
        let mut ends = vec![0; self.headers.len()];
        let known_in = self.tables.get(&(slot, sequence)).map_or(&[][..], |table| &table.known_in);
        known_in.iter().for_each(|(number, known)| ends[*number as usize] = known.end);
        ends
    }

    /// Where the log must not end before.
    #[must_use]
    pub fn until(&self) -> Position {
        self.headers.iter().map(|header| header.until).max().unwrap_or_default()
    }

    /// The highest version that was given out, as far as the pieces know.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.headers.iter().map(|header| header.version).max().unwrap_or(0)
    }

    /// The lowest sequence that a new table may have, as far as the pieces know.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.headers.iter().map(|header| header.next_sequence).max().unwrap_or(0)
    }

    /// When a delayed flush was due when the last piece was begun, the version of the last write then, and the sequence of the
    /// table that was written to.
    #[must_use]
    pub fn flush(&self) -> (Option<Seconds>, u64, u64) {
        let last = self.headers.iter().max_by_key(|header| header.from_version);
        last.map_or((None, 0, 0), |last| (last.flush_due, last.from_version, last.from.sequence))
    }

    /// Number of entries of pieces that are not void because of a flush with the version `void_below`; not all may count.
    #[must_use]
    pub fn entry_count(&self, void_below: u64) -> u64 {
        let counts = self.headers.iter().filter(|header| header.from_version >= void_below);
        counts.map(|header| header.entry_count).sum()
    }

    /// Number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.headers.len()).expect("CHECKPOINT_PIECE_COUNT_MAX fits")
    }

    /// The piece that is to be written next: the one that makes a replay long.
    #[must_use]
    pub fn stalest(&self) -> u32 {
        self.headers.iter().min_by_key(|header| header.from_version).map_or(0, |header| header.piece.number)
    }

    /// What a use of a table keeps dead, as far as the pieces know.
    #[must_use]
    pub fn guarded(&self, slot: u32, sequence: u64) -> Guarded {
        self.tables.get(&(slot, sequence)).map_or_else(Guarded::default, |table| table.guarded)
    }

    fn is_older_than(&self, other: &Self) -> bool {
        let from_version = |set: &Self| set.from_versions().min();
        from_version(self) <= from_version(other)
    }

    fn add(&mut self, header: Header, tables: Vec<TableInPiece>) {
        for table in tables {
            let known = self.tables.entry((table.slot, table.sequence)).or_default();
            let guarded = &mut known.guarded;
            guarded.guarded_until = guarded.guarded_until.max(table.guarded_until);
            guarded.older_until = guarded.older_until.max(table.older_until);
            guarded.is_dropped |= table.is_dropped;
            guarded.is_doubled |= table.is_doubled;
            guarded.is_touched |= table.is_touched;
            known.known_in.push((header.piece.number, table.known));
        }
        self.headers.push(header);
    }
}

/// The best whole set of pieces in a shard's directory. What is wrong with one goes to `damaged`.
///
/// # Errors
/// When the directory cannot be listed.
pub async fn find<I: Io>(
    io: &I,
    directory: &Path,
    identity: Identity,
    generation: u64,
    mut damaged: impl FnMut(&Path, &PieceError),
) -> io::Result<Option<Checkpoint>> {
    let mut sets: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
    for piece in io.list(directory)?.iter().filter_map(|name| Piece::of_name(name)) {
        sets.entry(piece.count).or_default().push(piece);
    }
    let mut best: Option<Checkpoint> = None;
    for (count, mut pieces) in sets {
        pieces.sort_by_key(|piece| piece.number);
        let mut set = Checkpoint { directory: directory.to_path_buf(), headers: Vec::new(), tables: BTreeMap::new() };
        for piece in pieces {
            match read_front(io, directory, identity, piece).await {
                Ok((header, _)) if header.generation > generation => {
                    damaged(&piece.path(directory), &Damage::Generation.into());
                }
                Ok((header, tables)) => set.add(header, tables),
                Err(error) => damaged(&piece.path(directory), &error),
            }
        }
        let is_whole = set.headers.len() == count as usize;
        if is_whole && best.as_ref().is_none_or(|best| best.is_older_than(&set)) {
            best = Some(set);
        }
    }
    Ok(best)
}

/// The header of a piece, and its list of tables.
async fn read_front<I: Io>(
    io: &I,
    directory: &Path,
    identity: Identity,
    piece: Piece,
) -> Result<(Header, Vec<TableInPiece>), PieceError> {
    let file = io.open(&piece.path(directory)).await?;
    let (page, count) = file.read_at(0, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await?;
    let header = Header::decode(&page[..count], identity, piece, file.size().await?)?;
    let page_count = u32::try_from((header.table_count as usize).div_ceil(TABLES_PER_PAGE)).unwrap_or(u32::MAX);
    let mut tables = Vec::new();
    for number in 0..page_count {
        let offset = u64::from(number + 1) * PAGE_SIZE as u64;
        let (page, count) = file.read_at(offset, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await?;
        if count < PAGE_SIZE {
            return Err(Damage::Length.into());
        }
        tables.extend(decode_tables(&page, header.place(number, false))?);
    }
    if tables.len() != header.table_count as usize {
        return Err(Damage::Checksum.into());
    }
    Ok((header, tables))
}

/// Reads all of a piece, and returns its header and the tables that its entries point into.
///
/// # Errors
/// [`PieceError`], when it is not what was written.
pub(in crate::recovery) async fn verify_piece<I: Io>(
    io: &I,
    directory: &Path,
    identity: Identity,
    piece: Piece,
) -> Result<(Header, Vec<TableInPiece>), PieceError> {
    let (header, tables) = read_front(io, directory, identity, piece).await?;
    let file = io.open(&piece.path(directory)).await?;
    let mut buffer = Buffer::zeroed(CHUNK_SIZE);
    let mut entry_count = 0;
    for number in 0..header.chunk_count() {
        let offset = header.entries_start() + number * CHUNK_SIZE as u64;
        let (chunk, count) = file.read_at(offset, CHUNK_SIZE, buffer).await?;
        let place = header.place(u32::try_from(number).map_err(|_| Damage::Length)?, true);
        entry_count += decode_chunk(&chunk[..count], place)? as u64;
        buffer = chunk;
        io.yield_now().await;
    }
    if entry_count == header.entry_count { Ok((header, tables)) } else { Err(Damage::Length.into()) }
}

/// What a table on disk is to entries that point into it.
#[derive(Clone, Copy, Debug, Default)]
pub struct InUse {
    /// The sequence of its use; 0 when it is free.
    pub sequence: u64,
    /// Where its records end.
    pub end: u32,
}

/// An entry of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct KnownEntry {
    /// The key's.
    pub digest: Digest,
    /// What the index said of it.
    pub entry: Entry,
    /// Whether what it points at is still there.
    pub is_valid: bool,
}

/// The entries of a checkpoint, in the order of the index.
pub struct Entries<'a, I: Io> {
    io: &'a I,
    checkpoint: &'a Checkpoint,
    identity: Identity,
    /// By slot.
    tables: &'a [InUse],
    /// The piece that is read, and its file.
    piece: usize,
    file: Option<I::File>,
    /// Where the records of tables end that are in the same use as the piece knows them; 0 for the others.
    ends: Vec<u32>,
    next_chunk: u64,
    buffer: Buffer,
    /// Entries of each chunk in the buffer.
    counts: Vec<usize>,
    chunk: usize,
    number: usize,
    current: Option<KnownEntry>,
    count: u64,
    void_below: u64,
}

impl<'a, I: Io> Entries<'a, I> {
    /// The entries of `checkpoint` for the tables that there are.
    pub fn new(io: &'a I, checkpoint: &'a Checkpoint, identity: Identity, tables: &'a [InUse]) -> Self {
        Self {
            io,
            checkpoint,
            identity,
            tables,
            piece: 0,
            file: None,
            ends: Vec::new(),
            next_chunk: 0,
            buffer: Buffer::zeroed(MIB),
            counts: Vec::new(),
            chunk: 0,
            number: 0,
            current: None,
            count: 0,
            void_below: 0,
        }
    }

    /// A flush has the version `version`: pieces that were begun before it are void.
    pub fn forget_below(&mut self, version: u64) {
        self.void_below = version;
    }

    /// Pieces that are read.
    pub const fn piece(&self) -> usize {
        self.piece
    }

    /// Entries that were read, those that do not count included.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The file that is read.
    pub fn path(&self) -> PathBuf {
        let header = self.checkpoint.headers.get(self.piece).or_else(|| self.checkpoint.headers.last());
        header.map_or_else(PathBuf::new, |header| header.piece.path(&self.checkpoint.directory))
    }

    /// The next entry, if it is in memory: then [`Self::advance`] goes on, otherwise [`Self::read_on`] does.
    #[inline]
    pub const fn current(&self) -> Option<&KnownEntry> {
        self.current.as_ref()
    }

    /// Goes to the next entry in memory.
    #[inline]
    pub fn advance(&mut self) {
        self.current = None;
        while let Some(count) = self.counts.get(self.chunk) {
            if self.number == *count {
                (self.chunk, self.number) = (self.chunk + 1, 0);
                continue;
            }
            let found = chunk_entry(&self.buffer[self.chunk * CHUNK_SIZE..], self.number);
            self.number += 1;
            self.current = found.map(|(digest, entry)| {
                let end = self.ends.get(entry.pointer.slot as usize);
                KnownEntry { digest, entry, is_valid: end.is_some_and(|end| entry.pointer.offset < *end) }
            });
            if self.current.is_some() {
                return;
            }
        }
    }

    /// Reads more entries, when none is in memory. Says whether there were more.
    ///
    /// # Errors
    /// [`PieceError`] with the path: then nothing of the checkpoint counts.
    pub async fn read_on(&mut self) -> Result<bool, (PathBuf, PieceError)> {
        while self.current.is_none() {
            let Some(header) = self.checkpoint.headers.get(self.piece) else { return Ok(false) };
            let read = self.read_part(header).await;
            read.map_err(|error| (header.piece.path(&self.checkpoint.directory), error))?;
            self.advance();
        }
        Ok(true)
    }

    async fn read_part(&mut self, header: &Header) -> Result<(), PieceError> {
        self.counts.clear();
        (self.chunk, self.number) = (0, 0);
        if header.from_version < self.void_below {
            self.piece += 1;
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => self.begin_piece(header).await?,
        };
        let count = header.chunk_count().saturating_sub(self.next_chunk).min(CHUNKS_PER_READ);
        if count == 0 {
            (self.piece, self.next_chunk) = (self.piece + 1, 0);
            return Ok(());
        }
        let size = count as usize * CHUNK_SIZE;
        let offset = header.entries_start() + self.next_chunk * CHUNK_SIZE as u64;
        let buffer = std::mem::replace(&mut self.buffer, Buffer::zeroed(PAGE_SIZE));
        let (buffer, read) = file.read_at(offset, size, buffer).await?;
        self.buffer = buffer;
        if read < size {
            return Err(Damage::Length.into());
        }
        for (number, chunk) in (self.next_chunk..).zip(self.buffer[..size].chunks(CHUNK_SIZE)) {
            let number = u32::try_from(number).map_err(|_| Damage::Length)?;
            let count = decode_chunk(chunk, header.place(number, true))?;
            self.counts.push(count);
            self.count += count as u64;
        }
        if let Some((digest, _)) = chunk_entry(&self.buffer, 0)
            && !header.piece.holds(Index::prefix(&digest))
        {
            return Err(Damage::Order.into());
        }
        self.next_chunk += count;
        self.file = Some(file);
        Ok(())
    }

    async fn begin_piece(&mut self, header: &Header) -> Result<I::File, PieceError> {
        let (again, tables) = read_front(self.io, &self.checkpoint.directory, self.identity, header.piece).await?;
        if again != *header {
            return Err(Damage::Checksum.into());
        }
        self.ends.clear();
        self.ends.resize(self.tables.len(), 0);
        for table in tables {
            let slot = table.slot as usize;
            let is_same = |now: &&InUse| now.sequence == table.sequence || has(Mutant::CheckpointOfAnotherTime);
            if let Some(now) = self.tables.get(slot).filter(is_same) {
                self.ends[slot] = now.end;
            }
        }
        Ok(self.io.open(&header.piece.path(&self.checkpoint.directory)).await?)
    }
}
