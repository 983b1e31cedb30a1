//! One connection without its socket: bytes received go in, requests and the bytes to send come out.
//!
//! [`Input`] owns the received bytes, finds the requests in them and drops the values that are not kept; it answers
//! refused requests itself. [`Output`] owns the bytes to send. They are two halves so that the driver can hold a
//! [`Request`], which borrows from the input, while it appends the answer to the output:
//!
//! ```text
//! loop {
//!     match connection.input.step(&mut connection.output) {
//!         Step::Request(request) => execute(request, &mut connection.output).await,
//!         Step::NeedInput => { write connection.output.pending(), clear(); read into connection.input.space(),
//!         received() } Step::Close => { write connection.output.pending(); return }
//!     }
//! }
//! ```
//!
//! **Invariant:** how the network cuts the stream changes neither the requests nor the answers, and the memory of a
//! connection is bounded by a small multiple of what its client has sent of the request under way, whatever sizes
//! that request announces.

use crate::limits::{INPUT_SIZE, OUTPUT_SIZE_HIGH};
use crate::protocol::text::encode::encode_bad_request;
use crate::protocol::{ParseLimits, Parsed, Request, parse_resumed};

#[cfg(test)]
mod tests;

/// The buffer grows to at most this many times what it holds, so that memory follows bytes received, not sizes
/// announced.
const GROWTH_FACTOR: usize = 4;

/// Fewest bytes worth a read of the socket.
const SPACE_SIZE_MIN: usize = INPUT_SIZE / 4;

/// Both halves of a connection.
#[derive(Debug)]
pub struct Connection {
    /// What was received.
    pub input: Input,
    /// What is to be sent.
    pub output: Output,
}

impl Connection {
    /// A connection that has received nothing. Allocates nothing.
    #[must_use]
    pub fn new(limits: ParseLimits) -> Self {
        Self { input: Input::new(limits), output: Output::default() }
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// This request is to be executed. It is already consumed.
    Request(Request<'a>),
    /// Nothing, until more bytes are received.
    NeedInput,
    /// The connection is to be closed once the pending output is written. Every further step says the same.
    Close,
}

/// The receiving half.
#[derive(Debug)]
pub struct Input {
    /// All of it is initialised; `cursor` says which part holds bytes that are not parsed yet.
    buffer: Vec<u8>,
    cursor: Cursor,
    limits: ParseLimits,
}

/// Where parsing stands. Apart from the buffer, so that it can move while a request borrows the buffer.
#[derive(Debug, Default)]
struct Cursor {
    /// First byte that is not parsed yet.
    start: usize,
    /// Behind the last byte received.
    end: usize,
    /// Unparsed bytes before parsing again is of use.
    needed: usize,
    /// Unparsed bytes known to hold no newline.
    newline_free_size: usize,
    /// Bytes still to be dropped unseen.
    swallow_size: u64,
    /// The client said something that ends the connection.
    is_closed: bool,
}

impl Cursor {
    fn unparsed_size(&self) -> usize {
        self.end - self.start
    }

    /// Moves behind a request, of which `swallow_size` bytes may not be here yet.
    fn consume(&mut self, consumed: usize, swallow_size: u64) {
        self.start += consumed;
        self.needed = 0;
        self.newline_free_size = 0;
        self.swallow_size = swallow_size;
        self.swallow();
    }

    /// Drops what is to be swallowed of the bytes that are here.
    fn swallow(&mut self) {
        let dropped = usize::try_from(self.swallow_size).unwrap_or(usize::MAX).min(self.unparsed_size());
        self.start += dropped;
        self.swallow_size -= dropped as u64;
    }
}

impl Input {
    /// An input that has received nothing. Allocates nothing.
    #[must_use]
    pub fn new(limits: ParseLimits) -> Self {
        Self { buffer: Vec::new(), cursor: Cursor::default(), limits }
    }

    /// Finds the next request. Refused requests before it are answered into `output`.
    pub fn step(&mut self, output: &mut Output) -> Step<'_> {
        self.shrink_when_empty();
        let cursor = &mut self.cursor;
        loop {
            if cursor.is_closed {
                return Step::Close;
            }
            let unparsed = &self.buffer[cursor.start..cursor.end];
            if unparsed.is_empty() || unparsed.len() < cursor.needed {
                return Step::NeedInput;
            }
            match parse_resumed(unparsed, cursor.newline_free_size, &self.limits) {
                Parsed::Request { request, consumed, swallow_size } => {
                    cursor.consume(consumed, swallow_size);
                    return Step::Request(request);
                }
                Parsed::Bad { error, consumed, swallow_size, noreply } => {
                    cursor.consume(consumed, swallow_size);
                    if !noreply {
                        encode_bad_request(output.buffer(), error);
                    }
                }
                Parsed::IncompleteLine => {
                    cursor.newline_free_size = unparsed.len();
                    return Step::NeedInput;
                }
                Parsed::IncompleteValue { needed } => {
                    cursor.needed = needed;
                    return Step::NeedInput;
                }
                Parsed::Close => cursor.is_closed = true,
            }
        }
    }

    /// Room for bytes to be received into, never empty. To be called when [`Input::step`] said [`Step::NeedInput`],
    /// and followed by [`Input::received`].
    pub fn space(&mut self) -> &mut [u8] {
        self.make_space();
        &mut self.buffer[self.cursor.end..]
    }

    /// Takes over the first `count` bytes of [`Input::space`].
    ///
    /// # Panics
    ///
    /// When `count` is larger than that space was.
    pub fn received(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.cursor.end, "more bytes received than there was space for");
        self.cursor.end += count;
        self.cursor.swallow();
    }

