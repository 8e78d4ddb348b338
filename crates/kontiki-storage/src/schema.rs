//! Every key that lies on disk, in one enum, each kind with a number that never changes. The numbers order the kinds; gaps are
//! left for intents, locks and leases.
//!
//! ```text
//!   01 partition:8                                      Replica   the descriptor and who we are in it
//!   02 partition:8                                      Applied   how far the log was applied
//!   03 partition:8 session.partition:8 session.opened:8 Session   one session and its remembered replies
//!   04 partition:8                                      Floor     where the snapshot ended that was installed last
//!   05 partition:8                                      Tombstone the newest replica that was here and was removed
//!   10 namespace:4 escape(user key) 00 00 !version:8    Data      one version of one key
//! ```
//!
//! Numbers are big endian, so that they sort. In a data key the user part is escaped (`00` becomes `00 ff`) and ended by `00 00`,
//! so that no key is a prefix of another and order is that of the keys themselves; the version is inverted, so that the newest comes
//! first. The namespace has a fixed length and needs no escape, which saves three bytes on most keys.
//! All but data records carry the id of the partition that *owns* them; data is found by
//! key, so that a split moves no bytes (DESIGN section 4).

use bytes::Bytes;
use kontiki_types::key::{KeyRange, NAMESPACE_PREFIX_BYTES};
use kontiki_types::{Fault, PartitionId, SessionId, Version};

/// Bytes of the version at the end of a data key.
pub const VERSION_BYTES: usize = 8;

const REPLICA: u8 = 0x01;
const APPLIED: u8 = 0x02;
const SESSION: u8 = 0x03;
const FLOOR: u8 = 0x04;
const TOMBSTONE: u8 = 0x05;
const DATA: u8 = 0x10;

/// Follows every `00` inside a user key.
const ESCAPED_ZERO: u8 = 0xff;
/// Ends a user key: `00` and this.
const END: u8 = 0x00;

/// A key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<B> {
    /// One replica of this node: `encode((descriptor, replica id))`.
    Replica {
        /// Its partition.
        partition: PartitionId,
    },
    /// How far a replica has applied its log: see `machine`.
    Applied {
        /// Its partition.
        partition: PartitionId,
    },
    /// One session known to a replica: see `sessions`.
    Session {
        /// The partition that keeps it.
        partition: PartitionId,
        /// The session.
        session: SessionId,
    },
    /// The index of the last entry that the snapshot held which this replica began with: `encode(index)`. Entries up to it may be missing
    /// in the log.
    Floor {
        /// Its partition.
        partition: PartitionId,
    },
    /// The newest replica of a partition that was removed from this node: `encode(replica id)`. Neither it nor an older one is ever
    /// made again.
    Tombstone {
        /// The partition.
        partition: PartitionId,
    },
    /// One version of one key: see `mvcc`.
    Data {
        /// The internal key, at least as long as a namespace.
        key: B,
        /// The version.
        version: Version,
    },
}

impl<B: AsRef<[u8]>> Key<B> {
    /// The bytes of the key.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.encode_into(&mut out);
        out
    }

    /// As [`Key::encode`], appended to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Replica { partition } => put_partition(out, REPLICA, *partition),
            Self::Applied { partition } => put_partition(out, APPLIED, *partition),
            Self::Session { partition, session } => {
                put_partition(out, SESSION, *partition);
                out.extend(session.partition.0.to_be_bytes());
                out.extend(session.opened.0.to_be_bytes());
            }
            Self::Floor { partition } => put_partition(out, FLOOR, *partition),
            Self::Tombstone { partition } => put_partition(out, TOMBSTONE, *partition),
            Self::Data { key, version } => {
                put_data_prefix(out, key.as_ref());
                out.extend((!version.0).to_be_bytes());
            }
        }
    }
}

