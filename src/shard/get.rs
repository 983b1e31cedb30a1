//! Fetching items: from memory at once, from disk in two steps.

use std::fmt;
use std::marker::PhantomData;

use dma_alloc::PinnedCell;

use super::meta::Asked;
use super::operations::Attempt;
use super::{After, Answers, Executed, Pause, Shard, ValueSink};
use crate::cache::CachedRecord;
use crate::clock::Seconds;
use crate::digest::Digest;
use crate::io::Io;
use crate::limits::{GATHER_SIZE_MIN, KEY_SIZE_MAX, KEYS_PER_TURN};
use crate::protocol::Keys;
use crate::protocol::binary::encode::encode_miss;
use crate::protocol::binary::{self, BinaryReply};
use crate::protocol::text::encode::{Answer, encode_answer, encode_value, encode_value_header};
use crate::record::Record;
use crate::store::{AHEAD_COUNT, Changed, DiskRead, Obstacle, Sought};

/// A get of one key whose record must be read first. It holds its key itself, so that nothing is allocated for it.
pub struct PendingGet<F> {
    pub(super) digest: Digest,
    key: [u8; KEY_SIZE_MAX],
    key_size: u8,
    pub(super) form: Form,
    pub(super) read: DiskRead<F>,
}

/// In which form a get is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A line and the value.
    Text {
        with_cas: bool,
        /// It is a `gat`.
        touches: bool,
    },
    /// As its flags say.
    Meta(Asked),
    /// A packet.
    Binary {
        reply: BinaryReply,
        /// It is a `GAT` or `TOUCH`.
        touches: bool,
        /// It is not a `TOUCH`.
        with_value: bool,
    },
}

impl Form {
    fn touches(&self) -> bool {
        match self {
            Self::Text { touches, .. } | Self::Binary { touches, .. } => *touches,
            Self::Meta(asked) => asked.touches(),
        }
    }
}

/// What a read has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The record is in the bytes: [`Shard::encode_hit`] makes the answer when its turn has come.
    Hit,
    /// The answer was appended to `encoded`.
    Encoded,
    /// There is no record, and no answer.
    Miss,
    /// The record is elsewhere by now, on disk: [`PendingGet::read`] is another read.
    Again,
}

impl<F> PendingGet<F> {
    pub(super) fn new(digest: Digest, key: &[u8], form: Form, read: DiskRead<F>) -> Self {
        let mut bytes = [0; KEY_SIZE_MAX];
        bytes[..key.len()].copy_from_slice(key);
        let key_size = u8::try_from(key.len()).expect("KEY_SIZE_MAX fits a byte");
        Self { digest, key: bytes, key_size, form, read }
    }

    /// What is to be read.
    #[must_use]
    pub fn read(&self) -> &DiskRead<F> {
        &self.read
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_size)]
    }
}

impl<F> fmt::Debug for PendingGet<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PendingGet({} at {:?})", self.key().escape_ascii(), self.read.place())
    }
}

/// What kept a get from being answered. Nothing is done then.
pub(super) enum Stopped<F> {
    /// No more reads can be taken.
    Reads,
    At(Obstacle<F>),
}

/// What came of one key of a get.
pub(super) type Fetch<F> = Result<(), Stopped<F>>;

/// A record's value in the cache, to be sent from there.
struct Keeping<'a, F, A> {
    answers: &'a mut A,
    cell: PinnedCell,
    file: PhantomData<F>,
}

impl<F, A: Answers<F>> ValueSink for Keeping<'_, F, A> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.answers.buffer()
    }

    fn value(&mut self, value: &[u8]) {
        let start = value.as_ptr().addr() - self.cell.as_ptr().addr();
        self.answers.keep_value(self.cell.clone(), start..start + value.len());
    }
}

