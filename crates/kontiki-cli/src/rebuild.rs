//! A new data directory from rows: what `restore` and `recover` share. A node is started in it, takes the rows as any node takes writes, and
//! is stopped; so what comes out is what a node leaves behind, of whatever format it has.
//!
//! ```text
//!   DATA/restoring/node    the node's directory while rows come in. No node starts in DATA: it has no IDENTITY
//!   DATA/data, DATA/log    moved up when all rows are durable
//!   DATA/IDENTITY          moved up last: from now on it is a data directory
//! ```
//!
//! The new node is a cluster of its own, with a new id: clients and tokens of the cluster that the rows come from are told so. Its clocks start
//! behind everything that the old cluster has named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kontiki::{Error, ErrorKind, LISTEN_ANYWHERE, Node, NodeOptions, PartitionId, Version, WriteBatch, WriteReply, key};
use kontiki_client::Client;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::backup::sync_folder;
use crate::failure::Failure;
use crate::settings::Cut;

/// The folder that marks a directory as not complete.
pub const UNFINISHED: &str = "restoring";
/// In it, the node that is filled.
const NODE: &str = "node";
/// Written last.
const IDENTITY: &str = "IDENTITY";
/// Belongs to the process, not to the data.
const LOCK: &str = "LOCK";
/// One write: several fit into a log entry.
const BATCH_BYTES: usize = 512 * 1024;
/// Operations of one write.
const BATCH_ROWS: usize = 2048;
/// Writes under way at once: they share fsyncs.
const WRITES_AT_ONCE: usize = 16;
/// For the new node to serve, and for one write.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the new node is asked whether it can go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A directory that is marked as not complete.
#[derive(Debug)]
pub struct Place {
    data: PathBuf,
}

impl Place {
    /// Takes a directory that is new, empty, or was left by an interrupted rebuild.
    pub fn claim(data: &Path) -> Result<Self, Failure> {
        clear(data)?;
        Ok(Self { data: data.to_path_buf() })
    }

    /// A folder for what is needed until it is complete.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.data.join(UNFINISHED).join(name)
    }

    /// Nothing will come of it: leaves it as empty as it was.
    pub fn give_up(self) -> Result<(), Failure> {
        let path = self.data.join(UNFINISHED);
        std::fs::remove_dir_all(&path).map_err(|error| Failure::file(format!("removing {}", path.display()), &error))
    }
}

/// What becomes of the rows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The new cluster's name.
    pub cluster_name: String,
    /// How it is cut.
    pub cut: Cut,
    /// Every version of the new cluster is greater.
    pub above: Version,
}

/// A node that is being filled.
pub struct Rebuild {
    place: Place,
    node: Node,
    client: Client,
}

/// A row: key and value.
pub type Pair = (Bytes, Bytes);

impl Rebuild {
    /// Starts a node in the directory.
    pub async fn begin(place: Place, plan: Plan) -> Result<Self, Failure> {
        let (partitions, boundaries) = match plan.cut {
            Cut::Even(count) => (count, Vec::new()),
            Cut::At(keys) => (1, keys),
        };
        let options = NodeOptions {
            data_dir: place.scratch(NODE),
            cluster_name: plan.cluster_name,
            listen: LISTEN_ANYWHERE.to_owned(),
            partitions,
            boundaries,
            ..NodeOptions::default()
        };
        let node = Node::start(options).await?;
        let client = node.client().with_timeout(PATIENCE);
        let rebuild = Self { place, node, client };
        rebuild.unless_broken(rebuild.prepare(plan.above)).await?;
        Ok(rebuild)
    }

    async fn prepare(&self, above: Version) -> Result<(), Failure> {
        self.node.ready(PATIENCE).await?;
        let map = self.client.refresh_map().await?;
        for partition in map.partitions.iter().filter(|partition| partition.id != PartitionId::SYSTEM) {
            let first = key::split_internal(&partition.range.start).map_or(&[][..], |(_, user)| user);
            self.client.advance_clock(Bytes::copy_from_slice(first), above).await?;
        }
        Ok(())
    }

    /// Takes rows in key order, until the sender is gone or one fails; `took` is told how many are durable.
    pub async fn fill(&self, rows: mpsc::Receiver<Result<Pair, Failure>>, took: impl FnMut(u64)) -> Result<u64, Failure> {
        self.unless_broken(self.take(rows, took)).await
    }

