//! Looking for records that have expired and that nobody asks for.
//!
//! A get drops an expired record that it meets. The others would count as live until their table is emptied, and would be reasons
//! not to empty it, or to read it. So the crawler walks through the index, some hundreds of entries at once, and drops what has
//! expired; a table of nothing else is dead then, and taken back unread.
//!
//! The catalog knows before which second nothing can expire ([`Catalog::first_expiry`](crate::disktable::catalog::Catalog)):
//! as long as that has not come, and so in a store without expiries, the crawler does nothing. A start does not know it; the
//! first walk finds it out. A walk takes [`CRAWL_TIME`] at least, and a hundredth of the thread's time at most.
//!
//! Clients can ask for a walk that is begun at once and takes a tenth of the time. In a full store that may not evict, the
//! reclaimer walks itself, for half of the time: writers wait for what it finds.
//!
//! **Invariants:** several walks may be under way at once. A record that expires is found by each walk that begins later, unless
//! it has left the index by then.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::state::State;
use super::{Shared, Store};
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::index::Cursor;
use crate::io::Io;
use crate::limits::{CRAWL_LOOK_INTERVAL, CRAWL_PAUSE_MAX, CRAWL_PAUSE_MIN, CRAWL_RECORD_COUNT, CRAWL_TIME};

/// How fast a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Nobody waits.
    None,
    /// A client has asked for it, and wants so much time between two records.
    Asked(Duration),
    /// Writers wait for room.
    Urgent,
}

impl Haste {
    /// The share of the thread's time that the walk may take is one by this.
    const fn parts(self) -> u32 {
        match self {
            Self::None => 100,
            Self::Asked(_) => 10,
            Self::Urgent => 2,
        }
    }

    /// How long after its begin a walk may go on that is this far, has looked at `count` records, and has taken the thread for
    /// `worked`.
    fn due(self, fraction: f64, count: u64, worked: Duration) -> Duration {
        let by_work = worked * self.parts();
        match self {
            Self::None => by_work.max(CRAWL_TIME.mul_f64(fraction)),
            Self::Asked(pause) => by_work.max(pause.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))),
            Self::Urgent => by_work,
        }
    }
}

/// What others know of the crawler.
#[derive(Debug)]
pub(super) struct Crawler {
    is_enabled: Cell<bool>,
    /// Time between two records, in a walk that a client has asked for.
    pause: Cell<Duration>,
    /// Such a walk is under way; and another one has been asked for since.
    is_asked: Cell<bool>,
    is_asked_again: Cell<bool>,
}

impl Default for Crawler {
    fn default() -> Self {
        Self {
            is_enabled: Cell::new(true),
            pause: Cell::default(),
            is_asked: Cell::default(),
            is_asked_again: Cell::default(),
        }
    }
}

impl Crawler {
    /// Whether a walk that nobody has asked for is to end.
    fn is_off_for(&self, haste: Haste) -> bool {
        haste == Haste::None && !self.is_enabled.get()
    }
}

impl<I: Io> Store<I> {
    /// Starts the crawler.
    pub(super) fn start_crawler(&self) {
        let shared = Rc::clone(&self.shared);
        self.shared.io.spawn(async move { shared.crawl_when_due().await });
    }

    /// Turns the crawler on, as it is at first, or off: then expired records leave when they are met, and with their tables.
    pub fn enable_crawler(&self, is_enabled: bool) {
        self.shared.crawler.is_enabled.set(is_enabled);
    }

    /// Whether the crawler is on.
    #[must_use]
    pub fn is_crawler_enabled(&self) -> bool {
        self.shared.crawler.is_enabled.get()
    }

    /// Changes how long a walk that is asked for waits between two records, at first not at all.
    pub fn set_crawl_pause(&self, pause: Duration) {
        self.shared.crawler.pause.set(pause);
    }

    /// How long a walk that is asked for waits between two records.
    #[must_use]
    pub fn crawl_pause(&self) -> Duration {
        self.shared.crawler.pause.get()
    }

    /// Begins to look for expired records at once, and takes a tenth of the thread's time at most. When that is going on already,
    /// it is done once more.
    pub fn crawl(&self) {
        if self.shared.crawler.is_asked.replace(true) {
            return self.shared.crawler.is_asked_again.set(true);
        }
        let shared = Rc::clone(&self.shared);
        self.shared.io.spawn(async move {
            loop {
                shared.crawler.is_asked_again.set(false);
                shared.crawl(Haste::Asked(shared.crawler.pause.get())).await;
                if !shared.crawler.is_asked_again.get() {
                    break;
                }
            }
            shared.crawler.is_asked.set(false);
        });
    }
}

