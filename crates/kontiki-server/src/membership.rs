//! Brings the Raft membership of each partition that this node leads to what the partition's descriptor wants. There is nothing to
//! remember: [`next_step`] says what to do from what is, so a leader that dies in the middle is followed by one that goes on.
//!
//! ```text
//!   descriptor, membership, progress ── next_step ──> open the replica on its node, add it, change who votes, write the descriptor
//! ```
//!
//! Each partition's step is a task of its own: one that waits for a slow node does not hold up the others.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kontiki_placement::{MemberStep, Membership, Progress, next_step};
use kontiki_raft::{Group, GroupMembership};
use kontiki_types::{CallError, NodeId, PartitionId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::local::Local;
use crate::transport::Peers;

/// To notice what no change of a descriptor tells: that a replica has caught up, that a leader was elected.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many entries a replica may lack and still count as caught up: under load, what it lacks is what is on its way.
const LAG_ENTRIES_MAX: u64 = 256;
/// A replica is opened within this, or later.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the node stops. `changes` ticks when a descriptor has changed here.
pub(crate) async fn run(local: Local, peers: Arc<Peers>, mut changes: watch::Receiver<u64>) {
    let busy: Arc<Mutex<HashSet<PartitionId>>> = Arc::default();
    let tasks = TaskTracker::new();
    loop {
        changes.mark_unchanged();
        for group in local.replicas().into_iter().filter(Group::is_leader) {
            if !busy.lock().contains(&group.partition()) && step(&group).is_some() {
                busy.lock().insert(group.partition());
                let (local, peers, busy) = (local.clone(), peers.clone(), busy.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = advance(&local, &peers, &group) => {}
                        () = local.stopping().cancelled() => {}
                    }
                    busy.lock().remove(&group.partition());
                });
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = sleep(LOOK_EVERY) => {}
            () = local.stopping().cancelled() => break,
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// The next step of a partition that this node leads, with the membership that it is guarded by.
fn step(group: &Group) -> Option<(MemberStep, GroupMembership)> {
    let now = group.membership();
    if !now.committed {
        return None;
    }
    let close = |replica| now.lag(replica).is_some_and(|lag| lag <= LAG_ENTRIES_MAX);
    let mut caught_up: BTreeSet<_> = now.nodes.keys().copied().filter(|replica| close(*replica)).collect();
    caught_up.insert(group.replica());
    let membership = Membership { configs: now.voters.clone(), nodes: now.nodes.clone() };
    let step = next_step(&group.descriptor(), &membership, &Progress { leader: group.replica(), caught_up })?;
    Some((step, now))
}

/// Goes on as long as there is something to do and it succeeds.
async fn advance(local: &Local, peers: &Peers, group: &Group) {
    while let Some((step, now)) = step(group).filter(|_| group.is_leader()) {
        match carry_out(local, peers, group, &step, &now).await {
            Ok(()) => tracing::debug!(partition = %group.partition(), ?step, "a step of a membership change is done"),
            Err(error) => {
                tracing::debug!(partition = %group.partition(), ?step, %error, "a step of a membership change is not done yet");
                return;
            }
        }
    }
}

async fn carry_out(
    local: &Local,
    peers: &Peers,
    group: &Group,
    step: &MemberStep,
    now: &GroupMembership,
) -> Result<(), CallError> {
    match step {
        MemberStep::Finish => group.finish_joint(now.seen).await,
        MemberStep::AddLearner { replica, node } => {
            open_replica(local, peers, group, *node).await?;
            tracing::info!(partition = %group.partition(), %replica, %node, "a replica is added and catches up");
            group.add_learner(*replica, *node, now.seen).await
        }
        MemberStep::TransferLeader { to } => group.transfer_leader(*to).await,
        MemberStep::ChangeVoters { add, remove } => group.change_voters(add, remove, now.seen).await,
        MemberStep::RemoveNodes(gone) => group.remove_nodes(gone, now.seen).await,
        MemberStep::SetDescriptor(descriptor) => {
            group.set_descriptor(descriptor.clone()).await?;
            let replicas: Vec<_> = descriptor.replicas.iter().map(|replica| replica.node.to_string()).collect();
            tracing::info!(partition = %group.partition(), replicas = replicas.join(" "), "the change of replicas is done");
            Ok(())
        }
    }
}

/// Has a node open its replica, empty. The descriptor goes with it, because the node's map may be older.
async fn open_replica(local: &Local, peers: &Peers, group: &Group, node: NodeId) -> Result<(), CallError> {
    let known = local.map_copy().current();
    let store = known.node(node).and_then(|info| info.store);
    let opened = peers.open_replica(local.identity(), node, store, &group.descriptor(), OPEN_WITHIN).await;
    opened.map_err(|error| CallError::unavailable(format!("{node} could not open its replica of {}: {error}", group.partition())))
}
