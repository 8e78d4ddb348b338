//! Whether a snapshot over many registers shows one cut: for each key the newest version at or below that of the snapshot, whichever
//! partition it lies in.
//!
//! ```text
//!   key a   @3 ──── @7 ─────────── @12
//!   key b      @5 ───────── @9
//!                        │ snapshot @8: a@7 b@5. With b@9, or with a@3, it would mix versions.
//! ```
//!
//! By versions this needs no search. It is weaker than strict serializability: versions of different partitions come from different
//! clocks, so a cut by version may contain a write of one partition and lack one of another that was acknowledged before the first
//! was called, if both fell into the time of the snapshot. [`crate::linear`] with lists judges that.
//!
//! **Invariant:** what is known of the versions comes from acknowledgements and reads only; an open write is never assumed to have had a
//! version, only believed where somebody saw it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::history::{Operation, Outcome, Reply};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many snapshots were judged.
    pub snapshots: u64,
    /// How many rows they had.
    pub rows: u64,
    /// What is wrong.
    pub violations: Vec<String>,
}

/// What is known of one key.
#[derive(Default)]
struct Known<'a> {
    /// Version to value; nothing for a delete.
    versions: BTreeMap<u64, Option<&'a str>>,
    /// Writes that may have applied, by what they wrote.
    writes: HashMap<Option<&'a str>, Vec<&'a Operation>>,
    /// Acknowledged writes by their end, each with the newest of all that ended until then.
    ended: Vec<(u64, &'a Operation)>,
    /// Acknowledged writes by their start, each with the oldest of all that started since then.
    started: Vec<(u64, &'a Operation)>,
}

/// Judges all snapshots of a history.
pub fn check(operations: &[Operation]) -> Report {
    let mut report = Report::default();
    let mut keys: BTreeMap<&str, Known<'_>> = BTreeMap::new();
    for operation in operations {
        learn(operation, &mut keys, &mut report.violations);
    }
    keys.values_mut().for_each(Known::sort);
    for operation in operations {
        let Outcome::Ok { reply: Reply::Rows(rows), version } = &operation.outcome else { continue };
        let Some(at) = *version else {
            report.violations.push(format!("`{operation}` has no version: nothing says of what it is a snapshot"));
            continue;
        };
        report.snapshots += 1;
        report.rows += rows.len() as u64;
        let of_prefix = keys.range::<str, _>((Bound::Included(operation.key.as_str()), Bound::Unbounded));
        for (key, known) in of_prefix.take_while(|(key, _)| key.starts_with(&operation.key)) {
            let row = rows.get(*key).map(|(value, version)| (value.as_str(), *version));
            if let Err(why) = known.check_row(row, at, operation).and_then(|()| known.check_time(at, operation)) {
                report.violations.push(format!("`{key}` in `{operation}` (process {}): {why}", operation.process));
            }
        }
        let foreign = rows.keys().filter(|key| !key.starts_with(&operation.key));
        report.violations.extend(foreign.map(|key| format!("`{key}` in `{operation}`: it does not belong there")));
    }
    report
}

fn learn<'a>(operation: &'a Operation, keys: &mut BTreeMap<&'a str, Known<'a>>, violations: &mut Vec<String>) {
    let mut name = |key: &'a str, version: u64, value: Option<&'a str>| {
        let known = keys.entry(key).or_default();
        let other = *known.versions.entry(version).or_insert(value);
        if other != value {
            violations.push(format!("version {version} of `{key}` was seen as {} and as {}", text(other), text(value)));
        }
    };
    match &operation.outcome {
        Outcome::Ok { reply: Reply::Value(Some(value)), version: Some(version) } => name(&operation.key, *version, Some(value)),
        Outcome::Ok { reply: Reply::Rows(rows), .. } => {
            rows.iter().for_each(|(key, (value, version))| name(key, *version, Some(value)));
        }
        Outcome::Ok { reply: Reply::Done, version: Some(version) } => {
            if let Some(value) = operation.written() {
                name(&operation.key, *version, value);
            }
        }
        _ => {}
    }
    if let (Some(value), true) = (operation.written(), operation.may_have_applied()) {
        let known = keys.entry(&operation.key).or_default();
        known.writes.entry(value).or_default().push(operation);
        if operation.version().is_some() {
            known.started.push((operation.start_us, operation));
            known.ended.extend(operation.end_us.map(|end| (end, operation)));
        }
    }
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"))
}

impl Known<'_> {
    /// Sorts the acknowledged writes, and puts beside each moment the one write that matters there.
    fn sort(&mut self) {
        self.ended.sort_by_key(|(end, _)| *end);
        for at in 1..self.ended.len() {
            if self.ended[at - 1].1.version() > self.ended[at].1.version() {
                self.ended[at].1 = self.ended[at - 1].1;
            }
        }
        self.started.sort_by_key(|(start, _)| *start);
        for at in (1..self.started.len()).rev() {
            if self.started[at].1.version() < self.started[at - 1].1.version() {
                self.started[at - 1].1 = self.started[at].1;
            }
        }
    }

    /// Whether a write of `value` that was called before `snapshot` ended fits.
    fn written(&self, value: Option<&str>, snapshot: &Operation, fits: impl Fn(&Operation) -> bool) -> bool {
        let before = |write: &Operation| snapshot.end_us.is_none_or(|end| write.start_us <= end);
        self.writes.get(&value).into_iter().flatten().any(|write| before(write) && fits(write))
    }

    /// What a snapshot shows of this key must be the newest that is known at its version.
    fn check_row(&self, row: Option<(&str, u64)>, at: u64, snapshot: &Operation) -> Result<(), String> {
        let newest = self.versions.range(..=at).next_back().map(|(version, value)| (*version, *value));
        match (row, newest) {
            (Some((_, version)), _) if version > at => Err(format!("version {version} is above that of the snapshot")),
            (Some((_, version)), Some((newest, value))) if newest > version => {
                Err(format!("it shows version {version}, but at {at} the key is {} (version {newest})", text(value)))
            }
            (Some((value, version)), _) => {
                let fits = |write: &Operation| write.version().is_none_or(|acknowledged| acknowledged == version);
                let written = self.written(Some(value), snapshot, fits);
                if written { Ok(()) } else { Err("no write that may have applied wrote that before".to_owned()) }
            }
            (None, Some((version, Some(value)))) => {
                let deleted = self.written(None, snapshot, |delete| delete.version().is_none());
                if deleted { Ok(()) } else { Err(format!("it is missing, but at {at} the key is `{value}` (version {version})")) }
            }
            (None, _) => Ok(()),
        }
    }

    /// What was acknowledged before the snapshot was called is at or below its version (unless it may be stale); what is called
    /// after it has returned is above.
    fn check_time(&self, at: u64, snapshot: &Operation) -> Result<(), String> {
        let before = self.ended.partition_point(|(end, _)| *end < snapshot.start_us);
        if let Some((_, write)) = before.checked_sub(1).map(|last| self.ended[last])
            && !snapshot.stale
            && write.version() > Some(at)
        {
            return Err(format!("`{write}` was acknowledged before it was called: the snapshot is stale"));
        }
        let after = self.started.partition_point(|(start, _)| snapshot.end_us.is_none_or(|end| *start <= end));
        if let Some((_, write)) = self.started.get(after)
            && write.version() <= Some(at)
        {
            return Err(format!("`{write}` was called after it had returned, and changes what it showed"));
        }
        Ok(())
    }
}
