//! What the server knows of one connection, and the order of its answers.

use std::ops::Range;
use std::os::fd::OwnedFd;

use dma_alloc::{Key, PinnedCell, SharedLease};

use super::commit::{KeptAnswers, Refusal};
use super::connection::{Input, Parser};
use super::reads::{Answer, Pending, Purpose, Reads};
use crate::io::ring::{Kept, Outgoing, RingFile, RingIo};
use crate::limits::{
    CONNECTION_PENDING_COUNT_MAX, CONNECTION_READ_SIZE_MAX, GATHER_SIZE_MIN, MIB, OUTPUT_SIZE_HIGH, OUTPUT_SIZE_KEPT,
    STOP_SILENCE_SECONDS,
};
use crate::shard::{Answers, PendingGet, Shard, ValueSink};
use crate::store::DiskRead;

/// What a connection's next request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// For nothing: it may be executed.
    Nothing,
    /// Its turn, after the others.
    Turn,
    /// The client has to take answers, or reads have to end, first.
    Output,
    /// The store makes room.
    Room,
    /// A record is being read for it.
    Record,
    /// Other connections' reads have to end first.
    Reads,
    /// The list of all keys is being sent.
    Dump,
    /// What it has written, or was shown, is on its way to the device.
    Commit,
}

/// Whether the ring receives for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Armed,
    /// It was asked to stop.
    Stopping,
    /// The server stops, and has told the client that nothing more will be sent: what still comes is not looked at.
    Lingering,
    Off,
}

/// A record that was read for an update.
pub(super) struct HeldRead {
    pub(super) disk: DiskRead<RingFile>,
    /// None: the device failed.
    pub(super) lease: Option<SharedLease>,
}

/// A connection.
pub(super) struct Session {
    pub(super) socket: OwnedFd,
    pub(super) input: Input,
    pub(super) parser: Parser,
    pub(super) queue: AnswerQueue,
    pub(super) held: Option<HeldRead>,
    pub(super) waits: Waits,
    pub(super) receiving: Receiving,
    pub(super) is_sending: bool,
    /// It is among those whose answers are sent at the end of the turn.
    pub(super) is_dirty: bool,
    /// Nothing more comes from the client, or it is not looked at.
    pub(super) has_ended: bool,
    /// The server has ended it, and the client may still be sending.
    pub(super) is_cut: bool,
    /// Nothing more can be sent, or is to be.
    pub(super) is_broken: bool,
    /// It is told what others do.
    pub(super) is_watcher: bool,
    /// The group of records that must have ended before its answers are sent; 0: none.
    pub(super) depends_on: u64,
    /// It is among those that depend on one.
    pub(super) is_held: bool,
    /// The second in which it last received something.
    pub(super) active: u64,
}

impl Session {
    pub(super) fn new(socket: OwnedFd, parser: Parser, now: u64) -> Self {
        Self {
            socket,
            input: Input::default(),
            parser,
            queue: AnswerQueue::default(),
            held: None,
            waits: Waits::Nothing,
            receiving: Receiving::Off,
            is_sending: false,
            is_dirty: false,
            has_ended: false,
            is_cut: false,
            is_broken: false,
            is_watcher: false,
            depends_on: 0,
            is_held: false,
            active: now,
        }
    }

    /// Whether everything that was asked for is answered and sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.waits == Waits::Nothing && !self.is_sending && self.queue.is_empty()
    }

    /// As the server stops: what has come as a whole is still executed, and nothing behind it.
    pub(super) fn cut(&mut self, now_seconds: u64) {
        let is_silent = self.active + STOP_SILENCE_SECONDS <= now_seconds;
        self.is_cut = !self.has_ended && !is_silent && !self.is_watcher;
        self.has_ended = true;
    }
}

/// Answers in the order of their requests: those that are complete lie in `outgoing`, behind them gets that wait for the
/// disk, and with those what was answered at once after them.
#[derive(Default)]
pub(super) struct AnswerQueue {
    pub(super) outgoing: Option<Box<Outgoing>>,
    first: Option<Key>,
    last: Option<Key>,
    pending_count: usize,
    /// Bytes of the reads that the pending gets wait for.
    pending_size: usize,
    /// Answers behind the first pending get.
    deferred: Vec<u8>,
    /// Bytes of `deferred` that have moved to `outgoing`.
    deferred_taken: usize,
    /// Bytes that were in `deferred` before its first byte now.
    deferred_base: u64,
    /// Gets that have waited and are answered.
    settled_count: u64,
    /// Answers of writes that may still fail.
    pub(super) kept: KeptAnswers,
}

