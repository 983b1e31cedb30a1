//! What a store must say: for each key, what it was over time, and from which moment on that is promised.
//!
//! Every operation of the engine happens at one moment, the one at which its future ends, so what a write finds is
//! compared with exactly what the model has at that moment. A read from disk takes time: it may bring whatever the key was
//! between its begin and its end. After a stop, a key is what it was at the last promised moment, or at a later one.

use std::fmt;
use std::time::Duration;

use dmacached::clock::{Seconds, is_expired};

/// What a key is. Every value ever written has a stamp of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) stamp: u32,
    pub(crate) size: u32,
    pub(crate) version: u64,
    pub(crate) expiry: Seconds,
    pub(crate) flags: u32,
    pub(crate) own_cas: Option<u64>,
}

/// One change of a key.
#[derive(Clone, Copy, Debug)]
struct Effect {
    seq: u64,
    /// The change that this one follows from: it is promised when that one is. `u64::MAX`: never.
    promise: u64,
    time: Duration,
    item: Option<Item>,
}

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// A promised write is not there.
    Lost,
    /// A value that was never written under its key, or not as it is.
    Value,
    /// Something that was replaced, deleted, flushed or expired is there.
    Resurrected,
    /// A version was handed out that is not larger than all before.
    Version,
    /// An operation did something else than it must.
    Outcome,
    /// The store counts wrong.
    Accounting,
    /// The store does not open.
    Open,
    /// A second recovery finds something else than the first.
    Recovery,
    /// Something never ends.
    Stuck,
    /// The engine panics.
    Panic,
}

/// A failed check.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) wrong: Wrong,
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn new(wrong: Wrong, text: impl Into<String>) -> Self {
        Self { wrong, text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.wrong, self.text)
    }
}

/// What may be missing without anybody being at fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leniency {
    /// Records were evicted.
    pub(crate) evicted: bool,
    /// The device has said that a write or a sync failed: what was not promised by then is lost or not.
    pub(crate) failed: bool,
    /// The device lies: everything may be missing, or old. Nothing may be wrong.
    pub(crate) lied: bool,
}

/// A moment at which a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    seq: u64,
    now: Seconds,
}

pub(crate) struct Model {
    keys: Vec<Vec<Effect>>,
    /// The second of a delayed flush, over time.
    due: Vec<(u64, Option<Seconds>)>,
    /// Each stamp's key and size.
    issued: Vec<(u8, u32)>,
    seq: u64,
    floor: u64,
    /// Changes of this life are later.
    life_begun: u64,
    pub(crate) version_max: u64,
    pub(crate) leniency: Leniency,
    /// Flushes that have begun and not ended: a full store drops everything to have room for the note that it did.
    pub(crate) flushing: usize,
}

fn live(item: Option<Item>, now: Seconds) -> Option<Item> {
    item.filter(|item| !is_expired(item.expiry, now))
}

impl Model {
    pub(crate) fn new(key_count: u8) -> Self {
        let absent = Effect { seq: 0, promise: 0, time: Duration::ZERO, item: None };
        Self {
            keys: vec![vec![absent]; key_count.into()],
            due: vec![(0, None)],
            issued: Vec::new(),
            seq: 0,
            floor: 0,
            life_begun: 0,
            version_max: 0,
            leniency: Leniency::default(),
            flushing: 0,
        }
    }

    /// A stamp for a value that is about to be written.
    pub(crate) fn issue(&mut self, key: u8, size: u32) -> u32 {
        self.issued.push((key, size));
        self.issued.len() as u32 - 1
    }

