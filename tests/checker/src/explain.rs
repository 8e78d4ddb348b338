//! The smallest part of a history that shows why it is not linearizable: delta debugging (Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002) over operations.
//!
//! ```text
//!   all calls of the object ── drop a piece: may it be dropped, and does the rest still fail? ── smaller pieces ── lanes of text
//! ```
//!
//! A call cannot just be dropped: without its write, every read looks like a read from nowhere, and "explains" whatever one likes.
//!
//! **Invariant:** what is dropped can be dropped from a linearizable history, and it stays linearizable. So what still fails is a true
//! part of what went wrong.

use std::collections::HashSet;
use std::fmt;

use crate::history::{Call, Operation, Outcome, Reply};
use crate::linear::{self, Budget, Verdict, Violation};
use crate::timeline;

/// A small part of a history that is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is left, in the order of the history.
    pub operations: Vec<Operation>,
    /// How many calls the object has in the history.
    pub of: usize,
    /// What is wrong with it.
    pub why: String,
    /// Whether nothing more can be dropped; else it was given up for the work that it takes.
    pub smallest: bool,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, of) = (self.operations.len(), self.of);
        let smallest = if self.smallest { "no one of them can be left out" } else { "perhaps fewer would do" };
        writeln!(f, "{}", self.why)?;
        writeln!(f, "These {calls} of {of} calls show it ({smallest}):")?;
        write!(f, "{}", timeline::render(&self.operations))
    }
}

/// How many calls may be judged again, over all tries: 10 to 20 s of work in the dev profile.
const WORK_MAX: usize = 10_000_000;

/// Explains a violation that [`linear::check`] found in `history` with this budget.
pub fn explain(history: &[Operation], violation: &Violation, budget: Budget) -> Explanation {
    let mine = |operation: &&Operation| operation.key == violation.key && operation.call != Call::Snapshot;
    let all: Vec<&Operation> = history.iter().filter(mine).collect();
    let mut shrinking = Shrinking { all: &all, budget, work: WORK_MAX };
    let mut kept: Vec<usize> = (0..all.len()).collect();
    // What was called after the answer that has no explanation is rarely part of it.
    let until = violation.operations.iter().filter_map(|at| history[*at].end_us).max();
    let early: Vec<usize> = kept.iter().copied().filter(|at| until.is_none_or(|until| all[*at].start_us <= until)).collect();
    if shrinking.still_fails(&early) {
        kept = early;
    }
    // A refusal holds every write, so those that are not needed go first.
    let held: Vec<usize> = kept.iter().copied().filter(|at| all[*at].outcome != Outcome::Refused).collect();
    if shrinking.still_fails(&held) {
        kept = held;
    }
    let smallest = shrinking.shrink(&mut kept);
    let operations: Vec<Operation> = kept.iter().map(|at| all[*at].clone()).collect();
    let left = linear::check(&operations, budget).violations;
    let why = left.first().map_or_else(|| violation.why.clone(), |violation| violation.why.clone());
    Explanation { operations, of: all.len(), why, smallest }
}

struct Shrinking<'a> {
    all: &'a [&'a Operation],
    budget: Budget,
    work: usize,
}

impl Shrinking<'_> {
    /// Drops pieces, first large ones. Tells whether it came to an end.
    fn shrink(&mut self, kept: &mut Vec<usize>) -> bool {
        let mut piece = kept.len().div_ceil(2);
        while piece > 0 {
            let mut dropped = false;
            let mut from = 0;
            while from < kept.len() {
                if self.work == 0 {
                    return false;
                }
                let to = (from + piece).min(kept.len());
                let rest: Vec<usize> = kept[..from].iter().chain(&kept[to..]).copied().collect();
                if self.still_fails(&rest) {
                    (*kept, dropped) = (rest, true);
                } else {
                    from = to;
                }
            }
            // One call may have held another: what could not be dropped before may be droppable now.
            piece = if piece == 1 && dropped { 1 } else { piece / 2 };
        }
        true
    }

    fn still_fails(&mut self, kept: &[usize]) -> bool {
        self.work = self.work.saturating_sub(self.all.len());
        let keeps: HashSet<usize> = kept.iter().copied().collect();
        let dropped: Vec<&Operation> = (0..self.all.len()).filter(|at| !keeps.contains(at)).map(|at| self.all[at]).collect();
        let kept: Vec<&Operation> = kept.iter().map(|at| self.all[*at]).collect();
        if !may_drop(&dropped, &kept) {
            return false;
        }
        self.work = self.work.saturating_sub(kept.len());
        let kept: Vec<Operation> = kept.into_iter().cloned().collect();
        linear::check(&kept, self.budget).verdict() == Verdict::Violated
    }
}

