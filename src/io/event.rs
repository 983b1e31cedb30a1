//! "Something has happened": a wake-up for tasks of one thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

thread_local! {
    static WAKES: Cell<u64> = const { Cell::new(0) };
}

/// Grows each time that a notification on this thread wakes somebody: an executor that reads it before and after it
/// does something knows whether tasks have become ready to go on.
#[must_use]
pub fn wakes() -> u64 {
    WAKES.get()
}

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
        if !waiting.is_empty() {
            WAKES.set(WAKES.get() + 1);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The number of notifications so far.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.borrow().generation
    }

    /// Ends with the next notification after this call (not after the first poll).
    pub fn wait(&self) -> Wait {
        Wait { event: self.clone(), generation: self.shared.borrow().generation }
    }

    /// Ends when `holds` says so, which is asked now and after each notification.
    pub async fn until(&self, mut holds: impl FnMut() -> bool) {
        loop {
            // Before it is asked: what it does may be notified of in the meantime.
            let notified = self.wait();
            if holds() {
                return;
            }
            notified.await;
        }
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_notification_is_counted_and_wakes_who_waits() {
        let event = Event::default();
        let (generation, wakes_before) = (event.generation(), wakes());
        event.notify();
        assert_eq!((event.generation(), wakes()), (generation + 1, wakes_before), "nobody waits");
        let mut wait = pin!(event.wait());
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        event.notify();
        assert_eq!((event.generation(), wakes()), (generation + 2, wakes_before + 1));
        assert!(wait.as_mut().poll(&mut context).is_ready());
        event.notify();
        assert_eq!(wakes(), wakes_before + 1, "it waits no more");
    }
}
