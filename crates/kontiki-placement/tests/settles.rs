//! From any start, carrying out the steps of the plan comes to an end, never takes a majority away, and ends where it should: every
//! partition on nodes that may keep it, as many times as is wanted, and in different zones where that can be.

mod world;

use std::collections::BTreeMap;

use kontiki_placement::{View, plan};
use kontiki_types::{Descriptor, KeyRange, NodeId, NodeInfo, NodeState, PartitionId, PartitionMap, Role};
use proptest::prelude::*;
use world::{SimulatedGroup, carry_out, conflicts, nodes};

/// More steps than any of these worlds needs: a cost that falls with every step keeps it far below.
const STEPS_MAX: usize = 400;

#[derive(Clone, Debug)]
struct Node {
    zone: &'static str,
    state: NodeState,
    answers: bool,
    given_up: bool,
    slow: bool,
}

fn a_node() -> impl Strategy<Value = Node> {
    let state = prop_oneof![8 => Just(NodeState::Active), 1 => Just(NodeState::Leaving), 1 => Just(NodeState::Lost)];
    let zone = prop::sample::select(vec!["", "a", "b", "c"]);
    (zone, state, prop::bool::weighted(0.85), any::<bool>(), prop::bool::weighted(0.1))
        .prop_map(|(zone, state, answers, given_up, slow)| Node { zone, state, answers, given_up: given_up && !answers, slow })
}

/// Where the replicas of a partition are, as picks among the nodes, and what they are on their way to be.
type Layout = Vec<(prop::sample::Index, u8)>;

fn a_start() -> impl Strategy<Value = View> {
    let layout = prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..=5);
    (prop::collection::vec(a_node(), 1..=8), prop::collection::vec(layout, 1..=6), 1..=5_usize)
        .prop_map(|(nodes, layouts, factor)| view(&nodes, &layouts, factor))
}

fn view(nodes: &[Node], layouts: &[Layout], factor: usize) -> View {
    let ids = || (1..).map(NodeId).zip(nodes);
    let pick = |which: &dyn Fn(&Node) -> bool| ids().filter(|(_, node)| which(node)).map(|(id, _)| id).collect();
    let infos = ids().map(|(id, node)| NodeInfo { id, zone: node.zone.to_owned(), state: node.state, ..NodeInfo::default() });
    let mut view = View {
        map: PartitionMap::new(vec![], infos.collect()),
        alive: pick(&|node| node.answers && node.state != NodeState::Lost),
        dead: pick(&|node| node.given_up),
        slow: pick(&|node| node.slow),
        factor,
        ..View::default()
    };
    for (id, layout) in (1..).map(PartitionId).zip(layouts) {
        let mut held: Vec<NodeId> = Vec::new();
        for (at, _) in layout {
            let node = NodeId(at.index(nodes.len()) as u64 + 1);
            if !held.contains(&node) {
                held.push(node);
            }
        }
        let mut descriptor = Descriptor::new(id, KeyRange::new(format!("{}", id.0), format!("{}", id.0 + 1)), &held);
        for (replica, (_, role)) in descriptor.replicas.iter_mut().skip(1).zip(layout) {
            replica.role = [Role::Joining, Role::Leaving].get(usize::from(*role)).copied().unwrap_or(Role::Voter);
        }
        let voters: Vec<_> = descriptor.replicas.iter().filter(|replica| replica.votes()).map(|replica| replica.node).collect();
        let alive: Vec<_> = voters.iter().filter(|node| view.alive.contains(node)).collect();
        if alive.len() > voters.len() / 2 {
            view.leaders.insert(id, *alive[0]);
        }
        view.map.partitions.push(descriptor);
    }
    view
}

fn fill_caught_up(view: &mut View) {
    let alive = &view.alive;
    let complete = |descriptor: &Descriptor| nodes(descriptor).into_iter().filter(|node| alive.contains(node)).collect();
    view.caught_up = view.map.partitions.iter().map(|descriptor| (descriptor.id, complete(descriptor))).collect();
}

