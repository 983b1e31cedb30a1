//! What one operation of the index costs, next to the maps that one would take otherwise.
//!
//! Keys are made from their numbers, in random order, as they are asked for: `making` says what that alone costs, and
//! all other figures but `digest` contain it. `dmabench index speed` is the careful comparison with many keys;
//! this one is quick, and keeps a history.
//!
//! `cargo bench -p dmacached-bench --bench index`; `DMABENCH_INDEX_KEYS=20000000` for more than a million keys.

use std::env;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dmacached::digest::Digest;
use dmacached::index::{DenseIndex, Index};
use dmacached_bench::contender::{Contender, HashMap, OrderedMap};
use dmacached_bench::keys::{Shuffle, digest, entry, sorted_numbers};

const KEY_COUNT_DEFAULT: u32 = 1_000_000;
/// Enough to see that everything runs.
const KEY_COUNT_OF_TEST: u32 = 10_000;
const BATCH_LEN: usize = 16;

/// Criterion measures when `cargo bench` runs it, and tries everything once when `--test` is given or nothing is.
fn is_test() -> bool {
    let has = |wanted: &str| env::args().any(|argument| argument == wanted);
    has("--test") || !has("--bench")
}

fn key_count() -> u32 {
    if is_test() {
        return KEY_COUNT_OF_TEST;
    }
    let asked = env::var("DMABENCH_INDEX_KEYS").ok();
    asked.map_or(KEY_COUNT_DEFAULT, |count| count.parse().expect("DMABENCH_INDEX_KEYS is a number of keys"))
}

/// All numbers in random order, over and over.
struct Numbers<'a> {
    order: &'a [u32],
    place: usize,
}

impl Numbers<'_> {
    #[inline]
    fn next(&mut self) -> u64 {
        let number = self.order[self.place];
        self.place = if self.place + 1 == self.order.len() { 0 } else { self.place + 1 };
        u64::from(number)
    }
}

fn measure<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, order: &[u32]) {
    let count = order.len() as u64;
    let mut contender = C::new(order.len());
    for number in 0..count {
        contender.insert(&digest(number), entry(number)).expect("a budget that is large enough");
    }
    let mut numbers = Numbers { order, place: 0 };
    group.bench_function(format!("{name}/get present"), |bencher| {
        bencher.iter(|| contender.get(&digest(numbers.next())).expect("a key that is there"));
    });
    group.bench_function(format!("{name}/get absent"), |bencher| {
        bencher.iter(|| assert!(contender.get(&digest(numbers.next() + count)).is_none()));
    });
    group.throughput(Throughput::Elements(BATCH_LEN as u64));
    group.bench_function(format!("{name}/get batch of {BATCH_LEN}"), |bencher| {
        let mut entries = [None; BATCH_LEN];
        bencher.iter(|| {
            let digests: [Digest; BATCH_LEN] = std::array::from_fn(|_| digest(numbers.next()));
            contender.get_batch(&digests, &mut entries);
            assert!(entries.iter().all(Option::is_some));
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("{name}/upsert of existing"), |bencher| {
        bencher.iter(|| {
            let number = numbers.next();
            contender.insert(&digest(number), entry(number)).expect("replacing needs no memory")
        });
    });
    group.bench_function(format!("{name}/insert and remove"), |bencher| {
        bencher.iter(|| {
            let number = numbers.next() + count;
            let digest = digest(number);
            contender.insert(&digest, entry(number)).expect("a budget that is large enough");
            contender.remove(&digest).expect("a key that was just inserted")
        });
    });
}

fn measure_build<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sorted: &[u32]) {
    if C::build_sorted(0, std::iter::empty()).is_none() {
        return;
    }
    let pair = |number: &u32| (digest(u64::from(*number)), entry(u64::from(*number)));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || sorted.iter().map(pair),
            |pairs| C::build_sorted(sorted.len(), pairs),
            BatchSize::PerIteration,
        );
    });
}

fn index(criterion: &mut Criterion) {
    let count = key_count();
    let order: Vec<u32> = Shuffle::new(u64::from(count), 1).numbers().collect();
    let mut group = criterion.benchmark_group(format!("{count} keys"));
    group.throughput(Throughput::Elements(1));
    let mut numbers = Numbers { order: &order, place: 0 };
    group.bench_function("making", |bencher| {
        bencher.iter(|| {
            let number = numbers.next();
            (digest(number), black_box(entry(number)))
        });
    });
    measure::<Index>(&mut group, "full", &order);
    measure::<DenseIndex>(&mut group, "dense", &order);
    measure::<HashMap>(&mut group, "hashbrown", &order);
    measure::<OrderedMap>(&mut group, "btree", &order);
    group.finish();

    let sorted = sorted_numbers(count);
    let mut group = criterion.benchmark_group(format!("build from {count} sorted keys"));
    group.throughput(Throughput::Elements(u64::from(count))).sample_size(10);
    measure_build::<Index>(&mut group, "full", &sorted);
    measure_build::<DenseIndex>(&mut group, "dense", &sorted);
    measure_build::<HashMap>(&mut group, "hashbrown", &sorted);
    measure_build::<OrderedMap>(&mut group, "btree", &sorted);
    group.finish();
}

fn digest_of_key(criterion: &mut Criterion) {
    let salt = *b"0123456789abcdef";
    let mut key = *b"key:0000000000000000";
    criterion.bench_function("digest of a 20-byte key", |bencher| {
        bencher.iter(|| {
            key[19] = key[19].wrapping_add(1);
            Digest::of(black_box(&salt), black_box(&key))
        });
    });
}

fn short() -> Criterion {
    let criterion = Criterion::default().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = digest_of_key, index }
criterion_main!(benches);
