//! Every byte that Raft stores or sends: log ids, votes, memberships, entries and messages, in forms of our own, behind
//! `encoding`'s format byte. openraft's serde forms change between releases; these do not.
//!
//! A stored entry is `head ++ body`. The head has 18 bytes: format (1), kind (0 blank, 1 command, 2 membership), term (u64, big
//! endian), leader's replica id (u64, big endian). The body is the command as the proposer encoded it, or a membership. The
//! index is the log record's.

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_types::Fault;
use kontiki_types::encoding::{self, DecodeError};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::StreamAppendError;
use serde::{Deserialize, Serialize};

use crate::transport::{Envelope, Refusal, TransportError};
use crate::type_config::{
    AppendReply, AppendRequest, Entry, LeaderId, LogId, Membership, Payload, ReplicaNode, StoredMembership, TypeConfig, Vote,
    VoteReply, VoteRequest,
};

/// What an envelope carries.
pub(crate) mod kind {
    pub(crate) const APPEND: u32 = 1;
    pub(crate) const APPEND_REPLY: u32 = 2;
    pub(crate) const VOTE: u32 = 3;
    pub(crate) const PRE_VOTE: u32 = 4;
    pub(crate) const VOTE_REPLY: u32 = 5;
    pub(crate) const TRANSFER_LEADER: u32 = 6;
    pub(crate) const TRANSFER_LEADER_REPLY: u32 = 7;
    pub(crate) const SNAPSHOT: u32 = 8;
    pub(crate) const SNAPSHOT_REPLY: u32 = 9;
}

const ENTRY_FORMAT: u8 = 1;
/// Bytes of an entry's head.
pub(crate) const HEAD_BYTES: usize = 18;

/// A log id, as it is stored and sent.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WireLogId {
    term: u64,
    leader: u64,
    index: u64,
}

/// A vote, as it is stored and sent.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WireVote {
    term: u64,
    leader: u64,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct WireMembership {
    configs: Vec<Vec<u64>>,
    nodes: Vec<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct WireStoredMembership {
    log_id: Option<WireLogId>,
    membership: WireMembership,
}

#[derive(Serialize, Deserialize)]
struct WireEntryHead {
    id: WireLogId,
    kind: u8,
}

#[derive(Serialize, Deserialize)]
struct WireAppend {
    vote: WireVote,
    previous: Option<WireLogId>,
    committed: Option<WireLogId>,
    heads: Vec<WireEntryHead>,
}

#[derive(Serialize, Deserialize)]
enum WireAppendReply {
    Success(Option<WireLogId>),
    Conflict(WireLogId),
    HigherVote(WireVote),
}

#[derive(Serialize, Deserialize)]
struct WireVoteRequest {
    vote: WireVote,
    last: Option<WireLogId>,
    leadership_transfer: bool,
}

#[derive(Serialize, Deserialize)]
struct WireVoteReply {
    vote: WireVote,
    granted: bool,
    last: Option<WireLogId>,
}

/// A request to take over, as it travels.
#[derive(Serialize, Deserialize)]
struct WireTransfer {
    vote: WireVote,
    to: u64,
    last: Option<WireLogId>,
}

impl From<&LogId> for WireLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        Self { leader_id: LeaderId { term: id.term, node_id: id.leader }, index: id.index }
    }
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, leader: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, node_id: vote.leader }, committed: vote.committed }
    }
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().iter().map(|config| config.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(replica, node)| (*replica, node.node)).collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership {
    type Error = DecodeError;

    fn try_from(wire: WireMembership) -> Result<Self, DecodeError> {
        let configs = wire.configs.into_iter().map(|config| config.into_iter().collect()).collect();
        let nodes: std::collections::BTreeMap<_, _> =
            wire.nodes.into_iter().map(|(id, node)| (id, ReplicaNode { node })).collect();
        Self::new(configs, nodes).map_err(|error| DecodeError::Malformed(format!("membership: {error}")))
    }
}

fn bytes<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(encoding::encode(value))
}

fn corrupt(what: &str, error: &DecodeError) -> Fault {
    Fault::corrupt(what, error.to_string())
}

/// A log id, as stored.
pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    bytes(&WireLogId::from(id))
}

/// Reads a stored log id; `what` names it in the fault.
pub(crate) fn decode_log_id(bytes: &[u8], what: &str) -> Result<LogId, Fault> {
    encoding::decode::<WireLogId>(bytes).map(LogId::from).map_err(|error| corrupt(what, &error))
}

/// A vote, as stored.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    bytes(&WireVote::from(vote))
}

