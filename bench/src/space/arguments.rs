//! The command lines of `churn`, `fill`, `tail` and `day`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::seed;
use crate::parse::{self, CpuList, Target};
use crate::workload::Values;

/// What `churn` and `tail` take.
#[derive(Debug, Clone, Args)]
pub(crate) struct SpaceArguments {
    /// What every key begins with; ten digits follow
    #[arg(long, value_name = "TEXT", default_value = "key:", value_parser = parse::key_prefix)]
    pub(crate) key_prefix: String,
    /// Size of values in bytes, at least 16; of a range, each key has its own size
    #[arg(long, value_name = "A[-B]", default_value = "1000", value_parser = parse::stamped_value_sizes)]
    pub(crate) value_size: Values,
    /// Share of the capacity that live records take, with their summaries
    #[arg(long, value_name = "SHARE", default_value = "0.8", value_parser = parse::share)]
    pub(crate) fill: f64,
    /// Connections that write, each with keys of its own
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) writers: u32,
    /// Sets in flight per connection
    #[arg(long, value_name = "P", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) write_pipeline: u32,
    /// Connections that get
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) readers: u32,
    /// Pin the client's threads to these CPUs, such as 1 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = parse::cpu_list)]
    pub(crate) cpu: Option<CpuList>,
    /// Where the random streams begin; printed with the results [default: from the clock]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// `dmabench churn`.
#[derive(Debug, Args)]
pub(crate) struct ChurnArguments {
    /// A running server that holds nothing, NAME=HOST:PORT,PID or NAME=unix:PATH,PID
    #[arg(long, value_name = "TARGET", value_parser = parse::target)]
    pub(crate) target: Target,
    /// Which keys are written
    #[arg(long, value_enum, default_value_t = Updates::Uniform)]
    pub(crate) updates: Updates,
    /// Keys and values that are written in all, in capacities
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// Rounds at the beginning that are left out of the sum
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) settle: u32,
    /// Sets per second; 0 is as fast as the server stores them
    #[arg(long, value_name = "R", default_value = "0", value_parser = clap::value_parser!(u32))]
    pub(crate) write_rate: u32,
    /// Gets per second beside the writes, at even times; 0 is none
    #[arg(long, value_name = "R", default_value = "2000", value_parser = clap::value_parser!(u32))]
    pub(crate) get_rate: u32,
    /// With `--updates ttl`: how long 90 % of the values live; 9 % live ten times, 1 % a hundred times as long
    #[arg(long, value_name = "S", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) ttl_seconds: u64,
    /// Where the server keeps its files: what is written to that device is counted as well
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// What both take
    #[command(flatten)]
    pub(crate) common: SpaceArguments,
}

/// Which keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Updates {
    /// Each key is equally likely.
    Uniform,
    /// Nine of ten writes are for a tenth of the keys.
    #[value(name = "90-10")]
    Hot,
    /// Each key is written once, with a time to live, at the rate that keeps the disk as full as was asked for.
    Ttl,
}

/// `dmabench fill`.
#[derive(Debug, Args)]
pub(crate) struct FillArguments {
    /// A running server that holds nothing, NAME=HOST:PORT,PID or NAME=unix:PATH,PID
    #[arg(long, value_name = "TARGET", value_parser = parse::target)]
    pub(crate) target: Target,
    /// Size of values in bytes; of a range, each key has its own size
    #[arg(long, value_name = "A[-B]", default_value = "1000", value_parser = parse::value_sizes)]
    pub(crate) value_size: Values,
    /// What every key begins with; ten digits follow
    #[arg(long, value_name = "TEXT", default_value = "key:", value_parser = parse::key_prefix)]
    pub(crate) key_prefix: String,
    /// What shares are told of, in bytes [default: what the server says]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) capacity: Option<u64>,
}

/// `dmabench tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    /// A running server that holds nothing, NAME=HOST:PORT,PID or NAME=unix:PATH,PID
    #[arg(long, value_name = "TARGET", value_parser = parse::target)]
    pub(crate) target: Target,
    /// Another one, with so much capacity that it need not take anything back during the run
    #[arg(long, value_name = "TARGET", value_parser = parse::target)]
    pub(crate) roomy: Option<Target>,
    /// Sets per second while there are any
    #[arg(long, value_name = "R", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) write_rate: u32,
    /// Gets per second, as a share of the most that the server answers beside those sets
    #[arg(long, value_name = "SHARE", default_value = "0.7", value_parser = parse::share)]
    pub(crate) load: f64,
    /// Gets in flight per connection, at most
    #[arg(long, value_name = "P", default_value = "64", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) get_pipeline: u32,
    /// Gets in flight per connection while the most is measured
    #[arg(long, value_name = "P", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) max_pipeline: u32,
    /// Length of each run
    #[arg(long, value_name = "S", default_value = "5", value_parser = parse::seconds_above_zero)]
    pub(crate) seconds: Duration,
    /// How often each is run, in turn; medians are printed
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// What both take
    #[command(flatten)]
    pub(crate) common: SpaceArguments,
}

/// `dmabench day`.
#[derive(Debug, Args)]
pub(crate) struct DayArguments {
    /// A running server that holds nothing, NAME=HOST:PORT,PID or NAME=unix:PATH,PID
    #[arg(long, value_name = "TARGET", value_parser = parse::target)]
    pub(crate) target: Target,
    /// Seconds that an hour of the day takes
    #[arg(long, value_name = "S", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) hour_seconds: u64,
    /// Keys that are written in the day and stay; as many again are written with a time to live
    #[arg(long, value_name = "N", default_value = "1m", value_parser = parse::index_key_count)]
    pub(crate) keys: u32,
    /// Size of values in bytes, at least 16; of a range, each key has its own size
    #[arg(long, value_name = "A[-B]", default_value = "100-3000", value_parser = parse::stamped_value_sizes)]
    pub(crate) value_size: Values,
    /// Gets per second in the busiest hour
    #[arg(long, value_name = "R", default_value = "20000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peak: u32,
    /// Pin the client's threads to these CPUs, such as 1 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = parse::cpu_list)]
    pub(crate) cpu: Option<CpuList>,
    /// Where the random streams begin; printed with the results [default: from the clock]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl SpaceArguments {
    /// The seed asked for, or one made from the clock.
    pub(crate) fn seed(&self) -> u64 {
        seed(self.seed)
    }
}
