//! What a started node consists of while it runs, and how that ends: in order, within bounds, and whoever stops waiting.
//!
//! ```text
//!   Running ─ tasks (loops, services)
//!           ─ Ground ─ groups ─ log, engine ─ directory (its lock goes last)
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kontiki_raft::{Exec, Group, Groups, GroupsConfig};
use kontiki_storage::disk::Disk;
use kontiki_storage::engine::Engine;
use kontiki_types::partition::Incarnation;
use kontiki_types::{Effect, Error, ErrorKind, Fault, NodeId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::env::{DataDir, Env};
use crate::identity::Identity;
use crate::local::Local;
use crate::map::MapCopy;
use crate::options::NodeOptions;
use crate::transport::Peers;

/// Handing leaderships over saves the others an election, but a stop must be quick.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(700);
/// Calls that are being answered get this long when the node stops.
const FINISH_WITHIN: Duration = Duration::from_millis(200);
/// Making everything durable at the end only saves the next start a replay: what was acknowledged is in the log.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// How long a task may take to end after it was told to.
const END_WITHIN: Duration = Duration::from_millis(500);
/// How often is looked whether something has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What ends when the node stops.
pub(crate) struct Running {
    local: Local,
    /// Loops and services.
    pub(crate) tasks: Vec<JoinHandle<()>>,
    /// Breaks the connections, and ends what is still being done.
    pub(crate) cut: CancellationToken,
    pub(crate) ground: Ground,
    exec: Arc<dyn Exec>,
    /// Where the node runs: it may be dropped elsewhere.
    runtime: Handle,
}

/// What the replicas stand on, and how many held it before there were any: when no more hold it again, it can be closed.
pub(crate) struct Ground {
    pub(crate) groups: Arc<Groups>,
    engine: (Arc<dyn Engine>, usize),
    log: (Arc<dyn Disk>, usize),
    /// Last: its lock goes when everything in it is closed.
    dir: Arc<dyn DataDir>,
}

/// Runs blocking work through the environment.
pub(crate) async fn blocking<T: Send + 'static>(env: &Env, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let (done, result) = tokio::sync::oneshot::channel();
    let run = Box::new(move || drop(done.send(work())));
    env.exec.blocking(run).await;
    result.await.map_err(|_| Error::new(ErrorKind::Internal, "work that blocks was dropped: is the runtime shutting down?"))
}

impl Ground {
    pub(crate) async fn open(
        env: &Env,
        options: &NodeOptions,
        (identity, incarnation, had_log): (&Identity, Incarnation, bool),
        dir: Arc<dyn DataDir>,
        (map, peers): (&Arc<MapCopy>, &Arc<Peers>),
        changed: watch::Sender<u64>,
    ) -> Result<Self, Error> {
        let (opening, engine_options) = (dir.clone(), options.engine.clone());
        let engine = blocking(env, move || opening.engine(&engine_options)).await?;
        let engine = engine.map_err(|fault| in_dir(dir.as_ref(), "the storage engine cannot be opened", fault))?;
        let opening = dir.clone();
        let log = blocking(env, move || opening.log()).await?;
        let log =
            log.map_err(|error| in_dir(dir.as_ref(), "the log cannot be opened", Fault::io("opening its directory", error)))?;
        let (engine_holders, log_holders) = (Arc::strong_count(&engine), Arc::strong_count(&log));
        let config = GroupsConfig {
            cluster: identity.cluster,
            cluster_name: identity.cluster_name.clone(),
            node: identity.node,
            store: identity.store,
            incarnation,
            had_log,
            members: map.clone(),
            disk: log.clone(),
            log: options.log.clone(),
            engine: engine.clone(),
            transport: peers.clone(),
            wall_ms: env.wall_ms.clone(),
            exec: env.exec.clone(),
            effects: Arc::new(move |_, effect| match effect {
                // Both mean the same to the node: look again at what it should hold.
                Effect::MapChanged | Effect::DescriptorChanged(_) => changed.send_modify(|count| *count += 1),
            }),
            options: options.raft.clone(),
            retention: options.log_retention.clone(),
            history: options.history.clone(),
            snapshots: options.snapshots.clone(),
        };
        let groups = Groups::open(config).await;
        let groups = groups.map_err(|fault| in_dir(dir.as_ref(), "the replicas cannot be opened", fault))?;
        Ok(Self { groups, engine: (engine, engine_holders), log: (log, log_holders), dir })
    }

