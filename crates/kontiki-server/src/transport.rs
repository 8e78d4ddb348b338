//! Raft messages to other nodes: one HTTP/2 channel per peer, shared by all groups, made when it is first needed and again when the
//! peer's address changes. Groups speak in envelopes and node ids; here they become gRPC calls to addresses.
//!
//! ```text
//!   group ── Transport::call ────> Peer.Call     one message, one answer, one deadline
//!   group ── Transport::stream ──> Peer.Append   a pipeline up, answers down, in order
//!                 │ one channel per peer: keep-alive finds a peer that vanished without a word
//!   group ── Transport::snapshot > Peer.Snapshot a channel of its own: nothing else waits behind a snapshot
//! ```

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use hyper_util::rt::TokioIo;
use kontiki_client::Dial;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::{convert, v1};
use kontiki_raft::{Envelope, Refusal, Transport, TransportError};
use kontiki_types::limits::PEER_MESSAGE_BYTES_MAX;
use kontiki_types::partition::Incarnation;
use kontiki_types::{ClusterId, Descriptor, NodeId, PartitionId, ReplicaId, StoreId};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::identity::Identity;
use crate::map::MapCopy;

/// An HTTP/2 ping goes out this often, also while the connection is idle: a peer that vanished without a word is found by nothing
/// else. Well under an election.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// A ping not answered for this long closes the connection. Longer than the interval, so that a busy machine is not taken for a
/// dead one.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Bytes of one stream that may be under way unread: several of the largest appends.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes of one connection that may be under way unread: one slow group must not use up what the others need.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// A peer that does not take a connection within this is as good as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The channels to the other nodes.
pub(crate) struct Peers {
    map: Arc<MapCopy>,
    dial: Arc<dyn Dial>,
    channels: Mutex<HashMap<(NodeId, Lane), (String, Channel)>>,
    unreachable: Unreachable,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Votes, heartbeats, entries.
    Messages,
    /// Snapshots.
    Snapshots,
}

/// The peers that could not be reached when they were last called, so that one line tells of it and not each of many calls.
#[derive(Clone, Default)]
struct Unreachable(Arc<Mutex<HashSet<NodeId>>>);

impl Unreachable {
    fn note(&self, peer: NodeId, result: &Result<Envelope, TransportError>) {
        match result {
            Err(TransportError::Unreachable(why)) => {
                if self.0.lock().insert(peer) {
                    tracing::warn!(%peer, "the peer cannot be reached: {why}");
                }
            }
            Ok(_) => {
                if self.0.lock().remove(&peer) {
                    tracing::info!(%peer, "the peer is reached again");
                }
            }
            Err(TransportError::Timeout(_) | TransportError::Rejected { .. }) => {}
        }
    }
}

impl Peers {
    /// No channel yet.
    pub(crate) fn new(map: Arc<MapCopy>, dial: Arc<dyn Dial>) -> Self {
        Self { map, dial, channels: Mutex::default(), unreachable: Unreachable::default() }
    }

    fn client(&self, to: NodeId, lane: Lane) -> Result<PeerClient<Channel>, TransportError> {
        let unreachable = |why: String| TransportError::Unreachable(format!("{to}: {why}"));
        let addr = self.map.addr(to).ok_or_else(|| unreachable("its address is not known".to_owned()))?;
        let mut channels = self.channels.lock();
        let known = channels.get(&(to, lane)).filter(|(known, _)| *known == addr);
        let channel = match known {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel =
                    channel(&addr, self.dial.clone()).map_err(|error| unreachable(format!("address {addr}: {error}")))?;
                channels.insert((to, lane), (addr, channel.clone()));
                channel
            }
        };
        let client = PeerClient::new(channel).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
        Ok(client.max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }
}

