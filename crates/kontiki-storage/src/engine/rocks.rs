//! The engine on disk: RocksDB, with one column family and no write-ahead log. The only file that names RocksDB (DESIGN law 4).
//!
//! - *One column family*, because without a log only a single family comes back from a crash as one prefix of its writes
//!   (measured: with the applied position in a family of its own, 120 of 120 recoveries after `kill -9` disagreed with the data).
//! - *No write-ahead log*: the Raft log is the log. [`RocksEngine::flush`] is the barrier behind which that log may be purged.
//! - *A filter on the key part*: every version of a key shares one entry of the bloom filter, so that a point read at a version
//!   touches one data block, and a read of an absent key mostly none.
//!
//! Errors become faults: a full disk is told apart, and what RocksDB calls corruption is `Fault::Corrupt`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::Fault;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind, FlushOptions, Options, ReadOptions,
    SliceTransform, WriteBatch, WriteOptions,
};

use super::{Batch, Change, Cursor, Engine, EngineStats};
use crate::schema;

/// Options of the engine on disk. All are about memory and speed; none changes what is stored or promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of the block cache, which also holds indexes and filters. Default 128 MiB.
    pub block_cache_bytes: usize,
    /// Bytes of one memtable; a full one is flushed in the background. Default 64 MiB.
    pub memtable_bytes: usize,
    /// Memtables that may exist at once, the active one included; beyond it writers wait. Default 3.
    pub memtables_max: u32,
    /// Threads for flush and compaction. Default 2.
    pub background_jobs_max: u32,
    /// Table files held open. Default 1024; a process often has no more than a few thousand descriptors.
    pub open_files_max: u32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 * 1024 * 1024,
            memtable_bytes: 64 * 1024 * 1024,
            memtables_max: 3,
            background_jobs_max: 2,
            open_files_max: 1024,
        }
    }
}

