//! The summaries of a table that is not sealed yet, kept in the pages that become its footer.

use std::ops::Range;

use dma_alloc::Buffer;

use super::format::{SUMMARIES_PER_PAGE, Summary, footer_page_count, get_summary, put_summary, seal_footer_page};
use crate::limits::{PAGE_SIZE, TABLE_SIZE_MAX};
use crate::record::Place;

/// Footer pages are gathered in buffers of this many, which is also what one write of the footer carries.
const PAGES_PER_BUFFER: usize = 16;

/// Summaries in the order of their records.
#[derive(Debug, Default)]
pub struct SummaryLog {
    buffers: Vec<Buffer>,
    count: usize,
}

impl SummaryLog {
    /// Number of summaries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.buffers.len() * PAGES_PER_BUFFER * PAGE_SIZE
    }

    /// Appends one.
    pub fn push(&mut self, summary: &Summary) {
        let page_number = self.count / SUMMARIES_PER_PAGE;
        if page_number == self.buffers.len() * PAGES_PER_BUFFER {
            self.buffers.push(Buffer::zeroed(PAGES_PER_BUFFER * PAGE_SIZE));
        }
        let index = self.count % SUMMARIES_PER_PAGE;
        put_summary(self.page_mut(page_number), index, summary);
        self.count += 1;
    }

    /// The summary of the record at `offset`, if there is one, with its index.
    #[must_use]
    pub fn find(&self, offset: u32) -> Option<(usize, Summary)> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let summary = self.get(middle)?;
            match summary.offset.cmp(&offset) {
                std::cmp::Ordering::Equal => return Some((middle, summary)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Replaces the summary with index `index`, of a record overwritten in place.
    pub fn replace(&mut self, index: usize, summary: &Summary) {
        assert!(index < self.count, "only what was pushed can be replaced");
        put_summary(self.page_mut(index / SUMMARIES_PER_PAGE), index % SUMMARIES_PER_PAGE, summary);
    }

    /// All summaries, in order.
    pub fn iter(&self) -> impl Iterator<Item = Summary> + '_ {
        self.range(0..self.count)
    }

    /// Those with these numbers, in order.
    pub fn range(&self, numbers: Range<usize>) -> impl Iterator<Item = Summary> + '_ {
        numbers.filter_map(|index| self.get(index))
    }

    /// Completes the pages for the table of `place` (its offset is not used) and hands out the footer: buffers, and
    /// the number of pages in all.
    #[must_use]
    pub fn into_footer(mut self, place: Place) -> (Vec<Buffer>, usize) {
        let page_count = footer_page_count(self.count);
        for page_number in 0..page_count {
            let count = (self.count - page_number * SUMMARIES_PER_PAGE).min(SUMMARIES_PER_PAGE);
            let place = Place { offset: u32::try_from(page_number).expect("bounded by the table size"), ..place };
            seal_footer_page(self.page_mut(page_number), place, count);
        }
        (self.buffers, page_count)
    }

    fn get(&self, index: usize) -> Option<Summary> {
        let page_number = index / SUMMARIES_PER_PAGE;
        let start = page_number % PAGES_PER_BUFFER * PAGE_SIZE;
        let page = &self.buffers.get(page_number / PAGES_PER_BUFFER)?[start..start + PAGE_SIZE];
        get_summary(page, index % SUMMARIES_PER_PAGE, TABLE_SIZE_MAX as u64)
    }

    fn page_mut(&mut self, page_number: usize) -> &mut [u8] {
        let start = page_number % PAGES_PER_BUFFER * PAGE_SIZE;
        &mut self.buffers[page_number / PAGES_PER_BUFFER][start..start + PAGE_SIZE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::disktable::format::{Distance, footer_summaries};
    use crate::record::{Kind, SizeClass};

    fn summary(number: u32) -> Summary {
        Summary {
            digest: Digest([number as u8; 20]),
            version: u64::from(number),
            expiry: 0,
            offset: 4096 + number * 48,
            kind: Kind::Value,
            class: SizeClass(3),
            distance: Distance::NONE,
        }
    }

    #[test]
    fn summaries_are_found_replaced_and_become_a_footer() {
        let mut log = SummaryLog::default();
        let count = SUMMARIES_PER_PAGE as u32 * PAGES_PER_BUFFER as u32 + 5;
        (0..count).for_each(|number| log.push(&summary(number)));
        for number in [0, 1, 101, 102, count - 1] {
            let (index, found) = log.find(4096 + number * 48).expect("pushed");
            assert_eq!((index, found), (number as usize, summary(number)));
        }
        assert_eq!(log.find(4096 + 16), None);
        log.replace(102, &Summary { version: 5000, ..summary(102) });
        let expected: Vec<Summary> = log.iter().collect();
        assert_eq!(expected[102].version, 5000);

        let place = Place { slot: 1, sequence: 2, offset: 0 };
        let (buffers, page_count) = log.into_footer(place);
        assert_eq!(page_count, PAGES_PER_BUFFER + 1);
        let pages: Vec<&[u8]> = buffers.iter().flat_map(|buffer| buffer.chunks(PAGE_SIZE)).take(page_count).collect();
        let mut read = Vec::new();
        for (number, page) in pages.into_iter().enumerate() {
            let place = Place { offset: number as u32, ..place };
            read.extend(footer_summaries(page, place, 1 << 20).expect("valid"));
        }
        assert_eq!(read, expected);
    }
}
