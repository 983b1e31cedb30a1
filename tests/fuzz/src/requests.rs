//! The parsers of requests, and the encoders of answers with what the requests ask for.

use dmacached::limits::{KEY_SIZE_MAX, KIB, MIB};
use dmacached::protocol::meta::encode as meta_encode;
use dmacached::protocol::meta::encode::{Code, MetaItem, Standing};
use dmacached::protocol::text::ahead::keys_ahead;
use dmacached::protocol::text::auth::{Credentials, parse_credentials};
use dmacached::protocol::{
    MetaRequest, ParseLimits, Parsed, Request, parse, parse_binary, parse_resumed, stored_number,
};

use crate::packets;

/// Requests of an input that are looked at.
const REQUEST_COUNT_MAX: usize = 40;
/// Prefixes of an input that are looked at for each of them.
const PREFIX_COUNT: usize = 24;
/// No answer to a meta command is longer, without its value.
const META_ANSWER_SIZE_MAX: usize = KIB;

type Parse = for<'a> fn(&'a [u8], &ParseLimits) -> Parsed<'a>;

/// What the first byte of an input says about the largest item. Small ones are there because the values that a fuzzer
/// makes are.
#[must_use]
pub fn limits(byte: u8) -> ParseLimits {
    ParseLimits { item_size_max: [MIB, KIB, 100, 300][usize::from(byte % 4)] }
}

/// A stream of requests of the text protocol behind a byte for [`limits`].
///
/// # Panics
/// When the parser is not what it should be.
pub fn check_text(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    let limits = limits(*first);
    for_each(stream, &limits, parse, |rest, parsed| {
        check_resumed(rest, parsed, &limits);
        check_answers(parsed);
    });
}

/// A stream of requests of the binary protocol behind a byte for [`limits`].
///
/// # Panics
/// When the parser is not what it should be.
pub fn check_binary(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    for_each(stream, &limits(*first), parse_binary, |_, parsed| {
        assert!(!matches!(parsed, Parsed::IncompleteLine | Parsed::Bad { .. }), "there is no such thing");
        if let Parsed::Request { request, .. } = parsed {
            let Request::Binary(request) = request else { panic!("a request of another protocol: {request:?}") };
            packets::check_answers(request);
        }
    });
}

/// What a client says that nobody knows yet.
///
/// # Panics
/// When the parser is not what it should be.
pub fn check_credentials(stream: &[u8]) {
    let mut rest = stream;
    for _ in 0..REQUEST_COUNT_MAX {
        let whole = parse_credentials(rest);
        for cut in cuts(rest.len()) {
            match parse_credentials(&rest[..cut]) {
                Credentials::Incomplete { needed } => assert!(needed > cut, "nothing is missing"),
                part => assert_eq!(part, whole, "after {cut} bytes it was another"),
            }
        }
        let consumed = match whole {
            Credentials::Given { user, password, consumed } => {
                assert!(!user.is_empty() && !password.is_empty());
                consumed
            }
            Credentials::Refused { answer, consumed } => {
                assert!(is_line(answer));
                consumed
            }
            Credentials::Close { answer } => return assert!(answer.is_empty() || is_line(answer)),
            Credentials::Incomplete { needed } => return assert!(needed > rest.len()),
        };
        assert!((1..=rest.len()).contains(&consumed));
        rest = &rest[consumed..];
    }
}

