//! Tokens and numbers of a command line.

use std::iter::FusedIterator;

use memchr::memchr;

/// Most arguments that a command with a fixed form has: `cas <key> <flags> <exptime> <bytes> <cas unique> noreply`.
const ARGUMENT_COUNT_MAX: usize = 6;

/// The tokens of a line: what lies between runs of blanks. Only 0x20 is a blank, as in memcached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    pub(in crate::protocol) fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }

    /// The bytes of the tokens that were not given yet, empty when there are none.
    pub(super) fn rest(&self) -> &'a [u8] {
        skip_blanks(self.rest)
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = skip_blanks(self.rest);
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        let (token, rest) = rest.split_at(memchr(b' ', rest).unwrap_or(rest.len()));
        self.rest = rest;
        Some(token)
    }
}

impl FusedIterator for Tokens<'_> {}

/// The keys of a `get` or `gets`, in order, duplicates included. They are already known to be neither empty nor too
/// long. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    tokens: Tokens<'a>,
}

impl<'a> Keys<'a> {
    /// The keys in `arguments`, whose tokens the caller has checked: the arguments of a request, or [`Self::rest`] of
    /// other keys.
    #[must_use]
    pub fn new(arguments: &'a [u8]) -> Self {
        Self { tokens: Tokens::new(arguments) }
    }

    /// The bytes of the keys that were not given yet, empty when there are none: [`Self::new`] gives the same keys from
    /// them.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.tokens.rest()
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.tokens.next()
    }
}

impl FusedIterator for Keys<'_> {}

/// The arguments of a command with a fixed form.
pub(super) struct Arguments<'a> {
    tokens: [&'a [u8]; ARGUMENT_COUNT_MAX],
    count: usize,
}

impl<'a> Arguments<'a> {
    /// Splits `line`. Of too many arguments only the fact is kept: [`Arguments::count`] is larger than any command
    /// allows.
    pub(super) fn split(line: &'a [u8]) -> Self {
        let mut arguments = Self { tokens: [&[]; ARGUMENT_COUNT_MAX], count: 0 };
        for token in Tokens::new(line).take(ARGUMENT_COUNT_MAX + 1) {
            if let Some(slot) = arguments.tokens.get_mut(arguments.count) {
                *slot = token;
            }
            arguments.count += 1;
        }
        arguments
    }

    /// How many there are, at most one more than any command allows.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The argument at `index`; empty when there is none.
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        self.tokens.get(index).copied().unwrap_or_default()
    }

    /// Whether the last argument is `noreply`. memcached looks at no other, and at the last one even where it has to be
    /// something else: `incr key noreply` is a bad delta that is not answered.
    pub(super) fn noreply(&self) -> bool {
        self.count.checked_sub(1).is_some_and(|last| self.get(last) == b"noreply")
    }
}

/// `line` without the blanks at its start.
#[inline]
pub(super) fn skip_blanks(line: &[u8]) -> &[u8] {
    let blank_count = line.iter().take_while(|&&byte| byte == b' ').count();
    &line[blank_count..]
}

/// `line` without the blanks around it.
pub(super) fn trim_blanks(line: &[u8]) -> &[u8] {
    let blank_count = line.iter().rev().take_while(|&&byte| byte == b' ').count();
    skip_blanks(&line[..line.len() - blank_count])
}

/// An unsigned number, read as memcached does (`strtoull`, refusing what it would negate), except that one beyond 64
/// bits is refused as well.
#[inline]
pub(in crate::protocol) fn unsigned(token: &[u8]) -> Option<u64> {
    match magnitude(token)? {
        (true, 1..) => None,
        (_, magnitude) => Some(magnitude),
    }
}

/// An unsigned number of 32 bits; a larger one is refused.
#[inline]
pub(in crate::protocol) fn unsigned_32(token: &[u8]) -> Option<u32> {
    u32::try_from(unsigned(token)?).ok()
}

/// A signed number, read as memcached does (`strtol`).
#[inline]
pub(in crate::protocol) fn signed(token: &[u8]) -> Option<i64> {
    let (negative, magnitude) = magnitude(token)?;
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Sign and size of a number: white space, a sign and digits, followed by nothing or by white space and anything,
/// which is what C's `strtol` family and memcached's check of what it left over accept.
fn magnitude(token: &[u8]) -> Option<(bool, u64)> {
    let mut rest = token;
    while let Some((first, behind)) = rest.split_first()
        && is_white_space(*first)
    {
        rest = behind;
    }
    let negative = rest.first() == Some(&b'-');
    if negative || rest.first() == Some(&b'+') {
        rest = &rest[1..];
    }
    let digit_count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, behind) = rest.split_at(digit_count);
    if digits.is_empty() || behind.first().is_some_and(|&byte| !is_white_space(byte)) {
        return None;
    }
    let mut magnitude = 0u64;
    for digit in digits {
        magnitude = magnitude.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some((negative, magnitude))
}

/// C's `isspace`. Blanks and newlines never get here, they separate tokens and lines.
fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
