//! One log and one log writer per node. Every group hands its appends, votes, truncations and purges to one bounded queue; one
//! writer drains it, makes one frame and one fsync of all that waits, and then fires the completions in queue order. The fsync
//! in progress is the window in which the next batch gathers: there is no timer.
//!
//! ```text
//!   group A ── append ─┐
//!   group B ── vote ───┼── queue (tickets in order) ── write ── fsync ── durable ticket ── completions, in order
//!   group C ── append ─┘
//! ```
//!
//! A ticket is a request's place in the queue. Because the queue is one and first in, first out, "durable up to ticket t" says
//! that everything that any group asked before is on disk.
//!
//! **Invariant:** after a failed write or fsync nothing is ever reported durable again; fsync is not retried, because the kernel
//! may have dropped the pages (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_storage::log::{Log, Record, Spares};
use kontiki_types::{Fault, limits};
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, timeout_at};

use crate::exec::{Exec, run_blocking};
use crate::type_config::TypeConfig;

/// Requests that may wait for the writer. A full queue holds the groups back, one append each.
const REQUESTS_QUEUED_MAX: usize = 8 * 1024;

/// About how many fsyncs the average looks back over: one that was slow by chance must not make a node slow.
const FSYNCS_AVERAGED: u64 = 16;

/// A spare segment for which there was no room is tried again after this.
const SPARE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How the log stands: the last durable ticket, and the fault that ended it, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) durable: u64,
    pub(crate) fault: Option<Fault>,
}

/// Who is told when a request is durable.
pub(crate) enum Completion {
    /// openraft's append callback.
    Append(IOFlushed<TypeConfig>),
    /// A caller that waits.
    Wait(oneshot::Sender<Result<(), Fault>>),
    /// Nobody: it only has to be in order.
    Nobody,
}

/// What was written and waits for its fsync.
struct Turn {
    batch: Vec<Request>,
    written: Result<(), Fault>,
    since: Instant,
}

struct Request {
    ticket: u64,
    records: Vec<Record>,
    completion: Completion,
}

impl Request {
    fn size_bytes(&self) -> usize {
        self.records
            .iter()
            .map(|record| if let Record::Entry { head, body, .. } = record { head.len() + body.len() } else { 64 })
            .sum()
    }
}

/// Where groups put their log requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogQueue {
    sender: mpsc::Sender<Request>,
    next_ticket: Arc<Mutex<u64>>,
    progress: watch::Receiver<Progress>,
    fsync_us: Arc<AtomicU64>,
}

/// The writing end: owns the log. Run it on a thread of its own.
pub struct LogWriter {
    log: Log,
    queue: mpsc::Receiver<Request>,
    progress: watch::Sender<Progress>,
    fsync_us: Arc<AtomicU64>,
    spares: Spares,
    spare_wanted: mpsc::Sender<()>,
}

/// Told when the next spare segment should be prepared; zero-filling one takes far longer than an fsync, so the writer leaves it
/// to others.
pub(crate) struct SpareKeeper {
    spares: Spares,
    wanted: mpsc::Receiver<()>,
}

impl SpareKeeper {
    /// Prepares spares until the writer is gone. Not at once again where there was no room for one: each attempt takes all the room that is left for a
    /// moment, which the log itself and the engine may need just then.
    pub(crate) async fn run(mut self, exec: Arc<dyn Exec>) {
        while self.wanted.recv().await.is_some() {
            let spares = self.spares.clone();
            let Some(Err(fault)) = run_blocking(exec.as_ref(), move || spares.prepare()).await else { continue };
            tracing::warn!(%fault, "no spare log segment could be prepared; the log goes on without one, a little slower");
            let until = Instant::now() + SPARE_AGAIN_AFTER;
            // What is asked meanwhile is asked again later.
            while let Ok(asked) = timeout_at(until, self.wanted.recv()).await {
                if asked.is_none() {
                    return;
                }
            }
        }
    }
}

