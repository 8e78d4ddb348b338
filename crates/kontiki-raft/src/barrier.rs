//! The read barrier of a group: one outstanding read index at a time, shared by all reads that arrived before it was asked
//! (Ongaro's dissertation, section 6.4). A read that passes the barrier and then waits until the state machine has applied up
//! to the index sees every write acknowledged before it started.

use kontiki_types::{CallError, NodeId, PartitionId, Retry, limits};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::type_config::{Raft, TypeConfig};

type Answer = oneshot::Sender<Result<u64, CallError>>;

/// Where reads wait for a read index. Cheap to clone; the barrier ends when all are gone.
#[derive(Clone)]
pub(crate) struct Barrier {
    partition: PartitionId,
    sender: mpsc::Sender<Answer>,
    applied: watch::Receiver<u64>,
}

impl Barrier {
    /// Starts a group's barrier. `applied` watches the next index to apply.
    pub(crate) fn start(partition: PartitionId, raft: Raft, applied: watch::Receiver<u64>) -> Self {
        let (sender, queue) = mpsc::channel(limits::READS_QUEUED_MAX);
        tokio::spawn(run(partition, raft, queue));
        Self { partition, sender, applied }
    }

    /// Returns when this replica, as the leader, may answer a linearizable read from its state machine.
    pub(crate) async fn pass(&self) -> Result<(), CallError> {
        let (answer, index) = oneshot::channel();
        self.sender.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Retry(Retry::Overloaded {
                what: "reads that wait for a read index".to_owned(),
                limit: limits::READS_QUEUED_MAX as u64,
                retry_after_ms: 50,
            }),
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })?;
        let index = index.await.map_err(|_| self.stopped())??;
        let mut applied = self.applied.clone();
        applied.wait_for(|next| *next > index).await.map_err(|_| self.stopped())?;
        Ok(())
    }

    fn stopped(&self) -> CallError {
        CallError::unavailable(format!("the replica of {} has stopped", self.partition))
    }
}

async fn run(partition: PartitionId, raft: Raft, mut queue: mpsc::Receiver<Answer>) {
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = queue.try_recv() {
            waiting.push(more);
        }
        let result = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(error) => Err(read_error(partition, error)),
        };
        for answer in waiting {
            let _ = answer.send(result.clone());
        }
    }
}

fn read_error(partition: PartitionId, error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> CallError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            let leader = forward.leader_node.map(|node| NodeId(node.node));
            CallError::Retry(Retry::NotLeader { partition, leader })
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(quorum)) => {
            CallError::unavailable(format!("no majority of {partition} confirmed the read: {quorum}"))
        }
        RaftError::Fatal(fatal) => CallError::unavailable(format!("the replica of {partition} has stopped: {fatal}")),
    }
}
