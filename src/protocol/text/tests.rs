use proptest::prelude::*;

use super::encode::*;
use super::token::{signed, trim_blanks, unsigned, unsigned_32};
use crate::limits::{KEY_SIZE_MAX, MULTIGET_LINE_SIZE_MAX};
use crate::protocol::*;

const LIMITS: ParseLimits = ParseLimits { item_size_max: 1 << 20 };

fn request(input: &[u8]) -> Request<'_> {
    match parse(input, &LIMITS) {
        Parsed::Request { request, consumed, swallow_size: 0 } if consumed == input.len() => request,
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

/// The refusal of a line that is refused whole: error, `noreply`, bytes to swallow.
fn refusal(input: &[u8]) -> (BadRequest, bool, u64) {
    match parse(input, &LIMITS) {
        Parsed::Bad { error, consumed, swallow_size, noreply } if consumed == input.len() => {
            (error, noreply, swallow_size)
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

fn key_of(size: usize) -> String {
    "k".repeat(size)
}

fn store(verb: StoreVerb) -> StoreRequest<'static> {
    StoreRequest { verb, key: b"key", flags: 7, exptime: 60, value: b"value", noreply: false }
}

#[test]
fn storage_commands_carry_their_value() {
    for (name, verb) in [
        ("set", StoreVerb::Set),
        ("add", StoreVerb::Add),
        ("replace", StoreVerb::Replace),
        ("append", StoreVerb::Append),
        ("prepend", StoreVerb::Prepend),
    ] {
        let line = format!("{name} key 7 60 5\r\nvalue\r\n");
        assert_eq!(request(line.as_bytes()), Request::Store(store(verb)));
        let line = format!("{name} key 7 60 5 noreply\r\nvalue\r\n");
        assert_eq!(request(line.as_bytes()), Request::Store(StoreRequest { noreply: true, ..store(verb) }));
    }
    let cas = StoreVerb::Cas(u64::MAX);
    assert_eq!(request(b"cas key 7 60 5 18446744073709551615\r\nvalue\r\n"), Request::Store(store(cas)));
    assert_eq!(
        request(b"cas key 7 60 5 18446744073709551615 noreply\r\nvalue\r\n"),
        Request::Store(StoreRequest { noreply: true, ..store(cas) })
    );
}

#[test]
fn values_are_any_bytes_of_the_announced_size() {
    let Request::Store(StoreRequest { value, .. }) = request(b"set k 0 0 6\r\n\r\n\0\xff\r\n\r\n") else { panic!() };
    assert_eq!(value, b"\r\n\0\xff\r\n");
    let Request::Store(StoreRequest { value, .. }) = request(b"set k 0 0 0\n\r\n") else { panic!() };
    assert_eq!(value, b"");
}

#[test]
fn a_last_argument_other_than_noreply_is_ignored() {
    assert_eq!(request(b"set key 7 60 5 whatever\r\nvalue\r\n"), Request::Store(store(StoreVerb::Set)));
    assert_eq!(request(b"touch key 1 whatever\r\n"), Request::Touch { key: b"key", exptime: 1, noreply: false });
}

#[test]
fn exptimes_are_passed_on_as_written() {
    for exptime in [-1, i64::from(i32::MIN), 4_102_444_800, i64::MAX] {
        let line = format!("set k 0 {exptime} 0\r\n\r\n");
        let Request::Store(StoreRequest { exptime: parsed, .. }) = request(line.as_bytes()) else { panic!() };
        assert_eq!(parsed, exptime);
    }
}

#[test]
fn a_value_that_is_not_here_yet_is_asked_for_by_size() {
    let line = b"set k 0 0 1000\r\n";
    let needed = line.len() + 1000 + 2;
    for extra in [0, 1, 500, 1001] {
        let mut input = line.to_vec();
        input.resize(line.len() + extra, b'\n');
        assert_eq!(parse(&input, &LIMITS), Parsed::IncompleteValue { needed }, "{extra} bytes of it");
    }
}

#[test]
fn a_bad_end_of_a_value_costs_exactly_the_announced_bytes() {
    // As memcached: what was announced is dropped, and parsing goes on right behind it.
    for (input, rest) in [
        (&b"set k 0 0 3\r\nabcdef\r\n"[..], &b"f\r\n"[..]),
        (b"set k 0 0 3\r\nabc\nxyz\r\n", b"yz\r\n"),
        (b"set k 0 0 0\r\nab", b""),
    ] {
        assert_eq!(
            parse(input, &LIMITS),
            Parsed::Bad {
                error: BadRequest::DataChunk,
                consumed: input.len() - rest.len(),
                swallow_size: 0,
                noreply: false
            }
        );
    }
    assert_eq!(refusal(b"set k 0 0 1 noreply\r\nabc"), (BadRequest::DataChunk, true, 0));
}

#[test]
fn a_bad_storage_line_takes_its_value_with_it() {
    let long_key = format!("set {} 0 0 9\r\n", key_of(KEY_SIZE_MAX + 1));
    for line in [
        long_key.as_bytes(),
        b"set k x 0 9\r\n",
        b"set k -1 0 9\r\n",
        b"set k 4294967296 0 9\r\n",
        b"set k 0 x 9\r\n",
        b"set k 0 99999999999999999999 9\r\n",
        b"cas k 0 0 9 x\r\n",
        b"cas k 0 0 9 -1\r\n",
        b"cas k 0 0 9 18446744073709551616\r\n",
    ] {
        assert_eq!(refusal(line), (BadRequest::LineFormat, false, 11), "{}", line.escape_ascii());
    }
    assert_eq!(refusal(b"set k x 0 9 noreply\r\n"), (BadRequest::LineFormat, true, 11));
    assert_eq!(refusal(b"cas k 0 0 9 noreply\r\n"), (BadRequest::LineFormat, true, 11), "noreply is not a cas unique");
}

#[test]
fn a_size_that_is_none_takes_nothing_with_it() {
    for size in ["-1", "x", "9x", "0x9", "2147483646", "2147483648", "4294967299", "99999999999999999999"] {
        let line = format!("set k 0 0 {size}\r\n");
        assert_eq!(refusal(line.as_bytes()), (BadRequest::LineFormat, false, 0), "{size}");
    }
    assert_eq!(refusal(b"set k 0 0 noreply\r\n"), (BadRequest::LineFormat, true, 0));
}

#[test]
fn items_are_measured_as_memcached_does() {
    // Measured on memcached 1.6.18 with -I 1m: key `a`, flags 0: 1048516 bytes are stored, 1048517 are too large; with
    // other flags 4 fewer.
    for (flags, largest) in [(0, 1_048_516), (5, 1_048_512)] {
        let line = format!("set a {flags} 0 {largest}\r\n");
        assert!(matches!(parse(line.as_bytes(), &LIMITS), Parsed::IncompleteValue { .. }), "{line}");
        let line = format!("set a {flags} 0 {}\r\n", largest + 1);
        assert!(matches!(
            parse(line.as_bytes(), &LIMITS),
            Parsed::Request { request: Request::TooLarge { verb: StoreVerb::Set, key: b"a", noreply: false }, .. }
        ));
    }
}

#[test]
fn a_value_too_large_is_refused_before_it_arrives() {
    let line = b"cas k 0 0 2147483645 5 noreply\r\n";
    assert_eq!(
        parse(line, &LIMITS),
        Parsed::Request {
            request: Request::TooLarge { verb: StoreVerb::Cas(5), key: b"k", noreply: true },
            consumed: line.len(),
            swallow_size: 2_147_483_647
        }
    );
}

#[test]
fn get_lists_its_keys_in_order() {
    for (line, expected, expected_cas) in [
        (&b"get key\r\n"[..], &[&b"key"[..]][..], false),
        (b"gets key\n", &[b"key"], true),
        (b"get a b a\r\n", &[b"a", b"b", b"a"], false),
        (b"  gets   a   b  \r\n", &[b"a", b"b"], true),
        (b"get k\0\t\xff\r\r\n", &[b"k\0\t\xff\r"], false),
    ] {
        let Request::Get { keys, with_cas, touch: None } = request(line) else { panic!() };
        assert_eq!(keys.clone().collect::<Vec<_>>(), expected, "{}", line.escape_ascii());
        assert_eq!(keys.collect::<Vec<_>>(), expected, "a clone does not move the original");
        assert_eq!(with_cas, expected_cas);
    }
}

#[test]
fn keys_have_at_most_250_bytes() {
    let (longest, too_long) = (key_of(KEY_SIZE_MAX), key_of(KEY_SIZE_MAX + 1));
    for rest in ["get K", "gets a K b", "delete K", "delete K 0", "touch K 0", "incr K 1", "decr K 1"] {
        let line = rest.replace('K', &longest) + "\r\n";
        request(line.as_bytes());
        let line = rest.replace('K', &too_long) + "\r\n";
        assert_eq!(refusal(line.as_bytes()), (BadRequest::LineFormat, false, 0), "{rest}");
    }
    let line = format!("delete {too_long} noreply\r\n");
    assert_eq!(refusal(line.as_bytes()), (BadRequest::LineFormat, true, 0));
}

#[test]
fn delete_takes_no_argument_but_zero_and_noreply() {
    for (line, noreply) in
        [("delete k", false), ("delete k 0", false), ("delete k noreply", true), ("delete k 0 noreply", true)]
    {
        assert_eq!(request(format!("{line}\r\n").as_bytes()), Request::Delete { key: b"k", noreply });
    }
    for (line, noreply) in [
        ("delete k 10", false),
        ("delete k 00", false),
        ("delete k noreply 0", false),
        ("delete k 0 x", false),
        ("delete k 10 noreply", true),
    ] {
        let line = format!("{line}\r\n");
        assert_eq!(refusal(line.as_bytes()), (BadRequest::DeleteFormat, noreply, 0), "{line}");
    }
}

#[test]
fn arithmetic_takes_unsigned_deltas() {
    let increment = |delta, noreply| Request::Arithmetic { key: b"n", delta, direction: Direction::Increment, noreply };
    assert_eq!(request(b"incr n 5\r\n"), increment(5, false));
    assert_eq!(request(b"incr n 18446744073709551615 noreply\r\n"), increment(u64::MAX, true));
    assert_eq!(
        request(b"decr n 5\r\n"),
        Request::Arithmetic { key: b"n", delta: 5, direction: Direction::Decrement, noreply: false }
    );
    for delta in ["x", "-1", "18446744073709551616", "1x", "-", "+-1"] {
        assert_eq!(refusal(format!("incr n {delta}\r\n").as_bytes()), (BadRequest::Delta, false, 0), "{delta}");
    }
    assert_eq!(refusal(b"incr n noreply\r\n"), (BadRequest::Delta, true, 0), "a bad delta that is not answered");
}

#[test]
fn touch_flush_all_and_verbosity_take_numbers() {
    assert_eq!(request(b"touch k -1 noreply\r\n"), Request::Touch { key: b"k", exptime: -1, noreply: true });
    assert_eq!(refusal(b"touch k x\r\n"), (BadRequest::Exptime, false, 0));
    assert_eq!(refusal(b"touch k noreply\r\n"), (BadRequest::Exptime, true, 0));
    for (line, delay, noreply) in [
        ("flush_all", 0, false),
        ("flush_all noreply", 0, true),
        ("flush_all 30", 30, false),
        ("flush_all -1 noreply", -1, true),
        ("flush_all 5 ignored", 5, false),
    ] {
        assert_eq!(request(format!("{line}\r\n").as_bytes()), Request::FlushAll { delay, noreply }, "{line}");
    }
    assert_eq!(refusal(b"flush_all x\r\n"), (BadRequest::Exptime, false, 0));
    assert_eq!(refusal(b"flush_all x noreply\r\n"), (BadRequest::Exptime, true, 0));
    assert_eq!(refusal(b"flush_all noreply 0\r\n"), (BadRequest::Exptime, false, 0));
    assert_eq!(request(b"verbosity 1\r\n"), Request::Verbosity { level: 1, noreply: false });
    assert_eq!(request(b"verbosity 1 noreply\r\n"), Request::Verbosity { level: 1, noreply: true });
    assert_eq!(refusal(b"verbosity x\r\n"), (BadRequest::LineFormat, false, 0));
}

#[test]
fn version_quit_and_stats() {
    assert_eq!(request(b"version\r\n"), Request::Version);
    assert_eq!(request(b"version noreply x\r\n"), Request::Version);
    assert_eq!(request(b"quit\n"), Request::Quit);
    assert_eq!(request(b"stats\r\n"), Request::Stats { argument: b"" });
    assert_eq!(request(b"stats   detail  on  \r\n"), Request::Stats { argument: b"detail  on" });
}

#[test]
fn what_is_no_command_is_an_error() {
    for line in [
        "",
        " ",
        "g",
        "get",
        "get  ",
        "gets",
        "GET k",
        "getx k",
        "set",
        "set k 0 0",
        "set k 0 0 1 noreply x",
        "cas k 0 0 1",
        "cas k 0 0 1 2 noreply x",
        "delete",
        "delete a b c d",
        "touch k",
        "touch k 0 x noreply",
        "incr k",
        "incr k 1 2 noreply",
        "flush_all 1 2 noreply",
        "verbosity",
        "verbosity 1 2 3",
        "versions",
        "v / HTTP/1.1",
        "POST / HTTP/1.1 x",
        "x noreply",
    ] {
        for end in ["\n", "\r\n"] {
            let line = format!("{line}{end}");
            assert_eq!(refusal(line.as_bytes()), (BadRequest::Command, false, 0), "{line:?}");
        }
    }
}

#[test]
fn http_clients_are_hung_up_on() {
    for line in ["GET / HTTP/1.0\r\n", "POST / HTTP/1.1\n", "HTTP/\r\n", "OPTIONS a b c HTTP/2\r\n"] {
        assert_eq!(parse(line.as_bytes(), &LIMITS), Parsed::Close, "{line:?}");
    }
    assert!(matches!(request(b"get / HTTP/1.0\r\n"), Request::Get { .. }), "these are keys");
}

#[test]
fn lines_have_at_most_2048_bytes() {
    for end in ["\n", "\r\n"] {
        let line = "x".repeat(2048) + end;
        assert_eq!(refusal(line.as_bytes()), (BadRequest::Command, false, 0));
        let line = "x".repeat(2049) + end;
        assert_eq!(parse(line.as_bytes(), &LIMITS), Parsed::Close);
    }
    assert_eq!(parse(&[b'x'; 2048], &LIMITS), Parsed::IncompleteLine);
    assert_eq!(parse(&[b'x'; 2049], &LIMITS), Parsed::Close);
    assert_eq!(parse(&[b' '; 2049], &LIMITS), Parsed::Close);
}

#[test]
fn only_gets_of_many_keys_may_be_longer_behind_100_blanks() {
    for (command, is_allowed) in [
        ("get ".to_owned(), true),
        ("gets ".to_owned(), true),
        (" ".repeat(100) + "get ", true),
        (" ".repeat(101) + "get ", false),
        ("gat 0 ".to_owned(), true),
        ("mg ".to_owned(), false),
        ("get\t".to_owned(), false),
    ] {
        let line = command + &"k ".repeat(2000);
        let expected = if is_allowed { Parsed::IncompleteLine } else { Parsed::Close };
        assert_eq!(parse(line.as_bytes(), &LIMITS), expected, "{:?}", &line[..10]);
        let line = line + "\r\n";
        if is_allowed {
            let Request::Get { keys, .. } = request(line.as_bytes()) else { panic!() };
            assert_eq!(keys.count(), 2000);
        } else {
            assert_eq!(parse(line.as_bytes(), &LIMITS), Parsed::Close);
        }
    }
    let mut line = b"get ".to_vec();
    line.resize(MULTIGET_LINE_SIZE_MAX, b' ');
    assert_eq!(parse(&line, &LIMITS), Parsed::IncompleteLine);
    line.push(b' ');
    assert_eq!(parse(&line, &LIMITS), Parsed::Close);
}

#[test]
fn numbers_are_read_as_c_does_but_never_wrap() {
    for (token, expected) in [
        (&b"0"[..], Some(0)),
        (b"007", Some(7)),
        (b"+5", Some(5)),
        (b"-0", Some(0)),
        (b"\t5", Some(5)),
        (b"5\tx", Some(5)),
        (b"5\r", Some(5)),
        (b"18446744073709551615", Some(u64::MAX)),
        (b"18446744073709551616", None),
        (b"100000000000000000000", None),
        (b"-1", None),
        (b"", None),
        (b"+", None),
        (b"\t", None),
        (b"5x", None),
        (b"5\0", None),
        (b"- 5", None),
    ] {
        assert_eq!(unsigned(token), expected, "{}", token.escape_ascii());
    }
    assert_eq!(unsigned_32(b"4294967295"), Some(u32::MAX));
    assert_eq!(unsigned_32(b"4294967296"), None);
    assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
    assert_eq!(signed(b"-9223372036854775809"), None);
    assert_eq!(signed(b"9223372036854775807"), Some(i64::MAX));
    assert_eq!(signed(b"9223372036854775808"), None);
    assert_eq!(trim_blanks(b"  a b  "), b"a b");
    assert_eq!(trim_blanks(b"   "), b"");
}

#[test]
fn answers_are_those_of_memcached() {
    let mut out = Vec::new();
    encode_value(&mut out, b"key", 0, None, b"a\r\nb");
    encode_value(&mut out, b"key", u32::MAX, Some(u64::MAX), b"");
    encode_answer(&mut out, Answer::End);
    encode_number(&mut out, u64::MAX);
    encode_stat(&mut out, "curr_items", 12);
    encode_stat(&mut out, "version", "1.6.45");
    encode_version(&mut out, "1.6.45");
    encode_bad_request(&mut out, BadRequest::Delta);
    encode_value_header(&mut out, b"k", 1, Some(2), 3);
    let expected = "VALUE key 0 4\r\na\r\nb\r\nVALUE key 4294967295 0 18446744073709551615\r\n\r\nEND\r\n\
        18446744073709551615\r\nSTAT curr_items 12\r\nSTAT version 1.6.45\r\nVERSION 1.6.45\r\n\
        CLIENT_ERROR invalid numeric delta argument\r\nVALUE k 1 3 2\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn a_value_is_appended_without_growing_twice() {
    let mut out = Vec::new();
    encode_value(&mut out, &[b'k'; 250], u32::MAX, Some(u64::MAX), &[0; 4_294_967]);
    assert!(out.capacity() <= out.len() + 64, "{} for {}", out.capacity(), out.len());
}

/// Pieces of requests, so that random streams get past the first letter.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(vec![
            &b"get "[..], b"gets ", b"set ", b"cas ", b"append ", b"delete ", b"incr ", b"touch ", b"flush_all", b"stats ",
            b"verbosity ", b"version", b"quit", b" ", b"k", b"key ", b"0 ", b"0 0 1\r\nx", b"0 0 3\r\nabc", b"-1 ", b"5 ",
            b"99999999999999999999 ", b"noreply", b"HTTP/1.1", b"2097152\r\n",
        ]).prop_map(<[u8]>::to_vec),
        6 => Just(b"\r\n".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0..3000usize).prop_map(|size| vec![b'y'; size]),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(fragment(), 0..12).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic_and_with_progress(input in stream()) {
        match parse(&input, &LIMITS) {
            Parsed::Request { consumed, .. } | Parsed::Bad { consumed, .. } => {
                prop_assert!(consumed > 0 && consumed <= input.len());
            }
            Parsed::IncompleteValue { needed } => prop_assert!(needed > input.len()),
            Parsed::IncompleteLine => prop_assert!(!input.contains(&b'\n')),
            Parsed::Close => {}
        }
    }

    #[test]
    fn a_prefix_is_incomplete_or_says_the_same(input in stream(), cut in any::<prop::sample::Index>()) {
        let whole = parse(&input, &LIMITS);
        let prefix = &input[..cut.index(input.len() + 1)];
        match parse(prefix, &LIMITS) {
            Parsed::IncompleteLine => prop_assert_eq!(parse_resumed(&input, prefix.len(), &LIMITS), whole),
            Parsed::IncompleteValue { needed } => {
                let is_incomplete = whole == Parsed::IncompleteValue { needed };
                prop_assert_eq!(is_incomplete, input.len() < needed);
            }
            result => prop_assert_eq!(result, whole),
        }
    }
}

#[test]
fn keys_that_were_not_given_yet_are_given_by_the_rest() {
    let Request::Get { mut keys, .. } = request(b"get  a  bc d  \r\n") else { panic!("a get") };
    for expected in [&[&b"a"[..], b"bc", b"d"][..], &[b"bc", b"d"], &[b"d"], &[]] {
        assert_eq!(Keys::new(keys.rest()).collect::<Vec<_>>(), expected);
        assert_eq!(keys.rest().is_empty(), expected.is_empty());
        keys.next();
    }
}
