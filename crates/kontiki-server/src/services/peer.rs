//! Raft messages from other nodes. Identity is checked on each of them, in `Groups`, before anything else is looked at.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kontiki_proto::v1;
use kontiki_proto::v1::peer_server::Peer;
use kontiki_raft::{Envelope, Groups, TransportError};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::local::Local;
use crate::transport::{from_wire, to_status, to_wire};

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
