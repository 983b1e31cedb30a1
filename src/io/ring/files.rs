//! The engine's world on the ring.

use std::cell::Cell;
use std::future::Future;
use std::io::Result;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use dma_alloc::{Buffer, Pool};
use io_uring::types;

use super::sleep::{Signalled, Sleep};
use super::{Ring, Target};
use crate::clock::{ClockChange, Seconds};
use crate::io::dma::{DmaIo, LocalFile};
use crate::io::{File, Io, SyncMethod};

/// Files, time and tasks of a shard with a ring. Until [`RingIo::drive`] is called, nobody takes the ring's completions
/// and transfers go through glommio; so a store can be opened before its shard's loop runs.
#[derive(Clone)]
pub struct RingIo {
    dma: DmaIo,
    ring: Rc<Ring>,
    signalled: Rc<Signalled>,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_driven: Cell<bool>,
    /// The wall clock as of this turn; 0 before the first.
    now: Cell<Seconds>,
    /// The moment in which this turn began.
    moment: Cell<Duration>,
    /// Seconds by which the wall clock was put forward.
    clock_shift: Cell<i64>,
    /// The wall clock stands still.
    is_paused: Cell<bool>,
    sync_method: Cell<SyncMethod>,
    spawn_count: Cell<u64>,
    /// Futures of `yield_now` that have not ended.
    yielding_count: Cell<u64>,
}

impl RingIo {
    /// Puts `ring` beside glommio's files.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(dma: DmaIo, ring: Ring) -> Result<Self> {
        let signalled = Signalled::of(&ring)?;
        Ok(Self { dma, ring: Rc::new(ring), signalled, shared: Rc::default() })
    }

    /// The ring.
    #[must_use]
    #[inline]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Promises that somebody calls [`RingIo::turn`] and takes completions from now on, until the last task of this
    /// executor has ended.
    pub fn drive(&self) {
        self.shared.is_driven.set(true);
        self.refresh_clock();
        self.ring.signal(false);
        self.ring.listen_to_bell();
    }

    /// Sets how blocks are made stable from now on.
    pub fn set_sync_method(&self, method: SyncMethod) {
        self.shared.sync_method.set(method);
    }

    pub(super) fn signalled(&self) -> &Signalled {
        &self.signalled
    }

    /// Things of glommio's that are in flight or runnable, and that only a turn of its own loop brings on.
    pub(super) fn foreign_count(&self) -> u64 {
        self.dma.in_flight_count() + self.shared.yielding_count.get()
    }

    pub(super) fn spawn_count(&self) -> u64 {
        self.shared.spawn_count.get()
    }

    /// The moment, of [`Io::monotonic`], in which this turn began.
    #[must_use]
    #[inline]
    pub fn moment(&self) -> Duration {
        self.shared.moment.get()
    }

    /// Reads the clocks; the wall clock stays at what it says for the rest of the turn.
    pub(super) fn refresh_clock(&self) -> Duration {
        if !self.shared.is_paused.get() {
            self.shared.now.set(shifted(self.dma.now(), self.shared.clock_shift.get()));
        }
        self.shared.moment.set(self.dma.monotonic());
        self.moment()
    }
}

fn shifted(seconds: Seconds, shift: i64) -> Seconds {
    Seconds::try_from(i64::from(seconds).saturating_add(shift).max(0)).unwrap_or(Seconds::MAX)
}

/// Counts as long as it lives.
struct Counted(Rc<Shared>);

impl Counted {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.yielding_count.set(shared.yielding_count.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.yielding_count.set(self.0.yielding_count.get() - 1);
    }
}

impl Io for RingIo {
    type File = RingFile;
    type Lock = std::fs::File;

    /// The second of this turn: a system call less per request.
    #[inline]
    fn now(&self) -> Seconds {
        if self.shared.is_driven.get() { self.shared.now.get() } else { self.dma.now() }
    }

    fn change_clock(&self, change: ClockChange) {
        let shared = &self.shared;
        match change {
            ClockChange::Pause => shared.is_paused.set(true),
            ClockChange::Resume => shared.is_paused.set(false),
            ClockChange::Shift(seconds) => {
                shared.clock_shift.set(shared.clock_shift.get().saturating_add(seconds));
                shared.now.set(shifted(shared.now.get(), seconds));
            }
        }
    }

