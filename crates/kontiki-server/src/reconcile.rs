//! Makes this node hold what the map says it holds: reads the map from the node's own replica of the system partition whenever that
//! changes (or takes what others tell), publishes it, opens the replicas that name this node, starts new groups, and deletes replicas that
//! were moved away. Replicas that a full disk has ended are opened again when there is room. Effects are data; this is the loop that carries them out (DESIGN law 2).

use std::time::Duration;

use kontiki_raft::Group;
use kontiki_storage::system;
use kontiki_types::{Descriptor, Fault, NodeId, NodeState, PartitionId, PartitionMap};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::local::Local;
use crate::map::merge;

/// After a failure, and to notice what no effect tells.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A new group whose first election found nobody is nudged this often...
const NUDGE_EVERY: Duration = Duration::from_millis(150);
/// ...and this long: the other members open their replicas within a few heartbeats.
const NUDGE_FOR: Duration = Duration::from_secs(3);

/// Runs until the node stops. `changes` ticks when keys of the map have changed in this node's replica of the system partition.
pub(crate) async fn run(local: Local, mut changes: watch::Receiver<u64>) {
    let mut hearsay = local.map_copy().hearsay();
    loop {
        changes.mark_unchanged();
        let heard = hearsay.borrow_and_update().clone();
        if let Err(fault) = once(&local, &heard).await {
            tracing::error!(node = %local.node(), %fault, "the map could not be read from this node's replica");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = hearsay.changed() => if changed.is_err() { return },
            () = sleep(AGAIN_AFTER) => {}
            () = local.stopping().cancelled() => return,
        }
    }
}

async fn once(local: &Local, heard: &PartitionMap) -> Result<(), Fault> {
    let mut map = match local.replica(PartitionId::SYSTEM) {
        Some(system) => system::read_map(system.reader())?,
        None => PartitionMap::clone(&local.map_copy().current()),
    };
    merge(&mut map, heard);
    check_own_entry(local, &map);
    if local.map_copy().publish(map) {
        tracing::debug!(node = %local.node(), "the map has changed");
    }
    if local.is_misfit() {
        return Ok(());
    }
    if let Some(groups) = local.groups() {
        for group in groups.reopen_stopped().await {
            wake(local, &group);
        }
    }
    let map = local.map_copy().current();
    for descriptor in &map.partitions {
        match (local.replica(descriptor.id), descriptor.replica_on(local.node())) {
            (Some(group), _) if is_removed(&group, descriptor, local.node()) => remove(local, &group).await,
            // One that joins is opened when the partition's leader asks for it: not before its log begins with a snapshot.
            (None, Some(replica)) if replica.votes() => {
                // What is wrong is noted; the others go on.
                let _ = local.open_replica(descriptor.clone()).await;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the map says for certain that a replica is no longer wanted: it knows of this replica or of later ones, it is newer than what
/// the replica itself knows, and does not name it. Anything less may be a map that is behind.
fn is_removed(group: &Group, descriptor: &Descriptor, own: NodeId) -> bool {
    let known = group.descriptor();
    let listed = descriptor.replica_on(own).is_some_and(|replica| replica.id == group.replica());
    !listed && descriptor.next_replica > group.replica() && descriptor.epoch.conf > known.epoch.conf
}

async fn remove(local: &Local, group: &Group) {
    let Some(groups) = local.groups() else { return };
    let (partition, replica) = (group.partition(), group.replica());
    match groups.destroy(partition, replica).await {
        Ok(()) => tracing::info!(%partition, %replica, "the replica was moved away, and is deleted here"),
        Err(fault) => tracing::error!(%partition, %replica, %fault, "the replica was moved away, but could not be deleted here"),
    }
}

/// A node whose directory is not the one that the cluster knows must not take part: it has promised and acknowledged things that it
/// no longer remembers. Nor must one that the cluster has given up.
fn check_own_entry(local: &Local, map: &PartitionMap) {
    let Some(known) = map.node(local.node()) else { return };
    let (node, own) = (local.node(), local.identity().store);
    if let Some(store) = known.store.filter(|store| *store != own) {
        local.note_misfit(format!(
            "the cluster knows {node} by store {store}, this data directory is store {own}: the disk of {node} was replaced; \
             start with the old directory, or with an empty one, to join as a new node"
        ));
    } else if local.incarnation().is_older_copy_of(known.incarnation) {
        local.note_misfit(format!(
            "the cluster has seen start {} of {node}, this is start {}: the data directory is an older copy of itself, or was started twice; \
             stop this process, and start with an empty directory, to join as a new node",
            known.incarnation.starts,
            local.incarnation().starts
        ));
    } else if known.state == NodeState::Lost {
        local.note_misfit(format!(
            "{node} was given up, and what it held is rebuilt elsewhere: it takes part no more; start with an empty directory, to join as a \
             new node"
        ));
    } else if known.state == NodeState::Gone {
        local.note_misfit(format!(
            "{node} was decommissioned and holds nothing any more: stop it; to use this machine again, start with an empty directory"
        ));
    }
}

/// Sees to it that a group that was just opened finds a leader soon. Only its first voter does anything: it makes the first entry of a
/// new group, and, where nobody else votes, need not wait for anybody.
pub(crate) fn wake(local: &Local, group: &Group) {
    let descriptor = group.descriptor();
    if first_voter(&descriptor) != Some(local.node()) {
        return;
    }
    let (stopping, group) = (local.stopping().clone(), group.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = start_group(&group, &descriptor) => {}
            () = stopping.cancelled() => {}
        }
    });
}

async fn start_group(group: &Group, descriptor: &Descriptor) {
    let is_new = group.status().last_next == 0;
    if let Err(error) = group.initialize().await {
        tracing::warn!(partition = %descriptor.id, %error, "the group could not be initialised");
    }
    let votes_alone = descriptor.replicas.iter().filter(|replica| replica.votes()).count() == 1;
    if !is_new && !votes_alone {
        return;
    }
    let (mut leadership, until) = (group.leadership(), Instant::now() + NUDGE_FOR);
    if votes_alone && !is_new {
        nudge(group).await;
    }
    while Instant::now() < until {
        tokio::select! {
            () = until_led(&mut leadership) => return,
            () = sleep(NUDGE_EVERY) => nudge(group).await,
        }
    }
}

/// Waits for a leader, or for the group's end.
async fn until_led(leadership: &mut watch::Receiver<Option<NodeId>>) {
    let _ = leadership.wait_for(Option::is_some).await;
}

async fn nudge(group: &Group) {
    if let Err(error) = group.elect().await {
        tracing::debug!(partition = %group.partition(), %error, "no election was started");
    }
}

fn first_voter(descriptor: &Descriptor) -> Option<NodeId> {
    descriptor.replicas.iter().find(|replica| replica.votes()).map(|replica| replica.node)
}
