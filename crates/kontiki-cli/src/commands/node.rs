//! `node`: which nodes there are, emptying one, giving one up.

use std::time::Duration;

use kontiki::{Error, ErrorKind, NodeId, NodeInfo, NodeState, PartitionMap};
use kontiki_client::Client;
use serde_json::json;
use tokio::time::sleep;

use crate::output::{self, Output, Stop};

/// Between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn holds(map: &PartitionMap, node: NodeId) -> usize {
    map.partitions.iter().filter(|descriptor| descriptor.replica_on(node).is_some()).count()
}

/// The nodes that the map names. Asks only the one that is connected.
pub async fn list(client: &Client, output: Output) -> Result<(), Stop> {
    let map = client.refresh_map().await?;
    let store = |node: &NodeInfo| node.store.map(|store| store.to_string());
    let rows = map.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            node.addr.clone(),
            node.state.to_string(),
            if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
            holds(&map, node.id).to_string(),
            store(node).unwrap_or_else(|| "(not registered yet)".to_owned()),
        ]
    });
    output.print(
        || output::table(Some(&["NODE", "ADDRESS", "STATE", "ZONE", "REPLICAS", "STORE"]), rows),
        || {
            let nodes = map.nodes.iter().map(|node| {
                json!({
                    "node": node.id.0,
                    "address": node.addr,
                    "state": node.state.to_string(),
                    "zone": node.zone,
                    "replicas": holds(&map, node.id),
                    "store": store(node),
                    "starts": node.incarnation.starts,
                })
            });
            json!({ "nodes": nodes.collect::<Vec<_>>() })
        },
    )
}

/// Begins to empty a node; with `wait`, comes back when it holds nothing.
pub async fn decommission(client: &Client, output: Output, node: NodeId, wait: bool) -> Result<(), Stop> {
    let map = client.refresh_map().await?;
    let is_gone = |map: &PartitionMap| map.node(node).is_some_and(|info| info.state == NodeState::Gone);
    if !is_gone(&map) {
        client.decommission(node).await?;
    }
    let mut map = client.refresh_map().await?;
    while wait && !is_gone(&map) {
        if map.node(node).is_some_and(|info| info.state == NodeState::Lost) {
            let message = format!("{node} was given up before it was empty; what it held is rebuilt elsewhere");
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
        sleep(LOOK_EVERY).await;
        // A moment without an answer is no reason to give up.
        map = client.refresh_map().await.unwrap_or(map);
    }
    let (gone, left) = (is_gone(&map), holds(&map, node));
    output.print(
        || {
            if gone {
                return format!("{node} holds nothing any more: its process can be stopped");
            }
            format!("{node} is being emptied, {left} replicas are left; `kontiki node list` shows when it is gone")
        },
        || json!({ "node": node.0, "state": if gone { "gone" } else { "leaving" }, "replicas": left }),
    )
}

/// Gives a node up.
pub async fn remove(client: &Client, output: Output, node: NodeId, force: bool) -> Result<(), Stop> {
    client.remove_node(node, force).await?;
    output.print(
        || format!("{node} is given up; what it held is rebuilt on other nodes, as soon as there are any that can take it"),
        || json!({ "node": node.0, "state": "lost" }),
    )
}
