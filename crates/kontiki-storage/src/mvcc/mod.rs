//! Versions of keys: what one record holds, and how a key is read at a version.
//!
//! ```text
//!   key part │ !version      format kind flags value...
//!   b        │ !30           01     01   00    "new"        a read at 35 starts at (b, !35) and takes the first
//!   b        │ !20           01     02   00                 record of b that it meets: here version 30
//!   b        │ !10           01     01   00    "old"        at 25 it meets the delete: b is absent; at 15, "old"
//! ```
//!
//! A record is a header of three bytes and then the value as the caller gave it. `flags` is zero today; its bits are reserved for
//! a lease and an expiry between header and value, and a reader that meets one refuses rather than guess.
//!
//! Nothing here knows the partition or the clock; who reads at a version that is still growing gets what is there.

mod changes;
mod scan;

use bytes::Bytes;
use kontiki_types::{Fault, Version};

use crate::engine::Engine;
use crate::schema;

pub use changes::changes;
pub use scan::{Forward, page};

/// The format byte of a record written today.
pub const RECORD_FORMAT: u8 = 1;
/// Bytes of a record before its value.
pub const HEADER_BYTES: usize = 3;

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// No lease, no expiry.
const NO_FLAGS: u8 = 0;

/// What a record says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key has the value that follows the header.
    Put,
    /// The key was removed.
    Delete,
}

/// Appends the record of a put.
pub fn put_into(value: &[u8], out: &mut Vec<u8>) {
    out.extend([RECORD_FORMAT, PUT, NO_FLAGS]);
    out.extend_from_slice(value);
}

/// Appends the record of a delete.
pub fn delete_into(out: &mut Vec<u8>) {
    out.extend([RECORD_FORMAT, DELETE, NO_FLAGS]);
}

/// Reads the header of the record stored under `key` (the key on disk). The value is what follows `HEADER_BYTES`.
pub fn kind(key: &[u8], record: &[u8]) -> Result<Kind, Fault> {
    let Some(header) = record.first_chunk::<HEADER_BYTES>() else {
        return Err(Fault::corrupt(schema::place(key), format!("its value has {} bytes, fewer than a header", record.len())));
    };
    match *header {
        [RECORD_FORMAT, PUT, NO_FLAGS] => Ok(Kind::Put),
        [RECORD_FORMAT, DELETE, NO_FLAGS] => Ok(Kind::Delete),
        [RECORD_FORMAT, PUT | DELETE, flags] => {
            Err(Fault::corrupt(schema::place(key), format!("its flags {flags:#04x} are unknown; upgrade this node")))
        }
        [RECORD_FORMAT, kind, _] => Err(Fault::corrupt(schema::place(key), format!("its kind {kind} is unknown"))),
        [found, ..] => {
            Err(Fault::Format { place: schema::place(key), found, known: RECORD_FORMAT, advice: "upgrade this node".to_owned() })
        }
    }
}

/// The value of an internal key at a version, with the version that set it; `None` if it is absent there. One seek.
pub fn value_at(engine: &dyn Engine, key: &[u8], at: Version) -> Result<Option<(Version, Bytes)>, Fault> {
    let from = schema::Key::Data { key, version: at }.encode();
    // Version 0 is never written, so the exclusive end loses nothing, and both ends have the same key part.
    let to = schema::Key::Data { key, version: Version::ZERO }.encode();
    let Some((found, record)) = engine.first(&from, &to)? else { return Ok(None) };
    let version = version_of(&found)?;
    Ok(match kind(&found, &record)? {
        Kind::Put => Some((version, record.slice(HEADER_BYTES..))),
        Kind::Delete => None,
    })
}

fn version_of(key: &[u8]) -> Result<Version, Fault> {
    split(key).map(|(_, version)| version)
}

fn split(key: &[u8]) -> Result<(&[u8], Version), Fault> {
    schema::split_data(key).ok_or_else(|| Fault::corrupt(schema::place(key), "it is no data record, though it lies among them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_records() {
        let (mut put, mut delete) = (vec![], vec![]);
        put_into(b"v\x00", &mut put);
        delete_into(&mut delete);
        assert_eq!((hex::encode(&put), hex::encode(&delete)), ("0101007600".to_owned(), "010200".to_owned()));
        assert_eq!(kind(b"k", &put).expect("a put"), Kind::Put);
        assert_eq!(kind(b"k", &delete).expect("a delete"), Kind::Delete);
    }

    #[test]
    fn unknown_headers_are_refused_by_name() {
        let refused = |record: &[u8]| kind(b"k", record).expect_err("refused").to_string();
        assert_eq!(refused(b"\x01\x01"), "record `k` is corrupt: its value has 2 bytes, fewer than a header");
        assert_eq!(refused(b"\x02\x01\x00"), "record `k` has format 2, this program knows 1; upgrade this node");
        assert_eq!(refused(b"\x01\x03\x00"), "record `k` is corrupt: its kind 3 is unknown");
        assert_eq!(refused(b"\x01\x01\x80"), "record `k` is corrupt: its flags 0x80 are unknown; upgrade this node");
    }
}
