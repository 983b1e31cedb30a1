//! memcached's binary protocol: [`super::parse_binary`] reads requests, [`encode`] writes answers.
//!
//! A request is a header of 24 bytes, then extras, key and value; the header tells the size of the extras, of the key and of
//! all three together. All numbers are big-endian. The opaque and the opcode come back in each answer. The data type and the
//! vbucket of a request are ignored, those of an answer are 0. A key is 1 to 250 bytes of any kind, blanks and NULs included,
//! and is the same key to the text protocol.
//!
//! # What each request must look like, and its answers
//!
//! As memcached 1.6.18 was found to behave. Sizes are in bytes, `1+` is a key that there must be. A quiet command leaves out the
//! answer in brackets and gives all others.
//!
//! | opcodes, the quiet one behind `/` | extras | key | value | answers |
//! |---|---|---|---|---|
//! | GET `00/09`, GETK `0c/0d` | 0 | 1+ | 0 | hit; \[miss\] |
//! | GAT `1d/1e`, GATK `23/24` | 4: exptime | 1+ | 0 | hit; \[miss\] |
//! | TOUCH `1c` | 4: exptime | 1+ | 0 | hit without the value; [`NotFound`] |
//! | SET `01/11` | 8: flags, exptime | 1+ | any | \[stored\]; [`TooLarge`] |
//! | ADD `02/12` | 8: flags, exptime | 1+ | any | \[stored\]; [`Exists`]; [`TooLarge`] |
//! | REPLACE `03/13` | 8: flags, exptime | 1+ | any | \[stored\]; [`NotFound`]; [`TooLarge`] |
//! | these three with a CAS in the header | 8 | 1+ | any | \[stored\]; [`Exists`]; [`NotFound`]; [`TooLarge`] |
//! | APPEND `0e/19`, PREPEND `0f/1a` | 0 | 1+ | any | \[stored\]; [`NotStored`]; [`Exists`]; [`TooLarge`] |
//! | DELETE `04/14` | 0 | 1+ | 0 | \[done\]; [`NotFound`]; [`Exists`] |
//! | INCREMENT `05/15`, DECREMENT `06/16` | 20, see below | 1+ | 0 | \[number\]; [`NotFound`]; [`Exists`]; [`NotNumeric`] |
//! | FLUSH `08/18` | 0, or 4: time | 0 | 0 | \[done\]; with `-F` [`AuthFailure`] |
//! | QUIT `07/17` | 0 | 0 | 0 | \[done\], then the connection is closed |
//! | NOOP `0a` | 0 | 0 | 0 | done |
//! | VERSION `0b` | 0 | 0 | 0 | the version as a value |
//! | STAT `10` | 0 | any | 0 | one for each statistic, name as key, then done; [`NotFound`] |
//! | SASL list `20` | 0 | 0 | 0 | [`UnknownCommand`], as without `-S` |
//! | SASL auth `21`, step `22` | 0 | 1+ | any | [`UnknownCommand`]; the value is dropped |
//! | all others, among them verbosity `1b` | any | any | any | [`UnknownCommand`]; the body is dropped |
//!
//! * *done* is status 0 with no body, *stored* the same with the CAS unique of what was stored, *number* that with 8 bytes. *hit*
//!   is the flags as 4 bytes of extras, the key if there is a K, the value, and the item's CAS unique. *miss* is [`NotFound`],
//!   with the key as the key instead of the text if there is a K. All else is a status with its text as the value ([`Status`]),
//!   no extras, no key. The CAS is 0 wherever none is named.
//! * A request of another form gets [`InvalidArguments`], quiet or not, and the connection is closed. So does every opcode
//!   with a key of more than 250 bytes. Extras and key that do not fit the body get [`UnknownCommand`], and the connection is
//!   closed. All that is decided when extras and key are there, before the value.
//! * A first byte other than 0x80 where a request should begin closes the connection without an answer; a connection that has
//!   begun in this protocol never changes to the other one, nor the other way round. Nothing behind a QUIT is looked at.
//! * Exptimes are 32 bits without a sign and mean what they mean in text: `ffffffff` is the year 2106. A FLUSH at 0 is at once.
//!
//! # What the commands do
//!
//! * A CAS other than 0 in the header of SET, ADD or REPLACE makes all three the same compare-and-swap. DELETE, APPEND, PREPEND,
//!   INCREMENT and DECREMENT end in [`Exists`] if the item has another one, a number even if it is not numeric. Without an
//!   item it does not matter: [`NotFound`], [`NotStored`], or the number is created. The gets and TOUCH do not look at it.
//! * With `-C` each CAS in an answer is 0. One in a request is ignored, but by DELETE, INCREMENT and DECREMENT, which
//!   then find another.
//! * APPEND and PREPEND keep flags and exptime. When only the sum is too large they end in [`NotStored`].
//! * The extras of INCREMENT and DECREMENT are delta (8 bytes), initial (8) and exptime (4). Without an item, one is created as
//!   `initial` with this exptime and the flags 0, and `initial` is answered; with the exptime `ffffffff` it is [`NotFound`].
//!   Else they are those of text: the one wraps, the other stops at 0, a shorter number is padded, flags and exptime stay.
//! * A TOUCH or GAT does not change the item's CAS.
//! * [`TooLarge`] is for a value above `-I`, which is dropped; a SET, with a CAS or without, deletes the old value then.
//! * A full store: [`OutOfMemory`], to a number that would be created [`OutOfMemoryForNew`]. A SET deletes the old value then.
//! * STAT: a key that begins with `reset` resets, and answers just *done*; one that begins with `settings` gives these;
//!   `detail on` and `detail off` answer just *done*, `detail dump` has one statistic, `detailed`, with the whole answer that
//!   text gives, and what else begins with `detail` is [`NotFound`]; `items`, `slabs` and `sizes` must be just that. All others
//!   are [`NotFound`], also `conns`, `cachedump` and `extstore`.
//! * Counters: gets count as `get` does, but GAT and GATK as `touch` and not as a get. SET, ADD, REPLACE, APPEND and PREPEND
//!   are a `cmd_set` each, whatever comes of it, and with a CAS the first three also one of `cas_hits`, `cas_misses`,
//!   `cas_badval`; only [`TooLarge`] counts nowhere. A number that is created, [`NotNumeric`] or [`Exists`] is neither hit nor
//!   miss, nor is a DELETE that ends in [`Exists`].
//!
//! # Where it is not memcached's, on purpose
//!
//! * An unknown command's body is dropped once. memcached drops extras and key twice, and with it what follows them.
//! * A value behind GAT, GATK, TOUCH or STAT is [`InvalidArguments`], as with the other commands that have none. memcached runs
//!   the bytes of such a value as commands.
//! * A value of 2 GiB and more is dropped whole; memcached takes its size for a negative number.
//! * A wrong first byte closes the connection at once and not after 24 bytes.
//! * What cannot be read from disk is [`DiskReadFailed`] where text says so; what cannot be written is [`DiskWriteFailed`], also
//!   as the answer to a quiet command.
//!
//! [`DiskReadFailed`]: Status::DiskReadFailed
//! [`DiskWriteFailed`]: Status::DiskWriteFailed
//! [`NotFound`]: Status::NotFound
//! [`Exists`]: Status::Exists
//! [`TooLarge`]: Status::TooLarge
//! [`InvalidArguments`]: Status::InvalidArguments
//! [`NotStored`]: Status::NotStored
//! [`NotNumeric`]: Status::NotNumeric
//! [`AuthFailure`]: Status::AuthFailure
//! [`UnknownCommand`]: Status::UnknownCommand
//! [`OutOfMemory`]: Status::OutOfMemory
//! [`OutOfMemoryForNew`]: Status::OutOfMemoryForNew

