//! Entries as they lie in a log, for the invariants that compare them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kontiki_storage::engine::MemoryEngine;
use kontiki_storage::log::LogReader;
use kontiki_storage::machine::Machine;
use kontiki_types::PartitionId;

/// Where term and leader stand in a stored entry: behind the format and the kind (`kontiki-raft`'s codec).
const TERM: std::ops::Range<usize> = 2..10;
const LEADER: std::ops::Range<usize> = 10..18;

/// A leader's term and replica id: what openraft has instead of Raft's term.
pub(crate) type LeaderId = (u64, u64);

/// What is compared of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) leader: LeaderId,
    /// Of all its bytes.
    pub(crate) hash: u64,
}

impl Mark {
    fn of(bytes: &[u8]) -> Self {
        let number = |range| bytes.get(range).and_then(|number: &[u8]| number.try_into().ok()).map_or(0, u64::from_be_bytes);
        let mut hash = DefaultHasher::new();
        bytes.hash(&mut hash);
        Self { leader: (number(TERM), number(LEADER)), hash: hash.finish() }
    }
}

/// The live entries of `[from, to)`, those that are in the log. Nothing where the disk gives an error: that is a fault, and somebody else's.
pub(crate) fn read(log: &LogReader, group: PartitionId, from: u64, to: u64) -> Vec<(u64, Mark)> {
    let found = log.read(group, from..to, usize::MAX).unwrap_or_default();
    found.iter().map(|(index, bytes)| (*index, Mark::of(bytes))).collect()
}

/// Whether a replica has this position by a snapshot: then its log may still hold something else there, for a moment, until it is purged.
pub(crate) fn came_by_snapshot(engine: &Arc<MemoryEngine>, group: PartitionId, index: u64) -> bool {
    let machine = Machine::open(Arc::clone(engine) as Arc<_>, group).ok().flatten();
    machine.and_then(|machine| machine.floor()).is_some_and(|floor| index <= floor)
}
