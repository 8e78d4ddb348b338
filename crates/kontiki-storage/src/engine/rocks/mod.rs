//! The engine on disk: RocksDB, with one column family and no write-ahead log. The only folder that names RocksDB (DESIGN law 4).
//!
//! - *One column family*, because without a log only a single family comes back from a crash as one prefix of its writes
//!   (measured: with the applied position in a family of its own, 120 of 120 recoveries after `kill -9` disagreed with the data).
//! - *No write-ahead log*: the Raft log is the log. [`RocksEngine::flush`] is the barrier behind which that log may be purged.
//! - *A filter on the key part*: every version of a key shares one entry of the bloom filter, so that a point read at a version
//!   touches one data block, and a read of an absent key mostly none.
//!
//! Errors become faults: a full disk is told apart, and what RocksDB calls corruption is `Fault::Corrupt` (`errors`).

mod errors;
mod filter;
mod options;
mod stage;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kontiki_types::Fault;
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, FlushOptions, Options, ReadOptions, WriteBatch, WriteOptions};

use self::errors::fault;
pub use self::options::RocksOptions;
use self::stage::RocksStage;
use self::view::{RocksCursor, RocksView};
use super::{Batch, Change, Cursor, Engine, EngineStats, Horizons, Part, Sample, Stage, View, garbage};
use crate::schema;

/// See the module.
pub struct RocksEngine {
    store: Arc<Store>,
    /// How many stages there were.
    stages: AtomicU64,
}

/// The open database, shared with the views and stages of it: it is closed when the last of them is gone.
struct Store {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
    horizons: Arc<Horizons>,
    /// What staged tables are written with.
    staged_tables: Options,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine").field("path", &self.store.path).finish_non_exhaustive()
    }
}

impl RocksEngine {
    /// Opens the engine in a directory of its own, and creates it if the directory is empty or missing. A directory that is in use
    /// by another process, unreadable, or damaged gives a fault.
    pub fn open(path: &Path, options: RocksOptions) -> Result<Arc<Self>, Fault> {
        refuse_headless(path)?;
        let action = || format!("opening the data in {}", path.display());
        let mut options = options::database(&options).map_err(|error| fault(action(), path, error))?;
        let horizons = Arc::new(Horizons::default());
        options.set_compaction_filter_factory(filter::Filters(Arc::clone(&horizons)));
        let db = DB::open(&options, path).map_err(|error| fault(action(), path, error))?;
        stage::clear(path)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let staged_tables = options::staged_tables(&options);
        let store = Arc::new(Store { db, path: path.to_owned(), write_options, horizons, staged_tables });
        Ok(Arc::new(Self { store, stages: AtomicU64::new(0) }))
    }
}

impl Store {
    fn flush(&self) -> Result<(), Fault> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let told = self.horizons.flushing();
        self.db.flush_opt(&options).map_err(|error| self.fault("flushing the memtables", error))?;
        self.horizons.flushed(told);
        Ok(())
    }

    fn fault(&self, action: &str, error: rocksdb::Error) -> Fault {
        fault(format!("{action} in {}", self.path.display()), &self.path, error)
    }

    fn property(&self, name: &str) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }
}

