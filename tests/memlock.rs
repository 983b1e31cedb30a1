//! RLIMIT_MEMLOCK, which io_uring charges rings and registered buffers to: for a user without CAP_IPC_LOCK, what does
//! not fit is not registered and works all the same.

use crate::support::{Client, PROGRAM, Server, Store, as_root, can_run, skip, value_of};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The kernel charges all processes of a user together, so only one test at a time starts servers here.
static ACCOUNT: Mutex<()> = Mutex::new(());

/// Users that no other program is likely to run as, unlike nobody. Root takes another one for each server: the kernel
/// gives back what a ring was charged some time after its process has ended.
static NEXT_USER: AtomicU32 = AtomicU32::new(64_873);

/// The program and the arguments in front of a server's own, for one without privileges whose limit is `limit` bytes. The
/// store becomes its user's.
fn launcher(store: &Store, limit: u64) -> Vec<String> {
    let mut line = vec!["prlimit".to_owned(), format!("--memlock={limit}:{limit}")];
    if as_root() {
        let user = NEXT_USER.fetch_add(1, Ordering::Relaxed);
        give_away(store.directory(), user);
        // A change of the user takes all capabilities with it.
        line.extend(["setpriv", "--clear-groups"].map(str::to_owned));
        line.extend([format!("--reuid={user}"), format!("--regid={user}")]);
    }
    line
}

/// Gives a directory and all that is in it to a user.
fn give_away(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("root may give files away");
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        give_away(&entry.path(), user);
    }
}

/// What the tests share: the right to start servers, and a store that the unprivileged user may write. Nothing when that
/// cannot be had here.
fn unprivileged_store(test: &str, flags: &[&str]) -> Option<(MutexGuard<'static, ()>, Store)> {
    let guard = ACCOUNT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let store = Store::new(flags);
    let scratch = store.directory().parent().expect("a data directory lies in a scratch directory").to_owned();
    std::fs::create_dir_all(store.directory()).expect("a directory can be made");
    if as_root() {
        std::fs::set_permissions(&scratch, PermissionsExt::from_mode(0o755)).expect("a mode can be set");
    }
    let reaches = |how: &str, path: &Path| {
        let mut line = launcher(&store, 8 << 20);
        line.extend(["test".to_owned(), how.to_owned(), path.display().to_string()]);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        can_run(line[0], &line[1..])
    };
    if !reaches("-x", Path::new(PROGRAM)) || !reaches("-w", store.directory()) {
        skip(test, "a user without privileges cannot reach the build directory, or the limit cannot be set");
        return None;
    }
    Some((guard, store))
}

fn start(store: &Store, limit: u64) -> Server {
    let line = launcher(store, limit);
    store.start_through(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn size(number: usize) -> usize {
    number * 7919 % 20_000
}

const COUNT: usize = 300;

/// Fills a server, and reads everything back from memory.
fn fill(client: &mut Client) {
    for number in 0..COUNT {
        client.set(&key(number), &value_of(&key(number), size(number)));
        assert!(client.has_intact(&key(number), size(number)), "{} in memory", key(number));
    }
}

/// Reads everything from disk, one by one and with all reads in flight together.
fn read_from_disk(client: &mut Client) {
    assert_eq!(client.ask("extstore recache_rate 0"), "OK");
    for number in 0..COUNT {
        assert!(client.has_intact(&key(number), size(number)), "{} on disk", key(number));
    }
    let requests: String = (0..COUNT).map(|number| format!("get {}\r\n", key(number))).collect();
    client.send(requests.as_bytes());
    for number in 0..COUNT {
        assert_eq!(client.line(), format!("VALUE {} 0 {}", key(number), size(number)));
        assert!(client.exactly(size(number)) == value_of(&key(number), size(number)), "{} in a pipeline", key(number));
        assert_eq!(client.exactly(7), b"\r\nEND\r\n");
    }
    assert_eq!(client.stat("get_extstore"), 2 * COUNT as u64);
}

/// A size as the program shows it, in bytes.
fn bytes_of(number: &str, unit: &str) -> f64 {
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => panic!("{unit} is no unit of size"),
    };
    number.parse::<f64>().expect("a number") * factor
}

/// What the warning says was registered, and of how much; nothing without a warning.
fn warning(stderr: &str) -> Option<(f64, f64)> {
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("the memlock limit lets ")).collect();
    assert!(lines.len() <= 1, "one line is enough: {stderr}");
    let line = lines.first()?;
    assert!(line.contains("WARN") && line.contains("be registered"), "{line}");
    let words: Vec<&str> =
        line.split_once("the memlock limit lets ").expect("it was looked for").1.split_whitespace().collect();
    assert_eq!(words[2], "of", "`the memlock limit lets A of B be registered`: {line}");
    Some((bytes_of(words[0], words[1]), bytes_of(words[3], words[4])))
}

