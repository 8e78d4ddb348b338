//! One proposer per group: gathers the writes of concurrent callers, packs them into one log entry, encodes it once, and hands
//! it to openraft. Packing is worth three to eight times (OPENRAFT section 3.2); there is no timer: while the entries in flight
//! are at their limit, the next batch gathers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kontiki_types::{
    Ambiguous, CallError, Command, NodeId, PartitionId, Reject, Reply, Retry, Write, WriteReply, encoding, limits,
};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::type_config::{Payload, Raft, TypeConfig};

type WriteAnswer = oneshot::Sender<Result<WriteReply, CallError>>;
type CommandAnswer = oneshot::Sender<Result<Reply, CallError>>;

enum Proposal {
    Write { write: Write<Bytes>, bytes: usize, answer: WriteAnswer },
    Command { command: Command<Bytes>, answer: CommandAnswer },
}

/// Where a group's writes are handed in. Cheap to clone; the proposer ends when all are gone.
#[derive(Clone)]
pub(crate) struct Proposer {
    partition: PartitionId,
    sender: mpsc::Sender<Proposal>,
    queued_bytes: Arc<AtomicUsize>,
    in_flight: Arc<Semaphore>,
}

/// While this lives nothing is proposed; what comes is queued.
pub(crate) struct Held(#[expect(dead_code, reason = "it is held, not used")] OwnedSemaphorePermit);

/// Wall clock of the node, in ms since the Unix epoch.
pub(crate) type WallMs = Arc<dyn Fn() -> u64 + Send + Sync>;

struct Worker {
    partition: PartitionId,
    raft: Raft,
    wall_ms: WallMs,
    waiting: Waiting,
    in_flight: Arc<Semaphore>,
}

/// What was handed in and is not proposed yet.
struct Waiting {
    queue: mpsc::Receiver<Proposal>,
    queued_bytes: Arc<AtomicUsize>,
    /// Taken from the queue, but did not fit into the entry before.
    held: Option<Proposal>,
}

/// The writes of one entry, and who waits for each.
type Packed = (Vec<Write<Bytes>>, Vec<WriteAnswer>);

impl Proposer {
    /// Starts a group's proposer.
    pub(crate) fn start(partition: PartitionId, raft: Raft, wall_ms: WallMs) -> Self {
        let (sender, queue) = mpsc::channel(limits::PROPOSALS_QUEUED_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let in_flight = Arc::new(Semaphore::new(limits::ENTRIES_IN_FLIGHT_MAX));
        let waiting = Waiting { queue, queued_bytes: queued_bytes.clone(), held: None };
        let worker = Worker { partition, raft, wall_ms, waiting, in_flight: in_flight.clone() };
        tokio::spawn(worker.run());
        Self { partition, sender, queued_bytes, in_flight }
    }

    /// Waits until every entry under way is answered. Places are given in the order in which they were asked for, so this comes about
    /// however much there is to propose.
    pub(crate) async fn hold(&self) -> Held {
        let all = u32::try_from(limits::ENTRIES_IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        match self.in_flight.clone().acquire_many_owned(all).await {
            Ok(places) => Held(places),
            // Nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Proposes one write and waits for its reply. The write may be applied even if the caller stops waiting.
    pub(crate) async fn write(&self, write: Write<Bytes>) -> Result<WriteReply, CallError> {
        let bytes = write.size_bytes();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > limits::PROPOSAL_BYTES_QUEUED_MAX {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(overloaded("bytes of writes that wait for the log", limits::PROPOSAL_BYTES_QUEUED_MAX));
        }
        let (answer, reply) = oneshot::channel();
        if let Err(error) = self.sender.try_send(Proposal::Write { write, bytes, answer }) {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(self.not_queued(&error));
        }
        reply.await.unwrap_or_else(|_| Err(CallError::ambiguous("the replica stopped while the write was under way")))
    }

    /// Proposes a command of the system's own and waits for its reply.
    pub(crate) async fn command(&self, command: Command<Bytes>) -> Result<Reply, CallError> {
        let (answer, reply) = oneshot::channel();
        self.sender.try_send(Proposal::Command { command, answer }).map_err(|error| self.not_queued(&error))?;
        reply.await.unwrap_or_else(|_| Err(CallError::ambiguous("the replica stopped while the command was under way")))
    }

    fn not_queued(&self, error: &mpsc::error::TrySendError<Proposal>) -> CallError {
        match error {
            mpsc::error::TrySendError::Full(_) => overloaded("writes that wait for the log", limits::PROPOSALS_QUEUED_MAX),
            mpsc::error::TrySendError::Closed(_) => {
                CallError::unavailable(format!("the replica of {} has stopped", self.partition))
            }
        }
    }
}

fn overloaded(what: &str, limit: usize) -> CallError {
    CallError::Retry(Retry::Overloaded { what: what.to_owned(), limit: limit as u64, retry_after_ms: 50 })
}

impl Worker {
    async fn run(mut self) {
        loop {
            let Some(first) = self.waiting.next().await else { return };
            // Only now, with a place free, the batch is taken: what arrives while we wait travels along.
            let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
            match first {
                Proposal::Write { write, bytes, answer } => {
                    let (writes, answers) = self.waiting.gather(write, bytes, answer);
                    if writes.is_empty() {
                        continue;
                    }
                    let command = Command::Writes { stamp_ms: (self.wall_ms)(), writes };
                    self.propose(&command, permit, move |result| distribute(answers, result)).await;
                }
                Proposal::Command { command, answer } => {
                    self.propose(&command, permit, move |result| {
                        let _ = answer.send(result);
                    })
                    .await;
                }
            }
        }
    }

    async fn propose(
        &self,
        command: &Command<Bytes>,
        permit: OwnedSemaphorePermit,
        done: impl FnOnce(Result<Reply, CallError>) + Send + 'static,
    ) {
        let payload = Payload(Bytes::from(encoding::encode(command)));
        let (responder, reply) = ProgressResponder::<TypeConfig, _>::complete_only();
        let partition = self.partition;
        if let Err(fatal) = self.raft.write(payload).responder(responder).await {
            done(Err(CallError::unavailable(format!("the replica of {partition} has stopped: {fatal}"))));
            return;
        }
        tokio::spawn(async move {
            let result = match reply.await {
                Ok(Ok(response)) => Ok(response.data),
                Ok(Err(error)) => Err(write_error(partition, error)),
                Err(_) => Err(CallError::ambiguous(format!("the replica of {partition} stopped while the entry was under way"))),
            };
            drop(permit);
            done(result);
        });
    }
}

impl Waiting {
    async fn next(&mut self) -> Option<Proposal> {
        match self.held.take() {
            Some(held) => Some(held),
            None => self.queue.recv().await,
        }
    }

    /// Everything that waits and fits into one entry, in the order in which it came. What nobody waits for any more is dropped: its
    /// caller was told that the outcome is not known, and work for nobody is the last thing that an overloaded group needs.
    fn gather(&mut self, first: Write<Bytes>, first_bytes: usize, answer: WriteAnswer) -> Packed {
        let (mut writes, mut answers, mut packed_bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some((first, first_bytes, answer));
        while let Some((write, bytes, answer)) = next.take() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if !answer.is_closed() {
                packed_bytes += bytes;
                writes.push(write);
                answers.push(answer);
            }
            if writes.len() >= limits::ENTRY_WRITES_MAX {
                break;
            }
            match self.queue.try_recv() {
                Ok(Proposal::Write { write, bytes, answer })
                    if packed_bytes + bytes <= limits::ENTRY_BYTES_MAX || writes.is_empty() =>
                {
                    next = Some((write, bytes, answer));
                }
                Ok(other) => self.held = Some(other),
                Err(_) => {}
            }
        }
        (writes, answers)
    }
}

fn write_error(partition: PartitionId, error: ClientWriteError<TypeConfig>) -> CallError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            let leader = forward.leader_node.map(|node| NodeId(node.node));
            CallError::Retry(Retry::NotLeader { partition, leader })
        }
        other => CallError::Ambiguous(Ambiguous { reason: format!("leadership of {partition} was lost meanwhile: {other}") }),
    }
}

/// Hands each caller its part of the entry's reply.
fn distribute(answers: Vec<WriteAnswer>, result: Result<Reply, CallError>) {
    match result {
        Ok(Reply::Writes(replies)) if replies.len() == answers.len() => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                let _ = answer.send(reply.map_err(CallError::Reject));
            }
        }
        Ok(Reply::Rejected(reject)) => fail(answers, &CallError::Reject(reject)),
        Ok(other) => fail(answers, &CallError::Reject(Reject::invalid(format!("the entry was answered with {other:?}")))),
        Err(error) => fail(answers, &error),
    }
}

