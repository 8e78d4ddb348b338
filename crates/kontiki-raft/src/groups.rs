//! All groups of a node: one log, one log writer, one engine, one transport, and a replica for each partition held here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kontiki_storage::disk::Disk;
use kontiki_storage::engine::Engine;
use kontiki_storage::log::{Log, LogOptions, LogReader, Record, Recovered, RecoveredGroup};
use kontiki_storage::machine::Machine;
use kontiki_types::partition::Incarnation;
use kontiki_types::{ClusterId, Descriptor, Fault, NodeId, PartitionId, ReplicaId, StoreId};
use openraft::Config;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::compaction::{self, LogRetention};
use crate::exec::{Exec, run_blocking};
use crate::flush::{FlushBarrier, Places};
use crate::group::{self, Group};
use crate::history::{self, HistoryOptions};
use crate::identity::{Identity, Members};
use crate::log_queue::{LogQueue, log_queue};
use crate::log_store::GroupLog;
use crate::network::{Factory, Sender};
use crate::options::RaftOptions;
use crate::proposer::WallMs;
use crate::snapshot::registry::Outgoing;
use crate::snapshot::sender::Lane;
use crate::snapshot::{self, SnapshotOptions, SnapshotStats};
use crate::state_machine::{self, EffectSink, StateMachine};
use crate::transport::Transport;
use crate::type_config::Raft;

/// A replica that a fault of the disk has ended is opened again, but not more often than this.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// What a node's groups stand on.
pub struct GroupsConfig {
    /// The cluster, checked on every message.
    pub cluster: ClusterId,
    /// A word for the cluster in logs.
    pub cluster_name: String,
    /// This node.
    pub node: NodeId,
    /// This node's disk.
    pub store: StoreId,
    /// Which start of this node this is.
    pub incarnation: Incarnation,
    /// Whether there was a log at an earlier start: then it must be there.
    pub had_log: bool,
    /// What the node knows of the others.
    pub members: Arc<dyn Members>,
    /// Where the log lives.
    pub disk: Arc<dyn Disk>,
    /// How the log is cut.
    pub log: LogOptions,
    /// Where the state machines live.
    pub engine: Arc<dyn Engine>,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// The wall clock, in ms since the Unix epoch. Suggests versions; never trusted.
    pub wall_ms: WallMs,
    /// Where blocking work runs.
    pub exec: Arc<dyn Exec>,
    /// Told of the effects of applied commands. Called from apply: must return at once.
    pub effects: EffectSink,
    /// Timers.
    pub options: RaftOptions,
    /// How much of the log is kept.
    pub retention: LogRetention,
    /// How long old versions are kept.
    pub history: HistoryOptions,
    /// Bounds of snapshots.
    pub snapshots: SnapshotOptions,
}

/// The log, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of all segments.
    pub size_bytes: u64,
    /// Segments.
    pub segments: usize,
    /// Entries that are kept, of all groups.
    pub entries: u64,
    /// Bytes of these entries.
    pub entries_bytes: u64,
    /// Requests made durable so far.
    pub durable_ticket: u64,
    /// How often the log of a group was trimmed since the start.
    pub trims: u64,
    /// Flushes of the engine that trimming has asked for since the start.
    pub flushes: u64,
    /// How long ago the last of them ended; `None` if there was none.
    pub flushed_ago_ms: Option<u64>,
    /// How long an fsync takes, in us: a moving average. 0: none yet.
    pub fsync_us: u64,
}

/// The groups of one node.
pub struct Groups {
    config: GroupsConfig,
    identity: Identity,
    raft_config: Arc<Config>,
    queue: LogQueue,
    reader: LogReader,
    /// What recovery found for groups that are not open yet.
    recovered: Mutex<BTreeMap<PartitionId, RecoveredGroup>>,
    open: RwLock<HashMap<PartitionId, Group>>,
    flush: Arc<FlushBarrier>,
    snapshots: Arc<snapshot::Shared>,
    /// Held while replicas are made, replaced or removed in the engine.
    replicas: Arc<tokio::sync::Mutex<()>>,
    trims: AtomicU64,
    reclaims: AtomicU64,
    stopping: CancellationToken,
    broken: Mutex<BTreeMap<PartitionId, Fault>>,
    /// One creation at a time: a group must never be built twice on one log.
    creating: tokio::sync::Mutex<()>,
}

