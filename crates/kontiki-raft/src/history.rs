//! Forgetting old versions. Every write adds a version of its key; for a stated time all of them can be read, then only the newest counts and the
//! room of the others is given back.
//!
//! ```text
//!   every so often
//!     on the leader   horizon <- what was written longer ago than the retention      an entry of the log: all replicas refuse the same
//!     on every node   flush, so that the horizons are durable
//!                     for each replica, part by part (64 MiB): a sample of its records; much of it dead? compact that part
//! ```
//!
//! Compactions that the engine begins by itself drop what is below the horizon too; but they come with writes. Without this loop the
//! versions of a data set that was overwritten and then left alone would stay for ever.
//!
//! **Invariant:** only the log moves a horizon. This loop decides when, and where it is worth rewriting files; it never decides what may be read.

use std::sync::Weak;
use std::time::Duration;

use kontiki_storage::engine::Part;
use kontiki_storage::schema;
use kontiki_types::{CallError, ClockKind, Command, Error, ErrorKind, Fault, Reply, Version, limits};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::compaction::Ages;
use crate::exec::run_blocking;
use crate::group::{Group, unexpected};
use crate::groups::Groups;

/// Old versions are kept for at most so much longer than the retention: one part in eight.
const ROUNDS_PER_RETENTION: u64 = 8;
/// However short the retention is.
const ROUND_MS_MIN: u64 = 1000;
/// However long it is.
const ROUND_MS_MAX: u64 = 5 * 60 * 1000;
/// What is rewritten at once: a second's work, so that a node that stops need not wait for long.
const PART_BYTES: u64 = 64 * 1024 * 1024;
/// Records of a part that are looked at: some 100 KiB of it.
const SAMPLE_RECORDS: usize = 512;
/// Parts that are looked at in a round; the next round goes on behind them. 16 GiB of data.
const PARTS_PER_ROUND: usize = 256;
/// A part is rewritten when at least one byte in so many is dead: each byte that is rewritten gives back a third or more.
const DEAD_FRACTION: u64 = 4;

/// How long old versions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// How long a version can be read after a newer one took its place, in ms: by snapshots, scans and incremental backups that began
    /// before. The same on every node; of a partition, its leader's counts. Default one hour.
    pub retention_ms: u64,
    /// Less room than this in a part of a partition is not worth a compaction. Default 4 MiB.
    pub reclaim_bytes_min: u64,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self { retention_ms: limits::RETENTION_MS, reclaim_bytes_min: 4 * 1024 * 1024 }
    }
}

impl HistoryOptions {
    /// Checks the bounds. `ErrorKind::Config` names what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let (given, least) = (self.retention_ms, limits::RETENTION_MS_MIN);
        if given >= least {
            return Ok(());
        }
        let message =
            format!("retention is {given} ms; give it at least {least}: scans and backups read at one version for as long");
        Err(Error::new(ErrorKind::Config, message))
    }

    fn round(&self) -> Duration {
        Duration::from_millis((self.retention_ms / ROUNDS_PER_RETENTION).clamp(ROUND_MS_MIN, ROUND_MS_MAX))
    }
}

