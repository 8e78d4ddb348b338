//! What a person may ask of a node's place in the cluster, and why not: the checks behind `node decommission` and `node remove`.

use std::fmt;

use kontiki_types::{NodeId, NodeState, PartitionId, Role};

use crate::View;

/// Why a node cannot be decommissioned or removed, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such node.
    Unknown {
        /// The node.
        node: NodeId,
        /// Those that there are.
        known: Vec<NodeId>,
    },
    /// It is gone or lost already, so that it cannot be decommissioned.
    NoMember {
        /// The node.
        node: NodeId,
        /// What became of it.
        state: NodeState,
    },
    /// There is no other node that could take anything.
    OnlyNode {
        /// The node.
        node: NodeId,
    },
    /// Nobody could take what it holds.
    NowhereToGo {
        /// The node.
        node: NodeId,
        /// The first partition with nowhere to go.
        partition: PartitionId,
        /// How many replicas of it there are.
        replicas: usize,
        /// How many nodes would be left.
        left: usize,
    },
    /// It answers, so that it can be decommissioned.
    Alive {
        /// The node.
        node: NodeId,
    },
    /// It holds the only replica of a partition.
    OnlyReplica {
        /// The node.
        node: NodeId,
        /// The partition.
        partition: PartitionId,
    },
    /// Without it a partition could never again have a majority.
    NoMajority {
        /// The node.
        node: NodeId,
        /// The first such partition.
        partition: PartitionId,
        /// Replicas of it on nodes that answer.
        alive: usize,
        /// All its voting replicas.
        voters: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { node, known } => {
                let known: Vec<_> = known.iter().map(NodeId::to_string).collect();
                write!(f, "there is no node {node}; the cluster has {}", known.join(", "))
            }
            Self::NoMember { node, state } => write!(f, "{node} is {state} already; nothing is left to move"),
            Self::OnlyNode { node } => write!(f, "{node} cannot go: no other node could take what it holds; add a node first"),
            Self::NowhereToGo { node, partition, replicas, left } => write!(
                f,
                "{node} cannot go: {partition} has {replicas} {}, and the {left} {} that would be left cannot hold {}; add a node first",
                if *replicas == 1 { "replica" } else { "replicas" },
                if *left == 1 { "node" } else { "nodes" },
                if *replicas == 1 { "it" } else { "them" },
            ),
            Self::Alive { node } => write!(
                f,
                "{node} answers; decommission it, so that what it holds is moved first; or say --force to give it up as it is"
            ),
            Self::OnlyReplica { node, partition } => write!(
                f,
                "{node} cannot be removed: it holds the only replica of {partition}, which would be lost; start it, or restore a backup"
            ),
            Self::NoMajority { node, partition, alive, voters } => write!(
                f,
                "{node} cannot be removed: {alive} of the {voters} voting replicas of {partition} are on other nodes that answer, which is no \
                 majority, and its own may be needed; start one of the nodes that do not answer, or restore a backup"
            ),
        }
    }
}

/// The node's state, if it is one of the cluster's.
fn known(view: &View, node: NodeId) -> Result<NodeState, Refusal> {
    let all = || view.map.nodes.iter().filter(|info| info.state.is_member()).map(|info| info.id).collect();
    view.map.node(node).map(|info| info.state).ok_or_else(|| Refusal::Unknown { node, known: all() })
}

/// Whether what `node` holds has somewhere to go. Asking again for a node that is leaving already is no mistake.
pub fn can_decommission(view: &View, node: NodeId) -> Result<(), Refusal> {
    let state = known(view, node)?;
    if !state.is_member() {
        return Err(Refusal::NoMember { node, state });
    }
    let takers: Vec<_> = view.map.nodes.iter().map(|info| info.id).filter(|id| *id != node && view.may_keep(*id)).collect();
    if takers.is_empty() {
        return Err(Refusal::OnlyNode { node });
    }
    let held = view.by_id().into_iter().filter(|descriptor| descriptor.replica_on(node).is_some());
    for descriptor in held {
        let staying = || descriptor.replicas.iter().filter(|replica| replica.role != Role::Leaving && replica.node != node);
        let good = staying().filter(|replica| view.may_keep(replica.node)).count();
        let free = takers.iter().any(|taker| staying().all(|replica| replica.node != *taker));
        let surplus = view.most() > 0 && good >= view.most();
        if !free && !surplus {
            let replicas = descriptor.replicas.iter().filter(|replica| replica.role != Role::Leaving).count();
            return Err(Refusal::NowhereToGo { node, partition: descriptor.id, replicas, left: takers.len() });
        }
    }
    Ok(())
}

/// Whether `node` can be given up without giving up data; `force`: also if it answers. Asking again for one that is lost or gone already
/// is no mistake.
pub fn can_remove(view: &View, node: NodeId, force: bool) -> Result<(), Refusal> {
    if !known(view, node)?.is_member() {
        return Ok(());
    }
    if view.alive.contains(&node) && !force {
        return Err(Refusal::Alive { node });
    }
    for descriptor in view.by_id() {
        let voters = || descriptor.replicas.iter().filter(|replica| replica.votes());
        if !voters().any(|replica| replica.node == node) {
            continue;
        }
        if voters().count() == 1 {
            return Err(Refusal::OnlyReplica { node, partition: descriptor.id });
        }
        let alive = voters().filter(|replica| replica.node != node && view.alive.contains(&replica.node)).count();
        if alive <= voters().count() / 2 {
            return Err(Refusal::NoMajority { node, partition: descriptor.id, alive, voters: voters().count() });
        }
    }
    Ok(())
}
