//! One partition's replica on this node: where writes and reads enter it. Everything slow is batched behind it (proposer,
//! barrier); everything fast is read from the state machine without touching Raft.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::machine::MachineReader;
use kontiki_types::{
    CallError, Command, Descriptor, Fault, NodeId, PartitionId, Read, ReadLevel, ReadReply, Reject, ReplicaId, Reply, Retry,
    SessionId, Version, Write, WriteReply,
};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout};

use crate::acknowledged::Acknowledged;
use crate::barrier::Barrier;
use crate::flush::{FlushBarrier, Places};
use crate::freshness::{self, Freshness};
use crate::leadership::Leadership;
use crate::log_store::GroupLog;
use crate::proposer::{Held, Proposer, WallMs};
use crate::snapshot::registry::{Incoming, Outgoing};
use crate::status::GroupStatus;
use crate::type_config::{LogId, Raft, ReplicaNode};

/// How far ahead of the wall clock a caller may push a partition's clock, in ms: more would be a mistake or an attack.
const CLOCK_AHEAD_MS_MAX: u64 = 60 * 60 * 1000;
/// How long a follower waits for a snapshot's version: what the leader has applied is here with the next heartbeat or two.
const FOLLOWER_BEHIND_MAX: Duration = Duration::from_millis(500);

/// A handle on one replica. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    partition: PartitionId,
    replica: ReplicaId,
    raft: Raft,
    proposer: Proposer,
    barrier: Barrier,
    reader: MachineReader,
    applied: watch::Receiver<u64>,
    leadership: Leadership,
    /// One hand-over at a time.
    handing_over: tokio::sync::Mutex<()>,
    freshness: Freshness,
    acknowledged: Arc<Acknowledged>,
    log: GroupLog,
    started: Instant,
    places: Arc<Places>,
    flush: Arc<FlushBarrier>,
    outgoing: Arc<Outgoing>,
    incoming: Arc<Incoming>,
    wall_ms: WallMs,
}

/// What a group handle is made of.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) partition: PartitionId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) reader: MachineReader,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) log: GroupLog,
    pub(crate) places: Arc<Places>,
    pub(crate) flush: Arc<FlushBarrier>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) wall_ms: WallMs,
}

impl Group {
    pub(crate) fn start(parts: Parts) -> Self {
        let Parts { node, partition, replica, raft, reader, applied, acknowledged, log, places, flush, outgoing, wall_ms } =
            parts;
        let proposer = Proposer::start(partition, raft.clone(), wall_ms.clone());
        let barrier = Barrier::start(partition, raft.clone(), applied.clone());
        let leadership = Leadership::follow(&raft, replica);
        let freshness = Freshness::default();
        let inner = Inner {
            node,
            partition,
            replica,
            raft,
            proposer,
            barrier,
            reader,
            applied,
            leadership,
            handing_over: tokio::sync::Mutex::default(),
            freshness,
            acknowledged,
            log,
            started: Instant::now(),
            places,
            flush,
            outgoing,
            incoming: Arc::default(),
            wall_ms,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.inner.partition
    }

    /// This node's replica of it.
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// The descriptor that this replica has applied.
    pub fn descriptor(&self) -> Arc<Descriptor> {
        self.inner.reader.descriptor()
    }

    /// The state machine's reading side.
    pub fn reader(&self) -> &MachineReader {
        &self.inner.reader
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The node that leads and serves, as far as known here.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leadership.leader()
    }

    /// Whether this replica leads, as far as it knows. Only a barrier or an applied write proves it.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.inner.node)
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leadership.watch()
    }

    /// Follows the next index to apply.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Held while leadership is handed over.
    pub(crate) fn handing_over(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.handing_over
    }

    /// From now on this replica does not say any more that it leads in this term.
    pub(crate) fn begin_hand_over(&self, term: u64) {
        self.inner.leadership.hands_over(term);
    }

