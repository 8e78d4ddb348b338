//! What openraft calls to reach another replica: turns its requests into envelopes for the [`Transport`]. Appends go over a
//! stream, pipelined; heartbeats, votes and transfers are single calls, so that they never wait behind entries.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kontiki_types::{ClusterId, NodeId, PartitionId, ReplicaId, StoreId};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use crate::codec::{self, TransferReply, TransferRequest, kind};
use crate::state_machine::SnapshotData;
use crate::transport::{Envelope, MESSAGE_FORMAT, Transport, TransportError};
use crate::type_config::{AppendReply, AppendRequest, ReplicaNode, TypeConfig, Vote, VoteReply, VoteRequest};

/// Who a replica is: the sending half of every envelope.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) partition: PartitionId,
    pub(crate) replica: ReplicaId,
}

/// Makes a client per target replica.
pub(crate) struct Factory {
    pub(crate) from: Sender,
    pub(crate) transport: Arc<dyn Transport>,
}

/// The way to one replica.
pub(crate) struct Peer {
    from: Sender,
    to_node: NodeId,
    to_replica: ReplicaId,
    transport: Arc<dyn Transport>,
    heartbeat_lane: bool,
}

type AppendReplies<'s> = BoxStream<'s, Result<AppendReply, RPCError<TypeConfig>>>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

impl Factory {
    fn peer(&self, target: u64, node: &ReplicaNode, heartbeat_lane: bool) -> Peer {
        Peer {
            from: self.from,
            to_node: NodeId(node.node),
            to_replica: ReplicaId(target),
            transport: self.transport.clone(),
            heartbeat_lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &ReplicaNode) -> Peer {
        self.peer(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &ReplicaNode) -> Peer {
        self.peer(target, node, true)
    }
}

impl Peer {
    fn envelope(&self, kind: u32, payload: Bytes, attachments: Vec<Bytes>) -> Envelope {
        envelope(self.from, self.to_node, self.to_replica, kind, payload, attachments)
    }

    async fn call(&self, kind: u32, payload: Bytes, attachments: Vec<Bytes>, within: Duration) -> Result<Bytes, TransportError> {
        let answer = self.transport.call(self.to_node, self.envelope(kind, payload, attachments), within).await?;
        Ok(answer.payload)
    }

    fn rpc_error(&self, action: RPCTypes, within: Duration, error: TransportError) -> RPCError<TypeConfig> {
        match error {
            TransportError::Timeout(_) => {
                RPCError::Timeout(Timeout { action, id: self.from.replica.0, target: self.to_replica.0, timeout: within })
            }
            // A refusal does not pass by itself at once (the group may not be open there yet): back off as for a peer that is down.
            TransportError::Unreachable(_) | TransportError::Rejected(_) => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

/// An envelope from one replica to another. The transport fills in the store, which only it knows.
pub(crate) fn envelope(
    from: Sender,
    to_node: NodeId,
    to_replica: ReplicaId,
    kind: u32,
    payload: Bytes,
    attachments: Vec<Bytes>,
) -> Envelope {
    Envelope {
        cluster: from.cluster,
        from_node: from.node,
        to_node,
        to_store: StoreId::default(),
        partition: from.partition,
        from_replica: from.replica,
        to_replica,
        kind,
        format: MESSAGE_FORMAT,
        payload,
        attachments,
    }
}

fn append_response(reply: AppendReply) -> AppendEntriesResponse<TypeConfig> {
    match reply {
        Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
        Err(openraft::raft::StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
        Err(openraft::raft::StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let within = option.hard_ttl();
        let (payload, attachments) = codec::encode_append(&rpc);
        let answer = self.call(kind::APPEND, payload, attachments, within).await;
        let reply = answer.and_then(|payload| codec::decode_append_reply(&payload));
        reply.map(append_response).map_err(|error| self.rpc_error(RPCTypes::AppendEntries, within, error))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendReplies<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let within = option.hard_ttl();
        if self.heartbeat_lane {
            return Box::pin(async move { Ok(self.one_by_one(input, within)) });
        }
        let from = self.from;
        let (to_node, to_replica) = (self.to_node, self.to_replica);
        Box::pin(async move {
            // openraft backs off where the next request is taken from it, and nowhere else. So one is taken before the peer is
            // dialled: a peer that refuses at once would else be dialled as fast as the machine can.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let messages = futures::stream::once(std::future::ready(first)).chain(input).map(move |request| {
                let (payload, attachments) = codec::encode_append(&request);
                envelope(from, to_node, to_replica, kind::APPEND, payload, attachments)
            });
            let opened = self.transport.stream(self.to_node, messages.boxed(), SETUP).await;
            let replies = opened.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, SETUP, error))?;
            let peer: &Self = self;
            let decoded = replies.map(move |answer| {
                let reply = answer.and_then(|envelope| codec::decode_append_reply(&envelope.payload));
                reply.map_err(|error| peer.rpc_error(RPCTypes::AppendEntries, SETUP, error))
            });
            Ok(decoded.boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteReply, RPCError<TypeConfig>> {
        self.ask_vote(kind::VOTE, &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteReply, RPCError<TypeConfig>> {
        self.ask_vote(kind::PRE_VOTE, &rpc, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // The log is never purged yet, so openraft has no reason to come here; if it does, backing off keeps the group alive.
        let why = TransportError::Rejected(
            "snapshots cannot be sent to another node yet; the log is never purged, so none is needed".into(),
        );
        Err(StreamingError::Unreachable(Unreachable::new(&why)))
    }

    async fn transfer_leader(&mut self, req: TransferRequest, option: RPCOption) -> Result<TransferReply, RPCError<TypeConfig>> {
        let within = option.hard_ttl();
        let answer = self.call(kind::TRANSFER_LEADER, codec::encode_transfer(&req), Vec::new(), within).await;
        let reply = answer.and_then(|payload| codec::decode_transfer_reply(&payload));
        reply.map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

/// Time to open an append stream, connection included.
const SETUP: Duration = Duration::from_secs(1);

impl Peer {
    async fn ask_vote(&self, kind: u32, rpc: &VoteRequest, within: Duration) -> Result<VoteReply, RPCError<TypeConfig>> {
        let answer = self.call(kind, codec::encode_vote_request(rpc), Vec::new(), within).await;
        let reply = answer.and_then(|payload| codec::decode_vote_reply(&payload));
        reply.map_err(|error| self.rpc_error(RPCTypes::Vote, within, error))
    }

    /// Heartbeats: single calls in sequence, each with its own deadline.
    fn one_by_one<'s, S>(&'s self, input: S, within: Duration) -> AppendReplies<'s>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        let replies = input.then(move |request| async move {
            let (payload, attachments) = codec::encode_append(&request);
            let answer = self.call(kind::APPEND, payload, attachments, within).await;
            let reply = answer.and_then(|payload| codec::decode_append_reply(&payload));
            reply.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, within, error))
        });
        replies.boxed()
    }
}
