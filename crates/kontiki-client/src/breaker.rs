//! A circuit breaker for one peer: after some failures in a row nobody waits for it any more, except one probe at a time.
//!
//! ```text
//!            failures in a row                  open time over: one probe
//!   closed ---------------------> open(until) -------------------------> probing
//!      ^                            ^                                      |  |
//!      |                            +------------ probe failed ------------+  |
//!      +------------------------------- probe reached it --------------------+
//! ```
//!
//! Pure: time is handed in. An answer with an error *in* it (not leader, overloaded, ...) is a success here: the peer was reached.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing { since: Instant },
}

/// What an attempt found out about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered.
    Reached,
    /// It could not be reached.
    Unreached,
    /// Nothing: the caller gave up waiting.
    Unknown,
}

/// The state of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    failures_max: u32,
    open: Duration,
}

impl Breaker {
    /// A closed breaker that opens after `failures_max` failures in a row (at least 1) for `open`.
    pub(crate) fn new(failures_max: u32, open: Duration) -> Self {
        Self { state: State::Closed { failures: 0 }, failures_max: failures_max.max(1), open }
    }

    /// Whether [`Breaker::admit`] would say yes.
    pub(crate) fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= until,
            // A probe that never reported (its task was dropped with its runtime) must not hold the door for ever.
            State::Probing { since } => now >= since + self.open * 4,
        }
    }

    /// Whether an attempt may be made now. A yes in the open state is the probe.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let admitted = self.would_admit(now);
        if admitted && !matches!(self.state, State::Closed { .. }) {
            self.state = State::Probing { since: now };
        }
        admitted
    }

    /// Reports an attempt that was admitted.
    pub(crate) fn report(&mut self, outcome: Outcome, now: Instant) {
        let open = State::Open { until: now + self.open };
        self.state = match (self.state, outcome) {
            (_, Outcome::Reached) => State::Closed { failures: 0 },
            (State::Closed { failures }, Outcome::Unreached) if failures + 1 >= self.failures_max => open,
            (State::Closed { failures }, Outcome::Unreached) => State::Closed { failures: failures + 1 },
            (State::Probing { .. }, Outcome::Unreached | Outcome::Unknown) => open,
            // Late news of attempts that were made before it opened.
            (state, Outcome::Unreached | Outcome::Unknown) => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(1);

    fn tick(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_one_good_probe() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, OPEN);
        for outcome in [Outcome::Unreached, Outcome::Unreached, Outcome::Reached, Outcome::Unreached, Outcome::Unreached] {
            assert!(breaker.admit(now));
            breaker.report(outcome, now);
        }
        assert!(breaker.would_admit(now), "never three in a row");
        breaker.report(Outcome::Unreached, now);
        assert!(!breaker.admit(now + tick(999)));
        assert!(breaker.admit(now + tick(1000)), "the probe");
        assert!(!breaker.admit(now + tick(1000)), "only one at a time");
        breaker.report(Outcome::Reached, now + tick(1001));
        assert!(breaker.admit(now + tick(1001)) && breaker.admit(now + tick(1001)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_or_tells_nothing_opens_it_again() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, OPEN);
        breaker.report(Outcome::Unreached, now);
        for (round, outcome) in (1..).zip([Outcome::Unreached, Outcome::Unknown]) {
            let at = now + OPEN * round;
            assert!(breaker.admit(at));
            breaker.report(outcome, at);
            assert!(!breaker.admit(at + tick(999)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_probe_does_not_hold_the_door_for_ever() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, OPEN);
        breaker.report(Outcome::Unreached, now);
        assert!(breaker.admit(now + OPEN));
        assert!(!breaker.admit(now + OPEN * 4));
        assert!(breaker.admit(now + OPEN * 5));
    }

    #[tokio::test(start_paused = true)]
    async fn late_news_do_not_prolong_the_open_time() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, OPEN);
        breaker.report(Outcome::Unreached, now);
        breaker.report(Outcome::Unreached, now + tick(900));
        assert!(breaker.admit(now + tick(1000)));
    }
}
