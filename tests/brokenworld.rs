//! A world that is not as it should be: refusals at start, damaged files, a full file system. A refusal is a sentence
//! that names what, where and what to do; damage costs what it hit and nothing else, is counted, and never gives a
//! wrong value.

use crate::support::damage::{cut, find, flip, overwrite, set_format_version, tables};
use crate::support::{
    Client, PROGRAM, Process, Server, Store, as_root, can_run, free_port, scratch_directory, skip, value_of,
};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Fails unless `sentence` has every one of `words`, letters of either case.
fn says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(
            sentence.to_lowercase().contains(&word.to_lowercase()),
            "the refusal does not say {word:?}: {sentence}"
        );
    }
}

fn path_of(store: &Store) -> String {
    store.directory().display().to_string()
}

// ------------------------------------------------------------------------------------------------------------------
// refusals

#[test]
fn a_second_server_on_the_directory_is_refused_and_the_first_goes_on() {
    let store = Store::new(&[]);
    let server = store.start();
    server.client().set("a", b"x");
    says(&store.refusal(), &["in use", &path_of(&store)]);
    assert_eq!(server.client().get("a").as_deref(), Some(&b"x"[..]));
    server.terminate();
    assert_eq!(store.start().client().get("a").as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_killed_server_leaves_no_lock_behind() {
    let store = Store::new(&[]);
    store.start().kill();
    store.start().terminate();
}

#[test]
fn a_directory_that_may_not_be_written_is_refused() {
    let scratch = scratch_directory();
    let directory = scratch.path().join("data");
    std::fs::create_dir(&directory).expect("a directory can be made");
    let store = Store::at(&directory, &[]);
    // Root may write anywhere, so there the server is started as nobody, if nobody can reach program and directory at
    // all.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let sentence = if as_root() {
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).expect("a mode can be set");
        let reaches = |test: &str, path: &str| can_run(nobody[0], &[&nobody[1..], &["test", test, path]].concat());
        if !reaches("-x", PROGRAM) || !reaches("-r", &path_of(&store)) {
            return skip(
                "a_directory_that_may_not_be_written_is_refused",
                "user 65534 cannot reach the build directory",
            );
        }
        store.refusal_through(&nobody)
    } else {
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o555)).expect("a mode can be set");
        store.refusal()
    };
    let known =
        sentence.to_lowercase().contains("not writable") || sentence.to_lowercase().contains("permission denied");
    assert!(known, "{sentence}");
    says(&sentence, &[&path_of(&store)]);
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_alone() {
    let store = Store::new(&[]);
    std::fs::create_dir(store.directory()).expect("a directory can be made");
    std::fs::write(store.directory().join("holiday.jpg"), b"sun").expect("a file can be written");
    says(&store.refusal(), &["not a dmacached data directory", &path_of(&store)]);
    let entries: Vec<_> =
        std::fs::read_dir(store.directory()).expect("listed").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(entries, ["holiday.jpg"], "nothing was added or taken");
}

#[test]
fn an_empty_directory_is_taken() {
    let store = Store::new(&[]);
    std::fs::create_dir(store.directory()).expect("a directory can be made");
    store.start().terminate();
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let store = Store::new(&[]);
    std::fs::write(store.directory(), b"not a directory").expect("a file can be written");
    says(&store.refusal(), &[&path_of(&store)]);
    assert_eq!(std::fs::read(store.directory()).expect("it is still there"), b"not a directory");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let store = Store::new(&[]);
    let server = store.start();
    server.client().set("a", b"x");
    server.terminate();
    set_format_version(store.directory(), 99);
    let before = std::fs::read(store.directory().join("superblock")).expect("the superblock can be read");
    says(&store.refusal(), &["format version", "99", &path_of(&store)]);
    assert_eq!(std::fs::read(store.directory().join("superblock")).expect("it is still there"), before);
    set_format_version(store.directory(), 1);
    assert_eq!(store.start().client().get("a").as_deref(), Some(&b"x"[..]), "the refusal harmed nothing");
}

