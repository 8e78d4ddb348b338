//! Reads and scans: levels, replicas, one version over all partitions.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kontiki_types::{Change, ErrorKind, NodeId, PartitionId, ReadLevel, Reject, Version};
use tokio::time::Instant;

use super::fake::{Asked, Cluster};
use super::options;
use crate::{ChangesOptions, Client, ScanOptions};

async fn fill(client: &Client, keys: &[&'static str]) {
    for key in keys {
        client.put(*key, *key).await.expect("written");
    }
}

async fn keys(client: &Client, options: ScanOptions) -> Vec<String> {
    let rows: Vec<_> = client.scan(options).try_collect().await.expect("scans");
    rows.iter().map(|row| String::from_utf8(row.key.to_vec()).expect("text")).collect()
}

const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_goes_to_the_leader_and_survives_its_fall() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.client(options());
    fill(&client, &["a"]).await;
    assert_eq!(client.get("a").await.expect("read").expect("there").value, "a");
    assert_eq!(client.get("none").await.expect("read"), None);
    cluster.state().down.insert(NodeId(1));
    cluster.lead(2, Some(2));
    assert_eq!(client.get("a").await.expect("read").expect("there").key, "a");
    assert_eq!(cluster.reads_asked().last(), Some(&(NodeId(2), PartitionId(2))));
}

