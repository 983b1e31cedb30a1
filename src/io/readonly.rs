//! Files that are looked at and never changed: for programs that inspect a store while nobody serves it.
//!
//! Nothing here needs io_uring or an executor of glommio's, so a store can be inspected where it could not be served, and
//! from a file system that is mounted for reading only. Every operation is done when it is asked for: futures are ready
//! at once, and [`run`] polls them where it is called.

use std::fs::{OpenOptions, TryLockError};
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dma_alloc::Buffer;

use super::{File, Io};
use crate::clock::{Seconds, wall_seconds};
use crate::limits::PAGE_SIZE;

/// Runs `work`, which waits for nothing but what is ready at once.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

/// The local file system, of which nothing is changed: what would change something fails with `ReadOnlyFilesystem`.
#[derive(Clone, Debug)]
pub struct ReadOnly {
    started: Instant,
}

impl ReadOnly {
    /// A handle.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for ReadOnly {
    fn default() -> Self {
        Self::new()
    }
}

fn refused<T>() -> Result<T> {
    Err(ErrorKind::ReadOnlyFilesystem.into())
}

impl Io for ReadOnly {
    type File = ReadOnlyFile;
    /// The locked file; `None` when there is none to be locked.
    type Lock = Option<std::fs::File>;

    fn now(&self) -> Seconds {
        wall_seconds()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    /// # Panics
    /// Always: who only looks starts no tasks.
    fn spawn(&self, _task: impl Future<Output = ()> + 'static) {
        unreachable!("who only looks starts no tasks")
    }

    async fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    async fn yield_now(&self) {}

    fn random(&self) -> Result<[u8; 16]> {
        refused()
    }

    fn create_directory(&self, _path: &Path) -> Result<()> {
        refused()
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Locks the file if it is there. If it is not, nobody has the lock; to make it would be a change.
    fn lock(&self, path: &Path) -> Result<Option<Self::Lock>> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Some(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace_small(&self, _path: &Path, _contents: &[u8]) -> Result<()> {
        refused()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> Result<()> {
        refused()
    }

    fn remove(&self, _path: &Path) -> Result<()> {
        refused()
    }

    /// Opens the file past the page cache, so that what is read is what the device holds; through it where the file
    /// system knows no other way.
    async fn open(&self, path: &Path) -> Result<ReadOnlyFile> {
        let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match open(libc::O_DIRECT) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => open(0),
            opened => opened,
        }?;
        if !file.metadata()?.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "this is no regular file"));
        }
        Ok(ReadOnlyFile { file })
    }

    async fn create(&self, _path: &Path, _size: u64) -> Result<ReadOnlyFile> {
        refused()
    }
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct ReadOnlyFile {
    file: std::fs::File,
}

impl File for ReadOnlyFile {
    async fn read_at(&self, offset: u64, size: usize, mut buffer: Buffer) -> Result<(Buffer, usize)> {
        let mut count = 0;
        while count < size {
            match self.file.read_at(&mut buffer[count..size], offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only the end of the file is no multiple of a page, and a direct read cannot begin there.
            if !count.is_multiple_of(PAGE_SIZE) {
                break;
            }
        }
        Ok((buffer, count))
    }

    async fn write_at(&self, _offset: u64, _size: usize, _data: Rc<Buffer>) -> Result<()> {
        refused()
    }

    async fn sync(&self) -> Result<()> {
        refused()
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async fn allocate(&self, _size: u64) -> Result<()> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_never_changed() {
        let directory = tempfile::tempdir().expect("a directory for a test");
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..3 * PAGE_SIZE + 100).map(|index| (index / 7) as u8).collect();
        std::fs::write(&path, &bytes).expect("a file can be written");
        let io = ReadOnly::new();
        run(async {
            let file = io.open(&path).await.expect("it is there");
            assert_eq!(file.size().await.expect("known"), bytes.len() as u64);
            for offset in [0, PAGE_SIZE, 3 * PAGE_SIZE, 4 * PAGE_SIZE] {
                let buffer = Buffer::zeroed(4 * PAGE_SIZE);
                let (buffer, count) = file.read_at(offset as u64, 4 * PAGE_SIZE, buffer).await.expect("readable");
                assert_eq!(&buffer[..count], bytes.get(offset..).unwrap_or_default(), "from {offset}");
            }
            assert!(file.write_at(0, PAGE_SIZE, Rc::new(Buffer::zeroed(PAGE_SIZE))).await.is_err());
            assert!(file.sync().await.is_err() && file.allocate(1).await.is_err());
            assert!(io.create(&directory.path().join("new"), 4096).await.is_err());
            assert!(io.open(directory.path()).await.is_err(), "a directory is no file");
        });
        assert!(io.remove(&path).is_err() && io.rename(&path, &directory.path().join("new")).is_err());
        assert!(io.replace_small(&path, b"x").is_err() && io.create_directory(&directory.path().join("new")).is_err());
        assert_eq!(io.list(directory.path()).expect("listed"), ["file"]);
        assert_eq!(io.read_small(&path).expect("readable").as_deref(), Some(&bytes[..]));
    }

    #[test]
    fn a_lock_that_somebody_holds_is_seen_and_none_is_made() {
        let directory = tempfile::tempdir().expect("a directory for a test");
        let path = directory.path().join("lock");
        let io = ReadOnly::new();
        assert!(io.lock(&path).expect("no error").expect("nobody has it").is_none());
        assert!(!path.exists());
        std::fs::write(&path, b"").expect("a file can be written");
        let held = io.lock(&path).expect("no error").expect("nobody has it");
        assert!(held.is_some());
        assert!(io.lock(&path).expect("no error").is_none(), "it is held");
        drop(held);
        assert!(io.lock(&path).expect("no error").is_some());
    }
}