impl<I: Io> Shared<I> {
    async fn crawl_when_due(&self) {
        loop {
            self.io.sleep(CRAWL_LOOK_INTERVAL).await;
            let is_due = {
                let state = self.state.borrow();
                if state.closing {
                    return;
                }
                !state.index.is_empty() && state.catalog.first_expiry <= self.io.now()
            };
            if is_due && self.crawler.is_enabled.get() {
                self.crawl(Haste::None).await;
            }
        }
    }

    /// Walks through the index and drops what has expired, in steps. Returns the number of records that it has dropped.
    pub(super) async fn crawl(&self, haste: Haste) -> u64 {
        self.state.borrow_mut().begin_crawl();
        let (started, mut worked) = (self.io.monotonic(), Duration::ZERO);
        let (mut count, mut dropped, mut first_expiry) = (0, 0, Seconds::MAX);
        let (mut cursor, mut expired) = (Some(Cursor::START), Vec::new());
        while let Some(from) = cursor {
            let begun = self.io.monotonic();
            {
                let mut state = self.state.borrow_mut();
                if state.closing || self.crawler.is_off_for(haste) {
                    // What lies behind is not known.
                    first_expiry = 0;
                    break;
                }
                let now = self.io.now();
                let before = count;
                cursor = state.index.walk(from, |digest, entry| {
                    count += 1;
                    if is_expired(entry.expiry, now) {
                        expired.push(digest);
                    } else if entry.expiry != 0 {
                        first_expiry = first_expiry.min(entry.expiry);
                    }
                });
                state.counters.crawl_records += count - before;
            }
            worked += self.io.monotonic().saturating_sub(begun);
            for part in expired.chunks(CRAWL_RECORD_COUNT) {
                let begun = self.io.monotonic();
                dropped += self.state.borrow_mut().drop_expired(part, self.io.now(), haste);
                worked += self.io.monotonic().saturating_sub(begun);
                self.io.yield_now().await;
            }
            expired.clear();
            let fraction = cursor.map_or(1.0, Cursor::fraction);
            let due = started + haste.due(fraction, count, worked);
            self.pause_crawl(due.saturating_sub(self.io.monotonic()), haste).await;
        }
        self.state.borrow_mut().end_crawl(first_expiry);
        dropped
    }

    async fn pause_crawl(&self, wait: Duration, haste: Haste) {
        if wait < CRAWL_PAUSE_MIN {
            // Short pauses are made together.
            return self.io.yield_now().await;
        }
        let until = self.io.monotonic() + wait;
        // In parts, so that a walk with long pauses ends when the store is closed, or the crawler turned off.
        while !self.state.borrow().closing && !self.crawler.is_off_for(haste) {
            let left = until.saturating_sub(self.io.monotonic());
            if left.is_zero() {
                return;
            }
            self.io.sleep(left.min(CRAWL_PAUSE_MAX)).await;
        }
    }
}

impl<F> State<F> {
    fn begin_crawl(&mut self) {
        self.counters.crawls += 1;
        if self.crawl_count == 0 {
            // From now on, what comes is noted, and what is there is met.
            self.catalog.first_expiry = Seconds::MAX;
        }
        self.crawl_count += 1;
    }

    fn end_crawl(&mut self, first_expiry: Seconds) {
        self.crawl_count -= 1;
        self.catalog.first_expiry = self.catalog.first_expiry.min(first_expiry);
    }

    /// Whether there may be records in the index that have expired.
    pub(super) fn may_have_expired(&self, now: Seconds) -> bool {
        !self.index.is_empty() && (self.crawl_count > 0 || self.catalog.first_expiry <= now)
    }

    /// Drops those of these records that have expired, still, and returns their number. They stay on disk and keep older
    /// versions of their keys dead.
    fn drop_expired(&mut self, digests: &[Digest], now: Seconds, haste: Haste) -> u64 {
        let mut dropped = 0;
        for digest in digests {
            if self.index.get(digest).is_some_and(|entry| is_expired(entry.expiry, now))
                && let Some(entry) = self.remove(digest)
            {
                self.catalog.note_dropped(entry.pointer.slot);
                dropped += 1;
            }
        }
        match haste {
            Haste::Urgent => self.counters.expired_swept += dropped,
            Haste::None | Haste::Asked(_) => self.counters.expired_crawled += dropped,
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_walk_takes_its_time() {
        let none = Duration::ZERO;
        assert_eq!(Haste::None.due(0.5, 1000, none), CRAWL_TIME / 2);
        assert_eq!(Haste::None.due(1.0, 1000, SECOND), 100 * SECOND, "a hundredth of the thread");
        assert_eq!(Haste::Asked(none).due(1.0, 1000, SECOND), 10 * SECOND);
        assert_eq!(Haste::Asked(SECOND).due(0.1, 1000, SECOND), 1000 * SECOND);
        assert_eq!(Haste::Asked(SECOND).due(0.1, u64::MAX, SECOND), SECOND * u32::MAX);
        assert_eq!(Haste::Urgent.due(1.0, 1000, SECOND), 2 * SECOND);
    }
}
