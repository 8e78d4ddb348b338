//! `bench quick`: the quick benchmark, as a table on stdout and as JSON in a file. Progress goes to stderr.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a program: it reads its own path and ends itself")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
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
}

#[derive(Debug, Args)]
struct Quick {
    /// The server binary [default: `kontiki` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Where the data goes while the benchmark runs: a real disk [default: the build directory of this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
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
    let Command::Quick(quick) = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(bounded(&quick));
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
async fn bounded(quick: &Quick) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::doing("listening for SIGTERM"))?;
    tokio::select! {
        result = run(quick) => result,
        () = tokio::time::sleep(Duration::from_secs(quick.give_up_after)) =>
            Err(Failure::new(format!("not finished after {} s; see --give-up-after", quick.give_up_after))),
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
        server: processes::server_binary(quick.server.clone())?,
        directory: quick.dir.clone().unwrap_or_else(|| beside.clone()),
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

fn beside_this_program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::doing("finding this program's own path"))?;
    own.parent().map(Path::to_owned).ok_or_else(|| Failure::new("this program lies in no directory"))
}
