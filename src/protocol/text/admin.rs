//! Commands about the server: `shutdown`, `slabs`, `lru`, `lru_crawler`, `watch` and their like.
//!
//! What they tune in memcached mostly has no counterpart here. Such a command is held to memcached's grammar and
//! answered as memcached would, so that a script that sends it goes on; nothing changes by it.

use super::token::{Arguments, Tokens, signed, unsigned, unsigned_32};
use crate::limits::CRAWLER_SLEEP_MAX;

/// Slab classes that there may be; records are shown as those of class 1, and 0 stands for no class.
const CLASS_COUNT: u32 = 64;
/// The highest class that memcached has with its defaults.
const CLASS_LAST: i64 = 39;
/// Largest share of memory, in percent, that two of memcached's queues may be given together.
const LRU_SHARE_MAX: u64 = 80;
/// Least limit for `cache_memlimit`, in MiB.
const MEMORY_LIMIT_MIN: u32 = 8;
/// Largest limit in MiB that is not taken for one in bytes.
const MEMORY_LIMIT_MAX: u32 = 1_000_000_000;

/// A command about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Whatever the state of the server, the answer is this.
    Answered {
        /// The answer.
        answer: AdminAnswer,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `shutdown`.
    Shutdown {
        /// It names no mode, or one that exists.
        is_valid: bool,
    },
    /// `cache_memlimit`.
    MemoryLimit {
        /// The new limit.
        mebibytes: u32,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `extstore recache_rate`: whether records that are read again are kept in memory.
    Recache {
        /// The rate is not 0.
        is_enabled: bool,
        /// No answer is wanted.
        noreply: bool,
    },
    /// `lru_crawler enable` and `disable`.
    EnableCrawler(bool),
    /// `lru_crawler sleep`, between two records.
    CrawlerSleep {
        /// Microseconds, a second at most.
        micros: u32,
    },
    /// `lru_crawler crawl`.
    Crawl(Classes),
    /// `lru_crawler metadump` and `mgdump`, `stats cachedump`.
    Dump(DumpStyle, Classes),
    /// `watch`.
    Watch {
        /// What is to be told; `None`: something that there is not.
        topics: Option<Topics>,
        /// No answer is wanted, if it is a refusal.
        noreply: bool,
    },
    /// `debugtime`; `None`: a change that there is not.
    DebugTime(Option<TimeChange>),
    /// `debugflush`: not a command of memcached.
    DebugFlush,
}

/// What `debugtime` does to the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// It stands still.
    Pause,
    /// It goes on, where it would be had it not stood still.
    Resume,
    /// It is put forward by so many seconds, or back.
    Shift(i64),
}

/// Which slab classes are meant. All records are shown as those of class 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// All, or some with class 1 among them.
    All,
    /// `hash`: all, in another order.
    Hash,
    /// Some without class 1.
    Others,
    /// No class is named.
    None,
    /// Not all of them are classes.
    Bad,
}

/// How keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpStyle {
    /// `lru_crawler metadump`.
    Metadata,
    /// `lru_crawler mgdump`.
    MetaGet,
    /// `stats cachedump`.
    Cached {
        /// Most records to be listed; 0: as many as fit the answer.
        limit: u32,
        /// Not all arguments are there, or they are no numbers, or there is no such class.
        refusal: Option<AdminAnswer>,
    },
}

/// What a watcher wants to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topics(u16);

