//! Cells of many sizes, in equal pages: memory for a cache that shrinks and grows.
//!
//! A page holds cells of one size class; classes are up to an eighth apart. A page without a taken cell belongs to no
//! class and may become any other's, or goes back to the system when the budget has shrunk. Nothing here moves cells:
//! [`Cells::page_to_vacate`] says which page the owner can empty by moving its cells to others of their class.
//!
//! A cell is a head of `HEAD` bytes, for what the owner notes about it, and a body. While a cell is free, the first four
//! bytes of its head are the next free one's number and the others zero. So an owner that keeps a nonzero byte behind
//! them knows which of a page's cells are taken.
//!
//! A body can be [pinned](Cells::pin): it stays where it is, whatever becomes of the cell, until the last pin is gone.
//! Heads are no part of that.
//!
//! **Invariants:** memory is mapped in chunks that stay as long as the cells or a pin of theirs lives. A pinned body is
//! not written to, and its page not given back: the cell counts as taken until then.

mod pins;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;
use std::rc::Rc;

use crate::arena::{Arena, PageKind};
pub use pins::PinnedCell;
use pins::Pins;

/// Cells start at multiples of this many bytes within their page.
const GRANULE: usize = 16;
/// Pages that are mapped at once.
const PAGES_PER_CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 4;
/// End of a list.
const NONE: u32 = u32::MAX;
/// The class of a page that has none.
const NO_CLASS: u8 = u8::MAX;

/// The name of a cell: the number of its first granule of 16 bytes in all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CellId(u32);

impl CellId {
    /// The number.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The id that [`CellId::get`] was asked of. Another number makes an id of no cell: using it panics, or gives bytes of
    /// other cells.
    #[must_use]
    #[inline]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// Cells with heads of `HEAD` bytes.
#[derive(Debug)]
pub struct Cells<const HEAD: usize> {
    chunks: Vec<Arena>,
    pins: Rc<Pins>,
    pages: Vec<Page>,
    classes: Box<[Class]>,
    page_bits: u32,
    page_count_max: usize,
    /// Pages with cells.
    used_count: usize,
    /// Pages without cells that are still resident: the first of a list.
    spare: u32,
    spare_count: usize,
    /// Pages that were given back to the system: the first of a list.
    absent: u32,
}

/// One page's line in the table.
#[derive(Clone, Copy, Debug)]
struct Page {
    class: u8,
    /// Whether new cells may be taken here.
    is_open: bool,
    taken_count: u16,
    /// Cells that were handed out at least once.
    fresh_count: u16,
    free_head: u32,
    /// Its neighbours in the list that it is in.
    previous: u32,
    next: u32,
}

const EMPTY_PAGE: Page = Page {
    class: NO_CLASS,
    is_open: false,
    taken_count: 0,
    fresh_count: 0,
    free_head: NONE,
    previous: NONE,
    next: NONE,
};

#[derive(Debug)]
struct Class {
    size: u32,
    per_page: u16,
    /// The first of its pages with free cells in which cells may be taken.
    partial: u32,
    /// Free cells of these.
    free_count: u32,
}

/// The sizes of the cells of pages of `page_size` bytes, from about `size_min` bytes to half a page.
fn class_sizes(page_size: usize, size_min: usize) -> impl Iterator<Item = usize> {
    let mut wanted = size_min.next_multiple_of(GRANULE);
    std::iter::from_fn(move || {
        // As large as can be for the number of them that fits into a page; the next with an eighth less, or one less.
        let count = (page_size / wanted).max(1);
        let size = page_size / count / GRANULE * GRANULE;
        let next_count = (count - count / 9).min(count - 1).max(1);
        wanted = (page_size / next_count / GRANULE * GRANULE).max(size + GRANULE);
        (size <= page_size / 2).then_some(size)
    })
}

impl<const HEAD: usize> Cells<HEAD> {
    /// No cells yet, in pages of `page_size` bytes; the smallest cells have `size_min` bytes. There is no page until
    /// [`Self::set_budget`] has paid for one.
    ///
    /// # Panics
    /// When `page_size` is no power of two from 4 KiB to 4 MiB, or `size_min` below 32 or beyond half a page.
    #[must_use]
    pub fn new(page_size: usize, size_min: usize) -> Self {
        const { assert!(HEAD >= 4, "a free cell holds the number of the next") };
        assert!(page_size.is_power_of_two() && (1 << 12..=1 << 22).contains(&page_size), "{page_size} bytes a page");
        assert!(size_min >= 32.max(HEAD) && size_min <= page_size / 2, "cells of {size_min} bytes");
        let class = |size: usize| Class {
            size: size as u32,
            per_page: u16::try_from(page_size / size).unwrap_or(u16::MAX),
            partial: NONE,
            free_count: 0,
        };
        Self {
            chunks: Vec::new(),
            pins: Rc::default(),
            pages: Vec::new(),
            classes: class_sizes(page_size, size_min).map(class).collect(),
            page_bits: page_size.trailing_zeros(),
            page_count_max: 0,
            used_count: 0,
            spare: NONE,
            spare_count: 0,
            absent: NONE,
        }
    }

