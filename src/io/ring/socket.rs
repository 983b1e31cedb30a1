//! Listening sockets, as memcached makes them.

use std::io::{self, Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt};

/// How often, and after which pause, it is looked again whether the socket of a server that was killed is gone.
const LINGERING_ATTEMPTS: u32 = 20;
const LINGERING_PAUSE: Duration = Duration::from_millis(50);

/// How long it is looked whether another server answers on an address. On this machine that takes microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// What `stats conns` prints instead of an address that nobody knows any more.
const UNKNOWN_NAME: &str = "?";

/// Listens on a TCP address. `backlog` is memcached's `-b`. With `shared`, other sockets of this process may listen on
/// the same address (SO_REUSEPORT), and the kernel spreads connections over them; a port of another process is an
/// error all the same.
///
/// # Errors
/// `AddrInUse`, when somebody listens there; otherwise what socket(2), setsockopt(2), bind(2) and listen(2) say.
pub fn listen_tcp(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<OwnedFd> {
    // With SO_REUSEPORT a second server of the same user would silently get a part of the connections.
    if shared && stays_in_use(address) {
        return Err(ErrorKind::AddrInUse.into());
    }
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if shared {
        socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        // As memcached: 0.0.0.0 and :: are two addresses that can both be listened on.
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    // Accepted sockets inherit both from the listening one (Linux), which saves two system calls for each.
    socket::setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    socket::setsockopt(&socket, sockopt::KeepAlive, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::new(backlog)?)?;
    Ok(socket)
}

/// The address that a socket listens on: with the port that the system has chosen where 0 was asked for.
///
/// # Errors
/// What getsockname(2) says.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let storage: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
    internet_address(&storage).ok_or_else(|| Error::from(ErrorKind::Unsupported))
}

fn internet_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// The address that a connection was made to, as `stats conns` prints it.
#[must_use]
pub fn local_name(socket: &OwnedFd) -> String {
    socket::getsockname(socket.as_raw_fd()).map_or_else(|_| UNKNOWN_NAME.to_owned(), |storage| name(&storage))
}

/// The address that a connection came from, as `stats conns` prints it.
#[must_use]
pub fn peer_name(socket: &OwnedFd) -> String {
    // Fails when the other side is gone.
    socket::getpeername(socket.as_raw_fd()).map_or_else(|_| UNKNOWN_NAME.to_owned(), |storage| name(&storage))
}

/// A TCP address as `stats conns` prints it.
#[must_use]
pub fn internet_name(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("tcp:{address}"),
        SocketAddr::V6(address) => format!("tcp6:[{}]:{}", address.ip(), address.port()),
    }
}

fn name(storage: &SockaddrStorage) -> String {
    let unix = || {
        let path = storage.as_unix_addr().and_then(|address| address.path());
        format!("unix:{}", path.unwrap_or_else(|| Path::new("")).display())
    };
    internet_address(storage).map_or_else(unix, internet_name)
}

/// Listens on a unix socket, memcached's `-s`, with the permissions of `-a`. A socket file that nobody listens on is
/// replaced, as memcached does.
///
/// # Errors
/// `AddrInUse`, when somebody listens there; `AlreadyExists`, when another kind of file has the name; otherwise what
/// the system calls say.
pub fn listen_unix(path: &Path, permissions: u32, backlog: i32) -> io::Result<OwnedFd> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::bind(socket.as_raw_fd(), &socket::UnixAddr::new(path)?)?;
    // Nobody can connect before listen(2), so there is no moment with other permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions))?;
    socket::listen(&socket, Backlog::new(backlog)?)?;
    Ok(socket)
}

/// Whether somebody listens on `address` and goes on doing so. The socket of a server that was killed may live on for a
/// moment, as the kernel ends io_uring's accepts after the process.
fn stays_in_use(address: SocketAddr) -> bool {
    for _ in 0..LINGERING_ATTEMPTS {
        if !somebody_listens(address) {
            return false;
        }
        std::thread::sleep(LINGERING_PAUSE);
    }
    true
}

/// Whether a connection to `address` is accepted.
fn somebody_listens(address: SocketAddr) -> bool {
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ip = if address.ip().is_unspecified() { local } else { address.ip() };
    address.port() != 0 && TcpStream::connect_timeout(&(ip, address.port()).into(), CONNECT_TIMEOUT).is_ok()
}

/// Sends a last word without waiting, as far as the socket takes it.
pub fn send_last_word(socket: &OwnedFd, word: &[u8]) {
    // The client may be gone already; it is told as far as it listens.
    let flags = socket::MsgFlags::MSG_DONTWAIT | socket::MsgFlags::MSG_NOSIGNAL;
    let _ = socket::send(socket.as_raw_fd(), word, flags);
}

/// Has a connection end with a reset when it is closed, as it would if something it has received were not taken. Otherwise
/// a client that goes on sending to nobody would wait for the system's time-out.
pub fn reset_at_close(socket: &OwnedFd) {
    // Fails on unix sockets of old kernels only, whose writers fail at once anyway.
    let _ = socket::setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Says that nothing more will be sent, behind what was: the other side may go on, and is still received from.
pub fn end_sending(socket: &OwnedFd) {
    // Fails when the other side has gone before.
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Write);
}

/// Ends a connection in both directions: what waits in the ring for it ends too.
pub fn shut_down(socket: &OwnedFd) {
    // Fails when the other side has gone before.
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Both);
}
