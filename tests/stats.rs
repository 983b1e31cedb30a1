//! `stats` and its sub-commands: names and their order, numbers that have to fit each other, what is there when nothing is.

use crate::support::{Client, Reference, Server, Store, scratch_directory, skip, value_of};
use std::collections::BTreeMap;
use std::path::Path;

/// Names of `stats`, in order. Exporters and dashboards know them: what is added here is added to the README, too.
const GENERAL: &str = "pid uptime time version pointer_size rusage_user rusage_system max_connections curr_connections \
    total_connections rejected_connections connection_structures cmd_get cmd_set cmd_flush cmd_touch cmd_meta get_hits \
    get_misses get_expired get_flushed get_extstore get_oom_extstore recache_from_extstore miss_from_extstore \
    badcrc_from_extstore delete_misses delete_hits incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits cas_badval \
    touch_hits touch_misses store_too_large store_no_memory auth_cmds auth_errors idle_kicks bytes_read bytes_written \
    limit_maxbytes accepting_conns listen_disabled_num time_in_listen_disabled_us threads conn_yields hash_bytes \
    lru_crawler_starts extstore_compact_lost extstore_compact_rescues extstore_compact_resc_cold extstore_compact_resc_old \
    extstore_compact_skipped extstore_page_allocs extstore_page_evictions extstore_page_reclaims extstore_pages_free \
    extstore_pages_used extstore_objects_evicted extstore_objects_read extstore_objects_written extstore_objects_used \
    extstore_bytes_evicted extstore_bytes_written extstore_bytes_read extstore_bytes_used extstore_bytes_fragmented \
    extstore_limit_maxbytes extstore_io_queue bytes curr_items total_items evictions reclaimed crawler_reclaimed \
    crawler_items_checked lrutail_reflocked moves_to_cold moves_to_warm moves_within_lru direct_reclaims lru_bumps_dropped \
    disk_reads disk_read_bytes disk_writes disk_write_bytes disk_read_errors disk_write_errors commits \
    commit_records commit_failures deletions_not_noted index_entries index_bytes \
    memtable_bytes write_buffer_bytes read_buffer_bytes reclaim_buffer_bytes memory_bytes cache_items cache_bytes \
    cache_memory_bytes cache_hits cache_misses cache_inserts cache_evictions \
    scrub_passes scrub_tables scrub_bytes scrub_bad_records scrub_bad_dead_records scrub_bad_pages \
    scrub_read_errors reclaim_records reclaim_bytes reclaim_reads reclaim_read_bytes reclaim_overtaken reclaim_bad_records \
    reclaim_tables reclaim_tables_unread reclaim_rate reclaim_read_goal_us tables_free tables_reserved cache_hit_ratio \
    write_amplification checkpoint_pieces checkpoint_bytes recovery_ms recovery_records shards";

/// What memcached says in `stats` and this server does not, as it has no such thing: libevent; pools of answers and read
/// buffers; descriptors kept back; a hash table that grows; slab pages; threads that crawl and maintain LRU lists; logs for
/// watchers; NAPI; whether an item was fetched before it went.
const NOT_GENERAL: &str = "libevent response_obj_oom response_obj_count response_obj_bytes read_buf_count read_buf_bytes \
    read_buf_bytes_free read_buf_oom reserved_fds get_aborted_extstore hash_power_level hash_is_expanding \
    slab_reassign_rescues slab_reassign_chunk_rescues slab_reassign_evictions_nomem slab_reassign_inline_reclaim \
    slab_reassign_busy_items slab_reassign_busy_deletes slab_reassign_running slabs_moved lru_crawler_running \
    lru_maintainer_juggles malloc_fails log_worker_dropped log_worker_written log_watcher_skipped log_watcher_sent \
    log_watchers unexpected_napi_ids round_robin_fallback slab_global_page_pool expired_unfetched evicted_unfetched \
    evicted_active";

