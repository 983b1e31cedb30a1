//! Listening addresses and the tasks that accept on them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as TcpStandardStream};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::AsyncWriteExt;
use glommio::net::{TcpListener, TcpStream};

use super::Server;
use crate::io::Io;
use crate::protocol::text::encode::Answer;
use crate::stats::add;

/// How long accepting pauses when the system has no descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(20);

/// How long it is looked whether another server answers on an address. On this machine that takes microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}. Choose another port with -p or address with -l")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Sockets that are bound and not served yet.
pub struct Listeners {
    listeners: Vec<(SocketAddr, TcpListener)>,
}

impl Listeners {
    /// Binds all addresses.
    ///
    /// # Errors
    /// [`BindError`] for the first that fails; a port that another server has is one, although glommio's sockets
    /// share ports.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| {
            let failed = |source| BindError { address: *address, source };
            // glommio sets SO_REUSEPORT, with which a second server of the same user would silently get a part of the
            // connections. (A trial bind without it would also fail on connections that are merely in TIME_WAIT.)
            if somebody_listens(*address) {
                return Err(failed(io::ErrorKind::AddrInUse.into()));
            }
            let listener = TcpListener::bind(*address).map_err(|error| failed(error.into()))?;
            Ok((*address, listener))
        };
        Ok(Self { listeners: addresses.iter().map(bind).collect::<Result<_, _>>()? })
    }

    /// Starts to accept on all of them. Returns the addresses, with the port that the system has chosen where 0 was
    /// asked for.
    pub fn serve<I: Io>(self, server: &Rc<Server<I>>) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (address, listener) in self.listeners {
            addresses.push(listener.local_addr().unwrap_or(address));
            let accepting = Rc::clone(server);
            let task = glommio::spawn_local(async move { accepting.accept(listener).await });
            server.accept_tasks.borrow_mut().push(task);
        }
        addresses
    }
}

/// Whether a connection to `address` is accepted.
fn somebody_listens(address: SocketAddr) -> bool {
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ip = if address.ip().is_unspecified() { local } else { address.ip() };
    address.port() != 0 && TcpStandardStream::connect_timeout(&(ip, address.port()).into(), CONNECT_TIMEOUT).is_ok()
}

impl<I: Io> Server<I> {
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let mut failure_count = 0u64;
        loop {
            match listener.accept().await {
                Ok(stream) => self.welcome(stream),
                Err(error) => {
                    failure_count += 1;
                    if failure_count.is_power_of_two() {
                        tracing::error!("accepting a connection failed ({failure_count} times so far): {error}");
                    }
                    glommio::timer::sleep(PAUSE).await;
                }
            }
        }
    }

    fn welcome(self: &Rc<Self>, mut stream: TcpStream) {
        let counters = &self.counters;
        if counters.curr_connections.get() >= self.connection_count_max {
            add(&counters.rejected_connections, 1);
            glommio::spawn_local(async move {
                // The client may be gone already; it is told as far as it listens.
                let _ = stream.write_all(Answer::TooManyConnections.line()).await;
                let _ = stream.close().await;
            })
            .detach();
            return;
        }
        add(&counters.total_connections, 1);
        add(&counters.curr_connections, 1);
        let server = Rc::clone(self);
        glommio::spawn_local(async move {
            server.session(stream).await;
            let counter = &server.counters.curr_connections;
            counter.set(counter.get() - 1);
        })
        .detach();
    }
}
