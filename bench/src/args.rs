//! The command line.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::connection::Address;
use crate::index::{Kind, Part};
use crate::load::{Length, Plan};
use crate::parse::{self, CpuList, Shape, Target};
use crate::random::mix;
use crate::space::arguments::{ChurnArguments, DayArguments, FillArguments, TailArguments};
use crate::workload::{KEY_DIGITS, KeyOrder, Keys, Values, Workload};

/// Load generator and comparisons for servers that speak memcached's text protocol, and benchmarks of dmacached's index.
#[derive(Debug, Parser)]
#[command(name = "dmabench", version)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one load against one server
    Load(LoadArguments),
    /// Run the same loads against several running servers in turn, and print the medians side by side
    Compare(CompareArguments),
    /// Measure dmacached's index next to other maps, without a server
    Index(IndexArguments),
    /// Simulate how much a full store writes for what it is given, without a disk
    Amplification(AmplificationArguments),
    /// Measure what dmacached's hot cache misses, next to other policies, without a server
    Cache(CacheArguments),
    /// Measure how long a store takes to open, next to reading the same bytes, without a server
    Recovery(RecoveryArguments),
    /// Overwrite the keys of a server whose disk is nearly full: write amplification, reads, memory
    Churn(ChurnArguments),
    /// Set fresh keys until the first one is refused or evicts another: how much fits
    Fill(FillArguments),
    /// Latencies of gets from disk without writes, and while a server takes back the room of what is overwritten
    Tail(TailArguments),
    /// Let a day pass in minutes, and see what memory the server takes in each hour of it
    Day(DayArguments),
}

/// The seed asked for, or one made from the clock.
pub(crate) fn seed(asked: Option<u64>) -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    // Short enough to be copied by hand.
    asked.unwrap_or_else(|| mix(clock()) >> 32)
}

/// What `amplification` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct AmplificationArguments {
    /// Live bytes by all bytes of the tables, in percent
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "70,80,85,90",
          value_parser = clap::value_parser!(u32).range(10..=97))]
    pub(crate) utilisation: Vec<u32>,
    /// That at which other policies and fewer streams are simulated too
    #[arg(long, value_name = "PERCENT", default_value = "80", value_parser = clap::value_parser!(u32).range(10..=97))]
    pub(crate) compare_at: u32,
    /// Tables of the store
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(32..=8192))]
    pub(crate) tables: u32,
    /// Records that a table takes
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(64..=65536))]
    pub(crate) records: u32,
    /// Free tables that only moved records may take
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) reserve: u32,
    /// Where the random numbers begin
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// Draw write amplification over utilisation
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write all rows
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// What `cache` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct CacheArguments {
    /// Number of keys, without those of scans
    #[arg(long, value_name = "N", default_value = "500k", value_parser = parse::index_key_count)]
    pub(crate) keys: u32,
    /// Number of requests
    #[arg(long, value_name = "N", default_value = "5m", value_parser = parse::index_key_count)]
    pub(crate) requests: u32,
    /// Size of values in bytes
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub(crate) value_size: usize,
    /// Where the random stream begins
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
}

/// What `recovery` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecoveryArguments {
    /// Where the store is made, in a directory of its own that is removed at the end; its file system is what is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Number of keys
    #[arg(long, value_name = "N", default_value = "10m", value_parser = parse::index_key_count)]
    pub(crate) keys: u32,
    /// Size of values in bytes
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub(crate) value_size: usize,
    /// How often each key is written: all versions but the last are dead
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) versions: u32,
    /// Starts of each kind
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
}

/// What both subcommands take.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArguments {
    /// Number of keys
    #[arg(long, value_name = "N", default_value = "100000", value_parser = key_counts())]
    pub(crate) keys: u64,
    /// What every key begins with; ten digits follow
    #[arg(long, value_name = "TEXT", default_value = "key:", value_parser = parse::key_prefix)]
    pub(crate) key_prefix: String,
    /// Size of values in bytes; of a range, each key has its own size
    #[arg(long, value_name = "A[-B]", default_value = "100", value_parser = parse::value_sizes)]
    pub(crate) value_size: Values,
    /// Order in which keys are asked for
    #[arg(long, value_enum, default_value_t = KeyOrder::Uniform)]
    pub(crate) key_order: KeyOrder,
    /// Exponent of the zipf order
    #[arg(long, value_name = "X", default_value = "0.99", value_parser = parse::exponent)]
    pub(crate) zipf_exponent: f64,
    /// Keys in one get
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) multiget: u32,
    /// Send again only when all answers of a connection are there, instead of after each
    #[arg(long)]
    pub(crate) burst: bool,
    /// Open loop: this many requests per second, due at even times whatever the server does [default: closed loop]
    #[arg(long, value_name = "R", value_parser = parse::rate, conflicts_with = "burst")]
    pub(crate) rate: Option<f64>,
    /// Check each value byte by byte; the values must come from this program with the same keys and sizes
    #[arg(long)]
    pub(crate) verify: bool,
    /// Client threads; no more are used than there are connections
    #[arg(long, value_name = "T", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) threads: u32,
    /// Pin the client's threads to these CPUs, such as 1 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = parse::cpu_list)]
    pub(crate) cpu: Option<CpuList>,
    /// Seconds of the same load before the measured part
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = parse::seconds)]
    pub(crate) warmup: Duration,
    /// Give up when nothing is answered for this many seconds
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse::seconds_above_zero)]
    pub(crate) timeout: Duration,
    /// Where the random streams begin; printed with the results [default: from the clock]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print JSON, one object per run
    #[arg(long)]
    pub(crate) json: bool,
}

