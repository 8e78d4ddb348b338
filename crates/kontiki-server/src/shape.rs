//! Changes of the cluster's shape that somebody asks for: a node joins, is decommissioned, is given up; replicas are moved by hand. Decided
//! by the leader of the system partition, or of the partition that changes, each with one write that demands that what was looked at is
//! still so. Asking twice is asking once.

use std::time::Duration;

use kontiki_client::{ClientOptions, ClusterChange, Endpoint, Join, Joined, Remote};
use kontiki_placement::{Refusal, View, can_decommission, can_remove, change};
use kontiki_raft::Group;
use kontiki_storage::system;
use kontiki_types::limits::NODES_MAX;
use kontiki_types::{
    Bytes, CallError, Condition, NodeId, NodeInfo, NodeState, Op, PartitionId, PartitionMap, Reject, ReplicaId, Retry, Write,
};

use crate::local::Local;

/// How long a node is given to show that it lives.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

/// Carries out one change, on the node that leads what it concerns.
pub(crate) async fn change_cluster(local: &Local, asked: ClusterChange) -> Result<Option<Joined>, CallError> {
    let group = leading(local, asked.partition())?;
    match asked {
        ClusterChange::Join(join) => take_in(local, &group, join).await.map(Some),
        ClusterChange::Replicas { partition: _, conf, add, remove } => {
            change_replicas(local, &group, conf, &add, &remove).await.map(|()| None)
        }
        ClusterChange::Decommission(node) => decommission(local, &group, node).await.map(|()| None),
        ClusterChange::Remove { node, force } => remove(local, &group, node, force).await.map(|()| None),
    }
}

fn leading(local: &Local, partition: PartitionId) -> Result<Group, CallError> {
    let group = local.replica(partition).ok_or(Retry::UnknownPartition { partition })?;
    if !group.is_leader() {
        return Err(Retry::NotLeader { partition, leader: group.leader() }.into());
    }
    Ok(group)
}

/// The map and the nodes as the system partition has them now.
fn map(system: &Group) -> Result<PartitionMap, CallError> {
    let map = system::read_map(system.reader()).map_err(CallError::Fault)?;
    if map.partitions.is_empty() {
        return Err(CallError::unavailable("the cluster is still being created; ask again"));
    }
    Ok(map)
}

fn put(node: &NodeInfo) -> Op<Bytes> {
    Op::Put { key: system::node_key(node.id), value: system::encode_node(node) }
}

fn still(node: &NodeInfo) -> Condition<Bytes> {
    Condition::ValueIs { key: system::node_key(node.id), value: system::encode_node(node) }
}

/// One write of the system partition. If what was looked at has changed since, the caller is told to ask again.
async fn write(system: &Group, conditions: Vec<Condition<Bytes>>, ops: Vec<Op<Bytes>>) -> Result<(), CallError> {
    let write = Write { epoch: system.descriptor().epoch, request: None, conditions, ops };
    match system.write(write).await {
        Ok(_) => Ok(()),
        Err(CallError::Reject(Reject::ConditionFailed { .. })) => {
            Err(CallError::unavailable("the nodes of the cluster have changed meanwhile; ask again"))
        }
        Err(error) => Err(error),
    }
}

async fn take_in(local: &Local, system: &Group, join: Join) -> Result<Joined, CallError> {
    let identity = local.identity();
    if join.cluster_name != identity.cluster_name {
        let (asked, own) = (&join.cluster_name, &identity.cluster_name);
        return Err(Reject::invalid(format!(
            "this is cluster `{own}`, it was asked for `{asked}`; correct the name or the address"
        ))
        .into());
    }
    let known = map(system)?;
    let joined = |node: NodeId, nodes: Vec<NodeInfo>| Joined {
        cluster: identity.cluster,
        cluster_name: identity.cluster_name.clone(),
        node,
        nodes,
    };
    if let Some(same) = known.nodes.iter().find(|info| info.store == Some(join.store)) {
        if !same.state.is_member() {
            let why = format!(
                "store {} was {}, which is {}; empty the data directory, so that it gets a new one",
                join.store, same.id, same.state
            );
            return Err(Reject::invalid(why).into());
        }
        return Ok(joined(same.id, known.nodes.clone()));
    }
    if known.nodes.len() >= NODES_MAX {
        let why = format!("the cluster has had {} nodes, the limit is {NODES_MAX}", known.nodes.len());
        return Err(Reject::invalid(why).into());
    }
    let replaced = replaced(local, &known, &join).await?;
    let id = NodeId(known.nodes.iter().map(|info| info.id.0).max().unwrap_or(0) + 1);
    let new = NodeInfo { id, store: Some(join.store), addr: join.addr, zone: join.zone, ..NodeInfo::default() };
    let mut conditions = vec![Condition::Absent { key: system::node_key(id) }];
    let mut ops = vec![put(&new)];
    for old in &replaced {
        conditions.push(still(old));
        ops.push(put(&NodeInfo { state: NodeState::Lost, ..(*old).clone() }));
    }
    write(system, conditions, ops).await?;
    tracing::info!(node = %id, addr = new.addr, "a node has joined");
    for old in &replaced {
        tracing::warn!(node = %old.id, by = %id, "the disk of a node was replaced: it is given up, and what it held is rebuilt");
    }
    Ok(joined(id, known.nodes.into_iter().chain([new]).collect()))
}

