//! SIGKILL: three real processes, clients that write, and each node killed in turn, then all at once. What was acknowledged is there, no
//! retry is applied twice, and the cluster serves again. The stalls are printed (`cargo test --test kill -- --nocapture`).
#![allow(clippy::disallowed_methods, reason = "a test: it keeps what the clients saw in a file if a check fails")]

use std::time::Duration;

use kontiki_client::{Client, ClientOptions};
use kontiki_tests::history::{History, longest_gap};
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE};
use kontiki_tests::progress;
use kontiki_tests::workload::{Group, Workload, everything, judge};

/// Fewer acknowledged writes than this prove little.
const ENOUGH: u64 = 1000;

/// One group of keys per partition: partition 2 holds the keys before `b`, 3 those from `b`, and so on.
fn groups() -> Vec<Group> {
    (2..)
        .zip(["a", "b", "c", "d", "e", "f"])
        .map(|(partition, prefix)| Group { partition, prefix: format!("{prefix}/") })
        .collect()
}

fn cuts() -> Cuts {
    Cuts::At(["b", "c", "d", "e", "f"].map(str::to_owned).to_vec())
}

/// A client whose calls go on for longer than any outage here.
async fn patient(cluster: &Cluster) -> Client {
    cluster.client_with(ClientOptions { timeout: Duration::from_secs(90), ..ClientOptions::default() }).await
}

/// Waits until writes called from now on are acknowledged in every partition.
async fn serves(history: &History, partitions: &[u64]) {
    if let Err(why) = history.served_since(partitions, history.now_us(), DEADLINE).await {
        panic!("{why}");
    }
}

fn stall(history: &History, from_us: u64, key: &str) -> u128 {
    longest_gap(&history.operations(), from_us, history.now_us(), |operation| operation.key.starts_with(key)).as_millis()
}

/// Prints how long writes stalled since `from_us`, in the partitions that `node` led and in the others.
fn tell(what: &str, history: &History, from_us: u64, groups: &[Group], of_node: impl Fn(&Group) -> bool) {
    let (mut led, mut others) = (Vec::new(), Vec::new());
    for group in groups {
        let stalled = stall(history, from_us, &group.prefix);
        if of_node(group) { led.push(stalled) } else { others.push(stalled) }
    }
    println!("{what}: longest time without an acknowledgement, ms: partitions it led {led:?}, the others {others:?}");
}

fn check(history: &History, finals: &kontiki_tests::checks::Finals, cluster: &Cluster) {
    let operations = history.operations();
    let acknowledged = operations.iter().filter(|operation| operation.is_acknowledged_write()).count();
    let outcome = |word: &str| operations.iter().filter(|operation| format!("{:?}", operation.outcome).starts_with(word)).count();
    let (failed, unknown) = (outcome("Failed"), outcome("Unknown"));
    println!("{} calls: {acknowledged} writes acknowledged, {failed} calls failed, {unknown} left open", operations.len());
    assert!(acknowledged as u64 >= ENOUGH, "only {acknowledged} writes were acknowledged: this proves little");
    let violations = judge(&operations, finals);
    if !violations.is_empty() {
        let kept = std::env::temp_dir().join(format!("kontiki-kill-{}.jsonl", std::process::id()));
        history.save(&kept).expect("the history can be kept");
        let logs: Vec<String> = cluster.nodes().iter().map(|node| node.log_tail(40)).collect();
        let shown = violations.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        panic!("{} violations (history: {}):\n  {shown}\n{}", violations.len(), kept.display(), logs.join("\n---\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_no_retry_is_applied_twice() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let (client, patient) = (cluster.client().await, patient(&cluster).await);
    let groups = groups();
    let partitions: Vec<u64> = groups.iter().map(|group| group.partition).collect();
    let workload = Workload::start(&client, &patient, &groups);
    let history = workload.history();
    serves(history, &partitions).await;

    for id in 1..=3 {
        let leaders = progress::all_led(&client, &partitions, DEADLINE).await.expect("every partition is led");
        let from_us = history.now_us();
        cluster.node(id).kill().await;
        serves(history, &partitions).await;
        tell(&format!("node {id} killed"), history, from_us, &groups, |group| leaders[&group.partition] == id);
        cluster.node(id).start();
        cluster.node(id).ready().await.unwrap_or_else(|why| panic!("{why}"));
        progress::caught_up(&client, id, DEADLINE).await.unwrap_or_else(|why| panic!("{why}"));
        println!("node {id} is back and has caught up after {} ms", (history.now_us() - from_us) / 1000);
    }

    let from_us = history.now_us();
    cluster.kill_all().await;
    cluster.start_all();
    cluster.all_ready().await;
    serves(history, &partitions).await;
    tell("all nodes killed and started", history, from_us, &groups, |_| true);

    let history = workload.stop(DEADLINE).await;
    let finals = everything(&client).await.expect("the store can be read");
    check(&history, &finals, &cluster);
}

/// Everything is killed at once and nobody writes any more: what is there after the restart was on disk before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_death_of_all_nodes() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let (client, patient) = (cluster.client().await, patient(&cluster).await);
    let groups = groups();
    let workload = Workload::start(&client, &patient.with_timeout(Duration::from_millis(500)), &groups);
    let partitions: Vec<u64> = groups.iter().map(|group| group.partition).collect();
    serves(workload.history(), &partitions).await;
    workload.history().written(2 * ENOUGH, DEADLINE).await.expect("the cluster serves");
    cluster.kill_all().await;
    // The clients find nobody; their calls end, and they with them.
    let history = workload.stop(DEADLINE).await;
    cluster.start_all();
    cluster.all_ready().await;
    let fresh = cluster.client().await.with_timeout(DEADLINE);
    let finals = everything(&fresh).await.expect("the store can be read");
    check(&history, &finals, &cluster);
}
