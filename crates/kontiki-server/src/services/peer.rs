//! Raft messages from other nodes. Identity is checked on each of them, in `Groups`, before anything else is looked at.

use std::pin::Pin;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kontiki_proto::v1;
use kontiki_proto::v1::peer_server::Peer;
use kontiki_raft::{Envelope, TransportError};
use kontiki_types::StoreId;
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

/// A message for this node but for another disk: the cluster remembers a disk that this node no longer has.
fn notice_misfit(local: &Local, message: &Envelope) {
    let (identity, wanted) = (local.identity(), message.to_store);
    let for_us = message.cluster == identity.cluster && message.to_node == identity.node;
    if for_us && wanted != StoreId::default() && wanted != identity.store {
        local.note_misfit(format!(
            "{} sends messages for store {wanted}, this data directory is store {}: the disk of {} was replaced; \
             start with the old directory, or add this node under a new id",
            message.from_node, identity.store, identity.node
        ));
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn call(&self, request: Request<v1::Envelope>) -> Result<Response<v1::Envelope>, Status> {
        let message = from_wire(request.into_inner()).map_err(to_status)?;
        notice_misfit(&self.local, &message);
        let groups = self.local.groups().ok_or_else(stopping)?;
        tokio::select! {
            answer = groups.receive(message) => answer.map(|answer| Response::new(to_wire(answer))).map_err(to_status),
            () = self.local.cut().cancelled() => Err(stopping()),
        }
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<v1::Envelope, Status>> + Send>>;

    async fn append(&self, request: Request<Streaming<v1::Envelope>>) -> Result<Response<Self::AppendStream>, Status> {
        let groups = self.local.groups().ok_or_else(stopping)?;
        let messages = readable(self.local.clone(), request.into_inner());
        let answers = groups.receive_stream(messages).map(|answer| answer.map(to_wire).map_err(to_status));
        let until_stopped = answers.take_until(self.local.stopping().clone().cancelled_owned());
        // A stream that a stopping node ends must not look like one that was served to its end.
        let token = self.local.stopping().clone();
        let ending = stream::once(async move { token.is_cancelled().then(|| Err(stopping())) }).filter_map(std::future::ready);
        Ok(Response::new(until_stopped.chain(ending).boxed()))
    }
}

/// The messages of a stream, up to the first that cannot be read: the stream is opened anew after that.
fn readable(local: Local, messages: Streaming<v1::Envelope>) -> BoxStream<'static, Envelope> {
    let read = messages.map(move |message| {
        let message = message.map_err(|status| TransportError::Unreachable(status.to_string())).and_then(from_wire);
        match message {
            Ok(message) => {
                notice_misfit(&local, &message);
                Some(message)
            }
            Err(error) => {
                tracing::debug!(node = %local.node(), %error, "a stream from a peer ended");
                None
            }
        }
    });
    read.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready).boxed()
}

fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}
