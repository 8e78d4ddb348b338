//! Where replicas should be: off nodes that are gone or going, as many as the cluster wants, in different zones, evenly spread.
//!
//! ```text
//!   bad replica + a node that can take one ──> one change: add there, remove here
//! ```
//!
//! A replica on a bad node is never removed before another one is there to replace it, unless the partition has more than enough: a dead
//! voter that may come back is worth more than none.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_types::{Descriptor, NodeId, NodeState, Replica, Role};

use crate::{CHANGES_MAX, Step, View};

/// Calls a change off that would never end: a joining replica is on a node that can no longer take it, or those that are to stay have lost
/// their majority meanwhile.
pub(crate) fn call_off(view: &View) -> Option<Step> {
    let joining = |replica: &&Replica| replica.role == Role::Joining;
    let never_ends = |descriptor: &&Descriptor| {
        let staying = || descriptor.replicas.iter().filter(|replica| replica.role != Role::Leaving);
        let lost = staying().filter(|replica| is_missing(view, replica.node)).count();
        staying().filter(joining).any(|replica| !view.may_keep(replica.node)) || lost * 2 >= staying().count()
    };
    let changing = view.by_id().into_iter().filter(|d| d.is_changing() && view.leaders.contains_key(&d.id));
    let descriptor = changing.into_iter().find(never_ends)?;
    Some(step(descriptor, &[], &descriptor.replicas.iter().filter(joining).copied().collect::<Vec<_>>()))
}

/// Moves one partition's replicas off nodes that are lost or dead; if there is none, off nodes that are leaving.
pub(crate) fn repair(view: &View) -> Option<Step> {
    let leaving = |node: NodeId| view.state(node) == NodeState::Leaving;
    repair_where(view, &|node| is_missing(view, node)).or_else(|| repair_where(view, &leaving))
}

/// Whether a node is given up: it is no member any more, or has not answered for too long.
fn is_missing(view: &View, node: NodeId) -> bool {
    view.dead.contains(&node) || !view.state(node).is_member()
}

fn repair_where(view: &View, is_bad: &dyn Fn(NodeId) -> bool) -> Option<Step> {
    settled_partitions(view).into_iter().find_map(|descriptor| {
        let good = descriptor.replicas.iter().filter(|replica| view.may_keep(replica.node)).count();
        let mut all_bad = descriptor.replicas.iter().filter(|replica| is_bad(replica.node));
        if view.most() > 0 && good >= view.most() {
            let bad = all_bad.find(|replica| can_do_without(view, descriptor, replica))?;
            return Some(step(descriptor, &[], &[*bad]));
        }
        let bad = all_bad.next()?;
        let to = best_node(view, descriptor, Some(bad.node), &[])?;
        Some(step(descriptor, &[to], &[*bad]))
    })
}

/// Whether those that stay when this replica just goes are a majority that answers.
fn can_do_without(view: &View, descriptor: &Descriptor, replica: &Replica) -> bool {
    let others = || descriptor.replicas.iter().filter(|other| other.id != replica.id);
    let answer = others().filter(|other| view.alive.contains(&other.node) && !is_missing(view, other.node)).count();
    answer * 2 > others().count()
}

/// Gives a partition the replicas that it lacks, or takes away those that it has too many.
pub(crate) fn resize(view: &View) -> Option<Step> {
    let wanted = view.wanted();
    settled_partitions(view).into_iter().find_map(|descriptor| {
        let has = descriptor.replicas.len();
        if has < wanted {
            let mut add = Vec::new();
            while has + add.len() < wanted {
                add.push(best_node(view, descriptor, None, &add)?);
            }
            return Some(step(descriptor, &add, &[]));
        }
        // More than anybody asked for. (What is too many only for the nodes that are there now stays: others may come back.)
        let too_many = view.most() > 0 && has > view.most() && is_calm(view);
        too_many.then(|| surplus(view, descriptor)).flatten().map(|replica| step(descriptor, &[], &[replica]))
    })
}

/// The replica that is missed least: its zone has another one, its node has the most to do, it does not lead, it is listed last.
fn surplus(view: &View, descriptor: &Descriptor) -> Option<Replica> {
    let holds = view.holds();
    let leads = |replica: &Replica| view.leaders.get(&descriptor.id) == Some(&replica.node);
    let without = |replica: &Replica| conflicts(view, nodes(descriptor).filter(|node| *node != replica.node));
    let listed = descriptor.replicas.iter().enumerate().filter(|(_, replica)| can_do_without(view, descriptor, replica));
    let worst = listed.min_by_key(|(at, replica)| {
        let load = holds.get(&replica.node).copied().unwrap_or(0);
        (without(replica), leads(replica), std::cmp::Reverse(load), std::cmp::Reverse(*at))
    });
    worst.map(|(_, replica)| *replica)
}

