//! `-d`, `-P` and MEMCACHED_PORT_FILENAME: what tells others that the server runs, and where.
//!
//! `-d` starts the program once more, in a session of its own, and waits until that one serves or has ended. So a server
//! that cannot start is told, and its status is not 0; and when the command returns, clients find the server.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getppid, setsid};

use crate::server::{Address, Listeners};

/// Holds the process number of whoever has started a server in the background.
const STARTED_BY: &str = "DMACACHED_STARTED_BY";
/// The environment's name for the file that [`write_ports`] writes.
const PORT_FILE: &str = "MEMCACHED_PORT_FILENAME";
/// What the server in the background says when it is in order.
const READY: &[u8] = b"ready\n";

/// Why the server is not in the background, or others are not told of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTold {
    #[error("-d: cannot start in the background ({0}): start without -d, and let the shell or systemd do that")]
    Background(std::io::Error),
    #[error("-P {}: could not open the pid file for writing: {source}. Name another file, or leave -P out", path.display())]
    PidFile { path: PathBuf, source: std::io::Error },
    #[error("{PORT_FILE}={}: cannot be written: {source}. Name another file in the environment, or none", path.display())]
    PortFile { path: PathBuf, source: std::io::Error },
}

/// Starts the program in the background; nothing if this is that one. Gives the status to end with.
pub(super) fn start_in_background() -> Result<Option<ExitCode>, NotTold> {
    let own_number = std::process::id().to_string();
    if std::env::var(STARTED_BY).is_ok_and(|number| number == getppid().to_string()) {
        // Fails if it is the leader of a session already.
        let _ = setsid();
        return Ok(None);
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("dmacached"));
    let program = std::env::current_exe().map_err(NotTold::Background)?;
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(STARTED_BY, own_number).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(NotTold::Background)?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        // What cannot be read was not said.
        let _ = stdout.read_to_end(&mut said);
    }
    if said == READY {
        return Ok(Some(ExitCode::SUCCESS));
    }
    let status = child.wait().map_err(NotTold::Background)?;
    if let Some(signal) = status.signal() {
        eprintln!("dmacached: ended by signal {signal} before it served");
    }
    Ok(Some(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)))
}

/// The server's side of [`start_in_background`].
#[derive(Debug)]
pub(super) struct Starter {
    waits: bool,
    keep_stderr: bool,
}

impl Starter {
    /// `waits`: somebody does. With `keep_stderr` the log goes on there, as memcached's with `-v`.
    pub(super) fn new(waits: bool, keep_stderr: bool) -> Self {
        Self { waits, keep_stderr }
    }

    /// Tells the process that waits that all is in order, and lets go of its terminal.
    pub(super) fn is_ready(&mut self) {
        if !std::mem::take(&mut self.waits) {
            return;
        }
        // It may have been ended meanwhile; the server goes on.
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(READY).and_then(|()| stdout.flush());
        let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
        let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
        if !self.keep_stderr {
            let _ = dup2_stderr(&null);
        }
    }
}

/// The file of `-P`, removed at the end.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    pub(super) fn write(path: &Path) -> Result<Self, NotTold> {
        let old = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(number) = old.filter(|number| Path::new(&format!("/proc/{number}")).exists()) {
            tracing::warn!("-P {}: the pid file contained the number of a process that runs: {number}", path.display());
        }
        let failed = |source| NotTold::PidFile { path: path.to_path_buf(), source };
        write_whole(path, ".tmp", &format!("{}\n", std::process::id())).map_err(failed)?;
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // As memcached: whoever has taken it away has done it for us.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where the environment wants to have [`write_ports`] write.
pub(super) fn port_file() -> Option<PathBuf> {
    std::env::var_os(PORT_FILE).filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// Writes where the server listens: for those who let the system choose the port.
pub(super) fn write_ports(path: &Path, listeners: &Listeners) -> Result<(), NotTold> {
    let line = |address: &Address| match address {
        Address::Tcp(address) if address.is_ipv4() => Some(format!("TCP INET: {}\n", address.port())),
        Address::Tcp(address) => Some(format!("TCP INET6: {}\n", address.port())),
        Address::Unix(..) => None,
    };
    let text: String = listeners.addresses().filter_map(line).collect();
    if text.is_empty() {
        return Ok(());
    }
    write_whole(path, ".lck", &text).map_err(|source| NotTold::PortFile { path: path.to_path_buf(), source })
}

/// Writes a file that others see whole or not at all.
fn write_whole(path: &Path, suffix: &str, text: &str) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(suffix);
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&unfinished);
    })
}
