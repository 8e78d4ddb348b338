//! Server processes of a run: `kontiki server` as a user would start it, on loopback, with data in a directory of the run.
//!
//! Children are killed by their handles: when a [`Servers`] is dropped, by a finished run, an error or a panic alike, its
//! children are gone before the next line runs. No process is ever looked up by name.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kontiki::{Error, NodeInfo};
use kontiki_client::{Client, ClientOptions, NodeStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::Failure;

/// Name of the server binary.
const BINARY: &str = "kontiki";
/// A cluster that does not serve by then never will.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a cluster that is starting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A server that does not stop by then hangs.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at a server that stops: how exactly its time is known.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(1);
/// Bytes of a server's output that an error shows.
const LOG_TAIL_BYTES: usize = 2000;

/// The server binary: the one given, or the one beside this program (both are built by one `cargo build`).
pub fn server_binary(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path,
        None => {
            let own = std::env::current_exe().map_err(Failure::doing("finding this program's own path"))?;
            own.with_file_name(BINARY)
        }
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!(
        "there is no server binary at {}; build it with `cargo build --release -p kontiki-cli`, or name it with --server",
        path.display()
    )))
}

/// Ports below those that the kernel gives to outgoing connections: a killed server must find its own again.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The members of a cluster: node ids from 1, each with an address that was free a moment ago.
#[derive(Clone, Debug)]
pub struct Members(Vec<(u64, String)>);

impl Members {
    /// The lower and the upper half of the ids, each numbered from 1.
    pub fn halves(&self) -> (Self, Self) {
        let (low, high) = self.0.split_at(self.0.len() / 2);
        let numbered = |half: &[(u64, String)]| Self((1..).zip(half.iter().map(|(_, addr)| addr.clone())).collect());
        (numbered(low), numbered(high))
    }

    /// The first `count` of them.
    pub fn first(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// So many members on loopback.
    pub fn on_loopback(count: u64) -> Result<Self, Failure> {
        // Two runs at once begin at different places.
        let (from, span) = (std::process::id().wrapping_mul(97), u32::from(PORTS.end - PORTS.start));
        let ports = (0..span).filter_map(|step| u16::try_from(u32::from(PORTS.start) + from.wrapping_add(step) % span).ok());
        let free = ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        // All are held at once, so that they differ; then let go, for the servers to take.
        let held: Vec<TcpListener> = free.take(usize::try_from(count).unwrap_or(usize::MAX)).collect();
        let addrs: Result<Vec<String>, _> = held.iter().map(|held| held.local_addr().map(|addr| addr.to_string())).collect();
        let addrs = addrs.map_err(Failure::doing("reading a bound port"))?;
        if addrs.len() as u64 != count {
            return Err(Failure::new(format!("127.0.0.1 has {} free ports in {PORTS:?}, {count} are needed", addrs.len())));
        }
        Ok(Self((1..).zip(addrs).collect()))
    }

    /// Node ids and addresses.
    pub fn all(&self) -> &[(u64, String)] {
        &self.0
    }

    /// The addresses.
    pub fn addrs(&self) -> Vec<String> {
        self.0.iter().map(|(_, addr)| addr.clone()).collect()
    }

    /// One member's address.
    pub fn addr(&self, node: u64) -> Option<&str> {
        self.0.iter().find(|(id, _)| *id == node).map(|(_, addr)| addr.as_str())
    }

    fn as_argument(&self) -> String {
        self.0.iter().map(|(id, addr)| format!("{id}={addr}")).collect::<Vec<_>>().join(",")
    }
}

/// What every server of a cluster is started with.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// The binary.
    pub binary: PathBuf,
    /// Each node has a directory of its own in here.
    pub directory: PathBuf,
    /// The cluster's name.
    pub name: String,
    /// All members, whether they run as servers or not.
    pub members: Members,
    /// User partitions.
    pub partitions: u32,
    /// Where each node serves `/metrics` and `/readyz`; none: nowhere.
    pub http: Option<Members>,
    /// More flags, for every node that is started from now on.
    pub flags: Vec<String>,
}

impl ClusterSettings {
    /// A node's data directory.
    pub fn data_dir(&self, node: u64) -> PathBuf {
        self.directory.join(format!("{}-{node}", self.name))
    }

