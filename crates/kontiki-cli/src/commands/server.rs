//! `server`: runs a node until a signal asks it to stop. The first SIGINT or SIGTERM stops it cleanly; a second one does not wait.

use kontiki::{HistoryOptions, Node, NodeOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::output::Stop;
use crate::settings::{Cut, ServerSettings};

/// SIGINT and SIGTERM, from the moment this exists.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let fail = |error| Failure::file("listening for signals", &error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
            terminate: signal(SignalKind::terminate()).map_err(fail)?,
        })
    }

    /// The next one, by name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

fn options(settings: ServerSettings) -> NodeOptions {
    let mut options = NodeOptions::default();
    if let Some(bytes) = settings.snapshot_rate {
        options.snapshots.bytes_per_second = bytes;
    }
    let (partitions, boundaries) = match settings.cut {
        Cut::Even(count) => (count, Vec::new()),
        Cut::At(keys) => (1, keys),
    };
    NodeOptions {
        data_dir: settings.data,
        node_id: settings.node_id,
        cluster_name: settings.cluster_name,
        listen: settings.listen,
        advertise: settings.advertise,
        http_listen: settings.http,
        members: settings.members,
        join: settings.join,
        zone: settings.zone,
        replicas: settings.replicas,
        dead_after: settings.dead_after,
        partitions,
        boundaries,
        history: HistoryOptions {
            retention_ms: u64::try_from(settings.retention.as_millis()).unwrap_or(u64::MAX),
            ..HistoryOptions::default()
        },
        ..options
    }
}

/// Runs a node.
pub async fn run(settings: ServerSettings) -> Result<(), Stop> {
    let mut signals = Signals::listen()?;
    let node = tokio::select! {
        started = Node::start(options(settings)) => started?,
        name = signals.next() => return Err(Failure::interrupted(format!("{name} before the node had started")).into()),
    };
    let name = signals.next().await;
    tracing::info!("{name}: stopping the node; a second one ends the process at once");
    tokio::select! {
        stopped = node.stop() => stopped,
        name = signals.next() => {
            return Err(Failure::interrupted(format!("{name} again: ended before everything was flushed; the next start replays the log")).into());
        }
    }
    Ok(())
}
