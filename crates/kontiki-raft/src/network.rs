//! What openraft calls to reach another replica: turns its requests into envelopes for the [`Transport`]. Appends go over a
//! stream, pipelined; heartbeats, votes and transfers are single calls, so that they never wait behind entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kontiki_types::{NodeId, PartitionId, ReplicaId};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesResponse, SnapshotResponse, StreamAppendError};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use crate::acknowledged::Acknowledged;
use crate::codec::{self, TransferReply, TransferRequest, kind};
use crate::identity::Identity;
use crate::log_store::GroupLog;
use crate::snapshot::sender::{self, Lane};
use crate::state_machine::SnapshotData;
use crate::transport::{Envelope, MESSAGE_FORMAT, Refusal, Transport, TransportError};
use crate::type_config::{AppendReply, AppendRequest, ReplicaNode, TypeConfig, Vote, VoteReply, VoteRequest};

/// Who a replica is: the sending half of every envelope.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) identity: Identity,
    pub(crate) partition: PartitionId,
    pub(crate) replica: ReplicaId,
}

impl Sender {
    /// An envelope to a replica, addressed to the disk and the start of its node that are known here by now.
    pub(crate) fn envelope(
        &self,
        to_node: NodeId,
        to_replica: ReplicaId,
        kind: u32,
        payload: Bytes,
        attachments: Vec<Bytes>,
    ) -> Envelope {
        let known = self.identity.known(to_node);
        Envelope {
            cluster: self.identity.cluster,
            from_node: self.identity.node,
            from_store: self.identity.store,
            from_incarnation: self.identity.incarnation,
            to_node,
            to_store: known.store.unwrap_or_default(),
            to_incarnation: known.incarnation,
            partition: self.partition,
            from_replica: self.replica,
            to_replica,
            kind,
            format: MESSAGE_FORMAT,
            payload,
            attachments,
        }
    }
}

/// Makes a client per target replica.
pub(crate) struct Factory {
    from: Sender,
    transport: Arc<dyn Transport>,
    acknowledged: Arc<Acknowledged>,
    lane: Lane,
    log: GroupLog,
}

/// The way to one replica.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) from: Sender,
    pub(crate) to_node: NodeId,
    pub(crate) to_replica: ReplicaId,
    pub(crate) transport: Arc<dyn Transport>,
    acknowledged: Arc<Acknowledged>,
    pub(crate) lane: Lane,
    log: GroupLog,
    heartbeat_lane: bool,
}

type AppendReplies<'s> = BoxStream<'s, Result<AppendReply, RPCError<TypeConfig>>>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

impl Factory {
    /// The ways from one replica to the others of its group.
    pub(crate) fn new(from: Sender, transport: Arc<dyn Transport>, lane: Lane, log: GroupLog) -> Self {
        Self { from, transport, acknowledged: Arc::default(), lane, log }
    }

    /// What the followers have acknowledged, for the group's status.
    pub(crate) fn acknowledged(&self) -> Arc<Acknowledged> {
        self.acknowledged.clone()
    }

