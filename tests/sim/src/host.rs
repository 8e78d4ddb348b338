//! One machine that runs a node: what it keeps when the process on it dies, and how well it works.
//!
//! ```text
//!   process   Node ── its tasks, sockets, memory          gone at every crash
//!   machine   page cache                                  gone when the power fails, in part
//!             disks, engine, wall clock, pace of the disk kept
//! ```
//!
//! The engine is in memory, with a durable half of its own: a crash keeps any prefix of what was not flushed, also when only the process dies, because
//! RocksDB without its log keeps that in the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kontiki_server::{Node, NodeOptions};
use kontiki_storage::disk::SimulatedDisk;
use kontiki_storage::engine::MemoryEngine;
use kontiki_types::{NodeId, StoreId};
use parking_lot::Mutex;

use crate::clock::{self, Wall};
use crate::dice::Dice;
use crate::env;
use crate::story::Story;

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It is killed: what it wrote is in the page cache.
    Killed,
    /// The power fails: what was not synced is lost, in part or torn.
    PowerCut,
}

/// How long the disk takes, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest fsync of the log.
    pub sync_ms_max: u64,
    /// The longest other blocking work (flushes, installs).
    pub work_ms_max: u64,
}

/// See the module.
pub struct Host {
    /// Its name in the network.
    pub name: String,
    /// The node that runs here.
    pub node: NodeId,
    /// Identity and the like.
    pub root: SimulatedDisk,
    /// The raft log.
    pub log: SimulatedDisk,
    /// What its users see as the time.
    pub wall: Wall,
    pub(crate) story: Arc<Story>,
    options: NodeOptions,
    engine: Mutex<Arc<MemoryEngine>>,
    locked: AtomicBool,
    starts: AtomicU64,
    pace: Mutex<Pace>,
    stalled_until_us: AtomicU64,
    dice: Mutex<Dice>,
    seed: u64,
    running: Mutex<std::sync::Weak<Node>>,
    refused: Mutex<Option<String>>,
    store: Mutex<Option<StoreId>>,
}

impl Host {
    /// A machine with empty disks.
    pub fn new(seed: u64, name: String, options: NodeOptions, pace: Pace, story: Arc<Story>) -> Arc<Self> {
        let mut dice = Dice::of(seed, &name);
        Arc::new(Self {
            node: options.node_id,
            root: SimulatedDisk::new(dice.any()),
            log: SimulatedDisk::new(dice.any()),
            wall: Wall::default(),
            story,
            options,
            engine: Mutex::new(MemoryEngine::new()),
            locked: AtomicBool::new(false),
            starts: AtomicU64::new(0),
            pace: Mutex::new(pace),
            stalled_until_us: AtomicU64::new(0),
            seed: dice.any(),
            dice: Mutex::new(dice),
            running: Mutex::default(),
            refused: Mutex::default(),
            store: Mutex::default(),
            name,
        })
    }

    /// What runs on the machine from one start to its death.
    pub(crate) async fn live(self: Arc<Self>) {
        let start = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        *self.refused.lock() = None;
        match Node::start_in(env::of(&self, self.seed.wrapping_add(start)), self.options.clone()).await {
            Ok(node) => {
                let node = Arc::new(node);
                *self.store.lock() = node.groups().map(|groups| groups.store());
                *self.running.lock() = Arc::downgrade(&node);
                self.story.tell(format!("{} has started, for the {} time", self.name, ordinal(start)));
                std::future::pending::<()>().await;
            }
            Err(error) => {
                self.story.tell(format!("{} cannot start: {error}", self.name));
                *self.refused.lock() = Some(error.to_string());
                std::future::pending::<()>().await;
            }
        }
    }

    /// The process dies. Before its tasks are dropped, so that what they do while they fall leaves no trace on the disk.
    pub(crate) fn die(&self, death: Death) {
        match death {
            Death::Killed => {
                self.root.restart();
                self.log.restart();
            }
            Death::PowerCut => {
                self.root.crash();
                self.log.crash();
            }
        }
    }

    /// After the tasks were dropped.
    pub(crate) fn died(&self) {
        self.locked.store(false, Ordering::Relaxed);
        *self.running.lock() = std::sync::Weak::new();
        *self.refused.lock() = None;
        let mut engine = self.engine.lock();
        // Nothing, everything, or something of what was not flushed.
        let mut dice = self.dice.lock();
        let coin = match dice.below(3) {
            0 => 0,
            1 => engine.unflushed() as u64,
            _ => dice.any(),
        };
        engine.crash(coin);
        *engine = engine.reopened();
    }

    /// The node, if one runs.
    pub fn running(&self) -> Option<Arc<Node>> {
        self.running.lock().upgrade()
    }

    /// The id of its disks, as far as a node has told.
    pub fn store(&self) -> Option<StoreId> {
        *self.store.lock()
    }

    /// Why the last start failed, if it did.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// Which start of the process this is.
    pub fn start(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// The state machines' engine.
    pub fn engine(&self) -> Arc<MemoryEngine> {
        Arc::clone(&self.engine.lock())
    }

    /// What the node was started with.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// Takes the lock of the data directory; false if it is taken.
    pub(crate) fn lock(&self) -> bool {
        !self.locked.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn unlock(&self) {
        self.locked.store(false, Ordering::Relaxed);
    }

    /// The disk works at this pace from now on.
    pub fn set_pace(&self, pace: Pace) {
        *self.pace.lock() = pace;
    }

    /// Nothing that the disk is asked from now on is done before this time.
    pub fn stall_until_us(&self, until: u64) {
        self.stalled_until_us.store(until, Ordering::Relaxed);
    }

    /// How long an fsync takes that begins now.
    pub(crate) fn sync_takes(&self) -> Duration {
        let most = self.pace.lock().sync_ms_max;
        self.takes(most)
    }

    /// How long other blocking work takes that begins now.
    pub(crate) fn work_takes(&self) -> Duration {
        let most = self.pace.lock().work_ms_max;
        self.takes(most)
    }

    fn takes(&self, ms_max: u64) -> Duration {
        let drawn = self.dice.lock().between(0, ms_max);
        let stalled = self.stalled_until_us.load(Ordering::Relaxed).saturating_sub(clock::now_us());
        Duration::from_millis(drawn) + Duration::from_micros(stalled)
    }
}

fn ordinal(number: u64) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}
