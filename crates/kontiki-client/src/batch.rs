//! An atomic write, built step by step.

use bytes::Bytes;
use kontiki_types::{Condition, Epoch, KeyRange, NamespaceId, Op, Version, Write, key};

/// Several changes that happen together, or not at all, if all conditions hold. All keys must lie in one partition
/// (`Reject::CrossPartition` otherwise). Conditions look at the state before the first change.
///
/// ```
/// use kontiki_client::WriteBatch;
///
/// let move_money = WriteBatch::new().if_value("a", "10").if_absent("b").put("a", "3").put("b", "7");
/// assert_eq!(move_money.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a batch does nothing until it is given to Client::write"]
pub struct WriteBatch {
    conditions: Vec<Condition<Bytes>>,
    ops: Vec<Op<Bytes>>,
}

fn internal(user: impl Into<Bytes>) -> Bytes {
    key::internal(NamespaceId::DEFAULT, &user.into())
}

impl WriteBatch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key has no value.
    pub fn if_absent(self, key: impl Into<Bytes>) -> Self {
        self.condition(Condition::Absent { key: internal(key) })
    }

    /// Only if the key has a value.
    pub fn if_exists(self, key: impl Into<Bytes>) -> Self {
        self.condition(Condition::Exists { key: internal(key) })
    }

    /// Only if the key's value was set by the write of this version (`Version::ZERO`: only if it is absent).
    pub fn if_version(self, key: impl Into<Bytes>, version: Version) -> Self {
        self.condition(Condition::VersionIs { key: internal(key), version })
    }

    /// Only if the key has exactly this value.
    pub fn if_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.condition(Condition::ValueIs { key: internal(key), value: value.into() })
    }

    /// Sets a key.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.op(Op::Put { key: internal(key), value: value.into() })
    }

    /// Removes a key.
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.op(Op::Delete { key: internal(key) })
    }

    /// Removes the keys of `[start, end)` (an empty end: to the last key), at most `limits::DELETE_RANGE_KEYS_MAX`: the result says
    /// how many, and where to go on. The whole range must lie in one partition; for any range use `Client::delete_range`.
    pub fn delete_range(self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        let KeyRange { start, end } = KeyRange::in_namespace(NamespaceId::DEFAULT, &start.into(), &end.into());
        self.op(Op::DeleteRange { start, end })
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it changes nothing (conditions alone are a check).
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn condition(mut self, condition: Condition<Bytes>) -> Self {
        self.conditions.push(condition);
        self
    }

    fn op(mut self, op: Op<Bytes>) -> Self {
        self.ops.push(op);
        self
    }

    pub(crate) fn into_write(self) -> Write<Bytes> {
        Write { epoch: Epoch::default(), request: None, conditions: self.conditions, ops: self.ops }
    }
}

impl From<Write<Bytes>> for WriteBatch {
    /// A write as the services decode it (internal keys of the default namespace). Its epoch and request id are left behind.
    fn from(write: Write<Bytes>) -> Self {
        Self { conditions: write.conditions, ops: write.ops }
    }
}
