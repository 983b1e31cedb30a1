//! What a checkpoint says and what tables say, in the order of the index, becomes the index.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::checkpoint::format::Damage;
use super::checkpoint::{Entries, KnownEntry, PieceError};
use super::words::{Sorted, Word, Words};
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::catalog::Catalog;
use crate::index::{Build, BuildError, Entry, Full, Index};
use crate::io::Io;
use crate::record::Kind;

/// Why an index could not be built at once.
pub(super) enum Failed {
    /// It has no room for all entries, but for this part of them.
    Full(f64),
    /// A piece of the checkpoint is not what it seemed to be.
    Checkpoint(PathBuf, PieceError),
}

/// An index that is being built.
pub(super) struct Merge {
    build: Build,
    now: Seconds,
    /// By slot: tables whose records are left out, as there is no room for all. Empty when there is.
    left_out: Vec<bool>,
    left_out_count: u64,
}

/// In the order of the index.
#[inline]
fn compare(one: &Digest, other: &Digest) -> Ordering {
    let order = Index::prefix(one).cmp(&Index::prefix(other));
    order.then_with(|| Index::order(one).cmp(&Index::order(other)))
}

impl Merge {
    /// Begins with an empty index, which about `len_expected` entries will come to. What lies in the tables of the slots that
    /// `left_out` says does not come to it.
    pub(super) fn new(index: &mut Index, len_expected: usize, now: Seconds, left_out: Vec<bool>) -> Self {
        Self { build: index.begin_build(len_expected), now, left_out, left_out_count: 0 }
    }

    /// Adds the entries of the range of `words`: what the words say counts, and otherwise what the checkpoint says. `read_on`
    /// hears how many pieces of it, and how many of its entries, were read.
    pub(super) async fn range<I: Io>(
        &mut self,
        index: &mut Index,
        catalog: &mut Catalog<I::File>,
        words: &mut Words,
        mut entries: Option<&mut Entries<'_, I>>,
        read_on: &mut impl FnMut(usize, u64),
    ) -> Result<(), Failed> {
        let high = words.high();
        let mut sorted = words.sorted();
        let mut word = sorted.next();
        loop {
            if let Some(entries) = &mut entries
                && entries.current().is_none()
            {
                entries.read_on().await.map_err(|(path, error)| Failed::Checkpoint(path, error))?;
                read_on(entries.piece(), entries.count());
            }
            let known = entries.as_ref().and_then(|entries| entries.current());
            let known = known.filter(|known| high.is_none_or(|high| Index::prefix(&known.digest) < high)).copied();
            let order = match (&word, &known) {
                (None, None) => {
                    sorted.doubled().iter().for_each(|slot| catalog.note_doubled(*slot));
                    return Ok(());
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(word), Some(known)) => compare(&word.digest, &known.digest),
            };
            if order.is_ge()
                && let Some(entries) = &mut entries
            {
                entries.advance();
            }
            let said = if order.is_le() { said(&mut word, &mut sorted) } else { Said::default() };
            let known = known.filter(|_| order.is_ge());
            let path = || entries.as_ref().map(|entries| entries.path()).unwrap_or_default();
            let prefix = said.any().map(|word| word.digest).or_else(|| known.map(|known| known.digest));
            let prefix = prefix.map_or(0, |digest| Index::prefix(&digest));
            self.add(index, catalog, said, known).map_err(|error| match error {
                BuildError::Full(Full) => Failed::Full(prefix as f64 / u64::MAX as f64),
                // Words are sorted.
                BuildError::Unsorted => Failed::Checkpoint(path(), Damage::Order.into()),
            })?;
        }
    }

