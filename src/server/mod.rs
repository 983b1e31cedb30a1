//! Sockets: listeners, connections, shutdown.
//!
//! One loop per shard, in [`Server::run`]. A **turn** takes what the ring has completed, executes the requests that came
//! with it, lets every connection that has more go on for a few requests at a time, queues one send per connection, and
//! ends in [`RingIo::turn`], which submits all of it with one system call. There is no task per connection and none per
//! request: a connection is a [`session::Session`] in a table, a get that waits for the disk an entry in [`reads::Reads`].
//!
//! **Invariants:** a connection's requests are executed in order and answered in order. What a connection can have in
//! memory is bounded: its input by [`INPUT_SIZE_HIGH`] beyond the request under way, its answers by
//! [`OUTPUT_SIZE_HIGH`](crate::limits::OUTPUT_SIZE_HIGH) beyond one item, its reads by
//! [`CONNECTION_READ_SIZE_MAX`](crate::limits::CONNECTION_READ_SIZE_MAX). Beyond that it is not parsed, then not received from,
//! and the client waits in its own socket.

pub mod auth;
mod commit;
pub mod connection;
mod conns;
mod dump;
mod events;
mod execute;
mod listener;
mod reads;
mod session;
pub mod signals;
mod watch;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dma_alloc::{Key, Table};

use crate::error::OpenError;
use crate::io::Io;
use crate::io::ring::RingIo;
use crate::io::ring::sleep::Patience;
use crate::limits::{REQUESTS_PER_ROUNDS, STOP_LINGER, STOP_PATIENCE};
use crate::protocol::ParseLimits;
use crate::shard::Shard;
use crate::stats::ConnectionCounters;
use crate::store::Durability;
use auth::Auth;
use dump::DumpUnderWay;
use reads::Reads;
use session::{Receiving, Session, Spares, Waits};

pub use crate::limits::INPUT_SIZE_HIGH;
pub use listener::{Address, BindError, Endpoint, Listeners};

/// How a server treats its connections.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `-R`: requests that a connection may have executed before the others get their turn.
    pub requests_per_turn: usize,
    /// `-o idle_timeout`: connections that say nothing for so long are closed.
    pub idle_timeout: Option<Duration>,
    /// `--spin-us`: how long the ring is watched before the thread sleeps.
    pub spin: Duration,
    /// `-Y`: who may use the server; nothing if everybody may.
    pub auth: Option<Arc<Auth>>,
}

/// A shard with its connections.
pub struct Server {
    io: RingIo,
    shard: Shard<RingIo>,
    counters: Rc<ConnectionCounters>,
    options: ServerOptions,
    limits: ParseLimits,
    listeners: Listeners,
    sessions: Table<Session>,
    reads: Reads,
    spares: Spares,
    /// Connections that have requests and were interrupted so that others have their turn.
    ready: VecDeque<Key>,
    /// Connections that have answers to be sent.
    dirty: Vec<Key>,
    /// Connections that wait for room in the store.
    wait_for_room: Vec<Key>,
    /// Connections that wait for room among the reads.
    wait_for_reads: Vec<Key>,
    /// Writes are answered when they are on stable media.
    commits: bool,
    /// Connections that depend on what is not there yet.
    dependent: Vec<Key>,
    /// Lists of all keys that are being made.
    dumps: Vec<DumpUnderWay>,
    seen_progress: u64,
    /// When something has to be looked at that no completion tells of.
    next_look: Option<Duration>,
    /// A client has asked for the end.
    is_shut_down: bool,
    phase: Phase,
}

/// Where a server is in its life.
enum Phase {
    Serving,
    /// It accepts nothing more, takes nothing more from anybody, and answers what it has received.
    Finishing {
        /// Until this moment, clients that are still sending are listened to, so that they get their answers.
        linger: Duration,
        /// Until this moment at the latest, clients may take their answers.
        deadline: Duration,
    },
    /// The store is being closed; the cell gets the outcome.
    Closing(Rc<Cell<Option<Result<(), OpenError>>>>),
}

