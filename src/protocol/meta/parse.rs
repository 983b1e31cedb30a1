//! Meta commands from their lines.

use memchr::memchr;

use super::{MetaKey, MetaOptions, MetaReply, MetaRequest, MetaVerb, base64};
use crate::limits::{KEY_SIZE_MAX, META_OPAQUE_SIZE_MAX, META_TOKEN_COUNT_MAX};
use crate::protocol::text::parse::{VALUE_END, VALUE_SIZE_MAX, item_size};
use crate::protocol::text::token::{Tokens, signed, unsigned, unsigned_32};
use crate::protocol::{BadRequest, Direction, ParseLimits, Parsed, Request, StoreVerb};

/// Flags as they were read.
#[derive(Default)]
struct Flags {
    options: MetaOptions,
    reply: MetaReply,
    /// `M`.
    mode: u8,
    delta: Option<u64>,
    initial: u64,
    is_base64: bool,
}

/// The command `m` followed by `letter`; `None` when there is none of that name. `arguments` is the line behind it,
/// `consumed` the size of the line, `behind` the input after it.
pub(in crate::protocol) fn parse<'a>(
    letter: u8,
    arguments: &'a [u8],
    consumed: usize,
    behind: &'a [u8],
    limits: &ParseLimits,
) -> Option<Parsed<'a>> {
    let outcome = match letter {
        b'n' => Ok(Request::MetaNoop),
        b'e' => parse_debug(arguments).map(Request::Meta),
        b'g' => parse_get(arguments).map(Request::Meta),
        b'd' => parse_delete(arguments).map(Request::Meta),
        b'a' => parse_arithmetic(arguments).map(Request::Meta),
        b's' => return Some(parse_set(arguments, consumed, behind, limits)),
        _ => return None,
    };
    Some(match outcome {
        Ok(request) => Parsed::Request { request, consumed, swallow_size: 0 },
        Err(error) => Parsed::Bad { error, consumed, swallow_size: 0, noreply: false },
    })
}

fn parse_debug(arguments: &[u8]) -> Result<MetaRequest<'_>, BadRequest> {
    let mut tokens = Tokens::new(arguments);
    let token = tokens.next().filter(|key| key.len() <= KEY_SIZE_MAX).ok_or(BadRequest::LineFormat)?;
    let is_base64 = tokens.next() == Some(b"b");
    if is_base64 && !is_decodable(token) {
        return Err(BadRequest::LineFormat);
    }
    let key = MetaKey { token, is_base64 };
    Ok(MetaRequest { verb: MetaVerb::Debug, key, options: MetaOptions::default(), reply: MetaReply::default() })
}

fn parse_get(arguments: &[u8]) -> Result<MetaRequest<'_>, BadRequest> {
    let (token, tokens) = key_and_flags(arguments, BadRequest::MetaFlagsTooLong)?;
    let Flags { options, reply, is_base64, .. } = Flags::read(token, tokens)?;
    Ok(MetaRequest { verb: MetaVerb::Get, key: MetaKey { token, is_base64 }, options, reply })
}

fn parse_delete(arguments: &[u8]) -> Result<MetaRequest<'_>, BadRequest> {
    let (token, tokens) = key_and_flags(arguments, BadRequest::MetaOptionsTooLong)?;
    let Flags { options, reply, is_base64, .. } = Flags::read(token, tokens).map_err(invalid_or_duplicate)?;
    Ok(MetaRequest { verb: MetaVerb::Delete, key: MetaKey { token, is_base64 }, options, reply })
}

fn parse_arithmetic(arguments: &[u8]) -> Result<MetaRequest<'_>, BadRequest> {
    let (token, tokens) = key_and_flags(arguments, BadRequest::MetaOptionsTooLong)?;
    let Flags { options, reply, mode, delta, initial, is_base64 } =
        Flags::read(token, tokens).map_err(invalid_or_duplicate)?;
    let direction = match mode {
        0 | b'I' | b'+' => Direction::Increment,
        b'D' | b'-' => Direction::Decrement,
        _ => return Err(BadRequest::MetaArithmeticMode),
    };
    let verb = MetaVerb::Arithmetic { direction, delta: delta.unwrap_or(1), initial };
    Ok(MetaRequest { verb, key: MetaKey { token, is_base64 }, options, reply })
}

