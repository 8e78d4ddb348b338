//! A cluster in memory behind the `Endpoint` trait. It keeps the promises that a real one makes: one leader per partition, epochs
//! checked, sessions remembered, versions that grow, history kept for snapshots; and it breaks what networks break, on request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_types::command::Route;
use kontiki_types::partition::initial_partitions;
use kontiki_types::read::{Change, Changes, ReadData, Scan};
use kontiki_types::{
    CallError, ClusterId, Condition, Descriptor, KeyRange, NamespaceId, NodeId, NodeInfo, Op, OpResult, PartitionId,
    PartitionMap, Read, ReadLevel, ReadReply, Reject, RequestId, Retry, Row, SessionId, Version, Write, WriteReply, key,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::endpoint::{Answer, Endpoint};
use crate::status::NodeStatus;
use crate::{Client, ClientOptions};

/// What goes wrong with the next write that reaches a leader, one each.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Applied, but the answer is lost.
    LoseReply,
    /// Never applied, and nobody can tell.
    LoseRequest,
    /// Applied, and no answer ever.
    Hang,
    /// Applied only after this long, when its sender has given up; the answer is lost.
    Late(Duration),
    /// Refused, certainly not applied.
    Fail(CallError),
}

#[derive(Default)]
struct Remembered {
    floor: u64,
    replies: BTreeMap<u64, (Write<Bytes>, Result<WriteReply, Reject>)>,
}

pub(super) struct Partition {
    pub(super) descriptor: Descriptor,
    pub(super) leader: Option<NodeId>,
    pub(super) clock: u64,
    history: BTreeMap<Bytes, BTreeMap<u64, Option<Bytes>>>,
    sessions: BTreeMap<SessionId, Remembered>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) partitions: BTreeMap<PartitionId, Partition>,
    pub(super) down: BTreeSet<NodeId>,
    /// What each node believes the map to be; the truth if it is not here.
    pub(super) old_maps: BTreeMap<NodeId, PartitionMap>,
    /// Who each node believes to lead; the truth if it is not here.
    pub(super) hints: BTreeMap<(NodeId, PartitionId), Option<NodeId>>,
    pub(super) faults: VecDeque<Fault>,
    /// How far behind followers are, as a version.
    pub(super) follower_clock: BTreeMap<(NodeId, PartitionId), u64>,
    pub(super) follower_age_ms: u64,
    /// Everything that was asked, in order.
    pub(super) asked: Vec<Asked>,
    pub(super) maps_given: u32,
    pub(super) sessions_opened: u32,
    /// How often each request was executed.
    pub(super) executed: BTreeMap<(SessionId, u64), u32>,
    /// The content of each request, without what may differ between attempts.
    contents: BTreeMap<(SessionId, u64), Write<Bytes>>,
    /// Writes that are still on their way, and arrive after their sender has given up.
    pub(super) late: u32,
    /// Told of after everything that a node does.
    changed: Arc<Notify>,
}

/// One call as it arrived.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Write { node: NodeId, request: Option<RequestId> },
    Read { node: NodeId, partition: PartitionId, level: ReadLevel },
    Advance { to: Version },
}

/// The cluster: three nodes.
#[derive(Clone, Default)]
pub(super) struct Cluster(Arc<Mutex<State>>);

pub(super) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

pub(super) fn internal(user: &str) -> Bytes {
    key::internal(NamespaceId::DEFAULT, user.as_bytes())
}

/// The address of a node.
pub(super) fn addr(node: NodeId) -> String {
    format!("node-{}:7601", node.0)
}

/// The node at an address.
pub(super) fn node_at(addr: &str) -> NodeId {
    NODES.into_iter().find(|node| self::addr(*node) == addr).expect("an address of this cluster")
}

