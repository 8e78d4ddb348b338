//! The state machine of one replica: log entries go in, replies and effects come out, and every replica that applies the same
//! entries holds the same data and gives the same replies (DESIGN law 1).
//!
//! ```text
//!            entries                      ┌─ records of the keys written
//!   raft ─────────────► Machine::apply ───┼─ sessions changed            one engine batch: all of it or nothing
//!        ◄── replies, effects ───┘        └─ applied: index, clock, position, membership
//!                    │ publish (descriptor, clock, index) after the batch
//!                    ▼
//!   reads ◄── MachineReader, any thread, beside apply
//! ```
//!
//! - `apply` decodes and runs entries (folder files `apply`, `write`), seeing its own earlier writes through `overlay`.
//! - `export` and `import` carry a whole replica to another node, `destroy` removes one.
//! - `read` answers at a version. Records above the published clock exist for a moment before they are published; no reader can see
//!   them, because it reads at the published clock. So reads need no engine snapshot and no lock.
//!
//! **Invariant:** nothing here reads a clock, a random number or a setting: the limits that decide a reply are part of the format.
//! **Invariant:** the data never runs ahead of or behind the applied record; they are one batch.

mod apply;
mod destroy;
mod export;
mod header;
mod import;
mod overlay;
mod read;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::{Descriptor, Effect, Fault, PartitionId, ReplicaId, Reply, Version, encoding};

use crate::engine::{Batch, Engine};
use crate::schema::{self, Key};
use crate::sessions::Sessions;
pub use export::{Chunk, Export, Rows};
use header::AppliedRecord;
pub use header::Header;
pub use import::Import;
pub use read::MachineReader;
use read::Published;

/// One entry of the log, decoded as far as storage must know.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its index, greater than the one before.
    pub index: u64,
    /// The log position of whoever drives the machine (term, leader, index), kept with the applied record. Opaque here.
    pub position: &'a [u8],
    /// The membership that the entry sets, if it does. Opaque here.
    pub membership: Option<&'a [u8]>,
    /// `encoding::encode` of a `Command`; `None` for blank and membership entries.
    pub command: Option<&'a [u8]>,
}

/// What applying a slice of entries returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One for each entry, in order; `Reply::None` where there was no command.
    pub replies: Vec<Reply>,
    /// What the node must do now.
    pub effects: Vec<Effect>,
}

/// What apply changes.
#[derive(Debug)]
struct State {
    descriptor: Arc<Descriptor>,
    clock: Version,
    /// The oldest version that may be read.
    horizon: Version,
    applied_index: u64,
    position: Option<Bytes>,
    membership: Option<Bytes>,
    /// Where the snapshot ended that was installed last.
    floor: Option<u64>,
    sessions: Sessions,
}

/// What was read of a replica.
struct Opened {
    replica: ReplicaId,
    state: State,
}

/// One replica's state machine. One owner applies; readers are handed out by [`Machine::reader`].
pub struct Machine {
    engine: Arc<dyn Engine>,
    replica: ReplicaId,
    state: State,
    published: Arc<Published>,
    /// The first fault. After it the state in memory may be ahead of the disk, so nothing is applied any more.
    fault: Option<Fault>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("replica", &self.replica).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes a new, empty replica and returns its machine. Like every write it is durable after the next `Engine::flush`, which the
    /// caller does before it lets the replica vote. A fault if this engine holds a replica of the partition already, has removed this one
    /// or a newer one ([`Machine::tombstone`]), or holds another partition of which the range overlaps.
    pub fn create(engine: Arc<dyn Engine>, descriptor: Descriptor, replica: ReplicaId) -> Result<Self, Fault> {
        let partition = descriptor.id;
        if let Some(Opened { replica: known, .. }) = Self::load(&*engine, partition)? {
            return Err(Fault::Invariant(format!(
                "{partition} has replica {known} here and {replica} was to be created beside it"
            )));
        }
        if let Some(gone) = Self::tombstone(&*engine, partition)?.filter(|gone| replica <= *gone) {
            return Err(Fault::Invariant(format!(
                "{partition} had replica {gone} here, which was removed, and {replica} was to be created, which is not newer"
            )));
        }
        if let Some(other) = Self::overlapping(&*engine, &descriptor)? {
            return Err(Fault::Invariant(format!(
                "{replica} of {partition} was to be created with the range {}, which overlaps that of {other} here",
                descriptor.range
            )));
        }
        let state = State {
            descriptor: Arc::new(descriptor),
            clock: Version::ZERO,
            horizon: Version::ZERO,
            applied_index: 0,
            position: None,
            membership: None,
            floor: None,
            sessions: Sessions::new(partition),
        };
        let (from, to) = schema::data(&state.descriptor.range);
        engine.horizons().forget(&from, &to);
        let mut batch = Batch::new();
        state.put_replica(replica, &mut batch);
        state.put_applied(&mut batch);
        engine.write(&batch)?;
        Ok(Self::new(engine, Opened { replica, state }))
    }

