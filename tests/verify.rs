//! `dmacached verify` on stores that real servers have left: its exit status and its sentences, and that it changes
//! nothing.

use crate::support::damage::{cut, files, find, flip, tables};
use crate::support::{PROGRAM, Store, as_root, value_of};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const PAGE: u64 = 4096;
const TABLE: u64 = 4 << 20;

fn verify(directory: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(PROGRAM);
    let Output { status, stdout, stderr } =
        command.arg("verify").arg("--data-dir").arg(directory).args(flags).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Expects `status`, and every one of `words` in what is said.
fn expect(directory: &Path, status: i32, words: &[&str]) -> String {
    let (code, out, err) = verify(directory, &[]);
    assert_eq!(code, Some(status), "{out}\n{err}");
    let said = if status == 3 { &err } else { &out };
    for word in words {
        assert!(said.contains(word), "it does not say {word:?}: {said}");
    }
    assert_eq!(status == 3, !err.is_empty(), "{err}");
    said.clone()
}

/// A store of a few tables that was stopped in order: 3000 records of 3000 bytes.
fn filled() -> Store {
    let store = Store::new(&[]);
    let server = store.start();
    let mut client = server.client();
    for number in 0..3000 {
        let key = format!("key-{number}");
        client.set(&key, &value_of(&key, 3000));
    }
    server.terminate();
    store
}

#[test]
fn a_sound_store_is_sound_and_stays_as_it_is() {
    let store = filled();
    let before = files(store.directory());
    expect(store.directory(), 0, &["3000 records, 3000 live, 0 damaged", "\nsound\n"]);
    let (code, out, err) = verify(store.directory(), &["-q"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    assert!(files(store.directory()) == before, "it has changed something");
}

#[test]
fn a_killed_store_is_sound_and_stays_killed() {
    let store = Store::new(&["--flush-interval", "10ms"]);
    let server = store.start();
    let mut client = server.client();
    (0..500).for_each(|number| client.set(&format!("key-{number}"), &value_of("x", 2000)));
    client.wait_until_flushed();
    server.kill();
    let before = files(store.directory());
    expect(store.directory(), 0, &["500 live", "not stopped cleanly", "note: "]);
    assert!(files(store.directory()) == before, "it has changed something");
    assert_eq!(store.start().client().get("key-499"), Some(value_of("x", 2000)));
}

#[test]
fn a_record_that_is_damaged_is_told_with_its_cost() {
    let store = filled();
    let (path, offset) = find(store.directory(), &value_of("key-77", 3000)[..64]);
    flip(&path, offset + 1000);
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let said = expect(
        store.directory(),
        1,
        &[&name, "1 record is damaged", "checksum does not match", "cost: 1 live record is lost", "1 damaged;"],
    );
    assert!(said.contains("2999 live") && said.contains("a server starts here"), "{said}");
    assert_eq!(store.start().client().get("key-77"), None);
}

#[test]
fn header_trailer_and_footer_are_told_apart_and_cost_nothing() {
    for (offset, words) in [
        (20, ["its header is damaged", "the trailer stands in for it"]),
        (TABLE - PAGE + 60, ["its trailer is damaged", "scanning the table"]),
        (TABLE - 2 * PAGE + 300, ["of its footer is damaged", "the next start scans the table"]),
    ] {
        let store = filled();
        flip(&tables(store.directory())[0], offset);
        let said = expect(store.directory(), 1, &words);
        assert!(said.contains("no live record is lost") && said.contains("3000 live"), "{said}");
        let (code, said, _) = verify(store.directory(), &["-q"]);
        assert!(code == Some(1) && said.starts_with("damage: ") && !said.contains("3000 live"), "{said}");
        // As it said.
        let server = store.start();
        let mut client = server.client();
        (0..3000).for_each(|number| assert!(client.has_intact(&format!("key-{number}"), 3000)));
    }
}

#[test]
fn files_that_are_cut_missing_or_copied_are_told() {
    let store = filled();
    let first = &tables(store.directory())[0];
    cut(first, 1 << 20);
    let said = expect(store.directory(), 1, &["1048576 bytes long instead of 4194304", "what was behind is lost"]);
    assert!(said.contains("how many live records are lost is not known"), "{said}");

    let store = filled();
    std::fs::remove_file(&tables(store.directory())[1]).expect("it is there");
    expect(store.directory(), 1, &["table-000001.dmt: this table is missing"]);

    let store = filled();
    let first = &tables(store.directory())[0];
    std::fs::copy(first, first.with_file_name("table-000009.dmt")).expect("it can be copied");
    expect(store.directory(), 1, &["table-000009.dmt: this is a copy of table 0", "3000 live"]);

    let (store, other) = (filled(), filled());
    let first = &tables(store.directory())[0];
    std::fs::copy(&tables(other.directory())[0], first).expect("it can be copied");
    expect(store.directory(), 1, &["table-000000.dmt: this is a table of another store"]);
}

#[test]
fn what_keeps_a_server_from_starting_is_told() {
    let store = filled();
    let copies = ["superblock", "superblock.copy"].map(|name| store.directory().join(name));
    flip(&copies[0], 30);
    expect(store.directory(), 1, &["checksum does not match", "The other copy is used", "a server starts here"]);
    flip(&copies[1], 30);
    expect(store.directory(), 1, &["damage, no start: ", "checksum does not match", "no server starts here"]);
    store.refusal();

    let store = filled();
    copies.iter().for_each(|copy| {
        let name = copy.file_name().expect("a name");
        std::fs::remove_file(store.directory().join(name)).expect("it is there");
    });
    expect(store.directory(), 1, &["the superblock of the store", "is missing"]);
    store.refusal();

    if as_root() {
        return;
    }
    let store = filled();
    let first = &tables(store.directory())[0];
    std::fs::set_permissions(first, PermissionsExt::from_mode(0o0)).expect("a mode can be set");
    expect(store.directory(), 1, &["table-000000.dmt: it cannot be read", "no server starts here"]);
    store.refusal();
}

#[test]
fn what_cannot_be_verified_is_told() {
    let store = filled();
    let server = store.start();
    expect(store.directory(), 3, &["is in use"]);
    server.terminate();
    expect(&store.directory().join("nowhere"), 3, &["there is no directory"]);
    let empty = crate::support::scratch_directory();
    expect(empty.path(), 3, &["not a dmacached data directory"]);
    let left = std::fs::read_dir(empty.path()).expect("it can be listed").count();
    assert_eq!(left, 0, "it has made something");
    let (code, _, err) = verify(store.directory(), &["--no-such-flag"]);
    assert!(code == Some(2) && err.contains("--no-such-flag"), "{err}");
}
