//! Flags of `serve`: memcached's where it has one, with its meaning and default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args};

use super::check::BadFlag;
use super::extended::Extended;
use super::listen::Port;
use super::sizes::{parse_duration, parse_megabytes, parse_octal, parse_size};
use crate::limits::{
    BACKLOG_DEFAULT, CONNECTIONS_DEFAULT, ITEM_SIZE_DEFAULT, MEMORY_MIB_DEFAULT, REQUESTS_PER_TURN_DEFAULT,
};
use crate::shard::Binding;
use crate::store::Durability;

/// Where the data lives when neither `--data-dir` nor `-o ext_path` says.
pub(super) const DATA_DIR_DEFAULT: &str = "./dmacached-data";

/// How to serve.
#[derive(Clone, Debug, Args)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    pub(super) network: Network,
    #[command(flatten)]
    pub(super) memory: Memory,
    #[command(flatten)]
    pub(super) storage: Storage,
    #[command(flatten)]
    pub(super) commands: Commands,
    #[command(flatten)]
    pub(super) process: ProcessFlags,
    #[command(flatten)]
    pub(super) other: Other,
}

/// Where clients find the server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct Network {
    /// TCP port to listen on; -1: one that is free, 0: no TCP
    #[arg(short = 'p', long = "port", value_name = "NUM", value_parser = Port::parse, allow_negative_numbers = true,
        default_value = "11211")]
    pub(super) port: Port,

    /// UDP is not served: only 0 is accepted
    #[arg(short = 'U', long = "udp-port", value_name = "NUM", allow_negative_numbers = true, default_value_t = 0)]
    pub(super) udp_port: i64,

    /// Addresses to listen on, separated by commas: host, host:port or [v6]:port, with proto[ascii]: or proto[binary]: in
    /// front for one protocol only
    #[arg(short = 'l', long = "listen", value_name = "ADDR", default_value = "127.0.0.1")]
    pub(super) listen: Vec<String>,

    /// Unix socket to listen on, instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub(super) unix_socket: Option<PathBuf>,

    /// Permissions of the unix socket, in octal
    #[arg(short = 'a', long = "unix-mask", value_name = "MASK", value_parser = parse_octal, default_value = "700")]
    pub(super) unix_permissions: u32,

    /// Most connections at once
    #[arg(short = 'c', long = "conn-limit", value_name = "NUM", default_value_t = CONNECTIONS_DEFAULT)]
    pub(super) connections: usize,

    /// Connections that may wait to be accepted
    #[arg(short = 'b', long = "listen-backlog", value_name = "NUM", default_value_t = BACKLOG_DEFAULT)]
    pub(super) backlog: i32,

    /// Requests that a connection may have answered before the others get their turn
    #[arg(short = 'R', long = "max-reqs-per-event", value_name = "NUM", default_value_t = REQUESTS_PER_TURN_DEFAULT)]
    pub(super) requests_per_turn: usize,

    /// Threads; one serves so far, whatever the number
    #[arg(short = 't', long = "threads", value_name = "NUM")]
    pub(super) threads: Option<usize>,

    /// Microseconds that the network is watched before a thread sleeps; takes CPU and gives latency [default: 20, or 0
    /// with four CPUs or less]
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) spin_us: Option<u64>,
}

/// What may be kept in memory.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct Memory {
    /// Memory budget in megabytes, for index, buffers and hot cache together
    #[arg(short = 'm', long = "memory-limit", value_name = "MB", value_parser = parse_megabytes, default_value_t
        = MEMORY_MIB_DEFAULT)]
    pub(super) mib: usize,

    /// Most memory for records that are read again and again, of what the index leaves of -m; 0: none [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) hot_cache: Option<u64>,

    /// Refuse to store when the disk or the index is full, instead of evicting the oldest records
    #[arg(short = 'M', long = "disable-evictions")]
    pub(super) disable_evictions: bool,

    /// Largest item, e.g. 1m or 512k
    #[arg(short = 'I', long = "max-item-size", value_name = "SIZE", value_parser = parse_size, default_value_t
        = ITEM_SIZE_DEFAULT as u64)]
    pub(super) item_size: u64,

    /// Keep all memory resident
    #[arg(short = 'k', long = "lock-memory")]
    pub(super) lock: bool,
}

/// What is kept on disk.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(super) struct Storage {
    /// Where the data lives; made if it is not there [default: ./dmacached-data]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Disk space for the data, e.g. 100g [default: an eighth of what is free, at most 8g; never less than what is
    /// there]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) capacity: Option<u64>,

    /// Size of a disktable, a power of two; fixed when the store is made [default: 64m, less in small stores]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) table_size: Option<u64>,

    /// How long a record may be in memory only, e.g. 1s or 100ms
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub(super) flush_interval: Duration,

    /// Read all data on disk again and again, each time in this time at least, e.g. 7d, to find damage before somebody asks
    /// for it [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) scrub_interval: Option<Duration>,

    /// When a write is answered. memory: when it is in memory; a process that is killed and a power loss cost what was
    /// written within the flush interval. sync: when it is on stable media; neither costs anything that was answered
    #[arg(long, value_name = "LEVEL", value_parser = parse_durability, default_value = "memory")]
    pub(super) durability: Durability,
}

/// What clients may ask for.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Protocol")]
pub(super) struct Commands {
    /// Protocol: ascii, binary, or auto, which goes by a connection's first byte
    #[arg(short = 'B', long = "protocol", value_name = "NAME", value_parser = parse_binding, default_value = "auto")]
    pub(super) binding: Binding,

    /// Clients have to say who they are: a file with lines of user:password; SIGHUP has it read again. Implies -B ascii
    #[arg(short = 'Y', long = "auth-file", value_name = "FILE")]
    pub(super) auth_file: Option<PathBuf>,

