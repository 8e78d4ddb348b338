//! How far the nodes are: who leads what, and whether a node has applied what the others have. Asked of the nodes themselves with
//! `Cluster.Status`.

use std::collections::BTreeMap;
use std::time::Duration;

use kontiki_client::{Client, NodeStatus};
use tokio::time::{Instant, sleep};

/// How often the nodes are asked.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// The status of every node that answers, by node id.
///
/// # Errors
/// If the cluster cannot be asked at all.
pub async fn statuses(client: &Client) -> Result<BTreeMap<u64, NodeStatus>, String> {
    let all = client.status().await.map_err(|error| error.to_string())?;
    Ok(all.into_iter().filter_map(|(node, status)| Some((node.id.0, status.ok()?))).collect())
}

/// Who leads each partition: the node that says so of itself, in the highest term.
pub fn leaders(statuses: &BTreeMap<u64, NodeStatus>) -> BTreeMap<u64, u64> {
    let mut best: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (node, status) in statuses {
        for partition in status.partitions.iter().filter(|partition| partition.leader.map(|leader| leader.0) == Some(*node)) {
            let known = best.entry(partition.id.0).or_default();
            *known = (*known).max((partition.term, *node));
        }
    }
    best.into_iter().map(|(partition, (_, node))| (partition, node)).collect()
}

/// Waits until every partition of `partitions` has a leader among the nodes that answer, and returns the leaders.
///
/// # Errors
/// Which are missing when the time is over.
pub async fn all_led(client: &Client, partitions: &[u64], within: Duration) -> Result<BTreeMap<u64, u64>, String> {
    let until = Instant::now() + within;
    loop {
        let known = statuses(client).await.map(|statuses| leaders(&statuses));
        match &known {
            Ok(leaders) if partitions.iter().all(|partition| leaders.contains_key(partition)) => return known,
            _ if Instant::now() > until => return Err(format!("no leader of all of {partitions:?} after {within:?}: {known:?}")),
            _ => sleep(ASK_EVERY).await,
        }
    }
}

/// Waits until `node` has applied, in every partition that it holds, at least what any node knew to be committed when this was
/// called. Returns `(applied on the node, committed then)` by partition.
///
/// # Errors
/// How far it is when the time is over.
pub async fn caught_up(client: &Client, node: u64, within: Duration) -> Result<BTreeMap<u64, (u64, u64)>, String> {
    let until = Instant::now() + within;
    let mut goal: BTreeMap<u64, u64> = BTreeMap::new();
    for status in statuses(client).await?.values() {
        for partition in &status.partitions {
            let committed = goal.entry(partition.id.0).or_default();
            *committed = partition.committed_index.max(*committed);
        }
    }
    loop {
        let statuses = statuses(client).await?;
        let applied: BTreeMap<u64, u64> = statuses
            .get(&node)
            .map(|status| status.partitions.iter().map(|partition| (partition.id.0, partition.applied_index)).collect())
            .unwrap_or_default();
        let at = |partition: &u64| applied.get(partition).copied().unwrap_or(0);
        if !goal.is_empty() && goal.iter().all(|(partition, committed)| at(partition) >= *committed) {
            return Ok(goal.iter().map(|(partition, committed)| (*partition, (at(partition), *committed))).collect());
        }
        if Instant::now() > until {
            let behind: Vec<_> = goal.iter().filter(|(partition, goal)| at(partition) < **goal).collect();
            return Err(format!(
                "node {node} has not caught up after {within:?}: (partition, goal) {behind:?}, applied {applied:?}"
            ));
        }
        sleep(ASK_EVERY).await;
    }
}
