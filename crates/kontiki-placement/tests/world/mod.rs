//! A world in which steps are carried out at once, by the same functions that a node uses: a change of replicas goes through
//! [`next_step`] until there is none, and every membership on the way is checked.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::{BTreeMap, BTreeSet};

use kontiki_placement::{MemberStep, Membership, Progress, Step, View, change, next_step};
use kontiki_types::{Descriptor, NodeId, NodeState, ReplicaId};

/// Carries one step out to its end, on a view in which everybody who answers catches up at once.
pub(crate) fn carry_out(view: &mut View, step: &Step) -> Result<(), String> {
    match step {
        Step::TransferLeader { partition, from, to } => {
            if view.leaders.insert(*partition, *to) != Some(*from) {
                return Err(format!("{partition}: the step does not name the present leader"));
            }
            Ok(())
        }
        Step::MarkGone { node } => {
            let info = view.map.nodes.iter_mut().find(|info| info.id == *node).ok_or("no such node")?;
            info.state = NodeState::Gone;
            Ok(())
        }
        Step::ChangeReplicas { partition, conf, add, remove } => {
            let at = view.map.partitions.iter().position(|d| d.id == *partition).ok_or("no such partition")?;
            let before = view.map.partitions[at].clone();
            if before.epoch.conf != *conf {
                return Err(format!("{partition}: the step is of another epoch"));
            }
            let mut group = SimulatedGroup::new(&before, view)?;
            let descriptor = change(&before, add, remove, &group.membership.voters()).map_err(|reject| reject.to_string())?;
            let descriptor = group.run(descriptor, |_| {})?;
            view.leaders.insert(*partition, group.leader);
            view.map.partitions[at] = descriptor;
            Ok(())
        }
    }
}

/// A Raft group in which every step succeeds, if it may be carried out at all.
pub(crate) struct SimulatedGroup {
    pub(crate) membership: Membership,
    pub(crate) leader: NodeId,
    alive: BTreeSet<NodeId>,
}

impl SimulatedGroup {
    pub(crate) fn new(descriptor: &Descriptor, view: &View) -> Result<Self, String> {
        let leader = *view.leaders.get(&descriptor.id).ok_or("a partition without a leader is to be changed")?;
        let voters = descriptor.replicas.iter().filter(|replica| replica.votes());
        let members = descriptor.replicas.iter().map(|replica| (replica.id, replica.node));
        let membership = Membership { configs: vec![voters.map(|replica| replica.id).collect()], nodes: members.collect() };
        Ok(Self { membership, leader, alive: view.alive.clone() })
    }

    fn progress(&self) -> Progress {
        let of_leader = self.membership.nodes.iter().find(|(_, node)| **node == self.leader).map(|(id, _)| *id);
        let complete = self.membership.nodes.iter().filter(|(_, node)| self.alive.contains(*node));
        Progress { leader: of_leader.unwrap_or_default(), caught_up: complete.map(|(id, _)| *id).collect() }
    }

    /// Goes on until nothing is left to do. `seen` is shown every membership on the way.
    pub(crate) fn run(&mut self, mut descriptor: Descriptor, mut seen: impl FnMut(&Membership)) -> Result<Descriptor, String> {
        for _ in 0..50 {
            seen(&self.membership);
            let Some(step) = next_step(&descriptor, &self.membership, &self.progress()) else { return Ok(descriptor) };
            self.carry_out(step, &mut descriptor)?;
            self.check()?;
        }
        Err(format!("{} does not come to an end: {descriptor:?}, {:?}", descriptor.id, self.membership))
    }

    pub(crate) fn carry_out(&mut self, step: MemberStep, descriptor: &mut Descriptor) -> Result<(), String> {
        let Membership { configs, nodes } = &mut self.membership;
        match step {
            MemberStep::Finish => drop(configs.remove(0)),
            MemberStep::AddLearner { replica, node } => {
                if !self.alive.contains(&node) {
                    return Err(format!("{replica} was to be opened on {node}, which does not answer"));
                }
                nodes.insert(replica, node);
            }
            MemberStep::TransferLeader { to } => {
                let votes = |(id, node): (&ReplicaId, &NodeId)| *node == to && configs.iter().all(|config| config.contains(id));
                if !nodes.iter().any(votes) {
                    return Err(format!("{to} was asked to lead and does not vote"));
                }
                self.leader = to;
            }
            MemberStep::ChangeVoters { add, remove } => {
                let leader = nodes.iter().find(|(_, node)| **node == self.leader).map(|(id, _)| *id).unwrap_or_default();
                if remove.contains(&leader) {
                    return Err("the leader removes itself".to_owned());
                }
                let next: BTreeSet<_> = configs[0].union(&add).filter(|id| !remove.contains(*id)).copied().collect();
                // Interrupted in the middle: whoever goes on must finish it.
                configs.push(next);
                nodes.retain(|id, _| !remove.contains(id));
            }
            MemberStep::RemoveNodes(gone) => nodes.retain(|id, _| !gone.contains(id)),
            MemberStep::SetDescriptor(next) => {
                if next.epoch.conf != descriptor.epoch.conf + 1 {
                    return Err("the epoch is not the next one".to_owned());
                }
                *descriptor = next;
            }
        }
        Ok(())
    }

    /// A majority of every set of voters answers. (Those that were removed in the last set are known by the former one.)
    fn check(&self) -> Result<(), String> {
        let Some(newest) = self.membership.configs.last() else { return Err("no voters".to_owned()) };
        let of = |id: &ReplicaId| self.membership.nodes.get(id).is_some_and(|node| self.alive.contains(node));
        let alive = newest.iter().filter(|id| of(id)).count();
        if alive <= newest.len() / 2 {
            return Err(format!("only {alive} of the voters {newest:?} answer"));
        }
        Ok(())
    }
}

/// The nodes of a partition's replicas.
pub(crate) fn nodes(descriptor: &Descriptor) -> Vec<NodeId> {
    descriptor.replicas.iter().map(|replica| replica.node).collect()
}

/// Pairs of replicas of one partition in one zone.
pub(crate) fn conflicts(view: &View, descriptor: &Descriptor) -> usize {
    let mut zones: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes(descriptor) {
        let zone = view.map.node(node).map(|info| info.zone.clone()).unwrap_or_default();
        if !zone.is_empty() {
            *zones.entry(zone).or_default() += 1;
        }
    }
    zones.values().map(|count| count * (count - 1) / 2).sum()
}