impl Topics {
    /// Gets and what they found.
    pub const FETCHERS: Self = Self(1);
    /// Stored values.
    pub const MUTATIONS: Self = Self(1 << 1);
    /// Records that had to make room.
    pub const EVICTIONS: Self = Self(1 << 2);
    /// Connections that come and go.
    pub const CONNEVENTS: Self = Self(1 << 3);
    /// Deleted records.
    pub const DELETIONS: Self = Self(1 << 4);
    /// What the server does by itself.
    pub const SYSEVENTS: Self = Self(1 << 5);
    /// Requests as they come. memcached accepts it and logs none.
    pub const RAWCMDS: Self = Self(1 << 6);
    /// Those of the proxy that memcached can be built with: accepted, and nothing ever happens.
    pub const PROXY: Self = Self(1 << 7);

    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"fetchers" => Self::FETCHERS,
            b"mutations" => Self::MUTATIONS,
            b"evictions" => Self::EVICTIONS,
            b"connevents" => Self::CONNEVENTS,
            b"deletions" => Self::DELETIONS,
            b"sysevents" => Self::SYSEVENTS,
            b"rawcmds" => Self::RAWCMDS,
            b"proxyreqs" | b"proxyevents" | b"proxyuser" => Self::PROXY,
            _ => return None,
        })
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether some topic is in both.
    #[must_use]
    #[inline]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The answers of these commands that are always the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    /// It is done, or there is nothing to do.
    Ok,
    /// No such command, or not with these arguments.
    Error,
    /// A number that is none.
    LineFormat,
    /// `stats cachedump` without a class or a limit.
    BadLine,
    /// `slabs reassign` or `lru_crawler crawl` of a class that there is not.
    BadSlabClasses,
    /// The same of the crawler.
    BadClass,
    /// `stats cachedump` of a class that cannot be.
    IllegalSlabId,
    /// `slabs reassign` from a class to itself.
    SameClass,
    /// `slabs reassign`: there is nothing to be moved.
    NoSparePage,
    /// `lru tune` with shares that are too large.
    LruShares,
    /// `lru tune` with a factor of 0 or less.
    LruFactors,
    /// `lru_crawler sleep` for too long.
    CrawlerSleep,
    /// The crawler is on already.
    CrawlerNotStarted,
    /// The crawler is off.
    CrawlerDisabled,
    /// One dump at a time.
    CrawlerBusy,
    /// A list of no classes.
    NothingToCrawl,
    /// `lru_crawler crawl hash`, as memcached has it.
    CrawlerFailed,
    /// `lru_crawler metadump` with `-X`.
    MetadumpNotAllowed,
    /// `lru_crawler mgdump` with `-X`.
    KeyDumpNotAllowed,
    /// `stats cachedump` with `-X`.
    CachedumpNotAllowed,
    /// Answers wait to be sent, which the dump would get between.
    MetadumpPipelined,
    /// The same.
    KeyDumpPipelined,
    /// The same.
    WatchPipelined,
    /// `watch` with `-W`.
    WatchNotAllowed,
    /// Enough others watch.
    TooManyWatchers,
    /// `shutdown` without `-A`. As 1.6.18 says it, colon included; later ones say `SERVER_ERROR: ...`.
    ShutdownNotEnabled,
    /// `shutdown` of a mode that there is not.
    ShutdownMode,
    /// `cache_memlimit` below what memcached allows.
    MemoryLimitTooSmall,
    /// `cache_memlimit` in bytes, it seems.
    MemoryLimitInBytes,
    /// `cache_memlimit` below what is in use.
    MemoryLimitNotAdjusted,
    /// `refresh_certs`.
    NoTls,
}

