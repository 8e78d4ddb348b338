//! What was applied anywhere is what every log holds there that has applied as far, for ever.
//!
//! Source: Raft's Leader Completeness and State Machine Safety (section 5.4 and figure 3).

use std::collections::BTreeMap;

use kontiki_types::{NodeId, PartitionId};

use super::Invariant;
use super::entries::{self, Mark};
use crate::watch::Seen;

/// A replica's log in one life of its node.
type Life = (NodeId, u64, PartitionId);

/// What was committed.
#[derive(Default)]
pub(crate) struct Committed {
    known: BTreeMap<(PartitionId, u64), (Mark, NodeId)>,
    /// The next entry to look at in each log.
    next: BTreeMap<Life, u64>,
}

impl Invariant for Committed {
    fn name(&self) -> &'static str {
        "what is committed never changes"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for (node, group) in seen.replicas() {
            let Some(log) = &node.log else { continue };
            let partition = group.partition;
            // A new life looks at all of its log again.
            let next = self.next.entry((node.node, node.start, partition)).or_insert(0);
            if *next >= group.applied_next {
                continue;
            }
            for (index, mark) in entries::read(log, partition, *next, group.applied_next) {
                let known = self.known.get(&(partition, index)).copied();
                if known.is_none_or(|(known, _)| known != mark) && entries::came_by_snapshot(&node.engine, partition, index) {
                    *next = index + 1;
                    continue;
                }
                let (known, first) = *self.known.entry((partition, index)).or_insert((mark, node.node));
                if known != mark {
                    return Err(format!(
                        "entry {index} of {partition}: {first} has applied one of leader {:?}, {} another of leader {:?}",
                        known.leader, node.node, mark.leader
                    ));
                }
                *next = index + 1;
            }
        }
        Ok(())
    }
}
