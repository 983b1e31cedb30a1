//! Runs a plan: lives of one store in one simulated world, each with clients and an end, and the checks after each start.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

use dmacached::clock::is_expired;
use dmacached::error::OpenError;
use dmacached::io::sim::{FaultKind, Sim};
use dmacached::io::{Event, Io};
use dmacached::stats::StoreCounters;
use dmacached::store::Store;

use crate::client::Client;
use crate::model::{Fault, Item, Model, Wrong};
use crate::plan::{End, Life, Mode, Plan};

/// Virtual time that a life may take: more means that something never ends.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long writes may wait for the device beside the flush interval, when nothing stalls.
const FLUSH_SLACK: Duration = Duration::from_secs(3);

/// What was done under some seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    pub(crate) cuts: u64,
    pub(crate) recoveries: u64,
    pub(crate) transfers: u64,
    pub(crate) faults: u64,
    /// Writes that found no space.
    pub(crate) refused: u64,
    /// Stores that did not open again after the device had lied.
    pub(crate) unopened: u64,
    pub(crate) reclaim: Reclaim,
}

/// What was done to get tables back, so that plans in which little of it happens are seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reclaim {
    /// Seeds of full stores, and those of them in which something was moved.
    pub(crate) full: u64,
    pub(crate) moving: u64,
    /// Live records that were copied, and words that keep others dead.
    pub(crate) moved: u64,
    pub(crate) guards: u64,
    /// Copies that were overtaken.
    pub(crate) overtaken: u64,
    /// Tables that were emptied: with something evicted, by moving, unread.
    pub(crate) evicted: u64,
    pub(crate) emptied: u64,
    pub(crate) unread: u64,
    pub(crate) pieces: u64,
}

impl Reclaim {
    fn note(&mut self, counters: &StoreCounters) {
        self.moved += counters.reclaim_records - counters.reclaim_guards;
        self.guards += counters.reclaim_guards;
        self.overtaken += counters.reclaim_overtaken;
        self.evicted += counters.tables_evicted;
        self.emptied += counters.tables_reclaimed - counters.tables_reclaimed_unread;
        self.unread += counters.tables_reclaimed_unread;
        self.pieces += counters.checkpoint_pieces;
    }
}

impl AddAssign for Reclaim {
    fn add_assign(&mut self, other: Self) {
        self.full += other.full;
        self.moving += other.moving;
        self.moved += other.moved;
        self.guards += other.guards;
        self.overtaken += other.overtaken;
        self.evicted += other.evicted;
        self.emptied += other.emptied;
        self.unread += other.unread;
        self.pieces += other.pieces;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.recoveries += other.recoveries;
        self.transfers += other.transfers;
        self.faults += other.faults;
        self.refused += other.refused;
        self.unopened += other.unopened;
        self.reclaim += other.reclaim;
    }
}

/// A plan that is being run.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) model: RefCell<Model>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) reads_may_fail: Cell<bool>,
    is_loud: bool,
    stalled: Cell<bool>,
    fault: RefCell<Option<Fault>>,
    /// The store that is open, to be asked after it was stopped dead.
    store: RefCell<Option<Store<Sim>>>,
}

/// Runs a plan; tells what happens if `is_loud`.
pub(crate) fn run(plan: &Plan, is_loud: bool) -> (Tally, Result<(), Fault>) {
    let run = Run::new(plan, is_loud);
    let result = run.lives();
    let mut tally = *run.tally.borrow();
    tally.reclaim.full = plan.is_full.into();
    tally.reclaim.moving = u64::from(plan.is_full && tally.reclaim.moved > 0);
    (tally, result)
}

impl Run {
    pub(crate) fn new(plan: &Plan, is_loud: bool) -> Rc<Self> {
        Rc::new(Self {
            plan: plan.clone(),
            model: RefCell::new(Model::new(plan.key_count)),
            tally: RefCell::default(),
            reads_may_fail: Cell::new(false),
            is_loud,
            stalled: Cell::new(false),
            fault: RefCell::default(),
            store: RefCell::default(),
        })
    }

