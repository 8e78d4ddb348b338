//! What a seed decides before anything runs: how large the cluster is, how it is tuned, and every fault with its time. A plan can be cut down
//! afterwards without changing what is left: that is how a failing seed is shrunk.

use std::collections::BTreeSet;
use std::fmt;

use kontiki_server::{HistoryOptions, LogOptions, LogRetention, SnapshotOptions};
use kontiki_types::limits;

use crate::dice::Dice;
use crate::faults::{Fault, Kind, draw};
use crate::host::Pace;

/// From the heal on, every partition must take a write within this time. An election takes a second or two, a connection that died without a word
/// is noticed after two, a node that was refused is started again after one or two, a breaker and the clients' backoff add one.
pub const SERVE_WITHIN_MS: u64 = 15_000;
/// After the clients have stopped, all replicas must have applied the same within this time.
pub const CONVERGE_WITHIN_MS: u64 = 20_000;
/// All nodes of a new cluster must be ready within this time.
pub const START_WITHIN_MS: u64 = 15_000;
/// Clients go on for this long after every partition serves again.
pub const AFTER_HEAL_MS: u64 = 1_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Partitions that hold users' keys; the system's own comes on top.
    pub partitions: usize,
    /// Machines on which clients run.
    pub client_hosts: usize,
    /// Clients, spread over these machines.
    pub clients: usize,
    /// The longest that a client waits between two calls, in ms.
    pub think_ms_max: u64,
    /// Keys of each kind in each partition.
    pub keys: u64,
    /// How long the faulty phase is.
    pub safety_ms: u64,
    /// The longest that a message takes, in ms, while nothing is wrong.
    pub latency_ms_max: u64,
    /// The disks, while nothing is wrong.
    pub pace: Pace,
    /// How the log is cut.
    pub log: LogOptions,
    /// How much of the log is kept.
    pub retention: LogRetention,
    /// How long old versions are kept, and from when on their room is taken back.
    pub history: HistoryOptions,
    /// How snapshots are sent.
    pub snapshots: SnapshotOptions,
    /// The kinds of fault that this seed has.
    pub kinds: BTreeSet<Kind>,
    /// The faults, in the order of their times; each with its number in the seed's own plan.
    pub faults: Vec<(usize, Fault)>,
}

/// How a plan is cut down, or widened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Other than the seed's number of nodes.
    pub nodes: Option<usize>,
    /// Other than the seed's number of partitions.
    pub partitions: Option<usize>,
    /// Other than the seed's number of clients.
    pub clients: Option<usize>,
    /// Other than the seed's length of the faulty phase.
    pub safety_ms: Option<u64>,
    /// Only the faults of these numbers.
    pub keep: Option<BTreeSet<usize>>,
    /// Only these kinds of fault, whatever the seed has.
    pub only: Option<BTreeSet<Kind>>,
    /// Without these kinds of fault.
    pub without: BTreeSet<Kind>,
}

impl fmt::Display for Cuts {
    /// As arguments of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [("nodes", self.nodes), ("partitions", self.partitions), ("clients", self.clients)]
            .map(|(name, n)| (name, n.map(|n| n as u64)));
        for (name, value) in numbers.into_iter().chain([("ms", self.safety_ms)]) {
            if let Some(value) = value {
                write!(f, " --{name} {value}")?;
            }
        }
        if let Some(keep) = &self.keep {
            let keep: Vec<String> = keep.iter().map(usize::to_string).collect();
            write!(f, " --keep {}", if keep.is_empty() { "none".to_owned() } else { keep.join(",") })?;
        }
        let words = |kinds: &BTreeSet<Kind>| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",");
        if let Some(only) = &self.only {
            write!(f, " --only {}", words(only))?;
        }
        if !self.without.is_empty() {
            write!(f, " --without {}", words(&self.without))?;
        }
        Ok(())
    }
}

