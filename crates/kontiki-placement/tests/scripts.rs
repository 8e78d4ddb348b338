//! Placement as stories: each file in `tests/scripts` sets a view up, asks for steps, and shows what comes of them.
//!
//! ```text
//!   node ID ID=ZONE ...          nodes that take part, and where they stand
//!   partition ID=NODE/NODE/...   a partition and its voters, the preferred leader first; `joining-NODE`, `leaving-NODE`
//!   lead ID=NODE ...             who leads
//!   alive NODE ...               the nodes that answer (replaces the former set)
//!   dead | slow NODE ...         the nodes that were given up, that are slow (replace the former set)
//!   state NODE=STATE ...         active, leaving, lost, gone
//!   factor N                     how many replicas are wanted
//!   lag ID=NODE/...|none         replicas that lack part of the log (replaces the former set of that partition)
//!   plan                         the next step
//!   settle                       carries steps out until there is none, and prints each and what they come to
//!   decommission | remove | remove-by-force NODE   whether that may be, and why not
//! ```

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Command, Context, Runner};
use kontiki_placement::{Step, View, can_decommission, can_remove, plan};
use kontiki_types::{Descriptor, KeyRange, NodeId, NodeInfo, NodeState, PartitionId, Role};

#[derive(Default)]
struct Story {
    view: View,
    lagging: BTreeMap<PartitionId, BTreeSet<NodeId>>,
}

fn node(name: &str) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(name.parse()?))
}

fn role(name: &str) -> (Role, &str) {
    let joining = name.strip_prefix("joining-").map(|name| (Role::Joining, name));
    let leaving = || name.strip_prefix("leaving-").map(|name| (Role::Leaving, name));
    joining.or_else(leaving).unwrap_or((Role::Voter, name))
}

impl Story {
    fn node(&mut self, id: NodeId) -> &mut NodeInfo {
        let nodes = &mut self.view.map.nodes;
        let at = nodes.binary_search_by_key(&id, |node| node.id).unwrap_or_else(|at| {
            nodes.insert(at, NodeInfo { id, ..NodeInfo::default() });
            at
        });
        &mut nodes[at]
    }

    fn partition(&mut self, id: PartitionId, voters: &str) -> Result<(), Box<dyn Error>> {
        let replicas: Vec<_> = voters.split('/').map(role).collect();
        let nodes = replicas.iter().map(|(_, name)| node(name)).collect::<Result<Vec<_>, _>>()?;
        for id in &nodes {
            self.node(*id);
        }
        let mut descriptor = Descriptor::new(id, KeyRange::new(format!("{:04}", id.0), format!("{:04}", id.0 + 1)), &nodes);
        for (replica, (role, _)) in descriptor.replicas.iter_mut().zip(replicas) {
            replica.role = role;
        }
        self.view.map.partitions.push(descriptor);
        Ok(())
    }

    /// Whoever is not said to lag has the log.
    fn fill_caught_up(&mut self) {
        let nothing = BTreeSet::new();
        for descriptor in &self.view.map.partitions {
            let lagging = self.lagging.get(&descriptor.id).unwrap_or(&nothing);
            let nodes = descriptor.replicas.iter().map(|replica| replica.node).filter(|node| !lagging.contains(node));
            self.view.caught_up.insert(descriptor.id, nodes.collect());
        }
    }

    fn settle(&mut self) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        for _ in 0..1000 {
            self.fill_caught_up();
            let Some(step) = plan(&self.view) else {
                self.summary(&mut out)?;
                return Ok(out);
            };
            writeln!(out, "{}", display(&step))?;
            world::carry_out(&mut self.view, &step)?;
        }
        Err("not settled after 1000 steps".into())
    }

    fn summary(&self, out: &mut String) -> Result<(), Box<dyn Error>> {
        if self.view.factor > 0 {
            for descriptor in &self.view.map.partitions {
                let nodes: Vec<_> = descriptor.replicas.iter().map(show).collect();
                writeln!(out, "{}: {}", descriptor.id, nodes.join(" "))?;
            }
        }
        let counts: Vec<_> = self.view.leads().iter().map(|(node, count)| format!("{node}={count}")).collect();
        writeln!(out, "settled: {}", counts.join(" "))?;
        Ok(())
    }
}

fn show(replica: &kontiki_types::Replica) -> String {
    let role = match replica.role {
        Role::Voter => "",
        Role::Joining => "(joining)",
        Role::Leaving => "(leaving)",
    };
    format!("{}/{}{role}", replica.node, replica.id)
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "node" => {
                while let Some(id) = args.next_pos() {
                    self.node(node(id)?);
                }
                while let Some((id, zone)) = args.next_key() {
                    self.node(node(id)?).zone = zone.to_owned();
                }
            }
            "state" => {
                while let Some((id, state)) = args.next_key() {
                    let states = [NodeState::Active, NodeState::Leaving, NodeState::Lost, NodeState::Gone];
                    let state = states.into_iter().find(|known| known.to_string() == *state).ok_or("no such state")?;
                    self.node(node(id)?).state = state;
                }
            }
            "partition" => {
                while let Some((id, voters)) = args.next_key() {
                    self.partition(PartitionId(id.parse()?), voters)?;
                }
            }
            "lead" => {
                while let Some((id, leader)) = args.next_key() {
                    self.view.leaders.insert(PartitionId(id.parse()?), node(leader)?);
                }
            }
            "lag" => {
                while let Some((id, nodes)) = args.next_key() {
                    let nodes = nodes.split('/').filter(|name| *name != "none").map(node);
                    self.lagging.insert(PartitionId(id.parse()?), nodes.collect::<Result<_, _>>()?);
                }
            }
            "alive" | "dead" | "slow" => {
                let mut nodes = BTreeSet::new();
                while let Some(name) = args.next_pos() {
                    nodes.insert(node(name)?);
                }
                match command.name.as_str() {
                    "alive" => self.view.alive = nodes,
                    "dead" => self.view.dead = nodes,
                    _ => self.view.slow = nodes,
                }
            }
            "factor" => self.view.factor = args.next_pos().ok_or("how many?")?.parse()?,
            "plan" => {
                self.fill_caught_up();
                return Ok(plan(&self.view).as_ref().map_or_else(|| "nothing to do".to_owned(), display));
            }
            "settle" => return self.settle(),
            "decommission" | "remove" | "remove-by-force" => {
                let id = node(args.next_pos().ok_or("which node?")?)?;
                let may = match command.name.as_str() {
                    "decommission" => can_decommission(&self.view, id),
                    name => can_remove(&self.view, id, name == "remove-by-force"),
                };
                return Ok(may.map_or_else(|refusal| refusal.to_string(), |()| "it may".to_owned()));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}

fn display(step: &Step) -> String {
    match step {
        Step::TransferLeader { partition, from, to } => format!("{partition}: {from} hands over to {to}"),
        Step::ChangeReplicas { partition, conf: _, add, remove } => {
            let add = add.iter().map(|node| format!(" add {node}"));
            let parts: Vec<_> = add.chain(remove.iter().map(|replica| format!(" remove {replica}"))).collect();
            format!("{partition}:{}", parts.join(","))
        }
        Step::MarkGone { node } => format!("{node} is gone"),
    }
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    goldenscript::run(&mut Story::default(), path).expect("the script runs");
}

macro_rules! stories {
    ($($name:ident)*) => { $( #[test] fn $name() { check(stringify!($name)); } )* };
}

stories! { spread home failures grow repair call_off balance zones slow decommission refusals shrink majority }
