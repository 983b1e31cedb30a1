//! What damage costs: which records are lost that clients would get.

use std::collections::{BTreeMap, HashMap};

use super::table::Word;
use crate::clock::{Seconds, is_expired};
use crate::digest::Digest;
use crate::disktable::format::Summary;
use crate::index::Index;
use crate::record::Kind;

/// What the damage in a table costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Records that are lost and that clients would have got: nothing later was said about their keys.
    pub lost: u64,
    /// Of these, those whose key gets an older value back.
    pub older: u64,
    /// Deletions, touches and flushes that are forgotten: what they were about may be as before them.
    pub forgotten: u64,
}

/// A word that the tables do not say any more, unless one with a higher version says more about its key.
struct Lost {
    version: u64,
    slot: u32,
    offset: u32,
    expiry: Seconds,
    kind: Kind,
    is_whole: bool,
    /// Versions of other words about its key that the tables do say: a value or tombstone, and a touch.
    said: u64,
    touched: u64,
}

/// Gathers what is lost while tables are read, in any order.
#[derive(Default)]
pub(super) struct Costs {
    lost: HashMap<Digest, Lost>,
    /// The flush with the highest version, whether a start finds it or not, and when it is to happen if it has not.
    flush: (u64, Option<Seconds>),
    /// What has a version below this was flushed.
    void_below: u64,
    costs: BTreeMap<u32, Cost>,
}

impl Costs {
    /// The next table: `seen` is what its footer or a scan says, `words` what was written, both in the order of the offsets.
    pub(super) fn table(&mut self, slot: u32, seen: &[Summary], words: &[Word]) {
        let mut seen = seen.iter().peekable();
        for word in words {
            while seen.next_if(|other| other.offset < word.summary.offset).is_some() {}
            let is_seen = seen.next_if(|other| other.offset == word.summary.offset).is_some();
            self.word(slot, word, is_seen);
        }
    }

    fn word(&mut self, slot: u32, word: &Word, is_seen: bool) {
        let Word { summary, is_whole } = *word;
        let Summary { digest, version, offset, expiry, kind, .. } = summary;
        match kind {
            Kind::Value | Kind::Tombstone => {
                let is_newest = self.lost.get(&digest).is_none_or(|lost| lost.version < version);
                if !is_newest {
                    return;
                }
                // A guard counts if its summary is there.
                if !is_seen || (kind == Kind::Value && !is_whole) {
                    let (said, touched) = (0, 0);
                    self.lost.insert(digest, Lost { version, slot, offset, expiry, kind, is_whole, said, touched });
                } else {
                    self.lost.remove(&digest);
                }
            }
            Kind::Touch => self.forget_unseen(slot, is_seen),
            Kind::Flush => {
                if version > self.flush.0 {
                    self.flush = (version, Some(expiry).filter(|due| *due > 0));
                }
                if expiry == 0 {
                    self.void_below = self.void_below.max(version);
                }
                self.forget_unseen(slot, is_seen);
            }
            Kind::Padding => {}
        }
    }

    fn forget_unseen(&mut self, slot: u32, is_seen: bool) {
        if !is_seen {
            self.costs.entry(slot).or_default().forgotten += 1;
        }
    }

    /// Whether something may be lost: then [`Self::other`] is to be told of what all tables say.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// What a table says, once all that may be lost is known: whether it is depends on what other tables say.
    pub(super) fn other(&mut self, slot: u32, seen: &Summary) {
        let Some(lost) = self.lost.get_mut(&seen.digest) else { return };
        match seen.kind {
            Kind::Value | Kind::Tombstone if (slot, seen.offset) != (lost.slot, lost.offset) => {
                lost.said = lost.said.max(seen.version);
            }
            Kind::Touch if seen.version > lost.version.max(lost.touched) => {
                (lost.touched, lost.expiry) = (seen.version, seen.expiry);
            }
            _ => {}
        }
    }

    /// There are no more tables, and `index` is what a start finds at `now`: the costs by slot, and how many records clients
    /// get.
    pub(super) fn finish(mut self, index: &Index, now: Seconds) -> (BTreeMap<u32, Cost>, u64) {
        let mut live_count = index.len() as u64;
        if self.flush.1.is_some_and(|due| due <= now) {
            self.lost.clear();
        }
        for (digest, lost) in self.lost {
            let pointer = index.get(&digest).map(|entry| entry.pointer);
            let is_found = pointer.is_some_and(|pointer| (pointer.slot, pointer.offset) == (lost.slot, lost.offset));
            // A copy of a record says what the record did, if a start finds the copy.
            let is_said = lost.said > lost.version || (lost.said == lost.version && !is_found);
            if is_said || lost.version < self.void_below {
                continue;
            }
            if lost.kind == Kind::Tombstone {
                self.costs.entry(lost.slot).or_default().forgotten += u64::from(pointer.is_some());
                continue;
            }
            // The checkpoint may know what the table does not say.
            if (is_found && lost.is_whole) || is_expired(lost.expiry, now) {
                continue;
            }
            let cost = self.costs.entry(lost.slot).or_default();
            cost.lost += 1;
            if is_found {
                // A start points at the damaged record, and nobody gets it.
                live_count -= 1;
            } else {
                cost.older += u64::from(pointer.is_some());
            }
        }
        (self.costs, live_count)
    }
}
