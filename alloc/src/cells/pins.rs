//! Which cells are pinned, and which of them were given back meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::arena::Mapping;

/// Shared by cells and their pins, on one thread.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pinned: RefCell<HashMap<u32, Pinned>>,
    unpinned: RefCell<Vec<u32>>,
    unpinned_count: Cell<usize>,
    /// Bytes that are pinned.
    size: Cell<usize>,
}

#[derive(Debug, Default)]
struct Pinned {
    count: u32,
    /// Bytes of the longest part that was pinned.
    size: usize,
    /// Its cell was given back.
    is_left: bool,
}

impl Pins {
    fn add(&self, number: u32, size: usize) {
        let mut pinned = self.pinned.borrow_mut();
        let pin = pinned.entry(number).or_default();
        pin.count += 1;
        let grown = size.saturating_sub(pin.size);
        pin.size += grown;
        self.size.set(self.size.get() + grown);
    }

    /// Bytes that are pinned, each counted once.
    pub(super) fn size(&self) -> usize {
        self.size.get()
    }

    fn remove(&self, number: u32) {
        let mut pinned = self.pinned.borrow_mut();
        let Some(pin) = pinned.get_mut(&number) else { return };
        pin.count -= 1;
        if pin.count > 0 {
            return;
        }
        if pin.is_left {
            self.unpinned.borrow_mut().push(number);
            self.unpinned_count.set(self.unpinned_count.get() + 1);
        }
        self.size.set(self.size.get() - pin.size);
        pinned.remove(&number);
    }

    pub(super) fn is_pinned(&self, number: u32) -> bool {
        let pinned = self.pinned.borrow();
        !pinned.is_empty() && pinned.contains_key(&number)
    }

    /// Notes that a cell was given back; says whether it is pinned, and so is free only later.
    pub(super) fn leave(&self, number: u32) -> bool {
        let mut pinned = self.pinned.borrow_mut();
        if pinned.is_empty() {
            return false;
        }
        let pin = pinned.get_mut(&number);
        pin.map(|pin| pin.is_left = true).is_some()
    }

    /// A cell that was given back while it was pinned and is free now. Each is told once.
    #[inline]
    pub(super) fn next_unpinned(&self) -> Option<u32> {
        if self.unpinned_count.get() == 0 {
            return None;
        }
        self.unpinned_count.set(self.unpinned_count.get() - 1);
        self.unpinned.borrow_mut().pop()
    }
}

/// A body, or the front of one, that stays as it is as long as this lives.
pub struct PinnedCell {
    start: NonNull<u8>,
    size: usize,
    number: u32,
    pins: Rc<Pins>,
    /// Held for its drop.
    _mapping: Arc<Mapping>,
}

impl PinnedCell {
    /// Pins `size` bytes from `start` on, of the body of the cell with this number, which lies in `mapping`.
    pub(super) fn new(start: NonNull<u8>, size: usize, number: u32, pins: &Rc<Pins>, mapping: Arc<Mapping>) -> Self {
        pins.add(number, size);
        Self { start, size, number, pins: Rc::clone(pins), _mapping: mapping }
    }
}

impl Clone for PinnedCell {
    fn clone(&self) -> Self {
        Self::new(self.start, self.size, self.number, &self.pins, Arc::clone(&self._mapping))
    }
}

impl Deref for PinnedCell {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: 1. `Cells::pin` has checked that the body has so many bytes, and the chunk stays mapped as long as
        //         `self` has the mapping. 2. Initialised, as the kernel maps zeroes. 3. Nobody writes to a body that is
        //         pinned, nor gives its page to the system or to another class: the cell counts as taken.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl Drop for PinnedCell {
    fn drop(&mut self) {
        self.pins.remove(self.number);
    }
}

impl fmt::Debug for PinnedCell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PinnedCell({} bytes)", self.size)
    }
}
