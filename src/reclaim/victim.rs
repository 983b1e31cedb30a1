//! Which table is emptied next, and which records are written side by side: pure functions of a few numbers per table.
//!
//! # The victim
//!
//! Emptying a table costs a write of what is alive in it and wins the rest of it; waiting makes it cheaper. Take tables
//! whose records are updated at a rate `r` each, so that the live part `p` of one falls as `e^-rt`. From the write
//! amplification of a full store, `1/(1-p)`, which `s = -ln p / (1-p)` times the live bytes of space allow, follows how
//! much space, for how long, a byte of extra writes wins: `ds/dW = (1/p - 1 + ln p) / r`. Space is divided in the best
//! way when that is the same for all kinds of records, so the table for which it is most goes first. What is not known
//! is `r`; the table tells: a part `p` of it is left at the age `t`, so `r = -ln p / t`. Tables that are dead go before
//! all others.
//!
//! When records expire, waiting has an end: emptying the table wins its dead part until the last of its records
//! expires, and nothing beyond. So tables that are about to expire as a whole are waited for, unless everything else is
//! worse.
//!
//! # Streams
//!
//! Records that will die together should lie together ([`Stream`]): what is new apart from what is moved, as the latter
//! has lived for long and will go on to; and each of these in two streams, by how long a record will probably live
//! ([`Separation`]). The age at which a version is overwritten tells how long the next one will live (SepBIT, FAST
//! '22); so does a TTL. What counts as long is measured: a few times the life of a table of new, short-lived records.
//!
//! # Figures
//!
//! `dmabench amplification` simulates it: bytes written by bytes given at 80 % live of all, 256 tables, one of them in
//! reserve.
//!
//! | load | written | lowest possible | victims by live part | by LFS's cost-benefit | streams new, moved | one stream |
//! |---|---|---|---|---|---|---|
//! | uniform updates | 2.80 | 2.69 | 2.79 | 2.80 | 2.76 | 2.73 |
//! | 90 % of them on 10 % of the keys | 1.55 | 1.48 | 3.03 | 1.60 | 2.02 | 3.57 |
//! | 80 % on 20 % | 2.22 | 2.00 | 2.96 | 2.30 | 2.54 | 3.07 |
//! | Zipf 0.99 | 1.94 | 1.48 | 2.26 | 2.07 | 2.24 | 4.05 |
//! | no updates, TTLs 1 : 10 : 100 | 1.02 | 1 | 1.02 | 1.11 | 1.20 | 2.06 |
//! | no updates, TTLs spread over 1 to 100 | 1.65 | 1 | 2.25 | 1.79 | 2.75 | 2.87 |
//!
//! Each division pays: with all moved records in one stream, the second row is 1.94; with all new ones in one, it is
//! 1.78, Zipf 2.20 and the TTLs 1.21. Each also costs an open table. So uniform updates, which nothing helps, take 0.06
//! more than in one stream; and with 64 tables they come to 3.20, those on 10 % of the keys to 1.71, with 512 tables to
//! 2.74 and 1.53. With 32 tables of 512 records uniform updates come to 4.01, in two streams 3.37; with 16, four
//! streams get stuck. The wait for tables that are about to expire changes none of these figures by more than 0.01:
//! what expires together is mostly dead by then.

use crate::clock::{Seconds, is_expired};
use crate::limits::SEPARATION_TABLE_COUNT_MIN;

/// A record is short-lived when it is, or its predecessor was, younger than so many halves of the life of a table of
/// such.
const AGE_HALVES: u64 = 7;
/// Or when it expires within so many of them.
const EXPIRY_LIVES: u64 = 2;
/// A measured life counts for one part in so many of the mean.
const LIFE_PARTS: u64 = 16;
/// When so many other tables were emptied since the last one of new, short-lived records, the mean is doubled: it has
/// become too small for what is written now, and nothing would ever tell.
const OTHER_COUNT_MAX: u32 = 64;

/// What is written side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// New records that will soon be dead, and all as long as nothing is known.
    NewShort,
    /// New records that will live for long.
    NewLong,
    /// Moved records that are young, or expire soon.
    MovedShort,
    /// Moved records that have lived for long.
    MovedLong,
}