impl AdminAnswer {
    /// The line with its `\r\n`.
    #[must_use]
    pub const fn line(self) -> &'static [u8] {
        match self {
            Self::Ok => b"OK\r\n",
            Self::Error => b"ERROR\r\n",
            Self::LineFormat => b"CLIENT_ERROR bad command line format\r\n",
            Self::BadLine => b"CLIENT_ERROR bad command line\r\n",
            Self::BadSlabClasses => b"BADCLASS invalid src or dst class id\r\n",
            Self::BadClass => b"BADCLASS invalid class id\r\n",
            Self::IllegalSlabId => b"CLIENT_ERROR Illegal slab id\r\n",
            Self::SameClass => b"SAME src and dst class are identical\r\n",
            Self::NoSparePage => b"NOSPARE source class has no spare pages\r\n",
            Self::LruShares => b"ERROR hot and warm pcts must not exceed 80\r\n",
            Self::LruFactors => b"ERROR hot/warm age factors must be greater than 0\r\n",
            Self::CrawlerSleep => b"CLIENT_ERROR sleep must be one second or less\r\n",
            Self::CrawlerNotStarted => b"ERROR failed to start lru crawler thread\r\n",
            Self::CrawlerDisabled => b"CLIENT_ERROR lru crawler disabled\r\n",
            Self::CrawlerBusy => b"BUSY currently processing crawler request\r\n",
            Self::NothingToCrawl => b"NOTSTARTED no items to crawl\r\n",
            Self::CrawlerFailed => b"ERROR an unknown error happened\r\n",
            Self::MetadumpNotAllowed => b"ERROR metadump not allowed\r\n",
            Self::KeyDumpNotAllowed => b"ERROR key dump not allowed\r\n",
            Self::CachedumpNotAllowed => b"CLIENT_ERROR stats cachedump not allowed\r\n",
            Self::MetadumpPipelined => b"ERROR cannot pipeline other commands before metadump\r\n",
            Self::KeyDumpPipelined => b"ERROR cannot pipeline other commands before mgdump\r\n",
            Self::WatchPipelined => b"ERROR cannot pipeline other commands before watch\r\n",
            Self::WatchNotAllowed => b"CLIENT_ERROR watch commands not allowed\r\n",
            Self::TooManyWatchers => b"WATCHER_TOO_MANY log watcher limit reached\r\n",
            Self::ShutdownNotEnabled => b"ERROR: shutdown not enabled\r\n",
            Self::ShutdownMode => b"CLIENT_ERROR invalid shutdown mode\r\n",
            Self::MemoryLimitTooSmall => b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
            Self::MemoryLimitInBytes => b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
            Self::MemoryLimitNotAdjusted => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
            Self::NoTls => b"Error TLS not enabled\r\n",
        }
    }
}

/// The command `name` with `arguments`, if it is one of these.
pub(super) fn parse_admin(name: &[u8], arguments: &[u8]) -> Option<Admin> {
    Some(match name {
        b"slabs" => parse_slabs(&Arguments::split(arguments)),
        b"lru" => parse_lru(&Arguments::split(arguments)),
        b"lru_crawler" => parse_crawler(&Arguments::split(arguments)),
        b"watch" => parse_watch(arguments),
        b"cache_memlimit" => parse_memory_limit(&Arguments::split(arguments)),
        b"shutdown" => Admin::Shutdown { is_valid: is_shutdown_mode(arguments) },
        b"extstore" => parse_extstore(&Arguments::split(arguments)),
        b"refresh_certs" => answered(AdminAnswer::NoTls),
        b"debugtime" => parse_debug_time(&Arguments::split(arguments)),
        b"debugflush" => Admin::DebugFlush,
        _ => return None,
    })
}

fn answered(answer: AdminAnswer) -> Admin {
    Admin::Answered { answer, noreply: false }
}

fn parse_slabs(arguments: &Arguments<'_>) -> Admin {
    match (arguments.get(0), arguments.count()) {
        (b"reassign", 3) => answered(reassign(arguments)),
        (b"automove", 2..) => Admin::Answered { answer: automove(arguments), noreply: arguments.noreply() },
        _ => answered(AdminAnswer::Error),
    }
}

/// There are no pages to be moved between classes.
fn reassign(arguments: &Arguments<'_>) -> AdminAnswer {
    let (Some(source), Some(target)) = (signed(arguments.get(1)), signed(arguments.get(2))) else {
        return AdminAnswer::LineFormat;
    };
    // -1 as the source: any class that has pages to spare; none has.
    let classes = 0..=CLASS_LAST;
    match source == target {
        true => AdminAnswer::SameClass,
        false if classes.contains(&source) && classes.contains(&target) => AdminAnswer::NoSparePage,
        false => AdminAnswer::BadSlabClasses,
    }
}

