//! Many Raft groups in one process. The only crate that names openraft (DESIGN law 4): above it there are groups that accept
//! writes and reads, below it a log and a state machine that know nothing of Raft.
//!
//! ```text
//!                  Group::write ── proposer ──┐ (packs many writes into one entry, encodes once)
//!                  Group::read  ── barrier ───┤ (one read index for all reads that wait)
//!                                             v
//!   Groups ── one per partition ──────── openraft core ──── network ── Transport (the server's) ── peers
//!                                             │    │
//!                            append, vote     │    │ committed entries
//!                                             v    v
//!                   log store (per group)          state machine (per group)
//!                       │                              │ waits until its own log is durable
//!                       v                              v
//!                   log queue ── ONE log writer    storage::Machine ── storage::Engine
//!                                one frame, one fsync, all groups
//! ```
//!
//! **Invariant:** no gRPC, no addresses, no settings files here. Messages leave as [`Envelope`]s through a [`Transport`] that
//! the server implements, and node ids are resolved to addresses there.
//! **Invariant:** openraft's serde forms are never stored or sent; `codec` owns every byte.

mod acknowledged;
mod barrier;
mod codec;
mod compaction;
mod exec;
mod flush;
mod freshness;
mod group;
mod groups;
mod hand_over;
mod history;
mod identity;
mod inbound;
mod leadership;
mod log_queue;
mod log_store;
mod membership;
mod network;
mod offline;
mod options;
mod proposer;
mod snapshot;
mod state_machine;
mod status;
mod transport;
mod type_config;

pub use compaction::LogRetention;
pub use exec::Exec;
pub use group::Group;
pub use groups::{Groups, GroupsConfig, LogStats};
pub use history::HistoryOptions;
pub use identity::{Member, Members, Suspicion};
pub use log_queue::LogWriter;
pub use membership::{GroupMembership, MembershipSeen};
pub use offline::{FoundReplica, LogEnd, Looked, Offline};
pub use options::RaftOptions;
pub use snapshot::{SnapshotOptions, SnapshotStats};
pub use status::GroupStatus;
pub use transport::{Envelope, Refusal, Transport, TransportError};

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod hand_over_tests;
#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod testing;