    /// Waits until all entries under way are answered; no other is proposed before what this returns is dropped.
    pub(crate) async fn hold_proposals(&self) -> Held {
        self.inner.proposer.hold().await
    }

    /// How far the state machine is, and how much of that is durable.
    pub(crate) fn places(&self) -> &Places {
        &self.inner.places
    }

    /// The group's log, which outlives a replica that is opened again.
    pub(crate) fn log(&self) -> &GroupLog {
        &self.inner.log
    }

    /// Whether it was ended by a fault that may pass (the disk was full, or did not answer), and how long ago it was opened.
    pub(crate) fn stopped_by_disk(&self) -> Option<Duration> {
        let by_disk = self.inner.places.stopped_by().is_some_and(|fault| matches!(fault, Fault::Io { .. }));
        by_disk.then(|| self.inner.started.elapsed())
    }

    /// Snapshots that are sent from here.
    pub(crate) fn outgoing(&self) -> &Outgoing {
        &self.inner.outgoing
    }

    /// A snapshot that is received here.
    pub(crate) fn incoming(&self) -> &Arc<Incoming> {
        &self.inner.incoming
    }

    /// The node's flushes.
    pub(crate) fn flush(&self) -> &FlushBarrier {
        &self.inner.flush
    }

    /// Replicates and applies one command. Limits are the caller's to check.
    pub(crate) async fn propose(&self, command: Command<Bytes>) -> Result<Reply, CallError> {
        self.inner.proposer.command(command).await
    }

