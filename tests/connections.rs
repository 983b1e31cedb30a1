//! Connections: many of them, one too many, those that end half-way or all at once, those that say nothing, and those
//! that are being answered when the server is told to stop.

use crate::support::{Client, Server, Store, eventually, may_open_files, shown, skip, value_of};
use std::sync::atomic::{AtomicBool, Ordering};

const COUNT: usize = 2000;

fn key(number: usize) -> String {
    format!("disk-{number:05}")
}

/// Not a whole number of anything, and no two neighbours alike.
fn size(number: usize) -> usize {
    100 + number * 7919 % 3000
}

/// A server that was just started on [`COUNT`] records, so that none is in RAM.
fn cold_server(flags: &[&str]) -> (Store, Server) {
    let store = Store::new(flags);
    let server = store.start();
    let mut client = server.client();
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), size(number))));
    drop(client);
    server.terminate();
    let server = store.start();
    (store, server)
}

/// Gets of records, and what answers them.
fn gets(numbers: impl Iterator<Item = usize>) -> (Vec<u8>, Vec<u8>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for number in numbers {
        requests.extend_from_slice(format!("get {}\r\n", key(number)).as_bytes());
        answers.extend_from_slice(format!("VALUE {} 0 {}\r\n", key(number), size(number)).as_bytes());
        answers.extend_from_slice(&value_of(&key(number), size(number)));
        answers.extend_from_slice(b"\r\nEND\r\n");
    }
    (requests, answers)
}

/// Waits until `client` is alone.
fn wait_until_alone(client: &mut Client) {
    eventually("the other connections are gone", || (client.stat("curr_connections") == 1).then_some(()));
}

#[test]
fn fifteen_hundred_idle_connections_do_not_disturb_those_that_work() {
    let name = "fifteen_hundred_idle_connections_do_not_disturb_those_that_work";
    if !may_open_files(4000) {
        return skip(name, "the hard limit of open files is below 4000");
    }
    let (_store, server) = cold_server(&["-c", "2000"]);
    let mut idle: Vec<Client> = (0..1500).map(|_| server.client()).collect();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let (requests, answers) = gets((0..COUNT).filter(|number| number % 8 == worker));
                let mut client = server.client();
                for number in 0..100 {
                    client.set(&format!("worker-{worker}-{number}"), &value_of("w", number * 10));
                }
                let answer = client.converse(&[&requests[..], b"quit\r\n"].concat(), usize::MAX);
                assert!(answer == answers, "worker {worker} got {}", shown(&answer));
            });
        }
    });
    eventually("the workers are gone", || (idle[0].stat("curr_connections") == 1500).then_some(()));
    assert_eq!(idle[0].stat("total_connections"), 1508);
    for (number, client) in idle.iter_mut().enumerate() {
        client.send(format!("get {}\r\n", key(number)).as_bytes());
    }
    for (number, client) in idle.iter_mut().enumerate() {
        let (_, answer) = gets([number].into_iter());
        assert!(client.exactly(answer.len()) == answer, "idle connection {number}");
    }
    let mut last = idle.pop().expect("there are many");
    drop(idle);
    wait_until_alone(&mut last);
    drop(last);
    server.terminate();
}

#[test]
fn one_connection_too_many_is_told_so_and_a_freed_place_is_given_away() {
    let server = Store::new(&["-c", "5"]).start();
    let mut clients: Vec<Client> = (0..5).map(|_| server.client()).collect();
    for client in &mut clients {
        assert!(client.ask("version").starts_with("VERSION "));
    }
    for count in 1..=50 {
        assert_eq!(shown(&server.client().until_closed()), shown(b"ERROR Too many open connections\r\n"));
        assert_eq!(clients[0].stat("rejected_connections"), count);
    }
    assert_eq!((clients[0].stat("curr_connections"), clients[0].stat("total_connections")), (5, 5));
    for round in 0..20 {
        // In all the ways in which a place becomes free.
        let mut leaving = clients.pop().expect("five are there");
        match round % 4 {
            0 => drop(leaving),
            1 => leaving.reset(),
            2 => leaving.send(b"quit\r\n"),
            _ => leaving.close_writing(),
        }
        eventually("a place is free", || (clients[0].stat("curr_connections") == 4).then_some(()));
        let mut new = server.client();
        assert!(new.ask("version").starts_with("VERSION "), "round {round}");
        clients.push(new);
    }
}

