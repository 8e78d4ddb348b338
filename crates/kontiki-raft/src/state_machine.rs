//! openraft's state machine over `storage::Machine`. One engine batch for each chunk of entries, and only after the node's own
//! log holds them durably: openraft applies what a *quorum* has flushed, which need not include this node. If the state machine
//! ran ahead and the node crashed, it would have applied entries that its own log has lost.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use kontiki_storage::engine::Engine;
use kontiki_storage::machine::{self, Import, Machine};
use kontiki_types::{Effect, Fault, PartitionId, limits};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::codec;
use crate::exec::{Exec, run_blocking};
use crate::flush::{FlushBarrier, Place, Places};
use crate::log_store::GroupLog;
use crate::snapshot::registry::{Outgoing, Pin};
use crate::snapshot::wire::TransferId;
use crate::type_config::{Entry, LogId, StoredMembership, TypeConfig};

type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What openraft carries about when it speaks of a snapshot: a handle, never the bytes.
pub(crate) enum SnapshotData {
    /// It was only asked where it ends.
    Nothing,
    /// The state of this replica at one moment, to be sent.
    View(Arc<Pin>),
    /// The state of another replica, received and checked, to be installed.
    Staged(Box<Import>),
}

/// A state in the same process: staged without a network between.
fn stage(pin: &Pin, engine: &dyn Engine) -> Result<Import, Fault> {
    let mut import = Import::begin(engine, pin.export.header().clone())?;
    while let Some(from) = import.next() {
        let Some(chunk) = pin.export.chunk(from, limits::APPEND_BYTES_MAX)? else { break };
        import.add(&chunk)?;
    }
    Ok(import)
}

/// Where effects go: called from apply, must not block.
pub(crate) type EffectSink = Arc<dyn Fn(PartitionId, Effect) + Send + Sync>;

/// One replica's state machine, as openraft drives it.
pub(crate) struct StateMachine {
    /// Away only while a snapshot is installed.
    machine: Option<Machine>,
    partition: PartitionId,
    engine: Arc<dyn Engine>,
    exec: Arc<dyn Exec>,
    log: GroupLog,
    applied: watch::Sender<u64>,
    places: Arc<Places>,
    flush: Arc<FlushBarrier>,
    outgoing: Arc<Outgoing>,
    /// Held while replicas of this node are made, replaced or removed.
    replicas: Arc<tokio::sync::Mutex<()>>,
    /// Which start of the node this is, for the names of transfers.
    start: u64,
    effects: EffectSink,
    /// Where the last snapshot ended; `None` until there was one: openraft expects none before it has asked.
    snapshot_at: Option<Option<LogId>>,
}

/// Everything a state machine is made of.
pub(crate) struct Parts {
    pub(crate) machine: Machine,
    pub(crate) partition: PartitionId,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) exec: Arc<dyn Exec>,
    pub(crate) log: GroupLog,
    pub(crate) places: Arc<Places>,
    pub(crate) flush: Arc<FlushBarrier>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) replicas: Arc<tokio::sync::Mutex<()>>,
    pub(crate) start: u64,
    pub(crate) effects: EffectSink,
}

impl StateMachine {
    /// The state machine, and a watch of the *next* index to apply (applied index + 1, 0 before the first).
    pub(crate) fn new(parts: Parts) -> (Self, watch::Receiver<u64>) {
        let Parts { machine, partition, engine, exec, log, places, flush, outgoing, replicas, start, effects } = parts;
        let next = machine.position().map_or(0, |_| machine.applied_index() + 1);
        let (applied, watched) = watch::channel(next);
        let machine = Some(machine);
        let (snapshot_at, this) = (None, partition);
        let machine = Self {
            machine,
            partition: this,
            engine,
            exec,
            log,
            applied,
            places,
            flush,
            outgoing,
            replicas,
            start,
            effects,
            snapshot_at,
        };
        (machine, watched)
    }

    fn machine(&mut self) -> Result<&mut Machine, Fault> {
        let lost = || Fault::Invariant(format!("{} was lost while a snapshot was installed", self.partition));
        self.machine.as_mut().ok_or_else(lost)
    }

