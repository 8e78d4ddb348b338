//! The read loop. Reads change nothing, so they are repeated freely until the time is over.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use kontiki_types::read::{Changes, Scan};
use kontiki_types::{CallError, KeyRange, PartitionId, PartitionMap, Read, ReadLevel, ReadReply, Reject, Token, Version};

use super::write::{index_of, place_of_key, place_of_partition};
use super::{Aim, Attempts, Failure, Place, Router, Target, limited};

/// Times that one read may move a partition's clock forward before it gives up: once is enough unless the leader changes.
const CLOCK_MOVES_MAX: u32 = 4;

/// An answer, and who gave it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) partition: PartitionId,
    pub(crate) reply: ReadReply,
}

impl Served {
    /// What the caller has seen by this answer: at a snapshot, nothing newer than the snapshot.
    pub(crate) fn seen(&self, level: &ReadLevel) -> Version {
        match level {
            ReadLevel::Snapshot(version) => self.reply.clock.min(*version),
            _ => self.reply.clock,
        }
    }
}

fn aim_of(level: &ReadLevel) -> Aim {
    match level {
        ReadLevel::Linearizable => Aim::Leader,
        ReadLevel::AtLeast(_) | ReadLevel::BoundedStale { .. } => Aim::Any,
        ReadLevel::Snapshot(_) => Aim::Near,
    }
}

/// Only what the partition needs to know of a token.
fn level_for(level: &ReadLevel, partition: PartitionId) -> ReadLevel {
    match level {
        ReadLevel::AtLeast(token) => {
            let mut part = Token { cluster: token.cluster, ..Token::default() };
            if let Some(version) = token.seen.get(&partition) {
                part.observe(partition, *version);
            }
            ReadLevel::AtLeast(part)
        }
        level => level.clone(),
    }
}

impl Router {
    /// Keys of one partition. `Failure::Across` if they are not (any more).
    pub(crate) async fn get(&self, keys: &[Bytes], level: &ReadLevel, attempts: &mut Attempts) -> Result<Served, Failure> {
        let read = Read::Get { keys: keys.to_vec() };
        self.read(level, attempts, |map| {
            let Some((first, rest)) = keys.split_first() else { return Place::Nowhere };
            let Some(at) = index_of(map, first) else { return Place::Nowhere };
            let home = &map.partitions[at];
            match rest.iter().find(|key| !home.range.contains(key)) {
                None => Place::At(at, read.clone()),
                Some(other) => Place::Across(Reject::CrossPartition {
                    key_a: first.clone(),
                    first: home.id,
                    key_b: other.clone(),
                    second: index_of(map, other).map_or(home.id, |at| map.partitions[at].id),
                }),
            }
        })
        .await
    }

    /// One page at the near end of `scan.range`, from the partition that holds that end now.
    pub(crate) async fn page(
        &self,
        scan: &Scan,
        level: &ReadLevel,
        attempts: &mut Attempts,
    ) -> Result<(Served, KeyRange), Failure> {
        let cut = parking_lot::Mutex::new(KeyRange::default());
        let served = self
            .read(level, attempts, |map| {
                let Some(at) = near_end(map, scan) else { return Place::Nowhere };
                let range = scan.range.intersect(&map.partitions[at].range);
                *cut.lock() = range.clone();
                Place::At(at, Read::Scan(Scan { range, ..scan.clone() }))
            })
            .await?;
        Ok((served, cut.into_inner()))
    }

    /// One page of changes at the start of `changes.range`, from the partition that holds it now, at a version.
    pub(crate) async fn changes_page(
        &self,
        changes: &Changes,
        at: Version,
        attempts: &mut Attempts,
    ) -> Result<(Served, KeyRange), Failure> {
        let cut = parking_lot::Mutex::new(KeyRange::default());
        let served = self
            .read(&ReadLevel::Snapshot(at), attempts, |map| {
                let Some(home) = index_of(map, &changes.range.start) else { return Place::Nowhere };
                let range = changes.range.intersect(&map.partitions[home].range);
                *cut.lock() = range.clone();
                Place::At(home, Read::Changes(Changes { range, ..changes.clone() }))
            })
            .await?;
        Ok((served, cut.into_inner()))
    }

