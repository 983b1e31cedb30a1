//! Gets that wait for the disk: in flight all together, answered in their order.
//!
//! A **pending** get has its place in its connection's order and waits for a **read**; those that want the same record
//! share one. A read that finds no free buffer waits in a queue, first come, first served. All of it lies in tables of
//! fixed size: when they are full, the connection that asks waits.
//!
//! **Invariants:** each pending is in exactly one connection's order, or is an update's, and hangs on exactly one read
//! until that has ended. A read is in `by_place` as long as others may join it.

use std::collections::{HashMap, VecDeque};

use dma_alloc::{Key, Lease, Pool, PoolClass, PoolOptions, SharedLease, Table};

use crate::io::ring::{RingFile, RingIo};
use crate::limits::{PENDING_COUNT_MAX, READ_COUNT_MAX};
use crate::record::Place;
use crate::shard::PendingGet;
use crate::store::{DiskRead, Store};

/// Somebody who waits for a read.
pub(super) struct Pending {
    /// The connection, which may be gone.
    pub(super) session: Key,
    /// The next one in the connection's order.
    pub(super) next: Option<Key>,
    /// How many bytes of later answers the connection had put off before this.
    pub(super) position: u64,
    /// Bytes of its first read, which count against what its connection may have in flight.
    pub(super) size: usize,
    pub(super) purpose: Purpose,
    /// What became of the read.
    pub(super) answer: Option<Answer>,
    /// The next one that waits for the same read.
    next_waiter: Option<Key>,
}

/// What the record is wanted for.
#[expect(clippy::large_enum_variant, reason = "nearly all are gets, and they must not be allocated")]
pub(super) enum Purpose {
    /// To be answered with.
    Get(PendingGet<RingFile>),
    /// By a request that is executed again with it.
    Update,
}

/// What a get is answered with.
pub(super) enum Answer {
    /// The record in this buffer.
    Hit(SharedLease),
    /// These bytes: the record was in memory after all.
    Encoded(Vec<u8>),
    Miss,
}

/// A read in flight, or waiting for a buffer.
pub(super) struct Read {
    disk: DiskRead<RingFile>,
    first_waiter: Option<Key>,
    last_waiter: Option<Key>,
}

/// A read that has ended.
pub(super) struct Ended {
    pub(super) disk: DiskRead<RingFile>,
    next_waiter: Option<Key>,
}

/// Everything that waits for the disk.
pub(super) struct Reads {
    io: RingIo,
    store: Store<RingIo>,
    pendings: Table<Pending>,
    reads: Table<Read>,
    by_place: HashMap<Place, Key>,
    /// Reads without a buffer.
    starved: VecDeque<Key>,
    /// The buffer of a read that is larger than any of the ring's: its record was stored with a larger `-I`.
    oversized: Option<Pool>,
}

impl Reads {
    pub(super) fn new(io: RingIo, store: Store<RingIo>) -> Self {
        Self {
            io,
            store,
            pendings: Table::with_capacity(PENDING_COUNT_MAX),
            reads: Table::with_capacity(READ_COUNT_MAX),
            // Twice the room: removals leave traces that would make it grow otherwise.
            by_place: HashMap::with_capacity(2 * READ_COUNT_MAX),
            starved: VecDeque::with_capacity(READ_COUNT_MAX),
            oversized: None,
        }
    }

