//! How old a replica's knowledge is, for bounded-stale reads. A follower knows everything that was committed when it last heard
//! the leader, once it has applied up to the commit index that it heard.

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

#[derive(Default)]
struct Heard {
    /// The last instant at which this replica was proven complete.
    fresh_at: Option<Instant>,
    /// Heard from the leader, not yet applied.
    pending: Option<(Instant, u64)>,
}

/// When this replica last knew everything.
#[derive(Default)]
pub(crate) struct Freshness {
    heard: Mutex<Heard>,
}

impl Freshness {
    /// The leader was heard at `at`, with this many entries committed (next index), while `applied` were applied here.
    pub(crate) fn heard(&self, at: Instant, committed_next: u64, applied_next: u64) {
        let mut heard = self.heard.lock();
        heard.settle(applied_next);
        // An older one that still waits is kept: under steady writes the newest is never applied yet.
        if heard.pending.is_none() {
            heard.pending = Some((at, committed_next));
        }
        heard.settle(applied_next);
    }

    /// The age now; `None` if no leader was ever heard.
    pub(crate) fn age(&self, now: Instant, applied_next: u64) -> Option<Duration> {
        let mut heard = self.heard.lock();
        heard.settle(applied_next);
        heard.fresh_at.map(|at| now.saturating_duration_since(at))
    }
}

/// How old the knowledge of a leader is: since a majority confirmed that it leads. Only once it has applied an entry of its own term, and
/// with it everything that was acknowledged before: until then a majority follows somebody who may not know yet what was committed.
/// Who is the only voter needs nobody's word.
pub(crate) fn of_leader(applied_term: Option<u64>, term: u64, alone: bool, acked: Option<Duration>) -> Option<Duration> {
    if applied_term != Some(term) {
        return None;
    }
    if alone { Some(Duration::ZERO) } else { acked }
}

impl Heard {
    fn settle(&mut self, applied_next: u64) {
        if let Some((at, committed_next)) = self.pending
            && applied_next >= committed_next
        {
            self.fresh_at = self.fresh_at.max(Some(at));
            self.pending = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_is_not_fresh_before_an_entry_of_its_own_term_is_applied() {
        let acked = Some(Duration::from_millis(3));
        for (applied, alone) in [(None, false), (Some(6), false), (None, true), (Some(6), true)] {
            assert_eq!(of_leader(applied, 7, alone, acked), None, "applied up to term {applied:?}");
        }
        assert_eq!(of_leader(Some(7), 7, false, acked), acked);
        assert_eq!(of_leader(Some(7), 7, false, None), None, "nobody has confirmed yet");
        assert_eq!(of_leader(Some(7), 7, true, None), Some(Duration::ZERO), "the only voter");
    }

    #[test]
    fn age_counts_from_what_was_heard_and_applied() {
        let freshness = Freshness::default();
        let start = Instant::now();
        assert_eq!(freshness.age(start, 0), None);
        freshness.heard(start, 10, 5);
        assert_eq!(freshness.age(start + Duration::from_secs(1), 9), None, "heard, but not applied");
        assert_eq!(freshness.age(start + Duration::from_secs(1), 10), Some(Duration::from_secs(1)));
        freshness.heard(start + Duration::from_secs(2), 20, 10);
        freshness.heard(start + Duration::from_secs(3), 30, 10);
        assert_eq!(freshness.age(start + Duration::from_secs(3), 20), Some(Duration::from_secs(1)), "the older one counts");
    }
}