    /// The clock of the partition that holds `key`.
    pub(crate) async fn clock_at(&self, key: &[u8], level: &ReadLevel, timeout: Duration) -> Result<Served, CallError> {
        let mut attempts = Attempts::new(timeout);
        let place = |map: &PartitionMap| match place_of_key(map, key) {
            Place::At(at, ()) => Place::At(at, Read::Clock),
            Place::Nowhere => Place::Nowhere,
            Place::Across(reject) => Place::Across(reject),
        };
        self.read(level, &mut attempts, place).await.map_err(Failure::into_call)
    }

    /// The clock of one partition.
    async fn clock(&self, partition: PartitionId, level: &ReadLevel, timeout: Duration) -> Result<Served, Failure> {
        let mut attempts = Attempts::new(timeout);
        let place = |map: &PartitionMap| match place_of_partition(map, partition) {
            Place::At(at, ()) => Place::At(at, Read::Clock),
            Place::Nowhere => Place::Nowhere,
            Place::Across(reject) => Place::Across(reject),
        };
        self.read(level, &mut attempts, place).await
    }

    /// One version for all partitions that `range` touches. `None` if it touches only one: its first page names the version.
    pub(crate) async fn snapshot_version(
        &self,
        range: &KeyRange,
        level: &ReadLevel,
        timeout: Duration,
    ) -> Result<Option<Version>, CallError> {
        if shape(&self.map.view().map, range).len() == 1 {
            return Ok(None);
        }
        self.common_version(range, level, timeout).await.map(Some)
    }

    /// One version for all partitions that `range` touches: the highest of their clocks, to which the others are then moved, so that
    /// the snapshot can never change again (DESIGN section 6).
    pub(crate) async fn common_version(
        &self,
        range: &KeyRange,
        level: &ReadLevel,
        timeout: Duration,
    ) -> Result<Version, CallError> {
        let mut attempts = Attempts::new(timeout);
        loop {
            let view = self.map.view();
            let touched = shape(&view.map, range);
            if touched.is_empty() {
                self.refresh_and_pause(&mut attempts, view.generation, "the map has no partition for the range yet").await?;
                continue;
            }
            let time = attempts.deadline.saturating_duration_since(tokio::time::Instant::now());
            let clocks = try_join_all(touched.iter().map(|(partition, _)| self.clock(*partition, level, time))).await;
            let clocks = match clocks {
                Ok(clocks) => clocks,
                // A partition is gone: look again.
                Err(Failure::Across(_)) => {
                    self.refresh_and_pause(&mut attempts, view.generation, "a partition of the range is gone").await?;
                    continue;
                }
                Err(Failure::Call(error)) => return Err(error),
            };
            if shape(&self.map.view().map, range) != touched {
                // Split in the meantime: a part's clock may be missing.
                let moved = Reject::StaleEpoch { partition: touched[0].0, descriptors: vec![] };
                self.regrouped(&mut attempts, moved).await?;
                continue;
            }
            let version = clocks.iter().map(|served| served.reply.clock).max().unwrap_or_default();
            let behind = clocks.iter().filter(|served| served.reply.clock < version).map(|served| served.partition);
            match try_join_all(behind.map(|partition| self.advance(partition, version, time))).await {
                Ok(_) => return Ok(version),
                Err(Failure::Across(_)) => {
                    self.refresh_and_pause(&mut attempts, view.generation, "a partition of the range is gone").await?;
                }
                Err(Failure::Call(error)) => return Err(error),
            }
        }
    }

    /// Moves one partition's clock to at least `to`.
    pub(crate) async fn advance(&self, partition: PartitionId, to: Version, timeout: Duration) -> Result<Version, Failure> {
        let mut attempts = Attempts::new(timeout);
        loop {
            let (target, ()) = self.target(&mut attempts, Aim::Leader, |map| place_of_partition(map, partition)).await?;
            let time = self.attempt_time(&attempts)?;
            attempts.made += 1;
            match limited(time, target.endpoint.advance_clock(target.route, to, time), false).await {
                Ok(clock) => {
                    self.succeeded(&attempts, &target, Aim::Leader);
                    return Ok(clock);
                }
                // Moving a clock twice does no harm.
                Err(error) => {
                    self.after(&mut attempts, &target, error, true, false).await?;
                }
            }
        }
    }

