//! A tiny server for tests: one thread per connection, one map, and faults on demand.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// As it should.
    Correct,
    /// The last bit of each value is wrong.
    FlipsBits,
    /// No set succeeds.
    RefusesSets,
    /// The first request closes the connection.
    Closes,
    /// Requests are read and never answered.
    Silent,
    /// Each answer takes this long.
    Slow(Duration),
}

type Store = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Starts a server on a port of its own, which lives until the test process ends. Returns `HOST:PORT`.
pub(crate) fn start(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address").to_string();
    thread::spawn(move || {
        let store = Store::default();
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            thread::spawn(move || serve(stream, &store, behaviour));
        }
    });
    address
}

/// Answers until the client closes, which shows as an error or an empty line.
fn serve(stream: TcpStream, store: &Store, behaviour: Behaviour) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut output = stream.try_clone().ok()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|&size| size > 0)?;
        let words: Vec<_> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["get", ..] => get(&words[1..], store, behaviour),
            ["set", key, _, _, size] => {
                let mut value = vec![0; size.parse::<usize>().ok()? + 2];
                input.read_exact(&mut value).ok()?;
                value.truncate(value.len() - 2);
                set(key, value, store, behaviour)
            }
            _ => b"ERROR\r\n".to_vec(),
        };
        match behaviour {
            Behaviour::Closes => return None,
            Behaviour::Silent => continue,
            Behaviour::Slow(delay) => thread::sleep(delay),
            _ => {}
        }
        // Two writes, so that the client sees answers cut in the middle.
        let (head, tail) = answer.split_at(answer.len() / 2);
        output.write_all(head).ok()?;
        output.write_all(tail).ok()?;
    }
}

fn get(keys: &[&str], store: &Store, behaviour: Behaviour) -> Vec<u8> {
    let store = store.lock().expect("no test panics with the lock held");
    let mut answer = Vec::new();
    for &key in keys {
        let Some(value) = store.get(key) else {
            continue;
        };
        answer.extend_from_slice(format!("VALUE {key} 0 {}\r\n", value.len()).as_bytes());
        answer.extend_from_slice(value);
        if let (Behaviour::FlipsBits, Some(byte)) = (behaviour, answer.last_mut()) {
            *byte ^= u8::from(!value.is_empty());
        }
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"END\r\n");
    answer
}

fn set(key: &str, value: Vec<u8>, store: &Store, behaviour: Behaviour) -> Vec<u8> {
    if behaviour == Behaviour::RefusesSets {
        return b"SERVER_ERROR out of memory storing object\r\n".to_vec();
    }
    store.lock().expect("no test panics with the lock held").insert(key.to_owned(), value);
    b"STORED\r\n".to_vec()
}
