//! Time as records know it: whole unix seconds in 32 bits, good until 2106.

/// Unix seconds. 0 as an expiry means "never".
pub type Seconds = u32;

/// How a clock is to be changed, so that a test need not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockChange {
    /// It stands still.
    Pause,
    /// It goes on, where it would be had it not stood still.
    Resume,
    /// It is put forward by so many seconds, or back.
    Shift(i64),
}

/// Whether a record that expires at `expiry` (0 = never) is gone at `now`. memcached: an item is gone from the second
/// on that it names.
#[must_use]
pub const fn is_expired(expiry: Seconds, now: Seconds) -> bool {
    expiry != 0 && expiry <= now
}

/// The wall clock in unix seconds.
#[must_use]
pub fn wall_seconds() -> Seconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).unwrap_or(Seconds::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_gone_from_its_second_on() {
        assert!(!is_expired(0, Seconds::MAX));
        assert!(!is_expired(100, 99));
        assert!(is_expired(100, 100));
        assert!(is_expired(100, 101));
    }
}
