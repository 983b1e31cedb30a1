//! The small languages of the command line's values. Each function says in a sentence what is wrong.

use std::path::PathBuf;
use std::time::Duration;

use crate::connection::Address;
use crate::workload::{KEY_DIGITS, STAMPED_SIZE_MIN, Values};

/// The longest key of the protocol, in bytes.
const KEY_SIZE_MAX: usize = 250;

/// The largest value that the client makes, in bytes.
const VALUE_SIZE_MAX: u64 = 128 << 20;

/// The CPUs that the client may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

/// A server of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What it is called in the tables.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: Address,
    /// Its process, if it is on this machine and its CPU time is to be compared.
    pub(crate) pid: Option<u32>,
}

/// Connections and requests in flight on each, such as `32x1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Connections.
    pub(crate) connection_count: u32,
    /// Requests in flight per connection.
    pub(crate) pipeline: u32,
}

/// A number of seconds such as `0.5`; at least zero, at most a year.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=366.0 * 86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds".to_owned()),
    }
}

/// As [`seconds`], but more than zero.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| if time.is_zero() { Err("it must be above zero".to_owned()) } else { Ok(time) })
}

/// A requests-per-second rate, above zero and at most 10^9.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err("not a rate above zero".to_owned()),
    }
}

/// A share from 0 to 1.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("not a share from 0 to 1".to_owned()),
    }
}

/// The share of gets in `GET:SET`, such as `10:1`.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let numbers =
        text.split_once(':').and_then(|(get, set)| Some((get.parse::<u32>().ok()?, set.parse::<u32>().ok()?)));
    match numbers {
        Some((get, set)) if get > 0 || set > 0 => Ok(f64::from(get) / (f64::from(get) + f64::from(set))),
        _ => Err("not two whole numbers like 10:1".to_owned()),
    }
}

/// A Zipf exponent, above 0 and at most 10.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn exponent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(exponent) if exponent > 0.0 && exponent <= 10.0 => Ok(exponent),
        _ => Err("not an exponent above 0".to_owned()),
    }
}

/// One size in bytes or a range of them: `100`, `64-1k`, `4k-1m`.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn value_sizes(text: &str) -> Result<Values, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (size_min, size_max) = (size(first)?, size(last)?);
    if size_min > size_max {
        return Err("the range is empty".to_owned());
    }
    Ok(Values { size_min, size_max })
}

/// The same, each large enough to carry a version.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn stamped_value_sizes(text: &str) -> Result<Values, String> {
    match value_sizes(text)? {
        Values { size_min, .. } if size_min < STAMPED_SIZE_MIN => {
            Err(format!("values below {STAMPED_SIZE_MIN} bytes do not tell their version"))
        }
        values => Ok(values),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1u64 << 10),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match size {
        Some(size) if size <= VALUE_SIZE_MAX => Ok(size as usize),
        _ => Err(format!("\"{text}\" is not a size of at most 128m")),
    }
}

/// A number of keys for an index such as `400k` or `50m`, thousands and millions; at least 1000, at most 10^9.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn index_key_count(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000u32),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let count = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    match count {
        Some(count @ 1_000..=1_000_000_000) => Ok(count),
        _ => Err("not a number from 1000 to 1000m".to_owned()),
    }
}

/// What keys begin with: printable ASCII without blanks, short enough for the digits that follow.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn key_prefix(text: &str) -> Result<String, String> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("keys hold printable ASCII without blanks".to_owned());
    }
    if text.len() + KEY_DIGITS > KEY_SIZE_MAX {
        return Err(format!("keys have at most {KEY_SIZE_MAX} bytes, {KEY_DIGITS} of them digits"));
    }
    Ok(text.to_owned())
}

/// A list of CPUs such as `1` or `0,2-3`.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn cpu_list(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let cpu = |text: &str| text.parse::<usize>().ok().filter(|&cpu| cpu < 1 << 16);
        match (cpu(first), cpu(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err(format!("\"{part}\" is not a CPU or a range of CPUs")),
        }
    }
    Ok(CpuList(cpus))
}

/// `CONNECTIONSxPIPELINE`, such as `32x1`.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn shape(text: &str) -> Result<Shape, String> {
    let numbers = text.split_once('x').and_then(|(left, right)| Some((left.parse().ok()?, right.parse().ok()?)));
    match numbers {
        Some((connection_count @ 1..=65_535, pipeline @ 1..=65_535)) => Ok(Shape { connection_count, pipeline }),
        _ => Err("not CONNECTIONSxPIPELINE like 32x1".to_owned()),
    }
}

