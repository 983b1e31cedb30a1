//! What happens under a seed: which store, what its clients ask for, what goes wrong, and when it is stopped. Plain data:
//! it is printed, run again, and shortened.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use dmacached::io::sim::{Fault, FaultKind, Sector, SimOptions};
use dmacached::store::{Durability, StoreOptions};

use crate::random::Random;

/// Where the store lives in its world.
pub(crate) const DIRECTORY: &str = "/data";
const KIB: u64 = 1 << 10;

/// How a store's lives end, and what else goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Power cuts: what no sync has covered is there or not, sector by sector.
    Power,
    /// The process dies: what was written is there.
    Kill,
    /// Both, and the disk fails or lies.
    Faults,
    /// As power, and a page that was being written at the cut may have parts that are neither old nor new.
    Garbage,
    /// Bits of the files of a stopped store are changed.
    Flips,
    /// As all, of stores that are so full that live records are moved all the time.
    Reclaim,
    /// Power, kill and faults, most seeds with power cuts; half of the stores are full.
    All,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// When it is in memory.
    Memory,
    /// When it is on stable media.
    Sync,
}

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Set {
        key: u8,
        size: u16,
        ttl: u8,
        own_cas: bool,
    },
    Add {
        key: u8,
        size: u16,
    },
    Replace {
        key: u8,
        size: u16,
        ttl: u8,
    },
    /// An update of the record that is there, if its version is the one that this client saw last.
    Cas {
        key: u8,
        size: u16,
    },
    /// An update of whatever is there, and nothing when nothing is there.
    Update {
        key: u8,
        size: u16,
    },
    Delete {
        key: u8,
    },
    Touch {
        key: u8,
        ttl: u8,
    },
    Get {
        key: u8,
    },
    FlushAll,
    FlushLater {
        seconds: u8,
    },
    /// Waits until all is on stable media.
    Sync,
    /// So that the next gets read the disk.
    Forget,
    Sleep {
        millis: u16,
    },
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Kill,
    Power,
}

/// A start of the store that does not get far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) transfers: u64,
    pub(crate) end: End,
}

/// From a start of the store to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Starts that were cut off before the one that got through.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) clients: Vec<Vec<Op>>,
    pub(crate) faults: Vec<Fault>,
    /// Transfers until the end, if it comes before the clients are done.
    pub(crate) cut_after: Option<u64>,
    pub(crate) end: End,
    /// Seconds until the next start.
    pub(crate) pause: u8,
    /// Whether a second recovery right after the first is compared with it.
    pub(crate) twice: bool,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) table_size: u64,
    pub(crate) table_count: u64,
    pub(crate) memory: usize,
    pub(crate) evict: bool,
    pub(crate) level: Level,
    pub(crate) flush_interval: Duration,
    pub(crate) sector: Sector,
    pub(crate) slow_period: u64,
    pub(crate) key_count: u8,
    /// Whether the keys together take so much of the store that it cannot go on without moving what is live.
    pub(crate) is_full: bool,
    pub(crate) lives: Vec<Life>,
}

/// Most keys.
const KEY_COUNT_MAX: u8 = 250;
/// Largest key and value.
const ITEM_SIZE_MAX: usize = 8 << 10;

impl Plan {
    pub(crate) fn options(&self) -> StoreOptions {
        StoreOptions {
            directory: PathBuf::from(DIRECTORY),
            capacity: self.table_size * self.table_count,
            table_size: Some(self.table_size),
            memory: self.memory,
            item_size_max: ITEM_SIZE_MAX,
            evict: self.evict,
            flush_interval: self.flush_interval,
            durability: match self.level {
                Level::Memory => Durability::Memory,
                Level::Sync => Durability::Sync,
            },
        }
    }

    pub(crate) fn world(&self) -> SimOptions {
        SimOptions { capacity: 1 << 30, sector: self.sector, is_shuffled: true, slow_period: self.slow_period }
    }

    pub(crate) fn op_count(&self) -> usize {
        self.lives.iter().flat_map(|life| &life.clients).map(Vec::len).sum()
    }

    pub(crate) fn fault_count(&self) -> usize {
        self.lives.iter().map(|life| life.faults.len()).sum()
    }

    /// Whether all faults are such that the device says so, or gets nothing wrong.
    pub(crate) fn is_honest(&self) -> bool {
        self.lives.iter().flat_map(|life| &life.faults).all(|fault| fault.kind.is_honest())
    }

