//! A region of memory mapped from the kernel: zeroed, page aligned, and resident only where it was touched.

use std::io;
use std::ptr::NonNull;

use crate::layout::PAGE;

/// Which pages an arena asks the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Pages of 4 KiB: resident memory is exact, the TLB reaches less far.
    Plain,
    /// Transparent huge pages where the kernel has them (`MADV_HUGEPAGE`); falls back to plain pages silently, as
    /// madvise(2) does.
    Huge,
}

/// An anonymous private mapping, owned. Starts zeroed; pages cost memory from the first touch on.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    size: usize,
}

impl Arena {
    /// Maps `size` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// What mmap(2) says, ENOMEM above all.
    pub fn map(size: usize, pages: PageKind) -> io::Result<Self> {
        if size == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let size =
            usize::try_from(PAGE.round_up(size as u64)).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: 1. A null hint with MAP_ANONYMOUS | MAP_PRIVATE makes a new mapping and touches no existing one.
        //         2. The descriptor is -1 and the offset 0, as MAP_ANONYMOUS demands.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        if pages == PageKind::Huge {
            // SAFETY: 1. The range is the mapping made above, whole and ours alone.
            //         2. MADV_HUGEPAGE changes no contents. Its failure (no such feature) leaves plain pages, which
            //         serve as well.
            let _ = unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
        }
        Ok(Self { start, size })
    }

    /// The length in bytes, a multiple of the page.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The whole region.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: 1. `start` is the start of a readable mapping of `size` bytes that lives as long as `self`.
        //         2. The kernel hands out zeroed pages, so every byte is initialised.
        //         3. `&self` rules out a mutable slice at the same time: `bytes_mut` takes `&mut self`.
        //         4. `size` is below isize::MAX: mmap refuses more.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// The whole region, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: 1.-2., 4. as in `bytes`; the mapping is writable.
        //         3. `&mut self` rules out any other slice of the region.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: 1. The range is exactly the mapping that `map` made; nobody else unmaps it.
        //         2. No slice of it outlives `self`, by the borrows of `bytes` and `bytes_mut`.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert_eq!(result, 0, "munmap of our own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_zeroed_aligned_and_writable_to_its_ends() {
        for pages in [PageKind::Plain, PageKind::Huge] {
            let mut arena = Arena::map(3 * 1024 * 1024 + 1, pages).expect("memory for a test");
            assert_eq!(arena.size(), 3 * 1024 * 1024 + PAGE.get());
            assert!(PAGE.is_aligned(arena.bytes().as_ptr().addr() as u64));
            assert!(arena.bytes().iter().all(|byte| *byte == 0));
            let last = arena.size() - 1;
            arena.bytes_mut()[0] = 1;
            arena.bytes_mut()[last] = 2;
            assert_eq!((arena.bytes()[0], arena.bytes()[last]), (1, 2));
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Arena::map(0, PageKind::Plain).is_err());
        assert!(Arena::map(usize::MAX / 2, PageKind::Plain).is_err());
    }
}
