//! The index: for every group its hard state and where each of its live entries lies. Shared by the writer, which changes it after
//! each write, and the readers.
//!
//! ```text
//!   purged ─┐ first                      next
//!   ░░░░░░░░│ entry │ entry │ entry │ ...│          entries[i] is where entry `next - entries.len() + i` lies
//! ```
//!
//! While the log is recovered, the lowest entries of a group may have no place: they were in segments that are gone, and a purge
//! further on voids them. When recovery ends, every live entry must have one.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kontiki_types::PartitionId;
use kontiki_types::limits::{LOG_RECORD_BYTES_MAX, LOG_STATE_BYTES_MAX};

use super::record::{Record, View};

/// Where an entry's record lies, and how long its payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Which indexes a group has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The first live entry, or where it will be.
    pub(crate) first: u64,
    /// The index that the next entry must have; `None` until the group has had one, or a purge.
    pub(crate) next: Option<u64>,
    /// The purge point.
    pub(crate) purged: Option<u64>,
}

impl Bounds {
    /// What a record changes; or why it cannot follow.
    fn step(&mut self, view: View<'_>) -> Result<(), String> {
        match view {
            View::Entry { group, index, .. } => {
                if index == u64::MAX || self.next.is_some_and(|next| next != index) {
                    let expected = self.next.map_or("any index below the highest".to_owned(), |next| format!("index {next}"));
                    return Err(format!("entry {index} of {group} does not follow: the log expects {expected}"));
                }
                if self.next.is_none() {
                    self.first = index;
                }
                self.next = Some(index + 1);
            }
            View::Truncate { from, .. } => {
                if let Some(next) = self.next.filter(|next| from < *next) {
                    self.next = Some(from.max(self.first).min(next));
                }
            }
            View::Purge { group, upto, .. } => {
                let after =
                    upto.checked_add(1).ok_or_else(|| format!("the purge of {group} up to {upto} leaves no index to go on"))?;
                if self.purged.is_none_or(|purged| purged < upto) {
                    self.purged = Some(upto);
                    self.first = self.first.max(after);
                    self.next = Some(self.next.map_or(after, |next| next.max(after)));
                }
            }
            View::Vote { .. } | View::Committed { .. } => {}
            View::Forget { .. } => *self = Self::default(),
        }
        Ok(())
    }
}

/// What is kept of a group besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    /// Belongs to `bounds.purged`; empty if there is none.
    pub(crate) purged_state: Bytes,
    pub(crate) bounds: Bounds,
}

/// One group in the index.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupIndex {
    pub(crate) hard: HardState,
    entries: VecDeque<Location>,
    /// Payload bytes of `entries`.
    bytes: u64,
}

impl GroupIndex {
    fn next(&self) -> u64 {
        self.hard.bounds.next.unwrap_or(self.hard.bounds.first)
    }

    /// The first entry that has a place.
    fn base(&self) -> u64 {
        self.next() - self.entries.len() as u64
    }

    /// The last live entry.
    pub(crate) fn last_index(&self) -> Option<u64> {
        (self.next() > self.hard.bounds.first).then(|| self.next() - 1)
    }

    /// Live entries without a place: `[from, to)`.
    pub(crate) fn missing(&self) -> Option<(u64, u64)> {
        let from = self.hard.bounds.first;
        (from < self.base()).then(|| (from, self.base()))
    }

    /// The segment of the first live entry.
    fn oldest_segment(&self) -> Option<u64> {
        self.entries.front().map(|location| location.segment)
    }

    /// The segment of the first live entry, how many have a place, and their payload bytes.
    pub(crate) fn footprint(&self) -> Option<(u64, u64, u64)> {
        Some((self.oldest_segment()?, self.entries.len() as u64, self.bytes))
    }

    /// The first index from which on at most `bytes_max` bytes are live.
    pub(crate) fn tail_start(&self, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        let fits = self.entries.iter().rev().take_while(|location| {
            bytes += u64::from(location.length);
            bytes <= bytes_max
        });
        self.next() - fits.count() as u64
    }

    /// Where the entries of `[from, to)` lie, in order.
    pub(crate) fn locations(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Location)> {
        let base = self.base();
        let from = from.clamp(base, self.next());
        let skip = usize::try_from(from - base).unwrap_or(usize::MAX);
        (from..to).zip(self.entries.iter().skip(skip).copied())
    }