fn fail(answers: Vec<WriteAnswer>, error: &CallError) {
    for answer in answers {
        let _ = answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::{Epoch, Op};

    use super::*;

    fn proposal(key: &'static str, queued: &AtomicUsize) -> (Proposal, oneshot::Receiver<Result<WriteReply, CallError>>) {
        let ops = vec![Op::Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::from(vec![0; 100]) }];
        let write = Write { epoch: Epoch::default(), request: None, conditions: vec![], ops };
        let (answer, reply) = oneshot::channel();
        let bytes = write.size_bytes();
        queued.fetch_add(bytes, Ordering::Relaxed);
        (Proposal::Write { write, bytes, answer }, reply)
    }

    #[tokio::test]
    async fn writes_whose_caller_has_gone_are_not_proposed() {
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (sender, queue) = mpsc::channel(16);
        let mut waiting = Waiting { queue, queued_bytes: queued_bytes.clone(), held: None };
        let mut callers = Vec::new();
        for (key, gone) in [("a", true), ("b", false), ("c", true), ("d", false)] {
            let (proposal, reply) = proposal(key, &queued_bytes);
            sender.try_send(proposal).unwrap_or_else(|_| panic!("there is room"));
            callers.extend((!gone).then_some(reply));
        }
        let Some(Proposal::Write { write, bytes, answer }) = waiting.next().await else { panic!("a write waits") };
        let (writes, answers) = waiting.gather(write, bytes, answer);
        let keys: Vec<_> = writes.iter().map(|write| write.ops[0].key().to_vec()).collect();
        assert_eq!(keys, [b"b", b"d"]);
        assert_eq!((answers.len(), queued_bytes.load(Ordering::Relaxed)), (2, 0));
    }
}