    /// Takes over bytes that were received elsewhere, by copying them.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = self.space();
            let (now, later) = rest.split_at(rest.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            self.received(now.len());
            rest = later;
        }
    }

    /// Whether the client stopped inside a request or a value: an end of the stream here is not a clean one.
    #[must_use]
    pub fn is_inside_request(&self) -> bool {
        self.cursor.unparsed_size() > 0 || self.cursor.swallow_size > 0
    }

    /// Bytes of memory that the buffer takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives back the memory of a large request once nothing of it is left, so that an idle connection is small.
    fn shrink_when_empty(&mut self) {
        if self.cursor.unparsed_size() == 0 {
            (self.cursor.start, self.cursor.end) = (0, 0);
            if self.buffer.len() > INPUT_SIZE {
                self.buffer = Vec::new();
            }
        }
    }

    /// Makes room behind the unparsed bytes: moves them to the front, or to a larger buffer when the request under
    /// way does not fit and this one is nearly full.
    fn make_space(&mut self) {
        self.shrink_when_empty();
        let Cursor { start, end, needed, .. } = self.cursor;
        let unparsed_size = end - start;
        // Of a line without its end the size is not known: as much again as there is.
        let goal = if needed > unparsed_size { needed } else { unparsed_size + unparsed_size.max(SPACE_SIZE_MIN) };
        let enough_now = goal.clamp(unparsed_size + 1, unparsed_size + SPACE_SIZE_MIN);
        if self.buffer.len() - start >= enough_now {
            return;
        }
        if self.buffer.len() >= enough_now {
            self.buffer.copy_within(start..end, 0);
        } else {
            // A fresh zeroed vector is cheaper than growing this one, which would zero and copy.
            let mut grown = vec![0; goal.min(GROWTH_FACTOR * unparsed_size).max(INPUT_SIZE)];
            grown[..unparsed_size].copy_from_slice(&self.buffer[start..end]);
            self.buffer = grown;
        }
        (self.cursor.start, self.cursor.end) = (0, unparsed_size);
    }
}

/// The sending half.
#[derive(Debug, Default)]
pub struct Output {
    buffer: Vec<u8>,
    sent_size: usize,
}

impl Output {
    /// Where answers are appended; nothing in it may be removed or changed.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The bytes that are to be sent.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.sent_size..]
    }

    /// Notes that the first `count` bytes of [`Output::pending`] were sent.
    ///
    /// # Panics
    ///
    /// When fewer were pending.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.pending().len(), "more bytes sent than were pending");
        self.sent_size += count;
        if self.sent_size == self.buffer.len() {
            self.clear();
        }
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    /// Whether so much is to be sent that it should be before the next request is executed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending().len() >= OUTPUT_SIZE_HIGH
    }

    /// Forgets everything. Keeps memory for a full output, or for a small one when no more was used this time, so
    /// that a connection that has become quiet is small.
    pub fn clear(&mut self) {
        let kept = if self.buffer.len() > INPUT_SIZE { 2 * OUTPUT_SIZE_HIGH } else { INPUT_SIZE };
        self.buffer.clear();
        self.buffer.shrink_to(kept);
        self.sent_size = 0;
    }

    /// Bytes of memory that the buffer takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
