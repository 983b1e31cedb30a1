//! One table, compared with itself: its records with its footer, and both with what a start would find.

use crate::digest::Salt;
use crate::disktable::format::{Mark, RECORDS_START, Summary, footer_summaries};
use crate::disktable::reader::{footer_pages, summary_of};
use crate::disktable::search::{Next, Part, Search, is_beyond_one_write};
use crate::limits::{PAGE_SIZE, RECORD_GRANULE};
use crate::memtable::TableUse;
use crate::record::{self, Damage, Kind, granules_up};

use super::finding::Found;

/// Damaged records that are named one by one.
const NAMED_COUNT_MAX: usize = 8;
/// Zeros in a row after which a table without a footer has no more records.
const ZEROS_MAX: usize = PAGE_SIZE;

/// A record that was written, whether it is there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) summary: Summary,
    /// Its bytes are what was written.
    pub(super) is_whole: bool,
}

/// What is in a table.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// In the order of their offsets.
    pub(super) words: Vec<Word>,
    pub(super) found: Vec<Found>,
    pub(super) damaged_count: u64,
}

/// A table in memory.
pub(super) struct Examiner<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) table: TableUse,
    pub(super) table_size: usize,
    pub(super) salt: &'a Salt,
    search: Search,
}

/// Records that were met on the way through a table.
#[derive(Default)]
struct Walked {
    whole: Vec<Summary>,
    /// Offsets where a record had to begin, and none is.
    bad: Vec<(u32, Damage)>,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(bytes: &'a [u8], table: TableUse, table_size: usize, salt: &'a Salt) -> Self {
        Self { bytes, table, table_size, salt, search: Search::new(table, table_size as u64) }
    }

    /// Looks through a sealed table.
    pub(super) fn sealed(mut self, trailer: &Mark) -> Examined {
        let mut examined = Examined::default();
        let page_count = footer_pages(trailer);
        let footer_start = self.table_size.saturating_sub((page_count + 1) * PAGE_SIZE);
        let records_end = usize::try_from(trailer.records_end).unwrap_or(usize::MAX);
        let (named, damaged_count) = self.footer(footer_start, page_count);
        if damaged_count > 0 {
            examined.found.push(Found::Footer { damaged_count, count: page_count });
        } else if named.len() as u64 != trailer.summary_count
            || !named.is_sorted_by(|one, next| one.offset < next.offset)
        {
            examined.found.push(Found::TrailerSense);
        }
        let is_footer_whole = examined.found.is_empty();
        let walked = self.walk(RECORDS_START, records_end, &named, !is_footer_whole);
        compare(&named, walked, is_footer_whole, &mut examined);
        examined
    }

    /// The summaries of whole pages of the footer, and the number of the other pages.
    fn footer(&self, start: usize, page_count: usize) -> (Vec<Summary>, usize) {
        let (mut named, mut damaged_count) = (Vec::new(), 0);
        for page_number in 0..page_count {
            let page = self.bytes.get(start + page_number * PAGE_SIZE..).and_then(|rest| rest.get(..PAGE_SIZE));
            let place = self.table.place(u32::try_from(page_number).unwrap_or(u32::MAX));
            match page.map(|page| footer_summaries(page, place, self.table_size as u64)) {
                Some(Ok(summaries)) => named.extend(summaries),
                _ => damaged_count += 1,
            }
        }
        named.sort_by_key(|summary| summary.offset);
        (named, damaged_count)
    }

    /// Looks through a table without a footer. `is_stopped`: nothing was being written to it when the store was stopped.
    pub(super) fn unsealed(mut self, mut examined: Examined, is_stopped: bool) -> Examined {
        let (scanned, end, stop) = self.scan();
        examined.words.extend(scanned.iter().map(|summary| Word { summary: *summary, is_whole: true }));
        let mut behind = Walked::default();
        let last = self.search(end, self.bytes.len(), &mut behind.whole);
        let is_damage = is_stopped || is_beyond_one_write(end as u64, last as u64, self.table_size as u64);
        let offset = u32::try_from(end).unwrap_or(u32::MAX);
        if !behind.whole.is_empty() {
            let behind_count = behind.whole.len() as u64;
            examined.found.push(Found::Torn { offset, behind: behind_count, is_damage });
        }
        // Behind the last record of a page are zeros; behind that page, whatever was there before.
        let in_page = stop.filter(|_| end % PAGE_SIZE != 0);
        if let Some(damage) = in_page.filter(|_| is_stopped) {
            examined.found.push(Found::Records { count: 1, first: vec![(offset, damage)] });
            examined.damaged_count += 1;
        }
        if is_damage {
            examined.words.extend(behind.whole.iter().map(|summary| Word { summary: *summary, is_whole: true }));
        }
        if !is_stopped {
            examined.found.push(Found::Open { record_count: scanned.len() as u64, end: offset });
        }
        examined
    }

    /// Whole records in a table of which nothing is known: how many there are, as far as they can be found.
    pub(super) fn any(mut self) -> Vec<Summary> {
        let mut whole = Vec::new();
        self.search(RECORDS_START, self.bytes.len(), &mut whole);
        whole
    }