    /// Bytes of the pages that may be resident. What is beyond that goes back to the system as soon as it has no cells: see
    /// [`Self::is_over_budget`]. All that a cell's number can name is 64 GiB.
    pub fn set_budget(&mut self, size: usize) {
        self.page_count_max =
            (size >> self.page_bits).min(NONE as usize >> (self.page_bits - GRANULE.trailing_zeros()));
        self.trim();
    }

    /// Whether pages must be emptied.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        self.used_count > self.page_count_max
    }

    /// Whether all pages that the budget pays for have cells.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used_count >= self.page_count_max
    }

    /// Bytes that the budget pays for, in whole pages.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.page_count_max << self.page_bits
    }

    /// Bytes that are resident, or were and may be still: pages, and the table of them.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        ((self.used_count + self.spare_count) << self.page_bits) + self.table_size()
    }

    /// Bytes of the table of pages.
    #[must_use]
    pub fn table_size(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + self.classes.len() * size_of::<Class>()
    }

    /// Bytes of the largest cell, with its head.
    #[must_use]
    pub fn size_max(&self) -> usize {
        self.classes.last().map_or(0, |class| class.size as usize)
    }

    /// Bytes of a cell, with its head.
    #[must_use]
    pub fn size_of(&self, id: CellId) -> usize {
        self.classes[usize::from(self.pages[self.page_of(id)].class)].size as usize
    }

    /// Takes a cell for a head and `body_size` bytes. Its head is zeroed. `None` when there is none in the pages that the
    /// budget pays for, and when it would be larger than the largest.
    #[must_use]
    pub fn take(&mut self, body_size: usize) -> Option<CellId> {
        self.free_unpinned();
        let class = self.class_for(body_size)?;
        if self.classes[class].partial == NONE {
            self.add_page(class)?;
        }
        let number = self.classes[class].partial as usize;
        let (per_page, size) = (self.classes[class].per_page, self.classes[class].size);
        let Page { free_head, fresh_count, .. } = self.pages[number];
        let id = if free_head == NONE {
            self.pages[number].fresh_count += 1;
            CellId(self.first_granule(number) | (u32::from(fresh_count) * size / GRANULE as u32))
        } else {
            let id = CellId(free_head);
            let next = u32::from_le_bytes(*self.head(id).first_chunk().expect("a head has at least four bytes"));
            self.pages[number].free_head = next;
            id
        };
        self.pages[number].taken_count += 1;
        self.head_mut(id).fill(0);
        self.classes[class].free_count -= 1;
        if self.pages[number].taken_count == per_page {
            self.close(number);
        }
        Some(id)
    }

    /// Gives a cell back, when its pins are gone. The caller must not use `id` again. A page that has no cells any more is
    /// anybody's, or the system's.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn give(&mut self, id: CellId) {
        self.free_unpinned();
        self.head_mut(id).fill(0);
        if !self.pins.leave(id.0) {
            self.free(id);
        }
    }

    /// The head of a cell.
    ///
    /// # Panics
    /// When there is no such page.
    #[must_use]
    #[inline]
    pub fn head(&self, id: CellId) -> &[u8; HEAD] {
        let start = self.start(id);
        // SAFETY: 1. `start` has checked that a cell begins there, and cells are longer than heads. 2. Initialised, as the
        //         kernel maps zeroes. 3. Nobody writes there while `self` is borrowed.
        unsafe { start.cast().as_ref() }
    }

    /// The head of a cell, to be written.
    ///
    /// # Panics
    /// As [`Self::head`].
    #[must_use]
    #[inline]
    pub fn head_mut(&mut self, id: CellId) -> &mut [u8; HEAD] {
        let start = self.start(id);
        // SAFETY: 1.-2. as in `head`. 3. `&mut self` rules out slices of this cell but those of pins, which begin behind
        //         heads: `start` has checked that this is where a cell begins.
        unsafe { start.cast().as_mut() }
    }

    /// The body of a cell: as long as the cell allows, with what its last owner left.
    ///
    /// # Panics
    /// As [`Self::head`].
    #[must_use]
    #[inline]
    pub fn body(&self, id: CellId) -> &[u8] {
        let (start, size) = self.body_of(id);
        // SAFETY: 1. `body_of` says where in a mapped page the body lies. 2. Initialised, as the kernel maps zeroes.
        //         3. Nobody writes there while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), size) }
    }

    /// Writes `bytes` to the front of a body.
    ///
    /// # Panics
    /// When the cell is pinned, or has no room for them, and as [`Self::head`].
    pub fn fill(&mut self, id: CellId, bytes: &[u8]) {
        assert!(!self.pins.is_pinned(id.0), "what is pinned stays as it is");
        let (start, size) = self.body_of(id);
        assert!(bytes.len() <= size, "{} bytes for a body of {size}", bytes.len());
        // SAFETY: 1. `bytes` is readable for its length, and the body writable for at least that. 2. Bytes need no
        //         alignment. 3. No overlap: `bytes` cannot be borrowed from `self`, which is borrowed mutably, and it
        //         is not of a pin of this body, which has none.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
    }

    /// Copies head and body of a cell to another one of the same class.
    ///
    /// # Panics
    /// When they are not of the same class, or are the same, or `to` is pinned.
    pub fn copy(&mut self, from: CellId, to: CellId) {
        let size = self.size_of(from);
        assert!(from != to && self.size_of(to) == size, "another cell of the same class");
        assert!(!self.pins.is_pinned(to.0), "what is pinned stays as it is");
        let (source, target) = (self.start(from), self.start(to));
        // SAFETY: 1. Both are where cells of `size` bytes begin in mapped pages; `start` has checked that. 2. Two cells of a
        //         class do not overlap. 3. `&mut self`, and no pin: nobody has a slice of the target.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target.as_ptr(), size) };
    }

    /// Pins the first `size` bytes of a body: they stay as they are and where they are until the pin is dropped.
    ///
    /// # Panics
    /// When the body is shorter, and as [`Self::head`].
    #[must_use]
    pub fn pin(&self, id: CellId, size: usize) -> PinnedCell {
        let (start, size_max) = self.body_of(id);
        assert!(size <= size_max, "{size} bytes of a body of {size_max}");
        let mapping = self.chunks[self.page_of(id) >> CHUNK_BITS].mapping();
        PinnedCell::new(start, size, id.0, &self.pins, mapping)
    }

    /// Bytes that are pinned.
    #[must_use]
    pub fn pinned_size(&self) -> usize {
        self.pins.size()
    }

    /// A page whose cells all fit into others of their class; `None` when no class has as many free cells as a page. No
    /// cell is taken in the page from then on; it is to be emptied.
    #[must_use]
    pub fn page_to_vacate(&mut self) -> Option<usize> {
        // Cells that only a pin has kept are free by now: a page of nothing else needs nobody to empty it.
        self.free_unpinned();
        let class = self.classes.iter().position(|class| class.free_count >= u32::from(class.per_page))?;
        // The one with the fewest cells, of those that are open.
        let mut best = self.classes[class].partial;
        let mut number = best;
        for _ in 0..VACATE_CHOICE_COUNT {
            if number == NONE {
                break;
            }
            if self.pages[number as usize].taken_count < self.pages[best as usize].taken_count {
                best = number;
            }
            number = self.pages[number as usize].next;
        }
        let best = best as usize;
        let elsewhere = self.classes[class].free_count - self.free_in(best);
        if elsewhere < u32::from(self.pages[best].taken_count) {
            return None;
        }
        self.close(best);
        Some(best)
    }

    /// Whether a page that [`Self::page_to_vacate`] has chosen has no cells any more, or is in use again.
    #[must_use]
    pub fn is_vacated(&self, page: usize) -> bool {
        let Page { class, is_open, taken_count, .. } = self.pages[page];
        class == NO_CLASS || is_open || taken_count == self.classes[usize::from(class)].per_page
    }

    /// Takes a cell of the class of another one, in a page that is there and is not to be emptied.
    #[must_use]
    pub fn take_like(&mut self, id: CellId) -> Option<CellId> {
        let class = &self.classes[usize::from(self.pages[self.page_of(id)].class)];
        let body_size = class.size as usize - HEAD;
        if class.partial == NONE { None } else { self.take(body_size) }
    }

    /// The cells of a page that were ever taken, in their order, from the one with the number `first` in the page on.
    pub fn cells_of(&self, page: usize, first: usize) -> impl Iterator<Item = CellId> + use<HEAD> {
        let Page { class, fresh_count, .. } = self.pages[page];
        let size = if class == NO_CLASS { 0 } else { self.classes[usize::from(class)].size };
        let base = self.first_granule(page);
        (first as u32..u32::from(fresh_count)).map(move |number| CellId(base | (number * size / GRANULE as u32)))
    }

    /// Forgets all cells. Their memory goes back to the system, that of chunks with pins when these are gone.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.pages.clear();
        self.pins = Rc::default();
        for class in &mut self.classes {
            (class.partial, class.free_count) = (NONE, 0);
        }
        (self.used_count, self.spare, self.spare_count, self.absent) = (0, NONE, 0, NONE);
    }
}

