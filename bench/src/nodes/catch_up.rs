//! A replica is wiped: its process is stopped, its directory removed, and the process started again with the command that it was always
//! started with. It joins by itself as a new node, and is caught up by a snapshot.
//!
//! ```text
//!   fill ── wipe, under load, at the default rate      what the sender's writers feel of it
//!        ── wipe, nobody writes, without a rate cap    how fast it is, and the memory of both ends
//!             └─ before its directory is removed, its tables are copied over loopback: what the machine gives
//! ```

use std::time::Duration;

use kontiki::{NodeId, PartitionId, PartitionMap};
use kontiki_client::Client;
use tokio::time::{Instant, sleep};

use super::writers::Writers;
use super::{Bench, Limit, NODES, copy, fill, watch};
use crate::Failure;
use crate::processes::{self, Servers};

/// The partition that holds everything.
const DATA: PartitionId = PartitionId(2);
/// Clients that write as fast as they are answered.
const WRITERS: u64 = 8;
/// Writing before the wiped node comes back.
const BEFORE: Duration = Duration::from_secs(5);
/// Between two looks at memory and progress.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Redundancy is back by then, or something is wrong.
const BACK_WITHIN: Duration = Duration::from_secs(1800);
/// The node's own cap is out of the way with this.
const NO_CAP: &str = "64GiB";
/// What the sender's clients keep of their rate (the issue's limit).
const KEPT_MIN: f64 = 0.8;
/// How much memory may grow, in MB: the issue wants tens.
const GROWTH_MB_MAX: f64 = 100.0;
/// A stream that has sent less than this part of the data is not counted as begun: the system partition is sent too.
const BEGUN_PART: u64 = 100;

/// What was seen until redundancy was back.
#[derive(Default)]
struct CatchUp {
    took: Duration,
    /// From the first look at which rows were under way to the last at which there were more.
    stream: Option<(Instant, Instant)>,
    /// Rows sent by then, in bytes.
    streamed_bytes: u64,
    sender: Memory,
    receiver: Memory,
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Default)]
struct Memory {
    before: u64,
    peak: u64,
}

impl Memory {
    fn see(&mut self, bytes: u64) {
        if self.before == 0 {
            self.before = bytes;
        }
        self.peak = self.peak.max(bytes);
    }

    fn growth_mb(self) -> f64 {
        self.peak.saturating_sub(self.before) as f64 / 1e6
    }

    fn note(self) -> String {
        format!("from {:.0} MB to {:.0} MB", self.before as f64 / 1e6, self.peak as f64 / 1e6)
    }
}

/// Who is sent to, and by whom: the numbers of their processes here.
#[derive(Clone, Copy)]
struct Roles {
    leader: u64,
    victim: u64,
    /// What the cluster calls the victim before it is wiped.
    was: NodeId,
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let prepared = bench.cluster(NODES, 0, 1)?;
    let (mut servers, client) = bench.start(&prepared).await?;
    fill::rows(bench, &client, 0, fill::rows_of(bench.plan.bytes)).await?;
    under_load(bench, &mut servers, &client).await?;
    bench.say("restarting all nodes without a rate cap");
    servers.set_flags(&["--snapshot-rate", NO_CAP]);
    for node in 1..=NODES {
        servers.stop_node(node).await?;
    }
    for node in 1..=NODES {
        servers.start_node(node)?;
    }
    processes::wait_until_served(&mut servers, &client, NODES as usize).await?;
    as_fast_as_it_goes(bench, &mut servers, &client).await
}

