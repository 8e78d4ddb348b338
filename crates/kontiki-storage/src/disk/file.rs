//! Real files: one directory, `pwrite`, `pread`, `fdatasync`, and `fsync` of the directory.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the production half of the disk seam")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile};

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    dir: PathBuf,
}

impl FileDisk {
    /// Uses a directory, which is created (durably) if it is not there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { dir: dir.to_owned() })
    }
}

impl Disk for FileDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(self.dir.join(name))?;
        Ok(Arc::new(OpenFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn place(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

struct OpenFile(File);

impl DiskFile for OpenFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_disk_does_what_the_trait_says() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(&dir.path().join("a/b")).expect("opens and creates");
        assert_eq!(disk.open("x", false).err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        let file = disk.open("x", true).expect("creates");
        assert!(file.is_empty().expect("length"));
        file.write_at(3, b"abc").expect("writes");
        file.sync_data().expect("syncs");
        disk.rename("x", "y").expect("renames");
        disk.sync_dir().expect("syncs the directory");
        assert_eq!(disk.list().expect("lists"), ["y"]);
        let mut buf = [9; 8];
        assert_eq!(file.read_at(1, &mut buf).expect("reads up to the end"), 5);
        assert_eq!(&buf, b"\0\0abc\x09\x09\x09");
        assert_eq!(disk.open("y", true).expect("does not truncate").len().expect("length"), 6);
        disk.remove("y").expect("removes");
        assert!(disk.list().expect("lists").is_empty());
        assert_eq!(file.len().expect("an open handle keeps working"), 6);
        assert!(disk.place("y").ends_with("a/b/y"));
    }
}
