//! memcached's text commands, each as what it does to the store.

use super::{After, Answers, Gone, Shard};
use crate::clock::Seconds;
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::text::encode::{Answer, encode_answer, encode_number, encode_value, encode_version};
use crate::protocol::{Direction, Expiry, Keys, Request, StoreRequest, StoreVerb, absolute_expiry, stored_number};
use crate::record::Record;
use crate::store::{Changed, Condition, Meta, Stored, Update};

/// An expiry in the past: memcached stores a value that has expired at once, and nobody finds it.
const LONG_AGO: Seconds = 1;

/// What an `incr` or `decr` came to.
enum Counted {
    Number(u64),
    NotNumeric,
    NotFound,
}

impl<I: Io> Shard<I> {
    /// Executes a request and appends its answer to `answers`.
    ///
    /// # Errors
    /// [`Gone`], when the client went away in the middle of a long answer.
    pub async fn execute(&self, request: Request<'_>, answers: &mut impl Answers) -> Result<After, Gone> {
        let (answer, noreply) = match request {
            Request::Get { keys, with_cas } => {
                self.get(keys, with_cas, answers).await?;
                return Ok(After::Continue);
            }
            Request::Arithmetic { key, delta, direction, noreply } => {
                self.count_up_or_down(key, delta, direction, noreply, answers).await;
                return Ok(After::Continue);
            }
            Request::Version => {
                encode_version(answers.buffer(), MEMCACHED_VERSION);
                return Ok(After::Continue);
            }
            Request::Stats { argument } => {
                self.report(argument, answers.buffer());
                return Ok(After::Continue);
            }
            Request::Quit => return Ok(After::Close),
            Request::Store(request) => (self.store_value(&request).await, request.noreply),
            Request::TooLarge { verb, key, noreply } => (self.too_large(verb, key).await, noreply),
            Request::Delete { key, noreply } => (self.delete(key).await, noreply),
            Request::Touch { key, exptime, noreply } => (self.touch(key, exptime).await, noreply),
            Request::FlushAll { delay, noreply } => (self.flush_all(delay).await, noreply),
            // Accepted as memcached does; what is logged is set at start.
            Request::Verbosity { noreply, .. } => (Answer::Ok, noreply),
        };
        if !noreply {
            encode_answer(answers.buffer(), answer);
        }
        Ok(After::Continue)
    }