#[test]
fn a_half_closed_connection_gets_all_its_answers_and_is_closed() {
    let (_store, server) = cold_server(&[]);
    for piece_size in [usize::MAX, 1000, 17] {
        let (mut requests, answers) = gets((0..COUNT).map(|number| number * 1009 % COUNT).take(500));
        // The last request does not come to its end, so that nobody answers it.
        requests.extend_from_slice(b"set half 0 0 10\r\n12345");
        let answer = server.client().converse_and_half_close(&requests, piece_size);
        assert!(answer == answers, "in pieces of {piece_size}: {} of {} bytes", answer.len(), answers.len());
    }
    let mut client = server.client();
    assert_eq!(client.get("half"), None);
    // What has no answer is done all the same.
    let mut silent = server.client();
    silent
        .send(b"set silent 0 0 4 noreply\r\ndone\r\nincr absent 1 noreply\r\nappend disk-00000 0 0 1 noreply\r\n!\r\n");
    silent.close_writing();
    assert_eq!(shown(&silent.until_closed()), "");
    assert_eq!(client.get("silent").as_deref(), Some(&b"done"[..]));
    let appended = [value_of(&key(0), size(0)), b"!".to_vec()].concat();
    assert!(client.get(&key(0)) == Some(appended), "a record on disk was appended to");
    wait_until_alone(&mut client);
}

#[test]
fn connections_that_are_reset_while_their_reads_are_in_flight_leave_nothing_behind() {
    let (_store, server) = cold_server(&[]);
    let (requests, answers) = gets(0..100);
    let update = format!("append {} 0 0 1\r\nx\r\n", key(150));
    // Together far more gets than may wait for the disk at once: were one of them kept, the last would get no answer.
    for round in 0..200 {
        let mut client = server.client();
        client.send(if round % 5 == 4 { update.as_bytes() } else { &requests });
        match round % 3 {
            0 => client.reset(),
            1 => drop(client),
            // After the first answers have come.
            _ => {
                client.some(1);
                client.reset();
            }
        }
    }
    let mut client = server.client();
    wait_until_alone(&mut client);
    client.send(&requests);
    assert!(client.exactly(answers.len()) == answers, "gets after the resets");
    drop(client);
    server.terminate();
}

#[test]
fn a_client_that_never_reads_is_held_back_and_gets_everything_at_last() {
    let (_store, mut server) = cold_server(&[]);
    let mut other = server.client();
    other.set("large", &value_of("large", 200_000));
    let before = server.process().resident_size();
    // Answers of 70 MB in all, from memory and from disk.
    let (from_disk, disk_answers) = gets(0..COUNT);
    let mut deaf = server.client();
    deaf.receive_little();
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    let large = [&b"VALUE large 0 200000\r\n"[..], &value_of("large", 200_000), b"\r\nEND\r\n"].concat();
    for _ in 0..10 {
        requests.extend_from_slice(&b"get large\r\n".repeat(20));
        requests.extend_from_slice(&from_disk);
        expected.extend_from_slice(&large.repeat(20));
        expected.extend_from_slice(&disk_answers);
    }
    requests.extend_from_slice(b"quit\r\n");
    std::thread::scope(|scope| {
        let mut writer = deaf.duplicate();
        scope.spawn(move || writer.send_if_open(&requests));
        for number in 0..COUNT {
            assert!(other.has_intact(&key(number), size(number)), "others are served: {}", key(number));
        }
        let grown = server.process().resident_size().saturating_sub(before);
        assert!(grown < 32 << 20, "answers that nobody reads took {grown} bytes");
        let answer = deaf.until_closed();
        let differs = answer.iter().zip(&expected).position(|(got, wanted)| got != wanted);
        assert_eq!((differs, answer.len()), (None, expected.len()), "where they differ, and the bytes that came");
    });
}

#[test]
fn silent_connections_are_closed_after_the_idle_timeout_and_others_are_not() {
    let server = Store::new(&["-o", "idle_timeout=1,maxconns_fast"]).start();
    let mut active = server.client();
    let mut silent: Vec<Client> = (0..3).map(|_| server.client()).collect();
    // One that has spoken once is silent too.
    silent[1].set("once", b"x");
    let are_closed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for client in &mut silent {
                assert_eq!(shown(&client.until_closed()), "", "a silent connection is closed without a word");
            }
            are_closed.store(true, Ordering::Release);
        });
        // Asked all the time, so that it is never silent for a second.
        eventually("the silent ones are closed", || {
            assert!(active.ask("version").starts_with("VERSION "));
            are_closed.load(Ordering::Acquire).then_some(())
        });
    });
    wait_until_alone(&mut active);
    let stats = active.stats();
    let told = ["idle_kicks", "total_connections"].map(|name| stats[name].as_str());
    assert_eq!(told, ["3", "4"], "three were closed, the active one was not");
}

#[test]
fn without_an_idle_timeout_nobody_is_closed_for_silence() {
    let server = Store::new(&["-o", "idle_timeout=0"]).start();
    let mut silent = server.client();
    let mut client = server.client();
    let begun = client.stat("time");
    eventually("three seconds pass", || (client.stat("time") >= begun + 3).then_some(()));
    assert!(silent.ask("version").starts_with("VERSION "));
    assert_eq!(client.stat("idle_kicks"), 0);
}