/// Bits of the bloom filter per key: about 1 % false positives.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Bytes of a data block: half the index of RocksDB's default, still one read of the device.
const BLOCK_BYTES: usize = 8 * 1024;
/// RocksDB's own text log: a few MiB at most.
const LOG_FILES_MAX: usize = 4;
const LOG_FILE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// See the module.
pub struct RocksEngine {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RocksEngine {
    /// Opens the engine in a directory of its own, and creates it if the directory is empty or missing. A directory that is in use
    /// by another process, unreadable, or damaged gives a fault.
    pub fn open(path: &Path, options: RocksOptions) -> Result<Arc<Self>, Fault> {
        refuse_headless(path)?;
        let action = || format!("opening the data in {}", path.display());
        let options = rocks_options(&options).map_err(|error| fault(action(), path, error))?;
        let db = DB::open(&options, path).map_err(|error| fault(action(), path, error))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        Ok(Arc::new(Self { db, path: path.to_owned(), write_options }))
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

fn rocks_options(options: &RocksOptions) -> Result<Options, rocksdb::Error> {
    // No setter exists for this one. It makes a dropped engine lose exactly what was not flushed, like a power cut, so that no
    // test and no user can come to rely on a clean shutdown. It must come first: it does not carry over caches.
    let mut rocks = Options::default().get_options_from_string("avoid_flush_during_shutdown=true")?;
    rocks.create_if_missing(true);
    rocks.set_prefix_extractor(SliceTransform::create("kontiki.key", key_part, Some(has_key_part)));
    rocks.set_block_based_table_factory(&table_options(options));
    rocks.set_write_buffer_size(options.memtable_bytes);
    rocks.set_max_write_buffer_number(int(options.memtables_max.max(2)));
    rocks.set_max_background_jobs(int(options.background_jobs_max.max(2)));
    rocks.set_max_open_files(int(options.open_files_max.max(64)));
    // Upper levels are rewritten often: cheap compression. The last level holds nine tenths of the data: dense compression.
    rocks.set_compression_type(DBCompressionType::Lz4);
    rocks.set_bottommost_compression_type(DBCompressionType::Zstd);
    rocks.set_level_compaction_dynamic_level_bytes(true);
    // Smooths the writes of flush and compaction, so that one of them does not fill the device's queue at once.
    rocks.set_bytes_per_sync(1024 * 1024);
    rocks.set_keep_log_file_num(LOG_FILES_MAX);
    rocks.set_max_log_file_size(LOG_FILE_BYTES_MAX);
    rocks.set_stats_dump_period_sec(0);
    Ok(rocks)
}

fn table_options(options: &RocksOptions) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    table.set_block_size(BLOCK_BYTES);
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Only the key part: nobody asks for one version of a key by its exact number.
    table.set_whole_key_filtering(false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The key part of a data record; called by RocksDB for keys that `has_key_part` admits. Must not panic: it is called from C++.
fn key_part(key: &[u8]) -> &[u8] {
    schema::data_prefix(key).unwrap_or(key)
}

fn has_key_part(key: &[u8]) -> bool {
    schema::data_prefix(key).is_some()
}

/// What RocksDB's message says went wrong. Its errors are text: `kind: [sub-kind:] detail`.
fn fault(action: String, path: &Path, error: rocksdb::Error) -> Fault {
    let rocks_kind = error.kind();
    let message = error.into_string();
    if rocks_kind == ErrorKind::Corruption {
        return Fault::corrupt(path.display().to_string(), message);
    }
    Fault::io(action, io::Error::new(kind_of(&message), message))
}

/// The operating system's error inside a message of RocksDB's.
fn kind_of(message: &str) -> io::ErrorKind {
    if message.contains("No space left") || message.contains("Space limit reached") {
        io::ErrorKind::StorageFull
    } else if message.contains("Permission denied") {
        io::ErrorKind::PermissionDenied
    } else if message.contains("lock ") || message.contains("LOCK") {
        io::ErrorKind::ResourceBusy
    } else if message.contains("No such file") {
        io::ErrorKind::NotFound
    } else if message.contains("Read-only file system") {
        io::ErrorKind::ReadOnlyFilesystem
    } else {
        io::ErrorKind::Other
    }
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
        self.db.write_opt(rocks, &self.write_options).map_err(|error| self.fault("writing a batch", error))
    }

    fn flush(&self) -> Result<(), Fault> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(|error| self.fault("flushing the memtables", error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let value = self.db.get_pinned(key).map_err(|error| self.fault("reading a key", error))?;
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
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(from);
        match cursor.item() {
            Some((key, value)) if to.is_empty() || key < to => {
                Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))))
            }
            Some(_) => Ok(None),
            None => cursor.status().map(|()| None).map_err(|error| self.fault("seeking a key", error)),
        }
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        if !from.is_empty() {
            options.set_iterate_lower_bound(from);
        }
        if !to.is_empty() {
            options.set_iterate_upper_bound(to);
        }
        Ok(Box::new(RocksCursor { engine: self, rows: self.db.raw_iterator_opt(options) }))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            records_estimate: self.property("rocksdb.estimate-num-keys"),
            data_bytes: self.property("rocksdb.total-sst-files-size"),
            unflushed_bytes: self.property("rocksdb.cur-size-all-mem-tables"),
            compaction_debt_bytes: self.property("rocksdb.estimate-pending-compaction-bytes"),
            stalled: self.property("rocksdb.is-write-stopped") > 0 || self.property("rocksdb.actual-delayed-write-rate") > 0,
        }
    }
}

/// A cursor on RocksDB's view of the moment it was made.
struct RocksCursor<'a> {
    engine: &'a RocksEngine,
    rows: DBRawIterator<'a>,
}

impl RocksCursor<'_> {
    /// An iterator that is nowhere is at an end, or has failed.
    fn check(&self) -> Result<(), Fault> {
        if self.rows.valid() {
            return Ok(());
        }
        self.rows.status().map_err(|error| self.engine.fault("moving a cursor", error))
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.rows.seek(key);
        self.check()
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.rows.seek_for_prev(key);
        self.check()
    }

    fn next(&mut self) -> Result<(), Fault> {
        if self.rows.valid() {
            self.rows.next();
        }
        self.check()
    }

    fn prev(&mut self) -> Result<(), Fault> {
        if self.rows.valid() {
            self.rows.prev();
        }
        self.check()
    }

    fn valid(&self) -> bool {
        self.rows.valid()
    }

    fn key(&self) -> &[u8] {
        self.rows.key().unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.rows.value().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
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
