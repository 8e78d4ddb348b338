//! `status`, `partitions`, `transfer-leader`: the cluster as its operators see it.

use std::collections::BTreeMap;

use kontiki::{Descriptor, Error, NodeId, NodeInfo, PartitionId, Role, key};
use kontiki_client::{Client, NodeStatus, PartitionStatus};
use serde_json::{Map, Value, json};

use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::output::{self, Output, Stop};
use crate::values::{show_bytes, show_ms};

type Statuses = Vec<(NodeInfo, Result<NodeStatus, Error>)>;

/// What one node says, or why it does not.
fn state(status: &Result<NodeStatus, Error>) -> &'static str {
    match status {
        Err(_) => "unreachable",
        Ok(status) if status.fault.is_some() => "fault",
        Ok(status) if status.ready => "ready",
        Ok(_) => "starting",
    }
}

/// Fails with exit code 3 unless every node serves, so that scripts can wait for it.
fn all_serve(statuses: &Statuses) -> Result<(), Stop> {
    let bad: Vec<String> = statuses
        .iter()
        .filter(|(_, status)| state(status) != "ready")
        .map(|(node, status)| match status {
            Ok(NodeStatus { fault: Some(fault), .. }) => format!("{} has stopped working ({fault})", node.id),
            Ok(_) => format!("{} is starting", node.id),
            Err(error) => format!("{} does not answer ({error})", node.id),
        })
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(Failure { exit: crate::failure::Exit::Unavailable, kind: "unavailable", message: bad.join("; ") }.into())
}

/// How each node does. Exit code 3 if one does not serve.
pub async fn status(client: &Client, output: Output) -> Result<(), Stop> {
    let statuses = client.status().await?;
    let rows = statuses.iter().map(|(node, status)| {
        let mut cells = vec![node.id.to_string(), node.addr.clone(), state(status).to_owned()];
        if let Ok(status) = status {
            let leads = status.partitions.iter().filter(|p| p.leader == Some(node.id)).count();
            cells.push(format!("{} of {}", leads, status.partitions.len()));
            cells.extend([
                show_bytes(status.log_bytes),
                show_bytes(status.data_bytes),
                show_ms(status.uptime_ms),
                status.version.clone(),
            ]);
        }
        cells
    });
    let header = ["NODE", "ADDRESS", "STATE", "LEADS", "LOG", "DATA", "UPTIME", "VERSION"];
    output.print(
        || output::table(Some(&header), rows),
        || json!({ "nodes": statuses.iter().map(status_json).collect::<Vec<_>>() }),
    )?;
    let faults = statuses.iter().filter_map(|(node, status)| Some((node, status.as_ref().ok()?)));
    for (node, partition, fault) in
        faults.flat_map(|(node, status)| status.partitions.iter().filter_map(|p| Some((node.id, p.id, p.fault.clone()?))))
    {
        eprintln!("kontiki: the replica of {partition} on {node} has stopped: {fault}");
    }
    all_serve(&statuses)
}

fn status_json((node, status): &(NodeInfo, Result<NodeStatus, Error>)) -> Value {
    let mut object = json!({ "node": node.id.0, "address": node.addr, "state": state(status) });
    match status {
        Err(error) => object["error"] = error.to_string().into(),
        Ok(status) => {
            object["cluster"] = status.cluster.to_string().into();
            object["version"] = status.version.clone().into();
            object["uptime_ms"] = status.uptime_ms.into();
            object["log_bytes"] = status.log_bytes.into();
            object["data_bytes"] = status.data_bytes.into();
            object["fsync_us"] = status.fsync_us.into();
            object["round_trips"] =
                status.round_trips_us.iter().map(|(node, took)| json!({ "node": node.0, "us": took })).collect();
            object["fault"] = status.fault.clone().into();
            object["partitions"] = status.partitions.iter().map(replica_json).collect();
        }
    }
    object
}

fn replica_json(status: &PartitionStatus) -> Value {
    json!({
        "partition": status.id.0,
        "replica": status.replica.0,
        "leader": status.leader.map(|node| node.0),
        "term": status.term,
        "applied_index": status.applied_index,
        "committed_index": status.committed_index,
        "last_index": status.last_index,
        "clock": output::version(status.clock),
        "keys_hint": status.keys_hint,
        "fault": status.fault,
    })
}

/// One partition with what its replicas say.
struct View<'a> {
    descriptor: &'a Descriptor,
    replicas: BTreeMap<NodeId, &'a PartitionStatus>,
}

