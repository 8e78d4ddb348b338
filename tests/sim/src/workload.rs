//! The clients: production clients on machines of their own, which work on keys of several kinds and write down what they see.
//!
//! ```text
//!   machine ── one Client ── process  register, session, counter, exact, set, scan
//!                                └── Shared: the history, the phase
//!   operator ── hands leaderships over; at the heal asks every partition; at the end reads every key
//! ```
//!
//! Keys of partition `b` are `b/r/0` (registers), `b/c/0` (counters), `b/e/17` (counters of one client), `b/s/3/` (sets: each element is a
//! key).

mod counter;
mod elements;
pub mod operator;
mod register;
mod scan;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use kontiki_checker::history::{Call, Operation, Outcome, Recorder, Reply, Ticket};
use kontiki_client::{Client, ClientOptions};
use kontiki_types::{Error, ErrorKind, NamespaceId, NodeId, Version, key};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock;
use crate::cluster::PORT;
use crate::dice::Dice;
use crate::env::SimulatedDial;
use crate::plan::Plan;
use crate::story::Story;

/// After an error a client breathes.
const AFTER_ERROR_MS: u64 = 20;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The cluster starts; clients wait.
    Starting,
    /// Clients work, faults come and go.
    Working,
    /// Everything was repaired; clients still work.
    Healed,
    /// Clients end what they do, and stop.
    Stopping,
    /// The operator reads every key.
    Reading,
}

