//! The client of Kontiki.

mod batch;
mod breaker;
mod client;
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
pub use client::{Client, Deletion, Seen};
pub use dial::{Dial, Io, TcpDial};
pub use endpoint::{Answer, Endpoint};
pub use options::ClientOptions;
pub use remote::Remote;
pub use scan::{Page, PageStream, ScanOptions, ScanStream};
pub use status::{NodeStatus, PartitionStatus};

#[cfg(test)]
mod tests;