    /// Whatever is returned to openraft as an error ends the replica: whoever opens it again wants to know why.
    fn noted<T>(&self, result: Result<T, Fault>) -> Result<T, io::Error> {
        result.inspect_err(|fault| self.places.set_stopped_by(fault)).map_err(io::Error::from)
    }

    /// Installs a state that is here, or one of this process.
    async fn take_over(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), Fault> {
        let import = match snapshot {
            SnapshotData::Staged(import) => *import,
            SnapshotData::View(pin) => {
                let engine = self.engine.clone();
                let staged = run_blocking(self.exec.as_ref(), move || stage(&pin, engine.as_ref())).await;
                staged.ok_or_else(|| Fault::io("staging a snapshot", executor_gone()))??
            }
            SnapshotData::Nothing => {
                return Err(Fault::Invariant(format!("a snapshot of {} without content was given", self.partition)));
            }
        };
        let effects = self.replace(import).await?;
        let (applied, membership) = place(self.machine()?)?;
        if applied != meta.last_log_id {
            let found = format!("the installed snapshot ends at {applied:?}, its description says {:?}", meta.last_log_id);
            return Err(Fault::Invariant(found));
        }
        self.snapshot_at = Some(applied);
        if let Some(applied) = applied {
            self.places.set_applied(applied, Some(membership));
            self.places.set_durable(self.places.applied());
        }
        self.applied.send_replace(applied.map_or(0, |id| id.index + 1));
        for effect in effects {
            (self.effects)(self.partition, effect);
        }
        Ok(())
    }

    /// Takes over a state, in one step, off the runtime's threads.
    async fn replace(&mut self, import: Import) -> Result<Vec<Effect>, Fault> {
        // What the log was told before must be on disk first: a conflicting end of it that came back after a crash would contradict the
        // snapshot.
        self.log.settle().await?;
        let one_at_a_time = self.replicas.clone().lock_owned().await;
        let mut machine =
            self.machine.take().ok_or_else(|| Fault::Invariant("a snapshot is being installed already".to_owned()))?;
        let replaced = run_blocking(self.exec.as_ref(), move || {
            let replaced = machine.install(import);
            drop(one_at_a_time);
            (machine, replaced)
        });
        let gone = || Fault::io("installing a snapshot", executor_gone());
        let (machine, replaced) = replaced.await.ok_or_else(gone)?;
        self.machine = Some(machine);
        replaced
    }

    /// Applies one chunk in one engine batch, then publishes and answers.
    async fn apply_chunk(&mut self, chunk: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>) -> Result<(), Fault> {
        let Some((last, _)) = chunk.last() else { return Ok(()) };
        let (last_id, last_index) = (last.log_id, last.log_id.index);
        self.log.wait_durable(last_index).await?;
        let prepared: Vec<Prepared> = chunk.iter().map(|(entry, _)| Prepared::new(entry)).collect();
        let entries: Vec<machine::Entry<'_>> = prepared.iter().map(Prepared::as_entry).collect();
        let outcome = self.machine()?.apply(&entries)?;
        let membership = chunk.iter().rev().find_map(|(entry, _)| membership_of(entry));
        self.places.set_applied(last_id, membership);
        self.applied.send_replace(last_index + 1);
        for effect in outcome.effects {
            (self.effects)(self.partition, effect);
        }
        for ((_, responder), reply) in chunk.into_iter().zip(outcome.replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }
}

/// Up to where a machine has applied its log, and the membership in force there.
pub(crate) fn place(machine: &Machine) -> Result<Place, Fault> {
    let position = machine.position().map(|bytes| codec::decode_log_id(bytes, "the applied position")).transpose()?;
    let membership = machine.membership().map(codec::decode_stored_membership).transpose()?;
    Ok((position, membership.unwrap_or_default()))
}

fn membership_of(entry: &Entry) -> Option<StoredMembership> {
    match &entry.payload {
        EntryPayload::Membership(membership) => Some(StoredMembership::new(Some(entry.log_id), membership.clone())),
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    }
}

/// An entry's stored forms, owned while the borrowed `machine::Entry` lives.
pub(crate) struct Prepared {
    index: u64,
    position: Bytes,
    membership: Option<Bytes>,
    command: Option<Bytes>,
}

impl Prepared {
    pub(crate) fn new(entry: &Entry) -> Self {
        let (membership, command) = match &entry.payload {
            EntryPayload::Blank => (None, None),
            EntryPayload::Normal(payload) => (None, Some(payload.0.clone())),
            EntryPayload::Membership(_) => (membership_of(entry).as_ref().map(codec::encode_stored_membership), None),
        };
        Self { index: entry.log_id.index, position: codec::encode_log_id(&entry.log_id), membership, command }
    }