    /// Whether a table's header or trailer is at this offset.
    fn is_mark(&self, offset: u64) -> bool {
        offset == 0 || offset == self.plan.table_size - 4096
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.is_loud {
            println!("    {}", text());
        }
    }

    /// What has happened in the world that the model must be told.
    pub(crate) fn look_at_world(&self, sim: &Sim, store: &Store<Sim>) {
        let mut model = self.model.borrow_mut();
        if self.plan.evict && !model.leniency.evicted {
            let gauges = store.gauges();
            model.leniency.evicted = gauges.tables >= gauges.tables_max;
        }
        if self.plan.fault_count() > 0 {
            for happened in sim.happened() {
                match happened.fault.kind {
                    FaultKind::Stall(_) => self.stalled.set(true),
                    FaultKind::NoSpace => {}
                    FaultKind::ReadError => {
                        self.reads_may_fail.set(true);
                        // It may have been a start that could not read: what it did not find is there again at the next.
                        model.leniency.lied |= !self.plan.is_honest();
                    }
                    FaultKind::WriteError | FaultKind::SyncError => {
                        model.leniency.failed = true;
                        // A table that cannot be marked as free stays on disk while younger ones are emptied.
                        model.leniency.lied |= self.is_mark(happened.offset);
                    }
                    FaultKind::BadPage(_) => {
                        self.reads_may_fail.set(true);
                        model.leniency.lied = true;
                    }
                    _ => model.leniency.lied = true,
                }
            }
        }
    }

    fn lives(self: &Rc<Self>) -> Result<(), Fault> {
        let Some((sim, is_stable)) = self.all_but_the_last_start()? else { return Ok(()) };
        let last = self.open(&sim, is_stable, None).map(drop);
        sim.end();
        last
    }

    /// The world that the plan leaves, and whether what is in it is on stable media. `None`: a store has not opened again, as
    /// the device has lied.
    pub(crate) fn all_but_the_last_start(self: &Rc<Self>) -> Result<Option<(Sim, bool)>, Fault> {
        let mut sim = Sim::with(self.plan.seed, self.plan.world());
        let mut is_stable = true;
        for life in self.plan.lives.clone() {
            for attempt in &life.attempts {
                (sim, is_stable) = self.attempt(sim, attempt.transfers, attempt.end)?;
            }
            let Some(store) = self.open(&sim, is_stable, Some(&life))? else { return Ok(None) };
            self.live(&sim, store, &life)?;
            (sim, is_stable) = self.cut(&sim, life.end);
            sim.advance(Duration::from_secs(life.pause.into()));
        }
        Ok(Some((sim, is_stable)))
    }

    /// The world after an end of this kind, and whether what is in it is on stable media.
    fn cut(&self, sim: &Sim, end: End) -> (Sim, bool) {
        let mut tally = self.tally.borrow_mut();
        tally.cuts += u64::from(end != End::Close);
        tally.transfers += sim.transfer_count();
        tally.faults += sim.happened().len() as u64;
        sim.happened().iter().for_each(|happened| self.say(|| happened.to_string()));
        self.say(|| format!("{end:?} at {:?}, after {} transfers", sim.monotonic(), sim.transfer_count()));
        let next = if end == End::Kill { sim.after_kill() } else { sim.power_cut() };
        if let Some(store) = self.store.take() {
            tally.reclaim.note(&store.counters());
        }
        sim.end();
        (next, end != End::Kill)
    }

    /// A start that is cut off.
    fn attempt(&self, sim: Sim, transfers: u64, end: End) -> Result<(Sim, bool), Fault> {
        sim.set_deadline(LIFE_MAX);
        let opened = sim.run_for(transfers, Store::open(sim.clone(), self.plan.options(), |_| {}));
        if let Some(Err(error)) = opened
            && !self.model.borrow().leniency.lied
        {
            return Err(Fault::new(Wrong::Open, error.to_string()));
        }
        Ok(self.cut(&sim, end))
    }

