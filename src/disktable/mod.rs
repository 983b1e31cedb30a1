#![doc = include_str!("FORMAT.md")]

pub mod catalog;
pub mod format;
pub mod reader;
pub mod search;
pub mod summaries;
pub mod writer;

pub use catalog::{Catalog, Table, TableState};
pub use format::{Identity, Mark, MarkKind, Summary};
pub use summaries::SummaryLog;
