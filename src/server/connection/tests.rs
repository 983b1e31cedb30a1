use proptest::prelude::*;

use super::*;
use crate::limits::{COMMAND_LINE_SIZE_MAX, MIB, MULTIGET_LINE_SIZE_MAX};
use crate::protocol::StoreVerb;

const LIMITS: ParseLimits = ParseLimits { item_size_max: MIB };

/// Executes what is there, as text: one line for each request, with the answers to refused requests between them.
fn drain(connection: &mut Connection) -> bool {
    loop {
        let line = match connection.input.step(&mut connection.output) {
            Step::Request(request) => format!("{request:?}\n"),
            Step::NeedInput => return false,
            Step::Close => return true,
        };
        connection.output.buffer().extend_from_slice(line.as_bytes());
    }
}

/// What a connection makes of a stream that arrives in pieces of the given sizes, the last one repeated.
fn outcome(stream: &[u8], piece_sizes: &[usize]) -> (String, bool) {
    let mut connection = Connection::new(LIMITS);
    let mut sizes = piece_sizes.iter();
    let mut size = stream.len().max(1);
    let mut rest = stream;
    let mut is_closed = false;
    while !rest.is_empty() && !is_closed {
        size = sizes.next().copied().unwrap_or(size);
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        connection.input.receive(piece);
        is_closed = drain(&mut connection);
        rest = behind;
    }
    (String::from_utf8_lossy(connection.output.pending()).into_owned(), is_closed)
}

/// Requests and answers of a stream that arrives at once.
fn transcript(stream: &[u8]) -> String {
    outcome(stream, &[]).0
}

#[test]
fn requests_come_out_in_order_between_the_answers_to_refused_ones() {
    let text = transcript(b"version\r\nnonsense\r\nquit\r\nset k x 0 3\r\nabc\r\nversion\r\n");
    assert_eq!(text, "Version\nERROR\r\nQuit\nCLIENT_ERROR bad command line format\r\nVersion\n");
}

#[test]
fn noreply_silences_refusals() {
    assert_eq!(transcript(b"set k x 0 3 noreply\r\nabc\r\nincr k x noreply\r\nversion\r\n"), "Version\n");
}

#[test]
fn the_bytes_of_a_refused_value_are_never_commands() {
    assert_eq!(
        transcript(b"set k x 0 11\r\nflush_all\r\n\r\nversion\r\n"),
        "CLIENT_ERROR bad command line format\r\nVersion\n"
    );
}

#[test]
fn a_size_that_is_none_leaves_the_value_to_be_parsed() {
    assert_eq!(
        transcript(b"set k 0 0 -1\r\nversion\r\n"),
        "CLIENT_ERROR bad command line format\r\nVersion\n",
        "as memcached has it"
    );
}

#[test]
fn a_value_too_large_is_swallowed_in_pieces_without_being_kept() {
    let mut connection = Connection::new(LIMITS);
    connection.input.receive(b"set k 0 0 100000000\r\n");
    let step = connection.input.step(&mut connection.output);
    assert_eq!(step, Step::Request(Request::TooLarge { verb: StoreVerb::Set, key: b"k", noreply: false }));
    let mut left = 100_000_000;
    while left > 0 {
        assert_eq!(connection.input.step(&mut connection.output), Step::NeedInput);
        assert!(connection.input.is_inside_request());
        let size = connection.input.space().len().min(left);
        connection.input.received(size);
        left -= size;
    }
    assert!(connection.input.capacity() <= INPUT_SIZE);
    connection.input.receive(b"\r\nversion\r\n");
    assert_eq!(connection.input.step(&mut connection.output), Step::Request(Request::Version));
    assert!(!connection.input.is_inside_request());
}

#[test]
fn memory_follows_the_bytes_received_not_the_size_announced() {
    let mut connection = Connection::new(LIMITS);
    assert_eq!(connection.input.capacity(), 0, "a connection that says nothing costs nothing");
    let line = b"set k 0 0 1000000\r\n";
    connection.input.receive(line);
    let mut received = line.len();
    let mut space_count = 0;
    while received < line.len() + 1_000_000 + 2 {
        assert_eq!(connection.input.step(&mut connection.output), Step::NeedInput);
        let left = line.len() + 1_000_000 + 2 - received;
        let space = connection.input.space();
        let size = space.len().min(left);
        space[..size].fill(b'x');
        if size == left {
            space[size - 2..size].copy_from_slice(b"\r\n");
        }
        connection.input.received(size);
        assert!(connection.input.capacity() <= (GROWTH_FACTOR * received).max(INPUT_SIZE), "after {received} bytes");
        received += size;
        space_count += 1;
    }
    assert!(space_count < 20, "{space_count} reads for 1 MB");
    let Step::Request(Request::Store(store)) = connection.input.step(&mut connection.output) else { panic!() };
    assert_eq!(store.value.len(), 1_000_000);
    assert!(store.value.iter().all(|&byte| byte == b'x'));
    assert_eq!(connection.input.step(&mut connection.output), Step::NeedInput);
    assert!(connection.input.capacity() <= INPUT_SIZE, "small again");
}