/// Pages of a class that [`Cells::page_to_vacate`] looks at.
const VACATE_CHOICE_COUNT: usize = 64;

impl<const HEAD: usize> Cells<HEAD> {
    fn class_for(&self, body_size: usize) -> Option<usize> {
        let size = HEAD + body_size;
        let class = self.classes.partition_point(|class| (class.size as usize) < size);
        (class < self.classes.len()).then_some(class)
    }

    fn first_granule(&self, page: usize) -> u32 {
        (page as u32) << (self.page_bits - GRANULE.trailing_zeros())
    }

    #[inline]
    fn page_of(&self, id: CellId) -> usize {
        (id.0 >> (self.page_bits - GRANULE.trailing_zeros())) as usize
    }

    /// Where the cell begins: in a page that is mapped, at least a cell's size before its end.
    #[inline]
    fn start(&self, id: CellId) -> NonNull<u8> {
        let number = self.page_of(id);
        let page = &self.pages[number];
        let granules = id.0 & ((1 << (self.page_bits - GRANULE.trailing_zeros())) - 1);
        let size = self.classes[usize::from(page.class)].size;
        let offset = granules * GRANULE as u32;
        // In 32 bits, as that is what this costs.
        let is_cell = offset.is_multiple_of(size) && offset / size < u32::from(page.fresh_count);
        assert!(is_cell, "{id:?} is no cell");
        let in_chunk = (number & (PAGES_PER_CHUNK - 1)) << self.page_bits;
        // SAFETY: 1. Each page of the table is mapped, in the chunk of its number, and `offset` is below its size.
        unsafe { self.chunks[number >> CHUNK_BITS].start().add(in_chunk + offset as usize) }
    }

