//! The shard's own io_uring: its network, the reads of its gets and the writes of its memtable.
//!
//! One ring per shard, used by one thread inside a glommio executor. Sockets are received from with multishot receives
//! into provided buffers, records are read into buffers that are registered once, answers are sent from where they
//! lie. Everything that the kernel may still look at is owned by the ring until its completion is taken: buffers go
//! in by value and come out of [`Ring::next`], so no caller can free them too early.
//!
//! [`RingIo`] is the engine's world on top of it: glommio opens and preallocates files and carries the long streams,
//! the ring does the rest. How a shard sleeps is in [`sleep`].
//!
//! **Invariants:** only the thread that made the ring uses it (SINGLE_ISSUER). A completion names its operation by a
//! checked key, so a late one hits nothing. The ring is dropped, and waited for, before the memory that it knows.
//!
//! Sources: io_uring_setup(2) for the flags (SINGLE_ISSUER | DEFER_TASKRUN, Linux 6.1), io_uring_enter(2),
//! io_uring_register(2).

pub mod check;
pub mod files;
mod outgoing;
mod receive;
pub mod sleep;
pub mod socket;
mod transfer;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Error};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use dma_alloc::{Key, Lease, Pool, Table};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

pub use files::{RingFile, RingIo};
pub use outgoing::{Kept, Outgoing};
pub use receive::Received;

use crate::limits::{RECEIVE_BUFFER_COUNT, RECEIVE_BUFFER_SIZE, RING_COMPLETION_COUNT, RING_SUBMISSION_COUNT};
use outgoing::Prepared;
use receive::ReceiveBuffers;
use transfer::{Reading, Writing};

/// What an operation is, in the top byte of its user data; the other 56 bits say which one.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Operation {
    /// Its completion means nothing to anybody.
    Ignored,
    Accept,
    Receive,
    Send,
    Read,
    Write,
    Bell,
}

const OPERATION_SHIFT: u32 = 56;
const NAME_MASK: u64 = (1 << OPERATION_SHIFT) - 1;

impl Operation {
    fn user_data(self, name: u64) -> u64 {
        debug_assert!(name <= NAME_MASK, "names have 56 bits");
        (self as u64) << OPERATION_SHIFT | name
    }
}

/// Something has happened.
pub enum Completion<'a> {
    /// A connection was accepted, or could not be.
    Accepted {
        /// What [`Ring::accept`] was given.
        listener: u32,
        /// The connection.
        socket: io::Result<OwnedFd>,
        /// Others may follow; otherwise accepting has ended.
        more: bool,
    },
    /// A socket has received something.
    Received {
        /// What [`Ring::receive`] was given.
        name: u64,
        /// The bytes; none at the stream's end.
        bytes: io::Result<Option<Received<'a>>>,
        /// Others may follow; otherwise receiving has ended.
        more: bool,
    },
    /// A send has ended.
    Sent {
        /// What [`Ring::send`] was given.
        name: u64,
        /// The same, not yet advanced.
        outgoing: Box<Outgoing>,
        /// Bytes that were sent, maybe fewer than there are.
        sent: io::Result<usize>,
    },
    /// A read has ended.
    Read {
        /// What [`Ring::read`] was given.
        name: u64,
        /// The buffer, filled with what was read.
        lease: Lease,
        /// Bytes that were read.
        count: io::Result<usize>,
    },
    /// Somebody has rung [`sleep::Bell`].
    Bell,
}

/// Which file an operation is on.
#[derive(Clone, Copy, Debug)]
enum Target {
    Registered(types::Fixed),
    Descriptor(types::Fd),
}

/// Builds an entry on whichever kind of target.
macro_rules! on_target {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            Target::Registered($fd) => $entry,
            Target::Descriptor($fd) => $entry,
        }
    };
}
use on_target;

struct Sending {
    name: u64,
    outgoing: Box<Outgoing>,
}

