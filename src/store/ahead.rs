//! Keys that are asked for soon: their digests are made, and the index' memory is asked for, for all of them at once.
//!
//! An operation on a large index waits for memory twice, some hundred nanoseconds each time. Who has several requests in
//! hand announces their keys, and the memory of all of them comes while none is waited for. The digests are kept for
//! the operations that follow; a key that was announced and does not come costs no more than its digest.

use std::cell::RefCell;

use super::Store;
use crate::digest::Digest;
use crate::io::Io;

/// Most keys that are announced at once: more lines than these ask for a core does not fetch at a time.
pub const AHEAD_COUNT: usize = 16;

/// Bytes of an index below which it is in a core's caches anyway, and announcing keys costs more than it saves. Next to none in
/// unit tests, so that they come here.
const INDEX_SIZE_MIN: usize = if cfg!(test) { 1 } else { 1 << 20 };
/// Longest key whose digest is kept.
const KEPT_KEY_SIZE_MAX: usize = 64;

/// The digests of keys that were announced, in their order.
#[derive(Debug)]
pub(super) struct Announced {
    keys: [[u8; KEPT_KEY_SIZE_MAX]; AHEAD_COUNT],
    /// 0: not kept.
    key_sizes: [u8; AHEAD_COUNT],
    digests: [Digest; AHEAD_COUNT],
    count: usize,
    next: usize,
}

impl Default for Announced {
    fn default() -> Self {
        Self {
            keys: [[0; KEPT_KEY_SIZE_MAX]; AHEAD_COUNT],
            key_sizes: [0; AHEAD_COUNT],
            digests: [Digest([0; _]); AHEAD_COUNT],
            count: 0,
            next: 0,
        }
    }
}

impl Announced {
    fn note(&mut self, key: &[u8], digest: Digest) {
        let is_kept = key.len() <= KEPT_KEY_SIZE_MAX;
        if is_kept {
            self.keys[self.count][..key.len()].copy_from_slice(key);
        }
        self.key_sizes[self.count] = if is_kept { key.len() as u8 } else { 0 };
        self.digests[self.count] = digest;
        self.count += 1;
    }

    /// The digest of `key`, if it is the next that was announced. If it is not, none of the others is looked for.
    #[inline]
    fn take(&mut self, key: &[u8]) -> Option<Digest> {
        let number = self.next;
        if number == self.count {
            return None;
        }
        self.next += 1;
        let is_it = !key.is_empty() && self.keys[number][..usize::from(self.key_sizes[number])] == *key;
        is_it.then(|| self.digests[number])
    }
}

impl<I: Io> Store<I> {
    /// Says that these keys will be asked for in this order, at once: the first [`AHEAD_COUNT`] of them count.
    ///
    /// # Panics
    /// When a key is longer than [`KEY_SIZE_MAX`](crate::limits::KEY_SIZE_MAX).
    pub fn announce<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let state = self.shared.state.borrow();
        if state.index.memory_size() < INDEX_SIZE_MIN {
            return;
        }
        let mut announced = self.shared.announced.borrow_mut();
        (announced.count, announced.next) = (0, 0);
        for key in keys.take(AHEAD_COUNT) {
            announced.note(key, Digest::of(&self.shared.salt, key));
        }
        state.index.prefetch(announced.digests[..announced.count].iter());
    }

    /// What `key` is to this store.
    ///
    /// # Panics
    /// When the key is longer than [`KEY_SIZE_MAX`](crate::limits::KEY_SIZE_MAX).
    #[must_use]
    pub fn digest(&self, key: &[u8]) -> Digest {
        let announced = self.shared.announced.borrow_mut().take(key);
        announced.unwrap_or_else(|| Digest::of(&self.shared.salt, key))
    }
}

/// As a part of what a store shares.
pub(super) type SharedAnnounced = RefCell<Announced>;

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 16] = [9; 16];

    #[test]
    fn digests_are_given_once_to_the_key_that_was_announced() {
        let mut announced = Announced::default();
        let long = [b'l'; KEPT_KEY_SIZE_MAX + 1];
        for key in [&b"first"[..], &long, b"second", b""] {
            announced.note(key, Digest::of(&SALT, key));
        }
        assert_eq!(announced.take(b"first"), Some(Digest::of(&SALT, b"first")));
        assert_eq!(announced.take(&long), None, "too long to be kept");
        assert_eq!(announced.take(b"secont"), None);
        assert_eq!(announced.take(b"second"), None, "passed by");
        assert_eq!(announced.take(b"first"), None);
        announced.note(&long, Digest::of(&SALT, &long));
        assert_eq!(announced.take(b""), None, "an empty key is not one that was not kept");
    }
}
