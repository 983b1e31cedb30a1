//! The wire: bytes to requests, answers to bytes.
//!
//! This module owns the grammar of memcached's protocols and nothing else. It does no I/O, keeps no state between
//! calls, knows no store, and allocates nothing on the path of a request: a [`Request`] borrows its key and value
//! from the input.
//!
//! Start reading at [`parse`]. The text protocol lives in [`text`], its meta commands in [`meta`]; what a connection does with
//! the results (buffers, values that are thrown away, answers to refused requests) lives in `server::connection`.
//!
//! The grammar is that of memcached 1.6.18, byte for byte, with these deliberate differences:
//!
//! * a storage command that is refused although its size is readable has its value dropped too, as 1.6.45 does, so that
//!   the bytes of a value are never run as commands;
//! * numbers out of their range are refused where 1.6.18 keeps their low 32 bits (flags, size) or the time wraps
//!   (exptime);
//! * whether a line is too long depends on its bytes alone, never on how the network cut them;
//! * a NUL byte is a byte like any other, it does not end the line.
//!
//! **Invariant:** the result for a prefix of a stream is either "incomplete" or the same as for any longer prefix.

pub mod binary;
pub mod expiry;
pub mod meta;
pub mod stream;
pub mod text;

#[cfg(test)]
mod tests;

pub use binary::BinaryRequest;
pub use expiry::{Expiry, absolute_expiry};
pub use meta::MetaRequest;
pub use text::admin::{Admin, AdminAnswer, Classes, DumpStyle, TimeChange, Topics};
pub use text::parse::item_size;
pub use text::token::Keys;

/// Which protocol a connection speaks: memcached's `-B`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// The one that its first byte belongs to.
    #[default]
    Auto,
    /// The text protocol, meta commands with it.
    Ascii,
    /// The binary protocol.
    Binary,
}

impl Binding {
    /// As `stats settings` says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto-negotiate",
            Self::Ascii => "ascii",
            Self::Binary => "binary",
        }
    }
}

/// Bounds of what [`parse`] accepts that are set when the server starts. The others are constants of `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLimits {
    /// Largest item, in bytes as memcached counts them: `limits::ITEM_OVERHEAD_SIZE` + key + flags + value (option
    /// `-I`).
    pub item_size_max: usize,
}

/// What the front of the input turned out to be.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests, and nothing is allocated for them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole request.
    Request {
        /// The request, borrowed from the input.
        request: Request<'a>,
        /// Bytes of the input that belong to it: the line and, for storage commands, the value with its `\r\n`.
        consumed: usize,
        /// Bytes after those that are to be dropped unseen: the value of a [`Request::TooLarge`], else 0.
        swallow_size: u64,
    },
    /// The input holds no newline: ask again when there are more bytes.
    IncompleteLine,
    /// The line is whole but its value is not.
    IncompleteValue {
        /// Bytes, from the start of the input, before it is worth asking again.
        needed: usize,
    },
    /// A request that is refused. Parsing goes on behind it.
    Bad {
        /// What is wrong; to be answered unless `noreply`.
        error: BadRequest,
        /// Bytes of the input to be dropped.
        consumed: usize,
        /// Bytes after those that are to be dropped unseen.
        swallow_size: u64,
        /// The client wants no answer, not even this one (as memcached has it).
        noreply: bool,
    },
    /// The connection is to be closed without an answer: a line too long to be a request, an HTTP client.
    Close,
}

