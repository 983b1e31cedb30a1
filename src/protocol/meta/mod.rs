//! memcached's meta commands: `mn me mg ms md ma`.
//!
//! They are lines of the text protocol whose tokens behind the key are flags: a letter, some with a value right behind it.
//! [`parse`] reads them to [`MetaRequest`]s; [`encode`] writes the answers, which repeat the flags that return something
//! in the order in which they were asked for. Nothing here is allocated: what an answer needs of its request is a
//! [`MetaReply`] of fixed size, which can be kept until a record is read from disk.
//!
//! The grammar is that of memcached 1.6.18 with what later versions have added up to 1.6.45: the flags `C` of `mg`, `E`, `x`
//! of `md`, `N` of appending `ms`, and `s` and `b` in answers of `ms`. As in 1.6.45, an opaque that is too long is refused
//! before the command has changed anything.

pub(super) mod base64;
pub mod encode;
pub mod parse;
#[cfg(test)]
mod tests;

use crate::limits::{KEY_SIZE_MAX, META_OPAQUE_SIZE_MAX, META_TOKEN_COUNT_MAX};

use super::{Direction, StoreVerb};

/// A meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// What is to be done.
    pub verb: MetaVerb<'a>,
    /// The key.
    pub key: MetaKey<'a>,
    /// The flags that say how.
    pub options: MetaOptions,
    /// The flags that say what is to be answered.
    pub reply: MetaReply,
}

/// What a meta command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVerb<'a> {
    /// `me`: says what is known of an item.
    Debug,
    /// `mg`.
    Get,
    /// `ms`, with a value that may be stored. [`StoreVerb::Set`] and [`StoreVerb::Replace`] become a compare-and-swap
    /// when there is [`MetaOptions::compare`].
    Set {
        /// The mode of the flag `M`; never [`StoreVerb::Cas`].
        mode: StoreVerb,
        /// The value without its `\r\n`.
        value: &'a [u8],
    },
    /// `ms` with a value above `-I`. In every mode memcached drops the old one, so that it is not taken for the new one.
    TooLarge,
    /// `md`.
    Delete,
    /// `ma`.
    Arithmetic {
        /// The mode of the flag `M`.
        direction: Direction,
        /// The flag `D`.
        delta: u64,
        /// The flag `J`: what an item that is made begins with.
        initial: u64,
    },
}

/// The key of a meta command as the client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaKey<'a> {
    token: &'a [u8],
    is_base64: bool,
}

impl<'a> MetaKey<'a> {
    /// A key that is what it says.
    #[must_use]
    pub fn plain(token: &'a [u8]) -> Self {
        Self { token, is_base64: false }
    }

    /// Whether it was sent in base64 (flag `b`), because it has bytes that a token cannot have.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.is_base64
    }

    /// The key's bytes, in `buffer` if they have to be decoded.
    #[must_use]
    pub fn bytes<'b>(&self, buffer: &'b mut [u8; KEY_SIZE_MAX]) -> &'b [u8]
    where
        'a: 'b,
    {
        if !self.is_base64 {
            return self.token;
        }
        let size = base64::decode(self.token, buffer).unwrap_or(0);
        &buffer[..size]
    }
}

/// The flags of a meta command that say how it is to be done. Times are as the client wrote them: see
/// [`absolute_expiry`](super::absolute_expiry).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaOptions {
    /// `C`: only if the item has this CAS unique (`mg`: the value is left out if it has).
    pub compare: Option<u64>,
    /// `E`: the CAS unique that the item gets.
    pub explicit_cas: Option<u64>,
    /// `F`: the client's flags.
    pub client_flags: u32,
    /// `I`: marks the item stale, or stores a stale one.
    pub invalidate: bool,
    /// `N`: an item that is not there is made, with this exptime.
    pub vivify: Option<i64>,
    /// `R`: whoever asks first when no more time than this is left is told to fetch anew.
    pub recache: Option<i64>,
    /// `T`: the new exptime.
    pub exptime: Option<i64>,
    /// `T` stands before `R`, which then looks at the new time.
    pub touches_first: bool,
    /// `N` stands behind `T`: an item that is made gets the time of `N`. Otherwise it gets that of `T`, if there is one.
    pub vivifies_last: bool,
    /// `u`: the access does not count as one.
    pub no_bump: bool,
    /// `x` of `md`: the value goes, the item stays.
    pub drop_value: bool,
}

/// What of a meta command its answer needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MetaReply {
    /// The flags that are answered, in their order.
    letters: [u8; META_TOKEN_COUNT_MAX],
    letter_count: u8,
    /// The token of the flag `O`, with its letter.
    opaque: [u8; META_OPAQUE_SIZE_MAX],
    opaque_size: u8,
    /// `q`: the answer that is expected anyway is left out.
    pub is_quiet: bool,
    /// `v`: the value is wanted.
    pub wants_value: bool,
    /// `T` stands before `t`, which then tells the new time, not the old one.
    pub ttl_after_touch: bool,
    /// `N` stands before `t`, which then tells the time of an item that was made.
    pub ttl_after_vivify: bool,
}

impl Default for MetaReply {
    fn default() -> Self {
        Self {
            letters: [0; META_TOKEN_COUNT_MAX],
            letter_count: 0,
            opaque: [0; META_OPAQUE_SIZE_MAX],
            opaque_size: 0,
            is_quiet: false,
            wants_value: false,
            ttl_after_touch: false,
            ttl_after_vivify: false,
        }
    }
}

impl std::fmt::Debug for MetaReply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (letters, opaque) = (self.letters().escape_ascii(), self.opaque().escape_ascii());
        let Self { is_quiet, wants_value, .. } = self;
        write!(formatter, "MetaReply({letters} {opaque} quiet: {is_quiet} value: {wants_value})")
    }
}

impl MetaReply {
    fn letters(&self) -> &[u8] {
        &self.letters[..usize::from(self.letter_count)]
    }

    fn opaque(&self) -> &[u8] {
        &self.opaque[..usize::from(self.opaque_size)]
    }

    /// Notes a flag that is answered.
    fn push(&mut self, letter: u8) {
        self.letters[usize::from(self.letter_count)] = letter;
        self.letter_count += 1;
    }

    /// Whether a flag is to be answered.
    #[must_use]
    pub fn has(&self, letter: u8) -> bool {
        self.letters().contains(&letter)
    }
}
