//! Who a data directory belongs to: the file IDENTITY, written once when the directory is created. It keeps a node from starting on
//! another node's data, in another cluster, or on a disk whose data was lost: each of those could lose acknowledged writes.
//!
//! ```text
//!   IDENTITY = format byte, Identity (encoding), CRC-32 of all before it (u32, little endian)
//! ```
//!
//! It is written to IDENTITY.new, synced, renamed, and the directory synced, before anything else is put in the directory: so a
//! directory either has a whole identity or nothing that matters.

use std::io;
use std::path::Path;

use kontiki_storage::disk::Disk;
use kontiki_types::{ClusterId, Error, ErrorKind, NodeId, StoreId, encoding};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::DataDir;
use crate::options::NodeOptions;

/// The file.
pub const IDENTITY_FILE: &str = "IDENTITY";
const NEW_FILE: &str = "IDENTITY.new";
/// More than any identity: 64 members with long addresses.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// In a directory that is being restored or recovered, until it has an identity (docs/adr/0019).
const UNFINISHED: &str = "restoring";
/// What a fresh file system may hold on its own.
const NOT_OURS_BUT_HARMLESS: [&str; 1] = ["lost+found"];
/// The name space of cluster ids (UUID version 5).
const CLUSTER_NAMES: Uuid = Uuid::from_u128(0x6b6f_6e74_696b_692d_636c_7573_7465_7273);

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The directory itself: random, so that a wiped disk is told from the one it replaced.
    pub store: StoreId,
    /// The cluster's name when it was created.
    pub cluster_name: String,
    /// The members that the cluster was created with, by id. Empty: this node alone.
    pub members: Vec<(NodeId, String)>,
}

impl Identity {
    /// Reads the identity of a directory and checks that the options mean the same node and cluster, or gives a new directory its
    /// identity. Blocking.
    pub fn open(dir: &dyn DataDir, options: &NodeOptions, seed: u64) -> Result<Self, Error> {
        let entries = dir.entries().map_err(|error| io_error(dir.path(), "cannot be listed", error))?;
        if entries.iter().any(|name| name == IDENTITY_FILE) {
            let found = read(dir)?;
            found.check(dir.path(), options)?;
            return Ok(found);
        }
        if entries.iter().any(|name| name == UNFINISHED) {
            return Err(storage(format!(
                "{} is not complete: a `kontiki restore` or `recover` into it was interrupted; run it again, it begins anew",
                dir.path().display()
            )));
        }
        let foreign = entries.iter().find(|name| *name != NEW_FILE && !NOT_OURS_BUT_HARMLESS.contains(&name.as_str()));
        if let Some(name) = foreign {
            return Err(storage(format!(
                "{} holds `{name}` but no {IDENTITY_FILE}: it is not a Kontiki data directory, or it lost that file; give an empty \
                 directory, or restore the file",
                dir.path().display()
            )));
        }
        let identity = Self::new(options, seed);
        write(dir, &identity)?;
        Ok(identity)
    }

    /// Reads the identity of a directory that is there.
    pub(crate) fn load(dir: &dyn DataDir) -> Result<Self, Error> {
        read(dir)
    }

    fn new(options: &NodeOptions, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let store = StoreId(uuid::Builder::from_random_bytes(random.random()).into_uuid().into_bytes());
        let members = sorted(&options.members);
        let cluster = if members.is_empty() {
            // A lone node is a cluster of its own, whatever it is called: nothing may take it for another.
            ClusterId(uuid::Builder::from_random_bytes(random.random()).into_uuid().into_bytes())
        } else {
            cluster_id(&options.cluster_name, &members)
        };
        Self { cluster, node: options.node_id, store, cluster_name: options.cluster_name.clone(), members }
    }

    fn check(&self, path: &Path, options: &NodeOptions) -> Result<(), Error> {
        let path = path.display();
        if self.node != options.node_id {
            return Err(storage(format!(
                "data directory {path} belongs to node {}, this is node {}; give each node its own directory",
                self.node, options.node_id
            )));
        }
        if self.cluster_name != options.cluster_name {
            return Err(storage(format!(
                "data directory {path} belongs to cluster `{}` ({}), the options name `{}`; correct the name or the directory",
                self.cluster_name, self.cluster, options.cluster_name
            )));
        }
        let members = sorted(&options.members);
        if !members.is_empty() && members != self.members {
            return Err(storage(format!(
                "data directory {path} belongs to the cluster {} that was created with {}, the options list {}; start with the \
                 members it was created with, or with none (they are remembered)",
                self.cluster,
                listed(&self.members),
                listed(&members)
            )));
        }
        Ok(())
    }

