//! The one encoding of what is persisted or sent between nodes: a format byte, then bincode 2 (standard configuration: little
//! endian, variable-length integers). The only file that names bincode (DESIGN law 4).
//!
//! Decoding is total: any bytes give a value or an error, never a panic or an allocation beyond the input's size; trailing
//! bytes are an error. Decoding into `&[u8]` borrows from the input.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::Deserialize;
use thiserror::Error;

use crate::limits::LOG_RECORD_BYTES_MAX;

/// The format byte written today. A reader refuses what is newer.
pub const FORMAT: u8 = 1;

/// Bounds what one decode may allocate: nothing that we persist or send is larger than this.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ 4 * LOG_RECORD_BYTES_MAX }>> =
    bincode::config::standard().with_limit::<{ 4 * LOG_RECORD_BYTES_MAX }>();

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Written by a newer version, or not by Kontiki.
    #[error("its format byte is {found}, this program knows {FORMAT}; upgrade this node")]
    Format {
        /// The byte found.
        found: u8,
    },
    /// Does not parse.
    #[error("it does not parse: {0}")]
    Malformed(String),
    /// Bytes are left over.
    #[error("{0} bytes are left over after the value")]
    Trailing(usize),
}

/// Encodes a value: format byte, then the value. Never fails for our types (no maps of unknown length, no unsupported serde
/// features); a failure is a defect and is returned as a message.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(value, &mut out);
    out
}

/// As [`encode`], appended to `out`.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    out.push(FORMAT);
    bincode::serde::encode_into_std_write(value, out, CONFIG).expect("invariant: our types encode into a Vec without error");
}

/// Decodes a value and demands that nothing is left over.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let (format, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *format != FORMAT {
        return Err(DecodeError::Format { found: *format });
    }
    let (value, used) =
        bincode::serde::borrow_decode_from_slice(body, CONFIG).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match body.len() - used {
        0 => Ok(value),
        left => Err(DecodeError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Command, Condition, Op, Write};
    use crate::id::PartitionId;
    use crate::partition::Epoch;
    use crate::session::{RequestId, SessionId};
    use crate::version::Version;

    fn command<B: Clone>(key: B, value: B) -> Command<B> {
        let session = SessionId { partition: PartitionId(2), opened: Version(70_000) };
        Command::Writes {
            stamp_ms: 1_700_000_000_000,
            writes: vec![Write {
                epoch: Epoch { conf: 1, bounds: 2 },
                request: Some(RequestId { session, sequence: 3, acknowledged_below: 2 }),
                conditions: vec![Condition::VersionIs { key: key.clone(), version: Version(9) }],
                ops: vec![Op::Put { key: key.clone(), value }, Op::Delete { key }],
            }],
        }
    }

    #[test]
    fn golden_bytes_of_a_command() {
        let bytes = encode(&command(Bytes::from_static(b"k"), Bytes::from_static(b"vv")));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0100fd0068e5cf8b0100000101020102fc7011010003020102016b090200016b02767601016b");
    }

    #[test]
    fn decoding_borrows_and_equals_what_was_owned() {
        let owned = encode(&command(Bytes::from_static(b"k"), Bytes::from_static(b"vv")));
        let borrowed: Command<&[u8]> = decode(&owned).expect("decodes");
        assert_eq!(borrowed, command(b"k".as_slice(), b"vv".as_slice()));
        assert_eq!(encode(&borrowed), owned);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(decode::<u64>(&[]), Err(DecodeError::Empty));
        assert_eq!(decode::<u64>(&[9, 1]), Err(DecodeError::Format { found: 9 }));
        assert_eq!(decode::<u64>(&[1, 1, 1]), Err(DecodeError::Trailing(1)));
        assert!(matches!(decode::<Command<&[u8]>>(&[1, 77]), Err(DecodeError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let mut framed = vec![FORMAT];
            framed.extend(&bytes);
            let _ = decode::<Command<&[u8]>>(&framed);
            let _ = decode::<crate::partition::PartitionMap>(&framed);
        }

        #[test]
        fn commands_round_trip(key: Vec<u8>, value: Vec<u8>) {
            let bytes = encode(&command(Bytes::from(key.clone()), Bytes::from(value.clone())));
            prop_assert_eq!(decode::<Command<&[u8]>>(&bytes).expect("decodes"), command(key.as_slice(), value.as_slice()));
        }
    }
}