const ITEMS: &str = "number number_hot number_warm number_cold age_hot age_warm age mem_requested evicted evicted_nonzero \
    evicted_time outofmemory tailrepairs reclaimed crawler_reclaimed crawler_items_checked lrutail_reflocked moves_to_cold \
    moves_to_warm moves_within_lru direct_reclaims hits_to_hot hits_to_warm hits_to_cold hits_to_temp";

const SLABS: &str = "1:chunk_size 1:chunks_per_page 1:total_pages 1:total_chunks 1:used_chunks 1:free_chunks \
    1:free_chunks_end 1:mem_requested 1:get_hits 1:cmd_set 1:delete_hits 1:incr_hits 1:decr_hits 1:cas_hits 1:cas_badval \
    1:touch_hits active_slabs total_malloced";

/// Every sub-command that answers with lines and END.
const SUB_COMMANDS: [&str; 7] =
    ["stats", "stats settings", "stats items", "stats slabs", "stats sizes", "stats conns", "stats extstore"];

/// What `command` says, in order; every line must have three fields, and the end must be END.
fn listed(client: &mut Client, command: &str) -> Vec<(String, String)> {
    client.send(format!("{command}\r\n").as_bytes());
    let mut stats = Vec::new();
    loop {
        let line = client.line();
        if line == "END" {
            return stats;
        }
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[0] == "STAT" && !words[2].is_empty(), "a line of {command}: {line}");
        stats.push((words[1].to_owned(), words[2].to_owned()));
    }
}

