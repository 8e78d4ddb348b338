//! The disk seam (DESIGN section 12): the few calls by which the raft log reaches its files. Production: [`FileDisk`], real files.
//! Simulation and crash tests: [`SimulatedDisk`], which loses and tears what was not synced and fails on demand.
//!
//! ```text
//!   log ──► Disk / DiskFile ──┬── FileDisk        pwrite, pread, fdatasync, fsync of the directory
//!                             └── SimulatedDisk   sectors in memory, crash() by seeded coins
//! ```
//!
//! What the log may believe of a disk, and what a simulated one enforces:
//!
//! - bytes written are durable after `sync_data` of their file returned, names after `sync_dir` returned;
//! - before that, each sector of 512 bytes and each directory change may survive a crash or not, in any order;
//! - a write that overlaps a durable sector leaves, after a crash, the old sector or the new one, never a mixture
//!   (what SQLite calls "powersafe overwrite");
//! - after a failed `sync_data` nothing is known of what it should have saved, and calling it again proves nothing.

use std::io;
use std::sync::Arc;

mod file;
mod simulated;

pub use file::FileDisk;
pub use simulated::SimulatedDisk;

/// One flat directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing. With `create` it is made if it is not there; its name is durable after `sync_dir`.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files, in no particular order. Directories are left out.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing what had it. Atomic; durable after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open handles keep working.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every earlier creation, renaming and removal durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How a file is called in messages: its full path where there is one.
    fn place(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// One open file. Reads and writes name their offset, so that a file may be read while it is written.
pub trait DiskFile: Send + Sync {
    /// Writes all of `buf`; the file grows as needed. Not durable. On an error any part of it may have been written.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Fills `buf`, unless the file ends before: returns how many bytes were read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes everything written before durable, and the file's length.
    fn sync_data(&self) -> io::Result<()>;
}
