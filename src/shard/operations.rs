//! What clients can do to an item, whatever protocol they say it in.

use super::Shard;
use crate::clock::Seconds;
use crate::io::Io;
use crate::protocol::{Direction, Expiry, StoreVerb, absolute_expiry, item_size, stored_number};
use crate::record::{Header, Record};
use crate::store::{Changed, Condition, Held, Meta, Obstacle, Stored, Update};

/// An expiry in the past: memcached stores a value that has expired at once, and nobody finds it.
pub(super) const LONG_AGO: Seconds = 1;

/// The item is stale: it may be used until somebody has fetched it anew.
pub const STALE: u16 = 1;
/// Somebody was told to fetch the item anew.
pub(super) const TOKEN_SENT: u16 = 1 << 1;
/// The key was sent in base64.
pub const KEY_BINARY: u16 = 1 << 2;

/// A value to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    /// [`StoreVerb::Cas`] compares; the others do if there is a `compare`.
    pub(super) verb: StoreVerb,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) client_flags: u32,
    pub(super) expiry: Seconds,
    pub(super) bits: u16,
    /// The CAS unique that `append` and `prepend` demand.
    pub(super) compare: Option<u64>,
    pub(super) own_cas: Option<u64>,
    /// A comparison with an older CAS unique stores a stale item.
    pub(super) may_be_stale: bool,
    /// What expiry an item gets that `append` or `prepend` makes.
    pub(super) vivify: Option<Seconds>,
}

/// What came of storing, removing or changing an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done; the item has this CAS unique.
    Done(u64),
    /// The condition of `add`, `replace`, `append` or `prepend` does not hold.
    NotStored,
    /// It has another CAS unique.
    Exists,
    NotFound,
    TooLarge,
    NoSpace,
    /// The device did not deliver the record.
    ReadFailed,
    /// The device did not take it.
    WriteFailed,
}

/// A number to be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum<'a> {
    pub(super) key: &'a [u8],
    pub(super) delta: u64,
    pub(super) direction: Direction,
    pub(super) compare: Option<u64>,
    pub(super) own_cas: Option<u64>,
    /// The number and expiry of an item that is made when there is none.
    pub(super) initial: Option<(u64, Seconds)>,
    /// The expiry that the item gets.
    pub(super) expiry: Option<Seconds>,
    /// Of the key of an item that is made.
    pub(super) bits: u16,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Number {
        number: u64,
        cas: u64,
        /// That of the item before; 0 if there was none.
        old_expiry: Seconds,
        is_new: bool,
    },
    NotNumeric,
    /// Why there is none; never [`Outcome::Done`] or [`Outcome::NotStored`].
    Not(Outcome),
}

/// How an item is removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Removal {
    pub(super) compare: Option<u64>,
    /// It is not removed, but marked stale and gets a new CAS unique.
    pub(super) invalidates: bool,
    /// The value is removed, the item stays.
    pub(super) drops_value: bool,
    /// The expiry of an item that stays.
    pub(super) expiry: Option<Seconds>,
    pub(super) own_cas: Option<u64>,
}

pub(super) type Attempt<T, F> = Result<T, Obstacle<F>>;

/// What the closure of an update has decided.
enum Decided {
    Stored,
    Not(Outcome),
}

impl<I: Io> Shard<I> {
    pub(super) fn expiry(&self, exptime: i64) -> Seconds {
        match absolute_expiry(exptime, self.store.now()) {
            Expiry::Never => 0,
            Expiry::At(second) => second,
            Expiry::Immediately => LONG_AGO,
        }
    }

    /// A record's CAS unique as clients see it.
    pub(super) fn cas(&self, header: &Header) -> u64 {
        if self.facts.cas_enabled { self.store.cas_of(header) } else { 0 }
    }

    /// The CAS unique of a record that was just written, as clients see it.
    pub(super) fn cas_of_version(&self, version: u64, own_cas: Option<u64>) -> u64 {
        if self.facts.cas_enabled { own_cas.unwrap_or_else(|| self.store.cas_unique(version)) } else { 0 }
    }

