//! A fixed table of entries with checked names: what is pending, looked up by what a completion brings back.
//!
//! **Invariant:** a key finds the entry that it was made for or none, never the next one in the same place. Keys leave
//! the program (as the user data of an I/O request) and come back late, twice or never; the table tells.

use std::fmt;

/// Bits of a key that say the place.
const INDEX_BITS: u32 = 24;
/// Bits of a key that are used at all; the eight above are the caller's.
const KEY_BITS: u32 = INDEX_BITS + u32::BITS;
/// Most entries that a table can have.
pub const CAPACITY_MAX: usize = 1 << INDEX_BITS;
/// End of the free list: no index, as [`CAPACITY_MAX`] is smaller.
const NONE: u32 = u32::MAX;

const _: () = assert!(KEY_BITS == 56, "the top byte of a key's bits is the caller's");
const _: () = assert!(CAPACITY_MAX < NONE as usize);

/// The name of an entry: its place, and which of the place's successive entries it is.
///
/// The count of a place's entries has 32 bits: a key would have to be kept for 4294967296 further uses of its place
/// to be mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    generation: u32,
    index: u32,
}

impl Key {
    /// The key as a number below 2 to the 56th: the top byte is free for a tag.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << INDEX_BITS | self.index as u64
    }

    /// The key of `to_bits`; the top byte, the caller's own, is ignored. Any number makes a key: the table finds
    /// nothing for one that it did not make.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let generation = (bits >> INDEX_BITS) as u32;
        Self { generation, index: (bits & (CAPACITY_MAX as u64 - 1)) as u32 }
    }

    /// The place in the table, below its capacity: for arrays beside the table.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

#[derive(Clone)]
enum Place<T> {
    /// Free; holds the index of the next free place.
    Free(u32),
    Taken(T),
}

struct Entry<T> {
    /// Entries that this place has held before the present or next one, modulo 2 to the 32nd.
    generation: u32,
    place: Place<T>,
}

/// At most `capacity` entries of type `T`. All memory is allocated at construction.
pub struct Table<T> {
    entries: Box<[Entry<T>]>,
    free_head: u32,
    taken_count: usize,
}

