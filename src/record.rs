//! A record's bytes: header, key and value, checksummed together with the place they were meant for.
//!
//! The layout is described in `disktable/FORMAT.md`. A record is built in its on-disk form in a write block and read
//! from a block or from a device page by the same code, so nothing is ever converted.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::clock::Seconds;
use crate::limits::{KEY_SIZE_MAX, NUMBER_MAX, RECORD_GRANULE};
use crate::mutants::{Mutant, has};

/// What a record says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The key has this value.
    Value = 1,
    /// The key was deleted.
    Tombstone = 2,
    /// The value written last for the key has this expiry now.
    Touch = 3,
    /// All records before this one are gone, at once or from a second on.
    Flush = 4,
    /// Nothing: what is left of the place of a record that was overwritten by a shorter one before it reached the disk.
    Padding = 5,
}

impl Kind {
    /// The kind of a byte on disk.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Value),
            2 => Some(Self::Tombstone),
            3 => Some(Self::Touch),
            4 => Some(Self::Flush),
            5 => Some(Self::Padding),
            _ => None,
        }
    }
}

/// Where a record or footer page lies: the seed of its checksum. A page read from a wrong place, or left there by an
/// earlier use of the table, fails its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The table's slot in the shard.
    pub slot: u32,
    /// Which use of the slot.
    pub sequence: u64,
    /// Offset of the record in the table in bytes, or the number of a footer page.
    pub offset: u32,
}

impl Place {
    /// The CRC that the checksum of whatever lies here starts from.
    #[must_use]
    pub fn seed(self) -> u32 {
        let mut bytes = [0u8; 16];
        bytes[..4].copy_from_slice(&self.slot.to_le_bytes());
        if !has(Mutant::SeedWithoutSequence) {
            bytes[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        }
        bytes[12..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// The fixed part of a record on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    checksum: U32,
    kind: u8,
    key_size: u8,
    bits: U16,
    version: U64,
    value_size: U32,
    expiry: U32,
    client_flags: U32,
}

/// Bytes of a record before its key.
pub const HEADER_SIZE: usize = size_of::<RawHeader>();
/// Bytes of a CAS unique of its own, which stands before the value and counts as a part of it in the size on disk.
pub const OWN_CAS_SIZE: usize = size_of::<u64>();
/// The bit that says that there is one. The bits below it are the protocols'.
const OWN_CAS_BIT: u16 = 1 << 15;
const CHECKSUM_SIZE: usize = 4;
const _: () = assert!(HEADER_SIZE == 28);

/// What a record says beside its key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record says.
    pub kind: Kind,
    /// Order of the write in its shard.
    pub version: u64,
    /// Unix second at which the record is gone; 0 = never.
    pub expiry: Seconds,
    /// The client's 32 bits.
    pub client_flags: u32,
    /// Bits of the protocols; the highest one is not theirs.
    pub bits: u16,
    /// The CAS unique, if it is not the one that the version makes: somebody has named it, or the record is a copy of
    /// another one.
    pub own_cas: Option<u64>,
}

impl Header {
    /// Bytes that a record with this header takes in its table, without what aligns the next one.
    #[must_use]
    pub const fn record_size(&self, key_size: usize, value_size: usize) -> usize {
        record_size(key_size, value_size) + if self.own_cas.is_some() { OWN_CAS_SIZE } else { 0 }
    }
}

/// A record in memory that somebody else owns, its checksum verified or just made.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Everything but key and value.
    pub header: Header,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Whether clients have fetched it before, as the index has it: not known of bytes alone.
    pub was_fetched: bool,
}

/// What stands at the front of a record: everything but the value.
#[derive(Clone, Copy, Debug)]
pub struct Front<'a> {
    /// Everything but key and value.
    pub header: Header,
    /// The key.
    pub key: &'a [u8],
    /// Bytes of the value.
    pub value_size: usize,
}

/// Bytes of the longest front.
pub const FRONT_SIZE_MAX: usize = HEADER_SIZE + KEY_SIZE_MAX + size_of::<u64>();

/// Why bytes are not the record that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The sizes in the header do not fit into what was read.
    #[error("the record's sizes do not fit where it lies")]
    Sizes,
    /// No record, one of an unknown kind, or of another than was looked for.
    #[error("the record's kind is unknown")]
    Kind,
    /// The checksum is of other bytes or another place.
    #[error("the record's checksum does not match")]
    Checksum,
    /// The checksum matches, and no record has such a version.
    #[error("the record's version cannot be")]
    Version,
}

