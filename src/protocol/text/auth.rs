//! What a client must say first where there is an authfile (memcached's `-Y`): a `set` of any key, whose value is user and
//! password.

use memchr::memchr;

use super::token::{Tokens, unsigned_32};
use crate::limits::{AUTH_LINE_SIZE_MAX, COMMAND_LINE_SIZE_MAX};

/// What the front of the input of a connection that nobody has authenticated yet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// User and password.
    Given {
        /// The user.
        user: &'a [u8],
        /// The password.
        password: &'a [u8],
        /// Bytes of the input that belong to it.
        consumed: usize,
    },
    /// Something else, which is refused.
    Refused {
        /// The answer, with its `\r\n`.
        answer: &'static [u8],
        /// Bytes of the input that belong to it.
        consumed: usize,
    },
    /// Ask again when there are so many bytes.
    Incomplete {
        /// Bytes, from the start of the input.
        needed: usize,
    },
    /// The connection is to be closed, after this answer if it is not empty.
    Close {
        /// The answer, with its `\r\n`.
        answer: &'static [u8],
    },
}

/// Reads what a client says that is not authenticated yet.
#[must_use]
pub fn parse_credentials(input: &[u8]) -> Credentials<'_> {
    let newline = memchr(b'\n', input);
    let line = &input[..newline.unwrap_or(input.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Whether its end has arrived or not: how the stream is cut does not matter.
    if line.len() > COMMAND_LINE_SIZE_MAX {
        return Credentials::Close { answer: b"" };
    }
    let Some(newline) = newline else {
        return Credentials::Incomplete { needed: input.len() + 1 };
    };
    let consumed = newline + 1;
    let mut tokens = Tokens::new(line);
    let is_set = tokens.next() == Some(b"set");
    // Key, flags and exptime are not looked at.
    let Some(size) = tokens.nth(3).filter(|_| is_set).and_then(unsigned_32) else {
        return Credentials::Refused { answer: b"CLIENT_ERROR unauthenticated\r\n", consumed };
    };
    let size = size as usize;
    if size > AUTH_LINE_SIZE_MAX {
        return Credentials::Close { answer: b"CLIENT_ERROR auth token too long\r\n" };
    }
    let needed = consumed + size + b"\r\n".len();
    let Some(value) = input.get(consumed..needed) else { return Credentials::Incomplete { needed } };
    let Some(value) = value.strip_suffix(b"\r\n") else {
        return Credentials::Refused { answer: b"CLIENT_ERROR bad command line termination\r\n", consumed: needed };
    };
    let mut tokens = Tokens::new(value);
    match (tokens.next(), tokens.next()) {
        (Some(user), Some(password)) => Credentials::Given { user, password, consumed: needed },
        _ => Credentials::Refused { answer: b"CLIENT_ERROR bad authentication token format\r\n", consumed: needed },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(answer: &'static str, consumed: usize) -> Credentials<'static> {
        Credentials::Refused { answer: answer.as_bytes(), consumed }
    }

    #[test]
    fn user_and_password_are_the_value_of_a_set() {
        let input = b"set any 1 2 8\r\nuser pas\r\nget a\r\n";
        let expected = Credentials::Given { user: b"user", password: b"pas", consumed: 25 };
        assert_eq!(parse_credentials(input), expected);
        assert_eq!(parse_credentials(&input[..24]), Credentials::Incomplete { needed: 25 });
        assert_eq!(parse_credentials(&input[..9]), Credentials::Incomplete { needed: 10 });
    }

    #[test]
    fn anything_else_is_refused() {
        for (input, expected) in [
            (&b"get a\r\n"[..], refused("CLIENT_ERROR unauthenticated\r\n", 7)),
            (b"set a 0 0\r\n", refused("CLIENT_ERROR unauthenticated\r\n", 11)),
            (b"set a 0 0 x\n", refused("CLIENT_ERROR unauthenticated\r\n", 12)),
            (b"\x80\n", refused("CLIENT_ERROR unauthenticated\r\n", 2)),
            (b"set a 0 0 3\r\na bxx", refused("CLIENT_ERROR bad command line termination\r\n", 18)),
            (b"set a 0 0 3\r\nabc\r\n", refused("CLIENT_ERROR bad authentication token format\r\n", 18)),
            (b"set a 0 0 9999\r\n", Credentials::Close { answer: b"CLIENT_ERROR auth token too long\r\n" }),
            (&[b'x'; 2049], Credentials::Close { answer: b"" }),
            (&[&[b'x'; 2049][..], b"\r\n"].concat(), Credentials::Close { answer: b"" }),
            (&[&[b'x'; 2048][..], b"\r\n"].concat(), refused("CLIENT_ERROR unauthenticated\r\n", 2050)),
        ] {
            assert_eq!(parse_credentials(input), expected, "{}", input.escape_ascii());
        }
    }
}
