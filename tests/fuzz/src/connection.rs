//! A connection whose stream arrives in pieces, next to one whose stream arrives at once.

use std::fmt::Write;

use dmacached::limits::{COMMAND_LINE_SIZE_MAX, INPUT_SIZE, KIB, MULTIGET_LINE_SIZE_MAX};
use dmacached::protocol::{Binding, ParseLimits, Request};
use dmacached::server::connection::{Input, Parser, Step};

use crate::requests::limits;

/// Bytes before the stream.
pub const HEADER_SIZE: usize = 8;
/// A packet up to its value: a header, 255 bytes of extras, 65,535 of the key.
const PACKET_HEAD_SIZE_MAX: usize = 24 + 255 + 65_535;

/// Who connects, and how.
#[derive(Clone, Copy, Debug)]
struct Setting {
    binding: Binding,
    is_locked: bool,
    limits: ParseLimits,
    /// A get is paused after so many keys, and others have their turn.
    keys_at_once: usize,
    /// What comes after a pause has to wait until the next piece has arrived.
    waits: bool,
}

/// A connection whose requests are written down instead of executed.
struct Transcript {
    setting: Setting,
    input: Input,
    parser: Parser,
    text: String,
    is_closed: bool,
    /// A get was paused.
    is_waiting: bool,
    /// Most bytes that the input held since it was last empty.
    input_size_max: usize,
}

/// Runs a stream behind [`HEADER_SIZE`] bytes that say who connects and where the stream is cut.
///
/// # Panics
/// When it matters how the stream is cut, or the connection takes too much memory.
pub fn check(bytes: &[u8]) {
    let Some((header, stream)) = bytes.split_first_chunk::<HEADER_SIZE>() else { return };
    let [who, keys, item_size, sizes @ ..] = *header;
    let setting = Setting {
        binding: [Binding::Auto, Binding::Ascii, Binding::Binary, Binding::Auto][usize::from(who % 4)],
        is_locked: who & 4 != 0,
        limits: limits(item_size),
        keys_at_once: usize::MAX,
        waits: false,
    };
    let cut = Setting { keys_at_once: usize::from(keys % 64) + 1, waits: who & 8 != 0, ..setting };
    let whole = outcome(stream, &[usize::MAX], setting);
    assert_eq!(outcome(stream, &sizes.map(piece_size), cut), whole, "cuts change something: {cut:?} {sizes:?}");
    if stream.len() <= 256 {
        assert_eq!(outcome(stream, &[1], setting), whole, "byte by byte it is another");
    }
}

/// Small pieces most of all.
fn piece_size(byte: u8) -> usize {
    if byte < 192 { usize::from(byte) + 1 } else { (usize::from(byte) - 191) * 128 }
}

/// What a connection makes of a stream that arrives in pieces of the given sizes, over and over.
fn outcome(stream: &[u8], sizes: &[usize], setting: Setting) -> (String, bool) {
    let mut transcript = Transcript::new(setting);
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() && !transcript.is_closed {
        let size = sizes.next().map_or(rest.len(), |size| *size).min(rest.len());
        let (piece, behind) = rest.split_at(size);
        transcript.receive(piece);
        rest = behind;
    }
    transcript.go_on();
    if transcript.is_closed {
        assert_eq!(transcript.parser.step(b"version\r\n", &setting.limits), Step::Close, "it opens again");
    }
    (transcript.text, transcript.is_closed)
}

impl Transcript {
    fn new(setting: Setting) -> Self {
        Self {
            setting,
            input: Input::default(),
            parser: Parser::new(setting.binding, setting.is_locked),
            text: String::new(),
            is_closed: false,
            is_waiting: false,
            input_size_max: 0,
        }
    }

