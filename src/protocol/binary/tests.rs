use proptest::prelude::*;

use super::encode::*;
use super::*;
use crate::limits::{ITEM_OVERHEAD_SIZE, ITEM_SIZE_MAX, KEY_SIZE_MAX};
use crate::protocol::text::ahead::{KeysAhead, keys_ahead};
use crate::protocol::{ParseLimits, Parsed, Request, parse_binary};

const LIMITS: ParseLimits = ParseLimits { item_size_max: 1 << 20 };
const OPAQUE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];
const CAS: u64 = 0x0102_0304_0506_0708;
/// Extras of `SET`: flags 7, exptime 60.
const STORING: &[u8] = &[0, 0, 0, 7, 0, 0, 0, 60];

/// The header of a request, with the sizes that it says it has.
#[expect(
    clippy::big_endian_bytes,
    reason = "the protocol is big-endian, and is written here by other means than the code's"
)]
fn header(opcode: u8, extras_size: u8, key_size: u16, body_size: u32) -> Vec<u8> {
    let mut header = vec![REQUEST_MAGIC, opcode];
    header.extend_from_slice(&key_size.to_be_bytes());
    header.extend_from_slice(&[extras_size, 5, 0x12, 0x34]);
    header.extend_from_slice(&body_size.to_be_bytes());
    header.extend_from_slice(&OPAQUE);
    header.extend_from_slice(&CAS.to_be_bytes());
    header
}

/// A request whose sizes are those of its parts.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [extras, key, value].concat();
    let mut packet = header(opcode, extras.len() as u8, key.len() as u16, body.len() as u32);
    packet.extend_from_slice(&body);
    packet
}

