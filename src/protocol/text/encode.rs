//! Text answers. Every function appends to a buffer whose capacity the caller keeps, so that nothing is allocated per
//! answer once the buffer has grown.

use std::fmt;

use super::super::BadRequest;

/// Room for what surrounds key and value in an answer: `VALUE `, three numbers with their blanks, two line ends.
const VALUE_OVERHEAD_SIZE: usize = 6 + 11 + 21 + 21 + 4;

/// The answers that are always the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value was stored.
    Stored,
    /// The condition of `add`, `replace`, `append` or `prepend` did not hold.
    NotStored,
    /// `cas`: the value changed since.
    Exists,
    /// There is no such key.
    NotFound,
    /// `delete` did.
    Deleted,
    /// `touch` did.
    Touched,
    /// `flush_all`, `verbosity`.
    Ok,
    /// `mn`.
    MetaNoop,
    /// `stats reset`.
    Reset,
    /// End of the values of a `get` or of the lines of `stats`.
    End,
    /// A command or sub-command that does not exist.
    Error,
    /// Above `-c`; the connection is closed after it.
    TooManyConnections,
    /// `incr` or `decr` of a value that is not a number.
    NotNumeric,
    /// `stats detail` without `on`, `off` or `dump`.
    DetailUsage,
    /// `flush_all` with `-F`.
    FlushAllNotAllowed,
    /// The value is above `-I`.
    TooLarge,
    /// The store is full and may not evict (`-M`).
    OutOfMemory,
    /// The device did not give back what was written to it. Not an answer of memcached, which says the key is absent.
    DiskReadFailed,
    /// The device did not take what was written to it. Not an answer of memcached, which has nothing like it.
    DiskWriteFailed,
}

impl Answer {
    /// The line with its `\r\n`.
    #[must_use]
    pub const fn line(self) -> &'static [u8] {
        match self {
            Self::Stored => b"STORED\r\n",
            Self::NotStored => b"NOT_STORED\r\n",
            Self::Exists => b"EXISTS\r\n",
            Self::NotFound => b"NOT_FOUND\r\n",
            Self::Deleted => b"DELETED\r\n",
            Self::Touched => b"TOUCHED\r\n",
            Self::Ok => b"OK\r\n",
            Self::MetaNoop => b"MN\r\n",
            Self::Reset => b"RESET\r\n",
            Self::End => b"END\r\n",
            Self::Error => b"ERROR\r\n",
            Self::TooManyConnections => b"ERROR Too many open connections\r\n",
            Self::NotNumeric => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            Self::DetailUsage => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
            Self::FlushAllNotAllowed => b"CLIENT_ERROR flush_all not allowed\r\n",
            Self::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Self::OutOfMemory => b"SERVER_ERROR out of memory storing object\r\n",
            Self::DiskReadFailed => b"SERVER_ERROR disk read failed\r\n",
            Self::DiskWriteFailed => b"SERVER_ERROR disk write failed, the change may be lost\r\n",
        }
    }
}

/// Appends a fixed answer.
#[inline]
pub fn encode_answer(out: &mut Vec<u8>, answer: Answer) {
    out.extend_from_slice(answer.line());
}

/// Appends the answer to a refused request.
pub fn encode_bad_request(out: &mut Vec<u8>, error: BadRequest) {
    out.extend_from_slice(error.answer());
}

/// Appends one hit of `get`, or of `gets` when there is a `cas` unique:
/// `VALUE <key> <flags> <bytes>[ <cas unique>]\r\n<value>\r\n`.
pub fn encode_value(out: &mut Vec<u8>, key: &[u8], flags: u32, cas: Option<u64>, value: &[u8]) {
    out.reserve(VALUE_OVERHEAD_SIZE + key.len() + value.len());
    encode_value_header(out, key, flags, cas, value.len());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the first line of a hit, for a value of `value_size` bytes that is sent from elsewhere, with a `\r\n`
/// behind it.
pub fn encode_value_header(out: &mut Vec<u8>, key: &[u8], flags: u32, cas: Option<u64>, value_size: usize) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    append_number(out, flags);
    out.push(b' ');
    append_number(out, value_size);
    if let Some(cas) = cas {
        out.push(b' ');
        append_number(out, cas);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer of `incr` and `decr`.
pub fn encode_number(out: &mut Vec<u8>, number: u64) {
    append_number(out, number);
    out.extend_from_slice(b"\r\n");
}

/// Appends `STAT <name> <value>\r\n`. The value is written with its `Display`, which must hold no line end.
pub fn encode_stat(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    use std::io::Write;
    write!(out, "STAT {name} {value}\r\n").expect("writing to a Vec does not fail");
}

/// Appends `VERSION <version>\r\n`.
pub fn encode_version(out: &mut Vec<u8>, version: &str) {
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(in crate::protocol) fn append_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