    fn log_path(&self, node: u64) -> PathBuf {
        self.directory.join(format!("{}-{node}.log", self.name))
    }
}

/// Running server processes.
pub struct Servers {
    settings: ClusterSettings,
    children: Vec<(u64, Child)>,
}

impl Servers {
    /// Starts these nodes of a cluster. Returns as soon as the processes exist.
    pub fn start(settings: ClusterSettings, nodes: &[u64]) -> Result<Self, Failure> {
        let mut servers = Self { settings, children: Vec::new() };
        for node in nodes {
            servers.start_node(*node)?;
        }
        Ok(servers)
    }

    /// Starts one node; its directory may hold data already.
    pub fn start_node(&mut self, node: u64) -> Result<(), Failure> {
        let settings = &self.settings;
        let addr = settings.members.addr(node).ok_or_else(|| Failure::new(format!("node {node} is no member")))?;
        let (members, partitions) = (settings.members.as_argument(), settings.partitions.to_string());
        let place = ["--node-id", &node.to_string(), "--members", &members, "--partitions", &partitions].map(str::to_owned);
        let child = spawn(settings, node, addr, &place)?;
        self.children.push((node, child));
        Ok(())
    }

    /// Starts a node that is none of the first members: it joins by the one address that it is given. `node` is what it is called here.
    pub fn join_node(&mut self, node: u64, addr: &str, join: &str) -> Result<(), Failure> {
        let child = spawn(&self.settings, node, addr, &["--join".to_owned(), join.to_owned()])?;
        self.children.push((node, child));
        Ok(())
    }