    /// What storing came to, counted.
    fn outcome(&self, stored: Stored, own_cas: Option<u64>) -> Outcome {
        match stored {
            Stored::Stored(version) => Outcome::Done(self.cas_of_version(version, own_cas)),
            Stored::NotStored => Outcome::NotStored,
            Stored::NoSpace => {
                self.count(|counters| counters.store_no_memory += 1);
                Outcome::NoSpace
            }
            Stored::Failed => Outcome::WriteFailed,
            Stored::TooLarge => {
                self.count(|counters| counters.store_too_large += 1);
                Outcome::TooLarge
            }
        }
    }

    /// Stores a value.
    pub(super) fn store_order(&self, order: &Order<'_>, held: Option<&Held<'_, I::File>>) -> Attempt<Outcome, I::File> {
        let put = |condition| {
            let Order { key, value, client_flags, expiry, bits, own_cas, .. } = *order;
            let meta = Meta { client_flags, expiry, bits, own_cas };
            Ok(self.outcome(self.store.try_put(key, value, meta, condition)?, own_cas))
        };
        let outcome = match order.verb {
            StoreVerb::Set => put(Condition::Always),
            StoreVerb::Add => put(Condition::Absent),
            StoreVerb::Replace => put(Condition::Present),
            StoreVerb::Append => self.extend(order, [b"", order.value], held),
            StoreVerb::Prepend => self.extend(order, [order.value, b""], held),
            StoreVerb::Cas(unique) => self.compare_and_store(order, unique, held),
        }?;
        self.count(|counters| counters.cmd_set += 1);
        let ttl = order.expiry.saturating_sub(self.store.now());
        self.watchers.stored(order.key, order.verb, outcome, ttl, order.value.len());
        Ok(outcome)
    }

