//! Text requests.

use memchr::memchr;

use crate::limits::{COMMAND_LINE_SIZE_MAX, ITEM_OVERHEAD_SIZE, KEY_SIZE_MAX, MULTIGET_LINE_SIZE_MAX};

use super::super::{BadRequest, Direction, ParseLimits, Parsed, Request, StoreRequest, StoreVerb, meta};
use super::admin::{parse_admin, parse_cachedump};
use super::token::{Arguments, Keys, Tokens, signed, skip_blanks, trim_blanks, unsigned, unsigned_32};

/// What ends a value, in bytes.
pub(in crate::protocol) const VALUE_END: &[u8] = b"\r\n";

/// Largest value size that is a size at all, in bytes; above it memcached calls the line malformed and does not drop
/// the value.
pub(in crate::protocol) const VALUE_SIZE_MAX: u64 = i32::MAX as u64 - VALUE_END.len() as u64;

/// Bytes that memcached spends on client flags, which it leaves out when they are 0. They count against `-I`.
const FLAGS_SIZE: u64 = 4;

/// Blanks that memcached allows before a `get` line that is longer than others may be.
const LEADING_BLANKS_MAX: usize = 100;

/// A request that is refused, before it is known how much of the input it takes.
struct Refusal {
    error: BadRequest,
    noreply: bool,
}

impl Refusal {
    /// Refused before memcached looks for `noreply`, hence always answered.
    fn answered(error: BadRequest) -> Self {
        Self { error, noreply: false }
    }
}

type Outcome<'a> = Result<Request<'a>, Refusal>;

/// See [`crate::protocol::parse_resumed`].
pub(in crate::protocol) fn parse<'a>(input: &'a [u8], newline_free_size: usize, limits: &ParseLimits) -> Parsed<'a> {
    let unsearched = input.get(newline_free_size..).unwrap_or_default();
    let Some(newline) = memchr(b'\n', unsearched) else {
        return if is_line_too_long(input) { Parsed::Close } else { Parsed::IncompleteLine };
    };
    let (line, value) = input.split_at(newline_free_size + newline);
    if is_line_too_long(line) {
        return Parsed::Close;
    }
    let consumed = line.len() + 1;
    let line = skip_blanks(strip_return(line));
    // Names are short: a plain loop finds their end sooner than a vectorised search starts.
    let (name, arguments) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
    let storage = |verb| parse_storage(verb, arguments, consumed, &value[1..], limits);
    let outcome = match name {
        b"get" | b"bget" => parse_get(arguments, false),
        b"set" => return storage(StoreVerb::Set),
        [b'm', letter] => {
            let command = meta::parse::parse(*letter, arguments, consumed, &value[1..], limits);
            return command.unwrap_or(Parsed::Bad {
                error: BadRequest::Command,
                consumed,
                swallow_size: 0,
                noreply: false,
            });
        }
        b"gets" => parse_get(arguments, true),
        b"add" => return storage(StoreVerb::Add),
        b"cas" => return storage(StoreVerb::Cas(0)),
        b"replace" => return storage(StoreVerb::Replace),
        b"append" => return storage(StoreVerb::Append),
        b"prepend" => return storage(StoreVerb::Prepend),
        b"delete" => parse_delete(arguments),
        b"touch" => parse_touch(arguments),
        b"gat" => parse_get_and_touch(arguments, false),
        b"gats" => parse_get_and_touch(arguments, true),
        b"incr" => parse_arithmetic(arguments, Direction::Increment),
        b"decr" => parse_arithmetic(arguments, Direction::Decrement),
        b"flush_all" => parse_flush_all(arguments),
        b"verbosity" => parse_verbosity(arguments),
        b"version" => Ok(Request::Version),
        b"stats" => Ok(parse_stats(arguments)),
        b"quit" => Ok(Request::Quit),
        _ if is_http(name, line) => return Parsed::Close,
        _ => parse_admin(name, arguments).map(Request::Admin).ok_or_else(|| Refusal::answered(BadRequest::Command)),
    };
    match outcome {
        Ok(request) => Parsed::Request { request, consumed, swallow_size: 0 },
        Err(Refusal { error, noreply }) => Parsed::Bad { error, consumed, swallow_size: 0, noreply },
    }
}

