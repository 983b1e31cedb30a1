//! The pages of a disktable that are not records: header, trailer and footer. See `FORMAT.md`; this is its code.

use zerocopy::little_endian::{I16, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::clock::Seconds;
use crate::digest::{DIGEST_SIZE, Digest};
use crate::limits::{FORMAT_VERSION, FORMAT_VERSIONS_READ, NUMBER_MAX, PAGE_SIZE, RECORD_GRANULE, TABLE_SIZE_MAX};
use crate::record::{Kind, Place, SizeClass};

/// Bytes of a summary.
pub const SUMMARY_SIZE: usize = size_of::<RawSummary>();
/// Summaries in a footer page.
pub const SUMMARIES_PER_PAGE: usize = (PAGE_SIZE - FOOTER_HEADER_SIZE) / SUMMARY_SIZE;
/// Offset of the first record.
pub const RECORDS_START: usize = PAGE_SIZE;

const FOOTER_HEADER_SIZE: usize = size_of::<RawFooterHeader>();
const CHECKSUM_AT: std::ops::Range<usize> = 8..12;

const _: () = assert!(SUMMARY_SIZE == 40);
const _: () = assert!(SUMMARIES_PER_PAGE == 102);
const _: () = assert!(size_of::<RawMark>() == 80);
const _: () = assert!(TABLE_SIZE_MAX / RECORD_GRANULE <= u32::MAX as usize);

/// Header or trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// First page of a table.
    Header,
    /// First page of a table that is free; the sequence is that of its last use.
    Free,
    /// Last page of a sealed table.
    Trailer,
}

impl MarkKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Header => *b"DMATABLE",
            Self::Free => *b"DMAFREED",
            Self::Trailer => *b"DMASEALD",
        }
    }
}

/// Which table of which store a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store's id.
    pub store_id: [u8; 16],
    /// The shard's number.
    pub shard: u32,
    /// The table's slot in the shard.
    pub slot: u32,
    /// Size of the file in bytes.
    pub table_size: u64,
}

/// What the header or trailer of a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which table it is.
    pub identity: Identity,
    /// Which use of the slot.
    pub sequence: u64,
    /// End of the records, a multiple of the page; 0 in a header.
    pub records_end: u64,
    /// Number of summaries in the footer; 0 in a header.
    pub summary_count: u64,
    /// When the page was written.
    pub written: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMark {
    magic: [u8; 8],
    checksum: U32,
    format_version: U32,
    store_id: [u8; 16],
    shard: U32,
    slot: U32,
    sequence: U64,
    table_size: U64,
    records_end: U64,
    summary_count: U64,
    written: U64,
}

/// Why a page is not the header or trailer that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkDamage {
    /// Not such a page at all: never written, wiped, or something else.
    #[error("it does not begin as a disktable page does")]
    Magic,
    /// Written by a newer program.
    #[error("it has format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
    /// Bits have changed.
    #[error("its checksum does not match")]
    Checksum,
    /// A page of another store, shard, slot or table size.
    #[error("it belongs to another store, shard, slot or table size")]
    Foreign,
    /// Its checksum matches, and no table has such numbers.
    #[error("it says what cannot be")]
    Numbers,
}

