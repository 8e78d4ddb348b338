//! Many callers, one client, everything going wrong at random from a seed: every acknowledged increment is there once, nothing is applied
//! twice, and what is in doubt is called so.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use kontiki_types::{CallError, ErrorKind, NodeId, Retry, Version};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fake::{Cluster, Fault};
use super::options;
use crate::{Client, ClientOptions, WriteBatch};

const COUNTERS: [&str; 4] = ["a", "g", "p", "z"];

#[derive(Debug, Default)]
struct Outcome {
    acknowledged: [u64; 4],
    in_doubt: [u64; 4],
    refused: u64,
}

/// Increments counters by compare-and-set until told to stop.
async fn increment(client: Client, seed: u64) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut outcome = Outcome::default();
    for _ in 0..40 {
        let at = rng.random_range(0..COUNTERS.len());
        let key = COUNTERS[at];
        let Ok(row) = client.get(key).await else { continue };
        let (count, version) = row.map_or((0, Version::ZERO), |row| (number(&row.value), row.version));
        let batch = WriteBatch::new().if_version(key, version).put(key, (count + 1).to_string());
        match client.write(batch).await {
            Ok(_) => outcome.acknowledged[at] += 1,
            Err(error) if error.kind() == ErrorKind::Ambiguous => outcome.in_doubt[at] += 1,
            Err(error) => {
                let proven = matches!(error.kind(), ErrorKind::ConditionFailed | ErrorKind::Unavailable | ErrorKind::Overloaded);
                assert!(proven, "{error}");
                outcome.refused += 1;
            }
        }
    }
    outcome
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).expect("digits").parse().expect("a number")
}

/// Breaks something every few milliseconds.
async fn break_things(cluster: Cluster, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut splits = ["t", "j", "d"].into_iter().zip([20, 21, 22]);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
        let partitions: Vec<u64> = cluster.state().partitions.keys().map(|id| id.0).collect();
        let partition = partitions[rng.random_range(0..partitions.len())];
        match rng.random_range(0..12) {
            0 => cluster.lead(partition, None),
            1..=3 => cluster.lead(partition, Some(rng.random_range(1..=3))),
            4 => cluster.state().faults.push_back(Fault::LoseReply),
            5 => cluster.state().faults.push_back(Fault::LoseRequest),
            6 => cluster.state().faults.push_back(Fault::Hang),
            7 => cluster.state().faults.push_back(Fault::Late(Duration::from_millis(rng.random_range(1..3000)))),
            8 => {
                let full = Retry::Overloaded { what: "proposals".into(), limit: 1, retry_after_ms: 20 };
                cluster.state().faults.push_back(Fault::Fail(full.into()));
            }
            9 => cluster.state().faults.push_back(Fault::Fail(CallError::unavailable("no quorum"))),
            10 if rng.random_bool(0.2) => cluster.forget_sessions(),
            10 => {
                let node = NodeId(rng.random_range(1..=3));
                if !cluster.state().down.remove(&node) {
                    cluster.state().down.insert(node);
                }
            }
            _ if rng.random_bool(0.1) => {
                if let Some((at, id)) = splits.next() {
                    let parent = cluster.map().lookup(&super::fake::internal(at)).expect("tiled").id.0;
                    cluster.split(parent, at, id);
                }
            }
            _ => {}
        }
    }
    // Heal.
    let mut state = cluster.state();
    state.down.clear();
    state.faults.clear();
    state.partitions.values_mut().for_each(|partition| partition.leader = Some(NodeId(2)));
}

async fn run(seed: u64) -> (u64, u64, Vec<String>) {
    let cluster = Cluster::new(&["m"]);
    let options = ClientOptions {
        seed: Some(seed),
        timeout: Duration::from_secs(2),
        attempt_timeout: Duration::from_millis(300),
        ..options()
    };
    let client = cluster.client(options.clone());
    let breaking = tokio::spawn(break_things(cluster.clone(), seed));
    let callers = join_all((0..6).map(|caller| tokio::spawn(increment(client.clone(), seed * 100 + caller)))).await;
    breaking.await.expect("no panic");
    cluster.until(|cluster| cluster.state().late == 0).await;
    let outcomes: Vec<Outcome> = callers.into_iter().map(|caller| caller.expect("no panic")).collect();
    let mut totals = (0, 0, Vec::new());
    for (at, key) in COUNTERS.into_iter().enumerate() {
        let acknowledged: u64 = outcomes.iter().map(|outcome| outcome.acknowledged[at]).sum();
        let in_doubt: u64 = outcomes.iter().map(|outcome| outcome.in_doubt[at]).sum();
        let found = client.get(key).await.expect("healed").map_or(0, |row| number(&row.value));
        assert!(
            found >= acknowledged && found <= acknowledged + in_doubt,
            "seed {seed}, {key}: {acknowledged} acknowledged, {in_doubt} in doubt, {found} found"
        );
        totals.0 += acknowledged;
        totals.1 += in_doubt;
        totals.2.push(format!("{key}={found}"));
    }
    assert!(cluster.state().executed.values().all(|times| *times == 1), "seed {seed}: executed twice");
    totals
}

#[tokio::test(start_paused = true)]
async fn every_acknowledged_increment_is_there_exactly_once() {
    let (mut acknowledged, mut in_doubt) = (0, 0);
    for seed in 1..=25 {
        let (sure, doubt, _) = run(seed).await;
        acknowledged += sure;
        in_doubt += doubt;
    }
    // The test has teeth only if both happen.
    assert!(acknowledged > 500, "{acknowledged}");
    assert!(in_doubt > 5, "{in_doubt}");
}