/// The members that the new node takes the place of: the one that it says it was, and whoever had its address. None of them may live.
async fn replaced(local: &Local, known: &PartitionMap, join: &Join) -> Result<Vec<NodeInfo>, CallError> {
    let members = known.nodes.iter().filter(|info| info.state.is_member());
    let mut replaced = Vec::new();
    for old in members.filter(|info| info.addr == join.addr || Some(info.id) == join.former) {
        if lives(local, old).await {
            let why = format!(
                "{} lives at {} with its own disk; give the new node an address of its own, or start {} with its own data directory",
                old.id, old.addr, old.id
            );
            return Err(Reject::invalid(why).into());
        }
        replaced.push(old.clone());
    }
    Ok(replaced)
}

/// Whether a node answers where the map says it is, with the disk that the map says it has.
async fn lives(local: &Local, node: &NodeInfo) -> bool {
    if node.id == local.node() {
        return true;
    }
    let Ok(remote) = Remote::new(&node.addr, local.dial().clone(), &ClientOptions::default()) else { return false };
    let answer = remote.in_cluster(local.identity().cluster).status(ALIVE_WITHIN).await;
    answer.is_ok_and(|status| status.node.id == node.id && (node.store.is_none() || status.node.store == node.store))
}

async fn change_replicas(local: &Local, group: &Group, conf: u64, add: &[NodeId], remove: &[ReplicaId]) -> Result<(), CallError> {
    let (descriptor, known) = (group.descriptor(), local.map_copy().current());
    if conf != 0 && descriptor.epoch.conf != conf {
        let (partition, now) = (descriptor.id, descriptor.epoch.conf);
        return Err(Reject::invalid(format!(
            "the replicas of {partition} have changed since: conf is {now}, not {conf}; look again"
        ))
        .into());
    }
    for node in add {
        match known.node(*node).map(|info| info.state) {
            Some(NodeState::Active) => {}
            Some(state) => return Err(Reject::invalid(format!("{node} is {state}; it gets no new replica")).into()),
            None => {
                return Err(Reject::invalid(format!("there is no node {node}; `kontiki node list` shows those there are")).into());
            }
        }
    }
    let votes = group.membership().voters.into_iter().flatten().collect();
    let next = change(&descriptor, add, remove, &votes)?;
    tracing::info!(partition = %descriptor.id, ?add, ?remove, "replicas are changed");
    group.set_descriptor(next).await
}

/// What the driver saw last, with the nodes as they are now.
fn view(local: &Local, known: PartitionMap) -> Result<View, CallError> {
    let seen = local.view().ok_or_else(|| CallError::unavailable("this node has only begun to lead; ask again"))?;
    Ok(View { map: PartitionMap { nodes: known.nodes, ..seen.map.clone() }, ..seen })
}

fn refused(refusal: Refusal) -> CallError {
    Reject::invalid(refusal.to_string()).into()
}

async fn decommission(local: &Local, system: &Group, node: NodeId) -> Result<(), CallError> {
    let known = map(system)?;
    can_decommission(&view(local, known.clone())?, node).map_err(refused)?;
    set_state(system, &known, node, NodeState::Leaving).await
}

async fn remove(local: &Local, system: &Group, node: NodeId, force: bool) -> Result<(), CallError> {
    let known = map(system)?;
    let mut view = view(local, known.clone())?;
    if let Some(info) = known.node(node) {
        // What the driver saw may be a moment old.
        if lives(local, info).await {
            view.alive.insert(node)
        } else {
            view.alive.remove(&node)
        };
    }
    can_remove(&view, node, force).map_err(refused)?;
    set_state(system, &known, node, NodeState::Lost).await
}

/// Moves a node on towards its end, never back.
async fn set_state(system: &Group, known: &PartitionMap, node: NodeId, state: NodeState) -> Result<(), CallError> {
    let Some(seen) = known.node(node).filter(|info| info.state < state) else { return Ok(()) };
    write(system, vec![still(seen)], vec![put(&NodeInfo { state, ..seen.clone() })]).await?;
    tracing::info!(%node, %state, "the node's state has changed");
    Ok(())
}

/// Notes that a node holds nothing any more.
pub(crate) async fn mark_gone(system: &Group, node: NodeId) -> Result<(), CallError> {
    set_state(system, &map(system)?, node, NodeState::Gone).await
}
