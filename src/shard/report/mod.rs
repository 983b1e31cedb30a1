//! `stats` and its sub-commands. Exporters read until `END`, so every one of them ends with it but those that memcached
//! answers with a single line.

mod classes;
mod general;
mod settings;

use super::{After, Shard};
use crate::io::Io;
use crate::protocol::text::encode::{Answer, encode_answer, encode_stat};
use crate::stats::{CommandCounters, StoreCounters};

impl<I: Io> Shard<I> {
    /// Answers `stats` and its sub-commands but `stats conns`, whose answer is the server's.
    pub(super) fn report(&self, argument: &[u8], out: &mut Vec<u8>) -> After {
        // What follows the words that are known is ignored, as memcached does.
        let mut words = argument.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        match words.next().unwrap_or_default() {
            b"" => self.report_general(out),
            b"settings" => self.report_settings(out),
            b"items" => self.report_items(out),
            b"slabs" => self.report_slabs(out),
            b"sizes" => self.report_sizes(out),
            b"extstore" => self.report_tables(out),
            b"conns" => return After::ListConnections,
            b"detail" => {
                self.report_detail(words.next().unwrap_or_default(), out);
                return After::Continue;
            }
            b"reset" => {
                self.reset_counters();
                encode_answer(out, Answer::Reset);
                return After::Continue;
            }
            // Sizes are always counted. memcached answers these with one line and no END.
            b"sizes_enable" | b"sizes_disable" => {
                encode_stat(out, "sizes_status", "enabled");
                return After::Continue;
            }
            _ => {
                encode_answer(out, Answer::Error);
                return After::Continue;
            }
        }
        encode_answer(out, Answer::End);
        After::Continue
    }

    fn report_detail(&self, switch: &[u8], out: &mut Vec<u8>) {
        let mut prefixes = self.prefixes.borrow_mut();
        match switch {
            b"on" => prefixes.enable(true),
            b"off" => prefixes.enable(false),
            b"dump" => return prefixes.dump(out),
            _ => return encode_answer(out, Answer::DetailUsage),
        }
        encode_answer(out, Answer::Ok);
    }

    /// What memcached's `stats reset` sets to 0 begins at 0 again: counters of commands, items and connections. What the
    /// disk has done goes on, as extstore's counters do, and as what stands at the moment does.
    fn reset_counters(&self) {
        *self.counters.borrow_mut() = CommandCounters::default();
        self.connections.reset();
        self.prefixes.borrow_mut().reset();
        self.counted_before.set(self.store.counters());
    }

    /// The store's counters, but those that `stats reset` sets to 0 as they have grown since then.
    fn counters_since_reset(&self) -> StoreCounters {
        let (now, before) = (self.store.counters(), self.counted_before.get());
        StoreCounters {
            records_read: now.records_read - before.records_read,
            records_unreadable: now.records_unreadable - before.records_unreadable,
            damaged_records: now.damaged_records - before.damaged_records,
            values_stored: now.values_stored - before.values_stored,
            evictions: now.evictions - before.evictions,
            evicted_expiring: now.evicted_expiring - before.evicted_expiring,
            evicted_age: if now.evictions == before.evictions { 0 } else { now.evicted_age },
            expired: now.expired - before.expired,
            expired_swept: now.expired_swept - before.expired_swept,
            expired_crawled: now.expired_crawled - before.expired_crawled,
            crawls: now.crawls - before.crawls,
            crawl_records: now.crawl_records - before.crawl_records,
            ..now
        }
    }
}

/// Appends a line for each number.
fn encode_stats(out: &mut Vec<u8>, stats: &[(&str, u64)]) {
    for (name, value) in stats {
        encode_stat(out, name, value);
    }
}

/// What memcached prints for a setting that is on or off.
fn yes_or_no(is_on: bool) -> &'static str {
    if is_on { "yes" } else { "no" }
}
