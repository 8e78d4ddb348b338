//! One run, from the seed to the verdict. The phases are told at the head of the crate.

use std::fmt;
use std::sync::Arc;

use kontiki_checker::history::{Operation, Outcome};
use kontiki_storage::engine::Engine as _;
use kontiki_storage::machine::Machine;

use crate::clock;
use crate::cluster::Cluster;
use crate::faults::Faults;
use crate::judge;
use crate::plan::{AFTER_HEAL_MS, CONVERGE_WITHIN_MS, Plan, SERVE_WITHIN_MS, START_WITHIN_MS};
use crate::story::Story;
use crate::watch::{Seen, Watch};
use crate::workload::{Phase, Shared};

/// Every call of a client ends within this time.
const STOP_WITHIN_MS: u64 = 60_000;
/// Every key is read within this time.
const READ_WITHIN_MS: u64 = 60_000;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What went wrong; empty: nothing.
    pub failures: Vec<String>,
    /// What clients saw.
    pub history: Vec<Operation>,
    /// How long it was, in simulated ms.
    pub simulated_ms: u64,
    /// How many faults were begun.
    pub faults: usize,
    /// From the heal until each partition had served, in ms; nothing: it did not come to that.
    pub served_after_ms: Option<u64>,
    /// How often all nodes were looked at.
    pub looks: u64,
    /// What the judges looked at, in words.
    pub judged: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |of: fn(&Outcome) -> bool| self.history.iter().filter(|operation| of(&operation.outcome)).count();
        let ok = count(|outcome| matches!(outcome, Outcome::Ok { .. } | Outcome::Refused));
        let unknown = count(|outcome| matches!(outcome, Outcome::Unknown { .. }));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let Self { simulated_ms, faults, looks, .. } = self;
        writeln!(f, "{simulated_ms} ms simulated, {faults} faults, {looks} looks at the invariants")?;
        writeln!(f, "{} calls: {ok} answered, {failed} certainly without effect, {unknown} unknown", self.history.len())?;
        if let Some(after) = self.served_after_ms {
            writeln!(f, "after the heal every partition served within {after} ms")?;
        }
        self.judged.iter().try_for_each(|judged| writeln!(f, "{judged}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILED {failure}"))?;
        write!(f, "seed {}: {}", self.seed, if self.failures.is_empty() { "ok" } else { "FAILED" })
    }
}

/// A run on its way.
struct Run {
    cluster: Cluster,
    faults: Faults,
    watch: Watch,
    shared: Arc<Shared>,
    /// What ended it early.
    broken: Option<String>,
    /// Panics of tasks, which tokio keeps to itself.
    panics: fn() -> Vec<String>,
}

/// Runs a plan. `panics` says what has panicked in this process so far.
pub fn run(plan: &Plan, story: Arc<Story>, panics: fn() -> Vec<String>) -> Report {
    plan.to_string().lines().for_each(|line| story.tell(line));
    let shared = Shared::new(plan, story);
    let cluster = Cluster::new(plan, &shared);
    let faults = Faults::begin(Vec::new(), plan.nodes);
    let mut run = Run { cluster, faults, watch: Watch::default(), shared, broken: None, panics };
    let mut served_after_ms = None;
    if let Err(why) = run.phases(plan, &mut served_after_ms) {
        run.shared.story.tell(format!("FAILED {why}"));
        run.broken = Some(why);
    }
    run.report(plan, served_after_ms)
}

