//! Every flag of memcached's, given to the built program: heeded, accepted and noted, or refused with a sentence.

use crate::support::{
    Client, PROGRAM, Process, Store, as_root, can_run, eventually, free_port, scratch_directory, skip,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What keeps a store of a test small.
const SMALL: [&str; 4] = ["--table-size", "4m", "--capacity", "64m"];

/// The program with these flags, in `directory`.
fn program(directory: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(flags).current_dir(directory).env_remove("MEMCACHED_PORT_FILENAME");
    command
}

/// What the program says to flags with which it ends at once, and with which status.
fn said(flags: &[&str]) -> (i32, String, String) {
    let output = program(Path::new("/"), flags).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("no signal ends it"), text(&output.stdout), text(&output.stderr))
}

fn wait_for(process: &Process, text: &str) {
    if let Err(stderr) = process.wait_for_stderr(text) {
        panic!("the server does not say {text:?}; stderr: {stderr}");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of `/proc/PID/status` and `/proc/PID/limits`.
fn told_by_kernel(pid: u32, file: &str, name: &str) -> String {
    let text = read(Path::new(&format!("/proc/{pid}/{file}")));
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the file has the name");
    line.trim().to_owned()
}

#[test]
fn help_begins_as_memcacheds_and_names_all_of_its_flags() {
    for flags in [&["-h"][..], &["--help"], &["serve", "-h"], &["-p", "5", "-h"]] {
        let (status, help, _) = said(flags);
        assert_eq!(status, 0, "{flags:?}");
        assert!(help.starts_with("memcached 1.6.45\n"), "{flags:?}: {help}");
        // What harnesses look for to know what a server can do.
        assert!(help.contains("unix-socket") && help.contains("ext_path"), "{help}");
        assert!(
            !["enable-ssl", "enable-sasl", "debug-commands", "proxy"].iter().any(|name| help.contains(name)),
            "{help}"
        );
    }
    let Ok(output) = Command::new("memcached").arg("-h").output() else {
        return skip("help_begins_as_memcacheds", "memcached is not installed");
    };
    let ours = said(&["-h"]).1;
    let has = |flag: &str| ours.split_whitespace().any(|word| word.trim_end_matches([',', '.']) == flag);
    let refused = ["-S", "-Z", "-e", "--enable-sasl", "--enable-ssl", "--memory-file"];
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = help.lines().filter(|line| line.starts_with('-') && !line.starts_with("-v"));
    let mut count = 0;
    for line in lines {
        // "-p, --port=<num>  TCP port ...", "-D <char> ...", "-W  --disable-watch ...".
        let flags = line.split(&[' ', ',', '='][..]).filter(|word| word.starts_with('-')).take(2);
        for flag in flags.map(|flag| flag.replace('_', "-")).filter(|flag| !refused.contains(&flag.as_str())) {
            assert!(has(&flag), "memcached has {flag}: {line}");
            count += 1;
        }
    }
    assert!(count > 50, "memcached's help was not understood: {count} flags in {help}");
}

#[test]
fn versions_are_what_harnesses_parse() {
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(said(&["-V"]), (0, format!("memcached 1.6.45\ndmacached {own}\n"), String::new()));
    assert_eq!(said(&["--version"]), (0, format!("dmacached {own} (speaks memcached 1.6.45)\n"), String::new()));
    for flag in ["-i", "--license"] {
        let (status, text, _) = said(&[flag]);
        assert!(status == 0 && text.starts_with("memcached 1.6.45\n") && text.contains("Apache License"), "{text}");
    }
}

#[test]
fn flags_that_cannot_be_are_refused_with_a_sentence() {
    for line in [
        "-p 0",
        "-p 70000",
        "-p x",
        "-U 11211",
        "-m 0",
        "-m x",
        "-I 500",
        "-I 41943040",
        "-c 0",
        "-t 0",
        "-R 0",
        "-b 0",
        "-a 1777",
        "-a 9",
        "-B foo",
        "-B binary -Y /dev/null",
        "-D ab",
        "-f 1",
        "-n 0",
        "-N 0",
        "-S",
        "-Z",
        "-e /tmp/memory",
        "-l ,",
        "-l mtls:127.0.0.1",
        "-l proto[proxy]:127.0.0.1",
        "-o nonsense",
        "-o idle_timeout",
        "-o hash_algorithm=md5",
        "-o ext_path=/tmp/a",
        "-o ext_path=/tmp/a:1g,ext_path=/tmp/b:1g",
        "-o no_maxconns_fast",
        "-o ssl_key=/tmp/a",
        "-o proxy_config=/tmp/a",
        "-s ",
        "--nonsense",
        "--spin-us 2000000",
    ] {
        let flags: Vec<&str> = line.split(' ').collect();
        let (status, stdout, stderr) = said(&flags);
        assert_eq!(status, 2, "{line}: {stderr}");
        assert!(stdout.is_empty() && !stderr.contains("panicked"), "{line}: {stderr}");
        // A value that is no value at all is refused for the flag's long name.
        let is_named = stderr.contains(flags[0]) || stderr.contains(" for '--");
        assert!(is_named, "{line} is not named: {stderr}");
        let value = flags.get(1).map_or("", |value| value.split(['=', ',', ':']).next().expect("split gives one"));
        assert!(stderr.contains(value) && stderr.split_whitespace().count() > 5, "{line}: {stderr}");
    }
}

#[test]
fn settings_tell_what_the_flags_have_set() {
    let list = format!("127.0.0.1:{},127.0.0.2", free_port());
    let flags =
        ["-A", "-F", "-X", "-C", "-W", "-D", "|", "-M", "-c", "9", "-m", "128", "-I", "2m", "-R", "5", "-b", "6"];
    let more =
        ["-B", "ascii", "-a", "770", "-o", "idle_timeout=70,track_sizes", "-l", &list, "-t", "4", "--debug-commands"];
    let server = Store::new(&[&flags[..], &more].concat()).start();
    let settings = server.client().stats_of("stats settings");
    for (name, value) in [
        ("maxbytes", (128 << 20).to_string()),
        ("maxconns", "9".to_owned()),
        ("tcpport", server.port().to_string()),
        ("udpport", "0".to_owned()),
        ("inter", format!("127.0.0.1,{list}")),
        ("evictions", "off".to_owned()),
        ("domain_socket", "NULL".to_owned()),
        ("umask", "770".to_owned()),
        ("shutdown_command", "yes".to_owned()),
        ("num_threads", "1".to_owned()),
        ("stat_key_prefix", "|".to_owned()),
        ("detail_enabled", "yes".to_owned()),
        ("reqs_per_event", "5".to_owned()),
        ("cas_enabled", "no".to_owned()),
        ("tcp_backlog", "6".to_owned()),
        ("binding_protocol", "ascii".to_owned()),
        ("auth_enabled_ascii", "no".to_owned()),
        ("item_size_max", (2 << 20).to_string()),
        ("flush_enabled", "no".to_owned()),
        ("dump_enabled", "no".to_owned()),
        ("idle_timeout", "70".to_owned()),
    ] {
        assert_eq!(settings.get(name), Some(&value), "{name}");
    }
    server.terminate();
}

#[test]
fn the_last_word_wins() {
    let port = free_port();
    let store = Store::new(&["-p", &port.to_string(), "-c", "5", "-M", "-c", "77", "-M"]);
    let mut process = Process::start(Command::new(PROGRAM).args(store.arguments(free_port())));
    wait_for(&process, &format!("listening on 127.0.0.1:{port}\n"));
    assert_eq!(Client::connect(port).stat("max_connections"), 77);
    assert!(process.is_running());
}

#[test]
fn what_has_no_effect_is_noted() {
    let list = "modern,lru_maintainer,hash_algorithm=murmur3,slab_automove=1,ext_item_size=64";
    let mut server = Store::new(&["-o", list, "-t", "4", "-f", "1.25", "-n", "48", "-L", "-N", "4", "-U", "0"]).start();
    let stderr = server.process().stderr();
    for note in ["-o lru_maintainer", "-o hash_algorithm=murmur3", "-o slab_automove=1", "-o ext_item_size=64", "-t 4"]
    {
        assert!(stderr.contains(&format!("{note}: ")), "{note} is not noted: {stderr}");
    }
    assert!(!stderr.contains("-o modern") && !stderr.contains("-f: "), "{stderr}");
    server.terminate();
    let mut server = Store::new(&["-v", "-f", "1.25", "-n", "48", "-L", "-N", "4"]).start();
    for flag in ["-f", "-n", "-L", "-N"] {
        let stderr = server.process().stderr();
        assert!(stderr.contains(&format!("{flag}: not used here")), "{flag} is not noted: {stderr}");
    }
    server.terminate();
}

#[test]
fn ports_that_the_system_chooses_are_written_to_a_file() {
    let scratch = scratch_directory();
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let list = if has_v6 { "127.0.0.1,::1" } else { "127.0.0.1" };
    let mut command = program(scratch.path(), &["-p", "-1", "-l", list]);
    let process = Process::start(command.args(SMALL).env("MEMCACHED_PORT_FILENAME", "ports"));
    wait_for(&process, "listening on 127.0.0.1:");
    let text = read(&scratch.path().join("ports"));
    let port = |line: &str, family: &str| -> u16 {
        let number = line.strip_prefix(family).unwrap_or_else(|| panic!("{family} is not in {text:?}"));
        number.parse().expect("a port")
    };
    let mut lines = text.lines();
    let mut addresses = vec![SocketAddr::from(([127, 0, 0, 1], port(lines.next().expect("a line"), "TCP INET: ")))];
    if has_v6 {
        addresses.push((Ipv6Addr::LOCALHOST, port(lines.next().expect("a second line"), "TCP INET6: ")).into());
    }
    assert_eq!(lines.next(), None, "{text:?}");
    assert!(!scratch.path().join("ports.lck").exists(), "the unfinished file is left");
    for address in addresses {
        let mut client = Client::try_connect_to(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert!(client.ask("version").starts_with("VERSION 1.6.45"));
    }
    process.stop(Signal::SIGTERM);
    // A directory that is not there.
    let mut command = program(scratch.path(), &["-p", "-1"]);
    let process = Process::start(command.args(SMALL).env("MEMCACHED_PORT_FILENAME", "missing/ports"));
    let finished = process.wait();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("MEMCACHED_PORT_FILENAME=missing/ports"), "{}", finished.stderr);
}

#[test]
fn a_unix_socket_needs_no_port_and_writes_none() {
    let scratch = scratch_directory();
    let mut command = program(scratch.path(), &["-s", "socket", "-p", "0"]);
    let process = Process::start(command.args(SMALL).env("MEMCACHED_PORT_FILENAME", "ports"));
    wait_for(&process, "listening on unix socket socket\n");
    assert!(!scratch.path().join("ports").exists());
    let mut client = Client::try_connect_unix(&scratch.path().join("socket")).expect("it listens");
    let settings = client.stats_of("stats settings");
    let of = |name: &str| settings.get(name).map(String::as_str);
    assert_eq!((of("domain_socket"), of("tcpport")), (Some("socket"), Some("0")));
    process.stop(Signal::SIGTERM);
}

#[test]
fn signals_that_are_not_meant_to_end_it_do_not() {
    let mut server = Store::new(&[]).start();
    for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGHUP] {
        server.process_signal(signal);
    }
    server.client().set("key", b"value");
    assert!(server.process().is_running());
    server.stop(Signal::SIGUSR1);
}

#[test]
fn the_pid_file_is_there_as_long_as_the_server() {
    let scratch = scratch_directory();
    let file = scratch.path().join("pid");
    let store = Store::new(&["-P", file.to_str().expect("scratch paths are UTF-8")]);
    let mut server = store.start();
    let pid: u32 = read(&file).trim_end().parse().expect("a number and the end of a line");
    assert_eq!(told_by_kernel(pid, "status", "Name:"), "dmacached");
    // One that is still there when another server begins is told, and replaced.
    let mut second = Store::new(&["-P", file.to_str().expect("scratch paths are UTF-8")]).start();
    assert!(
        second.process().stderr().contains(&format!("a process that runs: {pid}\n")),
        "{}",
        second.process().stderr()
    );
    second.terminate();
    assert!(!file.exists(), "the file is left behind");
    assert!(server.process().is_running());
    server.terminate();
    let sentence = Store::new(&["-P", "/nowhere/pid"]).refusal();
    assert!(sentence.contains("-P /nowhere/pid: could not open the pid file for writing"), "{sentence}");
}

/// A server in the background, ended with the test however that ends.
struct Background {
    pid: u32,
}

impl Background {
    /// The one whose number is in `file`.
    fn of(file: &Path) -> Self {
        Self { pid: read(file).trim().parse().expect("a number") }
    }

    fn is_running(&self) -> bool {
        Path::new(&format!("/proc/{}/cwd", self.pid)).symlink_metadata().is_ok()
            && !told_by_kernel(self.pid, "status", "State:").starts_with('Z')
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(i32::try_from(self.pid).expect("a process number")), signal);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Runs a command that has to come back, with what it says in a file: a pipe would stay open as long as the server.
fn run(command: &mut Command, directory: &Path) -> Output {
    let file = directory.join("stderr");
    let stderr = std::fs::File::create(&file).expect("a file can be made");
    let mut child = command.stderr(stderr).stdout(std::process::Stdio::null()).spawn().expect("the program starts");
    let status = eventually("the command comes back", || child.try_wait().expect("a child can be waited for"));
    Output { status, stdout: Vec::new(), stderr: read(&file).into_bytes() }
}

#[test]
fn a_server_in_the_background_is_there_when_the_command_returns() {
    let scratch = scratch_directory();
    let (directory, port) = (scratch.path(), free_port());
    let mut command = program(directory, &["-d", "-P", "pid", "-p", &port.to_string(), "--data-dir", "data"]);
    let output = run(command.args(SMALL), directory);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Background::of(&directory.join("pid"));
    Client::connect(port).set("key", b"value");
    assert!(directory.join("data").join("superblock").exists(), "a relative path is where it was meant");
    let place = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", server.pid)).expect("it runs");
    assert_eq!(place("cwd"), Path::new("/"));
    assert_eq!(["fd/0", "fd/1", "fd/2"].map(place), ["/dev/null"; 3].map(PathBuf::from));
    // The leader of a session of its own: the sixth field behind the name in brackets is the fourth here.
    let stat = read(Path::new(&format!("/proc/{}/stat", server.pid)));
    let session = stat.rsplit_once(") ").expect("a name in brackets").1.split(' ').nth(3).map(str::to_owned);
    assert_eq!(session, Some(server.pid.to_string()));
    server.signal(Signal::SIGUSR1);
    eventually("the server ends", || (!server.is_running()).then_some(()));
    assert!(!directory.join("pid").exists(), "the pid file is left behind");
    // Again, on the same data; with -v the log goes on, and with -r the directory is kept for the core.
    let mut command = program(directory, &["-dvr", "-P", "pid", "-p", &port.to_string(), "--data-dir", "data"]);
    let output = run(command.args(SMALL), directory);
    if output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("-r: ") {
        return skip("a_server_in_the_background", "core files are forbidden here");
    }
    let server = Background::of(&directory.join("pid"));
    assert_eq!(Client::connect(port).get("key").as_deref(), Some(&b"value"[..]));
    let place = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", server.pid)).expect("it runs");
    assert_eq!(place("cwd"), directory.canonicalize().expect("it is there"));
    assert_eq!(place("fd/2"), directory.canonicalize().expect("it is there").join("stderr"));
    server.signal(Signal::SIGTERM);
    eventually("the log ends", || {
        read(&directory.join("stderr")).contains("stopped, everything is on disk").then_some(())
    });
    eventually("the server ends", || (!server.is_running()).then_some(()));
}

#[test]
fn a_server_in_the_background_that_cannot_start_is_told() {
    let scratch = scratch_directory();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let status_and_words = |flags: &[&str]| {
        let output = run(program(scratch.path(), flags).args(SMALL), scratch.path());
        (output.status.code().expect("no signal ends it"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, words) = status_and_words(&["-d", "-p", &port, "-P", "pid"]);
    assert!(status == 1 && words.contains(&format!("127.0.0.1:{port}")), "{status}: {words}");
    assert!(!scratch.path().join("pid").exists(), "the file of a server that is not there");
    // A store that is in use, which is found out last.
    let store = Store::new(&[]);
    let server = store.start();
    let data = store.directory().to_str().expect("scratch paths are UTF-8").to_owned();
    let (status, words) = status_and_words(&["-d", "-p", "-1", "--data-dir", &data, "-P", "pid"]);
    assert!(status == 1 && words.contains(&data), "{status}: {words}");
    assert!(!scratch.path().join("pid").exists(), "the file of a server that is not there");
    server.terminate();
    let (status, words) = status_and_words(&["-d", "-U", "5"]);
    assert!(status == 2 && words.contains("-U 5"), "{status}: {words}");
}

#[test]
fn root_becomes_the_user_that_it_is_told_to() {
    let name = "root_becomes_the_user_that_it_is_told_to";
    if !as_root() {
        // memcached says nothing of a user that it cannot become.
        Store::new(&["-u", "nobody-of-this-name"]).start().terminate();
        return skip(name, "only root can become somebody else");
    }
    let sentence = Store::new(&["-u", "nobody-of-this-name"]).refusal();
    assert!(sentence.contains("can't find the user nobody-of-this-name to switch to"), "{sentence}");
    let scratch: TempDir = scratch_directory();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).expect("a mode can be set");
    let path = scratch.path().to_str().expect("scratch paths are UTF-8");
    if !can_run("setpriv", &["--reuid=65534", "--clear-groups", "test", "-x", path]) {
        return skip(name, "the user nobody cannot reach the build directory");
    }
    let nobody = nix::unistd::User::from_name("nobody").expect("users can be looked up").expect("there is a nobody");
    let uid = nobody.uid.as_raw();
    // A store that root has made becomes the user's; what else is in a directory of root's does not.
    let directory = scratch.path().join("data");
    let mut server = Store::at(&directory, &[]).start();
    server.client().set("key", b"value");
    assert!(server.process().stderr().contains("running as root: -u USER"), "{}", server.process().stderr());
    server.terminate();
    let mut server = Store::at(&directory, &["-u", "nobody"]).start();
    assert!(!server.process().stderr().contains("running as root"), "{}", server.process().stderr());
    assert_eq!(server.client().get("key").as_deref(), Some(&b"value"[..]));
    let pid = u32::try_from(server.client().stat("pid")).expect("a process number");
    let ids = |name: &str| -> Vec<u32> {
        let line = told_by_kernel(pid, "status", name);
        line.split_whitespace().map(|id| id.parse().expect("a number")).collect()
    };
    assert_eq!(ids("Uid:"), [uid; 4]);
    assert_eq!(ids("Gid:"), [nobody.gid.as_raw(); 4]);
    assert_eq!(ids("Groups:"), [0_u32; 0]);
    for path in [directory.clone(), directory.join("superblock"), directory.join("shard-0000")] {
        assert_eq!(std::fs::metadata(&path).expect("it is there").uid(), uid, "{}", path.display());
    }
    server.terminate();
    let foreign = scratch.path().join("foreign");
    std::fs::create_dir(&foreign).expect("a directory can be made");
    std::fs::write(foreign.join("letter"), "dear reader").expect("a file can be written");
    let sentence = Store::at(&foreign, &["-u", "nobody"]).refusal();
    assert!(sentence.contains("foreign"), "{sentence}");
    assert_eq!(std::fs::metadata(&foreign).expect("it is there").uid(), 0);
    assert_eq!(std::fs::metadata(foreign.join("letter")).expect("it is there").uid(), 0);
}

#[test]
fn memory_is_locked_or_that_is_refused() {
    let store = Store::new(&["-k"]);
    let port = free_port();
    let mut process = Process::start(Command::new(PROGRAM).args(store.arguments(port)));
    match process.wait_for_stderr(&format!("listening on 127.0.0.1:{port}")) {
        Ok(()) => {
            let mut client = Client::connect(port);
            client.set("key", b"value");
            let pid = u32::try_from(client.stat("pid")).expect("a process number");
            assert_ne!(told_by_kernel(pid, "status", "VmLck:"), "0 kB");
            // What is only reserved is not in memory.
            assert!(process.resident_size() < 64 << 20, "{}", process.resident_size());
            assert!(process.is_running());
        }
        Err(stderr) => assert!(stderr.contains("-k: memory cannot be locked"), "{stderr}"),
    }
    if can_run(
        "prlimit",
        &["--memlock=8388608:8388608", "setpriv", "--reuid=65534", "--clear-groups", "test", "-x", PROGRAM],
    ) {
        let limited = ["prlimit", "--memlock=8388608:8388608", "setpriv", "--reuid=65534", "--clear-groups"];
        let store = Store::new(&["-k"]);
        std::fs::create_dir_all(store.directory()).expect("a directory can be made");
        let scratch = store.directory().parent().expect("it lies in a scratch directory");
        for directory in [scratch, store.directory()] {
            std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).expect("a mode can be set");
        }
        let sentence = store.refusal_through(&limited);
        assert!(sentence.contains("-k: memory cannot be locked (the memlock limit is 8388608 bytes)"), "{sentence}");
    }
}

#[test]
fn cores_may_be_written() {
    let store = Store::new(&["-r"]);
    if !can_run("bash", &["-c", "test $(ulimit -Hc) != 0"]) {
        let sentence = store.refusal();
        return assert!(sentence.contains("-r: the size of core files is limited to 0"), "{sentence}");
    }
    let server = store.start_through(&["bash", "-c", "ulimit -Sc 0; exec \"$@\"", "bash"]);
    let pid = u32::try_from(server.client().stat("pid")).expect("a process number");
    let limits = told_by_kernel(pid, "limits", "Max core file size");
    let mut sizes = limits.split_whitespace();
    assert_eq!(sizes.next(), sizes.next(), "{limits}");
    server.terminate();
    let forbidden = ["bash", "-c", "ulimit -c 0; exec \"$@\"", "bash"];
    // Root without CAP_SYS_RESOURCE, which would raise the limit again.
    let without = ["setpriv", "--bounding-set", "-sys_resource"];
    let launcher = if as_root() { [&forbidden[..], &without].concat() } else { forbidden.to_vec() };
    let sentence = Store::new(&["-r"]).refusal_through(&launcher);
    assert!(sentence.contains("-r: the size of core files is limited to 0"), "{sentence}");
}

#[test]
fn the_external_path_becomes_the_data_directory() {
    let scratch = scratch_directory();
    let port = free_port().to_string();
    let mut command = program(scratch.path(), &["-p", &port, "--table-size", "4m", "-o"]);
    let process = Process::start(command.arg("idle_timeout=900,ext_path=flash/cache:64m,ext_threads=4"));
    wait_for(&process, &format!("listening on 127.0.0.1:{port}"));
    let mut client = Client::connect(port.parse().expect("a port"));
    client.set("key", b"value");
    assert_eq!(client.stat("extstore_limit_maxbytes"), 64 << 20);
    assert!(scratch.path().join("flash").join("cache").join("superblock").exists());
    assert!(!scratch.path().join("dmacached-data").exists());
    process.stop(Signal::SIGTERM);
    // The file that memcached would have made there.
    std::fs::write(scratch.path().join("file"), "pages").expect("a file can be written");
    let mut command = program(scratch.path(), &["-p", &port, "-o", "ext_path=file:64m"]);
    let finished = Process::start(&mut command).wait();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("-o ext_path=file: this is a file"), "{}", finished.stderr);
    assert_eq!(read(&scratch.path().join("file")), "pages");
}

#[test]
fn the_file_of_users_is_read_at_the_start_and_on_sighup() {
    let scratch = scratch_directory();
    let file = scratch.path().join("users");
    let path = file.to_str().expect("scratch paths are UTF-8").to_owned();
    let sentence = Store::new(&["-Y", &path]).refusal();
    assert!(sentence.contains(&format!("-Y {path}: could not open authfile for reading")), "{sentence}");
    std::fs::write(&file, "anna secret\n").expect("a file can be written");
    let sentence = Store::new(&["-Y", &path]).refusal();
    assert!(sentence.contains("malformed entry in line 1: it should be user:password"), "{sentence}");
    std::fs::write(&file, "anna:secret\n").expect("a file can be written");
    let mut server = Store::new(&["-Y", &path]).start();
    server.process_signal(Signal::SIGHUP);
    wait_for(server.process(), &format!("SIGHUP: read {path} again"));
    std::fs::write(&file, "nobody\n").expect("a file can be written");
    server.process_signal(Signal::SIGHUP);
    wait_for(server.process(), "SIGHUP: the users are as before: -Y");
    assert!(server.process().is_running());
    server.terminate();
}