impl Cluster {
    /// Partition 2 holds the keys below the first boundary, 3 those below the next, and so on. Node 1 leads all.
    pub(super) fn new(boundaries: &[&'static str]) -> Self {
        let boundaries: Vec<Bytes> = boundaries.iter().map(|boundary| Bytes::from_static(boundary.as_bytes())).collect();
        let cluster = Self::default();
        for descriptor in initial_partitions(&boundaries, &NODES) {
            let partition = Partition {
                leader: Some(NodeId(1)),
                clock: 100 * descriptor.id.0,
                history: BTreeMap::new(),
                sessions: BTreeMap::new(),
                descriptor,
            };
            cluster.state().partitions.insert(partition.descriptor.id, partition);
        }
        cluster
    }

    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Waits until what the cluster holds is as it is wanted: looked at after everything that a node does. Fails if that takes ten
    /// minutes (of the test's own clock).
    pub(super) async fn until(&self, wanted: impl FnMut(&Self) -> bool) {
        let wait = Duration::from_secs(600);
        tokio::time::timeout(wait, self.becomes(wanted)).await.expect("what is waited for happens");
    }

    async fn becomes(&self, mut wanted: impl FnMut(&Self) -> bool) {
        loop {
            let changed = self.state().changed.clone();
            let told = changed.notified();
            if wanted(self) {
                return;
            }
            told.await;
        }
    }

    pub(super) fn client(&self, options: ClientOptions) -> Client {
        let cluster = self.clone();
        let connect = move |addr: &str| -> Arc<dyn Endpoint> { Arc::new(Node { id: node_at(addr), cluster: cluster.clone() }) };
        Client::new(None, NODES.map(addr).into(), Box::new(connect), &options)
    }

    pub(super) fn node(&self, id: NodeId) -> Node {
        Node { id, cluster: self.clone() }
    }

    pub(super) fn embedded(&self, node: u64, options: ClientOptions) -> Client {
        let cluster = self.clone();
        let connect = move |addr: &str| -> Arc<dyn Endpoint> { Arc::new(Node { id: node_at(addr), cluster: cluster.clone() }) };
        let local = Arc::new(Node { id: NodeId(node), cluster: self.clone() });
        Client::new(Some((NodeId(node), local)), vec![], Box::new(connect), &options)
    }

    /// Makes `node` lead.
    pub(super) fn lead(&self, partition: u64, node: Option<u64>) {
        self.state().partitions.get_mut(&PartitionId(partition)).expect("exists").leader = node.map(NodeId);
    }

    /// Splits a partition at a key; the upper part gets the new id.
    pub(super) fn split(&self, partition: u64, at: &str, new: u64) {
        let mut state = self.state();
        let parent = state.partitions.get_mut(&PartitionId(partition)).expect("exists");
        let at = internal(at);
        let mut child = parent.descriptor.clone();
        child.id = PartitionId(new);
        child.range.start = at.clone();
        parent.descriptor.range.end = at.clone();
        parent.descriptor.epoch.bounds += 1;
        child.epoch.bounds = parent.descriptor.epoch.bounds;
        let history = parent.history.split_off(&at);
        let sessions =
            parent.sessions.iter().map(|(id, kept)| (*id, Remembered { floor: kept.floor, replies: kept.replies.clone() }));
        let child =
            Partition { leader: parent.leader, clock: parent.clock, history, sessions: sessions.collect(), descriptor: child };
        state.partitions.insert(PartitionId(new), child);
    }

    pub(super) fn forget_sessions(&self) {
        self.state().partitions.values_mut().for_each(|partition| partition.sessions.clear());
    }

    pub(super) fn map(&self) -> PartitionMap {
        self.state().map()
    }

    /// The newest value, straight from the state.
    pub(super) fn value(&self, user: &str) -> Option<Bytes> {
        self.at(user, u64::MAX)
    }

    /// The value at a version.
    pub(super) fn at(&self, user: &str, version: u64) -> Option<Bytes> {
        let key = internal(user);
        let state = self.state();
        let home = state.partitions.values().find(|partition| partition.descriptor.range.contains(&key))?;
        home.get(&key, version).map(|row| row.value)
    }

    pub(super) fn writes_asked(&self) -> Vec<(NodeId, RequestId)> {
        let state = self.state();
        let writes = state.asked.iter().filter_map(|asked| match asked {
            Asked::Write { node, request } => Some((*node, request.expect("every write has an id"))),
            _ => None,
        });
        writes.collect()
    }

    /// The versions of all snapshot pages and reads that were asked.
    pub(super) fn snapshots_asked(&self) -> BTreeSet<u64> {
        let state = self.state();
        let levels = state.asked.iter().filter_map(|asked| match asked {
            Asked::Read { level: ReadLevel::Snapshot(version), .. } => Some(version.0),
            _ => None,
        });
        levels.collect()
    }

    pub(super) fn reads_asked(&self) -> Vec<(NodeId, PartitionId)> {
        let state = self.state();
        let reads = state.asked.iter().filter_map(|asked| match asked {
            Asked::Read { node, partition, .. } => Some((*node, *partition)),
            _ => None,
        });
        reads.collect()
    }
}

impl Partition {
    fn get(&self, key: &[u8], at: u64) -> Option<Row> {
        let (version, value) = self.history.get(key)?.range(..=at).next_back()?;
        Some(Row { key: Bytes::copy_from_slice(key), value: value.clone()?, version: Version(*version) })
    }

