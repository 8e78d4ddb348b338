//! Drives placement: the node that leads the system partition asks all nodes how they do, records who they are, and carries out one
//! step of the plan at a time. What to do is decided by `kontiki-placement`; here is only the asking and the doing.

use std::collections::BTreeMap;
use std::time::Duration;

use kontiki_client::{Client, Endpoint, NodeStatus};
use kontiki_placement::{Step, View, plan};
use kontiki_raft::Group;
use kontiki_types::{Error, NodeInfo, PartitionId};
use tokio::time::sleep;

use crate::bootstrap::register;
use crate::local::Local;

/// Between two looks. A step is carried out only if two looks in a row ask for it: a node that has just come back settles first.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
/// The same while some node is not registered as it is: until a node's store is known, a disk that replaced it could pass for it.
const REGISTER_EVERY: Duration = Duration::from_millis(150);
/// How many entries a replica may lack and still be asked to lead: what it lacks under load is what is on its way. The leader itself
/// refuses a target that is not complete when it comes to it.
const LAG_ENTRIES_MAX: u64 = 256;
/// One hand-over.
const TRANSFER_WITHIN: Duration = Duration::from_secs(2);

type Statuses = Vec<(NodeInfo, Result<NodeStatus, Error>)>;

/// Runs until the node stops; does something only while this node leads the system partition.
pub(crate) async fn run(local: Local, client: Client, spread_leaders: bool) {
    let mut wanted = None;
    let mut registered = false;
    loop {
        tokio::select! {
            () = sleep(if registered { LOOK_EVERY } else { REGISTER_EVERY }) => {}
            () = local.stopping().cancelled() => return,
        }
        let system = local.replica(PartitionId::SYSTEM);
        let Some(system) = system.filter(|group| group.is_leader()) else {
            (wanted, registered) = (None, false);
            continue;
        };
        if local.map_copy().current().partitions.is_empty() {
            continue;
        }
        let Ok(statuses) = client.status().await else { continue };
        let were_registered = std::mem::replace(&mut registered, record(&local, &system, &statuses).await);
        if !spread_leaders || !were_registered {
            continue;
        }
        let step = plan(&view(&local, &statuses));
        if step.is_some() && step == wanted {
            carry_out(&local, &client, step).await;
            wanted = None;
        } else {
            wanted = step;
        }
    }
}

/// Writes down which store and address each node has, once it has said so, and returns whether all who answered are known as they are.
/// A store that was known never changes: a node with another one has lost its disk.
async fn record(local: &Local, system: &Group, statuses: &Statuses) -> bool {
    let map = local.map_copy().current();
    let mut all_known = true;
    for status in statuses.iter().filter_map(|(_, status)| status.as_ref().ok()) {
        let Some(seen) = map.node(status.node.id) else { continue };
        if status.cluster != local.identity().cluster || *seen == status.node {
            continue;
        }
        if seen.store.is_some() && seen.store != status.node.store {
            tracing::debug!(node = %seen.id, "answers with another store than it registered: its disk was replaced; it needs a new id");
            continue;
        }
        all_known = false;
        if let Err(error) = register(system, seen, &status.node).await {
            tracing::info!(node = %seen.id, %error, "could not be registered yet");
        }
    }
    all_known
}

fn view(local: &Local, statuses: &Statuses) -> View {
    let mut view = View { map: local.map_copy().current().as_ref().clone(), ..View::default() };
    let mut tails: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let ready = statuses.iter().filter_map(|(info, status)| Some((info.id, status.as_ref().ok()?)));
    for (node, status) in ready.clone().filter(|(_, status)| status.ready) {
        view.alive.insert(node);
        // Only a leader's own word counts: others may not have heard of an election yet.
        for partition in status.partitions.iter().filter(|partition| partition.leader == Some(node)) {
            view.leaders.insert(partition.id, node);
            tails.insert(partition.id, partition.last_index);
        }
    }
    for (node, status) in ready.filter(|(_, status)| status.ready) {
        for partition in status.partitions.iter().filter(|partition| partition.fault.is_none()) {
            let is_close = |tail: &u64| partition.last_index + LAG_ENTRIES_MAX >= *tail;
            if tails.get(&partition.id).is_some_and(is_close) {
                view.caught_up.entry(partition.id).or_default().insert(node);
            }
        }
    }
    view
}

async fn carry_out(local: &Local, client: &Client, step: Option<Step>) {
    let Some(Step::TransferLeader { partition, from, to }) = step else { return };
    let done = if from == local.node() {
        local.transfer_leader(partition, to, TRANSFER_WITHIN).await.map_err(Error::from)
    } else {
        client.transfer_leader(partition, to).await
    };
    match done {
        Ok(()) => tracing::info!(%partition, %from, %to, "leadership was moved to spread the load"),
        Err(error) => tracing::info!(%partition, %from, %to, %error, "leadership was not moved"),
    }
}
