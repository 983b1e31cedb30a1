//! How the memory budget `-m` is divided.

use dma_alloc::PoolClass;

use super::StoreOptions;
use super::open::table_size_for;
use crate::error::OpenError;
use crate::index::Index;
use crate::io::Io;
use crate::limits::{
    BLOCK_COUNT, BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MIN, KIB, PAGE_SIZE, READ_MEMORY_SIZE_MAX, RECLAIM_READ_SIZE,
    TABLE_SIZE_MAX,
};
use crate::record::{OWN_CAS_SIZE, record_size};

/// A table holds at most this part of the records that the index has room for, so that evicting one table never
/// empties the store.
const INDEX_PARTS: usize = 16;
/// Fewest records that a table must be able to hold.
const SUMMARY_COUNT_MIN: usize = 1024;
/// Bytes that one summary takes in memory, four times: new writes and moved records go to two tables each in a store of many,
/// and to one each in others. What is sealed while the next one fills is no more: the next one of new records has what write
/// blocks hold meanwhile, as the flusher does one after the other, and that of moved ones is begun when the last is sealed.
const SUMMARY_MEMORY: usize = 4 * (crate::disktable::format::SUMMARY_SIZE + 1);
/// Bytes beside an index entry: partly filled blocks, heads of segments.
const ENTRY_SLACK: usize = 2;

/// The parts of a memory budget, in bytes unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All of it.
    pub total: usize,
    /// The table size that the parts were computed for.
    pub table_size: usize,
    /// One write block.
    pub block_size: usize,
    /// Number of write blocks.
    pub block_count: usize,
    /// Write buffers for records larger than a block.
    pub large: usize,
    /// Read buffers.
    pub reads: usize,
    /// The largest of them.
    pub largest_read: usize,
    /// The buffer for what is read of tables that are emptied.
    pub moving: usize,
    /// Summaries of tables that are not sealed.
    pub summaries: usize,
    /// Most records of a table.
    pub summary_count_max: usize,
    /// The index.
    pub index: usize,
}

impl MemoryPlan {
    /// Divides `total` bytes for records whose key and value take up to `item_size_max`.
    ///
    /// # Errors
    /// [`OpenError::Memory`], when buffers leave less than a quarter for the index.
    pub fn new(total: usize, item_size_max: usize, table_size: usize) -> Result<Self, OpenError> {
        let block_size = 1 << (total / 64).max(1).ilog2();
        let block_size = block_size.clamp(BLOCK_SIZE_MIN, BLOCK_SIZE_DEFAULT).min(table_size / 4);
        let largest_record = (record_size(0, item_size_max) + OWN_CAS_SIZE + PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        let large = if largest_record > block_size { largest_record.max(total / 16) } else { 0 };
        let largest_read = largest_read(largest_record);
        let reads = largest_read.max((total / 16).min(READ_MEMORY_SIZE_MAX));
        let buffers = BLOCK_COUNT * block_size + large + reads + RECLAIM_READ_SIZE;
        let rest = total.saturating_sub(buffers);
        if rest < (total / 4).max(2 * Index::BASE_SIZE) {
            return Err(OpenError::Memory { budget: total, buffers });
        }
        let entry = Index::ENTRY_SIZE + ENTRY_SLACK;
        let by_index = (rest - Index::BASE_SIZE) / (entry + SUMMARY_MEMORY / INDEX_PARTS) / INDEX_PARTS;
        let by_table = table_size / record_size(1, 0).next_multiple_of(16);
        let summary_count_max = by_index.min(by_table).max(SUMMARY_COUNT_MIN);
        let summaries = summary_count_max * SUMMARY_MEMORY;
        let index = rest.saturating_sub(summaries);
        Ok(Self {
            total,
            table_size,
            block_size,
            block_count: BLOCK_COUNT,
            large,
            reads,
            largest_read,
            moving: RECLAIM_READ_SIZE,
            summaries,
            summary_count_max,
            index,
        })
    }
}

/// Parts of the memory for reads that go to buffers of a size: most records are small.
const READ_PARTS: [(usize, usize); 5] =
    [(PAGE_SIZE, 8), (2 * PAGE_SIZE, 2), (4 * PAGE_SIZE, 2), (16 * PAGE_SIZE, 2), (256 * KIB, 2)];
const READ_PARTS_SUM: usize = 16;

/// Bytes that the read of the largest record may take.
fn largest_read(largest_record: usize) -> usize {
    (largest_record + largest_record / 8 + 2 * PAGE_SIZE).next_multiple_of(PAGE_SIZE)
}

impl MemoryPlan {
    /// The plan for the store that `options` would open; `None` when it would not open.
    #[must_use]
    pub fn for_store<I: Io>(io: &I, options: &StoreOptions) -> Option<Self> {
        let table_size = crate::recovery::existing_table_size(io, &options.directory)
            .or(options.table_size)
            .unwrap_or_else(|| table_size_for(options.capacity));
        Self::new(options.memory, options.item_size_max, usize::try_from(table_size).ok()?).ok()
    }

