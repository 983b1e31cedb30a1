//! An entry and how it is packed.
//!
//! ```text
//!           0           18       22        27      28
//! full:     | hash part | expiry | address | class |
//!           0           10       14               19
//! dense:    | hash part | expiry | class, address |
//! ```
//!
//! The hash is the digest with its first two bytes, which choose the shard, moved to the end. Its bits 0 to 17 are
//! implied by where an entry lies; the hash part begins with byte 2, whose top two bits are therefore free:
//!
//! | | full, 28 bytes | dense, 19 bytes |
//! |---|---|---|
//! | hash | all 160 bits | its first 96 bits |
//! | free bits | hotness, 0 to 3 | cached; hotness, 0 or 1 |
//! | address, in units of 16 bytes over all slots | 39 bits: 8 TiB a shard; the 40th says cached | 33 bits: 128 GiB a shard |
//! | class | 8 bits: any record | 7 bits: records up to 3.75 MiB |
//!
//! Hash bytes are stored in their order, so that entries compare as byte strings; the other fields are little-endian.

use std::cmp::Ordering;

use crate::clock::Seconds;
use crate::digest::{DIGEST_SIZE, Digest};
use crate::limits::RECORD_GRANULE;
use crate::record::SizeClass;

/// Bits of the hash that the place of an entry implies: they are not stored.
pub(super) const IMPLIED_BITS: u32 = 18;
/// Bytes of the hash that are not stored at all.
const SKIPPED_SIZE: usize = IMPLIED_BITS as usize / 8;

const EXPIRY_SIZE: usize = 4;
const ADDRESS_SIZE: usize = 5;
/// The bits of an entry's first eight bytes that are hash.
const LEAD_MASK: u64 = u64::MAX >> (IMPLIED_BITS as usize - 8 * SKIPPED_SIZE);

/// A place on disk: the start of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// The table's slot.
    pub slot: u32,
    /// Offset of the record in bytes, a multiple of 16.
    pub offset: u32,
}

/// What the index knows of a key's newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the record lies.
    pub pointer: Pointer,
    /// How long it is at most.
    pub class: SizeClass,
    /// When it is gone; 0 = never. The index is right, the record may be older than a touch.
    pub expiry: Seconds,
    /// How hot the record is, 0 to 3 (0 or 1 in the dense layout, which makes the higher ones 1).
    pub hotness: u8,
    /// Whether the pointer is a place in the cache instead of one on disk.
    pub is_cached: bool,
}

impl Entry {
    /// An entry of a record that is on its way to disk, cold and not cached.
    #[must_use]
    pub const fn new(pointer: Pointer, class: SizeClass, expiry: Seconds) -> Self {
        Self { pointer, class, expiry, hotness: 0, is_cached: false }
    }
}

/// What of an entry takes which bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Bytes of the hash that are stored.
    pub(super) hash_size: usize,
    address_bits: u32,
    is_dense: bool,
}

impl Format {
    /// The format of entries of `width` bytes.
    ///
    /// # Panics
    /// When there is none, while compiling.
    pub(super) const fn of(width: usize) -> Self {
        match width {
            28 => Self { hash_size: 18, address_bits: 39, is_dense: false },
            19 => Self { hash_size: 10, address_bits: 33, is_dense: true },
            _ => panic!("entries are full, of 28 bytes, or dense, of 19"),
        }
    }

    pub(super) const fn is_dense(self) -> bool {
        self.is_dense
    }

    /// The largest class that an entry can hold.
    pub(super) const fn class_max(self) -> SizeClass {
        SizeClass(if self.is_dense { 127 } else { 255 })
    }
}

/// How places on disk become addresses: depends on the table size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addressing {
    table_bits: u32,
}

impl Addressing {
    pub(super) fn new(table_size: usize) -> Self {
        assert!(table_size.is_power_of_two() && table_size >= RECORD_GRANULE, "tables are powers of two");
        Self { table_bits: (table_size / RECORD_GRANULE).trailing_zeros() }
    }

    pub(super) fn slot_count_max(self, format: Format) -> usize {
        1 << format.address_bits.saturating_sub(self.table_bits)
    }

