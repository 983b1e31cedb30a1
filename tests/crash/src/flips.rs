//! Damaged files: bits that have changed, files that are cut short, missing, of another store or in the place of
//! another. Each key must read as it was, or be missing; a start that is refused must say which file is to blame.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use dmacached::io::Io;
use dmacached::io::sim::Sim;

use crate::model::{Fault, Item, Wrong};
use crate::plan::{DIRECTORY, End, Mode, Plan};
use crate::random::Random;
use crate::run::{Run, recount};

/// Flips that are tried on one store.
const FLIPS_PER_IMAGE: u64 = 100;
const PAGE_BITS: u64 = 8 * 4096;

/// What came of the flips.
#[derive(Debug, Default)]
struct Tally {
    flips: u64,
    images: u64,
    /// Every key reads as before.
    harmless: u64,
    /// Keys are missing.
    with_losses: u64,
    lost: u64,
    /// Keys that read as they were before their last change, in tables that were not sealed or files that were swapped.
    older: u64,
    /// The start was refused, with the name of the file.
    refused: u64,
}

/// A stopped store.
struct Image {
    run: Rc<Run>,
    world: Sim,
    found: Vec<Option<Item>>,
    is_closed: bool,
}

/// What is done to an image.
#[derive(Clone, Debug)]
enum Damage {
    Bits(PathBuf, Vec<usize>),
    Cut(PathBuf, usize),
    Missing(PathBuf),
    Copied { from: PathBuf, to: PathBuf },
    Foreign(PathBuf),
}

impl Image {
    /// The image of `seed`; `None` when there is nothing to be damaged.
    fn new(seed: u64) -> Result<Option<Self>, Fault> {
        let mut plan = Plan::new(seed, Mode::Kill);
        let is_closed = seed.is_multiple_of(2);
        if let Some(last) = plan.lives.last_mut() {
            last.end = if is_closed { End::Close } else { End::Kill };
            last.cut_after = last.cut_after.filter(|_| !is_closed);
            last.pause = 0;
        }
        let run = Run::new(&plan, false);
        let Some((world, _)) = run.all_but_the_last_start()? else { return Ok(None) };
        let sound = world.after_kill();
        let store = run.start(&sound)?.map_err(|error| Fault::new(Wrong::Open, error.to_string()))?;
        let found = run.all(&sound, &store)?;
        let is_flushed_soon = store.flush_due().is_some();
        // What a full store evicts when it is opened it may not evict when it is opened with less in it.
        let has_evicted = store.counters().evictions > 0;
        drop(store);
        sound.end();
        // What expires while it is looked at would seem lost.
        let expires = |item: &Option<Item>| item.is_some_and(|item| item.expiry != 0);
        if is_flushed_soon || has_evicted || found.iter().any(expires) {
            return Ok(None);
        }
        Ok(found.iter().any(Option::is_some).then_some(Self { run, world, found, is_closed }))
    }

    fn damage(&self, random: &mut Random) -> Damage {
        let paths = self.world.paths();
        let is_lock = |path: &&PathBuf| path.ends_with("lock");
        let paths: Vec<&PathBuf> = paths.iter().filter(|path| !is_lock(path)).collect();
        let path = paths[random.below(paths.len() as u64) as usize].clone();
        let bytes = self.world.read_small(&path).ok().flatten().unwrap_or_default();
        let length = bytes.len() as u64;
        if length == 0 {
            return Damage::Missing(path);
        }
        match random.below(40) {
            0 => Damage::Cut(path, random.below(length) as usize),
            1 => Damage::Missing(path),
            2 => Damage::Copied { from: paths[random.below(paths.len() as u64) as usize].clone(), to: path },
            3 => Damage::Foreign(path),
            kind => {
                let count = if kind < 8 { random.between(2, 8) } else { 1 };
                Damage::Bits(path, (0..count).map(|_| Self::bit(random, &bytes)).collect())
            }
        }
    }

    /// A bit of a file: mostly of a page that is not zeros.
    fn bit(random: &mut Random, bytes: &[u8]) -> usize {
        let bit_count = bytes.len() as u64 * 8;
        for _ in 0..20 {
            let bit = random.below(bit_count);
            let page = (bit / PAGE_BITS * PAGE_BITS / 8) as usize;
            let page = &bytes[page..bytes.len().min(page + 4096)];
            let used = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            if used > 0 {
                return (bit / PAGE_BITS * PAGE_BITS + random.below(used * 8)) as usize;
            }
        }
        random.below(bit_count) as usize
    }

