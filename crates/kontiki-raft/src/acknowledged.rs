//! What each follower has acknowledged to this leader: the guard against a follower that loses what it had.
//!
//! openraft takes for granted that a follower's log never goes back. A directory that was replaced by an older copy of itself
//! breaks that: the next append conflicts below what was acknowledged, and openraft would panic (or, without debug assertions, go on with
//! wrong figures and count the lost entries as replicated). So the network layer remembers the highest acknowledged entry of each follower, and
//! keeps every answer that contradicts it from openraft: to it that follower is unreachable, and the group's status says why.

use std::collections::HashMap;

use kontiki_types::{NodeId, ReplicaId};
use parking_lot::Mutex;

use crate::type_config::{LogId, Vote};

/// Per follower, in the present leadership.
#[derive(Default)]
pub(crate) struct Acknowledged {
    followers: Mutex<HashMap<u64, Follower>>,
}

struct Follower {
    node: NodeId,
    vote: Vote,
    /// The index of the last entry that it has acknowledged.
    matched: Option<u64>,
    reverted: Option<String>,
}

impl Acknowledged {
    /// The follower has everything up to `matched`, as it told the leader that holds `vote`.
    pub(crate) fn matched(&self, to: (ReplicaId, NodeId), vote: &Vote, matched: Option<LogId>) {
        let mut followers = self.followers.lock();
        let follower = entry(&mut followers, to, vote);
        follower.matched = follower.matched.max(matched.map(|id| id.index));
    }

    /// The follower has no entry at `conflict`, or another one. `Err` says why that cannot be.
    pub(crate) fn conflicted(&self, to: (ReplicaId, NodeId), vote: &Vote, conflict: &LogId) -> Result<(), String> {
        let mut followers = self.followers.lock();
        let follower = entry(&mut followers, to, vote);
        let Some(matched) = follower.matched.filter(|matched| conflict.index <= *matched) else { return Ok(()) };
        let (replica, node) = to;
        let why = format!(
            "replica {replica} on {node} had acknowledged the log up to entry {matched} and does not have entry {} any more: the data directory of \
             {node} is an older copy of itself; take that node out and join it again with an empty directory",
            conflict.index
        );
        if follower.reverted.is_none() {
            tracing::error!("{why}");
        }
        follower.reverted = Some(why.clone());
        Err(why)
    }

    /// The followers that have lost something in the leadership of `term`.
    pub(crate) fn reverted(&self, term: u64) -> Vec<(NodeId, String)> {
        let followers = self.followers.lock();
        let of_term = followers.values().filter(|follower| follower.vote.leader_id.term == term);
        of_term.filter_map(|follower| Some((follower.node, follower.reverted.clone()?))).collect()
    }
}

/// The follower's record; a new leadership begins with a clean one, for it asks anew what everybody has.
fn entry<'a>(followers: &'a mut HashMap<u64, Follower>, to: (ReplicaId, NodeId), vote: &Vote) -> &'a mut Follower {
    let (replica, node) = to;
    let fresh = || Follower { node, vote: *vote, matched: None, reverted: None };
    let follower = followers.entry(replica.0).or_insert_with(fresh);
    if follower.vote != *vote {
        *follower = fresh();
    }
    follower
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::LeaderId;

    const TO: (ReplicaId, NodeId) = (ReplicaId(2), NodeId(20));

    fn vote(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 1 }, index }
    }

    #[test]
    fn what_was_acknowledged_cannot_conflict_in_the_same_leadership() {
        let acknowledged = Acknowledged::default();
        acknowledged.conflicted(TO, &vote(3), &log_id(2, 90)).expect("nothing is acknowledged yet");
        acknowledged.matched(TO, &vote(3), Some(log_id(2, 50)));
        acknowledged.matched(TO, &vote(3), Some(log_id(2, 40)));
        acknowledged.conflicted(TO, &vote(3), &log_id(2, 51)).expect("behind what it has");
        assert!(acknowledged.reverted(3).is_empty());
        let why = acknowledged.conflicted(TO, &vote(3), &log_id(2, 50)).expect_err("it had that one");
        assert!(why.contains("entry 50") && why.contains("n20"), "{why}");
        assert_eq!(acknowledged.reverted(3), [(NodeId(20), why)]);
        assert!(acknowledged.reverted(4).is_empty(), "another leadership");
        acknowledged.conflicted(TO, &vote(4), &log_id(2, 10)).expect("a new leadership asks anew");
        assert!(acknowledged.reverted(4).is_empty());
    }
}