/// Bytes that a record of these sizes, without a CAS unique of its own, takes in its table, without what aligns the next one.
#[must_use]
pub const fn record_size(key_size: usize, value_size: usize) -> usize {
    HEADER_SIZE + key_size + value_size
}

/// `size` rounded up to where the next record may start.
#[must_use]
pub const fn granules_up(size: usize) -> usize {
    size.next_multiple_of(RECORD_GRANULE)
}

/// Writes a record to the front of `target` and returns its size; `target` must have room for it.
///
/// # Panics
/// When `target` is too small or the key too long: the caller made the room.
pub fn encode(target: &mut [u8], place: Place, header: Header, key: &[u8], value: &[u8]) -> usize {
    assert!(key.len() <= KEY_SIZE_MAX, "keys are checked where they come in");
    assert_eq!(header.bits & OWN_CAS_BIT, 0, "the protocols' bits are the others");
    let size = header.record_size(key.len(), value.len());
    let own_cas_bit = if header.own_cas.is_some() { OWN_CAS_BIT } else { 0 };
    let raw = RawHeader {
        checksum: U32::ZERO,
        kind: header.kind as u8,
        key_size: u8::try_from(key.len()).expect("KEY_SIZE_MAX fits a byte"),
        bits: U16::new(header.bits | own_cas_bit),
        version: U64::new(header.version),
        value_size: U32::new(
            u32::try_from(size - HEADER_SIZE - key.len()).expect("values are bounded by the table size"),
        ),
        expiry: U32::new(header.expiry),
        client_flags: U32::new(header.client_flags),
    };
    let target = &mut target[..size];
    target[..HEADER_SIZE].copy_from_slice(raw.as_bytes());
    let (key_part, mut value_part) = target[HEADER_SIZE..].split_at_mut(key.len());
    key_part.copy_from_slice(key);
    if let Some(cas) = header.own_cas {
        value_part[..OWN_CAS_SIZE].copy_from_slice(&cas.to_le_bytes());
        value_part = &mut value_part[OWN_CAS_SIZE..];
    }
    value_part.copy_from_slice(value);
    seal(target, place);
    size
}

/// Fills the whole of `target` so that a scan passes over it: zeros when it is too short for a header.
pub fn encode_padding(target: &mut [u8], place: Place) {
    target.fill(0);
    let Some(value_size) = target.len().checked_sub(HEADER_SIZE) else { return };
    target[4] = Kind::Padding as u8;
    let value_size = u32::try_from(value_size).expect("values are bounded by the table size");
    target[16..20].copy_from_slice(&value_size.to_le_bytes());
    seal(target, place);
}

/// The size that the header at the front of `bytes` claims; `None` when there is no header, or one that cannot be.
#[must_use]
pub fn claimed_size(bytes: &[u8]) -> Option<usize> {
    let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
    let key_size = usize::from(raw.key_size);
    (key_size <= KEY_SIZE_MAX).then(|| record_size(key_size, raw.value_size.get() as usize))
}

/// Sets the checksum of a whole record.
fn seal(record: &mut [u8], place: Place) {
    let checksum = crc32c::crc32c_append(place.seed(), &record[CHECKSUM_SIZE..]);
    record[..CHECKSUM_SIZE].copy_from_slice(&checksum.to_le_bytes());
}

/// Changes the expiry of the record at the front of `bytes`, which is valid.
///
/// # Errors
/// What [`decode_trusted`] says when it is not.
pub fn rewrite_expiry(bytes: &mut [u8], place: Place, expiry: Seconds) -> Result<(), Damage> {
    let size = decode_trusted(bytes)?.size();
    bytes[20..24].copy_from_slice(&expiry.to_le_bytes());
    seal(&mut bytes[..size], place);
    Ok(())
}

/// Reads the record at the front of `bytes` and verifies its checksum against `place`.
///
/// # Errors
/// [`Damage`], when the bytes are not a record written for that place.
pub fn decode(bytes: &[u8], place: Place) -> Result<Record<'_>, Damage> {
    let record = decode_trusted(bytes)?;
    let checksum = crc32c::crc32c_append(place.seed(), &bytes[CHECKSUM_SIZE..record.size()]);
    if checksum.to_le_bytes() != bytes[..CHECKSUM_SIZE] && !has(Mutant::ChecksumUnchecked) {
        return Err(Damage::Checksum);
    }
    if record.header.version > NUMBER_MAX {
        return Err(Damage::Version);
    }
    Ok(record)
}

