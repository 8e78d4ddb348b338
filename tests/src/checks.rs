//! Judges of a history: pure functions from what the clients saw, and what the store has in the end, to a list of violations.
//!
//! Every acknowledged write carries the version that it got, and versions of one key are in the order of its log. So no search for an
//! order is needed: the order is given, and what is left to check is that it agrees with what was seen and with real time.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Operation, Outcome};

/// What a key has in the end: value and version. A key that is not in the map is absent.
pub type Finals = BTreeMap<String, (String, u64)>;

/// Operations of one key, in the order of their invocation.
fn by_key(operations: &[Operation]) -> BTreeMap<&str, Vec<&Operation>> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for of_key in keys.values_mut() {
        of_key.sort_by_key(|operation| operation.invoked_us);
    }
    keys
}

fn written(operation: &Operation) -> Option<&str> {
    match &operation.action {
        Action::Write { value } => Some(value),
        Action::Read => None,
    }
}

/// Registers: keys to which values are written that are unique for the key, and which are read.
///
/// - what is in the store, or was read, was written by somebody, and not by a write that failed;
/// - nothing acknowledged is lost: the final version is at least that of every acknowledged write;
/// - a version names one value, for ever;
/// - real time: whoever calls after another call has come back sees its version or a later one (linearizability, as versions are the
///   order).
pub fn registers(operations: &[Operation], finals: &Finals) -> Vec<String> {
    let mut violations = Vec::new();
    let keys = by_key(operations);
    for (key, of_key) in &keys {
        let seen = seen_values(key, of_key, finals.get(*key), &mut violations);
        check_sources(key, of_key, &seen, &mut violations);
        check_real_time(key, of_key, finals.get(*key), &mut violations);
    }
    violations.extend(invented_keys(&keys, finals));
    violations
}

fn invented_keys<'a>(keys: &'a BTreeMap<&str, Vec<&Operation>>, finals: &'a Finals) -> impl Iterator<Item = String> + 'a {
    finals.keys().filter(|key| !keys.contains_key(key.as_str())).map(|key| format!("{key}: in the store, but nobody wrote it"))
}

/// Version to value, from acknowledged writes, reads and the final state.
fn seen_values<'a>(
    key: &str,
    operations: &[&'a Operation],
    last: Option<&'a (String, u64)>,
    violations: &mut Vec<String>,
) -> BTreeMap<u64, &'a str> {
    let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
    let calls = operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Ok { version, value } => written(operation).or(value.as_deref()).map(|value| (*version, value)),
        _ => None,
    });
    for (version, value) in calls.chain(last.map(|(value, version)| (*version, value.as_str()))) {
        if let Some(other) = seen.insert(version, value)
            && other != value
        {
            violations.push(format!("{key}: version {version} was seen with the value {other} and with {value}"));
        }
    }
    seen
}

fn check_sources(key: &str, operations: &[&Operation], seen: &BTreeMap<u64, &str>, violations: &mut Vec<String>) {
    let mut acknowledged: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut possible = BTreeSet::new();
    for operation in operations {
        let Some(value) = written(operation) else { continue };
        match &operation.outcome {
            Outcome::Ok { version, .. } => {
                acknowledged.entry(value).or_default().insert(*version);
            }
            Outcome::Unknown { .. } => {
                possible.insert(value);
            }
            Outcome::Failed { .. } => {}
        }
    }
    for (version, value) in seen {
        match acknowledged.get(value) {
            Some(versions) if versions.contains(version) => {}
            Some(versions) => violations.push(format!(
                "{key}: the value {value} was acknowledged with version {versions:?} and seen with {version}: it was applied twice"
            )),
            None if possible.contains(value) => {}
            None => violations.push(format!(
                "{key}: the value {value} (version {version}) was seen, but no write of it was acknowledged or left open"
            )),
        }
    }
}

fn check_real_time(key: &str, operations: &[&Operation], last: Option<&(String, u64)>, violations: &mut Vec<String>) {
    // Operations by completion, walked along with those by invocation: `floor` is the newest version that had been returned to
    // somebody before the call began.
    let mut completed: Vec<(u64, u64)> = Vec::new();
    for operation in operations {
        if let Outcome::Ok { version, .. } = operation.outcome {
            completed.push((operation.completed_us, version));
        }
    }
    completed.sort_unstable();
    let (mut next, mut floor) = (0, 0);
    for operation in operations {
        while completed.get(next).is_some_and(|(at, _)| *at < operation.invoked_us) {
            floor = floor.max(completed[next].1);
            next += 1;
        }
        let Outcome::Ok { version, .. } = operation.outcome else { continue };
        let is_write = written(operation).is_some();
        if version < floor || (is_write && version == floor) {
            let what = if is_write { "written" } else { "read" };
            violations.push(format!(
                "{key}: client {} has {what} version {version} at {} us, but version {floor} had been returned before it called",
                operation.client, operation.invoked_us
            ));
        }
    }
    let newest = completed.iter().map(|(_, version)| *version).max().unwrap_or(0);
    let final_version = last.map_or(0, |(_, version)| *version);
    if final_version < newest {
        violations
            .push(format!("{key}: version {newest} was acknowledged, in the end the store has {final_version}: a write is lost"));
    }
}

