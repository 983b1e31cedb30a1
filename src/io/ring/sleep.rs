//! How a shard waits: for its ring, for glommio, for a timer, for another thread.
//!
//! A turn of the shard's loop ends in [`RingIo::turn`]. It submits what the turn has queued and returns when there is
//! something new. In between, in this order:
//!
//! 1. other tasks of the executor run, if a completion, a timer or an [`Event`](crate::io::Event) has woken one, or
//!    glommio has transfers in flight;
//! 2. the ring is watched for as long as the shard spins;
//! 3. with nothing of glommio's in flight, the thread blocks in its own ring until the next timer. That is one system
//!    call for submitting and sleeping, and measured 1.7 us cheaper per request than
//! 4. otherwise: the ring signals an eventfd, and a glommio read of that eventfd is awaited, so that glommio sleeps for
//!    both and its tasks go on.
//!
//! What wakes case 4 must not be an eventfd that the ring polls: a write to one signals the ring's own eventfd from within
//! the first one's wake-up, which the kernel puts off (`eventfd_signal_allowed`), and on Linux 6.18 forgets from the second
//! time on. So other threads ring a socket ([`Bell`]), and tasks of this thread write to the ring's eventfd ([`RingIo::rouse`]).
//!
//! **Invariant:** whoever makes a task runnable without the ring or glommio's own transfers knowing counts it
//! (`wake_count`, [`wakes`]); otherwise case 3 would let that task wait.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use io_uring::{IoUring, opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Operation, Ring, RingIo};
use crate::io::Io;
use crate::io::event::wakes;

/// Wakes the shard from another thread: [`super::Completion::Bell`].
#[derive(Clone, Debug)]
pub struct Bell(Arc<UnixStream>);

impl Bell {
    /// Rings it.
    pub fn ring(&self) {
        // Fails when the socket is full: then it has been rung often enough.
        let _ = (&*self.0).write(&[1]);
    }
}

/// What sleeping needs.
pub(super) struct Sleeper {
    /// The ring signals it while the shard sleeps through glommio.
    signalled: EventFd,
    bell: Bell,
    /// The other end of the bell.
    heard: UnixStream,
    /// The thread sleeps through glommio.
    is_asleep: Cell<bool>,
    /// The turn is to end.
    is_roused: Cell<bool>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    timer_count: Cell<u64>,
    /// When the timeout fires that is in the ring; `None` if there is none.
    armed: Cell<Option<Duration>>,
    /// The timeout's time; the kernel copies it when the entry is submitted.
    timeout: Box<Cell<types::Timespec>>,
    /// `wake_count` and `wakes()` when other tasks last ran.
    seen_wakes: Cell<u64>,
    /// When glommio last looked at its own transfers.
    looked: Cell<Duration>,
}

/// Somebody waits for a moment.
struct Timer {
    deadline: Duration,
    number: u64,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.deadline, self.number).cmp(&(other.deadline, other.number))
    }
}

impl Sleeper {
    pub(super) fn new(uring: &IoUring) -> io::Result<Self> {
        let signalled = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        uring.submitter().register_eventfd(signalled.as_fd().as_raw_fd())?;
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(Self {
            signalled,
            bell: Bell(Arc::new(bell)),
            heard,
            is_asleep: Cell::new(false),
            is_roused: Cell::new(false),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            armed: Cell::new(None),
            timeout: Box::default(),
            seen_wakes: Cell::new(0),
            looked: Cell::new(Duration::ZERO),
        })
    }

