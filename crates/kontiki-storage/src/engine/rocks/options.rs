//! How RocksDB is set up: what may be chosen, and what follows from how keys and durability are laid out.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options, SliceTransform};

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

/// What a database is opened with.
pub(super) fn database(options: &RocksOptions) -> Result<Options, rocksdb::Error> {
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

/// What table files are made with that are written outside of the database and then taken in by it. Cheap compression throughout: they are
/// written while a replica is caught up, and compaction writes them anew in its own time.
pub(super) fn staged_tables(database: &Options) -> Options {
    let mut options = database.clone();
    options.set_bottommost_compression_type(DBCompressionType::Lz4);
    options
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
pub(super) fn key_part(key: &[u8]) -> &[u8] {
    schema::data_prefix(key).unwrap_or(key)
}

pub(super) fn has_key_part(key: &[u8]) -> bool {
    schema::data_prefix(key).is_some()
}