#[tokio::test(start_paused = true)]
async fn reads_end_at_the_deadline() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    fill(&client, &["a"]).await;
    cluster.state().down.extend(super::fake::NODES);
    for timeout in [Duration::from_millis(70), Duration::from_secs(3)] {
        let start = Instant::now();
        let error = client.with_timeout(timeout).get("a").await.expect_err("all are down");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(start.elapsed() <= timeout, "{:?}", start.elapsed());
        assert!(error.to_string().contains("connection refused"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_who_find_no_map_ask_for_it_once() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.embedded(2, options());
    let gets = futures::future::join_all((0..20).map(|_| client.get("a"))).await;
    assert!(gets.into_iter().all(|get| get.expect("read").is_none()));
    assert_eq!(cluster.state().maps_given, 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_its_order_over_partitions_and_a_split() {
    let cluster = Cluster::new(&["d"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    cluster.split(3, "g", 9);
    let asked: Vec<Bytes> = ["i", "a", "none", "g", "f", "a"].map(Bytes::from).into();
    let rows = client.batch_get(asked, ReadLevel::Linearizable).await.expect("read");
    let values: Vec<_> = rows.iter().map(|row| row.as_ref().map(|row| row.value.clone())).collect();
    assert_eq!(values, [Some("i"), Some("a"), None, Some("g"), Some("f"), Some("a")].map(|value| value.map(Bytes::from)));
    let error = client.batch_get(vec![], ReadLevel::Linearizable).await.expect_err("no key");
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("names no key"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn at_least_reads_prefer_the_local_replica_and_fall_back_when_it_lags() {
    let cluster = Cluster::new(&[]);
    let client = cluster.embedded(3, options());
    fill(&client, &["a"]).await;
    let read = || client.get_with("a", ReadLevel::AtLeast(client.token()));
    let seen = read().await.expect("read");
    assert_eq!(seen.value.expect("there").value, "a");
    assert_eq!(cluster.reads_asked(), [(NodeId(3), PartitionId(2))]);
    // The local replica has not applied the write that the token names: another one answers.
    cluster.state().follower_clock.insert((NodeId(3), PartitionId(2)), 1);
    client.put("a", "new").await.expect("written");
    assert_eq!(read().await.expect("read").value.expect("there").value, "new");
    assert_ne!(cluster.reads_asked().last(), Some(&(NodeId(3), PartitionId(2))));
}

#[tokio::test(start_paused = true)]
async fn stale_reads_spread_over_replicas_and_state_their_age() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    fill(&client, &["a"]).await;
    cluster.state().follower_age_ms = 40;
    let mut ages = BTreeSet::new();
    for _ in 0..40 {
        ages.insert(client.get_with("a", ReadLevel::BoundedStale { age_ms_max: 50 }).await.expect("read").age_ms);
    }
    assert_eq!(ages, BTreeSet::from([0, 40]));
    let nodes: BTreeSet<_> = cluster.reads_asked().iter().map(|(node, _)| node.0).collect();
    assert_eq!(nodes, BTreeSet::from([1, 2, 3]));
    for _ in 0..10 {
        let fresh = client.get_with("a", ReadLevel::BoundedStale { age_ms_max: 10 }).await.expect("the leader is young enough");
        assert_eq!(fresh.age_ms, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_version_of_one_partition_names_all_and_an_invented_one_is_refused() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.client(options());
    let version = client.put("z", "1").await.expect("written");
    let other = cluster.client(options());
    // Partition 2's clock is far behind; another client, which has seen nothing, asks.
    let row = other.get_with("a", ReadLevel::Snapshot(version)).await.expect("read");
    assert_eq!(row.value, None);
    assert_eq!(cluster.state().partitions[&PartitionId(2)].clock, version.0);
    let error = other.get_with("a", ReadLevel::Snapshot(Version::MAX)).await.expect_err("nobody named it");
    assert_eq!(error.kind(), ErrorKind::Version, "{error}");
    let newest = matches!(error.reject(), Some(Reject::VersionInFuture { newest, .. }) if *newest == version);
    assert!(newest, "{error}");
    assert!(cluster.state().partitions.values().all(|partition| partition.clock <= version.0), "no clock was spent");
}

#[tokio::test(start_paused = true)]
async fn scans_cross_partitions_in_both_directions() {
    let cluster = Cluster::new(&["c", "f"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    assert_eq!(keys(&client, ScanOptions::all()).await, KEYS);
    let mut backwards = KEYS;
    backwards.reverse();
    assert_eq!(keys(&client, ScanOptions::all().reverse()).await, backwards);
    for page in 1..5 {
        let paged = ScanOptions::all().page(page, u32::MAX);
        assert_eq!(keys(&client, paged.clone()).await, KEYS, "pages of {page}");
        assert_eq!(keys(&client, paged.reverse()).await, backwards, "pages of {page}");
    }
    assert_eq!(keys(&client, ScanOptions::range("b", "g").limit(3)).await, ["b", "c", "d"]);
    assert_eq!(keys(&client, ScanOptions::range("b", "g").reverse().limit(3)).await, ["f", "e", "d"]);
    assert_eq!(keys(&client, ScanOptions::prefix("e")).await, ["e"]);
    assert!(keys(&client, ScanOptions::all().limit(0)).await.is_empty());
    assert!(keys(&client, ScanOptions::range("x", "x")).await.is_empty());
    let only: Vec<_> = client.scan(ScanOptions::all().keys_only()).try_collect::<Vec<_>>().await.expect("scans");
    assert!(only.len() == 9 && only.iter().all(|row| row.value.is_empty()));
    let error = client.scan(ScanOptions::range("b", "a")).next().await.expect("an item").expect_err("reversed");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_scan_reads_one_version_while_writes_splits_and_elections_go_on() {
    let cluster = Cluster::new(&["d"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    for reverse in [false, true] {
        let mut options = ScanOptions::all().page(1, u32::MAX);
        if reverse {
            options = options.reverse();
        }
        let before: Vec<_> = KEYS.iter().map(|key| cluster.value(key).expect("there")).collect();
        cluster.state().asked.clear();
        let mut scan = client.scan(options);
        let first = scan.next().await.expect("a row").expect("reads");
        let version = scan.version().expect("known");
        let writer = cluster.client(super::options());
        for key in KEYS {
            writer.put(key, if reverse { "newer" } else { "new" }).await.expect("written");
        }
        writer.delete("e").await.expect("deleted");
        cluster.split(3, if reverse { "e" } else { "g" }, if reverse { 8 } else { 9 });
        cluster.lead(3, Some(2));
        cluster.lead(2, Some(3));
        let mut rows = vec![first];
        rows.extend(scan.try_collect::<Vec<_>>().await.expect("goes on"));
        if reverse {
            rows.reverse();
        }
        let values: Vec<_> = rows.iter().map(|row| row.value.clone()).collect();
        assert_eq!(values, before, "reverse: {reverse}");
        assert_eq!(cluster.snapshots_asked(), BTreeSet::from([version.0]));
        client.put("e", "back").await.expect("written");
        cluster.lead(2, Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_by_a_map_that_hides_a_split_sees_every_acknowledged_write() {
    // With one partition on the old map its clock would be the version; with several the highest would lack the child's.
    for boundaries in [&[] as &[&'static str], &["c"]] {
        let cluster = Cluster::new(boundaries);
        let scanner = cluster.client(options());
        fill(&scanner, &KEYS).await;
        cluster.split(2 + boundaries.len() as u64, "e", 9);
        let writer = cluster.client(options());
        for _ in 0..50 {
            writer.put("h", "acknowledged").await.expect("written");
        }
        let rows: Vec<_> = scanner.scan(ScanOptions::all()).try_collect().await.expect("scans");
        let h = rows.iter().find(|row| row.key == "h").expect("there");
        assert_eq!(h.value, "acknowledged", "{boundaries:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_of_one_partition_reads_one_version_too() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    let mut scan = client.scan(ScanOptions::all().page(1, u32::MAX));
    let mut values = vec![scan.next().await.expect("a row").expect("reads").value];
    for key in KEYS {
        client.put(key, "new").await.expect("written");
    }
    values.extend(scan.map_ok(|row| row.value).try_collect::<Vec<_>>().await.expect("goes on"));
    assert_eq!(values, KEYS);
}

#[tokio::test(start_paused = true)]
async fn clocks_are_moved_to_the_scans_version_before_it_reads() {
    let cluster = Cluster::new(&["d", "g"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    let highest = cluster.state().partitions.values().map(|partition| partition.clock).max().expect("some");
    assert_eq!(keys(&client, ScanOptions::all()).await, KEYS);
    let state = cluster.state();
    let moved = state.asked.iter().filter(|asked| matches!(asked, Asked::Advance { to, .. } if to.0 == highest)).count();
    assert_eq!(moved, 2, "the two that were behind");
    let users = state.partitions.values().filter(|partition| partition.descriptor.id != PartitionId::SYSTEM);
    assert!(users.into_iter().all(|partition| partition.clock == highest));
}

#[tokio::test(start_paused = true)]
async fn pages_say_where_to_resume() {
    let cluster = Cluster::new(&["d"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    let first = client.scan_pages(ScanOptions::all().limit(5)).try_collect::<Vec<_>>().await.expect("scans");
    let last = first.last().expect("pages");
    let resume = last.resume.clone().expect("there is more");
    let rest = ScanOptions::range(resume, "").level(ReadLevel::Snapshot(last.version));
    assert_eq!(keys(&client, rest).await, ["f", "g", "h", "i"]);
    let all = client.scan_pages(ScanOptions::all()).try_collect::<Vec<_>>().await.expect("scans");
    assert_eq!(all.last().expect("pages").resume, None);
}

#[tokio::test(start_paused = true)]
async fn a_bounded_stale_scan_works_without_any_leader() {
    let cluster = Cluster::new(&["d"]);
    let client = cluster.embedded(2, options());
    fill(&client, &KEYS).await;
    cluster.lead(2, None);
    cluster.lead(3, None);
    cluster.state().down.extend([NodeId(1), NodeId(3)]);
    let stale = ScanOptions::all().page(2, u32::MAX).level(ReadLevel::BoundedStale { age_ms_max: 1000 });
    assert_eq!(keys(&client, stale).await, KEYS);
}

#[tokio::test(start_paused = true)]
async fn the_token_gathers_what_was_read_and_written() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.client(options());
    let version = client.put("a", "1").await.expect("written");
    assert_eq!(client.token().at(PartitionId(2)), version);
    client.get("z").await.expect("read");
    assert_eq!(client.token().at(PartitionId(3)).0, cluster.state().partitions[&PartitionId(3)].clock);
    let other = cluster.client(options());
    other.merge_token(&client.token()).expect("of one cluster");
    assert_eq!(other.token(), client.token());
}

#[tokio::test(start_paused = true)]
async fn the_status_of_every_node_is_told_also_of_those_that_are_down() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.refresh_map().await.expect("known");
    cluster.state().down.insert(NodeId(2));
    let status = client.status().await.expect("told");
    let up: Vec<_> = status.iter().map(|(node, status)| (node.id.0, status.is_ok())).collect();
    assert_eq!(up, [(1, true), (2, false), (3, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_leadership_is_moved_by_its_leader() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    cluster.lead(2, Some(3));
    client.transfer_leader(PartitionId(2), NodeId(2)).await.expect("moved");
    assert_eq!(cluster.state().partitions[&PartitionId(2)].leader, Some(NodeId(2)));
    let error = client.transfer_leader(PartitionId(77), NodeId(2)).await.expect_err("no such partition");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_map_that_is_behind_is_asked_elsewhere() {
    let cluster = Cluster::new(&["d"]);
    let client = cluster.embedded(1, options());
    fill(&client, &KEYS).await;
    let old = cluster.map();
    cluster.split(3, "g", 9);
    cluster.state().old_maps.insert(NodeId(1), old);
    let fresh = cluster.embedded(1, options());
    assert_eq!(keys(&fresh, ScanOptions::all()).await, KEYS);
}

#[tokio::test(start_paused = true)]
async fn a_batch_get_is_bounded_over_all_its_partitions() {
    let cluster = Cluster::new(&["c", "f"]);
    let client = cluster.client(options());
    // Each partition's part is within the limit, and all of them together are not.
    let keys = ["a1", "a2", "c1", "c2", "f1"].map(Bytes::from);
    for key in &keys {
        client.put(key.clone(), vec![7; 1024 * 1024]).await.expect("written");
    }
    let error = client.batch_get(keys.to_vec(), ReadLevel::Linearizable).await.expect_err("5 MiB");
    let Some(Reject::TooLarge { what, limit, .. }) = error.reject() else { panic!("{error}") };
    assert_eq!((what.as_str(), *limit), ("bytes that one batch get answers with", 4 * 1024 * 1024));
    let rows = client.batch_get(keys[1..4].to_vec(), ReadLevel::Linearizable).await.expect("3 MiB");
    assert!(rows.iter().all(Option::is_some));
}

/// The changes page by page, at most `rows` a page: `key=value` or `key removed`, and the version that was read.
async fn changes(client: &Client, options: ChangesOptions) -> (Vec<String>, Version) {
    let pages: Vec<_> = client.changes(options).try_collect().await.expect("reads");
    let told = |change: &Change| match &change.value {
        Some(value) => format!("{}={}", String::from_utf8_lossy(&change.key), String::from_utf8_lossy(value)),
        None => format!("{} removed", String::from_utf8_lossy(&change.key)),
    };
    let version = pages.first().expect("a page").version;
    assert!(pages.iter().all(|page| page.version == version), "one version");
    (pages.iter().flat_map(|page| &page.changes).map(told).collect(), version)
}

#[tokio::test(start_paused = true)]
async fn changes_are_of_one_version_over_all_partitions_and_go_on_over_a_split() {
    let cluster = Cluster::new(&["c", "f"]);
    let client = cluster.client(options());
    fill(&client, &KEYS).await;
    let before = client.snapshot_version().await.expect("a version");
    assert_eq!(changes(&client, ChangesOptions::after(before)).await, (vec![], before));
    for key in ["a", "d", "i"] {
        client.put(key, "new").await.expect("written");
    }
    client.delete("g").await.expect("deleted");
    let (told, version) = changes(&client, ChangesOptions::after(before).page(1, 1024)).await;
    assert_eq!(told, ["a=new", "d=new", "g removed", "i=new"]);
    assert!(version > before);
    client.put("b", "later").await.expect("written");
    let mut pages = client.changes(ChangesOptions::after(before).at(version).page(1, 1024));
    let first = pages.next().await.expect("a page").expect("reads");
    assert_eq!(first.changes.len(), 1);
    cluster.split(4, "h", 9);
    let rest: Vec<_> = pages.try_collect().await.expect("reads");
    assert_eq!(rest.iter().map(|page| page.changes.len()).sum::<usize>(), 3, "nothing twice, nothing left out, nothing newer");
    let part = ChangesOptions::after(before).range("d", "i");
    assert_eq!(changes(&client, part).await.0, ["d=new", "g removed"]);
}

#[tokio::test(start_paused = true)]
async fn a_map_whose_addresses_are_dead_is_asked_for_again() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "v").await.expect("written");
    let maps = cluster.state().maps_given;
    cluster.state().down.extend([NodeId(1), NodeId(2)]);
    let reading = tokio::spawn({
        let client = client.clone();
        async move { client.get("k").await }
    });
    cluster.until(|cluster| cluster.state().maps_given > maps).await;
    cluster.state().down.clear();
    reading.await.expect("no panic").expect("read");
}
