//! When a record expires, from the number that a client wrote.

use crate::limits::RELATIVE_EXPIRY_SECONDS_MAX;

/// When a record expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It does not.
    Never,
    /// When the clock reaches this unix second; later than the `now` it was computed with, and never 0.
    At(u32),
    /// It is expired already.
    Immediately,
}

/// memcached's rule for exptimes: 0 is never, a negative number is at once, up to 30 days count from `now` (unix
/// seconds), and larger numbers are unix seconds themselves, which may have passed. A time beyond what 32 bits hold
/// (the year 2106) becomes the last one they hold.
#[must_use]
pub fn absolute_expiry(exptime: i64, now: u32) -> Expiry {
    let second = match exptime {
        0 => return Expiry::Never,
        i64::MIN..0 => return Expiry::Immediately,
        1..=RELATIVE_EXPIRY_SECONDS_MAX => i64::from(now) + exptime,
        _ => exptime,
    };
    if second <= i64::from(now) {
        return Expiry::Immediately;
    }
    Expiry::At(u32::try_from(second).unwrap_or(u32::MAX))
}