    /// Opens the store and checks everything that is in it. `None`: it does not open, and that is nobody's fault.
    fn open(self: &Rc<Self>, sim: &Sim, is_stable: bool, life: Option<&Life>) -> Result<Option<Store<Sim>>, Fault> {
        sim.set_deadline(LIFE_MAX);
        let is_honest = self.plan.is_honest();
        let faults = life.map(|life| life.faults.clone()).unwrap_or_default();
        if !is_honest {
            sim.schedule(faults.clone());
        }
        let mut opened = self.start(sim)?;
        if opened.is_err() && !is_honest {
            // What goes wrong once may be over.
            sim.schedule(Vec::new());
            opened = self.start(sim)?;
        }
        let store = match opened {
            Ok(store) => store,
            Err(error) if !is_honest && error.to_string().contains(crate::plan::DIRECTORY) => {
                self.say(|| error.to_string());
                self.tally.borrow_mut().unopened += 1;
                return Ok(None);
            }
            Err(error) => return Err(Fault::new(Wrong::Open, error.to_string())),
        };
        self.look_at_world(sim, &store);
        let due = store.flush_due();
        let found = self.check(sim, &store, is_stable)?;
        if life.is_none_or(|life| life.twice) {
            // A delayed flush that came while the keys were looked at is on disk now, and is due no more.
            let is_flushed = due.is_some_and(|due| due <= sim.now());
            self.check_again(sim, &found, is_stable, is_flushed)?;
        }
        if is_honest {
            sim.schedule(faults);
        }
        Ok(Some(store))
    }

    pub(crate) fn start(&self, sim: &Sim) -> Result<Result<Store<Sim>, OpenError>, Fault> {
        let opened = sim.run_for(u64::MAX, Store::open(sim.clone(), self.plan.options(), |_| {}));
        self.tally.borrow_mut().recoveries += 1;
        opened.ok_or_else(|| Fault::new(Wrong::Stuck, "a start does not end"))
    }

    /// Compares what a store that was just opened says with the model.
    fn check(self: &Rc<Self>, sim: &Sim, store: &Store<Sim>, is_stable: bool) -> Result<Vec<Option<Item>>, Fault> {
        let due = store.flush_due();
        // What the start has seen: a delayed flush or an expiry may be due between that and the first look.
        let begun = sim.now();
        let mut found = self.all(sim, store)?;
        let now = sim.now();
        found.iter_mut().for_each(|item| *item = item.filter(|item| !is_expired(item.expiry, now)));
        self.model.borrow_mut().recovered(&found, due, (begun, now), is_stable)?;
        recount(store)?;
        self.nothing_damaged(store)?;
        Ok(found)
    }

    /// When the disk does not fail, the index never points at what is not there. To clients that would be a miss, and might
    /// pass for an evicted record.
    fn nothing_damaged(&self, store: &Store<Sim>) -> Result<(), Fault> {
        let count = store.counters().damaged_records;
        if count == 0 || self.plan.fault_count() > 0 || matches!(self.plan.mode, Mode::Garbage | Mode::Flips) {
            return Ok(());
        }
        Err(Fault::new(Wrong::Accounting, format!("the index pointed at {count} records that were not there")))
    }

    /// What every key is.
    pub(crate) fn all(self: &Rc<Self>, sim: &Sim, store: &Store<Sim>) -> Result<Vec<Option<Item>>, Fault> {
        let client = Client { run: self, sim, store, seen: 0 };
        let look = async {
            let mut found = Vec::new();
            for key in 0..self.plan.key_count {
                let item = client.look(key).await?;
                self.look_at_world(sim, store);
                if item.is_none() && !self.reads_may_fail.get() && !self.model.borrow().leniency.lied {
                    return Err(Fault::new(Wrong::Outcome, format!("key {key}: a read fails, and the disk has not")));
                }
                found.push(item.flatten());
            }
            Ok(found)
        };
        sim.run_for(u64::MAX, look).unwrap_or_else(|| Err(Fault::new(Wrong::Stuck, "reading all keys does not end")))
    }

