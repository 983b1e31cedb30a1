//! memcached's `-o`: a list of options by name.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits::CRAWLER_SLEEP_MAX;

/// What `-o` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    /// Connections that say nothing for so long are closed.
    pub(super) idle_timeout: Option<Duration>,
    /// `stats sizes` was asked for.
    pub(super) track_sizes: bool,
    /// `ext_path`.
    pub(super) external: Option<External>,
    /// `ext_recache_rate=0`: no record is cached in memory.
    pub(super) no_recache: bool,
    /// `no_lru_crawler`: nobody looks for expired records.
    pub(super) no_crawler: bool,
    /// `lru_crawler_sleep`: time between two records when a client has them looked at.
    pub(super) crawl_pause: Duration,
    /// What was accepted without any effect, as it was written.
    pub(super) unused: Vec<String>,
}

/// `ext_path=FILE:SIZE`, where FILE is a directory here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    pub(super) directory: PathBuf,
    pub(super) capacity: u64,
}

/// An option of `-o` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadExtended {
    #[error("-o {0}: memcached has no such option; look how it is written, or leave it out")]
    Unknown(String),
    #[error("-o {name}: a value is needed: -o {name}={kind}")]
    NoValue { name: String, kind: &'static str },
    #[error("-o {name}={value}: the value has to be {kind}")]
    Value { name: String, value: String, kind: &'static str },
    #[error("-o no_maxconns_fast: connections above -c are always answered and closed at once; leave it out")]
    NoMaxconnsFast,
    #[error("-o {0}: TLS is not supported; put a proxy that ends it in front (stunnel, HAProxy, Envoy)")]
    Tls(String),
    #[error("-o {0}: this server is no proxy; run memcached's proxy or mcrouter in front of it")]
    Proxy(String),
    #[error("-o ext_path={value}: {why}. Give a directory and a size with a unit, e.g. ext_path=/mnt/nvme/cache:100g")]
    ExternalPath { value: String, why: &'static str },
    #[error(
        "-o ext_path={0}: a second path; one data directory is supported so far: join the devices (LVM, mdraid) and give one"
    )]
    ExternalPaths(String),
}

/// What an option takes.
#[derive(Clone, Copy)]
enum Takes {
    /// Nothing; a value is ignored, as memcached does.
    Nothing,
    /// A number, or nothing.
    MaybeNumber,
    /// A whole number.
    Number,
    /// A number that may have a fraction.
    Fraction,
    /// The name of a hash function.
    Hash,
    /// Anything.
    Text,
}

/// memcached's options that have no effect here: there are no slab classes, LRUs or hash table, nor threads that
/// maintain them.
const UNUSED: [(&str, Takes); 44] = [
    ("no_modern", Takes::Nothing),
    ("hashpower", Takes::Number),
    ("no_hashexpand", Takes::Nothing),
    ("hash_algorithm", Takes::Hash),
    ("tail_repair_time", Takes::Number),
    ("slab_reassign", Takes::Nothing),
    ("no_slab_reassign", Takes::Nothing),
    ("slab_automove", Takes::MaybeNumber),
    ("no_slab_automove", Takes::Nothing),
    ("slab_automove_ratio", Takes::Fraction),
    ("slab_automove_window", Takes::Number),
    ("slab_automove_freeratio", Takes::Fraction),
    ("slab_sizes", Takes::Text),
    ("slab_chunk_max", Takes::Number),
    ("no_chunked_items", Takes::Nothing),
    ("lru_crawler_tocrawl", Takes::Number),
    ("lru_maintainer", Takes::Nothing),
    ("no_lru_maintainer", Takes::Nothing),
    ("hot_lru_pct", Takes::Number),
    ("warm_lru_pct", Takes::Number),
    ("hot_max_factor", Takes::Fraction),
    ("warm_max_factor", Takes::Fraction),
    ("temporary_ttl", Takes::Number),
    ("watcher_logbuf_size", Takes::Number),
    ("worker_logbuf_size", Takes::Number),
    ("read_buf_mem_limit", Takes::Number),
    ("resp_obj_mem_limit", Takes::MaybeNumber),
    ("inline_ascii_resp", Takes::Nothing),
    ("no_inline_ascii_resp", Takes::Nothing),
    ("drop_privileges", Takes::Nothing),
    ("no_drop_privileges", Takes::Nothing),
    ("sock_cookie_id", Takes::Number),
    ("ext_page_size", Takes::Number),
    ("ext_wbuf_size", Takes::Number),
    ("ext_threads", Takes::Number),
    ("ext_io_depth", Takes::Number),
    ("ext_item_size", Takes::Number),
    ("ext_item_age", Takes::Number),
    ("ext_low_ttl", Takes::Number),
    ("ext_drop_unread", Takes::Nothing),
    ("ext_compact_under", Takes::Number),
    ("ext_drop_under", Takes::Number),
    ("ext_max_frag", Takes::Fraction),
    ("ext_max_sleep", Takes::Number),
];

