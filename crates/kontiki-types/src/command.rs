//! Commands: what enters a Raft log. A command is encoded once, by the proposer, and travels as the same bytes to the log, to
//! the followers and into `apply`, which decodes it *borrowed*: `Command<&[u8]>` points into the entry (DESIGN law 10).
//! So everything here is generic over its bytes `B`: `Bytes` where it is owned, `&[u8]` where it is read.
//!
//! Keys in commands are internal keys (`key::internal`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::PartitionId;
use crate::partition::{Descriptor, Epoch};
use crate::session::RequestId;
use crate::version::Version;

/// What enters a Raft log, after openraft's own membership and blank entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<B> {
    /// Writes of several callers, packed by the proposer. Each is atomic for itself and gets a version of its own; they are
    /// applied in order, in one engine batch.
    Writes {
        /// The leader's wall clock when it proposed, in ms since the Unix epoch. A suggestion only.
        stamp_ms: u64,
        /// The writes; one `WriteReply` each.
        writes: Vec<Write<B>>,
    },
    /// Opens a session; the reply carries its id.
    OpenSession {
        /// As in `Writes`.
        stamp_ms: u64,
    },
    /// Moves the partition's clock to at least `to`, so that a snapshot at `to` can never change again.
    AdvanceClock {
        /// The version to reach.
        to: Version,
    },
    /// Replaces the partition's own descriptor (bounds or membership changed). Refused unless its epoch is newer.
    SetDescriptor {
        /// The new descriptor; same partition id.
        descriptor: Descriptor,
    },
    /// Raises the partition's horizon, the oldest version that may be read, as far as `to` but never beyond the clock. What only older reads would
    /// see may be dropped then.
    AdvanceHorizon {
        /// The version to reach.
        to: Version,
    },
}

/// One caller's atomic write: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write<B> {
    /// The epoch of the descriptor by which the caller routed. Checked again at apply, because bounds may have changed between.
    pub epoch: Epoch,
    /// Which request this is; `None` for writes that the node itself makes and never retries.
    pub request: Option<RequestId>,
    /// All must hold, or nothing is written. Evaluated at apply, on the state before the first operation.
    pub conditions: Vec<Condition<B>>,
    /// Applied in order; a later one sees the earlier ones.
    pub ops: Vec<Op<B>>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op<B> {
    /// Sets a key. Blind: reads nothing.
    Put {
        /// The key.
        key: B,
        /// The value, as the caller gave it.
        value: B,
    },
    /// Removes a key; the result says whether it was there.
    Delete {
        /// The key.
        key: B,
    },
    /// Removes the keys of `[start, end)`, at most `limits::DELETE_RANGE_KEYS_MAX` of them: the result says how many, and where to
    /// go on.
    DeleteRange {
        /// First key removed.
        start: B,
        /// First key kept; never empty inside a command (the router cuts ranges at the partition's bounds) unless the partition
        /// itself has no upper bound.
        end: B,
    },
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition<B> {
    /// The key has a value.
    Exists {
        /// The key.
        key: B,
    },
    /// The key has no value.
    Absent {
        /// The key.
        key: B,
    },
    /// The key's newest record is a put with this version. `Version::ZERO` means absent.
    VersionIs {
        /// The key.
        key: B,
        /// The version that the caller saw.
        version: Version,
    },
    /// The key has exactly this value.
    ValueIs {
        /// The key.
        key: B,
        /// The value that the caller saw.
        value: B,
    },
}

impl<B: AsRef<[u8]>> Condition<B> {
    /// The key that it looks at.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Exists { key } | Self::Absent { key } | Self::VersionIs { key, .. } | Self::ValueIs { key, .. } => key.as_ref(),
        }
    }

    /// Payload bytes: key and value.
    pub fn size_bytes(&self) -> usize {
        self.key().len()
            + match self {
                Self::ValueIs { value, .. } => value.as_ref().len(),
                _ => 0,
            }
    }
}

impl<B: AsRef<[u8]>> Op<B> {
    /// The key, or the start of the range: what routes this operation.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key.as_ref(),
            Self::DeleteRange { start, .. } => start.as_ref(),
        }
    }

    /// Payload bytes: key and value, or both ends.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.as_ref().len() + value.as_ref().len(),
            Self::Delete { key } => key.as_ref().len(),
            Self::DeleteRange { start, end } => start.as_ref().len() + end.as_ref().len(),
        }
    }
}

impl<B: AsRef<[u8]>> Write<B> {
    /// Payload bytes of all conditions and operations; the measure of `limits::REQUEST_BYTES_MAX`.
    pub fn size_bytes(&self) -> usize {
        self.conditions.iter().map(Condition::size_bytes).sum::<usize>() + self.ops.iter().map(Op::size_bytes).sum::<usize>()
    }
}

/// A write as callers and services hold it.
pub type OwnedWrite = Write<Bytes>;

/// What identifies the place a request was routed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch of the descriptor that was used.
    pub epoch: Epoch,
}
