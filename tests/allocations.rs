//! A get allocates nothing: the server runs in this process, on a thread whose allocations are counted, and is asked
//! through its socket.

use crate::support::{Client, scratch_directory, value_of};
use dma_alloc::counting::{self, CountingAllocator};
use dma_alloc::{Pool, PoolClass, PoolOptions};
use dmacached::clock::wall_seconds;
use dmacached::io::dma::DmaIo;
use dmacached::io::ring::sleep::Bell;
use dmacached::io::ring::{Ring, RingIo};
use dmacached::server::{Address, Endpoint, Listeners, Server, ServerOptions};
use dmacached::shard::{Binding, Facts, Shard};
use dmacached::stats::ConnectionCounters;
use dmacached::store::{Durability, MemoryPlan, Store, StoreOptions};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// All watched threads count together, so one server at a time.
static COUNTED: Mutex<()> = Mutex::new(());

const CONNECTION_COUNT_MAX: usize = 64;
const MEMORY: usize = 64 << 20;
const ITEM_SIZE_MAX: usize = 1 << 20;

/// A server on a thread of this process.
struct Inside {
    port: u16,
    bell: Bell,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Inside {
    /// Starts it; its thread is watched from the first request on.
    fn start(directory: &Path) -> Inside {
        let (sender, receiver) = channel();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (directory, asked) = (directory.to_owned(), Arc::clone(&is_stopping));
        let thread = std::thread::spawn(move || {
            let executor = LocalExecutorBuilder::new(Placement::Unbound)
                .ring_depth(256)
                .io_memory(256 << 10)
                .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
                .make()
                .expect("an executor");
            executor.run(serve(&directory, &sender, &asked));
        });
        let (port, bell) = receiver.recv().expect("the server starts");
        Inside { port, bell, is_stopping, thread }
    }

    fn stop(self) {
        self.is_stopping.store(true, Ordering::Release);
        self.bell.ring();
        self.thread.join().expect("the server's thread does not panic");
    }
}

/// What `dmacached serve` does, without flags and signals.
async fn serve(directory: &Path, started: &Sender<(u16, Bell)>, is_stopping: &AtomicBool) {
    let options = StoreOptions {
        directory: directory.to_owned(),
        capacity: 64 << 20,
        table_size: Some(4 << 20),
        memory: MEMORY,
        item_size_max: ITEM_SIZE_MAX,
        evict: true,
        // So that what is set stays in memory as long as the server runs, and nobody else allocates.
        flush_interval: Duration::from_secs(3600),
        durability: Durability::Memory,
    };
    let dma = DmaIo::new(directory).await.expect("a directory that can be written");
    let endpoint = Endpoint { address: Address::Tcp(([127, 0, 0, 1], 0).into()), binding: Binding::Auto };
    let listeners = Listeners::bind(&[endpoint], 128).expect("some port is always free");
    let Some(Address::Tcp(address)) = listeners.addresses().next() else { panic!("there is one TCP address") };
    let port = address.port();
    let plan = MemoryPlan::for_store(&dma, &options).expect("enough memory");
    let pool = |classes: &[PoolClass]| Pool::new(classes, PoolOptions::default()).expect("memory for buffers");
    let (reads, blocks) = (pool(&plan.read_classes()), pool(&[plan.block_class()]));
    let ring = Ring::new(reads, blocks, CONNECTION_COUNT_MAX, 64).expect("io_uring works");
    let io = RingIo::new(dma, ring).expect("descriptors are left");
    let store = Store::open(io.clone(), options, |_| ()).await.expect("the store opens");
    let connections = Rc::new(ConnectionCounters::default());
    let facts = Facts {
        connection_count_max: CONNECTION_COUNT_MAX,
        item_size_max: ITEM_SIZE_MAX,
        memory: MEMORY,
        port,
        started: wall_seconds(),
        ..Facts::default()
    };
    let shard = Shard::new(store, Rc::clone(&connections), facts);
    let server_options = ServerOptions { requests_per_turn: 20, idle_timeout: None, spin: Duration::ZERO, auth: None };
    started.send((port, io.bell())).expect("the test waits for it");
    counting::watch_this_thread();
    let server = Server::new(io, shard, connections, listeners, server_options);
    server.run(|| is_stopping.load(Ordering::Acquire)).await.expect("the store closes in order");
    counting::unwatch_this_thread();
}

/// Few enough to lie in one write block, so that nothing is flushed until the server stops.
const COUNT: usize = 160;
/// How often each record is asked for to get warm: 5,120 gets.
const WARM_ROUNDS: usize = 32;
/// How often each is asked for while allocations are counted: 20,480 gets.
const ROUNDS: usize = 128;

fn key(number: usize) -> String {
    format!("key-{number:04}")
}

/// A client, its requests for every record in batches, and the answer to each batch.
struct Asking {
    client: Client,
    batches: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Asking {
    fn new(port: u16, batch_size: usize, value_size: usize) -> Asking {
        let numbers: Vec<usize> = (0..COUNT).map(|number| number * 7 % COUNT).collect();
        let batch = |numbers: &[usize]| {
            let requests: String = numbers.iter().map(|number| format!("get {}\r\n", key(*number))).collect();
            let mut answers = Vec::new();
            for number in numbers {
                answers.extend_from_slice(format!("VALUE {} 0 {value_size}\r\n", key(*number)).as_bytes());
                answers.extend_from_slice(&value_of(&key(*number), value_size));
                answers.extend_from_slice(b"\r\nEND\r\n");
            }
            (requests.into_bytes(), answers)
        };
        Asking { client: Client::connect(port), batches: numbers.chunks(batch_size).map(batch).collect() }
    }

    /// Asks for every record so many times.
    fn ask(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for (requests, answers) in &self.batches {
                self.client.send(requests);
                assert!(self.client.exactly(answers.len()) == *answers, "a batch was answered wrongly");
            }
        }
    }
}

/// How often it is counted at most. Buffers and queues stay at the most that was ever in use at once, so a count above 0
/// may be the last growth of one of them, which does not come again; what gets allocate comes every time.
const ATTEMPTS: usize = 5;

/// Counts the server's allocations while `connection_count` clients get records, `batch_size` at a time, once all is
/// warm. Gives the fewest, and the number of all gets.
fn allocations_of(port: u16, connection_count: usize, batch_size: usize, value_size: usize) -> (u64, usize) {
    let mut askings: Vec<Asking> = (0..connection_count).map(|_| Asking::new(port, batch_size, value_size)).collect();
    let mut ask_all = |rounds: usize| {
        std::thread::scope(|scope| {
            for asking in &mut askings {
                scope.spawn(move || asking.ask(rounds / connection_count));
            }
        });
        rounds * COUNT
    };
    let mut get_count = ask_all(WARM_ROUNDS);
    let mut fewest = u64::MAX;
    for _ in 0..ATTEMPTS {
        let before = counting::allocation_count();
        get_count += ask_all(ROUNDS);
        fewest = fewest.min(counting::allocation_count() - before);
        if fewest == 0 {
            break;
        }
    }
    (fewest, get_count)
}

/// Fills a server with values of a size and counts what gets of them allocate, from memory and, after a restart, from
/// disk.
fn count_with(value_size: usize) {
    let _guard = COUNTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scratch = scratch_directory();
    let server = Inside::start(scratch.path());
    let mut client = Client::connect(server.port);
    let before = counting::allocation_count();
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), value_size)));
    client.stats();
    assert!(counting::allocation_count() > before, "stats allocates, or nothing is counted at all");
    let mut complaints = Vec::new();
    let mut check = |port: u16, client: &mut Client, place: &str| {
        for (connection_count, batch_size) in [(1, 1), (1, 16), (4, 1), (4, 16)] {
            let before = client.stat("get_extstore");
            let (count, get_count) = allocations_of(port, connection_count, batch_size, value_size);
            let from_disk = client.stat("get_extstore") - before;
            if place == "cache" {
                // All but the first two of each, and what was on its way meanwhile.
                assert!(from_disk < get_count as u64 / 10, "{from_disk} of {get_count} gets are answered from disk");
            } else {
                let expected = if place == "disk" { get_count as u64 } else { 0 };
                assert_eq!(from_disk, expected, "the gets are answered from {place}");
            }
            if count > 0 {
                complaints.push(format!(
                    "{count} allocations for {} gets of {value_size} bytes from {place}, {batch_size} at a time, \
                     {connection_count} connections",
                    ROUNDS * COUNT
                ));
            }
        }
    };
    check(server.port, &mut client, "memory");
    drop(client);
    server.stop();
    let server = Inside::start(scratch.path());
    let mut client = Client::connect(server.port);
    assert_eq!(client.ask("extstore recache_rate 0"), "OK");
    // A start looks through the index once, in steps between which it sleeps.
    assert_eq!(client.ask("lru_crawler disable"), "OK");
    check(server.port, &mut client, "disk");
    assert_eq!(client.ask("extstore recache_rate 1"), "OK");
    check(server.port, &mut client, "cache");
    drop(client);
    server.stop();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn gets_of_small_values_allocate_nothing() {
    count_with(100);
}

#[test]
fn gets_of_values_of_a_kibibyte_allocate_nothing() {
    count_with(1024);
}

#[test]
fn gets_of_values_that_are_sent_from_where_they_were_read_allocate_nothing() {
    count_with(5000);
}