/// Parses one request after the other, and checks what holds for any parser.
fn for_each(stream: &[u8], limits: &ParseLimits, parse: Parse, mut each: impl FnMut(&[u8], &Parsed<'_>)) {
    let mut rest = stream;
    for _ in 0..REQUEST_COUNT_MAX {
        let parsed = parse(rest, limits);
        check_prefixes(rest, &parsed, limits, parse);
        check_ahead(rest, limits, parse);
        each(rest, &parsed);
        let Some(next) = behind(rest, &parsed) else { return };
        rest = next;
    }
}

/// Bytes that what was parsed takes, and bytes that are dropped behind it; `None` if it does not end.
fn size(parsed: &Parsed<'_>) -> Option<(usize, u64)> {
    match parsed {
        Parsed::Request { consumed, swallow_size, .. } | Parsed::Bad { consumed, swallow_size, .. } => {
            Some((*consumed, *swallow_size))
        }
        Parsed::IncompleteLine | Parsed::IncompleteValue { .. } | Parsed::Close => None,
    }
}

/// What lies behind what was parsed, `None` if that does not end.
fn behind<'a>(rest: &'a [u8], parsed: &Parsed<'_>) -> Option<&'a [u8]> {
    let (consumed, swallow_size) = size(parsed)?;
    assert!((1..=rest.len()).contains(&consumed), "{consumed} of {} bytes", rest.len());
    let dropped = usize::try_from(swallow_size).expect("sizes have 32 bits");
    rest.get(consumed + dropped..)
}

/// Some prefixes of so many bytes: all of them when there are few, and always the shortest and the longest ones.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / PREFIX_COUNT).max(1);
    (0..len).step_by(step).chain(len.saturating_sub(4)..len)
}

/// A prefix is incomplete, or is the same as the whole.
fn check_prefixes(rest: &[u8], whole: &Parsed<'_>, limits: &ParseLimits, parse: Parse) {
    let end = size(whole).map(|(consumed, _)| consumed);
    for cut in cuts(rest.len()).chain(end.map(|end| end - 1)).chain(end) {
        match parse(&rest[..cut], limits) {
            Parsed::IncompleteLine => assert!(end.is_none_or(|end| cut < end), "nothing is missing"),
            Parsed::IncompleteValue { needed } => {
                assert!(needed > cut, "nothing is missing");
                assert!(end.is_none_or(|end| needed <= end), "more is asked for than there is to come");
            }
            part => assert_eq!(part, *whole, "after {cut} bytes it was another"),
        }
    }
    if let Parsed::IncompleteValue { needed } = whole {
        assert!(*needed > rest.len());
    }
}

/// Going on behind bytes without a newline is the same as to begin again.
fn check_resumed(rest: &[u8], whole: &Parsed<'_>, limits: &ParseLimits) {
    let newline_free_size = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    for searched in [newline_free_size / 2, newline_free_size] {
        if parse(&rest[..searched], limits) == Parsed::IncompleteLine {
            assert_eq!(parse_resumed(rest, searched, limits), *whole);
        }
    }
}

/// The keys that are announced are those that are asked for. A hint may be wrong only behind a request that is refused, or
/// that has more blanks than it needs.
fn check_ahead(rest: &[u8], limits: &ParseLimits, parse: Parse) {
    let ahead = keys_ahead(rest);
    let mut rest = rest;
    for announced in ahead.keys() {
        assert!((1..=KEY_SIZE_MAX).contains(&announced.len()));
        let parsed = parse(rest, limits);
        let Parsed::Request { request, consumed, .. } = &parsed else { return };
        let Some(key) = only_key(request) else { return };
        assert_eq!(key, *announced, "another key was announced");
        let is_binary = matches!(request, Request::Binary(_));
        let has_blanks = rest[..*consumed].windows(2).any(|pair| pair == b"  ");
        let Some(next) = behind(rest, &parsed) else { return };
        if !is_binary && has_blanks {
            return;
        }
        rest = next;
    }
}

/// The key of a request; `None` where another form of it may be announced, or nothing need be right.
fn only_key(request: &Request<'_>) -> Option<Vec<u8>> {
    match request {
        Request::Get { keys, .. } => {
            let mut keys = keys.clone();
            let key = keys.next().expect("a get has a key");
            assert_eq!(keys.next(), None, "a key of several was announced");
            Some(key.to_vec())
        }
        Request::Store(store) => Some(store.key.to_vec()),
        Request::TooLarge { key, .. }
        | Request::Delete { key, .. }
        | Request::Touch { key, .. }
        | Request::Arithmetic { key, .. } => Some(key.to_vec()),
        // What is announced is the key as it was sent, which is not the one in base64.
        Request::Meta(MetaRequest { key, .. }) if key.is_binary() => None,
        Request::Meta(MetaRequest { key, .. }) => Some(key.bytes(&mut [0; KEY_SIZE_MAX]).to_vec()),
        Request::Binary(request) => packets::key(request).map(<[u8]>::to_vec),
        other => panic!("a key was announced for {other:?}"),
    }
}

