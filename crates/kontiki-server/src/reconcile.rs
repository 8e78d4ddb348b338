//! Makes this node hold what the map says it holds: reads the map from the node's own replica of the system partition whenever that
//! changes, publishes it, opens the replicas that name this node, and starts new groups. Effects are data; this is the loop that
//! carries them out (DESIGN law 2).

use std::time::Duration;

use kontiki_raft::Group;
use kontiki_storage::system;
use kontiki_types::{Descriptor, Fault, NodeId, PartitionId, PartitionMap};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::local::Local;

/// After a failure, and to notice what no effect tells.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A new group whose first election found nobody is nudged this often...
const NUDGE_EVERY: Duration = Duration::from_millis(150);
/// ...and this long: the other members open their replicas within a few heartbeats.
const NUDGE_FOR: Duration = Duration::from_secs(3);

/// Runs until the node stops. `changes` ticks when keys of the map have changed in this node's replica of the system partition.
pub(crate) async fn run(local: Local, mut changes: watch::Receiver<u64>) {
    loop {
        changes.mark_unchanged();
        if let Err(fault) = once(&local).await {
            tracing::error!(node = %local.node(), %fault, "the map could not be read from this node's replica");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(AGAIN_AFTER) => {}
            () = local.stopping().cancelled() => return,
        }
    }
}

async fn once(local: &Local) -> Result<(), Fault> {
    let Some(system) = local.replica(PartitionId::SYSTEM) else { return Ok(()) };
    let map = system::read_map(system.reader())?;
    check_own_entry(local, &map);
    if local.map_copy().publish(map) {
        tracing::debug!(node = %local.node(), "the map has changed");
    }
    let map = local.map_copy().current();
    for descriptor in map.partitions.iter().filter(|descriptor| descriptor.replica_on(local.node()).is_some()) {
        if local.replica(descriptor.id).is_some() {
            continue;
        }
        let Some(groups) = local.groups().filter(|_| !local.stopping().is_cancelled()) else { return Ok(()) };
        match groups.create(descriptor.clone()).await {
            Ok(group) => {
                local.note_broken(descriptor.id, None);
                wake(local, &group);
            }
            // That replica alone stays down, and says so; the others go on.
            Err(fault) => local.note_broken(descriptor.id, Some(fault.to_string())),
        }
    }
    Ok(())
}

/// A node whose directory is not the one that the cluster knows must not take part: it has promised and acknowledged things that it
/// no longer remembers.
pub(crate) fn check_own_entry(local: &Local, map: &PartitionMap) {
    let known = map.node(local.node()).and_then(|info| info.store);
    let own = local.identity().store;
    if let Some(known) = known.filter(|known| *known != own) {
        let node = local.node();
        local.note_misfit(format!(
            "the cluster knows {node} by store {known}, this data directory is store {own}: the disk of {node} was replaced; \
             start with the old directory, or add this node under a new id"
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
