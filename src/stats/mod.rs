//! What is counted. Counters belong to one shard's thread, so they are plain numbers.

mod prefix;

use std::cell::Cell;
use std::time::Duration;

use crate::clock::Seconds;

pub use prefix::PrefixStats;

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Device reads of records, and of footers of tables that are emptied.
    pub disk_reads: u64,
    /// Bytes of those reads.
    pub disk_read_bytes: u64,
    /// Device reads that failed.
    pub disk_read_errors: u64,
    /// Device writes: blocks, footers, headers.
    pub disk_writes: u64,
    /// Bytes of those writes.
    pub disk_write_bytes: u64,
    /// Device writes and syncs that failed.
    pub disk_write_errors: u64,
    /// Records that were read and are not what was written (memcached: badcrc_from_extstore).
    pub damaged_records: u64,
    /// Records found by a device read.
    pub records_read: u64,
    /// Records that were to be read and could not be (memcached: miss_from_extstore).
    pub records_unreadable: u64,
    /// Values stored.
    pub values_stored: u64,
    /// Bytes of keys and values stored.
    pub user_bytes_written: u64,
    /// Records appended, tombstones and the like included.
    pub records_written: u64,
    /// Records overwritten in memory before they reached the disk.
    pub records_overwritten_in_memory: u64,
    /// Live records lost because their table was needed.
    pub evictions: u64,
    /// Bytes of those, by size class.
    pub evicted_bytes: u64,
    /// Those of them that would have expired some day.
    pub evicted_expiring: u64,
    /// Seconds between the begin of the table that was evicted last and its end.
    pub evicted_age: u32,
    /// Tables evicted with live records in them.
    pub tables_evicted: u64,
    /// Tables taken back without a live record in them.
    pub tables_reclaimed: u64,
    /// Those of them that were not even looked into.
    pub tables_reclaimed_unread: u64,
    /// Records copied out of tables that are emptied, guards included.
    pub reclaim_records: u64,
    /// Bytes of those.
    pub reclaim_bytes: u64,
    /// The guards among them, which keep older versions dead.
    pub reclaim_guards: u64,
    /// Those of them that were replaced or deleted before their copy was on disk.
    pub reclaim_overtaken: u64,
    /// Device reads of records to be copied.
    pub reclaim_reads: u64,
    /// Bytes of those reads.
    pub reclaim_read_bytes: u64,
    /// Records that were to be copied and are damaged.
    pub reclaim_bad_records: u64,
    /// Tables begun.
    pub tables_begun: u64,
    /// Records that somebody asked for and that were expired.
    pub expired: u64,
    /// Expired records that nobody asked for, dropped to make room.
    pub expired_swept: u64,
    /// Walks through the index in search of expired records that were begun.
    pub crawls: u64,
    /// Records that they have looked at.
    pub crawl_records: u64,
    /// Expired records that they have dropped, but for those in [`Self::expired_swept`].
    pub expired_crawled: u64,
    /// Records that were asked for and answered from the cache.
    pub cache_hits: u64,
    /// Records that were asked for and had to be read from disk.
    pub cache_misses: u64,
    /// Records that came into the cache.
    pub cache_inserts: u64,
    /// Records that others have driven out of it.
    pub cache_evictions: u64,
    /// Writes refused because there was no room.
    pub refused_writes: u64,
    /// Pieces of checkpoints that were written.
    pub checkpoint_pieces: u64,
    /// Bytes of those.
    pub checkpoint_bytes: u64,
    /// How often a scrub has gone through all complete tables.
    pub scrub_passes: u64,
    /// Tables that it has gone through.
    pub scrub_tables: u64,
    /// Bytes that it has read.
    pub scrub_bytes: u64,
    /// Records that it has found damaged and that were misses from then on.
    pub scrub_bad_records: u64,
    /// Records that it has found damaged, at each pass again, and that nobody would have asked for.
    pub scrub_bad_dead_records: u64,
    /// Pages of footers, and trailers, that it has found damaged, at each pass again.
    pub scrub_bad_pages: u64,
    /// Its reads that failed.
    pub scrub_read_errors: u64,
    /// Groups of records made stable, each with one device write: `--durability sync` only.
    pub commits: u64,
    /// Writes in those groups; of a record that was overwritten in memory before its commit, each.
    pub commit_records: u64,
    /// Groups that could not be made stable: `--durability sync` only.
    pub commit_failures: u64,
    /// Deletions that the next start will not know of, as the device has refused them and they cannot be noted again.
    pub deletions_lost: u64,
    /// Time that the recovery took, in milliseconds.
    pub recovery_ms: u64,
    /// Records that the recovery met.
    pub recovered_records: u64,
}

