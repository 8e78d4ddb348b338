//! The gRPC server of a node: our services, the standard health service and reflection, on one port, with limits on everything.

use std::time::Duration;

use kontiki_client::Client;
use kontiki_proto::FILE_DESCRIPTOR_SET;
use kontiki_proto::v1::cluster_server::ClusterServer;
use kontiki_proto::v1::kv_server::KvServer;
use kontiki_proto::v1::peer_server::PeerServer;
use kontiki_types::limits::{MESSAGE_BYTES_MAX, PEER_MESSAGE_BYTES_MAX};
use kontiki_types::{Error, ErrorKind};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::connection::Incoming;
use crate::local::Local;
use crate::metrics::Metrics;
use crate::services::{ClusterService, KvService, PeerService, only_this_cluster};
use crate::transport::{CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW_BYTES};

/// Calls at once on one connection: a peer has one append stream for each group it leads, and an embedded client many small calls.
const STREAMS_PER_CONNECTION_MAX: u32 = 16 * 1024;
/// Calls that a client has given up before we looked at them: after a pause there may be many, and that is no attack.
const RESET_STREAMS_MAX: usize = 16 * 1024;
/// The services whose health is told apart by name; the empty name is the node as a whole.
const NAMED: [&str; 3] = ["", "kontiki.v1.Kv", "kontiki.v1.Cluster"];

/// The services, ready to be served.
pub(crate) struct Services {
    routes: Routes,
    health: HealthReporter,
}

impl Services {
    /// All services of a node.
    pub(crate) fn new(local: Local, client: Client, metrics: Metrics) -> Result<Self, Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let refused = |error| Error::with_source(ErrorKind::Internal, format!("the reflection service: {error}"), error);
        let reflection_v1 = reflection().build_v1().map_err(refused)?;
        // Tools of before 2023 know only this name of the same protocol.
        let reflection_v1alpha = reflection().build_v1alpha().map_err(refused)?;
        let only_this_cluster = only_this_cluster(local.clone());
        let kv = KvServer::new(KvService::new(local.clone(), client.clone(), metrics.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let cluster = ClusterServer::new(ClusterService::new(local.clone(), client, metrics))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let peer = PeerServer::new(PeerService::new(local));
        let routes = Routes::new(health_service)
            .add_service(reflection_v1)
            .add_service(reflection_v1alpha)
            .add_service(InterceptedService::new(kv, only_this_cluster.clone()))
            .add_service(InterceptedService::new(cluster, only_this_cluster))
            .add_service(
                peer.max_decoding_message_size(PEER_MESSAGE_BYTES_MAX).max_encoding_message_size(PEER_MESSAGE_BYTES_MAX),
            );
        Ok(Self { routes, health })
    }

    /// Says how the services do.
    pub(crate) fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `stopped`, and then until what is being answered is answered or the connections are cut.
    pub(crate) async fn serve(self, incoming: Incoming, stopped: CancellationToken) {
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX));
        let serving =
            server.add_routes(self.routes).serve_with_incoming_shutdown(incoming.into_stream(), stopped.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "gRPC is no longer served");
        }
    }
}

/// Keeps the health service true until the node stops.
pub(crate) async fn report_health(local: Local, health: HealthReporter, every: Duration) {
    let mut told = None;
    loop {
        let ready = local.is_ready();
        if told != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in NAMED {
                health.set_service_status(service, status).await;
            }
            told = Some(ready);
        }
        if local.stopping().is_cancelled() {
            return;
        }
        tokio::select! {
            () = sleep(every) => {}
            () = local.stopping().cancelled() => {}
        }
    }
}