/// memcached's hash functions.
const HASHES: [&str; 3] = ["jenkins", "murmur3", "xxh3"];
/// What `ext_path` may say behind the size; pages are not sorted by it here.
const BUCKETS: [&str; 6] = ["default", "compact", "lowttl", "chunked", "coldcompact", "old"];

impl Extended {
    /// Reads the lists in order; the last word wins.
    pub(super) fn parse(lists: &[String]) -> Result<Self, BadExtended> {
        let mut extended = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            extended.take(option, name, value.filter(|value| !value.is_empty()))?;
        }
        Ok(extended)
    }

    fn take(&mut self, option: &str, name: &str, value: Option<&str>) -> Result<(), BadExtended> {
        match name {
            "idle_timeout" => {
                let kind = "SECONDS, 0 for never";
                let value = value.ok_or_else(|| BadExtended::NoValue { name: name.to_owned(), kind })?;
                let bad = |_| BadExtended::Value { name: name.to_owned(), value: value.to_owned(), kind };
                let seconds = value.parse::<u32>().map_err(bad)?;
                self.idle_timeout = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            }
            "track_sizes" => self.track_sizes = true,
            // Another rate than 0 is extstore's; here the second read counts.
            "ext_recache_rate" => {
                Takes::Number.check(name, value)?;
                self.no_recache = value == Some("0");
                if !self.no_recache {
                    self.unused.push(option.to_owned());
                }
            }
            "lru_crawler" | "no_lru_crawler" => self.no_crawler = name.starts_with("no_"),
            "lru_crawler_sleep" => {
                let kind = "MICROSECONDS, 1000000 at most";
                let value = value.ok_or_else(|| BadExtended::NoValue { name: name.to_owned(), kind })?;
                let micros = value.parse::<u32>().ok().filter(|micros| *micros <= CRAWLER_SLEEP_MAX);
                let bad = || BadExtended::Value { name: name.to_owned(), value: value.to_owned(), kind };
                self.crawl_pause = Duration::from_micros(micros.ok_or_else(bad)?.into());
            }
            // What is on anyway; `modern` turns on nothing in memcached either.
            "maxconns_fast" | "modern" => {}
            "no_maxconns_fast" => return Err(BadExtended::NoMaxconnsFast),
            "ext_path" => {
                let kind = "DIRECTORY:SIZE";
                let value = value.ok_or_else(|| BadExtended::NoValue { name: name.to_owned(), kind })?;
                if self.external.is_some() {
                    return Err(BadExtended::ExternalPaths(value.to_owned()));
                }
                let why = |why| BadExtended::ExternalPath { value: value.to_owned(), why };
                self.external = Some(External::parse(value).map_err(why)?);
            }
            _ if name.starts_with("ssl_") => return Err(BadExtended::Tls(option.to_owned())),
            _ if name.starts_with("proxy_") => return Err(BadExtended::Proxy(option.to_owned())),
            _ => {
                let known = UNUSED.iter().find(|(known, _)| *known == name);
                let (_, takes) = known.ok_or_else(|| BadExtended::Unknown(option.to_owned()))?;
                takes.check(name, value)?;
                self.unused.push(option.to_owned());
            }
        }
        Ok(())
    }
}

impl Takes {
    fn check(self, name: &str, value: Option<&str>) -> Result<(), BadExtended> {
        let kind = match self {
            Self::Nothing => return Ok(()),
            Self::MaybeNumber if value.is_none() => return Ok(()),
            Self::Number | Self::MaybeNumber => "a number",
            Self::Fraction => "a number, with or without a fraction",
            Self::Hash => "one of jenkins, murmur3, xxh3",
            Self::Text => "a text",
        };
        let value = value.ok_or_else(|| BadExtended::NoValue { name: name.to_owned(), kind })?;
        let is_good = match self {
            Self::Nothing | Self::Text => true,
            Self::Number | Self::MaybeNumber => value.parse::<u64>().is_ok(),
            Self::Fraction => value.parse::<f64>().is_ok(),
            Self::Hash => HASHES.contains(&value),
        };
        let bad = || BadExtended::Value { name: name.to_owned(), value: value.to_owned(), kind };
        is_good.then_some(()).ok_or_else(bad)
    }
}

