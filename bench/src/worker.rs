//! One client thread: an epoll loop over its connections that sleeps whenever there is nothing to do.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::connection::Connection;
use crate::phase::{Clock, Phase};
use crate::procstat;
use crate::tally::Tally;
use crate::workload::Workload;

/// Events taken from the kernel at once.
const EVENT_COUNT: usize = 256;

/// How long a thread sleeps at most, in milliseconds, before it looks whether the run was given up.
const SLEEP_MS_MAX: u16 = 100;

/// What the timer is called among the connections' numbers.
const TIMER: u64 = u64::MAX;

/// What all threads share during a phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The requests.
    pub(crate) workload: &'a Workload,
    /// The phase.
    pub(crate) phase: &'a Phase,
    /// The clock of the run.
    pub(crate) clock: Clock,
    /// Set when a thread gave up; the others then stop as well.
    pub(crate) gave_up: &'a AtomicBool,
    /// How long the server may leave all requests of a thread unanswered.
    pub(crate) timeout: Duration,
}

/// One client thread's connections.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its counts of the last phase.
    pub(crate) tally: Tally,
    cpu: Option<usize>,
    epoll: Epoll,
    timer: TimerFd,
    connections: Vec<Connection>,
    /// Per connection: whether the phase is over for it, and whether epoll watches for room to write.
    states: Vec<State>,
    active_count: usize,
    /// When bytes last went either way.
    progress_ns: u64,
    /// When the timer will go off, so that it is not set twice to the same time.
    timer_ns: Option<u64>,
    /// How many of this thread's scheduled requests have come due.
    slots_released: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_finished: bool,
    watches_writing: bool,
}

