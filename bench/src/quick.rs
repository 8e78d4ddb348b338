//! The quick benchmark: every cell of the table once, for a few seconds, then a few killed leaders. It is to show in minutes whether a
//! change moved something; a figure to quote takes repeated, interleaved runs.
//!
//! ```text
//!   gRPC            3 server processes <── sockets ── this process (callers)
//!   embedded, 1     this process (callers + node)
//!   embedded, of 3  this process (callers + node 1, leader) ── sockets ── 2 server processes
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use kontiki::{Node, NodeId, PartitionId};
use kontiki_client::{Client, ClientOptions};
use tokio::time::{Instant, sleep};

use crate::disk::Disk;
use crate::load::{self, Load, Operation};
use crate::processes::{self, ClusterSettings, Members, Servers};
use crate::report::{Cell, FSYNC, Place, Report, Settings};
use crate::{Failure, cpu, stall, workload};

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server binary.
    pub server: PathBuf,
    /// Data goes below this; removed at the end.
    pub directory: PathBuf,
    /// Callers of each cell.
    pub clients: Vec<usize>,
    /// Connections to each node, at most: so many clients are opened.
    pub connections: usize,
    /// User partitions of the gRPC cluster.
    pub partitions: u32,
    /// Uncounted part of a cell.
    pub warm_up: Duration,
    /// Counted part of a cell.
    pub window: Duration,
    /// Leaders killed.
    pub kills: usize,
    /// Replays the same keys.
    pub seed: u64,
}

/// Nodes of a cluster.
const NODES: u64 = 3;
/// The node that is embedded, where there are three.
const EMBEDDED: u64 = 1;
/// The only user partition of an embedded cell's cluster.
const USER_PARTITION: PartitionId = PartitionId(2);
/// Leaders are spread within this, or are measured as they are.
const SPREAD_WITHIN: Duration = Duration::from_secs(10);

/// Runs everything.
pub async fn run(plan: &Plan, progress: &dyn Fn(&str)) -> Result<Report, Failure> {
    let started = Instant::now();
    let directory = tempfile::Builder::new().prefix("kontiki-bench-").tempdir_in(&plan.directory);
    let directory = directory.map_err(Failure::doing(format!("making a directory in {}", plan.directory.display())))?;
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "dev" } else { "release" },
        server: plan.server.display().to_string(),
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        load_average: cpu::load_average(),
        disk: Disk::measure(directory.path())?,
        fsync: FSYNC,
        key_bytes: workload::KEY_BYTES,
        value_bytes: workload::VALUE_BYTES,
        window_ms: plan.window.as_millis(),
        warm_up_ms: plan.warm_up.as_millis(),
    };
    let mut report =
        Report { settings, cold_start_ms: None, grpc_leaders: Vec::new(), cells: Vec::new(), stalls: Vec::new(), took_ms: 0 };
    let mut bench = Bench { plan, directory: directory.path(), progress, report: &mut report };
    bench.grpc().await?;
    bench.embedded_single().await?;
    bench.embedded_leader().await?;
    report.took_ms = started.elapsed().as_millis();
    Ok(report)
}

struct Bench<'a> {
    plan: &'a Plan,
    directory: &'a Path,
    progress: &'a dyn Fn(&str),
    report: &'a mut Report,
}

