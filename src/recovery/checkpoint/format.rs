//! The bytes of a checkpoint's piece. See FORMAT.md.

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Piece, Position};
use crate::clock::Seconds;
use crate::digest::{DIGEST_SIZE, Digest};
use crate::disktable::format::{Identity, page_checksum_matches};
use crate::index::{Entry, Pointer};
use crate::limits::{
    CHECKPOINT_SIZE_MAX, FORMAT_VERSION, FORMAT_VERSIONS_READ, KIB, PAGE_SIZE, RECORD_GRANULE, SHARD_BITS,
    TABLE_COUNT_MAX, TABLE_SIZE_MAX,
};
use crate::record::{Place, SizeClass};

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = size_of::<RawEntry>();
/// Bytes of a chunk of entries, but for the last one.
pub const CHUNK_SIZE: usize = 64 * KIB;
/// Entries of a chunk, but for the last one.
pub const ENTRIES_PER_CHUNK: usize = (CHUNK_SIZE - CHUNK_HEADER_SIZE) / ENTRY_SIZE;
/// Tables on a page.
pub const TABLES_PER_PAGE: usize = (PAGE_SIZE - CHUNK_HEADER_SIZE) / size_of::<RawTable>();

const MAGIC: [u8; 8] = *b"DMACHKPT";
/// Pieces of older format versions are not used: see FORMAT.md.
const FORMAT_VERSION_MIN: u32 = 4;
const CHUNK_HEADER_SIZE: usize = size_of::<RawChunkHeader>();
const CHECKSUM_AT: std::ops::Range<usize> = 8..12;
/// The highest version that makes a CAS unique of 64 bits; no table has a higher sequence either.
const NUMBER_MAX: u64 = u64::MAX >> SHARD_BITS;
/// Bits of an entry's place that are the offset in its table.
const OFFSET_BITS: u32 = (TABLE_SIZE_MAX / RECORD_GRANULE).trailing_zeros();

const _: () = assert!(ENTRY_SIZE == 32);
const _: () = assert!(ENTRIES_PER_CHUNK == 2047);
const _: () = assert!(TABLES_PER_PAGE == 170);
const _: () = assert!(size_of::<RawHeader>() == 152);
const _: () = assert!((TABLE_COUNT_MAX as u64) << OFFSET_BITS <= 1 << 48);

/// What the first page of a piece says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The store and the shard; the slot is 0.
    pub identity: Identity,
    /// Which piece it is.
    pub piece: Piece,
    /// Generation of the superblock when it was written.
    pub generation: u64,
    /// A number of its own, in the checksums of all that follows.
    pub stamp: u64,
    /// Where the log was when it was begun.
    pub from: Position,
    /// The version of the shard's last write then: what was written later has to be replayed.
    pub from_version: u64,
    /// What it knows was written before this.
    pub until: Position,
    /// The shard's version when it was complete.
    pub version: u64,
    /// The sequence of the next table then.
    pub next_sequence: u64,
    /// When a delayed flush is due, as of `from_version`.
    pub flush_due: Option<Seconds>,
    /// Tables that it names.
    pub table_count: u32,
    /// Entries.
    pub entry_count: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Unix second of its completion.
    pub written: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    checksum: U32,
    format_version: U32,
    store_id: [u8; 16],
    shard: U32,
    number: U32,
    count: U32,
    table_count: U32,
    table_size: U64,
    generation: U64,
    stamp: U64,
    from_sequence: U64,
    until_sequence: U64,
    from_offset: U32,
    until_offset: U32,
    version: U64,
    next_sequence: U64,
    entry_count: U64,
    file_size: U64,
    written: U64,
    flush_due: U32,
    reserved: U32,
    from_version: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawChunkHeader {
    checksum: U32,
    number: U32,
    count: U16,
    reserved: [u8; 6],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTable {
    slot: U32,
    known: U32,
    sequence: U64,
    guarded: I32,
    older: I32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    digest: [u8; DIGEST_SIZE],
    expiry: U32,
    place: [u8; 6],
    class: u8,
    hotness: u8,
}

/// Why a piece is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else, or nothing.
    #[error("it does not begin as a piece of a checkpoint does")]
    Magic,
    /// Written by a newer program.
    #[error("it has format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
    /// Written by an older program, which took the order of the tables for that of the writes.
    #[error("it was written by an older version of this program")]
    Outdated,
    /// Bits have changed.
    #[error("a checksum does not match")]
    Checksum,
    /// Not of this store, shard or table size, or under another piece's name.
    #[error("it belongs to another store, shard, table size or name")]
    Foreign,
    /// The file has another length than it was written with.
    #[error("its length is not the one that it was written with")]
    Length,
    /// It was written by a store with a higher generation: the superblock was restored from a copy.
    #[error("it is of a later time than the superblock")]
    Generation,
    /// The tables end before what it knows.
    #[error("it knows of records behind the end of what the tables hold")]
    Log,
    /// No store has come to the sequences or versions in its header.
    #[error("the numbers in its header make no sense")]
    Numbers,
    /// Its entries are not in order, or not in its range.
    #[error("its entries are not in order")]
    Order,
}

