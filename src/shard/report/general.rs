//! `stats`: memcached's names in memcached's order, extstore's among them, then our own.
//!
//! What memcached counts and this server does not have is left out (libevent, its buffers, hash table and slab pages).
//! Some of it is 0 instead, because exporters and dashboards read it, and because that is what it is: nothing moves
//! between LRU lists.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::{Shard, encode_stats};
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::text::encode::encode_stat;

impl<I: Io> Shard<I> {
    pub(super) fn report_general(&self, out: &mut Vec<u8>) {
        self.report_process(out);
        self.report_commands(out);
        self.report_connections(out);
        self.report_disk(out);
        self.report_store(out);
        self.report_own(out);
    }

    fn report_process(&self, out: &mut Vec<u8>) {
        let now = self.store.now();
        encode_stat(out, "pid", std::process::id());
        encode_stat(out, "uptime", now.saturating_sub(self.facts.started));
        encode_stat(out, "time", now);
        encode_stat(out, "version", MEMCACHED_VERSION);
        encode_stat(out, "pointer_size", usize::BITS);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            encode_stat(out, "rusage_user", seconds(usage.user_time()));
            encode_stat(out, "rusage_system", seconds(usage.system_time()));
        }
        let connections = &self.connections;
        encode_stat(out, "max_connections", self.facts.connection_count_max);
        encode_stat(out, "curr_connections", connections.curr_connections.get());
        encode_stat(out, "total_connections", connections.total_connections.get());
        encode_stat(out, "rejected_connections", connections.rejected_connections.get());
        encode_stat(out, "connection_structures", connections.curr_connections.get());
    }

    fn report_commands(&self, out: &mut Vec<u8>) {
        let (counters, store) = (*self.counters.borrow(), self.counters_since_reset());
        let stats = [
            ("cmd_get", counters.cmd_get),
            ("cmd_set", counters.cmd_set),
            ("cmd_flush", counters.cmd_flush),
            ("cmd_touch", counters.cmd_touch),
            ("cmd_meta", counters.cmd_meta),
            ("get_hits", counters.get_hits),
            ("get_misses", counters.get_misses),
            ("get_expired", store.expired),
            ("get_flushed", counters.get_flushed),
            ("get_extstore", store.records_read),
            // A get waits for a buffer instead of failing, and its record stays where it is.
            ("get_oom_extstore", 0),
            ("recache_from_extstore", store.cache_inserts),
            ("miss_from_extstore", store.records_unreadable),
            ("badcrc_from_extstore", store.damaged_records),
            ("delete_misses", counters.delete_misses),
            ("delete_hits", counters.delete_hits),
            ("incr_misses", counters.incr_misses),
            ("incr_hits", counters.incr_hits),
            ("decr_misses", counters.decr_misses),
            ("decr_hits", counters.decr_hits),
            ("cas_misses", counters.cas_misses),
            ("cas_hits", counters.cas_hits),
            ("cas_badval", counters.cas_badval),
            ("touch_hits", counters.touch_hits),
            ("touch_misses", counters.touch_misses),
            ("store_too_large", counters.store_too_large),
            ("store_no_memory", counters.store_no_memory),
            ("auth_cmds", counters.auth_cmds),
            ("auth_errors", counters.auth_errors),
        ];
        encode_stats(out, &stats);
    }

    fn report_connections(&self, out: &mut Vec<u8>) {
        let connections = &self.connections;
        let stats = [
            ("idle_kicks", connections.idle_kicks.get()),
            ("bytes_read", connections.bytes_read.get()),
            ("bytes_written", connections.bytes_written.get()),
            ("limit_maxbytes", self.store.gauges().memory_limit_bytes),
            ("accepting_conns", 1),
            // Beyond -c, connections are refused; listening goes on.
            ("listen_disabled_num", 0),
            ("time_in_listen_disabled_us", 0),
            ("threads", self.facts.threads as u64),
            ("conn_yields", connections.conn_yields.get()),
            ("hash_bytes", self.store.gauges().index_bytes),
            ("lru_crawler_starts", self.counters_since_reset().crawls),
        ];
        encode_stats(out, &stats);
    }

    /// Disktables under the names of extstore's pages, so that dashboards made for it work.
    fn report_disk(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        let used = gauges.tables - gauges.tables_free;
        let stats = [
            // Nobody can get them any more; what they kept dead stays so, and so does their table.
            ("extstore_compact_lost", counters.reclaim_bad_records),
            ("extstore_compact_rescues", counters.reclaim_records),
            ("extstore_compact_resc_cold", 0),
            ("extstore_compact_resc_old", 0),
            // Nothing is lost: there is a newer version, or none is wanted.
            ("extstore_compact_skipped", counters.reclaim_overtaken),
            ("extstore_page_allocs", counters.tables_begun),
            ("extstore_page_evictions", counters.tables_evicted),
            ("extstore_page_reclaims", counters.tables_reclaimed),
            ("extstore_pages_free", gauges.tables_max - used),
            ("extstore_pages_used", used),
            ("extstore_objects_evicted", counters.evictions),
            ("extstore_objects_read", counters.records_read),
            ("extstore_objects_written", counters.records_written),
            ("extstore_objects_used", gauges.index_entries),
            ("extstore_bytes_evicted", counters.evicted_bytes),
            ("extstore_bytes_written", counters.disk_write_bytes),
            ("extstore_bytes_read", counters.disk_read_bytes),
            ("extstore_bytes_used", gauges.live_bytes),
            ("extstore_bytes_fragmented", (used * gauges.table_size).saturating_sub(gauges.live_bytes)),
            ("extstore_limit_maxbytes", gauges.tables_max * gauges.table_size),
            ("extstore_io_queue", gauges.reads_in_flight),
        ];
        encode_stats(out, &stats);
    }

    fn report_store(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.counters_since_reset(), self.store.gauges());
        let stats = [
            ("bytes", gauges.live_bytes),
            ("curr_items", gauges.index_entries),
            ("total_items", counters.values_stored),
            ("evictions", counters.evictions),
            ("reclaimed", counters.expired_swept),
            ("crawler_reclaimed", counters.expired_crawled),
            ("crawler_items_checked", counters.crawl_records),
            ("lrutail_reflocked", 0),
            ("moves_to_cold", 0),
            ("moves_to_warm", 0),
            ("moves_within_lru", 0),
            ("direct_reclaims", 0),
            ("lru_bumps_dropped", 0),
        ];
        encode_stats(out, &stats);
    }

    fn report_own(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        let stats = [
            ("disk_reads", counters.disk_reads),
            ("disk_read_bytes", counters.disk_read_bytes),
            ("disk_writes", counters.disk_writes),
            ("disk_write_bytes", counters.disk_write_bytes),
            ("disk_read_errors", counters.disk_read_errors),
            ("disk_write_errors", counters.disk_write_errors),
            ("commits", counters.commits),
            ("commit_records", counters.commit_records),
            ("commit_failures", counters.commit_failures),
            ("deletions_not_noted", gauges.deletions_not_noted),
            ("index_entries", gauges.index_entries),
            ("index_bytes", gauges.index_bytes),
            ("memtable_bytes", gauges.dirty_bytes),
            ("write_buffer_bytes", gauges.memtable_bytes),
            ("read_buffer_bytes", gauges.read_buffer_bytes),
            ("reclaim_buffer_bytes", gauges.reclaim_buffer_bytes),
            ("memory_bytes", gauges.memory_bytes()),
            ("cache_items", gauges.cache_items),
            ("cache_bytes", gauges.cache_bytes),
            ("cache_memory_bytes", gauges.cache_memory_bytes),
            ("cache_hits", counters.cache_hits),
            ("cache_misses", counters.cache_misses),
            ("cache_inserts", counters.cache_inserts),
            ("cache_evictions", counters.cache_evictions),
            ("scrub_passes", counters.scrub_passes),
            ("scrub_tables", counters.scrub_tables),
            ("scrub_bytes", counters.scrub_bytes),
            ("scrub_bad_records", counters.scrub_bad_records),
            ("scrub_bad_dead_records", counters.scrub_bad_dead_records),
            ("scrub_bad_pages", counters.scrub_bad_pages),
            ("scrub_read_errors", counters.scrub_read_errors),
        ];
        encode_stats(out, &stats);
        self.report_reclaim(out);
        let asked = (counters.cache_hits + counters.cache_misses).max(1);
        encode_stat(out, "cache_hit_ratio", format_args!("{:.3}", counters.cache_hits as f64 / asked as f64));
        encode_stat(out, "write_amplification", format_args!("{:.2}", counters.write_amplification()));
        let stats = [
            ("checkpoint_pieces", counters.checkpoint_pieces),
            ("checkpoint_bytes", counters.checkpoint_bytes),
            ("recovery_ms", counters.recovery_ms),
            ("recovery_records", counters.recovered_records),
            ("shards", 1),
        ];
        encode_stats(out, &stats);
    }

    fn report_reclaim(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        let goal = gauges.reclaim_read_goal.map_or(0, |goal| goal.as_micros());
        let stats = [
            ("reclaim_records", counters.reclaim_records),
            ("reclaim_bytes", counters.reclaim_bytes),
            ("reclaim_reads", counters.reclaim_reads),
            ("reclaim_read_bytes", counters.reclaim_read_bytes),
            ("reclaim_overtaken", counters.reclaim_overtaken),
            ("reclaim_bad_records", counters.reclaim_bad_records),
            ("reclaim_tables", counters.tables_reclaimed + counters.tables_evicted),
            ("reclaim_tables_unread", counters.tables_reclaimed_unread),
            ("reclaim_rate", gauges.reclaim_rate),
            // 0: not known yet.
            ("reclaim_read_goal_us", u64::try_from(goal).unwrap_or(u64::MAX)),
            ("tables_free", gauges.tables_free),
            ("tables_reserved", gauges.tables_reserved),
        ];
        encode_stats(out, &stats);
    }
}

/// `seconds.microseconds` with six digits, as the exporter demands.
fn seconds(time: TimeVal) -> String {
    format!("{}.{:06}", time.tv_sec(), time.tv_usec())
}
