//! Pages of tables under libFuzzer:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz page`, or without cargo-fuzz as `tests/run` does.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dmacached_fuzz::stored::check_page(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this is built by cargo-fuzz; without it there is the program `replay`");
    std::process::exit(2);
}
