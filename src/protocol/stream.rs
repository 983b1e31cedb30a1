//! The portable stream: records as commands that every memcached since 1.6 takes. `STREAM.md` describes it; this is its
//! code.

use std::io::Write;

use super::meta::base64;
use super::text::token::{Tokens, signed, unsigned, unsigned_32};
use crate::limits::KEY_SIZE_MAX;

/// What ends a stream. One without it was cut short.
pub const STREAM_END: &[u8] = b"mn\r\n";
/// What ends a value.
pub const STREAM_VALUE_END: &[u8] = b"\r\n";
/// Longest line, with what ends it: a key of 250 bytes in base64, three numbers of 64 bits, and room for flags that say
/// nothing.
pub const STREAM_LINE_SIZE_MAX: usize = 1024;

/// A record in a stream, but for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Clients are told the key in base64.
    pub is_key_binary: bool,
    /// The client's 32 bits.
    pub client_flags: u32,
    /// As in an exptime: 0 is never, and beyond 30 days it is a unix second.
    pub exptime: i64,
    /// The CAS unique, if it is to be kept.
    pub cas: Option<u64>,
    /// The item is stale.
    pub is_stale: bool,
}

/// What a line of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamLine<'a> {
    /// A record, whose value follows, with so many bytes.
    Item(StreamItem<'a>, u64),
    /// The record of this key is stale, and has this CAS unique, if one is named.
    Stale(&'a [u8], Option<u64>),
    /// The stream ends here.
    End,
}

/// Why a line is none of a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStreamLine {
    /// It is longer than any line of a stream.
    #[error("the line is longer than {STREAM_LINE_SIZE_MAX} bytes")]
    TooLong,
    /// The command is another one.
    #[error("{0:?} is no command of such a stream, which has `ms`, `md` with the flag I, and `mn` at its end")]
    Command(String),
    /// There is no key, or too long a one, or it is not in base64.
    #[error("the key is missing, longer than {KEY_SIZE_MAX} bytes, or not in base64 as the flag b says")]
    Key,
    /// The size is missing or no number.
    #[error("the size of the value is missing or is no number")]
    Size,
    /// A flag that means something else than to store, or a bad value of one.
    #[error("the flag {0:?} is bad here: T F E b q can be used, and I with `md`")]
    Flag(String),
}

/// Whether a key cannot stand in a line as it is.
fn needs_base64(key: &[u8]) -> bool {
    key.is_empty() || key.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f))
}

/// Appends a record.
pub fn encode_stream_item(out: &mut Vec<u8>, item: &StreamItem<'_>, value: &[u8]) {
    let is_base64 = item.is_key_binary || needs_base64(item.key);
    encode_key(out, b"ms ", item.key, is_base64);
    append(out, format_args!(" {} q", value.len()));
    if item.exptime != 0 {
        append(out, format_args!(" T{}", item.exptime));
    }
    if item.client_flags != 0 {
        append(out, format_args!(" F{}", item.client_flags));
    }
    encode_rest(out, item.cas, is_base64);
    out.extend_from_slice(value);
    out.extend_from_slice(STREAM_VALUE_END);
    if item.is_stale {
        encode_key(out, b"md ", item.key, is_base64);
        out.extend_from_slice(b" q I");
        encode_rest(out, item.cas, is_base64);
    }
}

fn encode_key(out: &mut Vec<u8>, command: &[u8], key: &[u8], is_base64: bool) {
    out.extend_from_slice(command);
    if is_base64 {
        base64::encode(out, key);
    } else {
        out.extend_from_slice(key);
    }
}

fn encode_rest(out: &mut Vec<u8>, cas: Option<u64>, is_base64: bool) {
    if let Some(cas) = cas {
        append(out, format_args!(" E{cas}"));
    }
    out.extend_from_slice(if is_base64 { b" b\r\n" } else { b"\r\n" });
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes what is written to it");
}

/// Reads a line, without what ends it. A key in base64 is decoded to `key`.
///
/// # Errors
/// [`BadStreamLine`].
pub fn parse_stream_line<'a>(line: &'a [u8], key: &'a mut [u8; KEY_SIZE_MAX]) -> Result<StreamLine<'a>, BadStreamLine> {
    if line.len() > STREAM_LINE_SIZE_MAX {
        return Err(BadStreamLine::TooLong);
    }
    let mut tokens = Tokens::new(line);
    match tokens.next().unwrap_or_default() {
        b"mn" => Ok(StreamLine::End),
        b"ms" => {
            let token = tokens.next().ok_or(BadStreamLine::Key)?;
            let size = tokens.next().and_then(unsigned).ok_or(BadStreamLine::Size)?;
            let flags = Flags::read(tokens, false)?;
            let key = flags.key(token, key)?;
            let Flags { client_flags, exptime, cas, is_base64: is_key_binary, .. } = flags;
            Ok(StreamLine::Item(StreamItem { key, is_key_binary, client_flags, exptime, cas, is_stale: false }, size))
        }
        b"md" => {
            let token = tokens.next().ok_or(BadStreamLine::Key)?;
            let flags = Flags::read(tokens, true)?;
            if !flags.is_stale {
                return Err(BadStreamLine::Command(shown(line)));
            }
            Ok(StreamLine::Stale(flags.key(token, key)?, flags.cas))
        }
        command => Err(BadStreamLine::Command(shown(command))),
    }
}