impl<'a> View<'a> {
    fn new(descriptor: &'a Descriptor, statuses: &'a Statuses) -> Self {
        let of_node = |(node, status): &'a (NodeInfo, Result<NodeStatus, Error>)| {
            let found = status.as_ref().ok()?.partitions.iter().find(|p| p.id == descriptor.id)?;
            Some((node.id, found))
        };
        Self { descriptor, replicas: statuses.iter().filter_map(of_node).collect() }
    }

    /// The leader of the highest term that anyone knows of: a node that was cut off may still believe in an older one.
    fn leader(&self) -> Option<NodeId> {
        let newest = self.replicas.values().map(|p| p.term).max()?;
        self.replicas.values().filter(|p| p.term == newest).find_map(|p| p.leader)
    }

    /// Each replica's applied index, against the highest that is committed: `n1 412, n2 412, n3 410 (-2)`.
    fn progress(&self) -> String {
        let committed = self.replicas.values().map(|p| p.committed_index).max().unwrap_or_default();
        let of = |replica: &kontiki::Replica| {
            let node = match replica.role {
                Role::Voter => replica.node.to_string(),
                other => format!("{} {}", replica.node, role(other)),
            };
            match self.replicas.get(&replica.node) {
                None => format!("{node} ?"),
                Some(p) if p.fault.is_some() => format!("{node} stopped"),
                Some(p) if p.applied_index < committed => {
                    format!("{node} {} (-{})", p.applied_index, committed - p.applied_index)
                }
                Some(p) => format!("{node} {}", p.applied_index),
            }
        };
        self.descriptor.replicas.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    fn json(&self, encoding: Encoding) -> Value {
        let mut object = Map::new();
        object.insert("partition".to_owned(), self.descriptor.id.0.into());
        object.insert("system".to_owned(), (self.descriptor.id == PartitionId::SYSTEM).into());
        if self.descriptor.id != PartitionId::SYSTEM {
            encoding.add_field(&mut object, "start", user_bound(&self.descriptor.range.start));
            encoding.add_field(&mut object, "end", user_bound(&self.descriptor.range.end));
        }
        let epoch = self.descriptor.epoch;
        object.insert("epoch".to_owned(), json!({ "conf": epoch.conf, "bounds": epoch.bounds }));
        object.insert("leader".to_owned(), self.leader().map(|node| node.0).into());
        let replicas = self.descriptor.replicas.iter().map(|replica| {
            let status = self.replicas.get(&replica.node).map_or(Value::Null, |status| replica_json(status));
            json!({ "node": replica.node.0, "replica": replica.id.0, "role": role(replica.role), "voter": replica.votes(), "status": status })
        });
        object.insert("replicas".to_owned(), replicas.collect());
        Value::Object(object)
    }
}

/// What a replica is, or is on its way to be.
fn role(role: Role) -> &'static str {
    match role {
        Role::Joining => "joining",
        Role::Voter => "voter",
        Role::Leaving => "leaving",
    }
}

/// The user's part of a bound; empty at the ends of the key space.
fn user_bound(internal: &[u8]) -> &[u8] {
    key::split_internal(internal).map_or(&[], |(_, user)| user)
}

/// The range as its user sees it.
pub fn show_range(descriptor: &Descriptor, encoding: Encoding) -> String {
    if descriptor.id == PartitionId::SYSTEM {
        return "(system)".to_owned();
    }
    let bound = |internal: &[u8], open: &str| match user_bound(internal) {
        [] => open.to_owned(),
        // Text in quotes: a bound may be a space.
        user if encoding == Encoding::Text => format!("\"{}\"", encoding.show(user)),
        user => encoding.show(user),
    };
    format!("{} .. {}", bound(&descriptor.range.start, "-inf"), bound(&descriptor.range.end, "+inf"))
}

/// The partitions, with leader and progress.
pub async fn partitions(client: &Client, output: Output) -> Result<(), Stop> {
    let map = client.refresh_map().await?;
    let statuses = client.status().await?;
    let views: Vec<View<'_>> = map.partitions.iter().map(|descriptor| View::new(descriptor, &statuses)).collect();
    let rows = views.iter().map(|view| {
        vec![
            view.descriptor.id.to_string(),
            show_range(view.descriptor, output.encoding),
            view.leader().map_or_else(|| "none".to_owned(), |node| node.to_string()),
            view.replicas.values().map(|p| p.term).max().map_or_else(String::new, |term| term.to_string()),
            view.progress(),
        ]
    });
    let header = ["PARTITION", "KEYS", "LEADER", "TERM", "REPLICAS (APPLIED)"];
    output.print(
        || output::table(Some(&header), rows),
        || json!({ "partitions": views.iter().map(|view| view.json(output.encoding)).collect::<Vec<_>>() }),
    )
}

/// Moves leadership.
pub async fn transfer_leader(client: &Client, output: Output, partition: PartitionId, node: NodeId) -> Result<(), Stop> {
    client.transfer_leader(partition, node).await?;
    output.print(|| format!("{node} leads {partition}"), || json!({ "partition": partition.0, "leader": node.0 }))
}