    fn monotonic(&self) -> Duration {
        self.dma.monotonic()
    }

    fn sync_method(&self) -> SyncMethod {
        self.shared.sync_method.get()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.spawn_count.set(self.shared.spawn_count.get() + 1);
        self.dma.spawn(task);
    }

    /// Ends only while somebody calls [`RingIo::turn`]. Never a timer of glommio's: as long as one runs, the shard could
    /// not sleep in its ring.
    async fn sleep(&self, duration: Duration) {
        Sleep { io: self.clone(), deadline: self.monotonic() + duration }.await;
    }

    async fn yield_now(&self) {
        let _counted = Counted::new(&self.shared);
        self.dma.yield_now().await;
    }

    fn random(&self) -> Result<[u8; 16]> {
        self.dma.random()
    }

    fn create_directory(&self, path: &Path) -> Result<()> {
        self.dma.create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.dma.list(path)
    }

    fn lock(&self, path: &Path) -> Result<Option<std::fs::File>> {
        self.dma.lock(path)
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.dma.read_small(path)
    }

    fn replace_small(&self, path: &Path, contents: &[u8]) -> Result<()> {
        self.dma.replace_small(path, contents)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.dma.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.dma.remove(path)
    }

    async fn open(&self, path: &Path) -> Result<RingFile> {
        Ok(RingFile::new(self, self.dma.open(path).await?))
    }

    async fn create(&self, path: &Path, size: u64) -> Result<RingFile> {
        Ok(RingFile::new(self, self.dma.create(path, size).await?))
    }

    /// Out of the ring's pool, as far as it has them: registered memory is written with less work.
    fn block_buffers(&self, count: usize, size: usize) -> Vec<Buffer> {
        let blocks: &Pool = self.ring.blocks();
        let from_pool = || (size <= blocks.size_max()).then(|| blocks.take_zeroed(size)).flatten();
        (0..count).map(|_| from_pool().unwrap_or_else(|| Buffer::zeroed(size))).collect()
    }
}

/// A file whose blocks are written, and whose records are read, by the ring; the rest is glommio's.
pub struct RingFile {
    local: LocalFile,
    ring: Rc<Ring>,
    shared: Rc<Shared>,
    place: Option<u32>,
}

impl RingFile {
    fn new(io: &RingIo, local: LocalFile) -> Self {
        let mut file = Self { local, ring: Rc::clone(&io.ring), shared: Rc::clone(&io.shared), place: None };
        file.place = {
            // SAFETY: 1. The descriptor is open as long as `local`, which is borrowed meanwhile.
            let descriptor = unsafe { BorrowedFd::borrow_raw(file.local.as_raw_fd()) };
            file.ring.register_file(descriptor)
        };
        file
    }

    pub(super) fn target(&self) -> Target {
        match self.place {
            Some(place) => Target::Registered(types::Fixed(place)),
            None => Target::Descriptor(types::Fd(self.local.as_raw_fd())),
        }
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.ring.unregister_file(place);
        }
    }
}

impl File for RingFile {
    async fn read_at(&self, offset: u64, size: usize, buffer: Buffer) -> Result<(Buffer, usize)> {
        self.local.read_at(offset, size, buffer).await
    }

    async fn write_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        if self.shared.is_driven.get() {
            self.ring.write(self.target(), offset, size, data).await
        } else {
            self.local.write_at(offset, size, data).await
        }
    }

    async fn write_stable_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        if self.shared.is_driven.get() {
            return self.ring.write_stable(self.target(), offset, size, data, self.shared.sync_method.get()).await;
        }
        self.local.write_at(offset, size, data).await?;
        self.local.sync().await
    }

    async fn sync(&self) -> Result<()> {
        if self.shared.is_driven.get() { self.ring.sync(self.target()).await } else { self.local.sync().await }
    }

    async fn size(&self) -> Result<u64> {
        self.local.size().await
    }

    async fn allocate(&self, size: u64) -> Result<()> {
        self.local.allocate(size).await
    }
}
