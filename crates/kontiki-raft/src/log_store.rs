//! One group's view of the node's log: openraft's log storage. Keeps the newest entries decoded in memory, because followers and
//! apply read just what was appended; reads older ones back from the log.
//!
//! What openraft demands, and how it is met (OPENRAFT section 2.3):
//! - entries are readable when `append` returns, before they are durable: they enter the cache first;
//! - a vote is durable when `save_vote` returns, and so is everything before it: one queue, first in, first out;
//! - an entry leaves the cache only when it is durable, so a reader never needs bytes that are still in the queue.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::log::{LogReader, Record, RecoveredGroup};
use kontiki_types::{Fault, PartitionId, limits};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;

use crate::codec;
use crate::log_queue::{Completion, LogQueue};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// A fresh log's bookkeeping weight of one entry beside its body.
const ENTRY_OVERHEAD_BYTES: usize = 128;

struct Cached {
    entry: Entry,
    ticket: u64,
    bytes: usize,
}

#[derive(Default)]
struct State {
    purged: Option<LogId>,
    /// Index of the oldest entry; meaningless while there is none.
    first: u64,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Rides along with the next append or vote: losing it costs only a question to the leader.
    unsaved_committed: Option<Bytes>,
    /// Contiguous, ends at `last`; may start later than the log does.
    cache: VecDeque<Cached>,
    cache_bytes: usize,
}

/// One group's log. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct GroupLog {
    group: PartitionId,
    queue: LogQueue,
    reader: LogReader,
    state: Arc<Mutex<State>>,
}

impl GroupLog {
    /// The log of a group as recovery found it; `None` if it has none yet.
    pub(crate) fn open(
        group: PartitionId,
        queue: LogQueue,
        reader: LogReader,
        found: Option<&RecoveredGroup>,
    ) -> Result<Self, Fault> {
        let mut state = State::default();
        if let Some(found) = found {
            state.vote = found.vote.as_deref().map(codec::decode_vote).transpose()?;
            state.committed =
                found.committed.as_deref().map(|bytes| codec::decode_log_id(bytes, "the stored commit point")).transpose()?;
            if let Some((_, stored)) = &found.purged {
                state.purged = Some(codec::decode_log_id(stored, "the stored purge point")?);
            }
            state.last = state.purged;
            if let Some(last) = found.last_index {
                let entries = reader.read(group, last..last + 1, 0)?;
                let (index, bytes) = entries.into_iter().next().ok_or_else(|| hole(group, last))?;
                state.first = found.first_index;
                state.last = Some(codec::decode_entry(index, &bytes)?.log_id);
            }
        }
        Ok(Self { group, queue, reader, state: Arc::new(Mutex::new(state)) })
    }

    /// The index of the last entry, or of the purge point if nothing follows it.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.state.lock().last.map(|id| id.index)
    }

    /// The last entry that is gone; `None` while there is none.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.state.lock().purged.map(|id| id.index)
    }

    /// The first entry that is there, or will be.
    pub(crate) fn first_index(&self) -> u64 {
        self.state.lock().purged.map_or(0, |id| id.index + 1)
    }

    /// Waits until everything that the log was told so far is durable, truncations and purges too.
    pub(crate) async fn settle(&self) -> Result<(), Fault> {
        self.queue.push_and_wait(Vec::new()).await
    }

    /// Waits until the append that carried `index` is durable. Entries that have left the cache are.
    pub(crate) async fn wait_durable(&self, index: u64) -> Result<(), Fault> {
        let ticket = self.state.lock().ticket_of(index);
        match ticket {
            Some(ticket) => self.queue.wait_durable(ticket).await,
            None => Ok(()),
        }
    }

    /// Entries of `[from, to)`, contiguous from `from` or, if that is purged, from the first one on, at least one if there is one, about `bytes_max` at most.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, Fault> {
        let (from, to, cached_from) = {
            let state = self.state.lock();
            let from = from.max(state.first);
            let to = to.min(state.last.map_or(0, |id| id.index + 1));
            if from >= to {
                return Ok(Vec::new());
            }
            let cached_from = state.cache.front().map_or(u64::MAX, |cached| cached.entry.log_id.index);
            if from >= cached_from {
                return Ok(state.cached(from, to, bytes_max));
            }
            (from, to, cached_from)
        };
        let stored = self.reader.read(self.group, from..to.min(cached_from), bytes_max)?;
        if stored.first().is_none_or(|(index, _)| *index != from) {
            // Purged since the look above, by the core or its writer: then it is no hole.
            let purged = self.state.lock().first > from;
            return if purged { self.read(from, to, bytes_max) } else { Err(hole(self.group, from)) };
        }
        stored.iter().map(|(index, bytes)| codec::decode_entry(*index, bytes)).collect()
    }

    /// All entries of a range, whatever their size.
    fn read_all(&self, range: &impl RangeBounds<u64>) -> Result<Vec<Entry>, Fault> {
        let mut from = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        loop {
            let more = self.read(from, to, usize::MAX)?;
            let Some(last) = more.last() else { return Ok(entries) };
            from = last.log_id.index + 1;
            entries.extend(more);
        }
    }
}

