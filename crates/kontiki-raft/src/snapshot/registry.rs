//! What is remembered of transfers that broke: on the sending side the view that they are read from, on the receiving side what has come.
//! For a minute or so: a view keeps what is overwritten on disk, and what has come takes room beside the data.
//!
//! **Invariant:** a view that brings nobody further is let go, however often it is accepted: a receiver whose disk is full accepts and fails for
//! ever, and the view would keep the log, and what was overwritten, for as long.
//!
//! openraft asks for a snapshot anew at every attempt, and takes what that one says for what the target has in the end. So a view that is
//! kept is handed out again by the state machine, to whatever target comes; each target has its own place in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::machine::{Export, Import};
use kontiki_types::{Epoch, ReplicaId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wire::{Totals, TransferId};
use crate::type_config::{LogId, StoredMembership};

/// One view of a replica, and how far each target has got with it.
pub(crate) struct Pin {
    pub(crate) id: TransferId,
    pub(crate) export: Export,
    pub(crate) last: LogId,
    pub(crate) membership: StoredMembership,
    targets: Mutex<HashMap<u64, Target>>,
}

#[derive(Default)]
struct Target {
    /// Where chunks begin: from the first that is not acknowledged to the one after the last that was sent.
    steps: VecDeque<Step>,
    /// The receiver named a chunk that is not known here: it must begin again.
    anew: bool,
    /// How many chunks it has had acknowledged at most, in all attempts.
    furthest: u64,
}

/// Where a chunk begins, and what all chunks before it amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) from: Bytes,
    pub(crate) before: Totals,
}

impl Pin {
    pub(crate) fn new(id: TransferId, export: Export, last: LogId, membership: StoredMembership) -> Arc<Self> {
        Arc::new(Self { id, export, last, membership, targets: Mutex::default() })
    }

    /// Whether a target must be told to throw away what it has.
    pub(crate) fn anew(&self, target: ReplicaId) -> bool {
        self.targets.lock().get(&target.0).is_some_and(|target| target.anew)
    }

    /// Where to go on, if the receiver asks for the chunk of this number, which begins there. `None`: that is not known here.
    pub(crate) fn resume(&self, target: ReplicaId, next: u64, from: &Bytes) -> Option<Step> {
        let mut targets = self.targets.lock();
        let target = targets.entry(target.0).or_default();
        if next == 0 {
            *target = Target { furthest: target.furthest, ..Target::default() };
            target.steps.push_back(Step::default());
            return Some(Step::default());
        }
        let step = target.steps.iter().find(|step| step.before.chunks == next && step.from == *from).cloned();
        target.anew = step.is_none();
        step
    }

    /// A chunk was sent; the next one begins here.
    pub(crate) fn sent(&self, target: ReplicaId, next: &Step) {
        let mut targets = self.targets.lock();
        let steps = &mut targets.entry(target.0).or_default().steps;
        steps.retain(|step| step.before.chunks < next.before.chunks);
        steps.push_back(next.clone());
    }

    /// The receiver has staged the chunk of this number. Returns whether it has never been as far before.
    pub(crate) fn acknowledged(&self, target: ReplicaId, number: u64) -> bool {
        let mut targets = self.targets.lock();
        let target = targets.entry(target.0).or_default();
        target.steps.retain(|step| step.before.chunks > number);
        let further = number >= target.furthest;
        target.furthest = target.furthest.max(number.saturating_add(1));
        further
    }
}

/// The view that a group's transfers are read from, while there are any that are not finished.
#[derive(Default)]
pub(crate) struct Outgoing {
    held: Mutex<Option<Held>>,
    views: AtomicU64,
}

struct Held {
    pin: Arc<Pin>,
    used: Instant,
    unfinished: HashSet<u64>,
}

impl Outgoing {
    /// A number for the next view.
    pub(crate) fn number(&self) -> u64 {
        self.views.fetch_add(1, Ordering::Relaxed)
    }

    /// The view that is held, if it is of use: what follows it is still in the log (`purged` is the last entry that is not), and it is of the
    /// partition's present epoch. A replica that joined since knows the newer descriptor, and refuses a state that is older than that.
    pub(crate) fn held(&self, purged: Option<u64>, epoch: Epoch) -> Option<Arc<Pin>> {
        let mut held = self.held.lock();
        let is_of_use =
            |pin: &Pin| purged.is_none_or(|purged| pin.last.index >= purged) && pin.export.header().descriptor.epoch == epoch;
        if held.as_ref().is_some_and(|held| !is_of_use(&held.pin)) {
            *held = None;
        }
        held.as_ref().map(|held| held.pin.clone())
    }

    /// A target has accepted a view. If another view is held, that one keeps its place: this one lives as long as its attempt. To be called
    /// only then: a target that is down is tried for ever, and must not hold the log back for ever.
    pub(crate) fn begin(&self, pin: &Arc<Pin>, target: ReplicaId) {
        let mut held = self.held.lock();
        let held = held.get_or_insert_with(|| Held { pin: pin.clone(), used: Instant::now(), unfinished: HashSet::new() });
        if Arc::ptr_eq(&held.pin, pin) && held.unfinished.insert(target.0) {
            held.used = Instant::now();
        }
    }

    /// A target has the view, or needs it no more.
    pub(crate) fn finish(&self, pin: &Arc<Pin>, target: ReplicaId) {
        let mut held = self.held.lock();
        if let Some(found) = held.as_mut().filter(|held| Arc::ptr_eq(&held.pin, pin)) {
            found.unfinished.remove(&target.0);
            if found.unfinished.is_empty() {
                *held = None;
            }
        }
    }

    /// A target has come further than it ever was.
    pub(crate) fn touch(&self, pin: &Arc<Pin>) {
        if let Some(held) = self.held.lock().as_mut().filter(|held| Arc::ptr_eq(&held.pin, pin)) {
            held.used = Instant::now();
        }
    }

    /// The first entry that the targets will need from the log.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.held.lock().as_ref().map(|held| held.pin.last.index + 1)
    }

    /// Lets go of a view that has brought nobody further in this time.
    pub(crate) fn sweep(&self, after: Duration) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| held.used.elapsed() >= after) {
            *held = None;
        }
    }
}

/// What has come of a snapshot.
pub(crate) struct Staged {
    pub(crate) id: TransferId,
    pub(crate) import: Import,
    pub(crate) totals: Totals,
    /// The CRC of the last chunk that was staged: it may come again.
    pub(crate) last_crc: Option<u32>,
    pub(crate) used: Instant,
}

/// Where a group collects a snapshot: one at a time. Whoever comes later and is entitled takes the place over.
#[derive(Default)]
pub(crate) struct Incoming {
    present: Mutex<CancellationToken>,
    pub(crate) staged: tokio::sync::Mutex<Option<Staged>>,
}

impl Incoming {
    /// Ends the session that is there, and gives the token that ends this one.
    pub(crate) fn take_over(&self) -> CancellationToken {
        let token = CancellationToken::new();
        std::mem::replace(&mut *self.present.lock(), token.clone()).cancel();
        token
    }

    /// Throws away what nobody has gone on with in this time.
    pub(crate) fn sweep(&self, after: Duration) {
        if let Ok(mut staged) = self.staged.try_lock()
            && staged.as_ref().is_some_and(|staged| staged.used.elapsed() >= after)
        {
            *staged = None;
        }
    }
}
