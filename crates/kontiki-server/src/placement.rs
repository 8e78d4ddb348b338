//! Drives placement: the node that leads the system partition asks all nodes how they do, keeps the map and the nodes' entries true, and
//! carries out one step of the plan at a time. What to do is decided by `kontiki-placement`; here is only the asking and the doing.
//!
//! ```text
//!   statuses of all nodes ── record (who they are) ── copy newer descriptors into the map ── View ── plan ── one step
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kontiki_client::{Client, ClusterChange, Endpoint, NodeStatus};
use kontiki_placement::{Step, View, plan};
use kontiki_raft::Group;
use kontiki_storage::system;
use kontiki_types::{
    CallError, Condition, Descriptor, Error, ErrorKind, NodeId, NodeInfo, Op, PartitionId, PartitionMap, Reject, Write,
};
use tokio::time::{Instant, sleep};

use crate::bootstrap::{cluster_record, register};
use crate::local::Local;
use crate::shape;
use crate::slowness::Slowness;

/// Between two looks. A step is carried out only if two looks in a row ask for it: a node that has just come back settles first.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
/// The same while there is something to do, and while some node is not registered as it is: until a node's store is known, a disk that
/// replaced it could pass for it.
const LOOK_SOON: Duration = Duration::from_millis(150);
/// How many entries a replica may lack and still be asked to lead: what it lacks under load is what is on its way. The leader itself
/// refuses a target that is not complete when it comes to it.
const LAG_ENTRIES_MAX: u64 = 256;
/// One status, one step.
const CALL_WITHIN: Duration = Duration::from_secs(2);

type Statuses = Vec<(NodeInfo, Result<NodeStatus, Error>)>;

/// What the driver remembers while this node leads the system partition.
struct Driver {
    local: Local,
    client: Client,
    /// How long a node may be silent before it is given up.
    dead_after: Duration,
    /// When each node answered last; those that have not since this node leads, at that moment.
    heard: BTreeMap<NodeId, Instant>,
    slowness: Slowness,
    wanted: Option<Step>,
}

/// Runs until the node stops; does something only while this node leads the system partition. `moves`: whether it carries out steps.
pub(crate) async fn run(local: Local, client: Client, moves: bool, dead_after: Duration) {
    let client = client.with_timeout(CALL_WITHIN);
    let mut driver = Driver { local, client, dead_after, heard: BTreeMap::new(), slowness: Slowness::default(), wanted: None };
    let mut pause = LOOK_SOON;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = driver.local.stopping().cancelled() => return,
        }
        let system = driver.local.replica(PartitionId::SYSTEM).filter(Group::is_leader);
        pause = match system {
            Some(system) => {
                let local = driver.local.clone();
                tokio::select! {
                    pause = driver.look(&system, moves) => pause,
                    () = local.stopping().cancelled() => return,
                }
            }
            None => {
                driver.local.note_view(None);
                (driver.heard, driver.wanted) = (BTreeMap::new(), None);
                LOOK_SOON
            }
        };
    }
}

impl Driver {
    /// Looks once, and does at most one thing. Returns when to look again.
    async fn look(&mut self, system: &Group, moves: bool) -> Duration {
        if self.local.map_copy().current().partitions.is_empty() {
            return LOOK_SOON;
        }
        let Ok(statuses) = self.client.status().await else { return LOOK_EVERY };
        let statuses = of_the_right_nodes(statuses);
        let all_known = record(&self.local, system, &statuses).await;
        let map_is_true = self.copy_descriptors(system, &statuses).await;
        let view = self.view(system, &statuses);
        self.local.note_view(Some(view.clone()));
        if !moves || !all_known || !map_is_true {
            self.wanted = None;
            return LOOK_SOON;
        }
        let step = plan(&view);
        match step {
            Some(step) if self.wanted.as_ref() == Some(&step) => {
                self.wanted = None;
                self.carry_out(system, step).await;
                LOOK_SOON
            }
            Some(step) => {
                // Of a hand-over the second opinion is asked later: it costs the group an election.
                let soon = !matches!(step, Step::TransferLeader { .. });
                self.wanted = Some(step);
                if soon { LOOK_SOON } else { LOOK_EVERY }
            }
            None => {
                self.wanted = None;
                LOOK_EVERY
            }
        }
    }

