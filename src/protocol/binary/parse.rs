//! Binary requests.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::limits::KEY_SIZE_MAX;

use super::super::text::parse::item_size;
use super::super::{Direction, ParseLimits, Parsed, Request, StoreVerb};
use super::{BinaryReply, BinaryRequest, Command, HEADER_SIZE, REQUEST_MAGIC, Status, opcode};

/// The exptime that says that no number is to be created.
const CREATES_NOTHING: u32 = u32::MAX;

/// What begins each request.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: u8,
    opcode: u8,
    key_size: U16,
    extras_size: u8,
    data_type: u8,
    vbucket: U16,
    body_size: U32,
    opaque: [u8; 4],
    cas: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_SIZE);

/// The extras of `SET`, `ADD` and `REPLACE`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoreExtras {
    flags: U32,
    exptime: U32,
}

/// The extras of `INCREMENT` and `DECREMENT`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ArithmeticExtras {
    delta: U64,
    initial: U64,
    exptime: U32,
}

/// A request up to its value.
struct Head<'a> {
    reply: BinaryReply,
    extras: &'a [u8],
    key: &'a [u8],
    cas: u64,
    value_size: u64,
    /// Bytes of the input that all this takes.
    size: usize,
}

/// What follows from a head.
enum Outcome<'a> {
    /// The request has no value.
    Whole(Command<'a>),
    /// The request stores its value.
    Store(StoreVerb, StoreExtras),
    /// The request is refused, and its value dropped.
    Unknown,
    /// The request has not the form it should have.
    Malformed,
}

/// See [`crate::protocol::parse_binary`].
pub(in crate::protocol) fn parse<'a>(input: &'a [u8], limits: &ParseLimits) -> Parsed<'a> {
    if input.first().is_some_and(|&magic| magic != REQUEST_MAGIC) {
        return Parsed::Close;
    }
    let Ok((header, rest)) = Header::ref_from_prefix(input) else {
        return Parsed::IncompleteValue { needed: HEADER_SIZE };
    };
    let extras_size = usize::from(header.extras_size);
    let head_size = HEADER_SIZE + extras_size + usize::from(header.key_size.get());
    let Some(extras_and_key) = rest.get(..head_size - HEADER_SIZE) else {
        return Parsed::IncompleteValue { needed: head_size };
    };
    let reply = BinaryReply { opcode: header.opcode, opaque: header.opaque };
    let Some(value_size) = u64::from(header.body_size.get()).checked_sub(extras_and_key.len() as u64) else {
        return refused(reply, Status::UnknownCommand, true, head_size, 0);
    };
    let (extras, key) = extras_and_key.split_at(extras_size);
    if key.len() > KEY_SIZE_MAX {
        return refused(reply, Status::InvalidArguments, true, head_size, 0);
    }
    let head = Head { reply, extras, key, cas: header.cas.get(), value_size, size: head_size };
    match outcome(&head) {
        Outcome::Whole(command) => request(reply, command, head_size, 0),
        Outcome::Store(verb, extras) => parse_value(&head, verb, &extras, &rest[extras_and_key.len()..], limits),
        Outcome::Unknown => refused(reply, Status::UnknownCommand, false, head_size, value_size),
        Outcome::Malformed => refused(reply, Status::InvalidArguments, true, head_size, 0),
    }
}

/// The key of the request at the front, and the size of the request: a hint, as [`crate::protocol::text::ahead`] gives
/// them. There is none where the request has no key of an item, or is cut off before it.
pub(in crate::protocol) fn glance(input: &[u8]) -> Option<(&[u8], usize)> {
    let (header, rest) = Header::ref_from_prefix(input).ok()?;
    let extras_size = usize::from(header.extras_size);
    let key = rest.get(extras_size..)?.get(..header.key_size.get().into())?;
    let names_item = header.magic == REQUEST_MAGIC && header.opcode != opcode::STAT && !key.is_empty();
    let is_sound = key.len() <= KEY_SIZE_MAX && extras_size + key.len() <= header.body_size.get() as usize;
    (names_item && is_sound).then_some((key, HEADER_SIZE + header.body_size.get() as usize))
}

