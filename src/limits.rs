//! Every bound of the system in one place, with the relations between them asserted at compile time.
//!
//! Units are in the names: `_SIZE` and `_BYTES` count bytes, `_COUNT` counts things, `_SECONDS` is what it says.

use std::time::Duration;

/// Bytes in a KiB.
pub const KIB: usize = 1 << 10;
/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;
/// Bytes in a GiB.
pub const GIB: usize = 1 << 30;

/// The alignment of everything on disk: offsets, lengths and memory of each O_DIRECT transfer. Devices with larger
/// logical blocks are refused at start; smaller ones are served at this size, which is also the page of most flash.
pub const PAGE_SIZE: usize = 4 * KIB;

/// Records start at multiples of this many bytes, so that a pointer needs four bits less.
pub const RECORD_GRANULE: usize = 16;

/// Longest key, in bytes: memcached's `KEY_MAX_LENGTH`.
pub const KEY_SIZE_MAX: usize = 250;

/// Most flags of a meta command (memcached: 20 tokens with the command, its key and what ends them).
pub const META_TOKEN_COUNT_MAX: usize = 17;
/// Longest opaque token of a meta command, with its letter (memcached's `MFLAG_MAX_OPAQUE_LENGTH`).
pub const META_OPAQUE_SIZE_MAX: usize = 32;

/// Longest command line without its value, in bytes; `get` and `gets` may be longer (memcached closes the connection
/// beyond it).
pub const COMMAND_LINE_SIZE_MAX: usize = 2 * KIB;

/// Longest `get`/`gets` line that is kept in memory at once. memcached has no bound; this one fits 250,000 short keys.
pub const MULTIGET_LINE_SIZE_MAX: usize = 4 * MIB;

/// Number of bytes memcached counts for an item beside its key, value and `\r\n`: the header (48), the CAS unique (8)
/// and the key's terminating NUL. `-I` bounds the sum, so the same values are refused here as there.
pub const ITEM_OVERHEAD_SIZE: usize = 48 + 8 + 1 + 2;

/// Part of `-m` that recovery gathers records in, beside the index. Write blocks and read buffers are not in use then.
pub const RECOVERY_MEMORY_PARTS: usize = if cfg!(test) { 1024 } else { 4 };
/// And at least so much, in bytes. Next to nothing in unit tests, so that they come to several ranges.
pub const RECOVERY_MEMORY_SIZE_MIN: usize = if cfg!(test) { 64 * KIB } else { 8 * MIB };

/// Bytes of a checkpoint's piece beyond which there are more pieces.
pub const CHECKPOINT_PIECE_SIZE: usize = if cfg!(test) { 128 * KIB } else { 8 * MIB };
/// Most pieces of a checkpoint; beyond it they get longer.
pub const CHECKPOINT_PIECE_COUNT_MAX: u32 = 64;
/// Largest piece of a checkpoint, in bytes: Linux writes no more at once.
pub const CHECKPOINT_SIZE_MAX: u64 = 2 * GIB as u64 - PAGE_SIZE as u64;
/// While a store is used, a piece is written for so many times its own bytes of tables.
pub const CHECKPOINT_LOG_RATIO: u64 = 8;
/// And at most one for this part of a table.
pub const CHECKPOINT_TABLE_PARTS: u64 = 4;

/// Smallest and largest `-I`, memcached's own.
pub const ITEM_SIZE_MIN: usize = KIB;
/// Largest `-I`.
pub const ITEM_SIZE_MAX: usize = GIB;
/// Default `-I`.
pub const ITEM_SIZE_DEFAULT: usize = MIB;

/// Relative expiry times end here (30 days); larger numbers are absolute unix seconds (memcached's
/// `REALTIME_MAXDELTA`).
pub const RELATIVE_EXPIRY_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// Default `-D`: what ends the prefix of a key.
pub const PREFIX_DELIMITER_DEFAULT: u8 = b':';
/// Prefixes of keys that `stats detail` counts apart. memcached has no bound; whoever puts something random before the
/// delimiter would fill its memory.
pub const PREFIX_COUNT_MAX: usize = 4096;

/// The version that clients are told: the memcached whose commands and answers are followed. Clients look for
/// features by it.
pub const MEMCACHED_VERSION: &str = "1.6.45";

