//! What goes wrong in a run: each fault begins at a time of the plan, lasts for a while, and ends by itself or at the heal.
//!
//! ```text
//!   draw    the seed ── Vec<Fault>
//!   links   what the faults that are going on make of each link
//!   this    begins and ends them, and plays the operator who starts again what has stopped
//! ```

pub mod draw;
mod links;

use std::fmt;

use crate::clock;
use crate::cluster::Cluster;
use crate::host::{Death, Pace};

pub use links::Links;

/// A kind of fault. A seed has whole kinds switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is told in Kind::LIST")]
pub enum Kind {
    Cut,
    OneWay,
    Bridge,
    Hold,
    Delay,
    Loss,
    Crash,
    Kill,
    Blackout,
    Freeze,
    SlowDisk,
    FullDisk,
    SyncError,
    WriteError,
    ReadError,
    EngineError,
    ClockJump,
    ClockDrift,
    ClientCrash,
    SlowClient,
    Transfer,
}

impl Kind {
    /// Each kind, with its name and what it does.
    pub const LIST: &[(Self, &str, &str)] = &[
        (Self::Cut, "cut", "the network falls into two sides"),
        (Self::OneWay, "one-way", "one side hears the other, and is not heard"),
        (Self::Bridge, "bridge", "two halves reach each other only through one node"),
        (Self::Hold, "hold", "messages of one link wait, and come all at once"),
        (Self::Delay, "delay", "messages of some links take long, and overtake each other"),
        (Self::Loss, "loss", "links lose messages"),
        (Self::Crash, "crash", "the power of some nodes fails: what was not synced is lost or torn"),
        (Self::Kill, "kill", "the processes of some nodes are killed"),
        (Self::Blackout, "blackout", "the power of all nodes fails at once"),
        (Self::Freeze, "freeze", "a machine neither sends, receives nor gets anything from its disk"),
        (Self::SlowDisk, "slow-disk", "a disk takes very long"),
        (Self::FullDisk, "full-disk", "a disk is full"),
        (Self::SyncError, "sync-error", "an fsync fails"),
        (Self::WriteError, "write-error", "a write to the log fails"),
        (Self::ReadError, "read-error", "a read of the log fails"),
        (Self::EngineError, "engine-error", "a write or flush of the engine fails"),
        (Self::ClockJump, "clock-jump", "a wall clock jumps"),
        (Self::ClockDrift, "clock-drift", "a wall clock runs too fast or too slow"),
        (Self::ClientCrash, "client-crash", "a machine with clients vanishes, and another takes its place"),
        (Self::SlowClient, "slow-client", "a machine with clients is hard to reach"),
        (Self::Transfer, "transfer", "leaderships are handed to another node"),
    ];

    /// All kinds.
    pub const ALL: &[Self] = &[
        Self::Cut,
        Self::OneWay,
        Self::Bridge,
        Self::Hold,
        Self::Delay,
        Self::Loss,
        Self::Crash,
        Self::Kill,
        Self::Blackout,
        Self::Freeze,
        Self::SlowDisk,
        Self::FullDisk,
        Self::SyncError,
        Self::WriteError,
        Self::ReadError,
        Self::EngineError,
        Self::ClockJump,
        Self::ClockDrift,
        Self::ClientCrash,
        Self::SlowClient,
        Self::Transfer,
    ];

    /// Its name, on the command line and in stories.
    pub fn name(self) -> &'static str {
        Self::LIST.iter().find(|(kind, _, _)| *kind == self).map_or("?", |(_, name, _)| name)
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::LIST.iter().find(|(_, known, _)| *known == name).map(|(kind, _, _)| *kind)
    }
}

/// Some machines: bit `n` is the machine of index `n`, the nodes first.
pub type Set = u64;