/// The ring and everything that the kernel may be looking at.
pub struct Ring {
    // First, so that it is closed before the memory below goes.
    uring: RefCell<IoUring>,
    sends: RefCell<Table<Sending>>,
    reads: RefCell<Table<Reading>>,
    writes: RefCell<Table<Writing>>,
    receive_buffers: ReceiveBuffers,
    pool: Pool,
    blocks: Pool,
    /// Addresses of the memory that is registered: of the read buffers, and of the write blocks.
    registered: [Range<usize>; 2],
    /// Registered descriptors: the free places.
    file_places: RefCell<Vec<u32>>,
    completions: RefCell<VecDeque<(u64, i32, u32)>>,
    sleeper: sleep::Sleeper,
    /// Tasks woken by completions so far.
    wake_count: Cell<u64>,
}

impl Ring {
    /// A ring for up to `connection_count` connections at once and `file_count` files, which reads into `pool` and
    /// writes from `blocks`. What of both RLIMIT_MEMLOCK lets it register is registered: [`Self::registered_size`] says how much.
    ///
    /// # Errors
    /// What io_uring_setup(2) and io_uring_register(2) say.
    pub fn new(pool: Pool, blocks: Pool, connection_count: usize, file_count: usize) -> io::Result<Self> {
        let uring = set_up()?;
        let receive_buffers = ReceiveBuffers::register(&uring, RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER_COUNT)?;
        let registered = register_pools(&uring, &pool, &blocks);
        let file_places = register_places(&uring, file_count);
        let sleeper = sleep::Sleeper::new(&uring)?;
        let read_count = pool.size() / crate::limits::PAGE_SIZE;
        Ok(Self {
            uring: RefCell::new(uring),
            sends: RefCell::new(Table::with_capacity(connection_count)),
            reads: RefCell::new(Table::with_capacity(read_count)),
            writes: RefCell::new(Table::with_capacity(transfer::WRITE_COUNT_MAX)),
            receive_buffers,
            pool,
            blocks,
            registered,
            file_places: RefCell::new(file_places),
            completions: RefCell::new(VecDeque::with_capacity(RING_COMPLETION_COUNT as usize)),
            sleeper,
            wake_count: Cell::new(0),
        })
    }

    /// The buffers that reads go to.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The buffers that blocks are written from.
    #[must_use]
    pub fn blocks(&self) -> &Pool {
        &self.blocks
    }

    /// Bytes of both that are registered, and of both in all; transfers to and from the rest cost the kernel more.
    #[must_use]
    pub fn registered_size(&self) -> (usize, usize) {
        let registered = self.registered.iter().map(ExactSizeIterator::len).sum();
        (registered, self.pool.region().1 + self.blocks.region().1)
    }

    /// Bytes of the buffers that sockets receive into.
    #[must_use]
    pub fn receive_memory_size(&self) -> usize {
        self.receive_buffers.memory_size()
    }

    /// Accepts connections until [`Self::cancel_accept`] or an error ends it. Each comes as [`Completion::Accepted`].
    pub fn accept(&self, listener: u32, socket: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: 1. The entry names no memory.
        unsafe { self.push(&entry.user_data(Operation::Accept.user_data(listener.into()))) };
    }

    /// Ends [`Self::accept`].
    pub fn cancel_accept(&self, listener: u32) {
        self.cancel(Operation::Accept.user_data(listener.into()));
    }

