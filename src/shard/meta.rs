//! The meta commands. See [`crate::protocol::meta`] for their words.
//!
//! What of an item must survive a restart is in its record: the CAS unique, and whether it is stale, whether somebody was
//! told to fetch it anew, and whether its key was sent in base64. A change of these writes the record again, under the same
//! CAS unique. Whether it was fetched is in the index and forgotten with it; when it was accessed is taken for when it was
//! written.

use super::get::{Fetch, Form, PendingGet, Settled, Stopped};
use super::operations::{Attempt, Counted, KEY_BINARY, Order, Outcome, Removal, STALE, Sum, TOKEN_SENT, meta_of};
use super::token::{Taken, needs_token, standing};
use super::verbs::stored_line;
use super::{After, Answers, Executed, Shard};
use crate::cache::CachedRecord;
use crate::clock::Seconds;
use crate::io::Io;
use crate::limits::{GATHER_SIZE_MIN, ITEM_OVERHEAD_SIZE, KEY_SIZE_MAX};
use crate::protocol::meta::encode::{Code, MetaItem, Standing, encode_code, encode_debug, encode_item, encode_stored};
use crate::protocol::meta::{MetaOptions, MetaReply, MetaVerb};
use crate::protocol::text::encode::{Answer, encode_answer};
use crate::protocol::{MetaRequest, StoreVerb};
use crate::record::{Header, Record};
use crate::store::{Held, Meta, Obstacle, Sought, Stored, Update};

/// What an `mg` wants to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    reply: MetaReply,
    is_key_binary: bool,
    /// The value is left out when the item has this CAS unique.
    known_cas: Option<u64>,
    /// The expiry that the item gets.
    expiry: Option<Seconds>,
    no_bump: bool,
}

impl Asked {
    /// Whether it gives the item another expiry.
    pub(super) fn touches(&self) -> bool {
        self.expiry.is_some()
    }
}

/// What may change when an item is fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// The expiry of an item that is made when there is none.
    vivify: Option<Seconds>,
    /// Whoever fetches it with less time left than until then is told to fetch it anew.
    recache: Option<Seconds>,
    touches_first: bool,
    vivifies_last: bool,
    own_cas: Option<u64>,
    /// Nobody is told to fetch the item anew, as that could not be noted.
    nobody_wins: bool,
}

/// What a fetch that may change the item has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    Miss,
    /// The answer is made.
    Hit {
        was_fetched: bool,
    },
    Created,
}

/// What looking for an item in memory has come to.
enum Looked {
    /// The answer is made.
    Encoded { was_fetched: bool },
    /// Whoever fetches it is to be told to fetch it anew, and that has to be noted.
    NeedsToken,
}

