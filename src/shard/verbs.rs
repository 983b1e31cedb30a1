//! Requests, each as what it does to the store; the text commands with their answers.

use super::operations::{Attempt, Counted, Order, Outcome, Removal, Sum};
use super::{After, Answers, Executed, Shard};
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::text::encode::{Answer, encode_answer, encode_number, encode_version};
use crate::protocol::{Direction, Expiry, Request, StoreRequest, StoreVerb, absolute_expiry};
use crate::store::{Changed, Held, Obstacle};

impl<I: Io> Shard<I> {
    /// Executes a request and appends its answer to `answers`, unless something stands in its way. `held` is what the
    /// read has brought that the same request asked for with [`Obstacle::Disk`].
    pub fn execute<'a>(
        &self,
        request: &Request<'a>,
        held: Option<&Held<'_, I::File>>,
        answers: &mut impl Answers<I::File>,
    ) -> Executed<'a, I::File> {
        let (result, noreply) = match *request {
            Request::Get { ref keys, with_cas, touch } => return self.get(keys, with_cas, touch, answers),
            Request::Meta(ref request) => return self.meta(request, held, answers),
            Request::Store(ref request) => (self.store_value(request, held), request.noreply),
            Request::TooLarge { verb, key, noreply } => (self.too_large(verb, key), noreply),
            Request::Delete { key, noreply } => (self.delete(key), noreply),
            Request::Touch { key, exptime, noreply } => (self.touch(key, exptime), noreply),
            Request::Arithmetic { key, delta, direction, noreply } => {
                return executed(self.arithmetic(key, delta, direction, held).map(|counted| match counted {
                    _ if noreply => {}
                    Ok(number) => encode_number(answers.buffer(), number),
                    Err(answer) => encode_answer(answers.buffer(), answer),
                }));
            }
            Request::FlushAll { delay, noreply } => (self.flush_all(delay), noreply),
            // Accepted as memcached does; what is logged is set at start.
            Request::Verbosity { noreply, .. } => (Ok(Answer::Ok), noreply),
            Request::MetaNoop => (Ok(Answer::MetaNoop), false),
            Request::Version => {
                encode_version(answers.buffer(), MEMCACHED_VERSION);
                return Executed::Done(After::Continue);
            }
            Request::Stats { argument } => {
                return Executed::Done(self.report(argument, answers.buffer()));
            }
            Request::Admin(admin) => return self.administer(admin, answers),
            Request::Quit => return Executed::Done(After::Close),
            // The server does not ask for these yet: its parser knows the text protocol only.
            Request::Binary(ref request) => return self.binary(request, held, answers),
        };
        executed(result.map(|answer| {
            if !noreply {
                encode_answer(answers.buffer(), answer);
            }
        }))
    }

    fn store_value(&self, request: &StoreRequest<'_>, held: Option<&Held<'_, I::File>>) -> Attempt<Answer, I::File> {
        let StoreRequest { verb, key, flags, exptime, value, .. } = *request;
        let order = Order {
            verb,
            key,
            value,
            client_flags: flags,
            expiry: self.expiry(exptime),
            bits: 0,
            compare: None,
            own_cas: None,
            may_be_stale: false,
            vivify: None,
        };
        let outcome = self.store_order(&order, held)?;
        self.prefixes.borrow_mut().record_set(key);
        Ok(stored_line(outcome))
    }

    fn too_large(&self, verb: StoreVerb, key: &[u8]) -> Attempt<Answer, I::File> {
        let outcome = self.refuse_too_large(key, verb == StoreVerb::Set)?;
        self.prefixes.borrow_mut().record_set(key);
        Ok(stored_line(outcome))
    }

    fn delete(&self, key: &[u8]) -> Attempt<Answer, I::File> {
        let outcome = self.remove(key, Removal::default(), None)?;
        self.prefixes.borrow_mut().record_delete(key);
        Ok(match outcome {
            Outcome::Done(_) => Answer::Deleted,
            outcome => stored_line(outcome),
        })
    }

    fn touch(&self, key: &[u8], exptime: i64) -> Attempt<Answer, I::File> {
        Ok(match self.touch_item(key, self.expiry(exptime))? {
            Outcome::Done(_) => Answer::Touched,
            outcome => stored_line(outcome),
        })
    }

    /// `incr` and `decr`: the new number, or why there is none.
    fn arithmetic(
        &self,
        key: &[u8],
        delta: u64,
        direction: Direction,
        held: Option<&Held<'_, I::File>>,
    ) -> Attempt<Result<u64, Answer>, I::File> {
        let sum = Sum { key, delta, direction, compare: None, own_cas: None, initial: None, expiry: None, bits: 0 };
        Ok(match self.count_up_or_down(&sum, held)? {
            Counted::Number { number, .. } => Ok(number),
            Counted::NotNumeric => Err(Answer::NotNumeric),
            Counted::Not(outcome) => Err(stored_line(outcome)),
        })
    }

    fn flush_all(&self, delay: i64) -> Attempt<Answer, I::File> {
        Ok(match self.flush_items(delay)? {
            Some(Changed::NoSpace) => Answer::OutOfMemory,
            Some(Changed::Failed) => Answer::DiskWriteFailed,
            Some(Changed::Done | Changed::NotFound) => Answer::Ok,
            None => Answer::FlushAllNotAllowed,
        })
    }

    /// `None`: it is not allowed.
    pub(super) fn flush_items(&self, delay: i64) -> Attempt<Option<Changed>, I::File> {
        let changed = if self.facts.flush_enabled {
            let due = match absolute_expiry(delay, self.store.now()) {
                Expiry::At(second) => Some(second),
                Expiry::Never | Expiry::Immediately => None,
            };
            Some(self.store.try_flush_all(due)?)
        } else {
            None
        };
        self.count(|counters| counters.cmd_flush += 1);
        Ok(changed)
    }
}

/// The line for what storing came to.
pub(super) fn stored_line(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Done(_) => Answer::Stored,
        Outcome::NotStored => Answer::NotStored,
        Outcome::Exists => Answer::Exists,
        Outcome::NotFound => Answer::NotFound,
        Outcome::TooLarge => Answer::TooLarge,
        Outcome::NoSpace => Answer::OutOfMemory,
        Outcome::ReadFailed => Answer::DiskReadFailed,
        Outcome::WriteFailed => Answer::DiskWriteFailed,
    }
}

/// What an operation of the store has come to, for whoever asked for it.
pub(super) fn executed<'a, F>(result: Result<(), Obstacle<F>>) -> Executed<'a, F> {
    match result {
        Ok(()) => Executed::Done(After::Continue),
        Err(obstacle) => Executed::Blocked(obstacle),
    }
}
