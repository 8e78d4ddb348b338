//! The cluster's shape and health, as this node knows them.

use kontiki_client::Client;
use kontiki_proto::v1;
use kontiki_proto::v1::cluster_server::Cluster;
use kontiki_proto::{CLUSTER_METADATA, convert, error};
use kontiki_types::{NodeId, PartitionId};
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
}
