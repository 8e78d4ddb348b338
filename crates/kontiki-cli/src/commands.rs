//! What each command does. A command gets checked arguments and a connected client; it prints its result and nothing else.

mod backup;
mod cluster;
mod export;
mod import;
mod keys;
mod lines;
mod node;
mod recover;
mod restore;
mod server;

use std::time::Duration;

use clap::CommandFactory as _;
use kontiki::ErrorKind;
use kontiki_client::{Client, ClientOptions};

use crate::args::{HighArgs, LowArgs, Task};
use crate::failure::Failure;
use crate::output::{Output, Stop};

/// Does what was asked.
pub async fn run(args: HighArgs) -> Result<(), Stop> {
    let HighArgs { endpoints, output, encoding, timeout, task, .. } = args;
    let output = Output { format: output, encoding };
    let connect = || connect(&endpoints, timeout);
    match task {
        Task::Server(settings) => server::run(*settings).await,
        Task::Completions(shell) => completions(shell),
        Task::Get { key, raw, level } => keys::get(&connect().await?, output, key, raw, level).await,
        Task::Put { key, value, conditions } => keys::put(&connect().await?, output, key, value, conditions).await,
        Task::Delete { key, conditions } => keys::delete(&connect().await?, output, key, conditions).await,
        Task::DeleteRange(span) => keys::delete_range(&connect().await?, output, span).await,
        Task::Scan(scan) => keys::scan(&connect().await?, output, scan).await,
        Task::Import(import) => {
            // A mistake in the file is told at once, also when no node answers.
            let opened = import::open(import).await?;
            import::run(&connect().await?, output, opened).await
        }
        Task::Export(export) => export::run(&connect().await?, output, export).await,
        Task::Backup(asked) => backup::run(&connect().await?, output, asked).await,
        Task::VerifyBackup { dir, bases } => backup::verify(output, dir, bases).await,
        Task::Restore(asked) => restore::run(output, asked).await,
        Task::Recover(asked) => recover::run(output, asked).await,
        Task::Status => cluster::status(&connect().await?, output).await,
        Task::Partitions => cluster::partitions(&connect().await?, output).await,
        Task::Nodes => node::list(&connect().await?, output).await,
        Task::Decommission { node, wait } => node::decommission(&connect().await?, output, node, wait).await,
        Task::RemoveNode { node, force } => node::remove(&connect().await?, output, node, force).await,
        Task::TransferLeader { partition, node } => cluster::transfer_leader(&connect().await?, output, partition, node).await,
    }
}

async fn connect(endpoints: &[String], timeout: Duration) -> Result<Client, Stop> {
    let options = ClientOptions { timeout, ..ClientOptions::default() };
    let connected = Client::connect_with(endpoints.iter().cloned(), options).await;
    connected.map_err(|error| match error.kind() {
        ErrorKind::Unavailable => Failure::from(error)
            .with_advice(format!(
                "asked was {}: is a node running there? --endpoints names other addresses",
                endpoints.join(", ")
            ))
            .into(),
        _ => error.into(),
    })
}

fn completions(shell: clap_complete::Shell) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut LowArgs::command(), "kontiki", &mut script);
    crate::output::bytes(&script)
}
