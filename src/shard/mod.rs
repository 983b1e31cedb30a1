//! From a request to store operations to an answer.
//!
//! A [`Shard`] knows memcached's commands and nothing of sockets: it appends answers to whatever implements
//! [`Answers`]. It never waits. A request that cannot be finished at once has done nothing yet, and is executed again
//! when its [`Obstacle`] is gone; a `get` of a record on disk is handed out as a [`PendingGet`], whose answer is made
//! when the record has been read, while the requests behind it go on.
//!
//! **Invariant:** a request, and each key of a `get`, is counted once: when its answer is known.

mod admin;
mod binary;
mod dump;
mod get;
mod meta;
mod operations;
mod report;
#[cfg(test)]
mod tests;
mod token;
mod verbs;
mod watch;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use dma_alloc::PinnedCell;

use crate::clock::Seconds;
use crate::io::Io;
use crate::limits::{
    BACKLOG_DEFAULT, CONNECTIONS_DEFAULT, ITEM_SIZE_DEFAULT, MEMORY_MIB_DEFAULT, MIB, PREFIX_DELIMITER_DEFAULT,
    REQUESTS_PER_TURN_DEFAULT, UNIX_PERMISSIONS_DEFAULT,
};
use crate::protocol::{DumpStyle, Keys, Topics};
use crate::record::Place;
use crate::stats::{CommandCounters, ConnectionCounters, PrefixStats, StoreCounters};
use crate::store::{Obstacle, Store};

pub use crate::protocol::{Binding, Expiry, absolute_expiry, stream};
pub use dump::Dump;
pub use get::{PendingGet, Settled};
pub use operations::{KEY_BINARY, STALE};
pub use watch::Watchers;

/// Where answers go.
pub trait Answers<F> {
    /// The bytes to be sent next, to be appended to only.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Whether [`Self::keep_value`] may be used for the next value.
    fn keeps_values(&mut self) -> bool {
        false
    }

    /// Appends a part of what is pinned, behind what is in the buffer now; it is sent from where it lies.
    fn keep_value(&mut self, cell: PinnedCell, part: Range<usize>) {
        self.buffer().extend_from_slice(&cell[part]);
    }

    /// A get whose record must be read first: its answer has its place here, and what is appended afterwards comes behind
    /// it. False when no more reads can be taken at the moment.
    fn read_later(&mut self, get: PendingGet<F>) -> bool;

    /// Whether [`Self::read_later`] would take a read now.
    fn has_room_to_read(&mut self) -> bool;

    /// Whether nothing that was answered before is left to be sent.
    fn is_idle(&mut self) -> bool;

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
    /// It goes on when all keys were listed: see [`Shard::dump`].
    Dump(DumpStyle),
    /// It is told what others do from now on, and nothing that it says counts.
    Watch(Topics),
    /// All connections are closed, and the server ends.
    ShutDown,
    /// It goes on when the server has appended the answer to `stats conns`: only it knows the connections.
    ListConnections,
}

/// What the server was started with, as far as commands depend on it or `stats` tells it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `-c`.
    pub connection_count_max: usize,
    /// `-I` in bytes.
    pub item_size_max: usize,
    /// `-m` in bytes.
    pub memory: usize,
    /// `-M` was not given.
    pub evict: bool,
    /// The first port, 0 without TCP.
    pub port: u16,
    /// Number of `-v`.
    pub verbosity: u8,
    /// When the server started.
    pub started: Seconds,
    /// Threads that serve.
    pub threads: usize,
    /// `-A`: clients may stop the server.
    pub shutdown_enabled: bool,
    /// `-F` was not given.
    pub flush_enabled: bool,
    /// `-X` was not given: keys may be listed.
    pub dump_enabled: bool,
    /// `-W` was not given.
    pub watch_enabled: bool,
    /// `-C` was not given: items have cas uniques.
    pub cas_enabled: bool,
    /// `-D` was given: `stats detail` counts from the start.
    pub detail_enabled: bool,
    /// What ends a key's prefix for `stats detail`: `-D`.
    pub prefix_delimiter: u8,
    /// `-o track_sizes`.
    pub track_sizes: bool,
    /// `--debug-commands`.
    pub debug_commands: bool,
    /// `-B`; ascii with `-Y`.
    pub binding: Binding,
    /// `-Y` was given.
    pub auth_enabled: bool,
    /// `-R`.
    pub requests_per_turn: usize,
    /// `-b`.
    pub backlog: i32,
    /// `-o idle_timeout` in seconds, 0 for never.
    pub idle_timeout: u32,
    /// `-l` as it was given; nothing with `-s`.
    pub inter: Option<String>,
    /// `-s`.
    pub unix_socket: Option<PathBuf>,
    /// `-a`.
    pub unix_permissions: u32,
}

impl Default for Facts {
    /// What a server without flags has, without a port.
    fn default() -> Self {
        Self {
            connection_count_max: CONNECTIONS_DEFAULT,
            item_size_max: ITEM_SIZE_DEFAULT,
            memory: MEMORY_MIB_DEFAULT * MIB,
            evict: true,
            port: 0,
            verbosity: 0,
            started: 0,
            threads: 1,
            shutdown_enabled: false,
            flush_enabled: true,
            dump_enabled: true,
            watch_enabled: true,
            cas_enabled: true,
            detail_enabled: false,
            prefix_delimiter: PREFIX_DELIMITER_DEFAULT,
            track_sizes: false,
            debug_commands: false,
            binding: Binding::Auto,
            auth_enabled: false,
            requests_per_turn: REQUESTS_PER_TURN_DEFAULT,
            backlog: BACKLOG_DEFAULT,
            idle_timeout: 0,
            inter: None,
            unix_socket: None,
            unix_permissions: UNIX_PERMISSIONS_DEFAULT,
        }
    }
}

/// One shard as the connections of its thread see it.
pub struct Shard<I: Io> {
    store: Store<I>,
    counters: RefCell<CommandCounters>,
    connections: Rc<ConnectionCounters>,
    /// `stats detail`.
    prefixes: RefCell<PrefixStats>,
    /// What the store had counted at the last `stats reset`.
    counted_before: Cell<StoreCounters>,
    facts: Facts,
    crawler: admin::Crawler,
    watchers: Rc<Watchers>,
    /// The last stale record whose token was won when the record was gone already.
    lost_token: Cell<Option<Place>>,
}

impl<I: Io> Shard<I> {
    /// A shard that serves `store`.
    #[must_use]
    pub fn new(store: Store<I>, connections: Rc<ConnectionCounters>, facts: Facts) -> Self {
        let watchers: Rc<Watchers> = Rc::default();
        store.tell_of_evictions(Rc::<Watchers>::clone(&watchers));
        Self {
            store,
            counters: RefCell::default(),
            connections,
            prefixes: RefCell::new(PrefixStats::new(facts.prefix_delimiter, facts.detail_enabled)),
            counted_before: Cell::default(),
            crawler: admin::Crawler::default(),
            watchers,
            lost_token: Cell::default(),
            facts,
        }
    }

    /// Those who are told what others do.
    #[must_use]
    #[inline]
    pub fn watchers(&self) -> &Watchers {
        &self.watchers
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

    /// Counts that a client has said who it is, rightly or not.
    pub fn count_authentication(&self, is_right: bool) {
        self.count(|counters| {
            counters.auth_cmds += 1;
            counters.auth_errors += u64::from(!is_right);
        });
    }

    fn count(&self, change: impl FnOnce(&mut CommandCounters)) {
        change(&mut self.counters.borrow_mut());
    }
}