#[test]
fn connections_take_turns_after_as_many_requests_as_the_flag_says() {
    for (flag, yields_min) in [("1", 900), ("20", 10)] {
        let (_store, server) = cold_server(&["-R", flag]);
        let mut client = server.client();
        client.set("hot", b"x");
        let before = client.stat("conn_yields");
        client.send(&b"get hot\r\n".repeat(1000));
        let expected = b"VALUE hot 0 1\r\nx\r\nEND\r\n".repeat(1000);
        assert!(client.exactly(expected.len()) == expected, "-R {flag}: gets of a record in memory");
        let yields = client.stat("conn_yields") - before;
        assert!((yields_min..=1000).contains(&yields), "-R {flag}: {yields} turns were given to others");
        let (requests, answers) = gets(0..500);
        client.send(&requests);
        assert!(client.exactly(answers.len()) == answers, "-R {flag}: gets of records on disk");
    }
}

#[test]
fn a_server_that_spins_answers_the_same() {
    let (_store, server) = cold_server(&["--spin-us", "50"]);
    let mut client = server.client();
    for number in 0..200 {
        assert!(client.has_intact(&key(number), size(number)), "{}", key(number));
        client.set("hot", &value_of("hot", number));
        assert_eq!(client.get("hot"), Some(value_of("hot", number)));
    }
    let (requests, answers) = gets(200..700);
    client.send(&requests);
    assert!(client.exactly(answers.len()) == answers, "a pipeline");
    drop(client);
    server.terminate();
}

#[test]
fn what_was_received_before_the_stop_is_answered() {
    let (_store, server) = cold_server(&[]);
    // More than sockets hold on their own, and requests that are received although nobody takes the answers.
    let (requests, answers) = gets((0..COUNT).cycle().take(3000));
    assert!(requests.len() < 60_000 && answers.len() > 4_500_000);
    let mut other = server.client();
    let mut client = server.client();
    let before = other.stat("bytes_read");
    client.send(&requests);
    let mut asked_size = 0;
    eventually("the requests are received", || {
        asked_size += b"stats\r\n".len();
        (other.stat("bytes_read") == before + (requests.len() + asked_size) as u64).then_some(())
    });
    server.process_signal(nix::sys::signal::Signal::SIGTERM);
    let answer = client.until_closed();
    assert!(answer == answers, "{} of {} bytes came", answer.len(), answers.len());
    drop(client);
    server.wait_for_success();
}

/// Sets of a client that goes on until the server closes; gives how many were acknowledged.
fn set_until_closed(mut client: Client, worker: usize) -> usize {
    let mut writer = client.duplicate();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            (0..).all(|number| {
                let key = format!("stop-{worker}-{number}");
                let head = format!("set {key} 0 0 500\r\n");
                writer.send_if_open(&[head.as_bytes(), &value_of(&key, 500), b"\r\n"].concat())
            })
        });
        let answer = client.until_closed();
        assert_eq!(answer.len() % 8, 0, "the answers end in the middle of one: {}", shown(&answer));
        assert!(answer == b"STORED\r\n".repeat(answer.len() / 8), "{}", shown(&answer));
        answer.len() / 8
    })
}

#[test]
fn a_stop_in_the_middle_of_pipelines_loses_nothing_that_was_acknowledged() {
    // Room for all that they can send until then: nothing is evicted.
    let store = Store::new(&["--capacity", "2g", "-m", "128"]);
    let server = store.start();
    let acknowledged: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let client = server.client();
                scope.spawn(move || set_until_closed(client, worker))
            })
            .collect();
        let mut client = server.client();
        eventually("all of them are at work", || (client.stat("cmd_set") > 5000).then_some(()));
        server.process_signal(nix::sys::signal::Signal::SIGTERM);
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    // Nobody who goes on sending keeps the server: what comes behind the signal is not executed.
    assert!(!ended.stderr.contains("not taken their answers"), "{}", ended.stderr);
    assert!(acknowledged.iter().sum::<usize>() >= 5000, "{acknowledged:?}");
    let server = store.start();
    let mut client = server.client();
    for (worker, count) in acknowledged.into_iter().enumerate() {
        let keys: Vec<String> = (0..count).map(|number| format!("stop-{worker}-{number}")).collect();
        for batch in keys.chunks(100) {
            let requests: String = batch.iter().map(|key| format!("get {key}\r\n")).collect();
            client.send(requests.as_bytes());
            for key in batch {
                let expected = [format!("VALUE {key} 0 500\r\n").as_bytes(), &value_of(key, 500), b"\r\n"].concat();
                assert_eq!(shown(&client.exactly(expected.len())), shown(&expected), "{count} were acknowledged");
                assert_eq!(client.line(), "END");
            }
        }
    }
}
