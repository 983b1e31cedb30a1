//! Checkpoints of the index: a start that finds one reads it instead of what all tables say, and then only the tables
//! that were written since. See FORMAT.md; [`format`] is its code.
//!
//! A checkpoint is a **set of pieces**, each a file with the entries of a range of hashes. A piece is *fuzzy*: the index
//! goes on changing while it is written. That does no harm, as whatever is written in that time is in tables that are
//! replayed afterwards, and has a version above that of the last write when the piece was begun. A table is replayed unless it
//! was complete when each piece of the set was begun.
//!
//! **Never trusted:** a piece that is not whole, of another store or of another time than the tables: whose log
//! ends before what it knows. An entry counts only if its table is in the same use as it was when the piece was begun. And a
//! piece gets its name only when all that it knows is on stable media.

pub mod format;
mod reader;
mod writer;

pub(super) use reader::verify_piece;
pub use reader::{Checkpoint, Entries, Guarded, InUse, KnownEntry, PieceError, find};
pub use writer::{PieceEnd, PieceWriter};

use std::path::{Path, PathBuf};

use crate::index::Index;
use crate::io::Io;
use crate::limits::{CHECKPOINT_PIECE_COUNT_MAX, CHECKPOINT_PIECE_SIZE};

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".dmc";
/// What is appended to the name of a piece that is not complete.
pub(super) const UNFINISHED: &str = ".new";

/// A place in the log that a shard's tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Sequence of the table.
    pub sequence: u64,
    /// Offset in it, in bytes.
    pub offset: u32,
}

/// Which part of the index a piece is: of `count` ranges of hashes, all equally long, the one with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From 0.
    pub number: u32,
    /// A power of two.
    pub count: u32,
}

impl Piece {
    /// The number of pieces of an index with so many entries: as few as there can be with pieces of about
    /// [`CHECKPOINT_PIECE_SIZE`].
    #[must_use]
    pub fn count_for(len: usize) -> u32 {
        let count = (len * format::ENTRY_SIZE).div_ceil(CHECKPOINT_PIECE_SIZE).next_power_of_two();
        u32::try_from(count).unwrap_or(u32::MAX).clamp(1, CHECKPOINT_PIECE_COUNT_MAX)
    }

    /// The first hash of the range.
    #[must_use]
    pub fn low(self) -> u64 {
        let bits = self.count.trailing_zeros();
        if bits == 0 { 0 } else { u64::from(self.number) << (u64::BITS - bits) }
    }

    /// Whether hashes that begin with these 64 bits are in the range.
    #[must_use]
    pub fn holds(self, prefix: u64) -> bool {
        let bits = self.count.trailing_zeros();
        bits == 0 || prefix >> (u64::BITS - bits) == u64::from(self.number)
    }

    /// Its file.
    #[must_use]
    pub fn path(self, directory: &Path) -> PathBuf {
        let Self { number, count } = self;
        directory.join(format!("{PREFIX}{count:03}-{number:03}{SUFFIX}"))
    }

    /// The piece that a file's name names.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (count, number) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
        let piece = Self { number: number.parse().ok()?, count: count.parse().ok()? };
        let is_sound =
            piece.count.is_power_of_two() && piece.count <= CHECKPOINT_PIECE_COUNT_MAX && piece.number < piece.count;
        let is_written_so = piece.path(Path::new("")).as_os_str() == name;
        (is_sound && is_written_so).then_some(piece)
    }
}

/// Whether a name in a shard's directory is one of a checkpoint's, finished or not.
#[must_use]
pub fn is_checkpoint_name(name: &str) -> bool {
    Piece::of_name(name.strip_suffix(UNFINISHED).unwrap_or(name)).is_some()
}

/// Removes the pieces of all sets but that of `count` pieces, finished or not. What cannot be removed only takes space.
pub fn remove_others<I: Io>(io: &I, directory: &Path, count: u32) {
    for name in io.list(directory).unwrap_or_default() {
        let piece = Piece::of_name(name.strip_suffix(UNFINISHED).unwrap_or(&name));
        if piece.is_some_and(|piece| piece.count != count) {
            let _ = io.remove(&directory.join(name));
        }
    }
}

/// Removes all pieces: they are of another time than the tables. Later the log is longer and the generation higher, and
/// they would seem to be right. On stable media when this returns, so that nothing is written before.
///
/// # Errors
/// What the file system says; the tables must not be written to then.
pub fn discard<I: Io>(io: &I, directory: &Path) -> std::io::Result<()> {
    for name in io.list(directory)?.iter().filter(|name| Piece::of_name(name).is_some()) {
        let path = directory.join(name);
        let unfinished = directory.join(format!("{name}{UNFINISHED}"));
        // Unlike a removal, this is stable.
        io.rename(&path, &unfinished)?;
        // What is left of it only takes space.
        let _ = io.remove(&unfinished);
    }
    Ok(())
}

const _: () = assert!(CHECKPOINT_PIECE_COUNT_MAX.is_power_of_two() && CHECKPOINT_PIECE_COUNT_MAX <= 999);
// The walk through an index goes by segments, of which there are always more than pieces.
const _: () = assert!((CHECKPOINT_PIECE_COUNT_MAX as usize) <= Index::SEGMENT_COUNT_MIN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_and_their_names_are_read() {
        for count in [1, 2, 64] {
            let pieces = || (0..count).map(|number| Piece { number, count });
            for prefix in [0, 1, u64::MAX / 64, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
                assert_eq!(pieces().filter(|piece| piece.holds(prefix)).count(), 1, "{prefix:x} of {count}");
            }
            for piece in pieces() {
                assert!(piece.holds(piece.low()));
                let name = piece.path(Path::new("")).to_string_lossy().into_owned();
                assert_eq!(Piece::of_name(&name), Some(piece));
                assert!(is_checkpoint_name(&name) && is_checkpoint_name(&format!("{name}.new")));
            }
        }
        for name in
            ["checkpoint-001-001.dmc", "checkpoint-003-001.dmc", "checkpoint-01-0.dmc", "checkpoint-128-000.dmc", "x"]
        {
            assert_eq!(Piece::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_large_index_has_more_pieces() {
        assert_eq!(Piece::count_for(0), 1);
        assert_eq!(Piece::count_for(CHECKPOINT_PIECE_SIZE / format::ENTRY_SIZE), 1);
        assert_eq!(Piece::count_for(CHECKPOINT_PIECE_SIZE / format::ENTRY_SIZE + 1), 2);
        assert_eq!(Piece::count_for(usize::MAX / 64), CHECKPOINT_PIECE_COUNT_MAX);
    }
}
