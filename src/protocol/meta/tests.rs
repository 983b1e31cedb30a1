use proptest::prelude::*;

use super::encode::*;
use super::*;
use crate::protocol::{BadRequest, ParseLimits, Parsed, Request, parse};

const LIMITS: ParseLimits = ParseLimits { item_size_max: 1 << 20 };

fn request(input: &[u8]) -> MetaRequest<'_> {
    match parse(input, &LIMITS) {
        Parsed::Request { request: Request::Meta(request), consumed, swallow_size: 0 } if consumed == input.len() => {
            request
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

fn refusal(input: &[u8]) -> (BadRequest, u64) {
    match parse(input, &LIMITS) {
        Parsed::Bad { error, swallow_size, noreply: false, .. } => (error, swallow_size),
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

#[test]
fn flags_are_read_in_their_order() {
    let MetaRequest { verb, key, options, reply } = request(b"mg key v t Oxyz k T30 R-1 N0 C7 E8 q u s\r\n");
    assert_eq!((verb, key), (MetaVerb::Get, MetaKey::plain(b"key")));
    let expected = MetaOptions {
        compare: Some(7),
        explicit_cas: Some(8),
        vivify: Some(0),
        recache: Some(-1),
        exptime: Some(30),
        touches_first: true,
        vivifies_last: true,
        no_bump: true,
        ..MetaOptions::default()
    };
    assert_eq!(options, expected);
    assert_eq!((reply.letters(), reply.opaque()), (&b"tOks"[..], &b"Oxyz"[..]));
    assert!(reply.is_quiet && reply.wants_value && !reply.ttl_after_touch);
    assert!(request(b"mg key T1 t N1\n").reply.ttl_after_touch);
    assert!(!request(b"mg key R30 T30\n").options.touches_first);
    for line in [&b"mn\r\n"[..], b"mn x\n"] {
        let expected = Parsed::Request { request: Request::MetaNoop, consumed: line.len(), swallow_size: 0 };
        assert_eq!(parse(line, &LIMITS), expected);
    }
}

#[test]
fn values_follow_an_ms() {
    let set = |mode| MetaVerb::Set { mode, value: b"ab" };
    for (flags, mode) in [
        ("", StoreVerb::Set),
        (" MS", StoreVerb::Set),
        (" ME", StoreVerb::Add),
        (" MA", StoreVerb::Append),
        (" MP", StoreVerb::Prepend),
        (" MR", StoreVerb::Replace),
    ] {
        assert_eq!(request(format!("ms k 2{flags}\r\nab\r\n").as_bytes()).verb, set(mode), "{flags}");
    }
    let options = request(b"ms k 2 F9 I T-1\r\nab\r\n").options;
    assert_eq!((options.client_flags, options.invalidate, options.exptime), (9, true, Some(-1)));
    assert_eq!(parse(b"ms k 2\r\na", &LIMITS), Parsed::IncompleteValue { needed: 12 });
    assert_eq!(refusal(b"ms k 2\r\nabc\r\n"), (BadRequest::DataChunk, 0));
    let large = parse(b"ms k 2000000\r\n", &LIMITS);
    assert!(matches!(large, Parsed::Request { request: Request::Meta(_), swallow_size: 2_000_002, .. }), "{large:?}");
}

#[test]
fn what_is_wrong_is_said_as_memcached_says_it() {
    let long = "k".repeat(251);
    for (line, error, swallow_size) in [
        ("mg", BadRequest::Command, 0),
        ("ms", BadRequest::Command, 0),
        ("md", BadRequest::Command, 0),
        ("ma", BadRequest::Command, 0),
        ("me", BadRequest::LineFormat, 0),
        ("mx k", BadRequest::Command, 0),
        ("ms k", BadRequest::LineFormat, 0),
        ("ms k x", BadRequest::LineFormat, 0),
        ("ms k -1", BadRequest::LineFormat, 0),
        ("mg k q q", BadRequest::MetaDuplicate, 0),
        ("mg k \x7f", BadRequest::MetaDuplicate, 0),
        ("mg k ?", BadRequest::MetaInvalid, 0),
        ("mg k Tx", BadRequest::MetaToken, 0),
        ("mg k T", BadRequest::MetaToken, 0),
        ("mg k Fx", BadRequest::LineFormat, 0),
        ("mg k Tx Fx", BadRequest::MetaToken, 0),
        ("mg k Jx", BadRequest::MetaInitial, 0),
        ("mg k D-1", BadRequest::MetaDelta, 0),
        ("mg k MAA", BadRequest::MetaModeLength, 0),
        ("mg a b", BadRequest::MetaKeyEncoding, 0),
        ("mg k O12345678901234567890123456789012", BadRequest::MetaOpaque, 0),
        ("md k ?", BadRequest::MetaInvalidOrDuplicate, 0),
        ("ma k Tx", BadRequest::MetaInvalidOrDuplicate, 0),
        ("ma k Mx", BadRequest::MetaArithmeticMode, 0),
        ("ms k 5 Mx", BadRequest::MetaSetMode, 7),
        ("ms k 5 Tx", BadRequest::MetaToken, 7),
        ("ms k 5 ?", BadRequest::MetaInvalid, 7),
        (&format!("mg {long}"), BadRequest::LineFormat, 0),
        (&format!("ms {long} 5"), BadRequest::LineFormat, 7),
        (&format!("mg k{}", " a".repeat(18)), BadRequest::MetaFlagsTooLong, 0),
        (&format!("md k{}", " a".repeat(18)), BadRequest::MetaOptionsTooLong, 0),
        (&format!("ms k 5{}", " a".repeat(17)), BadRequest::MetaOptionsTooLong, 7),
        (&format!("mg k{}", " a".repeat(17)), BadRequest::MetaInvalid, 0),
    ] {
        assert_eq!(refusal(format!("{line}\r\n").as_bytes()), (error, swallow_size), "{line}");
    }
    let longest = "mg k O1234567890123456789012345678901 k c f h l s t v u q T1 N1 R1 C1 E1 F1\r\n";
    let Parsed::Request { .. } = parse(longest.as_bytes(), &LIMITS) else { panic!("17 flags are allowed") };
}

#[test]
fn a_key_in_base64_is_decoded() {
    let mut buffer = [0; KEY_SIZE_MAX];
    let key = request(b"mg AAECIP8= b\r\n").key;
    assert!(key.is_binary());
    assert_eq!(key.bytes(&mut buffer), b"\x00\x01\x02 \xff");
    let MetaRequest { key, verb, .. } = request(b"me Zm9v b\r\n");
    assert_eq!((key.bytes(&mut [0; KEY_SIZE_MAX]), verb), (&b"foo"[..], MetaVerb::Debug));
}

#[test]
fn answers_repeat_what_was_asked_in_its_order() {
    let item = MetaItem {
        key: b"foo",
        is_key_binary: false,
        value_size: 3,
        client_flags: 5,
        cas: u64::MAX,
        ttl: None,
        age: 9,
        was_fetched: true,
    };
    let reply = request(b"mg foo t k Oab c f h l s v\r\n").reply;
    let mut out = Vec::new();
    encode_item(&mut out, &reply, &item, Standing::default(), true);
    let binary = MetaItem { is_key_binary: true, ttl: Some(30), was_fetched: false, ..item };
    let standing = Standing { has_won: true, token_sent: false, is_stale: true };
    encode_item(&mut out, &reply, &binary, standing, false);
    encode_code(&mut out, Code::Miss, &reply, b"foo", true);
    encode_stored(&mut out, Code::Exists, &reply, &item);
    encode_debug(&mut out, &item, 65);
    let expected = "VA 3 t-1 kfoo Oab c18446744073709551615 f5 h1 l9 s3\r\n\
        HD t30 kZm9v b Oab c18446744073709551615 f5 h0 l9 s3 X W\r\nEN kZm9v b Oab\r\n\
        EX kfoo Oab c18446744073709551615 s3\r\nME foo exp=-1 la=9 cas=18446744073709551615 fetch=yes cls=1 size=65\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

proptest! {
    #[test]
    fn any_line_is_read_or_refused(letter in prop::sample::select(&b"gsdaenx"[..]), rest in "[ -~]{0,80}", cut in 0..100usize) {
        let line = [b"m", &[letter][..], b" ", rest.as_bytes(), b"\r\n"].concat();
        let whole = parse(&line, &LIMITS);
        match parse(&line[..cut.min(line.len())], &LIMITS) {
            Parsed::IncompleteLine | Parsed::IncompleteValue { .. } => {}
            prefix => prop_assert_eq!(prefix, whole),
        }
    }

    #[test]
    fn a_glance_sees_the_key_that_is_parsed(
        key in "[a-z]{1,20}",
        letter in prop::sample::select(&b"gda"[..]),
        flags in "( [a-z]){0,3}",
    ) {
        let line = [b"m", &[letter][..], b" ", key.as_bytes(), flags.as_bytes(), b"\r\n"].concat();
        if let Parsed::Request { request: Request::Meta(request), consumed, .. } = parse(&line, &LIMITS) {
            let arguments = &line[3..line.len() - 2];
            if !request.key.is_binary() {
                prop_assert_eq!(super::parse::glance(letter, arguments), Some((key.as_bytes(), 0)));
                prop_assert_eq!(consumed, line.len());
            }
        }
    }
}
