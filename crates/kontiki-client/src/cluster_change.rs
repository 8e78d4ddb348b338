//! What can be asked of a cluster about its nodes and where replicas are: each request goes to the node that leads what it concerns.
//! Asking twice is asking once.

use std::time::Duration;

use kontiki_proto::{convert, v1};
use kontiki_types::{CallError, ClusterId, Error, NodeId, NodeInfo, PartitionId, Reject, ReplicaId, StoreId};
use tonic::Status;

use crate::client::{Client, public};
use crate::remote::Remote;

/// A change of the cluster's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    /// A new node.
    Join(Join),
    /// Replicas of one partition are moved.
    Replicas {
        /// The partition.
        partition: PartitionId,
        /// `epoch.conf` of the descriptor that was looked at; 0: whatever it is now.
        conf: u64,
        /// Nodes that get a replica.
        add: Vec<NodeId>,
        /// Replicas that go.
        remove: Vec<ReplicaId>,
    },
    /// A node is emptied, to be switched off.
    Decommission(NodeId),
    /// A node that will not come back is given up.
    Remove {
        /// The node.
        node: NodeId,
        /// Also if it answers.
        force: bool,
    },
}

/// A node that wants to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Where it will serve: `host:port`.
    pub addr: String,
    /// Its data directory.
    pub store: StoreId,
    /// Where it stands; empty: nowhere in particular.
    pub zone: String,
    /// The name of the cluster that it means.
    pub cluster_name: String,
    /// The node that it was before it lost its disk.
    pub former: Option<NodeId>,
}

/// What a new node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The new node's number.
    pub node: NodeId,
    /// The nodes of the cluster, the new one too.
    pub nodes: Vec<NodeInfo>,
}

impl ClusterChange {
    /// The partition whose leader decides.
    pub fn partition(&self) -> PartitionId {
        match self {
            Self::Replicas { partition, .. } => *partition,
            Self::Join(_) | Self::Decommission(_) | Self::Remove { .. } => PartitionId::SYSTEM,
        }
    }
}

/// Asking for changes.
impl Client {
    /// Makes a new node a member of the cluster.
    pub async fn join(&self, join: Join) -> Result<Joined, Error> {
        let joined = self.router().change_cluster(ClusterChange::Join(join), self.timeout()).await.map_err(public)?;
        joined.ok_or_else(|| public(Reject::invalid("the answer to a join names no node").into()))
    }

    /// Gives a partition replicas on other nodes: those of `add` get one, the replicas of `remove` go. `conf`: `epoch.conf` of the
    /// descriptor that was looked at, 0 for whatever it is. Answers when it is decided.
    pub async fn change_replicas(
        &self,
        partition: PartitionId,
        conf: u64,
        add: Vec<NodeId>,
        remove: Vec<ReplicaId>,
    ) -> Result<(), Error> {
        let change = ClusterChange::Replicas { partition, conf, add, remove };
        self.router().change_cluster(change, self.timeout()).await.map(drop).map_err(public)
    }

    /// Begins to empty a node. It may be switched off when its state is `Gone`.
    pub async fn decommission(&self, node: NodeId) -> Result<(), Error> {
        self.router().change_cluster(ClusterChange::Decommission(node), self.timeout()).await.map(drop).map_err(public)
    }

    /// Gives up a node that will not come back. One that still answers is given up only with `force`: it then stops taking part, with
    /// whatever only it had. Never if a partition would lose its last majority.
    pub async fn remove_node(&self, node: NodeId, force: bool) -> Result<(), Error> {
        let change = ClusterChange::Remove { node, force };
        self.router().change_cluster(change, self.timeout()).await.map(drop).map_err(public)
    }
}

type ClusterClient = v1::cluster_client::ClusterClient<tonic::transport::Channel>;

/// Sends a change over gRPC, to a node of the cluster that is meant. The answer is only there for a join.
pub(crate) async fn send(
    asked: Remote,
    mut cluster: ClusterClient,
    change: ClusterChange,
    local_only: bool,
    timeout: Duration,
) -> Result<Option<v1::JoinResponse>, Status> {
    match change {
        ClusterChange::Join(Join { addr, store, zone, cluster_name, former }) => {
            let store_id = convert::store_id_text(Some(store));
            let former_node_id = former.map(|node| node.0);
            let message = v1::JoinRequest { addr, store_id, zone, cluster_name, former_node_id, local_only };
            cluster.join(asked.request(message, timeout)).await.map(|response| Some(response.into_inner()))
        }
        ClusterChange::Replicas { partition, conf, add, remove } => {
            let message = v1::ChangeReplicasRequest {
                partition_id: partition.0,
                conf,
                add_node_ids: add.into_iter().map(|node| node.0).collect(),
                remove_replica_ids: remove.into_iter().map(|replica| replica.0).collect(),
                local_only,
            };
            cluster.change_replicas(asked.request(message, timeout)).await.map(|_| None)
        }
        ClusterChange::Decommission(node) => {
            let message = v1::DecommissionRequest { node_id: node.0, local_only };
            cluster.decommission(asked.request(message, timeout)).await.map(|_| None)
        }
        ClusterChange::Remove { node, force } => {
            let message = v1::RemoveNodeRequest { node_id: node.0, local_only, force };
            cluster.remove_node(asked.request(message, timeout)).await.map(|_| None)
        }
    }
}

impl TryFrom<v1::JoinResponse> for Joined {
    type Error = CallError;

    fn try_from(wire: v1::JoinResponse) -> Result<Self, CallError> {
        let cluster = convert::parse_uuid(&wire.cluster_id)
            .ok_or_else(|| Reject::invalid(format!("cluster id `{}` is not a UUID", wire.cluster_id)))?;
        Ok(Self {
            cluster: ClusterId(cluster),
            cluster_name: wire.cluster_name,
            node: NodeId(wire.node_id),
            nodes: wire.nodes.into_iter().map(convert::node_info).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Joined> for v1::JoinResponse {
    fn from(joined: Joined) -> Self {
        Self {
            cluster_id: joined.cluster.to_string(),
            node_id: joined.node.0,
            cluster_name: joined.cluster_name,
            nodes: joined.nodes.iter().map(convert::node_info_to).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_node_is_told_survives_the_wire() {
        let joined = Joined {
            cluster: ClusterId([3; 16]),
            cluster_name: "name".to_owned(),
            node: NodeId(4),
            nodes: vec![NodeInfo { id: NodeId(4), zone: "a".to_owned(), ..NodeInfo::default() }],
        };
        assert_eq!(Joined::try_from(v1::JoinResponse::from(joined.clone())).expect("complete"), joined);
        assert!(Joined::try_from(v1::JoinResponse::default()).is_err());
    }
}
