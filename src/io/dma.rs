//! The real world: glommio's DMA files and executor.
//!
//! Rules that glommio 0.9.0 imposes, each from its source: only aligned reads (its `read_at` shows bytes beyond what
//! was read); files are opened for reading and writing (it probes with a read); alignment is our own, never what it
//! found in sysfs; no write is retried as if nothing had happened.

use std::cell::Cell;
use std::future::Future;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dma_alloc::Buffer;
use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::{File, Io, PROBE_PREFIX, probe};
use crate::clock::{Seconds, wall_seconds};
use crate::limits::{KIB, PAGE_SIZE};

/// Entries of glommio's rings, which carry the long streams only.
const RING_DEPTH: usize = 256;
/// glommio registers its I/O memory with three rings, and three times this counts against RLIMIT_MEMLOCK, which the
/// shard's own ring needs.
const IO_MEMORY_SIZE: usize = 256 * KIB;

/// Files of the local file system, time and tasks of the glommio executor of the current thread.
#[derive(Clone, Debug)]
pub struct DmaIo {
    started: Instant,
    direct: bool,
    in_flight: InFlight,
}

/// Runs `work` in the calling thread, on an executor of that `name`, until it has ended.
///
/// # Errors
/// When the executor cannot be made.
pub fn run<T>(name: &str, work: impl Future<Output = T>) -> Result<T> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name(name)
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY_SIZE)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
        .make()?;
    Ok(executor.run(work))
}

/// How many operations of glommio's somebody waits for: while there are any, its loop has to turn.
#[derive(Clone, Debug, Default)]
struct InFlight(Rc<Cell<u64>>);

impl InFlight {
    /// Counts `operation` until it has ended.
    async fn during<T>(&self, operation: impl Future<Output = T>) -> T {
        let _counted = Counted::new(self);
        operation.await
    }
}

struct Counted(Rc<Cell<u64>>);

impl Counted {
    fn new(in_flight: &InFlight) -> Self {
        in_flight.0.set(in_flight.0.get() + 1);
        Self(Rc::clone(&in_flight.0))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl DmaIo {
    /// A handle for files in `directory`, which must exist: what can be done with them is found out here.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub async fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(format!("{PROBE_PREFIX}{}", std::process::id()));
        let direct = probe::supports_direct_io(directory, &path)?;
        let io = Self { started: Instant::now(), direct, in_flight: InFlight::default() };
        if io.direct {
            let taught = io.teach_polling(&path).await;
            let _ = io.remove(&path);
            taught?;
        }
        Ok(io)
    }

    /// glommio decides once per device whether it polls for completions (IOPOLL), by whether a read of the first file that
    /// it opens succeeds. A read of preallocated space always does, as no device is asked; on a device that cannot be
    /// polled, which is the usual case, every later read would fail then. So the first file that it sees has data.
    async fn teach_polling(&self, path: &Path) -> Result<()> {
        let mut file = std::fs::File::create(path)?;
        file.write_all(&[0xa5; PAGE_SIZE])?;
        file.sync_all()?;
        drop(file);
        self.open_with(path, false).await.map(drop)
    }

    /// Whether files bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Finds out how the files of `directory` are made stable fastest.
    ///
    /// # Errors
    /// What [`probe::SyncTimes::measure`] says.
    pub fn measure_sync(&self, directory: &Path) -> Result<probe::SyncTimes> {
        let path = directory.join(format!("{PROBE_PREFIX}{}", std::process::id()));
        probe::SyncTimes::measure(&path, self.direct)
    }

    /// Operations of glommio's that are in flight: files being opened, transfers, timers.
    #[must_use]
    pub fn in_flight_count(&self) -> u64 {
        self.in_flight.0.get()
    }

    async fn open_with(&self, path: &Path, create: bool) -> Result<LocalFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(create);
        let opened = async {
            Result::Ok(if self.direct {
                Handle::Direct(Rc::new(options.dma_open(path).await?))
            } else {
                Handle::Buffered(Rc::new(options.buffered_open(path).await?))
            })
        };
        let handle = self.in_flight.during(opened).await?;
        Ok(LocalFile { handle, in_flight: self.in_flight.clone() })
    }
}

/// Makes a directory and those above it; fine when it is there. The names are on stable media when this returns.
///
/// # Errors
/// What mkdir(2) or fsync(2) says.
pub fn create_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_directory(parent)?;
    match std::fs::create_dir(path) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The directory that `path` is in.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Makes the names in a directory stable: a sync of a file need not do that for its own.
fn sync_directory(path: &Path) -> Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// Overwrites a file of the same length where it is: a full disk has room for that.
fn overwrite_small(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != contents.len() as u64 {
        return Err(ErrorKind::StorageFull.into());
    }
    file.write_all(contents)?;
    file.sync_all()
}

