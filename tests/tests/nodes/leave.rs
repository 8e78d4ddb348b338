//! A node is decommissioned, and zones are respected on the way.

use std::collections::BTreeSet;

use kontiki_tests::processes::{Cluster, Server};
use kontiki_tests::program;
use kontiki_types::{NodeId, PartitionMap};

use crate::{Load, cuts, holders, is_redundant, until, until_tidy};

/// Whether the replicas of each partition stand in three different zones.
fn is_spread(map: &PartitionMap) -> bool {
    let zone = |node: NodeId| map.node(node).map(|info| info.zone.clone()).unwrap_or_default();
    let zones = |replicas: &[kontiki_types::Replica]| replicas.iter().map(|replica| zone(replica.node)).collect::<BTreeSet<_>>();
    map.partitions.iter().all(|descriptor| zones(&descriptor.replicas).len() == 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_emptied_while_clients_write_and_zones_are_respected() {
    let mut cluster = Cluster::prepare(3, cuts());
    let mut zones = ["a", "b", "a"].into_iter();
    cluster.each_with_values("--zone", || zones.next().expect("one for each"));
    cluster.start_all();
    cluster.all_ready().await;
    let load = Load::start(&cluster).await;
    let addrs = cluster.addrs();
    program::run_at(&addrs, &["node", "decommission", "3"]).await.expect_failure(2, &["n3 cannot go", "add a node first"]);

    let from_us = load.history().now_us();
    let server = Server::joining(cluster.folder(), 4, &addrs).with("--zone", "c");
    cluster.add(server).await;
    until("replicas stand in three zones", &cluster, &load.client, |map| is_redundant(map, 3) && is_spread(map)).await;
    load.tell("a third zone: replicas spread over it", from_us);

    let from_us = load.history().now_us();
    let said = program::run_at(&addrs, &["node", "decommission", "2", "--wait"]).await.expect_ok();
    assert!(said.contains("n2 holds nothing any more"), "{said}");
    load.tell("a node emptied", from_us);
    // Whoever is asked for the map next may have a copy that is a moment old.
    let is_left = |map: &PartitionMap| is_redundant(map, 3) && holders(map) == [1, 3, 4].into();
    until("three nodes hold everything", &cluster, &load.client, is_left).await;
    assert!(cluster.node(2).stop().await.success());
    let again = program::run_at(&addrs, &["node", "decommission", "2", "--wait"]).await.expect_ok();
    assert!(again.contains("n2 holds nothing any more"), "asking again is no mistake: {again}");
    let list = program::run_at(&addrs, &["node", "list"]).await.expect_ok();
    assert!(list.lines().any(|line| line.contains("n2") && line.contains("gone")), "{list}");
    until_tidy(&cluster, &load.client).await;
    load.end(&cluster).await;
}
