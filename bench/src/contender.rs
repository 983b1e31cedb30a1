//! The contenders: the index, and the maps that one would take otherwise.
//!
//! The maps hold what the index holds, the whole digest and ten bytes, and are not made to hash: digests are random
//! already. That is the least that any map can do. What reads an [`Entry`] unpacks it, from either.
//!
//! Another one is an implementation of [`Contender`], and a line in each `match` that the compiler then asks for.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};

use dmacached::digest::{DIGEST_SIZE, Digest};
use dmacached::index::{BuildError, DenseIndex, Entry, Full, Index, Pointer};
use dmacached::limits::RECORD_GRANULE;
use dmacached::record::SizeClass;

use crate::keys::TABLE_SIZE;

/// Bytes of an entry in a map: what the index packs it into beside the identity.
const PACKED_SIZE: usize = 10;
const ADDRESS_BITS: u32 = 40;
const TABLE_BITS: u32 = (TABLE_SIZE / RECORD_GRANULE).trailing_zeros();

/// Budget of the index in bytes per key: more than it needs, so that no insert is refused.
const BUDGET_PER_KEY: usize = 48;
/// The same, for what an index needs however few keys there are.
const BUDGET_BASE: usize = 16 << 20;

/// A digest as maps hold it.
type Name = [u8; DIGEST_SIZE];
/// An entry as maps hold it.
type Packed = [u8; PACKED_SIZE];

/// hashbrown's map, which is also the standard library's.
pub type HashMap = hashbrown::HashMap<Name, Packed, BuildHasherDefault<PassThrough>>;
/// The standard library's ordered map.
pub type OrderedMap = BTreeMap<Name, Packed>;

/// Something that maps digests to entries.
pub trait Contender: Sized {
    /// An empty one that will get about `key_count` keys; what grows with its keys is not told.
    fn new(key_count: usize) -> Self;

    /// Puts `entry` in the place of what `digest` had, and returns that.
    ///
    /// # Errors
    /// [`Full`], when there is a budget and it is spent.
    fn insert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full>;

    /// The entry of `digest`.
    fn get(&self, digest: &Digest) -> Option<Entry>;

    /// The entries of `digests`, into as many places; one after the other where there is no better way.
    #[inline]
    fn get_batch(&self, digests: &[Digest], entries: &mut [Option<Entry>]) {
        for (digest, entry) in digests.iter().zip(entries) {
            *entry = self.get(digest);
        }
    }

    /// Removes and returns the entry of `digest`.
    fn remove(&mut self, digest: &Digest) -> Option<Entry>;

    /// Number of entries.
    fn len(&self) -> usize;

    /// Whether there is no entry.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use by its own account; `None` when it keeps none.
    fn bytes(&self) -> Option<usize> {
        None
    }

    /// One with the keys of `sorted`, which come in the order of [`Index::order`]; `None` when it can
    /// do nothing with the order or the count.
    ///
    /// # Errors
    /// [`Full`], when there is a budget and it is spent.
    fn build_sorted(expected_len: usize, sorted: impl Iterator<Item = (Digest, Entry)>) -> Option<Result<Self, Full>> {
        let _ = (expected_len, sorted);
        None
    }
}

/// The budget of an index for `key_count` keys.
const fn budget_size(key_count: usize) -> usize {
    key_count * BUDGET_PER_KEY + BUDGET_BASE
}

/// [`Contender`] for a layout of the index.
macro_rules! index_contender {
    ($index:ty) => {
        impl Contender for $index {
            fn new(key_count: usize) -> Self {
                <$index>::new(budget_size(key_count), TABLE_SIZE)
            }

            #[inline]
            fn insert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
                self.upsert(digest, entry)
            }

            #[inline]
            fn get(&self, digest: &Digest) -> Option<Entry> {
                <$index>::get(self, digest)
            }

            #[inline]
            fn get_batch(&self, digests: &[Digest], entries: &mut [Option<Entry>]) {
                <$index>::get_batch(self, digests, entries);
            }

            #[inline]
            fn remove(&mut self, digest: &Digest) -> Option<Entry> {
                <$index>::remove(self, digest)
            }

            fn len(&self) -> usize {
                <$index>::len(self)
            }

            fn bytes(&self) -> Option<usize> {
                Some(self.memory_size())
            }

            fn build_sorted(
                expected_len: usize,
                sorted: impl Iterator<Item = (Digest, Entry)>,
            ) -> Option<Result<Self, Full>> {
                let mut index = <$index>::new(budget_size(expected_len), TABLE_SIZE);
                Some(match index.build(expected_len, sorted) {
                    Ok(()) => Ok(index),
                    Err(BuildError::Full(full)) => Err(full),
                    Err(BuildError::Unsorted) => panic!("benchmarks sort"),
                })
            }
        }
    };
}

index_contender!(Index);
index_contender!(DenseIndex);

impl Contender for HashMap {
    fn new(_key_count: usize) -> Self {
        Self::default()
    }

