//! Looks at a server's memory while a load runs: what is resident, and what it accounts for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::snapshot::{Asker, Stats};
use crate::connection::Address;
use crate::procstat::Resident;

const INTERVAL: Duration = Duration::from_millis(100);
/// `stats` is asked every so many samples.
const SAMPLES_PER_ASK: u32 = 10;

/// What a server accounts for, as its `stats` tell.
const ACCOUNTED: &str = "memory_bytes";

/// The most that was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peak {
    pub(super) sample_count: u64,
    /// Most of each, not necessarily at the same moment.
    pub(super) resident: Resident,
    /// The most that `stats` accounted for.
    pub(super) accounted: u64,
    /// `-m`.
    pub(super) limit: u64,
}

impl Peak {
    /// The most of both.
    pub(super) fn max(self, other: Self) -> Self {
        let resident = Resident {
            all: self.resident.all.max(other.resident.all),
            anonymous: self.resident.anonymous.max(other.resident.anonymous),
        };
        Self {
            sample_count: self.sample_count + other.sample_count,
            resident,
            accounted: self.accounted.max(other.accounted),
            limit: self.limit.max(other.limit),
        }
    }
}

/// A thread that looks until it is dropped.
pub(super) struct Sampler {
    peak: Arc<Mutex<Peak>>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begins. Without a process, only what `stats` account for is known.
    pub(super) fn start(address: &Address, pid: Option<u32>) -> Result<Self, String> {
        let mut asker = Asker::connect(address)?;
        let (peak, is_done) = (Arc::new(Mutex::new(Peak::default())), Arc::new(AtomicBool::new(false)));
        let (shared, done) = (Arc::clone(&peak), Arc::clone(&is_done));
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let stats = if number % SAMPLES_PER_ASK == 0 { asker.ask().ok() } else { None };
                let resident = pid.and_then(|pid| Resident::of(pid).ok());
                note(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), resident, stats.as_ref());
                number += 1;
                std::thread::sleep(INTERVAL);
            }
        });
        Ok(Self { peak, is_done, thread: Some(thread) })
    }

    /// The most that was seen until now.
    pub(super) fn peak(&self) -> Peak {
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

fn note(peak: &mut Peak, resident: Option<Resident>, stats: Option<&Stats>) {
    if let Some(now) = resident {
        peak.sample_count += 1;
        peak.resident.all = peak.resident.all.max(now.all);
        peak.resident.anonymous = peak.resident.anonymous.max(now.anonymous);
    }
    if let Some(stats) = stats {
        let accounted = stats.number(ACCOUNTED).unwrap_or(0);
        peak.accounted = peak.accounted.max(accounted);
        peak.limit = stats.number("limit_maxbytes").unwrap_or(0);
    }
}
