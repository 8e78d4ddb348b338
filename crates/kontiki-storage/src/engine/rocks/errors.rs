//! RocksDB's errors as faults. They are text, and the kind of error of the operating system has to be found in it.

use std::io;
use std::path::Path;

use kontiki_types::Fault;
use rocksdb::ErrorKind;

/// What RocksDB's message says went wrong. Its errors are text: `kind: [sub-kind:] detail`.
pub(super) fn fault(action: String, path: &Path, error: rocksdb::Error) -> Fault {
    let rocks_kind = error.kind();
    let message = error.into_string();
    if rocks_kind == ErrorKind::Corruption {
        return Fault::corrupt(path.display().to_string(), message);
    }
    Fault::io(action, io::Error::new(kind_of(&message), message))
}

/// The operating system's error inside a message of RocksDB's.
pub(super) fn kind_of(message: &str) -> io::ErrorKind {
    if message.contains("No space left") || message.contains("Space limit reached") {
        io::ErrorKind::StorageFull
    } else if message.contains("Permission denied") {
        io::ErrorKind::PermissionDenied
    } else if message.contains("lock ") || message.contains("LOCK") {
        io::ErrorKind::ResourceBusy
    } else if message.contains("No such file") {
        io::ErrorKind::NotFound
    } else if message.contains("Read-only file system") {
        io::ErrorKind::ReadOnlyFilesystem
    } else {
        io::ErrorKind::Other
    }
}