    async fn get(&self, keys: Keys<'_>, with_cas: bool, answers: &mut impl Answers) -> Result<(), Gone> {
        for key in keys {
            let buffer = answers.buffer();
            let append = |record: Record<'_>| {
                let cas = with_cas.then(|| self.store.cas_unique(record.header.version));
                encode_value(buffer, key, record.header.client_flags, cas, record.value);
            };
            // A record that the device does not deliver is a miss, as with extstore; `stats` counts it.
            let is_hit = matches!(self.store.read(key, append).await, Ok(Some(())));
            self.count(|counters| {
                counters.cmd_get += 1;
                counters.get_hits += u64::from(is_hit);
                counters.get_misses += u64::from(!is_hit);
            });
            answers.relieve().await?;
        }
        encode_answer(answers.buffer(), Answer::End);
        Ok(())
    }

    fn expiry(&self, exptime: i64) -> Seconds {
        match absolute_expiry(exptime, self.store.now()) {
            Expiry::Never => 0,
            Expiry::At(second) => second,
            Expiry::Immediately => LONG_AGO,
        }
    }

    async fn store_value(&self, request: &StoreRequest<'_>) -> Answer {
        let StoreRequest { verb, key, flags, exptime, value, .. } = *request;
        self.count(|counters| counters.cmd_set += 1);
        let meta = Meta { client_flags: flags, expiry: self.expiry(exptime), bits: 0 };
        let stored = match verb {
            StoreVerb::Set => self.store.put(key, value, meta, Condition::Always).await,
            StoreVerb::Add => self.store.put(key, value, meta, Condition::Absent).await,
            StoreVerb::Replace => self.store.put(key, value, meta, Condition::Present).await,
            StoreVerb::Append => return self.extend(key, [b"", value]).await,
            StoreVerb::Prepend => return self.extend(key, [value, b""]).await,
            StoreVerb::Cas(unique) => return self.compare_and_store(key, value, meta, unique).await,
        };
        self.answer_to_store(stored)
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
    async fn extend(&self, key: &[u8], [before, after]: [&[u8]; 2]) -> Answer {
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, ()) };
            for part in [before, record.value, after] {
                scratch.extend_from_slice(part);
            }
            (Update::Replace(meta_of(&record)), ())
        };
        match self.store.update(key, change).await {
            Ok((Some(stored), ())) => self.answer_to_store(stored),
            Ok((None, ())) => Answer::NotStored,
            Err(_) => Answer::DiskReadFailed,
        }
    }

    async fn compare_and_store(&self, key: &[u8], value: &[u8], meta: Meta, unique: u64) -> Answer {
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| match record {
            None => (Update::Keep, Answer::NotFound),
            Some(record) if self.store.cas_unique(record.header.version) != unique => (Update::Keep, Answer::Exists),
            Some(_) => {
                scratch.extend_from_slice(value);
                (Update::Replace(meta), Answer::Stored)
            }
        };
        let answer = match self.store.update(key, change).await {
            Ok((Some(stored), _)) => self.answer_to_store(stored),
            Ok((None, answer)) => answer,
            Err(_) => Answer::DiskReadFailed,
        };
        self.count(|counters| match answer {
            Answer::Stored => counters.cas_hits += 1,
            Answer::Exists => counters.cas_badval += 1,
            Answer::NotFound => counters.cas_misses += 1,
            _ => {}
        });
        answer
    }

    /// A value above `-I`. memcached deletes the old one when the command is a `set`, so that nobody reads it as if
    /// it were the new one.
    async fn too_large(&self, verb: StoreVerb, key: &[u8]) -> Answer {
        self.count(|counters| counters.store_too_large += 1);
        if verb == StoreVerb::Set {
            // Whether there was one does not matter.
            let _ = self.store.delete(key).await;
        }
        Answer::TooLarge
    }

    async fn delete(&self, key: &[u8]) -> Answer {
        let changed = self.store.delete(key).await;
        self.count(|counters| match changed {
            Changed::Done => counters.delete_hits += 1,
            Changed::NotFound => counters.delete_misses += 1,
            Changed::NoSpace => counters.store_no_memory += 1,
        });
        match changed {
            Changed::Done => Answer::Deleted,
            Changed::NotFound => Answer::NotFound,
            Changed::NoSpace => Answer::OutOfMemory,
        }
    }

    async fn touch(&self, key: &[u8], exptime: i64) -> Answer {
        let changed = self.store.touch(key, self.expiry(exptime)).await;
        self.count(|counters| {
            counters.cmd_touch += 1;
            match changed {
                Changed::Done => counters.touch_hits += 1,
                Changed::NotFound => counters.touch_misses += 1,
                Changed::NoSpace => counters.store_no_memory += 1,
            }
        });
        match changed {
            Changed::Done => Answer::Touched,
            Changed::NotFound => Answer::NotFound,
            Changed::NoSpace => Answer::OutOfMemory,
        }
    }

    async fn flush_all(&self, delay: i64) -> Answer {
        self.count(|counters| counters.cmd_flush += 1);
        let due = match absolute_expiry(delay, self.store.now()) {
            Expiry::At(second) => Some(second),
            Expiry::Never | Expiry::Immediately => None,
        };
        match self.store.flush_all(due).await {
            Changed::Done | Changed::NotFound => Answer::Ok,
            Changed::NoSpace => Answer::OutOfMemory,
        }
    }

    async fn count_up_or_down(
        &self,
        key: &[u8],
        delta: u64,
        direction: Direction,
        noreply: bool,
        answers: &mut impl Answers,
    ) {
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
        let result = self.store.update(key, change).await;
        let is_hit = !matches!(result, Ok((_, Counted::NotFound)));
        self.count(|counters| match (direction, is_hit) {
            (Direction::Increment, true) => counters.incr_hits += 1,
            (Direction::Increment, false) => counters.incr_misses += 1,
            (Direction::Decrement, true) => counters.decr_hits += 1,
            (Direction::Decrement, false) => counters.decr_misses += 1,
        });
        if noreply {
            return;
        }
        let answer = match result {
            Ok((Some(Stored::Stored(_)), Counted::Number(number))) => {
                encode_number(answers.buffer(), number);
                return;
            }
            Ok((Some(stored), _)) => self.answer_to_store(stored),
            Ok((None, Counted::NotNumeric)) => Answer::NotNumeric,
            Ok((None, _)) => Answer::NotFound,
            Err(_) => Answer::DiskReadFailed,
        };
        encode_answer(answers.buffer(), answer);
    }
}

fn meta_of(record: &Record<'_>) -> Meta {
    let header = &record.header;
    Meta { client_flags: header.client_flags, expiry: header.expiry, bits: header.bits }
}