fn automove(arguments: &Arguments<'_>) -> AdminAnswer {
    if arguments.get(1) == b"ratio" {
        let is_number = arguments.count() > 2 && float(arguments.get(2)).is_some();
        return if is_number { AdminAnswer::Ok } else { AdminAnswer::Error };
    }
    match unsigned_32(arguments.get(1)) {
        None => AdminAnswer::LineFormat,
        Some(0..=2) => AdminAnswer::Ok,
        Some(_) => AdminAnswer::Error,
    }
}

fn parse_lru(arguments: &Arguments<'_>) -> Admin {
    let answer = match (arguments.get(0), arguments.count()) {
        (b"tune", 5..) => tune(arguments),
        (b"mode", 2..) if matches!(arguments.get(1), b"flat" | b"segmented") => AdminAnswer::Ok,
        (b"temp_ttl", 2..) if signed(arguments.get(1)).is_some() => AdminAnswer::Ok,
        _ => AdminAnswer::Error,
    };
    Admin::Answered { answer, noreply: arguments.noreply() }
}

fn tune(arguments: &Arguments<'_>) -> AdminAnswer {
    let shares = (unsigned_32(arguments.get(1)), unsigned_32(arguments.get(2)));
    let factors = (float(arguments.get(3)), float(arguments.get(4)));
    let ((Some(hot), Some(warm)), (Some(hot_age), Some(warm_age))) = (shares, factors) else {
        return AdminAnswer::Error;
    };
    if u64::from(hot) + u64::from(warm) > LRU_SHARE_MAX {
        AdminAnswer::LruShares
    } else if hot_age <= 0.0 || warm_age <= 0.0 {
        AdminAnswer::LruFactors
    } else {
        AdminAnswer::Ok
    }
}

fn parse_crawler(arguments: &Arguments<'_>) -> Admin {
    let argument = arguments.get(1);
    match (arguments.get(0), arguments.count()) {
        (b"enable", 1) => Admin::EnableCrawler(true),
        (b"disable", 1) => Admin::EnableCrawler(false),
        (b"crawl", 2) => Admin::Crawl(parse_classes(argument)),
        (b"metadump", 2) => Admin::Dump(DumpStyle::Metadata, parse_classes(argument)),
        (b"mgdump", 2) => Admin::Dump(DumpStyle::MetaGet, parse_classes(argument)),
        (b"tocrawl", 2) => {
            answered(if unsigned_32(argument).is_some() { AdminAnswer::Ok } else { AdminAnswer::LineFormat })
        }
        (b"sleep", 2) => match unsigned_32(argument) {
            None => answered(AdminAnswer::LineFormat),
            Some(micros) if micros > CRAWLER_SLEEP_MAX => answered(AdminAnswer::CrawlerSleep),
            Some(micros) => Admin::CrawlerSleep { micros },
        },
        _ => answered(AdminAnswer::Error),
    }
}

/// `all`, `hash`, or numbers of classes with commas between them.
fn parse_classes(list: &[u8]) -> Classes {
    match list {
        b"all" => return Classes::All,
        b"hash" => return Classes::Hash,
        _ => {}
    }
    let mut classes = Classes::None;
    for number in list.split(|byte| *byte == b',').filter(|number| !number.is_empty()) {
        match unsigned_32(number) {
            Some(1) => classes = Classes::All,
            Some(2..CLASS_COUNT) if classes == Classes::None => classes = Classes::Others,
            Some(2..CLASS_COUNT) => {}
            _ => return Classes::Bad,
        }
    }
    classes
}