impl Key<Bytes> {
    /// Reads a key; a fault says which bytes make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::parse(bytes).ok_or_else(|| Fault::corrupt(place(bytes), "no kind of key has this shape"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            REPLICA => number(rest).map(|partition| Self::Replica { partition: PartitionId(partition) }),
            APPLIED => number(rest).map(|partition| Self::Applied { partition: PartitionId(partition) }),
            SESSION => {
                let (keeper, rest) = rest.split_at_checked(8)?;
                let (opener, opened) = rest.split_at_checked(8)?;
                let session = SessionId { partition: PartitionId(number(opener)?), opened: Version(number(opened)?) };
                Some(Self::Session { partition: PartitionId(number(keeper)?), session })
            }
            FLOOR => number(rest).map(|partition| Self::Floor { partition: PartitionId(partition) }),
            TOMBSTONE => number(rest).map(|partition| Self::Tombstone { partition: PartitionId(partition) }),
            DATA => {
                let (prefix, version) = split_data(bytes)?;
                Some(Self::Data { key: data_key(prefix)?, version })
            }
            _ => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn put_partition(out: &mut Vec<u8>, kind: u8, partition: PartitionId) {
    out.push(kind);
    out.extend(partition.0.to_be_bytes());
}

/// A key on disk, for a message.
pub fn place(bytes: &[u8]) -> String {
    format!("record `{}`", kontiki_types::key::display(bytes))
}

/// Every replica record of the node: `[from, to)`.
pub fn replicas() -> (Vec<u8>, Vec<u8>) {
    (vec![REPLICA], vec![REPLICA + 1])
}

/// Every session record that a partition keeps: `[from, to)`.
pub fn sessions(partition: PartitionId) -> (Vec<u8>, Vec<u8>) {
    let mut from = Vec::with_capacity(9);
    put_partition(&mut from, SESSION, partition);
    let mut to = from.clone();
    // Longer than any session key, and before the next partition's first.
    to.extend([0xff; 17]);
    (from, to)
}

/// Every data record of the keys in `range`: `[from, to)`.
pub fn data(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let to = if range.end.is_empty() { vec![DATA + 1] } else { data_bound(&range.end) };
    (data_bound(&range.start), to)
}

/// Appends what all versions of an internal key share: the key part.
pub fn put_data_prefix(out: &mut Vec<u8>, key: &[u8]) {
    debug_assert!(key.len() >= NAMESPACE_PREFIX_BYTES, "an internal key starts with its namespace");
    let (namespace, user) = key.split_at(NAMESPACE_PREFIX_BYTES.min(key.len()));
    out.push(DATA);
    out.extend_from_slice(namespace);
    let mut pieces = user.split(|byte| *byte == 0);
    out.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.extend([0, ESCAPED_ZERO]);
        out.extend_from_slice(piece);
    }
    out.extend([0, END]);
}

/// The key part of an internal key.
pub fn data_prefix_of(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 3 + VERSION_BYTES);
    put_data_prefix(&mut out, key);
    out
}

/// Where the records of keys at or after `key` begin. `key` may be shorter than a namespace.
fn data_bound(key: &[u8]) -> Vec<u8> {
    if key.len() < NAMESPACE_PREFIX_BYTES {
        let mut out = vec![DATA];
        out.extend_from_slice(key);
        return out;
    }
    data_prefix_of(key)
}

/// The key part of a data record's key, found by its end mark: so the key part of a key part is itself, as RocksDB demands. `None` if
/// it is not a data key. Total; called for every key that is written.
pub fn data_prefix(encoded: &[u8]) -> Option<&[u8]> {
    if encoded.first() != Some(&DATA) {
        return None;
    }
    let mut at = 1 + NAMESPACE_PREFIX_BYTES;
    loop {
        at += encoded.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        match *encoded.get(at)? {
            END => return encoded.get(..=at),
            ESCAPED_ZERO => at += 1,
            _ => return None,
        }
    }
}

/// Splits a data record's key into its key part and version. The key part is not parsed.
pub fn split_data(encoded: &[u8]) -> Option<(&[u8], Version)> {
    let (prefix, version) = encoded.split_last_chunk::<VERSION_BYTES>()?;
    (prefix.first() == Some(&DATA)).then_some((prefix, Version(!u64::from_be_bytes(*version))))
}

/// The internal key of a key part.
pub fn data_key(prefix: &[u8]) -> Option<Bytes> {
    if data_prefix(prefix)?.len() != prefix.len() {
        return None;
    }
    let (namespace, user) = prefix.get(1..prefix.len() - 2)?.split_at_checked(NAMESPACE_PREFIX_BYTES)?;
    let mut key = Vec::with_capacity(prefix.len());
    key.extend_from_slice(namespace);
    let mut escaped = false;
    for byte in user {
        if !escaped {
            key.push(*byte);
        }
        escaped = *byte == 0 && !escaped;
    }
    Some(Bytes::from(key))
}

#[cfg(test)]
mod tests;