    fn address(self, pointer: Pointer) -> u64 {
        debug_assert_eq!(pointer.offset as usize % RECORD_GRANULE, 0);
        u64::from(pointer.slot) << self.table_bits | u64::from(pointer.offset / RECORD_GRANULE as u32)
    }

    fn pointer(self, address: u64) -> Pointer {
        let offset = address & ((1 << self.table_bits) - 1);
        Pointer { slot: (address >> self.table_bits) as u32, offset: offset as u32 * RECORD_GRANULE as u32 }
    }
}

/// A digest as the index orders it: as numbers, since they are compared faster than bytes, and ordered alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hash {
    /// Bits 0 to 63: they choose the segment, and the place there.
    prefix: u64,
    /// Bits 16 to 79: those of the first eight bytes that are stored.
    lead: u64,
    /// Bits 80 to 143.
    middle: u64,
    /// Bits 144 to 159: the bytes of the digest that choose the shard.
    end: u16,
}

#[expect(clippy::big_endian_bytes, reason = "hashes are ordered as byte strings")]
impl Hash {
    #[inline]
    pub(super) fn of(Digest(bytes): &Digest) -> Self {
        let end = u16::from_be_bytes(*bytes.first_chunk().expect("20 bytes"));
        Self { prefix: leading(&bytes[2..]), lead: leading(&bytes[4..]), middle: leading(&bytes[12..]), end }
    }

    pub(super) fn digest(&self) -> Digest {
        let mut digest = [0; DIGEST_SIZE];
        digest[2..10].copy_from_slice(&self.prefix.to_be_bytes());
        digest[4..12].copy_from_slice(&self.lead.to_be_bytes());
        digest[12..].copy_from_slice(&self.middle.to_be_bytes());
        digest[..2].copy_from_slice(&self.end.to_be_bytes());
        Digest(digest)
    }

    /// The first 64 bits.
    #[inline]
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// The first hash of those that begin with these 64 bits.
    pub(super) fn lowest(prefix: u64) -> Self {
        Self { prefix, lead: prefix << 16, middle: 0, end: 0 }
    }

    /// The last hash of those that begin with these 64 bits.
    pub(super) fn highest(prefix: u64) -> Self {
        Self { prefix, lead: prefix << 16 | 0xffff, middle: u64::MAX, end: u16::MAX }
    }

    /// The hash as far as entries of a format hold it; the rest is 0.
    pub(super) fn cut(&self, format: Format) -> Self {
        if format.is_dense { Self { middle: self.middle >> 48 << 48, end: 0, ..*self } } else { *self }
    }

    /// The hash of an entry whose place says that its first bits are those of `prefix`.
    pub(super) fn restored<const WIDTH: usize>(prefix: u64, packed: &[u8; WIDTH]) -> Self {
        let stored = Self::stored(packed);
        let prefix = prefix >> (64 - IMPLIED_BITS) << (64 - IMPLIED_BITS) | stored.lead >> 16;
        Self { prefix, lead: prefix << 16 | stored.lead & 0xffff, ..stored }
    }

    /// What an entry holds of its hash.
    #[inline]
    fn stored<const WIDTH: usize>(packed: &[u8; WIDTH]) -> Self {
        let lead = leading(packed) & LEAD_MASK;
        if const { Format::of(WIDTH) }.is_dense {
            let middle = u16::from_be_bytes(*packed[8..].first_chunk().expect("19 bytes"));
            return Self { prefix: 0, lead, middle: u64::from(middle) << 48, end: 0 };
        }
        let end = u16::from_be_bytes(*packed[16..].first_chunk().expect("28 bytes"));
        Self { prefix: 0, lead, middle: leading(&packed[8..]), end }
    }

    /// Writes what an entry holds of the hash to its front.
    #[inline]
    fn store<const WIDTH: usize>(&self, packed: &mut [u8; WIDTH]) {
        packed[..8].copy_from_slice(&(self.lead & LEAD_MASK).to_be_bytes());
        if const { Format::of(WIDTH) }.is_dense {
            packed[8..10].copy_from_slice(&self.middle.to_be_bytes()[..2]);
        } else {
            packed[8..16].copy_from_slice(&self.middle.to_be_bytes());
            packed[16..18].copy_from_slice(&self.end.to_be_bytes());
        }
    }

