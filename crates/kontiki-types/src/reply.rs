//! Replies and effects: what applying a command returns. A reply goes to the caller (and, for a write with a request id, into
//! the session table, so that a retry gets the same one). An effect is something the *node* must do next; it is data, carried
//! out by one loop (DESIGN law 2).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Reject;
use crate::partition::Descriptor;
use crate::session::SessionId;
use crate::version::Version;

/// What applying one `Command` returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// One for each write of `Command::Writes`, in order.
    Writes(Vec<Result<WriteReply, Reject>>),
    /// The new session.
    SessionOpened(SessionId),
    /// The clock after `AdvanceClock`.
    Clock(Version),
    /// The descriptor now in force.
    Descriptor(Descriptor),
    /// The command itself was refused; nothing changed.
    Rejected(Reject),
    /// A blank or membership entry: nothing of ours.
    None,
    /// The horizon after `AdvanceHorizon`.
    Horizon(Version),
}

/// The reply to one applied write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReply {
    /// The version that the write got. A retry gets the first one again.
    pub version: Version,
    /// One for each operation, in order.
    pub results: Vec<OpResult>,
}

/// The outcome of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// A put: blind, nothing to tell.
    Put,
    /// A delete.
    Deleted {
        /// Whether the key had a value.
        existed: bool,
    },
    /// A range delete.
    DeletedRange {
        /// How many keys were removed.
        count: u64,
        /// The first key not looked at, if the limit of one operation stopped it: go on from here.
        resume: Option<Bytes>,
    },
}

/// What the node must do after a command was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keys of the system partition's map or node table changed: read them again.
    MapChanged,
    /// This partition's descriptor changed.
    DescriptorChanged(Descriptor),
}
