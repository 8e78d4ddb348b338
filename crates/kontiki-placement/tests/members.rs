//! A change of replicas as a story: what the descriptor wants, what the group has, and what the leader does next.
//!
//! ```text
//!   wants ID[=joining|leaving] ...   the descriptor's replicas; replica N is on node N
//!   voters ID ...                    who votes; a second line `next ID ...` makes it a joint membership
//!   learners ID ...                  members that do not vote
//!   leader ID                        who leads
//!   complete ID ...                  who has the log and answers
//!   step                             the next step
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

use goldenscript::{Command, Context, Runner};
use kontiki_placement::{MemberStep, Membership, Progress, next_step};
use kontiki_types::{Descriptor, KeyRange, NodeId, PartitionId, Replica, ReplicaId, Role};

struct Story {
    descriptor: Descriptor,
    voters: BTreeSet<ReplicaId>,
    next: BTreeSet<ReplicaId>,
    learners: BTreeSet<ReplicaId>,
    progress: Progress,
}

impl Story {
    fn step(&self) -> Option<MemberStep> {
        let sets = [&self.voters, &self.next].into_iter().filter(|set| !set.is_empty()).cloned();
        let members = self.voters.iter().chain(&self.next).chain(&self.learners);
        let membership =
            Membership { configs: sets.collect(), nodes: members.map(|replica| (*replica, NodeId(replica.0))).collect() };
        next_step(&self.descriptor, &membership, &self.progress)
    }
}

fn show(step: MemberStep) -> String {
    let list = |replicas: BTreeSet<ReplicaId>| replicas.iter().map(ReplicaId::to_string).collect::<Vec<_>>().join(" ");
    match step {
        MemberStep::Finish => "finish the joint change".to_owned(),
        MemberStep::AddLearner { replica, node } => format!("open {replica} on {node} and add it as a learner"),
        MemberStep::TransferLeader { to } => format!("hand over to {to}"),
        MemberStep::ChangeVoters { add, remove } => format!("voters: add [{}], remove [{}]", list(add), list(remove)),
        MemberStep::RemoveNodes(replicas) => format!("remove the learners [{}]", list(replicas)),
        MemberStep::SetDescriptor(descriptor) => {
            let replicas = descriptor.replicas.iter().map(|replica| replica.id).collect();
            format!("done: epoch {}, replicas [{}]", descriptor.epoch, list(replicas))
        }
    }
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        if command.name == "wants" {
            self.descriptor.replicas.clear();
            let mut all: Vec<(String, Role)> = Vec::new();
            while let Some(id) = args.next_pos() {
                all.push((id.to_owned(), Role::Voter));
            }
            while let Some((id, role)) = args.next_key() {
                let roles = [("joining", Role::Joining), ("leaving", Role::Leaving)];
                let role = roles.into_iter().find(|(name, _)| *name == role).ok_or("joining or leaving")?.1;
                all.push((id.to_owned(), role));
            }
            for (id, role) in all {
                let id: u64 = id.parse()?;
                self.descriptor.replicas.push(Replica { id: ReplicaId(id), node: NodeId(id), role });
            }
            return Ok(String::new());
        }
        let mut ids = BTreeSet::new();
        while let Some(id) = args.next_pos() {
            ids.insert(ReplicaId(id.parse()?));
        }
        match command.name.as_str() {
            "voters" => (self.voters, self.next) = (ids, BTreeSet::new()),
            "next" => self.next = ids,
            "learners" => self.learners = ids,
            "leader" => self.progress.leader = ids.pop_first().ok_or("which?")?,
            "complete" => self.progress.caught_up = ids,
            "step" => return Ok(self.step().map_or_else(|| "wait, or nothing to do".to_owned(), show)),
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}

#[test]
fn members() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/members");
    let mut story = Story {
        descriptor: Descriptor::new(PartitionId(2), KeyRange::new("a", "b"), &[]),
        voters: BTreeSet::new(),
        next: BTreeSet::new(),
        learners: BTreeSet::new(),
        progress: Progress::default(),
    };
    goldenscript::run(&mut story, path).expect("the script runs");
}