    /// Takes a piece as the server does: parsed where it lies unless something is left from before, and not at all before
    /// what waits has had its turn.
    fn receive(&mut self, piece: &[u8]) {
        if self.input.is_empty() && !self.is_waiting {
            let consumed = self.run(Some(piece));
            self.append(&piece[consumed..]);
        } else {
            self.append(piece);
            let consumed = self.run(None);
            self.input.consume(consumed);
        }
        if !self.setting.waits {
            self.go_on();
        }
        self.check_memory();
    }

    /// Lets what waits have its turns.
    fn go_on(&mut self) {
        while self.is_waiting && !self.is_closed {
            let consumed = self.run(None);
            self.input.consume(consumed);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.input.is_empty() {
            self.input_size_max = 0;
        }
        self.input.append(bytes);
        self.input_size_max = self.input_size_max.max(self.input.unparsed().len());
    }

    /// Memory follows what was sent of the request under way, and that is no larger than a request may be.
    fn check_memory(&self) {
        let capacity = self.input.capacity();
        assert!(capacity <= 4 * self.input_size_max + INPUT_SIZE, "{capacity} for {}", self.input_size_max);
        if self.is_waiting || self.is_closed {
            return;
        }
        let (left, needed) = (self.input.unparsed(), self.parser.needed_size());
        assert!(needed <= self.setting.limits.item_size_max + PACKET_HEAD_SIZE_MAX + COMMAND_LINE_SIZE_MAX + KIB);
        let is_multiget = left.trim_ascii_start().starts_with(b"get");
        let line_size_max = if is_multiget { MULTIGET_LINE_SIZE_MAX } else { COMMAND_LINE_SIZE_MAX };
        assert!(left.len() < needed.max(line_size_max + 2), "{} bytes are kept that could be parsed", left.len());
    }

    /// Parses until there is nothing more to do for now; returns how many bytes are done with.
    fn run(&mut self, direct: Option<&[u8]>) -> usize {
        let Self { setting, input, parser, text, is_closed, is_waiting, .. } = self;
        let bytes = direct.unwrap_or_else(|| input.unparsed());
        *is_waiting = false;
        let mut position = 0;
        loop {
            let unparsed = &bytes[position..];
            let (consumed, swallow_size) = match parser.step(unparsed, &setting.limits) {
                Step::NeedInput => return position,
                Step::Close => {
                    *is_closed = true;
                    return bytes.len();
                }
                Step::Drop(size) => {
                    assert!((1..=unparsed.len()).contains(&size));
                    position += size;
                    continue;
                }
                Step::Credentials { user, password, consumed } => {
                    note(text, format_args!("{} {}", user.escape_ascii(), password.escape_ascii()));
                    if user == b"user" {
                        parser.unlock();
                    }
                    (consumed, 0)
                }
                Step::Locked { answer, consumed } => {
                    note(text, format_args!("{}", answer.escape_ascii()));
                    (consumed, 0)
                }
                Step::Refused { error, noreply, consumed, swallow_size } => {
                    note(text, format_args!("{error:?} {noreply} {swallow_size}"));
                    (consumed, swallow_size)
                }
                Step::Request { request: Request::Get { mut keys, with_cas, touch }, consumed, swallow_size } => {
                    for key in keys.by_ref().take(setting.keys_at_once) {
                        note(text, format_args!("get {} {with_cas} {touch:?}", key.escape_ascii()));
                    }
                    if keys.clone().next().is_some() {
                        let done = keys.rest().as_ptr().addr() - unparsed.as_ptr().addr();
                        parser.paused(with_cas, touch, consumed - done);
                        *is_waiting = true;
                        return position + done;
                    }
                    note(text, format_args!("end"));
                    (consumed, swallow_size)
                }
                Step::Request { request, consumed, swallow_size } => {
                    note(text, format_args!("{request:?} {swallow_size}"));
                    (consumed, swallow_size)
                }
            };
            // What says that it closes may take a connection's bytes, of which there may be none.
            assert!(consumed <= unparsed.len() && consumed > 0);
            position += consumed;
            parser.executed(swallow_size);
        }
    }
}

fn note(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing to a String does not fail");
}
