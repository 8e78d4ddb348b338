//! What a session's token promises, on whatever replica it is read (Terry et al., "Session guarantees for weakly consistent replicated
//! data", 1994): read your writes, monotonic reads, monotonic writes. And what every read promises, however stale: that somebody
//! wrote what it returns.
//!
//! The order is that of Kontiki's versions: they rise along the order of a key, and of all keys of one partition.
//!
//! **Invariant:** a read without a version is not silently good: [`Report::checked`] says how many answers were judged.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Operation, Outcome, Reply};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many answers were judged: values and absences that were read, versions that were written.
    pub checked: u64,
    /// What is wrong.
    pub violations: Vec<String>,
}

/// The newest versions that a session knows of one key.
#[derive(Clone, Copy, Default)]
struct Floor {
    read: u64,
    written: u64,
}

/// Judges all sessions of a history, and the sources of all stale reads.
pub fn check(operations: &[Operation]) -> Report {
    let mut report = Report::default();
    let writes = Writes::gather(operations);
    let mut sessions: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        if let Some(session) = operation.session {
            sessions.entry(session).or_default().push(operation);
        }
        if operation.stale && operation.is_ok() {
            writes.check_source(operation, &mut report);
        }
    }
    for (session, calls) in &mut sessions {
        check_session(*session, calls, &writes, &mut report);
    }
    report
}

fn check_session(session: u64, calls: &mut [&Operation], writes: &Writes<'_>, report: &mut Report) {
    calls.sort_by_key(|operation| operation.start_us);
    let mut ended: Vec<&Operation> = calls.iter().copied().filter(|operation| operation.is_ok()).collect();
    ended.sort_by_key(|operation| operation.end_us);
    let mut ended = ended.into_iter().peekable();
    let mut floors: BTreeMap<&str, Floor> = BTreeMap::new();
    let mut groups: HashMap<u64, u64> = HashMap::new();
    for operation in calls.iter().filter(|operation| operation.is_ok()) {
        // Only calls that were over before this one began are before it in the session.
        while let Some(before) = ended.next_if(|before| before.end_us < Some(operation.start_us)) {
            remember(before, &mut floors, &mut groups);
        }
        for (key, version) in reads(operation, &floors) {
            let floor = floors.get(key).copied().unwrap_or_default();
            report.checked += 1;
            let absent_is_wrong = |floor: u64| version.is_none() && !writes.deleted_since(key, floor, operation);
            for (known, name) in [(floor.written, "read your writes"), (floor.read, "monotonic reads")] {
                if known > 0 && (version.is_some_and(|version| version < known) || absent_is_wrong(known)) {
                    let found = version.map_or("it absent".to_owned(), |version| format!("version {version}"));
                    report.violations.push(format!(
                        "{name}: session {session} knows version {known} of `{key}`, and then `{operation}` finds {found}"
                    ));
                }
            }
        }
        if let (Some(version), true) = (operation.version(), operation.written().is_some()) {
            report.checked += 1;
            let of_key = floors.get(operation.key.as_str()).map_or(0, |floor| floor.written);
            let of_group = operation.group.and_then(|group| groups.get(&group)).copied().unwrap_or(0);
            let floor = of_key.max(of_group);
            if version <= floor {
                report.violations.push(format!(
                    "monotonic writes: session {session} has written version {floor}, and then `{operation}` gets version {version}"
                ));
            }
        }
    }
}

fn remember<'a>(operation: &'a Operation, floors: &mut BTreeMap<&'a str, Floor>, groups: &mut HashMap<u64, u64>) {
    if let (Some(version), true) = (operation.version(), operation.written().is_some()) {
        let floor = floors.entry(&operation.key).or_default();
        floor.written = floor.written.max(version);
        if let Some(group) = operation.group {
            let floor = groups.entry(group).or_default();
            *floor = (*floor).max(version);
        }
    }
    for (key, version) in answers(operation) {
        if let Some(version) = version {
            let floor = floors.entry(key).or_default();
            floor.read = floor.read.max(version);
        }
    }
}

/// Keys and versions that an answer names. A value whose version is not known is left out.
fn answers(operation: &Operation) -> Vec<(&str, Option<u64>)> {
    match &operation.outcome {
        Outcome::Ok { reply: Reply::Value(None), .. } => vec![(operation.key.as_str(), None)],
        Outcome::Ok { reply: Reply::Value(Some(_)), version: Some(version) } => vec![(operation.key.as_str(), Some(*version))],
        Outcome::Ok { reply: Reply::Rows(rows), .. } => {
            rows.iter().map(|(key, (_, version))| (key.as_str(), Some(*version))).collect()
        }
        _ => Vec::new(),
    }
}

/// As [`answers`], and what a snapshot shows as absent by not having it, of the keys that the session knows.
fn reads<'a>(operation: &'a Operation, floors: &BTreeMap<&'a str, Floor>) -> Vec<(&'a str, Option<u64>)> {
    let mut reads = answers(operation);
    if let Outcome::Ok { reply: Reply::Rows(rows), .. } = &operation.outcome {
        let known = floors.keys().filter(|key| key.starts_with(&operation.key) && !rows.contains_key(**key));
        reads.extend(known.map(|key| (*key, None)));
    }
    reads
}

/// All writes of registers that may have applied, by key and what they wrote (nothing: deletes).
struct Writes<'a> {
    of: HashMap<(&'a str, Option<&'a str>), Vec<&'a Operation>>,
}

impl<'a> Writes<'a> {
    fn gather(operations: &'a [Operation]) -> Self {
        let mut of: HashMap<(&str, Option<&str>), Vec<&Operation>> = HashMap::new();
        for operation in operations.iter().filter(|operation| operation.may_have_applied()) {
            if let Some(value) = operation.written() {
                of.entry((&operation.key, value)).or_default().push(operation);
            }
        }
        Self { of }
    }

    /// Those that were called before `read` ended.
    fn before<'b>(&'b self, key: &'b str, value: Option<&'b str>, read: &Operation) -> impl Iterator<Item = &'b &'a Operation> {
        let end_us = read.end_us;
        let writes = self.of.get(&(key, value)).into_iter().flatten();
        writes.filter(move |write| end_us.is_none_or(|end| write.start_us <= end))
    }

    /// Whether a delete at or after version `floor` can explain that `read` finds nothing.
    fn deleted_since(&self, key: &str, floor: u64, read: &Operation) -> bool {
        self.before(key, None, read).any(|delete| delete.version().is_none_or(|version| version >= floor))
    }

    fn check_source(&self, read: &Operation, report: &mut Report) {
        let Outcome::Ok { reply: Reply::Value(Some(value)), version } = &read.outcome else { return };
        report.checked += 1;
        let fits = |write: &&Operation| version.is_none() || write.version().is_none() || write.version() == *version;
        if !self.before(&read.key, Some(value), read).any(fits) {
            report.violations.push(format!("read from nowhere: `{read}`, but no write that may have applied wrote that before"));
        }
    }
}
