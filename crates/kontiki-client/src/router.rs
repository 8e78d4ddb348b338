//! The router: finds the partition and the node, sends, and decides what an error means. Every call of the client goes through one of
//! its loops:
//!
//! ```text
//!   locate (map) --> choose (leader or replica) --> send --> answer
//!      ^                                             |
//!      +---- repair the map, follow, pause <--- error: retry::decide
//! ```
//!
//! Keys are internal keys here, errors are `CallError`s; the client turns both into what the user sees.

mod read;
mod write;

use std::sync::Arc;
use std::time::Duration;

use kontiki_types::command::Route;
use kontiki_types::{CallError, Descriptor, NodeId, PartitionId, PartitionMap, Reject, Retry, SessionId, Version};
use tokio::time::Instant;
use tracing::debug;

pub(crate) use read::Served;

use crate::endpoint::Endpoint;
use crate::map_cache::{MapCache, View};
use crate::options::ClientOptions;
use crate::peers::Peers;
use crate::retry::{Action, Pace, decide, may_be_applied};
use crate::session::Sessions;
use crate::status::NodeStatus;

/// Free redirects in a row (a hint, a new map) before one is paced like a failure: two nodes may point at each other.
const REDIRECTS_MAX: u32 = 3;
/// So many failures to find somebody who serves, and the map is asked for again: its addresses may be those of before.
const FAILURES_PER_REFRESH: u32 = 3;
/// An endpoint ends within its timeout; one that does not is cut off this much later.
const GRACE: Duration = Duration::from_millis(250);

/// The longest time of a call: gRPC's timeout header and the clock's arithmetic have their bounds.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The state that all calls of a client share.
pub(crate) struct Router {
    pub(crate) peers: Peers,
    pub(crate) map: MapCache,
    pub(crate) sessions: Sessions,
    pace: Pace,
    attempt_timeout: Duration,
    /// The highest version that any reply has named: what a snapshot may ask for without doubt.
    newest: std::sync::atomic::AtomicU64,
}

/// One call's tries.
pub(crate) struct Attempts {
    timeout: Duration,
    deadline: Instant,
    made: u32,
    pauses: u32,
    redirects: u32,
    /// How often nobody served who was asked. Unlike `turn` it is not taken back by a hint: that may lead to a dead address again.
    failures: u32,
    /// How far the choice among replicas has moved on.
    turn: usize,
    last_node: Option<NodeId>,
    last_error: Option<CallError>,
    /// Whether an attempt so far may have been applied.
    pub(crate) may_be_applied: bool,
}

impl Attempts {
    pub(crate) fn new(timeout: Duration) -> Self {
        let timeout = timeout.min(TIMEOUT_MAX);
        Self {
            timeout,
            deadline: Instant::now() + timeout,
            made: 0,
            pauses: 0,
            redirects: 0,
            failures: 0,
            turn: 0,
            last_node: None,
            last_error: None,
            may_be_applied: false,
        }
    }

    /// The answer when the time is over: ambiguous if any attempt may have been applied, else proven not applied.
    fn expired(&self) -> CallError {
        let last = self.last_error.as_ref().map_or_else(|| "nothing answered".to_owned(), ToString::to_string);
        let reason = format!("no answer within {:?}, after {} attempts; the last: {last}", self.timeout, self.made);
        match &self.last_error {
            _ if self.may_be_applied => CallError::ambiguous(reason),
            Some(CallError::Retry(Retry::Overloaded { what, limit, retry_after_ms })) => {
                Retry::Overloaded { what: what.clone(), limit: *limit, retry_after_ms: *retry_after_ms }.into()
            }
            _ => CallError::unavailable(reason),
        }
    }

    /// An error that ends the call. What an earlier attempt may have done is not unsaid by a later refusal, unless the refusal speaks
    /// for the request itself (the session table answers a repeat before anything else is looked at).
    fn final_error(&self, error: CallError) -> CallError {
        let speaks_for_all = match &error {
            CallError::Reject(Reject::ConditionFailed { .. } | Reject::SessionConflict { .. }) => true,
            CallError::Reject(_) | CallError::Retry(_) => false,
            CallError::Ambiguous(_) | CallError::Fault(_) => true,
        };
        if self.may_be_applied && !speaks_for_all {
            return CallError::ambiguous(format!("an attempt was sent and not answered, and a repeat was refused: {error}"));
        }
        error
    }
}

