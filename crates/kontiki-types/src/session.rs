//! Sessions and request ids: who asks, and which request of theirs this is, so that a retry is applied once
//! (Ongaro, "Consensus: Bridging Theory and Practice", section 6.3).
//!
//! A session is opened by a command of its own, and its id is made when that command is applied: `partition ++ version`. So a
//! session that was forgotten can never be confused with one that is new, and a write in an unknown session is refused with
//! `SessionExpired` rather than run a second time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::PartitionId;
use crate::version::Version;

/// One client's session with a partition: the partition that opened it and the version of the opening. Unique in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The partition that opened the session (its children after a split know it too).
    pub partition: PartitionId,
    /// The version given to the opening command.
    pub opened: Version,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}-{}", self.partition.0, self.opened)
    }
}

/// One request of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The session.
    pub session: SessionId,
    /// The number of the request in its session, from 1. A retry carries the same number and the same bytes.
    pub sequence: u64,
    /// The client has the replies of all its requests below this number: they may be forgotten. At most `sequence`.
    pub acknowledged_below: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.session, self.sequence)
    }
}
