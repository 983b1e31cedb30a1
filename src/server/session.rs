//! The life of one connection: its socket on one side, its [`Connection`] and the shard on the other.

use std::rc::Rc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;

use super::Server;
use super::connection::{Connection, Input, Output, Step};
use crate::io::Io;
use crate::limits::REQUESTS_PER_TURN;
use crate::shard::{After, Answers, Gone};
use crate::stats::{ConnectionCounters, add};

/// The sending side: answers gather in the output and go to the socket in large pieces.
struct Sender<'a> {
    output: &'a mut Output,
    stream: &'a mut TcpStream,
    counters: &'a ConnectionCounters,
    /// Keys and requests answered since the others had their turn.
    turn_count: usize,
}

impl Sender<'_> {
    async fn send(&mut self) -> Result<(), Gone> {
        if self.output.is_empty() {
            return Ok(());
        }
        let size = self.output.pending().len() as u64;
        // Waits for as long as the client does not read: what it has asked for beyond that stays in its socket.
        let result = self.stream.write_all(self.output.pending()).await;
        self.output.clear();
        add(&self.counters.bytes_written, size);
        result.map_err(|_| Gone)
    }
}

impl Answers for Sender<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.output.buffer()
    }

    async fn relieve(&mut self) -> Result<(), Gone> {
        self.turn_count += 1;
        if self.turn_count == REQUESTS_PER_TURN {
            self.turn_count = 0;
            add(&self.counters.conn_yields, 1);
            glommio::executor().yield_task_queue_now().await;
        }
        if self.output.is_full() { self.send().await } else { Ok(()) }
    }
}

/// How the execution of what was received ended.
enum Batch {
    /// All of it is executed.
    Drained,
    /// The connection is to be closed.
    Close,
}

/// Counts a connection as busy as long as it lives, however its task ends.
struct Busy<'a, I: Io>(&'a Server<I>);

impl<'a, I: Io> Busy<'a, I> {
    fn new(server: &'a Server<I>) -> Self {
        add(&server.busy_count, 1);
        Self(server)
    }
}

impl<I: Io> Drop for Busy<'_, I> {
    fn drop(&mut self) {
        self.0.busy_count.set(self.0.busy_count.get() - 1);
        if self.0.stopping.get() {
            self.0.idle.notify();
        }
    }
}

impl<I: Io> Server<I> {
    pub(super) async fn session(self: &Rc<Self>, mut stream: TcpStream) {
        // As memcached: answers are small and wanted at once. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let Connection { mut input, mut output } = Connection::new(self.limits);
        let mut turn_count = 0;
        while !self.stopping.get() {
            match stream.read(input.space()).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    input.received(count);
                    add(&self.counters.bytes_read, count as u64);
                }
            }
            let _busy = Busy::new(self);
            let counters = &self.counters;
            let mut sender = Sender { output: &mut output, stream: &mut stream, counters, turn_count };
            match self.execute_received(&mut input, &mut sender).await {
                Ok(Batch::Drained) => turn_count = sender.turn_count,
                Ok(Batch::Close) | Err(Gone) => break,
            }
        }
        let _ = stream.close().await;
    }

    /// Executes every request that was received as a whole, and sends the answers.
    async fn execute_received(&self, input: &mut Input, sender: &mut Sender<'_>) -> Result<Batch, Gone> {
        loop {
            let after = match input.step(sender.output) {
                Step::Request(request) => self.shard.execute(request, sender).await?,
                Step::NeedInput => {
                    sender.send().await?;
                    return Ok(Batch::Drained);
                }
                Step::Close => After::Close,
            };
            if after == After::Close {
                sender.send().await?;
                return Ok(Batch::Close);
            }
            sender.relieve().await?;
        }
    }
}
