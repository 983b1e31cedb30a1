//! `get` and `gets`: from memory at once, from disk in two steps.

use std::fmt;

use super::{After, Answers, Executed, Pause, Shard, ValueSink};
use crate::digest::Digest;
use crate::io::Io;
use crate::limits::{KEY_SIZE_MAX, KEYS_PER_TURN};
use crate::protocol::Keys;
use crate::protocol::text::encode::{Answer, encode_answer, encode_value, encode_value_header};
use crate::record::Record;
use crate::store::{AHEAD_COUNT, DiskRead, Sought};

/// A get of one key whose record must be read first. It holds its key itself, so that nothing is allocated for it.
pub struct PendingGet<F> {
    digest: Digest,
    key: [u8; KEY_SIZE_MAX],
    key_size: u8,
    with_cas: bool,
    read: DiskRead<F>,
}

/// What a read has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The record is in the bytes: [`Shard::encode_hit`] makes the answer when its turn has come.
    Hit,
    /// The record was elsewhere by now, in memory: the answer was appended to `encoded`.
    Encoded,
    /// There is no record, and no answer.
    Miss,
    /// The record is elsewhere by now, on disk: [`PendingGet::read`] is another read.
    Again,
}

impl<F> PendingGet<F> {
    fn new(digest: Digest, key: &[u8], with_cas: bool, read: DiskRead<F>) -> Self {
        let mut bytes = [0; KEY_SIZE_MAX];
        bytes[..key.len()].copy_from_slice(key);
        let key_size = u8::try_from(key.len()).expect("KEY_SIZE_MAX fits a byte");
        Self { digest, key: bytes, key_size, with_cas, read }
    }

    /// What is to be read.
    #[must_use]
    pub fn read(&self) -> &DiskRead<F> {
        &self.read
    }

    fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_size)]
    }
}

impl<F> fmt::Debug for PendingGet<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PendingGet({} at {:?})", self.key().escape_ascii(), self.read.place())
    }
}

impl<I: Io> Shard<I> {
    pub(super) fn get<'a>(
        &self,
        keys: &Keys<'a>,
        with_cas: bool,
        answers: &mut impl Answers<I::File>,
    ) -> Executed<'a, I::File> {
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
            let digest = self.store.digest(key);
            let append = |record: Record<'_>| self.encode(key, with_cas, &record, answers.buffer());
            match self.store.seek(&digest, key, append) {
                Sought::Found(()) => self.count_get(true),
                Sought::Absent => self.count_get(false),
                Sought::Disk(read) => {
                    if !answers.read_later(PendingGet::new(digest, key, with_cas, read)) {
                        return Executed::Paused { rest, until: Pause::Reads };
                    }
                }
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

    /// What a get's read has come to, with the `bytes` that it brought, or `None` when the device failed: such a record
    /// is a miss, as with extstore; `stats` counts it.
    pub fn settle(&self, get: &mut PendingGet<I::File>, bytes: Option<&[u8]>, encoded: &mut Vec<u8>) -> Settled {
        let settled = self.settle_uncounted(get, bytes, encoded);
        match settled {
            Settled::Hit | Settled::Encoded => self.count_get(true),
            Settled::Miss => self.count_get(false),
            Settled::Again => {}
        }
        settled
    }

    fn settle_uncounted(&self, get: &mut PendingGet<I::File>, bytes: Option<&[u8]>, encoded: &mut Vec<u8>) -> Settled {
        let Some(bytes) = bytes else { return Settled::Miss };
        if self.store.examine(&get.digest, get.key(), &get.read, bytes).is_some() {
            return Settled::Hit;
        }
        let append = |record: Record<'_>| self.encode(get.key(), get.with_cas, &record, encoded);
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
        let record = get.read.verified_record(bytes);
        let (flags, cas) = (record.header.client_flags, self.cas(get.with_cas, &record));
        encode_value_header(sink.buffer(), get.key(), flags, cas, record.value.len());
        sink.value(record.value);
        sink.buffer().extend_from_slice(b"\r\n");
    }

    fn encode(&self, key: &[u8], with_cas: bool, record: &Record<'_>, out: &mut Vec<u8>) {
        encode_value(out, key, record.header.client_flags, self.cas(with_cas, record), record.value);
    }

    fn cas(&self, with_cas: bool, record: &Record<'_>) -> Option<u64> {
        with_cas.then(|| self.store.cas_unique(record.header.version))
    }

    fn count_get(&self, is_hit: bool) {
        self.count(|counters| {
            counters.cmd_get += 1;
            counters.get_hits += u64::from(is_hit);
            counters.get_misses += u64::from(!is_hit);
        });
    }
}