    /// Opens the replica of a partition as it was left; `None` if there is none here.
    pub fn open(engine: Arc<dyn Engine>, partition: PartitionId) -> Result<Option<Self>, Fault> {
        let opened = Self::load(&*engine, partition)?;
        Ok(opened.map(|opened| Self::new(engine, opened)))
    }

    fn load(engine: &dyn Engine, partition: PartitionId) -> Result<Option<Opened>, Fault> {
        let get = |key: &[u8]| engine.get(key);
        let Some((header, replica)) = header::load(&get, partition)? else { return Ok(None) };
        let Header { descriptor, applied_index, clock, horizon, position, membership } = header;
        let floor = header::load_number(&get, &Key::Floor { partition })?;
        let sessions = Sessions::load(engine, partition)?;
        let state =
            State { descriptor: Arc::new(descriptor), clock, horizon, applied_index, position, membership, floor, sessions };
        Ok(Some(Opened { replica, state }))
    }

    /// The partitions of which this engine holds a replica, by id.
    pub fn list(engine: &dyn Engine) -> Result<Vec<PartitionId>, Fault> {
        let (from, to) = schema::replicas();
        let mut cursor = engine.cursor(&from, &to)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        while cursor.valid() {
            match Key::decode(cursor.key())? {
                Key::Replica { partition } => found.push(partition),
                other => return Err(Fault::Invariant(format!("{other:?} lies among the replicas"))),
            }
            cursor.next()?;
        }
        Ok(found)
    }

    fn new(engine: Arc<dyn Engine>, opened: Opened) -> Self {
        let Opened { replica, state } = opened;
        let published = Arc::new(Published::new(&state));
        state.announce_horizon(&*engine);
        Self { engine, replica, state, published, fault: None }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.state.descriptor.id
    }

    /// Which replica of its group this is.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The descriptor in force.
    pub fn descriptor(&self) -> Arc<Descriptor> {
        Arc::clone(&self.state.descriptor)
    }

    /// The position of the last entry applied; `None` before the first.
    pub fn position(&self) -> Option<&[u8]> {
        self.state.position.as_deref()
    }

    /// The last membership applied; `None` before the first.
    pub fn membership(&self) -> Option<&[u8]> {
        self.state.membership.as_deref()
    }

    /// The index of the last entry applied; 0 before the first (then `position` is `None`).
    pub fn applied_index(&self) -> u64 {
        self.state.applied_index
    }

    /// The index of the last entry of the snapshot that was installed last; `None` if there was none. The log may lack the entries up to it,
    /// and need not reach it as long as nothing beyond it was applied.
    pub fn floor(&self) -> Option<u64> {
        self.state.floor
    }

    /// The sessions known; for tests and status.
    pub fn sessions(&self) -> &Sessions {
        &self.state.sessions
    }

    /// The fault that stopped this machine.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// A reader, to be used beside `apply` from any thread. Cheap to clone.
    pub fn reader(&self) -> MachineReader {
        MachineReader::new(Arc::clone(&self.engine), Arc::clone(&self.published))
    }
}

impl State {
    fn put_replica(&self, replica: ReplicaId, batch: &mut Batch) {
        let key = Key::<&[u8]>::Replica { partition: self.descriptor.id };
        batch.put_with(|out| key.encode_into(out), |out| header::replica_record(&self.descriptor, replica, out));
    }

    fn put_applied(&self, batch: &mut Batch) {
        let key = Key::<&[u8]>::Applied { partition: self.descriptor.id };
        let record: AppliedRecord<&Bytes> =
            (self.applied_index, self.clock, self.position.as_ref(), self.membership.as_ref(), self.horizon);
        batch.put_with(|out| key.encode_into(out), |out| encoding::encode_into(&record, out));
    }

    /// Tells the engine what it may drop of this partition, once what was written until now is durable.
    fn announce_horizon(&self, engine: &dyn Engine) {
        let (from, to) = schema::data(&self.descriptor.range);
        if from < to && self.horizon > Version::ZERO {
            engine.horizons().announce(&from, &to, self.horizon);
        }
    }
}

#[cfg(test)]
mod tests;