impl Stream {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// All, those of new records first.
    pub const ALL: [Self; Self::COUNT] = [Self::NewShort, Self::NewLong, Self::MovedShort, Self::MovedLong];

    /// Its place in [`Stream::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The one with this place in [`Stream::ALL`]; of others nothing is known, so that they count as long-lived.
    #[must_use]
    pub fn of_index(index: u8) -> Self {
        Self::ALL.get(usize::from(index)).copied().unwrap_or(Self::NewLong)
    }

    /// Whether it takes records that were in another table.
    #[must_use]
    pub const fn is_moved(self) -> bool {
        matches!(self, Self::MovedShort | Self::MovedLong)
    }

    /// The other one of the same origin, for when this one has no table.
    #[must_use]
    pub const fn sibling(self) -> Self {
        match self {
            Self::NewShort => Self::NewLong,
            Self::NewLong => Self::NewShort,
            Self::MovedShort => Self::MovedLong,
            Self::MovedLong => Self::MovedShort,
        }
    }
}

/// A point in the life of a shard, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The version of the last write. Moving a record is none.
    pub version: u64,
    /// The second.
    pub second: Seconds,
}

impl Moment {
    /// Versions since `earlier`.
    #[must_use]
    pub const fn versions_since(self, earlier: Self) -> u64 {
        self.version.saturating_sub(earlier.version)
    }

    /// Half way between two moments.
    #[must_use]
    pub const fn middle(self, other: Self) -> Self {
        Self { version: self.version.midpoint(other.version), second: self.second.midpoint(other.second) }
    }
}

/// The `last_expiry` of a table in which nothing was written yet.
pub const EXPIRY_OF_NOTHING: Seconds = 1;

/// The later of two expiries; 0 is never.
#[must_use]
pub const fn later_expiry(a: Seconds, b: Seconds) -> Seconds {
    match (a, b) {
        (0, _) | (_, 0) => 0,
        (a, b) if a > b => a,
        (_, b) => b,
    }
}

/// What is known of a table that may be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its slot.
    pub slot: u32,
    /// Bytes in it that would have to be moved.
    pub live_size: u64,
    /// Bytes that all records ever written to it took, by the same measure as `live_size`, or its room if that is more.
    pub size: u64,
    /// When it was written, moved records too: half way between its first and its last record.
    pub written: Moment,
    /// The second in which the last of its records expires, 0 when one never does (as in a record).
    pub last_expiry: Seconds,
}

impl Candidate {
    /// Space, in bytes, times the time, in versions, for which it is won, by each byte that has to be moved; infinite
    /// when none has to, `None` when there is nothing to be won.
    #[must_use]
    pub fn worth(&self, now: Moment) -> Option<f64> {
        if self.live_size == 0 || is_expired(self.last_expiry, now.second) {
            return Some(f64::INFINITY);
        }
        if self.live_size >= self.size {
            return None;
        }
        let dead = (self.size - self.live_size) as f64 / self.size as f64;
        let dead_by_live = (self.size - self.live_size) as f64 / self.live_size as f64;
        let log_live = (-dead).ln_1p();
        let age = now.versions_since(self.written).max(1) as f64;
        // Nothing dies faster than all at once, which bounds what rounding may bring in when little is dead.
        let updates = (dead_by_live + log_live).max(0.0) / -log_live;
        let expiry = match self.last_expiry {
            0 => f64::INFINITY,
            last => {
                let second_count = now.second.saturating_sub(self.written.second).max(1);
                dead_by_live * f64::from(last - now.second) / f64::from(second_count)
            }
        };
        Some(age * updates.min(expiry))
    }
}

/// The table to be emptied next: of dead ones the oldest, otherwise the one whose emptying is worth most. `None` when
/// there is nothing to be won.
#[must_use]
pub fn choose(candidates: impl Iterator<Item = Candidate>, now: Moment) -> Option<Candidate> {
    let worthy = candidates.filter_map(|candidate| Some((candidate.worth(now)?, candidate)));
    let oldest = |candidate: &Candidate| std::cmp::Reverse((candidate.written.version, candidate.slot));
    let best = worthy.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| oldest(&a.1).cmp(&oldest(&b.1))));
    best.map(|(_, candidate)| candidate)
}