    /// What the ring polls to hear the bell.
    pub(super) fn heard(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Takes the rings that are there.
    pub(super) fn bell_rang(&self) {
        let mut rings = [0; 64];
        while (&self.heard).read(&mut rings).is_ok_and(|count| count == rings.len()) {}
    }

    /// Whether it is the nearest.
    fn add_timer(&self, deadline: Duration, waker: Waker) -> bool {
        let is_nearest = self.next_deadline().is_none_or(|nearest| deadline < nearest);
        let number = self.timer_count.get();
        self.timer_count.set(number + 1);
        self.timers.borrow_mut().push(Reverse(Timer { deadline, number, waker }));
        is_nearest
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.timers.borrow().peek().map(|Reverse(timer)| timer.deadline)
    }

    /// Wakes whose time has come; returns their number.
    fn fire(&self, now: Duration) -> u64 {
        let mut count = 0;
        loop {
            let due = {
                let mut timers = self.timers.borrow_mut();
                if timers.peek().is_none_or(|Reverse(timer)| timer.deadline > now) {
                    return count;
                }
                timers.pop()
            };
            count += 1;
            due.into_iter().for_each(|Reverse(timer)| timer.waker.wake());
        }
    }
}

/// Ends at a moment of [`Io::monotonic`].
pub(super) struct Sleep {
    pub(super) io: RingIo,
    pub(super) deadline: Duration,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.io.monotonic() >= self.deadline {
            return Poll::Ready(());
        }
        if self.io.ring().sleeper.add_timer(self.deadline, context.waker().clone()) {
            // The sleep under way may be longer than that.
            self.io.ring().rouse_if_asleep();
        }
        Poll::Pending
    }
}

/// The eventfd as glommio knows it.
pub(super) struct Signalled(BufferedFile);

impl Signalled {
    pub(super) fn of(ring: &Ring) -> io::Result<Rc<Self>> {
        let descriptor = ring.sleeper.signalled.as_fd().try_clone_to_owned()?.into_raw_fd();
        // SAFETY: 1. The descriptor was just made and belongs to nobody else; the file owns it from now on.
        Ok(Rc::new(Self(unsafe { BufferedFile::from_raw_fd(descriptor) })))
    }

    async fn wait(&self) {
        // An error (there is no known one) only means that the shard looks once more.
        let _ = self.0.read_at(0, size_of::<u64>()).await;
    }
}

/// How long a busy loop may keep glommio from looking at its transfers.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How long a turn may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// There is more to do: only what is there already is taken.
    None,
    /// Until something happens, or until this moment of [`Io::monotonic`].
    Until(Option<Duration>),
}

