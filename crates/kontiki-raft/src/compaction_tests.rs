//! Logs that are trimmed while they are used, on nodes that crash.

use kontiki_types::read::ReadData;
use kontiki_types::{Descriptor, KeyRange, NamespaceId, NodeId, Op, PartitionId, Read, ReadLevel, key};

use crate::testing::cluster::{Cluster, WAIT, descriptor_on, eventually, get, put, seen};
use crate::{Group, LogRetention};

/// Trims at nearly every look.
fn eager() -> LogRetention {
    LogRetention { entries_per_group: 16, every_ms: 5, ..LogRetention::default() }
}

fn purged(group: &Group) -> u64 {
    use openraft::async_runtime::watch::WatchReceiver;
    group.raft().metrics().borrow_watched().purged.map_or(0, |id| id.index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_trims_its_log_and_nothing_is_lost() {
    let mut cluster = Cluster::start_with(3, eager()).await;
    let leader = cluster.leader().await;
    for i in 0..200 {
        leader.write(put(&format!("k{i}"), "v", None)).await.expect("writes");
    }
    eventually("all three have trimmed", async || cluster.running().all(|group| purged(&group) > 100)).await;
    for groups in cluster.groups.iter().flatten() {
        let stats = groups.log_stats();
        assert!(stats.entries <= 116 && stats.trims > 0 && stats.flushes > 0 && stats.flushed_ago_ms.is_some(), "{stats:?}");
        for group in groups.all() {
            let (applied, durable) = (group.places().applied().0, group.places().durable().0);
            assert!(Some(purged(&group)) <= durable.map(|id| id.index) && durable <= applied, "purged <= durable <= applied");
        }
    }
    drop(leader);
    // All engines lose what they may lose, each as much as it can.
    for at in 0..3 {
        cluster.crash_keeping(at, 0).await;
    }
    for at in 0..3 {
        cluster.open(at).await;
    }
    let leader = cluster.leader().await;
    for i in 0..200 {
        assert_eq!(get(&leader, &ReadLevel::Linearizable, &format!("k{i}")).await.expect("reads"), Some("v".into()), "k{i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_crashes_while_it_trims_comes_back_whole() {
    let mut cluster = Cluster::start_with(1, eager()).await;
    let mut written = 0;
    for round in 0..8u64 {
        let leader = cluster.leader().await;
        for _ in 0..40 {
            leader.write(put(&format!("k{written}"), "v", None)).await.expect("writes");
            written += 1;
        }
        drop(leader);
        // In the middle of whatever it does: the coin says how much of what was not flushed the engine keeps.
        cluster.crash_keeping(0, round).await;
        cluster.open(0).await;
    }
    let leader = cluster.leader().await;
    assert!(purged(&leader) > 0, "it has trimmed");
    for i in 0..written {
        assert_eq!(get(&leader, &ReadLevel::Linearizable, &format!("k{i}")).await.expect("reads"), Some("v".into()), "k{i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_close_is_waited_for_and_one_that_is_silent_is_not() {
    let cluster = Cluster::start_with(3, LogRetention { entries_per_group: 64, every_ms: 5, ..LogRetention::default() }).await;
    let leader = cluster.leader().await;
    let behind = cluster.running().find(|group| group.replica() != leader.replica()).expect("a follower");
    let node = cluster.nodes[cluster.place_of(&behind)].id;
    let at = leader.write(put("k", "v", None)).await.expect("writes").version;
    get(&behind, &seen(at), "k").await.expect("it is there");
    let has = leader.status().last_next;
    cluster.wires.cut(node, true);
    for i in 0..60 {
        leader.write(put(&format!("a{i}"), "v", None)).await.expect("two are enough");
    }
    let other = cluster.running().find(|group| group.replica() != leader.replica() && group.replica() != behind.replica());
    let other = other.expect("the third");
    for i in 0..20 {
        leader.write(put(&format!("b{i}"), "v", None)).await.expect("two are enough");
    }
    eventually("the third trims by itself", async || purged(&other) >= has).await;
    assert!(purged(&leader) < has, "the leader keeps what the one that was just cut off lacks");
    // Once the lag is beyond what is kept, the silent one is left to a snapshot.
    for i in 0..80 {
        leader.write(put(&format!("c{i}"), "v", None)).await.expect("two are enough");
    }
    eventually("the leader goes on without it", async || purged(&leader) > has).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_does_not_keep_the_log_from_being_recycled() {
    let retention = LogRetention { node_bytes: 4 << 20, every_ms: 5, ..LogRetention::default() };
    let cluster = Cluster::start_with(1, retention).await;
    let busy = cluster.leader().await;
    let elsewhere = KeyRange::namespace(NamespaceId(9));
    let idle = Descriptor { id: PartitionId(3), range: elsewhere, ..descriptor_on(1) };
    let idle = cluster.groups(0).create(idle).await.expect("creates");
    idle.initialize().await.expect("initialises");
    let led = |leader: &Option<NodeId>| leader.is_some();
    tokio::time::timeout(WAIT, idle.leadership().wait_for(led)).await.expect("in time").expect("runs");
    let mut one = put("idle", "v", None);
    one.ops = vec![Op::Put { key: key::internal(NamespaceId(9), b"idle"), value: "v".into() }];
    idle.write(one).await.expect("writes");
    let large = "x".repeat(256 * 1024);
    for _ in 0..80 {
        busy.write(put("k", &large, None)).await.expect("writes");
    }
    eventually("old segments go", async || {
        busy.write(put("k", &large, None)).await.expect("writes");
        cluster.groups(0).log_stats().size_bytes <= 6 << 20
    })
    .await;
    assert_eq!(cluster.groups(0).log_reader().footprint(PartitionId(3)), None, "the idle group was trimmed");
    let read = Read::Get { keys: vec![key::internal(NamespaceId(9), b"idle")] };
    let read = idle.read(&ReadLevel::Linearizable, &read, WAIT).await.expect("reads");
    assert!(matches!(&read.data, ReadData::Values(rows) if rows[0].is_some()), "{read:?}");
}
