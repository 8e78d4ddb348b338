//! A node alone: the embedded default.

use std::time::Duration;

use futures::TryStreamExt;
use kontiki_client::{Client, ScanOptions};
use kontiki_proto::v1;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_server::{IDENTITY_FILE, Node, NodeOptions};
use kontiki_types::{Error, ErrorKind, NodeId};
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{PATIENCE, channel, error_of, free_addrs, http_get, start_when_free};

fn options(root: &tempfile::TempDir) -> NodeOptions {
    NodeOptions { data_dir: root.path().join("node"), partitions: 3, ..NodeOptions::default() }
}

async fn keys(client: &Client) -> Result<Vec<String>, Error> {
    let rows: Vec<_> = client.scan(ScanOptions::all()).try_collect().await?;
    Ok(rows.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_at_once_stops_quickly_and_remembers_everything() {
    let root = tempfile::tempdir().expect("a folder");
    let node = Node::start(options(&root)).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    let client = node.client();
    // One in each partition, so that the scan crosses all of them.
    for key in ["\u{1}a", "Zebra", "\u{7fff}b"] {
        client.put(key.to_owned(), "1").await.expect("put");
    }
    client.put("Zebra", "2").await.expect("put");
    let row = client.get("Zebra").await.expect("got").expect("there");
    assert_eq!(row.value, "2");
    assert_eq!(keys(&client).await.expect("scanned").len(), 3);
    let status = node.status();
    assert_eq!((status.partitions.len(), status.ready, status.fault.clone()), (4, true, None));
    assert_eq!(status.node.addr, node.addr());
    assert!(status.log_bytes > 0);

    let stopping = Instant::now();
    node.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(5), "a stop is quick, also on a busy machine: {:?}", stopping.elapsed());
    node.stop().await;
    let error = client.with_timeout(Duration::from_millis(300)).get("Zebra").await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    let again = Node::start(options(&root)).await.expect("the directory was given back");
    again.ready(PATIENCE).await.expect("ready");
    let row = again.client().get("Zebra").await.expect("got").expect("survived");
    assert_eq!(row.value, "2");
    assert!(again.client().put("Zebra", "3").await.expect("put") > row.version);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_dropped_loses_nothing_that_was_acknowledged() {
    let root = tempfile::tempdir().expect("a folder");
    let node = Node::start(options(&root)).await.expect("starts");
    for number in 0..50 {
        node.client().put(format!("key/{number}"), "v").await.expect("acknowledged");
    }
    drop(node);
    let again = start_when_free(&options(&root)).await;
    assert_eq!(keys(&again.client()).await.expect("scanned").len(), 50);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_nobody_waits_for_and_a_drop_outside_of_the_runtime_give_the_directory_back() {
    let root = tempfile::tempdir().expect("a folder");
    let node = Node::start(options(&root)).await.expect("starts");
    let impatient = tokio::time::timeout(Duration::ZERO, node.stop()).await;
    assert!(impatient.is_err(), "a stop takes longer than nothing");
    let again = start_when_free(&options(&root)).await;
    std::thread::spawn(move || drop(again)).join().expect("dropped");
    start_when_free(&options(&root)).await.stop().await;
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_that_leaves_nothing_behind() {
    let root = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    for wrong in [
        NodeOptions { listen: addr.clone(), ..options(&root) },
        NodeOptions { http_listen: Some(addr.clone()), ..options(&root) },
    ] {
        let error = error_of(Node::start(wrong).await);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&addr) && error.to_string().contains("another process uses that port"), "{error}");
        assert!(!root.path().join("node").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_or_of_another_node_is_an_error_and_the_first_goes_on() {
    let root = tempfile::tempdir().expect("a folder");
    let node = Node::start(options(&root)).await.expect("starts");
    let error = error_of(Node::start(options(&root)).await);
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("is in use"), "{error}");
    node.client().put("still", "here").await.expect("the first goes on");
    node.stop().await;
    let error = error_of(Node::start(NodeOptions { node_id: NodeId(2), ..options(&root) }).await);
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("belongs to node n1"), "{error}");
    std::fs::write(root.path().join("node").join(IDENTITY_FILE), b"").expect("damaged");
    let error = error_of(Node::start(options(&root)).await);
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("is damaged"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_health_readiness_and_figures() {
    let root = tempfile::tempdir().expect("a folder");
    let http = free_addrs(1).remove(0);
    let node = Node::start(NodeOptions { http_listen: Some(http.clone()), ..options(&root) }).await.expect("starts");
    node.ready(PATIENCE).await.expect("ready");
    node.client().put("k", "v").await.expect("put");
    assert_eq!(node.http_addr(), Some(http.as_str()));
    assert_eq!(http_get(&http, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(http_get(&http, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(http_get(&http, "/nothing").await.0, 404);
    let (code, metrics) = http_get(&http, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "kontiki_ready 1",
        "kontiki_partitions 4",
        "kontiki_partitions_led 4",
        r#"kontiki_operations_total{operation="write",outcome="ok"} 1"#,
        r#"kontiki_partition_leads{partition="1"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "`{line}` is missing in:\n{metrics}");
    }
    assert!(metrics.contains("kontiki_operation_duration_seconds_bucket") && metrics.ends_with("# EOF\n"), "{metrics}");

    let mut health = HealthClient::new(channel(node.addr()).await);
    crate::eventually("the health service says so", async || {
        let asked = HealthCheckRequest { service: "kontiki.v1.Kv".to_owned() };
        health.check(asked).await.expect("answered").into_inner().status() == ServingStatus::Serving
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raft_message_that_cannot_be_read_is_refused_by_name() {
    let root = tempfile::tempdir().expect("a folder");
    let node = Node::start(options(&root)).await.expect("starts");
    let mut peer = PeerClient::new(channel(node.addr()).await);
    let message = v1::Envelope { cluster_id: "short".into(), ..v1::Envelope::default() };
    let one = peer.call(message.clone()).await.expect_err("refused");
    let mut answers = peer.append(futures::stream::iter([message])).await.expect("a stream").into_inner();
    let streamed = answers.message().await.expect_err("refused, not merely ended");
    for status in [one, streamed] {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("cluster_id has 5 bytes"), "{status}");
        assert_eq!(status.metadata().get("kontiki-refused").expect("its number"), "1");
    }
    node.stop().await;
}
