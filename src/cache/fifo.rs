//! S3-FIFO (Yang et al., SOSP 2023): which of the cached records goes next.
//!
//! A record comes into the *small* queue, which has a tenth of the bytes. At its end it moves to the *main* queue if it
//! was asked for in the meantime; otherwise it goes, and is remembered for a while. One that comes back while it is
//! remembered begins in the main queue. At the end of that, a record goes around again as often as it was asked for,
//! three times at most, and then goes for good. So what is read once or twice, as by a scan, passes through a tenth of
//! the memory only.
//!
//! A hit writes two bits. The queues are lists through the heads of the cells: 14 bytes a record, and nothing else.

use dma_alloc::{CellId, Cells, PinnedCell};

use crate::record::{HEADER_SIZE, claimed_size};

/// Bytes that are noted about a record: its neighbours, its place on disk, its frequency.
pub(super) const HEAD_SIZE: usize = 14;
/// The small queue has one in so many bytes.
const SMALL_PARTS: usize = 10;
/// Hits that are counted.
const FREQUENCY_MAX: u8 = 3;
/// Hits in the small queue that take a record to the main one.
const FREQUENCY_TO_STAY: u8 = 1;
/// No cell.
const NONE: u32 = u32::MAX;

const LIVE: u8 = 1;
const MAIN: u8 = 2;
const FREQUENCY_SHIFT: u32 = 2;

/// The smallest cell is for a record with a short key and next to no value.
const CELL_SIZE_MIN: usize = (HEAD_SIZE + HEADER_SIZE + 4).next_multiple_of(16);

/// What is noted about a record.
///
/// ```text
/// 0          4      8       13      14
/// | previous | next | place | flags |
/// ```
#[derive(Clone, Copy, Debug)]
struct Note {
    previous: u32,
    next: u32,
    /// Of its record on disk, in granules over all tables.
    place: u64,
    flags: u8,
}

impl Note {
    #[inline]
    fn of(bytes: &[u8; HEAD_SIZE]) -> Self {
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a head has 14 bytes"));
        let place = u64::from(word(8)) | u64::from(bytes[12]) << 32;
        Self { previous: word(0), next: word(4), place, flags: bytes[13] }
    }

    #[inline]
    fn write(self, bytes: &mut [u8; HEAD_SIZE]) {
        bytes[..4].copy_from_slice(&self.previous.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.next.to_le_bytes());
        bytes[8..13].copy_from_slice(&self.place.to_le_bytes()[..5]);
        bytes[13] = self.flags;
    }

    fn frequency(self) -> u8 {
        self.flags >> FREQUENCY_SHIFT
    }
}

/// One of the two queues.
#[derive(Debug)]
struct Queue {
    /// The one that came last.
    head: u32,
    /// The one that goes next.
    tail: u32,
    len: usize,
    /// Bytes of its cells.
    size: usize,
}

const EMPTY: Queue = Queue { head: NONE, tail: NONE, len: 0, size: 0 };

/// Where a record was when its turn came to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Small,
    Main,
}

/// Records in cells, in two queues.
#[derive(Debug)]
pub(super) struct Fifo {
    pub(super) cells: Cells<HEAD_SIZE>,
    small: Queue,
    main: Queue,
    /// Bytes of the records.
    record_size: usize,
}

