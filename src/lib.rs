#![doc = include_str!("ARCHITECTURE.md")]
#![deny(unsafe_code)]

pub mod cache;
pub mod cli;
pub mod clock;
pub mod digest;
pub mod disktable;
pub mod error;
pub mod index;
pub mod io;
pub mod limits;
pub mod memtable;
pub mod mutants;
pub mod protocol;
pub mod reclaim;
pub mod record;
pub mod recovery;
pub mod server;
pub mod shard;
pub mod stats;
pub mod store;
