//! What a replica is on disk and how a command changes it; synchronous and deterministic.
//!
//! ```text
//!   machine ─ sessions ─ system      a log entry becomes records, replies, effects; reads at a version
//!   mvcc ─ schema                    versions of keys; every key on disk
//!   engine (RocksDB | memory)        an ordered map with atomic batches and a flush barrier
//!   log ─ disk                       one raft log for all groups of a node, in recycled segments; the files under it
//! ```
//!
//! **Invariant:** no tokio, clock, randomness, thread or network in this crate (DESIGN laws 1 and 3).

pub mod disk;
pub mod engine;
pub mod log;
pub mod machine;
pub mod mvcc;
pub mod schema;
pub mod sessions;
pub mod system;
