//! Planned hand-overs: the node that leads the most partitions gets SIGTERM while clients write; how long its process takes to end, and
//! how long the client waited that waited longest. Then it is started again, and the next one's turn comes.

use std::collections::BTreeMap;
use std::time::Duration;

use kontiki::NodeId;
use kontiki_client::Client;
use tokio::time::{Instant, sleep};

use super::figure::median_and_worst;
use super::writers::Writers;
use super::{Bench, Limit, NODES, watch};
use crate::Failure;
use crate::processes::{self, Servers};

/// User partitions: one for each node to lead.
const PARTITIONS: u32 = 3;
/// Clients, and how long each pauses between two calls: enough that some call is always under way, and the processors are not full.
const WRITERS: u64 = 16;
const PAUSE: Duration = Duration::from_millis(4);
/// Writing before the signal, to see what calls take in quiet times; and after the process is gone.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_millis(500);
/// Leaders are spread within this after a restart, or the round is done as it is.
const SPREAD_WITHIN: Duration = Duration::from_secs(20);
/// A stop takes less, in ms (the limit).
const STOP_MS_MAX: f64 = 2000.0;
/// No client waits longer because of it, in ms (the limit).
pub(super) const STALL_MS_MAX: f64 = 100.0;

#[derive(Default)]
struct Rounds {
    stop_ms: Vec<f64>,
    stall_ms: Vec<f64>,
    quiet_ms: Vec<f64>,
    failed: u64,
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let prepared = bench.cluster(NODES, 0, PARTITIONS)?;
    let (mut servers, client) = bench.start(&prepared).await?;
    let mut writers = Writers::start(&client, WRITERS, PAUSE, bench.plan.seed);
    let mut rounds = Rounds::default();
    for round in 1..=bench.plan.rounds {
        one(bench, (&mut servers, &client), &writers, &mut rounds, round).await?;
    }
    let first_error = writers.finish().await?;
    let (stop, stop_worst) = median_and_worst(&rounds.stop_ms);
    let (stall, stall_worst) = median_and_worst(&rounds.stall_ms);
    let (quiet, quiet_worst) = median_and_worst(&rounds.quiet_ms);
    let all = |values: &[f64]| values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" ");
    let count = rounds.stop_ms.len();
    bench.note("SIGTERM to end of process, median", (stop, "ms"), Limit::AtMost(STOP_MS_MAX), "");
    bench.note(
        "the same, worst",
        (stop_worst, "ms"),
        Limit::AtMost(STOP_MS_MAX),
        format!("of {count}: {}", all(&rounds.stop_ms)),
    );
    bench.note("longest call of any client, median", (stall, "ms"), Limit::AtMost(STALL_MS_MAX), "");
    let note = format!(
        "of {count}: {}; {WRITERS} clients over {PARTITIONS} partitions; in the second before the signal the longest call took {quiet:.0} ms \
         (median of the rounds), {quiet_worst:.0} ms (worst)",
        all(&rounds.stall_ms)
    );
    bench.note("the same, worst", (stall_worst, "ms"), Limit::AtMost(STALL_MS_MAX), note);
    bench.note("writes that failed", (rounds.failed as f64, "writes"), Limit::AtMost(0.0), first_error.unwrap_or_default());
    Ok(())
}

async fn one(
    bench: &Bench<'_>,
    (servers, client): (&mut Servers, &Client),
    writers: &Writers,
    rounds: &mut Rounds,
    round: usize,
) -> Result<(), Failure> {
    let (node, led) = busiest(servers, client, round).await?;
    let quiet_from = Instant::now();
    sleep(BEFORE).await;
    let asked = Instant::now();
    let took = servers.stop_node(node.0).await?;
    sleep(AFTER).await;
    let (quiet, seen) = (writers.between(quiet_from, asked), writers.between(asked, Instant::now()));
    bench.say(format!(
        "round {round} of {}: {node}, leading {led} partitions, stopped within {:.0} ms; longest call {:.0} ms (before {:.0} ms), {} writes \
         acknowledged, {} failed",
        bench.plan.rounds,
        took.as_secs_f64() * 1000.0,
        seen.longest_ms,
        quiet.longest_ms,
        seen.acknowledged,
        seen.failed
    ));
    rounds.stop_ms.push(took.as_secs_f64() * 1000.0);
    rounds.stall_ms.push(seen.longest_ms);
    rounds.quiet_ms.push(quiet.longest_ms);
    rounds.failed += seen.failed;
    servers.start_node(node.0)?;
    processes::wait_until_served(servers, client, NODES as usize).await?;
    Ok(())
}

/// Waits until leaders are spread, and gives a node that leads the most; if several lead as many, another one in each round.
async fn busiest(servers: &mut Servers, client: &Client, round: usize) -> Result<(NodeId, usize), Failure> {
    let start = Instant::now();
    loop {
        servers.check()?;
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for leader in watch::leaders(client).await?.into_values() {
            *counts.entry(leader).or_default() += 1;
        }
        let spread = counts.len() as u64 == NODES;
        let most = counts.values().max().copied().unwrap_or(0);
        let busiest: Vec<NodeId> = counts.into_iter().filter(|(_, count)| *count == most).map(|(node, _)| node).collect();
        match busiest.get(round % busiest.len().max(1)) {
            Some(node) if spread || start.elapsed() > SPREAD_WITHIN => return Ok((*node, most)),
            None if start.elapsed() > SPREAD_WITHIN => return Err(Failure::new("no node leads a user partition")),
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}