/// `md` and `ma` do not say what is wrong with a flag, unless it is the opaque.
fn invalid_or_duplicate(error: BadRequest) -> BadRequest {
    if error == BadRequest::MetaOpaque { error } else { BadRequest::MetaInvalidOrDuplicate }
}

fn parse_set<'a>(arguments: &'a [u8], consumed: usize, behind: &'a [u8], limits: &ParseLimits) -> Parsed<'a> {
    let bad = |error, swallow_size| Parsed::Bad { error, consumed, swallow_size, noreply: false };
    let mut tokens = Tokens::new(arguments);
    let Some(token) = tokens.next() else { return bad(BadRequest::Command, 0) };
    let value_size = tokens.next().and_then(unsigned).filter(|size| *size <= VALUE_SIZE_MAX);
    // Nobody knows where the value ends: what follows is read as commands.
    let Some(value_size) = value_size else { return bad(BadRequest::LineFormat, 0) };
    let ended_size = value_size + VALUE_END.len() as u64;
    if token.len() > KEY_SIZE_MAX {
        return bad(BadRequest::LineFormat, ended_size);
    }
    // The size is one of the tokens that are counted.
    if tokens.clone().nth(META_TOKEN_COUNT_MAX - 1).is_some() {
        return bad(BadRequest::MetaOptionsTooLong, ended_size);
    }
    let Flags { options, reply, mode, is_base64, .. } = match Flags::read(token, tokens) {
        Ok(flags) => flags,
        Err(error) => return bad(error, ended_size),
    };
    let mode = match mode {
        0 | b'S' => StoreVerb::Set,
        b'E' => StoreVerb::Add,
        b'A' => StoreVerb::Append,
        b'P' => StoreVerb::Prepend,
        b'R' => StoreVerb::Replace,
        _ => return bad(BadRequest::MetaSetMode, ended_size),
    };
    let key = MetaKey { token, is_base64 };
    let request = |verb| Request::Meta(MetaRequest { verb, key, options, reply });
    let key_size = key.bytes(&mut [0; KEY_SIZE_MAX]).len();
    if item_size(key_size, options.client_flags, value_size) > limits.item_size_max as u64 {
        return Parsed::Request { request: request(MetaVerb::TooLarge), consumed, swallow_size: ended_size };
    }
    // Both sizes are below 2^31, so neither the sum nor the conversion can overflow a usize of 64 bits.
    let needed = consumed + ended_size as usize;
    let Some(ended_value) = behind.get(..ended_size as usize) else {
        return Parsed::IncompleteValue { needed };
    };
    let Some(value) = ended_value.strip_suffix(VALUE_END) else {
        return Parsed::Bad { error: BadRequest::DataChunk, consumed: needed, swallow_size: 0, noreply: false };
    };
    Parsed::Request { request: request(MetaVerb::Set { mode, value }), consumed: needed, swallow_size: 0 }
}

/// Splits off the key, and looks whether there are too many flags.
fn key_and_flags(arguments: &[u8], too_long: BadRequest) -> Result<(&[u8], Tokens<'_>), BadRequest> {
    let mut tokens = Tokens::new(arguments);
    let token = tokens.next().ok_or(BadRequest::Command)?;
    if token.len() > KEY_SIZE_MAX {
        return Err(BadRequest::LineFormat);
    }
    // Most are too short to have that many, and need not be counted.
    let may_be_too_many = arguments.len() > 2 * META_TOKEN_COUNT_MAX;
    if may_be_too_many && tokens.clone().nth(META_TOKEN_COUNT_MAX).is_some() {
        Err(too_long)
    } else {
        Ok((token, tokens))
    }
}

fn is_decodable(token: &[u8]) -> bool {
    base64::decode(token, &mut [0; KEY_SIZE_MAX]).is_some()
}

