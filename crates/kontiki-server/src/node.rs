//! One running node: what is started, in which order, and how it is stopped again.
//!
//! ```text
//!   start: options ─> sockets ─> directory, identity ─> engine, log, groups ─> system partition ─> services ─> loops
//!   stop:  not ready ─> hand leaderships over ─> loops, services ─> connections cut ─> groups ─> directory unlocked
//! ```
//!
//! Sockets come first because a taken port is the most common mistake and must not leave a half-made directory behind. Nothing here
//! ends the host process: whatever fails is an error of [`Node::start`] or a fault in [`Node::status`].

use std::sync::Arc;
use std::time::Duration;

use kontiki_client::{Client, ClientOptions, Endpoint, NodeStatus};
use kontiki_raft::Groups;
use kontiki_types::{Error, ErrorKind, NodeId, PartitionId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::connection::Incoming;
use crate::env::{DataDir, Env, Listener};
use crate::identity::Identity;
use crate::local::{Local, Parts};
use crate::map::MapCopy;
use crate::metrics::Metrics;
use crate::options::NodeOptions;
use crate::running::{Ground, Running, blocking};
use crate::transport::Peers;
use crate::{bootstrap, grpc, hearsay, http, joining, membership, placement, reconcile, round_trips, starts};

/// How often readiness is looked at for the gRPC health service.
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How often readiness is looked at for callers who wait for it.
const READY_EVERY: Duration = Duration::from_millis(10);

/// A running node. Dropping it stops it at once, without handing anything over; [`Node::stop`] does it properly.
pub struct Node {
    local: Local,
    client: Client,
    addr: String,
    http_addr: Option<String>,
    running: Mutex<Option<Running>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Starting and stopping.
impl Node {
    /// Starts a node in the real world. It serves as soon as its partitions have leaders: a lone node within about a second;
    /// [`Node::ready`] waits for it, and calls of its client wait by themselves.
    ///
    /// Must be called inside a tokio runtime with time and I/O enabled. Errors: `Config` (options that make no sense, an address that is
    /// taken), `Storage` (a directory that is foreign, damaged, locked, unreadable, or on a full disk).
    pub async fn start(options: NodeOptions) -> Result<Self, Error> {
        Self::start_in(Env::production(), options).await
    }

    /// As [`Node::start`], in an environment of the caller's own.
    pub async fn start_in(env: Env, options: NodeOptions) -> Result<Self, Error> {
        options.check()?;
        let sockets = Sockets::take(&env, &options).await?;
        let (dir, known) = open_dir(&env, &options).await?;
        let addr = advertised(&options, known.as_ref(), &sockets.addr);
        let identity = match known {
            Some(identity) => joining::check_cluster(&env, &options, identity).await?,
            None => joining::settle(&env, &options, &dir, &addr).await?,
        };
        let (counting, seed) = (dir.clone(), env.seed);
        let counted = blocking(&env, move || Ok((starts::next(counting.as_ref(), seed)?, starts::had_log(counting.as_ref())?)));
        let (incarnation, had_log) = counted.await?.map_err(|error: Error| error)?;
        let members = identity.members_or(&addr);
        let map = Arc::new(MapCopy::new(members.clone()));
        let (changed, changes) = watch::channel(0);
        let peers = Arc::new(Peers::new(map.clone(), env.dial.clone()));
        let ground =
            Ground::open(&env, &options, (&identity, incarnation, had_log), dir.clone(), (&map, &peers), changed).await?;
        if !had_log {
            let store = identity.store;
            // A disk with no room for it now may have some at the next start.
            if let Err(error) = blocking(&env, move || starts::note_log(dir.as_ref(), store)).await? {
                tracing::warn!(%error, "it could not be noted that this directory has a log");
            }
        }
        let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::default();
        let admission = Arc::new(Admission::new(options.admission.clone()));
        let (zone, dial) = (options.zone.clone(), env.dial.clone());
        let parts = Parts {
            identity,
            addr,
            zone,
            incarnation,
            dial,
            map,
            admission,
            metrics: metrics.clone(),
            stopping,
            cut: cut.clone(),
        };
        let local = Local::new(parts, ground.groups.clone(), ground.engine());
        let client_options = ClientOptions { seed: Some(env.seed.wrapping_add(1)), ..ClientOptions::default() };
        let client = Client::embedded(local.node(), Arc::new(local.clone()), env.dial.clone(), client_options);
        let mut running = Running::new(local.clone(), cut, ground, env.exec.clone());
        running.tasks.push(tokio::spawn(hearsay::run(local.clone())));
        running.tasks.push(tokio::spawn(round_trips::run(local.clone(), peers.clone())));
        running.tasks.push(tokio::spawn(membership::run(local.clone(), peers, changes.clone())));
        // From here on things run: whatever fails must end them.
        let starting = Starting { local: &local, client: &client, metrics, options: &options, members };
        match starting.run(sockets, changes, &mut running).await {
            Ok((addr, http_addr)) => {
                tracing::info!(node = %local.node(), cluster = %local.identity().cluster, %addr, "the node has started");
                Ok(Self { addr, http_addr, running: Mutex::new(Some(running)), local, client })
            }
            Err(error) => {
                let _ = running.abandon().await;
                Err(error)
            }
        }
    }

    /// Waits until the node serves everything it should. `Unavailable` says what was still missing when the time was over.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        let waited = timeout(within, async {
            while !self.local.is_ready() {
                sleep(READY_EVERY).await;
            }
        });
        waited.await.map_err(|_| {
            let why = self.local.not_ready().unwrap_or_else(|| "it became ready just now".to_owned());
            let message = format!("{} is not ready after {} ms: {why}", self.id(), within.as_millis());
            Error::new(ErrorKind::Unavailable, message)
        })
    }

    /// Stops the node: hands its leaderships over where somebody can take them at once, takes nothing new on, answers what it can
    /// in a moment, and gives the directory back. Takes well under two seconds. Stopping twice is stopping once, and a caller who
    /// stops waiting does not stop the stopping.
    pub async fn stop(&self) {
        let Some(running) = self.running.lock().take() else { return };
        if running.stop().await.is_ok() {
            tracing::info!(node = %self.id(), "the node has stopped");
        }
    }
}

