//! Raft messages from other nodes. Identity is checked on each of them, in `Groups`, before anything else is looked at.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kontiki_proto::v1::peer_server::Peer;
use kontiki_proto::{convert, v1};
use kontiki_raft::{Envelope, Groups, Members, Refusal, Suspicion, TransportError};
use kontiki_types::{NodeId, StoreId};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::local::Local;
use crate::transport::{from_wire, store_from_wire, to_status, to_wire};

/// `kontiki.v1.Peer`.
pub(crate) struct PeerService {
    local: Local,
}

impl PeerService {
    /// Serves this node's replicas.
    pub(crate) fn new(local: Local) -> Self {
        Self { local }
    }
}

/// Answers on their way back.
type Answers = Pin<Box<dyn Stream<Item = Result<v1::Envelope, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn call(&self, request: Request<v1::Envelope>) -> Result<Response<v1::Envelope>, Status> {
        let message = from_wire(request.into_inner()).map_err(to_status)?;
        let groups = self.local.groups().ok_or_else(stopping)?;
        tokio::select! {
            answer = groups.receive(message) => answer.map(|answer| Response::new(to_wire(answer))).map_err(to_status),
            () = self.local.cut().cancelled() => Err(stopping()),
        }
    }

    async fn open_replica(&self, request: Request<v1::OpenReplicaRequest>) -> Result<Response<v1::OpenReplicaResponse>, Status> {
        open(&self.local, request.into_inner()).await.map_err(to_status)?;
        Ok(Response::new(v1::OpenReplicaResponse {}))
    }

    async fn ping(&self, request: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        let (own, asked) = (self.local.identity(), request.into_inner());
        if asked.cluster_id != own.cluster.0[..] || asked.to_node_id != own.node.0 {
            let why = format!("the question is meant for n{} or another cluster, this is {}", asked.to_node_id, own.node);
            return Err(to_status(TransportError::refused(Refusal::Misdelivered, why)));
        }
        Ok(Response::new(v1::PingResponse {}))
    }

    type AppendStream = Answers;

    async fn append(&self, request: Request<Streaming<v1::Envelope>>) -> Result<Response<Self::AppendStream>, Status> {
        self.serve(request.into_inner(), Groups::receive_stream)
    }

    type SnapshotStream = Self::AppendStream;

    async fn snapshot(&self, request: Request<Streaming<v1::Envelope>>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.serve(request.into_inner(), Groups::receive_snapshot)
    }
}

/// What the groups do with a stream of messages.
type Receive = fn(&Arc<Groups>, BoxStream<'static, Envelope>) -> BoxStream<'static, Result<Envelope, TransportError>>;

impl PeerService {
    fn serve(&self, messages: Streaming<v1::Envelope>, receive: Receive) -> Result<Response<Answers>, Status> {
        let groups = self.local.groups().ok_or_else(stopping)?;
        let unreadable = Unreadable::default();
        let messages = readable(unreadable.clone(), messages);
        let answers = receive(&groups, messages).map(|answer| answer.map(to_wire).map_err(to_status));
        // What could not be read ends the stream, and the sender is told why.
        let refused = stream::once(async move { unreadable.lock().take().map(|error| Err(to_status(error))) });
        let answers = answers.chain(refused.filter_map(std::future::ready));
        let until_stopped = answers.take_until(self.local.stopping().clone().cancelled_owned());
        // A stream that a stopping node ends must not look like one that was served to its end.
        let token = self.local.stopping().clone();
        let ending = stream::once(async move { token.is_cancelled().then(|| Err(stopping())) }).filter_map(std::future::ready);
        Ok(Response::new(until_stopped.chain(ending).boxed()))
    }
}

/// Opens an empty replica, if it is meant for this very node.
async fn open(local: &Local, wire: v1::OpenReplicaRequest) -> Result<(), TransportError> {
    let misdelivered = |why: String| Err(TransportError::refused(Refusal::Misdelivered, why));
    let (own, to) = (local.identity(), NodeId(wire.to_node_id));
    let store = store_from_wire("to_store_id", &wire.to_store_id)?;
    if wire.cluster_id != own.cluster.0[..] || to != own.node {
        return misdelivered(format!("the request is meant for {to} of another cluster, or this is {} at its address", own.node));
    }
    if store != StoreId::default() && store != own.store {
        let why = format!("the request is meant for store {store}, this is {}", own.store);
        return Err(TransportError::refused(Refusal::ReceiverReplaced, why));
    }
    let Some(descriptor) = wire.descriptor.map(convert::descriptor) else {
        return Err(TransportError::refused(Refusal::Malformed, "the request names no partition"));
    };
    let partition = descriptor.id;
    let Some(replica) = descriptor.replica_on(own.node).map(|replica| replica.id) else {
        return misdelivered(format!("the descriptor gives {} no replica of {partition}", own.node));
    };
    if let Some(held) = local.replica(partition).map(|group| group.replica()).filter(|held| *held != replica) {
        local.map_copy().suspect(Suspicion::UnknownReplica { partition });
        return Err(TransportError::Unreachable(format!("replica {held} of {partition} is still here; it goes first")));
    }
    local.open_replica(descriptor).await.map_err(|fault| TransportError::Unreachable(fault.to_string()))
}

/// Why a stream ended before its time, if it did.
type Unreadable = Arc<Mutex<Option<TransportError>>>;

/// The messages of a stream, up to the first that cannot be read.
fn readable(
    unreadable: Unreadable,
    messages: impl Stream<Item = Result<v1::Envelope, Status>> + Send + 'static,
) -> BoxStream<'static, Envelope> {
    let read = messages.map(move |message| {
        let message = message.map_err(|status| TransportError::Unreachable(status.to_string())).and_then(from_wire);
        message.map_err(|error| *unreadable.lock() = Some(error)).ok()
    });
    read.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready).boxed()
}

fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}