/// Notes a node as gone that was to go and holds nothing any more. Only when every partition has said itself who holds it.
pub(crate) fn gone(view: &View) -> Option<Step> {
    let holders: BTreeSet<NodeId> = view.map.partitions.iter().flat_map(nodes).collect();
    let all_have_spoken = view.map.partitions.iter().all(|descriptor| view.leaders.contains_key(&descriptor.id));
    let going = |state| matches!(state, NodeState::Leaving | NodeState::Lost);
    let empty = view.map.nodes.iter().find(|node| going(node.state) && !holders.contains(&node.id));
    empty.filter(|_| all_have_spoken && !view.map.partitions.is_empty()).map(|node| Step::MarkGone { node: node.id })
}

/// How much better a move makes things: first the pairs of replicas in one zone, then how even the nodes are filled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gain {
    zones: isize,
    evenness: isize,
    /// Moving a leader's replica disturbs more.
    follows: bool,
}

/// Moves one replica to a better place, if there is one: to a zone where the partition has none, or from a full node to an empty one.
///
/// That is a luxury, so it waits for calm: while a node that should answer does not, or a partition has fewer replicas than it should, a
/// move would only put more at risk.
pub(crate) fn balance(view: &View) -> Option<Step> {
    if !is_calm(view) {
        return None;
    }
    let holds = view.holds();
    let mut best: Option<(Gain, Step)> = None;
    let complete = |descriptor: &&Descriptor| view.most() > 0 && descriptor.replicas.len() >= view.most();
    for descriptor in settled_partitions(view).into_iter().filter(complete) {
        let now = conflicts(view, nodes(descriptor)) as isize;
        for (replica, to) in moves(view, descriptor) {
            let then = nodes(descriptor).filter(|node| *node != replica.node).chain([to]);
            let gain = Gain {
                zones: now - conflicts(view, then) as isize,
                evenness: load(&holds, replica.node) - load(&holds, to) - 1,
                follows: view.leaders.get(&descriptor.id) != Some(&replica.node),
            };
            let lowers_cost = (gain.zones, gain.evenness) > (0, 0);
            if lowers_cost && best.as_ref().is_none_or(|(known, _)| gain > *known) {
                best = Some((gain, step(descriptor, &[to], &[replica])));
            }
        }
    }
    best.map(|(_, step)| step)
}

/// Whether every node answers that has not been given up.
fn is_calm(view: &View) -> bool {
    let is_awaited = |node: NodeId| view.state(node).is_member() && !view.dead.contains(&node) && !view.alive.contains(&node);
    !view.map.nodes.iter().any(|node| is_awaited(node.id))
}

/// All moves of one replica of a partition to a node that can take it.
fn moves<'a>(view: &'a View, descriptor: &'a Descriptor) -> impl Iterator<Item = (Replica, NodeId)> {
    let takers = view.map.nodes.iter().map(|node| node.id);
    let takers: Vec<_> = takers.filter(|id| view.may_take(*id) && descriptor.replica_on(*id).is_none()).collect();
    descriptor.replicas.iter().flat_map(move |replica| takers.clone().into_iter().map(|to| (*replica, to)))
}

/// The partitions that may be changed now: led, not changing already, and none if as many change as may at once. (One without a leader
/// does nothing, whatever it was about to.)
fn settled_partitions(view: &View) -> Vec<&Descriptor> {
    let led = view.by_id().into_iter().filter(|descriptor| view.leaders.contains_key(&descriptor.id));
    let (changing, settled): (Vec<_>, Vec<_>) = led.partition(|descriptor| descriptor.is_changing());
    if changing.len() < CHANGES_MAX { settled } else { Vec::new() }
}

/// The best node for another replica of a partition, beside those that it has (but for the one on `instead_of`) and those on `besides`:
/// in a zone of its own, with little to hold, with the lowest id.
fn best_node(view: &View, descriptor: &Descriptor, instead_of: Option<NodeId>, besides: &[NodeId]) -> Option<NodeId> {
    let holds = view.holds();
    let others: Vec<_> = nodes(descriptor).filter(|node| Some(*node) != instead_of).chain(besides.iter().copied()).collect();
    let free = |node: &NodeId| view.may_take(*node) && !others.contains(node) && descriptor.replica_on(*node).is_none();
    let candidates = view.map.nodes.iter().map(|node| node.id).filter(free);
    candidates.min_by_key(|node| (conflicts(view, others.iter().copied().chain([*node])), load(&holds, *node), *node))
}

fn nodes(descriptor: &Descriptor) -> impl Iterator<Item = NodeId> {
    descriptor.replicas.iter().map(|replica| replica.node)
}

/// Pairs of these nodes that stand in the same zone.
fn conflicts(view: &View, nodes: impl Iterator<Item = NodeId>) -> usize {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    nodes.filter_map(|node| view.zone(node)).for_each(|zone| *zones.entry(zone).or_default() += 1);
    zones.values().map(|count| count * (count - 1) / 2).sum()
}

fn load(holds: &BTreeMap<NodeId, usize>, node: NodeId) -> isize {
    holds.get(&node).copied().unwrap_or(0) as isize
}

fn step(descriptor: &Descriptor, add: &[NodeId], remove: &[Replica]) -> Step {
    Step::ChangeReplicas {
        partition: descriptor.id,
        conf: descriptor.epoch.conf,
        add: add.to_vec(),
        remove: remove.iter().map(|replica| replica.id).collect(),
    }
}
