//! `--durability sync`: answers that wait until what they tell of is on stable media.
//!
//! A connection whose requests have written something, or have shown what may still be lost, **depends** on the group of
//! records that this lies in (see [`crate::store::Trace`]). Its answers are not sent, and nothing more of it is executed,
//! until that group has ended; what it sends meanwhile gathers, and is executed together then, so that the next group is
//! large. At the end of each turn the store is asked to write what the turn has brought: all connections share that.
//!
//! Until then, where the answer of each write lies is **kept**: if the device refuses its group, the answer becomes an error.
//! What a get has been answered stays. Without `--durability sync` nothing of this costs more than a look at a flag.

use std::collections::VecDeque;
use std::ops::Range;

use dma_alloc::Key;

use super::Server;
use super::session::{Session, Waits};
use crate::io::ring::Outgoing;
use crate::limits::{ANSWERS_KEPT_MIN, OUTPUT_SIZE_HIGH};
use crate::protocol::binary::encode::encode_status;
use crate::protocol::binary::{BinaryReply, Command, Status};
use crate::protocol::meta::MetaVerb;
use crate::protocol::text::encode::{Answer, encode_answer};
use crate::protocol::{Request, StoreRequest};
use crate::store::{CommitOutcome, Trace};

/// How a client is told that the device has refused a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A line.
    Text,
    /// A packet, also for quiet commands.
    Binary(BinaryReply),
}

impl Refusal {
    /// What `request` is told; `None`: it wants no answer, or what it has read is worth more than that.
    pub(super) fn of(request: &Request<'_>) -> Option<Self> {
        let noreply = match *request {
            Request::Store(StoreRequest { noreply, .. })
            | Request::TooLarge { noreply, .. }
            | Request::Delete { noreply, .. }
            | Request::Touch { noreply, .. }
            | Request::Arithmetic { noreply, .. }
            | Request::FlushAll { noreply, .. } => noreply,
            Request::Meta(ref request) => matches!(request.verb, MetaVerb::Get),
            Request::Binary(ref request) => {
                let reads = matches!(request.command, Command::Get { .. } | Command::Touch { .. });
                return (!reads).then_some(Self::Binary(request.reply));
            }
            _ => true,
        };
        (!noreply).then_some(Self::Text)
    }

    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Text => encode_answer(out, Answer::DiskWriteFailed),
            Self::Binary(reply) => encode_status(out, reply, Status::DiskWriteFailed),
        }
    }
}

/// The answer of a write that may still fail.
#[derive(Clone, Debug)]
struct KeptAnswer {
    group: u64,
    refusal: Refusal,
    /// Where it lies; nothing of a quiet command.
    place: Range<u64>,
    /// How many gets of its connection that wait for the disk, counted from the first ever, go before it.
    behind: u64,
}

/// Where the answers of writes lie, in their order: first those that are complete, in the bytes to be sent next, then those
/// that are deferred, behind gets that wait for the disk.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers {
    answers: VecDeque<KeptAnswer>,
    complete_count: usize,
}

impl KeptAnswers {
    /// Keeps an answer that is complete, or deferred behind so many gets.
    pub(super) fn keep(&mut self, group: u64, refusal: Refusal, place: Range<u64>, behind: Option<u64>) {
        debug_assert!(behind.is_some() || self.complete_count == self.answers.len(), "answers are kept in order");
        self.complete_count += usize::from(behind.is_none());
        self.answers.push_back(KeptAnswer { group, refusal, place, behind: behind.unwrap_or(0) });
    }

    /// What was deferred behind `settled` gets is complete: it has moved from `deferred` on to `complete` on.
    pub(super) fn moved(&mut self, settled: u64, deferred: u64, complete: u64) {
        while let Some(answer) = self.answers.get_mut(self.complete_count).filter(|answer| answer.behind <= settled) {
            let moved = |position: u64| position - deferred + complete;
            answer.place = moved(answer.place.start)..moved(answer.place.end);
            self.complete_count += 1;
        }
    }

    /// The groups of the answers in `outgoing` have ended, and `outgoing` is about to be sent: the answers of those that
    /// have failed become errors.
    pub(super) fn settle(&mut self, outgoing: &mut Outgoing, has_failed: impl Fn(u64) -> bool) {
        let mut error = Vec::new();
        // From the back, so that the places of those before stay right.
        for answer in self.answers.range(..self.complete_count).rev().filter(|answer| has_failed(answer.group)) {
            error.clear();
            answer.refusal.encode(&mut error);
            outgoing.replace(answer.place.start as usize..answer.place.end as usize, &error);
        }
        self.forget_complete();
    }

