//! How things fail (DESIGN section 9): *reject* is deterministic and part of a reply; *retry* was proven not applied; *ambiguous*
//! may have been applied; *fault* stops one replica. Above the client there is one public [`Error`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::id::{ClusterId, NodeId, PartitionId};
use crate::key;
use crate::partition::Descriptor;
use crate::session::SessionId;
use crate::version::Version;

/// Refused, for a reason that every replica sees alike. Nothing changed. Asking again with the same request gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ThisError)]
pub enum Reject {
    /// A condition did not hold.
    #[error("condition {index} on key `{}` failed: the key {}; read it again and decide anew", key::display(key), found(*.version))]
    ConditionFailed {
        /// Which condition, from 0.
        index: u32,
        /// Its key (internal below the client, user key above).
        key: Bytes,
        /// The key's present version; `None` if it is absent.
        version: Option<Version>,
    },
    /// Something is larger than its limit.
    #[error("{what} is {actual}, the limit is {limit}; split it or make it smaller")]
    TooLarge {
        /// What was measured, with its unit, such as "value size in bytes".
        what: String,
        /// The size found.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The request makes no sense.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong and what to do.
        reason: String,
    },
    /// The session, or this request of it, is older than what the store remembers.
    #[error(
        "session {session} or its request {sequence} is older than the store remembers: whether it was applied is not known any more; \
         open a new session, read, and decide anew"
    )]
    SessionExpired {
        /// The session.
        session: SessionId,
        /// The request.
        sequence: u64,
    },
    /// Another request was made under the same session and number.
    #[error(
        "session {session} has used number {sequence} for a different request: two clients share one session; \
         give each client a session of its own"
    )]
    SessionConflict {
        /// The session.
        session: SessionId,
        /// The number used twice.
        sequence: u64,
    },
    /// The partition's shape is not the one by which the request was routed. Routers repair their map from this and go on.
    #[error("the map used for partition {partition} is out of date: it is now {}; refresh the map", shape(descriptors))]
    StaleEpoch {
        /// The partition asked.
        partition: PartitionId,
        /// What holds its old range now, as far as known here.
        descriptors: Vec<Descriptor>,
    },
    /// The keys of one atomic write lie in more than one partition.
    #[error(
        "an atomic write must stay in one partition, but `{}` is in {first} and `{}` in {second}; write them separately",
        key::display(key_a),
        key::display(key_b)
    )]
    CrossPartition {
        /// A key.
        key_a: Bytes,
        /// Its partition.
        first: PartitionId,
        /// Another key.
        key_b: Bytes,
        /// Its partition.
        second: PartitionId,
    },
    /// A snapshot older than what is kept.
    #[error("version {version} is older than the oldest one kept, {oldest}; read at a newer version")]
    VersionTooOld {
        /// The version asked.
        version: Version,
        /// The oldest kept.
        oldest: Version,
    },
    /// A snapshot that the partition's clock has not reached.
    #[error("version {version} lies in the future: the newest is {newest}; read at a version that a reply has named")]
    VersionInFuture {
        /// The version asked.
        version: Version,
        /// The newest here.
        newest: Version,
    },
    /// The caller means another cluster: this one was restored or recovered since, or the address belongs to another one now.
    #[error(
        "this is the cluster {here}, and the request is meant for {asked}: the cluster was restored or recovered since, or the address is that of \
         another one; connect anew, and forget the tokens, versions and sessions of before"
    )]
    OtherCluster {
        /// The cluster that the caller or their token knows.
        asked: ClusterId,
        /// The one that answers.
        here: ClusterId,
    },
}

fn found(version: Option<Version>) -> String {
    version.map_or_else(|| "is absent".to_owned(), |version| format!("has version {version}"))
}

fn shape(descriptors: &[Descriptor]) -> String {
    if descriptors.is_empty() {
        return "elsewhere".to_owned();
    }
    let parts: Vec<_> = descriptors.iter().map(|d| format!("{} {} at epoch {}", d.id, d.range, d.epoch)).collect();
    parts.join(", ")
}

impl Reject {
    /// `Invalid` with a reason.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

/// Not applied, certainly. The same request may be sent again, here or where the hint says.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Retry {
    /// This node does not lead the partition.
    #[error("this node does not lead partition {partition}; {}", leader.map_or_else(|| "no leader is known, try again soon".to_owned(), |node| format!("ask {node}")))]
    NotLeader {
        /// The partition.
        partition: PartitionId,
        /// Who leads it, if known.
        leader: Option<NodeId>,
    },
    /// This node holds no replica of the partition (yet, or any more).
    #[error("this node holds no replica of partition {partition}; refresh the map")]
    UnknownPartition {
        /// The partition.
        partition: PartitionId,
    },
    /// Nothing can be reached or decided at present.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A bound was reached.
    #[error("overloaded: {what} is at its limit of {limit}; try again in {retry_after_ms} ms")]
    Overloaded {
        /// Which queue or budget.
        what: String,
        /// Its limit.
        limit: u64,
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
}

/// It may have been applied, or may still be: the log took it but its fate is not known here.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error(
    "the outcome is not known: {reason}; it may have been applied: retry with the same request id, or read before deciding anew"
)]
pub struct Ambiguous {
    /// What happened.
    pub reason: String,
}

