//! Writing a piece of a checkpoint.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dma_alloc::Buffer;

use super::format::{
    CHUNK_SIZE, ENTRIES_PER_CHUNK, Header, TABLES_PER_PAGE, TableInPiece, encode_entry, encode_tables, entries_start,
    is_full_chunk, seal_chunk,
};
use super::{Position, UNFINISHED};
use crate::digest::Digest;
use crate::index::Entry;
use crate::io::{File, Io};
use crate::limits::{CHECKPOINT_SIZE_MAX, MIB, PAGE_SIZE};

/// Bytes by which the file is lengthened when there are more entries than were expected.
const GROWTH_SIZE: u64 = MIB as u64;

/// A piece that is being written, under a name that no start looks at.
pub struct PieceWriter<I: Io> {
    io: I,
    path: PathBuf,
    file: I::File,
    header: Header,
    tables: Vec<TableInPiece>,
    chunk: Vec<u8>,
    full: Vec<Vec<u8>>,
    chunk_count: u32,
}

impl<I: Io> PieceWriter<I> {
    /// Begins a piece of the shard in `directory`, with room for about `len_expected` entries. Of `header`, only what is
    /// known by now has to be right: not what [`Self::finish`] is told, nor counts and size.
    ///
    /// # Errors
    /// What the file system says; nothing is left behind then.
    pub async fn create(
        io: &I,
        directory: &Path,
        header: Header,
        tables: Vec<TableInPiece>,
        len_expected: usize,
    ) -> Result<Self> {
        let path = header.piece.path(directory);
        let chunk_count = len_expected.div_ceil(ENTRIES_PER_CHUNK) as u64;
        let file_size = entries_start(tables.len()) + chunk_count * CHUNK_SIZE as u64;
        // Left behind by a stop in the middle of this.
        let _ = io.remove(&unfinished(&path));
        let file = io.create(&unfinished(&path), file_size).await?;
        let table_count = u32::try_from(tables.len()).expect("TABLE_COUNT_MAX fits");
        let header = Header { table_count, entry_count: 0, file_size, ..header };
        Ok(Self { io: io.clone(), path, file, header, tables, chunk: Vec::new(), full: Vec::new(), chunk_count: 0 })
    }

    /// Adds the next entry, in the order of the index. It is written by [`Self::write`].
    pub fn push(&mut self, digest: &Digest, entry: Entry) {
        encode_entry(&mut self.chunk, digest, entry);
        if is_full_chunk(&self.chunk) {
            self.end_chunk();
        }
    }

    fn end_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        let number = self.chunk_count + u32::try_from(self.full.len()).expect("few wait to be written");
        self.header.entry_count += seal_chunk(&mut chunk, self.header.place(number, true)) as u64;
        self.full.push(chunk);
    }

    /// Writes what was added, but for what does not fill a chunk yet.
    ///
    /// # Errors
    /// What a write says, and [`FileTooLarge`](std::io::ErrorKind::FileTooLarge) beyond [`CHECKPOINT_SIZE_MAX`]. The
    /// piece is to be abandoned then.
    pub async fn write(&mut self) -> Result<()> {
        for chunk in std::mem::take(&mut self.full) {
            let offset = self.header.entries_start() + u64::from(self.chunk_count) * CHUNK_SIZE as u64;
            let end = offset + CHUNK_SIZE as u64;
            if end > CHECKPOINT_SIZE_MAX {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            if end > self.header.file_size {
                self.header.file_size = end.max(self.header.file_size + GROWTH_SIZE).min(CHECKPOINT_SIZE_MAX);
                self.file.allocate(self.header.file_size).await?;
            }
            let mut buffer = Buffer::zeroed(CHUNK_SIZE);
            buffer.copy_from_slice(&chunk);
            self.file.write_at(offset, CHUNK_SIZE, Rc::new(buffer)).await?;
            self.chunk_count += 1;
        }
        Ok(())
    }

    /// Writes the rest, and gives the piece its name in the place of the one before: it is on stable media, as is
    /// everything that it knows of, for which the caller has seen. Returns the size of the file in bytes.
    ///
    /// # Errors
    /// What the file system says; the piece before is as it was then.
    pub async fn finish(mut self, end: PieceEnd) -> Result<u64> {
        let result = self.try_finish(end).await;
        if result.is_err() {
            self.abandon();
        }
        result
    }

    async fn try_finish(&mut self, end: PieceEnd) -> Result<u64> {
        if !self.chunk.is_empty() {
            self.end_chunk();
        }
        self.write().await?;
        for (number, part) in (0..).zip(end.tables_of(&self.tables).chunks(TABLES_PER_PAGE)) {
            let mut page = Buffer::zeroed(PAGE_SIZE);
            encode_tables(&mut page, self.header.place(number, false), part);
            self.file.write_at(u64::from(number + 1) * PAGE_SIZE as u64, PAGE_SIZE, Rc::new(page)).await?;
        }
        let PieceEnd { until, version, next_sequence, written, .. } = end;
        let header = Header { until, version, next_sequence, written, ..self.header };
        let mut page = Buffer::zeroed(PAGE_SIZE);
        header.encode(&mut page);
        self.file.write_at(0, PAGE_SIZE, Rc::new(page)).await?;
        self.file.sync().await?;
        self.io.rename(&unfinished(&self.path), &self.path)?;
        Ok(header.file_size)
    }

    /// Ends without a piece.
    pub fn abandon(self) {
        // What is left of it is removed when it is written next.
        let _ = self.io.remove(&unfinished(&self.path));
    }
}

/// What is known when all entries of a piece were added.
#[derive(Clone, Debug)]
pub struct PieceEnd {
    /// Nothing that it knows of was written from here on.
    pub until: Position,
    /// The shard's version.
    pub version: u64,
    /// The sequence of the next table.
    pub next_sequence: u64,
    /// The unix second.
    pub written: u64,
    /// The tables as they are now.
    pub tables: Vec<TableInPiece>,
}

impl PieceEnd {
    /// The tables as they were at the beginning, with the guards that have come since.
    fn tables_of(&self, begun: &[TableInPiece]) -> Vec<TableInPiece> {
        let now = |table: &TableInPiece| {
            let place = self.tables.binary_search_by_key(&table.slot, |now| now.slot).ok()?;
            let now = self.tables[place];
            (now.sequence == table.sequence).then_some(TableInPiece { known: table.known, ..now })
        };
        begun.iter().map(|table| now(table).unwrap_or(*table)).collect()
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}
