//! The gRPC contract: the code generated from `proto/kontiki/v1`, and its conversions to the types.
//!
//! ```text
//!   wire (user keys, protobuf)  --- convert --->  types (internal keys)  ---> router, replicas
//!   tonic::Status with details  <--- error ---    CallError
//! ```
//!
//! On the wire keys are *user keys* of the default namespace; everything below works on internal keys. `convert` is the only
//! place where the prefix is added and taken away, and the only place where a request from outside is checked against the limits
//! before it is believed.
//!
//! **Invariant:** nothing here waits, connects or retries.

/// The metadata by which a caller says which cluster it means, and by which `Cluster.Partitions` says which one it is: a UUID.
pub const CLUSTER_METADATA: &str = "kontiki-cluster";

pub mod convert;
pub mod error;

/// The messages, clients and servers generated from `proto/kontiki/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; documented in the proto files")]
pub mod v1 {
    tonic::include_proto!("kontiki.v1");
}

/// The descriptors of every proto file, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kontiki.bin"));
