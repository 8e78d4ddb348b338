//! What this node takes on at once. A request gets in at once or is refused at once, with a delay after which to come back: a queue
//! in front of a full house only makes everybody late. Raft messages do not pass here: they must never wait behind user load.

use std::sync::Arc;

use kontiki_types::{Read, Retry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::options::AdmissionOptions;

/// When a refused caller should come back, in ms: a few times what a request takes on a busy node.
const RETRY_AFTER_MS: u64 = 50;

/// The bounds, and how much of each is taken.
pub(crate) struct Admission {
    options: AdmissionOptions,
    reads: Semaphore,
    scans: Semaphore,
    write_bytes: Semaphore,
    forwards: Arc<Semaphore>,
}

impl Admission {
    /// Nothing taken yet.
    pub(crate) fn new(options: AdmissionOptions) -> Self {
        let (reads, scans) = (Semaphore::new(options.reads_max), Semaphore::new(options.scans_max));
        let (write_bytes, forwards) = (Semaphore::new(options.write_bytes_max), Arc::new(Semaphore::new(options.forwards_max)));
        Self { options, reads, scans, write_bytes, forwards }
    }

    /// Lets a read in.
    pub(crate) fn read(&self, read: &Read) -> Result<SemaphorePermit<'_>, Retry> {
        match read {
            Read::Scan(_) | Read::Changes(_) => take(&self.scans, 1, "scan pages at once", self.options.scans_max),
            Read::Get { .. } | Read::Clock => take(&self.reads, 1, "reads at once", self.options.reads_max),
        }
    }

    /// Lets a write of this many payload bytes in. A write of nothing but conditions counts too.
    pub(crate) fn write(&self, size_bytes: usize) -> Result<SemaphorePermit<'_>, Retry> {
        // Limits have been checked, so the size fits in 32 bits; and an option's check makes the largest one fit in the bound.
        let permits = u32::try_from(size_bytes.max(1)).unwrap_or(u32::MAX);
        take(&self.write_bytes, permits, "bytes of writes at once", self.options.write_bytes_max)
    }

    /// Lets a call in that this node makes to others for its caller.
    pub(crate) fn forward(&self) -> Result<OwnedSemaphorePermit, Retry> {
        let place = self.forwards.clone().try_acquire_owned();
        place.map_err(|_| full("calls being forwarded at once", self.options.forwards_max))
    }

    /// Whether nothing is being done.
    pub(crate) fn is_idle(&self) -> bool {
        let Self { options, reads, scans, write_bytes, forwards } = self;
        reads.available_permits() == options.reads_max
            && scans.available_permits() == options.scans_max
            && write_bytes.available_permits() == options.write_bytes_max
            && forwards.available_permits() == options.forwards_max
    }
}

fn take<'a>(semaphore: &'a Semaphore, permits: u32, what: &str, limit: usize) -> Result<SemaphorePermit<'a>, Retry> {
    semaphore.try_acquire_many(permits).map_err(|_| full(what, limit))
}

fn full(what: &str, limit: usize) -> Retry {
    Retry::Overloaded { what: what.to_owned(), limit: limit as u64, retry_after_ms: RETRY_AFTER_MS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bound_refuses_at_once_and_a_finished_request_makes_room() {
        let admission = Admission::new(AdmissionOptions { reads_max: 1, write_bytes_max: 10, ..AdmissionOptions::default() });
        let first = admission.read(&Read::Clock).expect("room for one");
        let error = admission.read(&Read::Clock).expect_err("full");
        assert_eq!(error.to_string(), "overloaded: reads at once is at its limit of 1; try again in 50 ms");
        drop(first);
        assert!(admission.read(&Read::Clock).is_ok());
        let large = admission.write(8).expect("8 of 10 bytes");
        assert!(admission.write(3).is_err() && admission.write(2).is_ok());
        assert!(!admission.is_idle());
        drop(large);
        assert!(admission.is_idle() && admission.write(10).is_ok());
    }
}