/// What the leaders of the partitions do by themselves, as far as it goes.
fn finish_changes(view: &mut View) -> Result<(), String> {
    for at in 0..view.map.partitions.len() {
        let descriptor = view.map.partitions[at].clone();
        let hopeless = |replica: &kontiki_types::Replica| replica.role == Role::Joining && !view.alive.contains(&replica.node);
        if !view.leaders.contains_key(&descriptor.id) || descriptor.replicas.iter().any(hopeless) {
            continue;
        }
        let mut group = SimulatedGroup::new(&descriptor, view)?;
        view.map.partitions[at] = group.run(descriptor.clone(), |_| {})?;
        view.leaders.insert(descriptor.id, group.leader);
    }
    Ok(())
}

/// The fewest pairs in one zone that `count` replicas can have on the nodes that may take one.
fn fewest_conflicts(view: &View, count: usize) -> usize {
    let mut free: BTreeMap<&str, usize> = BTreeMap::new();
    for node in view.map.nodes.iter().filter(|node| is_good(view, node.id)) {
        *free.entry(node.zone.as_str()).or_default() += 1;
    }
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..count {
        let open = free.iter().filter(|(zone, count)| used.get(*zone).copied().unwrap_or(0) < **count);
        let cost = |zone: &str| if zone.is_empty() { 0 } else { used.get(zone).copied().unwrap_or(0) };
        let Some(zone) = open.min_by_key(|(zone, _)| cost(zone)).map(|(zone, _)| *zone) else { break };
        *used.entry(zone).or_default() += 1;
    }
    used.iter().filter(|(zone, _)| !zone.is_empty()).map(|(_, count)| count * (count - 1) / 2).sum()
}

fn is_good(view: &View, node: NodeId) -> bool {
    view.map.node(node).is_some_and(|info| info.state == NodeState::Active) && !view.dead.contains(&node)
}

fn is_awaited(view: &View, node: NodeId) -> bool {
    let is_member = view.map.node(node).is_some_and(|info| info.state.is_member());
    is_member && !view.dead.contains(&node) && !view.alive.contains(&node)
}

/// What is wrong with a world in which there is nothing left to do.
fn faults(view: &View) -> Vec<String> {
    let mut faults = Vec::new();
    let good: Vec<_> = view.map.nodes.iter().map(|node| node.id).filter(|node| is_good(view, *node)).collect();
    let takers: Vec<_> = good.iter().filter(|node| view.alive.contains(node)).collect();
    let calm = !view.map.nodes.iter().any(|node| is_awaited(view, node.id));
    let (most, wanted) = (odd(view.factor), odd(view.factor.min(good.len())));
    for descriptor in view.map.partitions.iter().filter(|descriptor| view.leaders.contains_key(&descriptor.id)) {
        let held = nodes(descriptor);
        if descriptor.is_changing() && held.iter().any(|node| is_awaited(view, *node)) {
            // It is waited for: it may answer again, or be given up.
            continue;
        }
        let free = takers.iter().any(|node| !held.contains(node));
        // One too many on a bad node stays while those that would be left could have no majority.
        let surplus = held.iter().filter(|node| is_good(view, **node)).count() >= most;
        if free && (calm || !surplus) && held.iter().any(|node| !is_good(view, *node)) {
            faults.push(format!("{} is on a node that may not keep it: {descriptor:?}", descriptor.id));
        }
        if calm && held.len() < wanted {
            faults.push(format!("{} has {} of {wanted} replicas", descriptor.id, held.len()));
        }
        if calm && held.len() > most {
            faults.push(format!("{} has {} replicas, at most {most} are wanted", descriptor.id, held.len()));
        }
        let all_good = held.iter().all(|node| is_good(view, *node));
        if calm && all_good && held.len() == most && conflicts(view, descriptor) > fewest_conflicts(view, held.len()) {
            faults.push(format!("{} could stand in more zones: {descriptor:?}", descriptor.id));
        }
    }
    faults
}

fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_start_comes_to_a_good_end(start in a_start()) {
        let mut view = start;
        let mut steps = Vec::new();
        loop {
            finish_changes(&mut view).map_err(TestCaseError::fail)?;
            fill_caught_up(&mut view);
            let Some(step) = plan(&view) else { break };
            carry_out(&mut view, &step).map_err(|why| TestCaseError::fail(format!("{step:?}: {why}")))?;
            steps.push(step);
            prop_assert!(steps.len() < STEPS_MAX, "it does not end: {:?}", &steps[STEPS_MAX - 12..]);
        }
        let faults = faults(&view);
        prop_assert!(faults.is_empty(), "{faults:?} after {steps:?}");
    }
}
