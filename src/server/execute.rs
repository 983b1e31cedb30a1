//! Executing what a connection has sent.

use dma_alloc::Key;

use super::connection::Step;
use super::session::{Answering, Receiving, Session, Waits};
use super::{INPUT_SIZE_HIGH, Phase, Server};
use crate::io::ring::{RingIo, socket};
use crate::limits::KEYS_PER_TURN;
use crate::protocol::Request;
use crate::protocol::text::ahead::keys_ahead;
use crate::shard::{After, Executed, Pause, Shard};
use crate::stats::add;
use crate::store::{Held, Obstacle};

/// Why execution stopped.
enum Stopped {
    /// All that was received as a whole is executed.
    NeedInput,
    /// The others have their turn.
    Turn,
    /// `stats conns` is to be answered.
    ListConnections,
    /// There is an obstacle.
    Waits(Waits),
    /// The connection is to be closed.
    Close,
    /// The same, because of what the client sends; it may go on sending.
    Refused,
}

impl Server {
    /// Executes requests of a connection, up to as many as it may have at once: those that wait in its input and then
    /// those in `bytes`, which were just received. What is left is kept. Returns the number of requests.
    pub(super) fn execute(&mut self, key: Key, bytes: &[u8]) -> usize {
        let is_closing = matches!(self.phase, Phase::Closing(_));
        let Some(session) = self.sessions.get_mut(key) else { return 0 };
        if is_closing || session.is_broken {
            return 0;
        }
        let direct = session.input.is_empty() && session.waits == Waits::Nothing;
        if !direct {
            session.input.append(bytes);
            if session.waits != Waits::Nothing {
                self.hold_back(key);
                return 0;
            }
        }
        let (consumed, count, stopped) = self.execute_some(key, direct.then_some(bytes));
        let Some(session) = self.sessions.get_mut(key) else { return count };
        if direct {
            session.input.append(&bytes[consumed..]);
        } else {
            session.input.consume(consumed);
        }
        self.stopped(key, stopped);
        count
    }

    /// Returns the number of bytes that are done with, the number of requests, and why it stopped.
    fn execute_some(&mut self, key: Key, direct: Option<&[u8]>) -> (usize, usize, Stopped) {
        let Some(session) = self.sessions.get_mut(key) else { return (0, 0, Stopped::NeedInput) };
        let Session { input, parser, queue, held, .. } = session;
        let bytes = direct.unwrap_or_else(|| input.unparsed());
        let (reads, spares) = (&mut self.reads, &mut self.spares);
        let (mut position, mut count) = (0, 0);
        let mut announced_count = 0;
        loop {
            let unparsed = &bytes[position..];
            if announced_count == 0 && parser.is_between_requests() {
                announced_count = announce(&self.shard, unparsed);
            }
            if !unparsed.is_empty() && queue.is_full() {
                return (position, count, Stopped::Waits(Waits::Output));
            }
            let (consumed, swallow_size) = match parser.step(unparsed, &self.limits) {
                Step::NeedInput => return (position, count, Stopped::NeedInput),
                Step::Close => return (bytes.len(), count, Stopped::Refused),
                Step::Drop(size) => {
                    position += size;
                    continue;
                }
                Step::Refused { error, noreply, consumed, swallow_size } => {
                    if !noreply {
                        crate::protocol::text::encode::encode_bad_request(queue.buffer(spares), error);
                    }
                    (consumed, swallow_size)
                }
                Step::Request { request, consumed, swallow_size } => {
                    if count == self.options.requests_per_turn {
                        return (position, count, Stopped::Turn);
                    }
                    count += 1;
                    let mut answers = Answering { session: key, queue: &mut *queue, reads, spares };
                    let read = held.as_ref().map(|held| Held { read: &held.disk, bytes: held.lease.as_deref() });
                    match self.shard.execute(&request, read.as_ref(), &mut answers) {
                        Executed::Done(After::Continue) => {}
                        Executed::Done(After::ListConnections) => {
                            parser.executed(swallow_size);
                            return (position + consumed, count, Stopped::ListConnections);
                        }
                        Executed::Done(After::Close) => return (bytes.len(), count, Stopped::Close),
                        Executed::Paused { rest, until } => {
                            let Request::Get { with_cas, touch, .. } = request else { unreachable!("only gets pause") };
                            let done = rest.rest().as_ptr().addr() - unparsed.as_ptr().addr();
                            parser.paused(with_cas, touch, consumed - done);
                            let stopped = match until {
                                Pause::Reads => Stopped::Waits(Waits::Reads),
                                Pause::Output => Stopped::Waits(Waits::Output),
                                Pause::Room => Stopped::Waits(Waits::Room),
                                Pause::Turn => Stopped::Turn,
                            };
                            return (position + done, count + KEYS_PER_TURN, stopped);
                        }
                        Executed::NoReads => return (position, count, Stopped::Waits(Waits::Reads)),
                        Executed::Blocked(Obstacle::Room) => return (position, count, Stopped::Waits(Waits::Room)),
                        Executed::Blocked(Obstacle::Disk(disk)) => {
                            *held = None;
                            let waits = if reads.add_update(key, &disk) { Waits::Record } else { Waits::Reads };
                            return (position, count, Stopped::Waits(waits));
                        }
                        Executed::Blocked(Obstacle::ReadFailed) => unreachable!("the shard answers that"),
                    }
                    *held = None;
                    (consumed, swallow_size)
                }
            };
            position += consumed;
            announced_count = announced_count.saturating_sub(1);
            parser.executed(swallow_size);
        }
    }

