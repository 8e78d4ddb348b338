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
//! - `read` answers at a version. Records above the published clock exist for a moment before they are published; no reader can see
//!   them, because it reads at the published clock. So reads need no engine snapshot and no lock.
//!
//! **Invariant:** nothing here reads a clock, a random number or a setting: the limits that decide a reply are part of the format.
//! **Invariant:** the data never runs ahead of or behind the applied record; they are one batch.

mod apply;
mod copy;
mod overlay;
mod read;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::{Descriptor, Effect, Fault, PartitionId, ReplicaId, Reply, Version, encoding};

use crate::engine::{Batch, Engine};
use crate::schema::{self, Key};
use crate::sessions::Sessions;
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

/// What is on disk of how far a log was applied: index, clock, position (`None` before the first entry), membership.
type AppliedRecord<B> = (u64, Version, Option<B>, Option<B>);

/// What apply changes.
#[derive(Debug)]
struct State {
    descriptor: Arc<Descriptor>,
    clock: Version,
    applied_index: u64,
    position: Option<Bytes>,
    membership: Option<Bytes>,
    sessions: Sessions,
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
    /// caller does before it lets the replica vote. A fault if this engine holds a replica of the partition already.
    pub fn create(engine: Arc<dyn Engine>, descriptor: Descriptor, replica: ReplicaId) -> Result<Self, Fault> {
        let partition = descriptor.id;
        if let Some(existing) = Self::open(Arc::clone(&engine), partition)? {
            let known = existing.replica;
            return Err(Fault::Invariant(format!(
                "{partition} has replica {known} here and {replica} was to be created beside it"
            )));
        }
        let state = State {
            descriptor: Arc::new(descriptor),
            clock: Version::ZERO,
            applied_index: 0,
            position: None,
            membership: None,
            sessions: Sessions::new(partition),
        };
        let mut batch = Batch::new();
        state.put_replica(replica, &mut batch);
        state.put_applied(&mut batch);
        engine.write(&batch)?;
        Ok(Self::new(engine, replica, state))
    }

    /// Opens the replica of a partition as it was left; `None` if there is none here.
    pub fn open(engine: Arc<dyn Engine>, partition: PartitionId) -> Result<Option<Self>, Fault> {
        let replica_key = Key::<&[u8]>::Replica { partition }.encode();
        let applied_key = Key::<&[u8]>::Applied { partition }.encode();
        let Some(stored) = engine.get(&replica_key)? else { return Ok(None) };
        let corrupt = |key: &[u8], detail: String| Fault::corrupt(schema::place(key), detail);
        let (descriptor, replica): (Descriptor, ReplicaId) =
            encoding::decode(&stored).map_err(|error| corrupt(&replica_key, error.to_string()))?;
        if descriptor.id != partition {
            return Err(corrupt(&replica_key, format!("it describes {}, not {partition}", descriptor.id)));
        }
        let stored = engine.get(&applied_key)?;
        let stored =
            stored.ok_or_else(|| corrupt(&applied_key, format!("{partition} has a replica here but no applied record")))?;
        let (applied_index, clock, position, membership): AppliedRecord<Bytes> =
            encoding::decode(&stored).map_err(|error| corrupt(&applied_key, error.to_string()))?;
        let sessions = Sessions::load(&*engine, partition)?;
        let state = State { descriptor: Arc::new(descriptor), clock, applied_index, position, membership, sessions };
        Ok(Some(Self::new(engine, replica, state)))
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

    fn new(engine: Arc<dyn Engine>, replica: ReplicaId, state: State) -> Self {
        let published = Arc::new(Published::new(&state));
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
        batch.put_with(|out| key.encode_into(out), |out| encoding::encode_into(&(&*self.descriptor, replica), out));
    }

    fn put_applied(&self, batch: &mut Batch) {
        let key = Key::<&[u8]>::Applied { partition: self.descriptor.id };
        let record: AppliedRecord<&Bytes> = (self.applied_index, self.clock, self.position.as_ref(), self.membership.as_ref());
        batch.put_with(|out| key.encode_into(out), |out| encoding::encode_into(&record, out));
    }
}

#[cfg(test)]
mod tests;
