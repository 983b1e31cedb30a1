//! Signals: SIGTERM, SIGINT and SIGUSR1 ask for an orderly end, and a second one ends at once; SIGHUP asks for files to be
//! read again.
//!
//! SIGPIPE is ignored: Rust's runtime sees to that before `main`.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals as Caught;

/// Exit status after a second signal.
pub const EXIT_AT_ONCE: i32 = 130;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An orderly end.
    Stop,
    /// The file of `-Y` read again.
    Reload,
}

/// The signals that somebody may send to the server, from now on caught.
pub struct Signals {
    caught: Caught,
}

impl Signals {
    /// Catches them. The second that wants an end ends the process with [`EXIT_AT_ONCE`], whatever it is doing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        let ending = [SIGTERM, SIGINT, SIGUSR1];
        for signal in ending {
            // In this order: the first signal passes by the one that ends, and sets what lets the next one through.
            flag::register_conditional_shutdown(signal, EXIT_AT_ONCE, Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
        }
        Ok(Self { caught: Caught::new(ending.iter().chain(&[SIGHUP]))? })
    }

    /// Blocks the calling thread until the next signal.
    pub fn wait(&mut self) -> Wish {
        match self.caught.forever().next() {
            Some(SIGHUP) => Wish::Reload,
            _ => Wish::Stop,
        }
    }
}
