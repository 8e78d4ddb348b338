//! Sequential specifications: what each kind of object does when calls come one after the other. [`crate::linear`] looks for an order
//! of the calls in which every one of them did what its specification says.
//!
//! ```text
//!   operations of one object ── read ── Entry { call, start, end } ─┐
//!                                  └─── the model, and its states ──┴─ linear::search
//! ```
//!
//! Reading turns values into small numbers, and uses what can be known without a search: which value was never seen by anybody, in which
//! order elements were appended. What it finds to be contradictory is a [`Conflict`], and needs no search.
//!
//! **Invariant:** a completed call is never left out. Left out are only calls that failed (they did nothing), reads whose answer is
//! unknown or allowed to be stale, and open calls whose effect nobody can have seen.

pub mod counter;
pub mod lists;
pub mod register;
pub mod set;

use std::fmt::Debug;
use std::hash::Hash;

use crate::history::{Operation, Outcome};

/// A sequential specification.
pub trait Model {
    /// One call with its answer. Equal calls are interchangeable.
    type Call: Clone + Debug + Eq + Hash;
    /// What the object is between two calls.
    type State: Clone + Debug + Eq + Hash;
    /// What pending calls need, in a form that is quick to ask.
    type Needs;

    /// What it is before the first call.
    fn initial(&self) -> Self::State;

    /// What it is after `call`; nothing if `call` cannot have had its answer in `state`.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether `call` changes nothing, in any state in which it can be answered. (It may still make known more of the state.)
    fn observes(&self, call: &Self::Call) -> bool;

    /// What is needed in `state` by the calls that wait for their place and will return, if need be with the help of `open` calls, which
    /// never return.
    fn needs(&self, state: &Self::State, waiting: &[&Self::Call], open: &[&Self::Call]) -> Self::Needs;

    /// Whether to apply `call`, which changes something, can help one of the calls that wait. If not, it can as well be applied after all
    /// of them, or never, which is allowed only if it is `open`. To say yes is always right; to say no needs a proof, which stands
    /// beside it.
    fn useful(&self, state: &Self::State, call: &Self::Call, open: bool, needs: &Self::Needs) -> bool;

    /// The state, for people.
    fn describe(&self, state: &Self::State) -> String;
}

/// One call of an object, as the search sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<C> {
    /// What was called and answered.
    pub call: C,
    /// When it was called, us.
    pub start_us: u64,
    /// When it was answered, us. Nothing: it never was.
    pub end_us: Option<u64>,
    /// Which operation of the history it is.
    pub operation: usize,
}

/// All calls of one object, and its specification.
#[derive(Debug)]
pub struct Object<M: Model> {
    /// The specification.
    pub model: M,
    /// The calls, in any order.
    pub entries: Vec<Entry<M::Call>>,
}

/// Why an object needs no search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// These operations contradict each other, in whatever order.
    Contradiction {
        /// Which operations of the history.
        operations: Vec<usize>,
        /// What they contradict each other in.
        why: String,
    },
    /// The record cannot be judged: it breaks a rule that the judge relies on.
    Unusable {
        /// Which rule, and where.
        why: String,
    },
}

/// An operation, and its place in the history.
pub type Placed<'a> = (usize, &'a Operation);

/// When the search must have placed an operation: nothing if it never has to.
fn deadline(operation: &Operation) -> Option<u64> {
    if matches!(operation.outcome, Outcome::Unknown { .. }) { None } else { operation.end_us }
}

/// Whether the search looks at an operation at all.
fn matters(operation: &Operation) -> bool {
    let answered = matches!(operation.outcome, Outcome::Ok { .. } | Outcome::Refused);
    !operation.stale && (answered || operation.may_have_applied())
}

fn entry<C>((place, operation): Placed<'_>, call: C) -> Entry<C> {
    Entry { call, start_us: operation.start_us, end_us: deadline(operation), operation: place }
}