fn names(stats: &[(String, String)]) -> Vec<&str> {
    stats.iter().map(|(name, _)| name.as_str()).collect()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// The numbers that `command` says.
fn numbers(client: &mut Client, command: &str) -> BTreeMap<String, u64> {
    let number = |(name, value): (String, String)| Some((name, value.parse().ok()?));
    listed(client, command).into_iter().filter_map(number).collect()
}

/// A server with `count` records of 1000 bytes on disk and none in memory.
fn with_records_on_disk(store: &Store, count: usize) -> Server {
    let server = store.start();
    let mut client = server.client();
    (0..count).for_each(|number| client.set(&format!("key-{number}"), &value_of("v", 1000)));
    client.wait_until_flushed();
    server.terminate();
    store.start()
}

#[test]
fn the_general_statistics_have_their_names_in_their_order() {
    let server = Store::new(&[]).start();
    let stats = listed(&mut server.client(), "stats");
    assert_eq!(names(&stats), words(GENERAL));
    for (name, value) in &stats {
        match name.as_str() {
            "version" => assert_eq!(value, "1.6.45"),
            "rusage_user" | "rusage_system" => {
                let (seconds, micros) = value.split_once('.').expect("one dot");
                assert!(
                    seconds.parse::<u64>().is_ok() && micros.len() == 6 && micros.parse::<u32>().is_ok(),
                    "{value}"
                );
            }
            "cache_hit_ratio" | "write_amplification" => assert!(value.parse::<f64>().is_ok(), "{value}"),
            _ => assert!(value.parse::<u64>().is_ok(), "{name} {value}"),
        }
    }
}

/// Debian's memcached with extstore; nothing if it is not installed.
fn reference(directory: &Path) -> Option<Reference> {
    let external = format!("ext_path={}:64m", directory.join("extstore").display());
    Reference::start(&["-m", "1024", "-o", &external, "-u", "root"])
}

/// Our names without those that only we have must be memcached's without those that it has alone, in the same order.
fn compare_with_memcached(command: &str, only_there: &str, only_here: &str) {
    let scratch = scratch_directory();
    let Some(memcached) = reference(scratch.path()) else { return skip(command, "memcached is not installed") };
    let server = Store::new(&[]).start();
    let (ours, theirs) = (listed(&mut server.client(), command), listed(&mut memcached.client(), command));
    let without = |stats: &[(String, String)], left_out: &str| {
        let left_out = words(left_out);
        let kept = names(stats).into_iter().filter(|name| !left_out.contains(name));
        kept.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without(&ours, only_here), without(&theirs, only_there), "{command}");
}

#[test]
fn memcached_has_the_same_general_statistics_in_the_same_order() {
    let ours = GENERAL.split_once("disk_reads").expect("it is ours").1;
    // idle_kicks is memcached's too, with -o idle_timeout; the two of extstore are younger than Debian's version.
    let only_here = format!("disk_reads {ours} idle_kicks extstore_compact_resc_cold extstore_compact_resc_old");
    compare_with_memcached("stats", NOT_GENERAL, &only_here);
}

#[test]
fn memcached_has_the_same_settings_in_the_same_order() {
    let only_there = "oldest growth_factor chunk_size num_threads_per_udp hashpower_init slab_automove_ratio \
        slab_automove_window slab_chunk_max lru_crawler_tocrawl tail_repair_time hot_lru_pct warm_lru_pct \
        hot_max_factor warm_max_factor temp_lru temporary_ttl watcher_logbuf_size worker_logbuf_size read_buf_mem_limit \
        inline_ascii_response ext_item_age ext_low_ttl ext_compact_under ext_drop_under ext_max_sleep \
        ext_max_frag slab_automove_freeratio ssl_chain_cert ssl_key ssl_verify_mode ssl_keyformat ssl_ciphers ssl_ca_cert \
        ssl_wbuf_size ssl_session_cache ssl_kernel_tls ssl_min_version num_napi_ids memory_file";
    compare_with_memcached("stats settings", only_there, "scrub_interval durability flush_interval_ms sync_method");
}

/// Settings that flags change: their value without a flag, and with all of [`FLAGS`].
const CHANGED: [(&str, &str, &str); 13] = [
    ("maxconns", "1024", "500"),
    ("verbosity", "0", "1"),
    ("evictions", "on", "off"),
    ("shutdown_command", "no", "yes"),
    ("stat_key_prefix", ":", "/"),
    ("detail_enabled", "no", "yes"),
    ("reqs_per_event", "20", "7"),
    ("cas_enabled", "yes", "no"),
    ("tcp_backlog", "1024", "99"),
    ("item_size_max", "1048576", "2097152"),
    ("flush_enabled", "yes", "no"),
    ("dump_enabled", "yes", "no"),
    ("idle_timeout", "0", "9"),
];
const FLAGS: &[&str] = &[
    "-c",
    "500",
    "-v",
    "-M",
    "-A",
    "-D",
    "/",
    "-R",
    "7",
    "-C",
    "-b",
    "99",
    "-I",
    "2m",
    "-F",
    "-X",
    "-o",
    "idle_timeout=9",
];

#[test]
fn settings_say_what_the_flags_have_said() {
    let chosen = |client: &mut Client| {
        let mut settings = listed(client, "stats settings");
        settings.retain(|(name, _)| CHANGED.iter().any(|(changed, ..)| changed == name));
        settings
    };
    let own = |value: &str| value.to_owned();
    let without: Vec<_> = CHANGED.iter().map(|(name, value, _)| (own(name), own(value))).collect();
    let with: Vec<_> = CHANGED.iter().map(|(name, _, value)| (own(name), own(value))).collect();
    for (flags, expected) in [(&[][..], without), (FLAGS, with)] {
        assert_eq!(chosen(&mut Store::new(flags).start().client()), expected, "with {flags:?}");
        match Reference::start(flags) {
            Some(memcached) => assert_eq!(chosen(&mut memcached.client()), expected, "memcached with {flags:?}"),
            None => skip("settings by flags", "memcached is not installed"),
        }
    }
}

#[test]
fn every_sub_command_ends_whether_anything_is_stored_or_not() {
    let store = Store::new(&[]);
    let server = store.start();
    let mut client = server.client();
    for command in SUB_COMMANDS {
        listed(&mut client, command);
    }
    assert_eq!(listed(&mut client, "stats items"), [], "as memcached has it");
    assert_eq!(names(&listed(&mut client, "stats slabs")), ["active_slabs", "total_malloced"]);
    assert_eq!(listed(&mut client, "stats sizes"), []);
    drop(client);
    server.terminate();
    let server = with_records_on_disk(&store, 100);
    let mut client = server.client();
    for command in SUB_COMMANDS {
        assert!(!listed(&mut client, command).is_empty(), "{command}");
        // What stands behind the words that are known is passed over.
        if command != "stats" {
            assert!(!listed(&mut client, &format!("{command}  and more")).is_empty(), "{command}");
        }
    }
    for unknown in ["stats bogus", "stats Settings", "stats settingss", "stats detailon"] {
        assert_eq!(client.ask(unknown), "ERROR", "{unknown}");
    }
}

#[test]
fn items_and_slabs_are_one_class() {
    let server = with_records_on_disk(&Store::new(&[]), 500);
    let mut client = server.client();
    assert_eq!(client.get("absent"), None);
    (0..30).for_each(|number| assert!(client.get(&format!("key-{number}")).is_some()));
    let expected: Vec<String> = ITEMS.split_whitespace().map(|name| format!("items:1:{name}")).collect();
    assert_eq!(names(&listed(&mut client, "stats items")), expected);
    assert_eq!(names(&listed(&mut client, "stats slabs")), words(SLABS));
    let (general, items, slabs) =
        (numbers(&mut client, "stats"), numbers(&mut client, "stats items"), numbers(&mut client, "stats slabs"));
    assert_eq!((items["items:1:number"], items["items:1:number_cold"]), (500, 500));
    assert_eq!((items["items:1:hits_to_cold"], slabs["1:get_hits"]), (30, 30));
    assert_eq!(items["items:1:mem_requested"], general["bytes"]);
    assert_eq!(slabs["1:mem_requested"], general["bytes"]);
    assert_eq!(slabs["1:used_chunks"] * slabs["1:chunk_size"], general["bytes"]);
    assert_eq!(slabs["1:used_chunks"] + slabs["1:free_chunks"], slabs["1:total_chunks"]);
    assert_eq!(slabs["1:chunks_per_page"] * slabs["1:total_pages"], slabs["1:total_chunks"]);
    assert_eq!(slabs["1:chunks_per_page"] * slabs["1:chunk_size"], 4 << 20, "a page is a table");
    assert_eq!(slabs["1:total_pages"], general["extstore_pages_used"]);
    assert_eq!(slabs["total_malloced"], general["extstore_pages_used"] * (4 << 20));
    assert!(items["items:1:age"] <= general["uptime"] + 1, "the age of tables from before is not known");
}

#[test]
fn the_slab_class_counts_what_the_commands_did() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set("n", b"5");
    let unique = client.gets("n").expect("n is there").cas;
    for request in ["incr n 1", "decr n 1", "decr n 1", "touch n 0", "cas n 0 0 1 1\r\n7", "delete n"] {
        client.ask(request);
    }
    client.set("n", b"5");
    let unique_now = client.gets("n").expect("n is there").cas;
    assert_ne!(unique, unique_now);
    assert_eq!(client.ask(&format!("cas n 0 0 1 {unique_now}\r\n6")), "STORED");
    let slabs = numbers(&mut client, "stats slabs");
    for (name, count) in [
        ("get_hits", 2),
        ("cmd_set", 4),
        ("delete_hits", 1),
        ("incr_hits", 1),
        ("decr_hits", 2),
        ("cas_hits", 1),
        ("cas_badval", 1),
        ("touch_hits", 1),
    ] {
        assert_eq!(slabs[&format!("1:{name}")], count, "{name}");
    }
}

