//! How Raft messages leave and enter: opaque, versioned envelopes that carry the identity of both ends. The server implements
//! [`Transport`] over one channel per peer; the simulator can implement it over anything.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kontiki_types::partition::Incarnation;
use kontiki_types::{ClusterId, NodeId, PartitionId, ReplicaId, StoreId};
use thiserror::Error;

/// The version of the message bodies written today. A receiver refuses others.
pub(crate) const MESSAGE_FORMAT: u32 = 1;

/// One Raft message and who it is between. A receiver checks every field before it looks at the payload: a message that is
/// delivered to the wrong store or replica could form a second quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The cluster of both ends.
    pub cluster: ClusterId,
    /// The sending node.
    pub from_node: NodeId,
    /// The sending node's disk.
    pub from_store: StoreId,
    /// Which start of the sending node this is.
    pub from_incarnation: Incarnation,
    /// The node it is meant for.
    pub to_node: NodeId,
    /// The store it is meant for; all zero while the sender does not know it yet.
    pub to_store: StoreId,
    /// The newest start of the receiver that the sender has heard of.
    pub to_incarnation: Incarnation,
    /// The group.
    pub partition: PartitionId,
    /// The sending replica.
    pub from_replica: ReplicaId,
    /// The replica it is meant for.
    pub to_replica: ReplicaId,
    /// What the payload is.
    pub kind: u32,
    /// The version of the payload's format.
    pub format: u32,
    /// The message, encoded by `codec`.
    pub payload: Bytes,
    /// Entry bodies, as the proposer encoded them: sent without another copy of ours.
    pub attachments: Vec<Bytes>,
}

/// Why a peer refused a message. The numbers travel: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// It cannot be read, or is of a format or kind that is not known there.
    Malformed = 1,
    /// Another cluster or another node is meant: an address is wrong.
    Misdelivered = 2,
    /// The receiver has another disk than is meant, or is an older copy of the node that is meant.
    ReceiverReplaced = 3,
    /// The sender is registered with another disk.
    SenderReplaced = 4,
    /// The sender is an older copy of a node that has been seen in a newer start.
    SenderOutdated = 5,
    /// The sender is not a member any more: lost or gone.
    SenderRemoved = 6,
    /// The replica is not here: not yet, or not any more.
    UnknownReplica = 7,
    /// The replica was here and has been removed for ever.
    RemovedReplica = 8,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Misdelivered,
        Self::ReceiverReplaced,
        Self::SenderReplaced,
        Self::SenderOutdated,
        Self::SenderRemoved,
        Self::UnknownReplica,
        Self::RemovedReplica,
    ];

    /// As it travels.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// From how it travels; a number that is not known here says only that something is wrong with the message.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.number() == number).unwrap_or(Self::Malformed)
    }
}

/// Why a message was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransportError {
    /// The peer is down or cannot be reached: back off.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// The peer refused it: wrong cluster, store or replica, unknown group, or a format that it does not know.
    #[error("refused: {why}")]
    Rejected {
        /// What is wrong.
        refusal: Refusal,
        /// The same in words, with what to do.
        why: String,
    },
}

impl TransportError {
    /// A refusal.
    pub fn refused(refusal: Refusal, why: impl Into<String>) -> Self {
        Self::Rejected { refusal, why: why.into() }
    }
}

/// Carries envelopes to other nodes. All groups share one channel per peer, and another one for snapshots.
pub trait Transport: Send + Sync + 'static {
    /// Sends one message and waits for its answer, at most `timeout`.
    fn call(&self, to: NodeId, message: Envelope, timeout: Duration) -> BoxFuture<'static, Result<Envelope, TransportError>>;

    /// Opens a stream that carries messages in order and answers in the same order. `timeout` bounds only the set-up; a dead
    /// stream must be noticed by keep-alive and end with an error.
    fn stream(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Envelope, TransportError>>, TransportError>>;

    /// Opens a stream that carries a snapshot: as [`Transport::stream`], on a connection of its own, so that nothing else waits behind it.
    fn snapshot(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Envelope, TransportError>>, TransportError>>;
}
