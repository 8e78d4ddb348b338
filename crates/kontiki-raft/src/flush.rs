//! What is durable of the state machines. Applying does not make anything durable: the log does that, and a restart replays it. Before
//! a piece of the log may go, what it held must have been flushed. One flush serves all groups of the node.
//!
//! ```text
//!   group A ─ wants ─┐
//!   group B ─ wants ─┼─ FlushBarrier: who comes while a flush runs shares the next one ── Engine::flush
//!   group C ─ wants ─┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_storage::engine::Engine;
use kontiki_types::Fault;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::exec::{Exec, run_blocking};
use crate::type_config::{LogId, StoredMembership};

/// Flushes of the node's engine, one at a time.
pub(crate) struct FlushBarrier {
    engine: Arc<dyn Engine>,
    exec: Arc<dyn Exec>,
    /// How many flushes have begun.
    begun: AtomicU64,
    /// The number of the last one that succeeded, and when it did. Whoever holds the lock flushes.
    turn: tokio::sync::Mutex<()>,
    done: Mutex<(u64, Option<Instant>)>,
}

impl FlushBarrier {
    pub(crate) fn new(engine: Arc<dyn Engine>, exec: Arc<dyn Exec>) -> Self {
        Self { engine, exec, begun: AtomicU64::new(0), turn: tokio::sync::Mutex::new(()), done: Mutex::new((0, None)) }
    }

    /// Makes everything that was applied before the call durable.
    pub(crate) async fn flush(&self) -> Result<(), Fault> {
        // A flush that has begun may have missed what the caller means; the next one has not.
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        let _turn = self.turn.lock().await;
        if self.done.lock().0 >= wanted {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let engine = self.engine.clone();
        let flushed = run_blocking(self.exec.as_ref(), move || engine.flush()).await;
        flushed.ok_or_else(|| Fault::io("flushing", std::io::Error::other("the executor has stopped")))??;
        *self.done.lock() = (number, Some(Instant::now()));
        Ok(())
    }

    /// How many flushes have begun, and when the last one ended well.
    pub(crate) fn stats(&self) -> (u64, Option<Instant>) {
        (self.begun.load(Ordering::Acquire), self.done.lock().1)
    }
}

/// Up to where a replica has applied its log, and the membership in force there.
pub(crate) type Place = (Option<LogId>, StoredMembership);

/// How far a replica has come, and what has stopped it: shared between its state machine and whoever trims its log or opens it again.
pub(crate) struct Places {
    applied: Mutex<Place>,
    durable: Mutex<Place>,
    stopped_by: Mutex<Option<Fault>>,
}

impl Places {
    /// A replica that was just opened: what it holds is durable.
    pub(crate) fn new(at: Place) -> Arc<Self> {
        Arc::new(Self { durable: Mutex::new(at.clone()), applied: Mutex::new(at), stopped_by: Mutex::new(None) })
    }

    /// Entries were applied up to here, by a state machine that has published them.
    pub(crate) fn set_applied(&self, at: LogId, membership: Option<StoredMembership>) {
        let mut applied = self.applied.lock();
        applied.0 = Some(at);
        if let Some(membership) = membership {
            applied.1 = membership;
        }
    }

    /// Everything up to here is durable.
    pub(crate) fn set_durable(&self, at: Place) {
        let mut durable = self.durable.lock();
        if at.0 > durable.0 {
            *durable = at;
        }
    }

    /// The state machine has met a fault, and openraft ends the replica. The first one counts.
    pub(crate) fn set_stopped_by(&self, fault: &Fault) {
        self.stopped_by.lock().get_or_insert_with(|| fault.clone());
    }

    /// The fault of the state machine that has ended the replica.
    pub(crate) fn stopped_by(&self) -> Option<Fault> {
        self.stopped_by.lock().clone()
    }

    pub(crate) fn applied(&self) -> Place {
        self.applied.lock().clone()
    }

    pub(crate) fn durable(&self) -> Place {
        self.durable.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::future::BoxFuture;
    use kontiki_storage::engine::MemoryEngine;

    use super::*;
    use crate::LogWriter;

    /// Runs blocking work only when it is let: one permit each.
    struct Gate {
        permits: Arc<tokio::sync::Semaphore>,
        began: mpsc::Sender<()>,
    }

    impl Exec for Gate {
        fn spawn_log_writer(&self, _: LogWriter) -> std::io::Result<()> {
            unreachable!("no log here")
        }

        fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            let (permits, began) = (self.permits.clone(), self.began.clone());
            Box::pin(async move {
                began.send(()).expect("the test listens");
                permits.acquire().await.expect("open").forget();
                work();
            })
        }
    }

    #[tokio::test]
    async fn who_comes_while_a_flush_runs_shares_the_next() {
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let (began, begun) = mpsc::channel();
        let gate = Gate { permits: permits.clone(), began };
        let barrier = Arc::new(FlushBarrier::new(MemoryEngine::new(), Arc::new(gate)));
        let call = |barrier: &Arc<FlushBarrier>| {
            let barrier = barrier.clone();
            tokio::spawn(async move { barrier.flush().await })
        };
        let first = call(&barrier);
        while begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..10).map(|_| call(&barrier)).collect();
        // All of them have asked before the first flush ends.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        permits.add_permits(100);
        first.await.expect("ran").expect("flushed");
        for one in later {
            one.await.expect("ran").expect("flushed");
        }
        assert_eq!(barrier.stats().0, 2, "one that ran already, and one for all who came meanwhile");
        barrier.flush().await.expect("flushed");
        assert_eq!(barrier.stats().0, 3, "an earlier flush says nothing of what was written since");
    }
}
