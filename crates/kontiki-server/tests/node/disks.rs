//! Disks that fail, under a node that must not take its host along. The disk is simulated; everything above it is real.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_server::env::{DataDir, DataDirs, Env};
use kontiki_server::{LogOptions, Node, NodeOptions};
use kontiki_storage::disk::{Disk, SimulatedDisk};
use kontiki_storage::engine::{Batch, Engine, MemoryEngine, RocksOptions};
use kontiki_storage::schema::Key;
use kontiki_types::{Error, ErrorKind, Fault, PartitionId};

use crate::{PATIENCE, error_of, eventually, http_get};

/// Directories on two simulated disks: one for the identity, one for the log.
#[derive(Clone)]
struct Simulated {
    root: SimulatedDisk,
    log: SimulatedDisk,
    engine: Arc<MemoryEngine>,
}

impl Simulated {
    fn new() -> Self {
        Self { root: SimulatedDisk::new(1), log: SimulatedDisk::new(2), engine: MemoryEngine::new() }
    }

    fn env(&self) -> Env {
        Env { data_dirs: Arc::new(self.clone()), ..Env::production() }
    }
}

impl DataDirs for Simulated {
    fn open(&self, path: &Path) -> Result<Arc<dyn DataDir>, Error> {
        Ok(Arc::new(SimulatedDir { path: path.to_owned(), disks: self.clone() }))
    }
}

struct SimulatedDir {
    path: PathBuf,
    disks: Simulated,
}

impl DataDir for SimulatedDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        self.disks.root.list()
    }

    fn root(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.disks.root.clone()))
    }

    fn log(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.disks.log.clone()))
    }

    fn engine(&self, _: &RocksOptions) -> Result<Arc<dyn Engine>, Fault> {
        Ok(self.disks.engine.clone())
    }
}

fn options() -> NodeOptions {
    let log = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    NodeOptions { data_dir: "/simulated".into(), http_listen: Some("127.0.0.1:0".into()), log, ..NodeOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_of_start() {
    let disks = Simulated::new();
    disks.root.full(Some(1));
    let error = error_of(Node::start_in(disks.env(), options()).await);
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("free space"), "{error}");
    disks.root.full(None);
    disks.log.full(Some(1000));
    let error = error_of(Node::start_in(disks.env(), options()).await);
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("free space"), "{error}");
    disks.log.full(None);
    let node = Node::start_in(disks.env(), options()).await.expect("there is room now");
    node.ready(PATIENCE).await.expect("ready");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_stops_the_node_but_not_its_host() {
    let disks = Simulated::new();
    let node = Node::start_in(disks.env(), options()).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    let client = node.client().with_timeout(Duration::from_secs(2));
    client.put("before", "1").await.expect("put");
    disks.log.fail_next_sync();
    let error = client.put("after", "2").await.expect_err("its log is broken");
    assert!(matches!(error.kind(), ErrorKind::Ambiguous | ErrorKind::Storage), "{error:?}");

    eventually("the node says that it is broken", async || node.fault().is_some()).await;
    let fault = node.fault().unwrap_or_default();
    assert!(fault.contains("the raft log is broken"), "{fault}");
    let status = node.status();
    assert!(!status.ready && status.fault == Some(fault.clone()), "{status:?}");
    let http = node.http_addr().expect("served").to_owned();
    for path in ["/readyz", "/livez"] {
        let (code, body) = http_get(&http, path).await;
        assert!(code == 503 && !body.is_empty(), "{path}: {code} {body}");
    }
    let (_, metrics) = http_get(&http, "/metrics").await;
    assert!(metrics.lines().any(|line| line == "kontiki_fault 1"), "{metrics}");
    node.stop().await;

    let again = Node::start_in(disks.env(), options()).await.expect("what is on the disk is whole");
    let row = again.client().get("before").await.expect("got").expect("acknowledged, so it is there");
    assert_eq!(row.value, "1");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_that_cannot_be_opened_stays_down_alone() {
    let disks = Simulated::new();
    let options = NodeOptions { partitions: 2, ..options() };
    let node = Node::start_in(disks.env(), options.clone()).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    node.client().put("\u{1}low", "1").await.expect("put");
    node.client().put("\u{7fff}high", "1").await.expect("put");
    node.stop().await;

    let broken = PartitionId(3);
    let mut batch = Batch::new();
    batch.put(&Key::<&[u8]>::Replica { partition: broken }.encode(), b"not a replica");
    disks.engine.write(&batch).expect("written");
    let node = Node::start_in(disks.env(), options).await.expect("the others can be opened");
    let client = node.client().with_timeout(Duration::from_secs(2));
    client.put("\u{1}low", "2").await.expect("its partition works");
    client.put("\u{7fff}high", "2").await.expect_err("its partition has no replica that works");
    let status = node.status();
    assert!(!status.ready && status.fault.is_none(), "the node as a whole is well: {status:?}");
    let faults: Vec<_> = status.partitions.iter().filter_map(|status| Some((status.id, status.fault.clone()?))).collect();
    assert!(matches!(faults.as_slice(), [(id, why)] if *id == broken && why.contains("is corrupt")), "{faults:?}");
    let (code, body) = http_get(node.http_addr().expect("served"), "/readyz").await;
    assert!(code == 503 && body.contains("the replica of p3 is not open"), "{body}");
    node.stop().await;
}
