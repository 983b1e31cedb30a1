//! The seam between the engine and the world: files, time and tasks.
//!
//! Everything from `store` down is generic over [`Io`], so the same engine runs on glommio ([`dma`]) and, for tests,
//! on a simulated disk with a virtual clock ([`sim`]). Nothing here knows what a record is.
//!
//! **Invariants:** every transfer starts and ends on a page boundary, in the file and in memory. Buffers are owned by
//! whoever performs the transfer, as io_uring demands. Futures are polled by one thread only and are never `Send`.

pub mod dma;
pub mod event;
pub mod probe;
pub mod readonly;
#[expect(unsafe_code, reason = "the kernel is told where memory lies; each place says why that is sound")]
pub mod ring;
pub mod sim;

use std::future::Future;
use std::io::Result;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use dma_alloc::Buffer;

pub use event::Event;

use crate::clock::{ClockChange, Seconds};

/// Names of files that are made and removed while finding out what a directory can do begin with this.
pub const PROBE_PREFIX: &str = ".probe-";

/// How [`File::write_stable_at`] has bytes on stable media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// A write, and then fdatasync(2).
    #[default]
    Fdatasync,
    /// One write with RWF_DSYNC: see pwritev2(2).
    Dsync,
}

impl SyncMethod {
    /// As `stats settings` tells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fdatasync => "fdatasync",
            Self::Dsync => "dsync",
        }
    }
}

/// What the engine needs of the world. Cloning gives another handle to the same world.
pub trait Io: Clone + 'static {
    /// An open file.
    type File: File;
    /// Keeps a directory locked as long as it lives.
    type Lock: 'static;

    /// The wall clock.
    fn now(&self) -> Seconds;

    /// Changes what [`Self::now`] says from now on, in worlds whose clock can be changed.
    fn change_clock(&self, _change: ClockChange) {}

    /// Time since some fixed moment, never going back.
    fn monotonic(&self) -> Duration;

    /// How [`File::write_stable_at`] does what it does.
    fn sync_method(&self) -> SyncMethod {
        SyncMethod::Fdatasync
    }

    /// Starts a task of the same thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Lets other tasks run, when it is their turn.
    fn yield_now(&self) -> impl Future<Output = ()>;

    /// 16 random bytes, for ids and salts.
    ///
    /// # Errors
    /// When the system has none.
    fn random(&self) -> Result<[u8; 16]>;

    /// Makes a directory and those above it, on stable media; fine when it is there.
    ///
    /// # Errors
    /// What mkdir(2) or fsync(2) says.
    fn create_directory(&self, path: &Path) -> Result<()>;

    /// Names in a directory, in no order.
    ///
    /// # Errors
    /// What readdir(3) says.
    fn list(&self, path: &Path) -> Result<Vec<String>>;

    /// Locks `path`, a file that is made if it is not there; `None` when somebody else holds it.
    ///
    /// # Errors
    /// What open(2) and flock(2) say.
    fn lock(&self, path: &Path) -> Result<Option<Self::Lock>>;

    /// A small file as a whole; `None` when there is none.
    ///
    /// # Errors
    /// What open(2) and read(2) say.
    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>>;

    /// Replaces a small file as a whole, or leaves it as it was; on stable media when this returns. On a full disk a file of
    /// the same length is overwritten where it is, which a power cut may tear: whoever cannot live with that keeps two.
    ///
    /// # Errors
    /// What open(2), write(2), fsync(2) and rename(2) say.
    fn replace_small(&self, path: &Path, contents: &[u8]) -> Result<()>;

    /// Gives a file another name, whatever had that name before; on stable media when this returns.
    ///
    /// # Errors
    /// What rename(2) and fsync(2) of the directory say.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What unlink(2) says.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Opens a file for direct reads and writes.
    ///
    /// # Errors
    /// What open(2) says.
    fn open(&self, path: &Path) -> impl Future<Output = Result<Self::File>>;

    /// Makes a file of `size` bytes, all of them allocated. Leaves nothing behind on failure. Its name is on stable media when it
    /// is synced for the first time, at the latest.
    ///
    /// # Errors
    /// What open(2) and fallocate(2) say: `StorageFull` when there is no room.
    fn create(&self, path: &Path, size: u64) -> impl Future<Output = Result<Self::File>>;

    /// Write blocks: `count` buffers of `size` bytes, a multiple of the page. An implementation may give memory that is
    /// registered with its ring.
    fn block_buffers(&self, count: usize, size: usize) -> Vec<Buffer> {
        (0..count).map(|_| Buffer::zeroed(size)).collect()
    }
}

/// An open file of whole pages.
pub trait File: 'static {
    /// Reads `size` bytes at `offset` to the front of `buffer`; gives the buffer back with the number of bytes read,
    /// fewer only at the file's end.
    ///
    /// # Errors
    /// What read(2) says.
    fn read_at(&self, offset: u64, size: usize, buffer: Buffer) -> impl Future<Output = Result<(Buffer, usize)>>;

    /// Writes the first `size` bytes of `data` at `offset`.
    ///
    /// # Errors
    /// What write(2) says. What lies on disk then is unknown.
    fn write_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> impl Future<Output = Result<()>>;

    /// As [`Self::write_at`], and on stable media when this returns, as far as these bytes go.
    ///
    /// # Errors
    /// What write(2) and fdatasync(2) say. What lies on disk then is unknown.
    fn write_stable_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> impl Future<Output = Result<()>> {
        async move {
            self.write_at(offset, size, data).await?;
            self.sync().await
        }
    }

    /// Returns when everything written so far is on stable media (fdatasync).
    ///
    /// # Errors
    /// What fdatasync(2) says. What lies on disk then is unknown.
    fn sync(&self) -> impl Future<Output = Result<()>>;

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// What fstat(2) says.
    fn size(&self) -> impl Future<Output = Result<u64>>;

    /// Allocates the file's first `size` bytes, and lengthens it to that.
    ///
    /// # Errors
    /// What fallocate(2) says.
    fn allocate(&self, size: u64) -> impl Future<Output = Result<()>>;
}