pub mod encode;
mod opcode;
pub(in crate::protocol) mod parse;

#[cfg(test)]
mod tests;

use super::{Direction, StoreVerb};

/// First byte of every request.
pub const REQUEST_MAGIC: u8 = 0x80;
/// First byte of every answer.
pub const RESPONSE_MAGIC: u8 = 0x81;
/// Size of the header of requests and answers.
pub const HEADER_SIZE: usize = 24;

/// A request, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryRequest<'a> {
    /// What its answers need of it.
    pub reply: BinaryReply,
    /// What is to be done.
    pub command: Command<'a>,
}

/// What an answer needs of its request; small enough to be kept until a record is read from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryReply {
    /// The command, which is repeated in the answer.
    pub opcode: u8,
    /// Any four bytes of the client's, which are repeated in the answer.
    pub opaque: [u8; 4],
}

impl BinaryReply {
    /// Whether the command is a quiet one. What that leaves out: [`Self::hides_success`], [`Self::hides_miss`].
    #[must_use]
    pub const fn is_quiet(self) -> bool {
        self.hides_success() || self.hides_miss()
    }

    /// Whether status 0 is left out. The functions of [`encode`] see to it.
    #[must_use]
    pub const fn hides_success(self) -> bool {
        matches!(self.opcode, opcode::SETQ..=opcode::PREPENDQ)
    }

    /// Whether the answer to a get that finds nothing is left out. [`encode::encode_miss`] sees to it.
    #[must_use]
    pub const fn hides_miss(self) -> bool {
        matches!(self.opcode, opcode::GETQ | opcode::GETKQ | opcode::GATQ | opcode::GATKQ)
    }

    /// Whether the answer to a get holds the key.
    #[must_use]
    pub const fn wants_key(self) -> bool {
        matches!(self.opcode, opcode::GETK | opcode::GETKQ | opcode::GATK | opcode::GATKQ)
    }
}

