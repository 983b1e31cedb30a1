//! One connection: a non-blocking socket, its buffers, and its own stream of requests.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::phase::{Clock, Content, Phase};
use crate::random::Random;
use crate::reply;
use crate::tally::Tally;
use crate::window::Window;
use crate::workload::{KeyChooser, Workload};

/// The input buffer's size at first; it doubles while one answer does not fit.
const INPUT_SIZE: usize = 64 << 10;

/// Requests are not generated while this many bytes wait to be written, so that large values do not fill the memory.
const OUTPUT_SIZE_MAX: usize = 1 << 20;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host_port) => formatter.write_str(host_port),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A connected socket of either family.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP without Nagle's delay.
    Tcp(TcpStream),
    /// A unix stream socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to `address`; the socket blocks.
    ///
    /// # Errors
    ///
    /// A sentence that names the address.
    pub(crate) fn connect(address: &Address) -> Result<Self, String> {
        let stream = match address {
            Address::Tcp(host_port) => connect_tcp(host_port).map(Self::Tcp),
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        };
        stream.map_err(|error| format!("connect to {address}: {error}"))
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    /// Reads once.
    ///
    /// # Errors
    ///
    /// As `read(2)`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    /// Writes once.
    ///
    /// # Errors
    ///
    /// As `write(2)`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

fn connect_tcp(host_port: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One connection and its requests.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The number of this connection in the whole run, from 0.
    pub(crate) id: u64,
    /// The socket.
    pub(crate) stream: Stream,
    connection_count: u64,
    random: Random,
    chooser: KeyChooser,
    stamp_next: u64,
    window: Window,
    input: Vec<u8>,
    input_begin: usize,
    input_end: usize,
    output: Vec<u8>,
    output_begin: usize,
    /// Requests that this phase may send, and those it has sent.
    budget: u64,
    sent: u64,
}

impl Connection {
    /// Connects the connection number `id` out of `connection_count`.
    ///
    /// # Errors
    ///
    /// A sentence that names the address.
    pub(crate) fn open(address: &Address, id: u64, connection_count: u64, workload: &Workload) -> Result<Self, String> {
        let stream = Stream::connect(address)?;
        stream.set_nonblocking().map_err(|error| format!("{address}: {error}"))?;
        Ok(Self {
            id,
            stream,
            connection_count,
            random: Random::new(workload.seed, id),
            chooser: workload.chooser(id, connection_count),
            stamp_next: (id + 1) << 40,
            window: Window::default(),
            input: vec![0; INPUT_SIZE],
            input_begin: 0,
            input_end: 0,
            output: Vec::new(),
            output_begin: 0,
            budget: 0,
            sent: 0,
        })
    }

    /// Begins a phase in which this connection may send `budget` requests.
    pub(crate) fn begin(&mut self, budget: u64) {
        assert!(self.window.is_empty(), "a phase ends with nothing in flight");
        self.budget = budget;
        self.sent = 0;
    }

    /// Whether answers are awaited.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.window.is_empty()
    }

    /// Whether bytes wait until the socket takes them.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.output_begin < self.output.len()
    }

    /// Whether this connection has nothing more to do in `phase`.
    pub(crate) fn is_finished(&self, phase: &Phase, now_ns: u64) -> bool {
        self.window.is_empty() && (self.sent >= self.budget || phase.is_over(now_ns))
    }

    /// How many requests were due in `phase` and never sent.
    pub(crate) fn unsent(&self, phase: &Phase) -> u64 {
        match (phase.schedule, phase.deadline_ns) {
            (Some(schedule), Some(deadline_ns)) => {
                schedule.due_count(self.id, deadline_ns).min(self.budget).saturating_sub(self.sent)
            }
            _ => 0,
        }
    }

    /// Reads once and accounts for every complete answer. Returns the time right after the read.
    ///
    /// # Errors
    ///
    /// A sentence when the connection is lost or the answers make no sense.
    pub(crate) fn receive(&mut self, workload: &Workload, clock: Clock, tally: &mut Tally) -> Result<u64, String> {
        self.make_room();
        let outcome = self.stream.read(&mut self.input[self.input_end..]);
        let now_ns = clock.now_ns();
        match outcome {
            Ok(0) => return Err(self.lost("the server closed it", tally)),
            Ok(size) => {
                self.input_end += size;
                tally.received_size += size as u64;
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(self.lost(error, tally)),
        }
        let input = &self.input[..self.input_end];
        while let Some((reply, size)) = reply::parse(&input[self.input_begin..])? {
            self.window.answer(&reply, workload, now_ns, tally)?;
            self.input_begin += size;
        }
        Ok(now_ns)
    }

    /// Makes sure that the next read has a place to go.
    fn make_room(&mut self) {
        if self.input_begin == self.input_end {
            (self.input_begin, self.input_end) = (0, 0);
        }
        if self.input_end == self.input.len() {
            self.input.copy_within(self.input_begin..self.input_end, 0);
            (self.input_begin, self.input_end) = (0, self.input_end - self.input_begin);
        }
        if self.input_end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
    }

    /// Why the connection is lost. A server that refuses a connection says so before it closes it.
    fn lost(&self, reason: impl fmt::Display, tally: &Tally) -> String {
        let (id, waiting) = (self.id, self.window.len());
        let said = tally.first_error.as_ref().map(|line| format!("; the first error answer: {line}"));
        let said = said.unwrap_or_default();
        format!("connection {id}, on which {waiting} requests were in flight: {reason}{said}")
    }

    /// Sends what `phase` allows at `now_ns`, as far as the socket takes it. Returns whether it took anything.
    ///
    /// # Errors
    ///
    /// A sentence when the connection is lost.
    pub(crate) fn pump(
        &mut self,
        phase: &Phase,
        workload: &Workload,
        now_ns: u64,
        tally: &mut Tally,
    ) -> Result<bool, String> {
        let sent_size = tally.sent_size;
        loop {
            let is_new = self.refill(phase, workload, now_ns);
            self.flush(tally)?;
            // The output limit may have stopped the refill although the socket has room for more.
            if !is_new || self.wants_to_write() {
                return Ok(tally.sent_size != sent_size);
            }
        }
    }

    fn refill(&mut self, phase: &Phase, workload: &Workload, now_ns: u64) -> bool {
        let sent_before = self.sent;
        if phase.is_over(now_ns) || (phase.burst && self.is_waiting()) {
            return false;
        }
        while self.sent < self.budget
            && self.window.len() < phase.pipeline
            && self.output.len() - self.output_begin < OUTPUT_SIZE_MAX
        {
            let start_ns = phase.schedule.map_or(now_ns, |schedule| schedule.due_ns(self.id, self.sent));
            if start_ns > now_ns {
                break;
            }
            self.push_request(phase.content, workload, start_ns);
            self.sent += 1;
        }
        self.sent > sent_before
    }

    fn push_request(&mut self, content: Content, workload: &Workload, start_ns: u64) {
        if content == Content::Fill {
            let index = self.id + self.sent * self.connection_count;
            self.push_set(index, workload, start_ns);
        } else if self.random.unit() < workload.get_share {
            self.push_get(workload, start_ns);
        } else {
            let index = workload.next_index((self.id, self.connection_count), &mut self.chooser, &mut self.random);
            self.push_set(index, workload, start_ns);
        }
    }

    fn push_get(&mut self, workload: &Workload, start_ns: u64) {
        self.output.extend_from_slice(b"get");
        for _ in 0..workload.multiget_count {
            let index = workload.next_index((self.id, self.connection_count), &mut self.chooser, &mut self.random);
            self.output.push(b' ');
            workload.keys.append(index, &mut self.output);
            self.window.push_key(index, workload.ledger.as_ref().map_or(0, |ledger| ledger.stored(index)));
        }
        self.output.extend_from_slice(b"\r\n");
        self.window.push_get(start_ns, workload.multiget_count);
    }

    fn push_set(&mut self, index: u64, workload: &Workload, start_ns: u64) {
        self.output.extend_from_slice(b"set ");
        workload.keys.append(index, &mut self.output);
        let (version, lifetime) = workload.ledger.as_ref().map_or((0, 0), |ledger| ledger.begin_set(index));
        let stamp = if workload.ledger.is_some() { u64::from(version) } else { self.stamp_next };
        write!(self.output, " 0 {lifetime} {}\r\n", workload.values.size(index)).expect("a Vec takes every write");
        workload.values.append(index, stamp, &mut self.output);
        self.output.extend_from_slice(b"\r\n");
        self.stamp_next += 1;
        self.window.push_set(start_ns, index, version);
    }

    fn flush(&mut self, tally: &mut Tally) -> Result<(), String> {
        while self.wants_to_write() {
            match self.stream.write(&self.output[self.output_begin..]) {
                Ok(size) => {
                    self.output_begin += size;
                    tally.sent_size += size as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error, tally)),
            }
        }
        // The bytes already written are dropped only when it is cheap: all of them, or the greater part.
        if self.output_begin * 2 > self.output.len() {
            self.output.drain(..self.output_begin);
            self.output_begin = 0;
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