impl Header {
    /// Writes the page.
    ///
    /// # Panics
    /// When `page` is not a page long.
    pub fn encode(&self, page: &mut [u8]) {
        assert_eq!(page.len(), PAGE_SIZE, "a header is a whole page");
        page.fill(0);
        let raw = RawHeader {
            magic: MAGIC,
            checksum: U32::ZERO,
            format_version: U32::new(FORMAT_VERSION),
            store_id: self.identity.store_id,
            shard: U32::new(self.identity.shard),
            number: U32::new(self.piece.number),
            count: U32::new(self.piece.count),
            table_count: U32::new(self.table_count),
            table_size: U64::new(self.identity.table_size),
            generation: U64::new(self.generation),
            stamp: U64::new(self.stamp),
            from_sequence: U64::new(self.from.sequence),
            until_sequence: U64::new(self.until.sequence),
            from_offset: U32::new(self.from.offset),
            until_offset: U32::new(self.until.offset),
            version: U64::new(self.version),
            next_sequence: U64::new(self.next_sequence),
            entry_count: U64::new(self.entry_count),
            file_size: U64::new(self.file_size),
            written: U64::new(self.written),
            flush_due: U32::new(self.flush_due.unwrap_or(0)),
            reserved: U32::ZERO,
            from_version: U64::new(self.from_version),
        };
        page[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        let checksum = crc32c::crc32c(page);
        page[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the first page of what should be `piece` of the shard of `identity`, in a file of `file_size` bytes.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode(page: &[u8], identity: Identity, piece: Piece, file_size: u64) -> Result<Self, Damage> {
        let (raw, _) = RawHeader::ref_from_prefix(page).map_err(|_| Damage::Magic)?;
        if page.len() != PAGE_SIZE || raw.magic != MAGIC {
            return Err(Damage::Magic);
        }
        if !page_checksum_matches(page) {
            return Err(Damage::Checksum);
        }
        if !FORMAT_VERSIONS_READ.contains(&raw.format_version.get()) {
            return Err(Damage::Version(raw.format_version.get()));
        }
        if raw.format_version.get() < FORMAT_VERSION_MIN {
            return Err(Damage::Outdated);
        }
        let found = Piece { number: raw.number.get(), count: raw.count.get() };
        let of = Identity { store_id: raw.store_id, shard: raw.shard.get(), slot: 0, table_size: raw.table_size.get() };
        if (found, of) != (piece, Identity { slot: 0, ..identity }) {
            return Err(Damage::Foreign);
        }
        let header = Self {
            identity: of,
            piece,
            generation: raw.generation.get(),
            stamp: raw.stamp.get(),
            from: Position { sequence: raw.from_sequence.get(), offset: raw.from_offset.get() },
            from_version: raw.from_version.get(),
            until: Position { sequence: raw.until_sequence.get(), offset: raw.until_offset.get() },
            version: raw.version.get(),
            next_sequence: raw.next_sequence.get(),
            flush_due: Some(raw.flush_due.get()).filter(|due| *due > 0),
            table_count: raw.table_count.get(),
            entry_count: raw.entry_count.get(),
            file_size: raw.file_size.get(),
            written: raw.written.get(),
        };
        let fits = header.entry_count <= CHECKPOINT_SIZE_MAX / ENTRY_SIZE as u64
            && header.table_count as usize <= TABLE_COUNT_MAX
            && header.end() <= header.file_size;
        if header.file_size != file_size || !fits {
            return Err(Damage::Length);
        }
        let is_in_order = header.from <= header.until && header.until.sequence < header.next_sequence;
        let is_in_order = is_in_order && header.from_version <= header.version;
        if !is_in_order || header.next_sequence.max(header.version) > NUMBER_MAX {
            return Err(Damage::Numbers);
        }
        Ok(header)
    }

    /// Where the entries begin, in bytes.
    #[must_use]
    pub fn entries_start(&self) -> u64 {
        entries_start(self.table_count as usize)
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.entry_count.div_ceil(ENTRIES_PER_CHUNK as u64)
    }

    /// Where the entries end.
    fn end(&self) -> u64 {
        self.entries_start() + self.chunk_count() * CHUNK_SIZE as u64
    }

    /// What the checksum of page `number` of the tables, or of a chunk, is seeded with.
    #[must_use]
    pub const fn place(&self, number: u32, is_chunk: bool) -> Place {
        Place { slot: self.piece.number << 1 | is_chunk as u32, sequence: self.stamp, offset: number }
    }
}

/// Where the entries begin behind so many tables, in bytes.
#[must_use]
pub fn entries_start(table_count: usize) -> u64 {
    ((1 + table_count.div_ceil(TABLES_PER_PAGE)) * PAGE_SIZE) as u64
}

/// A table as a piece knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInPiece {
    /// Its slot.
    pub slot: u32,
    /// Which use of it the entries mean.
    pub sequence: u64,
    /// What of it there was when the piece was begun.
    pub known: Known,
    /// See [`Table::guarded_until`](crate::disktable::catalog::Table::guarded_until).
    pub guarded_until: u64,
    /// See [`Table::older_until`](crate::disktable::catalog::Table::older_until).
    pub older_until: u64,
    /// Values left the index that nothing has replaced: see
    /// [`Table::dropped`](crate::disktable::catalog::Table::dropped).
    pub is_dropped: bool,
    /// See [`Table::doubled`](crate::disktable::catalog::Table::doubled).
    pub is_doubled: bool,
    /// See [`Table::touched`](crate::disktable::catalog::Table::touched).
    pub is_touched: bool,
}

impl TableInPiece {
    /// The known end, with flags in the bits that are zero in any.
    fn known_and_flags(&self) -> u32 {
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        (self.known.end & !Known::BITS)
            | flag(self.known.is_complete, Known::COMPLETE_BIT)
            | flag(self.is_dropped, Known::DROPPED_BIT)
            | flag(self.is_doubled, Known::DOUBLED_BIT)
            | flag(self.is_touched, Known::TOUCHED_BIT)
    }
}

/// What of a table there was when a piece was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Nothing was written to it any more, unless a start went on with it.
    pub is_complete: bool,
    /// Records in front of this offset, in bytes, were there; others may have been appended since.
    pub end: u32,
}

impl Known {
    /// Bits of an offset that are always zero.
    const BITS: u32 = RECORD_GRANULE as u32 - 1;
    const COMPLETE_BIT: u32 = 1;
    const DROPPED_BIT: u32 = 2;
    const DOUBLED_BIT: u32 = 4;
    const TOUCHED_BIT: u32 = 8;
}

/// From a table to one that lies `sequence - until` sequences before it; what is too far away becomes nearer, or later, which
/// is never wrong. 0 is none.
fn distance_to(sequence: u64, until: u64) -> i32 {
    let back = i64::try_from(sequence).unwrap_or(i64::MAX) - i64::try_from(until).unwrap_or(i64::MAX);
    if until == 0 { i32::MAX } else { i32::try_from(back.min(i64::from(i32::MAX) - 1)).unwrap_or(i32::MIN) }
}

fn until(sequence: u64, distance: i32) -> u64 {
    if distance == i32::MAX { 0 } else { sequence.saturating_add_signed(-i64::from(distance)) }
}

/// Writes a page of tables, at most [`TABLES_PER_PAGE`].
pub fn encode_tables(page: &mut [u8], place: Place, tables: &[TableInPiece]) {
    page.fill(0);
    for (part, table) in page[CHUNK_HEADER_SIZE..].chunks_exact_mut(size_of::<RawTable>()).zip(tables) {
        let raw = RawTable {
            slot: U32::new(table.slot),
            known: U32::new(table.known_and_flags()),
            sequence: U64::new(table.sequence),
            guarded: I32::new(distance_to(table.sequence, table.guarded_until)),
            older: I32::new(distance_to(table.sequence, table.older_until)),
        };
        part.copy_from_slice(raw.as_bytes());
    }
    seal(page, place, tables.len());
}

/// The tables of a page.
///
/// # Errors
/// [`Damage::Checksum`].
pub fn decode_tables(page: &[u8], place: Place) -> Result<impl Iterator<Item = TableInPiece> + '_, Damage> {
    let count = verify(page, place)?;
    let tables = page[CHUNK_HEADER_SIZE..].chunks_exact(size_of::<RawTable>()).take(count);
    Ok(tables.filter_map(|part| {
        let raw = RawTable::ref_from_bytes(part).ok()?;
        let (slot, sequence) = (raw.slot.get(), raw.sequence.get());
        let known = raw.known.get();
        let is_set = |bit| known & bit != 0;
        let guarded_until = until(sequence, raw.guarded.get());
        let older_until = until(sequence, raw.older.get());
        ((slot as usize) < TABLE_COUNT_MAX).then_some(TableInPiece {
            slot,
            sequence,
            known: Known { is_complete: is_set(Known::COMPLETE_BIT), end: known & !Known::BITS },
            guarded_until,
            older_until,
            is_dropped: is_set(Known::DROPPED_BIT),
            is_doubled: is_set(Known::DOUBLED_BIT),
            is_touched: is_set(Known::TOUCHED_BIT),
        })
    }))
}