/// How long a record will live: what is measured about that, and the streams that follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Separation {
    /// Whether there are tables enough for two streams of each origin.
    is_fine: bool,
    /// Mean time from the begin of a table of new, short-lived records until it was emptied, in versions and seconds,
    /// as sums of [`LIFE_PARTS`]; `None` until there was one.
    life: Option<(u64, u64)>,
    /// Other tables that were emptied since then.
    other_count: u32,
}

impl Separation {
    /// Nothing is known yet. The shard has so many tables; with few, those that are open take more space than is won.
    #[must_use]
    pub const fn new(table_count: usize) -> Self {
        Self { is_fine: table_count >= SEPARATION_TABLE_COUNT_MIN, life: None, other_count: 0 }
    }

    /// Whether there are two streams of each kind.
    #[must_use]
    pub const fn is_fine(&self) -> bool {
        self.is_fine
    }

    /// The stream of a new record, which expires in `ttl` seconds if it does. It overwrites one that lies in a table of
    /// the stream, written at the moment, of `overwritten`.
    #[must_use]
    pub fn of_write(&self, overwritten: Option<(Stream, Moment)>, ttl: Option<Seconds>, now: Moment) -> Stream {
        let age = match overwritten {
            // When it was moved last says nothing of when it was written.
            None | Some((Stream::MovedLong, _)) => u64::MAX,
            Some((_, written)) => now.versions_since(written),
        };
        if self.is_short(age, ttl) { Stream::NewShort } else { Stream::NewLong }
    }

    /// The stream of a record that is moved. It has `version`, and expires in `ttl` seconds if it does.
    #[must_use]
    pub fn of_move(&self, version: u64, ttl: Option<Seconds>, now: Moment) -> Stream {
        let age = now.version.saturating_sub(version);
        if self.is_short(age, ttl) { Stream::MovedShort } else { Stream::MovedLong }
    }

    fn is_short(&self, age: u64, ttl: Option<Seconds>) -> bool {
        let Some((versions, seconds)) = self.life.filter(|_| self.is_fine) else { return true };
        let is_short_until = |ttl: Seconds| u64::from(ttl) < (seconds / LIFE_PARTS).saturating_mul(EXPIRY_LIVES);
        age.saturating_mul(2) < (versions / LIFE_PARTS).saturating_mul(AGE_HALVES) || ttl.is_some_and(is_short_until)
    }

    /// A table was emptied in which the first record had been written at the moment `begun`.
    pub fn emptied(&mut self, stream: Stream, begun: Moment, now: Moment) {
        let versions = now.versions_since(begun);
        let seconds = u64::from(now.second.saturating_sub(begun.second));
        match (&mut self.life, stream) {
            (life @ None, Stream::NewShort) => {
                *life = Some((versions.saturating_mul(LIFE_PARTS), seconds * LIFE_PARTS));
            }
            (Some(life), Stream::NewShort) => {
                life.0 = (life.0 - life.0 / LIFE_PARTS).saturating_add(versions);
                life.1 = (life.1 - life.1 / LIFE_PARTS).saturating_add(seconds);
                self.other_count = 0;
            }
            (Some(life), _) => {
                self.other_count += 1;
                if self.other_count >= OTHER_COUNT_MAX {
                    // Not zero, which would stay zero.
                    *life = (life.0.saturating_mul(2).max(LIFE_PARTS), life.1.saturating_mul(2).max(LIFE_PARTS));
                    self.other_count = 0;
                }
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment { version: 1_000_000, second: 10_000 };

    /// A table of 1000 bytes, of which so many are alive, written so many versions ago; a hundred are a second.
    fn table(live_size: u64, age: u64) -> Candidate {
        let written = Moment { version: NOW.version - age, second: NOW.second - (age / 100) as Seconds };
        Candidate { slot: 7, live_size, size: 1000, written, last_expiry: 0 }
    }

    fn worth(candidate: Candidate) -> f64 {
        candidate.worth(NOW).expect("something is dead")
    }

    fn chosen(tables: &[Candidate]) -> Option<usize> {
        let numbered = (0..).zip(tables).map(|(slot, table)| Candidate { slot, ..*table });
        choose(numbered, NOW).map(|chosen| chosen.slot as usize)
    }

    /// Space and writes as functions of the live part at which tables are emptied, differentiated by trying.
    #[test]
    fn worth_is_the_space_that_a_write_wins() {
        for (live, rate) in [(0.1, 0.01), (0.5, 0.01), (0.5, 0.0001), (0.8, 0.0003), (0.95, 0.001)] {
            let space = |live: f64| -live.ln() / (1.0 - live);
            let writes = |live: f64| rate / (1.0 - live);
            let step = 1e-6;
            let expected = (space(live - step) - space(live + step)) / (writes(live + step) - writes(live - step));
            let age = (-live.ln() / rate).round() as u64;
            let found = worth(table((live * 1000.0) as u64, age));
            assert!((found / expected - 1.0).abs() < 0.01, "{live} {rate}: {found}, not {expected}");
        }
    }

    #[test]
    fn emptier_and_older_tables_go_first_and_full_ones_never() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[table(1000, 900), table(1200, 999)]), None);
        assert_eq!(chosen(&[table(500, 100), table(400, 100), table(600, 100)]), Some(1));
        assert_eq!(chosen(&[table(500, 100), table(500, 300), table(500, 200)]), Some(1));
        // A cold table that is nearly full may be worth more than a hot one that will be empty soon.
        assert_eq!(chosen(&[table(300, 100), table(800, 100_000)]), Some(1));
        assert_eq!(chosen(&[table(300, 100), table(800, 110)]), Some(0));
    }