    /// Whether this was ever written under the key.
    pub(crate) fn was_issued(&self, key: u8, stamp: u32, size: u32) -> bool {
        self.issued.get(stamp as usize) == Some(&(key, size))
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    fn current(&self, key: u8) -> Effect {
        *self.keys[usize::from(key)].last().expect("a key was something at the beginning")
    }

    /// What the key is at `now`.
    pub(crate) fn item(&self, key: u8, now: Seconds) -> Option<Item> {
        live(self.current(key).item, now)
    }

    fn push(&mut self, key: u8, item: Option<Item>, promise: Option<u64>, time: Duration) {
        self.seq += 1;
        let seq = self.seq;
        self.keys[usize::from(key)].push(Effect { seq, promise: promise.unwrap_or(seq), time, item });
    }

    /// The key is this from now on.
    pub(crate) fn set(&mut self, key: u8, item: Option<Item>, time: Duration) {
        self.push(key, item, None, time);
    }

    fn clear(&mut self, promise: Option<u64>, time: Duration) {
        self.seq += 1;
        let promise = promise.unwrap_or(self.seq);
        for key in 0..self.keys.len() {
            self.push(key as u8, None, Some(promise), time);
        }
        self.seq += 1;
        self.due.push((promise, None));
    }

    /// All keys are gone, now or later.
    pub(crate) fn flush(&mut self, due: Option<Seconds>, time: Duration) {
        match due {
            None => self.clear(None, time),
            Some(due) => {
                self.seq += 1;
                self.due.push((self.seq, Some(due)));
            }
        }
    }

    /// A flush found no room for its note: everything is gone, until the next start.
    pub(crate) fn forget(&mut self, time: Duration) {
        (0..self.keys.len()).for_each(|key| self.push(key as u8, None, Some(u64::MAX), time));
    }

    /// The life ends, and flushes that have not ended with it: tables may have gone that such a one has emptied. So may they have
    /// with a delayed one that was due when no client was there to see it.
    pub(crate) fn end(&mut self, now: Seconds, time: Duration) {
        self.arrive(now, time);
        if std::mem::take(&mut self.flushing) > 0 {
            self.forget(time);
        }
    }

    /// It is `now`: a delayed flush may be due.
    pub(crate) fn arrive(&mut self, now: Seconds, time: Duration) {
        if let Some((promise, Some(due))) = self.due.last().copied()
            && due <= now
        {
            self.clear(Some(promise), time);
        }
    }

    /// Everything up to this change is on stable media.
    pub(crate) fn promise(&mut self, seq: u64) {
        if !self.leniency.failed {
            self.floor = self.floor.max(seq);
        }
    }

    /// Everything of this life that happened before `time` is on stable media.
    pub(crate) fn promise_until(&mut self, time: Duration) {
        let effects = self.keys.iter().flatten();
        let old = effects.filter(|effect| effect.seq > self.life_begun && effect.time <= time);
        if let Some(seq) = old.map(|effect| effect.seq).max() {
            self.promise(seq);
        }
    }

    /// A version was handed out.
    pub(crate) fn note_version(&mut self, key: u8, version: u64) -> Result<(), Fault> {
        let largest = self.version_max;
        self.version_max = largest.max(version);
        if version > largest || self.leniency.lied {
            return Ok(());
        }
        Err(Fault::new(Wrong::Version, format!("key {key}: version {version}, and {largest} was handed out before")))
    }

    pub(crate) fn begin_read(&self, now: Seconds) -> Begun {
        Begun { seq: self.seq, now }
    }

    /// A read that has begun then found this.
    pub(crate) fn check_read(
        &mut self,
        key: u8,
        begun: Begun,
        found: Option<Item>,
        now: Seconds,
        time: Duration,
    ) -> Result<(), Fault> {
        let effects = &self.keys[usize::from(key)];
        let first = effects.iter().rposition(|effect| effect.seq <= begun.seq).unwrap_or(0);
        let fits = |effect: &Effect| match found {
            None => live(effect.item, now).is_none(),
            found => live(effect.item, begun.now) == found,
        };
        if effects[first..].iter().any(fits) || self.leniency.lied {
            return Ok(());
        }
        let is_unpromised = effects[first].promise > self.floor;
        let may_be_gone = self.leniency.evicted || (self.leniency.failed && is_unpromised);
        if found.is_none() && first + 1 < effects.len() && may_be_gone {
            // It was evicted, or the device took it, when the read had begun. What was written since is no less there for that.
            return Ok(());
        }
        let expected = self.item(key, now);
        self.missing_or_wrong(key, found, expected, time)
    }

    /// A write found this, at this moment.
    pub(crate) fn check_now(&mut self, key: u8, is_there: bool, now: Seconds, time: Duration) -> Result<(), Fault> {
        let expected = self.item(key, now);
        match (is_there, expected) {
            (true, Some(_)) | (false, None) => Ok(()),
            _ if self.leniency.lied => Ok(()),
            (true, None) => Err(Fault::new(Wrong::Resurrected, format!("key {key}: a write finds it, and it is gone"))),
            (false, Some(_)) => self.missing_or_wrong(key, None, expected, time),
        }
    }

    fn missing_or_wrong(
        &mut self,
        key: u8,
        found: Option<Item>,
        expected: Option<Item>,
        time: Duration,
    ) -> Result<(), Fault> {
        let text = format!("key {key}: found {found:?}, expected {expected:?}");
        let Some(found) = found else {
            let is_promised = self.current(key).promise <= self.floor;
            if self.flushing > 0 || (self.leniency.failed && !is_promised) {
                self.push(key, None, Some(u64::MAX), time);
                return Ok(());
            }
            if self.leniency.evicted {
                // Before the record left the index, its table was marked as free.
                self.push(key, None, Some(0), time);
                return Ok(());
            }
            return Err(Fault::new(Wrong::Lost, text));
        };
        let is_newest = expected.is_some_and(|expected| expected.stamp <= found.stamp);
        Err(Fault::new(if is_newest { Wrong::Outcome } else { Wrong::Resurrected }, text))
    }

    /// What a start has found after a stop, between two moments: what is due in between is seen or not. `is_stable`: a power
    /// cut lay between, so that what was found is on stable media.
    pub(crate) fn recovered(
        &mut self,
        found: &[Option<Item>],
        due: Option<Seconds>,
        (begun, now): (Seconds, Seconds),
        is_stable: bool,
    ) -> Result<(), Fault> {
        let [was_due, is_due] = [begun, now].map(|now| due.is_some_and(|due| due <= now));
        self.check_due(due, now)?;
        for (key, found) in found.iter().enumerate() {
            self.check_recovered(key, *found, (was_due, is_due), now, is_stable)?;
        }
        self.seq += 1;
        self.due = vec![(if is_stable { 0 } else { self.seq }, due)];
        self.life_begun = self.seq;
        Ok(())
    }

    fn check_due(&self, found: Option<Seconds>, now: Seconds) -> Result<(), Fault> {
        let first = self.due.iter().rposition(|(promise, _)| *promise <= self.floor).unwrap_or(0);
        let is_over = |due: Option<Seconds>| due.is_none_or(|due| due <= now);
        let fits = |(_, due): &(u64, Option<Seconds>)| *due == found || (is_over(*due) && is_over(found));
        if self.due[first..].iter().any(fits) || self.leniency != Leniency::default() {
            return Ok(());
        }
        let text = format!("a delayed flush is due at {found:?}, and may be so at {:?} only", &self.due[first..]);
        Err(Fault::new(Wrong::Resurrected, text))
    }

    fn check_recovered(
        &mut self,
        key: usize,
        found: Option<Item>,
        (was_due, is_due): (bool, bool),
        now: Seconds,
        is_stable: bool,
    ) -> Result<(), Fault> {
        let (floor, leniency) = (self.floor, self.leniency);
        let effects = &mut self.keys[key];
        let first = effects.iter().rposition(|effect| effect.promise <= floor).unwrap_or(0);
        let last = effects[first..].iter().rposition(|effect| live(effect.item, now) == found);
        // A flush that was due while nobody served has taken everything.
        let last = last.filter(|_| !was_due || found.is_none());
        let may_be_absent = is_due || leniency.evicted || (leniency.failed && first + 1 < effects.len());
        match last {
            Some(last) if !is_stable => {
                effects.truncate(first + last + 1);
                effects.drain(..first);
            }
            Some(_) => *effects = vec![Effect { promise: 0, item: found, ..effects[first] }],
            None if leniency.lied || (found.is_none() && may_be_absent) => {
                *effects = vec![Effect { promise: 0, item: found, ..effects[first] }];
            }
            None => {
                let allowed: Vec<_> = effects[first..].iter().map(|effect| effect.item).collect();
                let text = format!("key {key} after a start: found {found:?}, may be {allowed:?}");
                let is_old = |found: Item| effects[..first].iter().any(|effect| effect.item == Some(found));
                let wrong = match found {
                    None => Wrong::Lost,
                    Some(found) if is_old(found) || allowed.contains(&None) => Wrong::Resurrected,
                    Some(_) => Wrong::Lost,
                };
                return Err(Fault::new(wrong, text));
            }
        }
        Ok(())
    }
}
