//! A full disk: like memcached the oldest go, and with -M nothing goes and new ones are refused.

use crate::support::{Client, Server, Store, damage, eventually, value_of};

/// Sixteen tables of a MiB.
const SMALL: [&str; 6] = ["--table-size", "1m", "--capacity", "16m", "-I", "256k"];

/// The same, and nothing may be evicted.
const SMALL_AND_KEPT: [&str; 7] = ["--table-size", "1m", "--capacity", "16m", "-I", "256k", "-M"];

const VALUE_SIZE: usize = 3000;

fn key(number: usize) -> String {
    format!("key-{number:06}")
}

/// Sets keys of `range`; every one has to be stored.
fn set_all(client: &mut Client, range: std::ops::Range<usize>) {
    for number in range {
        client.set(&key(number), &value_of(&key(number), VALUE_SIZE));
    }
}

/// How many of `range` are there; a wrong value is a failed test.
fn count_present(client: &mut Client, range: std::ops::Range<usize>) -> usize {
    range.filter(|number| client.has_intact(&key(*number), VALUE_SIZE)).count()
}

/// What the store's tables take on disk.
fn tables_size(store: &Store) -> u64 {
    damage::tables(store.directory()).iter().map(|path| path.metadata().expect("a table has metadata").len()).sum()
}

#[test]
fn the_oldest_are_evicted_and_the_newest_stay() {
    let store = Store::new(&SMALL);
    let server = store.start();
    let mut client = server.client();
    let count = 15_000;
    set_all(&mut client, 0..count);
    let newest = 2000;
    assert_eq!(count_present(&mut client, count - newest..count), newest, "6 MB of the newest fit in 16 MiB");
    assert_eq!(count_present(&mut client, 0..newest), 0, "45 MB do not fit in 16 MiB");
    let stats = client.stats();
    let number = |name: &str| stats[name].parse::<usize>().expect("a counter is a number");
    assert!(number("evictions") > 0);
    assert_eq!(number("curr_items") + number("evictions"), count, "an item is there or was evicted");
    assert!(number("curr_items") * VALUE_SIZE < 16 << 20);
    assert_eq!(number("curr_items"), count_present(&mut client, 0..count));
    assert!(tables_size(&store) <= 16 << 20, "the tables take {} bytes", tables_size(&store));
}

#[test]
fn eviction_is_remembered() {
    let store = Store::new(&SMALL);
    let server = store.start();
    set_all(&mut server.client(), 0..10_000);
    // What is still to be written evicts as well, at the latest when the server stops.
    server.client().wait_until_flushed();
    let before = count_present(&mut server.client(), 0..10_000);
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    assert_eq!(count_present(&mut client, 0..10_000), before);
    assert_eq!(client.stat("curr_items"), before as u64);
    set_all(&mut client, 10_000..20_000);
    assert_eq!(count_present(&mut client, 19_000..20_000), 1000);
}

#[test]
fn an_evicted_value_does_not_come_back_after_a_delete() {
    let store = Store::new(&SMALL);
    let mut server = store.start();
    for round in 0..6 {
        let mut client = server.client();
        client.set("victim", b"first");
        client.set("victim", format!("round {round}").as_bytes());
        set_all(&mut client, round * 3000..round * 3000 + 3000);
        client.exchange(b"delete victim\r\n");
        client.wait_until_flushed();
        drop(client);
        server.kill();
        server = store.start();
        assert_eq!(server.client().get("victim"), None, "round {round}");
    }
}

#[test]
fn overwriting_one_key_for_ever_evicts_nobody_else() {
    // The log is full of dead versions long before the live records fill it: reclaim makes room, not eviction.
    let store = Store::new(&SMALL);
    let server = store.start();
    let mut client = server.client();
    set_all(&mut client, 0..500);
    for round in 0..3000 {
        client.set("busy", &value_of(&format!("busy {round}"), 20_000));
    }
    assert_eq!(client.get("busy"), Some(value_of("busy 2999", 20_000)));
    assert_eq!(count_present(&mut client, 0..500), 500, "1.5 MB of live records in 16 MiB");
    assert_eq!(client.stat("evictions"), 0);
}