/// `NAME=HOST:PORT` or `NAME=unix:PATH`, with `,PID` behind it if the server's CPU time is wanted.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let bad = || "not NAME=HOST:PORT,PID or NAME=unix:PATH,PID".to_owned();
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
    let (place, pid) = match rest.rsplit_once(',') {
        Some((place, pid)) => (place, Some(pid.parse().map_err(|_| bad())?)),
        None => (rest, None),
    };
    let address = match place.strip_prefix("unix:") {
        Some(path) => Address::Unix(PathBuf::from(path)),
        None => Address::Tcp(host_port(place)?),
    };
    Ok(Target { name: name.to_owned(), address, pid })
}

/// `HOST:PORT`.
///
/// # Errors
///
/// A sentence when it is none.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("not HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ranges() {
        let range = |text| value_sizes(text).map(|values| (values.size_min, values.size_max));
        assert_eq!(range("100"), Ok((100, 100)));
        assert_eq!(range("0-64"), Ok((0, 64)));
        assert_eq!(range("4k-1M"), Ok((4_096, 1_048_576)));
        assert!(stamped_value_sizes("15-40").is_err() && stamped_value_sizes("16-40").is_ok());
        for bad in ["", "-5", "5-", "9-8", "1g", "1.5k", "129m", "99999999999999999999", "k"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_counts_of_an_index() {
        assert_eq!(index_key_count("400k"), Ok(400_000));
        assert_eq!(index_key_count("50M"), Ok(50_000_000));
        assert_eq!(index_key_count("1000"), Ok(1_000));
        for bad in ["", "999", "1001m", "5000m", "5g", "0.5m", "k", "-1k"] {
            assert!(index_key_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_ratios() {
        assert_eq!(ratio("1:0"), Ok(1.0));
        assert_eq!(ratio("0:5"), Ok(0.0));
        assert!((ratio("10:1").expect("valid") - 10.0 / 11.0).abs() < 1e-12);
        for bad in ["0:0", "10", "-1:2", "a:b", "1:2:3"] {
            assert!(ratio(bad).is_err(), "{bad}");
        }
        assert_eq!(share("0.9"), Ok(0.9));
        assert!(share("1.1").is_err() && share("NaN").is_err() && share("-0.1").is_err());
        assert!(rate("0").is_err() && rate("inf").is_err() && rate("1e5").is_ok());
        assert!(exponent("0").is_err() && exponent("NaN").is_err() && exponent("1").is_ok());
    }

    #[test]
    fn times() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert!(seconds_above_zero("0").is_err());
        assert!(seconds("-1").is_err() && seconds("inf").is_err() && seconds("1e300").is_err());
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(cpu_list("0,2-4"), Ok(CpuList(vec![0, 2, 3, 4])));
        assert!(cpu_list("").is_err() && cpu_list("3-1").is_err() && cpu_list("1,").is_err());
        assert!(cpu_list("0-99999999999").is_err());
    }

    #[test]
    fn shapes_and_targets() {
        assert_eq!(shape("32x4"), Ok(Shape { connection_count: 32, pipeline: 4 }));
        assert!(shape("32").is_err() && shape("0x1").is_err() && shape("1x0").is_err() && shape("1x70000").is_err());
        let parsed = target("a=[::1]:11211,77").expect("valid");
        assert_eq!((parsed.name.as_str(), parsed.pid), ("a", Some(77)));
        assert_eq!(parsed.address, Address::Tcp("[::1]:11211".to_owned()));
        let parsed = target("b=unix:/run/x.sock").expect("valid");
        assert_eq!((parsed.address, parsed.pid), (Address::Unix(PathBuf::from("/run/x.sock")), None));
        for bad in ["127.0.0.1:1,2", "=h:1,2", "a=h:1,x", "a=h,2", "a=h:70000,2", "a=:1,2"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_prefixes() {
        assert_eq!(key_prefix("key:"), Ok("key:".to_owned()));
        assert!(key_prefix(&"p".repeat(240)).is_ok());
        assert!(key_prefix(&"p".repeat(241)).is_err());
        assert!(key_prefix("a b").is_err() && key_prefix("a\r\n").is_err());
    }
}
