//! This process as an endpoint: the same trait as a remote node, without the network. The embedded client and every service that
//! was given a route end here.
//!
//! ```text
//!   client (embedded) ──┐                                    ┌──> group.write ──> proposer ... reply
//!   Kv service (route) ─┴─> Local: limits, admission, epoch ─┴──> group.read
//! ```
//!
//! Everything is checked before anything is done, and every call ends: with an answer, an error, or at its deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use kontiki_client::{Answer, ClusterChange, Dial, Endpoint, Joined, NodeStatus, PartitionStatus};
use kontiki_placement::View;
use kontiki_raft::{Group, Groups};
use kontiki_storage::engine::Engine;
use kontiki_types::command::Route;
use kontiki_types::partition::{Incarnation, Replica};
use kontiki_types::{
    Bytes, CallError, ClusterId, Descriptor, Fault, NodeId, NodeInfo, PartitionId, PartitionMap, Read, ReadLevel, ReadReply,
    Reject, Retry, SessionId, Version, Write, WriteReply, limits,
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::identity::Identity;
use crate::map::MapCopy;
use crate::metrics::Metrics;
use crate::round_trips::RoundTrips;
use crate::{reconcile, shape};

/// This node, called by function. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    /// Gone once the node has stopped: a client that the application still holds must not keep files open.
    serving: ArcSwapOption<Serving>,
    started: Instant,
    /// Replicas that could not be opened, and why.
    broken: Mutex<BTreeMap<PartitionId, String>>,
    /// Why this node must not take part.
    misfit: Mutex<Option<String>>,
    /// What the driver of placement saw last, while it runs here.
    view: Mutex<Option<View>>,
    round_trips: RoundTrips,
}

/// The replicas, and what is under them (asked for its figures).
struct Serving {
    groups: Arc<Groups>,
    engine: Arc<dyn Engine>,
}

/// What a node serves with.
pub(crate) struct Parts {
    /// Who this is.
    pub identity: Identity,
    /// Where it is reached.
    pub addr: String,
    /// Where it stands.
    pub zone: String,
    /// Which start of it this is.
    pub incarnation: Incarnation,
    /// Makes connections.
    pub dial: Arc<dyn Dial>,
    /// The node's copy of the map.
    pub map: Arc<MapCopy>,
    /// What is taken on at once.
    pub admission: Arc<Admission>,
    /// What is counted.
    pub metrics: Metrics,
    /// Set when the node begins to stop: nothing new is taken on.
    pub stopping: CancellationToken,
    /// Set when what is still being done is given up.
    pub cut: CancellationToken,
}

impl Local {
    /// An endpoint for this process.
    pub(crate) fn new(parts: Parts, groups: Arc<Groups>, engine: Arc<dyn Engine>) -> Self {
        let serving = ArcSwapOption::from_pointee(Serving { groups, engine });
        let inner = Inner {
            parts,
            serving,
            started: Instant::now(),
            broken: Mutex::default(),
            misfit: Mutex::default(),
            view: Mutex::default(),
            round_trips: RoundTrips::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.inner.parts.identity.node
    }

    /// Who this node is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.parts.identity
    }

