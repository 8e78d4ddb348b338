//! Whose directory this is: every way in which it can be somebody else's, damaged, or half made.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kontiki_storage::disk::{Disk, SimulatedDisk};
use kontiki_storage::engine::{Engine, MemoryEngine, RocksOptions};
use kontiki_types::{ErrorKind, Fault, NodeInfo};

use super::*;
use crate::env::Env;

/// A directory on a disk that loses what was not synced.
struct SimulatedDir {
    path: PathBuf,
    disk: SimulatedDisk,
}

impl SimulatedDir {
    fn new(seed: u64) -> Self {
        Self { path: "/simulated".into(), disk: SimulatedDisk::new(seed) }
    }

    fn open(&self, options: &NodeOptions) -> Result<Identity, Error> {
        open_or_found(self, options, 1)
    }
}

/// What a first start does without asking anybody.
fn open_or_found(dir: &dyn DataDir, options: &NodeOptions, seed: u64) -> Result<Identity, Error> {
    if let Some(known) = Identity::open(dir, options)? {
        return Ok(known);
    }
    let identity = Identity::founder(options, new_store(dir, seed)?, seed);
    identity.keep(dir)?;
    Ok(identity)
}

impl DataDir for SimulatedDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn root(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.disk.clone()))
    }

    fn log(&self) -> io::Result<Arc<dyn Disk>> {
        self.root()
    }

    fn engine(&self, _: &RocksOptions) -> Result<Arc<dyn Engine>, Fault> {
        Ok(MemoryEngine::new())
    }
}

fn lone() -> NodeOptions {
    NodeOptions { data_dir: "/simulated".into(), ..NodeOptions::default() }
}

fn three() -> NodeOptions {
    let members = vec![(NodeId(2), "b:1".into()), (NodeId(1), "a:1".into()), (NodeId(3), "c:1".into())];
    NodeOptions { listen: "a:1".into(), members, ..lone() }
}

#[track_caller]
fn refused(result: Result<Identity, Error>, words: &[&str]) {
    let error = result.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is missing in: {error}");
    }
}

#[test]
fn a_new_directory_gets_an_identity_that_stays() {
    let dir = SimulatedDir::new(1);
    let first = dir.open(&three()).expect("new");
    assert_eq!(first, dir.open(&three()).expect("known"));
    assert_eq!(first, dir.open(&NodeOptions { members: vec![], ..three() }).expect("the members are remembered"));
    assert_eq!(first.cluster, cluster_id("kontiki", &three().members), "every member computes the same id, in any order");
    assert_ne!(first.cluster, cluster_id("kontiki", &three().members[..2]));
    assert_ne!(first.cluster, cluster_id("other", &three().members));
}

#[test]
fn lone_nodes_are_clusters_of_their_own() {
    let (a, b) = (SimulatedDir::new(1), SimulatedDir::new(2));
    let first = open_or_found(&a, &lone(), 1).expect("new");
    let second = open_or_found(&b, &lone(), 2).expect("new");
    assert_ne!(first.cluster, second.cluster);
    assert_ne!(first.store, second.store);
    assert_eq!(first.members_or("x:1"), [(NodeId(1), "x:1".to_owned())]);
}

#[test]
fn a_foreign_directory_is_refused_with_both_sides_named() {
    let dir = SimulatedDir::new(1);
    dir.open(&three()).expect("new");
    refused(dir.open(&NodeOptions { node_id: NodeId(2), ..three() }), &["/simulated belongs to node n1, this is node n2"]);
    refused(dir.open(&NodeOptions { cluster_name: "other".into(), ..three() }), &["cluster `kontiki`", "name `other`"]);
    let fewer = NodeOptions { members: three().members[..2].to_vec(), ..three() };
    refused(dir.open(&fewer), &["created with 1=a:1,2=b:1,3=c:1", "list 1=a:1,2=b:1", "or with none"]);
    let alone = SimulatedDir::new(2);
    alone.open(&lone()).expect("new");
    refused(alone.open(&three()), &["created with itself alone"]);
}

fn joined(dir: &SimulatedDir, former: Option<NodeId>) -> Identity {
    let info = |id, addr: &str| NodeInfo { id: NodeId(id), addr: addr.to_owned(), ..NodeInfo::default() };
    let nodes = vec![info(1, "a:1"), info(2, "b:1"), info(4, "d:1")];
    let answer = Joined { cluster: ClusterId([9; 16]), cluster_name: "kontiki".to_owned(), node: NodeId(4), nodes };
    let store = new_store(dir, 1).expect("made");
    assert_eq!(new_store(dir, 2).expect("kept"), store, "whoever asks twice is one store");
    let identity = Identity::member(answer, store, former);
    identity.keep(dir).expect("kept");
    identity
}

#[test]
fn a_node_that_joined_keeps_its_number_whatever_the_options_still_say() {
    let dir = SimulatedDir::new(1);
    let identity = joined(&dir, None);
    assert_eq!(dir.disk.list().expect("listed"), [IDENTITY_FILE]);
    assert_eq!(identity.members_or("d:2")[2], (NodeId(4), "d:2".to_owned()));
    assert_eq!(dir.open(&lone()).expect("no number is stated"), identity);
    refused(dir.open(&three()), &["belongs to node n4, this is node n1"]);
    let dir = SimulatedDir::new(2);
    let identity = joined(&dir, Some(NodeId(3)));
    assert_eq!(dir.open(&NodeOptions { node_id: NodeId(3), ..three() }).expect("it was n3"), identity);
    refused(dir.open(&NodeOptions { node_id: NodeId(2), ..three() }), &["belongs to node n4, this is node n2"]);
}

