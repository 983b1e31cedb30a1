//! One load against one server: connect, fill, warm up, measure.
//!
//! **Invariant:** every request that the measured phase sends is answered within it, and no other is; so the CPU time
//! that the server used over the phase belongs to exactly the requests that are counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::connection::{Address, Connection};
use crate::phase::{Clock, Content, Phase, Schedule};
use crate::procstat::{self, Usage};
use crate::tally::Tally;
use crate::worker::{Context, Worker};
use crate::workload::Workload;

/// The least pipelining of a fill, which is not measured and should not take long.
const FILL_PIPELINE_MIN: usize = 32;

/// How far ahead an open loop's schedule begins, so that the threads are up when the first request is due.
const SCHEDULE_LEAD: Duration = Duration::from_millis(20);

/// When a measured phase ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Length {
    /// No request is sent after this time.
    Time(Duration),
    /// This many requests are sent, over all connections.
    Requests(u64),
}

/// Everything that one load needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) address: Address,
    /// Whose CPU time and context switches are reported; must be on this machine.
    pub(crate) server_pid: Option<u32>,
    /// Connections over all threads.
    pub(crate) connection_count: u64,
    /// Requests in flight per connection.
    pub(crate) pipeline: usize,
    /// See [`Phase::burst`].
    pub(crate) burst: bool,
    /// How long the measured phase lasts.
    pub(crate) length: Length,
    /// How long the same load runs unmeasured before.
    pub(crate) warmup: Duration,
    /// Requests per second of an open loop; `None` for a closed loop.
    pub(crate) rate: Option<f64>,
    /// Client threads.
    pub(crate) thread_count: usize,
    /// Client thread `i` runs on the CPU number `i` of this list, taken round and round; not pinned when empty.
    pub(crate) cpus: Vec<usize>,
    /// How long the server may be silent while requests are in flight.
    pub(crate) timeout: Duration,
    /// Whether every key is set once before.
    pub(crate) fill: bool,
    /// The requests.
    pub(crate) workload: Workload,
}

/// What a load found.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// All counts and latencies.
    pub(crate) tally: Tally,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// User and system time of this process over the measured phase.
    pub(crate) client_cpu: Duration,
    /// What the server used over the measured phase, if its process is known.
    pub(crate) server: Option<Usage>,
    /// Keys filled, and how long it took.
    pub(crate) fill: Option<(u64, Duration)>,
}

impl Outcome {
    /// Requests answered per second.
    pub(crate) fn rate(&self) -> f64 {
        self.tally.requests() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Microseconds of the server's CPU per request.
    pub(crate) fn server_cpu_us(&self) -> Option<f64> {
        self.server.map(|server| server.cpu.as_secs_f64() * 1e6 / self.tally.requests().max(1) as f64)
    }

    /// The server's context switches per request.
    pub(crate) fn server_switches(&self) -> Option<f64> {
        self.server.map(|server| server.switch_count as f64 / self.tally.requests().max(1) as f64)
    }

    /// The share of its threads' time that the client was busy, 0 to 1.
    pub(crate) fn client_share(&self, thread_count: usize) -> f64 {
        self.client_cpu.as_secs_f64() / (self.elapsed.as_secs_f64() * thread_count as f64).max(1e-9)
    }
}

/// Runs `plan` from connecting to the last answer.
///
/// # Errors
///
/// A sentence when the server cannot be reached or breaks off, its process does not exist, or a fill is not complete.
pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    let mut session = Session::connect(plan)?;
    let fill = if plan.fill { Some(session.fill()?) } else { None };
    if !plan.warmup.is_zero() {
        session.mix(Length::Time(plan.warmup))?;
    }
    let usage = || plan.server_pid.map(Usage::of).transpose();
    let (server_before, client_before) = (usage()?, procstat::own_cpu()?);
    let (tally, elapsed) = session.mix(plan.length)?;
    let (server_after, client_after) = (usage()?, procstat::own_cpu()?);
    let server = server_after.zip(server_before).map(|(after, before)| after.since(before));
    Ok(Outcome { tally, elapsed, client_cpu: client_after.saturating_sub(client_before), server, fill })
}

/// Sets every key once over the connections of `plan`. Returns the number of keys and the time it took.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn fill(plan: &Plan) -> Result<(u64, Duration), String> {
    Session::connect(plan)?.fill()
}

/// Connected workers and the clock they share.
pub(crate) struct Session<'a> {
    plan: &'a Plan,
    clock: Clock,
    workers: Vec<Worker>,
}