impl Fifo {
    pub(super) fn new(page_size: usize) -> Self {
        Self { cells: Cells::new(page_size, CELL_SIZE_MIN), small: EMPTY, main: EMPTY, record_size: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    pub(super) fn record_size(&self) -> usize {
        self.record_size
    }

    /// Bytes of the cells with records.
    pub(super) fn cell_size(&self) -> usize {
        self.small.size + self.main.size
    }

    pub(super) fn clear(&mut self) {
        self.cells.clear();
        (self.small, self.main, self.record_size) = (EMPTY, EMPTY, 0);
    }

    #[inline]
    fn note(&self, id: CellId) -> Note {
        Note::of(self.cells.head(id))
    }

    fn queue(&mut self, flags: u8) -> &mut Queue {
        if flags & MAIN == 0 { &mut self.small } else { &mut self.main }
    }

    /// The record in a cell.
    #[inline]
    pub(super) fn record(&self, id: CellId) -> &[u8] {
        let body = self.cells.body(id);
        &body[..claimed_size(body).expect("whole records are cached")]
    }

    pub(super) fn pin(&self, id: CellId) -> PinnedCell {
        self.cells.pin(id, self.record(id).len())
    }

    #[inline]
    pub(super) fn place(&self, id: CellId) -> u64 {
        self.note(id).place
    }

    pub(super) fn set_place(&mut self, id: CellId, place: u64) {
        let note = Note { place, ..self.note(id) };
        note.write(self.cells.head_mut(id));
    }

    /// Whether the record is one of those that stay.
    pub(super) fn is_hot(&self, id: CellId) -> bool {
        let note = self.note(id);
        note.flags & MAIN != 0 || note.frequency() > 0
    }

    /// Whether a cell of a page has a record.
    pub(super) fn is_live(&self, id: CellId) -> bool {
        self.note(id).flags & LIVE != 0
    }

    /// Notes that a record was asked for.
    #[inline]
    pub(super) fn hit(&mut self, id: CellId) {
        let flags = self.note(id).flags;
        if flags >> FREQUENCY_SHIFT < FREQUENCY_MAX {
            self.cells.head_mut(id)[HEAD_SIZE - 1] = flags + (1 << FREQUENCY_SHIFT);
        }
    }

    /// Puts a record, whose place on disk is given, into a cell that was just taken.
    pub(super) fn insert(&mut self, id: CellId, record: &[u8], place: u64, to_main: bool) {
        self.cells.fill(id, record);
        let flags = if to_main { LIVE | MAIN } else { LIVE };
        Note { previous: NONE, next: NONE, place, flags }.write(self.cells.head_mut(id));
        self.push(id);
        self.record_size += record.len();
    }

    /// Takes a record out and gives its cell back.
    pub(super) fn remove(&mut self, id: CellId) {
        self.record_size -= self.record(id).len();
        self.unlink(id);
        self.cells.give(id);
    }

    /// The record that goes next, which is still there, after some that did not have to go have moved: no more than a
    /// few. `None`: all that were looked at stay for now, or there are none.
    pub(super) fn victim(&mut self) -> Option<(CellId, From)> {
        for _ in 0..4 {
            let is_small_due = self.small.size * SMALL_PARTS > self.cell_size() || self.main.len == 0;
            let queue = if is_small_due { &self.small } else { &self.main };
            if queue.tail == NONE {
                return None;
            }
            let id = CellId::from_number(queue.tail);
            let note = self.note(id);
            let frequency = note.frequency();
            match is_small_due {
                true if frequency < FREQUENCY_TO_STAY => return Some((id, From::Small)),
                false if frequency == 0 => return Some((id, From::Main)),
                _ => {}
            }
            let frequency = if is_small_due { 0 } else { frequency - 1 };
            self.unlink(id);
            let note = Note { flags: LIVE | MAIN | frequency << FREQUENCY_SHIFT, ..note };
            note.write(self.cells.head_mut(id));
            self.push(id);
        }
        None
    }

    /// Moves a record to another cell of the same class.
    pub(super) fn relocate(&mut self, from: CellId, to: CellId) {
        self.cells.copy(from, to);
        let note = self.note(from);
        self.link(note.previous, note.next, to);
        let queue = self.queue(note.flags);
        if note.previous == NONE {
            queue.head = to.get();
        }
        if note.next == NONE {
            queue.tail = to.get();
        }
        self.cells.give(from);
    }

    /// Makes `id` the one that comes after `previous` and before `next`, as those know it.
    fn link(&mut self, previous: u32, next: u32, id: CellId) {
        if previous != NONE {
            self.set_next(previous, id.get());
        }
        if next != NONE {
            self.set_previous(next, id.get());
        }
    }

    fn set_next(&mut self, id: u32, next: u32) {
        self.cells.head_mut(CellId::from_number(id))[4..8].copy_from_slice(&next.to_le_bytes());
    }

    fn set_previous(&mut self, id: u32, previous: u32) {
        self.cells.head_mut(CellId::from_number(id))[..4].copy_from_slice(&previous.to_le_bytes());
    }

    /// Puts a record at the head of the queue that its flags name.
    fn push(&mut self, id: CellId) {
        let (note, size) = (self.note(id), self.cells.size_of(id));
        let queue = self.queue(note.flags);
        let next = std::mem::replace(&mut queue.head, id.get());
        queue.len += 1;
        queue.size += size;
        if next == NONE {
            queue.tail = id.get();
        } else {
            self.set_previous(next, id.get());
        }
        Note { previous: NONE, next, ..note }.write(self.cells.head_mut(id));
    }

    fn unlink(&mut self, id: CellId) {
        let (note, size) = (self.note(id), self.cells.size_of(id));
        let queue = self.queue(note.flags);
        queue.len -= 1;
        queue.size -= size;
        if note.previous == NONE {
            queue.head = note.next;
        }
        if note.next == NONE {
            queue.tail = note.previous;
        }
        if note.previous != NONE {
            self.set_next(note.previous, note.next);
        }
        if note.next != NONE {
            self.set_previous(note.next, note.previous);
        }
    }
}

#[cfg(test)]
impl Fifo {
    /// Checks that the queues are whole.
    pub(super) fn invariants(&self) {
        let mut record_size = 0;
        for (queue, flag) in [(&self.small, 0), (&self.main, MAIN)] {
            let (mut len, mut size, mut previous, mut at) = (0, 0, NONE, queue.head);
            while at != NONE {
                let id = CellId::from_number(at);
                let note = self.note(id);
                assert_eq!((note.previous, note.flags & (LIVE | MAIN)), (previous, LIVE | flag));
                (len, size) = (len + 1, size + self.cells.size_of(id));
                record_size += self.record(id).len();
                (previous, at) = (at, note.next);
            }
            assert_eq!((len, size, previous), (queue.len, queue.size, queue.tail));
        }
        assert_eq!(record_size, self.record_size);
    }
}