impl Server {
    /// A server for `shard` on `listeners`.
    #[must_use]
    pub fn new(
        io: RingIo,
        shard: Shard<RingIo>,
        counters: Rc<ConnectionCounters>,
        listeners: Listeners,
        options: ServerOptions,
    ) -> Self {
        let facts = shard.facts();
        let commits = shard.store().durability() == Durability::Sync;
        Self {
            limits: ParseLimits { item_size_max: facts.item_size_max },
            reads: Reads::new(io.clone(), shard.store().clone()),
            sessions: Table::with_capacity(facts.connection_count_max),
            io,
            shard,
            counters,
            options,
            listeners,
            spares: Spares::default(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            wait_for_room: Vec::new(),
            wait_for_reads: Vec::new(),
            commits,
            dependent: Vec::new(),
            dumps: Vec::new(),
            seen_progress: 0,
            next_look: None,
            is_shut_down: false,
            phase: Phase::Serving,
        }
    }

    /// Serves until `stop` says so (it is asked when the ring's bell has rung), answers what was received as a whole,
    /// and closes the store. A client that does not take its answers keeps the server for [`STOP_PATIENCE`] at most.
    ///
    /// # Errors
    /// When the store cannot be closed in order.
    pub async fn run(mut self, stop: impl Fn() -> bool) -> Result<(), OpenError> {
        let io = self.io.clone();
        io.drive();
        self.listeners.accept(io.ring());
        self.watch_progress();
        loop {
            while let Some(completion) = io.ring().next() {
                self.handle(completion);
            }
            self.resume_waiting();
            self.run_rounds();
            self.pass_on_dumps();
            self.pass_on_watched();
            self.commit_turn();
            self.send_answers();
            self.look_around();
            // Last of all, as buffers come back all the time: when reads end, answers are sent, updates are executed and
            // connections go.
            self.begin_starved_reads();
            if matches!(self.phase, Phase::Serving) && (stop() || self.is_shut_down) {
                self.begin_stop();
            }
            if let Some(outcome) = self.go_on_stopping() {
                io.ring().release();
                return outcome;
            }
            io.turn(self.patience(), self.options.spin).await;
        }
    }

    /// The store's tasks run while the loop sleeps: what they have done must wake it.
    fn watch_progress(&self) {
        let (store, io) = (self.shard.store().clone(), self.io.clone());
        self.io.spawn(async move {
            loop {
                store.progressed().await;
                io.rouse();
            }
        });
    }

    fn patience(&self) -> Patience {
        if self.ready.is_empty() { Patience::Until(self.next_look) } else { Patience::None }
    }

    /// Lets connections go on whose obstacle may be gone.
    fn resume_waiting(&mut self) {
        let progress = self.shard.store().progress_count();
        if progress != self.seen_progress {
            self.seen_progress = progress;
            self.end_commits();
            for key in std::mem::take(&mut self.wait_for_room) {
                self.resume(key, Waits::Room);
            }
        }
        if !self.wait_for_reads.is_empty() && self.reads.has_room() {
            for key in std::mem::take(&mut self.wait_for_reads) {
                self.resume(key, Waits::Reads);
            }
        }
    }

    /// Puts a connection that waits for `reason` among those that are ready.
    fn resume(&mut self, key: Key, reason: Waits) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.waits == reason) {
            session.waits = Waits::Turn;
            self.ready.push_back(key);
        }
    }

    /// Gives each connection that is ready a few requests, again and again, until nobody has more or enough has been done
    /// for this turn.
    fn run_rounds(&mut self) {
        let mut left = REQUESTS_PER_ROUNDS;
        while left > 0
            && let Some(key) = self.ready.pop_front()
        {
            if let Some(session) = self.sessions.get_mut(key).filter(|session| session.waits == Waits::Turn) {
                session.waits = Waits::Nothing;
                left = left.saturating_sub(self.execute(key, &[]).max(1));
            }
        }
    }

    /// Sends what each connection has, unless it is sending already.
    fn send_answers(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.is_dirty = false;
                self.send(key);
            }
        }
        self.dirty = dirty;
    }

    /// Looks after what no completion tells of, when it is time: idle connections, listeners that had to pause.
    fn look_around(&mut self) {
        let now = self.io.moment();
        if self.next_look.is_some_and(|moment| moment > now) {
            return;
        }
        self.next_look = self.listeners.accept_again(self.io.ring(), now);
        let Some(timeout) = self.options.idle_timeout else { return };
        self.next_look = Some(self.next_look.unwrap_or(Duration::MAX).min(now + Duration::from_secs(1)));
        let oldest = now.as_secs().saturating_sub(timeout.as_secs());
        // As memcached: in the middle of a line is idle, in the middle of a value is not.
        let is_idle = |session: &Session| {
            session.active < oldest && session.is_quiet() && !session.is_watcher && session.parser.needed_size() == 0
        };
        let idle: Vec<Key> = self.sessions.iter().filter(|(_, session)| is_idle(session)).map(|(key, _)| key).collect();
        for key in idle {
            crate::stats::add(&self.counters.idle_kicks, 1);
            self.break_off(key);
        }
    }

    fn begin_stop(&mut self) {
        tracing::info!("stopping: no new connections, finishing what was asked");
        self.listeners.close(self.io.ring());
        let now = self.io.moment();
        let (linger, deadline) = (now + STOP_LINGER, now + STOP_PATIENCE);
        self.next_look = Some(linger);
        self.break_off_dumps();
        self.phase = Phase::Finishing { linger, deadline };
        for key in self.session_keys() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.cut(now.as_secs());
            }
            self.close_if_over(key);
        }
    }

    fn session_keys(&self) -> Vec<Key> {
        self.sessions.iter().map(|(key, _)| key).collect()
    }

    /// Goes on from answering to closing the store to the end.
    fn go_on_stopping(&mut self) -> Option<Result<(), OpenError>> {
        match &self.phase {
            Phase::Serving => None,
            Phase::Finishing { linger, deadline } => {
                let (now, busy_count) = (self.io.moment(), self.busy_count());
                let is_done = busy_count == 0 && self.reads.is_empty() && self.listeners.are_closed();
                let lingers =
                    now < *linger && self.sessions.iter().any(|(_, session)| session.receiving == Receiving::Lingering);
                if (is_done && !lingers) || now >= *deadline {
                    if busy_count > 0 {
                        tracing::warn!("{busy_count} connections have not taken their answers and are closed");
                    }
                    self.begin_closing();
                } else if now >= *linger {
                    self.next_look = Some(*deadline);
                }
                None
            }
            Phase::Closing(outcome) => outcome.take(),
        }
    }

    /// Connections that have requests or answers under way.
    fn busy_count(&self) -> usize {
        self.sessions.iter().filter(|(_, session)| !session.is_quiet()).count()
    }

    fn begin_closing(&mut self) {
        self.session_keys().into_iter().for_each(|key| self.break_off(key));
        let outcome = Rc::new(Cell::new(None));
        let (store, told) = (self.shard.store().clone(), Rc::clone(&outcome));
        let io = self.io.clone();
        self.io.spawn(async move {
            told.set(Some(store.close().await));
            io.rouse();
        });
        self.next_look = None;
        self.phase = Phase::Closing(outcome);
    }
}