/// Forgets until the groups are gone.
pub(crate) async fn run(groups: Weak<Groups>, stopping: CancellationToken) {
    let mut keeper = Keeper::default();
    // The first ones soon, and closer to each other: the process before this one may have left much, and the first leaders take their time.
    let mut wait = Duration::from_millis(ROUND_MS_MIN);
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = stopping.cancelled() => return,
        }
        let Some(groups) = groups.upgrade() else { return };
        wait = groups.history().round().min(wait * 2);
        tokio::select! {
            () = keeper.round(&groups) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// What is remembered from round to round.
#[derive(Default)]
struct Keeper {
    /// Where clocks that count writes stood a while ago.
    ages: Ages,
    /// The horizons at the last flush.
    flushed: Version,
    /// How many parts the last rounds have looked at, of all that there are.
    next_part: usize,
}

impl Keeper {
    async fn round(&mut self, groups: &Groups) {
        for group in groups.all() {
            self.advance(groups, &group).await;
        }
        self.ages.keep_only(groups);
        if let Err(fault) = self.reclaim(groups).await {
            tracing::warn!(%fault, "old versions were not removed from disk; it is tried again");
        }
    }

    /// Raises the horizon of a partition that is led here.
    async fn advance(&mut self, groups: &Groups, group: &Group) {
        let (reader, retention_ms) = (group.reader(), groups.history().retention_ms);
        let clock = reader.clock();
        // Also where another node leads: this one may be the next.
        let age = Duration::from_millis(retention_ms);
        let counted = Version(self.ages.older_than(group.partition(), clock.0, Instant::now(), age));
        let target = match reader.descriptor().clock {
            ClockKind::Hybrid => Version::from_ms(groups.wall_ms().saturating_sub(retention_ms)),
            ClockKind::Counter => counted,
        };
        if !group.is_leader() || target.min(clock) <= reader.horizon() {
            return;
        }
        if let Err(error) = group.advance_horizon(target).await {
            tracing::debug!(partition = %group.partition(), %error, "the horizon was not moved; it is tried again");
        }
    }

    /// Rewrites what is mostly dead.
    async fn reclaim(&mut self, groups: &Groups) -> Result<(), Fault> {
        let newest = groups.all().iter().map(|group| group.reader().horizon()).max().unwrap_or(Version::ZERO);
        if newest > self.flushed {
            // Compactions rely on horizons that cannot be lost any more.
            groups.flush().await?;
            self.flushed = newest;
        }
        let mut parts = Vec::new();
        for group in groups.all() {
            let range = schema::data(&group.descriptor().range);
            let engine = groups.engine().clone();
            parts.extend(blocking(groups, move || engine.parts(&range.0, &range.1, PART_BYTES)).await?);
        }
        let (many, least) = (parts.len(), groups.history().reclaim_bytes_min);
        let begin = if self.next_part < many { self.next_part } else { 0 };
        let round = parts.into_iter().enumerate().skip(begin).take(PARTS_PER_ROUND);
        for (at, part) in round {
            self.next_part = at + 1;
            if part.bytes >= least {
                reclaim_part(groups, part, least).await?;
            }
        }
        Ok(())
    }
}

async fn reclaim_part(groups: &Groups, part: Part, least: u64) -> Result<(), Fault> {
    let engine = groups.engine().clone();
    let rewritten = blocking(groups, move || {
        let dead = engine.sample(&part.from, &part.to, SAMPLE_RECORDS)?.dead_of(part.bytes);
        if dead < least.max(part.bytes / DEAD_FRACTION) {
            return Ok(None);
        }
        engine.compact(&part.from, &part.to)?;
        Ok(Some((part.bytes, dead)))
    });
    if let Some((bytes, dead)) = rewritten.await? {
        tracing::info!(bytes, dead, "a part of the data was rewritten, of which much was old versions");
        groups.note_reclaim();
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    groups: &Groups,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let gone = || Fault::io("removing old versions", std::io::Error::other("the executor has stopped"));
    run_blocking(groups.exec(), work).await.ok_or_else(gone)?
}

impl Group {
    /// Raises the partition's horizon, at most to its clock, and returns it: versions below it are refused from now on, on every replica.
    pub(crate) async fn advance_horizon(&self, to: Version) -> Result<Version, CallError> {
        self.check_leads()?;
        match self.propose(Command::AdvanceHorizon { to }).await? {
            Reply::Horizon(horizon) => Ok(horizon),
            other => Err(unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_the_retention_within_bounds() {
        let round = |retention_ms| HistoryOptions { retention_ms, ..HistoryOptions::default() }.round().as_millis();
        assert_eq!([1000, 80_000, 3_600_000, u64::MAX].map(round), [1000, 10_000, 300_000, 300_000]);
    }

    #[test]
    fn a_retention_that_keeps_nothing_is_refused_with_its_value() {
        assert!(HistoryOptions::default().check().is_ok());
        for retention_ms in [0, 999] {
            let error = HistoryOptions { retention_ms, ..HistoryOptions::default() }.check().expect_err("too short");
            assert!(error.to_string().contains(&format!("retention is {retention_ms} ms; give it at least 1000")), "{error}");
        }
    }
}
