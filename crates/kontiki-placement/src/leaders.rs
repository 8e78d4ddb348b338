//! Spreading leaders: every node that is alive leads about as many partitions as the others, because leading costs CPU (proposals,
//! replication, reads) that following does not. Where two spreads are equally even, the first voter of the descriptor leads:
//! that is what the cluster was laid out for, and it makes the outcome predictable.
//!
//! Stability is by cost, not by timers. The cost of a view is the pair (sum of squared leader counts, partitions that are not led
//! by their first voter), compared in that order. Moving a leadership from a node with `x` to a node with `y` changes the first
//! part by `2 (y - x + 1)`: it falls if `x >= y + 2` and stays if `x == y + 1`. Only steps that lower the cost are ever made.

use kontiki_types::{Descriptor, NodeId};

use crate::{Step, View};

/// How good a step is: larger is better, compared field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gain {
    /// How much more evenly leaders are spread: `x - y - 1`, at least 0.
    evenness: usize,
    /// 1 if the step brings a partition home to its first voter, -1 if it takes it away from there, else 0.
    home: i8,
}

/// The best step that lowers the cost; of equals the one with the lowest partition, then the replica listed first.
pub(crate) fn spread(view: &View) -> Option<Step> {
    let counts = view.leads();
    let mut best: Option<(Gain, Step)> = None;
    for descriptor in by_id(view) {
        let Some((from, leads_from)) = view.leaders.get(&descriptor.id).and_then(|from| counts.get_key_value(from)) else {
            continue;
        };
        for replica in descriptor.replicas.iter().filter(|replica| replica.votes() && replica.node != *from) {
            let to = replica.node;
            if !view.may_lead(descriptor.id, to) {
                continue;
            }
            let Some(evenness) = leads_from.checked_sub(counts.get(&to).copied().unwrap_or(0) + 1) else { continue };
            let gain = Gain { evenness, home: homeward(descriptor, *from, to) };
            let lowers_cost = evenness > 0 || gain.home > 0;
            if lowers_cost && best.is_none_or(|(known, _)| gain > known) {
                best = Some((gain, Step::TransferLeader { partition: descriptor.id, from: *from, to }));
            }
        }
    }
    best.map(|(_, step)| step)
}

/// The partitions by id, so that the choice among equals does not depend on where their ranges lie.
fn by_id(view: &View) -> Vec<&Descriptor> {
    let mut descriptors: Vec<_> = view.map.partitions.iter().collect();
    descriptors.sort_by_key(|descriptor| descriptor.id);
    descriptors
}

fn homeward(descriptor: &Descriptor, from: NodeId, to: NodeId) -> i8 {
    let home = descriptor.replicas.iter().find(|replica| replica.votes()).map(|replica| replica.node);
    i8::from(home == Some(to)) - i8::from(home == Some(from))
}
