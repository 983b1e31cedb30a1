//! Sockets: listeners, connections, shutdown.
//!
//! Runs inside the shard's glommio executor: one task accepts, one task per connection reads, executes and answers.
//! Nothing is spawned per request.

pub mod connection;
mod listener;
mod session;
pub mod signals;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::io::{Event, Io};
use crate::limits::STOP_PATIENCE;
use crate::protocol::ParseLimits;
use crate::shard::Shard;
use crate::stats::ConnectionCounters;

pub use listener::{BindError, Listeners};

/// What all connections of a server share.
pub struct Server<I: Io> {
    shard: Shard<I>,
    counters: Rc<ConnectionCounters>,
    limits: ParseLimits,
    connection_count_max: u64,
    accept_tasks: RefCell<Vec<glommio::Task<()>>>,
    stopping: Cell<bool>,
    /// Connections that are executing requests at the moment.
    busy_count: Cell<u64>,
    /// The patience of [`Server::stop`] is over.
    impatient: Cell<bool>,
    /// A connection has become idle while the server is stopping.
    idle: Event,
}

impl<I: Io> Server<I> {
    /// A server for `shard`, with the limits that its facts name.
    #[must_use]
    pub fn new(shard: Shard<I>, counters: Rc<ConnectionCounters>) -> Rc<Self> {
        let facts = shard.facts();
        Rc::new(Self {
            limits: ParseLimits { item_size_max: facts.item_size_max },
            connection_count_max: facts.connection_count_max as u64,
            shard,
            counters,
            accept_tasks: RefCell::default(),
            stopping: Cell::new(false),
            busy_count: Cell::new(0),
            impatient: Cell::new(false),
            idle: Event::default(),
        })
    }

    /// Accepts no more connections, and returns when every request that was received as a whole has been answered, or
    /// when [`STOP_PATIENCE`] is over: a client that does not read its answers cannot keep the server from stopping.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        for task in self.accept_tasks.take() {
            // Closes the socket: io_uring would keep it listening for a moment beyond the end of the process.
            task.cancel().await;
        }
        let server = Rc::clone(self);
        glommio::spawn_local(async move {
            glommio::timer::sleep(STOP_PATIENCE).await;
            server.impatient.set(true);
            server.idle.notify();
        })
        .detach();
        loop {
            let wait = self.idle.wait();
            match self.busy_count.get() {
                0 => return,
                count if self.impatient.get() => {
                    tracing::warn!("{count} connections have not taken their answers and are closed");
                    return;
                }
                _ => wait.await,
            }
        }
    }
}