impl RingIo {
    /// Wakes this shard from other threads.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.ring().sleeper.bell.clone()
    }

    /// Has the present or next [`Self::turn`] end soon. For tasks of this thread that have changed what the shard's loop
    /// looks at.
    pub fn rouse(&self) {
        self.ring().sleeper.is_roused.set(true);
        self.ring().rouse_if_asleep();
    }

    /// Ends a turn: submits what is queued, lets other tasks run, and returns when there are completions to be taken, a
    /// timer was due, or `patience` is over. It may return early.
    pub async fn turn(&self, patience: Patience, spin: Duration) {
        self.wait(patience, spin).await;
        let fired = self.ring().sleeper.fire(self.refresh_clock());
        self.ring().wake_count.set(self.ring().wake_count.get() + fired);
    }

    async fn wait(&self, patience: Patience, spin: Duration) {
        self.let_others_run().await;
        let ring = self.ring();
        if self.foreign_count() > 0 && self.moment().saturating_sub(ring.sleeper.looked.get()) >= LOOK_INTERVAL {
            self.let_glommio_look().await;
        }
        let Patience::Until(until) = patience else { return ring.enter_now() };
        if ring.has_completions() || ring.sleeper.is_roused.take() {
            return ring.enter_now();
        }
        if !spin.is_zero() && self.spin(spin).await {
            return;
        }
        if let Some(deadline) = [until, ring.sleeper.next_deadline()].into_iter().flatten().min() {
            ring.arm_timeout(deadline, self.moment());
        }
        if self.foreign_count() > 0 {
            self.sleep_through_glommio().await;
        } else if self.has_news() {
            // A task that was woken after the others ran must not wait.
            ring.enter_now();
        } else {
            ring.enter_and_wait();
        }
    }

    fn woken(&self) -> u64 {
        self.ring().wake_count.get() + wakes() + self.spawn_count()
    }

    /// Has glommio look at its own transfers. A task that only yields keeps it from that until its preemption timer fires,
    /// every 100 ms; with a shorter one, glommio 0.9.0 sometimes hangs at its start.
    async fn let_glommio_look(&self) {
        // Wakes at once, but through glommio's ring.
        let _ = self.ring().sleeper.signalled.write(1);
        self.signalled().wait().await;
        self.ring().sleeper.looked.set(self.moment());
    }

    /// Whether a task is to run, or the shard's loop is to look around.
    fn has_news(&self) -> bool {
        let sleeper = &self.ring().sleeper;
        sleeper.is_roused.get() || sleeper.seen_wakes.get() != self.woken()
    }

    /// Lets tasks run that were woken. Never by yielding alone: when its preemption timer fires at the wrong moment, glommio
    /// 0.9.0 parks although this task is runnable, and nothing of its own would wake it.
    async fn let_others_run(&self) {
        let seen = &self.ring().sleeper.seen_wakes;
        // Those that run may wake others; bounded, as two might wake each other for ever.
        for _ in 0..4 {
            if seen.get() == self.woken() {
                return;
            }
            seen.set(self.woken());
            self.let_glommio_look().await;
        }
    }

    /// Watches the ring for `spin`; whether something came.
    async fn spin(&self, spin: Duration) -> bool {
        let ring = self.ring();
        ring.enter_now();
        let end = self.monotonic() + spin;
        while !ring.has_completions() {
            let now = self.monotonic();
            if now >= end || ring.sleeper.next_deadline().is_some_and(|deadline| deadline <= now) {
                return false;
            }
            if self.foreign_count() > 0 || self.has_news() {
                self.let_others_run().await;
                if ring.sleeper.is_roused.take() {
                    return true;
                }
            }
            std::hint::spin_loop();
            // Without a system call when the kernel has nothing for us: it says so in a flag.
            ring.enter_now();
        }
        true
    }

    async fn sleep_through_glommio(&self) {
        let ring = self.ring();
        ring.signal(true);
        ring.sleeper.is_asleep.set(true);
        // What came before the signal was switched on has not signalled; and only the first piece of work that the kernel
        // puts off signals, so all of it has to be done.
        fence(Ordering::SeqCst);
        ring.enter_until_idle();
        if !ring.has_completions() && !self.has_news() {
            self.signalled().wait().await;
        }
        ring.sleeper.is_asleep.set(false);
        ring.sleeper.looked.set(self.moment());
        ring.signal(false);
        ring.enter_now();
    }
}

impl Ring {
    /// Submits what a task has queued while the shard's loop sleeps, as that would do so only when it wakes.
    pub(super) fn submit_if_asleep(&self) {
        if self.sleeper.is_asleep.get() {
            self.enter_now();
            if self.has_completions() {
                self.rouse_if_asleep();
            }
        }
    }

    fn rouse_if_asleep(&self) {
        if self.sleeper.is_asleep.get() {
            // Fails only when the counter is at its end: then it is signalled.
            let _ = self.sleeper.signalled.write(1);
        }
    }

    /// Whether completions signal the eventfd.
    pub(super) fn signal(&self, is_on: bool) {
        let mut uring = self.uring.borrow_mut();
        let completions = uring.completion();
        if is_on { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Has the ring complete something at `deadline`, unless it does so before anyway. One timeout in the ring serves many
    /// turns; a timeout for each wait would cost the kernel more.
    fn arm_timeout(&self, deadline: Duration, now: Duration) {
        let sleeper = &self.sleeper;
        if sleeper.armed.get().is_some_and(|armed| now < armed && armed <= deadline) {
            return;
        }
        sleeper.armed.set(Some(deadline));
        sleeper.timeout.set(types::Timespec::from(deadline.saturating_sub(now)));
        let entry = opcode::Timeout::new(sleeper.timeout.as_ptr().cast_const()).build();
        // SAFETY: 1. The time lies in a box that lives as long as the ring. The kernel reads it when the entry is submitted,
        //            at the end of this turn; a later timeout whose time is set before that is an earlier one, and makes
        //            this one early too, which does no harm.
        unsafe { self.push(&entry.user_data(Operation::Ignored.user_data(0))) };
    }
}
