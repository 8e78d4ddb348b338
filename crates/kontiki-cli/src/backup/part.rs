//! One part: rows in key order, in blocks with checksums.
//!
//! ```text
//!   header   "KONTIKIB" format:1 0 0 0 number:4 cluster:16 after:8 version:8 crc32:4      52 bytes
//!   block    length:4 crc32:4 body                                                        as many as there are
//!   end      ffffffff entries:8 crc32:4                                                   so that a cut file is told
//!
//!   body     entries: kind:1 key length:4 value length:4 version:8 key value              kind 1: put, 2: removed
//! ```
//!
//! Numbers are little endian. Each checksum is the CRC-32 of all bytes of its piece before it (of a block: of its body). The manifest has one
//! more, of the whole file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kontiki::{Change, ClusterId, Version, limits};
use serde::{Deserialize, Serialize};

use super::{failed, sync_folder};
use crate::failure::Failure;

const MAGIC: &[u8; 8] = b"KONTIKIB";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 52;
const ENTRY_HEAD_BYTES: usize = 17;
/// In place of a block's length.
const END: u32 = u32::MAX;
/// A block is ended after this many bytes.
const BLOCK_BYTES: usize = 256 * 1024;
/// No block is larger: one more entry than it needed.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + ENTRY_HEAD_BYTES + limits::KEY_BYTES_MAX + limits::VALUE_BYTES_MAX;
const PUT: u8 = 1;
const REMOVED: u8 = 2;

/// What every part of one backup says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterId,
    /// Only writes after this version; zero: everything.
    pub after: Version,
    /// As of this version.
    pub version: Version,
    /// Which part, from 1.
    pub number: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend([FORMAT, 0, 0, 0]);
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.cluster.0);
        bytes.extend(self.after.0.to_le_bytes());
        bytes.extend(self.version.0.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }
}

/// A part as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the folder of parts.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Keys with a value.
    pub rows: u64,
    /// Keys that were removed.
    pub removed: u64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
}

/// The name of a part's file.
fn name_of(number: u32) -> String {
    format!("{number:06}")
}

/// Writes one part under a temporary name; it gets its own when it is complete and durable.
pub struct PartWriter {
    file: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    sum: crc32fast::Hasher,
    block: Vec<u8>,
    part: Part,
}

impl PartWriter {
    /// Begins a part in the folder of parts.
    pub fn create(folder: &Path, header: &Header) -> Result<Self, Failure> {
        let file = name_of(header.number);
        let (path, temporary) = (folder.join(&file), folder.join(format!("{file}.new")));
        let opened = File::create(&temporary).map_err(|error| failed("writing", &temporary, &error))?;
        let part = Part { file, bytes: 0, rows: 0, removed: 0, crc32: 0 };
        let file = BufWriter::with_capacity(BLOCK_BYTES, opened);
        let mut writer = Self { file, path, temporary, sum: crc32fast::Hasher::new(), block: Vec::new(), part };
        writer.write(&header.encode())?;
        Ok(writer)
    }

    /// Adds the next key. Keys come in order.
    pub fn push(&mut self, change: &Change) -> Result<(), Failure> {
        let (kind, value) = match &change.value {
            Some(value) => (PUT, value.as_ref()),
            None => (REMOVED, &[][..]),
        };
        *(if kind == PUT { &mut self.part.rows } else { &mut self.part.removed }) += 1;
        self.block.push(kind);
        self.block.extend((change.key.len() as u32).to_le_bytes());
        self.block.extend((value.len() as u32).to_le_bytes());
        self.block.extend(change.version.0.to_le_bytes());
        self.block.extend_from_slice(&change.key);
        self.block.extend_from_slice(value);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.part.bytes + self.block.len() as u64
    }

    /// Completes the part, and makes it durable under its own name.
    pub fn finish(mut self) -> Result<Part, Failure> {
        self.end_block()?;
        let mut end = END.to_le_bytes().to_vec();
        end.extend((self.part.rows + self.part.removed).to_le_bytes());
        end.extend(crc32fast::hash(&end).to_le_bytes());
        self.write(&end)?;
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| failed("writing", &self.temporary, &error))?;
        std::fs::rename(&self.temporary, &self.path).map_err(|error| failed("writing", &self.path, &error))?;
        self.path.parent().map_or(Ok(()), sync_folder)?;
        Ok(Part { crc32: self.sum.finalize(), ..self.part })
    }

    fn end_block(&mut self) -> Result<(), Failure> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let mut head = (block.len() as u32).to_le_bytes().to_vec();
        head.extend(crc32fast::hash(&block).to_le_bytes());
        self.write(&head)?;
        self.write(&block)?;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sum.update(bytes);
        self.part.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| failed("writing", &self.temporary, &error))
    }
}

/// Reads one part in order, and checks everything that can be checked. Ends after an error.
pub(super) struct PartReader {
    file: BufReader<File>,
    path: PathBuf,
    expected: Part,
    header: Header,
    sum: crc32fast::Hasher,
    bytes: u64,
    block: Bytes,
    rows: u64,
    removed: u64,
    done: bool,
}