/// `line` without the `\r` at its end, which is optional.
fn strip_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether `line`, which may go on, is longer than a line may be. Decided by its bytes alone: a long line is judged
/// the same whether its newline arrived with it or not.
fn is_line_too_long(line: &[u8]) -> bool {
    let line = strip_return(line);
    if line.len() <= COMMAND_LINE_SIZE_MAX {
        return false;
    }
    let command = skip_blanks(line);
    // memcached takes a long `gat` when it arrives whole, as it does from most clients.
    let is_multiget = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|name| command.starts_with(name));
    !is_multiget || line.len() - command.len() > LEADING_BLANKS_MAX || line.len() > MULTIGET_LINE_SIZE_MAX
}

/// Whether an unknown command is an HTTP request. memcached closes on those so that a browser cannot be made to talk
/// to it.
fn is_http(name: &[u8], line: &[u8]) -> bool {
    name.len() > 1 && Tokens::new(line).last().is_some_and(|token| token.starts_with(b"HTTP/"))
}

fn parse_get(arguments: &[u8], with_cas: bool) -> Outcome<'_> {
    let mut keys = Tokens::new(arguments);
    let Some(first) = keys.next() else {
        return Err(Refusal::answered(BadRequest::Command));
    };
    // One bad key spoils the whole request, so all are looked at before the first is answered.
    if is_key_bad(first) || keys.any(is_key_bad) {
        return Err(Refusal::answered(BadRequest::LineFormat));
    }
    Ok(Request::Get { keys: Keys::new(arguments), with_cas, touch: None })
}

fn parse_get_and_touch(arguments: &[u8], with_cas: bool) -> Outcome<'_> {
    let mut keys = Tokens::new(arguments);
    let Some(exptime) = keys.next() else {
        return Err(Refusal::answered(BadRequest::Command));
    };
    let exptime = signed(exptime).ok_or_else(|| Refusal::answered(BadRequest::Exptime))?;
    if keys.clone().any(is_key_bad) {
        return Err(Refusal::answered(BadRequest::LineFormat));
    }
    Ok(Request::Get { keys: Keys::new(keys.rest()), with_cas, touch: Some(exptime) })
}

/// Reads `<key> <flags> <exptime> <bytes> [<cas unique>] [noreply]` and the value. `consumed` is the size of the line,
/// `value` the input behind it. The number in [`StoreVerb::Cas`] is filled in here.
fn parse_storage<'a>(
    verb: StoreVerb,
    arguments: &'a [u8],
    consumed: usize,
    value: &'a [u8],
    limits: &ParseLimits,
) -> Parsed<'a> {
    let arguments = Arguments::split(arguments);
    let argument_count_min = if matches!(verb, StoreVerb::Cas(_)) { 5 } else { 4 };
    if !(argument_count_min..=argument_count_min + 1).contains(&arguments.count()) {
        return Parsed::Bad { error: BadRequest::Command, consumed, swallow_size: 0, noreply: false };
    }
    let noreply = arguments.noreply();
    let bad_line = |swallow_size| Parsed::Bad { error: BadRequest::LineFormat, consumed, swallow_size, noreply };
    let Some(value_size) = unsigned(arguments.get(3)).filter(|size| *size <= VALUE_SIZE_MAX) else {
        // Nobody knows where the value ends: what follows is read as commands.
        return bad_line(0);
    };
    let ended_size = value_size + VALUE_END.len() as u64;
    let Some((verb, flags, exptime)) = parse_storage_numbers(verb, &arguments) else {
        return bad_line(ended_size);
    };
    let key = arguments.get(0);
    if is_key_bad(key) {
        return bad_line(ended_size);
    }
    if item_size(key.len(), flags, value_size) > limits.item_size_max as u64 {
        return Parsed::Request {
            request: Request::TooLarge { verb, key, noreply },
            consumed,
            swallow_size: ended_size,
        };
    }
    // Both sizes are below 2^31, so neither the sum nor the conversion can overflow a usize of 64 bits.
    let needed = consumed + ended_size as usize;
    let Some(ended_value) = value.get(..ended_size as usize) else {
        return Parsed::IncompleteValue { needed };
    };
    let Some(value) = ended_value.strip_suffix(VALUE_END) else {
        return Parsed::Bad { error: BadRequest::DataChunk, consumed: needed, swallow_size: 0, noreply };
    };
    let request = Request::Store(StoreRequest { verb, key, flags, exptime, value, noreply });
    Parsed::Request { request, consumed: needed, swallow_size: 0 }
}