    /// A node whose disk fails takes no more writes, and its client would only wait for it. So the node is asked meanwhile whether it can go on.
    /// If it cannot, it is stopped: a process that ends while a thread of its still uses the engine ends by a signal, and its exit code is lost.
    async fn unless_broken<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let done = tokio::select! {
            done = work => done.map_err(|failure| self.fault().unwrap_or(failure)),
            fault = self.broken() => Err(fault),
        };
        if done.is_err() {
            self.node.stop().await;
        }
        done
    }

    /// Why the node that is filled cannot go on, if it cannot.
    fn fault(&self) -> Option<Failure> {
        let replicas = || self.node.status().partitions.into_iter().find_map(|partition| partition.fault);
        let fault = self.node.fault().or_else(replicas)?;
        let data = self.place.data.display();
        let message = format!("the new node in {data} cannot go on: {fault}; if that disk is full, free space on it");
        Some(Error::new(ErrorKind::Storage, message).into())
    }

    async fn broken(&self) -> Failure {
        loop {
            sleep(LOOK_EVERY).await;
            if let Some(fault) = self.fault() {
                return fault;
            }
        }
    }

    async fn take(&self, mut rows: mpsc::Receiver<Result<Pair, Failure>>, mut took: impl FnMut(u64)) -> Result<u64, Failure> {
        let map = self.client.map();
        let (mut batch, mut home) = (Batch::default(), PartitionId::SYSTEM);
        let mut under_way = FuturesUnordered::new();
        let mut count = 0;
        while let Some(row) = rows.recv().await {
            let (key, value) = row?;
            let place = map.lookup(&key::internal(kontiki::NamespaceId::DEFAULT, &key)).map_or(home, |descriptor| descriptor.id);
            if place != home || batch.is_full(&key, &value) {
                under_way.push(self.write(std::mem::take(&mut batch)));
                home = place;
            }
            batch.put(key, value);
            while under_way.len() > WRITES_AT_ONCE {
                count += under_way.next().await.transpose()?.unwrap_or_default();
                took(count);
            }
        }
        under_way.push(self.write(batch));
        while let Some(rows) = under_way.next().await {
            count += rows?;
            took(count);
        }
        Ok(count)
    }

    async fn write(&self, batch: Batch) -> Result<u64, Failure> {
        if batch.rows == 0 {
            return Ok(0);
        }
        let WriteReply { .. } = self.client.write(batch.puts).await?;
        Ok(batch.rows)
    }

    /// Stops the node and makes its directory a data directory. Says which cluster it is.
    pub async fn finish(self) -> Result<kontiki::ClusterId, Failure> {
        let cluster = self.client.cluster().ok_or_else(|| Failure::internal("the new node does not know its cluster"))?;
        drop(self.client);
        self.node.stop().await;
        move_up(&self.place.data)?;
        Ok(cluster)
    }
}

#[derive(Default)]
struct Batch {
    puts: WriteBatch,
    rows: u64,
    bytes: usize,
}

impl Batch {
    fn is_full(&self, key: &Bytes, value: &Bytes) -> bool {
        self.rows as usize >= BATCH_ROWS || (self.rows > 0 && self.bytes + key.len() + value.len() > BATCH_BYTES)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.rows += 1;
        self.puts = std::mem::take(&mut self.puts).put(key, value);
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = match listed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|error| Failure::file(format!("listing {}", dir.display()), &error))?,
    };
    Ok(listed.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Makes sure that nothing is in the directory but what an interrupted rebuild has left, and removes that.
fn clear(data: &Path) -> Result<(), Failure> {
    let found = names(data)?;
    let unfinished = found.iter().any(|name| name == UNFINISHED) && found.iter().all(|name| name != IDENTITY);
    if !unfinished && let Some(name) = found.iter().find(|name| *name != "lost+found") {
        return Err(Failure::bad_file(format!(
            "{} is not empty: it holds `{name}`; give a new directory for the new cluster",
            data.display()
        )));
    }
    // The mark goes last: what is interrupted here is still known for what it is.
    for name in found
        .iter()
        .filter(|name| *name != UNFINISHED && *name != "lost+found")
        .chain(found.iter().filter(|name| *name == UNFINISHED))
    {
        let path = data.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|error| Failure::file(format!("removing {}", path.display()), &error))?;
    }
    let made = std::fs::create_dir_all(data.join(UNFINISHED));
    made.map_err(|error| Failure::file(format!("making {}", data.display()), &error))?;
    sync_folder(data)?;
    match data.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Moves what the node has left one level up, the identity last.
fn move_up(data: &Path) -> Result<(), Failure> {
    let from = data.join(UNFINISHED).join(NODE);
    let (identity, rest): (Vec<_>, Vec<_>) =
        names(&from)?.into_iter().filter(|name| name != LOCK).partition(|name| name == IDENTITY);
    sync_folder(&from)?;
    for group in [rest, identity] {
        for name in group {
            let moved = std::fs::rename(from.join(&name), data.join(&name));
            moved.map_err(|error| Failure::file(format!("moving {name} to {}", data.display()), &error))?;
        }
        sync_folder(data)?;
    }
    let mark = data.join(UNFINISHED);
    let removed = std::fs::remove_dir_all(&mark);
    removed.map_err(|error| Failure::file(format!("removing {}", mark.display()), &error))?;
    sync_folder(data)
}

/// Sends what an iterator that reads files gives, from a thread that may wait for the disk.
pub fn send(rows: impl Iterator<Item = Result<Pair, Failure>>, to: &mpsc::Sender<Result<Pair, Failure>>) {
    for row in rows {
        let failed = row.is_err();
        if to.blocking_send(row).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
