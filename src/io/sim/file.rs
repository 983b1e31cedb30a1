//! Files of a simulated world, and what the faults do to what is asked of them.

use std::cell::RefCell;
use std::fmt;
use std::io::{Error, Result};
use std::rc::Rc;

use dma_alloc::Buffer;

use super::disk::Disk;
use super::fault::{Fault, FaultKind, Faults, Happened, Request};
use super::{File, Sim};
use crate::limits::PAGE_SIZE;

pub(super) type Contents = Rc<RefCell<Disk>>;

/// A write that is under way.
pub(super) struct Write {
    pub(super) contents: Contents,
    pub(super) start: usize,
    pub(super) size: usize,
    pub(super) data: Rc<Buffer>,
}

/// An open file of a [`Sim`].
#[derive(Clone)]
pub struct SimFile {
    pub(super) sim: Sim,
    pub(super) contents: Contents,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimFile({} bytes)", self.contents.borrow().len())
    }
}

pub(super) fn broken() -> Error {
    Error::from_raw_os_error(nix::errno::Errno::EIO as i32)
}

impl SimFile {
    fn fail_if(&self, fault: impl FnOnce(Faults) -> bool) -> Result<()> {
        let failing = fault(self.sim.world.borrow().faults);
        if failing { Err(broken()) } else { Ok(()) }
    }

    /// Takes the time of a transfer, and says what else goes wrong with it.
    async fn transfer(&self, request: Request, offset: usize) -> Option<FaultKind> {
        let due = self.sim.faults_of(request);
        self.sim.transfer().await;
        let mut own = None;
        for fault in due {
            match fault.kind {
                FaultKind::Rot(number) => self.sim.rot(fault, number),
                FaultKind::BadPage(number) => self.sim.spoil(fault, number),
                kind => {
                    own = Some(kind);
                    self.note(fault, offset);
                }
            }
        }
        own
    }

    fn note(&self, fault: Fault, offset: usize) {
        let path = self.sim.path_of(&self.contents);
        self.sim.world.borrow_mut().schedule.happened.push(Happened { fault, path, offset: offset as u64 });
    }

    /// A place so many pages behind `start`, from which `size` bytes are in the file.
    fn elsewhere(&self, start: usize, size: usize, pages: u32) -> usize {
        let places = (self.contents.borrow().len().saturating_sub(size) / PAGE_SIZE).max(1);
        (start / PAGE_SIZE + pages as usize) % places * PAGE_SIZE
    }

    fn read_here(&self, fault: Option<FaultKind>, offset: u64, size: usize, buffer: &mut Buffer) -> Result<usize> {
        self.fail_if(|faults| faults.reads)?;
        let mut start = usize::try_from(offset).map_err(Error::other)?;
        match fault {
            Some(FaultKind::ReadError) => return Err(broken()),
            Some(FaultKind::MisdirectedRead(pages)) => start = self.elsewhere(start, size, pages),
            _ => {}
        }
        let contents = self.contents.borrow();
        if contents.is_bad(start, size) {
            return Err(broken());
        }
        let count = contents.read(start, &mut buffer[..size]);
        if fault == Some(FaultKind::StaleRead) {
            contents.read_stale(start, &mut buffer[..count]);
        }
        Ok(count)
    }

    fn write_here(&self, fault: Option<FaultKind>, start: usize, bytes: &[u8]) -> Result<()> {
        self.fail_if(|faults| faults.writes)?;
        match fault {
            Some(FaultKind::WriteError) => {
                let sector = self.sim.world.borrow().options.sector;
                let odds = self.sim.draw() % 9;
                self.contents.borrow_mut().tear(start, bytes, sector, odds, &mut || self.sim.draw());
                return Err(broken());
            }
            Some(FaultKind::LostWrite) => {}
            Some(FaultKind::MisdirectedWrite(pages)) => {
                let start = self.elsewhere(start, bytes.len(), pages);
                self.contents.borrow_mut().write(start, bytes);
            }
            Some(FaultKind::ForeignWrite) => {
                let other = self.sim.file_beside(&self.contents);
                if let Some(other) = other {
                    other.borrow_mut().write(start, bytes);
                }
            }
            _ => self.contents.borrow_mut().write(start, bytes),
        }
        Ok(())
    }

    async fn write(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<usize> {
        let start = usize::try_from(offset).map_err(Error::other)?;
        assert!(start.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE), "transfers are whole pages");
        let write = Write { contents: Rc::clone(&self.contents), start, size, data: Rc::clone(&data) };
        let number = self.sim.begin_write(write);
        let fault = self.transfer(Request::Write, start).await;
        self.sim.world.borrow_mut().writes[number] = None;
        self.write_here(fault, start, &data[..size])?;
        Ok(start)
    }
}

impl File for SimFile {
    async fn read_at(&self, offset: u64, size: usize, mut buffer: Buffer) -> Result<(Buffer, usize)> {
        let start = usize::try_from(offset).map_err(Error::other)?;
        let fault = self.transfer(Request::Read, start).await;
        self.sim.world.borrow_mut().read_count += 1;
        let count = self.read_here(fault, offset, size, &mut buffer)?;
        Ok((buffer, count))
    }

    async fn write_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        self.write(offset, size, data).await.map(drop)
    }

    async fn write_stable_at(&self, offset: u64, size: usize, data: Rc<Buffer>) -> Result<()> {
        let start = self.write(offset, size, data).await?;
        // The bytes are written, and whether they are stable is unknown.
        self.fail_if(|faults| faults.syncs)?;
        self.contents.borrow_mut().range_is_stable(start, size);
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        // What is written while it runs is not covered by it.
        let number = self.contents.borrow().write_count();
        let fault = self.transfer(Request::Sync, 0).await;
        if fault == Some(FaultKind::SyncError) || self.fail_if(|faults| faults.syncs).is_err() {
            self.contents.borrow_mut().sync_failed(number);
            return Err(broken());
        }
        self.contents.borrow_mut().synced(number);
        Ok(())
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.contents.borrow().len() as u64)
    }

    async fn allocate(&self, size: u64) -> Result<()> {
        let size = usize::try_from(size).map_err(Error::other)?;
        self.contents.borrow_mut().lengthen(size);
        Ok(())
    }
}
