//! What the tests share: servers, clients, values and waiting.

mod client;
pub(crate) mod damage;
mod duplex;
mod process;
mod server;

pub(crate) use client::Client;
pub(crate) use process::{Finished, Process, as_root, can_run, skip};
pub(crate) use server::{PROGRAM, Reference, Server, Store, free_port, scratch_directory};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::{Duration, Instant};

/// How long anything may take that has to happen at all; a loaded machine reaches a tenth of it at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it gives a value; panics with `what` when that takes longer than [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets this process open `count` files, as many connections at once need; false when its hard limit does not.
pub(crate) fn may_open_files(count: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    if hard >= count {
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(count), hard).expect("the soft limit may rise up to the hard one");
    }
    hard >= count
}

/// A value of `size` bytes that is told by its key: every byte differs from that of most other keys and positions.
pub(crate) fn value_of(key: &str, size: usize) -> Vec<u8> {
    let mut state = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut value = Vec::with_capacity(size + 8);
    while value.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(size);
    value
}

/// Bytes as text, shortened, for messages.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(300)];
    let dots = if bytes.len() > head.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{dots}", head.escape_ascii())
}
