//! The machines of a run, and what can be done to them from outside: step, kill, revive, cut off.
//!
//! ```text
//!   turmoil Sim ── node-1 .. node-n     Host::live            the production node
//!               ── clients-1 ..         workload::machine     production clients that work
//!               ── operator             workload::operator    asks for what an operator asks, and looks at the end
//! ```

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kontiki_server::NodeOptions;
use kontiki_types::{Bytes, NodeId};
use turmoil::Sim;

use crate::clock;
use crate::faults::{Fault, Links, Set, What, has};
use crate::host::{Death, Host};
use crate::plan::Plan;
use crate::story::Story;
use crate::workload::{self, Shared};

/// How far the simulation goes in one step.
const STEP: Duration = Duration::from_millis(1);
/// Segments that a connection may have on their way: a burst that exceeds it is a panic in turmoil.
const TCP_CAPACITY: usize = 64 * 1024;
/// The port of every node.
pub(crate) const PORT: u16 = 7601;
/// The machine from which the run itself asks things.
const OPERATOR: &str = "operator";

/// See the module.
pub struct Cluster {
    sim: Sim<'static>,
    plan: Plan,
    hosts: Vec<Arc<Host>>,
    alive: Vec<bool>,
    links: Links,
    shared: Arc<Shared>,
    steps: u64,
}

impl Cluster {
    /// All machines of the plan, switched on.
    pub fn new(plan: &Plan, shared: &Arc<Shared>) -> Self {
        let latency = Duration::from_millis(plan.latency_ms_max);
        let mut sim = turmoil::Builder::new()
            .tick_duration(STEP)
            .epoch(UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(1_000_000))
            .tcp_capacity(TCP_CAPACITY)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(latency)
            .enable_random_order()
            .rng_seed(plan.seed)
            .build();
        let hosts: Vec<Arc<Host>> = (1..=plan.nodes).map(|number| host(plan, number, shared)).collect();
        for host in &hosts {
            let running = Arc::clone(host);
            sim.host(host.name.as_str(), move || {
                let host = Arc::clone(&running);
                async move {
                    host.live().await;
                    Ok(())
                }
            });
        }
        let clients = plan.client_names();
        for (at, name) in clients.iter().enumerate() {
            let shared = Arc::clone(shared);
            sim.host(name.as_str(), move || workload::machine(Arc::clone(&shared), at));
        }
        let operated = Arc::clone(shared);
        sim.host(OPERATOR, move || workload::operator::run(Arc::clone(&operated)));
        let names = hosts.iter().map(|host| host.name.clone()).chain(clients).collect();
        let links = Links::new(names, plan.nodes, plan.latency_ms_max);
        let alive = vec![true; hosts.len()];
        Self { sim, plan: plan.clone(), hosts, alive, links, shared: Arc::clone(shared), steps: 0 }
    }

