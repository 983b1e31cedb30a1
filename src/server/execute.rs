//! Executing what a connection has sent.

use std::os::fd::AsRawFd;

use dma_alloc::Key;

use super::commit::Refusal;
use super::connection::Step;
use super::session::{Answering, HeldRead, Receiving, Session, Waits};
use super::{INPUT_SIZE_HIGH, Phase, Server, ServerOptions};
use crate::io::ring::{RingIo, socket};
use crate::limits::KEYS_PER_TURN;
use crate::protocol::Request;
use crate::protocol::text::ahead::keys_ahead;
use crate::protocol::text::encode::encode_bad_request;
use crate::shard::{After, Answers, Executed, Pause, Shard};
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
    /// A request is done but for what only the server can do.
    Asked(After),
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
        if is_closing || session.is_broken || session.is_watcher {
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
        if self.shard.watchers().is_any() {
            self.shard.watchers().set_speaker(session.socket.as_raw_fd());
        }
        let Session { input, parser, queue, held, depends_on, .. } = session;
        let bytes = direct.unwrap_or_else(|| input.unparsed());
        let (shard, options, commits) = (&self.shard, &self.options, self.commits);
        let mut answers = Answering { session: key, queue, reads: &mut self.reads, spares: &mut self.spares };
        let (mut position, mut count) = (0, 0);
        let mut announced_count = 0;
        loop {
            let unparsed = &bytes[position..];
            if announced_count == 0 && parser.is_between_requests() {
                announced_count = announce(shard, unparsed);
            }
            if !unparsed.is_empty() && answers.is_full() {
                return (position, count, Stopped::Waits(Waits::Output));
            }
            let (consumed, swallow_size) = match parser.step(unparsed, &self.limits) {
                Step::NeedInput => return (position, count, Stopped::NeedInput),
                Step::Close => return (bytes.len(), count, Stopped::Refused),
                Step::Drop(size) => {
                    position += size;
                    continue;
                }
                Step::Credentials { user, password, consumed } => {
                    if is_let_in(shard, options, (user, password), answers.buffer()) {
                        parser.unlock();
                    }
                    (consumed, 0)
                }
                Step::Locked { answer, consumed } => {
                    answers.buffer().extend_from_slice(answer);
                    (consumed, 0)
                }
                Step::Refused { error, noreply, consumed, swallow_size } => {
                    if !noreply {
                        encode_bad_request(answers.buffer(), error);
                    }
                    (consumed, swallow_size)
                }
                Step::Request { .. } if count == options.requests_per_turn => return (position, count, Stopped::Turn),
                Step::Request { request, consumed, swallow_size } => {
                    count += 1;
                    let depends_on = commits.then_some(&mut *depends_on);
                    match run_traced(shard, &request, held, &mut answers, depends_on) {
                        Ran::Done => (consumed, swallow_size),
                        Ran::DoneAnd(stopped) => {
                            parser.executed(swallow_size);
                            return (position + consumed, count, stopped);
                        }
                        Ran::Closes => return (bytes.len(), count, Stopped::Close),
                        Ran::Paused { rest, stopped } => {
                            let Request::Get { with_cas, touch, .. } = request else { unreachable!("only gets pause") };
                            let done = rest.as_ptr().addr() - unparsed.as_ptr().addr();
                            parser.paused(with_cas, touch, consumed - done);
                            return (position + done, count + KEYS_PER_TURN, stopped);
                        }
                        Ran::Waits(waits) => return (position, count, Stopped::Waits(waits)),
                    }
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
        match stopped {
            Stopped::Asked(After::Dump(style)) => self.begin_dump(key, style),
            Stopped::Asked(After::Watch(topics)) => self.begin_watch(key, topics),
            Stopped::Asked(After::ShutDown) => self.is_shut_down = true,
            _ => {}
        }
        self.note_dependent(key);
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
            Stopped::Asked(After::Dump(_)) => Waits::Dump,
            Stopped::Asked(After::Watch(_)) if session.is_watcher => Waits::Nothing,
            Stopped::Asked(After::Watch(_)) => {
                self.ready.push_back(key);
                Waits::Turn
            }
            Stopped::Close | Stopped::Refused | Stopped::Asked(_) => {
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
        // Taken for an answer that there was not, as some requests have none: an idle connection keeps no buffer.
        if let Some(empty) = session.queue.outgoing.take_if(|outgoing| outgoing.is_empty()) {
            self.spares.give(empty);
        }
        if session.queue.outgoing.is_some() && !session.is_dirty {
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

/// How far a request has come.
enum Ran<'a> {
    Done,
    /// It is done, and nothing more is to be executed for now.
    DoneAnd(Stopped),
    /// The connection is to be closed.
    Closes,
    /// A get of which these keys are left.
    Paused {
        rest: &'a [u8],
        stopped: Stopped,
    },
    /// Nothing is done yet.
    Waits(Waits),
}

/// As [`run`], and notes in `depends_on`, if there are groups to wait for, which one the answer depends on.
fn run_traced<'a>(
    shard: &Shard<RingIo>,
    request: &Request<'a>,
    held: &mut Option<HeldRead>,
    answers: &mut Answering<'_>,
    depends_on: Option<&mut u64>,
) -> Ran<'a> {
    let Some(depends_on) = depends_on else { return run(shard, request, held, answers) };
    let start = answers.queue.end();
    let ran = run(shard, request, held, answers);
    let trace = shard.store().take_trace();
    *depends_on = (*depends_on).max(trace.last());
    if trace.written > 0
        && let Some(refusal) = refusal_of(request, &ran)
    {
        // What it has written may still fail.
        answers.queue.keep(trace.written, refusal, start);
    }
    ran
}

/// What is told instead of a request's answer if the device refuses what was written on the way to it; `None`: there is no
/// answer, or it stays.
fn refusal_of(request: &Request<'_>, ran: &Ran<'_>) -> Option<Refusal> {
    // A delayed flush that was due may be written before a request has to wait. Its answer comes when it is executed again.
    if matches!(ran, Ran::Waits(_)) { None } else { Refusal::of(request) }
}

/// Executes a request, with the record that was read for it if there is one.
fn run<'a>(
    shard: &Shard<RingIo>,
    request: &Request<'a>,
    held: &mut Option<HeldRead>,
    answers: &mut Answering<'_>,
) -> Ran<'a> {
    let read = held.as_ref().map(|held| Held { read: &held.disk, bytes: held.lease.as_deref() });
    let ran = match shard.execute(request, read.as_ref(), answers) {
        Executed::Done(After::Continue) => Ran::Done,
        Executed::Done(After::ListConnections) => Ran::DoneAnd(Stopped::ListConnections),
        Executed::Done(after @ (After::Dump(_) | After::Watch(_) | After::ShutDown)) => {
            Ran::DoneAnd(Stopped::Asked(after))
        }
        Executed::Done(After::Close) => Ran::Closes,
        Executed::Paused { rest, until } => {
            let stopped = match until {
                Pause::Reads => Stopped::Waits(Waits::Reads),
                Pause::Output => Stopped::Waits(Waits::Output),
                Pause::Room => Stopped::Waits(Waits::Room),
                Pause::Turn => Stopped::Turn,
            };
            Ran::Paused { rest: rest.rest(), stopped }
        }
        Executed::NoReads => return Ran::Waits(Waits::Reads),
        Executed::Blocked(Obstacle::Room) => return Ran::Waits(Waits::Room),
        Executed::Blocked(Obstacle::Disk(disk)) => {
            *held = None;
            let is_taken = answers.reads.add_update(answers.session, &disk);
            return Ran::Waits(if is_taken { Waits::Record } else { Waits::Reads });
        }
        Executed::Blocked(Obstacle::ReadFailed) => unreachable!("the shard answers that"),
    };
    *held = None;
    ran
}

/// Answers a client that says who it is; says whether it is right.
fn is_let_in(shard: &Shard<RingIo>, options: &ServerOptions, client: (&[u8], &[u8]), out: &mut Vec<u8>) -> bool {
    let is_right = options.auth.as_ref().is_some_and(|auth| auth.check(client.0, client.1));
    shard.count_authentication(is_right);
    let failure: &[u8] = b"CLIENT_ERROR authentication failure\r\n";
    out.extend_from_slice(if is_right { b"STORED\r\n" } else { failure });
    is_right
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waits_has_no_answer_to_be_replaced() {
        let request = Request::Delete { key: b"k", noreply: false };
        assert_eq!(refusal_of(&request, &Ran::Done), Some(Refusal::Text));
        assert_eq!(refusal_of(&request, &Ran::Waits(Waits::Room)), None, "it would be answered twice");
        let quiet = Request::Delete { key: b"k", noreply: true };
        assert_eq!(refusal_of(&quiet, &Ran::Done), None);
    }
}