/// Counters: each write adds one to what its writer read, under the condition that nobody has written meanwhile.
///
/// - exactly once: acknowledged <= final <= acknowledged + unknown;
/// - no two acknowledged writes made the same number (a lost update).
pub fn counters(operations: &[Operation], finals: &Finals) -> Vec<String> {
    let mut violations = Vec::new();
    let keys = by_key(operations);
    for (key, of_key) in &keys {
        let mut made: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut acknowledged, mut unknown) = (0_u64, 0_u64);
        for operation in of_key {
            let Some(value) = written(operation) else { continue };
            match operation.outcome {
                Outcome::Ok { .. } => {
                    acknowledged += 1;
                    *made.entry(value).or_default() += 1;
                }
                Outcome::Unknown { .. } => unknown += 1,
                Outcome::Failed { .. } => {}
            }
        }
        for (value, times) in made.iter().filter(|(_, times)| **times > 1) {
            violations.push(format!("{key}: {times} acknowledged increments made the number {value}: updates are lost"));
        }
        let last = finals.get(*key).map_or("0", |(value, _)| value.as_str());
        let Ok(count) = last.parse::<u64>() else {
            violations.push(format!("{key}: the final value `{last}` is not a number"));
            continue;
        };
        if count < acknowledged {
            violations
                .push(format!("{key}: {acknowledged} increments were acknowledged, the counter has {count}: some are lost"));
        }
        if count > acknowledged + unknown {
            violations.push(format!(
                "{key}: the counter has {count}, but only {acknowledged} increments were acknowledged and {unknown} left open: some were \
                 applied twice"
            ));
        }
    }
    violations.extend(invented_keys(&keys, finals));
    violations
}

/// Counters with one writer, which knows the version of its last write: no condition may fail. If one does, a call of the writer itself
/// has changed the key a second time.
pub fn unfailed(operations: &[Operation]) -> Vec<String> {
    let failed = operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Failed { kind, why } if kind == "condition_failed" => Some((operation, why)),
        _ => None,
    });
    failed
        .map(|(operation, why)| {
            let Operation { key, client, .. } = operation;
            format!("{key}: only client {client} writes it, but its condition failed ({why}): a retry was applied twice")
        })
        .collect()
}

/// Claims: keys that are each written by one call only, under the condition that they are absent; the client repeats the call
/// until it has an answer. A condition that fails can only have been failed by the call itself, applied twice.
///
/// - every acknowledged key is there, with its value and version; no key that failed is there; none is invented.
pub fn claims(operations: &[Operation], finals: &Finals) -> Vec<String> {
    let mut violations = Vec::new();
    let keys = by_key(operations);
    for (key, of_key) in &keys {
        let [claim] = of_key.as_slice() else {
            violations.push(format!("{key}: claimed by {} calls; a claim is made once (the test is wrong)", of_key.len()));
            continue;
        };
        let value = written(claim).unwrap_or_default();
        match (&claim.outcome, finals.get(*key)) {
            (Outcome::Ok { version, .. }, Some((found, at))) if found == value && at == version => {}
            (Outcome::Ok { version, .. }, found) => violations
                .push(format!("{key}: acknowledged as {value} at version {version}, in the end the store has {found:?}")),
            (Outcome::Failed { kind, why }, _) if kind == "condition_failed" => {
                violations
                    .push(format!("{key}: nobody else writes it, but its condition failed ({why}): a retry was applied twice"));
            }
            (Outcome::Failed { why, .. }, Some(found)) => {
                violations.push(format!("{key}: certainly not applied ({why}), but the store has {found:?}"));
            }
            (Outcome::Unknown { .. }, Some((found, _))) if found != value => {
                violations.push(format!("{key}: only {value} was ever written, but the store has {found}"));
            }
            _ => {}
        }
    }
    violations.extend(invented_keys(&keys, finals));
    violations
}

/// Rows read in order, as (key, version): keys rise strictly, no version is above the snapshot.
pub fn ordered(keys: &[(String, u64)], at: u64) -> Vec<String> {
    let unsorted = keys.windows(2).filter(|pair| pair[0].0 >= pair[1].0);
    let mut violations: Vec<_> = unsorted.map(|pair| format!("`{}` comes before `{}`", pair[0].0, pair[1].0)).collect();
    let late = keys.iter().filter(|(_, version)| *version > at);
    violations.extend(late.map(|(key, version)| format!("`{key}` has version {version}, above the snapshot {at}")));
    violations
}

#[cfg(test)]
mod tests;
