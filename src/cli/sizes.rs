//! Sizes and durations as people write them.

use std::time::Duration;

/// Bytes: a number with an optional k, m, g or t (powers of 1024), in either case, as in memcached's `-I`; a trailing
/// `b` or `ib` is fine too.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|character: char| !character.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(digits_end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{unit:?} is no unit of size: use k, m, g or t")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size: use a number and k, m, g or t"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// `-m`: megabytes, or a size with a unit.
pub(super) fn parse_megabytes(text: &str) -> Result<usize, String> {
    let too_large = |_| format!("{text:?} is too large");
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| format!("{text:?} is too large"));
    }
    parse_size(text).and_then(|size| usize::try_from(size >> 20).map_err(too_large))
}

/// Permissions: an octal number.
pub(super) fn parse_octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|_| format!("{text:?} is no octal number"))
}

/// A duration: a number with ms, s, m, h or d; seconds without.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|character: char| !character.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(digits_end);
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is no duration: use a number and ms, s, m, h or d"))?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m, h or d")),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// A size for people: at most one digit behind the point.
pub(super) fn show_size(size: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if size >> shift > 0 {
            let tenths = ((size >> (shift - 10)) * 10) >> 10;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") };
        }
    }
    format!("{size} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        let good = [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1024),
            ("3M", 3 << 20),
            ("4G", 4 << 30),
            ("2tb", 2 << 40),
            ("1KiB", 1024),
        ];
        for (text, size) in good {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "k", "-1", "1.5g", "1x", "99999999999t", "1 2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn megabytes_need_no_unit() {
        for (text, megabytes) in [("64", 64), ("64m", 64), ("2g", 2048), ("0", 0), ("1023k", 0)] {
            assert_eq!(parse_megabytes(text), Ok(megabytes), "{text}");
        }
        for text in ["", "x", "-1", "99999999999999999999", "6 4"] {
            assert!(parse_megabytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, milliseconds) in
            [("1", 1000), ("1s", 1000), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1w", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        let shown = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 40, "5 TiB")];
        for (size, text) in shown {
            assert_eq!(show_size(size), text);
        }
    }
}