    /// Starts once more with what the first start has left, and compares.
    fn check_again(
        self: &Rc<Self>,
        sim: &Sim,
        found: &[Option<Item>],
        is_stable: bool,
        was_flushed: bool,
    ) -> Result<(), Fault> {
        let copy = if is_stable { sim.power_cut() } else { sim.after_kill() };
        copy.set_deadline(LIFE_MAX);
        let leniency = self.model.borrow().leniency;
        let store = match self.start(&copy)? {
            Ok(store) => store,
            Err(_) if leniency.lied => return Ok(()),
            Err(error) => return Err(Fault::new(Wrong::Open, format!("a second start: {error}"))),
        };
        let due = store.flush_due();
        let again = self.all(&copy, &store);
        let is_flushed = due.is_some_and(|due| due <= copy.now());
        recount(&store)?;
        drop(store);
        copy.end();
        let now = copy.now();
        if is_flushed || was_flushed {
            return again.map(drop);
        }
        for (key, (first, second)) in found.iter().zip(again?).enumerate() {
            let [first, second] = [*first, second].map(|item| item.filter(|item| !is_expired(item.expiry, now)));
            let may_differ = leniency.lied || (second.is_none() && (leniency.evicted || copy.now() > sim.now()));
            if first != second && !may_differ {
                let text = format!("key {key}: the first recovery finds {first:?}, the second one {second:?}");
                return Err(Fault::new(Wrong::Recovery, text));
            }
        }
        Ok(())
    }

    /// The clients do what they do, until the end.
    fn live(self: &Rc<Self>, sim: &Sim, store: Store<Sim>, life: &Life) -> Result<(), Fault> {
        self.store.replace(Some(store.clone()));
        let (left, ended) = (Rc::new(Cell::new(life.clients.len())), Event::default());
        for (number, ops) in life.clients.iter().enumerate() {
            let (run, world, store, ops) = (Rc::clone(self), sim.clone(), store.clone(), ops.clone());
            let (left, ended) = (Rc::clone(&left), ended.clone());
            sim.spawn(async move {
                run.serve(&world, &store, number, &ops).await;
                left.set(left.get() - 1);
                ended.notify();
            });
        }
        let all = async {
            while left.get() > 0 && self.fault.borrow().is_none() {
                ended.wait().await;
            }
            if life.end == End::Close && self.fault.borrow().is_none() {
                self.close(sim, &store).await;
            }
        };
        let done = sim.run_for(life.cut_after.unwrap_or(u64::MAX), all);
        self.model.borrow_mut().end(sim.now(), sim.monotonic());
        self.look_at_world(sim, &store);
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if done.is_none() && life.cut_after.is_none() {
            return Err(Fault::new(Wrong::Stuck, "a life does not end"));
        }
        let until = sim.monotonic().checked_sub(self.plan.flush_interval + FLUSH_SLACK);
        if let Some(until) = until.filter(|_| !self.stalled.get()) {
            self.model.borrow_mut().promise_until(until);
        }
        Ok(())
    }

    async fn close(&self, sim: &Sim, store: &Store<Sim>) {
        self.look_at_world(sim, store);
        let seq = self.model.borrow().seq();
        if let Err(fault) = recount(store) {
            self.fault.replace(Some(fault));
            return;
        }
        let closed = store.close().await;
        self.look_at_world(sim, store);
        let mut model = self.model.borrow_mut();
        match closed {
            Ok(()) => model.promise(seq),
            Err(error) if self.plan.fault_count() == 0 => {
                self.fault.replace(Some(Fault::new(Wrong::Outcome, format!("closing: {error}"))));
            }
            Err(_) => {}
        }
    }

    async fn serve(self: &Rc<Self>, sim: &Sim, store: &Store<Sim>, number: usize, ops: &[crate::plan::Op]) {
        let mut client = Client { run: self, sim, store, seen: 0 };
        for op in ops {
            if self.fault.borrow().is_some() {
                return;
            }
            self.tally.borrow_mut().operations += 1;
            let done = client.perform(*op).await;
            let (seen, transfers) = (client.seen, sim.transfer_count());
            self.say(|| format!("{:?} client {number}: {op:?} ({seen}, {transfers})", sim.monotonic()));
            if let Err(fault) = done {
                self.fault.replace(Some(fault));
                return;
            }
        }
    }
}

pub(crate) fn recount(store: &Store<Sim>) -> Result<(), Fault> {
    store.recount().map(drop).map_err(|miscount| Fault::new(Wrong::Accounting, miscount.to_string()))
}