/// The command at the front of `input`, with the bytes that are consumed and those that are to be dropped.
fn parsed(input: &[u8]) -> (Command<'_>, usize, u64) {
    match parse_binary(input, &LIMITS) {
        Parsed::Request { request: Request::Binary(BinaryRequest { reply, command }), consumed, swallow_size } => {
            assert_eq!(reply, BinaryReply { opcode: input[1], opaque: OPAQUE });
            (command, consumed, swallow_size)
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

/// The command of an input that is one whole request.
fn command(input: &[u8]) -> Command<'_> {
    let (command, consumed, swallow_size) = parsed(input);
    assert_eq!((consumed, swallow_size), (input.len(), 0));
    command
}

const MALFORMED: Command<'_> = Command::Refused { status: Status::InvalidArguments, closes: true };
const UNKNOWN: Command<'_> = Command::Refused { status: Status::UnknownCommand, closes: false };

#[test]
fn gets_and_touches_carry_key_and_exptime() {
    for opcode in [0x00, 0x09, 0x0c, 0x0d] {
        assert_eq!(command(&packet(opcode, b"", b"a key\0", b"")), Command::Get { key: b"a key\0", touch: None });
    }
    for opcode in [0x1d, 0x1e, 0x23, 0x24] {
        let expected = Command::Get { key: b"key", touch: Some(0x0102_0304) };
        assert_eq!(command(&packet(opcode, &[1, 2, 3, 4], b"key", b"")), expected);
    }
    let expected = Command::Touch { key: b"key", exptime: 0xffff_ffff };
    assert_eq!(command(&packet(0x1c, &[0xff; 4], b"key", b"")), expected, "exptimes have no sign");
}

#[test]
fn storage_commands_carry_everything() {
    for (opcodes, verb) in
        [([0x01, 0x11], StoreVerb::Set), ([0x02, 0x12], StoreVerb::Add), ([0x03, 0x13], StoreVerb::Replace)]
    {
        for opcode in opcodes {
            let expected = Command::Store { verb, key: b"key", flags: 7, exptime: 60, value: b"value", cas: CAS };
            assert_eq!(command(&packet(opcode, STORING, b"key", b"value")), expected);
        }
    }
    for (opcodes, verb) in [([0x0e, 0x19], StoreVerb::Append), ([0x0f, 0x1a], StoreVerb::Prepend)] {
        for opcode in opcodes {
            let expected = Command::Store { verb, key: b"key", flags: 0, exptime: 0, value: b"", cas: CAS };
            assert_eq!(command(&packet(opcode, b"", b"key", b"")), expected);
        }
    }
}

#[test]
fn the_rest_of_the_commands() {
    for opcode in [0x04, 0x14] {
        assert_eq!(command(&packet(opcode, b"", b"key", b"")), Command::Delete { key: b"key", cas: CAS });
    }
    let mut extras = [0; 20];
    (extras[7], extras[8], extras[19]) = (5, 0x80, 9);
    for (opcodes, direction) in [([0x05, 0x15], Direction::Increment), ([0x06, 0x16], Direction::Decrement)] {
        for opcode in opcodes {
            let counting =
                |exptime| Command::Arithmetic { direction, key: b"key", delta: 5, initial: 1 << 63, exptime, cas: CAS };
            assert_eq!(command(&packet(opcode, &extras, b"key", b"")), counting(Some(9)));
            let mut extras = extras;
            extras[16..].fill(0xff);
            assert_eq!(command(&packet(opcode, &extras, b"key", b"")), counting(None));
        }
    }
    for opcode in [0x08, 0x18] {
        assert_eq!(command(&packet(opcode, b"", b"", b"")), Command::Flush { exptime: 0 });
        assert_eq!(command(&packet(opcode, &[0, 0, 1, 0], b"", b"")), Command::Flush { exptime: 256 });
    }
    for (opcode, expected) in
        [(0x07, Command::Quit), (0x17, Command::Quit), (0x0a, Command::Noop), (0x0b, Command::Version)]
    {
        assert_eq!(command(&packet(opcode, b"", b"", b"")), expected);
    }
    assert_eq!(command(&packet(0x10, b"", b"", b"")), Command::Stat { argument: b"" });
    assert_eq!(command(&packet(0x10, b"", b"settings", b"")), Command::Stat { argument: b"settings" });
}

/// How the table in the module's documentation has it: sizes of extras, whether there has to be a key (`None`: as one
/// likes), and whether there may be a value.
fn form(opcode: u8) -> Option<(&'static [usize], Option<bool>, bool)> {
    Some(match opcode {
        0x00 | 0x04 | 0x09 | 0x0c | 0x0d | 0x14 => (&[0], Some(true), false),
        0x01..=0x03 | 0x11..=0x13 => (&[8], Some(true), true),
        0x05 | 0x06 | 0x15 | 0x16 => (&[20], Some(true), false),
        0x07 | 0x0a | 0x0b | 0x17 | 0x20 => (&[0], Some(false), false),
        0x08 | 0x18 => (&[0, 4], Some(false), false),
        0x0e | 0x0f | 0x19 | 0x1a | 0x21 | 0x22 => (&[0], Some(true), true),
        0x10 => (&[0], None, false),
        0x1c..=0x1e | 0x23 | 0x24 => (&[4], Some(true), false),
        _ => return None,
    })
}

#[test]
fn a_command_of_another_form_is_refused_and_closes() {
    for opcode in 0..=u8::MAX {
        for extras_size in [0, 1, 3, 4, 5, 7, 8, 9, 19, 20, 21, 255] {
            for key_size in [0, 1, KEY_SIZE_MAX, KEY_SIZE_MAX + 1, 65_535] {
                for value_size in [0, 1, 24] {
                    let input =
                        packet(opcode, &[0; 255][..extras_size], &vec![b'k'; key_size], &[b'v'; 24][..value_size]);
                    let (command, consumed, swallow_size) = parsed(&input);
                    let name = format!("{opcode:#x}, {extras_size}, {key_size}, {value_size}: {command:?}");
                    let is_unknown = form(opcode).is_none() || matches!(opcode, 0x20..=0x22);
                    let is_malformed = key_size > KEY_SIZE_MAX
                        || form(opcode).is_some_and(|(extras_sizes, has_key, has_value)| {
                            !extras_sizes.contains(&extras_size)
                                || has_key.is_some_and(|has_key| has_key != (key_size > 0))
                                || (value_size > 0 && !has_value)
                        });
                    assert_eq!(command == MALFORMED, is_malformed, "{name}");
                    assert_eq!(command == UNKNOWN, is_unknown && !is_malformed, "{name}");
                    let (value_consumed, value_dropped) = if is_malformed {
                        (0, 0)
                    } else if is_unknown {
                        (0, value_size)
                    } else {
                        (value_size, 0)
                    };
                    assert_eq!(consumed, input.len() - value_size + value_consumed, "{name}");
                    assert_eq!(swallow_size, value_dropped as u64, "{name}");
                }
            }
        }
    }
}

#[test]
fn parts_that_do_not_fit_the_body_close() {
    for opcode in [0x00, 0x01, 0x0a, 0x55] {
        for (extras_size, key_size, body_size) in [(0, 4, 3), (8, 4, 11), (8, 0, 0), (0, 65_535, 65_534)] {
            let mut input = header(opcode, extras_size, key_size, body_size);
            let head_size = HEADER_SIZE + usize::from(extras_size) + usize::from(key_size);
            assert_eq!(parse_binary(&input, &LIMITS), Parsed::IncompleteValue { needed: head_size });
            input.resize(head_size, b'x');
            let (command, consumed, swallow_size) = parsed(&input);
            assert_eq!(command, Command::Refused { status: Status::UnknownCommand, closes: true });
            assert_eq!((consumed, swallow_size), (head_size, 0));
        }
    }
}

#[test]
fn what_is_missing_is_asked_for_by_size() {
    let input = packet(0x01, STORING, b"key", b"value");
    let head_size = HEADER_SIZE + STORING.len() + b"key".len();
    for size in 0..input.len() {
        let needed = match size {
            0..HEADER_SIZE => HEADER_SIZE,
            _ if size < head_size => head_size,
            _ => input.len(),
        };
        assert_eq!(parse_binary(&input[..size], &LIMITS), Parsed::IncompleteValue { needed }, "{size} bytes");
    }
    let mut longer = input.clone();
    longer.extend_from_slice(b"xyz");
    assert_eq!(parsed(&longer), (command(&input), input.len(), 0));
}

#[test]
fn another_first_byte_closes_at_once() {
    for magic in (0..=u8::MAX).filter(|magic| *magic != REQUEST_MAGIC) {
        assert_eq!(parse_binary(&[magic], &LIMITS), Parsed::Close);
    }
}

#[test]
fn values_count_against_the_limit_as_in_text() {
    let value_size_max = LIMITS.item_size_max - ITEM_OVERHEAD_SIZE - b"key".len();
    // Flags take four bytes, unless they are 0, which they always are with APPEND.
    for (opcode, extras, verb, flags_size) in [
        (0x01, STORING, StoreVerb::Set, 4),
        (0x12, &[0; 8], StoreVerb::Add, 0),
        (0x03, STORING, StoreVerb::Replace, 4),
        (0x0e, b"", StoreVerb::Append, 0),
        (0x1a, b"", StoreVerb::Prepend, 0),
    ] {
        let value = vec![b'v'; value_size_max - flags_size];
        let input = packet(opcode, extras, b"key", &value);
        assert!(matches!(command(&input), Command::Store { verb: stored, value: kept, .. }
            if stored == verb && kept.len() == value.len()));
        let head_size = HEADER_SIZE + extras.len() + b"key".len();
        for value_size in [value.len() as u32 + 1, i32::MAX as u32, u32::MAX - 11] {
            let mut input = header(opcode, extras.len() as u8, 3, extras.len() as u32 + 3 + value_size);
            input.extend_from_slice(extras);
            input.extend_from_slice(b"key");
            let expected = (Command::TooLarge { verb, key: b"key" }, head_size, u64::from(value_size));
            assert_eq!(parsed(&input), expected, "nothing of the value is waited for");
            input.extend_from_slice(b"val");
            assert_eq!(parsed(&input), expected);
        }
    }
}

#[test]
fn what_quiet_commands_leave_out() {
    for opcode in 0..=u8::MAX {
        let reply = BinaryReply { opcode, opaque: OPAQUE };
        let hides_success = (0x11..=0x1a).contains(&opcode);
        let hides_miss = [0x09, 0x0d, 0x1e, 0x24].contains(&opcode);
        assert_eq!(reply.is_quiet(), hides_success || hides_miss);
        let is_silent = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            encode(&mut out);
            out.is_empty()
        };
        assert_eq!(is_silent(&|out| encode_stored(out, reply, 1)), hides_success);
        assert_eq!(is_silent(&|out| encode_empty(out, reply)), hides_success);
        assert_eq!(is_silent(&|out| encode_number(out, reply, 1, 1)), hides_success);
        assert_eq!(is_silent(&|out| encode_miss(out, reply, b"key")), hides_miss);
        assert!(!is_silent(&|out| encode_status(out, reply, Status::NotFound)), "errors are always answered");
        assert!(!is_silent(&|out| encode_value(out, reply, b"key", 0, 0, b"")), "hits are always answered");
    }
}

/// Encodes with `opcode`, and checks the answer against the bytes that memcached 1.6.18 sent.
fn assert_encodes(opcode: u8, encode: impl Fn(&mut Vec<u8>, BinaryReply), expected: &[u8]) {
    let mut out = b"before".to_vec();
    encode(&mut out, BinaryReply { opcode, opaque: OPAQUE });
    let answer = out.strip_prefix(b"before").expect("what was there stays");
    assert_eq!(answer.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn answers_are_those_of_memcached() {
    let hit = |out: &mut Vec<u8>, reply| encode_value(out, reply, b"k", 0x1122_3344, 1, b"value");
    assert_encodes(
        0x00,
        hit,
        b"\x81\x00\0\0\x04\0\0\0\0\0\0\x09\xde\xad\xbe\xef\0\0\0\0\0\0\0\x01\x11\x22\x33\x44value",
    );
    assert_encodes(
        0x24,
        hit,
        b"\x81\x24\0\x01\x04\0\0\0\0\0\0\x0a\xde\xad\xbe\xef\0\0\0\0\0\0\0\x01\x11\x22\x33\x44kvalue",
    );
    assert_encodes(
        0x1c,
        |out, reply| encode_touched(out, reply, 0x1122_3344, 1),
        b"\x81\x1c\0\0\x04\0\0\0\0\0\0\x04\xde\xad\xbe\xef\0\0\0\0\0\0\0\x01\x11\x22\x33\x44",
    );
    let miss = |out: &mut Vec<u8>, reply| encode_miss(out, reply, b"nokey");
    assert_encodes(0x00, miss, b"\x81\x00\0\0\0\0\0\x01\0\0\0\x09\xde\xad\xbe\xef\0\0\0\0\0\0\0\0Not found");
    assert_encodes(0x23, miss, b"\x81\x23\0\x05\0\0\0\x01\0\0\0\x05\xde\xad\xbe\xef\0\0\0\0\0\0\0\0nokey");
    assert_encodes(
        0x01,
        |out, reply| encode_stored(out, reply, CAS),
        b"\x81\x01\0\0\0\0\0\0\0\0\0\0\xde\xad\xbe\xef\x01\x02\x03\x04\x05\x06\x07\x08",
    );
    assert_encodes(
        0x05,
        |out, reply| encode_number(out, reply, 13, 60),
        b"\x81\x05\0\0\0\0\0\0\0\0\0\x08\xde\xad\xbe\xef\0\0\0\0\0\0\0\x3c\0\0\0\0\0\0\0\x0d",
    );
    assert_encodes(0x0a, encode_empty, b"\x81\x0a\0\0\0\0\0\0\0\0\0\0\xde\xad\xbe\xef\0\0\0\0\0\0\0\0");
    assert_encodes(
        0x0b,
        |out, reply| encode_version(out, reply, "1.6.18"),
        b"\x81\x0b\0\0\0\0\0\0\0\0\0\x06\xde\xad\xbe\xef\0\0\0\0\0\0\0\x001.6.18",
    );
    assert_encodes(
        0x10,
        |out, reply| encode_stat(out, reply, "maxconns", 1024),
        b"\x81\x10\0\x08\0\0\0\0\0\0\0\x0c\xde\xad\xbe\xef\0\0\0\0\0\0\0\0maxconns1024",
    );
    assert_encodes(
        0x55,
        |out, reply| encode_status(out, reply, Status::UnknownCommand),
        b"\x81\x55\0\0\0\0\0\x81\0\0\0\x0f\xde\xad\xbe\xef\0\0\0\0\0\0\0\0Unknown command",
    );
}

#[test]
fn statuses_are_those_of_memcached() {
    for (opcode, status, code, text) in [
        (0x04, Status::NotFound, 1, "Not found"),
        (0x12, Status::Exists, 2, "Data exists for key."),
        (0x01, Status::TooLarge, 3, "Too large."),
        (0x0a, Status::InvalidArguments, 4, "Invalid arguments"),
        (0x0e, Status::NotStored, 5, "Not stored."),
        (0x05, Status::NotNumeric, 6, "Non-numeric server-side value for incr or decr"),
        (0x08, Status::AuthFailure, 0x20, "Auth failure."),
        (0x1b, Status::UnknownCommand, 0x81, "Unknown command"),
        (0x01, Status::OutOfMemory, 0x82, "Out of memory allocating item"),
        (0x0e, Status::OutOfMemory, 0x82, "Out of memory allocating item"),
        (0x13, Status::OutOfMemory, 0x82, "Out of memory allocating item"),
        (0x1a, Status::OutOfMemory, 0x82, "Out of memory allocating item"),
        (0x05, Status::OutOfMemory, 0x82, "Out of memory incrementing value"),
        (0x16, Status::OutOfMemory, 0x82, "Out of memory incrementing value"),
        (0x04, Status::OutOfMemory, 0x82, "Out of memory"),
        (0x06, Status::OutOfMemoryForNew, 0x82, "Out of memory allocating new item"),
    ] {
        assert_eq!((status.code(), status.text(opcode)), (code, text));
    }
}

/// Requests, more or less: most have the form of a command, some only nearly, some are random bytes.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![8 => 0u8..0x26, 1 => any::<u8>()];
    let extras_size = prop_oneof![4 => Just(0u8), 2 => Just(4), 3 => Just(8), 2 => Just(20), 1 => any::<u8>()];
    let key_size = prop_oneof![2 => Just(0u16), 8 => 1u16..20, 1 => 249u16..253, 1 => any::<u16>()];
    let value_size = prop_oneof![3 => Just(0u32), 4 => 0u32..50, 1 => 1000u32..1100, 1 => any::<u32>()];
    let misfit = prop_oneof![9 => Just(0u32), 1 => 0u32..30];
    let request = (opcode, extras_size, key_size, value_size, misfit).prop_map(
        |(opcode, extras_size, key_size, value_size, misfit)| {
            let head_size = u32::from(extras_size) + u32::from(key_size);
            let body_size = head_size.wrapping_add(value_size).wrapping_sub(misfit);
            let mut request = header(opcode, extras_size, key_size, body_size);
            request.resize(HEADER_SIZE + (head_size + value_size.min(2000)) as usize, REQUEST_MAGIC);
            request
        },
    );
    let garbage = prop::collection::vec(any::<u8>(), 0..60);
    let piece = prop_oneof![6 => request, 1 => garbage];
    prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

/// Limits small enough for values of the streams to be above them.
const SMALL: ParseLimits = ParseLimits { item_size_max: 1024 };

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut input in prop::collection::vec(any::<u8>(), 0..200), is_binary: bool) {
        if let Some(first) = input.first_mut().filter(|_| is_binary) {
            *first = REQUEST_MAGIC;
        }
        let _: Parsed<'_> = parse_binary(&input, &LIMITS);
        let _: KeysAhead<'_> = keys_ahead(&input);
    }

    #[test]
    fn a_prefix_says_incomplete_or_the_same(input in streams(), cut: prop::sample::Index) {
        let whole = parse_binary(&input, &SMALL);
        let prefix = &input[..cut.index(input.len() + 1)];
        match parse_binary(prefix, &SMALL) {
            Parsed::IncompleteValue { needed } => {
                prop_assert!(needed > prefix.len());
                match whole {
                    // Nothing can be said before that many bytes are there.
                    Parsed::Request { consumed, .. } => prop_assert!(needed <= consumed),
                    Parsed::IncompleteValue { needed: later } => prop_assert!(needed <= later),
                    // Only no bytes at all leave that open.
                    other => prop_assert!(prefix.is_empty(), "{other:?}"),
                }
            }
            result => prop_assert_eq!(result, whole),
        }
    }

    #[test]
    fn parsing_goes_on_and_stays_within_the_input(input in streams()) {
        let mut rest = &input[..];
        loop {
            match parse_binary(rest, &SMALL) {
                Parsed::Request { request: Request::Binary(request), consumed, swallow_size } => {
                    prop_assert!((HEADER_SIZE..=rest.len()).contains(&consumed));
                    let key_size = usize::from(rest[2]) << 8 | usize::from(rest[3]);
                    let head_size = HEADER_SIZE + usize::from(rest[4]) + key_size;
                    prop_assert!(consumed <= head_size + SMALL.item_size_max, "nothing above -I is kept");
                    if matches!(request.command, Command::Refused { closes: true, .. } | Command::Quit) {
                        break;
                    }
                    rest = rest[consumed..].get(usize::try_from(swallow_size).expect("64 bits")..).unwrap_or_default();
                }
                Parsed::IncompleteValue { needed } => {
                    prop_assert!(needed > rest.len());
                    prop_assert!(needed <= HEADER_SIZE + 255 + 65_535 + SMALL.item_size_max, "nothing above -I is waited for");
                    break;
                }
                Parsed::Close => break,
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn answers_say_how_long_they_are(
        opcode: u8,
        flags: u32,
        cas: u64,
        key in prop::collection::vec(any::<u8>(), 1..=KEY_SIZE_MAX),
        value in prop::collection::vec(any::<u8>(), 0..300),
        number: u64,
    ) {
        let reply = BinaryReply { opcode, opaque: OPAQUE };
        let mut out = Vec::new();
        encode_value(&mut out, reply, &key, flags, cas, &value);
        encode_miss(&mut out, reply, &key);
        encode_status(&mut out, reply, Status::NotStored);
        encode_touched(&mut out, reply, flags, cas);
        encode_number(&mut out, reply, number, cas);
        encode_stat(&mut out, reply, "name", number);
        encode_empty(&mut out, reply);
        let mut rest = &out[..];
        while !rest.is_empty() {
            prop_assert_eq!(rest[..2].to_vec(), vec![RESPONSE_MAGIC, opcode]);
            prop_assert_eq!(&rest[12..16], &OPAQUE);
            let body_size = rest[8..12].iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
            let key_size = usize::from(rest[2]) << 8 | usize::from(rest[3]);
            prop_assert!(key_size + usize::from(rest[4]) <= body_size);
            rest = rest.get(HEADER_SIZE + body_size..).expect("the body is there");
        }
    }
}

#[test]
fn a_glance_sees_the_keys_of_a_pipeline() {
    let found = |input: &[u8]| keys_ahead(input).keys().iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    let requests = [
        packet(0x0d, b"", b"a", b""),
        packet(0x11, STORING, b"b\0", b"value"),
        packet(0x24, &[0; 4], b"c", b""),
        packet(0x04, b"", b"d", b""),
    ]
    .concat();
    let keys = [&b"a"[..], b"b\0", b"c", b"d"];
    assert_eq!(found(&requests), keys);
    for (end, is_seen) in [
        (packet(0x10, b"", b"items", b""), false),
        (packet(0x0a, b"", b"", b""), false),
        (packet(0x00, b"", &[b'k'; KEY_SIZE_MAX + 1], b""), false),
        (header(0x00, 0, 3, 2), false),
        (b"get k\r\n".to_vec(), true),
    ] {
        let input = [&requests[..], &end, &packet(0x00, b"", b"e", b"")].concat();
        assert_eq!(found(&input).len(), if is_seen { keys.len() + 2 } else { keys.len() }, "{}", end.escape_ascii());
    }
    let cut_off = packet(0x00, b"", b"key", b"");
    assert!((0..cut_off.len()).all(|size| found(&cut_off[..size]).is_empty()));
}

#[test]
fn the_largest_answer_fits_its_header() {
    let mut out = Vec::new();
    let reply = BinaryReply { opcode: 0x0c, opaque: OPAQUE };
    encode_value_header(&mut out, reply, &[b'k'; KEY_SIZE_MAX], 0, 0, ITEM_SIZE_MAX);
    let body_size = ITEM_SIZE_MAX + KEY_SIZE_MAX + 4;
    assert_eq!(out[8..12].iter().fold(0, |size, byte| size << 8 | usize::from(*byte)), body_size);
}