#[test]
fn expired_items_make_room_before_living_ones_go() {
    let store = Store::new(&SMALL_AND_KEPT);
    let server = store.start();
    let mut client = server.client();
    for number in 0..3500 {
        client.set_with(&format!("short-{number}"), &value_of("x", VALUE_SIZE), 0, 1);
    }
    eventually("the room of expired items is given away", || {
        (client.store("set", "new", &value_of("new", 200_000), 0, 0) == "STORED").then_some(())
    });
    let mut stored = 0;
    eventually("3,000 more are stored", || {
        while stored < 3000 && client.store("set", &key(stored), &value_of(&key(stored), VALUE_SIZE), 0, 0) == "STORED"
        {
            stored += 1;
        }
        (stored == 3000).then_some(())
    });
    assert_eq!(count_present(&mut client, 0..3000), 3000);
}

#[test]
fn the_crawler_drops_what_has_expired_when_it_is_told_to() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    for number in 0..500 {
        client.set_with(&key(number), b"x", 0, 1);
    }
    client.set("lasting", b"x");
    assert_eq!(client.ask("lru_crawler disable"), "OK");
    assert_eq!(client.stats_of("stats settings")["lru_crawler"], "no");
    assert_eq!(client.ask("lru_crawler crawl all"), "CLIENT_ERROR lru crawler disabled");
    assert_eq!(client.ask("lru_crawler enable"), "OK");
    assert_eq!(client.ask("lru_crawler sleep 25"), "OK");
    let settings = client.stats_of("stats settings");
    assert_eq!((&*settings["lru_crawler"], &*settings["lru_crawler_sleep"]), ("yes", "25"));
    eventually("what has expired is gone", || {
        assert_eq!(client.ask("lru_crawler crawl 1"), "OK");
        (client.stat("curr_items") == 1).then_some(())
    });
    assert_eq!((client.stat("crawler_reclaimed"), client.stat("get_expired")), (500, 0));
    assert!(client.stat("lru_crawler_starts") > 0 && client.stat("crawler_items_checked") >= 501);
    assert!(client.get("lasting").is_some());
}

#[test]
fn statistics_tell_what_is_moved() {
    let store = Store::new(&SMALL_AND_KEPT);
    let server = store.start();
    let mut client = server.client();
    set_all(&mut client, 0..3000);
    assert_eq!((client.stat("reclaim_records"), client.stat("tables_reserved")), (0, 2));
    for _ in 0..5 {
        // Every second record of a table stays, and has to be moved.
        for number in (0..3000).step_by(2) {
            client.set(&key(number), &value_of(&key(number), VALUE_SIZE));
        }
        // What is in memory still would be overwritten there, and written once.
        client.wait_until_flushed();
    }
    let stats = client.stats();
    let number = |name: &str| stats[name].parse::<u64>().expect("a number");
    assert!(number("reclaim_records") > 100 && number("reclaim_bytes") > number("reclaim_records") * VALUE_SIZE as u64);
    assert!(number("reclaim_reads") > 0 && number("reclaim_read_bytes") >= number("reclaim_bytes"));
    assert!(number("reclaim_tables") > 5 && number("reclaim_tables") >= number("reclaim_tables_unread"));
    assert_eq!(number("extstore_page_reclaims"), number("reclaim_tables"), "none was evicted");
    assert_eq!(number("extstore_compact_rescues"), number("reclaim_records"));
    assert_eq!((number("extstore_compact_lost"), number("reclaim_bad_records"), number("evictions")), (0, 0, 0));
    assert!(number("reclaim_rate") > 0 && number("tables_free") >= number("tables_reserved"));
    let written = (number("disk_write_bytes") + number("checkpoint_bytes")) as f64;
    // Keys and values of 10,500 records.
    let amplification = written / (10_500 * (VALUE_SIZE + key(0).len())) as f64;
    assert_eq!(stats["write_amplification"], format!("{amplification:.2}"));
    assert!(amplification > 1.0, "{amplification}");
    let parts =
        ["index_bytes", "write_buffer_bytes", "read_buffer_bytes", "reclaim_buffer_bytes", "cache_memory_bytes"];
    assert_eq!(parts.map(number).iter().sum::<u64>(), number("memory_bytes"));
    assert!(number("memory_bytes") <= number("limit_maxbytes"));
    assert_eq!(count_present(&mut client, 0..3000), 3000);
}

