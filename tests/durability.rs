//! `--durability sync`: what is answered is on the disk, in every protocol and however requests come; and what the disk has
//! refused is not answered as if it were there.

use crate::support::damage::tables;
use crate::support::{Client, Server, Store, can_run, eventually, skip, value_of};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use zerocopy::big_endian::{U16, U32};

const SYNC: [&str; 4] = ["--durability", "sync", "--flush-interval", "60s"];
const REFUSED: &str = "SERVER_ERROR disk write failed, the change may be lost\r\n";

/// Whether some table holds `needle` at this moment.
fn is_on_disk(directory: &Path, needle: &[u8]) -> bool {
    tables(directory).iter().any(|path| {
        let bytes = std::fs::read(path).expect("a table can be read");
        memchr::memmem::find(&bytes, needle).is_some()
    })
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// A request of the binary protocol.
fn packet(opcode: u8, opaque: u32, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, opcode];
    packet.extend_from_slice(&U16::new(u16::try_from(key.len()).expect("a key")).to_bytes());
    packet.extend_from_slice(&[u8::try_from(extras.len()).expect("extras"), 0, 0, 0]);
    let size = extras.len() + key.len() + value.len();
    packet.extend_from_slice(&U32::new(u32::try_from(size).expect("a body")).to_bytes());
    packet.extend_from_slice(&U32::new(opaque).to_bytes());
    packet.extend_from_slice(&[0; 8]);
    [&packet[..], extras, key, value].concat()
}

/// The next answer of the binary protocol: opcode, status, opaque, and the value behind extras and key.
fn answer(client: &mut Client) -> (u8, u16, u32, Vec<u8>) {
    let header = client.exactly(24);
    assert_eq!(header[0], 0x81);
    let number = |at: usize| U32::from_bytes(header[at..at + 4].try_into().expect("four bytes")).get();
    let body = client.exactly(number(8) as usize);
    let skipped = usize::from(header[4]) + usize::from(U16::from_bytes([header[2], header[3]]).get());
    (header[1], U16::from_bytes([header[6], header[7]]).get(), number(12), body[skipped..].to_vec())
}

#[test]
fn an_answer_comes_when_the_bytes_are_on_the_disk() {
    for (flags, is_there) in [(&SYNC[..], true), (&SYNC[2..], false)] {
        let store = Store::new(flags);
        let server = store.start();
        let mut client = server.client();
        for number in 0..20 {
            let (key, before) = (format!("key-{number}"), client.stat("commits"));
            let value = value_of(&key, 64);
            client.set(&key, &value);
            assert_eq!(is_on_disk(store.directory(), &value), is_there, "{flags:?}");
            assert_eq!(client.stat("commits"), before + u64::from(is_there));
        }
        server.terminate();
    }
}

#[test]
fn what_is_answered_survives_a_kill() {
    let store = Store::new(&SYNC);
    let server = store.start();
    let mut client = server.client();
    for key in ["a", "b", "c", "d", "e"] {
        client.set(key, b"1");
    }
    assert_eq!(client.ask("delete b"), "DELETED");
    assert_eq!(client.ask("incr c 41"), "42");
    assert_eq!(client.ask("touch d 1000000"), "TOUCHED");
    client.send(b"set e 0 0 5 noreply\r\nquiet\r\nappend e 0 0 1 noreply\r\n!\r\nms f 1 q\r\nm\r\nmn\r\n");
    assert_eq!(client.line(), "MN");
    client.send(&packet(0x11, 7, &[0; 8], b"g", b"setq"));
    drop(client);
    let mut binary = server.client();
    binary.send(&[packet(0x11, 7, &[0; 8], b"g", b"setq"), packet(0x0a, 9, &[], b"", b"")].concat());
    assert_eq!(answer(&mut binary), (0x0a, 0, 9, Vec::new()));
    server.kill();
    let server = store.start();
    let mut client = server.client();
    let expected: [(&str, Option<&[u8]>); 7] = [
        ("a", Some(b"1")),
        ("b", None),
        ("c", Some(b"42")),
        ("d", Some(b"1")),
        ("e", Some(b"quiet!")),
        ("f", Some(b"m")),
        ("g", Some(b"setq")),
    ];
    for (key, value) in expected {
        assert_eq!(client.get(key).as_deref(), value, "{key}");
    }
    let time_to_live = client.ask("mg d t");
    assert!(time_to_live.starts_with("HD t99") || time_to_live == "HD t1000000", "{time_to_live}");
    assert_eq!(client.ask("flush_all"), "OK");
    server.kill();
    assert_eq!(store.start().client().get("a"), None);
}

