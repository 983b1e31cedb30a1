//! The table files of a shard, and what each holds.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dma_alloc::Buffer;

use crate::digest::Salt;
use crate::disktable::format::{Identity, Mark, MarkKind, Summary};
use crate::disktable::reader;
use crate::error::OpenError;
use crate::io::{File, Io};
use crate::limits::{PAGE_SIZE, TABLE_COUNT_MAX};
use crate::memtable::TableUse;

const PREFIX: &str = "table-";
const SUFFIX: &str = ".dmt";

/// The file of the table in `slot`.
#[must_use]
pub fn table_path(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("{PREFIX}{slot:06}{SUFFIX}"))
}

/// The slot in a table's file name; `None` when it is not one that [`table_path`] makes.
fn slot_of(name: &str) -> Option<u32> {
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

/// What a table file is.
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
async fn identify<F: File>(file: &F, identity: Identity) -> Result<What> {
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

/// Whether the first page is as preallocation leaves it: a header is on stable media before the first record, so the
/// table was never used.
async fn is_blank<F: File>(file: &F) -> bool {
    let page = file.read_at(0, PAGE_SIZE, Buffer::zeroed(PAGE_SIZE)).await;
    page.is_ok_and(|(page, count)| page[..count].iter().all(|byte| *byte == 0))
}

/// The records of a table.
pub(super) struct Contents {
    /// One for each record that was found, in the order of their offsets.
    pub(super) summaries: Vec<Summary>,
    /// Where the next record would go.
    pub(super) records_end: u32,
    /// Where the last record ends, if a scan has found that: what follows it is not known to be zeros.
    pub(super) exact_end: Option<u32>,
    /// Whether the table is as a clean stop left it.
    pub(super) intact: bool,
    /// Whether all of it could be read. If not, it is left on disk as it is: the next start may read more.
    pub(super) readable: bool,
}

/// Reads what the table holds: from its footer, or by scanning it when that is missing or damaged.
pub(super) async fn read_contents<I: Io>(io: &I, table: &Found<I::File>, table_size: u64, salt: &Salt) -> Contents {
    let trailer = match &table.what {
        What::Sealed(trailer) => trailer,
        What::Unsealed { sequence } => return scan(io, table, *sequence, table_size, salt).await,
        What::Free { .. } | What::Foreign(_) => {
            return Contents { summaries: Vec::new(), records_end: 0, exact_end: None, intact: false, readable: false };
        }
    };
    let mut summaries = Vec::new();
    let footer = reader::read_footer(io, &*table.file, trailer, |summary| summaries.push(summary)).await;
    let records_end = u32::try_from(trailer.records_end).unwrap_or(0);
    match &footer {
        Ok(0) => return Contents { summaries, records_end, exact_end: None, intact: true, readable: true },
        Ok(count) => tracing::warn!("table {}: {count} pages of its footer are damaged, it is scanned", table.slot),
        Err(error) => tracing::warn!("table {}: its footer cannot be read ({error}), it is scanned", table.slot),
    }
    let scanned = scan(io, table, trailer.sequence, table_size, salt).await;
    // What the scan cannot reach behind a damaged record, the whole pages of the footer still know.
    if footer.is_err() || scanned.records_end >= records_end {
        return Contents { readable: scanned.readable && footer.is_ok(), ..scanned };
    }
    Contents { summaries, records_end, exact_end: None, intact: false, readable: scanned.readable }
}

async fn scan<I: Io>(io: &I, table: &Found<I::File>, sequence: u64, table_size: u64, salt: &Salt) -> Contents {
    let mut summaries = Vec::new();
    let usage = TableUse { slot: table.slot, sequence };
    let scanned = reader::scan(io, &*table.file, usage, table_size, salt, |summary| summaries.push(summary)).await;
    if let Some(error) = &scanned.failure {
        tracing::error!("table {}: reading it failed, what follows is not found now: {error}", table.slot);
    }
    let readable = scanned.failure.is_none();
    let exact_end = Some(scanned.exact_end);
    Contents { summaries, records_end: scanned.records_end, exact_end, intact: false, readable }
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
