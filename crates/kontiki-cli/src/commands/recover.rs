//! `recover`: a new cluster from what is left of one that has lost the majority of a partition. Offline; the directories that are left are
//! locked and copied, and stay as they are.
//!
//! ```text
//!   survivors ── copies ──> for each partition the replica with the newest log ── its log's end applied ──> rows ──> a new cluster
//! ```
//!
//! What only the lost nodes knew is lost, and nobody can tell what that was. So this says exactly what it cannot know, and is refused where
//! the cluster can go on by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kontiki::offline::{FoundReplica, Survivor};
use kontiki::{ClusterId, Descriptor, NodeId, PartitionId, Version, env, key};
use serde_json::json;
use tokio::sync::mpsc;

use super::cluster::show_range;
use super::import::bar;
use crate::args::Recover;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::output::{self, Output, Stop};
use crate::rebuild::{Place, Plan, Rebuild, send};
use crate::settings::Cut;
use crate::values::show_rows;

const ROWS_WAITING_MAX: usize = 1024;
/// The part of RocksDB's files that never changes once it is written: a second name for it is as good as a copy.
const UNCHANGING: &str = "sst";

/// What is known of one partition.
struct Found {
    /// The node whose replica is taken, and what it is; `None`: no replica is left.
    best: Option<(NodeId, FoundReplica)>,
    /// Its newest descriptor that is known.
    descriptor: Descriptor,
    /// The nodes whose replicas were looked at.
    seen: BTreeSet<NodeId>,
    /// Replicas that could not be read.
    broken: Vec<String>,
}

impl Found {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.descriptor.replicas.iter().filter(|replica| replica.votes()).map(|replica| replica.node).collect()
    }

    fn has_quorum(&self) -> bool {
        let voters = self.voters();
        voters.intersection(&self.seen).count() > voters.len() / 2
    }

    fn not_seen(&self) -> Vec<NodeId> {
        let nodes: BTreeSet<NodeId> = self.descriptor.replicas.iter().map(|replica| replica.node).collect();
        nodes.difference(&self.seen).copied().collect()
    }
}

/// Everything that was found.
struct Survey {
    cluster: ClusterId,
    cluster_name: String,
    survivors: BTreeMap<NodeId, Survivor>,
    partitions: BTreeMap<PartitionId, Found>,
}

/// Rebuilds.
pub async fn run(output: Output, asked: Recover) -> Result<(), Stop> {
    let place = Place::claim(&asked.to)?;
    let sources = place.scratch("sources");
    let from = asked.from.clone();
    let survey = tokio::task::spawn_blocking(move || Survey::new(&from, &sources)).await;
    let survey = survey.map_err(|error| Failure::internal(format!("looking at the directories: {error}")))?;
    let survey = match survey.and_then(|survey| survey.check(&asked).map(|()| survey)) {
        Ok(survey) => survey,
        Err(failure) => {
            place.give_up()?;
            return Err(failure.into());
        }
    };
    let report = survey.report();
    let lines = survey.lines(output.encoding);
    let plan = Plan {
        cluster_name: asked.cluster_name.unwrap_or_else(|| survey.cluster_name.clone()),
        cut: Cut::At(survey.boundaries()),
        above: survey.clock(),
    };
    let old = survey.cluster;
    let to = asked.to.display().to_string();
    let incomplete = |failure: Failure| failure.with_advice(format!("{to} is not complete, and the same command begins anew"));
    let rebuild = Rebuild::begin(place, plan).await.map_err(incomplete)?;
    let (sender, receiver) = mpsc::channel(ROWS_WAITING_MAX);
    let reading = tokio::task::spawn_blocking(move || {
        send(survey.rows(), &sender);
        // The copies are closed before they are removed.
        drop(survey);
    });
    let bar = bar(None);
    let filled = rebuild.fill(receiver, |rows| bar.set_message(show_rows(rows))).await;
    bar.finish_and_clear();
    let rows = filled.map_err(incomplete)?;
    reading.await.map_err(|error| Failure::internal(format!("reading the replicas: {error}")))?;
    let cluster = rebuild.finish().await?;
    output.print(
        || {
            format!(
                "{lines}\nrecovered {} into {to}: the cluster {cluster}, in place of {old}\nstart it: kontiki server --data {to}",
                show_rows(rows)
            )
        },
        || json!({ "rows": rows, "cluster": cluster.to_string(), "old_cluster": old.to_string(), "data": to, "partitions": report }),
    )
}