/// Reads a stored vote.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, Fault> {
    encoding::decode::<WireVote>(bytes).map(Vote::from).map_err(|error| corrupt("the stored vote", &error))
}

/// A membership with the log id that set it, as stored beside the applied position.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    bytes(&WireStoredMembership { log_id: stored.log_id().as_ref().map(WireLogId::from), membership: stored.membership().into() })
}

/// Reads a stored membership.
pub(crate) fn decode_stored_membership(stored: &[u8]) -> Result<StoredMembership, Fault> {
    let parse = || -> Result<StoredMembership, DecodeError> {
        let wire: WireStoredMembership = encoding::decode(stored)?;
        Ok(StoredMembership::new(wire.log_id.map(LogId::from), wire.membership.try_into()?))
    };
    parse().map_err(|error| corrupt("the stored membership", &error))
}

fn entry_parts(entry: &Entry) -> (u8, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (0, Bytes::new()),
        EntryPayload::Normal(payload) => (1, payload.0.clone()),
        EntryPayload::Membership(membership) => (2, bytes(&WireMembership::from(membership))),
    }
}

fn entry_from_parts(id: LogId, kind: u8, body: Bytes) -> Result<Entry, DecodeError> {
    let payload = match kind {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(Payload(body)),
        2 => EntryPayload::Membership(encoding::decode::<WireMembership>(&body)?.try_into()?),
        other => return Err(DecodeError::Malformed(format!("entry kind {other}"))),
    };
    Ok(Entry::new(id, payload))
}

/// An entry as the log keeps it: head and body, apart, so that the body is not copied.
pub(crate) fn encode_entry(entry: &Entry) -> (Bytes, Bytes) {
    let (kind, body) = entry_parts(entry);
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u8(ENTRY_FORMAT);
    head.put_u8(kind);
    head.put_u64(entry.log_id.leader_id.term);
    head.put_u64(entry.log_id.leader_id.node_id);
    (head.freeze(), body)
}

/// Reads an entry as the log kept it. The body shares the input's memory.
pub(crate) fn decode_entry(index: u64, stored: &Bytes) -> Result<Entry, Fault> {
    let parse = || -> Result<Entry, DecodeError> {
        let head =
            stored.get(..HEAD_BYTES).ok_or_else(|| DecodeError::Malformed(format!("an entry of {} bytes", stored.len())))?;
        if head[0] != ENTRY_FORMAT {
            return Err(DecodeError::Format { found: head[0] });
        }
        let number = |at: usize| head[at..at + 8].iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let id = LogId { leader_id: LeaderId { term: number(2), node_id: number(10) }, index };
        entry_from_parts(id, head[1], stored.slice(HEAD_BYTES..))
    };
    parse().map_err(|error| corrupt(&format!("log entry {index}"), &error))
}

/// An append request: head fields in the payload, entry bodies as attachments.
pub(crate) fn encode_append(request: &AppendRequest) -> (Bytes, Vec<Bytes>) {
    let mut heads = Vec::with_capacity(request.entries.len());
    let mut bodies = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let (kind, body) = entry_parts(entry);
        heads.push(WireEntryHead { id: (&entry.log_id).into(), kind });
        bodies.push(body);
    }
    let wire = WireAppend {
        vote: (&request.vote).into(),
        previous: request.prev_log_id.as_ref().map(WireLogId::from),
        committed: request.leader_commit.as_ref().map(WireLogId::from),
        heads,
    };
    (bytes(&wire), bodies)
}

fn refused(what: &str, error: impl std::fmt::Display) -> TransportError {
    TransportError::refused(Refusal::Malformed, format!("{what} does not parse: {error}"))
}

/// Reads an append request.
pub(crate) fn decode_append(envelope: &Envelope) -> Result<AppendRequest, TransportError> {
    let wire: WireAppend = encoding::decode(&envelope.payload).map_err(|error| refused("append request", error))?;
    if wire.heads.len() != envelope.attachments.len() {
        return Err(refused("append request", format!("{} heads, {} bodies", wire.heads.len(), envelope.attachments.len())));
    }
    let entries = wire.heads.into_iter().zip(&envelope.attachments);
    let entries = entries.map(|(head, body)| entry_from_parts(head.id.into(), head.kind, body.clone()));
    Ok(AppendRequest {
        vote: wire.vote.into(),
        prev_log_id: wire.previous.map(LogId::from),
        entries: entries.collect::<Result<_, _>>().map_err(|error| refused("append request", error))?,
        leader_commit: wire.committed.map(LogId::from),
    })
}

