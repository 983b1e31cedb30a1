//! A region of memory mapped from the kernel: zeroed, page aligned, and resident only where it was touched.

use std::error::Error;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use crate::budget::{Budget, Reservation};
use crate::layout::PAGE;

/// The size of a huge page: 2 MiB on x86-64, and on aarch64 with base pages of 4 KiB.
pub const HUGE_PAGE_SIZE: usize = 2 * 1024 * 1024;

/// Nodes that a node mask for mbind(2) has bits for: as many as any kernel supports (`CONFIG_NODES_SHIFT` is at most 10).
const NODE_COUNT_MAX: usize = 1024;

const _: () = assert!(HUGE_PAGE_SIZE.is_multiple_of(PAGE.get()));

/// Which pages an arena asks the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Pages of 4 KiB: resident memory is exact, the TLB reaches less far.
    Plain,
    /// Huge pages of 2 MiB. First reserved ones (`MAP_HUGETLB`), then transparent ones (`MADV_HUGEPAGE`), then plain
    /// ones without an error: [`Arena::got`] says which. Resident memory is exact to 2 MiB only. A region of less than
    /// one huge page has plain ones.
    Huge,
}

/// Which pages an arena has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Huge pages out of the system's reserve (`vm.nr_hugepages`): never split, never swapped, sure to be there.
    HugeTlb,
    /// Transparent huge pages: the kernel was asked and says that it makes them. Whether it finds 2 MiB in one piece
    /// shows at each first touch.
    Transparent,
    /// Pages of 4 KiB.
    Plain,
}

/// Whether an arena's memory comes from a chosen NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// No node was asked for.
    None,
    /// The kernel takes the memory from this node as long as it has any.
    Bound(u32),
    /// The kernel refused with this error number: ENOSYS without NUMA support, EPERM in many containers, EINVAL when
    /// there is no such node. The memory comes from where the toucher runs.
    Refused(i32),
}

/// Why there is no arena.
#[derive(Debug)]
pub enum ArenaError {
    /// The budget has not enough left; sizes in bytes.
    OverBudget {
        /// What the arena would have taken, after rounding up.
        wanted: usize,
        /// What the budget still had.
        left: usize,
    },
    /// mmap(2) failed, or the size is 0 or beyond the address space.
    Map(io::Error),
    /// madvise(2) could not make the memory resident: ENOMEM above all.
    Prefault(io::Error),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverBudget { wanted, left } => {
                write!(formatter, "{wanted} bytes of memory are wanted, the budget has {left} left")
            }
            Self::Map(error) => write!(formatter, "cannot map memory: {error}"),
            Self::Prefault(error) => write!(formatter, "cannot make memory resident: {error}"),
        }
    }
}

impl Error for ArenaError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::OverBudget { .. } => None,
            Self::Map(error) | Self::Prefault(error) => Some(error),
        }
    }
}

impl From<ArenaError> for io::Error {
    fn from(error: ArenaError) -> Self {
        match error {
            ArenaError::Map(error) | ArenaError::Prefault(error) => error,
            ArenaError::OverBudget { .. } => Self::new(io::ErrorKind::OutOfMemory, error),
        }
    }
}

/// What an arena is to be.
#[derive(Clone, Debug)]
pub struct ArenaOptions {
    /// Bytes, rounded up to whole pages of the kind that is asked for.
    pub size: usize,
    /// The pages to ask for.
    pub pages: PageKind,
    /// The NUMA node to take the memory from, where the caller cares.
    pub node: Option<u32>,
    /// Whether all of it is made resident at once, so that no later touch faults.
    pub prefault: bool,
    /// Where the size is accounted.
    pub budget: Option<Budget>,
}

impl ArenaOptions {
    /// `size` bytes of such pages, on any node, resident where touched, in nobody's account.
    #[must_use]
    pub const fn new(size: usize, pages: PageKind) -> Self {
        Self { size, pages, node: None, prefault: false, budget: None }
    }
}

/// An anonymous private mapping, owned. Starts zeroed; pages cost memory from the first touch on.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    size: usize,
    got: Got,
    binding: Binding,
    /// Held for its drop, which comes after that of the mapping; unless another thread is just making a part of that
    /// resident, which then goes a moment later.
    _reservation: Reservation,
}

