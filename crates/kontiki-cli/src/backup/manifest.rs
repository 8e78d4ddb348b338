//! The manifest, which makes a folder of parts a backup, and the progress of one that is not complete. Both are JSON and end with a line that
//! holds the CRC-32 of all lines before it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kontiki::{ClusterId, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Header, Part, failed, replace};
use crate::failure::Failure;

const MANIFEST: &str = "MANIFEST";
const PROGRESS: &str = "PROGRESS";
const FORMAT: u32 = 1;

/// The backup that an incremental one continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The version of the base.
    #[serde(with = "as_text")]
    pub version: Version,
    /// The checksum of its manifest: which backup it is, wherever it lies.
    pub manifest_crc32: u32,
    /// Where it lay when this one was made: seen from this one if it is relative.
    pub directory: PathBuf,
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version of the program that made it.
    pub made_by: String,
    /// The cluster.
    #[serde(with = "as_uuid")]
    pub cluster: ClusterId,
    /// It holds the state at this version.
    #[serde(with = "as_text")]
    pub version: Version,
    /// For an incremental backup.
    pub base: Option<Base>,
    /// The keys at which the cluster's partitions were cut, in hex.
    #[serde(with = "as_hex")]
    pub boundaries: Vec<Bytes>,
    /// The parts, in key order.
    pub parts: Vec<Part>,
}

impl Manifest {
    /// The manifest of a backup that holds nothing yet.
    pub fn new(cluster: ClusterId, version: Version, base: Option<Base>, boundaries: Vec<Bytes>) -> Self {
        let made_by = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, made_by, cluster, version, base, boundaries, parts: Vec::new() }
    }

    /// Only writes after this version are in it.
    pub fn after(&self) -> Version {
        self.base.as_ref().map_or(Version::ZERO, |base| base.version)
    }

    /// The header of part `number`.
    pub fn header(&self, number: u32) -> Header {
        Header { cluster: self.cluster, after: self.after(), version: self.version, number }
    }

    /// Rows, removed keys and bytes of all parts.
    pub fn totals(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).sum();
        (sum(|part| part.rows), sum(|part| part.removed), sum(|part| part.bytes))
    }

    /// Whether a directory holds a complete backup.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(MANIFEST).exists()
    }

    /// Reads the manifest of a directory, and its checksum.
    pub fn load(dir: &Path) -> Result<(Self, u32), Failure> {
        let path = dir.join(MANIFEST);
        match load::<Self>(&path)? {
            Some(found) => Ok(found),
            None if dir.join(PROGRESS).exists() => Err(Failure::bad_file(format!(
                "the backup in {} was interrupted and is not complete; run the `kontiki backup --to` that makes it again: it goes on",
                dir.display()
            ))),
            None => Err(Failure::bad_file(format!("{} is not a backup: it has no {MANIFEST}", dir.display()))),
        }
    }

    /// Writes it: from now on the directory is a backup.
    pub fn save(&self, dir: &Path) -> Result<(), Failure> {
        replace(&dir.join(MANIFEST), &seal(self)?)
    }
}

/// How far a backup has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    format: u32,
    /// With the parts that are done.
    pub manifest: Manifest,
    /// The key after the last one in those parts, in hex: where it goes on. None: all parts are done.
    #[serde(with = "as_hex")]
    next: Vec<Bytes>,
}

impl Progress {
    /// Nothing is done.
    pub fn start(manifest: Manifest) -> Self {
        Self { format: FORMAT, manifest, next: vec![Bytes::new()] }
    }

    /// Where it goes on, empty at the first key; `None` if all parts are done.
    pub fn next(&self) -> Option<Bytes> {
        self.next.first().cloned()
    }

    /// Notes a part that is durable, and the key after it; empty: it was the last.
    pub fn done(&mut self, part: Part, next: Bytes) {
        self.manifest.parts.push(part);
        self.next = if next.is_empty() { Vec::new() } else { vec![next] };
    }

    /// Reads the progress of a directory; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        Ok(load(&dir.join(PROGRESS))?.map(|(progress, _)| progress))
    }

    /// Writes it in place of the one before.
    pub fn save(&self, dir: &Path) -> Result<(), Failure> {
        replace(&dir.join(PROGRESS), &seal(self)?)
    }

    /// Removes it, once there is a manifest.
    pub fn remove(dir: &Path) -> Result<(), Failure> {
        let path = dir.join(PROGRESS);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("removing", &path, &error)),
            _ => super::sync_folder(dir),
        }
    }
}

/// A document with its checksum.
fn seal(document: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(document).map_err(|error| Failure::internal(error.to_string()))? + "\n";
    let line = checksum_line(&json);
    Ok(json + &line)
}

fn checksum_line(json: &str) -> String {
    format!("crc32 {:08x}\n", crc32fast::hash(json.as_bytes()))
}

/// Reads a sealed document and its checksum; `None` if the file is not there.
fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, u32)>, Failure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("reading", path, &error)),
    };
    let damaged = |why: &str| Failure::bad_file(format!("{} is damaged: {why}; use another copy of this backup", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let Some(cut) = text.rfind("crc32 ") else { return Err(damaged("it has no checksum: it was cut")) };
    let (json, line) = text.split_at(cut);
    if line != checksum_line(json) {
        return Err(damaged("its checksum does not fit"));
    }
    // The format comes first: what a newer program wrote may have other fields.
    let format = serde_json::from_str::<Formatted>(json).map_err(|error| damaged(&error.to_string()))?.format;
    if format > FORMAT {
        let path = path.display();
        return Err(Failure::bad_file(format!("{path} has format {format}, this program knows {FORMAT}; use a newer one")));
    }
    let document = serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
    Ok(Some((document, crc32fast::hash(json.as_bytes()))))
}

#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

/// Versions as text: they exceed the 53 bits that many readers of JSON keep of a number.
mod as_text {
    use kontiki::Version;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map(Version).map_err(de::Error::custom)
    }
}

mod as_uuid {
    use kontiki::ClusterId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(cluster: &ClusterId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cluster)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClusterId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = ClusterId::parse(&text).ok_or_else(|| de::Error::custom(format!("`{text}` is no cluster id")))?;
        Ok(id)
    }
}

mod as_hex {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(keys: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(keys.iter().map(hex::encode))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
        let keys = Vec::<String>::deserialize(deserializer)?;
        keys.iter().map(|key| hex::decode(key).map(Bytes::from).map_err(de::Error::custom)).collect()
    }
}
