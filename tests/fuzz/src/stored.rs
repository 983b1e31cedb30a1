//! What is read back from disk: records, and the pages around them. A fuzzer does not find a checksum, so bytes are looked
//! at as they are and once more with the checksum that they should have.

use dmacached::disktable::format::{
    MarkDamage, SUMMARIES_PER_PAGE, footer_summaries, get_summary, put_summary, seal_footer_page,
};
use dmacached::disktable::{Identity, Mark, MarkKind};
use dmacached::limits::{NUMBER_MAX, PAGE_SIZE, RECORD_GRANULE};
use dmacached::record::{
    self, Damage, HEADER_SIZE as RECORD_HEADER_SIZE, Kind, Place, Record, SizeClass, claimed_size, decode,
    decode_trusted, encode, encode_padding, rewrite_expiry,
};

/// Bytes before those of a record, or a page: its place, and a number to choose with.
pub const HEADER_SIZE: usize = 20;

/// The place, the number and what lies there.
fn split(bytes: &[u8]) -> Option<(Place, u32, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_SIZE>()?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let sequence = u64::from(number(8)) << 32 | u64::from(number(4));
    Some((Place { slot: number(0), sequence, offset: number(12) }, number(16), rest))
}

/// Bytes where a record should lie.
///
/// # Panics
/// When what is read is not what was written, or bytes are taken for what they are not.
pub fn check_record(bytes: &[u8]) {
    let Some((place, choice, bytes)) = split(bytes) else { return };
    check_padding(place, bytes.len());
    let claimed = claimed_size(bytes);
    let read = decode_trusted(bytes);
    match decode(bytes, place) {
        Ok(record) => same(&record, &read.expect("what is verified can be read")),
        Err(Damage::Version) => assert!(read.is_ok_and(|record| record.header.version > NUMBER_MAX)),
        Err(damage) => assert_eq!(read.err().unwrap_or(Damage::Checksum), damage),
    }
    let Ok(record) = read else { return };
    let size = record.size();
    assert!(size <= bytes.len() && claimed == Some(size));
    let mut written = vec![0xa5; bytes.len()];
    assert_eq!(encode(&mut written, place, record.header, record.key, record.value), size);
    assert_eq!(written[4..size], bytes[4..size], "it is written as it was");
    assert!(written[size..].iter().all(|byte| *byte == 0xa5), "something behind it was written");
    if record.header.version > NUMBER_MAX {
        return assert_eq!(decode(&written, place).err(), Some(Damage::Version), "no store comes to such a version");
    }
    same(&decode(&written, place).expect("it was written for this place"), &record);
    let class = SizeClass::of(size);
    assert!(class.size() >= size && class.size() <= size.next_multiple_of(RECORD_GRANULE) * 9 / 8);
    check_damage(&mut written[..size], place, choice);
    rewrite_expiry(&mut written, place, choice).expect("it is a record");
    let expected = Record { header: record::Header { expiry: choice, ..record.header }, ..record };
    same(&decode(&written, place).expect("it was written for this place"), &expected);
}

fn same(left: &Record<'_>, right: &Record<'_>) {
    assert_eq!((left.header, left.key, left.value), (right.header, right.key, right.value));
}

/// A record that is cut off, changed, or of another place is none.
fn check_damage(written: &mut [u8], place: Place, choice: u32) {
    let cut = choice as usize % written.len();
    assert!(decode(&written[..cut], place).is_err());
    // Two places differ in 32 bits next to each other, which no two checksums have in common.
    let other = choice | 1;
    assert!(decode(written, Place { slot: place.slot ^ other, ..place }).is_err());
    assert!(decode(written, Place { offset: place.offset ^ other, ..place }).is_err());
    let at = (choice / 8) as usize % written.len();
    written[at] ^= 1 << (choice % 8);
    // Other sizes are of other bytes, whose checksum nobody can foresee.
    let is_size = at == 5 || (16..20).contains(&at);
    assert!(decode(written, place).is_err() || is_size, "a flipped bit was not noticed");
    written[at] ^= 1 << (choice % 8);
}

/// What is left of a place is passed over whole.
fn check_padding(place: Place, size: usize) {
    let mut padding = vec![0xa5; size];
    encode_padding(&mut padding, place);
    if size < RECORD_HEADER_SIZE {
        assert!(padding.iter().all(|byte| *byte == 0));
        assert_eq!(claimed_size(&padding), None);
    } else {
        assert_eq!(claimed_size(&padding), Some(size));
        assert_eq!(decode(&padding, place).expect("it was written for this place").header.kind, Kind::Padding);
    }
}

