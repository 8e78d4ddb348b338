//! What was applied anywhere, and so may have been acknowledged, is in the durable storage of a majority of its group's voters: a power cut of all
//! machines now would not lose it.
//!
//! Source: DESIGN law 6 ("acknowledged means fsynced on a majority"); Raft section 5.2 of the thesis on persisted state.

use std::collections::BTreeMap;
use std::sync::Arc;

use kontiki_storage::log::Log;
use kontiki_types::{PartitionId, StoreId};

use super::Invariant;
use super::entries::{self, Mark};
use crate::watch::{NodeSeen, Seen};

/// It remembers nothing.
#[derive(Default)]
pub(crate) struct Durable;

/// A log as it would be found after a power cut.
struct Platter {
    log: Log,
    purged: BTreeMap<PartitionId, u64>,
}

impl Platter {
    fn of(node: &NodeSeen, store: StoreId) -> Result<Self, String> {
        let (log, found) = Log::open(Arc::new(node.disk.survivors()), store, node.log_options.clone())
            .map_err(|fault| format!("after a power cut now {} could not open its log: {fault}", node.node))?;
        let purged = found.groups.iter().filter_map(|(group, found)| Some((*group, found.purged.as_ref()?.0)));
        Ok(Self { purged: purged.collect(), log })
    }

    fn holds(&self, partition: PartitionId, index: u64, mark: Mark) -> bool {
        self.purged.get(&partition).is_some_and(|upto| *upto >= index)
            || entries::read(&self.log.reader(), partition, index, index + 1).iter().any(|(_, found)| *found == mark)
    }
}

impl Invariant for Durable {
    fn name(&self) -> &'static str {
        "what is acknowledged is durable on a majority"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        let mut platters = BTreeMap::new();
        for node in &seen.nodes {
            let Some(store) = node.store else { continue };
            platters.insert(node.node, Platter::of(node, store)?);
        }
        for partition in seen.partitions() {
            let replicas = || seen.replicas().filter(|(_, group)| group.partition == partition);
            // Who has applied most has it from the newest leader, or is it.
            let Some((node, group)) = replicas().max_by_key(|(_, group)| group.applied_next) else { continue };
            let (Some(log), Some(index)) = (&node.log, group.applied_next.checked_sub(1)) else { continue };
            if entries::came_by_snapshot(&node.engine, partition, index) {
                continue;
            }
            let Some((_, mark)) = entries::read(log, partition, index, index + 1).first().copied() else { continue };
            let holders = group
                .voters
                .iter()
                .filter(|voter| platters.get(voter).is_some_and(|platter| platter.holds(partition, index, mark)));
            let (holders, voters) = (holders.count(), group.voters.len());
            // While members change there are two majorities, and which voter counts for which is not told here.
            if voters > node.replicas_max {
                continue;
            }
            if holders * 2 <= voters {
                return Err(format!(
                    "{} has applied entry {index} of {partition}, which is durable on {holders} of its {voters} voters",
                    node.node
                ));
            }
        }
        Ok(())
    }
}