    pub(crate) fn as_entry(&self) -> machine::Entry<'_> {
        machine::Entry {
            index: self.index,
            position: &self.position,
            membership: self.membership.as_deref(),
            command: self.command.as_deref(),
        }
    }
}

fn body_bytes(entry: &Entry) -> usize {
    if let EntryPayload::Normal(payload) = &entry.payload { payload.0.len() } else { 0 }
}

/// Entries applied in one engine batch at most.
const CHUNK_ENTRIES_MAX: usize = 256;

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(place(self.machine()?)?)
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ready = entries.ready_chunks(CHUNK_ENTRIES_MAX);
        while let Some(batch) = ready.next().await {
            let mut chunk = Vec::with_capacity(batch.len());
            let mut bytes = 0;
            for item in batch {
                let (entry, responder) = item?;
                bytes += body_bytes(&entry);
                chunk.push((entry, responder));
                if bytes >= limits::ENTRY_BYTES_MAX {
                    let applied = self.apply_chunk(std::mem::take(&mut chunk)).await;
                    self.noted(applied)?;
                    bytes = 0;
                }
            }
            let applied = self.apply_chunk(chunk).await;
            self.noted(applied)?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let last = self.snapshot_at.replace(self.places.applied().0).flatten();
        SnapshotBuilder { last, places: self.places.clone(), flush: self.flush.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let installed = self.take_over(meta, snapshot).await;
        self.noted(installed)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.snapshot_at.is_none() {
            return Ok(None);
        }
        // A transfer that broke goes on with the view that it began with.
        let epoch = self.machine()?.descriptor().epoch;
        if let Some(pin) = self.outgoing.held(self.log.purged_index(), epoch) {
            let meta = SnapshotMeta { last_log_id: Some(pin.last), last_membership: pin.membership.clone() };
            return Ok(Some(Snapshot { meta, snapshot: SnapshotData::View(pin) }));
        }
        let (last_log_id, last_membership) = place(self.machine()?)?;
        let export = Machine::export(self.engine.view(), self.partition)?;
        let (Some(last), Some(export)) = (last_log_id, export) else { return Ok(None) };
        let LogId { leader_id, index } = last;
        let id = TransferId {
            start: self.start,
            term: leader_id.term,
            leader: leader_id.node_id,
            index,
            view: self.outgoing.number(),
        };
        let pin = Pin::new(id, export, last, last_membership.clone());
        Ok(Some(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: SnapshotData::View(pin) }))
    }
}

fn executor_gone() -> io::Error {
    io::Error::other("the executor has stopped")
}

/// "Builds" a snapshot by making what is applied durable: the state is in the engine already, and is read when it is sent. Whoever trims a log
/// has flushed before; then there is nothing left to do.
pub(crate) struct SnapshotBuilder {
    /// Where the last snapshot ended.
    last: Option<LogId>,
    places: Arc<Places>,
    flush: Arc<FlushBarrier>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    /// Never fails, for an error would end the replica: if the engine cannot flush, the snapshot ends where it did before, and no more of the
    /// log goes.
    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if self.places.durable().0 <= self.last {
            let applied = self.places.applied();
            match self.flush.flush().await {
                Ok(()) => self.places.set_durable(applied),
                Err(fault) => tracing::warn!(%fault, "the engine could not be flushed; the log is not trimmed"),
            }
        }
        let (last_log_id, last_membership) = self.places.durable();
        Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: SnapshotData::Nothing })
    }
}
