//! Reads: what is asked of a replica without going through the log, and at which level (DESIGN section 6).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Reject;
use crate::id::{ClusterId, PartitionId};
use crate::key::KeyRange;
use crate::version::Version;

/// What a read promises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadLevel {
    /// Sees every write acknowledged before it started. Served by the leader after a read index that a quorum confirmed.
    #[default]
    Linearizable,
    /// Any replica that has applied what the token names; waits for it. Gives read-your-writes and monotonic reads on any node.
    AtLeast(Token),
    /// Any replica whose knowledge is younger than the bound. The reply says how old it is. Works in a minority.
    BoundedStale {
        /// The greatest age accepted, in ms.
        age_ms_max: u64,
    },
    /// The state at a version, on any replica whose clock has reached it: one cut through all partitions.
    Snapshot(Version),
}

/// What is read from one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// Several keys (internal keys), one answer each, all of one moment.
    Get {
        /// The keys, at most `limits::BATCH_GET_KEYS_MAX`.
        keys: Vec<Bytes>,
    },
    /// One page of a range, in key order or in reverse.
    Scan(Scan),
    /// Only the partition's clock: the version of the newest write applied.
    Clock,
    /// One page of what was written since a version, in key order: for incremental backups.
    Changes(Changes),
}

/// One page of what was written to a range since a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Internal keys, inside the partition.
    pub range: KeyRange,
    /// Only keys whose newest write, at the version that is read, is newer than this. Refused with `VersionTooOld` if deletions after it
    /// may have been forgotten.
    pub after: Version,
    /// At most this many changes; at least 1.
    pub rows_max: u32,
    /// Stop after the change that reaches this many bytes of keys and values; a page always makes progress.
    pub bytes_max: u32,
}

/// The newest write of one key at the version that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key: internal below the client and the services, user key above.
    pub key: Bytes,
    /// What it was set to; `None` if it was removed.
    pub value: Option<Bytes>,
    /// The version of the write.
    pub version: Version,
}

/// One page of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Internal keys, inside the partition.
    pub range: KeyRange,
    /// From the end to the start.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// At most this many rows; at least 1.
    pub rows_max: u32,
    /// Stop after the row that reaches this many bytes of keys and values; a page always makes progress.
    pub bytes_max: u32,
}

/// One key with its newest value at the version that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key: internal below the client and the services, user key above.
    pub key: Bytes,
    /// The value; empty if `keys_only` was asked.
    pub value: Bytes,
    /// The version of the write that set it.
    pub version: Version,
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadReply {
    /// The partition's clock when it was read: every write at or below it is seen (unless a lower snapshot was asked). Feeds
    /// the caller's token.
    pub clock: Version,
    /// How old the replica's knowledge may be, in ms; 0 for linearizable reads.
    pub age_ms: u64,
    /// The data.
    pub data: ReadData,
}

/// The data of a `ReadReply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// One for each key asked, in order; `None` where there is no value.
    Values(Vec<Option<Row>>),
    /// One page.
    Page {
        /// The rows, in the order asked.
        rows: Vec<Row>,
        /// Where the next page starts, if this one ended early: forward, the first key not looked at (the next start); in
        /// reverse, the last key looked at (the next, exclusive, end). A page may end early without any row, after many
        /// deleted keys.
        resume: Option<Bytes>,
    },
    /// Nothing but the clock.
    Clock,
    /// One page of changes.
    Changes {
        /// In key order.
        changes: Vec<Change>,
        /// The first key not looked at, if this page ended early. It may end early without any change.
        resume: Option<Bytes>,
    },
}

/// What a client has seen: for each partition the highest version it read or wrote. Handed to any node, it gives
/// read-your-writes and monotonic reads there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Highest version seen, by partition.
    pub seen: BTreeMap<PartitionId, Version>,
    /// The cluster in which it was seen; `None`: not known. In another one it means nothing, and is refused.
    pub cluster: Option<ClusterId>,
}

impl Token {
    /// Adds what was seen at one partition.
    pub fn observe(&mut self, partition: PartitionId, version: Version) {
        let seen = self.seen.entry(partition).or_default();
        *seen = version.max(*seen);
    }

    /// Adds everything another token has seen. Refused if that was in another cluster.
    pub fn merge(&mut self, other: &Self) -> Result<(), Reject> {
        if let (Some(here), Some(asked)) = (self.cluster, other.cluster)
            && here != asked
        {
            return Err(Reject::OtherCluster { asked, here });
        }
        self.cluster = self.cluster.or(other.cluster);
        for (partition, version) in &other.seen {
            self.observe(*partition, *version);
        }
        Ok(())
    }

    /// What must have been applied at `partition`; `Version::ZERO` if the token says nothing of it.
    pub fn at(&self, partition: PartitionId) -> Version {
        self.seen.get(&partition).copied().unwrap_or_default()
    }
}
