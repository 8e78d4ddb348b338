//! Partitions: half-open ranges of internal keys, each replicated by one Raft group, and the map of them all.
//!
//! The truth about a partition is its own descriptor, in its own state machine. The map is a copy in the system partition, and
//! whoever holds a copy of that holds a hint: a wrong hint is answered with `StaleEpoch` and the right descriptor.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, PartitionId, ReplicaId, StoreId};
use crate::key::{self, KeyRange};

/// How a partition numbers its writes (DESIGN section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClockKind {
    /// Milliseconds and counter: comparable between partitions.
    #[default]
    Hybrid,
    /// Last + 1: dense, comparable only inside the partition.
    Counter,
}

/// How often a partition's shape has changed. `conf` grows with membership, `bounds` with split and merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Membership changes so far.
    pub conf: u64,
    /// Changes of the bounds so far.
    pub bounds: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.conf, self.bounds)
    }
}

/// What a replica is in its group, and what it is on its way to be. The descriptor says what is wanted; the partition's leader
/// changes the Raft membership step by step until it is so, and then writes the descriptor that says that it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// A learner that is being caught up, to become a voter.
    Joining,
    /// Votes.
    #[default]
    Voter,
    /// Votes still, and is removed as soon as those who join have been caught up.
    Leaving,
}

/// One node's copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The id inside the group; never reused.
    pub id: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// What it is, or will be.
    pub role: Role,
}

impl Replica {
    /// Whether it has a vote: voters, and those that are leaving until they have left.
    pub fn votes(&self) -> bool {
        self.role != Role::Joining
    }
}

/// A partition: what it holds and who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The partition and its group.
    pub id: PartitionId,
    /// The internal keys it holds.
    pub range: KeyRange,
    /// Which shape this is.
    pub epoch: Epoch,
    /// How it numbers its writes.
    pub clock: ClockKind,
    /// Its replicas. The first voter is the preferred leader when a group is new.
    pub replicas: Vec<Replica>,
    /// The id that the next replica gets.
    pub next_replica: ReplicaId,
}

impl Descriptor {
    /// A new partition with one voter on each of `nodes`, replica ids from 1.
    pub fn new(id: PartitionId, range: KeyRange, nodes: &[NodeId]) -> Self {
        let replicas = (1..).zip(nodes).map(|(id, node)| Replica { id: ReplicaId(id), node: *node, role: Role::Voter }).collect();
        let epoch = Epoch { conf: 1, bounds: 1 };
        Self { id, range, epoch, clock: ClockKind::Hybrid, replicas, next_replica: ReplicaId(nodes.len() as u64 + 1) }
    }

    /// The replica on `node`, if any.
    pub fn replica_on(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Whether replicas are joining or leaving: one such change at a time.
    pub fn is_changing(&self) -> bool {
        self.replicas.iter().any(|replica| replica.role != Role::Voter)
    }

    /// The node that holds a replica.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.iter().find(|r| r.id == replica).map(|r| r.node)
    }
}

/// Which start of a node this is. Each start writes the next one to its directory before anything else, and the cluster remembers the
/// newest: a directory that was replaced by an older copy of itself names one that is not newer than what is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// How often the node was started; 0: not known.
    pub starts: u64,
    /// Random, drawn at the start: two copies of one directory that are started differ in it.
    pub nonce: u64,
}

impl Incarnation {
    /// Not known.
    pub const UNKNOWN: Self = Self { starts: 0, nonce: 0 };

    /// Whether a node that says it is `self` is an older copy of the one that is known as `known`. Who says nothing, or of whom nothing
    /// is known, is no older copy.
    pub fn is_older_copy_of(self, known: Self) -> bool {
        self.starts > 0 && (self.starts < known.starts || (self.starts == known.starts && self.nonce != known.nonce))
    }
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// It takes part.
    #[default]
    Active,
    /// It is being decommissioned: it serves what it has until that has moved elsewhere, and gets nothing new.
    Leaving,
    /// It will not come back (removed by a person, or its disk was replaced): what it held is rebuilt elsewhere. It is not listened to
    /// any more.
    Lost,
    /// It holds nothing any more and is not listened to. The entry stays, so that its id is never given again.
    Gone,
}

