//! What arrives from other nodes. Every field of the envelope is checked before its payload is looked at; only then is the group's
//! openraft asked. Appends of a stream are fed to openraft pipelined, and answered in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kontiki_storage::machine::Machine;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::codec::{self, kind};
use crate::group::Group;
use crate::groups::Groups;
use crate::identity::Suspicion;
use crate::network::Sender;
use crate::transport::{Envelope, Refusal, TransportError};
use crate::type_config::{AppendReply, AppendRequest, LogId, TypeConfig};

/// The appends of a stream that are not answered yet: when each came, and the commit point that it named. openraft takes in only so
/// many before it answers.
type Heard = Arc<Mutex<VecDeque<(Instant, Option<LogId>)>>>;

impl Groups {
    /// Handles one message and returns its answer.
    pub async fn receive(&self, message: Envelope) -> Result<Envelope, TransportError> {
        let group = self.addressee(&message)?;
        let raft = group.raft();
        let (kind, payload) = match message.kind {
            kind::APPEND => {
                let request = codec::decode_append(&message)?;
                let (at, committed) = (Instant::now(), request.leader_commit);
                let (previous, last) = ends(&request);
                let response = raft.append_entries(request).await.map_err(|error| stopped(&error))?;
                let reply = append_reply(response, previous, last);
                if reply.is_ok() {
                    group.note_accepted(committed, at);
                }
                (kind::APPEND_REPLY, codec::encode_append_reply(&reply))
            }
            kind::VOTE => {
                let request = codec::decode_vote_request(&message.payload)?;
                let reply = raft.vote(request).await.map_err(|error| stopped(&error))?;
                (kind::VOTE_REPLY, codec::encode_vote_reply(&reply))
            }
            kind::PRE_VOTE => {
                let request = codec::decode_vote_request(&message.payload)?;
                let reply = raft.pre_vote(request).await.map_err(|error| stopped(&error))?;
                (kind::VOTE_REPLY, codec::encode_vote_reply(&reply))
            }
            kind::TRANSFER_LEADER => {
                let request = codec::decode_transfer(&message.payload)?;
                let reply = raft.handle_transfer_leader(request).await.map_err(|error| stopped(&error))?;
                (kind::TRANSFER_LEADER_REPLY, codec::encode_transfer_reply(&reply))
            }
            other => {
                let why = format!("message kind {other} is not known here; upgrade this node");
                return Err(TransportError::refused(Refusal::Malformed, why));
            }
        };
        Ok(self.answer(&message, kind, payload))
    }

