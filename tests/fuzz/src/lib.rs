//! Targets for fuzzing: what the program reads that others have written, and the index.
//!
//! libFuzzer grows inputs by what they reach (`fuzz_targets`, for a nightly toolchain); the program `replay` runs files of
//! them and pseudo-random ones with any toolchain. Both do the same with the same bytes.
//!
//! | target | what its bytes are | what is checked |
//! |---|---|---|
//! | `index` | a layout, a budget, and steps of equal size ([`input`]) | the index is like a map ([`checked`]) |
//! | `text` | a size of items, and requests in text, meta commands too | the parser ([`requests`]) and encoders of answers |
//! | `binary` | the same in packets | the same ([`packets`]) |
//! | `credentials` | what a client says who has to say who it is | the parser |
//! | `connection` | who connects, where the stream is cut, and the stream | cuts change nothing ([`connection`]) |
//! | `record` | a place, and bytes in it | what is read is what was written ([`stored`]) |
//! | `page` | a place, and a page | the same |
//!
//! The files of `corpus` are seeds, where a fuzzer begins: those of the index are made by hand, with names that say what they
//! reach; the others are what clients send, and are written by the program `seeds` ([`traffic`]), beside some that have
//! failed.

pub mod checked;
pub mod connection;
pub mod input;
pub mod packets;
pub mod requests;
pub mod stored;
pub mod traffic;

use checked::Checked;
use input::{HEADER_SIZE, Input, Layout, STEP_SIZE, random};

/// Most steps of a pseudo-random input of the index.
const STEP_COUNT_MAX: u64 = 150;

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the binary and of the directories of its corpus and its artifacts.
    pub name: &'static str,
    /// Runs an input to its end; panics when something is wrong.
    pub check: fn(&[u8]),
    /// The pseudo-random input with a number.
    pub random: fn(u64) -> Vec<u8>,
    /// An input as somebody can read it.
    pub describe: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "index", check: check_index, random: random_index, describe: describe_index },
    Target { name: "text", check: requests::check_text, random: traffic::random_text, describe: escaped },
    Target { name: "binary", check: requests::check_binary, random: traffic::random_binary, describe: escaped },
    Target {
        name: "credentials",
        check: requests::check_credentials,
        random: traffic::random_credentials,
        describe: escaped,
    },
    Target { name: "connection", check: connection::check, random: traffic::random_connection, describe: escaped },
    Target { name: "record", check: stored::check_record, random: traffic::random_record, describe: escaped },
    Target { name: "page", check: stored::check_page, random: traffic::random_page, describe: escaped },
];

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Runs steps on an index to their end.
///
/// # Panics
/// When the index does not do what a map does, or one of its invariants does not hold.
pub fn check_index(bytes: &[u8]) {
    let Some(input) = Input::decode(bytes) else { return };
    match input.layout {
        Layout::Full => Checked::<28, 1792, 512>::new(&input).run(&input),
        Layout::Dense => Checked::<19, 1216, 576>::new(&input).run(&input),
        Layout::Small => Checked::<28, 56, 384>::new(&input).run(&input),
        Layout::Tiny => Checked::<19, 76, 348>::new(&input).run(&input),
    }
}

fn describe_index(bytes: &[u8]) -> String {
    let Some(input) = Input::decode(bytes) else { return "nothing".to_owned() };
    let mut text = format!("{:?} {:?} {:?} {}", input.layout, input.budget, input.spread, input.table_size);
    for step in input.steps {
        text += &format!("\n{:?} key {} count {} value {}", step.action, step.key, step.count, step.value);
    }
    text
}

fn random_index(number: u64) -> Vec<u8> {
    let mut state = number;
    let size = HEADER_SIZE + (random(&mut state) % (STEP_COUNT_MAX + 1)) as usize * STEP_SIZE;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random(&mut state).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