impl<'a> Session<'a> {
    /// Connects all connections of `plan`.
    ///
    /// # Errors
    ///
    /// A sentence when the server cannot be reached.
    pub(crate) fn connect(plan: &'a Plan) -> Result<Self, String> {
        let thread_count = plan.thread_count as u64;
        let open = |id| Connection::open(&plan.address, id, plan.connection_count, &plan.workload);
        let worker = |thread: u64| {
            let ids = (thread..plan.connection_count).step_by(plan.thread_count);
            let cpu = plan.cpus.get(thread as usize % plan.cpus.len().max(1)).copied();
            Worker::new(ids.map(open).collect::<Result<_, _>>()?, cpu)
        };
        let workers = (0..thread_count).map(worker).collect::<Result<_, String>>()?;
        Ok(Self { plan, clock: Clock::start(), workers })
    }

    /// Sets every key once. Returns the number of keys and the time it took.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub(crate) fn fill(&mut self) -> Result<(u64, Duration), String> {
        let (key_count, connection_count) = (self.plan.workload.keys.count, self.plan.connection_count);
        let phase = Phase {
            content: Content::Fill,
            deadline_ns: None,
            pipeline: self.plan.pipeline.max(FILL_PIPELINE_MIN),
            burst: false,
            schedule: None,
        };
        let (tally, elapsed) = self.phase(&phase, |id| share(key_count, id, connection_count))?;
        match tally.first_error {
            Some(line) => Err(format!("{} of {key_count} keys were not stored; the first: {line}", tally.errors)),
            None if tally.sets == key_count => Ok((key_count, elapsed)),
            None => Err(format!("{} of {key_count} keys were set", tally.sets)),
        }
    }

    /// Runs the requests of the plan for `length`. Returns what was counted and the time it took.
    ///
    /// # Errors
    ///
    /// A sentence when the server breaks off.
    pub(crate) fn mix(&mut self, length: Length) -> Result<(Tally, Duration), String> {
        let plan = self.plan;
        let lead = if plan.rate.is_some() { SCHEDULE_LEAD } else { Duration::ZERO };
        let start_ns = self.clock.now_ns() + lead.as_nanos() as u64;
        let schedule =
            |rate: f64| Schedule { start_ns, interval_ns: 1e9 / rate, connection_count: plan.connection_count };
        let (deadline_ns, total) = match length {
            Length::Time(time) => (Some(start_ns + time.as_nanos() as u64), None),
            Length::Requests(total) => (None, Some(total)),
        };
        let phase = Phase {
            content: Content::Mix,
            deadline_ns,
            pipeline: plan.pipeline,
            burst: plan.burst,
            schedule: plan.rate.map(schedule),
        };
        let budget = |id| total.map_or(u64::MAX, |total| share(total, id, plan.connection_count));
        let (tally, elapsed) = self.phase(&phase, budget)?;
        Ok((tally, elapsed.saturating_sub(lead)))
    }

    /// Runs `phase` on all threads and waits for the last answer.
    fn phase(&mut self, phase: &Phase, budget: impl Fn(u64) -> u64 + Sync) -> Result<(Tally, Duration), String> {
        let gave_up = AtomicBool::new(false);
        let (workload, timeout, clock) = (&self.plan.workload, self.plan.timeout, self.clock);
        let context = Context { workload, phase, clock, gave_up: &gave_up, timeout };
        let budget = &budget;
        let run = |worker: &mut Worker| {
            let outcome = worker.run(context, budget);
            gave_up.fetch_or(outcome.is_err(), Ordering::Relaxed);
            outcome
        };
        let run = &run;
        let begin_ns = clock.now_ns();
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = self.workers.iter_mut().map(|worker| scope.spawn(move || run(worker))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a client thread does not panic")).collect()
        });
        let elapsed = Duration::from_nanos(clock.now_ns() - begin_ns);
        outcomes.into_iter().collect::<Result<(), String>>()?;
        let mut tally = Tally::new();
        self.workers.iter().for_each(|worker| tally.add(&worker.tally));
        Ok((tally, elapsed))
    }
}

