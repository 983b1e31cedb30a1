//! Reads of records and writes of blocks.

use std::future::Future;
use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use dma_alloc::{Buffer, Key, Lease};
use io_uring::{opcode, squeue, types};

use super::{Completion, Operation, Ring, Target, count_of, on_target};
use crate::io::SyncMethod;

/// Most writes and syncs in flight: the flusher does one at a time, others are few.
pub(super) const WRITE_COUNT_MAX: usize = 64;

/// A read in flight.
pub(super) struct Reading {
    name: u64,
    lease: Lease,
}

/// A write or a sync in flight, or ended and not yet asked about.
pub(super) struct Writing {
    /// What is written, kept for the kernel.
    _data: Option<Rc<Buffer>>,
    waker: Option<Waker>,
    result: Option<i32>,
    /// Nobody waits for the result any more.
    is_abandoned: bool,
}

impl Ring {
    /// The number of the registered buffer that `size` bytes at `start` lie in.
    fn registered_buffer(&self, start: *const u8, size: usize) -> Option<u16> {
        let holds = |part: &Range<usize>| part.contains(&start.addr()) && size <= part.end - start.addr();
        (0..).zip(&self.registered).find_map(|(number, part)| holds(part).then_some(number))
    }

    /// Reads `size` bytes at `offset` of `file` to the front of `lease`; [`Completion::Read`] brings it back. `None`
    /// is success: otherwise there are as many reads in flight as there may be, and the lease comes back.
    ///
    /// # Panics
    /// When the lease is too small.
    pub fn read(&self, name: u64, file: &super::RingFile, offset: u64, size: usize, lease: Lease) -> Option<Lease> {
        assert!(size <= lease.capacity(), "the caller took a buffer for this read");
        let mut reads = self.reads.borrow_mut();
        let key = match reads.insert(Reading { name, lease }) {
            Ok(key) => key,
            Err(Reading { lease, .. }) => return Some(lease),
        };
        let start = reads.get_mut(key).expect("just inserted").lease.as_mut_ptr();
        drop(reads);
        let length = u32::try_from(size).expect("records are bounded by the table size");
        let buffer = self.registered_buffer(start, size);
        let entry = on_target!(file.target(), |fd| match buffer {
            Some(buffer) => opcode::ReadFixed::new(fd, start, length, buffer).offset(offset).build(),
            None => opcode::Read::new(fd, start, length).offset(offset).build(),
        });
        // SAFETY: 1. The lease's memory is the kernel's until the completion: it lies in `reads`, and nobody can get
        //            at it there.
        unsafe { self.push(&entry.user_data(Operation::Read.user_data(key.to_bits()))) };
        None
    }

