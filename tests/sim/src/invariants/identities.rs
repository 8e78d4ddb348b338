//! Identities are never used twice: a node id stands for one disk, a replica id for one replica on one node.
//!
//! Source: DESIGN section 8; why it matters: a replica that comes back empty under its old id may vote a second time in a term (Ongaro's thesis,
//! section 11.7.3).

use std::collections::BTreeMap;

use kontiki_types::{NodeId, PartitionId, ReplicaId, StoreId};

use super::Invariant;
use crate::watch::Seen;

/// Who was who.
#[derive(Default)]
pub(crate) struct Identities {
    stores: BTreeMap<NodeId, StoreId>,
    nodes: BTreeMap<StoreId, NodeId>,
    replicas: BTreeMap<(PartitionId, ReplicaId), NodeId>,
}

impl Invariant for Identities {
    fn name(&self) -> &'static str {
        "identities are used once"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(store) = node.store else { continue };
            let known = *self.stores.entry(node.node).or_insert(store);
            if known != store {
                return Err(format!("{} was store {known} and is store {store}", node.node));
            }
            let known = *self.nodes.entry(store).or_insert(node.node);
            if known != node.node {
                return Err(format!("store {store} was {known} and is {}", node.node));
            }
        }
        for (node, group) in seen.replicas() {
            let known = *self.replicas.entry((group.partition, group.replica)).or_insert(node.node);
            if known != node.node {
                let (partition, replica) = (group.partition, group.replica);
                return Err(format!("{replica} of {partition} was on {known} and is on {}", node.node));
            }
        }
        Ok(())
    }
}
