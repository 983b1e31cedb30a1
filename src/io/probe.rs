//! What this machine's kernel and file systems can do, asked before anything depends on it.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use dma_alloc::Buffer;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::SyncMethod;
use super::ring::check::{Missing, check};
use crate::limits::{MEMLOCK_SIZE_MIN, PAGE_SIZE, SYNC_PROBE_COUNT, SYNC_PROBE_TIME};

/// Why the shards cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// io_uring lacks something.
    #[error(
        "io_uring is not available ({0}): dmacached needs it. Check `sysctl kernel.io_uring_disabled` (must be \
            0), the seccomp profile of the container, and that the kernel is 6.1 or newer"
    )]
    Ring(Missing),
    /// The kernel is too old.
    #[error("the kernel is {0}, dmacached needs Linux 6.1 or newer")]
    Kernel(String),
    /// RLIMIT_MEMLOCK is too small for glommio.
    #[error(
        "the memlock limit (RLIMIT_MEMLOCK) is {0} bytes, at least {MEMLOCK_SIZE_MIN} are needed for io_uring: \
            raise it with `ulimit -l`, LimitMEMLOCK= in the systemd unit, or /etc/security/limits.conf"
    )]
    Memlock(u64),
}

/// Checks that shards can run: kernel version, io_uring, RLIMIT_MEMLOCK.
///
/// # Errors
/// [`Unfit`], which says what to do.
pub fn check_host() -> std::result::Result<(), Unfit> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    if !kernel_is_at_least(&release, (6, 1)) {
        return Err(Unfit::Kernel(release));
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((u64::MAX, u64::MAX));
    if soft < MEMLOCK_SIZE_MIN {
        return Err(Unfit::Memlock(soft));
    }
    check().map_err(Unfit::Ring)
}

fn kernel_is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let found = (numbers.next(), numbers.next());
    // A release that is no number is a kernel of somebody who knows better.
    let (Some(Ok(major)), Some(Ok(minor))) = found else { return true };
    (major, minor) >= wanted
}

/// Raises the number of files that may be open to `wanted`, as far as the hard limit lets it (memcached does the same
/// for `-c`). Returns the number that may be open then.
#[must_use]
pub fn raise_open_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    if soft >= wanted {
        return soft;
    }
    // The superuser may raise the hard limit too.
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return wanted;
    }
    let raised = wanted.min(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft }
}

/// Whether files in `directory` can be opened with O_DIRECT and bypass the page cache. tmpfs accepts the flag and
/// ignores it, as there is nothing below its cache.
///
/// # Errors
/// When `path`, a file in the directory, cannot be made. It is removed again.
pub fn supports_direct_io(directory: &Path, path: &Path) -> Result<bool> {
    let kind = nix::sys::statfs::statfs(directory).map_err(Error::from)?.filesystem_type();
    let open = |flags| {
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(path)
    };
    let result = open(OFlag::O_DIRECT.bits());
    let opened = match &result {
        Ok(_) => Ok(kind != nix::sys::statfs::TMPFS_MAGIC),
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(0).map(|_| false),
        Err(error) => Err(Error::new(error.kind(), error.to_string())),
    };
    let _ = std::fs::remove_file(path);
    opened
}

/// What two ways to have bytes on stable media take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTimes {
    /// A write of a page with O_DSYNC: median.
    pub dsync: Duration,
    /// A write of a page and an fdatasync(2): median.
    pub fdatasync: Duration,
}

impl SyncTimes {
    /// The faster one.
    #[must_use]
    pub fn method(&self) -> SyncMethod {
        if self.dsync <= self.fdatasync { SyncMethod::Dsync } else { SyncMethod::Fdatasync }
    }

    /// Tries both by turns, on pages of a file at `path` that is removed again, and ends after [`SYNC_PROBE_TIME`] at the latest,
    /// but for the write under way.
    ///
    /// # Errors
    /// What open(2), write(2) and fdatasync(2) say.
    pub fn measure(path: &Path, is_direct: bool) -> Result<Self> {
        let measured = Self::measure_in(path, is_direct);
        let _ = std::fs::remove_file(path);
        measured
    }

    fn measure_in(path: &Path, is_direct: bool) -> Result<Self> {
        let started = Instant::now();
        let open = |flags: OFlag| {
            let flags = if is_direct { flags | OFlag::O_DIRECT } else { flags };
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags.bits()).open(path)
        };
        let (plain, stable) = (open(OFlag::empty())?, open(OFlag::O_DSYNC)?);
        // Space that was written before, as that of a table that is used again: the first write to preallocated space costs
        // the file system a note of its own, either way.
        let pages = Buffer::zeroed(SYNC_PROBE_COUNT * PAGE_SIZE);
        plain.write_all_at(&pages, 0)?;
        plain.sync_all()?;
        let (mut dsync, mut fdatasync) = (Vec::new(), Vec::new());
        for place in (0..SYNC_PROBE_COUNT).step_by(2) {
            if !dsync.is_empty() && started.elapsed() >= SYNC_PROBE_TIME {
                break;
            }
            let page = &pages[..PAGE_SIZE];
            let begun = Instant::now();
            stable.write_all_at(page, (place * PAGE_SIZE) as u64)?;
            dsync.push(begun.elapsed());
            let begun = Instant::now();
            plain.write_all_at(page, ((place + 1) * PAGE_SIZE) as u64)?;
            plain.sync_data()?;
            fdatasync.push(begun.elapsed());
        }
        Ok(Self { dsync: median(&mut dsync), fdatasync: median(&mut fdatasync) })
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Bytes free for unprivileged users on the file system of `directory`.
///
/// # Errors
/// What statvfs(3) says.
pub fn free_space(directory: &Path) -> Result<u64> {
    let status = nix::sys::statvfs::statvfs(directory).map_err(Error::from)?;
    #[expect(clippy::useless_conversion, reason = "the types differ between architectures")]
    Ok(u64::from(status.blocks_available()) * u64::from(status.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert!(kernel_is_at_least("6.1.0-18-amd64", (6, 1)));
        assert!(kernel_is_at_least("6.18.44", (6, 1)));
        assert!(kernel_is_at_least("10.0", (6, 1)));
        assert!(!kernel_is_at_least("5.15.0", (6, 1)));
        assert!(!kernel_is_at_least("6.0.9", (6, 1)));
    }

    #[test]
    fn the_faster_way_to_stable_media_is_taken() {
        let times = |dsync, fdatasync| SyncTimes {
            dsync: Duration::from_micros(dsync),
            fdatasync: Duration::from_micros(fdatasync),
        };
        assert_eq!(times(10, 11).method(), SyncMethod::Dsync);
        assert_eq!(times(12, 11).method(), SyncMethod::Fdatasync);
        assert_eq!(median(&mut [3, 1, 2].map(Duration::from_millis)), Duration::from_millis(2));
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory for a test");
        let path = directory.path().join("probe");
        let direct = supports_direct_io(directory.path(), &path).expect("writable");
        let times = SyncTimes::measure(&path, direct).expect("the disk works");
        assert!(times.dsync > Duration::ZERO && times.fdatasync > Duration::ZERO);
        assert!(!path.exists());
        assert!(SyncTimes::measure(&directory.path().join("missing/probe"), direct).is_err());
    }

    #[test]
    fn a_directory_of_the_build_takes_files() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory for a test");
        supports_direct_io(directory.path(), &directory.path().join("probe")).expect("writable");
        assert!(free_space(directory.path()).expect("a file system") > 0);
        assert!(supports_direct_io(directory.path(), &directory.path().join("missing/probe")).is_err());
    }
}
