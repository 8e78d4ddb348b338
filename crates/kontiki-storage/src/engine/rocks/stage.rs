//! Staging on RocksDB: rows become table files in a directory of their own, and one call makes them part of the database.
//!
//! ```text
//!   replace [a, f), put a, put c ─►  1.sst  ░ range tombstone [a, d) ░ a c      written and synced outside of the database
//!   put d, put e                 ─►  2.sst  ░ range tombstone [d, f) ░ d e
//!   install                      ─►  flush, then one ingestion of all files: one edit of the MANIFEST
//! ```
//!
//! A range tombstone covers what is older than its own file and nothing in it, so a file replaces exactly its sub-range. The files get
//! one sequence number, so older views see none of it; and a crash leaves either all of it or nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kontiki_types::Fault;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::Store;
use super::errors::fault;
use crate::engine::stage::Ranges;
use crate::engine::{Batch, Change, Stage};

/// Bytes of rows gathered in memory for one table file: few enough to hold for each stage, enough that a large replica has
/// hundreds of files and not thousands.
const FILE_BYTES: usize = 16 * 1024 * 1024;
/// Where stages lie, in the directory of the database: on its file system whatever is mounted where, so that a file is moved by a link.
const DIRECTORY: &str = "staging";

/// See the module.
pub(super) struct RocksStage {
    store: Arc<Store>,
    directory: PathBuf,
    ranges: Ranges,
    files: Vec<PathBuf>,
    /// The sub-range that the next file replaces. Empty: none was begun.
    from: Vec<u8>,
    to: Vec<u8>,
    rows: Batch,
}

/// Removes what a crash has left. Nobody else has the database open.
#[allow(clippy::disallowed_methods, reason = "this folder is the seam to the disk for the state machine")]
pub(super) fn clear(path: &Path) -> Result<(), Fault> {
    let directory = path.join(DIRECTORY);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::io(format!("removing what an interrupted installation left in {}", directory.display()), error))
        }
        _ => Ok(()),
    }
}

impl RocksStage {
    /// An empty stage; `number` is used once in the life of the process.
    #[allow(clippy::disallowed_methods, reason = "this folder is the seam to the disk for the state machine")]
    pub(super) fn new(store: Arc<Store>, number: u64) -> Result<Self, Fault> {
        let directory = store.path.join(DIRECTORY).join(number.to_string());
        std::fs::create_dir_all(&directory).map_err(|error| Fault::io(format!("creating {}", directory.display()), error))?;
        let (from, to, rows) = (Vec::new(), Vec::new(), Batch::new());
        Ok(Self { store, directory, ranges: Ranges::default(), files: Vec::new(), from, to, rows })
    }

    /// Writes the file that replaces `[self.from, to)`, and syncs it.
    fn write_file(&mut self, to: &[u8]) -> Result<(), Fault> {
        let path = self.directory.join(format!("{}.sst", self.files.len() + 1));
        write_table(&self.store, &path, &self.from, to, &self.rows)
            .map_err(|error| fault(format!("writing {}", path.display()), &path, error))?;
        self.files.push(path);
        self.rows = Batch::new();
        to.clone_into(&mut self.from);
        Ok(())
    }

    fn write_last(&mut self) -> Result<(), Fault> {
        let to = std::mem::take(&mut self.to);
        if self.from < to { self.write_file(&to) } else { Ok(()) }
    }
}

/// A table file that holds these rows and nothing else of `[from, to)`. `finish` syncs it.
fn write_table(store: &Store, path: &Path, from: &[u8], to: &[u8], rows: &Batch) -> Result<(), rocksdb::Error> {
    let mut table = SstFileWriter::create(&store.staged_tables);
    table.open(path)?;
    table.delete_range(from, to)?;
    for change in rows.changes() {
        if let Change::Put { key, value } = change {
            table.put(key, value)?;
        }
    }
    table.finish()
}

impl Stage for RocksStage {
    fn replace(&mut self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        if !self.ranges.begin(from, to)? {
            self.write_last()?;
            from.clone_into(&mut self.from);
        }
        to.clone_into(&mut self.to);
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.ranges.admit(key)?;
        if !self.rows.is_empty() && self.rows.size_bytes() + key.len() + value.len() > FILE_BYTES {
            self.write_file(key)?;
        }
        self.rows.put(key, value);
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Fault> {
        self.write_last()
    }

    fn install(mut self: Box<Self>) -> Result<(), Fault> {
        self.write_last()?;
        std::mem::take(&mut self.ranges).finish()?;
        if self.files.is_empty() {
            return Ok(());
        }
        // Ingestion flushes only what overlaps. A flush of everything makes it a barrier like any other, so that what a crash leaves is
        // still the state after a prefix of all that was done.
        let _alone = self.store.horizons.replacing();
        self.store.flush()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let files = std::mem::take(&mut self.files);
        let ingested = self.store.db.ingest_external_file_opts(&options, files);
        ingested.map_err(|error| self.store.fault("installing staged tables", error))
    }
}

impl Drop for RocksStage {
    #[allow(clippy::disallowed_methods, reason = "this folder is the seam to the disk for the state machine")]
    fn drop(&mut self) {
        // What cannot be removed now is removed when the engine is opened again.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