#[test]
fn a_pipeline_is_one_commit_and_is_answered_in_order() {
    let store = Store::new(&[&SYNC[..], &["-R", "1000"]].concat());
    let server = store.start();
    let mut client = server.client();
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for number in 0..300 {
        let value = value_of(&format!("{number}"), 40);
        requests.extend_from_slice(&set(&format!("key-{}", number % 50), &value));
        requests.extend_from_slice(format!("get key-{} absent\r\n", number % 50).as_bytes());
        expected.extend_from_slice(format!("STORED\r\nVALUE key-{} 0 40\r\n", number % 50).as_bytes());
        expected.extend_from_slice(&[&value[..], b"\r\nEND\r\n"].concat());
        if number % 7 == 0 {
            requests.extend_from_slice(format!("delete key-{}\r\nms q{number} 1 q\r\nx\r\n", number % 50).as_bytes());
            requests.extend_from_slice(format!("mg key-{} v\r\n", number % 50).as_bytes());
            expected.extend_from_slice(b"DELETED\r\nEN\r\n");
        }
    }
    let (commits, records) = (client.stat("commits"), client.stat("commit_records"));
    requests.extend_from_slice(b"quit\r\n");
    assert_eq!(server.client().converse(&requests, 1 << 20), expected);
    assert_eq!(client.stat("commit_records") - records, 300 + 2 * 43);
    // It comes in several pieces, and each may be a turn.
    let commits = client.stat("commits") - commits;
    assert!((1..=40).contains(&commits), "{commits} commits");
    server.terminate();
}

#[test]
fn connections_share_commits() {
    const CLIENTS: usize = 48;
    const ROUNDS: usize = 25;
    let store = Store::new(&SYNC);
    let server = store.start();
    let port = server.port();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let (mut writer, mut reader) = (Client::connect(port), Client::connect(port));
                for round in 0..ROUNDS {
                    let (key, value) = (format!("key-{number}"), format!("{round}"));
                    writer.set(&key, value.as_bytes());
                    assert_eq!(reader.get(&key), Some(value.into_bytes()), "what was answered is seen by all");
                }
            });
        }
    });
    let mut client = server.client();
    let (commits, records) = (client.stat("commits"), client.stat("commit_records"));
    assert_eq!(records, (CLIENTS * ROUNDS) as u64);
    assert!(commits < records, "{commits} commits for {records} records");
    server.kill();
    let server = store.start();
    let mut client = server.client();
    for number in 0..CLIENTS {
        assert_eq!(client.get(&format!("key-{number}")), Some(format!("{}", ROUNDS - 1).into_bytes()));
    }
    server.terminate();
}

#[test]
fn a_client_that_does_not_read_is_answered_in_order_when_it_does() {
    let store = Store::new(&[&SYNC[..], &["--debug-commands"]].concat());
    let server = store.start();
    let large = value_of("large", 200_000);
    let mut client = server.client();
    client.receive_little();
    client.set("large", &large);
    assert_eq!(client.ask("debugflush"), "OK");
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for number in 0..100 {
        requests.extend_from_slice(&set("n", format!("{number}").as_bytes()));
        requests.extend_from_slice(b"get large\r\nget n\r\n");
        expected.extend_from_slice(b"STORED\r\nVALUE large 0 200000\r\n");
        expected.extend_from_slice(&large);
        let text = format!("{number}");
        expected.extend_from_slice(format!("\r\nEND\r\nVALUE n 0 {}\r\n{text}\r\nEND\r\n", text.len()).as_bytes());
    }
    client.send(&requests);
    // Another connection is served meanwhile.
    let mut other = server.client();
    for number in 0..20 {
        other.set(&format!("other-{number}"), b"x");
    }
    client.close_writing();
    let answers = client.until_closed();
    assert!(answers == expected, "{} of {} bytes, or in another order", answers.len(), expected.len());
    server.terminate();
}