    /// The records of a table without a footer, in order; where the last one ends; and why it went no further, if not
    /// because of zeros.
    fn scan(&self) -> (Vec<Summary>, usize, Option<Damage>) {
        let (mut whole, mut position, mut end) = (Vec::new(), RECORDS_START, RECORDS_START);
        while position - end < ZEROS_MAX && position + RECORD_GRANULE <= self.bytes.len() {
            if self.is_zero(position) {
                position += RECORD_GRANULE;
                continue;
            }
            match self.record(position, self.bytes.len()) {
                Ok((summary, size)) => {
                    whole.extend(summary);
                    position += size;
                    end = position;
                }
                Err(damage) => return (whole, end.max(position), Some(damage)),
            }
        }
        (whole, end, None)
    }

    /// The records between `position` and `end`, of which `named` are known by the footer. With `search`, others are
    /// looked for where something is damaged.
    fn walk(&mut self, mut position: usize, end: usize, named: &[Summary], search: bool) -> Walked {
        let mut walked = Walked::default();
        let mut next = 0;
        let end = end.min(self.bytes.len());
        while position + RECORD_GRANULE <= end {
            if self.is_zero(position) {
                position += RECORD_GRANULE;
                continue;
            }
            match self.record(position, end) {
                Ok((summary, size)) => {
                    walked.whole.extend(summary);
                    position += size;
                }
                Err(damage) => {
                    let offset = u32::try_from(position).unwrap_or(u32::MAX);
                    walked.bad.push((offset, damage));
                    next += named[next..].partition_point(|summary| summary.offset <= offset);
                    let known = named.get(next).map_or(end, |summary| (summary.offset as usize).min(end));
                    position = if search { self.search_one(position + RECORD_GRANULE, known) } else { known };
                }
            }
        }
        walked
    }

    /// All records from `position` on, wherever they begin, and where the last one ends.
    fn search(&mut self, mut position: usize, end: usize, whole: &mut Vec<Summary>) -> usize {
        loop {
            let found = self.search_one(position, end);
            let Ok((summary, size)) = self.record(found.min(end), end) else { return position };
            whole.extend(summary);
            position = found + size;
        }
    }

    /// Where the next record begins, from `position` on; `end` when there is none before that.
    fn search_one(&mut self, position: usize, end: usize) -> usize {
        match self.search.next(Part { bytes: self.bytes, start: 0, is_last: true }, position, end) {
            Next::Record(position) => position,
            Next::NeedMore(_) | Next::None => end,
        }
    }

    fn is_zero(&self, position: usize) -> bool {
        self.bytes[position..position + RECORD_GRANULE].iter().all(|byte| *byte == 0)
    }

    /// The record at `position`, no summary for padding, and where the next may begin behind it.
    fn record(&self, position: usize, end: usize) -> Result<(Option<Summary>, usize), Damage> {
        let offset = u32::try_from(position).map_err(|_| Damage::Sizes)?;
        let record = record::decode(&self.bytes[position..end], self.table.place(offset))?;
        let summary = (record.header.kind != Kind::Padding).then(|| summary_of(&record, offset, self.salt));
        Ok((summary, granules_up(record.size())))
    }
}

/// What the footer says and what was met, side by side.
fn compare(named: &[Summary], walked: Walked, is_footer_whole: bool, examined: &mut Examined) {
    let (mut damaged, mut garbage, mut unnamed_count) = (Vec::new(), Vec::new(), 0);
    let (mut unlike_count, mut unlike_first) = (0, 0);
    let Walked { whole, bad } = walked;
    let why = |offset: u32| bad.binary_search_by_key(&offset, |(bad, _)| *bad).map(|index| bad[index].1);
    let mut met = whole.iter().peekable();
    for summary in named {
        while let Some(other) = met.next_if(|other| other.offset < summary.offset) {
            unnamed_count += u64::from(is_footer_whole);
            examined.words.extend((!is_footer_whole).then_some(Word { summary: *other, is_whole: true }));
        }
        let is_whole = match met.next_if(|other| other.offset == summary.offset) {
            Some(other) if is_same(other, summary) => true,
            Some(_) => {
                unlike_first = if unlike_count == 0 { summary.offset } else { unlike_first };
                unlike_count += 1;
                false
            }
            None => {
                // Zeros, or in the middle of something else: no record at all.
                damaged.push((summary.offset, why(summary.offset).unwrap_or(Damage::Kind)));
                false
            }
        };
        examined.words.push(Word { summary: *summary, is_whole });
    }
    for other in met {
        unnamed_count += u64::from(is_footer_whole);
        examined.words.extend((!is_footer_whole).then_some(Word { summary: *other, is_whole: true }));
    }
    let is_named = |offset: u32| named.binary_search_by_key(&offset, |summary| summary.offset).is_ok();
    garbage.extend(bad.iter().filter(|(offset, _)| !is_named(*offset)));
    examined.damaged_count = damaged.len() as u64 + unlike_count;
    let found = &mut examined.found;
    if !damaged.is_empty() {
        let count = damaged.len() as u64;
        damaged.truncate(NAMED_COUNT_MAX);
        found.push(Found::Records { count, first: damaged });
    }
    if unlike_count > 0 {
        found.push(Found::Summaries { count: unlike_count, first: unlike_first });
    }
    if unnamed_count > 0 {
        found.push(Found::Unnamed { count: unnamed_count });
    }
    if let Some((first, _)) = garbage.first() {
        found.push(Found::Garbage { count: garbage.len() as u64, first: *first });
    }
}

fn is_same(one: &Summary, other: &Summary) -> bool {
    let key = |summary: &Summary| {
        (summary.digest, summary.version, summary.expiry, summary.offset, summary.kind, summary.class)
    };
    key(one) == key(other)
}
