//! The one decision in a change of replicas: from a descriptor and what is to be added and removed, the descriptor that says so.
//! Everything after it follows from that ([`crate::next_step`]).
//!
//! ```text
//!   r1 r2 r3        add n4, remove r3 ──>   r1 r2 r3(leaving) r4(joining)   ── settled ──>   r1 r2 r4
//!   r1 r2 r3(leaving) r4(joining)   remove r4 ──>   r1 r2 r3                (called off)
//! ```

use std::collections::BTreeSet;

use kontiki_types::{Descriptor, NodeId, Reject, Replica, ReplicaId, Role};

/// The descriptor that starts a change: replicas for the nodes of `add`, under new ids, join; those of `remove` leave. While a change is
/// under way, the only thing that can be asked is to call it off: `remove` names all that join (if any do). `votes` are the replicas that vote in the
/// group now: one that joined and votes already is no longer called off.
///
/// `Invalid` says why it cannot be.
pub fn change(
    descriptor: &Descriptor,
    add: &[NodeId],
    remove: &[ReplicaId],
    votes: &BTreeSet<ReplicaId>,
) -> Result<Descriptor, Reject> {
    let partition = descriptor.id;
    if add.is_empty() && remove.is_empty() && !descriptor.is_changing() {
        return Err(Reject::invalid(format!("nothing is to change in {partition}; name a node to add or a replica to remove")));
    }
    if let Some(unknown) = remove.iter().find(|id| descriptor.node_of(**id).is_none()) {
        return Err(Reject::invalid(format!("{partition} has no replica {unknown}; see the partition's replicas")));
    }
    let mut next =
        if descriptor.is_changing() { called_off(descriptor, add, remove, votes)? } else { started(descriptor, add, remove)? };
    next.epoch.conf += 1;
    Ok(next)
}

fn started(descriptor: &Descriptor, add: &[NodeId], remove: &[ReplicaId]) -> Result<Descriptor, Reject> {
    let mut next = descriptor.clone();
    for replica in &mut next.replicas {
        if remove.contains(&replica.id) {
            replica.role = Role::Leaving;
        }
    }
    for node in add {
        if next.replica_on(*node).is_some() {
            return Err(Reject::invalid(format!("{node} holds a replica of {} already", descriptor.id)));
        }
        next.replicas.push(Replica { id: next.next_replica, node: *node, role: Role::Joining });
        next.next_replica.0 += 1;
    }
    if next.replicas.iter().all(|replica| replica.role == Role::Leaving) {
        return Err(Reject::invalid(format!("{} would have no replica left; add one on another node", descriptor.id)));
    }
    Ok(next)
}

fn called_off(
    descriptor: &Descriptor,
    add: &[NodeId],
    remove: &[ReplicaId],
    votes: &BTreeSet<ReplicaId>,
) -> Result<Descriptor, Reject> {
    let joining = || descriptor.replicas.iter().filter(|replica| replica.role == Role::Joining);
    let all_that_join = joining().count() == remove.len() && joining().all(|replica| remove.contains(&replica.id));
    if !add.is_empty() || !all_that_join {
        return Err(Reject::invalid(format!("the replicas of {} are being changed; wait until that is done", descriptor.id)));
    }
    if let Some(voter) = joining().find(|replica| votes.contains(&replica.id)) {
        return Err(Reject::invalid(format!("{} of {} votes already; the change is nearly done", voter.id, descriptor.id)));
    }
    let mut next = descriptor.clone();
    next.replicas.retain(|replica| replica.role != Role::Joining);
    next.replicas.iter_mut().for_each(|replica| replica.role = Role::Voter);
    Ok(next)
}

/// The descriptor that ends a change: who joined votes, who left is gone.
pub fn settled(descriptor: &Descriptor) -> Descriptor {
    let mut next = descriptor.clone();
    next.replicas.retain(|replica| replica.role != Role::Leaving);
    next.replicas.iter_mut().for_each(|replica| replica.role = Role::Voter);
    next.epoch.conf += 1;
    next
}
