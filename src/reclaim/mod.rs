//! Getting tables back: which one, and emptying it.
//!
//! Records are not moved yet: a table is taken when nothing in it is alive, or, when the disk is full and eviction is
//! allowed, the oldest one with all that is in it, as memcached drops the tail of its LRU.

use std::io::Result;
use std::rc::Rc;

use crate::clock::{Seconds, is_expired};
use crate::disktable::catalog::{Catalog, TableState};
use crate::disktable::format::{Identity, MarkKind, Summary};
use crate::disktable::{reader, writer};
use crate::index::Index;
use crate::io::Io;

/// The table to be emptied next; `None` when there is none that may be.
///
/// A table without live records may go when it holds no guards either: what superseded its records is elsewhere. The
/// oldest may always go as far as guards are concerned, as there is nothing older that they could keep dead; its live
/// records are lost, so that takes `may_evict`.
#[must_use]
pub fn choose_victim<F>(catalog: &Catalog<F>, may_evict: bool) -> Option<u32> {
    let sealed = || catalog.iter().filter(|(_, table)| table.state == TableState::Sealed);
    let dead = sealed().filter(|(_, table)| table.live_count == 0 && table.guard_count == 0);
    if let Some((slot, _)) = dead.min_by_key(|(_, table)| table.sequence) {
        return Some(slot);
    }
    let (slot, oldest) = sealed().min_by_key(|(_, table)| table.sequence)?;
    (may_evict || oldest.live_count == 0).then_some(slot)
}

/// Drops every expired record from the index, and returns their number. They stay on disk and keep older versions of their
/// keys dead. Walks the whole index.
pub fn drop_expired<F>(index: &mut Index, catalog: &mut Catalog<F>, now: Seconds) -> u64 {
    let before = index.len();
    index.retain(|entry| {
        let keep = !is_expired(entry.expiry, now);
        if !keep {
            catalog.remove_live(entry.pointer.slot, entry.class);
            catalog.add_guard(entry.pointer.slot);
        }
        keep
    });
    (before - index.len()) as u64
}

/// Marks the table as free on disk and then visits what was in it, so that the caller can drop it from the index.
/// Says whether every record was visited; if not, the caller has to look through the whole index.
///
/// # Errors
/// When the table could not be marked; it must be left alone then, and nothing was visited.
pub async fn empty_table<I: Io>(
    io: &I,
    file: &Rc<I::File>,
    identity: Identity,
    sequence: u64,
    visit: impl FnMut(Summary),
) -> Result<bool> {
    let trailer = reader::read_mark(&**file, MarkKind::Trailer, identity).await;
    writer::free(&**file, identity, sequence, io.now()).await?;
    let Ok(Ok(trailer)) = trailer else { return Ok(false) };
    if trailer.sequence != sequence {
        return Ok(false);
    }
    Ok(matches!(reader::read_footer(io, &**file, &trailer, visit).await, Ok(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::SizeClass;

    /// Tables of (sequence, live records, guards).
    fn catalog(tables: &[(u64, u64, u64)]) -> Catalog<()> {
        let mut catalog = Catalog::new(tables.len());
        for (slot, (sequence, live_count, guard_count)) in (0..).zip(tables) {
            catalog.insert(slot, Some(Rc::new(())), TableState::Sealed, *sequence);
            (0..*live_count).for_each(|_| catalog.add_live(slot, SizeClass(4)));
            (0..*guard_count).for_each(|_| catalog.add_guard(slot));
        }
        catalog
    }

    #[test]
    fn dead_tables_go_first_and_the_oldest_only_by_eviction() {
        assert_eq!(choose_victim(&catalog(&[]), true), None);
        let alive = catalog(&[(7, 2, 0), (5, 1, 1), (6, 9, 0)]);
        assert_eq!(choose_victim(&alive, true), Some(1));
        assert_eq!(choose_victim(&alive, false), None);
        assert_eq!(choose_victim(&catalog(&[(7, 0, 0), (5, 1, 0), (6, 0, 0)]), false), Some(2));
    }

    #[test]
    fn a_table_with_guards_waits_until_it_is_the_oldest() {
        let guarded = catalog(&[(7, 0, 3), (5, 1, 0)]);
        assert_eq!(choose_victim(&guarded, false), None);
        assert_eq!(choose_victim(&guarded, true), Some(1));
        assert_eq!(choose_victim(&catalog(&[(7, 0, 3), (9, 1, 0)]), false), Some(0));
    }

    #[test]
    fn a_table_that_is_written_is_no_victim() {
        let mut only = catalog(&[(7, 0, 0)]);
        for state in [TableState::Writing, TableState::Sealing, TableState::Free, TableState::Unusable] {
            only.set_state(0, state);
            assert_eq!(choose_victim(&only, true), None);
        }
    }
}