/// `dmabench load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Server to connect to
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11211", value_parser = parse::host_port)]
    server: String,
    /// Unix socket to connect to instead
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    unix: Option<PathBuf>,
    /// Process of the server, if it is on this machine: its CPU time and context switches are reported
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Connections over all threads
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    connections: u32,
    /// Requests in flight per connection
    #[arg(long, value_name = "P", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pipeline: u32,
    /// Length of the measured part
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse::seconds_above_zero)]
    seconds: Duration,
    /// Send this many requests instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Share of requests that are gets, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.9", value_parser = parse::share)]
    get_ratio: f64,
    /// The same as two numbers, such as 10:1
    #[arg(long, value_name = "GET:SET", conflicts_with = "get_ratio", value_parser = parse::ratio)]
    ratio: Option<f64>,
    /// Set every key once before, and fail unless each is stored
    #[arg(long)]
    fill: bool,
    /// What both subcommands take
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// `dmabench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// A running server, NAME=HOST:PORT,PID or NAME=unix:PATH,PID; give it at least twice, the first is the baseline
    #[arg(long = "target", value_name = "TARGET", required = true, value_parser = parse::target)]
    pub(crate) targets: Vec<Target>,
    /// How often each load is run against each server; medians are printed
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Loads: CONNECTIONSxPIPELINE, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1x1,32x1,128x1,32x32",
          value_parser = parse::shape)]
    pub(crate) loads: Vec<Shape>,
    /// Length of each run
    #[arg(long, value_name = "S", default_value = "3", value_parser = parse::seconds_above_zero)]
    pub(crate) seconds: Duration,
    /// What both subcommands take
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// `dmabench index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArguments {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) mode: IndexMode,
}

/// The subcommands of `dmabench index`.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexMode {
    /// Memory per key, and the longest insert, while keys come in
    Grow(GrowArguments),
    /// CPU time of each operation
    Speed(SpeedArguments),
    /// One contender in a process of its own
    #[command(hide = true)]
    Child(ChildArguments),
}

/// What both subcommands of `dmabench index` take.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContenderArguments {
    /// Number of keys, such as 400k or 50m (millions)
    #[arg(long, value_name = "N", default_value = "50m", value_parser = parse::index_key_count)]
    pub(crate) keys: u32,
    /// What to measure; may be given several times [default: all]
    #[arg(long = "contender", value_name = "NAME", value_enum)]
    contenders: Vec<Kind>,
}

/// `dmabench index grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArguments {
    /// What both subcommands take
    #[command(flatten)]
    pub(crate) common: ContenderArguments,
    /// How often each contender grows; an insert is called long when it was so every time
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) passes: u32,
    /// Draw memory per key over the number of keys
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write the samples
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// `dmabench index speed`.
#[derive(Debug, Args)]
pub(crate) struct SpeedArguments {
    /// What both subcommands take
    #[command(flatten)]
    pub(crate) common: ContenderArguments,
    /// Digests that cost next to nothing, so that operations overlap, instead of SHA-1 as in a store
    #[arg(long)]
    pub(crate) overlapping: bool,
    /// How often each contender is measured; medians are printed
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
}

/// `dmabench index child`.
#[derive(Debug, Args)]
pub(crate) struct ChildArguments {
    /// The child's part
    #[arg(value_enum)]
    pub(crate) part: Part,
    /// The contender
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// Number of keys
    pub(crate) keys: u32,
    /// Where the random order begins
    pub(crate) seed: u64,
}

impl ContenderArguments {
    /// The contenders that were asked for, each once.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let is_wanted = |kind: &Kind| self.contenders.is_empty() || self.contenders.contains(kind);
        Kind::value_variants().iter().copied().filter(is_wanted).collect()
    }
}

/// Keys end in ten digits.
fn key_counts() -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(1..=10u64.pow(KEY_DIGITS as u32))
}

impl CommonArguments {
    /// The seed asked for, or one made from the clock.
    pub(crate) fn seed(&self) -> u64 {
        seed(self.seed)
    }

    /// A plan with what both subcommands have in common; gets only.
    pub(crate) fn plan(&self, address: Address, shape: Shape, length: Length, seed: u64) -> Plan {
        Plan {
            address,
            server_pid: None,
            connection_count: u64::from(shape.connection_count),
            pipeline: shape.pipeline as usize,
            burst: self.burst,
            length,
            warmup: self.warmup,
            rate: self.rate,
            thread_count: self.threads.min(shape.connection_count) as usize,
            cpus: self.cpu.clone().unwrap_or_default().0,
            timeout: self.timeout,
            fill: false,
            workload: Workload {
                keys: Keys { prefix: self.key_prefix.clone(), count: self.keys },
                values: self.value_size,
                get_share: 1.0,
                multiget_count: self.multiget,
                order: self.key_order,
                zipf_exponent: self.zipf_exponent,
                seed,
                verify: self.verify,
                ledger: None,
            },
        }
    }
}

