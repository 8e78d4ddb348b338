//! Nodes that die: their disks are wiped, they stay away, they are given up by hand.

use kontiki_tests::processes::{Cluster, Server};
use kontiki_tests::program;
use kontiki_types::{NodeId, NodeState};

use crate::{Load, cuts, holders, is_redundant, until, until_tidy};

fn state(map: &kontiki_types::PartitionMap, node: u64) -> Option<NodeState> {
    map.node(NodeId(node)).map(|info| info.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_as_a_new_one_without_a_command() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let load = Load::start(&cluster).await;
    until("all are registered", &cluster, &load.client, |map| map.nodes.iter().all(|info| info.store.is_some())).await;
    let from_us = load.history().now_us();
    cluster.node(3).kill().await;
    std::fs::remove_dir_all(cluster.node(3).data()).expect("wiped");
    cluster.node(3).start();
    cluster.node(3).ready().await.unwrap_or_else(|why| panic!("{why}"));
    until("three replicas again", &cluster, &load.client, |map| is_redundant(map, 3)).await;
    load.tell("a wiped disk: three replicas again", from_us);
    until("the old number is gone", &cluster, &load.client, |map| state(map, 3) == Some(NodeState::Gone)).await;
    let map = load.client.refresh_map().await.expect("a map");
    assert_eq!(holders(&map), [1, 2, 4].into());
    // Its settings still say what it was; it remembers what it is.
    assert!(cluster.node(3).stop().await.success());
    cluster.node(3).start();
    cluster.node(3).ready().await.unwrap_or_else(|why| panic!("{why}"));
    until_tidy(&cluster, &load.client).await;
    load.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_is_replaced_and_one_that_is_lost_can_be_given_up() {
    let mut cluster = Cluster::prepare(3, cuts());
    cluster.each_with("--dead-after", "2s");
    cluster.start_all();
    cluster.all_ready().await;
    let load = Load::start(&cluster).await;
    for id in [4, 5] {
        let server = Server::joining(cluster.folder(), id, &cluster.addrs()).with("--dead-after", "2s");
        cluster.add(server).await;
    }
    let is_off = |map: &kontiki_types::PartitionMap, node: u64| !holders(map).contains(&node);
    let from_us = load.history().now_us();
    cluster.node(2).kill().await;
    until("what node 2 held is elsewhere", &cluster, &load.client, |map| is_redundant(map, 3) && is_off(map, 2)).await;
    load.tell("a dead node replaced by itself", from_us);

    let addrs = cluster.addrs();
    program::run_at(&addrs, &["node", "remove", "3"]).await.expect_failure(2, &["n3 answers", "decommission", "--force"]);
    program::run_at(&addrs, &["node", "remove", "9"]).await.expect_failure(2, &["there is no node n9"]);
    let said = program::run_at(&addrs, &["node", "remove", "2"]).await.expect_ok();
    assert!(said.contains("n2 is given up"), "{said}");
    until("node 2 is gone", &cluster, &load.client, |map| state(map, 2) == Some(NodeState::Gone)).await;
    // It does not come back under its number.
    cluster.node(2).start();
    let told = kontiki_tests::progress::statuses(&load.client).await.expect("asked");
    assert!(!told.contains_key(&2), "a node that is gone is not asked");
    cluster.node(2).says("takes part no more", "holds nothing any more").await;
    // One that answers is given up only if that is meant.
    let said = program::run_at(&addrs, &["node", "remove", "3", "--force"]).await.expect_ok();
    assert!(said.contains("n3 is given up"), "{said}");
    cluster.node(3).says("n3 was given up", "n3 was decommissioned").await;
    until("three replicas without it", &cluster, &load.client, |map| is_redundant(map, 3) && is_off(map, 3)).await;
    load.end(&cluster).await;
}
