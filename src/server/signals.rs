//! SIGTERM and SIGINT: the first asks for an orderly end, the second one ends at once.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// Exit status after a second signal.
pub const EXIT_AT_ONCE: i32 = 130;

/// The signals that end the server, from now on caught.
pub struct StopSignals {
    signals: Signals,
}

impl StopSignals {
    /// Catches them. The second one ends the process with [`EXIT_AT_ONCE`], whatever it is doing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal passes by the one that ends, and sets what lets the next one through.
            flag::register_conditional_shutdown(signal, EXIT_AT_ONCE, Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
        }
        Ok(Self { signals: Signals::new([SIGTERM, SIGINT])? })
    }

    /// Blocks the calling thread until the first signal, and returns its number.
    pub fn wait(mut self) -> i32 {
        self.signals.forever().next().unwrap_or(SIGTERM)
    }
}
