//! SIGTERM: a node hands its leaderships over before anything else, so that nobody waits for an election.

use std::time::Duration;

use kontiki_tests::processes::{Cluster, DEADLINE};
use kontiki_tests::progress;
use tokio::time::Instant;

use crate::{Load, cuts, groups};

/// A stop takes less than this.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Writes stall for less than this: an election that nobody asked for takes longer (0.95 s and more). On a machine that does nothing else it is
/// below 100 ms, which `bench nodes` measures.
const STALL_MS_MAX: u128 = 700;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let load = Load::start(&cluster).await;
    let partitions: Vec<u64> = groups().iter().map(|group| group.partition).collect();
    let mut stalls = Vec::new();
    for id in 1..=3 {
        let leaders = progress::all_led(&load.client, &partitions, DEADLINE).await.expect("every partition is led");
        let (from_us, since) = (load.history().now_us(), Instant::now());
        assert!(cluster.node(id).stop().await.success());
        let took = since.elapsed();
        load.serves().await;
        let stalled = load.tell(&format!("node {id}, leading {:?}, stopped within {took:?}", leaders), from_us);
        stalls.push(stalled);
        assert!(took < STOP_WITHIN, "the stop took {took:?}");
        cluster.node(id).start();
        cluster.node(id).ready().await.unwrap_or_else(|why| panic!("{why}"));
        progress::caught_up(&load.client, id, DEADLINE).await.unwrap_or_else(|why| panic!("{why}"));
    }
    stalls.sort_unstable();
    assert!(stalls[2] < STALL_MS_MAX, "writes stalled while nodes were stopped: {stalls:?} ms");
    load.end(&cluster).await;
}
