//! A replicated key-value store inside your own process: ordered byte keys, cut into partitions, each replicated by Raft, on RocksDB.
//! One node alone needs no set-up; three processes that embed it are one store that survives the loss of any one of them.
//!
//! ```
//! use futures::TryStreamExt;
//! use kontiki::{ErrorKind, Node, ScanOptions, WriteBatch};
//!
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! let node = Node::builder(dir).partitions(4).start().await?;
//! let client = node.client();
//!
//! let first = client.put("user/7", "Anna").await?;
//! client.put("user/8", "Bo").await?;
//!
//! // All of it or nothing, and only if nobody else was faster.
//! let rename = WriteBatch::new().if_version("user/7", first).put("user/7", "Anne");
//! client.write(rename.clone()).await?;
//! let error = client.write(rename).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::ConditionFailed);
//!
//! // One version of all partitions, whatever is written meanwhile.
//! let users: Vec<_> = client.scan(ScanOptions::prefix("user/")).try_collect().await?;
//! let names: Vec<_> = users.iter().map(|row| row.value.as_ref()).collect();
//! assert_eq!(names, [b"Anne".as_slice(), b"Bo"]);
//!
//! node.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! A write that was acknowledged is on the disks of a majority, and is applied once however often it had to be sent. A read sees every
//! write that was acknowledged before it started, unless a weaker [`ReadLevel`] was asked for. What fails is an [`Error`] whose
//! [`ErrorKind`] says what to do; `Ambiguous`, "it may have been applied", is a kind of its own. Nothing ends the host process.
//!
//! To be one of three, give each node its `node_id`, `listen` and the same `members` (see [`NodeBuilder`]); to join a cluster that is there,
//! give it `listen` and `join`. A program that only talks to a
//! cluster uses the crate `kontiki-client` alone. This crate is a façade: it re-exports, and holds no code of its own.

pub use kontiki_client::{
    ChangesOptions, ChangesPage, Client, ClientOptions, Deletion, Dial, Endpoint, Io, NodeStatus, Page, PageStream,
    PartitionStatus, ScanOptions, ScanStream, Seen, TcpDial, WriteBatch,
};
pub use kontiki_server::{
    AdmissionOptions, HistoryOptions, LISTEN_ANYWHERE, LogOptions, LogRetention, Node, NodeBuilder, NodeOptions, RaftOptions,
    RocksOptions, SnapshotOptions, env, offline,
};
pub use kontiki_types::{
    Bytes, CallError, Change, ClusterId, Descriptor, Epoch, Error, ErrorKind, KeyRange, NamespaceId, NodeId, NodeInfo, NodeState,
    OpResult, PartitionId, PartitionMap, ReadLevel, Reject, Replica, ReplicaId, RequestId, Role, Row, SessionId, StoreId, Token,
    Version, WriteReply, key, limits,
};

/// The example of the project's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
