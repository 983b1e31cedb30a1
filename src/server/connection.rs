//! One connection's input without its socket: bytes received go in, requests come out.
//!
//! [`Input`] keeps received bytes that are not parsed yet. [`Parser`] finds the requests in them, wherever they lie: in
//! the buffer of the ring that they were received in, usually, or in an [`Input`], when a request came in pieces or had
//! to wait. The driver executes a request and then says that it is done with it, so one that has to wait is simply
//! found again:
//!
//! ```text
//! loop {
//!     match parser.step(unparsed, limits) {
//!         Step::Request { request, consumed, swallow_size } => { execute or come back later; unparsed += consumed;
//!         parser.executed(swallow_size) }
//!         Step::Refused { error, .. } => answer it, as above
//!         Step::Drop(size) => unparsed += size
//!         Step::NeedInput => keep what is unparsed, and wait
//!         Step::Close => close when everything is answered
//!     }
//! }
//! ```
//!
//! **Invariant:** how the network cuts the stream changes neither the requests nor the answers, and the memory of a
//! connection is bounded by a small multiple of what its client has sent of the request under way, whatever sizes
//! that request announces.

use crate::limits::INPUT_SIZE;
use crate::protocol::text::auth::{Credentials, parse_credentials};
use crate::protocol::{BadRequest, Binding, Keys, ParseLimits, Parsed, Request, binary, parse_binary, parse_resumed};

#[cfg(test)]
mod tests;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// This request is to be executed.
    Request {
        /// The request.
        request: Request<'a>,
        /// Bytes that belong to it.
        consumed: usize,
        /// For [`Parser::executed`].
        swallow_size: u64,
    },
    /// This request is to be refused.
    Refused {
        /// Why.
        error: BadRequest,
        /// The client wants no answer.
        noreply: bool,
        /// Bytes that belong to it.
        consumed: usize,
        /// For [`Parser::executed`].
        swallow_size: u64,
    },
    /// The client says who it is: if it is right, [`Parser::unlock`].
    Credentials {
        /// The user.
        user: &'a [u8],
        /// The password.
        password: &'a [u8],
        /// Bytes that belong to it.
        consumed: usize,
    },
    /// This is to be answered, as the client has to say first who it is.
    Locked {
        /// The answer.
        answer: &'static [u8],
        /// Bytes that belong to it.
        consumed: usize,
    },
    /// So many bytes are to be dropped, and then the next step is to be asked for.
    Drop(usize),
    /// Nothing, until more bytes are received.
    NeedInput,
    /// The connection is to be closed once everything before is answered. Every further step says the same.
    Close,
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wire {
    /// Its first byte tells.
    #[default]
    Undecided,
    Text,
    Binary,
}

/// Where parsing stands.
#[derive(Debug, Default)]
pub struct Parser {
    wire: Wire,
    /// The client has to say who it is.
    is_locked: bool,
    /// Unparsed bytes before parsing again is of use.
    needed: usize,
    /// Unparsed bytes known to hold no newline.
    newline_free_size: usize,
    /// Bytes still to be dropped unseen.
    swallow_size: u64,
    /// The client said something that ends the connection.
    is_closed: bool,
    /// The unparsed bytes begin with what is left of a get line.
    rest: Option<RestOfGet>,
}

/// A get of many keys that was paused.
#[derive(Clone, Copy, Debug)]
struct RestOfGet {
    with_cas: bool,
    touch: Option<i64>,
    /// Bytes of the line that are left, with its end.
    size: usize,
}

impl Parser {
    /// For a connection that speaks what `binding` says; the client of a locked one has to say first who it is.
    #[must_use]
    pub fn new(binding: Binding, is_locked: bool) -> Self {
        let wire = match binding {
            _ if is_locked => Wire::Text,
            Binding::Auto => Wire::Undecided,
            Binding::Ascii => Wire::Text,
            Binding::Binary => Wire::Binary,
        };
        Self { wire, is_locked, ..Self::default() }
    }

    /// The client has said who it is.
    pub fn unlock(&mut self) {
        self.is_locked = false;
    }

