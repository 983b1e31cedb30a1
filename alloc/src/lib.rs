//! Aligned memory for O_DIRECT I/O: where a storage engine's buffers and tables come from.
//!
//! - [`layout`]: the alignment as a type, and rounding to it; which one direct I/O on a file asks for.
//! - [`arena`]: a mapped region of memory, of huge pages or of one NUMA node where wanted, resident where touched.
//! - [`budget`]: a limit that arenas share.
//! - [`buffer`]: an owned, aligned, always initialised buffer, for write blocks and reads.
//! - [`pool`]: I/O buffers in size classes out of one arena, to be registered with a ring at once.
//! - [`lease`]: a buffer of a pool in somebody's hands.
//! - [`slab`]: fixed-size blocks in arenas, with an intrusive free list and a budget, resident ahead of need.
//! - [`rows`]: a growing array of equal rows that never move.
//! - [`cells`]: memory in cells of many sizes, cut out of equal pages that can be given back: for a cache.
//! - [`table`]: typed entries with checked names, for what is pending.
//! - [`counting`]: an allocator that counts, for tests that prove that nothing allocates.
//!
//! The crate knows nothing of rings or executors, and of files only what statx(2) says. It holds nearly all `unsafe`
//! of the project; each block says why it is sound.
//!
//! # Buffers for a ring
//!
//! ```
//! use dma_alloc::{Pool, PoolClass, PoolOptions};
//!
//! let classes = [PoolClass { size: 4096, count: 64 }, PoolClass { size: 65536, count: 4 }];
//! let pool = Pool::new(&classes, PoolOptions::default())?;
//! let (start, size) = pool.region(); // one registration covers all
//! assert!(size >= pool.size() && pool.contains(start));
//!
//! let mut lease = pool.take(1000).expect("none is taken yet");
//! assert_eq!((lease.capacity(), lease.len()), (4096, 0)); // nothing of an earlier user is to be seen
//! lease.fill_from(b"value");
//! let first = lease.share();
//! let second = first.clone();
//! drop(first);
//! assert_eq!(&*second, b"value");
//! drop(second);
//! assert_eq!(pool.taken_size(), 0);
//! # Ok::<(), dma_alloc::ArenaError>(())
//! ```
//!
//! # Blocks for an index
//!
//! ```
//! use dma_alloc::{PageKind, Slab};
//!
//! let mut slab = Slab::<448>::new(1 << 20, PageKind::Plain);
//! assert_eq!(slab.prepare(100)?, 100); // the next hundred cost no page fault
//! let id = slab.take().expect("the budget pays for 2340");
//! slab.block_mut(id)[..5].copy_from_slice(b"entry");
//! assert_eq!(&slab.block(id)[..5], b"entry");
//! slab.give(id);
//! # Ok::<(), dma_alloc::ArenaError>(())
//! ```
//!
//! # What it costs
//!
//! Nanoseconds for a take and its give / for a random one of both in a working set of 4096 (64) blocks, first byte
//! written (a table's entry whole): the last of three runs of `cargo bench -p dma-alloc`, between which some values
//! differed 1.9-fold. AMD EPYC, 2 virtual CPUs, both busy (load 2.9), Linux 6.18, rustc 1.95, glibc 2.36, mimalloc 0.1.
//!
//! | block | slab | pool | table | system | mimalloc |
//! |-------|-----:|-----:|------:|-------:|---------:|
//! | 448 B | 5.8 / 13 | | 18 / 18 | 9.1 / 17 | 12 / 20 |
//! | 4 KiB | 6.1 / 16 | 9.3 / 17 | | 70 / 98 | 23 / 60 |
//! | 1 MiB | 5.4 / 11 | 12 / 16 | | 54 / 169 | 280 / 141 |

mod ahead;
pub mod arena;
pub mod budget;
pub mod buffer;
pub mod cells;
pub mod counting;
pub mod layout;
pub mod lease;
pub mod pool;
pub mod rows;
pub mod slab;
pub mod table;

pub use ahead::leave_touching_to_owners;
pub use arena::{Arena, ArenaError, ArenaOptions, Binding, Got, PageKind};
pub use budget::Budget;
pub use buffer::Buffer;
pub use cells::{CellId, Cells, PinnedCell};
pub use layout::{Alignment, DirectAlignment, PAGE, Source};
pub use lease::{Lease, SharedLease};
pub use pool::{Pool, PoolClass, PoolOptions};
pub use rows::Rows;
pub use slab::{BlockId, Slab, SlabOptions};
pub use table::{Key, Table};
