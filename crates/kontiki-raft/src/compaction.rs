//! Keeping the log short. What all replicas have, or will get by a snapshot, need not be kept; what this node's engine has flushed need
//! not be replayed. Each node trims its own log, on leaders and followers alike.
//!
//! ```text
//!   every second, for each group: over its bytes, entries or age? pinning an old segment of a log that is over its size?
//!       └─> upto = min(applied, what every close follower has, where a snapshot that is being sent ends)
//!             ONE flush of the engine for all of them ──> openraft is told (snapshot) ──> and may forget (purge upto)
//! ```
//!
//! **Invariant:** nothing is purged that is not both applied and flushed here: `purged <= durable <= applied`, so that a restart finds in
//! the log whatever the engine has lost.
//!
//! **Invariant:** an idle group does not keep the node's log from being recycled: what it has is trimmed when its segment is among the oldest
//! of a log that grows too large.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use futures::future::join_all;
use kontiki_storage::log::Footprint;
use kontiki_types::{CallError, Error, ErrorKind, PartitionId};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::group::Group;
use crate::groups::Groups;
use crate::type_config::TypeConfig;

/// A follower that has not answered for this long holds nothing back: it gets a snapshot when it is back.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// What trimming by size leaves of what is allowed, as a divisor: so that it is seldom, and a follower that was away for a moment
/// finds what it missed.
const KEEP_FRACTION: u64 = 4;
/// A follower that lags by more entries than this holds nothing back once the node's log is over its size.
const LAG_MAX_PRESSED: u64 = 1024;
/// A snapshot on its way holds the log up to this many times its size: without what came since, the snapshot would be of no use.
const TRANSFER_PATIENCE: u64 = 4;
/// openraft answers at once; a replica that has stopped does not.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// How much of the log is kept. Beyond any of these bounds a group's log is trimmed, as far as nobody needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRetention {
    /// Bytes of one group's entries. Default 64 MiB.
    pub bytes_per_group: u64,
    /// Entries of one group: each takes about 20 bytes of memory. Default 100,000.
    pub entries_per_group: u64,
    /// Entries older than this, in ms, roughly (up to twice as old). Default 10 min.
    pub age_ms: u64,
    /// Bytes of the node's log files. From half of it on, groups that pin the oldest ones are trimmed. Default 1 GiB.
    pub node_bytes: u64,
    /// How often is looked, in ms. Default 1 s.
    pub every_ms: u64,
}

impl Default for LogRetention {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self { bytes_per_group: 64 * mib, entries_per_group: 100_000, age_ms: 600_000, node_bytes: 1024 * mib, every_ms: 1000 }
    }
}

impl LogRetention {
    /// Checks that there is something left to keep. `ErrorKind::Config` names what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let least = [
            ("bytes_per_group", self.bytes_per_group, 1024),
            ("entries_per_group", self.entries_per_group, 16),
            ("age_ms", self.age_ms, 1000),
            ("node_bytes", self.node_bytes, 1024),
            ("every_ms", self.every_ms, 1),
        ];
        match least.into_iter().find(|(_, value, least)| value < least) {
            Some((name, value, least)) => {
                let message = format!("log_retention.{name} is {value}; give it {least} or more");
                Err(Error::new(ErrorKind::Config, message))
            }
            None => Ok(()),
        }
    }
}

/// How full the node's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pressure {
    size_bytes: u64,
    /// The oldest and the newest segment.
    segments: (u64, u64),
}

/// What is wanted of one group: everything before `upto` (exclusive) may go.
struct Trim {
    group: Group,
    upto: u64,
}

/// Trims until the groups are gone.
pub(crate) async fn run(groups: Weak<Groups>, stopping: CancellationToken) {
    let mut ages = Ages::default();
    loop {
        let Some(every) = groups.upgrade().map(|groups| Duration::from_millis(groups.retention().every_ms)) else { return };
        tokio::select! {
            () = sleep(every) => {}
            () = stopping.cancelled() => return,
        }
        let Some(groups) = groups.upgrade() else { return };
        tokio::select! {
            () = tick(&groups, &mut ages) => {}
            () = stopping.cancelled() => return,
        }
    }
}