/// A queue, the writer that drains it, and who prepares its spare segments.
pub(crate) fn log_queue(log: Log) -> (LogQueue, LogWriter, SpareKeeper) {
    let (sender, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let (progress, watched) = watch::channel(Progress::default());
    let fsync_us = Arc::new(AtomicU64::new(0));
    let queue_end = LogQueue { sender, next_ticket: Arc::new(Mutex::new(0)), progress: watched, fsync_us: fsync_us.clone() };
    let (spare_wanted, wanted) = mpsc::channel(1);
    let spares = log.spares();
    let keeper = SpareKeeper { spares: spares.clone(), wanted };
    let writer = LogWriter { log, queue, progress, fsync_us, spares, spare_wanted };
    writer.ask_for_spare();
    (queue_end, writer, keeper)
}

impl LogQueue {
    /// Queues a request and returns its ticket. Waits only while the queue is full.
    pub(crate) async fn push(&self, records: Vec<Record>, completion: Completion) -> Result<u64, Fault> {
        let Ok(permit) = self.sender.reserve().await else {
            return Err(self.stopped());
        };
        // Ticket and place in the queue are taken under one lock, so that their orders agree.
        let mut next = self.next_ticket.lock();
        *next += 1;
        permit.send(Request { ticket: *next, records, completion });
        Ok(*next)
    }

    /// Queues a request and waits until it is durable.
    pub(crate) async fn push_and_wait(&self, records: Vec<Record>) -> Result<(), Fault> {
        let (done, result) = oneshot::channel();
        self.push(records, Completion::Wait(done)).await?;
        result.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Waits until everything up to `ticket` is durable.
    pub(crate) async fn wait_durable(&self, ticket: u64) -> Result<(), Fault> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.durable >= ticket || progress.fault.is_some()).await;
        match reached {
            Ok(progress) if progress.durable >= ticket => Ok(()),
            Ok(progress) => Err(progress.fault.clone().unwrap_or_else(|| self.stopped())),
            Err(_) => Err(self.stopped()),
        }
    }

    /// The last durable ticket.
    pub(crate) fn durable(&self) -> u64 {
        self.progress.borrow().durable
    }

    /// How long an fsync takes, in us: a moving average; 0 before the first.
    pub(crate) fn fsync_us(&self) -> u64 {
        self.fsync_us.load(Ordering::Relaxed)
    }

    /// The fault that ended the log, if any.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.progress.borrow().fault.clone()
    }

    fn stopped(&self) -> Fault {
        self.fault().unwrap_or_else(|| Fault::io("writing the raft log", io::Error::other("the log writer has stopped")))
    }
}

impl LogWriter {
    /// Writes until every group is gone. Blocks: for an OS thread.
    pub fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let turn = self.write(first);
            self.finish(turn);
        }
    }

    /// The same as a task, for an executor that has no threads. Each fsync takes as long as `fsync_takes` says; a machine that dies
    /// meanwhile has written, and not synced.
    pub async fn run_inline(mut self, mut fsync_takes: impl FnMut() -> Duration + Send) {
        while let Some(first) = self.queue.recv().await {
            let turn = self.write(first);
            tokio::time::sleep(fsync_takes()).await;
            self.finish(turn);
        }
    }

    /// The first half of a turn: everything that waits, up to a frame's size, in one write.
    fn write(&mut self, first: Request) -> Turn {
        let mut bytes = first.size_bytes();
        let mut batch = vec![first];
        while bytes < limits::FRAME_BYTES_MAX {
            let Ok(request) = self.queue.try_recv() else { break };
            bytes += request.size_bytes();
            batch.push(request);
        }
        let records: Vec<Record> = batch.iter_mut().flat_map(|request| std::mem::take(&mut request.records)).collect();
        // A full disk leaves the log itself usable, but what was refused then is missing: a later ticket that became durable would
        // speak for it too.
        let earlier = self.progress.borrow().fault.clone();
        let written = match earlier {
            Some(fault) => Err(fault),
            None => self.log.write(&records),
        };
        Turn { batch, written, since: Instant::now() }
    }

    /// The second half: one fsync, then the completions in order.
    fn finish(&mut self, turn: Turn) {
        let Turn { batch, written, since } = turn;
        let durable = batch.last().map_or(0, |request| request.ticket);
        let result = written.and_then(|()| self.sync(since));
        match &result {
            Ok(()) => self.progress.send_modify(|progress| progress.durable = durable),
            Err(fault) => self.progress.send_modify(|progress| {
                if progress.fault.is_none() {
                    tracing::error!(%fault, "the raft log failed: this node stops accepting writes");
                    progress.fault = Some(fault.clone());
                }
            }),
        }
        for request in batch {
            request.completion.fire(&result);
        }
        self.ask_for_spare();
    }

    /// One fsync, with the time since it was begun in the moving average.
    fn sync(&mut self, since: Instant) -> Result<(), Fault> {
        self.log.sync()?;
        let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let average = match self.fsync_us.load(Ordering::Relaxed) {
            0 => took,
            known => known - known / FSYNCS_AVERAGED + took / FSYNCS_AVERAGED,
        };
        self.fsync_us.store(average.max(1), Ordering::Relaxed);
        Ok(())
    }

    fn ask_for_spare(&self) {
        if self.spares.wanted() {
            // Full means that it was asked already; closed, that nobody prepares any.
            let _ = self.spare_wanted.try_send(());
        }
    }
}

impl Completion {
    fn fire(self, result: &Result<(), Fault>) {
        match self {
            Self::Append(flushed) => flushed.io_completed(result.clone().map_err(io::Error::from)),
            Self::Wait(done) => {
                let _ = done.send(result.clone());
            }
            Self::Nobody => {}
        }
    }
}
