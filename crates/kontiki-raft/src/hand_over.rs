//! Handing a leadership over on purpose, so that callers hardly notice.
//!
//! ```text
//!   writes go on       a voter is close and was heard just now
//!   writes are held    what is under way is committed and answered ── that voter has the last entry ── openraft: transfer
//!                      it votes, is elected, a majority answers it
//!   writes are told    "not the leader, n2 is": true by now
//! ```
//!
//! openraft refuses writes from the moment at which it is told to hand over, and never resumes; and the new leader takes none before a
//! majority has answered it. So nothing is handed over before the target has everything, and nobody is sent to it before it serves. What
//! a caller feels is the entry under way, the vote, the first entry of the new leader, and one redirect: three round trips with their
//! fsyncs, wherever in between it came.
//!
//! **Invariant:** writes are held for a bounded time, whatever the others do.

use std::time::Duration;

use kontiki_types::{CallError, NodeId, Reject, Retry, limits};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};
use tokio::time::{Instant, timeout};

use crate::group::Group;
use crate::type_config::TypeConfig;

/// A target must be this close before anything is held, in entries: what is under way, and as much again.
const CLOSE_ENTRIES: u64 = 2 * limits::ENTRIES_IN_FLIGHT_MAX as u64;
/// And must have answered a message that was sent at most this long before it was chosen: heartbeats to those who have just answered
/// something are left out for as long (`heartbeat_min_interval`).
pub(crate) const HEARD_BEFORE: Duration = Duration::from_millis(60);
/// How long is waited for such a target, while writes go on.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
/// How long writes are held until what is under way is committed and applied.
const QUIET_WITHIN: Duration = Duration::from_millis(200);
/// How long writes are held until the target has the last entry, which a majority has.
const COMPLETE_WITHIN: Duration = Duration::from_millis(60);
/// How long is waited for the new leader: by then the others have elected one without being asked to.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);

impl Group {
    /// Hands leadership to another node and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), CallError> {
        self.check_leads()?;
        if to == self.node() {
            return Ok(());
        }
        if !self.descriptor().replica_on(to).is_some_and(|replica| replica.votes()) {
            let partition = self.partition();
            let why = format!("{to} holds no voting replica of {partition}; see the partition's replicas");
            return Err(Reject::invalid(why).into());
        }
        self.hand_over(|node| node == to, 0).await
    }

    /// Hands leadership over to one of the voters that are `fit`, and waits until it leads. Different `turn`s choose different ones, if there
    /// are several that can take over at once. An error says that this replica still leads, or that it is not known who does.
    pub async fn hand_over(&self, fit: impl Fn(NodeId) -> bool, turn: usize) -> Result<(), CallError> {
        self.check_leads()?;
        let Ok(_alone) = self.handing_over().try_lock() else {
            return Err(CallError::unavailable(format!("the leadership of {} is being handed over already", self.partition())));
        };
        // Idle followers are asked to say something: nobody who is down must be chosen.
        let asked = Instant::now();
        self.raft().trigger().heartbeat().await.map_err(|fatal| self.stopped(&fatal))?;
        let close = self.target((&fit, turn), asked, CLOSE_ENTRIES);
        let close = timeout(CLOSE_WITHIN, close).await;
        close.map_err(|_| self.late("no other voter was heard that has caught up", CLOSE_WITHIN))??;
        let held = timeout(QUIET_WITHIN, self.hold_proposals()).await;
        let held = held.map_err(|_| self.late("what is under way was not committed", QUIET_WITHIN))?;
        let target = timeout(COMPLETE_WITHIN, self.target((&fit, turn), asked, 0)).await;
        let (to, term) = target.map_err(|_| self.late("no other voter had the last entry", COMPLETE_WITHIN))??;
        self.begin_hand_over(term);
        self.raft().trigger().transfer_leader(to).await.map_err(|fatal| self.stopped(&fatal))?;
        let taken = timeout(TAKEN_OVER_WITHIN, self.taken_over(term)).await;
        // Whoever is told to go elsewhere is told where.
        self.settled().await;
        drop(held);
        match taken {
            Ok(Some(leader)) if leader == to => Ok(()),
            Ok(Some(_)) => Err(self.check_leads().err().unwrap_or_else(|| self.stopped(&"another voter was elected"))),
            Ok(None) => Err(self.stopped(&"it was shut down")),
            Err(_) => Err(self.late("the new leader did not take over", TAKEN_OVER_WITHIN)),
        }
    }

    /// Waits for a voter that can take over: fit, heard since `asked`, and lacking at most so many entries. Returns it and this term.
    async fn target(
        &self,
        choice: (&impl Fn(NodeId) -> bool, usize),
        asked: Instant,
        lacking: u64,
    ) -> Result<(u64, u64), CallError> {
        let mut metrics = self.raft().metrics();
        loop {
            let now = metrics.borrow_watched().clone();
            if now.current_leader != Some(self.replica().0) {
                return Err(Retry::NotLeader { partition: self.partition(), leader: self.leader() }.into());
            }
            let able = able(&now, choice.0, asked, lacking);
            if let Some(to) = able.get(choice.1 % able.len().max(1)) {
                return Ok((*to, now.current_term));
            }
            if metrics.changed().await.is_err() {
                return Err(self.stopped(&"it was shut down"));
            }
        }
    }

    /// Waits until somebody leads in another term, and says which replica; `None` if this one was shut down.
    async fn taken_over(&self, term: u64) -> Option<u64> {
        let mut metrics = self.raft().server_metrics();
        loop {
            let (now, leader) = {
                let now = metrics.borrow_watched();
                (now.vote.leader_id.term, now.current_leader)
            };
            if now != term
                && let Some(leader) = leader
            {
                return Some(leader);
            }
            metrics.changed().await.ok()?;
        }
    }
}

/// The voters that can take over, in the order of their ids.
fn able(now: &RaftMetrics<TypeConfig>, fit: impl Fn(NodeId) -> bool, asked: Instant, lacking: u64) -> Vec<u64> {
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let last_next = next(now.last_log_index);
    let is_close = |id: &u64| {
        let matched = now.replication.iter().flatten().find(|(known, _)| *known == id).and_then(|(_, matched)| *matched);
        next(matched.map(|matched| matched.index)) + lacking >= last_next
    };
    let is_heard = |id: &u64| {
        let answered = now.heartbeat.iter().flatten().find(|(known, _)| *known == id).and_then(|(_, sent)| *sent);
        answered.is_some_and(|sent| sent.elapsed() <= asked.elapsed() + HEARD_BEFORE)
    };
    let is_fit = |id: &u64| now.membership_config.membership().get_node(id).is_some_and(|node| fit(NodeId(node.node)));
    let voters = now.membership_config.voter_ids().filter(|id| *id != now.id);
    voters.filter(|id| is_fit(id) && is_close(id) && is_heard(id)).collect()
}