    /// The buffers of reads, as classes of a pool. The last class is for the largest records.
    #[must_use]
    pub fn read_classes(&self) -> Vec<PoolClass> {
        let spare = self.reads - self.largest_read;
        READ_PARTS
            .iter()
            .filter(|(size, _)| *size < self.largest_read)
            .map(|(size, parts)| PoolClass { size: *size, count: spare / READ_PARTS_SUM * parts / size })
            .chain([PoolClass { size: self.largest_read, count: 1 }])
            .filter(|class| class.count > 0)
            .collect()
    }

    /// The write blocks, as a class of a pool.
    #[must_use]
    pub fn block_class(&self) -> PoolClass {
        PoolClass { size: self.block_size, count: self.block_count }
    }
}

const _: () = assert!(TABLE_SIZE_MAX / 48 * SUMMARY_MEMORY < usize::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MEMORY_MIB_MIN, MIB, TABLE_SIZE_DEFAULT};

    #[test]
    fn the_parts_are_the_whole_and_the_index_gets_most_of_it() {
        for total in [MEMORY_MIB_MIN, 16, 64, 256, 1024, 65536] {
            let plan = MemoryPlan::new(total * MIB, MIB, TABLE_SIZE_DEFAULT).expect("enough");
            let sum = plan.block_size * plan.block_count
                + plan.large
                + plan.reads
                + plan.moving
                + plan.summaries
                + plan.index;
            assert!(sum <= plan.total, "{plan:?}");
            assert!(plan.index * 2 >= plan.total || total < 64, "{plan:?}");
            assert!(
                plan.summary_count_max * INDEX_PARTS
                    <= plan.index / Index::ENTRY_SIZE + SUMMARY_COUNT_MIN * INDEX_PARTS
            );
        }
    }

    #[test]
    fn the_read_buffers_fit_the_plan_and_any_record() {
        for (total, item_size) in [(MEMORY_MIB_MIN, KIB), (16, MIB), (64, MIB), (1024, 16 * MIB), (65536, 1024 * MIB)] {
            let Ok(plan) = MemoryPlan::new(total * MIB, item_size, TABLE_SIZE_DEFAULT) else { continue };
            let classes = plan.read_classes();
            assert!(classes.is_sorted_by(|one, next| one.size < next.size), "{classes:?}");
            assert_eq!(classes.last().map(|class| class.size), Some(plan.largest_read));
            let size: usize = classes.iter().map(|class| class.size * class.count).sum();
            assert!(size <= plan.reads, "{classes:?} {plan:?}");
        }
    }

    #[test]
    fn items_that_leave_no_room_are_refused() {
        assert!(MemoryPlan::new(64 * MIB, 32 * MIB, TABLE_SIZE_DEFAULT).is_err());
    }
}