    /// What they are started with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Every node that is started from now on gets these flags too.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.settings.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// The process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|(_, child)| child.id()).collect()
    }

    /// One node's process id, while it runs.
    pub fn pid(&self, node: u64) -> Result<u32, Failure> {
        let child = self.children.iter().find(|(id, _)| *id == node).map(|(_, child)| child.id());
        child.ok_or_else(|| Failure::new(format!("node {node} does not run")))
    }

    fn take(&mut self, node: u64) -> Result<Child, Failure> {
        let at = self.children.iter().position(|(id, _)| *id == node);
        let at = at.ok_or_else(|| Failure::new(format!("node {node} does not run")))?;
        Ok(self.children.swap_remove(at).1)
    }

    /// Ends one node with SIGKILL and waits until it is gone.
    pub fn kill(&mut self, node: u64) -> Result<(), Failure> {
        let mut child = self.take(node)?;
        child.kill().and_then(|()| child.wait()).map_err(Failure::doing(format!("killing node {node}")))?;
        Ok(())
    }

    /// Asks one node to stop, with SIGTERM, and waits until its process is gone. Returns how long that took.
    pub async fn stop_node(&mut self, node: u64) -> Result<Duration, Failure> {
        let start = Instant::now();
        let pid = i32::try_from(self.pid(node)?).map_err(Failure::doing("a process id"))?;
        // It stays among the children until it is gone: should this call be dropped, it is killed with them.
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(Failure::doing(format!("asking node {node} to stop")))?;
        loop {
            let child = self.children.iter_mut().find(|(id, _)| *id == node).map(|(_, child)| child);
            let child = child.ok_or_else(|| Failure::new(format!("node {node} does not run")))?;
            if child.try_wait().map_err(Failure::doing(format!("looking after node {node}")))?.is_some() {
                let took = start.elapsed();
                self.take(node)?;
                return Ok(took);
            }
            if start.elapsed() > STOPS_WITHIN {
                return Err(Failure::new(format!("node {node} did not stop within {STOPS_WITHIN:?} of SIGTERM")));
            }
            sleep(STOP_LOOK_EVERY).await;
        }
    }

    /// Says why if one of the servers has ended by itself.
    pub fn check(&mut self) -> Result<(), Failure> {
        for (node, child) in &mut self.children {
            let status = child.try_wait().map_err(Failure::doing(format!("looking after node {node}")))?;
            if let Some(status) = status {
                let tail = tail(&self.settings.log_path(*node));
                return Err(Failure::new(format!("node {node} ended by itself ({status}); its output ends with:\n{tail}")));
            }
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // An error means that it has ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process. Its output goes to the node's log file.
fn spawn(settings: &ClusterSettings, node: u64, addr: &str, place: &[String]) -> Result<Child, Failure> {
    let log_path = settings.log_path(node);
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(Failure::doing(format!("opening {}", log_path.display())))?;
    let same_log = log.try_clone().map_err(Failure::doing(format!("opening {}", log_path.display())))?;
    let http = settings.http.as_ref().and_then(|http| http.addr(node));
    Command::new(&settings.binary)
        .arg("server")
        .arg("--data")
        .arg(settings.data_dir(node))
        .args(["--listen", addr])
        .args(["--cluster-name", &settings.name])
        .args(http.iter().flat_map(|http| ["--http", http]))
        .args(place)
        .args(&settings.flags)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(same_log)
        .spawn()
        .map_err(Failure::doing(format!("starting {}", settings.binary.display())))
}

fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

/// Waits until `client` finds every node ready and every partition led, as every node sees it. Returns how long that took.
pub async fn wait_until_served(servers: &mut Servers, client: &Client, nodes: usize) -> Result<Duration, Failure> {
    let start = Instant::now();
    loop {
        servers.check()?;
        let missing = match client.status().await {
            Ok(statuses) => missing(&statuses, nodes),
            Err(error) => Some(error.to_string()),
        };
        let Some(missing) = missing else { return Ok(start.elapsed()) };
        if start.elapsed() > SERVES_WITHIN {
            return Err(Failure::new(format!("the cluster did not serve within {SERVES_WITHIN:?}: {missing}")));
        }
        sleep(LOOK_EVERY).await;
    }
}

type Statuses = [(NodeInfo, Result<NodeStatus, Error>)];

fn missing(statuses: &Statuses, nodes: usize) -> Option<String> {
    if statuses.len() < nodes {
        return Some(format!("{} of {nodes} nodes are known", statuses.len()));
    }
    statuses.iter().find_map(|(node, status)| match status {
        Err(error) => Some(format!("{}: {error}", node.id)),
        Ok(status) if !status.ready => Some(format!("{} is not ready", node.id)),
        Ok(status) => {
            let leaderless = status.partitions.iter().find(|partition| partition.leader.is_none())?;
            Some(format!("{} knows no leader of {}", node.id, leaderless.id))
        }
    })
}

/// Connects a client to a cluster that may still be starting.
pub async fn connect(servers: &mut Servers, addrs: &[String], options: &ClientOptions) -> Result<Client, Failure> {
    let start = Instant::now();
    loop {
        servers.check()?;
        match Client::connect_with(addrs.to_vec(), options.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) if start.elapsed() > SERVES_WITHIN => {
                return Err(Failure::new(format!("no connection within {SERVES_WITHIN:?}: {error}")));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_get_distinct_addresses_and_the_form_that_the_server_reads() {
        let members = Members::on_loopback(3).expect("three free ports");
        let addrs: std::collections::BTreeSet<String> = members.addrs().into_iter().collect();
        assert_eq!(addrs.len(), 3);
        let argument = members.as_argument();
        assert!(argument.starts_with("1=127.0.0.1:") && argument.matches(',').count() == 2, "{argument}");
        assert_eq!(members.addr(2), Some(members.addrs()[1].as_str()));
        assert_eq!(members.addr(4), None);
    }

    #[test]
    fn a_missing_binary_says_how_to_build_it() {
        let error = server_binary(Some("/nowhere/kontiki".into())).expect_err("not there");
        assert!(error.to_string().contains("cargo build --release -p kontiki-cli"), "{error}");
    }

    #[test]
    fn a_server_that_ends_by_itself_is_reported_with_its_output() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = ClusterSettings {
            binary: "/bin/echo".into(),
            directory: directory.path().to_owned(),
            name: "x".into(),
            members: Members::on_loopback(1).expect("a free port"),
            partitions: 1,
            http: None,
            flags: Vec::new(),
        };
        let mut servers = Servers::start(settings, &[1]).expect("echo starts");
        let error = loop {
            match servers.check() {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("node 1 ended by itself") && error.contains("--node-id 1"), "{error}");
    }
}
