//! The nodes that this client can talk to: the local one by function calls, the others by address, each connected when first needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kontiki_types::{ClusterId, NodeId, PartitionMap};
use parking_lot::Mutex;

use crate::endpoint::Endpoint;

/// Makes an endpoint for an address. Does not wait: connections are made by the first call.
pub(crate) type Connect = Box<dyn Fn(&str) -> Arc<dyn Endpoint> + Send + Sync>;

/// The endpoints of one client.
pub(crate) struct Peers {
    local: Option<(NodeId, Arc<dyn Endpoint>)>,
    /// Addresses given by the caller: asked for the map while nothing else is known, or nothing else answers.
    seeds: Vec<String>,
    connect: Connect,
    by_addr: Mutex<BTreeMap<String, Arc<dyn Endpoint>>>,
}

impl Peers {
    pub(crate) fn new(local: Option<(NodeId, Arc<dyn Endpoint>)>, seeds: Vec<String>, connect: Connect) -> Self {
        Self { local, seeds, connect, by_addr: Mutex::default() }
    }

    /// The node inside this process, if there is one.
    pub(crate) fn local(&self) -> Option<NodeId> {
        self.local.as_ref().map(|(node, _)| *node)
    }

    /// The endpoint of a node; `None` if the map does not know its address.
    pub(crate) fn node(&self, map: &PartitionMap, node: NodeId) -> Option<Arc<dyn Endpoint>> {
        match &self.local {
            Some((local, endpoint)) if *local == node => Some(Arc::clone(endpoint)),
            _ => map.node(node).map(|info| self.at(&info.addr)),
        }
    }

    /// The cluster, once somebody has said which one it is.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        match &self.local {
            Some((_, endpoint)) => endpoint.cluster(),
            None => self.by_addr.lock().values().find_map(|endpoint| endpoint.cluster()),
        }
    }

    fn at(&self, addr: &str) -> Arc<dyn Endpoint> {
        let mut by_addr = self.by_addr.lock();
        if let Some(endpoint) = by_addr.get(addr) {
            return Arc::clone(endpoint);
        }
        let endpoint = (self.connect)(addr);
        by_addr.insert(addr.to_owned(), Arc::clone(&endpoint));
        endpoint
    }

    /// Everyone who may know the map: the local node, the nodes of the present map, the seeds.
    pub(crate) fn everyone(&self, map: &PartitionMap) -> Vec<Arc<dyn Endpoint>> {
        let local = self.local.iter().map(|(_, endpoint)| Arc::clone(endpoint));
        let local_addr = self.local().and_then(|node| map.node(node)).map(|info| &info.addr);
        let mut seen = BTreeSet::new();
        let addrs = map.nodes.iter().map(|info| &info.addr).chain(&self.seeds);
        let remote = addrs.filter(|addr| Some(*addr) != local_addr && seen.insert(*addr)).map(|addr| self.at(addr));
        local.chain(remote).collect()
    }

    /// Closes connections to addresses that nobody has any more.
    pub(crate) fn keep_only(&self, map: &PartitionMap) {
        let known = |addr: &String| self.seeds.contains(addr) || map.nodes.iter().any(|node| node.addr == *addr);
        self.by_addr.lock().retain(|addr, _| known(addr));
    }
}
