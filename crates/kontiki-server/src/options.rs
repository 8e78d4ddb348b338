//! What can be set about a node, and the checks that turn what was typed into something that can run. Only `kontiki-cli` reads
//! files and the environment; everybody else fills this struct.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kontiki_raft::{HistoryOptions, LogRetention, RaftOptions, SnapshotOptions};
use kontiki_storage::engine::RocksOptions;
use kontiki_storage::log::LogOptions;
use kontiki_types::limits::{self, NODES_MAX, PARTITIONS_MAX};
use kontiki_types::partition::even_boundaries;
use kontiki_types::{Bytes, Error, ErrorKind, NodeId};

/// The address a node listens on if it is told nothing: loopback, any free port. Right for a lone embedded node.
pub const LISTEN_ANYWHERE: &str = "127.0.0.1:0";
/// Bytes of a cluster's name: it is a label in logs and metrics.
const CLUSTER_NAME_BYTES_MAX: usize = 128;
/// Bytes of a zone's name: it is compared and shown.
const ZONE_BYTES_MAX: usize = 128;
/// More replicas than this make writes slow and nothing safer.
const REPLICAS_MAX: u32 = 7;
/// A node that is silent for less is not given up.
const DEAD_AFTER_MIN: Duration = Duration::from_secs(1);

/// Settings of one node. `NodeOptions { data_dir, ..NodeOptions::default() }` is a lone node that serves its own process.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The directory that holds everything of this node. Created if it is missing; one process at a time. Must be given.
    pub data_dir: PathBuf,
    /// This node's number in its cluster, from 1. A node whose disk was lost comes back under a new number. Default 1.
    pub node_id: NodeId,
    /// A word for the cluster. All members use the same. Default `kontiki`.
    pub cluster_name: String,
    /// Where to serve gRPC to clients and peers, `host:port`. Port 0 takes any free one: only for a lone node. Default
    /// `127.0.0.1:0`.
    pub listen: String,
    /// The address that others reach this node at, if it is not its member address (or, for a lone node, `listen`).
    pub advertise: Option<String>,
    /// Where to serve `/metrics`, `/livez` and `/readyz` over HTTP, `host:port`; port 0 takes any free one. Default: nowhere.
    pub http_listen: Option<String>,
    /// The members that the cluster is created with, this node included, each with the address it is reached at; the same list on
    /// all of them, and at every later start (or none: the data directory remembers). Empty: a cluster of this node alone.
    pub members: Vec<(NodeId, String)>,
    /// Addresses of nodes of a cluster that is there already: a node with a new directory joins it, and is given its number. Later starts
    /// need no list. Default: none.
    pub join: Vec<String>,
    /// Where the node stands (a rack, a data centre): replicas of a partition are put in different zones where that can be. Default:
    /// nowhere in particular.
    pub zone: String,
    /// How many replicas each partition has, as soon as there are nodes for them; an even number means one less. Settled when the cluster
    /// is created. Default 3.
    pub replicas: u32,
    /// A node that has not answered for this long is given up for the time being: what it held is rebuilt on other nodes. Default 10 min.
    pub dead_after: Duration,
    /// How many partitions the keys are cut into when the cluster is created; ignored later. Default 1.
    pub partitions: u32,
    /// Where to cut instead: user keys, sorted. `n` boundaries make `n + 1` partitions. Default: even cuts.
    pub boundaries: Vec<Bytes>,
    /// Raft timers; the same on all members.
    pub raft: RaftOptions,
    /// How the raft log is cut.
    pub log: LogOptions,
    /// How much of the raft log is kept.
    pub log_retention: LogRetention,
    /// How long old versions of the keys can be read.
    pub history: HistoryOptions,
    /// Bounds of the snapshots by which replicas are caught up.
    pub snapshots: SnapshotOptions,
    /// How much memory and how many threads the storage engine takes.
    pub engine: RocksOptions,
    /// What this node takes on at once.
    pub admission: AdmissionOptions,
    /// Whether the node that leads the system partition spreads leaders over the nodes. Default true.
    pub balance: bool,
}

