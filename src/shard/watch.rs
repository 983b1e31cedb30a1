//! `watch`: connections that are told what others do.
//!
//! Lines gather for each watcher until the server takes them to its connection. Who does not take them in time loses
//! lines, and is told how many. As long as nobody watches, all of this costs a look at one number.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::operations::Outcome;
use crate::clock::Seconds;
use crate::limits::{WATCHER_COUNT_MAX, WATCHER_SIZE_MAX};
use crate::protocol::text::dump::append_uri;
use crate::protocol::{AdminAnswer, StoreVerb, Topics};
use crate::store::{EvictionListener, Walked};

/// One that watches.
struct Watcher {
    /// Who it is to the server.
    name: u64,
    topics: Topics,
    lines: Vec<u8>,
    /// Lines that it has lost since it was last told so.
    skipped: u64,
}

/// All that watch, and who does what they are told.
#[derive(Default)]
pub struct Watchers {
    /// What somebody wants to be told.
    topics: Cell<Topics>,
    watchers: RefCell<Vec<Watcher>>,
    has_lines: Cell<bool>,
    /// Number of the last line.
    number: Cell<u64>,
    /// The descriptor of the connection whose request is executed.
    speaker: Cell<i32>,
}

impl Watchers {
    /// Whether anybody watches.
    #[must_use]
    #[inline]
    pub fn is_any(&self) -> bool {
        self.topics.get() != Topics::default()
    }

    /// Requests are those of the connection with this descriptor from now on.
    pub fn set_speaker(&self, descriptor: i32) {
        self.speaker.set(descriptor);
    }

    /// Adds a watcher, whom the server calls `name`; says whether there was room.
    #[must_use]
    pub fn add(&self, name: u64, topics: Topics) -> bool {
        let mut watchers = self.watchers.borrow_mut();
        if watchers.len() == WATCHER_COUNT_MAX {
            return false;
        }
        watchers.push(Watcher { name, topics, lines: Vec::new(), skipped: 0 });
        self.topics.set(self.topics.get().and(topics));
        true
    }

    /// Removes a watcher, if it is one.
    pub fn remove(&self, name: u64) {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|watcher| watcher.name != name);
        self.topics.set(watchers.iter().fold(Topics::default(), |all, watcher| all.and(watcher.topics)));
    }

    /// Hands out lines: `take` gets a watcher's name and its lines, and leaves those that it does not take.
    pub fn hand_out(&self, mut take: impl FnMut(u64, &mut Vec<u8>)) {
        if !self.has_lines.get() {
            return;
        }
        let mut watchers = self.watchers.borrow_mut();
        watchers.iter_mut().for_each(|watcher| take(watcher.name, &mut watcher.lines));
        self.has_lines.set(watchers.iter().any(|watcher| !watcher.lines.is_empty()));
    }

    /// Somebody asks for an item; `value_size` is that of its value, if there is one.
    #[inline]
    pub(super) fn fetched(&self, key: &[u8], value_size: Option<usize>) {
        if self.topics.get().meets(Topics::FETCHERS) {
            let (status, class) = if value_size.is_some() { ("found", 1) } else { ("not_found", 0) };
            let size = value_size.unwrap_or(0);
            let rest = format_args!(" status={status} clsid={class} cfd={} size={size}", self.speaker.get());
            self.tell(Topics::FETCHERS, "item_get", key, rest);
        }
    }

    /// Somebody has stored an item, or was refused.
    #[inline]
    pub(super) fn stored(&self, key: &[u8], verb: StoreVerb, outcome: Outcome, ttl: Seconds, value_size: usize) {
        if self.topics.get().meets(Topics::MUTATIONS) {
            let status = match outcome {
                Outcome::Done(_) => "stored",
                Outcome::NotStored => "not_stored",
                Outcome::Exists => "exists",
                Outcome::NotFound => "not_found",
                Outcome::TooLarge => "too_large",
                Outcome::NoSpace | Outcome::ReadFailed | Outcome::WriteFailed => "no_memory",
            };
            let command = match verb {
                StoreVerb::Set => "set",
                StoreVerb::Add => "add",
                StoreVerb::Replace => "replace",
                StoreVerb::Append => "append",
                StoreVerb::Prepend => "prepend",
                StoreVerb::Cas(_) => "cas",
            };
            let speaker = self.speaker.get();
            let rest = format_args!(" status={status} cmd={command} ttl={ttl} clsid=1 cfd={speaker} size={value_size}");
            self.tell(Topics::MUTATIONS, "item_store", key, rest);
        }
    }

    /// Somebody has deleted an item.
    #[inline]
    pub(super) fn deleted(&self, key: &[u8]) {
        if self.topics.get().meets(Topics::DELETIONS) {
            // memcached tells the size too, which is not known here without a read.
            self.tell(Topics::DELETIONS, "deleted", key, format_args!(" cmd=delete clsid=1"));
        }
    }

    /// The line for an item that is evicted.
    fn tell_of_evicted(&self, record: &Walked<'_>) {
        let Walked { key, ref header, value_size, written, was_fetched, .. } = *record;
        let now = crate::clock::wall_seconds();
        let fetched = if was_fetched { "yes" } else { "no" };
        let ttl = if header.expiry == 0 { -1 } else { i64::from(header.expiry) - i64::from(now) };
        let age = now.saturating_sub(written);
        let rest = format_args!(" fetch={fetched} ttl={ttl} la={age} clsid=1 size={value_size}");
        self.tell(Topics::EVICTIONS, "eviction", key, rest);
    }

    /// A connection has come, or goes for `reason`. `peer` is its address: transport, host and port.
    pub fn connected(&self, peer: (&str, &str, &str), descriptor: i32, reason: Option<&str>) {
        if self.topics.get().meets(Topics::CONNEVENTS) {
            let (transport, host, port) = peer;
            let kind = if reason.is_some() { "conn_close" } else { "conn_new" };
            let (word, reason) = reason.map_or(("", ""), |reason| (" reason=", reason));
            let rest = format_args!(" rip={host} rport={port} transport={transport}{word}{reason} cfd={descriptor}");
            self.tell(Topics::CONNEVENTS, kind, b"", rest);
        }
    }

    #[cold]
    fn tell(&self, topic: Topics, kind: &str, key: &[u8], rest: std::fmt::Arguments<'_>) {
        self.number.set(self.number.get() + 1);
        // The system's clock, whatever tests have done to the server's.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros, number) = (now.as_secs(), now.subsec_micros(), self.number.get());
        let mut line = format!("ts={seconds}.{micros} gid={number} type={kind}").into_bytes();
        if !key.is_empty() {
            line.extend_from_slice(b" key=");
            append_uri(&mut line, key);
        }
        writeln!(line, "{rest}").expect("writing to a Vec does not fail");
        for watcher in self.watchers.borrow_mut().iter_mut().filter(|watcher| watcher.topics.meets(topic)) {
            watcher.append(&line);
            self.has_lines.set(true);
        }
    }
}