    /// `append` and `prepend`: flags and expiry stay.
    fn extend(
        &self,
        order: &Order<'_>,
        [before, after]: [&[u8]; 2],
        held: Option<&Held<'_, I::File>>,
    ) -> Attempt<Outcome, I::File> {
        let own_cas = order.own_cas;
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else {
                let Some(expiry) = order.vivify else { return (Update::Keep, Decided::Not(Outcome::NotStored)) };
                scratch.extend_from_slice(order.value);
                let Order { client_flags, bits, .. } = *order;
                return (Update::Replace(Meta { client_flags, expiry, bits, own_cas }), Decided::Stored);
            };
            if order.compare.is_some_and(|unique| unique != self.cas(&record.header)) {
                return (Update::Keep, Decided::Not(Outcome::Exists));
            }
            let sum_size = before.len() + record.value.len() + after.len();
            if item_size(order.key.len(), record.header.client_flags, sum_size as u64) > self.facts.item_size_max as u64
            {
                // As memcached, which does not say why.
                return (Update::Keep, Decided::Not(Outcome::NotStored));
            }
            for part in [before, record.value, after] {
                scratch.extend_from_slice(part);
            }
            let bits = (record.header.bits | order.bits) & KEY_BINARY;
            (Update::Replace(Meta { bits, own_cas, ..meta_of(&record) }), Decided::Stored)
        };
        self.update(order.key, held, own_cas, change)
    }

    fn compare_and_store(
        &self,
        order: &Order<'_>,
        unique: u64,
        held: Option<&Held<'_, I::File>>,
    ) -> Attempt<Outcome, I::File> {
        let Order { client_flags, expiry, bits, own_cas, .. } = *order;
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, Decided::Not(Outcome::NotFound)) };
            let found = self.cas(&record.header);
            let mut meta = Meta { client_flags, expiry, bits, own_cas };
            if unique == 0 || found != unique {
                // Older than what is there: the item stays as stale as it is.
                if !order.may_be_stale || unique == 0 || unique > found {
                    return (Update::Keep, Decided::Not(Outcome::Exists));
                }
                meta.expiry = record.header.expiry;
                meta.bits |= STALE | record.header.bits & TOKEN_SENT;
            }
            scratch.extend_from_slice(order.value);
            (Update::Replace(meta), Decided::Stored)
        };
        let outcome = self.update(order.key, held, own_cas, change)?;
        self.count(|counters| match outcome {
            Outcome::Done(_) => counters.cas_hits += 1,
            Outcome::Exists => counters.cas_badval += 1,
            Outcome::NotFound => counters.cas_misses += 1,
            _ => {}
        });
        Ok(outcome)
    }

    fn update(
        &self,
        key: &[u8],
        held: Option<&Held<'_, I::File>>,
        own_cas: Option<u64>,
        change: impl FnMut(Option<Record<'_>>, &mut Vec<u8>) -> (Update, Decided),
    ) -> Attempt<Outcome, I::File> {
        Ok(match self.store.try_update(key, held, change) {
            Ok((Some(stored), _)) => self.outcome(stored, own_cas),
            Ok((None, Decided::Not(outcome))) => outcome,
            Ok((None, Decided::Stored)) => Outcome::NotFound,
            Err(Obstacle::ReadFailed) => Outcome::ReadFailed,
            Err(obstacle) => return Err(obstacle),
        })
    }

    /// A value above `-I` was to be stored: the old one goes if `deletes`, so that nobody reads it as if it were the new
    /// one.
    pub(super) fn refuse_too_large(&self, key: &[u8], deletes: bool) -> Attempt<Outcome, I::File> {
        if deletes {
            // Whether there was one does not matter.
            let _: Changed = self.store.try_delete(key)?;
        }
        self.count(|counters| counters.store_too_large += 1);
        Ok(Outcome::TooLarge)
    }

    /// Removes an item, or marks it stale.
    pub(super) fn remove(
        &self,
        key: &[u8],
        removal: Removal,
        held: Option<&Held<'_, I::File>>,
    ) -> Attempt<Outcome, I::File> {
        let stays = removal.invalidates || removal.drops_value;
        let outcome = if stays || removal.compare.is_some() {
            self.remove_if(key, removal, held)?
        } else {
            match self.store.try_delete(key)? {
                Changed::Done => Outcome::Done(0),
                Changed::NotFound => Outcome::NotFound,
                Changed::NoSpace => Outcome::NoSpace,
                Changed::Failed => Outcome::WriteFailed,
            }
        };
        if !stays && matches!(outcome, Outcome::Done(_)) {
            self.watchers.deleted(key);
        }
        self.count(|counters| match outcome {
            Outcome::Done(_) if !stays => counters.delete_hits += 1,
            Outcome::NotFound | Outcome::Exists => counters.delete_misses += 1,
            Outcome::NoSpace => counters.store_no_memory += 1,
            _ => {}
        });
        Ok(outcome)
    }

    fn remove_if(&self, key: &[u8], removal: Removal, held: Option<&Held<'_, I::File>>) -> Attempt<Outcome, I::File> {
        let Removal { compare, invalidates, drops_value, own_cas, .. } = removal;
        let mut was_fetched = false;
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            let Some(record) = record else { return (Update::Keep, Decided::Not(Outcome::NotFound)) };
            if compare.is_some_and(|unique| unique != self.cas(&record.header)) {
                return (Update::Keep, Decided::Not(Outcome::Exists));
            }
            if !invalidates && !drops_value {
                return (Update::Delete, Decided::Stored);
            }
            was_fetched = record.was_fetched;
            let mut meta = Meta { own_cas, ..meta_of(&record) };
            meta.expiry = removal.expiry.unwrap_or(meta.expiry);
            if drops_value {
                meta.client_flags = 0;
                meta.bits &= KEY_BINARY;
            } else {
                scratch.extend_from_slice(record.value);
            }
            if invalidates {
                // The next one who asks is told to fetch it anew.
                meta.bits = (meta.bits | STALE) & !TOKEN_SENT;
            }
            (Update::Replace(meta), Decided::Stored)
        };
        let outcome = self.update(key, held, own_cas, change)?;
        if was_fetched && !drops_value && matches!(outcome, Outcome::Done(_)) {
            self.store.note_fetched(&self.store.digest(key));
        }
        Ok(outcome)
    }

    /// Gives an item another expiry.
    pub(super) fn touch_item(&self, key: &[u8], expiry: Seconds) -> Attempt<Outcome, I::File> {
        let changed = self.store.try_touch(key, expiry)?;
        self.count(|counters| {
            counters.cmd_touch += 1;
            match changed {
                Changed::Done => counters.touch_hits += 1,
                Changed::NotFound => counters.touch_misses += 1,
                Changed::NoSpace => counters.store_no_memory += 1,
                Changed::Failed => {}
            }
        });
        Ok(match changed {
            Changed::Done => {
                // It counts as an access.
                self.store.note_fetched(&self.store.digest(key));
                Outcome::Done(0)
            }
            Changed::NotFound => Outcome::NotFound,
            Changed::NoSpace => Outcome::NoSpace,
            Changed::Failed => Outcome::WriteFailed,
        })
    }

    /// Adds to or takes from a number.
    pub(super) fn count_up_or_down(
        &self,
        sum: &Sum<'_>,
        held: Option<&Held<'_, I::File>>,
    ) -> Attempt<Counted, I::File> {
        let mut stays_the_same_item = false;
        let change = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| {
            stays_the_same_item = false;
            let Some(record) = record else { return self.begin_to_count(sum, scratch) };
            if record.value.is_empty() {
                // As memcached, which looks at the CAS unique of a number only.
                return (Update::Keep, Counted::NotNumeric);
            }
            if sum.compare.is_some_and(|unique| unique != self.cas(&record.header)) {
                return (Update::Keep, Counted::Not(Outcome::Exists));
            }
            let Some(old) = stored_number(record.value) else { return (Update::Keep, Counted::NotNumeric) };
            let number = match sum.direction {
                Direction::Increment => old.wrapping_add(sum.delta),
                Direction::Decrement => old.saturating_sub(sum.delta),
            };
            scratch.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            let mut meta = Meta { own_cas: sum.own_cas, ..meta_of(&record) };
            meta.expiry = sum.expiry.unwrap_or(meta.expiry);
            if scratch.len() <= record.value.len() {
                // memcached writes a shorter number over the longer one and fills up with blanks.
                scratch.resize(record.value.len(), b' ');
                stays_the_same_item = record.was_fetched;
            } else {
                meta.bits &= KEY_BINARY;
            }
            let old_expiry = record.header.expiry;
            let counted = Counted::Number { number, cas: 0, old_expiry, is_new: false };
            (Update::Replace(meta), counted)
        };
        let (stored, mut counted) = match self.store.try_update(sum.key, held, change) {
            Ok(output) => output,
            Err(Obstacle::ReadFailed) => (None, Counted::Not(Outcome::ReadFailed)),
            Err(obstacle) => return Err(obstacle),
        };
        self.count_arithmetic(sum.direction, &counted);
        if let Some(stored) = stored {
            match (self.outcome(stored, sum.own_cas), &mut counted) {
                (Outcome::Done(new), Counted::Number { cas, .. }) => *cas = new,
                (outcome, _) => counted = Counted::Not(outcome),
            }
        }
        if stays_the_same_item {
            self.store.note_fetched(&self.store.digest(sum.key));
        }
        Ok(counted)
    }

    /// There is no item: it is made if that is wanted.
    fn begin_to_count(&self, sum: &Sum<'_>, scratch: &mut Vec<u8>) -> (Update, Counted) {
        let Some((number, expiry)) = sum.initial else { return (Update::Keep, Counted::Not(Outcome::NotFound)) };
        scratch.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        let meta = Meta { client_flags: 0, expiry, bits: sum.bits, own_cas: sum.own_cas };
        (Update::Replace(meta), Counted::Number { number, cas: 0, old_expiry: 0, is_new: true })
    }

    fn count_arithmetic(&self, direction: Direction, counted: &Counted) {
        let is_hit = match counted {
            Counted::Number { is_new: false, .. } => true,
            Counted::Not(Outcome::NotFound) => false,
            // As memcached: one that is made is neither.
            Counted::Number { .. } | Counted::NotNumeric | Counted::Not(_) => return,
        };
        self.count(|counters| match (direction, is_hit) {
            (Direction::Increment, true) => counters.incr_hits += 1,
            (Direction::Increment, false) => counters.incr_misses += 1,
            (Direction::Decrement, true) => counters.decr_hits += 1,
            (Direction::Decrement, false) => counters.decr_misses += 1,
        });
    }
}

/// What stays with an item whose value changes; not its CAS unique.
pub(super) fn meta_of(record: &Record<'_>) -> Meta {
    let header = &record.header;
    Meta { client_flags: header.client_flags, expiry: header.expiry, bits: header.bits, own_cas: None }
}
