//! What is counted. Counters belong to one shard's thread, so they are plain numbers.

mod prefix;

use std::cell::Cell;

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
    /// Tables begun.
    pub tables_begun: u64,
    /// Records that somebody asked for and that were expired.
    pub expired: u64,
    /// Expired records that nobody asked for, dropped to make room.
    pub expired_swept: u64,
    /// Writes refused because there was no room.
    pub refused_writes: u64,
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
    /// Bytes of records that are not on disk yet.
    pub dirty_bytes: u64,
    /// Bytes of live records on disk and in memory, by size class.
    pub live_bytes: u64,
    /// Tables that exist.
    pub tables: u64,
    /// Tables that are free.
    pub tables_free: u64,
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
    pub lru_crawler_starts: u64,
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