    /// Writes the descriptors that partitions have by now into the map. Returns whether the map has them all.
    async fn copy_descriptors(&self, system: &Group, statuses: &Statuses) -> bool {
        let Ok(map) = system::read_map(system.reader()) else { return false };
        let mut all_true = true;
        for newest in newest_descriptors(statuses).into_values() {
            let Some(known) = map.get(newest.id).filter(|known| known.epoch < newest.epoch) else { continue };
            all_true = false;
            let key = system::map_key(newest.id);
            let condition = Condition::ValueIs { key: key.clone(), value: system::encode_descriptor(known) };
            let op = Op::Put { key, value: system::encode_descriptor(&newest) };
            let write = Write { epoch: system.descriptor().epoch, request: None, conditions: vec![condition], ops: vec![op] };
            match system.write(write).await {
                Ok(_) | Err(CallError::Reject(Reject::ConditionFailed { .. })) => {}
                Err(error) => tracing::info!(partition = %newest.id, %error, "the map could not be brought up to date yet"),
            }
        }
        all_true
    }

    fn view(&mut self, system: &Group, statuses: &Statuses) -> View {
        let map = system::read_map(system.reader()).unwrap_or_else(|_| PartitionMap::clone(&self.local.map_copy().current()));
        let factor = cluster_record(system).map_or(0, |record| record.replicas as usize);
        let mut view = View { map, factor, ..View::default() };
        let mut tails: BTreeMap<PartitionId, u64> = BTreeMap::new();
        let ready =
            statuses.iter().filter_map(|(info, status)| Some((info.id, status.as_ref().ok().filter(|s| s.fault.is_none())?)));
        for (node, status) in ready.clone() {
            view.alive.insert(node);
            // Only a leader's own word counts: others may not have heard of an election yet.
            for partition in status.partitions.iter().filter(|partition| partition.leader == Some(node)) {
                view.leaders.insert(partition.id, node);
                tails.insert(partition.id, partition.last_index);
            }
        }
        for (node, status) in ready {
            for partition in status.partitions.iter().filter(|partition| partition.fault.is_none()) {
                let is_close = |tail: &u64| partition.last_index + LAG_ENTRIES_MAX >= *tail;
                if tails.get(&partition.id).is_some_and(is_close) {
                    view.caught_up.entry(partition.id).or_default().insert(node);
                }
            }
        }
        view.dead = self.dead(&view);
        let heard = || statuses.iter().filter_map(|(info, status)| Some((info.id, status.as_ref().ok()?)));
        let fsyncs = heard().map(|(node, status)| (node, status.fsync_us)).collect();
        let round_trips = heard().map(|(node, status)| (node, status.round_trips_us.clone())).collect();
        view.slow = self.slowness.judge(&fsyncs, &round_trips);
        view
    }

    /// The members that have not answered for too long. Whoever was silent when this node began to lead has its time from then on.
    fn dead(&mut self, view: &View) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.heard.retain(|node, _| view.map.node(*node).is_some_and(|info| info.state.is_member()));
        let mut dead = BTreeSet::new();
        for info in view.map.nodes.iter().filter(|info| info.state.is_member()) {
            let heard = self.heard.entry(info.id).or_insert(now);
            if view.alive.contains(&info.id) {
                *heard = now;
            } else if now.duration_since(*heard) > self.dead_after {
                dead.insert(info.id);
            }
        }
        dead
    }

    async fn carry_out(&self, system: &Group, step: Step) {
        let done = match step.clone() {
            Step::TransferLeader { partition, from, to } if from == self.local.node() => {
                self.local.transfer_leader(partition, to, CALL_WITHIN).await.map_err(Error::from)
            }
            Step::TransferLeader { partition, from: _, to } => self.client.transfer_leader(partition, to).await,
            Step::ChangeReplicas { partition, conf, add, remove } => {
                let leads_here = self.local.replica(partition).is_some_and(|group| group.is_leader());
                if leads_here {
                    let change = ClusterChange::Replicas { partition, conf, add, remove };
                    shape::change_cluster(&self.local, change).await.map(drop).map_err(Error::from)
                } else {
                    self.client.change_replicas(partition, conf, add, remove).await
                }
            }
            Step::MarkGone { node } => shape::mark_gone(system, node).await.map_err(Error::from),
        };
        match done {
            Ok(()) => tracing::info!(?step, "a step of placement was carried out"),
            Err(error) => tracing::info!(?step, %error, "a step of placement was not carried out; the next look decides anew"),
        }
    }
}