impl Mark {
    /// Writes the page.
    ///
    /// # Panics
    /// When `page` is not a page long.
    pub fn encode(&self, kind: MarkKind, page: &mut [u8]) {
        assert_eq!(page.len(), PAGE_SIZE, "marks are whole pages");
        page.fill(0);
        let raw = RawMark {
            magic: kind.magic(),
            checksum: U32::ZERO,
            format_version: U32::new(FORMAT_VERSION),
            store_id: self.identity.store_id,
            shard: U32::new(self.identity.shard),
            slot: U32::new(self.identity.slot),
            sequence: U64::new(self.sequence),
            table_size: U64::new(self.identity.table_size),
            records_end: U64::new(self.records_end),
            summary_count: U64::new(self.summary_count),
            written: U64::new(self.written),
        };
        page[..size_of::<RawMark>()].copy_from_slice(raw.as_bytes());
        let checksum = crc32c::crc32c(page);
        page[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads a page that should be the `kind` of the table `identity`.
    ///
    /// # Errors
    /// [`MarkDamage`], when it is not.
    pub fn decode(kind: MarkKind, page: &[u8], identity: Identity) -> Result<Self, MarkDamage> {
        let (raw, _) = RawMark::ref_from_prefix(page).map_err(|_| MarkDamage::Magic)?;
        if page.len() != PAGE_SIZE || raw.magic != kind.magic() {
            return Err(MarkDamage::Magic);
        }
        if !page_checksum_matches(page) {
            return Err(MarkDamage::Checksum);
        }
        if !FORMAT_VERSIONS_READ.contains(&raw.format_version.get()) {
            return Err(MarkDamage::Version(raw.format_version.get()));
        }
        let found = Identity {
            store_id: raw.store_id,
            shard: raw.shard.get(),
            slot: raw.slot.get(),
            table_size: raw.table_size.get(),
        };
        if found != identity {
            return Err(MarkDamage::Foreign);
        }
        let mark = Self {
            identity,
            sequence: raw.sequence.get(),
            records_end: raw.records_end.get(),
            summary_count: raw.summary_count.get(),
            written: raw.written.get(),
        };
        let is_sound = mark.sequence <= NUMBER_MAX && (kind != MarkKind::Trailer || mark.has_room());
        if is_sound { Ok(mark) } else { Err(MarkDamage::Numbers) }
    }

    /// Whether the records, a footer with so many summaries and the trailer fit into the table.
    fn has_room(&self) -> bool {
        let space = self.identity.table_size.checked_sub(self.records_end);
        let page_count = self.summary_count.div_ceil(SUMMARIES_PER_PAGE as u64) + 1;
        self.records_end.is_multiple_of(PAGE_SIZE as u64)
            && self.records_end >= RECORDS_START as u64
            && space.is_some_and(|space| page_count <= space / PAGE_SIZE as u64)
    }
}

/// Which table of which store a page says that it is a header or trailer of, whatever should be there, and its sequence;
/// `None` when it is no such page, or damaged.
#[must_use]
pub fn claimed_identity(page: &[u8]) -> Option<(Identity, u64)> {
    let (raw, _) = RawMark::ref_from_prefix(page).ok()?;
    let kinds = [MarkKind::Header, MarkKind::Free, MarkKind::Trailer];
    if page.len() != PAGE_SIZE || !kinds.iter().any(|kind| kind.magic() == raw.magic) || !page_checksum_matches(page) {
        return None;
    }
    let (shard, slot, table_size) = (raw.shard.get(), raw.slot.get(), raw.table_size.get());
    Some((Identity { store_id: raw.store_id, shard, slot, table_size }, raw.sequence.get()))
}

/// Whether the CRC at offset 8 of a page is the one of the page with that field zero; header, trailer and superblock
/// share this form.
#[must_use]
pub fn page_checksum_matches(page: &[u8]) -> bool {
    let zeroed = crc32c::crc32c_append(crc32c::crc32c(&page[..CHECKSUM_AT.start]), &[0; 4]);
    crc32c::crc32c_append(zeroed, &page[CHECKSUM_AT.end..]).to_le_bytes() == page[CHECKSUM_AT]
}

/// What the footer says about one record: all that recovery needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the key; zeros for a flush.
    pub digest: Digest,
    /// Order of the write in its shard.
    pub version: u64,
    /// Expiry, as in the record.
    pub expiry: Seconds,
    /// Offset in the table, in bytes.
    pub offset: u32,
    /// What the record says.
    pub kind: Kind,
    /// Size of the record.
    pub class: SizeClass,
    /// Up to which table there may be older words about its key.
    pub distance: Distance,
}

/// Up to which table there may be older words about the key of a record, which it keeps dead as long as it is there: the
/// record's own sequence less that table's. See FORMAT.md, "Guards".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distance(i16);

impl Distance {
    /// There are no older words. Values only: a guard without any is not written.
    pub const NONE: Self = Self(i16::MAX);
    /// Nobody knows: as late as can be said.
    pub const UNKNOWN: Self = Self(i16::MIN);

    /// From the table with the sequence `own` to the last one that may hold older words, `until`. What is too far back to be
    /// said becomes nearer, so later, which is never wrong; nothing lies so far ahead.
    #[must_use]
    pub fn to(own: u64, until: u64) -> Self {
        if until > own {
            return Self(i16::try_from(until - own).map_or(i16::MIN, |ahead| -ahead));
        }
        Self(i16::try_from(own - until).unwrap_or(i16::MAX).min(i16::MAX - 1))
    }

    /// The sequence of the last table that may hold older words, of a record in the table with the sequence `own`; 0 when
    /// there are none.
    #[must_use]
    pub fn until(self, own: u64) -> u64 {
        if self == Self::NONE { 0 } else { own.saturating_add_signed(-i64::from(self.0)) }
    }

    /// As a guard's record has it, where values have the client's flags.
    #[must_use]
    pub const fn to_flags(self) -> u32 {
        (self.0 as i32).cast_unsigned()
    }

