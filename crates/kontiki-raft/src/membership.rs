//! Who votes in a group: what is so now, and the steps by which it is changed. Each step is one that may be tried again after any
//! interruption: it looks first whether it is done already, and it is guarded by the membership that the caller has seen, so that two who
//! decide at the same time cannot undo each other.
//!
//! ```text
//!   add_learner ──> (caught up) ──> change_voters: joint ──> uniform ──> set_descriptor
//!                                        └─ interrupted here: finish_joint, by whoever leads next
//! ```
//!
//! What is wanted stands in the partition's descriptor; what to do next is the server's to decide.
//!
//! **Invariant:** only a leader changes anything, and it never takes its own vote away while another voter could lead: it hands over first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kontiki_types::{CallError, Command, Descriptor, NodeId, PartitionId, Reject, ReplicaId, Reply, Retry};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use tokio::time::timeout;

use crate::group::{Group, unexpected};
use crate::type_config::{LogId, ReplicaNode, TypeConfig};

/// A step that takes longer than this is reported as not known to be done. Two entries must be replicated.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// Which membership was seen: the guard of the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipSeen(Option<LogId>);

/// The members of a group, as one replica knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMembership {
    /// Which membership this is.
    pub seen: MembershipSeen,
    /// Whether it is known to be committed: a new one is refused until it is.
    pub committed: bool,
    /// The sets of voters: one, or two while the membership is joint (a majority of each is needed).
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Every replica that gets the log, and its node. Those that do not vote are learners.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
    /// On the leader: the next entry that each replica lacks.
    pub next: BTreeMap<ReplicaId, u64>,
    /// The index that the next entry will get.
    pub last_next: u64,
    /// Whether the log begins later than at its first entry: whoever is new begins with a snapshot then.
    pub trimmed: bool,
}

impl GroupMembership {
    /// Whether a change was begun and not finished.
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }

    /// Whether a replica votes, in any of the sets.
    pub fn votes(&self, replica: ReplicaId) -> bool {
        self.voters.iter().any(|set| set.contains(&replica))
    }

    /// The replicas that get the log and do not vote.
    pub fn learners(&self) -> BTreeSet<ReplicaId> {
        self.nodes.keys().copied().filter(|replica| !self.votes(*replica)).collect()
    }

    /// On the leader: how many entries a replica lacks; `None` if it has told nothing yet, or this is not the leader.
    pub fn lag(&self, replica: ReplicaId) -> Option<u64> {
        self.next.get(&replica).map(|next| self.last_next.saturating_sub(*next))
    }
}

