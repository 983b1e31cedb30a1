//! What processes have used, from `/proc` and `getrusage`, and where they may run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads, kernel threads that work on its behalf included.
    pub(crate) cpu: Duration,
    /// Voluntary and involuntary context switches of the threads alive now.
    pub(crate) switch_count: u64,
}

impl Usage {
    /// Reads what process `pid` has used. CPU time comes from `/proc/PID/stat` and is a multiple of the clock tick.
    ///
    /// # Errors
    ///
    /// A sentence when there is no such process, or `/proc` cannot be read.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let ticks = cpu_ticks(&stat).ok_or_else(|| format!("{path} has no CPU times"))?;
        let ticks_per_second = match sysconf(SysconfVar::CLK_TCK) {
            Ok(Some(ticks)) if ticks > 0 => ticks as f64,
            _ => return Err("the clock tick is not known".to_owned()),
        };
        let cpu = Duration::from_secs_f64(ticks as f64 / ticks_per_second);
        Ok(Self { cpu, switch_count: switch_count(pid)? })
    }

    /// What was used since `before`. Switches of threads that ended in between are lost.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            switch_count: self.switch_count.saturating_sub(before.switch_count),
        }
    }
}

/// Memory of a process that is resident, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All pages, those of the program itself included.
    pub(crate) all: u64,
    /// Pages that belong to no file.
    pub(crate) anonymous: u64,
}

impl Resident {
    /// What process `pid` has now.
    ///
    /// # Errors
    ///
    /// A sentence when there is no such process, or the kernel does not say.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        Self::parse(&status).ok_or_else(|| format!("{path} does not tell what is resident"))
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1 << 10)
        };
        Some(Self { all: field("VmRSS:")?, anonymous: field("RssAnon:")? })
    }
}

/// Bytes that process `pid` has had written to block devices; `None` when the kernel does not say, or not to us.
pub(crate) fn written_size(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Bytes written to the block device that `directory` lies on, by everybody; `None` when there is none, as with a tmpfs.
pub(crate) fn device_written_size(directory: &Path) -> Option<u64> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = ((device >> 8) & 0xfff | (device >> 32) & !0xfff, device & 0xff | (device >> 12) & !0xff);
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // The seventh number counts sectors of 512 bytes, whatever the device's are.
    stat.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()?.checked_mul(512)
}

/// User plus system time in ticks. The process' name is in parentheses and may hold anything, blanks and `)` included.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // Fields 14 and 15 of the line, of which the first after the name is number 3.
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

fn switch_count(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    let status = |path: PathBuf| fs::read_to_string(path.join("status")).unwrap_or_default();
    // A thread may end between the listing and the reading; it then counts nothing.
    Ok(tasks.flatten().map(|task| switches_in(&status(task.path()))).sum())
}

fn switches_in(status: &str) -> u64 {
    let count = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.ends_with("voluntary_ctxt_switches").then(|| value.trim().parse::<u64>().ok())?
    };
    status.lines().filter_map(count).sum()
}

/// User and system time of this process.
///
/// # Errors
///
/// A sentence when the kernel refuses to say.
pub(crate) fn own_cpu() -> Result<Duration, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| format!("getrusage: {error}"))?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

/// Lets the calling thread run on `cpu` only.
///
/// # Errors
///
/// A sentence when there is no such CPU, or it is not allowed.
pub(crate) fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|error| format!("pin to CPU {cpu}: {error}"))
}

/// The CPUs that process `pid`, or the calling thread if 0, may use; empty when the kernel does not say.
pub(crate) fn allowed_cpus(pid: u32) -> Vec<usize> {
    let set = i32::try_from(pid).ok().and_then(|pid| sched_getaffinity(Pid::from_raw(pid)).ok());
    let Some(set) = set else {
        return Vec::new();
    };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// The processor, the number of CPUs and the kernel, for the head of a report.
pub(crate) fn host_line() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = file("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {count} CPUs usable, Linux {}", file("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_hostile_process_name() {
        let stat = "77 (a) R 1 (b) c) S 1 77 77 0 -1 4194560 9 0 0 0 1234 766 5 6 20 0 4 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(2_000));
        assert_eq!(cpu_ticks("77 (x) S 1"), None);
    }

    #[test]
    fn both_kinds_of_context_switches_are_added() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 42);
    }

    #[test]
    fn a_busy_process_uses_cpu_by_both_clocks() {
        let pid = std::process::id();
        let before = (Usage::of(pid).expect("it is us"), own_cpu().expect("it is us"));
        let mut sum = 0u64;
        while own_cpu().expect("it is us") < before.1 + Duration::from_millis(60) {
            sum = crate::random::mix(sum);
        }
        let used = Usage::of(pid).expect("it is us").since(before.0).cpu;
        assert!(used >= Duration::from_millis(40), "{used:?} {sum}");
    }

    #[test]
    fn resident_memory_and_written_bytes_are_found() {
        let status = "Name:\tVmRSS:\nVmRSS:\t     600 kB\nRssAnon:\t     200 kB\n";
        assert_eq!(Resident::parse(status), Some(Resident { all: 600 << 10, anonymous: 200 << 10 }));
        assert_eq!(Resident::parse("VmRSS:\t600 kB\n"), None);
        let resident = Resident::of(std::process::id()).expect("it is us");
        assert!(resident.anonymous > 0 && resident.all >= resident.anonymous, "{resident:?}");
        assert!(written_size(std::process::id()).is_some());
        assert_eq!(written_size(u32::MAX), None);
        assert_eq!(device_written_size(Path::new("/proc")), None, "nothing is written to it");
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(Usage::of(u32::MAX).is_err());
        assert!(allowed_cpus(u32::MAX).is_empty());
        assert!(!allowed_cpus(0).is_empty());
    }
}
