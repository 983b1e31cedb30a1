//! Writes the seeds that are made of traffic: `cargo run --manifest-path tests/fuzz/Cargo.toml --bin seeds`.

use std::path::Path;

use dmacached_fuzz::{TARGETS, traffic};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"));
    for target in TARGETS {
        let directory = corpus.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (name, bytes) in traffic::seeds(target.name) {
            std::fs::write(directory.join(name), bytes)?;
        }
    }
    Ok(())
}
