//! A segment's header: which file this is, where its predecessor ends, and the hard state of every group when it was begun, so that
//! an old segment is never needed for a vote or a purge point.
//!
//! ```text
//!   offset  bytes
//!        0      1   format, now 2
//!        1      7   magic "KTKLOG\n"
//!        8      4   CRC-32 (IEEE) of bytes 0..8 and of all from 12 to the end of the header
//!       12      4   length of the header, a multiple of 8: the first frame starts there
//!       16      8   id of this segment
//!       24      8   size of this file: a shorter one was truncated
//!       32      8   id of the oldest segment that the log still needed
//!       40      8   id of the previous segment (nothing to be found there if this one is the oldest)
//!       48      8   end of the previous segment: up to here it is full of good, durable frames; behind is nothing
//!       56      8   sequence of the first frame of this segment
//!       64      8   number of groups
//!       72     16   id of the store (data directory) whose log this is
//!       88      n   the groups, then zeros
//!
//!   group: id:8 flags:1 first:8 next:8 [vote length:4 vote] [committed length:4 committed] [purged:8 length:4 state]
//!   flags: 1 has a vote, 2 has a commit point, 4 has a purge point, 8 `next` is known
//! ```
//!
//! A header is durable before its file gets its name, so a segment with a bad header is damaged, also if it is the newest.

use bytes::Bytes;
use kontiki_types::{Fault, PartitionId, StoreId};

use super::frame::align;
use super::index::{Bounds, HardState};
use super::record::{Cursor, put_bytes};

/// The format written today.
pub(crate) const FORMAT: u8 = 2;
/// Bytes before the groups.
const FIXED_BYTES: u32 = 88;
const MAGIC: &[u8; 7] = b"KTKLOG\n";
/// Bytes up to and with the header's length: enough to know how much to read.
pub(crate) const PREFIX_BYTES: usize = 16;
/// A header of 1024 groups with the largest hard states stays below; a larger length is damage.
const HEADER_BYTES_MAX: u32 = 64 * 1024 * 1024;