#[test]
fn space_is_never_too_small_for_a_read_of_some_use() {
    // Each round leaves a few bytes of a request behind, ever closer to the end of the buffer.
    let mut connection = Connection::new(LIMITS);
    for left_behind in 1..2000 {
        let line = format!("get {}\r\n", "k".repeat(left_behind % 200 + 1));
        connection.input.receive(line.as_bytes());
        connection.input.receive(b"get ");
        drain(&mut connection);
        connection.output.clear();
        assert!(connection.input.space().len() >= SPACE_SIZE_MIN);
        connection.input.receive(b"k\r\n");
        drain(&mut connection);
    }
    assert!(connection.input.capacity() <= INPUT_SIZE);
}

#[test]
fn a_long_get_line_arrives_in_pieces_and_is_parsed_once_whole() {
    let mut line = b"get".to_vec();
    while line.len() < MULTIGET_LINE_SIZE_MAX - 10 {
        line.extend_from_slice(b" key:1234");
    }
    line.extend_from_slice(b"\r\n");
    let mut connection = Connection::new(LIMITS);
    for piece in line.chunks(1460) {
        assert_eq!(connection.input.step(&mut connection.output), Step::NeedInput);
        connection.input.receive(piece);
    }
    let Step::Request(Request::Get { keys, .. }) = connection.input.step(&mut connection.output) else { panic!() };
    assert_eq!(keys.count(), line.len() / 9);
    assert!(connection.input.capacity() <= GROWTH_FACTOR * MULTIGET_LINE_SIZE_MAX);
}

#[test]
fn closing_is_final() {
    for stream in [&b"GET / HTTP/1.1\r\nversion\r\n"[..], &[b'x'; COMMAND_LINE_SIZE_MAX + 1], b"\x80\x0b"] {
        let mut connection = Connection::new(LIMITS);
        connection.input.receive(b"nonsense\r\n");
        connection.input.receive(stream);
        assert_eq!(connection.input.step(&mut connection.output), Step::Close);
        connection.input.receive(b"\r\nversion\r\n");
        assert_eq!(connection.input.step(&mut connection.output), Step::Close);
        assert_eq!(connection.output.pending(), b"ERROR\r\n", "what came before is still answered");
    }
}

#[test]
fn output_is_sent_in_pieces() {
    let mut output = Output::default();
    assert!(output.is_empty());
    output.buffer().extend_from_slice(b"STORED\r\n");
    output.sent(3);
    assert_eq!(output.pending(), b"RED\r\n");
    output.buffer().extend_from_slice(b"END\r\n");
    output.sent(5);
    assert_eq!(output.pending(), b"END\r\n");
    output.sent(5);
    assert!(output.is_empty());
}

#[test]
fn output_keeps_little_memory_once_quiet() {
    let mut output = Output::default();
    output.buffer().resize(OUTPUT_SIZE_HIGH - 1, 0);
    assert!(!output.is_full());
    output.buffer().push(0);
    assert!(output.is_full());
    output.buffer().resize(10 * MIB, 0);
    output.clear();
    assert!(!output.is_full());
    assert!(output.capacity() <= 2 * OUTPUT_SIZE_HIGH && output.capacity() >= OUTPUT_SIZE_HIGH);
    output.buffer().push(0);
    output.clear();
    assert!(output.capacity() <= INPUT_SIZE);
}

/// One request or something like it.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'v'), any::<u8>()], 0..300);
    let stored = (value, -2i64..3).prop_map(|(value, error)| {
        let mut request = format!("set key 0 0 {}\r\n", value.len() as i64 + error).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        request
    });
    let large = (0..40_000usize).prop_map(|size| {
        let mut request = format!("set key 0 0 {size}\r\n").into_bytes();
        request.resize(request.len() + size, b'L');
        request.extend_from_slice(b"\r\n");
        request
    });
    let keys = (0..9000usize).prop_map(|count| format!("gets{}\r\n", " k".repeat(count)).into_bytes());
    let lines = prop::sample::select(vec![
        &b"get a b\r\n"[..],
        b"delete a 0 noreply\r\n",
        b"set k 0 0 1048577\r\n",
        b"set k x 0 5\r\nabcde\r\n",
        b"incr n 1\nversion\r\n",
        b"\r\n",
        b"quit\r\n",
        b"stats items\r\n",
    ]);
    prop_oneof![
        4 => stored,
        1 => large,
        1 => keys,
        4 => lines.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..50),
        1 => (0..3000usize).prop_map(|size| vec![b'x'; size]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn cuts_change_nothing(
        fragments in prop::collection::vec(fragment(), 0..12),
        small in prop::collection::vec(1..40usize, 0..60),
        last in 1..20_000usize,
    ) {
        let stream = fragments.concat();
        let mut sizes = small;
        sizes.push(last);
        prop_assert_eq!(outcome(&stream, &sizes), outcome(&stream, &[]));
    }
}

#[test]
fn every_single_cut_of_a_conversation_changes_nothing() {
    let stream = b"set a 0 0 5\r\nhello\r\nget a\r\n\r\n\
        set b x 0 4\r\n\r\n\r\n\r\ncas a 1 2 3 4\r\nab\r\nabc\r\ndelete a\nversion\r\n";
    let whole = outcome(stream, &[]);
    assert_eq!(whole.0.lines().count(), 8, "{}", whole.0);
    for first in 1..stream.len() {
        assert_eq!(outcome(stream, &[first, stream.len()]), whole, "cut at {first}");
    }
    assert_eq!(outcome(stream, &[1]), whole, "byte by byte");
}
