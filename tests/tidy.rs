//! The rules of the house, checked from the source so that they cannot rot: who may call whom, where `unsafe` and the
//! runtime may be named, and how long things may be. A rule that has to bend is changed here, in the same commit as
//! the code that bends it.

#[path = "tidy/code.rs"]
mod code;

use code::{blanked, crate_paths, functions, without_tests, words};
use std::path::{Path, PathBuf};

/// The modules of `src`, from low to high: each may name those of its own row and of the rows above it here.
/// `protocol` is not among them: it is pure, and known to `server` and `shard` alone.
const LAYERS: [&[&str]; 8] = [
    &["limits", "error", "clock", "digest", "record", "mutants"],
    &["index", "placement", "stats", "io"],
    &["disktable", "memtable", "cache"],
    &["reclaim", "recovery"],
    &["store"],
    &["shard"],
    &["server"],
    &["cli"],
];

/// Where the asynchronous runtime may be named.
const RUNTIME_PLACES: [&str; 8] = [
    "src/io/",
    "src/io.rs",
    "src/shard/",
    "src/shard.rs",
    "src/server/",
    "src/server.rs",
    "src/cli/serve.rs",
    "src/cli/serve/",
];
/// Where `unsafe` may stand.
const UNSAFE_PLACES: [&str; 3] = ["alloc/", "src/io/ring.rs", "src/io/ring/"];
/// Where the program speaks to a terminal.
const PRINTING_PLACES: [&str; 6] = ["src/cli/", "src/cli.rs", "src/main.rs", "bench/", "tests/", "alloc/benches/"];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 130;
const README_LINES_MAX: usize = 150;

/// The row of a module in [`LAYERS`].
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The top-level module of a file: `src/store/get.rs` and `src/store.rs` belong to `store`.
fn module_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?;
    Some(name.strip_suffix(".rs").unwrap_or(name))
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
}

/// Test code may do what other code may not.
fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// What is wrong with one Rust file.
fn complaints(path: &str, source: &str) -> Vec<String> {
    let blank = blanked(source);
    let code = if is_test_file(path) { String::new() } else { without_tests(&blank) };
    let mut complaints = dependency_complaints(path, &code);
    complaints.extend(word_complaints(path, &blank, &code));
    complaints.extend(size_complaints(source, &blank));
    complaints.iter().map(|complaint| format!("{path}: {complaint}")).collect()
}

/// Calls go down only.
fn dependency_complaints(path: &str, code: &str) -> Vec<String> {
    let Some(own) = module_of(path).filter(|module| !["lib", "main"].contains(module)) else {
        return Vec::new();
    };
    if own != "protocol" && layer(own).is_none() {
        return vec![format!("module {own} has no layer: give it one in tests/tidy.rs")];
    }
    let allowed = |name: &str| match (own, name) {
        _ if own == name => true,
        ("protocol", _) => name == "limits",
        (_, "protocol") => ["server", "shard"].contains(&own),
        _ => layer(name).is_some_and(|named| Some(named) <= layer(own)),
    };
    let paths = crate_paths(code);
    paths.iter().filter(|name| !allowed(name)).map(|name| format!("{own} must not name crate::{name}")).collect()
}

/// Words that belong to certain places, or to none.
fn word_complaints(path: &str, blank: &str, code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do")];
    for (offset, word) in words(blank) {
        let line = blank[..offset].matches('\n').count() + 1;
        if word == "unsafe" && !is_in(path, &UNSAFE_PLACES) {
            complaints.push(format!("line {line}: unsafe outside alloc/ and src/io/ring"));
        }
        if word == marks[2] && blank[offset + word.len()..].starts_with('!') {
            complaints.push(format!("line {line}: a placeholder"));
        }
    }
    for (offset, word) in words(code) {
        let line = code[..offset].matches('\n').count() + 1;
        let rest = &code[offset + word.len()..];
        if word == "glommio" && path.starts_with("src/") && !is_in(path, &RUNTIME_PLACES) {
            complaints.push(format!("line {line}: glommio is named only in io, shard, server and cli/serve"));
        }
        if word == "unwrap" && rest.starts_with("()") {
            complaints.push(format!("line {line}: unwrap() outside tests"));
        }
        let prints = ["println", "eprintln", "print", "eprint", "dbg"].contains(&word) && rest.starts_with('!');
        if prints && !is_in(path, &PRINTING_PLACES) {
            complaints.push(format!("line {line}: {word}! outside the command line"));
        }
    }
    complaints
}

/// Files, functions and lines that are too long.
fn size_complaints(source: &str, blank: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let line_count = source.lines().count();
    if line_count > FILE_LINES_MAX {
        complaints.push(format!("{line_count} lines, {FILE_LINES_MAX} are allowed"));
    }
    for (name, first, count) in functions(blank) {
        if count > FUNCTION_LINES_MAX {
            complaints.push(format!("line {first}: fn {name} has {count} lines, {FUNCTION_LINES_MAX} are allowed"));
        }
    }
    for (index, line) in source.lines().enumerate() {
        if line.len() > COLUMNS_MAX {
            complaints.push(format!("line {}: {} columns, {COLUMNS_MAX} are allowed", index + 1, line.len()));
        }
    }
    complaints
}

