//! Who drives the changes is killed while they go on: whoever leads the system partition next finishes them, and does nothing twice.

use kontiki_tests::processes::{Cluster, DEADLINE, Server};
use kontiki_tests::program;
use kontiki_tests::progress::all_led;
use kontiki_types::{NodeId, NodeState, PartitionId, PartitionMap, Role};

use crate::{Load, cuts, holders, is_redundant, until, until_tidy};

/// How often the driver is killed.
const KILLS: usize = 3;

/// Whether some replica joins or leaves.
fn is_moving(map: &PartitionMap) -> bool {
    map.partitions.iter().flat_map(|descriptor| &descriptor.replicas).any(|replica| replica.role != Role::Voter)
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_who_drives_the_changes_loses_none_and_repeats_none() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let load = Load::start(&cluster).await;
    let from_us = load.history().now_us();
    let addrs = cluster.addrs();
    cluster.add(Server::joining(cluster.folder(), 4, &addrs)).await;
    let mut leaves = None;
    for _ in 0..KILLS {
        let led = all_led(&load.client, &[PartitionId::SYSTEM.0], DEADLINE).await.unwrap_or_else(|why| panic!("{why}"));
        let driver = led[&PartitionId::SYSTEM.0];
        if leaves.is_none() {
            // Somebody who does not drive, so that there is always something left to be driven.
            let node = (1..=3).find(|node| *node != driver).expect("three nodes");
            program::run_at(&cluster.addrs(), &["node", "decommission", &node.to_string()]).await.expect_ok();
            leaves = Some(node);
        }
        let done = |map: &PartitionMap| leaves.is_some_and(|node| !holders(map).contains(&node));
        until("something moves", &cluster, &load.client, |map| is_moving(map) || done(map)).await;
        cluster.node(driver).kill().await;
        cluster.node(driver).start();
        cluster.node(driver).ready().await.unwrap_or_else(|why| panic!("{why}"));
    }
    let leaves = leaves.expect("chosen");
    let is_done = |map: &PartitionMap| {
        is_redundant(map, 3)
            && !holders(map).contains(&leaves)
            && map.node(NodeId(leaves)).is_some_and(|info| info.state == NodeState::Gone)
    };
    until("the node that leaves holds nothing", &cluster, &load.client, is_done).await;
    load.tell("a node emptied while its driver was killed three times", from_us);
    // Nothing was done twice: no partition has used up more replica ids than there were moves.
    let map = load.client.refresh_map().await.expect("a map");
    for descriptor in &map.partitions {
        let used = descriptor.next_replica.0 - 1;
        assert!(used <= 5, "{} has used {used} replica ids for three replicas and at most two moves", descriptor.id);
    }
    until_tidy(&cluster, &load.client).await;
    load.end(&cluster).await;
}
