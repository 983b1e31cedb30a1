//! Memory of this process that is resident, from `/proc/self/status`.

use std::fs;

/// Bytes, as the kernel counts them. It may be behind by 32 pages per CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Pages that belong to no file: what was allocated and touched.
    pub(super) anonymous: u64,
    /// All pages, those of the program itself included.
    resident: u64,
    /// The most that `resident` was since the last [`Memory::forget_peak`].
    highest: u64,
}

impl Memory {
    /// What there is now.
    ///
    /// # Errors
    ///
    /// A sentence when the kernel does not say.
    pub(super) fn now() -> Result<Self, String> {
        let path = "/proc/self/status";
        let status = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Self::parse(&status).ok_or_else(|| format!("{path} does not tell what is resident"))
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1 << 10)
        };
        Some(Self { anonymous: field("RssAnon:")?, resident: field("VmRSS:")?, highest: field("VmHWM:")? })
    }

    /// The most that `anonymous` was since the last [`Memory::forget_peak`], the program's own pages being as now.
    pub(super) fn anonymous_peak(self) -> u64 {
        self.anonymous + self.highest.saturating_sub(self.resident)
    }

    /// Lets the kernel forget how much was resident; false when it does not (proc(5), clear_refs).
    pub(super) fn forget_peak() -> bool {
        fs::write("/proc/self/clear_refs", "5").is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_understood() {
        let status =
            "Name:\tVmRSS:\nVmHWM:\t  1000 kB\nVmRSS:\t     600 kB\nRssAnon:\t     200 kB\nRssFile:\t 400 kB\n";
        let memory = Memory::parse(status).expect("all fields are there");
        assert_eq!((memory.anonymous, memory.anonymous_peak()), (200 << 10, 600 << 10));
        assert_eq!(Memory::parse("VmRSS:\t600 kB\n"), None);
    }

    #[test]
    fn what_is_touched_is_resident() {
        let before = Memory::now().expect("Linux");
        let touched = vec![1u8; 64 << 20];
        let grown = Memory::now().expect("Linux").anonymous.saturating_sub(before.anonymous);
        // Other tests run at the same time.
        assert!(grown >= 32 << 20, "{grown} {}", touched.len());
    }
}
