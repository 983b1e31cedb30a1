//! Sequences of operations on an index, made from bytes and checked against a map.
//!
//! libFuzzer grows such bytes by what they reach (`fuzz_targets/index.rs`, for a nightly toolchain); the program `replay`
//! runs files of them and pseudo-random ones with any toolchain. Both do the same with the same bytes.
//!
//! The first bytes choose the layout, the memory budget and how digests are spread, the others are steps of equal size
//! ([`input`]). What an input may cost is bounded ([`checked`]). The files of `corpus/index` are seeds, made by hand,
//! whose names say what they reach: where a fuzzer begins.

pub mod checked;
pub mod input;

use checked::Checked;
use input::{Input, Layout};

/// Runs an input to its end.
///
/// # Panics
/// When the index does not do what a map does, or one of its invariants does not hold.
pub fn check(bytes: &[u8]) {
    let Some(input) = Input::decode(bytes) else { return };
    match input.layout {
        Layout::Full => Checked::<28, 1792, 512>::new(&input).run(&input),
        Layout::Dense => Checked::<19, 1216, 576>::new(&input).run(&input),
        Layout::Small => Checked::<28, 56, 384>::new(&input).run(&input),
        Layout::Tiny => Checked::<19, 76, 348>::new(&input).run(&input),
    }
}
