//! Backup, restore and recover, through the real program: what is restored is what the cluster held at the backup's version, whatever was
//! written meanwhile; damage is found; the new cluster refuses who knew the old one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test: it damages, copies and compares files")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use kontiki_client::{ChangesOptions, Client, ScanOptions};
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE, Server};
use kontiki_tests::program::{self, Said};
use kontiki_tests::small_disk::SmallDisk;
use kontiki_types::{Bytes, ErrorKind, ReadLevel, Version};
use tokio::time::{Instant, sleep};

/// The exit code for files.
const STORAGE: i32 = 5;

type State = BTreeMap<Bytes, Bytes>;

async fn state(client: &Client, level: ReadLevel) -> State {
    client.scan(ScanOptions::all().level(level)).map_ok(|row| (row.key, row.value)).try_collect().await.expect("scan")
}

fn json(said: Said) -> serde_json::Value {
    let out = said.expect_ok();
    serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn version(made: &serde_json::Value) -> Version {
    Version(made["version"].as_str().expect("a version").parse().expect("a number"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Writes `seq/0`, `seq/1`, ... each acknowledged before the next, and new values of other keys, until it is told to stop.
async fn write_on(client: Client, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        client.put(format!("seq/{at:08}"), format!("{at}")).await.expect("put");
        client.put(format!("{:02x}/key/{:04}", at % 251, at % 800), format!("new {at}")).await.expect("put");
        if at % 7 == 0 {
            client.delete(format!("{:02x}/key/{:04}", at % 251, at % 400)).await.expect("delete");
        }
        written.store(at + 1, Ordering::Relaxed);
    }
}

async fn until_written(written: &AtomicU64, at_least: u64) {
    let until = Instant::now() + DEADLINE;
    while written.load(Ordering::Relaxed) < at_least {
        assert!(Instant::now() < until, "fewer than {at_least} writes in {DEADLINE:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Starts a lone server on a data directory that was built by the program, where an old node was.
async fn serve(folder: &Path, listen: &str) -> Server {
    let mut server = Server::alone(folder);
    server.set("--listen", listen);
    server.start();
    if let Err(why) = server.ready().await {
        panic!("{why}");
    }
    server
}

/// Every byte that is looked at, once flipped, is found.
async fn damage_is_found(file: &Path, dir: &Path, samples: usize) {
    let good = fs::read(file).expect("readable");
    for sample in 0..samples {
        let at = good.len() * sample / samples;
        let mut bad = good.clone();
        bad[at] ^= 1 << (sample % 8);
        fs::write(file, &bad).expect("writable");
        let said = program::run(["backup", "verify", &text(dir)]).await;
        assert_eq!(said.code, Some(STORAGE), "byte {at} of {}: {}", file.display(), said.err);
    }
    fs::write(file, &good[..good.len() - 1]).expect("writable");
    program::run(["backup", "verify", &text(dir)]).await.expect_failure(STORAGE, &["damaged"]);
    fs::write(file, &good).expect("writable");
}

/// Kills a backup once a part is done, and runs it again: it goes on, at the same version.
async fn interrupted(cluster: &Cluster, to: &Path) -> serde_json::Value {
    let addrs = cluster.addrs();
    let args =
        ["--endpoints", &addrs.join(","), "-o", "json", "backup", "--part-bytes", "1", "--to", &text(to)].map(str::to_owned);
    let mut first = program::command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let until = Instant::now() + DEADLINE;
    while !to.join("parts/000001").exists() {
        assert!(Instant::now() < until, "no part was written in {DEADLINE:?}");
        sleep(Duration::from_millis(1)).await;
    }
    first.kill().await.expect("killed");
    assert!(!to.join("MANIFEST").exists(), "it ended before it could be interrupted: give it more rows");
    program::run(["backup", "verify", &text(to)]).await.expect_failure(STORAGE, &["interrupted", "goes on"]);
    let again = program::run(&args).await;
    assert!(again.err.contains("going on with the backup of version"), "{}", again.err);
    json(again)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_of_one_version_and_restores_into_another_cluster() {
    let mut cluster = Cluster::start(3, Cuts::Even(4)).await;
    let client = cluster.client().await.with_timeout(DEADLINE);
    let fill = (0..4000u64).map(|at| client.put(format!("{:02x}/key/{at:04}", at % 251), "x".repeat(2000)));
    futures::stream::iter(fill.map(Ok)).try_for_each_concurrent(64, |put| async { put.await.map(drop) }).await.expect("puts");
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = tokio::spawn(write_on(client.clone(), stop.clone(), written.clone()));
    until_written(&written, 20).await;

    let folder = cluster.folder().join("backups");
    let (full, next) = (folder.join("full"), folder.join("next"));
    let made = interrupted(&cluster, &full).await;
    let first = version(&made);
    assert!(made["parts"].as_u64().expect("parts") > 3, "{made}");
    until_written(&written, written.load(Ordering::Relaxed) + 20).await;
    let addrs = cluster.addrs();
    let made = json(program::run_at(&addrs, &["-o", "json", "backup", "--to", &text(&next), "--base", &text(&full)]).await);
    let second = version(&made);
    assert!(second > first && made["removed"].as_u64().expect("removed") > 0 && made["rows"].as_u64() < Some(4000), "{made}");
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("no panic");
    let expected = state(&client, ReadLevel::Snapshot(second)).await;
    let sequence = expected.keys().filter(|key| key.starts_with(b"seq/")).count();
    assert!(expected.contains_key(format!("seq/{:08}", sequence - 1).as_bytes()), "one version: no gap in what one writer wrote");

    // What must be refused.
    let refused = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let addrs = addrs.clone();
        async move { program::run_at(&addrs, &args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    refused(&["backup", "--to", &text(&full)]).await.expect_failure(STORAGE, &["holds a complete backup"]);
    refused(&["backup", "--to", &text(cluster.folder())]).await.expect_failure(STORAGE, &["is not empty"]);
    refused(&["backup", "verify", &text(cluster.folder())]).await.expect_failure(STORAGE, &["is not a backup"]);
    refused(&["restore", "--from", &text(&next), "--data", &text(&folder)]).await.expect_failure(STORAGE, &["is not empty"]);
    program::run(["backup", "verify", &text(&next)]).await.expect_ok();
    for (file, dir) in [("MANIFEST", &next), ("parts/000001", &next), ("parts/000001", &full)] {
        damage_is_found(&dir.join(file), &next, 6).await;
    }
    let moved = folder.join("moved");
    fs::rename(&full, &moved).expect("moves");
    program::run(["backup", "verify", &text(&next)]).await.expect_failure(STORAGE, &["say where it is with --base"]);

    // Another number of partitions, and another history.
    let home = folder.join("new");
    let data = home.join("node-1");
    let restore =
        ["-o", "json", "restore", "--from", &text(&next), "--base", &text(&moved), "--data", &text(&data), "--partitions", "7"];
    let restored = json(program::run(restore).await);
    assert_eq!(restored["rows"].as_u64(), Some(expected.len() as u64));
    let token = client.token();
    let old = cluster.node(1).addr().to_owned();
    for id in 1..=3 {
        cluster.node(id).kill().await;
    }
    let mut server = serve(&home, &old).await;
    let new = Client::connect([&old]).await.expect("it answers").with_timeout(DEADLINE);
    assert_eq!(state(&new, ReadLevel::Linearizable).await, expected);
    assert_eq!(new.map().partitions.len(), 8, "7 and the system's");
    let row = new.get("seq/00000000").await.expect("get").expect("there");
    assert!(row.version > second, "{} follows {second}", row.version);

    let error = client.get("seq/00000000").await.expect_err("a client of the old cluster");
    assert_eq!(error.kind(), ErrorKind::HistoryChanged, "{error}");
    let error = new.get_with("seq/00000000", ReadLevel::AtLeast(token)).await.expect_err("a token of the old cluster");
    assert_eq!(error.kind(), ErrorKind::HistoryChanged, "{error}");
    assert_eq!(new.cluster().map(|id| id.to_string()).as_deref(), restored["cluster"].as_str());
    program::run_at(&[old], &["backup", "--to", &text(&folder.join("third")), "--base", &text(&next)])
        .await
        .expect_failure(STORAGE, &["is a backup of the cluster"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_a_backup_and_a_restore_nothing_but_a_second_attempt() {
    let (Some(disk), Some(other)) = (SmallDisk::mount(4), SmallDisk::mount(6)) else { return };
    let cluster = Cluster::start(1, Cuts::Even(2)).await;
    let client = cluster.client().await.with_timeout(DEADLINE);
    let fill = (0..2500u64).map(|at| client.put(format!("{:02x}/{at:04}", at % 251), format!("{at} {}", "x".repeat(4000))));
    futures::stream::iter(fill.map(Ok)).try_for_each_concurrent(64, |put| async { put.await.map(drop) }).await.expect("puts");
    let expected = state(&client, ReadLevel::Linearizable).await;
    let (dir, addrs) = (disk.path().join("backup"), cluster.addrs());
    let (to, backup) = (text(&dir), text(&dir));
    let backup = ["backup", "--part-bytes", "1000000", "--to", &backup];
    let said = program::run_at(&addrs, &backup).await;
    said.expect_failure(STORAGE, &["No space left", "free space on that disk", "goes on where it was"]);
    program::run(["backup", "verify", &to]).await.expect_failure(STORAGE, &["interrupted"]);
    disk.resize(64);
    let again = program::run_at(&addrs, &backup).await;
    assert!(again.err.contains("going on with the backup"), "{}", again.err);
    again.expect_ok();
    program::run(["backup", "verify", &to]).await.expect_ok();

    // Whatever of the new node is the first to find no room: nobody waits for a node that cannot go on.
    let data = text(&other.path().join("new"));
    let restore = ["-o", "json", "restore", "--from", &to, "--data", &data];
    let since = Instant::now();
    let said = program::run(restore).await;
    said.expect_failure(STORAGE, &["No space left", "free space", "the same command begins anew"]);
    assert!(since.elapsed() < DEADLINE / 2, "it said so after {:?}", since.elapsed());
    other.resize(400);
    let restored = json(program::run(restore).await);
    assert_eq!(restored["rows"].as_u64(), Some(expected.len() as u64));
}

/// CRC-32 as in zlib, bit by bit, and not by the code that wrote the file.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_older_than_what_the_cluster_keeps_is_refused() {
    let cluster = Cluster::start(1, Cuts::Even(2)).await;
    let client = cluster.client().await.with_timeout(DEADLINE);
    client.put("key", "value").await.expect("put");
    let (full, next, addrs) = (cluster.folder().join("full"), cluster.folder().join("next"), cluster.addrs());
    let made = json(program::run_at(&addrs, &["-o", "json", "backup", "--to", &text(&full)]).await);
    // As if it had been made two hours ago.
    let now = version(&made);
    let then = Version::from_ms(now.ms() - 2 * 3_600_000);
    let manifest = fs::read_to_string(full.join("MANIFEST")).expect("readable");
    let (body, _) = manifest.split_at(manifest.rfind("crc32 ").expect("a checksum"));
    let body = body.replace(&now.to_string(), &then.to_string());
    fs::write(full.join("MANIFEST"), format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()))).expect("writable");
    // A new cluster begins to forget in its first seconds.
    let until = Instant::now() + DEADLINE;
    while client.changes(ChangesOptions::after(then)).try_collect::<Vec<_>>().await.is_ok() {
        assert!(Instant::now() < until, "{then} is still kept");
        sleep(Duration::from_millis(20)).await;
    }
    let said = program::run_at(&addrs, &["backup", "--to", &text(&next), "--base", &text(&full)]).await;
    said.expect_failure(2, &["is older than the oldest one kept", "begin a full backup in a new directory"]);
    assert!(!said.err.contains("the same command goes on"), "it would only end in the same way: {}", said.err);
    assert!(!next.join("MANIFEST").exists());
}

/// Names and contents of all files.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

/// Waits until every node's log ends where the others' do.
async fn logs_are_alike(client: &Client) {
    let until = Instant::now() + DEADLINE;
    loop {
        let statuses = client.status().await.expect("status");
        let ends = statuses.iter().filter_map(|(_, status)| status.as_ref().ok());
        let ends: Vec<Vec<_>> = ends.map(|node| node.partitions.iter().map(|one| (one.id, one.last_index)).collect()).collect();
        if ends.len() == 3 && ends.iter().all(|end| *end == ends[0]) {
            return;
        }
        assert!(Instant::now() < until, "logs differ: {ends:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_cluster_becomes_a_new_one() {
    let mut cluster = Cluster::start(3, Cuts::Even(3)).await;
    let client = cluster.client().await.with_timeout(DEADLINE);
    for at in 0..300u64 {
        client.put(format!("{:02x}/{at:04}", at * 7 % 256), format!("value {at}")).await.expect("put");
    }
    let expected = state(&client, ReadLevel::Linearizable).await;
    logs_are_alike(&client).await;
    let dirs: Vec<String> = cluster.nodes().iter().map(|node| text(node.data())).collect();
    let home = cluster.folder().join("recovered");
    let to = text(&home.join("node-1"));

    program::run(["recover", "--from", &dirs[0], "--to", &to]).await.expect_failure(STORAGE, &["is in use"]);
    cluster.kill_all().await;
    let healthy = ["recover", "--from", &dirs[0], "--from", &dirs[1], "--to", &to];
    program::run(healthy).await.expect_failure(2, &["the cluster is healthy", "--force"]);
    program::run(["recover", "--from", &dirs[0], "--from", &dirs[0], "--to", &to])
        .await
        .expect_failure(STORAGE, &["both of node n1"]);
    program::run(["recover", "--from", &text(cluster.folder()), "--to", &to]).await.expect_failure(STORAGE, &["no IDENTITY"]);
    // One that has lost its log is named as it was given, and not as the copy that was looked at.
    let log = Path::new(&dirs[1]).join("log");
    fs::rename(&log, cluster.folder().join("log-away")).expect("moves");
    let said = program::run(["recover", "--from", &dirs[2], "--from", &dirs[1], "--to", &to]).await;
    said.expect_failure(STORAGE, &[&dirs[1], "its segments are missing", "leave it out"]);
    assert!(!said.err.contains("restoring"), "{}", said.err);
    fs::rename(cluster.folder().join("log-away"), &log).expect("moves back");

    let before = contents(Path::new(&dirs[2]));
    let recovered = json(program::run(["-o", "json", "recover", "--from", &dirs[2], "--to", &to]).await);
    assert!(contents(Path::new(&dirs[2])) == before, "the directory that is left stays as it was");
    assert_eq!(recovered["rows"].as_u64(), Some(expected.len() as u64));
    let partitions = recovered["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 4);
    for partition in partitions {
        assert_eq!((&partition["taken_from"], &partition["not_seen"]), (&3.into(), &serde_json::json!([1, 2])), "{partition}");
        assert_eq!(partition["majority_seen"], false);
    }
    let old = cluster.node(3).addr().to_owned();
    let mut server = serve(&home, &old).await;
    let new = Client::connect([&old]).await.expect("it answers").with_timeout(DEADLINE);
    assert_eq!(state(&new, ReadLevel::Linearizable).await, expected);
    new.put("after", "it takes writes").await.expect("put");
    let error = client.put("k", "v").await.expect_err("a client of the old cluster");
    assert_eq!(error.kind(), ErrorKind::HistoryChanged, "{error}");
    server.stop().await;
}