/// The commands. Keys are 1 to `limits::KEY_SIZE_MAX` bytes, a `cas` of 0 is none, and every exptime is as the client wrote
/// it, see [`super::absolute_expiry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `GET`, `GETK`, `GAT`, `GATK` and their quiet forms.
    Get {
        /// The key.
        key: &'a [u8],
        /// `GAT` and `GATK`: the exptime that the item gets.
        touch: Option<i64>,
    },
    /// `SET`, `ADD`, `REPLACE`, `APPEND`, `PREPEND` with a value that may be stored.
    Store {
        /// Which of them, never [`StoreVerb::Cas`]: see `cas`.
        verb: StoreVerb,
        /// The key.
        key: &'a [u8],
        /// The client's flags; 0 and ignored with `APPEND` and `PREPEND`.
        flags: u32,
        /// The exptime; 0 and ignored with `APPEND` and `PREPEND`.
        exptime: i64,
        /// The value.
        value: &'a [u8],
        /// The CAS unique that the item must have, or 0. With one, `SET`, `ADD` and `REPLACE` are all the same.
        cas: u64,
    },
    /// The same with a value above `-I`, which is dropped.
    TooLarge {
        /// Which of them, never [`StoreVerb::Cas`].
        verb: StoreVerb,
        /// The key.
        key: &'a [u8],
    },
    /// `DELETE`.
    Delete {
        /// The key.
        key: &'a [u8],
        /// The CAS unique that the item must have, or 0.
        cas: u64,
    },
    /// `INCREMENT` and `DECREMENT`.
    Arithmetic {
        /// Which of the two.
        direction: Direction,
        /// The key.
        key: &'a [u8],
        /// How much to add or take away.
        delta: u64,
        /// What an item that is created begins with, and what is answered then.
        initial: u64,
        /// The exptime of an item that is created; `None` if none is to be created.
        exptime: Option<i64>,
        /// The CAS unique that the item must have if there is one, or 0.
        cas: u64,
    },
    /// `TOUCH`.
    Touch {
        /// The key.
        key: &'a [u8],
        /// The exptime that the item gets.
        exptime: i64,
    },
    /// `FLUSH`.
    Flush {
        /// When, with the meaning of an exptime; 0 is now.
        exptime: i64,
    },
    /// `STAT`.
    Stat {
        /// Which statistics; empty for the general ones.
        argument: &'a [u8],
    },
    /// `VERSION`.
    Version,
    /// `NOOP`, whose answer tells that everything before is answered.
    Noop,
    /// `QUIT`: the connection is to be closed once the answers, its own among them, are written.
    Quit,
    /// Whatever is refused before any store hears of it: a wrong form, an unknown opcode, SASL.
    Refused {
        /// The answer, which a quiet command gets, too.
        status: Status,
        /// The connection is to be closed after it.
        closes: bool,
    },
}

/// What a request came to that did not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is no such key.
    NotFound,
    /// There is such a key already, or the item has another CAS unique.
    Exists,
    /// The value is above `-I`.
    TooLarge,
    /// The request has not the form of its command.
    InvalidArguments,
    /// There is nothing to append to, or the sum is too large.
    NotStored,
    /// The value to count up or down is not a number.
    NotNumeric,
    /// The command is not allowed (`-F`).
    AuthFailure,
    /// There is no such command.
    UnknownCommand,
    /// The store is full and may not evict (`-M`).
    OutOfMemory,
    /// The same, when a number is to be created.
    OutOfMemoryForNew,
    /// The device did not give back what was written to it. Not an answer of memcached, which says the key is absent.
    DiskReadFailed,
    /// The device did not take what was written to it. Not an answer of memcached, which has nothing like it.
    DiskWriteFailed,
}

impl Status {
    /// The number in the header of the answer.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NotFound => 0x01,
            Self::Exists => 0x02,
            Self::TooLarge => 0x03,
            Self::InvalidArguments => 0x04,
            Self::NotStored => 0x05,
            Self::NotNumeric => 0x06,
            Self::AuthFailure => 0x20,
            Self::UnknownCommand => 0x81,
            Self::OutOfMemory | Self::OutOfMemoryForNew => 0x82,
            Self::DiskReadFailed | Self::DiskWriteFailed => 0x84,
        }
    }

    /// The value of the answer to the command `opcode`.
    #[must_use]
    pub const fn text(self, opcode: u8) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Exists => "Data exists for key.",
            Self::TooLarge => "Too large.",
            Self::InvalidArguments => "Invalid arguments",
            Self::NotStored => "Not stored.",
            Self::NotNumeric => "Non-numeric server-side value for incr or decr",
            Self::AuthFailure => "Auth failure.",
            Self::UnknownCommand => "Unknown command",
            Self::OutOfMemory => match opcode {
                opcode::SET..=opcode::REPLACE
                | opcode::APPEND..=opcode::PREPEND
                | opcode::SETQ..=opcode::REPLACEQ
                | opcode::APPENDQ..=opcode::PREPENDQ => "Out of memory allocating item",
                opcode::INCREMENT..=opcode::DECREMENT | opcode::INCREMENTQ..=opcode::DECREMENTQ => {
                    "Out of memory incrementing value"
                }
                _ => "Out of memory",
            },
            Self::OutOfMemoryForNew => "Out of memory allocating new item",
            Self::DiskReadFailed => "Disk read failed",
            Self::DiskWriteFailed => "Disk write failed, the change may be lost",
        }
    }
}
