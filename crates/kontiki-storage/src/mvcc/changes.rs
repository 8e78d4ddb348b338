//! What was written to a range since a version: for each key its newest write at the version that is read, if that is newer than another
//! version. Deletions are told too; that is what sets it apart from a scan.
//!
//! ```text
//!   after 10, read at 30     a: put 5           nothing: it was so before
//!                            b: put 5, put 20   b = what 20 wrote
//!                            c: put 5, del 25   c was removed
//!                            d: del 5, put 40   nothing: 40 is too new, and 5 was before
//! ```
//!
//! Every key of the range is looked at, so this costs as much as a scan without its values.

use bytes::Bytes;
use kontiki_types::limits::SCAN_KEYS_LOOKED_AT_MAX;
use kontiki_types::read::{Change, Changes};
use kontiki_types::{Fault, Version};

use super::scan::{Forward, key_of};
use super::{HEADER_BYTES, Kind, kind};
use crate::engine::Engine;

/// One page of changes at a version, and where the next one starts. `rows_max` is at least 1. The caller has made sure that no deletion
/// newer than `asked.after` was forgotten.
pub fn changes(engine: &dyn Engine, asked: &Changes, at: Version) -> Result<(Vec<Change>, Option<Bytes>), Fault> {
    let (mut changes, mut bytes) = (Vec::new(), 0);
    if asked.range.is_empty() || asked.after >= at {
        return Ok((changes, None));
    }
    let mut walk = Forward::open(engine, &asked.range, at)?;
    for _ in 0..SCAN_KEYS_LOOKED_AT_MAX {
        let there = walk.pass(|cursor, part, version| {
            if version > asked.after {
                let value = match kind(cursor.key(), cursor.value())? {
                    Kind::Put => Some(Bytes::copy_from_slice(&cursor.value()[HEADER_BYTES..])),
                    Kind::Delete => None,
                };
                let change = Change { key: key_of(part)?, value, version };
                bytes += change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
                changes.push(change);
            }
            Ok(())
        })?;
        if !there {
            return Ok((changes, None));
        }
        if changes.len() >= asked.rows_max as usize || bytes >= asked.bytes_max as usize {
            break;
        }
    }
    let resume = walk.resume()?;
    Ok((changes, resume))
}
