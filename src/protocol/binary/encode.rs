//! Binary answers. Every function appends to a buffer whose capacity the caller keeps, so that nothing is allocated per
//! answer once the buffer has grown. What a quiet command does not want is left out here, so that nobody else has to know.

use std::fmt;

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use super::{BinaryReply, HEADER_SIZE, RESPONSE_MAGIC, Status};

/// What begins each answer.
#[derive(Immutable, IntoBytes, Unaligned)]
#[repr(C)]
struct Header {
    magic: u8,
    opcode: u8,
    key_size: U16,
    extras_size: u8,
    data_type: u8,
    status: U16,
    body_size: U32,
    opaque: [u8; 4],
    cas: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_SIZE);

/// Bytes of the client's flags, the extras of a hit.
const FLAGS_SIZE: usize = size_of::<U32>();

/// The sizes of the parts of an answer.
#[derive(Clone, Copy, Default)]
struct Sizes {
    extras: usize,
    key: usize,
    value: usize,
}

/// Appends the header of an answer.
fn encode_header(out: &mut Vec<u8>, reply: BinaryReply, status: u16, sizes: Sizes, cas: u64) {
    // A key is at most `limits::KEY_SIZE_MAX`, a statistic's name not much longer, a value at most `limits::ITEM_SIZE_MAX`:
    // all of them fit.
    let header = Header {
        magic: RESPONSE_MAGIC,
        opcode: reply.opcode,
        key_size: U16::new(sizes.key as u16),
        extras_size: sizes.extras as u8,
        data_type: 0,
        status: U16::new(status),
        body_size: U32::new((sizes.extras + sizes.key + sizes.value) as u32),
        opaque: reply.opaque,
        cas: U64::new(cas),
    };
    out.extend_from_slice(header.as_bytes());
}

/// Appends the answer to what was not done. It is given to quiet commands as well; a get that finds nothing has
/// [`encode_miss`] instead.
pub fn encode_status(out: &mut Vec<u8>, reply: BinaryReply, status: Status) {
    let text = status.text(reply.opcode).as_bytes();
    encode_header(out, reply, status.code(), Sizes { value: text.len(), ..Sizes::default() }, 0);
    out.extend_from_slice(text);
}

/// Appends the answer to a get that finds nothing: the status [`Status::NotFound`] with its text, or with the key where
/// that is wanted; nothing for the quiet ones.
pub fn encode_miss(out: &mut Vec<u8>, reply: BinaryReply, key: &[u8]) {
    if reply.hides_miss() {
        return;
    }
    if !reply.wants_key() {
        return encode_status(out, reply, Status::NotFound);
    }
    encode_header(out, reply, Status::NotFound.code(), Sizes { key: key.len(), ..Sizes::default() }, 0);
    out.extend_from_slice(key);
}

/// Appends a hit of a get up to its value of `value_size` bytes, which follows with nothing behind it.
pub fn encode_value_header(out: &mut Vec<u8>, reply: BinaryReply, key: &[u8], flags: u32, cas: u64, value_size: usize) {
    let key = if reply.wants_key() { key } else { &[] };
    encode_header(out, reply, 0, Sizes { extras: FLAGS_SIZE, key: key.len(), value: value_size }, cas);
    out.extend_from_slice(U32::new(flags).as_bytes());
    out.extend_from_slice(key);
}

/// Appends a hit of a get.
pub fn encode_value(out: &mut Vec<u8>, reply: BinaryReply, key: &[u8], flags: u32, cas: u64, value: &[u8]) {
    out.reserve(HEADER_SIZE + FLAGS_SIZE + key.len() + value.len());
    encode_value_header(out, reply, key, flags, cas, value.len());
    out.extend_from_slice(value);
}

/// Appends the answer to `TOUCH`: the flags and the CAS unique of the item.
pub fn encode_touched(out: &mut Vec<u8>, reply: BinaryReply, flags: u32, cas: u64) {
    encode_value_header(out, reply, &[], flags, cas, 0);
}

/// Appends the answer to what stored an item with this CAS unique; nothing for quiet commands.
pub fn encode_stored(out: &mut Vec<u8>, reply: BinaryReply, cas: u64) {
    if !reply.hides_success() {
        encode_header(out, reply, 0, Sizes::default(), cas);
    }
}

/// Appends the answer to what was done: `DELETE`, `FLUSH`, `NOOP`, `QUIT`, and what ends the statistics; nothing for quiet
/// commands.
pub fn encode_empty(out: &mut Vec<u8>, reply: BinaryReply) {
    encode_stored(out, reply, 0);
}

/// Appends the answer to `INCREMENT` and `DECREMENT`: the number, and the CAS unique of the item that it is now; nothing for
/// quiet commands.
pub fn encode_number(out: &mut Vec<u8>, reply: BinaryReply, number: u64, cas: u64) {
    if !reply.hides_success() {
        encode_header(out, reply, 0, Sizes { value: size_of::<U64>(), ..Sizes::default() }, cas);
        out.extend_from_slice(U64::new(number).as_bytes());
    }
}

/// Appends the answer to `VERSION`.
pub fn encode_version(out: &mut Vec<u8>, reply: BinaryReply, version: &str) {
    encode_header(out, reply, 0, Sizes { value: version.len(), ..Sizes::default() }, 0);
    out.extend_from_slice(version.as_bytes());
}

/// Appends one of the answers to `STAT`, which [`encode_empty`] ends. The value is written with its `Display`.
pub fn encode_stat(out: &mut Vec<u8>, reply: BinaryReply, name: &str, value: impl fmt::Display) {
    use std::io::Write;
    let start = out.len();
    encode_header(out, reply, 0, Sizes { key: name.len(), ..Sizes::default() }, 0);
    out.extend_from_slice(name.as_bytes());
    write!(out, "{value}").expect("writing to a Vec does not fail");
    let body_size = U32::new((out.len() - start - HEADER_SIZE) as u32);
    let field = start + std::mem::offset_of!(Header, body_size);
    out[field..field + size_of::<U32>()].copy_from_slice(body_size.as_bytes());
}