    #[test]
    fn dead_tables_go_before_all_others_and_the_oldest_of_them_first() {
        let expired = Candidate { last_expiry: NOW.second, ..table(900, 50) };
        assert_eq!(chosen(&[table(1, 100_000), table(0, 10)]), Some(1));
        assert_eq!(chosen(&[table(1, 100_000), expired]), Some(1));
        assert_eq!(chosen(&[table(0, 10), table(0, 30), expired, table(0, 20)]), Some(2));
        assert_eq!(chosen(&[table(0, 30), table(0, 30)]), Some(0), "of equal ones the first");
    }

    #[test]
    fn a_table_that_expires_soon_is_waited_for() {
        let expiring = |seconds| Candidate { last_expiry: NOW.second + seconds, ..table(500, 10_000) };
        assert_eq!(chosen(&[expiring(1), table(500, 10_000)]), Some(1));
        assert!(worth(expiring(1)) < worth(expiring(10)));
        // A second is a hundred versions here; half of the table is won for that long.
        assert!((worth(expiring(10)) - 1000.0).abs() < 1e-6, "{}", worth(expiring(10)));
        assert_eq!(worth(expiring(1_000_000)).to_bits(), worth(table(500, 10_000)).to_bits(), "too far away to matter");
        assert_eq!(chosen(&[expiring(1)]), Some(0), "there is nothing else");
    }

    #[test]
    fn extremes_are_numbers() {
        let size = 1 << 40;
        for live_size in [1, size / 2, size - 1] {
            for (version, second) in [(0, 0), (NOW.version, NOW.second), (u64::MAX, Seconds::MAX)] {
                for last_expiry in [0, NOW.second + 1, Seconds::MAX] {
                    let written = Moment { version, second };
                    let found = worth(Candidate { slot: 0, live_size, size, written, last_expiry });
                    assert!(found.is_finite() && found >= 0.0, "{live_size} {version} {last_expiry}: {found}");
                }
            }
        }
    }

    #[test]
    fn the_later_expiry_is_never_if_one_is() {
        assert_eq!(later_expiry(EXPIRY_OF_NOTHING, 5), 5);
        assert_eq!((later_expiry(5, 7), later_expiry(7, 5), later_expiry(0, 5), later_expiry(5, 0)), (7, 7, 0, 0));
    }

    fn ago(versions: u64) -> Moment {
        Moment { version: NOW.version - versions, second: NOW.second - (versions / 100) as Seconds }
    }

