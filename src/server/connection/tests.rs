use proptest::prelude::*;

use super::*;
use crate::limits::{COMMAND_LINE_SIZE_MAX, MIB, MULTIGET_LINE_SIZE_MAX};

const LIMITS: ParseLimits = ParseLimits { item_size_max: MIB };

/// A connection whose requests are written down instead of executed.
#[derive(Default)]
struct Transcript {
    input: Input,
    parser: Parser,
    text: String,
    is_closed: bool,
    /// A get is paused after so many keys.
    keys_at_once: Option<usize>,
}

impl Transcript {
    /// Takes a piece as the server does: parsed where it lies unless something is left from before.
    fn receive(&mut self, piece: &[u8]) {
        if self.input.is_empty() {
            let consumed = self.run(Some(piece));
            self.input.append(&piece[consumed..]);
        } else {
            self.input.append(piece);
            let consumed = self.run(None);
            self.input.consume(consumed);
        }
    }

    fn run(&mut self, direct: Option<&[u8]>) -> usize {
        let bytes = direct.unwrap_or_else(|| self.input.unparsed());
        let mut position = 0;
        loop {
            let unparsed = &bytes[position..];
            let (consumed, swallow_size) = match self.parser.step(unparsed, &LIMITS) {
                Step::NeedInput => return position,
                Step::Close => {
                    self.is_closed = true;
                    return bytes.len();
                }
                Step::Drop(size) => {
                    position += size;
                    continue;
                }
                Step::Credentials { user, password, consumed } => {
                    if user == b"user" && password == b"right" {
                        self.parser.unlock();
                    }
                    self.text.push_str("credentials\n");
                    (consumed, 0)
                }
                Step::Locked { answer, consumed } => {
                    self.text.push_str(&String::from_utf8_lossy(answer));
                    (consumed, 0)
                }
                Step::Refused { error, noreply, consumed, swallow_size } => {
                    if !noreply {
                        self.text.push_str(&String::from_utf8_lossy(error.answer()));
                    }
                    (consumed, swallow_size)
                }
                Step::Request { request: Request::Get { mut keys, with_cas, touch }, consumed, .. } => {
                    let count = self.keys_at_once.unwrap_or(usize::MAX);
                    for key in keys.by_ref().take(count) {
                        self.text.push_str(&format!("get {} {with_cas}\n", String::from_utf8_lossy(key)));
                    }
                    if keys.clone().next().is_some() {
                        let done = keys.rest().as_ptr().addr() - unparsed.as_ptr().addr();
                        self.parser.paused(with_cas, touch, consumed - done);
                        position += done;
                        continue;
                    }
                    self.text.push_str("end\n");
                    (consumed, 0)
                }
                Step::Request { request, consumed, swallow_size } => {
                    self.text.push_str(&format!("{request:?}\n"));
                    (consumed, swallow_size)
                }
            };
            position += consumed;
            self.parser.executed(swallow_size);
        }
    }
}

/// What a connection makes of a stream that arrives in pieces of the given sizes, the last one repeated.
fn outcome(stream: &[u8], piece_sizes: &[usize], keys_at_once: Option<usize>) -> (String, bool) {
    let mut transcript = Transcript { keys_at_once, ..Transcript::default() };
    let mut sizes = piece_sizes.iter();
    let mut size = stream.len().max(1);
    let mut rest = stream;
    while !rest.is_empty() && !transcript.is_closed {
        size = sizes.next().copied().unwrap_or(size);
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        transcript.receive(piece);
        rest = behind;
    }
    (transcript.text, transcript.is_closed)
}

/// Requests and answers of a stream that arrives at once.
fn transcript(stream: &[u8]) -> String {
    outcome(stream, &[], None).0
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
    let mut transcript = Transcript::default();
    transcript.receive(b"set k 0 0 100000000\r\n");
    let piece = vec![b'x'; 8000];
    for _ in 0..100_000_000 / piece.len() {
        transcript.receive(&piece);
        assert_eq!(transcript.input.capacity(), 0);
    }
    transcript.receive(b"\r\nversion\r\n");
    assert_eq!(transcript.text, "TooLarge { verb: Set, key: [107], noreply: false }\nVersion\n");
}

#[test]
fn memory_follows_the_bytes_received_not_the_size_announced() {
    let mut transcript = Transcript::default();
    assert_eq!(transcript.input.capacity(), 0, "a connection that says nothing costs nothing");
    transcript.receive(b"set k 0 0 1000000\r\n");
    for received in (1..=125).map(|count| count * 8000) {
        transcript.receive(&[b'x'; 8000]);
        assert!(transcript.input.capacity() <= 2 * received + INPUT_SIZE, "after {received} bytes");
    }
    assert_eq!(transcript.text, "");
    transcript.receive(b"\r\n");
    assert!(transcript.text.starts_with("Store("));
    assert!(transcript.input.capacity() <= INPUT_SIZE, "small again");
}

