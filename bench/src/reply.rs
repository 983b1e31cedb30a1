//! A parser of the answers to memcached's text commands `get` and `set`. It owns no bytes and keeps no state.

use std::fmt;

/// The longest line accepted before its newline, in bytes. memcached's longest here is a VALUE line with a 250-byte
/// key.
const LINE_SIZE_MAX: usize = 2048;

/// The largest value accepted, in bytes: memcached's own upper limit for `-I`.
const VALUE_SIZE_MAX: usize = 1 << 30;

/// One complete answer, or one VALUE block of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// `VALUE <key> <flags> <bytes>` and its data.
    Value {
        /// The key as it came.
        key: &'a [u8],
        /// The client flags.
        flags: u32,
        /// The data without its line end.
        value: &'a [u8],
    },
    /// `END` of a get.
    End,
    /// `STORED`.
    Stored,
    /// Any line that says why the request was not done: `NOT_STORED`, `ERROR`, `CLIENT_ERROR ...`, `SERVER_ERROR ...`.
    Refused(&'a [u8]),
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { key, value, .. } => {
                write!(formatter, "a value of {} bytes for \"{}\"", value.len(), key.escape_ascii())
            }
            Self::End => formatter.write_str("END"),
            Self::Stored => formatter.write_str("STORED"),
            Self::Refused(line) => write!(formatter, "\"{}\"", line.escape_ascii()),
        }
    }
}

/// Parses the first reply in `input`, which may be cut anywhere.
///
/// Returns the reply and its length in bytes, or `None` while it is incomplete.
///
/// # Errors
///
/// A sentence when the bytes cannot begin any reply to a get or a set.
pub(crate) fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, String> {
    let Some((line, line_size)) = first_line(input)? else {
        return Ok(None);
    };
    let reply = match line {
        b"END" => Reply::End,
        b"STORED" => Reply::Stored,
        _ if line.starts_with(b"VALUE ") => return value(line, &input[line_size..], line_size),
        _ if is_refusal(line) => Reply::Refused(line),
        _ => return Err(format!("the server answered \"{}\"", line.escape_ascii())),
    };
    Ok(Some((reply, line_size)))
}

/// The first line without its end, and its length with it. memcached always sends CR LF.
fn first_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let head = &input[..input.len().min(LINE_SIZE_MAX)];
    match head.iter().position(|&byte| byte == b'\n') {
        Some(end) if end > 0 && head[end - 1] == b'\r' => Ok(Some((&head[..end - 1], end + 1))),
        Some(end) => Err(format!("the line \"{}\" does not end in CR LF", head[..end].escape_ascii())),
        None if head.len() == LINE_SIZE_MAX => Err(format!("a line of more than {LINE_SIZE_MAX} bytes")),
        None => Ok(None),
    }
}

fn value<'a>(line: &'a [u8], rest: &'a [u8], line_size: usize) -> Result<Option<(Reply<'a>, usize)>, String> {
    let bad = || format!("the server answered \"{}\"", line.escape_ascii());
    let mut tokens = line.split(|&byte| byte == b' ').skip(1);
    let key = tokens.next().filter(|key| !key.is_empty()).ok_or_else(bad)?;
    let flags = tokens.next().and_then(number).and_then(|flags| u32::try_from(flags).ok()).ok_or_else(bad)?;
    let size = tokens.next().and_then(number).ok_or_else(bad)? as usize;
    if tokens.next().is_some() || size > VALUE_SIZE_MAX {
        return Err(bad());
    }
    if rest.len() < size + 2 {
        return Ok(None);
    }
    if &rest[size..size + 2] != b"\r\n" {
        return Err(format!("no CR LF after the {size} bytes of \"{}\"", line.escape_ascii()));
    }
    Ok(Some((Reply::Value { key, flags, value: &rest[..size] }, line_size + size + 2)))
}

/// A decimal number of 1 to 18 digits, so that it cannot overflow.
fn number(token: &[u8]) -> Option<u64> {
    let valid = (1..=18).contains(&token.len()) && token.iter().all(u8::is_ascii_digit);
    valid.then(|| token.iter().fold(0, |sum, &digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_refusal(line: &[u8]) -> bool {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or(line);
    // Some server errors have a colon after the word, such as that of `shutdown`.
    let word = word.strip_suffix(b":").unwrap_or(word);
    matches!(word, b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" | b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"VALUE k1 0 5\r\na\r\nEN\r\nVALUE k2 4294967295 0\r\n\r\nEND\r\nSTORED\r\n\
        SERVER_ERROR out of memory storing object\r\nEND\r\nVALUE k3 7 4\r\nEND\r\r\nNOT_STORED\r\n";

    fn names(mut input: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((reply, size)) = parse(input).expect("a valid stream") {
            names.push(format!("{reply:?}"));
            input = &input[size..];
        }
        assert!(input.is_empty(), "{} bytes were left over", input.len());
        names
    }

    #[test]
    fn a_whole_stream_parses_into_its_replies() {
        let mut input = STREAM;
        let expected = [
            Reply::Value { key: b"k1", flags: 0, value: b"a\r\nEN" },
            Reply::Value { key: b"k2", flags: u32::MAX, value: b"" },
            Reply::End,
            Reply::Stored,
            Reply::Refused(b"SERVER_ERROR out of memory storing object"),
            Reply::End,
            Reply::Value { key: b"k3", flags: 7, value: b"END\r" },
            Reply::Refused(b"NOT_STORED"),
        ];
        for reply in expected {
            let (found, size) = parse(input).expect("valid").expect("complete");
            assert_eq!(found, reply);
            input = &input[size..];
        }
        assert!(input.is_empty());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_replies() {
        let whole = names(STREAM);
        for cut in 0..=STREAM.len() {
            let mut found = Vec::new();
            let mut buffer = Vec::new();
            for piece in [&STREAM[..cut], &STREAM[cut..]] {
                buffer.extend_from_slice(piece);
                while let Some((reply, size)) = parse(&buffer).expect("a prefix is never an error") {
                    found.push(format!("{reply:?}"));
                    buffer.drain(..size);
                }
            }
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_begin_no_reply_are_errors() {
        let long = vec![b'x'; LINE_SIZE_MAX];
        let bad: [&[u8]; 11] = [
            b"END\n",
            b"\r\n",
            b"END \r\n",
            b"STOREDX\r\n",
            b"VALUE k 0\r\n",
            b"VALUE k -1 1\r\n",
            b"VALUE k 4294967296 1\r\n",
            b"VALUE  0 1\r\n",
            b"VALUE k 0 1 9\r\n",
            b"VALUE k 0 1\r\nabc",
            &long,
        ];
        for input in bad {
            assert!(parse(input).is_err(), "\"{}\"", input.escape_ascii());
        }
    }

    #[test]
    fn a_value_is_incomplete_until_its_last_byte() {
        let whole = b"VALUE key:1 0 3\r\nabc\r\n";
        for size in 0..whole.len() {
            assert_eq!(parse(&whole[..size]), Ok(None), "{size}");
        }
        assert!(matches!(parse(whole), Ok(Some((_, size))) if size == whole.len()));
    }
}