#[test]
fn sizes_are_counted_as_records_come_and_go() {
    let store = Store::new(&[]);
    let server = store.start();
    let mut client = server.client();
    (0..40).for_each(|number| client.set(&format!("small-{number}"), b"x"));
    (0..7).for_each(|number| client.set(&format!("large-{number}"), &value_of("v", 100_000)));
    let check = |client: &mut Client, small: u64, large: u64| {
        let sizes: Vec<(u64, u64)> = numbers(client, "stats sizes")
            .into_iter()
            .map(|(size, count)| (size.parse().expect("the name is a size"), count))
            .collect();
        let sum =
            |is_in: &dyn Fn(u64) -> bool| sizes.iter().filter(|(size, _)| is_in(*size)).map(|(_, count)| count).sum();
        let counted: (u64, u64) = (sum(&|size| size <= 96), sum(&|size| (100_000..=113_000).contains(&size)));
        assert_eq!(counted, (small, large), "{sizes:?}");
        assert_eq!(sizes.iter().map(|(_, count)| count).sum::<u64>(), small + large, "{sizes:?}");
        assert!(sizes.iter().all(|(size, _)| size % 32 == 0), "{sizes:?}");
    };
    check(&mut client, 40, 7);
    assert_eq!(client.ask("delete small-0"), "DELETED");
    client.set("large-0", b"x");
    check(&mut client, 40, 6);
    drop(client);
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    check(&mut client, 40, 6);
    assert_eq!(client.ask("flush_all"), "OK");
    assert_eq!(listed(&mut client, "stats sizes"), []);
    assert_eq!(client.ask("stats sizes_enable"), "STAT sizes_status enabled");
    assert_eq!(client.ask("stats sizes_disable"), "STAT sizes_status enabled", "they are always counted");
}

