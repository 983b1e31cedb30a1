//! A child process whose stderr is collected while it runs, and which never outlives its test.

use super::{PATIENCE, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// A running child.
pub(crate) struct Process {
    child: Child,
    stderr: Arc<Stderr>,
}

/// The lines of stderr until now, and a bell for whoever waits for one.
#[derive(Default)]
struct Stderr {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

/// What is left of a child that ended.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts `command` with stderr collected and stdin closed.
    pub(crate) fn start(command: &mut Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let pipe = child.stderr.take().expect("stderr was piped two lines above");
        let stderr = Arc::new(Stderr::default());
        let collector = Arc::clone(&stderr);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                collector.text.lock().unwrap().0.push_str(&String::from_utf8_lossy(&line));
                collector.changed.notify_all();
                line.clear();
            }
            collector.text.lock().unwrap().1 = true;
            collector.changed.notify_all();
        });
        Process { child, stderr }
    }

    /// Everything that stderr carried until now.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text.lock().unwrap().0.clone()
    }

    /// Waits until stderr holds `text`; the error is what it held when the child closed it, or when patience ended.
    pub(crate) fn wait_for_stderr(&self, text: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.stderr.text.lock().unwrap();
        loop {
            if state.0.contains(text) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return Err(state.0.clone());
            }
            state = self.stderr.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// The number that the system knows it by.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`; a child that is gone already is no error, its status tells.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are below 2^22"));
        match kill(pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => panic!("{signal} to {pid}: {error}"),
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits until it ended by itself, and until its stderr is read to the end.
    pub(crate) fn wait(mut self) -> Finished {
        let status = eventually("the process ends", || self.child.try_wait().expect("a child can be waited for"));
        eventually("stderr closes", || self.stderr.text.lock().unwrap().1.then_some(()));
        Finished { status, stderr: self.stderr() }
    }

    /// Sends `signal` and waits.
    pub(crate) fn stop(self, signal: Signal) -> Finished {
        self.signal(signal);
        self.wait()
    }

    /// Resident memory in bytes: `VmRSS` of /proc/PID/status.
    pub(crate) fn resident_size(&self) -> u64 {
        self.status_size("VmRSS:")
    }

    /// The most memory that was ever resident, in bytes, since [`Self::forget_peak`]: `VmHWM`.
    pub(crate) fn peak_size(&self) -> u64 {
        self.status_size("VmHWM:")
    }

    /// Has [`Self::peak_size`] begin anew at what is resident now (proc_pid_clear_refs(5)); without the right to do so the
    /// peak stays, which makes a test of its growth say less.
    pub(crate) fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    fn status_size(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("status has the name");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a size is a number of kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let how = ended.map_or_else(|| "was still running".to_owned(), |status| format!("had ended: {status}"));
            eprintln!("--- stderr of process {}, which {how} ---\n{}", self.child.id(), self.stderr());
        }
    }
}

/// Whether the tests run as root, who may mount and become somebody else.
pub(crate) fn as_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether `program` with `arguments` runs and says yes.
pub(crate) fn can_run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Says on the real stderr why a test checks nothing here; the test then returns.
pub(crate) fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