const HAS_VOTE: u8 = 1;
const HAS_COMMITTED: u8 = 2;
const HAS_PURGED: u8 = 4;
const HAS_NEXT: u8 = 8;

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) oldest: u64,
    pub(crate) previous: u64,
    pub(crate) previous_end: u64,
    pub(crate) first_sequence: u64,
    pub(crate) store: StoreId,
    pub(crate) groups: Vec<(PartitionId, HardState)>,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(MAGIC);
        out.resize(PREFIX_BYTES, 0);
        let count = self.groups.len() as u64;
        for number in [self.id, self.size, self.oldest, self.previous, self.previous_end, self.first_sequence, count] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.store.0);
        for (group, state) in &self.groups {
            put_group(&mut out, *group, state);
        }
        let length = align(out.len() as u64);
        out.resize(usize::try_from(length).unwrap_or(out.len()), 0);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out[12..16].copy_from_slice(&length.to_le_bytes());
        let crc = sum(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// How long the header is whose first `PREFIX_BYTES` these are. Says what is wrong with a file that is not ours.
    pub(crate) fn length(place: &str, prefix: &[u8]) -> Result<u64, Fault> {
        let (Some((format, rest)), true) = (prefix.split_first(), prefix.len() >= PREFIX_BYTES) else {
            return Err(Fault::corrupt(
                format!("{place} at byte 0"),
                format!("it has {} bytes and was truncated inside its header; {}", prefix.len(), super::ADVICE),
            ));
        };
        if !rest.starts_with(MAGIC) {
            let found = prefix.get(..8).unwrap_or_default().escape_ascii();
            return Err(Fault::corrupt(
                format!("{place} at byte 0"),
                format!(
                    "it starts with `{found}`, which is no segment of a Kontiki raft log; if the file does not belong here, move it \
                     away; if it does, {}",
                    super::ADVICE
                ),
            ));
        }
        if *format != FORMAT {
            let advice =
                "it was written by another version of Kontiki: start that version (or a newer one) on this directory".to_owned();
            return Err(Fault::Format { place: place.to_owned(), found: *format, known: FORMAT, advice });
        }
        let length = Cursor(prefix.get(12..).unwrap_or_default()).u32().unwrap_or_default();
        if !(FIXED_BYTES..=HEADER_BYTES_MAX).contains(&length) || !length.is_multiple_of(8) {
            return Err(Fault::corrupt(
                format!("{place} at byte 12"),
                format!("the header's length is {length}, it is {FIXED_BYTES} or more and a multiple of 8; {}", super::ADVICE),
            ));
        }
        Ok(u64::from(length))
    }

    /// Decodes a whole header, whose length [`Header::length`] has told.
    pub(crate) fn decode(place: &str, bytes: &[u8]) -> Result<Self, Fault> {
        let length = Self::length(place, bytes.get(..PREFIX_BYTES).unwrap_or(bytes))?;
        let bad = |detail: String| Fault::corrupt(format!("{place} at byte 8"), format!("{detail}; {}", super::ADVICE));
        if (bytes.len() as u64) < length {
            return Err(bad(format!("the header has {length} bytes, but the file ends after {}: it was truncated", bytes.len())));
        }
        let stored = Cursor(bytes.get(8..).unwrap_or_default()).u32().unwrap_or_default();
        let computed = sum(bytes);
        if stored != computed {
            return Err(bad(format!("the header's CRC-32 is {stored:08x}, its bytes give {computed:08x}")));
        }
        Self::parse(bytes).ok_or_else(|| bad("the header's CRC-32 is right, but it does not parse".to_owned()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes.get(PREFIX_BYTES..)?);
        let mut header = Self {
            id: cursor.u64()?,
            size: cursor.u64()?,
            oldest: cursor.u64()?,
            previous: cursor.u64()?,
            previous_end: cursor.u64()?,
            first_sequence: cursor.u64()?,
            store: StoreId::default(),
            groups: Vec::new(),
        };
        let count = cursor.u64()?;
        let (store, rest) = cursor.0.split_first_chunk()?;
        (header.store, cursor.0) = (StoreId(*store), rest);
        for _ in 0..count {
            header.groups.push(take_group(&mut cursor)?);
        }
        cursor.0.iter().all(|byte| *byte == 0).then_some(header)
    }
}

fn sum(header: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(header.get(..8).unwrap_or_default());
    hash.update(header.get(12..).unwrap_or_default());
    hash.finalize()
}

fn put_group(out: &mut Vec<u8>, group: PartitionId, state: &HardState) {
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    out.extend_from_slice(&group.0.to_le_bytes());
    out.push(
        flag(state.vote.is_some(), HAS_VOTE)
            | flag(state.committed.is_some(), HAS_COMMITTED)
            | flag(state.bounds.purged.is_some(), HAS_PURGED)
            | flag(state.bounds.next.is_some(), HAS_NEXT),
    );
    out.extend_from_slice(&state.bounds.first.to_le_bytes());
    out.extend_from_slice(&state.bounds.next.unwrap_or_default().to_le_bytes());
    for bytes in [&state.vote, &state.committed].into_iter().flatten() {
        put_bytes(out, bytes);
    }
    if let Some(upto) = state.bounds.purged {
        out.extend_from_slice(&upto.to_le_bytes());
        put_bytes(out, &state.purged_state);
    }
}

fn take_group(cursor: &mut Cursor<'_>) -> Option<(PartitionId, HardState)> {
    let group = PartitionId(cursor.u64()?);
    let flags = cursor.u8()?;
    let mut state = HardState { bounds: Bounds { first: cursor.u64()?, ..Bounds::default() }, ..HardState::default() };
    let next = cursor.u64()?;
    state.bounds.next = (flags & HAS_NEXT != 0).then_some(next);
    if flags & HAS_VOTE != 0 {
        state.vote = Some(Bytes::copy_from_slice(cursor.counted()?));
    }
    if flags & HAS_COMMITTED != 0 {
        state.committed = Some(Bytes::copy_from_slice(cursor.counted()?));
    }
    if flags & HAS_PURGED != 0 {
        state.bounds.purged = Some(cursor.u64()?);
        state.purged_state = Bytes::copy_from_slice(cursor.counted()?);
    }
    Some((group, state))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        let bounds = Bounds { first: 5, next: Some(9), purged: Some(4) };
        let full = HardState {
            vote: Some(Bytes::from_static(b"v")),
            committed: Some(Bytes::from_static(b"cc")),
            purged_state: Bytes::from_static(b"ppp"),
            bounds,
        };
        Header {
            id: 3,
            size: 4096,
            oldest: 2,
            previous: 2,
            previous_end: 1000,
            first_sequence: 17,
            store: StoreId(*b"0123456789abcdef"),
            groups: vec![(PartitionId(1), full), (PartitionId(2), HardState::default())],
        }
    }

    #[test]
    fn golden_bytes_of_a_header() {
        let bytes = header().encode();
        let golden = "024b544b4c4f470ae3751626a80000000300000000000000001000000000000002000000000000000200000000000000e803000000000000\
                      110000000000000002000000000000003031323334353637383961626364656601000000000000000f050000000000000009000000000000\
                      0001000000760200000063630400000000000000030000007070700200000000000000000000000000000000000000000000000000000000";
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(Header::decode("x", &bytes).expect("decodes"), header());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode("x", &flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Header::decode("x", &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(mut bytes: Vec<u8>, resum: bool) {
            let mut framed = header().encode();
            framed.truncate(PREFIX_BYTES);
            framed.append(&mut bytes);
            framed.resize(framed.len().max(88).next_multiple_of(8), 0);
            let length = framed.len() as u32;
            framed[12..16].copy_from_slice(&length.to_le_bytes());
            if resum {
                let crc = sum(&framed);
                framed[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = Header::decode("x", &framed);
        }
    }
}
