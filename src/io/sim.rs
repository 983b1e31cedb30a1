//! A simulated world for tests: files in memory, a virtual clock, faults on demand, and an executor that runs it all
//! in one thread.
//!
//! Every transfer takes some virtual time, drawn from a seed, so that tasks meet each other in many orders and the
//! same seed gives the same run. Time passes only when no task can go on, so a test that sleeps an hour takes none.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dma_alloc::Buffer;

use super::{File, Io};
use crate::clock::Seconds;
use crate::limits::PAGE_SIZE;

/// A whole simulated world; clones are handles to the same one.
#[derive(Clone)]
pub struct Sim {
    world: Rc<RefCell<World>>,
}

/// What shall go wrong from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads fail with EIO.
    pub reads: bool,
    /// Writes fail with EIO and leave the old bytes.
    pub writes: bool,
    /// fdatasync fails with EIO.
    pub syncs: bool,
}

type Contents = Rc<RefCell<Vec<u8>>>;
/// A write that is under way.
struct Write {
    contents: Contents,
    start: usize,
    size: usize,
    data: Rc<Buffer>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct World {
    files: BTreeMap<PathBuf, Contents>,
    locked: Vec<PathBuf>,
    /// Bytes that files may have in all.
    capacity: u64,
    faults: Faults,
    now: Duration,
    random: u64,
    tasks: Vec<Option<(Task, Arc<Flag>)>>,
    spawned: Vec<Task>,
    timers: Vec<(Duration, Waker)>,
    writes: Vec<Option<Write>>,
    read_count: u64,
    transfer_count: u64,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Unix second at which simulated time starts.
pub const EPOCH: Seconds = 1_700_000_000;

impl Sim {
    /// An empty world with room for `capacity` bytes of files.
    #[must_use]
    pub fn new(seed: u64, capacity: u64) -> Self {
        Self {
            world: Rc::new(RefCell::new(World {
                files: BTreeMap::new(),
                locked: Vec::new(),
                capacity,
                faults: Faults::default(),
                now: Duration::from_secs(EPOCH.into()),
                random: seed | 1,
                tasks: Vec::new(),
                spawned: Vec::new(),
                timers: Vec::new(),
                writes: Vec::new(),
                read_count: 0,
                transfer_count: 0,
            })),
        }
    }

    /// The files as they are at this moment in a world without tasks or locks: what a restart after `kill -9` finds. Of a
    /// write that is under way, each page is there or not.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let copy = {
            let world = self.world.borrow();
            let copy = Self::new(world.random, world.capacity);
            copy.world.borrow_mut().now = world.now;
            copy
        };
        for (path, contents) in &self.world.borrow().files {
            let mut bytes = contents.borrow().clone();
            let is_of_file = |write: &&Write| Rc::ptr_eq(&write.contents, contents);
            for write in self.world.borrow().writes.iter().flatten().filter(is_of_file) {
                copy.tear(&mut bytes, write);
            }
            copy.world.borrow_mut().files.insert(path.clone(), Rc::new(RefCell::new(bytes)));
        }
        copy
    }

    /// Applies some of a write's pages.
    fn tear(&self, bytes: &mut Vec<u8>, write: &Write) {
        if bytes.len() < write.start + write.size {
            bytes.resize(write.start + write.size, 0);
        }
        for position in (0..write.size).step_by(PAGE_SIZE) {
            if self.draw().is_multiple_of(2) {
                let page = &write.data[position..position + PAGE_SIZE];
                bytes[write.start + position..write.start + position + PAGE_SIZE].copy_from_slice(page);
            }
        }
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    /// Moves the wall clock on.
    pub fn advance(&self, duration: Duration) {
        self.world.borrow_mut().now += duration;
    }

    /// Reads that reached the disk so far.
    #[must_use]
    pub fn read_count(&self) -> u64 {
        self.world.borrow().read_count
    }

    /// Transfers and other requests to the disk so far.
    #[must_use]
    pub fn transfer_count(&self) -> u64 {
        self.world.borrow().transfer_count
    }

    /// Paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world.borrow().files.keys().cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let contents = Rc::clone(self.world.borrow().files.get(path).expect("a file of the test"));
        change(&mut contents.borrow_mut());
    }