/// Bounds of what a node takes on at once. Beyond them the answer is `Overloaded`, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionOptions {
    /// Reads of keys at once. Default 8192: each holds its keys and an answer, mostly a few KiB.
    pub reads_max: usize,
    /// Scan pages at once. Default 64: each may hold 1 MiB and keeps a core busy for about a millisecond.
    pub scans_max: usize,
    /// Bytes of writes at once. Default 128 MiB: the log and the followers hold them a second time.
    pub write_bytes_max: usize,
    /// Calls without a route that are being forwarded at once. Default 8192.
    pub forwards_max: usize,
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        Self { reads_max: 8192, scans_max: 64, write_bytes_max: 128 * 1024 * 1024, forwards_max: 8192 }
    }
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            node_id: NodeId(1),
            cluster_name: "kontiki".to_owned(),
            listen: LISTEN_ANYWHERE.to_owned(),
            advertise: None,
            http_listen: None,
            members: Vec::new(),
            join: Vec::new(),
            zone: String::new(),
            replicas: 3,
            dead_after: Duration::from_secs(600),
            partitions: 1,
            boundaries: Vec::new(),
            raft: RaftOptions::default(),
            log: LogOptions::default(),
            log_retention: LogRetention::default(),
            history: HistoryOptions::default(),
            snapshots: SnapshotOptions::default(),
            engine: RocksOptions::default(),
            admission: AdmissionOptions::default(),
            balance: true,
        }
    }
}