    /// This node as the map should name it.
    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.node(),
            store: Some(self.identity().store),
            addr: self.inner.parts.addr.clone(),
            zone: self.inner.parts.zone.clone(),
            incarnation: self.inner.parts.incarnation,
            state: self.map_copy().current().node(self.node()).map(|known| known.state).unwrap_or_default(),
        }
    }

    /// How far the other nodes are.
    pub(crate) fn round_trips(&self) -> &RoundTrips {
        &self.inner.round_trips
    }

    /// Makes connections.
    pub(crate) fn dial(&self) -> &Arc<dyn Dial> {
        &self.inner.parts.dial
    }

    /// Which start of this node this is.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.inner.parts.incarnation
    }

    /// Keeps what the driver of placement saw.
    pub(crate) fn note_view(&self, view: Option<View>) {
        *self.inner.view.lock() = view;
    }

    /// What the driver of placement saw last; `None` if it does not run here.
    pub(crate) fn view(&self) -> Option<View> {
        self.inner.view.lock().clone()
    }

    /// Opens this node's replica of a partition, creating it if it is new.
    pub(crate) async fn open_replica(&self, descriptor: Descriptor) -> Result<(), Fault> {
        let partition = descriptor.id;
        let Some(groups) = self.groups().filter(|_| !self.stopping().is_cancelled()) else { return Ok(()) };
        match groups.create(descriptor).await {
            Ok(group) => {
                self.note_broken(partition, None);
                reconcile::wake(self, &group);
                Ok(())
            }
            // That replica alone stays down, and says so; the others go on.
            Err(fault) => {
                self.note_broken(partition, Some(fault.to_string()));
                Err(fault)
            }
        }
    }

    /// The replicas, until the node has stopped.
    pub(crate) fn groups(&self) -> Option<Arc<Groups>> {
        self.inner.serving.load().as_ref().map(|serving| serving.groups.clone())
    }

    /// This node's replica of a partition.
    pub(crate) fn replica(&self, partition: PartitionId) -> Option<Group> {
        self.inner.serving.load().as_ref()?.groups.get(partition)
    }

    /// This node's replicas, by partition.
    pub(crate) fn replicas(&self) -> Vec<Group> {
        self.inner.serving.load().as_ref().map(|serving| serving.groups.all()).unwrap_or_default()
    }

    /// The fault that ended the log, if any.
    pub(crate) fn log_fault(&self) -> Option<Fault> {
        self.inner.serving.load().as_ref()?.groups.fault()
    }

    /// Lets go of everything that holds files. Calls that come later are told that the node has stopped.
    pub(crate) fn release(&self) {
        self.inner.serving.store(None);
    }

    /// The node's copy of the map.
    pub(crate) fn map_copy(&self) -> &Arc<MapCopy> {
        &self.inner.parts.map
    }

    /// What is taken on at once.
    pub(crate) fn admission(&self) -> &Admission {
        &self.inner.parts.admission
    }

    /// Set when the node begins to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.inner.parts.stopping
    }

    /// Set when what is still being done is given up.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.inner.parts.cut
    }

    /// Notes that a replica could not be opened (`Some`), or could be after all.
    pub(crate) fn note_broken(&self, partition: PartitionId, why: Option<String>) {
        let mut broken = self.inner.broken.lock();
        let Some(why) = why else { return drop(broken.remove(&partition)) };
        if broken.get(&partition) != Some(&why) {
            tracing::error!(node = %self.node(), %partition, why, "the replica cannot be opened; the others go on");
            broken.insert(partition, why);
        }
    }

    /// Whether a replica could not be opened.
    pub(crate) fn is_broken(&self, partition: PartitionId) -> bool {
        self.inner.broken.lock().contains_key(&partition)
    }

    /// Notes that this node must not take part in its cluster, such as under the number of a node whose disk was lost, and stops its
    /// replicas: they neither vote nor acknowledge any more.
    pub(crate) fn note_misfit(&self, why: String) {
        let mut misfit = self.inner.misfit.lock();
        if misfit.as_ref() == Some(&why) {
            return;
        }
        tracing::error!(node = %self.node(), "{why}");
        if misfit.replace(why).is_none()
            && let Some(groups) = self.groups()
        {
            tokio::spawn(async move { groups.shutdown().await });
        }
    }

    /// Whether this node must not take part.
    pub(crate) fn is_misfit(&self) -> bool {
        self.inner.misfit.lock().is_some()
    }

    /// Why the node as a whole does not work, if it does not. Replicas have faults of their own, in [`Local::now`].
    pub(crate) fn fault(&self) -> Option<String> {
        let log =
            self.log_fault().map(|fault| format!("the raft log is broken, this node neither votes nor acknowledges: {fault}"));
        log.or_else(|| self.inner.misfit.lock().clone())
    }

    /// Whether the node serves everything it should: the map is known, and each partition that the map gives this node has a
    /// running replica here with a known leader.
    pub(crate) fn is_ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// What is missing until the node is ready, in words; `None` if nothing is.
    pub(crate) fn not_ready(&self) -> Option<String> {
        if self.stopping().is_cancelled() {
            return Some("the node is stopping".to_owned());
        }
        if let Some(fault) = self.fault() {
            return Some(fault);
        }
        let map = self.map_copy().current();
        if map.partitions.is_empty() {
            return Some(
                "the map is not known yet: the cluster is being created, or its first member or a majority is not reached"
                    .to_owned(),
            );
        }
        // A replica that joins is opened when the partition's leader asks for it.
        let votes = |descriptor: &&Descriptor| descriptor.replica_on(self.node()).is_some_and(Replica::votes);
        let own = map.partitions.iter().filter(votes);
        own.map(|descriptor| descriptor.id).find_map(|partition| {
            let Some(group) = self.replica(partition) else {
                let why = self.inner.broken.lock().get(&partition).cloned();
                return Some(format!(
                    "the replica of {partition} is not open: {}",
                    why.unwrap_or_else(|| "it is being created".to_owned())
                ));
            };
            let status = group.status();
            match (status.fault, status.leader) {
                (Some(fault), _) => Some(format!("the replica of {partition} has stopped: {fault}")),
                (None, None) => Some(format!("{partition} has no known leader")),
                (None, Some(_)) => None,
            }
        })
    }

    /// How the node does, now.
    pub(crate) fn now(&self) -> NodeStatus {
        let mut partitions: Vec<_> = self.replicas().iter().map(partition_status).collect();
        for (partition, why) in self.inner.broken.lock().iter() {
            if partitions.iter().all(|status| status.id != *partition) {
                partitions.push(unopened(*partition, why.clone()));
            }
        }
        let serving = self.inner.serving.load();
        let log_bytes = serving.as_ref().map_or(0, |serving| serving.groups.log_stats().size_bytes);
        let data_bytes = serving.as_ref().map_or(0, |serving| serving.engine.stats().data_bytes);
        partitions.sort_by_key(|status| status.id);
        NodeStatus {
            node: self.info(),
            cluster: self.identity().cluster,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.inner.started.elapsed().as_millis() as u64,
            ready: self.is_ready(),
            partitions,
            log_bytes,
            data_bytes,
            fault: self.fault(),
            fsync_us: serving.as_ref().map_or(0, |serving| serving.groups.log_stats().fsync_us),
            round_trips_us: self.round_trips().all(),
        }
    }

    /// The leaders that are known here.
    pub(crate) fn leaders(&self) -> BTreeMap<PartitionId, NodeId> {
        self.replicas().iter().filter_map(|group| Some((group.partition(), group.leader()?))).collect()
    }

    /// The replica that a route means, if it is here and has the bounds by which the caller routed.
    fn group(&self, route: Route) -> Result<Group, CallError> {
        let Some(group) = self.replica(route.partition) else {
            return Err(Retry::UnknownPartition { partition: route.partition }.into());
        };
        let descriptor = group.descriptor();
        if descriptor.epoch.bounds != route.epoch.bounds {
            let descriptors = vec![descriptor.as_ref().clone()];
            return Err(Reject::StaleEpoch { partition: route.partition, descriptors }.into());
        }
        Ok(group)
    }

    /// Whether this is the cluster that the caller means, if they say so.
    pub(crate) fn check_cluster(&self, asked: Option<ClusterId>) -> Result<(), Reject> {
        let here = self.identity().cluster;
        match asked {
            Some(asked) if asked != here => Err(Reject::OtherCluster { asked, here }),
            _ => Ok(()),
        }
    }

    async fn write_now(&self, route: Route, mut write: Write<Bytes>) -> Result<WriteReply, CallError> {
        limits::check_write(&write)?;
        let _admitted = self.admission().write(write.size_bytes())?;
        let group = self.group(route)?;
        write.epoch = route.epoch;
        group.write(write).await
    }

    async fn read_now(&self, route: Route, level: &ReadLevel, read: &Read, wait: Duration) -> Result<ReadReply, CallError> {
        limits::check_read(read)?;
        if let ReadLevel::AtLeast(token) = level {
            self.check_cluster(token.cluster)?;
        }
        let _admitted = self.admission().read(read)?;
        self.group(route)?.read(level, read, wait).await
    }

    /// Runs `work` until it ends, its time is up, or the node stops. What then becomes of it is `late`'s to say.
    async fn bounded<T>(
        &self,
        operation: &'static str,
        within: Duration,
        work: impl Future<Output = Result<T, CallError>>,
        late: fn(String) -> CallError,
    ) -> Result<T, CallError> {
        if self.stopping().is_cancelled() {
            return Err(CallError::unavailable(format!("{} is stopping; ask another node", self.node())));
        }
        let since = Instant::now();
        let result = tokio::select! {
            biased;
            done = timeout(within, work) => match done {
                Ok(done) => done,
                Err(_) => Err(late(format!("{} did not finish within {} ms", self.node(), within.as_millis()))),
            },
            () = self.cut().cancelled() => Err(late(format!("{} was stopped meanwhile", self.node()))),
        };
        self.inner.parts.metrics.operation(operation, since, &result);
        result
    }
}