impl NodeState {
    /// Whether messages of the node count.
    pub fn is_member(self) -> bool {
        matches!(self, Self::Active | Self::Leaving)
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Lost => "lost",
            Self::Gone => "gone",
        })
    }
}

/// One node, as the system partition records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its data directory's id; `None` until the node has registered itself.
    pub store: Option<StoreId>,
    /// Where it serves gRPC to clients and peers: `host:port`.
    pub addr: String,
    /// Where it stands (a rack, a data centre): replicas of a partition are put in different zones where that can be. Empty: nowhere
    /// in particular.
    pub zone: String,
    /// Its newest start.
    pub incarnation: Incarnation,
    /// What is to become of it.
    pub state: NodeState,
}

/// The set of descriptors and the nodes: a copy of what the system partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMap {
    /// Sorted by range start; ranges tile the key space once the cluster is created.
    pub partitions: Vec<Descriptor>,
    /// Sorted by id.
    pub nodes: Vec<NodeInfo>,
}

impl PartitionMap {
    /// Builds a map from parts in any order.
    pub fn new(mut partitions: Vec<Descriptor>, mut nodes: Vec<NodeInfo>) -> Self {
        partitions.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        nodes.sort_by_key(|node| node.id);
        Self { partitions, nodes }
    }

    /// The partition that holds an internal key. O(log n).
    pub fn lookup(&self, key: &[u8]) -> Option<&Descriptor> {
        let after = self.partitions.partition_point(|descriptor| descriptor.range.start.as_ref() <= key);
        let candidate = self.partitions.get(after.checked_sub(1)?)?;
        candidate.range.contains(key).then_some(candidate)
    }

    /// The partitions that hold some key of `range`, in key order.
    pub fn overlapping<'a>(&'a self, range: &'a KeyRange) -> impl DoubleEndedIterator<Item = &'a Descriptor> {
        self.partitions.iter().filter(move |descriptor| descriptor.range.overlaps(range))
    }

    /// The descriptor with this id. O(n).
    pub fn get(&self, id: PartitionId) -> Option<&Descriptor> {
        self.partitions.iter().find(|descriptor| descriptor.id == id)
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        self.nodes.get(at)
    }

    /// Takes descriptors that are newer (by epoch) than ours and removes those of ours that they overlap. Returns whether
    /// anything changed.
    pub fn learn(&mut self, newer: &[Descriptor]) -> bool {
        let mut changed = false;
        for descriptor in newer {
            if self.get(descriptor.id).is_some_and(|known| known.epoch >= descriptor.epoch) {
                continue;
            }
            self.partitions.retain(|known| known.id != descriptor.id && !known.range.overlaps(&descriptor.range));
            self.partitions.push(descriptor.clone());
            changed = true;
        }
        if changed {
            self.partitions.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        }
        changed
    }
}

/// Cuts the default namespace at `boundaries` (user keys, sorted, distinct) into partitions 2, 3, ... in key order. The first also
/// holds nothing below the namespace, and the last runs to the end of all keys, so that with the system partition (id 1,
/// namespace 0) they tile the whole key space. `nodes` are rotated, so that preferred leaders are spread.
pub fn initial_partitions(boundaries: &[Bytes], nodes: &[NodeId]) -> Vec<Descriptor> {
    let user_space = KeyRange::namespace(crate::id::NamespaceId::DEFAULT);
    let system = Descriptor::new(PartitionId::SYSTEM, KeyRange::new(Bytes::new(), user_space.start.clone()), nodes);
    let mut cuts = vec![user_space.start.clone()];
    cuts.extend(boundaries.iter().map(|boundary| key::internal(crate::id::NamespaceId::DEFAULT, boundary)));
    cuts.push(Bytes::new());
    let users = cuts.windows(2).zip(0..).map(|(cut, at)| {
        let mut order = nodes.to_vec();
        order.rotate_left(at % nodes.len().max(1));
        Descriptor::new(PartitionId(at as u64 + 2), KeyRange::new(cut[0].clone(), cut[1].clone()), &order)
    });
    std::iter::once(system).chain(users).collect()
}