impl Survey {
    fn new(from: &[PathBuf], sources: &Path) -> Result<Self, Failure> {
        let mut survivors = BTreeMap::<NodeId, Survivor>::new();
        let mut paths = BTreeMap::<NodeId, &PathBuf>::new();
        for (at, path) in from.iter().enumerate() {
            let copied = sources.join((at + 1).to_string());
            copy(path, &copied)?;
            let survivor = Survivor::open(&env::Env::production(), &copied);
            let survivor = survivor.map_err(|error| of_source(error.into(), path, &copied))?;
            let identity = survivor.identity();
            if let Some(first) = survivors.values().next().filter(|first| first.identity().cluster != identity.cluster) {
                let (dir, own, other) = (path.display(), identity.cluster, first.identity().cluster);
                return Err(Failure::bad_file(format!(
                    "{dir} is of the cluster {own}, the directories before it of {other}; give those of one"
                )));
            }
            if let Some(first) = paths.insert(identity.node, path) {
                return Err(Failure::bad_file(format!(
                    "{} and {} are both of node {}; give the newer one only",
                    first.display(),
                    path.display(),
                    identity.node
                )));
            }
            survivors.insert(identity.node, survivor);
        }
        let Some(first) = survivors.values().next() else { return Err(Failure::usage("give at least one --from DIR")) };
        let (cluster, cluster_name) = (first.identity().cluster, first.identity().cluster_name.clone());
        let mut survey = Self { cluster, cluster_name, survivors, partitions: BTreeMap::new() };
        survey.look()?;
        survey.look_at_the_map()?;
        Ok(survey)
    }

    /// Of each partition the replica with the newest log: what a majority has acknowledged is in the newest of any majority's.
    fn look(&mut self) -> Result<(), Failure> {
        for (node, survivor) in &self.survivors {
            for (partition, replica) in survivor.replicas()? {
                let replica = match replica {
                    Ok(replica) => replica,
                    Err(error) => {
                        let told = format!("the replica on {node} cannot be read: {error}");
                        eprintln!("kontiki: {partition}: {told}");
                        if let Some(found) = self.partitions.get_mut(&partition) {
                            found.broken.push(told);
                        }
                        continue;
                    }
                };
                let descriptor = replica.descriptor.clone();
                let found = self.partitions.entry(partition).or_insert_with(|| Found {
                    best: None,
                    descriptor: descriptor.clone(),
                    seen: BTreeSet::new(),
                    broken: Vec::new(),
                });
                found.seen.insert(*node);
                if descriptor.epoch > found.descriptor.epoch {
                    found.descriptor = descriptor;
                }
                if found.best.as_ref().is_none_or(|(_, best)| replica.last > best.last) {
                    found.best = Some((*node, replica));
                }
            }
        }
        Ok(())
    }

    /// Partitions of which nothing is left are known from the map, if that is left.
    fn look_at_the_map(&mut self) -> Result<(), Failure> {
        let system = self.partitions.get(&PartitionId::SYSTEM).and_then(|found| found.best.as_ref());
        let Some((node, _)) = system else {
            eprintln!("kontiki: no replica of the system partition is left: partitions of which nothing is left are not known");
            return Ok(());
        };
        for descriptor in self.survivors[node].replay(PartitionId::SYSTEM)?.map()?.partitions {
            let empty = Found { best: None, descriptor: descriptor.clone(), seen: BTreeSet::new(), broken: Vec::new() };
            let found = self.partitions.entry(descriptor.id).or_insert(empty);
            if descriptor.epoch > found.descriptor.epoch {
                found.descriptor = descriptor;
            }
        }
        Ok(())
    }

