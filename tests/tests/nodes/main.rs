//! Nodes come and go: real processes, clients that write all the while, and every history judged at the end. Nothing acknowledged is
//! lost, nothing is applied twice, and the redundancy is what it should be again. The stalls are printed
//! (`cargo test --test nodes -- --nocapture`).
#![allow(clippy::disallowed_methods, reason = "a test that plays operator: it wipes directories")]

mod driver;
mod grow;
mod leave;
mod refused;
mod replace;
mod stop;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kontiki_client::{Client, ClientOptions};
use kontiki_tests::history::{History, longest_gap};
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE};
use kontiki_tests::progress::statuses;
use kontiki_tests::workload::{Group, Workload, everything, judge};
use kontiki_types::{NodeState, PartitionMap, Role};
use tokio::time::{Instant, sleep};

/// Fewer acknowledged writes than this prove little.
const ENOUGH: u64 = 200;
/// How often a question is repeated.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Three partitions of user keys: those before `b`, those before `c`, the rest.
fn cuts() -> Cuts {
    Cuts::At(["b", "c"].map(str::to_owned).to_vec())
}

fn groups() -> Vec<Group> {
    (2..).zip(["a", "b", "c"]).map(|(partition, prefix)| Group { partition, prefix: format!("{prefix}/") }).collect()
}

/// Clients that write, and what must be so in the end.
struct Load {
    client: Client,
    workload: Workload,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let client = cluster.client().await;
        let patient = cluster.client_with(ClientOptions { timeout: Duration::from_secs(90), ..ClientOptions::default() }).await;
        let workload = Workload::start(&client, &patient, &groups());
        let load = Self { client, workload };
        load.serves().await;
        load
    }

    fn history(&self) -> &History {
        self.workload.history()
    }

    /// Waits until writes called from now on are acknowledged in every partition.
    async fn serves(&self) {
        let partitions: Vec<u64> = groups().iter().map(|group| group.partition).collect();
        let served = self.history().served_since(&partitions, self.history().now_us(), DEADLINE).await;
        served.unwrap_or_else(|why| panic!("{why}"));
    }

    /// Prints the longest time without an acknowledgement since `from_us`, by partition.
    fn tell(&self, what: &str, from_us: u64) -> u128 {
        let (operations, now) = (self.history().operations(), self.history().now_us());
        let stalls: Vec<u128> = groups()
            .iter()
            .map(|group| longest_gap(&operations, from_us, now, |operation| operation.key.starts_with(&group.prefix)).as_millis())
            .collect();
        println!(
            "{what}: took {} ms, longest time without an acknowledgement by partition, ms: {stalls:?}",
            (now - from_us) / 1000
        );
        stalls.into_iter().max().unwrap_or(0)
    }

    /// Lets the clients finish, and judges what they saw.
    async fn end(self, cluster: &Cluster) {
        self.serves().await;
        let history: Arc<History> = self.workload.stop(DEADLINE).await;
        let finals = everything(&self.client.with_timeout(DEADLINE)).await.expect("the store can be read");
        let operations = history.operations();
        let acknowledged = operations.iter().filter(|operation| operation.is_acknowledged_write()).count() as u64;
        println!("{} calls, {acknowledged} writes acknowledged", operations.len());
        assert!(acknowledged >= ENOUGH, "only {acknowledged} writes were acknowledged: this proves little");
        let violations = judge(&operations, &finals);
        let shown = violations.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        let logs: Vec<String> = cluster.nodes().iter().map(|node| node.log_tail(30)).collect();
        assert!(violations.is_empty(), "{} violations:\n  {shown}\n{}", violations.len(), logs.join("\n---\n"));
    }
}

/// Waits until a question about the map is answered with yes.
async fn until(what: &str, cluster: &Cluster, client: &Client, mut holds: impl FnMut(&PartitionMap) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let map = client.refresh_map().await;
        if map.as_ref().is_ok_and(|map| holds(map)) {
            return;
        }
        if Instant::now() > deadline {
            let logs: Vec<String> = cluster.nodes().iter().map(|node| node.log_tail(30)).collect();
            panic!("not in time: {what}: {map:?}\n{}", logs.join("\n---\n"));
        }
        sleep(ASK_EVERY).await;
    }
}

/// Whether every partition has this many voters, on nodes that take part, and none is changing.
fn is_redundant(map: &PartitionMap, replicas: usize) -> bool {
    let active = |node| map.node(node).is_some_and(|info| info.state == NodeState::Active);
    let good = |replica: &kontiki_types::Replica| replica.role == Role::Voter && active(replica.node);
    map.partitions.len() == groups().len() + 1
        && map.partitions.iter().all(|descriptor| descriptor.replicas.len() == replicas && descriptor.replicas.iter().all(good))
}

/// The nodes that hold something, as the map has it.
fn holders(map: &PartitionMap) -> BTreeSet<u64> {
    map.partitions.iter().flat_map(|descriptor| &descriptor.replicas).map(|replica| replica.node.0).collect()
}

/// Waits until every node holds the replicas that the map gives it, and no others: those that were moved away are deleted.
async fn until_tidy(cluster: &Cluster, client: &Client) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let map = client.refresh_map().await.expect("a map");
        let all = statuses(client).await.expect("asked");
        let wanted = |node: u64| -> BTreeSet<u64> {
            let held = map.partitions.iter().filter(|descriptor| descriptor.replica_on(node.into()).is_some());
            held.map(|descriptor| descriptor.id.0).collect()
        };
        let has: Vec<(u64, BTreeSet<u64>)> = all
            .iter()
            .map(|(node, status)| (*node, status.partitions.iter().map(|partition| partition.id.0).collect()))
            .collect();
        if has.iter().all(|(node, held)| wanted(*node) == *held) {
            return;
        }
        if Instant::now() > deadline {
            let logs: Vec<String> = cluster.nodes().iter().map(|node| node.log_tail(30)).collect();
            panic!("replicas are left where they should not be: {has:?}, the map: {map:?}\n{}", logs.join("\n---\n"));
        }
        sleep(ASK_EVERY).await;
    }
}