/// Boundaries that cut the byte space into `count` even parts, on the first two bytes. At most 65,536 parts.
pub fn even_boundaries(count: u32) -> Vec<Bytes> {
    let count = count.clamp(1, 1 << 16);
    (1..count)
        .map(|part| {
            let at = (u64::from(part) * (1 << 16)) / u64::from(count);
            let cut = (at as u16).to_be_bytes();
            if cut[1] == 0 { Bytes::copy_from_slice(&cut[..1]) } else { Bytes::copy_from_slice(&cut) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NamespaceId;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn initial_partitions_tile_all_keys_and_spread_leaders() {
        let map = PartitionMap::new(initial_partitions(&even_boundaries(4), &NODES), vec![]);
        assert_eq!(map.partitions.len(), 5);
        assert!(map.partitions[0].range.start.is_empty());
        for pair in map.partitions.windows(2) {
            assert_eq!(pair[0].range.end, pair[1].range.start);
        }
        assert!(map.partitions[4].range.end.is_empty());
        let preferred: Vec<_> = map.partitions[1..].iter().map(|d| d.replicas[0].node.0).collect();
        assert_eq!(preferred, [1, 2, 3, 1]);
        assert_eq!(map.lookup(&key::internal(NamespaceId::SYSTEM, b"map")).map(|d| d.id), Some(PartitionId::SYSTEM));
        assert_eq!(map.lookup(&key::internal(NamespaceId::DEFAULT, b"\x40")).map(|d| d.id), Some(PartitionId(3)));
        assert_eq!(map.lookup(&key::internal(NamespaceId(9), b"zz")).map(|d| d.id), Some(PartitionId(5)));
    }

    #[test]
    fn learning_a_split_replaces_the_parent_and_old_news_changes_nothing() {
        let mut map = PartitionMap::new(initial_partitions(&[], &NODES), vec![]);
        let old = map.get(PartitionId(2)).cloned().expect("partition 2 exists");
        let middle = key::internal(NamespaceId::DEFAULT, b"m");
        let mut left = old.clone();
        left.range.end = middle.clone();
        left.epoch.bounds += 1;
        let mut right = Descriptor::new(PartitionId(3), KeyRange::new(middle.clone(), old.range.end.clone()), &NODES);
        right.epoch.bounds = left.epoch.bounds;
        assert!(map.learn(&[left.clone(), right]));
        assert_eq!(map.lookup(&middle).map(|d| d.id), Some(PartitionId(3)));
        assert_eq!(map.partitions.len(), 3);
        assert!(!map.learn(&[old]));
        assert_eq!(map.get(PartitionId(2)), Some(&left));
    }

    #[test]
    fn an_older_copy_is_told_from_a_restart() {
        let known = Incarnation { starts: 3, nonce: 7 };
        let is_older = |starts, nonce| Incarnation { starts, nonce }.is_older_copy_of(known);
        assert!(!is_older(3, 7) && !is_older(4, 1) && !is_older(0, 0));
        assert!(is_older(2, 7) && is_older(3, 8));
        assert!(!Incarnation { starts: 1, nonce: 1 }.is_older_copy_of(Incarnation::UNKNOWN));
    }

    #[test]
    fn even_boundaries_are_sorted_and_distinct() {
        for count in [1, 2, 3, 16, 100, 256, 1000] {
            let cuts = even_boundaries(count);
            assert_eq!(cuts.len(), count as usize - 1);
            assert!(cuts.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
