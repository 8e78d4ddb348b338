//! Which nodes have a disk or a network so slow that they should lead nothing: far slower than the others, and slow for a person too. A node
//! that was judged slow must become clearly faster before it is not: leaders must not go to and fro.
//!
//! ```text
//!   fsync of each node's log ─────────────────────────── latency of a node ──┐
//!   round trips of each node to each other ── between() ── latency of a node ─┴─ far above the median of the others: slow
//! ```

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::NodeId;

/// Nobody is slow below this, in us: a hand-over would disturb more than such an fsync or round trip does.
const FLOOR_US: u64 = 20_000;
/// A node becomes slow at this many times the median of the others...
const TIMES: u64 = 5;
/// ...and is slow no more below this many times.
const TIMES_AGAIN: u64 = 2;

/// The nodes that were slow at the last look, and why.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    disk: Judgement,
    network: Judgement,
}

impl Slowness {
    /// Judges by the fsync latencies and by the round trips that each node has measured to each other, in us; 0: nothing is known. Who does
    /// not answer is not judged, and keeps its judgement.
    pub(crate) fn judge(
        &mut self,
        fsyncs: &BTreeMap<NodeId, u64>,
        round_trips: &BTreeMap<NodeId, BTreeMap<NodeId, u64>>,
    ) -> BTreeSet<NodeId> {
        self.disk.judge(fsyncs);
        self.network.judge(&between(round_trips));
        self.disk.slow.union(&self.network.slow).copied().collect()
    }
}

/// What lies between each node that was heard and the others: the median of its round trips. So one slow line between two nodes is no reason
/// to call either slow; one whose lines are all slow is. What two nodes say of the line between them may differ, when one of them is busy: the
/// longer counts.
fn between(round_trips: &BTreeMap<NodeId, BTreeMap<NodeId, u64>>) -> BTreeMap<NodeId, u64> {
    let says = |of: NodeId, to: NodeId| round_trips.get(&of).and_then(|told| told.get(&to)).copied().unwrap_or(0);
    let line = |one: NodeId, other: NodeId| says(one, other).max(says(other, one));
    let nodes: Vec<NodeId> = round_trips.keys().copied().collect();
    let of = |node: NodeId| {
        let others = nodes.iter().filter(|other| **other != node);
        median(others.map(|other| line(node, *other)).filter(|known| *known > 0).collect())
    };
    nodes.iter().filter_map(|node| Some((*node, of(*node)?))).collect()
}

/// The lower one of the two in the middle, if there are two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// The nodes that were slow at the last look, in one respect.
#[derive(Debug, Default)]
struct Judgement {
    slow: BTreeSet<NodeId>,
}

impl Judgement {
    fn judge(&mut self, latencies: &BTreeMap<NodeId, u64>) {
        for (node, latency) in latencies.iter().filter(|(_, latency)| **latency > 0) {
            let others = latencies.iter().filter(|(other, known)| *other != node && **known > 0);
            let Some(median) = median(others.map(|(_, known)| *known).collect()) else { continue };
            let (times, floor) = if self.slow.contains(node) { (TIMES_AGAIN, FLOOR_US / 2) } else { (TIMES, FLOOR_US) };
            if *latency > floor && *latency > median * times {
                self.slow.insert(*node);
            } else {
                self.slow.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(nodes: &BTreeSet<NodeId>) -> Vec<u64> {
        nodes.iter().map(|node| node.0).collect()
    }

    fn by_disk(slowness: &mut Slowness, latencies: [u64; 3]) -> Vec<u64> {
        let latencies = (1..).map(NodeId).zip(latencies).collect();
        ids(&slowness.judge(&latencies, &BTreeMap::new()))
    }

    /// Round trips from the lines of a table: a row for what each node says of the others, itself left at 0.
    fn by_network<const N: usize>(slowness: &mut Slowness, table: [[u64; N]; N]) -> Vec<u64> {
        let row = |row: [u64; N]| (1..).map(NodeId).zip(row).collect();
        let told = (1..).map(NodeId).zip(table.map(row)).collect();
        ids(&slowness.judge(&BTreeMap::new(), &told))
    }

    #[test]
    fn slow_is_far_slower_than_the_others_and_slow_for_a_person() {
        let mut slowness = Slowness::default();
        assert!(by_disk(&mut slowness, [1000, 1200, 15_000]).is_empty(), "15 ms is nothing to move leaders for");
        assert!(by_disk(&mut slowness, [30_000, 28_000, 90_000]).is_empty(), "all are slow");
        assert_eq!(by_disk(&mut slowness, [1000, 1200, 60_000]), [3]);
        assert_eq!(by_disk(&mut slowness, [1000, 1200, 12_000]), [3], "better, but not well");
        assert_eq!(by_disk(&mut slowness, [1000, 1200, 0]), [3], "it says nothing");
        assert!(by_disk(&mut slowness, [1000, 1200, 2000]).is_empty());
        let alone = [(NodeId(1), 90_000)].into();
        assert!(Slowness::default().judge(&alone, &BTreeMap::new()).is_empty(), "alone, nobody is slower than others");
    }

    #[test]
    fn a_node_behind_slow_lines_is_slow_and_those_at_their_other_ends_are_not() {
        let mut slowness = Slowness::default();
        let good = [[0, 300, 400], [300, 0, 500], [400, 500, 0]];
        assert!(by_network(&mut slowness, good).is_empty());
        assert_eq!(by_network(&mut slowness, [[0, 300, 50_000], [300, 0, 51_000], [50_000, 49_000, 0]]), [3]);
        assert_eq!(by_network(&mut slowness, [[0, 300, 400], [300, 0, 500], [50_000, 49_000, 0]]), [3], "its own word will do");
        assert_eq!(by_network(&mut slowness, [[0, 300, 50_000], [300, 0, 51_000], [0, 0, 0]]), [3], "and that of the others");
        assert!(by_network(&mut slowness, good).is_empty(), "well again");
        let one_line = [[0, 80_000, 400], [80_000, 0, 500], [400, 500, 0]];
        assert!(by_network(&mut slowness, one_line).is_empty(), "one line, and a way around it");
        let far_apart = [[0, 70_000, 80_000], [70_000, 0, 90_000], [80_000, 90_000, 0]];
        assert!(by_network(&mut slowness, far_apart).is_empty(), "all are far from each other");
        assert!(by_network(&mut slowness, [[0, 0], [0, 0]]).is_empty(), "nothing is known yet");
    }

    #[test]
    fn of_five_two_may_be_slow_and_either_reason_is_enough() {
        let mut slowness = Slowness::default();
        let mut table = [[300; 5]; 5];
        for slow in [3, 4] {
            table[slow] = [60_000; 5];
        }
        assert_eq!(by_network(&mut slowness, table), [4, 5]);
        let fsyncs = [(NodeId(1), 90_000), (NodeId(2), 900), (NodeId(3), 900)].into();
        assert_eq!(ids(&slowness.judge(&fsyncs, &BTreeMap::new())), [1, 4, 5], "who does not answer keeps its judgement");
    }
}
