//! `stats conns`: what the server knows of its listeners and connections, as memcached prints it.

use std::os::fd::AsRawFd;

use dma_alloc::Key;

use super::listener::Address;
use super::session::{Session, Waits};
use super::{Phase, Server};
use crate::io::Io;
use crate::io::ring::socket;
use crate::protocol::text::encode::{Answer, encode_answer, encode_stat};

impl Server {
    /// Appends the answer to a `stats conns` of the connection `asking`. Asks the system for two addresses of each
    /// connection, so this takes some microseconds for each.
    pub(super) fn list_connections(&mut self, asking: Key) {
        let mut lines = Vec::new();
        if matches!(self.phase, Phase::Serving) {
            let age = self.io.now().saturating_sub(self.shard.facts().started);
            for (socket, address) in self.listeners.sockets() {
                let name = match address {
                    Address::Tcp(address) => socket::internet_name(*address),
                    Address::Unix(path, _) => format!("unix:{}", path.display()),
                };
                let number = socket.as_raw_fd();
                encode_stat(&mut lines, &format!("{number}:addr"), name);
                encode_stat(&mut lines, &format!("{number}:state"), "conn_listening");
                encode_stat(&mut lines, &format!("{number}:secs_since_last_cmd"), age);
            }
        }
        let now = self.io.moment().as_secs();
        for (key, session) in self.sessions.iter() {
            let number = session.socket.as_raw_fd();
            encode_stat(&mut lines, &format!("{number}:addr"), socket::peer_name(&session.socket));
            encode_stat(&mut lines, &format!("{number}:listen_addr"), socket::local_name(&session.socket));
            let state = if key == asking { "conn_parse_cmd" } else { state_of(session) };
            encode_stat(&mut lines, &format!("{number}:state"), state);
            let idle = now.saturating_sub(session.active);
            encode_stat(&mut lines, &format!("{number}:secs_since_last_cmd"), idle);
        }
        encode_answer(&mut lines, Answer::End);
        if let Some(session) = self.sessions.get_mut(asking) {
            session.queue.buffer(&mut self.spares).extend_from_slice(&lines);
        }
    }
}

/// What memcached would say of a connection that does what this one does.
fn state_of(session: &Session) -> &'static str {
    match session.waits {
        _ if session.is_broken || session.has_ended => "conn_closing",
        Waits::Record | Waits::Reads | Waits::Commit => "conn_io_queue",
        Waits::Dump => "conn_watch",
        Waits::Output => "conn_mwrite",
        Waits::Turn | Waits::Room => "conn_parse_cmd",
        Waits::Nothing if session.is_sending => "conn_mwrite",
        Waits::Nothing if !session.is_quiet() => "conn_io_queue",
        Waits::Nothing if session.parser.needed_size() > 0 => "conn_nread",
        Waits::Nothing if !session.parser.is_between_requests() => "conn_swallow",
        Waits::Nothing => "conn_read",
    }
}