/// The numbers of a storage command but its size; `None` when one of them is none.
fn parse_storage_numbers(verb: StoreVerb, arguments: &Arguments<'_>) -> Option<(StoreVerb, u32, i64)> {
    let flags = unsigned_32(arguments.get(1))?;
    let exptime = signed(arguments.get(2))?;
    let verb = match verb {
        StoreVerb::Cas(_) => StoreVerb::Cas(unsigned(arguments.get(4))?),
        other => other,
    };
    Some((verb, flags, exptime))
}

/// Size of an item in bytes as memcached counts it against `-I`.
#[must_use]
pub fn item_size(key_size: usize, flags: u32, value_size: u64) -> u64 {
    let flags_size = if flags == 0 { 0 } else { FLAGS_SIZE };
    (ITEM_OVERHEAD_SIZE + key_size) as u64 + flags_size + value_size
}

fn parse_delete(arguments: &[u8]) -> Outcome<'_> {
    let arguments = Arguments::split(arguments);
    // Ancient clients send the "hold time" 0, which is the only one that memcached still takes.
    let hold_is_zero = arguments.get(1) == b"0";
    let (is_valid, noreply) = match arguments.count() {
        1 => (true, false),
        2 => (hold_is_zero || arguments.noreply(), arguments.noreply()),
        3 => (hold_is_zero && arguments.noreply(), arguments.noreply()),
        _ => return Err(Refusal::answered(BadRequest::Command)),
    };
    if !is_valid {
        return Err(Refusal { error: BadRequest::DeleteFormat, noreply });
    }
    let key = checked_key(&arguments, noreply)?;
    Ok(Request::Delete { key, noreply })
}

fn parse_touch(arguments: &[u8]) -> Outcome<'_> {
    let (arguments, noreply) = split_counted(arguments, 2, 3)?;
    let key = checked_key(&arguments, noreply)?;
    let exptime = signed(arguments.get(1)).ok_or(Refusal { error: BadRequest::Exptime, noreply })?;
    Ok(Request::Touch { key, exptime, noreply })
}

fn parse_arithmetic(arguments: &[u8], direction: Direction) -> Outcome<'_> {
    let (arguments, noreply) = split_counted(arguments, 2, 3)?;
    let key = checked_key(&arguments, noreply)?;
    let delta = unsigned(arguments.get(1)).ok_or(Refusal { error: BadRequest::Delta, noreply })?;
    Ok(Request::Arithmetic { key, delta, direction, noreply })
}

fn parse_flush_all(arguments: &[u8]) -> Outcome<'_> {
    let (arguments, noreply) = split_counted(arguments, 0, 2)?;
    if arguments.count() == usize::from(noreply) {
        return Ok(Request::FlushAll { delay: 0, noreply });
    }
    let delay = signed(arguments.get(0)).ok_or(Refusal { error: BadRequest::Exptime, noreply })?;
    Ok(Request::FlushAll { delay, noreply })
}

fn parse_stats(arguments: &[u8]) -> Request<'_> {
    let argument = trim_blanks(arguments);
    match argument.strip_prefix(b"cachedump") {
        // It lists keys, as dumps do.
        Some(rest) if rest.is_empty() || rest[0] == b' ' => Request::Admin(parse_cachedump(rest)),
        _ => Request::Stats { argument },
    }
}

fn parse_verbosity(arguments: &[u8]) -> Outcome<'_> {
    let (arguments, noreply) = split_counted(arguments, 1, 2)?;
    let level = unsigned_32(arguments.get(0)).ok_or(Refusal { error: BadRequest::LineFormat, noreply })?;
    Ok(Request::Verbosity { level, noreply })
}

/// Splits arguments of which there must be between `count_min` and `count_max`, and looks for `noreply`.
fn split_counted(arguments: &[u8], count_min: usize, count_max: usize) -> Result<(Arguments<'_>, bool), Refusal> {
    let arguments = Arguments::split(arguments);
    if !(count_min..=count_max).contains(&arguments.count()) {
        return Err(Refusal::answered(BadRequest::Command));
    }
    let noreply = arguments.noreply();
    Ok((arguments, noreply))
}

/// The first argument, if it can be a key.
fn checked_key<'a>(arguments: &Arguments<'a>, noreply: bool) -> Result<&'a [u8], Refusal> {
    let key = arguments.get(0);
    if is_key_bad(key) { Err(Refusal { error: BadRequest::LineFormat, noreply }) } else { Ok(key) }
}

/// Whether a token is too long for a key. memcached checks nothing else: control characters are accepted.
fn is_key_bad(token: &[u8]) -> bool {
    token.len() > KEY_SIZE_MAX
}
