//! Records: what the groups of a node ask the log to remember, and their bytes inside a frame.
//!
//! All numbers are little endian. A frame's body is one record after the other, nothing between and nothing after:
//!
//! ```text
//!   Entry      01 group:8 index:8 length:4 crc:4 head ++ body     length of head ++ body; crc of all before it and head ++ body
//!   Truncate   02 group:8 from:8
//!   Purge      03 group:8 upto:8 length:4 state
//!   Vote       04 group:8 length:4 vote
//!   Committed  05 group:8 length:4 committed
//!   Forget     06 group:8
//! ```
//!
//! An entry has a CRC of its own besides that of its frame, because a reader fetches single entries long after the frame was
//! checked.

use bytes::Bytes;
use kontiki_types::PartitionId;

/// One thing to remember. All bytes are opaque to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A log entry. It must follow the group's last entry (or its purge point) without a hole; the first entry of a group that
    /// has neither may have any index.
    Entry {
        /// The group.
        group: PartitionId,
        /// Its place in the group's log; below `u64::MAX`.
        index: u64,
        /// First part of what is stored: made for the log.
        head: Bytes,
        /// Second part: bytes that came from elsewhere and are not copied before. Read back as `head ++ body`.
        body: Bytes,
    },
    /// Voids the group's entries at and above an index. Beyond the last entry it does nothing.
    Truncate {
        /// The group.
        group: PartitionId,
        /// The first index voided.
        from: u64,
    },
    /// Voids the group's entries up to an index, which may lie beyond the last one: then the group is empty and goes on at
    /// `upto + 1`. At or below an earlier purge it does nothing.
    Purge {
        /// The group.
        group: PartitionId,
        /// The last index voided; below `u64::MAX`.
        upto: u64,
        /// What the caller wants to know of that point, such as its log id.
        state: Bytes,
    },
    /// Replaces the group's vote.
    Vote {
        /// The group.
        group: PartitionId,
        /// The vote.
        vote: Bytes,
    },
    /// Replaces the group's commit point.
    Committed {
        /// The group.
        group: PartitionId,
        /// The commit point.
        committed: Bytes,
    },
    /// Forgets everything about a group, its vote too. For a replica that has left this node for ever.
    Forget {
        /// The group.
        group: PartitionId,
    },
}

/// A record without its payload: what the index has to know. Made from a [`Record`] when writing and from bytes when recovering,
/// so that both change the index by the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View<'a> {
    Entry { group: PartitionId, index: u64, length: u32 },
    Truncate { group: PartitionId, from: u64 },
    Purge { group: PartitionId, upto: u64, state: &'a [u8] },
    Vote { group: PartitionId, vote: &'a [u8] },
    Committed { group: PartitionId, committed: &'a [u8] },
    Forget { group: PartitionId },
}

const ENTRY: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const VOTE: u8 = 4;
const COMMITTED: u8 = 5;
const FORGET: u8 = 6;

/// Bytes of an entry before its payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 25;
/// Where an entry's CRC lies.
const ENTRY_CRC_AT: usize = 21;

impl Record {
    /// The group that it belongs to.
    pub fn group(&self) -> PartitionId {
        match self {
            Self::Entry { group, .. }
            | Self::Truncate { group, .. }
            | Self::Purge { group, .. }
            | Self::Vote { group, .. }
            | Self::Committed { group, .. }
            | Self::Forget { group } => *group,
        }
    }

    /// Bytes of the record in a frame.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Entry { head, body, .. } => ENTRY_HEADER_BYTES + head.len() + body.len(),
            Self::Truncate { .. } => 17,
            Self::Purge { state, .. } => 21 + state.len(),
            Self::Vote { vote: state, .. } | Self::Committed { committed: state, .. } => 13 + state.len(),
            Self::Forget { .. } => 9,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Self::Entry { group, index, head, body } => {
                View::Entry { group: *group, index: *index, length: length(head) + length(body) }
            }
            Self::Truncate { group, from } => View::Truncate { group: *group, from: *from },
            Self::Purge { group, upto, state } => View::Purge { group: *group, upto: *upto, state },
            Self::Vote { group, vote } => View::Vote { group: *group, vote },
            Self::Committed { group, committed } => View::Committed { group: *group, committed },
            Self::Forget { group } => View::Forget { group: *group },
        }
    }

    /// Appends the record's bytes. Its sizes were checked against the limits before.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry { group, index, head, body } => {
                let start = out.len();
                put(out, ENTRY, *group);
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&(length(head) + length(body)).to_le_bytes());
                let crc = entry_crc(&out[start..], head, body);
                out.extend_from_slice(&crc.to_le_bytes());
                out.extend_from_slice(head);
                out.extend_from_slice(body);
            }
            Self::Truncate { group, from } => {
                put(out, TRUNCATE, *group);
                out.extend_from_slice(&from.to_le_bytes());
            }
            Self::Purge { group, upto, state } => {
                put(out, PURGE, *group);
                out.extend_from_slice(&upto.to_le_bytes());
                put_bytes(out, state);
            }
            Self::Vote { group, vote } => {
                put(out, VOTE, *group);
                put_bytes(out, vote);
            }
            Self::Committed { group, committed } => {
                put(out, COMMITTED, *group);
                put_bytes(out, committed);
            }
            Self::Forget { group } => put(out, FORGET, *group),
        }
    }
}

