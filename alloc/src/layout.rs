//! Alignment as a type: a power of two of at least 512 bytes, the smallest logical block of any disk; and which one a
//! file asks for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// An alignment in bytes: a power of two, at least 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alignment(usize);

/// The alignment that every O_DIRECT device of today accepts, and the size of a memory page.
pub const PAGE: Alignment = Alignment(4096);

impl Alignment {
    /// The smallest alignment there is: the classic disk sector.
    pub const MIN: usize = 512;

    /// Makes an alignment of `bytes`; `None` unless it is a power of two of at least 512.
    #[must_use]
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN { Some(Self(bytes)) } else { None }
    }

    /// What direct I/O on `file` has to be aligned to; `None` when the kernel says that there is no direct I/O on it.
    ///
    /// Asks statx(2) for `STATX_DIOALIGN` (kernel 6.1), which file systems on disks and block devices answer. Where
    /// there is no answer, the logical block size of the file's device in sysfs
    /// (Documentation/ABI/stable/sysfs-block), and where there is no device either, [`PAGE`]. Never below
    /// [`Alignment::MIN`], though some devices accept memory at any four bytes.
    ///
    /// # Errors
    /// What statx(2) says; `InvalidData` when the answer is not a power of two.
    pub fn of_file(file: impl AsFd) -> io::Result<Option<DirectAlignment>> {
        direct_alignment(&Answer::of(file)?, Path::new("/sys"))
    }

    /// The alignment in bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }

    /// The largest multiple that is not above `value`.
    #[must_use]
    pub const fn round_down(self, value: u64) -> u64 {
        value & !(self.0 as u64 - 1)
    }

    /// The smallest multiple that is not below `value`.
    ///
    /// # Panics
    /// When the result does not fit into 64 bits.
    #[must_use]
    pub const fn round_up(self, value: u64) -> u64 {
        self.round_down(value.checked_add(self.0 as u64 - 1).expect("rounding up overflows 64 bits"))
    }

    /// Whether `value` is a multiple.
    #[must_use]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & (self.0 as u64 - 1) == 0
    }
}

/// What direct I/O on a file has to be aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of buffers in memory.
    pub memory: Alignment,
    /// Of offsets in the file and of lengths.
    pub offset: Alignment,
    /// The same for reads alone (`STATX_DIO_READ_ALIGN`, newer kernels), which a file system that writes out of place
    /// may allow in smaller pieces. Equal to `offset` where the kernel does not say.
    pub read_offset: Alignment,
    /// Who said so.
    pub source: Source,
}

/// Where an alignment is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file system, by statx(2).
    Statx,
    /// The logical block size of the device in sysfs.
    Sysfs,
    /// Nobody: [`PAGE`], which suits every device of today.
    Default,
}

const _: () = assert!(Alignment::MIN.is_power_of_two());
const _: () = assert!(PAGE.get() >= Alignment::MIN);
const _: () = assert!(PAGE.get().is_power_of_two());

/// What statx(2) said of a file, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    /// The fields that the kernel filled in (`STATX_...`).
    mask: u32,
    memory: u32,
    offset: u32,
    read_offset: u32,
    /// Major and minor number of the device that holds the file, or that the file is.
    device: (u32, u32),
}