    /// Where the body begins, and its size.
    #[inline]
    fn body_of(&self, id: CellId) -> (NonNull<u8>, usize) {
        let start = self.start(id);
        // SAFETY: 1. A cell is longer than its head.
        (unsafe { start.add(HEAD) }, self.size_of(id) - HEAD)
    }

    fn free_in(&self, page: usize) -> u32 {
        let Page { class, taken_count, .. } = self.pages[page];
        u32::from(self.classes[usize::from(class)].per_page - taken_count)
    }

    /// Frees the cells that were given back while they were pinned, and are not any more.
    #[inline]
    fn free_unpinned(&mut self) {
        while let Some(number) = self.pins.next_unpinned() {
            self.free(CellId(number));
        }
    }

    fn free(&mut self, id: CellId) {
        let number = self.page_of(id);
        let next = self.pages[number].free_head.to_le_bytes();
        *self.head_mut(id).first_chunk_mut().expect("a head has at least four bytes") = next;
        let page = &mut self.pages[number];
        page.free_head = id.0;
        page.taken_count -= 1;
        let Page { class, is_open, taken_count, .. } = *page;
        let class = &mut self.classes[usize::from(class)];
        class.free_count += u32::from(is_open);
        if taken_count == 0 {
            self.close(number);
            self.used_count -= 1;
            self.keep_spare(number);
            self.trim();
        } else if taken_count + 1 == class.per_page {
            self.open(number);
        }
    }

