//! A file system of a few MiB that a test can fill, without filling the machine's. It lives in memory.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A small file system, mounted as long as this lives.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many MiB. `None`, and a line that says so, where this process may not mount anything: then a test of a full disk cannot
    /// be made.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("kontiki-disk-").tempdir().expect("a temporary folder");
        if mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], folder.path()) {
            return Some(Self { folder });
        }
        eprintln!("NOT TESTED: this process may not mount a file system");
        None
    }

    /// Makes it this large.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn resize(&self, mib: u32) {
        assert!(mount(&["-o", &format!("remount,size={mib}m")], self.path()), "it cannot be made {mib} MiB large");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).status().is_ok_and(|status| status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open on it keeps it until then.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