/// RocksDB would make a new, empty database beside tables whose head file `CURRENT` is gone: data loss without a word.
#[allow(clippy::disallowed_methods, reason = "this file is the seam to the disk for the state machine")]
fn refuse_headless(path: &Path) -> Result<(), Fault> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fault::io(format!("reading the directory {}", path.display()), error)),
    };
    let mut tables = false;
    for entry in entries {
        let entry = entry.map_err(|error| Fault::io(format!("reading the directory {}", path.display()), error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "CURRENT" {
            return Ok(());
        }
        tables |= name.ends_with(".sst") || name.starts_with("MANIFEST-");
    }
    if !tables {
        return Ok(());
    }
    let place = path.join("CURRENT").display().to_string();
    Err(Fault::corrupt(
        place,
        "the file is missing beside existing tables; restore the directory, or remove it and rejoin as a new node",
    ))
}

impl Engine for RocksEngine {
    fn write(&self, batch: &Batch) -> Result<(), Fault> {
        // Room for RocksDB's own framing of each change, so that the buffer grows once.
        let mut rocks = WriteBatch::with_capacity_bytes(batch.size_bytes() + 16 * batch.len() + 16);
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => rocks.put(key, value),
                Change::Delete { key } => rocks.delete(key),
            }
        }
        self.store.db.write_opt(rocks, &self.store.write_options).map_err(|error| self.store.fault("writing a batch", error))
    }

    fn flush(&self) -> Result<(), Fault> {
        self.store.flush()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let value = self.store.db.get_pinned(key).map_err(|error| self.store.fault("reading a key", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let mut options = ReadOptions::default();
        let part = schema::data_prefix(from);
        if part.is_some() && part == schema::data_prefix(to) {
            // The filter answers for absent keys, and the iterator stops at the end of the key part by itself.
            options.set_prefix_same_as_start(true);
        } else {
            options.set_total_order_seek(true);
            if !to.is_empty() {
                options.set_iterate_upper_bound(to);
            }
        }
        let mut cursor = self.store.db.raw_iterator_opt(options);
        cursor.seek(from);
        match cursor.item() {
            Some((key, value)) if to.is_empty() || key < to => {
                Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))))
            }
            Some(_) => Ok(None),
            None => cursor.status().map(|()| None).map_err(|error| self.store.fault("seeking a key", error)),
        }
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        let rows = self.store.db.raw_iterator_opt(view::between(from, to));
        Ok(Box::new(RocksCursor::new(&self.store.path, rows)))
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(RocksView::new(Arc::clone(&self.store)))
    }

    fn stage(&self) -> Result<Box<dyn Stage>, Fault> {
        let number = self.stages.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(RocksStage::new(Arc::clone(&self.store), number)?))
    }

    fn horizons(&self) -> &Horizons {
        &self.store.horizons
    }

    fn parts(&self, from: &[u8], to: &[u8], part_bytes: u64) -> Result<Vec<Part>, Fault> {
        let files = self.store.db.live_files().map_err(|error| self.store.fault("listing the tables", error))?;
        let inside = |start: &Vec<u8>, end: &Vec<u8>| end.as_slice() >= from && (to.is_empty() || start.as_slice() < to);
        let bounds = files.into_iter().filter_map(|file| Some((file.start_key?, file.end_key?, file.size as u64)));
        let mut files: Vec<_> =
            bounds.filter(|(start, end, _)| inside(start, end)).map(|(start, _, bytes)| (start, bytes)).collect();
        files.sort_unstable();
        Ok(garbage::cut(from, to, &files, part_bytes))
    }

    fn sample(&self, from: &[u8], to: &[u8], records_max: usize) -> Result<Sample, Fault> {
        let mut options = view::between(from, to);
        options.fill_cache(false);
        let mut cursor = RocksCursor::new(&self.store.path, self.store.db.raw_iterator_opt(options));
        Sample::take(&mut cursor, from, &mut self.store.horizons.sieve(), records_max)
    }

    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.flush()?;
        let mut options = CompactOptions::default();
        // The last level too: most of what was overwritten lies there. And never in the way of the compactions that writers wait for.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        let bound = |key: &[u8]| (!key.is_empty()).then(|| key.to_vec());
        self.store.db.compact_range_opt(bound(from), bound(to), &options);
        self.store.horizons.sweep(self)
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            records_estimate: self.store.property("rocksdb.estimate-num-keys"),
            data_bytes: self.store.property("rocksdb.total-sst-files-size"),
            unflushed_bytes: self.store.property("rocksdb.cur-size-all-mem-tables"),
            compaction_debt_bytes: self.store.property("rocksdb.estimate-pending-compaction-bytes"),
            stalled: self.store.property("rocksdb.is-write-stopped") > 0
                || self.store.property("rocksdb.actual-delayed-write-rate") > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::errors::kind_of;
    use super::options::{has_key_part, key_part};
    use super::*;

    #[test]
    fn messages_name_the_kind_of_error() {
        let kinds = [
            (
                "IO error: No space left on device: While appending to file: x/000012.sst: No space left on device",
                io::ErrorKind::StorageFull,
            ),
            ("IO error: While lock file: x/LOCK: Resource temporarily unavailable", io::ErrorKind::ResourceBusy),
            (
                "IO error: lock hold by current process, acquire time 1 acquiring thread 2: x/LOCK: No locks available",
                io::ErrorKind::ResourceBusy,
            ),
            ("IO error: While mkdir if missing: x: Permission denied", io::ErrorKind::PermissionDenied),
            (
                "IO error: No such file or directory: While open a file for random read: x/1.sst: No such file or directory",
                io::ErrorKind::NotFound,
            ),
            ("IO error: While fsync: x: Read-only file system", io::ErrorKind::ReadOnlyFilesystem),
            ("IO error: While fsync: x: Input/output error", io::ErrorKind::Other),
        ];
        for (message, kind) in kinds {
            assert_eq!(kind_of(message), kind, "{message}");
        }
    }

    #[test]
    fn the_key_part_is_total() {
        for key in [&b""[..], b"\x10", b"\x10\0\0\0\x01", b"\x10\0\0\0\x01\0", b"\x10\0\0\0\x01\0\x01", b"\x01abc"] {
            assert!(!has_key_part(key));
            assert_eq!(key_part(key), key);
        }
        let key = schema::Key::Data { key: b"\0\0\0\x01a", version: kontiki_types::Version(1) }.encode();
        assert!(has_key_part(&key));
        assert_eq!(key_part(&key), &key[..key.len() - schema::VERSION_BYTES]);
    }

    /// What makes a point read cheap: the filter knows the key part, whatever version is asked.
    #[test]
    fn a_read_of_an_absent_key_stops_at_the_filter() {
        use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
        let dir = tempfile::tempdir().expect("a directory");
        let engine = RocksEngine::open(dir.path(), RocksOptions::default()).expect("opens");
        let key = |number: u64, version: u64| {
            schema::Key::Data { key: format!("\0\0\0\x01key{number:06}"), version: kontiki_types::Version(version) }.encode()
        };
        let mut batch = Batch::new();
        (0..2000).for_each(|number| batch.put(&key(2 * number, 5), b"value"));
        engine.write(&batch).expect("writes");
        engine.flush().expect("flushes");
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut perf = PerfContext::default();
        perf.reset();
        let found = |number| engine.first(&key(number, 9), &key(number, 0)).expect("reads").is_some();
        assert!((0..2000).all(|number| !found(2 * number + 1)));
        let stopped = perf.metric(PerfMetric::BloomSstMissCount);
        assert!((1950..=2000).contains(&stopped), "{stopped} of 2000 reads stopped at the filter");
        perf.reset();
        assert!((0..2000).all(|number| found(2 * number)));
        assert_eq!(perf.metric(PerfMetric::BloomSstMissCount), 0);
        set_perf_stats(PerfStatsLevel::Disable);
    }
}
