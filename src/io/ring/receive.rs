//! Buffers that the kernel takes from when a socket has data (io_uring_register_buf_ring(3), Linux 5.19).

use std::cell::Cell;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use dma_alloc::{Arena, PageKind};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The group that all receives of a ring take their buffers from.
pub(super) const GROUP: u16 = 0;

/// Equal buffers in a ring that the kernel takes from and the user gives back to.
pub(super) struct ReceiveBuffers {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    buffer_size: usize,
    buffer_count: u16,
    tail: Cell<u16>,
    // The memory that the pointers above lie in, unmapped when this is dropped.
    _entries: Arena,
    _bytes: Arena,
}

impl ReceiveBuffers {
    /// Maps the buffers and registers them with `ring`, which must be dropped first.
    pub(super) fn register(ring: &IoUring, buffer_size: usize, buffer_count: u16) -> io::Result<Self> {
        assert!(buffer_count.is_power_of_two(), "the kernel masks with the count");
        let mut entries = Arena::map(usize::from(buffer_count) * size_of::<BufRingEntry>(), PageKind::Plain)?;
        let mut bytes = Arena::map(usize::from(buffer_count) * buffer_size, PageKind::Plain)?;
        let address = entries.bytes_mut().as_mut_ptr();
        // SAFETY: 1. The address is page aligned and has room for `buffer_count` entries.
        //         2. The mapping outlives the ring: the ring's owner drops the ring first.
        unsafe { ring.submitter().register_buf_ring_with_flags(address.addr() as u64, buffer_count, GROUP, 0)? };
        let buffers = Self {
            entries: NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            bytes: NonNull::new(bytes.bytes_mut().as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?,
            buffer_size,
            buffer_count,
            tail: Cell::new(0),
            _entries: entries,
            _bytes: bytes,
        };
        (0..buffer_count).for_each(|buffer| buffers.give_back(buffer));
        Ok(buffers)
    }

    /// Bytes of memory.
    pub(super) fn memory_size(&self) -> usize {
        self.buffer_size * usize::from(self.buffer_count)
    }

    /// The first `size` bytes of a buffer that a completion has named.
    pub(super) fn received(&self, buffer: u16, size: usize) -> Received<'_> {
        assert!(buffer < self.buffer_count && size <= self.buffer_size, "the kernel names our buffers only");
        Received { buffers: self, buffer, size }
    }

    /// Lets the kernel use a buffer.
    fn give_back(&self, buffer: u16) {
        let tail = self.tail.get();
        let place = usize::from(tail & (self.buffer_count - 1));
        // SAFETY: 1. The buffer lies in the mapping `_bytes`: its number is below the count.
        let address = unsafe { self.bytes.add(usize::from(buffer) * self.buffer_size) };
        // SAFETY: 1. The place is below the count, so the entry lies in the mapping `_entries`.
        let entry = unsafe { self.entries.add(place) };
        // SAFETY: 1. The kernel does not look at entries at and behind the tail, and this is the only thread that
        //            writes them.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address.as_ptr().addr() as u64);
        entry.set_len(u32::try_from(self.buffer_size).expect("a few KiB"));
        entry.set_bid(buffer);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: 1. `entries` points at the first entry of the registered ring.
        let shared_tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: 1. The tail is an aligned u16 in the mapping, which the kernel reads and only we write; an atomic has
        //            the same layout. Release: the entry is complete before the kernel sees the new tail.
        let shared_tail = unsafe { AtomicU16::from_ptr(shared_tail.cast_mut()) };
        shared_tail.store(self.tail.get(), Ordering::Release);
    }
}

/// What a socket has received, in one of the ring's buffers, which goes back to the kernel when this is dropped.
pub struct Received<'a> {
    buffers: &'a ReceiveBuffers,
    buffer: u16,
    size: usize,
}

impl Deref for Received<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let start = usize::from(self.buffer) * self.buffers.buffer_size;
        // SAFETY: 1. The range lies in the mapping: `received` has checked number and size.
        let address = unsafe { self.buffers.bytes.add(start) };
        // SAFETY: 1. The kernel has filled these bytes (and the mapping began zeroed), and does not touch the buffer
        //            again before it is given back, which happens when `self` is gone.
        unsafe { std::slice::from_raw_parts(address.as_ptr(), self.size) }
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        self.buffers.give_back(self.buffer);
    }
}
