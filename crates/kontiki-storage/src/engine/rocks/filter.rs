//! The sieve of `horizons` as RocksDB's compaction filter. Called from C++ for every record that a compaction writes: it must not panic.
//!
//! One filter sees the keys of one compaction in order. Subcompactions would split the versions of a key between two filters, each of which would
//! then keep a little more than it must: they are off by default.

use std::ffi::CStr;
use std::sync::Arc;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::engine::horizons::{Horizons, Sieve};

const NAME: &CStr = c"kontiki.horizons";

/// Makes a filter for each compaction.
pub(super) struct Filters(pub(super) Arc<Horizons>);

/// The filter of one compaction.
pub(super) struct Filter(Sieve);

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        Filter(self.0.sieve())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.0.drops(key, value) { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
