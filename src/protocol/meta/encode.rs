//! Answers to meta commands.

use super::{MetaReply, base64};
use crate::protocol::text::encode::append_number;

/// What begins an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It is done, and nothing follows.
    Done,
    /// There is no such item (`mg`, `me`).
    Miss,
    /// There is no such item (`ms`, `md`, `ma`).
    NotFound,
    /// The item has another CAS unique.
    Exists,
    /// The item was not stored.
    NotStored,
}

impl Code {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Done => b"HD",
            Self::Miss => b"EN",
            Self::NotFound => b"NF",
            Self::Exists => b"EX",
            Self::NotStored => b"NS",
        }
    }
}

/// What an answer may tell of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The key was first sent in base64, and is answered in it.
    pub is_key_binary: bool,
    /// Bytes of the value.
    pub value_size: usize,
    /// The client's flags.
    pub client_flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Seconds that are left; `None`: for ever.
    pub ttl: Option<i64>,
    /// Seconds since the last access, as far as is known.
    pub age: u32,
    /// Whether somebody has fetched it before.
    pub was_fetched: bool,
}

/// What an item's state says to whoever fetches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// This client is the one to fetch the item anew (`W`).
    pub has_won: bool,
    /// Another client was told so before (`Z`).
    pub token_sent: bool,
    /// The item is stale (`X`).
    pub is_stale: bool,
}

/// Appends the first line of an answer with an item, up to its `\r\n`: `HD`, or `VA` and the size when the value
/// follows, with its own `\r\n`.
pub fn encode_item(out: &mut Vec<u8>, reply: &MetaReply, item: &MetaItem<'_>, standing: Standing, with_value: bool) {
    if with_value {
        out.extend_from_slice(b"VA ");
        append_number(out, item.value_size);
    } else {
        out.extend_from_slice(Code::Done.bytes());
    }
    encode_flags(out, reply, item);
    for (is_set, letter) in [(standing.token_sent, b'Z'), (standing.is_stale, b'X'), (standing.has_won, b'W')] {
        if is_set {
            out.extend_from_slice(&[b' ', letter]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an answer without an item: it repeats key and opaque, no more.
pub fn encode_code(out: &mut Vec<u8>, code: Code, reply: &MetaReply, key: &[u8], is_key_binary: bool) {
    out.extend_from_slice(code.bytes());
    for letter in reply.letters() {
        match letter {
            b'O' => append_opaque(out, reply),
            b'k' => append_key(out, key, is_key_binary),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer to an `ms`: what it says of the item is what was to be stored, and `c` the new CAS unique, or 0 when
/// nothing was stored.
pub fn encode_stored(out: &mut Vec<u8>, code: Code, reply: &MetaReply, item: &MetaItem<'_>) {
    out.extend_from_slice(code.bytes());
    for letter in reply.letters() {
        match letter {
            b'O' => append_opaque(out, reply),
            b'k' => append_key(out, item.key, item.is_key_binary),
            b'c' => append_flag(out, b'c', item.cas),
            b's' => append_flag(out, b's', item.value_size as u64),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer to `me`: `size` as memcached counts it against `-I`.
pub fn encode_debug(out: &mut Vec<u8>, item: &MetaItem<'_>, size: usize) {
    use std::io::Write;
    out.extend_from_slice(b"ME ");
    if item.is_key_binary {
        base64::encode(out, item.key);
    } else {
        out.extend_from_slice(item.key);
    }
    // memcached counts the time that is left downwards, so that it is negative here.
    let (ttl, age, cas) = (item.ttl.map_or(-1, |left| -left), item.age, item.cas);
    let fetched = if item.was_fetched { "yes" } else { "no" };
    let written = write!(out, " exp={ttl} la={age} cas={cas} fetch={fetched} cls=1 size={size}\r\n");
    written.expect("writing to a Vec does not fail");
}

fn encode_flags(out: &mut Vec<u8>, reply: &MetaReply, item: &MetaItem<'_>) {
    for letter in reply.letters() {
        match letter {
            b'O' => append_opaque(out, reply),
            b'k' => append_key(out, item.key, item.is_key_binary),
            b'c' => append_flag(out, b'c', item.cas),
            b'f' => append_flag(out, b'f', item.client_flags.into()),
            b'h' => append_flag(out, b'h', item.was_fetched.into()),
            b'l' => append_flag(out, b'l', item.age.into()),
            b's' => append_flag(out, b's', item.value_size as u64),
            b't' => {
                out.extend_from_slice(b" t");
                append_number(out, item.ttl.unwrap_or(-1));
            }
            _ => {}
        }
    }
}

fn append_flag(out: &mut Vec<u8>, letter: u8, number: u64) {
    out.extend_from_slice(&[b' ', letter]);
    append_number(out, number);
}

fn append_opaque(out: &mut Vec<u8>, reply: &MetaReply) {
    out.push(b' ');
    out.extend_from_slice(reply.opaque());
}

fn append_key(out: &mut Vec<u8>, key: &[u8], is_binary: bool) {
    out.extend_from_slice(b" k");
    if is_binary {
        base64::encode(out, key);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
}