    fn page(&self, scan: &Scan, at: u64) -> ReadData {
        let mut keys: Vec<&Bytes> = self.history.keys().filter(|key| scan.range.contains(key)).collect();
        if scan.reverse {
            keys.reverse();
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            let Some(mut row) = self.get(key, at) else { continue };
            if scan.keys_only {
                row.value = Bytes::new();
            }
            bytes += row.key.len() + row.value.len();
            rows.push(row);
            if rows.len() == scan.rows_max as usize || bytes >= scan.bytes_max as usize {
                let resume = keys.peek().map(|next| if scan.reverse { key.clone() } else { (*next).clone() });
                return ReadData::Page { rows, resume };
            }
        }
        ReadData::Page { rows, resume: None }
    }

    fn changes(&self, asked: &Changes, at: u64) -> ReadData {
        let newest = |key: &Bytes| {
            let (version, value) = self.history[key].range(..=at).next_back()?;
            let change = Change { key: key.clone(), value: value.clone(), version: Version(*version) };
            (*version > asked.after.0).then_some(change)
        };
        let mut changes: Vec<Change> = self
            .history
            .keys()
            .filter(|key| asked.range.contains(key))
            .filter_map(newest)
            .take(asked.rows_max as usize + 1)
            .collect();
        let resume = if changes.len() > asked.rows_max as usize { changes.pop().map(|change| change.key) } else { None };
        ReadData::Changes { changes, resume }
    }

    fn execute(&mut self, write: &Write<Bytes>) -> Result<WriteReply, Reject> {
        for (index, condition) in (0..).zip(&write.conditions) {
            let found = self.get(condition.key(), u64::MAX);
            let holds = match condition {
                Condition::Exists { .. } => found.is_some(),
                Condition::Absent { .. } => found.is_none(),
                Condition::VersionIs { version, .. } => found.as_ref().map_or(Version::ZERO, |row| row.version) == *version,
                Condition::ValueIs { value, .. } => found.as_ref().is_some_and(|row| row.value == value),
            };
            if !holds {
                let key = Bytes::copy_from_slice(condition.key());
                return Err(Reject::ConditionFailed { index, key, version: found.map(|row| row.version) });
            }
        }
        self.clock += 1;
        let results = write.ops.iter().map(|op| self.apply(op)).collect();
        Ok(WriteReply { version: Version(self.clock), results })
    }

    fn apply(&mut self, op: &Op<Bytes>) -> OpResult {
        let clock = self.clock;
        match op {
            Op::Put { key, value } => {
                self.history.entry(key.clone()).or_default().insert(clock, Some(value.clone()));
                OpResult::Put
            }
            Op::Delete { key } => {
                let existed = self.get(key, u64::MAX).is_some();
                self.history.entry(key.clone()).or_default().insert(clock, None);
                OpResult::Deleted { existed }
            }
            Op::DeleteRange { start, end } => {
                let range = KeyRange::new(start.clone(), end.clone());
                let keys = self.history.keys().filter(|key| range.contains(key) && self.get(key, u64::MAX).is_some());
                // Three at a time, so that tests see several pages.
                let mut keys: Vec<Bytes> = keys.take(4).cloned().collect();
                let resume = if keys.len() == 4 { keys.pop() } else { None };
                for key in &keys {
                    self.history.entry(key.clone()).or_default().insert(clock, None);
                }
                OpResult::DeletedRange { count: keys.len() as u64, resume }
            }
        }
    }
}

impl State {
    fn map(&self) -> PartitionMap {
        let nodes = NODES.map(|id| NodeInfo { id, addr: addr(id), ..NodeInfo::default() });
        PartitionMap::new(self.partitions.values().map(|partition| partition.descriptor.clone()).collect(), nodes.into())
    }