/// The leader of the data, and one of its followers.
async fn roles(servers: &mut Servers, client: &Client) -> Result<Roles, Failure> {
    let map = client.refresh_map().await.map_err(Failure::doing("asking for the map"))?;
    let leaders = watch::leaders(client).await?;
    let members = servers.settings().members.all().to_vec();
    let process = |node: NodeId| {
        let addr = map.node(node).map(|info| info.addr.clone());
        members.iter().find(|(_, known)| Some(known) == addr.as_ref()).map(|(process, _)| *process)
    };
    let leader = leaders.get(&DATA).and_then(|node| process(*node));
    let follower = map.get(DATA).and_then(|data| {
        let others = data.replicas.iter().map(|replica| replica.node);
        others.filter(|node| Some(node) != leaders.get(&DATA)).find_map(|node| Some((process(node)?, node)))
    });
    match (leader, follower) {
        (Some(leader), Some((victim, was))) => Ok(Roles { leader, victim, was }),
        _ => Err(Failure::new(format!("{DATA} has no leader or no follower that is known here: {leaders:?}, {map:?}"))),
    }
}

/// The default cap, and clients that write as fast as they can, before and while the snapshot streams.
async fn under_load(bench: &mut Bench<'_>, servers: &mut Servers, client: &Client) -> Result<(), Failure> {
    let roles = roles(servers, client).await?;
    wipe(servers, roles).await?;
    // One node is down before as well as while it streams: only the stream differs.
    let mut writers = Writers::start(client, WRITERS, Duration::ZERO, bench.plan.seed);
    sleep(Duration::from_secs(1)).await;
    let from = Instant::now();
    sleep(BEFORE).await;
    let before = writers.between(from, Instant::now()).acknowledged as f64 / BEFORE.as_secs_f64();
    bench.say(format!("{before:.0} writes per second; the wiped node starts again, the rate cap is the default"));
    let seen = catch_up(bench, servers, client, roles).await?;
    let (began, ended) = seen.stream.ok_or_else(|| Failure::new("no snapshot was seen under way: use more --gigabytes"))?;
    let during = writers.between(began, ended);
    let rate = during.acknowledged as f64 / (ended - began).as_secs_f64();
    let first_error = writers.finish().await?;
    let streamed = seen.streamed_bytes as f64 / (ended - began).as_secs_f64() / 1e6;
    let note = format!(
        "{rate:.0} of {before:.0} writes per second for {:.1} s; longest call {:.0} ms, {} failed{}; sender, receiver and load share the \
         processors",
        (ended - began).as_secs_f64(),
        during.longest_ms,
        during.failed,
        first_error.map(|error| format!(" ({error})")).unwrap_or_default()
    );
    bench.note("the sender's writes while it streams, of before", (rate / before, ""), Limit::AtLeast(KEPT_MIN), note);
    let cap = kontiki::SnapshotOptions::default().bytes_per_second as f64 / 1e6;
    bench.note(
        "snapshot stream at the default cap",
        (streamed, "MB/s"),
        Limit::AtMost(1.05 * cap),
        "the cap, and one part in twenty",
    );
    Ok(())
}

/// No cap, and nobody writes.
async fn as_fast_as_it_goes(bench: &mut Bench<'_>, servers: &mut Servers, client: &Client) -> Result<(), Failure> {
    let roles = roles(servers, client).await?;
    servers.stop_node(roles.victim).await?;
    let directory = servers.settings().data_dir(roles.victim);
    bench.say("copying the tables of the stopped node over loopback");
    let copying = tokio::task::spawn_blocking(move || copy::over_loopback(&directory));
    let copied = copying.await.map_err(Failure::doing("the copy ended early"))??;
    remove(servers, roles.victim)?;
    bench.say("the wiped node starts again, without a rate cap");
    let seen = catch_up(bench, servers, client, roles).await?;
    let bytes = bench.plan.bytes as f64;
    let (copy_mb, whole_mb) = (copied.rate() / 1e6, bytes / seen.took.as_secs_f64() / 1e6);
    let note = format!(
        "{:.2} GB of rows, {:.1} s from the start of the process until every partition had its replicas; beside it: {:.2} GB of tables copied \
         over loopback with an fsync at the end in {:.1} s; the default cap of {} MiB/s was off",
        bytes / 1e9,
        seen.took.as_secs_f64(),
        copied.bytes as f64 / 1e9,
        copied.took.as_secs_f64(),
        kontiki::SnapshotOptions::default().bytes_per_second >> 20
    );
    bench.note("catch-up of a wiped replica", (whole_mb, "MB/s"), Limit::Beside(copy_mb), note);
    if let Some((began, ended)) = seen.stream {
        let rate = seen.streamed_bytes as f64 / (ended - began).as_secs_f64().max(0.001) / 1e6;
        bench.note("of that the stream alone", (rate, "MB/s"), Limit::Beside(copy_mb), "");
    }
    bench.note("memory of the sender, growth", (seen.sender.growth_mb(), "MB"), Limit::AtMost(GROWTH_MB_MAX), seen.sender.note());
    let note = format!("{}; before: when it had joined", seen.receiver.note());
    bench.note("memory of the receiver, growth", (seen.receiver.growth_mb(), "MB"), Limit::AtMost(GROWTH_MB_MAX), note);
    Ok(())
}

