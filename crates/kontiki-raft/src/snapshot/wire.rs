//! What the two ends of a snapshot say to each other, in envelopes: the head in the payload, the rows of a chunk as its attachment. The
//! first byte is the encoding's format.

use bytes::Bytes;
use kontiki_types::encoding;
use serde::{Deserialize, Serialize};

use crate::codec::{self, WireLogId, WireVote};
use crate::transport::{Refusal, TransportError};
use crate::type_config::{LogId, StoredMembership, Vote};

/// A transfer: one view of one replica, for one target. Drawn by the sender; only compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct TransferId {
    /// Which start of the sender's node.
    pub(crate) start: u64,
    /// Its log position, which two views of a replica share only if they hold the same state.
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) index: u64,
    /// Counts the views of the sender.
    pub(crate) view: u64,
}

/// From the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    /// A snapshot is to be had.
    Offer { id: TransferId, vote: Vote, last: LogId, membership: StoredMembership, header: Bytes, anew: bool },
    /// All rows of a sub-range; they travel as the attachment.
    Chunk { number: u64, from: Bytes, to: Bytes, crc: u32 },
    /// That was all.
    Finish { totals: Totals },
}

/// From the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// Go on with this chunk, which begins here.
    Accept { next: u64, from: Bytes },
    /// Nothing is needed: what the snapshot holds is applied here.
    Have { vote: Vote },
    /// The sender does not lead any more.
    HigherVote { vote: Vote },
    /// Not now: too many transfers run already.
    Busy,
    /// Something is wrong; in words.
    Refused { why: String },
    /// The chunk is staged.
    Ack { number: u64 },
    /// Everything is here and is being taken over; that takes a while.
    Installing,
    /// It is done.
    Installed { vote: Vote },
}

/// What a whole transfer amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Chunks.
    pub(crate) chunks: u64,
    /// Rows.
    pub(crate) rows: u64,
    /// Bytes of the chunks.
    pub(crate) bytes: u64,
    /// A CRC over the CRCs of the chunks, in order.
    pub(crate) digest: u32,
}

impl Totals {
    /// With one chunk more.
    pub(crate) fn plus(self, rows: u64, bytes: u64, crc: u32) -> Self {
        let mut digest = crc32fast::Hasher::new_with_initial(self.digest);
        digest.update(&crc.to_le_bytes());
        Self { chunks: self.chunks + 1, rows: self.rows + rows, bytes: self.bytes + bytes, digest: digest.finalize() }
    }
}

/// The CRC of a chunk: over its number, its bounds and its rows, so that none of them can be exchanged.
pub(crate) fn chunk_crc(number: u64, from: &[u8], to: &[u8], rows: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    for bound in [from, to] {
        crc.update(&(bound.len() as u64).to_le_bytes());
        crc.update(bound);
    }
    crc.update(rows);
    crc.finalize()
}

#[derive(Serialize, Deserialize)]
enum WireUp {
    Offer { id: TransferId, vote: WireVote, last: WireLogId, membership: Bytes, header: Bytes, anew: bool },
    Chunk { number: u64, from: Bytes, to: Bytes, crc: u32 },
    Finish { totals: Totals },
}

#[derive(Serialize, Deserialize)]
enum WireDown {
    Accept { next: u64, from: Bytes },
    Have { vote: WireVote },
    HigherVote { vote: WireVote },
    Busy,
    Refused { why: String },
    Ack { number: u64 },
    Installing,
    Installed { vote: WireVote },
}