#[test]
fn another_table_size_is_refused() {
    let store = Store::new(&["--table-size", "4m"]);
    store.start().terminate();
    let store = store.with_flags(&["--table-size", "8m"]);
    says(&store.refusal(), &["table size"]);
}

#[test]
fn a_table_size_that_is_no_power_of_two_is_refused() {
    says(&Store::new(&["--table-size", "3m"]).refusal(), &["table"]);
}

#[test]
fn a_capacity_below_four_tables_is_refused() {
    let sentence = Store::new(&["--table-size", "4m", "--capacity", "12m"]).refusal();
    says(&sentence, &["capacity"]);
}

#[test]
fn an_item_size_above_half_of_the_memory_is_refused() {
    let sentence = Store::new(&["-m", "16", "-I", "9m", "--table-size", "16m"]).refusal();
    says(&sentence, &["-I", "-m"]);
}

#[test]
fn a_port_in_use_is_refused() {
    let port = free_port();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let sentence = Store::new(&[]).refusal_on(port, &[]);
    says(&sentence, &["in use", &port.to_string()]);
}

#[test]
fn too_little_lockable_memory_is_refused() {
    let sentence = Store::new(&[]).refusal_through(&["prlimit", "--memlock=262144:262144"]);
    says(&sentence, &["memlock"]);
}

#[test]
fn a_kernel_without_io_uring_is_refused() {
    if !can_run("python3", &["-c", "pass"]) {
        return skip("a_kernel_without_io_uring_is_refused", "python3 is not installed");
    }
    let launcher = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/without_io_uring.py");
    if !Path::new(launcher).is_file() {
        return skip("a_kernel_without_io_uring_is_refused", "the launcher is not beside the tests");
    }
    says(&Store::new(&[]).refusal_through(&["python3", launcher]), &["io_uring"]);
}

#[test]
fn flags_that_do_not_exist_are_refused() {
    let mut process = Process::start(Command::new(PROGRAM).arg("--no-such-flag"));
    crate::support::eventually("it ends", || (!process.is_running()).then_some(()));
    let finished = process.wait();
    assert_ne!(finished.status.code(), Some(0));
    says(&finished.stderr, &["--no-such-flag"]);
}

