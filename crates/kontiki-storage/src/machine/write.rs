//! One write: routing, session, conditions, operations, in this order.
//!
//! ```text
//!   StaleEpoch ◄─ routed by another shape?      not remembered: the router goes elsewhere with the same request
//!   Invalid, TooLarge ◄─ shape                  not remembered: the bytes of the request alone decide, always alike
//!   Expired, Conflict ◄─ session                not remembered: nothing to remember it by
//!   the first reply again ◄─ seen before?
//!   ConditionFailed ◄─ conditions ─┐
//!   WriteReply ◄─ operations ──────┴─ remembered, if the write has a request id
//! ```
//!
//! **Versions:** an accepted write gets a version of its own, also if it changed nothing (its reply then names a moment at which its
//! conditions held); all its operations share it. A rejected or repeated write gets none and leaves the clock alone.
//!
//! **Law 10:** a put reads nothing. Only conditions, deletes and range deletes look at the engine.
//!
//! Sizes are checked at the edge and not here: they may be raised one day, and replicas of two programs must not differ in what
//! they accept. What is checked here is what the format itself demands.

use std::borrow::Cow;
use std::iter::Peekable;

use bytes::Bytes;
use kontiki_types::key::{self, NAMESPACE_PREFIX_BYTES};
use kontiki_types::limits::{DELETE_RANGE_KEYS_MAX, DELETE_RANGES_MAX};
use kontiki_types::{Condition, Fault, KeyRange, NamespaceId, Op, OpResult, Reject, Version, Write, WriteReply};

use super::apply::Step;
use super::overlay::Pending;
use crate::mvcc::{self, Forward};
use crate::schema::Key;
use crate::sessions::{Admission, Outcome, fingerprint};

/// A key's newest version and value, borrowed from the entry that wrote it if that is not in the engine yet.
type Newest<'e> = (Version, Cow<'e, [u8]>);

impl<'e> Step<'_, 'e> {
    /// Runs one write. Total: every write has an outcome.
    pub(super) fn write(&mut self, stamp_ms: u64, write: &Write<&'e [u8]>) -> Result<Outcome, Fault> {
        if write.epoch.bounds != self.state.descriptor.epoch.bounds || !self.holds(write) {
            return Ok(Err(self.stale_epoch()));
        }
        if let Err(reject) = check_shape(write) {
            return Ok(Err(reject));
        }
        let Some(request) = &write.request else { return self.execute(stamp_ms, write) };
        let fingerprint = fingerprint(write);
        match self.state.sessions.admit(request, fingerprint) {
            Admission::Known(outcome) => return Ok(outcome),
            Admission::Refused(reject) => return Ok(Err(reject)),
            Admission::New => {}
        }
        let outcome = self.execute(stamp_ms, write)?;
        // Only what the state decided is remembered. Other refusals are texts, which may differ between programs.
        if !matches!(outcome, Ok(_) | Err(Reject::ConditionFailed { .. })) {
            return Ok(outcome);
        }
        let (clock, kind) = (self.state.clock, self.state.descriptor.clock);
        self.state.sessions.remember(request, fingerprint, outcome.clone(), clock, kind);
        Ok(outcome)
    }

    /// Whether every key of a write lies in this partition.
    fn holds(&self, write: &Write<&[u8]>) -> bool {
        let own = &self.state.descriptor.range;
        write.conditions.iter().all(|condition| own.contains(condition.key()))
            && write.ops.iter().all(|op| match op {
                Op::Put { key, .. } | Op::Delete { key } => own.contains(key),
                Op::DeleteRange { start, end } => own.contains_range(&range_of(start, end)),
            })
    }

    fn execute(&mut self, stamp_ms: u64, write: &Write<&'e [u8]>) -> Result<Outcome, Fault> {
        let version = match self.next_version(stamp_ms) {
            Ok(version) => version,
            Err(reject) => return Ok(Err(reject)),
        };
        for (condition, index) in write.conditions.iter().zip(0..) {
            if let Some(reject) = self.check(condition, index)? {
                return Ok(Err(reject));
            }
        }
        self.state.clock = version;
        let results = write.ops.iter().map(|op| self.operate(op, version)).collect::<Result<_, _>>()?;
        Ok(Ok(WriteReply { version, results }))
    }

    /// `None` if the condition holds.
    fn check(&self, condition: &Condition<&[u8]>, index: u32) -> Result<Option<Reject>, Fault> {
        let now = self.newest(condition.key())?;
        let holds = match condition {
            Condition::Exists { .. } => now.is_some(),
            Condition::Absent { .. } => now.is_none(),
            Condition::VersionIs { version, .. } => *version == now.as_ref().map_or(Version::ZERO, |(version, _)| *version),
            Condition::ValueIs { value, .. } => now.as_ref().is_some_and(|(_, found)| found == value),
        };
        Ok((!holds).then(|| Reject::ConditionFailed {
            index,
            key: Bytes::copy_from_slice(condition.key()),
            version: now.map(|(version, _)| version),
        }))
    }

    /// A key's newest value, this apply's own writes included.
    fn newest(&self, key: &[u8]) -> Result<Option<Newest<'e>>, Fault> {
        if let Some(Pending { version, value }) = self.overlay.get(key) {
            return Ok(value.map(|value| (version, Cow::Borrowed(value))));
        }
        let found = mvcc::value_at(self.engine, key, Version::MAX)?;
        Ok(found.map(|(version, value)| (version, Cow::Owned(value.into()))))
    }

    fn operate(&mut self, op: &Op<&'e [u8]>, version: Version) -> Result<OpResult, Fault> {
        match *op {
            Op::Put { key, value } => {
                self.record(Cow::Borrowed(key), version, Some(value));
                Ok(OpResult::Put)
            }
            Op::Delete { key } => {
                let existed = self.newest(key)?.is_some();
                if existed {
                    self.record(Cow::Borrowed(key), version, None);
                }
                Ok(OpResult::Deleted { existed })
            }
            Op::DeleteRange { start, end } => {
                let (keys, resume) = self.live_keys(&range_of(start, end), DELETE_RANGE_KEYS_MAX)?;
                let count = keys.len() as u64;
                for key in keys {
                    self.record(Cow::Owned(key.into()), version, None);
                }
                Ok(OpResult::DeletedRange { count, resume })
            }
        }
    }

    /// Writes one record. A second one of the same key and version replaces the first, here and in the batch.
    fn record(&mut self, key: Cow<'e, [u8]>, version: Version, value: Option<&'e [u8]>) {
        let on_disk = Key::Data { key: &key, version };
        match value {
            Some(value) => self.batch.put_with(|out| on_disk.encode_into(out), |out| mvcc::put_into(value, out)),
            None => self.batch.put_with(|out| on_disk.encode_into(out), mvcc::delete_into),
        }
        self.system_changed |= key::split_internal(&key).is_some_and(|(namespace, _)| namespace == NamespaceId::SYSTEM);
        self.overlay.insert(key, Pending { version, value });
    }

    /// The first `max` keys of a range that have a value now, and the next one after them. How many deleted keys are passed on the way
    /// must not matter: replicas drop old records at different times.
    fn live_keys(&self, range: &KeyRange, max: usize) -> Result<(Vec<Bytes>, Option<Bytes>), Fault> {
        let mut keys = Vec::new();
        if range.is_empty() {
            return Ok((keys, None));
        }
        let mut stored = Forward::open(self.engine, range, Version::MAX)?;
        let mut ahead = stored.next_row(true)?.map(|row| row.key);
        let mut pending = self.overlay.range(range).peekable();
        loop {
            let Some((key, lives)) = next_of_both(&mut pending, &mut ahead, || Ok(stored.next_row(true)?.map(|row| row.key)))?
            else {
                return Ok((keys, None));
            };
            if lives && keys.len() == max {
                return Ok((keys, Some(key)));
            }
            if lives {
                keys.push(key);
            }
        }
    }
}