impl<T> Table<T> {
    /// An empty table for `capacity` entries.
    ///
    /// # Panics
    /// When `capacity` is above [`CAPACITY_MAX`].
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity <= CAPACITY_MAX, "{capacity} entries, {CAPACITY_MAX} are possible");
        let entry = |index: usize| {
            let next = if index + 1 < capacity { index as u32 + 1 } else { NONE };
            Entry { generation: 0, place: Place::Free(next) }
        };
        let free_head = if capacity > 0 { 0 } else { NONE };
        Self { entries: (0..capacity).map(entry).collect(), free_head, taken_count: 0 }
    }

    /// Puts `value` into a free place and names it. The place freed last is used first: it is still in the cache.
    ///
    /// # Errors
    /// The value itself, when the table is full.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        let index = self.free_head;
        let Some(entry) = self.entries.get_mut(index as usize) else { return Err(value) };
        let Place::Free(next) = entry.place else { unreachable!("place {index} is in the free list") };
        self.free_head = next;
        self.taken_count += 1;
        entry.place = Place::Taken(value);
        Ok(Key { generation: entry.generation, index })
    }

    /// The entry of `key`; `None` when it was removed, or never was.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.entries.get(key.index()) {
            Some(Entry { generation, place: Place::Taken(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The entry of `key`, to be changed; `None` when it was removed, or never was.
    #[must_use]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entries.get_mut(key.index()) {
            Some(Entry { generation, place: Place::Taken(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Removes the entry of `key` and returns it; `None` when it was removed before, or never was.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let entry = &mut self.entries[key.index()];
        let place = std::mem::replace(&mut entry.place, Place::Free(self.free_head));
        entry.generation = entry.generation.wrapping_add(1);
        self.free_head = key.index;
        self.taken_count -= 1;
        match place {
            Place::Taken(value) => Some(value),
            Place::Free(_) => unreachable!("`get` found a value"),
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken_count
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken_count == 0
    }

    /// Whether the next insert would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.taken_count == self.capacity()
    }

    /// Most entries at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The entries with their keys, in order of place. Looks at every place, free ones too.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| match &entry.place {
            Place::Taken(value) => Some((Key { generation: entry.generation, index: index as u32 }, value)),
            Place::Free(_) => None,
        })
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Table({} of {} entries)", self.len(), self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = Table::with_capacity(2);
        let first = table.insert("a").expect("an empty table");
        table.insert("b").expect("one place is left");
        assert!(table.is_full());
        assert_eq!(table.insert("c"), Err("c"));
        assert_eq!(table.remove(first), Some("a"));
        assert!(table.insert("c").is_ok());
        assert_eq!(Table::with_capacity(0).insert(1), Err(1));
    }

    #[test]
    fn a_stale_key_finds_nothing_though_its_place_is_taken_again() {
        let mut table = Table::with_capacity(1);
        let stale = table.insert(1).expect("an empty table");
        assert_eq!(table.remove(stale), Some(1));
        assert_eq!(table.remove(stale), None);
        let fresh = table.insert(2).expect("an empty table");
        assert_eq!(stale.index(), fresh.index());
        assert_eq!(table.get(stale), None);
        assert_eq!(table.get_mut(stale), None);
        assert_eq!(table.remove(stale), None);
        assert_eq!(table.get(fresh), Some(&2));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn bits_keep_the_key_and_leave_the_top_byte_alone() {
        let keys = [(0, 0), (u32::MAX, CAPACITY_MAX as u32 - 1), (1, 0), (0, 1), (0x89ab_cdef, 0x01_2345)];
        for (generation, index) in keys {
            let key = Key { generation, index };
            assert_eq!(key.to_bits() >> KEY_BITS, 0);
            assert_eq!(Key::from_bits(key.to_bits()), key);
            assert_eq!(Key::from_bits(key.to_bits() | 0xa5 << KEY_BITS), key);
        }
    }

    #[test]
    fn keys_from_elsewhere_find_nothing() {
        let mut table = Table::with_capacity(3);
        table.insert(7).expect("an empty table");
        for bits in [1, 2, 3, 1 << INDEX_BITS, u64::MAX] {
            assert_eq!(table.get(Key::from_bits(bits)), None, "{bits:#x}");
            assert_eq!(table.remove(Key::from_bits(bits)), None, "{bits:#x}");
        }
    }

    #[test]
    fn the_generation_wraps() {
        let mut table = Table::with_capacity(1);
        table.entries[0].generation = u32::MAX;
        let last = table.insert(1).expect("an empty table");
        table.remove(last);
        let first = table.insert(2).expect("an empty table");
        assert_eq!((first.to_bits(), table.get(last), table.get(first)), (0, None, Some(&2)));
    }

    #[test]
    fn dropping_the_table_drops_its_entries() {
        let counted = std::rc::Rc::new(());
        let mut table = Table::with_capacity(4);
        let key = table.insert(counted.clone()).expect("an empty table");
        table.insert(counted.clone()).expect("three places are left");
        drop(table.remove(key));
        assert_eq!(std::rc::Rc::strong_count(&counted), 2);
        drop(table);
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 128 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Random inserts, removes and lookups, stale ones too, against a map of owned values.
        #[test]
        fn behaves_like_a_map_of_owned_values(
            capacity in 0_usize..40,
            operations in proptest::collection::vec((0_u8..4, any::<u16>()), 1..300),
        ) {
            let mut table = Table::with_capacity(capacity);
            let mut owned: HashMap<Key, Box<u16>> = HashMap::new();
            let mut keys: Vec<Key> = Vec::new();
            for (operation, choice) in operations {
                let key = keys.get(choice as usize % keys.len().max(1)).copied();
                match (operation, key) {
                    (0 | 1, _) => match table.insert(Box::new(choice)) {
                        Ok(key) => {
                            prop_assert!(key.index() < capacity);
                            prop_assert!(owned.insert(key, Box::new(choice)).is_none(), "{:?} came twice", key);
                            keys.push(key);
                        }
                        Err(value) => prop_assert_eq!((*value, owned.len()), (choice, capacity)),
                    },
                    (2, Some(key)) => prop_assert_eq!(table.remove(key), owned.remove(&key)),
                    (_, Some(key)) => {
                        if let (Some(value), Some(wanted)) = (table.get_mut(key), owned.get_mut(&key)) {
                            (**value, **wanted) = (choice, choice);
                        }
                        prop_assert_eq!(table.get(key), owned.get(&key));
                    }
                    (_, None) => {}
                }
                prop_assert_eq!((table.len(), table.is_full()), (owned.len(), owned.len() == capacity));
            }
            let found: HashMap<Key, Box<u16>> = table.iter().map(|(key, value)| (key, value.clone())).collect();
            prop_assert_eq!(found, owned);
        }
    }
}
