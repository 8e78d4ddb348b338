//! When to try again: the one table of the router (DESIGN section 9), and the pace at which it does.
//!
//! Only what is proven not applied is repeated, or what the session table makes safe.

use std::time::Duration;

use kontiki_types::{CallError, NodeId, Reject, Retry};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is the answer.
    GiveUp,
    /// The map was wrong: learn from the descriptors in the error (or ask for the map), look the place up again.
    Relocate,
    /// The partition is led elsewhere: there, if it is known.
    Follow(Option<NodeId>),
    /// Another replica, after a pause.
    Elsewhere,
    /// The same node, not before this long.
    Wait(Duration),
    /// A new session, if it is certain that the request was not applied under the old one.
    NewSession,
}

/// The table. `safe_to_repeat`: a read, or a write with a request id.
///
/// | error | safe | not safe |
/// |---|---|---|
/// | stale epoch, unknown partition | relocate | relocate |
/// | session expired | new session | new session |
/// | any other reject | give up | give up |
/// | not leader | follow the hint | follow the hint |
/// | unavailable | elsewhere | elsewhere |
/// | overloaded | wait as told | wait as told |
/// | ambiguous, fault | elsewhere | **give up** |
pub(crate) fn decide(error: &CallError, safe_to_repeat: bool) -> Action {
    match error {
        CallError::Reject(Reject::StaleEpoch { .. }) => Action::Relocate,
        CallError::Reject(Reject::SessionExpired { .. }) => Action::NewSession,
        CallError::Reject(_) => Action::GiveUp,
        CallError::Retry(Retry::UnknownPartition { .. }) => Action::Relocate,
        CallError::Retry(Retry::NotLeader { leader, .. }) => Action::Follow(*leader),
        CallError::Retry(Retry::Unavailable { .. }) => Action::Elsewhere,
        CallError::Retry(Retry::Overloaded { retry_after_ms, .. }) => Action::Wait(Duration::from_millis(*retry_after_ms)),
        CallError::Ambiguous(_) | CallError::Fault(_) if safe_to_repeat => Action::Elsewhere,
        CallError::Ambiguous(_) | CallError::Fault(_) => Action::GiveUp,
    }
}

/// Whether a write that ended like this may have been applied (or may still be).
pub(crate) fn may_be_applied(error: &CallError) -> bool {
    matches!(error, CallError::Ambiguous(_) | CallError::Fault(_))
}

/// A fifth of a repeat is earned by each success.
const SUCCESSES_PER_REPEAT: u32 = 5;

/// How fast it is tried again: exponential back-off with jitter, and a budget of repeats for the whole client.
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    budget_max: u32,
    state: Mutex<PaceState>,
}

struct PaceState {
    rng: SmallRng,
    /// In fifths of a repeat.
    budget: u32,
}

impl Pace {
    pub(crate) fn new(min: Duration, max: Duration, budget: u32, seed: u64) -> Self {
        let budget_max = budget.saturating_mul(SUCCESSES_PER_REPEAT);
        let state = PaceState { rng: SmallRng::seed_from_u64(seed), budget: budget_max };
        Self { min, max, budget_max, state: Mutex::new(state) }
    }

    /// A call succeeded at its first attempt.
    pub(crate) fn earn(&self) {
        let mut state = self.state.lock();
        state.budget = (state.budget + 1).min(self.budget_max);
    }

    /// How long to wait before repeat number `repeat` (from 0). Half of the exponential step is certain, half is random: repeats
    /// spread, and none comes at once. Without budget: the longest step.
    pub(crate) fn pause(&self, repeat: u32) -> Duration {
        let mut state = self.state.lock();
        let step = if state.budget < SUCCESSES_PER_REPEAT {
            self.max
        } else {
            state.budget -= SUCCESSES_PER_REPEAT;
            self.min.saturating_mul(1 << repeat.min(16)).min(self.max)
        };
        step.mul_f64(state.rng.random_range(0.5..1.0))
    }

    /// A number below `bound` (at least 1), for choosing among equals.
    pub(crate) fn pick(&self, bound: usize) -> usize {
        self.state.lock().rng.random_range(0..bound.max(1))
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::{Fault, PartitionId, SessionId, Version};

    use super::*;

    #[test]
    fn the_table() {
        let partition = PartitionId(2);
        let session = SessionId { partition, opened: Version(1) };
        let same: Vec<(CallError, Action)> = vec![
            (Reject::StaleEpoch { partition, descriptors: vec![] }.into(), Action::Relocate),
            (Retry::UnknownPartition { partition }.into(), Action::Relocate),
            (Reject::SessionExpired { session, sequence: 1 }.into(), Action::NewSession),
            (Reject::SessionConflict { session, sequence: 1 }.into(), Action::GiveUp),
            (Reject::ConditionFailed { index: 0, key: "k".into(), version: None }.into(), Action::GiveUp),
            (Reject::invalid("x").into(), Action::GiveUp),
            (Reject::VersionInFuture { version: Version(2), newest: Version(1) }.into(), Action::GiveUp),
            (Retry::NotLeader { partition, leader: Some(NodeId(3)) }.into(), Action::Follow(Some(NodeId(3)))),
            (Retry::NotLeader { partition, leader: None }.into(), Action::Follow(None)),
            (CallError::unavailable("x"), Action::Elsewhere),
            (
                Retry::Overloaded { what: "q".into(), limit: 1, retry_after_ms: 70 }.into(),
                Action::Wait(Duration::from_millis(70)),
            ),
        ];
        for (error, action) in same {
            assert_eq!(decide(&error, true), action, "{error}");
            assert_eq!(decide(&error, false), action, "{error}");
            assert!(!may_be_applied(&error), "{error}");
        }
        for error in [CallError::ambiguous("x"), Fault::Invariant("x".into()).into()] {
            assert_eq!(decide(&error, true), Action::Elsewhere, "{error}");
            assert_eq!(decide(&error, false), Action::GiveUp, "{error}");
            assert!(may_be_applied(&error), "{error}");
        }
    }

    fn pace(budget: u32) -> Pace {
        Pace::new(Duration::from_millis(10), Duration::from_millis(500), budget, 7)
    }

    #[test]
    fn pauses_grow_spread_and_stay_under_the_bound() {
        let pace = pace(1000);
        for (repeat, step_ms) in [(0, 10), (1, 20), (5, 320), (6, 500), (40, 500)] {
            for _ in 0..50 {
                let pause = pace.pause(repeat);
                assert!(
                    pause >= Duration::from_millis(step_ms / 2) && pause <= Duration::from_millis(step_ms),
                    "{repeat}: {pause:?}"
                );
            }
        }
    }

    #[test]
    fn without_budget_every_pause_is_long_and_successes_earn_it_back() {
        let pace = pace(1);
        assert!(pace.pause(0) <= Duration::from_millis(10));
        assert!(pace.pause(0) >= Duration::from_millis(250));
        for _ in 0..SUCCESSES_PER_REPEAT {
            pace.earn();
        }
        assert!(pace.pause(0) <= Duration::from_millis(10));
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let (a, b) = (pace(100), pace(100));
        assert!((0..20).all(|repeat| a.pause(repeat) == b.pause(repeat)));
    }
}
