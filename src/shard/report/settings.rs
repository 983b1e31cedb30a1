//! `stats settings`: memcached's names in memcached's order, those that mean something here.

use super::{Shard, yes_or_no};
use crate::io::Io;
use crate::protocol::text::encode::encode_stat;

/// What memcached prints for an option that was not given.
const NOTHING: &str = "NULL";

impl<I: Io> Shard<I> {
    pub(super) fn report_settings(&self, out: &mut Vec<u8>) {
        let facts = &self.facts;
        encode_stat(out, "maxbytes", self.store.gauges().memory_limit_bytes);
        encode_stat(out, "maxconns", facts.connection_count_max);
        encode_stat(out, "tcpport", facts.port);
        encode_stat(out, "udpport", 0);
        encode_stat(out, "inter", facts.inter.as_deref().filter(|listen| !listen.is_empty()).unwrap_or(NOTHING));
        encode_stat(out, "verbosity", facts.verbosity);
        encode_stat(out, "evictions", if facts.evict { "on" } else { "off" });
        match &facts.unix_socket {
            Some(path) => encode_stat(out, "domain_socket", path.display()),
            None => encode_stat(out, "domain_socket", NOTHING),
        }
        encode_stat(out, "umask", format_args!("{:o}", facts.unix_permissions));
        encode_stat(out, "shutdown_command", yes_or_no(facts.shutdown_enabled));
        encode_stat(out, "num_threads", facts.threads);
        let prefixes = self.prefixes.borrow();
        encode_stat(out, "stat_key_prefix", char::from(prefixes.delimiter()));
        encode_stat(out, "detail_enabled", yes_or_no(prefixes.is_enabled()));
        encode_stat(out, "reqs_per_event", facts.requests_per_turn);
        encode_stat(out, "cas_enabled", yes_or_no(facts.cas_enabled));
        encode_stat(out, "tcp_backlog", facts.backlog);
        encode_stat(out, "binding_protocol", facts.binding.name());
        encode_stat(out, "auth_enabled_sasl", yes_or_no(false));
        encode_stat(out, "auth_enabled_ascii", yes_or_no(facts.auth_enabled));
        encode_stat(out, "item_size_max", facts.item_size_max);
        // Connections beyond -c are answered and closed, always.
        encode_stat(out, "maxconns_fast", yes_or_no(true));
        encode_stat(out, "slab_reassign", yes_or_no(false));
        encode_stat(out, "slab_automove", 0);
        encode_stat(out, "lru_crawler", yes_or_no(self.store.is_crawler_enabled()));
        encode_stat(out, "lru_crawler_sleep", self.store.crawl_pause().as_micros());
        encode_stat(out, "flush_enabled", yes_or_no(facts.flush_enabled));
        encode_stat(out, "dump_enabled", yes_or_no(facts.dump_enabled));
        encode_stat(out, "hash_algorithm", "sha1");
        encode_stat(out, "lru_maintainer_thread", yes_or_no(false));
        encode_stat(out, "lru_segmented", yes_or_no(false));
        encode_stat(out, "idle_timeout", facts.idle_timeout);
        // `stats sizes` always knows, without -o track_sizes too.
        encode_stat(out, "track_sizes", yes_or_no(true));
        // All values go to disk, whatever their size, and none is dropped for not having been read.
        encode_stat(out, "ext_item_size", 0);
        // The second read counts, not every so manieth; 0 is off there as well.
        encode_stat(out, "ext_recache_rate", u8::from(self.store.is_cache_enabled()));
        encode_stat(out, "ext_wbuf_size", self.store.memory_plan().block_size);
        encode_stat(out, "ext_drop_unread", yes_or_no(false));
        encode_stat(out, "ssl_enabled", yes_or_no(false));
        match self.store.scrub_interval() {
            Some(interval) => encode_stat(out, "scrub_interval", interval.as_secs()),
            None => encode_stat(out, "scrub_interval", "off"),
        }
        encode_stat(out, "durability", self.store.durability().name());
        encode_stat(out, "flush_interval_ms", self.store.flush_interval().as_millis());
        encode_stat(out, "sync_method", self.store.sync_method().name());
    }
}
