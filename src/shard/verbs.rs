//! memcached's text commands, each as what it does to the store.

use super::{After, Answers, Executed, Shard};
use crate::clock::Seconds;
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::text::encode::{Answer, encode_answer, encode_number, encode_version};
use crate::protocol::{Direction, Expiry, Request, StoreRequest, StoreVerb, absolute_expiry, stored_number};
use crate::record::Record;
use crate::store::{Changed, Condition, Held, Meta, Obstacle, Stored, Update};

/// An expiry in the past: memcached stores a value that has expired at once, and nobody finds it.
const LONG_AGO: Seconds = 1;

/// The answer to a request, or what stands in its way; never [`Obstacle::ReadFailed`], which has an answer.
type Outcome<F> = Result<Answer, Obstacle<F>>;

/// What an `incr` or `decr` came to.
enum Counted {
    Number(u64),
    NotNumeric,
    NotFound,
    ReadFailed,
}

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
            Request::Get { ref keys, with_cas } => return self.get(keys, with_cas, answers),
            Request::Arithmetic { key, delta, direction, noreply } => {
                let result = self.count_up_or_down(key, delta, direction, held);
                return executed(result.map(|counted| match counted {
                    _ if noreply => {}
                    Ok(number) => encode_number(answers.buffer(), number),
                    Err(answer) => encode_answer(answers.buffer(), answer),
                }));
            }
            Request::Version => {
                encode_version(answers.buffer(), MEMCACHED_VERSION);
                return Executed::Done(After::Continue);
            }
            Request::Stats { argument } => {
                self.report(argument, answers.buffer());
                return Executed::Done(After::Continue);
            }
            Request::Quit => return Executed::Done(After::Close),
            Request::Store(ref request) => (self.store_value(request, held), request.noreply),
            Request::TooLarge { verb, key, noreply } => (self.too_large(verb, key), noreply),
            Request::Delete { key, noreply } => (self.delete(key), noreply),
            Request::Touch { key, exptime, noreply } => (self.touch(key, exptime), noreply),
            Request::FlushAll { delay, noreply } => (self.flush_all(delay), noreply),
            // Accepted as memcached does; what is logged is set at start.
            Request::Verbosity { noreply, .. } => (Ok(Answer::Ok), noreply),
        };
        executed(result.map(|answer| {
            if !noreply {
                encode_answer(answers.buffer(), answer);
            }
        }))
    }

    fn expiry(&self, exptime: i64) -> Seconds {
        match absolute_expiry(exptime, self.store.now()) {
            Expiry::Never => 0,
            Expiry::At(second) => second,
            Expiry::Immediately => LONG_AGO,
        }
    }

    fn store_value(&self, request: &StoreRequest<'_>, held: Option<&Held<'_, I::File>>) -> Outcome<I::File> {
        let StoreRequest { verb, key, flags, exptime, value, .. } = *request;
        let meta = Meta { client_flags: flags, expiry: self.expiry(exptime), bits: 0 };
        let put = |condition| Ok(self.answer_to_store(self.store.try_put(key, value, meta, condition)?));
        let answer = match verb {
            StoreVerb::Set => put(Condition::Always),
            StoreVerb::Add => put(Condition::Absent),
            StoreVerb::Replace => put(Condition::Present),
            StoreVerb::Append => self.extend(key, [b"", value], held),
            StoreVerb::Prepend => self.extend(key, [value, b""], held),
            StoreVerb::Cas(unique) => self.compare_and_store(key, value, meta, unique, held),
        }?;
        self.count(|counters| counters.cmd_set += 1);
        Ok(answer)
    }

    fn answer_to_store(&self, stored: Stored) -> Answer {
        match stored {
            Stored::Stored(_) => Answer::Stored,
            Stored::NotStored => Answer::NotStored,
            Stored::NoSpace => {
                self.count(|counters| counters.store_no_memory += 1);
                Answer::OutOfMemory
            }
            Stored::TooLarge => {
                self.count(|counters| counters.store_too_large += 1);
                Answer::TooLarge
            }
        }
    }

    /// `append` and `prepend`: flags and expiry stay.
    fn extend(&self, key: &[u8], [before, after]: [&[u8]; 2], held: Option<&Held<'_, I::File>>) -> Outcome<I::File> {
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, ()) };
            for part in [before, record.value, after] {
                scratch.extend_from_slice(part);
            }
            (Update::Replace(meta_of(&record)), ())
        };
        Ok(match self.store.try_update(key, held, change) {
            Ok((Some(stored), ())) => self.answer_to_store(stored),
            Ok((None, ())) => Answer::NotStored,
            Err(Obstacle::ReadFailed) => Answer::DiskReadFailed,
            Err(obstacle) => return Err(obstacle),
        })
    }

    fn compare_and_store(
        &self,
        key: &[u8],
        value: &[u8],
        meta: Meta,
        unique: u64,
        held: Option<&Held<'_, I::File>>,
    ) -> Outcome<I::File> {
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| match record {
            None => (Update::Keep, Answer::NotFound),
            Some(record) if self.store.cas_unique(record.header.version) != unique => (Update::Keep, Answer::Exists),
            Some(_) => {
                scratch.extend_from_slice(value);
                (Update::Replace(meta), Answer::Stored)
            }
        };
        let answer = match self.store.try_update(key, held, change) {
            Ok((Some(stored), _)) => self.answer_to_store(stored),
            Ok((None, answer)) => answer,
            Err(Obstacle::ReadFailed) => Answer::DiskReadFailed,
            Err(obstacle) => return Err(obstacle),
        };
        self.count(|counters| match answer {
            Answer::Stored => counters.cas_hits += 1,
            Answer::Exists => counters.cas_badval += 1,
            Answer::NotFound => counters.cas_misses += 1,
            _ => {}
        });
        Ok(answer)
    }

    /// A value above `-I`. memcached deletes the old one when the command is a `set`, so that nobody reads it as if
    /// it were the new one.
    fn too_large(&self, verb: StoreVerb, key: &[u8]) -> Outcome<I::File> {
        if verb == StoreVerb::Set {
            // Whether there was one does not matter.
            let _: Changed = self.store.try_delete(key)?;
        }
        self.count(|counters| counters.store_too_large += 1);
        Ok(Answer::TooLarge)
    }

    fn delete(&self, key: &[u8]) -> Outcome<I::File> {
        let changed = self.store.try_delete(key)?;
        self.count(|counters| match changed {
            Changed::Done => counters.delete_hits += 1,
            Changed::NotFound => counters.delete_misses += 1,
            Changed::NoSpace => counters.store_no_memory += 1,
        });
        Ok(match changed {
            Changed::Done => Answer::Deleted,
            Changed::NotFound => Answer::NotFound,
            Changed::NoSpace => Answer::OutOfMemory,
        })
    }

    fn touch(&self, key: &[u8], exptime: i64) -> Outcome<I::File> {
        let changed = self.store.try_touch(key, self.expiry(exptime))?;
        self.count(|counters| {
            counters.cmd_touch += 1;
            match changed {
                Changed::Done => counters.touch_hits += 1,
                Changed::NotFound => counters.touch_misses += 1,
                Changed::NoSpace => counters.store_no_memory += 1,
            }
        });
        Ok(match changed {
            Changed::Done => Answer::Touched,
            Changed::NotFound => Answer::NotFound,
            Changed::NoSpace => Answer::OutOfMemory,
        })
    }

    fn flush_all(&self, delay: i64) -> Outcome<I::File> {
        let due = match absolute_expiry(delay, self.store.now()) {
            Expiry::At(second) => Some(second),
            Expiry::Never | Expiry::Immediately => None,
        };
        let changed = self.store.try_flush_all(due)?;
        self.count(|counters| counters.cmd_flush += 1);
        Ok(match changed {
            Changed::Done | Changed::NotFound => Answer::Ok,
            Changed::NoSpace => Answer::OutOfMemory,
        })
    }

    /// `incr` and `decr`: the new number, or why there is none.
    fn count_up_or_down(
        &self,
        key: &[u8],
        delta: u64,
        direction: Direction,
        held: Option<&Held<'_, I::File>>,
    ) -> Result<Result<u64, Answer>, Obstacle<I::File>> {
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, Counted::NotFound) };
            let Some(old) = stored_number(record.value) else { return (Update::Keep, Counted::NotNumeric) };
            let number = match direction {
                Direction::Increment => old.wrapping_add(delta),
                Direction::Decrement => old.saturating_sub(delta),
            };
            scratch.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            // memcached writes a shorter number over the longer one and fills up with blanks.
            scratch.resize(scratch.len().max(record.value.len()), b' ');
            (Update::Replace(meta_of(&record)), Counted::Number(number))
        };
        let (stored, counted) = match self.store.try_update(key, held, change) {
            Ok(output) => output,
            Err(Obstacle::ReadFailed) => (None, Counted::ReadFailed),
            Err(obstacle) => return Err(obstacle),
        };
        let is_hit = !matches!(counted, Counted::NotFound);
        self.count(|counters| match (direction, is_hit) {
            (Direction::Increment, true) => counters.incr_hits += 1,
            (Direction::Increment, false) => counters.incr_misses += 1,
            (Direction::Decrement, true) => counters.decr_hits += 1,
            (Direction::Decrement, false) => counters.decr_misses += 1,
        });
        Ok(match (stored, counted) {
            (Some(Stored::Stored(_)), Counted::Number(number)) => Ok(number),
            (Some(stored), _) => Err(self.answer_to_store(stored)),
            (None, Counted::NotNumeric) => Err(Answer::NotNumeric),
            (None, Counted::ReadFailed) => Err(Answer::DiskReadFailed),
            (None, _) => Err(Answer::NotFound),
        })
    }
}

/// What an operation of the store has come to, for whoever asked for it.
fn executed<'a, F>(result: Result<(), Obstacle<F>>) -> Executed<'a, F> {
    match result {
        Ok(()) => Executed::Done(After::Continue),
        Err(obstacle) => Executed::Blocked(obstacle),
    }
}

fn meta_of(record: &Record<'_>) -> Meta {
    let header = &record.header;
    Meta { client_flags: header.client_flags, expiry: header.expiry, bits: header.bits }
}