    pub(super) fn read_ended(&self, key: Key, result: i32) -> Option<Completion<'_>> {
        let Reading { name, mut lease } = self.reads.borrow_mut().remove(key)?;
        let count = count_of(result);
        if let Ok(count) = count {
            // SAFETY: 1. The kernel has written `count` bytes to the front of the lease.
            unsafe { lease.set_filled(count) };
        }
        Some(Completion::Read { name, lease, count })
    }

    /// Writes the first `size` bytes of `data` at `offset` of `file`.
    pub(super) async fn write(&self, file: Target, offset: u64, size: usize, data: Rc<Buffer>) -> io::Result<()> {
        let entry = self.write_entry(file, offset, size, &data, 0);
        // SAFETY: 1. `data` is kept in `writes` until the completion; its memory does not move, and nobody writes to
        //            what is shared.
        let written = unsafe { self.carry_out(entry, Some(data)) }?.await?;
        check_size(written, size, offset)
    }

    /// The same, and the bytes are on stable media then.
    pub(super) async fn write_stable(
        &self,
        file: Target,
        offset: u64,
        size: usize,
        data: Rc<Buffer>,
        method: SyncMethod,
    ) -> io::Result<()> {
        if method == SyncMethod::Dsync {
            let entry = self.write_entry(file, offset, size, &data, libc::RWF_DSYNC);
            // SAFETY: 1. As in `write`.
            let written = unsafe { self.carry_out(entry, Some(data)) }?.await?;
            return check_size(written, size, offset);
        }
        let entry = self.write_entry(file, offset, size, &data, 0).flags(squeue::Flags::IO_LINK);
        if self.writes.borrow().len() + 2 > WRITE_COUNT_MAX {
            return Err(ErrorKind::ResourceBusy.into());
        }
        // Both in one submission, as a link does not reach into the next one.
        self.reserve_entries(2);
        // SAFETY: 1. As in `write`.
        let writing = unsafe { self.queue(entry, Some(data)) }?;
        // The kernel begins it when the write has ended well, and cancels it otherwise, also after a short write.
        let syncing = self.sync_entry(file);
        // SAFETY: 1. The entry names no memory.
        let syncing = unsafe { self.queue(syncing, None) };
        self.submit_if_asleep();
        check_size(writing.await?, size, offset)?;
        syncing?.await.map(drop)
    }

    fn write_entry(&self, file: Target, offset: u64, size: usize, data: &Buffer, flags: i32) -> squeue::Entry {
        assert!(size <= data.len(), "no more is written than there is");
        let start = data.as_ptr();
        let length = u32::try_from(size).expect("blocks are bounded by the table size");
        let buffer = self.registered_buffer(start, size);
        on_target!(file, |fd| match buffer {
            Some(buffer) => opcode::WriteFixed::new(fd, start, length, buffer).offset(offset).rw_flags(flags).build(),
            None => opcode::Write::new(fd, start, length).offset(offset).rw_flags(flags).build(),
        })
    }

    /// fdatasync(2).
    pub(super) async fn sync(&self, file: Target) -> io::Result<()> {
        // SAFETY: 1. The entry names no memory.
        unsafe { self.carry_out(self.sync_entry(file), None) }?.await.map(drop)
    }

    fn sync_entry(&self, file: Target) -> squeue::Entry {
        on_target!(file, |fd| opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
    }

    /// # Safety
    /// `entry` names no memory but that of `data`.
    unsafe fn carry_out(&self, entry: squeue::Entry, data: Option<Rc<Buffer>>) -> io::Result<Outcome<'_>> {
        // SAFETY: 1. By this function's own condition.
        let outcome = unsafe { self.queue(entry, data) }?;
        self.submit_if_asleep();
        Ok(outcome)
    }

    /// Queues `entry`, to be submitted with what else the turn brings.
    ///
    /// # Safety
    /// `entry` names no memory but that of `data`.
    unsafe fn queue(&self, entry: squeue::Entry, data: Option<Rc<Buffer>>) -> io::Result<Outcome<'_>> {
        let writing = Writing { _data: data, waker: None, result: None, is_abandoned: false };
        let key = self.writes.borrow_mut().insert(writing).map_err(|_| ErrorKind::ResourceBusy)?;
        // SAFETY: 1. By this function's own condition, and as the table keeps the data.
        unsafe { self.push(&entry.user_data(Operation::Write.user_data(key.to_bits()))) };
        Ok(Outcome { ring: self, key })
    }

    pub(super) fn write_ended(&self, key: Key, result: i32) {
        let mut writes = self.writes.borrow_mut();
        let Some(writing) = writes.get_mut(key) else { return };
        if writing.is_abandoned {
            writes.remove(key);
            return;
        }
        writing.result = Some(result);
        if let Some(waker) = writing.waker.take() {
            self.wake_count.set(self.wake_count.get() + 1);
            waker.wake();
        }
    }

    /// Drops what nobody is going to ask about: the ring is about to go.
    pub(super) fn forget_ended_writes(&self) {
        let mut writes = self.writes.borrow_mut();
        let ended: Vec<Key> =
            writes.iter().filter(|(_, writing)| writing.result.is_some()).map(|(key, _)| key).collect();
        ended.into_iter().for_each(|key| drop(writes.remove(key)));
    }
}

/// A short write is a failure: what lies on disk then is unknown.
fn check_size(written: usize, size: usize, offset: u64) -> io::Result<()> {
    if written == size {
        return Ok(());
    }
    Err(Error::new(ErrorKind::WriteZero, format!("only {written} of {size} bytes were written at offset {offset}")))
}

/// Ends when the kernel has said what became of a write or sync.
struct Outcome<'a> {
    ring: &'a Ring,
    key: Key,
}

impl Future for Outcome<'_> {
    type Output = io::Result<usize>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut writes = self.ring.writes.borrow_mut();
        let writing = writes.get_mut(self.key).expect("an entry stays until its result is taken");
        match writing.result {
            Some(result) => Poll::Ready(count_of(result)),
            None => {
                writing.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        let mut writes = self.ring.writes.borrow_mut();
        let Some(writing) = writes.get_mut(self.key) else { return };
        if writing.result.is_some() {
            writes.remove(self.key);
        } else {
            // The kernel still reads the data.
            writing.is_abandoned = true;
        }
    }
}
