//! A cluster in one process: the real log on real files, the real state machine on an engine in memory, openraft between them, and wires
//! that can be cut.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::disk::FileDisk;
use kontiki_storage::engine::{Engine, MemoryEngine};
use kontiki_storage::log::LogOptions;
use kontiki_types::command::OwnedWrite;
use kontiki_types::partition::{Incarnation, Replica, Role};
use kontiki_types::read::ReadData;
use kontiki_types::{
    CallError, ClusterId, Descriptor, KeyRange, NamespaceId, NodeId, Op, PartitionId, Read, ReadLevel, ReplicaId, RequestId,
    StoreId, Token, Version, Write, WriteReply, key,
};
use tempfile::TempDir;

use crate::testing::full::Fillable;
use crate::testing::{Acquaintance, Threads, Wires, copy_files};
use crate::{Group, Groups, GroupsConfig, HistoryOptions, LogRetention, RaftOptions, SnapshotOptions};

pub(crate) const PARTITION: PartitionId = PartitionId(2);
pub(crate) const WAIT: Duration = Duration::from_secs(10);

pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) dir: TempDir,
    pub(crate) engine: Arc<MemoryEngine>,
    /// Whether there is no room for what is staged.
    pub(crate) full: Arc<AtomicBool>,
    /// Whether what is staged cannot be installed.
    pub(crate) uninstallable: Arc<AtomicBool>,
}

impl TestNode {
    pub(crate) fn new(id: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { id: NodeId(id), dir, engine: MemoryEngine::new(), full: Arc::default(), uninstallable: Arc::default() }
    }

    /// What a backup taken while the node was stopped would hold of it.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new(self.id.0);
        copy_files(self.dir.path(), copy.dir.path());
        let mut rows = kontiki_storage::engine::Batch::new();
        let mut cursor = self.engine.cursor(&[], &[]).expect("a cursor");
        cursor.seek(&[]).expect("seeks");
        while cursor.valid() {
            rows.put(cursor.key(), cursor.value());
            cursor.next().expect("moves");
        }
        copy.engine.write(&rows).expect("writes");
        copy.engine.flush().expect("flushes");
        copy
    }
}

pub(crate) struct Cluster {
    pub(crate) wires: Wires,
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) groups: Vec<Option<Arc<Groups>>>,
    pub(crate) retention: LogRetention,
    pub(crate) snapshots: SnapshotOptions,
}

pub(crate) fn config(node: &TestNode, wires: &Wires) -> GroupsConfig {
    let (full, uninstallable) = (node.full.clone(), node.uninstallable.clone());
    let engine: Arc<dyn Engine> = Arc::new(Fillable { engine: node.engine.clone(), full, uninstallable });
    GroupsConfig {
        cluster: ClusterId([7; 16]),
        cluster_name: "test".into(),
        node: node.id,
        store: StoreId([node.id.0 as u8; 16]),
        incarnation: Incarnation::UNKNOWN,
        had_log: false,
        members: Arc::new(Acquaintance::default()),
        disk: Arc::new(FileDisk::open(node.dir.path()).expect("a directory")),
        log: LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() },
        engine,
        transport: Arc::new(wires.clone()),
        wall_ms: Arc::new(|| 1_700_000_000_000),
        exec: Arc::new(Threads),
        effects: Arc::new(|_, _| {}),
        options: RaftOptions::default(),
        retention: LogRetention::default(),
        history: HistoryOptions::default(),
        snapshots: SnapshotOptions::default(),
    }
}

/// The partition, with a voter on each of the first `voters` nodes.
pub(crate) fn descriptor_on(voters: u64) -> Descriptor {
    let nodes: Vec<_> = (1..=voters).map(NodeId).collect();
    Descriptor::new(PARTITION, KeyRange::namespace(NamespaceId::DEFAULT), &nodes)
}

pub(crate) fn descriptor() -> Descriptor {
    descriptor_on(3)
}

impl Cluster {
    /// Three nodes, all voters.
    pub(crate) async fn start() -> Self {
        Self::start_with(3, LogRetention::default()).await
    }

    /// So many nodes, all voters, that keep so much of their logs.
    pub(crate) async fn start_with(voters: u64, retention: LogRetention) -> Self {
        Self::start_as(voters, retention, SnapshotOptions::default()).await
    }

    /// The same, with these bounds for snapshots.
    pub(crate) async fn start_as(voters: u64, retention: LogRetention, snapshots: SnapshotOptions) -> Self {
        let mut cluster = Self { wires: Wires::default(), nodes: vec![], groups: vec![], retention, snapshots };
        for id in 1..=voters {
            let at = cluster.add_node(id).await;
            cluster.groups(at).create(descriptor_on(voters)).await.expect("creates");
        }
        cluster.group(0).initialize().await.expect("initialises");
        cluster
    }

    /// A node that holds nothing yet. Returns its place.
    pub(crate) async fn add_node(&mut self, id: u64) -> usize {
        self.nodes.push(TestNode::new(id));
        self.groups.push(None);
        let at = self.nodes.len() - 1;
        self.open(at).await;
        at
    }

    /// Starts a node with what it holds.
    pub(crate) async fn open(&mut self, at: usize) {
        let config = GroupsConfig {
            retention: self.retention.clone(),
            snapshots: self.snapshots.clone(),
            ..config(&self.nodes[at], &self.wires)
        };
        let groups = Groups::open(config).await.expect("opens");
        self.wires.plug(&groups);
        self.groups[at] = Some(groups);
    }

