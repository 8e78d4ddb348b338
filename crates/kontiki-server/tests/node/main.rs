//! Whole nodes in this process, on loopback: alone, three together, stopped, killed, and on disks that fail.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that plays operator: it opens sockets and wipes directories"
)]

mod alone;
mod disks;
mod forgets;
mod slow;
mod three;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use kontiki_server::{Node, NodeOptions};
use kontiki_types::{Error, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// Longer than anything takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses that are free. Their ports lie below those that the kernel gives to outgoing connections: a node that is restarted must
/// find its own again.
fn free_addrs(count: usize) -> Vec<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % 200) as u16 * 10;
    let addrs = std::iter::repeat_with(|| {
        let port = 30_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then(|| format!("127.0.0.1:{port}"))
    });
    addrs.take(2_000).flatten().take(count).collect()
}

/// A connection for gRPC.
async fn channel(addr: &str) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}")).expect("an address");
    endpoint.connect().await.expect("connected")
}

/// Starts a node as soon as its directory and port are free: one that was dropped gives them back in its own time.
async fn start_when_free(options: &NodeOptions) -> Node {
    let until = Instant::now() + PATIENCE;
    loop {
        match Node::start(options.clone()).await {
            Ok(node) => return node,
            Err(error) if Instant::now() > until => panic!("not free in time: {error}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until a condition holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// One HTTP/1.1 request; the status code and everything after the head.
async fn http_get(addr: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    (code, body.to_owned())
}

fn error_of(started: Result<Node, Error>) -> Error {
    started.map(|node| panic!("{node:?} started")).expect_err("refused")
}

/// Options of three members, each with its directory below `root`.
fn three_options(root: &std::path::Path) -> Vec<NodeOptions> {
    let addrs = free_addrs(3);
    let members: Vec<_> = (1..).map(NodeId).zip(addrs).collect();
    let options = |(id, addr): &(NodeId, String)| NodeOptions {
        data_dir: root.join(id.to_string()),
        node_id: *id,
        listen: addr.clone(),
        members: members.clone(),
        partitions: 4,
        ..NodeOptions::default()
    };
    members.iter().map(options).collect()
}