    /// One step of time.
    ///
    /// # Errors
    /// If the program of a machine has ended with an error.
    pub fn step(&mut self) -> Result<(), String> {
        let stepped = self.sim.step().map_err(|error| format!("a machine's program ended: {error}"))?;
        let _ = stepped;
        self.steps += 1;
        clock::set_now_us(u64::try_from(self.sim.elapsed().as_micros()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The machines with nodes.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where things are told.
    pub fn story(&self) -> &Story {
        &self.shared.story
    }

    /// Makes the links what these faults make of them.
    pub fn settle_links(&mut self, faults: &[&What]) {
        self.links.settle(&mut self.sim, faults);
    }

    /// A node's process dies, if it lives. `silent`: its peers hear nothing of it, not even that connections ended.
    pub fn kill(&mut self, node: usize, death: Death, silent: bool) {
        if !std::mem::replace(&mut self.alive[node], false) {
            return;
        }
        let host = &self.hosts[node];
        host.die(death);
        if silent {
            self.links.silence(&self.sim, node);
        }
        self.sim.crash(host.name.as_str());
        if silent {
            self.links.speak(&self.sim, node);
        }
        host.died();
    }

    /// A node's process starts again, if it is dead.
    pub fn revive(&mut self, node: usize) {
        if !std::mem::replace(&mut self.alive[node], true) {
            self.sim.bounce(self.hosts[node].name.as_str());
        }
    }

    /// Why a node that lives does not work, as far as it says so itself.
    pub fn broken(&self, node: usize) -> Option<String> {
        if !self.alive[node] {
            return None;
        }
        let host = &self.hosts[node];
        if let Some(why) = host.refused() {
            return Some(format!("it could not start ({why})"));
        }
        let running = host.running()?;
        let replicas = || running.groups().into_iter().flat_map(|groups| groups.all());
        running.fault().or_else(|| replicas().find_map(|group| group.status().fault))
    }

    /// Whether the node's process lives.
    pub fn is_alive(&self, node: usize) -> bool {
        self.alive[node]
    }

    /// A machine with clients vanishes in the middle of what it does.
    pub fn stop_clients(&mut self, host: usize) {
        self.sim.crash(self.plan.client_names()[host].as_str());
    }

    /// A machine with clients is there again; its clients are others.
    pub fn start_clients(&mut self, host: usize) {
        self.sim.bounce(self.plan.client_names()[host].as_str());
    }

    /// Asks for every leadership to be handed to this node.
    pub fn transfer_to(&mut self, node: usize) {
        self.shared.order_transfer(self.hosts[node].node);
    }

    /// A fault in words.
    pub fn describe(&self, fault: &Fault) -> String {
        let names: Vec<String> = self.plan.node_names().into_iter().chain(self.plan.client_names()).collect();
        let of = |set: Set| {
            let inside: Vec<&str> = (0..names.len()).filter(|at| has(set, *at)).map(|at| names[at].as_str()).collect();
            inside.join(", ")
        };
        let name = |at: usize| names[at].as_str();
        let for_ms = fault.for_ms;
        match &fault.what {
            What::Cut { side } => format!("{} are cut off from the others for {for_ms} ms", of(*side)),
            What::OneWay { side } => format!("{} are not heard by the others for {for_ms} ms", of(*side)),
            What::Bridge { node, half } => {
                format!("only {} reaches both {} and the other nodes for {for_ms} ms", name(*node), of(*half))
            }
            What::Hold { a, b } => format!("messages between {} and {} wait for {for_ms} ms", name(*a), name(*b)),
            What::Delay { side, ms_max } => {
                format!("messages to and from {} take up to {ms_max} ms more for {for_ms} ms", of(*side))
            }
            What::Loss { side, one_in } => format!("one message in {one_in} to and from {} is lost for {for_ms} ms", of(*side)),
            What::Crash { nodes, death, silent } => {
                let how = if *death == Death::PowerCut { "lose their power" } else { "are killed" };
                let silent = if *silent { ", without a word to anybody" } else { "" };
                format!("{} {how}{silent}, and start again after {for_ms} ms", of(*nodes))
            }
            What::Freeze { node } => format!("{} stands still for {for_ms} ms", name(*node)),
            What::Disk { node, pace } => {
                format!("the disk of {} takes up to {} ms for {for_ms} ms", name(*node), pace.sync_ms_max)
            }
            What::Full { node, room_bytes } => format!("the disk of {} has {room_bytes} bytes left for {for_ms} ms", name(*node)),
            What::Error { node, kind } => format!("{} gets a {kind}", name(*node)),
            What::Jump { node, by_ms } => format!("the clock of {} jumps by {by_ms} ms", name(*node)),
            What::Drift { node, ppm } => format!("the clock of {} is wrong by {ppm} ppm for {for_ms} ms", name(*node)),
            What::ClientCrash { host } => {
                format!("{} vanishes, and comes back with other clients after {for_ms} ms", name(self.plan.nodes + host))
            }
            What::Transfer { node } => format!("{} is asked to lead everything", name(*node)),
        }
    }
}

fn host(plan: &Plan, number: usize, shared: &Shared) -> Arc<Host> {
    let names = plan.node_names();
    let members = names.iter().zip(1..).map(|(name, id)| (NodeId(id), format!("{name}:{PORT}"))).collect();
    let name = names[number - 1].clone();
    let options = NodeOptions {
        data_dir: format!("/{name}").into(),
        node_id: NodeId(number as u64),
        cluster_name: "simulated".to_owned(),
        listen: format!("0.0.0.0:{PORT}"),
        members,
        boundaries: plan.letters().into_iter().skip(1).map(|letter| Bytes::from(letter.to_string())).collect(),
        log: plan.log.clone(),
        log_retention: plan.retention.clone(),
        history: plan.history.clone(),
        snapshots: plan.snapshots.clone(),
        ..NodeOptions::default()
    };
    Host::new(plan.seed, name, options, plan.pace, Arc::clone(&shared.story))
}