impl Peers {
    /// Has a node open an empty replica of a partition, as the descriptor names it.
    pub(crate) async fn open_replica(
        &self,
        own: &Identity,
        to: NodeId,
        store: Option<StoreId>,
        descriptor: &Descriptor,
        within: Duration,
    ) -> Result<(), TransportError> {
        let mut client = self.client(to, Lane::Messages)?;
        let message = v1::OpenReplicaRequest {
            cluster_id: Bytes::copy_from_slice(&own.cluster.0),
            from_node_id: own.node.0,
            to_node_id: to.0,
            to_store_id: store_to_wire(store.unwrap_or_default()),
            descriptor: Some(convert::descriptor_to(descriptor)),
        };
        let mut request = Request::new(message);
        request.set_timeout(within);
        match timeout(within, client.open_replica(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(refusal(to, &status)),
            Err(_) => Err(TransportError::Timeout(format!("{to} did not answer within {} ms", within.as_millis()))),
        }
    }
}

impl Peers {
    /// Asks a node for nothing but an answer.
    pub(crate) async fn ping(&self, own: &Identity, to: NodeId, within: Duration) -> Result<(), TransportError> {
        let mut client = self.client(to, Lane::Messages)?;
        let message = v1::PingRequest { cluster_id: Bytes::copy_from_slice(&own.cluster.0), to_node_id: to.0 };
        match timeout(within, client.ping(Request::new(message))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(refusal(to, &status)),
            Err(_) => Err(TransportError::Timeout(format!("{to} did not answer within {} ms", within.as_millis()))),
        }
    }
}

/// A channel that connects when it is first used, and again after it broke.
fn channel(addr: &str, dial: Arc<dyn Dial>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let addr = addr.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let dialling = dial.dial(addr.clone());
        async move { dialling.await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

type Answers = BoxStream<'static, Result<Envelope, TransportError>>;

impl Transport for Peers {
    fn call(&self, to: NodeId, message: Envelope, deadline: Duration) -> BoxFuture<'static, Result<Envelope, TransportError>> {
        let client = self.client(to, Lane::Messages);
        let unreachable = self.unreachable.clone();
        async move {
            let mut client = client?;
            let mut request = Request::new(to_wire(message));
            request.set_timeout(deadline);
            let result = match timeout(deadline, client.call(request)).await {
                Ok(Ok(answer)) => from_wire(answer.into_inner()),
                Ok(Err(status)) => Err(refusal(to, &status)),
                Err(_) => Err(TransportError::Timeout(format!("{to} did not answer within {} ms", deadline.as_millis()))),
            };
            unreachable.note(to, &result);
            result
        }
        .boxed()
    }

    fn stream(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let client = self.client(to, Lane::Messages);
        let opening = async move { client?.append(Upward(messages)).await.map_err(|status| refusal(to, &status)) };
        opened(to, opening, deadline).boxed()
    }

    fn snapshot(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let client = self.client(to, Lane::Snapshots);
        let opening = async move { client?.snapshot(Upward(messages)).await.map_err(|status| refusal(to, &status)) };
        opened(to, opening, deadline).boxed()
    }
}

/// Waits for a stream to be opened, and hands on what it answers.
async fn opened(
    to: NodeId,
    opening: impl Future<Output = Result<Response<Streaming<v1::Envelope>>, TransportError>>,
    deadline: Duration,
) -> Result<Answers, TransportError> {
    let late = |_| TransportError::Unreachable(format!("{to} opened no stream within {} ms", deadline.as_millis()));
    let answers = timeout(deadline, opening).await.map_err(late)??.into_inner();
    Ok(answers.map(move |answer| answer.map_err(|status| refusal(to, &status)).and_then(from_wire)).boxed())
}

/// The messages of a stream, on their way to the wire: a type without a lifetime, because the compiler cannot prove of a boxed
/// stream inside of the generated call that it lives long enough.
struct Upward(BoxStream<'static, Envelope>);

impl Stream for Upward {
    type Item = v1::Envelope;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx).map(|message| message.map(to_wire))
    }
}

/// Under this name a refusal's number travels beside its words.
const REFUSED: &str = "kontiki-refused";

/// What a status from a peer means for Raft: refused for good, late, or down.
fn refusal(to: NodeId, status: &Status) -> TransportError {
    let why = format!("{to}: {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => {
            let number = status.metadata().get(REFUSED).and_then(|value| value.to_str().ok()?.parse().ok());
            TransportError::refused(number.map_or(Refusal::Malformed, Refusal::from_number), why)
        }
        Code::DeadlineExceeded => TransportError::Timeout(why),
        _ => TransportError::Unreachable(why),
    }
}

/// The status for what a group answered: the other half of [`refusal`].
pub(crate) fn to_status(error: TransportError) -> Status {
    match error {
        TransportError::Rejected { refusal, why } => {
            let mut status = Status::failed_precondition(why);
            status.metadata_mut().insert(REFUSED, u64::from(refusal.number()).into());
            status
        }
        TransportError::Timeout(why) => Status::deadline_exceeded(why),
        TransportError::Unreachable(why) => Status::unavailable(why),
    }
}

