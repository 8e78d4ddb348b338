//! What a cluster and its processes say while something is done to them: the map, who leads, memory, gauges, readiness.

use std::collections::BTreeMap;
use std::time::Duration;

use kontiki::{NodeId, NodeState, PartitionId, PartitionMap, Role};
use kontiki_client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::processes::Servers;

/// Between two looks at a map.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at whether a process is ready: how exactly that is known.
const READY_EVERY: Duration = Duration::from_millis(2);
/// A node that is not ready by then never will be.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// One HTTP request.
const HTTP_WITHIN: Duration = Duration::from_secs(2);

/// Resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(Failure::doing(format!("reading {path}")))?;
    resident(&text).ok_or_else(|| Failure::new(format!("{path} names no VmRSS")))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// GET over HTTP, as plain as it can be: status code and body.
pub(super) async fn http(addr: &str, path: &str) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(HTTP_WITHIN, exchange).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {answer}")))?;
    Ok((code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// A gauge of a node, by its name without `kontiki_`.
pub(super) async fn gauge(addr: &str, name: &str) -> Result<u64, Failure> {
    let asked = http(addr, "/metrics").await.map_err(Failure::doing(format!("asking {addr} for its metrics")))?;
    gauge_in(&asked.1, name).ok_or_else(|| Failure::new(format!("the metrics of {addr} have no kontiki_{name}")))
}

fn gauge_in(metrics: &str, name: &str) -> Option<u64> {
    metrics.lines().find_map(|line| {
        let rest = line.strip_prefix("kontiki_")?.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
        value.strip_prefix(' ')?.trim().parse::<f64>().ok().map(|value| value as u64)
    })
}

/// Waits until the node at this HTTP address is ready, and returns how long after `since` that was.
pub(super) async fn ready(servers: &mut Servers, addr: &str, since: Instant) -> Result<Duration, Failure> {
    loop {
        servers.check()?;
        if matches!(http(addr, "/readyz").await, Ok((200, _))) {
            return Ok(since.elapsed());
        }
        if since.elapsed() > READY_WITHIN {
            return Err(Failure::new(format!("{addr} was not ready after {READY_WITHIN:?}")));
        }
        sleep(READY_EVERY).await;
    }
}

/// The member that is reached at an address.
pub(super) fn node_at(map: &PartitionMap, addr: &str) -> Option<NodeId> {
    map.nodes.iter().filter(|node| node.addr == addr && node.state == NodeState::Active).map(|node| node.id).max()
}

/// Whether every partition has so many voters, all on nodes that take part, and nothing is changing.
pub(super) fn is_settled(map: &PartitionMap, replicas: usize) -> bool {
    let active = |node| map.node(node).is_some_and(|info| info.state == NodeState::Active);
    !map.partitions.is_empty()
        && map.partitions.iter().all(|partition| {
            let good = partition.replicas.iter().filter(|replica| replica.role == Role::Voter && active(replica.node));
            good.count() == replicas && partition.replicas.len() == replicas
        })
}

/// Replicas that a node has and that are not leaving it.
pub(super) fn holds(map: &PartitionMap, node: NodeId) -> usize {
    let on_it = map.partitions.iter().filter_map(|partition| partition.replica_on(node));
    on_it.filter(|replica| replica.role != Role::Leaving).count()
}

/// Waits until the map is as asked for. Returns it, and how long after `since` that was.
pub(super) async fn map_until(
    (servers, client): (&mut Servers, &Client),
    (what, since, within): (&str, Instant, Duration),
    mut holds: impl FnMut(&PartitionMap) -> bool,
) -> Result<Duration, Failure> {
    loop {
        servers.check()?;
        let map = client.refresh_map().await;
        if map.as_ref().is_ok_and(|map| holds(map)) {
            return Ok(since.elapsed());
        }
        if since.elapsed() > within {
            let seen = map.map_or_else(|error| error.to_string(), |map| format!("{map:?}"));
            return Err(Failure::new(format!("{what}: not within {within:?}; the map: {seen}")));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Who leads each user partition, by the leaders' own word.
pub(super) async fn leaders(client: &Client) -> Result<BTreeMap<PartitionId, NodeId>, Failure> {
    let statuses = client.status().await.map_err(Failure::doing("asking who leads"))?;
    let mut leaders = BTreeMap::new();
    for (node, status) in statuses.iter().filter_map(|(node, status)| Some((node.id, status.as_ref().ok()?))) {
        let led = status.partitions.iter().filter(|partition| partition.leader == Some(node));
        leaders.extend(led.filter(|partition| partition.id != PartitionId::SYSTEM).map(|partition| (partition.id, node)));
    }
    Ok(leaders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_gauges_are_read_from_what_is_said() {
        assert_eq!(resident("Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t  12 kB\n"), Some(12 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
        assert!(resident_bytes(std::process::id()).expect("our own") > 1024 * 1024);
        let metrics = "# HELP kontiki_sent x\nkontiki_sent_bytes 7\nkontiki_sent{node=\"1\"} 5\n";
        assert_eq!(gauge_in(metrics, "sent"), Some(5));
        assert_eq!(gauge_in(metrics, "sent_bytes"), Some(7));
        assert_eq!(gauge_in(metrics, "absent"), None);
    }
}
