//! `dmabench index`: the index next to the maps that one would take otherwise.
//!
//! [`grow`] is about memory and single inserts, [`speed`] about the mean of each operation. Both have the work done in
//! child processes ([`child`]), one contender in each, so that no contender sees what another did to the memory.

mod child;
mod grow;
mod memory;
mod slowest;
mod speed;
mod timing;

use std::fs;

use clap::ValueEnum;
use dmacached::digest::Digest;
use dmacached::index::{DenseIndex, Index};
use dmacached_bench::contender::{HashMap, OrderedMap};
use dmacached_bench::keys;

use crate::args::{ChildArguments, IndexArguments, IndexMode};
use crate::procstat;

/// The contenders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The index, which keeps the whole digest
    Full,
    /// The index in the layout of 96 bits
    Dense,
    /// A hash table that need not hash
    Hashbrown,
    /// An ordered tree
    Btree,
}

impl Kind {
    /// What it is called on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Dense => "dense",
            Self::Hashbrown => "hashbrown",
            Self::Btree => "btree",
        }
    }
}

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Grow, with samples
    Grow,
    /// All operations, on digests as the store makes them
    Speed,
    /// The same, on digests that cost next to nothing
    Overlapping,
}

/// Runs what was asked for.
///
/// # Errors
///
/// A sentence when a child fails, a contender loses or mixes up keys, or a file cannot be written.
pub(crate) fn run(arguments: &IndexArguments) -> Result<(), String> {
    match &arguments.mode {
        IndexMode::Grow(arguments) => grow::run(arguments),
        IndexMode::Speed(arguments) => speed::run(arguments),
        IndexMode::Child(arguments) => run_child(arguments),
    }
}

fn run_child(arguments: &ChildArguments) -> Result<(), String> {
    let ChildArguments { part, kind, keys, seed } = *arguments;
    match (part, kind) {
        (Part::Grow, Kind::Full) => grow::grow::<Index>(keys),
        (Part::Grow, Kind::Dense) => grow::grow::<DenseIndex>(keys),
        (Part::Grow, Kind::Hashbrown) => grow::grow::<HashMap>(keys),
        (Part::Grow, Kind::Btree) => grow::grow::<OrderedMap>(keys),
        (part, Kind::Full) => speed::measure::<Index>(keys, seed, digest_of(part)),
        (part, Kind::Dense) => speed::measure::<DenseIndex>(keys, seed, digest_of(part)),
        (part, Kind::Hashbrown) => speed::measure::<HashMap>(keys, seed, digest_of(part)),
        (part, Kind::Btree) => speed::measure::<OrderedMap>(keys, seed, digest_of(part)),
    }
}

/// How keys become digests.
fn digest_of(part: Part) -> fn(u64) -> Digest {
    if part == Part::Overlapping { keys::digest } else { keys::hashed }
}

/// The machine, as far as it matters to memory.
fn host_line() -> String {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(name, _)| name);
    format!("{}, transparent huge pages: {chosen}", procstat::host_line())
}
