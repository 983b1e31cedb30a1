//! What the store does, and what it could do instead: other policies, and fewer streams.

use dmacached::clock::Seconds;
use dmacached::reclaim::victim::{self, Candidate, Moment, Separation, Stream};

use crate::random::Random;

/// Tables that [`Policy::Choices`] draws.
const CHOICE_COUNT: usize = 10;
/// Of all tables, the oldest part that [`Policy::Windowed`] looks at: one in so many.
const WINDOW_PARTS: usize = 4;

/// A way to choose victims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The store's.
    Store,
    /// The table with the least alive.
    Greedy,
    /// The same of the oldest ones.
    Windowed,
    /// The same of a few drawn ones.
    Choices,
    /// That of Sprite LFS: the dead part times the age by what is read and written.
    CostBenefit,
}

impl Policy {
    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Store => "the store's",
            Self::Greedy => "greedy",
            Self::Windowed => "windowed greedy",
            Self::Choices => "greedy of ten",
            Self::CostBenefit => "cost-benefit",
        }
    }

    /// The table to be emptied.
    pub(crate) fn choose(
        self,
        candidates: impl Iterator<Item = Candidate>,
        now: Moment,
        random: &mut Random,
    ) -> Option<Candidate> {
        let best = |candidates: &mut dyn Iterator<Item = Candidate>, value: &dyn Fn(&Candidate) -> f64| {
            let worthy = candidates.filter(|candidate| candidate.live_size < candidate.size);
            worthy.max_by(|a, b| value(a).total_cmp(&value(b)))
        };
        let live = |candidate: &Candidate| candidate.live_size as f64 / candidate.size as f64;
        let dead = |candidate: &Candidate| 1.0 - live(candidate);
        match self {
            Self::Store => victim::choose(candidates, now),
            Self::Greedy => best(&mut { candidates }, &dead),
            Self::CostBenefit => best(&mut { candidates }, &|candidate| {
                dead(candidate) * now.versions_since(candidate.written) as f64 / (1.0 + live(candidate))
            }),
            Self::Windowed => {
                let mut all: Vec<Candidate> = candidates.filter(|table| table.live_size < table.size).collect();
                all.sort_by_key(|candidate| candidate.written.version);
                all.truncate(all.len().div_ceil(WINDOW_PARTS));
                best(&mut all.into_iter(), &dead)
            }
            Self::Choices => {
                let all: Vec<Candidate> = candidates.filter(|table| table.live_size < table.size).collect();
                let draw = |_| all.get(random.below(all.len().max(1) as u64) as usize).copied();
                best(&mut (0..CHOICE_COUNT).filter_map(draw), &dead)
            }
        }
    }
}

/// What is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Nothing.
    One,
    /// New records and moved ones.
    NewMoved,
    /// New ones in two streams by the age of what they overwrite, and moved ones.
    NewByAge,
    /// The same, and by TTL.
    NewByAgeAndTtl,
    /// New ones, and moved ones in two streams by their age and TTL.
    MovedByAgeAndTtl,
    /// As the store does it: new ones and moved ones in two streams each.
    All,
}

impl Streams {
    /// What is kept apart, in words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "one stream",
            Self::NewMoved => "new | moved",
            Self::NewByAge => "2 new by age | moved",
            Self::NewByAgeAndTtl => "2 new by age, ttl | moved",
            Self::MovedByAgeAndTtl => "new | 2 moved by age, ttl",
            Self::All => "2 new | 2 moved (the store's)",
        }
    }

    /// The stream of a new record.
    pub(crate) fn of_write(
        self,
        separation: &Separation,
        overwritten: Option<(Stream, Moment)>,
        ttl: Option<Seconds>,
        now: Moment,
    ) -> Stream {
        match self {
            Self::One | Self::NewMoved | Self::MovedByAgeAndTtl => Stream::NewShort,
            Self::NewByAge => separation.of_write(overwritten, None, now),
            Self::NewByAgeAndTtl | Self::All => separation.of_write(overwritten, ttl, now),
        }
    }

    /// The stream of a moved record.
    pub(crate) fn of_move(self, separation: &Separation, version: u64, ttl: Option<Seconds>, now: Moment) -> Stream {
        match self {
            Self::One => Stream::NewShort,
            // Not the long one: of what is in that, the age is not known.
            Self::NewMoved | Self::NewByAge | Self::NewByAgeAndTtl => Stream::MovedShort,
            Self::MovedByAgeAndTtl | Self::All => separation.of_move(version, ttl, now),
        }
    }
}

/// One way to run a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    /// How victims are chosen.
    pub(crate) policy: Policy,
    /// What is kept apart.
    pub(crate) streams: Streams,
}

impl Variant {
    /// What the store does.
    pub(crate) const STORE: Self = Self { policy: Policy::Store, streams: Streams::All };

    /// What it could do instead, one thing changed each.
    pub(crate) fn others() -> Vec<Self> {
        let streams =
            [Streams::One, Streams::NewMoved, Streams::NewByAge, Streams::NewByAgeAndTtl, Streams::MovedByAgeAndTtl];
        let policies = [Policy::Greedy, Policy::Windowed, Policy::Choices, Policy::CostBenefit];
        let by_streams = streams.map(|streams| Self { streams, ..Self::STORE });
        let by_policy = policies.map(|policy| Self { policy, ..Self::STORE });
        by_streams.into_iter().chain(by_policy).collect()
    }
}