#[test]
fn what_is_left_behind_again_and_again_takes_no_memory() {
    let mut transcript = Transcript::default();
    for left_behind in 1..2000 {
        let line = format!("get {}\r\n", "k".repeat(left_behind % 200 + 1));
        transcript.receive(line.as_bytes());
        transcript.receive(b"get ");
        transcript.receive(b"k\r\nget");
        transcript.receive(b" k\r\n");
        transcript.text.clear();
        assert!(transcript.input.capacity() <= INPUT_SIZE);
    }
}

#[test]
fn a_long_get_line_arrives_in_pieces_and_is_executed_in_pieces() {
    let mut line = b"get".to_vec();
    while line.len() < MULTIGET_LINE_SIZE_MAX - 10 {
        line.extend_from_slice(b" key:1234");
    }
    line.extend_from_slice(b"\r\n");
    let whole = outcome(&line, &[], None);
    assert_eq!(whole.0.lines().count(), line.len() / 9 + 1);
    assert!(outcome(&line, &[1460], Some(1000)) == whole);
    let mut transcript = Transcript::default();
    transcript.receive(&line);
    assert_eq!(transcript.input.capacity(), 0);
}

#[test]
fn a_paused_get_keeps_its_keys_as_they_are() {
    for stream in [&b"get a b\t\r\nversion\r\n"[..], b"gets a b\r\r\n", b"get a b\x0c  \n", b"get a b\n"] {
        assert_eq!(outcome(stream, &[], Some(1)), outcome(stream, &[], None));
    }
}

#[test]
fn the_first_byte_chooses_the_protocol() {
    let noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
    let refused_in_text = |text: String| text.starts_with("ERROR\r\n");
    for cut in [&[][..], &[1], &[1, 5, 3], &[24]] {
        let (text, is_closed) = outcome(&noop.repeat(3), cut, None);
        assert_eq!((text.matches("Noop").count(), is_closed), (3, false), "{text}");
        let (text, is_closed) = outcome(&[&noop[..], b"version\r\n"].concat(), cut, None);
        assert_eq!((text.matches("Noop").count(), is_closed), (1, true), "no text behind packets: {text}");
        let (text, is_closed) = outcome(&[b"version\r\n", &noop[..], b"\n"].concat(), cut, None);
        assert!(text.starts_with("Version\n") && !is_closed, "no packets behind text: {text}");
        assert!(refused_in_text(text.replacen("Version\n", "", 1)));
    }
    for (binding, is_binary) in [(Binding::Ascii, false), (Binding::Binary, true)] {
        let mut transcript = Transcript { parser: Parser::new(binding, false), ..Transcript::default() };
        transcript.receive(&noop);
        transcript.receive(b"\n");
        assert_eq!(transcript.text.contains("Noop"), is_binary);
        assert_eq!(refused_in_text(transcript.text), !is_binary);
    }
}

#[test]
fn a_locked_connection_says_first_who_it_is() {
    let stream = b"get a\r\nset x 0 0 10\r\nuser wrong\r\nset x 0 0 10\r\nuser right\r\nversion\r\n";
    for size in 1..stream.len() {
        let mut transcript = Transcript { parser: Parser::new(Binding::Auto, true), ..Transcript::default() };
        stream.chunks(size).for_each(|piece| transcript.receive(piece));
        assert_eq!(transcript.text, "CLIENT_ERROR unauthenticated\r\ncredentials\ncredentials\nVersion\n", "{size}");
    }
    let mut transcript = Transcript { parser: Parser::new(Binding::Auto, true), ..Transcript::default() };
    transcript.receive(b"set x 0 0 100000\r\n");
    assert!(transcript.is_closed);
    assert_eq!(transcript.text, "CLIENT_ERROR auth token too long\r\n");
}

#[test]
fn closing_is_final() {
    for stream in [&b"GET / HTTP/1.1\r\nversion\r\n"[..], &[b'x'; COMMAND_LINE_SIZE_MAX + 1]] {
        let mut transcript = Transcript::default();
        transcript.receive(b"nonsense\r\n");
        transcript.receive(stream);
        assert!(transcript.is_closed);
        transcript.receive(b"\r\nversion\r\n");
        assert_eq!(transcript.text, "ERROR\r\n", "what came before is still answered");
    }
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
        keys_at_once in 1..5000usize,
    ) {
        let stream = fragments.concat();
        let mut sizes = small;
        sizes.push(last);
        prop_assert_eq!(outcome(&stream, &sizes, Some(keys_at_once)), outcome(&stream, &[], None));
    }
}

#[test]
fn every_single_cut_of_a_conversation_changes_nothing() {
    let stream = b"set a 0 0 5\r\nhello\r\nget a\r\n\r\n\
        set b x 0 4\r\n\r\n\r\n\r\ncas a 1 2 3 4\r\nab\r\nabc\r\ndelete a\nversion\r\n";
    let whole = outcome(stream, &[], None);
    assert_eq!(whole.0.lines().count(), 9, "{}", whole.0);
    for first in 1..stream.len() {
        assert_eq!(outcome(stream, &[first, stream.len()], Some(1)), whole, "cut at {first}");
    }
    assert_eq!(outcome(stream, &[1], None), whole, "byte by byte");
}
