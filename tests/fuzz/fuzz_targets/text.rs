//! The parser of text and meta commands under libFuzzer:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz text`, or without cargo-fuzz as `tests/run` does.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dmacached_fuzz::requests::check_text(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this is built by cargo-fuzz; without it there is the program `replay`");
    std::process::exit(2);
}