    /// Lets cells be taken in a page that has free ones.
    fn open(&mut self, number: usize) {
        let class = usize::from(self.pages[number].class);
        let next = self.classes[class].partial;
        if next != NONE {
            self.pages[next as usize].previous = number as u32;
        }
        let page = &mut self.pages[number];
        (page.is_open, page.previous, page.next) = (true, NONE, next);
        self.classes[class].partial = number as u32;
        self.classes[class].free_count += self.free_in(number);
    }

    /// Lets no cell be taken in a page any more.
    fn close(&mut self, number: usize) {
        let Page { class, is_open, previous, next, .. } = self.pages[number];
        if !is_open {
            return;
        }
        if next != NONE {
            self.pages[next as usize].previous = previous;
        }
        if previous == NONE {
            self.classes[usize::from(class)].partial = next;
        } else {
            self.pages[previous as usize].next = next;
        }
        self.pages[number].is_open = false;
        self.classes[usize::from(class)].free_count -= self.free_in(number);
    }

    /// Gives a class one more page.
    fn add_page(&mut self, class: usize) -> Option<()> {
        if self.used_count >= self.page_count_max {
            return None;
        }
        let number = if self.spare != NONE {
            let number = self.spare;
            self.spare = self.pages[number as usize].next;
            self.spare_count -= 1;
            number
        } else {
            if self.absent == NONE {
                self.map_more()?;
            }
            let number = self.absent;
            self.absent = self.pages[number as usize].next;
            number
        };
        self.pages[number as usize] = Page { class: class as u8, ..EMPTY_PAGE };
        self.used_count += 1;
        self.open(number as usize);
        Some(())
    }

    fn keep_spare(&mut self, number: usize) {
        self.pages[number] = Page { next: self.spare, ..EMPTY_PAGE };
        self.spare = number as u32;
        self.spare_count += 1;
    }

    /// Gives spare pages beyond the budget back to the system.
    fn trim(&mut self) {
        while self.spare != NONE && self.used_count + self.spare_count > self.page_count_max {
            let number = self.spare as usize;
            self.spare = self.pages[number].next;
            self.spare_count -= 1;
            let offset = (number & (PAGES_PER_CHUNK - 1)) << self.page_bits;
            self.chunks[number >> CHUNK_BITS].discard(offset, 1 << self.page_bits);
            self.pages[number].next = self.absent;
            self.absent = number as u32;
        }
    }

    /// Maps another chunk of pages.
    fn map_more(&mut self) -> Option<()> {
        self.chunks.push(Arena::map(PAGES_PER_CHUNK << self.page_bits, PageKind::Plain).ok()?);
        let first = self.pages.len();
        self.pages.reserve_exact(PAGES_PER_CHUNK);
        self.pages.resize(first + PAGES_PER_CHUNK, EMPTY_PAGE);
        for number in (first..first + PAGES_PER_CHUNK).rev() {
            self.pages[number].next = self.absent;
            self.absent = number as u32;
        }
        Some(())
    }
}