impl<I: Io> Shard<I> {
    pub(super) fn meta<'a>(
        &self,
        request: &MetaRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        answers: &mut impl Answers<I::File>,
    ) -> Executed<'a, I::File> {
        let mut buffer = [0; KEY_SIZE_MAX];
        let key = request.key.bytes(&mut buffer);
        let done = |result: Attempt<(), I::File>| result.map_err(Stopped::At);
        let result = match request.verb {
            MetaVerb::Get => self.meta_get(key, request, held, answers),
            MetaVerb::Set { mode, value } => done(self.meta_set(key, request, mode, value, held, answers.buffer())),
            MetaVerb::TooLarge => done(self.refuse_too_large(key, true).map(|outcome| {
                encode_answer(answers.buffer(), stored_line(outcome));
            })),
            MetaVerb::Delete => done(self.meta_delete(key, request, held, answers.buffer())),
            MetaVerb::Arithmetic { .. } => done(self.meta_arithmetic(key, request, held, answers.buffer())),
            MetaVerb::Debug => done(self.meta_debug(key, request, held, answers.buffer())),
        };
        if result.is_ok() {
            self.count(|counters| counters.cmd_meta += 1);
        }
        fetched(result)
    }

    fn meta_get(
        &self,
        key: &[u8],
        request: &MetaRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        answers: &mut impl Answers<I::File>,
    ) -> Fetch<I::File> {
        let MetaRequest { options, reply, .. } = *request;
        let asked = Asked {
            reply,
            is_key_binary: request.key.is_binary(),
            known_cas: options.compare,
            expiry: options.exptime.map(|exptime| self.expiry(exptime)),
            no_bump: options.no_bump,
        };
        if options.vivify.is_some() || options.recache.is_some() {
            let change = self.change_of(&options);
            return self.meta_fetch(key, &asked, change, held, answers.buffer()).map_err(Stopped::At);
        }
        let digest = self.store.digest(key);
        let start = asked.expiry.map(|_| answers.buffer().len());
        let look = |record: Record<'_>, cached: Option<CachedRecord<'_>>| {
            if needs_token(&record.header) {
                return Looked::NeedsToken;
            }
            let cached = cached.filter(|_| asked.expiry.is_none() && record.value.len() >= GATHER_SIZE_MIN);
            if self.encode_kept(key, &Form::Meta(asked), &record, cached, answers) {
                return Looked::Encoded { was_fetched: record.was_fetched };
            }
            self.encode_meta(key, &asked, &record, standing(&record.header, false), answers.buffer());
            Looked::Encoded { was_fetched: record.was_fetched }
        };
        match self.store.seek_cached(&digest, key, look) {
            Sought::Found(Looked::NeedsToken) => {
                self.meta_fetch(key, &asked, Change::default(), held, answers.buffer()).map_err(Stopped::At)
            }
            Sought::Found(Looked::Encoded { was_fetched }) => {
                if let Some(expiry) = asked.expiry
                    && let Err(obstacle) = self.touch_fetched(key, expiry)
                {
                    answers.buffer().truncate(start.unwrap_or(0));
                    return Err(Stopped::At(obstacle));
                }
                self.note_fetched(&digest, was_fetched || asked.no_bump);
                self.count_meta(&asked, true);
                Ok(())
            }
            Sought::Absent => {
                self.meta_miss(key, &asked, answers.buffer());
                Ok(())
            }
            Sought::Disk(read) => {
                let was_fetched = read.was_fetched() || asked.no_bump;
                let get = PendingGet::new(digest, key, Form::Meta(asked), read);
                self.read_later(get, asked.expiry, was_fetched, answers)
            }
        }
    }

    fn change_of(&self, options: &MetaOptions) -> Change {
        let MetaOptions { vivify, recache, touches_first, vivifies_last, explicit_cas, .. } = *options;
        let expiry = |exptime: Option<i64>| exptime.map(|exptime| self.expiry(exptime));
        Change {
            vivify: expiry(vivify),
            recache: expiry(recache),
            touches_first,
            vivifies_last,
            own_cas: explicit_cas,
            nobody_wins: false,
        }
    }

    /// Fetches an item that is at hand, and changes it as `change` and its state demand.
    fn meta_fetch(
        &self,
        key: &[u8],
        asked: &Asked,
        change: Change,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let start = out.len();
        let decide = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            out.truncate(start);
            match record {
                Some(record) => self.change_fetched(key, asked, &change, record, scratch, out),
                None => {
                    let Some(vivified) = change.vivify else { return (Update::Keep, Fetched::Miss) };
                    let expiry = made_expiry(vivified, asked.expiry, change.vivifies_last);
                    let bits = TOKEN_SENT | if asked.is_key_binary { KEY_BINARY } else { 0 };
                    let meta = Meta { client_flags: 0, expiry, bits, own_cas: change.own_cas };
                    (Update::Replace(meta), Fetched::Created)
                }
            }
        };
        let (stored, fetched) = match self.store.try_update(key, held, decide) {
            Ok(output) => output,
            // As with a plain get.
            Err(Obstacle::ReadFailed) => (None, Fetched::Miss),
            Err(obstacle) => {
                out.truncate(start);
                return Err(obstacle);
            }
        };
        let is_refused = matches!(stored, Some(Stored::NoSpace | Stored::TooLarge | Stored::Failed));
        if is_refused && matches!(fetched, Fetched::Hit { .. }) && !change.nobody_wins {
            return self.meta_fetch(key, asked, Change { nobody_wins: true, ..change }, held, out);
        }
        match (fetched, stored) {
            (Fetched::Created, Some(Stored::Stored(version))) => {
                let cas = self.cas_of_version(version, change.own_cas);
                self.encode_created(key, asked, &change, cas, out);
                self.note_fetched(&self.store.digest(key), asked.no_bump);
                self.count_meta(asked, true);
            }
            (Fetched::Created | Fetched::Miss, _) => self.meta_miss(key, asked, out),
            (Fetched::Hit { was_fetched }, stored) => {
                // A record that was written again is cold.
                let is_noted = if stored.is_some() { asked.no_bump && !was_fetched } else { asked.no_bump };
                self.note_fetched(&self.store.digest(key), is_noted);
                self.count_meta(asked, true);
            }
        }
        Ok(())
    }

    /// Makes the answer with `record`, and says what becomes of it.
    fn change_fetched(
        &self,
        key: &[u8],
        asked: &Asked,
        change: &Change,
        record: Record<'_>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (Update, Fetched) {
        let cas = self.store.cas_of(&record.header);
        let old = record.header.expiry;
        let new = asked.expiry.unwrap_or(old);
        let compared = if change.touches_first { new } else { old };
        let is_due = change.recache.is_some_and(|recache| compared != 0 && compared < recache);
        let may_win = !change.nobody_wins && record.header.bits & TOKEN_SENT == 0;
        let has_won = may_win && (is_due || record.header.bits & STALE != 0);
        self.encode_meta(key, asked, &record, standing(&record.header, has_won), out);
        let fetched = Fetched::Hit { was_fetched: record.was_fetched };
        if has_won {
            scratch.extend_from_slice(record.value);
            let bits = record.header.bits | TOKEN_SENT;
            let meta = Meta { bits, expiry: new, own_cas: Some(cas), ..meta_of(&record) };
            (Update::Replace(meta), fetched)
        } else if asked.expiry.is_some() {
            (Update::Touch(new), fetched)
        } else {
            (Update::Keep, fetched)
        }
    }

    /// See [`Shard::settle`].
    pub(super) fn settle_meta(
        &self,
        get: &mut PendingGet<I::File>,
        asked: &Asked,
        bytes: Option<&[u8]>,
        encoded: &mut Vec<u8>,
    ) -> Settled {
        let record = bytes.and_then(|bytes| self.store.examine(&get.digest, get.key(), &get.read, bytes));
        if let Some(record) = record {
            if needs_token(&record.header) {
                let held = Held { read: &get.read, bytes };
                let Some(Taken { standing, was_fetched }) = self.take_token(get.key(), &record.header, &held) else {
                    // There will be room to note it when it is read again.
                    return Settled::Again;
                };
                self.encode_meta(get.key(), asked, &record, standing, encoded);
                self.note_fetched(&get.digest, was_fetched.is_none_or(|was_fetched| asked.no_bump && !was_fetched));
                self.count_meta(asked, true);
                return Settled::Encoded;
            }
            self.count_meta(asked, true);
            return Settled::Hit;
        }
        if bytes.is_some() {
            let append = |record: Record<'_>| {
                self.encode_meta(get.key(), asked, &record, standing(&record.header, false), encoded);
            };
            match self.store.seek(&get.digest, get.key(), append) {
                Sought::Found(()) => {
                    self.count_meta(asked, true);
                    return Settled::Encoded;
                }
                Sought::Disk(read) => {
                    get.read = read;
                    return Settled::Again;
                }
                Sought::Absent => {}
            }
        }
        self.meta_miss(get.key(), asked, encoded);
        Settled::Encoded
    }

    fn meta_miss(&self, key: &[u8], asked: &Asked, out: &mut Vec<u8>) {
        self.watchers.fetched(key, None);
        self.count_get(false);
        if !asked.reply.is_quiet {
            encode_code(out, Code::Miss, &asked.reply, key, asked.is_key_binary);
        }
    }

    fn count_meta(&self, asked: &Asked, is_hit: bool) {
        if asked.touches() { self.count_touch(is_hit) } else { self.count_get(is_hit) }
    }

    /// Appends what stands before the value of a record that was fetched by an `mg`; says whether the value follows.
    fn encode_fetched(
        &self,
        key: &[u8],
        asked: &Asked,
        record: &Record<'_>,
        standing: Standing,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut item = self.meta_item(key, &record.header, record.value.len(), record.was_fetched);
        if let Some(expiry) = asked.expiry.filter(|_| asked.reply.ttl_after_touch) {
            item.ttl = self.ttl(expiry);
        }
        let with_value = asked.reply.wants_value && asked.known_cas != Some(item.cas);
        encode_item(out, &asked.reply, &item, standing, with_value);
        with_value
    }

    /// The same for a record whose value is sent from where it lies. Nobody is told to fetch it anew.
    pub(super) fn encode_meta_header(&self, key: &[u8], asked: &Asked, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        self.encode_fetched(key, asked, record, standing(&record.header, false), out)
    }

    /// Appends the whole answer with a record, and tells watchers.
    fn encode_meta(&self, key: &[u8], asked: &Asked, record: &Record<'_>, standing: Standing, out: &mut Vec<u8>) {
        self.watchers.fetched(key, Some(record.value.len()));
        if self.encode_fetched(key, asked, record, standing, out) {
            out.extend_from_slice(record.value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The answer with an item that was made because there was none.
    fn encode_created(&self, key: &[u8], asked: &Asked, change: &Change, cas: u64, out: &mut Vec<u8>) {
        let told = told_expiry(&asked.reply, change.vivify, asked.expiry, change.vivifies_last);
        let item = MetaItem {
            key,
            is_key_binary: asked.is_key_binary,
            value_size: 0,
            client_flags: 0,
            cas,
            ttl: self.ttl(told),
            age: 0,
            was_fetched: false,
        };
        let standing = Standing { has_won: true, ..Standing::default() };
        encode_item(out, &asked.reply, &item, standing, asked.reply.wants_value);
        if asked.reply.wants_value {
            out.extend_from_slice(b"\r\n");
        }
    }

    fn meta_item<'k>(&self, key: &'k [u8], header: &Header, value_size: usize, was_fetched: bool) -> MetaItem<'k> {
        MetaItem {
            key,
            is_key_binary: header.bits & KEY_BINARY != 0,
            value_size,
            client_flags: header.client_flags,
            cas: self.cas(header),
            ttl: self.ttl(header.expiry),
            age: self.store.now().saturating_sub(self.store.written_at(header.version)),
            was_fetched,
        }
    }

    /// Seconds that are left: `None` for ever, -1 when they are over.
    fn ttl(&self, expiry: Seconds) -> Option<i64> {
        (expiry != 0).then(|| (i64::from(expiry) - i64::from(self.store.now())).max(-1))
    }

    fn meta_set(
        &self,
        key: &[u8],
        request: &MetaRequest<'_>,
        mode: StoreVerb,
        value: &[u8],
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let MetaRequest { options, reply, .. } = request;
        let verb = match (mode, options.compare) {
            (StoreVerb::Set | StoreVerb::Replace, Some(unique)) => StoreVerb::Cas(unique),
            (mode, _) => mode,
        };
        let order = Order {
            verb,
            key,
            value,
            client_flags: options.client_flags,
            expiry: self.expiry(options.exptime.unwrap_or(0)),
            bits: if request.key.is_binary() { KEY_BINARY } else { 0 },
            // 0 is no CAS unique, and compares with none.
            compare: options.compare.filter(|unique| *unique != 0),
            own_cas: options.explicit_cas,
            may_be_stale: options.invalidate,
            vivify: options.vivify.map(|exptime| self.expiry(exptime)),
        };
        let outcome = self.store_order(&order, held)?;
        let mut item = MetaItem {
            key,
            is_key_binary: request.key.is_binary(),
            value_size: value.len(),
            client_flags: options.client_flags,
            cas: 0,
            ttl: None,
            age: 0,
            was_fetched: false,
        };
        if let Outcome::Done(cas) = outcome {
            item.cas = cas;
        }
        match outcome {
            Outcome::Done(_) if reply.is_quiet => {}
            Outcome::Done(_) => encode_stored(out, Code::Done, reply, &item),
            Outcome::NotStored => encode_stored(out, Code::NotStored, reply, &item),
            Outcome::Exists => encode_stored(out, Code::Exists, reply, &item),
            Outcome::NotFound => encode_stored(out, Code::NotFound, reply, &item),
            outcome => encode_answer(out, stored_line(outcome)),
        }
        Ok(())
    }

    fn meta_delete(
        &self,
        key: &[u8],
        request: &MetaRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let MetaOptions { compare, invalidate, drop_value, exptime, explicit_cas, .. } = request.options;
        let removal = Removal {
            compare,
            invalidates: invalidate,
            drops_value: drop_value,
            expiry: exptime.map(|exptime| self.expiry(exptime)),
            own_cas: explicit_cas,
        };
        let outcome = self.remove(key, removal, held)?;
        self.encode_outcome(key, request, outcome, out);
        Ok(())
    }

    fn encode_outcome(&self, key: &[u8], request: &MetaRequest<'_>, outcome: Outcome, out: &mut Vec<u8>) {
        let code = match outcome {
            Outcome::Done(_) if request.reply.is_quiet => return,
            Outcome::Done(_) => Code::Done,
            Outcome::Exists => Code::Exists,
            Outcome::NotFound => Code::NotFound,
            Outcome::NotStored => Code::NotStored,
            outcome => return encode_answer(out, stored_line(outcome)),
        };
        encode_code(out, code, &request.reply, key, request.key.is_binary());
    }

    fn meta_arithmetic(
        &self,
        key: &[u8],
        request: &MetaRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let MetaRequest { verb: MetaVerb::Arithmetic { direction, delta, initial }, options, reply, .. } = *request
        else {
            unreachable!("the caller has looked")
        };
        let is_key_binary = request.key.is_binary();
        let expiry = |exptime: Option<i64>| exptime.map(|exptime| self.expiry(exptime));
        let (vivified, touched) = (expiry(options.vivify), expiry(options.exptime));
        let sum = Sum {
            key,
            delta,
            direction,
            compare: options.compare.filter(|unique| *unique != 0),
            own_cas: options.explicit_cas,
            initial: vivified.map(|vivified| (initial, made_expiry(vivified, touched, options.vivifies_last))),
            expiry: touched,
            bits: if is_key_binary { KEY_BINARY } else { 0 },
        };
        match self.count_up_or_down(&sum, held)? {
            // An item that was made is told of in any case.
            Counted::Number { is_new: false, .. } if reply.is_quiet => {}
            Counted::Number { number, cas, old_expiry, is_new } => {
                let told = if is_new {
                    told_expiry(&reply, vivified, touched, options.vivifies_last)
                } else {
                    touched.filter(|_| reply.ttl_after_touch).unwrap_or(old_expiry)
                };
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(number);
                let (value_size, ttl) = (digits.len(), self.ttl(told));
                let item =
                    MetaItem { key, is_key_binary, value_size, client_flags: 0, cas, ttl, age: 0, was_fetched: false };
                encode_item(out, &reply, &item, Standing::default(), reply.wants_value);
                if reply.wants_value {
                    out.extend_from_slice(digits.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
            }
            Counted::NotNumeric => encode_answer(out, Answer::NotNumeric),
            Counted::Not(outcome) => self.encode_outcome(key, request, outcome, out),
        }
        Ok(())
    }

    fn meta_debug(
        &self,
        key: &[u8],
        request: &MetaRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let start = out.len();
        let tell = |record: Option<Record<'_>>, _: &mut Vec<u8>| {
            out.truncate(start);
            if let Some(record) = record {
                let item = self.meta_item(key, &record.header, record.value.len(), record.was_fetched);
                let flags_size = if item.client_flags == 0 { 0 } else { size_of::<u32>() };
                encode_debug(out, &item, ITEM_OVERHEAD_SIZE + key.len() + flags_size + item.value_size);
            }
            (Update::Keep, record.is_some())
        };
        let is_there = match self.store.try_update(key, held, tell) {
            Ok((_, is_there)) => is_there,
            Err(Obstacle::ReadFailed) => false,
            Err(obstacle) => return Err(obstacle),
        };
        if !is_there {
            encode_code(out, Code::Miss, &request.reply, key, request.key.is_binary());
        }
        Ok(())
    }
}

/// The expiry of an item that is made: that of `N` or of `T`, whichever stands last.
fn made_expiry(vivified: Seconds, touched: Option<Seconds>, vivifies_last: bool) -> Seconds {
    touched.filter(|_| !vivifies_last).unwrap_or(vivified)
}

/// What `t` tells of an item that was made: what the flags before it have set.
fn told_expiry(reply: &MetaReply, vivified: Option<Seconds>, touched: Option<Seconds>, vivifies_last: bool) -> Seconds {
    let touched = touched.filter(|_| reply.ttl_after_touch);
    match vivified.filter(|_| reply.ttl_after_vivify) {
        Some(vivified) => made_expiry(vivified, touched, vivifies_last),
        None => touched.unwrap_or(0),
    }
}

/// A fetch of one item has come so far.
pub(super) fn fetched<'a, F>(result: Fetch<F>) -> Executed<'a, F> {
    match result {
        Ok(()) => Executed::Done(After::Continue),
        Err(Stopped::Reads) => Executed::NoReads,
        Err(Stopped::At(obstacle)) => Executed::Blocked(obstacle),
    }
}