/// Serves with a limit, before and after a restart; gives what the second start warned of.
fn serve_with(store: &Store, limit: u64) -> Option<(f64, f64)> {
    let mut server = start(store, limit);
    let first = warning(&server.process().stderr());
    fill(&mut server.client());
    server.terminate();
    let mut server = start(store, limit);
    let second = warning(&server.process().stderr());
    read_from_disk(&mut server.client());
    server.terminate();
    // Without root both servers are charged to one user, and what the first one had comes back late.
    assert!(!as_root() || first == second, "the same limit, not the same warning: {first:?}, {second:?}");
    second
}

#[test]
fn eight_mebibytes_of_locked_memory_are_enough_without_privileges() {
    let test = "eight_mebibytes_of_locked_memory_are_enough_without_privileges";
    for memory in ["64", "1024"] {
        let Some((_guard, store)) = unprivileged_store(test, &["-m", memory]) else { return };
        let told = serve_with(&store, 8 << 20);
        if let Some((registered, whole)) = told {
            assert!(registered < whole, "-m {memory}: a warning of nothing: {registered} of {whole}");
            assert!(registered > 0.0 && registered <= f64::from(8 << 20), "-m {memory}: {registered} in 8 MiB");
        }
        // The buffers of a small server fit in any case but for the rings; those of a large one cannot.
        assert!(memory == "64" || told.is_some_and(|(_, whole)| whole > f64::from(8 << 20)), "-m {memory}: {told:?}");
    }
}

#[test]
fn half_a_mebibyte_of_locked_memory_serves_with_a_warning() {
    let test = "half_a_mebibyte_of_locked_memory_serves_with_a_warning";
    for memory in ["64", "1024"] {
        let Some((_guard, store)) = unprivileged_store(test, &["-m", memory]) else { return };
        let told = serve_with(&store, 512 << 10);
        let Some((registered, whole)) = told else { panic!("-m {memory}: no warning at 512 KiB") };
        assert!(
            registered <= f64::from(512 << 10) && whole > f64::from(1 << 20),
            "-m {memory}: {registered} of {whole}"
        );
    }
}

#[test]
fn enough_locked_memory_needs_no_warning() {
    let test = "enough_locked_memory_needs_no_warning";
    if as_root() {
        // With CAP_IPC_LOCK there is no limit.
        let mut server = Store::new(&["-m", "1024"]).start();
        assert_eq!(warning(&server.process().stderr()), None);
        return;
    }
    let Some((_guard, store)) = unprivileged_store(test, &[]) else { return };
    if !can_run("prlimit", &["--memlock=67108864:67108864", "true"]) {
        return skip(test, "the hard memlock limit is below 64 MiB");
    }
    assert_eq!(serve_with(&store, 64 << 20), None);
}

#[test]
fn too_little_locked_memory_is_refused_by_its_name() {
    let test = "too_little_locked_memory_is_refused_by_its_name";
    let Some((_guard, store)) = unprivileged_store(test, &[]) else { return };
    let line = launcher(&store, 64 << 10);
    let sentence = store.refusal_through(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(sentence.contains("RLIMIT_MEMLOCK"), "{sentence}");
    assert!(sentence.contains("65536"), "the limit is told: {sentence}");
    assert_eq!(std::fs::read_dir(store.directory()).expect("it is there").count(), 0, "nothing was written");
}
