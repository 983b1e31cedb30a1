//! A buffer of a pool in somebody's hands.
//!
//! **Invariant:** safe code sees the filled part and nothing else, so never what an earlier user left.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::pool::Hold;

/// A buffer of a pool, owned by one; goes back on drop. Derefs to the filled part, which is empty at first.
///
/// It stays on the thread of its pool:
///
/// ```compile_fail
/// fn sent(lease: dma_alloc::Lease) -> impl Send { lease }
/// ```
pub struct Lease {
    filled: usize,
    /// What `hold` computes from its tables.
    start: NonNull<u8>,
    capacity: usize,
    hold: Hold,
}

impl Lease {
    #[inline]
    pub(crate) fn new(hold: Hold) -> Self {
        Self { filled: 0, start: hold.start(), capacity: hold.capacity(), hold }
    }

    /// Bytes of the buffer: what was asked for, or more.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the filled part.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// The buffer's first byte, page aligned: where the kernel is told to read to or write from. Valid for
    /// [`Lease::capacity`] bytes as long as the lease, or what it is turned into, lives; what is there beyond the
    /// filled part is initialised but somebody else's.
    ///
    /// Whoever has the kernel write through it keeps the lease to himself until the kernel is done.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes from the start of the pool's region to the buffer.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.hold.offset()
    }

    /// Declares the first `count` bytes filled.
    ///
    /// # Safety
    /// The first `count` bytes were written since the lease was taken, by the kernel or by the caller, and nobody is
    /// writing to them any more.
    ///
    /// # Panics
    /// When `count` is above the capacity.
    pub unsafe fn set_filled(&mut self, count: usize) {
        assert!(count <= self.capacity, "{count} bytes filled of {}", self.capacity);
        self.filled = count;
    }

    /// Copies `bytes` to the start of the buffer; they are the filled part then.
    ///
    /// # Panics
    /// When they are more than the capacity.
    #[inline]
    pub fn fill_from(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.capacity, "{} bytes for a buffer of {}", bytes.len(), self.capacity);
        // SAFETY: 1. `bytes` is readable for its length. 2. The buffer is writable for its capacity, which is not
        //         less. 3. Bytes need no alignment. 4. No overlap: `bytes` cannot be borrowed from this lease, which
        //         is borrowed mutably here, and no other lease has a part of the buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), bytes.len()) };
        self.filled = bytes.len();
    }

    /// Zeroes what is not filled; all of the buffer is the filled part then.
    pub(crate) fn fill_rest_with_zeroes(&mut self) {
        // SAFETY: 1. `filled` is at most the capacity, so the result is in the buffer or at its end.
        let rest = unsafe { self.start.add(self.filled) };
        // SAFETY: 1. From there to the end of the buffer all is writable, and this lease's alone. 2. Any alignment
        //         suits bytes.
        unsafe { rest.write_bytes(0, self.capacity - self.filled) };
        self.filled = self.capacity;
    }

    /// Lets others have the filled part too. It cannot be changed from then on.
    #[must_use]
    pub fn share(self) -> SharedLease {
        SharedLease { filled: self.filled, start: self.start, hold: self.hold }
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: 1. The buffer is readable and initialised for its capacity, of which `filled` is a part, as long as
        //         `hold` lives. 2. The only ways to write to it from here take `&mut self`; raw pointers of
        //         `as_mut_ptr` are their users' care. 3. Below isize::MAX, as all mappings are.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.filled) }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: 1., 3. as in `deref`; the mapping is writable. 2. `&mut self`, and no other lease has the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.filled) }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({} of {} bytes)", self.filled, self.capacity)
    }
}

/// A filled buffer of a pool with any number of owners, each a clone; goes back when the last is dropped. Derefs to
/// the filled part. A clone is a count in the pool's table.
pub struct SharedLease {
    filled: usize,
    start: NonNull<u8>,
    hold: Hold,
}

impl SharedLease {
    /// Bytes of the whole buffer.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.hold.capacity()
    }

    /// Bytes from the start of the pool's region to the buffer.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.hold.offset()
    }
}

impl Clone for SharedLease {
    fn clone(&self) -> Self {
        Self { filled: self.filled, start: self.start, hold: self.hold.another() }
    }
}

impl Deref for SharedLease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: 1. The buffer is readable and initialised for its capacity, of which `filled` is a part, as long as
        //         `hold` lives. 2. Nobody writes to it: the one lease that could was turned into this. 3. Below
        //         isize::MAX, as all mappings are.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.filled) }
    }
}

impl From<Lease> for SharedLease {
    fn from(lease: Lease) -> Self {
        lease.share()
    }
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SharedLease({} of {} bytes)", self.filled, self.capacity())
    }
}