impl Worker {
    /// A thread's worth of connections, to be run on `cpu` only if one is given. They are ordered by their numbers.
    ///
    /// # Errors
    ///
    /// A sentence when the kernel refuses an epoll or a timer.
    pub(crate) fn new(connections: Vec<Connection>, cpu: Option<usize>) -> Result<Self, String> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(kernel("epoll_create"))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        let timer = timer.map_err(kernel("timerfd_create"))?;
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER)).map_err(kernel("epoll_ctl"))?;
        for (index, connection) in connections.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(connection.stream.as_fd(), event).map_err(kernel("epoll_ctl"))?;
        }
        let states = vec![State::default(); connections.len()];
        let tally = Tally::new();
        Ok(Self {
            tally,
            cpu,
            epoll,
            timer,
            connections,
            states,
            active_count: 0,
            progress_ns: 0,
            timer_ns: None,
            slots_released: 0,
        })
    }

    /// Runs one phase to its end. `budget` says how many requests the connection of a given number may send.
    ///
    /// # Errors
    ///
    /// A sentence when a connection is lost, an answer makes no sense, or none comes within the timeout.
    pub(crate) fn run(&mut self, context: Context<'_>, budget: impl Fn(u64) -> u64) -> Result<(), String> {
        if let Some(cpu) = self.cpu {
            procstat::pin(cpu)?;
        }
        self.begin(context, budget)?;
        let mut events = vec![EpollEvent::empty(); EVENT_COUNT];
        while self.active_count > 0 && !context.gave_up.load(Ordering::Relaxed) {
            self.set_timer(context)?;
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(SLEEP_MS_MAX)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(kernel("epoll_wait")(error)),
            };
            for event in events[..count].iter().filter(|event| event.data() != TIMER) {
                self.serve(event.data() as usize, event.events(), context)?;
            }
            let now_ns = context.clock.now_ns();
            self.release_slots(context, now_ns)?;
            self.check_progress(context, now_ns)?;
        }
        self.tally.unsent = self.connections.iter().map(|connection| connection.unsent(context.phase)).sum();
        Ok(())
    }

    fn begin(&mut self, context: Context<'_>, budget: impl Fn(u64) -> u64) -> Result<(), String> {
        self.tally = Tally::new();
        self.active_count = self.connections.len();
        self.progress_ns = context.clock.now_ns();
        self.slots_released = 0;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            connection.begin(budget(connection.id));
            self.states[index].is_finished = false;
            self.send(index, context, context.clock.now_ns())?;
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: EpollFlags, context: Context<'_>) -> Result<(), String> {
        let now_ns = if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            let now_ns = self.connections[index].receive(context.workload, context.clock, &mut self.tally)?;
            self.progress_ns = now_ns;
            now_ns
        } else {
            context.clock.now_ns()
        };
        self.send(index, context, now_ns)
    }

    /// Sends what may be sent, and notes whether the connection waits for room or is finished.
    fn send(&mut self, index: usize, context: Context<'_>, now_ns: u64) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let state = &mut self.states[index];
        if connection.pump(context.phase, context.workload, now_ns, &mut self.tally)? {
            self.progress_ns = now_ns;
        }
        if connection.wants_to_write() != state.watches_writing {
            state.watches_writing = connection.wants_to_write();
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, state.watches_writing);
            let mut event = EpollEvent::new(flags, index as u64);
            self.epoll.modify(connection.stream.as_fd(), &mut event).map_err(kernel("epoll_ctl"))?;
        }
        if !state.is_finished && connection.is_finished(context.phase, now_ns) {
            state.is_finished = true;
            self.active_count -= 1;
        }
        Ok(())
    }

    /// The next scheduled request: when it is due and whose it is.
    fn next_slot(&self, context: Context<'_>) -> Option<(u64, usize)> {
        let schedule = context.phase.schedule?;
        let count = self.connections.len() as u64;
        let index = (self.slots_released % count) as usize;
        Some((schedule.due_ns(self.connections[index].id, self.slots_released / count), index))
    }

    /// Sets the timer to the next scheduled request, or to the deadline if that comes first.
    fn set_timer(&mut self, context: Context<'_>) -> Result<(), String> {
        let Some((due_ns, _)) = self.next_slot(context) else {
            return Ok(());
        };
        let now_ns = context.clock.now_ns();
        if context.phase.is_over(now_ns) {
            self.timer_ns = None;
            // Only answers are awaited now; a timer that has gone off would keep waking the thread.
            return self.timer.unset().map_err(kernel("timerfd_settime"));
        }
        let next_ns = due_ns.min(context.phase.deadline_ns.unwrap_or(u64::MAX));
        if self.timer_ns == Some(next_ns) {
            return Ok(());
        }
        self.timer_ns = Some(next_ns);
        // Zero would switch the timer off.
        let delay_ns = next_ns.saturating_sub(now_ns).clamp(1, i64::MAX as u64);
        let expiration = Expiration::OneShot(TimeSpec::nanoseconds(delay_ns as i64));
        self.timer.set(expiration, TimerSetTimeFlags::empty()).map_err(kernel("timerfd_settime"))
    }

    /// Lets every connection send whose next request has come due; after the deadline, looks who is finished.
    fn release_slots(&mut self, context: Context<'_>, now_ns: u64) -> Result<(), String> {
        if context.phase.schedule.is_some() && context.phase.is_over(now_ns) {
            return (0..self.connections.len()).try_for_each(|index| self.send(index, context, now_ns));
        }
        while let Some((due_ns, index)) = self.next_slot(context) {
            if due_ns > now_ns {
                break;
            }
            self.slots_released += 1;
            self.send(index, context, now_ns)?;
        }
        Ok(())
    }

    fn check_progress(&self, context: Context<'_>, now_ns: u64) -> Result<(), String> {
        let silent = Duration::from_nanos(now_ns.saturating_sub(self.progress_ns));
        if silent > context.timeout && self.connections.iter().any(Connection::is_waiting) {
            return Err(format!("no answer for {:.1} s while requests are in flight", silent.as_secs_f64()));
        }
        Ok(())
    }
}

fn kernel(call: &'static str) -> impl Fn(Errno) -> String {
    move |error| format!("{call}: {error}")
}
