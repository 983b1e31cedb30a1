//! Runs a simulated world: its tasks, and its clock.

use std::cmp::Ordering as Order;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Sim;

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Somebody who waits for a moment. The greatest is due first; of those due at once, the one that came first.
pub(super) struct Timer {
    due: Duration,
    number: u64,
    waker: Waker,
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Timer {}

impl Sim {
    /// Runs `future` and the tasks that it spawns until it ends. Tasks that go on are kept until [`Self::end`].
    ///
    /// # Panics
    /// When nothing can ever go on: a deadlock.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_for(u64::MAX, future).expect("no world transfers that much")
    }

    /// Like [`Self::run`], but stops dead after `transfer_count` transfers, or when [`Self::set_deadline`] says so: `None`
    /// then.
    ///
    /// # Panics
    /// When nothing can ever go on: a deadlock.
    pub fn run_for<T>(&self, transfer_count: u64, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let end = self.world.borrow().transfer_count.saturating_add(transfer_count);
        loop {
            if self.world.borrow().is_over(end) {
                return None;
            }
            if flag.take()
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(output);
            }
            let progressed = self.run_tasks();
            if !progressed && !flag.is_set() {
                self.run_timers();
            }
        }
    }

    /// Drops all tasks, as a process that ends does. A world whose tasks hold handles to it lives for ever otherwise.
    pub fn end(&self) {
        loop {
            let (tasks, spawned, timers) = {
                let mut world = self.world.borrow_mut();
                (
                    std::mem::take(&mut world.tasks),
                    std::mem::take(&mut world.spawned),
                    std::mem::take(&mut world.timers),
                )
            };
            if tasks.is_empty() && spawned.is_empty() && timers.is_empty() {
                self.world.borrow_mut().writes.clear();
                return;
            }
        }
    }

    /// Polls every task that was woken, one after the other; says whether there was one.
    fn run_tasks(&self) -> bool {
        let mut order = {
            let mut world = self.world.borrow_mut();
            let spawned = std::mem::take(&mut world.spawned);
            let new = spawned.into_iter().map(|task| Some((task, Arc::new(Flag(AtomicBool::new(true))))));
            world.tasks.extend(new);
            let woken = |(index, slot): (usize, &Option<(Task, Arc<Flag>)>)| {
                slot.as_ref().is_some_and(|(_, flag)| flag.is_set()).then_some(index)
            };
            let woken: Vec<usize> = world.tasks.iter().enumerate().filter_map(woken).collect();
            woken
        };
        if order.is_empty() {
            return false;
        }
        if self.world.borrow().options.is_shuffled {
            for last in (1..order.len()).rev() {
                order.swap(last, self.draw() as usize % (last + 1));
            }
        }
        for index in order {
            let Some((mut task, flag)) = self.world.borrow_mut().tasks[index].take() else { continue };
            flag.take();
            let waker = Waker::from(Arc::clone(&flag));
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.world.borrow_mut().tasks[index] = Some((task, flag));
            }
        }
        self.world.borrow_mut().tasks.retain(Option::is_some);
        true
    }

    /// Moves time on to the next timer.
    fn run_timers(&self) {
        let timer = {
            let mut world = self.world.borrow_mut();
            let timer = world.timers.pop().expect("deadlock: no task can go on and no timer is set");
            world.now = world.now.max(timer.due);
            timer
        };
        timer.waker.wake();
    }
}

/// See [`Io::sleep`](super::Io::sleep).
pub(super) struct Sleep {
    pub(super) sim: Sim,
    pub(super) due: Duration,
    pub(super) registered: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sim.world.borrow().now >= self.due {
            return Poll::Ready(());
        }
        if !self.registered {
            self.registered = true;
            let mut world = self.sim.world.borrow_mut();
            let number = world.timer_count;
            world.timer_count += 1;
            world.timers.push(Timer { due: self.due, number, waker: context.waker().clone() });
        }
        Poll::Pending
    }
}