impl External {
    /// `FILE:SIZE` or `FILE:SIZE:BUCKET`. The error says what is wrong.
    fn parse(value: &str) -> Result<Self, &'static str> {
        let mut parts = value.split(':');
        let directory = parts.next().filter(|directory| !directory.is_empty()).ok_or("there is no path")?;
        let size = parts.next().ok_or("there is no size")?;
        if parts.next().is_some_and(|bucket| !BUCKETS.contains(&bucket)) || parts.next().is_some() {
            return Err("behind the size stands no bucket of memcached's");
        }
        let unit = size.chars().last().ok_or("there is no size")?;
        let shift = match unit.to_ascii_lowercase() {
            'm' => 20,
            'g' => 30,
            't' => 40,
            'p' => 50,
            _ => return Err("the size has none of the units m, g, t and p"),
        };
        let number =
            size[..size.len() - unit.len_utf8()].parse::<u64>().map_err(|_| "the size is no number and a unit")?;
        let capacity =
            number.checked_mul(1 << shift).filter(|capacity| *capacity > 0).ok_or("there is no such size")?;
        Ok(Self { directory: PathBuf::from(directory), capacity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&str]) -> Result<Extended, BadExtended> {
        Extended::parse(&lists.iter().map(|list| (*list).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_option_is_heeded_or_noted() {
        let extended = parse(&["modern,idle_timeout=9,track_sizes", "maxconns_fast,idle_timeout=0,hashpower=20"]);
        let crawler = parse(&["no_lru_crawler,lru_crawler_sleep=250"]).expect("good");
        let crawl_pause = Duration::from_micros(250);
        assert_eq!(crawler, Extended { no_crawler: true, crawl_pause, ..Extended::default() });
        assert!(!parse(&["no_lru_crawler,lru_crawler"]).expect("good").no_crawler, "the last word wins");
        let expected = Extended { track_sizes: true, unused: vec!["hashpower=20".to_owned()], ..Extended::default() };
        assert_eq!(extended.expect("good"), expected);
        for (name, takes) in UNUSED {
            let option = match takes {
                Takes::Nothing => name.to_owned(),
                Takes::MaybeNumber | Takes::Number => format!("{name}=3"),
                Takes::Fraction => format!("{name}=0.5"),
                Takes::Hash => format!("{name}=xxh3"),
                Takes::Text => format!("{name}=8-16"),
            };
            assert_eq!(parse(&[&option]).expect("good").unused, [option]);
        }
    }

    #[test]
    fn the_external_path_is_a_directory_and_a_size() {
        let external = |value: &str| parse(&[&format!("ext_path={value}")]).expect("good").external.expect("given");
        let expected = External { directory: "/mnt/a".into(), capacity: 3 << 30 };
        assert_eq!(external("/mnt/a:3g"), expected);
        assert_eq!(external("/mnt/a:3072M:compact"), expected);
        assert_eq!(external("a:1P").capacity, 1 << 50);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for option in [
            "nonsense",
            "nonsense=1",
            "idle_timeout",
            "idle_timeout=",
            "idle_timeout=x",
            "no_maxconns_fast",
            "lru_crawler_sleep",
            "lru_crawler_sleep=1000001",
            "hash_algorithm",
            "hash_algorithm=md5",
            "hashpower=x",
            "slab_automove=x",
            "ext_threads",
            "ext_max_frag=much",
            "ssl_chain_cert=x",
            "proxy_config=x",
            "ext_path",
            "ext_path=",
            "ext_path=/a",
            "ext_path=:1g",
            "ext_path=/a:",
            "ext_path=/a:1",
            "ext_path=/a:1k",
            "ext_path=/a:1GB",
            "ext_path=/a:0m",
            "ext_path=/a:g",
            "ext_path=/a:99999999p",
            "ext_path=/a:1g:hot",
            "ext_path=/a:1g:old:x",
            "ext_path=/a:1g,ext_path=/b:1g",
        ] {
            let sentence = parse(&[option]).expect_err(option).to_string();
            let name = option.split('=').next().expect("split gives one");
            assert!(sentence.starts_with(&format!("-o {name}")), "{sentence}");
        }
    }
}
