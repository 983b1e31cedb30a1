//! `stats`: memcached's names in memcached's order, then extstore's, then our own.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::Shard;
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::text::encode::{Answer, encode_answer, encode_stat};

impl<I: Io> Shard<I> {
    /// Answers `stats` and its sub-commands. Exporters wait for `END`, so every known one ends with it.
    pub(super) fn report(&self, argument: &[u8], out: &mut Vec<u8>) {
        match argument {
            b"" => {
                self.report_process(out);
                self.report_commands(out);
                self.report_items(out);
                self.report_tables(out);
                self.report_own(out);
            }
            b"settings" => self.report_settings(out),
            // There are no slab classes to speak of.
            b"items" | b"conns" => {}
            b"slabs" => {
                encode_stat(out, "active_slabs", 0);
                encode_stat(out, "total_malloced", 0);
            }
            b"sizes" => encode_stat(out, "sizes_status", "disabled"),
            _ => return encode_answer(out, Answer::Error),
        }
        encode_answer(out, Answer::End);
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
        let counters = *self.counters.borrow();
        for (name, value) in [
            ("cmd_get", counters.cmd_get),
            ("cmd_set", counters.cmd_set),
            ("cmd_flush", counters.cmd_flush),
            ("cmd_touch", counters.cmd_touch),
            ("cmd_meta", counters.cmd_meta),
            ("get_hits", counters.get_hits),
            ("get_misses", counters.get_misses),
            ("get_expired", self.store.counters().expired),
            ("get_flushed", 0),
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
            ("auth_cmds", 0),
            ("auth_errors", 0),
            ("idle_kicks", self.connections.idle_kicks.get()),
            ("bytes_read", self.connections.bytes_read.get()),
            ("bytes_written", self.connections.bytes_written.get()),
            ("limit_maxbytes", self.facts.memory as u64),
            ("accepting_conns", 1),
            ("listen_disabled_num", 0),
            ("time_in_listen_disabled_us", 0),
            ("threads", 1),
            ("conn_yields", self.connections.conn_yields.get()),
        ] {
            encode_stat(out, name, value);
        }
    }

    fn report_items(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        for (name, value) in [
            ("hash_bytes", gauges.index_bytes),
            ("bytes", gauges.live_bytes),
            ("curr_items", gauges.index_entries),
            ("total_items", counters.values_stored),
            ("evictions", counters.evictions),
            ("reclaimed", counters.expired),
        ] {
            encode_stat(out, name, value);
        }
    }

    /// Disktables under the names of extstore's pages, so that dashboards made for it work.
    fn report_tables(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        let used = gauges.tables - gauges.tables_free;
        for (name, value) in [
            ("get_extstore", counters.records_read),
            ("miss_from_extstore", counters.records_unreadable),
            ("badcrc_from_extstore", counters.damaged_records),
            ("extstore_compact_lost", 0),
            ("extstore_compact_rescues", 0),
            ("extstore_compact_skipped", 0),
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
        ] {
            encode_stat(out, name, value);
        }
    }

    fn report_own(&self, out: &mut Vec<u8>) {
        let (counters, gauges) = (self.store.counters(), self.store.gauges());
        for (name, value) in [
            ("disk_reads", counters.disk_reads),
            ("disk_read_bytes", counters.disk_read_bytes),
            ("disk_writes", counters.disk_writes),
            ("disk_write_bytes", counters.disk_write_bytes),
            ("disk_read_errors", counters.disk_read_errors),
            ("disk_write_errors", counters.disk_write_errors),
            ("index_entries", gauges.index_entries),
            ("index_bytes", gauges.index_bytes),
            ("memtable_bytes", gauges.dirty_bytes),
            ("write_buffer_bytes", gauges.memtable_bytes),
            ("recovery_ms", counters.recovery_ms),
            ("recovery_records", counters.recovered_records),
            ("shards", 1),
        ] {
            encode_stat(out, name, value);
        }
        let amplification = counters.disk_write_bytes as f64 / counters.user_bytes_written.max(1) as f64;
        encode_stat(out, "write_amplification", format_args!("{amplification:.3}"));
    }

    fn report_settings(&self, out: &mut Vec<u8>) {
        let facts = &self.facts;
        encode_stat(out, "maxbytes", facts.memory);
        encode_stat(out, "maxconns", facts.connection_count_max);
        encode_stat(out, "tcpport", facts.port);
        encode_stat(out, "udpport", 0);
        encode_stat(out, "verbosity", facts.verbosity);
        encode_stat(out, "evictions", if facts.evict { "on" } else { "off" });
        encode_stat(out, "num_threads", 1);
        encode_stat(out, "cas_enabled", "yes");
        encode_stat(out, "item_size_max", facts.item_size_max);
        encode_stat(out, "flush_enabled", "yes");
        encode_stat(out, "lru_crawler", "no");
        encode_stat(out, "maxconns_fast", "yes");
    }
}

/// `seconds.microseconds` with six digits, as the exporter demands.
fn seconds(time: TimeVal) -> String {
    format!("{}.{:06}", time.tv_sec(), time.tv_usec())
}
