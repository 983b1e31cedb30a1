//! Bugs that are planted on purpose, to prove that the simulator finds them: `tests/crash` runs until each is found.
//!
//! They are there only when the crate is built with `--cfg mutants`, and then one at a time, chosen by
//! [`choose`] for a thread. In any other build [`has`] is the constant `false`, and nothing is left of them.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A flush returns without having made anything stable.
    SyncForgotten,
    /// The trailer of a table is written before the footer that it vouches for is stable.
    TrailerBeforeData,
    /// The header of a table need not be stable before its first record.
    HeaderUnsynced,
    /// A table with tombstones is emptied although older tables have what they keep dead.
    GuardsIgnored,
    /// A record leaves the index with its table although the index points at a newer one.
    PointerUncompared,
    /// A table is freed before what has replaced its records is on disk.
    FreedTooEarly,
    /// A table counts as free before that is on stable media.
    FreeUnsynced,
    /// What lies behind a torn tail is left there when the table goes on.
    TailNotWiped,
    /// A table goes on in the page that its last record ends in.
    TailOffByOne,
    /// Checksums do not know which use of a table they belong to.
    SeedWithoutSequence,
    /// Checksums of records are not compared.
    ChecksumUnchecked,
    /// A store in use counts as cleanly stopped.
    CleanFlagKept,
    /// Versions go on after a crash as if nothing had been lost.
    VersionGapForgotten,
    /// A delayed flush is noted in one table only.
    FlushNotRepeated,
    /// The footer names the expiry that a record had before it was touched in memory.
    ExpiryNotInFooter,
    /// Of the words about a key the one that is found last counts, in tables in the order of their slots.
    VersionsIgnored,
    /// An entry of a checkpoint counts although its table is in another use by now.
    CheckpointOfAnotherTime,
    /// What was written after a checkpoint to a table that was complete until a start went on with it is not replayed.
    CheckpointTailForgotten,
    /// A copy is pointed at although the key has a newer record: only that there is one is looked at (memcached #1047).
    RepointUncompared,
    /// A copy gets a version of its own.
    CopyIsNews,
    /// A table is freed before the copies of its records are on stable media.
    CopiesUnsynced,
    /// What keeps older versions dead goes with its table.
    GuardsNotCarried,
    /// A record is evicted without a word, although older versions of it may be left.
    EvictedUnburied,
    /// A copy has the expiry that its original was written with, and touches go with their tables.
    TouchNotMoved,
    /// A value that replaces another says that nothing older is on disk.
    OlderForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::SyncForgotten,
        Self::TrailerBeforeData,
        Self::HeaderUnsynced,
        Self::GuardsIgnored,
        Self::PointerUncompared,
        Self::FreedTooEarly,
        Self::FreeUnsynced,
        Self::TailNotWiped,
        Self::TailOffByOne,
        Self::SeedWithoutSequence,
        Self::ChecksumUnchecked,
        Self::CleanFlagKept,
        Self::VersionGapForgotten,
        Self::FlushNotRepeated,
        Self::ExpiryNotInFooter,
        Self::VersionsIgnored,
        Self::CheckpointOfAnotherTime,
        Self::CheckpointTailForgotten,
        Self::RepointUncompared,
        Self::CopyIsNews,
        Self::CopiesUnsynced,
        Self::GuardsNotCarried,
        Self::EvictedUnburied,
        Self::TouchNotMoved,
        Self::OlderForgotten,
    ];
}

#[cfg(mutants)]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Plants one bug in this thread, or none.
#[cfg(mutants)]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

/// Whether a bug is planted.
#[cfg(mutants)]
#[must_use]
pub fn has(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}

/// Whether a bug is planted: never, in this build.
#[cfg(not(mutants))]
#[must_use]
#[inline]
pub const fn has(_mutant: Mutant) -> bool {
    false
}