async fn tick(groups: &Groups, ages: &mut Ages) {
    let (retention, log) = (groups.retention(), groups.log_reader());
    let pressure = Pressure { size_bytes: log.size_bytes(), segments: log.segment_range().unwrap_or_default() };
    let mut trims = Vec::new();
    for group in groups.all() {
        let partition = group.partition();
        let Some(kept) = log.footprint(partition) else { continue };
        let next = kept.first + kept.entries;
        let old = ages.older_than(partition, next, Instant::now(), Duration::from_millis(retention.age_ms));
        let tail = || log.tail_start(partition, retention.bytes_per_group / KEEP_FRACTION).unwrap_or(kept.first);
        let wanted = wanted(retention, pressure, &kept, old, tail);
        if wanted <= kept.first {
            continue;
        }
        let transfer = groups.transfer_floor(partition);
        let upto = wanted.min(needed_from(&group, retention, pressure, transfer));
        if upto > kept.first {
            trims.push(Trim { group, upto });
        }
    }
    ages.keep_only(groups);
    let resume_within = groups.snapshots().options.resume_within();
    for group in groups.all() {
        group.outgoing().sweep(resume_within);
        group.incoming().sweep(resume_within);
    }
    for trimmed in trim(groups, trims).await {
        match trimmed {
            Ok(()) => groups.note_trim(),
            Err(error) => tracing::warn!(%error, "a log was not trimmed; it is tried again"),
        }
    }
}

/// From which entry on a group's log should be kept, by what is allowed alone.
fn wanted(retention: &LogRetention, pressure: Pressure, kept: &Footprint, old: u64, tail: impl FnOnce() -> u64) -> u64 {
    let next = kept.first + kept.entries;
    let (oldest, newest) = pressure.segments;
    let among_oldest = kept.segment <= oldest + (newest - oldest) / 2 && kept.segment < newest;
    if pressure.size_bytes > retention.node_bytes || (pressure.size_bytes > retention.node_bytes / 2 && among_oldest) {
        return next;
    }
    let mut wanted = old;
    if kept.bytes > retention.bytes_per_group {
        wanted = wanted.max(tail());
    }
    if kept.entries > retention.entries_per_group {
        wanted = wanted.max(next - retention.entries_per_group / KEEP_FRACTION);
    }
    wanted
}

/// From which entry on somebody needs a group's log: this replica, to apply it; followers that are close; a snapshot on its way.
fn needed_from(group: &Group, retention: &LogRetention, pressure: Pressure, transfer: Option<u64>) -> u64 {
    let applied_next = group.places().applied().0.map_or(0, |id| id.index + 1);
    let mut needed = applied_next;
    if pressure.size_bytes <= retention.node_bytes.saturating_mul(TRANSFER_PATIENCE) {
        needed = needed.min(transfer.unwrap_or(u64::MAX));
    }
    let pressed = pressure.size_bytes > retention.node_bytes;
    let lag_max = if pressed { LAG_MAX_PRESSED } else { retention.entries_per_group };
    let watched = group.raft().metrics();
    let metrics = watched.borrow_watched();
    for (id, matched) in metrics.replication.iter().flatten() {
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id)).and_then(Option::as_ref);
        let alive = heard.is_some_and(|at| openraft::Instant::elapsed(&**at) < SILENT_AFTER);
        let follower_next = matched.as_ref().map_or(0, |id| id.index + 1);
        if alive && applied_next.saturating_sub(follower_next) <= lag_max {
            needed = needed.min(follower_next);
        }
    }
    needed
}

/// Trims some logs with one flush. One answer for each, in order.
async fn trim(groups: &Groups, trims: Vec<Trim>) -> Vec<Result<(), CallError>> {
    if trims.is_empty() {
        return Vec::new();
    }
    let applied: Vec<_> = trims.iter().map(|trim| trim.group.places().applied()).collect();
    if let Err(fault) = groups.flush().await {
        return vec![Err(CallError::unavailable(format!("the engine could not be flushed: {fault}")))];
    }
    let told = trims.iter().zip(applied).map(async |(Trim { group, upto }, applied)| {
        group.places().set_durable(applied);
        group.forget_before(*upto).await
    });
    join_all(told).await
}

impl Group {
    /// Lets openraft forget the entries before `next`, of those that are durable in the engine.
    async fn forget_before(&self, next: u64) -> Result<(), CallError> {
        let Some(durable) = self.places().durable().0 else { return Ok(()) };
        let Some(last) = next.min(durable.index + 1).checked_sub(1) else { return Ok(()) };
        let raft = self.raft();
        raft.trigger().snapshot().await.map_err(|fatal| self.stopped(&fatal))?;
        // openraft purges nothing beyond the snapshot that it knows of, and it learns of this one in a moment.
        let waiting = raft.wait(Some(TELL_WITHIN));
        let known = waiting.metrics(|metrics| metrics.snapshot.is_some_and(|at| at.index >= last), "a snapshot").await;
        known.map_err(|error| self.stopped(&error))?;
        raft.trigger().purge_log(last).await.map_err(|fatal| self.stopped(&fatal))
    }

