//! What the ring has completed, and what becomes of the connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dma_alloc::{Key, Lease};

use super::connection::Parser;
use super::reads::{self, Answer, Purpose};
use super::session::{HeldRead, Receiving, Session, Waits};
use super::{INPUT_SIZE_HIGH, Phase, Server};
use crate::io::ring::{Completion, Outgoing, Received, socket};
use crate::protocol::text::encode::Answer as Line;
use crate::shard::{Settled, ValueSink};
use crate::stats::add;

/// Takes values by copying them.
struct Copied(Vec<u8>);

impl ValueSink for Copied {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Server {
    pub(super) fn handle(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Received { name, bytes, more } => self.received(Key::from_bits(name), bytes, more),
            Completion::Sent { name, outgoing, sent } => self.sent(Key::from_bits(name), outgoing, sent),
            Completion::Read { name, lease, count } => self.has_read(Key::from_bits(name), lease, &count),
            Completion::Accepted { listener, socket, more } => self.accepted(listener, socket, more),
            // Whatever it was rung for is asked once per turn.
            Completion::Bell => {}
        }
    }

    fn accepted(&mut self, listener: u32, accepted: io::Result<OwnedFd>, more: bool) {
        let now = self.io.moment();
        match accepted {
            Ok(socket) => self.welcome(listener, socket, now.as_secs()),
            Err(error) => self.listeners.failed(&error),
        }
        if !more && let Some(moment) = self.listeners.ended(listener, now) {
            self.next_look = Some(self.next_look.unwrap_or(moment).min(moment));
        }
    }

