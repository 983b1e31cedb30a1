//! Listing all keys.

use super::operations::KEY_BINARY;
use super::{After, Answers, Shard};
use crate::io::Io;
use crate::limits::{CACHEDUMP_SIZE_MAX, ITEM_OVERHEAD_SIZE};
use crate::protocol::text::dump::{DumpItem, encode_cachedump, encode_metadump, encode_mgdump};
use crate::protocol::text::encode::{Answer, encode_answer};
use crate::protocol::{AdminAnswer, Classes, DumpStyle};
use crate::store::{Store, Walked, Walker};

/// A list of keys that is being made.
pub struct Dump<I: Io> {
    walker: Walker<I>,
    lines: Lines<I>,
}

/// What the lines need to know.
struct Lines<I: Io> {
    store: Store<I>,
    style: DumpStyle,
    cas_enabled: bool,
    /// Lines and bytes so far.
    count: u32,
    size: usize,
}

impl<I: Io> Shard<I> {
    /// A list of all keys, after [`Self::begin_dump`] has allowed it.
    #[must_use]
    pub fn dump(&self, style: DumpStyle) -> Dump<I> {
        let (store, cas_enabled) = (self.store.clone(), self.facts.cas_enabled);
        Dump { walker: self.store.walk(), lines: Lines { store, style, cas_enabled, count: 0, size: 0 } }
    }

    /// The list that was made last, or was given up, is done: another may be begun.
    pub fn dump_ended(&self, style: DumpStyle) {
        if !matches!(style, DumpStyle::Cached { .. }) {
            self.crawler.is_busy.set(false);
        }
    }

    /// Whether a list may be made: it is answered with that, or else with a refusal.
    pub(super) fn begin_dump(
        &self,
        style: DumpStyle,
        classes: Classes,
        answers: &mut impl Answers<I::File>,
    ) -> Result<After, AdminAnswer> {
        let is_allowed = self.facts.dump_enabled;
        let (not_allowed, pipelined) = match style {
            DumpStyle::Cached { .. } if !is_allowed => return Err(AdminAnswer::CachedumpNotAllowed),
            DumpStyle::Cached { refusal: Some(refusal), .. } => return Err(refusal),
            DumpStyle::Cached { .. } if classes == Classes::All => return Ok(After::Dump(style)),
            DumpStyle::Cached { .. } => {
                encode_end(answers.buffer(), style);
                return Ok(After::Continue);
            }
            DumpStyle::Metadata => (AdminAnswer::MetadumpNotAllowed, AdminAnswer::MetadumpPipelined),
            DumpStyle::MetaGet => (AdminAnswer::KeyDumpNotAllowed, AdminAnswer::KeyDumpPipelined),
        };
        match classes {
            _ if !self.store.is_crawler_enabled() => Err(AdminAnswer::CrawlerDisabled),
            _ if !is_allowed => Err(not_allowed),
            _ if !answers.is_idle() => Err(pipelined),
            Classes::Bad => Err(AdminAnswer::BadClass),
            Classes::None => Err(AdminAnswer::NothingToCrawl),
            _ if self.crawler.is_busy.get() => Err(AdminAnswer::CrawlerBusy),
            Classes::Others => {
                encode_end(answers.buffer(), style);
                Ok(After::Continue)
            }
            Classes::All | Classes::Hash => {
                self.crawler.is_busy.set(true);
                Ok(After::Dump(style))
            }
        }
    }
}

impl<I: Io> Dump<I> {
    /// What is being listed.
    #[must_use]
    pub fn style(&self) -> DumpStyle {
        self.lines.style
    }

    /// Appends some lines to `out`, maybe none, and what ends the list behind the last. Says whether there is more.
    pub async fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let lines = &mut self.lines;
        let has_more = self.walker.step(&mut |record| lines.append(record, out)).await && !lines.is_full();
        if !has_more {
            encode_end(out, lines.style);
        }
        has_more
    }
}

impl<I: Io> Lines<I> {
    fn is_full(&self) -> bool {
        match self.style {
            DumpStyle::Cached { limit, .. } => (limit > 0 && self.count == limit) || self.size >= CACHEDUMP_SIZE_MAX,
            DumpStyle::Metadata | DumpStyle::MetaGet => false,
        }
    }

    fn append(&mut self, record: &Walked<'_>, out: &mut Vec<u8>) {
        if self.is_full() {
            return;
        }
        let Walked { key, header, value_size, written, was_fetched, on_disk } = *record;
        let flags_size = if header.client_flags == 0 { 0 } else { size_of::<u32>() };
        let item = DumpItem {
            key,
            is_key_binary: header.bits & KEY_BINARY != 0,
            expiry: header.expiry,
            last_access: written,
            cas: if self.cas_enabled { self.store.cas_of(&header) } else { 0 },
            was_fetched,
            client_flags: header.client_flags,
            value_size,
            item_size: ITEM_OVERHEAD_SIZE + key.len() + flags_size + value_size,
            on_disk,
        };
        let start = out.len();
        match self.style {
            DumpStyle::Metadata => encode_metadump(out, &item),
            DumpStyle::MetaGet => encode_mgdump(out, &item),
            DumpStyle::Cached { .. } => encode_cachedump(out, &item),
        }
        self.count += 1;
        self.size += out.len() - start;
    }
}

fn encode_end(out: &mut Vec<u8>, style: DumpStyle) {
    match style {
        DumpStyle::MetaGet => out.extend_from_slice(b"EN\r\n"),
        DumpStyle::Metadata | DumpStyle::Cached { .. } => encode_answer(out, Answer::End),
    }
}