impl NodeOptions {
    /// Checks everything that can be checked without touching disk or network. Each error names the option, its value, and what to
    /// do (`ErrorKind::Config`).
    pub fn check(&self) -> Result<(), Error> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(config("data_dir is not set; give the directory that holds this node's data"));
        }
        if self.node_id.0 == 0 {
            return Err(config("node_id is 0; node ids start at 1"));
        }
        if self.cluster_name.is_empty() || self.cluster_name.len() > CLUSTER_NAME_BYTES_MAX {
            let length = self.cluster_name.len();
            return Err(config(format!("cluster_name has {length} bytes; give it 1 to {CLUSTER_NAME_BYTES_MAX}")));
        }
        self.check_addresses()?;
        self.check_members()?;
        self.check_place()?;
        self.check_partitions()?;
        self.check_admission()?;
        self.log_retention.check()?;
        self.history.check()?;
        self.snapshots.check()?;
        self.raft.check()
    }

    fn check_addresses(&self) -> Result<(), Error> {
        let (listen_host, listen_port) = host_and_port("listen", &self.listen)?;
        if let Some(http) = &self.http_listen {
            let (_, port) = host_and_port("http_listen", http)?;
            if port != 0 && *http == self.listen {
                return Err(config(format!("listen and http_listen are both {http}; give HTTP a port of its own")));
            }
        }
        if let Some(advertise) = &self.advertise {
            reachable("advertise", advertise)?;
        } else if self.members.is_empty() && is_wildcard(listen_host) {
            return Err(config(format!(
                "listen is {}, which no other process can connect to as it is; set advertise to the address that others use",
                self.listen
            )));
        }
        if listen_port == 0 && self.members.len() > 1 {
            return Err(config(format!(
                "listen is {}, any free port, but the other members must know the port; set listen to this node's member address",
                self.listen
            )));
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), Error> {
        if self.members.is_empty() {
            return Ok(());
        }
        if self.members.len() > NODES_MAX {
            return Err(config(format!("members lists {} nodes, the limit is {NODES_MAX}", self.members.len())));
        }
        let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (id, address) in &self.members {
            if id.0 == 0 {
                return Err(config(format!("members lists node 0 at {address}; node ids start at 1")));
            }
            reachable("a member's address", address)?;
            if !ids.insert(*id) {
                return Err(config(format!("members lists {id} twice; each node has one entry")));
            }
            if !addresses.insert(address) {
                return Err(config(format!("members lists the address {address} twice; each node has its own")));
            }
        }
        if !ids.contains(&self.node_id) {
            let listed: Vec<_> = ids.iter().map(NodeId::to_string).collect();
            let (own, listed) = (self.node_id, listed.join(", "));
            return Err(config(format!("node_id is {own}, but members lists only {listed}; correct one of them")));
        }
        Ok(())
    }

    fn check_place(&self) -> Result<(), Error> {
        if !self.join.is_empty() && !self.members.is_empty() {
            return Err(config(
                "join and members are both given; members is for a new cluster, join for one that is there: give one",
            ));
        }
        self.join.iter().try_for_each(|address| reachable("join", address))?;
        let length = self.zone.len();
        if length > ZONE_BYTES_MAX {
            return Err(config(format!("zone has {length} bytes; give it at most {ZONE_BYTES_MAX}")));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(config(format!("replicas is {}; give 1 to {REPLICAS_MAX}, best 3 or 5", self.replicas)));
        }
        if self.dead_after < DEAD_AFTER_MIN {
            let (given, least) = (self.dead_after.as_millis(), DEAD_AFTER_MIN.as_millis());
            return Err(config(format!("dead_after is {given} ms; give at least {least}: a restart must not look like a death")));
        }
        Ok(())
    }

    fn check_partitions(&self) -> Result<(), Error> {
        let wanted = self.partitions;
        if wanted == 0 || wanted >= PARTITIONS_MAX {
            let most = PARTITIONS_MAX - 1;
            return Err(config(format!("partitions is {wanted}; give 1 to {most} (one more is the system's own)")));
        }
        if self.boundaries.is_empty() {
            return Ok(());
        }
        let parts = self.boundaries.len() + 1;
        if parts >= PARTITIONS_MAX as usize {
            return Err(config(format!("boundaries cut the keys into {parts} partitions, the limit is {}", PARTITIONS_MAX - 1)));
        }
        if wanted != 1 && wanted as usize != parts {
            return Err(config(format!("partitions is {wanted}, but boundaries make {parts}; give only one of the two")));
        }
        for boundary in &self.boundaries {
            limits::check_user_key(boundary).map_err(|reject| config(format!("a boundary is not a valid key: {reject}")))?;
        }
        if let Some(pair) = self.boundaries.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (first, second) = (kontiki_types::key::display(&pair[0]), kontiki_types::key::display(&pair[1]));
            return Err(config(format!(
                "boundaries must rise, but `{first}` comes before `{second}`; sort them, without repeats"
            )));
        }
        Ok(())
    }

    fn check_admission(&self) -> Result<(), Error> {
        let AdmissionOptions { reads_max, scans_max, write_bytes_max, forwards_max } = self.admission;
        let counts = [("reads_max", reads_max), ("scans_max", scans_max), ("forwards_max", forwards_max)];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(config(format!("admission.{name} is 0, nothing would be served; give it 1 or more")));
        }
        // One largest request must fit, and the semaphore counts in 32 bits.
        if !(limits::REQUEST_BYTES_MAX..=1 << 29).contains(&write_bytes_max) {
            let (least, most) = (limits::REQUEST_BYTES_MAX, 1 << 29);
            return Err(config(format!("admission.write_bytes_max is {write_bytes_max}; give {least} (one request) to {most}")));
        }
        Ok(())
    }

    /// The user keys at which a new cluster is cut.
    pub fn cuts(&self) -> Vec<Bytes> {
        if self.boundaries.is_empty() { even_boundaries(self.partitions) } else { self.boundaries.clone() }
    }
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// Splits `host:port`; a host may be an IPv6 address in brackets.
fn host_and_port<'a>(option: &str, address: &'a str) -> Result<(&'a str, u16), Error> {
    let example = "give host:port, such as 127.0.0.1:7601";
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(config(format!("{option} is `{address}`, which has no port; {example}")));
    };
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 || host.contains(['/', ' ', '@']) {
        return Err(config(format!("{option} is `{address}`, which has no valid host; {example}")));
    }
    let port = port.parse().map_err(|_| config(format!("{option} is `{address}`, whose port is not 0 to 65535; {example}")))?;
    Ok((host, port))
}

/// An address that another process can connect to.
fn reachable(option: &str, address: &str) -> Result<(), Error> {
    let (host, port) = host_and_port(option, address)?;
    if port == 0 || is_wildcard(host) {
        return Err(config(format!("{option} is {address}, which nobody can connect to; give a real host and port")));
    }
    Ok(())
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "[::]")
}

#[cfg(test)]
mod tests;
