//! A simulated world: files in memory, a virtual clock, power cuts and faults on demand, and an executor that runs it
//! all in one thread.
//!
//! The engine is generic over [`Io`], so the code under test is the code that serves. Every transfer takes some virtual
//! time, drawn from a seed, so that tasks meet each other in many orders and the same seed gives the same run. Time
//! passes only when no task can go on, so a test that sleeps an hour takes none.
//!
//! # What a device does here
//!
//! - **A write that has ended** is in the device's volatile cache: every read finds it. [`Sim::after_kill`] is the world
//!   in which only the process has died: it is still there.
//! - **A power cut** ([`Sim::power_cut`]) takes from the cache what no sync has covered: each sector by itself is as it
//!   was after the last sync, or after any of the writes since, so writes are reordered, lost and torn. A sector is 512
//!   bytes, or a page that now and then is torn all the same ([`Sector`]).
//! - **A write under way** at the cut, or at a kill, is there in part, in the same way.
//! - **A sync** covers the writes to its file that had ended when it began. [`File::write_stable_at`] covers its own.
//!   A sync that fails leaves what it was to cover in an unknown state, and no later one changes that.
//! - **A new file** may be missing, empty or short after a power cut until its first sync. The engine relies on that
//!   first sync, which covers the header of a table. [`Io::replace_small`] and [`Io::rename`] happen as a whole
//!   and are stable when they return; a removal likewise.
//! - **Faults** ([`FaultKind`]) come from a schedule of the test ([`Sim::schedule`]), which is plain data, so that it can
//!   be printed and shortened, or are switched on for all requests ([`Faults`]). Short transfers are the
//!   business of what implements [`Io`]: reads are whole or end at the file's end, by contract.

mod disk;
mod executor;
mod fault;
mod file;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use disk::Sector;
pub use fault::{Fault, FaultKind, Faults, Happened};
pub use file::SimFile;

use super::{File, Io};
use crate::clock::Seconds;
use crate::limits::PAGE_SIZE;
use disk::Disk;
use executor::{Flag, Sleep, Task, Timer};
use fault::{Request, Schedule};
use file::{Contents, Write};

/// A whole simulated world; clones are handles to the same one.
#[derive(Clone)]
pub struct Sim {
    world: Rc<RefCell<World>>,
}

/// What a world is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// Bytes that files may have in all.
    pub capacity: u64,
    /// What its device writes as one.
    pub sector: Sector,
    /// Whether tasks that can go on do so in an order drawn from the seed; otherwise in the order in which they began.
    pub is_shuffled: bool,
    /// One in so many transfers takes a hundred times as long; 0: none.
    pub slow_period: u64,
}

struct World {
    options: SimOptions,
    files: BTreeMap<PathBuf, Contents>,
    locked: Vec<PathBuf>,
    faults: Faults,
    schedule: Schedule,
    stalled_until: Duration,
    now: Duration,
    deadline: Duration,
    random: u64,
    tasks: Vec<Option<(Task, Arc<Flag>)>>,
    spawned: Vec<Task>,
    timers: BinaryHeap<Timer>,
    timer_count: u64,
    writes: Vec<Option<Write>>,
    read_count: u64,
    transfer_count: u64,
}

impl World {
    fn is_over(&self, transfer_count: u64) -> bool {
        self.transfer_count >= transfer_count || self.now >= self.deadline
    }
}

/// Unix second at which simulated time starts.
pub const EPOCH: Seconds = 1_700_000_000;