/// An envelope, to the wire. Payload and attachments keep their buffers.
pub(crate) fn to_wire(envelope: Envelope) -> v1::Envelope {
    v1::Envelope {
        cluster_id: Bytes::copy_from_slice(&envelope.cluster.0),
        from_node_id: envelope.from_node.0,
        from_store_id: store_to_wire(envelope.from_store),
        from_incarnation: incarnation_to_wire(envelope.from_incarnation),
        to_node_id: envelope.to_node.0,
        to_store_id: store_to_wire(envelope.to_store),
        to_incarnation: incarnation_to_wire(envelope.to_incarnation),
        partition_id: envelope.partition.0,
        from_replica_id: envelope.from_replica.0,
        to_replica_id: envelope.to_replica.0,
        kind: envelope.kind,
        format: envelope.format,
        payload: envelope.payload,
        attachments: envelope.attachments,
    }
}

/// An envelope from the wire. Ids of a wrong length are refused.
pub(crate) fn from_wire(wire: v1::Envelope) -> Result<Envelope, TransportError> {
    Ok(Envelope {
        cluster: ClusterId(uuid("cluster_id", &wire.cluster_id)?),
        from_node: NodeId(wire.from_node_id),
        from_store: store_from_wire("from_store_id", &wire.from_store_id)?,
        from_incarnation: incarnation_from_wire(wire.from_incarnation),
        to_node: NodeId(wire.to_node_id),
        to_store: store_from_wire("to_store_id", &wire.to_store_id)?,
        to_incarnation: incarnation_from_wire(wire.to_incarnation),
        partition: PartitionId(wire.partition_id),
        from_replica: ReplicaId(wire.from_replica_id),
        to_replica: ReplicaId(wire.to_replica_id),
        kind: wire.kind,
        format: wire.format,
        payload: wire.payload,
        attachments: wire.attachments,
    })
}

fn uuid(what: &str, bytes: &Bytes) -> Result<[u8; 16], TransportError> {
    let why = |_| TransportError::refused(Refusal::Malformed, format!("{what} has {} bytes, it must have 16", bytes.len()));
    bytes.as_ref().try_into().map_err(why)
}

/// A store that is not known is left out.
fn store_to_wire(store: StoreId) -> Bytes {
    if store == StoreId::default() { Bytes::new() } else { Bytes::copy_from_slice(&store.0) }
}

pub(crate) fn store_from_wire(what: &str, bytes: &Bytes) -> Result<StoreId, TransportError> {
    if bytes.is_empty() { Ok(StoreId::default()) } else { Ok(StoreId(uuid(what, bytes)?)) }
}

fn incarnation_to_wire(incarnation: Incarnation) -> Option<v1::Incarnation> {
    let Incarnation { starts, nonce } = incarnation;
    (incarnation != Incarnation::UNKNOWN).then_some(v1::Incarnation { starts, nonce })
}

fn incarnation_from_wire(wire: Option<v1::Incarnation>) -> Incarnation {
    wire.map_or(Incarnation::UNKNOWN, |v1::Incarnation { starts, nonce }| Incarnation { starts, nonce })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            cluster: ClusterId([1; 16]),
            from_node: NodeId(1),
            from_store: StoreId([1; 16]),
            from_incarnation: Incarnation { starts: 3, nonce: 33 },
            to_node: NodeId(2),
            to_store: StoreId([2; 16]),
            to_incarnation: Incarnation { starts: 4, nonce: 44 },
            partition: PartitionId(3),
            from_replica: ReplicaId(4),
            to_replica: ReplicaId(5),
            kind: 6,
            format: 7,
            payload: Bytes::from_static(b"payload"),
            attachments: vec![Bytes::from_static(b"a"), Bytes::new()],
        }
    }

    #[test]
    fn envelopes_survive_the_wire_and_odd_ids_are_refused() {
        assert_eq!(from_wire(to_wire(envelope())), Ok(envelope()));
        let unknown = Envelope { to_store: StoreId::default(), to_incarnation: Incarnation::UNKNOWN, ..envelope() };
        assert_eq!(from_wire(to_wire(unknown.clone())), Ok(unknown));
        let short = v1::Envelope { cluster_id: Bytes::from_static(b"abc"), ..to_wire(envelope()) };
        let why = "cluster_id has 3 bytes, it must have 16";
        assert_eq!(from_wire(short), Err(TransportError::refused(Refusal::Malformed, why)));
    }

    #[test]
    fn a_refusal_means_the_same_on_both_sides() {
        for error in [TransportError::Timeout("x".into()), TransportError::Unreachable("x".into())] {
            let back = refusal(NodeId(1), &to_status(error.clone()));
            assert_eq!(std::mem::discriminant(&back), std::mem::discriminant(&error));
        }
        for reason in Refusal::ALL {
            let back = refusal(NodeId(1), &to_status(TransportError::refused(reason, "x")));
            assert!(matches!(&back, TransportError::Rejected { refusal, .. } if *refusal == reason), "{reason:?}: {back}");
        }
    }
}
