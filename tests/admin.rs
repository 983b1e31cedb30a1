//! Commands about the server rather than about a record.

use crate::support::{Client, Store, value_of};

#[test]
fn after_debugflush_every_get_reads_the_disk() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    for _ in 0..3 {
        let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
        keys.iter().for_each(|key| client.set(key, &value_of(key, 500)));
        assert_eq!(client.ask("debugflush"), "OK");
        let before = client.stat("disk_reads");
        assert!(keys.iter().all(|key| client.has_intact(key, 500)));
        assert_eq!(client.stat("disk_reads") - before, 200, "one read each");
    }
}

#[test]
fn debugflush_in_a_pipeline_has_its_place() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    let answers =
        client.exchange(b"set a 0 0 1\r\nx\r\ndebugflush\r\nget a\r\nset a 0 0 1\r\ny\r\ndebugflush\r\nget a\r\n");
    let wanted = "STORED\r\nOK\r\nVALUE a 0 1\r\nx\r\nEND\r\nSTORED\r\nOK\r\nVALUE a 0 1\r\ny\r\nEND\r\n";
    assert_eq!(String::from_utf8_lossy(&answers), wanted);
    assert_eq!(client.stat("get_extstore"), 2);
}

#[test]
fn debugtime_moves_what_records_expire_by() {
    let store = Store::new(&["--debug-commands"]);
    let server = store.start();
    let mut client = server.client();
    assert_eq!(client.ask("debugtime p"), "OK");
    client.set_with("short", b"v", 0, 100);
    client.set_with("long", b"v", 0, 1000);
    client.set_with("ever", b"v", 0, 0);
    let there = |client: &mut Client| ["short", "long", "ever"].map(|key| client.get(key).is_some());
    let time = client.stat("time");
    for (command, seconds, is_there) in [
        ("debugtime 99", 99, [true, true, true]),
        ("debugtime +1", 100, [false, true, true]),
        ("debugtime 899", 999, [false, true, true]),
        ("debugtime 1", 1000, [false, false, true]),
    ] {
        assert_eq!(client.ask(command), "OK");
        assert_eq!(there(&mut client), is_there, "{seconds} seconds later");
        assert_eq!(client.stat("time") - time, seconds);
    }
    assert_eq!(client.ask("debugtime -1000"), "OK");
    assert_eq!(client.stat("time"), time);
    assert_eq!(client.ask("debugtime r"), "OK");
    assert_eq!(client.ask("debugtime"), "ERROR");
    assert_eq!(client.ask("debugtime soon"), "ERROR");
}

#[test]
fn without_their_flag_debugging_commands_are_none() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    for command in ["debugtime p", "debugtime 1", "debugflush", "misbehave"] {
        assert_eq!(client.ask(command), "ERROR", "{command}");
    }
}
