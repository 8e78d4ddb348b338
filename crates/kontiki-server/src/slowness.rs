//! Which nodes have a disk so slow that they should lead nothing: far slower than the others, and slow for a person too. A node that was
//! judged slow must become clearly faster before it is not: leaders must not go to and fro.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::NodeId;

/// Nobody is slow below this, in us: a hand-over would disturb more than such an fsync does.
const FLOOR_US: u64 = 20_000;
/// A node becomes slow at this many times the median of the others...
const TIMES: u64 = 5;
/// ...and is slow no more below this many times.
const TIMES_AGAIN: u64 = 2;

/// The nodes that were slow at the last look.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    slow: BTreeSet<NodeId>,
}

impl Slowness {
    /// Judges by the fsync latencies, in us; 0: nothing is known. Who does not answer is not judged, and keeps its judgement.
    pub(crate) fn judge(&mut self, latencies: BTreeMap<NodeId, u64>) -> BTreeSet<NodeId> {
        for (node, latency) in latencies.iter().filter(|(_, latency)| **latency > 0) {
            let mut others: Vec<u64> =
                latencies.iter().filter(|(other, known)| *other != node && **known > 0).map(|(_, known)| *known).collect();
            others.sort_unstable();
            let Some(median) = others.get(others.len().saturating_sub(1) / 2) else { continue };
            let (times, floor) = if self.slow.contains(node) { (TIMES_AGAIN, FLOOR_US / 2) } else { (TIMES, FLOOR_US) };
            if *latency > floor && *latency > median * times {
                self.slow.insert(*node);
            } else {
                self.slow.remove(node);
            }
        }
        self.slow.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(slowness: &mut Slowness, latencies: [u64; 3]) -> Vec<u64> {
        let latencies = (1..).map(NodeId).zip(latencies).collect();
        slowness.judge(latencies).into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn slow_is_far_slower_than_the_others_and_slow_for_a_person() {
        let mut slowness = Slowness::default();
        assert!(judge(&mut slowness, [1000, 1200, 15_000]).is_empty(), "15 ms is nothing to move leaders for");
        assert!(judge(&mut slowness, [30_000, 28_000, 90_000]).is_empty(), "all are slow");
        assert_eq!(judge(&mut slowness, [1000, 1200, 60_000]), [3]);
        assert_eq!(judge(&mut slowness, [1000, 1200, 12_000]), [3], "better, but not well");
        assert_eq!(judge(&mut slowness, [1000, 1200, 0]), [3], "it says nothing");
        assert!(judge(&mut slowness, [1000, 1200, 2000]).is_empty());
        assert!(Slowness::default().judge([(NodeId(1), 90_000)].into()).is_empty(), "alone, nobody is slower than others");
    }
}