/// The smaller of the next pending key and the next stored key; where both are the same key, what is pending decides whether it
/// lives, because it is newer.
fn next_of_both(
    pending: &mut Peekable<impl Iterator<Item = (Bytes, bool)>>,
    stored: &mut Option<Bytes>,
    mut advance: impl FnMut() -> Result<Option<Bytes>, Fault>,
) -> Result<Option<(Bytes, bool)>, Fault> {
    let take_pending = match (pending.peek(), stored.as_ref()) {
        (None, None) => return Ok(None),
        (Some((pending, _)), Some(stored)) => pending <= stored,
        (Some(_), None) => true,
        (None, Some(_)) => false,
    };
    if !take_pending {
        let key = std::mem::replace(stored, advance()?);
        return Ok(key.map(|key| (key, true)));
    }
    let next = pending.next();
    if next.as_ref().map(|(key, _)| key) == stored.as_ref() {
        *stored = advance()?;
    }
    Ok(next)
}

fn range_of(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange::new(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end))
}

/// What the format demands of a write that may come from a faulty or newer edge.
fn check_shape(write: &Write<&[u8]>) -> Result<(), Reject> {
    let mut ranges = 0;
    for op in &write.ops {
        match op {
            Op::Put { key, .. } | Op::Delete { key } => check_key(key)?,
            Op::DeleteRange { start, end } => {
                ranges += 1;
                if range_of(start, end).is_reversed() {
                    let (start, end) = (key::display_internal(start), key::display_internal(end));
                    return Err(Reject::invalid(format!("the range is reversed: start `{start}` lies after end `{end}`")));
                }
            }
        }
    }
    if ranges > DELETE_RANGES_MAX {
        let what = "range deletes of one write".to_owned();
        return Err(Reject::TooLarge { what, actual: ranges as u64, limit: DELETE_RANGES_MAX as u64 });
    }
    write.conditions.iter().try_for_each(|condition| check_key(condition.key()))
}

fn check_key(key: &[u8]) -> Result<(), Reject> {
    if key.len() > NAMESPACE_PREFIX_BYTES {
        return Ok(());
    }
    let shown = key::display(key);
    Err(Reject::invalid(format!(
        "the internal key `{shown}` has {} bytes; it is a namespace of 4 and 1 or more of the user's",
        key.len()
    )))
}