    /// The partition, if the route is right and (for what only leaders do) the node leads it.
    fn enter(&mut self, node: NodeId, route: Route, leader_only: bool) -> Result<&mut Partition, CallError> {
        if self.down.contains(&node) {
            return Err(CallError::unavailable("connection refused"));
        }
        let hint = self.hints.get(&(node, route.partition)).copied();
        if !self.partitions.contains_key(&route.partition) {
            return Err(Retry::UnknownPartition { partition: route.partition }.into());
        }
        let all: Vec<Descriptor> = self.partitions.values().map(|partition| partition.descriptor.clone()).collect();
        let partition = self.partitions.get_mut(&route.partition).expect("checked above");
        if leader_only && partition.leader != Some(node) {
            let leader = hint.unwrap_or(partition.leader);
            return Err(Retry::NotLeader { partition: route.partition, leader }.into());
        }
        if route.epoch.bounds != partition.descriptor.epoch.bounds {
            let bounds = partition.descriptor.epoch.bounds;
            let descriptors = all.into_iter().filter(|other| other.epoch.bounds == bounds).collect();
            return Err(Reject::StaleEpoch { partition: route.partition, descriptors }.into());
        }
        Ok(partition)
    }

    fn write(&mut self, node: NodeId, route: Route, write: &Write<Bytes>) -> Result<WriteReply, CallError> {
        let partition = self.enter(node, route, true)?;
        for op in &write.ops {
            assert!(partition.descriptor.range.contains(op.key()), "the router sends only what belongs here");
        }
        let request = write.request.expect("every write has an id");
        let content = Write { request: None, epoch: Default::default(), ..write.clone() };
        let (session, sequence) = (request.session, request.sequence);
        let expired = Reject::SessionExpired { session, sequence };
        let Some(remembered) = partition.sessions.get_mut(&session) else { return Err(expired.into()) };
        remembered.floor = remembered.floor.max(request.acknowledged_below);
        let floor = remembered.floor;
        remembered.replies.retain(|known, _| *known >= floor);
        assert!(remembered.replies.len() <= kontiki_types::limits::SESSION_REPLIES_MAX, "the client keeps to the window");
        if sequence < floor {
            return Err(expired.into());
        }
        if let Some((known, reply)) = remembered.replies.get(&sequence) {
            assert_eq!(known, &content, "one number stands for one content");
            return Ok(reply.clone()?);
        }
        let reply = partition.execute(&content);
        let remembered = partition.sessions.entry(session).or_default();
        remembered.replies.insert(sequence, (content, reply.clone()));
        *self.executed.entry((session, sequence)).or_default() += 1;
        Ok(reply?)
    }

    fn read(&mut self, node: NodeId, route: Route, level: &ReadLevel, read: &Read) -> Result<ReadReply, CallError> {
        let behind = self.follower_clock.get(&(node, route.partition)).copied();
        let age = self.follower_age_ms;
        let leader_only = *level == ReadLevel::Linearizable;
        let partition = self.enter(node, route, leader_only)?;
        let leads = partition.leader == Some(node);
        let clock = if leads { partition.clock } else { behind.unwrap_or(partition.clock).min(partition.clock) };
        let age_ms = if leads { 0 } else { age };
        let (at, age_ms) = match level {
            ReadLevel::Linearizable => (clock, 0),
            ReadLevel::AtLeast(token) if token.at(route.partition).0 > clock => {
                return Err(CallError::unavailable("has not applied the token yet"));
            }
            ReadLevel::BoundedStale { age_ms_max } if age_ms > *age_ms_max => {
                return Err(CallError::unavailable("knows nothing young enough"));
            }
            ReadLevel::AtLeast(_) | ReadLevel::BoundedStale { .. } => (clock, age_ms),
            ReadLevel::Snapshot(version) if version.0 > clock => {
                return Err(Reject::VersionInFuture { version: *version, newest: Version(clock) }.into());
            }
            ReadLevel::Snapshot(version) => (version.0, 0),
        };
        let data = match read {
            Read::Clock => ReadData::Clock,
            Read::Get { keys } => {
                assert!(
                    keys.iter().all(|key| partition.descriptor.range.contains(key)),
                    "the router sends only what belongs here"
                );
                ReadData::Values(keys.iter().map(|key| partition.get(key, at)).collect())
            }
            Read::Scan(scan) => {
                assert!(partition.descriptor.range.contains_range(&scan.range), "the router cuts ranges");
                partition.page(scan, at)
            }
            Read::Changes(asked) => {
                assert!(partition.descriptor.range.contains_range(&asked.range), "the router cuts ranges");
                partition.changes(asked, at)
            }
        };
        Ok(ReadReply { clock: Version(clock), age_ms, data })
    }
}

/// One node of the cluster, as an endpoint.
pub(super) struct Node {
    id: NodeId,
    cluster: Cluster,
}

impl Node {
    /// An answer after a millisecond, as a network gives it.
    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(NodeId, &mut State) -> Result<T, CallError> + Send + 'static,
    ) -> Answer<T> {
        let (id, cluster) = (self.id, self.cluster.clone());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut state = cluster.state();
            let done = work(id, &mut state);
            state.changed.notify_waiters();
            done
        })
    }
}

