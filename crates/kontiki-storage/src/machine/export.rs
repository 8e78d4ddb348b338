//! Giving a replica's state away: a header, and then its rows in chunks that the receiver can ask for in order, one by one, and again.
//!
//! ```text
//!   view ─► Export ─► header
//!                 ─► chunk(from "")      [sessions.. ──┐ rows      each chunk tells the sub-range that it covers, also
//!                 ─► chunk(from = to) ◄────────────────┘           where nothing lies in it: chunk after chunk the
//!                 ─► ... ─► None                                   sub-ranges tile the ranges of the state
//! ```
//!
//! All is read from one view: one moment, however long it takes. Nothing is kept between chunks, so a transfer that broke goes on at the
//! first chunk that the receiver does not have.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::{Fault, PartitionId};

use super::Machine;
use super::header::{self, Header};
use crate::engine::View;
use crate::mvcc::{self, Kind};
use crate::schema;

/// The state of one replica at one moment. Cheap to clone; for any thread.
#[derive(Clone)]
pub struct Export {
    view: Arc<dyn View>,
    header: Arc<Header>,
}

/// Rows of one sub-range: all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where the sub-range begins.
    pub from: Bytes,
    /// Where it ends, and the next one begins.
    pub to: Bytes,
    /// What lies in it.
    pub rows: Rows,
}

/// Rows as they are sent: for each `length of the key:4 length of the value:4 key value`, lengths little endian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Bytes,
    count: usize,
}

/// Bytes of a row besides its key and value.
const ROW_HEADER_BYTES: usize = 8;

/// The ranges of which a replica's rows are made, in order.
pub(super) fn ranges(header: &Header) -> Vec<(Vec<u8>, Vec<u8>)> {
    let ranges = [schema::sessions(header.descriptor.id), schema::data(&header.descriptor.range)];
    ranges.into_iter().filter(|(from, to)| from < to).collect()
}

impl Machine {
    /// The state of a partition's replica in a view of the engine that holds it; `None` if the view holds none.
    pub fn export(view: Arc<dyn View>, partition: PartitionId) -> Result<Option<Export>, Fault> {
        let loaded = header::load(&|key| view.get(key), partition)?;
        Ok(loaded.map(|(header, _)| Export { view, header: Arc::new(header) }))
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Export {
    /// The state without its rows.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The view that it is read from.
    pub fn view(&self) -> &Arc<dyn View> {
        &self.view
    }

    /// A hash of everything that a replica must have in common with the others that have applied the same entries: position, descriptor, clock,
    /// horizon, sessions, and of the data what can be read at or above the horizon, wherever compaction has come on each of them. The
    /// same in all processes of one build; for tests.
    pub fn content_hash(&self) -> Result<u64, Fault> {
        let mut hash = DefaultHasher::new();
        self.header.encode().hash(&mut hash);
        for (from, to) in ranges(&self.header) {
            let mut cursor = self.view.cursor(&from, &to)?;
            cursor.seek(&from)?;
            // The key part of which the newest record at or below the horizon was passed.
            let mut passed = Vec::new();
            while cursor.valid() {
                let (key, record) = (cursor.key(), cursor.value());
                let counts = match schema::split_data(key) {
                    Some((part, version)) if version <= self.header.horizon => {
                        let newest = passed != part;
                        part.clone_into(&mut passed);
                        newest && mvcc::kind(key, record)? == Kind::Put
                    }
                    _ => true,
                };
                if counts {
                    (key, record).hash(&mut hash);
                }
                cursor.next()?;
            }
        }
        Ok(hash.finish())
    }

    /// The next rows at or after `from`: empty for the first chunk, then the `to` of the one before. `None` if that was the last. A chunk ends
    /// before the row that would make it larger than `bytes_max`, but has at least one row if there is one.
    pub fn chunk(&self, from: &[u8], bytes_max: usize) -> Result<Option<Chunk>, Fault> {
        let Some((start, end)) = ranges(&self.header).into_iter().find(|(_, end)| from < end.as_slice()) else { return Ok(None) };
        let start = start.max(from.to_vec());
        let mut cursor = self.view.cursor(&start, &end)?;
        cursor.seek(&start)?;
        let mut bytes = Vec::new();
        let mut count = 0;
        while cursor.valid() {
            let (key, value) = (cursor.key(), cursor.value());
            if count > 0 && bytes.len() + ROW_HEADER_BYTES + key.len() + value.len() > bytes_max {
                break;
            }
            for part in [key, value] {
                let length = u32::try_from(part.len()).map_err(|_| Fault::corrupt(schema::place(key), "it has 4 GiB or more"))?;
                bytes.extend_from_slice(&length.to_le_bytes());
            }
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
            count += 1;
            cursor.next()?;
        }
        let to = if cursor.valid() { Bytes::copy_from_slice(cursor.key()) } else { end.into() };
        Ok(Some(Chunk { from: start.into(), to, rows: Rows { bytes: bytes.into(), count } }))
    }
}

impl Rows {
    /// Takes bytes that came from elsewhere; a fault says what is wrong with them.
    pub fn new(bytes: Bytes) -> Result<Self, Fault> {
        let (mut rest, mut count) = (&bytes[..], 0);
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (_, after) = split(rest).ok_or_else(|| {
                Fault::corrupt(format!("row {count} of a chunk, at byte {at} of {}", bytes.len()), "it is cut off")
            })?;
            (rest, count) = (after, count + 1);
        }
        Ok(Self { bytes, count })
    }

    /// The bytes, as they are sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (row, after) = split(rest)?;
            rest = after;
            Some(row)
        })
    }
}

/// The first row and what follows it; `None` if it is cut off, or there is none.
#[expect(clippy::type_complexity, reason = "a row and a rest, named by nobody")]
fn split(bytes: &[u8]) -> Option<((&[u8], &[u8]), &[u8])> {
    let (key_bytes, rest) = bytes.split_first_chunk::<4>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
    Some(((key, value), rest))
}
