//! What flags cannot be, each with a sentence that names the flag, the value and what to do.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::ServeArguments;
use super::extended::BadExtended;
use super::listen::Port;
use crate::limits::{
    CONNECTIONS_MAX, FLUSH_INTERVAL_MS_MAX, FLUSH_INTERVAL_MS_MIN, ITEM_SIZE_MAX, ITEM_SIZE_MIN, MEMORY_MIB_MIN, MIB,
    SCRUB_INTERVAL_MS_MAX, SCRUB_INTERVAL_MS_MIN, SPIN_US_MAX, TABLE_SIZE_MAX, TABLE_SIZE_MIN,
    UNIX_PERMISSIONS_DEFAULT,
};
use crate::shard::Binding;

/// Bytes of a unix socket's path: what sockaddr_un takes, without the NUL (unix(7)).
const UNIX_PATH_SIZE_MAX: usize = 107;
const _: () = assert!(UNIX_PERMISSIONS_DEFAULT == 0o700, "as the flag's default says");
const _: () =
    assert!(SCRUB_INTERVAL_MS_MIN == 1000 && SCRUB_INTERVAL_MS_MAX == 366 * 86_400_000, "as the sentence says");
const _: () = assert!(crate::limits::PORT_DEFAULT == 11211, "as the flag's default says");

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
    #[error("--scrub-interval {0:?}: between 1 s and 366 days can be kept; leave it out to have no scrub")]
    ScrubInterval(Duration),
    #[error("-p 0: there would be nothing to listen on; give a port, or a unix socket with -s")]
    NoPort,
    #[error("-U {0}: UDP is not served; leave -U out or give -U 0, and use TCP or a unix socket")]
    Udp(i64),
    #[error("-t {0}: at least one thread is needed; leave -t out if in doubt")]
    Threads(usize),
    #[error("-R {0}: at least one request has to be answered before others get their turn")]
    RequestsPerTurn(usize),
    #[error("-b {0}: at least one connection has to be able to wait")]
    Backlog(i32),
    #[error("-a {0:o}: permissions between 0 and 777 are needed")]
    UnixPermissions(u32),
    #[error("{flag} {}: {why}", path.display())]
    Path { flag: &'static str, path: PathBuf, why: &'static str },
    #[error("--spin-us {0}: at most {SPIN_US_MAX} microseconds can be spun")]
    Spin(u64),
    #[error("-f {0}: a factor greater than 1 is needed; it is not used here, so leave -f out")]
    GrowthFactor(f64),
    #[error("-n 0: a size greater than 0 is needed; it is not used here, so leave -n out")]
    SlabMinSize,
    #[error("-N 0: a number greater than 0 is needed; it is not used here, so leave -N out")]
    NapiIds,
    #[error("-B binary does not go with -Y: clients say who they are in the ascii protocol; leave -B out")]
    BinaryAuth,
    #[error("-l {0}: with -Y every address speaks the ascii protocol; leave proto[] out")]
    AddressAuth(String),
    #[error("-S: SASL is not supported; clients can say who they are in the ascii protocol: see -Y FILE")]
    Sasl,
    #[error(
        "-Z: TLS is not supported; put a proxy that ends it in front (stunnel, HAProxy, Envoy), and listen on -s or on \
        127.0.0.1 behind it"
    )]
    Tls,
    #[error("-e {}: there is no memory file, as data is there again after any restart; name its directory with \
        --data-dir and leave -e out", .0.display())]
    MemoryFile(PathBuf),
    #[error(transparent)]
    Extended(#[from] BadExtended),
    #[error("-l {address}: {why}. Give a host, host:port or [v6]:port")]
    Address { address: String, why: String },
    #[error("-d: {} cannot be found from another directory: {source}. Give whole paths", path.display())]
    NoWorkingDirectory { path: PathBuf, source: std::io::Error },
}

impl ServeArguments {
    /// Checks everything that needs no look at the machine.
    pub(super) fn check(&self) -> Result<(), BadFlag> {
        self.check_refused()?;
        self.check_network()?;
        self.check_sizes()?;
        self.check_unused()?;
        for (flag, path) in [("-P", &self.process.pid_file), ("-Y", &self.commands.auth_file)] {
            if let Some(path) = path.as_deref().filter(|path| path.as_os_str().is_empty()) {
                return Err(BadFlag::Path { flag, path: path.into(), why: "a path is needed" });
            }
        }
        if self.commands.auth_file.is_some() && self.commands.binding == Binding::Binary {
            return Err(BadFlag::BinaryAuth);
        }
        self.extended().map(drop)
    }