/// What is wrong with any text file: bytes beyond ASCII, and marks of unfinished work.
fn text_complaints(path: &str, text: &[u8]) -> Vec<String> {
    let mut complaints = Vec::new();
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if !line.is_ascii() {
            complaints.push(format!("{path}: line {}: a byte beyond ASCII", index + 1));
        }
        let line = String::from_utf8_lossy(line);
        let marked = line.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| marks.contains(&word));
        if marked {
            complaints.push(format!("{path}: line {}: unfinished work", index + 1));
        }
    }
    complaints
}

/// The project's text files, as paths from its root.
fn text_files() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> = ["Cargo.toml", "README.md"].iter().map(|name| root.join(name)).collect();
    for top in ["src", "alloc", "bench", "tests", "tuning", ".ci"] {
        collect(&root.join(top), &mut found);
    }
    found.sort();
    let is_text = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        ["rs", "md", "toml", "py", "sh", "txt", ""].contains(&extension)
    };
    let files = found.into_iter().filter(is_text).filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)));
    files.map(|(path, text)| (path.strip_prefix(root).expect("below the root").display().to_string(), text)).collect()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "__pycache__", "corpus", "artifacts"].contains(&name.as_str()) {
            collect(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

#[test]
fn the_source_keeps_the_rules_of_the_house() {
    let files = text_files();
    let sources: Vec<_> = files.iter().filter(|(path, _)| path.ends_with(".rs")).collect();
    assert!(
        sources.iter().any(|(path, _)| path == "src/lib.rs"),
        "the sources were not found: {:?}",
        env!("CARGO_MANIFEST_DIR")
    );
    let found: Vec<String> =
        sources.iter().flat_map(|(path, text)| complaints(path, &String::from_utf8_lossy(text))).collect();
    assert!(found.is_empty(), "{} complaints:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_text_is_ascii_and_finished() {
    let found: Vec<String> = text_files().iter().flat_map(|(path, text)| text_complaints(path, text)).collect();
    assert!(found.is_empty(), "{} complaints:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let files = text_files();
    let Some((_, readme)) = files.iter().find(|(path, _)| path == "README.md") else {
        return crate::support::skip("the_readme_is_short", "there is no README.md");
    };
    let line_count = readme.split(|byte| *byte == b'\n').count() - 1;
    assert!(line_count <= README_LINES_MAX, "README.md has {line_count} lines, {README_LINES_MAX} are allowed");
}

#[test]
fn the_rules_catch_what_breaks_them() {
    let long_function = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX));
    let cases: [(&str, &str, &str); 14] = [
        ("src/index/mod.rs", "use crate::store::Store;", "index must not name crate::store"),
        ("src/store.rs", "fn a() { crate::shard::b() }", "store must not name crate::shard"),
        ("src/store/a.rs", "use crate::{limits, protocol::Request};", "store must not name crate::protocol"),
        ("src/protocol/text.rs", "use crate::record::Record;", "protocol must not name crate::record"),
        ("src/helpers.rs", "", "module helpers has no layer"),
        ("src/store/a.rs", "use glommio::io::DmaFile;", "glommio is named only"),
        ("src/cli/top.rs", "use glommio::timer::sleep;", "glommio is named only"),
        ("src/io/dma.rs", "unsafe { a() }", "unsafe outside"),
        ("src/store/a.rs", "let b = c.unwrap();", "unwrap() outside tests"),
        ("src/store/a.rs", "println!(\"x\");", "println! outside"),
        ("src/store/a.rs", concat!("fn a() { to", "do!() }"), "a placeholder"),
        ("src/store/a.rs", &"// x\n".repeat(FILE_LINES_MAX + 1), "601 lines"),
        ("src/store/a.rs", &long_function, "fn a has 72 lines"),
        ("src/store/a.rs", &format!("// {}", "x".repeat(COLUMNS_MAX)), "133 columns"),
    ];
    for (path, source, expected) in cases {
        let found = complaints(path, source);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
    assert_eq!(text_complaints("a.md", "d\u{e9}j\u{e0}".as_bytes()).len(), 1);
    assert_eq!(text_complaints("a.md", concat!("to be done: TO", "DO").as_bytes()).len(), 1);
}

#[test]
fn the_rules_let_pass_what_keeps_them() {
    let cases = [
        ("src/store/a.rs", "use crate::{disktable::Table, index::Index, limits};"),
        ("src/shard/verbs.rs", "use crate::protocol::Request; use glommio::spawn_local;"),
        ("src/io/ring/queue.rs", "unsafe { a() }"),
        ("src/store/tests.rs", "use crate::protocol::parse; fn a() { b.unwrap() }"),
        (
            "src/store/a.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    use crate::server::b;\n    #[test]\n    fn c() { d.unwrap() }\n}\n",
        ),
        ("src/store/a.rs", "// glommio's unwrap() is unsafe\nconst A: &str = \"crate::server println!\";"),
        ("src/cli/doctor.rs", "println!(\"x\");"),
    ];
    for (path, source) in cases {
        assert_eq!(complaints(path, source), Vec::<String>::new(), "{source}");
    }
}
