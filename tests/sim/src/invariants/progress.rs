//! Applied positions, versions and terms only grow while a process lives.
//!
//! Source: Raft section 5.1 (terms) and figure 2 (lastApplied "increases monotonically"); versions: DESIGN section 5.

use std::collections::BTreeMap;

use kontiki_types::{NodeId, PartitionId, ReplicaId};

use super::Invariant;
use crate::watch::Seen;

/// A replica in one life of its node.
type Life = (NodeId, u64, PartitionId, ReplicaId);

/// How far each replica was.
#[derive(Default)]
pub(crate) struct Progress {
    known: BTreeMap<Life, (u64, u64, u64)>,
}

impl Invariant for Progress {
    fn name(&self) -> &'static str {
        "positions, versions and terms only grow"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for (node, group) in seen.replicas() {
            let now = (group.applied_next, group.clock.0, group.term);
            let key = (node.node, node.start, group.partition, group.replica);
            if let Some((applied, clock, term)) = self.known.insert(key, now)
                && (applied > now.0 || clock > now.1 || term > now.2)
            {
                return Err(format!(
                    "{} of {}: next to apply {applied}, clock {clock}, term {term}; and then {}, {}, {}",
                    group.partition, node.node, now.0, now.1, now.2
                ));
            }
        }
        Ok(())
    }
}
