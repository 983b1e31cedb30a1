//! The scrub of a real server finds damage that nobody has asked for yet.

use crate::support::damage::{find, flip};
use crate::support::{Store, eventually, value_of};

const COUNT: u32 = 3000;
const VALUE_SIZE: usize = 2000;
const FLAGS: [&str; 7] = ["--debug-commands", "--table-size", "1m", "--capacity", "24m", "-I", "256k"];

fn key(number: u32) -> String {
    format!("scrubbed-{number:05}")
}

#[test]
fn damage_is_counted_and_logged_before_a_get_meets_it() {
    let store = Store::new(&[&FLAGS[..], &["--scrub-interval", "1s"]].concat());
    let mut server = store.start();
    let mut client = server.client();
    assert_eq!(client.stats_of("stats settings")["scrub_interval"], "1");
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), VALUE_SIZE)));
    assert_eq!(client.ask("debugflush"), "OK");
    // A pass that has begun after the records were on disk finds them sound.
    let passes = client.stat("scrub_passes");
    eventually("two passes", || (client.stat("scrub_passes") >= passes + 2).then_some(()));
    assert!(client.stat("scrub_bytes") > 2 * u64::from(COUNT / 2) * VALUE_SIZE as u64);
    for name in ["scrub_bad_records", "scrub_bad_dead_records", "scrub_bad_pages", "scrub_read_errors"] {
        assert_eq!(client.stat(name), 0, "{name}");
    }

    let (table, offset) = find(store.directory(), &value_of(&key(7), VALUE_SIZE));
    flip(&table, offset + 1000);
    eventually("the damage is found", || (client.stat("scrub_bad_records") == 1).then_some(()));
    let stderr = server.process().stderr();
    assert!(stderr.contains("scrub: the record at offset"), "{stderr}");
    let stats = client.stats();
    assert_eq!((&*stats["badcrc_from_extstore"], &*stats["disk_reads"]), ("0", "0"), "no client has met it");
    assert_eq!(client.get(&key(7)), None);
    assert_eq!(client.stat("disk_reads"), 0, "it is known to be gone");
    for number in (0..COUNT).filter(|number| *number != 7) {
        assert!(client.has_intact(&key(number), VALUE_SIZE), "{}", key(number));
    }
    drop(client);
    server.terminate();
    assert_eq!(store.start().client().get(&key(7)), None, "nor does it come back");
}

#[test]
fn a_server_that_was_not_told_to_does_not_scrub() {
    let store = Store::new(&FLAGS);
    let server = store.start();
    let mut client = server.client();
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), VALUE_SIZE)));
    assert_eq!(client.ask("debugflush"), "OK");
    let (settings, stats) = (client.stats_of("stats settings"), client.stats());
    assert_eq!((&*settings["scrub_interval"], &*stats["scrub_bytes"]), ("off", "0"));
}