/// `stats cachedump`, whose `arguments` are those behind the sub-command.
pub(super) fn parse_cachedump(arguments: &[u8]) -> Admin {
    let arguments = Arguments::split(arguments);
    let numbers = (unsigned_32(arguments.get(0)), unsigned_32(arguments.get(1)));
    let (refusal, class, limit) = match numbers {
        _ if arguments.count() < 2 => (Some(AdminAnswer::BadLine), 0, 0),
        (Some(CLASS_COUNT..), Some(_)) => (Some(AdminAnswer::IllegalSlabId), 0, 0),
        (Some(class), Some(limit)) => (None, class, limit),
        _ => (Some(AdminAnswer::LineFormat), 0, 0),
    };
    let classes = if class == 1 { Classes::All } else { Classes::Others };
    Admin::Dump(DumpStyle::Cached { limit, refusal }, classes)
}

fn parse_watch(arguments: &[u8]) -> Admin {
    let mut names = Tokens::new(arguments).peekable();
    let noreply = Tokens::new(arguments).last() == Some(b"noreply");
    let topics = if names.peek().is_none() {
        Some(Topics::FETCHERS)
    } else {
        names.try_fold(Topics::default(), |topics, name| Some(topics.and(Topics::of(name)?)))
    };
    Admin::Watch { topics, noreply }
}

fn parse_memory_limit(arguments: &Arguments<'_>) -> Admin {
    if !(1..=2).contains(&arguments.count()) {
        return answered(AdminAnswer::Error);
    }
    let noreply = arguments.noreply();
    let refused = |answer| Admin::Answered { answer, noreply };
    match unsigned_32(arguments.get(0)) {
        None => refused(AdminAnswer::Error),
        Some(..MEMORY_LIMIT_MIN) => refused(AdminAnswer::MemoryLimitTooSmall),
        Some(mebibytes) if mebibytes > MEMORY_LIMIT_MAX => refused(AdminAnswer::MemoryLimitInBytes),
        Some(mebibytes) => Admin::MemoryLimit { mebibytes, noreply },
    }
}

fn is_shutdown_mode(arguments: &[u8]) -> bool {
    let mut tokens = Tokens::new(arguments);
    match (tokens.next(), tokens.next()) {
        (None, _) => true,
        (Some(mode), None) => mode == b"graceful",
        (Some(_), Some(_)) => false,
    }
}

/// extstore's knobs. Tables are emptied by rules of their own; which records are cached, too, but it can be turned off.
fn parse_extstore(arguments: &Arguments<'_>) -> Admin {
    let number = |index| unsigned_32(arguments.get(index));
    if let (2.., b"recache_rate", Some(rate)) = (arguments.count(), arguments.get(0), number(1)) {
        return Admin::Recache { is_enabled: rate > 0, noreply: arguments.noreply() };
    }
    let is_known = arguments.count() >= 2
        && match arguments.get(0) {
            b"free_memchunks" => {
                arguments.count() > 2
                    && number(1).is_some_and(|class| (1..CLASS_COUNT).contains(&class))
                    && number(2).is_some()
            }
            b"item_size" | b"item_age" | b"low_ttl" | b"compact_under" | b"drop_under" | b"max_sleep" => {
                number(1).is_some()
            }
            b"max_frag" => float(arguments.get(1)).is_some(),
            b"drop_unread" => unsigned(arguments.get(1)).is_some(),
            _ => false,
        };
    let answer = if is_known { AdminAnswer::Ok } else { AdminAnswer::Error };
    Admin::Answered { answer, noreply: arguments.noreply() }
}

fn parse_debug_time(arguments: &Arguments<'_>) -> Admin {
    Admin::DebugTime(match arguments.get(0) {
        b"p" => Some(TimeChange::Pause),
        b"r" => Some(TimeChange::Resume),
        seconds => signed(seconds).map(TimeChange::Shift),
    })
}

/// A number with a fraction, maybe, between white space; what follows that does not matter, as in C.
fn float(token: &[u8]) -> Option<f64> {
    let token = std::str::from_utf8(token).ok()?.trim_ascii_start();
    token.split(|character: char| character.is_ascii_whitespace()).next()?.parse().ok()
}