impl Arena {
    /// Maps `size` bytes, rounded up to whole pages, on any node and in nobody's account.
    ///
    /// # Errors
    /// What mmap(2) says, ENOMEM above all; EINVAL when `size` is 0.
    pub fn map(size: usize, pages: PageKind) -> io::Result<Self> {
        Ok(Self::with(ArenaOptions::new(size, pages))?)
    }

    /// Maps what `options` say. A huge arena of 2 MiB or more starts at a multiple of 2 MiB and is a multiple of
    /// 2 MiB long, whichever pages it got. A node that cannot be had is no error: see [`Arena::binding`].
    ///
    /// # Errors
    /// [`ArenaError::OverBudget`] when the budget has no room, [`ArenaError::Map`] with what mmap(2) says (EINVAL for
    /// a size of 0, ENOMEM for one beyond the address space), [`ArenaError::Prefault`] with what madvise(2) says.
    pub fn with(options: ArenaOptions) -> Result<Self, ArenaError> {
        // Miri knows neither madvise nor an munmap of a part.
        let huge = options.pages == PageKind::Huge && options.size >= HUGE_PAGE_SIZE && !cfg!(miri);
        let size = whole_pages(options.size, if huge { HUGE_PAGE_SIZE } else { PAGE.get() })?;
        let reservation = Reservation::of(options.budget, size)?;
        let (start, got) = if huge { map_huge(size)? } else { (map_anonymous(size, no_reserve())?, Got::Plain) };
        // From here on the drop of the arena unmaps it, also when something below fails.
        let mapping = Arc::new(Mapping { start, size });
        let mut arena = Self { mapping, size, got, binding: Binding::None, _reservation: reservation };
        if let Some(node) = options.node {
            arena.binding = arena.bind(node);
        }
        if options.prefault {
            arena.prefault(0, size)?;
        }
        Ok(arena)
    }

    /// The length in bytes, a multiple of the page.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Which pages it got.
    #[must_use]
    pub fn got(&self) -> Got {
        self.got
    }

