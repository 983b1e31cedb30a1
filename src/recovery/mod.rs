//! From what lies on disk to a store that serves: the data directory, the tables' contents, and the index built from
//! them.
//!
//! Tables are replayed in the order of their sequence and records in the order of their offset, which is the order of
//! the writes to each key; the last word wins. A damaged or missing part costs its own records only. Nothing is
//! changed on disk before all is read, but for tables that are sealed or resumed at the end, so an interrupted
//! recovery can simply be done again.

pub mod replay;
pub mod superblock;
pub mod tables;

pub use replay::{Progress, Recovered, recover};
pub use superblock::{DataDirectory, Geometry, Superblock, existing_table_size};
