//! One node, as the router sees it. There is one seam with two implementations: [`crate::Remote`] here (gRPC), and the node's own in
//! `kontiki-server` (function calls). Everything else in this crate is written against this trait, and so is the in-memory cluster
//! of the tests.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_types::command::Route;
use kontiki_types::{
    CallError, ClusterId, NodeId, PartitionId, PartitionMap, Read, ReadLevel, ReadReply, SessionId, Version, Write, WriteReply,
};

use crate::cluster_change::{ClusterChange, Joined};
use crate::status::NodeStatus;

/// What an endpoint gives back: an owned future, so that it can outlive the borrow and be sent between tasks.
pub type Answer<T> = BoxFuture<'static, Result<T, CallError>>;

/// One node.
///
/// Contract of every method:
/// - It answers for *this* node and never forwards: `Retry::NotLeader` (with a hint), `Retry::UnknownPartition` or
///   `Reject::StaleEpoch` tell the router where to go.
/// - It ends within `timeout`, with an error if need be. For a write that error is `Ambiguous` unless it is proven that the write is
///   not and will not be applied.
/// - Dropping the future stops the waiting, not the request: what was sent may still be applied.
/// - Keys are internal keys.
pub trait Endpoint: Send + Sync + 'static {
    /// Applies one atomic write. `write.epoch` equals `route.epoch`.
    fn write(&self, route: Route, write: Write<Bytes>, timeout: Duration) -> Answer<WriteReply>;

    /// Opens a session at the partition. Repeating it only opens one more.
    fn open_session(&self, route: Route, timeout: Duration) -> Answer<SessionId>;

    /// Reads from this node's replica at a level. It may wait within `timeout` until the level can be served.
    fn read(&self, route: Route, level: ReadLevel, read: Read, timeout: Duration) -> Answer<ReadReply>;

    /// Moves the partition's clock to at least `to` (leader only); returns the clock.
    fn advance_clock(&self, route: Route, to: Version, timeout: Duration) -> Answer<Version>;

    /// The map as this node knows it. Empty while the cluster is being created.
    fn map(&self, timeout: Duration) -> Answer<PartitionMap>;

    /// How the node does.
    fn status(&self, timeout: Duration) -> Answer<NodeStatus>;

    /// Moves the leadership of a partition to another node (leader only).
    fn transfer_leader(&self, partition: PartitionId, to: NodeId, timeout: Duration) -> Answer<()>;

    /// Changes the cluster's shape, if this node leads the partition that decides. The answer is there for a join.
    fn change_cluster(&self, change: ClusterChange, timeout: Duration) -> Answer<Option<Joined>> {
        let _ = (change, timeout);
        Box::pin(std::future::ready(Err(CallError::unavailable("this node cannot change the cluster"))))
    }

    /// The cluster that it belongs to, as far as that is known without asking.
    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    /// Whether it is worth a try now. A remote node whose circuit breaker is open says no, and the router asks others first.
    fn is_reachable(&self) -> bool {
        true
    }
}