impl AnswerQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.outgoing.as_ref().is_none_or(|outgoing| outgoing.is_empty())
    }

    /// Whether so much is to be sent or read that no more should be executed for now.
    pub(super) fn is_full(&self) -> bool {
        let complete = self.outgoing.as_ref().map_or(0, |outgoing| outgoing.len());
        complete + self.deferred.len() - self.deferred_taken >= OUTPUT_SIZE_HIGH
            || self.pending_size >= CONNECTION_READ_SIZE_MAX
            || self.pending_count >= CONNECTION_PENDING_COUNT_MAX
    }

    fn deferred_end(&self) -> u64 {
        self.deferred_base + self.deferred.len() as u64
    }

    /// Where an answer that is complete goes.
    pub(super) fn buffer(&mut self, spares: &mut Spares) -> &mut Vec<u8> {
        if self.first.is_some() { &mut self.deferred } else { self.complete(spares).bytes_mut() }
    }

    pub(super) fn complete(&mut self, spares: &mut Spares) -> &mut Outgoing {
        self.outgoing.get_or_insert_with(|| spares.take())
    }

    /// Where the next answer goes.
    pub(super) fn end(&self) -> u64 {
        match self.first {
            Some(_) => self.deferred_end(),
            None => self.outgoing.as_ref().map_or(0, |outgoing| outgoing.bytes().len() as u64),
        }
    }

    /// Keeps the answer of a write, which began at `start`, as its group may fail. No get has come in between.
    pub(super) fn keep(&mut self, group: u64, refusal: Refusal, start: u64) {
        let behind = self.first.map(|_| self.settled_count + self.pending_count as u64);
        self.kept.keep(group, refusal, start..self.end(), behind);
    }

    /// Moves what is complete at the front to `outgoing`; says whether anything was.
    pub(super) fn settle_front(&mut self, reads: &mut Reads, shard: &Shard<RingIo>, spares: &mut Spares) -> bool {
        let mut has_moved = false;
        while let Some(first) = self.first {
            if reads.get(first).is_none_or(|pending| pending.answer.is_none()) {
                break;
            }
            let Some(Pending { next, size, purpose: Purpose::Get(get), answer: Some(answer), .. }) =
                reads.remove(first)
            else {
                break;
            };
            has_moved = true;
            self.first = next;
            self.last = self.last.filter(|_| next.is_some());
            self.pending_count -= 1;
            self.pending_size -= size;
            self.settled_count += 1;
            let outgoing = self.complete(spares);
            match answer {
                Answer::Hit(lease) => {
                    let may_keep = reads.may_keep(&lease);
                    shard.encode_hit(&get, &lease, &mut Gathering { outgoing, lease: &lease, may_keep });
                }
                Answer::Encoded(bytes) => outgoing.bytes_mut().extend_from_slice(&bytes),
                Answer::Miss => {}
            }
            let end = next.and_then(|next| reads.get(next)).map_or_else(|| self.deferred_end(), |next| next.position);
            self.take_deferred(end, spares);
        }
        has_moved
    }

    /// Moves answers up to `end` behind what is complete.
    fn take_deferred(&mut self, end: u64, spares: &mut Spares) {
        let end = usize::try_from(end - self.deferred_base).expect("a part of what is in memory");
        let start = std::mem::replace(&mut self.deferred_taken, end);
        let outgoing = self.outgoing.get_or_insert_with(|| spares.take());
        if !self.kept.is_empty() {
            let complete = outgoing.bytes_mut().len() as u64;
            self.kept.moved(self.settled_count, self.deferred_base + start as u64, complete);
        }
        outgoing.bytes_mut().extend_from_slice(&self.deferred[start..end]);
        // As soon as what is left is no more than what goes, so that moving it costs no more than it has cost to write: a
        // client that always has a get in flight never lets it run empty.
        if 2 * end >= self.deferred.len() {
            self.deferred.drain(..end);
            self.deferred_base += end as u64;
            self.deferred_taken = 0;
            if self.deferred.is_empty() {
                self.deferred.shrink_to(OUTPUT_SIZE_KEPT);
            }
        }
    }

    /// Drops everything: there is nobody to send it to. Gets whose reads are in flight end by themselves.
    pub(super) fn drop_all(&mut self, reads: &mut Reads, spares: &mut Spares) {
        while let Some(first) = self.first {
            let Some(pending) = reads.get(first) else { break };
            let (next, has_ended) = (pending.next, pending.answer.is_some());
            if has_ended {
                reads.remove(first);
            }
            self.first = next;
        }
        if let Some(outgoing) = self.outgoing.take() {
            spares.give(outgoing);
        }
        *self = Self::default();
    }
}