/// Reads the record at the front of `bytes` without looking at its checksum: for memory that this process has filled
/// itself.
///
/// # Errors
/// [`Damage`], when sizes or kind are impossible.
pub fn decode_trusted(bytes: &[u8]) -> Result<Record<'_>, Damage> {
    let (raw, rest) = RawHeader::ref_from_prefix(bytes).map_err(|_| Damage::Sizes)?;
    let kind = Kind::from_byte(raw.kind).ok_or(Damage::Kind)?;
    let (key_size, value_size) = (usize::from(raw.key_size), raw.value_size.get() as usize);
    if key_size > KEY_SIZE_MAX || rest.len() < key_size || rest.len() - key_size < value_size {
        return Err(Damage::Sizes);
    }
    let (key, rest) = rest.split_at(key_size);
    let (bits, mut value, mut own_cas) = (raw.bits.get(), &rest[..value_size], None);
    if bits & OWN_CAS_BIT != 0 {
        let (cas, behind) = value.split_first_chunk().ok_or(Damage::Sizes)?;
        (own_cas, value) = (Some(u64::from_le_bytes(*cas)), behind);
    }
    let header = Header {
        kind,
        version: raw.version.get(),
        expiry: raw.expiry.get(),
        client_flags: raw.client_flags.get(),
        bits: bits & !OWN_CAS_BIT,
        own_cas,
    };
    Ok(Record { header, key, value, was_fetched: false })
}

/// Reads everything but the value of the record at the front of `bytes`, which may end anywhere behind that, without
/// looking at its checksum: for a place that is known to have been written to.
///
/// # Errors
/// [`Damage`], when sizes or kind are impossible.
pub fn decode_front(bytes: &[u8]) -> Result<Front<'_>, Damage> {
    let (raw, rest) = RawHeader::ref_from_prefix(bytes).map_err(|_| Damage::Sizes)?;
    let kind = Kind::from_byte(raw.kind).ok_or(Damage::Kind)?;
    let (key_size, mut value_size) = (usize::from(raw.key_size), raw.value_size.get() as usize);
    if key_size > KEY_SIZE_MAX || rest.len() < key_size {
        return Err(Damage::Sizes);
    }
    let (key, rest) = rest.split_at(key_size);
    let (bits, mut own_cas) = (raw.bits.get(), None);
    if bits & OWN_CAS_BIT != 0 {
        own_cas = Some(u64::from_le_bytes(*rest.first_chunk().ok_or(Damage::Sizes)?));
        value_size = value_size.checked_sub(size_of::<u64>()).ok_or(Damage::Sizes)?;
    }
    let (version, expiry, client_flags) = (raw.version.get(), raw.expiry.get(), raw.client_flags.get());
    let header = Header { kind, version, expiry, client_flags, bits: bits & !OWN_CAS_BIT, own_cas };
    Ok(Front { header, key, value_size })
}

/// The checksum of a record that comes in pieces, from its first byte on.
#[derive(Clone, Copy, Debug)]
pub struct PartialChecksum {
    crc: u32,
    expected: [u8; CHECKSUM_SIZE],
    size: usize,
    done: usize,
}

impl PartialChecksum {
    /// Of a record of `size` bytes.
    #[must_use]
    pub fn new(place: Place, size: usize) -> Self {
        Self { crc: place.seed(), expected: [0; CHECKSUM_SIZE], size, done: 0 }
    }

    /// Takes the bytes that are next, and returns how many of them are the record's.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.size - self.done)];
        let mut rest = bytes;
        if self.done < CHECKSUM_SIZE {
            let stored = rest.len().min(CHECKSUM_SIZE - self.done);
            self.expected[self.done..self.done + stored].copy_from_slice(&rest[..stored]);
            rest = &rest[stored..];
        }
        self.crc = crc32c::crc32c_append(self.crc, rest);
        self.done += bytes.len();
        bytes.len()
    }

    /// Whether all of the record was there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.done == self.size
    }

    /// Whether the record is what was written.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.is_whole() && self.crc.to_le_bytes() == self.expected
    }
}

impl Record<'_> {
    /// Bytes that the record takes, without what aligns the next one.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.header.record_size(self.key.len(), self.value.len())
    }
}

