//! How the memory budget `-m` is divided.

use crate::error::OpenError;
use crate::index::ENTRY_SIZE;
use crate::limits::{BLOCK_COUNT, BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MIN, PAGE_SIZE, TABLE_SIZE_MAX};
use crate::record::record_size;

/// A table holds at most this part of the records that the index has room for, so that evicting one table never
/// empties the store.
const INDEX_PARTS: usize = 16;
/// Fewest records that a table must be able to hold.
const SUMMARY_COUNT_MIN: usize = 1024;
/// Bytes that one summary takes in memory, twice: a table may be sealed while the next one fills.
const SUMMARY_MEMORY: usize = 2 * (crate::disktable::format::SUMMARY_SIZE + 1);
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
        let block_size = 1 << (total / 32).max(1).ilog2();
        let block_size = block_size.clamp(BLOCK_SIZE_MIN, BLOCK_SIZE_DEFAULT).min(table_size / 4);
        let largest_record = (record_size(0, item_size_max) + PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        let large = if largest_record > block_size { largest_record.max(total / 16) } else { 0 };
        let reads = (largest_record + largest_record / 8 + 2 * PAGE_SIZE).max(total / 16);
        let buffers = BLOCK_COUNT * block_size + large + reads;
        let rest = total.saturating_sub(buffers);
        if rest < total / 4 {
            return Err(OpenError::Memory { budget: total, buffers });
        }
        let entry = ENTRY_SIZE + ENTRY_SLACK;
        let by_index = rest / (entry + SUMMARY_MEMORY / INDEX_PARTS) / INDEX_PARTS;
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
            summaries,
            summary_count_max,
            index,
        })
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
            let sum = plan.block_size * plan.block_count + plan.large + plan.reads + plan.summaries + plan.index;
            assert!(sum <= plan.total, "{plan:?}");
            assert!(plan.index * 2 >= plan.total || total < 64, "{plan:?}");
            assert!(plan.summary_count_max * INDEX_PARTS <= plan.index / ENTRY_SIZE + SUMMARY_COUNT_MIN * INDEX_PARTS);
        }
    }

    #[test]
    fn items_that_leave_no_room_are_refused() {
        assert!(MemoryPlan::new(64 * MIB, 32 * MIB, TABLE_SIZE_DEFAULT).is_err());
    }
}