    /// What happens under `seed`.
    pub(crate) fn new(seed: u64, mode: Mode) -> Self {
        let random = &mut Random::new(seed);
        let ends = [Mode::Power, Mode::Power, Mode::Power, Mode::Kill, Mode::Faults];
        let (mode, is_full) = match mode {
            Mode::All => (random.pick(&ends), random.one_in(2)),
            Mode::Reclaim => (random.pick(&ends), true),
            mode => (mode, random.one_in(3)),
        };
        let sizes: &[u64] = if is_full { &[64, 64, 128] } else { &[64, 64, 64, 128, 256] };
        let table_size = random.pick(sizes) * KIB;
        let table_count = if is_full { random.between(8, 24) } else { random.between(4, 9) };
        let habits = if is_full { Habits::of_full(random, table_size * table_count) } else { Habits::new(random) };
        let mut plan = Self {
            seed,
            mode,
            table_size,
            table_count,
            memory: 4 << 20,
            evict: random.one_in(2),
            level: random.pick(&[Level::Memory, Level::Memory, Level::Sync]),
            flush_interval: Duration::from_millis(random.pick(&[10, 100, 1000, 5000, 100_000])),
            sector: if mode == Mode::Garbage { Sector::Garbage } else { random.pick(&[Sector::Small, Sector::Page]) },
            slow_period: random.pick(&[0, 0, 20]),
            key_count: habits.key_count,
            is_full,
            lives: Vec::new(),
        };
        let lying = mode == Mode::Faults && random.one_in(2);
        for number in 0..random.between(1, 4) {
            let mut life = life(random, &habits, mode);
            if is_full && number == 0 {
                let fill = (0..habits.key_count).map(|key| habits.set(random, key));
                let fill: Vec<_> = fill.collect();
                life.clients[0].splice(0..0, fill);
            }
            if mode == Mode::Faults {
                life.faults = faults(random, lying);
            }
            plan.lives.push(life);
        }
        plan
    }
}

/// What the clients of a plan like to do.
struct Habits {
    key_count: u8,
    size_max: u16,
    op_count_max: u64,
    /// Of transfers until a life is cut off.
    cuts: [u64; 3],
    deletes: bool,
    expires: bool,
    flushes: bool,
    syncs: u64,
    gets: u64,
}

impl Habits {
    fn new(random: &mut Random) -> Self {
        Self {
            key_count: random.pick(&[2, 5, 12, 30, 60]),
            size_max: random.pick(&[100, 1500, 5000, 8000]),
            op_count_max: random.pick(&[20, 80, 300, 300, 700]),
            cuts: [20, 150, 600],
            deletes: random.one_in(2),
            expires: random.one_in(2),
            flushes: random.one_in(3),
            syncs: random.pick(&[5, 20, 60, 1000]),
            gets: random.pick(&[2, 4, 20]),
        }
    }

    /// Keys that together take 50 to 95 % of a store of `capacity` bytes.
    fn of_full(random: &mut Random, capacity: u64) -> Self {
        // A fifth of each table is its header, its footer, and what is lost at the end of blocks.
        let used = capacity * 4 / 5 * random.between(50, 95) / 100;
        let least = used * 10 / 4 / u64::from(KEY_COUNT_MAX);
        let size_max = random.pick(&[1000, 3000, 8000]).max(least).min(8000);
        // `size` comes to about four tenths of the most.
        let key_count = (used / (size_max * 4 / 10 + 60)).clamp(20, KEY_COUNT_MAX.into());
        Self {
            key_count: key_count as u8,
            size_max: size_max as u16,
            op_count_max: random.pick(&[300, 1000, 2500]),
            cuts: [100, 600, 3000],
            flushes: random.one_in(5),
            ..Self::new(random)
        }
    }

    /// A few of the keys are written rarely: they keep old tables alive.
    fn key(&self, random: &mut Random) -> u8 {
        let cold = self.key_count / 4;
        if cold > 0 && random.one_in(40) {
            return random.below(cold.into()) as u8;
        }
        cold + random.below(u64::from(self.key_count - cold)) as u8
    }

    fn size(&self, random: &mut Random) -> u16 {
        let size_max = if random.one_in(4) { self.size_max / 8 } else { self.size_max };
        random.below(u64::from(size_max)) as u16
    }

    fn ttl(&self, random: &mut Random) -> u8 {
        if self.expires && random.one_in(3) { random.between(1, 12) as u8 } else { 0 }
    }

    fn set(&self, random: &mut Random, key: u8) -> Op {
        Op::Set { key, size: self.size(random), ttl: self.ttl(random), own_cas: random.one_in(20) }
    }