/// A request, borrowed from the input. Keys are 1 to `limits::KEY_SIZE_MAX` bytes without blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `get` and `gets`.
    Get {
        /// The keys in the order asked for, duplicates included; at least one.
        keys: Keys<'a>,
        /// `gets`: each value is answered with its CAS unique.
        with_cas: bool,
        /// `gat` and `gats`: the exptime that each gets, as the client wrote it: see [`absolute_expiry`].
        touch: Option<i64>,
    },
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas` with a value that may be stored.
    Store(StoreRequest<'a>),
    /// The same with a value above `item_size_max`, which is not kept. memcached answers `SERVER_ERROR object too
    /// large for cache`, and a `set` deletes the old value, so that no stale one survives.
    TooLarge {
        /// Which storage command.
        verb: StoreVerb,
        /// The key.
        key: &'a [u8],
        /// No answer is wanted.
        noreply: bool,
    },
    /// `delete`.
    Delete {
        /// The key.
        key: &'a [u8],
        /// No answer is wanted.
        noreply: bool,
    },
    /// `touch`.
    Touch {
        /// The key.
        key: &'a [u8],
        /// New expiry as the client wrote it: see [`absolute_expiry`].
        exptime: i64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `incr` and `decr`.
    Arithmetic {
        /// The key.
        key: &'a [u8],
        /// How much to add or take away.
        delta: u64,
        /// Which of the two.
        direction: Direction,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `flush_all`.
    FlushAll {
        /// As the client wrote it, with the meaning of an exptime; 0 or less is now.
        delay: i64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `version`.
    Version,
    /// `verbosity`.
    Verbosity {
        /// The wanted level.
        level: u32,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `stats`.
    Stats {
        /// What follows the command without the blanks around it; empty for the general statistics.
        argument: &'a [u8],
    },
    /// `mn`, whose answer tells that everything before is answered.
    MetaNoop,
    /// The other meta commands.
    Meta(MetaRequest<'a>),
    /// A command about the server rather than about a record.
    Admin(Admin),
    /// `quit`: the connection is to be closed once the answers before it are written.
    Quit,
    /// A request of the binary protocol.
    Binary(BinaryRequest<'a>),
}

/// A storage command with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRequest<'a> {
    /// Which storage command.
    pub verb: StoreVerb,
    /// The key.
    pub key: &'a [u8],
    /// The client's flags, kept with the value. `append` and `prepend` carry them but memcached ignores them.
    pub flags: u32,
    /// Expiry as the client wrote it: see [`absolute_expiry`]. Ignored by `append` and `prepend`.
    pub exptime: i64,
    /// The value without its `\r\n`.
    pub value: &'a [u8],
    /// No answer is wanted.
    pub noreply: bool,
}

/// The storage commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreVerb {
    /// Store in any case.
    Set,
    /// Store unless the key exists.
    Add,
    /// Store if the key exists.
    Replace,
    /// Put the bytes behind the stored value.
    Append,
    /// Put the bytes before the stored value.
    Prepend,
    /// Store if the stored value still has this CAS unique.
    Cas(u64),
}

/// `incr` or `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `incr`, which wraps at 2^64.
    Increment,
    /// `decr`, which stops at 0.
    Decrement,
}

/// Why a request is refused before any store hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// Not a command, or not with that many arguments.
    Command,
    /// A key too long or a number that is none.
    LineFormat,
    /// A `delete` with an argument other than `0` and `noreply`.
    DeleteFormat,
    /// The value is not followed by `\r\n`.
    DataChunk,
    /// The exptime of `touch` or the delay of `flush_all` is not a number.
    Exptime,
    /// The delta of `incr` or `decr` is not a number.
    Delta,
    /// `mg` with too many flags.
    MetaFlagsTooLong,
    /// Another meta command with too many flags.
    MetaOptionsTooLong,
    /// A flag that does not exist.
    MetaInvalid,
    /// A flag comes twice.
    MetaDuplicate,
    /// The same, from `md` and `ma`.
    MetaInvalidOrDuplicate,
    /// A flag's value is not a number.
    MetaToken,
    /// The value of `J` is not a number.
    MetaInitial,
    /// The value of `D` is not a number.
    MetaDelta,
    /// The key is not in base64.
    MetaKeyEncoding,
    /// The opaque is too long.
    MetaOpaque,
    /// A mode is one letter.
    MetaModeLength,
    /// No mode of `ms`.
    MetaSetMode,
    /// No mode of `ma`.
    MetaArithmeticMode,
}

impl BadRequest {
    /// memcached's answer, with its `\r\n`.
    #[must_use]
    pub const fn answer(self) -> &'static [u8] {
        match self {
            Self::Command => b"ERROR\r\n",
            Self::LineFormat => b"CLIENT_ERROR bad command line format\r\n",
            Self::DeleteFormat => b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
            Self::DataChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Self::Exptime => b"CLIENT_ERROR invalid exptime argument\r\n",
            Self::Delta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Self::MetaFlagsTooLong => b"CLIENT_ERROR options flags are too long\r\n",
            Self::MetaOptionsTooLong => b"CLIENT_ERROR options flags too long\r\n",
            Self::MetaInvalid => b"CLIENT_ERROR invalid flag\r\n",
            Self::MetaDuplicate => b"CLIENT_ERROR duplicate flag\r\n",
            Self::MetaInvalidOrDuplicate => b"CLIENT_ERROR invalid or duplicate flag\r\n",
            Self::MetaToken => b"CLIENT_ERROR bad token in command line format\r\n",
            Self::MetaInitial => b"CLIENT_ERROR invalid numeric initial value\r\n",
            Self::MetaDelta => b"CLIENT_ERROR invalid numeric delta value\r\n",
            Self::MetaKeyEncoding => b"CLIENT_ERROR error decoding key\r\n",
            Self::MetaOpaque => b"CLIENT_ERROR opaque token too long\r\n",
            Self::MetaModeLength => b"CLIENT_ERROR incorrect length for M token\r\n",
            Self::MetaSetMode => b"CLIENT_ERROR invalid mode for ms M token\r\n",
            Self::MetaArithmeticMode => b"CLIENT_ERROR invalid mode for ma M token\r\n",
        }
    }
}

/// Reads the request at the front of `input`.
#[must_use]
pub fn parse<'a>(input: &'a [u8], limits: &ParseLimits) -> Parsed<'a> {
    parse_resumed(input, 0, limits)
}

/// Like [`parse`], for an input whose first `newline_free_size` bytes are known to hold no newline because an earlier
/// call with just those bytes said [`Parsed::IncompleteLine`]. They are not searched again, which keeps a long `get`
/// line that arrives in many pieces linear.
#[must_use]
pub fn parse_resumed<'a>(input: &'a [u8], newline_free_size: usize, limits: &ParseLimits) -> Parsed<'a> {
    text::parse::parse(input, newline_free_size, limits)
}

/// Reads the request of the binary protocol at the front of `input`. The result is never [`Parsed::IncompleteLine`] nor
/// [`Parsed::Bad`]: a request that is refused is one with [`binary::Command::Refused`].
#[must_use]
pub fn parse_binary<'a>(input: &'a [u8], limits: &ParseLimits) -> Parsed<'a> {
    binary::parse::parse(input, limits)
}

/// The number that a stored value is to `incr` and `decr`; `None` when it is not numeric. memcached is generous:
/// white space before the digits and anything behind white space or a NUL after them is passed over (hence `12   `
/// after a `decr`, and `12 a`).
#[must_use]
pub fn stored_number(value: &[u8]) -> Option<u64> {
    text::token::unsigned(value.split(|byte| *byte == 0).next().unwrap_or_default())
}
