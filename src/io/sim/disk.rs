//! What lies in a simulated file: what a read finds, and what of it a power cut leaves.
//!
//! A file is a row of pages that are shared between worlds until one of them writes, and zeros where nothing was ever
//! written, so a world is copied in the time that its page tables take. Beside them stand the writes that no sync has
//! covered yet: each of their sectors is on its way to the media by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::limits::PAGE_SIZE;

/// Bytes that a device with small sectors writes as one.
const SECTOR_SIZE: usize = 512;

/// A page; `None` is one of zeros.
type Page = Option<Rc<[u8; PAGE_SIZE]>>;

/// What a device writes as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sector {
    /// 512 bytes: a page that was being written is a mix of old and new ones.
    Small,
    /// A page, which is old or new; now and then it is torn all the same.
    #[default]
    Page,
    /// The same, and a part of a torn page may be neither old nor new: more than devices with power-loss protection do.
    Garbage,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    length: usize,
    pages: Vec<Page>,
    /// Pages that were written since they were last made stable.
    unsynced: BTreeMap<usize, Unsynced>,
    write_count: u64,
    /// The file may be missing, or be short, after a power cut: it was made, and never synced.
    pub(super) is_new: bool,
    /// Pages that cannot be read until they are written.
    bad: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Unsynced {
    stable: Page,
    versions: Vec<Version>,
}

#[derive(Clone, Debug)]
struct Version {
    number: u64,
    page: Page,
    /// A sync of it has failed: no later one makes it stable.
    is_stuck: bool,
}

/// Draws random numbers: the world's.
pub(super) type Draw<'a> = &'a mut dyn FnMut() -> u64;

fn page_of(bytes: &[u8]) -> Page {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut page = [0; PAGE_SIZE];
    page[..bytes.len()].copy_from_slice(bytes);
    Some(Rc::new(page))
}

fn bytes_of(page: &Page) -> &[u8; PAGE_SIZE] {
    static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    page.as_deref().unwrap_or(&ZEROS)
}

impl Disk {
    /// A file with these bytes, all of them stable.
    pub(super) fn stable(bytes: &[u8]) -> Self {
        let pages = bytes.chunks(PAGE_SIZE).map(page_of).collect();
        Self { length: bytes.len(), pages, ..Self::default() }
    }

    /// A file that was just made, with `length` zeros.
    pub(super) fn new(length: usize) -> Self {
        Self { length, pages: vec![None; length.div_ceil(PAGE_SIZE)], is_new: true, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn page_count(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pages.len() * PAGE_SIZE);
        self.pages.iter().for_each(|page| bytes.extend_from_slice(bytes_of(page)));
        bytes.truncate(self.length);
        bytes
    }

    pub(super) fn lengthen(&mut self, length: usize) {
        if self.length < length {
            self.length = length;
            self.pages.resize(length.div_ceil(PAGE_SIZE), None);
        }
    }

    /// Copies what lies at `start` to `target`, up to the end of the file, and says how much that was.
    pub(super) fn read(&self, start: usize, target: &mut [u8]) -> usize {
        let start = start.min(self.length);
        let count = target.len().min(self.length - start);
        let mut position = 0;
        while position < count {
            let (page, within) = ((start + position) / PAGE_SIZE, (start + position) % PAGE_SIZE);
            let size = (PAGE_SIZE - within).min(count - position);
            target[position..position + size].copy_from_slice(&bytes_of(&self.pages[page])[within..within + size]);
            position += size;
        }
        count
    }

    /// Puts what is stable of the pages at `start` to `target`, where a read has put newer bytes.
    pub(super) fn read_stale(&self, start: usize, target: &mut [u8]) {
        for (number, chunk) in (start / PAGE_SIZE..).zip(target.chunks_mut(PAGE_SIZE)) {
            if let Some(unsynced) = self.unsynced.get(&number) {
                chunk.copy_from_slice(&bytes_of(&unsynced.stable)[..chunk.len()]);
            }
        }
    }

    /// Whether a page of this range cannot be read.
    pub(super) fn is_bad(&self, start: usize, size: usize) -> bool {
        !self.bad.is_empty() && self.bad.range(start / PAGE_SIZE..(start + size).div_ceil(PAGE_SIZE)).next().is_some()
    }

    pub(super) fn spoil(&mut self, page: usize) {
        self.bad.insert(page);
    }

    /// Whole pages are written at `start`, into the device's cache.
    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        self.write_count += 1;
        self.lengthen(start + bytes.len());
        for (number, chunk) in (start / PAGE_SIZE..).zip(bytes.chunks(PAGE_SIZE)) {
            self.put(number, page_of(chunk));
        }
    }

