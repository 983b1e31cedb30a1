//! Runs inputs of the fuzz target without a fuzzer: `replay [--random COUNT] [FILE or DIRECTORY]...`
//!
//! The pseudo-random inputs are the same each time. One that fails is written to the directory of artifacts, in the form
//! in which libFuzzer leaves such.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dmacached_fuzz::check;
use dmacached_fuzz::input::{HEADER_SIZE, Input, STEP_SIZE, random};

const ARTIFACTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts/index");
const STEP_COUNT_MAX: u64 = 150;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (mut random_count, mut files) = (0, Vec::new());
    while let Some(argument) = arguments.next() {
        if argument == "--random" {
            let count = arguments.next().ok_or("--random needs a number")?;
            random_count = count.to_string_lossy().parse()?;
        } else {
            collect(Path::new(&argument), &mut files)?;
        }
    }
    if random_count == 0 && files.is_empty() {
        return Err("replay [--random COUNT] [FILE or DIRECTORY]...".into());
    }
    for file in &files {
        if !passes(&std::fs::read(file)?) {
            return Ok(failed(file));
        }
    }
    for number in 0..random_count {
        let bytes = random_input(number);
        if !passes(&bytes) {
            std::fs::create_dir_all(ARTIFACTS)?;
            let file = Path::new(ARTIFACTS).join(format!("random-{number}"));
            std::fs::write(&file, bytes)?;
            return Ok(failed(&file));
        }
    }
    println!("{} files and {random_count} pseudo-random inputs: all as a map does it", files.len());
    Ok(ExitCode::SUCCESS)
}

/// A file, or those of a directory in the order of their names.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut found =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    found.sort();
    files.append(&mut found);
    Ok(())
}

/// Runs an input; the panic says what is wrong, and the steps are printed behind it.
fn passes(bytes: &[u8]) -> bool {
    let passes = catch_unwind(AssertUnwindSafe(|| check(bytes))).is_ok();
    if !passes && let Some(input) = Input::decode(bytes) {
        println!("{:?} {:?} {:?} {}", input.layout, input.budget, input.spread, input.table_size);
        for step in input.steps {
            println!("{:?} key {} count {} value {}", step.action, step.key, step.count, step.value);
        }
    }
    passes
}

fn failed(file: &Path) -> ExitCode {
    println!("FAILED: {}, again with", file.display());
    println!("cargo run --manifest-path tests/fuzz/Cargo.toml --bin replay {}", file.display());
    ExitCode::FAILURE
}

fn random_input(number: u64) -> Vec<u8> {
    let mut state = number;
    let size = HEADER_SIZE + (random(&mut state) % (STEP_COUNT_MAX + 1)) as usize * STEP_SIZE;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random(&mut state).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
