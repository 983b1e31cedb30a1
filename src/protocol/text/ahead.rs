//! A glance at the requests that are about to be parsed: which keys they name.
//!
//! What it finds is a hint. It knows the shape of common requests only and gives up at anything else; [`super::parse`]
//! alone says what a request is.

use crate::limits::KEY_SIZE_MAX;
use crate::protocol::{binary, meta};

/// Keys of this many requests are looked for.
const KEY_COUNT_MAX: usize = 16;
/// A line of one request with one key is not longer.
const LINE_SIZE_MAX: usize = 512;

/// Keys of coming requests, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysAhead<'a> {
    keys: [&'a [u8]; KEY_COUNT_MAX],
    count: usize,
}

impl<'a> KeysAhead<'a> {
    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[&'a [u8]] {
        &self.keys[..self.count]
    }
}

/// The keys of the requests at the front of `bytes`: of those with one key each, up to the first request of another
/// shape, or that is cut off before its key.
#[must_use]
pub fn keys_ahead(bytes: &[u8]) -> KeysAhead<'_> {
    let mut ahead = KeysAhead { keys: [&[]; KEY_COUNT_MAX], count: 0 };
    let mut rest = bytes;
    while ahead.count < KEY_COUNT_MAX {
        let Some((key, size)) = one(rest) else { break };
        ahead.keys[ahead.count] = key;
        ahead.count += 1;
        let Some(next) = rest.get(size..) else { break };
        rest = next;
    }
    ahead
}

/// The key of the request at the front, and the size of the request.
fn one(bytes: &[u8]) -> Option<(&[u8], usize)> {
    if bytes.first() == Some(&binary::REQUEST_MAGIC) {
        return binary::parse::glance(bytes);
    }
    let line_size = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_SIZE_MAX)])?;
    let line = &bytes[..line_size];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let [b'm', letter, b' ', arguments @ ..] = line {
        let (key, value_size) = meta::parse::glance(*letter, arguments)?;
        return is_key(key).then_some((key, line_size + 1 + value_size));
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (verb, key) = (words.next()?, words.next()?);
    let value_size = match verb {
        b"get" | b"gets" if words.next().is_none() => 0,
        b"delete" | b"touch" | b"incr" | b"decr" => 0,
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => number(words.nth(2)?)? + b"\r\n".len(),
        _ => return None,
    };
    is_key(key).then_some((key, line_size + 1 + value_size))
}

fn is_key(token: &[u8]) -> bool {
    (1..=KEY_SIZE_MAX).contains(&token.len())
}

/// A size, if it is a small one.
fn number(digits: &[u8]) -> Option<usize> {
    let is_small = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_small.then(|| digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> Vec<&str> {
        keys_ahead(bytes).keys().iter().map(|key| std::str::from_utf8(key).expect("ASCII")).collect()
    }

    #[test]
    fn keys_of_common_requests_are_found_in_their_order() {
        let first = b"get a\r\nset b 1 0 3\r\nget\r\ngets c\ndelete d noreply\r\nincr e 5\r\n";
        let bytes = [first.as_slice(), b"cas f 0 0 0 7\r\n\r\ntouch g 9\r\nget h"].concat();
        assert_eq!(found(&bytes), ["a", "b", "c", "d", "e", "f", "g"]);
    }

    #[test]
    fn anything_else_ends_it() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"get a\r\nversion\r\nget b\r\n", &["a"]),
            (b"get a b\r\nget c\r\n", &[]),
            (b"get a\r\nget \r\nget c\r\n", &["a"]),
            (b"set a 0 0 x\r\nget b\r\n", &[]),
            (b"set a 0 0 99999999999999999999999\r\nget b\r\n", &[]),
            (b"set a 0 0 500\r\nxx", &["a"]),
            (b"mg a v\r\nms b 18446744073709551613\r\nget c\r\n", &["a"]),
            (b"set a 0 0\r\n", &[]),
            (b"\r\n\r\n", &[]),
        ] {
            assert_eq!(found(bytes), expected, "{}", bytes.escape_ascii());
        }
        let long = [b"get ".as_slice(), &[b'k'; 251], b"\r\n"].concat();
        assert!(found(&long).is_empty());
        assert_eq!(found(&b"get k\r\n".repeat(40)).len(), KEY_COUNT_MAX);
    }
}