impl Groups {
    /// Recovers the log, starts the log writer, and starts every replica that the engine holds. One that cannot be opened stays down
    /// alone ([`Groups::broken`]).
    pub async fn open(config: GroupsConfig) -> Result<Arc<Self>, Fault> {
        let raft_config = config.options.config(config.cluster_name.clone());
        let raft_config = raft_config.map_err(|error| Fault::Invariant(format!("unchecked Raft options: {error}")))?;
        let (disk, store, options, had_log) = (config.disk.clone(), config.store, config.log.clone(), config.had_log);
        let held = Machine::list(config.engine.as_ref())?;
        let holds_data = held.clone();
        let opened = run_blocking(config.exec.as_ref(), move || open_log(disk, store, options, had_log, &holds_data)).await;
        let (log, recovered): (Log, Recovered) = opened.ok_or_else(executor_gone)??;
        let reader = log.reader();
        let (queue, writer, spares) = log_queue(log);
        tokio::spawn(spares.run(config.exec.clone()));
        config.exec.spawn_log_writer(writer).map_err(|error| Fault::io("starting the log writer", error))?;
        let identity = Identity {
            cluster: config.cluster,
            node: config.node,
            store: config.store,
            incarnation: config.incarnation,
            members: config.members.clone(),
        };
        let groups = Arc::new(Self {
            identity,
            raft_config: Arc::new(raft_config),
            queue,
            reader,
            recovered: Mutex::new(recovered.groups),
            open: RwLock::new(HashMap::new()),
            flush: Arc::new(FlushBarrier::new(config.engine.clone(), config.exec.clone())),
            snapshots: snapshot::Shared::new(config.snapshots.clone()),
            replicas: Arc::default(),
            trims: AtomicU64::new(0),
            reclaims: AtomicU64::new(0),
            stopping: CancellationToken::new(),
            broken: Mutex::default(),
            creating: tokio::sync::Mutex::new(()),
            config,
        });
        // What was found is durable from here on, also where the last process did not come to flush it.
        groups.flush.flush().await?;
        groups.forget_removed(&held).await?;
        let mut broken = BTreeMap::new();
        for partition in &held {
            match Machine::open(groups.config.engine.clone(), *partition) {
                // A log that cannot carry one replica can carry none: it is the node's, and it holds the votes of all.
                Ok(machine) => {
                    if let Some(machine) = machine {
                        groups.start(machine).await?;
                    }
                }
                Err(fault) => drop(broken.insert(*partition, fault)),
            }
        }
        // If nothing at all can be opened, it is not the replicas that are broken.
        if broken.len() == held.len()
            && let Some((_, fault)) = broken.pop_first()
        {
            return Err(fault);
        }
        *groups.broken.lock() = broken;
        tokio::spawn(compaction::run(Arc::downgrade(&groups), groups.stopping.clone()));
        tokio::spawn(history::run(Arc::downgrade(&groups), groups.stopping.clone()));
        Ok(groups)
    }

    /// The replicas that could not be opened at the start, and why: each stays down alone.
    pub fn broken(&self) -> BTreeMap<PartitionId, Fault> {
        self.broken.lock().clone()
    }

    /// Opens this node's replica of a partition, creating it if it is new. Does nothing if it is open. The new replica's record
    /// is durable before the replica may vote.
    pub async fn create(&self, descriptor: Descriptor) -> Result<Group, Fault> {
        let Some(replica) = descriptor.replica_on(self.config.node) else {
            if let Some(group) = self.get(descriptor.id) {
                return Ok(group);
            }
            return Err(Fault::Invariant(format!("{} has no replica on {}", descriptor.id, self.config.node)));
        };
        let id = replica.id;
        self.create_empty(descriptor, id).await
    }