#[test]
fn tables_are_the_pages_of_extstore() {
    let server = with_records_on_disk(&Store::new(&[]), 6000);
    let mut client = server.client();
    let (pages, general) = (listed(&mut client, "stats extstore"), numbers(&mut client, "stats"));
    let expected = (0..pages.len() / 5).flat_map(|slot| {
        ["version", "bytes", "bucket", "free_bucket", "live_ratio"].map(|name| format!("{slot}:{name}"))
    });
    assert_eq!(names(&pages), expected.collect::<Vec<_>>());
    let value = |end: &str| {
        let lines = pages.iter().filter(|(name, _)| name.ends_with(end));
        lines.map(|(_, value)| value.parse::<u64>().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(value(":bytes").iter().sum::<u64>(), general["bytes"]);
    assert_eq!(value(":bytes").iter().filter(|bytes| **bytes > 0).count(), 2, "6 MB in tables of 4 MiB");
    let ratios: Vec<&str> =
        pages.iter().filter(|(name, _)| name.ends_with(":live_ratio")).map(|(_, ratio)| ratio.as_str()).collect();
    assert!(
        ratios.contains(&"0.00")
            && ratios.iter().any(|ratio| ratio.parse().is_ok_and(|ratio: f64| ratio > 0.9 && ratio <= 1.0)),
        "a free table, and a full one: {ratios:?}"
    );
    let mut versions = value(":version");
    versions.retain(|version| *version > 0);
    versions.sort_unstable();
    assert!(versions.len() >= 2 && versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
}

#[test]
fn gets_of_expired_records_are_counted() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set_with("gone", b"x", 0, -1);
    assert_eq!(client.get("gone"), None);
    assert_eq!(client.get("gone"), None);
    let stats = numbers(&mut client, "stats");
    assert_eq!((stats["get_expired"], stats["get_misses"], stats["reclaimed"]), (1, 2, 0));
}

#[test]
fn reset_begins_at_zero_and_keeps_what_stands() {
    let server = with_records_on_disk(&Store::new(&[]), 50);
    let mut client = server.client();
    client.set("new", b"5");
    client.set_with("gone", b"x", 0, -1);
    for request in
        ["get gone", "get key-0", "get absent", "delete key-1", "incr new 1", "touch key-2 0", "stats detail on"]
    {
        client.exchange(format!("{request}\r\n").as_bytes());
    }
    let before = numbers(&mut client, "stats");
    assert_eq!(client.ask("stats reset"), "RESET");
    let after = numbers(&mut client, "stats");
    let changed = "cmd_get cmd_set cmd_touch get_hits get_misses get_expired get_extstore delete_hits incr_hits touch_hits \
        total_items total_connections";
    for name in words(changed) {
        assert!(before[name] > 0, "{name} counts what was done");
        assert_eq!(after[name], 0, "{name} begins again");
    }
    assert!(after["bytes_read"] < before["bytes_read"] && after["bytes_written"] < before["bytes_written"]);
    let kept = "curr_connections curr_items bytes limit_maxbytes threads disk_reads disk_read_bytes index_entries \
        extstore_objects_read extstore_objects_used extstore_pages_used recovery_records";
    for name in words(kept) {
        assert_eq!(after[name], before[name], "{name} stays");
    }
    assert!(client.get("key-3").is_some());
    let later = numbers(&mut client, "stats");
    assert_eq!((later["cmd_get"], later["get_extstore"], later["disk_reads"]), (1, 1, before["disk_reads"] + 1));
}

#[test]
fn prefixes_are_counted_wherever_the_record_lies() {
    let server = with_records_on_disk(&Store::new(&[]), 1);
    let mut client = server.client();
    client.set("user:1", &value_of("v", 1000));
    assert_eq!(client.ask("stats detail on"), "OK");
    client.set("user:2", b"x");
    assert_eq!(server.client().ask("set user:3 0 0 9999999"), "SERVER_ERROR object too large for cache");
    client.exchange(b"get user:1 user:2 user:9 other:1\r\ndelete user:7\r\n");
    client.wait_until_flushed();
    let dump = client.exchange(b"stats detail dump\r\n");
    let expected = "PREFIX other get 1 hit 0 set 0 del 0\r\nPREFIX user get 3 hit 2 set 2 del 1\r\nEND\r\n";
    assert_eq!(String::from_utf8_lossy(&dump), expected);
    let settings = listed(&mut client, "stats settings");
    let has = |name: &str, value: &str| settings.contains(&(name.to_owned(), value.to_owned()));
    assert!(has("detail_enabled", "yes") && has("stat_key_prefix", ":"), "{settings:?}");
}

/// Requests that count something, in an order that leaves something to count.
const COUNTED: &str = "\
    set a:1 0 0 1|5;set b:1 7 0 3|abc;get a:1;get a:1 b:1 zz no:1;gets a:1;gat 0 a:1;gat 0 no:2 b:1;gats 0 a:1;\
    incr a:1 1;incr b:1 1;incr no:1 1;decr a:1 1;decr no:1 1;touch a:1 0;touch no:1 0;add a:1 0 0 1|1;\
    add c:1 0 0 1|1;replace c:1 0 0 1|2;replace no:1 0 0 1|2;append c:1 0 0 1|2;append no:1 0 0 1|2;\
    prepend no:1 0 0 1|2;cas a:1 0 0 1 999999|2;cas no:1 0 0 1 999999|2;delete c:1;delete no:1;set e:1 0 -1 1|x;\
    get e:1;get e:1;set e:1 0 -1 1|x;touch e:1 0;set e:1 0 -1 1|x;add e:1 0 0 1|x;set e:1 0 -1 1|x;delete e:1;\
    set e:1 0 -1 1|x;incr e:1 1;set e:1 0 -1 1|x;gat 0 e:1;set e:1 0 -1 1|x;verbosity 1;mg a:1 v;mg no:1 v;\
    mg a:1 T0 v;mg a:1;ms m:1 2|xx;ms m:1 2 MA|xx;ms m:1 2 ME|xx;ms m:1 2 C1|xx;ms no:1 2 C1|xx;ms no:1 2 MA|xx;\
    md m:1 C1;mg m:1 v;md m:1;md m:1;ma a:1;ma no:1;ma a:1 MD D1;ma b:1;ma a:1 C1;me a:1;me no:1;flush_all 1000";
/// Not get_expired: memcached drops expired items in the background, too, when nobody has met them yet.
const COUNTERS: &str = "cmd_get cmd_set cmd_flush cmd_touch get_hits get_misses get_flushed delete_misses delete_hits \
    incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large \
    store_no_memory";

#[test]
fn commands_are_counted_as_memcached_does() {
    let Some(memcached) = Reference::start(&[]) else { return skip("counters", "memcached is not installed") };
    let server = Store::new(&["--flush-interval", "1h"]).start();
    let (mut ours, mut theirs) = (server.client(), memcached.client());
    for client in [&mut ours, &mut theirs] {
        assert_eq!(client.ask("stats detail on"), "OK");
    }
    let counters = |client: &mut Client| {
        let mut stats = numbers(client, "stats");
        stats.retain(|name, _| words(COUNTERS).contains(&name.as_str()));
        stats
    };
    for request in COUNTED.split(';') {
        let bytes = format!("{}\r\n", request.replace('|', "\r\n"));
        ours.exchange(bytes.as_bytes());
        theirs.exchange(bytes.as_bytes());
        assert_eq!(counters(&mut ours), counters(&mut theirs), "after {request}");
    }
    // memcached has them in the order of its hash table.
    let dumped = |client: &mut Client| {
        let dump = client.exchange(b"stats detail dump\r\n");
        let mut lines: Vec<String> = String::from_utf8_lossy(&dump).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(dumped(&mut ours), dumped(&mut theirs));
}

/// The blocks of `stats conns` by their address, each as its other lines.
fn connections(client: &mut Client) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut blocks: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (name, value) in listed(client, "stats conns") {
        let (number, field) = name.split_once(':').expect("a number before the name");
        assert!(number.parse::<u32>().is_ok(), "{name}");
        blocks.entry(number.to_owned()).or_default().insert(field.to_owned(), value);
    }
    blocks.into_values().map(|mut block| (block.remove("addr").expect("each has one"), block)).collect()
}

#[test]
fn each_connection_is_listed_with_what_it_does() {
    let server = with_records_on_disk(&Store::new(&[]), 10);
    let listening = format!("tcp:127.0.0.1:{}", server.port());
    let (idle, mut halfway, mut asking) = (server.client(), server.client(), server.client());
    halfway.send(b"set k 0 0 100\r\nhalf of it");
    let address = |client: &Client| format!("tcp:{}", client.local_address());
    let listed = crate::support::eventually("the half of the value has arrived", || {
        let listed = connections(&mut asking);
        (listed.get(&address(&halfway))?["state"] == "conn_nread").then_some(listed)
    });
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(listed[&listening]["state"], "conn_listening");
    for (client, state) in [(&idle, "conn_read"), (&halfway, "conn_nread"), (&asking, "conn_parse_cmd")] {
        let block = &listed[&address(client)];
        assert_eq!((block["state"].as_str(), &block["listen_addr"]), (state, &listening));
        assert!(block["secs_since_last_cmd"].parse::<u64>().is_ok_and(|seconds| seconds <= 60), "{block:?}");
    }
    drop(halfway);
    crate::support::eventually("it is gone", || (connections(&mut asking).len() == 3).then_some(()));
}

#[test]
fn connections_are_listed_where_the_request_stands() {
    let server = with_records_on_disk(&Store::new(&[]), 10);
    let mut client = server.client();
    client.send(b"get key-1\r\nstats conns\r\nget key-2\r\nversion\r\n");
    for key in ["key-1", "key-2"] {
        assert_eq!(client.line(), format!("VALUE {key} 0 1000"));
        assert_eq!(client.exactly(1002).len(), 1002);
        assert_eq!(client.line(), "END");
        if key == "key-1" {
            while client.line() != "END" {}
        }
    }
    assert_eq!(client.line(), "VERSION 1.6.45");
}

#[test]
fn connections_of_a_unix_socket_are_listed() {
    let scratch = scratch_directory();
    let path = scratch.path().join("socket");
    let name = path.to_str().expect("scratch paths are UTF-8");
    let server = Store::new(&["-s", name]).start_on_socket(&path);
    let mut client = Client::try_connect_unix(&path).expect("it listens");
    let listed = connections(&mut client);
    assert_eq!(listed[&format!("unix:{name}")]["state"], "conn_listening");
    assert_eq!(listed["unix:"]["listen_addr"], format!("unix:{name}"), "the client's end has no name");
    server.terminate();
}
