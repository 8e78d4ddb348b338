//! What should move, given what is. Pure functions: the node that drives them (server `balance`) collects the view and carries
//! the step out. Today there is one question, who should lead which partition; split, merge and replica moves will join it.
//!
//! ```text
//!   View (map, leaders, who is alive and caught up)  ──  plan  ──>  one Step, or nothing to do
//! ```
//!
//! **Invariant:** no I/O, clock, randomness or async here (DESIGN law 1): the same view gives the same step on every node.

mod leaders;

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::{NodeId, PartitionId, PartitionMap};

/// What is known when a plan is made. All of it may be slightly old: a step that came too late is refused by whom it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The partitions and their replicas.
    pub map: PartitionMap,
    /// Who leads, where that is known. A partition without a known leader is left alone and counted for nobody.
    pub leaders: BTreeMap<PartitionId, NodeId>,
    /// The nodes that answer.
    pub alive: BTreeSet<NodeId>,
    /// For each partition the nodes whose replica has (nearly) the whole log: only they may be asked to lead, because a group
    /// whose new leader must catch up first stands still meanwhile.
    pub caught_up: BTreeMap<PartitionId, BTreeSet<NodeId>>,
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

    /// Whether `node` may be asked to lead `partition` now: it is alive, votes, and has the log.
    fn may_lead(&self, partition: PartitionId, node: NodeId) -> bool {
        self.alive.contains(&node) && self.caught_up.get(&partition).is_some_and(|nodes| nodes.contains(&node))
    }
}

/// One thing to do. Small on purpose: after each one the world is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hands the leadership of a partition over.
    TransferLeader {
        /// The partition.
        partition: PartitionId,
        /// Who leads it now.
        from: NodeId,
        /// Who should.
        to: NodeId,
    },
}

/// The next step towards a well-placed cluster, or `None` if nothing is worth its disturbance. Carrying out the steps of a view
/// that does not change otherwise ends after at most (partitions x (partitions + 1)) of them, in practice a few: each one
/// strictly lowers a cost, so no step is ever undone by a later one.
pub fn plan(view: &View) -> Option<Step> {
    leaders::spread(view)
}