    /// Enable the command "shutdown"
    #[arg(short = 'A', long = "enable-shutdown")]
    pub(super) enable_shutdown: bool,

    /// Disable the command "flush_all"
    #[arg(short = 'F', long = "disable-flush-all")]
    pub(super) disable_flush_all: bool,

    /// Disable "stats cachedump" and "lru_crawler metadump"
    #[arg(short = 'X', long = "disable-dumping")]
    pub(super) disable_dumping: bool,

    /// Disable the command "watch"
    #[arg(short = 'W', long = "disable-watch")]
    pub(super) disable_watch: bool,

    /// Disable cas: its uniques are 0
    #[arg(short = 'C', long = "disable-cas")]
    pub(super) disable_cas: bool,

    /// Count by prefix for "stats detail dump", where a prefix ends with CHAR [default: off, and : when a client turns it
    /// on]
    #[arg(short = 'D', value_name = "CHAR", value_parser = parse_delimiter)]
    pub(super) delimiter: Option<u8>,

    /// Enable the commands of tests: debugtime, debugflush
    #[arg(long, hide = true)]
    pub(super) debug_commands: bool,
}

/// How the process runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Process")]
pub(super) struct ProcessFlags {
    /// Run in the background; returns when the server listens, or tells why it does not
    #[arg(short = 'd', long = "daemon")]
    pub(super) daemon: bool,

    /// File that holds the number of the process while it runs
    #[arg(short = 'P', long = "pidfile", value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// Become this user, if started by root
    #[arg(short = 'u', long = "user", value_name = "NAME")]
    pub(super) user: Option<String>,

    /// Let a crash write a core, as large as the system allows
    #[arg(short = 'r', long = "enable-coredumps")]
    pub(super) coredumps: bool,

    /// Say more; twice, say everything
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count)]
    pub(super) verbosity: u8,
}

/// What memcached has and this server has no use for, or has otherwise.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "More of memcached")]
pub(super) struct Other {
    /// memcached's extended options, separated by commas. Heeded: idle_timeout=SECONDS, which closes connections that say
    /// nothing for so long (0: never); ext_path=DIR:SIZE, which is --data-dir and --capacity; track_sizes; maxconns_fast,
    /// which is always on. The others are accepted and noted
    #[arg(short = 'o', long = "extended", value_name = "LIST")]
    pub(super) extended: Vec<String>,

    /// Not used here: there are no slab classes
    #[arg(short = 'f', long = "slab-growth-factor", value_name = "FACTOR")]
    pub(super) growth_factor: Option<f64>,

    /// Not used here: there are no slab classes
    #[arg(short = 'n', long = "slab-min-size", value_name = "BYTES")]
    pub(super) slab_min_size: Option<u64>,

    /// Not used here: the index takes huge pages where it gains by them
    #[arg(short = 'L', long = "enable-largepages")]
    pub(super) large_pages: bool,

    /// Not used here
    #[arg(short = 'N', long = "napi-ids", value_name = "NUM")]
    pub(super) napi_ids: Option<u64>,

    // Clients' test harnesses take it from the help whether a server has these, so they do not stand there.
    #[arg(short = 'S', long = "enable-sasl", hide = true)]
    pub(super) sasl: bool,
    #[arg(short = 'Z', long = "enable-ssl", hide = true)]
    pub(super) tls: bool,
    #[arg(short = 'e', long = "memory-file", value_name = "FILE", hide = true)]
    pub(super) memory_file: Option<PathBuf>,
}

impl ServeArguments {
    /// What `-o` says.
    pub(super) fn extended(&self) -> Result<Extended, BadFlag> {
        Ok(Extended::parse(&self.other.extended)?)
    }

    /// Where the data lives.
    pub(super) fn data_dir(&self) -> Result<PathBuf, BadFlag> {
        let directory = match &self.storage.data_dir {
            Some(directory) => Some(directory.clone()),
            None => self.extended()?.external.map(|external| external.directory),
        };
        Ok(directory.unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT)))
    }

    /// Disk space for the data, if somebody says.
    pub(super) fn capacity(&self) -> Result<Option<u64>, BadFlag> {
        let external = self.extended()?.external;
        Ok(self.storage.capacity.or_else(|| external.map(|external| external.capacity)))
    }

    /// The protocol of connections that come in where `-l` says nothing of it.
    pub(super) fn binding(&self) -> Binding {
        if self.commands.auth_file.is_some() { Binding::Ascii } else { self.commands.binding }
    }

    /// Makes every path one that still holds after a change of the working directory.
    pub(super) fn make_absolute(&mut self) -> Result<(), BadFlag> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| BadFlag::NoWorkingDirectory { path: path.into(), source })
        };
        self.storage.data_dir = Some(absolute(&self.data_dir()?)?);
        let paths = [&mut self.network.unix_socket, &mut self.commands.auth_file, &mut self.process.pid_file];
        for path in paths.into_iter().flatten() {
            *path = absolute(path)?;
        }
        Ok(())
    }
}

fn parse_binding(text: &str) -> Result<Binding, String> {
    match text {
        "auto" => Ok(Binding::Auto),
        "ascii" => Ok(Binding::Ascii),
        "binary" => Ok(Binding::Binary),
        _ => Err("it should be one of auto, binary, or ascii".to_owned()),
    }
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    let levels = [Durability::Memory, Durability::Sync];
    let named = levels.into_iter().find(|level| level.name() == text);
    named.ok_or_else(|| "it should be one of memory and sync".to_owned())
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [delimiter] => Ok(*delimiter),
        _ => Err(format!("{text:?} is no delimiter: one ASCII character is needed")),
    }
}