/// Sets keys until the server says that it is full; gives how many it took.
fn fill(server: &Server) -> usize {
    let mut client = server.client();
    let mut taken = 0;
    loop {
        let answer = client.store("set", &key(taken), &value_of(&key(taken), VALUE_SIZE), 0, 0);
        if answer != "STORED" {
            assert_eq!(answer, "SERVER_ERROR out of memory storing object");
            return taken;
        }
        taken += 1;
        assert!(taken < 10_000, "30 MB were taken by a store of 16 MiB");
    }
}

#[test]
fn with_m_a_full_store_refuses_and_loses_nothing() {
    let store = Store::new(&SMALL_AND_KEPT);
    let server = store.start();
    let taken = fill(&server);
    assert!(taken > 2500, "only {taken} values of {VALUE_SIZE} bytes fit in 16 MiB");
    let mut client = server.client();
    assert_eq!(count_present(&mut client, 0..taken), taken);
    assert_eq!(client.stat("evictions"), 0);
    assert_eq!(client.get(&key(taken)), None, "a refused key has no value");
    drop(client);
    server.terminate();
    let server = store.start();
    assert_eq!(count_present(&mut server.client(), 0..taken), taken, "after a restart");
}

#[test]
fn with_m_a_full_store_still_deletes_and_the_room_comes_back() {
    let store = Store::new(&SMALL_AND_KEPT);
    let server = store.start();
    let taken = fill(&server);
    let mut client = server.client();
    for number in 0..taken / 2 {
        assert_eq!(client.ask(&format!("delete {}", key(number))), "DELETED", "a delete needs no room");
    }
    let mut stored = 0;
    eventually("a quarter as much is stored again", || {
        while stored < taken / 4
            && client.store("set", &key(stored), &value_of(&key(stored), VALUE_SIZE), 0, 0) == "STORED"
        {
            stored += 1;
        }
        (stored == taken / 4).then_some(())
    });
    assert_eq!(count_present(&mut client, taken / 2..taken), taken - taken / 2);
    assert_eq!(count_present(&mut client, taken / 4..taken / 2), 0);
    drop(client);
    server.terminate();
    let server = store.start();
    let mut client = server.client();
    assert_eq!(count_present(&mut client, 0..taken / 4), taken / 4);
    assert_eq!(count_present(&mut client, taken / 4..taken / 2), 0, "deletes in a full store survive a restart");
    assert_eq!(count_present(&mut client, taken / 2..taken), taken - taken / 2);
}

#[test]
fn a_refused_set_leaves_no_old_value_behind() {
    // memcached unlinks the old item when a set fails for want of memory: a reader must not see a value older than
    // the set.
    let store = Store::new(&SMALL_AND_KEPT);
    let server = store.start();
    let taken = fill(&server);
    let mut client = server.client();
    let answer = client.store("set", &key(0), &value_of("newer", 200_000), 0, 0);
    let found = client.get(&key(0));
    if answer == "STORED" {
        assert_eq!(found, Some(value_of("newer", 200_000)));
    } else {
        assert_eq!(answer, "SERVER_ERROR out of memory storing object");
        let kept = found == Some(value_of(&key(0), VALUE_SIZE)) || found.is_none();
        assert!(kept, "neither the old value nor none");
    }
    assert_eq!(count_present(&mut client, 1..taken), taken - 1);
}

#[test]
fn records_of_many_sizes_fill_a_small_store_for_a_long_time() {
    let store = Store::new(&SMALL);
    let mut server = store.start();
    let size = |number: usize| number * 6151 % 40_000;
    for round in 0..3 {
        let mut client = server.client();
        let range = round * 2500..(round + 1) * 2500;
        range.clone().for_each(|number| client.set(&key(number), &value_of(&key(number), size(number))));
        for number in range.end - 200..range.end {
            assert!(client.get(&key(number)) == Some(value_of(&key(number), size(number))), "{}", key(number));
        }
        drop(client);
        server.terminate();
        server = store.start();
        let mut client = server.client();
        for number in range.end - 200..range.end {
            assert!(
                client.get(&key(number)) == Some(value_of(&key(number), size(number))),
                "{} after a restart",
                key(number)
            );
        }
    }
}
