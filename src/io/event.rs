//! "Something has happened": a wake-up for tasks of one thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks wait for it, others notify it. A notification wakes everybody who waits at that moment and is forgotten; who
/// waits must look again at what it waits for.
#[derive(Clone, Debug, Default)]
pub struct Event {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    generation: u64,
    waiting: Vec<Waker>,
}

impl Event {
    /// Wakes everybody who waits.
    pub fn notify(&self) {
        let waiting = {
            let mut shared = self.shared.borrow_mut();
            shared.generation += 1;
            std::mem::take(&mut shared.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends with the next notification after this call (not after the first poll).
    pub fn wait(&self) -> Wait {
        Wait { event: self.clone(), generation: self.shared.borrow().generation }
    }
}

/// See [`Event::wait`].
#[derive(Debug)]
pub struct Wait {
    event: Event,
    generation: u64,
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.event.shared.borrow_mut();
        if shared.generation != self.generation {
            return Poll::Ready(());
        }
        // Somebody polled twice is in the list twice; the list is emptied by the next notification, so it stays short.
        if !shared.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            shared.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