#[test]
fn each_start_is_counted_and_a_copy_is_told_from_it() {
    let dir = SimulatedDir::new(1);
    let first = crate::starts::next(&dir, 7).expect("counted");
    dir.disk.lose_unsynced();
    let second = crate::starts::next(&dir, 8).expect("counted");
    assert_eq!((first.starts, second.starts), (1, 2));
    assert!(first.is_older_copy_of(second) && !second.is_older_copy_of(first));
    // The directory as it was after the first start, started again elsewhere.
    let copy = SimulatedDir::new(2);
    small_file::write(&copy.disk, STARTS_FILE, &first).expect("copied");
    let other = crate::starts::next(&copy, 9).expect("counted");
    assert!(other.is_older_copy_of(second) && second.is_older_copy_of(other), "{other:?} {second:?}");
    dir.disk.flip_bit(STARTS_FILE, 12).expect("there");
    let error = crate::starts::next(&dir, 10).expect_err("damaged");
    assert!(
        error.to_string().contains("/simulated/STARTS is damaged") && error.to_string().contains("empty the directory"),
        "{error}"
    );
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = SimulatedDir::new(1);
    dir.disk.open("holiday.jpg", true).expect("made");
    refused(dir.open(&lone()), &["holds `holiday.jpg` but no IDENTITY", "give an empty directory"]);
    assert_eq!(dir.disk.list().expect("listed"), ["holiday.jpg"]);
}

#[test]
fn an_interrupted_restore_is_no_new_directory() {
    let dir = SimulatedDir::new(1);
    dir.disk.open("restoring", true).expect("made");
    refused(dir.open(&lone()), &["/simulated is not complete", "run it again"]);
}

#[test]
fn a_newer_format_and_every_flipped_bit_are_noticed() {
    let dir = SimulatedDir::new(1);
    let identity = dir.open(&three()).expect("new");
    let bits = 8 * small_file::seal(&identity).len() as u64;
    for bit in 0..bits {
        dir.disk.flip_bit(IDENTITY_FILE, bit).expect("there");
        refused(dir.open(&three()), &["/simulated/IDENTITY"]);
        dir.disk.flip_bit(IDENTITY_FILE, bit).expect("there");
    }
    for bit in [1, 20] {
        dir.disk.flip_bit(IDENTITY_FILE, bit).expect("there");
        refused(dir.open(&three()), &["is damaged", "checksum"]);
        dir.disk.flip_bit(IDENTITY_FILE, bit).expect("there");
    }
    let newer = |sum: fn(&[u8]) -> u32| {
        let mut bytes = vec![3, 1, 2, 3];
        bytes.extend(sum(&bytes).to_le_bytes());
        small_file::open::<Identity>(&bytes, dir.path(), DAMAGED)
    };
    refused(newer(crc32fast::hash), &["has format 3, this program knows 1", "start that version"]);
    refused(newer(|_| 0), &["is damaged", "checksum"]);
}

#[test]
fn a_file_that_was_cut_off_is_damaged_at_every_length() {
    let identity = SimulatedDir::new(1).open(&three()).expect("new");
    for length in 0..small_file::seal(&identity).len() as u64 {
        let dir = SimulatedDir::new(1);
        dir.open(&three()).expect("new");
        dir.disk.truncate(IDENTITY_FILE, length).expect("there");
        refused(dir.open(&three()), &["is damaged"]);
    }
}

#[test]
fn a_power_cut_at_any_call_leaves_a_directory_that_starts() {
    for seed in 0..20 {
        let whole = SimulatedDir::new(seed);
        whole.open(&three()).expect("new");
        for cut in 0..whole.disk.operations() {
            let dir = SimulatedDir::new(seed);
            dir.disk.cut_power_after(cut);
            dir.open(&three()).expect_err("the power was cut");
            dir.disk.crash();
            let after = dir.open(&three()).expect("starts again");
            dir.disk.lose_unsynced();
            assert_eq!(dir.open(&three()).expect("it was durable"), after, "seed {seed}, cut {cut}");
        }
    }
}

#[test]
fn a_full_disk_is_said_so() {
    let dir = SimulatedDir::new(1);
    dir.disk.full(Some(10));
    refused(dir.open(&lone()), &["/simulated cannot be given an identity", "free space"]);
    dir.disk.full(None);
    dir.open(&lone()).expect("there is room now");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test that plays operator: it makes a directory of somebody else's")]
fn real_directories_are_made_locked_and_refused() {
    let scratch = tempfile::tempdir().expect("a folder");
    let dirs = Env::production().data_dirs;
    let path = scratch.path().join("a/b");
    let held = dirs.open(&path).expect("made, with its parents");
    assert_eq!(held.entries().expect("listed"), Vec::<String>::new(), "the lock file is ours, not data");
    let error = dirs.open(&path).err().expect("locked");
    assert!(error.to_string().contains("is in use") && error.kind() == ErrorKind::Storage, "{error}");
    let identity = open_or_found(held.as_ref(), &lone(), 1).expect("new");
    drop(held);
    let again = dirs.open(&path).expect("the lock is free");
    assert_eq!(open_or_found(again.as_ref(), &lone(), 2).expect("known"), identity);
    let foreign = scratch.path().join("photos");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("holiday.jpg"), "x").expect("made");
    let error = dirs.open(&foreign).err().expect("not ours");
    assert!(error.to_string().contains("holds `holiday.jpg` but no IDENTITY"), "{error}");
    assert_eq!(std::fs::read_dir(&foreign).expect("listed").count(), 1, "nothing was left behind in it");
    let file = path.join(IDENTITY_FILE);
    let error = dirs.open(&file).err().expect("a file");
    assert!(error.to_string().contains("is a file"), "{error}");
    let error = dirs.open(&file.join("below")).err().expect("below a file");
    assert!(error.to_string().contains("a part of the path is a file"), "{error}");
}
