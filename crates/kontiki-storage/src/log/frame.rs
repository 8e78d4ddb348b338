//! Frames: what one `write` puts into a segment with one `pwrite`, and the sums that tell a whole frame from a torn one.
//!
//! ```text
//!   offset  bytes
//!        0      4   CRC-32 (IEEE) of: the segment's id (8 bytes), bytes 4..24 of this header, the body
//!        4      4   length of the body
//!        8      8   sequence: the frame's number, counted through the whole log from 1
//!       16      8   synced: when this frame was written, all frames up to this number were durable
//!       24      n   body: records
//!                   zeros up to the next multiple of 8
//! ```
//!
//! The segment's id is part of the sum, so that bytes which a recycled segment has left behind never validate.
//!
//! `synced` tells damage from a tear. Frames that were written since the last fsync may survive a power cut in any combination,
//! each whole, torn or missing, so a bad frame with good ones behind it may be a tear. But if any good frame behind it says that
//! the bad one was durable, then the bytes have changed since: that is damage.

use super::record::{Cursor, Record};

/// Bytes before a frame's body.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Frames start at multiples of this.
pub(crate) const FRAME_ALIGN: u64 = 8;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) crc: u32,
    pub(crate) length: u32,
    pub(crate) sequence: u64,
    pub(crate) synced: u64,
}

impl FrameHeader {
    /// Parses the first bytes of a frame; `None` if they are too few. Nothing is checked.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        Some(Self { crc: cursor.u32()?, length: cursor.u32()?, sequence: cursor.u64()?, synced: cursor.u64()? })
    }

    /// Bytes of the frame in the segment, with its padding.
    pub(crate) fn total_bytes(&self) -> u64 {
        align(FRAME_HEADER_BYTES as u64 + u64::from(self.length))
    }

    /// The sum that this header and body should carry in this segment.
    pub(crate) fn sum(&self, segment: u64, body: &[u8]) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        hash.update(&segment.to_le_bytes());
        hash.update(&self.length.to_le_bytes());
        hash.update(&self.sequence.to_le_bytes());
        hash.update(&self.synced.to_le_bytes());
        hash.update(body);
        hash.finalize()
    }

    fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[..4].copy_from_slice(&self.crc.to_le_bytes());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..].copy_from_slice(&self.synced.to_le_bytes());
        out
    }
}

/// Rounds up to where a frame may start.
pub(crate) fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAME_ALIGN)
}

/// Makes frames in one buffer that is used again and again: a payload is copied once, from the record into here.
#[derive(Default)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Starts a frame with as many of the records as fit in `body_bytes_max`, at least one. Returns how many were taken.
    pub(crate) fn fill(&mut self, records: &[Record], body_bytes_max: usize) -> usize {
        self.bytes.clear();
        self.bytes.resize(FRAME_HEADER_BYTES, 0);
        let mut taken = 0;
        for record in records {
            let body_bytes = self.bytes.len() - FRAME_HEADER_BYTES;
            if taken > 0 && body_bytes + record.size_bytes() > body_bytes_max {
                break;
            }
            record.encode_into(&mut self.bytes);
            taken += 1;
        }
        taken
    }

    /// Starts a frame with a body that is already encoded.
    pub(crate) fn fill_encoded(&mut self, body: &[u8]) {
        self.bytes.clear();
        self.bytes.resize(FRAME_HEADER_BYTES, 0);
        self.bytes.extend_from_slice(body);
    }

    /// Bytes that the frame will take.
    pub(crate) fn total_bytes(&self) -> u64 {
        align(self.bytes.len() as u64)
    }

    /// Ends the frame for its place: header and padding. Returns its bytes; to be called once for each fill.
    pub(crate) fn finish(&mut self, segment: u64, sequence: u64, synced: u64) -> &[u8] {
        let body = self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut header = FrameHeader { crc: 0, length, sequence, synced };
        header.crc = header.sum(segment, body);
        self.bytes[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        let padded = header.total_bytes();
        self.bytes.resize(usize::try_from(padded).unwrap_or(self.bytes.len()), 0);
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kontiki_types::PartitionId;

    use super::*;

    fn vote(byte: u8) -> Record {
        Record::Vote { group: PartitionId(3), vote: Bytes::copy_from_slice(&[byte]) }
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let mut frame = FrameBuffer::default();
        assert_eq!(frame.fill(&[vote(9)], 1 << 20), 1);
        let hex = hex::encode(frame.finish(2, 7, 6));
        assert_eq!(hex, "5acf0a7e0e0000000700000000000000060000000000000004030000000000000001000000090000");
    }

    #[test]
    fn a_sum_holds_only_in_its_segment_and_for_every_bit() {
        let mut frame = FrameBuffer::default();
        frame.fill(&[vote(9)], 1 << 20);
        let bytes = frame.finish(2, 7, 6).to_vec();
        let valid = |bytes: &[u8], segment| {
            let header = FrameHeader::parse(bytes).expect("long enough");
            let end = FRAME_HEADER_BYTES + header.length as usize;
            bytes.get(FRAME_HEADER_BYTES..end).is_some_and(|body| header.sum(segment, body) == header.crc)
        };
        assert!(valid(&bytes, 2));
        assert!(!valid(&bytes, 3));
        for bit in 0..(FRAME_HEADER_BYTES + 14) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!valid(&flipped, 2), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_takes_what_fits_and_at_least_one() {
        let mut frame = FrameBuffer::default();
        let records = [vote(1), vote(2), vote(3)];
        assert_eq!(frame.fill(&records, 1), 1);
        assert_eq!(frame.fill(&records, 28), 2);
        assert_eq!(frame.total_bytes(), 56);
        assert_eq!(frame.finish(1, 1, 0).len(), 56);
    }
}
