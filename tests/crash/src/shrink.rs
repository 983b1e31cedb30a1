//! From a plan that fails to a small one that fails in the same way.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::model::{Fault, Wrong};
use crate::plan::Plan;
use crate::run::{Tally, run};

/// Most runs that are spent on shrinking one plan.
const RUN_COUNT_MAX: usize = 3000;

thread_local! {
    /// What the last panic has said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    static SEED: RefCell<u64> = const { RefCell::new(0) };
}

/// Runs a plan; a panic is a fault as well, where panics unwind. Where they abort, its seed is told.
pub(crate) fn try_plan(plan: &Plan, is_loud: bool) -> (Tally, Result<(), Fault>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            if cfg!(panic = "abort") {
                let seed = SEED.with_borrow(|seed| *seed);
                println!("seed {seed}: Panic: {text}\nto have it shrunk: cargo run --profile crash -p dmacached-crash");
            }
            SAID.with_borrow_mut(|said| *said = text);
        }));
    });
    SEED.with_borrow_mut(|seed| *seed = plan.seed);
    let result = catch_unwind(AssertUnwindSafe(|| run(plan, is_loud)));
    result.unwrap_or_else(|_| {
        let text = SAID.with_borrow(Clone::clone);
        (Tally::default(), Err(Fault::new(Wrong::Panic, text)))
    })
}

struct Shrinker {
    best: Plan,
    wrong: Wrong,
    runs: usize,
}

impl Shrinker {
    /// Keeps a plan if it fails as the first did.
    fn keep(&mut self, plan: Plan) -> bool {
        if self.runs >= RUN_COUNT_MAX || plan == self.best {
            return false;
        }
        self.runs += 1;
        let fails = try_plan(&plan, false).1.is_err_and(|fault| fault.wrong == self.wrong);
        if fails {
            self.best = plan;
        }
        fails
    }

    fn without(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.clone();
        change(&mut plan);
        self.keep(plan)
    }

    fn round(&mut self) -> bool {
        let mut has_shrunk = false;
        for number in (0..self.best.lives.len()).rev() {
            has_shrunk |= self.without(|plan| drop(plan.lives.remove(number)));
        }
        for life in 0..self.best.lives.len() {
            has_shrunk |= self.fewer_attempts_and_faults(life);
            for client in (0..self.best.lives[life].clients.len()).rev() {
                has_shrunk |= self.without(|plan| drop(plan.lives[life].clients.remove(client)));
            }
            for client in 0..self.best.lives[life].clients.len() {
                has_shrunk |= self.fewer_ops(life, client);
            }
            has_shrunk |= self.earlier_cut(life);
        }
        has_shrunk
    }

    fn fewer_attempts_and_faults(&mut self, life: usize) -> bool {
        let mut has_shrunk = false;
        for attempt in (0..self.best.lives[life].attempts.len()).rev() {
            has_shrunk |= self.without(|plan| {
                plan.lives[life].attempts.remove(attempt);
            });
        }
        for fault in (0..self.best.lives[life].faults.len()).rev() {
            has_shrunk |= self.without(|plan| {
                plan.lives[life].faults.remove(fault);
            });
        }
        has_shrunk |= self.without(|plan| plan.lives[life].pause = 0);
        has_shrunk
    }

    /// Takes out ever smaller parts of a client's operations.
    fn fewer_ops(&mut self, life: usize, client: usize) -> bool {
        let mut has_shrunk = false;
        let mut size = self.best.lives[life].clients[client].len().div_ceil(2);
        while size > 0 {
            let mut end = self.best.lives[life].clients[client].len();
            while end > 0 {
                let start = end.saturating_sub(size);
                has_shrunk |= self.without(|plan| drop(plan.lives[life].clients[client].drain(start..end)));
                end = start.min(self.best.lives[life].clients[client].len());
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        has_shrunk
    }

    fn earlier_cut(&mut self, life: usize) -> bool {
        let mut has_shrunk = self.without(|plan| plan.lives[life].cut_after = None);
        while let Some(after) = self.best.lives[life].cut_after {
            let earlier = [after / 2, after * 3 / 4, after.saturating_sub(1)];
            let kept = earlier.iter().any(|cut| self.without(|plan| plan.lives[life].cut_after = Some(*cut)));
            if !kept {
                break;
            }
            has_shrunk = true;
        }
        has_shrunk
    }
}

/// Shrinks a plan that has failed, and prints what is left.
pub(crate) fn shrink_and_print(plan: &Plan, fault: &Fault) {
    let mut shrinker = Shrinker { best: plan.clone(), wrong: fault.wrong, runs: 0 };
    while shrinker.round() {}
    let (best, runs) = (shrinker.best, shrinker.runs);
    println!(
        "shrunk from {} operations and {} faults to {} and {} in {runs} runs:",
        plan.op_count(),
        plan.fault_count(),
        best.op_count(),
        best.fault_count()
    );
    print!("{best}");
    if let Err(fault) = try_plan(&best, true).1 {
        println!("{fault}");
    }
}
