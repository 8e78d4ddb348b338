//! The simulated half of the production node's seams: its network is turmoil's, its disks and its clock are the host's, and what blocks is done
//! inline by a task that first waits as long as a disk would take.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kontiki_client::{Dial, Io};
use kontiki_raft::{Exec, LogWriter};
use kontiki_server::RocksOptions;
use kontiki_server::env::{DataDir, DataDirs, Env, Listen, Listener};
use kontiki_storage::disk::Disk;
use kontiki_storage::engine::Engine;
use kontiki_types::{Error, ErrorKind, Fault};
use turmoil::net::{TcpListener, TcpStream};

use crate::host::Host;

/// The environment of a process that starts on this host.
pub(crate) fn of(host: &Arc<Host>, seed: u64) -> Env {
    let clock = Arc::clone(host);
    Env {
        wall_ms: Arc::new(move || clock.wall.now_ms()),
        seed,
        dial: Arc::new(SimulatedDial),
        listen: Arc::new(SimulatedListen),
        data_dirs: Arc::new(Dirs(Arc::clone(host))),
        exec: Arc::new(Inline(Arc::clone(host))),
    }
}

/// Connections through the simulated network, for nodes and clients.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedDial;

impl Dial for SimulatedDial {
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        async move { Ok(Box::new(TcpStream::connect(addr).await?) as Box<dyn Io>) }.boxed()
    }
}

struct SimulatedListen;

impl Listen for SimulatedListen {
    fn listen(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(Accept(TcpListener::bind(addr).await?)) as Box<dyn Listener>) }.boxed()
    }
}

struct Accept(TcpListener);

impl Listener for Accept {
    fn local_addr(&self) -> io::Result<String> {
        self.0.local_addr().map(|addr| addr.to_string())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, String)>> {
        async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Io>, from.to_string()))
        }
        .boxed()
    }
}

struct Inline(Arc<Host>);

impl Exec for Inline {
    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<()> {
        let host = Arc::clone(&self.0);
        tokio::spawn(writer.run_inline(move || host.sync_takes()));
        Ok(())
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let takes = self.0.work_takes();
        // As with a pool of threads, what was begun is done also if nobody waits for it any more.
        let running = tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            work();
        });
        async move {
            // It ends with the process, or panics, which the run sees.
            let _ = running.await;
        }
        .boxed()
    }
}

struct Dirs(Arc<Host>);

impl DataDirs for Dirs {
    fn open(&self, path: &Path) -> Result<Arc<dyn DataDir>, Error> {
        if !self.0.lock() {
            return Err(Error::new(ErrorKind::Storage, format!("data directory {} is in use", path.display())));
        }
        Ok(Arc::new(Dir { host: Arc::clone(&self.0), path: path.to_owned(), start: self.0.start() }))
    }
}

struct Dir {
    host: Arc<Host>,
    path: PathBuf,
    /// The start that holds the lock.
    start: u64,
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.host.start() == self.start {
            self.host.unlock();
        }
    }
}

impl DataDir for Dir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        self.host.root.list()
    }

    fn root(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.host.root.clone()))
    }

    fn log(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.host.log.clone()))
    }

    fn engine(&self, _options: &RocksOptions) -> Result<Arc<dyn Engine>, Fault> {
        Ok(self.host.engine())
    }
}
