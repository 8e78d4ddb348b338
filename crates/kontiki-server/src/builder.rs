//! The embedding application's way to a node: options one by one, in words, each with a default that suits a node alone.

use std::path::PathBuf;
use std::time::Duration;

use kontiki_raft::RaftOptions;
use kontiki_storage::engine::RocksOptions;
use kontiki_types::{Bytes, Error, NodeId};

use crate::node::Node;
use crate::options::NodeOptions;

impl Node {
    /// Begins a node that keeps its data in `data_dir`. With nothing else said it is alone, serves this process, and listens on a free
    /// loopback port.
    pub fn builder(data_dir: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder { options: NodeOptions { data_dir: data_dir.into(), ..NodeOptions::default() } }
    }
}

/// Settings of a node to be started. What each means is said at the field of [`NodeOptions`] with its name.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    options: NodeOptions,
}

impl NodeBuilder {
    /// This node's number in its cluster, from 1.
    pub fn node_id(mut self, id: impl Into<NodeId>) -> Self {
        self.options.node_id = id.into();
        self
    }

    /// A word for the cluster; the same on all members.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.options.cluster_name = name.into();
        self
    }

    /// Where to serve gRPC, `host:port`.
    pub fn listen(mut self, addr: impl Into<String>) -> Self {
        self.options.listen = addr.into();
        self
    }

    /// The address that others reach this node at, if it is another.
    pub fn advertise(mut self, addr: impl Into<String>) -> Self {
        self.options.advertise = Some(addr.into());
        self
    }

    /// Where to serve `/metrics`, `/livez` and `/readyz`, `host:port`.
    pub fn http(mut self, addr: impl Into<String>) -> Self {
        self.options.http_listen = Some(addr.into());
        self
    }

    /// The members that the cluster is created with, this node included; the same list on all of them.
    pub fn members<I: Into<NodeId>, A: Into<String>>(mut self, members: impl IntoIterator<Item = (I, A)>) -> Self {
        self.options.members = members.into_iter().map(|(id, addr)| (id.into(), addr.into())).collect();
        self
    }

    /// Nodes of a cluster that is there already (`host:port`): a node with a new directory joins it.
    pub fn join(mut self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.join = addrs.into_iter().map(Into::into).collect();
        self
    }

    /// Where the node stands, such as a rack: replicas of a partition are put in different zones where that can be.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.options.zone = zone.into();
        self
    }

    /// How many replicas each partition has, as soon as there are nodes for them. Settled when the cluster is created.
    pub fn replicas(mut self, count: u32) -> Self {
        self.options.replicas = count;
        self
    }

    /// How long a node may be silent before what it held is rebuilt on other nodes.
    pub fn dead_after(mut self, silence: Duration) -> Self {
        self.options.dead_after = silence;
        self
    }

    /// How long a version can be read after a newer one took its place; the same on all members.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.options.history.retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// How many partitions the keys are cut into, evenly, when the cluster is created.
    pub fn partitions(mut self, count: u32) -> Self {
        self.options.partitions = count;
        self
    }

    /// The keys at which partitions are cut instead.
    pub fn boundaries(mut self, keys: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        self.options.boundaries = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Raft timers; the same on all members.
    pub fn raft(mut self, raft: RaftOptions) -> Self {
        self.options.raft = raft;
        self
    }

    /// How much memory and how many threads the storage engine takes.
    pub fn engine(mut self, engine: RocksOptions) -> Self {
        self.options.engine = engine;
        self
    }

    /// The options so far, for what has no method here.
    pub fn options(&mut self) -> &mut NodeOptions {
        &mut self.options
    }

    /// Starts the node. See [`Node::start`].
    pub async fn start(self) -> Result<Node, Error> {
        Node::start(self.options).await
    }
}
