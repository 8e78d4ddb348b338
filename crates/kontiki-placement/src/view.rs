//! What is known when a plan is made, and the questions that all rules ask of it.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::{Descriptor, NodeId, NodeState, PartitionId, PartitionMap, Role};

/// What is known when a plan is made. All of it may be slightly old: a step that came too late is refused by whom it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The partitions and their replicas, and the nodes.
    pub map: PartitionMap,
    /// Who leads, where that is known. A partition without a known leader is left alone and counted for nobody.
    pub leaders: BTreeMap<PartitionId, NodeId>,
    /// The nodes that answer.
    pub alive: BTreeSet<NodeId>,
    /// The nodes that have not answered for so long that they are not waited for any more: what they hold is rebuilt elsewhere.
    pub dead: BTreeSet<NodeId>,
    /// The nodes whose disk or network is so slow that they should lead nothing.
    pub slow: BTreeSet<NodeId>,
    /// For each partition the nodes whose replica has (nearly) the whole log: only they may be asked to lead, because a group
    /// whose new leader must catch up first stands still meanwhile.
    pub caught_up: BTreeMap<PartitionId, BTreeSet<NodeId>>,
    /// How many replicas each partition should have, if there are nodes enough; an even number means one less. 0: the numbers are
    /// left as they are.
    pub factor: usize,
}

impl View {
    /// Partitions led by each node that is alive, also by those that lead none.
    pub fn leads(&self) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<_, _> = self.alive.iter().map(|node| (*node, 0)).collect();
        for leader in self.leaders.values() {
            if let Some(count) = counts.get_mut(leader) {
                *count += 1;
            }
        }
        counts
    }

    /// Replicas of each node that the map names: what it will hold when the changes under way are done.
    pub fn holds(&self) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<_, _> = self.map.nodes.iter().map(|node| (node.id, 0)).collect();
        let staying = self.map.partitions.iter().flat_map(|descriptor| &descriptor.replicas);
        for replica in staying.filter(|replica| replica.role != Role::Leaving) {
            *counts.entry(replica.node).or_insert(0) += 1;
        }
        counts
    }

    /// What is to become of a node. One that the map does not name will not come back.
    pub(crate) fn state(&self, node: NodeId) -> NodeState {
        self.map.node(node).map_or(NodeState::Lost, |info| info.state)
    }

    /// Whether a node may keep what it holds: it takes part, and is not given up.
    pub(crate) fn may_keep(&self, node: NodeId) -> bool {
        self.state(node) == NodeState::Active && !self.dead.contains(&node)
    }

    /// Whether a node may be given a replica now.
    pub(crate) fn may_take(&self, node: NodeId) -> bool {
        self.may_keep(node) && self.alive.contains(&node)
    }

    /// Whether a node is one to lead partitions: of those that are not, leaderships are taken away.
    pub(crate) fn is_fit_to_lead(&self, node: NodeId) -> bool {
        self.state(node) == NodeState::Active && !self.slow.contains(&node)
    }

    /// Whether `node` may be asked to lead `partition` now: it is fit, answers, and has the log.
    pub(crate) fn may_lead(&self, partition: PartitionId, node: NodeId) -> bool {
        let has_the_log = self.caught_up.get(&partition).is_some_and(|nodes| nodes.contains(&node));
        has_the_log && self.alive.contains(&node) && self.is_fit_to_lead(node)
    }

    /// The zone of a node; `None`: nowhere in particular, so in nobody's way.
    pub(crate) fn zone(&self, node: NodeId) -> Option<&str> {
        self.map.node(node).map(|info| info.zone.as_str()).filter(|zone| !zone.is_empty())
    }

    /// The most replicas that a partition should have, whoever is there to hold them; 0: whatever it has.
    pub(crate) fn most(&self) -> usize {
        odd(self.factor)
    }

    /// How many replicas a partition should have with the nodes that are there.
    pub(crate) fn wanted(&self) -> usize {
        let usable = self.map.nodes.iter().filter(|node| self.may_keep(node.id)).count();
        odd(self.factor.min(usable))
    }

    /// The partitions by id, so that a choice among equals does not depend on where their ranges lie.
    pub(crate) fn by_id(&self) -> Vec<&Descriptor> {
        let mut descriptors: Vec<_> = self.map.partitions.iter().collect();
        descriptors.sort_by_key(|descriptor| descriptor.id);
        descriptors
    }
}

/// The largest odd number that is not larger: a fourth voter makes nothing safer than three do.
fn odd(count: usize) -> usize {
    count.saturating_sub(1) | (count & 1)
}