    #[inline]
    fn insert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
        Ok(hashbrown::HashMap::insert(self, digest.0, pack(entry)).map(unpack))
    }

    #[inline]
    fn get(&self, digest: &Digest) -> Option<Entry> {
        hashbrown::HashMap::get(self, &digest.0).copied().map(unpack)
    }

    #[inline]
    fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        hashbrown::HashMap::remove(self, &digest.0).map(unpack)
    }

    fn len(&self) -> usize {
        hashbrown::HashMap::len(self)
    }

    fn bytes(&self) -> Option<usize> {
        Some(self.allocation_size())
    }

    /// The count is all that helps: nothing is moved as it grows.
    fn build_sorted(expected_len: usize, sorted: impl Iterator<Item = (Digest, Entry)>) -> Option<Result<Self, Full>> {
        let mut map = Self::with_capacity_and_hasher(expected_len, BuildHasherDefault::default());
        sorted.for_each(|(digest, entry)| {
            hashbrown::HashMap::insert(&mut map, digest.0, pack(entry));
        });
        Some(Ok(map))
    }
}

impl Contender for OrderedMap {
    fn new(_key_count: usize) -> Self {
        Self::default()
    }

    #[inline]
    fn insert(&mut self, digest: &Digest, entry: Entry) -> Result<Option<Entry>, Full> {
        Ok(Self::insert(self, digest.0, pack(entry)).map(unpack))
    }

    #[inline]
    fn get(&self, digest: &Digest) -> Option<Entry> {
        Self::get(self, &digest.0).copied().map(unpack)
    }

    #[inline]
    fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        Self::remove(self, &digest.0).map(unpack)
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}

/// What makes a hash of a digest: its first eight bytes, as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassThrough(u64);

impl Hasher for PassThrough {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
    }

    /// The length, which is always the same, comes before the bytes.
    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Five bytes of address, the class, four bytes of expiry: two loads when it is unpacked.
#[inline]
fn pack(entry: Entry) -> Packed {
    let granule = entry.pointer.offset / RECORD_GRANULE as u32;
    let address = u64::from(entry.pointer.slot) << TABLE_BITS | u64::from(granule);
    debug_assert!(address >> ADDRESS_BITS == 0, "the slots of benchmarks are small");
    let mut packed = [0; PACKED_SIZE];
    let word = address | u64::from(entry.class.0) << ADDRESS_BITS;
    packed[..8].copy_from_slice(&word.to_le_bytes());
    packed[6..].copy_from_slice(&entry.expiry.to_le_bytes());
    packed
}

#[inline]
fn unpack(packed: Packed) -> Entry {
    let word = u64::from_le_bytes(*packed.first_chunk().expect("ten bytes"));
    let address = word & ((1 << ADDRESS_BITS) - 1);
    let granule = (address & ((1 << TABLE_BITS) - 1)) as u32;
    Entry::new(
        Pointer { slot: (address >> TABLE_BITS) as u32, offset: granule * RECORD_GRANULE as u32 },
        SizeClass((word >> ADDRESS_BITS) as u8),
        u32::from_le_bytes(*packed.last_chunk().expect("ten bytes")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{digest, entry, sorted_numbers};

    #[test]
    fn an_entry_comes_back_from_its_ten_bytes() {
        for number in 0..10_000 {
            assert_eq!(unpack(pack(entry(number))), entry(number), "{number}");
        }
    }

    #[test]
    fn nothing_is_hashed() {
        use std::hash::BuildHasher;
        let name = digest(7).0;
        let hash = BuildHasherDefault::<PassThrough>::default().hash_one(name);
        assert_eq!(hash.to_le_bytes(), name[..8]);
    }

    fn behaves<C: Contender>() {
        let mut contender = C::new(3_000);
        assert!(contender.is_empty());
        for number in 0..3_000 {
            assert_eq!(contender.insert(&digest(number), entry(number + 1)), Ok(None));
            assert_eq!(contender.insert(&digest(number), entry(number)), Ok(Some(entry(number + 1))));
        }
        assert_eq!(contender.len(), 3_000);
        assert!(contender.bytes().is_none_or(|bytes| (60_000..2_000_000).contains(&bytes)), "{:?}", contender.bytes());
        let digests: Vec<_> = (2_990..3_010).map(digest).collect();
        let mut entries = vec![None; digests.len()];
        contender.get_batch(&digests, &mut entries);
        let expected = (2_990..3_010).map(|number| (number < 3_000).then(|| entry(number)));
        assert!(entries.iter().copied().eq(expected), "{entries:?}");
        for number in 0..3_000 {
            assert_eq!(contender.get(&digest(number)), Some(entry(number)));
            assert_eq!(contender.remove(&digest(number)), Some(entry(number)));
            assert_eq!(contender.get(&digest(number)), None);
        }
        assert_eq!(contender.len(), 0);
    }

    fn is_built_in_bulk<C: Contender>() {
        let numbers = sorted_numbers(3_000);
        let sorted = numbers.iter().map(|number| (digest(u64::from(*number)), entry(u64::from(*number))));
        let Some(built) = C::build_sorted(3_000, sorted) else { return };
        let built = built.expect("the budget is large enough");
        assert_eq!(built.len(), 3_000);
        (0..3_000).for_each(|number| assert_eq!(built.get(&digest(number)), Some(entry(number))));
        assert_eq!(built.get(&digest(3_000)), None);
    }

    #[test]
    fn every_contender_is_a_map() {
        behaves::<Index>();
        behaves::<DenseIndex>();
        behaves::<HashMap>();
        behaves::<OrderedMap>();
    }

    #[test]
    fn what_is_built_in_bulk_is_a_map() {
        is_built_in_bulk::<Index>();
        is_built_in_bulk::<DenseIndex>();
        is_built_in_bulk::<HashMap>();
        is_built_in_bulk::<OrderedMap>();
    }
}
