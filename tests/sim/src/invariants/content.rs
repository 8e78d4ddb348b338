//! Replicas that have applied the same entries hold the same: data, sessions, clock, descriptor.
//!
//! Source: state machine replication (Schneider, "Implementing fault-tolerant services using the state machine approach", 1990); DESIGN law 1.

use std::collections::BTreeMap;

use kontiki_storage::engine::Engine as _;
use kontiki_storage::machine::Machine;
use kontiki_types::{NodeId, PartitionId};

use super::Invariant;
use crate::watch::Seen;

/// The content at each position that was seen.
#[derive(Default)]
pub(crate) struct SameContent {
    known: BTreeMap<(PartitionId, u64), (u64, NodeId)>,
}

impl Invariant for SameContent {
    fn name(&self) -> &'static str {
        "the same position, the same content"
    }

    fn check(&mut self, seen: &Seen) -> Result<(), String> {
        for (node, group) in seen.replicas() {
            let partition = group.partition;
            let export = Machine::export(node.engine.view(), partition).map_err(|fault| fault.to_string())?;
            // What has applied nothing yet was created by whatever descriptor its node knew.
            let Some(export) = export.filter(|export| export.header().position.is_some()) else { continue };
            let (index, hash) = (export.header().applied_index, export.content_hash().map_err(|fault| fault.to_string())?);
            let (known, first) = *self.known.entry((partition, index)).or_insert((hash, node.node));
            if known != hash {
                return Err(format!("{first} and {} have both applied {partition} up to entry {index}, and differ", node.node));
            }
        }
        Ok(())
    }
}