    fn op(&self, random: &mut Random) -> Op {
        let key = self.key(random);
        if random.one_in(self.gets) {
            return Op::Get { key };
        }
        if random.one_in(self.syncs) {
            return Op::Sync;
        }
        let (size, ttl) = (self.size(random), self.ttl(random));
        match random.below(40) {
            0..=2 => Op::Add { key, size },
            3..=5 => Op::Replace { key, size, ttl },
            6..=8 => Op::Cas { key, size },
            9..=10 => Op::Update { key, size },
            11..=15 if self.deletes => Op::Delete { key },
            16..=18 if self.expires => Op::Touch { key, ttl: self.ttl(random) },
            19 if self.flushes && random.one_in(4) => Op::FlushAll,
            20 if self.flushes && random.one_in(3) => Op::FlushLater { seconds: random.between(1, 20) as u8 },
            21 if random.one_in(2) => Op::Sleep { millis: random.pick(&[1, 30, 300, 2000, 9000]) },
            22 if random.one_in(3) => Op::Forget,
            _ => Op::Set { key, size, ttl, own_cas: random.one_in(20) },
        }
    }
}

fn life(random: &mut Random, habits: &Habits, mode: Mode) -> Life {
    let cut = match mode {
        Mode::Kill => End::Kill,
        Mode::Power | Mode::Garbage => End::Power,
        _ => random.pick(&[End::Kill, End::Power]),
    };
    let mut attempts = Vec::new();
    while random.one_in(3) && attempts.len() < 3 {
        let last = random.pick(&[3, 12, 40]);
        attempts.push(Attempt { transfers: random.between(1, last), end: cut });
    }
    let client_count = random.pick(&[1, 1, 2, 4]);
    let op_count = random.between(1, habits.op_count_max);
    let ops = |random: &mut Random| (0..op_count / client_count + 1).map(|_| habits.op(random)).collect();
    let clients = (0..client_count).map(|_| ops(random)).collect();
    let last = random.pick(&habits.cuts);
    let cut_after = (!random.one_in(4)).then(|| random.between(1, last));
    let end = if random.one_in(5) { End::Close } else { cut };
    let pause = if habits.expires || habits.flushes { random.pick(&[0, 0, 1, 5, 20]) } else { 0 };
    Life { attempts, clients, faults: Vec::new(), cut_after, end, pause, twice: random.one_in(3) }
}

/// Faults of one life: those of a device that fails and says so, or of one that lies too.
fn faults(random: &mut Random, lying: bool) -> Vec<Fault> {
    let fault = |random: &mut Random| {
        let last = random.pick(&[20, 200]);
        let (after, number) = (random.between(1, last), random.next());
        let pages = random.between(1, 7) as u32;
        let kind = match random.below(if lying { 13 } else { 6 }) {
            0 => FaultKind::ReadError,
            1 => FaultKind::WriteError,
            2 => FaultKind::SyncError,
            3 => FaultKind::NoSpace,
            4 | 5 => FaultKind::Stall(Duration::from_millis(number % 4000)),
            6 => FaultKind::LostWrite,
            7 => FaultKind::MisdirectedWrite(pages),
            8 => FaultKind::ForeignWrite,
            9 => FaultKind::MisdirectedRead(pages),
            10 => FaultKind::StaleRead,
            11 => FaultKind::Rot(number),
            _ => FaultKind::BadPage(number),
        };
        Fault { after, kind }
    };
    (0..random.between(0, 4)).map(|_| fault(random)).collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "seed {}: {:?}{}, {:?}, {} tables of {} KiB, {}, flush interval {:?}, sectors {:?}, {} keys",
            self.seed,
            self.mode,
            if self.is_full { ", full" } else { "" },
            self.level,
            self.table_count,
            self.table_size / KIB,
            if self.evict { "evicting" } else { "not evicting" },
            self.flush_interval,
            self.sector,
            self.key_count
        )?;
        for (number, life) in self.lives.iter().enumerate() {
            writeln!(formatter, "  life {number}")?;
            for Attempt { transfers, end } in &life.attempts {
                writeln!(formatter, "    a start that ends after {transfers} transfers: {end:?}")?;
            }
            for fault in &life.faults {
                writeln!(formatter, "    {fault}")?;
            }
            for (number, ops) in life.clients.iter().enumerate() {
                for op in ops {
                    writeln!(formatter, "    client {number}: {op:?}")?;
                }
            }
            let when =
                life.cut_after.map_or_else(|| "when all is done".into(), |count| format!("after {count} transfers"));
            writeln!(formatter, "    {:?} {when}, {} s until the next start", life.end, life.pause)?;
        }
        Ok(())
    }
}
