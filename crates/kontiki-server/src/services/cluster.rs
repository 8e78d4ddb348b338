//! The cluster's shape and health, as this node knows them.

use std::time::Duration;

use kontiki_client::{Client, ClusterChange, Join, Joined};
use kontiki_proto::v1;
use kontiki_proto::v1::cluster_server::Cluster;
use kontiki_proto::{CLUSTER_METADATA, convert, error};
use kontiki_types::{NodeId, PartitionId, Reject, ReplicaId};
use tonic::{Request, Response, Status};

use super::time_for;
use crate::local::Local;
use crate::metrics::Metrics;

/// `kontiki.v1.Cluster`.
pub(crate) struct ClusterService {
    local: Local,
    client: Client,
    metrics: Metrics,
}

impl ClusterService {
    /// Answers for `local`; what others must do goes through `client`.
    pub(crate) fn new(local: Local, client: Client, metrics: Metrics) -> Self {
        Self { local, client, metrics }
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let time = time_for(&request);
        let v1::TransferLeaderRequest { partition_id, to_node_id, local_only } = request.into_inner();
        let (partition, to) = (PartitionId(partition_id), NodeId(to_node_id));
        if local_only {
            use kontiki_client::Endpoint as _;
            self.local.transfer_leader(partition, to, time).await.map_err(|error| error::to_status(&error))?;
        } else {
            let done = self.client.clone().with_timeout(time).transfer_leader(partition, to).await;
            done.map_err(|error| error::error_to_status(&error))?;
        }
        Ok(Response::new(v1::TransferLeaderResponse {}))
    }
}

impl ClusterService {
    /// Changes the cluster's shape, here or wherever it is decided.
    async fn change(&self, change: ClusterChange, local_only: bool, time: Duration) -> Result<Option<Joined>, Status> {
        use kontiki_client::Endpoint as _;
        if local_only {
            return self.local.change_cluster(change, time).await.map_err(|error| error::to_status(&error));
        }
        let client = self.client.clone().with_timeout(time);
        let done = match change {
            ClusterChange::Join(join) => client.join(join).await.map(Some),
            ClusterChange::Replicas { partition, conf, add, remove } => {
                client.change_replicas(partition, conf, add, remove).await.map(|()| None)
            }
            ClusterChange::Decommission(node) => client.decommission(node).await.map(|()| None),
            ClusterChange::Remove { node, force } => client.remove_node(node, force).await.map(|()| None),
        };
        done.map_err(|error| error::error_to_status(&error))
    }

    async fn take_in(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let time = time_for(&request);
        let v1::JoinRequest { addr, store_id, zone, cluster_name, former_node_id, local_only } = request.into_inner();
        let store = convert::store_id(&store_id).map_err(refused)?;
        let store =
            store.ok_or_else(|| refused(Reject::invalid("store_id is not set; a node joins with its data directory's id")))?;
        if addr.is_empty() {
            return Err(refused(Reject::invalid("addr is not set; give the address that the node will serve at, as host:port")));
        }
        let join = Join { addr, store, zone, cluster_name, former: former_node_id.map(NodeId) };
        let joined = self.change(ClusterChange::Join(join), local_only, time).await?;
        let joined = joined.ok_or_else(|| Status::internal("a join was answered without a number"))?;
        Ok(Response::new(joined.into()))
    }
}

fn refused(reject: Reject) -> Status {
    error::to_status(&reject.into())
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let result = Ok(Response::new(v1::StatusResponse { status: Some((&self.local.now()).into()) }));
        self.metrics.grpc("Cluster/Status", &result);
        result
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        let map = self.local.map_copy().current();
        let result = Ok(Response::new(v1::NodesResponse { nodes: map.nodes.iter().map(convert::node_info_to).collect() }));
        self.metrics.grpc("Cluster/Nodes", &result);
        result
    }

    async fn partitions(&self, _: Request<v1::PartitionsRequest>) -> Result<Response<v1::PartitionsResponse>, Status> {
        let map = self.local.map_copy().current();
        let mut response = Response::new(convert::partitions_response(&map, &self.local.leaders()));
        if let Ok(cluster) = self.local.identity().cluster.to_string().parse() {
            response.metadata_mut().insert(CLUSTER_METADATA, cluster);
        }
        let result = Ok(response);
        self.metrics.grpc("Cluster/Partitions", &result);
        result
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let result = self.transfer(request).await;
        self.metrics.grpc("Cluster/TransferLeader", &result);
        result
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let result = self.take_in(request).await;
        self.metrics.grpc("Cluster/Join", &result);
        result
    }

    async fn change_replicas(
        &self,
        request: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        let time = time_for(&request);
        let v1::ChangeReplicasRequest { partition_id, conf, add_node_ids, remove_replica_ids, local_only } = request.into_inner();
        let change = ClusterChange::Replicas {
            partition: PartitionId(partition_id),
            conf,
            add: add_node_ids.into_iter().map(NodeId).collect(),
            remove: remove_replica_ids.into_iter().map(ReplicaId).collect(),
        };
        let result = self.change(change, local_only, time).await.map(|_| Response::new(v1::ChangeReplicasResponse {}));
        self.metrics.grpc("Cluster/ChangeReplicas", &result);
        result
    }

    async fn decommission(
        &self,
        request: Request<v1::DecommissionRequest>,
    ) -> Result<Response<v1::DecommissionResponse>, Status> {
        let time = time_for(&request);
        let v1::DecommissionRequest { node_id, local_only } = request.into_inner();
        let change = ClusterChange::Decommission(NodeId(node_id));
        let result = self.change(change, local_only, time).await.map(|_| Response::new(v1::DecommissionResponse {}));
        self.metrics.grpc("Cluster/Decommission", &result);
        result
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let time = time_for(&request);
        let v1::RemoveNodeRequest { node_id, local_only, force } = request.into_inner();
        let change = ClusterChange::Remove { node: NodeId(node_id), force };
        let result = self.change(change, local_only, time).await.map(|_| Response::new(v1::RemoveNodeResponse {}));
        self.metrics.grpc("Cluster/RemoveNode", &result);
        result
    }
}