    /// Whether nothing is in flight and nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pendings.len() == 0 && self.reads.len() == 0
    }

    /// Whether others can be taken again, after some were refused.
    pub(super) fn has_room(&self) -> bool {
        self.pendings.len() <= PENDING_COUNT_MAX / 4 * 3 && self.reads.len() <= READ_COUNT_MAX / 4 * 3
    }

    /// Whether [`Self::add_get`] takes any get now.
    pub(super) fn takes_more(&self) -> bool {
        !self.pendings.is_full() && !self.reads.is_full()
    }

    /// Takes a get; `None` when the tables are full.
    pub(super) fn add_get(&mut self, session: Key, position: u64, get: PendingGet<RingFile>) -> Option<Key> {
        let disk = get.read().clone();
        self.add(session, position, Purpose::Get(get), &disk)
    }

    /// Takes an update's read; says whether it could.
    pub(super) fn add_update(&mut self, session: Key, disk: &DiskRead<RingFile>) -> bool {
        self.add(session, 0, Purpose::Update, disk).is_some()
    }

    fn add(&mut self, session: Key, position: u64, purpose: Purpose, disk: &DiskRead<RingFile>) -> Option<Key> {
        let shared = self.by_place.get(&disk.place()).copied();
        if self.pendings.is_full() || (shared.is_none() && self.reads.is_full()) {
            return None;
        }
        let pending =
            Pending { session, next: None, position, size: disk.size(), purpose, answer: None, next_waiter: None };
        let key = self.pendings.insert(pending).ok()?;
        self.wait_for(key, shared, disk);
        Some(key)
    }

    /// Hangs a pending on the read of `disk`, which is begun if there is none.
    fn wait_for(&mut self, pending: Key, shared: Option<Key>, disk: &DiskRead<RingFile>) {
        let read = shared.unwrap_or_else(|| {
            let read = Read { disk: disk.clone(), first_waiter: None, last_waiter: None };
            let key = self.reads.insert(read).unwrap_or_else(|_| unreachable!("room was checked"));
            self.by_place.insert(disk.place(), key);
            self.begin(key);
            key
        });
        let entry = self.reads.get_mut(read).expect("it is in flight");
        match entry.last_waiter.replace(pending) {
            None => entry.first_waiter = Some(pending),
            Some(last) => self.pendings.get_mut(last).expect("who waits is not removed").next_waiter = Some(pending),
        }
    }

    /// Starts a read, or has it wait its turn for a buffer.
    fn begin(&mut self, key: Key) {
        if !self.starved.is_empty() || !self.try_begin(key) {
            self.starved.push_back(key);
        }
    }

    fn try_begin(&mut self, key: Key) -> bool {
        let Some(Read { disk, .. }) = self.reads.get(key) else { return true };
        let pool = self.io.ring().pool();
        let lease = if disk.size() <= pool.size_max() {
            pool.take(disk.size())
        } else {
            take_oversized(&mut self.oversized, disk.size())
        };
        let Some(lease) = lease else { return false };
        let refused = self.io.ring().read(key.to_bits(), disk.file(), disk.start(), disk.size(), lease);
        if refused.is_some() {
            return false;
        }
        self.store.read_begins();
        true
    }

    /// Starts reads that have waited for a buffer, as far as there are some now.
    pub(super) fn begin_starved(&mut self) {
        self.oversized.take_if(|pool| pool.taken_size() == 0);
        while let Some(key) = self.starved.front().copied() {
            if !self.try_begin(key) {
                return;
            }
            self.starved.pop_front();
        }
    }

    /// A read has ended; `None` when it is not known.
    pub(super) fn ended(&mut self, key: Key, count: &std::io::Result<usize>) -> Option<Ended> {
        let Read { disk, first_waiter, .. } = self.reads.remove(key)?;
        self.by_place.remove(&disk.place());
        self.store.read_ended(&disk, count.as_ref().map(|count| *count));
        Some(Ended { disk, next_waiter: first_waiter })
    }

    /// The next one that has waited for `ended`, in the order in which they came. It hangs on nothing any more.
    pub(super) fn next_waiter(&mut self, ended: &mut Ended) -> Option<Key> {
        let key = ended.next_waiter?;
        let pending = self.pendings.get_mut(key).expect("who waits is not removed");
        ended.next_waiter = pending.next_waiter.take();
        Some(key)
    }

    /// Has a get wait for the read that it names now: what was read was not its record any more.
    pub(super) fn again(&mut self, key: Key) {
        let Some(Pending { purpose: Purpose::Get(get), .. }) = self.pendings.get(key) else { return };
        let disk = get.read().clone();
        let shared = self.by_place.get(&disk.place()).copied();
        // There is room: a read has just ended, and this one is instead of it.
        self.wait_for(key, shared, &disk);
    }

    pub(super) fn get(&self, key: Key) -> Option<&Pending> {
        self.pendings.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Pending> {
        self.pendings.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Pending> {
        self.pendings.remove(key)
    }

    /// Whether a buffer may be kept until a client, which may be slow, has taken what is in it: most of the memory is free,
    /// and another buffer of that size is. So one of each size always goes round, and reads go on. Of the largest ones
    /// there is one only.
    pub(super) fn may_keep(&self, lease: &SharedLease) -> bool {
        let pool = self.io.ring().pool();
        let size = lease.capacity();
        size < pool.size_max() && pool.free_size() >= pool.size() / 2 && pool.take(size).is_some()
    }

    /// Gets that hold the buffers that other reads wait for, when nothing is in flight that would bring it on. This happens
    /// when a get has shared the read of an earlier one, and the read of one between the two found no buffer.
    pub(super) fn holders(&self) -> Vec<Key> {
        if self.starved.is_empty() || self.reads.len() > self.starved.len() {
            return Vec::new();
        }
        let holds = |pending: &Pending| matches!(pending.answer, Some(Answer::Hit(_)));
        self.pendings.iter().filter(|(_, pending)| holds(pending)).map(|(key, _)| key).collect()
    }
}

/// Memory for one read of `size` bytes, unless the last such read has its own still.
fn take_oversized(oversized: &mut Option<Pool>, size: usize) -> Option<Lease> {
    if oversized.as_ref().is_some_and(|pool| pool.taken_size() > 0) {
        return None;
    }
    let pool = Pool::new(&[PoolClass { size, count: 1 }], PoolOptions::default()).ok()?;
    oversized.insert(pool).take(size)
}

/// What was read, to be shared; nothing when the device failed.
pub(super) fn shared(lease: Lease, count: &std::io::Result<usize>) -> Option<SharedLease> {
    count.is_ok().then(|| lease.share())
}