    fn welcome(&mut self, listener: u32, socket: OwnedFd, now: u64) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        let parser = Parser::new(self.listeners.binding(listener), self.options.auth.is_some());
        match self.sessions.insert(Session::new(socket, parser, now)) {
            Ok(key) => {
                add(&self.counters.total_connections, 1);
                add(&self.counters.curr_connections, 1);
                self.receive(key);
                self.tell_of_connection(key, None);
            }
            Err(session) => {
                add(&self.counters.rejected_connections, 1);
                socket::send_last_word(&session.socket, Line::TooManyConnections.line());
            }
        }
    }

    fn receive(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.receiving = Receiving::Armed;
            self.io.ring().receive(key.to_bits(), session.socket.as_fd());
        }
    }

    fn received(&mut self, key: Key, bytes: io::Result<Option<Received<'_>>>, more: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !more {
            session.receiving = Receiving::Off;
        }
        match bytes {
            Ok(Some(bytes)) => {
                session.active = self.io.moment().as_secs();
                add(&self.counters.bytes_read, bytes.len() as u64);
                if !session.has_ended {
                    self.execute(key, &bytes);
                }
            }
            // The end of the stream. What was asked for before it is answered: a client may close its half and go on
            // reading.
            Ok(None) if session.is_watcher => return self.break_off(key),
            Ok(None) => (session.has_ended, session.is_cut) = (true, false),
            // No buffer was free, or we asked for it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED)) => {}
            Err(_) => return self.break_off(key),
        }
        self.receive_again(key);
        self.close_if_over(key);
    }

    /// Goes on receiving, unless requests wait that are to be executed first.
    pub(super) fn receive_again(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let has_room = session.waits == Waits::Nothing || session.input.unparsed().len() <= INPUT_SIZE_HIGH / 2;
        if session.receiving == Receiving::Off && !session.has_ended && !session.is_broken && has_room {
            self.receive(key);
        }
    }

    fn sent(&mut self, key: Key, mut outgoing: Box<Outgoing>, sent: io::Result<usize>) {
        let Some(session) = self.sessions.get_mut(key) else { return self.spares.give(outgoing) };
        session.is_sending = false;
        match sent {
            Ok(count) if count > 0 => {
                add(&self.counters.bytes_written, count as u64);
                outgoing.advance(count);
            }
            // Nobody listens any more.
            Ok(_) | Err(_) => {
                self.spares.give(outgoing);
                return self.break_off(key);
            }
        }
        if !outgoing.is_empty() && !session.is_broken {
            session.is_sending = true;
            self.io.ring().send(key.to_bits(), session.socket.as_fd(), outgoing);
            return;
        }
        self.spares.give(outgoing);
        // What has gathered meanwhile.
        self.note_answers(key);
        self.resume_if_not_full(key);
        self.receive_again(key);
        self.close_if_over(key);
    }

    fn has_read(&mut self, name: Key, lease: Lease, count: &io::Result<usize>) {
        let Some(mut ended) = self.reads.ended(name, count) else { return };
        let lease = reads::shared(lease, count);
        while let Some(key) = self.reads.next_waiter(&mut ended) {
            let Some(pending) = self.reads.get_mut(key) else { continue };
            let session = pending.session;
            if self.shard.watchers().is_any()
                && let Some(session) = self.sessions.get(session)
            {
                self.shard.watchers().set_speaker(session.socket.as_raw_fd());
            }
            match &mut pending.purpose {
                Purpose::Update => {
                    self.reads.remove(key);
                    if let Some(session) = self.sessions.get_mut(session) {
                        session.held = Some(HeldRead { disk: ended.disk.clone(), lease: lease.clone() });
                    }
                    self.resume(session, Waits::Record);
                }
                Purpose::Get(get) => {
                    let mut encoded = Vec::new();
                    pending.answer = match self.shard.settle(get, lease.as_deref(), &mut encoded) {
                        Settled::Again => None,
                        Settled::Encoded => Some(Answer::Encoded(encoded)),
                        Settled::Hit => Some(lease.clone().map_or(Answer::Miss, Answer::Hit)),
                        Settled::Miss => Some(Answer::Miss),
                    };
                    let is_settled = pending.answer.is_some();
                    if self.commits {
                        let trace = self.shard.store().take_trace();
                        self.depend(session, trace);
                    }
                    if is_settled { self.settled(session, key) } else { self.reads.again(key) }
                }
            }
        }
    }

    /// Starts reads that have waited for a buffer. If gets hold what they wait for, those give it back: their answers are
    /// made now, and wait as bytes.
    pub(super) fn begin_starved_reads(&mut self) {
        self.reads.begin_starved();
        let holders = self.reads.holders();
        for key in &holders {
            let Some(pending) = self.reads.get_mut(*key) else { continue };
            if let (Purpose::Get(get), Some(Answer::Hit(lease))) = (&pending.purpose, &pending.answer) {
                let mut bytes = Copied(Vec::new());
                self.shard.encode_hit(get, lease, &mut bytes);
                pending.answer = Some(Answer::Encoded(bytes.0));
            }
        }
        if !holders.is_empty() {
            self.reads.begin_starved();
        }
    }

    /// A pending get has its answer: it and those behind it that have theirs are on their way.
    fn settled(&mut self, key: Key, pending: Key) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.is_broken) else {
            // The connection is gone.
            self.reads.remove(pending);
            return;
        };
        if session.queue.settle_front(&mut self.reads, &self.shard, &mut self.spares) {
            self.note_answers(key);
            self.resume_if_not_full(key);
            self.close_if_over(key);
        }
    }

    /// Ends a connection at once: what it has not been sent is lost.
    pub(super) fn break_off(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !session.is_broken {
            session.is_broken = true;
            session.has_ended = true;
            session.waits = Waits::Nothing;
            session.queue.drop_all(&mut self.reads, &mut self.spares);
            // Ends the receive and the send in the ring, if there are any.
            socket::shut_down(&session.socket);
        }
        self.close_if_over(key);
    }

    /// Closes a connection from which nothing more comes and which has been sent everything.
    pub(super) fn close_if_over(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_over = session.has_ended && session.is_quiet();
        if !is_over {
            return;
        }
        let is_early = matches!(self.phase, Phase::Finishing { linger, .. } if self.io.moment() < linger);
        let lingers = session.is_cut && !session.is_broken && is_early;
        match session.receiving {
            Receiving::Stopping | Receiving::Lingering => {}
            Receiving::Armed | Receiving::Off if lingers => {
                if session.receiving == Receiving::Off {
                    self.io.ring().receive(key.to_bits(), session.socket.as_fd());
                }
                session.receiving = Receiving::Lingering;
                socket::end_sending(&session.socket);
            }
            Receiving::Armed => {
                session.receiving = Receiving::Stopping;
                socket::shut_down(&session.socket);
            }
            Receiving::Off => {
                self.shard.watchers().remove(key.to_bits());
                self.tell_of_connection(key, Some("normal"));
                self.sessions.remove(key);
                let counter = &self.counters.curr_connections;
                counter.set(counter.get() - 1);
            }
        }
    }
}
