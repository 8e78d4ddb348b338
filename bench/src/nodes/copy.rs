//! What the machine gives: files of a replica copied over one loopback connection, with an fsync at the end. Nothing that catches a
//! replica up can be faster.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Failure;

/// Bytes that are read and written at once.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a copy took.
pub(super) struct Copied {
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

impl Copied {
    /// Bytes per second.
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64()
    }
}

/// Copies the table files of a data directory to one file beside it, and removes that again. The node must not run. Blocks.
pub(super) fn over_loopback(data: &Path) -> Result<Copied, Failure> {
    let mut tables = Vec::new();
    find_tables(data, &mut tables).map_err(Failure::doing(format!("looking for tables in {}", data.display())))?;
    let to = data.with_extension("copy");
    let result = copy(&tables, &to);
    let removed = std::fs::remove_file(&to).map_err(Failure::doing(format!("removing {}", to.display())));
    let copied = result?;
    removed?;
    Ok(copied)
}

fn find_tables(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find_tables(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "sst") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn copy(from: &[PathBuf], to: &Path) -> Result<Copied, Failure> {
    let doing = || Failure::doing(format!("copying tables to {}", to.display()));
    let listener = TcpListener::bind("127.0.0.1:0").map_err(doing())?;
    let address = listener.local_addr().map_err(doing())?;
    let target = File::create(to).map_err(doing())?;
    let start = Instant::now();
    let result = std::thread::scope(|threads| {
        let receiver = threads.spawn(move || receive(&listener, target));
        let sent = send(from, address);
        let received = receiver.join().unwrap_or_else(|_| Err(std::io::Error::other("the receiver panicked")));
        sent.and(received)
    });
    Ok(Copied { bytes: result.map_err(doing())?, took: start.elapsed() })
}

fn send(from: &[PathBuf], to: std::net::SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let mut block = vec![0; BLOCK_BYTES];
    for path in from {
        let mut file = File::open(path)?;
        loop {
            let count = file.read(&mut block)?;
            if count == 0 {
                break;
            }
            stream.write_all(&block[..count])?;
        }
    }
    Ok(())
}

fn receive(listener: &TcpListener, mut to: File) -> std::io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut bytes = 0;
    loop {
        let count = stream.read(&mut block)?;
        if count == 0 {
            to.sync_all()?;
            return Ok(bytes);
        }
        to.write_all(&block[..count])?;
        bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_copied_and_nothing_else_and_the_copy_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("node-1");
        std::fs::create_dir_all(data.join("engine")).expect("made");
        for (name, bytes) in [("engine/1.sst", 3_000_000), ("engine/2.sst", 5), ("engine/LOG", 70), ("1.segment", 900)] {
            std::fs::write(data.join(name), vec![7; bytes]).expect("written");
        }
        let copied = over_loopback(&data).expect("copied");
        assert_eq!(copied.bytes, 3_000_005);
        assert!(copied.rate() > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 1);
    }
}
