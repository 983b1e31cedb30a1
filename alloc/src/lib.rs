//! Aligned memory for O_DIRECT I/O: where a storage engine's buffers and tables come from.
//!
//! - [`layout`]: the alignment as a type, and rounding to it.
//! - [`buffer`]: an owned, aligned, always initialised buffer, for write blocks and reads.
//! - [`arena`]: a mapped region of memory, resident only where it was touched.
//! - [`slab`]: fixed-size blocks in arenas, with an intrusive free list and a budget.
//!
//! The crate knows nothing of files, rings or executors. It holds nearly all `unsafe` of the project; each block says
//! why it is sound.

pub mod arena;
pub mod buffer;
pub mod layout;
pub mod slab;

pub use arena::{Arena, PageKind};
pub use buffer::Buffer;
pub use layout::{Alignment, PAGE};
pub use slab::{BlockId, Slab};