impl Endpoint for Node {
    fn write(&self, route: Route, write: Write<Bytes>, timeout: Duration) -> Answer<WriteReply> {
        let (id, cluster) = (self.id, self.cluster.clone());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let fault = {
                let mut state = cluster.state();
                let request = write.request.expect("every write has an id");
                state.asked.push(Asked::Write { node: id, request: Some(request) });
                let content = Write { request: None, epoch: Default::default(), ..write.clone() };
                let known = state.contents.entry((request.session, request.sequence)).or_insert_with(|| content.clone());
                assert_eq!(known, &content, "one number stands for one content, for ever");
                assert!(request.acknowledged_below <= request.sequence);
                // Faults strike only where the write would be taken.
                if state.enter(id, route, true).is_ok() { state.faults.pop_front() } else { None }
            };
            cluster.state().changed.notify_waiters();
            let lost = || CallError::ambiguous("the connection broke");
            match fault {
                None => cluster.state().write(id, route, &write),
                Some(Fault::Fail(error)) => Err(error),
                Some(Fault::LoseRequest) => Err(lost()),
                Some(Fault::LoseReply) => {
                    let _ = cluster.state().write(id, route, &write);
                    cluster.state().changed.notify_waiters();
                    Err(lost())
                }
                Some(Fault::Hang) => {
                    let _ = cluster.state().write(id, route, &write);
                    tokio::time::sleep(timeout).await;
                    Err(CallError::ambiguous("no answer in time"))
                }
                Some(Fault::Late(after)) => {
                    cluster.state().late += 1;
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        let mut state = cluster.state();
                        let _ = state.write(id, route, &write);
                        state.late -= 1;
                        state.changed.notify_waiters();
                    });
                    Err(lost())
                }
            }
        })
    }

    fn open_session(&self, route: Route, _: Duration) -> Answer<SessionId> {
        self.answer(move |id, state| {
            let partition = state.enter(id, route, true)?;
            partition.clock += 1;
            let session = SessionId { partition: route.partition, opened: Version(partition.clock) };
            partition.sessions.insert(session, Remembered::default());
            state.sessions_opened += 1;
            Ok(session)
        })
    }

    fn read(&self, route: Route, level: ReadLevel, read: Read, _: Duration) -> Answer<ReadReply> {
        self.answer(move |node, state| {
            let asked = Asked::Read { node, partition: route.partition, level: level.clone() };
            state.asked.push(asked);
            state.read(node, route, &level, &read)
        })
    }

    fn advance_clock(&self, route: Route, to: Version, _: Duration) -> Answer<Version> {
        self.answer(move |id, state| {
            state.asked.push(Asked::Advance { to });
            let partition = state.enter(id, route, true)?;
            partition.clock = partition.clock.max(to.0);
            Ok(Version(partition.clock))
        })
    }

    fn map(&self, _: Duration) -> Answer<PartitionMap> {
        self.answer(|id, state| {
            if state.down.contains(&id) {
                return Err(CallError::unavailable("connection refused"));
            }
            state.maps_given += 1;
            Ok(state.old_maps.get(&id).cloned().unwrap_or_else(|| state.map()))
        })
    }

    fn status(&self, _: Duration) -> Answer<NodeStatus> {
        self.answer(|id, state| {
            if state.down.contains(&id) {
                return Err(CallError::unavailable("connection refused"));
            }
            Ok(NodeStatus {
                node: NodeInfo { id, addr: addr(id), ..NodeInfo::default() },
                cluster: ClusterId::default(),
                version: "test".into(),
                uptime_ms: 1,
                ready: true,
                partitions: vec![],
                log_bytes: 0,
                data_bytes: 0,
                fault: None,
                fsync_us: 0,
                round_trips_us: BTreeMap::default(),
            })
        })
    }

    fn transfer_leader(&self, partition: PartitionId, to: NodeId, _: Duration) -> Answer<()> {
        self.answer(move |id, state| {
            let epoch = state.partitions.get(&partition).map(|p| p.descriptor.epoch).unwrap_or_default();
            state.enter(id, Route { partition, epoch }, true)?.leader = Some(to);
            Ok(())
        })
    }
}
