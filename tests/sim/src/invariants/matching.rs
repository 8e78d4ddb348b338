//! If two logs hold an entry with the same index and leader, they are equal up to there.
//!
//! Source: Raft's Log Matching property (section 5.3 and figure 3), with openraft's leader ids (term and replica) in place of terms. By induction it is
//! enough that such entries are equal, and so are the leaders of the entries before them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kontiki_types::{NodeId, PartitionId};

use super::Invariant;
use super::entries::{self, LeaderId, Mark};
use crate::watch::Seen;

/// How far back is looked once more when a log was cut off and has grown again.
const LOOK_BACK: u64 = 64;

/// A replica's log in one life of its node.
type Life = (NodeId, u64, PartitionId);

/// An entry: its hash, the leader of the one before it if that was seen, and who has it.
type Known = (u64, Option<LeaderId>, NodeId);

/// Every entry that was seen anywhere.
#[derive(Default)]
pub(crate) struct LogMatching {
    known: BTreeMap<(PartitionId, u64, LeaderId), Known>,
    /// The last entry of each log that was looked at.
    looked: BTreeMap<Life, (u64, Mark)>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for (node, group) in seen.replicas() {
            let Some(log) = &node.log else { continue };
            let partition = group.partition;
            let life = (node.node, node.start, partition);
            let Some(last) = log.last_index(partition) else { continue };
            let from = match self.looked.get(&life) {
                Some((index, _)) if *index == last => continue,
                Some((index, mark)) => {
                    let unchanged = entries::read(log, partition, *index, *index + 1).first().is_some_and(|(_, now)| now == mark);
                    if unchanged { *index } else { index.saturating_sub(LOOK_BACK) }
                }
                None => 0,
            };
            let mut before: Option<(u64, Mark)> = None;
            for (index, mark) in entries::read(log, partition, from, u64::MAX) {
                let previous = before.filter(|(at, _)| at + 1 == index).map(|(_, mark)| mark.leader);
                self.compare(partition, (index, mark, previous), node.node)?;
                before = Some((index, mark));
            }
            self.looked.extend(before.map(|last| (life, last)));
        }
        Ok(())
    }
}

impl LogMatching {
    fn compare(&mut self, partition: PartitionId, entry: (u64, Mark, Option<LeaderId>), node: NodeId) -> Result<(), String> {
        let (index, mark, previous) = entry;
        let known = match self.known.entry((partition, index, mark.leader)) {
            Entry::Vacant(new) => {
                new.insert((mark.hash, previous, node));
                return Ok(());
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        let differs = known.0 != mark.hash || (previous.is_some() && known.1.is_some() && known.1 != previous);
        if differs {
            let leader = mark.leader;
            return Err(format!(
                "entry {index} of leader {leader:?} of {partition} is not the same on {} and on {node}",
                known.2
            ));
        }
        known.1 = known.1.or(previous);
        Ok(())
    }
}
