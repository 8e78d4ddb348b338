//! The engine in memory: an ordered map behind the same trait, for tests and mass simulation. It models a power cut more
//! sharply than a real disk does: [`MemoryEngine::crash`] keeps any prefix of the batches that were not flushed, by a coin of the
//! caller's.
//!
//! ```text
//!   write ─► live map + list of unflushed batches        crash(coin): durable map + the first coin % (n + 1) batches
//!   flush ─► durable map, list emptied
//!   stage ─► rows of its own; install: flush, then ranges replaced in both maps under both locks
//! ```

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::Fault;
use parking_lot::{Mutex, RwLock};

use super::horizons::Pin;
use super::stage::Ranges;
use super::{Batch, Change, Cursor, Engine, EngineStats, Horizons, Part, Sample, Stage, View, garbage};

type Map = BTreeMap<Bytes, Bytes>;

/// Unflushed bytes beyond which the oldest batches become durable by themselves, as when a memtable is full: bounds the list.
const UNFLUSHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
}

/// What the engine and its stages share.
#[derive(Debug, Default)]
struct Shared {
    /// What reads see. Copied on write only while a cursor holds it.
    live: RwLock<Arc<Map>>,
    /// What survives a crash. Locked before `live`, always.
    disk: Mutex<Disk>,
    horizons: Arc<Horizons>,
}

#[derive(Debug, Default)]
struct Disk {
    durable: Map,
    unflushed: std::collections::VecDeque<Batch>,
    unflushed_bytes: usize,
    /// The next write or flush fails with this.
    fail_next: Option<io::ErrorKind>,
}

impl Disk {
    fn fail(&mut self, action: &str) -> Result<(), Fault> {
        match self.fail_next.take() {
            Some(kind) => Err(Fault::io(action, io::Error::from(kind))),
            None => Ok(()),
        }
    }

    /// Makes the oldest unflushed batch durable. Returns whether there was one.
    fn settle_one(&mut self) -> bool {
        let Some(batch) = self.unflushed.pop_front() else { return false };
        self.unflushed_bytes -= batch.size_bytes();
        apply(&mut self.durable, &batch);
        true
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for change in batch.changes() {
        match change {
            Change::Put { key, value } => map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
            Change::Delete { key } => map.remove(key),
        };
    }
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A power cut: of the batches that were not flushed only the first `coin % (n + 1)` are kept. Returns how many of them were
    /// lost. Whoever used the engine before must have been dropped.
    pub fn crash(&self, coin: u64) -> usize {
        let mut disk = self.shared.disk.lock();
        let kept = (coin % (disk.unflushed.len() as u64 + 1)) as usize;
        for _ in 0..kept {
            disk.settle_one();
        }
        let lost = disk.unflushed.len();
        disk.unflushed.clear();
        disk.unflushed_bytes = 0;
        disk.fail_next = None;
        *self.shared.live.write() = Arc::new(disk.durable.clone());
        lost
    }

    /// The engine as the next process finds it: what is durable here, and nothing that was only in the memory of this one, such as horizons that
    /// were announced.
    pub fn reopened(&self) -> Arc<Self> {
        let durable = self.shared.disk.lock().durable.clone();
        let live = RwLock::new(Arc::new(durable.clone()));
        let disk = Mutex::new(Disk { durable, ..Disk::default() });
        Arc::new(Self { shared: Arc::new(Shared { live, disk, ..Shared::default() }) })
    }

    /// The next write or flush fails with an I/O error of this kind and changes nothing.
    pub fn fail_next(&self, kind: io::ErrorKind) {
        self.shared.disk.lock().fail_next = Some(kind);
    }

    /// Takes back a failure that was asked for and has not come.
    pub fn fail_no_more(&self) {
        self.shared.disk.lock().fail_next = None;
    }

    /// Batches written and not yet flushed.
    pub fn unflushed(&self) -> usize {
        self.shared.disk.lock().unflushed.len()
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: &Batch) -> Result<(), Fault> {
        let mut disk = self.shared.disk.lock();
        disk.fail("writing a batch to memory")?;
        disk.unflushed_bytes += batch.size_bytes();
        disk.unflushed.push_back(batch.clone());
        while disk.unflushed_bytes > UNFLUSHED_BYTES_MAX && disk.settle_one() {}
        apply(Arc::make_mut(&mut *self.shared.live.write()), batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), Fault> {
        let told = self.shared.horizons.flushing();
        let mut disk = self.shared.disk.lock();
        disk.fail("flushing memory")?;
        while disk.settle_one() {}
        self.shared.horizons.flushed(told);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.shared.live.read().get(key).cloned())
    }

    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let map = self.shared.live.read();
        let found = map.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).next();
        Ok(found.filter(|(key, _)| to.is_empty() || key.as_ref() < to).map(|(key, value)| (key.clone(), value.clone())))
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        Ok(Box::new(MemoryCursor::new(Arc::clone(&self.shared.live.read()), from, to)))
    }

    fn view(&self) -> Arc<dyn View> {
        let (map, pin) = self.shared.horizons.pin(|| Arc::clone(&self.shared.live.read()));
        Arc::new(MemoryView { map, _horizons: pin })
    }

    fn stage(&self) -> Result<Box<dyn Stage>, Fault> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(MemoryStage { shared, ranges: Ranges::default(), rows: Map::new() }))
    }

    fn horizons(&self) -> &Horizons {
        &self.shared.horizons
    }

    fn parts(&self, from: &[u8], to: &[u8], part_bytes: u64) -> Result<Vec<Part>, Fault> {
        let disk = self.shared.disk.lock();
        let inside = disk.durable.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let inside = inside.take_while(|(key, _)| to.is_empty() || key.as_ref() < to);
        let records: Vec<_> = inside.map(|(key, value)| (key.to_vec(), (key.len() + value.len()) as u64)).collect();
        Ok(garbage::cut(from, to, &records, part_bytes))
    }

    fn sample(&self, from: &[u8], to: &[u8], records_max: usize) -> Result<Sample, Fault> {
        let mut cursor = self.cursor(from, to)?;
        Sample::take(&mut *cursor, from, &mut self.shared.horizons.sieve(), records_max)
    }

    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.flush()?;
        {
            let mut disk = self.shared.disk.lock();
            while disk.settle_one() {}
            let mut sieve = self.shared.horizons.sieve();
            let inside = |key: &[u8]| key >= from && (to.is_empty() || key < to);
            disk.durable.retain(|key, record| !(inside(key) && sieve.drops(key, record)));
            *self.shared.live.write() = Arc::new(disk.durable.clone());
        }
        self.shared.horizons.sweep(self)
    }

    fn stats(&self) -> EngineStats {
        let disk = self.shared.disk.lock();
        let live = Arc::clone(&self.shared.live.read());
        let data_bytes = live.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        EngineStats {
            records_estimate: live.len() as u64,
            data_bytes,
            unflushed_bytes: disk.unflushed_bytes as u64,
            compaction_debt_bytes: 0,
            stalled: false,
        }
    }
}