#[test]
fn who_is_asked_to_stop_answers_what_is_on_its_way() {
    for _ in 0..5 {
        let store = Store::new(&SYNC);
        let server = store.start();
        let mut client = server.client();
        client.set("first", b"x");
        let requests: Vec<u8> = (0..200).flat_map(|number| set(&format!("key-{number}"), b"v")).collect();
        client.send(&requests);
        server.process_signal(Signal::SIGTERM);
        let answers = client.until_closed();
        let count = answers.len() / 8;
        assert_eq!(answers, b"STORED\r\n".repeat(count), "each answer is whole");
        server.wait_for_success();
        let server = store.start();
        let mut client = server.client();
        for number in 0..count {
            assert_eq!(client.get(&format!("key-{number}")).as_deref(), Some(&b"v"[..]), "{number} of {count}");
        }
        server.terminate();
    }
}

#[test]
fn settings_tell_what_is_promised() {
    let setting = |server: &Server, name: &str| server.client().stats_of("stats settings")[name].clone();
    let server = Store::new(&SYNC).start();
    assert_eq!(
        (setting(&server, "durability"), setting(&server, "flush_interval_ms")),
        ("sync".into(), "60000".into())
    );
    assert!(["dsync", "fdatasync"].contains(&setting(&server, "sync_method").as_str()));
    server.terminate();
    let server = Store::new(&[]).start();
    assert_eq!(
        (setting(&server, "durability"), setting(&server, "sync_method")),
        ("memory".into(), "fdatasync".into())
    );
    server.terminate();
    let refusal = Store::new(&["--durability", "disk"]).refusal();
    assert!(refusal.contains("memory and sync"), "{refusal}");
}

// ------------------------------------------------------------------------------------------------------------------
// a disk that refuses