/// What a running node says and gives.
impl Node {
    /// A client in this process: what is local is called by function, the rest over the network.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the node really listens for gRPC, with the port that was taken.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Where the node serves `/metrics`, `/livez` and `/readyz`, if anywhere.
    pub fn http_addr(&self) -> Option<&str> {
        self.http_addr.as_deref()
    }

    /// This node's number in its cluster.
    pub fn id(&self) -> NodeId {
        self.local.node()
    }

    /// How the node does.
    pub fn status(&self) -> NodeStatus {
        self.local.now()
    }

    /// Why the node as a whole does not work, if it does not. Single replicas that stopped say so in [`Node::status`].
    pub fn fault(&self) -> Option<String> {
        self.local.fault()
    }

    /// The replicas themselves, for those who watch a node from inside its process; `None` once it has stopped. Whoever keeps them keeps the
    /// data directory open.
    pub fn groups(&self) -> Option<Arc<Groups>> {
        self.local.groups()
    }

    /// This node as an endpoint, for tests and tools that do their own routing.
    pub fn endpoint(&self) -> Arc<dyn Endpoint> {
        Arc::new(self.local.clone())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().take() {
            drop(running.abandon());
        }
    }
}

/// The addresses that a node has taken.
struct Sockets {
    grpc: Box<dyn Listener>,
    addr: String,
    http: Option<(Box<dyn Listener>, String)>,
}

impl Sockets {
    async fn take(env: &Env, options: &NodeOptions) -> Result<Self, Error> {
        let (grpc, addr) = listen(env, "listen", &options.listen).await?;
        let http = match &options.http_listen {
            Some(address) => Some(listen(env, "http_listen", address).await?),
            None => None,
        };
        Ok(Self { grpc, addr, http })
    }
}