/// The disk of the victim is lost.
async fn wipe(servers: &mut Servers, roles: Roles) -> Result<(), Failure> {
    servers.stop_node(roles.victim).await?;
    remove(servers, roles.victim)
}

fn remove(servers: &Servers, node: u64) -> Result<(), Failure> {
    let directory = servers.settings().data_dir(node);
    std::fs::remove_dir_all(&directory).map_err(Failure::doing(format!("removing {}", directory.display())))
}

/// Starts the wiped node, and looks at everybody until each partition has three voters again, none of them on the node that it was.
async fn catch_up(bench: &Bench<'_>, servers: &mut Servers, client: &Client, roles: Roles) -> Result<CatchUp, Failure> {
    let http = servers.settings().http.as_ref().and_then(|http| http.addr(roles.leader)).unwrap_or_default().to_owned();
    let addr = servers.settings().members.addr(roles.victim).unwrap_or_default().to_owned();
    let is_back = |map: &PartitionMap| {
        let without = map.partitions.iter().all(|partition| partition.replica_on(roles.was).is_none());
        without && watch::is_settled(map, NODES as usize)
    };
    let (sender, mut seen) = (servers.pid(roles.leader)?, CatchUp::default());
    let sent_before = watch::gauge(&http, "snapshots_sent_bytes").await?;
    seen.sender.see(watch::resident_bytes(sender)?);
    let start = Instant::now();
    servers.start_node(roles.victim)?;
    let receiver = servers.pid(roles.victim)?;
    let mut said = start;
    loop {
        servers.check()?;
        let sent = watch::gauge(&http, "snapshots_sent_bytes").await?.saturating_sub(sent_before);
        let now = Instant::now();
        if sent > bench.plan.bytes / BEGUN_PART && sent > seen.streamed_bytes {
            seen.stream = Some((seen.stream.map_or(now, |(began, _)| began), now));
            seen.streamed_bytes = sent;
        }
        seen.sender.see(watch::resident_bytes(sender)?);
        let map = client.refresh_map().await.ok();
        if map.as_ref().is_some_and(|map| watch::node_at(map, &addr).is_some_and(|node| node != roles.was)) {
            seen.receiver.see(watch::resident_bytes(receiver)?);
        }
        if map.as_ref().is_some_and(|map| is_back(map)) {
            seen.took = start.elapsed();
            return Ok(seen);
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = now;
            bench.say(format!("{:.2} of {:.2} GB sent", sent as f64 / 1e9, bench.plan.bytes as f64 / 1e9));
        }
        if start.elapsed() > BACK_WITHIN {
            return Err(Failure::new(format!("redundancy was not back after {BACK_WITHIN:?}; the map: {map:?}")));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_the_first_look_to_the_highest() {
        let mut memory = Memory::default();
        for bytes in [50_000_000, 90_000_000, 40_000_000] {
            memory.see(bytes);
        }
        assert_eq!(memory.growth_mb(), 40.0);
        assert_eq!(memory.note(), "from 50 MB to 90 MB");
    }
}