/// What can be said about the answers to a request of the text protocol.
fn check_answers(parsed: &Parsed<'_>) {
    match parsed {
        Parsed::Bad { error, .. } => assert!(is_line(error.answer())),
        Parsed::Request { request: Request::Meta(request), .. } => check_meta(request),
        Parsed::Request { request: Request::Get { keys, .. }, .. } => {
            assert!(keys.clone().all(|key| (1..=KEY_SIZE_MAX).contains(&key.len())));
        }
        Parsed::Request { request: Request::Store(store), .. } => {
            assert!((1..=KEY_SIZE_MAX).contains(&store.key.len()));
            let number = std::str::from_utf8(store.value).ok().and_then(|value| value.parse::<u64>().ok());
            assert!(number.is_none() || stored_number(store.value) == number);
        }
        _ => {}
    }
}

/// Whether it is one line with its end. What clients send may hold a `\r`.
fn is_line(answer: &[u8]) -> bool {
    answer.ends_with(b"\r\n") && answer.iter().filter(|byte| **byte == b'\n').count() == 1
}

/// Answers to a meta command are one line, whatever it asks for, and name the key so that it can be asked for again.
fn check_meta(request: &MetaRequest<'_>) {
    let mut buffer = [0; KEY_SIZE_MAX];
    let key = request.key.bytes(&mut buffer);
    assert!((1..=KEY_SIZE_MAX).contains(&key.len()));
    let item = MetaItem {
        key,
        is_key_binary: request.key.is_binary(),
        value_size: usize::MAX,
        client_flags: u32::MAX,
        cas: u64::MAX,
        ttl: Some(i64::MIN + 1),
        age: u32::MAX,
        was_fetched: true,
    };
    let standing = Standing { has_won: true, token_sent: true, is_stale: true };
    let (mut out, reply) = (Vec::new(), &request.reply);
    let mut line = |write: &mut dyn FnMut(&mut Vec<u8>)| {
        out.clear();
        write(&mut out);
        assert!(is_line(&out) && out.len() <= META_ANSWER_SIZE_MAX, "{}", out.escape_ascii());
    };
    line(&mut |out| meta_encode::encode_item(out, reply, &item, standing, true));
    line(&mut |out| meta_encode::encode_item(out, reply, &item, Standing::default(), false));
    line(&mut |out| meta_encode::encode_debug(out, &item, usize::MAX));
    for code in [Code::Miss, Code::NotFound, Code::Exists, Code::NotStored, Code::Done] {
        line(&mut |out| meta_encode::encode_stored(out, code, reply, &item));
        line(&mut |out| meta_encode::encode_code(out, code, reply, key, item.is_key_binary));
    }
    check_answered_key(&out, request, key);
}

/// An answer that names the key names it as it has to be asked for.
fn check_answered_key(answer: &[u8], request: &MetaRequest<'_>, key: &[u8]) {
    let mut tokens = answer[..answer.len() - 2].split(|byte| *byte == b' ').skip(1);
    let named = tokens.find_map(|token| token.strip_prefix(b"k"));
    assert_eq!(named.is_some(), request.reply.has(b'k'));
    let Some(named) = named else { return };
    let flags: &[u8] = if request.key.is_binary() { b" v b\r\n" } else { b" v\r\n" };
    let again = [b"mg ", named, flags].concat();
    let Parsed::Request { request: Request::Meta(again), .. } = parse(&again, &limits(0)) else {
        panic!("the key cannot be asked for: {}", named.escape_ascii());
    };
    assert_eq!(again.key.bytes(&mut [0; KEY_SIZE_MAX]), key);
}
