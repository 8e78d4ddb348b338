//! A node behind gRPC: one HTTP/2 connection, made when first needed, kept alive, made again when it dies; a circuit breaker in front.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kontiki_proto::v1::cluster_client::ClusterClient;
use kontiki_proto::v1::kv_client::KvClient;
use kontiki_proto::{CLUSTER_METADATA, convert, error, v1};
use kontiki_types::command::Route;
use kontiki_types::limits::MESSAGE_BYTES_MAX;
use kontiki_types::{
    CallError, ClusterId, NodeId, PartitionId, PartitionMap, Read, ReadLevel, ReadReply, Reject, SessionId, Version, Write,
    WriteReply,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use crate::breaker::{Breaker, Outcome};
use crate::cluster_change::{self, ClusterChange, Joined};
use crate::dial::Dial;
use crate::endpoint::{Answer, Endpoint};
use crate::options::ClientOptions;
use crate::status::NodeStatus;

/// Bytes in flight on one stream: a scan page and a large value pass without waiting for a window update.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes in flight on the connection, all streams together.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Which cluster a client talks to: learned from the first node that gives a map, and attached to every call from then on, so that a node of
/// another cluster at the same address (a restored one, say) refuses instead of answering.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownCluster(Arc<OnceLock<ClusterId>>);

impl KnownCluster {
    fn get(&self) -> Option<ClusterId> {
        self.0.get().copied()
    }

    /// Known from the start.
    pub(crate) fn is(cluster: Option<ClusterId>) -> Self {
        let known = Self::default();
        if let Some(cluster) = cluster {
            let _ = known.0.set(cluster);
        }
        known
    }

    fn learn(&self, metadata: &MetadataMap) {
        let said = metadata.get(CLUSTER_METADATA).and_then(|value| ClusterId::parse(value.to_str().ok()?));
        if let Some(cluster) = said {
            // The first one counts: any other refuses what is meant for it.
            let _ = self.0.set(cluster);
        }
    }
}

/// One node behind gRPC.
#[derive(Clone)]
pub struct Remote {
    addr: Arc<str>,
    kv: KvClient<Channel>,
    cluster: ClusterClient<Channel>,
    breaker: Arc<Mutex<Breaker>>,
    /// Why it was not reached, the last time that it was not.
    unreached: Arc<Mutex<String>>,
    known: KnownCluster,
}

impl Remote {
    /// The node at `addr` (`host:port`). Connects at the first call. Must be called inside a tokio runtime.
    pub fn new(addr: &str, dial: Arc<dyn Dial>, options: &ClientOptions) -> Result<Self, CallError> {
        let uri: Uri = format!("http://{addr}")
            .parse()
            .map_err(|error| Reject::invalid(format!("address `{addr}` is not host:port ({error}); give it as 10.0.0.7:7601")))?;
        if uri.port().is_none() {
            return Err(
                Reject::invalid(format!("address `{addr}` has no port; give it as host:port, such as 10.0.0.7:7601")).into()
            );
        }
        let dialed: Arc<str> = addr.into();
        let connector = service_fn({
            let dialed = Arc::clone(&dialed);
            move |_: Uri| {
                let dialing = dial.dial(dialed.to_string());
                async move { dialing.await.map(TokioIo::new) }
            }
        });
        let channel = Channel::builder(uri)
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector_lazy(connector);
        Ok(Self::over(channel, dialed, options))
    }

    fn over(channel: Channel, addr: Arc<str>, options: &ClientOptions) -> Self {
        let kv = KvClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let cluster = ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let breaker = Arc::new(Mutex::new(Breaker::new(options.breaker_failures, options.breaker_open)));
        Self { addr, kv, cluster, breaker, unreached: Arc::default(), known: KnownCluster::default() }
    }

    /// The same node, as one of a cluster that others know too.
    pub(crate) fn of(self, known: KnownCluster) -> Self {
        Self { known, ..self }
    }

    /// The same node, if it is one of this cluster: if another one serves at its address by now, every call is refused.
    #[must_use]
    pub fn in_cluster(self, cluster: ClusterId) -> Self {
        self.of(KnownCluster::is(Some(cluster)))
    }

    /// A request with its deadline, and with the cluster that it is meant for.
    pub(crate) fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let known = self.known.get().and_then(|cluster| cluster.to_string().parse().ok());
        if let Some(cluster) = known {
            request.metadata_mut().insert(CLUSTER_METADATA, cluster);
        }
        request
    }

    /// As [`Endpoint::change_cluster`], but the node passes the request on to the one that decides.
    pub async fn change_cluster_anywhere(&self, change: ClusterChange, timeout: Duration) -> Result<Option<Joined>, CallError> {
        self.clone().change(change, false, timeout).await
    }

    async fn change(self, change: ClusterChange, local_only: bool, timeout: Duration) -> Result<Option<Joined>, CallError> {
        let call = cluster_change::send(self.clone(), self.cluster.clone(), change, local_only, timeout);
        self.call(timeout, false, call).await?.map(Joined::try_from).transpose()
    }

    /// Runs one call through the breaker and under its deadline. `applies`: it is a write, so silence is ambiguous.
    async fn call<T>(
        self,
        timeout: Duration,
        applies: bool,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, CallError> {
        if !self.breaker.lock().admit(Instant::now()) {
            let why = self.unreached.lock().clone();
            return Err(CallError::unavailable(format!(
                "{} could not be reached just now ({why}); it is tried again soon (its circuit breaker is open)",
                self.addr
            )));
        }
        let mut probe = Probe { breaker: &self.breaker, outcome: Outcome::Unknown };
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => {
                probe.outcome = Outcome::Reached;
                Ok(response)
            }
            Ok(Err(status)) => {
                probe.outcome = outcome(&status);
                let error = error::from_status(&status, applies);
                if probe.outcome == Outcome::Unreached {
                    *self.unreached.lock() = error.to_string();
                }
                Err(with_addr(&self.addr, error))
            }
            Err(_) if applies => Err(CallError::ambiguous(format!("{} did not answer within {timeout:?}", self.addr))),
            Err(_) => Err(CallError::unavailable(format!("{} did not answer within {timeout:?}", self.addr))),
        }
    }
}

