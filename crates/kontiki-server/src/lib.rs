//! One running node: everything below is wired together here, and nothing is decided here that a lower layer could decide.
//!
//! ```text
//!            gRPC (grpc, services)          HTTP (http)          embedded Client
//!                    │ route: none ─> Client ──────┐                   │
//!                    │ route: some                 v                   v
//!                    └──────────────────────────> Local <──────────────┘
//!                                                   │ admission, limits, epoch
//!      transport (to peers) <── kontiki-raft Groups <┘
//!                                   │ effect MapChanged
//!      loops:  bootstrap (the first map) ─ reconcile (hold what the map says) ─ hearsay (what others know)
//!              placement (what should move) ─ membership (how a group gets there)
//!      below:  env (the seams) ─ identity, starts, joining (whose directory this is) ─ options (checked once)
//! ```
//!
//! **Invariant:** only `env` touches the standard library's clock, threads, files and network.
//! **Invariant:** the host process is never ended, and no error is swallowed that a caller could act on.

mod admission;
mod bootstrap;
mod builder;
mod connection;
pub mod env;
mod grpc;
mod hearsay;
mod http;
mod identity;
mod joining;
mod local;
mod map;
mod membership;
mod metrics;
mod node;
pub mod offline;
mod options;
mod placement;
mod reconcile;
mod round_trips;
mod running;
mod services;
mod shape;
mod slowness;
mod small_file;
mod starts;
mod transport;

pub use bootstrap::ClusterRecord;
pub use builder::NodeBuilder;
pub use identity::{IDENTITY_FILE, Identity, cluster_id};
pub use node::Node;
pub use options::{AdmissionOptions, LISTEN_ANYWHERE, NodeOptions};

pub use kontiki_raft::{HistoryOptions, LogRetention, RaftOptions, SnapshotOptions};
pub use kontiki_storage::engine::RocksOptions;
pub use kontiki_storage::log::LogOptions;
