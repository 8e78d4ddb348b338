//! What lies under the data: the file system, and what one `fdatasync` costs there. Without it no write figure means anything:
//! on a file system in memory an fsync is free.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::Failure;

/// Rounds measured, after as many to warm up.
const ROUNDS: usize = 200;
/// Bytes of one write: a page.
const WRITE_BYTES: usize = 4096;
/// Bytes of the file, written beforehand, as the log's segments are.
const FILE_BYTES: usize = 1024 * 1024;

/// The disk under the data.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// The file system's name, such as `ext4`; `unknown` if it cannot be found out.
    pub file_system: String,
    /// Median of a 4 KiB write into a file written before, and its fdatasync, in us.
    pub fdatasync_p50_us: u64,
    /// The same, 99th percentile.
    pub fdatasync_p99_us: u64,
}

impl Disk {
    /// Measures the disk under a directory. Takes well below a second on anything that serves a database.
    pub fn measure(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("fdatasync-probe");
        let doing = |what: &str| format!("{what} {}", path.display());
        let file = File::create(&path).map_err(Failure::doing(doing("creating")))?;
        file.write_all_at(&vec![1; FILE_BYTES], 0).map_err(Failure::doing(doing("writing")))?;
        file.sync_all().map_err(Failure::doing(doing("syncing")))?;
        let page = [2; WRITE_BYTES];
        let mut took_us = Vec::with_capacity(ROUNDS);
        for round in 0..2 * ROUNDS {
            let at = (round * WRITE_BYTES) % FILE_BYTES;
            let start = Instant::now();
            file.write_all_at(&page, at as u64).map_err(Failure::doing(doing("writing")))?;
            file.sync_data().map_err(Failure::doing(doing("syncing")))?;
            if round >= ROUNDS {
                took_us.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        std::fs::remove_file(&path).map_err(Failure::doing(doing("removing")))?;
        took_us.sort_unstable();
        let at = |percent: usize| took_us.get(took_us.len() * percent / 100).copied().unwrap_or_default();
        Ok(Self { file_system: file_system(directory), fdatasync_p50_us: at(50), fdatasync_p99_us: at(99) })
    }

    /// Whether the data lies in memory, where an fsync costs nothing and the write figures are worth nothing.
    pub fn is_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

fn file_system(directory: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    file_system_in(&mounts, &directory).unwrap_or("unknown").to_owned()
}

/// The kind of the mount point that is the longest prefix; of equal ones the last, which hides the others.
fn file_system_in<'m>(mounts: &'m str, directory: &Path) -> Option<&'m str> {
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let holding = fields.filter(|(point, _)| directory.starts_with(point));
    holding.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_point_decides() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/x xfs rw 0 0\n";
        assert_eq!(file_system_in(mounts, Path::new("/tmp/x/y")), Some("xfs"));
        assert_eq!(file_system_in(mounts, Path::new("/tmp/xy")), Some("tmpfs"));
        assert_eq!(file_system_in(mounts, Path::new("/home")), Some("ext4"));
        assert_eq!(file_system_in("", Path::new("/home")), None);
    }

    #[test]
    fn a_measured_disk_has_figures_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::measure(directory.path()).expect("measured");
        assert!(disk.fdatasync_p99_us >= disk.fdatasync_p50_us);
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
    }
}
