//! How long the other nodes take to answer: each is asked for nothing, now and then, over the connection that Raft's messages take. What
//! comes out is a moving average for each, told in the node's status; who is too slow to lead is judged by all of them together.
//!
//! Asked, and not taken from Raft's own messages: those wait for disks, and a node that leads nothing sends hardly any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kontiki_raft::TransportError;
use kontiki_types::NodeId;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::local::Local;
use crate::transport::Peers;

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// An answer that comes later is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A new round trip counts as one part in so many: one that was late by chance says little, five in a row say much.
const SMOOTHING: u64 = 4;

/// The moving averages, in us.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    known: Mutex<BTreeMap<NodeId, u64>>,
}

impl RoundTrips {
    /// All that are known.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, u64> {
        self.known.lock().clone()
    }

    /// Takes in what came of a question. A node that cannot be reached has no round trip: whether it is down is for others to say.
    fn note(&self, node: NodeId, answered: Result<(), TransportError>, took: Duration) {
        let took = match answered {
            Ok(()) => took,
            Err(TransportError::Timeout(_)) => ANSWER_WITHIN,
            // Another one has answered at its address, or it is older than the question.
            Err(TransportError::Rejected { .. } | TransportError::Unreachable(_)) => {
                self.known.lock().remove(&node);
                return;
            }
        };
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mut known = self.known.lock();
        let average = known.entry(node).or_insert(took_us);
        *average = (*average * (SMOOTHING - 1) + took_us) / SMOOTHING;
    }

    fn keep_only(&self, nodes: &[NodeId]) {
        self.known.lock().retain(|node, _| nodes.contains(node));
    }
}

/// Asks the other members until the node stops.
pub(crate) async fn run(local: Local, peers: Arc<Peers>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = local.stopping().cancelled() => return,
        }
        let map = local.map_copy().current();
        let others = map.nodes.iter().filter(|node| node.state.is_member() && node.id != local.node());
        let others: Vec<NodeId> = others.map(|node| node.id).collect();
        let trips = local.round_trips();
        trips.keep_only(&others);
        let asked = join_all(others.iter().map(|node| async {
            let since = Instant::now();
            let answered = peers.ping(local.identity(), *node, ANSWER_WITHIN).await;
            trips.note(*node, answered, since.elapsed());
        }));
        tokio::select! {
            _ = asked => {}
            () = local.stopping().cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn after(samples: &[u64]) -> u64 {
        let trips = RoundTrips::default();
        for took in samples {
            trips.note(PEER, Ok(()), Duration::from_micros(*took));
        }
        trips.all()[&PEER]
    }

    #[test]
    fn one_late_answer_says_little_and_many_say_it_all() {
        assert_eq!(after(&[400]), 400);
        assert_eq!(after(&[400, 400, 4000, 400, 400, 400]), 779);
        assert!(after(&[[400].as_slice(), &[40_000; 12]].concat()) > 38_000);
    }

    #[test]
    fn silence_counts_as_the_longest_and_a_node_that_is_down_is_not_judged() {
        let trips = RoundTrips::default();
        trips.note(PEER, Err(TransportError::Timeout("x".into())), Duration::ZERO);
        assert_eq!(trips.all()[&PEER], 1_000_000);
        trips.note(PEER, Err(TransportError::Unreachable("x".into())), Duration::ZERO);
        assert!(trips.all().is_empty());
        trips.note(PEER, Ok(()), Duration::from_millis(1));
        trips.keep_only(&[NodeId(3)]);
        assert!(trips.all().is_empty(), "it is no member any more");
    }
}
