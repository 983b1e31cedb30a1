//! Input that no client in its right mind sends, and clients that behave badly: the server answers memcached's error,
//! or closes, and everybody else is served on.

use crate::support::{Client, Server, Store, eventually, scratch_directory, shown, skip, value_of};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A server, after checking at the end of `attack` that it still serves a new client, and keeps no connection of the
/// old ones.
fn survives(flags: &[&str], attack: impl FnOnce(&Server)) {
    let store = Store::new(flags);
    let mut server = store.start();
    server.client().set("witness", b"unharmed");
    attack(&server);
    let mut client = server.client();
    assert_eq!(client.get("witness").as_deref(), Some(&b"unharmed"[..]));
    eventually("the attackers' connections are closed", || (client.stat("curr_connections") == 1).then_some(()));
    assert!(server.process().is_running());
    drop(client);
    server.terminate();
}

#[test]
fn a_line_that_never_ends_closes_the_connection() {
    survives(&[], |server| {
        let mut client = server.client();
        client.send_if_open(&vec![b'a'; 3000]);
        let answer = client.until_closed();
        assert!(
            answer.is_empty() || answer.starts_with(b"ERROR") || answer.starts_with(b"CLIENT_ERROR"),
            "{}",
            shown(&answer)
        );
    });
}

#[test]
fn a_multiget_of_thousands_of_keys_is_answered() {
    survives(&["-m", "128"], |server| {
        let mut client = server.client();
        let keys: Vec<String> = (0..20_000).map(|number| format!("key-{number:06}")).collect();
        for key in keys.iter().step_by(100) {
            client.set(key, &value_of(key, 50));
        }
        client.send(format!("get {}\r\n", keys.join(" ")).as_bytes());
        for key in keys.iter().step_by(100) {
            assert_eq!(client.line(), format!("VALUE {key} 0 50"));
            assert_eq!(client.exactly(52)[..50], value_of(key, 50)[..]);
        }
        assert_eq!(client.line(), "END");
    });
}

#[test]
fn a_multiget_line_without_end_does_not_eat_the_memory() {
    survives(&[], |server| {
        let mut client = server.client();
        let piece =
            b"get ".iter().copied().chain(b"0123456789 ".iter().copied().cycle().take(1 << 20)).collect::<Vec<u8>>();
        let mut sent_count = 0;
        while sent_count < 64 && client.send_if_open(if sent_count == 0 { &piece } else { &piece[4..] }) {
            sent_count += 1;
        }
        assert!(sent_count < 64, "64 MiB of one line were taken");
    });
}

#[test]
fn sizes_that_are_none_are_refused_at_once() {
    survives(&[], |server| {
        let mut client = server.client();
        for size in [
            "-1",
            "-2147483648",
            "2147483646",
            "2147483647",
            "18446744073709551615",
            "18446744073709551616",
            "1e3",
            "0x10",
            "",
        ] {
            let answer = client.exchange(format!("set k 0 0 {size}\r\n").as_bytes());
            let text = String::from_utf8_lossy(&answer).into_owned();
            let refused = ["CLIENT_ERROR bad command line format\r\n", "ERROR\r\n"].contains(&text.as_str());
            assert!(refused, "size {size}: {text}");
        }
        assert_eq!(client.get("k"), None);
    });
}

#[test]
fn a_huge_size_is_refused_without_memory_for_it() {
    let store = Store::new(&[]);
    let mut server = store.start();
    let before = server.process().resident_size();
    let mut clients: Vec<Client> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(b"set k 0 0 2000000000\r\na part of two billion bytes");
    }
    assert_eq!(server.client().get("k"), None);
    let after = server.process().resident_size();
    assert!(after < before + (32 << 20), "resident {before} became {after}");
}

#[test]
fn promised_values_that_do_not_come_cost_no_memory() {
    let store = Store::new(&[]);
    let mut server = store.start();
    let before = server.process().resident_size();
    let mut clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(b"set k 0 0 1000000\r\nthe first bytes");
    }
    assert_eq!(server.client().get("k"), None);
    let after = server.process().resident_size();
    assert!(after < before + (100 << 20), "200 announced megabytes took {} bytes", after - before);
}