    /// Opens this node's replica of a partition, or creates an empty one under this id, which waits to be caught up by a leader. Does nothing if
    /// it is open. A fault if another replica of the partition is here, if this one or a newer one was removed from here
    /// ([`Groups::destroy`]), or if its range overlaps that of another partition here.
    pub async fn create_empty(&self, descriptor: Descriptor, replica: ReplicaId) -> Result<Group, Fault> {
        let _one_at_a_time = self.creating.lock().await;
        let partition = descriptor.id;
        if let Some(group) = self.get(partition) {
            return self.same_replica(group.replica(), replica, partition).map(|()| group);
        }
        let (engine, changing) = (self.config.engine.clone(), self.replicas.clone().lock_owned().await);
        let made = run_blocking(self.exec(), move || {
            let _changing = changing;
            if let Some(machine) = Machine::open(engine.clone(), partition)? {
                return Ok(machine);
            }
            let machine = Machine::create(engine.clone(), descriptor, replica)?;
            engine.flush()?;
            Ok::<_, Fault>(machine)
        });
        let machine = made.await.ok_or_else(executor_gone)??;
        self.same_replica(machine.replica(), replica, partition)?;
        self.broken.lock().remove(&partition);
        self.start(machine).await
    }

    fn same_replica(&self, held: ReplicaId, wanted: ReplicaId, partition: PartitionId) -> Result<(), Fault> {
        if held == wanted {
            return Ok(());
        }
        let node = self.config.node;
        Err(Fault::Invariant(format!(
            "{node} holds replica {held} of {partition}, and {wanted} was to be opened there; remove {held} first"
        )))
    }

    /// Removes a replica from this node for ever: its data, its votes, its entries. Only that it was here is remembered. Durable when it
    /// returns; doing it again does nothing. A fault if another replica of the partition is here.
    pub async fn destroy(&self, partition: PartitionId, replica: ReplicaId) -> Result<(), Fault> {
        let _one_at_a_time = self.creating.lock().await;
        let open = self.get(partition);
        if let Some(group) = open {
            self.same_replica(group.replica(), replica, partition)?;
            self.open.write().remove(&partition);
            group.shutdown().await;
        } else if let Ok(Some(machine)) = Machine::open(self.config.engine.clone(), partition) {
            self.same_replica(machine.replica(), replica, partition)?;
        }
        let (engine, changing) = (self.config.engine.clone(), self.replicas.clone().lock_owned().await);
        let gone = run_blocking(self.exec(), move || {
            let _changing = changing;
            Machine::destroy(engine.as_ref(), partition)
        });
        gone.await.ok_or_else(executor_gone)??;
        self.broken.lock().remove(&partition);
        // Only now: without its data nobody asks for its votes again. If it ends here, the next start goes on ([`Groups::open`]).
        self.recovered.lock().remove(&partition);
        self.queue.push_and_wait(vec![Record::Forget { group: partition }]).await
    }

    /// Opens again the replicas that a fault of the disk has ended, as a restart would, and returns those that are open again. One that cannot
    /// be yet (the disk is still full) stays as it is. Nothing is tried while the log itself has failed.
    pub async fn reopen_stopped(&self) -> Vec<Group> {
        let mut open = Vec::new();
        let stopped = |group: &Group| group.stopped_by_disk().is_some_and(|age| age >= REOPEN_AFTER);
        for group in self.all().into_iter().filter(stopped) {
            let (partition, fault) = (group.partition(), group.status().fault.unwrap_or_default());
            match self.reopen(group).await {
                Ok(Some(group)) => {
                    tracing::warn!(%partition, fault, "a replica that a fault of the disk had ended is open again");
                    open.push(group);
                }
                Ok(None) => {}
                Err(fault) => {
                    tracing::debug!(%partition, %fault, "a replica that a fault of the disk has ended cannot be opened yet")
                }
            }
        }
        open
    }

    /// What is in the log's memory is what was asked of it, in order, so it goes on with that; what the engine holds is read anew. `None`: it is
    /// not there any more, or the node stops.
    async fn reopen(&self, group: Group) -> Result<Option<Group>, Fault> {
        let _one_at_a_time = self.creating.lock().await;
        let partition = group.partition();
        if self.stopping.is_cancelled() || self.get(partition).is_none_or(|open| open.stopped_by_disk().is_none()) {
            return Ok(None);
        }
        group.shutdown().await;
        let log = group.log().clone();
        log.settle().await?;
        // What an opened replica holds counts as durable.
        self.flush.flush().await?;
        let Some(machine) = Machine::open(self.config.engine.clone(), partition)? else { return Ok(None) };
        self.start_on(machine, log).await.map(Some)
    }

    /// Whether a replica of the partition was here and was removed: then it does not begin anew by itself.
    pub fn was_removed(&self, partition: PartitionId) -> Result<bool, Fault> {
        Ok(Machine::tombstone(self.config.engine.as_ref(), partition)?.is_some())
    }

