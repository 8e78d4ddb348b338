//! Who should lead: nobody on a node that is leaving or slow, and else every node that is alive about as many partitions as the others,
//! because leading costs CPU (proposals, replication, reads) that following does not. Where two spreads are equally even, the first
//! voter of the descriptor leads: that is what the cluster was laid out for, and it makes the outcome predictable.
//!
//! Stability is by cost, not by timers. The cost of a view is the triple (partitions led by nodes that should not, sum of squared leader
//! counts, partitions that are not led by their first voter), compared in that order. Moving a leadership from a node with `x` to a node
//! with `y` changes the second part by `2 (y - x + 1)`: it falls if `x >= y + 2` and stays if `x == y + 1`. Only steps that lower the cost
//! are ever made.

use std::collections::BTreeMap;

use kontiki_types::{Descriptor, NodeId, Role};

use crate::{Step, View};

/// How good a step is: larger is better, compared field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gain {
    /// How much more evenly leaders are spread: `x - y - 1`.
    evenness: isize,
    /// 1 if the step brings a partition home to its first voter, -1 if it takes it away from there, else 0.
    home: i8,
}

/// The best step that takes a leadership away from a node that should not lead.
pub(crate) fn escape(view: &View) -> Option<Step> {
    best(view, |from| !view.is_fit_to_lead(from), |_| true)
}

/// The best step that lowers the cost; of equals the one with the lowest partition, then the replica listed first.
pub(crate) fn spread(view: &View) -> Option<Step> {
    best(view, |from| view.is_fit_to_lead(from), |gain| gain.evenness > 0 || gain.evenness == 0 && gain.home > 0)
}

fn best(view: &View, concerns: impl Fn(NodeId) -> bool, lowers_cost: impl Fn(Gain) -> bool) -> Option<Step> {
    let counts = view.leads();
    let mut best: Option<(Gain, Step)> = None;
    for descriptor in view.by_id() {
        let Some((from, _)) = view.leaders.get(&descriptor.id).and_then(|from| counts.get_key_value(from)) else { continue };
        if !concerns(*from) {
            continue;
        }
        let voters = descriptor.replicas.iter().filter(|replica| replica.role == Role::Voter && replica.node != *from);
        for to in voters.map(|replica| replica.node).filter(|to| view.may_lead(descriptor.id, *to)) {
            let gain = Gain { evenness: leads(&counts, *from) - leads(&counts, to) - 1, home: homeward(descriptor, *from, to) };
            if lowers_cost(gain) && best.as_ref().is_none_or(|(known, _)| gain > *known) {
                best = Some((gain, Step::TransferLeader { partition: descriptor.id, from: *from, to }));
            }
        }
    }
    best.map(|(_, step)| step)
}

fn leads(counts: &BTreeMap<NodeId, usize>, node: NodeId) -> isize {
    counts.get(&node).copied().unwrap_or(0) as isize
}

fn homeward(descriptor: &Descriptor, from: NodeId, to: NodeId) -> i8 {
    let home = descriptor.replicas.iter().find(|replica| replica.votes()).map(|replica| replica.node);
    i8::from(home == Some(to)) - i8::from(home == Some(from))
}
