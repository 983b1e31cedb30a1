//! The table files of a shard, and what each holds.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dma_alloc::Buffer;

use super::checkpoint::is_checkpoint_name;
use crate::digest::Salt;
use crate::disktable::format::{Identity, Mark, MarkKind, RECORDS_START, Summary};
use crate::disktable::reader::{self, Scanned, Searched};
use crate::disktable::search::is_beyond_one_write;
use crate::error::OpenError;
use crate::io::{File, Io};
use crate::limits::{PAGE_SIZE, TABLE_COUNT_MAX};
use crate::memtable::TableUse;
use crate::record::Kind;

const PREFIX: &str = "table-";
const SUFFIX: &str = ".dmt";

/// The file of the table in `slot`.
#[must_use]
pub fn table_path(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("{PREFIX}{slot:06}{SUFFIX}"))
}

/// The slot in a table's file name; `None` when it is not one that [`table_path`] makes.
pub(super) fn slot_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let slot: u32 = digits.parse().ok()?;
    (digits.len() >= 6 && format!("{slot:06}") == digits && (slot as usize) < TABLE_COUNT_MAX).then_some(slot)
}

/// A table file as its first and last page describe it.
pub(super) struct Found<F> {
    pub(super) slot: u32,
    pub(super) file: Rc<F>,
    pub(super) what: What,
}

impl<F> Clone for Found<F> {
    fn clone(&self) -> Self {
        Self { slot: self.slot, file: Rc::clone(&self.file), what: self.what.clone() }
    }
}

impl<F> Found<F> {
    /// The trailer of a table that is sealed.
    pub(super) fn trailer(&self) -> Option<&Mark> {
        match &self.what {
            What::Sealed(trailer) => Some(trailer),
            What::Free { .. } | What::Unsealed { .. } | What::Foreign(_) => None,
        }
    }

    /// Records of a table that is sealed, as its trailer has it.
    pub(super) fn summary_count(&self) -> usize {
        self.trailer().map_or(0, |trailer| usize::try_from(trailer.summary_count).unwrap_or(0))
    }
}

/// What a table file is.
#[derive(Clone)]
pub(super) enum What {
    /// Nothing in it.
    Free { sequence: u64 },
    /// Records, and a trailer that says where their summaries are.
    Sealed(Mark),
    /// Records that have to be looked for.
    Unsealed { sequence: u64 },
    /// Neither its header nor its trailer is one of this slot.
    Foreign(String),
}

/// Opens all table files of the shard in `directory`, in no order.
///
/// # Errors
/// When the directory cannot be listed, or a table not be opened or not be read where it says what it is: serving without
/// it would make its records come back later over newer ones.
pub(super) async fn find_tables<I: Io>(
    io: &I,
    directory: &Path,
    identity: Identity,
) -> std::result::Result<Vec<Found<I::File>>, OpenError> {
    let mut tables = Vec::new();
    for name in io.list(directory).map_err(OpenError::io("list", directory))? {
        if is_checkpoint_name(&name) {
            continue;
        }
        let Some(slot) = slot_of(&name) else {
            tracing::warn!("{} is none of ours and is left alone", directory.join(name).display());
            continue;
        };
        let path = table_path(directory, slot);
        let file = io.open(&path).await.map_err(OpenError::io("open", &path))?;
        let what = identify(&file, Identity { slot, ..identity }).await.map_err(OpenError::io("read", &path))?;
        let size = file.size().await.map_err(OpenError::io("ask for the size of", &path))?;
        if matches!(what, What::Free { .. }) && size != identity.table_size {
            // A stop came between making the file and allocating it: nothing was ever in it.
            io.remove(&path).map_err(OpenError::io("remove", &path))?;
            continue;
        }
        tables.push(Found { slot, file: Rc::new(file), what });
    }
    Ok(tables)
}

/// What the first and the last page say. A page that cannot be read counts as damaged as long as the other one is whole.
///
/// # Errors
/// What a read says, when it hides what the file is.
pub(super) async fn identify<F: File>(file: &F, identity: Identity) -> Result<What> {
    let header = reader::read_mark(file, MarkKind::Header, identity).await;
    let trailer = reader::read_mark(file, MarkKind::Trailer, identity).await;
    if let (Ok(Ok(header)), Ok(Ok(trailer))) = (&header, &trailer)
        && header.sequence == trailer.sequence
    {
        return Ok(What::Sealed(*trailer));
    }
    if let Ok(Ok(header)) = header {
        return Ok(What::Unsealed { sequence: header.sequence });
    }
    let free = reader::read_mark(file, MarkKind::Free, identity).await;
    match (free, trailer) {
        // The header of a later use was never written, or is damaged: the trailer stands in for it.
        (Ok(Ok(free)), Ok(Ok(trailer))) if trailer.sequence > free.sequence => Ok(What::Sealed(trailer)),
        (Ok(Ok(free)), _) => Ok(What::Free { sequence: free.sequence }),
        (_, Ok(Ok(trailer))) => Ok(What::Sealed(trailer)),
        (_, Err(error)) => Err(error),
        (_, Ok(Err(_))) if is_blank(file).await => Ok(What::Free { sequence: 0 }),
        (_, Ok(Err(_))) => {
            header.map(|header| What::Foreign(header.err().map_or_else(String::new, |why| why.to_string())))
        }
    }
}

/// Whether the first page, and the one in which records begin, are as preallocation leaves them: a header is on stable media
/// before the first record, so the table was never used. With records in it, its header is gone.
async fn is_blank<F: File>(file: &F) -> bool {
    let size = RECORDS_START + PAGE_SIZE;
    let front = file.read_at(0, size, Buffer::zeroed(size)).await;
    front.is_ok_and(|(front, count)| front[..count].iter().all(|byte| *byte == 0))
}