pub(crate) fn has(set: Set, index: usize) -> bool {
    set >> index & 1 == 1
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what the kind needs")]
pub enum What {
    /// Links between the side and the others are cut.
    Cut { side: Set },
    /// What the side sends to the others is lost.
    OneWay { side: Set },
    /// Of the other nodes, each half reaches only itself and this one.
    Bridge { node: usize, half: Set },
    /// The link's messages wait.
    Hold { a: usize, b: usize },
    /// Messages of the links between the side and all others take up to so long.
    Delay { side: Set, ms_max: u64 },
    /// Links between the side and all others lose one message in so many.
    Loss { side: Set, one_in: u64 },
    /// The processes of these nodes end.
    Crash { nodes: Set, death: Death, silent: bool },
    /// The machine stands still.
    Freeze { node: usize },
    /// The node's disk works at another pace.
    Disk { node: usize, pace: Pace },
    /// The node's log disk has this much room left.
    Full { node: usize, room_bytes: u64 },
    /// The next such call fails.
    Error { node: usize, kind: Kind },
    /// The node's wall clock jumps.
    Jump { node: usize, by_ms: i64 },
    /// The node's wall clock drifts.
    Drift { node: usize, ppm: i64 },
    /// The machine with clients is another one.
    ClientCrash { host: usize },
    /// Leaderships move to this node.
    Transfer { node: usize },
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, from the begin of the faulty phase.
    pub at_ms: u64,
    /// How long it lasts; of crashes, until the processes start again.
    pub for_ms: u64,
    /// What it does.
    pub what: What,
}

/// The faults of a run, as they come and go.
pub struct Faults {
    waiting: std::vec::IntoIter<(usize, Fault)>,
    next: Option<(usize, Fault)>,
    /// When each ends, in true us.
    going_on: Vec<(u64, usize, Fault)>,
    begun_us: u64,
    /// Since when each node is in need of a restart.
    broken_since_us: Vec<Option<u64>>,
    healed: bool,
    /// How many were begun.
    pub count: usize,
}

/// An operator looks after a node that does not work after this long.
const OPERATOR_AFTER_US: u64 = 1_000_000;

impl Faults {
    /// The faults of a plan, whose faulty phase begins now.
    pub fn begin(faults: Vec<(usize, Fault)>, nodes: usize) -> Self {
        let mut waiting = faults.into_iter();
        let next = waiting.next();
        Self {
            waiting,
            next,
            going_on: Vec::new(),
            begun_us: clock::now_us(),
            broken_since_us: vec![None; nodes],
            healed: false,
            count: 0,
        }
    }

    /// Ends and begins what is due.
    pub fn step(&mut self, cluster: &mut Cluster) {
        let now = clock::now_us();
        let over: Vec<_> = self.going_on.extract_if(.., |(until, _, _)| *until <= now).collect();
        let mut changed = !over.is_empty();
        for (_, number, fault) in over {
            self.end(cluster, number, &fault);
        }
        while let Some((number, fault)) = self.next.take_if(|(_, fault)| self.begun_us + fault.at_ms * 1000 <= now) {
            self.next = self.waiting.next();
            if self.healed {
                continue;
            }
            cluster.story().tell(format!("fault {number}: {}", cluster.describe(&fault)));
            self.count += 1;
            start(cluster, &fault.what, now + fault.for_ms * 1000);
            self.going_on.push((now + fault.for_ms * 1000, number, fault));
            changed = true;
        }
        if changed {
            self.settle_links(cluster);
        }
        self.operate(cluster);
    }

    /// Everything is repaired, and nothing new begins.
    pub fn heal(&mut self, cluster: &mut Cluster) {
        self.healed = true;
        for (_, number, fault) in std::mem::take(&mut self.going_on) {
            self.end(cluster, number, &fault);
        }
        self.settle_links(cluster);
        for host in cluster.hosts() {
            host.log.fail_no_more();
            host.engine().fail_no_more();
            host.stall_until_us(0);
            host.wall.drift(0);
        }
    }

    fn settle_links(&self, cluster: &mut Cluster) {
        let faults: Vec<&What> = self.going_on.iter().map(|(_, _, fault)| &fault.what).collect();
        cluster.settle_links(&faults);
    }

    fn end(&mut self, cluster: &mut Cluster, number: usize, fault: &Fault) {
        match fault.what {
            What::Crash { nodes, .. } => {
                for node in (0..cluster.hosts().len()).filter(|node| has(nodes, *node)) {
                    cluster.revive(node);
                }
            }
            What::Disk { node, .. } => cluster.hosts()[node].set_pace(cluster.plan().pace),
            What::Full { node, .. } => cluster.hosts()[node].log.full(None),
            What::Drift { node, .. } => cluster.hosts()[node].wall.drift(0),
            What::ClientCrash { host } => cluster.start_clients(host),
            What::Error { .. } | What::Jump { .. } | What::Transfer { .. } => return,
            _ => {}
        }
        cluster.story().tell(format!("fault {number} is over"));
    }

    /// Restarts nodes that say that they are broken, as an operator would.
    fn operate(&mut self, cluster: &mut Cluster) {
        let now = clock::now_us();
        for node in 0..self.broken_since_us.len() {
            let Some(why) = cluster.broken(node) else {
                self.broken_since_us[node] = None;
                continue;
            };
            let since = *self.broken_since_us[node].get_or_insert(now);
            if now - since >= OPERATOR_AFTER_US {
                cluster.story().tell(format!("the operator restarts node-{}: {why}", node + 1));
                self.broken_since_us[node] = None;
                cluster.kill(node, Death::Killed, false);
                cluster.revive(node);
            }
        }
    }
}

fn start(cluster: &mut Cluster, what: &What, until_us: u64) {
    match *what {
        What::Crash { nodes, death, silent } => {
            for node in (0..cluster.hosts().len()).filter(|node| has(nodes, *node)) {
                cluster.kill(node, death, silent);
            }
        }
        What::Disk { node, pace } => cluster.hosts()[node].set_pace(pace),
        What::Full { node, room_bytes } => {
            let disk = &cluster.hosts()[node].log;
            disk.full(Some(disk.used_bytes() + room_bytes));
        }
        What::Error { node, kind } => {
            let host = &cluster.hosts()[node];
            match kind {
                Kind::SyncError => host.log.fail_next_sync(),
                Kind::WriteError => host.log.fail_next_write(),
                Kind::ReadError => host.log.fail_next_read(),
                _ => host.engine().fail_next(std::io::ErrorKind::Other),
            }
        }
        What::Jump { node, by_ms } => cluster.hosts()[node].wall.jump_ms(by_ms),
        What::Drift { node, ppm } => cluster.hosts()[node].wall.drift(ppm),
        What::ClientCrash { host } => cluster.stop_clients(host),
        What::Transfer { node } => cluster.transfer_to(node),
        What::Freeze { node } => cluster.hosts()[node].stall_until_us(until_us),
        What::Cut { .. } | What::OneWay { .. } | What::Bridge { .. } => {}
        What::Hold { .. } | What::Delay { .. } | What::Loss { .. } => {}
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