    fn put(&mut self, number: usize, page: Page) {
        self.bad.remove(&number);
        let old = std::mem::replace(&mut self.pages[number], page.clone());
        let unsynced = self.unsynced.entry(number).or_insert_with(|| Unsynced { stable: old, versions: Vec::new() });
        unsynced.versions.push(Version { number: self.write_count, page, is_stuck: false });
    }

    /// The number of the last write: what [`Self::synced`] covers when it is asked for now.
    pub(super) fn write_count(&self) -> u64 {
        self.write_count
    }

    /// Writes up to `number` are on stable media now.
    pub(super) fn synced(&mut self, number: u64) {
        self.is_new = false;
        self.unsynced.retain(|_, unsynced| {
            let is_covered = |version: &Version| version.number <= number && !version.is_stuck;
            if let Some(last) = unsynced.versions.iter().rposition(is_covered) {
                let covered = unsynced.versions.drain(..=last).next_back();
                unsynced.stable = covered.and_then(|version| version.page);
            }
            !unsynced.versions.is_empty()
        });
    }

    /// The pages of a range are on stable media now, as they are.
    pub(super) fn range_is_stable(&mut self, start: usize, size: usize) {
        self.is_new = false;
        for number in start / PAGE_SIZE..(start + size).div_ceil(PAGE_SIZE) {
            self.unsynced.remove(&number);
        }
    }

    /// A sync of the writes up to `number` has failed: what of them is on the media is unknown, and no later sync helps.
    pub(super) fn sync_failed(&mut self, number: u64) {
        let versions = self.unsynced.values_mut().flat_map(|unsynced| &mut unsynced.versions);
        versions.filter(|version| version.number <= number).for_each(|version| version.is_stuck = true);
    }

    /// Whether there is something that a power cut may take.
    pub(super) fn has_unsynced(&self) -> bool {
        self.is_new || !self.unsynced.is_empty()
    }

    /// The power is cut: each sector that no sync has covered is as it was once since then. `None`: the file is not there.
    pub(super) fn cut(mut self, sector: Sector, odds: u64, draw: Draw<'_>) -> Option<Self> {
        if self.is_new {
            match draw() % 4 {
                0 => return None,
                1 => self.length = 0,
                2 => self.length = draw() as usize % (self.length / PAGE_SIZE + 1) * PAGE_SIZE,
                _ => {}
            }
        }
        for (number, Unsynced { stable, versions }) in std::mem::take(&mut self.unsynced) {
            let choices: Vec<Page> = std::iter::once(stable).chain(versions.into_iter().map(|it| it.page)).collect();
            self.pages[number] = one_of(&choices, sector, odds, draw);
        }
        self.pages.truncate(self.length.div_ceil(PAGE_SIZE));
        self.is_new = false;
        Some(self)
    }

    /// A write ends halfway: some of its sectors are there.
    pub(super) fn tear(&mut self, start: usize, bytes: &[u8], sector: Sector, odds: u64, draw: Draw<'_>) {
        self.write_count += 1;
        self.lengthen(start + bytes.len());
        for (number, chunk) in (start / PAGE_SIZE..).zip(bytes.chunks(PAGE_SIZE)) {
            let choices = [self.pages[number].clone(), page_of(chunk)];
            let torn = one_of(&choices, sector, odds, draw);
            self.put(number, torn);
        }
    }

    /// Changes one bit, behind everybody's back and for good.
    pub(super) fn flip(&mut self, bit: usize) {
        let (page, within) = (bit / 8 / PAGE_SIZE, bit / 8 % PAGE_SIZE);
        let page = self.pages[page].get_or_insert_with(|| Rc::new([0; PAGE_SIZE]));
        Rc::make_mut(page)[within] ^= 1 << (bit % 8);
    }

    /// One file with `bytes`, all stable, in the place of what there was.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        *self = Self::stable(bytes);
    }
}

/// What is left of a page that is written as the last of `choices`, when the power is cut: a new sector has reached the media
/// in `odds` of 8 cases.
fn one_of(choices: &[Page], sector: Sector, odds: u64, draw: Draw<'_>) -> Page {
    let choose = |draw: Draw<'_>| if draw() % 8 < odds { 1 + draw() as usize % (choices.len() - 1) } else { 0 };
    let (is_torn, chosen) = (draw().is_multiple_of(16), choose(draw));
    if sector != Sector::Small && !is_torn {
        return choices[chosen].clone();
    }
    let mut mixed = [0; PAGE_SIZE];
    for (number, part) in mixed.chunks_mut(SECTOR_SIZE).enumerate() {
        let start = number * SECTOR_SIZE;
        part.copy_from_slice(&bytes_of(&choices[choose(draw)])[start..start + SECTOR_SIZE]);
        if sector == Sector::Garbage && draw().is_multiple_of(32) {
            part.chunks_mut(8).for_each(|word| word.copy_from_slice(&draw().to_le_bytes()));
        }
    }
    page_of(&mixed)
}