    fn check(&self, asked: &Recover) -> Result<(), Failure> {
        if self.partitions.is_empty() {
            return Err(Failure::bad_file("the directories hold no replica at all: there is nothing to recover"));
        }
        let healthy = self.partitions.values().all(Found::has_quorum);
        if healthy && !asked.force {
            return Err(Failure::usage(
                "every partition has a majority of its replicas in these directories: the cluster is healthy. Start these nodes and nothing is \
                 lost; then replace the others (`kontiki node remove`). To leave that cluster behind all the same, say --force",
            ));
        }
        let missing: Vec<String> = self
            .users()
            .filter(|found| found.best.is_none())
            .map(|found| format!("{} ({})", found.descriptor.id, show_range(&found.descriptor, Encoding::default())))
            .collect();
        let holes = self.holes();
        let whole = missing.is_empty() && holes.is_empty();
        if !whole && !asked.accept_loss {
            return Err(Failure::bad_file(format!(
                "no readable replica is left of {}; give more directories with --from, or say --accept-loss to go on without those keys",
                missing.into_iter().chain(holes).collect::<Vec<_>>().join(", ")
            )));
        }
        Ok(())
    }

    /// The partitions that hold users' keys, in key order.
    fn users(&self) -> impl Iterator<Item = &Found> {
        let mut users: Vec<&Found> =
            self.partitions.values().filter(|found| found.descriptor.id != PartitionId::SYSTEM).collect();
        users.sort_by(|a, b| a.descriptor.range.start.cmp(&b.descriptor.range.start));
        users.into_iter()
    }

    /// Ranges that no known partition covers.
    fn holes(&self) -> Vec<String> {
        let mut holes = Vec::new();
        let mut end: Option<Bytes> = None;
        for found in self.users() {
            let range = &found.descriptor.range;
            let before = end.unwrap_or_else(|| key::internal(kontiki::NamespaceId::DEFAULT, b""));
            if range.start > before {
                holes.push(kontiki::KeyRange::new(before, range.start.clone()).to_string());
            }
            end = Some(range.end.clone());
        }
        if let Some(end) = end.filter(|end| !end.is_empty()) {
            holes.push(kontiki::KeyRange::new(end, Bytes::new()).to_string());
        }
        holes
    }

    fn boundaries(&self) -> Vec<Bytes> {
        let starts = self.users().filter_map(|found| key::split_internal(&found.descriptor.range.start));
        starts.map(|(_, user)| Bytes::copy_from_slice(user)).filter(|user| !user.is_empty()).collect()
    }

    fn clock(&self) -> Version {
        self.partitions.values().filter_map(|found| found.best.as_ref()).map(|(_, best)| best.clock).max().unwrap_or_default()
    }

    /// All rows of users, in key order.
    fn rows(&self) -> impl Iterator<Item = Result<(Bytes, Bytes), Failure>> {
        let best = self.users().filter_map(|found| found.best.as_ref());
        best.flat_map(|(node, replica)| {
            let rows = self.survivors[node].replay(replica.descriptor.id).map(kontiki::offline::Replayed::rows);
            let (rows, failed) = match rows {
                Ok(rows) => (Some(rows), None),
                Err(error) => (None, Some(Err(Failure::from(error)))),
            };
            failed.into_iter().chain(rows.into_iter().flatten().map(|row| row.map_err(Failure::from)))
        })
    }