    /// Runs `future` and the tasks that it spawns until it ends. Tasks that go on are dropped with the world.
    ///
    /// # Panics
    /// When nothing can ever go on: a deadlock.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_for(u64::MAX, future).expect("no world transfers that much")
    }

    /// Like [`Self::run`], but stops dead after `transfer_count` transfers: `None` then.
    ///
    /// # Panics
    /// When nothing can ever go on: a deadlock.
    pub fn run_for<T>(&self, transfer_count: u64, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let end = self.world.borrow().transfer_count.saturating_add(transfer_count);
        loop {
            if self.world.borrow().transfer_count >= end {
                return None;
            }
            if flag.0.swap(false, Ordering::Relaxed)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(output);
            }
            let progressed = self.run_tasks();
            if !progressed && !flag.0.load(Ordering::Relaxed) {
                self.run_timers();
            }
        }
    }

    /// Polls every task that was woken; says whether there was one.
    fn run_tasks(&self) -> bool {
        let spawned = std::mem::take(&mut self.world.borrow_mut().spawned);
        let mut progressed = !spawned.is_empty();
        for task in spawned {
            let flag = Arc::new(Flag(AtomicBool::new(true)));
            self.world.borrow_mut().tasks.push(Some((task, flag)));
        }
        let count = self.world.borrow().tasks.len();
        for index in 0..count {
            let woken = |slot: &Option<(Task, Arc<Flag>)>| {
                slot.as_ref().is_some_and(|(_, flag)| flag.0.swap(false, Ordering::Relaxed))
            };
            if !woken(&self.world.borrow().tasks[index]) {
                continue;
            }
            progressed = true;
            let Some((mut task, flag)) = self.world.borrow_mut().tasks[index].take() else { continue };
            let waker = Waker::from(Arc::clone(&flag));
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.world.borrow_mut().tasks[index] = Some((task, flag));
            }
        }
        self.world.borrow_mut().tasks.retain(Option::is_some);
        progressed
    }

    /// Moves time on to the next timer.
    fn run_timers(&self) {
        let waker = {
            let mut world = self.world.borrow_mut();
            let next = world.timers.iter().enumerate().min_by_key(|(_, (due, _))| *due).map(|(index, _)| index);
            let (due, waker) = world.timers.swap_remove(next.expect("deadlock: no task can go on and no timer is set"));
            world.now = world.now.max(due);
            waker
        };
        waker.wake();
    }

    fn draw(&self) -> u64 {
        let mut world = self.world.borrow_mut();
        // xorshift64
        world.random ^= world.random << 13;
        world.random ^= world.random >> 7;
        world.random ^= world.random << 17;
        world.random
    }

    async fn transfer(&self) {
        let micros = 20 + self.draw() % 200;
        self.sleep(Duration::from_micros(micros)).await;
        self.world.borrow_mut().transfer_count += 1;
    }

    fn begin_write(&self, write: Write) -> usize {
        let mut world = self.world.borrow_mut();
        let free = world.writes.iter().position(Option::is_none);
        let number = free.unwrap_or(world.writes.len());
        if number == world.writes.len() {
            world.writes.push(None);
        }
        world.writes[number] = Some(write);
        number
    }

    fn used(&self) -> u64 {
        self.world.borrow().files.values().map(|contents| contents.borrow().len() as u64).sum()
    }
}

struct Sleep {
    sim: Sim,
    due: Duration,
    registered: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sim.world.borrow().now >= self.due {
            return Poll::Ready(());
        }
        if !self.registered {
            self.registered = true;
            let due = self.due;
            self.sim.world.borrow_mut().timers.push((due, context.waker().clone()));
        }
        Poll::Pending
    }
}

/// Unlocks when it is dropped.
pub struct SimLock {
    sim: Sim,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.sim.world.borrow_mut().locked.retain(|path| *path != self.path);
    }
}

impl Io for Sim {
    type File = SimFile;
    type Lock = SimLock;