/// Whether `dropped` can be taken out of a linearizable history of one object and leave `kept` linearizable.
///
/// What only reads can always be dropped. A write can be dropped if nothing that is kept has seen its effect: then the order without it
/// explains the same answers.
pub fn may_drop(dropped: &[&Operation], kept: &[&Operation]) -> bool {
    let dropped: Vec<&Operation> = dropped.iter().copied().filter(|operation| operation.may_have_applied()).collect();
    if dropped.is_empty() {
        return true;
    }
    let seen = Seen::by(kept);
    dropped.iter().all(|write| match &write.call {
        // A condition that did not hold may have been spoiled by any write; a version that was asked for, be made by any.
        _ if write.written().is_some() && (seen.refused || seen.version_from_elsewhere) => false,
        Call::Delete => !seen.absent,
        Call::Put { value } | Call::Cas { value, .. } | Call::CasVersion { value, .. } => {
            !seen.values.contains(value.as_str()) && write.version().is_none_or(|version| !seen.versions.contains(&version))
        }
        Call::Increment => seen.last_number_us.is_none_or(|last| write.start_us > last),
        Call::Add { element } => !seen.values.contains(element.as_str()),
        Call::Append { list, element } => !seen.elements.contains(&(list.as_str(), element.as_str())),
        _ => true,
    })
}

/// What operations have seen of writes.
#[derive(Default)]
struct Seen<'a> {
    values: HashSet<&'a str>,
    elements: HashSet<(&'a str, &'a str)>,
    /// Versions that were asked for.
    versions: HashSet<u64>,
    /// Whether a version was asked for that nothing here made or read.
    version_from_elsewhere: bool,
    absent: bool,
    refused: bool,
    /// When the last number of a counter was returned.
    last_number_us: Option<u64>,
}

impl<'a> Seen<'a> {
    fn by(operations: &[&'a Operation]) -> Self {
        let mut seen = Self::default();
        for operation in operations {
            seen.refused |= operation.outcome == Outcome::Refused;
            if operation.may_have_applied() {
                match &operation.call {
                    Call::Cas { expected: Some(value), .. } => drop(seen.values.insert(value)),
                    Call::Cas { expected: None, .. } | Call::CasVersion { expected: 0, .. } => seen.absent = true,
                    Call::CasVersion { expected, .. } => drop(seen.versions.insert(*expected)),
                    _ => {}
                }
            }
            let Outcome::Ok { reply, .. } = &operation.outcome else { continue };
            match reply {
                Reply::Value(Some(value)) => drop(seen.values.insert(value)),
                Reply::Value(None) => seen.absent = true,
                Reply::Number(_) => seen.last_number_us = seen.last_number_us.max(operation.end_us),
                Reply::Members(members) => seen.values.extend(members.iter().map(String::as_str)),
                Reply::Lists(lists) => {
                    let each = lists.iter().flat_map(|(list, all)| all.iter().map(|element| (list.as_str(), element.as_str())));
                    seen.elements.extend(each);
                }
                Reply::Done | Reply::Rows(_) => {}
            }
        }
        let named: HashSet<u64> = operations.iter().filter_map(|operation| operation.version()).collect();
        seen.version_from_elsewhere = !seen.versions.is_subset(&named);
        seen
    }
}
