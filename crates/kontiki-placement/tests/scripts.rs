//! Placement as stories: each file in `tests/scripts` sets a view up, asks for steps, and shows what comes of them.
//!
//! ```text
//!   partition ID=NODE/NODE/...   a partition and its voters, the preferred leader first; `learner-NODE` does not vote
//!   lead ID=NODE ...             who leads
//!   alive NODE ...               the nodes that answer (replaces the former set)
//!   lag ID=NODE/...|none        replicas that lack part of the log (replaces the former set of that partition)
//!   plan                         the next step
//!   settle                       carries steps out until there is none, and prints each
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Command, Context, Runner};
use kontiki_placement::{Step, View, plan};
use kontiki_types::{Descriptor, KeyRange, NodeId, PartitionId, Role};

#[derive(Default)]
struct Story {
    view: View,
    lagging: BTreeMap<PartitionId, BTreeSet<NodeId>>,
}

impl Story {
    fn partition(&mut self, id: PartitionId, voters: &str) -> Result<(), Box<dyn Error>> {
        let names: Vec<_> = voters.split('/').collect();
        let nodes =
            names.iter().map(|name| name.trim_start_matches("learner-").parse().map(NodeId)).collect::<Result<Vec<_>, _>>()?;
        let mut descriptor = Descriptor::new(id, KeyRange::new(format!("{:04}", id.0), format!("{:04}", id.0 + 1)), &nodes);
        for (replica, name) in descriptor.replicas.iter_mut().zip(&names) {
            replica.role = if name.starts_with("learner-") { Role::Joining } else { Role::Voter };
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
        let steps_max = self.view.map.partitions.len() * (self.view.map.partitions.len() + 1);
        for _ in 0..=steps_max {
            let Some(step) = plan(&self.view) else {
                let counts: Vec<_> = self.view.leads().iter().map(|(node, count)| format!("{node}={count}")).collect();
                writeln!(out, "settled: {}", counts.join(" "))?;
                return Ok(out);
            };
            writeln!(out, "{}", display(step))?;
            let Step::TransferLeader { partition, from, to } = step;
            assert_eq!(self.view.leaders.insert(partition, to), Some(from), "a step names the present leader");
        }
        Err(format!("not settled after {steps_max} steps").into())
    }
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "partition" => {
                while let Some((id, voters)) = args.next_key() {
                    self.partition(PartitionId(id.parse()?), voters)?;
                }
            }
            "lead" => {
                while let Some((id, node)) = args.next_key() {
                    self.view.leaders.insert(PartitionId(id.parse()?), NodeId(node.parse()?));
                }
            }
            "lag" => {
                while let Some((id, nodes)) = args.next_key() {
                    let nodes = nodes.split('/').filter(|node| *node != "none").map(|node| node.parse().map(NodeId));
                    self.lagging.insert(PartitionId(id.parse()?), nodes.collect::<Result<_, _>>()?);
                }
            }
            "alive" => {
                self.view.alive.clear();
                while let Some(node) = args.next_pos() {
                    self.view.alive.insert(NodeId(node.parse()?));
                }
            }
            "plan" => {
                self.fill_caught_up();
                return Ok(plan(&self.view).map_or_else(|| "nothing to do".to_owned(), display));
            }
            "settle" => {
                self.fill_caught_up();
                return self.settle();
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}

fn display(step: Step) -> String {
    let Step::TransferLeader { partition, from, to } = step;
    format!("{partition}: {from} hands over to {to}")
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    goldenscript::run(&mut Story::default(), path).expect("the script runs");
}

#[test]
fn spread() {
    check("spread");
}

#[test]
fn home() {
    check("home");
}

#[test]
fn failures() {
    check("failures");
}
