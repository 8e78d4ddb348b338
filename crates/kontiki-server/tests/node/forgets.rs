//! Old versions go, from reads and from the disk, on every replica, also when nobody writes any more.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use kontiki_client::{ChangesOptions, Client, ScanOptions, WriteBatch};
use kontiki_server::{HistoryOptions, Node, NodeOptions, RocksOptions};
use kontiki_types::{ErrorKind, NodeId, ReadLevel, Version};

use crate::{PATIENCE, eventually, free_addrs};

const KEYS: u64 = 20;
const VALUE_BYTES: usize = 16 * 1024;
const ROUNDS: u64 = 60;
/// What the newest values take on disk, with room for what RocksDB keeps beside them.
const BYTES_MAX: u64 = 4 * KEYS * VALUE_BYTES as u64;

fn forgetful(options: NodeOptions) -> NodeOptions {
    NodeOptions {
        history: HistoryOptions { retention_ms: 1000, reclaim_bytes_min: 64 * 1024 },
        engine: RocksOptions { memtable_bytes: 1024 * 1024, ..RocksOptions::default() },
        ..options
    }
}

/// Does not compress.
fn value(key: u64, round: u64) -> Vec<u8> {
    let mut state = key * 1000 + round + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..VALUE_BYTES).map(|_| byte()).collect()
}

fn name(key: u64) -> String {
    format!("key/{key:03}")
}

/// Writes every key again and again, and deletes as many others. Returns an early version.
async fn overwrite(client: &Client) -> Version {
    let mut early = None;
    for round in 0..ROUNDS {
        let mut batch = WriteBatch::new();
        for key in 0..KEYS {
            batch = batch.put(name(key), value(key, round));
        }
        let written = client.write(batch).await.expect("written");
        early.get_or_insert(written.version);
        client.put(format!("gone/{round}"), value(999, round)).await.expect("written");
        client.delete(format!("gone/{round}")).await.expect("deleted");
    }
    early.expect("written")
}

async fn is_forgotten(client: &Client, version: Version) {
    eventually("the version is refused", async || match client.get_with(name(1), ReadLevel::Snapshot(version)).await {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Version, "{error}");
            assert!(error.to_string().contains(&format!("version {version} is older than the oldest one kept")), "{error}");
            true
        }
    })
    .await;
    // What was deleted since is not known any more.
    let changes: Result<Vec<_>, _> = client.changes(ChangesOptions::after(version)).try_collect().await;
    assert_eq!(changes.expect_err("too old").kind(), ErrorKind::Version);
}

async fn all_is_there(client: &Client) {
    for key in 0..KEYS {
        let row = client.get(name(key)).await.expect("read").expect("there");
        assert_eq!(row.value, value(key, ROUNDS - 1), "{key}");
    }
    let rows: Vec<_> = client.scan(ScanOptions::all()).try_collect().await.expect("scanned");
    assert_eq!(rows.len() as u64, KEYS);
}

/// Bytes of the tables of the storage engine.
fn tables(data_dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sst") {
                bytes += entry.metadata().map_or(0, |meta| meta.len());
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_gives_back_the_room_of_what_was_overwritten() {
    let root = tempfile::tempdir().expect("a folder");
    let members: Vec<_> = (1..).map(NodeId).zip(free_addrs(3)).collect();
    let started = members.iter().map(async |(id, addr)| {
        let options = NodeOptions {
            data_dir: root.path().join(id.to_string()),
            node_id: *id,
            listen: addr.clone(),
            members: members.clone(),
            ..NodeOptions::default()
        };
        Node::start(forgetful(options)).await.expect("starts")
    });
    let nodes = futures::future::join_all(started).await;
    for node in &nodes {
        node.ready(PATIENCE).await.expect("ready");
    }
    let client = Client::connect(members.iter().map(|(_, addr)| addr.clone())).await.expect("connects");
    let early = overwrite(&client).await;
    // 20 MiB were written, and now nobody writes any more.
    for node in &nodes {
        let dir = root.path().join(node.status().node.id.to_string());
        eventually("its tables have shrunk", async || (1..BYTES_MAX).contains(&tables(&dir))).await;
    }
    is_forgotten(&client, early).await;
    all_is_there(&client).await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_what_the_process_before_it_left() {
    let root = tempfile::tempdir().expect("a folder");
    let long = NodeOptions { data_dir: root.path().join("node"), ..NodeOptions::default() };
    let keeps = NodeOptions {
        history: HistoryOptions { retention_ms: 3_600_000, ..HistoryOptions::default() },
        ..forgetful(long.clone())
    };
    let node = Node::start(keeps).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    let early = overwrite(&node.client()).await;
    let kept = node.client().get_with(name(1), ReadLevel::Snapshot(early)).await.expect("an hour is kept");
    assert_eq!(kept.value.expect("there").value, value(1, 0));
    node.stop().await;
    let before = tables(&root.path().join("node"));
    assert!(before > 3 * BYTES_MAX, "{before} bytes of versions were kept");

    let node = Node::start(forgetful(long)).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    eventually("its tables have shrunk", async || tables(&root.path().join("node")) < BYTES_MAX).await;
    is_forgotten(&node.client(), early).await;
    all_is_there(&node.client()).await;
    node.stop().await;
}

#[tokio::test]
async fn a_retention_that_keeps_nothing_is_refused() {
    let options = NodeOptions {
        data_dir: "unused".into(),
        history: HistoryOptions { retention_ms: Duration::from_millis(5).as_millis() as u64, ..HistoryOptions::default() },
        ..NodeOptions::default()
    };
    let error = crate::error_of(Node::start(options).await);
    assert!(error.to_string().contains("retention is 5 ms"), "{error}");
}