/// Which replica a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The leader.
    Leader,
    /// The local replica if there is one, else the leader: followers lag a little, and a fresh snapshot is not there yet.
    Near,
    /// The local replica if there is one, else any.
    Any,
}

/// What the call says of its place on a map.
enum Place<R> {
    /// In this partition (an index into the map); and what to ask there.
    At(usize, R),
    /// The map has a hole there.
    Nowhere,
    /// Not in one partition (any more).
    Across(Reject),
}

/// Why a loop ended without an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error for the caller.
    Call(CallError),
    /// What was asked lies in several partitions now: cut it anew. Nothing was applied unless the attempts say so.
    Across(Reject),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    pub(crate) fn into_call(self) -> CallError {
        match self {
            Self::Call(error) => error,
            Self::Across(reject) => reject.into(),
        }
    }
}

/// Where an attempt goes.
struct Target {
    view: Arc<View>,
    partition: PartitionId,
    route: Route,
    node: NodeId,
    endpoint: Arc<dyn Endpoint>,
}

impl Router {
    pub(crate) fn new(peers: Peers, options: &ClientOptions) -> Self {
        Self {
            peers,
            map: MapCache::default(),
            sessions: Sessions::default(),
            pace: Pace::new(options.backoff_min, options.backoff_max, options.retry_budget, options.seed_or_random()),
            attempt_timeout: options.attempt_timeout,
            newest: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Remembers that a reply has named a version.
    fn named(&self, version: Version) {
        self.newest.fetch_max(version.0, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether a reply has named this version or a higher one.
    fn is_named(&self, version: Version) -> bool {
        self.newest.load(std::sync::atomic::Ordering::Relaxed) >= version.0
    }

    /// The time that one attempt gets, or the call's end.
    fn attempt_time(&self, attempts: &Attempts) -> Result<Duration, CallError> {
        let left = attempts.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(attempts.expired()) } else { Ok(left.min(self.attempt_timeout)) }
    }

    /// Finds the partition by the map, asking for the map where it has a hole, and chooses a node.
    async fn target<R>(
        &self,
        attempts: &mut Attempts,
        aim: Aim,
        place: impl Fn(&PartitionMap) -> Place<R>,
    ) -> Result<(Target, R), Failure> {
        loop {
            let view = self.map.view();
            let (at, asked) = match place(&view.map) {
                Place::At(at, asked) => (at, asked),
                Place::Across(reject) => return Err(Failure::Across(reject)),
                Place::Nowhere => {
                    self.refresh_and_pause(attempts, view.generation, "the map has no partition for the key yet").await?;
                    continue;
                }
            };
            let descriptor = &view.map.partitions[at];
            let Some((node, endpoint)) = self.choose(&view.map, descriptor, aim, attempts) else {
                self.refresh_and_pause(attempts, view.generation, "the map names no node with an address for the partition")
                    .await?;
                continue;
            };
            let route = Route { partition: descriptor.id, epoch: descriptor.epoch };
            return Ok((Target { partition: descriptor.id, route, node, endpoint, view }, asked));
        }
    }

    /// The next node to ask. The first is the best guess; after a failure the others follow, reachable ones first, and the one that
    /// has just failed last.
    fn choose(
        &self,
        map: &PartitionMap,
        descriptor: &Descriptor,
        aim: Aim,
        attempts: &Attempts,
    ) -> Option<(NodeId, Arc<dyn Endpoint>)> {
        let replicas = &descriptor.replicas;
        let mut nodes: Vec<NodeId> = Vec::with_capacity(replicas.len() + 1);
        let local = self.peers.local().filter(|local| descriptor.replica_on(*local).is_some());
        let aim = match aim {
            Aim::Near if attempts.turn > 0 || local.is_none() => Aim::Leader,
            Aim::Any if attempts.turn >= replicas.len() => Aim::Leader,
            aim => aim,
        };
        match aim {
            Aim::Leader | Aim::Near => {
                nodes.extend(local.filter(|_| aim == Aim::Near));
                nodes.extend(self.map.leader(descriptor.id));
                nodes.extend(replicas.iter().filter(|replica| replica.votes()).map(|replica| replica.node));
            }
            Aim::Any => {
                nodes.extend(local);
                let mut others: Vec<_> = replicas.iter().map(|replica| replica.node).collect();
                let first = if others.len() > 1 { self.pace.pick(others.len()) } else { 0 };
                others.rotate_left(first);
                nodes.extend(others);
            }
        }
        dedup(&mut nodes);
        if aim == Aim::Leader && self.map.leader(descriptor.id).is_none() && !nodes.is_empty() {
            let turn = attempts.turn % nodes.len();
            nodes.rotate_left(turn);
        }
        // Stable: keeps the order inside each class.
        nodes.sort_by_key(|node| attempts.turn > 0 && attempts.last_node == Some(*node));
        let known = || nodes.iter().filter_map(|node| Some((*node, self.peers.node(map, *node)?)));
        known().find(|(_, endpoint)| endpoint.is_reachable()).or_else(|| known().next())
    }

    /// Books an error and says how to go on; waits if that is needed. `safe`: the request may be repeated even if it was applied.
    /// `applies`: the request was a write. `Err` ends the call.
    async fn after(
        &self,
        attempts: &mut Attempts,
        target: &Target,
        error: CallError,
        safe: bool,
        applies: bool,
    ) -> Result<Next, CallError> {
        debug!(partition = %target.partition, node = %target.node, %error, "attempt failed");
        if applies && may_be_applied(&error) {
            attempts.may_be_applied = true;
        }
        attempts.last_node = Some(target.node);
        let action = decide(&error, safe);
        match (&action, &error) {
            (Action::GiveUp, _) => return Err(attempts.final_error(error)),
            (Action::NewSession, CallError::Reject(Reject::SessionExpired { session, .. })) => {
                let session = *session;
                attempts.last_error = Some(error);
                attempts.redirects += 1;
                if attempts.redirects > REDIRECTS_MAX {
                    self.pause(attempts, Duration::ZERO).await?;
                }
                return Ok(Next::NewSession(session));
            }
            _ => {}
        }
        let generation = target.view.generation;
        let free = attempts.redirects < REDIRECTS_MAX;
        attempts.redirects += 1;
        let learned = match &error {
            CallError::Reject(Reject::StaleEpoch { descriptors, .. }) => self.map.learn(descriptors),
            _ => false,
        };
        attempts.last_error = Some(error);
        match action {
            Action::Relocate if learned && free => {}
            Action::Relocate => {
                attempts.turn += 1;
                if free && self.map.view().generation > generation {
                    return Ok(Next::Again);
                }
                self.refresh_and_pause(attempts, generation, "the map is out of date").await?;
            }
            Action::Follow(Some(leader)) => {
                self.map.set_leader(target.partition, leader);
                attempts.turn = 0;
                if target.view.map.node(leader).is_none() && self.peers.local() != Some(leader) {
                    self.refresh_and_pause(attempts, generation, "the map does not know the leader's address").await?;
                } else if !free || leader == target.node {
                    self.pause(attempts, Duration::ZERO).await?;
                }
            }
            Action::Follow(None) | Action::Elsewhere => {
                self.map.forget_leader(target.partition, target.node);
                attempts.turn += 1;
                // Nobody at the addresses that the map names would say that they have changed.
                attempts.failures += 1;
                if attempts.failures.is_multiple_of(FAILURES_PER_REFRESH)
                    && let Err(error) = self.refresh(attempts, generation).await
                {
                    debug!(%error, "the map could not be refreshed");
                }
                self.pause(attempts, Duration::ZERO).await?;
            }
            Action::Wait(at_least) => self.pause(attempts, at_least).await?,
            Action::GiveUp | Action::NewSession => {}
        }
        Ok(Next::Again)
    }

    /// Books a success.
    fn succeeded(&self, attempts: &Attempts, target: &Target, aim: Aim) {
        if attempts.made <= 1 {
            self.pace.earn();
        }
        if aim == Aim::Leader {
            self.map.set_leader(target.partition, target.node);
        }
    }

    async fn pause(&self, attempts: &mut Attempts, at_least: Duration) -> Result<(), CallError> {
        let pause = self.pace.pause(attempts.pauses) + at_least;
        attempts.pauses += 1;
        attempts.redirects = 0;
        if Instant::now() + pause >= attempts.deadline {
            return Err(attempts.expired());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn refresh_and_pause(&self, attempts: &mut Attempts, seen: u64, why: &str) -> Result<(), CallError> {
        if let Err(error) = self.refresh(attempts, seen).await {
            attempts.last_error = Some(error);
        } else if attempts.last_error.is_none() {
            attempts.last_error = Some(CallError::unavailable(why));
        }
        if self.map.view().generation > seen && attempts.pauses == 0 && attempts.redirects <= REDIRECTS_MAX {
            // A first refresh that brought a map: use it at once.
            attempts.pauses += 1;
            return Ok(());
        }
        self.pause(attempts, Duration::ZERO).await
    }

    /// Asks until there is a map that is not empty.
    pub(crate) async fn refresh_until_known(&self, timeout: Duration) -> Result<(), CallError> {
        let mut attempts = Attempts::new(timeout);
        loop {
            let seen = self.map.view().generation;
            attempts.made += 1;
            match self.refresh(&attempts, seen).await {
                Ok(()) => return Ok(()),
                Err(error @ CallError::Reject(_)) => return Err(error),
                Err(error) => attempts.last_error = Some(error),
            }
            self.pause(&mut attempts, Duration::ZERO).await?;
        }
    }

    /// The map has changed under a call that covers several partitions: waits a little if it keeps changing.
    pub(crate) async fn regrouped(&self, attempts: &mut Attempts, reject: Reject) -> Result<(), CallError> {
        attempts.redirects += 1;
        attempts.last_error = Some(reject.into());
        if attempts.redirects <= REDIRECTS_MAX { Ok(()) } else { self.pause(attempts, Duration::ZERO).await }
    }

    /// How one node does.
    pub(crate) async fn status(&self, map: &PartitionMap, node: NodeId, timeout: Duration) -> Result<NodeStatus, CallError> {
        let Some(endpoint) = self.peers.node(map, node) else {
            return Err(CallError::unavailable(format!("the map knows no address of {node}")));
        };
        let time = timeout.min(self.attempt_timeout);
        limited(time, endpoint.status(time), false).await
    }

    /// Asks for the map, unless somebody has since `seen`. Callers who come together ask once.
    pub(crate) async fn refresh(&self, attempts: &Attempts, seen: u64) -> Result<(), CallError> {
        let Ok(_one) = tokio::time::timeout_at(attempts.deadline, self.map.refreshing.lock()).await else {
            return Err(attempts.expired());
        };
        let view = self.map.view();
        if view.generation > seen {
            return Ok(());
        }
        let mut everyone = self.peers.everyone(&view.map);
        if view.generation > 0 && !everyone.is_empty() {
            // Not always the same one: it may be the one that is behind.
            let turn = self.pace.pick(everyone.len());
            everyone.rotate_left(turn);
        }
        everyone.sort_by_key(|endpoint| !endpoint.is_reachable());
        let mut last = CallError::unavailable("no address is known; give the client at least one");
        for endpoint in everyone {
            let time = self.attempt_time(attempts)?;
            match limited(time, endpoint.map(time), false).await {
                Ok(map) if map.partitions.is_empty() => {
                    last = CallError::unavailable("the cluster has no partitions yet: it is being created");
                }
                Ok(map) => {
                    self.map.install(map);
                    self.peers.keep_only(&self.map.view().map);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// How a loop goes on after an error.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Try again.
    Again,
    /// The store does not know the session (any more).
    NewSession(SessionId),
}

/// An endpoint's answer, cut off if the endpoint breaks its promise to end in time.
async fn limited<T>(time: Duration, answer: impl Future<Output = Result<T, CallError>>, applies: bool) -> Result<T, CallError> {
    match tokio::time::timeout(time + GRACE, answer).await {
        Ok(result) => result,
        Err(_) if applies => Err(CallError::ambiguous(format!("the node did not answer within {time:?}"))),
        Err(_) => Err(CallError::unavailable(format!("the node did not answer within {time:?}"))),
    }
}

fn dedup(nodes: &mut Vec<NodeId>) {
    let mut kept = Vec::with_capacity(nodes.len());
    nodes.retain(|node| {
        let new = !kept.contains(node);
        if new {
            kept.push(*node);
        }
        new
    });
}