    fn apply(&mut self, view: View<'_>, location: Location) -> Result<(), String> {
        let (base, purged) = (self.base(), self.hard.bounds.purged);
        self.hard.bounds.step(view)?;
        match view {
            View::Entry { .. } => {
                self.entries.push_back(location);
                self.bytes += u64::from(location.length);
                return Ok(());
            }
            View::Purge { state, .. } if self.hard.bounds.purged != purged => {
                self.hard.purged_state = Bytes::copy_from_slice(state);
            }
            View::Vote { vote, .. } => self.hard.vote = Some(Bytes::copy_from_slice(vote)),
            View::Committed { committed, .. } => self.hard.committed = Some(Bytes::copy_from_slice(committed)),
            View::Truncate { .. } | View::Purge { .. } | View::Forget { .. } => {}
        }
        // Drop the places that are outside of the bounds now: behind the end first, then before the start.
        let (first, next) = (self.hard.bounds.first, self.next());
        let keep = usize::try_from(next.saturating_sub(base)).unwrap_or(usize::MAX).min(self.entries.len());
        let behind: u64 = self.entries.drain(keep..).map(|location| u64::from(location.length)).sum();
        let dead = usize::try_from(first.saturating_sub(base)).unwrap_or(usize::MAX).min(self.entries.len());
        let before: u64 = self.entries.drain(..dead).map(|location| u64::from(location.length)).sum();
        self.bytes -= behind + before;
        Ok(())
    }
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) groups: BTreeMap<PartitionId, GroupIndex>,
}

impl Index {
    /// As it was when a segment was begun; no entry has a place yet.
    pub(crate) fn from_hard_states(states: &[(PartitionId, HardState)]) -> Self {
        let group =
            |(group, hard): &(PartitionId, HardState)| (*group, GroupIndex { hard: hard.clone(), ..GroupIndex::default() });
        Self { groups: states.iter().map(group).collect() }
    }

    /// For the header of the next segment.
    pub(crate) fn hard_states(&self) -> Vec<(PartitionId, HardState)> {
        self.groups.iter().map(|(group, index)| (*group, index.hard.clone())).collect()
    }

    /// Whether all records may follow, in this order. Changes nothing.
    pub(crate) fn check(&self, records: &[Record]) -> Result<(), String> {
        let mut touched: BTreeMap<PartitionId, Bounds> = BTreeMap::new();
        for record in records {
            check_size(record)?;
            let group = record.group();
            let known = || self.groups.get(&group).map(|index| index.hard.bounds).unwrap_or_default();
            touched.entry(group).or_insert_with(known).step(record.view())?;
        }
        Ok(())
    }

    /// Applies one record; `location` matters for entries only.
    pub(crate) fn apply(&mut self, view: View<'_>, location: Location) -> Result<(), String> {
        if let View::Forget { group } = view {
            self.groups.remove(&group);
            return Ok(());
        }
        self.groups.entry(view.group()).or_default().apply(view, location)
    }

    /// The group whose first live entry lies in the oldest segment of all, and that segment.
    pub(crate) fn oldest(&self) -> Option<(PartitionId, u64)> {
        let places = self.groups.iter().filter_map(|(group, index)| Some((*group, index.oldest_segment()?)));
        places.min_by_key(|(_, segment)| *segment)
    }
}

fn check_size(record: &Record) -> Result<(), String> {
    let (what, actual, limit) = match record {
        Record::Entry { head, body, .. } => ("entry", head.len() + body.len(), LOG_RECORD_BYTES_MAX),
        Record::Purge { state, .. } => ("purge state", state.len(), LOG_STATE_BYTES_MAX),
        Record::Vote { vote, .. } => ("vote", vote.len(), LOG_STATE_BYTES_MAX),
        Record::Committed { committed, .. } => ("commit point", committed.len(), LOG_STATE_BYTES_MAX),
        Record::Truncate { .. } | Record::Forget { .. } => return Ok(()),
    };
    if actual > limit {
        return Err(format!("the {what} of {} has {actual} bytes, the limit is {limit}", record.group()));
    }
    Ok(())
}