/// The version of everything on disk that `disktable/FORMAT.md` describes.
pub const FORMAT_VERSION: u32 = 4;
/// The versions that are read. Records of version 1 never have a CAS unique of their own, and those of version 2 do not say
/// how far back their guards are needed. Up to version 3 the order of the tables is that of the writes.
pub const FORMAT_VERSIONS_READ: std::ops::RangeInclusive<u32> = 1..=FORMAT_VERSION;

/// Default `-p`.
pub const PORT_DEFAULT: u16 = 11211;
/// Default `-m`, in MiB.
pub const MEMORY_MIB_DEFAULT: usize = 64;
/// Smallest `-m`, in MiB: below it the write blocks leave no room for an index.
pub const MEMORY_MIB_MIN: usize = 8;
/// Default `-c`.
pub const CONNECTIONS_DEFAULT: usize = 1024;
/// Largest `-c`.
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// Default `--table-size`.
pub const TABLE_SIZE_DEFAULT: usize = 64 * MIB;
/// Smallest `--table-size`.
pub const TABLE_SIZE_MIN: usize = MIB;
/// Largest `--table-size`.
pub const TABLE_SIZE_MAX: usize = GIB;
/// A store has at least this many tables: one being written, one ready, the rest to evict from.
pub const TABLE_COUNT_MIN: usize = 4;
/// Shards with fewer tables write two streams of records, not four: each has an open table, and that takes of the spare ones.
pub const SEPARATION_TABLE_COUNT_MIN: usize = 64;
/// Largest number of tables of a shard.
pub const TABLE_COUNT_MAX: usize = 1 << 20;

/// Size of a write block: what one write to the device carries, unless the record alone is larger.
pub const BLOCK_SIZE_DEFAULT: usize = MIB;
/// Smallest write block, used with small memory budgets.
pub const BLOCK_SIZE_MIN: usize = 64 * KIB;
/// Write blocks of a shard: one being filled, the others on their way to the device.
pub const BLOCK_COUNT: usize = 7;

/// Default upper bound of `--capacity`; the other bound is an eighth of the file system's free space.
pub const CAPACITY_DEFAULT_MAX: u64 = 8 * GIB as u64;

/// Default `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_DEFAULT: u64 = 1000;
/// Shortest `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_MIN: u64 = 10;
/// Longest `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_MAX: u64 = 3_600_000;

/// Shortest `--scrub-interval`, in milliseconds.
pub const SCRUB_INTERVAL_MS_MIN: u64 = 1000;
/// Longest `--scrub-interval`, in milliseconds: a year.
pub const SCRUB_INTERVAL_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Bytes that a scrub reads at once: a get that comes meanwhile waits for no more.
pub const SCRUB_READ_SIZE: usize = 256 * KIB;

/// Bytes per second that reclaim and flushes may move at first, before anything is known of the device.
pub const THROTTLE_RATE_START: u64 = 128 * MIB as u64;
/// The least that they are slowed down to: also where every read is slow, tables are emptied.
pub const THROTTLE_RATE_MIN: u64 = 8 * MIB as u64;
/// The least while writers wait.
pub const THROTTLE_RATE_URGENT: u64 = 512 * MIB as u64;
/// Beyond what a device does: nothing is slowed down then.
pub const THROTTLE_RATE_MAX: u64 = 4 * GIB as u64;
/// Bytes that may be moved at once after a time in which nothing was.
pub const THROTTLE_BURST_SIZE: u64 = MIB as u64;
/// The longest wait before a chunk.
pub const THROTTLE_WAIT_MAX: Duration = Duration::from_millis(250);
/// What reads may take while reclaim works, in percent of what they take while it does not.
pub const THROTTLE_GOAL_PERCENT: u32 = 115;
/// How often the rate is looked at, if there were [`THROTTLE_PERIOD_READ_COUNT`] reads.
pub const THROTTLE_PERIOD: Duration = Duration::from_millis(10);
/// See [`THROTTLE_PERIOD`].
pub const THROTTLE_PERIOD_READ_COUNT: u64 = 32;
/// And if there were fewer.
pub const THROTTLE_PERIOD_MAX: Duration = Duration::from_millis(250);
/// Work without an end pauses this often, so that what reads take without it is known.
pub const THROTTLE_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it pauses, unless writers wait.
pub const THROTTLE_PROBE_TIME: Duration = Duration::from_millis(20);
/// Reads without reclaim before what they took is a measure.
pub const THROTTLE_QUIET_READ_COUNT_MIN: u64 = 64;
/// When so many were seen, each counts half: devices and loads change.
pub const THROTTLE_QUIET_READ_COUNT_MAX: u64 = 4096;