    /// Receives from `socket` until its stream ends, an error comes or [`Self::cancel_receive`]; each piece is a
    /// [`Completion::Received`] under `name` (56 bits).
    pub fn receive(&self, name: u64, socket: BorrowedFd<'_>) {
        let entry = opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), receive::GROUP).build();
        // SAFETY: 1. The entry names no memory but the registered group, which lives longer than the ring.
        unsafe { self.push(&entry.user_data(Operation::Receive.user_data(name))) };
    }

    /// Ends [`Self::receive`]; its last completion may be a piece or the error ECANCELED.
    pub fn cancel_receive(&self, name: u64) {
        self.cancel(Operation::Receive.user_data(name));
    }

    /// Sends what remains of `outgoing`; [`Completion::Sent`] brings it back.
    ///
    /// # Panics
    /// When more connections send than the ring was made for.
    pub fn send(&self, name: u64, socket: BorrowedFd<'_>, outgoing: Box<Outgoing>) {
        let mut sends = self.sends.borrow_mut();
        let Ok(key) = sends.insert(Sending { name, outgoing }) else { panic!("one send per connection at a time") };
        let sending = sends.get_mut(key).expect("just inserted");
        let socket = types::Fd(socket.as_raw_fd());
        // All of it or an error, without a completion for each part (MSG_WAITALL; Linux 5.19).
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match sending.outgoing.prepare() {
            Prepared::Plain(start, size) => opcode::Send::new(socket, start, size).flags(flags).build(),
            Prepared::Gathered(header) => opcode::SendMsg::new(socket, header).flags(flags.cast_unsigned()).build(),
        };
        // SAFETY: 1. The addresses point into the boxed `outgoing`, its vectors and leases, which stay unchanged in
        //            `sends` until the completion is taken; moving the box moves none of them.
        unsafe { self.push(&entry.user_data(Operation::Send.user_data(key.to_bits()))) };
    }

    /// Submits what is queued and has the kernel run what it has put off, without waiting. Nothing happens when there is
    /// nothing to do.
    fn enter_now(&self) {
        let result = {
            let mut uring = self.uring.borrow_mut();
            let submission = uring.submission();
            let (queued, has_work) = (submission.len(), submission.taskrun() || submission.cq_overflow());
            drop(submission);
            if queued == 0 && !has_work {
                Ok(0)
            } else {
                // SAFETY: 1. `queued` entries are complete; IORING_ENTER_GETEVENTS with nothing to wait for takes no
                //            arguments.
                unsafe { uring.submitter().enter::<libc::sigset_t>(queued as u32, 0, ENTER_GETEVENTS, None) }
            }
        };
        self.note_enter(result);
    }

    /// The same, until the kernel has put nothing off.
    fn enter_until_idle(&self) {
        loop {
            self.enter_now();
            let mut uring = self.uring.borrow_mut();
            let submission = uring.submission();
            if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
                return;
            }
        }
    }

    /// The same, and waits for a completion.
    fn enter_and_wait(&self) {
        let result = self.uring.borrow().submitter().submit_and_wait(1);
        self.note_enter(result);
    }

    fn note_enter(&self, result: io::Result<usize>) {
        match result {
            Ok(_) => {}
            // The time is over; a signal; the completion queue must be emptied first; no memory at this moment.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM)
                ) => {}
            Err(error) => panic!("io_uring_enter failed: {error}"),
        }
        self.gather();
    }

    /// Whether completions wait to be taken.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        !self.completions.borrow().is_empty()
    }

    /// Takes the completions out of the shared queue; those that only the ring knows are dealt with here.
    fn gather(&self) {
        let mut uring = self.uring.borrow_mut();
        let mut completions = self.completions.borrow_mut();
        for entry in uring.completion() {
            let name = entry.user_data() & NAME_MASK;
            match entry.user_data() >> OPERATION_SHIFT {
                kind if kind == Operation::Ignored as u64 => {}
                kind if kind == Operation::Write as u64 => self.write_ended(Key::from_bits(name), entry.result()),
                _ => completions.push_back((entry.user_data(), entry.result(), entry.flags())),
            }
        }
    }

    /// The next thing that has happened, in the order of the kernel.
    pub fn next(&self) -> Option<Completion<'_>> {
        loop {
            let (user_data, result, flags) = self.completions.borrow_mut().pop_front()?;
            if let Some(completion) = self.understand(user_data, result, flags) {
                return Some(completion);
            }
        }
    }

    fn understand(&self, user_data: u64, result: i32, flags: u32) -> Option<Completion<'_>> {
        let name = user_data & NAME_MASK;
        let more = cqueue::more(flags);
        let kind = user_data >> OPERATION_SHIFT;
        if kind == Operation::Receive as u64 {
            let bytes = count_of(result).map(|count| {
                let buffer = cqueue::buffer_select(flags)?;
                let received = self.receive_buffers.received(buffer, count);
                (count > 0).then_some(received)
            });
            return Some(Completion::Received { name, bytes, more });
        }
        if kind == Operation::Send as u64 {
            let Sending { name, outgoing } = self.sends.borrow_mut().remove(Key::from_bits(name))?;
            return Some(Completion::Sent { name, outgoing, sent: count_of(result) });
        }
        if kind == Operation::Read as u64 {
            return self.read_ended(Key::from_bits(name), result);
        }
        if kind == Operation::Accept as u64 {
            let socket = count_of(result).map(|_| {
                // SAFETY: 1. The kernel has just made this descriptor for us; nobody else owns it.
                unsafe { OwnedFd::from_raw_fd(result) }
            });
            let listener = u32::try_from(name).expect("listeners have small numbers");
            return Some(Completion::Accepted { listener, socket, more });
        }
        debug_assert_eq!(kind, Operation::Bell as u64, "every operation is known");
        self.sleeper.bell_rang();
        self.listen_to_bell();
        Some(Completion::Bell)
    }

    fn cancel(&self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build().user_data(Operation::Ignored.user_data(0));
        // SAFETY: 1. The entry names no memory.
        unsafe { self.push(&entry) };
    }

    /// Sees to it that so many entries can be queued without being submitted in between.
    fn reserve_entries(&self, count: usize) {
        loop {
            {
                let mut uring = self.uring.borrow_mut();
                let submission = uring.submission();
                if submission.capacity() - submission.len() >= count {
                    return;
                }
            }
            self.enter_now();
        }
    }

    /// Queues an entry, submitting what is queued when there is no place.
    ///
    /// # Safety
    /// All memory that the entry names stays valid and unchanged until its completion is taken.
    unsafe fn push(&self, entry: &squeue::Entry) {
        loop {
            {
                let mut uring = self.uring.borrow_mut();
                // SAFETY: 1. By this function's own condition.
                if unsafe { uring.submission().push(entry) }.is_ok() {
                    return;
                }
            }
            self.enter_now();
        }
    }
}

