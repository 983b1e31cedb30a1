//! An owned buffer for direct I/O.
//!
//! **Invariant:** every byte is initialised from the moment the buffer exists, and none shows what an earlier owner
//! of the memory left there.

use std::fmt;
use std::ops::{Deref, DerefMut};

use aligned_vec::{AVec, ConstAlign};

use crate::layout::PAGE;
use crate::lease::Lease;

/// Owned memory that starts at a page boundary and is a whole number of pages long. Starts zeroed. Either from the
/// system's allocator or out of a pool ([`Pool::take_zeroed`](crate::Pool::take_zeroed)), to which it goes back.
pub struct Buffer {
    memory: Memory,
}

enum Memory {
    System(AVec<u8, ConstAlign<{ PAGE.get() }>>),
    /// Filled to its capacity.
    Pool(Lease),
}

impl Buffer {
    /// A zeroed buffer of `size` bytes, rounded up to whole pages.
    ///
    /// # Panics
    /// When `size` is 0, or the system has no memory (as every allocation of the standard library).
    #[must_use]
    pub fn zeroed(size: usize) -> Self {
        assert!(size > 0, "a buffer has at least one page");
        let size =
            usize::try_from(PAGE.round_up(size as u64)).expect("rounded up from a usize that is far from the end");
        let mut bytes = AVec::with_capacity(PAGE.get(), size);
        bytes.resize(size, 0);
        Self { memory: Memory::System(bytes) }
    }
}

/// The lease's whole block: its filled part, and zeroes behind.
impl From<Lease> for Buffer {
    fn from(mut lease: Lease) -> Self {
        lease.fill_rest_with_zeroes();
        Self { memory: Memory::Pool(lease) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::System(bytes) => bytes,
            Memory::Pool(lease) => lease,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::System(bytes) => bytes,
            Memory::Pool(lease) => lease,
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_whole_pages_and_zero() {
        for size in [1, 4095, 4096, 4097, if cfg!(miri) { 8191 } else { 1 << 20 }] {
            let mut buffer = Buffer::zeroed(size);
            assert!(buffer.len() >= size && buffer.len() < size + PAGE.get());
            assert!(PAGE.is_aligned(buffer.len() as u64));
            assert!(PAGE.is_aligned(buffer.as_ptr().addr() as u64));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(0xa5);
        }
    }
}