#[test]
fn help_and_version_are_given_without_a_server() {
    for flag in ["-h", "--help", "-V", "--version"] {
        let output = Command::new(PROGRAM).arg(flag).output().expect("the program starts");
        assert!(output.status.success(), "{flag}: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("dmacached") && output.stderr.is_empty(), "{flag}: {text}");
    }
}

#[test]
fn a_tmpfs_serves_with_a_warning() {
    if !Path::new("/dev/shm").is_dir() {
        return skip("a_tmpfs_serves_with_a_warning", "there is no /dev/shm");
    }
    let scratch =
        tempfile::Builder::new().prefix("dmacached-").tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let store = Store::at(&scratch.path().join("data"), &["--table-size", "1m", "--capacity", "8m", "-I", "256k"]);
    let mut server = store.start();
    says(&server.process().stderr(), &["warn", &path_of(&store), "O_DIRECT"]);
    (0..500).for_each(|number| server.client().set(&format!("k{number}"), &value_of("tmpfs", 3000)));
    server.terminate();
    let server = store.start();
    (0..500).for_each(|number| assert_eq!(server.client().get(&format!("k{number}")), Some(value_of("tmpfs", 3000))));
}

// --------------------------------------------------------------------------------------------------------------------
// damage

const COUNT: usize = 3000;
const VALUE_SIZE: usize = 3000;

fn key(number: usize) -> String {
    format!("key-{number:06}")
}

/// A stopped store whose records fill several tables.
fn filled_store() -> Store {
    let store = Store::new(&["--table-size", "1m", "--capacity", "24m", "-I", "256k"]);
    let server = store.start();
    let mut client = server.client();
    (0..COUNT).for_each(|number| client.set(&key(number), &value_of(&key(number), VALUE_SIZE)));
    drop(client);
    server.terminate();
    store
}

/// The numbers of the records that are missing; a wrong value is a failed test.
fn missing(client: &mut Client) -> Vec<usize> {
    (0..COUNT).filter(|number| !client.has_intact(&key(*number), VALUE_SIZE)).collect()
}

/// The table and offset of the value of `number`.
fn place(store: &Store, number: usize) -> (std::path::PathBuf, u64) {
    find(store.directory(), &value_of(&key(number), 64))
}

/// Asserts that the server works for new records, and ends well.
fn still_works(server: Server) {
    server.client().set("new", b"after the damage");
    assert_eq!(server.client().get("new").as_deref(), Some(&b"after the damage"[..]));
    server.terminate();
}

#[test]
fn a_flipped_bit_under_a_running_server_costs_that_record_and_is_counted() {
    let store = filled_store();
    let server = store.start();
    let damaged = [10, 700, 1500];
    for number in damaged {
        let (table, offset) = place(&store, number);
        flip(&table, offset + 1000);
    }
    let mut client = server.client();
    assert_eq!(missing(&mut client), damaged);
    let stats = client.stats();
    assert_eq!(stats["badcrc_from_extstore"], "3");
    assert_eq!(missing(&mut client), damaged, "a damaged record stays a miss");
    drop(client);
    still_works(server);
}

#[test]
fn a_flipped_bit_found_after_a_restart_costs_that_record_alone() {
    let store = filled_store();
    let mut damaged = Vec::new();
    for (number, inside) in [(10, 1000), (400, 0), (1100, VALUE_SIZE as u64 - 1)] {
        let (table, offset) = place(&store, number);
        flip(&table, offset + inside);
        damaged.push(number);
    }
    let server = store.start();
    let mut client = server.client();
    assert_eq!(missing(&mut client), damaged);
    assert_eq!(client.stat("badcrc_from_extstore"), 3);
    drop(client);
    still_works(server);
    let server = store.start();
    assert_eq!(missing(&mut server.client()), damaged, "and again after the next restart");
}

#[test]
fn a_flipped_bit_in_a_key_or_header_costs_that_record_alone() {
    // The record's key stands right before its value, and its header of 28 bytes before the key.
    for before_value in [1, 5, 10, 12, 20, 30, 38] {
        let store = filled_store();
        let (table, offset) = place(&store, 300);
        flip(&table, offset - before_value);
        let server = store.start();
        assert_eq!(missing(&mut server.client()), [300], "{before_value} bytes before the value");
        still_works(server);
    }
}

#[test]
fn a_damaged_record_does_not_bring_back_its_older_version() {
    let store = Store::new(&["--table-size", "1m", "--capacity", "24m", "-I", "256k"]);
    let server = store.start();
    let mut client = server.client();
    client.set("k", &value_of("old", 2000));
    (0..1000).for_each(|number| client.set(&key(number), &value_of(&key(number), 2000)));
    client.set("k", &value_of("new", 2000));
    (1000..2000).for_each(|number| client.set(&key(number), &value_of(&key(number), 2000)));
    drop(client);
    server.terminate();
    let (table, offset) = find(store.directory(), &value_of("new", 64));
    flip(&table, offset + 100);
    for _ in 0..2 {
        let server = store.start();
        assert_eq!(server.client().get("k").map(|value| value == value_of("old", 2000)), None);
        server.terminate();
    }
}

#[test]
fn a_damaged_table_header_costs_nothing() {
    let store = filled_store();
    flip(&tables(store.directory())[1], 20);
    let server = store.start();
    assert_eq!(missing(&mut server.client()), [0; 0]);
    still_works(server);
}

#[test]
fn a_damaged_table_trailer_costs_nothing() {
    let store = filled_store();
    let table = &tables(store.directory())[1];
    let size = table.metadata().expect("a table has metadata").len();
    flip(table, size - 4096 + 20);
    let server = store.start();
    assert_eq!(missing(&mut server.client()), [0; 0]);
    still_works(server);
}

#[test]
fn a_damaged_footer_costs_nothing() {
    let store = filled_store();
    let table = &tables(store.directory())[1];
    let size = table.metadata().expect("a table has metadata").len();
    flip(table, size - 2 * 4096 + 100);
    let server = store.start();
    assert_eq!(missing(&mut server.client()), [0; 0]);
    still_works(server);
}

#[test]
fn a_table_cut_short_costs_what_was_cut() {
    for kept in [0, 4096, 500_000, 1_000_000] {
        let store = filled_store();
        let (table, _) = place(&store, 400);
        let lost: Vec<usize> = (0..COUNT).filter(|number| place(&store, *number).0 == table).collect();
        cut(&table, kept);
        let server = store.start();
        let missing = missing(&mut server.client());
        assert!(missing.iter().all(|number| lost.contains(number)), "cut to {kept}: other tables lost records");
        assert!(kept != 0 || missing == lost, "cut to nothing: {} of {} are missing", missing.len(), lost.len());
        still_works(server);
        store.start().terminate();
    }
}

#[test]
fn a_missing_table_costs_what_it_held() {
    let store = filled_store();
    let (table, _) = place(&store, 400);
    let lost: Vec<usize> = (0..COUNT).filter(|number| place(&store, *number).0 == table).collect();
    std::fs::remove_file(&table).expect("a table can be removed");
    let server = store.start();
    assert_eq!(missing(&mut server.client()), lost);
    still_works(server);
}

#[test]
fn a_table_of_another_store_is_not_taken_for_ours() {
    let theirs = Store::new(&["--table-size", "1m", "--capacity", "24m", "-I", "256k"]);
    let server = theirs.start();
    (0..300).for_each(|number| server.client().set(&format!("their-{number}"), &value_of("theirs", VALUE_SIZE)));
    server.terminate();
    let ours = filled_store();
    let (their_table, _) = find(theirs.directory(), &value_of("theirs", 64));
    let (our_table, _) = place(&ours, 400);
    std::fs::copy(their_table, &our_table).expect("a table can be copied");
    let server = ours.start();
    let mut client = server.client();
    (0..300).for_each(|number| assert_eq!(client.get(&format!("their-{number}")), None));
    assert!(missing(&mut client).len() < 400, "only the table that was overwritten is lost");
    drop(client);
    still_works(server);
}

#[test]
fn a_table_full_of_noise_costs_what_it_held() {
    let store = filled_store();
    let (table, _) = place(&store, 400);
    let lost: Vec<usize> = (0..COUNT).filter(|number| place(&store, *number).0 == table).collect();
    overwrite(&table, 0, &value_of("noise", 1 << 20));
    let server = store.start();
    assert_eq!(missing(&mut server.client()), lost);
    still_works(server);
}

#[test]
fn a_damaged_superblock_is_refused_by_name() {
    for offset in [0, 8, 12, 20, 40, 48, 60, 2000] {
        let store = filled_store();
        let copies = ["superblock", "superblock.copy"].map(|name| store.directory().join(name));
        let flip_both = || copies.iter().for_each(|path| flip(path, offset));
        flip_both();
        says(&store.refusal(), &["superblock"]);
        flip_both();
        let server = store.start();
        assert_eq!(missing(&mut server.client()), [0; 0], "the refusal harmed nothing, offset {offset}");
    }
}

#[test]
fn a_missing_superblock_is_refused_and_nothing_is_overwritten() {
    let store = filled_store();
    let copies = ["superblock", "superblock.copy"].map(|name| store.directory().join(name));
    let superblock = std::fs::read(&copies[0]).expect("the superblock can be read");
    copies.iter().for_each(|path| std::fs::remove_file(path).expect("it can be removed"));
    says(&store.refusal(), &[&path_of(&store)]);
    std::fs::write(&copies[0], superblock).expect("it can be put back");
    let server = store.start();
    assert_eq!(missing(&mut server.client()), [0; 0]);
}

#[test]
fn a_foreign_file_beside_the_tables_is_left_alone() {
    let store = filled_store();
    let shard = tables(store.directory())[0].parent().expect("a table is in a directory").to_owned();
    for name in ["notes.txt", "table-000000.dmt.bak", "table-x.dmt"] {
        std::fs::write(shard.join(name), b"mine").expect("a file can be written");
    }
    // A server may refuse or serve; what it must not do is to take the files for its own, or to lose records over them.
    let port = free_port();
    let process = Process::start(Command::new(PROGRAM).args(store.arguments(port)));
    if process.wait_for_stderr(&format!("listening on 127.0.0.1:{port}")).is_ok() {
        assert_eq!(missing(&mut Client::connect(port)), [0; 0]);
    }
    process.stop(nix::sys::signal::Signal::SIGTERM);
    for name in ["notes.txt", "table-000000.dmt.bak", "table-x.dmt"] {
        assert_eq!(std::fs::read(shard.join(name)).expect("it is still there"), b"mine", "{name}");
    }
}

// ------------------------------------------------------------------------------------------------------------ full
// file system

/// A small ext4 in a file, mounted; unmounted at the end.
struct SmallDisk {
    scratch: tempfile::TempDir,
}

impl SmallDisk {
    /// Nothing when this machine does not let us mount.
    fn mount(size: u64) -> Option<SmallDisk> {
        let disk = SmallDisk { scratch: scratch_directory() };
        let image = disk.scratch.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(size)).expect("an image can be made");
        std::fs::create_dir(disk.directory()).expect("a directory can be made");
        let (image, directory) = (image.to_str().expect("UTF-8"), disk.directory());
        let mounted = as_root()
            && can_run("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            && can_run("mount", &["-o", "loop", image, directory.to_str().expect("UTF-8")]);
        mounted.then_some(disk)
    }

    fn directory(&self) -> std::path::PathBuf {
        self.scratch.path().join("mounted")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        can_run("umount", &[self.directory().to_str().expect("UTF-8")]);
    }
}

#[test]
fn a_full_file_system_is_refused_or_survived() {
    let Some(disk) = SmallDisk::mount(48 << 20) else {
        return skip("a_full_file_system_is_refused_or_survived", "needs root, loop devices and mkfs.ext4");
    };
    let store = Store::at(&disk.directory().join("data"), &["--table-size", "1m", "--capacity", "16m", "-I", "256k"]);
    let server = store.start();
    (0..1000).for_each(|number| server.client().set(&key(number), &value_of(&key(number), VALUE_SIZE)));
    server.terminate();
    // Somebody else fills the disk: a store that has its tables goes on.
    let filler = disk.directory().join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file can be made");
    while std::io::Write::write_all(&mut file, &[1; 65_536]).is_ok() {}
    let server = store.start();
    let mut client = server.client();
    for number in 0..3000 {
        let answer = client.store("set", &key(number), &value_of(&key(number), VALUE_SIZE), 0, 0);
        assert!(answer == "STORED" || answer.starts_with("SERVER_ERROR"), "{answer}");
    }
    missing(&mut client);
    drop(client);
    server.terminate();
    std::fs::remove_file(filler).expect("the filler can be removed");
    let server = store.start();
    missing(&mut server.client());
    still_works(server);
}

#[test]
fn a_capacity_that_the_file_system_cannot_hold_is_a_sentence_or_served_within_it() {
    let Some(disk) = SmallDisk::mount(24 << 20) else {
        return skip("a_capacity_that_the_file_system_cannot_hold_...", "needs root, loop devices and mkfs.ext4");
    };
    let store = Store::at(&disk.directory().join("data"), &["--table-size", "1m", "--capacity", "64m", "-I", "256k"]);
    let port = free_port();
    let process = Process::start(Command::new(PROGRAM).args(store.arguments(port)));
    match process.wait_for_stderr(&format!("listening on 127.0.0.1:{port}")) {
        Err(stderr) => says(&stderr, &["space"]),
        Ok(()) => {
            let mut client = Client::connect(port);
            for number in 0..COUNT * 5 {
                let answer = client.store("set", &key(number), &value_of(&key(number), VALUE_SIZE), 0, 0);
                assert!(answer == "STORED" || answer.starts_with("SERVER_ERROR"), "{answer}");
            }
            missing(&mut client);
            let finished = process.stop(nix::sys::signal::Signal::SIGTERM);
            assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
        }
    }
}
