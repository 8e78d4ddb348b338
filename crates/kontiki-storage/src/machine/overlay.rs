//! The overlay: what earlier writes of the same apply did, which is not in the engine yet. Conditions, deletes and range deletes
//! look here first. It points into the entries and copies nothing; an apply of blind puts keeps none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kontiki_types::{KeyRange, Version};

/// The newest state of a key that this apply wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending<'e> {
    pub(super) version: Version,
    /// `None` for a delete.
    pub(super) value: Option<&'e [u8]>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Overlay<'e> {
    /// Keys are borrowed from entries, or owned where a range delete found them in the engine.
    keys: BTreeMap<Cow<'e, [u8]>, Pending<'e>>,
    kept: bool,
}

impl<'e> Overlay<'e> {
    /// An empty overlay; if nothing is going to read it, it keeps nothing.
    pub(super) fn new(kept: bool) -> Self {
        Self { keys: BTreeMap::new(), kept }
    }

    pub(super) fn insert(&mut self, key: Cow<'e, [u8]>, pending: Pending<'e>) {
        if self.kept {
            self.keys.insert(key, pending);
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Pending<'e>> {
        self.keys.get(key).copied()
    }

    /// The keys of a range, in order, and whether each has a value.
    pub(super) fn range(&self, range: &KeyRange) -> impl Iterator<Item = (Bytes, bool)> + use<'_, 'e> {
        let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(range.end.to_vec()) };
        let bounds = (Bound::Included(range.start.to_vec()), end);
        // `BTreeMap::range` panics on a range whose ends are out of order.
        let entries = (!range.is_empty())
            .then(|| self.keys.range::<[u8], _>((bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice))));
        entries.into_iter().flatten().map(|(key, pending)| (Bytes::copy_from_slice(key), pending.value.is_some()))
    }
}