    /// Adds what is to be said about a key, of which words, an entry of the checkpoint, or both are known.
    #[inline]
    fn add<F>(
        &mut self,
        index: &mut Index,
        catalog: &mut Catalog<F>,
        said: Said,
        known: Option<KnownEntry>,
    ) -> Result<(), BuildError> {
        if let Some(known) = known.filter(|known| known.is_valid && is_expired(known.entry.expiry, self.now)) {
            // Who has written the key anew since then may not have known of it.
            catalog.note_dropped(known.entry.pointer.slot);
        }
        let known = known.map(|known| moved_since(said.word, known, catalog));
        let Some((digest, entry)) = truth(said, known, catalog) else { return Ok(()) };
        let slot = entry.pointer.slot;
        if is_expired(entry.expiry, self.now) {
            // It stays on disk and keeps older versions of its key dead.
            catalog.note_dropped(slot);
            return Ok(());
        }
        if self.left_out.get(slot as usize).is_some_and(|is_left_out| *is_left_out) {
            self.left_out_count += 1;
            return Ok(());
        }
        index.build_on(&mut self.build, &digest, entry)?;
        catalog.add_live(slot, entry.class);
        Ok(())
    }

    /// All ranges were added. Returns how many records were left out.
    pub(super) fn finish(self, index: &mut Index) -> Result<u64, Failed> {
        index.finish_build(self.build).map_err(|Full| Failed::Full(1.0))?;
        Ok(self.left_out_count)
    }
}

/// What words say about a key.
#[derive(Clone, Copy, Default)]
struct Said {
    /// The value or tombstone with the highest version.
    word: Option<Word>,
    /// The touch with the highest version, if that is higher.
    touch: Option<Word>,
}

impl Said {
    fn any(&self) -> Option<Word> {
        self.word.or(self.touch)
    }
}

/// What is said about the key of `next`, which becomes the first word about another key.
#[inline]
fn said(next: &mut Option<Word>, sorted: &mut Sorted<'_>) -> Said {
    let mut said = Said::default();
    while let Some(word) = next.filter(|word| said.any().is_none_or(|known| known.digest == word.digest)) {
        *(if word.kind == Kind::Touch { &mut said.touch } else { &mut said.word }) = Some(word);
        *next = sorted.next();
    }
    said
}

/// What the checkpoint knows of a key, of which `word` is said: if what the entry points at was moved since, but is there still,
/// the copy is what counts, so that no table but that of the original has something of its own that lies elsewhere too.
#[inline]
fn moved_since<F>(word: Option<Word>, known: KnownEntry, catalog: &mut Catalog<F>) -> KnownEntry {
    let Some(moved) = word.filter(|word| word.is_moved && word.kind == Kind::Value && known.is_valid) else {
        return known;
    };
    let (copy, original) = (moved.entry(), known.entry.pointer.slot);
    let sequence = |slot| catalog.get(slot).map_or(0, |table| table.sequence);
    if sequence(copy.pointer.slot) <= sequence(original) {
        return known;
    }
    catalog.note_doubled(original);
    KnownEntry { entry: copy, ..known }
}

/// The index entry of a key of which words, an entry of the checkpoint, or both are known; see FORMAT.md, "Checkpoint".
#[inline]
fn truth<F>(said: Said, known: Option<KnownEntry>, catalog: &Catalog<F>) -> Option<(Digest, Entry)> {
    let word = said.word.filter(|word| !word.is_moved);
    let (digest, entry) = match (word, known) {
        (Some(word), _) => (word.digest, (word.kind == Kind::Value).then(|| word.entry())?),
        // Nothing that the checkpoint did not know was said but a touch, if at all.
        (None, Some(known)) if known.is_valid => (known.digest, known.entry),
        // What was moved is what the checkpoint points at, with the expiry that it had when it was copied, which was later. If
        // the checkpoint knows nothing, it was deleted before it was copied.
        (None, Some(_)) => {
            let moved = said.word.filter(|word| word.kind == Kind::Value)?;
            (moved.digest, moved.entry())
        }
        (None, None) => return None,
    };
    // A copy that was made later has the expiry of that time, whichever touches are left.
    let sequence = catalog.get(entry.pointer.slot).map_or(0, |table| table.sequence);
    let touch = said.touch.filter(|touch| !touch.is_moved && touch.until() >= sequence);
    Some((digest, touch.map_or(entry, |touch| Entry { expiry: touch.expiry, ..entry })))
}