    /// The members that the cluster was created with, this node included; `own` is the address of a lone node.
    pub fn members_or(&self, own: &str) -> Vec<(NodeId, String)> {
        if self.members.is_empty() { vec![(self.node, own.to_owned())] } else { self.members.clone() }
    }

    /// Whether the cluster was created as this node alone.
    pub fn is_alone(&self) -> bool {
        self.members.is_empty()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = encoding::encode(self);
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let file = path.join(IDENTITY_FILE);
        let damaged = |why: String| {
            storage(format!(
                "{} is damaged: {why}; restore it from a backup, or remove the whole directory and give the node a new id",
                file.display()
            ))
        };
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(damaged(format!("it has only {} bytes", bytes.len())));
        };
        let (expected, found) = (u32::from_le_bytes(*sum), crc32fast::hash(body));
        if expected != found {
            return Err(damaged(format!("its checksum is {found:08x}, it says {expected:08x}")));
        }
        // Only now: the first byte of junk is no format. Every format is summed in this way.
        if let Some(found) = body.first().filter(|found| **found > encoding::FORMAT) {
            return Err(storage(format!(
                "{} has format {found}, this program knows {}; it was written by a newer version: start that version",
                file.display(),
                encoding::FORMAT
            )));
        }
        encoding::decode(body).map_err(|error| damaged(error.to_string()))
    }
}

/// The id of a cluster: the same on every node that was given the same name and members, and different for any other.
pub fn cluster_id(name: &str, members: &[(NodeId, String)]) -> ClusterId {
    let mut text = format!("{}:{name}", name.len());
    for (id, address) in sorted(members) {
        text.push_str(&format!(";{}={address}", id.0));
    }
    ClusterId(Uuid::new_v5(&CLUSTER_NAMES, text.as_bytes()).into_bytes())
}

fn sorted(members: &[(NodeId, String)]) -> Vec<(NodeId, String)> {
    let mut members = members.to_vec();
    members.sort();
    members
}

fn listed(members: &[(NodeId, String)]) -> String {
    if members.is_empty() {
        return "itself alone".to_owned();
    }
    let each: Vec<_> = members.iter().map(|(id, address)| format!("{}={address}", id.0)).collect();
    each.join(",")
}

fn read(dir: &dyn DataDir) -> Result<Identity, Error> {
    let fail = |error| io_error(dir.path(), "has an IDENTITY that cannot be read", error);
    let file = dir.root().and_then(|root| root.open(IDENTITY_FILE, false)).map_err(fail)?;
    let length = file.len().map_err(fail)?;
    if length > FILE_BYTES_MAX {
        let path = dir.path().join(IDENTITY_FILE);
        return Err(storage(format!("{} has {length} bytes, more than any identity; it is not Kontiki's", path.display())));
    }
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..]).map_err(fail)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Identity::decode(&bytes, dir.path())
}

fn write(dir: &dyn DataDir, identity: &Identity) -> Result<(), Error> {
    let fail = |error| io_error(dir.path(), "cannot be given an identity", error);
    let root = dir.root().map_err(fail)?;
    write_file(root.as_ref(), &identity.encode()).map_err(fail)
}

fn write_file(root: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    // What an interrupted attempt left may be longer than what is written now.
    if root.list()?.iter().any(|name| name == NEW_FILE) {
        root.remove(NEW_FILE)?;
    }
    let file = root.open(NEW_FILE, true)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    root.rename(NEW_FILE, IDENTITY_FILE)?;
    root.sync_dir()
}

fn storage(message: String) -> Error {
    Error::new(ErrorKind::Storage, message)
}

fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    let advice = if error.kind() == io::ErrorKind::StorageFull { "free space on that disk" } else { "look at that disk" };
    Error::with_source(ErrorKind::Storage, format!("data directory {} {what}: {error}; {advice}", path.display()), error)
}

#[cfg(test)]
mod tests;
