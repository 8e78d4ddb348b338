//! What should move, given what is. Pure functions: the node that drives them (server `placement`) collects the view and carries
//! the step out.
//!
//! ```text
//!   View (map, leaders, who is alive, dead, slow, caught up)  ──  plan  ──>  one Step, or nothing to do
//!                                                                  │
//!        replicas: call off ─ repair ─ grow ─ shrink ─ zones ─ balance        leaders: away from bad nodes ─ spread
//!
//!   ChangeReplicas ── change ──> a descriptor that says what is wanted (replicas Joining, Leaving)
//!   descriptor, Raft membership ── members::next_step ──> one MemberStep, carried out by whoever leads the partition
//! ```
//!
//! Two levels, on purpose. The planner decides *what* a partition should look like, once, and that is written into the partition's own
//! descriptor. *How* it gets there follows from descriptor and membership alone: whoever leads can go on from any point, however often
//! it is interrupted.
//!
//! **Invariant:** no I/O, clock, randomness or async here (DESIGN law 1): the same view gives the same step on every node.
//! **Invariant:** no step is undone by a later one: each lowers a cost (see [`plan`]).

mod change;
mod leaders;
mod members;
mod refusal;
mod replicas;
mod view;

pub use change::{change, settled};
pub use members::{MemberStep, Membership, Progress, next_step};
pub use refusal::{Refusal, can_decommission, can_remove};
pub use view::View;

use kontiki_types::{NodeId, PartitionId, ReplicaId};

/// Partitions whose replicas change at the same time: each copies its data to another node, beside what users do.
pub const CHANGES_MAX: usize = 4;

/// One thing to do. Small on purpose: after each one the world is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Gives a partition replicas on other nodes. See [`change()`] for what it means.
    ChangeReplicas {
        /// The partition.
        partition: PartitionId,
        /// The `epoch.conf` of the descriptor that was looked at: a newer one refuses the step.
        conf: u64,
        /// Nodes that get a replica.
        add: Vec<NodeId>,
        /// Replicas that go.
        remove: Vec<ReplicaId>,
    },
    /// Notes that a node that was to go holds nothing any more.
    MarkGone {
        /// The node.
        node: NodeId,
    },
}

/// The next step towards a well-placed cluster, or `None` if nothing is worth its disturbance.
///
/// The cost of a view is a list, compared from its first field on, and every step strictly lowers it:
/// 1. changes that can never end, because a replica that joins is on a node that is dead or going (they are called off);
/// 2. replicas on nodes that are lost, dead or leaving; 3. replicas that partitions lack, or have too many;
/// 4. nodes that are leaving or lost, hold nothing, and are not yet noted as gone;
/// 5. partitions led by nodes that are leaving or slow; 6. pairs of replicas of one partition in one zone;
/// 7. the sum of the squared numbers of replicas of the nodes; 8. the same of leaders; 9. partitions not led by their first voter.
///
/// So carrying out the steps of a view that does not change otherwise ends.
pub fn plan(view: &View) -> Option<Step> {
    replicas::call_off(view)
        .or_else(|| replicas::repair(view))
        .or_else(|| replicas::resize(view))
        .or_else(|| replicas::gone(view))
        .or_else(|| leaders::escape(view))
        .or_else(|| replicas::balance(view))
        .or_else(|| leaders::spread(view))
}
