//! A register: get, put, delete, compare-and-set by value and by version. It begins absent.
//!
//! Kontiki's versions are evidence beside the values: the versions of a key rise along its order, and a version names one value. Where
//! they are missing, the values alone are judged.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Conflict, Entry, Model, Object, Placed, entry, matters};
use crate::history::{Call, Operation, Outcome, Reply};

/// A record with at most so many calls keeps all values apart, so that what is told of it names them.
const NAMED_MAX: usize = 12;

/// A value, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// There is none.
    Absent,
    /// One of those that somebody has seen or asked for.
    Seen(u32),
    /// Any of those that nobody ever saw or asked for: they are all alike.
    Unseen,
}

/// A call of a register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegisterCall {
    /// It was read.
    Get {
        /// What was read.
        value: Value,
        /// Its version.
        version: Option<u64>,
    },
    /// It was set, or deleted.
    Set {
        /// Under which condition.
        condition: Condition,
        /// To what.
        value: Value,
        /// Which version that got.
        version: Option<u64>,
    },
    /// A condition did not hold.
    Refused {
        /// The condition.
        condition: Condition,
    },
}

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing.
    None,
    /// A value.
    Value(Value),
    /// A version; 0: absent.
    Version(u64),
}

/// What a register has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegisterState {
    value: Value,
    /// The version of the value if `exact`, else a version that is below it.
    version: u64,
    exact: bool,
}

/// What pending calls need of a register.
#[derive(Debug, Default)]
pub struct RegisterNeeds {
    /// Any other value than there is.
    change: bool,
    values: HashSet<Value>,
    versions: HashSet<u64>,
}

impl RegisterNeeds {
    fn condition(&mut self, condition: Condition) -> bool {
        match condition {
            Condition::None => false,
            Condition::Value(value) => self.values.insert(value),
            Condition::Version(0) => self.values.insert(Value::Absent),
            Condition::Version(version) => self.versions.insert(version),
        }
    }

    /// Whether a call needs this value at this version, or at one that is not known.
    fn include(&self, value: Value, version: Option<u64>) -> bool {
        let at_version = version.map_or(!self.versions.is_empty(), |version| self.versions.contains(&version));
        self.change || self.values.contains(&value) || (value != Value::Absent && at_version)
    }
}

/// The specification of one register.
#[derive(Debug)]
pub struct Register {
    key: String,
    names: Vec<String>,
}

impl Register {
    /// Reads the operations of one register.
    ///
    /// # Errors
    /// If a version was seen with two values.
    pub fn read(key: &str, operations: &[Placed<'_>]) -> Result<Object<Self>, Conflict> {
        let facts = Facts::gather(key, operations)?;
        let entries = operations.iter().filter(|(_, operation)| matters(operation));
        let entries: Vec<Entry<RegisterCall>> =
            entries.filter_map(|placed| facts.call(placed.1).map(|call| entry(*placed, call))).collect();
        let mut names = vec![String::new(); facts.numbers.len()];
        for (name, number) in &facts.numbers {
            names[*number as usize] = (*name).to_owned();
        }
        Ok(Object { model: Self { key: key.to_owned(), names }, entries })
    }
}

/// What is known of a register without a search.
struct Facts<'a> {
    /// A number for each value that somebody saw or asked for; in a short record for all.
    numbers: HashMap<&'a str, u32>,
    /// The version of each value that was written by one operation only, and seen with one version only.
    versions: HashMap<&'a str, u64>,
}

impl<'a> Facts<'a> {
    fn gather(key: &str, operations: &[Placed<'a>]) -> Result<Self, Conflict> {
        let mut numbers = HashMap::new();
        let mut by_version: BTreeMap<u64, (Option<&str>, usize)> = BTreeMap::new();
        let mut writers: HashMap<&str, u32> = HashMap::new();
        let name_all = operations.len() <= NAMED_MAX;
        for (place, operation) in operations {
            for value in asked(operation).into_iter().chain(operation.written().flatten().filter(|_| name_all)) {
                let number = numbers.len() as u32;
                numbers.entry(value).or_insert(number);
            }
            if operation.may_have_applied()
                && let Some(Some(value)) = operation.written()
            {
                *writers.entry(value).or_default() += 1;
            }
            let Some((version, value)) = named(operation) else { continue };
            let (other, first) = *by_version.entry(version).or_insert((value, *place));
            if other != value {
                let name = |value: Option<&str>| value.map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"));
                let why = format!("version {version} of `{key}` was seen as {} and as {}", name(other), name(value));
                return Err(Conflict::Contradiction { operations: vec![first, *place], why });
            }
        }
        let mut versions = HashMap::new();
        let mut ambiguous = HashSet::new();
        for (version, value) in by_version.iter().filter_map(|(version, (value, _))| value.map(|value| (*version, value))) {
            if writers.get(value) != Some(&1) || versions.insert(value, version).is_some() {
                ambiguous.insert(value);
            }
        }
        versions.retain(|value, _| !ambiguous.contains(value));
        Ok(Self { numbers, versions })
    }

    fn value(&self, value: Option<&str>) -> Value {
        match value {
            None => Value::Absent,
            Some(value) => self.numbers.get(value).map_or(Value::Unseen, |number| Value::Seen(*number)),
        }
    }

    fn call(&self, operation: &Operation) -> Option<RegisterCall> {
        let condition = match &operation.call {
            Call::Cas { expected, .. } => Condition::Value(self.value(expected.as_deref())),
            Call::CasVersion { expected, .. } => Condition::Version(*expected),
            _ => Condition::None,
        };
        if operation.outcome == Outcome::Refused {
            return Some(RegisterCall::Refused { condition });
        }
        if let Outcome::Ok { reply: Reply::Value(value), version } = &operation.outcome {
            return Some(RegisterCall::Get { value: self.value(value.as_deref()), version: *version });
        }
        let written = operation.written()?;
        // A write whose answer was lost got the version that its value was seen with, if nobody else wrote that value.
        let version = operation.version().or_else(|| written.and_then(|value| self.versions.get(value).copied()));
        Some(RegisterCall::Set { condition, value: self.value(written), version })
    }
}

/// The value that an operation saw, or asked for.
fn asked(operation: &Operation) -> Option<&str> {
    match (&operation.call, &operation.outcome) {
        (_, Outcome::Ok { reply: Reply::Value(value), .. }) => value.as_deref(),
        (Call::Cas { expected, .. }, Outcome::Ok { .. } | Outcome::Refused | Outcome::Unknown { .. }) => expected.as_deref(),
        _ => None,
    }
}

/// The version that an operation names, and its value. What is absent when it is read has no version.
fn named(operation: &Operation) -> Option<(u64, Option<&str>)> {
    let version = operation.version()?;
    match &operation.outcome {
        Outcome::Ok { reply: Reply::Value(Some(value)), .. } => Some((version, Some(value))),
        Outcome::Ok { reply: Reply::Value(None), .. } => None,
        _ => operation.written().map(|value| (version, value)),
    }
}

impl RegisterState {
    /// What is known of the state if the value that it has is at `version`; nothing if it cannot be.
    fn at(&self, version: u64) -> Option<Self> {
        let fits = if self.exact { self.version == version } else { version > self.version };
        fits.then_some(Self { version, exact: true, ..*self })
    }

