//! What each command does. A command gets checked arguments and a connected client; it prints its result and nothing else.

mod cluster;
mod export;
mod import;
mod keys;
mod lines;
mod server;

use clap::CommandFactory as _;
use kontiki_client::{Client, ClientOptions};

use crate::args::{HighArgs, LowArgs, Task};
use crate::output::{Output, Stop};

/// Does what was asked.
pub async fn run(args: HighArgs) -> Result<(), Stop> {
    let HighArgs { endpoints, output, encoding, timeout, task, .. } = args;
    let output = Output { format: output, encoding };
    match task {
        Task::Server(settings) => return server::run(*settings).await,
        Task::Completions(shell) => return completions(shell),
        _ => {}
    }
    let options = ClientOptions { timeout, ..ClientOptions::default() };
    let client = Client::connect_with(endpoints, options).await?;
    match task {
        Task::Get { key, raw, level } => keys::get(&client, output, key, raw, level).await,
        Task::Put { key, value, conditions } => keys::put(&client, output, key, value, conditions).await,
        Task::Delete { key, conditions } => keys::delete(&client, output, key, conditions).await,
        Task::DeleteRange(span) => keys::delete_range(&client, output, span).await,
        Task::Scan(scan) => keys::scan(&client, output, scan).await,
        Task::Import(import) => import::run(&client, output, import).await,
        Task::Export(export) => export::run(&client, output, export).await,
        Task::Status => cluster::status(&client, output).await,
        Task::Partitions => cluster::partitions(&client, output).await,
        Task::Nodes => cluster::nodes(&client, output).await,
        Task::TransferLeader { partition, node } => cluster::transfer_leader(&client, output, partition, node).await,
        Task::Server(_) | Task::Completions(_) => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut LowArgs::command(), "kontiki", &mut script);
    crate::output::bytes(&script)
}