/// The answer to one append request.
pub(crate) fn encode_append_reply(reply: &AppendReply) -> Bytes {
    bytes(&match reply {
        Ok(matched) => WireAppendReply::Success(matched.as_ref().map(WireLogId::from)),
        Err(StreamAppendError::Conflict(id)) => WireAppendReply::Conflict(id.into()),
        Err(StreamAppendError::HigherVote(vote)) => WireAppendReply::HigherVote(vote.into()),
    })
}

/// Reads the answer to one append request.
pub(crate) fn decode_append_reply(payload: &[u8]) -> Result<AppendReply, TransportError> {
    let wire: WireAppendReply = encoding::decode(payload).map_err(|error| refused("append reply", error))?;
    Ok(match wire {
        WireAppendReply::Success(matched) => Ok(matched.map(LogId::from)),
        WireAppendReply::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
        WireAppendReply::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

/// A vote or pre-vote request.
pub(crate) fn encode_vote_request(request: &VoteRequest) -> Bytes {
    bytes(&WireVoteRequest {
        vote: (&request.vote).into(),
        last: request.last_log_id.as_ref().map(WireLogId::from),
        leadership_transfer: request.leadership_transfer,
    })
}

/// Reads a vote or pre-vote request.
pub(crate) fn decode_vote_request(payload: &[u8]) -> Result<VoteRequest, TransportError> {
    let wire: WireVoteRequest = encoding::decode(payload).map_err(|error| refused("vote request", error))?;
    let mut request = VoteRequest::new(wire.vote.into(), wire.last.map(LogId::from));
    request.leadership_transfer = wire.leadership_transfer;
    Ok(request)
}

/// The answer to a vote or pre-vote request.
pub(crate) fn encode_vote_reply(reply: &VoteReply) -> Bytes {
    bytes(&WireVoteReply {
        vote: (&reply.vote).into(),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(WireLogId::from),
    })
}

/// Reads the answer to a vote or pre-vote request.
pub(crate) fn decode_vote_reply(payload: &[u8]) -> Result<VoteReply, TransportError> {
    let wire: WireVoteReply = encoding::decode(payload).map_err(|error| refused("vote reply", error))?;
    Ok(VoteReply::new(Vote::from(wire.vote), wire.last.map(LogId::from), wire.granted))
}

/// openraft's request to take over.
pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
/// openraft's answer to it.
pub(crate) type TransferReply = openraft::raft::TransferLeaderResponse<TypeConfig>;

/// A request to take over.
pub(crate) fn encode_transfer(request: &TransferRequest) -> Bytes {
    bytes(&WireTransfer {
        vote: request.from_leader().into(),
        to: *request.to_node_id(),
        last: request.last_log_id().map(WireLogId::from),
    })
}

/// Reads a request to take over.
pub(crate) fn decode_transfer(payload: &[u8]) -> Result<TransferRequest, TransportError> {
    let wire: WireTransfer = encoding::decode(payload).map_err(|error| refused("transfer request", error))?;
    Ok(TransferRequest::new(wire.vote.into(), wire.to, wire.last.map(LogId::from)))
}

#[derive(Serialize, Deserialize)]
enum WireTransferReply {
    Accepted,
    VoteChanged { expected: WireVote, actual: WireVote },
    LogNotFlushed { expected: Option<WireLogId>, actual: Option<WireLogId> },
}

/// The answer to a request to take over.
pub(crate) fn encode_transfer_reply(reply: &TransferReply) -> Bytes {
    use openraft::raft::TransferLeaderError as Refusal;
    bytes(&match reply {
        Ok(()) => WireTransferReply::Accepted,
        Err(Refusal::VoteChanged { expected, actual }) => {
            WireTransferReply::VoteChanged { expected: expected.into(), actual: actual.into() }
        }
        Err(Refusal::LogNotFlushed { expected, actual }) => WireTransferReply::LogNotFlushed {
            expected: expected.as_ref().map(WireLogId::from),
            actual: actual.as_ref().map(WireLogId::from),
        },
    })
}

/// Reads the answer to a request to take over.
pub(crate) fn decode_transfer_reply(payload: &[u8]) -> Result<TransferReply, TransportError> {
    use openraft::raft::TransferLeaderError as Refusal;
    let wire: WireTransferReply = encoding::decode(payload).map_err(|error| refused("transfer reply", error))?;
    Ok(match wire {
        WireTransferReply::Accepted => Ok(()),
        WireTransferReply::VoteChanged { expected, actual } => {
            Err(Refusal::VoteChanged { expected: expected.into(), actual: actual.into() })
        }
        WireTransferReply::LogNotFlushed { expected, actual } => {
            Err(Refusal::LogNotFlushed { expected: expected.map(LogId::from), actual: actual.map(LogId::from) })
        }
    })
}

#[cfg(test)]
mod tests;