/// IORING_ENTER_GETEVENTS of linux/io_uring.h.
const ENTER_GETEVENTS: u32 = 1;

impl Drop for Ring {
    /// Cancels what is in flight and waits for its end, so that the kernel writes to no memory that is freed.
    fn drop(&mut self) {
        let in_flight =
            |ring: &Self| ring.reads.borrow().len() + ring.writes.borrow().len() + ring.sends.borrow().len() > 0;
        if in_flight(self) {
            let everything = types::CancelBuilder::any();
            let _ = self.uring.borrow().submitter().register_sync_cancel(None, everything);
        }
        for _ in 0..DROP_ATTEMPTS {
            while self.next().is_some() {}
            self.forget_ended_writes();
            if !in_flight(self) {
                return;
            }
            let time = types::Timespec::from(Duration::from_millis(100));
            let arguments = types::SubmitArgs::new().timespec(&time);
            let result = self.uring.borrow().submitter().submit_with_args(1, &arguments);
            self.note_enter(result);
        }
        tracing::error!("the device does not end its transfers: the process ends without them");
        std::process::abort();
    }
}

/// Makes the ring: with smaller queues where RLIMIT_MEMLOCK, which counts their memory, does not allow more.
fn set_up() -> io::Result<IoUring> {
    let mut shift = 0;
    loop {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all().dontfork();
        builder.setup_cqsize(RING_COMPLETION_COUNT >> shift);
        match builder.build(RING_SUBMISSION_COUNT >> shift) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && shift < QUEUE_SHIFT_MAX => shift += 1,
            result => return result,
        }
    }
}

/// How often the size of the queues may be halved.
const QUEUE_SHIFT_MAX: u32 = 5;

