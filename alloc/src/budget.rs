//! A limit on memory that several owners share, and the account of what they have taken.

use std::cell::Cell;
use std::rc::Rc;

use crate::arena::ArenaError;

/// Bytes that may be mapped, and how many are. A handle: clones are the same budget.
///
/// A budget belongs to one thread, as everything that reserves from it does. It counts what is mapped, not what is
/// resident: a promise that is kept whatever the owners touch.
#[derive(Clone, Debug)]
pub struct Budget {
    account: Rc<Account>,
}

#[derive(Debug)]
struct Account {
    limit: usize,
    used: Cell<usize>,
}

impl Budget {
    /// A budget of `limit` bytes, none of them used.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { account: Rc::new(Account { limit, used: Cell::new(0) }) }
    }

    /// Bytes in all.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.account.limit
    }

    /// Bytes reserved at present.
    #[must_use]
    pub fn used(&self) -> usize {
        self.account.used.get()
    }

    /// Bytes that may still be reserved.
    #[must_use]
    pub fn left(&self) -> usize {
        self.limit() - self.used()
    }
}

/// A part of a budget, given back on drop. Without a budget it is a number and no more.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Option<Budget>,
    size: usize,
}

impl Reservation {
    /// Takes `size` bytes out of `budget`.
    ///
    /// # Errors
    /// [`ArenaError::OverBudget`] when it has fewer; nothing is taken then.
    pub(crate) fn of(budget: Option<Budget>, size: usize) -> Result<Self, ArenaError> {
        if let Some(budget) = &budget {
            if size > budget.left() {
                return Err(ArenaError::OverBudget { wanted: size, left: budget.left() });
            }
            budget.account.used.set(budget.used() + size);
        }
        Ok(Self { budget, size })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            debug_assert!(budget.used() >= self.size, "what is given back was reserved");
            budget.account.used.set(budget.used() - self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_comes_back_and_no_more_than_the_limit_goes_out() {
        let budget = Budget::new(100);
        let half = Reservation::of(Some(budget.clone()), 50).expect("half of an unused budget");
        let error = Reservation::of(Some(budget.clone()), 51).expect_err("one byte too many");
        assert!(matches!(error, ArenaError::OverBudget { wanted: 51, left: 50 }), "{error}");
        assert_eq!((budget.used(), budget.left(), budget.limit()), (50, 50, 100));
        let other_half = Reservation::of(Some(budget.clone()), 50).expect("exactly the rest");
        assert_eq!(budget.left(), 0);
        drop(half);
        drop(other_half);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn without_a_budget_there_is_no_limit() {
        assert!(Reservation::of(None, usize::MAX).is_ok());
    }
}