    /// What memcached can do and this server cannot.
    fn check_refused(&self) -> Result<(), BadFlag> {
        match &self.other.memory_file {
            _ if self.other.sasl => Err(BadFlag::Sasl),
            _ if self.other.tls => Err(BadFlag::Tls),
            Some(file) => Err(BadFlag::MemoryFile(file.clone())),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), BadFlag> {
        check_sizes(self.memory.mib, self.memory.item_size, self.storage.table_size)?;
        let milliseconds = self.storage.flush_interval.as_millis();
        if !(u128::from(FLUSH_INTERVAL_MS_MIN)..=u128::from(FLUSH_INTERVAL_MS_MAX)).contains(&milliseconds) {
            return Err(BadFlag::FlushInterval(self.storage.flush_interval));
        }
        let allowed = Duration::from_millis(SCRUB_INTERVAL_MS_MIN)..=Duration::from_millis(SCRUB_INTERVAL_MS_MAX);
        if let Some(interval) = self.storage.scrub_interval.filter(|interval| !allowed.contains(interval)) {
            return Err(BadFlag::ScrubInterval(interval));
        }
        Ok(())
    }

    fn check_network(&self) -> Result<(), BadFlag> {
        let network = &self.network;
        if network.port == Port::Off && network.unix_socket.is_none() {
            return Err(BadFlag::NoPort);
        }
        if network.udp_port != 0 {
            return Err(BadFlag::Udp(network.udp_port));
        }
        if !(1..=CONNECTIONS_MAX).contains(&network.connections) {
            return Err(BadFlag::Connections(network.connections));
        }
        if let Some(0) = network.threads {
            return Err(BadFlag::Threads(0));
        }
        if network.requests_per_turn == 0 {
            return Err(BadFlag::RequestsPerTurn(network.requests_per_turn));
        }
        if network.backlog < 1 {
            return Err(BadFlag::Backlog(network.backlog));
        }
        if network.unix_permissions > 0o777 {
            return Err(BadFlag::UnixPermissions(network.unix_permissions));
        }
        if let Some(path) = &network.unix_socket {
            check_unix_path(path)?;
        }
        if let Some(spin) = network.spin_us.filter(|spin| *spin > SPIN_US_MAX) {
            return Err(BadFlag::Spin(spin));
        }
        Ok(())
    }

    /// What is not used may be wrong all the same: memcached would not start with it.
    fn check_unused(&self) -> Result<(), BadFlag> {
        if let Some(factor) = self.other.growth_factor.filter(|factor| factor.is_nan() || *factor <= 1.0) {
            return Err(BadFlag::GrowthFactor(factor));
        }
        match (self.other.slab_min_size, self.other.napi_ids) {
            (Some(0), _) => Err(BadFlag::SlabMinSize),
            (_, Some(0)) => Err(BadFlag::NapiIds),
            _ => Ok(()),
        }
    }
}

/// `-m`, `-I` and `--table-size`, of whatever opens a store.
pub(super) fn check_sizes(memory_mib: usize, item_size: u64, table_size: Option<u64>) -> Result<(), BadFlag> {
    if memory_mib < MEMORY_MIB_MIN {
        return Err(BadFlag::Memory(memory_mib));
    }
    let memory = memory_mib.checked_mul(MIB).ok_or(BadFlag::MemoryTooLarge(memory_mib))?;
    if !(ITEM_SIZE_MIN as u64..=ITEM_SIZE_MAX as u64).contains(&item_size) {
        return Err(BadFlag::ItemSize(item_size));
    }
    if item_size > memory as u64 / 2 {
        return Err(BadFlag::ItemSizeOfMemory { item_size, memory_mib });
    }
    let in_range = |size: &u64| (TABLE_SIZE_MIN as u64..=TABLE_SIZE_MAX as u64).contains(size);
    match table_size.filter(|size| !size.is_power_of_two() || !in_range(size)) {
        Some(size) => Err(BadFlag::TableSize(size)),
        None => Ok(()),
    }
}

fn check_unix_path(path: &Path) -> Result<(), BadFlag> {
    let why = match path.as_os_str().as_bytes().len() {
        0 => "a path is needed",
        1..=UNIX_PATH_SIZE_MAX => return Ok(()),
        _ => "the path of a unix socket has at most 107 bytes",
    };
    Err(BadFlag::Path { flag: "-s", path: path.into(), why })
}
