//! What the benchmarks of the index share: the contenders, and the keys they are given.
//!
//! `dmabench index` and `benches/index.rs` are built on it. The load generator is in the program alone.

pub mod contender;
pub mod keys;
