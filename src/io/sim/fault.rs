//! What goes wrong, and when: a schedule that can be printed, run again, and shortened.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What shall go wrong from now on, every time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads fail with EIO.
    pub reads: bool,
    /// Writes fail with EIO and leave the old bytes.
    pub writes: bool,
    /// fdatasync fails with EIO.
    pub syncs: bool,
}

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// It happens to the first request that fits when so many were made since [`Sim::schedule`](super::Sim::schedule).
    pub after: u64,
    /// What happens.
    pub kind: FaultKind,
}

/// What can go wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A read fails with EIO.
    ReadError,
    /// A write fails with EIO: each of its sectors is old or new.
    WriteError,
    /// A sync fails with EIO: what it was to cover is old or new after a power cut, whatever later syncs say.
    SyncError,
    /// There is no room for a new file, or for the new contents of a small one.
    NoSpace,
    /// Nothing that is under way ends for so long.
    Stall(Duration),
    /// A write is reported as done and never was.
    LostWrite,
    /// A write goes to another place of the same file, so many pages further (around the end), and not where it should.
    MisdirectedWrite(u32),
    /// A write goes to the same place of another file.
    ForeignWrite,
    /// A read brings what lies so many pages further.
    MisdirectedRead(u32),
    /// A read brings what was there before the last writes.
    StaleRead,
    /// A bit of a file changes: this number modulo the number of bits of all files.
    Rot(u64),
    /// A page of a file cannot be read until it is written: this number modulo the number of pages of all files.
    BadPage(u64),
}

impl FaultKind {
    /// Whether the device tells, or does not get anything wrong at all: what it has said to be stable is so.
    #[must_use]
    pub fn is_honest(self) -> bool {
        matches!(self, Self::ReadError | Self::WriteError | Self::SyncError | Self::NoSpace | Self::Stall(_))
    }

    /// Whether it happens to a request of this kind.
    fn hits(self, request: Request) -> bool {
        match self {
            Self::ReadError | Self::MisdirectedRead(_) | Self::StaleRead => request == Request::Read,
            Self::WriteError | Self::LostWrite | Self::MisdirectedWrite(_) | Self::ForeignWrite => {
                request == Request::Write
            }
            Self::SyncError => request == Request::Sync,
            Self::NoSpace => request == Request::Create,
            Self::Stall(_) | Self::Rot(_) | Self::BadPage(_) => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "after {} requests: {:?}", self.after, self.kind)
    }
}

/// A fault that has happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Which.
    pub fault: Fault,
    /// To which file; none when all stood still.
    pub path: Option<PathBuf>,
    /// Where in the file, in bytes.
    pub offset: u64,
}

impl fmt::Display for Happened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map_or_else(String::new, |path| path.display().to_string());
        write!(formatter, "{:?} at {path}:{}", self.fault.kind, self.offset)
    }
}

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read,
    Write,
    Sync,
    Create,
}

/// The faults that are still to come.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    coming: Vec<Fault>,
    request_count: u64,
    pub(super) happened: Vec<Happened>,
}

impl Schedule {
    pub(super) fn new(mut coming: Vec<Fault>) -> Self {
        coming.sort_by_key(|fault| fault.after);
        Self { coming, request_count: 0, happened: Vec::new() }
    }

    /// The faults of one more request, which is made to nobody twice.
    pub(super) fn request(&mut self, request: Request) -> Vec<Fault> {
        self.request_count += 1;
        if self.coming.first().is_none_or(|first| first.after > self.request_count) {
            return Vec::new();
        }
        let (mut due, mut has_own) = (Vec::new(), false);
        let request_count = self.request_count;
        self.coming.retain(|fault| {
            let is_own = !matches!(fault.kind, FaultKind::Stall(_) | FaultKind::Rot(_) | FaultKind::BadPage(_));
            let is_due = fault.after <= request_count && fault.kind.hits(request) && !(is_own && has_own);
            if is_due {
                has_own |= is_own;
                due.push(*fault);
            }
            !is_due
        });
        due
    }
}
