//! What a server says of itself in `stats`, and what the kernel says of it, at one moment.

use std::collections::HashMap;
use std::path::Path;

use crate::connection::{Address, Stream};
use crate::procstat;

/// A connection that asks for `stats`.
pub(super) struct Asker {
    stream: Stream,
}

/// The answer to `stats`.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats(HashMap<String, String>);

impl Asker {
    pub(super) fn connect(address: &Address) -> Result<Self, String> {
        Ok(Self { stream: Stream::connect(address)? })
    }

    /// All of `stats`.
    ///
    /// # Errors
    ///
    /// A sentence when the server does not answer as memcached does.
    pub(super) fn ask(&mut self) -> Result<Stats, String> {
        self.send(b"stats\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"END\r\n") {
            self.receive(&mut answer)?;
        }
        Ok(Stats::parse(&String::from_utf8_lossy(&answer)))
    }

    /// Sends all of `bytes`.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.stream.write(&bytes[sent..]).map_err(|error| format!("to the server: {error}"))?;
        }
        Ok(())
    }

    /// Appends what comes next.
    pub(super) fn receive(&mut self, answer: &mut Vec<u8>) -> Result<(), String> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(size) => {
                answer.extend_from_slice(&piece[..size]);
                Ok(())
            }
            Err(error) => Err(format!("from the server: {error}")),
        }
    }
}

impl Stats {
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A number, if it is there and is one.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.parse().ok()
    }

    /// A number that has to be there.
    pub(super) fn need(&self, name: &str) -> Result<u64, String> {
        self.number(name).ok_or_else(|| format!("the server's stats have no number {name}"))
    }

    /// How much a counter has grown since `before`; 0 when there is no such counter.
    pub(super) fn grown(&self, before: &Self, name: &str) -> u64 {
        self.number(name).unwrap_or(0).saturating_sub(before.number(name).unwrap_or(0))
    }
}

/// What has been written until one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) stats: Stats,
    /// Bytes that the server's process has had written, as the kernel counts them.
    process_written: Option<u64>,
    /// Bytes written to the device, by everybody.
    device_written: Option<u64>,
}

impl Snapshot {
    pub(super) fn take(stats: Stats, pid: Option<u32>, directory: Option<&Path>) -> Self {
        let process_written = pid.and_then(procstat::written_size);
        Self { stats, process_written, device_written: directory.and_then(procstat::device_written_size) }
    }

    /// Bytes that were written since `before`: as the server counts them, as the kernel does for its process, and for the
    /// whole device.
    pub(super) fn written_since(&self, before: &Self) -> (u64, Option<u64>, Option<u64>) {
        let difference = |after: Option<u64>, before: Option<u64>| Some(after?.saturating_sub(before?));
        (
            self.stats.grown(&before.stats, "disk_write_bytes"),
            difference(self.process_written, before.process_written),
            difference(self.device_written, before.device_written),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_parsed_and_subtracted() {
        let text = "STAT pid 7\r\nSTAT disk_reads 12\r\nSTAT write_amplification 1.250\r\nEND\r\n";
        let after = Stats::parse(text);
        assert_eq!((after.number("disk_reads"), after.number("nothing")), (Some(12), None));
        assert!(after.need("write_amplification").is_err() && after.need("pid") == Ok(7));
        let before = Stats::parse("STAT disk_reads 5\r\nEND\r\n");
        assert_eq!((after.grown(&before, "disk_reads"), after.grown(&before, "nothing")), (7, 0));
        assert_eq!(before.grown(&after, "disk_reads"), 0, "a server that was started anew");
    }

    #[test]
    fn what_was_written_is_a_difference() {
        let snapshot = |count: u64, process_written| Snapshot {
            stats: Stats::parse(&format!("STAT disk_write_bytes {count}\r\n")),
            process_written,
            device_written: None,
        };
        assert_eq!(snapshot(9, Some(20)).written_since(&snapshot(4, Some(5))), (5, Some(15), None));
        assert_eq!(snapshot(9, Some(20)).written_since(&snapshot(4, None)), (5, None, None));
    }
}
