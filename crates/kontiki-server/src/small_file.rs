//! Small files of a data directory: each holds one value, is written whole or not at all, and is checked when it is read.
//!
//! ```text
//!   FILE = format byte, value (encoding), CRC-32 of all before it (u32, little endian)
//!   write: FILE.new, synced ── renamed to FILE ── directory synced
//! ```

use std::io;
use std::path::Path;

use kontiki_storage::disk::Disk;
use kontiki_types::{Error, ErrorKind, encoding};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::env::DataDir;

/// More than any of them: 64 members with long addresses.
const BYTES_MAX: u64 = 1 << 20;

/// The name under which a file is prepared.
pub(crate) fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Replaces a file. Blocking.
pub(crate) fn write(root: &dyn Disk, name: &str, value: &impl Serialize) -> io::Result<()> {
    let new = new_name(name);
    // What an interrupted attempt left may be longer than what is written now.
    if root.list()?.contains(&new) {
        root.remove(&new)?;
    }
    let file = root.open(&new, true)?;
    file.write_at(0, &seal(value))?;
    file.sync_data()?;
    root.rename(&new, name)?;
    root.sync_dir()
}

/// Reads a file that is there. `damaged_advice` says what to do if it is damaged. Blocking.
pub(crate) fn read<T: DeserializeOwned>(dir: &dyn DataDir, name: &str, damaged_advice: &str) -> Result<T, Error> {
    let fail = |error| io_error(dir.path(), &format!("has a file {name} that cannot be read"), error);
    let file = dir.root().and_then(|root| root.open(name, false)).map_err(fail)?;
    let length = file.len().map_err(fail)?;
    let path = dir.path().join(name);
    if length > BYTES_MAX {
        return Err(storage(format!("{} has {length} bytes, more than any such file; it is not Kontiki's", path.display())));
    }
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..]).map_err(fail)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    open(&bytes, &path, damaged_advice)
}

/// The bytes of a file.
pub(crate) fn seal(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = encoding::encode(value);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The value in the bytes of a file.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8], path: &Path, damaged_advice: &str) -> Result<T, Error> {
    let damaged = |why: String| storage(format!("{} is damaged: {why}; {damaged_advice}", path.display()));
    let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged(format!("it has only {} bytes", bytes.len())));
    };
    let (expected, found) = (u32::from_le_bytes(*sum), crc32fast::hash(body));
    if expected != found {
        return Err(damaged(format!("its checksum is {found:08x}, it says {expected:08x}")));
    }
    // Only now: the first byte of junk is no format. Every format is summed in this way.
    if let Some(found) = body.first().filter(|found| **found > encoding::FORMAT) {
        return Err(storage(format!(
            "{} has format {found}, this program knows {}; it was written by a newer version: start that version",
            path.display(),
            encoding::FORMAT
        )));
    }
    encoding::decode(body).map_err(|error| damaged(error.to_string()))
}

/// An error about a data directory.
pub(crate) fn storage(message: String) -> Error {
    Error::new(ErrorKind::Storage, message)
}

/// An error of the disk, with the directory and what to do.
pub(crate) fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    let advice = if error.kind() == io::ErrorKind::StorageFull { "free space on that disk" } else { "look at that disk" };
    Error::with_source(ErrorKind::Storage, format!("data directory {} {what}: {error}; {advice}", path.display()), error)
}