impl Plan {
    /// What the seed decides, cut down.
    pub fn draw(seed: u64, cuts: &Cuts) -> Self {
        let mut plan = Self::sizes(seed);
        plan.nodes = cuts.nodes.unwrap_or(plan.nodes).max(1);
        plan.partitions = cuts.partitions.unwrap_or(plan.partitions).clamp(1, 26);
        plan.clients = cuts.clients.unwrap_or(plan.clients).max(1);
        plan.client_hosts = plan.client_hosts.min(plan.clients);
        // Swarm testing (Groce et al., "Swarm testing", ISSTA 2012): a run that has every kind of fault seldom has two of the same in a row.
        let mut dice = Dice::of(seed, "kinds");
        let few = dice.chance(1, 3);
        let own = Kind::ALL.iter().copied().filter(|_| if few { dice.chance(1, 5) } else { dice.chance(1, 2) }).collect();
        plan.kinds = cuts.only.clone().unwrap_or(own);
        plan.kinds.retain(|kind| !cuts.without.contains(kind));
        // The faults are those of the seed's own length, so that a shorter run has the first of them.
        plan.faults = draw::faults(&plan).into_iter().enumerate().collect();
        plan.safety_ms = cuts.safety_ms.unwrap_or(plan.safety_ms);
        plan.faults.retain(|(number, fault)| {
            fault.at_ms < plan.safety_ms && cuts.keep.as_ref().is_none_or(|keep| keep.contains(number))
        });
        plan
    }

    fn sizes(seed: u64) -> Self {
        let mut dice = Dice::of(seed, "sizes");
        let clients = dice.between(4, 10) as usize;
        let pace = match dice.below(4) {
            0 => Pace { sync_ms_max: 0, work_ms_max: 0 },
            1 => Pace { sync_ms_max: 30, work_ms_max: 50 },
            _ => Pace { sync_ms_max: 4, work_ms_max: 6 },
        };
        Self {
            seed,
            nodes: if dice.chance(1, 10) { 5 } else { 3 },
            partitions: *dice.pick(&[1, 2, 3, 4, 8]),
            client_hosts: dice.between(1, 3) as usize,
            clients,
            think_ms_max: *dice.pick(&[20, 60, 150]),
            keys: dice.between(1, 3),
            safety_ms: dice.between(6_000, 20_000),
            latency_ms_max: *dice.pick(&[1, 3, 10, 30]),
            pace,
            log: LogOptions {
                segment_bytes: *dice.pick(&[8, 32, 128]) * 1024,
                spare_segments: dice.below(3) as usize,
                ..LogOptions::default()
            },
            retention: LogRetention {
                bytes_per_group: *dice.pick(&[8, 64, 1024]) * 1024,
                entries_per_group: *dice.pick(&[16, 100, 10_000]),
                node_bytes: *dice.pick(&[64, 256, 4096]) * 1024,
                every_ms: *dice.pick(&[100, 500, 1000]),
                ..LogRetention::default()
            },
            history: {
                let mut dice = Dice::of(seed, "history");
                HistoryOptions {
                    retention_ms: *dice.pick(&[limits::RETENTION_MS_MIN, limits::RETENTION_MS]),
                    reclaim_bytes_min: *dice.pick(&[1, 4096, 4 * 1024 * 1024]),
                }
            },
            snapshots: SnapshotOptions { chunk_bytes: *dice.pick(&[512, 4096, 65_536]), ..SnapshotOptions::default() },
            kinds: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    /// The names of the machines with nodes.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("node-{number}")).collect()
    }

    /// The names of the machines with clients.
    pub fn client_names(&self) -> Vec<String> {
        (1..=self.client_hosts).map(|number| format!("clients-{number}")).collect()
    }

    /// The first letter of the keys of each partition.
    pub fn letters(&self) -> Vec<char> {
        ('a'..='z').take(self.partitions).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, nodes, partitions, clients, client_hosts, safety_ms, latency_ms_max, pace, .. } = self;
        writeln!(
            f,
            "seed {seed}: {nodes} nodes, {partitions} partitions, {clients} clients on {client_hosts} machines, {safety_ms} ms of faults"
        )?;
        writeln!(
            f,
            "messages take up to {latency_ms_max} ms, an fsync up to {} ms, other disk work up to {} ms; segments of {} KiB, logs of {} entries",
            pace.sync_ms_max,
            pace.work_ms_max,
            self.log.segment_bytes / 1024,
            self.retention.entries_per_group
        )?;
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        write!(
            f,
            "{} faults of these kinds: {}",
            self.faults.len(),
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
        )
    }
}
