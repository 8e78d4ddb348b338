//! Removing a replica from this node, and remembering that it was here.
//!
//! A replica id is never used again: one that was removed and came back empty could vote for what it has forgotten (DESIGN section 8). So a
//! *tombstone* stays, one number for each partition, and nothing at or below it is made here again.
//!
//! Everything goes in one step, by the same road as an installation: ranges that are replaced by nothing. So there is no half-removed
//! replica to be repaired, whenever the power fails.

use bytes::Bytes;
use kontiki_types::{Descriptor, Fault, PartitionId, ReplicaId, encoding};

use super::Machine;
use super::header;
use super::import::replace_one;
use crate::engine::Engine;
use crate::schema::{self, Key};

impl Machine {
    /// Removes the replica of a partition: its data, its sessions, all that is known of it; only the tombstone stays.
    /// Durable when it returns. Nobody may use a machine or a reader of this replica any more. The room on disk is free after the
    /// next compaction of the range that is returned, which the caller may ask for; `None` if there was no replica.
    pub fn destroy(engine: &dyn Engine, partition: PartitionId) -> Result<Option<Descriptor>, Fault> {
        let Some((descriptor, replica)) = header::load_replica(&|key| engine.get(key), partition)? else { return Ok(None) };
        let newest = Self::tombstone(engine, partition)?.map_or(replica, |known| known.max(replica));
        let mut stage = engine.stage()?;
        for (from, to) in [schema::data(&descriptor.range), schema::sessions(partition)] {
            if from < to {
                stage.replace(&from, &to)?;
            }
        }
        for key in [Key::Replica { partition }, Key::Applied { partition }, Key::Floor { partition }] {
            replace_one(&mut *stage, &key, None)?;
        }
        replace_one(&mut *stage, &Key::Tombstone { partition }, Some(&encoding::encode(&newest.0)))?;
        let (from, to) = schema::data(&descriptor.range);
        engine.horizons().forget(&from, &to);
        stage.install()?;
        Ok(Some(descriptor))
    }

    /// The newest replica of a partition that was removed from this node.
    pub fn tombstone(engine: &dyn Engine, partition: PartitionId) -> Result<Option<ReplicaId>, Fault> {
        Ok(header::load_number(&|key| engine.get(key), &Key::Tombstone { partition })?.map(ReplicaId))
    }

    /// Another partition with a replica here whose range overlaps that of a descriptor.
    pub fn overlapping(engine: &dyn Engine, descriptor: &Descriptor) -> Result<Option<PartitionId>, Fault> {
        let get = |key: &[u8]| -> Result<Option<Bytes>, Fault> { engine.get(key) };
        for partition in Self::list(engine)? {
            let other = header::load_replica(&get, partition)?;
            if other.is_some_and(|(other, _)| other.id != descriptor.id && other.range.overlaps(&descriptor.range)) {
                return Ok(Some(partition));
            }
        }
        Ok(None)
    }
}
