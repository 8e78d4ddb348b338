//! What the tests of this crate share: an executor with real threads, and a transport that stays in the process and can be cut.

pub(crate) mod cluster;
pub(crate) mod full;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kontiki_types::NodeId;
use parking_lot::Mutex;

use crate::groups::Groups;
use crate::{Envelope, Exec, LogWriter, Member, Members, Suspicion, Transport, TransportError};

/// Real threads.
pub(crate) struct Threads;

impl Exec for Threads {
    #[allow(
        clippy::disallowed_types,
        clippy::disallowed_methods,
        reason = "tests run the log writer on a real thread, as production does"
    )]
    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<()> {
        std::thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "tests run blocking work where production does")]
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = tokio::task::spawn_blocking(work).await;
        })
    }
}

/// All nodes of a test and the links that are cut.
#[derive(Clone, Default)]
pub(crate) struct Wires {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    nodes: HashMap<NodeId, Weak<Groups>>,
    cut: HashSet<NodeId>,
    /// How often a stream to a node was asked for.
    dialled: HashMap<NodeId, u64>,
    /// What becomes of each message of a snapshot on its way; nothing, if there is none.
    tamper: Option<Tamper>,
}

/// Messages in place of one; `None` breaks the line.
pub(crate) type Tamper = Box<dyn FnMut(Envelope) -> Vec<Option<Envelope>> + Send>;

impl Wires {
    /// Makes a node reachable.
    pub(crate) fn plug(&self, groups: &Arc<Groups>) {
        self.inner.lock().nodes.insert(groups.node(), Arc::downgrade(groups));
    }

    /// Cuts a node off, in both directions, or joins it again.
    pub(crate) fn cut(&self, node: NodeId, cut: bool) {
        let mut inner = self.inner.lock();
        if cut {
            inner.cut.insert(node);
        } else {
            inner.cut.remove(&node);
        }
    }

    /// How often a stream to a node was asked for.
    pub(crate) fn dialled(&self, node: NodeId) -> u64 {
        self.inner.lock().dialled.get(&node).copied().unwrap_or(0)
    }

    /// From now on the messages of snapshots go through this.
    pub(crate) fn tamper(&self, tamper: impl FnMut(Envelope) -> Vec<Option<Envelope>> + Send + 'static) {
        self.inner.lock().tamper = Some(Box::new(tamper));
    }

    fn tampered(&self, message: Envelope) -> Vec<Option<Envelope>> {
        match &mut self.inner.lock().tamper {
            Some(tamper) => tamper(message),
            None => vec![Some(message)],
        }
    }

    /// As a connection is made: before anything is sent.
    fn dial(&self, to: NodeId) -> Result<(), TransportError> {
        let mut inner = self.inner.lock();
        *inner.dialled.entry(to).or_default() += 1;
        if inner.cut.contains(&to) {
            return Err(TransportError::Unreachable("the link is cut".into()));
        }
        Ok(())
    }

    fn reach(&self, from: NodeId, to: NodeId) -> Result<Arc<Groups>, TransportError> {
        let inner = self.inner.lock();
        if inner.cut.contains(&from) || inner.cut.contains(&to) {
            return Err(TransportError::Unreachable("the link is cut".into()));
        }
        let node = inner.nodes.get(&to).and_then(Weak::upgrade);
        node.ok_or_else(|| TransportError::Unreachable(format!("{to} is down")))
    }
}

impl Transport for Wires {
    fn call(&self, to: NodeId, message: Envelope, timeout: Duration) -> BoxFuture<'static, Result<Envelope, TransportError>> {
        let wires = self.clone();
        Box::pin(async move {
            let from = message.from_node;
            let peer = wires.reach(from, to)?;
            let answer = tokio::time::timeout(timeout, peer.receive(message)).await;
            let answer = answer.map_err(|_| TransportError::Timeout(format!("{to}")))??;
            wires.reach(from, to)?;
            Ok(answer)
        })
    }

    fn stream(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Envelope, TransportError>>, TransportError>> {
        let wires = self.clone();
        Box::pin(async move {
            wires.dial(to)?;
            let mut messages = messages.peekable();
            let Some(first) = std::pin::Pin::new(&mut messages).peek().await else { return Ok(futures::stream::empty().boxed()) };
            let from = first.from_node;
            let peer = wires.reach(from, to)?;
            let (out, back) = (wires.clone(), wires);
            let sent = messages.take_while(move |_| std::future::ready(out.reach(from, to).is_ok()));
            let answers = peer.receive_stream(sent.boxed());
            Ok(answers.map(move |answer| back.reach(from, to).and(answer)).boxed())
        })
    }

    fn snapshot(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Envelope, TransportError>>, TransportError>> {
        let wires = self.clone();
        Box::pin(async move {
            let mut messages = messages.peekable();
            let Some(first) = std::pin::Pin::new(&mut messages).peek().await else { return Ok(futures::stream::empty().boxed()) };
            let from = first.from_node;
            let peer = wires.reach(from, to)?;
            let (out, back, up) = (wires.clone(), wires.clone(), wires);
            let sent = messages.take_while(move |_| std::future::ready(out.reach(from, to).is_ok()));
            let sent = sent.flat_map(move |message| futures::stream::iter(up.tampered(message)));
            // A line that breaks ends for both sides.
            let sent = sent.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready);
            let answers = peer.receive_snapshot(sent.boxed());
            Ok(answers.map(move |answer| back.reach(from, to).and(answer)).boxed())
        })
    }
}

/// What the nodes of a test know of each other: nothing, unless they are told.
#[derive(Default)]
pub(crate) struct Acquaintance {
    pub(crate) members: Mutex<HashMap<NodeId, Member>>,
    pub(crate) suspected: Mutex<Vec<Suspicion>>,
}

impl Members for Acquaintance {
    fn member(&self, node: NodeId) -> Option<Member> {
        self.members.lock().get(&node).copied()
    }

    fn suspect(&self, suspicion: Suspicion) {
        self.suspected.lock().push(suspicion);
    }
}

#[allow(clippy::disallowed_methods, reason = "a test copies a directory as an operator would")]
pub(crate) fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("reads").map(|entry| entry.expect("an entry")) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
}
