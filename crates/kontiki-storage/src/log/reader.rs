//! Reading entries back while the log is written: the index tells the place, `pread` gets the bytes, the entry's CRC checks them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::{Fault, PartitionId};
use parking_lot::RwLock;

use super::index::{Index, Location};
use super::record::{ENTRY_HEADER_BYTES, entry_payload};
use super::segment::Segment;

/// Entries that lie at most this far apart are read with one call: other groups' records between them cost less than a call.
const GAP_BYTES_MAX: u64 = 4 * 1024;
/// One read call gets at most this much, or one entry.
const RUN_BYTES_MAX: u64 = 1024 * 1024;

/// What the writer and its readers share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    /// By id.
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
}

/// What a group keeps in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Its first live entry.
    pub first: u64,
    /// How many entries are live.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The segment in which the first one lies: neither it nor a later one can be recycled.
    pub segment: u64,
}

/// Reads entries, also those that are written and not durable yet. Cheap to clone; for any thread.
#[derive(Clone)]
pub struct LogReader {
    pub(crate) shared: Arc<Shared>,
}

/// Entries that are read with one call.
struct Run {
    segment: Arc<Segment>,
    start: u64,
    end: u64,
    /// Index and offset in the segment.
    entries: Vec<(u64, u64)>,
}

impl LogReader {
    /// The live entries of `range`, in order, each `head ++ body`. Stops before the one that would exceed `bytes_max`, but returns
    /// at least one if there is one. Starts later than asked if the range's start is purged.
    pub fn read(&self, group: PartitionId, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, Fault> {
        let mut entries = Vec::new();
        for run in self.plan(group, range, bytes_max)? {
            run.read(group, &mut entries)?;
        }
        Ok(entries)
    }

    /// Looks the places up and holds their segments: they cannot be recycled while the runs live.
    fn plan(&self, group: PartitionId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Run>, Fault> {
        let state = self.shared.state.read();
        let Some(found) = state.index.groups.get(&group) else { return Ok(Vec::new()) };
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0;
        for (index, Location { segment, offset, length }) in found.locations(range.start, range.end) {
            bytes += length as usize;
            if bytes > bytes_max && !runs.is_empty() {
                break;
            }
            let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(length) + ENTRY_HEADER_BYTES as u64);
            match runs.last_mut() {
                Some(run) if run.takes(segment, start, end) => {
                    run.end = end;
                    run.entries.push((index, start));
                }
                _ => {
                    let segment = state.segments.get(&segment).cloned().ok_or_else(|| {
                        Fault::Invariant(format!("entry {index} of {group} is in raft log segment {segment}, which is not open"))
                    })?;
                    runs.push(Run { segment, start, end, entries: vec![(index, start)] });
                }
            }
        }
        Ok(runs)
    }

    /// The first live index of a group; `None` if it has no entries.
    pub fn first_index(&self, group: PartitionId) -> Option<u64> {
        let state = self.shared.state.read();
        let found = state.index.groups.get(&group)?;
        found.last_index().map(|_| found.hard.bounds.first)
    }

    /// The last index of a group; `None` if it has no live entries.
    pub fn last_index(&self, group: PartitionId) -> Option<u64> {
        self.shared.state.read().index.groups.get(&group)?.last_index()
    }

    /// What a group keeps in the log; `None` if it has no live entries.
    pub fn footprint(&self, group: PartitionId) -> Option<Footprint> {
        let state = self.shared.state.read();
        let found = state.index.groups.get(&group)?;
        let (segment, entries, bytes) = found.footprint()?;
        Some(Footprint { first: found.hard.bounds.first, entries, bytes, segment })
    }

    /// The index from which on a group has at most `bytes_max` bytes of live entries.
    pub fn tail_start(&self, group: PartitionId, bytes_max: u64) -> Option<u64> {
        Some(self.shared.state.read().index.groups.get(&group)?.tail_start(bytes_max))
    }

    /// The oldest and the newest segment; `None` if there is none.
    pub fn segment_range(&self) -> Option<(u64, u64)> {
        let state = self.shared.state.read();
        Some((*state.segments.keys().next()?, *state.segments.keys().next_back()?))
    }

    /// Bytes of all segment files, without spares.
    pub fn size_bytes(&self) -> u64 {
        self.shared.state.read().segments.values().map(|segment| segment.size).sum()
    }

    /// How many segments the log has.
    pub fn segments(&self) -> usize {
        self.shared.state.read().segments.len()
    }

    /// The group that keeps the oldest segment from being recycled: purge it first if the log is over its budget.
    pub fn pinned_by(&self) -> Option<PartitionId> {
        self.shared.state.read().index.oldest().map(|(group, _)| group)
    }
}

impl Run {
    fn takes(&self, segment: u64, start: u64, end: u64) -> bool {
        self.segment.id == segment && start >= self.end && start - self.end <= GAP_BYTES_MAX && end - self.start <= RUN_BYTES_MAX
    }

    fn read(&self, group: PartitionId, out: &mut Vec<(u64, Bytes)>) -> Result<(), Fault> {
        let Segment { place, file, .. } = &*self.segment;
        let mut buf = vec![0; usize::try_from(self.end - self.start).unwrap_or_default()];
        let read = file.read_at(self.start, &mut buf);
        buf.truncate(read.map_err(|error| Fault::io(format!("reading {place} at byte {}", self.start), error))?);
        let bytes = Bytes::from(buf);
        for (index, offset) in &self.entries {
            let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(bytes.len());
            let payload = entry_payload(&bytes.slice(at..), group, *index).ok_or_else(|| {
                let detail = format!("here should be entry {index} of {group}, but its CRC-32 or its header is wrong");
                Fault::corrupt(format!("{place} at byte {offset}"), format!("{detail}; {}", super::ADVICE))
            })?;
            out.push((*index, payload));
        }
        Ok(())
    }
}
