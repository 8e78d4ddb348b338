//! The client of Kontiki: the API that an application calls, for a cluster elsewhere and for the node in its own process.
//!
//! ```no_run
//! use futures::TryStreamExt;
//! use kontiki_client::{Client, ScanOptions, WriteBatch};
//!
//! # async fn example() -> Result<(), kontiki_types::Error> {
//! let client = Client::connect(["10.0.0.7:7601", "10.0.0.8:7601"]).await?;
//! client.put("user/7", "Anna").await?;
//! if let Some(row) = client.get("user/7").await? {
//!     // Only if nobody has changed it since: the classic read, decide, write.
//!     let rename = WriteBatch::new().if_version("user/7", row.version).put("user/7", "Anne").put("user/7/was", row.value);
//!     client.write(rename).await?;
//! }
//! let users: Vec<_> = client.scan(ScanOptions::prefix("user/").limit(100)).try_collect().await?;
//! # let _ = users;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Writes are applied exactly once.** Each carries a session and a number; a repeat gets the first answer. The session is opened at the
//!   first write to a partition and shared by all clones of the client.
//! - **An error says whether the write may have been applied.** `ErrorKind::Ambiguous`: it may. Every other kind: it was not.
//! - **Reads are linearizable** unless another [`kontiki_types::ReadLevel`] is asked for. Scans read one version over all partitions.
//! - **Every call ends** within [`ClientOptions::timeout`]. Inside it the client finds leaders, repairs its map and tries again, with growing
//!   and random pauses and a budget; a peer that cannot be reached is left alone by a circuit breaker.
//!
//! # How it is built
//!
//! ```text
//!   Client          user keys, public errors, token
//!     router        locate (map_cache) -> choose (leaders, replicas) -> send -> retry::decide -> again
//!       sessions    who asks, which request
//!       peers       one Endpoint per node
//!         Local     function calls, in kontiki-server       (Client::embedded)
//!         Remote    gRPC over a Dial, behind a breaker      (Client::connect)
//! ```
//!
//! **Invariants.** No clock but `tokio::time`; no randomness but one seeded generator; no socket but [`TcpDial`]'s. A number of a session
//! never stands for two contents. What is repeated was proven not applied, or carries a request id.

mod batch;
mod breaker;
mod changes;
mod client;
mod cluster_change;
mod dial;
mod endpoint;
mod map_cache;
mod options;
mod peers;
mod remote;
mod retry;
mod router;
mod scan;
mod session;
mod status;

pub use batch::WriteBatch;
pub use changes::{ChangesOptions, ChangesPage};
pub use client::{Client, Deletion, Seen};
pub use cluster_change::{ClusterChange, Join, Joined};
pub use dial::{Dial, Io, TcpDial};
pub use endpoint::{Answer, Endpoint};
pub use options::ClientOptions;
pub use remote::Remote;
pub use scan::{Page, PageStream, ScanOptions, ScanStream};
pub use status::{NodeStatus, PartitionStatus};

#[cfg(test)]
mod tests;
