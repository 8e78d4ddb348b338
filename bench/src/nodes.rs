//! `bench nodes`: what it costs that nodes come and go. Six experiments, each on a cluster of its own whose data is removed before the
//! next one begins; each figure is printed with the limit that it is held against.
//!
//! ```text
//!   catch_up       a replica is wiped: bytes per second until redundancy is back, memory, what writers feel of it
//!   grow           a fourth node joins, gets its share, and one of the four is decommissioned, under load
//!   hand_over      SIGTERM of a leader, again and again, under load
//!   restart        a node with little data and the same with much
//!   overwrite      few keys are overwritten a million times: what the disk keeps of it
//!     fill, writers   who writes                    copy     what the hardware gives: a file over loopback
//!     watch           what a cluster and its processes say           figure, report    what comes out
//! ```
//!
//! The load generator, the servers and everything that they do in the background share the processors of one machine; what a figure
//! says of Kontiki is always less good than what it would say with a machine for each.

mod catch_up;
mod copy;
mod figure;
mod fill;
mod grow;
mod hand_over;
mod overwrite;
mod report;
mod restart;
mod space;
mod watch;
mod writers;

use std::path::{Path, PathBuf};

use kontiki_client::{Client, ClientOptions};
use tokio::time::{Duration, Instant};

pub use figure::{Figure, Limit};
pub use report::Report;

use crate::disk::Disk;
use crate::processes::{self, ClusterSettings, Members, Servers};
use crate::{Failure, cpu};

/// One of the things that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Experiment {
    /// A wiped replica.
    CatchUp,
    /// A node that joins, and one that is decommissioned.
    Grow,
    /// Leaders that are asked to stop.
    HandOver,
    /// Restarts with little and with much data.
    Restart,
    /// Few keys, overwritten again and again.
    Overwrite,
}

impl Experiment {
    /// All of them, in the order in which they are done.
    pub const ALL: [Self; 5] = [Self::HandOver, Self::Overwrite, Self::Grow, Self::Restart, Self::CatchUp];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CatchUp => "catch-up",
            Self::Grow => "grow",
            Self::HandOver => "hand-over",
            Self::Restart => "restart",
            Self::Overwrite => "overwrite",
        }
    }
}

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server binary.
    pub server: PathBuf,
    /// Data goes below this; removed at the end.
    pub directory: PathBuf,
    /// What is measured.
    pub experiments: Vec<Experiment>,
    /// Bytes of rows of the replica that is wiped. The restart with much data has twice as many.
    pub bytes: u64,
    /// Leaders stopped, and restarts of each kind.
    pub rounds: usize,
    /// User partitions of the cluster that grows.
    pub partitions: u32,
    /// How often the few keys are overwritten, all together.
    pub overwrites: u64,
    /// Replays the same keys.
    pub seed: u64,
}

/// First members of a cluster.
const NODES: u64 = 3;
/// One call of a writer, with its retries: longer than anything that should happen here.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// Runs everything.
pub async fn run(plan: &Plan, progress: &dyn Fn(&str)) -> Result<Report, Failure> {
    let started = Instant::now();
    let directory = tempfile::Builder::new().prefix("kontiki-bench-").tempdir_in(&plan.directory);
    let directory = directory.map_err(Failure::doing(format!("making a directory in {}", plan.directory.display())))?;
    space::check(directory.path(), plan)?;
    let mut report = Report::new(plan, Disk::measure(directory.path())?, cpu::load_average());
    let mut experiments = plan.experiments.clone();
    experiments.sort_by_key(|asked| Experiment::ALL.iter().position(|known| known == asked));
    experiments.dedup();
    for experiment in experiments {
        let mut bench = Bench { plan, directory: directory.path(), progress, experiment, figures: &mut report.figures };
        match experiment {
            Experiment::CatchUp => catch_up::run(&mut bench).await,
            Experiment::Grow => grow::run(&mut bench).await,
            Experiment::HandOver => hand_over::run(&mut bench).await,
            Experiment::Restart => restart::run(&mut bench).await,
            Experiment::Overwrite => overwrite::run(&mut bench).await,
        }
        .map_err(Failure::doing(experiment.name()))?;
        empty(directory.path())?;
    }
    report.took_ms = started.elapsed().as_millis();
    Ok(report)
}

/// Removes what an experiment has left, so that the next one has the disk for itself.
fn empty(directory: &Path) -> Result<(), Failure> {
    let doing = || Failure::doing(format!("emptying {}", directory.display()));
    for entry in std::fs::read_dir(directory).map_err(doing())? {
        let path = entry.map_err(doing())?.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(doing())?;
    }
    Ok(())
}

/// What an experiment works with.
struct Bench<'a> {
    plan: &'a Plan,
    directory: &'a Path,
    progress: &'a dyn Fn(&str),
    experiment: Experiment,
    figures: &'a mut Vec<Figure>,
}

impl Bench<'_> {
    /// Says what is being done.
    fn say(&self, what: impl AsRef<str>) {
        (self.progress)(&format!("{}: {}", self.experiment.name(), what.as_ref()));
    }

    /// Keeps a figure, and says it.
    fn note(&mut self, name: impl Into<String>, (value, unit): (f64, &'static str), limit: Limit, note: impl Into<String>) {
        let figure = Figure { experiment: self.experiment.name(), name: name.into(), value, unit, limit, note: note.into() };
        self.say(figure.line());
        self.figures.push(figure);
    }

    /// A cluster whose processes do not run yet. `more` addresses are kept for nodes that join it later.
    fn cluster(&self, nodes: u64, more: u64, partitions: u32) -> Result<Prepared, Failure> {
        let addrs = Members::on_loopback(2 * (nodes + more))?;
        let (grpc, http) = addrs.halves();
        let settings = ClusterSettings {
            binary: self.plan.server.clone(),
            directory: self.directory.to_owned(),
            name: format!("bench-{}", self.experiment.name()),
            members: grpc.first(usize::try_from(nodes).unwrap_or(usize::MAX)),
            partitions,
            http: Some(http),
            flags: Vec::new(),
        };
        Ok(Prepared { settings, addrs: grpc })
    }

    /// Starts all first members, and waits until they serve.
    async fn start(&self, prepared: &Prepared) -> Result<(Servers, Client), Failure> {
        let ids: Vec<u64> = prepared.settings.members.all().iter().map(|(id, _)| *id).collect();
        self.say(format!("starting {} server processes, {} partitions", ids.len(), prepared.settings.partitions));
        let mut servers = Servers::start(prepared.settings.clone(), &ids)?;
        let client = processes::connect(&mut servers, &prepared.settings.members.addrs(), &self.options()).await?;
        processes::wait_until_served(&mut servers, &client, ids.len()).await?;
        Ok((servers, client))
    }

    fn options(&self) -> ClientOptions {
        ClientOptions { seed: Some(self.plan.seed), timeout: CALL_WITHIN, ..ClientOptions::default() }
    }
}

/// A cluster that can be started.
struct Prepared {
    settings: ClusterSettings,
    /// Of the first members, and of those that join.
    addrs: Members,
}