    fn now(&self) -> Seconds {
        Seconds::try_from(self.world.borrow().now.as_secs()).unwrap_or(Seconds::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.world.borrow().now
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.borrow_mut().spawned.push(Box::pin(task));
    }

    async fn sleep(&self, duration: Duration) {
        let due = self.monotonic() + duration;
        Sleep { sim: self.clone(), due, registered: false }.await;
    }

    async fn yield_now(&self) {
        self.sleep(Duration::from_nanos(1)).await;
    }

    fn random(&self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.draw().to_le_bytes());
        bytes[8..].copy_from_slice(&self.draw().to_le_bytes());
        Ok(bytes)
    }

    fn create_directory(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let world = self.world.borrow();
        let inside = world.files.keys().filter_map(|file| file.strip_prefix(path).ok()?.iter().next());
        let mut names: Vec<String> = inside.map(|name| name.to_string_lossy().into_owned()).collect();
        names.dedup();
        Ok(names)
    }

    fn lock(&self, path: &Path) -> Result<Option<SimLock>> {
        let mut world = self.world.borrow_mut();
        if world.locked.iter().any(|locked| locked == path) {
            return Ok(None);
        }
        world.locked.push(path.to_path_buf());
        world.files.entry(path.to_path_buf()).or_default();
        Ok(Some(SimLock { sim: self.clone(), path: path.to_path_buf() }))
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.world.borrow().files.get(path).map(|contents| contents.borrow().clone()))
    }

    fn replace_small(&self, path: &Path, contents: &[u8]) -> Result<()> {
        self.world.borrow_mut().files.insert(path.to_path_buf(), Rc::new(RefCell::new(contents.to_vec())));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.world.borrow_mut().files.remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    async fn open(&self, path: &Path) -> Result<SimFile> {
        let contents = self.world.borrow().files.get(path).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(SimFile { sim: self.clone(), contents })
    }

    async fn create(&self, path: &Path, size: u64) -> Result<SimFile> {
        self.transfer().await;
        if self.used() + size > self.world.borrow().capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        let contents: Contents = Rc::new(RefCell::new(vec![0; usize::try_from(size).map_err(Error::other)?]));
        self.world.borrow_mut().files.insert(path.to_path_buf(), Rc::clone(&contents));
        Ok(SimFile { sim: self.clone(), contents })
    }
}

/// An open file of a [`Sim`].
#[derive(Clone)]
pub struct SimFile {
    sim: Sim,
    contents: Contents,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimFile({} bytes)", self.contents.borrow().len())
    }
}

impl SimFile {
    fn fail_if(&self, fault: impl FnOnce(Faults) -> bool) -> Result<()> {
        let failing = fault(self.sim.world.borrow().faults);
        if failing { Err(Error::from_raw_os_error(nix::errno::Errno::EIO as i32)) } else { Ok(()) }
    }
}

impl File for SimFile {
    async fn read_at(&self, offset: u64, size: usize, mut buffer: Buffer) -> Result<(Buffer, usize)> {
        self.sim.transfer().await;
        self.sim.world.borrow_mut().read_count += 1;
        self.fail_if(|faults| faults.reads)?;
        let contents = self.contents.borrow();
        let start = usize::try_from(offset).map_err(Error::other)?.min(contents.len());
        let count = size.min(contents.len() - start);
        buffer[..count].copy_from_slice(&contents[start..start + count]);
        Ok((buffer, count))
    }

    async fn write_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        let start = usize::try_from(offset).map_err(Error::other)?;
        let number =
            self.sim.begin_write(Write { contents: Rc::clone(&self.contents), start, size, data: Rc::clone(&data) });
        self.sim.transfer().await;
        self.sim.world.borrow_mut().writes[number] = None;
        self.fail_if(|faults| faults.writes)?;
        let mut contents = self.contents.borrow_mut();
        if contents.len() < start + size {
            contents.resize(start + size, 0);
        }
        contents[start..start + size].copy_from_slice(&data[..size]);
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        self.sim.transfer().await;
        self.fail_if(|faults| faults.syncs)
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.contents.borrow().len() as u64)
    }

    async fn allocate(&self, size: u64) -> Result<()> {
        let mut contents = self.contents.borrow_mut();
        if (contents.len() as u64) < size {
            contents.resize(usize::try_from(size).map_err(Error::other)?, 0);
        }
        Ok(())
    }
}