/// Appends an entry to the chunk that `bytes` becomes.
pub fn encode_entry(bytes: &mut Vec<u8>, digest: &Digest, entry: Entry) {
    if bytes.is_empty() {
        bytes.resize(CHUNK_HEADER_SIZE, 0);
    }
    let place = u64::from(entry.pointer.slot) << OFFSET_BITS | u64::from(entry.pointer.offset / RECORD_GRANULE as u32);
    let raw = RawEntry {
        digest: digest.0,
        expiry: U32::new(entry.expiry),
        place: *place.to_le_bytes().first_chunk().expect("six of eight bytes"),
        class: entry.class.0,
        hotness: entry.hotness,
    };
    bytes.extend_from_slice(raw.as_bytes());
}

/// Whether a chunk that [`encode_entry`] has made has room for no more.
#[must_use]
pub fn is_full_chunk(bytes: &[u8]) -> bool {
    bytes.len() + ENTRY_SIZE > CHUNK_SIZE
}

/// Completes a chunk, which is [`CHUNK_SIZE`] long then, and returns the number of its entries.
pub fn seal_chunk(bytes: &mut Vec<u8>, place: Place) -> usize {
    let count = bytes.len().saturating_sub(CHUNK_HEADER_SIZE) / ENTRY_SIZE;
    bytes.resize(CHUNK_SIZE, 0);
    seal(bytes, place, count);
    count
}

