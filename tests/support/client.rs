//! A small blocking client of the text protocol: raw bytes out, raw bytes in, and helpers for the commands that tests
//! use most.

use super::{PATIENCE, shown};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// One connection.
pub(crate) struct Client {
    pub(super) stream: TcpStream,
    /// Bytes that came and were not asked for yet.
    pub(super) input: Vec<u8>,
}

/// One value of a `gets`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) flags: u32,
    pub(crate) cas: u64,
    pub(crate) value: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Client {
        Self::try_connect(port).unwrap_or_else(|error| panic!("connect to 127.0.0.1:{port}: {error}"))
    }

    pub(crate) fn try_connect(port: u16) -> std::io::Result<Client> {
        Self::try_connect_to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    pub(crate) fn try_connect_to(address: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        Self::on(stream)
    }

    pub(crate) fn try_connect_unix(path: &Path) -> std::io::Result<Client> {
        // What is asked of the stream from here on is the same system call for both kinds of socket.
        Self::on(TcpStream::from(OwnedFd::from(UnixStream::connect(path)?)))
    }

    fn on(stream: TcpStream) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream, input: Vec::new() })
    }

    /// Where the server sees it come from.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("it is connected")
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("send {}: {error}", shown(bytes)));
    }

    /// Sends what the server takes; a connection that the server closed is no error.
    pub(crate) fn send_if_open(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The write half closed, so that the server sees the end of the stream.
    pub(crate) fn close_writing(&mut self) {
        match self.stream.shutdown(Shutdown::Write) {
            // The server was quicker and has reset the connection.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            other => other.expect("shutdown of an open socket"),
        }
    }

    /// One more piece of input; false at the end of the stream (a reset counts as the end).
    fn fill(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("no answer: {error}; until now {}", shown(&self.input)),
        }
    }

    /// The next line, without its `\r\n`.
    pub(crate) fn line(&mut self) -> String {
        let mut searched = 0;
        let end = loop {
            if let Some(found) = self.input[searched..].windows(2).position(|pair| pair == b"\r\n") {
                break searched + found;
            }
            searched = self.input.len().saturating_sub(1);
            assert!(self.fill(), "the connection was closed in a line: {}", shown(&self.input));
        };
        let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 2);
        line
    }

    /// The next line, which may end with a newline alone, without its end.
    pub(crate) fn any_line(&mut self) -> String {
        let mut searched = 0;
        let end = loop {
            if let Some(found) = self.input[searched..].iter().position(|byte| *byte == b'\n') {
                break searched + found;
            }
            searched = self.input.len();
            assert!(self.fill(), "the connection was closed in a line: {}", shown(&self.input));
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()
    }

    /// The next `size` bytes.
    pub(crate) fn exactly(&mut self, size: usize) -> Vec<u8> {
        while self.input.len() < size {
            assert!(self.fill(), "the connection was closed {} bytes early", size - self.input.len());
        }
        self.input.drain(..size).collect()
    }

    /// Everything until the server closes the connection.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.input)
    }

    /// Sends one request, and gives the line that answers it.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\r\n").as_bytes());
        self.line()
    }

    /// Sends `request` and a `version` behind it, and gives all that came before the answer to that. This finds the
    /// end of every answer, also of one that is missing, and shows that the connection still understands commands.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        let expected = 1 + request.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"version")).count();
        self.send(request);
        self.send(b"version\r\n");
        let mut answer = Vec::new();
        let mut seen = 0;
        loop {
            let line = self.raw_line();
            if line.starts_with(b"VERSION ") {
                seen += 1;
                if seen == expected {
                    return answer;
                }
            }
            answer.extend_from_slice(&line);
        }
    }

    /// The next line with its `\n`.
    fn raw_line(&mut self) -> Vec<u8> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.input[searched..].iter().position(|byte| *byte == b'\n') {
                return self.input.drain(..=searched + found).collect();
            }
            searched = self.input.len();
            assert!(self.fill(), "the connection was closed in an answer: {}", shown(&self.input));
        }
    }

    /// `set` without flags and expiry; STORED or a failed test.
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) {
        self.set_with(key, value, 0, 0);
    }

    pub(crate) fn set_with(&mut self, key: &str, value: &[u8], flags: u32, expiry: i64) {
        let answer = self.store("set", key, value, flags, expiry);
        assert_eq!(answer, "STORED", "set {key} with {} bytes", value.len());
    }

    /// Any of the storage commands but cas; gives its answer.
    pub(crate) fn store(&mut self, verb: &str, key: &str, value: &[u8], flags: u32, expiry: i64) -> String {
        let mut request = format!("{verb} {key} {flags} {expiry} {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.send(&request);
        self.line()
    }

    /// Whether the key has a value; one that is not `value_of` the key with `size` bytes is a failed test.
    pub(crate) fn has_intact(&mut self, key: &str, size: usize) -> bool {
        let value = self.get(key);
        assert!(value.as_ref().is_none_or(|value| *value == super::value_of(key, size)), "{key} is wrong");
        value.is_some()
    }

    /// The value of `key`, if there is one.
    pub(crate) fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.send(format!("get {key}\r\n").as_bytes());
        self.value_answer(key, false).map(|item| item.value)
    }

    pub(crate) fn gets(&mut self, key: &str) -> Option<Item> {
        self.send(format!("gets {key}\r\n").as_bytes());
        self.value_answer(key, true)
    }

    /// Reads the answer of a one-key get or gets.
    fn value_answer(&mut self, key: &str, with_cas: bool) -> Option<Item> {
        let line = self.line();
        if line == "END" {
            return None;
        }
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), if with_cas { 5 } else { 4 }, "answer to a get of {key}: {line}");
        assert_eq!((words[0], words[1]), ("VALUE", key), "answer to a get of {key}: {line}");
        let flags = words[2].parse().expect("flags are a u32");
        let size = words[3].parse().expect("the size is a number");
        let cas = if with_cas { words[4].parse().expect("the cas unique is a u64") } else { 0 };
        let value = self.exactly(size);
        assert_eq!(self.exactly(7), b"\r\nEND\r\n", "end of the answer to a get of {key}");
        Some(Item { flags, cas, value })
    }

    /// All of `stats`.
    pub(crate) fn stats(&mut self) -> BTreeMap<String, String> {
        self.stats_of("stats")
    }

    /// The same of `stats` with an argument.
    pub(crate) fn stats_of(&mut self, command: &str) -> BTreeMap<String, String> {
        self.send(format!("{command}\r\n").as_bytes());
        let mut stats = BTreeMap::new();
        loop {
            let line = self.line();
            if line == "END" {
                return stats;
            }
            let (name, value) = line
                .strip_prefix("STAT ")
                .and_then(|rest| rest.split_once(' '))
                .unwrap_or_else(|| panic!("a line of stats: {line}"));
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    /// One counter of `stats`.
    pub(crate) fn stat(&mut self, name: &str) -> u64 {
        let stats = self.stats();
        let text = stats.get(name).unwrap_or_else(|| panic!("stats has no {name}: {stats:?}"));
        text.parse().unwrap_or_else(|_| panic!("stats {name} is not a number: {text}"))
    }

    /// Waits until no record is in RAM alone, as `memtable_bytes` says.
    pub(crate) fn wait_until_flushed(&mut self) {
        super::eventually("memtable_bytes is 0", || (self.stat("memtable_bytes") == 0).then_some(()));
    }
}
