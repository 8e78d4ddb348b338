//! A fourth node joins by one address, gets its share of the replicas, and then one of the four is decommissioned; all the while clients
//! write.

use std::time::Duration;

use kontiki::{NodeId, NodeState, PartitionMap, Role};
use kontiki_client::Client;
use tokio::time::Instant;

use super::hand_over::STALL_MS_MAX;
use super::writers::Writers;
use super::{Bench, Limit, NODES, watch};
use crate::processes::Servers;
use crate::{Failure, load};

/// Clients, and how long each pauses between two calls.
const WRITERS: u64 = 32;
const PAUSE: Duration = Duration::from_millis(20);
/// Placement has this long for everything that it has to do.
const WITHIN: Duration = Duration::from_secs(600);
/// The node that goes: one of the first three.
const LEAVING: NodeId = NodeId(2);
/// A node that joins is known to all within this, in ms: a call, an entry, and a look of placement.
const LISTED_MS_MAX: f64 = 2000.0;
/// And serves something soon, in ms: a decision of placement, a snapshot of little data, three entries.
const SERVES_MS_MAX: f64 = 5000.0;
/// A decommission moves replicas one after the other, a few at a time: at most this for each, in ms.
const MOVE_MS_MAX: f64 = 500.0;

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let prepared = bench.cluster(NODES, 1, bench.plan.partitions)?;
    let (mut servers, client) = bench.start(&prepared).await?;
    bench.say("writing some rows");
    load::load_keys(std::slice::from_ref(&client), bench.plan.seed).await?;
    let mut writers = Writers::start(&client, WRITERS, PAUSE, bench.plan.seed);
    let addr = prepared.addrs.addr(NODES + 1).unwrap_or_default();
    let one_member = prepared.addrs.addr(1).unwrap_or_default();
    join(bench, (&mut servers, &client), &writers, (addr, one_member)).await?;
    decommission(bench, (&mut servers, &client), &writers).await?;
    if let Some(error) = writers.finish().await? {
        bench.say(format!("the first write that failed: {error}"));
    }
    Ok(())
}

async fn join(
    bench: &mut Bench<'_>,
    (servers, client): (&mut Servers, &Client),
    writers: &Writers,
    (addr, one_member): (&str, &str),
) -> Result<(), Failure> {
    bench.say("a fourth node joins by one address");
    let start = Instant::now();
    servers.join_node(NODES + 1, addr, one_member)?;
    let new = |map: &PartitionMap| watch::node_at(map, addr);
    let asked = (&mut *servers, client);
    let listed = watch::map_until(asked, ("the new node is listed", start, WITHIN), |map| new(map).is_some()).await?;
    bench.note("start of the process to listed as active", (ms(listed), "ms"), Limit::AtMost(LISTED_MS_MAX), "");
    let votes = |map: &PartitionMap| {
        let voter = |node| move |replica: &kontiki::Replica| replica.node == node && replica.role == Role::Voter;
        new(map).is_some_and(|node| map.partitions.iter().any(|partition| partition.replicas.iter().any(voter(node))))
    };
    let asked = (&mut *servers, client);
    let serves = watch::map_until(asked, ("the new node serves a replica", start, WITHIN), votes).await?;
    bench.note("start of the process to its first replica that votes", (ms(serves), "ms"), Limit::AtMost(SERVES_MS_MAX), "");
    let fair = |map: &PartitionMap| {
        let held: Vec<usize> = (1..=NODES).map(NodeId).chain(new(map)).map(|node| watch::holds(map, node)).collect();
        let (least, most) = (held.iter().min().copied().unwrap_or(0), held.iter().max().copied().unwrap_or(0));
        held.len() as u64 == NODES + 1 && most - least <= 1 && watch::is_settled(map, NODES as usize)
    };
    let asked = (&mut *servers, client);
    let spread = watch::map_until(asked, ("replicas are spread over four nodes", start, WITHIN), fair).await?;
    let (map, seen) = (client.map(), writers.between(start, Instant::now()));
    let moved = new(&map).map_or(0, |node| watch::holds(&map, node));
    let limit = Limit::AtMost((moved as f64 * MOVE_MS_MAX / 1000.0).ceil());
    let note = format!("{moved} replicas were moved to it; {} writes acknowledged, {} failed", seen.acknowledged, seen.failed);
    bench.note("start of the process to its fair share of the replicas", (spread.as_secs_f64(), "s"), limit, note);
    bench.note("longest call of any client meanwhile", (seen.longest_ms, "ms"), Limit::AtMost(STALL_MS_MAX), "");
    Ok(())
}

async fn decommission(
    bench: &mut Bench<'_>,
    (servers, client): (&mut Servers, &Client),
    writers: &Writers,
) -> Result<(), Failure> {
    let (held, partitions) = (watch::holds(&client.map(), LEAVING), client.map().partitions.len() - 1);
    bench.say(format!("{LEAVING}, which holds {held} replicas, is decommissioned"));
    let start = Instant::now();
    client.decommission(LEAVING).await.map_err(Failure::doing("decommissioning"))?;
    let is_gone = |map: &PartitionMap| map.node(LEAVING).is_some_and(|node| node.state == NodeState::Gone);
    let gone = watch::map_until((servers, client), ("the node is gone", start, WITHIN), is_gone).await?;
    let seen = writers.between(start, Instant::now());
    let limit = Limit::AtMost((held as f64 * MOVE_MS_MAX / 1000.0).ceil());
    let note = format!(
        "one of four nodes, {partitions} partitions, {held} replicas were moved away; the limit is {MOVE_MS_MAX} ms for each"
    );
    bench.note("decommission until gone", (gone.as_secs_f64(), "s"), limit, note);
    bench.note("longest call of any client meanwhile", (seen.longest_ms, "ms"), Limit::AtMost(STALL_MS_MAX), "");
    let note = format!("{WRITERS} clients that pause {} ms between their calls", PAUSE.as_millis());
    bench.note("writes acknowledged meanwhile", (seen.acknowledged as f64, "writes"), Limit::None, note);
    bench.note("writes that failed meanwhile", (seen.failed as f64, "writes"), Limit::AtMost(0.0), "");
    Ok(())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
