//! Servers: `dmacached` on a directory of its own, and Debian's memcached as the reference.

use super::{Client, Finished, Process, can_run, eventually};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dmacached");

/// Ports that are handed out lie below the range from which the kernel takes those of outgoing connections.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A TCP port that nothing listens on, and that no other test of this process gets.
pub(crate) fn free_port() -> u16 {
    let start = 20_000 + u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    loop {
        let port = start + NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no free port left");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory on the disk that cargo builds on (the system's temporary directory may be a tmpfs), removed after the
/// test.
pub(crate) fn scratch_directory() -> TempDir {
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("cargo's directory for tests can be made");
    tempfile::Builder::new().prefix("dmacached-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory")
}

/// A data directory and the flags that its servers get: what stays while servers come and go.
pub(crate) struct Store {
    /// Removed at the end; nothing if the directory is somebody else's.
    scratch: Option<Arc<TempDir>>,
    directory: PathBuf,
    flags: Vec<String>,
}

impl Store {
    /// A new store with small tables, so that a few MiB of records already fill several. `flags` follow and win.
    pub(crate) fn new(flags: &[&str]) -> Store {
        let scratch = scratch_directory();
        let directory = scratch.path().join("data");
        Store { scratch: Some(Arc::new(scratch)), ..Store::at(&directory, flags) }
    }

    /// A store in a directory of the caller's.
    pub(crate) fn at(directory: &Path, flags: &[&str]) -> Store {
        let mut all = vec!["-m".to_owned(), "64".to_owned()];
        for (flag, value) in [("--table-size", "4m"), ("--capacity", "64m")] {
            if !flags.contains(&flag) {
                all.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        if flags.contains(&"-m") {
            all.drain(..2);
        }
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Store { scratch: None, directory: directory.to_owned(), flags: all }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The same directory, served with other flags from the next start on.
    pub(crate) fn with_flags(self, flags: &[&str]) -> Store {
        Store { flags: Store::at(&self.directory, flags).flags, ..self }
    }

    /// The arguments of a server of this store on `port`.
    pub(crate) fn arguments(&self, port: u16) -> Vec<String> {
        let directory = self.directory.to_str().expect("scratch paths are UTF-8").to_owned();
        let mut arguments = vec!["-p".to_owned(), port.to_string(), "-l".to_owned(), "127.0.0.1".to_owned()];
        arguments.extend(["--data-dir".to_owned(), directory]);
        arguments.extend(self.flags.iter().cloned());
        arguments
    }

    /// Starts a server and waits until it serves; a server that refuses is a failed test.
    pub(crate) fn start(&self) -> Server {
        let port = free_port();
        self.started(port, Process::start(Command::new(PROGRAM).args(self.arguments(port))))
    }

    /// The same with the program started by `launcher`, which gets program and arguments appended.
    pub(crate) fn start_through(&self, launcher: &[&str]) -> Server {
        let port = free_port();
        let mut line: Vec<&str> = launcher.to_vec();
        line.push(PROGRAM);
        self.started(port, Process::start(Command::new(line[0]).args(&line[1..]).args(self.arguments(port))))
    }

    /// Starts a server on the unix socket that its flags name, and waits until it serves there.
    pub(crate) fn start_on_socket(&self, socket: &Path) -> Server {
        let process = Process::start(Command::new(PROGRAM).args(self.arguments(0)));
        let served = format!("listening on unix socket {}", socket.display());
        if let Err(stderr) = process.wait_for_stderr(&served) {
            panic!("{PROGRAM} {:?} does not serve; stderr: {stderr}", self.arguments(0));
        }
        Server { process, port: 0, _scratch: self.scratch.clone() }
    }

    /// [`Self::start`] from another working directory.
    pub(crate) fn start_in(&self, directory: &Path) -> Server {
        let port = free_port();
        self.started(port, Process::start(Command::new(PROGRAM).args(self.arguments(port)).current_dir(directory)))
    }

    fn started(&self, port: u16, process: Process) -> Server {
        if let Err(stderr) = process.wait_for_stderr(&format!("listening on 127.0.0.1:{port}")) {
            panic!("{PROGRAM} {:?} does not serve; stderr: {stderr}", self.arguments(port));
        }
        Server { process, port, _scratch: self.scratch.clone() }
    }

    /// Starts a server that has to refuse: gives its sentence, after checking that it failed, spoke and did not panic.
    pub(crate) fn refusal(&self) -> String {
        self.refusal_through(&[])
    }

    /// The same with the program started by `launcher`, which gets program and arguments appended.
    pub(crate) fn refusal_through(&self, launcher: &[&str]) -> String {
        self.refusal_on(free_port(), launcher)
    }

    /// The same on a port that is given.
    pub(crate) fn refusal_on(&self, port: u16, launcher: &[&str]) -> String {
        let mut line: Vec<&OsStr> = launcher.iter().map(OsStr::new).collect();
        line.push(OsStr::new(PROGRAM));
        let mut process = Process::start(Command::new(line[0]).args(&line[1..]).args(self.arguments(port)));
        let served = format!("listening on 127.0.0.1:{port}");
        eventually("the server refuses", || {
            (process.stderr().contains(&served) || !process.is_running()).then_some(())
        });
        assert!(!process.is_running(), "the server serves what it should refuse; stderr: {}", process.stderr());
        let Finished { status, stderr } = process.wait();
        let code =
            status.code().unwrap_or_else(|| panic!("the server was killed by a signal: {status}; stderr: {stderr}"));
        assert_ne!(code, 0, "a refusal is an error; stderr: {stderr}");
        assert!(!stderr.contains("panicked"), "a refusal is not a panic: {stderr}");
        assert!(!stderr.contains(&served), "it served before it refused: {stderr}");
        assert!(stderr.split_whitespace().count() >= 5, "a refusal is a sentence: {stderr:?}");
        stderr
    }
}

/// A server that serves.
pub(crate) struct Server {
    /// Before the directory, so that it is gone when that is removed.
    process: Process,
    port: u16,
    _scratch: Option<Arc<TempDir>>,
}

impl Server {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends `signal` and does not wait.
    pub(crate) fn process_signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ended by itself, with 0.
    pub(crate) fn wait_for_success(self) {
        let Finished { status, stderr } = self.process.wait();
        assert_eq!(status.code(), Some(0), "the server ends with {status}; stderr: {stderr}");
    }

    /// Waits until it ended, however.
    pub(crate) fn wait_for_end(self) -> Finished {
        self.process.wait()
    }

    /// SIGTERM; it has to exit with 0.
    pub(crate) fn terminate(self) {
        self.stop(Signal::SIGTERM);
    }

    /// `signal`, which has to end it with 0.
    pub(crate) fn stop(self, signal: Signal) {
        self.process_signal(signal);
        self.wait_for_success();
    }

    /// SIGKILL: no goodbye, nothing flushed.
    pub(crate) fn kill(self) {
        self.process.stop(Signal::SIGKILL);
    }
}

/// Debian's memcached, the reference for every string.
pub(crate) struct Reference {
    _process: Process,
    port: u16,
}

impl Reference {
    /// Starts it; nothing if it is not installed.
    pub(crate) fn start(flags: &[&str]) -> Option<Reference> {
        if !can_run("memcached", &["-V"]) {
            return None;
        }
        let port = free_port();
        let mut command = Command::new("memcached");
        if super::as_root() {
            // A later -u wins.
            command.args(["-u", "nobody"]);
        }
        command.args(["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]).args(flags);
        let process = Process::start(&mut command);
        eventually("memcached answers", || Client::try_connect(port).ok());
        Some(Reference { _process: process, port })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port)
    }
}