/// Most shards of a store; the CAS unique keeps this many numbers apart in its low bits.
pub const SHARD_COUNT_MAX: usize = 1 << SHARD_BITS;
/// Low bits of a CAS unique that hold the shard's number.
pub const SHARD_BITS: u32 = 10;

/// No version, sequence or generation comes to this in any store. What is larger on disk is damage, so that no sum overflows.
pub const NUMBER_MAX: u64 = u64::MAX / 2;

/// How far the version counter jumps after a stop that was not clean: more than the versions that can have been
/// handed out for records that never reached the disk, so that no client holds a CAS unique that comes again.
pub const VERSION_GAP: u64 = 1 << 24;

/// RLIMIT_MEMLOCK that glommio's reactor demands, in bytes.
pub const MEMLOCK_SIZE_MIN: u64 = 512 * KIB as u64;

/// Bytes of answers a connection collects before it writes them to the socket.
pub const OUTPUT_SIZE_HIGH: usize = 64 * KIB;
/// Bytes of memory that an idle connection may keep for its input.
pub const INPUT_SIZE: usize = 16 * KIB;
/// Default `-R`: requests that a connection may have answered before the others get their turn.
pub const REQUESTS_PER_TURN_DEFAULT: usize = 20;
/// Requests of connections that have more than `-R` that are executed before answers are sent and others are heard.
pub const REQUESTS_PER_ROUNDS: usize = 2048;
/// Keys of one get that are looked up before the others get their turn.
pub const KEYS_PER_TURN: usize = 256;
/// Records that a walk over all of them looks at before the others get their turn.
pub const WALK_RECORD_COUNT: usize = 512;
/// The same, when it has nearly caught up with writers that are as fast.
pub const WALK_RECORD_COUNT_MAX: usize = 8192;
/// Most connections that watch.
pub const WATCHER_COUNT_MAX: usize = 20;
/// Bytes that wait for one that watches; beyond it, lines are left out.
pub const WATCHER_SIZE_MAX: usize = 256 * KIB;
/// Bytes of `stats cachedump`, as memcached has it.
pub const CACHEDUMP_SIZE_MAX: usize = 2 * MIB;
/// Default `-b`: connections that may wait to be accepted.
pub const BACKLOG_DEFAULT: i32 = 1024;
/// Default `-a`: permissions of a unix socket.
pub const UNIX_PERMISSIONS_DEFAULT: u32 = 0o700;

/// Users of a `-Y` file that count, memcached's own bound.
pub const AUTH_ENTRY_COUNT_MAX: usize = 8;
/// Longest line of a `-Y` file: what memcached reads of one, without the end of the line.
pub const AUTH_LINE_SIZE_MAX: usize = 255;
/// Largest `-Y` file.
pub const AUTH_FILE_SIZE_MAX: usize = 64 * KIB;

/// Bytes of requests that a connection that cannot be served at the moment may pile up beyond the one under way.
pub const INPUT_SIZE_HIGH: usize = 64 * KIB;
/// Bytes of memory that a connection keeps for answers that had to wait for others.
pub const OUTPUT_SIZE_KEPT: usize = 16 * KIB;
/// Gets of one connection that may wait for the disk at once.
pub const CONNECTION_PENDING_COUNT_MAX: usize = 128;
/// Bytes of reads that one connection may have in flight; one read may be larger.
pub const CONNECTION_READ_SIZE_MAX: usize = 256 * KIB;
/// Gets of all connections that may wait for the disk at once.
pub const PENDING_COUNT_MAX: usize = 4096;
/// Reads that may be in flight, or wait for a buffer, at once.
pub const READ_COUNT_MAX: usize = 4096;
/// Smallest value that is sent from the buffer it was read to; copying a smaller one costs less than telling the kernel
/// where it lies.
pub const GATHER_SIZE_MIN: usize = 2 * KIB;

