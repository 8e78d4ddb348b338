//! A cluster of real `kontiki server` processes on loopback, each with its data directory and its log file in one temporary
//! folder. Processes are killed by their id and only if this program started them; what is left goes with the [`Cluster`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use kontiki_client::{Client, ClientOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use crate::ports::free_addr;
use crate::program;

/// The longest wait for anything that a healthy cluster does soon. Generous: the machine may be busy with something else.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often a question is repeated that a process can only answer when asked.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Lines of each process's log in the report of a failed test.
const LOG_LINES: usize = 40;

/// How the keys of a new cluster are cut.
#[derive(Clone, Debug)]
pub enum Cuts {
    /// Into even parts.
    Even(u32),
    /// At these keys.
    At(Vec<String>),
}

/// One `kontiki server` process, running or not.
#[derive(Debug)]
pub struct Server {
    id: u64,
    addr: String,
    http: String,
    data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A server that is not started yet. `members` are the addresses of all nodes in the order of their ids, from 1.
    pub fn new(folder: &Path, id: u64, members: &[String], cuts: &Cuts) -> Self {
        let addr = members[id as usize - 1].clone();
        let http = free_addr();
        let data = folder.join(format!("node-{id}"));
        let list: Vec<String> = (1..).zip(members).map(|(id, addr)| format!("{id}={addr}")).collect();
        let cuts = match cuts {
            Cuts::Even(count) => ["--partitions".to_owned(), count.to_string()],
            Cuts::At(keys) => ["--boundaries".to_owned(), keys.join(",")],
        };
        let fixed =
            ["server", "--data", &data.to_string_lossy(), "--node-id", &id.to_string(), "--listen", &addr, "--http", &http]
                .map(str::to_owned);
        let args = fixed.into_iter().chain(["--members".to_owned(), list.join(",")]).chain(cuts).collect();
        Self { id, addr, http, data, log: folder.join(format!("node-{id}.log")), args, child: None }
    }

    /// A server that is a cluster of its own, with its data in `folder/node-1`; not started yet.
    pub fn alone(folder: &Path) -> Self {
        Self::alone_with(folder, &Cuts::Even(2))
    }

    /// As [`Server::alone`], with its own cuts.
    pub fn alone_with(folder: &Path, cuts: &Cuts) -> Self {
        Self::new(folder, 1, &[free_addr()], cuts).without("--members")
    }

    /// A server that joins a cluster by the addresses of some of its nodes; not started yet. `id` is the number that it will be given.
    pub fn joining(folder: &Path, id: u64, join: &[String]) -> Self {
        let addrs: Vec<String> = (0..id).map(|_| free_addr()).collect();
        let server = Self::new(folder, id, &addrs, &Cuts::Even(1)).without("--members").without("--node-id");
        server.without("--partitions").with("--join", &join.join(","))
    }

    /// Started with one more option.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.args.extend([option.to_owned(), value.to_owned()]);
        self
    }

    fn without(mut self, option: &str) -> Self {
        let at = self.args.iter().position(|arg| arg == option).expect("invariant: given by new");
        self.args.drain(at..at + 2);
        self
    }

    /// Its node id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it serves gRPC.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it from now on with another value of an option, such as `--data`.
    ///
    /// # Panics
    /// If it is not started with that option.
    pub fn set(&mut self, option: &str, value: &str) {
        let at =
            self.args.iter().position(|arg| arg == option).unwrap_or_else(|| panic!("{option} is not among {:?}", self.args));
        self.args[at + 1] = value.to_owned();
    }

    /// Starts it, expects it to end by itself, and returns its exit code and what it said.
    pub async fn refuses(&mut self) -> (Option<i32>, String) {
        let before = std::fs::metadata(&self.log).map_or(0, |log| log.len() as usize);
        self.start();
        let code = self.ended().await.code();
        (code, self.log_text().split_off(before))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Starts the process; does not wait for anything. What it says is added to its log file.
    ///
    /// # Panics
    /// If it runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log).expect("the log file can be written");
        let errors = log.try_clone().expect("a file can be opened twice");
        let child = program::command(&self.args).stdout(log).stderr(errors).spawn();
        self.child = Some(child.expect("the server can be started"));
    }

    /// Sends a signal.
    fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or_else(|| panic!("node {} does not run", self.id));
        kill(Pid::from_raw(pid as i32), signal).expect("own children can be signalled");
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// SIGTERM, and waits until the process has ended by itself.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until the process has ended, and says how.
    ///
    /// # Panics
    /// If it does not run, or does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("node {} does not run", self.id));
        let status = timeout(DEADLINE, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("node {} does not end:\n{}", self.id, self.log_tail(LOG_LINES)));
        self.child = None;
        status.expect("own children can be waited for")
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// If the process ends before, or the time is over: with the tail of its log.
    pub async fn ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        let mut last = String::from("it was not asked");
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().map_err(|error| error.to_string())?
            {
                self.child = None;
                return Err(format!("node {} ended ({status}) before it was ready:\n{}", self.id, self.log_tail(LOG_LINES)));
            }
            match get(&self.http, "/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((code, body)) => last = format!("/readyz said {code}: {body}"),
                Err(error) => last = format!("/readyz: {error} (before: {last})").chars().take(300).collect(),
            }
            if Instant::now() > until {
                let tail = self.log_tail(LOG_LINES);
                return Err(format!("node {} is not ready after {DEADLINE:?}: {last}\n{tail}", self.id));
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Waits until it has said one of these.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn says(&self, words: &str, or: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let said = self.log_text();
            if said.contains(words) || said.contains(or) {
                return;
            }
            assert!(Instant::now() < until, "node {} has said neither `{words}` nor `{or}`:\n{said}", self.id);
            sleep(ASK_EVERY).await;
        }
    }

    /// GET on its HTTP port: status code and body.
    ///
    /// # Errors
    /// If it cannot be reached or does not speak HTTP.
    pub async fn http_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(&self.http, path).await
    }

    /// The last lines that it said.
    pub fn log_tail(&self, lines: usize) -> String {
        program::tail(&self.log, lines)
    }

    /// Everything that it said.
    pub fn log_text(&self) -> String {
        program::tail(&self.log, usize::MAX)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last of node {} ({})\n{}", self.id, self.addr, self.log_tail(LOG_LINES));
        }
        let Some(mut child) = self.child.take() else { return };
        // It must be gone before its folder is removed: it would else go on writing into it.
        let _ = child.start_kill();
        for _ in 0..1000 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One HTTP GET, as plain as it can be.