    /// Closes everything, the directory last. Closing an engine blocks.
    async fn close(self, exec: &dyn Exec) {
        let Self { groups, engine, log, dir } = self;
        if timeout(END_WITHIN, groups.shutdown()).await.is_err() {
            tracing::warn!("the replicas did not stop in time; they are left to the runtime");
        }
        drop(groups);
        let closed = timeout(END_WITHIN, async {
            while Arc::strong_count(&engine.0) > engine.1 || Arc::strong_count(&log.0) > log.1 {
                sleep(LOOK_EVERY).await;
            }
        });
        if closed.await.is_err() {
            tracing::warn!("something still uses the data directory; it is given back when that ends");
        }
        exec.blocking(Box::new(move || {
            drop((engine, log));
            drop(dir);
        }))
        .await;
    }

    /// Under the replicas.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.engine.0.clone()
    }
}

/// A fault at start-up, with the directory and what to do.
fn in_dir(dir: &dyn DataDir, what: &str, fault: Fault) -> Error {
    let advice = match &fault {
        _ if fault.is_disk_full() => "free space on that disk",
        Fault::Io { .. } => "look at that disk",
        Fault::Corrupt { .. } => "do not start it again as it is: remove the directory and bring the node back under a new id",
        Fault::Format { .. } => "start the version that wrote it, or a newer one",
        Fault::Invariant(_) => "keep the directory for the report",
    };
    Error::with_source(ErrorKind::Storage, format!("data directory {}: {what}: {fault}; {advice}", dir.path().display()), fault)
}

/// Hands one partition over; tried again until it is done. `turn` makes different partitions choose different nodes. Ends when somebody else
/// leads, or never, if nobody can.
async fn hand_over(own: NodeId, group: Group, turn: usize) {
    while group.is_leader() {
        if group.status().voters.iter().all(|node| *node == own) {
            return;
        }
        if let Err(error) = group.hand_over(|_| true, turn).await {
            tracing::debug!(partition = %group.partition(), %error, "not handed over yet");
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Running {
    pub(crate) fn new(local: Local, cut: CancellationToken, ground: Ground, exec: Arc<dyn Exec>) -> Self {
        Self { local, tasks: Vec::new(), cut, ground, exec, runtime: Handle::current() }
    }

    /// Stops in order. What is begun goes on to its end, also if nobody waits for it any more.
    pub(crate) async fn stop(self) -> Result<(), JoinError> {
        let runtime = self.runtime.clone();
        let stopping = runtime.spawn(async move {
            let _ = timeout(HAND_OVER_WITHIN, self.hand_over()).await;
            self.local.stopping().cancel();
            let _ = timeout(FINISH_WITHIN, self.idle()).await;
            let _ = timeout(FLUSH_WITHIN, self.ground.groups.flush()).await;
            self.end().await;
        });
        stopping.await
    }

    /// Ends at once, in the background. The handle ends when the directory has been given back.
    pub(crate) fn abandon(self) -> JoinHandle<()> {
        self.local.stopping().cancel();
        self.cut.cancel();
        self.runtime.clone().spawn(self.end())
    }

    /// Hands every partition that this node leads over to another voter. All at once: each takes one election.
    async fn hand_over(&self) {
        let led = self.local.replicas().into_iter().filter(Group::is_leader);
        let transfers = led.zip(0..).map(|(group, turn)| hand_over(self.local.node(), group, turn));
        join_all(transfers).await;
    }

    /// Waits until everything that was begun has been answered, and all loops and services have ended.
    async fn idle(&self) {
        while !self.local.admission().is_idle() || self.tasks.iter().any(|task| !task.is_finished()) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything that runs, whatever it is doing, and gives the data directory back.
    async fn end(self) {
        let Self { local, tasks, cut, ground, exec, runtime: _ } = self;
        cut.cancel();
        for mut task in tasks {
            if timeout(END_WITHIN, &mut task).await.is_err() {
                task.abort();
            }
        }
        local.release();
        ground.close(exec.as_ref()).await;
    }
}