/// Bytes where a page should lie that is not records.
///
/// # Panics
/// When what is read is not what was written, or bytes are taken for what they are not.
pub fn check_page(bytes: &[u8]) {
    let Some((place, choice, bytes)) = split(bytes) else { return };
    let identity = identity(bytes, place, choice);
    for kind in [MarkKind::Header, MarkKind::Free, MarkKind::Trailer] {
        assert!(Mark::decode(kind, bytes, identity).is_err() || bytes.len() == PAGE_SIZE);
    }
    let _ = footer_summaries(bytes, place, identity.table_size).map(Iterator::count);
    let mut page = bytes.to_vec();
    page.resize(PAGE_SIZE, 0);
    check_mark(&mut page.clone(), identity, choice);
    check_footer(&mut page, place, identity.table_size);
}

/// The table that the bytes say, if they say one, so that not all of them are of another.
fn identity(bytes: &[u8], place: Place, choice: u32) -> Identity {
    let store_id = bytes.get(16..32).and_then(|id| id.try_into().ok()).unwrap_or([7; 16]);
    let number = |at: usize| bytes.get(at..at + 4).and_then(|number| number.try_into().ok()).map(u32::from_le_bytes);
    let size = bytes.get(48..56).and_then(|number| number.try_into().ok()).map_or(1 << 20, u64::from_le_bytes);
    let slot = if choice.is_multiple_of(8) { place.slot } else { number(36).unwrap_or(place.slot) };
    Identity { store_id, shard: number(32).unwrap_or(0), slot, table_size: size }
}

/// A page with the checksum that it should have is refused for what it says, or is read and written as it was.
fn check_mark(page: &mut [u8], identity: Identity, choice: u32) {
    page[8..12].fill(0);
    let checksum = crc32c::crc32c(page);
    page[8..12].copy_from_slice(&checksum.to_le_bytes());
    for kind in [MarkKind::Header, MarkKind::Free, MarkKind::Trailer] {
        match Mark::decode(kind, page, identity) {
            Ok(mark) => {
                assert_eq!(mark.identity, identity);
                let mut written = vec![0xa5; PAGE_SIZE];
                mark.encode(kind, &mut written);
                assert_eq!(Mark::decode(kind, &written, identity), Ok(mark));
                written[choice as usize / 8 % PAGE_SIZE] ^= 1 << (choice % 8);
                assert!(Mark::decode(kind, &written, identity).is_err(), "a flipped bit was not noticed");
            }
            Err(damage) => assert_ne!(damage, MarkDamage::Checksum, "it has the right one"),
        }
    }
}

/// A footer page with the checksum that it should have gives summaries of places in the table, which are written as they
/// were.
fn check_footer(page: &mut [u8], place: Place, table_size: u64) {
    page[4..8].copy_from_slice(&place.offset.to_le_bytes());
    let checksum = crc32c::crc32c_append(place.seed(), &page[4..]);
    page[..4].copy_from_slice(&checksum.to_le_bytes());
    let count = usize::from(u16::from_le_bytes([page[8], page[9]]));
    let Ok(summaries) = footer_summaries(page, place, table_size).map(Iterator::collect::<Vec<_>>) else {
        return assert!(count == 0 || count > SUMMARIES_PER_PAGE, "nothing is wrong with it");
    };
    assert!(summaries.len() <= count);
    let mut written = vec![0xa5; PAGE_SIZE];
    for (index, summary) in summaries.iter().enumerate() {
        let offset = u64::from(summary.offset);
        assert!(offset >= PAGE_SIZE as u64 && offset < table_size && offset.is_multiple_of(RECORD_GRANULE as u64));
        put_summary(&mut written, index, summary);
        assert_eq!(get_summary(&written, index, table_size), Some(*summary));
    }
    if summaries.is_empty() {
        return;
    }
    seal_footer_page(&mut written, place, summaries.len());
    let read = footer_summaries(&written, place, table_size).expect("it was written for this place");
    assert!(read.eq(summaries.iter().copied()));
    let other = Place { offset: place.offset ^ 1, ..place };
    assert!(footer_summaries(&written, other, table_size).is_err());
    assert_eq!(get_summary(&written, SUMMARIES_PER_PAGE, table_size), None);
}
