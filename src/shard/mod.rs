//! From a request to store operations to an answer.
//!
//! A [`Shard`] knows memcached's commands and nothing of sockets: it appends answers to whatever implements
//! [`Answers`]. It never waits. A request that cannot be finished at once has done nothing yet, and is executed again
//! when its [`Obstacle`] is gone; a `get` of a record on disk is handed out as a [`PendingGet`], whose answer is made
//! when the record has been read, while the requests behind it go on.
//!
//! **Invariant:** a request, and each key of a `get`, is counted once: when its answer is known.

mod admin;
mod get;
mod meta;
mod operations;
mod report;
#[cfg(test)]
mod tests;
mod verbs;

use std::cell::RefCell;
use std::rc::Rc;

use crate::clock::Seconds;
use crate::io::Io;
use crate::protocol::Keys;
use crate::stats::{CommandCounters, ConnectionCounters};
use crate::store::{Obstacle, Store};

pub use get::{PendingGet, Settled};

/// Where answers go.
pub trait Answers<F> {
    /// The bytes to be sent next, to be appended to only.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// A get whose record must be read first: its answer has its place here, and what is appended afterwards comes behind
    /// it. False when no more reads can be taken at the moment.
    fn read_later(&mut self, get: PendingGet<F>) -> bool;

    /// Whether [`Self::read_later`] would take a read now.
    fn has_room_to_read(&mut self) -> bool;

    /// Whether a request of many keys should pause here. Asked between any two keys.
    fn is_full(&mut self) -> bool;
}

/// Where a value goes that was read from disk, as it may be sent from where it lies.
pub trait ValueSink {
    /// The bytes to be sent next, to be appended to only.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Appends a value. Copies it into the buffer unless the implementation knows better.
    fn value(&mut self, value: &[u8]) {
        self.buffer().extend_from_slice(value);
    }
}

/// How far the execution of a request has come.
#[derive(Debug)]
pub enum Executed<'a, F> {
    /// It is done; the answer is appended, but for the gets that are to be read.
    Done(After),
    /// Some keys of a get are left: it goes on with a `Request::Get` of `rest`, else the same, which ends the whole answer.
    Paused {
        /// The keys that are left, at least one.
        rest: Keys<'a>,
        /// When it can go on.
        until: Pause,
    },
    /// Nothing is done yet: to be executed again as it is, without the obstacle. It is never [`Obstacle::ReadFailed`],
    /// which has an answer.
    Blocked(Obstacle<F>),
    /// Nothing is done yet, as no more reads can be taken: to be executed again when some have ended.
    NoReads,
}

/// What a get of many keys waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// [`Answers::read_later`] has refused: that reads have ended.
    Reads,
    /// [`Answers::is_full`]: that answers are sent.
    Output,
    /// The store makes room for a `gat`.
    Room,
    /// [`KEYS_PER_TURN`](crate::limits::KEYS_PER_TURN) keys are looked up: its next turn.
    Turn,
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    Continue,
    /// The client wants it closed.
    Close,
}

/// What `stats` says that only the server's start knows.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// `-c`.
    pub connection_count_max: usize,
    /// `-I` in bytes.
    pub item_size_max: usize,
    /// `-m` in bytes.
    pub memory: usize,
    /// `-M` was not given.
    pub evict: bool,
    /// `-F` was not given: `flush_all` is allowed.
    pub flush_enabled: bool,
    /// `-C` was not given: items have CAS uniques.
    pub cas_enabled: bool,
    /// The first port.
    pub port: u16,
    /// Number of `-v`.
    pub verbosity: u8,
    /// When the server started.
    pub started: Seconds,
    /// `-A`: clients may end the server.
    pub shutdown_enabled: bool,
    /// `-X` was not given: clients may have all keys listed.
    pub dump_enabled: bool,
    /// `-W` was not given: clients may watch what others do.
    pub watch_enabled: bool,
    /// Commands that only tests need.
    pub debug_commands: bool,
}

/// One shard as the connections of its thread see it.
pub struct Shard<I: Io> {
    store: Store<I>,
    counters: RefCell<CommandCounters>,
    connections: Rc<ConnectionCounters>,
    facts: Facts,
    crawler: admin::Crawler,
}

impl<I: Io> Shard<I> {
    /// A shard that serves `store`.
    #[must_use]
    pub fn new(store: Store<I>, connections: Rc<ConnectionCounters>, facts: Facts) -> Self {
        Self { store, counters: RefCell::default(), connections, facts, crawler: admin::Crawler::default() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store<I> {
        &self.store
    }

    /// What the server was started with.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    fn count(&self, change: impl FnOnce(&mut CommandCounters)) {
        change(&mut self.counters.borrow_mut());
    }
}
