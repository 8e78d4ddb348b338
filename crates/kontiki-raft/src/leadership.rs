//! Who leads a group, as one of its replicas knows it; and how a caller waits while that is being settled.
//!
//! ```text
//!   openraft: leads, follows ──┐
//!   a majority has answered ───┼── known: Some(who takes writes) | None: nobody, or being settled
//!   is handing over ───────────┘
//! ```
//!
//! A replica says that it leads only once a majority has answered it in its term: openraft takes no write before, and whoever came
//! by a hint would be sent away again, to look elsewhere. And it no longer says so as soon as it begins to hand over. In between callers
//! wait here: that takes two round trips, and less than asking around.
//!
//! **Invariant:** nothing is decided by what is known here. Whether a write or read is good, a majority says.

use std::time::Duration;

use kontiki_types::{NodeId, ReplicaId};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::type_config::Raft;

/// How long a call waits for somebody to lead. Long enough for a hand-over on a busy machine, far shorter than the election after a
/// leader's death: who has to wait for that may ask somebody else meanwhile.
const SETTLED_WITHIN: Duration = Duration::from_millis(400);

/// Who leads a group.
pub(crate) struct Leadership {
    known: watch::Receiver<Option<NodeId>>,
    /// The term that this replica leads and hands over. openraft never resumes a leadership that it has begun to hand over.
    handed_over: watch::Sender<Option<u64>>,
}

impl Leadership {
    /// Follows who leads, until the replica ends. `own` is this replica.
    pub(crate) fn follow(raft: &Raft, own: ReplicaId) -> Self {
        let ((tell, known), (handed_over, hands_over)) = (watch::channel(None), watch::channel(None));
        tokio::spawn(follow(raft.clone(), own, tell, hands_over));
        Self { known, handed_over }
    }

    /// The node that leads, as far as known now.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        *self.known.borrow()
    }

    /// Follows it.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<NodeId>> {
        self.known.clone()
    }

    /// Waits a moment if nobody is known to lead.
    pub(crate) async fn settled(&self) {
        self.until(Option::is_some).await;
    }

    /// Waits a moment until another node than this one is known to lead.
    pub(crate) async fn led_by_another(&self, own: NodeId) {
        self.until(|known| known.is_some_and(|leader| leader != own)).await;
    }

    async fn until(&self, holds: impl FnMut(&Option<NodeId>) -> bool) {
        let mut known = self.known.clone();
        // Late, or the replica has ended: the caller looks.
        let _ = timeout(SETTLED_WITHIN, known.wait_for(holds)).await;
    }

    /// From now on this replica does not say any more that it leads in this term.
    pub(crate) fn hands_over(&self, term: u64) {
        self.handed_over.send_replace(Some(term));
    }
}

/// Tells who leads whenever that changes.
async fn follow(raft: Raft, own: ReplicaId, tell: watch::Sender<Option<NodeId>>, mut hands_over: watch::Receiver<Option<u64>>) {
    let (mut server, mut metrics) = (raft.server_metrics(), raft.metrics());
    drop(raft);
    loop {
        let (leader, leads_in) = {
            let now = server.borrow_watched();
            let node = |id: u64| now.membership_config.get_node(&id).map(|node| NodeId(node.node));
            (now.current_leader.and_then(node), (now.current_leader == Some(own.0)).then_some(now.vote.leader_id.term))
        };
        let confirmed = leads_in.is_none_or(|term| {
            let now = metrics.borrow_watched();
            now.current_term == term && now.last_quorum_acked.is_some()
        });
        let handed_over = leads_in.is_some() && leads_in == *hands_over.borrow_and_update();
        let serves = if confirmed && !handed_over { leader } else { None };
        tell.send_if_modified(|known| std::mem::replace(known, serves) != serves);
        tokio::select! {
            // The core has ended, in whatever way: what it said last is not so any more.
            changed = server.changed() => if changed.is_err() {
                tell.send_replace(None);
                return;
            },
            // These change with every turn of the core: they are looked at only as long as that is needed.
            _ = metrics.changed(), if !confirmed => {}
            changed = hands_over.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
        }
    }
}