    /// Compares an entry with this hash; both have the implied bits in common.
    #[inline]
    pub(super) fn compare<const WIDTH: usize>(&self, packed: &[u8; WIDTH]) -> Ordering {
        let stored = Self::stored(packed);
        let wanted = self.cut(const { Format::of(WIDTH) });
        let lead = stored.lead.cmp(&(wanted.lead & LEAD_MASK));
        lead.then_with(|| (stored.middle, stored.end).cmp(&(wanted.middle, wanted.end)))
    }
}

/// The first eight bytes as a number that is ordered as they are.
#[inline]
fn leading(bytes: &[u8]) -> u64 {
    #[expect(clippy::big_endian_bytes, reason = "hashes are ordered as byte strings")]
    u64::from_be_bytes(*bytes.first_chunk().expect("a hash or an entry"))
}

/// Bit `bit` of an entry's hash, counted from the first of the hash.
#[inline]
pub(super) fn hash_bit(packed: &[u8], bit: u32) -> bool {
    debug_assert!(bit >= IMPLIED_BITS, "the first bits are not stored");
    packed[bit as usize / 8 - SKIPPED_SIZE] >> (7 - bit % 8) & 1 == 1
}

/// Packs an entry.
///
/// # Panics
/// When its place or its class is beyond what the layout can hold.
#[inline]
pub(super) fn pack<const WIDTH: usize>(hash: &Hash, entry: Entry, addressing: Addressing) -> [u8; WIDTH] {
    let format = const { Format::of(WIDTH) };
    let mut bytes = [0; WIDTH];
    hash.store(&mut bytes);
    let address = addressing.address(entry.pointer);
    assert!(address >> format.address_bits == 0, "the catalog hands out slots that fit");
    assert!(entry.class <= format.class_max(), "records are bounded by what the layout can hold");
    let (flags, tail) = if format.is_dense {
        (u8::from(entry.is_cached) << 1 | u8::from(entry.hotness > 0), u64::from(entry.class.0) << 33 | address)
    } else {
        (entry.hotness.min(3), u64::from(entry.is_cached) << 39 | address)
    };
    bytes[0] |= flags << 6;
    let (expiry, rest) = bytes[format.hash_size..].split_at_mut(EXPIRY_SIZE);
    expiry.copy_from_slice(&entry.expiry.to_le_bytes());
    rest[..ADDRESS_SIZE].copy_from_slice(&tail.to_le_bytes()[..ADDRESS_SIZE]);
    if !format.is_dense {
        rest[ADDRESS_SIZE] = entry.class.0;
    }
    bytes
}

/// The entry of packed bytes.
#[inline]
pub(super) fn unpack<const WIDTH: usize>(bytes: &[u8; WIDTH], addressing: Addressing) -> Entry {
    let format = const { Format::of(WIDTH) };
    let (expiry, rest) = bytes[format.hash_size..].split_at(EXPIRY_SIZE);
    let expiry = Seconds::from_le_bytes(*expiry.first_chunk().expect("four bytes"));
    let mut tail = [0; 8];
    tail[..ADDRESS_SIZE].copy_from_slice(&rest[..ADDRESS_SIZE]);
    let (tail, flags) = (u64::from_le_bytes(tail), bytes[0] >> 6);
    let pointer = addressing.pointer(tail & ((1 << format.address_bits) - 1));
    if format.is_dense {
        let class = SizeClass((tail >> 33) as u8);
        return Entry { pointer, class, expiry, hotness: flags & 1, is_cached: flags >> 1 == 1 };
    }
    let class = SizeClass(rest[ADDRESS_SIZE]);
    Entry { pointer, class, expiry, hotness: flags, is_cached: tail >> 39 == 1 }
}

/// Lowers the hotness of packed bytes by one if it is 2 or 3 and the entry is not cached.
#[inline]
pub(super) fn cool<const WIDTH: usize>(bytes: &mut [u8; WIDTH]) {
    let format = const { Format::of(WIDTH) };
    let is_cached = bytes[format.hash_size + EXPIRY_SIZE + ADDRESS_SIZE - 1] >> 7 == 1;
    if !format.is_dense && bytes[0] >> 6 >= 2 && !is_cached {
        bytes[0] -= 1 << 6;
    }
}