/// How things stand in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreGauges {
    /// Records that the index points at.
    pub index_entries: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes of write blocks and summaries.
    pub memtable_bytes: u64,
    /// Bytes of read buffers.
    pub read_buffer_bytes: u64,
    /// Bytes of the buffer for what is read of tables that are emptied.
    pub reclaim_buffer_bytes: u64,
    /// Bytes of records that are not on disk yet.
    pub dirty_bytes: u64,
    /// Bytes of live records on disk and in memory, by size class.
    pub live_bytes: u64,
    /// Tables that exist.
    pub tables: u64,
    /// Tables that are free.
    pub tables_free: u64,
    /// How many of those no values go to.
    pub tables_reserved: u64,
    /// Tables that there may be.
    pub tables_max: u64,
    /// Size of a table in bytes.
    pub table_size: u64,
    /// Bytes of the memory budget.
    pub memory_limit_bytes: u64,
    /// Device reads in flight.
    pub reads_in_flight: u64,
    /// The second in which the oldest table with live records was begun, if there are any; the one in which the store was
    /// opened, if it is older than that.
    pub oldest_begun: Option<Seconds>,
    /// Deletions that a start at this moment would not know of, as the device has refused them.
    pub deletions_not_noted: u64,
    /// Cached records.
    pub cache_items: u64,
    /// Bytes of those, as they lie on disk.
    pub cache_bytes: u64,
    /// Bytes of memory that the cache has in use.
    pub cache_memory_bytes: u64,
    /// Bytes per second at which tables are emptied while gets are served.
    pub reclaim_rate: u64,
    /// What reads of gets should take at most while tables are emptied; `None` as long as too few were seen.
    pub reclaim_read_goal: Option<Duration>,
}

/// How things stand in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableGauges {
    /// Its slot.
    pub slot: u32,
    /// How many tables were begun before it, and with it, in the life of the store; 0: it has never been.
    pub sequence: u64,
    /// Bytes of its live records, by size class.
    pub live_bytes: u64,
    /// Bytes, by size class, that emptying it would make room for if nothing in it were live; 0 when it is free.
    pub room_bytes: u64,
}

impl TableGauges {
    /// The part of the table that is live, 0 to 1.
    #[must_use]
    pub fn live_ratio(&self) -> f64 {
        if self.room_bytes == 0 { 0.0 } else { (self.live_bytes as f64 / self.room_bytes as f64).min(1.0) }
    }
}

impl StoreGauges {
    /// Bytes of the memory budget that are in use: index, cache and buffers.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let buffers = self.memtable_bytes + self.read_buffer_bytes + self.reclaim_buffer_bytes;
        self.index_bytes + self.cache_memory_bytes + buffers
    }
}

impl StoreCounters {
    /// Bytes written to the device, checkpoints too, for each byte of keys and values; 0 when none was written.
    #[must_use]
    pub fn write_amplification(&self) -> f64 {
        let written = self.disk_write_bytes + self.checkpoint_bytes;
        if self.user_bytes_written == 0 { 0.0 } else { written as f64 / self.user_bytes_written as f64 }
    }
}

/// What clients have asked a shard for, by memcached's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the statistic of the same name in memcached's doc/protocol.txt")]
pub struct CommandCounters {
    pub cmd_get: u64,
    pub cmd_set: u64,
    pub cmd_flush: u64,
    pub cmd_touch: u64,
    pub cmd_meta: u64,
    pub get_hits: u64,
    pub get_misses: u64,
    pub get_flushed: u64,
    pub delete_misses: u64,
    pub delete_hits: u64,
    pub incr_misses: u64,
    pub incr_hits: u64,
    pub decr_misses: u64,
    pub decr_hits: u64,
    pub cas_misses: u64,
    pub cas_hits: u64,
    pub cas_badval: u64,
    pub touch_hits: u64,
    pub touch_misses: u64,
    pub store_too_large: u64,
    pub store_no_memory: u64,
    pub auth_cmds: u64,
    pub auth_errors: u64,
}

/// What has happened at the sockets of a server, by memcached's names.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is the statistic of the same name in memcached's doc/protocol.txt")]
pub struct ConnectionCounters {
    pub curr_connections: Cell<u64>,
    pub total_connections: Cell<u64>,
    pub rejected_connections: Cell<u64>,
    pub bytes_read: Cell<u64>,
    pub bytes_written: Cell<u64>,
    pub conn_yields: Cell<u64>,
    pub idle_kicks: Cell<u64>,
}

impl ConnectionCounters {
    /// `stats reset`: all but what is there at the moment begins at 0 again.
    pub fn reset(&self) {
        let Self { curr_connections: _, total_connections, rejected_connections, .. } = self;
        let Self { bytes_read, bytes_written, conn_yields, idle_kicks, .. } = self;
        for counter in [total_connections, rejected_connections, bytes_read, bytes_written, conn_yields, idle_kicks] {
            counter.set(0);
        }
    }
}

/// Adds to a counter that several tasks of the thread share.
pub fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}
