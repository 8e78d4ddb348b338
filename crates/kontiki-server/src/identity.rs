//! Who a data directory belongs to: the file IDENTITY, written once when the directory is created. It keeps a node from starting on
//! another node's data, in another cluster, or on a disk whose data was lost: each of those could lose acknowledged writes.
//!
//! ```text
//!   empty ── JOINING (the store's id) ── IDENTITY ── everything else
//!              └ asked to be a member meanwhile: asked again after a crash, it is the same store
//! ```
//!
//! It is written before anything else that matters is put in the directory: so a directory either has a whole identity or nothing that
//! matters.

use std::path::Path;

use kontiki_client::Joined;
use kontiki_types::{ClusterId, Error, NodeId, StoreId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::DataDir;
use crate::options::NodeOptions;
use crate::small_file::{self, io_error, storage};
use crate::starts::STARTS_FILE;

/// The file.
pub const IDENTITY_FILE: &str = "IDENTITY";
/// Holds the store's id from when the directory asks to be a member until it has an identity: asked twice, it is one store.
const JOINING_FILE: &str = "JOINING";
/// What to do about an identity that cannot be trusted.
const DAMAGED: &str = "restore it from a backup, or empty the directory and start again: it joins as a new node";
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
    /// The members that the cluster was created with, by id; empty: this node alone. Of a node that joined later: the others that there
    /// were then.
    pub members: Vec<(NodeId, String)>,
    /// Whether the node joined a cluster that was there already.
    pub joined: bool,
    /// The node that this one was before it lost its disk.
    pub former: Option<NodeId>,
}

impl Identity {
    /// Reads the identity of a directory and checks that the options mean the same node and cluster; `None`: the directory is new.
    /// Blocking.
    pub fn open(dir: &dyn DataDir, options: &NodeOptions) -> Result<Option<Self>, Error> {
        let entries = dir.entries().map_err(|error| io_error(dir.path(), "cannot be listed", error))?;
        check_ours(dir.path(), &entries)?;
        if !entries.iter().any(|name| name == IDENTITY_FILE) {
            return Ok(None);
        }
        let found: Self = small_file::read(dir, IDENTITY_FILE, DAMAGED)?;
        found.check(dir.path(), options)?;
        Ok(Some(found))
    }

    /// Gives a new directory its identity, once and for all. Blocking.
    pub fn keep(&self, dir: &dyn DataDir) -> Result<(), Error> {
        let fail = |error| io_error(dir.path(), "cannot be given an identity", error);
        let root = dir.root().map_err(fail)?;
        small_file::write(root.as_ref(), IDENTITY_FILE, self).map_err(fail)?;
        if root.list().map_err(fail)?.iter().any(|name| name == JOINING_FILE) {
            root.remove(JOINING_FILE).map_err(fail)?;
        }
        Ok(())
    }

    /// Reads the identity of a directory that is there.
    pub(crate) fn load(dir: &dyn DataDir) -> Result<Self, Error> {
        small_file::read(dir, IDENTITY_FILE, DAMAGED)
    }

    /// The identity of a first member of a new cluster.
    pub fn founder(options: &NodeOptions, store: StoreId, seed: u64) -> Self {
        let members = sorted(&options.members);
        let cluster = if members.is_empty() {
            // A lone node is a cluster of its own, whatever it is called: nothing may take it for another.
            let mut random = SmallRng::seed_from_u64(seed ^ CLUSTER_SEED);
            ClusterId(uuid::Builder::from_random_bytes(random.random()).into_uuid().into_bytes())
        } else {
            cluster_id(&options.cluster_name, &members)
        };
        let (node, cluster_name) = (options.node_id, options.cluster_name.clone());
        Self { cluster, node, store, cluster_name, members, joined: false, former: None }
    }

    /// The identity of a node that a cluster has taken in.
    pub fn member(joined: Joined, store: StoreId, former: Option<NodeId>) -> Self {
        let Joined { cluster, cluster_name, node, nodes } = joined;
        let others = nodes.into_iter().filter(|info| info.id != node && info.state.is_member());
        let members = others.map(|info| (info.id, info.addr)).collect();
        Self { cluster, node, store, cluster_name, members, joined: true, former }
    }

    fn check(&self, path: &Path, options: &NodeOptions) -> Result<(), Error> {
        let path = path.display();
        // A node that joined was given its number; the options may still say what it was, or nothing.
        let may_be_silent = self.joined && options.members.is_empty();
        if self.node != options.node_id && self.former != Some(options.node_id) && !may_be_silent {
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
        if !members.is_empty() && !self.joined && members != self.members {
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

    /// The nodes that this one knows from its own directory, itself included; `own` is its address if that is not among them.
    pub fn members_or(&self, own: &str) -> Vec<(NodeId, String)> {
        let mut members = self.members.clone();
        if members.iter().all(|(id, _)| *id != self.node) {
            members.push((self.node, own.to_owned()));
        }
        sorted(&members)
    }

    /// Whether the cluster was created as this node alone.
    pub fn is_alone(&self) -> bool {
        self.members.is_empty() && !self.joined
    }
}

/// Sets the cluster's seed apart from the store's.
const CLUSTER_SEED: u64 = 0x0063_6c75_7374_6572;

/// Checks that a directory is new or Kontiki's, by the names in it, before anything is put into it.
pub(crate) fn check_ours(path: &Path, entries: &[String]) -> Result<(), Error> {
    if entries.iter().any(|name| name == IDENTITY_FILE) {
        return Ok(());
    }
    if entries.iter().any(|name| name == UNFINISHED) {
        return Err(storage(format!(
            "{} is not complete: a `kontiki restore` or `recover` into it was interrupted; run it again, it begins anew",
            path.display()
        )));
    }
    let ours = [JOINING_FILE, STARTS_FILE, IDENTITY_FILE];
    let left_over = |name: &str| ours.contains(&name) || ours.iter().any(|file| small_file::new_name(file) == name);
    match entries.iter().find(|name| !left_over(name) && !NOT_OURS_BUT_HARMLESS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(storage(format!(
            "{} holds `{name}` but no {IDENTITY_FILE}: it is not a Kontiki data directory, or it lost that file; give an empty \
             directory, or restore the file",
            path.display()
        ))),
    }
}

/// The id of a new directory: random, and kept from now on, so that a directory that asks to join twice is one node. Blocking.
pub(crate) fn new_store(dir: &dyn DataDir, seed: u64) -> Result<StoreId, Error> {
    let fail = |error| io_error(dir.path(), "cannot be given an identity", error);
    if dir.entries().map_err(fail)?.iter().any(|name| name == JOINING_FILE) {
        return small_file::read(dir, JOINING_FILE, "remove that file");
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let store = StoreId(uuid::Builder::from_random_bytes(random.random()).into_uuid().into_bytes());
    let root = dir.root().map_err(fail)?;
    small_file::write(root.as_ref(), JOINING_FILE, &store).map_err(fail)?;
    Ok(store)
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

#[cfg(test)]
mod tests;
