//! This node's copy of the map: what reconcile last read from its replica of the system partition, and, until there is one, the
//! addresses of the members that the cluster is created with. A hint like every copy: who uses it is told when it is wrong.

use std::sync::Arc;

use kontiki_raft::{Member, Members, Suspicion};
use kontiki_types::{NodeId, NodeInfo, PartitionMap};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The copy. Shared by everything in the node that must find a partition or a node.
pub(crate) struct MapCopy {
    /// Counts reasons to ask the other members what they know.
    suspicions: watch::Sender<u64>,
    /// The last of them, for the program's log.
    suspected: Mutex<Option<Suspicion>>,
    /// Where the members were when the cluster was created.
    members: Vec<(NodeId, String)>,
    current: watch::Sender<Arc<PartitionMap>>,
    /// What other members have told.
    heard: watch::Sender<Arc<PartitionMap>>,
}

/// Takes what is newer in `other`: descriptors by their epoch, nodes by their start and by how far they are on the way out.
pub(crate) fn merge(map: &mut PartitionMap, other: &PartitionMap) {
    map.learn(&other.partitions);
    for node in &other.nodes {
        match map.nodes.binary_search_by_key(&node.id, |known| known.id) {
            Ok(at) => {
                let known = &mut map.nodes[at];
                let newer = (node.state, node.incarnation.starts) > (known.state, known.incarnation.starts);
                if newer && node.state >= known.state && node.incarnation.starts >= known.incarnation.starts {
                    *known = node.clone();
                }
            }
            Err(at) => map.nodes.insert(at, node.clone()),
        }
    }
}

impl MapCopy {
    /// An empty map, and the members to begin with.
    pub(crate) fn new(members: Vec<(NodeId, String)>) -> Self {
        Self {
            suspicions: watch::Sender::new(0),
            suspected: Mutex::default(),
            members,
            current: watch::Sender::new(Arc::default()),
            heard: watch::Sender::new(Arc::default()),
        }
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

    /// Takes what another member has told, as far as it is news.
    pub(crate) fn hear(&self, told: &PartitionMap) {
        self.heard.send_if_modified(|heard| {
            let mut newer = PartitionMap::clone(heard);
            merge(&mut newer, told);
            let differs = **heard != newer;
            *heard = Arc::new(newer);
            differs
        });
    }

    /// Follows what other members have told.
    pub(crate) fn hearsay(&self) -> watch::Receiver<Arc<PartitionMap>> {
        self.heard.subscribe()
    }

    /// Where a node is reached.
    pub(crate) fn addr(&self, node: NodeId) -> Option<String> {
        let current = self.current.borrow();
        let known = current.node(node).map(|info| info.addr.clone());
        known.or_else(|| self.members.iter().find(|(id, _)| *id == node).map(|(_, addr)| addr.clone()))
    }

    /// Where the other nodes are reached, as far as is known.
    pub(crate) fn others(&self, own: NodeId) -> Vec<String> {
        let current = self.current.borrow().clone();
        let known = current.nodes.iter().filter(|info| info.state.is_member()).map(|info| (info.id, info.addr.clone()));
        let members = self.members.iter().filter(|(id, _)| current.node(*id).is_none()).cloned();
        known.chain(members).filter(|(id, _)| *id != own).map(|(_, addr)| addr).collect()
    }

    /// Follows the reasons to ask other members for their map: that this node is not who the cluster takes it for, or that a replica is
    /// expected here which it does not hold. Anybody can send a message, so a reason is all that it is.
    pub(crate) fn suspicions(&self) -> watch::Receiver<u64> {
        self.suspicions.subscribe()
    }
}

impl Members for MapCopy {
    fn member(&self, node: NodeId) -> Option<Member> {
        let current = self.current.borrow();
        let NodeInfo { store, incarnation, state, .. } = current.node(node)?;
        Some(Member { store: *store, incarnation: *incarnation, state: *state })
    }

    fn suspect(&self, suspicion: Suspicion) {
        let mut suspected = self.suspected.lock();
        if suspected.as_ref() != Some(&suspicion) {
            match &suspicion {
                Suspicion::Misfit { by, why } => {
                    tracing::warn!(%by, why, "a node takes this one for another; the others are asked")
                }
                Suspicion::UnknownReplica { partition } => {
                    tracing::debug!(%partition, "messages arrive for a replica that is not here; the others are asked");
                }
            }
            *suspected = Some(suspicion);
        }
        self.suspicions.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::StoreId;

    use super::*;

    #[test]
    fn a_registered_node_outranks_the_member_list_and_the_same_map_is_no_news() {
        let copy = MapCopy::new(vec![(NodeId(1), "a:1".into()), (NodeId(2), "b:1".into())]);
        assert_eq!((copy.addr(NodeId(1)).as_deref(), copy.member(NodeId(1))), (Some("a:1"), None));
        let moved = NodeInfo { id: NodeId(1), store: Some(StoreId([7; 16])), addr: "c:1".into(), ..NodeInfo::default() };
        let map = PartitionMap::new(vec![], vec![moved]);
        assert!(copy.publish(map.clone()) && !copy.publish(map));
        assert_eq!(
            (copy.addr(NodeId(1)).as_deref(), copy.member(NodeId(1)).and_then(|member| member.store)),
            (Some("c:1"), Some(StoreId([7; 16])))
        );
        assert_eq!((copy.addr(NodeId(2)).as_deref(), copy.addr(NodeId(3))), (Some("b:1"), None));
    }
}
