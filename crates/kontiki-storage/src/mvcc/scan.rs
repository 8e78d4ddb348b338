//! Scans: walking the keys of a range at one version, in order or in reverse, a page at a time.
//!
//! A walk visits keys, not records: it passes a key's other versions by a few single steps and then by a seek, so that a key with a
//! million versions costs no more than two seeks. A page looks at a bounded number of keys, also where all of them are
//! deleted, and then says where to go on.

use bytes::Bytes;
use kontiki_types::limits::SCAN_KEYS_LOOKED_AT_MAX;
use kontiki_types::read::Scan;
use kontiki_types::{Fault, KeyRange, Row, Version};

use super::{HEADER_BYTES, Kind, kind, split};
use crate::engine::{Cursor, Engine};
use crate::schema;

/// Single steps over versions of one key before a seek is cheaper: a seek costs about as much as eight steps.
const STEPS_MAX: usize = 8;

/// A walk over the keys of a range, in order.
pub struct Forward<'a> {
    cursor: Box<dyn Cursor + 'a>,
    at: Version,
    /// The key part of the key looked at last.
    part: Vec<u8>,
}

/// What a walk found at one key.
enum Looked {
    /// It has a value at the version.
    Row(Row),
    /// It has none: deleted, or written later.
    Nothing,
}

impl<'a> Forward<'a> {
    /// A walk over `range` at a version.
    pub fn open(engine: &'a dyn Engine, range: &KeyRange, at: Version) -> Result<Self, Fault> {
        let (from, to) = schema::data(range);
        let mut cursor = engine.cursor(&from, &to)?;
        cursor.seek(&from)?;
        Ok(Self { cursor, at, part: Vec::new() })
    }