/// The entries of a chunk.
///
/// # Errors
/// [`Damage::Checksum`].
pub fn decode_chunk(chunk: &[u8], place: Place) -> Result<usize, Damage> {
    let count = verify(chunk, place)?;
    if count == 0 || count > ENTRIES_PER_CHUNK { Err(Damage::Checksum) } else { Ok(count) }
}

/// The entry with this number of a chunk that [`decode_chunk`] has verified; `None` when it makes no sense.
#[must_use]
#[inline]
pub fn chunk_entry(chunk: &[u8], number: usize) -> Option<(Digest, Entry)> {
    let start = CHUNK_HEADER_SIZE + number * ENTRY_SIZE;
    let raw = RawEntry::ref_from_bytes(chunk.get(start..start + ENTRY_SIZE)?).ok()?;
    let mut place = [0; 8];
    place[..6].copy_from_slice(&raw.place);
    let place = u64::from_le_bytes(place);
    let (slot, granule) = (place >> OFFSET_BITS, place & ((1 << OFFSET_BITS) - 1));
    let pointer = Pointer { slot: u32::try_from(slot).ok()?, offset: granule as u32 * RECORD_GRANULE as u32 };
    let entry = Entry { hotness: raw.hotness & 3, ..Entry::new(pointer, SizeClass(raw.class), raw.expiry.get()) };
    Some((Digest(raw.digest), entry))
}

