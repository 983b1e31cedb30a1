//! From what lies on disk to a store that serves: the data directory, the tables' contents, and the index built from
//! them.
//!
//! Where a word about a key lies says nothing of when it was said: tables of several streams are written at the same time, and
//! records are moved. Versions do. A [`checkpoint`] says what all tables have come to, as far as it knows. What was written
//! since, or everything, is read from footers and by scanning; the words about a range of keys are gathered, sorted, merged
//! with the checkpoint and built into the index at once. A damaged or missing part costs the records in it; where these were
//! the last words about their keys, what they had replaced or deleted may count again.
//!
//! Before all is read, what changes on disk is the superblock, which says that the store is in use, and what has no records
//! goes: table files that were being made, and pieces of a checkpoint of another time. Then only the ends of tables change,
//! behind all records that count, so an interrupted recovery can simply be done again.

pub mod checkpoint;
pub mod export;
mod left_out;
mod merge;
pub mod replay;
mod settle;
pub mod superblock;
pub mod survey;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod verify;
mod words;

pub use replay::{Progress, Recovered, recover};
pub use superblock::{DataDirectory, Geometry, Superblock, existing_table_size};