/// Who answers at a node's address may be another one, which has taken that address: that says nothing of the node.
fn of_the_right_nodes(statuses: Statuses) -> Statuses {
    let right = |(info, status): (NodeInfo, Result<NodeStatus, Error>)| {
        let status = status.and_then(|status| match status.node.id == info.id {
            true => Ok(status),
            false => Err(Error::new(
                ErrorKind::Unavailable,
                format!("{} answers at {}, which is the address of {}", status.node.id, info.addr, info.id),
            )),
        });
        (info, status)
    };
    statuses.into_iter().map(right).collect()
}

/// The newest descriptor of each partition that a leader tells of: what was applied is committed, whoever leads by now.
fn newest_descriptors(statuses: &Statuses) -> BTreeMap<PartitionId, Descriptor> {
    let mut newest: BTreeMap<PartitionId, Descriptor> = BTreeMap::new();
    let told = statuses.iter().filter_map(|(_, status)| status.as_ref().ok()).flat_map(|status| &status.partitions);
    for descriptor in told.filter_map(|partition| partition.descriptor.as_ref()) {
        if newest.get(&descriptor.id).is_none_or(|known| known.epoch < descriptor.epoch) {
            newest.insert(descriptor.id, descriptor.clone());
        }
    }
    newest
}

/// Writes down which store, address, zone and start each node has, once it has said so, and returns whether all who answered are known as
/// they are. A store that was known never changes: a node with another one has lost its disk. A start that is not newer than the known
/// one is that of an older copy of its directory. What is to become of a node is not its own to say.
async fn record(local: &Local, system: &Group, statuses: &Statuses) -> bool {
    let Ok(map) = system::read_map(system.reader()) else { return false };
    let mut all_known = true;
    for status in statuses.iter().filter_map(|(_, status)| status.as_ref().ok()) {
        let Some(seen) = map.node(status.node.id).filter(|seen| seen.state.is_member()) else { continue };
        let now = NodeInfo { state: seen.state, ..status.node.clone() };
        if status.cluster != local.identity().cluster || *seen == now {
            continue;
        }
        if seen.store.is_some() && seen.store != now.store {
            tracing::debug!(node = %seen.id, "answers with another store than it registered: its disk was replaced");
            continue;
        }
        if now.incarnation.is_older_copy_of(seen.incarnation) {
            tracing::debug!(node = %seen.id, "answers from an older start than it registered: an older copy of its directory");
            continue;
        }
        all_known = false;
        if let Err(error) = register(system, seen, &now).await {
            tracing::info!(node = %seen.id, %error, "could not be registered yet");
        }
    }
    all_known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, addr: &str) -> NodeInfo {
        NodeInfo { id: NodeId(id), addr: addr.to_owned(), ..NodeInfo::default() }
    }

    fn status(of: &NodeInfo) -> NodeStatus {
        NodeStatus {
            node: of.clone(),
            cluster: Default::default(),
            version: String::new(),
            uptime_ms: 0,
            ready: true,
            partitions: Vec::new(),
            log_bytes: 0,
            data_bytes: 0,
            fault: None,
            fsync_us: 0,
            round_trips_us: BTreeMap::new(),
        }
    }

    #[test]
    fn who_has_taken_the_address_of_a_dead_node_does_not_make_it_live() {
        let (dead, taker) = (node(3, "a:3"), node(4, "a:3"));
        let asked = vec![(dead.clone(), Ok(status(&taker))), (taker.clone(), Ok(status(&taker)))];
        let statuses = of_the_right_nodes(asked);
        let why = statuses[0].1.as_ref().expect_err("it is another node").to_string();
        assert!(why.contains("n4 answers at a:3, which is the address of n3"), "{why}");
        assert_eq!(statuses[1].1.as_ref().map(|status| status.node.id).expect("it is itself"), taker.id);
    }
}