impl EvictionListener for Watchers {
    fn is_listening(&self) -> bool {
        self.topics.get().meets(Topics::EVICTIONS)
    }

    fn evicted(&self, record: &Walked<'_>) {
        self.tell_of_evicted(record);
    }
}

impl Watcher {
    fn append(&mut self, line: &[u8]) {
        if self.lines.len() + line.len() > WATCHER_SIZE_MAX {
            self.skipped += 1;
            return;
        }
        if self.skipped > 0 {
            writeln!(self.lines, "skipped={}", self.skipped).expect("writing to a Vec does not fail");
            self.skipped = 0;
        }
        self.lines.extend_from_slice(line);
    }
}

/// What `watch` is answered with when it is refused.
pub(super) fn refusal(is_allowed: bool, is_idle: bool, topics: Option<Topics>) -> Result<Topics, AdminAnswer> {
    match topics {
        _ if !is_allowed => Err(AdminAnswer::WatchNotAllowed),
        _ if !is_idle => Err(AdminAnswer::WatchPipelined),
        None => Err(AdminAnswer::Error),
        Some(topics) => Ok(topics),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(watchers: &Watchers, name: u64) -> String {
        let mut taken = Vec::new();
        watchers.hand_out(|of, lines| {
            if of == name {
                taken.append(lines);
            }
        });
        String::from_utf8(taken).expect("lines are text")
    }

    #[test]
    fn each_is_told_what_it_asked_for() {
        let watchers = Watchers::default();
        watchers.fetched(b"nobody listens", None);
        assert!(watchers.add(1, Topics::FETCHERS) && watchers.add(2, Topics::FETCHERS.and(Topics::DELETIONS)));
        watchers.set_speaker(7);
        watchers.fetched(b"k y", Some(3));
        watchers.deleted(b"gone");
        watchers.stored(b"unheard", StoreVerb::Set, Outcome::Done(1), 0, 1);
        let line = "type=item_get key=k%20y status=found clsid=1 cfd=7 size=3\n";
        let first = taken(&watchers, 1);
        assert!(first.ends_with(line) && first.lines().count() == 1, "{first}");
        let second = taken(&watchers, 2);
        assert!(second.contains(line) && second.contains("type=deleted key=gone cmd=delete clsid=1"), "{second}");
        watchers.remove(2);
        watchers.deleted(b"unheard");
        assert_eq!(taken(&watchers, 1), "");
        watchers.remove(1);
        assert!(!watchers.is_any());
    }

    #[test]
    fn who_is_slow_loses_lines_and_is_told() {
        let watchers = Watchers::default();
        assert!(watchers.add(1, Topics::FETCHERS));
        let count = 2 * WATCHER_SIZE_MAX / 60;
        (0..count).for_each(|_| watchers.fetched(b"key", None));
        let lines = taken(&watchers, 1);
        assert!(lines.len() <= WATCHER_SIZE_MAX);
        watchers.fetched(b"key", None);
        let rest = taken(&watchers, 1);
        let skipped = rest.lines().next().and_then(|line| line.strip_prefix("skipped=")).expect("it is told first");
        assert_eq!(lines.lines().count() + skipped.parse::<usize>().expect("a number"), count);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let watchers = Watchers::default();
        assert!((0..WATCHER_COUNT_MAX as u64).all(|name| watchers.add(name, Topics::FETCHERS)));
        assert!(!watchers.add(99, Topics::FETCHERS));
    }
}