/// A server whose writes can be made to fail: beyond a file size that is set from outside (RLIMIT_FSIZE), the kernel refuses
/// them. `None` where that is not possible.
fn failing(test: &str) -> Option<(Store, Server)> {
    if !can_run("prlimit", &["--version"]) {
        skip(test, "prlimit is not installed");
        return None;
    }
    let flags = ["--debug-commands", "--table-size", "1m", "--capacity", "16m", "-I", "512k"];
    let store = Store::new(&[&SYNC[..], &flags].concat());
    // The signal that comes with it would end the program.
    let server = store.start_through(&["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    // All tables are there, and most may be emptied: otherwise the store would have to make room with what a test needs.
    let mut client = server.client();
    for number in 0..32 {
        client.set(&format!("filler-{number}"), &[b'x'; 400_000]);
    }
    assert_eq!(client.ask("flush_all"), "OK");
    Some((store, server))
}

/// Lets the server's writes fail, or not.
fn set_failing(server: &mut Server, fails: bool) {
    let process = server.process().id().to_string();
    // The soft limit: raising the hard one again may be refused.
    let limit = if fails { "--fsize=0:" } else { "--fsize=unlimited:" };
    let status = Command::new("prlimit").args(["--pid", &process, limit]).status();
    assert!(status.expect("prlimit runs").success());
}

#[test]
fn what_the_disk_refuses_is_an_error_and_gets_stay_as_they_are() {
    let Some((store, mut server)) = failing("what_the_disk_refuses_is_an_error_...") else { return };
    let mut client = server.client();
    let stays = value_of("stays", 3000);
    for key in ["old", "deleted", "stays", "1", "2"] {
        client.set(key, &stays);
    }
    set_failing(&mut server, true);
    let pipeline =
        b"get stays\r\nset old 0 0 1\r\n2\r\nget absent\r\nset n 0 0 1 noreply\r\nx\r\nms m 1 q\r\nx\r\nms m 1\r\n\
        x\r\ndelete deleted\r\nget stays\r\nincr old 1\r\n";
    let hit = [&b"VALUE stays 0 3000\r\n"[..], &stays, b"\r\nEND\r\n"].concat();
    let refused = REFUSED.as_bytes();
    let expected = [&hit, refused, b"END\r\n", refused, refused, refused, &hit, refused].concat();
    let answers = client.exchange(pipeline);
    assert!(answers == expected, "{}", answers.escape_ascii());
    assert!(client.stat("commit_failures") > 0);
    set_failing(&mut server, false);
    for key in ["old", "n", "m", "deleted"] {
        assert!(client.get(key).is_none(), "{key}");
    }
    assert!(client.has_intact("stays", 3000));
    // Tables that could not be emptied are left alone for a second.
    eventually("there is room", || (client.store("set", "old", b"newer", 0, 0) == "STORED").then_some(()));
    assert_eq!(client.stat("deletions_not_noted"), 0);
    client.wait_until_flushed();
    server.kill();
    let server = store.start();
    let mut client = server.client();
    for key in ["n", "m", "deleted"] {
        assert!(client.get(key).is_none(), "{key}");
    }
    assert!(client.has_intact("stays", 3000));
    assert_eq!(client.get("old").as_deref(), Some(&b"newer"[..]));
    server.terminate();
}

#[test]
fn errors_find_their_place_behind_gets_that_wait_for_the_disk() {
    let Some((_store, mut server)) = failing("errors_find_their_place_behind_gets_...") else { return };
    let mut client = server.client();
    let value = value_of("large", 5000);
    for number in 0..6 {
        client.set(&format!("key-{number}"), &value);
    }
    let reads = client.stat("disk_reads");
    assert_eq!(client.ask("debugflush"), "OK");
    set_failing(&mut server, true);
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for number in 0..6 {
        requests.extend_from_slice(format!("get key-{number}\r\nset x{number} 0 0 1\r\nx\r\n").as_bytes());
        requests.extend_from_slice(format!("ms y{number} 1 q\r\nx\r\n").as_bytes());
        expected.extend_from_slice(format!("VALUE key-{number} 0 5000\r\n").as_bytes());
        expected.extend_from_slice(&[&value[..], b"\r\nEND\r\n", REFUSED.as_bytes(), REFUSED.as_bytes()].concat());
    }
    let answers = client.exchange(&requests);
    assert!(answers == expected, "{}", answers.escape_ascii());
    assert!(client.stat("disk_reads") >= reads + 6);
    set_failing(&mut server, false);
    server.kill();
}

#[test]
fn quiet_packets_are_told_too() {
    let Some((_store, mut server)) = failing("quiet_packets_are_told_too") else { return };
    let mut client = server.client();
    client.send(&packet(0x01, 1, &[0; 8], b"k", b"v"));
    assert_eq!(answer(&mut client), (0x01, 0, 1, Vec::new()));
    set_failing(&mut server, true);
    let packets = [
        packet(0x00, 2, &[], b"k", b""),
        packet(0x11, 3, &[0; 8], b"q", b"quiet"),
        packet(0x01, 4, &[0; 8], b"l", b"loud"),
        packet(0x14, 5, &[], b"k", b""),
        packet(0x0a, 6, &[], b"", b""),
    ];
    client.send(&packets.concat());
    let text = b"Disk write failed, the change may be lost".to_vec();
    assert_eq!(answer(&mut client), (0x00, 0, 2, b"v".to_vec()));
    assert_eq!(answer(&mut client), (0x11, 0x84, 3, text.clone()));
    assert_eq!(answer(&mut client), (0x01, 0x84, 4, text.clone()));
    assert_eq!(answer(&mut client), (0x14, 0x84, 5, text));
    assert_eq!(answer(&mut client), (0x0a, 0, 6, Vec::new()));
    server.kill();
}

#[test]
fn a_quiet_packet_is_told_when_there_is_nothing_else_to_answer() {
    let Some((_store, mut server)) = failing("a_quiet_packet_is_told_when_there_is_nothing_else_to_answer") else {
        return;
    };
    let mut client = server.client();
    set_failing(&mut server, true);
    client.send(&packet(0x11, 7, &[0; 8], b"q", b"quiet"));
    let (opcode, status, opaque, _) = answer(&mut client);
    assert_eq!((opcode, status, opaque), (0x11, 0x84, 7));
    server.kill();
}