/// The map as it was.
struct MemoryView {
    map: Arc<Map>,
    /// A map that was copied needs no horizon held; RocksDB's view does, and both are to drop the same.
    _horizons: Pin,
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.map.get(key).cloned())
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        Ok(Box::new(MemoryCursor::new(Arc::clone(&self.map), from, to)))
    }
}

/// Rows that wait to be installed.
struct MemoryStage {
    shared: Arc<Shared>,
    ranges: Ranges,
    rows: Map,
}

impl Stage for MemoryStage {
    fn replace(&mut self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.ranges.begin(from, to).map(drop)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.ranges.admit(key)?;
        self.rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn install(self: Box<Self>) -> Result<(), Fault> {
        let Self { shared, ranges, rows } = *self;
        let ranges = ranges.finish()?;
        let _alone = shared.horizons.replacing();
        let told = shared.horizons.flushing();
        let mut disk = shared.disk.lock();
        disk.fail("installing rows in memory")?;
        while disk.settle_one() {}
        for (from, to) in &ranges {
            let range = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
            let gone: Vec<Bytes> = disk.durable.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
            gone.iter().for_each(|key| drop(disk.durable.remove(key)));
        }
        disk.durable.extend(rows);
        *shared.live.write() = Arc::new(disk.durable.clone());
        shared.horizons.flushed(told);
        Ok(())
    }
}

/// A cursor on the map as it was.
struct MemoryCursor {
    map: Arc<Map>,
    from: Vec<u8>,
    /// Empty for no bound.
    to: Vec<u8>,
    at: Option<(Bytes, Bytes)>,
}

impl MemoryCursor {
    fn new(map: Arc<Map>, from: &[u8], to: &[u8]) -> Self {
        Self { map, from: from.to_vec(), to: to.to_vec(), at: None }
    }

    fn forward(&mut self, from: Bound<&[u8]>) {
        let found = self.map.range::<[u8], _>((from, Bound::Unbounded)).next();
        self.at = found
            .filter(|(key, _)| self.to.is_empty() || key.as_ref() < self.to.as_slice())
            .map(|(key, value)| (key.clone(), value.clone()));
    }

    fn backward(&mut self, to: Bound<&[u8]>) {
        let found = self.map.range::<[u8], _>((Bound::Unbounded, to)).next_back();
        self.at = found.filter(|(key, _)| key.as_ref() >= self.from.as_slice()).map(|(key, value)| (key.clone(), value.clone()));
    }
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) -> Result<(), Fault> {
        let from = self.from.clone();
        self.forward(Bound::Included(key.max(&from)));
        Ok(())
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), Fault> {
        let to = self.to.clone();
        let bound = if to.is_empty() || key < to.as_slice() { Bound::Included(key) } else { Bound::Excluded(to.as_slice()) };
        self.backward(bound);
        Ok(())
    }

    fn next(&mut self) -> Result<(), Fault> {
        if let Some((key, _)) = self.at.take() {
            self.forward(Bound::Excluded(&key));
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<(), Fault> {
        if let Some((key, _)) = self.at.take() {
            self.backward(Bound::Excluded(&key));
        }
        Ok(())
    }

    fn valid(&self) -> bool {
        self.at.is_some()
    }

    fn key(&self) -> &[u8] {
        self.at.as_ref().map_or(&[], |(key, _)| key.as_ref())
    }

    fn value(&self) -> &[u8] {
        self.at.as_ref().map_or(&[], |(_, value)| value.as_ref())
    }
}