    /// Stops a node in order.
    pub(crate) async fn stop(&mut self, at: usize) {
        if let Some(groups) = self.groups[at].take() {
            groups.flush().await.expect("flushes");
            groups.shutdown().await;
        }
    }

    /// Stops a node as a crash would: what was not flushed is gone from its engine.
    pub(crate) async fn crash(&mut self, at: usize) {
        self.crash_keeping(at, at as u64).await;
    }

    /// As a crash, after which the engine has kept as much of what was not flushed as the coin says.
    pub(crate) async fn crash_keeping(&mut self, at: usize, coin: u64) {
        if let Some(groups) = self.groups[at].take() {
            groups.shutdown().await;
        }
        self.nodes[at].engine.crash(coin);
    }

    pub(crate) fn groups(&self, at: usize) -> &Arc<Groups> {
        self.groups[at].as_ref().expect("running")
    }

    pub(crate) fn group(&self, at: usize) -> Group {
        self.groups(at).get(PARTITION).expect("open")
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = Group> {
        self.groups.iter().flatten().filter_map(|groups| groups.get(PARTITION))
    }

    /// Where the node of a group stands.
    pub(crate) fn place_of(&self, group: &Group) -> usize {
        let holds = |groups: &Arc<Groups>| groups.get(PARTITION).is_some_and(|held| held.replica() == group.replica());
        self.groups.iter().position(|groups| groups.as_ref().is_some_and(holds)).expect("running")
    }

    /// A running group that answers a linearizable read: the leader.
    pub(crate) async fn leader(&self) -> Group {
        let search = async {
            loop {
                for group in self.running() {
                    if group.is_leader()
                        && group.read(&ReadLevel::Linearizable, &Read::Clock, Duration::from_secs(1)).await.is_ok()
                    {
                        return group;
                    }
                }
                let mut watches: Vec<_> = self.running().map(|group| group.leadership()).collect();
                let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
                let _ = tokio::time::timeout(Duration::from_millis(100), futures::future::select_all(changes)).await;
            }
        };
        tokio::time::timeout(WAIT, search).await.expect("a leader in time")
    }

    /// Asks the leader to do something until it is done: leaders change, and a step may have to wait for the one before.
    pub(crate) async fn on_leader<T>(&self, what: &str, mut step: impl AsyncFnMut(&Group) -> Result<T, CallError>) -> T {
        let trying = async {
            loop {
                let leader = self.leader().await;
                match step(&leader).await {
                    Ok(done) => return done,
                    Err(error @ CallError::Reject(_)) => panic!("{what}: {error}"),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(3 * WAIT, trying).await.unwrap_or_else(|_| panic!("{what}: not in time"))
    }

    /// Announces a replica on a node, and opens it there. It is not a learner yet.
    pub(crate) async fn join(&self, leader: &Group, at: usize) -> ReplicaId {
        let mut descriptor = leader.descriptor().as_ref().clone();
        let replica = descriptor.next_replica;
        descriptor.replicas.push(Replica { id: replica, node: self.nodes[at].id, role: Role::Joining });
        descriptor.next_replica = ReplicaId(replica.0 + 1);
        descriptor.epoch.conf += 1;
        leader.set_descriptor(descriptor.clone()).await.expect("announced");
        self.groups(at).create_empty(descriptor, replica).await.expect("opened");
        replica
    }

    /// Has a replica that was opened get the log.
    pub(crate) async fn add_learner(&self, replica: ReplicaId, node: NodeId) {
        self.on_leader("the learner", async |leader| leader.add_learner(replica, node, leader.membership().seen).await).await;
    }

    /// Waits until a replica has (nearly) the whole log.
    pub(crate) async fn caught_up(&self, replica: ReplicaId) {
        eventually("it catches up", async || self.leader().await.membership().lag(replica).is_some_and(|lag| lag < 8)).await;
    }

    /// Writes, whoever leads; repeated until it is acknowledged.
    pub(crate) async fn write(&self, name: &str, value: &str) -> WriteReply {
        self.on_leader("a write", async |leader| leader.write(put(name, value, None)).await).await
    }
}

/// Waits until something holds. Bounded; for what no event tells.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(3 * WAIT, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

pub(crate) fn user(name: &str) -> Bytes {
    key::internal(NamespaceId::DEFAULT, name.as_bytes())
}

pub(crate) fn put(name: &str, value: &str, request: Option<RequestId>) -> OwnedWrite {
    let op = Op::Put { key: user(name), value: Bytes::copy_from_slice(value.as_bytes()) };
    Write { epoch: descriptor().epoch, request, conditions: vec![], ops: vec![op] }
}

pub(crate) async fn get(group: &Group, level: &ReadLevel, name: &str) -> Result<Option<Bytes>, CallError> {
    let reply = group.read(level, &Read::Get { keys: vec![user(name)] }, Duration::from_secs(2)).await?;
    let ReadData::Values(values) = reply.data else { panic!("asked for values") };
    Ok(values.into_iter().next().flatten().map(|row| row.value))
}

/// What one has seen that has seen this version.
pub(crate) fn seen(version: Version) -> ReadLevel {
    let mut token = Token::default();
    token.observe(PARTITION, version);
    ReadLevel::AtLeast(token)
}
