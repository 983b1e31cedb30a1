//! Listening sockets of a shard.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::io::ring::{Ring, socket};
use crate::protocol::Binding;

/// How long accepting pauses when the system has no descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Where clients find the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket with its permissions.
    Unix(PathBuf, u32),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path, _) => write!(formatter, "unix socket {}", path.display()),
        }
    }
}

/// A place to listen on, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// What its connections speak: `-l proto[NAME]:`, else `-B`.
    pub binding: Binding,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A TCP address.
    #[error("cannot listen on {address}: {source}. Choose another port with -p or address with -l")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A unix socket.
    #[error("cannot listen on the unix socket {}: {source}. Choose another path with -s", path.display())]
    Unix {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

struct Listener {
    address: Address,
    binding: Binding,
    socket: Option<OwnedFd>,
    /// The ring accepts on it.
    is_accepting: bool,
    /// When it is to be tried again.
    again: Option<Duration>,
}

/// Sockets that are bound.
pub struct Listeners {
    listeners: Vec<Listener>,
    is_closed: bool,
    failure_count: u64,
}

impl Listeners {
    /// Binds all addresses.
    ///
    /// # Errors
    /// [`BindError`] for the first that fails; one that another server has is one.
    pub fn bind(endpoints: &[Endpoint], backlog: i32) -> Result<Self, BindError> {
        let bind = |endpoint: &Endpoint| {
            let (socket, address) = match &endpoint.address {
                Address::Tcp(wanted) => {
                    let failed = |source| BindError::Tcp { address: *wanted, source };
                    let socket = socket::listen_tcp(*wanted, backlog, true).map_err(failed)?;
                    let address = socket::local_address(&socket).map_err(failed)?;
                    (socket, Address::Tcp(address))
                }
                Address::Unix(path, permissions) => {
                    let failed = |source| BindError::Unix { path: path.clone(), source };
                    (socket::listen_unix(path, *permissions, backlog).map_err(failed)?, endpoint.address.clone())
                }
            };
            let binding = endpoint.binding;
            Ok(Listener { address, binding, socket: Some(socket), is_accepting: false, again: None })
        };
        let listeners = endpoints.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self { listeners, is_closed: false, failure_count: 0 })
    }

    /// The addresses, with the port that the system has chosen where 0 was asked for.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(|listener| &listener.address)
    }

    /// What the connections of a listener speak; the number is the one that the ring names with each connection.
    #[must_use]
    pub fn binding(&self, number: u32) -> Binding {
        self.listeners.get(number as usize).map_or(Binding::Auto, |listener| listener.binding)
    }

    /// The sockets with their addresses.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (&OwnedFd, &Address)> {
        self.listeners.iter().filter_map(|listener| Some((listener.socket.as_ref()?, &listener.address)))
    }

    /// Starts to accept on all of them.
    pub(super) fn accept(&mut self, ring: &Ring) {
        for (number, listener) in (0..).zip(&mut self.listeners) {
            if let Some(socket) = &listener.socket {
                ring.accept(number, socket.as_fd());
                (listener.is_accepting, listener.again) = (true, None);
            }
        }
    }

    /// Accepting has failed.
    pub(super) fn failed(&mut self, error: &io::Error) {
        if self.is_closed {
            return;
        }
        self.failure_count += 1;
        if self.failure_count.is_power_of_two() {
            tracing::error!("accepting a connection failed ({} times so far): {error}", self.failure_count);
        }
    }

    /// The ring has stopped to accept for a listener. Returns when to try again.
    pub(super) fn ended(&mut self, number: u32, now: Duration) -> Option<Duration> {
        let is_closed = self.is_closed;
        let listener = self.listeners.get_mut(number as usize)?;
        listener.is_accepting = false;
        if is_closed {
            // Only now: until then the ring held the socket, and connections would have been taken by nobody.
            listener.socket = None;
            return None;
        }
        listener.again = Some(now + PAUSE);
        listener.again
    }

    /// Tries again where it is time; returns when the next is.
    pub(super) fn accept_again(&mut self, ring: &Ring, now: Duration) -> Option<Duration> {
        let mut next = None;
        for (number, listener) in (0..).zip(&mut self.listeners) {
            let (Some(again), Some(socket)) = (listener.again, &listener.socket) else { continue };
            if again <= now {
                ring.accept(number, socket.as_fd());
                (listener.is_accepting, listener.again) = (true, None);
            } else {
                next = Some(next.unwrap_or(again).min(again));
            }
        }
        next
    }

    /// Accepts nothing more.
    pub(super) fn close(&mut self, ring: &Ring) {
        self.is_closed = true;
        for (number, listener) in (0..).zip(&mut self.listeners) {
            if listener.is_accepting {
                ring.cancel_accept(number);
            } else {
                listener.socket = None;
            }
            listener.again = None;
            if let Address::Unix(path, _) = &listener.address {
                // As memcached does at its end.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Whether the last socket is gone, after [`Self::close`].
    pub(super) fn are_closed(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }
}