/// Entries of a ring's submission queue.
pub const RING_SUBMISSION_COUNT: u32 = 1024;
/// Entries of its completion queue: more than there are operations that complete between two turns.
pub const RING_COMPLETION_COUNT: u32 = 8192;
/// Buffers that sockets receive into, a power of two.
pub const RECEIVE_BUFFER_COUNT: u16 = 512;
/// Size of one: a batch of a hundred gets.
pub const RECEIVE_BUFFER_SIZE: usize = 8 * KIB;
/// Most memory for reads in flight, unless one record takes more.
pub const READ_MEMORY_SIZE_MAX: usize = 16 * MIB;

/// How long the ring is watched before a thread sleeps, in microseconds, on machines with more than
/// [`SPIN_CPU_COUNT_MIN`] CPUs; on smaller ones spinning takes CPU from those that have work.
pub const SPIN_US_DEFAULT: u64 = 20;
/// See [`SPIN_US_DEFAULT`].
pub const SPIN_CPU_COUNT_MIN: usize = 4;
/// Longest spin in microseconds.
pub const SPIN_US_MAX: u64 = 1_000_000;

/// Pages that are written to find out how this device has bytes on stable media fastest.
pub const SYNC_PROBE_COUNT: usize = 64;
/// How long that may take.
pub const SYNC_PROBE_TIME: Duration = Duration::from_millis(200);

/// How long a stopping server waits for clients to take their answers.
pub const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long it then goes on receiving, without looking at it, from clients that were not silent: closing a socket to which
/// something is on its way resets the connection, and the client may lose answers that it was sent.
pub const STOP_LINGER: Duration = Duration::from_millis(250);
/// Seconds for which a client has said nothing when it counts as silent.
pub const STOP_SILENCE_SECONDS: u64 = 2;

/// Places of answers for which a connection keeps memory, after it has had more that waited for the device.
pub const ANSWERS_KEPT_MIN: usize = 64;
/// Most ranges of groups of records that are remembered as failed, of which somebody may still ask.
pub const FAILED_GROUPS_KEPT: usize = 1024;
/// Most flush intervals between two attempts to note deletions on a device that refuses them.
pub const BURIAL_PAUSE_MAX: u32 = 64;
/// Most deletions that wait in memory to be noted on disk, after the device has refused them.
pub const UNBURIED_COUNT_MAX: usize = 64 * KIB;

/// Fewest tables of a store in which live records are moved, to a table of their own: that and the reserve are a good part of
/// fewer.
pub const MOVING_TABLE_COUNT_MIN: usize = 6;
/// Free tables that only moved records may go to, so that emptying a table never waits for an empty one.
pub const RECLAIM_RESERVE: usize = 1;
/// Tables of moved records, beside the one of new records, that a start of a full store goes on with.
pub const COPIES_RESUMED_MAX: usize = 2;
/// Tables that may be written to at one time: two of new records, two of moved ones, and two that are being sealed.
pub const OPEN_TABLE_COUNT_MAX: usize = 6;
/// Free tables, where nothing may be evicted, that no values go to, so that deleting always goes on.
pub const DELETION_RESERVE: usize = 1;
/// Bytes that emptying a table reads at once, more for a record that is larger.
pub const RECLAIM_READ_SIZE: usize = 256 * KIB;
/// Seconds for which a table is left alone that could not be emptied once.
pub const RECLAIM_PAUSE_SECONDS: u32 = 1;
/// How often that is doubled when it fails again.
pub const RECLAIM_PAUSE_DOUBLED_MAX: u32 = 6;
/// A table of moved records takes no more when so many tables were begun after it: see `disktable::format::Distance`.
pub const MOVED_TABLE_AGE_MAX: u64 = 4096;
/// A table that others are written beside is ended when one part in so many of all tables was begun after it,
pub const OPEN_TABLE_AGE_PARTS: u64 = 4;
/// and at least so many.
pub const OPEN_TABLE_AGE_MIN: u64 = 16;
/// Longest pause of memcached's crawler between two items, in microseconds.
pub const CRAWLER_SLEEP_MAX: u32 = 1_000_000;
/// How often is looked whether something may have expired.
pub const CRAWL_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The least time for a walk through the index in search of it that nobody waits for.
pub const CRAWL_TIME: Duration = Duration::from_secs(60);
/// The shortest pause of such a walk: what is less is added to the next one.
pub const CRAWL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest time in which it does not see that the store is being closed.
pub const CRAWL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Expired records that it drops before the others get their turn.
pub const CRAWL_RECORD_COUNT: usize = 64;
/// Hotness from which a record counts as read again and again: it outlives its table when that is evicted.
pub const HOT: u8 = 2;