impl Flags {
    /// Reads the flags in `tokens`. Of several that are bad the last one is told, unless one is unknown or comes twice.
    fn read(key: &[u8], tokens: Tokens<'_>) -> Result<Self, BadRequest> {
        let mut flags = Self::default();
        let mut seen = 0u128;
        let mut bad = None;
        // What is told when a flag is bad that does not say so.
        let mut told = BadRequest::LineFormat;
        for token in tokens {
            let (letter, value) = (token[0], &token[1..]);
            let bit = 1u128.checked_shl(letter.into()).filter(|_| letter < 127).ok_or(BadRequest::MetaDuplicate)?;
            if seen & bit != 0 {
                return Err(BadRequest::MetaDuplicate);
            }
            seen |= bit;
            match flags.read_one(key, letter, value) {
                Ok(()) => {}
                Err(BadRequest::MetaInvalid) => return Err(BadRequest::MetaInvalid),
                Err(BadRequest::LineFormat) => bad = Some(told),
                Err(error) => {
                    told = error;
                    bad = Some(error);
                }
            }
        }
        match bad {
            Some(_) => Err(told),
            None => Ok(flags),
        }
    }

    fn read_one(&mut self, key: &[u8], letter: u8, value: &[u8]) -> Result<(), BadRequest> {
        let options = &mut self.options;
        match letter {
            b'b' => {
                self.is_base64 = true;
                self.reply.push(letter);
                return if is_decodable(key) { Ok(()) } else { Err(BadRequest::MetaKeyEncoding) };
            }
            b'N' => {
                options.vivifies_last = options.exptime.is_some();
                options.vivify = Some(time(value)?);
            }
            b'T' => {
                options.touches_first = options.recache.is_none();
                options.exptime = Some(time(value)?);
            }
            b'R' => options.recache = Some(time(value)?),
            b'C' => options.compare = Some(unsigned(value).ok_or(BadRequest::MetaToken)?),
            b'E' => options.explicit_cas = Some(unsigned(value).ok_or(BadRequest::MetaToken)?),
            b'F' => options.client_flags = unsigned_32(value).ok_or(BadRequest::LineFormat)?,
            b'J' => self.initial = unsigned(value).ok_or(BadRequest::MetaInitial)?,
            b'D' => self.delta = Some(unsigned(value).ok_or(BadRequest::MetaDelta)?),
            b'M' => match value {
                [mode] => self.mode = *mode,
                _ => return Err(BadRequest::MetaModeLength),
            },
            b'I' => options.invalidate = true,
            b'x' => options.drop_value = true,
            b'u' => options.no_bump = true,
            b'q' => self.reply.is_quiet = true,
            b'v' => self.reply.wants_value = true,
            b'O' => {
                let size = 1 + value.len();
                if size > META_OPAQUE_SIZE_MAX {
                    return Err(BadRequest::MetaOpaque);
                }
                self.reply.opaque[0] = letter;
                self.reply.opaque[1..size].copy_from_slice(value);
                self.reply.opaque_size = u8::try_from(size).expect("META_OPAQUE_SIZE_MAX fits a byte");
                self.reply.push(letter);
            }
            b't' => {
                self.reply.ttl_after_touch = options.exptime.is_some();
                self.reply.ttl_after_vivify = options.vivify.is_some();
                self.reply.push(letter);
            }
            b'c' | b'f' | b'h' | b'k' | b'l' | b's' => self.reply.push(letter),
            // For proxies.
            b'P' | b'L' => {}
            _ => return Err(BadRequest::MetaInvalid),
        }
        Ok(())
    }
}

fn time(value: &[u8]) -> Result<i64, BadRequest> {
    signed(value).ok_or(BadRequest::MetaToken)
}

/// The key of a meta command whose `arguments` these are, if it is plain, and how many bytes follow the line.
pub(in crate::protocol) fn glance(letter: u8, arguments: &[u8]) -> Option<(&[u8], usize)> {
    let key_size = memchr(b' ', arguments).unwrap_or(arguments.len());
    let (key, rest) = arguments.split_at(key_size);
    let value_size = match letter {
        b'g' | b'd' | b'a' => 0,
        b's' => {
            let size = unsigned(Tokens::new(rest).next()?).filter(|size| *size <= VALUE_SIZE_MAX)?;
            // Below 2^31, so neither the conversion nor a sum can overflow a usize of 64 bits.
            size as usize + VALUE_END.len()
        }
        _ => return None,
    };
    Some((key, value_size))
}