impl Bench<'_> {
    fn cluster(&self, name: &str, members: &Members, partitions: u32) -> ClusterSettings {
        ClusterSettings {
            binary: self.plan.server.clone(),
            directory: self.directory.to_owned(),
            name: name.to_owned(),
            members: members.clone(),
            partitions,
            http: None,
            flags: Vec::new(),
        }
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions { seed: Some(self.plan.seed), ..ClientOptions::default() }
    }

    async fn grpc(&mut self) -> Result<(), Failure> {
        (self.progress)("gRPC: starting three server processes");
        let members = Members::on_loopback(NODES)?;
        let addrs = members.addrs();
        let ids: Vec<u64> = members.all().iter().map(|(id, _)| *id).collect();
        let start = Instant::now();
        let mut servers = Servers::start(self.cluster("bench-grpc", &members, self.plan.partitions), &ids)?;
        let first = processes::connect(&mut servers, &addrs, &self.client_options()).await?;
        processes::wait_until_served(&mut servers, &first, addrs.len()).await?;
        self.report.cold_start_ms = Some(start.elapsed().as_secs_f64() * 1000.0);
        self.report.grpc_leaders = wait_until_spread(&first).await?;
        let mut clients = vec![first];
        while clients.len() < self.plan.connections {
            clients.push(processes::connect(&mut servers, &addrs, &self.client_options()).await?);
        }
        let pids = servers.pids();
        self.cells(Place::Grpc, &clients, self.plan.partitions, &pids).await?;
        drop(clients);
        for kill in 0..self.plan.kills {
            (self.progress)(&format!("killing a leader with SIGKILL, {} of {}", kill + 1, self.plan.kills));
            let stall = stall::kill_a_leader(&mut servers, &addrs, addrs.len(), self.plan.seed).await?;
            self.report.stalls.push(stall);
        }
        Ok(())
    }

    async fn embedded_single(&mut self) -> Result<(), Failure> {
        (self.progress)("embedded: one node in this process");
        let start = Node::builder(self.directory.join("bench-single")).start();
        let node = start.await.map_err(Failure::doing("starting an embedded node"))?;
        let own = [std::process::id()];
        let result = self.cells(Place::EmbeddedSingle, &[node.client()], 1, &own).await;
        node.stop().await;
        result
    }

    async fn embedded_leader(&mut self) -> Result<(), Failure> {
        (self.progress)("embedded: one node in this process, two server processes");
        let members = Members::on_loopback(NODES)?;
        let cluster = self.cluster("bench-leader", &members, 1);
        let data_dir = cluster.data_dir(EMBEDDED);
        let others: Vec<u64> = members.all().iter().map(|(id, _)| *id).filter(|id| *id != EMBEDDED).collect();
        let name = cluster.name.clone();
        let mut servers = Servers::start(cluster, &others)?;
        let addr = members.addr(EMBEDDED).ok_or_else(|| Failure::new("the embedded node is no member"))?;
        let all = members.all().iter().map(|(id, addr)| (NodeId(*id), addr.clone()));
        let start = Node::builder(data_dir).node_id(EMBEDDED).listen(addr).members(all).partitions(1).cluster_name(name).start();
        let node = start.await.map_err(Failure::doing("starting an embedded node"))?;
        let client = node.client();
        let result = async {
            processes::wait_until_served(&mut servers, &client, members.all().len()).await?;
            lead_here(&client).await?;
            let mut counted = servers.pids();
            counted.push(std::process::id());
            self.cells(Place::EmbeddedLeader, std::slice::from_ref(&client), 1, &counted).await
        };
        let result = result.await;
        node.stop().await;
        result
    }

    /// Loads the keys, then runs each number of callers with puts and with gets.
    async fn cells(&mut self, place: Place, clients: &[Client], partitions: u32, counted: &[u32]) -> Result<(), Failure> {
        (self.progress)(&format!("{}: writing {} keys", place.name(), workload::KEYS_LOADED));
        load::load_keys(clients, self.plan.seed).await?;
        for operation in [Operation::Put, Operation::Get] {
            for callers in self.plan.clients.clone() {
                let used = &clients[..clients.len().min(callers)];
                let load = Load {
                    clients: used,
                    operation,
                    callers,
                    warm_up: self.plan.warm_up,
                    window: self.plan.window,
                    servers: counted,
                    seed: self.plan.seed,
                };
                let tally = load.run().await?;
                let connections = if place == Place::Grpc { used.len() } else { 0 };
                let cell = Cell::new(place, operation, callers, connections, partitions, &tally);
                (self.progress)(&format!(
                    "{}: {} with {callers} clients: {:.0}/s, p50 {:.0} us, p99 {:.0} us",
                    place.name(),
                    operation.name(),
                    cell.per_second,
                    cell.p50_us,
                    cell.p99_us
                ));
                self.report.cells.push(cell);
            }
        }
        Ok(())
    }
}

/// Waits until no node leads two user partitions more than another, and returns who leads them. Placement does it by itself, soon after
/// the start; if it does not in time, what is there is measured and printed.
async fn wait_until_spread(client: &Client) -> Result<Vec<u64>, Failure> {
    let start = Instant::now();
    loop {
        let leaders = user_leaders(client).await?;
        let led = |node: u64| leaders.iter().filter(|leader| **leader == node).count();
        let counts: Vec<usize> = (1..=NODES).map(led).collect();
        let even = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1;
        if even || start.elapsed() > SPREAD_WITHIN {
            return Ok(leaders);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn user_leaders(client: &Client) -> Result<Vec<u64>, Failure> {
    let statuses = client.status().await.map_err(Failure::doing("asking who leads"))?;
    let first = statuses.into_iter().find_map(|(_, status)| status.ok());
    let first = first.ok_or_else(|| Failure::new("no node answers"))?;
    let user = first.partitions.iter().filter(|partition| partition.id != PartitionId::SYSTEM);
    Ok(user.filter_map(|partition| partition.leader).map(|leader| leader.0).collect())
}

/// Makes the embedded node the leader of the user partition. It is its preferred one; after a start in a bad order it may not be yet.
async fn lead_here(client: &Client) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        if user_leaders(client).await? == [EMBEDDED] {
            return Ok(());
        }
        if start.elapsed() > SPREAD_WITHIN {
            return Err(Failure::new(format!(
                "node {EMBEDDED} did not become leader of {USER_PARTITION} within {SPREAD_WITHIN:?}"
            )));
        }
        // Refused while the node has not caught up: asked again.
        let _ = client.transfer_leader(USER_PARTITION, NodeId(EMBEDDED)).await;
        sleep(Duration::from_millis(200)).await;
    }
}