    fn peer(&self, target: u64, node: &ReplicaNode, heartbeat_lane: bool) -> Peer {
        Peer {
            from: self.from.clone(),
            to_node: NodeId(node.node),
            to_replica: ReplicaId(target),
            transport: self.transport.clone(),
            acknowledged: self.acknowledged.clone(),
            lane: self.lane.clone(),
            log: self.log.clone(),
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
    pub(crate) fn envelope(&self, kind: u32, payload: Bytes, attachments: Vec<Bytes>) -> Envelope {
        self.from.envelope(self.to_node, self.to_replica, kind, payload, attachments)
    }

    async fn call(&self, kind: u32, payload: Bytes, attachments: Vec<Bytes>, within: Duration) -> Result<Bytes, TransportError> {
        let answer = self.transport.call(self.to_node, self.envelope(kind, payload, attachments), within).await;
        Ok(self.checked(answer)?.payload)
    }

    /// An answer counts only if it comes from the replica that was asked, as this node knows it. Being refused is looked at too.
    pub(crate) fn checked(&self, answer: Result<Envelope, TransportError>) -> Result<Envelope, TransportError> {
        let checked = answer.inspect_err(|error| self.from.identity.note_refused(self.to_node, error)).and_then(|answer| {
            self.from.identity.check(&answer)?;
            let ends = (answer.partition, answer.from_node, answer.from_replica, answer.to_replica);
            if ends != (self.from.partition, self.to_node, self.to_replica, self.from.replica) {
                let why = format!(
                    "{} was asked as replica {} of {}, the answer is of replica {} of {} on {}",
                    self.to_node, self.to_replica, self.from.partition, answer.from_replica, answer.partition, answer.from_node
                );
                return Err(TransportError::refused(Refusal::Misdelivered, why));
            }
            Ok(answer)
        });
        checked.inspect_err(|error| tracing::debug!(to = %self.to_node, partition = %self.from.partition, %error, "no answer"))
    }

    /// What a follower says of its log, unless it contradicts what it has acknowledged: openraft could not bear that.
    fn believable(&self, vote: &Vote, reply: AppendReply) -> Result<AppendReply, RPCError<TypeConfig>> {
        let to = (self.to_replica, self.to_node);
        match &reply {
            Ok(matched) => self.acknowledged.matched(to, vote, *matched),
            Err(StreamAppendError::Conflict(id)) => self
                .acknowledged
                .conflicted(to, vote, id)
                .map_err(|why| RPCError::Unreachable(Unreachable::new(&TransportError::Unreachable(why))))?,
            Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(reply)
    }

    fn rpc_error(&self, action: RPCTypes, within: Duration, error: TransportError) -> RPCError<TypeConfig> {
        match error {
            TransportError::Timeout(_) => {
                RPCError::Timeout(Timeout { action, id: self.from.replica.0, target: self.to_replica.0, timeout: within })
            }
            // A refusal does not pass by itself at once (the group may not be open there yet): back off as for a peer that is down.
            TransportError::Unreachable(_) | TransportError::Rejected { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

/// Whether a request is empty because what it should carry was purged from the log. openraft gives such a stream up when it purges, but the stream itself
/// would go on asking for entries that are gone, and the follower would get nothing any more. An error makes openraft look again, and
/// send a snapshot.
fn is_behind_purge(log: &GroupLog, request: &AppendRequest) -> bool {
    request.entries.is_empty() && request.prev_log_id.map_or(0, |prev| prev.index + 1) < log.first_index()
}

fn behind_purge() -> TransportError {
    TransportError::Unreachable(
        "the entries that this replica lacks were purged from the leader's log; it gets a snapshot".to_owned(),
    )
}

fn append_response(reply: AppendReply) -> AppendEntriesResponse<TypeConfig> {
    match reply {
        Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
        Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
        Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
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
        let reply = reply.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, within, error))?;
        self.believable(&rpc.vote, reply).map(append_response)
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
        let sender = self.clone();
        Box::pin(async move {
            // openraft backs off where the next request is taken from it, and nowhere else. So one is taken before the peer is
            // dialled: a peer that refuses at once would else be dialled as fast as the machine can.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            if is_behind_purge(&self.log, &first) {
                return Err(self.rpc_error(RPCTypes::AppendEntries, SETUP, behind_purge()));
            }
            // One stream, one leadership: openraft ends the stream with it.
            let vote = first.vote;
            let fell_behind = Arc::new(AtomicBool::new(false));
            let (log, falls_behind) = (self.log.clone(), fell_behind.clone());
            let input = input.take_while(move |request| {
                let behind = is_behind_purge(&log, request);
                falls_behind.fetch_or(behind, Ordering::Relaxed);
                std::future::ready(!behind)
            });
            let messages = futures::stream::once(std::future::ready(first)).chain(input).map(move |request| {
                let (payload, attachments) = codec::encode_append(&request);
                sender.envelope(kind::APPEND, payload, attachments)
            });
            let opened = self.transport.stream(self.to_node, messages.boxed(), SETUP).await;
            let opened = opened.inspect_err(|error| self.from.identity.note_refused(self.to_node, error));
            let replies = opened.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, SETUP, error))?;
            let peer: &Self = self;
            let decoded = replies.map(move |answer| {
                let reply = peer.checked(answer).and_then(|envelope| codec::decode_append_reply(&envelope.payload));
                let reply = reply.map_err(|error| peer.rpc_error(RPCTypes::AppendEntries, SETUP, error))?;
                peer.believable(&vote, reply)
            });
            let at_end = futures::stream::once(std::future::ready(())).filter_map(move |()| {
                let behind = fell_behind.load(Ordering::Relaxed);
                std::future::ready(behind.then(|| Err(peer.rpc_error(RPCTypes::AppendEntries, SETUP, behind_purge()))))
            });
            Ok(decoded.chain(at_end).boxed())
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
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(pin) = snapshot.snapshot else {
            let why = TransportError::Unreachable("there is no snapshot that could be sent".to_owned());
            return Err(StreamingError::Unreachable(Unreachable::new(&why)));
        };
        let last = pin.last;
        let response = sender::send(self, vote, pin, cancel).await?;
        if response.vote.leader_id <= vote.leader_id {
            self.acknowledged.matched((self.to_replica, self.to_node), &vote, Some(last));
        }
        Ok(response)
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
            let reply = reply.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, within, error))?;
            self.believable(&request.vote, reply)
        });
        replies.boxed()
    }
}