    fn damaged(&self, damage: &Damage, foreign: &Self) -> Sim {
        let world = self.world.after_kill();
        let read = |world: &Sim, path: &PathBuf| world.read_small(path).ok().flatten();
        match damage {
            Damage::Bits(path, bits) => bits.iter().for_each(|bit| world.flip(path, *bit)),
            Damage::Cut(path, length) => world.tamper(path, |bytes| bytes.truncate(*length)),
            Damage::Missing(path) => world.remove(path).expect("it was listed"),
            Damage::Copied { from, to } => {
                let bytes = read(&world, from).unwrap_or_default();
                world.tamper(to, |contents| *contents = bytes);
            }
            Damage::Foreign(path) => {
                if let Some(bytes) = read(&foreign.world, path) {
                    world.tamper(path, |contents| *contents = bytes);
                }
            }
        }
        world
    }

    /// Opens the damaged store and reads every key.
    fn try_damage(&self, damage: &Damage, foreign: &Self, tally: &mut Tally) -> Result<(), Fault> {
        let world = self.damaged(damage, foreign);
        self.run.model.borrow_mut().leniency.lied = true;
        tally.flips += 1;
        let store = match self.run.start(&world)? {
            Ok(store) => store,
            Err(error) => {
                tally.refused += 1;
                if error.to_string().contains(DIRECTORY) {
                    return Ok(());
                }
                return Err(Fault::new(Wrong::Open, format!("no file is named: {error}")));
            }
        };
        let found = self.run.all(&world, &store);
        let counted = recount(&store);
        // A table that is not usable any more is missing where there was just enough room.
        let is_smaller = store.counters().evictions > 0;
        drop(store);
        world.end();
        let found = found?;
        counted?;
        let pairs = || self.found.iter().zip(&found);
        let lost = pairs().filter(|(before, now)| before.is_some() && now.is_none()).count() as u64;
        let older = pairs().filter(|(before, now)| before != now && now.is_some()).count() as u64;
        (tally.lost, tally.older) = (tally.lost + lost, tally.older + older);
        tally.harmless += u64::from(lost + older == 0);
        tally.with_losses += u64::from(lost > 0);
        let is_one_bit = matches!(damage, Damage::Bits(_, bits) if bits.len() == 1);
        if self.is_closed && is_one_bit && !is_smaller && (older > 0 || lost > 1) {
            let text = format!("one bit of a closed store: {lost} keys are missing, {older} are older");
            return Err(Fault::new(if older > 0 { Wrong::Resurrected } else { Wrong::Lost }, text));
        }
        Ok(())
    }
}

/// Damages stores and opens them; says whether nothing was wrong.
pub(crate) fn run_flips(start: u64, flips: u64) -> bool {
    let begun = Instant::now();
    let (mut tally, mut seed, mut faults) = (Tally::default(), start, 0);
    let mut foreign: Option<Image> = None;
    while tally.flips < flips && faults == 0 {
        match Image::new(seed) {
            Ok(Some(image)) => {
                let other = foreign.as_ref().unwrap_or(&image);
                tally.images += 1;
                let random = &mut Random::new(seed);
                for number in 0..FLIPS_PER_IMAGE.min(flips - tally.flips) {
                    let damage = image.damage(random);
                    if let Err(fault) = image.try_damage(&damage, other, &mut tally) {
                        println!("image {seed}, flip {number}, {damage:?}: {fault}");
                        println!(
                            "again: cargo run --release -p dmacached-crash -- --mode flips --start {seed} --flips {}",
                            number + 1
                        );
                        faults += 1;
                    }
                }
                foreign = Some(image);
            }
            Ok(None) => {}
            Err(fault) => {
                println!("image {seed}: {fault}");
                faults += 1;
            }
        }
        seed += 1;
    }
    let Tally { flips, images, harmless, with_losses, lost, older, refused } = tally;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{flips} flips of {images} stores: {harmless} harmless, {with_losses} cost {lost} keys, {refused} starts refused"
    );
    println!(
        "{older} keys read as before their last change, in tables that were not sealed or files put in others' places"
    );
    println!(
        "wrong values and other faults: {faults}. {:.0} flips per second ({seconds:.1} s)",
        flips as f64 / seconds.max(1e-9)
    );
    faults == 0
}
