//! `bench quick`, the quick benchmark, and `bench nodes`, what it costs that nodes come and go: a table on stdout and JSON in a file.
//! Progress goes to stderr.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a program: it reads its own path and ends itself")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kontiki_bench::nodes::{self, Experiment};
use kontiki_bench::quick::{self, Plan};
use kontiki_bench::{Failure, processes};
use tokio::signal::unix::{SignalKind, signal};

/// Measures Kontiki through its public API.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts and linearizable gets at 1, 16, 64 and 256 clients, over gRPC and embedded; killed leaders. About two minutes
    Quick(Quick),
    /// Catch-up of a wiped replica, join, decommission, planned hand-overs, restarts, overwriting: each figure with its limit. About twenty minutes
    Nodes(Nodes),
}

/// What every benchmark is told.
#[derive(Debug, Args)]
struct Common {
    /// The server binary [default: `kontiki` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Where the data goes while the benchmark runs: a real disk [default: the build directory of this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Nodes {
    #[command(flatten)]
    common: Common,
    /// Where the JSON goes [default: bench-nodes.json beside this program]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What is printed: a table for people, or the JSON
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Gigabytes of rows of the replica that is wiped; the restart with much data has twice as many
    #[arg(long, default_value_t = 5.0)]
    gigabytes: f64,
    /// Leaders that are stopped, and restarts of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// User partitions of the cluster that a node joins and another one leaves
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    partitions: u32,
    /// How often a thousand keys are overwritten, all together
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    overwrites: u64,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', value_name = "EXPERIMENT")]
    only: Vec<Measured>,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The run is given up after so many seconds
    #[arg(long, default_value_t = 5400)]
    give_up_after: u64,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// An experiment, as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Measured {
    HandOver,
    Grow,
    Restart,
    CatchUp,
    Overwrite,
}

impl From<Measured> for Experiment {
    fn from(typed: Measured) -> Self {
        match typed {
            Measured::HandOver => Self::HandOver,
            Measured::Grow => Self::Grow,
            Measured::Restart => Self::Restart,
            Measured::CatchUp => Self::CatchUp,
            Measured::Overwrite => Self::Overwrite,
        }
    }
}

#[derive(Debug, Args)]
struct Quick {
    #[command(flatten)]
    common: Common,
    /// Where the JSON goes [default: bench-quick.json beside this program]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Connections to each node over gRPC, at most
    #[arg(long, default_value_t = 12)]
    connections: usize,
    /// User partitions of the gRPC cluster
    #[arg(long, default_value_t = 3)]
    partitions: u32,
    /// Counted seconds of each cell
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before counting starts
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
    /// Leaders to kill
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The run is given up after so many seconds
    #[arg(long, default_value_t = 240)]
    give_up_after: u64,
}

/// What a run that was cut short has left running gets this long.
const END_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match &command {
            Command::Quick(quick) => bounded(quick.give_up_after, run(quick)).await,
            Command::Nodes(nodes) => bounded(nodes.give_up_after, run_nodes(nodes)).await,
        }
    });
    // An embedded node that was not stopped, because the run was cut short, must not hold the end up.
    runtime.shutdown_timeout(END_WITHIN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Ends by itself: finished, out of time, or told to. In each case the run is dropped, and its servers with it.
async fn bounded(give_up_after: u64, run: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::doing("listening for SIGTERM"))?;
    tokio::select! {
        result = run => result,
        () = tokio::time::sleep(Duration::from_secs(give_up_after)) =>
            Err(Failure::new(format!("not finished after {give_up_after} s; see --give-up-after"))),
        _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted")),
        _ = terminate.recv() => Err(Failure::new("terminated")),
    }
}

async fn run(quick: &Quick) -> Result<(), Failure> {
    if quick.clients.contains(&0) || quick.clients.is_empty() || quick.connections == 0 || quick.partitions == 0 {
        return Err(Failure::new("--clients, --connections and --partitions are at least 1"));
    }
    let seconds = |name: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(Failure::doing(format!("--{name} {seconds} is no number of seconds")))
    };
    let beside = beside_this_program()?;
    let plan = Plan {
        server: processes::server_binary(quick.common.server.clone())?,
        directory: quick.common.dir.clone().unwrap_or_else(|| beside.clone()),
        clients: quick.clients.clone(),
        connections: quick.connections,
        partitions: quick.partitions,
        warm_up: seconds("warm-up", quick.warm_up)?,
        window: seconds("seconds", quick.seconds)?,
        kills: quick.kills,
        seed: quick.seed,
    };
    let report = quick::run(&plan, &|line| eprintln!("{line}")).await?;
    print!("{}", report.text());
    let out = quick.out.clone().unwrap_or_else(|| beside.join("bench-quick.json"));
    report.write_json(&out)?;
    println!("took {} s; JSON in {}", report.took_ms / 1000, out.display());
    Ok(())
}

async fn run_nodes(asked: &Nodes) -> Result<(), Failure> {
    let bytes = asked.gigabytes * 1e9;
    if !(1e6..=1e12).contains(&bytes) {
        return Err(Failure::new(format!("--gigabytes is {}; give it 0.001 to 1000", asked.gigabytes)));
    }
    let beside = beside_this_program()?;
    let only: Vec<Experiment> = asked.only.iter().map(|typed| Experiment::from(*typed)).collect();
    let plan = nodes::Plan {
        server: processes::server_binary(asked.common.server.clone())?,
        directory: asked.common.dir.clone().unwrap_or_else(|| beside.clone()),
        experiments: if only.is_empty() { Experiment::ALL.to_vec() } else { only },
        bytes: bytes as u64,
        rounds: asked.rounds as usize,
        partitions: asked.partitions,
        overwrites: asked.overwrites,
        seed: asked.seed,
    };
    let report = nodes::run(&plan, &|line| eprintln!("{line}")).await?;
    let out = asked.out.clone().unwrap_or_else(|| beside.join("bench-nodes.json"));
    report.write_json(&out)?;
    match asked.output {
        Output::Table => println!("{}took {} s; JSON in {}", report.text(), report.took_ms / 1000, out.display()),
        Output::Json => println!("{}", report.json()?),
    }
    Ok(())
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::doing("finding this program's own path"))?;
    own.parent().map(Path::to_owned).ok_or_else(|| Failure::new("this program lies in no directory"))
}