/// What a status says of the peer: an error that Kontiki made is an answer, a timeout of the transport is none.
fn outcome(status: &Status) -> Outcome {
    match status.code() {
        _ if !status.details().is_empty() => Outcome::Reached,
        Code::Unavailable | Code::Unknown => Outcome::Unreached,
        Code::Cancelled | Code::DeadlineExceeded => Outcome::Unknown,
        _ => Outcome::Reached,
    }
}

/// Reports to the breaker when the call ends, also if its caller stops waiting.
struct Probe<'a> {
    breaker: &'a Mutex<Breaker>,
    outcome: Outcome,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.breaker.lock().report(self.outcome, Instant::now());
    }
}

/// Says which node could not be reached.
fn with_addr(addr: &str, error: CallError) -> CallError {
    use kontiki_types::{Ambiguous, Retry};
    match error {
        CallError::Retry(Retry::Unavailable { reason }) => CallError::unavailable(format!("{addr}: {reason}")),
        CallError::Ambiguous(Ambiguous { reason }) => CallError::ambiguous(format!("{addr}: {reason}")),
        other => other,
    }
}

/// A key too large for an error's details was left out there; the index says which it was.
fn with_key(error: CallError, write: &Write<Bytes>) -> CallError {
    match error {
        CallError::Reject(Reject::ConditionFailed { index, key, version }) if key.is_empty() => {
            let known = write.conditions.get(index as usize).map(|condition| Bytes::copy_from_slice(condition.key()));
            Reject::ConditionFailed { index, key: known.unwrap_or(key), version }.into()
        }
        other => other,
    }
}

impl Endpoint for Remote {
    fn write(&self, route: Route, write: Write<Bytes>, timeout: Duration) -> Answer<WriteReply> {
        let this = self.clone();
        Box::pin(async move {
            let message = convert::write_request(route, &write)?;
            let mut kv = this.kv.clone();
            let request = this.request(message, timeout);
            let call = async move { kv.write(request).await.map(Response::into_inner) };
            let response = this.call(timeout, true, call).await.map_err(|error| with_key(error, &write))?;
            convert::write_reply(response)
        })
    }

    fn open_session(&self, route: Route, timeout: Duration) -> Answer<SessionId> {
        let this = self.clone();
        Box::pin(async move {
            let message = v1::OpenSessionRequest { key: Bytes::new(), route: Some(convert::route_to(route)) };
            let mut kv = this.kv.clone();
            let request = this.request(message, timeout);
            let call = async move { kv.open_session(request).await.map(Response::into_inner) };
            Ok(convert::session(this.call(timeout, false, call).await?.session)?)
        })
    }

