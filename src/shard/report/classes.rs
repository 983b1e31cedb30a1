//! `stats items`, `stats slabs`, `stats sizes`, `stats extstore`: where the records are.
//!
//! There are no slab classes here, and no LRU lists. Whoever reads these statistics finds one class, number 1, when there
//! is a record: its pages are the tables, its chunks the units of [`RECORD_GRANULE`] bytes in which records are laid out,
//! so that chunks times their size are bytes, and all its items are in the cold list, where extstore has those on disk.

use super::{Shard, encode_stats};
use crate::io::Io;
use crate::limits::RECORD_GRANULE;
use crate::protocol::text::encode::encode_stat;

/// What the sizes of items are rounded up to in `stats sizes`, in bytes.
const SIZE_STEP: usize = 32;

impl<I: Io> Shard<I> {
    pub(super) fn report_items(&self, out: &mut Vec<u8>) {
        let gauges = self.store.gauges();
        if gauges.index_entries == 0 {
            return;
        }
        let (commands, counters) = (*self.counters.borrow(), self.counters_since_reset());
        let age = gauges.oldest_begun.map_or(0, |begun| self.store.now().saturating_sub(begun));
        let stats = [
            ("items:1:number", gauges.index_entries),
            ("items:1:number_hot", 0),
            ("items:1:number_warm", 0),
            ("items:1:number_cold", gauges.index_entries),
            ("items:1:age_hot", 0),
            ("items:1:age_warm", 0),
            ("items:1:age", u64::from(age)),
            ("items:1:mem_requested", gauges.live_bytes),
            ("items:1:evicted", counters.evictions),
            ("items:1:evicted_nonzero", counters.evicted_expiring),
            ("items:1:evicted_time", u64::from(counters.evicted_age)),
            ("items:1:outofmemory", commands.store_no_memory),
            ("items:1:tailrepairs", 0),
            ("items:1:reclaimed", counters.expired_swept),
            ("items:1:crawler_reclaimed", counters.expired_crawled),
            ("items:1:crawler_items_checked", counters.crawl_records),
            ("items:1:lrutail_reflocked", 0),
            ("items:1:moves_to_cold", 0),
            ("items:1:moves_to_warm", 0),
            ("items:1:moves_within_lru", 0),
            ("items:1:direct_reclaims", 0),
            ("items:1:hits_to_hot", 0),
            ("items:1:hits_to_warm", 0),
            ("items:1:hits_to_cold", commands.get_hits),
            ("items:1:hits_to_temp", 0),
        ];
        encode_stats(out, &stats);
    }

    pub(super) fn report_slabs(&self, out: &mut Vec<u8>) {
        let (commands, gauges) = (*self.counters.borrow(), self.store.gauges());
        if gauges.index_entries == 0 {
            return encode_stats(out, &[("active_slabs", 0), ("total_malloced", 0)]);
        }
        let pages = gauges.tables - gauges.tables_free;
        let granule = RECORD_GRANULE as u64;
        let chunks = pages * gauges.table_size / granule;
        // Live bytes are known by size class, which may be more than there is.
        let used = (gauges.live_bytes / granule).min(chunks);
        let stats = [
            ("1:chunk_size", granule),
            ("1:chunks_per_page", gauges.table_size / granule),
            ("1:total_pages", pages),
            ("1:total_chunks", chunks),
            ("1:used_chunks", used),
            ("1:free_chunks", chunks - used),
            ("1:free_chunks_end", 0),
            ("1:mem_requested", gauges.live_bytes),
            ("1:get_hits", commands.get_hits),
            ("1:cmd_set", commands.cmd_set),
            ("1:delete_hits", commands.delete_hits),
            ("1:incr_hits", commands.incr_hits),
            ("1:decr_hits", commands.decr_hits),
            ("1:cas_hits", commands.cas_hits),
            ("1:cas_badval", commands.cas_badval),
            ("1:touch_hits", commands.touch_hits),
            ("active_slabs", 1),
            ("total_malloced", pages * gauges.table_size),
        ];
        encode_stats(out, &stats);
    }

    /// A line for each size that occurs. Sizes are those of records as they lie on disk, with everything that belongs to
    /// them, up to an eighth more than they are: the index knows their class.
    pub(super) fn report_sizes(&self, out: &mut Vec<u8>) {
        let mut counts: Vec<(usize, u64)> = Vec::new();
        for (size, count) in self.store.sizes() {
            let rounded = size.next_multiple_of(SIZE_STEP);
            match counts.last_mut() {
                Some((last, sum)) if *last == rounded => *sum += count,
                _ => counts.push((rounded, count)),
            }
        }
        for (size, count) in counts {
            encode_stat(out, &size.to_string(), count);
        }
    }

    /// Four lines for each table, as extstore has them for its pages, and the part of it that is live. There is one bucket.
    pub(super) fn report_tables(&self, out: &mut Vec<u8>) {
        for table in self.store.tables() {
            let slot = table.slot;
            encode_stat(out, &format!("{slot}:version"), table.sequence);
            encode_stat(out, &format!("{slot}:bytes"), table.live_bytes);
            encode_stat(out, &format!("{slot}:bucket"), 0);
            encode_stat(out, &format!("{slot}:free_bucket"), 0);
            encode_stat(out, &format!("{slot}:live_ratio"), format_args!("{:.2}", table.live_ratio()));
        }
    }
}
