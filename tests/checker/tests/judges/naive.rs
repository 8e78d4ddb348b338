//! A reference that shares nothing with the checker but the record: it holds whole values, and tries every order of the calls. And wrong
//! judges made of it, each with an error that checkers have had.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_checker::history::{Call, Operation, Outcome, Reply};

/// What an object is, whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) value: Option<String>,
    /// The version of the value, or one that is below it.
    version: u64,
    exact: bool,
    pub(crate) number: u64,
    pub(crate) members: BTreeSet<String>,
    pub(crate) lists: BTreeMap<String, Vec<String>>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self { exact: true, ..Self::default() }
    }

    /// Whether the value that is there can have `version`; if so, it has it from now on.
    fn bind(&mut self, version: u64) -> bool {
        let fits = if self.exact { self.version == version } else { version > self.version };
        if fits {
            (self.version, self.exact) = (version, true);
        }
        fits
    }

    fn set(&mut self, value: Option<&String>, version: Option<u64>) -> bool {
        self.value = value.cloned();
        self.exact = version.is_some();
        let rises = version.is_none_or(|version| version > self.version);
        self.version = version.unwrap_or(self.version);
        rises
    }

    fn condition(&mut self, call: &Call) -> bool {
        match call {
            Call::Cas { expected, .. } => self.value == *expected,
            Call::CasVersion { expected: 0, .. } => self.value.is_none(),
            Call::CasVersion { expected, .. } => self.value.is_some() && self.bind(*expected),
            _ => true,
        }
    }

    /// Takes a call, as it was answered. False: it cannot have been answered so.
    pub(crate) fn take(&mut self, operation: &Operation) -> bool {
        let reply = match &operation.outcome {
            Outcome::Ok { reply, .. } => reply,
            _ => &Reply::Done,
        };
        if operation.outcome == Outcome::Refused {
            let unsure = matches!(operation.call, Call::CasVersion { expected, .. } if expected > 0) && !self.exact;
            return unsure || !self.condition(&operation.call);
        }
        match (&operation.call, reply) {
            (Call::Get, Reply::Value(value)) => {
                let version = operation.version().filter(|_| value.is_some());
                self.value == *value && version.is_none_or(|version| self.bind(version))
            }
            (Call::Put { value }, _) => self.set(Some(value), operation.version()),
            (Call::Delete, _) => self.set(None, operation.version()),
            (Call::Cas { value, .. } | Call::CasVersion { value, .. }, _) => {
                self.condition(&operation.call) && self.set(Some(value), operation.version())
            }
            (Call::Increment, reply) => {
                self.number += 1;
                *reply == Reply::Done || *reply == Reply::Number(self.number)
            }
            (Call::Count, Reply::Number(number)) => self.number == *number,
            (Call::Add { element }, _) => self.members.insert(element.clone()),
            (Call::Members, Reply::Members(members)) => self.members.iter().eq(members),
            (Call::Append { list, element }, _) => {
                self.lists.entry(list.clone()).or_default().push(element.clone());
                true
            }
            (Call::Lists, Reply::Lists(lists)) => self.lists == *lists,
            _ => false,
        }
    }
}

/// How a judge thinks; all but the first are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Judge {
    Right,
    /// Calls without an answer did not happen.
    ForgetsOpenCalls,
    /// Calls without an answer did happen.
    TrustsOpenCalls,
    /// Calls without an answer happened before they were given up, if at all.
    EndsOpenCalls,
    /// What failed may have happened.
    DoubtsFailures,
    /// The order of each process is kept, not that of time.
    ProcessOrderOnly,
    /// Versions say nothing.
    IgnoresVersions,
    /// A refused condition says nothing.
    IgnoresRefusals,
}

pub(crate) const WRONG: [Judge; 7] = [
    Judge::ForgetsOpenCalls,
    Judge::TrustsOpenCalls,
    Judge::EndsOpenCalls,
    Judge::DoubtsFailures,
    Judge::ProcessOrderOnly,
    Judge::IgnoresVersions,
    Judge::IgnoresRefusals,
];

impl Judge {
    pub(crate) fn name(self) -> String {
        let words = format!("{self:?}");
        words.chars().enumerate().fold(String::new(), |name, (at, c)| {
            let dash = if at > 0 && c.is_uppercase() { "-" } else { "" };
            name + dash + &c.to_lowercase().to_string()
        })
    }

    /// Whether a history is linearizable in the eyes of this judge. Only for short ones: it tries every order.
    pub(crate) fn accepts(self, history: &[Operation]) -> bool {
        let keys: BTreeSet<&String> = history.iter().map(|operation| &operation.key).collect();
        keys.into_iter().all(|key| {
            let of_key = history.iter().filter(|operation| operation.key == *key && !operation.stale);
            self.accepts_object(of_key.cloned().filter_map(|operation| self.sees(operation)).collect())
        })
    }

    /// The operation as this judge sees it.
    fn sees(self, mut operation: Operation) -> Option<Operation> {
        if self == Self::IgnoresVersions
            && let Outcome::Ok { version, .. } = &mut operation.outcome
        {
            *version = None;
        }
        match operation.outcome {
            Outcome::Ok { .. } => Some(operation),
            Outcome::Refused => (self != Self::IgnoresRefusals).then_some(operation),
            Outcome::Failed { error } => (self == Self::DoubtsFailures && operation.call.changes())
                .then_some(Operation { outcome: Outcome::Unknown { error }, ..operation }),
            Outcome::Unknown { .. } => (operation.call.changes() && self != Self::ForgetsOpenCalls).then_some(operation),
        }
    }

    fn accepts_object(self, history: Vec<Operation>) -> bool {
        let mut placed = vec![false; history.len()];
        self.place(&history, &mut placed, &State::new())
    }

    fn optional(self, operation: &Operation) -> bool {
        matches!(operation.outcome, Outcome::Unknown { .. }) && self != Self::TrustsOpenCalls
    }

    fn before(self, one: &Operation, other: &Operation) -> bool {
        if self == Self::ProcessOrderOnly && one.process != other.process {
            return false;
        }
        let ends = self == Self::EndsOpenCalls || !matches!(one.outcome, Outcome::Unknown { .. });
        ends && one.end_us.is_some_and(|end| end < other.start_us)
    }

    fn place(self, history: &[Operation], placed: &mut [bool], state: &State) -> bool {
        let left = |placed: &[bool]| (0..history.len()).filter(|at| !placed[*at]).collect::<Vec<_>>();
        let open = left(placed);
        if open.iter().all(|at| self.optional(&history[*at])) {
            return true;
        }
        for at in &open {
            if open.iter().any(|other| self.before(&history[*other], &history[*at])) {
                continue;
            }
            let mut next = state.clone();
            if next.take(&history[*at]) {
                placed[*at] = true;
                let found = self.place(history, placed, &next);
                placed[*at] = false;
                if found {
                    return true;
                }
            }
        }
        false
    }
}
