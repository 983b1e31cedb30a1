//! What a block costs to take and to give back: slab, pool and table against general allocators.
//!
//! Two patterns: one block taken and given over and over, and a working set of which a random one is taken or given at
//! each step. Every taker writes the first byte; a table's entry is written whole, as it is moved in.
//!
//! `cargo bench -p dma-alloc`

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use dma_alloc::{BlockId, Key, Lease, PageKind, Pool, PoolClass, PoolOptions, Slab, Table};
use mimalloc::MiMalloc;

const MIB: usize = 1 << 20;

/// Where blocks come from.
trait Source {
    type Block;
    fn take(&mut self) -> Self::Block;
    fn give(&mut self, block: Self::Block);
}

impl<const SIZE: usize> Source for Slab<SIZE> {
    type Block = BlockId;

    fn take(&mut self) -> BlockId {
        let id = Slab::take(self).expect("a slab that is large enough");
        self.block_mut(id)[0] = 1;
        id
    }

    fn give(&mut self, block: BlockId) {
        Slab::give(self, block);
    }
}

impl<const SIZE: usize> Source for Table<[u8; SIZE]> {
    type Block = Key;

    fn take(&mut self) -> Key {
        self.insert(black_box([1; SIZE])).expect("a table that is large enough")
    }

    fn give(&mut self, block: Key) {
        black_box(self.remove(block).expect("an entry that is there")[0]);
    }
}

/// A pool, and the size to ask it for.
struct Sized(Pool, usize);

impl Source for Sized {
    type Block = Lease;

    fn take(&mut self) -> Lease {
        let mut lease = self.0.take(self.1).expect("a pool that is large enough");
        lease.fill_from(&[1]);
        lease
    }

    fn give(&mut self, block: Lease) {
        drop(block);
    }
}

/// A general allocator, and the layout to ask it for.
struct General<A>(A, Layout);

impl<A: GlobalAlloc> Source for General<A> {
    type Block = *mut u8;

    fn take(&mut self) -> *mut u8 {
        // SAFETY: 1. The layout has a size above 0.
        let block = unsafe { self.0.alloc(self.1) };
        assert!(!block.is_null(), "memory for a benchmark");
        // SAFETY: 1. The block has at least one byte and is ours alone.
        unsafe { block.write(1) };
        black_box(block)
    }

    fn give(&mut self, block: *mut u8) {
        // SAFETY: 1. From `take`, hence from this allocator with this layout, and not given back before.
        unsafe { self.0.dealloc(block, self.1) };
    }
}

/// The same sequence for all: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % limit
    }
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, block_count: usize, mut source: impl Source) {
    group.bench_function(format!("{name}/pair"), |bencher| {
        bencher.iter(|| {
            let block = source.take();
            source.give(block);
        });
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut blocks: Vec<_> = (0..block_count).map(|_| None).collect();
    group.bench_function(format!("{name}/random"), |bencher| {
        bencher.iter(|| {
            let place = &mut blocks[random.below(block_count)];
            match place.take() {
                Some(block) => source.give(block),
                None => *place = Some(source.take()),
            }
        });
    });
    blocks.into_iter().flatten().for_each(|block| source.give(block));
}

fn general(group: &mut BenchmarkGroup<'_, WallTime>, block_count: usize, size: usize, alignment: usize) {
    let layout = Layout::from_size_align(size, alignment).expect("a power of two");
    measure(group, "system", block_count, General(System, layout));
    measure(group, "mimalloc", block_count, General(MiMalloc, layout));
}

fn pool(group: &mut BenchmarkGroup<'_, WallTime>, block_count: usize, size: usize) {
    let classes = [PoolClass { size, count: block_count }, PoolClass { size: 2 * size, count: 1 }];
    let pool = Pool::new(&classes, PoolOptions::default()).expect("memory for a benchmark");
    measure(group, "pool", block_count, Sized(pool, size));
}

fn allocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("448 B");
    measure(&mut group, "slab", 4096, Slab::<448>::new(448 * 4096, PageKind::Plain));
    measure(&mut group, "table", 4096, Table::<[u8; 448]>::with_capacity(4096));
    general(&mut group, 4096, 448, 8);
    group.finish();

    let mut group = criterion.benchmark_group("4 KiB");
    measure(&mut group, "slab", 4096, Slab::<4096>::new(4096 * 4096, PageKind::Huge));
    pool(&mut group, 4096, 4096);
    general(&mut group, 4096, 4096, 4096);
    group.finish();

    let mut group = criterion.benchmark_group("1 MiB");
    measure(&mut group, "slab", 64, Slab::<MIB>::new(MIB * 64, PageKind::Huge));
    pool(&mut group, 64, MIB);
    general(&mut group, 64, MIB, 4096);
    group.finish();
}

fn short() -> Criterion {
    let criterion = Criterion::default().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = allocation }
criterion_main!(benches);
