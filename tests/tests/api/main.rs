//! One API suite, run through every way in: the client of a node in this process (alone, and one of three), a client over gRPC, and
//! gRPC without routes to the leader and to a follower, which must forward. Then what only shows on the wire.
//!
//! ```text
//!   case ── keys, conditions, scans, levels, limits, sessions     the suite: functions of a client and its part of the keys
//!   unrouted                                                      a way in that lets the nodes do the routing
//!   wire ── raw                                                   codes, routes, malformed calls
//! ```
#![allow(
    unreachable_pub,
    reason = "nothing of a program is reached from outside; `pub` marks what a module offers to the others"
)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test: it opens sockets of its own to send garbage")]

mod case;
mod changes;
mod conditions;
mod keys;
mod levels;
mod limits;
mod raw;
mod scans;
mod sessions;
mod unrouted;
mod wire;

use futures::future::try_join_all;
use kontiki_client::Client;
use kontiki_server::{Node, NodeOptions};
use kontiki_tests::ports::free_addr;
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE};
use kontiki_tests::progress;
use kontiki_types::{Bytes, ErrorKind, NodeId, PartitionId};

use case::{Case, cuts, refused};
use unrouted::{Role, Unrouted};
use wire::Door;

/// The suite.
async fn suite(client: &Client, prefix: &'static str) {
    let case = &Case { client: client.clone(), prefix };
    client.refresh_map().await.expect("the map");

    keys::delete_range(case).await;
    keys::put_get_delete(case).await;
    keys::any_bytes(case).await;
    keys::batch_get(case).await;
    keys::versions_rise(case).await;

    conditions::each_kind(case).await;
    conditions::all_or_nothing(case).await;
    conditions::one_partition(case).await;
    conditions::compare_and_set(case).await;

    scans::directions_and_pages(case).await;
    scans::limits_and_keys_only(case).await;
    scans::nothing(case).await;
    scans::resume(case).await;
    scans::one_version(case).await;
    changes::since_a_version(case).await;
    changes::on_top_of_a_snapshot(case).await;

    levels::linearizable(case).await;
    levels::at_least(case).await;
    levels::bounded_stale(case).await;
    levels::snapshot(case).await;
    levels::clocks(case).await;

    limits::keys(case).await;
    limits::values(case).await;
    limits::requests(case).await;
    limits::counts(case).await;
    limits::ranges(case).await;

    sessions::retries(case).await;
    sessions::too_old(case).await;
    sessions::window(case).await;
    sessions::shared(case).await;
}

fn boundaries(prefixes: &[&str]) -> Vec<String> {
    let mut keys: Vec<String> = prefixes.iter().flat_map(|prefix| cuts(prefix)).collect();
    keys.sort();
    keys
}

fn as_bytes(keys: Vec<String>) -> Vec<Bytes> {
    keys.into_iter().map(Bytes::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_in_a_node_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = NodeOptions {
        data_dir: folder.path().join("node"),
        boundaries: as_bytes(boundaries(&["alone/"])),
        ..NodeOptions::default()
    };
    let node = Node::start(options).await.expect("the node starts");
    suite(&node.client(), "alone/").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_in_one_of_three_nodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let members: Vec<(NodeId, String)> = (1..=3).map(|id| (NodeId(id), free_addr())).collect();
    let starts = members.iter().map(|(id, addr)| {
        Node::start(NodeOptions {
            data_dir: folder.path().join(id.to_string()),
            node_id: *id,
            listen: addr.clone(),
            members: members.clone(),
            boundaries: as_bytes(boundaries(&["three/"])),
            ..NodeOptions::default()
        })
    });
    let nodes = try_join_all(starts).await.expect("the nodes start");
    suite(&nodes[1].client(), "three/").await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc() {
    let prefixes = ["follower/", "leader/", "smart/", "wire-follower/", "wire-leader/"];
    let cluster = Cluster::start(3, Cuts::At(boundaries(&prefixes))).await;
    let addrs = cluster.addrs();
    // One address is enough: the client finds the other nodes by itself.
    let client = Client::connect([addrs[2].clone()]).await.expect("a node answers");
    suite(&client, "smart/").await;

    let map = client.refresh_map().await.expect("the map");
    let partitions: Vec<u64> = map.partitions.iter().map(|partition| partition.id.0).collect();
    let leaders = progress::all_led(&client, &partitions, DEADLINE).await.expect("every partition is led");
    for (role, prefix) in [(Role::Leader, "leader/"), (Role::Follower, "follower/")] {
        let unrouted = Unrouted::client(&map, &addrs, &leaders, role).await;
        suite(&unrouted, prefix).await;
    }

    for (leads, prefix) in [(true, "wire-leader/"), (false, "wire-follower/")] {
        let case = Case { client: client.clone(), prefix };
        let leaders = progress::all_led(&client, &partitions, DEADLINE).await.expect("every partition is led");
        let leader = leaders[&case.partition("a/wire").0];
        let node = if leads { leader } else { leader % 3 + 1 };
        Door { node, addr: addrs[node as usize - 1].clone(), leads }.check(&case).await;
    }
    transfers(&client, &partitions).await;
}

/// Leadership of a partition goes where it is sent, and writes go on.
async fn transfers(client: &Client, partitions: &[u64]) {
    let partition = PartitionId(partitions[1]);
    for to in [1, 2, 3, 1] {
        client.transfer_leader(partition, NodeId(to)).await.expect("it is handed over");
        client.put("follower/", format!("written under {to}")).await.expect("writes go on");
    }
    let sentence = "invalid request: partition p999 is not on the map; `partitions` lists those that are";
    refused(client.transfer_leader(PartitionId(999), NodeId(1)).await, ErrorKind::Invalid, sentence);
    refused(client.transfer_leader(partition, NodeId(77)).await, ErrorKind::Invalid, "invalid request: *n77*");
}
