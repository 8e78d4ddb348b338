//! Reading, beside apply and without its lock: a reader takes the published clock once and reads everything at that version, so the
//! keys of one call are of one moment.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::read::{Changes, ReadData, Scan};
use kontiki_types::{CallError, Descriptor, KeyRange, Read, ReadReply, Reject, Retry, Row, Version, limits};
use parking_lot::{RwLock, RwLockWriteGuard};

use super::State;
use crate::engine::Engine;
use crate::mvcc;

/// What readers see of the state: set after each engine batch, all of it at once.
pub(super) struct Published {
    view: RwLock<View>,
    /// Held by each reader while it reads, and alone by whoever replaces the data under them.
    gate: RwLock<()>,
}

#[derive(Clone)]
struct View {
    descriptor: Arc<Descriptor>,
    clock: Version,
    horizon: Version,
    applied_index: u64,
}

impl View {
    fn of(state: &State) -> Self {
        let State { descriptor, clock, horizon, applied_index, .. } = state;
        Self { descriptor: Arc::clone(descriptor), clock: *clock, horizon: *horizon, applied_index: *applied_index }
    }
}

impl Published {
    pub(super) fn new(state: &State) -> Self {
        Self { view: RwLock::new(View::of(state)), gate: RwLock::new(()) }
    }

    pub(super) fn publish(&self, state: &State) {
        *self.view.write() = View::of(state);
    }

    /// Keeps readers out while the data that they would read is replaced.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }

    fn view(&self) -> View {
        self.view.read().clone()
    }
}

/// Reads one replica, as far as it has applied. Whether that is far enough is the caller's business (read levels).
#[derive(Clone)]
pub struct MachineReader {
    engine: Arc<dyn Engine>,
    published: Arc<Published>,
}

impl std::fmt::Debug for MachineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineReader").field("descriptor", &self.descriptor()).finish_non_exhaustive()
    }
}

impl MachineReader {
    pub(super) fn new(engine: Arc<dyn Engine>, published: Arc<Published>) -> Self {
        Self { engine, published }
    }

    /// The descriptor in force.
    pub fn descriptor(&self) -> Arc<Descriptor> {
        self.published.view().descriptor
    }

    /// The version of the newest write applied, or what the clock was advanced to.
    pub fn clock(&self) -> Version {
        self.published.view.read().clock
    }

    /// The oldest version that may be read.
    pub fn horizon(&self) -> Version {
        self.published.view.read().horizon
    }

    /// The index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.published.view.read().applied_index
    }

    /// Reads at a version, or at the newest. The clock of the reply is that of the moment of the read; `age_ms` is 0, for the caller
    /// to set.
    ///
    /// Rejects: `TooLarge` or `Invalid` (see `limits::check_read`; `TooLarge` also for what a batch get would answer), `StaleEpoch` if a key lies elsewhere, `VersionInFuture` if the clock
    /// has not reached the version, `VersionTooOld` if its history (or that since `Changes::after`) may be gone. `Unavailable` for the
    /// moment in which a snapshot is installed.
    pub fn read(&self, read: &Read, at: Option<Version>) -> Result<ReadReply, CallError> {
        limits::check_read(read)?;
        let Some(_open) = self.published.gate.try_read() else {
            let reason = "this replica is being replaced by a snapshot; ask again, or another replica".to_owned();
            return Err(Retry::Unavailable { reason }.into());
        };
        let view = self.published.view();
        if !holds(&view.descriptor.range, read) {
            let descriptors = vec![Descriptor::clone(&view.descriptor)];
            return Err(Reject::StaleEpoch { partition: view.descriptor.id, descriptors }.into());
        }
        let at = version_to_read(&view, at)?;
        let data = match read {
            Read::Clock => ReadData::Clock,
            Read::Get { keys } => ReadData::Values(self.values(keys, at)?),
            Read::Scan(scan) => {
                let (rows, resume) = mvcc::page(&*self.engine, scan, at)?;
                ReadData::Page { rows, resume }
            }
            Read::Changes(asked) => {
                check_horizon(asked.after, view.horizon)?;
                let (changes, resume) = mvcc::changes(&*self.engine, asked, at)?;
                ReadData::Changes { changes, resume }
            }
        };
        // If the horizon passed the version meanwhile, the last of the reads may have met what a compaction left.
        check_horizon(at, self.horizon())?;
        Ok(ReadReply { clock: view.clock, age_ms: 0, data })
    }

    /// The keys' rows. Stops as soon as the answer would be too large: a few keys may name gigabytes.
    fn values(&self, keys: &[Bytes], at: Version) -> Result<Vec<Option<Row>>, CallError> {
        let mut rows = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let row = mvcc::value_at(&*self.engine, key, at)?.map(|(version, value)| Row { key: key.clone(), value, version });
            bytes += row.as_ref().map_or(0, |row| row.key.len() + row.value.len());
            limits::check_batch_get_answer(bytes)?;
            rows.push(row);
        }
        Ok(rows)
    }
}

fn holds(own: &KeyRange, read: &Read) -> bool {
    match read {
        Read::Clock => true,
        Read::Get { keys } => keys.iter().all(|key| own.contains(key)),
        Read::Scan(Scan { range, .. }) | Read::Changes(Changes { range, .. }) => own.contains_range(range),
    }
}

fn version_to_read(view: &View, at: Option<Version>) -> Result<Version, Reject> {
    let Some(version) = at else { return Ok(view.clock) };
    if version > view.clock {
        return Err(Reject::VersionInFuture { version, newest: view.clock });
    }
    check_horizon(version, view.horizon)?;
    Ok(version)
}

fn check_horizon(version: Version, oldest: Version) -> Result<(), Reject> {
    if version < oldest { Err(Reject::VersionTooOld { version, oldest }) } else { Ok(()) }
}