    fn report(&self) -> Vec<serde_json::Value> {
        let each = self.partitions.values().map(|found| {
            let end = |end: kontiki::offline::LogEnd| json!({ "term": end.term, "index": end.index });
            json!({
                "partition": found.descriptor.id.0,
                "range": found.descriptor.range.to_string(),
                "taken_from": found.best.as_ref().map(|(node, _)| node.0),
                "applied": found.best.as_ref().map(|(_, best)| end(best.applied)),
                "committed": found.best.as_ref().map(|(_, best)| end(best.committed)),
                "last": found.best.as_ref().map(|(_, best)| end(best.last)),
                "majority_seen": found.has_quorum(),
                "not_seen": found.not_seen().iter().map(|node| node.0).collect::<Vec<_>>(),
                "broken": found.broken,
            })
        });
        each.collect()
    }

    fn lines(&self, encoding: Encoding) -> String {
        let rows = self.partitions.values().map(|found| {
            let end = |end: Option<kontiki::offline::LogEnd>| {
                end.map_or_else(|| "none".to_owned(), |end| format!("{} of term {}", end.index, end.term))
            };
            let best = found.best.as_ref();
            let list: Vec<String> = found.not_seen().iter().map(NodeId::to_string).collect();
            let lost = match (best, found.has_quorum()) {
                (None, _) => "EVERYTHING: no replica is left".to_owned(),
                (Some(_), true) => "nothing: a majority was seen".to_owned(),
                (Some((_, best)), false) => format!("what {} knew after entry {}", list.join(", "), best.last.index),
            };
            vec![
                found.descriptor.id.to_string(),
                show_range(&found.descriptor, encoding),
                best.map_or_else(|| "none".to_owned(), |(node, _)| node.to_string()),
                end(best.map(|(_, best)| best.applied)),
                end(best.map(|(_, best)| best.committed)),
                end(best.map(|(_, best)| best.last)),
                lost,
            ]
        });
        let header = ["PARTITION", "KEYS", "TAKEN FROM", "APPLIED", "COMMITTED", "LAST ENTRY", "MAY BE LOST"];
        output::table(Some(&header), rows)
    }
}

/// The person knows the directory that was given, and not the copy of it.
fn of_source(failure: Failure, source: &Path, copied: &Path) -> Failure {
    let message = failure.message.replace(&*copied.to_string_lossy(), &source.to_string_lossy());
    let advice =
        format!("what is left of {} cannot be read: leave it out to go on without it, if others are left", source.display());
    Failure { message, ..failure }.with_advice(advice)
}

/// Copies the directory of a node that does not run. It is locked meanwhile, and nothing in it is changed.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    if !from.join("IDENTITY").exists() {
        return Err(Failure::bad_file(format!("{} is no Kontiki data directory: it has no IDENTITY", from.display())));
    }
    let lock = from.join("LOCK");
    let _held = match File::open(&lock) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::bad_file(format!("{} is in use by a node: stop it first", from.display())));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::file(format!("locking {}", lock.display()), &error)),
        },
        // A directory that no node has locked yet, or that was copied without its lock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::file(format!("opening {}", lock.display()), &error)),
    };
    copy_folder(from, to)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |what: &Path, error: &io::Error| {
        let failure = Failure::file(format!("copying {}", what.display()), error);
        match error.kind() {
            io::ErrorKind::StorageFull => {
                failure.with_advice("recovering needs room for a copy of the raft logs and for the new data: free space")
            }
            _ => failure,
        }
    };
    fs::create_dir_all(to).map_err(|error| failed(to, &error))?;
    let entries = fs::read_dir(from).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|error| failed(from, &error))?;
    for entry in entries {
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copied)?;
            continue;
        }
        if entry.file_name() == "LOCK" {
            continue;
        }
        let linked = path.extension().is_some_and(|extension| extension == UNCHANGING) && fs::hard_link(&path, &copied).is_ok();
        if !linked {
            fs::copy(&path, &copied).map_err(|error| failed(&path, &error))?;
        }
    }
    Ok(())
}