    /// Lets the log forget the groups whose replicas were removed, where a crash came between.
    async fn forget_removed(&self, held: &[PartitionId]) -> Result<(), Fault> {
        let left: Vec<PartitionId> = self.recovered.lock().keys().copied().filter(|group| !held.contains(group)).collect();
        for group in left {
            if Machine::tombstone(self.config.engine.as_ref(), group)?.is_some() {
                self.recovered.lock().remove(&group);
                self.queue.push_and_wait(vec![Record::Forget { group }]).await?;
            }
        }
        Ok(())
    }

    async fn start(&self, machine: Machine) -> Result<Group, Fault> {
        let partition = machine.partition();
        let found = self.recovered.lock().get(&partition).cloned();
        let log = GroupLog::open(partition, self.queue.clone(), self.reader.clone(), found.as_ref())?;
        let group = self.start_on(machine, log).await?;
        // Only now: whoever tries again after a fault must find the votes and the entries.
        self.recovered.lock().remove(&partition);
        Ok(group)
    }

    async fn start_on(&self, machine: Machine, log: GroupLog) -> Result<Group, Fault> {
        let reader = machine.reader();
        let (partition, replica) = (machine.partition(), machine.replica());
        check_log_reaches(&machine, &log)?;
        let places = Places::new(state_machine::place(&machine)?);
        let outgoing = Arc::new(Outgoing::default());
        let (state_machine, applied) = StateMachine::new(state_machine::Parts {
            machine,
            partition,
            engine: self.config.engine.clone(),
            exec: self.config.exec.clone(),
            log: log.clone(),
            places: places.clone(),
            flush: self.flush.clone(),
            outgoing: outgoing.clone(),
            replicas: self.replicas.clone(),
            start: self.identity.incarnation.nonce.wrapping_add(self.identity.incarnation.starts),
            effects: self.config.effects.clone(),
        });
        let from = Sender { identity: self.identity.clone(), partition, replica };
        let lane = Lane { shared: self.snapshots.clone(), outgoing: outgoing.clone(), exec: self.config.exec.clone() };
        let factory = Factory::new(from, self.config.transport.clone(), lane, log.clone());
        let acknowledged = factory.acknowledged();
        let raft = Raft::new(replica.0, self.raft_config.clone(), factory, log.clone(), state_machine).await;
        let raft = raft.map_err(|fatal| Fault::Invariant(format!("{partition} cannot start: {fatal}")))?;
        let wall_ms = self.config.wall_ms.clone();
        let group = Group::start(group::Parts {
            node: self.config.node,
            partition,
            replica,
            raft,
            reader,
            applied,
            acknowledged,
            log,
            places,
            flush: self.flush.clone(),
            outgoing,
            wall_ms,
        });
        self.open.write().insert(partition, group.clone());
        Ok(group)
    }

    /// The open replica of a partition.
    pub fn get(&self, partition: PartitionId) -> Option<Group> {
        self.open.read().get(&partition).cloned()
    }

