//! Every bound of the system in one place, with the relations between them asserted at compile time.
//!
//! Units are in the names: `_SIZE` and `_BYTES` count bytes, `_COUNT` counts things, `_SECONDS` is what it says.

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
pub const FORMAT_VERSION: u32 = 2;
/// The versions that are read. Records of version 1 never have a CAS unique of their own.
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
/// Largest number of tables of a shard.
pub const TABLE_COUNT_MAX: usize = 1 << 20;

/// Size of a write block: what one write to the device carries, unless the record alone is larger.
pub const BLOCK_SIZE_DEFAULT: usize = MIB;
/// Smallest write block, used with small memory budgets.
pub const BLOCK_SIZE_MIN: usize = 64 * KIB;
/// Write blocks of a shard: one being filled, the others on their way to the device.
pub const BLOCK_COUNT: usize = 4;

/// Default upper bound of `--capacity`; the other bound is an eighth of the file system's free space.
pub const CAPACITY_DEFAULT_MAX: u64 = 8 * GIB as u64;

/// Default `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_DEFAULT: u64 = 1000;
/// Shortest `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_MIN: u64 = 10;
/// Longest `--flush-interval`, in milliseconds.
pub const FLUSH_INTERVAL_MS_MAX: u64 = 3_600_000;

/// Most shards of a store; the CAS unique keeps this many numbers apart in its low bits.
pub const SHARD_COUNT_MAX: usize = 1 << SHARD_BITS;
/// Low bits of a CAS unique that hold the shard's number.
pub const SHARD_BITS: u32 = 10;

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

/// How long a stopping server waits for clients to take their answers.
pub const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

const _: () = assert!(PAGE_SIZE.is_multiple_of(RECORD_GRANULE));
const _: () = assert!(TABLE_SIZE_MIN.is_multiple_of(PAGE_SIZE));
const _: () = assert!(TABLE_SIZE_MIN.is_power_of_two());
const _: () = assert!(TABLE_SIZE_MAX.is_power_of_two());
const _: () = assert!(BLOCK_SIZE_MIN.is_multiple_of(PAGE_SIZE));
const _: () = assert!(BLOCK_SIZE_MIN <= BLOCK_SIZE_DEFAULT);
const _: () = assert!(BLOCK_COUNT >= 2);
const _: () = assert!(RECEIVE_BUFFER_COUNT.is_power_of_two());
const _: () = assert!(RING_COMPLETION_COUNT >= 2 * RING_SUBMISSION_COUNT);
const _: () = assert!(CONNECTION_PENDING_COUNT_MAX < PENDING_COUNT_MAX / 4);
const _: () = assert!(PENDING_COUNT_MAX <= READ_COUNT_MAX);
const _: () = assert!(KEY_SIZE_MAX <= u8::MAX as usize);
const _: () = assert!(MULTIGET_LINE_SIZE_MAX > COMMAND_LINE_SIZE_MAX);
const _: () = assert!(MEMORY_MIB_MIN * MIB >= 4 * BLOCK_COUNT * BLOCK_SIZE_MIN);
