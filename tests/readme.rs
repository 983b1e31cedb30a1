//! The README's commands work: every fenced block of it that says `sh` or `sh test` is run.
//!
//! The convention: a block fenced as ```` ```sh test ```` is a whole scenario. It runs under `bash -eu` in an empty
//! directory with the built programs first in PATH, and has to succeed within a minute. `cargo run --release --`
//! stands for the built server there, and servers that it leaves in the background are ended by the test. A block
//! fenced as ```` ```sh ```` only shows commands: it has to be valid shell, and every long flag that it gives to
//! dmacached has to exist.

use crate::support::{PROGRAM, can_run, scratch_directory, skip};
use std::path::Path;
use std::process::Command;

/// One fenced block.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// What stands behind the fence.
    label: String,
    /// The line of the fence, counted from 1.
    line: usize,
    text: String,
}

/// All fenced blocks of a Markdown text.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in markdown.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(label), None) => {
                open = Some(Block { label: label.trim().to_owned(), line: index + 1, text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.extend([line, "\n"]);
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

/// The README's blocks with this label; nothing where there is no README yet.
fn readme_blocks(label: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        skip("readme", "there is no README.md");
        return Vec::new();
    };
    blocks(&text).into_iter().filter(|block| block.label == label).collect()
}

/// The block with the built server in place of `cargo run`.
fn runnable(block: &Block) -> String {
    block.text.replace("cargo run --release --", "dmacached").replace("cargo run --release", "dmacached")
}

#[test]
fn scenarios_of_the_readme_run() {
    let directory = Path::new(PROGRAM).parent().expect("a program is in a directory");
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").expect("there is a PATH"));
    for block in readme_blocks("sh test") {
        let scratch = scratch_directory();
        let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{}", runnable(&block));
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10", "60", "bash", "-eu", "-c", &script])
            .current_dir(scratch.path())
            .env("PATH", &path);
        let output = command.stdin(std::process::Stdio::null()).output().expect("timeout and bash are there");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "README.md, line {}: {}\n{out}\n{err}", block.line, output.status);
    }
}

#[test]
fn commands_of_the_readme_are_valid_shell() {
    for block in readme_blocks("sh").iter().chain(&readme_blocks("sh test")) {
        assert!(
            can_run("bash", &["-n", "-c", &block.text]),
            "README.md, line {} is not shell:\n{}",
            block.line,
            block.text
        );
    }
}

#[test]
fn flags_of_the_readme_exist() {
    let help = Command::new(PROGRAM).arg("--help").output().expect("the program starts");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for block in readme_blocks("sh").iter().chain(&readme_blocks("sh test")) {
        let text = runnable(block).replace("\\\n", " ");
        for line in text.lines().filter(|line| line.trim_start().starts_with("dmacached ")) {
            for flag in line.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
                let name = flag.split('=').next().expect("split gives one");
                assert!(help.contains(name), "README.md, line {}: {name} is not in the help", block.line);
            }
        }
    }
}

#[test]
fn fences_are_found() {
    let found = blocks("a\n```sh test\none\ntwo\n```\nb\n```\nplain\n```\n");
    let block = |label: &str, line, text: &str| Block { label: label.to_owned(), line, text: text.to_owned() };
    assert_eq!(found, [block("sh test", 2, "one\ntwo\n"), block("", 7, "plain\n")]);
}
