//! The nouns of Kontiki, and nothing that acts.
//!
//! Everything here is plain data: identifiers, keys and ranges, versions, partitions, commands and replies, errors, limits
//! and the one encoding of what is persisted or sent between nodes. Every other crate may use this one; this one uses none
//! of them.
//!
//! ```text
//!   key ── range ── partition(descriptor, map)        what is stored, and who holds it
//!   version ── session ── command ── reply ── effect  what a Raft log carries, and what applying it returns
//!   read                                              what is asked without the log
//!   error ── limits ── encoding                       how it fails, how large it may be, how it is written down
//! ```
//!
//! **Invariant:** no tokio, clock, randomness, thread or I/O in this crate (DESIGN law 1).
//! A type moves in here only when two crates on different branches need it.

pub mod command;
pub mod encoding;
pub mod error;
pub mod id;
pub mod key;
pub mod limits;
pub mod partition;
pub mod read;
pub mod reply;
pub mod session;
pub mod version;

pub use bytes::Bytes;

pub use command::{Command, Condition, Op, Write};
pub use error::{Ambiguous, CallError, Error, ErrorKind, Fault, Reject, Retry};
pub use id::{ClusterId, NamespaceId, NodeId, PartitionId, ReplicaId, StoreId};
pub use key::KeyRange;
pub use partition::{ClockKind, Descriptor, Epoch, Incarnation, NodeInfo, NodeState, PartitionMap, Replica, Role};
pub use read::{Change, Read, ReadLevel, ReadReply, Row, Token};
pub use reply::{Effect, OpResult, Reply, WriteReply};
pub use session::{RequestId, SessionId};
pub use version::Version;
