//! Runs inputs of the fuzz targets without a fuzzer: `replay [--target NAME]... [--random COUNT] [FILE or DIRECTORY]...`
//!
//! The directory that a file lies in says whose input it is, as in `corpus` and `artifacts`. The pseudo-random inputs, COUNT
//! of each target that is named, or of all, are the same each time. One that fails is written to the directory of
//! artifacts, in the form in which libFuzzer leaves such.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dmacached_fuzz::{TARGETS, Target};

const ARTIFACTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts");

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (mut random_count, mut targets, mut files) = (0, Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        if argument == "--random" {
            let count = arguments.next().ok_or("--random needs a number")?;
            random_count = count.to_string_lossy().parse()?;
        } else if argument == "--target" {
            let name = arguments.next().ok_or("--target needs a name")?;
            targets.push(*target(&name.to_string_lossy())?);
        } else {
            collect(Path::new(&argument), &mut files)?;
        }
    }
    if random_count == 0 && files.is_empty() {
        return Err("replay [--target NAME]... [--random COUNT] [FILE or DIRECTORY]...".into());
    }
    for file in &files {
        let directory = file.parent().and_then(Path::file_name).ok_or("a file of no target")?;
        if !passes(target(&directory.to_string_lossy())?, &std::fs::read(file)?) {
            return Ok(failed(file));
        }
    }
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    for target in targets {
        for number in 0..random_count {
            let bytes = (target.random)(number);
            if !passes(&target, &bytes) {
                let directory = Path::new(ARTIFACTS).join(target.name);
                std::fs::create_dir_all(&directory)?;
                let file = directory.join(format!("random-{number}"));
                std::fs::write(&file, bytes)?;
                return Ok(failed(&file));
            }
        }
    }
    println!("{} files, and {random_count} pseudo-random inputs of each target: all as it should be", files.len());
    Ok(ExitCode::SUCCESS)
}

fn target(name: &str) -> Result<&'static Target, String> {
    TARGETS.iter().find(|target| target.name == name).ok_or_else(|| format!("there is no target {name}"))
}

/// A file, or those of a directory and the ones in it, in the order of their names.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if !path.is_dir() {
        files.push(std::path::absolute(path)?);
        return Ok(());
    }
    let mut found =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    found.sort();
    found.iter().try_for_each(|path| collect(path, files))
}

/// Runs an input; the panic says what is wrong, and the input is printed behind it.
fn passes(target: &Target, bytes: &[u8]) -> bool {
    let passes = catch_unwind(AssertUnwindSafe(|| (target.check)(bytes))).is_ok();
    if !passes {
        println!("{}: {}", target.name, (target.describe)(bytes));
    }
    passes
}

fn failed(file: &Path) -> ExitCode {
    println!("FAILED: {}, again with", file.display());
    println!("cargo run --manifest-path tests/fuzz/Cargo.toml --bin replay {}", file.display());
    ExitCode::FAILURE
}
