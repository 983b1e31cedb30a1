//! What an operation that cannot finish at once waits for.
//!
//! An operation is an ordinary function. It finishes, or it says what stands in its way and has done nothing yet, so
//! that it can simply be called again. Who calls it does the waiting: the asynchronous functions of
//! [`Store`](super::Store) do, and so does a loop that serves many clients at once.

use std::rc::Rc;
use std::time::Duration;

use crate::disktable::reader::ReadPlan;
use crate::index::Entry;
use crate::limits::PAGE_SIZE;
use crate::record::{self, Damage, Place, Record};

/// What an operation waits for. Nothing has been done yet: it is to be called again then.
#[derive(Debug)]
pub enum Obstacle<F> {
    /// The flusher will make room: see [`Store::progress_count`](super::Store::progress_count).
    Room,
    /// The record must be read first, and be held out when the operation is called again.
    Disk(DiskRead<F>),
    /// The device did not deliver the record: what was held out has no bytes. The record may be readable later.
    ReadFailed,
}

/// A device read that brings a record.
#[derive(Debug)]
pub struct DiskRead<F> {
    /// When a get found that it has to read; zero for others.
    pub(super) begun: Duration,
    pub(super) entry: Entry,
    pub(super) plan: ReadPlan<F>,
}

/// What such a read brought, for an operation that is called again.
#[derive(Debug)]
pub struct Held<'a, F> {
    /// The read.
    pub read: &'a DiskRead<F>,
    /// What it brought, from [`DiskRead::start`] on; `None`: the device failed.
    pub bytes: Option<&'a [u8]>,
}

/// What came of looking for a record.
#[derive(Debug)]
pub enum Sought<T, F> {
    /// There is none.
    Absent,
    /// It is in memory, and this is what the visit returned.
    Found(T),
    /// It must be read first.
    Disk(DiskRead<F>),
}

impl<F> Clone for DiskRead<F> {
    fn clone(&self) -> Self {
        let ReadPlan { ref file, place, start, size } = self.plan;
        Self { begun: self.begun, entry: self.entry, plan: ReadPlan { file: Rc::clone(file), place, start, size } }
    }
}

impl<F> DiskRead<F> {
    /// The file to be read.
    #[must_use]
    pub fn file(&self) -> &Rc<F> {
        &self.plan.file
    }

    /// Whether clients had fetched the record before the read was planned.
    #[must_use]
    pub fn was_fetched(&self) -> bool {
        self.entry.hotness > 0
    }

    /// Where in the file the read starts, in bytes; a multiple of the page.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.plan.start
    }

    /// Bytes to be read, whole pages.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plan.size
    }

    /// Which record it brings. The same place is the same record, as records on disk do not change: reads of it may be
    /// shared.
    #[must_use]
    pub fn place(&self) -> Place {
        self.plan.place
    }

    /// The record in `bytes`, with the expiry that it had when the read was planned.
    pub(super) fn record<'b>(&self, bytes: &'b [u8], key: &[u8]) -> Result<Record<'b>, Damage> {
        self.plan.record(bytes, key).map(|record| as_indexed(record, self.entry))
    }

    /// The record in `bytes`, where [`Store::examine`](super::Store::examine) has found it before: nothing is verified
    /// again.
    ///
    /// # Panics
    /// When it was not found there.
    #[must_use]
    pub fn verified_record<'b>(&self, bytes: &'b [u8]) -> Record<'b> {
        let record = record::decode_trusted(&bytes[self.plan.place.offset as usize % PAGE_SIZE..]);
        as_indexed(record.expect("the record was found in the same bytes before"), self.entry)
    }
}

/// The record with what the index knows better: a touch, and a fetch, change the index and not the record.
pub(super) const fn as_indexed<'a>(mut record: Record<'a>, entry: Entry) -> Record<'a> {
    record.header.expiry = entry.expiry;
    record.was_fetched = entry.hotness > 0;
    record
}