    /// Handles a stream of appends from one replica to one replica. Ends after the first error or refusal: the sender opens a
    /// new stream then.
    pub fn receive_stream(
        self: &Arc<Self>,
        messages: BoxStream<'static, Envelope>,
    ) -> BoxStream<'static, Result<Envelope, TransportError>> {
        let groups = self.clone();
        stream::once(groups.serve_stream(messages)).flatten().boxed()
    }

    async fn serve_stream(
        self: Arc<Self>,
        mut messages: BoxStream<'static, Envelope>,
    ) -> BoxStream<'static, Result<Envelope, TransportError>> {
        let Some(first) = messages.next().await else { return stream::empty().boxed() };
        let group = match self.addressee(&first) {
            Ok(group) => group,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let template = Envelope { payload: Bytes::new(), attachments: Vec::new(), ..first.clone() };
        let refusal = Arc::new(Mutex::new(None));
        let heard = Heard::default();
        let messages = stream::iter([first]).chain(messages).boxed();
        let requests = self.requests(heard.clone(), template.clone(), messages, refusal.clone());
        let groups = self.clone();
        let replies = group.raft().stream_append(requests).map(move |result| {
            let reply = result.map_err(|fatal| stopped(&fatal))?;
            // One reply for each request, in order.
            if let (Some((at, committed)), true) = (heard.lock().pop_front(), reply.is_ok()) {
                group.note_accepted(committed, at);
            }
            Ok(groups.answer(&template, kind::APPEND_REPLY, codec::encode_append_reply(&reply)))
        });
        let ending = stream::once(async move { refusal.lock().take() }).filter_map(|refusal| async move { refusal.map(Err) });
        replies.chain(ending).boxed()
    }

    /// The append requests of a stream, up to the first message that is not one of the same two replicas.
    fn requests(
        self: &Arc<Self>,
        heard: Heard,
        template: Envelope,
        messages: BoxStream<'static, Envelope>,
        refusal: Arc<Mutex<Option<TransportError>>>,
    ) -> BoxStream<'static, AppendRequest> {
        let groups = self.clone();
        let decoded = messages.map(move |message| {
            groups.identity().check(&message)?;
            let same = message.partition == template.partition
                && message.from_replica == template.from_replica
                && message.to_replica == template.to_replica
                && message.kind == kind::APPEND;
            if !same {
                let why = "a stream carries appends between two replicas only";
                return Err(TransportError::refused(Refusal::Malformed, why));
            }
            let request = codec::decode_append(&message)?;
            heard.lock().push_back((Instant::now(), request.leader_commit));
            Ok(request)
        });
        let until_refused = decoded.map(move |result| result.map_err(|error| *refusal.lock() = Some(error)).ok());
        until_refused.take_while(|request| std::future::ready(request.is_some())).filter_map(std::future::ready).boxed()
    }

    /// The replica that a message is meant for.
    pub(crate) fn addressee(&self, message: &Envelope) -> Result<Group, TransportError> {
        self.identity().check(message)?;
        let partition = message.partition;
        let Some(group) = self.get(partition) else {
            let removed = Machine::tombstone(self.engine().as_ref(), partition).ok().flatten();
            if removed.is_some_and(|removed| message.to_replica <= removed) {
                let why = format!("replica {} of {partition} was removed from {}", message.to_replica, self.node());
                return Err(TransportError::refused(Refusal::RemovedReplica, why));
            }
            self.identity().members.suspect(Suspicion::UnknownReplica { partition });
            let why = format!("{partition} is not open on {}", self.node());
            return Err(TransportError::refused(Refusal::UnknownReplica, why));
        };
        if group.replica() != message.to_replica {
            if message.to_replica > group.replica() {
                self.identity().members.suspect(Suspicion::UnknownReplica { partition });
            }
            let why =
                format!("the message is meant for replica {}, {} holds {}", message.to_replica, self.node(), group.replica());
            return Err(TransportError::refused(Refusal::UnknownReplica, why));
        }
        match group.descriptor().node_of(message.from_replica) {
            Some(node) if node != message.from_node => {
                let why =
                    format!("replica {} lives on {node}, but the message comes from {}", message.from_replica, message.from_node);
                Err(TransportError::refused(Refusal::Misdelivered, why))
            }
            // A replica that we do not know yet may be newer than our descriptor; openraft judges it by its vote and log.
            _ => Ok(group),
        }
    }

    pub(crate) fn answer(&self, to: &Envelope, kind: u32, payload: Bytes) -> Envelope {
        let from = Sender { identity: self.identity().clone(), partition: to.partition, replica: to.to_replica };
        from.envelope(to.from_node, to.from_replica, kind, payload, Vec::new())
    }
}

fn ends(request: &AppendRequest) -> (Option<LogId>, Option<LogId>) {
    let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
    (request.prev_log_id, last)
}

fn append_reply(response: AppendEntriesResponse<TypeConfig>, previous: Option<LogId>, last: Option<LogId>) -> AppendReply {
    match response {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
        // Without a previous log id there is nothing that could conflict.
        AppendEntriesResponse::Conflict => previous.map_or(Ok(None), |id| Err(StreamAppendError::Conflict(id))),
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
    }
}

fn stopped(error: &impl std::fmt::Display) -> TransportError {
    TransportError::Unreachable(format!("the replica has stopped: {error}"))
}