/// A record's value in a read buffer on its way out: sent from there when it is large.
struct Gathering<'a> {
    outgoing: &'a mut Outgoing,
    lease: &'a SharedLease,
    may_keep: bool,
}

impl ValueSink for Gathering<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.outgoing.bytes_mut()
    }

    fn value(&mut self, value: &[u8]) {
        let start = value.as_ptr().addr().wrapping_sub(self.lease.as_ptr().addr());
        if self.may_keep && value.len() >= GATHER_SIZE_MIN && start + value.len() <= self.lease.len() {
            self.outgoing.push_value(Kept::Read(self.lease.clone()), start..start + value.len());
        } else {
            self.outgoing.bytes_mut().extend_from_slice(value);
        }
    }
}

/// The answers of one connection while its requests are executed.
pub(super) struct Answering<'a> {
    pub(super) session: Key,
    pub(super) queue: &'a mut AnswerQueue,
    pub(super) reads: &'a mut Reads,
    pub(super) spares: &'a mut Spares,
}

impl Answers<RingFile> for Answering<'_> {
    #[inline]
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.queue.buffer(self.spares)
    }

    fn keeps_values(&mut self) -> bool {
        // What is behind a get that waits is gathered as bytes.
        self.queue.first.is_none()
    }

    fn keep_value(&mut self, cell: PinnedCell, part: Range<usize>) {
        self.queue.complete(self.spares).push_value(Kept::Cached(cell), part);
    }

    fn read_later(&mut self, get: PendingGet<RingFile>) -> bool {
        let size = get.read().size();
        let Some(key) = self.reads.add_get(self.session, self.queue.deferred_end(), get) else { return false };
        match self.queue.last.replace(key) {
            None => self.queue.first = Some(key),
            Some(last) => self.reads.get_mut(last).expect("it is in the order").next = Some(key),
        }
        self.queue.pending_count += 1;
        self.queue.pending_size += size;
        true
    }

    fn has_room_to_read(&mut self) -> bool {
        self.reads.takes_more()
    }

    fn is_idle(&mut self) -> bool {
        self.queue.is_empty()
    }

    fn is_full(&mut self) -> bool {
        self.queue.is_full()
    }
}

/// Outgoing buffers that nobody uses, so that a connection has one only while it has answers.
///
/// They may keep what a full one takes, as allocating it for each batch would cost more than the batch, but not more than
/// [`Self::SIZE_MAX`] together.
#[derive(Default)]
pub(super) struct Spares {
    #[expect(clippy::vec_box, reason = "the ring takes them boxed, and moves nothing but the box")]
    free: Vec<Box<Outgoing>>,
    /// Bytes of memory of all of them.
    size: usize,
}

impl Spares {
    /// Bytes of memory that are kept at most.
    const SIZE_MAX: usize = 16 * MIB;
    /// Most that are kept.
    const COUNT_MAX: usize = 4096;

    fn take(&mut self) -> Box<Outgoing> {
        let outgoing = self.free.pop().unwrap_or_default();
        self.size -= outgoing.capacity();
        outgoing
    }

    pub(super) fn give(&mut self, mut outgoing: Box<Outgoing>) {
        outgoing.clear(2 * OUTPUT_SIZE_HIGH);
        let size = self.size + outgoing.capacity();
        if size <= Self::SIZE_MAX && self.free.len() < Self::COUNT_MAX {
            self.size = size;
            self.free.push(outgoing);
        }
    }
}
