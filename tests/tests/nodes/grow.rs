//! One node becomes three and five, under load.

use kontiki_tests::processes::{Cluster, DEADLINE, Server};

use crate::{Load, cuts, holders, is_redundant, until, until_tidy};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_grows_to_three_and_to_five_while_clients_write() {
    let mut cluster = Cluster::of(|folder| vec![Server::alone_with(folder, &cuts()).with("--replicas", "5")]);
    cluster.start_all();
    cluster.all_ready().await;
    let load = Load::start(&cluster).await;
    for (id, replicas) in [(2, 1), (3, 3), (4, 3), (5, 5)] {
        let from_us = load.history().now_us();
        // Any node will do, also one that has just come.
        let known = cluster.addrs().split_off(cluster.addrs().len() - 1);
        let server = Server::joining(cluster.folder(), id, &known);
        cluster.add(server).await;
        until(&format!("{replicas} replicas on {id} nodes"), &cluster, &load.client, |map| {
            map.nodes.len() == id as usize && is_redundant(map, replicas)
        })
        .await;
        load.serves().await;
        load.tell(&format!("{id} nodes, {replicas} replicas"), from_us);
    }
    until("every node holds something", &cluster, &load.client, |map| holders(map).len() == 5).await;
    // The first node can go: what it had is elsewhere too.
    let from_us = load.history().now_us();
    cluster.node(1).kill().await;
    load.serves().await;
    load.tell("the first node killed", from_us);
    cluster.node(1).start();
    cluster.node(1).ready().await.unwrap_or_else(|why| panic!("{why}"));
    kontiki_tests::progress::caught_up(&load.client, 1, DEADLINE).await.unwrap_or_else(|why| panic!("{why}"));
    until_tidy(&cluster, &load.client).await;
    load.end(&cluster).await;
}
