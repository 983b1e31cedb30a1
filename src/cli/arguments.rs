//! Flags of `serve`: memcached's where it has one, with its meaning and default.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::extended::{BadExtended, Extended};
use super::sizes::{parse_duration, parse_octal, parse_size};
use crate::limits::{
    BACKLOG_DEFAULT, CONNECTIONS_DEFAULT, CONNECTIONS_MAX, FLUSH_INTERVAL_MS_MAX, FLUSH_INTERVAL_MS_MIN,
    ITEM_SIZE_DEFAULT, ITEM_SIZE_MAX, ITEM_SIZE_MIN, MEMORY_MIB_DEFAULT, MEMORY_MIB_MIN, MIB, PORT_DEFAULT,
    REQUESTS_PER_TURN_DEFAULT, SPIN_US_MAX, TABLE_SIZE_MAX, TABLE_SIZE_MIN, UNIX_PERMISSIONS_DEFAULT,
};
use crate::server::Address;

/// How to serve.
#[derive(Clone, Debug, Args)]
pub(super) struct ServeArguments {
    /// TCP port to listen on
    #[arg(short = 'p', long = "port", value_name = "NUM", default_value_t = PORT_DEFAULT)]
    pub(super) port: u16,

    /// Addresses to listen on, separated by commas: host, host:port or [v6]:port
    #[arg(short = 'l', long = "listen", value_name = "ADDR", default_value = "127.0.0.1")]
    pub(super) listen: Vec<String>,

    /// Unix socket to listen on, instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub(super) unix_socket: Option<PathBuf>,

    /// Permissions of the unix socket, in octal
    #[arg(short = 'a', long = "unix-mask", value_name = "MASK", value_parser = parse_octal, default_value = "700")]
    pub(super) unix_permissions: u32,

    /// Memory budget in megabytes, for index and buffers together
    #[arg(short = 'm', long = "memory-limit", value_name = "MB", default_value_t = MEMORY_MIB_DEFAULT)]
    pub(super) memory_mib: usize,

    /// Refuse to store when the disk or the index is full, instead of evicting the oldest records
    #[arg(short = 'M', long = "disable-evictions")]
    pub(super) disable_evictions: bool,

    /// Largest item, e.g. 1m or 512k
    #[arg(short = 'I', long = "max-item-size", value_name = "SIZE", value_parser = parse_size, default_value_t
        = ITEM_SIZE_DEFAULT as u64)]
    pub(super) item_size: u64,

    /// Most connections at once
    #[arg(short = 'c', long = "conn-limit", value_name = "NUM", default_value_t = CONNECTIONS_DEFAULT)]
    pub(super) connections: usize,

    /// Requests that a connection may have answered before the others get their turn
    #[arg(short = 'R', long = "max-reqs-per-event", value_name = "NUM", default_value_t = REQUESTS_PER_TURN_DEFAULT)]
    pub(super) requests_per_turn: usize,

    /// Connections that may wait to be accepted
    #[arg(short = 'b', long = "listen-backlog", value_name = "NUM", default_value_t = BACKLOG_DEFAULT)]
    pub(super) backlog: i32,

    /// More options, separated by commas: idle_timeout=SECONDS closes connections that say nothing for so long (0:
    /// never); maxconns_fast, which is always on
    #[arg(short = 'o', long = "extended", value_name = "LIST")]
    pub(super) extended: Vec<String>,

    /// Let clients end the server with the command "shutdown"
    #[arg(short = 'A', long = "enable-shutdown")]
    pub(super) enable_shutdown: bool,

    /// Refuse the commands that list all keys
    #[arg(short = 'X', long = "disable-dumping")]
    pub(super) disable_dumping: bool,

    /// Refuse the command "watch"
    #[arg(short = 'W', long = "disable-watch")]
    pub(super) disable_watch: bool,

    /// Allow the commands that tests need
    #[arg(long, hide = true)]
    pub(super) debug_commands: bool,

    /// Say more; twice, say everything
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count)]
    pub(super) verbosity: u8,

    /// Where the data lives; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "./dmacached-data")]
    pub(super) data_dir: PathBuf,

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

    /// Microseconds that the network is watched before a thread sleeps; takes CPU and gives latency [default: 20, or 0
    /// with four CPUs or less]
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) spin_us: Option<u64>,
}

