//! A leader id is used once: whoever leads under a term and a replica id does so in one life of its process.
//!
//! Source: Raft's Election Safety (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014, section 5.2 and figure 3).
//! openraft's leader ids are a term and a replica, ordered in that way, and a vote may go on to a greater one of the same term; so two may lead in one
//! term, one after the other. What must not be is that a leader which died leads again under the same id: what it had acknowledged may lie
//! in the logs of others and not in its own.

use std::collections::BTreeMap;

use kontiki_types::{NodeId, PartitionId, ReplicaId};

use super::Invariant;
use crate::watch::Seen;

/// Who has led each group under each id, and in which life.
#[derive(Default)]
pub(crate) struct OneLeader {
    led: BTreeMap<(PartitionId, u64, ReplicaId), (NodeId, u64)>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one life for each leader id"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for (node, group) in seen.replicas().filter(|(_, group)| group.leads) {
            let this = (node.node, node.start);
            let (partition, term, replica) = (group.partition, group.term, group.replica);
            let known = *self.led.entry((partition, term, replica)).or_insert(this);
            if known != this {
                return Err(format!(
                    "replica {replica} has led {partition} in term {term} on {} in its start {}, and again on {} in its start {}",
                    known.0, known.1, this.0, this.1
                ));
            }
        }
        Ok(())
    }
}