impl Group {
    /// The group's members, as known here.
    pub fn membership(&self) -> GroupMembership {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let stored = &metrics.membership_config;
        let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index + 1);
        let sets = stored.membership().get_joint_config().iter();
        GroupMembership {
            seen: MembershipSeen(*stored.log_id()),
            committed: stored.log_id() == metrics.committed_membership_config.log_id(),
            voters: sets.map(|set| set.iter().map(|id| ReplicaId(*id)).collect()).collect(),
            nodes: stored.nodes().map(|(id, node)| (ReplicaId(*id), NodeId(node.node))).collect(),
            next: metrics.replication.iter().flatten().map(|(id, matched)| (ReplicaId(*id), index(matched))).collect(),
            last_next: metrics.last_log_index.map_or(0, |last| last + 1),
            trimmed: metrics.purged.is_some(),
        }
    }

    /// Adds a replica that gets the log and does not vote. The log is trimmed before, so that the new replica begins with a snapshot:
    /// one that was created empty must not replay history under a newer descriptor.
    pub async fn add_learner(&self, replica: ReplicaId, node: NodeId, seen: MembershipSeen) -> Result<(), CallError> {
        self.check_leads()?;
        match self.membership().nodes.get(&replica) {
            Some(known) if *known == node => return Ok(()),
            Some(known) => {
                let partition = self.partition();
                let why =
                    format!("replica {replica} of {partition} lives on {known}, not on {node}; a replica id is never used twice");
                return Err(Reject::invalid(why).into());
            }
            None => {}
        }
        self.ensure_log_trimmed().await?;
        let nodes = [(replica.0, ReplicaNode { node: node.0 })].into();
        self.change(ChangeMembers::AddNodes(nodes), true, seen).await
    }

    /// Gives votes to `add` (learners by now) and takes them from `remove`, in one joint change; who loses its vote leaves the group. If this
    /// replica is to lose its vote, leadership is handed over instead, and the answer is `NotLeader`: the next leader does it.
    pub async fn change_voters(
        &self,
        add: &BTreeSet<ReplicaId>,
        remove: &BTreeSet<ReplicaId>,
        seen: MembershipSeen,
    ) -> Result<(), CallError> {
        self.check_leads()?;
        let now = self.membership();
        if !now.is_joint() && add.iter().all(|replica| now.votes(*replica)) && !remove.iter().any(|replica| now.votes(*replica)) {
            return Ok(());
        }
        let staying = self.successors(&now, remove);
        if remove.contains(&self.replica()) && !staying.is_empty() {
            self.hand_over(|node| staying.contains(&node), 0).await?;
            return Err(Retry::NotLeader { partition: self.partition(), leader: self.leader() }.into());
        }
        let ids = |replicas: &BTreeSet<ReplicaId>| replicas.iter().map(|replica| replica.0).collect::<BTreeSet<_>>();
        let changes = vec![ChangeMembers::AddVoterIds(ids(add)), ChangeMembers::RemoveVoters(ids(remove))];
        self.change(ChangeMembers::Batch(changes), false, seen).await
    }

    /// Finishes a change that was begun and interrupted. Does nothing if there is none.
    pub async fn finish_joint(&self, seen: MembershipSeen) -> Result<(), CallError> {
        self.check_leads()?;
        if !self.membership().is_joint() {
            return Ok(());
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false, seen).await
    }

    /// Takes learners out of the group.
    pub async fn remove_nodes(&self, replicas: &BTreeSet<ReplicaId>, seen: MembershipSeen) -> Result<(), CallError> {
        self.check_leads()?;
        let now = self.membership();
        let present: BTreeSet<u64> = replicas.iter().filter(|replica| now.nodes.contains_key(replica)).map(|id| id.0).collect();
        if present.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(present), true, seen).await
    }

    /// Puts a newer descriptor in force. `Reject::StaleEpoch` if it is not newer than the one in force.
    pub async fn set_descriptor(&self, descriptor: Descriptor) -> Result<(), CallError> {
        self.check_leads()?;
        if *self.descriptor() == descriptor {
            return Ok(());
        }
        match timeout(STEP_WITHIN, self.propose(Command::SetDescriptor { descriptor })).await {
            Ok(Ok(Reply::Descriptor(_))) => Ok(()),
            Ok(Ok(other)) => Err(unexpected(other)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(not_known(self.partition())),
        }
    }

    /// The nodes of the other voters that stay: one of them leads after this one.
    fn successors(&self, now: &GroupMembership, leaving: &BTreeSet<ReplicaId>) -> BTreeSet<NodeId> {
        let others = now.nodes.iter().filter(|(replica, _)| **replica != self.replica() && now.votes(**replica));
        others.filter(|(replica, _)| !leaving.contains(replica)).map(|(_, node)| *node).collect()
    }

    async fn change(
        &self,
        changes: ChangeMembers<u64, ReplicaNode>,
        retain: bool,
        seen: MembershipSeen,
    ) -> Result<(), CallError> {
        let partition = self.partition();
        let guard = Precondition::LastMembershipLogId { last_membership_log_id: seen.0 };
        // The change goes on in a task of its own: a caller that stops waiting must not leave it half done for longer than it takes.
        let raft = self.raft().clone();
        let changing = tokio::spawn(async move { raft.change_membership_if(changes, retain, [guard]).await });
        match timeout(STEP_WITHIN, changing).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(RaftError::APIError(error)))) => Err(change_error(partition, error)),
            Ok(Ok(Err(RaftError::Fatal(fatal)))) => Err(self.stopped(&fatal)),
            Ok(Err(_)) => Err(self.stopped(&"the task that changed its members ended")),
            Err(_) => Err(not_known(partition)),
        }
    }
}

fn not_known(partition: PartitionId) -> CallError {
    let within = STEP_WITHIN.as_secs();
    CallError::ambiguous(format!(
        "the change of {partition} was not confirmed within {within} s; look whether it is done, and ask again"
    ))
}

fn change_error(partition: PartitionId, error: ClientWriteError<TypeConfig>) -> CallError {
    let refused = match error {
        ClientWriteError::ForwardToLeader(forward) => {
            let leader = forward.leader_node.map(|node| NodeId(node.node));
            return Retry::NotLeader { partition, leader }.into();
        }
        ClientWriteError::PreconditionFailed(failed) => {
            let why = format!("the members of {partition} have changed meanwhile ({failed}); look again");
            return CallError::unavailable(why);
        }
        ClientWriteError::ChangeMembershipError(refused) => refused,
        other => return CallError::ambiguous(format!("leadership of {partition} was lost meanwhile: {other}")),
    };
    match refused {
        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
            CallError::unavailable(format!("{partition} is not ready for a change of its members: {refused}; ask again"))
        }
        other => Reject::invalid(format!("the members of {partition} cannot be changed so: {other}")).into(),
    }
}
