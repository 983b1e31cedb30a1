//! Lists of all keys on their way to clients: each is made by a task, a step at a time, and only as fast as its client
//! takes it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dma_alloc::Key;

use super::Server;
use super::session::Waits;
use crate::io::ring::RingIo;
use crate::io::{Event, Io};
use crate::limits::OUTPUT_SIZE_HIGH;
use crate::protocol::DumpStyle;
use crate::shard::Dump;

/// A list that is being made for a connection.
pub(super) struct DumpUnderWay {
    session: Key,
    style: DumpStyle,
    pipe: Rc<Pipe>,
}

/// From the task to the connection.
#[derive(Default)]
struct Pipe {
    lines: RefCell<Vec<u8>>,
    is_done: Cell<bool>,
    /// Nobody wants the rest.
    is_cancelled: Cell<bool>,
    /// Lines were taken, or it was cancelled.
    taken: Event,
}

impl Server {
    /// Begins a list for a connection, whose next request waits until it is done.
    pub(super) fn begin_dump(&mut self, session: Key, style: DumpStyle) {
        let pipe = Rc::new(Pipe::default());
        self.io.spawn(make(self.io.clone(), self.shard.dump(style), Rc::clone(&pipe)));
        self.dumps.push(DumpUnderWay { session, style, pipe });
    }

    /// Hands on what lists have come to, as far as their clients take it.
    pub(super) fn pass_on_dumps(&mut self) {
        if self.dumps.is_empty() {
            return;
        }
        for dump in std::mem::take(&mut self.dumps) {
            if self.pass_on(&dump) {
                self.dumps.push(dump);
            } else {
                dump.pipe.is_cancelled.set(true);
                dump.pipe.taken.notify();
                self.shard.dump_ended(dump.style);
                self.resume(dump.session, Waits::Dump);
            }
        }
    }

    /// Says whether there may be more.
    fn pass_on(&mut self, dump: &DumpUnderWay) -> bool {
        let Some(session) = self.sessions.get_mut(dump.session).filter(|session| !session.is_broken) else {
            return false;
        };
        let mut lines = dump.pipe.lines.borrow_mut();
        if !lines.is_empty() && !session.queue.is_full() {
            session.queue.buffer(&mut self.spares).append(&mut lines);
            dump.pipe.taken.notify();
        }
        let is_over = dump.pipe.is_done.get() && lines.is_empty();
        drop(lines);
        self.note_answers(dump.session);
        !is_over
    }

    /// Ends all lists where they are, and the connections that wait for them.
    pub(super) fn break_off_dumps(&mut self) {
        let sessions: Vec<Key> = self.dumps.iter().map(|dump| dump.session).collect();
        sessions.into_iter().for_each(|session| self.break_off(session));
    }
}

/// Makes a list, at most [`OUTPUT_SIZE_HIGH`] and a step ahead of what was taken.
async fn make(io: RingIo, mut dump: Dump<RingIo>, pipe: Rc<Pipe>) {
    let mut lines = Vec::new();
    while !pipe.is_cancelled.get() {
        let taken = pipe.taken.wait();
        if pipe.lines.borrow().len() >= OUTPUT_SIZE_HIGH {
            taken.await;
            continue;
        }
        let has_more = dump.step(&mut lines).await;
        pipe.lines.borrow_mut().append(&mut lines);
        pipe.is_done.set(!has_more);
        io.rouse();
        if !has_more {
            return;
        }
        io.yield_now().await;
    }
}