impl PartReader {
    /// Opens a part that the manifest lists, and checks its header.
    pub(super) fn open(folder: &Path, expected: &Part, header: Header) -> Result<Self, Failure> {
        let path = folder.join(name_of(header.number));
        if expected.file != name_of(header.number) {
            return Err(Failure::bad_file(format!("the manifest lists `{}` where {} should be", expected.file, path.display())));
        }
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::bad_file(format!("{} is missing; the backup is not whole", path.display())),
            _ => failed("reading", &path, &error),
        })?;
        let length = file.metadata().map_err(|error| failed("reading", &path, &error))?.len();
        let mut reader = Self {
            file: BufReader::with_capacity(BLOCK_BYTES, file),
            path,
            expected: expected.clone(),
            header,
            sum: crc32fast::Hasher::new(),
            bytes: 0,
            block: Bytes::new(),
            rows: 0,
            removed: 0,
            done: false,
        };
        if length != expected.bytes {
            let what = if length < expected.bytes { "it was cut" } else { "something was added to it" };
            return Err(reader.damaged(&format!("it has {length} bytes, the manifest says {}: {what}", expected.bytes)));
        }
        let found: [u8; HEADER_BYTES] = reader.read()?;
        if &found[..8] != MAGIC {
            return Err(reader.damaged("it is no part of a Kontiki backup"));
        }
        let crc = crc32fast::hash(&found[..HEADER_BYTES - 4]).to_le_bytes();
        if found[HEADER_BYTES - 4..] == crc && found[8] > FORMAT {
            let path = reader.path.display();
            return Err(Failure::bad_file(format!(
                "{path} has format {}, this program knows {FORMAT}; use a newer one",
                found[8]
            )));
        }
        if found != header.encode() {
            return Err(reader.damaged("its header is not the one that the manifest asks for"));
        }
        Ok(reader)
    }

    fn damaged(&self, why: &str) -> Failure {
        Failure::bad_file(format!(
            "{} is damaged: {why}; use another copy of this backup, or another backup",
            self.path.display()
        ))
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Failure> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends in the middle"),
            _ => failed("reading", &self.path, &error),
        })?;
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the next block current. `false` at the end, which is checked too.
    fn next_block(&mut self) -> Result<bool, Failure> {
        let length = u32::from_le_bytes(self.read()?);
        if length == END {
            return self.end().map(|()| false);
        }
        let crc = u32::from_le_bytes(self.read()?);
        if length as usize > BLOCK_BYTES_MAX {
            return Err(self.damaged(&format!("a block of {length} bytes at byte {}, more than any has", self.bytes - 8)));
        }
        let mut block = vec![0; length as usize];
        self.fill(&mut block)?;
        let found = crc32fast::hash(&block);
        if found != crc {
            let at = self.bytes - u64::from(length);
            return Err(self.damaged(&format!("the checksum of the block at byte {at} is {found:08x}, it says {crc:08x}")));
        }
        self.block = Bytes::from(block);
        Ok(true)
    }

    fn end(&mut self) -> Result<(), Failure> {
        let counted: [u8; 8] = self.read()?;
        let crc: [u8; 4] = self.read()?;
        let whole = [&END.to_le_bytes()[..], &counted].concat();
        if crc32fast::hash(&whole).to_le_bytes() != crc || u64::from_le_bytes(counted) != self.rows + self.removed {
            return Err(self.damaged("its end does not fit what comes before it"));
        }
        let found = self.sum.clone().finalize();
        let Part { bytes, rows, removed, crc32, .. } = self.expected;
        if (self.bytes, self.rows, self.removed, found) != (bytes, rows, removed, crc32) {
            return Err(self.damaged(&format!("its checksum is {found:08x}, the manifest says {crc32:08x}")));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Change, Failure> {
        let parsed =
            parse(&mut self.block).filter(|change| change.version > self.header.after && change.version <= self.header.version);
        let change = parsed.ok_or_else(|| self.damaged(&format!("an entry before byte {} makes no sense", self.bytes)))?;
        *(if change.value.is_some() { &mut self.rows } else { &mut self.removed }) += 1;
        Ok(change)
    }

    fn step(&mut self) -> Result<Option<Change>, Failure> {
        while self.block.is_empty() {
            if !self.next_block()? {
                return Ok(None);
            }
        }
        self.entry().map(Some)
    }
}

/// Takes the next entry off a block.
fn parse(block: &mut Bytes) -> Option<Change> {
    if block.len() < ENTRY_HEAD_BYTES {
        return None;
    }
    let head = block.split_to(ENTRY_HEAD_BYTES);
    let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let (key_bytes, value_bytes) = (number(1)? as usize, number(5)? as usize);
    let version = Version(u64::from_le_bytes(head.get(9..17)?.try_into().ok()?));
    if key_bytes == 0 || key_bytes > limits::KEY_BYTES_MAX || block.len() < key_bytes.checked_add(value_bytes)? {
        return None;
    }
    let (key, value) = (block.split_to(key_bytes), block.split_to(value_bytes));
    match head[0] {
        PUT => Some(Change { key, value: Some(value), version }),
        REMOVED if value.is_empty() => Some(Change { key, value: None, version }),
        _ => None,
    }
}

impl Iterator for PartReader {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}
