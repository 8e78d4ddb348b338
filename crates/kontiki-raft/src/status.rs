//! What a replica says of itself, for status calls, readiness and metrics.

use kontiki_types::{NodeId, PartitionId, ReplicaId, Version};

/// One replica, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The partition.
    pub partition: PartitionId,
    /// This replica.
    pub replica: ReplicaId,
    /// The present term.
    pub term: u64,
    /// The node that leads, as far as known here.
    pub leader: Option<NodeId>,
    /// Whether this replica leads in the present term, by its own Raft core. `leader` follows a moment later.
    pub leads: bool,
    /// Entries applied here: the next index to apply.
    pub applied_next: u64,
    /// Entries known to be committed: the next index.
    pub committed_next: u64,
    /// Entries in the log here: the next index.
    pub last_next: u64,
    /// Entries that the last snapshot holds, as far as Raft knows: the next index.
    pub snapshot_next: u64,
    /// Entries that the log has let go of: the first index that may be in it.
    pub purged_next: u64,
    /// The version of the newest write applied here.
    pub clock: Version,
    /// The nodes that vote.
    pub voters: Vec<NodeId>,
    /// On the leader: the nodes whose log is complete.
    pub caught_up: Vec<NodeId>,
    /// On the leader: the nodes whose replica has lost entries that it had acknowledged, and what was seen. Such a node was given an
    /// older copy of its data directory; it gets no entries from here until it is replaced.
    pub reverted: Vec<(NodeId, String)>,
    /// Why the replica has stopped, if it has.
    pub fault: Option<String>,
}