fn seal(bytes: &mut [u8], place: Place, count: usize) {
    let header = RawChunkHeader {
        checksum: U32::ZERO,
        number: U32::new(place.offset),
        count: U16::new(u16::try_from(count).expect("at most 2047")),
        reserved: [0; 6],
    };
    bytes[..CHUNK_HEADER_SIZE].copy_from_slice(header.as_bytes());
    let checksum = crc32c::crc32c_append(place.seed(), &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn verify(bytes: &[u8], place: Place) -> Result<usize, Damage> {
    let (header, _) = RawChunkHeader::ref_from_prefix(bytes).map_err(|_| Damage::Checksum)?;
    let checksum = crc32c::crc32c_append(place.seed(), &bytes[4..]);
    if checksum != header.checksum.get() || header.number.get() != place.offset {
        return Err(Damage::Checksum);
    }
    Ok(usize::from(header.count.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Piece = Piece { number: 1, count: 4 };
    const IDENTITY: Identity = Identity { store_id: [9; 16], shard: 2, slot: 0, table_size: 1 << 20 };

    fn header() -> Header {
        Header {
            identity: IDENTITY,
            piece: PIECE,
            generation: 3,
            stamp: 77,
            from: Position { sequence: 5, offset: 8192 },
            from_version: 1200,
            until: Position { sequence: 6, offset: 4096 },
            version: 1234,
            next_sequence: 9,
            flush_due: Some(17),
            table_count: 171,
            entry_count: 5000,
            file_size: 3 * 4096 + 3 * 65536,
            written: 99,
        }
    }

    #[test]
    fn a_header_reads_back_and_any_flipped_bit_is_damage() {
        let mut page = vec![0; PAGE_SIZE];
        header().encode(&mut page);
        assert_eq!(Header::decode(&page, IDENTITY, PIECE, header().file_size), Ok(header()));
        let other = Piece { number: 2, count: 4 };
        assert_eq!(Header::decode(&page, IDENTITY, other, header().file_size), Err(Damage::Foreign));
        assert_eq!(Header::decode(&page, IDENTITY, PIECE, 4096), Err(Damage::Length));
        let foreign = Identity { shard: 0, ..IDENTITY };
        assert_eq!(Header::decode(&page, foreign, PIECE, header().file_size), Err(Damage::Foreign));
        for bit in 0..PAGE_SIZE * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&page, IDENTITY, PIECE, header().file_size).is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn entries_and_tables_read_back_where_they_were_meant_for() {
        let entry = |number: u32| Entry {
            hotness: (number % 4) as u8,
            ..Entry::new(Pointer { slot: number, offset: 4096 + number * 16 }, SizeClass(number as u8), number)
        };
        let mut bytes = Vec::new();
        for number in 0..ENTRIES_PER_CHUNK as u32 {
            assert!(!is_full_chunk(&bytes));
            encode_entry(&mut bytes, &Digest([number as u8; 20]), entry(number));
        }
        assert!(is_full_chunk(&bytes));
        let place = header().place(7, true);
        assert_eq!(seal_chunk(&mut bytes, place), ENTRIES_PER_CHUNK);
        assert_eq!(decode_chunk(&bytes, place), Ok(ENTRIES_PER_CHUNK));
        for number in 0..ENTRIES_PER_CHUNK as u32 {
            assert_eq!(chunk_entry(&bytes, number as usize), Some((Digest([number as u8; 20]), entry(number))));
        }
        for other in [header().place(8, true), header().place(7, false), Header { stamp: 1, ..header() }.place(7, true)]
        {
            assert_eq!(decode_chunk(&bytes, other), Err(Damage::Checksum));
        }
        let known = |slot: u32| Known { is_complete: slot.is_multiple_of(3), end: slot * 16 };
        let table = |slot: u32| {
            let sequence = 1 + (u64::from(slot) << 33);
            let until = if slot.is_multiple_of(5) { 0 } else { sequence + 7 - u64::from(slot % 15) };
            TableInPiece {
                slot,
                sequence,
                known: known(slot),
                guarded_until: until,
                older_until: sequence,
                is_dropped: slot % 7 == 1,
                is_doubled: slot % 5 == 1,
                is_touched: slot % 3 == 1,
            }
        };
        let tables: Vec<_> = (0..100).map(table).collect();
        let mut page = vec![1; PAGE_SIZE];
        encode_tables(&mut page, place, &tables);
        assert!(decode_tables(&page, place).expect("valid").eq(tables));
    }
}
