//! This node's copy of the map: what reconcile last read from its replica of the system partition, and, until there is one, the
//! addresses of the members that the cluster is created with. A hint like every copy: who uses it is told when it is wrong.

use std::sync::Arc;

use kontiki_types::{NodeId, PartitionMap, StoreId};
use tokio::sync::watch;

/// The copy. Shared by everything in the node that must find a partition or a node.
pub(crate) struct MapCopy {
    /// Where the members were when the cluster was created.
    members: Vec<(NodeId, String)>,
    current: watch::Sender<Arc<PartitionMap>>,
}

impl MapCopy {
    /// An empty map, and the members to begin with.
    pub(crate) fn new(members: Vec<(NodeId, String)>) -> Self {
        Self { members, current: watch::Sender::new(Arc::default()) }
    }

    /// The map; empty until the cluster has been created and this node has heard of it.
    pub(crate) fn current(&self) -> Arc<PartitionMap> {
        self.current.borrow().clone()
    }

    /// Follows the map.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<PartitionMap>> {
        self.current.subscribe()
    }

    /// Takes a newer map. Returns whether it differs from the former one.
    pub(crate) fn publish(&self, map: PartitionMap) -> bool {
        self.current.send_if_modified(|current| {
            let differs = **current != map;
            if differs {
                *current = Arc::new(map);
            }
            differs
        })
    }

    /// Where a node is reached.
    pub(crate) fn addr(&self, node: NodeId) -> Option<String> {
        let current = self.current.borrow();
        let known = current.node(node).map(|info| info.addr.clone());
        known.or_else(|| self.members.iter().find(|(id, _)| *id == node).map(|(_, addr)| addr.clone()))
    }

    /// The store that a node has registered; all zero if that is not known.
    pub(crate) fn store(&self, node: NodeId) -> StoreId {
        self.current.borrow().node(node).and_then(|info| info.store).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::NodeInfo;

    use super::*;

    #[test]
    fn a_registered_node_outranks_the_member_list_and_the_same_map_is_no_news() {
        let copy = MapCopy::new(vec![(NodeId(1), "a:1".into()), (NodeId(2), "b:1".into())]);
        assert_eq!((copy.addr(NodeId(1)).as_deref(), copy.store(NodeId(1))), (Some("a:1"), StoreId::default()));
        let moved = NodeInfo { id: NodeId(1), store: Some(StoreId([7; 16])), addr: "c:1".into(), ..NodeInfo::default() };
        let map = PartitionMap::new(vec![], vec![moved]);
        assert!(copy.publish(map.clone()) && !copy.publish(map));
        assert_eq!((copy.addr(NodeId(1)).as_deref(), copy.store(NodeId(1))), (Some("c:1"), StoreId([7; 16])));
        assert_eq!((copy.addr(NodeId(2)).as_deref(), copy.addr(NodeId(3))), (Some("b:1"), None));
    }
}