    /// What became of the wish for a NUMA node.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// The whole region.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: 1. `start` is the start of a readable mapping of `size` bytes that lives as long as `self`.
        //         2. The kernel hands out zeroed pages, so every byte is initialised.
        //         3. `&self` rules out a mutable slice at the same time: `bytes_mut` takes `&mut self`.
        //         4. `size` is below isize::MAX: mmap refuses more.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr(), self.size) }
    }

    /// The whole region, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: 1.-2., 4. as in `bytes`; the mapping is writable.
        //         3. `&mut self` rules out any other slice of the region.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr(), self.size) }
    }

    /// The first byte, for those in this crate who hand out parts of the region on their own account. They must not
    /// use `bytes` and `bytes_mut`, which lay claim to the whole.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.mapping.start
    }

    /// What keeps the region mapped, for whoever may still be making it resident when the arena is gone.
    pub(crate) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// Gives the pages of `size` bytes from `offset` on back to the system: they are zeroed at the next touch. Nothing
    /// happens where the kernel does not want to: the pages stay resident then, with what is in them.
    ///
    /// # Panics
    /// When that is no part of the arena, or not made of whole pages.
    pub(crate) fn discard(&mut self, offset: usize, size: usize) {
        assert!(offset <= self.size && size <= self.size - offset, "a part of the arena");
        assert!(PAGE.is_aligned(offset as u64) && PAGE.is_aligned(size as u64), "whole pages");
        if cfg!(miri) {
            return;
        }
        // SAFETY: 1. `offset` is at most the size of the mapping, so the result is inside it or at its end.
        let start = unsafe { self.mapping.start.add(offset) };
        // SAFETY: 1. The range lies in our own anonymous private mapping, where the pages come back zeroed, hence
        //         initialised. 2. `&mut self`: nobody has a slice of the region, and those in this crate who hand out parts
        //         on their own account see to it that nobody has one of this part.
        let _ = unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_DONTNEED) };
    }

    /// Makes the pages of `size` bytes from `offset` on resident and writable. Their contents stay.
    pub(crate) fn prefault(&mut self, offset: usize, size: usize) -> Result<(), ArenaError> {
        let end = offset + size;
        assert!(end <= self.size, "a part of the arena");
        let first = offset / PAGE.get() * PAGE.get();
        // SAFETY: 1. `first` is at most `size` of the mapping, so the result is inside it or at its end.
        let start = unsafe { self.mapping.start.add(first) };
        match populate(start, end - first) {
            Ok(()) => Ok(()),
            Err(libc::EINVAL | libc::ENOSYS) => {
                self.touch(first, end);
                Ok(())
            }
            Err(number) => Err(ArenaError::Prefault(io::Error::from_raw_os_error(number))),
        }
    }

    /// Writes to each page what it holds: the slow way of making it resident, for kernels before 5.14.
    fn touch(&mut self, first: usize, end: usize) {
        for offset in (first..end).step_by(PAGE.get()) {
            // SAFETY: 1. `offset` is below `end`, which is at most `size` of the mapping.
            let byte = unsafe { self.mapping.start.add(offset) };
            // SAFETY: 1. In the mapping, readable, any alignment suits a byte. 2. Initialised: the kernel zeroes.
            let value = unsafe { byte.read_volatile() };
            // SAFETY: 1. As above, and writable. 2. `&mut self`: nobody else reads or writes at this time.
            unsafe { byte.write_volatile(value) };
        }
    }

    /// Asks for memory of `node`, before the first touch: mbind(2) moves nothing.
    ///
    /// Preferred, not bound in the strict sense (`MPOL_BIND`): memory of another node is slow, but a node that has no
    /// page left would bring the OOM killer with the strict policy, and SIGBUS in an arena of reserved huge pages,
    /// since their reserve is counted for the whole machine.
    fn bind(&mut self, node: u32) -> Binding {
        const WORD_BITS: usize = libc::c_ulong::BITS as usize;
        let mut mask = [0 as libc::c_ulong; NODE_COUNT_MAX / WORD_BITS];
        let Some(word) = mask.get_mut(node as usize / WORD_BITS) else { return Binding::Refused(libc::EINVAL) };
        *word = 1 << (node as usize % WORD_BITS);
        // SAFETY: 1. The range is our own mapping. 2. `mask` is readable for the bits that are passed; the kernel
        //         looks at one bit fewer than `maxnode` says. 3. No contents change.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.mapping.start.as_ptr(),
                self.size,
                libc::MPOL_PREFERRED as libc::c_ulong,
                mask.as_ptr(),
                NODE_COUNT_MAX as libc::c_ulong + 1,
                0 as libc::c_ulong,
            )
        };
        if result == 0 { Binding::Bound(node) } else { Binding::Refused(last_error_number()) }
    }
}

/// A region that stays mapped as long as somebody has this.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: 1. Other threads than the arena's get no access to the contents through it: all they can do is to ask the
//         kernel for the pages, which changes no contents, and to unmap the region when nobody has it any more.
unsafe impl Send for Mapping {}
// SAFETY: 1. As above: its one method that does anything takes the addresses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes the pages of a part of the region resident and writable, from whatever thread. Contents stay. Says whether
    /// the kernel could.
    pub(crate) fn populate(&self, offset: usize, size: usize) -> bool {
        let first = offset / PAGE.get() * PAGE.get();
        let end = offset + size;
        assert!(end <= self.size, "a part of the arena");
        // SAFETY: 1. `first` is at most `size` of the mapping, so the result is inside it or at its end.
        let start = unsafe { self.start.add(first) };
        populate(start, end - first).is_ok()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: 1. The range is exactly the mapping that `Arena::with` made; nobody else unmaps it.
        //         2. No slice of it outlives the arena, by the borrows of `bytes` and `bytes_mut`; the pool and the slab,
        //         which use `start`, see to it themselves.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert_eq!(result, 0, "munmap of our own mapping cannot fail");
    }
}

fn last_error_number() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

fn out_of_memory() -> ArenaError {
    ArenaError::Map(io::Error::from_raw_os_error(libc::ENOMEM))
}