    /// The next key that has a value.
    pub fn next_row(&mut self, keys_only: bool) -> Result<Option<Row>, Fault> {
        while let Some(looked) = self.look(keys_only)? {
            if let Looked::Row(row) = looked {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Looks at the next key and steps behind it. `None` at the end.
    fn look(&mut self, keys_only: bool) -> Result<Option<Looked>, Fault> {
        let mut looked = Looked::Nothing;
        let there = self.pass(|cursor, part, version| {
            looked = row_here(cursor, part, version, keys_only)?;
            Ok(())
        })?;
        Ok(there.then_some(looked))
    }

    /// Steps behind the next key, and shows `take` the record that counts at the version, if there is one. `false` at the end.
    pub(super) fn pass(&mut self, mut take: impl FnMut(&dyn Cursor, &[u8], Version) -> Result<(), Fault>) -> Result<bool, Fault> {
        if !self.cursor.valid() {
            return Ok(false);
        }
        let (part, _) = split(self.cursor.key())?;
        self.part.clear();
        self.part.extend_from_slice(part);
        let mut steps = 0;
        let mut found = false;
        while let Some(version) = version_here(&*self.cursor, &self.part)? {
            if !found && version <= self.at {
                found = true;
                steps = 0;
                take(&*self.cursor, &self.part, version)?;
            }
            steps += 1;
            if steps <= STEPS_MAX {
                self.cursor.next()?;
                continue;
            }
            let target = if found { past(&self.part) } else { at(&self.part, self.at) };
            self.cursor.seek(&target)?;
            steps = 0;
        }
        Ok(true)
    }

    pub(super) fn resume(&self) -> Result<Option<Bytes>, Fault> {
        if !self.cursor.valid() {
            return Ok(None);
        }
        let (part, _) = split(self.cursor.key())?;
        key_of(part).map(Some)
    }
}

/// A walk over the keys of a range, from the end to the start.
struct Reverse<'a> {
    cursor: Box<dyn Cursor + 'a>,
    at: Version,
    part: Vec<u8>,
}

impl<'a> Reverse<'a> {
    fn open(engine: &'a dyn Engine, range: &KeyRange, at: Version) -> Result<Self, Fault> {
        let (from, to) = schema::data(range);
        let mut cursor = engine.cursor(&from, &to)?;
        cursor.seek_for_prev(&to)?;
        Ok(Self { cursor, at, part: Vec::new() })
    }

    /// Looks at the key here, whose oldest version comes first, and steps before it.
    fn look(&mut self, keys_only: bool) -> Result<Option<Looked>, Fault> {
        if !self.cursor.valid() {
            return Ok(None);
        }
        let (part, _) = split(self.cursor.key())?;
        self.part.clear();
        self.part.extend_from_slice(part);
        let mut looked = Looked::Nothing;
        for _ in 0..STEPS_MAX {
            match version_here(&*self.cursor, &self.part)? {
                None => return Ok(Some(looked)),
                // Newer than what was found before, and still not too new.
                Some(version) if version <= self.at => looked = row_here(&*self.cursor, &self.part, version, keys_only)?,
                Some(_) => {}
            }
            self.cursor.prev()?;
        }
        if version_here(&*self.cursor, &self.part)?.is_some() {
            self.cursor.seek(&at(&self.part, self.at))?;
            if let Some(version) = version_here(&*self.cursor, &self.part)? {
                looked = row_here(&*self.cursor, &self.part, version, keys_only)?;
            }
            // No record has a bare key part for its key: this lands before the newest version.
            self.cursor.seek_for_prev(&self.part)?;
        }
        Ok(Some(looked))
    }

    fn resume(&self) -> Result<Option<Bytes>, Fault> {
        if !self.cursor.valid() || self.part.is_empty() {
            return Ok(None);
        }
        key_of(&self.part).map(Some)
    }
}

/// One page of a scan at a version, and where the next one starts (see `ReadData::Page::resume`). `rows_max` is at least 1.
pub fn page(engine: &dyn Engine, scan: &Scan, at: Version) -> Result<(Vec<Row>, Option<Bytes>), Fault> {
    if scan.range.is_empty() {
        return Ok((Vec::new(), None));
    }
    if scan.reverse {
        let mut walk = Reverse::open(engine, &scan.range, at)?;
        let (rows, full) = fill(scan, || walk.look(scan.keys_only))?;
        Ok((rows, if full { walk.resume()? } else { None }))
    } else {
        let mut walk = Forward::open(engine, &scan.range, at)?;
        let (rows, full) = fill(scan, || walk.look(scan.keys_only))?;
        Ok((rows, if full { walk.resume()? } else { None }))
    }
}

/// Takes rows until the walk ends (then `false`) or the page is full (then `true`).
fn fill(scan: &Scan, mut look: impl FnMut() -> Result<Option<Looked>, Fault>) -> Result<(Vec<Row>, bool), Fault> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    for _ in 0..SCAN_KEYS_LOOKED_AT_MAX {
        match look()? {
            None => return Ok((rows, false)),
            Some(Looked::Nothing) => {}
            Some(Looked::Row(row)) => {
                bytes += row.key.len() + row.value.len();
                rows.push(row);
                if rows.len() >= scan.rows_max as usize || bytes >= scan.bytes_max as usize {
                    return Ok((rows, true));
                }
            }
        }
    }
    Ok((rows, true))
}

/// The version of the record here, if there is one and it belongs to `part`.
fn version_here(cursor: &dyn Cursor, part: &[u8]) -> Result<Option<Version>, Fault> {
    if !cursor.valid() {
        return Ok(None);
    }
    let (here, version) = split(cursor.key())?;
    Ok((here == part).then_some(version))
}

fn row_here(cursor: &dyn Cursor, part: &[u8], version: Version, keys_only: bool) -> Result<Looked, Fault> {
    let record = cursor.value();
    Ok(match kind(cursor.key(), record)? {
        Kind::Delete => Looked::Nothing,
        Kind::Put => {
            let value = if keys_only { Bytes::new() } else { Bytes::copy_from_slice(&record[HEADER_BYTES..]) };
            Looked::Row(Row { key: key_of(part)?, value, version })
        }
    })
}

pub(super) fn key_of(part: &[u8]) -> Result<Bytes, Fault> {
    schema::data_key(part).ok_or_else(|| Fault::corrupt(schema::place(part), "its key part does not parse"))
}

/// Where the newest record at or below `version` would be.
fn at(part: &[u8], version: Version) -> Vec<u8> {
    [part, &(!version.0).to_be_bytes()].concat()
}

/// After every record of a key, and before every record of the next.
fn past(part: &[u8]) -> Vec<u8> {
    [part, &[0xff; schema::VERSION_BYTES + 1]].concat()
}