/// The part of `total` that falls to the one numbered `index` out of `count`.
fn share(total: u64, index: u64, count: u64) -> u64 {
    total / count + u64::from(index < total % count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_server::{Behaviour, start};
    use crate::workload::{KeyOrder, Keys, Values};

    fn plan(behaviour: Behaviour) -> Plan {
        Plan {
            address: Address::Tcp(start(behaviour)),
            server_pid: Some(std::process::id()),
            connection_count: 5,
            pipeline: 4,
            burst: false,
            length: Length::Requests(2_003),
            warmup: Duration::from_millis(20),
            rate: None,
            thread_count: 2,
            cpus: Vec::new(),
            timeout: Duration::from_secs(5),
            fill: true,
            workload: Workload {
                keys: Keys { prefix: "key:".to_owned(), count: 103 },
                values: Values { size_min: 0, size_max: 3_000 },
                get_share: 0.7,
                multiget_count: 3,
                order: KeyOrder::Zipf,
                zipf_exponent: 0.99,
                seed: 11,
                verify: true,
                ledger: None,
            },
        }
    }

    #[test]
    fn a_filled_server_answers_every_request_with_the_right_bytes() {
        let outcome = run(&plan(Behaviour::Correct)).expect("a complete run");
        let tally = &outcome.tally;
        assert_eq!(outcome.fill.map(|(count, _)| count), Some(103));
        assert_eq!((tally.requests(), tally.errors, tally.wrong, tally.misses), (2_003, 0, 0, 0));
        assert_eq!(tally.hits, tally.gets * 3);
        assert_eq!(tally.latencies().count(), 2_003);
        assert!(tally.gets > tally.sets && tally.sets > 300, "{} {}", tally.gets, tally.sets);
    }

    #[test]
    fn answers_and_requests_larger_than_every_buffer_arrive_whole() {
        let mut plan = plan(Behaviour::Correct);
        plan.workload.keys.count = 20;
        plan.workload.values = Values { size_min: 1_000, size_max: 900_000 };
        (plan.length, plan.warmup) = (Length::Requests(200), Duration::ZERO);
        let tally = run(&plan).expect("a complete run").tally;
        assert_eq!((tally.requests(), tally.errors, tally.wrong, tally.misses), (200, 0, 0, 0));
        // One request beyond what the kernel buffers: the rest of it must wait for room without any answer coming.
        plan.workload.keys = Keys { prefix: "huge:".to_owned(), count: 1 };
        plan.workload.values = Values { size_min: 24 << 20, size_max: 24 << 20 };
        (plan.length, plan.connection_count, plan.thread_count) = (Length::Requests(2), 1, 1);
        let tally = run(&plan).expect("a complete run").tally;
        assert_eq!((tally.requests(), tally.errors, tally.wrong, tally.misses), (2, 0, 0, 0));
    }

    #[test]
    fn without_a_fill_all_gets_miss() {
        let mut plan = plan(Behaviour::Correct);
        plan.fill = false;
        plan.workload.get_share = 1.0;
        let tally = run(&plan).expect("a complete run").tally;
        assert_eq!((tally.hits, tally.misses), (0, 2_003 * 3));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let tally = run(&plan(Behaviour::FlipsBits)).expect("a complete run").tally;
        assert!(tally.wrong > 0);
        assert!(tally.verdict().is_err());
        let mut unverified = plan(Behaviour::FlipsBits);
        unverified.workload.verify = false;
        assert_eq!(run(&unverified).expect("a complete run").tally.wrong, 0);
    }

    #[test]
    fn a_fill_that_is_refused_fails_the_run() {
        let error = run(&plan(Behaviour::RefusesSets)).expect_err("nothing is stored");
        assert!(error.contains("103 of 103 keys were not stored"), "{error}");
    }

    #[test]
    fn a_server_that_closes_or_falls_silent_fails_the_run() {
        let error = run(&plan(Behaviour::Closes)).expect_err("the server closes");
        assert!(error.contains("connection"), "{error}");
        let mut plan = plan(Behaviour::Silent);
        plan.timeout = Duration::from_millis(150);
        let error = run(&plan).expect_err("the server is silent");
        assert!(error.contains("no answer"), "{error}");
    }

    #[test]
    fn an_open_loop_keeps_its_schedule() {
        let mut plan = plan(Behaviour::Correct);
        plan.rate = Some(2_000.0);
        plan.length = Length::Time(Duration::from_millis(500));
        let outcome = run(&plan).expect("a complete run");
        assert_eq!(outcome.tally.requests() + outcome.tally.unsent, 1_000);
        assert!(outcome.elapsed >= Duration::from_millis(490), "{:?}", outcome.elapsed);
    }

    #[test]
    fn an_open_loop_counts_waiting_as_latency_and_tells_what_it_never_sent() {
        let mut plan = plan(Behaviour::Slow(Duration::from_millis(20)));
        (plan.connection_count, plan.thread_count, plan.pipeline, plan.fill) = (1, 1, 1, false);
        plan.warmup = Duration::ZERO;
        plan.rate = Some(200.0);
        plan.length = Length::Time(Duration::from_millis(400));
        let tally = run(&plan).expect("a complete run").tally;
        // One request takes 20 ms, one comes due every 5 ms: the queue grows by 15 ms per answer.
        assert!(tally.unsent >= 40 && tally.requests() + tally.unsent == 80, "{} unsent", tally.unsent);
        assert!(tally.latencies().max_us() > 150_000.0, "{}", tally.latencies().max_us());
    }

    #[test]
    fn shares_add_up() {
        for (total, count) in [(0, 3), (2, 3), (10, 3), (12, 4)] {
            assert_eq!((0..count).map(|index| share(total, index, count)).sum::<u64>(), total);
        }
    }
}
