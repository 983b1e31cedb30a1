//! Connections that watch: what they send is not looked at any more, and what happens is sent to them.

use std::os::fd::AsRawFd;

use dma_alloc::Key;

use super::Server;
use super::session::Session;
use crate::io::ring::socket;
use crate::protocol::{AdminAnswer, Topics};

impl Server {
    /// A connection has asked to watch.
    pub(super) fn begin_watch(&mut self, key: Key, topics: Topics) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.is_watcher = self.shard.watchers().add(key.to_bits(), topics);
        let answer = if session.is_watcher { AdminAnswer::Ok } else { AdminAnswer::TooManyWatchers };
        session.queue.buffer(&mut self.spares).extend_from_slice(answer.line());
    }

    /// Takes what watchers are to be told to their connections, as far as those take it.
    pub(super) fn pass_on_watched(&mut self) {
        let (sessions, spares) = (&mut self.sessions, &mut self.spares);
        let mut told = Vec::new();
        self.shard.watchers().hand_out(|name, lines| {
            let key = Key::from_bits(name);
            if let Some(session) = sessions.get_mut(key)
                && !lines.is_empty()
                && !session.queue.is_full()
            {
                session.queue.buffer(spares).append(lines);
                told.push(key);
            }
        });
        told.into_iter().for_each(|key| self.note_answers(key));
    }

    /// Tells watchers that a connection has come, or why it goes.
    pub(super) fn tell_of_connection(&self, key: Key, reason: Option<&str>) {
        if self.shard.watchers().is_any()
            && let Some(Session { socket, .. }) = self.sessions.get(key)
        {
            let name = socket::peer_name(socket);
            let (transport, address) = name.split_once(':').unwrap_or((&name, ""));
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            self.shard.watchers().connected((transport, host, port), socket.as_raw_fd(), reason);
        }
    }
}
