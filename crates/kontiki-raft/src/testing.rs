//! What the tests of this crate share: an executor with real threads, and a transport that stays in the process and can be cut.

pub(crate) mod cluster;
pub(crate) mod full;

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
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

/// What comes back on a stream.
type Answers = BoxStream<'static, Result<Envelope, TransportError>>;

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

/// A stream that is open: who sends, who receives, and what arrives as long as the link holds.
struct Line {
    from: NodeId,
    peer: Arc<Groups>,
    sent: BoxStream<'static, Envelope>,
}

impl Wires {
    /// The first message says between which nodes a stream goes; `None`: there was none.
    async fn line(&self, to: NodeId, messages: BoxStream<'static, Envelope>) -> Result<Option<Line>, TransportError> {
        let mut messages = messages.peekable();
        let Some(first) = std::pin::Pin::new(&mut messages).peek().await else { return Ok(None) };
        let from = first.from_node;
        let peer = self.reach(from, to)?;
        let out = self.clone();
        let sent = messages.take_while(move |_| ready(out.reach(from, to).is_ok())).boxed();
        Ok(Some(Line { from, peer, sent }))
    }

    /// Answers, as long as the link holds.
    fn back(&self, from: NodeId, to: NodeId, answers: Answers) -> Answers {
        let wires = self.clone();
        answers.map(move |answer| wires.reach(from, to).and(answer)).boxed()
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
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let wires = self.clone();
        Box::pin(async move {
            wires.dial(to)?;
            let Some(Line { from, peer, sent }) = wires.line(to, messages).await? else { return Ok(stream::empty().boxed()) };
            Ok(wires.back(from, to, peer.receive_stream(sent)))
        })
    }

    fn snapshot(
        &self,
        to: NodeId,
        messages: BoxStream<'static, Envelope>,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let wires = self.clone();
        Box::pin(async move {
            let Some(Line { from, peer, sent }) = wires.line(to, messages).await? else { return Ok(stream::empty().boxed()) };
            let up = wires.clone();
            let sent = sent.flat_map(move |message| stream::iter(up.tampered(message)));
            // A line that breaks ends for both sides.
            let sent = sent.take_while(|message| ready(message.is_some())).filter_map(ready);
            Ok(wires.back(from, to, peer.receive_snapshot(sent.boxed())))
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
