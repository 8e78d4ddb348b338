//! How a node and its replicas do, for operators: `Cluster.Status` in plain types.

use std::collections::BTreeMap;

use kontiki_proto::convert;
use kontiki_proto::v1;
use kontiki_types::{CallError, ClusterId, Descriptor, NodeId, NodeInfo, PartitionId, Reject, ReplicaId, Version};

/// How one node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who it is.
    pub node: NodeInfo,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The program's version.
    pub version: String,
    /// Time since it was started, in ms.
    pub uptime_ms: u64,
    /// Whether it serves: replicas open, map known.
    pub ready: bool,
    /// Its replicas, by partition id.
    pub partitions: Vec<PartitionStatus>,
    /// Bytes of the raft log on disk.
    pub log_bytes: u64,
    /// Bytes of the data on disk, estimated.
    pub data_bytes: u64,
    /// Why the node as a whole does not work any more.
    pub fault: Option<String>,
    /// How long the raft log's disk takes for one fsync, in us: a moving average. 0: none yet.
    pub fsync_us: u64,
    /// How long each of the other members takes to answer this node, in us: moving averages.
    pub round_trips_us: BTreeMap<NodeId, u64>,
}

/// How one replica does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub id: PartitionId,
    /// The replica's id in its group.
    pub replica: ReplicaId,
    /// Who leads, as known there.
    pub leader: Option<NodeId>,
    /// The raft term.
    pub term: u64,
    /// The last entry applied there.
    pub applied_index: u64,
    /// The last entry known there to be committed.
    pub committed_index: u64,
    /// The last entry there.
    pub last_index: u64,
    /// The version of the newest write applied there.
    pub clock: Version,
    /// About how many keys it holds, if known.
    pub keys_hint: Option<u64>,
    /// Why this replica stopped.
    pub fault: Option<String>,
    /// If it leads: the partition's own descriptor.
    pub descriptor: Option<Descriptor>,
}

impl From<&NodeStatus> for v1::NodeStatus {
    fn from(status: &NodeStatus) -> Self {
        let trips = status.round_trips_us.iter();
        Self {
            node: Some(convert::node_info_to(&status.node)),
            cluster_id: status.cluster.to_string(),
            version: status.version.clone(),
            uptime_ms: status.uptime_ms,
            ready: status.ready,
            partitions: status.partitions.iter().map(v1::PartitionStatus::from).collect(),
            log_bytes: status.log_bytes,
            data_bytes: status.data_bytes,
            fault: status.fault.clone(),
            fsync_us: status.fsync_us,
            round_trips: trips.map(|(node, took_us)| v1::RoundTrip { node_id: node.0, took_us: *took_us }).collect(),
        }
    }
}

impl From<&PartitionStatus> for v1::PartitionStatus {
    fn from(status: &PartitionStatus) -> Self {
        Self {
            partition_id: status.id.0,
            replica_id: status.replica.0,
            leader_node_id: status.leader.map(|node| node.0),
            term: status.term,
            applied_index: status.applied_index,
            committed_index: status.committed_index,
            last_index: status.last_index,
            clock: status.clock.0,
            keys_hint: status.keys_hint,
            fault: status.fault.clone(),
            descriptor: status.descriptor.as_ref().map(convert::descriptor_to),
        }
    }
}

impl TryFrom<v1::NodeStatus> for NodeStatus {
    type Error = CallError;

    fn try_from(wire: v1::NodeStatus) -> Result<Self, CallError> {
        let node = wire.node.ok_or_else(|| Reject::invalid("the status names no node"))?;
        let cluster = convert::parse_uuid(&wire.cluster_id)
            .ok_or_else(|| Reject::invalid(format!("cluster id `{}` is not a UUID", wire.cluster_id)))?;
        Ok(Self {
            node: convert::node_info(node)?,
            cluster: ClusterId(cluster),
            version: wire.version,
            uptime_ms: wire.uptime_ms,
            ready: wire.ready,
            partitions: wire.partitions.into_iter().map(PartitionStatus::from).collect(),
            log_bytes: wire.log_bytes,
            data_bytes: wire.data_bytes,
            fault: wire.fault,
            fsync_us: wire.fsync_us,
            round_trips_us: wire.round_trips.into_iter().map(|trip| (NodeId(trip.node_id), trip.took_us)).collect(),
        })
    }
}

impl From<v1::PartitionStatus> for PartitionStatus {
    fn from(wire: v1::PartitionStatus) -> Self {
        Self {
            id: PartitionId(wire.partition_id),
            replica: ReplicaId(wire.replica_id),
            leader: wire.leader_node_id.map(NodeId),
            term: wire.term,
            applied_index: wire.applied_index,
            committed_index: wire.committed_index,
            last_index: wire.last_index,
            clock: Version(wire.clock),
            keys_hint: wire.keys_hint,
            fault: wire.fault,
            descriptor: wire.descriptor.map(convert::descriptor),
        }
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::KeyRange;

    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        let status = NodeStatus {
            node: NodeInfo { id: NodeId(3), addr: "127.0.0.1:7601".into(), ..NodeInfo::default() },
            cluster: ClusterId([7; 16]),
            version: "0.1.0".into(),
            uptime_ms: 9,
            ready: true,
            partitions: vec![PartitionStatus {
                id: PartitionId(2),
                replica: ReplicaId(1),
                leader: None,
                term: 4,
                applied_index: 5,
                committed_index: 6,
                last_index: 7,
                clock: Version(8),
                keys_hint: Some(0),
                fault: Some("disk".into()),
                descriptor: Some(Descriptor::new(PartitionId(2), KeyRange::new("a", "b"), &[NodeId(3)])),
            }],
            log_bytes: 10,
            data_bytes: 11,
            fault: None,
            fsync_us: 12,
            round_trips_us: [(NodeId(1), 13), (NodeId(2), 14)].into(),
        };
        let back = NodeStatus::try_from(v1::NodeStatus::from(&status)).expect("complete");
        assert_eq!(back, status);
        let error = NodeStatus::try_from(v1::NodeStatus::default()).expect_err("names no node");
        assert!(error.to_string().contains("names no node"));
    }
}