impl LoadArguments {
    /// Whether JSON was asked for.
    pub(crate) fn json(&self) -> bool {
        self.common.json
    }

    /// The load that was asked for.
    pub(crate) fn plan(&self) -> Plan {
        let address = match &self.unix {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp(self.server.clone()),
        };
        let shape = Shape { connection_count: self.connections, pipeline: self.pipeline };
        let length = self.requests.map_or(Length::Time(self.seconds), Length::Requests);
        let mut plan = self.common.plan(address, shape, length, self.common.seed());
        plan.server_pid = self.server_pid;
        plan.fill = self.fill;
        plan.workload.get_share = self.ratio.unwrap_or(self.get_ratio);
        plan
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn load(line: &str) -> Result<Plan, String> {
        let words = ["dmabench", "load"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Load(arguments) => Ok(arguments.plan()),
            _ => Err("another subcommand".to_owned()),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_a_closed_loop_of_mostly_gets() {
        let plan = load("").expect("no argument is required");
        assert_eq!(plan.address, Address::Tcp("127.0.0.1:11211".to_owned()));
        assert_eq!((plan.connection_count, plan.pipeline, plan.rate), (32, 1, None));
        assert_eq!(plan.length, Length::Time(Duration::from_secs(10)));
        assert_eq!(plan.workload.get_share, 0.9);
        assert!(!plan.fill && !plan.workload.verify);
    }

    #[test]
    fn every_argument_reaches_the_plan() {
        let plan = load(
            "--unix /tmp/s --connections 8 --pipeline 4 --requests 1000 --keys 50 --value-size 10-20 --ratio 3:1 \
             --multiget 5 --key-order zipf --threads 16 --cpu 1 --server-pid 9 --fill --verify --warmup 0 --rate 100 \
             --seed 4 --key-prefix x --timeout 2",
        )
        .expect("valid");
        assert_eq!(plan.address, Address::Unix(PathBuf::from("/tmp/s")));
        assert_eq!((plan.connection_count, plan.pipeline, plan.thread_count), (8, 4, 8));
        assert_eq!((plan.length, plan.rate), (Length::Requests(1_000), Some(100.0)));
        assert_eq!((plan.server_pid, plan.cpus.as_slice()), (Some(9), &[1][..]));
        assert_eq!((plan.warmup, plan.timeout), (Duration::ZERO, Duration::from_secs(2)));
        let workload = plan.workload;
        assert_eq!((workload.keys.count, workload.keys.prefix.as_str()), (50, "x"));
        assert_eq!((workload.values.size_min, workload.values.size_max), (10, 20));
        assert_eq!((workload.get_share, workload.multiget_count, workload.seed), (0.75, 5, 4));
        assert_eq!(workload.order, KeyOrder::Zipf);
        assert!(plan.fill && workload.verify);
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for line in [
            "--server 127.0.0.1:1 --unix /tmp/s",
            "--seconds 1 --requests 5",
            "--get-ratio 0.5 --ratio 1:1",
            "--connections 0",
            "--pipeline 0",
            "--keys 0",
            "--keys 10000000001",
            "--requests 0",
            "--server nowhere",
            "--rate 5 --burst",
            "--key-order random",
        ] {
            assert!(load(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_comparison_takes_targets_and_loads() {
        let line = "dmabench compare --target a=127.0.0.1:1,5 --target b=127.0.0.1:2,6 --loads 32x1,8x4 --rounds 3";
        let arguments = Arguments::try_parse_from(line.split_whitespace()).expect("valid");
        let Command::Compare(compare) = arguments.command else {
            panic!("a comparison");
        };
        assert_eq!((compare.targets.len(), compare.rounds), (2, 3));
        assert_eq!(compare.loads[1], Shape { connection_count: 8, pipeline: 4 });
    }
    fn grow(line: &str) -> Result<GrowArguments, String> {
        let words = ["dmabench", "index", "grow"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Index(IndexArguments { mode: IndexMode::Grow(arguments) }) => Ok(arguments),
            _ => Err("another subcommand".to_owned()),
        }
    }

    #[test]
    fn contenders_are_all_or_those_named() {
        let arguments = grow("").expect("no argument is required");
        assert_eq!((arguments.common.keys, arguments.common.kinds().as_slice()), (50_000_000, Kind::value_variants()));
        let arguments = grow("--keys 400k --contender btree --contender full --contender btree").expect("valid");
        assert_eq!((arguments.common.keys, arguments.common.kinds()), (400_000, vec![Kind::Full, Kind::Btree]));
        assert!(grow("--contender nothing").is_err() && grow("--keys 10").is_err());
    }
}
