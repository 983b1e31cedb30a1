//! An owned buffer for direct I/O.
//!
//! **Invariant:** every byte is initialised from the moment the buffer exists, and none shows what an earlier owner
//! of the memory left there.

use std::fmt;
use std::ops::{Deref, DerefMut};

use aligned_vec::{AVec, ConstAlign};

use crate::layout::PAGE;

/// Owned memory that starts at a page boundary and is a whole number of pages long. Starts zeroed.
pub struct Buffer {
    bytes: AVec<u8, ConstAlign<{ PAGE.get() }>>,
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
        Self { bytes }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_whole_pages_and_zero() {
        for size in [1, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = Buffer::zeroed(size);
            assert!(buffer.len() >= size && buffer.len() < size + PAGE.get());
            assert!(PAGE.is_aligned(buffer.len() as u64));
            assert!(PAGE.is_aligned(buffer.as_ptr().addr() as u64));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(0xa5);
        }
    }
}