    /// Makes the log begin later than with its first entry, so that whoever joins begins with a snapshot.
    pub async fn ensure_log_trimmed(&self) -> Result<(), CallError> {
        let purged = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.purged.is_some();
        if purged(&self.raft().metrics().borrow_watched()) {
            return Ok(());
        }
        let applied = self.places().applied();
        let flushed = self.flush().flush().await;
        flushed.map_err(|fault| CallError::unavailable(format!("the engine could not be flushed: {fault}")))?;
        let Some(last) = applied.0 else {
            return Err(CallError::unavailable(format!("{} has applied nothing yet; ask again", self.partition())));
        };
        self.places().set_durable(applied);
        // Everything that the followers have may go; one entry is enough.
        let followers = self.membership().next.into_values().filter(|next| *next > 0).min().unwrap_or(1);
        self.forget_before(followers.clamp(1, last.index + 1)).await?;
        let raft = self.raft();
        match raft.wait(Some(TELL_WITHIN)).metrics(purged, "a trimmed log").await {
            Ok(_) => Ok(()),
            Err(_) => Err(CallError::unavailable(format!("the log of {} could not be trimmed yet; ask again", self.partition()))),
        }
    }
}

/// How old something of a group is that only grows, roughly: where it ended at some moment. Here its log.
#[derive(Default)]
pub(crate) struct Ages {
    marks: HashMap<PartitionId, (Instant, u64)>,
}

impl Ages {
    /// Where it ended at least `age` ago; 0 if that is not known.
    pub(crate) fn older_than(&mut self, partition: PartitionId, next: u64, now: Instant, age: Duration) -> u64 {
        let (since, mark) = *self.marks.entry(partition).or_insert((now, next));
        if now.saturating_duration_since(since) < age {
            return 0;
        }
        self.marks.insert(partition, (now, next));
        mark
    }

    /// Forgets the groups that are gone.
    pub(crate) fn keep_only(&mut self, groups: &Groups) {
        self.marks.retain(|partition, _| groups.get(*partition).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Footprint = Footprint { first: 100, entries: 50, bytes: 5000, segment: 7 };

    fn retention() -> LogRetention {
        LogRetention { bytes_per_group: 10_000, entries_per_group: 100, age_ms: 1000, node_bytes: 100_000, every_ms: 10 }
    }

    fn pressure(size_bytes: u64) -> Pressure {
        Pressure { size_bytes, segments: (6, 12) }
    }

    #[test]
    fn each_bound_trims_for_itself() {
        let bounds = retention();
        let want = |pressure, kept: &Footprint, old| wanted(&bounds, pressure, kept, old, || 140);
        assert_eq!(want(pressure(1000), &KEPT, 0), 0, "nothing is over");
        assert_eq!(want(pressure(1000), &KEPT, 120), 120, "too old");
        assert_eq!(want(pressure(1000), &Footprint { bytes: 10_001, ..KEPT }, 120), 140, "too large: the tail stays");
        assert_eq!(want(pressure(1000), &Footprint { entries: 101, ..KEPT }, 0), 201 - 25, "too many");
        assert_eq!(want(pressure(50_001), &KEPT, 0), 150, "among the oldest of a log that is half full");
        assert_eq!(want(pressure(50_001), &Footprint { segment: 10, ..KEPT }, 0), 0, "not among the oldest");
        assert_eq!(want(pressure(100_001), &Footprint { segment: 12, ..KEPT }, 0), 150, "the log is over its size");
    }

    #[test]
    fn ages_are_told_from_where_the_log_ended_then() {
        let (mut ages, age, p) = (Ages::default(), Duration::from_secs(10), PartitionId(2));
        let start = Instant::now();
        let mut at = |seconds, next| ages.older_than(p, next, start + Duration::from_secs(seconds), age);
        assert_eq!(at(0, 50), 0);
        assert_eq!(at(9, 80), 0);
        assert_eq!(at(10, 90), 50, "what was there ten seconds ago");
        assert_eq!(at(20, 95), 90);
    }

    #[test]
    fn a_retention_that_keeps_nothing_is_refused_by_name() {
        assert!(LogRetention::default().check().is_ok());
        let error = LogRetention { entries_per_group: 1, ..LogRetention::default() }.check().expect_err("too few");
        assert!(error.to_string().contains("entries_per_group is 1"), "{error}");
    }
}