#[test]
fn garbage_is_answered_with_errors_and_nothing_else() {
    survives(&[], |server| {
        for round in 0..50 {
            let mut client = server.client();
            let mut garbage = value_of(&format!("garbage {round}"), 4000);
            // A first byte of 0x80 asks for the binary protocol, which is another conversation.
            garbage[0] &= 0x7f;
            client.send_if_open(&garbage);
            client.send_if_open(b"\r\nversion\r\nquit\r\n");
            let answer = client.until_closed();
            for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let known = [&b"ERROR"[..], b"CLIENT_ERROR ", b"VERSION "].iter().any(|start| line.starts_with(start));
                assert!(known, "round {round}: {}", shown(line));
            }
        }
    });
}

#[test]
fn binary_requests_end_in_a_closed_connection_or_an_error() {
    survives(&[], |server| {
        let mut client = server.client();
        let mut request = [0; 24];
        (request[0], request[1]) = (0x80, 0x0b);
        client.send(&request);
        client.close_writing();
        assert!(client.until_closed().len() < 4096);
    });
}

#[test]
fn a_browser_is_hung_up_on() {
    // A page can make a browser send requests to any port; memcached closes rather than run the body as commands.
    survives(&[], |server| {
        let mut client = server.client();
        client.send_if_open(b"POST / HTTP/1.1\r\nset evil 0 0 1\r\nx\r\n");
        assert_eq!(shown(&client.until_closed()), "");
        assert_eq!(server.client().get("evil"), None);
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_value_changes_nothing() {
    survives(&[], |server| {
        server.client().set("k", b"old");
        for sent in [0, 1, 50_000, 99_999, 100_001] {
            let mut client = server.client();
            client.send(b"set k 0 0 100000\r\n");
            client.send(&vec![b'n'; sent]);
            client.close_writing();
            client.until_closed();
        }
        assert_eq!(server.client().get("k").as_deref(), Some(&b"old"[..]));
    });
}

#[test]
fn an_item_above_the_limit_takes_the_old_value_with_it() {
    survives(&["-I", "10k"], |server| {
        let mut client = server.client();
        // memcached counts its header, the key and the line end: 48 + 8 + 1 + 2 bytes beside key and value.
        let largest = 10 * 1024 - 59 - 1;
        client.set("k", &value_of("k", largest));
        assert_eq!(client.get("k"), Some(value_of("k", largest)));
        let answer = client.store("set", "k", &value_of("k", largest + 64), 0, 0);
        assert_eq!(answer, "SERVER_ERROR object too large for cache");
        assert_eq!(client.get("k"), None, "the old value must not outlive a newer set");
    });
}

#[test]
fn appending_beyond_the_limit_is_refused_and_keeps_the_value() {
    survives(&["-I", "10k"], |server| {
        let mut client = server.client();
        client.set("k", &value_of("k", 6000));
        assert_eq!(client.store("append", "k", &value_of("l", 6000), 0, 0), "NOT_STORED");
        assert_eq!(client.get("k"), Some(value_of("k", 6000)));
    });
}

#[test]
fn a_thousand_connections_are_all_served_and_one_more_is_told_so() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    if hard < 2500 {
        return skip("a_thousand_connections_...", &format!("the hard limit of open files is {hard}"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(2500), hard).expect("the soft limit may rise up to the hard one");
    let store = Store::new(&["-c", "1000"]);
    let server = store.start();
    let mut clients: Vec<Client> = (0..1000).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("set key-{number} 0 0 4\r\n{number:04}\r\nget key-{number}\r\n").as_bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line(), "STORED", "connection {number}");
        assert_eq!(client.line(), format!("VALUE key-{number} 0 4"));
        assert_eq!(client.exactly(11), format!("{number:04}\r\nEND\r\n").as_bytes());
    }
    assert_eq!(clients[0].stat("curr_connections"), 1000);
    let answer = server.client().until_closed();
    assert_eq!(shown(&answer), shown(b"ERROR Too many open connections\r\n"));
    assert_eq!(clients[0].stat("rejected_connections"), 1);
    clients.truncate(999);
    eventually("a freed place is given away", || {
        let mut client = server.client();
        client.send_if_open(b"version\r\n").then(|| client.line()).filter(|line| line.starts_with("VERSION"))
    });
}

#[test]
fn a_slow_reader_gets_every_byte_and_stops_nobody() {
    let store = Store::new(&["-m", "128", "--capacity", "128m"]);
    let mut server = store.start();
    let size = 500_000;
    server.client().set("large", &value_of("large", size));
    let before = server.process().resident_size();
    let mut slow = server.client();
    let rounds = 200;
    for _ in 0..rounds {
        slow.send(b"get large\r\n");
    }
    // 100 MB wait for a client that does not read; another one is served meanwhile, and the memory stays.
    let mut other = server.client();
    for number in 0..100 {
        other.set(&format!("other-{number}"), b"x");
        assert_eq!(other.get(&format!("other-{number}")).as_deref(), Some(&b"x"[..]));
    }
    let after = server.process().resident_size();
    assert!(after < before + (64 << 20), "answers nobody reads took {} bytes", after - before);
    let expected = value_of("large", size);
    for round in 0..rounds {
        assert_eq!(slow.line(), format!("VALUE large 0 {size}"), "round {round}");
        assert!(slow.exactly(size) == expected, "round {round}: the value came changed");
        assert_eq!(slow.exactly(7), b"\r\nEND\r\n");
    }
}

#[test]
fn a_reader_that_never_reads_does_not_stop_the_shutdown() {
    let store = Store::new(&["-m", "128"]);
    let server = store.start();
    server.client().set("large", &value_of("large", 500_000));
    let mut deaf = server.client();
    for _ in 0..100 {
        deaf.send(b"get large\r\n");
    }
    server.terminate();
}

#[test]
fn a_pipeline_cut_anywhere_is_answered_the_same() {
    let store = Store::new(&[]);
    let server = store.start();
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for number in 0..40_usize {
        let value = value_of(&format!("cut-{number}"), number * 7);
        stream.extend_from_slice(format!("set cut-{number} {number} 0 {}\r\n", value.len()).as_bytes());
        stream.extend_from_slice(&value);
        stream.extend_from_slice(format!("\r\nget cut-{number} none\r\nincr cut-none 1\r\nbogus\r\n").as_bytes());
        expected.extend_from_slice(format!("STORED\r\nVALUE cut-{number} {number} {}\r\n", value.len()).as_bytes());
        expected.extend_from_slice(&value);
        expected.extend_from_slice(b"\r\nEND\r\nNOT_FOUND\r\nERROR\r\n");
    }
    for piece_size in [1, 2, 3, 7, 61, 509, 4093, stream.len()] {
        let mut client = server.client();
        for piece in stream.chunks(piece_size) {
            client.send(piece);
        }
        let answer = client.exactly(expected.len());
        let differs = answer.iter().zip(&expected).position(|(got, wanted)| got != wanted);
        assert_eq!(differs, None, "cut every {piece_size} bytes, near {}", shown(&answer[differs.unwrap_or(0)..]));
    }
}

#[test]
fn ten_thousand_pipelined_requests_on_one_connection_keep_their_order() {
    let store = Store::new(&[]);
    let server = store.start();
    let mut client = server.client();
    client.set("n", b"0");
    let mut requests = b"incr n 1\r\n".repeat(10_000);
    requests.extend_from_slice(b"get n\r\n");
    client.send(&requests);
    for number in 1..=10_000 {
        assert_eq!(client.line(), number.to_string());
    }
    assert_eq!(client.line(), "VALUE n 0 5");
}

#[test]
fn connections_come_and_go_without_a_trace() {
    survives(&[], |server| {
        for number in 0..2000 {
            let mut client = server.client();
            if number % 2 == 0 {
                client.set("short", b"visit");
            } else {
                client.send(b"get sh");
            }
        }
    });
}

#[test]
fn a_relative_data_directory_belongs_to_the_directory_of_the_start() {
    let scratch = scratch_directory();
    let store = Store::at(std::path::Path::new("relative-data"), &[]);
    let server = store.start_in(scratch.path());
    server.client().set("a", b"x");
    server.terminate();
    assert!(scratch.path().join("relative-data").join("superblock").is_file());
}