async fn get(addr: &str, path: &str) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let timed_out = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let answer = timeout(Duration::from_secs(5), exchange).await.map_err(timed_out)??;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    code.map(|code| (code, body.to_owned())).ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {answer}")))
}

/// Several servers that are one cluster.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    // Dropped after the servers.
    folder: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until every node is ready.
    ///
    /// # Panics
    /// If that does not happen in time.
    pub async fn start(nodes: u64, cuts: Cuts) -> Self {
        let mut cluster = Self::prepare(nodes, cuts);
        cluster.start_all();
        cluster.all_ready().await;
        cluster
    }

    /// A cluster whose processes are not started yet.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn prepare(nodes: u64, cuts: Cuts) -> Self {
        Self::prepare_in(&std::env::temp_dir(), nodes, cuts)
    }

    /// As [`Cluster::prepare`], with the temporary folder inside of another one.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn prepare_in(parent: &Path, nodes: u64, cuts: Cuts) -> Self {
        let folder = tempfile::Builder::new().prefix("kontiki-").tempdir_in(parent).expect("a temporary folder");
        let members: Vec<String> = (0..nodes).map(|_| free_addr()).collect();
        let servers = (1..=nodes).map(|id| Server::new(folder.path(), id, &members, &cuts)).collect();
        Self { servers, folder }
    }

    /// A cluster of servers that were made one by one, none started yet. `make` is given the folder for their data.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn of(make: impl FnOnce(&Path) -> Vec<Server>) -> Self {
        let folder = tempfile::Builder::new().prefix("kontiki-").tempdir().expect("a temporary folder");
        Self { servers: make(folder.path()), folder }
    }

    /// Starts one more server and waits until it is ready.
    ///
    /// # Panics
    /// If it is not in time.
    pub async fn add(&mut self, mut server: Server) {
        server.start();
        let ready = server.ready().await;
        self.servers.push(server);
        ready.unwrap_or_else(|why| panic!("{why}"));
    }

    /// Has every server started with one more option.
    pub fn each_with(&mut self, option: &str, value: &'static str) {
        self.each_with_values(option, || value);
    }

    /// The same, with a value for each.
    pub fn each_with_values(&mut self, option: &str, mut value: impl FnMut() -> &'static str) {
        self.servers = std::mem::take(&mut self.servers).into_iter().map(|server| server.with(option, value())).collect();
    }

    /// Starts the processes of all nodes; does not wait.
    pub fn start_all(&mut self) {
        self.servers.iter_mut().for_each(Server::start);
    }

    /// Waits until every node is ready.
    ///
    /// # Panics
    /// If one is not in time.
    pub async fn all_ready(&mut self) {
        for server in &mut self.servers {
            if let Err(why) = server.ready().await {
                panic!("{why}");
            }
        }
    }

    /// SIGKILL to all nodes at once, and waits until they are gone.
    pub async fn kill_all(&mut self) {
        // All signals first, so that no node sees another one gone for long.
        self.servers.iter().for_each(|server| server.signal(Signal::SIGKILL));
        for server in &mut self.servers {
            server.ended().await;
        }
    }

    /// The node with this id.
    pub fn node(&mut self, id: u64) -> &mut Server {
        &mut self.servers[id as usize - 1]
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> &[Server] {
        &self.servers
    }

    /// The gRPC addresses, by id. Any of them will do.
    pub fn addrs(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.addr.clone()).collect()
    }

    /// The folder that holds all data directories and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that knows all nodes.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions::default()).await
    }

    /// A client with its own settings.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client_with(&self, options: ClientOptions) -> Client {
        let connected = timeout(DEADLINE, Client::connect_with(self.addrs(), options)).await.expect("connecting ends");
        connected.expect("a node answers")
    }
}
