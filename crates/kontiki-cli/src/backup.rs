//! What a backup is on disk. The bytes are described in `docs/backup-format.md`; this folder is the only code that knows them.
//!
//! ```text
//!   DIR/MANIFEST         what it is, and what each part must be; written last: without it there is no backup
//!   DIR/PROGRESS         until then: what is done, so that the same command goes on
//!   DIR/parts/000001     rows in key order, in blocks with checksums
//!   DIR/parts/000002 ...
//! ```
//!
//! A full backup holds every key at one version. An incremental one holds what was written since its base, deletions too; base and
//! increments make a chain, of which each link names the one before by its checksum.
//!
//! **Invariant:** nothing here talks to a cluster. It is plain files, read and written in order.

mod chain;
mod manifest;
mod part;

use std::io;
use std::path::Path;

pub use chain::{Backup, Chain};
pub use manifest::{Base, Manifest, Progress};
pub use part::{Header, Part, PartWriter};

use crate::failure::Failure;

/// The folder of the parts.
pub const PARTS: &str = "parts";
/// A part is ended after this many bytes: what an interruption costs, and few enough files.
pub const PART_BYTES: u64 = 64 * 1024 * 1024;

/// An I/O error of the backup, with what to do about a full disk.
fn failed(action: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::file(format!("{action} {}", path.display()), error);
    if error.kind() == io::ErrorKind::StorageFull {
        return failure.with_advice("free space on that disk and run the same command again: it goes on where it was");
    }
    failure
}

/// Makes what was created, renamed or removed in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("syncing", folder, &error))
}

/// Replaces a small file as a whole, durably.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| failed("writing", &beside, &error))?;
    std::fs::rename(&beside, path).map_err(|error| failed("writing", path, &error))?;
    path.parent().map_or(Ok(()), sync_folder)
}

#[cfg(test)]
mod tests;
