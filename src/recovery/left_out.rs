//! Which tables' records are left out when the index has no room for all.

use crate::disktable::catalog::Catalog;

/// Part of the records that fit that are left out beyond what has to be, so that counting by a sample does not take many rounds.
const MARGIN: f64 = 0.02;

/// The tables that are to be left out so that there is room for the rest: the oldest ones of `tables`, which are in the order of
/// their sequences, but not the last one. The index was full when a part of all hashes, `fraction`, had come to it, and the
/// catalog has counted what had; as hashes are even, that is a sample of all. None, if nothing is left that could be.
pub(super) fn choose<F>(catalog: &Catalog<F>, tables: impl Iterator<Item = u32>, fraction: f64) -> Vec<u32> {
    let live_count = |slot: u32| catalog.get(slot).map_or(0, |table| table.live_count);
    let mut slots: Vec<u32> = tables.filter(|slot| catalog.get(*slot).is_some_and(|table| !table.forgotten)).collect();
    let all: u64 = slots.iter().map(|slot| live_count(*slot)).sum();
    slots.pop();
    let wanted = all as f64 * (1.0 - fraction + MARGIN);
    let mut left_out = 0;
    let count = slots.iter().take_while(|slot| {
        let goes_on = left_out == 0 || (left_out as f64) < wanted;
        left_out += live_count(**slot);
        goes_on
    });
    let count = count.count();
    slots.truncate(count);
    slots
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::disktable::catalog::TableState;
    use crate::record::SizeClass;

    /// Tables with so many live records each.
    fn catalog(live_counts: &[u64]) -> Catalog<()> {
        let mut catalog = Catalog::new(live_counts.len());
        for (slot, live_count) in (0..).zip(live_counts) {
            catalog.insert(slot, Some(Rc::new(())), TableState::Sealed, 10 + u64::from(slot));
            (0..*live_count).for_each(|_| catalog.add_live(slot, SizeClass(4)));
        }
        catalog
    }

    #[test]
    fn as_many_of_the_oldest_tables_are_left_out_as_there_is_no_room_for() {
        let ten = catalog(&[100; 10]);
        let choose = |fraction| choose(&ten, 0..10, fraction).len();
        assert_eq!(choose(0.999), 1);
        assert_eq!(choose(0.9), 2, "with the margin");
        assert_eq!(choose(0.5), 6);
        assert_eq!(choose(0.01), 9, "not the last one");
    }

    #[test]
    fn what_is_left_out_already_does_not_count() {
        let mut tables = catalog(&[0, 0, 50, 50, 100]);
        assert_eq!(choose(&tables, 0..5, 0.8), [0, 1, 2], "tables without live records do not help");
        tables.forget(0);
        tables.forget(1);
        assert_eq!(choose(&tables, 0..5, 0.8), [2]);
        (2..4).for_each(|slot| tables.forget(slot));
        assert_eq!(choose(&tables, 0..5, 0.8), [0; 0]);
    }
}