impl View<'_> {
    pub(crate) fn group(&self) -> PartitionId {
        match self {
            Self::Entry { group, .. }
            | Self::Truncate { group, .. }
            | Self::Purge { group, .. }
            | Self::Vote { group, .. }
            | Self::Committed { group, .. }
            | Self::Forget { group } => *group,
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u8, group: PartitionId) {
    out.push(kind);
    out.extend_from_slice(&group.0.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A length that the limits keep far below 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn entry_crc(front: &[u8], head: &[u8], body: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(front);
    hash.update(head);
    hash.update(body);
    hash.finalize()
}

/// Takes numbers and byte strings off the front of a slice. Every call is total.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and as many bytes.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.bytes(usize::try_from(count).ok()?)
    }
}

/// The records of a frame's body, each with its offset in it. The first error ends it.
pub(crate) fn decode(body: &[u8]) -> impl Iterator<Item = Result<(usize, View<'_>), String>> {
    let mut cursor = Cursor(body);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || cursor.0.is_empty() {
            return None;
        }
        let at = body.len() - cursor.0.len();
        let kind = cursor.0.first().copied().unwrap_or_default();
        let view = decode_one(&mut cursor);
        failed = view.is_none();
        Some(
            view.map(|view| (at, view))
                .ok_or_else(|| format!("the record of kind {kind} at byte {at} of the frame does not parse")),
        )
    })
}

fn decode_one<'a>(cursor: &mut Cursor<'a>) -> Option<View<'a>> {
    let kind = cursor.u8()?;
    let group = PartitionId(cursor.u64()?);
    Some(match kind {
        ENTRY => {
            let (index, length, _crc) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
            cursor.bytes(usize::try_from(length).ok()?)?;
            View::Entry { group, index, length }
        }
        TRUNCATE => View::Truncate { group, from: cursor.u64()? },
        PURGE => View::Purge { group, upto: cursor.u64()?, state: cursor.counted()? },
        VOTE => View::Vote { group, vote: cursor.counted()? },
        COMMITTED => View::Committed { group, committed: cursor.counted()? },
        FORGET => View::Forget { group },
        _ => return None,
    })
}

/// The payload of the entry whose bytes start here, if they are those of this group's index and their CRC holds.
pub(crate) fn entry_payload(bytes: &Bytes, group: PartitionId, index: u64) -> Option<Bytes> {
    let mut cursor = Cursor(bytes);
    let right = cursor.u8()? == ENTRY && cursor.u64()? == group.0 && cursor.u64()? == index;
    let (length, crc) = (usize::try_from(cursor.u32()?).ok()?, cursor.u32()?);
    let payload = cursor.bytes(length)?;
    let sum = entry_crc(bytes.get(..ENTRY_CRC_AT)?, payload, &[]);
    (right && sum == crc).then(|| bytes.slice(ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: PartitionId = PartitionId(3);

    fn all_kinds(index: u64, bytes: Vec<u8>) -> Vec<Record> {
        let bytes = Bytes::from(bytes);
        vec![
            Record::Entry { group: GROUP, index, head: Bytes::from_static(b"he"), body: bytes.clone() },
            Record::Truncate { group: GROUP, from: index },
            Record::Purge { group: GROUP, upto: index, state: bytes.clone() },
            Record::Vote { group: GROUP, vote: bytes.clone() },
            Record::Committed { group: GROUP, committed: bytes },
            Record::Forget { group: GROUP },
        ]
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let mut out = Vec::new();
        records.iter().for_each(|record| record.encode_into(&mut out));
        out
    }

    #[test]
    fn golden_bytes_of_every_kind() {
        let lines: Vec<String> =
            all_kinds(7, b"xyz".to_vec()).iter().map(|record| hex::encode(encode(std::slice::from_ref(record)))).collect();
        let golden = [
            "0103000000000000000700000000000000050000003acf6ca6686578797a",
            "0203000000000000000700000000000000",
            "03030000000000000007000000000000000300000078797a",
            "0403000000000000000300000078797a",
            "0503000000000000000300000078797a",
            "060300000000000000",
        ];
        assert_eq!(lines, golden);
    }

    #[test]
    fn an_entry_is_read_back_only_if_every_bit_is_right() {
        let bytes = encode(&all_kinds(7, b"xyz".to_vec())[..1]);
        let good = Bytes::from(bytes.clone());
        assert_eq!(entry_payload(&good, GROUP, 7), Some(Bytes::from_static(b"hexyz")));
        assert_eq!(entry_payload(&good, GROUP, 8), None);
        assert_eq!(entry_payload(&good, PartitionId(4), 7), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(entry_payload(&Bytes::from(flipped), GROUP, 7), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(index: u64, bytes: Vec<u8>) {
            let records = all_kinds(index, bytes);
            let body = encode(&records);
            prop_assert_eq!(body.len(), records.iter().map(Record::size_bytes).sum::<usize>());
            let decoded: Vec<_> = decode(&body).map(|record| record.map(|(_, view)| view)).collect::<Result<_, _>>().expect("decodes");
            prop_assert_eq!(decoded, records.iter().map(Record::view).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes).count() <= bytes.len());
            let _ = entry_payload(&Bytes::from(bytes), GROUP, 1);
        }
    }
}
