//! What is asked for by the prefix of its key, for `stats detail`.

use std::collections::BTreeMap;

use crate::limits::PREFIX_COUNT_MAX;

/// What was asked for with keys of one prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PrefixCounts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

/// Counts gets, sets and deletes by what stands before the first delimiter in their keys. A key without one is not
/// counted, as memcached has it. Nor is, unlike there, one with a new prefix when [`PREFIX_COUNT_MAX`] are known already.
#[derive(Debug)]
pub struct PrefixStats {
    delimiter: u8,
    is_enabled: bool,
    prefixes: BTreeMap<Box<[u8]>, PrefixCounts>,
}

impl PrefixStats {
    /// Nothing counted yet; `is_enabled`: it is from now on.
    #[must_use]
    pub fn new(delimiter: u8, is_enabled: bool) -> Self {
        Self { delimiter, is_enabled, prefixes: BTreeMap::new() }
    }

    /// `stats detail on` and `off`. What was counted stays.
    pub fn enable(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
    }

    /// Whether anything is counted at the moment.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// What ends a prefix.
    #[must_use]
    pub fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// A key was asked for, and found or not.
    #[inline]
    pub fn record_get(&mut self, key: &[u8], is_hit: bool) {
        self.record(key, |counts| {
            counts.gets += 1;
            counts.hits += u64::from(is_hit);
        });
    }

    /// A value was to be stored, whatever became of it.
    #[inline]
    pub fn record_set(&mut self, key: &[u8]) {
        self.record(key, |counts| counts.sets += 1);
    }

    /// A key was to be deleted, whether it was there or not.
    #[inline]
    pub fn record_delete(&mut self, key: &[u8]) {
        self.record(key, |counts| counts.deletes += 1);
    }

    /// Forgets all that was counted.
    pub fn reset(&mut self) {
        self.prefixes.clear();
    }

    /// Appends what was counted, by prefix: `PREFIX <prefix> get <n> hit <n> set <n> del <n>` and at the end `END`.
    pub fn dump(&self, out: &mut Vec<u8>) {
        for (prefix, counts) in &self.prefixes {
            let PrefixCounts { gets, hits, sets, deletes } = counts;
            out.extend_from_slice(b"PREFIX ");
            out.extend_from_slice(prefix);
            out.extend_from_slice(format!(" get {gets} hit {hits} set {sets} del {deletes}\r\n").as_bytes());
        }
        out.extend_from_slice(b"END\r\n");
    }

    #[inline]
    fn record(&mut self, key: &[u8], change: impl FnOnce(&mut PrefixCounts)) {
        if self.is_enabled {
            self.record_enabled(key, change);
        }
    }

    fn record_enabled(&mut self, key: &[u8], change: impl FnOnce(&mut PrefixCounts)) {
        let Some(size) = key.iter().position(|&byte| byte == self.delimiter) else { return };
        let prefix = &key[..size];
        if let Some(counts) = self.prefixes.get_mut(prefix) {
            return change(counts);
        }
        if self.prefixes.len() < PREFIX_COUNT_MAX {
            change(self.prefixes.entry(prefix.into()).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(stats: &PrefixStats) -> String {
        let mut out = Vec::new();
        stats.dump(&mut out);
        String::from_utf8(out).expect("the keys of these tests are text")
    }

    #[test]
    fn keys_are_counted_by_what_stands_before_the_first_delimiter() {
        let mut stats = PrefixStats::new(b':', true);
        assert_eq!(dumped(&stats), "END\r\n");
        stats.record_set(b"user:1:name");
        stats.record_get(b"user:1:name", true);
        stats.record_get(b"user:", false);
        stats.record_delete(b"user:2");
        stats.record_get(b":empty", false);
        stats.record_get(b"none", true);
        stats.record_set(b"");
        let lines = "PREFIX  get 1 hit 0 set 0 del 0\r\nPREFIX user get 2 hit 1 set 1 del 1\r\nEND\r\n";
        assert_eq!(dumped(&stats), lines);
        stats.enable(false);
        stats.record_get(b"user:1", true);
        assert_eq!(dumped(&stats), lines, "what was counted stays, nothing is added");
        stats.reset();
        assert_eq!(dumped(&stats), "END\r\n");
    }

    #[test]
    fn the_delimiter_is_chosen() {
        let mut stats = PrefixStats::new(b'/', true);
        stats.record_set(b"a:b/c");
        assert_eq!(dumped(&stats), "PREFIX a:b get 0 hit 0 set 1 del 0\r\nEND\r\n");
    }

    #[test]
    fn the_number_of_prefixes_is_bounded() {
        let mut stats = PrefixStats::new(b':', true);
        for number in 0..2 * PREFIX_COUNT_MAX {
            stats.record_set(format!("{number}:").as_bytes());
        }
        stats.record_get(b"0:", true);
        assert_eq!(dumped(&stats).lines().count(), PREFIX_COUNT_MAX + 1);
        assert!(dumped(&stats).contains("PREFIX 0 get 1 hit 1 set 1 del 0\r\n"), "known prefixes are counted on");
    }
}
