//! Who may speak to whom. Each message names both ends: cluster, node, disk, and which start of the node it is. Both ends check
//! both, by what this node knows of the others, before anything of the message is looked at; an answer is checked like a message.
//!
//! ```text
//!   node A ── Envelope{from: node, store, start; to: node, store, start} ──> node B
//!             B: is `to` me? is `from` who the map says it is, in its newest start, and still a member?
//!   node A <── answer, with the ends exchanged ── node B
//!             A: is it from B, as the map knows B? only then openraft sees it
//! ```
//!
//! A node whose directory was replaced by an older copy of itself has forgotten votes and entries that it acknowledged. It would help to
//! elect a leader that lacks what was committed. Its start number tells: it is not newer than the one that the cluster has seen.
//!
//! **Invariant:** a message alone never stops a node. That another node takes us for an older copy, or for one that was removed, is a
//! reason to ask ([`Members::suspect`]), for anybody can forge a message.

use std::sync::Arc;

use kontiki_types::partition::Incarnation;
use kontiki_types::{ClusterId, NodeId, NodeState, PartitionId, StoreId};

use crate::transport::{Envelope, MESSAGE_FORMAT, Refusal, TransportError};

/// What this node knows of a node: from its copy of the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its disk; `None` until it has registered one.
    pub store: Option<StoreId>,
    /// Its newest start that the cluster has heard of.
    pub incarnation: Incarnation,
    /// What is to become of it.
    pub state: NodeState,
}

/// Why a node should ask the others what they know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// A node takes this one for an older copy of itself, for one with another disk, or for one that was removed.
    Misfit {
        /// Who says so.
        by: NodeId,
        /// What it says.
        why: String,
    },
    /// Messages arrive for a replica that this node does not hold: the map has changed, perhaps.
    UnknownReplica {
        /// The partition.
        partition: PartitionId,
    },
}

/// What a node knows of the nodes of its cluster. Implemented by the server, over its copy of the map.
pub trait Members: Send + Sync + 'static {
    /// What is known of a node; `None`: nothing, which is no reason to refuse it.
    fn member(&self, node: NodeId) -> Option<Member>;

    /// A reason to ask the other members' map, and not more than that. Called while a message is handled: must return at once.
    fn suspect(&self, suspicion: Suspicion);
}

/// This node, and what it knows of the others.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    pub(crate) members: Arc<dyn Members>,
}

impl Identity {
    /// What is known of a node.
    pub(crate) fn known(&self, node: NodeId) -> Member {
        self.members.member(node).unwrap_or_default()
    }

    /// Checks a message, or an answer: meant for this node, from a member of its cluster, in a format that is known here.
    pub(crate) fn check(&self, message: &Envelope) -> Result<(), TransportError> {
        if message.cluster != self.cluster {
            let why = format!("the message is of cluster {}, this node is in {}", message.cluster, self.cluster);
            return Err(TransportError::refused(Refusal::Misdelivered, why));
        }
        if message.to_node != self.node {
            let why =
                format!("the message is meant for {}, this is {}: two nodes may share an address", message.to_node, self.node);
            return Err(TransportError::refused(Refusal::Misdelivered, why));
        }
        self.check_to(message)?;
        if message.format != MESSAGE_FORMAT {
            let why =
                format!("message format {} is not known here, only {MESSAGE_FORMAT}; upgrade the older node", message.format);
            return Err(TransportError::refused(Refusal::Malformed, why));
        }
        self.check_from(message)
    }

    /// The receiving half: the sender means this disk, in this start or an earlier one (then its map is old).
    fn check_to(&self, message: &Envelope) -> Result<(), TransportError> {
        let (node, own) = (self.node, self.store);
        let why = if message.to_store != StoreId::default() && message.to_store != own {
            format!(
                "the message is meant for store {}, this is {own}: the data directory of {node} was replaced",
                message.to_store
            )
        } else if self.incarnation.is_older_copy_of(message.to_incarnation) {
            let (known, own) = (message.to_incarnation.starts, self.incarnation.starts);
            format!("the message is meant for start {known} of {node}, this is start {own}: an older copy of its data directory")
        } else {
            return Ok(());
        };
        self.members.suspect(Suspicion::Misfit { by: message.from_node, why: why.clone() });
        Err(TransportError::refused(Refusal::ReceiverReplaced, why))
    }

    /// The sending half: as the map knows the sender.
    fn check_from(&self, message: &Envelope) -> Result<(), TransportError> {
        let (from, known) = (message.from_node, self.known(message.from_node));
        let refuse = |refusal, why: String| Err(TransportError::refused(refusal, why));
        if !known.state.is_member() {
            let why = format!("{from} is {}: it takes part no more; join its process as a new node", known.state);
            return refuse(Refusal::SenderRemoved, why);
        }
        if let Some(store) = known.store.filter(|store| *store != message.from_store && message.from_store != StoreId::default())
        {
            let why = format!(
                "{from} is registered with store {store}, the message comes from store {}: the data directory of {from} was replaced; \
                 start it with the old directory, or join it as a new node",
                message.from_store
            );
            return refuse(Refusal::SenderReplaced, why);
        }
        if message.from_incarnation.is_older_copy_of(known.incarnation) {
            let why = format!(
                "{from} was seen in start {}, the message comes from start {}: its data directory is an older copy of itself, or was started \
                 twice; join it as a new node with an empty directory",
                known.incarnation.starts, message.from_incarnation.starts
            );
            return refuse(Refusal::SenderOutdated, why);
        }
        Ok(())
    }

    /// Looks at how a peer refused us: if it says that it is we who do not fit, that is worth a question to the others.
    pub(crate) fn note_refused(&self, by: NodeId, error: &TransportError) {
        if let TransportError::Rejected { refusal, why } = error
            && matches!(refusal, Refusal::SenderRemoved | Refusal::SenderReplaced | Refusal::SenderOutdated)
        {
            self.members.suspect(Suspicion::Misfit { by, why: why.clone() });
        }
    }
}

#[cfg(test)]
mod tests;