/// The records of a table.
pub(super) struct Contents {
    /// One for each record that was found, in the order of their offsets.
    pub(super) summaries: Vec<Summary>,
    /// Where the next record would go.
    pub(super) records_end: u32,
    /// What lies behind the last record, if a scan has found where that is, and that nothing follows that counts.
    pub(super) tail: Option<Tail>,
    /// Whether the table is as a clean stop left it.
    pub(super) intact: bool,
    /// Whether all of it could be read. If not, it is left on disk as it is: the next start may read more.
    pub(super) readable: bool,
}

/// What of a table holds nothing that counts, as offsets in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Where the last record ends.
    pub(super) start: u32,
    /// From here on it is zeros.
    pub(super) dirty_end: u64,
}

/// Reads what the table holds: from its footer, or by scanning it when that is missing or damaged. `is_stopped`: nothing was
/// being written to it at the last stop.
pub(super) async fn read_contents<I: Io>(
    io: &I,
    table: &Found<I::File>,
    table_size: u64,
    salt: &Salt,
    is_stopped: bool,
) -> Contents {
    let trailer = match &table.what {
        What::Sealed(trailer) => trailer,
        What::Unsealed { sequence } => return scan(io, table, *sequence, (table_size, salt), is_stopped).await,
        What::Free { .. } | What::Foreign(_) => {
            return Contents { summaries: Vec::new(), records_end: 0, tail: None, intact: false, readable: false };
        }
    };
    let mut summaries = Vec::new();
    let footer = reader::read_footer(io, &*table.file, trailer, |summary| summaries.push(summary)).await;
    let records_end = u32::try_from(trailer.records_end).unwrap_or(0);
    match &footer {
        Ok(0) => return Contents { summaries, records_end, tail: None, intact: true, readable: true },
        Ok(count) => tracing::warn!("table {}: {count} pages of its footer are damaged, it is scanned", table.slot),
        Err(error) => tracing::warn!("table {}: its footer cannot be read ({error}), it is scanned", table.slot),
    }
    let scanned = scan(io, table, trailer.sequence, (table_size, salt), true).await;
    // What the scan cannot reach behind a damaged record, the whole pages of the footer still know, and the other way round.
    let (scanned_count, is_at_end) = (scanned.summaries.len(), scanned.records_end >= records_end);
    summaries.extend(scanned.summaries);
    summaries.sort_by_key(|summary| summary.offset);
    summaries.dedup_by_key(|summary| summary.offset);
    let is_scan_whole = is_at_end && footer.is_ok() && summaries.len() == scanned_count;
    Contents {
        summaries,
        records_end: records_end.max(scanned.records_end),
        tail: scanned.tail.filter(|_| is_scan_whole),
        intact: false,
        readable: scanned.readable && footer.is_ok(),
    }
}

/// Looks for the records of a table without using its footer.
async fn scan<I: Io>(
    io: &I,
    table: &Found<I::File>,
    sequence: u64,
    (table_size, salt): (u64, &Salt),
    is_stopped: bool,
) -> Contents {
    let mut summaries = Vec::new();
    let (file, usage) = (&*table.file, TableUse { slot: table.slot, sequence });
    let scanned = reader::scan(io, file, usage, table_size, salt, |summary| summaries.push(summary)).await;
    let Scanned { records_end, stop, .. } = scanned;
    let unreadable = |summaries, error| {
        tracing::error!("table {}: cannot be read beyond offset {stop}: {error}", table.slot);
        Contents { summaries, records_end, tail: None, intact: false, readable: false }
    };
    if let Some(error) = scanned.failure {
        return unreadable(summaries, error);
    }
    // A table that goes on is wiped from there on: not before it is known that nothing is lost with that.
    let mut behind = Vec::new();
    let searched = reader::search(io, file, (usage, table_size), stop, salt, |summary| behind.push(summary)).await;
    let Searched { last, dirty_end } = match searched {
        Ok(searched) => searched,
        Err(error) => return unreadable(summaries, error),
    };
    let is_torn = !is_stopped && !is_beyond_one_write(stop.into(), last.into(), table_size);
    if behind.is_empty() || is_torn {
        let tail = Some(Tail { start: scanned.exact_end, dirty_end });
        return Contents { summaries, records_end, tail, intact: false, readable: true };
    }
    let (slot, count) = (table.slot, behind.len());
    tracing::error!(
        "table {slot}: what lies at offset {stop} is damaged. The {count} records behind it are kept; what was there may be \
            lost: `dmacached verify` says more"
    );
    // If a power cut took a block before others that no sync had covered either, a touch may be of a value that is gone: it
    // would count for an older one.
    behind.retain(|summary| is_stopped || summary.kind != Kind::Touch);
    summaries.append(&mut behind);
    let records_end = last.next_multiple_of(PAGE_SIZE as u32);
    Contents { summaries, records_end, tail: None, intact: false, readable: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_written_are_read() {
        let directory = Path::new("/x");
        for slot in [0, 7, 999_999, 1_000_000] {
            let path = table_path(directory, slot);
            let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
            assert_eq!(slot_of(&name), Some(slot));
        }
        for name in
            ["table-7.dmt", "table-0000007.dmt", "table-00000a.dmt", "table-000001.dmt~", "x", "table-+00001.dmt"]
        {
            assert_eq!(slot_of(name), None, "{name}");
        }
    }
}