impl Up {
    pub(crate) fn encode(&self) -> Bytes {
        let wire = match self.clone() {
            Self::Offer { id, vote, last, membership, header, anew } => WireUp::Offer {
                id,
                vote: (&vote).into(),
                last: (&last).into(),
                membership: codec::encode_stored_membership(&membership),
                header,
                anew,
            },
            Self::Chunk { number, from, to, crc } => WireUp::Chunk { number, from, to, crc },
            Self::Finish { totals } => WireUp::Finish { totals },
        };
        encoding::encode(&wire).into()
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, TransportError> {
        let wire: WireUp = encoding::decode(payload).map_err(|error| unreadable(&error))?;
        Ok(match wire {
            WireUp::Offer { id, vote, last, membership, header, anew } => {
                let membership = codec::decode_stored_membership(&membership).map_err(|fault| unreadable(&fault))?;
                Self::Offer { id, vote: vote.into(), last: last.into(), membership, header, anew }
            }
            WireUp::Chunk { number, from, to, crc } => Self::Chunk { number, from, to, crc },
            WireUp::Finish { totals } => Self::Finish { totals },
        })
    }
}

impl Down {
    pub(crate) fn encode(&self) -> Bytes {
        let wire = match self.clone() {
            Self::Accept { next, from } => WireDown::Accept { next, from },
            Self::Have { vote } => WireDown::Have { vote: (&vote).into() },
            Self::HigherVote { vote } => WireDown::HigherVote { vote: (&vote).into() },
            Self::Busy => WireDown::Busy,
            Self::Refused { why } => WireDown::Refused { why },
            Self::Ack { number } => WireDown::Ack { number },
            Self::Installing => WireDown::Installing,
            Self::Installed { vote } => WireDown::Installed { vote: (&vote).into() },
        };
        encoding::encode(&wire).into()
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, TransportError> {
        let wire: WireDown = encoding::decode(payload).map_err(|error| unreadable(&error))?;
        Ok(match wire {
            WireDown::Accept { next, from } => Self::Accept { next, from },
            WireDown::Have { vote } => Self::Have { vote: vote.into() },
            WireDown::HigherVote { vote } => Self::HigherVote { vote: vote.into() },
            WireDown::Busy => Self::Busy,
            WireDown::Refused { why } => Self::Refused { why },
            WireDown::Ack { number } => Self::Ack { number },
            WireDown::Installing => Self::Installing,
            WireDown::Installed { vote } => Self::Installed { vote: vote.into() },
        })
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> TransportError {
    TransportError::refused(Refusal::Malformed, format!("a message about a snapshot does not parse: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::LeaderId;

    #[test]
    fn messages_round_trip_and_junk_is_refused() {
        let leader_id = LeaderId { term: 3, node_id: 2 };
        let (vote, last) = (Vote { leader_id, committed: true }, LogId { leader_id, index: 9 });
        let id = TransferId { start: 1, term: 3, leader: 2, index: 9, view: 4 };
        let membership = StoredMembership::new(Some(last), crate::type_config::Membership::default());
        let totals = Totals::default().plus(3, 100, 7).plus(1, 10, 8);
        let ups = [
            Up::Offer { id, vote, last, membership, header: "header".into(), anew: true },
            Up::Chunk { number: 5, from: "a".into(), to: "b".into(), crc: 77 },
            Up::Finish { totals },
        ];
        for up in ups {
            assert_eq!(Up::decode(&up.encode()), Ok(up));
        }
        let downs = [
            Down::Accept { next: 5, from: "a".into() },
            Down::Have { vote },
            Down::HigherVote { vote },
            Down::Busy,
            Down::Refused { why: "full".into() },
            Down::Ack { number: 5 },
            Down::Installing,
            Down::Installed { vote },
        ];
        for down in downs {
            assert_eq!(Down::decode(&down.encode()), Ok(down));
        }
        assert!(Up::decode(b"\x01junk").is_err() && Down::decode(b"").is_err());
        assert_eq!((totals.chunks, totals.rows, totals.bytes), (2, 4, 110));
        assert_ne!(totals.digest, Totals::default().plus(1, 10, 8).plus(3, 100, 7).digest, "order counts");
    }

    #[test]
    fn a_chunks_crc_covers_its_place_too() {
        let good = chunk_crc(1, b"a", b"b", b"rows");
        for other in [chunk_crc(2, b"a", b"b", b"rows"), chunk_crc(1, b"ab", b"", b"rows"), chunk_crc(1, b"a", b"b", b"rowz")] {
            assert_ne!(good, other);
        }
    }
}
