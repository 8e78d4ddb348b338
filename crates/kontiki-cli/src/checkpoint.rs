//! How far an import has come: a small JSON file, replaced as a whole. It names the input by a fingerprint of the part that was
//! imported, so that a checkpoint is never applied to another file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The format written today.
const FORMAT: u32 = 1;

/// Everything up to here is in the store and acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    format: u32,
    /// Bytes of the input.
    pub offset_bytes: u64,
    /// Lines of the input.
    pub lines: u64,
    /// Rows put: lines that were not blank.
    pub rows: u64,
    /// [`Fingerprint`] of those bytes.
    pub fingerprint: u64,
}

impl Checkpoint {
    /// Nothing imported yet.
    pub fn start() -> Self {
        Self { format: FORMAT, offset_bytes: 0, lines: 0, rows: 0, fingerprint: Fingerprint::default().0 }
    }

    /// Reads a checkpoint; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file(format!("reading the checkpoint {}", path.display()), &error)),
        };
        let broken = |why: String| {
            let path = path.display();
            Failure::bad_file(format!(
                "the checkpoint {path} {why}; delete it to import from the start (puts that are repeated do no harm)"
            ))
        };
        let checkpoint: Self = serde_json::from_str(&text).map_err(|error| broken(format!("does not parse ({error})")))?;
        if checkpoint.format != FORMAT {
            return Err(broken(format!("has format {}, this program knows {FORMAT}", checkpoint.format)));
        }
        Ok(Some(checkpoint))
    }

    /// Writes it in place of the one before. Not synced: after a power failure an older one only repeats some puts.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let fail = |error: std::io::Error| Failure::file(format!("writing the checkpoint {}", path.display()), &error);
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let text = serde_json::to_string(self).map_err(|error| Failure::internal(error.to_string()))?;
        std::fs::write(&beside, text + "\n").map_err(fail)?;
        std::fs::rename(&beside, path).map_err(fail)
    }

    /// Removes it, once the import is complete.
    pub fn remove(path: &Path) -> Result<(), Failure> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::file(format!("removing the checkpoint {}", path.display()), &error))
            }
            _ => Ok(()),
        }
    }
}

/// FNV-1a, 64 bits: tells one input from another; no defence against malice is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Takes in more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_back_and_goes_when_it_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl.kontiki-import");
        assert_eq!(Checkpoint::load(&path).expect("none"), None);
        let checkpoint = Checkpoint { offset_bytes: 17, lines: 2, rows: 1, ..Checkpoint::start() };
        checkpoint.save(&path).expect("saves");
        checkpoint.save(&path).expect("replaces");
        assert_eq!(Checkpoint::load(&path).expect("loads"), Some(checkpoint));
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing is left beside it");
        Checkpoint::remove(&path).expect("removes");
        Checkpoint::remove(&path).expect("is gone already");
        assert_eq!(Checkpoint::load(&path).expect("none"), None);
    }

    #[test]
    fn a_damaged_or_newer_checkpoint_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        for (text, word) in
            [("{", "does not parse"), (r#"{"format":9,"offset_bytes":0,"lines":0,"rows":0,"fingerprint":0}"#, "format 9")]
        {
            std::fs::write(&path, text).expect("writes");
            let error = Checkpoint::load(&path).expect_err("refused");
            assert!(error.message.contains(word) && error.message.contains("delete it"), "{error}");
        }
    }

    #[test]
    fn the_fingerprint_depends_on_every_byte_and_not_on_the_pieces() {
        let of = |pieces: &[&[u8]]| {
            let mut fingerprint = Fingerprint::default();
            pieces.iter().for_each(|piece| fingerprint.add(piece));
            fingerprint.0
        };
        assert_eq!(of(&[b"foobar"]), 0x8594_4171_f739_67e8);
        assert_eq!(of(&[b"foo", b"bar"]), of(&[b"foobar"]));
        assert_ne!(of(&[b"foobaz"]), of(&[b"foobar"]));
    }
}
