//! The command line.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use kontiki_sim::faults::Kind;
use kontiki_sim::plan::Cuts;

/// Simulates whole clusters from seeds.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs one seed and tells its story. Fails if anything was wrong.
    Run(Run),
    /// Runs many seeds in parallel processes, up to the first that fails.
    Sweep(Sweep),
    /// Runs each seed twice and compares the complete traces.
    Meta(Meta),
    /// Makes a failing run smaller while it still fails in the same way.
    Shrink(Shrink),
    /// Lists the kinds of fault.
    Kinds,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    /// The seed.
    #[arg(long)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) cut: Cut,
    /// Print the figures and the verdict only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Write log lines of this filter to stderr, with simulated times, such as `kontiki=debug,openraft=info`.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Write the complete trace to stdout: every packet, every log line, every call of the history.
    #[arg(long)]
    pub(crate) trace: bool,
    /// Write the history to this file, as JSON lines (docs/history-format.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Let the entropy of the operating system in, to see the comparison of traces fail.
    #[arg(long, hide = true)]
    pub(crate) unseeded: bool,
}

/// Changes to what the seed decides.
#[derive(clap::Args, Default)]
pub(crate) struct Cut {
    /// Another number of nodes.
    #[arg(long)]
    nodes: Option<usize>,
    /// Another number of partitions.
    #[arg(long)]
    partitions: Option<usize>,
    /// Another number of clients.
    #[arg(long)]
    clients: Option<usize>,
    /// Another length of the faulty phase, in simulated ms.
    #[arg(long)]
    ms: Option<u64>,
    /// Only the faults of these numbers, such as `0,3,4`; `none` for none.
    #[arg(long, value_name = "NUMBERS")]
    keep: Option<String>,
    /// Only these kinds of fault, whatever the seed has (see `sim kinds`).
    #[arg(long, value_name = "KINDS")]
    only: Option<String>,
    /// Without these kinds of fault.
    #[arg(long, value_name = "KINDS")]
    without: Option<String>,
}

impl Cut {
    pub(crate) fn cuts(&self) -> Result<Cuts, String> {
        let keep = self.keep.as_deref().map(|text| match text {
            "none" => Ok(BTreeSet::new()),
            text => {
                let wrong = |_| format!("--keep {text}: give numbers of faults, such as 0,3,4, or none");
                text.split(',').map(|number| number.parse().map_err(wrong)).collect()
            }
        });
        Ok(Cuts {
            nodes: self.nodes,
            partitions: self.partitions,
            clients: self.clients,
            safety_ms: self.ms,
            keep: keep.transpose()?,
            only: self.only.as_deref().map(kinds).transpose()?,
            without: self.without.as_deref().map(kinds).transpose()?.unwrap_or_default(),
        })
    }
}

fn kinds(text: &str) -> Result<BTreeSet<Kind>, String> {
    let known = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let parse = |name| Kind::parse(name).ok_or_else(|| format!("there is no kind of fault `{name}`; there are {}", known()));
    text.split(',').filter(|name| !name.is_empty() && *name != "none").map(parse).collect()
}

#[derive(clap::Args)]
pub(crate) struct Sweep {
    /// How many seeds.
    #[arg(long)]
    pub(crate) seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// Processes at once. Default: one for each core.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Go on after a failure, and list all that fail.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) cut: Cut,
}

#[derive(clap::Args)]
pub(crate) struct Meta {
    /// How many seeds.
    #[arg(long, default_value_t = 10)]
    pub(crate) seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// Let the entropy of the operating system in: the comparison must fail.
    #[arg(long)]
    pub(crate) unseeded: bool,
}

#[derive(clap::Args)]
pub(crate) struct Shrink {
    /// The seed.
    #[arg(long)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) cut: Cut,
}