    fn read(&self, route: Route, level: ReadLevel, read: Read, timeout: Duration) -> Answer<ReadReply> {
        let this = self.clone();
        let mut kv = this.kv.clone();
        Box::pin(async move {
            match read {
                Read::Get { keys } if keys.len() == 1 => {
                    let message = convert::get_request(route, &level, &keys[0])?;
                    let request = this.request(message, timeout);
                    let call = async move { kv.get(request).await.map(Response::into_inner) };
                    convert::reply_of_get(this.call(timeout, false, call).await?)
                }
                Read::Get { keys } => {
                    let message = convert::batch_get_request(route, &level, &keys)?;
                    let request = this.request(message, timeout);
                    let call = async move { kv.batch_get(request).await.map(Response::into_inner) };
                    convert::reply_of_batch_get(this.call(timeout, false, call).await?)
                }
                Read::Scan(scan) => {
                    let message = convert::scan_request(route, &level, &scan)?;
                    let request = this.request(message, timeout);
                    let call = async move {
                        let mut pages = kv.scan(request).await?.into_inner();
                        pages.message().await?.ok_or_else(|| Status::unavailable("the stream ended without a page"))
                    };
                    convert::reply_of_scan(this.call(timeout, false, call).await?)
                }
                Read::Changes(changes) => {
                    let ReadLevel::Snapshot(at) = level else {
                        return Err(Reject::invalid("changes are read at a snapshot version").into());
                    };
                    let message = convert::changes_request(route, at, &changes)?;
                    let request = this.request(message, timeout);
                    let call = async move {
                        let mut pages = kv.changes(request).await?.into_inner();
                        pages.message().await?.ok_or_else(|| Status::unavailable("the stream ended without a page"))
                    };
                    convert::reply_of_changes(this.call(timeout, false, call).await?)
                }
                Read::Clock => {
                    let message = convert::clock_request(route, &level, Version::ZERO);
                    let request = this.request(message, timeout);
                    let call = async move { kv.clock(request).await.map(Response::into_inner) };
                    convert::reply_of_clock(this.call(timeout, false, call).await?)
                }
            }
        })
    }

    fn advance_clock(&self, route: Route, to: Version, timeout: Duration) -> Answer<Version> {
        let this = self.clone();
        Box::pin(async move {
            let message = convert::clock_request(route, &ReadLevel::Linearizable, to);
            let mut kv = this.kv.clone();
            let request = this.request(message, timeout);
            let call = async move { kv.clock(request).await.map(Response::into_inner) };
            Ok(convert::reply_of_clock(this.call(timeout, false, call).await?)?.clock)
        })
    }

    fn map(&self, timeout: Duration) -> Answer<PartitionMap> {
        let this = self.clone();
        Box::pin(async move {
            let mut cluster = this.cluster.clone();
            let request = this.request(v1::PartitionsRequest {}, timeout);
            let known = this.known.clone();
            let call = async move { cluster.partitions(request).await };
            let response = this.call(timeout, false, call).await?;
            known.learn(response.metadata());
            convert::partition_map(response.into_inner())
        })
    }

    fn status(&self, timeout: Duration) -> Answer<NodeStatus> {
        let this = self.clone();
        Box::pin(async move {
            let mut cluster = this.cluster.clone();
            let request = this.request(v1::StatusRequest {}, timeout);
            let call = async move { cluster.status(request).await.map(Response::into_inner) };
            let status = this.call(timeout, false, call).await?.status;
            status.ok_or_else(|| Reject::invalid("the response carries no status"))?.try_into()
        })
    }

    fn transfer_leader(&self, partition: PartitionId, to: NodeId, timeout: Duration) -> Answer<()> {
        let this = self.clone();
        Box::pin(async move {
            let message = v1::TransferLeaderRequest { partition_id: partition.0, to_node_id: to.0, local_only: true };
            let mut cluster = this.cluster.clone();
            let request = this.request(message, timeout);
            let call = async move { cluster.transfer_leader(request).await.map(Response::into_inner) };
            this.call(timeout, false, call).await.map(|_| ())
        })
    }

    fn change_cluster(&self, change: ClusterChange, timeout: Duration) -> Answer<Option<Joined>> {
        let this = self.clone();
        Box::pin(async move { this.change(change, true, timeout).await })
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.known.get()
    }

    fn is_reachable(&self) -> bool {
        self.breaker.lock().would_admit(Instant::now())
    }
}

/// An address that cannot be one: every call says so.
pub(crate) struct Unusable(pub(crate) CallError);

impl Unusable {
    fn say<T: Send + 'static>(&self) -> Answer<T> {
        let error = self.0.clone();
        Box::pin(async move { Err(error) })
    }
}

impl Endpoint for Unusable {
    fn write(&self, _: Route, _: Write<Bytes>, _: Duration) -> Answer<WriteReply> {
        self.say()
    }
    fn open_session(&self, _: Route, _: Duration) -> Answer<SessionId> {
        self.say()
    }
    fn read(&self, _: Route, _: ReadLevel, _: Read, _: Duration) -> Answer<ReadReply> {
        self.say()
    }
    fn advance_clock(&self, _: Route, _: Version, _: Duration) -> Answer<Version> {
        self.say()
    }
    fn map(&self, _: Duration) -> Answer<PartitionMap> {
        self.say()
    }
    fn status(&self, _: Duration) -> Answer<NodeStatus> {
        self.say()
    }
    fn transfer_leader(&self, _: PartitionId, _: NodeId, _: Duration) -> Answer<()> {
        self.say()
    }
    fn is_reachable(&self) -> bool {
        false
    }
}