impl Io for DmaIo {
    type File = LocalFile;
    type Lock = std::fs::File;

    fn now(&self) -> Seconds {
        wall_seconds()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        self.in_flight.during(glommio::timer::sleep(duration)).await;
    }

    async fn yield_now(&self) {
        glommio::executor().yield_task_queue_now().await;
    }

    fn random(&self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        Ok(bytes)
    }

    fn create_directory(&self, path: &Path) -> Result<()> {
        create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn lock(&self, path: &Path) -> Result<Option<std::fs::File>> {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace_small(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let mut temporary = PathBuf::from(path).into_os_string();
        temporary.push(".new");
        let written = std::fs::File::create(&temporary).and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        });
        match written {
            Ok(()) => self.rename(Path::new(&temporary), path),
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                let _ = std::fs::remove_file(&temporary);
                overwrite_small(path, contents).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to)?;
        sync_directory(parent_of(to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path)
    }

    async fn open(&self, path: &Path) -> Result<LocalFile> {
        self.open_with(path, false).await
    }

    async fn create(&self, path: &Path, size: u64) -> Result<LocalFile> {
        let file = self.open_with(path, true).await?;
        let directory = parent_of(path).to_path_buf();
        let made = async {
            file.allocate(size).await?;
            // In a thread of its own, as it takes its time and clients are served meanwhile.
            let synced = glommio::executor().spawn_blocking(move || sync_directory(&directory));
            self.in_flight.during(synced).await
        };
        if let Err(error) = made.await {
            // The half-made file would only take space; the error that matters is the first.
            let _ = self.remove(path);
            return Err(error);
        }
        Ok(file)
    }
}

/// An open file: past the page cache, or through it where the file system knows no other way.
#[derive(Clone, Debug)]
pub struct LocalFile {
    handle: Handle,
    in_flight: InFlight,
}

#[derive(Clone, Debug)]
enum Handle {
    /// O_DIRECT.
    Direct(Rc<DmaFile>),
    /// Through the page cache.
    Buffered(Rc<BufferedFile>),
}

impl AsRawFd for LocalFile {
    fn as_raw_fd(&self) -> RawFd {
        match &self.handle {
            Handle::Direct(file) => file.as_raw_fd(),
            Handle::Buffered(file) => file.as_raw_fd(),
        }
    }
}

impl File for LocalFile {
    async fn read_at(&self, offset: u64, size: usize, mut buffer: Buffer) -> Result<(Buffer, usize)> {
        debug_assert!(
            offset.is_multiple_of(PAGE_SIZE as u64) && size.is_multiple_of(PAGE_SIZE) && size <= buffer.len()
        );
        let read = async {
            Result::Ok(match &self.handle {
                Handle::Direct(file) => file.read_at_aligned(offset, size).await?,
                Handle::Buffered(file) => file.read_at(offset, size).await?,
            })
        };
        let read = self.in_flight.during(read).await?;
        let count = read.len().min(size);
        buffer[..count].copy_from_slice(&read[..count]);
        Ok((buffer, count))
    }

    async fn write_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        debug_assert!(offset.is_multiple_of(PAGE_SIZE as u64) && size.is_multiple_of(PAGE_SIZE) && size <= data.len());
        let written = async {
            Result::Ok(match &self.handle {
                Handle::Direct(file) => {
                    let mut copy = file.alloc_dma_buffer(size);
                    copy.as_bytes_mut().copy_from_slice(&data[..size]);
                    file.write_at(copy, offset).await?
                }
                Handle::Buffered(file) => file.write_at(data[..size].to_vec(), offset).await?,
            })
        };
        let written = self.in_flight.during(written).await?;
        if written == size {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WriteZero, format!("only {written} of {size} bytes were written at offset {offset}")))
    }

    async fn sync(&self) -> Result<()> {
        let synced = async {
            match &self.handle {
                Handle::Direct(file) => file.fdatasync().await,
                Handle::Buffered(file) => file.fdatasync().await,
            }
        };
        Ok(self.in_flight.during(synced).await?)
    }

    async fn size(&self) -> Result<u64> {
        let size = async {
            match &self.handle {
                Handle::Direct(file) => file.file_size().await,
                Handle::Buffered(file) => file.file_size().await,
            }
        };
        Ok(self.in_flight.during(size).await?)
    }

    async fn allocate(&self, size: u64) -> Result<()> {
        let allocated = async {
            match &self.handle {
                Handle::Direct(file) => file.pre_allocate(size, false).await,
                Handle::Buffered(file) => file.pre_allocate(size, false).await,
            }
        };
        Ok(self.in_flight.during(allocated).await?)
    }
}