/// Numbers next to each other begin as differently as any others.
fn scrambled(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

impl Sim {
    /// An empty world with room for `capacity` bytes of files, in which tasks take turns.
    #[must_use]
    pub fn new(seed: u64, capacity: u64) -> Self {
        Self::with(seed, SimOptions { capacity, sector: Sector::Page, is_shuffled: false, slow_period: 0 })
    }

    /// An empty world like this.
    #[must_use]
    pub fn with(seed: u64, options: SimOptions) -> Self {
        Self {
            world: Rc::new(RefCell::new(World {
                options,
                files: BTreeMap::new(),
                locked: Vec::new(),
                faults: Faults::default(),
                schedule: Schedule::default(),
                stalled_until: Duration::ZERO,
                now: Duration::from_secs(EPOCH.into()),
                deadline: Duration::MAX,
                random: scrambled(seed) | 1,
                tasks: Vec::new(),
                spawned: Vec::new(),
                timers: BinaryHeap::new(),
                timer_count: 0,
                writes: Vec::new(),
                read_count: 0,
                transfer_count: 0,
            })),
        }
    }

    /// A world at the same moment, without files, tasks or locks.
    fn empty_copy(&self) -> Self {
        let world = self.world.borrow();
        let copy = Self::with(world.random, world.options);
        copy.world.borrow_mut().now = world.now;
        copy
    }

    /// The files as they are at this moment in a world without tasks or locks: what a restart after `kill -9` finds. Of a
    /// write that is under way, each page is there or not. What was not synced may still be taken by a power cut.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let copy = self.empty_copy();
        let world = self.world.borrow();
        for (path, contents) in &world.files {
            let mut disk = contents.borrow().clone();
            for write in self.writes_to(contents) {
                let odds = 4;
                disk.tear(write.0, &write.1, Sector::Page, odds, &mut || copy.draw());
            }
            copy.insert(path, disk);
        }
        copy
    }

    /// What a restart after a power cut finds: of what was written since the last sync, each sector is there or not.
    #[must_use]
    pub fn power_cut(&self) -> Self {
        let copy = self.empty_copy();
        let world = self.world.borrow();
        let sector = world.options.sector;
        // How far the device had got.
        let odds = copy.draw() % 9;
        for (path, contents) in &world.files {
            let mut disk = contents.borrow().clone();
            for write in self.writes_to(contents) {
                disk.write(write.0, &write.1);
            }
            if disk.has_unsynced() {
                let Some(cut) = disk.cut(sector, odds, &mut || copy.draw()) else { continue };
                disk = cut;
            }
            copy.insert(path, disk);
        }
        copy
    }

    fn insert(&self, path: &Path, disk: Disk) {
        self.world.borrow_mut().files.insert(path.to_path_buf(), Rc::new(RefCell::new(disk)));
    }

    /// The writes under way to a file: where, and what.
    fn writes_to(&self, contents: &Contents) -> Vec<(usize, Vec<u8>)> {
        let world = self.world.borrow();
        let own = world.writes.iter().flatten().filter(|write| Rc::ptr_eq(&write.contents, contents));
        own.map(|write| (write.start, write.data[..write.size].to_vec())).collect()
    }

    /// Sets what goes wrong from now on, every time.
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    /// Sets what goes wrong from now on, once each.
    pub fn schedule(&self, faults: Vec<Fault>) {
        let mut world = self.world.borrow_mut();
        let happened = std::mem::take(&mut world.schedule.happened);
        world.schedule = Schedule::new(faults);
        world.schedule.happened = happened;
    }

    /// The faults of the schedule that have happened.
    #[must_use]
    pub fn happened(&self) -> Vec<Happened> {
        self.world.borrow().schedule.happened.clone()
    }

    /// Moves the wall clock on.
    pub fn advance(&self, duration: Duration) {
        self.world.borrow_mut().now += duration;
    }

    /// [`Self::run_for`] gives up after this much time from now on.
    pub fn set_deadline(&self, duration: Duration) {
        let mut world = self.world.borrow_mut();
        world.deadline = world.now.saturating_add(duration);
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

    /// Changes a file's bytes behind everybody's back, for good.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let contents = Rc::clone(self.world.borrow().files.get(path).expect("a file of the test"));
        let mut bytes = contents.borrow().bytes();
        change(&mut bytes);
        contents.borrow_mut().replace(&bytes);
    }

    /// Changes one bit of a file behind everybody's back, for good.
    ///
    /// # Panics
    /// When there is no such file, or it is shorter.
    pub fn flip(&self, path: &Path, bit: usize) {
        self.world.borrow().files[path].borrow_mut().flip(bit);
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
        let drawn = self.draw();
        let due = {
            let world = self.world.borrow();
            let is_slow = world.options.slow_period > 0 && (drawn >> 32).is_multiple_of(world.options.slow_period);
            let micros = (20 + drawn % 200) * if is_slow { 100 } else { 1 };
            world.now.max(world.stalled_until) + Duration::from_micros(micros)
        };
        Sleep { sim: self.clone(), due, registered: false }.await;
        self.world.borrow_mut().transfer_count += 1;
    }

    /// One more request: what goes wrong with it. A stall begins at once.
    fn faults_of(&self, request: Request) -> Vec<Fault> {
        let mut world = self.world.borrow_mut();
        let mut due = world.schedule.request(request);
        let now = world.now;
        due.retain(|fault| {
            let FaultKind::Stall(duration) = fault.kind else { return true };
            world.stalled_until = world.stalled_until.max(now + duration);
            world.schedule.happened.push(Happened { fault: *fault, path: None, offset: 0 });
            false
        });
        due
    }

    fn path_of(&self, contents: &Contents) -> Option<PathBuf> {
        let world = self.world.borrow();
        world.files.iter().find(|(_, other)| Rc::ptr_eq(other, contents)).map(|(path, _)| path.clone())
    }

    /// The file that follows this one, of the same length.
    fn file_beside(&self, contents: &Contents) -> Option<Contents> {
        let world = self.world.borrow();
        let length = contents.borrow().len();
        let mut alike = world.files.values().filter(|other| other.borrow().len() == length);
        let first = alike.clone().find(|other| !Rc::ptr_eq(other, contents));
        alike.find(|other| Rc::ptr_eq(other, contents));
        alike.next().or(first).cloned()
    }

    /// The file and the page that the `number`-th of all pages is.
    fn page_number(&self, number: u64) -> Option<(PathBuf, Contents, usize)> {
        let world = self.world.borrow();
        let page_count: usize = world.files.values().map(|contents| contents.borrow().page_count()).sum();
        let mut number = usize::try_from(number).ok()?.checked_rem(page_count)?;
        for (path, contents) in &world.files {
            let own = contents.borrow().page_count();
            if number < own {
                return Some((path.clone(), Rc::clone(contents), number));
            }
            number -= own;
        }
        None
    }

    fn rot(&self, fault: Fault, number: u64) {
        let Some((path, contents, page)) = self.page_number(number / (8 * PAGE_SIZE as u64)) else { return };
        let bit = page * PAGE_SIZE * 8 + (number % (8 * PAGE_SIZE as u64)) as usize;
        contents.borrow_mut().flip(bit);
        let happened = Happened { fault, path: Some(path), offset: bit as u64 / 8 };
        self.world.borrow_mut().schedule.happened.push(happened);
    }

    fn spoil(&self, fault: Fault, number: u64) {
        let Some((path, contents, page)) = self.page_number(number) else { return };
        contents.borrow_mut().spoil(page);
        let happened = Happened { fault, path: Some(path), offset: (page * PAGE_SIZE) as u64 };
        self.world.borrow_mut().schedule.happened.push(happened);
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

    /// Whether a file of `size` bytes more cannot be made.
    fn has_no_room(&self, size: u64) -> bool {
        let due = self.faults_of(Request::Create);
        let is_full = self.used() + size > self.world.borrow().options.capacity;
        let mut world = self.world.borrow_mut();
        let is_refused = due.iter().any(|fault| fault.kind == FaultKind::NoSpace);
        world.schedule.happened.extend(due.into_iter().map(|fault| Happened { fault, path: None, offset: 0 }));
        is_full || is_refused
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
        Ok(self.world.borrow().files.get(path).map(|contents| contents.borrow().bytes()))
    }

    fn replace_small(&self, path: &Path, contents: &[u8]) -> Result<()> {
        if self.has_no_room(0) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.insert(path, Disk::stable(contents));
        self.world.borrow_mut().transfer_count += 1;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut world = self.world.borrow_mut();
        let contents = world.files.remove(from).ok_or(ErrorKind::NotFound)?;
        world.files.insert(to.to_path_buf(), contents);
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
        if self.has_no_room(size) {
            return Err(ErrorKind::StorageFull.into());
        }
        let disk = Disk::new(usize::try_from(size).map_err(Error::other)?);
        let contents: Contents = Rc::new(RefCell::new(disk));
        self.world.borrow_mut().files.insert(path.to_path_buf(), Rc::clone(&contents));
        Ok(SimFile { sim: self.clone(), contents })
    }
}
