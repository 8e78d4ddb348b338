//! Every limit, in one file, each with its reason (DESIGN law 8), and the checks made at the edge: a request that passes here can
//! be applied by every replica.

use bytes::Bytes;

use crate::command::{Condition, Op, Write};
use crate::error::Reject;
use crate::key::{self, KeyRange};
use crate::read::{Changes, Read, Scan};

/// User key: keys are stored once per version and kept in index blocks; larger ones belong in values.
pub const KEY_BYTES_MAX: usize = 16 * 1024;
/// Value: one value must fit several times in a log frame and in a gRPC message.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Request: payload bytes of one write. A log entry holds at least one whole request.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Operations of one atomic write: bounds the time of one apply (DESIGN section 4).
pub const WRITE_OPS_MAX: usize = 4096;
/// Conditions of one atomic write: each is a point read inside apply.
pub const WRITE_CONDITIONS_MAX: usize = 1024;
/// Keys of one batch get: bounds one read call.
pub const BATCH_GET_KEYS_MAX: usize = 4096;
/// Bytes of keys and values that one batch get answers with, over all its partitions: the keys say nothing of the size of the values, and
/// the answer is made in memory and must fit in a message. The largest value fits several times.
pub const BATCH_GET_BYTES_MAX: usize = REQUEST_BYTES_MAX;
/// Keys removed by one range delete inside one log entry: about 10 ms of apply. The caller goes on from `resume`.
pub const DELETE_RANGE_KEYS_MAX: usize = 4096;
/// Range deletes in one atomic write, for the same reason.
pub const DELETE_RANGES_MAX: usize = 4;
/// gRPC message: the largest request plus room for framing, keys and headers.
pub const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 1024 * 1024;
/// Rows of one page: bounds one read call.
pub const SCAN_ROWS_MAX: u32 = 16 * 1024;
/// Bytes of one page: two pages fit under the gRPC message limit with room.
pub const SCAN_PAGE_BYTES_MAX: u32 = 1024 * 1024;
/// Keys that one page looks at, deleted ones included: bounds one read call over a range where everything was deleted. The page
/// then ends early, perhaps without a row, and says where to go on.
pub const SCAN_KEYS_LOOKED_AT_MAX: usize = 64 * 1024;
/// Bytes that the proposer packs into one log entry: large enough to amortise an entry (about 10 us), small enough that entries
/// pipeline.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Writes packed into one log entry: bounds the reply that one entry carries.
pub const ENTRY_WRITES_MAX: usize = 1024;
/// Entries of one group that are proposed and not yet applied: more only move the queue into openraft.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Writes that wait for one group's proposer; beyond it the answer is `Overloaded`, at once.
pub const PROPOSALS_QUEUED_MAX: usize = 8192;
/// Bytes of the writes that wait for one group's proposer.
pub const PROPOSAL_BYTES_QUEUED_MAX: usize = 64 * 1024 * 1024;
/// Reads that wait for one group's read index.
pub const READS_QUEUED_MAX: usize = 16 * 1024;
/// Bytes of entries in one append message to a peer: well under the gRPC limit, at least one entry always.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Largest encoded log entry that is accepted from a peer or from disk: one request, its framing, and slack.
pub const LOG_RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// gRPC message between nodes: one append that was nearly full, plus the largest entry, plus envelopes.
pub const PEER_MESSAGE_BYTES_MAX: usize = APPEND_BYTES_MAX + LOG_RECORD_BYTES_MAX + 256 * 1024;
/// Bytes that the log writer puts in one frame, with one fsync.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// One log segment. Zero-filled once, then recycled.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Spare segments kept for recycling.
pub const SEGMENTS_SPARE_MAX: usize = 2;
/// A group's vote, commit point or purge point in the log: every segment's header repeats them for every group.
pub const LOG_STATE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of decoded entries kept in memory per group for followers and apply; older ones are read from the log.
pub const LOG_CACHE_BYTES_PER_GROUP: usize = 4 * 1024 * 1024;
/// Sessions remembered per partition; the least recently used goes first.
pub const SESSIONS_MAX: usize = 4096;
/// Replies remembered per session beyond those that the client has acknowledged: the most requests that one client may have
/// open at a partition.
pub const SESSION_REPLIES_MAX: usize = 1024;
/// Bytes of one session's remembered replies: its record is written anew with every apply that uses it.
pub const SESSION_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the session table of a partition.
pub const SESSION_TABLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A session unused for this long (by the partition's clock) may be forgotten, in ms.
pub const SESSION_AGE_MS_MAX: u64 = 60 * 60 * 1000;
/// Partitions of one node: openraft keeps about 1.7 MB of rings per replica (OPENRAFT section 3.2).
pub const PARTITIONS_MAX: u32 = 1024;
/// Nodes of one cluster.
pub const NODES_MAX: usize = 64;
/// Time that old versions are kept if a node is not told otherwise, in ms.
pub const RETENTION_MS: u64 = 60 * 60 * 1000;
/// Less would end scans over several partitions while they run.
pub const RETENTION_MS_MIN: u64 = 1000;
/// A token names at most this many partitions.
pub const TOKEN_PARTITIONS_MAX: usize = 4096;

fn at_most(what: &str, actual: usize, limit: usize) -> Result<(), Reject> {
    if actual <= limit {
        return Ok(());
    }
    Err(Reject::TooLarge { what: what.to_owned(), actual: actual as u64, limit: limit as u64 })
}

/// Checks a user key: 1 B to `KEY_BYTES_MAX`.
pub fn check_user_key(user: &[u8]) -> Result<(), Reject> {
    if user.is_empty() {
        return Err(Reject::invalid("the key is empty; a key has 1 byte or more"));
    }
    at_most("key size in bytes", user.len(), KEY_BYTES_MAX)
}

/// Checks an internal key: a namespace prefix and a user key within the limits.
pub fn check_key(internal: &[u8]) -> Result<(), Reject> {
    match key::split_internal(internal) {
        Some((_, user)) => check_user_key(user),
        None => Err(Reject::invalid(format!("the internal key has {} bytes; it starts with a namespace of 4", internal.len()))),
    }
}

/// Checks a value's size.
pub fn check_value(value: &[u8]) -> Result<(), Reject> {
    at_most("value size in bytes", value.len(), VALUE_BYTES_MAX)
}

/// Checks the ends of a range: not reversed, and no end longer than a key may be (plus the namespace and one byte).
pub fn check_range(range: &KeyRange) -> Result<(), Reject> {
    if range.is_reversed() {
        return Err(Reject::invalid(format!(
            "the range is reversed: start `{}` lies after end `{}`",
            key::display_internal(&range.start),
            key::display_internal(&range.end)
        )));
    }
    let ends = range.start.len().max(range.end.len());
    at_most("range bound size in bytes", ends, KEY_BYTES_MAX + key::NAMESPACE_PREFIX_BYTES + 1)
}

/// Checks a whole write: keys, values, counts and total size.
pub fn check_write(write: &Write<Bytes>) -> Result<(), Reject> {
    if write.ops.is_empty() && write.conditions.is_empty() {
        return Err(Reject::invalid("the write is empty; give at least one operation or condition"));
    }
    at_most("operations of one write", write.ops.len(), WRITE_OPS_MAX)?;
    at_most("conditions of one write", write.conditions.len(), WRITE_CONDITIONS_MAX)?;
    let ranges = write.ops.iter().filter(|op| matches!(op, Op::DeleteRange { .. })).count();
    at_most("range deletes of one write", ranges, DELETE_RANGES_MAX)?;
    for op in &write.ops {
        match op {
            Op::Put { key, value } => {
                check_key(key)?;
                check_value(value)?;
            }
            Op::Delete { key } => check_key(key)?,
            Op::DeleteRange { start, end } => check_range(&KeyRange::new(start.clone(), end.clone()))?,
        }
    }
    for condition in &write.conditions {
        check_key(condition.key())?;
        if let Condition::ValueIs { value, .. } = condition {
            check_value(value)?;
        }
    }
    if let Some(request) = &write.request
        && (request.sequence == 0 || request.acknowledged_below > request.sequence)
    {
        return Err(Reject::invalid(format!(
            "request number {} with acknowledged_below {}: numbers start at 1, and acknowledged_below is at most the number",
            request.sequence, request.acknowledged_below
        )));
    }
    at_most("request size in bytes", write.size_bytes(), REQUEST_BYTES_MAX)
}

/// Checks a read.
pub fn check_read(read: &Read) -> Result<(), Reject> {
    match read {
        Read::Clock => Ok(()),
        Read::Get { keys } => {
            if keys.is_empty() {
                return Err(Reject::invalid("the batch get names no key; give at least one"));
            }
            at_most("keys of one batch get", keys.len(), BATCH_GET_KEYS_MAX)?;
            keys.iter().try_for_each(|key| check_key(key))
        }
        Read::Scan(Scan { range, rows_max, bytes_max, .. }) => {
            check_range(range)?;
            check_page(*rows_max, *bytes_max)
        }
        Read::Changes(Changes { range, rows_max, bytes_max, .. }) => {
            check_range(range)?;
            check_page(*rows_max, *bytes_max)
        }
    }
}

fn check_page(rows_max: u32, bytes_max: u32) -> Result<(), Reject> {
    if rows_max == 0 {
        return Err(Reject::invalid("rows_max is 0; a page holds at least 1 row"));
    }
    at_most("rows of one page", rows_max as usize, SCAN_ROWS_MAX as usize)?;
    at_most("bytes of one page", bytes_max as usize, SCAN_PAGE_BYTES_MAX as usize)
}

/// Checks what a batch get is about to answer with: bytes of keys and values so far.
pub fn check_batch_get_answer(bytes: usize) -> Result<(), Reject> {
    at_most("bytes that one batch get answers with", bytes, BATCH_GET_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NamespaceId;
    use crate::partition::Epoch;

    fn put(key: &[u8], value: usize) -> Write<Bytes> {
        let op = Op::Put { key: key::internal(NamespaceId::DEFAULT, key), value: Bytes::from(vec![0; value]) };
        Write { epoch: Epoch::default(), request: None, conditions: vec![], ops: vec![op] }
    }

    #[test]
    fn limits_hold_at_the_edge_and_one_beyond() {
        assert_eq!(check_write(&put(&[1; KEY_BYTES_MAX], VALUE_BYTES_MAX)), Ok(()));
        let error = check_write(&put(&[1; KEY_BYTES_MAX + 1], 0)).expect_err("one byte too long");
        assert_eq!(error.to_string(), "key size in bytes is 16385, the limit is 16384; split it or make it smaller");
        assert!(check_write(&put(b"k", VALUE_BYTES_MAX + 1)).is_err());
        assert!(check_write(&put(b"", 1)).is_err());
        let mut large = put(b"k", VALUE_BYTES_MAX);
        large.ops = vec![large.ops[0].clone(); 5];
        assert!(matches!(check_write(&large), Err(Reject::TooLarge { limit, .. }) if limit == REQUEST_BYTES_MAX as u64));
        large.ops.clear();
        assert!(matches!(check_write(&large), Err(Reject::Invalid { .. })));
    }

    #[test]
    fn a_batch_get_without_keys_is_named() {
        let error = check_read(&Read::Get { keys: vec![] }).expect_err("no key");
        assert_eq!(error.to_string(), "invalid request: the batch get names no key; give at least one");
    }

    #[test]
    fn reversed_ranges_are_named() {
        let error = check_range(&KeyRange::new("b", "a")).expect_err("reversed");
        assert_eq!(error.to_string(), "invalid request: the range is reversed: start `b` lies after end `a`");
        assert_eq!(check_range(&KeyRange::new("a", "a")), Ok(()));
    }
}