#[derive(Default)]
struct Flags {
    client_flags: u32,
    exptime: i64,
    cas: Option<u64>,
    is_base64: bool,
    is_stale: bool,
}

impl Flags {
    fn read(tokens: Tokens<'_>, of_delete: bool) -> Result<Self, BadStreamLine> {
        let mut flags = Self::default();
        for token in tokens {
            let (letter, value) = (token[0], &token[1..]);
            let is_good = match letter {
                b'T' if !of_delete => signed(value).map(|exptime| flags.exptime = exptime).is_some(),
                b'F' if !of_delete => unsigned_32(value).map(|bits| flags.client_flags = bits).is_some(),
                b'E' => unsigned(value).map(|cas| flags.cas = Some(cas)).is_some(),
                b'M' if !of_delete => value == b"S",
                b'I' if of_delete => {
                    flags.is_stale = true;
                    value.is_empty()
                }
                b'b' => {
                    flags.is_base64 = true;
                    value.is_empty()
                }
                b'q' => value.is_empty(),
                _ => false,
            };
            if !is_good {
                return Err(BadStreamLine::Flag(shown(token)));
            }
        }
        Ok(flags)
    }

    fn key<'a>(&self, token: &'a [u8], key: &'a mut [u8; KEY_SIZE_MAX]) -> Result<&'a [u8], BadStreamLine> {
        if !self.is_base64 {
            return if token.len() > KEY_SIZE_MAX { Err(BadStreamLine::Key) } else { Ok(token) };
        }
        let size = base64::decode(token, key).ok_or(BadStreamLine::Key)?;
        Ok(&key[..size])
    }
}

/// Bytes for a message.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(40)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: StreamItem<'_> =
        StreamItem { key: b"key", is_key_binary: false, client_flags: 0, exptime: 0, cas: None, is_stale: false };

    fn encoded(item: &StreamItem<'_>, value: &[u8]) -> String {
        let mut out = Vec::new();
        encode_stream_item(&mut out, item, value);
        out.escape_ascii().to_string()
    }

    #[test]
    fn records_are_lines_that_memcached_knows() {
        assert_eq!(encoded(&ITEM, b"v\r\n"), r"ms key 3 q\r\nv\r\n\r\n");
        let item = StreamItem { client_flags: 7, exptime: 2_000_000_000, cas: Some(9), ..ITEM };
        assert_eq!(encoded(&item, b""), r"ms key 0 q T2000000000 F7 E9\r\n\r\n");
        let item = StreamItem { key: b"a b", cas: Some(u64::MAX), is_stale: true, ..ITEM };
        let stale = r"md YSBi q I E18446744073709551615 b\r\n";
        assert_eq!(encoded(&item, b"v"), format!(r"ms YSBi 1 q E18446744073709551615 b\r\nv\r\n{stale}"));
        let item = StreamItem { is_key_binary: true, ..ITEM };
        assert_eq!(encoded(&item, b"v"), r"ms a2V5 1 q b\r\nv\r\n");
    }

    #[test]
    fn every_line_reads_back() {
        let keys: [&[u8]; 5] = [b"k", &[0; 250], &[255; 250], b"with blank", b"\x7f"];
        for key in keys {
            for cas in [None, Some(0), Some(u64::MAX)] {
                let item = StreamItem { key, client_flags: u32::MAX, exptime: i64::from(u32::MAX), cas, ..ITEM };
                let mut out = Vec::new();
                encode_stream_item(&mut out, &StreamItem { is_stale: true, ..item }, b"12345");
                let lines: Vec<&[u8]> = out.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end()).collect();
                assert!(lines[0].len() < STREAM_LINE_SIZE_MAX);
                let mut buffer = [0; KEY_SIZE_MAX];
                let expected = StreamItem { is_key_binary: needs_base64(key), ..item };
                assert_eq!(parse_stream_line(lines[0], &mut buffer), Ok(StreamLine::Item(expected, 5)));
                let mut buffer = [0; KEY_SIZE_MAX];
                assert_eq!(parse_stream_line(lines[2], &mut buffer), Ok(StreamLine::Stale(key, cas)));
            }
        }
        assert_eq!(parse_stream_line(b"mn", &mut [0; KEY_SIZE_MAX]), Ok(StreamLine::End));
    }

    #[test]
    fn what_is_no_line_is_told() {
        let long = [b"ms key 1".as_slice(), &[b' '; STREAM_LINE_SIZE_MAX]].concat();
        let long_key = [b"ms ".as_slice(), &[b'k'; 251], b" 1"].concat();
        let cases: [(&[u8], &str); 12] = [
            (b"", "is no command"),
            (b"set key 0 0 1", "is no command"),
            (b"md key", "is no command"),
            (b"ms", "the key is missing"),
            (b"ms key", "the size"),
            (b"ms key x", "the size"),
            (b"ms a 1 b", "base64"),
            (b"ms key 1 I", "\"I\" is bad"),
            (b"ms key 1 MA", "\"MA\" is bad"),
            (b"ms key 1 F4294967296", "is bad"),
            (&long_key, "longer than 250"),
            (&long, "longer than 1024"),
        ];
        for (line, words) in cases {
            let error = parse_stream_line(line, &mut [0; KEY_SIZE_MAX]).expect_err("it is bad").to_string();
            assert!(error.contains(words), "{}: {error}", line.escape_ascii());
        }
    }
}
