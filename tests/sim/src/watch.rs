//! Looks at all nodes from inside, and holds what is seen against the invariants.
//!
//! What every step could change is looked at every [`LOOK_EVERY_STEPS`]; what is dear (hashes of whole replicas, what is on the platters) less
//! often. An invariant that is broken in between and mended again is missed; none of them can be mended.

use std::sync::Arc;

use kontiki_raft::GroupStatus;
use kontiki_storage::disk::SimulatedDisk;
use kontiki_storage::engine::MemoryEngine;
use kontiki_storage::log::{LogOptions, LogReader};
use kontiki_types::{NodeId, PartitionId, StoreId};

use crate::cluster::Cluster;
use crate::invariants::{self, Invariant};

/// Steps of 1 ms between two looks at what is cheap.
pub const LOOK_EVERY_STEPS: u64 = 10;
/// Steps between two comparisons of contents.
pub const COMPARE_EVERY_STEPS: u64 = 500;
/// Steps between two looks at what is durable.
pub const PLATTERS_EVERY_STEPS: u64 = 1_000;

/// One node as it is now.
pub struct NodeSeen {
    /// Which it is.
    pub node: NodeId,
    /// Which start of its process.
    pub start: u64,
    /// Its disk's id, once it has run.
    pub store: Option<StoreId>,
    /// Its replicas; none if it does not run.
    pub groups: Vec<GroupStatus>,
    /// Its log, if it runs.
    pub log: Option<LogReader>,
    /// Its engine.
    pub engine: Arc<MemoryEngine>,
    /// The disk under its log.
    pub disk: SimulatedDisk,
    /// How many voters a group has, but for when they change.
    pub replicas_max: usize,
    /// How its log is cut.
    pub log_options: LogOptions,
}

/// All nodes as they are now.
pub struct Seen {
    /// One for each machine with a node, also if it is down.
    pub nodes: Vec<NodeSeen>,
}

impl Seen {
    /// Looks.
    pub fn look(cluster: &Cluster) -> Self {
        let nodes = cluster.hosts().iter().enumerate().map(|(at, host)| {
            let running = host.running().filter(|_| cluster.is_alive(at));
            let groups = running.as_ref().and_then(|node| node.groups());
            NodeSeen {
                node: host.node,
                start: host.start(),
                store: host.store(),
                log: groups.as_ref().map(|groups| groups.log_reader().clone()),
                groups: groups.map(|groups| groups.all().iter().map(|group| group.status()).collect()).unwrap_or_default(),
                engine: host.engine(),
                disk: host.log.clone(),
                replicas_max: host.options().replicas as usize,
                log_options: host.options().log.clone(),
            }
        });
        Self { nodes: nodes.collect() }
    }

    /// Each replica that runs, with its node.
    pub fn replicas(&self) -> impl Iterator<Item = (&NodeSeen, &GroupStatus)> {
        self.nodes.iter().flat_map(|node| node.groups.iter().map(move |group| (node, group)))
    }

    /// The partitions of which a replica runs.
    pub fn partitions(&self) -> std::collections::BTreeSet<PartitionId> {
        self.replicas().map(|(_, group)| group.partition).collect()
    }
}

/// The invariants, and what they have seen.
pub struct Watch {
    cheap: Vec<Box<dyn Invariant>>,
    contents: Vec<Box<dyn Invariant>>,
    platters: Vec<Box<dyn Invariant>>,
    /// What was found to be broken.
    pub violations: Vec<String>,
    /// Looks made so far.
    pub looks: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            cheap: invariants::cheap(),
            contents: invariants::contents(),
            platters: invariants::platters(),
            violations: Vec::new(),
            looks: 0,
        }
    }
}

impl Watch {
    /// Looks if it is time to.
    pub fn step(&mut self, cluster: &Cluster) {
        let steps = cluster.steps();
        if !steps.is_multiple_of(LOOK_EVERY_STEPS) {
            return;
        }
        let seen = Seen::look(cluster);
        self.looks += 1;
        let mut due: Vec<&mut Box<dyn Invariant>> = self.cheap.iter_mut().collect();
        if steps.is_multiple_of(COMPARE_EVERY_STEPS) {
            due.extend(&mut self.contents);
        }
        if steps.is_multiple_of(PLATTERS_EVERY_STEPS) {
            due.extend(&mut self.platters);
        }
        for invariant in due {
            if let Err(why) = invariant.check(&seen) {
                let why = format!("{}: {why}", invariant.name());
                cluster.story().tell(format!("VIOLATION {why}"));
                self.violations.push(why);
            }
        }
    }
}