    /// The same when nothing has failed.
    pub(super) fn forget_complete(&mut self) {
        self.answers.drain(..self.complete_count);
        self.complete_count = 0;
        if self.answers.is_empty() && self.answers.capacity() > OUTPUT_SIZE_HIGH / size_of::<KeptAnswer>() {
            self.answers.shrink_to(ANSWERS_KEPT_MIN);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

impl Server {
    /// Notes what a connection depends on from now on.
    pub(super) fn depend(&mut self, key: Key, trace: Trace) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.depends_on = session.depends_on.max(trace.last());
            self.note_dependent(key);
        }
    }

    /// Puts a connection that depends on a group among those that do.
    pub(super) fn note_dependent(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.depends_on > 0 && !session.is_held) {
            session.is_held = true;
            self.dependent.push(key);
        }
    }

    /// The turn is over: what it has brought is on its way to the device, and who depends on that waits.
    pub(super) fn commit_turn(&mut self) {
        if self.dependent.is_empty() {
            return;
        }
        // None when the last group has just ended; that is seen in the next turn.
        let _ = self.shard.store().commit();
        for key in &self.dependent {
            let Some(session) = self.sessions.get_mut(*key) else { continue };
            let goes_on = matches!(session.waits, Waits::Nothing | Waits::Turn);
            if goes_on && !session.parser.is_closed() && !session.is_broken {
                session.waits = Waits::Commit;
            }
        }
    }

    /// Groups may have ended: who depends on none any more is answered, and goes on.
    pub(super) fn end_commits(&mut self) {
        if self.dependent.is_empty() {
            return;
        }
        let ended = self.shard.store().ended_group();
        let mut dependent = std::mem::take(&mut self.dependent);
        dependent.retain(|key| {
            let Some(session) = self.sessions.get_mut(*key) else { return false };
            if session.depends_on > ended {
                return true;
            }
            (session.depends_on, session.is_held) = (0, false);
            // Before anything is executed whose answers would have to wait again.
            self.send(*key);
            self.resume(*key, Waits::Commit);
            false
        });
        debug_assert!(self.dependent.is_empty(), "nothing was executed");
        self.dependent = dependent;
    }

    /// Sends what a connection has, unless it is sending already or must wait for the device.
    pub(super) fn send(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_sending || session.is_broken || session.depends_on > 0 {
            return;
        }
        let Session { queue, socket, .. } = session;
        if !queue.kept.is_empty() {
            let store = self.shard.store();
            if store.has_failed_groups() {
                let has_failed = |group| store.commit_outcome(group) == CommitOutcome::Failed;
                let mut kept = std::mem::take(&mut queue.kept);
                kept.settle(queue.complete(&mut self.spares), has_failed);
                queue.kept = kept;
            } else {
                queue.kept.forget_complete();
            }
        }
        if let Some(outgoing) = queue.outgoing.take_if(|outgoing| !outgoing.is_empty()) {
            self.io.ring().send(key.to_bits(), std::os::fd::AsFd::as_fd(socket), outgoing);
            session.is_sending = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &[u8] = b"SERVER_ERROR disk write failed, the change may be lost\r\n";

    fn bytes(outgoing: &mut Outgoing) -> Vec<u8> {
        outgoing.bytes_mut().clone()
    }

    #[test]
    fn only_answers_of_failed_groups_become_errors() {
        let mut outgoing = Outgoing::default();
        outgoing.bytes_mut().extend_from_slice(b"A1\r\nget\r\nB1\r\nC2\r\n");
        let mut kept = KeptAnswers::default();
        kept.keep(1, Refusal::Text, 0..4, None);
        kept.keep(1, Refusal::Text, 9..13, None);
        kept.keep(2, Refusal::Text, 13..17, None);
        kept.settle(&mut outgoing, |group| group == 1);
        assert_eq!(bytes(&mut outgoing), [ERROR, b"get\r\n", ERROR, b"C2\r\n"].concat());
        assert!(kept.is_empty());
    }

    #[test]
    fn deferred_answers_move_with_their_bytes_and_stay_behind_their_gets() {
        let mut kept = KeptAnswers::default();
        let mut outgoing = Outgoing::default();
        // get (pending), set: "S1", quiet set, get (pending), quiet set, set: "S2". The deferred bytes begin at 100.
        kept.keep(1, Refusal::Text, 100..102, Some(1));
        kept.keep(1, Refusal::Text, 102..102, Some(1));
        kept.keep(1, Refusal::Text, 102..102, Some(2));
        kept.keep(1, Refusal::Text, 102..104, Some(2));
        kept.moved(0, 100, 7);
        assert_eq!(kept.complete_count, 0);
        outgoing.bytes_mut().extend_from_slice(b"<get 1>S1");
        kept.moved(1, 100, 7);
        assert_eq!(kept.complete_count, 2);
        outgoing.bytes_mut().extend_from_slice(b"<get 2>S2");
        kept.moved(2, 102, 16);
        kept.settle(&mut outgoing, |_| true);
        assert_eq!(bytes(&mut outgoing), [b"<get 1>", ERROR, ERROR, b"<get 2>", ERROR, ERROR].concat());
    }
}