    /// Whether the connection speaks the text protocol, as far as is known.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.wire != Wire::Binary
    }

    /// The next thing in `unparsed`, which begins where the last request ended.
    pub fn step<'a>(&mut self, unparsed: &'a [u8], limits: &ParseLimits) -> Step<'a> {
        if self.is_closed {
            return Step::Close;
        }
        if self.swallow_size > 0 && !unparsed.is_empty() {
            let size = usize::try_from(self.swallow_size).unwrap_or(usize::MAX).min(unparsed.len());
            self.swallow_size -= size as u64;
            return Step::Drop(size);
        }
        if let Some(RestOfGet { with_cas, touch, size }) = self.rest {
            // Just what the parser takes off: keys may end in other white space.
            let line = unparsed[..size].strip_suffix(b"\n").unwrap_or(unparsed);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            return Step::Request {
                request: Request::Get { keys: Keys::new(line), with_cas, touch },
                consumed: size,
                swallow_size: 0,
            };
        }
        if unparsed.is_empty() || unparsed.len() < self.needed {
            return Step::NeedInput;
        }
        if self.is_locked {
            return self.step_locked(unparsed);
        }
        if self.wire == Wire::Undecided {
            self.wire = if unparsed[0] == binary::REQUEST_MAGIC { Wire::Binary } else { Wire::Text };
        }
        let parsed = match self.wire {
            Wire::Binary => parse_binary(unparsed, limits),
            Wire::Text | Wire::Undecided => parse_resumed(unparsed, self.newline_free_size, limits),
        };
        match parsed {
            Parsed::Request { request, consumed, swallow_size } => Step::Request { request, consumed, swallow_size },
            Parsed::Bad { error, consumed, swallow_size, noreply } => {
                Step::Refused { error, noreply, consumed, swallow_size }
            }
            Parsed::IncompleteLine => {
                self.newline_free_size = unparsed.len();
                Step::NeedInput
            }
            Parsed::IncompleteValue { needed } => {
                self.needed = needed;
                Step::NeedInput
            }
            Parsed::Close => {
                self.is_closed = true;
                Step::Close
            }
        }
    }

    fn step_locked<'a>(&mut self, unparsed: &'a [u8]) -> Step<'a> {
        match parse_credentials(unparsed) {
            Credentials::Given { user, password, consumed } => Step::Credentials { user, password, consumed },
            Credentials::Refused { answer, consumed } => Step::Locked { answer, consumed },
            Credentials::Incomplete { needed } => {
                self.needed = needed;
                Step::NeedInput
            }
            Credentials::Close { answer } => {
                self.is_closed = true;
                if answer.is_empty() { Step::Close } else { Step::Locked { answer, consumed: unparsed.len() } }
            }
        }
    }

    /// The request that the last step gave is done with; `swallow_size` bytes behind it are to be dropped unseen.
    pub fn executed(&mut self, swallow_size: u64) {
        let Self { wire, is_locked, is_closed, .. } = *self;
        *self = Self { wire, is_locked, is_closed, swallow_size, ..Self::default() };
    }

    /// The get that the last step gave is done with but for its last keys: the unparsed bytes begin with them now, and
    /// `size` bytes of its line are left.
    pub fn paused(&mut self, with_cas: bool, touch: Option<i64>, size: usize) {
        self.executed(0);
        self.rest = Some(RestOfGet { with_cas, touch, size });
    }

    /// Whether the unparsed bytes begin with a request, as far as is known.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        self.swallow_size == 0 && self.rest.is_none() && !self.is_closed && !self.is_locked
    }

    /// Whether nothing more is to be parsed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Nothing more is to be parsed.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Bytes that the request under way needs in all, as far as that is known.
    #[must_use]
    pub fn needed_size(&self) -> usize {
        self.needed
    }
}

/// Received bytes that are not parsed yet.
#[derive(Debug, Default)]
pub struct Input {
    buffer: Vec<u8>,
    /// First byte that is not parsed.
    start: usize,
}

impl Input {
    /// The bytes.
    #[must_use]
    #[inline]
    pub fn unparsed(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Takes over bytes behind the others.
    pub fn append(&mut self, bytes: &[u8]) {
        // Moving what is left costs no more than what was parsed before it.
        if self.start > 0 && (self.start >= self.buffer.len() - self.start) {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Drops bytes that are done with, and gives back the memory of a large request once nothing of it is left, so that
    /// an idle connection is small.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn consume(&mut self, size: usize) {
        self.start += size;
        assert!(self.start <= self.buffer.len(), "more bytes consumed than there were");
        if self.is_empty() {
            self.buffer.clear();
            self.start = 0;
            if self.buffer.capacity() > INPUT_SIZE {
                self.buffer = Vec::new();
            }
        }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
