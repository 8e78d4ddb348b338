//! Replicas on a disk that no node serves from: what they hold, and how far their logs go. For the tool that rebuilds a cluster which has
//! lost its majorities.
//!
//! ```text
//!   engine ── Machine: applied up to here ──┐
//!   log ───── entries behind that ──────────┴── replay ──> everything that this disk knows
//! ```
//!
//! What was acknowledged is in the log of a majority, committed or not as far as this disk knows. So all of the log counts: the end of it may
//! hold what was never acknowledged, and to keep that is the lesser evil.
//!
//! **Invariant:** nothing here votes, sends or takes part in a group.

use std::sync::Arc;

use kontiki_storage::disk::Disk;
use kontiki_storage::engine::Engine;
use kontiki_storage::log::{Log, LogOptions, LogReader, Recovered, RecoveredGroup};
use kontiki_storage::machine::{self, Machine, MachineReader};
use kontiki_types::{Descriptor, Fault, PartitionId, ReplicaId, StoreId, Version};

use crate::codec;
use crate::groups::open_log;
use crate::state_machine::Prepared;
use crate::type_config::LogId;

/// Bytes of entries that are read from the log at once.
const REPLAY_BYTES: usize = 8 * 1024 * 1024;

/// The end of a replica's log: what makes one replica's knowledge newer than another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// The term of the last entry.
    pub term: u64,
    /// Its index; 0 with term 0: there is none.
    pub index: u64,
}

impl LogEnd {
    fn at(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

/// One replica as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundReplica {
    /// Its partition, as far as it was applied.
    pub descriptor: Descriptor,
    /// Which replica of the group it is.
    pub replica: ReplicaId,
    /// The last entry that was applied.
    pub applied: LogEnd,
    /// The last entry that was known here to be committed: acknowledged, or about to be.
    pub committed: LogEnd,
    /// The last entry.
    pub last: LogEnd,
    /// The version of the newest write applied.
    pub clock: Version,
}

/// Each partition that is held, and its replica, or why it cannot be read.
pub type Looked<E> = Vec<(PartitionId, Result<FoundReplica, E>)>;

/// The log and the engine of a node that does not run.
pub struct Offline {
    engine: Arc<dyn Engine>,
    reader: LogReader,
    recovered: Recovered,
    /// Holds the log's files.
    _log: Log,
}

impl Offline {
    /// Opens both. Opening repairs what an interrupted write has left, as a start does: hand in copies of what must stay as it is.
    pub fn open(disk: Arc<dyn Disk>, store: StoreId, options: LogOptions, engine: Arc<dyn Engine>) -> Result<Self, Fault> {
        let (log, recovered) = open_log(disk, store, options, false, &Machine::list(engine.as_ref())?)?;
        Ok(Self { engine, reader: log.reader(), recovered, _log: log })
    }

    /// The replicas that are held, by partition; a fault where one cannot be read.
    pub fn replicas(&self) -> Result<Looked<Fault>, Fault> {
        let held = Machine::list(self.engine.as_ref())?;
        Ok(held.into_iter().map(|partition| (partition, self.found(partition))).collect())
    }

    fn found(&self, partition: PartitionId) -> Result<FoundReplica, Fault> {
        let machine = self.machine(partition)?;
        let applied = machine.position().map(|bytes| codec::decode_log_id(bytes, "the applied position")).transpose()?;
        let applied = applied.map(LogEnd::at).unwrap_or_default();
        let log = self.recovered.groups.get(&partition);
        let committed = log.and_then(|log| log.committed.as_deref());
        let committed = committed.map(|bytes| codec::decode_log_id(bytes, "the stored commit point")).transpose()?;
        let last = log.map(|log| self.last(partition, log)).transpose()?.flatten().map(LogEnd::at).unwrap_or_default();
        Ok(FoundReplica {
            descriptor: machine.descriptor().as_ref().clone(),
            replica: machine.replica(),
            applied,
            // Nothing is applied that is not committed.
            committed: committed.map(LogEnd::at).unwrap_or_default().max(applied),
            last: last.max(applied),
            clock: machine.reader().clock(),
        })
    }

    fn last(&self, partition: PartitionId, log: &RecoveredGroup) -> Result<Option<LogId>, Fault> {
        if let Some(last) = log.last_index {
            let entries = self.reader.read(partition, last..last + 1, 0)?;
            let (index, bytes) = entries.into_iter().next().ok_or_else(|| hole(partition, last))?;
            return Ok(Some(codec::decode_entry(index, &bytes)?.log_id));
        }
        let purged = log.purged.as_ref().map(|(_, stored)| codec::decode_log_id(stored, "the stored purge point"));
        purged.transpose()
    }

    fn machine(&self, partition: PartitionId) -> Result<Machine, Fault> {
        let machine = Machine::open(self.engine.clone(), partition)?;
        machine.ok_or_else(|| Fault::Invariant(format!("{partition} was listed and is not held")))
    }

    /// Applies what the log holds behind the applied position. What is read then is everything that this disk knows of the partition.
    pub fn replay(&self, partition: PartitionId) -> Result<MachineReader, Fault> {
        let mut machine = self.machine(partition)?;
        let end = self.recovered.groups.get(&partition).and_then(|log| log.last_index);
        let mut next = machine.position().map_or(0, |_| machine.applied_index() + 1);
        while end.is_some_and(|end| next <= end) {
            let stored = self.reader.read(partition, next..end.map_or(next, |end| end + 1), REPLAY_BYTES)?;
            if stored.first().is_none_or(|(index, _)| *index != next) {
                return Err(hole(partition, next));
            }
            let entries =
                stored.iter().map(|(index, bytes)| codec::decode_entry(*index, bytes)).collect::<Result<Vec<_>, _>>()?;
            let prepared: Vec<Prepared> = entries.iter().map(Prepared::new).collect();
            let borrowed: Vec<machine::Entry<'_>> = prepared.iter().map(Prepared::as_entry).collect();
            machine.apply(&borrowed)?;
            next += borrowed.len() as u64;
        }
        Ok(machine.reader())
    }
}

fn hole(partition: PartitionId, index: u64) -> Fault {
    Fault::corrupt(
        format!("the raft log of {partition}"),
        format!("entry {index} is missing, and what comes after it is of no use without it"),
    )
}