/// Size of a record in 8 bits: never too short and at most 1/8 too long (see FORMAT.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeClass(pub u8);

impl SizeClass {
    /// Number of classes that a byte can name.
    pub const COUNT: usize = 1 << u8::BITS;

    /// The smallest class that holds `size` bytes.
    ///
    /// # Panics
    /// When `size` is beyond the largest class, 32 TiB and thus beyond any table.
    #[must_use]
    pub const fn of(size: usize) -> Self {
        let units = size.div_ceil(RECORD_GRANULE);
        if units < 16 {
            return Self(units as u8);
        }
        let mut exponent = usize::BITS - units.leading_zeros() - 4;
        let mut mantissa = units >> exponent;
        if mantissa << exponent < units {
            mantissa += 1;
        }
        if mantissa == 16 {
            mantissa = 8;
            exponent += 1;
        }
        let class = exponent as usize * 8 + mantissa;
        assert!(class <= u8::MAX as usize, "no record is that large");
        Self(class as u8)
    }

    /// The largest number of bytes in the class: what is read for it, and what it counts in its table's live bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        let class = self.0 as usize;
        if class < 16 {
            return class * RECORD_GRANULE;
        }
        let exponent = (class - 8) / 8;
        (((class - 8) % 8 + 8) << exponent) * RECORD_GRANULE
    }

    /// The smallest number of bytes in the class, rounded up to the granule.
    #[must_use]
    pub const fn size_min(self) -> usize {
        if self.0 == 0 { 0 } else { Self(self.0 - 1).size() + RECORD_GRANULE }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { slot: 3, sequence: 77, offset: 4096 };

    fn header(kind: Kind) -> Header {
        Header { kind, version: 9, expiry: 11, client_flags: 0xdead_beef, bits: 5, own_cas: None }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut bytes = vec![0u8; 256];
        let size = encode(&mut bytes, PLACE, header(Kind::Value), b"key", b"value");
        assert_eq!(size, 28 + 3 + 5);
        let record = decode(&bytes, PLACE).expect("valid");
        assert_eq!((record.header, record.key, record.value), (header(Kind::Value), &b"key"[..], &b"value"[..]));
        assert_eq!(record.size(), size);
        rewrite_expiry(&mut bytes, PLACE, 99).expect("valid");
        assert_eq!(decode(&bytes, PLACE).expect("valid").header, Header { expiry: 99, ..header(Kind::Value) });
    }

    #[test]
    fn a_cas_unique_of_its_own_stands_before_the_value() {
        for value in [&b""[..], b"value"] {
            let header = Header { own_cas: Some(u64::MAX - 3), ..header(Kind::Value) };
            let mut bytes = vec![0u8; 256];
            let size = encode(&mut bytes, PLACE, header, b"key", value);
            assert_eq!((size, claimed_size(&bytes)), (28 + 3 + 8 + value.len(), Some(size)));
            let record = decode(&bytes, PLACE).expect("valid");
            assert_eq!((record.header, record.key, record.value, record.size()), (header, &b"key"[..], value, size));
            // A bit that claims what cannot be there.
            bytes[16] = 7;
            assert!(decode_trusted(&bytes).is_err());
        }
    }

    #[test]
    fn another_place_or_any_flipped_bit_is_damage() {
        let mut bytes = vec![0u8; 64];
        let size = encode(&mut bytes, PLACE, header(Kind::Value), b"key", b"value");
        for place in [Place { slot: 4, ..PLACE }, Place { sequence: 78, ..PLACE }, Place { offset: 0, ..PLACE }] {
            assert_eq!(decode(&bytes, place).err(), Some(Damage::Checksum));
        }
        for bit in 0..size * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, PLACE).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(decode(&bytes[..size - 1], PLACE).is_err());
        assert!(decode(&[], PLACE).is_err());
    }

    proptest! {
        #[test]
        fn a_size_class_is_never_too_short_and_at_most_an_eighth_too_long(size in 1usize..2_000_000_000) {
            let class = SizeClass::of(size);
            prop_assert!(class.size() >= size);
            let rounded = granules_up(size);
            prop_assert!(class.size_min() <= rounded);
            prop_assert!(class.size() <= rounded + rounded / 8, "{size} -> {}", class.size());
            prop_assert_eq!(SizeClass::of(class.size()), class);
        }

        #[test]
        fn garbage_is_never_a_record(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, PLACE).is_err());
        }
    }
}
