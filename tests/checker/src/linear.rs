//! Whether a history is linearizable: whether its calls can be put into one order in which each took effect between its call and its
//! return, and each answer is what the specification says.
//!
//! ```text
//!   operations ── by key: one object each ── read by its model ── search ── Report
//! ```
//!
//! Objects are judged one at a time, which loses nothing: a history is linearizable if and only if that of each of its objects is
//! (locality: Herlihy and Wing 1990, theorem 1).
//!
//! Speed, in the dev profile, on one core of the machine that this was written on: a million operations of ten clients on 1000 registers take
//! 1.7 s of CPU and 300 MB with the history itself, with versions or without; 100,000 on one register 0.7 s with versions. Without
//! versions, every order of the writes that overlap on one key has to be held: ten at once are a thousand configurations, and each
//! more doubles them.
//!
//! **Invariant:** a search that hits its budget is undecided. There is no way to get from there to "linearizable".

mod search;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{self, Call, Operation};
use crate::model::counter::Counter;
use crate::model::lists::Lists;
use crate::model::register::Register;
use crate::model::set::Set;
use crate::model::{Conflict, Model, Object, Placed};

/// How much a search may do for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Configurations (a state, and which of the open calls have led to it) that it may look at. One takes about 100 bytes and 1 us.
    pub configurations: u64,
}

impl Default for Budget {
    /// Ten million: about 1 GB and 10 s at the very worst, for one object.
    fn default() -> Self {
        Self { configurations: 10_000_000 }
    }
}

/// The verdict on a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order for every object.
    Linearizable,
    /// There is none for at least one object.
    Violated,
    /// No violation was found, but not every object could be decided.
    Undecided,
}

/// An object for which there is no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The object.
    pub key: String,
    /// Which operations of the history show it: the one whose answer has no explanation, or several that contradict each other.
    pub operations: Vec<usize>,
    /// What is wrong, and what would have been possible.
    pub why: String,
}

/// An object that was not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The object.
    pub key: String,
    /// Why not, and what to do.
    pub why: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many objects were judged.
    pub objects: usize,
    /// How many calls of them had to be placed.
    pub calls: usize,
    /// How many calls were not looked at: stale reads and snapshots, which other judges know.
    pub left_out: usize,
    /// How many configurations were looked at.
    pub configurations: u64,
    /// Objects for which there is no order.
    pub violations: Vec<Violation>,
    /// Objects that were not decided.
    pub undecided: Vec<Undecided>,
}

impl Report {
    /// All of it in one word.
    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            Verdict::Violated
        } else if !self.undecided.is_empty() {
            Verdict::Undecided
        } else {
            Verdict::Linearizable
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, calls, left_out, configurations, .. } = self;
        let word = match self.verdict() {
            Verdict::Linearizable => "linearizable",
            Verdict::Violated => "NOT linearizable",
            Verdict::Undecided => "undecided",
        };
        write!(f, "{word}: {objects} objects, {calls} calls, {configurations} configurations")?;
        if *left_out > 0 {
            write!(f, "; {left_out} stale reads and snapshots are not judged here")?;
        }
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {}", violation.why))?;
        self.undecided.iter().try_for_each(|undecided| write!(f, "\n  {}: {}", undecided.key, undecided.why))
    }
}

/// What kind of object a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Register,
    Counter,
    Set,
    Lists,
}

impl Kind {
    /// The kind of object that a call is for. Snapshots span objects; [`crate::cut`] judges them.
    fn of(call: &Call) -> Option<Self> {
        match call {
            Call::Get | Call::Put { .. } | Call::Delete | Call::Cas { .. } | Call::CasVersion { .. } => Some(Self::Register),
            Call::Increment | Call::Count => Some(Self::Counter),
            Call::Add { .. } | Call::Members => Some(Self::Set),
            Call::Append { .. } | Call::Lists => Some(Self::Lists),
            Call::Snapshot => None,
        }
    }
}

/// Judges a history. Stale reads and snapshots are not looked at: [`crate::session`] and [`crate::cut`] do that.
pub fn check(operations: &[Operation], budget: Budget) -> Report {
    let mut report = Report::default();
    if let Err(why) = history::validate(operations) {
        report.undecided.push(Undecided { key: "(the record)".to_owned(), why });
        return report;
    }
    let mut objects: BTreeMap<&str, (Kind, Vec<Placed<'_>>)> = BTreeMap::new();
    for placed in operations.iter().enumerate() {
        let kind = Kind::of(&placed.1.call);
        report.left_out += usize::from(placed.1.stale || kind.is_none());
        let Some(kind) = kind else { continue };
        let (first, calls) = objects.entry(&placed.1.key).or_insert((kind, Vec::new()));
        if *first != kind {
            let why = format!("it is called as a {first:?} and as a {kind:?}; a key is one object");
            report.undecided.push(Undecided { key: placed.1.key.clone(), why });
            return report;
        }
        calls.push(placed);
    }
    for (key, (kind, calls)) in &objects {
        report.objects += 1;
        match kind {
            Kind::Register => judge(key, Register::read(key, calls), operations, budget, &mut report),
            Kind::Counter => judge(key, Counter::read(key, calls), operations, budget, &mut report),
            Kind::Set => judge(key, Set::read(key, calls), operations, budget, &mut report),
            Kind::Lists => judge(key, Lists::read(key, calls), operations, budget, &mut report),
        }
    }
    report
}

fn judge<M: Model>(
    key: &str,
    object: Result<Object<M>, Conflict>,
    operations: &[Operation],
    budget: Budget,
    report: &mut Report,
) {
    let key = key.to_owned();
    let object = match object {
        Ok(object) => object,
        Err(Conflict::Unusable { why }) => return report.undecided.push(Undecided { key, why }),
        Err(Conflict::Contradiction { operations, why }) => return report.violations.push(Violation { key, operations, why }),
    };
    report.calls += object.entries.len();
    let (end, configurations) = search::search(&object, budget);
    report.configurations += configurations;
    match end {
        search::End::Ordered => {}
        search::End::Budget => {
            let why = format!(
                "more than {} configurations: give it a larger budget, record versions, or let fewer calls share a key",
                budget.configurations
            );
            report.undecided.push(Undecided { key, why });
        }
        search::End::Stuck { operation, possible } => {
            let call = &operations[operation];
            let why = format!("no order explains `{call}` of process {}: before it, {}", call.process, possible.join(", or "));
            report.violations.push(Violation { key, operations: vec![operation], why });
        }
    }
}