/// Bytes of a unix socket's path: what sockaddr_un takes, without the NUL (unix(7)).
const UNIX_PATH_SIZE_MAX: usize = 107;
const _: () = assert!(UNIX_PERMISSIONS_DEFAULT == 0o700, "as the flag's default says");

/// A flag whose value cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFlag {
    #[error("-m {0}: at least {MEMORY_MIB_MIN} MB are needed for the write blocks and an index")]
    Memory(usize),
    #[error("-m {0}: this machine cannot count that many megabytes")]
    MemoryTooLarge(usize),
    #[error("-I {0}: items of at least {ITEM_SIZE_MIN} and at most {ITEM_SIZE_MAX} bytes can be allowed")]
    ItemSize(u64),
    #[error(
        "-I {item_size}: cannot set item size limit higher than 1/2 of memory max (-m {memory_mib}): raise -m or lower -I"
    )]
    ItemSizeOfMemory { item_size: u64, memory_mib: usize },
    #[error("-c {0}: between 1 and {CONNECTIONS_MAX} connections can be allowed")]
    Connections(usize),
    #[error("--table-size {0}: a power of two between {TABLE_SIZE_MIN} and {TABLE_SIZE_MAX} bytes is needed")]
    TableSize(u64),
    #[error("--flush-interval {0:?}: between {FLUSH_INTERVAL_MS_MIN} ms and {FLUSH_INTERVAL_MS_MAX} ms can be kept")]
    FlushInterval(Duration),
    #[error("-p 0: there would be nothing to listen on; give a port, or a unix socket with -s")]
    NoPort,
    #[error("-R {0}: at least one request has to be answered before others get their turn")]
    RequestsPerTurn(usize),
    #[error("-b {0}: at least one connection has to be able to wait")]
    Backlog(i32),
    #[error("-a {0:o}: permissions between 0 and 777 are needed")]
    UnixPermissions(u32),
    #[error("-s {}: {why}", path.display())]
    UnixSocket { path: PathBuf, why: &'static str },
    #[error("--spin-us {0}: at most {SPIN_US_MAX} microseconds can be spun")]
    Spin(u64),
    #[error(transparent)]
    Extended(#[from] BadExtended),
    #[error("-l {address}: {why}. Give a host, host:port or [v6]:port")]
    Address { address: String, why: String },
}

impl ServeArguments {
    /// Checks everything that needs no look at the machine.
    pub(super) fn check(&self) -> Result<(), BadFlag> {
        self.check_network()?;
        if self.memory_mib < MEMORY_MIB_MIN {
            return Err(BadFlag::Memory(self.memory_mib));
        }
        let memory = self.memory_mib.checked_mul(MIB).ok_or(BadFlag::MemoryTooLarge(self.memory_mib))?;
        if !(ITEM_SIZE_MIN as u64..=ITEM_SIZE_MAX as u64).contains(&self.item_size) {
            return Err(BadFlag::ItemSize(self.item_size));
        }
        if self.item_size > memory as u64 / 2 {
            return Err(BadFlag::ItemSizeOfMemory { item_size: self.item_size, memory_mib: self.memory_mib });
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(BadFlag::Connections(self.connections));
        }
        let in_range = |size: &u64| (TABLE_SIZE_MIN as u64..=TABLE_SIZE_MAX as u64).contains(size);
        if let Some(size) = self.table_size.filter(|size| !size.is_power_of_two() || !in_range(size)) {
            return Err(BadFlag::TableSize(size));
        }
        let milliseconds = self.flush_interval.as_millis();
        if !(u128::from(FLUSH_INTERVAL_MS_MIN)..=u128::from(FLUSH_INTERVAL_MS_MAX)).contains(&milliseconds) {
            return Err(BadFlag::FlushInterval(self.flush_interval));
        }
        Ok(())
    }

    fn check_network(&self) -> Result<(), BadFlag> {
        if self.port == 0 && self.unix_socket.is_none() {
            return Err(BadFlag::NoPort);
        }
        if self.requests_per_turn == 0 {
            return Err(BadFlag::RequestsPerTurn(self.requests_per_turn));
        }
        if self.backlog < 1 {
            return Err(BadFlag::Backlog(self.backlog));
        }
        if self.unix_permissions > 0o777 {
            return Err(BadFlag::UnixPermissions(self.unix_permissions));
        }
        if let Some(path) = self.unix_socket.clone() {
            match path.as_os_str().len() {
                0 => return Err(BadFlag::UnixSocket { path, why: "a path is needed" }),
                1..=UNIX_PATH_SIZE_MAX => {}
                _ => return Err(BadFlag::UnixSocket { path, why: "the path of a unix socket has at most 107 bytes" }),
            }
        }
        if let Some(spin) = self.spin_us.filter(|spin| *spin > SPIN_US_MAX) {
            return Err(BadFlag::Spin(spin));
        }
        self.extended().map(drop)
    }

    /// What `-o` says.
    pub(super) fn extended(&self) -> Result<Extended, BadFlag> {
        Ok(Extended::parse(&self.extended)?)
    }

    /// Where to listen: on the unix socket of `-s`, or on the addresses of `-l`, as memcached.
    pub(super) fn addresses(&self) -> Result<Vec<Address>, BadFlag> {
        match &self.unix_socket {
            Some(path) => Ok(vec![Address::Unix(path.clone(), self.unix_permissions)]),
            None => Ok(self.tcp_addresses()?.into_iter().map(Address::Tcp).collect()),
        }
    }

    /// The addresses of `-l`, with the port of `-p` where they have none.
    fn tcp_addresses(&self) -> Result<Vec<SocketAddr>, BadFlag> {
        let separator = |character| character == ',' || character == ';';
        let mut addresses = Vec::new();
        for address in self.listen.iter().flat_map(|list| list.split(separator)).filter(|address| !address.is_empty()) {
            for resolved in resolve(address, self.port)? {
                if !addresses.contains(&resolved) {
                    addresses.push(resolved);
                }
            }
        }
        if addresses.is_empty() {
            return Err(BadFlag::Address { address: self.listen.join(","), why: "no address in it".to_owned() });
        }
        Ok(addresses)
    }
}

fn resolve(address: &str, port: u16) -> Result<Vec<SocketAddr>, BadFlag> {
    let bad = |why: String| BadFlag::Address { address: address.to_owned(), why };
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let resolved = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| bad(format!("{port:?} is no port")))?).to_socket_addrs(),
        None => (address, port).to_socket_addrs(),
    };
    Ok(resolved.map_err(|error| bad(error.to_string()))?.collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn arguments(line: &str) -> ServeArguments {
        Line::try_parse_from(std::iter::once("dmacached").chain(line.split_whitespace())).expect("a good line").serve
    }

    #[test]
    fn defaults_are_memcacheds() {
        let serve = arguments("");
        assert_eq!((serve.port, serve.memory_mib, serve.item_size, serve.connections), (11211, 64, 1 << 20, 1024));
        assert!(serve.check().is_ok());
        assert_eq!(serve.tcp_addresses().expect("good"), ["127.0.0.1:11211".parse().expect("good")]);
        assert_eq!((serve.requests_per_turn, serve.backlog, serve.unix_permissions), (20, 1024, 0o700));
    }

    #[test]
    fn addresses_come_in_lists_with_and_without_ports() {
        let serve = arguments("-p 5 -l 127.0.0.1,127.0.0.2:7 -l [::1]:8;::1");
        let expected = ["127.0.0.1:5", "127.0.0.2:7", "[::1]:8", "[::1]:5"].map(|text| text.parse().expect("good"));
        assert_eq!(serve.tcp_addresses().expect("good"), expected);
        assert!(arguments("-l 127.0.0.1:x").addresses().is_err());
        assert!(arguments("-l ,").addresses().is_err());
    }

    #[test]
    fn a_unix_socket_is_instead_of_tcp() {
        let serve = arguments("-s /tmp/a -a 755 -p 0 -o idle_timeout=9");
        assert!(serve.check().is_ok());
        assert_eq!(serve.addresses().expect("good"), [Address::Unix("/tmp/a".into(), 0o755)]);
        assert_eq!(serve.extended().expect("good").idle_timeout, Some(Duration::from_secs(9)));
        let long = format!("-s {}", "x".repeat(108));
        assert!(arguments(&long).check().is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "-m 4",
            "-I 500",
            "-I 40m",
            "-I 2g -m 9000",
            "-c 0",
            "-p 0",
            "--table-size 3m",
            "--table-size 512k",
            "--flush-interval 1ms",
            "-R 0",
            "-b 0",
            "-s sock -a 1777",
            "--spin-us 2000000",
            "-o nonsense",
            "-o idle_timeout=x",
        ] {
            assert!(arguments(line).check().is_err(), "{line}");
        }
    }
}
