//! What a raft log should hold, told without segments, frames or indexes; and random records to try it with.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::disk::SimulatedDisk;
use kontiki_storage::log::{Log, LogOptions, LogReader, Record, Recovered, RecoveredGroup};
use kontiki_types::{Fault, PartitionId, StoreId};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) groups: BTreeMap<PartitionId, Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    pub(crate) next: Option<u64>,
    pub(crate) entries: BTreeMap<u64, Bytes>,
}

impl Group {
    pub(crate) fn first(&self) -> u64 {
        self.entries.keys().next().copied().or(self.next).unwrap_or_default()
    }

    fn summary(&self) -> RecoveredGroup {
        RecoveredGroup {
            vote: self.vote.clone(),
            committed: self.committed.clone(),
            purged: self.purged.clone(),
            first_index: self.first(),
            last_index: self.entries.keys().next_back().copied(),
        }
    }
}

impl Model {
    pub(crate) fn apply(&mut self, record: &Record) {
        let group = self.groups.entry(record.group()).or_default();
        match record {
            Record::Entry { index, head, body, .. } => {
                group.entries.insert(*index, [&head[..], &body[..]].concat().into());
                group.next = Some(index + 1);
            }
            Record::Truncate { from, .. } => {
                let first = group.first();
                if group.entries.split_off(from).is_empty() {
                    return;
                }
                group.next = Some((*from).max(first));
            }
            Record::Purge { upto, state, .. } => {
                if group.purged.as_ref().is_some_and(|(purged, _)| purged >= upto) {
                    return;
                }
                group.purged = Some((*upto, state.clone()));
                group.entries = group.entries.split_off(&(upto + 1));
                group.next = group.next.max(Some(upto + 1));
            }
            Record::Vote { vote, .. } => group.vote = Some(vote.clone()),
            Record::Committed { committed, .. } => group.committed = Some(committed.clone()),
            Record::Forget { group } => {
                self.groups.remove(group);
            }
        }
    }

    /// Panics unless the reader gives exactly the entries of the model.
    pub(crate) fn check_entries(&self, reader: &LogReader, context: &str) {
        for (id, group) in &self.groups {
            let found = reader.read(*id, 0..u64::MAX, usize::MAX).unwrap_or_else(|fault| panic!("{context}: {fault}"));
            let expected: Vec<_> = group.entries.iter().map(|(index, value)| (*index, value.clone())).collect();
            assert!(found == expected, "{context}: entries of {id}: {found:?}\nexpected {expected:?}");
            assert_eq!(reader.last_index(*id), group.summary().last_index, "{context}: last index of {id}");
        }
    }

    /// Whether a log recovered exactly this.
    pub(crate) fn equals(&self, reader: &LogReader, recovered: &Recovered) -> bool {
        let expected: BTreeMap<_, _> = self.groups.iter().map(|(id, group)| (*id, group.summary())).collect();
        expected == recovered.groups
            && self.groups.iter().all(|(id, group)| {
                let found = reader.read(*id, 0..u64::MAX, usize::MAX).unwrap_or_default();
                found.iter().map(|(index, value)| (index, value)).eq(&group.entries)
            })
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn bytes(&mut self, count_max: u64) -> Bytes {
        let count = self.below(count_max + 1);
        let seed = self.below(256);
        (0..count).map(|at| (seed + at) as u8).collect()
    }

    /// Records that may follow in this order, already applied to the model.
    pub(crate) fn records(&mut self, model: &mut Model) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..=self.below(3) {
            for record in self.some_of_one_group(model) {
                model.apply(&record);
                records.push(record);
            }
        }
        records
    }

    fn some_of_one_group(&mut self, model: &Model) -> Vec<Record> {
        let group = PartitionId(1 + self.below(3));
        let known = model.groups.get(&group).cloned().unwrap_or_default();
        let (first, next) = (known.first(), known.next.unwrap_or_else(|| self.below(3)));
        let near = |at: u64, random: &mut Self| (at + random.below(4)).saturating_sub(1);
        match self.below(100) {
            0..60 => {
                let large = if self.below(20) == 0 { 1500 } else { 120 };
                let entry =
                    |index, random: &mut Self| Record::Entry { group, index, head: random.bytes(9), body: random.bytes(large) };
                (next..=next + self.below(3)).map(|index| entry(index, self)).collect()
            }
            60..66 => vec![Record::Truncate { group, from: near(first + self.below(next - first.min(next) + 1), self) }],
            66..82 => {
                let low = if self.below(4) == 0 { first.saturating_sub(4) } else { first };
                let upto = near(low + self.below(next - low.min(next) + 1), self);
                vec![Record::Purge { group, upto, state: self.bytes(9) }]
            }
            82..90 => vec![Record::Vote { group, vote: self.bytes(20) }],
            90..98 => vec![Record::Committed { group, committed: self.bytes(20) }],
            _ => vec![Record::Forget { group }],
        }
    }
}

pub(crate) fn open(disk: &SimulatedDisk, options: &LogOptions) -> Result<(Log, Recovered), Fault> {
    Log::open(Arc::new(disk.clone()), StoreId::default(), options.clone())
}