impl Run {
    fn phases(&mut self, plan: &Plan, served_after_ms: &mut Option<u64>) -> Result<(), String> {
        self.until(START_WITHIN_MS, "every node is ready", |run| {
            run.cluster.hosts().iter().all(|host| host.running().is_some_and(|node| node.status().ready))
        })?;
        self.shared.story.tell("the cluster is ready: clients begin");
        self.shared.enter(Phase::Working);
        self.faults = Faults::begin(plan.faults.clone(), plan.nodes);
        self.steps(plan.safety_ms)?;

        self.shared.story.tell("the heal: everything is repaired");
        self.faults.heal(&mut self.cluster);
        let healed_us = clock::now_us();
        self.shared.enter(Phase::Healed);
        let letters = plan.letters();
        let all_serve = |run: &mut Self| letters.iter().all(|letter| run.shared.served().contains_key(letter));
        let what = "every partition takes a write after the heal";
        let serving = self.until(SERVE_WITHIN_MS, what, all_serve);
        serving.map_err(|why| format!("{why}; served: {:?}", self.shared.served().keys().collect::<Vec<_>>()))?;
        let last_us = self.shared.served().values().copied().max().unwrap_or(healed_us);
        *served_after_ms = Some(last_us.saturating_sub(healed_us) / 1000);
        self.steps(AFTER_HEAL_MS)?;

        self.shared.enter(Phase::Stopping);
        self.until(STOP_WITHIN_MS, "every client's call ends", |run| run.shared.is_idle())?;
        self.shared.enter(Phase::Reading);
        self.until(READ_WITHIN_MS, "every key is read", |run| run.shared.is_read())?;
        self.until(CONVERGE_WITHIN_MS, "all replicas have applied the same, and hold the same", |run| {
            run.cluster.steps() % 100 == 0 && converged(&Seen::look(&run.cluster))
        })
    }

    fn step(&mut self) -> Result<(), String> {
        self.faults.step(&mut self.cluster);
        self.cluster.step()?;
        self.watch.step(&self.cluster);
        if let Some(panicked) = (self.panics)().first() {
            return Err(format!("panic: {panicked}"));
        }
        // What follows a broken invariant says nothing new.
        if let Some(first) = self.watch.violations.first().cloned().or_else(|| self.shared.violations().first().cloned()) {
            return Err(first);
        }
        Ok(())
    }

    fn steps(&mut self, ms: u64) -> Result<(), String> {
        (0..ms).try_for_each(|_| self.step())
    }

    fn until(&mut self, within_ms: u64, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        for _ in 0..within_ms {
            if is_so(self) {
                return Ok(());
            }
            self.step()?;
        }
        Err(format!("not within {within_ms} ms: {what}\n{}", situation(&Seen::look(&self.cluster))))
    }

    fn report(mut self, plan: &Plan, served_after_ms: Option<u64>) -> Report {
        let history = self.shared.history();
        let judgement = judge::judge(&history);
        let mut failures: Vec<String> = self.broken.take().into_iter().collect();
        failures.extend(judgement.violations);
        Report {
            seed: plan.seed,
            failures,
            history,
            simulated_ms: clock::now_ms(),
            faults: self.faults.count,
            served_after_ms,
            looks: self.watch.looks,
            judged: judgement.judged,
        }
    }
}

/// Whether all replicas of each partition have applied the same, and hold the same.
fn converged(seen: &Seen) -> bool {
    let of = |partition| seen.replicas().filter(move |(_, group)| group.partition == partition);
    seen.partitions().into_iter().all(|partition| {
        let mut contents = of(partition).map(|(node, group)| {
            let export = Machine::export(node.engine.view(), partition).ok().flatten();
            (group.applied_next, export.and_then(|export| export.content_hash().ok()))
        });
        let voters = of(partition).map(|(_, group)| group.voters.len()).max().unwrap_or(0);
        let first = contents.next();
        contents.all(|content| Some(content) == first) && of(partition).count() >= voters
    })
}

/// How every replica does, in words, for whoever has to find out why something did not happen.
fn situation(seen: &Seen) -> String {
    let mut lines = Vec::new();
    for node in &seen.nodes {
        lines.push(format!("  {}, start {}: {} replicas", node.node, node.start, node.groups.len()));
        for group in &node.groups {
            let leader = group.leader.map_or_else(|| "nobody".to_owned(), |leader| leader.to_string());
            let fault = group.fault.as_ref().map(|fault| format!(", {fault}")).unwrap_or_default();
            lines.push(format!(
                "    {}: {leader} leads in term {}; purged {}, applied {}, committed {}, last {}{fault}",
                group.partition, group.term, group.purged_next, group.applied_next, group.committed_next, group.last_next
            ));
        }
    }
    lines.join("\n")
}