/// A broken replica: I/O error, checksum mismatch, broken invariant. That replica stops; the others go on.
#[derive(Clone, Debug, ThisError)]
pub enum Fault {
    /// The operating system refused or failed an operation.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done, with the file.
        action: String,
        /// The error.
        source: Arc<std::io::Error>,
    },
    /// Bytes on disk are not what was written.
    #[error("{place} is corrupt: {detail}")]
    Corrupt {
        /// File and offset, or key.
        place: String,
        /// What was expected and found.
        detail: String,
    },
    /// Written by a newer version, or not by Kontiki.
    #[error("{place} has format {found}, this program knows {known}; {advice}")]
    Format {
        /// The file or key.
        place: String,
        /// The format byte found.
        found: u8,
        /// The newest format known.
        known: u8,
        /// What to do.
        advice: String,
    },
    /// Something that must always hold does not.
    #[error("broken invariant: {0}; this is a defect of Kontiki, please report it")]
    Invariant(String),
}

impl Fault {
    /// An I/O error with what was being done.
    pub fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { action: action.into(), source: Arc::new(source) }
    }

    /// Corrupt bytes at a place.
    pub fn corrupt(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), detail: detail.into() }
    }

    /// Whether the cause is a full disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}

impl From<Fault> for std::io::Error {
    fn from(fault: Fault) -> Self {
        let kind = match &fault {
            Fault::Io { source, .. } => source.kind(),
            Fault::Corrupt { .. } | Fault::Format { .. } => std::io::ErrorKind::InvalidData,
            Fault::Invariant(_) => std::io::ErrorKind::Other,
        };
        Self::new(kind, fault)
    }
}

/// How one call to one node fails. The router's one table decides on it.
#[derive(Clone, Debug, ThisError)]
pub enum CallError {
    /// See [`Reject`].
    #[error(transparent)]
    Reject(#[from] Reject),
    /// See [`Retry`].
    #[error(transparent)]
    Retry(#[from] Retry),
    /// See [`Ambiguous`].
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    /// The replica asked is broken. Others may serve.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl CallError {
    /// `Retry::Unavailable` with a reason.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Retry(Retry::Unavailable { reason: reason.into() })
    }

    /// `Ambiguous` with a reason.
    pub fn ambiguous(reason: impl Into<String>) -> Self {
        Self::Ambiguous(Ambiguous { reason: reason.into() })
    }
}

/// What kind of failure a public [`Error`] is. A kind exists only where a caller would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A condition of the write did not hold. Nothing was written.
    ConditionFailed,
    /// The request makes no sense or exceeds a limit. Nothing was written.
    Invalid,
    /// The session is gone, or is shared by two clients.
    Session,
    /// A version outside of what is kept.
    Version,
    /// The cluster is not the one that the client, or its token, has known: its history is another. Connect anew and decide anew.
    HistoryChanged,
    /// No answer in time, and certainly not applied.
    Unavailable,
    /// A bound was reached, and certainly not applied; come back later.
    Overloaded,
    /// It may have been applied.
    Ambiguous,
    /// The data directory is foreign, damaged, locked, unreadable or full.
    Storage,
    /// The settings are wrong, or an address is taken.
    Config,
    /// The node was stopped.
    Stopped,
    /// A defect.
    Internal,
}

impl ErrorKind {
    /// The word for it in JSON output, metrics and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConditionFailed => "condition_failed",
            Self::Invalid => "invalid",
            Self::Session => "session",
            Self::Version => "version",
            Self::HistoryChanged => "history_changed",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Ambiguous => "ambiguous",
            Self::Storage => "storage",
            Self::Config => "config",
            Self::Stopped => "stopped",
            Self::Internal => "internal",
        }
    }
}

/// The one public error: a kind to act on, a message that says what to do, and the cause.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(Arc::new(source)) }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The typed rejection behind it, if there is one (a failed condition carries the present version).
    pub fn reject(&self) -> Option<&Reject> {
        let source = self.source.as_deref()?;
        match source.downcast_ref::<CallError>() {
            Some(CallError::Reject(reject)) => Some(reject),
            Some(_) => None,
            None => source.downcast_ref::<Reject>(),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.kind).field("message", &self.message).field("source", &self.source).finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Reject(reject) => match reject {
                Reject::ConditionFailed { .. } => ErrorKind::ConditionFailed,
                Reject::TooLarge { .. } | Reject::Invalid { .. } | Reject::CrossPartition { .. } => ErrorKind::Invalid,
                Reject::SessionExpired { .. } | Reject::SessionConflict { .. } => ErrorKind::Session,
                Reject::StaleEpoch { .. } => ErrorKind::Unavailable,
                Reject::VersionTooOld { .. } | Reject::VersionInFuture { .. } => ErrorKind::Version,
                Reject::OtherCluster { .. } => ErrorKind::HistoryChanged,
            },
            CallError::Retry(Retry::Overloaded { .. }) => ErrorKind::Overloaded,
            CallError::Retry(_) => ErrorKind::Unavailable,
            CallError::Ambiguous(_) => ErrorKind::Ambiguous,
            CallError::Fault(_) => ErrorKind::Storage,
        };
        Self::with_source(kind, error.to_string(), error)
    }
}

impl From<Reject> for Error {
    fn from(reject: Reject) -> Self {
        CallError::Reject(reject).into()
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        CallError::Fault(fault).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_the_value_the_limit_and_what_to_do() {
        let error: Error = Reject::TooLarge { what: "value size in bytes".into(), actual: 2, limit: 1 }.into();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.to_string(), "value size in bytes is 2, the limit is 1; split it or make it smaller");
        assert!(matches!(error.reject(), Some(Reject::TooLarge { .. })));
    }

    #[test]
    fn a_full_disk_is_recognised() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(Fault::io("writing x", full).is_disk_full());
        assert!(!Fault::corrupt("x", "y").is_disk_full());
    }
}