    /// All open replicas, by partition.
    pub fn all(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.open.read().values().cloned().collect();
        groups.sort_by_key(Group::partition);
        groups
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.config.cluster
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// This node's disk.
    pub fn store(&self) -> StoreId {
        self.config.store
    }

    /// Who this node is to others.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes everything applied durable, so that a restart has nothing to replay.
    pub async fn flush(&self) -> Result<(), Fault> {
        self.flush.flush().await
    }

    /// Counts a trimmed log.
    pub(crate) fn note_trim(&self) {
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a part of the data that was rewritten.
    pub(crate) fn note_reclaim(&self) {
        self.reclaims.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a part of the data was rewritten since the start, for the room of old versions.
    pub fn reclaims(&self) -> u64 {
        self.reclaims.load(Ordering::Relaxed)
    }

    /// What is kept of old versions.
    pub(crate) fn history(&self) -> &HistoryOptions {
        &self.config.history
    }

    /// The wall clock.
    pub(crate) fn wall_ms(&self) -> u64 {
        (self.config.wall_ms)()
    }

    /// What is kept of the log.
    pub(crate) fn retention(&self) -> &LogRetention {
        &self.config.retention
    }

    /// Up to where (exclusive) a snapshot of the partition that is being sent reaches: its receiver will need what follows.
    pub(crate) fn transfer_floor(&self, partition: PartitionId) -> Option<u64> {
        self.get(partition)?.outgoing().floor()
    }

    /// Snapshots, in figures.
    pub fn snapshot_stats(&self) -> SnapshotStats {
        self.snapshots.stats()
    }

    /// What the transfers of this node share.
    pub(crate) fn snapshots(&self) -> &snapshot::Shared {
        &self.snapshots
    }

    /// Where the state machines live.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.config.engine
    }

    /// Where blocking work runs.
    pub(crate) fn exec(&self) -> &dyn Exec {
        self.config.exec.as_ref()
    }

    /// Set when the groups stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// The log's reading end, of all groups.
    pub fn log_reader(&self) -> &LogReader {
        &self.reader
    }

    /// The fault that ended the log, if any: this node then neither votes nor acknowledges.
    pub fn fault(&self) -> Option<Fault> {
        self.queue.fault()
    }

    /// The log, in figures.
    pub fn log_stats(&self) -> LogStats {
        let kept = self.open.read().keys().filter_map(|group| self.reader.footprint(*group)).collect::<Vec<_>>();
        let (flushes, flushed) = self.flush.stats();
        LogStats {
            size_bytes: self.reader.size_bytes(),
            segments: self.reader.segments(),
            entries: kept.iter().map(|kept| kept.entries).sum(),
            entries_bytes: kept.iter().map(|kept| kept.bytes).sum(),
            durable_ticket: self.queue.durable(),
            trims: self.trims.load(Ordering::Relaxed),
            flushes,
            fsync_us: self.queue.fsync_us(),
            flushed_ago_ms: flushed.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Stops every replica. What was acknowledged is durable already.
    pub async fn shutdown(&self) {
        self.stopping.cancel();
        let groups: Vec<Group> = self.open.write().drain().map(|(_, group)| group).collect();
        futures::future::join_all(groups.iter().map(Group::shutdown)).await;
    }
}

/// Opens the log, unless it is gone from a directory that had one: without its votes and without the end of its entries this node could
/// help to lose what was acknowledged. `had_log` says so, and replicas in the engine do: one is recorded only after the log has begun, so that
/// this is never a node that is new.
pub(crate) fn open_log(
    disk: Arc<dyn Disk>,
    store: StoreId,
    options: LogOptions,
    had_log: bool,
    replicas: &[PartitionId],
) -> Result<(Log, Recovered), Fault> {
    if (had_log || !replicas.is_empty()) && !Log::exists(disk.as_ref())? {
        let detail = format!(
            "its segments are missing: it holds none, but this node had a log and has {} replicas, which cannot do without their votes and entries; \
             put the files back, or replace this node by a new one (the other replicas have the data)",
            replicas.len()
        );
        return Err(Fault::corrupt(format!("the raft log's directory {}", disk.place("")), detail));
    }
    Log::open(disk, store, options)
}

/// Nothing is applied before it is durable in the log here. So a log that ends before the applied position has lost its end since,
/// and with it perhaps entries that this replica has acknowledged and not applied: it must not vote or acknowledge any more. One thing puts
/// a state here that did not come through the log: a snapshot. Where that ended is remembered, and as long as nothing was applied
/// beyond it the log may end before it.
///
/// And a log that begins after the next entry to apply has lost its beginning, or the engine has lost what it had flushed.
fn check_log_reaches(machine: &Machine, log: &GroupLog) -> Result<(), Fault> {
    let applied = machine.position().map(|_| machine.applied_index());
    let (first, last) = (log.first_index(), log.last_index());
    let show = |index: Option<u64>| index.map_or_else(|| "nothing".to_owned(), |index| format!("entry {index}"));
    let advice = "put them back, or replace this node by a new one (the other replicas have the data)";
    let detail = if applied > last && machine.floor() != applied {
        format!("it ends at {}, but {} was applied here: its newest files are missing; {advice}", show(last), show(applied))
    } else if first > applied.map_or(0, |applied| applied + 1) {
        format!("it begins at entry {first}, but {} was applied here: files of the engine are missing; {advice}", show(applied))
    } else {
        return Ok(());
    };
    Err(Fault::corrupt(format!("the raft log of {}", machine.partition()), detail))
}

fn executor_gone() -> Fault {
    Fault::io("running work that blocks", std::io::Error::other("the executor has stopped"))
}