/// What the machines of clients and the run share.
pub struct Shared {
    /// Where things are told.
    pub story: Arc<Story>,
    plan: Plan,
    recorder: Mutex<Recorder>,
    phase: AtomicU8,
    busy: AtomicI64,
    processes: AtomicU64,
    transfers: Mutex<VecDeque<NodeId>>,
    /// When each partition served after the heal, in true us.
    served: Mutex<BTreeMap<char, u64>>,
    /// How many keys the last reader has left; nothing before it began.
    unread: Mutex<Option<usize>>,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    /// Of a run that has not begun.
    pub fn new(plan: &Plan, story: Arc<Story>) -> Arc<Self> {
        Arc::new(Self {
            story,
            plan: plan.clone(),
            recorder: Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            busy: AtomicI64::new(0),
            processes: AtomicU64::new(1),
            transfers: Mutex::default(),
            served: Mutex::default(),
            unread: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    /// Goes on to a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) >= phase as u8
    }

    /// Waits for a phase, or a later one.
    async fn phase(&self, phase: Phase) {
        while !self.is(phase) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether no client is doing anything.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// The partitions that have served since the heal, and when.
    pub fn served(&self) -> BTreeMap<char, u64> {
        self.served.lock().clone()
    }

    /// Whether every key was read at the end.
    pub fn is_read(&self) -> bool {
        *self.unread.lock() == Some(0)
    }

    /// What clients saw that is wrong by itself.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    fn violated(&self, why: String) {
        self.story.tell(format!("VIOLATION {why}"));
        self.violations.lock().push(why);
    }

    /// What was seen, so far.
    pub fn history(&self) -> Vec<Operation> {
        self.recorder.lock().operations().to_vec()
    }

    pub(crate) fn order_transfer(&self, to: NodeId) {
        self.transfers.lock().push_back(to);
    }

    fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    async fn connect(&self, seed: u64) -> Client {
        let addrs: Vec<String> = self.plan.node_names().into_iter().map(|name| format!("{name}:{PORT}")).collect();
        let options = ClientOptions {
            timeout: Duration::from_secs(4),
            attempt_timeout: Duration::from_millis(1_500),
            keep_alive_interval: Duration::from_millis(500),
            seed: Some(seed),
            ..ClientOptions::default()
        };
        loop {
            match Client::connect_by(Arc::new(SimulatedDial), addrs.clone(), options.clone()).await {
                Ok(client) => return client,
                Err(error) => tracing::debug!(%error, "not connected yet"),
            }
        }
    }
}

/// What a machine of clients runs, until it is switched off.
pub(crate) async fn machine(shared: Arc<Shared>, at: usize) -> turmoil::Result {
    let own = |number: &usize| number % shared.plan.client_hosts == at;
    let numbers: Vec<usize> = (0..shared.plan.clients).filter(own).collect();
    shared.phase(Phase::Working).await;
    let first = shared.next_process();
    let client = shared.connect(shared.plan.seed ^ first << 32).await;
    let mut running = JoinSet::new();
    for number in numbers {
        let caller = Caller::new(&shared, client.clone());
        match number % 7 {
            0 => running.spawn(register::run(caller)),
            1 => running.spawn(session::run(caller)),
            2 => running.spawn(counter::run(caller)),
            3 => running.spawn(elements::run(caller)),
            4 => running.spawn(register::run(caller)),
            5 => running.spawn(scan::run(caller)),
            _ => running.spawn(counter::run_alone(caller)),
        };
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    std::future::pending().await
}

/// Counted as long as it lives.
struct Busy(Arc<Shared>);

impl Busy {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One process of the history.
struct Caller {
    id: u64,
    client: Client,
    shared: Arc<Shared>,
    dice: Dice,
    /// Values are numbered, so that no two writes write the same.
    values: u64,
    _busy: Busy,
}

impl Caller {
    fn new(shared: &Arc<Shared>, client: Client) -> Self {
        let id = shared.next_process();
        let dice = Dice::of(shared.plan.seed, &format!("process {id}"));
        Self { id, client, shared: Arc::clone(shared), dice, values: 0, _busy: Busy::new(shared) }
    }

    /// Waits for its next turn; false: there is none.
    async fn turn(&mut self) -> bool {
        if self.shared.is(Phase::Stopping) {
            return false;
        }
        // In bursts: most waits are short.
        let most = self.shared.plan.think_ms_max;
        let most = if self.dice.chance(1, 4) { most * 3 } else { most / 2 };
        sleep(Duration::from_millis(self.dice.between(0, most))).await;
        !self.shared.is(Phase::Stopping)
    }

    async fn breathe(&self) {
        sleep(Duration::from_millis(AFTER_ERROR_MS)).await;
    }

    fn letter(&mut self) -> char {
        *self.dice.pick(&self.shared.plan.letters())
    }

    /// A key of this kind in any partition.
    fn key(&mut self, kind: char) -> String {
        let letter = self.letter();
        format!("{letter}/{kind}/{}", self.dice.below(self.shared.plan.keys))
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("{}-{}", self.id, self.values)
    }

    fn begin(&self, key: &str, call: Call, mark: impl FnOnce(&mut Operation)) -> Ticket {
        let mut operation = Operation::invoked(self.id, key, call);
        let home = self.client.map().lookup(&key::internal(NamespaceId::DEFAULT, key.as_bytes())).map(|home| home.id.0);
        operation.group = home;
        mark(&mut operation);
        self.shared.recorder.lock().begin(operation, clock::now_us())
    }

    fn end(&self, ticket: Ticket, outcome: Outcome) {
        self.shared.recorder.lock().end(ticket, outcome, clock::now_us());
    }
}

/// How a write ended.
fn written(result: &Result<Version, Error>) -> Outcome {
    match result {
        Ok(version) => Outcome::Ok { reply: Reply::Done, version: Some(version.0) },
        Err(error) if error.kind() == ErrorKind::ConditionFailed => Outcome::Refused,
        Err(error) => failed(error),
    }
}

/// How a call ended that got an error. An error says whether a write may have been applied; a read has no effect.
fn failed(error: &Error) -> Outcome {
    let text = error.to_string();
    if error.kind() == ErrorKind::Ambiguous { Outcome::Unknown { error: text } } else { Outcome::Failed { error: text } }
}