    /// Notes what a connection waits for, and has its answers sent.
    fn stopped(&mut self, key: Key, stopped: Stopped) {
        if matches!(stopped, Stopped::ListConnections) {
            self.list_connections(key);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.waits = match stopped {
            Stopped::NeedInput => Waits::Nothing,
            Stopped::Turn => {
                add(&self.counters.conn_yields, 1);
                self.ready.push_back(key);
                Waits::Turn
            }
            Stopped::ListConnections => {
                self.ready.push_back(key);
                Waits::Turn
            }
            Stopped::Waits(waits) => {
                match waits {
                    Waits::Room => self.wait_for_room.push(key),
                    Waits::Reads => self.wait_for_reads.push(key),
                    _ => {}
                }
                waits
            }
            Stopped::Close | Stopped::Refused => {
                if matches!(stopped, Stopped::Refused) {
                    socket::reset_at_close(&session.socket);
                }
                session.parser.close();
                session.has_ended = true;
                Waits::Nothing
            }
        };
        let waits = session.waits;
        self.note_answers(key);
        if waits == Waits::Nothing {
            self.receive_again(key);
        } else {
            self.hold_back(key);
        }
        self.close_if_over(key);
    }

    /// Has answers sent at the end of the turn.
    pub(super) fn note_answers(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let has_answers = session.queue.outgoing.as_ref().is_some_and(|outgoing| !outgoing.is_empty());
        if has_answers && !session.is_dirty {
            session.is_dirty = true;
            self.dirty.push(key);
        }
    }

    /// A connection that waited for its client to take answers, or for its reads, may go on.
    pub(super) fn resume_if_not_full(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        if session.waits == Waits::Output && !session.queue.is_full() {
            self.resume(key, Waits::Output);
        }
    }

    /// Receives no more from a client whose requests pile up.
    fn hold_back(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let size = session.input.unparsed().len();
        if session.receiving == Receiving::Armed && size > INPUT_SIZE_HIGH + session.parser.needed_size() {
            session.receiving = Receiving::Stopping;
            self.io.ring().cancel_receive(key.to_bits());
        }
    }
}

/// Announces the keys of the requests at the front of `bytes` to the store, if there are several; returns after how many
/// requests the next are to be announced.
fn announce(shard: &Shard<RingIo>, bytes: &[u8]) -> usize {
    let ahead = keys_ahead(bytes);
    let keys = ahead.keys();
    if keys.len() > 1 {
        shard.store().announce(keys.iter().copied());
    }
    keys.len().max(1)
}
