//! Where a server listens: several addresses, both families, unix sockets, and what is in its way.

use crate::support::{Client, Server, Store, free_port, scratch_directory, skip};
use nix::sys::signal::Signal;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A client of an address; a failed test if nobody listens there.
fn client_of(address: &str) -> Client {
    let address: SocketAddr = address.parse().expect("an address");
    Client::try_connect_to(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
}

#[test]
fn several_addresses_serve_the_same_data() {
    let name = "several_addresses_serve_the_same_data";
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has_v6 {
        skip(name, "no ::1 on this machine: only IPv4 is tested");
    }
    let (second, third) = (free_port(), free_port());
    let mut addresses = vec![format!("127.0.0.1:{second}"), format!("127.0.0.2:{second}")];
    if has_v6 {
        addresses.push(format!("[::1]:{third}"));
    }
    // In a list and in a flag of its own.
    let list = addresses[..2].join(",");
    let flags: Vec<&str> = ["-l", &list].into_iter().chain(addresses[2..].iter().flat_map(|one| ["-l", one])).collect();
    let store = Store::new(&flags);
    let mut server = store.start();
    for address in &addresses {
        let said = server.process().wait_for_stderr(&format!("listening on {address}\n"));
        said.unwrap_or_else(|stderr| panic!("{address} is not named: {stderr}"));
    }
    addresses.push(format!("127.0.0.1:{}", server.port()));
    for (number, address) in addresses.iter().enumerate() {
        client_of(address).set(&format!("from-{number}"), address.as_bytes());
    }
    for reader in &addresses {
        let mut client = client_of(reader);
        for (number, writer) in addresses.iter().enumerate() {
            let value = client.get(&format!("from-{number}"));
            assert_eq!(value.as_deref(), Some(writer.as_bytes()), "written to {writer}, read from {reader}");
        }
    }
    assert_eq!(server.client().stat("total_connections"), 2 * addresses.len() as u64 + 1);
    server.terminate();
    for address in &addresses {
        let address: SocketAddr = address.parse().expect("an address");
        assert!(Client::try_connect_to(address).is_err(), "{address} is still open after the stop");
    }
}

#[test]
fn an_address_that_is_taken_is_refused_by_name() {
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let taken = other.local_addr().expect("it is bound").to_string();
    // As the only address would be, and as the second one.
    let sentence = Store::new(&["-l", &taken]).refusal();
    assert!(sentence.contains(&taken) && sentence.to_lowercase().contains("in use"), "{sentence}");
    drop(other);
    // Of another dmacached, which goes on.
    let first = Store::new(&[]).start();
    let sentence = Store::new(&[]).refusal_on(first.port(), &[]);
    assert!(sentence.contains(&format!("127.0.0.1:{}", first.port())), "{sentence}");
    assert!(first.client().ask("version").starts_with("VERSION "));
}

#[test]
fn an_address_of_no_interface_is_refused_by_name() {
    // TEST-NET-1 of RFC 5737.
    let sentence = Store::new(&["-l", "192.0.2.1:5000"]).refusal();
    assert!(sentence.contains("192.0.2.1:5000"), "{sentence}");
}

/// A store on a unix socket.
fn store_on(socket: &Path, flags: &[&str]) -> Store {
    Store::new(&[&["-s", socket.to_str().expect("scratch paths are UTF-8")], flags].concat())
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

fn client_on(socket: &Path) -> Client {
    Client::try_connect_unix(socket).unwrap_or_else(|error| panic!("connect to {}: {error}", socket.display()))
}

#[test]
fn a_unix_socket_serves_with_the_permissions_that_were_asked_for_and_is_removed() {
    let scratch = scratch_directory();
    for (flags, mode) in [(&[][..], 0o700), (&["-a", "766"][..], 0o766), (&["-a", "0600"][..], 0o600)] {
        let socket = scratch.path().join(format!("socket-{mode:o}"));
        let store = store_on(&socket, flags);
        let server = store.start_on_socket(&socket);
        assert!(std::fs::metadata(&socket).is_ok_and(|file| file.file_type().is_socket()));
        assert_eq!(mode_of(&socket), mode, "with {flags:?}");
        client_on(&socket).set("large", &vec![b'x'; 500_000]);
        server.terminate();
        assert!(!socket.exists(), "the socket's file is left behind");
        // What was stored is on disk, and a pipeline of it is answered.
        let server = store.start_on_socket(&socket);
        let mut client = client_on(&socket);
        client.send(&b"get large\r\n".repeat(20));
        for _ in 0..20 {
            assert_eq!(client.line(), "VALUE large 0 500000");
            assert!(client.exactly(500_000) == vec![b'x'; 500_000]);
            assert_eq!(client.exactly(7), b"\r\nEND\r\n");
        }
        drop(client);
        server.stop(Signal::SIGINT);
        assert!(!socket.exists(), "the socket's file is left behind");
    }
}

#[test]
fn a_unix_socket_of_a_dead_server_is_replaced() {
    let scratch = scratch_directory();
    let socket = scratch.path().join("socket");
    let store = store_on(&socket, &[]);
    store.start_on_socket(&socket).kill();
    assert!(socket.exists(), "a killed server cannot remove its socket");
    let server = store.start_on_socket(&socket);
    assert!(client_on(&socket).ask("version").starts_with("VERSION "));
    server.terminate();
    // Also one that dmacached has not made.
    drop(UnixListener::bind(&socket).expect("a socket can be made"));
    store.start_on_socket(&socket).terminate();
}

#[test]
fn a_unix_socket_that_is_served_is_refused_and_goes_on() {
    let scratch = scratch_directory();
    let socket = scratch.path().join("socket");
    let store = store_on(&socket, &[]);
    let server: Server = store.start_on_socket(&socket);
    let sentence = store_on(&socket, &[]).refusal();
    let path = socket.to_str().expect("scratch paths are UTF-8");
    assert!(sentence.contains(path) && sentence.to_lowercase().contains("in use"), "{sentence}");
    assert!(client_on(&socket).ask("version").starts_with("VERSION "));
    server.terminate();
}

#[test]
fn a_file_in_the_place_of_a_unix_socket_is_refused_and_left_alone() {
    let scratch = scratch_directory();
    let file = scratch.path().join("letter");
    std::fs::write(&file, "dear reader").expect("a file can be written");
    let sentence = store_on(&file, &[]).refusal();
    assert!(sentence.contains(file.to_str().expect("scratch paths are UTF-8")), "{sentence}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), "dear reader");
    let nowhere = scratch.path().join("missing").join("socket");
    let sentence = store_on(&nowhere, &[]).refusal();
    assert!(sentence.contains(nowhere.to_str().expect("scratch paths are UTF-8")), "{sentence}");
}