fn request(reply: BinaryReply, command: Command<'_>, consumed: usize, swallow_size: u64) -> Parsed<'_> {
    Parsed::Request { request: Request::Binary(BinaryRequest { reply, command }), consumed, swallow_size }
}

fn refused<'a>(reply: BinaryReply, status: Status, closes: bool, consumed: usize, swallow_size: u64) -> Parsed<'a> {
    request(reply, Command::Refused { status, closes }, consumed, swallow_size)
}

fn outcome<'a>(head: &Head<'a>) -> Outcome<'a> {
    let whole = |command: Option<Command<'a>>| command.map_or(Outcome::Malformed, Outcome::Whole);
    let bare = |command| whole(head.is_bare().then_some(command));
    let store = |verb, extras: Option<StoreExtras>| match extras {
        Some(extras) if !head.key.is_empty() => Outcome::Store(verb, extras),
        _ => Outcome::Malformed,
    };
    let replacing = |verb| store(verb, StoreExtras::read_from_bytes(head.extras).ok());
    // APPEND and PREPEND have none, and none of what they would say is used.
    let extending = |verb| store(verb, head.extras.is_empty().then(StoreExtras::none));
    match head.reply.opcode {
        opcode::GET | opcode::GETQ | opcode::GETK | opcode::GETKQ => {
            whole(head.lone_key().map(|key| Command::Get { key, touch: None }))
        }
        opcode::GAT | opcode::GATQ | opcode::GATK | opcode::GATKQ => {
            whole(head.touched().map(|(key, exptime)| Command::Get { key, touch: Some(exptime) }))
        }
        opcode::TOUCH => whole(head.touched().map(|(key, exptime)| Command::Touch { key, exptime })),
        opcode::SET | opcode::SETQ => replacing(StoreVerb::Set),
        opcode::ADD | opcode::ADDQ => replacing(StoreVerb::Add),
        opcode::REPLACE | opcode::REPLACEQ => replacing(StoreVerb::Replace),
        opcode::APPEND | opcode::APPENDQ => extending(StoreVerb::Append),
        opcode::PREPEND | opcode::PREPENDQ => extending(StoreVerb::Prepend),
        opcode::DELETE | opcode::DELETEQ => whole(head.lone_key().map(|key| Command::Delete { key, cas: head.cas })),
        opcode::INCREMENT | opcode::INCREMENTQ => whole(arithmetic(head, Direction::Increment)),
        opcode::DECREMENT | opcode::DECREMENTQ => whole(arithmetic(head, Direction::Decrement)),
        opcode::FLUSH | opcode::FLUSHQ => whole(flush(head)),
        opcode::QUIT | opcode::QUITQ => bare(Command::Quit),
        opcode::NOOP => bare(Command::Noop),
        opcode::VERSION => bare(Command::Version),
        opcode::STAT if head.extras.is_empty() && head.value_size == 0 => {
            Outcome::Whole(Command::Stat { argument: head.key })
        }
        opcode::STAT => Outcome::Malformed,
        opcode::SASL_LIST if !head.is_bare() => Outcome::Malformed,
        opcode::SASL_AUTH | opcode::SASL_STEP if !head.extras.is_empty() || head.key.is_empty() => Outcome::Malformed,
        _ => Outcome::Unknown,
    }
}

impl StoreExtras {
    fn none() -> Self {
        Self { flags: U32::ZERO, exptime: U32::ZERO }
    }
}

impl<'a> Head<'a> {
    /// Whether there is nothing behind the header.
    fn is_bare(&self) -> bool {
        self.extras.is_empty() && self.key.is_empty() && self.value_size == 0
    }

    /// The key, if there is one and no value.
    fn only_key(&self) -> Option<&'a [u8]> {
        (!self.key.is_empty() && self.value_size == 0).then_some(self.key)
    }

    /// The key, if there is nothing else.
    fn lone_key(&self) -> Option<&'a [u8]> {
        self.only_key().filter(|_| self.extras.is_empty())
    }

    /// Key and exptime, if there is nothing else.
    fn touched(&self) -> Option<(&'a [u8], i64)> {
        Some((self.only_key()?, exptime(self.extras)?))
    }
}

/// The exptime that the extras are.
fn exptime(extras: &[u8]) -> Option<i64> {
    U32::read_from_bytes(extras).ok().map(|exptime| exptime.get().into())
}

fn arithmetic<'a>(head: &Head<'a>, direction: Direction) -> Option<Command<'a>> {
    let key = head.only_key()?;
    let extras = ArithmeticExtras::read_from_bytes(head.extras).ok()?;
    let exptime = extras.exptime.get();
    Some(Command::Arithmetic {
        direction,
        key,
        delta: extras.delta.get(),
        initial: extras.initial.get(),
        exptime: (exptime != CREATES_NOTHING).then(|| exptime.into()),
        cas: head.cas,
    })
}

fn flush<'a>(head: &Head<'a>) -> Option<Command<'a>> {
    let is_valid = head.key.is_empty() && head.value_size == 0;
    let exptime = if head.extras.is_empty() { 0 } else { exptime(head.extras)? };
    is_valid.then_some(Command::Flush { exptime })
}

/// Takes the value of a storage command from `rest`, the input behind the key.
fn parse_value<'a>(
    head: &Head<'a>,
    verb: StoreVerb,
    extras: &StoreExtras,
    rest: &'a [u8],
    limits: &ParseLimits,
) -> Parsed<'a> {
    let Head { reply, key, cas, value_size, size, .. } = *head;
    let flags = extras.flags.get();
    if item_size(key.len(), flags, value_size) > limits.item_size_max as u64 {
        return request(reply, Command::TooLarge { verb, key }, size, value_size);
    }
    // Below 2^32, so neither the conversion nor a sum can overflow a usize of 64 bits.
    let value_size = value_size as usize;
    let needed = size + value_size;
    let Some(value) = rest.get(..value_size) else {
        return Parsed::IncompleteValue { needed };
    };
    let exptime = extras.exptime.get().into();
    request(reply, Command::Store { verb, key, flags, exptime, value, cas }, needed, 0)
}
