//! The seams: every outside force that a node is exposed to, in one place, built once and passed down (DESIGN section 12). A
//! simulation builds another [`Env`] and runs the same code.
//!
//! ```text
//!   wall clock ─┐
//!   seed ───────┤
//!   Dial ───────┼──> Env ──> Node::start_in(env, options)
//!   Listen ─────┤
//!   DataDirs ───┤     (waiting is tokio's time: a simulation pauses that)
//!   Exec ───────┘
//! ```
//!
//! **Invariant:** this is the only file of the crate that touches the standard library's clock, threads, files or network.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the seam: the production half of the environment"
)]

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use kontiki_client::{Dial, Io, TcpDial};
use kontiki_raft::{Exec, LogWriter};
use kontiki_storage::disk::{Disk, FileDisk};
use kontiki_storage::engine::{Engine, RocksEngine, RocksOptions};
use kontiki_types::{Error, ErrorKind, Fault};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;

/// Everything that is not pure logic, handed to a node when it is built.
#[derive(Clone)]
pub struct Env {
    /// The wall clock, in ms since the Unix epoch. It suggests versions and is never trusted.
    pub wall_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// All randomness of the node derives from it.
    pub seed: u64,
    /// Makes connections.
    pub dial: Arc<dyn Dial>,
    /// Takes connections.
    pub listen: Arc<dyn Listen>,
    /// Opens data directories.
    pub data_dirs: Arc<dyn DataDirs>,
    /// Runs what blocks.
    pub exec: Arc<dyn Exec>,
}

impl Env {
    /// The real world.
    pub fn production() -> Self {
        Self {
            wall_ms: Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)),
            seed: SmallRng::from_os_rng().random(),
            dial: Arc::new(TcpDial),
            listen: Arc::new(TcpListen),
            data_dirs: Arc::new(LocalDirs),
            exec: Arc::new(ThreadExec),
        }
    }
}

/// Takes connections at addresses.
pub trait Listen: Send + Sync + 'static {
    /// Takes the address `host:port`; port 0 takes any free one.
    fn listen(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// An address that was taken. Dropping it gives it back.
pub trait Listener: Send + 'static {
    /// The address, with the port that was really taken.
    fn local_addr(&self) -> io::Result<String>;

    /// The next connection, and who made it.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, String)>>;
}

/// Opens data directories. Blocking: call it through [`Exec`].
pub trait DataDirs: Send + Sync + 'static {
    /// Creates the directory if it is missing, and locks it: as long as the result lives, nobody else can open it.
    fn open(&self, path: &Path) -> Result<Arc<dyn DataDir>, Error>;
}

/// A data directory that this process has locked. Blocking: call it through [`Exec`].
pub trait DataDir: Send + Sync + 'static {
    /// Its path, for messages.
    fn path(&self) -> &Path;

    /// What lies in it, the lock file left out.
    fn entries(&self) -> io::Result<Vec<String>>;

    /// The files directly in it (its identity).
    fn root(&self) -> io::Result<Arc<dyn Disk>>;

    /// Where the raft log lives.
    fn log(&self) -> io::Result<Arc<dyn Disk>>;

    /// Opens the engine of the state machines.
    fn engine(&self, options: &RocksOptions) -> Result<Arc<dyn Engine>, Fault>;
}

struct TcpListen;

impl Listen for TcpListen {
    fn listen(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(TcpAccept(TcpListener::bind(addr).await?)) as Box<dyn Listener>) }.boxed()
    }
}

struct TcpAccept(TcpListener);

impl Listener for TcpAccept {
    fn local_addr(&self) -> io::Result<String> {
        self.0.local_addr().map(|addr| addr.to_string())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, String)>> {
        async move {
            let (stream, from) = self.0.accept().await?;
            // Small answers must not wait for the next ones.
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Io>, from.to_string()))
        }
        .boxed()
    }
}

struct ThreadExec;

impl Exec for ThreadExec {
    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<()> {
        std::thread::Builder::new().name("kontiki-log".to_owned()).spawn(move || writer.run()).map(drop)
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let running = tokio::task::spawn_blocking(work);
        async move {
            if let Err(error) = running.await {
                tracing::error!(%error, "work that blocks did not end");
            }
        }
        .boxed()
    }
}

/// The file whose lock keeps a second process out. It stays when the lock goes: only the lock counts.
const LOCK_FILE: &str = "LOCK";
const LOG_DIR: &str = "log";
const ENGINE_DIR: &str = "data";

struct LocalDirs;

impl DataDirs for LocalDirs {
    fn open(&self, path: &Path) -> Result<Arc<dyn DataDir>, Error> {
        create_dir(path)?;
        // Before anything is put into it, also the lock file.
        let entries = names_in(path).map_err(|error| refused(path, "cannot be read", error))?;
        crate::identity::check_ours(path, &entries)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| refused(path, "cannot be written to", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Arc::new(LocalDir { path: path.to_owned(), _lock: lock })),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "data directory {} is in use: another node holds the lock on {}; stop it, or give this node a directory of its own",
                    path.display(),
                    lock_path.display()
                ),
            )),
            Err(TryLockError::Error(error)) => Err(refused(path, "cannot be locked", error)),
        }
    }
}

/// Creates the directory, durably, or checks that it is one that can be read.
fn create_dir(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            let message = format!("data directory {} is a file; give the path of a directory", path.display());
            return Err(Error::new(ErrorKind::Storage, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(|error| refused(path, "cannot be created", error))?;
            // The directory's own entry must survive a power cut, or everything in it is lost with it.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| refused(path, "cannot be created", error))?;
        }
        Err(error) => return Err(refused(path, "cannot be looked at", error)),
    }
    fs::read_dir(path).map(drop).map_err(|error| refused(path, "cannot be read", error))
}

fn refused(path: &Path, what: &str, error: io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "give this process the right to read and write it, or choose another directory",
        io::ErrorKind::NotADirectory => "a part of the path is a file; correct the path",
        io::ErrorKind::StorageFull => "free space on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "that file system is read-only; choose another directory",
        _ => "look at that disk and path",
    };
    let message = format!("data directory {} {what}: {error}; {advice}", path.display());
    Error::with_source(ErrorKind::Storage, message, error)
}

struct LocalDir {
    path: PathBuf,
    /// Locked; the operating system gives it back when it is closed, also if the process is killed.
    _lock: File,
}

impl DataDir for LocalDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        names_in(&self.path)
    }

    fn root(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(FileDisk::open(&self.path)?))
    }

    fn log(&self) -> io::Result<Arc<dyn Disk>> {
        let path = self.path.join(LOG_DIR);
        make_subdir(&self.path, &path)?;
        Ok(Arc::new(FileDisk::open(&path)?))
    }

    fn engine(&self, options: &RocksOptions) -> Result<Arc<dyn Engine>, Fault> {
        let path = self.path.join(ENGINE_DIR);
        make_subdir(&self.path, &path).map_err(|error| Fault::io(format!("creating {}", path.display()), error))?;
        Ok(RocksEngine::open(&path, options.clone())?)
    }
}

/// What lies in a data directory, the lock file left out.
fn names_in(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != LOCK_FILE {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn make_subdir(parent: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    File::open(parent)?.sync_all()
}
