//! Snapshots: how a replica that lacks what the log no longer has is caught up. The leader sends its state as of one moment, range by range;
//! the receiver collects it beside its data and takes it over in one step.
//!
//! ```text
//!   sender                                             receiver
//!   pinned view ── Offer(id, vote, where it ends) ──>  wanted? newer, of this partition, from the right leader, room for it
//!               <────── Accept(next chunk) ──────────  goes on where the same transfer broke
//!               ── Chunk 7 ── Chunk 8 ── ... ───────>  checked, staged
//!               <────── Ack 7 ── ... ────────────────  a window of a few
//!               ── Finish(chunks, rows, digest) ────>  all there? openraft: install ── engine: replace all ranges at once
//!               <────── Installed(vote) ─────────────
//! ```
//!
//! It travels on a lane of its own, so that neither heartbeats nor entries wait behind it. Memory stays flat on both sides: a window of chunks,
//! whatever the size of the partition. All groups of the node share one rate and a few places.
//!
//! - `wire` is what is said; `sender` and `receiver` are the two ends; `registry` remembers, for a minute, a transfer that broke; `rate`
//!   is the node's share of the network.
//!
//! **Invariant:** nothing of a replica is touched before the whole state is here and checked. A crash, at any point, leaves the old
//! state or the new one.

pub(crate) mod rate;
pub(crate) mod receiver;
pub(crate) mod registry;
pub(crate) mod sender;
pub(crate) mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kontiki_types::{Error, ErrorKind};
use tokio::sync::Semaphore;

use self::rate::Rate;

/// Bounds of snapshots that are sent and received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Bytes per second that this node sends, all transfers together. Default 64 MiB/s; at least 256 KiB/s.
    pub bytes_per_second: u64,
    /// Transfers at once, each way. Default 2: more would only share the same rate.
    pub concurrent: usize,
    /// Bytes of rows in a chunk. Default and limit 1 MiB; at least one row.
    pub chunk_bytes: usize,
    /// A transfer that makes no progress for this long is given up, in ms. Default 10 s.
    pub progress_timeout_ms: u64,
    /// How long a transfer that broke may be taken up again, in ms. The view that it is read from, and what was received, are kept as
    /// long. Default 60 s.
    pub resume_within_ms: u64,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self {
            bytes_per_second: 64 * mib,
            concurrent: 2,
            chunk_bytes: CHUNK_BYTES_MAX,
            progress_timeout_ms: 10_000,
            resume_within_ms: 60_000,
        }
    }
}

/// A chunk, its envelope and one row that is as large as rows may be must fit in a message between nodes.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Chunks that are sent and not acknowledged: enough to keep the line busy while the receiver writes.
const WINDOW_CHUNKS: usize = 4;

impl SnapshotOptions {
    /// Checks that the bounds make sense. `ErrorKind::Config` names what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let message = format!("snapshots.{name} is {value}; give it {least} to {most}");
            Err(Error::new(ErrorKind::Config, message))
        };
        within("bytes_per_second", self.bytes_per_second, 256 * 1024, u64::MAX)?;
        within("concurrent", self.concurrent as u64, 1, 64)?;
        within("chunk_bytes", self.chunk_bytes as u64, 1, CHUNK_BYTES_MAX as u64)?;
        within("progress_timeout_ms", self.progress_timeout_ms, 100, 3_600_000)?;
        within("resume_within_ms", self.resume_within_ms, 0, 3_600_000)
    }

    fn progress_timeout(&self) -> Duration {
        Duration::from_millis(self.progress_timeout_ms)
    }

    pub(crate) fn resume_within(&self) -> Duration {
        Duration::from_millis(self.resume_within_ms)
    }

    /// A chunk takes at most a quarter of a second of the rate, or a slow line would look like one that is broken.
    fn chunk_bytes(&self) -> usize {
        let quarter = usize::try_from(self.bytes_per_second / 4).unwrap_or(CHUNK_BYTES_MAX);
        self.chunk_bytes.min(quarter)
    }
}

/// Snapshots, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Transfers being sent.
    pub sending: u64,
    /// Transfers being received.
    pub receiving: u64,
    /// Snapshots sent and installed by their receivers since the start.
    pub sent: u64,
    /// Snapshots received and installed here since the start.
    pub installed: u64,
    /// Attempts that failed since the start, each way; most go on where they broke.
    pub failed: u64,
    /// Bytes of rows sent since the start.
    pub sent_bytes: u64,
    /// Bytes of rows received since the start.
    pub received_bytes: u64,
    /// Chunks sent since the start.
    pub sent_chunks: u64,
    /// Chunks received since the start.
    pub received_chunks: u64,
}

/// What the transfers of a node share.
pub(crate) struct Shared {
    pub(crate) options: SnapshotOptions,
    pub(crate) rate: Rate,
    pub(crate) sending: Arc<Semaphore>,
    pub(crate) receiving: Arc<Semaphore>,
    pub(crate) counts: Counts,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) installed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_chunks: AtomicU64,
    pub(crate) received_chunks: AtomicU64,
}

/// Counts one thing more, or so many.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new(options: SnapshotOptions) -> Arc<Self> {
        let places = || Arc::new(Semaphore::new(options.concurrent));
        let (sending, receiving) = (places(), places());
        let rate = Rate::new(options.bytes_per_second);
        Arc::new(Self { rate, sending, receiving, counts: Counts::default(), options })
    }

    pub(crate) fn stats(&self) -> SnapshotStats {
        let busy = |places: &Semaphore| self.options.concurrent.saturating_sub(places.available_permits()) as u64;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SnapshotStats {
            sending: busy(&self.sending),
            receiving: busy(&self.receiving),
            sent: read(&self.counts.sent),
            installed: read(&self.counts.installed),
            failed: read(&self.counts.failed),
            sent_bytes: read(&self.counts.sent_bytes),
            received_bytes: read(&self.counts.received_bytes),
            sent_chunks: read(&self.counts.sent_chunks),
            received_chunks: read(&self.counts.received_chunks),
        }
    }
}