/// How often a tenth of a second is waited for transfers in flight when a ring is dropped.
const DROP_ATTEMPTS: usize = 300;

/// Registers as much as RLIMIT_MEMLOCK allows, and returns the addresses: all of both; or the read buffers only; or their
/// end, where the small ones are, which gain most.
fn register_pools(uring: &IoUring, pool: &Pool, blocks: &Pool) -> [Range<usize>; 2] {
    let (reads, writes) = (pool.region(), blocks.region());
    if register(uring, &[reads, writes]) {
        return [addresses(reads), addresses(writes)];
    }
    let (start, whole) = reads;
    let mut size = whole;
    while size >= REGISTERED_SIZE_MIN {
        let part = (start.wrapping_add(whole - size), size);
        if register(uring, &[part]) {
            return [addresses(part), 0..0];
        }
        size = (size / 2).next_multiple_of(crate::limits::PAGE_SIZE);
    }
    [0..0, 0..0]
}

fn addresses((start, size): (*mut u8, usize)) -> Range<usize> {
    start.addr()..start.addr() + size
}

/// Registers parts of pools that the ring holds.
fn register(uring: &IoUring, parts: &[(*mut u8, usize)]) -> bool {
    let vectors: Vec<_> =
        parts.iter().map(|(start, size)| libc::iovec { iov_base: start.cast(), iov_len: *size }).collect();
    // SAFETY: 1. The parts lie in the pools' mappings, which live until the ring and all leases are gone: the ring holds
    //            a handle of each and is closed before those are dropped.
    unsafe { uring.submitter().register_buffers(&vectors) }.is_ok()
}

/// Less is not worth registering.
const REGISTERED_SIZE_MIN: usize = 64 * crate::limits::KIB;
/// Most descriptors that are registered (the kernel's IORING_MAX_FIXED_FILES).
const REGISTERED_FILE_COUNT_MAX: usize = 1 << 15;

/// Makes places for descriptors that are registered later; none if the kernel refuses.
fn register_places(uring: &IoUring, file_count: usize) -> Vec<u32> {
    let count = u32::try_from(file_count.min(REGISTERED_FILE_COUNT_MAX)).expect("bounded");
    if count == 0 || uring.submitter().register_files_sparse(count).is_err() {
        return Vec::new();
    }
    (0..count).rev().collect()
}

impl Ring {
    /// Registers a descriptor; `None` when there is no place.
    fn register_file(&self, file: BorrowedFd<'_>) -> Option<u32> {
        let place = self.file_places.borrow_mut().pop()?;
        let result = self.uring.borrow().submitter().register_files_update(place, &[file.as_raw_fd()]);
        match result {
            Ok(1) => Some(place),
            _ => {
                self.file_places.borrow_mut().push(place);
                None
            }
        }
    }

    fn unregister_file(&self, place: u32) {
        const NONE: RawFd = -1;
        // A place that cannot be emptied is not used again.
        if matches!(self.uring.borrow().submitter().register_files_update(place, &[NONE]), Ok(1)) {
            self.file_places.borrow_mut().push(place);
        }
    }

    /// Gives registered files and memory back, when no transfer is in flight: the kernel would do so only some time after the
    /// process has ended, and a file system that was served from could not be unmounted until then.
    pub fn release(&self) {
        let uring = self.uring.borrow();
        // Fails where nothing is registered.
        let _ = uring.submitter().unregister_files();
        let _ = uring.submitter().unregister_buffers();
    }

    fn listen_to_bell(&self) {
        let heard = types::Fd(self.sleeper.heard().as_raw_fd());
        let entry = opcode::PollAdd::new(heard, libc::POLLIN as u32).build();
        // SAFETY: 1. The entry names no memory.
        unsafe { self.push(&entry.user_data(Operation::Bell.user_data(0))) };
    }
}

/// A result as io_uring gives it: a count, or an error number below zero.
fn count_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| Error::from_raw_os_error(-result))
}
