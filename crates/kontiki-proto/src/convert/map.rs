//! The map on the wire: descriptors, replicas, nodes. Ranges are internal keys here, because the map covers all namespaces; a
//! line of text beside them is for people.

use std::collections::BTreeMap;

use kontiki_types::{
    CallError, ClockKind, Descriptor, Incarnation, KeyRange, NamespaceId, NodeId, NodeInfo, NodeState, PartitionId, PartitionMap,
    Reject, Replica, ReplicaId, Role, StoreId, key,
};

use super::{epoch, epoch_to};
use crate::v1;

/// A descriptor.
pub fn descriptor(wire: v1::Descriptor) -> Descriptor {
    let clock = match wire.clock() {
        v1::ClockKind::Unspecified | v1::ClockKind::Hybrid => ClockKind::Hybrid,
        v1::ClockKind::Counter => ClockKind::Counter,
    };
    Descriptor {
        id: PartitionId(wire.partition_id),
        range: KeyRange { start: wire.start, end: wire.end },
        epoch: epoch(wire.epoch),
        clock,
        replicas: wire.replicas.into_iter().map(replica).collect(),
        next_replica: ReplicaId(wire.next_replica_id),
    }
}

/// A descriptor, to the wire.
pub fn descriptor_to(descriptor: &Descriptor) -> v1::Descriptor {
    let clock = match descriptor.clock {
        ClockKind::Hybrid => v1::ClockKind::Hybrid,
        ClockKind::Counter => v1::ClockKind::Counter,
    };
    v1::Descriptor {
        partition_id: descriptor.id.0,
        start: descriptor.range.start.clone(),
        end: descriptor.range.end.clone(),
        epoch: Some(epoch_to(descriptor.epoch)),
        clock: clock.into(),
        replicas: descriptor.replicas.iter().map(replica_to).collect(),
        next_replica_id: descriptor.next_replica.0,
        range_text: range_text(&descriptor.range),
    }
}

fn replica(wire: v1::Replica) -> Replica {
    let role = match wire.role() {
        v1::Role::Unspecified | v1::Role::Voter => Role::Voter,
        v1::Role::Joining => Role::Joining,
        v1::Role::Leaving => Role::Leaving,
    };
    Replica { id: ReplicaId(wire.replica_id), node: NodeId(wire.node_id), role }
}

fn replica_to(replica: &Replica) -> v1::Replica {
    let role = match replica.role {
        Role::Voter => v1::Role::Voter,
        Role::Joining => v1::Role::Joining,
        Role::Leaving => v1::Role::Leaving,
    };
    v1::Replica { replica_id: replica.id.0, node_id: replica.node.0, role: role.into() }
}

fn range_text(range: &KeyRange) -> String {
    let bound = |internal: &[u8], none: &str| match key::split_internal(internal) {
        Some((NamespaceId::SYSTEM, user)) => format!("system:{}", key::display(user)),
        Some((NamespaceId::DEFAULT, user)) => format!("default:{}", key::display(user)),
        Some((namespace, user)) => format!("{namespace}:{}", key::display(user)),
        None => none.to_owned(),
    };
    format!("{} .. {}", bound(&range.start, "start"), bound(&range.end, "end"))
}

/// Reads a UUID in text form; hyphens may be left out.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    StoreId::parse(text).map(|id| id.0)
}

/// A store id as text; empty: none.
pub fn store_id(text: &str) -> Result<Option<StoreId>, Reject> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = parse_uuid(text).ok_or_else(|| Reject::invalid(format!("store id `{text}` is not a UUID")))?;
    Ok(Some(StoreId(id)))
}

/// A store id, to text; none: empty.
pub fn store_id_text(id: Option<StoreId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// A node.
pub fn node_info(wire: v1::NodeInfo) -> Result<NodeInfo, Reject> {
    let state = match wire.state() {
        v1::NodeState::Unspecified | v1::NodeState::Active => NodeState::Active,
        v1::NodeState::Leaving => NodeState::Leaving,
        v1::NodeState::Lost => NodeState::Lost,
        v1::NodeState::Gone => NodeState::Gone,
    };
    let incarnation = Incarnation { starts: wire.starts, nonce: wire.start_nonce };
    let store = store_id(&wire.store_id)?;
    Ok(NodeInfo { id: NodeId(wire.node_id), store, addr: wire.addr, zone: wire.zone, incarnation, state })
}

/// A node, to the wire.
pub fn node_info_to(node: &NodeInfo) -> v1::NodeInfo {
    let state = match node.state {
        NodeState::Active => v1::NodeState::Active,
        NodeState::Leaving => v1::NodeState::Leaving,
        NodeState::Lost => v1::NodeState::Lost,
        NodeState::Gone => v1::NodeState::Gone,
    };
    v1::NodeInfo {
        node_id: node.id.0,
        store_id: store_id_text(node.store),
        addr: node.addr.clone(),
        zone: node.zone.clone(),
        starts: node.incarnation.starts,
        start_nonce: node.incarnation.nonce,
        state: state.into(),
    }
}

/// The whole map, to the wire, with the leaders that are known.
pub fn partitions_response(map: &PartitionMap, leaders: &BTreeMap<PartitionId, NodeId>) -> v1::PartitionsResponse {
    v1::PartitionsResponse {
        partitions: map.partitions.iter().map(descriptor_to).collect(),
        nodes: map.nodes.iter().map(node_info_to).collect(),
        leaders: leaders.iter().map(|(partition, node)| (partition.0, node.0)).collect(),
    }
}

/// The map in a `Partitions` response.
pub fn partition_map(response: v1::PartitionsResponse) -> Result<PartitionMap, CallError> {
    let partitions = response.partitions.into_iter().map(descriptor).collect();
    let nodes = response.nodes.into_iter().map(node_info).collect::<Result<_, _>>()?;
    Ok(PartitionMap::new(partitions, nodes))
}