async fn listen(env: &Env, option: &str, address: &str) -> Result<(Box<dyn Listener>, String), Error> {
    let taken = env.listen.listen(address.to_owned()).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
    match taken {
        Ok((addr, listener)) => Ok((listener, addr)),
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another process uses that port: stop it, or choose another port",
                std::io::ErrorKind::AddrNotAvailable => "this machine has no such address: correct the host",
                std::io::ErrorKind::PermissionDenied => "this process may not use that port: choose one above 1023",
                _ => "correct the address",
            };
            let message = format!("{option} is {address}, which cannot be listened on: {error}; {advice}");
            Err(Error::with_source(ErrorKind::Config, message, error))
        }
    }
}

/// Where others reach this node: what it was told, else its member address, else (alone) where it listens.
fn advertised(options: &NodeOptions, identity: Option<&Identity>, listening: &str) -> String {
    let remembered = identity.into_iter().flat_map(|identity| identity.members.iter().filter(|(id, _)| *id == identity.node));
    let stated = options.members.iter().filter(|(id, _)| *id == options.node_id);
    let member = stated.chain(remembered).map(|(_, addr)| addr.clone()).next();
    options.advertise.clone().or(member).unwrap_or_else(|| listening.to_owned())
}

async fn open_dir(env: &Env, options: &NodeOptions) -> Result<(Arc<dyn DataDir>, Option<Identity>), Error> {
    let (dirs, options) = (env.data_dirs.clone(), options.clone());
    blocking(env, move || {
        let dir = dirs.open(&options.data_dir)?;
        let identity = Identity::open(dir.as_ref(), &options)?;
        Ok((dir, identity))
    })
    .await?
}

/// The second half of a start, in which things begin to run.
struct Starting<'a> {
    local: &'a Local,
    client: &'a Client,
    metrics: Metrics,
    options: &'a NodeOptions,
    members: Vec<(NodeId, String)>,
}

impl Starting<'_> {
    /// Starts loops and services, and hands back the addresses that are served.
    async fn run(
        self,
        sockets: Sockets,
        changes: watch::Receiver<u64>,
        running: &mut Running,
    ) -> Result<(String, Option<String>), Error> {
        let Self { local, client, metrics, options, members } = self;
        let services = grpc::Services::new(local.clone(), client.clone(), metrics.clone())?;
        for (partition, fault) in running.ground.groups.broken() {
            local.note_broken(partition, Some(fault.to_string()));
        }
        let groups = &running.ground.groups;
        let was_moved_away =
            groups.was_removed(PartitionId::SYSTEM).map_err(|fault| Error::new(ErrorKind::Storage, fault.to_string()))?;
        let founds = !local.identity().joined && !was_moved_away;
        if founds && local.replica(PartitionId::SYSTEM).is_none() && !local.is_broken(PartitionId::SYSTEM) {
            bootstrap::open_system(groups, &members, options.replicas).await?;
        }
        for group in local.replicas() {
            reconcile::wake(local, &group);
        }
        let (tasks, cut) = (&mut running.tasks, &running.cut);
        tasks.extend([
            tokio::spawn(bootstrap::found_cluster(local.clone(), members, options.cuts(), options.replicas)),
            tokio::spawn(reconcile::run(local.clone(), changes)),
            tokio::spawn(placement::run(local.clone(), client.clone(), options.balance, options.dead_after)),
        ]);
        tasks.push(tokio::spawn(grpc::report_health(local.clone(), services.health(), HEALTH_EVERY)));
        tasks.push(tokio::spawn(services.serve(Incoming::new(sockets.grpc, cut.clone()), local.stopping().clone())));
        let mut http_addr = None;
        if let Some((listener, addr)) = sockets.http {
            let incoming = Incoming::new(listener, cut.clone());
            tasks.push(tokio::spawn(http::serve(incoming, local.clone(), metrics, local.stopping().clone())));
            http_addr = Some(addr);
        }
        Ok((sockets.addr, http_addr))
    }
}