impl Answer {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let mut status = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: 1. The descriptor is open as long as `file` is borrowed. 2. The path is an empty C string, which
        //         AT_EMPTY_PATH lets stand for the descriptor itself. 3. The place for the answer is writable.
        let result = unsafe {
            libc::statx(
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_TYPE | libc::STATX_DIOALIGN | libc::STATX_DIO_READ_ALIGN,
                status.as_mut_ptr(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: 1. It was zeroed, and zeroes are a valid value of all its fields; the kernel wrote integers.
        let status = unsafe { status.assume_init() };
        let is_device = u32::from(status.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
        let device = if is_device {
            (status.stx_rdev_major, status.stx_rdev_minor)
        } else {
            (status.stx_dev_major, status.stx_dev_minor)
        };
        let (memory, offset) = (status.stx_dio_mem_align, status.stx_dio_offset_align);
        Ok(Self { mask: status.stx_mask, memory, offset, read_offset: status.stx_dio_read_offset_align, device })
    }
}

/// Makes an alignment of what statx(2) said, or of what is below `sysfs`.
fn direct_alignment(answer: &Answer, sysfs: &Path) -> io::Result<Option<DirectAlignment>> {
    if answer.mask & libc::STATX_DIOALIGN == 0 {
        let block_size = logical_block_size(sysfs, answer.device).and_then(at_least_min);
        let source = if block_size.is_some() { Source::Sysfs } else { Source::Default };
        let all = block_size.unwrap_or(PAGE);
        return Ok(Some(DirectAlignment { memory: all, offset: all, read_offset: all, source }));
    }
    if answer.memory == 0 && answer.offset == 0 {
        return Ok(None);
    }
    let valid = |bytes: u32| {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("statx gives an alignment of {bytes} bytes"));
        at_least_min(bytes as usize).ok_or_else(wrong)
    };
    let (memory, offset) = (valid(answer.memory)?, valid(answer.offset)?);
    let says_read = answer.mask & libc::STATX_DIO_READ_ALIGN != 0 && answer.read_offset != 0;
    let read_offset = if says_read { valid(answer.read_offset)? } else { offset };
    Ok(Some(DirectAlignment { memory, offset, read_offset, source: Source::Statx }))
}

/// An alignment of `bytes`, or the smallest if that is more; `None` unless `bytes` is a power of two.
fn at_least_min(bytes: usize) -> Option<Alignment> {
    if bytes.is_power_of_two() { Alignment::new(bytes.max(Alignment::MIN)) } else { None }
}

/// The logical block size of a device in bytes. A partition has no queue of its own but lies in the directory of its
/// disk, which the kernel finds behind the link by `..`.
fn logical_block_size(sysfs: &Path, (major, minor): (u32, u32)) -> Option<usize> {
    let device = sysfs.join(format!("dev/block/{major}:{minor}"));
    let read = |queue: &str| std::fs::read_to_string(device.join(queue).join("logical_block_size")).ok();
    read("queue").or_else(|| read("../queue"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir_all, write};

    use super::*;

    #[test]
    fn only_powers_of_two_from_512_are_alignments() {
        for bytes in [0, 1, 256, 511, 513, 4095, 6144] {
            assert_eq!(Alignment::new(bytes), None, "{bytes}");
        }
        for bytes in [512, 1024, 4096, 1 << 21] {
            assert_eq!(Alignment::new(bytes).map(Alignment::get), Some(bytes));
        }
    }

    #[test]
    fn rounding_meets_its_multiples() {
        assert_eq!((PAGE.round_down(0), PAGE.round_up(0)), (0, 0));
        assert_eq!((PAGE.round_down(1), PAGE.round_up(1)), (0, 4096));
        assert_eq!((PAGE.round_down(4096), PAGE.round_up(4096)), (4096, 4096));
        assert_eq!((PAGE.round_down(4097), PAGE.round_up(4097)), (4096, 8192));
        assert!(PAGE.is_aligned(8192));
        assert!(!PAGE.is_aligned(8193));
    }

    const SILENT: Answer = Answer { mask: 0, memory: 0, offset: 0, read_offset: 0, device: (259, 1) };

    /// A sysfs with a disk 259:0 and its partition 259:1, blocks of 4096 bytes; 259:2 has a block size of nonsense.
    fn made_up_sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory for a test");
        let disk = root.path().join("devices/pci/nvme0n1");
        let other = root.path().join("devices/pci/nvme1n1");
        let links = root.path().join("dev/block");
        for directory in [&disk.join("queue"), &disk.join("nvme0n1p1"), &other.join("queue"), &links] {
            create_dir_all(directory).expect("a directory for a test");
        }
        write(disk.join("queue/logical_block_size"), "4096\n").expect("a file for a test");
        write(other.join("queue/logical_block_size"), "-3\n").expect("a file for a test");
        for (number, target) in [("259:0", "nvme0n1"), ("259:1", "nvme0n1/nvme0n1p1"), ("259:2", "nvme1n1")] {
            let target = Path::new("../../devices/pci").join(target);
            std::os::unix::fs::symlink(target, links.join(number)).expect("a link for a test");
        }
        root
    }

    fn decided(answer: Answer, sysfs: &Path) -> (usize, usize, usize, Source) {
        let found = direct_alignment(&answer, sysfs).expect("a good answer").expect("direct I/O");
        (found.memory.get(), found.offset.get(), found.read_offset.get(), found.source)
    }

    #[test]
    fn what_statx_says_counts_but_not_below_the_smallest() {
        let nowhere = Path::new("/nonexistent");
        let answer = Answer { mask: libc::STATX_DIOALIGN, memory: 4, offset: 4096, read_offset: 512, ..SILENT };
        assert_eq!(decided(answer, nowhere), (512, 4096, 4096, Source::Statx));
        let mask = libc::STATX_DIOALIGN | libc::STATX_DIO_READ_ALIGN;
        assert_eq!(decided(Answer { mask, ..answer }, nowhere), (512, 4096, 512, Source::Statx));
        let answer = Answer { mask, offset: 65536, read_offset: 0, ..answer };
        assert_eq!(decided(answer, nowhere), (512, 65536, 65536, Source::Statx));
    }

    #[test]
    fn files_without_direct_io_are_told_from_those_with() {
        let answer = Answer { mask: libc::STATX_DIOALIGN, ..SILENT };
        assert_eq!(direct_alignment(&answer, Path::new("/nonexistent")).expect("a good answer"), None);
        for (memory, offset) in [(0, 512), (512, 0), (512, 513), (3, 512)] {
            let answer = Answer { memory, offset, ..answer };
            let error = direct_alignment(&answer, Path::new("/nonexistent")).expect_err("not an alignment");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)] // No symbolic links.
    fn a_file_system_that_is_silent_leaves_it_to_the_device() {
        let sysfs = made_up_sysfs();
        let on = |minor| decided(Answer { device: (259, minor), ..SILENT }, sysfs.path());
        assert_eq!(on(0), (4096, 4096, 4096, Source::Sysfs));
        assert_eq!(on(1), (4096, 4096, 4096, Source::Sysfs), "the disk of the partition");
        assert_eq!(on(2), (4096, 4096, 4096, Source::Default), "nonsense");
        assert_eq!(on(3), (4096, 4096, 4096, Source::Default), "no such device");
        write(sysfs.path().join("devices/pci/nvme0n1/queue/logical_block_size"), "512\n").expect("a file for a test");
        assert_eq!(on(1), (512, 512, 512, Source::Sysfs));
    }

    #[test]
    #[cfg_attr(miri, ignore)] // No such flags of statx.
    fn the_kernel_answers_for_real_files() {
        let file = tempfile::tempfile().expect("a file for a test");
        if let Some(found) = Alignment::of_file(&file).expect("an open file") {
            let sizes = [found.memory, found.offset, found.read_offset].map(Alignment::get);
            assert!(sizes.iter().all(|size| (Alignment::MIN..=1 << 20).contains(size)), "{found:?}");
            assert!(found.read_offset <= found.offset, "{found:?}");
        }
        // procfs has neither direct I/O nor a device.
        let file = File::open("/proc/self/stat").expect("procfs");
        let found = Alignment::of_file(file).expect("an open file");
        assert_eq!(found.map(|found| (found.offset, found.source)), Some((PAGE, Source::Default)));
    }
}