impl<I: Io> Shard<I> {
    pub(super) fn get<'a>(
        &self,
        keys: &Keys<'a>,
        with_cas: bool,
        touch: Option<i64>,
        answers: &mut impl Answers<I::File>,
    ) -> Executed<'a, I::File> {
        let expiry = touch.map(|exptime| self.expiry(exptime));
        let form = Form::Text { with_cas, touches: touch.is_some() };
        let mut keys = keys.clone();
        let mut rest = keys.clone();
        let mut not_announced = 0;
        let mut next = keys.next();
        let mut count = 0;
        while let Some(key) = next {
            if not_announced == 0 {
                // `rest` begins with this key. A single one has nothing to wait beside.
                not_announced = AHEAD_COUNT;
                if rest.clone().nth(1).is_some() {
                    self.store.announce(rest.clone());
                }
            }
            not_announced -= 1;
            match self.fetch(key, &form, expiry, answers) {
                Ok(()) => {}
                Err(Stopped::Reads) => return Executed::Paused { rest, until: Pause::Reads },
                Err(Stopped::At(_)) => return Executed::Paused { rest, until: Pause::Room },
            }
            rest = keys.clone();
            next = keys.next();
            count += 1;
            if next.is_some() && answers.is_full() {
                return Executed::Paused { rest, until: Pause::Output };
            }
            if next.is_some() && count == KEYS_PER_TURN {
                return Executed::Paused { rest, until: Pause::Turn };
            }
        }
        encode_answer(answers.buffer(), Answer::End);
        Executed::Done(After::Continue)
    }

    /// One item, which gets another expiry if there is one. It is looked for first: one that expires at once is still
    /// answered.
    #[inline]
    pub(super) fn fetch(
        &self,
        key: &[u8],
        form: &Form,
        expiry: Option<Seconds>,
        answers: &mut impl Answers<I::File>,
    ) -> Fetch<I::File> {
        let digest = self.store.digest(key);
        let start = expiry.map(|_| answers.buffer().len());
        let append = |record: Record<'_>, cached: Option<CachedRecord<'_>>| {
            // What may have to be taken back is copied.
            let cached = cached.filter(|_| expiry.is_none() && record.value.len() >= GATHER_SIZE_MIN);
            if !self.encode_kept(key, form, &record, cached, answers) {
                self.encode(key, form, &record, answers.buffer());
            }
            record.was_fetched
        };
        match self.store.seek_cached(&digest, key, append) {
            Sought::Found(was_fetched) => {
                if let Some(expiry) = expiry
                    && let Err(obstacle) = self.touch_fetched(key, expiry)
                {
                    answers.buffer().truncate(start.unwrap_or(0));
                    return Err(Stopped::At(obstacle));
                }
                self.note_fetched(&digest, was_fetched);
                self.count_fetch(key, form, true);
            }
            Sought::Absent => self.miss(key, form, answers.buffer()),
            Sought::Disk(read) => {
                let was_fetched = read.was_fetched();
                return self.read_later(PendingGet::new(digest, key, *form, read), expiry, was_fetched, answers);
            }
        }
        Ok(())
    }

    /// There is no such item.
    fn miss(&self, key: &[u8], form: &Form, out: &mut Vec<u8>) {
        self.count_fetch(key, form, false);
        if let Form::Binary { reply, .. } = form {
            encode_miss(out, *reply, key);
        }
    }

    /// Hands out a read, and gives its record another expiry if it gets one; or does neither. The get is counted when the
    /// read has ended.
    pub(super) fn read_later(
        &self,
        get: PendingGet<I::File>,
        expiry: Option<Seconds>,
        was_fetched: bool,
        answers: &mut impl Answers<I::File>,
    ) -> Fetch<I::File> {
        if !answers.has_room_to_read() {
            return Err(Stopped::Reads);
        }
        if let Some(expiry) = expiry {
            self.touch_fetched(get.key(), expiry).map_err(Stopped::At)?;
        }
        self.note_fetched(&get.digest, was_fetched);
        if answers.read_later(get) { Ok(()) } else { Err(Stopped::Reads) }
    }

    /// What a get's read has come to, with the `bytes` that it brought, or `None` when the device failed: such a record
    /// is a miss, as with extstore; `stats` counts it.
    pub fn settle(&self, get: &mut PendingGet<I::File>, bytes: Option<&[u8]>, encoded: &mut Vec<u8>) -> Settled {
        if let Form::Meta(asked) = get.form {
            return self.settle_meta(get, &asked, bytes, encoded);
        }
        let settled = self.settle_plain(get, bytes, encoded);
        match settled {
            Settled::Hit | Settled::Encoded => self.count_fetch(get.key(), &get.form, true),
            Settled::Again => {}
            Settled::Miss => {
                self.miss(get.key(), &get.form, encoded);
                // Quiet commands have nothing to say here.
                return if matches!(get.form, Form::Binary { .. }) { Settled::Encoded } else { Settled::Miss };
            }
        }
        settled
    }

    fn settle_plain(&self, get: &mut PendingGet<I::File>, bytes: Option<&[u8]>, encoded: &mut Vec<u8>) -> Settled {
        let Some(bytes) = bytes else { return Settled::Miss };
        if self.store.examine(&get.digest, get.key(), &get.read, bytes).is_some() {
            return Settled::Hit;
        }
        let append = |record: Record<'_>| self.encode(get.key(), &get.form, &record, encoded);
        match self.store.seek(&get.digest, get.key(), append) {
            Sought::Found(()) => Settled::Encoded,
            Sought::Absent => Settled::Miss,
            Sought::Disk(read) => {
                get.read = read;
                Settled::Again
            }
        }
    }

    /// Makes the answer of a get that [`Self::settle`] has called a hit, with the same `bytes`.
    ///
    /// # Panics
    /// When it has not.
    pub fn encode_hit(&self, get: &PendingGet<I::File>, bytes: &[u8], sink: &mut impl ValueSink) {
        self.encode_into(get.key(), &get.form, &get.read.verified_record(bytes), sink);
    }

    /// Makes the answer with a record that is cached, whose value is then sent from there. Says whether it did.
    pub(super) fn encode_kept(
        &self,
        key: &[u8],
        form: &Form,
        record: &Record<'_>,
        cached: Option<CachedRecord<'_>>,
        answers: &mut impl Answers<I::File>,
    ) -> bool {
        let Some(cell) = cached.filter(|_| answers.keeps_values()).and_then(CachedRecord::pin) else { return false };
        self.encode_into(key, form, record, &mut Keeping { answers, cell, file: PhantomData::<I::File> });
        true
    }

    fn encode_into(&self, key: &[u8], form: &Form, record: &Record<'_>, sink: &mut impl ValueSink) {
        if !matches!(form, Form::Binary { with_value: false, .. }) {
            self.watchers.fetched(key, Some(record.value.len()));
        }
        let flags = record.header.client_flags;
        let end: &[u8] = match form {
            Form::Text { with_cas, .. } => {
                let cas = with_cas.then(|| self.cas(&record.header));
                encode_value_header(sink.buffer(), key, flags, cas, record.value.len());
                b"\r\n"
            }
            Form::Meta(asked) => {
                if !self.encode_meta_header(key, asked, record, sink.buffer()) {
                    return;
                }
                b"\r\n"
            }
            Form::Binary { with_value: false, .. } => return self.encode(key, form, record, sink.buffer()),
            Form::Binary { reply, .. } => {
                let cas = self.cas(&record.header);
                binary::encode::encode_value_header(sink.buffer(), *reply, key, flags, cas, record.value.len());
                b""
            }
        };
        sink.value(record.value);
        sink.buffer().extend_from_slice(end);
    }

    /// Appends the whole answer with a record; not of an `mg`.
    #[inline]
    fn encode(&self, key: &[u8], form: &Form, record: &Record<'_>, out: &mut Vec<u8>) {
        self.watchers.fetched(key, Some(record.value.len()));
        let (flags, cas) = (record.header.client_flags, self.cas(&record.header));
        match form {
            Form::Text { with_cas, .. } => encode_value(out, key, flags, with_cas.then_some(cas), record.value),
            Form::Binary { reply, with_value: true, .. } => {
                binary::encode::encode_value(out, *reply, key, flags, cas, record.value);
            }
            Form::Binary { reply, .. } => binary::encode::encode_touched(out, *reply, flags, cas),
            Form::Meta(asked) => {
                if self.encode_meta_header(key, asked, record, out) {
                    out.extend_from_slice(record.value);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    /// Gives an item that is fetched another expiry. A store that is full keeps the old one.
    pub(super) fn touch_fetched(&self, key: &[u8], expiry: Seconds) -> Attempt<(), I::File> {
        if self.store.try_touch(key, expiry)? == Changed::NoSpace {
            self.count(|counters| counters.store_no_memory += 1);
        }
        Ok(())
    }

    /// Notes that somebody fetches a record, unless somebody has before.
    #[inline]
    pub(super) fn note_fetched(&self, digest: &Digest, was_fetched: bool) {
        if !was_fetched {
            self.store.note_fetched(digest);
        }
    }

    pub(super) fn count_fetch(&self, key: &[u8], form: &Form, is_hit: bool) {
        if !is_hit {
            self.watchers.fetched(key, None);
        }
        self.prefixes.borrow_mut().record_get(key, is_hit);
        if form.touches() { self.count_touch(is_hit) } else { self.count_get(is_hit) }
    }

    /// Counts a get, but for `stats detail`: memcached leaves meta commands out there.
    pub(super) fn count_get(&self, is_hit: bool) {
        self.count(|counters| {
            counters.cmd_get += 1;
            counters.get_hits += u64::from(is_hit);
            counters.get_misses += u64::from(!is_hit);
        });
    }

    pub(super) fn count_touch(&self, is_hit: bool) {
        self.count(|counters| {
            counters.cmd_touch += 1;
            counters.touch_hits += u64::from(is_hit);
            counters.touch_misses += u64::from(!is_hit);
        });
    }
}
