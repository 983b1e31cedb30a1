use super::*;

const LIMITS: ParseLimits = ParseLimits { item_size_max: 1 << 20 };

#[test]
fn expiry_follows_the_thirty_day_rule() {
    const NOW: u32 = 1_700_000_000;
    const THIRTY_DAYS: i64 = 2_592_000;
    let cases = [
        (0, Expiry::Never),
        (-1, Expiry::Immediately),
        (i64::MIN, Expiry::Immediately),
        (1, Expiry::At(NOW + 1)),
        (THIRTY_DAYS, Expiry::At(NOW + 2_592_000)),
        (THIRTY_DAYS + 1, Expiry::Immediately),
        (i64::from(NOW) - 1, Expiry::Immediately),
        (i64::from(NOW), Expiry::Immediately),
        (i64::from(NOW) + 1, Expiry::At(NOW + 1)),
        (i64::from(u32::MAX), Expiry::At(u32::MAX)),
        (i64::from(u32::MAX) + 1, Expiry::At(u32::MAX)),
        (i64::MAX, Expiry::At(u32::MAX)),
    ];
    for (exptime, expected) in cases {
        assert_eq!(absolute_expiry(exptime, NOW), expected, "exptime {exptime}");
    }
    assert_eq!(absolute_expiry(THIRTY_DAYS, u32::MAX - 1), Expiry::At(u32::MAX), "the clock's last month");
}

#[test]
fn nothing_is_said_about_no_input() {
    assert_eq!(parse(b"", &LIMITS), Parsed::IncompleteLine);
}

#[test]
fn stored_numbers_may_be_padded() {
    for (value, expected) in [
        (&b"12"[..], Some(12)),
        (b"12   ", Some(12)),
        (b" \n12\r\na", Some(12)),
        (b"12\x003", Some(12)),
        (b"\x0012", None),
        (b"18446744073709551615", Some(u64::MAX)),
        (b"18446744073709551616", None),
        (b"", None),
        (b"   ", None),
        (b"a", None),
        (b"12a", None),
        (b"-1", None),
    ] {
        assert_eq!(stored_number(value), expected, "{}", value.escape_ascii());
    }
}
