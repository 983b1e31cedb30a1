//! Memory made resident on another thread, ahead of its first touch.
//!
//! The first touch of a page costs its owner a fault: about a microsecond for 4 KiB, 100 microseconds and more for 2 MiB,
//! which must be zeroed, and milliseconds where the kernel has to make room for them first. One thread of the process
//! takes that over for all slabs. It only ever asks the kernel for pages (madvise(2), `MADV_POPULATE_WRITE`): it never
//! looks at them, so their owner may use the region all the while, and who comes before it just faults as before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};

use crate::arena::Mapping;

/// A part of a region that is wanted soon.
#[derive(Debug)]
struct Wanted {
    /// Not held while it waits its turn: memory that was given back is unmapped, but for what is just being asked for.
    mapping: Weak<Mapping>,
    offset: usize,
    size: usize,
    done: Arc<AtomicBool>,
}

/// One owner's line to the thread: one part at a time.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Whether the part that was asked for last is done; none was asked for yet if absent.
    done: Option<Arc<AtomicBool>>,
}

impl Ahead {
    /// Whether a part is still to be made resident.
    pub(crate) fn is_busy(&self) -> bool {
        // Nothing is read that the other thread has written: the order of nothing else depends on it.
        self.done.as_ref().is_some_and(|done| !done.load(Ordering::Relaxed))
    }

    /// Asks for a part. Without the thread nothing happens, and the owner's touches fault.
    pub(crate) fn ask(&mut self, mapping: &Arc<Mapping>, offset: usize, size: usize) {
        let Some(line) = line() else { return };
        let done = self.done.get_or_insert_default();
        done.store(false, Ordering::Relaxed);
        let wanted = Wanted { mapping: Arc::downgrade(mapping), offset, size, done: Arc::clone(done) };
        if let Err(unsent) = line.send(wanted) {
            unsent.0.done.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets the part that was asked for last.
    pub(crate) fn forget(&mut self) {
        self.done = None;
    }
}

/// See [`leave_touching_to_owners`].
static IS_LEFT_TO_OWNERS: AtomicBool = AtomicBool::new(false);

/// From now on no thread makes memory resident ahead: its owners' touches do. How far the thread has come decides how much memory
/// an owner has taken at a moment; without it, a simulation takes the same course each time.
pub fn leave_touching_to_owners() {
    IS_LEFT_TO_OWNERS.store(true, Ordering::Relaxed);
}

/// The line to the thread, which is started by the first call. None where there is no thread to be had, and under Miri,
/// which knows no madvise and wants all threads to end.
fn line() -> Option<&'static Sender<Wanted>> {
    if IS_LEFT_TO_OWNERS.load(Ordering::Relaxed) {
        return None;
    }
    static LINE: OnceLock<Option<Sender<Wanted>>> = OnceLock::new();
    let line = LINE.get_or_init(|| {
        if cfg!(miri) {
            return None;
        }
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("prefault".into()).stack_size(64 * 1024);
        thread.spawn(move || serve(&receiver)).ok().map(|_| sender)
    });
    line.as_ref()
}

fn serve(receiver: &Receiver<Wanted>) {
    leave_signals_to_others();
    run_where_the_process_may();
    while let Ok(Wanted { mapping, offset, size, done }) = receiver.recv() {
        if let Some(mapping) = mapping.upgrade() {
            mapping.populate(offset, size);
        }
        done.store(true, Ordering::Relaxed);
    }
}

/// A signal to the process is handled by any thread that does not block it. Not by this one: others may wait for being
/// interrupted.
fn leave_signals_to_others() {
    // SAFETY: 1. A set of signals is an array of integers: all bits zero is the empty set.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: 1. `signals` is writable.
    let _ = unsafe { libc::sigfillset(&raw mut signals) };
    // SAFETY: 1. `signals` is readable; nobody asks for the old set. 2. Only the calling thread's mask changes.
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
}

/// A thread inherits the CPUs of the one that started it, which may be a shard's single one: it takes those of the
/// process' first thread instead. If it cannot, it stays where it is.
fn run_where_the_process_may() {
    // SAFETY: 1. A set of CPUs is an array of integers: all bits zero is the empty set.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 1. No arguments, no failure.
    let process = unsafe { libc::getpid() };
    // SAFETY: 1. `cpus` is writable for the size passed.
    let result = unsafe { libc::sched_getaffinity(process, size_of::<libc::cpu_set_t>(), &raw mut cpus) };
    if result == 0 {
        // SAFETY: 1. `cpus` is readable for the size passed; 0 is the calling thread.
        let _ = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus) };
    }
}