/// `size` rounded up to whole pages of `page_size`.
fn whole_pages(size: usize, page_size: usize) -> Result<usize, ArenaError> {
    if size == 0 {
        return Err(ArenaError::Map(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    size.checked_next_multiple_of(page_size).ok_or_else(out_of_memory)
}

/// No swap space is set aside for plain pages: an arena is mapped for the most that it may ever hold, and most of it
/// is touched late or never. Miri knows no such flag.
fn no_reserve() -> libc::c_int {
    if cfg!(miri) { 0 } else { libc::MAP_NORESERVE }
}

/// A new mapping of `size` bytes, readable and writable.
fn map_anonymous(size: usize, flags: libc::c_int) -> Result<NonNull<u8>, ArenaError> {
    // SAFETY: 1. A null hint with MAP_ANONYMOUS | MAP_PRIVATE makes a new mapping and touches no existing one.
    //         2. The descriptor is -1 and the offset 0, as MAP_ANONYMOUS demands.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(ArenaError::Map(io::Error::last_os_error()));
    }
    NonNull::new(address.cast::<u8>()).ok_or_else(out_of_memory)
}

/// A new mapping of `size` bytes, a multiple of 2 MiB, in the best pages to be had.
fn map_huge(size: usize) -> Result<(NonNull<u8>, Got), ArenaError> {
    // Without MAP_NORESERVE: the kernel then sets the pages aside now or refuses now. With it, the mapping would
    // succeed and a touch that finds the reserve empty would be answered with SIGBUS.
    if let Ok(start) = map_anonymous(size, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
        return Ok((start, Got::HugeTlb));
    }
    let start = map_at_huge_boundary(size)?;
    // SAFETY: 1. The range is the mapping made above, whole and ours alone.
    //         2. MADV_HUGEPAGE changes no contents. Its failure (no such feature) leaves plain pages, which serve as
    //         well.
    let result = unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
    let got = if result == 0 && transparent_pages_enabled() { Got::Transparent } else { Got::Plain };
    Ok((start, got))
}

/// A new mapping of `size` bytes that starts at a multiple of 2 MiB, where huge pages start: mapped with room on
/// either side, which is given back.
fn map_at_huge_boundary(size: usize) -> Result<NonNull<u8>, ArenaError> {
    let wide_size = size.checked_add(HUGE_PAGE_SIZE).ok_or_else(out_of_memory)?;
    let wide = map_anonymous(wide_size, no_reserve())?;
    let before_size = wide.as_ptr().addr().next_multiple_of(HUGE_PAGE_SIZE) - wide.as_ptr().addr();
    // SAFETY: 1. Less than HUGE_PAGE_SIZE, hence inside the mapping.
    let start = unsafe { wide.add(before_size) };
    // SAFETY: 1. `before_size + size` is at most `wide_size`: inside the mapping or at its end.
    let end = unsafe { start.add(size) };
    unmap_rest(wide, before_size);
    unmap_rest(end, wide_size - before_size - size);
    Ok(start)
}

/// Gives back what `map_at_huge_boundary` mapped too much. The kernel may refuse, at the limit of mappings of the
/// process; what stays then is address space that nobody touches.
fn unmap_rest(start: NonNull<u8>, size: usize) {
    if size > 0 {
        // SAFETY: 1. The range is a part of a mapping of ours that nobody has seen yet.
        let _ = unsafe { libc::munmap(start.as_ptr().cast(), size) };
    }
}

/// Faults the pages in, writable, without a touch (`MADV_POPULATE_WRITE`, kernel 5.14); the error number if not.
fn populate(start: NonNull<u8>, size: usize) -> Result<(), i32> {
    if cfg!(miri) {
        return Err(libc::EINVAL);
    }
    // SAFETY: 1. The caller's range lies in a mapping of its own. 2. No contents change.
    let result = unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_POPULATE_WRITE) };
    if result == 0 { Ok(()) } else { Err(last_error_number()) }
}

/// Whether the kernel makes transparent huge pages for those who ask; yes where it does not say. Asked once.
fn transparent_pages_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        setting.map_or(true, |setting| allows_asking(&setting))
    })
}

/// Whether such a setting, with the chosen word in brackets, is other than "never".
fn allows_asking(setting: &str) -> bool {
    !setting.contains("[never]")
}

#[cfg(test)]
mod tests;
