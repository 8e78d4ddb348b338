//! How a cluster begins. Every member opens its replica of the system partition; the first voter starts the group; whoever leads it
//! writes the map and the nodes, in one write that demands that no cluster is there yet. So however often this is interrupted, and
//! whoever does it, exactly one map comes of it.
//!
//! ```text
//!   all members: open p1 ──> first member: initialise ──> leader: if absent(cluster) put cluster, map/*, node/*
//!                                                            └── effect MapChanged on every member ──> reconcile
//! ```

use std::time::Duration;

use kontiki_raft::{Group, Groups};
use kontiki_storage::system;
use kontiki_types::partition::initial_partitions;
use kontiki_types::read::ReadData;
use kontiki_types::{
    Bytes, CallError, ClusterId, Condition, Descriptor, Fault, NodeId, NodeInfo, Op, PartitionId, Read, ReadLevel, Reject, Write,
    encoding,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::local::Local;

/// Between two attempts to write the first map.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long one attempt may wait for a majority.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// What the key `cluster` of the system partition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id: the same as in every member's identity.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// How many replicas each partition should have, as soon as there are nodes for them.
    pub replicas: u32,
}

/// The cluster's record, as this replica of the system partition has it.
pub(crate) fn cluster_record(system: &Group) -> Option<ClusterRecord> {
    let read = Read::Get { keys: vec![system::cluster_key()] };
    let ReadData::Values(rows) = system.reader().read(&read, None).ok()?.data else { return None };
    encoding::decode(&rows.into_iter().next()??.value).ok()
}

/// The partitions of a new cluster. If it has more members than a partition has replicas, each partition is on a part of them, and the
/// system partition on the first ones.
fn founding_partitions(cuts: &[Bytes], members: &[(NodeId, String)], replicas: u32) -> Vec<Descriptor> {
    let nodes: Vec<_> = members.iter().map(|(id, _)| *id).collect();
    let most = (replicas as usize).saturating_sub(1) | (replicas as usize & 1);
    let cut = |descriptor: Descriptor| {
        let on: Vec<_> = descriptor.replicas.iter().map(|replica| replica.node).take(most.max(1)).collect();
        Descriptor::new(descriptor.id, descriptor.range, &on)
    };
    initial_partitions(cuts, &nodes).into_iter().map(cut).collect()
}

/// Opens this member's replica of the system partition, creating it at the first start, if it is to have one. All members must make the
/// same descriptor of it: it follows from their ids and the number of replicas alone.
pub(crate) async fn open_system(groups: &Groups, members: &[(NodeId, String)], replicas: u32) -> Result<(), Fault> {
    let all = founding_partitions(&[], members, replicas);
    let system = all.into_iter().find(|descriptor| descriptor.id == PartitionId::SYSTEM);
    let system = system.ok_or_else(|| Fault::Invariant("a new cluster has no system partition".to_owned()))?;
    if system.replica_on(groups.node()).is_some() {
        groups.create(system).await?;
    }
    Ok(())
}

/// Writes the first map as soon as this node leads the system partition, unless there is one. Ends when a map is known here.
pub(crate) async fn found_cluster(local: Local, members: Vec<(NodeId, String)>, cuts: Vec<Bytes>, replicas: u32) {
    let Some(system) = local.replica(PartitionId::SYSTEM) else { return };
    let mut map = local.map_copy().subscribe();
    let mut leadership = system.leadership();
    while map.borrow_and_update().partitions.is_empty() {
        if system.is_leader() {
            match write_first_map(&local, &system, &members, &cuts, replicas).await {
                Ok(()) => tracing::debug!(node = %local.node(), "the cluster has a map"),
                Err(error) => tracing::info!(node = %local.node(), %error, "the first map is not written yet"),
            }
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            // A write that failed is tried again; a map that was written is on its way.
            () = sleep(RETRY_EVERY), if system.is_leader() => {}
            () = local.stopping().cancelled() => return,
        }
    }
}

async fn write_first_map(
    local: &Local,
    system: &Group,
    members: &[(NodeId, String)],
    cuts: &[Bytes],
    replicas: u32,
) -> Result<(), CallError> {
    let key = system::cluster_key();
    let exists = Read::Get { keys: vec![key.clone()] };
    let found = system.read(&ReadLevel::Linearizable, &exists, READ_WITHIN).await?;
    if matches!(&found.data, ReadData::Values(rows) if rows.iter().any(Option::is_some)) {
        return Ok(());
    }
    let identity = local.identity();
    let record = ClusterRecord { id: identity.cluster, name: identity.cluster_name.clone(), replicas };
    let mut ops = vec![Op::Put { key: key.clone(), value: encoding::encode(&record).into() }];
    ops.extend(founding_partitions(cuts, members, replicas).iter().map(put_descriptor));
    ops.extend(members.iter().map(|(id, addr)| put_node(&NodeInfo { id: *id, addr: addr.clone(), ..NodeInfo::default() })));
    let write = Write { epoch: system.descriptor().epoch, request: None, conditions: vec![Condition::Absent { key }], ops };
    match system.write(write).await {
        // Somebody else was first: that map counts.
        Ok(_) | Err(CallError::Reject(Reject::ConditionFailed { .. })) => Ok(()),
        Err(error) => Err(error),
    }
}

fn put_descriptor(descriptor: &Descriptor) -> Op<Bytes> {
    Op::Put { key: system::map_key(descriptor.id), value: system::encode_descriptor(descriptor) }
}

fn put_node(node: &NodeInfo) -> Op<Bytes> {
    Op::Put { key: system::node_key(node.id), value: system::encode_node(node) }
}

/// Brings a node's entry in the system partition up to date, if it is still what was seen. Only the leader can.
pub(crate) async fn register(system: &Group, seen: &NodeInfo, now: &NodeInfo) -> Result<(), CallError> {
    let condition = Condition::ValueIs { key: system::node_key(seen.id), value: system::encode_node(seen) };
    let write = Write { epoch: system.descriptor().epoch, request: None, conditions: vec![condition], ops: vec![put_node(now)] };
    match system.write(write).await {
        // It changed since: the next look shows how.
        Ok(_) | Err(CallError::Reject(Reject::ConditionFailed { .. })) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_members_than_replicas_share_the_partitions() {
        let members: Vec<_> = (1..=5).map(|id| (NodeId(id), format!("a:{id}"))).collect();
        let cuts: Vec<Bytes> = vec!["b".into(), "c".into(), "d".into()];
        let on = |replicas| -> Vec<Vec<u64>> {
            let all = founding_partitions(&cuts, &members, replicas);
            all.iter().map(|descriptor| descriptor.replicas.iter().map(|replica| replica.node.0).collect()).collect()
        };
        assert_eq!(on(3), [[1, 2, 3], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 1]]);
        assert_eq!(on(4), on(3));
        assert_eq!(on(1)[1..], [[1], [2], [3], [4]]);
        assert_eq!(on(7)[4], [4, 5, 1, 2, 3]);
    }
}