    /// One that has seen that tables of new records live for 1000 versions, and ten seconds.
    fn separation() -> Separation {
        let mut separation = Separation::new(SEPARATION_TABLE_COUNT_MIN);
        separation.emptied(Stream::NewShort, ago(1000), NOW);
        separation
    }

    #[test]
    fn all_is_short_lived_as_long_as_nothing_is_known_and_with_few_tables() {
        let mut few = Separation::new(SEPARATION_TABLE_COUNT_MIN - 1);
        few.emptied(Stream::NewShort, ago(1000), NOW);
        for separation in [Separation::new(SEPARATION_TABLE_COUNT_MIN), few] {
            assert_eq!(separation.of_write(None, None, NOW), Stream::NewShort);
            assert_eq!(separation.of_move(1, None, NOW), Stream::MovedShort);
        }
    }

    #[test]
    fn what_overwrites_something_young_or_expires_soon_is_short_lived() {
        let separation = separation();
        let new = |overwritten, ttl| separation.of_write(overwritten, ttl, NOW);
        for stream in [Stream::NewShort, Stream::NewLong, Stream::MovedShort] {
            assert_eq!(new(Some((stream, ago(3499))), None), Stream::NewShort);
            assert_eq!(new(Some((stream, ago(3500))), None), Stream::NewLong);
        }
        assert_eq!(new(Some((Stream::MovedLong, ago(1))), None), Stream::NewLong);
        assert_eq!((new(None, None), new(None, Some(20))), (Stream::NewLong, Stream::NewLong));
        assert_eq!(new(None, Some(19)), Stream::NewShort);
        assert_eq!(new(Some((Stream::NewShort, ago(1))), Some(Seconds::MAX)), Stream::NewShort);
    }

    #[test]
    fn what_is_moved_young_or_expires_soon_is_short_lived() {
        let separation = separation();
        assert_eq!(separation.of_move(ago(3499).version, None, NOW), Stream::MovedShort);
        assert_eq!(separation.of_move(ago(3500).version, None, NOW), Stream::MovedLong);
        assert_eq!(separation.of_move(1, Some(19), NOW), Stream::MovedShort);
        assert_eq!(separation.of_move(1, Some(20), NOW), Stream::MovedLong);
    }

    #[test]
    fn the_life_of_short_lived_tables_is_followed_up_and_down() {
        let mut separation = separation();
        let is_short =
            |separation: &Separation, age| separation.of_move(ago(age).version, None, NOW) == Stream::MovedShort;
        (0..100).for_each(|_| separation.emptied(Stream::NewShort, ago(10_000), NOW));
        assert!(is_short(&separation, 34_000) && !is_short(&separation, 36_000));
        (0..100).for_each(|_| separation.emptied(Stream::NewShort, ago(100), NOW));
        assert!(is_short(&separation, 340) && !is_short(&separation, 600));
    }

    #[test]
    fn a_life_that_is_too_short_for_all_that_is_written_grows() {
        let mut separation = separation();
        for _ in 1..OTHER_COUNT_MAX {
            separation.emptied(Stream::NewLong, ago(500_000), NOW);
        }
        assert_eq!(separation.of_move(ago(3500).version, None, NOW), Stream::MovedLong);
        separation.emptied(Stream::MovedLong, ago(500_000), NOW);
        assert_eq!(separation.of_move(ago(6999).version, None, NOW), Stream::MovedShort);
        assert_eq!(separation.of_move(ago(7000).version, None, NOW), Stream::MovedLong);
        for _ in 1..OTHER_COUNT_MAX {
            separation.emptied(Stream::NewLong, ago(500_000), NOW);
        }
        separation.emptied(Stream::NewShort, ago(2000), NOW);
        separation.emptied(Stream::NewLong, ago(500_000), NOW);
        assert_eq!(
            separation.of_move(ago(7000).version, None, NOW),
            Stream::MovedLong,
            "one of them starts the count again"
        );
    }

    #[test]
    fn streams_know_their_places() {
        for (place, stream) in (0..).zip(Stream::ALL) {
            assert_eq!(stream.index(), place);
            assert_eq!(stream.sibling().sibling(), stream);
            assert_eq!(stream.sibling().is_moved(), stream.is_moved());
            assert_ne!(stream.sibling(), stream);
        }
    }
}
