//! An entry and how it is packed: 29 bytes.
//!
//! ```text
//! 0        19       23        28      29
//! | hash   | expiry | address | class |
//! ```
//!
//! The hash is the digest with its first two bytes, which choose the shard, moved to the end; its first byte is
//! implied by the segment. Hash bytes are stored as they are, so that entries compare as byte strings; the other
//! fields are little-endian. The address counts units of 16 bytes over all slots of the shard; its top bit is
//! reserved, which leaves 8 TiB per shard.

use crate::clock::Seconds;
use crate::digest::{DIGEST_SIZE, Digest};
use crate::limits::RECORD_GRANULE;
use crate::record::SizeClass;

/// Bytes of a packed entry.
pub const ENTRY_SIZE: usize = STORED_HASH_SIZE + 4 + ADDRESS_SIZE + 1;
const STORED_HASH_SIZE: usize = DIGEST_SIZE - 1;
const ADDRESS_SIZE: usize = 5;
const ADDRESS_BITS: u32 = 39;
/// Bytes of the digest that choose the shard.
const SHARD_BYTES: usize = 2;

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
}

/// How pointers are packed: depends on the table size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    table_bits: u32,
}

impl Layout {
    pub(super) fn new(table_size: usize) -> Self {
        assert!(table_size.is_power_of_two() && table_size >= RECORD_GRANULE, "tables are powers of two");
        Self { table_bits: (table_size / RECORD_GRANULE).trailing_zeros() }
    }

    pub(super) fn slot_count_max(self) -> usize {
        1 << (ADDRESS_BITS - self.table_bits)
    }

    fn address(self, pointer: Pointer) -> u64 {
        debug_assert_eq!(pointer.offset as usize % RECORD_GRANULE, 0);
        let address = u64::from(pointer.slot) << self.table_bits | u64::from(pointer.offset / RECORD_GRANULE as u32);
        assert!(address >> ADDRESS_BITS == 0, "the catalog hands out slots that fit");
        address
    }

    fn pointer(self, address: u64) -> Pointer {
        let offset = address & ((1 << self.table_bits) - 1);
        Pointer { slot: (address >> self.table_bits) as u32, offset: offset as u32 * RECORD_GRANULE as u32 }
    }
}

/// The digest as the index orders it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash([u8; DIGEST_SIZE]);

impl Hash {
    pub(super) fn of(digest: &Digest) -> Self {
        let mut hash = digest.0;
        hash.rotate_left(SHARD_BYTES);
        Self(hash)
    }

    /// The top `depth` bits, at most 32.
    pub(super) fn prefix(self, depth: u32) -> usize {
        let top = self.0.first_chunk::<4>().expect("20 bytes");
        #[expect(clippy::big_endian_bytes, reason = "hashes are ordered as byte strings")]
        let top = u32::from_be_bytes(*top);
        (top >> (32 - depth)) as usize
    }

    /// Where in `count` ordered entries of a segment of `depth` bits the hash is to be expected.
    pub(super) fn guess(self, depth: u32, count: usize) -> usize {
        let top = self.0.first_chunk::<8>().expect("20 bytes");
        #[expect(clippy::big_endian_bytes, reason = "hashes are ordered as byte strings")]
        let fraction = (u64::from_be_bytes(*top) << depth) >> 32;
        ((fraction * count as u64) >> 32) as usize
    }

    pub(super) fn stored(&self) -> &[u8; STORED_HASH_SIZE] {
        self.0.last_chunk().expect("20 bytes")
    }
}

/// The packed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawEntry(pub(super) [u8; ENTRY_SIZE]);

impl RawEntry {
    pub(super) fn pack(hash: Hash, entry: Entry, layout: Layout) -> Self {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..STORED_HASH_SIZE].copy_from_slice(hash.stored());
        bytes[19..23].copy_from_slice(&entry.expiry.to_le_bytes());
        bytes[23..28].copy_from_slice(&layout.address(entry.pointer).to_le_bytes()[..ADDRESS_SIZE]);
        bytes[28] = entry.class.0;
        Self(bytes)
    }

    pub(super) fn unpack(&self, layout: Layout) -> Entry {
        let expiry = self.0[19..].first_chunk::<4>().expect("29 bytes");
        let mut address = [0; 8];
        address[..ADDRESS_SIZE].copy_from_slice(&self.0[23..28]);
        Entry {
            pointer: layout.pointer(u64::from_le_bytes(address)),
            class: SizeClass(self.0[28]),
            expiry: Seconds::from_le_bytes(*expiry),
        }
    }

    /// Bit `bit` of the hash, counted from its first.
    pub(super) fn hash_bit(&self, bit: u32) -> bool {
        debug_assert!(bit >= 8, "the first byte is not stored");
        self.0[bit as usize / 8 - 1] >> (7 - bit % 8) & 1 == 1
    }
}

/// The first eight bytes of a stored hash, as a number that is ordered as they are.
pub(super) fn leading(stored: &[u8; STORED_HASH_SIZE]) -> u64 {
    #[expect(clippy::big_endian_bytes, reason = "hashes are ordered as byte strings")]
    u64::from_be_bytes(*stored.first_chunk().expect("19 bytes"))
}

/// The stored hash of packed bytes.
pub(super) fn stored_hash(bytes: &[u8]) -> &[u8; STORED_HASH_SIZE] {
    bytes.first_chunk().expect("an entry is longer than its hash")
}