    /// Makes the group's first membership entry. To be called on exactly one replica of a new group; does nothing if the group
    /// has a log already.
    pub async fn initialize(&self) -> Result<(), CallError> {
        let descriptor = self.descriptor();
        let voters = descriptor.replicas.iter().filter(|replica| replica.votes());
        let members: BTreeMap<u64, ReplicaNode> = voters.map(|voter| (voter.id.0, ReplicaNode { node: voter.node.0 })).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(CallError::unavailable(format!("{} cannot be initialised: {error}", self.inner.partition))),
        }
    }

    /// Starts an election now.
    pub async fn elect(&self) -> Result<(), CallError> {
        self.inner.raft.trigger().elect(true).await.map_err(|fatal| self.stopped(&fatal))
    }

    /// Replicates and applies one write, and returns its reply. Only the leader can; limits are the caller's to check.
    pub async fn write(&self, write: Write<Bytes>) -> Result<WriteReply, CallError> {
        self.leads().await?;
        match self.inner.proposer.write(write).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.named(error).await),
        }
    }

    /// Opens a session.
    pub async fn open_session(&self) -> Result<SessionId, CallError> {
        self.leads().await?;
        let command = Command::OpenSession { stamp_ms: (self.inner.wall_ms)() };
        match self.inner.proposer.command(command).await? {
            Reply::SessionOpened(session) => Ok(session),
            other => Err(unexpected(other)),
        }
    }

    /// Moves the partition's clock to at least `to` and returns it. Afterwards a snapshot at `to` never changes again.
    pub async fn advance_clock(&self, to: Version) -> Result<Version, CallError> {
        self.leads().await?;
        let newest = Version::from_ms((self.inner.wall_ms)().saturating_add(CLOCK_AHEAD_MS_MAX));
        if to > newest.max(self.inner.reader.clock()) {
            return Err(Reject::VersionInFuture { version: to, newest }.into());
        }
        match self.inner.proposer.command(Command::AdvanceClock { to }).await? {
            Reply::Clock(clock) => Ok(clock),
            other => Err(unexpected(other)),
        }
    }

    /// Answers a read at a level. Waits at most `wait` for what the level demands.
    pub async fn read(&self, level: &ReadLevel, read: &Read, wait: Duration) -> Result<ReadReply, CallError> {
        match level {
            ReadLevel::Linearizable => {
                self.leads().await?;
                let passed = timeout(wait, self.inner.barrier.pass()).await;
                match passed.map_err(|_| self.late("a majority did not confirm the read", wait))? {
                    Ok(()) => self.inner.reader.read(read, None),
                    Err(error) => Err(self.named(error).await),
                }
            }
            ReadLevel::AtLeast(token) => {
                self.wait_clock(token.at(self.inner.partition), wait).await?;
                self.inner.reader.read(read, None)
            }
            ReadLevel::BoundedStale { age_ms_max } => {
                let age_ms = self.age_ms().ok_or_else(|| CallError::unavailable(self.unheard()))?;
                if age_ms > *age_ms_max {
                    let why =
                        format!("this replica of {} is {age_ms} ms old, the bound is {age_ms_max} ms", self.inner.partition);
                    return Err(CallError::unavailable(why));
                }
                Ok(ReadReply { age_ms, ..self.inner.reader.read(read, None)? })
            }
            ReadLevel::Snapshot(version) => {
                // A follower may be a little behind. What it waits for need not come at all: the clock of an idle partition stands
                // still until the caller, told `VersionInFuture`, has the leader move it. So it does not wait for long, and the
                // leader not at all.
                if !self.is_leader() && self.reached(*version, wait.min(FOLLOWER_BEHIND_MAX)).await.is_none() {
                    return Err(self.stopped(&"it was shut down"));
                }
                self.inner.reader.read(read, Some(*version))
            }
        }
    }

    /// What this replica says of itself.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let nodes: BTreeMap<u64, NodeId> = metrics.membership_config.nodes().map(|(id, node)| (*id, NodeId(node.node))).collect();
        let last_next = next(metrics.last_log_index);
        let caught_up = metrics.replication.iter().flatten();
        let caught_up = caught_up.filter(|(_, matched)| next(matched.as_ref().map(|id| id.index)) >= last_next);
        GroupStatus {
            partition: self.inner.partition,
            replica: self.inner.replica,
            term: metrics.current_term,
            leader: self.leader(),
            leads: metrics.state.is_leader(),
            applied_next: *self.inner.applied.borrow(),
            committed_next: next(metrics.cluster_committed.max(metrics.local_committed).map(|id| id.index)),
            last_next,
            snapshot_next: next(metrics.snapshot.map(|id| id.index)),
            purged_next: next(metrics.purged.map(|id| id.index)),
            clock: self.inner.reader.clock(),
            voters: metrics.membership_config.voter_ids().filter_map(|id| nodes.get(&id).copied()).collect(),
            caught_up: caught_up.filter_map(|(id, _)| nodes.get(id).copied()).collect(),
            reverted: self.inner.acknowledged.reverted(metrics.current_term).into_iter().collect(),
            fault: metrics.running_state.err().map(|fatal| fatal.to_string()).or_else(|| self.ended()),
        }
    }

    /// A core that panicked could not say so itself; but it has let go of its watches.
    fn ended(&self) -> Option<String> {
        let ended = self.inner.leadership.watch().has_changed().is_err();
        ended.then(|| "its Raft core has ended, see the node's log; restart the node".to_owned())
    }

    /// Notes that the leader was heard at `at`, for bounded-stale reads. Only of an append that was accepted: who leads no longer
    /// goes on sending, and knows nothing of what came after it.
    pub(crate) fn note_accepted(&self, committed: Option<LogId>, at: Instant) {
        let committed_next = committed.map_or(0, |id| id.index + 1);
        self.inner.freshness.heard(at, committed_next, *self.inner.applied.borrow());
    }

    /// How old this replica's knowledge may be; `None` if that cannot be told.
    fn age_ms(&self) -> Option<u64> {
        let age = match self.confirmed_ago() {
            Some(confirmed) => confirmed,
            None => self.inner.freshness.age(Instant::now(), *self.inner.applied.borrow())?,
        };
        Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// On a leader that knows everything that was acknowledged: how long ago that was certain.
    fn confirmed_ago(&self) -> Option<Duration> {
        if !self.is_leader() {
            return None;
        }
        let watched = self.inner.raft.metrics();
        let metrics = watched.borrow_watched();
        let applied = metrics.last_applied.map(|applied| applied.leader_id.term);
        let alone = metrics.membership_config.voter_ids().eq([self.inner.replica.0]);
        let acked = metrics.last_quorum_acked.as_ref().map(|acked| openraft::Instant::elapsed(&**acked));
        freshness::of_leader(applied, metrics.current_term, alone, acked)
    }

    /// Waits until this replica's clock has reached `version`; says whether it has. `None`: the replica was shut down.
    async fn reached(&self, version: Version, wait: Duration) -> Option<bool> {
        let reader = &self.inner.reader;
        let mut applied = self.inner.applied.clone();
        match timeout(wait, applied.wait_for(|_| reader.clock() >= version)).await {
            Ok(Ok(_)) => Some(true),
            Ok(Err(_)) => None,
            Err(_) => Some(false),
        }
    }

    /// As [`Group::reached`], with an error if it has not.
    async fn wait_clock(&self, version: Version, wait: Duration) -> Result<(), CallError> {
        match self.reached(version, wait).await {
            Some(true) => Ok(()),
            None => Err(self.stopped(&"it was shut down")),
            Some(false) => {
                let why = format!("this replica has reached version {}, version {version} was asked", self.inner.reader.clock());
                Err(self.late(&why, wait))
            }
        }
    }

    /// As [`Group::check_leads`], after a moment's waiting if nobody is known to lead.
    async fn leads(&self) -> Result<(), CallError> {
        self.settled().await;
        self.check_leads()
    }

    /// openraft's refusal of something that was under way when leadership was lost or handed over, with the name of who serves now: whoever
    /// shall lead may not know it yet, and would send the caller back.
    async fn named(&self, error: CallError) -> CallError {
        match error {
            CallError::Retry(Retry::NotLeader { leader: None, .. }) => self.settled().await,
            CallError::Retry(Retry::NotLeader { leader: Some(_), .. }) => self.inner.leadership.led_by_another(self.node()).await,
            _ => return error,
        }
        self.check_leads().err().unwrap_or(error)
    }

    /// Waits a moment if nobody is known to lead.
    pub(crate) async fn settled(&self) {
        self.inner.leadership.settled().await;
    }

    pub(crate) fn check_leads(&self) -> Result<(), CallError> {
        let leader = self.leader();
        if leader == Some(self.inner.node) {
            return Ok(());
        }
        Err(Retry::NotLeader { partition: self.inner.partition, leader }.into())
    }

    fn unheard(&self) -> String {
        format!("this replica of {} has not heard a leader since it started; its age is not known", self.inner.partition)
    }

    pub(crate) fn late(&self, why: &str, wait: Duration) -> CallError {
        CallError::unavailable(format!("{}: {why} within {} ms", self.inner.partition, wait.as_millis()))
    }

    pub(crate) fn stopped(&self, why: &dyn std::fmt::Display) -> CallError {
        CallError::unavailable(format!("the replica of {} has stopped: {why}", self.inner.partition))
    }

    /// Stops the replica: no message, write or read is served any more, and nothing of it touches the engine afterwards.
    /// openraft's own shutdown waits for its core only; its state machine may still be applying (OPENRAFT section 6). The watch of
    /// the applied index closes when the state machine is dropped.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(partition = %self.inner.partition, %error, "the replica did not stop cleanly");
        }
        let mut applied = self.inner.applied.clone();
        while applied.changed().await.is_ok() {}
    }
}

pub(crate) fn unexpected(reply: Reply) -> CallError {
    match reply {
        Reply::Rejected(reject) => reject.into(),
        other => Fault::Invariant(format!("a command was answered with {other:?}")).into(),
    }
}
