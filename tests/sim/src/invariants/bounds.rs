//! purged <= snapshot <= applied <= committed, on each replica: what the log has let go of is in a snapshot, what is in a snapshot was applied, and
//! what was applied had been committed.
//!
//! Source: Raft sections 5.3 and 7; here `kontiki-raft`'s compaction (`purged <= durable <= applied`).

use std::collections::{BTreeMap, VecDeque};

use kontiki_types::{NodeId, PartitionId};

use super::Invariant;
use crate::clock;
use crate::watch::Seen;

/// What Raft tells of commits may be older than what was applied by as long as its core waits for a disk that stands still.
const TOLD_WITHIN_US: u64 = 10_000_000;

/// Where a replica was in one life of its node.
type Life = (NodeId, u64, PartitionId);

/// What each replica had applied, and when.
#[derive(Default)]
pub(crate) struct Bounds {
    applied: BTreeMap<Life, VecDeque<(u64, u64)>>,
}

impl Invariant for Bounds {
    fn name(&self) -> &'static str {
        "purged <= snapshot <= applied <= committed"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        let now = clock::now_us();
        for (node, group) in seen.replicas().filter(|(_, group)| group.fault.is_none()) {
            let (purged, snapshot, applied, committed) =
                (group.purged_next, group.snapshot_next, group.applied_next, group.committed_next);
            let history = self.applied.entry((node.node, node.start, group.partition)).or_default();
            if history.back().is_none_or(|(_, last)| *last != applied) {
                history.push_back((now, applied));
            }
            let mut was_applied = 0;
            while let Some((at, then)) = history.front().copied()
                && at + TOLD_WITHIN_US < now
            {
                was_applied = then;
                history.pop_front();
            }
            // A restart knows what it has purged before it knows of a snapshot.
            let snapshot_known = snapshot > 0;
            if (snapshot_known && purged > snapshot) || purged > applied || snapshot > applied || was_applied > committed {
                return Err(format!(
                    "{} of {}: purged before {purged}, snapshot before {snapshot}, applied before {applied} and 10 s ago {was_applied}, committed \
                     before {committed}",
                    group.partition, node.node
                ));
            }
        }
        Ok(())
    }
}