    /// As [`Router::advance`], for the partition that holds a key.
    pub(crate) async fn advance_at(
        &self,
        key: &[u8],
        to: Version,
        timeout: Duration,
    ) -> Result<(PartitionId, Version), CallError> {
        let mut attempts = Attempts::new(timeout);
        let (target, ()) =
            self.target(&mut attempts, Aim::Leader, |map| place_of_key(map, key)).await.map_err(Failure::into_call)?;
        let clock = self.advance(target.partition, to, timeout).await.map_err(Failure::into_call)?;
        Ok((target.partition, clock))
    }

    async fn read(
        &self,
        level: &ReadLevel,
        attempts: &mut Attempts,
        place: impl Fn(&PartitionMap) -> Place<Read>,
    ) -> Result<Served, Failure> {
        let mut aim = aim_of(level);
        let mut clock_moves = 0;
        loop {
            let (target, read) = self.target(attempts, aim, &place).await?;
            let time = self.attempt_time(attempts)?;
            attempts.made += 1;
            let asked = level_for(level, target.partition);
            let error = match limited(time, target.endpoint.read(target.route, asked, read, time), false).await {
                Ok(reply) => {
                    // Only a linearizable read proves who leads.
                    self.succeeded(attempts, &target, aim_of(level));
                    self.named(reply.clock);
                    return Ok(Served { partition: target.partition, reply });
                }
                Err(error) => error,
            };
            if let (ReadLevel::Snapshot(version), CallError::Reject(Reject::VersionInFuture { .. })) = (level, &error) {
                if aim != Aim::Leader && self.peers.local() == Some(target.node) {
                    // This replica is behind; the leader is not.
                    aim = Aim::Leader;
                    continue;
                }
                if clock_moves < CLOCK_MOVES_MAX {
                    clock_moves += 1;
                    self.reach(*version, &target, attempts).await?;
                    continue;
                }
            }
            self.after(attempts, &target, error, true, false).await?;
        }
    }

    /// The partition has not reached the version that is to be read. If another partition has (a reply has named the version), its
    /// clock is moved there: one number names a snapshot of the whole store. A version that nobody has named is refused; moving a clock
    /// to it would spend versions for nothing.
    async fn reach(&self, version: Version, target: &Target, attempts: &Attempts) -> Result<(), Failure> {
        let time = attempts.deadline.saturating_duration_since(tokio::time::Instant::now());
        if !self.is_named(version) {
            let users = target.view.map.partitions.iter().map(|descriptor| descriptor.id).filter(|id| *id != PartitionId::SYSTEM);
            let clocks = join_all(users.map(|partition| self.clock_boxed(partition, time))).await;
            let newest = clocks.iter().filter_map(|clock| clock.as_ref().ok().copied()).max().unwrap_or_default();
            if newest < version {
                // A partition that did not answer may be the one that named it.
                clocks.into_iter().collect::<Result<Vec<_>, _>>()?;
                return Err(CallError::from(Reject::VersionInFuture { version, newest }).into());
            }
        }
        self.advance(target.partition, version, time).await?;
        Ok(())
    }

    /// Boxed, because the read loop asks for clocks in the middle of a read.
    fn clock_boxed(&self, partition: PartitionId, time: Duration) -> futures::future::BoxFuture<'_, Result<Version, Failure>> {
        Box::pin(async move { Ok(self.clock(partition, &ReadLevel::Linearizable, time).await?.reply.clock) })
    }
}

/// The partitions that a range touches, and the epochs of their bounds.
fn shape(map: &PartitionMap, range: &KeyRange) -> Vec<(PartitionId, u64)> {
    map.overlapping(range).map(|descriptor| (descriptor.id, descriptor.epoch.bounds)).collect()
}

/// The index of the partition at the end of the range where the scan goes on.
fn near_end(map: &PartitionMap, scan: &Scan) -> Option<usize> {
    if !scan.reverse {
        return index_of(map, &scan.range.start);
    }
    let end = &scan.range.end;
    let at = match end.is_empty() {
        true => map.partitions.len(),
        false => map.partitions.partition_point(|descriptor| descriptor.range.start < *end),
    };
    let at = at.checked_sub(1)?;
    map.partitions[at].range.overlaps(&scan.range).then_some(at)
}
