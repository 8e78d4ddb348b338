//! A counter: increments that count exactly once, and reads of the number. It begins at 0.

use super::{Conflict, Model, Object, Placed, entry, matters};
use crate::history::{Call, Outcome, Reply};

/// A call of a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CounterCall {
    /// One was added.
    Increment {
        /// The number that this made, where it was returned.
        made: Option<u64>,
    },
    /// The number was read.
    Count {
        /// The number.
        number: u64,
    },
}

/// The specification of one counter.
#[derive(Debug)]
pub struct Counter {
    key: String,
}

impl Counter {
    /// Reads the operations of one counter.
    ///
    /// # Errors
    /// None; the other models have some.
    pub fn read(key: &str, operations: &[Placed<'_>]) -> Result<Object<Self>, Conflict> {
        let call = |placed: &Placed<'_>| match (&placed.1.call, &placed.1.outcome) {
            (_, Outcome::Ok { reply: Reply::Number(made), .. }) if placed.1.call == Call::Increment => {
                Some(CounterCall::Increment { made: Some(*made) })
            }
            (_, Outcome::Ok { reply: Reply::Number(number), .. }) => Some(CounterCall::Count { number: *number }),
            (Call::Increment, _) => Some(CounterCall::Increment { made: None }),
            _ => None,
        };
        let of_interest = operations.iter().filter(|(_, operation)| matters(operation));
        let entries = of_interest.filter_map(|placed| call(placed).map(|call| entry(*placed, call))).collect();
        Ok(Object { model: Self { key: key.to_owned() }, entries })
    }
}

impl Model for Counter {
    type Call = CounterCall;
    type State = u64;
    /// Whether somebody needs a higher number.
    type Needs = bool;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, call: &CounterCall) -> Option<u64> {
        match call {
            CounterCall::Increment { made } => made.is_none_or(|made| made == state + 1).then_some(state + 1),
            CounterCall::Count { number } => (number == state).then_some(*state),
        }
    }

    fn observes(&self, call: &CounterCall) -> bool {
        matches!(call, CounterCall::Count { .. })
    }

    fn needs(&self, state: &u64, waiting: &[&CounterCall], _: &[&CounterCall]) -> bool {
        waiting.iter().any(|other| match other {
            CounterCall::Count { number } => number > state,
            CounterCall::Increment { made } => made.is_some_and(|made| made > state + 1),
        })
    }

    /// An increment that returned nothing can be moved behind any call that does not need a higher number than there is: those calls
    /// are increments that returned nothing too, and commute with it. (A call that needs this number or a lower one and still
    /// waits has been served, or never will be.)
    fn useful(&self, _: &u64, call: &CounterCall, _: bool, needs_more: &bool) -> bool {
        *call != CounterCall::Increment { made: None } || *needs_more
    }

    fn describe(&self, state: &u64) -> String {
        format!("`{}` was {state}", self.key)
    }
}
