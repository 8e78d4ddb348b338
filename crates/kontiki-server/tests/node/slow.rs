//! A node behind a slow line leads nothing, and leads again once the line is good.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use kontiki_client::{Dial, Io, TcpDial};
use kontiki_server::env::Env;
use kontiki_server::{Node, NodeOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use crate::{PATIENCE, eventually, three_options};

/// What the line adds each way while it is slow: an answer takes twice as long, which is far more than the floor below which nobody is slow.
const DELAY: Duration = Duration::from_millis(30);

/// Dials lines that are slow as long as the flag says so.
struct SlowDial(Arc<AtomicBool>);

impl Dial for SlowDial {
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (slow, dialling) = (self.0.clone(), TcpDial.dial(addr));
        Box::pin(async move {
            let (near, far) = (dialling.await?, tokio::io::duplex(1 << 20));
            let (from_far, to_far) = tokio::io::split(far.0);
            let (from_near, to_near) = tokio::io::split(near);
            tokio::spawn(carry(from_far, to_near, slow.clone()));
            tokio::spawn(carry(from_near, to_far, slow));
            Ok(Box::new(far.1) as Box<dyn Io>)
        })
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, slow: Arc<AtomicBool>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if slow.load(Ordering::Relaxed) {
            sleep(DELAY).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// How many partitions a node leads, by its own word.
fn leads(node: &Node) -> usize {
    let status = node.status();
    status.partitions.iter().filter(|partition| partition.leader == Some(node.id())).count()
}

async fn start(options: NodeOptions, slow: Option<Arc<AtomicBool>>) -> Node {
    let mut env = Env::production();
    if let Some(slow) = slow {
        env.dial = Arc::new(SlowDial(slow));
    }
    Node::start_in(env, options).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_slow_line_leads_nothing_until_the_line_is_good() {
    let root = tempfile::tempdir().expect("a folder");
    let slow = Arc::new(AtomicBool::new(false));
    let mut nodes = Vec::new();
    for (at, options) in three_options(root.path()).into_iter().enumerate() {
        nodes.push(start(options, (at == 2).then(|| slow.clone())).await);
    }
    for node in &nodes {
        node.ready(PATIENCE).await.expect("ready");
    }
    let all = |nodes: &[Node]| nodes.iter().map(leads).sum::<usize>();
    eventually("each node leads something", async || all(&nodes) == 5 && nodes.iter().all(|node| leads(node) > 0)).await;
    slow.store(true, Ordering::Relaxed);
    eventually("the node behind the slow line leads nothing", async || all(&nodes) == 5 && leads(&nodes[2]) == 0).await;
    let told = nodes[2].status().round_trips_us;
    assert!(told.len() == 2 && told.values().all(|took_us| *took_us > 20_000), "it says how slow its lines are: {told:?}");
    slow.store(false, Ordering::Relaxed);
    eventually("it leads again", async || all(&nodes) == 5 && leads(&nodes[2]) > 0).await;
    for node in nodes {
        node.stop().await;
    }
}