fn hole(group: PartitionId, index: u64) -> Fault {
    Fault::Invariant(format!("entry {index} of {group} is missing in the raft log"))
}

impl State {
    fn ticket_of(&self, index: u64) -> Option<u64> {
        let first = self.cache.front()?.entry.log_id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.cache.get(at).map(|cached| cached.ticket)
    }

    fn cached(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
        let first = self.cache.front().map_or(0, |cached| cached.entry.log_id.index);
        let mut bytes = 0;
        let mut entries = Vec::new();
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        for cached in self.cache.iter().skip(skip) {
            if cached.entry.log_id.index >= to || (!entries.is_empty() && bytes + cached.bytes > bytes_max) {
                break;
            }
            bytes += cached.bytes;
            entries.push(cached.entry.clone());
        }
        entries
    }

    fn push(&mut self, entry: Entry, ticket: u64) {
        let body = if let EntryPayload::Normal(payload) = &entry.payload { payload.0.len() } else { 0 };
        let bytes = body + ENTRY_OVERHEAD_BYTES;
        self.cache_bytes += bytes;
        if self.last == self.purged {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.cache.push_back(Cached { entry, ticket, bytes });
    }

    /// Drops the oldest cached entries over the budget, durable ones only.
    fn shrink(&mut self, durable: u64) {
        while self.cache_bytes > limits::LOG_CACHE_BYTES_PER_GROUP {
            let Some(front) = self.cache.front().filter(|cached| cached.ticket <= durable) else { return };
            self.cache_bytes -= front.bytes;
            self.cache.pop_front();
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index + 1);
        if self.last.is_none_or(|known| known.index < keep) {
            return;
        }
        while let Some(back) = self.cache.back().filter(|cached| cached.entry.log_id.index >= keep) {
            self.cache_bytes -= back.bytes;
            self.cache.pop_back();
        }
        self.last = last.or(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        while let Some(front) = self.cache.front().filter(|cached| cached.entry.log_id.index <= upto.index) {
            self.cache_bytes -= front.bytes;
            self.cache.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        // Beyond the last entry after a snapshot was installed: the log is empty and goes on behind it.
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }

    fn take_committed(&mut self, group: PartitionId) -> Option<Record> {
        self.unsaved_committed.take().map(|committed| Record::Committed { group, committed })
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.read_all(&range)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.state.lock().vote)
    }

    /// Nothing if `start` is purged. openraft purges under a stream of entries that it has given up and that has not noticed yet; what came
    /// behind a gap would reach the follower as if there were none. An empty answer is a heartbeat, until the stream notices.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, limits::APPEND_BYTES_MAX)?;
        let gap = entries.first().is_some_and(|first| first.log_id.index != start);
        Ok(if gap { Vec::new() } else { entries })
    }

    /// In chunks, so that a long backlog is never in memory at once.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl futures::Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.clone();
        let chunks = futures::stream::unfold(Some(from), move |next| {
            let chunk = next.map(|from| log.read(from, to, limits::APPEND_BYTES_MAX));
            async move {
                match chunk? {
                    Ok(entries) => {
                        let next = entries.last()?.log_id.index + 1;
                        Some((futures::stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), Some(next)))
                    }
                    Err(fault) => Some((futures::stream::iter(vec![Err(io::Error::from(fault))]), None)),
                }
            }
        });
        Box::pin(futures::StreamExt::flatten(chunks))
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let committed = self.state.lock().take_committed(self.group);
        let mut records = vec![Record::Vote { group: self.group, vote: codec::encode_vote(vote) }];
        records.extend(committed);
        self.queue.push_and_wait(records).await?;
        self.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.state.lock();
        state.committed = committed;
        state.unsaved_committed = committed.as_ref().map(codec::encode_log_id);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut records: Vec<Record> = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            let (head, body) = codec::encode_entry(entry);
            records.push(Record::Entry { group: self.group, index: entry.log_id.index, head, body });
        }
        records.extend(self.state.lock().take_committed(self.group));
        // Only this group's core appends, and it waits for us: between the ticket and the cache nobody else can come.
        let ticket = self.queue.push(records, Completion::Append(callback)).await?;
        let durable = self.queue.durable();
        let mut state = self.state.lock();
        for entry in entries {
            state.push(entry, ticket);
        }
        state.shrink(durable);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.state.lock().truncate_after(last_log_id);
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.queue.push(vec![Record::Truncate { group: self.group, from }], Completion::Nobody).await?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.state.lock().purge(log_id);
        let record = Record::Purge { group: self.group, upto: log_id.index, state: codec::encode_log_id(&log_id) };
        self.queue.push(vec![record], Completion::Nobody).await?;
        Ok(())
    }
}