    /// What [`Self::to_flags`] has made, or an unsigned distance of format versions before 4.
    #[must_use]
    pub fn from_flags(flags: u32) -> Self {
        let distance = flags.cast_signed().clamp(i16::MIN.into(), i32::from(i16::MAX) - 1);
        Self(i16::try_from(distance).unwrap_or(i16::MIN))
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSummary {
    digest: [u8; DIGEST_SIZE],
    version: U64,
    expiry: U32,
    offset_granules: U32,
    kind: u8,
    class: u8,
    distance: I16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFooterHeader {
    checksum: U32,
    page_number: U32,
    count: U16,
    reserved: [u8; 6],
}

impl Summary {
    fn raw(&self) -> RawSummary {
        RawSummary {
            digest: self.digest.0,
            version: U64::new(self.version),
            expiry: U32::new(self.expiry),
            offset_granules: U32::new(self.offset / RECORD_GRANULE as u32),
            kind: self.kind as u8,
            class: self.class.0,
            distance: I16::new(self.distance.0),
        }
    }

    fn from_raw(raw: &RawSummary, table_size: u64) -> Option<Self> {
        let offset = raw.offset_granules.get().checked_mul(RECORD_GRANULE as u32)?;
        let in_table = offset as usize >= RECORDS_START && u64::from(offset) < table_size;
        let kind = Kind::from_byte(raw.kind)?;
        (in_table && raw.version.get() <= NUMBER_MAX).then_some(Self {
            digest: Digest(raw.digest),
            version: raw.version.get(),
            expiry: raw.expiry.get(),
            offset,
            kind,
            class: SizeClass(raw.class),
            distance: Distance(raw.distance.get()),
        })
    }
}

/// Pages that `count` summaries take in a footer.
#[must_use]
pub const fn footer_page_count(count: usize) -> usize {
    count.div_ceil(SUMMARIES_PER_PAGE)
}

/// Writes the summary with index `index` into its footer page; [`seal_footer_page`] follows when the page is complete.
pub fn put_summary(page: &mut [u8], index: usize, summary: &Summary) {
    let start = FOOTER_HEADER_SIZE + index * SUMMARY_SIZE;
    page[start..start + SUMMARY_SIZE].copy_from_slice(summary.raw().as_bytes());
}

/// Reads the summary with index `index` of a footer page; `None` when its bytes make no sense.
#[must_use]
pub fn get_summary(page: &[u8], index: usize, table_size: u64) -> Option<Summary> {
    let start = FOOTER_HEADER_SIZE + index * SUMMARY_SIZE;
    let raw = RawSummary::ref_from_bytes(page.get(start..start + SUMMARY_SIZE)?).ok()?;
    Summary::from_raw(raw, table_size)
}

/// Completes a footer page that has `count` summaries. `place.offset` is the page's number in the footer.
pub fn seal_footer_page(page: &mut [u8], place: Place, count: usize) {
    let header = RawFooterHeader {
        checksum: U32::ZERO,
        page_number: U32::new(place.offset),
        count: U16::new(u16::try_from(count).expect("at most 102")),
        reserved: [0; 6],
    };
    page[..FOOTER_HEADER_SIZE].copy_from_slice(header.as_bytes());
    page[FOOTER_HEADER_SIZE + count * SUMMARY_SIZE..].fill(0);
    let checksum = crc32c::crc32c_append(place.seed(), &page[4..]);
    page[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// The summaries of a footer page, verified.
///
/// # Errors
/// [`MarkDamage::Checksum`], when the page is not the one that was written for `place`.
pub fn footer_summaries(
    page: &[u8],
    place: Place,
    table_size: u64,
) -> Result<impl Iterator<Item = Summary> + '_, MarkDamage> {
    let (header, _) = RawFooterHeader::ref_from_prefix(page).map_err(|_| MarkDamage::Checksum)?;
    let checksum = crc32c::crc32c_append(place.seed(), &page[4..]);
    let count = usize::from(header.count.get());
    let matches = page.len() == PAGE_SIZE && checksum == header.checksum.get();
    if !matches || header.page_number.get() != place.offset || count == 0 || count > SUMMARIES_PER_PAGE {
        return Err(MarkDamage::Checksum);
    }
    Ok((0..count).filter_map(move |index| get_summary(page, index, table_size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { store_id: [9; 16], shard: 2, slot: 5, table_size: 1 << 20 };

    fn mark() -> Mark {
        Mark { identity: IDENTITY, sequence: 12, records_end: 8192, summary_count: 3, written: 1_700_000_000 }
    }

    #[test]
    fn marks_read_back_and_say_what_is_wrong_with_them() {
        let mut page = vec![0u8; PAGE_SIZE];
        mark().encode(MarkKind::Trailer, &mut page);
        assert_eq!(Mark::decode(MarkKind::Trailer, &page, IDENTITY), Ok(mark()));
        assert_eq!(Mark::decode(MarkKind::Header, &page, IDENTITY), Err(MarkDamage::Magic));
        let other = Identity { slot: 6, ..IDENTITY };
        assert_eq!(Mark::decode(MarkKind::Trailer, &page, other), Err(MarkDamage::Foreign));
        for byte in [8, 13, 50, 100, PAGE_SIZE - 1] {
            page[byte] ^= 1;
            assert_eq!(Mark::decode(MarkKind::Trailer, &page, IDENTITY), Err(MarkDamage::Checksum), "byte {byte}");
            page[byte] ^= 1;
        }
        assert_eq!(Mark::decode(MarkKind::Trailer, &vec![0; PAGE_SIZE], IDENTITY), Err(MarkDamage::Magic));
    }

    #[test]
    fn marks_with_numbers_that_cannot_be_are_refused() {
        let size = IDENTITY.table_size;
        let full = Mark { records_end: size - 2 * PAGE_SIZE as u64, summary_count: 102, ..mark() };
        for (mark, is_sound) in [
            (full, true),
            (Mark { summary_count: 103, ..full }, false),
            (Mark { summary_count: u64::MAX, ..mark() }, false),
            (Mark { records_end: 8192 + 16, ..mark() }, false),
            (Mark { records_end: 0, ..mark() }, false),
            (Mark { records_end: size + 4096, ..mark() }, false),
            (Mark { records_end: u64::MAX - 4095, ..mark() }, false),
            (Mark { sequence: u64::MAX, ..mark() }, false),
        ] {
            let mut page = vec![0u8; PAGE_SIZE];
            mark.encode(MarkKind::Trailer, &mut page);
            let expected = if is_sound { Ok(mark) } else { Err(MarkDamage::Numbers) };
            assert_eq!(Mark::decode(MarkKind::Trailer, &page, IDENTITY), expected);
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut page = vec![0u8; PAGE_SIZE];
        mark().encode(MarkKind::Header, &mut page);
        page[12] = 5;
        page[CHECKSUM_AT].fill(0);
        let checksum = crc32c::crc32c(&page);
        page[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Mark::decode(MarkKind::Header, &page, IDENTITY), Err(MarkDamage::Version(5)));
    }

    #[test]
    fn distances_are_never_too_short() {
        for (own, until) in [(9, 9), (9, 1), (9, 12), (100_000, 0), (100_000, 67_234), (100_000, 132_767), (7, 40_007)]
        {
            let distance = Distance::to(own, until);
            let said = distance.until(own);
            let is_exact = own.abs_diff(until) < 0x7fff;
            assert!(if is_exact { said == until } else { said >= until.min(own + 0x8000) }, "{own} {until} {said}");
            assert_ne!(distance, Distance::NONE);
            assert_eq!(Distance::from_flags(distance.to_flags()), distance);
        }
        assert_eq!(Distance::NONE.until(9), 0);
        assert_eq!(Distance::UNKNOWN.until(9), 9 + 0x8000);
        // Unsigned ones of older formats, in records and in summaries.
        assert_eq!(Distance::from_flags(0x7fff).until(100_000), 100_000 - 0x7ffe);
        assert_eq!(Distance::from_flags(0xffff).until(100_000), 100_000 - 0x7ffe);
        assert_eq!(Distance(0xffffu16.cast_signed()).until(100_000), 100_001);
    }

    #[test]
    fn a_footer_page_holds_102_summaries_and_notices_every_flipped_bit() {
        let place = Place { slot: 5, sequence: 12, offset: 7 };
        let summaries: Vec<Summary> = (0..SUMMARIES_PER_PAGE as u32)
            .map(|number| Summary {
                digest: Digest([number as u8; DIGEST_SIZE]),
                version: u64::from(number),
                expiry: number * 2,
                offset: 4096 + number * 16,
                kind: Kind::Value,
                class: SizeClass(number as u8),
                distance: Distance(number as i16 - 50),
            })
            .collect();
        let mut page = vec![0u8; PAGE_SIZE];
        for (index, summary) in summaries.iter().enumerate() {
            put_summary(&mut page, index, summary);
        }
        seal_footer_page(&mut page, place, summaries.len());
        let read = |page: &[u8], place| footer_summaries(page, place, 1 << 20).map(Iterator::collect::<Vec<_>>);
        assert_eq!(read(&page, place), Ok(summaries));
        assert!(read(&page, Place { offset: 8, ..place }).is_err());
        for bit in (0..PAGE_SIZE * 8).step_by(37) {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&page, place).is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