const _: () = assert!(PAGE_SIZE.is_multiple_of(RECORD_GRANULE));
const _: () = assert!(TABLE_SIZE_MIN.is_multiple_of(PAGE_SIZE));
const _: () = assert!(TABLE_SIZE_MIN.is_power_of_two());
const _: () = assert!(TABLE_SIZE_MAX.is_power_of_two());
const _: () = assert!(TABLE_COUNT_MIN < SEPARATION_TABLE_COUNT_MIN && SEPARATION_TABLE_COUNT_MIN < TABLE_COUNT_MAX);
const _: () = assert!(BLOCK_SIZE_MIN.is_multiple_of(PAGE_SIZE));
const _: () = assert!(BLOCK_SIZE_MIN <= BLOCK_SIZE_DEFAULT);
const _: () = assert!(BLOCK_COUNT >= 5);
const _: () = assert!(RECEIVE_BUFFER_COUNT.is_power_of_two());
const _: () = assert!(RING_COMPLETION_COUNT >= 2 * RING_SUBMISSION_COUNT);
const _: () = assert!(CONNECTION_PENDING_COUNT_MAX < PENDING_COUNT_MAX / 4);
const _: () = assert!(PENDING_COUNT_MAX <= READ_COUNT_MAX);
const _: () = assert!(KEY_SIZE_MAX <= u8::MAX as usize);
const _: () = assert!(MULTIGET_LINE_SIZE_MAX > COMMAND_LINE_SIZE_MAX);
const _: () = assert!(MEMORY_MIB_MIN * MIB >= 4 * BLOCK_COUNT * BLOCK_SIZE_MIN);
const _: () = assert!(MOVED_TABLE_AGE_MAX < i16::MAX as u64 / 2);
const _: () = assert!(0 < OPEN_TABLE_AGE_MIN && OPEN_TABLE_AGE_MIN <= MOVED_TABLE_AGE_MAX);
const _: () = assert!(RECLAIM_READ_SIZE.is_multiple_of(PAGE_SIZE));
const _: () = assert!(MOVING_TABLE_COUNT_MIN > TABLE_COUNT_MIN);
const _: () = assert!(0 < THROTTLE_RATE_MIN && THROTTLE_RATE_MIN <= THROTTLE_RATE_START);
const _: () = assert!(THROTTLE_RATE_START <= THROTTLE_RATE_MAX && THROTTLE_RATE_MIN <= THROTTLE_RATE_URGENT);
const _: () = assert!(THROTTLE_RATE_URGENT <= THROTTLE_RATE_MAX);
// No product of a rate and the nanoseconds of a second overflows.
const _: () = assert!(THROTTLE_RATE_MAX <= u64::MAX / 1_000_000_000);
// A write block at the lowest rate is waited for in full.
const _: () = assert!(BLOCK_SIZE_DEFAULT as u64 * 1000 / THROTTLE_RATE_MIN <= THROTTLE_WAIT_MAX.as_millis() as u64);
const _: () = assert!(THROTTLE_PERIOD.as_nanos() <= THROTTLE_PERIOD_MAX.as_nanos());
const _: () = assert!(THROTTLE_PROBE_TIME.as_nanos() < THROTTLE_PROBE_INTERVAL.as_nanos());
const _: () = assert!(THROTTLE_PROBE_TIME.as_nanos() <= THROTTLE_WAIT_MAX.as_nanos());
const _: () = assert!(STOP_LINGER.as_nanos() < STOP_PATIENCE.as_nanos());
const _: () = assert!(CRAWL_PAUSE_MIN.as_nanos() < CRAWL_PAUSE_MAX.as_nanos() && CRAWL_RECORD_COUNT > 0);
const _: () = assert!(CRAWL_PAUSE_MAX.as_nanos() < CRAWL_TIME.as_nanos());
const _: () = assert!(THROTTLE_QUIET_READ_COUNT_MIN < THROTTLE_QUIET_READ_COUNT_MAX);
