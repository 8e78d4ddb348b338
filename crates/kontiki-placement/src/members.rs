//! How a partition's Raft membership gets to be what its descriptor wants: the next thing for its leader to do, from what is. There is no
//! other state: a leader that dies in the middle is followed by one that sees the same and goes on.
//!
//! ```text
//!   joint? ── finish                             (a former leader began it)
//!   one wanted is not in the group ── add it as a learner, and wait until it has caught up
//!   the leader is to go ── hand over to one that stays
//!   voters are not those wanted ── one joint change: all that join in, all that leave out
//!   learners nobody wants ── remove them
//!   done ── write the descriptor that says so
//! ```

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::{Descriptor, NodeId, ReplicaId, Role};

use crate::change::settled;

/// The Raft membership of a partition, as its leader has it in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters: one set, or, in the middle of a change, the former and the new one.
    pub configs: Vec<BTreeSet<ReplicaId>>,
    /// All members, learners too, with the nodes that hold them.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
}

impl Membership {
    /// Whoever votes in some set.
    pub fn voters(&self) -> BTreeSet<ReplicaId> {
        self.configs.iter().flatten().copied().collect()
    }
}

/// How far the replicas are, as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The leader's own replica.
    pub leader: ReplicaId,
    /// The replicas that have (nearly) the whole log and answer; the leader is one of them.
    pub caught_up: BTreeSet<ReplicaId>,
}

/// One thing for the leader to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberStep {
    /// Finish the change that is half done.
    Finish,
    /// Have the node open this replica, empty, and add it to the group as a learner.
    AddLearner {
        /// The replica.
        replica: ReplicaId,
        /// The node that is to hold it.
        node: NodeId,
    },
    /// Hand leadership to another replica: this one is to go.
    TransferLeader {
        /// Who is to lead.
        to: NodeId,
    },
    /// Change who votes, in one step. Those removed are no members afterwards.
    ChangeVoters {
        /// Who votes from now on, besides the others. Learners until now.
        add: BTreeSet<ReplicaId>,
        /// Who votes no more.
        remove: BTreeSet<ReplicaId>,
    },
    /// Forget learners that nobody wants any more.
    RemoveNodes(BTreeSet<ReplicaId>),
    /// Write this descriptor: the change is done.
    SetDescriptor(Descriptor),
}

/// The next step, or `None`: nothing to do, or something to wait for (a replica that is being caught up).
///
/// No step takes away the majority: voters are changed only to a set of which a majority has the log and answers.
pub fn next_step(descriptor: &Descriptor, membership: &Membership, progress: &Progress) -> Option<MemberStep> {
    let [voters] = membership.configs.as_slice() else {
        return (membership.configs.len() > 1).then_some(MemberStep::Finish);
    };
    let wanted: BTreeMap<ReplicaId, NodeId> =
        descriptor.replicas.iter().filter(|replica| replica.role != Role::Leaving).map(|r| (r.id, r.node)).collect();
    if let Some((replica, node)) = wanted.iter().find(|(id, _)| !membership.nodes.contains_key(*id)) {
        return Some(MemberStep::AddLearner { replica: *replica, node: *node });
    }
    let add: BTreeSet<_> = wanted.keys().filter(|id| !voters.contains(*id)).copied().collect();
    let remove: BTreeSet<_> = voters.iter().filter(|id| !wanted.contains_key(*id)).copied().collect();
    if !add.is_empty() || !remove.is_empty() {
        return change_voters(voters, &wanted, add, remove, progress);
    }
    let unwanted: BTreeSet<_> = membership.nodes.keys().filter(|id| !wanted.contains_key(*id)).copied().collect();
    if !unwanted.is_empty() {
        return Some(MemberStep::RemoveNodes(unwanted));
    }
    descriptor.is_changing().then(|| MemberStep::SetDescriptor(settled(descriptor)))
}

fn change_voters(
    voters: &BTreeSet<ReplicaId>,
    wanted: &BTreeMap<ReplicaId, NodeId>,
    add: BTreeSet<ReplicaId>,
    mut remove: BTreeSet<ReplicaId>,
    progress: &Progress,
) -> Option<MemberStep> {
    if !add.is_subset(&progress.caught_up) {
        return None;
    }
    if remove.contains(&progress.leader) {
        let stays = |(id, _): &(&ReplicaId, &NodeId)| voters.contains(*id) && progress.caught_up.contains(*id);
        if let Some((_, to)) = wanted.iter().find(stays) {
            return Some(MemberStep::TransferLeader { to: *to });
        }
        if add.is_empty() {
            // Whoever stays must catch up before it can take over.
            return None;
        }
        // Nobody who stays votes yet: those who join do first, and one of them takes over.
        remove.remove(&progress.leader);
    }
    let next: BTreeSet<_> = voters.union(&add).filter(|id| !remove.contains(*id)).copied().collect();
    let complete = next.intersection(&progress.caught_up).count();
    (complete > next.len() / 2).then_some(MemberStep::ChangeVoters { add, remove })
}