    /// What is known of the state if `condition` holds in it; nothing if it does not.
    fn under(&self, condition: Condition) -> Option<Self> {
        match condition {
            Condition::None => Some(self.clone()),
            Condition::Value(value) => (self.value == value && value != Value::Unseen).then(|| self.clone()),
            Condition::Version(0) => (self.value == Value::Absent).then(|| self.clone()),
            Condition::Version(version) => (self.value != Value::Absent).then(|| self.at(version)).flatten(),
        }
    }
}

impl Model for Register {
    type Call = RegisterCall;
    type State = RegisterState;
    type Needs = RegisterNeeds;

    fn initial(&self) -> RegisterState {
        RegisterState { value: Value::Absent, version: 0, exact: true }
    }

    fn step(&self, state: &RegisterState, call: &RegisterCall) -> Option<RegisterState> {
        match call {
            RegisterCall::Get { value, version } => {
                let same = state.value == *value;
                match version {
                    Some(version) if same && *value != Value::Absent => state.at(*version),
                    _ => same.then(|| state.clone()),
                }
            }
            RegisterCall::Set { condition, value, version } => {
                let before = state.under(*condition)?;
                match version {
                    Some(version) => {
                        (*version > before.version).then_some(RegisterState { value: *value, version: *version, exact: true })
                    }
                    None => Some(RegisterState { value: *value, version: before.version, exact: false }),
                }
            }
            // A version that is not known exactly may be another one than that which was asked for.
            RegisterCall::Refused { condition: Condition::Version(version) } if *version > 0 && !state.exact => {
                Some(state.clone())
            }
            RegisterCall::Refused { condition } => state.under(*condition).is_none().then(|| state.clone()),
        }
    }

    fn observes(&self, call: &RegisterCall) -> bool {
        !matches!(call, RegisterCall::Set { .. })
    }

    fn needs(&self, _: &RegisterState, waiting: &[&RegisterCall], open: &[&RegisterCall]) -> RegisterNeeds {
        let mut needs = RegisterNeeds::default();
        for call in waiting {
            match call {
                RegisterCall::Get { value, .. } => drop(needs.values.insert(*value)),
                RegisterCall::Set { condition, .. } => drop(needs.condition(*condition)),
                // What would be refused as it is does not wait any more.
                RegisterCall::Refused { .. } => needs.change = true,
            }
        }
        // An open compare-and-set that makes what is needed needs something itself.
        let mut grown = true;
        while std::mem::take(&mut grown) {
            for call in open {
                if let RegisterCall::Set { condition, value, version } = call
                    && needs.include(*value, *version)
                {
                    grown |= needs.condition(*condition);
                }
            }
        }
        needs
    }

    /// An open write whose value none of the pending calls needs can only be followed by one that does not look at it, which sets
    /// the register anew. So it can be left out. (A write that returns has to be placed somewhere, and that may be its only place.)
    fn useful(&self, _: &RegisterState, call: &RegisterCall, open: bool, needs: &RegisterNeeds) -> bool {
        match call {
            RegisterCall::Set { value, version, .. } if open => needs.include(*value, *version),
            _ => true,
        }
    }

    fn describe(&self, state: &RegisterState) -> String {
        let Self { key, names } = self;
        let value = match state.value {
            Value::Absent => return format!("`{key}` was absent"),
            Value::Unseen => "a value that nobody has read".to_owned(),
            Value::Seen(number) => format!("`{}`", names[number as usize]),
        };
        let version = if state.exact && state.version > 0 { format!(" (version {})", state.version) } else { String::new() };
        format!("`{key}` was {value}{version}")
    }
}