impl Endpoint for Local {
    fn write(&self, route: Route, write: Write<Bytes>, timeout: Duration) -> Answer<WriteReply> {
        let this = self.clone();
        async move { this.bounded("write", timeout, this.write_now(route, write), CallError::ambiguous).await }.boxed()
    }

    fn open_session(&self, route: Route, timeout: Duration) -> Answer<SessionId> {
        let this = self.clone();
        let work = async move |this: &Self| this.group(route)?.open_session().await;
        async move { this.bounded("open_session", timeout, work(&this), CallError::unavailable).await }.boxed()
    }

    fn read(&self, route: Route, level: ReadLevel, read: Read, timeout: Duration) -> Answer<ReadReply> {
        let this = self.clone();
        let operation = if matches!(read, Read::Scan(_) | Read::Changes(_)) { "scan" } else { "read" };
        async move { this.bounded(operation, timeout, this.read_now(route, &level, &read, timeout), CallError::unavailable).await }.boxed()
    }

    fn advance_clock(&self, route: Route, to: Version, timeout: Duration) -> Answer<Version> {
        let this = self.clone();
        let work = async move |this: &Self| this.group(route)?.advance_clock(to).await;
        // Moving a clock twice is moving it once, so nobody need fear that it was done.
        async move { this.bounded("advance_clock", timeout, work(&this), CallError::unavailable).await }.boxed()
    }

