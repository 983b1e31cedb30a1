//! From a request to store operations to an answer.
//!
//! A [`Shard`] knows memcached's commands and nothing of sockets: it appends answers to whatever implements
//! [`Answers`].

mod report;
mod verbs;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use crate::clock::Seconds;
use crate::io::Io;
use crate::stats::{CommandCounters, ConnectionCounters};
use crate::store::Store;

/// Where answers go.
pub trait Answers {
    /// The bytes to be sent, to be appended to.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Sends what has gathered if it is much, so that a request with many values needs bounded memory, and lets others
    /// have their turn now and then.
    ///
    /// # Errors
    /// [`Gone`], when there is nobody to send to any more.
    fn relieve(&mut self) -> impl Future<Output = Result<(), Gone>>;
}

/// The client has gone; nothing more need be done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

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
    /// The first port.
    pub port: u16,
    /// Number of `-v`.
    pub verbosity: u8,
    /// When the server started.
    pub started: Seconds,
}

/// One shard as the connections of its thread see it.
pub struct Shard<I: Io> {
    store: Store<I>,
    counters: RefCell<CommandCounters>,
    connections: Rc<ConnectionCounters>,
    facts: Facts,
}

impl<I: Io> Shard<I> {
    /// A shard that serves `store`.
    #[must_use]
    pub fn new(store: Store<I>, connections: Rc<ConnectionCounters>, facts: Facts) -> Self {
        Self { store, counters: RefCell::default(), connections, facts }
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
