//! What the process may do: the user that it becomes, and limits that are to be set before.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, User, setgid, setgroups, setuid};

/// What the process may not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPermitted {
    #[error("-u {0}: can't find the user {0} to switch to; make the user, or name another")]
    NoUser(String),
    #[error("-u {user}: cannot become this user ({action}: {source}); start as this user and leave -u out")]
    Become { user: String, action: &'static str, source: nix::Error },
    #[error("-u {user}: cannot give {} to this user: {source}. Give it with chown, or name another directory with \
        --data-dir", path.display())]
    HandOver { user: String, path: PathBuf, source: std::io::Error },
    #[error(
        "-r: the size of core files is limited to 0: raise it with `ulimit -Hc unlimited` or LimitCORE=infinity in the \
        systemd unit, or leave -r out"
    )]
    Coredumps,
    #[error(
        "-k: memory cannot be locked ({0}): allow it with `ulimit -l unlimited`, LimitMEMLOCK=infinity in the systemd \
        unit or CAP_IPC_LOCK, or leave -k out"
    )]
    LockMemory(String),
}

/// Whether root runs the process.
pub(super) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// `-u` of root: somebody whom the system knows. Others cannot become anybody; memcached says nothing of it either.
pub(super) fn find_user(name: Option<&str>) -> Result<Option<User>, NotPermitted> {
    let Some(name) = name.filter(|_| is_root()) else { return Ok(None) };
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) | Err(_) => Err(NotPermitted::NoUser(name.to_owned())),
    }
}

/// Gives a data directory of root's to `user`, if nothing but a store is in it. A directory of somebody else is as it is
/// meant to be.
pub(super) fn hand_over(directory: &Path, user: &User) -> Result<(), NotPermitted> {
    let failed = |source| NotPermitted::HandOver { user: user.name.clone(), path: directory.to_path_buf(), source };
    let give = |path: &Path| lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed);
    // Nobody else can have put anything into what is root's and writable by root alone.
    let is_roots = |path: &Path| {
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
    };
    let directory = &std::fs::canonicalize(directory).map_err(failed)?;
    if !is_roots(directory) {
        return Ok(());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.starts_with("shard-") && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !is_roots(&path) {
                continue;
            }
            paths.extend(std::fs::read_dir(&path).map_err(failed)?.flatten().map(|file| file.path()));
        } else if name == "lost+found" {
            continue;
        } else if name != "lock" && !name.starts_with("superblock") {
            // Not ours to give away; if the user cannot write there, opening the store says so.
            return Ok(());
        }
        paths.push(path);
    }
    paths.iter().chain([directory]).try_for_each(|path| give(path))
}

/// Becomes `user` for good.
pub(super) fn become_user(user: &User) -> Result<(), NotPermitted> {
    // What root could lock for I/O, the user is to be able to. Where root may not raise it, it stays as it is.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let failed = |action| move |source| NotPermitted::Become { user: user.name.clone(), action, source };
    setgroups(&[]).map_err(failed("setgroups"))?;
    setgid(user.gid).map_err(failed("setgid"))?;
    setuid(user.uid).map_err(failed("setuid"))
}

/// `-r`: cores as large as the hard limit lets them be. After [`become_user`], which forbids them.
pub(super) fn allow_coredumps() -> Result<(), NotPermitted> {
    let raised = setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY);
    let hard = getrlimit(Resource::RLIMIT_CORE).map_or(0, |(_, hard)| hard);
    let raised = raised.or_else(|_| setrlimit(Resource::RLIMIT_CORE, hard, hard));
    if raised.is_err() || hard == 0 || set_dumpable(true).is_err() {
        return Err(NotPermitted::Coredumps);
    }
    Ok(())
}

/// `-k`: every page that is in memory, or comes to be, stays there. What is only reserved does not count as memory.
pub(super) fn lock_memory() -> Result<(), NotPermitted> {
    let refused = |why: &str| NotPermitted::LockMemory(why.to_owned());
    // With a limit, mlockall may succeed and a later allocation fail, at any moment.
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(_, hard)| hard);
    if limit != RLIM_INFINITY && !has_ipc_lock() {
        return Err(refused(&format!("the memlock limit is {limit} bytes")));
    }
    if limit == RLIM_INFINITY {
        // From the hard limit to the soft one everybody may go.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit);
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    mlockall(flags).map_err(|error| refused(error.desc()))
}

/// Whether the process has CAP_IPC_LOCK, which no limit holds for (capabilities(7)).
fn has_ipc_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}