    fn map(&self, _: Duration) -> Answer<PartitionMap> {
        let map = self.map_copy().current().as_ref().clone();
        std::future::ready(Ok(map)).boxed()
    }

    fn status(&self, _: Duration) -> Answer<NodeStatus> {
        std::future::ready(Ok(self.now())).boxed()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(self.identity().cluster)
    }

    fn transfer_leader(&self, partition: PartitionId, to: NodeId, timeout: Duration) -> Answer<()> {
        let this = self.clone();
        let work = async move |this: &Self| {
            let Some(group) = this.replica(partition) else {
                return Err(Retry::UnknownPartition { partition }.into());
            };
            group.transfer_leader(to).await
        };
        // Handing over twice is handing over once.
        async move { this.bounded("transfer_leader", timeout, work(&this), CallError::unavailable).await }.boxed()
    }

    fn change_cluster(&self, change: ClusterChange, timeout: Duration) -> Answer<Option<Joined>> {
        let this = self.clone();
        let work = async move |this: &Self| shape::change_cluster(this, change).await;
        async move { this.bounded("change_cluster", timeout, work(&this), CallError::unavailable).await }.boxed()
    }
}

fn partition_status(group: &Group) -> PartitionStatus {
    let status = group.status();
    PartitionStatus {
        id: status.partition,
        replica: status.replica,
        leader: status.leader,
        term: status.term,
        applied_index: status.applied_next.saturating_sub(1),
        committed_index: status.committed_next.saturating_sub(1),
        last_index: status.last_next.saturating_sub(1),
        clock: status.clock,
        keys_hint: None,
        fault: status.fault,
        descriptor: group.is_leader().then(|| Descriptor::clone(&group.descriptor())),
    }
}

fn unopened(partition: PartitionId, why: String) -> PartitionStatus {
    PartitionStatus {
        id: partition,
        replica: Default::default(),
        leader: None,
        term: 0,
        applied_index: 0,
        committed_index: 0,
        last_index: 0,
        clock: Version::ZERO,
        keys_hint: None,
        fault: Some(why),
        descriptor: None,
    }
}
