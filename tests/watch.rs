//! `watch`: what watchers are told of what others do.

use crate::support::{Client, Server, Store, eventually};

fn watcher(server: &Server, topics: &str) -> Client {
    let mut client = server.client();
    assert_eq!(client.ask(&format!("watch {topics}")), "OK");
    client
}

/// The next line without its time and number, which are checked to be there.
fn told(client: &mut Client) -> String {
    let line = client.any_line();
    let (head, rest) = line.split_once(" type=").unwrap_or_else(|| panic!("{line}"));
    let (time, number) = head.split_once(" gid=").unwrap_or_else(|| panic!("{line}"));
    assert!(time.starts_with("ts=1") || time.starts_with("ts=2"), "{line}");
    assert!(number.parse::<u64>().is_ok(), "{line}");
    // The descriptor is any number.
    rest.split(' ').filter(|word| !word.starts_with("cfd=")).collect::<Vec<_>>().join(" ")
}

#[test]
fn watchers_are_told_what_they_asked_for_and_nothing_else() {
    let server = Store::new(&["--debug-commands"]).start();
    let mut all = watcher(&server, "fetchers mutations deletions");
    let mut fetchers = watcher(&server, "");
    let mut client = server.client();
    client.set_with("k%y", b"bar", 0, 100);
    assert_eq!(client.store("add", "k%y", b"x", 0, 0), "NOT_STORED");
    client.exchange(b"get k%y nosuch\r\nmg k%y v\r\n");
    assert_eq!(client.ask("debugflush"), "OK");
    client.exchange(b"get k%y\r\nmg k%y v\r\nmg nosuch v\r\n");
    assert_eq!(client.ask("delete nosuch"), "NOT_FOUND");
    assert_eq!(client.ask("delete k%y"), "DELETED");
    let hit = "item_get key=k%25y status=found clsid=1 size=3";
    let miss = "item_get key=nosuch status=not_found clsid=0 size=0";
    assert_eq!(told(&mut all), "item_store key=k%25y status=stored cmd=set ttl=100 clsid=1 size=3");
    assert_eq!(told(&mut all), "item_store key=k%25y status=not_stored cmd=add ttl=0 clsid=1 size=1");
    for watcher in [&mut all, &mut fetchers] {
        assert_eq!([told(watcher), told(watcher), told(watcher)], [hit, miss, hit]);
        // What is known at once is told before what must be read.
        let mut later = [told(watcher), told(watcher), told(watcher)];
        later.sort();
        assert_eq!(later, [hit, hit, miss]);
    }
    assert_eq!(told(&mut all), "deleted key=k%25y cmd=delete clsid=1");
    // Nothing else came to the other.
    client.exchange(b"get nosuch\r\n");
    assert_eq!(told(&mut fetchers), miss);
}

#[test]
fn watchers_are_told_who_comes_and_goes() {
    let server = Store::new(&[]).start();
    let mut watcher = watcher(&server, "connevents");
    let client = server.client();
    let line = told(&mut watcher);
    assert!(line.starts_with("conn_new rip=127.0.0.1 rport=") && line.ends_with(" transport=tcp"), "{line}");
    drop(client);
    let line = told(&mut watcher);
    assert!(line.starts_with("conn_close rip="), "{line}");
    assert!(line.contains(" transport=") && line.ends_with(" reason=normal"), "{line}");
}

#[test]
fn what_a_watcher_sends_is_not_looked_at_and_its_end_is_noticed() {
    let server = Store::new(&[]).start();
    // More than there may be at once, one after the other.
    for _ in 0..30 {
        let mut client = watcher(&server, "fetchers");
        client.send(b"get nosuch\r\nset a 0 0 1\r\nx\r\n");
        drop(client);
        eventually("the watcher is gone", || (server.client().stat("curr_connections") == 1).then_some(()));
    }
    assert_eq!(server.client().stat("cmd_get"), 0);
    let mut watchers: Vec<Client> = (0..20).map(|_| watcher(&server, "fetchers")).collect();
    let mut client = server.client();
    assert_eq!(client.ask("watch fetchers"), "WATCHER_TOO_MANY log watcher limit reached");
    assert_eq!(client.get("nosuch"), None);
    for watcher in &mut watchers {
        assert_eq!(told(watcher), "item_get key=nosuch status=not_found clsid=0 size=0");
    }
    server.terminate();
    assert!(watchers[0].until_closed().is_empty());
}

#[test]
fn a_watcher_that_does_not_read_loses_lines_and_stops_nobody() {
    let mut server = Store::new(&[]).start();
    let mut slow = watcher(&server, "fetchers");
    let mut client = server.client();
    let memory = server.process().resident_size();
    let count = 300_000;
    let batch = b"get a-key-that-is-nowhere\r\n".repeat(1000);
    for _ in 0..count / 1000 {
        let _ = client.exchange(&batch);
    }
    assert!(server.process().resident_size() < memory + 16 * 1024 * 1024, "what waits for it is bounded");
    // What waited for it comes, and then what it has lost.
    let mut lines = 0;
    let skipped = loop {
        let line = slow.any_line();
        if let Some(number) = line.strip_prefix("skipped=") {
            break number.parse::<usize>().unwrap();
        }
        lines += 1;
        if lines % 100 == 0 {
            assert_eq!(client.get("nosuch"), None);
        }
    };
    assert!(lines + skipped >= count && skipped > count / 10, "{lines} lines and {skipped} lost");
}

#[test]
fn watching_can_be_refused() {
    let server = Store::new(&["-W"]).start();
    for request in ["watch", "watch fetchers", "watch nothing"] {
        assert_eq!(server.client().ask(request), "CLIENT_ERROR watch commands not allowed");
    }
    let server = Store::new(&[]).start();
    let mut client = server.client();
    assert_eq!(client.ask("watch nothing"), "ERROR");
    assert_eq!(client.ask("watch fetchers noise"), "ERROR");
    assert!(client.exchange(b"watch fetchers noreply\r\n").is_empty());
    let answers = client.exchange(b"mn\r\nwatch fetchers\r\n");
    assert_eq!(String::from_utf8_lossy(&answers), "MN\r\nERROR cannot pipeline other commands before watch\r\n");
}

#[test]
fn watchers_are_told_of_each_item_that_is_evicted() {
    let flags = ["--table-size", "1m", "--capacity", "16m", "-I", "256k"];
    let server = Store::new(&flags).start();
    let mut watcher = watcher(&server, "evictions");
    let mut client = server.client();
    let value = "v".repeat(3000);
    let mut evicted = std::collections::BTreeSet::new();
    // A slow watcher loses lines: so few are written at a time, and what they made is taken.
    for number in 0..8000 {
        client.set(&format!("key-{number:06}"), value.as_bytes());
        if number % 250 == 249 {
            let count = client.stat("evictions");
            while evicted.len() < count as usize {
                let line = told(&mut watcher);
                let key = line.strip_prefix("eviction key=").unwrap_or_else(|| panic!("{line}"));
                let (key, rest) = key.split_once(' ').expect("more follows");
                assert!(rest.starts_with("fetch=no ttl=-1 la=") && rest.ends_with(" clsid=1 size=3000"), "{line}");
                assert!(evicted.insert(key.to_owned()), "{key} is told twice");
            }
        }
    }
    assert!(evicted.len() > 1000, "{}", evicted.len());
    for key in &evicted {
        assert_eq!(client.get(key), None, "{key}");
    }
}
